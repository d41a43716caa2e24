"""The kit over its transports: as a process on stdio, over HTTP, against the official client, and how light it is."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import textwrap
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.extension import ClientExtension, NotificationBinding
from pydantic import ConfigDict

from eventhost.kit import EventSource
from eventhost.kit.arguments import Arguments, parse
from eventhost.wire import ACCEPTED, ACK, EMITTED

ROOT = Path(__file__).parent.parent
MODES = ["legacy", "auto", "2026-07-28"]

DOOR = """
from eventhost.kit import EventSource, sleep
source = EventSource("door", event_types=["door.opened", "door.closed"])

@source.task
async def watch() -> None:
    while True:
        await sleep(source.config.get("interval", 5000) / 1000)
        await source.emit("door.opened", {"count": 1})

@source.tool(description="Add", input_schema={"type": "object", "required": ["a", "b"]})
def add(a, b):
    print("adding")
    return a + b

if __name__ == "__main__":
    source.run()
"""


async def settle() -> None:
    """Let everything that can run do so."""
    for _ in range(20):
        await anyio.lowlevel.checkpoint()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await anyio.lowlevel.checkpoint()


# --- over stdio, with the official client ----------------------------------------------------------------------------


class EmittedParams(types.NotificationParams):
    model_config = ConfigDict(extra="allow")
    data: dict[str, Any]


class Collector(ClientExtension):
    """Receives the events as the official client hands them out."""

    identifier = "test.eventhost/collector"

    def __init__(self) -> None:
        self.events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def notifications(self) -> Sequence[NotificationBinding[Any]]:
        async def take(params: EmittedParams) -> None:
            self.events.put_nowait(params.data)

        return [NotificationBinding(method=EMITTED, params_type=EmittedParams, handler=take)]


def write_source(folder: Path, text: str = DOOR) -> str:
    path = folder / "server.py"
    path.write_text(textwrap.dedent(text))
    return str(path)


def environment(**more: str) -> dict[str, str]:
    kept = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def parameters(folder: Path, **more: str) -> StdioServerParameters:
    return StdioServerParameters(command=sys.executable, args=[write_source(folder)], env=environment(**more))


def only_text(result: types.CallToolResult) -> Any:
    assert not result.is_error, result
    [content] = result.content
    assert isinstance(content, types.TextContent)
    return json.loads(content.text)


async def exercise(client: Client) -> None:
    """Call everything that a source offers, and check the shapes of the answers."""
    names = [tool.name for tool in (await client.list_tools()).tools]
    assert names == [
        "emit_event",
        "subscribe_event",
        "unsubscribe_event",
        "list_events",
        "list_event_types",
        "get_source_status",
        "list_pending_events",
        "add",
    ]
    emitted = only_text(await client.call_tool("emit_event", {"type": "door.closed", "payload": {"by": "hand"}}))
    assert emitted["success"] is True
    assert uuid.UUID(emitted["eventId"]).version == 7
    subscription = only_text(await client.call_tool("subscribe_event", {"eventType": "*"}))
    assert subscription["success"] is True
    ended = await client.call_tool("unsubscribe_event", {"subscriptionId": subscription["subscriptionId"]})
    assert set(only_text(ended)) == {"success"}
    assert only_text(await client.call_tool("list_events")) == ["door.opened", "door.closed"]
    assert only_text(await client.call_tool("list_event_types")) == ["door.opened", "door.closed"]
    status = only_text(await client.call_tool("get_source_status"))
    assert status["status"] == "running"
    assert status["eventsEmitted"] >= 1
    assert status["interval"] == 20
    assert only_text(await client.call_tool("list_pending_events")) == []
    assert only_text(await client.call_tool("add", {"a": 2, "b": 3})) == 5
    resources = {str(resource.uri): resource for resource in (await client.list_resources()).resources}
    assert set(resources) == {"event-source://door/status", "event-source://door/events"}
    assert (await client.list_resource_templates()).resource_templates == []
    for uri, resource in resources.items():
        assert resource.mime_type == "application/json"
        [contents] = (await client.read_resource(uri)).contents
        assert isinstance(contents, types.TextResourceContents)
        value = json.loads(contents.text)
        assert value == ["door.opened", "door.closed"] if uri.endswith("events") else value["status"] == "running"


@pytest.mark.anyio
@pytest.mark.parametrize("mode", MODES)
async def test_the_official_client_finds_everything_over_stdio(mode: str, tmp_path: Path) -> None:
    collector = Collector()
    server = parameters(tmp_path, MCP_SERVER_CONFIG='{"interval": 20}')
    with anyio.fail_after(30):
        async with Client(server, mode=mode, extensions=[collector]) as client:
            assert client.protocol_version == ("2025-11-25" if mode == "legacy" else "2026-07-28")
            await exercise(client)
            types_seen = {(await collector.events.get())["type"] for _ in range(3)}
            while types_seen != {"door.opened", "door.closed"}:
                types_seen.add((await collector.events.get())["type"])


# --- as a process ----------------------------------------------------------------------------------------------------


@contextmanager
def process(
    path: str, *arguments: str, program: str = sys.executable, stdin: Any = subprocess.PIPE, **more: str
) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [program, path, *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(**more),
    ) as child:
        try:
            yield child
        finally:
            child.kill()


CLIENT = {"name": "inspector", "version": "1"}
INITIALIZE = b"".join(
    json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n"
    for message in (
        {
            "id": 1,
            "method": "initialize",
            "params": {
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "clientInfo": {"name": "x", "version": "1"},
            },
        },
        {"method": "notifications/initialized"},
    )
)


def say(child: subprocess.Popen[bytes], data: bytes = INITIALIZE) -> dict[str, Any]:
    """Write `data` and read one message."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(data)
    child.stdin.flush()
    return json.loads(child.stdout.readline())


