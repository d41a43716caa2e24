"""The MCP tool source tells how a tool's answer changes, over stdio and HTTP, whether the server ends or the source."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import Instance, missing
from servers.listing import TOKEN, Listing
from source_process import LIMIT_S, Event, SourceProcess, source_process
from test_shipped_sources import modules_of
from test_tool_servers import modules_of_todo

from eventhost.kit.selection import Misshapen, canonical
from eventhost.kit.upstream import Unavailable

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "eventsources" / "mcp-tool"
LIST_SERVER = ROOT / "mcpservers" / "todo"
NEVER = "24h"

pytestmark = pytest.mark.anyio


@pytest.fixture
def listing(tmp_path: Path) -> Listing:
    return Listing(tmp_path / "listing")


class Around:
    """A source that looks at a listing's tool every 20 ms; `more` goes into the tool's options."""

    def __init__(self, listing: Listing, folder: Path) -> None:
        self.listing, self.state = listing, folder / "state"

    def config(self, *, server: Any = None, **more: Any) -> dict[str, Any]:
        tool = {"tool": "list", "items": "items", "key": "id", "every": 100, **more}
        return {"tools": [{"server": server or {"command": self.listing.command}, **tool}]}

    def source(self, **more: Any) -> Any:
        return source_process(SOURCE, self.config(**more), self.state)


@pytest.fixture
def around(listing: Listing, tmp_path: Path) -> Around:
    return Around(listing, tmp_path)


def items(*ids: int, **more: Any) -> list[dict[str, Any]]:
    return [{"id": number, **more} for number in ids]


def told(events: Sequence[Event]) -> list[Any]:
    """What happened, in short."""
    return [(event["type"].removeprefix("mcp-tool.list."), event["payload"]["key"]) for event in events]


async def upstream(source: SourceProcess, name: str = "list") -> dict[str, Any]:
    """What the status says of a tool."""
    (found,) = [one for one in (await source.call("get_source_status"))["upstreams"] if one["name"] == name]
    return dict(found)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


# What is told


async def test_the_todo_list_of_this_repository_is_told_as_its_entries_come_change_and_go(tmp_path: Path) -> None:
    server = {
        "command": ["python", str(LIST_SERVER / "server.py")],
        "environment": {"EVENTHOST_STATE_DIR": str(tmp_path)},
    }
    config = {
        "servers": {"todo": server},
        "tools": {"tool": "list", "name": "todo", "key": "id", "every": 100, "type": "todo.{change}"},
    }
    with modules_of_todo() as load:
        todo = load("todolist").TodoList(tmp_path / "todo.json")
    todo.add("there before")
    async with source_process(SOURCE, config, tmp_path / "state") as source:
        await source.logged("connected, 1 items")
        todo.add("milk")
        await source.count(1)
        todo.finish(2)
        await source.count(2)
        todo.remove(2)
        events = await source.count(3)
    milk = {"id": 2, "title": "milk", "done": False}
    finished = {**milk, "done": True}
    common = {"name": "todo", "tool": "list", "key": 2}
    assert [(event["type"], event["payload"]) for event in events] == [
        ("todo.created", {**common, "change": "created", "item": milk, "old": None, "changed": []}),
        ("todo.changed", {**common, "change": "changed", "item": finished, "old": milk, "changed": ["done"]}),
        ("todo.deleted", {**common, "change": "deleted", "item": None, "old": finished, "changed": []}),
    ]
    assert len({event["id"] for event in events}) == 3
    assert events[0]["metadata"] == {"source": "mcp-tool", "server": "todo"}


async def test_a_public_server_on_the_sdk_is_watched_unchanged(tmp_path: Path) -> None:
    if find_spec("mcp_server_time") is None:
        missing("mcp-server-time (pip install mcp-server-time)")
    config = {
        "tools": {
            "server": {"command": "python", "args": ["-m", "mcp_server_time"], "env": {"TZ": "UTC"}},
            "tool": "get_current_time",
            "arguments": {"timezone": "Asia/Tokyo"},
            "every": 200,
            "only": "datetime",
        }
    }
    async with source_process(SOURCE, config, tmp_path) as source:
        (event,) = await source.count(1)
    assert event["type"] == "mcp-tool.get_current_time.changed"
    assert event["payload"]["changed"] == ["datetime"]
    assert event["payload"]["item"]["timezone"] == "Asia/Tokyo"


async def test_a_large_list_is_told_whole_and_once_though_the_source_is_killed_while_it_tells(
    around: Around, listing: Listing
) -> None:
    wanted = 10_000
    listing.answer(items(*range(wanted), text="x" * 100))
    async with around.source(every=NEVER, first="tell") as source:
        source.accepts = lambda event: len(source.events) <= 3_300
        await source.count(3_400)
        source.kill()
        before = list(source.events)
    async with around.source(every=NEVER, first="tell") as source:
        await source.logged(f"connected, {wanted} items")
        after = list(source.events)
        assert source.peak_memory_bytes() < 250_000_000
    by_id = {event["id"]: event["payload"] for event in before}
    assert all(by_id.get(event["id"], event["payload"]) == event["payload"] for event in after)
    by_id |= {event["id"]: event["payload"] for event in after}
    assert sorted(payload["key"] for payload in by_id.values()) == list(range(wanted))


async def test_what_was_not_accepted_when_the_source_was_killed_is_told_again_under_its_id(
    around: Around, listing: Listing
) -> None:
    listing.answer(items(1))
    async with around.source() as source:
        await source.logged("connected")
        source.accepts = lambda event: False
        listing.answer(items(1, 2))
        (before,) = await source.count(1)
        source.kill()
    listing.answer(items(1))
    async with around.source() as source:
        created, deleted = await source.count(2)
    assert created == before
    assert told([created, deleted]) == [("created", 2), ("deleted", 2)]
    assert deleted["id"] != created["id"]


async def test_other_arguments_begin_anew_and_delete_nothing(around: Around, listing: Listing) -> None:
    listing.answer(items(1, 2))
    async with around.source(arguments={"state": "open"}) as source:
        await source.logged("connected, 2 items")
    listing.answer(items(3))
    async with around.source(arguments={"state": "closed"}) as source:
        await source.logged("connected, 1 items")
        listing.answer(items(3, 4))
        assert told(await source.count(1)) == [("created", 4)]
    assert {"state": "open"} in listing.said("called")


async def test_a_look_can_be_asked_for_beside_the_schedule(around: Around, listing: Listing) -> None:
    listing.answer(items(1))
    async with around.source(every=NEVER) as source:
        await source.logged("connected")
        listing.answer(items(1, 2))
        assert await source.call("look", name="list") == ["list"]
        assert told(await source.count(1)) == [("created", 2)]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "items", "next", "x"]), inner),
    max_leaves=12,
)


@given(
    structured=JSON,
    texts=st.lists(st.text(max_size=5) | JSON.map(json.dumps), max_size=3),
    options=st.fixed_dictionaries(
        {},
        optional={
            "items": st.sampled_from(["items", "items.0", "x"]),
            "key": st.sampled_from(["id", ["id", "x"]]),
            "ignore": st.just("x"),
            "empty": st.sampled_from(["null", "*"]),
            "pages": st.sampled_from(
                [{"argument": "a", "next": "next", "most": 3}, {"argument": "a", "from": 0, "more": "x"}]
            ),
        },
    ),
)
async def test_whatever_a_tool_answers_is_items_with_a_key_each_or_an_error_and_nothing_else(
    structured: Any, texts: list[str], options: dict[str, Any]
) -> None:
    with modules_of("mcp-tool") as load:
        results, tool = load("results"), {"server": {"command": "s"}, "tool": "list", **options}
        (watched,) = load("options").watched({"tools": [tool]})
        answer = results.Answer(structured, [{"type": "text", "text": text} for text in texts])

        async def call(arguments: Any) -> Any:
            return answer

        try:
            form, found = await results.read(watched, call)
        except (Misshapen, Unavailable):
            return
        keys = [canonical(key) for key, _ in found]
        assert len(set(keys)) == len(keys)
        assert form == "list" or keys == ["null"]


# A server that goes away


async def test_a_server_that_is_killed_is_started_again_and_what_changed_meanwhile_is_told(
    around: Around, listing: Listing
) -> None:
    listing.answer(items(1, 2))
    async with around.source(every=NEVER) as source:
        await source.logged("connected")
        listing.answer(items(2, 3))
        os.kill(listing.said("started")[0]["pid"], signal.SIGKILL)
        await source.logged("the server was killed by SIGKILL; trying again")
        events = await source.count(2)
        await source.logged("list: connected", times=2)
        assert (await upstream(source))["state"] == "connected"
    assert told(events) == [("created", 3), ("deleted", 1)]


async def test_a_server_that_dies_during_a_call_is_told_with_its_last_words(around: Around, listing: Listing) -> None:
    listing.answer(items(1))
    async with around.source() as source:
        await source.logged("connected")
        listing.set(dies="no more tulips")
        await source.logged("the server exited with status 3; its last words: no more tulips")
        assert (await upstream(source))["state"] == "reconnecting"
        listing.answer(items(1, 2))
        listing.set(dies=None)
        assert told(await source.count(1)) == [("created", 2)]


async def test_a_server_that_dies_at_its_start_is_told_with_its_last_words(around: Around) -> None:
    command = [sys.executable, "-c", "import no_such_module"]
    async with around.source(server={"command": command}) as source:
        await source.logged("the server exited with status 1; its last words: ModuleNotFoundError: No module named")


@asynccontextmanager
async def served(listing: Listing) -> AsyncIterator[Instance]:
    """The listing over HTTP."""
    server = Instance()
    try:
        await serve(server, listing)
        yield server
    finally:
        await anyio.to_thread.run_sync(server.remove)


async def serve(server: Instance, listing: Listing) -> None:
    def is_up() -> bool:
        try:
            return httpx2.get(f"http://127.0.0.1:{server.port}/mcp", timeout=5).status_code > 0
        except httpx2.HTTPError:
            return False

    command = [*listing.command, str(server.port)]
    await anyio.to_thread.run_sync(lambda: server.launch(command, is_up))


@pytest.mark.parametrize(("protocol", "how"), [("legacy", signal.SIGTERM), ("modern", signal.SIGKILL)])
async def test_over_http_a_server_that_is_stopped_or_killed_is_found_again(
    around: Around, listing: Listing, protocol: str, how: signal.Signals
) -> None:
    listing.answer(items(1))
    async with served(listing) as server:
        url = f"http://127.0.0.1:{server.port}/mcp"
        async with around.source(server={"url": url, "protocol": protocol}) as source:
            await source.logged("connected")
            listing.answer(items(1, 2))
            await source.count(1)
            await anyio.to_thread.run_sync(server.end, how)
            await source.logged("trying again until it works")
            listing.answer(items(1, 3))
            await serve(server, listing)
            events = await source.count(3)
    assert told(events) == [("created", 2), ("created", 3), ("deleted", 2)]


async def test_over_http_a_session_that_the_server_forgot_is_made_anew(around: Around, listing: Listing) -> None:
    listing.answer(items(1))
    async with (
        served(listing) as server,
        around.source(server={"url": f"http://127.0.0.1:{server.port}/mcp"}, every=NEVER) as source,
    ):
        await source.logged("connected")
        await anyio.to_thread.run_sync(server.end, signal.SIGTERM)
        listing.answer(items(1, 2))
        await serve(server, listing)
        await source.call("look")
        assert told(await source.count(1)) == [("created", 2)]


async def test_a_server_that_refuses_us_is_told_with_its_status_and_without_our_token(
    around: Around, listing: Listing
) -> None:
    listing.set(guarded=True)
    async with served(listing) as server:
        url = f"http://127.0.0.1:{server.port}/mcp"
        headers = {"Authorization": f"Bearer {TOKEN}-wrong"}
        async with around.source(server={"url": f"{url}?key=secret", "headers": headers}) as source:
            await source.logged("HTTP 401 Unauthorized")
            status = str(await upstream(source))
            assert url in source.log
        assert not any(secret in source.log + status for secret in ("key=secret", TOKEN))
        async with around.source(server={"url": url, "headers": {"Authorization": f"Bearer {TOKEN}"}}) as source:
            await source.logged("connected")


async def test_a_server_that_is_nowhere_is_told_and_tried_again(around: Around, listing: Listing) -> None:
    closed = Instance()
    try:
        async with around.source(server={"url": f"http://127.0.0.1:{closed.port}/mcp"}) as source:
            await source.logged(f"http://127.0.0.1:{closed.port}/mcp: All connection attempts failed")
    finally:
        closed.remove()
    async with around.source(server={"command": "no-such-program"}) as source:
        await source.logged("no-such-program cannot be started: No such file or directory; is it installed")


# A tool that fails


async def test_a_tool_that_fails_or_answers_nonsense_is_told_in_the_status_and_nothing_is_deleted(
    around: Around, listing: Listing
) -> None:
    listing.answer(items(1))
    server = {"command": listing.command, "environment": {"TOKEN": "tulip-in-a-variable"}}
    async with around.source(server=server) as source:
        await source.logged("connected")
        said = {"type": "text", "text": "tulip-in-a-variable has expired"}
        listing.answer_result({"content": [said], "isError": True})
        await source.logged("error: list: list failed: … has expired; trying again until it works")
        listing.answer_result({"structuredContent": {"rows": []}, "content": []})
        await source.logged("there is nothing at items of the answer; set `items` to where it is")
        listing.answer_result({"content": "nonsense"})
        await source.logged("list failed: ")
        assert (await upstream(source))["state"] == "reconnecting"
        assert "tulip" not in source.log
        listing.answer(items(1, 2))
        assert told(await source.count(1)) == [("created", 2)]
        await source.logged("connected", times=2)
    assert len(listing.said("started")) == 1, "the server was well all the time"


async def test_an_event_that_the_host_refuses_is_told_in_the_log_and_holds_up_nothing(
    around: Around, listing: Listing
) -> None:
    async with around.source() as source:
        await source.logged("connected")
        source.accepts = lambda event: event["payload"]["key"] != 1
        listing.answer(items(1, 2))
        events = await source.count(2)
        refused = {"id": events[0]["id"], "reason": "too large"}
        source.say(method="notifications/eventsource/accepted", params={"ids": [], "rejected": [refused]})
        await source.logged("too large")
        listing.answer(items(1, 2, 3))
        assert told(await source.count(3)) == [("created", 1), ("created", 2), ("created", 3)]


async def test_a_tool_that_is_missing_is_told_with_those_that_there_are_and_called_when_it_comes(
    around: Around, listing: Listing
) -> None:
    listing.set(tools=["add", "remove"])
    listing.answer(items(1))
    async with around.source(first="tell") as source:
        await source.logged("the server has no tool list; it has add, remove")
        assert listing.calls == 0
        listing.set(tools=["add", "list"])
        assert told(await source.count(1)) == [("created", 1)]


async def test_a_call_that_takes_too_long_is_given_up_and_the_server_kept(around: Around, listing: Listing) -> None:
    listing.set(slow=3600)
    listing.answer(items(1))
    async with around.source(timeout="200ms", first="tell") as source:
        await source.logged("list did not answer within 0.2 s, its `timeout`")
        listing.set(slow=None)
        assert told(await source.count(1)) == [("created", 1)]
    assert len(listing.said("started")) == 1


async def test_a_server_that_answers_nothing_any_more_is_started_anew(around: Around, listing: Listing) -> None:
    listing.answer(items(1))
    async with around.source(timeout="200ms") as source:
        await source.logged("connected")
        os.kill(listing.said("started")[0]["pid"], signal.SIGSTOP)
        await source.logged("it does not answer: its tools could not be listed")
        listing.answer(items(1, 2))
        assert told(await source.count(1)) == [("created", 2)]
    assert len(listing.said("started")) == 2


async def test_calls_never_run_beside_one_another(around: Around, listing: Listing) -> None:
    listing.set(slow=0.25)
    async with around.source(every=100) as source:
        await source.until_asked(lambda: len(listing.said("answered")) >= 3)
        assert listing.calls - len(listing.said("answered")) <= 1


# Servers as processes


async def test_tools_of_one_server_share_it_and_it_is_told_nothing_of_our_own(
    around: Around, listing: Listing, tmp_path: Path
) -> None:
    tool = {"server": "one", "tool": "list", "items": "items", "key": "id", "every": 100}
    config = {
        "servers": {"one": {"command": listing.command, "cwd": str(tmp_path), "environment": {"COLOR": "blue"}}},
        "tools": [{**tool, "name": "a"}, {**tool, "name": "b", "first": "tell"}],
    }
    listing.answer(items(1))
    async with source_process(SOURCE, config, around.state) as source:
        (event,) = await source.count(1)
        await source.logged("a: connected")
    assert event["type"] == "mcp-tool.b.created"
    (started,) = listing.said("started")
    assert started["cwd"] == str(tmp_path)
    assert started["environment"]["COLOR"] == "blue"
    assert "MCP_SERVER_CONFIG" not in started["environment"]
    assert started["environment"]["EVENTHOST_STATE_DIR"] != str(around.state)


async def test_a_server_that_talks_beside_the_protocol_is_heard_and_understood(
    around: Around, listing: Listing
) -> None:
    listing.set(chatty=True)
    async with around.source() as source:
        await source.logged("connected")
        await source.logged("info: list: listening")
        await source.logged("wrote to its stdout what is no MCP: hello, I am a server")


@given(said=st.lists(st.binary(max_size=12)), cuts=st.lists(st.integers(0, 200)))
async def test_lines_are_the_same_however_they_arrive_and_long_ones_are_left_out(
    said: list[bytes], cuts: list[int]
) -> None:
    text = b"".join(line + b"\n" for line in said)
    places = sorted({0, *(cut for cut in cuts if cut < len(text)), len(text)})
    chunks = [text[start:end] for start, end in itertools.pairwise(places)]
    left_out: list[None] = []

    async def read(most: int) -> bytes:
        return chunks.pop(0) if chunks else b""

    with modules_of("mcp-tool") as load:
        found = [line async for line in load("child").lines(read, 8, lambda: left_out.append(None))]
    wanted = text.split(b"\n")
    assert found == [line.strip() for line in wanted if len(line) <= 8 and line.strip()]
    assert len(left_out) == sum(len(line) > 8 for line in wanted)


async def test_nothing_of_a_server_outlives_the_source(around: Around, listing: Listing) -> None:
    listing.set(stubborn=True)
    async with around.source() as source:
        await source.logged("connected")
        server, grandchild = listing.said("started")[0]["pid"], listing.said("grandchild")[0]
        assert alive(server)
        assert alive(grandchild)
        assert await source.end() == 0
        await source.until_asked(lambda: not alive(server) and not alive(grandchild))


async def test_a_server_whose_child_holds_its_pipes_is_missed_when_it_dies(around: Around, listing: Listing) -> None:
    listing.set(stubborn=True)
    async with around.source(every=NEVER) as source:
        await source.logged("connected")
        os.kill(listing.said("started")[0]["pid"], signal.SIGKILL)
        await source.logged("connected", times=2)
        assert not alive(listing.said("grandchild")[0])


async def test_a_config_that_cannot_be_used_ends_the_source_with_the_mend(tmp_path: Path) -> None:
    config = {"tools": [{"server": {"command": "s", "cwd": "nowhere"}, "tool": "list"}]}
    async with source_process(SOURCE, config, tmp_path) as source:
        await source.logged("tools[0].server.cwd: there is no folder nowhere; it is relative to the source's folder")
        assert await source.end() == 1


async def test_the_tools_of_a_host_are_watched_through_the_host_itself(tmp_path: Path) -> None:
    root, host = tmp_path / "environment", Instance()
    url = f"http://127.0.0.1:{host.port}"
    through = {
        "lines": {"command": ["python", "-m", "eventhost", "mcp", "--env", str(root)]},
        "http": {"url": f"{url}/mcp"},
    }
    tool = {"tool": "todo__list", "key": "id", "every": "1s"}
    config = {"name": "mcp-tool", "tools": [{**tool, "name": name, "server": at} for name, at in through.items()]}
    clients = {"todo": {"command": ["python", str(LIST_SERVER / "server.py")]}}
    http = {"port": host.port, "rateLimit": {"requestsPerMinute": 100_000, "burstSize": 10_000}}
    environment = {"id": "test", "mcp": {"clients": clients, "eventSources": {"sources": {}}}, "http": http}
    shutil.copytree(SOURCE, root / "eventsources" / "mcp-tool", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    (root / "eventsources" / "mcp-tool" / "config.jsonc").write_text(json.dumps(config))
    (root / "config.jsonc").write_text(json.dumps(environment))

    def states() -> list[str]:
        try:
            found = httpx2.get(f"{url}/sources/mcp-tool").json()
        except httpx2.HTTPError:
            return []
        return [one["state"] for one in found.get("upstreams", [])]

    def types() -> set[str]:
        return {event["type"] for event in httpx2.get(f"{url}/events", params={"type": "mcp-tool.*"}).json()["events"]}

    try:
        command = [sys.executable, "-m", "eventhost", "run", "--env", str(root)]
        await anyio.to_thread.run_sync(lambda: host.launch(command, lambda: states() == ["connected", "connected"]))
        call = {"name": "todo__add", "arguments": {"title": "milk"}}
        assert httpx2.post(f"{url}/mcp/tools/call", json=call).status_code == 200
        with anyio.fail_after(LIMIT_S):
            while await anyio.to_thread.run_sync(types) != {"mcp-tool.lines.created", "mcp-tool.http.created"}:
                await anyio.sleep(0.1)
        await anyio.to_thread.run_sync(host.end, signal.SIGTERM)
    finally:
        await anyio.to_thread.run_sync(host.remove)


# Schedules


@given(
    interval_s=st.floats(0.1, 1e6),
    start_s=st.floats(0, 1e6),
    pauses_s=st.lists(st.floats(0, 1e6), min_size=1, max_size=20),
)
def test_beats_stay_on_their_grid_however_long_calls_take(
    interval_s: float, start_s: float, pauses_s: list[float]
) -> None:
    with modules_of("mcp-tool") as load:
        every = load("schedules").Every(interval_s)
        due_s = now_s = start_s
        for pause_s in pauses_s:
            now_s = max(now_s, due_s) + pause_s
            due_s = every.next_after(due_s, now_s)
            beats = (due_s - start_s) / interval_s
            assert beats == pytest.approx(round(beats), abs=1e-3)
            assert due_s >= now_s or due_s == pytest.approx(now_s)
            assert due_s - now_s <= interval_s * 1.000001


def test_a_calendar_is_followed_in_its_time_zone() -> None:
    with modules_of("mcp-tool") as load:
        nine = load("schedules").cron("0 9 * * 1-5", "Europe/Berlin")
        friday_noon_s = 1_767_956_400  # 2026-01-09, 12:00 in Berlin
        assert nine.next_after(0, friday_noon_s) == friday_noon_s + (69 * 3600)
