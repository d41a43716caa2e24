"""Tools, resources and prompts over plain HTTP, and messages for whatever answers."""

from __future__ import annotations

import json
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from hosting import TINY, until
from mcp import MCPError
from sessions import ANN, BOB, READER, Served, request
from structlog.testing import capture_logs

from eventhost.access import OWNER, Caller
from eventhost.environment import ServerEnvironment
from eventhost.errors import ConnectionLost
from eventhost.tools import McpManager
from eventhost.web.app import create_app
from eventhost.wire import EMITTED

pytestmark = pytest.mark.anyio

LIMIT_S = 60

TODO = TINY.replace(
    "#BODY#",
    textwrap.dedent("""
        def add(title="nothing"):
            return text(f"added {title}")

        def fail():
            return text("the list is full", isError=True)

        def die():
            os._exit(1)

        TOOLS = {"add": add, "fail": fail, "die": die}
        notes = {"file:///notes/a b?x=1": "milk", "note://1": "bread"}
        capabilities["resources"] = capabilities["prompts"] = {}

        def prompt(params):
            topic = params.get("arguments", {}).get("topic")
            if topic is None:
                raise KeyError("topic")
            return {"messages": [{"role": "user", "content": {"type": "text", "text": f"Write on {topic}."}}]}

        methods["resources/list"] = lambda params: {"resources": [{"uri": uri, "name": uri} for uri in notes]}
        methods["resources/read"] = lambda params: {
            "contents": [{"uri": params["uri"], "mimeType": "text/plain", "text": notes[params["uri"]]}]}
        methods["prompts/list"] = lambda params: {
            "prompts": [{"name": "essay", "arguments": [{"name": "topic", "required": True}]}]}
        methods["prompts/get"] = prompt
    """),
)

FUNCTIONS = """
import asyncio

def shout(event):
    return event.payload["query"].upper() + event.payload["type"]

def broken(event):
    raise ValueError("no idea")
"""


def answering(function: str, **rule: Any) -> dict[str, Any]:
    once = {"python": f"functions:{function}", "retry": {"attempts": 1}}
    return {"name": function, "on": "USER_QUERY", "do": once, **rule}


@asynccontextmanager
async def hosted(root: Path, *rules: dict[str, Any], todo: bool = False) -> AsyncIterator[Served]:
    """A whole environment, and its application without the guard."""
    (root / "functions.py").write_text(FUNCTIONS)
    (root / "todo.py").write_text(TODO)
    clients = {"todo": {"type": "local", "command": ["python", "todo.py"]}} if todo else {}
    (root / "config.jsonc").write_text(json.dumps({"rules": list(rules), "mcp": {"clients": clients}}))
    with anyio.fail_after(LIMIT_S):
        async with ServerEnvironment.from_path(root) as environment:
            streams: set[anyio.CancelScope] = set()
            app = create_app(environment, streams)
            async with app.router.lifespan_context(app):
                yield Served(app, environment, app.state.face, app.state.sessions, streams)  # type: ignore[arg-type]


