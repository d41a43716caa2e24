"""What is kept of a session with a broker, so that neither a kill nor a lost connection loses or doubles a message.

message ─► id given, and kept ─► events accepted ─► forgotten, on the disk ─► acknowledged
                │
                └─ killed here: the broker sends it again, and it gets the same id

A packet's number belongs to one message until it is acknowledged. So a message that comes again under a number that has
an id is the same message for sure. It is forgotten before it is acknowledged: a kill between the two makes a double,
the other way round it could lose the next message of that number.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any, Final, Protocol
from uuid import uuid4

from messages import Message, events, takers, varying
from options import Broker
from topics import GAP, Subscription, Topic, subscriptions

from eventhost.kit.event import Event
from eventhost.kit.ids import uuid7

SESSION_LOST: Final = "session_lost"
NOT_CONNECTED: Final = "not_connected"


class Step(Enum):
    """What is said to the broker of a message; the names are MQTT's."""

    PUBACK = auto()
    PUBREC = auto()
    PUBCOMP = auto()


Receipt = tuple[int, Step]
"""A packet's number, and what to say of it."""


class Mark(Protocol):
    """Where it is kept: a bookmark."""

    content: dict[str, Any]

    def save(self, content: dict[str, Any]) -> None: ...


class Session:
    """The session with one broker, as this side knows it.

    Of each connection: `begin`, `subscribed` for what was granted, `complete`; then, as messages come, `take`,
    `accepted`, `released` and `receipts`; at last `disconnected`.
    """

    def __init__(self, broker: Broker, mark: Mark, new_id: Callable[[], str] = uuid7) -> None:
        self._broker, self._mark, self._new_id = broker, mark, new_id
        self._kept: dict[str, Any] = json.loads(json.dumps(mark.content))
        self._plan = subscriptions(broker.topics)
        self._bearers = {topic: wanted.filter for wanted, topics in self._plan.items() for topic in topics}
        self._due: list[Receipt] = []
        self._ready: list[Receipt] = []
        self._dirty = False
        known = self._kept.get("client")
        wanted = broker.client_id or (known if self._kept.get("derived") else None)
        if wanted is None:
            # 23 letters and digits are what each broker must take.
            wanted = f"eventhost{uuid4().hex[:14]}"
        if wanted != known:
            # What another client was told says nothing about this one.
            self._kept.update(client=wanted, derived=broker.client_id is None, subscriptions={}, given={})

    @property
    def client_id(self) -> str:
        """As whom to connect; stays what it is, for a session is the client's."""
        return str(self._kept["client"])

    @property
    def is_subscribed(self) -> bool:
        """Whether the broker sends anything at all."""
        return bool(self._subscribed)

    @property
    def _given(self) -> dict[str, dict[str, Any]]:
        given: dict[str, dict[str, Any]] = self._kept.setdefault("given", {})
        return given

    @property
    def _subscribed(self) -> dict[str, dict[str, Any]]:
        """By filter: `number`, the identifier; `asked` and `granted`, qualities of service; `fleeting`, see `take`."""
        subscribed: dict[str, dict[str, Any]] = self._kept.setdefault("subscriptions", {})
        return subscribed

    def begin(self, *, present: bool) -> tuple[dict[Subscription, int], list[str]]:
        """The broker has, or has not, kept the session; return what to subscribe to, with identifiers, and what not.

        What was missed is on the disk from here on, for the broker will say so only once.
        """
        heard = self._kept.get("heard")
        before = self._subscribed
        if heard is not None:
            fleeting = [name for name, one in before.items() if one["granted"] == 0 or one.get("fleeting")]
            if not present:
                self._miss(SESSION_LOST, heard, list(before) or [topic.filter for topic in self._broker.topics])
            elif fleeting:
                self._miss(NOT_CONNECTED, heard, fleeting)
        if not present:
            self._kept["subscriptions"] = {}
            self._kept["given"] = {}
        self._save()
        kept = self._subscribed
        ask = {}
        for wanted in self._plan:
            one = kept.get(wanted.filter)
            if one is None or one["asked"] != [wanted.qos, wanted.retained]:
                ask[wanted] = one["number"] if one else self._number()
        return ask, [name for name in kept if name not in {wanted.filter for wanted in self._plan}]

    def subscribed(self, subscription: Subscription, number: int, granted: int) -> None:
        """The broker has granted this quality of service."""
        self._subscribed[subscription.filter] = {
            "number": number,
            "asked": [subscription.qos, subscription.retained],
            "granted": granted,
        }

    def unsubscribed(self, topic_filter: str) -> None:
        """The broker sends nothing of this filter any more, or refuses to."""
        self._subscribed.pop(topic_filter, None)

    def complete(self, now: str) -> Event | None:
        """All is asked for; return the event that tells what was missed, to be emitted before `gap_told`."""
        gap = self._kept.get("gap")
        if gap is not None:
            gap["until"] = now
        self._kept["heard"] = now
        self._save()
        if gap is None:
            return None
        payload = {
            "broker": self._broker.name,
            "reason": gap["reason"],
            "topics": gap["topics"],
            "after": {"time": gap["after"]},
            "until": {"time": gap["until"]},
        }
        return Event(GAP, payload, id=f"{self._broker.name}:gap:{gap['after']}")

    def gap_told(self) -> None:
        """The host has accepted the gap."""
        del self._kept["gap"]
        self._save()

    def heard(self, time: str) -> None:
        """Nothing is missing up to `time`, in ISO 8601."""
        self._kept["heard"] = time
        self._save()

    def take(self, messages: Iterable[Message], heard: str) -> list[Event]:
        """Return the events of these messages; by then their ids are on the disk.

        A topic of which something comes at QoS 0, whatever was granted, is known as fleeting from then on: the broker
        keeps nothing of it for a client that is away.
        """
        self._forget()
        told: list[Event] = []
        for message in messages:
            taking = self._takers(message)
            if message.qos == 0:
                self._note_fleeting(taking)
                told += events(message, self._broker.name, taking, None, varying(message))
                continue
            given = self._given.get(str(message.number)) if message.duplicate else None
            if given is None:
                given = {"id": self._new_id(), "varies": varying(message)}
                self._given[str(message.number)] = given
                self._dirty = True
            told += events(message, self._broker.name, taking, given["id"], given["varies"])
        self._kept["heard"] = heard
        self._save_if_dirty()
        return told

    def accepted(self, messages: Iterable[Message]) -> None:
        """Their events are accepted."""
        self._due += [(one.number, Step.PUBACK if one.qos == 1 else Step.PUBREC) for one in messages if one.qos]

    def released(self, number: int) -> None:
        """The broker will not send this message of QoS 2 again."""
        self._due.append((number, Step.PUBCOMP))

    def receipts(self) -> list[Receipt]:
        """What is to be said to the broker now, in order; nothing on the disk contradicts it any more."""
        self._forget()
        self._save_if_dirty()
        ready, self._ready = self._ready, []
        return ready

    def disconnected(self, heard: str) -> None:
        """What the broker was not told, it will send again; so its id is kept."""
        self._due, self._ready = [], []
        if "heard" in self._kept:
            # Else there never was a connection on which anything could have been told.
            self.heard(heard)

    def _forget(self) -> None:
        for number, step in self._due:
            # At QoS 2 the number stays this message's until the broker has released it.
            if step is not Step.PUBREC:
                self._dirty |= self._given.pop(str(number), None) is not None
        self._ready += self._due
        self._due = []

    def _takers(self, message: Message) -> list[Topic]:
        """The topics that this copy of the message is for.

        Some brokers send a copy for each subscription, and say for which. Where they do not say, it is for all.
        """
        if message.subscriptions:
            numbers = {one["number"]: name for name, one in self._subscribed.items()}
            filters = {numbers.get(number) for number in message.subscriptions}
            if None not in filters:
                carried = [topic for topic in self._broker.topics if self._bearers[topic] in filters]
                if found := takers(message, carried):
                    return found
        return takers(message, self._broker.topics)

    def _note_fleeting(self, taking: Iterable[Topic]) -> None:
        for topic in taking:
            one = self._subscribed.get(self._bearers[topic])
            if one is not None and one["granted"] and not one.get("fleeting"):
                one["fleeting"] = self._dirty = True

    def _miss(self, reason: str, after: str, topics: list[str]) -> None:
        # One that was not told yet, for nobody accepted it, becomes one with this.
        before: Mapping[str, Any] = self._kept.get("gap") or {"reason": reason, "after": after, "topics": []}
        self._kept["gap"] = {
            "reason": SESSION_LOST if SESSION_LOST in (reason, before["reason"]) else reason,
            "after": before["after"],
            "topics": list(dict.fromkeys([*before["topics"], *topics])),
        }

    def _number(self) -> int:
        # Never one that was used before: messages that wait in the session may still bear it.
        self._kept["numbers"] = self._kept.get("numbers", 0) + 1
        return int(self._kept["numbers"])

    def _save_if_dirty(self) -> None:
        if self._dirty:
            self._save()

    def _save(self) -> None:
        self._mark.save(self._kept)
        self._dirty = False


def iso(time_s: float) -> str:
    """Seconds since the epoch as ISO 8601 in UTC."""
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
