"""The way from a child's pipe to an action with nothing that a host could leave out: what the pipeline is held against.

pipe ─► msgspec ─► SQLite, a row each (one thread, a transaction for all that has gathered) ─► one lookup ─► a rule's
queue ─► its worker ─► the action. What is done is written with the events every 10 ms. No failure is thought of.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import msgspec

from benchmarks.hosting import CHILDREN

IN_FLIGHT = 8
"""So many readings of the pipe may be on their way to the disk."""
READ_BYTES = 65_536
WRITE_EVERY_S = 0.01


class _Event(msgspec.Struct, gc=False):
    id: str
    type: str
    timestamp: int
    metadata: dict[str, Any]
    payload: dict[str, Any]


class _Params(msgspec.Struct):
    data: _Event


class _Notification(msgspec.Struct):
    params: _Params


_decode = msgspec.json.Decoder(_Notification).decode
_encode = msgspec.json.Encoder().encode

Act = Callable[[_Event], Awaitable[None]]
Batch = list[_Event] | int
"""Events to be kept, or up to which number all is done."""


class Skeleton:
    """Reads one child, until it has delivered `count` of its events to `act`."""

    def __init__(self, path: Path, rooms: int, act: Act, count: int) -> None:
        self._path, self._act, self._left = path, act, count
        self._jobs: SimpleQueue[Batch | None] = SimpleQueue()
        self._queues: dict[str, deque[tuple[int, _Event]]] = {f"server-{room + 1}": deque() for room in range(rooms)}
        self._wake = {room: asyncio.Event() for room in self._queues}
        self._all_done = asyncio.Event()
        self._head = self._in_flight = 0
        self._rest = b""
        self._reading = False
        self.started = 0.0
        self.started_cpu_s = 0.0

    async def run(self, command: list[str]) -> None:
        """Start the child, and return once everything is done."""
        self._loop = asyncio.get_running_loop()
        writer = threading.Thread(target=self._write)
        writer.start()
        workers = [asyncio.create_task(self._work(room)) for room in self._queues]
        marker = asyncio.create_task(self._mark())
        # Nothing else is going on yet that this could hold up.
        with subprocess.Popen(  # noqa: ASYNC220
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b'{"id":1}\n')
            process.stdout.readline()
            process.stdin.write(b"{}\n")
            self._pipe = process.stdout.fileno()
            self._go_on_reading()
            await self._all_done.wait()
            self._stop_reading()
            process.stdin.close()
        for task in (*workers, marker):
            task.cancel()
        self._jobs.put(None)
        writer.join()

    def _go_on_reading(self) -> None:
        if not self._reading and not self._all_done.is_set():
            self._reading = True
            self._loop.add_reader(self._pipe, self._read)

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._pipe)

    def _read(self) -> None:
        chunk = os.read(self._pipe, READ_BYTES)
        if not self.started:
            self.started, self.started_cpu_s = time.perf_counter(), time.process_time()
        lines = (self._rest + chunk).split(b"\n")
        self._rest = lines.pop()
        if not chunk or not lines:
            return
        self._jobs.put([_decode(line).params.data for line in lines])
        self._in_flight += 1
        if self._in_flight == IN_FLIGHT:
            self._stop_reading()

    def _write(self) -> None:
        database = sqlite3.connect(self._path, isolation_level=None)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("CREATE TABLE event(seq INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, body BLOB NOT NULL)")
        database.execute("CREATE TABLE mark(one INTEGER PRIMARY KEY, low INTEGER NOT NULL)")
        head = 0
        while (job := self._jobs.get()) is not None:
            jobs = [job]
            while True:
                try:
                    more = self._jobs.get_nowait()
                except Empty:
                    break
                if more is None:
                    database.close()
                    return
                jobs.append(more)
            database.execute("BEGIN IMMEDIATE")
            at_ms = int(time.time() * 1000)
            for batch in jobs:
                if isinstance(batch, int):
                    database.execute("INSERT OR REPLACE INTO mark VALUES(1, ?)", (batch,))
                else:
                    rows = [(head + place, at_ms, _encode(event)) for place, event in enumerate(batch, 1)]
                    database.executemany("INSERT INTO event VALUES(?, ?, ?)", rows)
                    head += len(rows)
            database.execute("COMMIT")
            self._loop.call_soon_threadsafe(self._match, [batch for batch in jobs if not isinstance(batch, int)])
        database.close()

    def _match(self, batches: list[list[_Event]]) -> None:
        seq, queues, woken = self._head, self._queues, set()
        for batch in batches:
            for event in batch:
                seq += 1
                room = event.payload["room"]
                queues[room].append((seq, event))
                woken.add(room)
        self._head = seq
        self._in_flight -= len(batches)
        for room in woken:
            self._wake[room].set()
        self._go_on_reading()

    async def _work(self, room: str) -> None:
        queue, wake = self._queues[room], self._wake[room]
        while True:
            await wake.wait()
            wake.clear()
            while queue:
                await self._act(queue[0][1])
                queue.popleft()
                self._left -= 1
            if not self._left:
                self._all_done.set()

    async def _mark(self) -> None:
        marked = 0
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            low = min((queue[0][0] - 1 for queue in self._queues.values() if queue), default=self._head)
            if low != marked:
                marked = low
                self._jobs.put(low)


def command(script: str, *arguments: str) -> list[str]:
    """What starts one of `children/`."""
    return [sys.executable, str(CHILDREN / script), *arguments]
