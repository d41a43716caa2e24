"""A plain event stream in a whole host: as it is configured, told, switched, tested, imported, and seen from Python."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import DEVNULL
from threading import Event, Thread
from typing import Any

import anyio
import anyio.abc
import pytest
from hosting import LIMIT_S, until
from sse_peer import HEAD, Asked, SsePeer, status, stream
from test_cli import run

import eventhost
from eventhost.config import ServerKind, SseConfig, check_environment, load_environment
from eventhost.config.clients import add_clients
from eventhost.config.mcp_sse import read_mcp_sse
from eventhost.connections import EventSourceStatus
from eventhost.environment import ServerEnvironment
from eventhost.errors import ConfigError, NotFound
from eventhost.event import EnvEvent
from eventhost.gaps import GAP
from eventhost.journal.file import JournalFile
from eventhost.web import source_check

RUNNING, STOPPED = EventSourceStatus.RUNNING, EventSourceStatus.STOPPED
URL = "https://example.org/events"


def write(root: Path, config: Any) -> None:
    root.mkdir(exist_ok=True)
    (root / "config.jsonc").write_text(json.dumps(config))


def client(root: Path, **said: Any) -> dict[str, Any]:
    write(root, {"mcp": {"clients": {"mai": {"type": "sse", **said}}}})
    return {"type": "sse", **said}


def problems(root: Path, *, fatal: bool = True) -> list[str]:
    found = [each for each in check_environment(root, {}) if each.fatal is fatal]
    return [f"{each.field.removeprefix('mcp.clients.mai').removeprefix('.')}: {each.message}" for each in found]


# The configuration.


SNAKE = {
    "enable": True,
    "server_url": URL,
    "auth_key": "${env:SSE_KEY}",
    "connection_timeout": 10,
    "read_timeout": "2m",
    "enable_reconnect": False,
    "max_reconnect_attempts": -1,
    "initial_reconnect_delay": 0.5,
    "max_reconnect_delay": 30.0,
    "reconnect_backoff_factor": 3,
    "event_buffer_size": 7,
    "enable_event_logging": False,
    "subscribed_events": ["chat.message"],
    "type_map": {"message": "mai.message"},
    "user_agent": "me/1.0",
    "verify_ssl": False,
    "ssl_cert_path": "tls/cert.pem",
    "ssl_key_path": "/etc/key.pem",
}


def camel(key: str) -> str:
    first, *rest = key.split("_")
    return first + "".join(map(str.title, rest))


@pytest.mark.parametrize("said", [SNAKE, {camel(key): value for key, value in SNAKE.items()}], ids=["snake", "camel"])
def test_every_key_is_read_in_both_spellings(tmp_path: Path, said: dict[str, Any]) -> None:
    client(tmp_path, **said)
    config = load_environment(tmp_path, {"SSE_KEY": "hunter2"})
    assert (config.broken, config.warnings, config.clients) == ({}, (), {})
    server = config.sources["mai"].server
    assert (server.kind, server.url, server.enabled) == (ServerKind.SSE, URL, True)
    assert server.sse == SseConfig(
        auth_key="${env:SSE_KEY}",
        connection_timeout_s=10.0,
        read_timeout_s=120.0,
        reconnect=False,
        max_attempts=-1,
        first_delay_s=0.5,
        longest_delay_s=30.0,
        backoff_factor=3.0,
        buffer=7,
        log_events=False,
        subscribed=("chat.message",),
        types={"message": "mai.message"},
        user_agent="me/1.0",
        verify_tls=False,
        cert=tmp_path / "tls/cert.pem",
        key=Path("/etc/key.pem"),
    )
    assert "hunter2" not in repr(config)


def test_what_is_not_said_is_as_its_users_know_it(tmp_path: Path) -> None:
    client(tmp_path, url=URL, auth_key="", ssl_cert_path="", ssl_key_path="", subscribed_events=[], user_agent="")
    config = load_environment(tmp_path, {})
    server = config.sources["mai"].server
    assert (server.enabled, config.warnings) == (False, ())
    assert server.sse == SseConfig(user_agent=f"eventhost/{eventhost.__version__}")
    assert server.sse == SseConfig(
        "", 30.0, 60.0, True, 10, 1.0, 60.0, 2.0, 1000, True, user_agent=f"eventhost/{eventhost.__version__}"
    )


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ({"server_url": 7}, ["server_url: expected a string, got a number"]),
        ({"server_url": ""}, ["server_url: expected the address of a server"]),
        ({"serverUrl": "ftp://h"}, ["serverUrl: expected the address of a server"]),
        ({"server_url": URL, "url": URL}, ['server_url: "url" is given too']),
        ({"server_url": URL, "serverUrl": URL}, ['server_url: "serverUrl" is given too']),
        ({"server_url": URL, "command": ["x"]}, ['command: type "sse" takes no "command"']),
        ({"server_url": URL, "read_timeout": "60"}, ['read_timeout: expected a duration, got "60"']),
        ({"server_url": URL, "verify_ssl": "yes"}, ["verify_ssl: expected true or false, got a string"]),
        ({"server_url": URL, "ssl_key_path": "k"}, [": ssl_key_path: a key without a certificate"]),
        (
            {"server_url": URL, "event_buffer_size": 1.5, "subscribed_events": [1]},
            [
                "event_buffer_size: expected a whole number, got a fraction",
                "subscribed_events[0]: expected a string, got a number",
            ],
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, said: dict[str, Any], wrong: list[str]) -> None:
    client(tmp_path, enable=True, **said)
    assert problems(tmp_path) == wrong
    assert load_environment(tmp_path, {}).broken.keys() == {"mai"}


def test_a_key_that_is_nearly_one_of_these_is_warned_of(tmp_path: Path) -> None:
    client(tmp_path, enable=True, server_url=URL, readTimeOut=5, colour="red")
    warnings = [str(each) for each in load_environment(tmp_path, {}).warnings]
    assert [each.partition("mcp.clients.mai.")[2] for each in warnings] == [
        'readTimeOut: unknown key, left out of account; did you mean "read_timeout"?',
        "colour: unknown key, left out of account; remove it",
    ]


def test_it_is_a_source_whatever_entries_there_are_and_never_a_tool_server(tmp_path: Path) -> None:
    mai = client(tmp_path, enable=True, server_url=URL)
    write(tmp_path, {"mcp": {"clients": {"mai": mai}, "eventSources": {"sources": {}}}})
    assert load_environment(tmp_path, {}).sources.keys() == {"mai"}
    write(tmp_path, {"mcp": {"clients": {"mai": mai}, "eventSources": {"enabled": False}}})
    config = load_environment(tmp_path, {})
    assert (config.sources, config.clients, config.broken) == ({}, {}, {})
    entry = {"metadata": {"room": "a"}, "read_timeout": 5, "type_map": {"*": "x.*"}}
    write(tmp_path, {"mcp": {"clients": {"mai": mai}, "eventSources": {"sources": {"mai": entry}}}})
    source = load_environment(tmp_path, {}).sources["mai"]
    assert source.server.sse is not None
    assert (source.metadata, source.server.sse.read_timeout_s, source.server.sse.types) == (
        {"room": "a"},
        5,
        {"*": "x.*"},
    )


def test_a_folder_may_be_one_too(tmp_path: Path) -> None:
    write(tmp_path, {})
    folder = tmp_path / "eventsources/mai"
    folder.mkdir(parents=True)
    (folder / "config.jsonc").write_text(json.dumps({"type": "sse", "enable": True, "server_url": URL}))
    config = load_environment(tmp_path, {})
    assert config.sources["mai"].server.kind is ServerKind.SSE
    assert (config.broken, config.warnings) == ({}, ())


# In a host.


@pytest.mark.anyio
async def test_a_stream_is_switched_reloaded_and_told_like_any_source(tmp_path: Path) -> None:
    async with SsePeer(stream("data: 1\n\n", hold=True)).serving() as peer:
        said = client(tmp_path, server_url=peer.url)
        async with ServerEnvironment.from_path(tmp_path) as env:
            assert env.source_status("mai").status is STOPPED
            assert eventhost.get_mcp_sse_manager() is env.sse("mai")
            sse = env.sse("mai")
            assert (sse.is_running(), sse.get_stats()["total_events_received"]) == (False, 0)
            await env.enable_source("mai")
            await until(lambda: env.source_status("mai").published == 1)
            assert (sse.is_running(), sse.is_connected()) == (True, True)
            shown = env.source_status("mai")
            assert (shown.status, shown.way_in, shown.pid, shown.protocol) == (RUNNING, "sse", None, "")
            test = await source_check.tested(env, "mai")
            assert (test.passed, test.checks[2].passed) == (True, True)
            await env.restart_source("mai")
            await until(lambda: len(peer.asked) == 2)
            await env.stop_source("mai")
            assert (env.source_status("mai").status, sse.is_running()) == (STOPPED, False)
            await env.start_source("mai")
            await until(lambda: len(peer.asked) == 3)
            client(tmp_path, **said | {"user_agent": "other"})
            report = await env.reload()
            assert (report.restarted, report.problems) == (["mai"], [])
            await until(lambda: len(peer.asked) == 4)
            assert peer.asked[3].headers["user-agent"] == "other"
            assert env.sse("mai") is sse
            await env.disable_source("mai")
            assert env.source_status("mai").status is STOPPED
            with pytest.raises(NotFound):
                env.sse("door")
        assert eventhost.get_mcp_sse_manager() is None
        assert eventhost.get_mcp_sse_manager("mai") is None


@pytest.mark.anyio
async def test_that_its_server_ended_it_is_an_event_and_a_stop_by_hand_is_none(tmp_path: Path) -> None:
    async with SsePeer(stream("data: 1\n\n", hold=True), status(204)).serving() as peer:
        client(tmp_path, enable=True, server_url=peer.url)
        async with ServerEnvironment.from_path(tmp_path) as env:
            await until(lambda: env.source_status("mai").published == 1)
            await env.stop_source("mai")
            await env.start_source("mai")
            await until(lambda: len(peer.asked) == 2)
            with anyio.fail_after(20):
                async for item in env.bus.subscribe(("host.source_ended",), after=0):
                    payload = item.event.payload  # type: ignore[union-attr]
                    break
            assert payload["source"] == "mai"
            assert "wants no further connection" in payload["reason"]
            assert env.source_status("mai").status is STOPPED


@pytest.mark.anyio
async def test_a_gap_is_told_where_the_server_gives_no_ids(tmp_path: Path) -> None:
    async with SsePeer(stream("data: 1\n\n"), stream("data: 2\n\n", hold=True)).serving() as peer:
        client(tmp_path, enable=True, server_url=peer.url, initial_reconnect_delay=0.01)
        async with ServerEnvironment.from_path(tmp_path) as env:
            with anyio.fail_after(20):
                async for item in env.bus.subscribe((GAP,), after=0):
                    payload = item.event.payload  # type: ignore[union-attr]
                    break
            assert (payload["reason"], payload["source"], payload["count"]) == ("unresumed", "mai", None)
            assert payload["from"] <= payload["to"]


@pytest.mark.anyio
async def test_a_secret_is_used_and_never_shown(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SSE_KEY=hunter2\n")
    numbered = "id: 1\ndata: 1\n\n"
    async with SsePeer(stream(numbered), status(401)).serving() as peer:
        url = f"{peer.url}?key=${{env:SSE_KEY}}"
        client(tmp_path, enable=True, server_url=url, auth_key="${env:SSE_KEY}", initial_reconnect_delay=0.01)
        async with ServerEnvironment.from_path(tmp_path) as env:
            await until(lambda: env.source_status("mai").status is EventSourceStatus.ERROR)
            assert [asked.headers["authorization"] for asked in peer.asked] == ["Bearer hunter2"] * 2
            assert peer.asked[0].target == "/events?key=hunter2"
            assert "hunter2" not in str(env.source_status("mai"))
        written = [path.read_bytes() for path in (tmp_path / "var").rglob("*") if path.is_file()]
        assert not any(b"hunter2" in each for each in written)


# The table of a chat bot.

TOML = """
[bot]
nickname = "麦麦"

