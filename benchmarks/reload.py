"""From a folder dropped into `eventsources/` to its first event, beside what its server takes to start by itself."""

from __future__ import annotations

import time

from benchmarks.daemon import add_source, daemon
from benchmarks.report import Aim, Report
from benchmarks.startup import first_event_s

ROUNDS = 7


def run() -> Report:
    report = Report("reload")
    dropped: list[float] = []
    alone: list[float] = []
    with daemon(1) as running:
        running.until_running(1)
        events = running.host().stream("/events", type="kit.started", since=0)
        next(events)
        for number in range(ROUNDS):
            started = time.perf_counter()
            add_source(running.root, f"dropped-{number}")
            next(events)
            dropped.append(time.perf_counter() - started)
            alone.append(first_event_s("kit_source.py"))
    dropped_s = report.add("dropped_to_first_event_s", dropped)
    alone_s = report.add("source_alone_to_first_event_s", alone)
    report.aims.append(Aim("above_the_source_alone_s", dropped_s - alone_s, 1, at_most=True))
    return report
