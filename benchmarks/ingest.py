"""Events a second from a child that writes encoded lines to a subscriber on the bus.

Beside it, in the same run: the pipe and msgspec alone (nothing a host could leave out), the same with the events kept
as a journal keeps them, the pipe and `json`, and the SDK's own way to receive such notifications.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import anyio
import msgspec
from mcp import Client
from mcp.client.extension import ClientExtension, NotificationBinding
from mcp.client.stdio import StdioServerParameters
from pydantic import BaseModel

from benchmarks.hosting import CHILDREN, child, hosting, run_as_daemon
from benchmarks.report import Aim, Report
from eventhost.bus import Lagged
from eventhost.event import EnvEvent

EVENTS = 300_000
EVENTS_JSON = 100_000
EVENTS_BINDING = 5_000
ROUNDS = 5


class _Params(msgspec.Struct):
    data: EnvEvent


class _Notification(msgspec.Struct):
    method: str
    params: _Params


def pipe(events: int, take: Callable[[bytes], object]) -> float:
    """Events a second from the bare pipe, each line handed to `take`."""
    command = [sys.executable, str(CHILDREN / "flood.py"), str(events)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b'{"id":1}\n')
        process.stdout.readline()
        process.stdin.write(b"{}\n")
        started, seen, rest = 0.0, 0, b""
        while seen < events:
            chunk = os.read(process.stdout.fileno(), 262_144)
            started = started or time.perf_counter()
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            for line in lines:
                take(line)
            seen += len(lines)
        taken_s = time.perf_counter() - started
        process.stdin.close()
    return events / taken_s


async def host(events: int = EVENTS) -> float:
    """Events a second through connection, normalizing, journal and bus to a subscriber."""
    async with hosting() as (sources, bus):
        subscription = bus.subscribe()
        sources.add(child("flood", "flood.py", str(events))).start()
        started, seen = 0.0, 0
        async for batch in subscription.batches():
            started = started or time.perf_counter()
            missed = batch[0].missed if isinstance(batch[0], Lagged) else 0
            seen += len(batch) + (missed - 1 if missed else 0)
            if seen >= events:
                break
        return events / (time.perf_counter() - started)


class _EmittedParams(BaseModel):
    level: str
    data: dict[str, Any]


async def binding(events: int = EVENTS_BINDING) -> float:
    """Events a second through the SDK's `NotificationBinding`; what it drops is not counted as received."""
    received = 0
    started = last = 0.0

    async def take(params: _EmittedParams) -> None:
        nonlocal received, started, last
        last = time.perf_counter()
        started = started or last
        received += 1

    class Events(ClientExtension):
        identifier = "io.example/events"

        def notifications(self) -> list[NotificationBinding[Any]]:
            return [
                NotificationBinding(
                    method="notifications/eventsource/emitted", params_type=_EmittedParams, handler=take
                )
            ]

    parameters = StdioServerParameters(command=sys.executable, args=[str(CHILDREN / "flood.py"), str(events)])
    async with Client(parameters, mode="legacy", extensions=[Events()]):
        with anyio.move_on_after(60):
            before = -1
            while before != received or not received:
                before = received
                await anyio.sleep(0.3)
    return received / (last - started)


def run() -> Report:
    report = Report("ingest")
    decode = msgspec.json.Decoder(_Notification).decode
    kept: deque[object] = deque(maxlen=10_000)
    rounds: dict[str, list[float]] = {name: [] for name in ("host", "msgspec", "kept", "json", "binding")}
    for _ in range(ROUNDS):
        rounds["msgspec"].append(pipe(EVENTS, decode))
        rounds["host"].append(run_as_daemon(host))
        rounds["kept"].append(pipe(EVENTS, lambda line: kept.append(decode(line))))
        rounds["json"].append(pipe(EVENTS_JSON, json.loads))
        rounds["binding"].append(run_as_daemon(binding))
        kept.clear()
    ours = report.add("eventhost_events_per_s", rounds["host"])
    ceiling = report.add("pipe_msgspec_events_per_s", rounds["msgspec"])
    report.add("pipe_msgspec_kept_events_per_s", rounds["kept"])
    report.add("pipe_json_events_per_s", rounds["json"])
    sdk = report.add("sdk_binding_events_per_s", rounds["binding"])
    report.aims += [Aim("of_ceiling_ratio", ours / ceiling, 0.6), Aim("of_sdk_binding_ratio", ours / sdk, 20)]
    return report
