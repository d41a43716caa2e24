"""The host as an MCP server: everything the tool servers offer, in both eras, by every way in."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
import httpx2
import pytest
import structlog
from hosting import LIMIT_S, Hosting, hosting, until
from mcp import Client
from mcp.client.subscriptions import ToolsListChanged
from mcp_types import (
    ElicitResult,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    TextResourceContents,
    Tool,
    ToolListChangedNotification,
)
from test_web import FakeEnvironment

from eventhost.access import EVERYTHING, NOBODY, OWNER, Access, Caller
from eventhost.config import Protocol, ServerKind
from eventhost.serve import McpFace, OwnTool, Peer, ToolFailed
from eventhost.serve import face as face_room
from eventhost.tools import McpManager
from eventhost.web.server import Listening, serving

pytestmark = pytest.mark.anyio

SHOP = """
capabilities.update(resources={}, prompts={}, completions={})
TOOLS["add"] = lambda title="": text({"added": title})
TOOLS["fail"] = lambda: text("no such list", isError=True)
def grow():
    TOOLS["new"] = lambda: text("new")
    say(method="notifications/tools/list_changed")
    return text("ok")
TOOLS["grow"] = grow
def refuse(): raise LookupError("nothing here")
TOOLS["refuse"] = refuse
TOOLS["hang"] = lambda: None
given_up = []
def heard(message):
    if message.get("method") == "notifications/cancelled":
        given_up.append(message["params"]["requestId"])
TOOLS["given_up"] = lambda: text(given_up)
def shout():
    for level in ("debug", "warning"):
        say(method="notifications/message", params={"level": level, "data": {"said": level}})
    return text("ok")
TOOLS["shout"] = shout
def call(params):
    if params["name"] == "count":
        for step in (1, 2):
            token = params["_meta"]["progressToken"]
            say(method="notifications/progress", params={"progressToken": token, "progress": step, "total": 2})
        return text("counted")
    return TOOLS[params["name"]](**params.get("arguments", {}))
TOOLS["count"] = None
methods["tools/call"] = call
methods["resources/list"] = lambda params: {"resources": [{"uri": "shop://list", "name": "list"}]}
methods["resources/templates/list"] = lambda params: {
    "resourceTemplates": [{"uriTemplate": "shop://item/{id}", "name": "item"}]}
methods["resources/read"] = lambda params: {"contents": [{"uri": params["uri"], "text": "read " + params["uri"]}]}
methods["prompts/list"] = lambda params: {"prompts": [{"name": "greet", "arguments": [{"name": "who"}]}]}
methods["prompts/get"] = lambda params: {"messages": [
    {"role": "user", "content": {"type": "text", "text": "Hello " + params["arguments"]["who"]}}]}
methods["completion/complete"] = lambda params: {"completion": {"values": [params["argument"]["value"] + "!"]}}
"""


INFO = {"name": "test", "version": "1"}


NAMES = [f"shop__{name}" for name in ("add", "fail", "grow", "refuse", "hang", "given_up", "shout", "count")]


class Session:
    """A peer whose notifications are kept."""

    def __init__(self, face: McpFace, caller: Caller = OWNER) -> None:
        self.face = face
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.peer = Peer(caller, self._notify)
        self._number = 0

    async def _notify(self, method: str, params: dict[str, Any]) -> None:
        self.told.append((method, params))

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": params}
        response = await self.face.answer(message, self.peer)
        assert response is not None
        assert response["id"] == self._number
        return response

    async def result(self, method: str, **params: Any) -> dict[str, Any]:
        response = await self.ask(method, **params)
        assert "error" not in response, response
        return cast(dict[str, Any], response["result"])

    async def error(self, method: str, **params: Any) -> dict[str, Any]:
        return cast(dict[str, Any], (await self.ask(method, **params))["error"])


def passed_on(names: Iterable[str]) -> list[str]:
    """Those that are not the host's own."""
    return [name for name in names if "__" in name]


def told_of(session: Session) -> list[str]:
    """The methods of what it was told."""
    return [method for method, _ in session.told]


@asynccontextmanager
async def facing(host: Hosting) -> AsyncIterator[McpFace]:
    face = McpFace(cast(Any, SimpleNamespace(get_mcp_manager=lambda: host.tools)))
    async with face.running():
        yield face


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Hosting]:
    async with hosting(tmp_path) as host:
        yield host


