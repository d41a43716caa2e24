"""Rules: how they are read, and how the engine runs them; the actions' far ends are fakes."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from structlog.testing import capture_logs

from eventhost.actions import KINDS, Hands
from eventhost.actions.caused import MAX_HOPS
from eventhost.actions.exec import MAX_LINES
from eventhost.actions.step import Retry
from eventhost.bus import EnvEventBus
from eventhost.config.tree import Tree
from eventhost.errors import ConfigError, ConnectionLost, NotFound
from eventhost.event import MAX_DEPTH, EnvEvent
from eventhost.expression import Condition, ExpressionError, Template
from eventhost.expression.engine import FUEL
from eventhost.expression.views import MAX_READS, MAX_TEXT
from eventhost.journal import Change, MemoryJournal, Pending, Position
from eventhost.pattern import PatternIndex
from eventhost.rules import Limits, Rule, RuleEngine, RuleState, RuleStatistics, parse_rules
from eventhost.rules.shaping import KEYS as SHAPING_KEYS

LIMIT_S = 20
"""Never reached unless something is broken."""

QUICK = Limits(retry=Retry(delay_s=0.001, max_delay_s=0.002))


def tree(value: Any) -> Tree:
    return Tree.parse(json.dumps({"rules": value}, indent=2), "config.jsonc").at("rules")


def rules(*values: dict[str, Any]) -> list[Rule]:
    return parse_rules(tree(list(values)))


# Reading


def test_a_rule_needs_no_more_than_what_it_does() -> None:
    (rule,) = rules({"do": {"log": "something happened"}})
    assert (rule.name, rule.on, rule.match, rule.when, rule.concurrency, rule.enabled) == (
        "rule-1", ("*",), None, None, 1, True,
    )  # fmt: skip
    assert [step.action.kind for step in rule.steps] == ["log"]


def test_no_rules_are_no_problem() -> None:
    assert parse_rules(Tree({}).at("rules")) == []
    assert parse_rules(tree([])) == []


def test_rules_are_equal_when_they_are_configured_alike() -> None:
    one = {"name": "a", "on": "t", "match": {"payload": {"x": 1}}, "when": "id == '1'", "do": {"log": "x"}}
    assert rules(one) == rules(one)
    assert rules(one) != rules({**one, "when": "id == '2'"})
    assert rules(one) != rules({**one, "match": {"payload": {"x": True}}})


@pytest.mark.parametrize(
    ("rule", "place", "message"),
    [
        ("log", "rules[0]", "expected a rule, got a string"),
        ({}, "rules[0].do", "this key is required"),
        ({"do": []}, "rules[0].do", "expected actions, got an empty list"),
        ({"do": {"lgo": "x"}}, "rules[0].do.lgo", 'unknown action "lgo"'),
        ({"do": [{"log": "{{ x }}"}]}, "rules[0].do[0].log", "unknown name x"),
        ({"do": {"log": "x"}, "wehn": "true"}, "rules[0].wehn", "unknown key"),
        ({"do": {"log": "x"}, "name": ""}, "rules[0].name", "must not be shorter"),
        ({"do": {"log": "x"}, "on": 5}, "rules[0].on", "expected a string or a list of strings, got a number"),
        ({"do": {"log": "x"}, "on": []}, "rules[0].on", "an empty list matches nothing"),
        ({"do": {"log": "x"}, "on": ""}, "rules[0].on", "an empty type"),
        ({"do": {"log": "x"}, "on": ["a", ""]}, "rules[0].on[1]", "an empty type"),
        ({"do": {"log": "x"}, "match": 5}, "rules[0].match", "a pattern is an object, got a number"),
        ({"do": {"log": "x"}, "match": {}}, "rules[0].match", "empty objects are not allowed"),
        (
            {"do": {"log": "x"}, "match": {"payload": {"temp": [1, {"numeric": [">", "a"]}]}}},
            "rules[0].match.payload.temp[1].numeric",
            "the value of > must be numeric",
        ),
        ({"do": {"log": "x"}, "when": True}, "rules[0].when", "expected a string, got true"),
        ({"do": {"log": "x"}, "when": ""}, "rules[0].when", "must not be shorter"),
        ({"do": {"log": "x"}, "when": "payload.a >"}, "rules[0].when", "column 11: syntax error"),
        ({"do": {"log": "x"}, "when": "paylaod.a > 1"}, "rules[0].when", "unknown name paylaod; did you mean payload?"),
        ({"do": {"log": "x"}, "concurrency": 0}, "rules[0].concurrency", "must be at least 1"),
        ({"do": {"log": "x"}, "enabled": "yes"}, "rules[0].enabled", "expected true or false, got a string"),
    ],
)
def test_a_mistake_in_a_rule_is_told_with_its_place(rule: Any, place: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_rules(tree([rule]))
    (problem,) = caught.value.problems
    assert problem.field == place
    assert message in problem.message
    assert problem.line > 1


def test_all_mistakes_of_all_rules_are_told_at_once() -> None:
    wrong = {"match": {}, "when": "x", "do": [{"log": 1}, {"emit": "host.x"}], "concurrency": 0}
    with pytest.raises(ConfigError) as caught:
        rules({"do": {"log": "x"}}, wrong, {})
    assert sorted(problem.field for problem in caught.value.problems) == [
        "rules[1].concurrency", "rules[1].do[0].log", "rules[1].do[1].emit", "rules[1].match", "rules[1].when",
        "rules[2].do",
    ]  # fmt: skip


def test_names_are_unique() -> None:
    do = {"log": "x"}
    with pytest.raises(ConfigError) as caught:
        rules({"name": "a", "do": do}, {"do": do}, {"name": "a", "do": do}, {"name": "rule-2", "do": do})
    assert [(problem.field, problem.message) for problem in caught.value.problems] == [
        ("rules[2].name", 'the name "a" is that of rules[0] (line 3) too'),
        ("rules[3].name", 'the name "rule-2" is that of rules[1] (line 9) too'),
    ]


def test_what_is_no_list_of_rules_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected a list of rules, got an object"):
        parse_rules(tree({"greet": {}}))


def test_the_module_of_a_function_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "handlers.py").write_text("raise AssertionError('nothing is run')\n")
    there = {"do": [{"python": "handlers:f"}, {"python": "json:dumps"}]}
    assert parse_rules(tree([there]), tmp_path)
    with pytest.raises(ConfigError) as caught:
        parse_rules(tree([there, {"do": {"python": "no.such_module:f"}}]), tmp_path)
    (problem,) = caught.value.problems
    assert problem.field == "rules[1].do.python"
    assert problem.message == "there is no module no.such_module"


# Running


@dataclass
class Far:
    """The far end of all actions: notes the calls of tools, and answers as it is told to."""

    bus: EnvEventBus
    root: Path
    calls: list[tuple[str, Any]] = field(default_factory=list)
    answers: dict[str, Callable[[Any], Any]] = field(default_factory=dict)
    _called: anyio.Event = field(default_factory=anyio.Event)

    async def call_tool(self, name: str, arguments: Any, /, *, timeout_s: float) -> Any:
        self.calls.append((name, arguments.get("n")))
        self._called.set()
        self._called = anyio.Event()
        answer = self.answers.get(name, lambda _: None)(arguments.get("n"))
        return await answer if isinstance(answer, Awaitable) else answer

    async def until_called(self, count: int) -> None:
        with anyio.fail_after(LIMIT_S):
            while len(self.calls) < count:
                await self._called.wait()

    def hands(self) -> Hands:
        def unused(*_: Any, **__: Any) -> Any:
            raise AssertionError("not to be used here")

        return Hands(
            publish=self.bus.publish,
            call_tool=self.call_tool,
            spawn=unused,
            http=httpx2.AsyncClient(transport=httpx2.MockTransport(unused)),
            root=self.root,
            environment={},
            resolve_secret=unused,
        )

    async def publish(self, event_type: str, **payload: Any) -> int:
        with anyio.fail_after(LIMIT_S):
            return await self.bus.publish(
                EnvEvent(str(self.bus.journal.head + 1), event_type, 0, {"source_name": "s"}, payload)
            )

    async def events(self, event_type: str) -> list[EnvEvent]:
        return [event for event in await self.bus.get_recent_events(100_000) if event.type == event_type]


Running = Callable[..., AbstractAsyncContextManager[tuple[RuleEngine, Far]]]


@pytest.fixture
def running(tmp_path: Path) -> Running:
    @asynccontextmanager
    async def run(*values: dict[str, Any], capacity: int = 65_536, **options: Any) -> Any:
        async with EnvEventBus(MemoryJournal(capacity)) as bus:
            far = Far(bus, tmp_path)
            engine = RuleEngine(bus, far.hands(), **{"limits": QUICK, **options})
            await engine.update(rules(*values))
            async with engine:
                yield engine, far

    return run


def call(name: str, **rule: Any) -> dict[str, Any]:
    """A rule that calls the tool of its own name with the event's `n`."""
    return {"name": name, "do": {"tool": name, "arguments": {"n": "{{ payload.n }}"}}, **rule}


