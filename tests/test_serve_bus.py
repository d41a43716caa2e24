"""The bus as MCP tools and resources: what a session can ask for, is told, and is refused."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from hosting import until
from mcp import Client
from test_serve import Session

from eventhost import ServerEnvironment
from eventhost.access import OWNER, Access, Caller
from eventhost.serve import BusTools, McpFace, Peer, source_resources, subscriptions
from eventhost.web.server import serving

pytestmark = pytest.mark.anyio

READER = Caller("reader", "key", frozenset({Access.READ}))
OTHER = Caller("other", "key", frozenset({Access.READ}))

TICKER = """
from eventhost.kit import EventSource, sleep
source = EventSource("ticker")
@source.tool()
async def tick(count: int = 1) -> str:
    "Emit."
    for number in range(count):
        await source.emit("ticker.tick", {"number": number})
    return "ok"
source.run()
"""

NAMES = {
    "emit_event",
    "subscribe_event",
    "unsubscribe_event",
    "list_pending_events",
    "list_events",
    "search_events",
    "explain_event",
    "list_event_types",
    "get_source_status",
}


class Place:
    """A host, its face and its tools."""

    def __init__(self, env: ServerEnvironment, face: McpFace, tools: BusTools) -> None:
        self.env, self.face, self.tools = env, face, tools
        self.session = Session(face)

    async def call(self, tool: str, session: Session | None = None, **arguments: Any) -> dict[str, Any]:
        """The structured answer of a tool."""
        result = await (session or self.session).result("tools/call", name=tool, arguments=arguments)
        assert not result.get("isError"), result
        return cast(dict[str, Any], result["structuredContent"])

    async def text(self, tool: str, session: Session | None = None, **arguments: Any) -> Any:
        """The text of a tool's answer, which is JSON."""
        result = await (session or self.session).result("tools/call", name=tool, arguments=arguments)
        assert not result.get("isError"), result
        return json.loads(result["content"][0]["text"])

    async def fails(self, tool: str, session: Session | None = None, **arguments: Any) -> str:
        """What a tool that fails says."""
        result = await (session or self.session).result("tools/call", name=tool, arguments=arguments)
        assert result["isError"], result
        return str(result["content"][0]["text"])

    async def publish(self, *types: str, **payload: Any) -> None:
        for event_type in types:
            await self.env.publish_event({"type": event_type, "payload": payload})

    def pushed(self, session: Session | None = None) -> list[dict[str, Any]]:
        told = (session or self.session).told
        return [params["data"] for method, params in told if method == "notifications/eventsource/emitted"]

    def sessionless(self, caller: Caller = OWNER) -> Session:
        """One to which nothing can be told, as over modern HTTP."""
        session = Session(self.face, caller)
        session.peer = Peer(caller)
        return session


@asynccontextmanager
async def standing(root: Path, **config: Any) -> AsyncIterator[Place]:
    config = {"supervision": {"startsecs": 0}, "journal": {"type": "memory"}, "http": {"port": 0}} | config
    (root / "config.jsonc").write_text(json.dumps(config))
    with anyio.fail_after(60):
        async with ServerEnvironment.from_path(root) as env:
            face = McpFace(env)
            tools = BusTools(face)
            async with face.running(), tools.running():
                yield Place(env, face, tools)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with standing(tmp_path) as place:
        yield place


def types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


# --- what is offered ------------------------------------------------------------------------------------------------


async def test_each_tool_says_what_it_does_takes_and_changes(place: Place) -> None:
    tools = {tool["name"]: tool for tool in (await place.session.result("tools/list"))["tools"]}
    assert tools.keys() == NAMES
    for tool in tools.values():
        assert len(tool["description"]) > 15
        assert "\n" not in tool["description"]
        assert tool["inputSchema"]["type"] == "object"
        assert "$ref" not in json.dumps(tool)
    reads = {name for name, tool in tools.items() if tool["annotations"]["readOnlyHint"]}
    assert reads == {"list_events", "search_events", "explain_event", "list_event_types", "get_source_status"}
    assert tools["subscribe_event"]["inputSchema"]["required"] == ["eventType"]
    assert tools["emit_event"]["inputSchema"]["required"] == ["type"]