async def shop(host: Hosting, body: str = "") -> None:
    config = host.tiny("shop", SHOP + body)
    host.tools.load_clients({config.name: config})
    await until(lambda: host.pool.connections["shop"].link)


# --- messages answered one by one -----------------------------------------------------------------------------------


async def test_a_session_needs_no_handshake(host: Hosting) -> None:
    await shop(host)
    async with facing(host) as face:
        names = [tool["name"] for tool in (await Session(face).result("tools/list"))["tools"]]
    assert names == NAMES


async def test_what_the_servers_offer_is_passed_on(host: Hosting) -> None:
    await shop(host)
    async with facing(host) as face:
        session = Session(face)
        begun = await session.result("initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo=INFO)
        called = await session.result("tools/call", name="shop__add", arguments={"title": "milk"})
        failed = await session.result("tools/call", name="shop__fail")
        listed = await session.result("resources/list")
        templates = await session.result("resources/templates/list")
        read = await session.result("resources/read", uri="shop://item/5")
        prompts = await session.result("prompts/list")
        prompt = await session.result("prompts/get", name="shop__greet", arguments={"who": "Ada"})
        ref = {"type": "ref/prompt", "name": "shop__greet"}
        completed = await session.result("completion/complete", ref=ref, argument={"name": "who", "value": "A"})
    assert begun["protocolVersion"] == "2025-06-18"
    assert begun["serverInfo"]["name"] == "eventhost"
    assert called["content"][0]["text"] == '{"added": "milk"}'
    assert failed["isError"]
    assert [resource["uri"] for resource in listed["resources"]] == ["shop://list"]
    assert [template["uriTemplate"] for template in templates["resourceTemplates"]] == ["shop://item/{id}"]
    assert read["contents"][0]["text"] == "read shop://item/5"
    assert [prompt["name"] for prompt in prompts["prompts"]] == ["shop__greet"]
    assert prompt["messages"][0]["content"]["text"] == "Hello Ada"
    assert completed["completion"]["values"] == ["A!"]


async def test_what_cannot_be_answered_is_a_json_rpc_error(host: Hosting) -> None:
    await shop(host)
    async with facing(host) as face:
        session = Session(face)
        assert (await session.error("no/such"))["code"] == -32601
        unknown = await session.error("tools/call", name="shop__subtract")
        assert unknown["code"] == -32602
        assert "no tool is called 'shop__subtract'; there are: shop__add" in unknown["message"]
        assert (await session.error("tools/call", arguments={}))["code"] == -32602
        assert (await session.error("resources/read", uri="shop:/none"))["code"] == -32002
        assert (await session.error("prompts/get", name="shop__bye"))["code"] == -32602
        refused = await session.error("tools/call", name="shop__refuse")
        assert (refused["code"], refused["message"]) == (-32000, "LookupError('nothing here')")
        for message in ({}, {"jsonrpc": "2.0", "id": 5}, {"jsonrpc": "1.0", "id": 5, "method": "ping"}):
            response = await face.answer(message, session.peer)
            assert response is not None
            assert response["error"]["code"] == -32600
            assert response["id"] == message.get("id")
        assert await face.answer({"jsonrpc": "2.0", "id": 5, "result": {}}, session.peer) is None
        assert await face.answer({"jsonrpc": "2.0", "method": "notifications/initialized"}, session.peer) is None


async def test_a_tool_whose_server_cannot_be_reached_has_failed(host: Hosting) -> None:
    await shop(host)
    async with facing(host) as face:
        session = Session(face)
        await session.result("tools/list")
        await host.pool.connections["shop"].stop()
        result = await session.result("tools/call", name="shop__add")
    assert result["isError"]
    assert "shop is stopped" in result["content"][0]["text"]


async def test_a_modern_message_is_answered_as_its_era_has_it(host: Hosting) -> None:
    await shop(host)
    async with facing(host) as face:
        session = Session(face)
        meta = {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        result = await session.result("server/discover", _meta=meta)
        missing = await session.error("resources/read", uri="shop:/none", _meta=meta)
        incomplete = await session.error("tools/list", _meta={"io.modelcontextprotocol/protocolVersion": "2026-07-28"})
    assert result["resultType"] == "complete"
    assert result["capabilities"]["tools"] == {"listChanged": True}
    assert (missing["code"], incomplete["code"]) == (-32602, -32602)


async def test_a_call_that_is_given_up_has_no_response_and_its_server_is_told(host: Hosting) -> None:
    await shop(host)
    responses: list[dict[str, Any] | None] = []
    async with facing(host) as face:
        session = Session(face)
        params = {"name": "shop__hang"}

        async def call() -> None:
            message = {"jsonrpc": "2.0", "id": "a", "method": "tools/call", "params": params}
            responses.append(await face.answer(message, session.peer))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await until(lambda: host.pool.connections["shop"].link and face._exchanges._running)
            cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "a"}}
            assert await face.answer(cancelled, session.peer) is None
        assert responses == [None]
        with anyio.fail_after(LIMIT_S):
            while (await session.result("tools/call", name="shop__given_up"))["content"][0]["text"] == "[]":
                await anyio.sleep(0.003)