async def drained(engine: RuleEngine) -> None:
    assert await engine.drain(LIMIT_S)


def of(engine: RuleEngine, name: str) -> RuleStatistics:
    return next(statistics for statistics in engine.statistics() if statistics.name == name)


@pytest.mark.anyio
async def test_a_rule_runs_when_type_pattern_and_condition_agree(running: Running) -> None:
    rule = call("a", on=["sensor.*", "probe"], match={"payload": {"room": ["x", "y"]}}, when="payload.n > 2")
    async with running(rule) as (engine, far):
        await far.publish("sensor.temp", room="x", n=3)
        await far.publish("probe", room="y", n=4)
        await far.publish("sensor.temp", room="x", n=1)
        await far.publish("sensor.temp", room="z", n=5)
        await far.publish("other", room="x", n=6)
        await drained(engine)
        assert far.calls == [("a", 3), ("a", 4)]
        assert of(engine, "a") == RuleStatistics("a", RuleState.RUNNING, 2, {}, 0, 0, 0, 2, 0, 0, 0, 0, None)


@pytest.mark.anyio
async def test_the_hosts_own_events_are_for_those_who_ask_for_them(running: Running) -> None:
    async with running(call("any"), call("own", on="host.*")) as (engine, far):
        await far.publish("host.gap", n=1)
        await drained(engine)
        assert far.calls == [("own", 1)]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("start", "seen"),
    [
        (None, [3]),
        ("now", [3]),
        ("beginning", [0, 1, 2, 3]),
        (2, [1, 2, 3]),
        (99, [3]),
        ("1h", [0, 1, 2, 3]),
        ("2000-01-01T00:00:00Z", [0, 1, 2, 3]),
        ("2200-01-01T00:00:00Z", [3]),
    ],
)
async def test_a_new_rule_starts_from_now_or_from_where_it_says(tmp_path: Path, start: Any, seen: list[int]) -> None:
    async with EnvEventBus(MemoryJournal()) as bus:
        far = Far(bus, tmp_path)
        for n in range(3):
            await far.publish("t", n=n)
        engine = RuleEngine(bus, far.hands())
        await engine.update(rules(call("a", **({} if start is None else {"from": start}))))
        async with engine:
            await far.publish("t", n=3)
            await drained(engine)
        assert far.calls == [("a", n) for n in seen]


