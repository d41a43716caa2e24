"""Raw messages, for `explain`: recorded beside their events where these do not give them back, and bounded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog

from eventhost.errors import BusClosed
from eventhost.event import EnvEvent
from eventhost.journal import Change, Journal, Trace
from eventhost.message import Message, given_back

log = structlog.get_logger()

MOST_BYTES: Final = 4_096
"""So much of a message is kept, as JSON text."""

_MOST_ENVELOPE_BYTES: Final = 512

RULE: Final = ""
"""Raw messages are traces: of no rule."""

Record = Callable[[Sequence[tuple[int, Message]]], Awaitable[None]]
"""Takes the messages of events that are accepted, each with the event's number; see `record`."""

# Who publishes in this process may say what is not JSON.
_encode = msgspec.json.Encoder(enc_hook=repr).encode


@dataclass(frozen=True, slots=True)
class Raw:
    """What a source said of an event."""

    message: Any
    """The event in its words; if that was cut, the beginning of its JSON text."""
    recorded: bool
    """Whether it was recorded when it came; otherwise it is what the event gives back."""
    cut: bool = False
    envelope: Any = None
    """What came around it, where that was worth recording; cut as `message` is if it was long."""
    made: Sequence[str] = ()
    """Which of `id` and `timestamp` the source did not say."""

    def to_json(self) -> dict[str, Any]:
        value = {"message": self.message, "recorded": self.recorded, "cut": self.cut}
        return {**value, "envelope": self.envelope} if self.envelope else value


class _Record(msgspec.Struct, omit_defaults=True):
    message: Any
    cut: bool = False
    envelope: Any = None
    made: Sequence[str] = ()


_decode = msgspec.json.Decoder(_Record).decode


async def record(journal: Journal, messages: Sequence[tuple[int, Message]]) -> None:
    """Keep these messages for as long as their events are held; returns once they are as durable as those.

    When the host is stopping nothing is kept: their events are accepted all the same.
    """
    try:
        await journal.save(Change(traces=[Trace(seq, RULE, _body(message)) for seq, message in messages]))
    except BusClosed as error:
        log.warning("messages_not_recorded", first=messages[0][0], count=len(messages), error=str(error))


def raw_of(event: EnvEvent, trace: Trace | None) -> Raw:
    """What a source said of `event`; `trace` is what was recorded of that, if anything was."""
    if trace is None:
        message = given_back(event)
        return Raw(dict(message.said), False, made=message.made)
    told = _decode(trace.body)
    return Raw(told.message, True, told.cut, told.envelope, told.made)


def _body(message: Message) -> bytes:
    said, cut = _bounded(message.said, MOST_BYTES)
    envelope = _bounded(message.envelope, _MOST_ENVELOPE_BYTES)[0] if message.envelope else None
    return _encode(_Record(said, cut, envelope, message.made))


def _bounded(value: Mapping[str, Any], most_bytes: int) -> tuple[Any, bool]:
    """`value`, or the beginning of its JSON text, and that it is cut."""
    try:
        text = _encode(value)
    except (TypeError, ValueError, RecursionError):
        return "", True
    return (msgspec.Raw(text), False) if len(text) <= most_bytes else (text[:most_bytes].decode(errors="ignore"), True)
