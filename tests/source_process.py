"""A source as a process of its own, under a host that the test plays: it acknowledges, or does not, and may kill."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

import eventhost

LIMIT_S = 60
"""Never reached unless something is broken."""

Event = dict[str, Any]


class SourceProcess:
    """What the source has emitted so far, and how it is answered."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.events: list[Event] = []
        """Every event, in the order of its arrival, whether it was accepted or not."""
        self.log = ""
        """What it logged, or wrote to stderr."""
        self.accepts: Callable[[Event], bool] = lambda event: True
        self._process = process
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._happened = asyncio.Event()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for what the source's output brings about."""
        try:
            with anyio.fail_after(LIMIT_S):
                while not condition():
                    self._happened.clear()
                    await self._happened.wait()
        except TimeoutError:
            raise AssertionError(f"not so after {len(self.events)} events:\n{self.events[-5:]}\n{self.log}") from None

    async def until_asked(self, condition: Callable[[], object]) -> None:
        """Wait for what only asking again and again tells."""
        with anyio.fail_after(LIMIT_S):
            while not await anyio.to_thread.run_sync(condition):
                await anyio.sleep(0.05)

    async def count(self, wanted: int) -> Sequence[Event]:
        """The first `wanted` events, waited for."""
        await self.until(lambda: len(self.events) >= wanted)
        return self.events[:wanted]

    async def logged(self, text: str, times: int = 1) -> None:
        """Wait until it has written `text` so often."""
        await self.until(lambda: self.log.count(text) >= times)

    async def call(self, tool: str, **arguments: Any) -> Any:
        """What a tool of the source answers."""
        number = len(self._answers) + 1
        self._answers[number] = asyncio.get_running_loop().create_future()
        self.say(id=number, method="tools/call", params={"name": tool, "arguments": arguments})
        with anyio.fail_after(LIMIT_S):
            result = await self._answers[number]
        text = result["content"][0]["text"]
        assert not result.get("isError"), text
        return json.loads(text) if text[:1] in ("{", "[") else text

    def peak_memory_bytes(self) -> int:
        """The most memory that it has had."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
        return int(peak) * 1024

    def kill(self) -> None:
        """End it as the kernel does when there is no memory left."""
        self._process.kill()

    def say(self, **message: Any) -> None:
        """Write one message to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    async def end(self) -> int:
        """Close its stdin, which ends it; return its status."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        with anyio.fail_after(LIMIT_S):
            return await self._process.wait()

    async def read(self) -> None:
        """Take what it says until it says no more."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            if not line.endswith(b"\n"):
                return  # it was killed while it wrote
            message = json.loads(line)
            if message.get("method") == "notifications/eventsource/emitted":
                event = message["params"]["data"]
                self.events.append(event)
                if self.accepts(event):
                    self.say(method="notifications/eventsource/accepted", params={"ids": [event["id"]]})
            elif message.get("method") == "notifications/message":
                self.log += f"{message['params']['level']}: {message['params']['data']}\n"
            elif message.get("id") in self._answers:
                self._answers[message["id"]].set_result(message.get("result"))
            self._happened.set()

    async def read_log(self) -> None:
        """Take what it writes to stderr."""
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self.log += line.decode(errors="replace")
            self._happened.set()


@asynccontextmanager
async def source_process(folder: Path, config: dict[str, Any], state: Path) -> AsyncIterator[SourceProcess]:
    """The source in `folder`, until the block ends."""
    environment = {
        "PATH": os.environ["PATH"],
        "MCP_SERVER_CONFIG": json.dumps(config),
        "EVENTHOST_STATE_DIR": str(state),
        "PYTHONPATH": str(Path(eventhost.__file__).parents[1]),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "server.py", cwd=folder, env=environment, limit=2**24,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    source = SourceProcess(process)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(source.read)
        tasks.start_soon(source.read_log)
        try:
            client = {"name": "eventhost", "version": "0"}
            params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client}
            source.say(id=0, method="initialize", params=params)
            source.say(method="notifications/initialized")
            yield source
        finally:
            if process.returncode is None:
                with anyio.CancelScope(shield=True), anyio.move_on_after(3):
                    await source.end()
            if process.returncode is None:
                process.kill()
            with anyio.CancelScope(shield=True):
                await process.wait()