@pytest.mark.parametrize(
    ("tool", "arguments", "says"),
    [
        ("emit_event", {}, "`type`"),
        ("emit_event", {"type": "a", "paylod": {}}, "`paylod`"),
        ("emit_event", {"type": "host.gap"}, "host's own"),
        ("emit_event", {"type": "a", "timestamp": "soon"}, "neither milliseconds nor ISO 8601"),
        ("subscribe_event", {"eventType": ""}, 'write "door.*"'),
        ("subscribe_event", {"eventType": "a", "match": {"payload": {"n": [{"numerik": 1}]}}}, "numerik"),
        ("subscribe_event", {"eventType": "a", "after": "yesterday-ish"}, "after: "),
        ("unsubscribe_event", {"subscriptionId": "sub_x"}, "no subscription 'sub_x' of yours"),
        ("list_pending_events", {"subscriptionId": "sub_x"}, "call subscribe_event again"),
        ("list_pending_events", {"limit": 5000}, "limit"),
        ("list_pending_events", {"cursor": 1}, "give its subscriptionId too"),
        ("list_events", {"limit": 0}, "limit"),
        ("search_events", {"from": "someday"}, "ISO 8601"),
        ("explain_event", {"event": 7777}, "no event is called"),
        ("get_source_status", {"source": "nobody"}, "no source is called 'nobody'"),
        ("list_event_types", {"source": "nobody"}, "no source is called 'nobody'"),
    ],
)
async def test_a_mistake_is_told_with_its_place_and_mend(
    place: Place, tool: str, arguments: dict[str, Any], says: str
) -> None:
    assert says in await place.fails(tool, **arguments)


# --- in -------------------------------------------------------------------------------------------------------------


async def test_an_event_that_is_emitted_bears_the_way_it_came_which_cannot_be_forged(place: Place) -> None:
    answer = await place.text(
        "emit_event", type="door.opened", payload={"n": 1}, metadata={"source": "me", "source_name": "door"}
    )
    (entry,) = await place.env.bus.journal.read(answer["seq"] - 1, 1)
    assert answer == {"success": True, "eventId": entry.event.id, "seq": entry.seq}
    assert entry.event.metadata == {"source": "me", "source_name": "mcp"}
    assert entry.event.payload == {"n": 1}


async def test_publishing_needs_a_scope_of_its_own(place: Place) -> None:
    error = await Session(place.face, READER).error("tools/call", name="emit_event", arguments={"type": "a"})
    assert "publish" in error["message"]


# --- out ------------------------------------------------------------------------------------------------------------


async def test_a_session_is_told_of_each_event_that_it_has_subscribed_to(place: Place) -> None:
    answer = await place.call("subscribe_event", eventType="door.*")
    await place.publish("door.opened", "window.opened", "door.closed", n=3)
    await until(lambda: len(place.pushed()) == 2)
    first, second = place.pushed()
    assert answer["delivery"] == "push"
    assert types([first, second]) == ["door.opened", "door.closed"]
    assert first["payload"] == {"n": 3}
    relay = second["metadata"]["relay"]
    assert relay == {
        "via": [place.env.host_id],
        "hops": 1,
        "seq": first["metadata"]["relay"]["seq"] + 2,
        "after": first["metadata"]["relay"]["seq"],
    }


async def test_a_star_leaves_out_what_the_host_says_of_itself(place: Place) -> None:
    everything, own = Session(place.face), Session(place.face)
    await place.call("subscribe_event", everything, eventType="*", after=0)
    await place.call("subscribe_event", own, eventType=["host.*", "a"], after=0)
    place.env._announcer.say("host.config_error", {})
    await until(lambda: len(place.pushed(own)) == 1)
    await place.publish("a")
    await until(lambda: place.pushed(everything))
    assert types(place.pushed(everything)) == ["a"]


