"""The sources that come with the host keep what their READMEs say: golden cases, then each served for real.

A golden case is a file in a source's `golden/`; a new one needs no new code, and a new source none here.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import anyio
import httpx2
import json5
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp.client import Client
from mcp.client.extension import ClientExtension, NotificationBinding
from mcp.client.stdio import StdioServerParameters, stdio_client
from pydantic import BaseModel
from source_checks import tried
from untested import untested

import eventhost
from eventhost.cli.source_test import find, play_golden
from eventhost.cli.source_test.check import Check, Outcome
from eventhost.cli.source_test.golden import case_files
from eventhost.errors import ConfigError

SOURCES = Path(__file__).parent.parent / "eventsources"
CASES = [path for folder in sorted(SOURCES.iterdir()) for path in case_files(folder)]
PLAYED = sorted({path.parent.parent.name for path in CASES})

Event = dict[str, Any]


@contextmanager
def modules_of(source: str) -> Iterator[Callable[[str], Any]]:
    """Import modules of a source as it does itself, by plain names, and forget them afterwards."""
    folder = str(SOURCES / source)
    before = set(sys.modules)
    sys.path.insert(0, folder)
    try:
        yield import_module
    finally:
        sys.path.remove(folder)
        for name in set(sys.modules) - before:
            module = sys.modules[name]
            # A folder without a file of its own, such as `golden`, is a module too.
            places = [getattr(module, "__file__", None) or "", *map(str, getattr(module, "__path__", ()))]
            if any(place.startswith(folder) for place in places):
                del sys.modules[name]


# Golden cases


def read_jsonc(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json5.loads(path.read_text("utf-8"), allow_duplicate_keys=False)
    return content


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.anyio
@pytest.mark.parametrize("source", PLAYED)
async def test_every_golden_case_of_a_source_gives_its_events(source: str) -> None:
    checks: list[Check] = []
    await play_golden(find(SOURCES.parent, source), SOURCES.parent, checks.append)
    wrong = [line for check in checks if check.outcome is not Outcome.OK for line in check.lines()]
    assert not wrong, "\n".join(["", *wrong])
    assert len(checks) == sum(path.parent.parent.name == source for path in CASES)


@pytest.mark.parametrize("source", PLAYED)
def test_each_source_has_a_readme_and_a_config_that_names_it(source: str) -> None:
    assert read_jsonc(SOURCES / source / "config.jsonc")["name"] == source
    assert (SOURCES / source / "README.md").read_text("utf-8").startswith(f"# {source}\n")


# What a host relies on

CONFIGS: dict[str, Event] = {
    "database": {"databases": [{"name": "notes", "url": "sqlite:///../../notes.db", "tables": ["note"]}]},
    "file-watcher": {"paths": ["../../inbox"]},
    "http-poll": {"urls": [{"name": "nobody", "url": "http://127.0.0.1:1/", "interval": "1s"}]},
    "iot": {"brokers": [{"name": "nobody", "url": "mqtt://127.0.0.1:1", "topics": {"a": "iot.a"}}]},
    "mcp-tool": {"servers": {"todo": {"command": [sys.executable, str(SOURCES.parent / "mcpservers/todo/server.py")],
                                      "environment": {"EVENTHOST_STATE_DIR": "../../todo"}}}},
    "nats": {"connections": [{"name": "nobody", "url": "nats://127.0.0.1:1", "subjects": {"a": "nats.a"}}]},
    "process": {"commands": [{"name": "one", "command": ["echo", "one"], "every": "1s", "timeout": "10s"}],
                "files": [], "journals": []},
    "timer": {"interval": 100},
    "webhook": {"port": 0},
}  # fmt: skip
"""What a source is configured with, over what it is shipped with, to speak to nobody but this machine."""

EMITS = {"process", "timer"}
"""The sources that say something by themselves, configured so."""


@pytest.mark.anyio
@pytest.mark.parametrize("source", CONFIGS)
async def test_a_shipped_source_does_what_a_host_relies_on(source: str, tmp_path: Path) -> None:
    folder = tmp_path / "eventsources" / source
    shutil.copytree(SOURCES / source, folder, ignore=shutil.ignore_patterns("golden", "__pycache__", ".mypy_cache"))
    limits = {"initTimeout": "60s", "stopTimeout": "30s"}
    (folder / "config.local.jsonc").write_text(json.dumps({**CONFIGS[source], **limits}))
    (tmp_path / "config.jsonc").write_text("{}")
    emits = source in EMITS
    checks = await tried(tmp_path, source, seconds=60 if emits else 0.1, count=1)
    assert not [check for check in checks.values() if check.outcome is Outcome.FAILED]
    skipped = {name for name, check in checks.items() if check.outcome is Outcome.SKIPPED}
    assert skipped == (set() if emits else {"events"})


# The timer


@pytest.mark.anyio
async def test_a_tick_that_a_crash_repeats_is_the_same_event_again(tmp_path: Path) -> None:
    with modules_of("timer") as load:
        ticking, fired, player = load("ticking"), load("fired"), load("golden.play")
        plan = ticking.plan({"schedules": [{"name": "s", "cron": "* * * * *", "missed": "all"}]})
        host = player.Recorder()
        start_s = seconds("2026-01-01T00:00:30Z")
        with pytest.MonkeyPatch.context() as patch:

            def crash(*_: Any) -> None:
                raise player.Over

            patch.setattr(fired.Fired, "record", crash)
            clock = player.FakeClock(start_s, start_s + 60)
            with pytest.raises(player.Over):
                await ticking.follow_schedules(plan, host.emit, clock, tmp_path / "s.json")
        clock = player.FakeClock(start_s + 60, start_s + 100)
        with pytest.raises(player.Over):
            await ticking.follow_schedules(plan, host.emit, clock, tmp_path / "s.json")
    first, again, following = host.events
    assert first == again
    assert following["payload"]["count"] == 2


@pytest.mark.anyio
async def test_a_heartbeat_keeps_its_grid_when_the_host_was_busy() -> None:
    with modules_of("timer") as load:
        ticking, player = load("ticking"), load("golden.play")
        clock = player.FakeClock(0.0, 10.0)
        times: list[float] = []

        async def emit(*_: Any, **__: Any) -> None:
            times.append(clock.now_s)
            if len(times) == 2:
                clock.now_s += 3.25

        with pytest.raises(player.Over):
            await ticking.beat(ticking.plan({"interval": "1s"}), emit, clock)
    assert times == [1, 2, 6, 7, 8, 9, 10]


@pytest.mark.anyio
async def test_a_clock_that_was_set_back_stops_no_schedule(tmp_path: Path) -> None:
    with modules_of("timer") as load:
        ticking, player = load("ticking"), load("golden.play")
        plan = ticking.plan({"schedules": [{"name": "s", "cron": "0 * * * *"}]})
        host = player.Recorder()
        for start in ("2030-01-01T00:30:00Z", "2026-01-01T00:30:00Z"):
            clock = player.FakeClock(seconds(start), seconds(start) + 3600)
            with pytest.raises(player.Over):
                await ticking.follow_schedules(plan, host.emit, clock, tmp_path / "s.json")
    assert [event["id"] for event in host.events] == ["s@2030-01-01T01:00:00Z", "s@2026-01-01T01:00:00Z"]


@settings(deadline=None, max_examples=50)
@given(
    cron=st.sampled_from(["*/7 * * * *", "30 2 * * *", "15,45 1-3 * * *", "0 */2 * * *", "0 0 * * 0", "@hourly"]),
    timezone=st.sampled_from(["Europe/Berlin", "Australia/Lord_Howe", "America/New_York", "UTC"]),
    start=st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 1)),
    parts=st.lists(st.integers(1, 100_000), min_size=1, max_size=4),
)
def test_no_way_of_cutting_time_loses_or_doubles_a_tick(
    cron: str, timezone: str, start: datetime, parts: list[int]
) -> None:
    with modules_of("timer") as load:
        schedules = load("schedules")
        schedule = schedules.Schedule("s", cron, timezone, missed=schedules.Missed.ALL)
        begin_s = int(start.replace(tzinfo=UTC).timestamp())
        end_s = begin_s + sum(parts)
        cut: list[int] = []
        now_s = begin_s
        for part in parts:
            cut += [tick.at_s for tick in schedule.due(now_s, now_s + part)]
            now_s += part
        walked: list[int] = []
        next_s = schedule.next_after(begin_s)
        while next_s <= end_s:
            walked.append(next_s)
            next_s = schedule.next_after(next_s)
    assert cut == walked[-schedules.MOST_MISSED :]
    assert cut == sorted(set(cut))


# Served for real


class Pushed(BaseModel, extra="allow"):
    data: dict[str, Any]


class Pushes(ClientExtension):
    """Puts the events that a source pushes on a queue."""

    identifier = "test/pushes"

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Event] = asyncio.Queue()

    def notifications(self) -> list[NotificationBinding[Any]]:
        async def put(params: Pushed) -> None:
            self.queue.put_nowait(params.data)

        return [NotificationBinding(method="notifications/eventsource/emitted", params_type=Pushed, handler=put)]


@asynccontextmanager
async def running(
    folder: Path, config: dict[str, Any], state: Path, command: list[str] | None = None
) -> AsyncIterator[tuple[Client, Callable[[], Awaitable[Event]]]]:
    """A source as a process of its own, under the official client, and what it pushes."""
    program, *arguments = command or [sys.executable, "server.py"]
    environment = {
        "MCP_SERVER_CONFIG": json.dumps(config),
        "EVENTHOST_STATE_DIR": str(state),
        "PYTHONPATH": str(Path(eventhost.__file__).parents[1]),
    }
    server = StdioServerParameters(command=program, args=arguments, cwd=folder, env=environment)
    pushes = Pushes()
    with anyio.fail_after(60):
        async with Client(stdio_client(server), mode="legacy", extensions=[pushes]) as client:
            yield client, pushes.queue.get


async def call(client: Client, tool: str, **arguments: Any) -> Any:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result
    return json.loads(result.content[0].text)  # type: ignore[union-attr]


@pytest.mark.anyio
async def test_the_timer_pushes_heartbeats_and_ticks(tmp_path: Path) -> None:
    config = {"interval": 50, "schedules": [{"name": "s", "cron": "* * * * * *"}]}
    async with running(SOURCES / "timer", config, tmp_path) as (client, pushed):
        seen: dict[str, Event] = {}
        while len(seen) < 2:
            event = await pushed()
            seen[event["type"]] = event
        assert (await call(client, "get_source_status"))["interval"] == 50
    assert seen["timer.heartbeat"]["payload"]["count"] >= 1
    tick = seen["timer.tick"]
    assert tick["timestamp"] == tick["payload"]["timestamp"]
    assert json.loads((tmp_path / "schedules.json").read_text())["s"]["count"] >= 1


async def first_look(state: Path) -> None:
    """Wait until the file watcher has seen, and noted, what there is: everything after that is a change."""
    while not await anyio.to_thread.run_sync(lambda: list(state.glob("seen-*.json"))):
        await anyio.sleep(0.01)


@pytest.mark.anyio
async def test_the_file_watcher_tells_what_happens_to_files(tmp_path: Path) -> None:
    place = tmp_path / "later"
    config = {"paths": [str(place)], "debounce": 20}
    async with running(SOURCES / "file-watcher", config, tmp_path / "state") as (_, pushed):
        await first_look(tmp_path / "state")
        (tmp_path / "later" / "sub").mkdir(parents=True)
        file = place / "sub" / "a.txt"
        file.write_text("one")
        assert (await pushed())["type"] == "file.created"
        file.write_text("one, two")
        size = 0
        while size != len("one, two"):
            # A look may fall between two writes.
            changed = await pushed()
            assert changed["type"] == "file.changed"
            size = changed["payload"]["size"]
        file.unlink()
        assert (await pushed())["type"] == "file.deleted"
        # The watched folder itself goes, and another one comes in its place.
        shutil.rmtree(place)
        place.mkdir()
        (place / "b.txt").write_text("")
        assert (await pushed())["payload"]["name"] == "b.txt"


@pytest.mark.anyio
async def test_the_file_watcher_tells_what_happened_while_it_was_down(tmp_path: Path) -> None:
    config = {"paths": [str(tmp_path / "place")], "debounce": 20}
    async with running(SOURCES / "file-watcher", config, tmp_path / "state") as (_, pushed):
        await first_look(tmp_path / "state")
        (tmp_path / "place").mkdir()
        (tmp_path / "place" / "a").write_text("")
        assert (await pushed())["payload"]["name"] == "a"
    (tmp_path / "place" / "b").write_text("")
    async with running(SOURCES / "file-watcher", config, tmp_path / "state") as (_, pushed):
        assert (await pushed())["payload"]["name"] == "b"


class Host:
    """A host that acknowledges, in this process, and only when it is told to."""

    def __init__(self) -> None:
        self._to_source: asyncio.Queue[bytes] = asyncio.Queue()
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.say({"id": 0, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "eventhost", "version": "0"},
        }})  # fmt: skip
        self.say({"method": "notifications/initialized"})

    def say(self, message: dict[str, Any]) -> None:
        self._to_source.put_nowait(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    def accept(self, event: Event) -> None:
        self.say({"method": "notifications/eventsource/accepted", "params": {"ids": [event["id"]]}})

    def reject(self, event: Event, reason: str) -> None:
        rejected = [{"id": event["id"], "reason": reason}]
        self.say({"method": "notifications/eventsource/accepted", "params": {"ids": [], "rejected": rejected}})

    def go_away(self) -> None:
        self._to_source.put_nowait(b"")

    async def receive(self) -> bytes:
        return await self._to_source.get()

    async def send(self, data: bytes) -> None:
        for line in data.splitlines():
            message = json.loads(line)
            if message.get("method") == "notifications/eventsource/emitted":
                self.events.put_nowait(message["params"]["data"])


@asynccontextmanager
async def webhook(config: dict[str, Any], state: Path) -> AsyncIterator[tuple[Host, httpx2.AsyncClient]]:
    """The webhook served in this process, on a free port, to a host that the test plays."""
    with modules_of("webhook") as load:
        module = load("server")
        host = Host()
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:

                async def serve() -> None:
                    options = {"host": "127.0.0.1", "port": 0, **config}
                    await module.source.serve(host.receive, host.send, config=options, state_dir=state)

                tasks.start_soon(serve)
                while not module.get_address()["address"]:
                    await anyio.lowlevel.checkpoint()
                async with httpx2.AsyncClient(base_url=module.get_address()["address"]) as client:
                    yield host, client
                host.go_away()


@pytest.mark.anyio
async def test_the_webhook_answers_200_only_after_the_host_has_accepted(tmp_path: Path) -> None:
    async with webhook({}, tmp_path) as (host, client), anyio.create_task_group() as tasks:
        answered = anyio.Event()

        async def post() -> None:
            response = await client.post("/orders/created", json={"n": 1}, headers={"Idempotency-Key": "k-1"})
            assert (response.status_code, response.json()) == (200, {"id": "k-1"})
            answered.set()

        tasks.start_soon(post)
        event = await host.events.get()
        assert (event["id"], event["type"], event["payload"]["body"]) == ("k-1", "webhook.orders.created", {"n": 1})
        # Nothing but the host's word can end the request; a second one goes all the way there and back meanwhile.
        tasks.start_soon(client.post, "/second")
        host.accept(await host.events.get())
        assert not answered.is_set()
        host.accept(event)
        await answered.wait()


@pytest.mark.anyio
async def test_a_delivery_that_is_repeated_is_the_same_event_again(tmp_path: Path) -> None:
    async with webhook({}, tmp_path) as (host, client), anyio.create_task_group() as tasks:
        events = []
        for _ in range(2):
            tasks.start_soon(lambda: client.post("/x", json=[1], headers={"X-GitHub-Delivery": "d-1"}))
            events.append(await host.events.get())
            host.accept(events[-1])
    assert events[0] == events[1]


@pytest.mark.anyio
async def test_the_webhook_passes_the_hosts_refusal_on(tmp_path: Path) -> None:
    async with webhook({}, tmp_path) as (host, client), anyio.create_task_group() as tasks:

        async def post() -> None:
            response = await client.post("/x")
            assert response.status_code == 422
            assert "not among the configured eventTypes" in response.json()["error"]

        tasks.start_soon(post)
        host.reject(await host.events.get(), "type 'webhook.x' is not among the configured eventTypes")


@pytest.mark.anyio
async def test_a_request_is_answered_with_503_when_the_host_goes_away(tmp_path: Path) -> None:
    async with webhook({}, tmp_path) as (host, client), anyio.create_task_group() as tasks:

        async def post() -> None:
            assert (await client.post("/x")).status_code == 503

        tasks.start_soon(post)
        await host.events.get()
        host.go_away()


@pytest.mark.anyio
async def test_what_could_never_be_sent_on_is_refused_at_once(tmp_path: Path) -> None:
    async with webhook({}, tmp_path) as (_, client):
        headers = {"Content-Type": "application/json"}
        for body, status in ((b"[" * 100_000, 400), (b"1e999", 422), (b'"\\ud800"', 422), (b"x" * 1_000_001, 413)):
            assert (await client.post("/x", content=body, headers=headers)).status_code == status
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        many = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' * 10_000 + b"--b--"
        assert (await client.post("/x", content=many, headers=headers)).status_code == 400


@pytest.mark.anyio
async def test_a_port_that_is_taken_is_told_with_its_mend(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, modules_of("webhook") as load:
        port = taken.getsockname()[1]
        host = Host()
        with pytest.raises(ConfigError, match=rf"port: cannot listen on 127.0.0.1:{port}: .*; choose another port"):
            await load("server").source.serve(host.receive, host.send, config={"port": port}, state_dir=tmp_path)


@pytest.mark.anyio
async def test_a_webhook_process_takes_requests_until_its_stdin_ends(tmp_path: Path) -> None:
    async with running(SOURCES / "webhook", {"port": 0}, tmp_path) as (client, pushed):
        address = ""
        while not address:
            address = (await call(client, "get_address"))["address"]
        async with httpx2.AsyncClient(base_url=address) as http:
            response = await http.post("/a/b", data={"k": "v"})
        assert response.status_code == 200
        event = await pushed()
        assert (event["id"], event["type"], event["payload"]["body"]) == (
            response.json()["id"],
            "webhook.a.b",
            {"k": "v"},
        )


@pytest.fixture(scope="session")
def node_example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Node example with its packages installed, in a folder of its own."""
    folder = tmp_path_factory.mktemp("node-example")
    for name in ("server.mjs", "package.json"):
        shutil.copy(SOURCES / "node-example" / name, folder)
    reason = "node or npm is not on the PATH: install Node.js 18 or later, with npm"
    if shutil.which("node") and shutil.which("npm"):
        install = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error"]
        done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
        if done.returncode == 0:
            return folder
        reason = f"npm install failed: {done.stderr.strip()[-500:]}"
    return untested(reason)


