"""How the whole host fares, gathered at once for whoever tells of it; the hot path counts nothing for it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import nlargest
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel

from eventhost.bus import BusStatistics
from eventhost.connections import ServerStatus
from eventhost.errors import Problem
from eventhost.rules import LetterStatistics, RuleState, RuleStatistics, RuleTotals
from eventhost.sources import SourceStatus

if TYPE_CHECKING:
    from eventhost.environment import ServerEnvironment

_AT_ONCE: Final = 500
"""Rules that are looked at before others get a turn."""


@dataclass(frozen=True, slots=True)
class Disk:
    """The disk that `var/` is on, in bytes."""

    path: str
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Survey:
    """A snapshot. Of the rules only those that have, or had, something to do are looked at one by one."""

    sources: list[SourceStatus]
    servers: list[ServerStatus]
    bus: BusStatistics
    journal_bytes: int
    unmatched: int
    """How many events no rule was asked about yet."""
    rules: int
    disabled: int
    active: list[RuleStatistics]
    totals: RuleTotals
    letters: LetterStatistics
    disk: Disk
    unready: str | None
    problems: Sequence[Problem] = ()
    """What is wrong with a newer configuration than the one in use."""

    @property
    def lagging(self) -> list[RuleStatistics]:
        """The rules that have events to catch up with, those with the most first."""
        return sorted((rule for rule in self.active if rule.lags), key=lambda rule: -rule.lags)

    @property
    def failing(self) -> list[RuleStatistics]:
        """The rules that failed the last few times."""
        return [rule for rule in self.active if rule.state is RuleState.FAILING]


async def survey(environment: ServerEnvironment) -> Survey:
    """How the host fares now.

    Raises:
        BusClosed: the journal is closed, or has failed.
    """
    totals, active = environment.past_rules(), list[RuleStatistics]()
    for number, rule in enumerate(environment.active_rules()):
        if number % _AT_ONCE == 0:
            await anyio.lowlevel.checkpoint()
        totals.add(rule)
        active.append(rule)
    rules = environment.rule_set.rules
    return Survey(
        environment.source_statuses(),
        environment.server_statuses(),
        environment.bus.statistics(),
        await environment.bus.journal.size_bytes(),
        environment.unmatched,
        len(rules),
        sum(not rule.enabled for rule in rules),
        active,
        totals,
        environment.letter_statistics(),
        await anyio.to_thread.run_sync(_disk, environment.root),
        environment.unready,
        environment.problems,
    )


def telling(rules: Iterable[RuleStatistics], count: int) -> list[RuleStatistics]:
    """The `count` rules of which there is most to tell: those with failures or a lag, then the busiest."""
    return nlargest(count, rules, key=lambda rule: (_is_in_trouble(rule), rule.matched))


def _is_in_trouble(rule: RuleStatistics) -> bool:
    return rule.state is RuleState.FAILING or bool(rule.lags or rule.failed or rule.condition_errors)


def _disk(root: Path) -> Disk:
    usage = shutil.disk_usage(root / "var")
    return Disk("var", usage.free, usage.total)
