"""One command: it is run, and run again, and its lines and its end become events."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from child import Child, Pipe
from lines import Line, Splitter, fitted, payload_of_line
from options import Command

from eventhost.errors import cause_of
from eventhost.kit.event import Event
from eventhost.kit.upstream import Unavailable, Upstream

BATCH: Final = 500
_TIMEOUT_GRACE_S: Final = 2.0
_TAIL_BYTES: Final = 4096
_WHOLE_BYTES: Final = 65_536

EmitAll = Callable[[Sequence[Event]], Awaitable[None]]


class Tail:
    """The last bytes of an output, so many of them at most."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._held = bytearray()
        self.cut = False

    def feed(self, data: bytes) -> None:
        """Take what follows."""
        self._held += data
        surplus = len(self._held) - self._most_bytes
        if surplus > 0:
            del self._held[:surplus]
            self.cut = True

    @property
    def text(self) -> str:
        """What is held, from the beginning of a line where some is missing."""
        data = bytes(self._held)
        if self.cut and b"\n" in data[:-1]:
            data = data[data.index(b"\n") + 1 :]
        return fitted(data.decode(errors="replace"), 6 * self._most_bytes)[0]


class Output:
    """What one run of a command writes to one `stream`, and what that becomes."""

    def __init__(self, command: Command, stream: str, pid: int) -> None:
        self.tail = Tail(_TAIL_BYTES if command.lines else _WHOLE_BYTES)
        self._command = command
        self._metadata = {"command": command.name, "stream": stream, "pid": pid}
        self._splitter = Splitter()

    def feed(self, data: bytes) -> list[Event]:
        """The events of the lines that `data` completes."""
        self.tail.feed(data)
        return self._events(self._splitter.feed(data)) if self._command.lines else []

    def end(self) -> list[Event]:
        """The event of what is left at the end."""
        return self._events(self._splitter.end())

    def _events(self, lines: Sequence[Line]) -> list[Event]:
        return [
            Event(
                self._command.line_type,
                payload_of_line(line, as_json=self._command.as_json),
                metadata=self._metadata,
            )
            for line in lines
            if line.data.strip()
        ]


def exit_event(
    command: Command, pid: int, status: int, duration_s: float, tails: dict[str, Tail], *, timed_out: bool = False
) -> Event:
    """What its end becomes; `status` is as `subprocess` has it."""
    payload: dict[str, Any] = {
        "command": command.name,
        "code": status if status >= 0 else None,
        "signal": signal_name(-status) if status < 0 else None,
        "duration_s": round(duration_s, 3),
        **{stream: tail.text for stream, tail in tails.items()},
    }
    if timed_out:
        payload["timed_out"] = True
    if any(tail.cut for tail in tails.values()):
        payload["truncated"] = True
    return Event(command.exit_type, payload, metadata={"command": command.name, "pid": pid})


def signal_name(number: int) -> str:
    """`SIGTERM`, and a number where it has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


class Runner:
    """Keeps one command running, as it is configured."""

    def __init__(self, command: Command, emit_all: EmitAll, upstream: Upstream) -> None:
        self._command, self._emit_all, self._upstream = command, emit_all, upstream
        self._runs = 0

    async def run(self) -> None:
        """Run it until cancelled; returns where it is to run once."""
        command = self._command
        if command.every_s is not None or command.restart:
            await self._upstream.stay(self._session)
        while True:
            try:
                await self._once()
            except Unavailable as error:
                await asyncio.sleep(self._upstream.failed(str(error)))
            else:
                return

    async def _session(self) -> None:
        every_s = self._command.every_s
        next_s = time.monotonic()
        while True:
            ended = await self._once()
            if every_s is None:
                raise Unavailable(f"it {ended}")
            # One that takes too long begins anew at once, and never twice at a time.
            next_s = max(next_s + every_s, time.monotonic())
            await asyncio.sleep(next_s - time.monotonic())

    async def _once(self) -> str:
        """Run it to its end, and return how it ended.

        Raises:
            Unavailable: it cannot be started.
        """
        command = self._command
        started_s = time.monotonic()
        child = Child(command.argv, cwd=command.cwd, environment=command.environment)
        try:
            self._runs += 1
            self._upstream.position = {"pid": child.pid, "runs": self._runs}
            if self._upstream.state != "connected":
                self._upstream.connected(f"process {child.pid}")
            stdout, stderr = (Output(command, stream, child.pid) for stream in ("stdout", "stderr"))
            try:
                async with asyncio.TaskGroup() as reading:
                    reading.create_task(self._read(child.stdout, stdout))
                    reading.create_task(self._read(child.stderr, stderr))
                    timed_out = not await self._ends_in_time(child)
                    duration_s = time.monotonic() - started_s
                    status = child.sweep()
            except BaseExceptionGroup as errors:
                raise cause_of(errors) from None
            if command.exit:
                tails = {"stdout": stdout.tail, "stderr": stderr.tail}
                told = exit_event(command, child.pid, status, duration_s, tails, timed_out=timed_out)
                await self._emit_all([told])
        finally:
            await child.stop()
        ended = f"was ended by {signal_name(-status)}" if status < 0 else f"ended with status {status}"
        self._upstream.position = {"runs": self._runs, "last": ended}
        return f"{ended} after {duration_s:.1f} s"

    async def _ends_in_time(self, child: Child) -> bool:
        try:
            async with asyncio.timeout(self._command.timeout_s):
                await child.dead()
        except TimeoutError:
            await child.terminate(_TIMEOUT_GRACE_S)
            return False
        return True

    async def _read(self, pipe: Pipe, output: Output) -> None:
        while data := await pipe.read():
            await self._tell(output.feed(data))
        await self._tell(output.end())

    async def _tell(self, events: Sequence[Event]) -> None:
        for start in range(0, len(events), BATCH):
            await self._emit_all(events[start : start + BATCH])
