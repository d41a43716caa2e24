"""The kit's promises, spoken to in this process: events, both protocol eras, tools, and a serving's end."""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventhost.errors import ConfigError, ConnectionLost, EventRejected
from eventhost.kit import EventSource
from eventhost.kit import jsonrpc as jsonrpc_room
from eventhost.kit.ids import uuid7
from eventhost.kit.jsonrpc import LEGACY_VERSIONS
from eventhost.kit.outbox import MAX_UNACCEPTED, glob_matches
from eventhost.kit.service import MAX_PENDING
from eventhost.wire import ACCEPTED, ACK, EMITTED

# --- a peer written by hand, in this process -----------------------------------------------------------------------


class Peer:
    """The host's end of a conversation with a source that is served in this process."""

    def __init__(self) -> None:
        self._to_source: asyncio.Queue[bytes] = asyncio.Queue()
        self._heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.writes: list[bytes] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self._ids = 0

    async def receive(self) -> bytes:
        return await self._to_source.get()

    async def send(self, data: bytes) -> None:
        await self.gate.wait()
        self.writes.append(data)
        for line in data.splitlines():
            self._heard.put_nowait(json.loads(line))

    def write(self, data: bytes) -> None:
        self._to_source.put_nowait(data)

    def say(self, method: str, params: Any = None, **more: Any) -> None:
        message = {"jsonrpc": "2.0", "method": method, **more}
        self.write(json.dumps(message if params is None else {**message, "params": params}).encode() + b"\n")

    async def hear(self) -> dict[str, Any]:
        with anyio.fail_after(5):
            return await self._heard.get()

    def heard_nothing(self) -> bool:
        return self._heard.empty()

    async def ask(self, method: str, params: Any = None) -> dict[str, Any]:
        self._ids += 1
        self.say(method, params, id=self._ids)
        answer = await self.hear()
        assert answer.get("id") == self._ids, answer
        return answer

    async def call(self, tool: str, **arguments: Any) -> Any:
        answer = await self.ask("tools/call", {"name": tool, "arguments": arguments})
        assert "isError" not in answer["result"], answer
        return json.loads(answer["result"]["content"][0]["text"])

    async def event(self) -> dict[str, Any]:
        message = await self.hear()
        assert message["method"] == EMITTED, message
        return message["params"]["data"]

    def accept(self, *ids: str, rejected: Sequence[dict[str, str]] = ()) -> None:
        self.say(ACCEPTED, {"ids": list(ids), "rejected": list(rejected)})

    async def initialize(self, name: str = "eventhost", version: str = LEGACY_VERSIONS[0]) -> dict[str, Any]:
        client = {"name": name, "version": "1"}
        answer = await self.ask("initialize", {"protocolVersion": version, "capabilities": {}, "clientInfo": client})
        self.say("notifications/initialized")
        return answer["result"]


@asynccontextmanager
async def served(source: EventSource, **given: Any) -> AsyncIterator[Peer]:
    """`source`, served in this process until the block ends."""
    peer = Peer()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: source.serve(peer.receive, peer.send, **given))
        await settle()
        try:
            with anyio.fail_after(20):
                yield peer
        finally:
            peer.write(b"")


async def settle() -> None:
    """Let everything that can run do so."""
    for _ in range(20):
        await anyio.lowlevel.checkpoint()


# --- events ----------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_emit_returns_once_the_host_has_accepted() -> None:
    source = EventSource("door")
    async with served(source, config={}) as peer, anyio.create_task_group() as tasks:
        await peer.initialize()
        returned: list[str] = []

        async def emit() -> None:
            returned.append(await source.emit("door.opened", {"count": 1}, metadata={"floor": 2}))

        tasks.start_soon(emit)
        event = await peer.event()
        assert event["type"] == "door.opened"
        assert event["payload"] == {"count": 1}
        assert event["metadata"] == {"source": "door", "floor": 2}
        assert isinstance(event["timestamp"], int)
        await settle()
        assert returned == []
        peer.accept(event["id"])
        await settle()
        assert returned == [event["id"]]


@pytest.mark.anyio
async def test_a_rejected_event_raises_with_the_hosts_reason() -> None:
    source = EventSource("door")
    async with served(source, config={}) as peer, anyio.create_task_group() as tasks:
        await peer.initialize()

        async def refuse() -> None:
            event = await peer.event()
            peer.accept(rejected=[{"id": event["id"], "reason": "type: not among the configured"}])

        tasks.start_soon(refuse)
        with pytest.raises(EventRejected, match="not among the configured"):
            await source.emit("door.opened")


