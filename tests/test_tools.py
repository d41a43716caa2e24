"""The tools, resources and prompts of all servers: found, called, and never in each other's way."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from hosting import LIMIT_S, QUICK, Hosting, hosting, until
from hypothesis import given
from hypothesis import strategies as st

from eventhost import tools as tools_room
from eventhost.config import ServerConfig, ServerKind
from eventhost.connections import EventSourceStatus
from eventhost.connections import connection as connection_room
from eventhost.errors import ActionError, ConnectionLost, NotFound
from eventhost.tools import HostedTool, public_names

RUNNING, STOPPED = EventSourceStatus.RUNNING, EventSourceStatus.STOPPED

TODO = """
todos = []
def add(title):
    todos.append(title)
    return text(len(todos))
TOOLS["add"] = add
TOOLS["fail"] = lambda: text("no such list", isError=True)
TOOLS["pid"] = lambda: text(os.getpid())
TOOLS["die"] = lambda: os._exit(3)
TOOLS["hang"] = lambda: None
"""


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_room, "FIRST_BACKOFF_S", 0.02)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Hosting]:
    async with hosting(tmp_path) as host:
        yield host


def load(host: Hosting, *configs: ServerConfig) -> None:
    host.tools.load_clients({config.name: config for config in configs})


def text_of(result: Any) -> str:
    assert not result.is_error, result
    return str(result.content[0].text)


async def tools_of(host: Hosting) -> list[HostedTool]:
    """The tools of all servers, each of which is asked for by its name."""
    with anyio.fail_after(LIMIT_S):
        return await host.tools.get_tools([f"{public_name(server)}__*" for server in host.pool.connections])


async def names(host: Hosting) -> list[str]:
    return [tool.name for tool in await tools_of(host)]


def public_name(server: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_-]", "_", server)


# --- names ----------------------------------------------------------------------------------------------------------

words = st.text("ab_-. ü", max_size=4) | st.text(max_size=4) | st.text("ab", min_size=50, max_size=70)
items = st.lists(st.tuples(words, words), max_size=12)


@given(items, st.randoms(use_true_random=False))
def test_public_names_are_valid_unique_and_independent_of_the_order(listed: list[tuple[str, str]], random: Any) -> None:
    public = public_names(listed)
    assert public.keys() == set(listed)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in public.values())
    assert len(set(public.values())) == len(public)
    random.shuffle(listed)
    assert public_names(listed) == public


@given(items, st.tuples(words, words))
def test_a_further_tool_changes_only_names_that_it_could_be_taken_for(
    listed: list[tuple[str, str]], further: tuple[str, str]
) -> None:
    before, after = public_names(listed), public_names([*listed, further])
    plain = public_names([further])[further]
    assert all(after[item] == name for item, name in before.items() if name != plain)


@pytest.mark.parametrize(
    ("server", "tool", "name"),
    [
        ("todo", "add", "todo__add"),
        ("my server", "list.all", "my_server__list_all"),
        ("tür", "auf", "t_r__auf"),
        ("s", "x" * 61, "s__" + "x" * 61),
    ],
)
def test_names_are_kept_where_they_are_valid(server: str, tool: str, name: str) -> None:
    assert public_names([(server, tool), ("other", tool)])[server, tool] == name


def test_a_tool_that_is_listed_twice_is_one() -> None:
    assert public_names([("todo", "add"), ("todo", "add")]) == {("todo", "add"): "todo__add"}


# --- listing and calling --------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_the_tools_of_clients_and_sources_are_listed_and_called(host: Hosting) -> None:
    load(host, host.tiny("todo", TODO))
    host.source(host.tiny("door", 'TOOLS["knock"] = lambda: text("who is there?")'))
    await host.becomes("door", RUNNING)
    assert await names(host) == [*(f"todo__{name}" for name in ("add", "fail", "pid", "die", "hang")), "door__knock"]
    [knock] = [tool for tool in await host.tools.get_tools() if tool.server == "door"]
    assert knock.tool.name == "knock"
    assert text_of(await host.tools.execute_tool("todo__add", {"title": "x"})) == "1"
    assert text_of(await host.tools.execute_tool("todo__add", {"title": "y"})) == "2"
    assert text_of(await host.tools.execute_tool("door__knock")) == "who is there?"


@pytest.mark.anyio
async def test_a_tools_own_failure_is_a_result(host: Hosting) -> None:
    load(host, host.tiny("todo", TODO))
    result = await host.tools.execute_tool("todo__fail")
    assert result.is_error
    assert result.content[0].text == "no such list"  # type: ignore[union-attr]


@pytest.mark.anyio
async def test_a_call_that_the_server_refuses_is_an_error_and_no_lost_connection(host: Hosting) -> None:
    load(host, host.tiny("todo", TODO))
    with pytest.raises(ActionError, match=r"todo__add: .*unexpected keyword argument 'colour'") as refused:
        await host.tools.execute_tool("todo__add", {"colour": "red"})
    assert refused.value.retry
    assert text_of(await host.tools.execute_tool("todo__add", {"title": "x"})) == "1"
    assert host.pool.connections["todo"].restarts == 0


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("code", "message", "again"),
    [
        (-32601, "no such method", False),
        (-32602, "Unknown tool: add", False),
        (-32603, "internal error", True),
        (-32600, "not now", True),
        (-32000, "busy", True),
        (42, "the list is full", True),
    ],
)
async def test_what_a_server_will_never_take_is_not_tried_again(
    host: Hosting, code: int, message: str, again: bool
) -> None:
    body = f"""
    TOOLS["add"] = lambda title: 1 / 0
    said = say
    def say(error=None, **message):
        said(**message, **({{"error": {{"code": {code}, "message": {message!r}}}}} if error else {{}}))
    """
    load(host, host.tiny("todo", body))
    with pytest.raises(ActionError, match=f"todo__add: {message}") as refused:
        await host.tools.execute_tool("todo__add", {"title": "x"})
    assert refused.value.retry is again


@pytest.mark.anyio
async def test_an_unknown_tool_is_not_found_and_the_error_lists_what_there_is(host: Hosting) -> None:
    with pytest.raises(NotFound, match=r"no tool is called 'todo__add'; there are: none"):
        await host.tools.execute_tool("todo__add")
    load(host, host.tiny("todo", TODO), host.tiny("calc", 'TOOLS["sum"] = lambda: text(1)'))
    for name in ("todo__subtract", "nowhere__add", "add", ""):
        with pytest.raises(NotFound, match=f"no tool is called '{name}'; there are: calc__sum, todo__add, "):
            await host.tools.execute_tool(name)


@pytest.mark.anyio
async def test_long_and_colliding_names_can_be_called(host: Hosting) -> None:
    body = """
    def echo(name): TOOLS[name] = lambda: text(name)
    for name in ("a b", "a_b", "a.b", "x" * 80): echo(name)
    """
    load(host, host.tiny("my", body), host.tiny("a" * 60, "TOOLS['long'] = lambda: text('long')"))
    tools = await tools_of(host)
    assert len({tool.name for tool in tools}) == 5
    for tool in tools:
        assert text_of(await host.tools.execute_tool(tool.name)) == tool.tool.name


@pytest.mark.anyio
async def test_a_tool_that_a_server_lists_twice_is_offered_once(host: Hosting) -> None:
    body = """
    add = {"name": "add", "inputSchema": {"type": "object"}}
    def tools(): return [{**add, "description": description} for description in ("first", "second")]
    TOOLS["add"] = lambda: text("added")
    """
    load(host, host.tiny("todo", body))
    [tool] = await tools_of(host)
    assert (tool.name, tool.tool.description) == ("todo__add", "first")
    assert text_of(await host.tools.execute_tool("todo__add")) == "added"


@pytest.mark.anyio
async def test_a_list_in_several_pages_is_read_to_its_end(host: Hosting) -> None:
    body = """
    TOOLS["t"] = lambda: text("t")
    def page(params):
        number = int(params.get("cursor", 0))
        more = {"nextCursor": str(number + 1)} if number < 3 else {}
        return {"tools": [{"name": f"t{number}", "inputSchema": {"type": "object"}}], **more}
    methods["tools/list"] = page
    """
    load(host, host.tiny("paged", body))
    assert await names(host) == [f"paged__t{number}" for number in range(4)]


@pytest.mark.anyio
async def test_a_list_without_an_end_is_not_read_for_ever(host: Hosting) -> None:
    body = """
    TOOLS["t"] = lambda: text("t")
    methods["tools/list"] = lambda params: {"tools": tools(), "nextCursor": "again"}
    """
    load(host, host.tiny("endless", body))
    assert await names(host) == ["endless__t"]


@pytest.mark.anyio
async def test_a_list_is_asked_for_again_only_when_it_changed(host: Hosting) -> None:
    body = """
    listed = 0
    def count():
        global listed
        listed += 1
        return [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]
    tools = count
    def grow():
        TOOLS["new"] = lambda: text("new")
        say(method="notifications/tools/list_changed")
        return text("ok")
    TOOLS["grow"], TOOLS["listed"] = grow, lambda: text(listed)
    """
    load(host, host.tiny("plant", body))
    for _ in range(3):
        assert await names(host) == ["plant__grow", "plant__listed"]
    assert text_of(await host.tools.execute_tool("plant__listed")) == "1"
    await host.tools.execute_tool("plant__grow")
    assert await names(host) == ["plant__grow", "plant__listed", "plant__new"]
    assert text_of(await host.tools.execute_tool("plant__listed")) == "2"


# --- starting and dying ---------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_client_that_does_not_start_by_itself_is_started_by_its_first_use(host: Hosting) -> None:
    lazy, off = host.tiny("lazy", TODO, auto_start=False), host.tiny("off", TODO, enabled=False)
    load(host, lazy, off, host.tiny("eager"))
    await host.becomes("eager", RUNNING)
    assert host.pool.connections["lazy"].status is STOPPED
    assert text_of(await host.tools.execute_tool("lazy__add", {"title": "x"})) == "1"
    assert "off__add" not in await names(host)
    assert host.pool.connections["off"].status is STOPPED
    with pytest.raises(ConnectionLost, match="off__add: off is stopped; start it, or enable it"):
        await host.tools.execute_tool("off__add")


@pytest.mark.anyio
async def test_a_source_that_was_stopped_by_hand_is_not_started_by_a_call(host: Hosting) -> None:
    client = host.source(host.tiny("door", TODO))
    await host.becomes("door", RUNNING)
    await client.disconnect()
    with pytest.raises(ConnectionLost, match="door is stopped"):
        await host.tools.execute_tool("door__add", {"title": "x"})
    assert client.get_status() is STOPPED


@pytest.mark.anyio
@pytest.mark.parametrize("auto_start", [True, False])
async def test_a_client_that_died_is_started_again_and_a_call_waits_for_it(host: Hosting, auto_start: bool) -> None:
    load(host, host.tiny("todo", TODO, auto_start=auto_start))
    pid = int(text_of(await host.tools.execute_tool("todo__pid")))
    os.kill(pid, signal.SIGKILL)
    await until(lambda: host.pool.connections["todo"].link is None)
    with anyio.fail_after(LIMIT_S):
        assert int(text_of(await host.tools.execute_tool("todo__pid"))) != pid


@pytest.mark.anyio
async def test_a_server_that_dies_during_a_call_is_told_as_such(host: Hosting) -> None:
    load(host, host.tiny("todo", TODO))
    with (
        anyio.fail_after(LIMIT_S),
        pytest.raises(ConnectionLost, match="todo ended while todo__die was running: exited"),
    ):
        await host.tools.execute_tool("todo__die")
    with anyio.fail_after(LIMIT_S):
        assert text_of(await host.tools.execute_tool("todo__add", {"title": "x"})) == "1"


@pytest.mark.anyio
async def test_a_call_that_is_not_answered_is_given_up(host: Hosting) -> None:
    load(host, host.tiny("todo", TODO))
    with anyio.fail_after(LIMIT_S):
        with pytest.raises(ConnectionLost, match=r"todo__hang did not answer within 0\.05 s"):
            await host.tools.execute_tool("todo__hang", timeout_s=0.05)
        assert text_of(await host.tools.execute_tool("todo__add", {"title": "x"})) == "1"


@pytest.mark.anyio
async def test_a_tool_of_a_server_that_does_not_come_up_is_told_with_the_reason(host: Hosting) -> None:
    load(host, host.tiny("bad", "sys.exit(3)", timings=replace(QUICK, startretries=1)), host.tiny("todo", TODO))
    await host.becomes("bad", EventSourceStatus.ERROR)
    with anyio.fail_after(LIMIT_S):
        with pytest.raises(ConnectionLost, match="bad__add: bad is error: exited with status 3"):
            await host.tools.execute_tool("bad__add")
        assert "todo__add" in await names(host)


@pytest.mark.anyio
async def test_a_server_that_hangs_delays_nobodys_call(host: Hosting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools_room, "CONNECT_TIMEOUT_S", 0.1)
    load(host, host.tiny("hung", "def initialize(message): pass"), host.tiny("todo", TODO))
    with anyio.fail_after(LIMIT_S):
        assert text_of(await host.tools.execute_tool("todo__add", {"title": "x"})) == "1"
        assert "todo__add" in await names(host)  # bounded by the time to connect


@pytest.mark.anyio
async def test_who_asks_for_what_there_is_does_not_wait_for_a_server_that_connects(
    host: Hosting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools_room, "CONNECT_TIMEOUT_S", 10 * LIMIT_S)
    slow = f"""
    TOOLS["add"] = lambda title: text(title)
    first = initialize
    def initialize(message):
        while not os.path.exists({str(host.root / "go")!r}): time.sleep(0.005)
        first(message)
    """
    load(host, host.tiny("slow", slow), host.tiny("todo", TODO))
    await host.becomes("todo", RUNNING)
    with anyio.fail_after(LIMIT_S):
        assert {tool.server for tool in await host.tools.get_tools()} == {"todo"}
        assert {tool.server for tool in await host.tools.get_tools(["todo__*", "*", "slo*"])} == {"todo"}
        assert await host.tools.get_resources() == []
        assert await host.tools.get_prompts() == []
        async with anyio.create_task_group() as tasks:
            found: list[HostedTool] = []

            async def ask() -> None:
                found.extend(await host.tools.get_tools(["slow__add"]))

            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            assert found == []
            (host.root / "go").touch()
        assert {tool.server for tool in found} == {"slow", "todo"}


@pytest.mark.anyio
async def test_to_ask_what_there_is_starts_a_client_that_does_not_start_by_itself(host: Hosting) -> None:
    load(host, host.tiny("lazy", TODO, auto_start=False))
    assert await host.tools.get_tools() == []
    await host.becomes("lazy", RUNNING)
    assert {tool.server for tool in await host.tools.get_tools()} == {"lazy"}


@pytest.mark.anyio
@pytest.mark.parametrize(
    "listing",
    ['{"tools": [{"name": 5}]}', '{"tools": 5}', "{}", "1 / 0", "None"],
    ids=["wrong", "wronger", "empty", "error", "silence"],
)
async def test_a_server_that_lists_nonsense_harms_no_other(
    host: Hosting, monkeypatch: pytest.MonkeyPatch, listing: str
) -> None:
    monkeypatch.setattr(tools_room, "LIST_TIMEOUT_S", 0.1)
    body = f'capabilities["tools"] = {{}}\nmethods["tools/list"] = lambda params: {listing}'
    load(host, host.tiny("odd", body), host.tiny("todo", TODO))
    await host.becomes("odd", RUNNING)
    assert "todo__add" in await names(host)
    with anyio.fail_after(LIMIT_S):
        assert text_of(await host.tools.execute_tool("todo__add", {"title": "x"})) == "1"
        assert await host.tools.get_resources() == []
        with pytest.raises((ConnectionLost, NotFound)):
            await host.tools.execute_tool("odd__x")


@pytest.mark.anyio
async def test_an_answer_that_contradicts_its_schema_is_an_error_of_that_call_alone(host: Hosting) -> None:
    body = """
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    def tools(): return [{"name": name, "inputSchema": {"type": "object"}, "outputSchema": schema} for name in TOOLS]
    TOOLS["wrong"] = lambda: text("x", structuredContent={"n": "five"})
    TOOLS["none"] = lambda: text("x")
    TOOLS["nonsense"] = lambda: {"content": 5}
    TOOLS["right"] = lambda: text("x", structuredContent={"n": 5})
    """
    load(host, host.tiny("calc", body))
    for name in ("wrong", "none", "nonsense"):
        with pytest.raises(ConnectionLost, match=f"calc__{name}: "):
            await host.tools.execute_tool(f"calc__{name}")
    assert (await host.tools.execute_tool("calc__right")).structured_content == {"n": 5}
    assert host.pool.connections["calc"].restarts == 0


@pytest.mark.anyio
async def test_a_client_that_was_removed_is_gone(host: Hosting) -> None:
    load(host, host.tiny("todo", TODO), host.tiny("calc", 'TOOLS["sum"] = lambda: text(1)'))
    assert len(await names(host)) == 6
    await host.tools.remove("todo")
    assert await names(host) == ["calc__sum"]
    with pytest.raises(NotFound, match="there are: calc__sum"):
        await host.tools.execute_tool("todo__add")
    with pytest.raises(NotFound):
        await host.tools.remove("todo")
    load(host, host.tiny("todo", TODO))
    assert text_of(await host.tools.execute_tool("todo__add", {"title": "x"})) == "1"


# --- resources and prompts ------------------------------------------------------------------------------------------

LIBRARY = """
capabilities.update(resources={}, prompts={})
resource = {"uri": "memo://shared", "name": "shared"}
own = {"uri": f"memo://{NAME}", "name": NAME}
methods["resources/list"] = lambda params: {"resources": [resource, own]}
def read(params):
    if params["uri"].endswith("secret"): raise PermissionError("locked")
    return {"contents": [{"uri": params["uri"], "text": f"from {NAME}"}]}
