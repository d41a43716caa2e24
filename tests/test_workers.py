"""Workers: so many at a time, in order; one that waits for another attempt makes room, and comes back to its place."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import pytest

from eventhost.event import EnvEvent
from eventhost.journal import Entry
from eventhost.rules.owed import Owed
from eventhost.rules.run import Run
from eventhost.rules.workers import Workers

pytestmark = pytest.mark.anyio


@dataclass
class Shop:
    """Workers whose runs end when they are told to; a run pauses when it is told to."""

    concurrency: int = 1
    parks: bool = False
    owed: Owed = field(default_factory=lambda: Owed("a"))
    begun: list[int] = field(default_factory=list)
    ends: dict[int, anyio.Event] = field(default_factory=dict)
    pauses: dict[int, anyio.Event] = field(default_factory=dict)
    """Runs that pause before they end, until this."""
    idle: int = 0
    active: set[int] = field(default_factory=set)
    workers: Workers = field(init=False)

    async def deliver(self, run: Run) -> None:
        self.begun.append(run.seq)
        self.active.add(run.seq)
        assert len(self.active) <= self.concurrency
        if run.seq in self.pauses:
            self.active.discard(run.seq)
            await self.workers.pause(0)
            self.active.add(run.seq)
            assert len(self.active) <= self.concurrency
        await self.ends.setdefault(run.seq, anyio.Event()).wait()
        self.active.discard(run.seq)
        self.owed.finish(run)

    async def end(self, seq: int) -> None:
        self.ends.setdefault(seq, anyio.Event()).set()
        await anyio.wait_all_tasks_blocked()

    async def wake(self, seq: int) -> None:
        self.pauses[seq].set()
        await anyio.wait_all_tasks_blocked()

    @asynccontextmanager
    async def open(self, count: int, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Workers]:
        """With so many runs that wait."""

        async def sleep(delay_s: float) -> None:
            run = self.begun[-1] if delay_s == 0 else 0
            await self.pauses[run].wait()

        monkeypatch.setattr("eventhost.rules.workers.anyio.sleep", sleep)
        async with anyio.create_task_group() as tasks:

            class Crew:
                def start_soon(self, work: object) -> None:
                    tasks.start_soon(work)  # type: ignore[arg-type]

            def on_idle() -> None:
                self.idle += 1

            workers = self.workers = Workers(
                self.owed,
                self.concurrency,
                lambda: self.parks,
                self.deliver,
                Crew(),
                on_idle,  # type: ignore[arg-type]
            )
            for seq in range(1, count + 1):
                self.owed.add(Run((Entry(seq, 0, EnvEvent(str(seq), "t", 0, {}, {})),), 0))
            workers.staff()
            await anyio.wait_all_tasks_blocked()
            yield workers
            tasks.cancel_scope.cancel()


async def test_one_after_the_other_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop()
    async with shop.open(3, monkeypatch) as workers:
        for seq in (1, 2, 3):
            assert shop.begun == list(range(1, seq + 1))
            assert not workers.idle
            await shop.end(seq)
        assert workers.idle


async def test_so_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop(concurrency=3)
    async with shop.open(5, monkeypatch):
        assert shop.begun == [1, 2, 3]
        await shop.end(2)
        assert shop.begun == [1, 2, 3, 4]


async def test_one_that_pauses_keeps_its_place_where_order_is_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop(pauses={1: anyio.Event()})
    async with shop.open(3, monkeypatch) as workers:
        assert (shop.begun, workers.pausing, workers.idle, shop.idle) == ([1], 1, True, 1)
        await shop.wake(1)
        assert (shop.begun, workers.idle) == ([1], False)
        await shop.end(1)
        assert shop.begun == [1, 2]


async def test_elsewhere_it_makes_room_and_waits_for_a_place_before_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop(concurrency=2, parks=True, pauses={2: anyio.Event()})
    async with shop.open(5, monkeypatch) as workers:
        assert shop.begun == [1, 2, 3]
        await shop.wake(2)
        assert (shop.active, workers.pausing) == ({1, 3}, 0)
        await shop.end(1)
        assert (shop.active, shop.begun) == ({2, 3}, [1, 2, 3]), "who is back comes before who is new"
        await shop.end(2)
        assert shop.begun == [1, 2, 3, 4]


async def test_when_fewer_may_be_busy_those_who_are_back_wait_until_so_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop(concurrency=3, parks=True, pauses={3: anyio.Event()})
    async with shop.open(6, monkeypatch):
        assert shop.active == {1, 2, 4}
        await shop.wake(3)
        shop.concurrency = 1
        shop.workers.concurrency = 1
        await shop.end(1)
        await shop.end(2)
        assert shop.active == {4}
        await shop.end(4)
        assert shop.active == {3}
        await shop.end(3)
        assert shop.begun[-1] == 5


async def test_what_is_cut_off_begins_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop(concurrency=2, parks=True, pauses={2: anyio.Event()})
    async with shop.open(9, monkeypatch):
        assert shop.begun == [1, 2, 3]
    assert shop.begun == [1, 2, 3]
    assert [run.seq for run in shop.owed.waiting] == [4, 5, 6, 7, 8, 9]
    assert set(shop.owed.running) == {1, 2, 3}