@pytest.mark.anyio
async def test_what_a_host_left_undone_the_next_one_does(tmp_path: Path) -> None:
    async with EnvEventBus(MemoryJournal()) as bus:
        far = Far(bus, tmp_path)
        first = RuleEngine(bus, far.hands())
        await first.update(rules(call("a"), call("b"), call("c", debounce={"for": "1h"})))
        async with first:
            far.answers["a"] = lambda n: anyio.sleep_forever() if n == 2 else None
            for n in range(5):
                await far.publish("t", n=n)
            await far.until_called(8)  # the first three of one, and all of the other
            await anyio.wait_all_tasks_blocked()
        await far.publish("t", n=5)
        far.answers.clear()
        far.calls.clear()
        second = RuleEngine(bus, far.hands())
        await second.update(rules(call("a"), call("b"), call("c", debounce={"for": "1h"}), call("new")))
        async with second:
            await drained(second)
            assert of(second, "c").held == 1
            second.release()
            await drained(second)
        assert [call for call in far.calls if call[0] == "a"] == [("a", n) for n in (2, 3, 4, 5)]
        assert [call for call in far.calls if call[0] != "a"] == [("b", 5), ("c", 5)]


@pytest.mark.anyio
async def test_events_are_dealt_with_in_order(running: Running) -> None:
    async with running(call("a")) as (engine, far):
        far.answers["a"] = lambda n: anyio.lowlevel.checkpoint() if n % 3 else None
        for n in range(50):
            await far.publish("t", n=n)
        await drained(engine)
        assert far.calls == [("a", n) for n in range(50)]


@pytest.mark.anyio
async def test_with_more_concurrency_several_are_dealt_with_at_once(running: Running) -> None:
    async with running(call("a", concurrency=3)) as (engine, far):
        gate = anyio.Event()
        far.answers["a"] = lambda _: gate.wait()
        for n in range(5):
            await far.publish("t", n=n)
        await far.until_called(3)
        await anyio.wait_all_tasks_blocked()
        assert (of(engine, "a").running, of(engine, "a").queued) == (3, 2)
        gate.set()
        await drained(engine)
        assert sorted(far.calls) == [("a", n) for n in range(5)]


@pytest.mark.anyio
async def test_a_stuck_rule_delays_neither_others_nor_who_publishes(running: Running) -> None:
    async with running(call("stuck"), call("quick")) as (engine, far):
        far.answers["stuck"] = lambda _: anyio.sleep_forever()
        for n in range(200):
            await far.publish("t", n=n)
        await far.until_called(201)
        assert [n for name, n in far.calls if name == "quick"] == list(range(200))
        assert of(engine, "stuck").queued == 199
        assert not await engine.drain(0.01)


