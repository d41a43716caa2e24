"""How the host fares, over HTTP: health, statistics, and what can be told of sources, tool servers and rules."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import httpx2
import jsonschema
import pytest
from hosting import until
from sessions import LIMIT_S, _as

from eventhost import ServerEnvironment
from eventhost.access import Access, Caller
from eventhost.bus import BusStatistics
from eventhost.config import load_state
from eventhost.connections import EventSourceStatus, ServerStatus
from eventhost.errors import Problem
from eventhost.journal import JournalStatistics
from eventhost.rules import LetterStatistics, RuleState, RuleStatistics, RuleTotals
from eventhost.sources import SourceStatus, UpstreamStatus
from eventhost.web.app import create_app
from eventhost.web.health.judgement import LONG_LAG, LOW_DISK_BYTES, Verdict, judge
from eventhost.web.health.survey import Disk, Survey, telling
from eventhost.web.redaction import shown

pytestmark = pytest.mark.anyio

TICKER = """
from eventhost.kit import EventSource
source = EventSource("ticker")
@source.task
async def tick():
    await source.emit("ticker.tick", {"count": 1})
source.run()
"""

TODO = """
from mcp.server.mcpserver import MCPServer
server = MCPServer("todo")
@server.tool()
def add(title: str) -> str:
    return title
