"""Dead letters as they are told to people and programs: what failed, why, and of which event."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import anyio
import msgspec

from eventhost.errors import ConfigError, NotFound
from eventhost.event import event_name
from eventhost.journal import DeadLetter, Journal
from eventhost.rules.trace import entries_of

AT_ONCE: Final = 1_000
"""So many dead letters something is done to at once."""

WITHIN_S: Final = 20.0
"""Who has something done to many is answered after this long, however many are left."""

_PAGE: Final = 50
"""Letters that are read at once, each with its events."""

Ids = Annotated[list[Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]], msgspec.Meta(max_length=AT_ONCE)]


class Several(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which dead letters are meant: those with these `ids`, or the oldest of a `rule`, or, of neither, of all.

    1,000 at most.
    """

    rule: str | None = None
    ids: Ids | None = None

    def __post_init__(self) -> None:
        if self.rule is not None and self.ids is not None:
            raise ValueError("expected rule or ids, got both")

    async def numbers(self, journal: Journal) -> tuple[list[int], bool]:
        """The ids, as of now, and whether there are more."""
        if self.ids is not None:
            return list(dict.fromkeys(self.ids)), False
        found: list[int] = []
        while len(found) <= AT_ONCE:
            page = await journal.dead_letters(self.rule, found[-1] if found else 0, _PAGE)
            if not page:
                break
            found += [letter.id for letter in page]
        return found[:AT_ONCE], len(found) > AT_ONCE


class Refused(msgspec.Struct, frozen=True):
    """A dead letter that it could not be done to, and why."""

    id: int
    error: str


class Handled(msgspec.Struct, frozen=True):
    """To which dead letters it was done; `left` are the ids of those that were not come to in time.

    `more`: the rule has others besides, or there are others; what fails anew is among them in the end.
    """

    dead_letters: list[dict[str, Any]]
    refused: list[Refused]
    left: list[int]
    more: bool


async def handle(
    several: Several,
    journal: Journal,
    act: Callable[[int], Awaitable[DeadLetter]],
    retrying: Callable[[], Container[int]],
) -> Handled:
    """Do it to one dead letter after the other; what is refused stops none of the others."""
    numbers, more = await several.numbers(journal)
    done: list[dict[str, Any]] = []
    refused: list[Refused] = []
    with anyio.move_on_after(WITHIN_S):
        for number in numbers:
            try:
                done.append(in_short(await act(number)))
            except (NotFound, ConfigError) as error:
                refused.append(Refused(number, str(error)))
    now = retrying()
    for letter in done:
        letter["retrying"] = letter["id"] in now
    return Handled(done, refused, numbers[len(done) + len(refused) :], more)


@dataclass(slots=True)
class Room:
    """How much may become dead letters at once."""

    count: int = 10_000
    bytes: int = 64 * 1_048_576

    def take(self, size: int) -> bool:
        """Whether there is room for one of this size; there is less then."""
        if self.count < 1 or self.bytes < size:
            return False
        self.count -= 1
        self.bytes -= size
        return True


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
    return {**in_short(letter, retrying), "entries": msgspec.json.decode(letter.entries)}


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
