"""Where something may be missing, it is said on the bus, with bounds; and what the host says stands in one table."""

from __future__ import annotations

import ast
import json
import re
import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from hosting import hosting

import eventhost
from eventhost import EnvEvent, EnvEventBus, ServerEnvironment
from eventhost.actions import RULES, Hands
from eventhost.bus import Lagged
from eventhost.config.tree import Tree
from eventhost.errors import JournalFailed, cause_of
from eventhost.gaps import GAP, Gap, Gaps, Reason
from eventhost.journal import DeadLetter, Entry, MemoryJournal
from eventhost.journal.lock import Lock
from eventhost.rules import RuleEngine, parse_rules, retention
from eventhost.rules.engine import GIVEN_UP
from eventhost.rules.trace import entries_of

PACKAGE = Path(eventhost.__file__).parent
EVENTS = PACKAGE.parent / "docs" / "events.md"
LIMIT_S = 30


# What is told


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (Gap(Reason.LAGGED, 1, 4, 4), Gap(Reason.LAGGED, 9, 9, 1), Gap(Reason.LAGGED, 1, 9, 5)),
        (Gap(Reason.CRASH), Gap(Reason.CRASH, from_ms=1, to_ms=2), Gap(Reason.CRASH, from_ms=1, to_ms=2)),
        (Gap(Reason.CRASH, from_ms=1, to_ms=2), Gap(Reason.CRASH), Gap(Reason.CRASH, from_ms=1, to_ms=2)),
    ],
)
def test_two_gaps_of_one_kind_are_one_that_is_as_wide_as_both(one: Gap, other: Gap, both: Gap) -> None:
    assert one.followed_by(other) == both