[mcp_sse]
enable = true
server_url = "http://localhost:8080/events"
auth_key = "hunter2"
connection_timeout = 30
read_timeout = 60
enable_reconnect = true
max_reconnect_attempts = 10
initial_reconnect_delay = 1.0
max_reconnect_delay = 60.0
reconnect_backoff_factor = 2.0
event_buffer_size = 1000
enable_event_logging = true
subscribed_events = []
user_agent = "MaiBot-MCP-SSE-Client/1.0"
verify_ssl = true
ssl_cert_path = ""
ssl_key_path = ""
colour = "red"
"""


def test_the_table_of_a_chat_bot_becomes_a_client(tmp_path: Path) -> None:
    file = tmp_path / "bot_config.toml"
    file.write_text(TOML)
    imported = read_mcp_sse(file)
    (tmp_path / "config.jsonc").write_text(add_clients("{\n  // mine\n}\n", imported.clients))
    config = load_environment(tmp_path, {})
    assert (config.broken, config.warnings) == ({}, ())
    server = config.sources["mcp_sse"].server
    assert (server.enabled, server.url) == (True, "http://localhost:8080/events")
    assert server.sse == SseConfig(auth_key="hunter2", user_agent="MaiBot-MCP-SSE-Client/1.0")
    assert imported.notes == (
        "mcp_sse: left out, having no meaning here: colour",
        "mcp_sse: auth_key looks like a secret in plain text; put it into .env and write ${env:MCP_SSE_AUTH_KEY}",
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[other]\n", "holds no plain event stream; it should have a table [mcp_sse]"),
        (b"mcp_sse = 3\n", "holds no plain event stream"),
        (b"[mcp_sse\n", "is not TOML"),
        (b"\xff", "is not UTF-8"),
    ],
)
def test_a_file_without_the_table_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "bot_config.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        read_mcp_sse(file)


def test_a_table_that_says_nothing_is_told_what_it_lacks(tmp_path: Path) -> None:
    file = tmp_path / "bot_config.toml"
    file.write_text('[mcp_sse]\nserver_url = ""\n')
    imported = read_mcp_sse(file)
    assert imported.clients == {"mcp_sse": {"type": "sse"}}
    assert [note.partition(";")[0] for note in imported.notes] == [
        "mcp_sse: says no server_url",
        "mcp_sse: is disabled",
    ]


def test_import_reads_it_from_the_command_line(tmp_path: Path) -> None:
    write(tmp_path, {})
    (tmp_path / "bot_config.toml").write_text(TOML)
    done = run("import", tmp_path / "bot_config.toml", "--env", tmp_path)
    assert (done.returncode, done.stdout) == (0, "mcp_sse\n")
    assert "hunter2" not in done.stderr
    assert load_environment(tmp_path, {}).sources.keys() == {"mcp_sse"}


# From the command line.


class _Endpoint(BaseHTTPRequestHandler):
    """Says three numbered events on each connection, after the last id, and stays open."""

    def do_GET(self) -> None:
        if self.path == "/forbidden":
            self.send_error(403)
            return
        first = int(self.headers.get("Last-Event-ID", 0)) + 1
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for number in range(first, first + 3):
            named = "event: tick\n" if number % 2 else ""
            ids = f"id: {number}\n" if self.path == "/ids" else ""
            self.wfile.write(f'{named}{ids}data: {{"n": {number}}}\n\n'.encode())
        self.server.over.wait(30)  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Endpoint)
    server.over = Event()  # type: ignore[attr-defined]
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.over.set()  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_endpoint_is_tested_without_a_host_before_it_is_enabled(tmp_path: Path, endpoint: str) -> None:
    client(tmp_path, server_url=f"{endpoint}/ids", type_map={"message": "mai.said"})
    done = run("source", "test", "mai", "--events", "3", "--for", "60", "--env", tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "-- connected"
    assert [line.split("  ")[1:] for line in lines[1:4]] == [
        ["tick", "id 1", '{"n":1}'],
        ["mai.said", "id 2", '{"n":2}'],
        ["tick", "id 3", '{"n":3}'],
    ]
    assert lines[4:] == ["1\tmai.said", "2\ttick", "3 events"]
    assert not (tmp_path / "var").exists()


def test_the_connection_is_dropped_and_resumed_where_ids_are_given(tmp_path: Path, endpoint: str) -> None:
    client(tmp_path, server_url=f"{endpoint}/ids", initial_reconnect_delay=0.01)
    arguments = ["source", "test", "mai", "--reconnect", "--events", "6", "--for", "60", "--env", tmp_path]
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "-- dropped after 3 events, at id 3" in lines
    assert "-- connected again" in lines
    assert lines[-1] == "it was reached again, from id 3: the first event since had id 4, 0 came a second time"
    done = run(*arguments, "--json")
    assert json.loads(done.stdout) == {
        "events": {"tick": 3, "message": 3}, "passed": True, "connected": True, "rejected": 0, "dropped": True,
        "resumed": True, "resumed_from": "3", "first_id": "4", "again": 0, "error": None,
    }  # fmt: skip


def test_without_ids_the_test_says_that_something_is_missing(tmp_path: Path, endpoint: str) -> None:
    client(tmp_path, server_url=f"{endpoint}/none", initial_reconnect_delay=0.01)
    done = run("source", "test", "mai", "--reconnect", "--events", "4", "--for", "60", "--env", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "it gives no ids, so what it said meanwhile is missing" in done.stdout


@pytest.mark.parametrize(
    ("name", "path", "code", "said"),
    [
        ("mai", "/forbidden", 1, "HTTP 403 Forbidden; correct auth_key"),
        ("mia", "/ids", 1, "no source is called 'mia'; there are: door, mai"),
        ("door", "/ids", 1, "it cannot be started: x is not on PATH"),
    ],
)
def test_what_cannot_be_tested_ends_with_a_reason(
    tmp_path: Path, endpoint: str, name: str, path: str, code: int, said: str
) -> None:
    clients = {"mai": {"type": "sse", "server_url": f"{endpoint}{path}"}, "door": {"command": ["x"]}}
    write(tmp_path, {"mcp": {"clients": clients}})
    done = run("source", "test", name, "--for", "60", "--env", tmp_path)
    assert done.returncode == code
    assert said in done.stdout + done.stderr


def test_a_configuration_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    client(tmp_path, enable=True, server_url=7)
    done = run("source", "test", "mai", "--env", tmp_path)
    assert done.returncode == 2
    assert "mcp.clients.mai.server_url: expected a string" in done.stderr


# A host that is killed.


@pytest.mark.anyio
async def test_a_host_that_is_killed_goes_on_without_a_hole_and_without_a_double(tmp_path: Path) -> None:
    file, go_on = tmp_path / "var/state/mai/sse.json", anyio.Event()

    def numbered(first: int, last: int) -> bytes:
        return "".join(f'id: {number}\ndata: {{"n": {number}}}\n\n' for number in range(first, last + 1)).encode()

    async def answer(connection: Any, asked: Asked) -> None:
        if asked.last_id is None:
            await connection.send(HEAD + numbered(1, 100))
            await go_on.wait()
            await connection.send(numbered(101, 200))
        else:
            await connection.send(HEAD + numbered(int(asked.last_id) + 1, 300))
        await anyio.sleep_forever()

    def reached() -> str:
        return str(json.loads(file.read_text())["lastEventId"]) if file.exists() else ""

    async def ticks() -> list[EnvEvent]:
        with JournalFile(tmp_path / "var/journal.db") as journal:
            entries = await journal.read(0, 1000)
        return [entry.event for entry in entries if entry.event.metadata["source_name"] == "mai"]

    async def run_host() -> anyio.abc.Process:
        command = [sys.executable, "-m", "eventhost", "run", "--env", str(tmp_path)]
        return await anyio.open_process(command, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)

    async with SsePeer(answer).serving() as peer:
        mai = client(tmp_path, enable=True, server_url=peer.url, initial_reconnect_delay=0.01)
        write(tmp_path, {"http": {"enabled": False}, "mcp": {"clients": {"mai": mai}}})
        async with await run_host() as host:
            await until(lambda: reached() == "100")
            go_on.set()
            with anyio.fail_after(LIMIT_S):
                while len(await ticks()) < 200:
                    await anyio.sleep(0.01)
            host.kill()  # mostly before the position is written, which is written once a second
            await host.wait()
        async with await run_host() as host:
            await until(lambda: reached() == "300")
            host.terminate()
            await host.wait()
        assert [asked.last_id for asked in peer.asked] in ([None, "100"], [None, "200"])
    assert [event.id for event in await ticks()] == [str(number) for number in range(1, 301)]
