"""Replay: recorded events give the very runs that they gave the first time; what is done once more is marked."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from eventhost.actions import Hands
from eventhost.actions.step import Retry
from eventhost.bus import EnvEventBus
from eventhost.cli import replay as replay_command
from eventhost.cli.app import app
from eventhost.config.tree import Tree
from eventhost.environment import ServerEnvironment
from eventhost.errors import (
    ActionError,
    ConfigError,
    ConnectionLost,
    EventhostError,
    EventRejected,
    JournalUnusable,
    NotFound,
)
from eventhost.event import EnvEvent, uuid7
from eventhost.journal import Entry, MemoryJournal, Trace, open_journal
from eventhost.journal.file import JournalFile
from eventhost.journal.moment import Moment, with_zone
from eventhost.journal.records import Change
from eventhost.rules import Rule, RuleEngine, Tracing, parse_rules
from eventhost.rules.again import Again, Request, chosen, told
from eventhost.rules.diff import compare, runs_made, runs_recorded
from eventhost.rules.replay import Replay, Span, play, run_up_of
from eventhost.rules.start import Start, parse_start
from eventhost.web.events.replay import ReplayStream

anyio_test = pytest.mark.anyio

LIMIT_S = 30
"""Never reached unless something is broken."""

START_MS = 1_767_614_400_000
KEY = "{{ payload.k }}"


def made(*values: dict[str, Any]) -> list[Rule]:
    return parse_rules(Tree.parse(json.dumps(list(values)), "config.jsonc"))


def event(number: int | str, event_type: str = "t", timestamp: int = START_MS, **payload: Any) -> EnvEvent:
    return EnvEvent(str(number), event_type, timestamp, {"source": "s", "source_name": "s"}, payload)


class ClockedJournal(MemoryJournal):
    """A journal whose clock the test sets."""

    def __init__(self) -> None:
        super().__init__(65_536)
        self.now_ms = START_MS

    async def clock(self) -> int:
        return self.now_ms


async def kept(*events: tuple[int, EnvEvent]) -> ClockedJournal:
    """A journal with these events, each accepted so many milliseconds after the start."""
    journal = ClockedJournal()
    for at_ms, one in events:
        journal.now_ms = START_MS + at_ms
        await journal.append([one])
    return journal


@dataclass
class Far:
    """The far end of all actions: notes what it is asked for, and fails as it is told to."""

    root: Path = field(default_factory=Path)
    calls: list[tuple[str, Any]] = field(default_factory=list)
    published: list[EnvEvent] = field(default_factory=list)
    failures: list[ActionError] = field(default_factory=list)

    async def call_tool(self, name: str, arguments: Any, /, *, timeout_s: float) -> Any:
        if self.failures:
            raise self.failures.pop(0)
        self.calls.append((name, arguments.get("ids")))

    async def publish(self, event: EnvEvent) -> int:
        self.published.append(event)
        return len(self.published)

    def hands(self, publish: Callable[[EnvEvent], Awaitable[object]] | None = None) -> Hands:
        def unused(*_: Any, **__: Any) -> Any:
            raise AssertionError("not to be used here")

        http = httpx2.AsyncClient(transport=httpx2.MockTransport(unused))
        return Hands(publish or self.publish, self.call_tool, unused, http, self.root, {}, unused)


def call(name: str, **more: Any) -> dict[str, Any]:
    """A rule that calls the tool of its name with the ids of its run's events."""
    do = {"tool": name, "arguments": {"ids": "{{ events | map(attribute='id') | join(',') }}"}}
    return {"name": name, "on": "t", **more, "do": do}


SHAPED = (
    call("plain"),
    call("when", when="payload.n % 2 == 0"),
    call("broken", when="payload.nowhere > 1"),
    call("throttle", throttle={"per": "5s", "limit": 2, "key": KEY}),
    call("dedupe", dedupe={"within": "3s", "key": KEY}),
    call("debounce", debounce={"for": "2s", "key": KEY}),
    call("batch", batch={"within": "4s", "max": 3}),
    call("batched", batch={"within": "3s", "max": 2, "key": KEY}, throttle={"per": "6s"}),
    call("absence", absence={"of": {"on": "ok", "key": KEY}, "within": "3s", "key": KEY}),
    call("again", on=["t", "ok"], absence={"of": "t", "within": "2s"}, dedupe={"within": "1s"}),
    call("off", enabled=False),
)


