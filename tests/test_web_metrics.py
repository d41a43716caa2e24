"""Metrics: what Prometheus is told, in both of its formats, and that measuring is right and cheap."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from hosting import until
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from sessions import LIMIT_S
from test_web_health import GREET, fares, rule, source

from eventhost import ServerEnvironment
from eventhost.connections import EventSourceStatus
from eventhost.event import RawEvent
from eventhost.measures import BOUNDS_S, Histogram, Latency
from eventhost.rules import RuleTotals
from eventhost.web.access.guard import Guard
from eventhost.web.app import create_app
from eventhost.web.health import collector
from eventhost.web.health.collector import HostCollector
from eventhost.web.health.traffic import OpenStreams, TrafficStatistics

pytestmark = pytest.mark.anyio

PLAIN = "text/plain;version=0.0.4"
OPEN = "application/openmetrics-text; version=1.0.0"

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


@asynccontextmanager
async def hosted(root: Path, *rules: Any, **config: Any) -> AsyncIterator[tuple[ServerEnvironment, httpx2.AsyncClient]]:
    """A host, and a client that comes by the guard."""
    (root / "config.jsonc").write_text(
        json.dumps({"rules": list(rules), "supervision": {"startsecs": "10ms"}, **config})
    )
    with anyio.fail_after(2 * LIMIT_S):
        async with ServerEnvironment.from_path(root) as environment:
            app = create_app(environment)
            guard = Guard(app, port=8001, requests=app.state.traffic.requests)
            transport = httpx2.ASGITransport(app=guard)
            async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8001") as http:
                yield environment, http


async def scrape(http: httpx2.AsyncClient, accept: str = PLAIN) -> Samples:
    answer = await http.get("/metrics", headers={"accept": accept})
    assert answer.status_code == 200
    return samples(answer.text, accept)


def samples(text: str, accept: str = PLAIN) -> Samples:
    """Every sample by its name and labels; parsed strictly."""
    families = list((parse_openmetrics if accept is OPEN else parse_text)(text))
    found = [sample for family in families for sample in family.samples]
    by_name = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in found}
    assert len(by_name) == len(found), "no sample is there twice"
    return by_name


def of(found: Samples, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


async def test_what_becomes_of_events_is_counted_by_source_and_by_rule(tmp_path: Path) -> None:
    source(tmp_path, "door")
    never = {"name": "never", "on": "door.*", "do": {"exec": ["false"], "retry": {"attempts": 2, "delay": "1ms"}}}
    once = {"name": "once", "on": "door.*", "throttle": {"limit": 1, "per": "1h"}, "do": {"log": "x"}}
    async with hosted(tmp_path, GREET, never, once) as (environment, http):
        await until(lambda: environment.source_status("door").published == 1)
        for size in (1, 5):
            assert (await http.post("/events", json={"type": "door.opened", "payload": {"size": size}})).is_success
        await until(lambda: environment.rule_status("never").failed == 2)
        await until(lambda: environment.rule_status("greet").delivered == 1)
        await until(lambda: environment.source_status("door").status is EventSourceStatus.RUNNING)
        for accept in (PLAIN, OPEN):
            found = await scrape(http, accept)
            assert of(found, "eventhost_events_received_total", source="door") == 1
            assert of(found, "eventhost_events_published_total", source="door") == 1
            assert of(found, "eventhost_events_rejected_total", source="door") == 0
            assert of(found, "eventhost_source_state", source="door", state="running") == 1
            assert of(found, "eventhost_source_state", source="door", state="error") == 0
            assert of(found, "eventhost_source_restarts_total", source="door") == 0
            assert of(found, "eventhost_rule_matched_total", rule="greet") == 1
            assert of(found, "eventhost_rule_delivered_total", rule="greet") == 1
            assert of(found, "eventhost_rule_failed_attempts_total", rule="never") == 4
            assert of(found, "eventhost_rule_retried_total", rule="never") == 2
            assert of(found, "eventhost_rule_dead_lettered_total", rule="never") == 2
            assert of(found, "eventhost_rule_suppressed_total", rule="once", verdict="throttled") == 1
            assert of(found, "eventhost_rule_lag_events", rule="greet") == 0
            assert of(found, "eventhost_rules_dead_lettered_total") == 2
            assert of(found, "eventhost_rules", state="running") == 3
            assert of(found, "eventhost_journal_head") == environment.bus.journal.head
            assert of(found, "eventhost_journal_bytes") > 0
            assert of(found, "eventhost_journal_commits_total") > 0
            assert of(found, "eventhost_ready") == 1
            assert of(found, "eventhost_stage_duration_seconds_count", stage="deliver") == 4
            for stage in ("accept", "match", "deliver"):
                assert of(found, "eventhost_stage_duration_seconds_bucket", stage=stage, le="+Inf") == of(
                    found, "eventhost_stage_duration_seconds_count", stage=stage
                )
            assert of(found, "eventhost_stage_duration_seconds_count", stage="accept") == environment.bus.journal.head


async def test_the_format_is_the_one_that_is_accepted(tmp_path: Path) -> None:
    async with hosted(tmp_path, journal={"type": "memory"}) as (_, http):
        plain = await http.get("/metrics", headers={"accept": "*/*"})
        assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert samples(plain.text)
        opened = await http.get("/metrics", headers={"accept": OPEN})
        assert opened.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
        assert opened.text.endswith("# EOF\n")
        assert samples(opened.text, OPEN)


async def test_requests_are_counted_by_status_also_those_that_the_guard_refuses(tmp_path: Path) -> None:
    async with hosted(tmp_path, journal={"type": "memory"}) as (_, http):
        assert (await http.get("/health")).status_code == 200
        assert (await http.get("/nowhere")).status_code == 404
        assert (await http.get("/health", headers={"host": "elsewhere"})).status_code == 403
        found = await scrape(http)
    assert {
        labels: found["eventhost_http_requests_total", frozenset({("status", labels)})]
        for labels in ["200", "404", "403"]
    } == {
        "200": 1,
        "404": 1,
        "403": 1,
    }


async def test_streams_are_counted_while_they_are_open_and_ever_after() -> None:
    streams = OpenStreams()
    one, other = anyio.CancelScope(), anyio.CancelScope()
    streams.add(one)
    streams.add(one)
    streams.add(other)
    streams.discard(one)
    assert (len(streams), streams.opened) == (1, 2)


TRAFFIC = TrafficStatistics(2, 5, 7, 3, 1, {200: 4})


def told(**found: Any) -> Samples:
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import generate_latest

    registry = CollectorRegistry()
    registry.register(HostCollector(fares(**found), Latency(), TRAFFIC, 1.5))
    return samples(generate_latest(registry).decode())


async def test_of_very_many_rules_only_the_sums_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "MAX_RULES", 2)
    totals, rules = RuleTotals(), [rule("a", matched=2), rule("b", matched=3, queued=4)]
    for each in rules:
        totals.add(each)
    few = told(rules=2, active=rules, totals=totals)
    many = told(rules=3, active=rules, totals=totals)
    assert of(few, "eventhost_rule_matched_total", rule="b") == 3
    assert not [name for name, _ in many if name.startswith("eventhost_rule_")]
    for found in (few, many):
        assert of(found, "eventhost_rules_matched_total") == 5
        assert of(found, "eventhost_rules_queued") == 4


async def test_names_that_are_not_plain_are_told_as_they_are() -> None:
    odd = 'a "b"\\\n{c}'
    found = told(active=[rule(odd, matched=1)])
    assert of(found, "eventhost_rule_matched_total", rule=odd) == 1


async def test_connections_and_messages_are_told() -> None:
    found = told()
    assert of(found, "eventhost_http_streams") == 2
    assert of(found, "eventhost_http_streams_opened_total") == 5
    assert of(found, "eventhost_session_messages_sent_total") == 7
    assert of(found, "eventhost_http_requests_total", status="200") == 4


# Measuring


async def test_a_duration_is_counted_in_the_first_bucket_that_holds_it() -> None:
    histogram = Histogram()
    for duration_s in (0.0, BOUNDS_S[0], BOUNDS_S[0] * 1.01, -5.0, 1e9):
        histogram.observe(duration_s)
    histogram.observe(0.02, 10)
    counts = dict(histogram.cumulative())
    assert counts[BOUNDS_S[0]] == 3
    assert counts[BOUNDS_S[1]] == 4
    assert (counts[0.01], counts[0.025]) == (4, 14)
    assert (counts[BOUNDS_S[-1]], counts[float("inf")]) == (14, 15)
    assert histogram.count == 15
    assert histogram.sum_s == pytest.approx(BOUNDS_S[0] * 2.01 + 1e9 + 0.2)


async def test_every_event_is_in_each_stage_that_it_went_through(tmp_path: Path) -> None:
    batch = {"name": "all", "on": "*", "batch": {"max": 10, "within": "1h"}, "do": {"log": "x"}}
    async with hosted(tmp_path, batch, {**GREET, "when": "true"}, journal={"type": "memory"}) as (environment, _):
        latency = environment.bus.latency
        await environment.publish_events([RawEvent("door.opened", payload={"size": 5}) for _ in range(100)])
        await until(lambda: environment.rule_status("greet").delivered == 100)
        await until(lambda: environment.rule_status("all").delivered == 10)
        assert latency.accept.count == latency.match.count == environment.bus.journal.head
        assert latency.deliver.count == 110