@pytest.mark.anyio
async def test_a_client_that_declares_the_capability_is_waited_for_too() -> None:
    source = EventSource("door")
    async with served(source, config={}) as peer, anyio.create_task_group() as tasks:
        capabilities = {"experimental": {ACK: {}}}
        client = {"name": "somebody", "version": "1"}
        params = {"protocolVersion": "2025-06-18", "capabilities": capabilities, "clientInfo": client}
        await peer.ask("initialize", params)
        peer.say("notifications/initialized")
        tasks.start_soon(source.emit, "door.opened")
        event = await peer.event()
        await settle()
        assert source._service is not None
        assert source._service.emitted == 0
        peer.accept(event["id"])


@pytest.mark.anyio
async def test_emit_returns_once_written_where_the_client_does_not_acknowledge() -> None:
    source = EventSource("door")
    async with served(source, config={}) as peer:
        await peer.initialize(name="inspector")
        peer.gate.clear()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(source.emit, "door.opened")
            await settle()
            assert source._service is not None
            assert source._service.emitted == 0
            peer.gate.set()
        assert (await peer.event())["type"] == "door.opened"


@pytest.mark.anyio
async def test_emit_waits_for_a_host_and_keeps_the_order() -> None:
    source = EventSource("door")
    async with served(source, config={}) as peer, anyio.create_task_group() as tasks:
        for count in range(10):
            tasks.start_soon(source.emit, "door.opened", {"count": count})
        await settle()
        assert peer.heard_nothing()
        await peer.initialize()
        events = [await peer.event() for _ in range(10)]
        assert [event["payload"]["count"] for event in events] == list(range(10))
        peer.accept(*(event["id"] for event in events))


@pytest.mark.anyio
async def test_events_emitted_together_go_out_in_one_write() -> None:
    source = EventSource("door")
    async with served(source, config={}) as peer, anyio.create_task_group() as tasks:
        await peer.initialize()
        await settle()
        peer.writes.clear()
        for _ in range(100):
            tasks.start_soon(source.emit, "door.opened")
        events = [await peer.event() for _ in range(100)]
        assert len(peer.writes) == 1
        peer.accept(*(event["id"] for event in events))


@pytest.mark.anyio
async def test_no_more_than_a_thousand_events_are_on_their_way() -> None:
    source = EventSource("door")
    async with served(source, config={}) as peer, anyio.create_task_group() as tasks:
        await peer.initialize()
        for _ in range(MAX_UNACCEPTED + 1):
            tasks.start_soon(source.emit, "door.opened")
        events = [await peer.event() for _ in range(MAX_UNACCEPTED)]
        await settle()
        assert peer.heard_nothing()
        peer.accept(events[0]["id"])
        events.append(await peer.event())
        peer.accept(*(event["id"] for event in events[1:]))


@pytest.mark.anyio
async def test_two_events_of_one_id_are_not_on_their_way_at_once() -> None:
    source = EventSource("door")
    async with served(source, config={}) as peer, anyio.create_task_group() as tasks:
        await peer.initialize()
        for payload in ({"n": 1}, {"n": 2}):
            tasks.start_soon(lambda payload=payload: source.emit("door.opened", payload, id="same"))
        assert (await peer.event())["payload"] == {"n": 1}
        await settle()
        assert peer.heard_nothing()
        peer.accept("same")
        assert (await peer.event())["payload"] == {"n": 2}
        peer.accept("same")


@pytest.mark.anyio
async def test_an_emit_that_was_given_up_leaves_room_for_others() -> None:
    source = EventSource("door")
    async with served(source, config={}) as peer:
        with anyio.move_on_after(0):
            await source.emit("door.opened", id="given up")
        await peer.initialize()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: source.emit("door.opened", id="kept"))
            assert (await peer.event())["id"] == "kept"
            peer.accept("kept")


@pytest.mark.anyio
async def test_an_emit_that_was_given_up_before_it_was_written_is_not_written() -> None:
    source = EventSource("door")
    async with served(source, config={}) as peer:
        await peer.initialize(name="inspector")
        await settle()
        peer.gate.clear()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: source.emit("door.opened", id="first"))
            await settle()
            with anyio.move_on_after(0):
                await source.emit("door.opened", id="given up")
            tasks.start_soon(lambda: source.emit("door.opened", id="kept"))
            await settle()
            peer.gate.set()
        assert [(await peer.event())["id"] for _ in range(2)] == ["first", "kept"]