async def ran_live(events: Sequence[tuple[int, str, int]]) -> tuple[ClockedJournal, dict[str, list[str]]]:
    """What an engine does about events, each so long after the one before, of this type and with this key."""
    journal, far = ClockedJournal(), Far()
    async with EnvEventBus(journal) as bus:
        engine = RuleEngine(bus, far.hands(bus.publish), wall_ms=lambda: journal.now_ms, tracing=Tracing.ALL)
        await engine.update(made(*SHAPED))
        async with engine:
            for number, (after_ms, event_type, key) in enumerate(events):
                journal.now_ms += after_ms
                await bus.publish(event(number, event_type, journal.now_ms, k=key, n=number))
                with anyio.fail_after(LIMIT_S):
                    assert await engine.drain(LIMIT_S)
    ran: dict[str, list[str]] = {}
    for name, ids in far.calls:
        ran.setdefault(name, []).append(str(ids))
    return journal, ran


async def ran_again(journal: ClockedJournal, rules: Sequence[Rule]) -> dict[str, list[str]]:
    ran: dict[str, list[str]] = {}
    last = (await journal.read(journal.head - 1, 1))[0]
    async for firing in play(journal, Replay(rules), Span(0, journal.head), now_ms=last.at_ms):
        ids = ",".join(entry.event.id for entry in firing.run.entries)
        ran.setdefault(firing.rule.name, []).append(ids)
    return ran


