"""A program under test on raw pipes: it can be sent anything, left unread, killed, and asked what it left behind.

It is started as the host starts its children, known to the guardian before it is anything, and gone when the block
ends, however that ends.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import signal
import subprocess
import termios
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

import anyio

from eventhost.connections import Guardian
from eventhost.connections.gate import cannot_start, open_gate, spawn_at_gate
from eventhost.connections.guardian import death_fd, members, signal_sessions
from eventhost.connections.lastwords import last_words
from eventhost.connections.pipe import InputPipe

MOST_LINES: Final = 20
"""How many lines of what a program wrote are shown."""

_CHUNK_BYTES: Final = 65_536
_KEPT_BYTES: Final = 65_536
_SWEEP_S: Final = 3.0
_DRAIN_S: Final = 1.0
_PAUSE_S: Final = 0.01

LINGER_S: Final = 0.5
"""How long what a program started may outlive it without counting as left behind."""


class RawProcess:
    """One program in a session of its own, and both ends of what is said; made by `raw_process`."""

    def __init__(
        self, process: subprocess.Popen[bytes], death: int, folder: Path, on_stdout: Callable[[bytes], None]
    ) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.pid = process.pid
        self.returncode: int | None = None
        """As in `subprocess`; None until `dead`."""
        self.dead = anyio.Event()
        """It is gone, with all that it had started, and what it wrote has been read."""
        self.lived_s = 0.0
        """How long it lived, once it is `dead`."""
        self.left_behind = 0
        """How many processes of its session were still alive `LINGER_S` after it."""
        self.stderr = b""
        """The end of what it wrote there."""
        self.on_stderr: Callable[[], None] = lambda: None
        """Called when there is more of that."""
        self._process, self._death, self._on_stdout = process, death, on_stdout
        self._stdin = InputPipe(process.stdin, process.pid)
        for pipe in (process.stdout, process.stderr):
            os.set_blocking(pipe.fileno(), False)
        self._folder = folder
        self._began = time.monotonic()
        self._reading = anyio.Event()
        self._reading.set()

    async def send(self, data: bytes) -> None:
        """Write all of `data` to its stdin; waits while the pipe is full.

        Raises:
            ConnectionLost: it no longer reads.
        """
        await self._stdin.write(data)

    def close_stdin(self) -> None:
        """End its stdin, which is how a source is asked to end."""
        self._stdin.close()

    def stop_reading(self) -> None:
        """Leave its stdout alone: beyond what is in the pipe it can say nothing more."""
        self._reading = anyio.Event()

    def read_on(self) -> None:
        """Undo `stop_reading`."""
        self._reading.set()

    def kill(self) -> None:
        """End it and all that it has started as the kernel does when there is no memory left."""
        if not self.dead.is_set():
            signal_sessions({self.pid}, signal.SIGKILL)

    async def ended(self, within_s: float) -> bool:
        """Wait until it is gone; false if it is not within so many seconds."""
        with anyio.move_on_after(within_s):
            await self.dead.wait()
        return self.dead.is_set()

    async def stop(self, grace_s: float) -> None:
        """Close its stdin, wait, and kill it; returns when nothing of it is left."""
        with anyio.CancelScope(shield=True):
            self.read_on()
            self.close_stdin()
            if not await self.ended(grace_s):
                self.kill()
                await self.ended(_SWEEP_S + _DRAIN_S)

    def describe_end(self) -> str:
        """How it ended."""
        if self.returncode is None:
            return "is running"
        if self.returncode < 0:
            return f"was killed by signal {-self.returncode}"
        return f"ended with status {self.returncode}"

    def last_words(self) -> str:
        """The line of its stderr that says why it ended, to follow a sentence; empty if there is none."""
        lines = self.stderr.decode(errors="replace").splitlines()
        last = last_words(lines, {str(self._folder), str(self._folder.resolve())})
        return f"; its last words: {last}" if last else ""

    def words(self) -> list[str]:
        """The last lines that it wrote to stderr."""
        lines = self.stderr.decode(errors="replace").strip("\r\n").splitlines()
        return [line.rstrip() for line in lines[-MOST_LINES:]]

    async def _own(self, guardian: Guardian) -> None:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        try:
            with anyio.CancelScope(shield=True):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._read_stdout, self._process.stdout)
                    tasks.start_soon(self._read_stderr, self._process.stderr)
                    await anyio.wait_readable(self._death)
                    await self._bury(guardian)
                    self.read_on()
                    await _emptied(self._process.stdout, self._process.stderr)
                    tasks.cancel_scope.cancel()
        finally:
            self.close_stdin()
            for pipe in (self._process.stdout, self._process.stderr):
                pipe.close()
            os.close(self._death)
            self.lived_s = time.monotonic() - self._began
            self.dead.set()

    async def _read_stdout(self, pipe: IO[bytes]) -> None:
        while True:
            await self._reading.wait()
            await anyio.wait_readable(pipe)
            if not self._reading.is_set():
                continue  # nobody is to read it any more since this waited
            if (chunk := _read(pipe)) == b"":
                return
            self._on_stdout(chunk or b"")

    async def _read_stderr(self, pipe: IO[bytes]) -> None:
        while True:
            await anyio.wait_readable(pipe)
            if (chunk := _read(pipe)) == b"":
                return
            self.stderr = (self.stderr + (chunk or b""))[-_KEPT_BYTES:]
            self.on_stderr()

    async def _bury(self, guardian: Guardian) -> None:
        with anyio.move_on_after(LINGER_S):
            while members({self.pid}):  # noqa: ASYNC110 - no event tells it
                await anyio.sleep(_PAUSE_S)
        self.left_behind = len(members({self.pid}))
        with anyio.move_on_after(_SWEEP_S) as sweep:
            while signal_sessions({self.pid}, signal.SIGKILL):  # noqa: ASYNC110 - no event tells it
                await anyio.sleep(_PAUSE_S)
        if not sweep.cancelled_caught:
            guardian.release(self.pid)
        self.returncode = self._process.wait()


def _read(pipe: IO[bytes]) -> bytes | None:
    """What there is to read now: nothing at its end, None if there is nothing yet."""
    try:
        return os.read(pipe.fileno(), _CHUNK_BYTES)
    except BlockingIOError:
        return None


async def _emptied(*pipes: IO[bytes]) -> None:
    """Wait until what is in the pipes was read; their end may never come, where what left the session holds them."""
    with anyio.move_on_after(_DRAIN_S):
        while any(map(_waiting_bytes, pipes)):  # noqa: ASYNC110 - no event tells it
            await anyio.sleep(_PAUSE_S)


def _waiting_bytes(pipe: IO[bytes]) -> int:
    count = array.array("i", [0])
    fcntl.ioctl(pipe.fileno(), termios.FIONREAD, count)
    return count[0]


@contextlib.asynccontextmanager
async def raw_process(
    guardian: Guardian,
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    on_stdout: Callable[[bytes], None],
    grace_s: float = 2.0,
) -> AsyncIterator[RawProcess]:
    """Run `argv` until the block ends, then `stop` it. `on_stdout` takes what it writes, in pieces of any size.

    Raises:
        SpawnError: it cannot be started.
    """
    process = _start(guardian, argv, cwd, env, on_stdout)
    raised: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(process._own, guardian)
        try:
            yield process
        except Exception as error:
            raised = error  # not to be wrapped in a group
        finally:
            await process.stop(grace_s)
    if raised is not None:
        raise raised


def _start(
    guardian: Guardian, argv: Sequence[str], cwd: Path, env: Mapping[str, str], on_stdout: Callable[[bytes], None]
) -> RawProcess:
    started = spawn_at_gate(argv, cwd.absolute(), env)
    try:
        guardian.guard(started.pid)
        death = death_fd(started.pid)
    except OSError as error:
        started.kill()
        guardian.release(started.pid)
        started.wait()
        raise cannot_start(argv[0], error) from error
    open_gate(started)
    return RawProcess(started, death, cwd.absolute(), on_stdout)
