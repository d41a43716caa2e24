"""Sources: every way in delivers, what cannot be accepted is told, nothing is doubled, and no source is in the way."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import anyio
import pytest
from hosting import LIMIT_S, QUICK, Hosting, hosting, source_config, until
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from eventhost.config import Protocol, ServerKind
from eventhost.connections import EventSourceStatus
from eventhost.connections import connection as connection_room
from eventhost.errors import ConnectionLost, NotFound
from eventhost.event import EnvEvent
from eventhost.journal import Entry, MemoryJournal
from eventhost.message import Message
from eventhost.sources import EventMcpClient, EventMcpManager, newest_first
from eventhost.sources import acknowledge as acknowledge_room
from eventhost.sources import dedup as dedup_room
from eventhost.sources import poll as poll_room
from eventhost.sources.dedup import WINDOW_S, DuplicateWindow, DuplicateWindows

STOPPED, CONNECTING, RUNNING, DISCONNECTED, BACKOFF, ERROR = (
    EventSourceStatus.STOPPED,
    EventSourceStatus.CONNECTING,
    EventSourceStatus.RUNNING,
    EventSourceStatus.DISCONNECTED,
    EventSourceStatus.BACKOFF,
    EventSourceStatus.ERROR,
)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_room, "FIRST_BACKOFF_S", 0.02)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Hosting]:
    async with hosting(tmp_path) as host:
        yield host


class Gated:
    """A `publish` that lets nothing through while its gate is closed."""

    def __init__(self) -> None:
        self.gate = anyio.Event()
        self.events: list[EnvEvent] = []
        self.waiting = 0
        self.failure: Exception | None = None

    async def __call__(self, events: Sequence[EnvEvent]) -> int:
        self.waiting += 1
        await self.gate.wait()
        self.waiting -= 1
        if self.failure is not None:
            raise self.failure
        self.events += events
        return len(self.events) - len(events) + 1

    def source(self, host: Hosting, server: Any, **more: Any) -> EventMcpClient:
        client = EventMcpManager(host.pool, self).add(source_config(server, **more))
        client.start()
        return client


def ids(events: Sequence[EnvEvent]) -> list[str]:
    return [event.id for event in events]


# --- push -----------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_source_pushes_in_every_dialect(host: Hosting) -> None:
    body = """
    def initialized():
        emit("door.opened", id="1", timestamp=5, payload={"count": 1})
        say(method="eventsource/event", params={"type": "door.closed", "id": "2"})
        say(method="notifications/message", params={"level": "info", "data": {"type": "bell", "id": "3"}})
        say(method="notifications/message", params={"level": "info", "data": "hello"})
    """
    client = host.source(host.tiny("door", body), metadata={"floor": 1})
    one, two, three = await host.events(3)
    metadata = {"source": "door", "source_name": "door", "floor": 1}
    assert one == EnvEvent("1", "door.opened", 5, metadata, {"count": 1})
    assert (two.id, two.type, two.payload, two.metadata) == ("2", "door.closed", {}, metadata)
    assert (three.id, three.type) == ("3", "bell")
    await until(lambda: client.get_status() is RUNNING and client.status().log)
    status = client.status(memory_bytes=7)
    assert (status.name, status.status, status.way_in, status.protocol) == ("door", RUNNING, "push", "2025-11-25")
    assert (status.received, status.published, status.rejected, status.deduplicated) == (3, 3, 0, 0)
    assert (status.restarts, status.last_error, status.log, status.memory_bytes) == (0, None, ["hello"], 7)
    assert status.pid == client.connection.link.pid if client.connection.link else False
    assert status.uptime_s is not None
    assert status.uptime_s >= 0
    assert status.last_event_at is not None
    assert status.last_event_at > 1_700_000_000_000
    await client.disconnect()
    status = client.status()
    assert (status.status, status.way_in, status.protocol, status.pid, status.uptime_s) == (STOPPED, "", "", None, None)
    assert status.published == 3


@pytest.mark.anyio
async def test_what_cannot_be_accepted_is_counted_and_shown(host: Hosting) -> None:
    body = """
    def initialized():
        emit("")
        emit("host.started", id="forged")
        emit("door.opened", id="good", metadata={"source_name": "bank"})
        emit("window.opened")
        say(method="notifications/eventsource/emitted", params={"data": 5})
        emit("door.closed", id="last")
    """
    client = host.source(host.tiny("door", body), event_types=("door.*",))
    events = await host.events(2)
    assert ids(events) == ["good", "last"]
    assert events[0].metadata["source_name"] == "door"
    await until(lambda: client.rejected == 4)
    status = client.status()
    assert (status.received, status.published, status.rejected) == (5, 2, 4)
    assert sorted(line.removeprefix("event rejected: ") for line in status.log) == [
        "an event must be an object, got a number",
        "type 'host.started' is not among the configured eventTypes ['door.*']",
        "type 'window.opened' is not among the configured eventTypes ['door.*']",
        "type: a non-empty string is required, got an empty string",
    ]
    assert str(status.last_error).startswith("event rejected: ")
    assert status.status is RUNNING
    said = {refused.reason: json.loads(refused.said or "null") for refused in status.refused}
    assert said["type: a non-empty string is required, got an empty string"] == {"type": ""}
    assert said["type 'host.started' is not among the configured eventTypes ['door.*']"] == {
        "type": "host.started", "id": "forged",
    }  # fmt: skip
    assert said["an event must be an object, got a number"] is None


@pytest.mark.anyio
async def test_what_is_no_message_is_counted_for_as_long_as_the_host_lives(host: Hosting) -> None:
    body = """
    def initialized():
        write("listening\\n")
        write("{\\n")
        emit("door.opened")
    """
    client = host.source(host.tiny("door", body))
    await host.events(1)
    assert client.status().garbage == 2
    await client.disconnect()
    assert client.status().garbage == 2
    client.start()
    await host.events(2)
    status = client.status()
    assert (status.garbage, status.rejected) == (4, 0)
    fault = "Expecting property name enclosed in double quotes at character 2"
    assert status.log == ["not a JSON-RPC message: listening", f"not a JSON-RPC message: {{: {fault}"] * 2
    assert status.last_error == f"4 lines were no JSON-RPC messages, the last: {{: {fault}"


@pytest.mark.anyio
async def test_what_is_shown_of_refused_events_is_bounded(host: Hosting) -> None:
    body = """
    def initialized():
        for number in range(30):
            emit("host.no", id=str(number), payload={"text": "x" * 10000})
        emit("door.closed")
    """
    client = host.source(host.tiny("door", body))
    await host.events(1)
    await until(lambda: client.rejected == 30)
    refused = client.status().refused
    assert [one.said.partition(',"payload"')[0] for one in refused] == [
        f'{{"type":"host.no","id":"{number}"' for number in range(20, 30)
    ]
    assert {len(one.said) for one in refused} == {2000}


@pytest.mark.anyio
async def test_a_source_that_dies_and_comes_back_keeps_its_counters_and_its_log(host: Hosting) -> None:
    body = """
    print("up", file=sys.stderr, flush=True)
    def initialized(): emit(id=str(os.getpid()))
    """
    client = host.source(host.tiny("door", body))
    await host.events(1)
    await until(lambda: client.get_status() is RUNNING)
    assert client.connection.link is not None
    assert client.connection.link.pid is not None
    os.kill(client.connection.link.pid, signal.SIGKILL)
    await host.events(2)
    await until(lambda: client.published == 2)
    status = client.status()
    assert (status.restarts, status.received, status.last_error) == (1, 2, "killed by SIGKILL; its last words: up")
    assert status.log == ["up", "up"]


@pytest.mark.anyio
async def test_a_flooding_source_loses_nothing_and_keeps_its_order(host: Hosting) -> None:
    body = """
    def initialized():
        for number in range(20000):
            emit(id=str(number), timestamp=1, payload={"number": number}, metadata={})
    """
    client = host.source(host.tiny("door", body))
    assert ids(await host.events(20_000)) == [str(number) for number in range(20_000)]
    await until(lambda: client.published == 20_000)


# --- poll -----------------------------------------------------------------------------------------------------------

POLLED = """
polls = 0
def pending():
    global polls
    polls += 1
    return text(answers.pop(0) if answers else [])