timelines = st.lists(
    st.tuples(st.sampled_from([0, 1, 999, 1000, 1001, 2000, 3000, 6000]), st.sampled_from(["t", "t", "ok"]),
              st.integers(0, 1)),
    min_size=1, max_size=25,
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(timelines)
def test_a_replay_from_the_beginning_gives_the_very_runs_that_happened(events: list[tuple[int, str, int]]) -> None:
    async def check() -> None:
        # The last ones come when nothing can be held any more, so that time need not be waited for.
        journal, ran = await ran_live([*events, (60_000, "t", 7), (0, "ok", 7)])
        assert await ran_again(journal, made(*SHAPED)) == ran

    anyio.run(check)


def test_the_law_is_about_runs_of_every_kind() -> None:
    async def check() -> None:
        events = [(0, "t", 0), (500, "t", 1), (2500, "ok", 0), (100, "t", 0), (3000, "t", 0), (100, "t", 0)]
        _, ran = await ran_live([*events, (60_000, "t", 7), (0, "ok", 7)])
        assert ran.keys() == {rule["name"] for rule in SHAPED} - {"broken", "off"}
        assert any("," in ids for ids in ran["batch"])

    anyio.run(check)


@settings(deadline=None, max_examples=40)
@given(timelines, st.data())
def test_a_part_replayed_with_its_run_up_gives_the_runs_of_that_part(
    events: list[tuple[int, str, int]], data: st.DataObject
) -> None:
    """The run-up is as long as what shaping remembers, unless that goes on and on."""

    async def check() -> None:
        # A debounce or a budget may remember for ever; the others forget.
        rules = made(*(rule for rule in SHAPED if rule["name"] in ("plain", "when", "batch")))
        times = list(accumulate(after_ms for after_ms, _, _ in events))
        journal = await kept(
            *(
                (at_ms, event(n, kind, k=key, n=n))
                for n, (at_ms, (_, kind, key)) in enumerate(zip(times, events, strict=True))
            )
        )
        after = data.draw(st.integers(0, journal.head))
        quiet = after == 0 or after == journal.head or times[after] - times[after - 1] > 4000
        whole = [
            (one.rule.name, one.run.seq)
            async for one in play(journal, Replay(rules), Span(0, journal.head))
            if one.run.seq > after
        ]
        part = [
            (one.rule.name, one.run.seq)
            async for one in play(journal, Replay(rules), Span(after, journal.head), run_up_ms=run_up_of(rules))
        ]
        if quiet:
            assert part == whole
        assert [one for one in part if one[0] != "batch"] == [one for one in whole if one[0] != "batch"]

    anyio.run(check)


@anyio_test
async def test_runs_come_in_the_order_in_which_they_are_due() -> None:
    rules = made(call("late", debounce={"for": "5s"}), call("soon", debounce={"for": "1s"}), call("all", on="*"))
    journal = await kept((0, event(1)), (3000, event(2, "x")), (10_000, event(3)))
    firings = [
        (one.rule.name, one.run.seq, one.at_ms - START_MS) async for one in play(journal, Replay(rules), Span(0, 2))
    ]
    assert firings == [("all", 1, 0), ("soon", 1, 1000), ("all", 2, 3000), ("late", 1, 5000)]


@anyio_test
async def test_an_event_is_as_old_as_it_was_when_it_was_accepted() -> None:
    rules = made(call("young", maxAge="5s"))
    journal = await kept((5000, event(1)), (5001, event(2)))
    assert [one.run.seq async for one in play(journal, Replay(rules), Span(0, 2))] == [1]


@anyio_test
async def test_what_shaping_saw_before_the_span_counts() -> None:
    rules = made(call("c", throttle={"per": "10s"}))
    journal = await kept((0, event(1)), (9000, event(2)), (11_000, event(3)))
    span, run_up_ms = Span(1, 3), run_up_of(rules)
    assert [one.run.seq async for one in play(journal, Replay(rules), span)] == [2]
    assert [one.run.seq async for one in play(journal, Replay(rules), span, run_up_ms=run_up_ms)] == [3]


@anyio_test
async def test_what_is_due_only_after_the_span_is_still_held() -> None:
    rules = made(call("batch", batch={"within": "1m"}))
    journal = await kept((0, event(1)), (1000, event(2)), (2000, event(3)))
    lines = [line async for line in told(journal, rules, Span(0, 2))]
    assert lines == [
        {"done": True, "runs": 0, "by_rule": {}, "first": 1, "last": 2, "held": {"batch": 2}, "condition_errors": {}}
    ]


@anyio_test
async def test_only_runs_for_some_types_are_told_but_all_events_are_seen() -> None:
    rules = made(call("absence", on="t", absence={"of": "ok", "within": "1s"}), call("any", on="*"))
    journal = await kept((0, event(1)), (500, event(2, "ok")), (5000, event(3)), (9000, event(4, "ok")))
    found = [(one.rule.name, one.run.seq) async for one in play(journal, Replay(rules), Span(0, 4, ("t",)))]
    assert found == [("any", 1), ("any", 3), ("absence", 3)]


@anyio_test
async def test_a_dry_replay_tells_what_each_action_would_do_and_does_nothing() -> None:
    emit = {"emit": "x", "payload": {"n": "{{ payload.n }}"}}
    webhook = {"webhook": "http://h/", "headers": {"A": "${env:SECRET}"}}
    rules = made({"name": "r", "on": "t", "do": [emit, webhook]})
    journal = await kept((0, event(1, n=5)))
    first, end = [line async for line in told(journal, rules, Span(0, 1))]
    assert (first["rule"], first["seq"], first["at_ms"], first["type"]) == ("r", 1, START_MS, "t")
    assert first["actions"][0]["does"] == {"emit": "x", "payload": {"n": 5}}
    assert "${env:SECRET}" in json.dumps(first["actions"][1])
    assert (end["runs"], end["by_rule"]) == (1, {"r": 1})
    assert journal.head == 1


# Doing it once more


@anyio_test
async def test_what_is_done_once_more_is_marked_and_has_ids_of_its_own() -> None:
    far, name = Far(), uuid7()
    rules = made({"name": "r", "on": "t", "do": [{"emit": "x"}]}, call("c"))
    journal = await kept((0, event(1)), (1, event(2)))
    lines = [line async for line in told(journal, rules, Span(0, 2), again=Again(name, far.hands()))]
    assert [line["end"] for line in lines[:-1]] == ["delivered"] * 4
    assert (lines[-1]["runs"], lines[-1]["failed"], lines[-1]["replay"]) == (4, 0, name)
    assert far.calls == [("c", "1"), ("c", "2")]
    assert [one.metadata["replayed"] for one in far.published] == [name, name]
    assert [one.metadata["causation_id"] for one in far.published] == ["s:1", "s:2"]
    emitted = [line["steps"][0]["result"]["id"] for line in lines[:-1] if line["rule"] == "r"]
    assert emitted == [one.id for one in far.published]
    second = Far()
    _ = [line async for line in told(journal, rules, Span(0, 2), again=Again(uuid7(), second.hands()))]
    assert len({one.id for one in (*far.published, *second.published)}) == 4


@anyio_test
async def test_an_attempt_that_is_repeated_publishes_the_same_event() -> None:
    far, published = Far(), list[EnvEvent]()

    async def publish(one: EnvEvent) -> object:
        published.append(one)
        if len(published) == 1:
            raise ActionError("not now")
        return 1

    rules = made({"name": "r", "on": "t", "do": [{"emit": "x"}]})
    journal = await kept((0, event(1)))
    again = Again(uuid7(), far.hands(publish), Retry(2, 0, 0))
    lines = [line async for line in told(journal, rules, Span(0, 1), again=again)]
    assert lines[0]["end"] == "delivered"
    assert [one.id for one in published] == [published[0].id] * 2


@anyio_test
async def test_a_run_that_fails_is_told_and_the_next_ones_go_on() -> None:
    far = Far(failures=[ActionError("gone", retry=False)])
    journal = await kept((0, event(1)), (1, event(2)))
    lines = [line async for line in told(journal, made(call("c")), Span(0, 2), again=Again(uuid7(), far.hands()))]
    assert [(line["end"], line["error"]) for line in lines[:-1]] == [("failed", "tool: gone"), ("delivered", None)]
    assert lines[-1]["failed"] == 1
    assert far.calls == [("c", "2")]


@anyio_test
async def test_events_that_come_meanwhile_are_not_part_of_it() -> None:
    journal, far = await kept((0, event(1))), Far()

    async def publish(one: EnvEvent) -> int:
        return await journal.append([one])

    rules = made({"name": "loop", "on": "t", "do": [{"emit": "t"}]})
    span = await Request(since="1", execute=True).span(journal)
    lines = [line async for line in told(journal, rules, span, again=Again(uuid7(), far.hands(publish)))]
    assert (lines[-1]["runs"], journal.head) == (1, 2)


@anyio_test
async def test_what_is_done_must_say_from_where_on() -> None:
    journal = await kept((0, event(1)))
    with pytest.raises(EventRejected, match="give --from"):
        await Request(execute=True).span(journal)
    assert await Request().span(journal) == Span(0, 1)


@anyio_test
async def test_speed_spreads_runs_as_their_events_were() -> None:
    journal = await kept((0, event(1)), (400, event(2)), (1000, event(3)))
    begun = anyio.current_time()
    times = [anyio.current_time() - begun async for line in told(journal, made(call("c")), Span(0, 3), speed=100)]
    assert times[1] >= 0.004
    assert times[2] >= 0.01


# Places


NOW_MS = START_MS + 10 * 86_400_000


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("42", Moment(seq=42)),
        ("beginning", Moment(seq=0)),
        ("now", Moment(at_ms=NOW_MS)),
        ("7d", Moment(at_ms=NOW_MS - 7 * 86_400_000)),
        ("90s", Moment(at_ms=NOW_MS - 90_000)),
        ("2026-01-05T12:00:00Z", Moment(at_ms=START_MS)),
        ("2026-01-05T13:00:00+01:00", Moment(at_ms=START_MS)),
    ],
)
def test_a_place_is_a_number_a_time_or_how_long_ago(text: str, place: Moment) -> None:
    assert Moment.parse(text, NOW_MS) == place


