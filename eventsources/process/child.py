"""A program in a process group of its own: its death is noticed whoever holds its output, and its group ends with it.

It stays in the session of the source, so that whoever ends that ends it too, however the source died.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from eventhost.kit.upstream import Unavailable
from eventhost.wire import SERVER_CONFIG_VARIABLE, STATE_DIR_VARIABLE

TERM_S: Final = 0.6
"""How long a program may take after SIGTERM; less than a source has at its own end."""

_CHUNK_BYTES: Final = 65_536
_MOST_IN_PIPE_BYTES: Final = 1_048_576


class Pipe:
    """What a program writes; nothing is read ahead, so a program that writes faster than it is read has to wait."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._ready: asyncio.Future[None] | None = None
        self._left: int | None = None
        os.set_blocking(file.fileno(), False)

    async def read(self) -> bytes:
        """Some of it; empty at its end."""
        while True:
            try:
                data = os.read(self._file.fileno(), _CHUNK_BYTES)
            except BlockingIOError:
                if self._left is not None:
                    return b""
                await self._wait()
                continue
            if self._left is not None:
                data = data[: max(0, self._left)]
                self._left -= len(data)
            return data

    def finish(self) -> None:
        """Read no more than what it holds: who else holds the other end may never close it."""
        if self._left is None:
            self._left = _MOST_IN_PIPE_BYTES
        self._wake()

    def close(self) -> None:
        """Read no more; who writes to it is told by SIGPIPE."""
        self._file.close()

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        self._ready = loop.create_future()
        loop.add_reader(self._file.fileno(), self._wake)
        try:
            await self._ready
        finally:
            loop.remove_reader(self._file.fileno())

    def _wake(self) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)


class Child:
    """One program, which runs from now on; `stop` it in the end.

    Raises:
        Unavailable: it cannot be started.
    """

    def __init__(self, argv: Sequence[str], *, cwd: Path | None = None, environment: Mapping[str, str] = {}) -> None:
        try:
            process = subprocess.Popen(
                argv,
                cwd=cwd,
                env=_environment() | dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                process_group=0,
            )
        except FileNotFoundError as error:
            there = cwd is None or cwd.is_dir()
            raise Unavailable(
                f"{argv[0]}: not found; install it, or write its whole path"
                if there
                else f"{error.filename}: no such folder; check `cwd`"
            ) from None
        except OSError as error:
            raise Unavailable(f"{argv[0]} cannot be started: {error.strerror}") from None
        assert process.stdout is not None
        assert process.stderr is not None
        self.pid = process.pid
        self.stdout, self.stderr = Pipe(process.stdout), Pipe(process.stderr)
        self._process = process
        self._death = _death_fd(process.pid)

    async def dead(self) -> None:
        """Wait until it is; what it has started may live on."""
        loop = asyncio.get_running_loop()
        died = asyncio.Event()
        loop.add_reader(self._death, died.set)
        try:
            await died.wait()
        finally:
            loop.remove_reader(self._death)

    def sweep(self) -> int:
        """End what the dead program has left in its group; return its status, as `subprocess` has it.

        What is in the pipes can still be read.
        """
        # Until the program is reaped nobody else can bear its number.
        self._signal(signal.SIGKILL)
        status = self._process.wait()
        self.stdout.finish()
        self.stderr.finish()
        return status

    async def terminate(self, grace_s: float = TERM_S) -> None:
        """Send SIGTERM to the whole group, and SIGKILL to what is left after `grace_s`; return once it is dead."""
        if self._process.returncode is not None:
            return
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)
        try:
            async with asyncio.timeout(grace_s):
                await self.dead()
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await self.dead()

    async def stop(self) -> None:
        """End it, with its group, and let go of its output."""
        try:
            await self.terminate()
        finally:
            if self._process.returncode is None:
                self._signal(signal.SIGKILL)
                self._process.wait()
            self.stdout.close()
            self.stderr.close()
            if self._death >= 0:
                os.close(self._death)
                self._death = -1

    def _signal(self, which: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, which)


def _environment() -> dict[str, str]:
    """The source's own, but for what may hold secrets of others."""
    private = {SERVER_CONFIG_VARIABLE, STATE_DIR_VARIABLE}
    return {name: value for name, value in os.environ.items() if name not in private}


def _death_fd(pid: int) -> int:
    """Readable once the process is dead, while nobody has reaped it."""
    try:
        return _watch_death(pid)
    except ProcessLookupError:
        readable_at_once, writer = os.pipe()
        os.close(writer)
        return readable_at_once


if sys.platform == "linux":

    def _watch_death(pid: int) -> int:
        return os.pidfd_open(pid)

else:

    def _watch_death(pid: int) -> int:
        queue = select.kqueue()
        queue.control([select.kevent(pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT)], 0)
        # The queue closes its own descriptor when it is collected.
        return os.dup(queue.fileno())
