"""Keeps the journal within its limits: what no rule needs is trimmed, and what cannot be kept is said.

Beyond the hard cap the rules that hold on to the oldest events give up what they owe for them: as dead letters, so many
as may be, and the rest as a gap. Of the dead letters themselves the oldest go when there are too many.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import anyio
import structlog

from eventhost.errors import BusClosed
from eventhost.gaps import Gap, Reason
from eventhost.journal import Change, Journal, LettersHeld, LetterSize
from eventhost.journal.protocol import PAGE_BYTES
from eventhost.journal.retention import Held, Limits, decide, too_many
from eventhost.rules.engine import RuleEngine

log = structlog.get_logger()

EVERY_S: Final = 10.0

_LETTERS: Final = 500
"""So many dead letters, or `PAGE_BYTES` of them, are discarded in one commit."""


@dataclass(frozen=True, slots=True)
class LetterStatistics:
    """The dead letters, as they were a few seconds ago."""

    held: int = 0
    size_bytes: int = 0
    discarded: int = 0
    """How many had to go since the host started, since there were more than are kept."""


class Retention:
    """Looks every few seconds whether something has to go. `tell` is told of what was given up, or discarded."""

    def __init__(self, journal: Journal, engine: RuleEngine, limits: Limits, tell: Callable[[Gap], None]) -> None:
        self._journal, self._engine, self._limits, self._tell = journal, engine, limits, tell
        self.letters = LetterStatistics()

    async def keep(self) -> None:
        """Keep the journal within its limits until it is closed."""
        try:
            while True:
                await self.look()
                await anyio.sleep(EVERY_S)
        except BusClosed:
            return

    async def look(self) -> None:
        """Let go of what has to go now.

        Raises:
            BusClosed: the journal takes no more.
        """
        await self._trim()
        await self._discard()

    async def _trim(self) -> None:
        journal, engine, limits = self._journal, self._engine, self._limits
        age_ms = limits.age_ms
        young = await journal.seq_at(await journal.clock() - age_ms) if age_ms is not None else journal.first
        needed = await engine.needed()
        held = Held(journal.first, journal.head, await journal.size_bytes(), young, needed)
        decision = decide(held, limits)
        for rule, upto in decision.give_up.items():
            if rule == "*":
                continue  # what is not there to be matched is told when it is missed
            kept, lost = await engine.give_up(rule, upto)
            log.error("rule_gave_up", rule=rule, upto=upto, dead_letters=kept, lost=lost)
            more = {"rule": rule, "dead_letters": kept, "lost": lost}
            self._tell(Gap(Reason.CAP, needed[rule], upto, kept + lost, more=more))
        if decision.trim >= journal.first:
            journal.trim(decision.trim)

    async def _discard(self) -> None:
        held = await self._journal.letters_held()
        gone: dict[str, Gap] = {}
        while too_many(held, self._limits):
            letters = await self._journal.oldest_letters(_LETTERS)
            buried: list[int] = []
            size = 0
            for letter in letters:
                if not too_many(held, self._limits) or (buried and size + letter.size > PAGE_BYTES):
                    break
                buried.append(letter.id)
                size += letter.size
                held = LettersHeld(held.count - 1, held.size - letter.size)
                gone[letter.rule] = _with(gone.get(letter.rule), letter)
            if not buried:
                break
            await self._journal.save(Change(buried=buried))
        discarded = 0
        for rule, gap in gone.items():
            log.error("dead_letters_discarded", rule=rule, count=gap.count, mend="see journal.retention.deadLetters")
            self._tell(gap)
            discarded += gap.count or 0
        self.letters = LetterStatistics(held.count, held.size, self.letters.discarded + discarded)


def _with(gap: Gap | None, letter: LetterSize) -> Gap:
    if gap is None or gap.first is None or gap.last is None or gap.count is None:
        return Gap(Reason.DISCARDED, letter.seq, letter.seq, 1, more={"rule": letter.rule})
    return Gap(gap.reason, min(gap.first, letter.seq), max(gap.last, letter.seq), gap.count + 1, more=gap.more)