@pytest.fixture
def in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This machine's clock is nine hours ahead of UTC."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("in_tokyo")
@pytest.mark.parametrize(
    ("text", "at_ms"),
    [
        ("2026-01-05T21:00", START_MS),
        ("2026-01-05 21:00:00.250", START_MS + 250),
        ("2026-01-05T12:00Z", START_MS),
        ("2026-01-05T13:00+01:00", START_MS),
        ("2026-01-06", START_MS + 3 * 3_600_000),
    ],
)
def test_a_time_without_a_zone_is_the_machines_own_to_a_rule_and_to_the_command_line(text: str, at_ms: int) -> None:
    assert Moment.parse(text, NOW_MS) == Moment(at_ms=at_ms)
    assert parse_start(Tree.parse(json.dumps({"from": text}), "config.jsonc").at("from")) == Start(at_ms=at_ms)


def test_what_is_sent_to_a_host_elsewhere_means_there_what_it_means_here(monkeypatch: pytest.MonkeyPatch) -> None:
    places = ["2026-01-05T21:00", "2026-01-06", "2026-01-05T12:00Z", "20260106", "42", "7d", "beginning", "now", "x"]
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        sent = [with_zone(place) for place in places]
    time.tzset()
    assert sent == ["2026-01-05T21:00:00+09:00", "2026-01-06T00:00:00+09:00", *places[2:]]
    assert Moment.parse(sent[0], NOW_MS) == Moment(at_ms=START_MS)


