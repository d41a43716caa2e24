"""Opening a journal that holds ten million events, after a host that closed it and after one that was killed.

Memory is what the opening adds, and what reading from the middle adds to that. Then the rules on it: a hundred that are
where the journal is, and a thousand that lag millions of events, be it that they work that off or that their actions
never return. They are ready once an event that is published then has reached its rule's action.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import anyio
import httpx2
import psutil

from benchmarks.hosting import run_as_daemon
from benchmarks.journal import folder, make_events
from benchmarks.report import Aim, Report
from eventhost.actions import Hands
from eventhost.actions.action import Context
from eventhost.actions.step import Step
from eventhost.bus import EnvEventBus
from eventhost.config.tree import Tree
from eventhost.event import EnvEvent
from eventhost.journal import Change, Entry, Position, open_journal
from eventhost.rules import RuleEngine, Tracing, parse_rules

EVENTS = 10_000_000
BATCH = 1_000
RULES = 100
LAGGING = 1_000
CATCH_UP_S = 10.0
LIMIT_S = 60.0
MEBIBYTE = 1_048_576


async def fill(path: Path) -> None:
    """Ten million, in commits of some thousands."""
    events = make_events(BATCH)
    journal, _ = await open_journal(path, "normal")
    starts = iter(range(0, EVENTS, BATCH))

    async def publish() -> None:
        for _ in starts:
            await journal.append(events)

    await asyncio.gather(*(publish() for _ in range(4)))
    assert journal.head == EVENTS
    await journal.aclose()


def fill_and_die(path: Path) -> None:
    """Some more, in a process that ends without closing."""
    if (child := os.fork()) == 0:
        try:
            asyncio.run(_die(path))
        finally:
            os._exit(1)
    os.waitpid(child, 0)


async def _die(path: Path) -> None:
    journal, _ = await open_journal(path, "full")
    events = make_events(BATCH)
    for _ in range(20):
        await journal.append(events)
    os._exit(0)


async def opened(path: Path, head: int) -> dict[str, float]:
    """How long until it can be written and read, and what that takes."""
    process = psutil.Process()
    before = process.memory_info().rss
    started = time.perf_counter()
    journal, loss = await open_journal(path)
    open_s = time.perf_counter() - started
    await journal.append(make_events(1))
    entries = await journal.read(EVENTS // 2, 512)
    ready_s = time.perf_counter() - started
    assert (loss, journal.head, entries[0].seq) == (None, head + 1, EVENTS // 2 + 1)
    opened_bytes = process.memory_info().rss - before
    started = time.perf_counter()
    await journal.seq_at(int(time.time() * 1000) - 1000)
    seq_at_s = time.perf_counter() - started
    started = time.perf_counter()
    await journal.check()
    check_s = time.perf_counter() - started
    checked_bytes = process.memory_info().rss - before
    await journal.aclose()
    return {
        "open_ms": open_s * 1000,
        "ready_ms": ready_s * 1000,
        "seq_at_ms": seq_at_s * 1000,
        "check_s": check_s,
        "memory_mebibytes": opened_bytes / MEBIBYTE,
        "checked_memory_mebibytes": checked_bytes / MEBIBYTE,
    }


@dataclass
class Touch:
    """An action that counts; what `hold` says waits for ever but for the event that is published last."""

    last: str
    hold: bool = False
    seen: int = 0
    came: anyio.Event = field(default_factory=anyio.Event)
    kind: ClassVar[str] = "touch"

    async def run(self, entry: Entry, context: Context) -> None:
        self.seen += 1
        if entry.event.type == self.last:
            self.came.set()
        elif self.hold:
            await anyio.sleep_forever()

    def describe(self, entry: Entry, values: Mapping[str, Any]) -> dict[str, Any]:
        return {}


async def ruled(path: Path, lagging: int, *, hold: bool = False) -> dict[str, float]:
    """How long until rules go on, and what they take; `lagging` of them from the journal's middle on."""
    process = psutil.Process()
    touch = Touch("benchmark.last", hold)
    written: list[dict[str, Any]] = [
        {"name": f"lags-{number}", "on": "sensor.*", "match": {"payload": {"number": number}}}
        for number in range(lagging)
    ]
    written += [{"name": f"last-{number}", "on": touch.last} for number in range(RULES)]
    rules = [
        replace(rule, steps=(Step(touch),))
        for rule in parse_rules(Tree([{**one, "do": {"log": ""}} for one in written]))
    ]
    await _lay_back(path, [rule.name for rule in rules], lagging)
    before = process.memory_info().rss
    started = time.perf_counter()
    journal, _ = await open_journal(path)
    async with httpx2.AsyncClient() as http, EnvEventBus(journal) as bus:
        engine = RuleEngine(bus, Hands(bus.publish, _never, _never, http, path.parent, {}, _never), tracing=Tracing.OFF)
        await engine.update(rules)
        async with engine:
            await bus.publish(EnvEvent("last", touch.last, 0, {"source_name": "benchmark"}, {}))
            with anyio.fail_after(LIMIT_S):
                await touch.came.wait()
            ready_s = time.perf_counter() - started
            seen, most = touch.seen, 0
            with anyio.move_on_after(CATCH_UP_S if lagging else 0):
                while True:
                    most = max(most, process.memory_info().rss)
                    await anyio.sleep(0.1)
            most = max(most, process.memory_info().rss)
            caught_up = touch.seen - seen
            await engine.aclose()
    await journal.aclose()
    found = {"ready_ms": ready_s * 1000, "memory_mebibytes": (most - before) / MEBIBYTE}
    return {**found, "runs_per_s": caught_up / CATCH_UP_S} if lagging and not hold else found


async def _lay_back(path: Path, names: list[str], lagging: int) -> None:
    """Write down that all these rules were there, and how far they were."""
    journal, _ = await open_journal(path)
    head, middle = journal.head, journal.head // 2
    lag = [Position(name, middle, lags=True) for name in names[:lagging]]
    await journal.save(Change(low=head, positions=lag + [Position(name, head) for name in names[lagging:]]))
    await journal.aclose()


def _never(*_: Any, **__: Any) -> Any:
    raise AssertionError("these actions have no far end")


def run() -> Report:
    report = Report("recover")
    with folder() as place:
        path = place / "journal.db"
        asyncio.run(fill(path))
        report.figures["events"] = EVENTS
        report.figures["file_mebibytes"] = path.stat().st_size / MEBIBYTE
        closed = asyncio.run(opened(path, EVENTS))
        fill_and_die(path)
        killed = asyncio.run(opened(path, EVENTS + 1 + 20 * BATCH))
        rules = {
            "rules": run_as_daemon(partial(ruled, path, 0)),
            "lagging": run_as_daemon(partial(ruled, path, LAGGING)),
            "held": run_as_daemon(partial(ruled, path, LAGGING, hold=True)),
        }
    for name, found in {"closed": closed, "killed": killed, **rules}.items():
        report.figures |= {f"{name}_{figure}": value for figure, value in found.items()}
    report.aims += [
        Aim("ready_s", killed["ready_ms"] / 1000, 1, at_most=True),
        Aim("memory_mebibytes", max(closed["memory_mebibytes"], killed["memory_mebibytes"]), 32, at_most=True),
        Aim("rules_memory_mebibytes", max(found["memory_mebibytes"] for found in rules.values()), 64, at_most=True),
        Aim("rules_ready_s", max(found["ready_ms"] for found in rules.values()) / 1000, 1, at_most=True),
    ]
    return report