@pytest.mark.anyio
async def test_a_host_that_goes_away_is_told_to_whoever_waits() -> None:
    source = EventSource("door")
    async with served(source, config={}) as peer:
        await peer.initialize()
        async with anyio.create_task_group() as tasks:

            async def leave() -> None:
                await peer.event()
                peer.write(b"")

            tasks.start_soon(leave)
            with pytest.raises(ConnectionLost):
                await source.emit("door.opened")
    with pytest.raises(ConnectionLost, match="not being served"):
        await source.emit("door.opened")


@pytest.mark.anyio
async def test_a_send_that_fails_ends_the_serving() -> None:
    source = EventSource("door")
    ended: list[str] = []

    @source.task
    async def watch() -> None:
        try:
            await source.emit("door.opened")
        except ConnectionLost as error:
            ended.append(str(error))
            raise

    peer = Peer()

    async def send(data: bytes) -> None:
        if EMITTED.encode() in data:
            raise ConnectionLost("broken pipe")
        await peer.send(data)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: source.serve(peer.receive, send, config={}))
        await peer.initialize()
    assert ended == ["the host has gone away"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "emission",
    [
        {"event_type": ""},
        {"event_type": None},
        {"event_type": "a", "payload": {"x": object()}},
        {"event_type": "a", "payload": {"x": float("nan")}},
        {"event_type": "a", "payload": "\ud800"},
        {"event_type": "a", "id": 7},
        {"event_type": "a", "metadata": "x"},
    ],
)
async def test_what_can_be_no_event_is_rejected_before_it_is_sent(emission: dict[str, Any]) -> None:
    source = EventSource("door")
    async with served(source, config={}) as peer:
        await peer.initialize()
        with pytest.raises(EventRejected):
            await source.emit(**emission)
        await settle()
        assert peer.heard_nothing()


@pytest.mark.anyio
async def test_subscriptions_filter_what_is_pushed_and_their_end_restores_all() -> None:
    source = EventSource("door", ["door.opened", "door.closed"])
    async with served(source, config={}) as peer:
        await peer.initialize(name="inspector")
        subscription = await peer.call("subscribe_event", eventType="door.c*")
        assert subscription["success"] is True
        await source.emit("door.opened")
        await source.emit("door.closed")
        assert (await peer.event())["type"] == "door.closed"
        ended = await peer.call("unsubscribe_event", subscriptionId=subscription["subscriptionId"])
        assert ended == {"success": True}
        await source.emit("door.opened")
        assert (await peer.event())["type"] == "door.opened"
        answer = await peer.ask("tools/call", {"name": "unsubscribe_event", "arguments": {"subscriptionId": "none"}})
        assert answer["result"]["isError"] is True


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("push", "config"), [(False, {}), (True, {"push": False}), (True, {"options": {"push": False}})]
)
async def test_a_source_that_is_polled_gathers_its_events(push: bool, config: dict[str, Any]) -> None:
    source = EventSource("door", push=push)
    async with served(source, config=config) as peer:
        initialized = await peer.initialize()
        assert "experimental" not in initialized["capabilities"]
        ids = [await source.emit("door.opened", {"n": n}) for n in range(3)]
        events = await peer.call("list_pending_events")
        assert [event["id"] for event in events] == ids
        assert events[2]["payload"] == {"n": 2}
        assert await peer.call("list_pending_events") == []
        for _ in range(MAX_PENDING + 2):
            await source.emit("door.opened")
        assert (await peer.call("get_source_status"))["eventsDropped"] == 2
        assert len(await peer.call("list_pending_events")) == MAX_PENDING


@pytest.mark.anyio
async def test_a_source_that_pushes_says_so_and_has_nothing_pending() -> None:
    source = EventSource("door")
    async with served(source, config={}) as peer:
        initialized = await peer.initialize(name="inspector")
        assert initialized["capabilities"]["experimental"] == {ACK: {}}
        await source.emit("door.opened")
        await peer.event()
        assert await peer.call("list_pending_events") == []


