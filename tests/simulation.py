"""An engine on a simulated disk: virtual time, commits and actions that end when told to, and a host that can die."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import msgspec
from pydantic import BaseModel

from eventhost.actions import Context, Hands
from eventhost.actions.parse import Kind
from eventhost.actions.step import Retry
from eventhost.bus import EnvEventBus
from eventhost.config.tree import Tree
from eventhost.errors import ActionError, BusClosed
from eventhost.event import EnvEvent
from eventhost.journal import Change, DeadLetter, Entry, JournalStatistics, Pending, Position, Progress, Trace
from eventhost.rules import Limits, Rule, RuleEngine, Tracing, parse_rules

LIMITS = Limits(queue=3, retry=Retry(attempts=3, delay_s=1, max_delay_s=2), deaths=3)

START_MS = 1_000_000_000_000


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes only when it is told to."""

    now_s = 0.0

    def time(self) -> float:
        return self.now_s

    def settle(self) -> None:
        """Run whatever can go on without time passing."""
        self.run_until_complete(self._settled())

    async def _settled(self) -> None:
        for _ in range(20_000):
            await asyncio.sleep(0)
            if not self._ready:  # type: ignore[attr-defined]
                return
        raise AssertionError(f"somebody goes round in circles: {self._ready}")  # type: ignore[attr-defined]


# The disk, and a journal on it


@dataclass
class Disk:
    """What survives a host."""

    entries: list[Entry] = field(default_factory=list)
    first: int = 1
    lost: set[int] = field(default_factory=set)
    """Numbers of entries that were lost by damage."""
    low: int = 0
    positions: dict[str, Position] = field(default_factory=dict)
    pending: dict[tuple[str, int], Pending] = field(default_factory=dict)
    dead: dict[int, DeadLetter] = field(default_factory=dict)
    dead_ids: int = 0
    traces: dict[tuple[int, str], Trace] = field(default_factory=dict)
    at_ms: int = START_MS
    clean: bool = True

    @property
    def head(self) -> int:
        return len(self.entries)

    def begins(self, rule: str) -> int:
        """Up to where a host that starts now would not look for what this rule owes."""
        known = self.positions[rule]
        return known.seq if known.lags else max(known.seq, self.low)

    def save(self, change: Change) -> None:
        for rule in change.gone:
            self.pending = {key: run for key, run in self.pending.items() if key[0] != rule}
            self.positions.pop(rule, None)
        self.pending.update(((run.rule, run.seq), run) for run in change.pending)
        for key in change.ended:
            self.pending.pop(tuple(key), None)
        for letter in change.dead:
            self.dead_ids += 1
            self.dead[self.dead_ids] = msgspec.structs.replace(letter, id=self.dead_ids)
        for number in change.buried:
            self.dead.pop(number, None)
        self.positions.update((position.rule, position) for position in change.positions)
        self.traces.update(((trace.seq, trace.rule), trace) for trace in change.traces)
        assert change.low is None or change.low <= self.head
        self.low = max(self.low, change.low or 0)