@pytest.mark.anyio
async def test_a_rule_that_calls_a_tool_of_its_own_flooding_source_does_not_deadlock(running: Running) -> None:
    """The source's answers come behind its events: each is read only after those before it were accepted."""
    async with running(call("a", on="flood")) as (engine, far):
        asked, answered = anyio.create_memory_object_stream[int](0), anyio.create_memory_object_stream[int](0)
        published = 0

        async def source() -> None:
            nonlocal published
            async for n in asked[1]:
                for _ in range(300):
                    published += 1
                    await far.publish("flood", n=published)
                await answered[0].send(n)

        async def tool(n: int) -> None:
            await asked[0].send(n)
            await answered[1].receive()

        far.answers["a"] = tool
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(source)
            await far.publish("flood", n=0)
            await far.until_called(20)
            tasks.cancel_scope.cancel()
        for stream in (*asked, *answered):
            stream.close()
        assert published >= 19 * 300
        assert [n for _, n in far.calls] == list(range(len(far.calls)))
        await engine.aclose()


@pytest.mark.anyio
async def test_a_rule_for_which_too_many_wait_lags_and_misses_nothing(running: Running) -> None:
    async with running(call("a"), limits=Limits(queue=10)) as (engine, far):
        gate = anyio.Event()
        far.answers["a"] = lambda _: gate.wait()
        await far.publish("t", n=0)
        await far.until_called(1)
        with capture_logs() as lines:
            for n in range(1, 31):
                await far.publish("t", n=n)
            await anyio.wait_all_tasks_blocked()
        assert (of(engine, "a").queued, of(engine, "a").lags) == (10, 20)
        assert lines == []
        gate.set()
        await drained(engine)
        assert [n for _, n in far.calls] == list(range(31))
        assert (of(engine, "a").delivered, of(engine, "a").lags) == (31, 0)


@pytest.mark.anyio
async def test_the_more_rules_are_stuck_the_fewer_runs_wait_for_each_and_nothing_is_missed(running: Running) -> None:
    names = [f"rule-{number}" for number in range(50)]
    async with running(*map(call, names), limits=Limits(queue=1_000, runs=1_000)) as (engine, far):
        gate = anyio.Event()
        for name in names:
            far.answers[name] = lambda _: gate.wait()
        await far.publish("t", n=0)
        await far.until_called(len(names))
        for n in range(1, 101):
            await far.publish("t", n=n)
        await anyio.wait_all_tasks_blocked()
        assert {(of(engine, name).queued, of(engine, name).lags) for name in names} == {(20, 80)}
        gate.set()
        await drained(engine)
        for name in names:
            assert [n for called, n in far.calls if called == name] == list(range(101))


@pytest.mark.anyio
async def test_a_failing_action_is_tried_again_and_the_others_are_not(running: Running) -> None:
    do = [{"tool": name, "arguments": {"n": "{{ payload.n }}"}} for name in ("before", "shaky", "after")]
    async with running({"name": "a", "do": do}) as (engine, far):
        failures = iter([ConnectionLost("gone"), ConnectionLost("gone"), None])

        def shaky(_: Any) -> None:
            if error := next(failures):
                raise error

        far.answers["shaky"] = shaky
        await far.publish("t", n=1)
        await drained(engine)
        assert [name for name, _ in far.calls] == ["before", "shaky", "shaky", "shaky", "after"]
        assert (of(engine, "a").delivered, of(engine, "a").failed) == (1, 0)
        assert of(engine, "a").last_error == "tool: gone"
        assert not await far.events("host.dead_letter")


def failing(error: Exception) -> Callable[[Any], Any]:
    def answer(_: Any) -> Any:
        raise error

    return answer


@pytest.mark.anyio
@pytest.mark.parametrize(("error", "attempts"), [(ConnectionLost("gone"), 10), (NotFound("no such tool"), 1)])
async def test_what_fails_for_good_is_counted_logged_and_told(
    running: Running, error: Exception, attempts: int
) -> None:
    do = [{"tool": "a", "arguments": {"n": 1}}, {"tool": "never"}]
    async with running({"name": "r", "do": do}) as (engine, far):
        far.answers["a"] = failing(error)
        with capture_logs() as lines:
            await far.publish("t", n=1)
            await drained(engine)
        assert far.calls == [("a", 1)] * attempts
        assert (of(engine, "r").delivered, of(engine, "r").failed) == (0, 1)
        (line,) = (line for line in lines if line["log_level"] == "error")
        assert (line["event"], line["rule"], line["attempts"]) == ("dead_letter", "r", attempts)
        (event,) = await far.events("host.dead_letter")
        assert event.metadata["source_name"] == "host"
        assert event.metadata["causation_id"] == "s:1"
        assert event.payload == {
            "rule": "r",
            "action": "tool",
            "place": "0",
            "seq": 1,
            "event": "s:1",
            "type": "t",
            "attempts": attempts,
            "error": f"tool: {error}",
        }