# --- JSON-RPC --------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"{nonsense", -32700),
        (b"\xff\xfe", -32700),
        (b"[" * 100_000, -32700),
        (b"7", -32600),
        (b"[]", -32600),
        (b'{"jsonrpc":"2.0","id":1}', -32600),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[1]}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"no/such"}', -32601),
        (b'{"jsonrpc":"2.0","id":1,"method":"server/discover"}', -32601),
        (b'{"jsonrpc":"2.0","id":1,"method":"initialize"}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"none"}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"emit_event","arguments":3}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"event-source://x"}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":{"level":"loud"}}', -32602),
    ],
)
async def test_a_wrong_message_gets_its_error_and_harms_nothing(line: bytes, code: int) -> None:
    async with served(EventSource("door"), config={}) as peer:
        peer.write(line + b"\n")
        assert (await peer.hear())["error"]["code"] == code
        assert (await peer.ask("ping"))["result"] == {}


@pytest.mark.anyio
async def test_responses_notifications_and_blank_lines_get_no_answer() -> None:
    async with served(EventSource("door"), config={}) as peer:
        peer.write(b'\n  \r\n{"jsonrpc":"2.0","id":1,"result":{}}\n{"jsonrpc":"2.0","id":1,"error":{"code":1}}\n')
        peer.say("notifications/unheard-of", {"a": 1})
        peer.say("notifications/cancelled", {"requestId": [1]})
        peer.accept("unknown")
        peer.say(ACCEPTED, {"ids": 3, "rejected": [4, {"id": [5]}]})
        assert (await peer.ask("ping"))["result"] == {}


@pytest.mark.anyio
async def test_messages_may_come_in_pieces_in_arrays_and_without_a_last_newline() -> None:
    async with served(EventSource("door"), config={}) as peer:
        for byte in b'{"jsonrpc":"2.0","id":"a","method":"ping"}\n':
            peer.write(bytes([byte]))
        assert (await peer.hear())["id"] == "a"
        peer.write(b'[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":2,"method":"ping"}]\n')
        assert [(await peer.hear())["id"] for _ in range(2)] == [1, 2]
        peer.write(b'{"jsonrpc":"2.0","id":"last","method":"ping"}')
        peer.write(b"")
        assert (await peer.hear())["id"] == "last"


@pytest.mark.anyio
async def test_a_line_may_be_big_but_not_boundless(monkeypatch: pytest.MonkeyPatch) -> None:
    source = EventSource("door")

    @source.tool()
    def measure(text: str) -> int:
        return len(text)

    async with served(source, config={}) as peer:
        assert await peer.call("measure", text="x" * 5_000_000) == 5_000_000
        monkeypatch.setattr(jsonrpc_room, "MAX_LINE_BYTES", 1000)
        peer.write(b"y" * 900)
        peer.write(b"y" * 900 + b"\n")
        assert (await peer.hear())["error"]["code"] == -32600
        assert await peer.call("measure", text="x") == 1


@pytest.mark.anyio
async def test_a_cancelled_call_gets_no_answer_and_others_go_on() -> None:
    source = EventSource("door")
    cancelled = asyncio.Event()

    @source.tool()
    async def wait_for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with served(source, config={}) as peer:
        peer.say("tools/call", {"name": "wait_for_ever"}, id="long")
        assert (await peer.ask("ping"))["result"] == {}
        peer.say("notifications/cancelled", {"requestId": "long"})
        await cancelled.wait()
        assert (await peer.ask("ping"))["result"] == {}


@pytest.mark.anyio
async def test_emit_event_as_a_tool_waits_for_acceptance_without_holding_up_the_host() -> None:
    source = EventSource("door")
    async with served(source, config={}) as peer:
        await peer.initialize()
        peer.say("tools/call", {"name": "emit_event", "arguments": {"type": "door.opened"}}, id=100)
        event = await peer.event()
        assert (await peer.ask("ping"))["result"] == {}
        peer.accept(event["id"])
        answer = await peer.hear()
        assert json.loads(answer["result"]["content"][0]["text"]) == {"success": True, "eventId": event["id"]}


@pytest.mark.anyio
@pytest.mark.parametrize("asked", [*LEGACY_VERSIONS, "2026-07-28", "1999-01-01"])
async def test_a_known_legacy_version_is_spoken_as_asked(asked: str) -> None:
    async with served(EventSource("door"), config={}) as peer:
        answered = (await peer.initialize(version=asked))["protocolVersion"]
        assert answered == (asked if asked in LEGACY_VERSIONS else LEGACY_VERSIONS[0])


