"""Events a second into the journal, and how long a commit takes, beside what SQLite and a plain file would do.

In the same run, in turns, with the same bytes in groups of the same size: SQLite with a row for each event, and a file
that is appended to and synced. Then single events at 1,000 a second, as a quiet host has them, and the same while a
large journal is being trimmed.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.report import Aim, Report
from eventhost.event import EnvEvent
from eventhost.journal import SqliteJournal, open_journal
from eventhost.journal.schema import Durability

EVENTS = 100_000
BATCH = 100
PUBLISHERS = 4
"""So many batches are under way at once: a group of theirs is what is compared."""
GROUP = BATCH * PUBLISHERS
ROUNDS = 5
RATE = 1_000
PACED_S = 3.0
TRIMMED_EVENTS = 1_000_000
TRIMMED_S = 10.0
WAIT_S = 120.0


def make_events(count: int) -> list[EnvEvent]:
    """Readings of about 250 bytes."""
    return [
        EnvEvent(
            f"01890a5d-ac96-774b-bcce-{number:012}",
            "sensor.reading",
            1_700_000_000_000 + number,
            {"source": "sensor", "source_name": "sensor"},
            {"number": number, "room": "server-1", "temp": 20.5, "text": "x" * 70},
        )
        for number in range(count)
    ]


@contextmanager
def folder() -> Iterator[Path]:
    """A place on the disk on which the benchmark is started: a folder for temporary files may be in memory."""
    with TemporaryDirectory(dir=Path.cwd(), prefix=".benchmark-") as name:
        yield Path(name)


def percentile(times_s: list[float], share: float) -> float:
    """In milliseconds."""
    return sorted(times_s)[min(len(times_s) - 1, int(share * len(times_s)))] * 1000


async def appended(events: list[EnvEvent], durability: Durability) -> tuple[float, float]:
    """Events a second, and the p99 of how long a publisher waits."""
    with folder() as place:
        journal, _ = await open_journal(place / "journal.db", durability)
        waits: list[float] = []
        starts = iter(range(0, len(events), BATCH))

        async def publish() -> None:
            for start in starts:
                begun = time.perf_counter()
                await journal.append(events[start : start + BATCH])
                waits.append(time.perf_counter() - begun)

        begun = time.perf_counter()
        await asyncio.gather(*(publish() for _ in range(PUBLISHERS)))
        rate = len(events) / (time.perf_counter() - begun)
        await journal.aclose()
        return rate, percentile(waits, 0.99)


def rows(bodies: list[bytes], durability: Durability) -> tuple[float, float]:
    """The same, of SQLite alone: a row for each event, a transaction for each group."""
    with folder() as place:
        database = sqlite3.connect(place / "rows.db", isolation_level=None)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute(f"PRAGMA synchronous = {durability}")
        database.execute("CREATE TABLE event(seq INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, body BLOB NOT NULL)")
        waits = []
        started = time.perf_counter()
        for start in range(0, len(bodies), GROUP):
            begun = time.perf_counter()
            group = [(start + place + 1, 1, body) for place, body in enumerate(bodies[start : start + GROUP])]
            database.execute("BEGIN IMMEDIATE")
            database.executemany("INSERT INTO event VALUES(?, ?, ?)", group)
            database.execute("COMMIT")
            waits.append(time.perf_counter() - begun)
        rate = len(bodies) / (time.perf_counter() - started)
        database.close()
        return rate, percentile(waits, 0.99)


def synced(bodies: list[bytes], sync: bool) -> tuple[float, float]:
    """The same, of a file: what no journal can beat."""
    with folder() as place, (place / "file").open("wb", buffering=0) as file:
        waits = []
        started = time.perf_counter()
        for start in range(0, len(bodies), GROUP):
            begun = time.perf_counter()
            file.write(b"\n".join(bodies[start : start + GROUP]))
            if sync:
                os.fsync(file) if not hasattr(os, "fdatasync") else os.fdatasync(file)
            waits.append(time.perf_counter() - begun)
        return len(bodies) / (time.perf_counter() - started), percentile(waits, 0.99)


async def paced(journal: SqliteJournal, events: list[EnvEvent], for_s: float) -> list[float]:
    """How long each of so many single events took, begun at their times whatever became of those before."""
    waits: list[float] = []

    async def publish(event: EnvEvent, due: float) -> None:
        await journal.append((event,))
        waits.append(time.perf_counter() - due)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number, event in enumerate(events[: int(RATE * for_s)]):
            due = started + number / RATE
            if (left := due - time.perf_counter()) > 0:
                await asyncio.sleep(left)
            tasks.create_task(publish(event, due))
    return waits


async def single(events: list[EnvEvent], durability: Durability) -> list[float]:
    """Single events into an empty journal."""
    with folder() as place:
        journal, _ = await open_journal(place / "journal.db", durability)
        waits = await paced(journal, events, PACED_S)
        await journal.aclose()
        return waits


async def trimming(events: list[EnvEvent]) -> dict[str, float]:
    """Single events while a large journal goes, all of it; and what became of its file."""
    with folder() as place:
        path = place / "journal.db"
        journal, _ = await open_journal(path, "full")
        for start in range(0, TRIMMED_EVENTS, 5_000):
            await journal.append(events[start % 50_000 : start % 50_000 + 5_000])
        before = await journal.size_bytes()
        journal.trim(journal.head)
        started = time.perf_counter()
        pacing = asyncio.create_task(paced(journal, events, TRIMMED_S))
        trimmed_s = shortened_s = 0.0
        while not shortened_s and (elapsed_s := time.perf_counter() - started) < WAIT_S:
            if not trimmed_s and await journal.size_bytes() < before / 20:
                trimmed_s = elapsed_s
            if trimmed_s and path.stat().st_size < before / 2:
                shortened_s = elapsed_s
            await asyncio.sleep(0.05)  # nobody tells when it is done
        waits = await pacing
        found = {
            "trimmed_mebibytes": before / 2**20,
            "trimmed_s": trimmed_s,
            "shortened_s": shortened_s,
            "shortened_to_mebibytes": path.stat().st_size / 2**20,
            "append_while_trimming_p50_ms": percentile(waits, 0.5),
            "append_while_trimming_p99_ms": percentile(waits, 0.99),
        }
        await journal.aclose()
        return found


def run() -> Report:
    report = Report("journal")
    events = make_events(EVENTS)
    bodies = [event.to_json() for event in events]
    report.figures["event_bytes"] = sum(map(len, bodies)) / len(bodies)
    report.figures["group_events"] = GROUP
    rounds: dict[str, list[tuple[float, float]]] = {}
    for _ in range(ROUNDS):
        for durability in ("full", "normal"):
            rounds.setdefault(f"rows_{durability}", []).append(rows(bodies, durability))
            rounds.setdefault(f"journal_{durability}", []).append(asyncio.run(appended(events, durability)))
            sync = durability == "full"
            name = "file_fdatasync" if sync else "file"
            rounds.setdefault(name, []).append(synced(bodies, sync))
    medians = {}
    for name, found in rounds.items():
        medians[name] = report.add(f"{name}_events_per_s", [rate for rate, _ in found])
        report.add(f"{name}_p99_ms", [p99 for _, p99 in found])
    for durability in ("full", "normal"):
        waits = asyncio.run(single(events, durability))
        report.figures[f"single_{durability}_p50_ms"] = percentile(waits, 0.5)
        report.figures[f"single_{durability}_p99_ms"] = percentile(waits, 0.99)
    report.figures |= asyncio.run(trimming(events))
    for durability in ("full", "normal"):
        ratio = medians[f"journal_{durability}"] / medians[f"rows_{durability}"]
        report.aims.append(Aim(f"{durability}_of_rows_ratio", ratio, 0.8))
    return report
