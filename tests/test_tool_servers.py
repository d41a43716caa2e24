"""The tool servers that come with the host: what they offer, and that the to-do list survives crashes and crowds."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

import eventhost
from eventhost.errors import NotFound

SERVERS = Path(__file__).parent.parent / "mcpservers"
PACKAGES = str(Path(eventhost.__file__).parents[1])


@asynccontextmanager
async def connected(name: str, state: Path) -> AsyncIterator[Client]:
    """A tool server under the official client, started as the shipped configuration starts it."""
    environment = {"EVENTHOST_STATE_DIR": str(state), "PYTHONPATH": PACKAGES}
    command = StdioServerParameters(
        command=sys.executable, args=[f"./mcpservers/{name}/server.py"], cwd=SERVERS.parent, env=environment
    )
    with anyio.fail_after(60):
        async with Client(stdio_client(command), mode="legacy") as client:
            yield client


async def call(client: Client, tool: str, **arguments: Any) -> Any:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result
    return json.loads(result.content[0].text)  # type: ignore[union-attr]


@contextmanager
def modules_of_todo() -> Iterator[Callable[[str], Any]]:
    """Import modules of the to-do server by plain names, and forget them afterwards."""
    names = {"server", "todolist"}
    assert not names & sys.modules.keys()
    sys.path.insert(0, str(SERVERS / "todo"))
    try:
        yield import_module
    finally:
        sys.path.remove(str(SERVERS / "todo"))
        for name in names & sys.modules.keys():
            del sys.modules[name]


@pytest.mark.anyio
async def test_hello_has_a_tool_a_resource_and_a_prompt(tmp_path: Path) -> None:
    async with connected("hello", tmp_path) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["hello"]
        greeted = await client.call_tool("hello", {"name": "Ada"})
        assert greeted.content[0].text == "Hello, Ada!"  # type: ignore[union-attr]
        assert (await client.call_tool("hello", {})).content[0].text == "Hello, world!"  # type: ignore[union-attr]
        contents = (await client.read_resource("hello://greeting")).contents
        assert contents[0].text == "Hello"  # type: ignore[union-attr]
        prompt = await client.get_prompt("welcome", {"name": "Ada"})
        assert "Ada" in prompt.messages[0].content.text  # type: ignore[union-attr]


@pytest.mark.anyio
async def test_the_todo_list_is_there_again_after_a_restart(tmp_path: Path) -> None:
    async with connected("todo", tmp_path) as client:
        assert await call(client, "list") == []
        assert await call(client, "add", title="Water the plants") == {
            "id": 1,
            "title": "Water the plants",
            "done": False,
        }
        await call(client, "add", title="Grüße")
        assert (await call(client, "done", id=1))["done"] is True
    async with connected("todo", tmp_path) as client:
        assert await call(client, "list") == [
            {"id": 1, "title": "Water the plants", "done": True},
            {"id": 2, "title": "Grüße", "done": False},
        ]
        await call(client, "remove", id=2)
        assert (await call(client, "add", title="an id is never given twice"))["id"] == 3
        unknown = await client.call_tool("done", {"id": 2})
        assert unknown.is_error
        assert "there is no entry 2; there are: 1, 3" in unknown.content[0].text  # type: ignore[union-attr]


@pytest.mark.anyio
async def test_a_host_that_takes_tools_only_gets_its_answers_all_the_same(tmp_path: Path) -> None:
    said: asyncio.Queue[bytes] = asyncio.Queue()
    answered: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def say(**message: Any) -> None:
        said.put_nowait(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    async def send(data: bytes) -> None:
        for message in map(json.loads, data.splitlines()):
            if "id" in message:
                answered.put_nowait(message)

    # By this name the kit knows a host that acknowledges events; this one never does.
    client = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "eventhost", "version": "0"}}
    say(id=1, method="initialize", params=client)
    say(method="notifications/initialized")
    say(id=2, method="tools/call", params={"name": "add", "arguments": {"title": "x"}})
    with modules_of_todo() as load, pytest.MonkeyPatch.context() as patch, anyio.fail_after(20):
        server = load("server")
        patch.setattr(server, "_ACCEPT_S", 0.05)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: server.source.serve(said.get, send, config={}, state_dir=tmp_path))
            while (answer := await answered.get())["id"] != 2:
                pass
            said.put_nowait(b"")
    assert json.loads(answer["result"]["content"][0]["text"]) == {"id": 1, "title": "x", "done": False}


def add_many(state: Path, count: int, prefix: str) -> subprocess.Popen[bytes]:
    """A process that adds entries, one after the other."""
    program = (
        "import sys; from pathlib import Path; from todolist import TodoList\n"
        "todos = TodoList(Path(sys.argv[1]) / 'todo.json')\n"
        "for n in range(int(sys.argv[2])): todos.add(f'{sys.argv[3]}{n}')"
    )
    command = [sys.executable, "-c", program, str(state), str(count), prefix]
    return subprocess.Popen(command, cwd=SERVERS / "todo", env={"PYTHONPATH": f"{PACKAGES}:{SERVERS / 'todo'}"})


def test_processes_that_add_at_once_lose_nothing(tmp_path: Path) -> None:
    adding = [add_many(tmp_path, 25, f"{letter}-") for letter in "abcd"]
    assert [process.wait(30) for process in adding] == [0, 0, 0, 0]
    with modules_of_todo() as load:
        entries = load("todolist").TodoList(tmp_path / "todo.json").entries()
    assert {entry.title for entry in entries} == {f"{letter}-{n}" for letter in "abcd" for n in range(25)}
    assert [entry.id for entry in entries] == list(range(1, 101))


def test_a_process_that_is_killed_leaves_a_whole_list(tmp_path: Path) -> None:
    with modules_of_todo() as load:
        todos = load("todolist").TodoList(tmp_path / "todo.json")
        for kill in range(4):
            process = add_many(tmp_path, 100_000, f"{kill}-")
            known = len(todos.entries())
            while len(todos.entries()) < known + 5 and process.poll() is None:
                pass
            process.send_signal(signal.SIGKILL)
            process.wait(10)
            titles = [entry.title for entry in todos.entries() if entry.title.startswith(f"{kill}-")]
            assert len(titles) >= 5
            assert titles == [f"{kill}-{n}" for n in range(len(titles))]


def test_an_unknown_id_is_told_with_the_ids_there_are(tmp_path: Path) -> None:
    with modules_of_todo() as load:
        todos = load("todolist").TodoList(tmp_path / "todo.json")
        with pytest.raises(NotFound, match="there is no entry 7; there are: none"):
            todos.finish(7)
        todos.add("x")
        with pytest.raises(NotFound, match="there is no entry 7; there are: 1"):
            todos.remove(7)