@pytest.mark.anyio
async def test_a_failure_is_the_rules_own(running: Running) -> None:
    async with running(call("a"), call("b")) as (engine, far):
        far.answers["a"] = failing(ZeroDivisionError("a mistake in the host"))
        for n in range(3):
            await far.publish("t", n=n)
        with capture_logs():
            await drained(engine)
        assert (of(engine, "a").failed, of(engine, "b").delivered) == (3, 3)
        assert of(engine, "a").last_error == "tool: ZeroDivisionError: a mistake in the host"


@pytest.mark.anyio
async def test_a_rule_about_failures_that_fails_does_not_go_on_for_ever(running: Running) -> None:
    async with running(call("a", on=["t", "host.dead_letter"]), call("b", on=["t", "host.*"])) as (engine, far):
        far.answers["a"] = far.answers["b"] = failing(NotFound("no such tool"))
        with capture_logs():
            await far.publish("t", n=1)
            await drained(engine)
        assert len(await far.events("host.dead_letter")) == 2
        # Each rule failed for the event, and for what was told of either failure.
        assert of(engine, "a").failed == of(engine, "b").failed == 3


@pytest.mark.anyio
async def test_a_loop_of_rules_ends(running: Running) -> None:
    loop = {"name": "ping", "on": "a", "do": {"emit": "b"}}, {"name": "pong", "on": "b", "do": {"emit": "a"}}
    async with running(*loop) as (engine, far):
        with capture_logs():
            await far.publish("a")
            await drained(engine)
        assert len(await far.events("a")) + len(await far.events("b")) == 1 + MAX_HOPS
        assert of(engine, "ping").failed + of(engine, "pong").failed == 1


@pytest.mark.anyio
async def test_a_condition_that_cannot_be_told_is_no_match_and_said_once_a_minute(running: Running) -> None:
    now = 0.0
    async with running(call("a", when="payload.temp > 5"), monotonic=lambda: now) as (engine, far):
        with capture_logs() as lines:
            for _ in range(3):
                await far.publish("t", n=1)
                await drained(engine)
                now += 25
            await far.publish("t", n=2, temp=6)
            await drained(engine)
            assert len(lines) == 1
            await far.publish("t", n=1)
            await drained(engine)
        assert [line["event"] for line in lines] == ["rule_condition_failed"] * 2
        assert far.calls == [("a", 2)]
        assert (of(engine, "a").matched, of(engine, "a").condition_errors) == (1, 4)
        assert "payload.temp" in (of(engine, "a").last_error or "")


@pytest.mark.anyio
async def test_what_an_earlier_host_left_undone_counts_as_matched(tmp_path: Path) -> None:
    journal = MemoryJournal()
    metadata = {"source": "s", "source_name": "s"}
    await journal.append([EnvEvent(str(n), "t", 1, metadata, {"n": n}) for n in (1, 2, 3)])
    pending = [Pending("a", 1, (1,), 0), Pending("a", 3, (2, 3), 0)]
    await journal.save(Change(low=3, positions=[Position("a", 3)], pending=pending))
    async with EnvEventBus(journal) as bus:
        engine = RuleEngine(bus, Far(bus, tmp_path).hands(), limits=QUICK)
        await engine.update(rules(call("a")))
        async with engine:
            await drained(engine)
            assert (of(engine, "a").matched, of(engine, "a").delivered) == (3, 2)


@pytest.mark.anyio
async def test_a_rule_that_fails_again_and_again_is_failing_until_it_succeeds(running: Running) -> None:
    async with running(call("a", when="payload.temp > 5")) as (engine, far):

        async def after(**payload: Any) -> RuleState:
            await far.publish("t", **payload)
            await drained(engine)
            return of(engine, "a").state

        with capture_logs():
            assert [await after(n=n) for n in range(3)] == [RuleState.RUNNING, RuleState.RUNNING, RuleState.FAILING]
            assert await after(temp=1) == RuleState.RUNNING  # the condition can be told, though it does not hold
            far.answers["a"] = failing(NotFound("no such tool"))
            states = [await after(n=n, temp=6) for n in range(3)]
            assert states == [RuleState.RUNNING, RuleState.RUNNING, RuleState.FAILING]
            assert of(engine, "a").last_error == "tool: no such tool"
            await engine.update(rules(call("a", when="payload.temp > 4")))
            assert of(engine, "a").state == RuleState.RUNNING
            assert [await after(n=n, temp=6) for n in range(3)][-1] == RuleState.FAILING
            del far.answers["a"]
            assert await after(n=1, temp=6) == RuleState.RUNNING


