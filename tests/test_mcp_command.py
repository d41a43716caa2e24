"""`eventhost mcp`: the running host on stdin and stdout, also when it ends and comes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream
from hosting import LIMIT_S, Hosting, hosting
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.subscriptions import ToolsListChanged
from test_serve import INFO, NAMES, WATCHED, listening, passed_on, shop

pytestmark = pytest.mark.anyio

COMMAND = [sys.executable, "-m", "eventhost", "mcp", "--env"]
LONGEST_LINE = 1_000_000
BEGIN = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": INFO}


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Hosting]:
    async with hosting(tmp_path) as host:
        yield host


@dataclass
class Spoken:
    """The command, spoken to line by line."""

    process: Process
    lines: BufferedByteReceiveStream = field(init=False)

    def __post_init__(self) -> None:
        assert self.process.stdout is not None
        self.lines = BufferedByteReceiveStream(self.process.stdout)

    async def say(self, message: dict[str, Any] | bytes) -> None:
        assert self.process.stdin is not None
        line = message if isinstance(message, bytes) else json.dumps({"jsonrpc": "2.0", **message}).encode()
        await self.process.stdin.send(line + b"\n")

    async def hear(self) -> dict[str, Any]:
        """The next message; everything on stdout must be one."""
        with anyio.fail_after(LIMIT_S):
            message = json.loads(await self.lines.receive_until(b"\n", LONGEST_LINE))
        assert isinstance(message, dict)
        assert message["jsonrpc"] == "2.0"
        return message

    async def ask(self, number: int | str, method: str, **params: Any) -> dict[str, Any]:
        """The response to a request; what else is told meanwhile is passed over."""
        await self.say({"id": number, "method": method, "params": params})
        while True:
            message = await self.hear()
            if message.get("id") == number:
                return message

    async def begin(self) -> None:
        begun = await self.ask(0, "initialize", **BEGIN)
        assert begun["result"]["serverInfo"]["name"] == "eventhost"
        await self.say({"method": "notifications/initialized"})

    async def end(self) -> int:
        """Close stdin; the exit status."""
        assert self.process.stdin is not None
        await self.process.stdin.aclose()
        with anyio.fail_after(LIMIT_S):
            return await self.process.wait()


@asynccontextmanager
async def spoken(root: Path) -> AsyncIterator[Spoken]:
    async with await anyio.open_process([*COMMAND, str(root)], stderr=None) as process:
        try:
            yield Spoken(process)
        finally:
            if process.returncode is None:
                process.kill()


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_a_client_of_either_era_is_served_over_stdio(host: Hosting, mode: str) -> None:
    await shop(host)
    command = StdioServerParameters(command=COMMAND[0], args=[*COMMAND[1:], str(host.root)])
    with anyio.fail_after(LIMIT_S):
        async with listening(host), Client(stdio_client(command), mode=mode) as client:
            assert passed_on(tool.name for tool in (await client.list_tools()).tools) == NAMES
            called = await client.call_tool("shop__add", {"title": "milk"})
            assert called.content[0].text == '{"added": "milk"}'  # type: ignore[union-attr]
            if mode != "legacy":
                async with client.listen(tools_list_changed=True) as changes:
                    await client.call_tool("shop__grow")
                    assert isinstance(await anext(aiter(changes)), ToolsListChanged)


def test_without_a_host_it_says_so_and_fails(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, str(tmp_path)], input="", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"no host is running for {tmp_path}; start one with `eventhost run --env {tmp_path}`" in done.stderr


def test_a_url_is_for_the_client_itself(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, "http://127.0.0.1:1"], input="", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "give it http://127.0.0.1:1/mcp" in done.stderr


async def test_changes_are_told_and_what_is_no_message_is_an_error(host: Hosting) -> None:
    await shop(host)
    async with listening(host), spoken(host.root) as command:
        await command.begin()
        await command.say(b"rubbish")
        assert (await command.hear())["error"]["code"] == -32700
        await command.say({"id": "grow", "method": "tools/call", "params": {"name": "shop__grow"}})
        heard = [await command.hear() for _ in range(2)]
        assert {message.get("id", message.get("method")) for message in heard} == {
            "grow",
            "notifications/tools/list_changed",
        }
        assert await command.end() == 0


async def test_answers_that_are_owed_come_before_the_end(host: Hosting) -> None:
    await shop(host)
    async with listening(host):
        said = [
            {"id": 0, "method": "initialize", "params": BEGIN},
            {"method": "notifications/initialized"},
            {"id": 1, "method": "tools/call", "params": {"name": "shop__add"}},
        ]
        text = "".join(json.dumps({"jsonrpc": "2.0", **message}) + "\n" for message in said)
        with anyio.fail_after(LIMIT_S):
            done = await anyio.run_process([*COMMAND, str(host.root)], input=text.encode())
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [0, 1]


async def test_a_message_that_is_too_long_is_refused_and_harms_nothing(host: Hosting) -> None:
    async with listening(host), spoken(host.root) as command:
        await command.begin()
        refused = await command.ask(1, "tools/call", name="x" * (4 * 1_048_576))
        assert "a message may be 4194304 bytes long, no longer" in refused["error"]["message"]
        long = await command.ask(2, "tools/call", name="none", arguments={"x": "x" * 3_000_000})
        assert long["error"]["code"] == -32602
        assert "result" in await command.ask(3, "ping")


async def ended(process: Process) -> bytes:
    """What it said on stderr until its end."""
    assert process.stderr is not None
    try:
        with anyio.fail_after(LIMIT_S):
            said = b"".join([chunk async for chunk in process.stderr])
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
    return said


@pytest.mark.usefixtures("heeds_interrupts")
async def test_it_ends_in_peace_when_it_is_interrupted(host: Hosting) -> None:
    async with listening(host), await anyio.open_process([*COMMAND, str(host.root)]) as process:
        await Spoken(process).begin()
        process.send_signal(signal.SIGINT)
        said = await ended(process)
    assert process.returncode == 130
    assert b"Fatal" not in said
    assert b"Traceback" not in said


async def test_it_ends_in_peace_when_nobody_reads_it(host: Hosting) -> None:
    reading, writing = os.pipe()
    async with listening(host), await anyio.open_process([*COMMAND, str(host.root)], stdout=writing) as process:
        os.close(writing)
        os.close(reading)
        assert process.stdin is not None
        await process.stdin.send(b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n')
        said = await ended(process)
    assert (process.returncode, said) == (0, b"")


async def test_a_host_that_is_restarted_is_attached_to_again(host: Hosting) -> None:
    await shop(host, WATCHED)
    gone = {"code": -32000, "message": "the host is not running; start it, and ask again"}
    async with AsyncExitStack() as stack:
        async with listening(host):
            command = await stack.enter_async_context(spoken(host.root))
            await command.begin()
            assert "result" in await command.ask(1, "tools/list")
            for uri in ("shop://left", "shop://list"):
                assert "result" in await command.ask(1, "resources/subscribe", uri=uri)
            assert "result" in await command.ask(1, "resources/unsubscribe", uri="shop://left")
            await command.say({"id": 2, "method": "tools/call", "params": {"name": "shop__hang"}})
            assert "result" in await command.ask(3, "ping")
        # The host is gone: what it owed is answered, and so is what is asked of it now.
        owed = await command.hear()
        assert (owed["id"], owed["error"]) == (2, gone)
        assert (await command.ask(4, "tools/list"))["error"] == gone
        await command.say({"method": "notifications/cancelled", "params": {"requestId": 4}})
        async with listening(host):
            told = [(await command.hear())["method"] for _ in range(4)]
            changed = [f"notifications/{kind}/list_changed" for kind in ("tools", "resources", "prompts")]
            assert told == [*changed, "notifications/message"]
            tools = (await command.ask(5, "tools/list"))["result"]["tools"]
            assert passed_on(tool["name"] for tool in tools) == [*NAMES, "shop__touch"]
            await command.say({"id": 6, "method": "tools/call", "params": {"name": "shop__touch"}})
            while (told_now := await command.hear()).get("method") != "notifications/resources/updated":
                if told_now.get("id") == 6:  # the subscription is on its way
                    await command.say({"id": 6, "method": "tools/call", "params": {"name": "shop__touch"}})
            assert told_now["params"]["uri"] == "shop://list"
            assert await command.end() == 0
