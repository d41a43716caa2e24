"""Events that are posted, one or a hundred in a request, until the answer says that they are in the journal.

client ─► POST /events ─► normalizing ─► journal (SQLite, full) ─► the answer

Requests a second and how long each waits, over 1 and over 32 connections that stay open. Beside it, in the same run and
in turns: a route under the same uvicorn that reads the body and answers, and the journal alone, with as many appends
under way as there are connections.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from statistics import quantiles

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from benchmarks.fanout import LIMIT_S, Server, Watchers, eventhost, under_uvicorn
from benchmarks.hosting import CHILDREN, run_as_daemon
from benchmarks.journal import folder, make_events
from benchmarks.report import Report
from eventhost.journal import open_journal

ROUNDS = 3
LOADS = {(1, 1): 1_500, (32, 1): 6_000, (1, 100): 200, (32, 100): 400}
"""How many requests, by connections and events in each."""


@asynccontextmanager
async def answers_only() -> AsyncIterator[Server]:
    """A route that reads the body and answers."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Request(scope, receive).body()
        text = b'{"id":"01970000-0000-7000-8000-000000000000","seq":1}'
        await Response(text, 201, media_type="application/json")(scope, receive, send)

    async def publish(count: int) -> None:
        raise AssertionError

    async with under_uvicorn(app, publish) as server:
        yield server


WAYS: dict[str, Callable[[], AbstractAsyncContextManager[Server]]] = {
    "eventhost": eventhost,
    "answers_only": answers_only,
}


@dataclass(slots=True)
class Findings:
    """What one way took with one load, round by round."""

    requests_per_s: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    """Of the server for a request."""
    p99_ms: list[float] = field(default_factory=list)


def measure(way: str, connections: int, events: int, findings: Findings) -> None:
    """One round."""
    requests = LOADS[connections, events]

    async def run() -> None:
        async with WAYS[way]() as server:
            numbers = (str(server.port), "/events", str(connections), str(requests), str(events))
            command = [sys.executable, str(CHILDREN / "posts.py"), "127.0.0.1", *numbers]
            with subprocess.Popen(  # noqa: ASYNC220
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            ) as process:
                posting = Watchers(process)
                await posting.line()
                started_cpu_s = time.process_time()
                posting.tell(0)
                told = json.loads(await posting.line())
                cpu_s = time.process_time() - started_cpu_s
        findings.requests_per_s.append(requests / told["took_s"])
        findings.cpu_us.append(cpu_s / requests * 1e6)
        findings.p99_ms.append(quantiles(told["waits_s"], n=100)[98] * 1000)

    gc.collect()
    run_as_daemon(run)


def appended_per_s(connections: int, events: int) -> float:
    """Appends a second of the journal alone, so many under way at a time."""
    appends = LOADS[connections, events]

    async def run() -> float:
        with folder() as place:
            journal, _ = await open_journal(place / "journal.db", "full")
            batch = make_events(events)
            left = appends

            async def append() -> None:
                nonlocal left
                while left > 0:
                    left -= 1
                    await journal.append(batch)

            started = time.perf_counter()
            with anyio.fail_after(LIMIT_S):
                async with anyio.create_task_group() as tasks:
                    for _ in range(connections):
                        tasks.start_soon(append)
            taken_s = time.perf_counter() - started
            await journal.aclose()
        return appends / taken_s

    gc.collect()
    return run_as_daemon(run)


def run() -> Report:
    report = Report("publish")
    for connections, events in LOADS:
        load = f"{connections}_connections_{events}_events"
        all_findings = {way: Findings() for way in WAYS}
        appended = []
        for _ in range(ROUNDS):
            for way, findings in all_findings.items():
                measure(way, connections, events, findings)
            appended.append(appended_per_s(connections, events))
        for way, findings in all_findings.items():
            requests_per_s = report.add(f"{way}_{load}_requests_per_s", findings.requests_per_s)
            report.figures[f"{way}_{load}_events_per_s"] = requests_per_s * events
            report.add(f"{way}_{load}_cpu_us", findings.cpu_us)
            report.add(f"{way}_{load}_p99_ms", findings.p99_ms)
        report.add(f"journal_{load}_appends_per_s", appended)
    return report