async def test_progress_is_passed_on_to_whom_it_is_for(host: Hosting) -> None:
    await shop(host)
    async with facing(host) as face:
        session, other = Session(face), Session(face)
        await other.result("tools/list")
        await session.result("tools/call", name="shop__count", _meta={"progressToken": "mine"})
    assert [params for method, params in session.told if method == "notifications/progress"] == [
        {"progressToken": "mine", "progress": 1, "total": 2},
        {"progressToken": "mine", "progress": 2, "total": 2},
    ]
    assert other.told == []


# --- changes --------------------------------------------------------------------------------------------------------


async def test_sessions_are_told_when_lists_change_and_when_servers_come_and_go(host: Hosting) -> None:
    await shop(host)
    async with facing(host) as face:
        session = Session(face)
        await session.result("tools/call", name="shop__grow")
        await until(lambda: ("notifications/tools/list_changed", {}) in session.told)
        assert "shop__new" in [tool["name"] for tool in (await session.result("tools/list"))["tools"]]
        session.told.clear()
        await host.pool.connections["shop"].stop()
        kinds = ("tools", "resources", "prompts")
        await until(lambda: {f"notifications/{kind}/list_changed" for kind in kinds} <= set(told_of(session)))
        session.told.clear()
        await session.peer.aclose()
        host.pool.start(host.pool.connections["shop"])
        other = Session(face)
        await other.result("ping")
        await until(lambda: ("notifications/tools/list_changed", {}) in other.told)
    assert session.told == []