@pytest.mark.anyio
async def test_a_throttled_rule_runs_so_often_and_counts_the_rest(running: Running) -> None:
    rule = call("a", throttle={"limit": 2, "per": "1h", "key": "{{ payload.room }}"})
    async with running(rule) as (engine, far):
        for n in range(10):
            await far.publish("t", n=n, room="xy"[n % 2])
        await drained(engine)
        assert far.calls == [("a", 0), ("a", 1), ("a", 2), ("a", 3)]
        statistics = of(engine, "a")
        assert (statistics.matched, statistics.delivered, statistics.suppressed) == (10, 4, {"throttled": 6})
        # An edit of something else begins no new hour.
        await engine.update(rules({**rule, "when": "payload.n < 100"}))
        await far.publish("t", n=10, room="x")
        await drained(engine)
        assert of(engine, "a").suppressed == {"throttled": 7}


@pytest.mark.anyio
async def test_what_is_held_runs_when_its_time_has_come(running: Running) -> None:
    quiet = call("quiet", on="t", debounce={"for": "30ms"})
    gathered = {
        "name": "gathered",
        "on": "t",
        "batch": {"max": 100, "within": "30ms"},
        "do": {"tool": "gathered", "arguments": {"n": "{{ events | map(attribute='payload.n') | list }}"}},
    }
    missing = call("missing", on="t", absence={"of": "answer", "within": "30ms", "key": "{{ payload.n }}"})
    async with running(quiet, gathered, missing) as (engine, far):
        for n in range(3):
            await far.publish("t", n=n)
        await far.publish("answer", n=1)
        await far.until_called(4)
        await drained(engine)
        assert sorted(far.calls, key=str) == [
            ("gathered", [0, 1, 2]), ("missing", 0), ("missing", 2), ("quiet", 2),
        ]  # fmt: skip
        assert of(engine, "quiet").suppressed == {"superseded": 2}
        assert of(engine, "missing").suppressed == {"answered": 1}
        assert of(engine, "gathered").delivered == 1


@pytest.mark.anyio
async def test_a_heartbeat_that_goes_on_is_not_missed(running: Running) -> None:
    watch = call("silent", on="beat", absence={"of": "beat", "within": "1h"})
    async with running(watch) as (engine, far):
        for n in range(5):
            await far.publish("beat", n=n)
        await drained(engine)
        assert (far.calls, of(engine, "silent").held) == ([], 1)
        assert of(engine, "silent").suppressed == {"answered": 4}


@pytest.mark.anyio
async def test_what_is_held_can_be_begun_at_once_since_the_host_stops(running: Running) -> None:
    async with running(call("a", debounce={"for": "1h"})) as (engine, far):
        await far.publish("t", n=1)
        await drained(engine)
        assert (far.calls, of(engine, "a").held) == ([], 1)
        engine.release()
        await drained(engine)
        assert (far.calls, of(engine, "a").held) == ([("a", 1)], 0)


@pytest.mark.anyio
async def test_an_edit_of_the_shaping_lets_go_what_it_held_and_disabling_forgets_it(running: Running) -> None:
    async with running(call("a", debounce={"for": "1h"}), call("b", debounce={"for": "1h"})) as (engine, far):
        await far.publish("t", n=1)
        await drained(engine)
        with capture_logs() as lines:
            await engine.update(rules(call("a"), call("b", debounce={"for": "1h"}, enabled=False)))
        await drained(engine)
        assert far.calls == [("a", 1)]
        assert [(line["event"], line["rule"]) for line in lines] == [("rule_queue_discarded", "b")]
        await engine.update(rules(call("a"), call("b", debounce={"for": "1h"})))
        assert of(engine, "b").held == 0


@pytest.mark.anyio
async def test_an_event_that_is_too_old_when_its_turn_comes_has_expired(running: Running) -> None:
    now_ms = 1_000
    async with running(call("a", maxAge="1s"), wall_ms=lambda: now_ms) as (engine, far):
        gate = anyio.Event()
        far.answers["a"] = lambda _: gate.wait()
        for n in range(3):  # all are of the time 0
            await far.publish("t", n=n)
        await far.until_called(1)
        now_ms = 1_001
        await far.publish("t", n=3)
        gate.set()
        await drained(engine)
        assert far.calls == [("a", 0)]
        assert of(engine, "a").suppressed == {"expired": 3}


@pytest.mark.anyio
async def test_an_update_touches_only_rules_that_differ(running: Running) -> None:
    async with running(call("same"), call("edited"), call("gone")) as (engine, far):
        gate = anyio.Event()
        for name in ("same", "edited", "gone"):
            far.answers[name] = lambda _: gate.wait()
        for n in range(3):
            await far.publish("t", n=n)
        await far.until_called(3)
        edited = {"name": "edited", "do": {"tool": "other", "arguments": {"n": "{{ payload.n * 10 }}"}}}
        with capture_logs() as lines:
            await engine.update(rules(call("new"), edited, call("same")))
        assert [(line["event"], line["rule"]) for line in lines] == [("rule_queue_discarded", "gone")]
        await far.publish("t", n=3)
        gate.set()
        await drained(engine)
        assert [statistics.name for statistics in engine.statistics()] == ["new", "edited", "same"]
        assert [call for call in far.calls if call[0] == "same"] == [("same", n) for n in range(4)]
        # What was being done is finished as it was begun; what waited is dealt with as the rule says now.
        assert [call for call in far.calls if call[0] in ("edited", "other")] == [
            ("edited", 0), ("other", 10), ("other", 20), ("other", 30),
        ]  # fmt: skip
        assert [call for call in far.calls if call[0] == "gone"] == [("gone", 0)]
        assert [call for call in far.calls if call[0] == "new"] == [("new", 3)]
        assert of(engine, "edited").delivered == 4