async def test_a_pattern_says_more_exactly_which(place: Place) -> None:
    await place.call("subscribe_event", eventType="door.*", match={"payload": {"room": ["hall"]}})
    await place.publish("door.opened", room="attic")
    await place.publish("door.opened", room="hall")
    await until(place.pushed)
    assert [event["payload"]["room"] for event in place.pushed()] == ["hall"]


async def test_what_gathered_is_handed_out_once_as_a_list_of_events(place: Place) -> None:
    assert await place.text("list_pending_events") == []
    await place.call("subscribe_event", eventType="door.*", delivery="poll")
    await place.call("subscribe_event", eventType="window.*", delivery="poll")
    await place.publish("door.opened", "window.opened", "door.closed")
    assert sorted(types(await place.text("list_pending_events"))) == ["door.closed", "door.opened", "window.opened"]
    assert await place.text("list_pending_events") == []
    assert place.pushed() == []


async def test_with_a_cursor_the_same_can_be_asked_for_again(place: Place) -> None:
    caller = place.sessionless(READER)
    answer = await place.call("subscribe_event", caller, eventType="n")
    assert answer["delivery"] == "poll"
    for number in range(5):
        await place.publish("n", number=number)
    asked = {"subscriptionId": answer["subscriptionId"], "cursor": answer["cursor"], "limit": 3}
    for _ in range(2):
        page = await place.call("list_pending_events", place.sessionless(READER), **asked)
        assert [event["payload"]["number"] for event in page["events"]] == [0, 1, 2]
        assert page["more"]
    page = await place.call("list_pending_events", place.sessionless(READER), **{**asked, "cursor": page["cursor"]})
    assert [event["payload"]["number"] for event in page["events"]] == [3, 4]
    assert not page["more"]


async def test_a_subscription_belongs_to_the_key_that_made_it(place: Place) -> None:
    answer = await place.call("subscribe_event", place.sessionless(READER), eventType="n")
    for tool in ("list_pending_events", "unsubscribe_event"):
        said = await place.fails(tool, place.sessionless(OTHER), subscriptionId=answer["subscriptionId"])
        assert "of yours" in said
    assert len(answer["subscriptionId"]) > 20


async def test_one_can_wait_for_the_next_event(place: Place) -> None:
    await place.call("subscribe_event", eventType="n", delivery="poll")
    answers: list[Any] = []

    async def ask() -> None:
        answers.append(await place.text("list_pending_events", waitMs=20_000))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        await place.publish("other", "n")
    assert types(answers[0]) == ["n"]


async def test_the_end_of_a_subscription_is_the_end_of_its_events(place: Place) -> None:
    answer = await place.call("subscribe_event", eventType="n")
    other = await place.call("subscribe_event", eventType="done")
    await place.call("unsubscribe_event", subscriptionId=answer["subscriptionId"])
    await place.publish("n", "done")
    await until(place.pushed)
    assert types(place.pushed()) == ["done"]
    assert list(place.session.peer.subscriptions) == [other["subscriptionId"]]


async def test_subscriptions_end_with_their_session_or_when_nobody_asks_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "MOST_OF_ONE", 2)
    now = 0.0
    async with standing(tmp_path) as place:
        held = place.tools.subscriptions
        monkeypatch.setattr(held, "_monotonic", lambda: now)
        for _ in range(2):
            await place.call("subscribe_event", eventType="n")
            await place.call("subscribe_event", place.sessionless(), eventType="n")
        assert "unsubscribe_event" in await place.fails("subscribe_event", eventType="n")
        assert "unsubscribe_event" in await place.fails("subscribe_event", place.sessionless(), eventType="n")
        await place.session.peer.aclose()
        assert len(held) == 2
        now = subscriptions.IDLE_S + 1
        await place.call("subscribe_event", place.sessionless(), eventType="n")
        assert len(held) == 1


