"""From a child's write to a handler on the bus, at 100 and at 1,000 events a second; beside it the bare pipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from statistics import quantiles

import anyio

from benchmarks.hosting import CHILDREN, child, hosting, run_as_daemon
from benchmarks.report import Aim, Report
from eventhost.event import EnvEvent

ROUNDS = 3
SECONDS = 3
WARM_UP = 20


def pipe(rate: int) -> list[float]:
    """Latencies in µs of the bare pipe: a blocking read and `json`."""
    command = [sys.executable, str(CHILDREN / "metronome.py"), str(rate), str(rate * SECONDS)]
    taken: list[float] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b'{"id":1}\n')
        process.stdout.readline()
        process.stdin.write(b"{}\n")
        while len(taken) < rate * SECONDS:
            for line in os.read(process.stdout.fileno(), 65_536).splitlines():
                at_ns = json.loads(line)["params"]["data"]["payload"]["at_ns"]
                taken.append((time.perf_counter_ns() - at_ns) / 1000)
        process.stdin.close()
    return taken[WARM_UP:]


def host(rate: int) -> list[float]:
    """Latencies in µs through the host to a handler on the bus."""

    async def measure() -> list[float]:
        taken: list[float] = []
        all_came = anyio.Event()

        def take(event: EnvEvent) -> None:
            taken.append((time.perf_counter_ns() - event.payload["at_ns"]) / 1000)
            if len(taken) == rate * SECONDS:
                all_came.set()

        async with hosting() as (sources, bus):
            bus.register_event_handler("metronome.tick", take)
            sources.add(child("metronome", "metronome.py", str(rate), str(rate * SECONDS))).start()
            with anyio.fail_after(SECONDS + 30):
                await all_came.wait()
        return taken[WARM_UP:]

    return run_as_daemon(measure)


def run() -> Report:
    report = Report("latency")
    for rate in (100, 1000):
        rounds: dict[str, list[float]] = {}
        for _ in range(ROUNDS):
            for name, measure in (("pipe", pipe), ("eventhost", host)):
                percentiles = quantiles(measure(rate), n=100)
                for percent in (50, 99):
                    rounds.setdefault(f"{name}_{rate}_per_s_p{percent}_us", []).append(percentiles[percent - 1])
        for name, values in rounds.items():
            report.add(name, values)
    figures = report.figures
    for percent in (50, 99):
        ratio = figures[f"eventhost_100_per_s_p{percent}_us"] / figures[f"pipe_100_per_s_p{percent}_us"]
        report.aims.append(Aim(f"p{percent}_of_pipe_at_100_per_s_ratio", ratio, 3, at_most=True))
    return report