@pytest.mark.usefixtures("in_tokyo")
def test_the_command_line_sends_times_with_their_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    class Elsewhere:
        """A host that takes a replay, and has nothing to do for it."""

        def lines(self, path: str, body: Any) -> list[Any]:
            sent.append((body["since"], body["upto"]))
            return [{"done": True, "runs": 0, "by_rule": {}, "first": 1, "last": 0, "held": {}, "condition_errors": {}}]

    monkeypatch.setattr(replay_command, "connect", lambda env: Elsewhere())
    asked = ["replay", "--from", "2026-01-05T21:00", "--to", "2026-01-06", "--env", "http://127.0.0.1:1"]
    for more in ([], ["--execute", "--yes"]):
        assert CliRunner().invoke(app, [*asked, *more]).exit_code == 0
    assert sent == [("2026-01-05T21:00:00+09:00", "2026-01-06T00:00:00+09:00")] * 2


def test_text_that_is_only_digits_is_a_number_everywhere() -> None:
    assert Moment.parse("20260106", NOW_MS) == Moment(seq=20260106)
    assert parse_start(Tree.parse('{"from": "20260106"}', "config.jsonc").at("from")) == Start(seq=20260106)


@pytest.mark.parametrize("text", ["", "x", "-1", "7 parsecs", "2026-13-01", "9999999999d", "٣"])
def test_what_is_no_place_says_what_is(text: str) -> None:
    with pytest.raises(ValueError, match="is no place in the journal"):
        Moment.parse(text, NOW_MS)


@anyio_test
async def test_a_number_ends_with_its_event_and_a_time_before_it() -> None:
    journal = await kept((0, event(1)), (1000, event(2)), (2000, event(3)))
    second = Moment(at_ms=START_MS + 1000)
    assert (await second.before(journal), await second.upto(journal)) == (1, 1)
    assert (await Moment(seq=2).before(journal), await Moment(seq=2).upto(journal)) == (1, 2)
    assert (await Moment(seq=99).before(journal), await Moment(seq=99).upto(journal)) == (3, 3)
    journal.trim(2)
    assert await Moment(seq=0).before(journal) == 2


def test_rules_are_chosen_by_name_or_glob_and_what_is_none_is_told() -> None:
    rules = made(call("door-a"), call("door-b"), call("lamp"))
    assert [rule.name for rule in chosen(rules, ())] == ["door-a", "door-b", "lamp"]
    assert [rule.name for rule in chosen(rules, ("door-*", "lamp"))] == ["door-a", "door-b", "lamp"]
    assert [rule.name for rule in chosen(rules, ("door-b",))] == ["door-b"]
    with pytest.raises(NotFound, match='no rule is called "lmap"; did you mean "lamp"'):
        chosen(rules, ("lamp", "lmap"))


# Against what was done