def test_the_end_of_stdin_ends_the_process_well(tmp_path: Path) -> None:
    with process(write_source(tmp_path)) as child:
        assert say(child)["result"]["serverInfo"] == {"name": "door", "version": "1.0.0"}
        rest, errors = child.communicate(timeout=10)
        assert (rest, errors, child.returncode) == (b"", b"", 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_tasks_clean_up_and_their_last_event_out(number: signal.Signals, tmp_path: Path) -> None:
    path = write_source(
        tmp_path,
        """
        from eventhost.kit import EventSource, sleep
        source = EventSource("door")
        @source.task
        async def watch():
            try:
                await sleep(60)
            finally:
                await source.emit("door.closed")
        source.run()
        """,
    )
    with process(path) as child:
        say(child)
        say(child, b'{"jsonrpc":"2.0","id":2,"method":"ping"}\n')
        child.send_signal(number)
        assert child.stdout is not None
        assert json.loads(child.stdout.readline())["params"]["data"]["type"] == "door.closed"
        assert child.wait(10) == 0


def test_a_task_that_fails_ends_the_process_with_its_traceback(tmp_path: Path) -> None:
    path = write_source(
        tmp_path,
        """
        from eventhost.kit import EventSource
        source = EventSource("door")
        @source.task
        async def watch():
            await source.emit("door.opened")
            raise OSError("the door is gone")
        source.run()
        """,
    )
    with process(path) as child:
        say(child)
        assert child.stdout is not None
        assert json.loads(child.stdout.readline())["params"]["data"]["type"] == "door.opened"
        assert child.wait(10) == 1
        assert child.stderr is not None
        errors = child.stderr.read().decode()
        assert errors.startswith("Traceback")
        assert "in watch" in errors
        line = Path(path).read_text().splitlines().index('    raise OSError("the door is gone")') + 1
        assert errors.splitlines()[-1] == f"OSError: the door is gone ({Path(path).name}:{line})"


@pytest.mark.parametrize(
    ("task", "last_line"),
    [
        ("async with asyncio.TaskGroup() as tasks: tasks.create_task(fail())", "Boom: no cheese ({file}:7)"),
        ("await fail()", "Boom: no cheese ({file}:7)"),
        ("json.loads('oops')", "JSONDecodeError: Expecting value: line 1 column 1 (char 0) ({file}:11)"),
        ("exec('a b')", "SyntaxError: invalid syntax (<string>, line 1)"),
        ("raise Boom", "Boom ({file}:11)"),
    ],
)
def test_the_last_line_of_a_source_that_fails_says_it_all(task: str, last_line: str, tmp_path: Path) -> None:
    errors = stderr_of_a_failing_task(tmp_path, task)
    assert "Traceback (most recent call last):" in errors
    assert errors.splitlines()[-1] == last_line.format(file="door.py")


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ("Options({'urll': 1, 'x': 2}).close()", "door: config.jsonc: urll: no such option; there are none\n"),
        ("async with asyncio.TaskGroup() as tasks: tasks.create_task(misread())", "door: config.jsonc: url: missing"),
        (
            "await source.emit('a', {1, 2})",
            "door: a: not JSON: Object of type set is not JSON serializable (door.py:11)",
        ),
    ],
)
def test_what_is_wrong_on_purpose_is_told_without_a_traceback(task: str, told: str, tmp_path: Path) -> None:
    errors = stderr_of_a_failing_task(tmp_path, task)
    assert errors.startswith(told)
    assert "Traceback" not in errors