async def test_a_session_that_cannot_be_told_is_left_out_until_it_is_heard_of_again(
    host: Hosting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(face_room, "_TELL_S", 0.01)
    async with facing(host) as face:
        session, stuck, broken = Session(face), Session(face), Session(face)

        async def never(method: str, params: dict[str, Any]) -> None:
            await anyio.sleep_forever()

        async def fail(method: str, params: dict[str, Any]) -> None:
            raise OSError("gone")

        stuck.peer.notify, broken.peer.notify = never, fail
        for each in (session, stuck, broken):
            await each.result("ping")
        with anyio.fail_after(LIMIT_S):
            await face.lists_changed("tools")
        assert told_of(session) == ["notifications/tools/list_changed"]
        assert [each.peer.told_of_changes for each in (session, stuck, broken)] == [True, False, False]
        await stuck.result("ping")
        assert stuck.peer.told_of_changes


async def test_sessions_hear_what_tool_servers_log_from_the_level_on_that_they_ask_for(host: Hosting) -> None:
    await shop(host)
    async with facing(host) as face:
        session, deaf = Session(face), Session(face)
        await deaf.result("ping")
        await session.result("logging/setLevel", level="info")
        await session.result("tools/call", name="shop__shout")
        await until(lambda: session.told)
    assert session.told == [
        ("notifications/message", {"level": "warning", "logger": "shop", "data": {"said": "warning"}})
    ]
    assert deaf.told == []


WATCHED = """
capabilities["resources"] = {"subscribe": True}
subscribed = []
def take(params):
    subscribed.append(params["uri"])
    return {}
def leave(params):
    subscribed.remove(params["uri"])
    return {}
methods.update({"resources/subscribe": take, "resources/unsubscribe": leave})
def touch():
    for uri in subscribed:
        say(method="notifications/resources/updated", params={"uri": uri})
    return text(subscribed)
TOOLS["touch"] = touch
"""

MODERN_WATCHED = """
from mcp.server.lowlevel import Server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ResourceUpdated
from mcp_types import CallToolResult, ListResourcesResult, ListToolsResult, Resource, TextContent, Tool

bus = InMemorySubscriptionBus()

async def tools(ctx, params):
    return ListToolsResult(tools=[Tool(name="touch", input_schema={"type": "object"})])

async def call(ctx, params):
    await bus.publish(ResourceUpdated("shop://list"))
    uris = ["shop://list"] * (len(bus._listeners) - 1)  # one more listens for its lists
    return CallToolResult(content=[TextContent(text=json.dumps(uris))])

async def resources(ctx, params):
    return ListResourcesResult(resources=[Resource(uri="shop://list", name="list")])

server = Server("shop", version="1", on_list_tools=tools, on_call_tool=call, on_list_resources=resources,
                on_subscriptions_listen=ListenHandler(bus))
"""


@pytest.mark.parametrize("era", ["handshake", "modern"])
async def test_updates_of_tool_servers_resources_reach_those_who_subscribed(host: Hosting, era: str) -> None:
    if era == "modern":
        (host.root / "watched_shop.py").write_text("import json\n" + MODERN_WATCHED)
        config = host.server("shop", ServerKind.INPROCESS, module="watched_shop", protocol=Protocol.AUTO)
        host.tools.load_clients({config.name: config})
        await until(lambda: host.pool.connections["shop"].link)
    else:
        await shop(host, WATCHED)

    async with facing(host) as face:
        session, other = Session(face), Session(face)
        await other.result("ping")

        async def subscribed() -> list[str]:
            result = await session.result("tools/call", name="shop__touch")
            return cast(list[str], json.loads(result["content"][0]["text"]))

        async def becomes(wanted: list[str]) -> None:
            with anyio.fail_after(LIMIT_S):
                while await subscribed() != wanted:
                    await anyio.sleep(0.003)

        assert await subscribed() == []
        await session.result("resources/subscribe", uri="shop://list")
        await becomes(["shop://list"])
        await until(lambda: ("notifications/resources/updated", {"uri": "shop://list"}) in session.told)
        await session.peer.aclose()
        await becomes([])
    assert other.told == []


# --- what is the host's own -----------------------------------------------------------------------------------------


class Clock:
    """Resources of the host's own."""

    def list(self) -> list[Resource]:
        return [Resource(uri="clock://now", name="now")]

    def templates(self) -> list[ResourceTemplate]:
        return [ResourceTemplate(uri_template="clock://{zone}", name="zone")]

    async def read(self, uri: str, peer: Peer) -> ReadResourceResult | None:
        if not uri.startswith("clock://"):
            return None
        return ReadResourceResult(contents=[TextResourceContents(uri=uri, text=f"noon, {peer.caller.name}")])


def own_tool(name: str, access: Access, call: Any) -> OwnTool:
    return OwnTool(Tool(name=name, description=name, input_schema={"type": "object"}), access, call)


async def test_what_is_the_hosts_own_stands_beside_what_tool_servers_offer(host: Hosting) -> None:
    await shop(host)

    async def greet(arguments: dict[str, Any], peer: Peer) -> dict[str, Any]:
        return {"hello": arguments["who"], "caller": peer.caller.name}

    async def fail(arguments: dict[str, Any], peer: Peer) -> str:
        raise ToolFailed("no such pattern; write a type")

    async with facing(host) as face:
        face.own.tool(own_tool("greet", Access.READ, greet))
        face.own.tool(own_tool("fail", Access.READ, fail))
        face.own.resources(Clock())
        session = Session(face, Caller("bob", "key", frozenset({Access.READ})))
        names = [tool["name"] for tool in (await session.result("tools/list"))["tools"]]
        greeted = await session.result("tools/call", name="greet", arguments={"who": "Ada"})
        failed = await session.result("tools/call", name="fail")
        uris = [resource["uri"] for resource in (await session.result("resources/list"))["resources"]]
        shapes = await session.result("resources/templates/list")
        read = await session.result("resources/read", uri="clock://now")
    assert names == ["greet", "fail", *NAMES]
    assert greeted["structuredContent"] == {"hello": "Ada", "caller": "bob"}
    assert json.loads(greeted["content"][0]["text"]) == greeted["structuredContent"]
    assert failed["isError"]
    assert failed["content"][0]["text"] == "no such pattern; write a type"
    assert uris == ["clock://now", "shop://list"]
    assert [shape["uriTemplate"] for shape in shapes["resourceTemplates"]] == ["clock://{zone}", "shop://item/{id}"]
    assert read["contents"][0]["text"] == "noon, bob"


async def test_who_may_only_read_calls_nothing_that_acts(host: Hosting) -> None:
    await shop(host)

    async def emit(arguments: dict[str, Any], peer: Peer) -> str:
        return "emitted"

    async with facing(host) as face:
        face.own.tool(own_tool("emit", Access.PUBLISH, emit))
        reader = Session(face, Caller("bob", "key", frozenset({Access.READ})))
        writer = Session(face, Caller("eve", "key", frozenset({Access.PUBLISH, Access.READ})))
        nobody = Session(face, NOBODY)
        for name in ("emit", "shop__add"):
            refused = await reader.error("tools/call", name=name)
            assert refused["message"] == f"{name} asks for the scope publish; the key 'bob' has read"
            assert not (await writer.result("tools/call", name=name)).get("isError")
        assert "asks for the scope read" in (await nobody.error("tools/list"))["message"]


async def test_who_called_what_with_which_result_is_told_and_with_what_is_not(host: Hosting) -> None:
    await shop(host)
    async with facing(host) as face:
        session = Session(face, Caller("bob", "key", frozenset({Access.READ, Access.PUBLISH})))
        with structlog.testing.capture_logs() as logs:
            await session.result("tools/call", name="shop__add", arguments={"title": "a secret"})
            await session.result("tools/call", name="shop__fail")
            await session.error("tools/call", name="shop__refuse")
            await session.result("resources/read", uri="shop://list")
    told = [entry for entry in logs if entry["event"] == "mcp_request"]
    assert [(entry["method"], entry["name"], entry["result"]) for entry in told] == [
        ("tools/call", "shop__add", "ok"),
        ("tools/call", "shop__fail", "failed"),
        ("tools/call", "shop__refuse", -32000),
        ("resources/read", "shop://list", "ok"),
    ]
    assert {(entry["caller"], entry["how"], entry["log_level"]) for entry in told} == {("bob", "key", "info")}
    assert "a secret" not in repr(logs)


async def test_subscribers_of_a_resource_are_told_and_no_others(host: Hosting) -> None:
    async with facing(host) as face:
        session, other = Session(face), Session(face)
        await other.result("ping")
        await session.result("resources/subscribe", uri="clock://now")
        assert face.watched() == {"clock://now"}
        await face.resource_updated("clock://now")
        await face.resource_updated("clock://then")
        assert session.told == [("notifications/resources/updated", {"uri": "clock://now"})]
        await session.result("resources/unsubscribe", uri="clock://now")
        await face.resource_updated("clock://now")
        assert len(session.told) == 1
        assert face.watched() == frozenset()
    assert other.told == []


async def test_what_a_peer_has_subscribed_to_ends_with_it(host: Hosting) -> None:
    ended = []

    @dataclass
    class Ending:
        name: str

        async def aclose(self) -> None:
            ended.append(self.name)
            if self.name == "bad":
                raise RuntimeError("cannot be ended")

    async with facing(host) as face:
        session, staying = Session(face), Session(face)
        for each in (session, staying):
            await each.result("ping")
        session.peer.subscriptions.update(bad=Ending("bad"), good=Ending("good"))
        staying.peer.subscriptions["last"] = Ending("last")
        await session.peer.aclose()
        await session.peer.aclose()
        assert ended == ["bad", "good"]
        assert face.peers == {staying.peer}
    assert ended == ["bad", "good", "last"]


# --- Streamable HTTP, and lines -------------------------------------------------------------------------------------


@dataclass
class Environment(FakeEnvironment):
    """One with tool servers."""

    tools: McpManager | None = None

    def get_mcp_manager(self) -> McpManager:
        assert self.tools is not None
        return self.tools


@asynccontextmanager
async def listening(host: Hosting) -> AsyncIterator[Listening]:
    environment = Environment(host.root, bus=host.bus, tools=host.tools)
    async with serving(cast(Any, environment)) as listening:
        yield listening


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_a_client_of_either_era_is_served_over_http(host: Hosting, mode: str) -> None:
    await shop(host)
    async with listening(host) as place, Client(f"{place.url}/mcp", mode=mode) as client:
        tools = passed_on(tool.name for tool in (await client.list_tools()).tools)
        called = await client.call_tool("shop__add", {"title": "milk"})
    assert tools == NAMES
    assert called.content[0].text == '{"added": "milk"}'


async def conformance_server(host: Hosting) -> None:
    shutil.copy(Path(__file__).parent / "conformance" / "tool_server.py", host.root / "asking_server.py")
    config = host.server("asks", ServerKind.INPROCESS, module="asking_server:server", protocol=Protocol.AUTO)
    host.tools.load_clients({config.name: config})
    await until(lambda: host.pool.connections["asks"].link)


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_a_tool_server_can_ask_its_caller_in_the_callers_era(host: Hosting, mode: str) -> None:
    await conformance_server(host)

    async def answer(context: Any, params: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"name": "Ada"})

    async with listening(host) as place:
        async with Client(f"{place.url}/mcp", mode=mode, elicitation_callback=answer) as client:
            result = await client.call_tool("asks__test_input_required_result_elicitation")
            assert result.content[0].text == "Hello, Ada!"
        async with Client(f"{place.url}/mcp", mode=mode) as client:
            result = await client.call_tool("asks__test_input_required_result_capabilities")
            assert result.content[0].text == "nothing, or enough, could be asked"