@anyio_test
async def test_a_diff_tells_the_runs_that_an_edited_rule_adds_and_misses() -> None:
    journal = await kept(*((n, event(n, n=n)) for n in range(1, 9)))
    old, span = made(call("r", when="payload.n < 6"), call("same"), call("gone")), Span(0, 8)
    new = made(call("r", when="payload.n > 4"), call("same"), call("fresh", on="t"))
    before, after = await runs_made(journal, old, span, 0), await runs_made(journal, new, span, 0)
    one, same, fresh, gone = await compare(journal, new, before, after)
    assert (one.rule, one.before, one.after, one.added, one.missing) == ("r", 5, 4, [6, 7, 8], [1, 2, 3, 4])
    assert (same.rule, same.differs) == ("same", False)
    assert (fresh.rule, fresh.before, len(fresh.added)) == ("fresh", 0, 8)
    assert (gone.rule, gone.after, len(gone.missing), gone.examples_missing[0].trial) == ("gone", 0, 8, None)
    example = one.to_json()["missing"]["examples"][-1]
    assert (example["seq"], example["now"]["stopped_by"]["clause"]) == (4, "when")
    assert one.to_json()["missing"]["count"] == 4


@anyio_test
async def test_what_was_recorded_is_what_was_done(tmp_path: Path) -> None:
    path, far = tmp_path / "journal.db", Far()
    journal, _ = await open_journal(path)
    rules = made(call("c"), call("batch", batch={"within": "1h", "max": 2}), call("when", when="payload.n == 2"))
    async with EnvEventBus(journal) as bus:
        engine = RuleEngine(bus, far.hands(bus.publish), tracing=Tracing.ALL)
        await engine.update(rules)
        async with engine:
            for n in range(1, 6):
                await bus.publish(event(n, n=n))
            with anyio.fail_after(LIMIT_S):
                assert await engine.drain(LIMIT_S)
    # One that was too old when its turn came was not done.
    await journal.save(Change(traces=[Trace(1, "old", b'{"end":"expired","steps":[]}')]))
    await journal.aclose()
    with JournalFile(path) as file:
        recorded = await runs_recorded(file, Span(0, 5))
        assert recorded == {"c": {1, 2, 3, 4, 5}, "batch": {2, 4}, "when": {2}}
        assert recorded == await runs_made(file, rules, Span(0, 5), 0)
        assert await runs_recorded(file, Span(2, 4)) == {"c": {3, 4}, "batch": {4}}


def test_disabled_rules_are_not_played() -> None:
    entry = Entry(1, START_MS, event(1))
    assert [one.rule.name for one in Replay(made(call("a", enabled=False), call("b"))).offer(entry)] == ["b"]


def test_a_condition_that_cannot_be_told_is_counted() -> None:
    replay = Replay(made(call("a", when="payload.nowhere > 1")))
    assert replay.offer(Entry(1, START_MS, event(1))) == []
    assert replay.untold == {"a": 1}


# Over HTTP, and from the command line


@anyio_test
async def test_a_replay_ends_when_who_asked_for_it_leaves() -> None:
    done, left, closed = list[int](), anyio.Event(), anyio.Event()

    async def lines() -> AsyncGenerator[dict[str, Any], None]:
        try:
            for number in range(1000):
                done.append(number)
                yield {"rule": "r", "seq": number}
                if number == 2:
                    left.set()
                    await anyio.sleep_forever()
        finally:
            closed.set()

    async def receive() -> dict[str, Any]:
        await left.wait()
        return {"type": "http.disconnect"}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    with anyio.fail_after(LIMIT_S):
        await ReplayStream(lines(), set())({"type": "http"}, receive, send)
    assert (done, closed.is_set()) == ([0, 1, 2], True)
    assert [json.loads(one["body"]) for one in sent[1:4]] == [{"rule": "r", "seq": n} for n in range(3)]


@anyio_test
async def test_only_one_replay_does_something_at_a_time(tmp_path: Path) -> None:
    write(tmp_path, {"name": "r", "on": "t", "do": {"emit": "x"}})
    async with ServerEnvironment.from_path(tmp_path) as environment:
        for _ in range(3):
            await environment.publish_event({"type": "t"})
        request = Request(since="1", execute=True)
        first, second = await environment.replay(request), await environment.replay(request)
        assert (await anext(first))["end"] == "delivered"
        with pytest.raises(EventhostError, match="another replay is being executed"):
            await anext(second)
        assert (await anext(await environment.replay(Request(since="1"))))["rule"] == "r"
        await first.aclose()
        third = [line async for line in await environment.replay(request)]
        assert third[-1]["runs"] == 3