def stderr_of_a_failing_task(folder: Path, task: str) -> str:
    (folder / "door.py").write_text(f"""
import asyncio, json
from eventhost.kit import EventSource
from eventhost.kit.options import Options
class Boom(Exception): pass
source = EventSource("door")
async def fail(): raise Boom("no cheese\\nno milk")
async def misread(): Options({{}}).text("url")
@source.task
async def watch():
    {task}
source.run()
""")
    with process(str(folder / "door.py")) as child:
        errors = child.communicate(timeout=10)[1].decode()
        assert child.returncode == 1
        return errors


def test_settings_that_a_module_reads_are_refused_without_a_traceback(tmp_path: Path) -> None:
    path = write_source(
        tmp_path,
        """
        from eventhost.kit import EventSource
        from eventhost.kit.options import Options
        source = EventSource("door")
        Options(source.config).close()
        source.run()
        """,
    )
    with process(path, MCP_SERVER_CONFIG='{"urll": 1}') as child:
        _, errors = child.communicate(timeout=10)
        assert (errors, child.returncode) == (b"config.jsonc: urll: no such option; there are none\n", 1)


def test_an_error_of_a_module_is_told_as_python_does_and_a_hook_of_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    path = write_source(
        tmp_path,
        """
        import sys
        from eventhost.kit import EventSource
        if "mine" in sys.argv:
            sys.excepthook = lambda *_: print("mine", file=sys.stderr)
        source = EventSource("door")
        raise OSError("the door is gone")
        """,
    )
    with process(path) as child:
        errors = child.communicate(timeout=10)[1].decode()
        assert errors.startswith("Traceback")
        assert errors.endswith("OSError: the door is gone\n")
    with process(path, "mine") as child:
        assert child.communicate(timeout=10)[1] == b"mine\n"


def test_a_task_that_will_not_end_does_not_hold_the_process(tmp_path: Path) -> None:
    path = write_source(
        tmp_path,
        """
        import eventhost.kit.source
        eventhost.kit.source.GRACE_S = 0.05
        from eventhost.kit import EventSource, sleep
        source = EventSource("door")
        @source.task
        async def watch():
            while True:
                try:
                    await sleep(60)
                except BaseException:
                    pass
        source.run()
        """,
    )
    with process(path) as child:
        say(child)
        _, errors = child.communicate(timeout=10)
        assert child.returncode == 0
        assert "does not end" in errors.decode()


