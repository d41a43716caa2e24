"""The host's ends of a child's pipes.

What it writes is read at once when it is wanted, and not at all when it is not: that is the backpressure.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import os
import sys
import termios
from collections.abc import Iterator
from typing import IO

import anyio

from eventhost.errors import ConnectionLost

CHUNK_BYTES = 64 * 1024
"""The most that is read at once: what Linux gives a pipe, and what is dealt with before others wait for long."""

BUSY_BYTES = CHUNK_BYTES // 2
"""Who has that much waiting writes much, and is worth a wider pipe."""

WIDE_BYTES = 256 * 1024
"""How much the pipe of a child that writes much holds; others leave the user's quota of pipes alone."""


class InputPipe:
    """The host's end of the stdin of the process `pid`."""

    def __init__(self, pipe: IO[bytes], pid: int) -> None:
        os.set_blocking(pipe.fileno(), False)
        self._pipe, self._pid = pipe, pid
        self._writing = anyio.Lock()

    async def write(self, data: bytes) -> None:
        """Write all of `data`, after what others are writing; waits while the pipe is full.

        Cancelled while it waits, a part may have been written.

        Raises:
            ConnectionLost: the process no longer reads.
        """
        async with self._writing:
            left = memoryview(data)
            try:
                while left:
                    try:
                        left = left[os.write(self._pipe.fileno(), left) :]
                    except BlockingIOError:
                        await anyio.wait_writable(self._pipe)
            except (OSError, ValueError, anyio.ClosedResourceError) as error:
                raise ConnectionLost(f"process {self._pid} no longer reads its stdin") from error

    def close(self) -> None:
        """Close this end, and let who waits to write know. Nothing happens the second time."""
        if not self._pipe.closed:
            anyio.notify_closing(self._pipe)
            self._pipe.close()


class OutputPipe:
    """The host's end of a child's stdout or stderr, read by one task.

    As long as it is read again before more arrives, it stays registered with the event loop, and the loop's callback
    does the reading: a third less delay than `anyio.wait_readable`, which registers anew for each chunk. When nobody
    reads, it is withdrawn, so that a full pipe never keeps the loop busy.
    """

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._descriptor = pipe.fileno()
        os.set_blocking(self._descriptor, False)
        self._loop = asyncio.get_running_loop()
        self._registered = False
        self._widened = False
        self._reading: asyncio.Future[bytes | None] | None = None

    async def read(self) -> bytes | None:
        """Wait for the next chunk; empty at the end of the pipe, None when `wake` was called meanwhile."""
        self._reading = self._loop.create_future()
        if not self._registered:
            self._loop.add_reader(self._descriptor, self._on_readable)
            self._registered = True
        try:
            chunk = await self._reading
        finally:
            self._reading = None
        if chunk is not None and len(chunk) >= BUSY_BYTES:
            self._widen()
        return chunk

    def wake(self) -> None:
        """End a `read` that is waiting."""
        if self._reading is not None and not self._reading.done():
            self._reading.set_result(None)

    def rest(self) -> Iterator[bytes]:
        """What is in the pipe now, and no more: its end may never come, where another process holds it open."""
        count = array.array("i", [0])
        fcntl.ioctl(self._descriptor, termios.FIONREAD, count)
        left = count[0]
        while left > 0 and (chunk := os.read(self._descriptor, min(left, CHUNK_BYTES))):
            left -= len(chunk)
            yield chunk

    def close(self) -> None:
        """Close this end: whoever still writes to the other is told so."""
        self._withdraw()
        self._pipe.close()

    def _withdraw(self) -> None:
        if self._registered:
            self._loop.remove_reader(self._descriptor)
            self._registered = False

    def _on_readable(self) -> None:
        if self._reading is None or self._reading.done():
            self._withdraw()
            return
        try:
            self._reading.set_result(os.read(self._descriptor, CHUNK_BYTES))
        except BlockingIOError:
            pass
        except OSError as error:
            self._reading.set_exception(error)

    def _widen(self) -> None:
        if sys.platform == "linux" and not self._widened:
            self._widened = True
            with contextlib.suppress(OSError):  # the quota is used up: smaller chunks will do
                fcntl.fcntl(self._descriptor, fcntl.F_SETPIPE_SZ, WIDE_BYTES)