TOOLS["list_pending_events"] = pending
"""


@pytest.mark.anyio
async def test_a_server_that_gathers_its_events_is_polled(host: Hosting) -> None:
    body = POLLED + 'answers = [[{"type": "a", "id": "1"}, {"type": "a", "id": "2"}], [], [{"type": "a", "id": "3"}]]'
    client = host.source(host.tiny("door", body))
    assert ids(await host.events(3)) == ["1", "2", "3"]
    assert client.status().way_in == "poll"
    assert client.received == 3


@pytest.mark.anyio
async def test_each_text_of_an_answer_is_read_for_itself(host: Hosting) -> None:
    body = """
    done = False
    def pending():
        global done
        texts = ['{"type": "a", "id": "1"}', '[{"type": "a", "id": "2"}]', "[]", '{"type": "a", "id": "3"}']
        texts, done = [] if done else texts, True
        return {"content": [{"type": "text", "text": text} for text in texts]}
    TOOLS["list_pending_events"] = pending
    """
    client = host.source(host.tiny("door", body))
    assert ids(await host.events(3)) == ["1", "2", "3"]
    assert client.rejected == 0


@pytest.mark.anyio
async def test_a_tool_of_the_sdk_that_returns_a_list_is_polled(host: Hosting) -> None:
    text = """
from mcp.server.mcpserver import MCPServer
server = MCPServer("polled")
pending = [{"type": "a", "id": "1"}, {"type": "a", "id": "2"}]

@server.tool()
def list_pending_events() -> list[dict]:
    events = list(pending)
    pending.clear()
    return events
