"""The host as a whole: what it is, how it fares, and having it read its configuration again."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from eventhost import __version__
from eventhost.access import Access
from eventhost.bus import BusStatistics
from eventhost.rules import LetterStatistics, RuleStatistics
from eventhost.web.endpoint import get, post

if TYPE_CHECKING:
    from eventhost.environment import ServerEnvironment


class HostStatus(msgspec.Struct, frozen=True):
    """`sources` counts them by state."""

    id: str
    root: str
    version: str
    pid: int
    uptime_s: float
    sources: dict[str, int]
    rules: list[RuleStatistics]
    bus: BusStatistics
    dead_letters: LetterStatistics


class Reloaded(msgspec.Struct, frozen=True):
    """Names of what was started, restarted and stopped, and what is wrong with the configuration."""

    started: list[str]
    restarted: list[str]
    stopped: list[str]
    problems: list[dict[str, Any]]


class Host:
    """The host as a whole."""

    def __init__(self, environment: ServerEnvironment) -> None:
        self._environment = environment
        self._started = time.monotonic()

    @get("/status", Access.READ)
    async def status(self) -> HostStatus:
        """Sources by state, rules, and the events that are held."""
        environment = self._environment
        return HostStatus(
            environment.config.id,
            str(environment.root),
            __version__,
            os.getpid(),
            round(time.monotonic() - self._started, 3),
            Counter(source.status for source in environment.source_statuses()),
            environment.rule_statistics(),
            environment.bus.statistics(),
            environment.letter_statistics(),
        )

    @post("/reload", Access.ADMIN)
    async def reload(self) -> Reloaded:
        """Read the configuration again; only what differs is restarted."""
        report = await self._environment.reload()
        problems = [problem._asdict() for problem in report.problems]
        return Reloaded(report.started, report.restarted, report.stopped, problems)
