"""Dead letters as they are told to people and programs: what failed, why, and of which event."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import msgspec

from eventhost.errors import NotFound
from eventhost.event import event_name
from eventhost.journal import DeadLetter
from eventhost.rules.trace import entries_of


def in_short(letter: DeadLetter, retrying: Container[int] = ()) -> dict[str, Any]:
    """A dead letter in a list; `event` (`source_name:id`) and `type` are those of its last event."""
    entries = entries_of(letter)
    said = msgspec.structs.asdict(letter)
    del said["entries"]
    event = entries[-1].event if entries else None
    return {
        "id": said.pop("id"),
        **said,
        "event": event_name(event) if event is not None else "",
        "type": event.type if event is not None else "",
        "events": len(entries),
        "retrying": letter.id in retrying,
    }


def in_full(letter: DeadLetter, retrying: Container[int] = ()) -> dict[str, Any]:
    """A dead letter with all its events, oldest first: each `{seq, at_ms, event}`."""
    return {**in_short(letter, retrying), "entries": msgspec.to_builtins(entries_of(letter))}


def only(found: Sequence[DeadLetter], number: int) -> DeadLetter:
    """The dead letter that was looked for, of those from `number` on.

    Raises:
        NotFound: it is not among them.
    """
    if not found or found[0].id != number:
        raise NotFound(
            f"there is no dead letter {number}: it was retried or discarded, or never was; "
            "`eventhost dead-letter list` shows what there is"
        )
    return found[0]
