"""How long sources take to start, one alone and many at once, and what the host costs while they are silent."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import anyio
import psutil

from benchmarks.daemon import daemon
from benchmarks.hosting import CHILDREN, child, hosting, run_as_daemon
from benchmarks.report import Aim, Report

ROUNDS = 3
IDLE_S = 10.0
MEBIBYTE = 1_048_576


def first_event_s(script: str) -> float:
    """From spawning a source to its first event on the bus, in seconds."""

    async def measure() -> float:
        async with hosting() as (sources, bus):
            subscription = bus.subscribe()
            started = time.perf_counter()
            sources.add(child("one", script)).start()
            with anyio.fail_after(60):
                async for _ in subscription:
                    break
            return time.perf_counter() - started

    return run_as_daemon(measure)


def without_host_s(count: int) -> float:
    """From spawning so many of the same sources to the first event of each, with nobody but the kernel to help."""
    initialize = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bare", "version": "1"}}
    first = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": initialize})
    second = json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"})
    started = time.perf_counter()
    command = [sys.executable, str(CHILDREN / "kit_source.py")]
    children = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(count)]
    for process in children:
        assert process.stdin is not None
        process.stdin.write(f"{first}\n{second}\n".encode())
        process.stdin.flush()
    for process in children:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()
    taken_s = time.perf_counter() - started
    for process in children:
        process.communicate()
    return taken_s


def many(count: int) -> dict[str, float]:
    """A daemon with `count` sources: from its own start to all running, and what it takes then."""
    started = time.perf_counter()
    with daemon(0) as bare:
        bare.until_running(0)
        while not (bare.root / "var" / "control.sock").exists():
            time.sleep(0.01)
        alone_s = time.perf_counter() - started
    started = time.perf_counter()
    with daemon(count) as running:
        running.until_running(count)
        all_s = time.perf_counter() - started
        host = psutil.Process(running.process.pid)
        before = host.cpu_times()
        time.sleep(IDLE_S)
        after = host.cpu_times()
        used_s = after.user + after.system - before.user - before.system
        return {
            f"daemon_and_{count}_sources_to_running_s": all_s,
            f"{count}_sources_to_running_s": all_s - alone_s,
            f"host_memory_with_{count}_sources_mib": host.memory_info().rss / MEBIBYTE,
            f"host_idle_cpu_with_{count}_sources_percent": 100 * used_s / IDLE_S,
        }


def run() -> Report:
    report = Report("startup")
    rounds: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        rounds.setdefault("kit_spawn_to_first_event_s", []).append(first_event_s("kit_source.py"))
        rounds.setdefault("sdk_spawn_to_first_event_s", []).append(first_event_s("sdk_source.py"))
        for count in (50, 200):
            rounds.setdefault(f"{count}_sources_without_host_s", []).append(without_host_s(count))
            for name, value in many(count).items():
                rounds.setdefault(name, []).append(value)
    for name, values in rounds.items():
        report.add(name, values)
    figures = report.figures
    report.aims += [
        Aim("50_sources_to_running_s", figures["50_sources_to_running_s"], 2, at_most=True),
        Aim("host_memory_mib", figures["host_memory_with_50_sources_mib"], 120, at_most=True),
        Aim("host_idle_cpu_percent", figures["host_idle_cpu_with_50_sources_percent"], 1, at_most=True),
    ]
    return report
