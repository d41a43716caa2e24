"""What a message becomes as an event. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from options import Connection, Stream
from subjects import GAP, Wanted, type_of

from eventhost.kit import Event
from eventhost.kit.payload import payload_of


@dataclass(frozen=True, slots=True)
class Message:
    """What came of a message; a field that it does not have is empty."""

    subject: str
    data: bytes
    reply: str = ""
    headers: Mapping[str, str] | None = None

    @property
    def size_bytes(self) -> int:
        """About as much memory as it takes."""
        return len(self.data) + sum(len(key) + len(text) for key, text in (self.headers or {}).items()) + 512


@dataclass(frozen=True, slots=True)
class Delivery:
    """What JetStream says of a message that it delivers."""

    seq: int
    """Its number in the stream."""
    consumer_seq: int
    """How many deliveries the consumer has made with this one."""
    count: int
    """How often this message was delivered, with this time."""
    time_ns: int
    """When it was stored, since the epoch."""
    pending: int
    """How many more the consumer has to deliver."""

    @property
    def timestamp(self) -> int:
        """When it was stored, in milliseconds since the epoch."""
        return self.time_ns // 1_000_000


def delivery_of(reply: str) -> Delivery:
    """Read the subject to which an acknowledgement goes: `$JS.ACK.…`, of servers old and new.

    Raises:
        ValueError: it is none.
    """
    tokens = reply.split(".")
    # Since 2.4 domain and account stand before the stream, and something random at the end.
    skip = {9: 4}.get(len(tokens), 6 if len(tokens) >= 11 else 0)
    if not skip or tokens[:2] != ["$JS", "ACK"]:
        raise ValueError(f"{reply!r} is no subject of an acknowledgement")
    count, seq, consumer_seq, time_ns, pending = map(int, tokens[skip : skip + 5])
    return Delivery(seq, consumer_seq, count, time_ns, pending)


def event_of_subject(connection: Connection, wanted: Wanted, message: Message) -> Event:
    """The event of a message that came to a subject; its id and its time are the host's affair."""
    return Event(
        wanted.type_of(message.subject) or wanted.type,
        payload_of(message.data),
        metadata=_metadata(connection, message, {"reply": message.reply} if message.reply else {}),
    )


def event_of_stream(connection: Connection, stream: Stream, epoch: str, message: Message, delivery: Delivery) -> Event:
    """The event of a message out of a stream; `epoch` is what tells this stream from others that had its name."""
    more = {"stream": stream.stream, "seq": delivery.seq}
    return Event(
        type_of(stream.wanted, message.subject, stream.stream),
        payload_of(message.data),
        id=f"{connection.name}:{stream.stream}:{epoch}:{delivery.seq}",
        timestamp=delivery.timestamp,
        metadata=_metadata(connection, message, more),
    )


def gap_of_subjects(connection: Connection, reason: str, after: str, until: str, messages: int | None = None) -> Event:
    """That what came to the subjects between two times was missed."""
    payload: dict[str, Any] = {
        "connection": connection.name,
        "subjects": [wanted.pattern for wanted in connection.subjects],
        "reason": reason,
        **({} if messages is None else {"messages": messages}),
        "after": {"time": after},
        "until": {"time": until},
    }
    return Event(GAP, payload, id=f"{connection.name}:gap:{reason}:{after}:{until}")


def _metadata(connection: Connection, message: Message, more: Mapping[str, Any]) -> dict[str, Any]:
    headers = {"headers": dict(message.headers)} if message.headers else {}
    return {"connection": connection.name, "subject": message.subject, **more, **headers}