methods["resources/read"] = read
methods["prompts/list"] = lambda params: {"prompts": [{"name": "greet", "arguments": [{"name": "who"}]}]}
def greet(params):
    if params["name"] != "greet": raise LookupError(params["name"])
    return {"messages": [{"role": "user", "content": {"type": "text", "text": f"Hello {params['arguments']['who']}"}}]}
methods["prompts/get"] = greet
"""


def library(host: Hosting, name: str) -> ServerConfig:
    return host.tiny(name, f"NAME = {name!r}\n{LIBRARY}")


@pytest.mark.anyio
async def test_resources_of_all_servers_are_listed_and_read(host: Hosting) -> None:
    load(host, library(host, "one"), library(host, "two"), host.tiny("todo", TODO))
    for name in ("one", "two"):
        await host.becomes(name, RUNNING)
    resources = await host.tools.get_resources()
    assert [(hosted.server, str(hosted.resource.uri)) for hosted in resources] == [
        ("one", "memo://shared"),
        ("one", "memo://one"),
        ("two", "memo://shared"),
        ("two", "memo://two"),
    ]

    async def read(uri: str, **where: str) -> str:
        return str((await host.tools.read_resource(uri, **where)).contents[0].text)  # type: ignore[union-attr]

    assert await read("memo://two") == "from two"
    assert await read("memo://shared") == "from one"
    assert await read("memo://shared", server="two") == "from two"
    assert await read("memo://unlisted", server="two") == "from two"
    with pytest.raises(NotFound, match="no server lists the resource memo://unlisted"):
        await read("memo://unlisted")
    with pytest.raises(NotFound, match="no server is called 'three'; there are: one, two, todo"):
        await read("memo://one", server="three")
    with pytest.raises(ConnectionLost, match=r"memo://secret: PermissionError\('locked'\)"):
        await read("memo://secret", server="one")


@pytest.mark.anyio
async def test_prompts_of_all_servers_are_listed_and_filled_in(host: Hosting) -> None:
    load(host, library(host, "one"), library(host, "two"))
    result = await host.tools.get_prompt("two__greet", {"who": "Ada"})
    assert result.messages[0].content.text == "Hello Ada"  # type: ignore[union-attr]
    await host.becomes("one", RUNNING)
    assert [prompt.name for prompt in await host.tools.get_prompts()] == ["one__greet", "two__greet"]
    with pytest.raises(NotFound, match="no prompt is called 'three__greet'; there are: one__greet, two__greet"):
        await host.tools.get_prompt("three__greet")


@pytest.mark.anyio
async def test_tools_of_a_server_in_this_process_are_offered_too(host: Hosting) -> None:
    text = """
from mcp.server.mcpserver import MCPServer
server = MCPServer("calc")

@server.tool()
def add(a: int, b: int) -> int:
    return a + b

@server.prompt()
def greet(who: str) -> str:
    return f"Hello {who}"
"""
    (host.root / "inner_calc.py").write_text(text)
    load(host, host.server("calc", ServerKind.INPROCESS, module="inner_calc", auto_start=False))
    assert text_of(await host.tools.execute_tool("calc__add", {"a": 1, "b": 2})) == "3"
    assert (await host.tools.execute_tool("calc__add", {"a": "x", "b": 2})).is_error
    assert [prompt.name for prompt in await host.tools.get_prompts()] == ["calc__greet"]