server.run()
"""

NO_CLIENT_IS_A_SOURCE = {"eventSources": {"sources": {}}}

GREET = {"name": "greet", "on": "door.*", "when": "payload.size > 3", "do": {"log": "{{ payload.size }}"}}


@asynccontextmanager
async def hosted(root: Path, *rules: dict[str, Any], **config: Any) -> AsyncIterator[ServerEnvironment]:
    """An environment whose journal is in memory."""
    whole = {"rules": list(rules), "journal": {"type": "memory"}, "supervision": {"startsecs": "10ms"}, **config}
    (root / "config.jsonc").write_text(json.dumps(whole))
    with anyio.fail_after(2 * LIMIT_S):
        async with ServerEnvironment.from_path(root) as environment:
            yield environment


@asynccontextmanager
async def asking(environment: ServerEnvironment, *scopes: Access) -> AsyncIterator[httpx2.AsyncClient]:
    """A client with these scopes; with all of them, if none is named."""
    app: Any = create_app(environment)
    if scopes:
        app = _as(app, Caller("key", "key", frozenset(scopes)))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://test") as http:
        yield http


def source(root: Path, name: str, config: dict[str, Any] | None = None, server: str = TICKER) -> None:
    folder = root / "eventsources" / name
    folder.mkdir(parents=True)
    (folder / "server.py").write_text(server)
    (folder / "config.jsonc").write_text(json.dumps(config or {}))


async def emit(http: httpx2.AsyncClient, event_type: str, **payload: Any) -> None:
    answer = await http.post("/events", json={"type": event_type, "payload": payload})
    assert answer.status_code == 201, answer.text


# Health


async def test_a_host_without_faults_is_healthy_live_and_ready(tmp_path: Path) -> None:
    async with hosted(tmp_path, GREET) as environment, asking(environment) as http:
        assert (await http.get("/health/live")).json() == {"status": "alive"}
        assert (await http.get("/health/ready")).json() == {"status": "ready"}
        health = (await http.get("/health/detailed")).json()
    assert (health["status"], health["reasons"]) == ("healthy", [])
    assert health["journal"]["kind"] == "memory"
    assert health["rules"] == {"total": 1, "disabled": 0, "failing": [], "broken": []}
    assert health["disk"]["free"] > 0
    assert health["bus"]["unmatched"] == 0


async def test_who_may_ask_how_the_host_fares(tmp_path: Path) -> None:
    async with hosted(tmp_path) as environment, asking(environment, Access.PUBLISH) as http:
        for path in ("/health", "/health/live", "/health/ready"):
            assert (await http.get(path)).status_code == 200
        for path in ("/health/detailed", "/info", "/stats", "/metrics", "/servers", "/rules/x"):
            assert (await http.get(path)).status_code == 403


async def test_a_host_is_ready_once_launching_has_begun_and_until_it_stops(tmp_path: Path) -> None:
    (tmp_path / "config.jsonc").write_text('{"journal": {"type": "memory"}}')
    async with ServerEnvironment.from_path(tmp_path, start_sources=False) as environment, asking(environment) as http:
        before = await http.get("/health/ready")
        assert before.status_code == 503
        assert "the host is starting" in before.json()["error"]["message"]
        assert before.headers["retry-after"] == "1"
        await environment.start_sources()
        assert (await http.get("/health/ready")).status_code == 200
        await environment.stop_sources()
        after = await http.get("/health/ready")
        assert after.status_code == 503
        assert "the host is stopping" in after.json()["error"]["message"]
        assert (await http.get("/health/detailed")).json()["status"] == "unhealthy"


async def test_a_part_that_is_broken_makes_the_host_degraded_and_is_named(tmp_path: Path) -> None:
    source(tmp_path, "door", {"command": 5})
    clients = {"todo": {"type": "local", "command": ["python", "-c", "raise SystemExit('no luck')"]}}
    broken = {"name": "broken", "do": {"exec": ["./nowhere"], "retry": {"attempts": 1}}}
    config = {
        "mcp": {"clients": clients, **NO_CLIENT_IS_A_SOURCE},
        "supervision": {"startsecs": "10ms", "startretries": 1},
    }
    async with hosted(tmp_path, broken, **config) as environment, asking(environment) as http:
        for _ in range(3):
            await emit(http, "a.b")
        await until(lambda: environment.rule_status("broken").state is RuleState.FAILING)
        await until(lambda: environment.server_status("todo").status is EventSourceStatus.ERROR)
        health = (await http.get("/health/detailed")).json()
    assert health["status"] == "degraded"
    told = "\n".join(health["reasons"])
    assert "the source door is in error: eventsources/door/config.jsonc" in told
    assert re.search("the tool server todo is in error: .*no luck", told)
    assert "the rule broken failed the last few times" in told
    assert health["rules"]["failing"] == ["broken"]
    assert health["journal"]["dead_letters"].keys() == {"held", "size_bytes", "discarded"}


def rule(name: str = "greet", **counts: Any) -> RuleStatistics:
    plain = dict.fromkeys(RuleStatistics.__dataclass_fields__, 0)
    said = {"state": RuleState.RUNNING, "suppressed": {}, "last_error": None}
    return RuleStatistics(**{**plain, **said, "name": name, **counts})  # type: ignore[arg-type]


def server(status: EventSourceStatus, silence: str | None = None) -> ServerStatus:
    return ServerStatus("todo", status, True, "stdio", "", [], None, None, 0, "gone", [], silence)


def door(**said: Any) -> SourceStatus:
    """A source that runs."""
    return replace(SourceStatus.broken("door", ""), status=EventSourceStatus.RUNNING, last_error=None, **said)


def fares(**found: Any) -> Survey:
    """A survey without faults, but for what is given."""
    journal = JournalStatistics("sqlite", 1, 9, 0, **found.pop("journal", {}))
    plain = {
        "sources": [],
        "servers": [],
        "bus": BusStatistics(journal, 0, 0, 0),
        "journal_bytes": 0,
        "unmatched": 0,
        "rules": 1,
        "disabled": 0,
        "active": [],
        "totals": RuleTotals(),
        "letters": LetterStatistics(),
        "disk": Disk("var", LOW_DISK_BYTES, 10**12),
        "unready": None,
    }
    return Survey(**{**plain, **found})


@pytest.mark.parametrize(
    ("found", "verdict", "reason"),
    [
        (fares(), Verdict.HEALTHY, None),
        (fares(journal={"stalled": "disk full"}), Verdict.UNHEALTHY, "disk full; make room"),
        (fares(journal={"failed": "it is damaged"}), Verdict.UNHEALTHY, "it is damaged; restart the host"),
        (fares(unready="the host is stopping"), Verdict.UNHEALTHY, "the host is stopping"),
        (fares(unmatched=LONG_LAG), Verdict.DEGRADED, "1000 events have not been matched yet"),
        (fares(unmatched=LONG_LAG - 1), Verdict.HEALTHY, None),
        (fares(active=[rule(lags=LONG_LAG)]), Verdict.DEGRADED, "the rule greet is 1000 events behind"),
        (fares(active=[rule(lags=LONG_LAG - 1)]), Verdict.HEALTHY, None),
        (fares(active=[rule(str(n), lags=LONG_LAG) for n in range(8)]), Verdict.DEGRADED, "3 more rules"),
        (fares(servers=[server(EventSourceStatus.ERROR)]), Verdict.DEGRADED, "todo is in error: gone"),
        (fares(servers=[server(EventSourceStatus.STOPPED)]), Verdict.HEALTHY, None),
        (fares(sources=[SourceStatus.broken("door", "no")]), Verdict.DEGRADED, "the source door is in error: no"),
        (
            fares(problems=[Problem("config.jsonc", "a comma is missing", "add it", line=7, column=3)]),
            Verdict.DEGRADED,
            "config.jsonc:7:3: a comma is missing; add it; the last good configuration is in use",
        ),
        (fares(problems=[Problem("config.jsonc", "odd", fatal=False)]), Verdict.HEALTHY, None),
        (fares(sources=[door()]), Verdict.HEALTHY, None),
        (fares(sources=[door(silence="is silent")]), Verdict.DEGRADED, "the source door is silent"),
        (
            fares(servers=[server(EventSourceStatus.RUNNING, "is silent")]),
            Verdict.DEGRADED,
            "the tool server todo is silent",
        ),
        (fares(servers=[server(EventSourceStatus.RUNNING)]), Verdict.HEALTHY, None),
        (
            fares(sources=[door(problem="a comma")]),
            Verdict.DEGRADED,
            "door cannot use its newer configuration: a comma",
        ),
        (
            fares(sources=[door(upstreams=[UpstreamStatus("shop", "reconnecting", "no route", 0)])]),
            Verdict.DEGRADED,
            "the source door cannot read shop: no route",
        ),
        (fares(sources=[door(upstreams=[UpstreamStatus("shop", "connected", "no route", 1)])]), Verdict.HEALTHY, None),
        (fares(disk=Disk("var", LOW_DISK_BYTES - 1, 10**12)), Verdict.DEGRADED, "only 500 MB are free"),
    ],
)
async def test_the_verdict_follows_from_what_is_found(found: Survey, verdict: Verdict, reason: str | None) -> None:
    said, reasons = judge(found)
    assert said is verdict
    if reason is None:
        assert reasons == []
    else:
        assert any(reason in each for each in reasons), reasons


async def test_the_worst_reason_comes_first() -> None:
    found = fares(unready="the host is stopping", unmatched=LONG_LAG)
    assert judge(found, ["rules/a.jsonc"])[1] == [
        "the host is stopping",
        "1000 events have not been matched yet",
        "rules/a.jsonc cannot be used as it is; `eventhost check` says why",
    ]


# What it is, and what it has done


async def test_info_tells_what_the_service_is_and_what_its_servers_offer_now(tmp_path: Path) -> None:
    (tmp_path / "todo.py").write_text(TODO)
    clients = {"todo": {"type": "local", "command": ["python", "todo.py"], "autoStart": False}}
    config = {"displayName": "My house", "mcp": {"clients": clients, **NO_CLIENT_IS_A_SOURCE}}
    async with hosted(tmp_path, **config) as environment, asking(environment) as http:
        info = (await http.get("/info")).json()
        assert info.keys() == {"name", "version", "protocol_version", "capabilities", "server_info"}
        assert info["name"] == "My house"
        assert info["server_info"] == {"name": "eventhost", "version": info["version"]}
        assert info["capabilities"]["prompts"] is False
        assert info["capabilities"]["logging"] is True
        await environment.start_server("todo")
        await until(lambda: environment.server_status("todo").status is EventSourceStatus.RUNNING)
        assert (await http.get("/info")).json()["capabilities"]["tools"] is True


async def test_stats_count_what_became_of_the_events_of_sources_and_rules(tmp_path: Path) -> None:
    source(tmp_path, "door")
    async with hosted(tmp_path, GREET, {"name": "gone", "on": "door.*", "do": {"log": "x"}}) as environment:
        await until(lambda: environment.source_status("door").published == 1)
        async with asking(environment) as http:
            await emit(http, "door.opened", size=5)
            await emit(http, "door.opened", size=1)
            await until(lambda: environment.rule_status("gone").delivered == 2)
            stats = (await http.get("/stats")).json()
            assert re.fullmatch(r"\d+\.\dMB", stats["memory_usage"])
            assert re.fullmatch(r"\d+\.\d%", stats["cpu_usage"])
            assert (stats["active_connections"], stats["total_connections"]) == (0, 0)
            assert [each["name"] for each in stats["by_source"]] == ["door"]
            assert stats["by_source"][0]["published"] == 1
            assert (stats["rules"]["total"], stats["rules"]["matched"], stats["rules"]["delivered"]) == (2, 3, 3)
            assert [each["name"] for each in stats["by_rule"]] == ["gone", "greet"]
            only = (await http.get("/stats", params={"rules": "gr*"})).json()["by_rule"]
            assert [each["name"] for each in only] == ["greet"]
            # What a rule did does not go with it.
            (tmp_path / "config.jsonc").write_text(json.dumps({"rules": [GREET], "journal": {"type": "memory"}}))
            await environment.reload()
            stats = (await http.get("/stats")).json()
            assert (stats["rules"]["total"], stats["rules"]["matched"], stats["rules"]["delivered"]) == (1, 3, 3)
            assert [each["name"] for each in stats["by_rule"]] == ["greet"]


async def test_rules_in_trouble_are_told_of_before_busy_ones() -> None:
    rules = [rule("busy", matched=9), rule("idle"), rule("failed", failed=1), rule("lags", lags=1, matched=1)]
    assert [each.name for each in telling(rules, 3)] == ["lags", "failed", "busy"]


# Sources and tool servers


async def test_a_source_is_told_with_its_definition_and_without_its_secrets(tmp_path: Path) -> None:
    said = {
        "enabled": False,
        "description": "The front door",
        "command": ["python", "server.py", "--token", "tulip"],
        "environment": {"TOKEN": "tulip"},
        "metadata": {"room": "hall", "apiKey": "tulip"},
        "eventTypes": ["door.*"],
    }
    source(tmp_path, "door", said)
    async with hosted(tmp_path) as environment, asking(environment) as http:
        answer = await http.get("/sources/door")
    assert "tulip" not in answer.text
    detail = answer.json()
    assert detail["status"] == "stopped"
    definition = detail["definition"]
    assert definition["description"] == "The front door"
    assert definition["command"][1:] == ["server.py", "--token", "(hidden)"]
    assert definition["environment"] == ["TOKEN"]
    assert definition["metadata"] == {"room": "hall", "apiKey": "(hidden)"}
    assert definition["event_types"] == ["door.*"]
    assert definition["enabled"] is False


async def test_a_source_whose_configuration_cannot_be_used_has_no_definition(tmp_path: Path) -> None:
    source(tmp_path, "door", {"command": 5})
    async with hosted(tmp_path) as environment, asking(environment) as http:
        assert (await http.get("/sources/door")).json()["definition"] is None
        test = (await http.post("/sources/door/test")).json()
    assert (test["passed"], test["running"]) == (False, False)
    assert test["checks"][0]["name"] == "configuration"
    assert "command: expected a list of strings" in test["checks"][0]["detail"]


async def test_a_running_source_is_tested_by_asking_it(tmp_path: Path) -> None:
    source(tmp_path, "door")
    async with hosted(tmp_path) as environment, asking(environment) as http:
        await until(lambda: environment.source_status("door").published == 1)
        await until(lambda: environment.source_status("door").status is EventSourceStatus.RUNNING)
        test = (await http.post("/sources/door/test")).json()
        assert (test["passed"], test["running"]) == (True, True)
        passed = {check["name"]: check["passed"] for check in test["checks"]}
        assert passed == {"configuration": True, "secrets": True, "program": True, "server": True, "events": True}
        (tmp_path / "eventsources/door/config.jsonc").write_text('{"note": 1, "url": 5}')
        test = (await http.post("/sources/door/test")).json()
        assert test["passed"] is False
        assert environment.source_status("door").status is EventSourceStatus.RUNNING
        assert (await http.post("/sources/dor/test")).status_code == 404


@pytest.mark.parametrize(
    ("config", "failed", "detail"),
    [
        ({"command": ["./nowhere"]}, "program", "nowhere is not there"),
        ({"environment": {"TOKEN": "${env:SURELY_NOT_SET}"}}, "secrets", "SURELY_NOT_SET"),
    ],
)
async def test_what_a_source_lacks_is_found_without_starting_it(
    tmp_path: Path, config: dict[str, Any], failed: str, detail: str
) -> None:
    source(tmp_path, "door", {"autoStart": False, **config})
    async with hosted(tmp_path) as environment, asking(environment) as http:
        test = (await http.post("/sources/door/test")).json()
    assert test["passed"] is False
    found = next(check for check in test["checks"] if check["name"] == failed)
    assert found["passed"] is False
    assert detail in found["detail"]


async def test_tool_servers_are_shown_and_told_what_to_do(tmp_path: Path) -> None:
    source(tmp_path, "door", {"enabled": False})
    (tmp_path / "todo.py").write_text(TODO)
    clients = {"todo": {"type": "local", "command": ["python", "todo.py"], "autoStart": False}}
    async with (
        hosted(tmp_path, mcp={"clients": clients, **NO_CLIENT_IS_A_SOURCE}) as environment,
        asking(environment) as http,
    ):
        listed = (await http.get("/servers")).json()["servers"]
        assert [(each["name"], each["status"]) for each in listed] == [("todo", "stopped")]
        await http.post("/servers/todo/start")
        await until(lambda: environment.server_status("todo").status is EventSourceStatus.RUNNING)
        shown = (await http.get("/servers/todo")).json()
        assert "tools" in shown["offers"]
        assert shown["pid"]
        await http.post("/servers/todo/restart")
        await until(lambda: environment.server_status("todo").status is EventSourceStatus.RUNNING)
        assert (await http.get("/servers/todo")).json()["pid"] != shown["pid"]
        assert (await http.post("/servers/todo/stop")).json()["status"] == "stopped"
        missing = await http.get("/servers/door")
        assert missing.status_code == 404
        assert "there are: todo" in missing.json()["error"]["message"]
        assert (await http.post("/servers/todo/enable")).status_code == 404


# Rules


async def test_a_rule_is_told_as_it_is_configured_and_how_it_fares(tmp_path: Path) -> None:
    hook = {"webhook": "http://127.0.0.1:9/x", "headers": {"Authorization": "tulip", "X": "${env:X}"}}
    rules = [GREET, {"name": "hook", "on": "never.*", "do": hook}]
    async with hosted(tmp_path, *rules) as environment, asking(environment) as http:
        await emit(http, "door.opened", size=5)
        await until(lambda: environment.rule_status("greet").delivered == 1)
        greet = (await http.get("/rules/greet")).json()
        assert greet["definition"] == GREET
        assert (greet["file"], greet["on"], greet["state"]) == ("config.jsonc", ["door.*"], "running")
        assert (greet["matched"], greet["delivered"], greet["switched"]) == (1, 1, None)
        answer = await http.get("/rules/hook")
        assert "tulip" not in answer.text
        headers = answer.json()["definition"]["do"]["headers"]
        assert headers == {"Authorization": "(hidden)", "X": "${env:X}"}
        missing = await http.get("/rules/gret")
        assert missing.status_code == 404
        assert 'did you mean "greet"?' in missing.json()["error"]["message"]


async def test_a_rule_that_is_disabled_stays_so_after_a_reload_and_a_restart(tmp_path: Path) -> None:
    text = json.dumps(GREET)
    async with hosted(tmp_path, GREET, {**GREET, "name": "other"}) as environment, asking(environment) as http:
        written = (tmp_path / "config.jsonc").read_text()
        assert (await http.post("/rules/greet/disable")).json()["state"] == "disabled"
        await emit(http, "door.opened", size=5)
        await until(lambda: environment.rule_status("other").delivered == 1)
        assert environment.rule_status("greet").matched == 0
        await environment.reload()
        assert environment.rule_status("greet").state is RuleState.DISABLED
        assert (await http.get("/rules/greet")).json()["switched"] is False
        assert (await http.get("/rules")).json()["rules"][0]["state"] == "disabled"
        assert (tmp_path / "config.jsonc").read_text() == written
    assert load_state(tmp_path).rules == {"greet": False}
    async with hosted(tmp_path, GREET) as environment, asking(environment) as http:
        assert environment.rule_status("greet").state is RuleState.DISABLED
        assert (await http.post("/rules/greet/enable")).json()["state"] == "running"
        await emit(http, "door.opened", size=5)
        await until(lambda: environment.rule_status("greet").delivered == 1)
    assert json.loads(text) == GREET


async def test_a_rule_that_its_file_disables_can_be_enabled_and_that_can_be_taken_back(tmp_path: Path) -> None:
    async with hosted(tmp_path, {**GREET, "enabled": False}) as environment, asking(environment) as http:
        assert environment.rule_status("greet").state is RuleState.DISABLED
        await http.post("/rules/greet/enable")
        await emit(http, "door.opened", size=5)
        await until(lambda: environment.rule_status("greet").delivered == 1)
        (tmp_path / "var/state.json").unlink()
        await environment.reload()
        assert environment.rule_status("greet").state is RuleState.DISABLED
        assert (await http.post("/rules/gret/enable")).status_code == 404
        assert not (tmp_path / "var/state.json").exists()


async def test_a_rule_whose_name_is_not_plain_is_reached_too(tmp_path: Path) -> None:
    name = "a/b c/test%"
    async with hosted(tmp_path, {**GREET, "name": name}) as environment, asking(environment) as http:
        path = f"/rules/{quote(name, safe='')}"
        assert (await http.get(path)).json()["name"] == name
        assert (await http.post(f"{path}/disable")).json()["state"] == "disabled"
        tried = await http.post(f"{path}/test", json={"event": {"type": "door.opened"}})
        assert (tried.json()["rule"], tried.json()["fate"]) == (name, "disabled")


async def test_a_source_and_a_rule_of_one_name_are_switched_each_for_itself(tmp_path: Path) -> None:
    source(tmp_path, "greet", {"autoStart": False})
    async with hosted(tmp_path, GREET) as environment:
        await environment.disable_rule("greet")
        await environment.disable_source("greet")
        await environment.enable_rule("greet")
    state = load_state(tmp_path)
    assert (state.enabled, state.rules) == ({"greet": False}, {"greet": True})


async def test_a_rule_is_tried_on_an_event_and_nothing_is_done(tmp_path: Path) -> None:
    async with hosted(tmp_path, GREET) as environment, asking(environment) as http:
        head = environment.bus.journal.head
        runs = (await http.post("/rules/greet/test", json={"event": {"type": "door.o", "payload": {"size": 5}}})).json()
        assert runs == {
            "rule": "greet",
            "matches": True,
            "fate": "runs",
            "actions": [{"kind": "log", "does": {"log": "5", "level": "info"}}],
        }
        event = {"type": "door.o", "payload": {"size": 1}}
        no = (await http.post("/rules/greet/test", json={"event": event, "at": "2026-01-05T12:00:00Z"})).json()
        assert (no["matches"], no["stopped_by"]["clause"]) == (False, "when")
        assert no["stopped_by"]["seen"] == [{"field": "payload.size", "value": 1}]
        for body in ({}, {"event": {}}, {"event": event, "at": "yesterday"}, {"event": event, "att": 1}):
            refused = await http.post("/rules/greet/test", json=body)
            assert refused.status_code == 400, body
            assert refused.json()["error"]["code"] == -32602
        assert environment.rule_status("greet").matched == 0
        assert environment.bus.journal.head == head


async def test_answers_are_what_the_description_says(tmp_path: Path) -> None:
    source(tmp_path, "door", {"autoStart": False})
    (tmp_path / "todo.py").write_text(TODO)
    clients = {"todo": {"type": "local", "command": ["python", "todo.py"], "autoStart": False}}
    broken = {"name": "broken", "on": "door.*", "do": {"exec": ["./nowhere"], "retry": {"attempts": 1}}}
    config = {"mcp": {"clients": clients, **NO_CLIENT_IS_A_SOURCE}}
    async with hosted(tmp_path, GREET, broken, **config) as environment, asking(environment) as http:
        await emit(http, "door.opened", size=1)
        await until(lambda: environment.rule_status("broken").failed == 1)
        description = (await http.get("/openapi.json")).json()
        while not (letters := (await http.get("/dead-letters")).json()["dead_letters"]):
            await anyio.sleep(0.01)
        number = str(letters[0]["id"])
        event = {"type": "door.opened", "payload": {"size": 1}}
        asked: list[tuple[str, str, str, Any]] = [
            ("GET", "/health/detailed", "", None),
            ("GET", "/health/live", "", None),
            ("GET", "/health/ready", "", None),
            ("GET", "/info", "", None),
            ("GET", "/stats", "", None),
            ("GET", "/status", "", None),
            ("GET", "/sources", "", None),
            ("GET", "/sources/{name}", "door", None),
            ("POST", "/sources/{name}/test", "door", None),
            ("GET", "/servers", "", None),
            ("GET", "/servers/{name}", "todo", None),
            ("GET", "/rules", "", None),
            ("GET", "/rules/{name}", "greet", None),
            ("POST", "/rules/{name}/test", "greet", {"event": event}),
            ("POST", "/rules/{name}/test", "broken", {"event": event}),
            ("POST", "/reload", "", None),
            ("GET", "/dead-letters", "", None),
            ("GET", "/dead-letters/{number}", number, None),
            ("POST", "/dead-letters/{number}/discard", number, None),
        ]
        for method, path, name, body in asked:
            answer = await http.request(method, re.sub(r"{\w+}", name, path), json=body)
            assert answer.status_code == 200, (path, answer.text)
            said = description["paths"][path][method.lower()]["responses"]["200"]["content"]["application/json"]
            whole = {**said["schema"], "components": description["components"]}
            jsonschema.validate(answer.json(), whole)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"headers": {"X": "a"}}, {"headers": {"X": "(hidden)"}}),
        ({"headers": {"X": "Bearer ${env:T}"}}, {"headers": {"X": "Bearer ${env:T}"}}),
        ({"env": {"PORT": 8}}, {"env": {"PORT": 8}}),
        (
            {"do": [{"arguments": {"api_key": "a", "key": "b"}}]},
            {"do": [{"arguments": {"api_key": "(hidden)", "key": "b"}}]},
        ),
        ({"url": "http://me:pw@host:1/x?y=1"}, {"url": "http://me:(hidden)@host:1/x?y=1"}),
        ({"url": "http://me:${env:PW}@host/"}, {"url": "http://me:${env:PW}@host/"}),
        ({"url": "http://[bad"}, {"url": "http://[bad"}),
        ({"password": ["a", {"b": "c"}]}, {"password": ["(hidden)", {"b": "(hidden)"}]}),
    ],
)
async def test_secrets_that_stand_in_a_file_are_not_shown(said: Any, told: Any) -> None:
    assert shown(said) == told
