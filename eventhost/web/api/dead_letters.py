"""Dead letters: runs that were given up, to be looked at, done once more, or forgotten."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from eventhost.access import Access
from eventhost.journal import DeadLetter
from eventhost.rules.letters import Handled, Refused, Several, in_full, in_short
from eventhost.web.endpoint import get, post

if TYPE_CHECKING:
    from eventhost.environment import ServerEnvironment

MAX_LETTERS = 1_000


class LettersWanted(msgspec.Struct, frozen=True):
    """`after` is a dead letter's id: those that follow it."""

    rule: str | None = None
    after: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LETTERS)] = 100


class LetterShown(msgspec.Struct, frozen=True):
    """A run that was given up at `at_ms`; `event` (`source_name:id`) and `type` are those of the last of its `events`.

    `action` failed at its `place` in `do`; with `retrying` it is being tried once more.
    """

    id: int
    rule: str
    seq: int
    at_ms: int
    action: str
    place: str
    attempts: int
    error: str
    event: str
    type: str
    events: int
    retrying: bool


class LetterEntry(msgspec.Struct, frozen=True):
    seq: int
    at_ms: int
    event: dict[str, Any]


class LetterInFull(LetterShown, frozen=True, kw_only=True):
    """With its events, oldest first."""

    entries: list[LetterEntry]


class LetterList(msgspec.Struct, frozen=True):
    """Oldest first; `cursor` is the next `after`."""

    dead_letters: list[LetterShown]
    cursor: int


class LettersHandled(msgspec.Struct, frozen=True):
    """To which dead letters it was done; `left` are the ids of those that were not come to in time.

    `more`: the rule has others besides, or there are others; what fails anew is among them in the end.
    """

    dead_letters: list[LetterShown]
    refused: list[Refused]
    left: list[int]
    more: bool


LettersMeant = Annotated[
    Several,
    msgspec.Meta(
        extra_json_schema={
            "anyOf": [{"properties": {"rule": {"type": "null"}}}, {"properties": {"ids": {"type": "null"}}}]
        }
    ),
]
"""Either `rule` or `ids`, or neither."""


class DeadLetters:
    """The dead letters."""

    def __init__(self, environment: ServerEnvironment) -> None:
        self._environment = environment

    @get("/dead-letters", Access.READ)
    async def all(self, query: LettersWanted) -> LetterList:
        """Dead letters, oldest first, without their events."""
        environment = self._environment
        letters = await environment.dead_letters(query.rule, after=query.after, limit=query.limit)
        retrying = environment.retrying()
        return LetterList([_short(each, retrying) for each in letters], letters[-1].id if letters else query.after)

    @get("/dead-letters/{number:int}", Access.READ)
    async def one(self, number: int) -> LetterInFull:
        """One dead letter, with its events."""
        letter = in_full(await self._environment.dead_letter(number), self._environment.retrying())
        return msgspec.convert(letter, LetterInFull)

    @post("/dead-letters/{number:int}/retry", Access.ADMIN, status=202, errors=(409,))
    async def retry(self, number: int) -> LetterShown:
        """Do a dead letter's run once more; answered when that has begun, or waits for its turn."""
        letter = await self._environment.retry_dead_letter(number)
        return _short(letter, self._environment.retrying())

    @post("/dead-letters/{number:int}/discard", Access.ADMIN)
    async def discard(self, number: int) -> LetterShown:
        """Forget a dead letter."""
        letter = await self._environment.discard_dead_letter(number)
        return _short(letter, self._environment.retrying())

    @post("/dead-letters/retry", Access.ADMIN, status=202)
    async def retry_several(self, body: LettersMeant) -> LettersHandled:
        """Do the runs of several dead letters once more; answered when they have begun or wait, or after 20 s."""
        return _handled(await self._environment.retry_dead_letters(body))

    @post("/dead-letters/discard", Access.ADMIN)
    async def discard_several(self, body: LettersMeant) -> LettersHandled:
        """Forget several dead letters."""
        return _handled(await self._environment.discard_dead_letters(body))


def _short(letter: DeadLetter, retrying: Container[int]) -> LetterShown:
    return msgspec.convert(in_short(letter, retrying), LetterShown)


def _handled(handled: Handled) -> LettersHandled:
    return msgspec.convert(handled, LettersHandled, from_attributes=True)