def write(root: Path, *rules: dict[str, Any], **journal: Any) -> None:
    config = {"id": "test", "http": {"enabled": False}, "journal": journal, "rules": list(rules)}
    (root / "config.jsonc").write_text(json.dumps(config))


def command(root: Path, *arguments: str) -> Any:
    return CliRunner().invoke(app, [*arguments, "--env", str(root)])


def recorded_by(root: Path, *rules: dict[str, Any], **journal: Any) -> None:
    """Let a host with these rules have had three events."""

    async def live() -> None:
        async with ServerEnvironment.from_path(root) as environment:
            for n in (1, 2, 3):
                await environment.publish_event({"type": "t", "payload": {"n": n}})
            with anyio.fail_after(LIMIT_S):
                await environment.drain(LIMIT_S)

    write(root, *rules, **journal)
    anyio.run(live)


LOG = {"name": "r", "on": "t", "do": {"log": "{{ payload.n }}"}}


def test_the_command_line_replays_from_the_file(tmp_path: Path) -> None:
    recorded_by(tmp_path, LOG)
    done = command(tmp_path, "replay", "--json")
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line.get("actions", [{}])[0].get("does", {}).get("log") for line in lines] == ["1", "2", "3", None]
    assert command(tmp_path, "replay", "--from", "2", "--to", "2").stdout.splitlines()[-1] == (
        "1 run to do for the events 2 to 2"
    )
    assert "3 runs to do" in command(tmp_path, "replay", "--from", "1h").stdout
    assert "0 runs to do" in command(tmp_path, "replay", "--to", "1h").stdout
    for wrong in (["--from", "x"], ["--rule", "no"], ["--speed", "-1"], ["--execute"], ["--execute", "--from", "1"]):
        assert command(tmp_path, "replay", *wrong).exit_code == 2, wrong
    nobody = command(tmp_path, "replay", "--execute", "--from", "1", "--yes")
    assert isinstance(nobody.exception, ConnectionLost)


def test_the_command_line_tells_what_an_edit_changes(tmp_path: Path) -> None:
    recorded_by(tmp_path, LOG, trace="all")

    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    git("init", "-q")
    git("add", "config.jsonc")
    git("commit", "-qm", "one")
    for against in ([], ["--against", "HEAD"], ["--against", str(tmp_path)]):
        same = command(tmp_path, "rule", "diff", *against)
        assert (same.exit_code, same.stdout[:19]) == (0, "0 rules differ on t"), same.output
    write(tmp_path, {**LOG, "when": "payload.n > 2"}, {**LOG, "name": "new"}, trace="all")
    for against in ([], ["--against", "HEAD"]):
        done = command(tmp_path, "rule", "diff", *against)
        assert done.exit_code == 1
        assert "r: 3 runs before, 1 now: +0 -2" in done.stdout
        assert "new: 0 runs before, 3 now: +3 -0" in done.stdout
        assert "when: payload.n > 2 is false; payload.n is 1" in done.stdout
    only = json.loads(command(tmp_path, "rule", "diff", "--rule", "new", "--json").stdout)
    assert ([one["rule"] for one in only["rules"]], only["same"]) == (["new"], 0)
    for wrong in ("nowhere", "--output=x", "HEAD:config.jsonc"):
        assert command(tmp_path, "rule", "diff", f"--against={wrong}").exit_code == 2, wrong
    assert not (tmp_path / "x").exists()


def test_what_was_not_recorded_is_not_compared_with(tmp_path: Path) -> None:
    recorded_by(tmp_path, LOG, trace="failures")
    done = command(tmp_path, "rule", "diff")
    assert isinstance(done.exception, ConfigError)
    assert "name the rules as they were: --against HEAD" in str(done.exception)
    write(tmp_path, LOG, type="memory", trace="all")
    done = command(tmp_path, "rule", "diff")
    assert isinstance(done.exception, JournalUnusable)
