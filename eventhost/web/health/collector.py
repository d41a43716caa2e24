"""The host's metrics for Prometheus, made of a snapshot when they are asked for.

Counters end in `_total`, and count since the host started. What has a label `rule` is left out where there are more
than `MAX_RULES` rules; the sums over all rules, `eventhost_rules_*`, are always there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import Final

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from eventhost import __version__
from eventhost.connections import EventSourceStatus, ServerStatus
from eventhost.measures import Latency
from eventhost.rules import RuleStatistics, RuleTotals
from eventhost.sources import SourceStatus
from eventhost.web.health.survey import Survey
from eventhost.web.health.traffic import TrafficStatistics

MAX_RULES: Final = 1_000

_SOURCES: Final[Mapping[str, tuple[str, Callable[[SourceStatus], int]]]] = {
    "eventhost_events_received": ("Events that a source said.", lambda source: source.received),
    "eventhost_events_published": ("Events of a source that are in the journal.", lambda source: source.published),
    "eventhost_events_rejected": ("What a source said that is no event.", lambda source: source.rejected),
    "eventhost_events_deduplicated": ("Events that a source said before.", lambda source: source.deduplicated),
}

_RULE_COUNTS: Final[Mapping[str, tuple[str, Callable[[RuleStatistics | RuleTotals], int]]]] = {
    "matched": ("Events that matched.", lambda rule: rule.matched),
    "delivered": ("Runs that succeeded.", lambda rule: rule.delivered),
    "failed_attempts": ("Attempts of actions that failed.", lambda rule: rule.retried + rule.failed),
    "retried": ("Attempts that failed, and were followed by another.", lambda rule: rule.retried),
    "dead_lettered": ("Runs that were given up.", lambda rule: rule.failed),
    "condition_errors": ("Conditions that could not be told.", lambda rule: rule.condition_errors),
}
_SUPPRESSED: Final = "Events that matched, and that shaping left out."

_RULE_GAUGES: Final[Mapping[str, tuple[str, Callable[[RuleStatistics], int]]]] = {
    "queued": ("Runs that wait for their turn.", lambda rule: rule.queued),
    "held": ("Events that shaping holds.", lambda rule: rule.held),
    "running": ("Runs that are being done.", lambda rule: rule.running),
    "lag_events": ("Events that are still to be looked at.", lambda rule: rule.lags),
}


class HostCollector(Collector):
    """The metrics of one snapshot."""

    def __init__(self, found: Survey, latency: Latency, traffic: TrafficStatistics, uptime_s: float) -> None:
        self._found, self._latency, self._traffic, self._uptime_s = found, latency, traffic, uptime_s

    def collect(self) -> Iterable[Metric]:
        """All of them."""
        found = self._found
        yield InfoMetricFamily("eventhost", "The host.", {"version": __version__})
        yield _gauge("eventhost_uptime_seconds", "How long it has been running.", self._uptime_s)
        yield _gauge("eventhost_ready", "1 while events are taken.", found.unready is None)
        yield from _sources(found.sources)
        yield from _servers(found.servers)
        yield from _rules(found)
        yield from _journal(found)
        yield from _http(self._traffic)
        yield _stages(self._latency)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, float(value))


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, float(value))


def _sources(sources: Sequence[SourceStatus]) -> Iterator[Metric]:
    for name, (text, value) in _SOURCES.items():
        family = CounterMetricFamily(name, text, labels=["source"])
        for source in sources:
            family.add_metric([source.name], value(source))
        yield family
    yield from _states("source", sources)
    memory = GaugeMetricFamily("eventhost_source_memory_bytes", "Resident memory of its processes.", labels=["source"])
    for source in sources:
        if source.memory_bytes is not None:
            memory.add_metric([source.name], source.memory_bytes)
    yield memory


def _servers(servers: Sequence[ServerStatus]) -> Iterator[Metric]:
    yield from _states("server", servers)


def _states(kind: str, parts: Sequence[SourceStatus] | Sequence[ServerStatus]) -> Iterator[Metric]:
    name = f"eventhost_{kind}"
    states = GaugeMetricFamily(f"{name}_state", "1 for the state that it is in.", labels=[kind, "state"])
    restarts = CounterMetricFamily(f"{name}_restarts", "How often it was started again.", labels=[kind])
    for part in parts:
        for state in EventSourceStatus:
            states.add_metric([part.name, str(state)], part.status is state)
        restarts.add_metric([part.name], part.restarts)
    yield states
    yield restarts


def _rules(found: Survey) -> Iterator[Metric]:
    failing = len(found.failing)
    states = GaugeMetricFamily("eventhost_rules", "How many rules there are, by state.", labels=["state"])
    states.add_metric(["running"], found.rules - found.disabled - failing)
    states.add_metric(["failing"], failing)
    states.add_metric(["disabled"], found.disabled)
    yield states
    for name, (text, count) in _RULE_COUNTS.items():
        yield _counter(f"eventhost_rules_{name}", f"{text} Of all rules.", count(found.totals))
    suppressed = CounterMetricFamily("eventhost_rules_suppressed", f"{_SUPPRESSED} Of all rules.", labels=["verdict"])
    for verdict, number in sorted(found.totals.suppressed.items()):
        suppressed.add_metric([verdict], number)
    yield suppressed
    for name, (text, gauge) in _RULE_GAUGES.items():
        yield _gauge(f"eventhost_rules_{name}", f"{text} Of all rules.", sum(map(gauge, found.active)))
    yield _gauge("eventhost_rules_lagging", "Rules that have events to catch up with.", len(found.lagging))
    if found.rules <= MAX_RULES:
        yield from _each_rule(found.active)


def _each_rule(rules: Sequence[RuleStatistics]) -> Iterator[Metric]:
    for name, (text, count) in _RULE_COUNTS.items():
        counts = CounterMetricFamily(f"eventhost_rule_{name}", text, labels=["rule"])
        for rule in rules:
            counts.add_metric([rule.name], count(rule))
        yield counts
    suppressed = CounterMetricFamily("eventhost_rule_suppressed", _SUPPRESSED, labels=["rule", "verdict"])
    for rule in rules:
        for verdict, number in sorted(rule.suppressed.items()):
            suppressed.add_metric([rule.name, verdict], number)
    yield suppressed
    for name, (text, gauge) in _RULE_GAUGES.items():
        gauges = GaugeMetricFamily(f"eventhost_rule_{name}", text, labels=["rule"])
        for rule in rules:
            gauges.add_metric([rule.name], gauge(rule))
        yield gauges


def _journal(found: Survey) -> Iterator[Metric]:
    bus, journal, letters = found.bus, found.bus.journal, found.letters
    yield _gauge("eventhost_journal_head", "Number of the newest event.", journal.head)
    yield _gauge("eventhost_journal_first", "Number of the oldest event that is held.", journal.first)
    yield _gauge("eventhost_journal_bytes", "How much room it takes.", found.journal_bytes)
    yield _counter("eventhost_journal_commits", "Transactions.", journal.commits)
    yield _gauge("eventhost_journal_stalled", "1 while nothing can be written.", journal.stalled is not None)
    yield _gauge("eventhost_unmatched_events", "Events that no rule was asked about yet.", found.unmatched)
    yield _gauge("eventhost_bus_subscriptions", "Who reads the bus, besides the rules.", bus.subscriptions)
    yield _counter("eventhost_bus_handler_errors", "Exceptions of event handlers.", bus.handler_errors)
    yield _gauge("eventhost_dead_letters", "Dead letters that are held.", letters.held)
    yield _gauge("eventhost_dead_letters_bytes", "How long their events are.", letters.size_bytes)
    yield _counter("eventhost_dead_letters_discarded", "Those that had to go: too many.", letters.discarded)
    yield _gauge("eventhost_disk_free_bytes", "Free room on the disk of var/.", found.disk.free_bytes)


def _http(traffic: TrafficStatistics) -> Iterator[Metric]:
    yield _gauge("eventhost_http_streams", "Streams and WebSockets that are open.", traffic.active_connections)
    yield _counter("eventhost_http_streams_opened", "Those that there ever were.", traffic.total_connections)
    yield _gauge("eventhost_http_watchers", "Clients that are shown the bus's events.", traffic.watchers)
    sent = "Messages and events that went to sessions."
    yield _counter("eventhost_session_messages_sent", sent, traffic.messages_sent)
    yield _counter("eventhost_session_messages_received", "Messages from sessions.", traffic.messages_received)
    requests = CounterMetricFamily("eventhost_http_requests", "Requests that were answered.", labels=["status"])
    for status, number in sorted(traffic.requests.items()):
        requests.add_metric([str(status)], number)
    yield requests


def _stages(latency: Latency) -> Metric:
    family = HistogramMetricFamily(
        "eventhost_stage_duration_seconds",
        "How long an event takes: accept (published to durable), match (accepted to matched), deliver (owed to done).",
        labels=["stage"],
    )
    for stage in ("accept", "match", "deliver"):
        histogram = getattr(latency, stage)
        buckets = [("+Inf" if bound == inf else str(bound), count) for bound, count in histogram.cumulative()]
        family.add_metric([stage], buckets, histogram.sum_s)
    return family