@pytest.mark.anyio
async def test_the_node_example_pushes_and_has_the_tools(node_example: Path, tmp_path: Path) -> None:
    config = read_jsonc(SOURCES / "node-example" / "config.jsonc") | {"interval": 50}
    async with running(node_example, config, tmp_path, ["node", "server.mjs"]) as (client, pushed):
        beat = await pushed()
        assert (beat["type"], beat["payload"]["count"], beat["metadata"]["source"]) == (
            "node.heartbeat",
            1,
            "node-example",
        )
        emitted = await call(client, "emit_event", type="node.mine", payload={"a": 1})
        assert emitted["success"] is True
        while (event := await pushed())["type"] == "node.heartbeat":
            pass
        assert (event["id"], event["payload"]) == (emitted["eventId"], {"a": 1})
        assert await call(client, "list_event_types") == ["node.heartbeat"]
        assert (await call(client, "get_source_status"))["status"] == "running"
        assert await call(client, "list_pending_events") == []
        assert {str(resource.uri) for resource in (await client.list_resources()).resources} == {
            "event-source://node-example/status",
            "event-source://node-example/events",
        }


@pytest.mark.anyio
async def test_the_node_example_does_what_a_host_relies_on(node_example: Path, tmp_path: Path) -> None:
    folder = tmp_path / "eventsources" / "node-example"
    shutil.copytree(node_example, folder, symlinks=True)
    config = {"name": "node-example", "interval": 50, "initTimeout": "60s", "stopTimeout": "30s"}
    (folder / "config.jsonc").write_text(json.dumps(config))
    (tmp_path / "config.jsonc").write_text("{}")
    checks = await tried(tmp_path, "node-example", seconds=60, count=2)
    assert not [check for check in checks.values() if check.outcome is Outcome.FAILED]
    assert checks["events"].outcome is Outcome.OK


@pytest.mark.anyio
async def test_the_node_example_gathers_events_for_a_host_that_polls(node_example: Path, tmp_path: Path) -> None:
    config = {"interval": 3_600_000, "push": False}
    async with running(node_example, config, tmp_path, ["node", "server.mjs"]) as (client, _):
        emitted = [(await call(client, "emit_event", type="node.mine"))["eventId"] for _ in range(2)]
        assert [event["id"] for event in await call(client, "list_pending_events")] == emitted
        assert await call(client, "list_pending_events") == []