"""
    (host.root / "polled_list.py").write_text(text)
    client = host.source(host.server("polled", ServerKind.INPROCESS, module="polled_list"))
    assert ids(await host.events(2)) == ["1", "2"]
    assert client.rejected == 0


@pytest.mark.anyio
async def test_polling_ends_once_the_server_pushes(host: Hosting) -> None:
    body = POLLED + (
        'answers = [[{"type": "a", "id": "polled"}]]\n'
        "def polled(): return text(polls)\n"
        "def push(): emit(id='pushed'); return text('ok')\n"
        'TOOLS["polled"], TOOLS["push"] = polled, push\n'
    )
    client = host.source(host.tiny("door", body))
    await host.events(1)
    link = await client.connection.connected(LIMIT_S)
    await link.client.call_tool("push", {})
    await host.events(2)
    await until(lambda: client.status().way_in == "push")
    before = await link.client.call_tool("polled", {})
    await anyio.sleep(5 * client.config.poll_interval_s)
    assert before == await link.client.call_tool("polled", {})


@pytest.mark.anyio
async def test_a_poll_that_fails_is_told_and_made_again(host: Hosting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poll_room, "LONGEST_PAUSE_S", 0.01)
    body = """
    answers = [
        lambda: text("disk full", isError=True),
        lambda: text("not json"),
        lambda: text({"type": "a", "id": "0"}["type"]),
        lambda: text(5),
        lambda: 1 / 0,
        lambda: {"content": 5},
        lambda: text([5, {"type": "a", "id": "1"}, {}]),
        lambda: {"content": []},
        lambda: text([{"type": "a", "id": "2"}]),
    ]
    TOOLS["list_pending_events"] = lambda: answers.pop(0)() if answers else text([])
    """
    client = host.source(host.tiny("door", body))
    assert ids(await host.events(2)) == ["1", "2"]
    reasons = [line.removeprefix("event rejected: list_pending_events: ") for line in client.status().log]
    assert reasons[0] == "disk full"
    assert reasons[1].startswith("the answer is not JSON: ")
    assert reasons[3] == "the answer is not a list of events"
    assert "ZeroDivisionError" in reasons[4]
    assert "content" in reasons[5]
    assert reasons[6:] == [
        "event rejected: an event must be an object, got a number",
        "event rejected: type: a non-empty string is required, got nothing",
    ]
    assert client.get_status() is RUNNING


@pytest.mark.anyio
async def test_a_poll_that_is_not_answered_is_given_up_after_a_while(
    host: Hosting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poll_room, "ANSWER_TIMEOUT_S", 0.05)
    monkeypatch.setattr(poll_room, "LONGEST_PAUSE_S", 0.01)
    body = """
    answers = [None]
    TOOLS["list_pending_events"] = lambda: answers.pop() if answers else text([{"type": "a", "id": "1"}])
    """
    client = host.source(host.tiny("door", body))
    assert ids(await host.events(1)) == ["1"]
    assert client.status().log[0] == "event rejected: list_pending_events: no answer within 0.05 s"


@pytest.mark.anyio
@pytest.mark.parametrize(
    "listing",
    ['{"tools": [{"name": 5}]}', '{"tools": 5}', "1 / 0", "{}"],
    ids=["wrong", "wronger", "error", "empty"],
)
async def test_a_server_that_cannot_list_its_tools_may_push_all_the_same(host: Hosting, listing: str) -> None:
    body = f"""
    capabilities["tools"] = {{}}
    def list_tools(params):
        threading.Timer(0.02, lambda: emit(id="1")).start()
        return {listing}
    methods["tools/list"] = list_tools
    """
    client = host.source(host.tiny("door", body))
    assert ids(await host.events(1)) == ["1"]
    assert client.status().way_in == "push"
    assert host.statuses["door"] == [CONNECTING, RUNNING]


# --- resources ------------------------------------------------------------------------------------------------------

RESOURCES = """
capabilities["resources"] = {"subscribe": True}
subscribed = []
def subscribe(params):
    subscribed.append(params["uri"])
    if params["uri"].endswith("locked"):
        raise PermissionError("locked")
    if len(subscribed) == expected:
        threading.Timer(0.01, change).start()
    return {}
def read(params):
    if params["uri"].endswith("gone"):
        raise FileNotFoundError("gone")
    return {"contents": [{"uri": params["uri"], "text": "21 °C", "mimeType": "text/plain"}]}
def change():
    for uri in subscribed:
        say(method="notifications/resources/updated", params={"uri": uri})
listed = [{"uri": "sensor://a", "name": "a"}, {"uri": "sensor://b", "name": "b"}]
methods["resources/subscribe"], methods["resources/read"] = subscribe, read
methods["resources/list"] = lambda params: {"resources": listed}
expected = 1
"""


@pytest.mark.anyio
async def test_a_resource_that_changes_is_read_and_becomes_an_event(host: Hosting) -> None:
    client = host.source(host.tiny("sensor", RESOURCES, resources=("sensor://a",)))
    [event] = await host.events(1)
    assert event.type == "resource.updated"
    assert event.payload == {
        "uri": "sensor://a",
        "contents": [{"uri": "sensor://a", "text": "21 °C", "mimeType": "text/plain"}],
    }
    assert event.metadata["source_name"] == "sensor"
    assert client.status().way_in == "push+resources"


@pytest.mark.anyio
async def test_a_star_stands_for_all_resources_that_are_listed(host: Hosting) -> None:
    host.source(host.tiny("sensor", RESOURCES + "expected = 2", resources=("*",)))
    events = await host.events(2)
    assert sorted(event.payload["uri"] for event in events) == ["sensor://a", "sensor://b"]


@pytest.mark.anyio
async def test_a_resource_that_cannot_be_watched_or_read_is_told_and_the_others_go_on(host: Hosting) -> None:
    uris = ("sensor://locked", "sensor://gone", "sensor://a")
    client = host.source(host.tiny("sensor", RESOURCES + "expected = 3", resources=uris))
    await until(lambda: client.rejected == 2 and client.published == 2)
    assert {event.payload["uri"] for event in await host.all_events()} == {"sensor://locked", "sensor://a"}
    assert any("subscribing to sensor://locked: PermissionError('locked')" in line for line in client.status().log)
    assert any("reading sensor://gone: FileNotFoundError('gone')" in line for line in client.status().log)
    assert client.get_status() is RUNNING


@pytest.mark.anyio
@pytest.mark.parametrize("broken", ["no such method", "nonsense"])
async def test_resources_that_cannot_be_listed_are_told(host: Hosting, broken: str) -> None:
    cut = {
        "no such method": 'del methods["resources/list"]',
        "nonsense": "listed = 5",
    }
    body = RESOURCES + cut[broken] + '\ndef initialized(): threading.Timer(0.02, lambda: emit(id="1")).start()'
    client = host.source(host.tiny("sensor", body, resources=("*",)))
    assert ids(await host.events(1)) == ["1"]
    await until(lambda: client.rejected == 1)
    assert "listing the resources: " in client.status().log[0]
    assert host.statuses["sensor"] == [CONNECTING, RUNNING]


@pytest.mark.anyio
async def test_resources_of_a_server_that_has_none_are_told(host: Hosting) -> None:
    client = host.source(host.tiny("sensor", resources=("sensor://a",)))
    await until(lambda: client.rejected == 1)
    assert "resources ['sensor://a'] are configured, but the server offers none" in client.status().log[0]
    assert client.status().way_in == "push"


@pytest.mark.anyio
async def test_what_is_not_configured_is_not_watched(host: Hosting) -> None:
    body = (
        RESOURCES
        + """
def initialized():
    say(method="notifications/resources/updated", params={"uri": "sensor://a"})
    emit(id="after")