async def test_a_session_that_does_not_read_delays_nobody_and_is_told_how_many_it_missed(tmp_path: Path) -> None:
    async with standing(tmp_path, journal={"type": "memory", "capacity": 10}) as place:
        reads, slow, quick = anyio.Event(), Session(place.face), Session(place.face)
        told: list[dict[str, Any]] = []

        async def notify(method: str, params: dict[str, Any]) -> None:
            await reads.wait()
            told.append(params["data"])

        slow.peer = Peer(OWNER, notify)
        for session in (slow, quick):
            await place.call("subscribe_event", session, eventType="n")
        for number in range(30):
            await place.publish("n", number=number)
            await until(lambda number=number: len(place.pushed(quick)) == number + 1)
        reads.set()
        await until(lambda: told and told[-1]["payload"].get("number") == 29)
        first, lagged, *rest = told
    assert first["payload"] == {"number": 0}
    assert lagged["type"] == "eventsource.lagged"
    assert [event["payload"]["number"] for event in rest] == list(range(20, 30))
    assert lagged["payload"]["missed"] == 19
    assert lagged["payload"]["resume"] == rest[0]["metadata"]["relay"]["seq"]


async def test_who_polls_too_late_is_told_how_many_are_missing(tmp_path: Path) -> None:
    async with standing(tmp_path, journal={"type": "memory", "capacity": 10}) as place:
        await place.call("subscribe_event", eventType="n", delivery="poll")
        for number in range(30):
            await place.publish("n", number=number)
        lagged, *rest = await place.text("list_pending_events")
    assert (lagged["type"], lagged["payload"]["missed"]) == ("eventsource.lagged", 20)
    assert len(rest) == 10


# --- back -----------------------------------------------------------------------------------------------------------


async def test_the_newest_events_can_be_listed_page_by_page(place: Place) -> None:
    for number in range(7):
        await place.publish("n", number=number)
    newest = await place.call("list_events", limit=3)
    older = await place.call("list_events", limit=3, before=newest["older"])
    oldest = await place.call("list_events", limit=3, before=older["older"])
    found = [[event["payload"]["number"] for event in page["events"]] for page in (newest, older, oldest)]
    assert found == [[4, 5, 6], [1, 2, 3], [0]]
    assert "older" not in oldest


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"text": "HALL"}, [1, 3]),
        ({"type": "door.*"}, [1, 2]),
        ({"match": {"payload": {"n": [{"numeric": [">", 1]}]}}}, [2, 3, 4]),
        ({"source": "mcp"}, [4]),
        ({"type": ["window.*", "emitted"], "text": "hall"}, [3]),
        ({"before": 3, "type": "door.*"}, [1, 2]),
        ({"from": "1h", "text": "attic"}, [2]),
        ({"to": "1h"}, []),
    ],
)
async def test_events_can_be_searched(place: Place, asked: dict[str, Any], found: list[int]) -> None:
    await place.publish("door.opened", n=1, room="Hall")
    await place.publish("door.opened", n=2, room="attic")
    await place.publish("window.opened", n=3, room="hall")
    await place.call("emit_event", type="emitted", payload={"n": 4})
    page = await place.call("search_events", **asked)
    assert [event["payload"]["n"] for event in page["events"]] == found


async def test_an_answer_is_bounded_and_says_where_it_was_cut(place: Place) -> None:
    for _ in range(60):
        await place.publish("long", text="x" * 50_000)
    page = await place.call("list_events", limit=60)
    assert len(json.dumps(page)) < 600_000
    assert "characters left out" in page["events"][0]["payload"]["text"]
    await place.call("subscribe_event", eventType="long", after=0, delivery="poll")
    pending = await place.call("list_pending_events", limit=60)
    assert 1 <= len(pending["events"]) < 10
    assert pending["more"]
    assert len(pending["events"][0]["payload"]["text"]) == 50_000


async def test_an_event_can_be_explained(place: Place) -> None:
    answer = await place.call("emit_event", type="door.opened")
    told = await place.call("explain_event", event=answer["seq"])
    assert told["event"]["id"] == answer["eventId"]
    by_name = await place.call("explain_event", event=f"mcp:{answer['eventId']}")
    assert by_name["event"]["seq"] == answer["seq"]