@dataclass
class Job:
    """Something to be committed, and when it was asked for."""

    number: int
    events: Sequence[EnvEvent] = ()
    change: Change | None = None
    done: asyncio.Future[int] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class SimulatedJournal:
    """A `Journal` whose commits wait, if `held`, until they are told to happen."""

    def __init__(
        self, disk: Disk, wall_ms: Callable[[], int], numbers: Callable[[], int], on_commit: Callable[[Job, int], None]
    ) -> None:
        """`on_commit` is told each job when it is on the disk, with the number of its first event."""
        self.disk, self._wall_ms, self._numbers, self._on_commit = disk, wall_ms, numbers, on_commit
        self.crashed = not disk.clean
        disk.clean = False
        self.held = False
        self.dead = False
        self.jobs: list[Job] = []
        self._head = disk.head

    @property
    def head(self) -> int:
        return self._head

    @property
    def first(self) -> int:
        return self.disk.first

    def commit(self, most: int | None = None, *, told: bool = True) -> None:
        """Commit the oldest jobs; those who wait for them are told, unless the host is about to die."""
        jobs, self.jobs = self.jobs[:most], self.jobs[len(self.jobs) if most is None else most :]
        for job in jobs:
            disk, first = self.disk, self.disk.head + 1
            disk.at_ms = max(disk.at_ms, self._wall_ms())
            disk.entries += [Entry(first + place, disk.at_ms, event) for place, event in enumerate(job.events)]
            if job.change is not None:
                disk.save(job.change)
            self._on_commit(job, first)
            if told:
                self._head = disk.head
                if not job.done.done():
                    job.done.set_result(first if job.events else disk.at_ms)

    async def _put(self, events: Sequence[EnvEvent] = (), change: Change | None = None) -> int:
        if self.dead:
            raise BusClosed("this host is dead")
        job = Job(self._numbers(), tuple(events), change)
        self.jobs.append(job)
        if not self.held:
            asyncio.get_running_loop().call_soon(self.commit_unless_held)
        return await job.done

    def commit_unless_held(self) -> None:
        if not self.held and not self.dead:
            self.commit()

    async def append(self, events: Sequence[EnvEvent]) -> int:
        return await self._put(events)

    async def save(self, change: Change) -> None:
        await self._put(change=change)

    async def clock(self) -> int:
        return await self._put()

    async def read(self, after: int, limit: int) -> Sequence[Entry]:
        start = max(after, self.first - 1)
        found = [entry for entry in self.disk.entries[start : self._head] if entry.seq not in self.disk.lost]
        await anyio.lowlevel.checkpoint()
        return found[:limit]

    async def entries(self, seqs: Sequence[int]) -> list[Entry]:
        await anyio.lowlevel.checkpoint()
        held = [seq for seq in seqs if self.first <= seq <= self._head and seq not in self.disk.lost]
        return [self.disk.entries[seq - 1] for seq in held]

    async def seq_at(self, at_ms: int) -> int:
        await anyio.lowlevel.checkpoint()
        held = self.disk.entries[self.first - 1 : self._head]
        return next((entry.seq for entry in held if entry.at_ms >= at_ms), self._head + 1)

    async def progress(self) -> Progress:
        await anyio.lowlevel.checkpoint()
        counts: dict[str, int] = {}
        for rule, _ in self.disk.pending:
            counts[rule] = counts.get(rule, 0) + 1
        oldest = min((min(run.entries) for run in self.disk.pending.values()), default=None)
        return Progress(self.disk.low, dict(self.disk.positions), counts, oldest)

    async def pending(self, rule: str, after: int, limit: int) -> list[Pending]:
        await anyio.lowlevel.checkpoint()
        found = [run for (name, seq), run in sorted(self.disk.pending.items()) if name == rule and seq > after]
        return found[:limit]

    async def dead_letters(self, rule: str | None, after: int, limit: int) -> list[DeadLetter]:
        await anyio.lowlevel.checkpoint()
        letters = [letter for letter in self.disk.dead.values() if letter.id > after and rule in (None, letter.rule)]
        return letters[:limit]

    async def traces(self, seq: int) -> list[Trace]:
        await anyio.lowlevel.checkpoint()
        return [trace for trace in self.disk.traces.values() if trace.seq == seq]

    def trim(self, upto: int) -> None:
        self.disk.first = max(self.disk.first, upto + 1)

    async def size_bytes(self) -> int:
        return 0

    def statistics(self) -> JournalStatistics:
        return JournalStatistics("simulated", self.first, self.head, self.first - 1)

    async def aclose(self) -> None:
        self.dead = True


# What actions do


class GateSpec(BaseModel):
    gate: str


@dataclass(frozen=True)
class Gate:
    """An action that ends when, and as, the simulation says."""

    name: str
    begun: Callable[[Gate, tuple[Entry, ...], Context], Awaitable[None]]
    kind: str = "gate"

    async def run(self, entry: Entry, context: Context) -> None:
        await self.begun(self, context.batch or (entry,), context)

    def describe(self, entry: Entry, values: Mapping[str, Any]) -> dict[str, Any]:
        raise AssertionError


@dataclass
class Attempt:
    """An action that is under way."""

    gate: str
    seqs: tuple[int, ...]
    attempt: int
    life: int
    end: asyncio.Future[Exception | None]

    def finish(self) -> None:
        self.end.set_result(None)

    def fail(self, *, retry: bool = True) -> None:
        self.end.set_result(ActionError("it did not work", retry=retry))


