"""The host as a whole: what it is, how it fares, and having it read its configuration again."""

from __future__ import annotations

import os
import time
from collections import Counter
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated

import msgspec
from mcp_types.version import LATEST_HANDSHAKE_VERSION

from eventhost import __version__
from eventhost.access import Access
from eventhost.bus import BusStatistics
from eventhost.connections import EventSourceStatus
from eventhost.rules import LetterStatistics, RuleStatistics
from eventhost.serve import McpFace
from eventhost.web.endpoint import get, post
from eventhost.web.health.survey import survey, telling
from eventhost.web.health.traffic import Traffic
from eventhost.web.health.usage import Usage
from eventhost.web.problems import ProblemShown

if TYPE_CHECKING:
    from eventhost.environment import ServerEnvironment

MAX_RULES = 100
"""So many rules are told of one by one."""


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
    problems: list[ProblemShown]


class Capabilities(msgspec.Struct, frozen=True):
    """What the servers behind the host offer now; it takes the level of `logging` from its clients itself."""

    tools: bool
    resources: bool
    prompts: bool
    logging: bool


class ServerInfo(msgspec.Struct, frozen=True):
    name: str
    version: str


class Info(msgspec.Struct, frozen=True):
    """`protocol_version` is the newest that sessions can agree on."""

    name: str
    version: str
    protocol_version: str
    capabilities: Capabilities
    server_info: ServerInfo


class StatsWanted(msgspec.Struct, frozen=True):
    """`rules` is a glob of names: which rules are told of one by one."""

    rules: Annotated[str, msgspec.Meta(max_length=256)] = "*"


class SourceCounts(msgspec.Struct, frozen=True):
    name: str
    status: EventSourceStatus
    received: int
    published: int
    rejected: int
    deduplicated: int
    restarts: int


class RuleSums(msgspec.Struct, frozen=True):
    """Of all rules since the host started, those that are gone among them; `total` and `disabled` are rules now."""

    total: int
    disabled: int
    matched: int
    suppressed: dict[str, int]
    delivered: int
    failed: int
    retried: int
    condition_errors: int


class Stats(msgspec.Struct, frozen=True):
    """Connections are open streams of every kind; messages are those of sessions. `uptime` is in seconds.

    `by_rule` are the rules that have, or had, something to do: at most 100, those in trouble first, then the busiest.
    """

    active_connections: int
    total_connections: int
    messages_sent: int
    messages_received: int
    uptime: int
    memory_usage: str
    cpu_usage: str
    events: int
    by_source: list[SourceCounts]
    rules: RuleSums
    by_rule: list[RuleStatistics]
    more_rules: int
    """How many more rules with something to tell there are."""


class Host:
    """The host as a whole."""

    def __init__(self, environment: ServerEnvironment, face: McpFace, traffic: Traffic) -> None:
        self._environment, self._face, self._traffic = environment, face, traffic
        self._started = time.monotonic()
        self._usage = Usage()

    @get("/info", Access.READ)
    async def info(self) -> Info:
        """What this service is, and what it can do."""
        config, own = self._environment.config, self._face.own
        offered = self._environment.offers()
        capabilities = Capabilities(
            tools=bool(own.tools) or "tools" in offered,
            resources=bool(own.providers) or "resources" in offered,
            prompts="prompts" in offered,
            logging=True,
        )
        name = config.display_name or config.id or "eventhost"
        return Info(name, __version__, LATEST_HANDSHAKE_VERSION, capabilities, ServerInfo("eventhost", __version__))

    @get("/stats", Access.READ)
    async def stats(self, query: StatsWanted) -> Stats:
        """Connections, messages, the process, and what became of the events of sources and rules."""
        found, traffic = await survey(self._environment), self._traffic.statistics()
        named = [rule for rule in found.active if fnmatchcase(rule.name, query.rules)]
        totals = found.totals
        return Stats(
            traffic.active_connections,
            traffic.total_connections,
            traffic.messages_sent,
            traffic.messages_received,
            int(time.monotonic() - self._started),
            self._usage.memory(),
            self._usage.cpu(),
            found.bus.journal.head,
            [
                SourceCounts(
                    each.name,
                    each.status,
                    each.received,
                    each.published,
                    each.rejected,
                    each.deduplicated,
                    each.restarts,
                )
                for each in found.sources
            ],
            RuleSums(
                found.rules,
                found.disabled,
                totals.matched,
                dict(totals.suppressed),
                totals.delivered,
                totals.failed,
                totals.retried,
                totals.condition_errors,
            ),
            telling(named, MAX_RULES),
            max(0, len(named) - MAX_RULES),
        )

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
        problems = ProblemShown.all(report.problems)
        return Reloaded(report.started, report.restarted, report.stopped, problems)