async def test_changes_reach_a_session_of_the_handshake_era_on_its_stream(host: Hosting) -> None:
    await shop(host)
    told: list[Any] = []

    async def take(message: Any) -> None:
        told.append(message)

    async with (
        listening(host) as place,
        Client(f"{place.url}/mcp", mode="legacy", message_handler=take) as client,
    ):
        await client.call_tool("shop__grow")
        await until(lambda: any(isinstance(message, ToolListChangedNotification) for message in told))
        assert "shop__new" in [tool.name for tool in (await client.list_tools()).tools]


async def test_changes_reach_a_listener_of_the_modern_era(host: Hosting) -> None:
    await shop(host)
    async with (
        listening(host) as place,
        Client(f"{place.url}/mcp", mode="2026-07-28") as client,
        client.listen(tools_list_changed=True) as changes,
    ):
        await client.call_tool("shop__grow")
        with anyio.fail_after(LIMIT_S):
            assert isinstance(await anext(aiter(changes)), ToolsListChanged)


async def test_a_session_is_open_only_to_who_began_it(host: Hosting) -> None:
    async with facing(host) as face:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            name = dict(scope["headers"])[b"x-name"].decode()
            await face.http.serve(Caller(name, "key", EVERYTHING), scope, receive, send)

        accept = {"Accept": "application/json, text/event-stream"}
        begin = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": INFO}
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://host") as http:
            message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": begin}
            answer = await http.post("/mcp", json=message, headers={"X-Name": "bob", **accept})
            session = {"Mcp-Session-Id": answer.headers["mcp-session-id"], **accept}
            ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
            statuses = [
                (await http.post("/mcp", json=ping, headers={"X-Name": name, **session})).status_code
                for name in ("eve", "bob")
            ]
    assert answer.status_code == 200
    assert statuses == [404, 200]


async def test_open_streams_do_not_hold_up_the_end_of_the_host(host: Hosting) -> None:
    await shop(host)
    async with AsyncExitStack() as stack:
        with anyio.fail_after(LIMIT_S):
            async with listening(host) as place:
                http = await stack.enter_async_context(httpx2.AsyncClient(base_url=place.url, timeout=None))
                begin = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": INFO}
                message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": begin}
                accept = {"Accept": "application/json, text/event-stream"}
                answer = await http.post("/mcp", json=message, headers=accept)
                session = {"Mcp-Session-Id": answer.headers["mcp-session-id"], **accept}
                stream = await stack.enter_async_context(http.stream("GET", "/mcp", headers=session))
                assert stream.status_code == 200