class Simulation:
    """Hosts that follow one another on one disk. Nothing in it waits for real time."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.limits = limits
        self.disk = Disk()
        self.loop = VirtualLoop()
        self.numbers = count(1).__next__
        """Orders what actions do and what is asked of the journal."""
        self.wall_offset_ms = START_MS
        self.rules: list[Rule] = []
        self.life = 0
        self.under_way: list[Attempt] = []
        self.on_begin: Callable[[Attempt], None] = lambda attempt: None
        self.on_finish: Callable[[Attempt, int], None] = lambda attempt, number: None
        """Told the number of the moment at which an action has succeeded; its run has, too, at that moment."""
        self.on_commit: Callable[[Job, int], None] = lambda job, first: None
        self.journal: SimulatedJournal
        self.engine: RuleEngine
        self.bus: EnvEventBus

    @property
    def kind(self) -> Kind:
        """The action, to be put among the others under the name `gate`."""
        return Kind(GateSpec, lambda tree, names: Gate(tree.value["gate"], self._begun))

    def parse(self, *rules: dict[str, Any]) -> list[Rule]:
        return parse_rules(Tree.parse(json.dumps({"rules": rules}), "config.jsonc").at("rules"))

    def wall_ms(self) -> int:
        return self.wall_offset_ms + round(self.loop.now_s * 1000)

    async def _begun(self, gate: Gate, entries: tuple[Entry, ...], context: Context) -> None:
        seqs = tuple(entry.seq for entry in entries)
        attempt = Attempt(gate.name, seqs, context.attempt, self.life, asyncio.get_running_loop().create_future())
        self.under_way.append(attempt)
        self.on_begin(attempt)
        try:
            if (error := await attempt.end) is not None:
                raise error
            self.on_finish(attempt, self.numbers())
        finally:
            self.under_way.remove(attempt)

    # Hosts

    def start(self, *rules: dict[str, Any]) -> None:
        """Start a host; without `rules` with those of the one before."""
        if rules:
            self.rules = self.parse(*rules)
        self.life += 1
        self.journal = SimulatedJournal(
            self.disk, self.wall_ms, self.numbers, lambda job, first: self.on_commit(job, first)
        )
        self._stopping = asyncio.Event()
        ready = asyncio.Event()
        self._host = self.loop.create_task(self._live(ready, self._stopping))
        self.loop.settle()
        if self._host.done():
            self._host.result()
        assert ready.is_set()

    async def _live(self, ready: asyncio.Event, stopping: asyncio.Event) -> None:
        async with EnvEventBus(self.journal) as self.bus:

            def never(*_: Any, **__: Any) -> Any:
                raise AssertionError("not to be used here")

            http = httpx2.AsyncClient(transport=httpx2.MockTransport(never))
            hands = Hands(self.bus.publish, never, never, http, Path(), {}, never)
            self.engine = RuleEngine(
                self.bus, hands, limits=self.limits, tracing=Tracing.ALL, monotonic=self.loop.time, wall_ms=self.wall_ms
            )
            await self.engine.update(self.rules)
            async with self.engine:
                ready.set()
                await stopping.wait()

    def stop(self, *, while_held: bool = False) -> None:
        """End the host as it should end: what is under way is cut off, everything else is written down.

        `while_held`: the disk, which takes nothing, does so again only when the host has begun to end.
        """
        if not while_held:
            self.release()
        self._stopping.set()
        self.loop.settle()
        self.release()
        self._host.result()
        assert not self.journal.jobs
        self.journal.dead = True
        self.disk.clean = True

    def crash(self, committed: int = 0) -> None:
        """Kill the host: so many of the jobs that nobody was told of are on the disk, nothing else."""
        waiting = [*self.journal.jobs]
        self.journal.commit(committed, told=False)
        self.journal.dead = True
        self.journal.jobs.clear()
        self._host.cancel()
        for job in waiting:  # so that what is shielded ends too
            if not job.done.done():
                job.done.set_exception(BusClosed("this host is dead"))
                job.done.exception()
        self.loop.settle()
        assert self._host.cancelled() or self._host.exception()  # of what it died nobody is told
        assert not self.under_way

    def update(self, *rules: dict[str, Any]) -> None:
        """Exchange the rules; everything that waits to be committed is."""
        self.rules = self.parse(*rules)
        self.journal.held = False
        self.journal.commit()
        self.do(self.engine.update(self.rules))

    def do(self, work: Any) -> Any:
        """Have something done that needs nothing but commits."""
        task = self.loop.create_task(work)
        self.loop.settle()
        return task.result()

    def publish(self, event_type: str = "x", count: int = 1) -> asyncio.Task[int]:
        """Begin to publish some events."""
        number = self.numbers()
        events = [
            EnvEvent(f"{number}-{place}", event_type, self.wall_ms(), {"source_name": "s"}, {})
            for place in range(count)
        ]
        task = self.loop.create_task(self.bus.publish_batch(events))
        task.add_done_callback(lambda task: task.cancelled() or task.exception())  # a host that dies answers nobody
        self.loop.settle()
        return task

    def hold(self) -> None:
        """From now on nothing is committed."""
        self.journal.held = True

    def release(self) -> None:
        """Commit what waits, and what comes."""
        self.journal.held = False
        self.journal.commit()
        self.loop.settle()

    def advance(self, seconds: float) -> None:
        """Let time pass, in steps that no timer is shorter than."""
        end_s = self.loop.now_s + seconds
        while self.loop.now_s < end_s:
            timers = sorted(timer.when() for timer in self.loop._scheduled if not timer.cancelled())  # type: ignore[attr-defined]
            self.loop.now_s = min([end_s, *(when for when in timers if when > self.loop.now_s)])
            for when in timers:  # what is due within the clock's resolution is begun now, and must find that it is due
                if self.loop.now_s < when < self.loop.now_s + 1e-6:
                    self.loop.now_s = when
            self.loop.settle()

    def of(self, gate: str) -> list[Attempt]:
        """What is under way of one action, in the order in which it was begun."""
        return [attempt for attempt in self.under_way if attempt.gate == gate]

    def finish_all(self) -> None:
        """Let actions succeed, those too that come then, until none is under way."""
        while self.under_way:
            for attempt in [*self.under_way]:
                attempt.finish()
            self.loop.settle()

    def close(self) -> None:
        if not self._host.done():
            self.crash()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()
