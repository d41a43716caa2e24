"""An MCP server as a child: started, spoken to in lines, and gone, with all that it started, when the block ends.

It leads a process group of its own within this source's session. So it can be ended together with what it started, and
whoever ends this source, however suddenly, finds it too.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import anyio
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter
from options import ServerAt

from eventhost.kit.upstream import Unavailable
from eventhost.wire import SERVER_CONFIG_VARIABLE, STATE_DIR_VARIABLE

MOST_BYTES: Final = 64 * 1024 * 1024
"""How long a message may be."""

# All steps but the last together last less than a source has to clean up.
_STEPS: Final = ((None, 0.4), (signal.SIGTERM, 0.2), (signal.SIGKILL, 2.0))
_DEATH_AFTER_SILENCE_S: Final = 0.5
"""A server that closed its stdout is mostly about to die, and then has more to say about why."""

_POLL_S: Final = 0.25
_CHUNK_BYTES: Final = 256 * 1024
_GARBAGE_SHOWN: Final = 3
_LINE_SHOWN: Final = 2_000

_OWN: Final = (SERVER_CONFIG_VARIABLE, STATE_DIR_VARIABLE, "PORT")
"""Variables of this source that are none of the server's business."""


@asynccontextmanager
async def child_transport(
    server: ServerAt, state: Path, log: Callable[[str, str], None], lost: Callable[[str], None]
) -> AsyncIterator[Any]:
    """A transport for the SDK's client; `lost` is called, with the reason, when the child is gone or says no more.

    Raises:
        Unavailable: it cannot be started.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _OWN}
    # A server on the kit keeps its state beside this source's.
    environment |= {STATE_DIR_VARIABLE: str(state), **(server.environment or {})}
    try:
        process = await asyncio.create_subprocess_exec(
            *server.command,
            cwd=server.cwd,
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_CHUNK_BYTES,
            process_group=0,
        )
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise Unavailable(
            f"{server.command[0]} cannot be started: {reason}; is it installed, and on the PATH?"
        ) from None
    child = _Child(process, log, lost)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(child.read_log)
            tasks.start_soon(child.watch)
            tasks.start_soon(child.read)
            tasks.start_soon(child.write)
            try:
                yield child.incoming, child.outgoing
            finally:
                with anyio.CancelScope(shield=True):
                    await child.stop()
                tasks.cancel_scope.cancel()
    finally:
        child.close()


class _Child:
    def __init__(
        self, process: asyncio.subprocess.Process, log: Callable[[str, str], None], lost: Callable[[str], None]
    ) -> None:
        self._process, self._log, self._lost = process, log, lost
        self._feed, self.incoming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        self.outgoing, self._to_send = anyio.create_memory_object_stream[SessionMessage](0)
        self._words: deque[str] = deque(maxlen=1)
        self._log_ended = anyio.Event()
        self._garbage = 0

    async def read(self) -> None:
        """Hand on what it says, a message a line."""
        assert self._process.stdout is not None
        async for line in lines(self._process.stdout.read, MOST_BYTES, self._tell_too_long):
            try:
                message = jsonrpc_message_adapter.validate_json(line, by_name=False)
            except ValueError:
                self._tell_garbage(line)
                continue
            try:
                await self._feed.send(SessionMessage(message))
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                continue  # the session has gone; the pipe is read on, so that the child can end
        with anyio.move_on_after(_DEATH_AFTER_SILENCE_S):
            while self._process.returncode is None:  # noqa: ASYNC110 - no event tells it that does not wait for pipes
                await anyio.sleep(0.01)
            await self._log_ended.wait()
        self._end()

    async def write(self) -> None:
        """Send it what the session says."""
        stdin = self._process.stdin
        assert stdin is not None
        async for message in self._to_send:
            line = message.message.model_dump_json(by_alias=True, exclude_unset=True)
            try:
                stdin.write(line.encode() + b"\n")
                await stdin.drain()
            except OSError:
                # Its death, if that is why, says more.
                await anyio.sleep(_DEATH_AFTER_SILENCE_S)
                self._end()
                return

    async def read_log(self) -> None:
        """What it writes to stderr goes to the log."""
        stderr = self._process.stderr
        assert stderr is not None
        rest = b""
        while chunk := await stderr.read(_CHUNK_BYTES):
            *ended, rest = (rest + chunk).split(b"\n")
            if len(rest) > _LINE_SHOWN:
                ended, rest = [*ended, rest], b""
            for line in ended:
                self._tell_log(line)
        self._tell_log(rest)
        self._log_ended.set()

    async def watch(self) -> None:
        """Notice its death also where something that it started holds its pipes."""
        while self._process.returncode is None:  # noqa: ASYNC110 - as above
            await anyio.sleep(_POLL_S)
        await anyio.sleep(_DEATH_AFTER_SILENCE_S)
        self._end()

    async def stop(self) -> None:
        """Close its stdin, which is how a server is asked to end; then signals. Bounded."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        for signum, wait_s in _STEPS:
            if signum is not None:
                self._signal(signum)
            with anyio.move_on_after(wait_s):
                while self._process.returncode is None:  # noqa: ASYNC110 - as above
                    await anyio.sleep(0.01)
            if self._process.returncode is not None:
                break
        # What it started itself may live on.
        self._signal(signal.SIGKILL)

    def close(self) -> None:
        """Let go of pipes and streams."""
        for stream in (self._feed, self.incoming, self.outgoing, self._to_send):
            stream.close()
        # Whoever escaped the group may hold a pipe, and the transport would wait for it.
        self._process._transport.close()  # type: ignore[attr-defined]

    def _tell_too_long(self) -> None:
        self._log("error", f"said more than {MOST_BYTES // 2**20} MB at once, which is left out")

    def _tell_garbage(self, line: bytes) -> None:
        self._garbage += 1
        if self._garbage <= _GARBAGE_SHOWN:
            more = "; more of it is not shown" if self._garbage == _GARBAGE_SHOWN else ""
            self._log("warning", f"wrote to its stdout what is no MCP: {_shown(line)}{more}")

    def _tell_log(self, line: bytes) -> None:
        if text := _shown(line):
            self._words.append(text)
            self._log("info", text)

    def _signal(self, signum: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signum)

    def _end(self) -> None:
        status = self._process.returncode
        if status is None:
            told = "the server closed its end of the conversation"
        elif status < 0:
            told = f"the server was killed by {signal.Signals(-status).name}"
        else:
            told = f"the server exited with status {status}"
        self._lost(told + (f"; its last words: {self._words[-1]}" if self._words else ""))
        # Whoever still waits for an answer, in the handshake say, learns it so.
        self._feed.close()


async def lines(
    read: Callable[[int], Awaitable[bytes]], most_bytes: int, too_long: Callable[[], None]
) -> AsyncIterator[bytes]:
    """The lines that `read` gives chunk by chunk, but empty ones, and those of more than `most_bytes`."""
    parts: list[bytes] = []
    size = 0
    while chunk := await read(_CHUNK_BYTES):
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            if size <= most_bytes < size + len(end):
                too_long()
            elif size <= most_bytes and (line := b"".join([*parts, end]).strip()):
                yield line
            parts, size = [], 0
        if size <= most_bytes < size + len(rest):
            too_long()
            parts = []
        elif size <= most_bytes:
            parts.append(rest)
        size += len(rest)


def _shown(line: bytes) -> str:
    text = line[:_LINE_SHOWN].decode(errors="replace").rstrip()
    return "".join(letter if letter.isprintable() or letter == "\t" else "�" for letter in text)
