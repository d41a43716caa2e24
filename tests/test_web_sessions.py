"""Sessions: what their streams carry, how they are spoken to, whom they belong to, and how they end."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from hosting import until
from sessions import ADMIN, ANN, BOB, LIMIT_S, READER, FakeFace, Served, fake, request, served
from structlog.testing import capture_logs
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin

from eventhost.web.server import serving
from eventhost.wire import EMITTED

pytestmark = pytest.mark.anyio


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Served:
    return served(monkeypatch, tmp_path)


async def send(host: Served, session_id: str, message: Any, caller: Any = ADMIN) -> Any:
    async with host.client(caller) as http:
        return await http.post(f"/sse/send/{session_id}", json=message)


# The stream


async def test_a_stream_begins_with_its_session(host: Served) -> None:
    async with host.sse("mine") as stream:
        connected = await stream.read()
        assert connected["event"] == "connected"
        assert connected["data"]["session_id"] == "mine"
        assert connected["data"]["timestamp"].endswith("Z")
        assert stream.status == 200
        assert stream.headers["content-type"] == "text/event-stream"
        assert stream.headers["cache-control"] == "no-cache"
        assert stream.headers["connection"] == "keep-alive"


async def test_who_names_no_session_gets_one_that_cannot_be_guessed(host: Served) -> None:
    async with host.sse() as one, host.sse() as other:
        ids = {(await stream.read())["data"]["session_id"] for stream in (one, other)}
    assert len(ids) == 2
    assert all(name.startswith("sess_") and len(name) > 20 for name in ids)


@pytest.mark.parametrize("session_id", ["a b", "a/b", "ä", "x" * 129, "a\nb", "\u2028"])
async def test_an_unusable_session_id_is_refused(host: Served, session_id: str) -> None:
    async with host.client() as http:
        answer = await http.get("/sse/connect", params={"session_id": session_id})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == -32602
    assert host.sessions.statistics().total_connections == 0


async def test_the_events_of_the_bus_come_by_type(host: Served) -> None:
    async with host.sse("s") as stream:
        await stream.read()
        await host.environment.publish("door.opened")
        event = await stream.read()
    assert (event["event"], event["id"]) == ("door.opened", "1")
    assert event["data"]["type"] == "door.opened"
    assert event["data"]["seq"] == 1


async def test_only_the_wanted_events_come(host: Served) -> None:
    pattern = json.dumps({"type": [{"suffix": ".opened"}]})
    async with host.sse("s", type="door.*, x", match=pattern) as stream:
        await stream.read()
        await host.environment.publish("x", "window.opened", "door.closed", "door.opened")
        assert (await stream.read())["event"] == "door.opened"


@pytest.mark.parametrize("query", [{"match": "{"}, {"match": '{"type": [{"nope": 1}]}'}, {"since": "yesterday"}])
async def test_a_query_that_cannot_be_used_is_refused(host: Served, query: dict[str, str]) -> None:
    async with host.client() as http:
        answer = await http.get("/sse/connect", params=query)
    assert answer.status_code == 400
    assert host.sessions.seen_by(ADMIN) == []


async def test_a_stream_resumes_where_the_client_left_off(host: Served) -> None:
    await host.environment.publish("a", "b", "c")
    async with host.sse("s", last="1", since="3") as stream:
        assert [(await stream.read())["event"] for _ in range(3)] == ["connected", "b", "c"]
    async with host.sse("s", since="2") as stream:
        assert [(await stream.read())["event"] for _ in range(2)] == ["connected", "c"]


async def test_a_client_that_resumes_too_late_is_told_what_it_missed(host: Served) -> None:
    await host.environment.publish(*["t"] * 5010)
    async with host.sse("s", last="3") as stream:
        await stream.read()
        lagged = await stream.read()
    assert (lagged["event"], lagged["data"]) == ("lagged", {"missed": 7, "resume": 11})


@pytest.mark.parametrize("name", ["message", "connected", "closed", "heartbeat\n", "\n", "lagged\r\n"])
async def test_no_event_can_pass_for_what_the_session_says(host: Served, name: str) -> None:
    async with host.sse("s") as stream, host.ws("w") as socket:
        await stream.read()
        await socket.read()
        await host.environment.publish(name)
        assert (await stream.read())["event"] == f"bus.{name.strip()}"
        assert (await socket.read())["event"] == f"bus.{name.strip()}"


async def test_heartbeats_come_whatever_else_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    host = served(monkeypatch, tmp_path, heartbeat_s=0.01)
    async with host.sse("s") as stream, host.ws("w") as socket:
        for source in (stream, socket):
            beat = await source.read_until("heartbeat")
            assert beat["data"]["timestamp"].endswith("Z")
            assert "id" not in beat


# Messages


async def test_an_answer_comes_on_the_stream(host: Served) -> None:
    async with host.sse("s") as stream:
        await stream.read()
        answer = await send(host, "s", request("echo", "r-1", text="hello"))
        assert answer.status_code == 200
        assert answer.json().keys() == {"success", "message_id", "timestamp"}
        message = await stream.read()
    assert message["event"] == "message"
    assert message["data"] == {
        "id": answer.json()["message_id"],
        "type": "response",
        "content": {"jsonrpc": "2.0", "id": "r-1", "result": {"text": "hello"}},
    }


async def test_a_notification_has_no_answer_and_a_batch_has_one_for_each_request(host: Served) -> None:
    async with host.sse("s") as stream:
        await stream.read()
        assert (await send(host, "s", request("echo"))).json()["success"] is True
        batch = [request("echo", 1, a=1), request("echo"), request("echo", 2)]
        await send(host, "s", batch)
        content = (await stream.read())["data"]["content"]
    assert [answer["id"] for answer in content] == [1, 2]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", -32700),
        (b"\xff", -32700),
        (b"{}", -32600),
        (b"[]", -32600),
        (b"3", -32600),
        (b'{"jsonrpc": "1.0", "method": "a", "id": 1}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1}', -32600),
        (b'{"jsonrpc": "2.0", "method": "a", "id": true}', -32600),
        (b'{"jsonrpc": "2.0", "method": "a", "id": null}', -32600),
        (b'{"jsonrpc": "2.0", "method": "a", "params": 3}', -32600),
        (b'[{"jsonrpc": "2.0", "method": "a"}, 3]', -32600),
        (json.dumps([request("echo")] * 51).encode(), -32600),
    ],
)
async def test_what_is_no_message_is_refused_with_the_reason(host: Served, body: bytes, code: int) -> None:
    async with host.sse("s"), host.client() as http:
        await until(lambda: host.sessions.seen_by(ADMIN))
        headers = {"content-type": "application/json"}
        answer = await http.post("/sse/send/s", content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == code


async def test_an_unknown_session_is_not_found(host: Served) -> None:
    async with host.client() as http:
        answers = [
            await http.post("/sse/send/nobody", json=request("echo", 1)),
            await http.get("/sessions/nobody"),
            await http.delete("/sse/disconnect/nobody"),
        ]
    assert [answer.status_code for answer in answers] == [404] * 3
    assert "GET /sse/connect makes one" in answers[0].json()["error"]["message"]


async def test_what_fails_inside_is_answered_without_its_details(host: Served) -> None:
    async with host.sse("s") as stream:
        await stream.read()
        with capture_logs():
            await send(host, "s", request("break", 1))
        error = (await stream.read())["data"]["content"]["error"]
    assert error["code"] == -32603
    assert "tulip" not in error["message"]


async def test_one_session_has_only_so_much_under_way(host: Served) -> None:
    async with host.sse("s"), anyio.create_task_group() as tasks:
        await until(lambda: host.sessions.seen_by(ADMIN))
        for number in range(32):
            tasks.start_soon(send, host, "s", request("wait", number))
        await until(lambda: host.sessions.statistics().messages_received == 32)
        refused = await send(host, "s", request("echo", 99))
        host.face.may_answer.set()
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"


async def test_who_does_not_read_its_answers_gets_no_further_ones(host: Served) -> None:
    async with host.sse("s") as stream:
        await stream.read()
        stream.stop_reading()
        for number in range(256):
            assert (await send(host, "s", request("echo", number))).status_code == 200
        assert (await send(host, "s", request("echo", 256))).status_code == 429
        stream.read_again()
        ids = [(await stream.read())["data"]["content"]["id"] for _ in range(256)]
        assert ids == list(range(256))
        await until(lambda: host.sessions.find("s", ADMIN).outbox.waiting == 0)
        assert (await send(host, "s", request("echo", 256))).status_code == 200


async def test_what_the_host_has_to_tell_comes_as_a_notification(host: Served) -> None:
    async with host.sse("s") as stream:
        await stream.read()
        await send(host, "s", request("echo"))
        await host.face.seen[0].notify("notifications/tools/list_changed", {})
        message = (await stream.read())["data"]
    assert message["type"] == "notification"
    assert message["content"] == {"jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": {}}


async def test_of_what_finds_no_room_events_wait_and_the_rest_is_told_to_be_missed(host: Served) -> None:
    async with host.sse("s") as stream:
        await stream.read()
        await send(host, "s", request("echo"))
        notify = host.face.seen[0].notify
        stream.stop_reading()
        for number in range(300):
            await notify("notifications/resources/updated", {"number": number})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(notify, EMITTED, {"level": "info"})
            await anyio.wait_all_tasks_blocked()
            stream.read_again()
            lagged = await stream.read_until("lagged")
            assert lagged["data"]["missed_messages"] == 300 - 256
            while (await stream.read_until("message"))["data"]["content"]["method"] != EMITTED:
                pass


# One session, many connections


async def test_a_second_connection_takes_the_session_over(host: Served) -> None:
    async with host.sse("s") as first:
        await first.read()
        async with host.sse("s") as second:
            assert (await second.read())["event"] == "connected"
            closed = await first.read()
            assert closed["event"] == "closed"
            assert "took the session over" in closed["data"]["reason"]
            assert await first.read() == {}
            await send(host, "s", request("echo", 1))
            assert (await second.read())["event"] == "message"
            async with host.ws("s") as third:
                assert (await third.read())["event"] == "connected"
                assert (await second.read())["event"] == "closed"
    assert host.sessions.statistics().total_connections == 3
    assert len(host.sessions.seen_by(ADMIN)) == 1


async def test_of_connections_that_come_at_once_the_last_has_the_session(host: Served) -> None:
    async with host.sse("s") as first, host.ws("s") as second, host.sse("s") as third:
        assert (await third.read())["event"] == "connected"
        assert (await first.read_until("closed"))["event"] == "closed"
        assert (await second.read_until("closed"))["event"] == "closed"


async def test_what_came_meanwhile_is_there_when_the_client_comes_back(host: Served) -> None:
    async with host.sse("s") as stream:
        await stream.read()
    await send(host, "s", request("echo", 1))
    async with host.sse("s") as stream:
        assert [(await stream.read())["event"] for _ in range(2)] == ["connected", "message"]


@pytest.mark.parametrize(
    ("last", "rest"), [(0, {"1", "a", "2"}), (1, {"a", "2"}), (2, {"2"}), (3, set())], ids=["begin", "1", "a", "2"]
)
async def test_a_client_that_says_what_it_has_gets_the_rest_and_nothing_twice(
    host: Served, last: int, rest: set[str]
) -> None:
    def name(frame: dict[str, Any]) -> str:
        return str(frame["data"]["content"]["id"]) if frame["event"] == "message" else str(frame["event"])

    async with host.sse("s") as stream:
        frames = [await stream.read()]
        await send(host, "s", request("echo", 1))
        frames.append(await stream.read())
        await host.environment.publish("a")
        frames.append(await stream.read())
        await send(host, "s", request("echo", 2))
        frames.append(await stream.read())
    async with host.sse("s", last=frames[last]["id"]) as stream:
        await stream.read()
        await send(host, "s", request("echo", "end"))
        await host.environment.publish("end of events")
        seen = [name(await stream.read()) for _ in range(len(rest) + 2)]
    assert len(seen) == len(set(seen))
    assert set(seen) == rest | {"end", "end of events"}


async def test_what_a_client_says_it_has_waits_for_it_no_longer(host: Served) -> None:
    async with host.sse("s") as stream:
        await stream.read()
    await send(host, "s", request("echo", 1))
    assert host.sessions.find("s", ADMIN).outbox.waiting == 1
    async with host.sse("s", last="0.1") as stream:
        assert (await stream.read())["id"] == "0.1"
        assert host.sessions.find("s", ADMIN).outbox.waiting == 0


async def test_a_session_ends_when_its_client_stays_away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    host = served(monkeypatch, tmp_path, connection_timeout_s=0.05)
    async with host.sessions.running():
        async with host.sse("s") as stream:
            await stream.read()
            await send(host, "s", request("echo"))
        await until(lambda: host.face.ended)
        assert (await send(host, "s", request("echo", 1))).status_code == 404


async def test_all_sessions_end_with_the_host(host: Served) -> None:
    async with host.sse("s") as stream, host.ws("w") as socket:
        async with host.sessions.running():
            await stream.read()
            await socket.read()
            await send(host, "s", request("echo"))
        assert host.face.ended == host.face.seen
        assert (await stream.read())["data"]["reason"] == "the host is stopping"
        assert (await socket.read())["event"] == "closed"
        assert (await socket.read())["code"] == 1001


async def test_a_host_that_stops_ends_its_streams(host: Served) -> None:
    async with host.sse("s") as stream, host.ws("w") as socket:
        await stream.read()
        await socket.read()
        for scope in list(host.open_streams):
            scope.cancel()
        assert (await stream.read())["event"] == "closed"
        assert (await socket.read())["event"] == "closed"
    assert host.open_streams == set()
    assert host.environment.bus.subscriptions == set()


async def test_a_bus_that_closes_ends_the_streams(host: Served) -> None:
    async with host.sse("s") as stream, host.ws("w") as socket:
        await stream.read()
        await socket.read()
        await host.environment.bus.aclose()
        assert (await stream.read())["event"] == "closed"
        assert (await socket.read())["event"] == "closed"


async def test_a_client_that_does_not_read_is_cut_off_and_costs_the_others_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    host = served(monkeypatch, tmp_path, connection_timeout_s=0.3)
    async with host.sse("other") as other, host.sse("s") as stream, host.ws("w") as socket:
        for one in (other, stream, socket):
            await one.read()
        stream.stop_reading()
        socket.stop_reading()
        await host.environment.publish("a", "b")
        assert [(await other.read())["event"] for _ in range(2)] == ["a", "b"]
        await stream.ended.wait()
        await socket.ended.wait()
        assert stream.aborted
        assert socket.aborted
        await host.environment.publish("c")
        assert (await other.read())["event"] == "c"
    assert host.sessions.statistics().active_connections == 0


async def test_disconnecting_ends_the_session_and_its_stream(host: Served) -> None:
    async with host.sse("s") as stream:
        await stream.read()
        await send(host, "s", request("echo"))
        async with host.client() as http:
            answer = await http.delete("/sse/disconnect/s")
            assert answer.json() == {"success": True, "message": "Session disconnected successfully"}
            assert (await http.get("/sessions/s")).status_code == 404
        assert (await stream.read())["event"] == "closed"
        assert await stream.read() == {}
    assert len(host.face.ended) == 1


async def test_there_are_only_so_many_sessions_and_those_without_a_client_give_way(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    host = served(monkeypatch, tmp_path, max_connections=2)
    async with host.sse("a") as first:
        await first.read()
        async with host.sse("b") as second:
            await second.read()
            async with host.client() as http:
                answer = await http.get("/sse/connect", params={"session_id": "c"})
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "5"
        async with host.sse("c") as third:
            await third.read()
            assert [session.id for session in host.sessions.seen_by(ADMIN)] == ["a", "c"]


async def test_two_connections_that_come_at_once_are_of_one_session(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    host = served(monkeypatch, tmp_path, max_connections=1)
    may_end = anyio.Event()
    async with host.sse("old") as stream:
        await stream.read()
        await send(host, "old", request("echo"))
        host.face.seen[0].at_end(may_end.wait)
    async with host.sse("new") as first, host.ws("new") as second:
        await until(lambda: len(host.sessions.seen_by(ADMIN)) == 1 and host.sessions.seen_by(ADMIN)[0].id == "new")
        may_end.set()
        seen = [(await first.read())["event"], (await second.read())["event"]]
        assert seen == ["connected", "connected"]
        assert [session.id for session in host.sessions.seen_by(ADMIN)] == ["new"]
        async with host.client() as http:
            await http.post("/sessions/broadcast", json={"event": "hello", "data": 1})
        line = host.sessions.find("new", ADMIN).line
        assert line is not None
        last, other = (second, first) if line.transport == "websocket" else (first, second)
        assert (await last.read_until("hello"))["data"] == 1
        assert (await other.read_until("closed"))["event"] == "closed"


async def test_what_waits_for_room_in_a_session_that_ends_goes_on(host: Served) -> None:
    async with host.sse("s") as stream:
        await stream.read()
        await send(host, "s", request("echo"))
        notify = host.face.seen[0].notify
        stream.stop_reading()
        for number in range(256):
            await notify("notifications/resources/updated", {"number": number})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(notify, EMITTED, {"level": "info"})
            await anyio.wait_all_tasks_blocked()
            async with host.client() as http:
                await http.delete("/sse/disconnect/s")
        stream.read_again()


# Whom they belong to


async def test_a_session_belongs_to_the_key_that_made_it(host: Served) -> None:
    async with host.sse("s", ANN) as stream:
        await stream.read()
        async with host.client(BOB) as http:
            assert (await http.get("/sessions/s")).status_code == 404
            assert (await http.delete("/sse/disconnect/s")).status_code == 404
            assert (await http.get("/sessions")).json() == {"sessions": [], "total": 0}
            assert (await http.get("/sse/connect", params={"session_id": "s"})).status_code == 403
        assert (await send(host, "s", request("echo", 1), BOB)).status_code == 404
        async with host.ws("s", BOB) as refused:
            assert (await refused.raw())["status"] == 403
        assert (await send(host, "s", request("echo", 1), ANN)).status_code == 200
        assert (await send(host, "s", request("echo", 2), ADMIN)).status_code == 200
        assert [(await stream.read())["event"] for _ in range(2)] == ["message", "message"]


async def test_what_is_asked_takes_the_scope_for_it(host: Served) -> None:
    async with host.sse("s", READER) as stream, host.ws("w", READER) as socket:
        await stream.read()
        await socket.read()
        assert (await send(host, "s", request("echo", 1), READER)).status_code == 403
        socket.say(request("echo", 1))
        assert "publish" in (await socket.read())["data"]["content"]["error"]["message"]
        async with host.client(ANN) as http:
            answer = await http.post("/sessions/broadcast", json={"event": "news", "data": {}})
            assert answer.status_code == 403
    assert host.face.seen == []


async def test_a_key_that_may_do_less_now_cannot_do_more_through_its_old_session(host: Served) -> None:
    async with host.sse("s", ANN) as stream:
        await stream.read()
        await send(host, "s", request("echo"), ANN)
    weaker = type(ANN)("ann", "key", READER.scopes)
    async with host.sse("s", weaker) as stream:
        await stream.read()
        await send(host, "s", request("echo"), ADMIN)
    assert [peer.caller for peer in host.face.seen] == [ANN, weaker]
    assert host.face.ended == host.face.seen[:1]


# The list, and the broadcast


async def test_sessions_are_listed_as_the_document_shows_them(host: Served) -> None:
    async with host.sse("s", ANN) as stream:
        await stream.read()
        await send(host, "s", request("echo", 1), ANN)
        await stream.read()
        async with host.client(ADMIN) as http:
            listed = (await http.get("/sessions")).json()
            shown = (await http.get("/sessions/s")).json()
    assert listed == {"sessions": [shown], "total": 1}
    assert shown["session_id"] == "s"
    assert shown["created_at"].endswith("Z")
    assert shown["last_activity"] >= shown["created_at"]
    assert shown["message_count"] == 2
    assert shown["client_info"] == {"user_agent": "test/1", "ip_address": "192.0.2.7"}
    assert (shown["connection"], shown["waiting"], shown["key"]) == ("sse", 0, "ann")


async def test_a_broadcast_reaches_every_session(host: Served) -> None:
    async with host.sse("a", ANN) as one, host.ws("b", BOB) as other:
        await one.read()
        await other.read()
        async with host.client(ADMIN) as http:
            answer = await http.post("/sessions/broadcast", json={"event": "announcement", "data": {"message": "soon"}})
        assert answer.json()["sessions"] == 2
        for stream in (one, other):
            frame = await stream.read()
            assert (frame["event"], frame["data"]) == ("announcement", {"message": "soon"})


@pytest.mark.parametrize(
    "event",
    ["message", "Connected", "lagged", "door.opened", "host.gap", "a\nb", "a\n", "", "a b", "1a", "ä", "a" * 65],
)
async def test_a_broadcast_cannot_pass_for_something_else(host: Served, event: str) -> None:
    async with host.client() as http:
        answer = await http.post("/sessions/broadcast", json={"event": event, "data": {}})
    assert answer.status_code == (409 if event.lower() in ("message", "connected", "lagged") else 400)


async def test_statistics_count_what_went_either_way(host: Served) -> None:
    async with host.sse("s") as stream, host.ws("w") as socket:
        await stream.read()
        await socket.read()
        await host.environment.publish("a")
        await stream.read()
        await socket.read()
        socket.say(request("echo", 1))
        await socket.read()
        now = host.sessions.statistics()
        assert (now.active_connections, now.total_connections) == (2, 2)
        await until(lambda: host.sessions.statistics().messages_sent == 3)
        assert now.messages_received == 1
    assert host.sessions.statistics().active_connections == 0


# WebSocket


async def test_a_websocket_carries_the_session_both_ways(host: Served) -> None:
    async with host.ws("w", since="0") as socket:
        connected = await socket.read()
        assert (connected["event"], connected["data"]["session_id"]) == ("connected", "w")
        socket.say(request("echo", 7, text="hello"))
        message = await socket.read()
        assert message["event"] == "message"
        assert message["data"]["type"] == "response"
        assert message["data"]["content"]["result"] == {"text": "hello"}
        await host.environment.publish("door.opened")
        event = await socket.read()
        assert (event["event"], event["id"], event["data"]["seq"]) == ("door.opened", "1", 1)


@pytest.mark.parametrize(
    ("frame", "code"), [("{", -32700), ("", -32700), ("3", -32600), ('{"jsonrpc": "2.0"}', -32600), ("[]", -32600)]
)
async def test_a_frame_that_is_no_message_is_answered_and_the_socket_stays(host: Served, frame: str, code: int) -> None:
    async with host.ws("w") as socket:
        await socket.read()
        socket.say(frame)
        content = (await socket.read())["data"]["content"]
        assert (content["id"], content["error"]["code"]) == (None, code)
        socket.say(request("echo", 1))
        assert (await socket.read())["data"]["content"]["id"] == 1


async def test_what_was_asked_over_a_socket_that_broke_is_answered_on_the_next(host: Served) -> None:
    async with anyio.create_task_group() as tasks:
        first = host.ws("w")

        async def ask_and_leave() -> None:
            async with first:
                await first.read()
                first.say(request("wait", 1))
                await until(lambda: host.face.seen)

        tasks.start_soon(ask_and_leave)
        await until(lambda: host.face.seen and host.sessions.find("w", ADMIN).line is None)
        async with host.ws("w") as second:
            await second.read()
            host.face.may_answer.set()
            assert (await second.read())["data"]["content"]["id"] == 1


async def test_a_flood_over_a_socket_is_answered_in_full_when_it_is_read(host: Served) -> None:
    async with host.ws("w") as socket:
        await socket.read()
        socket.stop_reading()
        for number in range(600):
            socket.say(request("echo", number))
        await anyio.wait_all_tasks_blocked()
        assert host.sessions.find("w", ADMIN).outbox.waiting <= 256 + 32
        socket.read_again()
        ids = {(await socket.read())["data"]["content"]["id"] for _ in range(600)}
    assert ids == set(range(600))


@pytest.mark.parametrize(
    ("path", "query", "status"), [("a b", {}, 400), ("w", {"match": "{"}, 400), ("w", {"since": "x"}, 400)]
)
async def test_a_websocket_that_cannot_be_is_refused_before_it_is_one(
    host: Served, path: str, query: dict[str, str], status: int
) -> None:
    async with host.ws(path, **query) as socket:
        start, body = await socket.raw(), await socket.raw()
    assert start["type"] == "websocket.http.response.start"
    assert start["status"] == status
    assert json.loads(body["body"])["error"]["code"] == -32602


async def test_who_asks_for_a_websocket_without_upgrading_is_told_so(host: Served) -> None:
    async with host.client() as http:
        answer = await http.get("/ws/w")
    assert answer.status_code == 426
    assert answer.headers["upgrade"] == "websocket"


async def test_asking_for_the_head_of_a_stream_makes_no_session(host: Served) -> None:
    async with host.client() as http:
        answer = await http.head("/sse/connect")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert host.sessions.seen_by(ADMIN) == []


# From here on over real sockets.


async def test_a_message_is_taken_before_it_is_answered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    may_answer = anyio.Event()
    monkeypatch.setattr(FakeFace, "wait", staticmethod(may_answer.wait))
    with anyio.fail_after(LIMIT_S):
        async with (
            serving(fake(monkeypatch, tmp_path)) as listening,  # type: ignore[arg-type]
            httpx2.AsyncClient(base_url=listening.url) as http,
            http.stream("GET", "/sse/connect?session_id=s") as stream,
        ):
            lines = stream.aiter_lines()
            while await anext(lines) != "event: connected":
                pass
            taken = await http.post("/sse/send/s", json=request("wait", 1))
            assert taken.json()["success"] is True
            may_answer.set()
            while await anext(lines) != "event: message":
                pass
            assert taken.json()["message_id"] in await anext(lines)


async def test_a_websocket_lasts_until_the_host_stops(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment = fake(monkeypatch, tmp_path)
    with anyio.fail_after(LIMIT_S):
        async with AsyncExitStack() as stack:
            async with serving(environment) as listening:  # type: ignore[arg-type]
                url = listening.url.replace("http", "ws") + "/ws/w"
                socket = await stack.enter_async_context(connect(url))
                assert json.loads(await socket.recv())["event"] == "connected"
                await socket.send(json.dumps(request("echo", 1)))
                assert json.loads(await socket.recv())["data"]["content"]["id"] == 1
                await (await socket.ping())
                await environment.publish("door.opened")
                assert json.loads(await socket.recv())["event"] == "door.opened"
                with pytest.raises(InvalidStatus, match="403"):
                    await stack.enter_async_context(connect(url, origin=Origin("http://evil.example")))
                with pytest.raises(InvalidStatus, match="400"):
                    await stack.enter_async_context(connect(f"{url}?match=nonsense"))
            with suppress(ConnectionClosed):  # said by the session, or a moment earlier by the server
                assert [json.loads(frame)["event"] async for frame in socket] == ["closed"]
            assert socket.close_code in (1001, 1012)