@pytest.mark.anyio
async def test_a_modern_request_carries_its_version_and_gets_its_type() -> None:
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "eventhost", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    source = EventSource("door")
    async with served(source, config={}) as peer, anyio.create_task_group() as tasks:
        tasks.start_soon(source.emit, "door.opened")
        discovered = (await peer.ask("server/discover", {"_meta": meta}))["result"]
        assert discovered["supportedVersions"] == ["2026-07-28"]
        assert discovered["resultType"] == "complete"
        assert discovered["capabilities"]["experimental"] == {ACK: {}}
        event = await peer.event()
        await settle()
        assert source._service is not None
        assert source._service.emitted == 0  # a modern host acknowledges too
        peer.accept(event["id"])
        for method in ("ping", "logging/setLevel", "prompts/list"):
            assert (await peer.ask(method, {"_meta": meta}))["error"]["code"] == -32601
        other = {**meta, "io.modelcontextprotocol/protocolVersion": "2030-01-01"}
        error = (await peer.ask("tools/list", {"_meta": other}))["error"]
        assert error["code"] == -32022
        assert error["data"] == {"supported": ["2026-07-28"], "requested": "2030-01-01"}
        del meta["io.modelcontextprotocol/clientCapabilities"]
        assert (await peer.ask("tools/list", {"_meta": meta}))["error"]["code"] == -32602


# --- tools, log, configuration ---------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_an_authors_tools_answer_text_or_json_and_their_failures_are_their_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = EventSource("door")

    @source.tool(description="Greet", input_schema={"type": "object", "required": ["name"]})
    async def greet(name: str) -> str:
        return f"hello {name}"

    @source.tool()
    def numbers() -> list[int]:
        """One and two."""
        return [1, 2]

    @source.tool(name="break")
    def break_() -> None:
        raise KeyError("lost")

    with pytest.raises(ValueError, match="greet"):
        source.tool()(greet)
    with pytest.raises(ValueError, match="emit_event"):
        source.tool(name="emit_event")(numbers)

    async with served(source, config={}) as peer:
        listed = {tool["name"]: tool for tool in (await peer.ask("tools/list"))["result"]["tools"]}
        assert listed["greet"]["description"] == "Greet"
        assert listed["numbers"]["description"] == "One and two."
        assert listed["numbers"]["inputSchema"] == {"type": "object"}
        answer = await peer.ask("tools/call", {"name": "greet", "arguments": {"name": "Ada"}})
        assert answer["result"] == {"content": [{"type": "text", "text": "hello Ada"}]}
        assert await peer.call("numbers") == [1, 2]
        for name, arguments, reason in (
            ("break", {}, "KeyError: 'lost'"),
            ("greet", {}, "greet: the argument name is missing"),
            ("numbers", {"more": 1}, "TypeError"),
        ):
            result = (await peer.ask("tools/call", {"name": name, "arguments": arguments}))["result"]
            assert result["isError"] is True
            assert reason in result["content"][0]["text"]
    assert "KeyError" in capsys.readouterr().err


@pytest.mark.anyio
async def test_the_log_goes_to_the_host_at_the_level_it_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    source = EventSource("door")
    source.log("error", "nobody listens")
    with pytest.raises(ValueError, match="loud"):
        source.log("loud", "x")
    async with served(source, config={}) as peer:
        await peer.initialize()
        await settle()
        source.log("debug", "first")
        message = await peer.hear()
        assert message["method"] == "notifications/message"
        assert message["params"] == {"level": "debug", "logger": "door", "data": "first"}
        assert (await peer.ask("logging/setLevel", {"level": "warning"}))["result"] == {}
        source.log("info", "unwanted")
        source.log("error", "wanted")
        assert (await peer.hear())["params"]["data"] == "wanted"
    assert capsys.readouterr().err == "error: nobody listens\n"


@pytest.mark.anyio
async def test_config_and_state_dir_come_from_the_host_or_from_whoever_serves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MCP_SERVER_CONFIG", '{"interval": 7, "options": {"interval": 8, "path": "x"}}')
    monkeypatch.setenv("EVENTHOST_STATE_DIR", str(tmp_path / "host"))
    source = EventSource("door", ["door.opened", "bell.rung"])
    assert source.config["interval"] == 7
    assert source.options == {"interval": 8, "path": "x", "options": {"interval": 8, "path": "x"}}
    assert source.state_dir == tmp_path / "host"
    assert source.state_dir.is_dir()
    given = {"interval": 9, "eventTypes": ["door.*"]}
    async with served(source, config=given, state_dir=tmp_path / "given") as peer:
        assert source.config == given
        assert source.state_dir == tmp_path / "given"
        assert await peer.call("list_event_types") == ["door.opened"]
        assert await peer.call("get_source_status") == {"status": "running", "eventsEmitted": 0, "interval": 9}
    assert source.config["interval"] == 7
    monkeypatch.delenv("EVENTHOST_STATE_DIR")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert source.state_dir == tmp_path / "xdg" / "eventhost" / "door"
    for wrong in ("[1]", "{"):
        monkeypatch.setenv("MCP_SERVER_CONFIG", wrong)
        with pytest.raises(ConfigError, match="MCP_SERVER_CONFIG"):
            _ = EventSource("door").config