@pytest.mark.anyio
async def test_the_first_gap_is_said_at_once_and_those_that_follow_together() -> None:
    paused, rested = anyio.Event(), anyio.Event()

    async def pause(_: float) -> None:
        paused.set()
        await rested.wait()

    said: list[dict[str, Any]] = []
    gaps = Gaps(lambda event_type, payload: said.append(payload), pause)
    with anyio.fail_after(LIMIT_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(gaps.keep_saying)
            gaps.tell(Gap(Reason.LAGGED, 1, 2, 2, more={"watcher": "*"}))
            await paused.wait()
            assert [payload["count"] for payload in said] == [2]
            for first in range(3, 103):
                gaps.tell(Gap(Reason.LAGGED, first, first, 1, more={"watcher": "*"}))
            gaps.tell(Gap(Reason.LAGGED, 5, 5, 1, more={"watcher": "door.*"}))
            assert len(said) == 1
            rested.set()
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
    assert [(payload["watcher"], payload["first"], payload["last"], payload["count"]) for payload in said[1:]] == [
        ("*", 3, 102, 100),
        ("door.*", 5, 5, 1),
    ]


@pytest.mark.anyio
async def test_a_watcher_that_lags_is_told_of_and_so_is_everybody_else() -> None:
    told: list[Gap] = []
    bus = EnvEventBus(MemoryJournal(10), told.append)
    subscription = bus.subscribe({"type": ["door.opened"]})
    await bus.publish_batch([EnvEvent(str(n), "t", 0, {}, {}) for n in range(25)])
    async for batch in subscription.batches():
        assert batch == [Lagged(15, 16)]
        break
    (gap,) = told
    assert (gap.reason, gap.first, gap.last, gap.count) == (Reason.LAGGED, 1, 15, 15)
    assert gap.more == {"watcher": '{"type":["door.opened"]}'}
    assert gap.to_ms == (await bus.journal.read(15, 1))[0].at_ms


@pytest.mark.anyio
async def test_what_no_rule_has_looked_at_yet_is_needed(tmp_path: Path) -> None:
    async with hosting(tmp_path) as host:
        await host.bus.publish_batch([EnvEvent(str(n), "t", 0, {"source_name": "s"}, {}) for n in range(5)])
        engine = RuleEngine(host.bus, cast(Hands, None))
        await engine.update(parse_rules(Tree([{"on": "x", "do": {"log": "x"}}], "config.jsonc"), tmp_path))
        async with engine:
            assert await engine.needed() == {"*": 1}, "a host before this one accepted them, and ended"
            assert await engine.drain(LIMIT_S)
            assert await engine.needed() == {}


# In a whole environment


def configure(root: Path, **config: Any) -> None:
    (root / "config.jsonc").write_text(json.dumps(config))


async def gap_of(env: ServerEnvironment, wanted: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """The first gap that is wanted."""
    with anyio.fail_after(LIMIT_S):
        async for item in env.bus.subscribe(GAP, after=0):
            if isinstance(item, Entry) and wanted(item.event.payload):
                return item.event.payload
    raise AssertionError


@pytest.mark.anyio
async def test_what_shaping_had_no_room_for_is_said_with_its_rule(tmp_path: Path) -> None:
    rule = {
        "name": "watch",
        "on": "a",
        "absence": {"of": "b", "within": "1h", "key": "{{ payload.n }}"},
        "do": {"log": "x"},
    }
    configure(tmp_path, rules=[rule])
    async with ServerEnvironment.from_path(tmp_path) as env:
        await env.bus.publish_batch([EnvEvent(str(n), "a", 0, {"source_name": "s"}, {"n": n}) for n in range(10_005)])
        gap = await gap_of(env, lambda payload: payload["reason"] == "overflow")
    assert gap["rule"] == "watch"
    assert gap["first"] <= gap["last"]
    assert 1 <= gap["count"] <= 5


@pytest.mark.anyio
async def test_a_watcher_whose_place_is_no_longer_held_is_said_with_bounds(tmp_path: Path) -> None:
    configure(tmp_path)
    async with ServerEnvironment.from_path(tmp_path) as env:
        await env.bus.publish_batch([EnvEvent(str(n), "t", 0, {"source_name": "s"}, {}) for n in range(50)])
        env.bus.journal.trim(30)
        async for item in env.bus.subscribe("t", after=10):
            assert item == Lagged(20, 31)
            break
        gap = await gap_of(env, lambda payload: payload["reason"] == "lagged")
        assert (gap["first"], gap["last"], gap["count"], gap["watcher"]) == (11, 30, 20, "t")
        assert gap["to"] == (await env.bus.journal.read(30, 1))[0].at_ms


@pytest.mark.anyio
async def test_what_a_rule_did_not_get_to_see_is_said_with_bounds(tmp_path: Path) -> None:
    configure(tmp_path, journal={"type": "memory", "capacity": 10}, rules=[{"on": "t", "do": {"log": "x"}}])
    async with ServerEnvironment.from_path(tmp_path) as env:
        await env.bus.publish_batch([EnvEvent(str(n), "t", 0, {"source_name": "s"}, {}) for n in range(500)])
        gap = await gap_of(env, lambda payload: payload["reason"] == "missed")
    assert gap["rule"] == "*"
    assert gap["last"] - gap["first"] + 1 == gap["count"]


@pytest.fixture
def closely_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the journal's limits be looked at all the time."""
    monkeypatch.setattr(retention, "EVERY_S", 0.01)


def dead_endpoint(name: str, attempts: int) -> dict[str, Any]:
    """A rule that calls where nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    retry = {"attempts": attempts, "delay": "1h", "maxDelay": "1h"}
    return {"name": name, "on": "t", "do": {"webhook": f"http://127.0.0.1:{port}/", "retry": retry}}


async def letters(env: ServerEnvironment) -> list[DeadLetter]:
    found: list[DeadLetter] = []
    while page := await env.dead_letters(after=found[-1].id if found else 0):
        found += page
    return found


@pytest.mark.anyio
@pytest.mark.usefixtures("closely_watched")
async def test_at_the_hard_cap_what_waits_becomes_dead_letters_which_is_said_and_publishing_goes_on(
    tmp_path: Path,
) -> None:
    keep = {"age": None, "size": "300KB", "cap": "600KB", "deadLettersSize": "100MB"}
    rules = [dead_endpoint("stuck", 100), {"name": "quick", "on": "t", "do": {"log": "seen"}}]
    configure(tmp_path, journal={"retention": keep, "durability": "normal"}, rules=rules)
    async with ServerEnvironment.from_path(tmp_path) as env:
        gaps: list[dict[str, Any]] = []
        env.bus.register_event_handler(GAP, lambda event: gaps.append(event.payload))
        number = 0
        with anyio.fail_after(LIMIT_S):
            while not gaps:
                payload = {"n": number, "x": "x" * 5_000}
                await env.bus.publish(EnvEvent(str(number), "t", 0, {"source_name": "s"}, payload))
                number += 1
        assert number * 5_000 > 400_000, "not before the cap"
        gap = gaps[0]
        assert (gap["reason"], gap["rule"], gap["lost"]) == ("cap", "stuck", 0)
        found = await letters(env)
        within = [letter for letter in found if gap["first"] <= letter.seq <= gap["last"]]
        assert len(within) == gap["dead_letters"] == gap["count"] > 0
        assert {(letter.rule, letter.error) for letter in found} == {("stuck", GIVEN_UP)}
        payloads = [entries_of(letter)[0].event.payload["n"] for letter in found]
        assert payloads == list(range(payloads[0], payloads[0] + len(found))), "each of them, in order, and whole"
        assert env.bus.journal.first > gap["first"]
        # The one that is being tried goes on, and so does everybody else.
        seq = await env.bus.publish(EnvEvent("last", "t", 0, {"source_name": "s"}, {}))
        statistics = {each.name: each for each in env.rule_statistics()}
        assert (statistics["stuck"].running, statistics["quick"].failed) == (1, 0)
        with anyio.fail_after(LIMIT_S):
            while {each.name: each.delivered for each in env.rule_statistics()}["quick"] <= number:
                await anyio.sleep(0.01)
        assert (await env.bus.journal.entries([seq]))[0].event.id == "last"


@pytest.mark.anyio
@pytest.mark.usefixtures("closely_watched")
async def test_dead_letters_beyond_what_is_kept_go_oldest_first_and_are_said(tmp_path: Path) -> None:
    configure(tmp_path, journal={"retention": {"deadLetters": 5}}, rules=[dead_endpoint("stuck", 1)])
    async with ServerEnvironment.from_path(tmp_path) as env:
        events = [EnvEvent(str(n), "t", 0, {"source_name": "s"}, {}) for n in range(20)]
        first = await env.bus.publish_batch(events)
        gap = await gap_of(env, lambda payload: payload["reason"] == "discarded")
        assert (gap["rule"], gap["first"]) == ("stuck", first)
        assert gap["last"] - gap["first"] + 1 == gap["count"]
        with anyio.fail_after(LIMIT_S):
            while env.letter_statistics().discarded < 15:
                await anyio.sleep(0.01)
        assert [letter.seq for letter in await letters(env)] == list(range(first + 15, first + 20))
        statistics = env.letter_statistics()
        assert (statistics.held, statistics.discarded) == (5, 15)


@pytest.mark.anyio
async def test_a_damaged_journal_is_said_with_what_it_has_lost(tmp_path: Path) -> None:
    configure(tmp_path)
    async with ServerEnvironment.from_path(tmp_path) as env:
        seqs = [await env.bus.publish(EnvEvent(str(n), "t", 0, {"source_name": "s"}, {})) for n in range(3)]
    path = tmp_path / "var" / "journal.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("UPDATE block SET body = x'5b5d' WHERE first <= ?1 AND last >= ?1", (seqs[1],))
    lock = Lock(path)
    lock.complain("a disk that lies")
    lock.release()
    async with ServerEnvironment.from_path(tmp_path) as env:
        gap = await gap_of(env, lambda payload: True)
    assert (gap["reason"], gap["damage"]) == ("damage", "a disk that lies")
    assert (gap["first"], gap["last"], gap["count"]) == (seqs[1], seqs[1], 1)
    assert Path(gap["aside"]).exists()


@pytest.mark.anyio
async def test_a_host_whose_journal_fails_ends_and_the_next_one_says_what_is_lost(tmp_path: Path) -> None:
    configure(tmp_path)

    async def live() -> None:
        async with ServerEnvironment.from_path(tmp_path) as env:
            # Far more than is held in memory, so that the oldest must be read from the file.
            for _ in range(40):
                await env.bus.publish_batch([EnvEvent(str(n), "t", 0, {"source_name": "s"}, {}) for n in range(500)])
            with closing(sqlite3.connect(tmp_path / "var" / "journal.db", isolation_level=None)) as database:
                database.execute("UPDATE block SET body = x'5b5d' WHERE first <= 2 AND last >= 2")
            with pytest.raises(JournalFailed):
                await env.bus.journal.read(0, 10)
            await anyio.sleep_forever()

    with anyio.fail_after(LIMIT_S), pytest.raises(ExceptionGroup) as failure:
        await live()
    assert isinstance(cause_of(failure.value), JournalFailed)
    async with ServerEnvironment.from_path(tmp_path) as env:
        gap = await gap_of(env, lambda payload: payload["reason"] == "damage")
    assert gap["first"] <= 2 <= gap["last"]


@pytest.mark.anyio
async def test_a_host_that_ended_properly_leaves_no_gap(tmp_path: Path) -> None:
    configure(tmp_path)
    for _ in range(2):
        async with ServerEnvironment.from_path(tmp_path) as env:
            _, seq = await env.publish_event({"type": "t"})
            assert [entry.event.type for entry in await env.bus.journal.read(0, seq)] == ["t"] * seq


@pytest.mark.anyio
async def test_a_source_that_was_away_says_from_when_to_when(tmp_path: Path) -> None:
    configure(tmp_path, supervision={"startsecs": 0})
    folder = tmp_path / "eventsources" / "door"
    folder.mkdir(parents=True)
    (folder / "server.py").write_text("from eventhost.kit import EventSource\nEventSource('door').run()\n")
    async with ServerEnvironment.from_path(tmp_path) as env:
        started = await source_started(env, 0)
        assert "from" not in started.payload
        await env.restart_source("door")
        again = await source_started(env, 1)
        assert started.timestamp <= again.payload["from"] <= again.payload["to"] <= again.timestamp


async def source_started(env: ServerEnvironment, earlier: int) -> EnvEvent:
    with anyio.fail_after(LIMIT_S):
        async for item in env.bus.subscribe("host.source_started", after=0):
            if isinstance(item, Entry):
                if not earlier:
                    return item.event
                earlier -= 1
    raise AssertionError


# In one table


def said_in_code() -> set[str]:
    """Every type of the host's own events that stands in the code."""
    types = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                if re.fullmatch(r"host\.[a-z_]+", node.value):
                    types.add(node.value)
            elif isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
                start = str(node.values[0].value)
                assert not start.startswith("host."), f"{file}:{node.lineno}: write the type out, for it to be found"
    return types - {RULES}


def test_each_event_of_the_host_is_in_the_table_and_nothing_else_is() -> None:
    table = re.findall(r"^\| `(host\.[a-z_]+)` \|", EVENTS.read_text(), re.MULTILINE)
    assert len(table) == len(set(table))
    assert set(table) == said_in_code()


def test_each_reason_for_a_gap_is_in_the_table_and_nothing_else_is() -> None:
    _, _, reasons = EVENTS.read_text().partition("| reason |")
    table = re.findall(r"^\| `([a-z]+)` \|", reasons, re.MULTILINE)
    assert sorted(table) == sorted(str(reason) for reason in Reason)


def test_no_documentation_names_an_event_that_the_host_does_not_say() -> None:
    types = said_in_code()
    for file in [*EVENTS.parent.glob("*.md"), EVENTS.parent.parent / "README.md"]:
        named = set(re.findall(r"`\"?(host\.[a-z_]+)\"?`|\"type\": \"(host\.[a-z_]+)\"", file.read_text()))
        names = {name for pair in named for name in pair if name}
        assert names - types - {RULES, "host.refunded"} == set(), file