"""
    )
    client = host.source(host.tiny("sensor", body))
    assert ids(await host.events(1)) == ["after"]
    assert (client.received, client.rejected) == (1, 0)


@pytest.mark.anyio
@pytest.mark.parametrize("resources", [("sensor://a",), ("*",)])
async def test_resources_are_watched_in_the_modern_era_too(host: Hosting, resources: tuple[str, ...]) -> None:
    text = """
from mcp.server.mcpserver import Context, MCPServer
server = MCPServer("sensor")

@server.resource("sensor://a")
def a() -> str:
    return "21"

@server.tool()
async def change(context: Context) -> str:
    await context.notify_resource_updated("sensor://a")
    return "changed"
"""
    (host.root / "modern_sensor.py").write_text(text)
    module = host.server(
        "sensor", ServerKind.INPROCESS, module="modern_sensor", protocol=Protocol.MODERN, resources=resources
    )
    client = host.source(module)
    link = await client.connection.connected(LIMIT_S)
    assert link.protocol == "2026-07-28"
    await until(lambda: client.status().way_in == "push+resources")
    with anyio.fail_after(LIMIT_S):
        while host.bus.journal.head == 0:  # until the subscription has arrived
            assert not (await link.client.call_tool("change", {})).is_error
            await anyio.sleep(0.01)
    [event, *_] = await host.all_events()
    assert event.type == "resource.updated"
    assert event.payload["contents"][0]["text"] == "21"


MODERN = """
version = {"supportedVersions": ["2026-07-28"], "resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
methods["server/discover"] = lambda params: {**version, "capabilities": capabilities}
capabilities["resources"] = {}
"""


@pytest.mark.anyio
@pytest.mark.parametrize("end", ["result", "error"])
async def test_a_modern_subscription_that_ends_is_a_lost_connection(host: Hosting, end: str) -> None:
    answer = {"result": {"result": {}}, "error": {"error": {"code": -32000, "message": "bye"}}}[end]
    body = (
        MODERN
        + f"""
def lines(stdin):
    for line in stdin:
        message = json.loads(line)
        if message.get("method") == "subscriptions/listen":
            meta = {{"io.modelcontextprotocol/subscriptionId": message["id"]}}
            honored = {{"notifications": message["params"]["notifications"], "_meta": meta}}
            say(method="notifications/subscriptions/acknowledged", params=honored)
            say(id=message["id"], **{answer})
        else:
            yield line
stdin = lines(stdin)
"""
    )
    client = host.source(host.tiny("sensor", body, resources=("sensor://a",), protocol=Protocol.MODERN))
    await host.becomes("sensor", DISCONNECTED, CONNECTING)
    expected = {"result": "the server ended the subscription to its resources", "error": "bye"}
    assert str(client.status().last_error).startswith(expected[end])


@pytest.mark.anyio
async def test_a_modern_subscription_that_is_refused_is_told(host: Hosting) -> None:
    client = host.source(host.tiny("sensor", MODERN, resources=("sensor://a",), protocol=Protocol.MODERN))
    await until(lambda: client.rejected == 1 and client.get_status() is RUNNING)
    assert "subscribing to sensor://a: no such method" in client.status().log[0]


# --- duplicates -----------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_an_event_that_comes_twice_is_published_once(host: Hosting) -> None:
    body = """
    def initialized():
        for _ in range(3):
            emit(id="1", timestamp=5, payload={"n": 1})
        emit(id="2", payload={"n": 1})
        time.sleep(0.01)
        emit(id="2", payload={"n": 1})
        emit(id="1", timestamp=5, payload={"n": 2})
        emit(id="1", timestamp=6, payload={"n": 2})
        emit(payload={"n": 1})
        emit(payload={"n": 1})
        emit(id="end")
    """
    client = host.source(host.tiny("door", body))
    await until(lambda: client.received == 10)
    events = await host.events(7)
    assert ids(events)[:4] == ["1", "2", "1", "1"]
    assert [event.payload.get("n") for event in events] == [1, 1, 2, 2, 1, 1, None]
    assert (client.published, client.deduplicated) == (7, 3)
    assert client._window.reused == 2


@pytest.mark.anyio
async def test_what_an_event_does_not_give_back_is_recorded_under_its_number(host: Hosting) -> None:
    body = """
    def initialized():
        emit(id="1", timestamp=5, payload="a")
        emit(id="2", timestamp=5, payload={"a": 1})
        emit(id="1", timestamp=5, payload="a")
        emit(id="3", timestamp=5, colour="red")
        emit(id="4", type="", payload="a")
        emit(id="5", timestamp=5)
    """
    recorded: dict[int, Any] = {}

    async def take(messages: Sequence[tuple[int, Message]]) -> None:
        assert messages
        recorded.update({seq: message.said for seq, message in messages})

    client = EventMcpManager(host.pool, host.bus.publish_batch, take).add(source_config(host.tiny("door", body)))
    client.start()
    events = await host.events(4)
    assert ids(events) == ["1", "2", "3", "5"]
    await until(lambda: len(recorded) == 2)
    assert recorded == {
        1: {"id": "1", "type": "door.opened", "timestamp": 5, "payload": "a"},
        3: {"id": "3", "type": "door.opened", "timestamp": 5, "colour": "red"},
    }


@pytest.mark.anyio
async def test_a_restarted_source_that_repeats_itself_is_recognized_and_another_source_is_not(host: Hosting) -> None:
    body = 'def initialized(): emit(id="same", timestamp=5); emit(id=str(os.getpid()))'
    door, gate = host.source(host.tiny("door", body)), host.source(host.tiny("gate", body))
    await host.events(4)
    await door.disconnect()
    door.start()
    events = await host.events(5)
    assert [event.metadata["source_name"] for event in events if event.id == "same"].count("door") == 1
    assert ids(events).count("same") == 2
    assert (door.deduplicated, gate.deduplicated) == (1, 0)


def say(event_id: str, *, content: int = 0, time: int = 1) -> EnvEvent:
    return EnvEvent(event_id, "t", time, {"source": "s"}, {"n": content})


batches = st.lists(
    st.lists(st.builds(say, st.sampled_from("abcdefgh"), content=st.integers(0, 1)), max_size=6), max_size=8
)


@given(batches)
def test_within_the_window_only_what_differs_from_the_last_of_its_id_is_fresh(rounds: list[list[EnvEvent]]) -> None:
    window, last, reused = DuplicateWindow(), dict[str, EnvEvent](), 0
    for events in rounds:
        fresh = []
        for event in events:
            if last.get(event.id) != event:
                fresh.append(event)
                reused += event.id in last
            last[event.id] = event
        assert window.fresh(list(events), frozenset(), 10) == fresh
        assert window.reused == reused


@given(batches, st.integers(1, 4))
def test_a_window_never_drops_what_it_has_not_seen_and_never_forgets_the_last(
    rounds: list[list[EnvEvent]], size: int
) -> None:
    window, before = DuplicateWindow(), list[EnvEvent]()
    with patch("eventhost.sources.dedup.WINDOW_EVENTS", size):
        for events in rounds:
            fresh = window.fresh(list(events), frozenset(), 10)
            for event in events:
                dropped = not (fresh and fresh[0] is event)
                if not dropped:
                    fresh.pop(0)
                of_this_id = [earlier for earlier in before if earlier.id == event.id]
                if dropped:
                    assert of_this_id[-1:] == [event]
                elif of_this_id[-1:] == [event]:
                    # It was a double after all: then it was too long ago.
                    latest = list(dict.fromkeys(earlier.id for earlier in reversed(before)))[:size]
                    assert event.id not in latest
                before.append(event)


def test_a_window_holds_a_bounded_number_of_events_and_of_bytes() -> None:
    window = DuplicateWindow()
    for number in range(100_000):
        window.fresh([say(str(number))], frozenset(), 100)
    assert len(window._young) + len(window._old) <= 2 * 4097
    for number in range(100):
        window.fresh([say(f"large{number}")], frozenset(), 1_000_000)
    assert len(window._young) + len(window._old) <= 8


def test_a_time_that_the_host_made_up_makes_no_difference() -> None:
    window = DuplicateWindow()
    assert window.fresh([say("a", time=1)], frozenset("a"), 10)
    assert not window.fresh([say("a", time=2)], frozenset("a"), 10)
    assert window.fresh([say("a", time=3)], frozenset(), 10)
    assert window.reused == 1


def test_what_was_not_accepted_after_all_may_come_again() -> None:
    window = DuplicateWindow()
    events = [say("a"), say("b")]
    assert window.fresh(events, frozenset(), 10) == events
    window.forget(events[:1])
    assert window.fresh(events, frozenset(), 10) == events[:1]


@pytest.mark.parametrize(("silent_s", "known"), [(0.9, True), (1.1, True), (2.1, False)])
def test_a_window_remembers_for_its_time_and_for_less_than_twice_that(silent_s: float, known: bool) -> None:
    now_s = 5.0
    window = DuplicateWindow(lambda: now_s)
    window.fresh([say("a")], frozenset(), 10)
    now_s += silent_s * WINDOW_S
    assert window.fresh([say("a")], frozenset(), 10) == ([] if known else [say("a")])


def test_a_window_forgets_by_time_though_there_is_always_something_to_remember() -> None:
    now_s = 5.0
    window = DuplicateWindow(lambda: now_s)
    window.fresh([say("a")], frozenset(), 10)
    for number in range(30):
        now_s += 0.1 * WINDOW_S
        window.fresh([say(str(number))], frozenset(), 10)
    assert window.fresh([say("a")], frozenset(), 10)


# What was accepted before the host started


class Kept:
    """A journal of which nothing is known but what it holds."""

    def __init__(self, entries: Sequence[Entry], first: int = 1) -> None:
        self.entries, self.first = list(entries), first
        self.read_at_once = 0

    @property
    def head(self) -> int:
        return self.entries[-1].seq if self.entries else 0

    async def read(self, after: int, limit: int) -> list[Entry]:
        found = [entry for entry in self.entries if entry.seq > after][:limit]
        self.read_at_once = max(self.read_at_once, len(found))
        return found


async def recalled(journal: Any) -> list[Entry]:
    return [entry for page in [page async for page in newest_first(journal)] for entry, _ in page]


HOUR_MS = round(WINDOW_S * 1000)


@pytest.mark.anyio
@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, HOUR_MS // 4), st.integers(0, 2_000)), max_size=60),
    st.integers(1, 50),
)
async def test_the_newest_are_recalled_newest_first_up_to_a_time_and_a_number(
    steps: list[tuple[int, int, int]], most: int
) -> None:
    entries, seq, at_ms = [], 0, 1_000_000
    for holes, later_ms, size in steps:
        seq, at_ms = seq + holes, at_ms + later_ms  # what was lost to damage leaves a hole
        entries.append(Entry(seq, at_ms, EnvEvent(str(seq), "t", 0, {"source_name": "s"}, {"x": "x" * size})))
    with patch.object(dedup_room, "RECALL_EVENTS", most), patch.object(dedup_room, "_FIRST_PAGE", 4):
        found = await recalled(Kept(entries))
    young = [entry for entry in reversed(entries) if entry.at_ms >= at_ms - HOUR_MS]
    assert found == young[: len(found)]
    assert len(found) >= min(most, len(young))


@pytest.mark.anyio
async def test_recalling_large_events_takes_little_memory_and_has_an_end() -> None:
    large = "x" * 500_000
    journal = Kept([Entry(n, 0, EnvEvent(str(n), "t", 0, {}, {"x": large})) for n in range(1, 200)])
    found = await recalled(journal)
    assert 32 <= len(found) <= 100
    assert journal.read_at_once == 32


@pytest.mark.anyio
async def test_what_is_no_longer_held_is_not_recalled() -> None:
    journal = MemoryJournal(50)
    assert await recalled(journal) == []
    await journal.append([say(str(number)) for number in range(90)])
    assert [entry.seq for entry in await recalled(journal)] == list(range(90, 40, -1))


def sized(*events: EnvEvent, size: int = 10) -> list[tuple[Entry, int]]:
    """As they are recalled: the newest first."""
    return [(Entry(seq, 0, event), size) for seq, event in enumerate(events)]


def of(source: str, event_id: str, content: int = 0) -> EnvEvent:
    return EnvEvent(event_id, "t", 1, {"source_name": source}, {"n": content})


def test_what_an_earlier_host_took_from_a_source_is_known_again() -> None:
    windows = DuplicateWindows()
    windows.recall(sized(of("door", "1", 5), of("gate", "2"), of("door", "1", 4)))
    assert windows.of("door").fresh([of("door", "1", 5)], frozenset(), 10) == []
    assert windows.of("door").fresh([of("door", "2")], frozenset(), 10) == [of("door", "2")]
    assert windows.of("gate").fresh([of("gate", "2")], frozenset(), 10) == []
    # Only the newest of its id counts, as it would had the host lived on.
    assert windows.of("door").fresh([of("door", "1", 4)], frozenset(), 10)


def test_of_what_is_recalled_a_window_holds_no_more_than_it_would_have() -> None:
    windows = DuplicateWindows()
    windows.recall(sized(*(of("door", str(number)) for number in range(10_000))))
    windows.recall(sized(*(of("large", str(number)) for number in range(10)), size=1_000_000))
    assert len(windows.of("door")._old) == dedup_room.WINDOW_EVENTS
    assert set(windows.of("large")._old) == {"0", "1"}


@pytest.mark.anyio
async def test_a_source_that_is_removed_and_added_again_begins_anew(host: Hosting) -> None:
    host.sources.windows.recall(sized(of("door", "1")))
    body = 'def initialized(): emit("t", id="1", timestamp=1, payload={"n": 0})'
    client = host.source(host.tiny("door", body))
    await until(lambda: client.received == 1)
    assert client.published == 1  # it says more in its metadata than what is recalled
    await host.sources.remove(["door"])
    assert host.sources.windows.of("door").fresh([of("door", "1")], frozenset(), 10)


# --- acknowledgement ------------------------------------------------------------------------------------------------

ACKING = """
capabilities["experimental"] = {"eventhost/ack": {}}
def heard(message):
    if message.get("method") == "notifications/eventsource/accepted":
        print(json.dumps(message["params"]), file=sys.stderr, flush=True)
"""


def acknowledged(client: EventMcpClient) -> tuple[list[str], dict[str, str]]:
    """The ids that the source was told are accepted, and the others with the reasons."""
    told = [json.loads(line) for line in client.status().log if line.startswith('{"ids"')]
    rejected = {refusal["id"]: refusal["reason"] for params in told for refusal in params.get("rejected", [])}
    return [event_id for params in told for event_id in params["ids"]], rejected


@pytest.mark.anyio
async def test_a_source_is_told_what_became_of_its_events(host: Hosting) -> None:
    body = (
        ACKING
        + """
emit(id="early")  # before the host could know that it wants to be told
def initialized():
    emit(id="1")
    emit("host.started", id="forged")
    emit(id="1", payload={})
    emit("", id="typeless")
    emit(id="2")
"""
    )
    client = host.source(host.tiny("door", body))
    await until(lambda: len(acknowledged(client)[0]) == 4 and len(acknowledged(client)[1]) == 2)
    accepted, rejected = acknowledged(client)
    assert accepted == ["early", "1", "1", "2"]
    assert "is the host's own" in rejected["forged"]
    assert "a non-empty string is required" in rejected["typeless"]
    assert client.deduplicated == 1


@pytest.mark.anyio
async def test_nobody_is_told_who_did_not_ask(host: Hosting) -> None:
    body = ACKING + 'capabilities.clear()\ndef initialized(): emit(id="1"); emit("", id="2"); emit(id="3")'
    client = host.source(host.tiny("door", body))
    await host.events(2)
    await until(lambda: client.published == 2)
    link = await client.connection.connected(LIMIT_S)
    await link.client.send_ping()  # whatever was sent before has arrived
    assert acknowledged(client) == ([], {})


@pytest.mark.anyio
async def test_a_source_that_asks_only_later_is_told_from_then_on(host: Hosting) -> None:
    client = host.sources.add(source_config(host.tiny("door", 'def initialized(): emit(id="1")')))
    with anyio.fail_after(LIMIT_S):
        await client.connect()
        await host.events(1)
        asking = ACKING + 'emit(id="2")\ndef initialized(): emit(id="3")'
        assert await client.reconfigure(source_config(host.tiny("door", asking))) is None
    await until(lambda: acknowledged(client) == (["2", "3"], {}))


@pytest.mark.anyio
async def test_acceptance_is_told_only_after_publishing(host: Hosting) -> None:
    publish = Gated()
    client = publish.source(host, host.tiny("door", ACKING + 'def initialized(): emit(id="1")'))
    await until(lambda: publish.waiting)
    link = await client.connection.connected(LIMIT_S)
    await link.client.send_ping()
    assert acknowledged(client) == ([], {})
    publish.gate.set()
    await until(lambda: acknowledged(client) == (["1"], {}))


@pytest.mark.anyio
async def test_emit_of_the_kit_returns_when_the_event_was_accepted(host: Hosting) -> None:
    body = """
    from eventhost.errors import EventRejected
    @source.task
    async def talk():
        await source.emit("a", id="1")
        try:
            await source.emit("host.started", id="2")
        except EventRejected as error:
            await source.emit("a", str(error), id="3")
    """
    publish = Gated()
    client = publish.source(host, host.kit("door", body))
    await until(lambda: publish.waiting)
    link = await client.connection.connected(LIMIT_S)
    await link.client.send_ping()
    assert client.received == 1
    publish.gate.set()
    await until(lambda: len(publish.events) == 2)
    assert ids(publish.events) == ["1", "3"]
    assert "is the host's own" in publish.events[1].payload["value"]


@pytest.mark.anyio
async def test_a_source_that_does_not_read_its_acknowledgements_is_heard_all_the_same(host: Hosting) -> None:
    body = (
        ACKING
        + """
def initialized():
    for number in range(30000):
        emit(id=f"{number:050}", timestamp=1, payload={}, metadata={})
    emit(id="end")
    threading.Event().wait()
"""
    )
    client = host.source(host.tiny("door", body, timings=replace(QUICK, stop_timeout_s=0.05)))
    events = await host.events(30_001)
    assert events[-1].id == "end"
    assert client.get_status() is RUNNING


@pytest.mark.anyio
@pytest.mark.parametrize("event_type", ["a", "host.forged"], ids=["accepted", "rejected"])
async def test_acknowledgements_that_nobody_reads_do_not_pile_up_for_ever(
    host: Hosting, monkeypatch: pytest.MonkeyPatch, event_type: str
) -> None:
    monkeypatch.setattr(acknowledge_room, "MOST_UNSENT", 100)
    body = (
        ACKING
        + f"""
def initialized():
    for number in range(5000):
        emit({event_type!r}, id=f"{{number:050}}", timestamp=1, payload={{}}, metadata={{}})
    threading.Event().wait()
"""
    )
    client = host.source(host.tiny("door", body, timings=replace(QUICK, stop_timeout_s=0.05)))
    await host.becomes("door", DISCONNECTED)
    assert "does not read the acknowledgements that it asked for" in str(client.connection.last_error)


# --- nobody is in the way -------------------------------------------------------------------------------------------

FLOODING = """
import select
filler = {"text": "x" * 500}
def flood():
    number = 0
    while True:
        write("".join(emitted(id=str(number + n), timestamp=1, payload=filler, metadata={}) for n in range(20)))
        number += 20
        while select.select([stdin], [], [], 0)[0]:
            handle(stdin.readline())
def initialized():
    flood()
TOOLS["add"] = lambda a, b: text(a + b)
"""


@pytest.mark.anyio
async def test_a_source_whose_events_are_stuck_answers_a_call_of_its_tool(host: Hosting) -> None:
    publish = Gated()
    client = publish.source(host, host.tiny("door", FLOODING))
    await until(lambda: publish.waiting)
    link = await client.connection.connected(LIMIT_S)
    inbound_waits = client.received
    for number in range(5):
        with anyio.fail_after(LIMIT_S):
            result = await link.client.call_tool("add", {"a": number, "b": 1})
        assert result.content[0].text == str(number + 1)  # type: ignore[union-attr]
    assert client.received == inbound_waits  # still stuck with the same batch
    publish.gate.set()
    await client.disconnect()
    assert ids(publish.events) == [str(number) for number in range(len(publish.events))]


@pytest.mark.anyio
async def test_a_stuck_source_delays_no_other(host: Hosting) -> None:
    stuck = Gated()
    stuck.source(host, host.tiny("stuck", FLOODING))
    await until(lambda: stuck.waiting)
    host.source(host.tiny("door", 'def initialized(): emit(id="1")'))
    assert ids(await host.events(1)) == ["1"]
    stuck.gate.set()


@pytest.mark.anyio
async def test_a_publish_that_fails_is_the_sources_own_failure_and_the_event_may_come_again(host: Hosting) -> None:
    publish = Gated()
    publish.failure = OSError("disk full")
    publish.gate.set()
    client = publish.source(host, host.tiny("door", 'def initialized(): emit(id="1", timestamp=5)'))
    await host.becomes("door", CONNECTING, DISCONNECTED)
    assert "disk full" in str(client.connection.last_error)
    publish.failure = None
    await until(lambda: ids(publish.events) == ["1"])
    assert client.deduplicated == 0


# --- connecting and reconfiguring -----------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_connect_waits_until_the_source_runs_or_says_why_not(host: Hosting) -> None:
    door = host.sources.add(source_config(host.tiny("door")))
    assert (door.get_name(), door.get_status()) == ("door", STOPPED)
    with anyio.fail_after(LIMIT_S):
        await door.connect()
        assert door.get_status() is RUNNING
        await door.disconnect()
        assert door.get_status() is STOPPED
        bad = host.sources.add(source_config(host.tiny("bad", "sys.exit(3)")))
        with pytest.raises(ConnectionLost, match="bad: exited with status 3"):
            await bad.connect()


@pytest.mark.anyio
async def test_a_new_configuration_that_comes_up_takes_over(host: Hosting) -> None:
    client = host.source(host.tiny("door", 'def initialized(): emit("old", id="1")'))
    await host.events(1)
    await until(lambda: client.get_status() is RUNNING)
    server = host.tiny("door", 'def initialized(): emit("new", id="2"); emit("old", id="3")')
    with anyio.fail_after(LIMIT_S):
        assert await client.reconfigure(source_config(server, event_types=("new",), metadata={"v": 2})) is None
    events = await host.events(2)
    assert [(event.type, event.metadata.get("v")) for event in events] == [("old", None), ("new", 2)]
    await until(lambda: client.received == 3)
    assert (client.published, client.rejected, client.problem) == (2, 1, None)
    assert host.sources.get_status("door") is RUNNING


@pytest.mark.anyio
async def test_a_new_configuration_that_does_not_come_up_gives_way_to_the_last_good_one(host: Hosting) -> None:
    good = source_config(host.tiny("door", "def initialized(): emit(id=str(os.getpid()))"))
    client = host.sources.add(good)
    with anyio.fail_after(LIMIT_S), capture_logs() as logs:
        await client.connect()
        bad = source_config(host.script("worse", "import sys; sys.exit('no such sensor')"))
        bad = replace(bad, name="door", server=replace(bad.server, name="door"))
        assert "no such sensor" in str(await client.reconfigure(bad))
        assert client.config is good
        assert await client.connection.settled()
    assert len(await host.events(2)) == 2
    assert client.status().last_error == (
        "the new configuration did not come up (exited with status 1; its last words: no such sensor);"
        " the last good one is in use"
    )
    assert [entry["source"] for entry in logs if entry["event"] == "source_reverted"] == ["door"]
    with anyio.fail_after(LIMIT_S):
        assert await client.reconfigure(replace(good, metadata={"v": 3})) is None
    assert client.problem is None


@pytest.mark.anyio
async def test_a_source_whose_code_is_broken_is_tried_with_what_its_files_say(host: Hosting) -> None:
    client = host.sources.add(source_config(host.tiny("door")))
    with anyio.fail_after(LIMIT_S):
        await client.connect()
        broken = source_config(host.script("door", "import sys; sys.exit('no such module')"))
        assert "it does not come up" in str(await client.reconfigure(broken))
        assert (client.config, client.problem) == (broken, None)
        await until(lambda: "no such module" in str(client.status().last_error))
        assert await client.reconfigure(source_config(host.tiny("door"))) is None
        await host.becomes("door", BACKOFF, RUNNING)


@pytest.mark.anyio
async def test_a_source_that_its_configuration_had_kept_from_running_begins_when_it_does_not(host: Hosting) -> None:
    server = host.tiny("door")
    for kept in ({"enabled": False}, {"auto_start": False}):
        client = host.sources.add(source_config(server, **kept))
        with anyio.fail_after(LIMIT_S):
            assert await client.reconfigure(source_config(server)) is None
            assert await client.connection.settled()
            assert client.get_status() is RUNNING
            # Stopped by hand it stays so, until it has been disabled.
            await client.disconnect()
            assert await client.reconfigure(source_config(server, metadata={"v": 2})) is None
            assert client.get_status() is STOPPED


@pytest.mark.anyio
async def test_what_the_old_instance_had_written_is_published_before_the_new_one_starts(host: Hosting) -> None:
    body = """
    import atexit
    def initialized():
        for number in range(500): emit("old", id=str(number))
    atexit.register(lambda: emit("old", id="bye"))
    """
    client = host.sources.add(source_config(host.tiny("door", body)))
    with anyio.fail_after(LIMIT_S):
        await client.connect()
        await client.reconfigure(source_config(host.tiny("door", 'def initialized(): emit("new", id="hello")')))
    assert ids(await host.events(502)) == [*map(str, range(500)), "bye", "hello"]


@pytest.mark.anyio
async def test_a_source_that_is_stopped_stays_so_with_its_new_configuration(host: Hosting) -> None:
    client = host.sources.add(source_config(host.tiny("door")))
    assert await client.reconfigure(source_config(host.tiny("door"), metadata={"v": 2})) is None
    assert client.get_status() is STOPPED
    with anyio.fail_after(LIMIT_S):
        await client.connect()
        assert await client.reconfigure(source_config(host.tiny("door"), enabled=False)) is None
    assert client.get_status() is STOPPED


@pytest.mark.anyio
async def test_a_broken_source_goes_over_to_a_broken_configuration(host: Hosting) -> None:
    client = host.source(host.tiny("door", "sys.exit(3)", timings=replace(QUICK, startretries=1)))
    await host.becomes("door", ERROR)
    new = source_config(host.tiny("door", "sys.exit(4)", timings=replace(QUICK, startretries=1)))
    with anyio.fail_after(LIMIT_S):
        assert await client.reconfigure(new) is None
    assert client.config is new
    await host.becomes("door", ERROR, STOPPED, CONNECTING, ERROR)
    assert client.status().last_error == "exited with status 4"


# --- the manager ----------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_the_manager_starts_what_is_to_be_started_and_waits_for_nobody(host: Hosting) -> None:
    configs = [
        source_config(host.tiny("hung", "def initialize(message): pass")),
        source_config(host.tiny("good")),
        source_config(host.tiny("lazy"), auto_start=False),
        source_config(host.tiny("off"), enabled=False),
        source_config(host.server("bad", command=("no-such-program",))),
    ]
    with anyio.fail_after(LIMIT_S):
        await host.sources.load_clients({config.name: config for config in configs})
        assert host.sources.get_event_source_names() == ["hung", "good", "lazy", "off", "bad"]
        assert await host.sources.client("good").connection.settled()
        assert not await host.sources.client("bad").connection.settled()
    assert {name: host.sources.get_status(name) for name in ("hung", "good", "lazy", "off")} == {
        "hung": CONNECTING,
        "good": RUNNING,
        "lazy": STOPPED,
        "off": STOPPED,
    }
    assert host.sources.get_status("none") is None
    with pytest.raises(NotFound, match="no source is called 'none'; there are: bad, good, hung, lazy, off"):
        host.sources.client("none")
    clients = host.sources.get_clients()
    clients.clear()
    assert len(host.sources.get_clients()) == 5
    with anyio.fail_after(LIMIT_S):
        await host.sources.disconnect_all()
    assert {client.get_status() for client in host.sources.get_clients().values()} == {STOPPED}


@pytest.mark.anyio
async def test_removed_sources_are_stopped_and_forgotten(host: Hosting) -> None:
    for name in ("a", "b", "c"):
        host.source(host.tiny(name))
    await host.becomes("c", RUNNING)
    await host.sources.remove(name for name in ("a", "b"))
    assert host.sources.get_event_source_names() == ["c"]
    assert list(host.pool.connections) == ["c"]
