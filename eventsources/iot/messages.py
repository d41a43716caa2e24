"""What a message becomes: an event for each topic of the configuration that takes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from topics import Topic, matched, type_of

from eventhost.kit.event import Event
from eventhost.kit.payload import in_base64, payload_of


@dataclass(frozen=True, slots=True)
class Message:
    """A message as the broker sends it; `number` is the packet's, which is 0 at QoS 0."""

    topic: str
    payload: bytes
    qos: int = 0
    number: int = 0
    retained: bool = False
    duplicate: bool = False
    """Whether the broker has sent it before; nobody knows whether it arrived."""
    subscriptions: tuple[int, ...] = ()
    """The identifiers of the subscriptions for which it comes, where the broker tells them."""
    content_type: str | None = None
    user_properties: tuple[tuple[str, str], ...] = ()
    response_topic: str | None = None
    correlation_data: bytes | None = None
    expiry_s: int | None = None
    """How long it still has."""


def takers(message: Message, topics: Iterable[Topic]) -> list[Topic]:
    """The topics that take this message."""
    return [topic for topic in topics if matched(topic.filter, message.topic) is not None]


def varying(message: Message) -> dict[str, Any]:
    """The metadata that may be other when the broker sends the message again."""
    varies: dict[str, Any] = {}
    if message.duplicate:
        varies["duplicate"] = True
    if message.expiry_s is not None:
        varies["message_expiry_s"] = message.expiry_s
    return varies


def events(
    message: Message, broker: str, topics: Sequence[Topic], event_id: str | None, varies: Mapping[str, Any]
) -> list[Event]:
    """One event for each of `topics`, all of which take the message.

    `event_id` is the id to give where the message has none of its own; None leaves it to whoever emits.
    """
    told: list[Event] = []
    for topic in topics:
        if message.retained and not topic.retained:
            continue
        stands_for = matched(topic.filter, message.topic) or []
        event = Event(
            type_of(topic.type, broker, message.topic, stands_for),
            _payload(message, topic.payload),
            metadata=_metadata(message, broker, topic, stands_for),
        )
        own = _value_at(topic.id, event)
        if own is None:
            base = event_id
            event = event._replace(metadata={**(event.metadata or {}), **varies})
        else:
            # What varies would make the message, sent again, another event of the same id.
            base = f"{broker}:{message.topic}:{own}"
        # Several events of one message need ids of their own.
        nth = base if base is None or not told else f"{base}:{len(told) + 1}"
        told.append(event._replace(id=nth))
    return told


def _payload(message: Message, how: str) -> dict[str, Any]:
    kind = (message.content_type or "").partition(";")[0].strip().lower()
    if how == "base64" or (how == "auto" and kind == "application/octet-stream"):
        return in_base64(message.payload)
    if how == "text" or (how == "auto" and kind.startswith("text/")):
        try:
            return {"value": message.payload.decode()}
        except UnicodeDecodeError:
            return in_base64(message.payload)
    return payload_of(message.payload)


def _metadata(message: Message, broker: str, topic: Topic, stands_for: list[str]) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "broker": broker,
        "topic": message.topic,
        "filter": topic.filter,
        "wildcards": stands_for,
        "qos": message.qos,
        "retained": message.retained,
    }
    if message.content_type is not None:
        metadata["content_type"] = message.content_type
    if message.user_properties:
        gathered: dict[str, list[str]] = {}
        for name, value in message.user_properties:
            gathered.setdefault(name, []).append(value)
        metadata["user_properties"] = {
            name: values[0] if len(values) == 1 else values for name, values in gathered.items()
        }
    if message.response_topic is not None:
        metadata["response_topic"] = message.response_topic
    if message.correlation_data is not None:
        metadata["correlation_data"] = in_base64(message.correlation_data)["base64"]
    return metadata


def _value_at(path: Sequence[str], event: Event) -> str | None:
    value: Any = {"payload": event.payload, "metadata": event.metadata} if path else None
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) and value != "" else None