def test_a_second_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    path = write_source(
        tmp_path,
        """
        import eventhost.kit.source
        eventhost.kit.source.GRACE_S = 60
        from eventhost.kit import EventSource, sleep
        source = EventSource("door")
        @source.task
        async def watch():
            try:
                await sleep(60)
            finally:
                print("cleaning up", flush=True)
                await sleep(60)
        source.run()
        """,
    )
    with process(path) as child:
        say(child)
        say(child, b'{"jsonrpc":"2.0","id":2,"method":"ping"}\n')
        child.send_signal(signal.SIGTERM)
        assert child.stderr is not None
        assert child.stderr.readline() == b"cleaning up\n"
        child.send_signal(signal.SIGTERM)
        assert child.wait(10) == -signal.SIGTERM


def test_nothing_that_is_printed_reaches_the_protocol(tmp_path: Path) -> None:
    path = write_source(
        tmp_path,
        """
        import os, sys
        from eventhost.kit import EventSource
        source = EventSource("door")
        @source.task
        async def watch():
            print("printed")
            sys.stdout.write("written\\n")
            os.write(1, b"straight to the descriptor\\n")
            os.system("echo by a child; cat")
            await source.emit("door.opened")
        source.run()
        """,
    )
    with process(path) as child:
        say(child)
        assert child.stdout is not None
        assert json.loads(child.stdout.readline())["method"] == EMITTED
        rest, errors = child.communicate(timeout=10)
        assert rest == b""
        for text in ("printed", "written", "straight to the descriptor", "by a child"):
            assert text in errors.decode()


def test_a_slow_reader_gets_every_event_whole_and_in_order(tmp_path: Path) -> None:
    path = write_source(
        tmp_path,
        """
        import asyncio
        from eventhost.kit import EventSource
        source = EventSource("door")
        @source.task
        async def watch():
            async with asyncio.TaskGroup() as tasks:
                for count in range(3000):
                    tasks.create_task(source.emit("door.opened", {"count": count, "text": "é" * 500}))
            await source.emit("door.closed")
        source.run()
        """,
    )
    with process(path) as child:
        say(child)
        assert child.stdout is not None
        counts = []
        while (event := json.loads(child.stdout.readline())["params"]["data"])["type"] == "door.opened":
            counts.append(event["payload"]["count"])
        assert counts == list(range(3000))
        child.communicate(timeout=10)
        assert child.returncode == 0


def test_stdin_may_be_a_file(tmp_path: Path) -> None:
    messages = tmp_path / "messages"
    messages.write_bytes(INITIALIZE + b'{"jsonrpc":"2.0","id":2,"method":"ping"}\n')
    with messages.open("rb") as stdin, process(write_source(tmp_path), stdin=stdin) as child:
        rest, _ = child.communicate(timeout=10)
        assert [json.loads(line)["id"] for line in rest.splitlines()] == [1, 2]
        assert child.returncode == 0


def test_a_pipe_that_others_hold_too_is_left_as_it_was(tmp_path: Path) -> None:
    theirs, ours = os.pipe()
    with os.fdopen(ours, "wb") as writing, os.fdopen(theirs, "rb") as reading:
        with process(write_source(tmp_path), stdin=reading) as child:
            writing.write(INITIALIZE)
            writing.close()
            child.communicate(timeout=10)
            assert child.returncode == 0
        assert os.get_blocking(reading.fileno())