@pytest.mark.anyio
async def test_a_disabled_rule_does_nothing_until_it_is_enabled(running: Running) -> None:
    async with running(call("a", enabled=False)) as (engine, far):
        await far.publish("t", n=1)
        await drained(engine)
        assert of(engine, "a").state == RuleState.DISABLED
        await engine.update(rules(call("a")))
        await far.publish("t", n=2)
        await drained(engine)
        await engine.update(rules(call("a", enabled=False)))
        await far.publish("t", n=3)
        await drained(engine)
        assert far.calls == [("a", 2)]


@pytest.mark.anyio
async def test_a_rule_that_is_disabled_or_gone_forgets_what_waits_and_finishes_what_it_does(running: Running) -> None:
    async with running(call("a"), call("b")) as (engine, far):
        gate = anyio.Event()
        far.answers["a"] = far.answers["b"] = lambda _: gate.wait()
        for n in range(3):
            await far.publish("t", n=n)
        await far.until_called(2)
        with capture_logs() as lines:
            await engine.update(rules(call("a", enabled=False)))
            assert not await engine.drain(0.01)
        assert [line["event"] for line in lines] == ["rule_queue_discarded"] * 2 + ["rules_not_drained"]
        await engine.update([])
        with capture_logs():
            assert not await engine.drain(0.01)
        gate.set()
        await drained(engine)
        assert sorted(far.calls) == [("a", 0), ("b", 0)]


@pytest.mark.anyio
async def test_concurrency_is_changed_at_once(running: Running) -> None:
    async with running(call("a")) as (engine, far):
        gates = [anyio.Event() for _ in range(8)]
        far.answers["a"] = lambda n: gates[n].wait()
        for n in range(8):
            await far.publish("t", n=n)
        await far.until_called(1)
        await engine.update(rules(call("a", concurrency=3)))
        await far.until_called(3)
        await engine.update(rules(call("a", concurrency=1)))
        for n in range(3):
            gates[n].set()
        await far.until_called(4)
        await anyio.wait_all_tasks_blocked()
        assert of(engine, "a").running == 1
        for gate in gates:
            gate.set()
        await drained(engine)
        assert far.calls == [("a", n) for n in range(8)]


@pytest.mark.anyio
async def test_draining_waits_for_what_the_actions_emit(running: Running) -> None:
    chain = [{"name": f"r{n}", "on": f"e{n}", "do": {"emit": f"e{n + 1}", "payload": {"n": n}}} for n in range(8)]
    async with running(*chain, call("last", on="e8")) as (engine, far):
        await far.publish("e0")
        await drained(engine)
        assert far.calls == [("last", 7)]


@pytest.mark.anyio
async def test_after_the_bus_is_closed_what_was_accepted_is_still_dealt_with(running: Running) -> None:
    async with running(call("a")) as (engine, far):
        for n in range(5):
            await far.publish("t", n=n)
        await far.bus.aclose()
        await drained(engine)
        assert len(far.calls) == 5


@pytest.mark.anyio
async def test_what_the_journal_no_longer_holds_is_counted(running: Running) -> None:
    async with running(call("a"), capacity=10) as (engine, far):
        await far.bus.publish_batch([EnvEvent(str(n), "t", 0, {}, {"n": n}) for n in range(25)])
        with capture_logs() as lines:
            await drained(engine)
        assert engine.missed == 15
        assert [n for _, n in far.calls] == list(range(15, 25))
        assert [line["event"] for line in lines] == ["rules_missed_events"]


@pytest.mark.anyio
async def test_the_deepest_event_that_is_accepted_is_matched(running: Running) -> None:
    objects: Any = 1
    lists: Any = 1
    for _ in range(MAX_DEPTH - 2):
        objects, lists = {"a": objects}, [lists]
    rule = call("a", match={"payload": {"lists": 1, "objects": {"a": {"a": {"b": [1]}}}}}, when="payload.n == 1")
    async with running(rule, call("b", match={"payload": {"lists": 1}})) as (engine, far):
        await far.publish("t", n=1, lists=lists, objects=objects)
        await drained(engine)
        assert far.calls == [("b", 1)]


