"""Keeps the journal within its limits: what no rule needs is trimmed, and what cannot be kept is said.

Beyond the hard cap the rules that hold on to the oldest events give up what they owe for them: as dead letters, so many
as may be, and the rest as a gap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import anyio
import structlog

from eventhost.errors import BusClosed
from eventhost.gaps import Gap, Reason
from eventhost.journal import Journal
from eventhost.journal.retention import Held, Limits, decide
from eventhost.rules.engine import RuleEngine

log = structlog.get_logger()

EVERY_S: Final = 10.0


async def keep_within(journal: Journal, engine: RuleEngine, limits: Limits, tell: Callable[[Gap], None]) -> None:
    """Look every few seconds whether something has to go, until the journal is closed.

    `tell` is told of what rules had to give up.
    """
    try:
        while True:
            await trim_once(journal, engine, limits, tell)
            await anyio.sleep(EVERY_S)
    except BusClosed:
        return


async def trim_once(journal: Journal, engine: RuleEngine, limits: Limits, tell: Callable[[Gap], None]) -> None:
    """Let go of what has to go now.

    Raises:
        BusClosed: the journal takes no more.
    """
    young = await journal.seq_at(await journal.clock() - limits.age_ms) if limits.age_ms is not None else journal.first
    needed = await engine.needed()
    held = Held(journal.first, journal.head, await journal.size_bytes(), young, needed)
    decision = decide(held, limits)
    for rule, upto in decision.give_up.items():
        kept, lost = await engine.give_up(rule, upto)
        log.error("rule_gave_up", rule=rule, upto=upto, dead_letters=kept, lost=lost)
        more = {"rule": rule, "dead_letters": kept, "lost": lost}
        tell(Gap(Reason.CAP, needed[rule], upto, kept + lost, more=more))
    if decision.trim >= journal.first:
        journal.trim(decision.trim)