def test_stdin_may_be_a_terminal(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        with process(write_source(tmp_path), stdin=theirs) as child:
            os.write(ours, b'{"jsonrpc":"2.0","id":2,"method":"ping"}\n')
            assert child.stdout is not None
            assert json.loads(child.stdout.readline())["id"] == 2
            assert os.get_blocking(theirs)
            child.send_signal(signal.SIGTERM)
            assert child.wait(10) == 0
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_bad_configuration_is_one_sentence_and_no_traceback(tmp_path: Path) -> None:
    with process(write_source(tmp_path), MCP_SERVER_CONFIG="{oops") as child:
        _, errors = child.communicate(timeout=10)
        assert child.returncode == 1
        assert errors.decode().startswith("door: MCP_SERVER_CONFIG: not JSON")
        assert "Traceback" not in errors.decode()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_source_takes_less_than_15_mb(tmp_path: Path) -> None:
    path = write_source(tmp_path)
    for _ in range(2):  # the first run may have to compile the kit, which takes memory of its own
        with process(path, MCP_SERVER_CONFIG='{"interval": 1}') as child:
            say(child)
            assert child.stdout is not None
            for _ in range(20):
                assert json.loads(child.stdout.readline())["method"] == EMITTED
            status = Path(f"/proc/{child.pid}/status").read_text()
            child.communicate(timeout=10)
    [resident_kb] = re.findall(r"VmRSS:\s+(\d+) kB", status)
    assert int(resident_kb) <= 15 * 1024


# --- lightness -------------------------------------------------------------------------------------------------------


def run_python(code: str) -> str:
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.strip()


def test_the_kit_imports_nothing_heavy() -> None:
    loaded = run_python("import sys, eventhost.kit; print(*sys.modules)").split()
    heavy = {"pydantic", "mcp", "mcp_types", "msgspec", "starlette", "typer", "anyio", "uvicorn", "_ssl", "argparse"}
    assert not heavy & set(loaded)
    own = {name for name in loaded if name.startswith("eventhost.") and not name.startswith("eventhost.kit")}
    assert own == {"eventhost.errors", "eventhost.wire"}


def test_what_was_deferred_works_as_if_it_had_not_been() -> None:
    told = run_python(
        """
        import eventhost.kit, sys
        assert not {"_ssl", "tokenize", "_posixsubprocess", "dis"} & set(sys.modules)
        import ssl, subprocess, inspect, linecache, asyncio, asyncio.sslproto
        assert asyncio.sslproto is sys.modules["asyncio.sslproto"]
        before = ssl
        print(type(ssl.create_default_context()).__name__, inspect.isfunction(print), linecache.getline("x", 1) == "")
        assert sys.modules["ssl"] is before
        known = subprocess.PIPE, subprocess.STDOUT, subprocess.DEVNULL
        print(subprocess.run(["true"]).returncode, known == (subprocess.PIPE, subprocess.STDOUT, subprocess.DEVNULL))
        from inspect import *
        print(isclass(int), asyncio.sslproto.SSLProtocol.__name__, hasattr(ssl, "nonsense"))

        async def main():
            child = await asyncio.create_subprocess_exec("echo", "hello", stdout=asyncio.subprocess.PIPE)
            print((await child.communicate())[0])
        asyncio.run(main())
        """
    )
    assert told.split("\n") == ["SSLContext False True", "0 True", "True SSLProtocol False", "b'hello\\n'"]


def test_one_thread_may_wait_for_another_that_loads_what_was_deferred(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("import threads; threads.other.start(); threads.other.join(20); done = True")
    (tmp_path / "two.py").write_text("done = True")
    loading = "import two; two.done; print('loaded')"
    (tmp_path / "threads.py").write_text(
        f"from threading import Thread\nother = Thread(target=lambda: exec({loading!r}), daemon=True)\n"
    )
    told = run_python(
        f"""
        import sys
        from eventhost.kit.deferred import defer
        sys.path.insert(0, {str(tmp_path)!r})
        defer("one"), defer("two")
        import one, threads
        print(one.done, threads.other.is_alive())
        """
    )
    assert told.split("\n") == ["loaded", "True False"]


# --- over HTTP -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def served_over_http(source: EventSource) -> AsyncIterator[str]:
    from eventhost.kit.http import serve_http

    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"
        async with anyio.create_task_group() as tasks:

            async def serve() -> None:
                await source.serve_peers(
                    lambda service: serve_http(service, listening, "127.0.0.1"), config={"interval": 20}
                )

            tasks.start_soon(serve)
            try:
                with anyio.fail_after(30):
                    yield url
            finally:
                tasks.cancel_scope.cancel()


def door_over_http() -> EventSource:
    source = EventSource("door", ["door.opened", "door.closed"])

    @source.tool()
    def add(a: int, b: int) -> int:
        return a + b

    return source


HOST = types.Implementation(name="eventhost", version="1")


def accepted(*ids: str) -> Any:
    return types.Notification[dict[str, Any], str](method=ACCEPTED, params={"ids": list(ids)})


@pytest.mark.anyio
async def test_the_official_client_finds_everything_over_http() -> None:
    source = door_over_http()
    collector = Collector()
    async with served_over_http(source) as url, Client(url, mode="legacy", extensions=[collector]) as client:
        await exercise(client)
        assert (await collector.events.get())["type"] == "door.closed"
        await source.emit("door.opened", {"nothing": None})
        assert (await collector.events.get())["payload"] == {"nothing": None}
        with pytest.raises(Exception, match="Unknown tool"):
            await client.call_tool("none")
        async with Client(url, mode="2026-07-28") as modern:
            assert only_text(await modern.call_tool("add", {"a": 1, "b": 1})) == 2
            assert only_text(await modern.call_tool("list_events")) == ["door.opened", "door.closed"]


@pytest.mark.anyio
async def test_over_http_an_event_that_no_host_accepted_waits_for_the_next() -> None:
    source = door_over_http()
    async with served_over_http(source) as url, anyio.create_task_group() as tasks:
        ids: list[str] = []
        returned = asyncio.Event()

        async def emit() -> None:
            ids.append(await source.emit("door.opened"))
            returned.set()

        tasks.start_soon(emit)
        first = Collector()
        async with Client(url, mode="legacy", client_info=HOST, extensions=[first]) as client:
            assert client.server_capabilities.experimental == {ACK: {}}
            event = await first.events.get()
        await settle()
        assert ids == []
        second = Collector()
        async with Client(url, mode="legacy", client_info=HOST, extensions=[second]) as client:
            assert await second.events.get() == event
            await client.session.send_notification(accepted(event["id"]))
            await returned.wait()
        assert ids == [event["id"]]


@pytest.mark.anyio
async def test_over_http_every_session_is_pushed_to_and_one_acceptance_is_enough() -> None:
    source = door_over_http()
    async with served_over_http(source) as url:
        host, watcher = Collector(), Collector()
        async with (
            Client(url, mode="legacy", client_info=HOST, extensions=[host]) as client,
            Client(url, mode="legacy", extensions=[watcher]) as other,
        ):
            await other.call_tool("subscribe_event", {"eventType": "door.c*"})
            await until(lambda: source._service is not None and len(source._service.outbox.listeners) == 2)
            for event_type in ("door.opened", "door.closed"):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(source.emit, event_type)
                    event = await host.events.get()
                    assert event["type"] == event_type
                    await client.session.send_notification(accepted(event["id"]))
            assert await watcher.events.get() == event


def test_a_process_serves_http_on_the_port_that_the_host_names(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
        with process(write_source(tmp_path), "--http", str(port)) as child:
            _, errors = child.communicate(timeout=30)
            assert child.returncode == 1
            assert "cannot listen" in errors.decode()
    config = json.dumps({"transport": "http", "interval": 20})
    with process(write_source(tmp_path), PORT="0", MCP_SERVER_CONFIG=config) as child:
        assert child.stderr is not None
        url = child.stderr.readline().decode().removeprefix("door: ").strip()

        async def watch() -> str:
            collector = Collector()
            with anyio.fail_after(30):
                async with Client(url, mode="legacy", extensions=[collector]):
                    return str((await collector.events.get())["type"])

        assert asyncio.run(watch()) == "door.opened"
        child.send_signal(signal.SIGTERM)
        rest, errors = child.communicate(timeout=10)
        assert (child.returncode, rest, errors.decode()) == (0, b"", "")


@pytest.mark.parametrize(
    ("argv", "variables", "arguments"),
    [
        ([], {}, Arguments()),
        (["--http", "3000"], {}, Arguments(3000)),
        (["--http=0", "--host=::1"], {}, Arguments(0, "::1")),
        ([], {"PORT": "3000"}, Arguments(3000)),
        ([], {"PORT": "3000", "MCP_SERVER_CONFIG": '{"transport": "http"}'}, Arguments(3000)),
        ([], {"PORT": "3000", "MCP_SERVER_CONFIG": "{}"}, Arguments()),
        ([], {"PORT": "nonsense"}, Arguments()),
    ],
)
def test_arguments_choose_the_transport(
    argv: list[str], variables: dict[str, str], arguments: Arguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PORT", "MCP_SERVER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert parse(argv) == arguments


@pytest.mark.parametrize("argv", [["--http"], ["--http", "70000"], ["--port", "1"], ["server"]])
def test_a_wrong_argument_is_a_usage_error(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        parse(argv)
    assert raised.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_stopping_over_http_ends_its_streams_and_says_nothing(tmp_path: Path) -> None:
    config = json.dumps({"transport": "http", "interval": 0})
    with process(write_source(tmp_path), PORT="0", MCP_SERVER_CONFIG=config) as child:
        assert child.stderr is not None
        [port] = re.findall(rb"http://127.0.0.1:(\d+)/mcp\n", child.stderr.readline())
        accept = {"Accept": "application/json, text/event-stream"}
        connections = [HTTPConnection("127.0.0.1", int(port), timeout=10) for _ in range(2)]
        posting, listening = connections
        initialize, initialized = INITIALIZE.splitlines()
        posting.request("POST", "/mcp", initialize, {**accept, "Content-Type": "application/json"})
        response = posting.getresponse()
        assert json.loads(response.read().split(b"data: ")[1])["result"]["serverInfo"]["name"] == "door"
        accept["Mcp-Session-Id"] = response.headers["Mcp-Session-Id"]
        listening.request("GET", "/mcp", headers=accept)  # the stream may well be there before the host is ready
        stream = listening.getresponse()
        posting.request("POST", "/mcp", initialized, {**accept, "Content-Type": "application/json"})
        assert posting.getresponse().status == 202
        while b"door.opened" not in stream.readline():
            pass
        child.send_signal(signal.SIGTERM)
        stream.read()
        _, errors = child.communicate(timeout=10)
        assert (child.returncode, errors.decode()) == (0, "")
        for connection in connections:
            connection.close()


# --- the documentation -----------------------------------------------------------------------------------------------


def sample(language: str) -> str:
    """The source that opens doors, in `language`, in the page on writing a source."""
    page = (ROOT / "docs" / "writing-a-source.md").read_text()
    blocks = re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    return str(next(block for block in blocks if "door.opened" in block))


@pytest.mark.parametrize(
    ("language", "file", "program"), [("python", "server.py", sys.executable), ("js", "s.mjs", "node")]
)
def test_the_samples_in_the_docs_emit_and_wait_for_acceptance(
    language: str, file: str, program: str, tmp_path: Path, needs: Callable[[str], str]
) -> None:
    needs(program)
    path = tmp_path / file
    path.write_text(sample(language))
    with process(str(path), program=program, MCP_SERVER_CONFIG='{"interval": 1}') as child:
        assert (
            ACK in say(child, INITIALIZE.replace(b"inspector", b"eventhost"))["result"]["capabilities"]["experimental"]
        )
        assert child.stdout is not None
        for _ in range(3):
            event = json.loads(child.stdout.readline())["params"]["data"]
            assert event["type"] == "door.opened"
            assert child.stdin is not None
            answer = {"jsonrpc": "2.0", "method": ACCEPTED, "params": {"ids": [event["id"]]}}
            child.stdin.write(json.dumps(answer).encode() + b"\n")
            child.stdin.flush()
        child.communicate(timeout=10)
        assert child.returncode == 0
