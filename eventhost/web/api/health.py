"""Whether the host lives, is ready, and fares well."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec
from starlette.exceptions import HTTPException

from eventhost import __version__
from eventhost.access import Access
from eventhost.connections import EventSourceStatus
from eventhost.rules import LetterStatistics
from eventhost.web.answers import now
from eventhost.web.endpoint import get
from eventhost.web.health.judgement import LOW_DISK_BYTES, Verdict, judge
from eventhost.web.health.survey import Disk, Survey, survey

if TYPE_CHECKING:
    from eventhost.environment import ServerEnvironment

_MOST_RULES = 20


class HealthAnswer(msgspec.Struct, frozen=True):
    """`uptime` is in seconds."""

    status: str
    timestamp: str
    version: str
    uptime: int


class PartHealth(msgspec.Struct, frozen=True):
    """A source, or a tool server."""

    name: str
    status: EventSourceStatus
    restarts: int
    last_error: str | None


class JournalHealth(msgspec.Struct, frozen=True):
    """`cap` is the size in bytes that is never let stand, null without one; `stalled` and `failed` say why."""

    kind: str
    first: int
    head: int
    size: int
    cap: int | None
    stalled: str | None
    failed: str | None
    dead_letters: LetterStatistics


class RuleLag(msgspec.Struct, frozen=True):
    name: str
    events: int


class BusHealth(msgspec.Struct, frozen=True):
    """`unmatched` events no rule was asked about yet; of `lagging` rules those that are furthest behind are named."""

    subscriptions: int
    handlers: int
    handler_errors: int
    unmatched: int
    lagging: int
    furthest: list[RuleLag]


class RulesHealth(msgspec.Struct, frozen=True):
    """`failing` are some of the rules that failed the last few times; `broken` are files that cannot be used."""

    total: int
    disabled: int
    failing: list[str]
    broken: list[str]


class DiskHealth(msgspec.Struct, frozen=True):
    """In bytes; below `warn_below` it is a reason to be degraded."""

    path: str
    free: int
    total: int
    warn_below: int


class DetailedHealth(msgspec.Struct, frozen=True):
    """`status` is `healthy`, `degraded` or `unhealthy`; the worst of `reasons` comes first."""

    status: Verdict
    timestamp: str
    version: str
    uptime: int
    reasons: list[str]
    sources: list[PartHealth]
    servers: list[PartHealth]
    journal: JournalHealth
    bus: BusHealth
    rules: RulesHealth
    disk: DiskHealth


class Alive(msgspec.Struct, frozen=True):
    status: str


class Health:
    """Health, for load balancers and service managers."""

    def __init__(self, environment: ServerEnvironment) -> None:
        self._environment = environment
        self._started = time.monotonic()

    @get("/health", Access.OPEN)
    async def health(self) -> HealthAnswer:
        """Whether the host answers at all."""
        return HealthAnswer("healthy", now(), __version__, self._uptime_s)

    @get("/health/live", Access.OPEN)
    async def live(self) -> Alive:
        """Whether the host's event loop turns; if this is not answered, restart it."""
        return Alive("alive")

    @get("/health/ready", Access.OPEN)
    async def ready(self) -> Alive:
        """Whether events are taken: 503 with the reason while it starts, stops, or nothing can be written."""
        journal = self._environment.bus.statistics().journal
        if journal.failed is not None or journal.stalled is not None:
            raise HTTPException(503, "nothing can be written into the journal", {"Retry-After": "5"})
        if self._environment.unready is not None:
            raise HTTPException(503, self._environment.unready, {"Retry-After": "1"})
        return Alive("ready")

    @get("/health/detailed", Access.READ)
    async def detailed(self) -> DetailedHealth:
        """How each part fares, and what is wrong."""
        found = await survey(self._environment)
        broken = self._environment.rule_set.broken
        status, reasons = judge(found, broken)
        return DetailedHealth(
            status,
            now(),
            __version__,
            self._uptime_s,
            reasons,
            [PartHealth(each.name, each.status, each.restarts, each.last_error) for each in found.sources],
            [PartHealth(each.name, each.status, each.restarts, each.last_error) for each in found.servers],
            self._journal(found),
            _bus(found),
            RulesHealth(
                found.rules, found.disabled, [rule.name for rule in found.failing[:_MOST_RULES]], sorted(broken)
            ),
            _disk(found.disk),
        )

    @property
    def _uptime_s(self) -> int:
        return int(time.monotonic() - self._started)

    def _journal(self, found: Survey) -> JournalHealth:
        journal = found.bus.journal
        return JournalHealth(
            journal.kind,
            journal.first,
            journal.head,
            found.journal_bytes,
            self._environment.journal_cap_bytes,
            journal.stalled,
            journal.failed,
            found.letters,
        )


def _bus(found: Survey) -> BusHealth:
    bus, lagging = found.bus, found.lagging
    furthest = [RuleLag(rule.name, rule.lags) for rule in lagging[:_MOST_RULES]]
    return BusHealth(bus.subscriptions, bus.handlers, bus.handler_errors, found.unmatched, len(lagging), furthest)


def _disk(disk: Disk) -> DiskHealth:
    return DiskHealth(disk.path, disk.free_bytes, disk.total_bytes, LOW_DISK_BYTES)
