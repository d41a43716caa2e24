"""One stream of events to 100 and to 1,000 watchers, over SSE and over WebSocket.

bus ─► eventhost's HTTP face ─► a socket for each client, all in a process of their own

Deliveries a second while events are published as fast as the bus takes them, what a delivery costs the server, and how
old an event is when its client has it, at 10,000 deliveries a second. Beside it, in the same run and in turns: an ASGI
application that writes each event to one client after the other, and sse-starlette, both under the same uvicorn, handed
each event as text that is ready to be sent.
"""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

import anyio
import anyio.to_thread
import psutil
import uvicorn
from sse_starlette.sse import EventSourceResponse, ServerSentEvent
from starlette.types import ASGIApp, Receive, Scope, Send

from benchmarks.hosting import CHILDREN, run_as_daemon
from benchmarks.journal import folder
from benchmarks.report import Aim, Report
from eventhost.environment import ServerEnvironment
from eventhost.event import RawEvent
from eventhost.web.server import serving

ROUNDS = 3
CLIENTS = (100, 1_000)
DELIVERIES = {"eventhost_sse": 400_000, "eventhost_ws": 50_000, "one_by_one": 40_000, "sse_starlette": 20_000}
"""So many come of a flood; the slower ways need fewer to show how slow they are."""

BATCH = 50
"""Events that are published at once, as a source's come."""

PACED_PER_S = 10_000
"""Deliveries."""

PACED_S = 2
STALLED = 10
STALLED_ROUNDS = 7
LIMIT_S = 120.0
MEBIBYTE = 1_048_576

Publish = Callable[[int], Awaitable[object]]
"""Publishes so many events at once."""


def made(count: int) -> list[dict[str, Any]]:
    """So many events, of now."""
    at_ns = time.perf_counter_ns()
    return [{"type": "door.opened", "payload": {"room": "server-12", "by": "me", "at_ns": at_ns}} for _ in range(count)]


@dataclass(frozen=True, slots=True)
class Server:
    """Where something is watched, and how something is published there."""

    port: int
    path: str
    accept: str
    publish: Publish


@asynccontextmanager
async def eventhost(accept: str = "text/event-stream", path: str = "/events") -> AsyncIterator[Server]:
    """The host as it is run, with its journal on the disk."""
    with folder() as root:
        limits = {"max_connections": 5_000, "rate_limit": {"enabled": False}, "access_log": False}
        (root / "config.jsonc").write_text(json.dumps({"http": {"port": 0, **limits}}))
        async with ServerEnvironment.from_path(root) as environment, serving(environment) as listening:

            async def publish(count: int) -> None:
                await environment.publish_events([RawEvent.from_value(event) for event in made(count)])

            yield Server(int(listening.url.rpartition(":")[2]), path, accept, publish)


def eventhost_ws() -> AbstractAsyncContextManager[Server]:
    """The same, watched over WebSocket."""
    return eventhost("websocket", "/ws/watcher-{n}")


@asynccontextmanager
async def under_uvicorn(app: ASGIApp, publish: Publish) -> AsyncIterator[Server]:
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listening:
        quiet = {"lifespan": "off", "log_config": None, "log_level": "critical", "access_log": False}
        config = uvicorn.Config(app, http="httptools", proxy_headers=False, **quiet)
        server = uvicorn.Server(config)
        server.capture_signals = nullcontext  # type: ignore[method-assign, assignment]
        task = asyncio.create_task(server.serve([listening]))
        try:
            yield Server(listening.getsockname()[1], "/", "text/event-stream", publish)
        finally:
            server.should_exit = server.force_exit = True
            await task


class Queues:
    """A queue for each client, into which each event is put."""

    def __init__(self) -> None:
        self.queues: set[asyncio.Queue[dict[str, Any]]] = set()
        self._number = 0

    async def publish(self, count: int) -> None:
        for event in made(count):
            self._number += 1
            shown = {"seq": self._number, "id": f"{self._number:036}", "timestamp": 1_700_000_000_000, **event}
            shown["metadata"] = {"source_name": "api", "source": "api"}
            message = {
                "id": str(self._number),
                "event": event["type"],
                "data": json.dumps(shown, separators=(",", ":")),
            }
            message["text"] = "id: {id}\nevent: {event}\ndata: {data}\n\n".format(**message)
            for queue in self.queues:
                queue.put_nowait(message)
        await asyncio.sleep(0)


@asynccontextmanager
async def one_by_one() -> AsyncIterator[Server]:
    """An ASGI application that sends each event by itself."""
    queues = Queues()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        queues.queues.add(queue)
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while True:
            message = await queue.get()
            await send({"type": "http.response.body", "body": message["text"].encode(), "more_body": True})

    async with under_uvicorn(app, queues.publish) as server:
        yield server


@asynccontextmanager
async def sse_starlette() -> AsyncIterator[Server]:
    """What is widely used."""
    queues = Queues()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        queues.queues.add(queue)

        async def events() -> AsyncIterator[ServerSentEvent]:
            while True:
                message = await queue.get()
                yield ServerSentEvent(message["data"], event=message["event"], id=message["id"], sep="\n")

        await EventSourceResponse(events())(scope, receive, send)

    async with under_uvicorn(app, queues.publish) as server:
        yield server


WAYS: dict[str, Callable[[], AbstractAsyncContextManager[Server]]] = {
    "eventhost_sse": eventhost,
    "eventhost_ws": eventhost_ws,
    "one_by_one": one_by_one,
    "sse_starlette": sse_starlette,
}