# --- serving ---------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_source_is_served_again_after_its_end_but_not_twice_at_once() -> None:
    source = EventSource("door")
    starts: list[str] = []
    ends: list[str] = []

    @source.task
    async def watch() -> None:
        starts.append("start")
        try:
            await asyncio.Event().wait()
        finally:
            await anyio.lowlevel.checkpoint()
            ends.append("end")

    for _ in range(2):
        async with served(source, config={}) as peer, anyio.create_task_group() as tasks:
            await peer.initialize()
            with pytest.raises(RuntimeError, match="already"):
                await source.serve(peer.receive, peer.send)
            tasks.start_soon(source.emit, "door.opened")
            peer.accept((await peer.event())["id"])
        assert len(starts) == len(ends)
    assert starts == ["start", "start"]


@pytest.mark.anyio
async def test_a_cancelled_serving_leaves_no_task_behind_and_lets_it_say_its_last_word() -> None:
    source = EventSource("door")
    ended = asyncio.Event()

    @source.task
    async def watch() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await source.emit("door.closed")
            ended.set()

    peer = Peer()
    before = asyncio.all_tasks()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: source.serve(peer.receive, peer.send, config={}))
        await peer.initialize(name="inspector")
        tasks.cancel_scope.cancel()
    assert ended.is_set()
    assert (await peer.event())["type"] == "door.closed"
    await settle()
    assert asyncio.all_tasks() == before


@pytest.mark.anyio
async def test_an_answer_that_is_being_written_when_the_end_comes_is_written_whole() -> None:
    source, peer = EventSource("door"), Peer()
    serving = anyio.CancelScope()

    async def serve() -> None:
        with serving:
            await source.serve(peer.receive, peer.send, config={})

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        peer.gate.clear()
        peer.say("ping", id="last")
        await settle()
        serving.cancel()
        await settle()
        peer.gate.set()
        assert (await peer.hear())["id"] == "last"


@pytest.mark.anyio
async def test_a_task_that_fails_ends_the_serving_with_its_exception() -> None:
    source = EventSource("door")
    cancelled = asyncio.Event()

    @source.task
    async def fail() -> None:
        await anyio.lowlevel.checkpoint()
        raise OSError("the door is gone")

    @source.task
    async def other() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    peer = Peer()
    with pytest.raises(OSError, match="the door is gone"):
        await source.serve(peer.receive, peer.send, config={})
    assert cancelled.is_set()

    @source.task
    def sync() -> None: ...

    with pytest.raises((TypeError, OSError)):
        await source.serve(peer.receive, peer.send, config={})


@pytest.mark.anyio
async def test_a_task_may_return_and_the_source_goes_on() -> None:
    source = EventSource("door")

    @source.task
    async def once() -> None:
        return

    async with served(source, config={}) as peer:
        await settle()
        assert (await peer.ask("ping"))["result"] == {}


# --- small laws ------------------------------------------------------------------------------------------------------


def test_ids_are_uuids_of_version_7_and_rise_even_when_the_clock_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now_ns)
    ids = [uuid7() for _ in range(10_000)]
    assert ids == sorted(set(ids))
    parsed = uuid.UUID(ids[0])
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)


@given(st.text("ab*", max_size=8), st.text("ab", max_size=12))
def test_a_glob_means_what_its_regular_expression_means(glob: str, text: str) -> None:
    pattern = ".*".join(map(re.escape, glob.split("*")))
    assert glob_matches(glob, text) == bool(re.fullmatch(pattern, text))


@given(st.lists(st.binary(max_size=6).map(lambda data: data.replace(b"x", b"\n"))))
def test_lines_are_the_same_however_they_are_cut(chunks: list[bytes]) -> None:
    lines = jsonrpc_room._Lines()
    cut = [line for chunk in chunks for line in lines.feed(chunk)]
    assert [*cut, lines.rest()] == b"".join(chunks).split(b"\n")