@pytest.mark.anyio
async def test_leaving_ends_what_is_being_done(running: Running) -> None:
    with anyio.fail_after(LIMIT_S):
        async with running(call("a", concurrency=2)) as (_, far):
            ended: list[int] = []

            async def forever(n: int) -> None:
                try:
                    await anyio.sleep_forever()
                finally:
                    ended.append(n)

            far.answers["a"] = forever
            for n in range(3):
                await far.publish("t", n=n)
            await far.until_called(2)
    assert sorted(ended) == [0, 1]


# The documentation

DOCUMENT = (Path(__file__).parent.parent / "docs" / "rules.md").read_text()
BLOCKS = re.findall(r"(?:^(Run for|Do not run for):\n\n)?^```(jsonc?)\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)


def from_json(value: dict[str, Any]) -> EnvEvent:
    return EnvEvent(
        value.get("id", "1"),
        value["type"],
        value.get("timestamp", 0),
        value.get("metadata", {"source_name": "s"}),
        value.get("payload", {}),
    )


def documented_rules() -> list[tuple[str, list[EnvEvent], list[EnvEvent]]]:
    """Each example of rules, with the events for which it says that one of them runs, or that none does."""
    found: list[tuple[str, list[EnvEvent], list[EnvEvent]]] = []
    for says, language, text in BLOCKS:
        if language == "jsonc":
            found.append((text, [], []))
        elif says:
            found[-1][1 if says == "Run for" else 2].extend(from_json(json.loads(line)) for line in text.splitlines())
    return found


NOW_MS = 1_700_000_090_500
"""When the documented event was accepted, as it is said there."""


def documented_event() -> EnvEvent:
    (text,) = (text for says, language, text in BLOCKS if language == "json" and not says)
    return from_json(json.loads(text))


def documented_table(heading: str) -> list[tuple[str, str]]:
    rows = DOCUMENT.partition(f"| {heading} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [(cells[1], cells[2]) for row in rows if (cells := re.split(r"\s*(?<!\\)\|\s*", row.replace("`", "")))]


@pytest.mark.parametrize(("text", "run_for", "not_for"), documented_rules())
def test_documented_rules_run_when_they_are_said_to(
    text: str, run_for: list[EnvEvent], not_for: list[EnvEvent]
) -> None:
    tree = Tree.parse(text, "rules.md")
    made = parse_rules(tree if isinstance(tree.value, list) else Tree([tree.value], "rules.md"))
    index = PatternIndex[int]()
    for number, rule in enumerate(made):
        index.add(number, rule.on, rule.match)

    def running(event: EnvEvent) -> list[Rule]:
        return [made[number] for number in index.match(event) if holds(made[number].when, event)]

    assert [event for event in run_for if not running(event)] == []
    assert [event for event in not_for if running(event)] == []


def holds(condition: Condition | None, event: EnvEvent) -> bool:
    try:
        return condition is None or condition.holds(event, at_ms=NOW_MS)
    except ExpressionError:
        return False


@pytest.mark.parametrize(("condition", "result"), documented_table("condition"))
def test_documented_conditions_give_what_they_are_said_to(condition: str, result: str) -> None:
    made = Condition(condition.replace("\\|", "|"))
    if result == "error":
        with pytest.raises(ExpressionError):
            made.holds(documented_event(), at_ms=NOW_MS)
    else:
        assert made.holds(documented_event(), at_ms=NOW_MS) is json.loads(result)


@pytest.mark.parametrize(("template", "value"), documented_table("template"))
def test_documented_templates_give_what_they_are_said_to(template: str, value: str) -> None:
    made = Template(template.replace("\\|", "|"))
    if value == "error":
        with pytest.raises(ExpressionError):
            made.render(documented_event(), at_ms=NOW_MS)
    else:
        rendered = made.render(documented_event(), at_ms=NOW_MS)
        assert rendered == json.loads(value)
        assert type(rendered) is type(json.loads(value))


def test_the_documentation_opens_with_rules_of_type_and_condition_only() -> None:
    opening = Tree.parse(documented_rules()[0][0], "rules.md").value
    assert len(opening) == 3
    assert {key for rule in opening for key in rule} == {"on", "when", "do"}
    assert [len(table) > 10 for table in (documented_table("condition"), documented_table("template"))] == [True, True]
    assert all(f"### `{kind}`" in DOCUMENT for kind in KINDS)
    limits = (FUEL, MAX_READS, MAX_TEXT, Limits().queue, MAX_LINES)
    assert [limit for limit in limits if f"{limit:,}" not in DOCUMENT] == []
    assert {line.split("`")[1] for line in DOCUMENT.partition("| key |")[2].partition("\n\n")[0].splitlines()[2:]} == {
        "name", "on", "match", "when", "do", "concurrency", "from", "enabled", *SHAPING_KEYS,
    }  # fmt: skip
