"""From a source to an action, all the way: what the host does for an event, whatever the action would do then.

child ─► connection ─► normalizing ─► journal (SQLite, full) ─► 100 rules, one match an event ─► an action that counts

Events a second while the child writes as fast as it may, what an event costs of the processor, and how long it takes
at 1,000 events a second; with each setting of `journal.trace`. Beside it, in the same run, in turns: the same way with
nothing that a host could leave out, SQLite alone, and the disk alone.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import anyio
import httpx2

from benchmarks.hosting import child, hosting, run_as_daemon
from benchmarks.journal import folder, make_events, percentile, rows
from benchmarks.report import Aim, Report
from benchmarks.skeleton import Skeleton, command
from eventhost.actions import Hands
from eventhost.actions.action import Context
from eventhost.actions.step import Step
from eventhost.config.model import JournalConfig
from eventhost.config.tree import Tree
from eventhost.journal import Entry, open_journal
from eventhost.rules import Rule, RuleEngine, Tracing, parse_rules

EVENTS = 100_000
RULES = 100
ROUNDS = 3
RATE = 1_000
PACED_S = 3
WARM_UP = 100
LIMIT_S = 120.0


@dataclass
class Counter:
    """An action that counts, and notes how old its events are if they say when they were written."""

    wanted: int
    seen: int = 0
    started: float = 0.0
    started_cpu_s: float = 0.0
    ages_s: list[float] = field(default_factory=list)
    all_came: anyio.Event = field(default_factory=anyio.Event)
    kind: ClassVar[str] = "count"

    async def run(self, entry: Entry, context: Context) -> None:
        self.count(entry.event.payload)

    def describe(self, entry: Entry, values: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def count(self, payload: Mapping[str, Any]) -> None:
        if (at_ns := payload.get("at_ns")) is not None:
            self.ages_s.append((time.perf_counter_ns() - at_ns) / 1e9)
        self.seen += 1
        if self.seen == self.wanted:
            self.all_came.set()


@dataclass(frozen=True, slots=True)
class Flooded:
    """What a flood took."""

    events_per_s: float
    cpu_us: float
    """Of the host's process for an event, its writer thread included."""


def make_rules(counter: Counter) -> list[Rule]:
    """A rule for each room."""
    written = [
        {"name": f"room-{room}", "match": {"payload": {"room": f"server-{room}"}}, "do": {"log": ""}}
        for room in range(1, RULES + 1)
    ]
    return [replace(rule, steps=(Step(counter),)) for rule in parse_rules(Tree(written))]


async def through_host(counter: Counter, script: str, *arguments: str, tracing: Tracing) -> Flooded:
    """Events of one of `children/`, all the way."""
    with folder() as place:
        journal, _ = await open_journal(place / "journal.db", "full")
        try:
            async with httpx2.AsyncClient() as http, hosting(journal) as (sources, bus):
                hands = Hands(bus.publish, _never, _never, http, place, {}, _never)
                engine = RuleEngine(bus, hands, tracing=tracing)
                await engine.update(make_rules(counter))
                async with engine:
                    sources.add(child("child", script, *arguments)).start()
                    await bus.grown(0)
                    started, started_cpu_s = time.perf_counter(), time.process_time()
                    with anyio.fail_after(LIMIT_S):
                        await counter.all_came.wait()
                    taken_s, cpu_s = time.perf_counter() - started, time.process_time() - started_cpu_s
        finally:
            await journal.aclose()
    return Flooded(counter.wanted / taken_s, cpu_s / counter.wanted * 1e6)


def _never(*_: Any, **__: Any) -> Any:
    raise AssertionError("the action that counts has no far end")


async def through_skeleton(counter: Counter, script: str, *arguments: str) -> Flooded:
    """The same events, the same way, with nothing else."""

    async def act(event: Any) -> None:
        counter.count(event.payload)

    with folder() as place:
        skeleton = Skeleton(place / "skeleton.db", RULES, act, counter.wanted)
        await skeleton.run(command(script, *arguments))
        taken_s, cpu_s = time.perf_counter() - skeleton.started, time.process_time() - skeleton.started_cpu_s
    return Flooded(counter.wanted / taken_s, cpu_s / counter.wanted * 1e6)


def flood(way: Callable[..., Awaitable[Flooded]]) -> Flooded:
    """As many as may be; `way` is handed a counter, and the child with its arguments."""

    async def measure() -> Flooded:
        return await way(Counter(EVENTS), "flood.py", str(EVENTS), str(RULES))

    gc.collect()
    return run_as_daemon(measure)


def paced(way: Callable[..., Awaitable[Flooded]]) -> list[float]:
    """How old each event was, in seconds, when the action got it, at `RATE`."""
    count = RATE * PACED_S

    async def measure() -> list[float]:
        counter = Counter(count)
        await way(counter, "metronome.py", str(RATE), str(count), str(RULES))
        return counter.ages_s[WARM_UP:]

    gc.collect()
    return run_as_daemon(measure)


def synced() -> list[float]:
    """How long the disk takes for a small write, in seconds, once a millisecond."""
    body = make_events(1)[0].to_json()
    waits = []
    with folder() as place, (place / "file").open("wb", buffering=0) as file:
        started = time.perf_counter()
        for number in range(RATE * PACED_S):
            time.sleep(max(0.0, started + number / RATE - time.perf_counter()))
            begun = time.perf_counter()
            file.write(body)
            os.fdatasync(file) if hasattr(os, "fdatasync") else os.fsync(file)
            waits.append(time.perf_counter() - begun)
    return waits[WARM_UP:]


def run() -> Report:
    report = Report("pipeline")
    ways: dict[str, Callable[..., Awaitable[Flooded]]] = {
        **{f"trace_{tracing}": partial(through_host, tracing=tracing) for tracing in Tracing},
        "skeleton": through_skeleton,
    }
    bodies = [event.to_json() for event in make_events(EVENTS)]
    rounds: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            flooded = flood(way)
            rounds.setdefault(f"{name}_events_per_s", []).append(flooded.events_per_s)
            rounds.setdefault(f"{name}_cpu_us_per_event", []).append(flooded.cpu_us)
        rounds.setdefault("sqlite_rows_events_per_s", []).append(rows(bodies, "full")[0])
    for _ in range(ROUNDS):
        for name, ages_s in [*((name, paced(way)) for name, way in ways.items()), ("fdatasync", synced())]:
            for share in (0.5, 0.99):
                figure = f"{name}_{RATE}_per_s_p{share * 100:.0f}_ms"
                rounds.setdefault(figure, []).append(percentile(ages_s, share))
    for figure, values in rounds.items():
        report.add(figure, values)
    figures = report.figures
    name = f"trace_{JournalConfig().trace}"
    report.aims += [
        Aim("events_per_s", figures[f"{name}_events_per_s"], 40_000),
        # The same as a share of the skeleton, which did 126,000 when the aim was set: it holds on a busy machine too.
        Aim("of_skeleton_ratio", figures["skeleton_cpu_us_per_event"] / figures[f"{name}_cpu_us_per_event"], 40 / 126),
        Aim(
            "p99_ms_beyond_fdatasync",
            figures[f"{name}_{RATE}_per_s_p99_ms"] - figures[f"fdatasync_{RATE}_per_s_p99_ms"],
            5,
            at_most=True,
        ),
    ]
    return report
