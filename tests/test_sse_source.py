"""A plain event stream is a source: it is kept open, resumed, and given up only when its server says so."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hosting import Hosting, hosting, source_config, until
from sse_peer import HEAD, Asked, SsePeer, status, stream
from structlog.testing import capture_logs

from eventhost.config import ServerConfig, ServerKind, SseConfig, Timings
from eventhost.connections import EventSourceStatus
from eventhost.errors import ConnectionLost
from eventhost.sources.sse import SseConnection, SseEvent
from eventhost.sources.sse import connection as connecting
from eventhost.sources.sse import manager as managing
from eventhost.sources.sse import position as positions

pytestmark = pytest.mark.anyio

RUNNING, BACKOFF, ERROR, STOPPED = (
    EventSourceStatus.RUNNING,
    EventSourceStatus.BACKOFF,
    EventSourceStatus.ERROR,
    EventSourceStatus.STOPPED,
)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Hosting]:
    async with hosting(tmp_path) as made:
        yield made


def endpoint(host: Hosting, peer: SsePeer, **more: Any) -> ServerConfig:
    sse = SseConfig(**{"first_delay_s": 0.01, "longest_delay_s": 0.02, "user_agent": "us", **more})
    return host.server("mai", ServerKind.SSE, url=peer.url, sse=sse)


def sse_connection(host: Hosting) -> SseConnection:
    connection = host.pool.connections["mai"]
    assert isinstance(connection, SseConnection)
    return connection


# What an event becomes.


async def test_an_event_becomes_one_of_the_hosts(host: Hosting) -> None:
    said = (
        'event: chat.message\nid: 7\nretry: 10\ndata: {"text": "hi",\ndata: "n": 1}\n\n'
        "data: plain\n\nevent: list\ndata: [1, 2]\n\nid:\nevent: n\ndata: null\n\n"
    )
    async with SsePeer(stream(said, hold=True)).serving() as peer:
        client = host.source(endpoint(host, peer), metadata={"room": "a"})
        first, second, third, fourth = await host.events(4)
        assert (first.id, first.type, first.payload) == ("7", "chat.message", {"text": "hi", "n": 1})
        own = {"source": "mai", "source_name": "mai", "room": "a"}
        assert first.metadata == {"event_id": "7", "retry": 10, **own}
        assert (second.type, second.payload, second.metadata) == (
            "message",
            {"value": "plain"},
            {"event_id": "7", **own},
        )
        assert second.id != "7"
        assert (third.payload, fourth.payload, fourth.metadata) == ({"value": [1, 2]}, {"value": None}, own)
        status_ = client.status()
        assert (status_.status, status_.way_in, status_.received, status_.published) == (RUNNING, "sse", 4, 4)
        await client.disconnect()
        assert client.status().way_in == ""


async def test_names_become_types_as_configured(host: Hosting) -> None:
    said = "data: 1\n\nevent: a.b\ndata: 2\n\nevent: c\ndata: 3\n\n"
    async with SsePeer(stream(said, hold=True)).serving() as peer:
        host.source(endpoint(host, peer, types={"message": "mai.said", "*": "mai.*"}))
        assert [event.type for event in await host.events(3)] == ["mai.said", "mai.a.b", "mai.c"]


async def test_only_what_is_subscribed_is_taken_and_the_rest_is_passed_by(host: Hosting) -> None:
    said = "id: 1\nevent: a.x\ndata: 1\n\nid: 2\nevent: b\ndata: 2\n\nid: 3\nevent: host.c\ndata: 3\n\n"
    async with SsePeer(stream(said), stream(hold=True)).serving() as peer:
        client = host.source(endpoint(host, peer, subscribed=("a.*",)))
        await until(lambda: len(peer.asked) == 2)
        assert peer.asked[1].last_id == "3"
        assert [event.type for event in await host.all_events()] == ["a.x"]
        assert client.sse is not None
        assert client.sse.get_stats()["events_ignored"] == 2


async def test_other_types_than_the_source_may_say_are_refused(host: Hosting) -> None:
    async with SsePeer(
        stream("event: a\ndata: 1\n\nevent: host.x\ndata: 1\n\ndata: 2\n\n", hold=True)
    ).serving() as peer:
        client = host.source(endpoint(host, peer))
        await host.events(2)
        assert (client.received, client.rejected) == (3, 1)


async def test_an_event_that_is_too_large_is_refused_and_counted(
    host: Hosting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting.StreamParser.__init__, "__defaults__", ("", 1000))
    async with SsePeer(stream(b"id: 1\ndata: " + b"x" * 2000 + b"\n\ndata: b\n\n", hold=True)).serving() as peer:
        client = host.source(endpoint(host, peer))
        [event] = await host.events(1)
        assert (event.payload, event.metadata["event_id"]) == ({"value": "b"}, "1")
        assert client.rejected == 1
        assert "longer than" in str(client.connection.last_error)


# The request.


async def test_the_request_says_what_is_configured_and_resolves_secrets_when_it_is_made(tmp_path: Path) -> None:
    async with hosting(tmp_path) as host, SsePeer(stream(hold=True)).serving() as peer:

        def resolve(value: Any) -> Any:
            return json.loads(json.dumps(value).replace("${env:KEY}", "hunter2"))

        host.pool.surroundings = replace(host.pool.surroundings, resolve=resolve)
        config = endpoint(host, peer, auth_key="${env:KEY}")
        host.source(replace(config, headers={"X-Room": "a"}))
        await host.becomes("mai", RUNNING)
        [asked] = peer.asked
        wanted = {"accept": "text/event-stream", "authorization": "Bearer hunter2", "user-agent": "us", "x-room": "a"}
        assert wanted.items() <= asked.headers.items()
        assert asked.last_id is None
        assert "hunter2" not in repr(host.pool.connections["mai"].config)


async def test_a_redirect_is_followed_and_the_key_goes_to_no_other_server(host: Hosting) -> None:
    async with SsePeer(stream("data: 1\n\n", hold=True)).serving() as other:
        away = status(307, location=other.url)
        async with SsePeer(status(302, location="/moved?x=1"), away).serving() as peer:
            config = endpoint(host, peer, auth_key="hunter2")
            host.source(replace(config, headers={"X-Key": "hunter2"}))
            await host.events(1)
            assert [asked.target for asked in peer.asked] == ["/events", "/moved?x=1"]
            assert all(asked.headers["authorization"] == "Bearer hunter2" for asked in peer.asked)
            assert "hunter2" not in str(other.asked[0].headers)


@pytest.mark.parametrize(
    ("location", "error"),
    [("/events", "more than 10 redirects"), ("ftp://h/x", "from http to ftp"), ("https://h:x/", "no URL")],
)
async def test_a_redirect_that_leads_nowhere_is_an_error(host: Hosting, location: str, error: str) -> None:
    async with SsePeer(status(301, location=location)).serving() as peer:
        client = host.source(endpoint(host, peer))
        await host.becomes("mai", ERROR)
        assert error in str(client.connection.last_error)


async def test_a_key_that_no_header_can_hold_is_an_error_that_does_not_show_it(host: Hosting) -> None:
    async with SsePeer(stream(hold=True)).serving() as peer:
        client = host.source(endpoint(host, peer, auth_key="hunter2\n\x00x"))
        await host.becomes("mai", ERROR)
        assert "cannot be sent" in str(client.connection.last_error)
        assert "hunter2" not in str(client.connection.last_error)
        assert peer.asked == []


# Coming back.


def numbered(first: int, last: int) -> str:
    return "".join(f'id: {number}\ndata: {{"n": {number}}}\n\n' for number in range(first, last + 1))


def resuming(upto: int, *, most: int) -> Any:
    """A stream of numbered events that begins after the last id, and ends after `most`, in the middle of an event."""

    async def answer(connection: Any, asked: Asked) -> None:
        first = int(asked.last_id or 0) + 1
        last = min(upto, first + most - 1)
        await connection.send(HEAD + numbered(first, last).encode())
        if last < upto:
            await connection.send(f"id: {last + 1}\ndata: cut".encode())
        else:
            await anyio.sleep_forever()

    return answer


async def test_a_stream_that_breaks_off_is_resumed_without_a_hole_and_without_a_double(host: Hosting) -> None:
    async with SsePeer(resuming(50, most=7)).serving() as peer:
        client = host.source(endpoint(host, peer))
        events = await host.events(50)
        assert [event.payload["n"] for event in events] == list(range(1, 51))
        assert client.deduplicated == 0
        assert client.status().restarts == 7
        assert [asked.last_id for asked in peer.asked[:3]] == [None, "7", "14"]


async def test_a_server_that_goes_away_and_comes_back_is_found_again(host: Hosting) -> None:
    peer = SsePeer(stream(numbered(1, 2), hold=True), stream(numbered(3, 4), hold=True))
    async with peer.serving():
        host.source(endpoint(host, peer, max_attempts=-1))
        await host.events(2)
    await host.becomes("mai", RUNNING, BACKOFF, BACKOFF)
    async with peer.serving():
        events = await host.events(4)
        assert [event.payload["n"] for event in events] == [1, 2, 3, 4]
        assert peer.asked[-1].last_id == "2"


async def test_what_comes_again_after_a_resumption_is_taken_once(host: Hosting) -> None:
    async with SsePeer(stream(numbered(1, 5)), stream(numbered(3, 8), hold=True)).serving() as peer:
        client = host.source(endpoint(host, peer))
        events = await host.events(8)
        assert [event.id for event in events] == [str(number) for number in range(1, 9)]
        assert client.deduplicated == 3


async def test_the_position_outlives_the_host(tmp_path: Path) -> None:
    async with SsePeer(stream(numbered(1, 3), hold=True)).serving() as peer:
        for expected in (None, "3"):
            async with hosting(tmp_path) as host:
                host.source(endpoint(host, peer))
                await host.events(3)
                await until(lambda: (tmp_path / "var/state/mai/sse.json").exists())
            assert peer.asked[-1].last_id == expected


async def test_the_position_is_written_when_the_source_stops(host: Hosting, tmp_path: Path) -> None:
    file, go_on = tmp_path / "var/state/mai/sse.json", anyio.Event()

    async def answer(connection: Any, _: Asked) -> None:
        await connection.send(HEAD + numbered(1, 3).encode())
        await go_on.wait()
        await connection.send(numbered(4, 4).encode())
        await anyio.sleep_forever()

    async with SsePeer(answer).serving() as peer:
        client = host.source(endpoint(host, peer))
        await until(lambda: file.exists() and json.loads(file.read_text())["lastEventId"] == "3")
        go_on.set()
        await host.events(4)
        await client.disconnect()
        assert json.loads(file.read_text())["lastEventId"] == "4"


async def test_the_position_of_another_endpoint_is_none(tmp_path: Path) -> None:
    for _ in range(2):
        async with SsePeer(stream(numbered(1, 3), hold=True)).serving() as peer:
            async with hosting(tmp_path) as host:
                host.source(endpoint(host, peer))
                await host.events(3)
            assert peer.asked[0].last_id is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"url": 1}'])
async def test_a_position_that_cannot_be_read_is_none(tmp_path: Path, content: str) -> None:
    file = tmp_path / "var/state/mai/sse.json"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    async with hosting(tmp_path) as host, SsePeer(stream(numbered(1, 3), hold=True)).serving() as peer:
        with capture_logs() as logs:
            host.source(endpoint(host, peer))
            await host.events(3)
        assert [entry["logger"] for entry in logs if entry["event"] == "sse_position_unusable"] == ["mcp.sse_client"]


async def test_the_position_is_written_only_after_the_events_were_accepted(
    host: Hosting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(positions, "EVERY_S", 0)
    file = tmp_path / "var/state/mai/sse.json"
    accepted, go_on = anyio.Event(), anyio.Event()

    async def publish(events: Any) -> int:
        accepted.set()
        await go_on.wait()
        return await host.bus.publish_batch(events)

    host.sources._publish = publish
    async with SsePeer(stream(numbered(1, 2), hold=True)).serving() as peer:
        host.source(endpoint(host, peer))
        await accepted.wait()
        await until(file.exists)
        assert json.loads(file.read_text())["lastEventId"] == ""
        go_on.set()
        await until(lambda: json.loads(file.read_text())["lastEventId"] == "2")


async def test_the_stream_is_not_read_while_an_event_waits_for_the_journal(host: Hosting) -> None:
    taken, go_on, sent = 0, anyio.Event(), 0

    async def publish(events: Any) -> int:
        nonlocal taken
        taken += 1
        await go_on.wait()
        return await host.bus.publish_batch(events)

    async def flood(connection: Any, _: Asked) -> None:
        nonlocal sent
        await connection.send(HEAD)
        for _ in range(400):
            await connection.send(b"data: " + b"x" * 65_536 + b"\n\n")
            sent += 1
        await anyio.sleep_forever()

    host.sources._publish = publish
    async with SsePeer(flood).serving() as peer:
        host.source(endpoint(host, peer))
        await until(lambda: taken)
        before = -1
        while before != sent:  # until the pipe is full
            before = sent
            await anyio.sleep(0.1)
        assert (taken, sent < 400) == (1, True)
        go_on.set()
        await until(lambda: host.bus.journal.head == 400)


async def test_a_server_without_ids_cannot_be_resumed_and_the_gap_is_told(host: Hosting) -> None:
    gaps: list[tuple[str, int, int]] = []
    host.pool.on_gap = lambda *gap: gaps.append(gap)
    async with SsePeer(stream("data: 1\n\n"), stream("id: 4\ndata: 2\n\n"), stream(hold=True)).serving() as peer:
        host.source(endpoint(host, peer))
        await until(lambda: len(peer.asked) == 3)
        await host.becomes("mai", RUNNING, BACKOFF, RUNNING, BACKOFF, RUNNING)
        [(name, from_ms, to_ms)] = gaps  # the second time there was an id
        assert name == "mai"
        assert from_ms <= to_ms


async def test_a_gap_begins_where_the_stream_was_heard_last(host: Hosting) -> None:
    gaps: list[tuple[str, int, int]] = []
    host.pool.on_gap = lambda *gap: gaps.append(gap)
    async with SsePeer(stream("data: 1\n\n", hold=True), stream(hold=True)).serving() as peer:
        host.source(endpoint(host, peer, read_timeout_s=0.1))
        await until(lambda: gaps)
        [event] = await host.events(1)
        assert gaps[0][1] <= event.timestamp


# Pauses.


def pause(host: Hosting, failures: int) -> float:
    return sse_connection(host)._delay_s(failures)


@pytest.fixture
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting.random, "uniform", lambda low, high: high)


@pytest.mark.usefixtures("no_jitter")
async def test_pauses_grow_by_the_factor_up_to_the_longest(host: Hosting) -> None:
    peer = SsePeer()
    host.sources.add(source_config(endpoint(host, peer, first_delay_s=1, longest_delay_s=60, backoff_factor=3)))
    assert [pause(host, failures) for failures in range(7)] == [1, 1, 3, 9, 27, 60, 60]
    assert pause(host, 100_000) == 60


async def test_pauses_differ_so_that_many_do_not_come_back_at_once(host: Hosting) -> None:
    host.sources.add(source_config(endpoint(host, SsePeer(), first_delay_s=8, longest_delay_s=60)))
    pauses = {pause(host, 1) for _ in range(100)}
    assert len(pauses) > 50
    assert all(6 <= each <= 8 for each in pauses)


@pytest.mark.usefixtures("no_jitter")
@pytest.mark.parametrize(("retry", "pauses"), [("3000", [3, 6]), ("0", [0.1, 0.2]), ("90000", [90, 90])])
async def test_the_reconnection_time_of_the_server_is_the_shortest_pause(
    host: Hosting, retry: str, pauses: list[float]
) -> None:
    async with SsePeer(stream(f"retry: {retry}\n\n")).serving() as peer:
        host.source(endpoint(host, peer, longest_delay_s=60))
        with capture_logs() as logs:
            await host.becomes("mai", BACKOFF)
        assert [pause(host, failures) for failures in (1, 2)] == pauses
        assert [entry["delay_s"] for entry in logs if entry["event"] == "source_backoff"][:1] in ([], pauses[:1])


@pytest.mark.usefixtures("no_jitter")
async def test_a_connection_that_delivered_an_event_starts_the_pauses_anew(host: Hosting) -> None:
    answers = [status(500), status(500), status(500), stream(), stream("data: 1\n\n"), status(500), stream(hold=True)]
    with capture_logs() as logs:
        async with SsePeer(*answers).serving() as peer:
            host.source(endpoint(host, peer, first_delay_s=0.01, longest_delay_s=60))
            await until(lambda: len(peer.asked) == 7)
    # Attempts count anew once a stream was there at all.
    told = [(entry["attempt"], entry["delay_s"]) for entry in logs if entry["event"] == "source_backoff"]
    assert told[:6] == [(1, 0.01), (2, 0.02), (3, 0.04), (1, 0.08), (1, 0.01), (2, 0.01)]


@pytest.mark.parametrize("number", [429, 503])
async def test_retry_after_is_heeded(host: Hosting, number: int) -> None:
    in_an_hour = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    for said, least, most in (("120", 120, 120), (in_an_hour, 3000, 3600)):
        async with SsePeer(status(number, retry_after=said)).serving() as peer:
            with capture_logs() as logs:
                client = host.source(endpoint(host, peer))
                await host.becomes("mai", BACKOFF)
            [delay_s] = [entry["delay_s"] for entry in logs if entry["event"] == "source_backoff"]
            assert least <= delay_s <= most
            assert f"HTTP {number}" in str(client.connection.last_error)
            await client.disconnect()
            host.statuses.clear()


async def test_a_silent_stream_is_given_up_and_asked_for_again(host: Hosting) -> None:
    async with SsePeer(stream(":\n\n", hold=True)).serving() as peer:
        client = host.source(endpoint(host, peer, read_timeout_s=0.05))
        await until(lambda: len(peer.asked) > 2)
        assert client.connection.last_error == "said nothing for 0.05 s (read_timeout)"


async def test_a_server_that_does_not_answer_is_given_up(host: Hosting) -> None:
    async def never(*_: Any) -> None:
        await anyio.sleep_forever()

    async with SsePeer(never).serving() as peer:
        client = host.source(endpoint(host, peer, connection_timeout_s=0.05))
        await until(lambda: len(peer.asked) > 2)
        assert client.connection.last_error == "did not answer within 0.05 s (connection_timeout)"


# The end.


async def test_204_stops_the_source(host: Hosting) -> None:
    async with SsePeer(stream("data: 1\n\n"), status(204), stream("data: 2\n\n", hold=True)).serving() as peer:
        client = host.source(endpoint(host, peer))
        await host.becomes("mai", RUNNING, BACKOFF, STOPPED)
        assert "wants no further connection" in str(client.connection.last_error)
        assert len(peer.asked) == 2
        client.start()
        await host.events(2)


@pytest.mark.parametrize("number", [401, 403])
async def test_401_and_403_are_an_error_and_no_loop(host: Hosting, number: int) -> None:
    async with SsePeer(status(number), stream("data: 1\n\n", hold=True)).serving() as peer:
        client = host.source(replace(endpoint(host, peer), timings=Timings(error_retry_s=0.01)))
        await host.becomes("mai", ERROR)
        assert "correct auth_key" in str(client.connection.last_error)
        assert sse_connection(host)._pause_s(1) == float("inf")
        assert len(peer.asked) == 1
        await client.disconnect()
        client.start()
        await host.events(1)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (status(200, content_type="text/html"), "with text/html, not text/event-stream"),
        (status(200), "with no content type"),
        (status(202, content_type="text/event-stream"), "HTTP 202"),
    ],
)
async def test_what_is_no_event_stream_is_an_error(host: Hosting, answer: Any, error: str) -> None:
    async with SsePeer(answer).serving() as peer:
        client = host.source(endpoint(host, peer))
        await host.becomes("mai", ERROR)
        assert error in str(client.connection.last_error)
        assert len(peer.asked) == 1


@pytest.mark.parametrize(("most", "asked"), [(0, 1), (3, 4)])
async def test_after_so_many_attempts_it_is_in_error_until_it_is_tried_again(
    host: Hosting, most: int, asked: int
) -> None:
    async with SsePeer(status(404)).serving() as peer:
        client = host.source(endpoint(host, peer, max_attempts=most))
        await host.becomes("mai", ERROR)
        assert len(peer.asked) == asked
        assert f"HTTP 404 Whatever; gave up, as max_reconnect_attempts is {most}" in str(client.connection.last_error)


async def test_after_an_error_it_is_tried_again_when_error_retry_says_so(host: Hosting) -> None:
    async with SsePeer(status(404), status(404), stream("data: 1\n\n", hold=True)).serving() as peer:
        host.source(replace(endpoint(host, peer, max_attempts=1), timings=Timings(error_retry_s=0.01)))
        await host.becomes("mai", ERROR, RUNNING)
        await host.events(1)


async def test_without_reconnection_the_first_loss_is_the_last(host: Hosting) -> None:
    async with SsePeer(stream("data: 1\n\n")).serving() as peer:
        client = host.source(endpoint(host, peer, reconnect=False))
        await host.becomes("mai", RUNNING, ERROR)
        assert "enable_reconnect is false" in str(client.connection.last_error)
        assert len(peer.asked) == 1


async def test_a_stream_that_is_stopped_ends_at_once_and_begins_again_by_hand(host: Hosting) -> None:
    async with SsePeer(stream(numbered(1, 1), hold=True), stream(numbered(2, 2), hold=True)).serving() as peer:
        client = host.source(endpoint(host, peer))
        await host.events(1)
        await client.disconnect()
        assert client.get_status() is STOPPED
        client.start()
        await host.events(2)
        assert peer.asked[1].last_id == "1"


async def test_it_can_be_stopped_while_it_connects(host: Hosting) -> None:
    async def never(*_: Any) -> None:
        await anyio.sleep_forever()

    async with SsePeer(never).serving() as peer:
        client = host.source(endpoint(host, peer))
        await until(lambda: peer.asked)
        await client.disconnect()
        assert (client.get_status(), client.connection.last_error) == (STOPPED, None)


async def test_it_has_no_tools_and_keeps_nobody_waiting_for_them(host: Hosting) -> None:
    async with SsePeer(stream(hold=True)).serving() as peer:
        host.source(endpoint(host, peer))
        await host.becomes("mai", RUNNING)
        assert await host.tools.get_tools() == []
        with pytest.raises(ConnectionLost):
            await host.tools.execute_tool("mai__say")


# What Python users see.


async def test_handlers_get_what_comes(host: Hosting) -> None:
    all_of_them: list[SseEvent] = []
    chats: list[SseEvent] = []

    async def slowly(event: SseEvent) -> None:
        await anyio.lowlevel.checkpoint()
        chats.append(event)

    def fail(event: SseEvent) -> None:
        raise ValueError("mine")

    async with SsePeer(stream(hold=True)).serving() as silent:
        client = host.sources.add(source_config(endpoint(host, silent)))
    sse = client.sse
    assert sse is not None
    sse.register_event_handler("chat", slowly)
    sse.register_event_handler("chat", fail)
    sse.register_global_event_handler(all_of_them.append)
    assert (sse.is_running(), sse.is_connected()) == (False, False)
    said = "event: chat\nid: 1\nretry: 5\ndata: hi\n\ndata: {}\n\n"
    async with SsePeer(stream(said, hold=True)).serving() as peer:
        with capture_logs() as logs:
            await client.reconfigure(source_config(endpoint(host, peer)))
            client.start()
            await until(lambda: len(all_of_them) == 2)
        [chat] = chats
        assert (chat.event_type, chat.data, chat.event_id, chat.retry) == ("chat", {"value": "hi"}, "1", 5)
        assert (all_of_them[1].event_type, all_of_them[1].data, all_of_them[1].retry) == ("message", {}, None)
        assert all_of_them[0].timestamp <= all_of_them[1].timestamp
        [entry] = [entry for entry in logs if entry["event"] == "sse_handler_failed"]
        assert (entry["logger"], "mine" in entry["error"]) == ("mcp.event_handler", True)
        stats = sse.get_stats()
        expected = {
            "connected": True,
            "running": True,
            "total_events_received": 2,
            "events_by_type": {"chat": 1, "message": 1},
            "reconnect_attempts": 0,
            "last_event_id": "1",
            "handler_errors": 1,
        }
        assert expected.items() <= stats.items()
        assert (sse.is_running(), sse.is_connected()) == (True, True)
        assert client.get_status() is RUNNING
        assert sse.get_recent_events(1) == all_of_them[1:]
        assert sse.get_recent_events(10) == all_of_them
        assert sse.get_recent_events(0) == []


async def test_a_handler_that_takes_too_long_is_given_up(host: Hosting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(managing, "HANDLER_S", 0.01)
    heard: list[SseEvent] = []

    async def never(event: SseEvent) -> None:
        await anyio.sleep_forever()

    async with SsePeer(stream(numbered(1, 2), hold=True)).serving() as peer:
        client = host.sources.add(source_config(endpoint(host, peer)))
        assert client.sse is not None
        client.sse.register_global_event_handler(never)
        client.sse.register_global_event_handler(heard.append)
        with capture_logs() as logs:
            client.start()
            await until(lambda: len(heard) == 2)
        assert client.sse.get_stats()["handler_errors"] == 2
        told = [entry["error"] for entry in logs if entry["event"] == "sse_handler_failed"]
        assert told == ["took longer than 0.01 s"] * 2


async def test_handlers_have_had_all_that_came_when_a_source_is_stopped(host: Hosting) -> None:
    heard: list[SseEvent] = []

    async def handler(event: SseEvent) -> None:
        await anyio.sleep(0.001)
        heard.append(event)

    async with SsePeer(stream(numbered(1, 50), hold=True)).serving() as peer:
        client = host.sources.add(source_config(endpoint(host, peer)))
        assert client.sse is not None
        client.sse.register_global_event_handler(handler)
        client.start()
        await host.events(50)
        await client.disconnect()
        assert len(heard) == 50


async def test_handlers_that_lag_miss_the_oldest_and_slow_nobody_down(host: Hosting) -> None:
    heard: list[str | None] = []
    go_on = anyio.Event()

    async def handler(event: SseEvent) -> None:
        await go_on.wait()
        heard.append(event.event_id)

    async with SsePeer(stream(numbered(1, 50), hold=True)).serving() as peer:
        client = host.sources.add(source_config(endpoint(host, peer, buffer=5)))
        assert client.sse is not None
        client.sse.register_global_event_handler(handler)
        client.start()
        await host.events(50)
        await until(lambda: client.sse and client.sse.get_stats()["total_events_received"] == 50)
        go_on.set()
        await until(lambda: heard[-1:] == ["50"])
        assert len(heard) <= 6
        assert client.sse.get_stats()["handler_events_missed"] == 50 - len(heard)
        assert [event.event_id for event in client.sse.get_recent_events(100)] == ["46", "47", "48", "49", "50"]
