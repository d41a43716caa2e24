"""A source on its own stdin and stdout: nothing but the protocol reaches stdout, and the end is always clean.

Pipes and sockets are read and written without threads; a terminal is read in one, since it cannot be polled everywhere
and must stay blocking for whoever shares it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Final

from eventhost.errors import ConnectionLost
from eventhost.kit.ending import tell_end

if TYPE_CHECKING:
    from eventhost.kit.source import EventSource

_CHUNK_BYTES: Final = 65_536
_GRACE_S: Final = 0.25


def run_stdio(source: EventSource) -> int:
    """Serve `source` until stdin ends or SIGTERM or SIGINT comes; return the process's exit status.

    0 after either; 1 after a task of the source raised, which stderr then tells (see `tell_end`), so that whoever
    supervises the process starts it again.
    """
    if os.isatty(0):
        print(f"{source.name}: waits for an MCP client on stdin; Ctrl-D ends it", file=sys.stderr)
    with _standard_streams() as (stdin, stdout):
        return _run(source.name, lambda: source.serve(_receiver(stdin), _sender(stdout)))


def run_until_signal(name: str, serve: Callable[[], Awaitable[None]]) -> int:
    """Await `serve()`, cancelled by the first SIGTERM or SIGINT; return the exit status, see `run_stdio`."""
    return _run(name, serve)


def _run(name: str, serve: Callable[[], Awaitable[None]]) -> int:
    stopped = _Stop()

    async def main() -> int:
        serving = asyncio.ensure_future(serve())
        stopped.call(serving.cancel)
        await asyncio.wait([serving])
        status = _status(name, serving)
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        if others and (await asyncio.wait(others, timeout=_GRACE_S))[1]:
            # A task that ignores its cancellation would hold the process for ever.
            sys.stderr.flush()
            os._exit(status)
        return status

    # Around the loop and not inside it: asyncio's handler of SIGINT would load `inspect`, a megabyte, when replaced.
    with stopped.by_signals():
        return asyncio.run(main())


class _Stop:
    """The wish to end, from a signal that may come before there is a loop."""

    def __init__(self) -> None:
        self._wished = False
        self._tell: Callable[[], object] | None = None

    def call(self, end: Callable[[], object]) -> None:
        """Have `end` called in the running loop when a signal comes, or now if one came already."""
        loop = asyncio.get_running_loop()
        self._tell = lambda: loop.call_soon_threadsafe(end)
        if self._wished:
            end()

    @contextlib.contextmanager
    def by_signals(self) -> Iterator[None]:
        numbers = (signal.SIGTERM, signal.SIGINT)

        def stop(*_: object) -> None:
            # A second signal ends the process at once.
            for number in numbers:
                signal.signal(number, signal.SIG_DFL)
            self._wished = True
            if self._tell is not None:
                self._tell()

        before = [signal.signal(number, stop) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)


def _status(name: str, serving: asyncio.Future[None]) -> int:
    if serving.cancelled():
        return 0
    error = serving.exception()
    if error is None:
        return 0
    tell_end(name, error)
    return 1


@contextlib.contextmanager
def _standard_streams() -> Iterator[tuple[int, int]]:
    """The real stdin and stdout, while both stand for something harmless to everybody else.

    What the source or its children print goes to stderr, and reading stdin finds its end.
    """
    sys.stdout.flush()
    stdin, stdout = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    printed = sys.stdout
    try:
        os.dup2(nothing, 0)
        try:
            os.dup2(2, 1)
        except OSError:
            os.dup2(nothing, 1)
        sys.stdout = sys.stderr
        yield stdin, stdout
    finally:
        sys.stdout = printed
        os.dup2(stdin, 0)
        os.dup2(stdout, 1)
        for descriptor in (stdin, stdout):
            # The open file is shared with whoever handed it down.
            os.set_blocking(descriptor, True)
        for descriptor in (stdin, stdout, nothing):
            os.close(descriptor)


def _receiver(descriptor: int) -> Callable[[], Awaitable[bytes]]:
    mode = os.fstat(descriptor).st_mode

    async def receive_when_ready() -> bytes:
        while True:
            try:
                return os.read(descriptor, _CHUNK_BYTES)
            except BlockingIOError:
                await _ready(descriptor, write=False)
            except OSError:
                return b""

    async def receive_at_once() -> bytes:
        return os.read(descriptor, _CHUNK_BYTES)

    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        os.set_blocking(descriptor, False)
        return receive_when_ready
    if stat.S_ISREG(mode):
        return receive_at_once
    return lambda: _receive_in_thread(descriptor)


def _sender(descriptor: int) -> Callable[[bytes], Awaitable[None]]:
    mode = os.fstat(descriptor).st_mode
    if (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)) and not _is_stderr(descriptor):
        os.set_blocking(descriptor, False)

    async def send(data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(descriptor, rest) :]
            except BlockingIOError:
                await _ready(descriptor, write=True)
            except OSError as error:
                raise ConnectionLost(f"stdout is closed: {error.strerror}") from error

    return send


def _is_stderr(descriptor: int) -> bool:
    # Where they share a pipe it must stay blocking: a print would fail when the pipe is full.
    with contextlib.suppress(OSError):
        return os.path.sameopenfile(descriptor, 2)
    return False


async def _ready(descriptor: int, *, write: bool) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    add, remove = (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)
    add(descriptor, tell)
    try:
        await ready
    finally:
        remove(descriptor)


async def _receive_in_thread(descriptor: int) -> bytes:
    loop = asyncio.get_running_loop()
    received: asyncio.Future[bytes] = loop.create_future()

    def tell(data: bytes) -> None:
        if not received.done():
            received.set_result(data)

    def read() -> None:
        try:
            data = os.read(descriptor, _CHUNK_BYTES)
        except OSError:
            data = b""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the source has ended meanwhile
            loop.call_soon_threadsafe(tell, data)

    # A daemon, so that a read that never returns does not hold the process at its end.
    threading.Thread(target=read, name="stdin", daemon=True).start()
    return await received