@pytest.fixture
async def todo(tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    async with hosted(tmp_path, todo=True) as host, host.client() as http:
        assert (await http.post("/mcp/tools/call", json={"name": "todo__add"})).status_code == 200
        yield http


# Tools, resources and prompts


async def test_tools_are_listed_under_their_public_names(todo: httpx2.AsyncClient) -> None:
    tools = (await todo.get("/mcp/tools")).json()["tools"]
    assert [tool["name"] for tool in tools] == ["todo__add", "todo__fail", "todo__die"]
    assert tools[0]["inputSchema"] == {"type": "object"}
    assert tools[0]["server"] == "todo"


async def test_a_tool_is_called(todo: httpx2.AsyncClient) -> None:
    body = {"name": "todo__add", "arguments": {"title": "milk"}}
    answer = (await todo.post("/mcp/tools/call", json=body)).json()
    assert answer["content"] == [{"type": "text", "text": "added milk"}]
    assert answer["isError"] is False


async def test_a_tools_own_failure_is_an_answer(todo: httpx2.AsyncClient) -> None:
    answer = await todo.post("/mcp/tools/call", json={"name": "todo__fail"})
    assert answer.status_code == 200
    assert answer.json()["isError"] is True


async def test_an_unknown_tool_is_not_found_and_it_is_said_what_there_is(todo: httpx2.AsyncClient) -> None:
    answer = await todo.post("/mcp/tools/call", json={"name": "todo__ad"})
    assert answer.status_code == 404
    assert "todo__add, todo__die, todo__fail" in answer.json()["error"]["message"]


@pytest.mark.parametrize("body", [{}, {"name": 3}, {"name": "todo__add", "arguments": []}])
async def test_a_call_that_makes_no_sense_is_refused(todo: httpx2.AsyncClient, body: dict[str, Any]) -> None:
    answer = await todo.post("/mcp/tools/call", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == -32602


async def test_a_server_that_dies_meanwhile_is_said_to_be_gone(todo: httpx2.AsyncClient) -> None:
    answer = await todo.post("/mcp/tools/call", json={"name": "todo__die"})
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == -32000


async def test_resources_are_listed_and_read(todo: httpx2.AsyncClient) -> None:
    resources = (await todo.get("/mcp/resources")).json()["resources"]
    assert [(each["uri"], each["server"]) for each in resources] == [
        ("file:///notes/a b?x=1", "todo"),
        ("note://1", "todo"),
    ]
    for path, text in [("note://1", "bread"), ("file:///notes/a%20b%3Fx=1", "milk")]:
        contents = (await todo.get(f"/mcp/resources/{path}")).json()["contents"]
        assert (contents[0]["text"], contents[0]["mimeType"]) == (text, "text/plain")


async def test_an_unknown_resource_is_not_found_and_it_is_said_what_there_is(todo: httpx2.AsyncClient) -> None:
    answer = await todo.get("/mcp/resources/note://2")
    assert answer.status_code == 404
    assert "note://1" in answer.json()["error"]["message"]
    assert (await todo.get("/mcp/resources/note://1?server=tudo")).status_code == 404


async def test_prompts_are_listed_and_filled_in(todo: httpx2.AsyncClient) -> None:
    prompts = (await todo.get("/mcp/prompts")).json()["prompts"]
    assert prompts[0]["name"] == "todo__essay"
    assert prompts[0]["arguments"] == [{"name": "topic", "required": True}]
    filled = (await todo.get("/mcp/prompts/todo__essay", params={"topic": "rain"})).json()
    assert filled["messages"][0]["content"]["text"] == "Write on rain."


async def test_a_prompt_without_an_argument_that_it_requires_is_refused_with_its_name(todo: httpx2.AsyncClient) -> None:
    answer = await todo.get("/mcp/prompts/todo__essay")
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == -32602
    assert "topic" in answer.json()["error"]["data"]["details"]


async def test_an_unknown_prompt_is_not_found_and_it_is_said_what_there_is(todo: httpx2.AsyncClient) -> None:
    answer = await todo.get("/mcp/prompts/essay")
    assert answer.status_code == 404
    assert "todo__essay" in answer.json()["error"]["message"]


@pytest.mark.parametrize(("code", "status"), [(-32602, 400), (-32002, 404), (-32603, 503)])
async def test_what_a_server_refuses_is_told_from_its_being_away(
    todo: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch, code: int, status: int
) -> None:
    async def refused(*asked: Any, **more: Any) -> None:
        raise ConnectionLost("todo says no") from MCPError(code, "no")

    monkeypatch.setattr(McpManager, "get_prompt", refused)
    monkeypatch.setattr(McpManager, "read_resource", refused)
    for path in ("/mcp/prompts/todo__essay?topic=rain", "/mcp/resources/note://1"):
        answer = await todo.get(path)
        assert answer.status_code == status
        assert "todo says no" in answer.json()["error"]["message"]


async def answered(stream: Served) -> Any:
    """What a request is answered; word of changed lists may come before it."""
    while (message := (await stream.read_until("message"))["data"])["type"] != "response":
        pass
    return message["content"]


async def test_a_session_reaches_the_tools_of_all_servers(tmp_path: Path) -> None:
    async with hosted(tmp_path, todo=True) as host, host.sse("s") as stream, host.client() as http:
        await stream.read_until("connected")
        call = request("tools/call", 1, name="todo__add", arguments={"title": "eggs"})
        assert (await http.post("/sse/send/s", json=call)).status_code == 200
        content = await answered(stream)
        assert content["id"] == 1
        assert content["result"]["content"][0]["text"] == "added eggs"
        await http.post("/sse/send/s", json=[request("tools/list", "a"), request("no/such", "b")])
        listed, unknown = await answered(stream)
        assert "todo__add" in {tool["name"] for tool in listed["result"]["tools"]}
        assert unknown["error"]["code"] == -32601


async def test_a_session_that_subscribes_is_notified_of_events_until_it_ends(tmp_path: Path) -> None:
    async with hosted(tmp_path) as host, host.sse("s", type="none") as stream, host.client() as http:
        await stream.read_until("connected")
        call = request("tools/call", 1, name="subscribe_event", arguments={"eventType": "door.*"})
        await http.post("/sse/send/s", json=call)
        await answered(stream)
        await host.environment.publish_event({"type": "door.opened"})
        said = (await stream.read_until("message"))["data"]
        assert said["type"] == "notification"
        assert said["content"]["method"] == EMITTED
        assert said["content"]["params"]["data"]["type"] == "door.opened"
        before = host.environment.bus.statistics().subscriptions
        await http.delete("/sse/disconnect/s")
        await until(lambda: host.environment.bus.statistics().subscriptions < before)


# Messages for whatever answers


async def ask(host: Served, caller: Caller = OWNER, **body: Any) -> httpx2.Response:
    async with host.client(caller) as http:
        return await http.post("/mirix/message", json=body)


async def test_a_message_is_replied_to_by_the_bound_rule(tmp_path: Path) -> None:
    async with hosted(tmp_path, answering("shout")) as host:
        async with host.sse("s") as stream:
            await stream.read()
            answer = (await ask(host, content="hello ", type="mail", session_id="s")).json()
            assert (answer["success"], answer["reply"], answer["rule"]) == (True, "HELLO mail", "shout")
            assert (answer["session_id"], answer["delivered"]) == ("s", True)
            message = (await stream.read_until("message"))["data"]
            assert message == {"id": answer["message_id"], "type": "reply", "content": "HELLO mail"}
        async with host.client() as http:
            explained = (await http.get(f"/events/{answer['event_id']}/explain")).json()
            query = json.dumps(explained)
        assert "USER_QUERY" in query


async def test_a_message_needs_no_session(tmp_path: Path) -> None:
    async with hosted(tmp_path, answering("shout")) as host:
        answers = [await ask(host, content="a"), await ask(host, content="b", session_id="nowhere")]
    assert [answer.json()["reply"] for answer in answers] == ["Auser_message", "Buser_message"]
    assert [answer.json()["delivered"] for answer in answers] == [False, False]


async def test_nobody_writes_into_anothers_session(tmp_path: Path) -> None:
    async with hosted(tmp_path, answering("shout")) as host, host.sse("s", ANN) as stream:
        await stream.read()
        assert (await ask(host, BOB, content="a", session_id="s")).status_code == 403
        assert (await ask(host, READER, content="a")).status_code == 403
        assert host.environment.bus.journal.head == 0


@pytest.mark.parametrize("body", [{}, {"content": ""}, {"content": 3}, {"content": "a", "session_id": "a b"}])
async def test_a_message_that_makes_no_sense_is_refused(tmp_path: Path, body: dict[str, Any]) -> None:
    async with hosted(tmp_path, answering("shout")) as host:
        assert (await ask(host, **body)).status_code == 400


async def test_it_is_said_when_no_rule_replies(tmp_path: Path) -> None:
    async with hosted(tmp_path) as host, host.client() as http:
        answer = await ask(host, content="hello")
        assert answer.status_code == 404
        assert "USER_QUERY" in answer.json()["error"]["message"]
        assert (await http.get("/mirix/status")).json()["status"] == "unavailable"


async def test_a_rule_that_fails_is_said_to_have_failed(tmp_path: Path) -> None:
    async with hosted(tmp_path, answering("broken")) as host:
        with capture_logs():
            answer = await ask(host, content="hello")
    assert answer.status_code == 503
    error = answer.json()["error"]
    assert error["code"] == -32000
    assert "no idea" in error["message"]
    assert error["data"]["rule"] == "broken"


async def test_who_waits_too_long_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with hosted(tmp_path, answering("shout")) as host:

        async def late(*query: Any, **more: Any) -> None:
            raise TimeoutError

        monkeypatch.setattr(host.environment, "handle_query", late)
        answer = await ask(host, content="hello")
    assert answer.status_code == 503
    assert "query.answered" in answer.json()["error"]["message"]


async def test_the_status_tells_which_rule_replies_and_how_it_fares(tmp_path: Path) -> None:
    async with hosted(tmp_path, answering("shout")) as host, host.client() as http:
        await ask(host, content="hello")
        status = (await http.get("/mirix/status")).json()
    assert (status["status"], status["event_type"]) == ("ready", "USER_QUERY")
    assert status["rules"][0]["name"] == "shout"
    assert status["rules"][0]["delivered"] == 1
