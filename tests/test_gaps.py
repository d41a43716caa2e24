"""Where something may be missing, it is said on the bus, with bounds; and what the host says stands in one table."""

from __future__ import annotations

import ast
import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

import eventhost
from eventhost import EnvEvent, EnvEventBus, ServerEnvironment
from eventhost.actions import RULES
from eventhost.bus import Lagged
from eventhost.errors import JournalFailed, cause_of
from eventhost.gaps import GAP, Gap, Gaps, Reason
from eventhost.journal import Entry, MemoryJournal
from eventhost.journal.lock import Lock

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
async def test_what_a_rule_did_not_get_to_see_is_said_with_bounds(tmp_path: Path) -> None:
    configure(tmp_path, journal={"type": "memory", "capacity": 10}, rules=[{"on": "t", "do": {"log": "x"}}])
    async with ServerEnvironment.from_path(tmp_path) as env:
        await env.bus.publish_batch([EnvEvent(str(n), "t", 0, {"source_name": "s"}, {}) for n in range(500)])
        gap = await gap_of(env, lambda payload: payload["reason"] == "missed")
    assert gap["rule"] == "*"
    assert gap["last"] - gap["first"] + 1 == gap["count"]


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
