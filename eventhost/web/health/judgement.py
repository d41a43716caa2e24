"""Whether the host is well, by a look at all of it; what is not is told in sentences.

`unhealthy`: the host cannot take events, and is to be looked after now. `degraded`: a part of it does not do its work.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from enum import StrEnum
from typing import Final

from eventhost.connections import EventSourceStatus
from eventhost.web.health.survey import Survey

LOW_DISK_BYTES: Final = 500_000_000
LONG_LAG: Final = 1_000
"""A rule, or the matcher, that is so many events behind is told of."""

_MOST_NAMED: Final = 5

_TROUBLED: Final = (EventSourceStatus.DISCONNECTED, EventSourceStatus.BACKOFF, EventSourceStatus.ERROR)


class Verdict(StrEnum):
    """How the host fares."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


def judge(found: Survey, broken_rules: Collection[str] = ()) -> tuple[Verdict, list[str]]:
    """The verdict, and the reasons for it, the worst first; `broken_rules` are files that cannot be used."""
    fatal, partial = list(_fatal(found)), [*_partial(found), *_broken(broken_rules)]
    verdict = Verdict.UNHEALTHY if fatal else Verdict.DEGRADED if partial else Verdict.HEALTHY
    return verdict, fatal + partial


def _fatal(found: Survey) -> Iterator[str]:
    journal = found.bus.journal
    if journal.failed is not None:
        yield f"the journal has failed: {journal.failed}; restart the host"
    elif journal.stalled is not None:
        yield f"nothing can be written into the journal: {journal.stalled}; make room on its disk"
    if found.unready is not None:
        yield found.unready


def _partial(found: Survey) -> Iterator[str]:
    for problem in [problem for problem in found.problems if problem.fatal][:_MOST_NAMED]:
        yield f"{problem}; the last good configuration is in use"
    for source in found.sources:
        if source.status in _TROUBLED:
            yield f"the source {source.name} is in {source.status}{_because(source.last_error)}"
        if source.silence is not None:
            yield f"the source {source.name} {source.silence}"
        if source.problem is not None:
            yield f"the source {source.name} cannot use its newer configuration: {source.problem}"
        for upstream in source.upstreams:
            if upstream.is_away:
                yield f"the source {source.name} cannot read {upstream.name}{_because(upstream.last_error)}"
    for server in found.servers:
        if server.status in _TROUBLED:
            yield f"the tool server {server.name} is in {server.status}{_because(server.last_error)}"
        if server.silence is not None:
            yield f"the tool server {server.name} {server.silence}"
    if found.unmatched >= LONG_LAG:
        yield f"{found.unmatched} events have not been matched yet"
    lagging = [rule for rule in found.lagging if rule.lags >= LONG_LAG]
    for rule in lagging[:_MOST_NAMED]:
        yield f"the rule {rule.name} is {rule.lags} events behind"
    for rule in found.failing[:_MOST_NAMED]:
        yield f"the rule {rule.name} failed the last few times{_because(rule.last_error)}"
    more = max(0, len(lagging) - _MOST_NAMED) + max(0, len(found.failing) - _MOST_NAMED)
    if more:
        yield f"{more} more rules are behind, or fail"
    if found.disk.free_bytes < LOW_DISK_BYTES:
        yield f"only {found.disk.free_bytes / 1e6:.0f} MB are free on the disk of {found.disk.path}/"


def _broken(files: Collection[str]) -> Iterator[str]:
    for file in sorted(files):
        yield f"{file} cannot be used as it is; `eventhost check` says why"


def _because(error: str | None) -> str:
    return f": {error}" if error else ""
