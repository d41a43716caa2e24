"""The host as an MCP server: everything the tool servers offer, in both eras, by every way in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from mcp import Client

from eventhost.access import OWNER, Caller
from eventhost.serve import McpFace, Peer
from eventhost.tools import McpManager
from eventhost.web.server import Listening, serving
from tests.hosting import Hosting, hosting, until
from tests.test_web import FakeEnvironment

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
methods["resources/list"] = lambda params: {"resources": [{"uri": "shop://list", "name": "list"}]}
methods["resources/templates/list"] = lambda params: {
    "resourceTemplates": [{"uriTemplate": "shop://item/{id}", "name": "item"}]}
methods["resources/read"] = lambda params: {"contents": [{"uri": params["uri"], "text": "read " + params["uri"]}]}
methods["prompts/list"] = lambda params: {"prompts": [{"name": "greet", "arguments": [{"name": "who"}]}]}
methods["prompts/get"] = lambda params: {"messages": [
    {"role": "user", "content": {"type": "text", "text": "Hello " + params["arguments"]["who"]}}]}
methods["completion/complete"] = lambda params: {"completion": {"values": [params["argument"]["value"] + "!"]}}
"""


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
    assert names == ["shop__add", "shop__fail", "shop__grow", "shop__refuse"]


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


INFO = {"name": "test", "version": "1"}


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
        tools = [tool.name for tool in (await client.list_tools()).tools]
        called = await client.call_tool("shop__add", {"title": "milk"})
    assert tools == ["shop__add", "shop__fail", "shop__grow", "shop__refuse"]
    assert called.content[0].text == '{"added": "milk"}'