class Watchers:
    """The process of the clients."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    async def line(self) -> str:
        """What it says next."""
        assert self._process.stdout is not None
        with anyio.fail_after(LIMIT_S):
            text = await anyio.to_thread.run_sync(self._process.stdout.readline, abandon_on_cancel=True)
        if not text:
            raise SystemExit("the clients have ended: see above")
        return text

    def tell(self, number: int) -> None:
        """Have each wait for so many events more, or so many of them stall."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{number}\n")
        self._process.stdin.flush()


@asynccontextmanager
async def watchers(server: Server, count: int, *more: str) -> AsyncIterator[Watchers]:
    """So many clients, connected and answered."""
    arguments = ("127.0.0.1", str(server.port), str(count), server.accept, server.path, *more)
    command = [sys.executable, str(CHILDREN / "watchers.py"), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: ASYNC220
        watching = Watchers(process)
        try:
            await watching.line()
            yield watching
        finally:
            process.kill()


@dataclass(slots=True)
class Findings:
    """What one way took, round by round."""

    per_s: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    """Of the server for a delivery, in a flood."""
    paced_cpu_us: list[float] = field(default_factory=list)
    p99_us: list[float] = field(default_factory=list)


async def flood(server: Server, watching: Watchers, clients: int, events: int) -> tuple[float, float]:
    """Deliveries a second, and the server's µs for each."""
    watching.tell(events)
    await watching.line()
    started, started_cpu_s = time.perf_counter(), time.process_time()
    for _ in range(events // BATCH):
        await server.publish(BATCH)
    ended_s = json.loads(await watching.line())["ended_s"]
    deliveries = clients * events
    return deliveries / (ended_s - started), (time.process_time() - started_cpu_s) / deliveries * 1e6


async def paced(server: Server, watching: Watchers, clients: int) -> tuple[float, float]:
    """The server's µs for each delivery, and the 99th percentile of an event's age when its client has it, in µs."""
    rate = PACED_PER_S // clients
    watching.tell(rate * PACED_S)
    await watching.line()
    started, started_cpu_s = time.perf_counter(), time.process_time()
    for number in range(rate * PACED_S):
        await anyio.sleep(max(0.0, started + number / rate - time.perf_counter()))
        await server.publish(1)
    told = json.loads(await watching.line())
    cpu_s = time.process_time() - started_cpu_s
    return cpu_s / (clients * rate * PACED_S) * 1e6, quantiles(told["ages_us"], n=100)[98]


def measure(way: str, clients: int, findings: Findings) -> None:
    """One round."""

    async def run() -> None:
        async with WAYS[way]() as server, watchers(server, clients) as watching:
            events = max(BATCH, DELIVERIES[way] // clients // BATCH * BATCH)
            await flood(server, watching, clients, BATCH)
            per_s, cpu_us = await flood(server, watching, clients, events)
            paced_cpu_us, p99_us = await paced(server, watching, clients)
        findings.per_s.append(per_s)
        findings.cpu_us.append(cpu_us)
        findings.paced_cpu_us.append(paced_cpu_us)
        findings.p99_us.append(p99_us)

    gc.collect()
    run_as_daemon(run)


def idle_mib(way: str, clients: int) -> float:
    """What so many clients that are sent nothing take of the server's memory."""

    async def run() -> float:
        async with WAYS[way]() as server:
            gc.collect()
            before = psutil.Process().memory_info().rss
            async with watchers(server, clients):
                return float(psutil.Process().memory_info().rss - before) / MEBIBYTE

    return run_as_daemon(run)


def beside_stalled() -> float:
    """What a delivery to 100 clients costs beside `STALLED` that have ceased to read, compared to without those."""

    async def run() -> float:
        clients, events = CLIENTS[0], 2_000
        async with eventhost() as server, watchers(server, clients) as watching:
            await flood(server, watching, clients, events)
            _, alone_us = await flood(server, watching, clients, events)
            async with watchers(server, STALLED, "little-room") as stalled:
                stalled.tell(-STALLED)
                # By its end their sockets are full.
                await flood(server, watching, clients, events)
                _, beside_us = await flood(server, watching, clients, events)
        return beside_us / alone_us

    return run_as_daemon(run)


def run() -> Report:
    report = Report("fanout")
    # First, while no memory has been used that could be used again.
    idle = {way: idle_mib(way, CLIENTS[1]) for way in ("eventhost_sse", "eventhost_ws")}
    for clients in CLIENTS:
        all_findings = {way: Findings() for way in WAYS}
        for _ in range(ROUNDS):
            for way, findings in all_findings.items():
                measure(way, clients, findings)
        for way, findings in all_findings.items():
            report.add(f"{way}_{clients}_clients_deliveries_per_s", findings.per_s)
            report.add(f"{way}_{clients}_clients_flood_cpu_us", findings.cpu_us)
            report.add(f"{way}_{clients}_clients_paced_cpu_us", findings.paced_cpu_us)
            report.add(f"{way}_{clients}_clients_paced_p99_us", findings.p99_us)
    for way, mebibytes in idle.items():
        report.figures[f"{way}_1000_idle_clients_mib"] = mebibytes
    stalled = median(beside_stalled() for _ in range(STALLED_ROUNDS))
    figures = report.figures
    sse = figures["eventhost_sse_100_clients_deliveries_per_s"]
    report.aims += [
        Aim("sse_100_clients_deliveries_per_s", sse, 100_000),
        Aim("sse_of_sse_starlette_ratio", sse / figures["sse_starlette_100_clients_deliveries_per_s"], 3),
        Aim("1000_idle_sse_clients_mib", idle["eventhost_sse"], 60, at_most=True),
        Aim("cost_beside_stalled_clients_ratio", stalled, 1.1, at_most=True),
    ]
    return report
