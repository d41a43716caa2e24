"""Large events take no more memory than small ones: what is read at once, and what waits for its run, is bounded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import anyio
import anyio.lowlevel
import httpx2
import pytest
from hosting import until
from hypothesis import given, settings
from hypothesis import strategies as st

from eventhost.actions import Hands
from eventhost.actions.step import Retry
from eventhost.bus import EnvEventBus
from eventhost.config.tree import Tree
from eventhost.errors import ConnectionLost
from eventhost.event import EnvEvent
from eventhost.journal import Entry, Journal, MemoryJournal, open_journal
from eventhost.journal import file as file_room
from eventhost.journal import memory as memory_room
from eventhost.journal import protocol as protocol_room
from eventhost.journal import sqlite as sqlite_room
from eventhost.journal.file import JournalFile
from eventhost.journal.protocol import PAGE_BYTES
from eventhost.journal.search import backwards, forwards
from eventhost.rules import Limits, RuleEngine, parse_rules
from eventhost.sources import newest_first

LIMIT_S = 60
"""Never reached unless something is broken."""


def event(number: int, size: int) -> EnvEvent:
    return EnvEvent(str(number), "t", number, {"source": "s", "source_name": "s"}, {"n": number, "x": "x" * size})


def weight(entry: Entry) -> int:
    return len(entry.event.to_json())


# What is read at once


@asynccontextmanager
async def filled(sizes: list[int], batch: int) -> AsyncIterator[tuple[list[Journal | JournalFile], list[EnvEvent]]]:
    """The same events in memory, in a file whose newest are in memory too, and in that file as others read it."""
    events = [event(number, size) for number, size in enumerate(sizes, 1)]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "journal.db"
        memory = MemoryJournal()
        journal, _ = await open_journal(path, "normal")
        for start in range(0, len(events), batch):
            await memory.append(events[start : start + batch])
            await journal.append(events[start : start + batch])
        with JournalFile(path) as file:
            yield [memory, journal, file], events
        await journal.aclose()


@pytest.mark.anyio
@given(st.lists(st.sampled_from([0, 5, 50, 300, 900, 3_000]), max_size=40), st.integers(1, 7), st.integers(1, 4_096))
@settings(deadline=None, max_examples=40)
async def test_pages_are_short_and_together_they_are_everything(sizes: list[int], batch: int, step: int) -> None:
    rooms = (protocol_room, memory_room, sqlite_room, file_room)
    patches = [patch.object(room, "PAGE_BYTES", 1_000) for room in rooms]
    with patches[0], patches[1], patches[2], patches[3], patch.object(sqlite_room, "_TAIL_BYTES", 2_000):
        async with filled(sizes, batch) as (journals, events):
            for journal in journals:
                ahead = [page async for page in forwards(journal, 0, journal.head)]
                back = [page async for page in backwards(journal, journal.head, 0, step=step)]
                for page in ahead + back:
                    assert len(page) <= 1 or sum(map(weight, page)) <= 1_000
                    assert all(entry.size == weight(entry) for entry in page)
                assert [entry.event for page in ahead for entry in page] == events
                assert [entry.event for page in back for entry in page][::-1] == events
                assert [entry.seq for page in ahead for entry in page] == list(range(1, len(events) + 1))


@pytest.mark.anyio
async def test_hundreds_of_large_events_are_never_read_at_once() -> None:
    async with filled([600_000] * 40, 1) as (journals, events):
        needle = b'"type":"t"'
        for journal in journals:
            assert len(await journal.read(0, 512)) == PAGE_BYTES // weight(Entry(1, 0, events[0]))
            for pages in (
                forwards(journal, 0, journal.head),
                backwards(journal, journal.head, 0),
                forwards(journal, 0, journal.head, [needle]),
                backwards(journal, journal.head, 0, [needle]),
            ):
                seqs = []
                async for page in pages:
                    assert sum(map(weight, page)) <= PAGE_BYTES + 600_100
                    seqs += [entry.seq for entry in page]
                assert sorted(seqs) == list(range(1, 41))
                assert seqs in (sorted(seqs), sorted(seqs, reverse=True))
        async with EnvEventBus(journals[1]) as bus:  # type: ignore[arg-type]
            assert await bus.get_recent_events(20) == events[20:]
            async for batch in bus.subscribe(after=0).batches():
                assert sum(weight(item) for item in batch if isinstance(item, Entry)) <= PAGE_BYTES
                break
        recalled = [entry.event async for page in newest_first(journals[1]) for entry, _ in page]  # type: ignore[arg-type]
        assert recalled == events[: -len(recalled) - 1 : -1]


@pytest.mark.anyio
async def test_a_journal_in_memory_is_bounded_by_bytes_too() -> None:
    with patch.object(memory_room, "MOST_BYTES", 100_000):
        journal = MemoryJournal(1_000)
        for number in range(30):
            await journal.append([event(number, 9_800)])
        assert journal.head - journal.first + 1 == 10
        assert await journal.size_bytes() == sum(map(weight, await journal.read(0, 99))) <= 100_000
        await journal.append([event(30, 200_000)])
        assert journal.first == journal.head == 31
        journal.trim(31)
        assert await journal.size_bytes() == 0


# What waits


class Endpoint:
    """What all rules call: dead until it is told to live."""

    def __init__(self) -> None:
        self.alive = False
        self.tried = 0
        self.came: dict[str, list[int]] = {}

    async def call(self, name: str, arguments: Any, /, *, timeout_s: float) -> None:
        self.tried += 1
        await anyio.lowlevel.checkpoint()
        if not self.alive:
            raise ConnectionLost("refused")
        self.came.setdefault(name, []).append(arguments["n"])


@asynccontextmanager
async def engine(
    root: Path, endpoint: Endpoint, limits: Limits, *rules: dict[str, Any]
) -> AsyncIterator[tuple[RuleEngine, EnvEventBus]]:
    def unused(*_: Any, **__: Any) -> Any:
        raise AssertionError("not to be used here")

    journal, _ = await open_journal(root / "journal.db", "normal")
    async with EnvEventBus(journal) as bus:
        hands = Hands(
            publish=bus.publish,
            call_tool=endpoint.call,
            spawn=unused,
            http=httpx2.AsyncClient(transport=httpx2.MockTransport(unused)),
            root=root,
            environment={},
            resolve_secret=unused,
        )
        made = RuleEngine(bus, hands, limits=limits)
        await made.update(parse_rules(Tree(list(rules), "config.jsonc"), root))
        async with made:
            yield made, bus
    await journal.aclose()


def call(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "do": {"tool": name, "arguments": {"n": "{{ payload.n }}"}}, **more}


def held(running: RuleEngine, weights: list[int]) -> int:
    """How long the JSON is of what all runs hold; the engine believes the same."""
    runs = [run for queue in running._queues.values() for run in queue._owed]
    found = sum(weights[entry.event.payload["n"]] for run in runs for entry in run.entries)
    assert running._common is not None
    assert found == running._common.held.bytes
    return found


@pytest.mark.anyio
@pytest.mark.parametrize("concurrency", [1, 8])
async def test_what_waits_for_a_dead_endpoint_takes_bounded_memory_and_all_of_it_is_delivered(
    tmp_path: Path, concurrency: int
) -> None:
    endpoint, count, most = Endpoint(), 300, 16 * 1_048_576
    limits = Limits(bytes=most, retry=Retry(attempts=1_000_000, delay_s=0.01, max_delay_s=0.01))
    names = ["a", "b", "c"]
    rules = [call(name, concurrency=concurrency) for name in names]
    with anyio.fail_after(LIMIT_S):
        async with engine(tmp_path, endpoint, limits, *rules) as (running, bus):
            largest, weights = 0, []
            for number in range(count):
                large = event(number, 500_000)
                weights.append(len(large.to_json()))
                await bus.publish(large)
                largest = max(largest, held(running, weights))
            await until(lambda: running._position == bus.journal.head)
            await until(lambda: endpoint.tried > 50)
            # Each rule has a few in any case: those that are being done, and two more.
            few = len(names) * (concurrency + 2) * 501_000
            assert most / 2 <= largest <= most + few
            assert all(statistics.lags > count / 2 for statistics in running.statistics())
            endpoint.alive = True
            while sum(map(len, endpoint.came.values())) < len(names) * count:
                assert held(running, weights) <= most + few
                await anyio.lowlevel.checkpoint()
            assert await running.drain(LIMIT_S)
            assert held(running, weights) == 0
            assert all(statistics.lags == 0 for statistics in running.statistics())
    for name in names:
        came = endpoint.came[name] if concurrency == 1 else sorted(endpoint.came[name])
        assert came == list(range(count))