# --- sources --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def ticking(root: Path) -> AsyncIterator[Place]:
    folder = root / "eventsources" / "ticker"
    folder.mkdir(parents=True)
    (folder / "server.py").write_text(TICKER)
    (folder / "config.jsonc").write_text('{"eventTypes": ["ticker.*"]}')
    async with standing(root) as place:
        await until(lambda: place.env.source_status("ticker").status == "running")
        yield place


async def test_types_and_states_are_told_as_sources_tell_them(tmp_path: Path) -> None:
    async with ticking(tmp_path) as place:
        assert await place.text("list_event_types", source="ticker") == ["ticker.*"]
        await place.env.get_mcp_manager().execute_tool("ticker__tick", {"count": 2})
        await until(lambda: place.env.source_status("ticker").published == 2)
        assert await place.text("list_event_types", source="ticker") == ["ticker.*", "ticker.tick"]
        counted = await place.call("list_event_types")
        status = await place.call("get_source_status", source="ticker")
        every = await place.call("get_source_status")
    assert {"type": "ticker.tick", "count": 2} in counted["types"]
    assert (status["status"], status["eventsEmitted"], status["way_in"]) == ("running", 2, "push")
    assert [(one["name"], one["status"]) for one in every["sources"]] == [("ticker", "running")]


async def test_a_source_is_a_resource_and_its_updates_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_resources, "LOOK_S", 0.02)
    status, events = "event-source://ticker/status", "event-source://ticker/events"

    def told(uri: str) -> int:
        return place.session.told.count(("notifications/resources/updated", {"uri": uri}))

    async def read(uri: str) -> Any:
        return json.loads((await place.session.result("resources/read", uri=uri))["contents"][0]["text"])

    async with ticking(tmp_path) as place:
        listed = [one["uri"] for one in (await place.session.result("resources/list"))["resources"]]
        templates = (await place.session.result("resources/templates/list"))["resourceTemplates"]
        assert listed == [status, events]
        assert [one["uriTemplate"] for one in templates] == [uri.replace("ticker", "{name}") for uri in listed]
        assert (await read(status))["status"] == "running"
        await place.session.result("resources/subscribe", uri=events)
        await until(lambda: told(events) == 1)  # at first it is told in any case
        await place.env.get_mcp_manager().execute_tool("ticker__tick")
        await until(lambda: told(events) == 2)
        shown = await read(events)
        await place.session.result("resources/subscribe", uri=status)
        await until(lambda: told(status) == 1)
        await place.env.stop_source("ticker")
        await until(lambda: told(status) == 2)
        assert told(events) == 2
        assert (await read(status))["status"] == "stopped"
        missing = await place.session.error("resources/read", uri="event-source://nobody/status")
    assert types(shown["newest"]) == ["ticker.tick"]
    assert "ticker" in missing["message"]


# --- over HTTP ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_a_client_of_either_era_can_subscribe(tmp_path: Path, mode: str) -> None:
    (tmp_path / "config.jsonc").write_text('{"http": {"port": 0}, "journal": {"type": "memory"}}')
    with anyio.fail_after(60):
        async with (
            ServerEnvironment.from_path(tmp_path) as env,
            serving(env) as listening,
            Client(f"{listening.url}/mcp", mode=mode) as client,
        ):
            await client.list_tools()  # from then on answers are checked against their schemas
            subscribed = (await client.call_tool("subscribe_event", {"eventType": "n"})).structured_content
            assert subscribed is not None
            await client.call_tool("emit_event", {"type": "n", "payload": {"number": 1}})
            asked = {"subscriptionId": subscribed["subscriptionId"], "cursor": subscribed["cursor"]}
            page = (await client.call_tool("list_pending_events", asked)).structured_content
    assert subscribed["delivery"] == ("push" if mode == "legacy" else "poll")
    assert page is not None
    assert [event["payload"] for event in page["events"]] == [{"number": 1}]
