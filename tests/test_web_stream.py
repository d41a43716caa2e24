"""What watchers share: each sees all that it wants, once and in order, whatever the others do."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import pytest
from hosting import until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.types import Message
from test_web import FakeEnvironment

from eventhost.bus import EnvEventBus, Lagged
from eventhost.config.model import HttpConfig
from eventhost.event import EnvEvent
from eventhost.journal import Entry, MemoryJournal
from eventhost.wanted import Wanted
from eventhost.web.app import create_app
from eventhost.web.control_socket import socket_name
from eventhost.web.events import broadcast as room
from eventhost.web.events.broadcast import Broadcast, Piece, Watcher
from eventhost.web.events.stream import EventStream, sse
from eventhost.web.events.wanted import wanted
from eventhost.web.server import serving

pytestmark = pytest.mark.anyio

ALL = Wanted()


def event(number: int, event_type: str = "t", size: int = 0) -> EnvEvent:
    return EnvEvent(str(number), event_type, number, {"source_name": "s"}, {"n": number, "text": "x" * size})


class Hall:
    """A bus, its broadcast, and a count of what was published."""

    def __init__(self, capacity: int = 100_000, heartbeat_s: float = 600) -> None:
        self.bus = EnvEventBus(MemoryJournal(capacity))
        self.broadcast = Broadcast(self.bus, heartbeat_s)

    async def publish(self, count: int, event_type: str = "t", size: int = 0) -> None:
        head = self.bus.journal.head
        await self.bus.publish_batch([event(head + 1 + n, event_type, size) for n in range(count)])


def numbers(piece: Piece | None) -> list[int]:
    assert piece is not None
    return [item.seq if isinstance(item, Entry) else -item.missed for item in piece.items]


async def see(watcher: Watcher, upto: int) -> list[int]:
    """What a watcher is handed until it has come so far."""
    seen: list[int] = []
    while watcher.position < upto:
        seen += numbers(await watcher.next())
    return seen


async def test_watchers_of_the_same_events_share_a_piece_that_is_made_once() -> None:
    hall, made = Hall(), 0

    def make(items: Any) -> bytes:
        nonlocal made
        made += 1
        return sse(items)

    wanted = Wanted.parse("a,b"), Wanted.parse(" b, a")
    with hall.broadcast.watch(wanted[0]) as one, hall.broadcast.watch(wanted[1]) as other:
        await hall.publish(3, "a")
        first, second = await one.next(), await other.next()
        assert first is second is not None
        assert first.made(make) == second.made(make)
    assert made == 1
    assert hall.broadcast.statistics() == room.BroadcastStatistics(0, 0)
    assert hall.bus.statistics().subscriptions == 0


async def test_watchers_of_other_events_do_not() -> None:
    hall = Hall()
    with hall.broadcast.watch(Wanted.parse("a")) as one, hall.broadcast.watch(Wanted.parse("b")) as other:
        await hall.publish(2, "a")
        await hall.publish(1, "b")
        assert numbers(await one.next()) == [1, 2]
        assert numbers(await other.next()) == [3]
        assert hall.broadcast.statistics() == room.BroadcastStatistics(2, 2)


@pytest.mark.parametrize(
    ("types", "match", "seen"),
    [
        ("*", None, [1, 2]),
        ("a", None, [1]),
        ("*", '{"payload": {"n": [2]}}', [2]),
        ("a", '{"payload": {"n": [2]}}', []),
        ("*", '{"type": [{"prefix": "host."}]}', []),
        ("host.*", '{"payload": {"n": [{"numeric": [">", 0]}]}}', [3]),
    ],
)
async def test_type_and_match_both_decide(types: str, match: str | None, seen: list[int]) -> None:
    hall = Hall()
    with hall.broadcast.watch(wanted(types, match)) as watcher:
        for event_type in ("a", "b", "host.c"):
            await hall.publish(1, event_type)
        await hall.bus.aclose()
        found = []
        while (piece := await watcher.next()) is not None:
            found += numbers(piece)
    assert found == seen


@pytest.mark.parametrize(
    ("match", "place"),
    [
        ("{", "match: not JSON"),
        ("[" * 5000, "match: not JSON"),
        ("[]", "match: "),
        ('{"payload": {"n": []}}', "match.payload.n: "),
        ('{"payload": {"n": [{"numeric": ["!", 5]}]}}', "match.payload.n[0]"),
        ('{"a": ["' + "x" * 20_000 + '"]}', "at most 16384"),
    ],
)
def test_a_bad_pattern_is_refused_with_its_place(match: str, place: str) -> None:
    with pytest.raises(HTTPException) as refused:
        wanted("*", match)
    assert refused.value.status_code == 400
    assert place in refused.value.detail


async def test_a_watcher_that_comes_back_misses_nothing_and_then_shares() -> None:
    hall = Hall()
    with hall.broadcast.watch(ALL) as live:
        await hall.publish(1000)
        assert await see(live, 1000) == list(range(1, 1001))
        with hall.broadcast.watch(ALL, 300) as back:
            assert await see(back, 1000) == list(range(301, 1001))
            await hall.publish(1)
            assert await back.next() is await live.next()


async def test_a_watcher_that_was_stalled_reads_for_itself_what_the_others_had() -> None:
    hall = Hall()
    with hall.broadcast.watch(ALL) as stalled, hall.broadcast.watch(ALL) as quick:
        for _ in range(30):
            await hall.publish(500)
            await see(quick, hall.bus.journal.head)
        assert await see(stalled, 15_000) == list(range(1, 15_001))


async def test_who_comes_new_is_not_kept_by_those_who_stalled() -> None:
    hall = Hall()
    with hall.broadcast.watch(ALL) as stalled:
        await hall.publish(2000)
        with hall.broadcast.watch(ALL) as new:
            await hall.publish(1)
            assert numbers(await new.next()) == [2001]
            assert await see(stalled, 2001) == list(range(1, 2002))


async def test_what_is_no_longer_held_is_told_with_the_place_to_resume() -> None:
    hall = Hall(capacity=10)
    with hall.broadcast.watch(ALL) as watcher:
        await hall.publish(25)
        piece = await watcher.next()
        assert piece is not None
        assert piece.items[0] == Lagged(15, 16)
        assert numbers(piece)[1:] == list(range(16, 26))


async def test_long_events_come_in_several_pieces() -> None:
    hall = Hall()
    with hall.broadcast.watch(ALL) as live, hall.broadcast.watch(ALL, 0) as late:
        await hall.publish(20, size=30_000)
        for watcher in (live, late):
            lengths = []
            while watcher.position < 20:
                lengths.append(len(numbers(await watcher.next())))
            assert lengths == [3, 3, 3, 3, 3, 3, 2]


async def test_while_nothing_happens_every_watcher_has_a_heartbeat() -> None:
    hall = Hall(heartbeat_s=0.001)
    with hall.broadcast.watch(ALL) as one, hall.broadcast.watch(ALL) as other, anyio.fail_after(30):
        for watcher in (one, other, one, one):
            piece = await watcher.next()
            assert piece is not None
            assert not piece.items
            assert sse(piece.items) == b": still here\n\n"
        await hall.publish(1)
        seen = []
        while not seen:
            seen = numbers(await other.next())
        assert seen == [1]


async def test_a_closed_bus_ends_all_after_the_last_event() -> None:
    hall = Hall()
    ended: list[list[int]] = []

    async def watch(after: int | None) -> None:
        seen: list[int] = []
        with hall.broadcast.watch(ALL, after) as watcher:
            while (piece := await watcher.next()) is not None:
                seen += numbers(piece)
        ended.append(seen)

    await hall.publish(2)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for after in (None, 1, 0):
                tasks.start_soon(watch, after)
            await anyio.wait_all_tasks_blocked()
            await hall.publish(2)
            await hall.bus.aclose()
    assert sorted(ended) == [[1, 2, 3, 4], [2, 3, 4], [3, 4]]


async def test_when_the_one_who_reads_leaves_another_goes_on() -> None:
    hall = Hall()
    seen: list[int] = []

    async def watch(scope: anyio.CancelScope, into: list[int]) -> None:
        with scope, hall.broadcast.watch(ALL) as watcher:
            while (piece := await watcher.next()) is not None:
                into += numbers(piece)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            scopes = [anyio.CancelScope() for _ in range(3)]
            for number, scope in enumerate(scopes):
                tasks.start_soon(watch, scope, seen if number == 2 else [])
                await anyio.wait_all_tasks_blocked()
            for scope in scopes[:2]:
                scope.cancel()
                await anyio.wait_all_tasks_blocked()
                await hall.publish(1)
                await anyio.wait_all_tasks_blocked()
            scopes[2].cancel()
    assert seen == [1, 2]


Step = tuple[str, int, int]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 40), st.integers(0, 1)),
        st.tuples(st.just("come"), st.integers(0, 100), st.integers(0, 3)),
        st.tuples(st.just("take"), st.integers(0, 7), st.integers(1, 6)),
        st.tuples(st.just("give up"), st.integers(0, 7), st.just(0)),
        st.tuples(st.just("leave"), st.integers(0, 7), st.just(0)),
    ),
    max_size=60,
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_KEPT_EVENTS", 20)
    monkeypatch.setattr(room, "_CATCH_UP_EVENTS", 7)
    monkeypatch.setattr(room, "PIECE_BYTES", 1000)


class Client:
    """A watcher, what it wants, and what it has seen."""

    def __init__(self, hall: Hall, percent: int, wanted: str) -> None:
        self.start = hall.bus.journal.head * percent // 100
        self.wanted = wanted
        self.watcher = hall.broadcast.watch(Wanted.parse(wanted), self.start)
        self.watcher.__enter__()
        self.seen: list[int] = []


@given(STEPS)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_happens_each_sees_all_that_it_wants_once_and_in_order(small: None, steps: list[Step]) -> None:
    async def run() -> None:
        hall = Hall()
        clients: list[Client] = []
        types: list[str] = []

        async def take(client: Client) -> None:
            client.seen += numbers(await client.watcher.next())

        for verb, one, two in steps:
            if verb == "publish":
                types.extend(["a", "b"][two] for _ in range(one))
                await hall.publish(one, ["a", "b"][two])
            elif verb == "come" and len(clients) < 8:
                clients.append(Client(hall, one, ["a", "b", "*", "a"][two]))
            elif clients and verb in ("take", "give up"):
                client = clients[one % len(clients)]
                for _ in range(max(1, two)):
                    # Where nothing is left it waits, maybe as the one that reads for all, and is given up.
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(take, client)
                        for _ in range(6 if verb == "take" else 1):
                            await anyio.lowlevel.checkpoint()
                        tasks.cancel_scope.cancel()
            elif clients and verb == "leave":
                clients.pop(one % len(clients)).watcher.__exit__(None, None, None)
        await hall.bus.aclose()
        for client in clients:
            while (piece := await client.watcher.next()) is not None:
                client.seen += numbers(piece)
            client.watcher.__exit__(None, None, None)
            wanted = [seq for seq, of in enumerate(types, 1) if seq > client.start and client.wanted in (of, "*")]
            assert client.seen == wanted
        assert hall.bus.statistics().subscriptions == 0

    anyio.run(run)


# As a response.


@asynccontextmanager
async def http(environment: FakeEnvironment) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app=create_app(environment))  # type: ignore[arg-type]
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8001") as client:
        yield client


async def test_a_client_that_does_not_read_is_ended() -> None:
    hall = Hall()
    aborted = anyio.Event()
    pieces = 0

    async def send(message: Message) -> None:
        nonlocal pieces
        pieces += 1
        if pieces > 3:
            await anyio.sleep_forever()

    async def receive() -> Message:
        await anyio.sleep_forever()
        raise AssertionError

    stream = EventStream(hall.broadcast.watch(ALL, 0), set(), timeout_s=0.04)
    await hall.publish(2000)
    with anyio.fail_after(30):
        await stream({"type": "http", "state": {"abort": aborted.set}}, receive, send)
    assert aborted.is_set()
    assert hall.broadcast.statistics().watchers == 0


async def test_the_connection_of_a_client_that_does_not_read_is_cut(tmp_path: Path) -> None:
    environment = FakeEnvironment(tmp_path, http=HttpConfig(port=0, connection_timeout_s=0.1))
    with anyio.fail_after(60):
        async with serving(environment) as listening:
            with socket_name(listening.control_socket) as name:
                client = await anyio.connect_unix(name)
            async with client:
                await client.send(b"GET /events?since=0 HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
                await until(lambda: environment.bus.statistics().subscriptions == 1)
                await environment.bus.publish_batch([event(number, size=2000) for number in range(5000)])
                await until(lambda: environment.bus.statistics().subscriptions == 0)
                # It is gone though nothing of it was read: there is nobody left to send to.
                with suppress(anyio.BrokenResourceError):
                    while True:
                        await client.send(b"x")
                        await anyio.sleep(0.003)


async def test_a_client_that_reads_nothing_because_there_is_nothing_stays() -> None:
    hall = Hall(heartbeat_s=0.01)
    beats = 0

    async def send(message: Message) -> None:
        nonlocal beats
        beats += message.get("body") == b": still here\n\n"
        if beats == 20:
            left.set()

    async def receive() -> Message:
        await left.wait()
        return {"type": "http.disconnect"}

    left = anyio.Event()
    with anyio.fail_after(30):
        await EventStream(hall.broadcast.watch(ALL), set(), timeout_s=0.04)({"type": "http"}, receive, send)
    assert beats >= 20


async def test_a_stream_can_begin_at_a_time(tmp_path: Path) -> None:
    environment = FakeEnvironment(tmp_path)
    await environment.publish_event({"type": "a", "payload": {"room": "hall"}})
    await environment.publish_event({"type": "b", "payload": {"room": "attic"}})
    await environment.bus.aclose()  # so that the stream ends
    query = {"since": "2020-01-01T00:00:00Z", "match": json.dumps({"payload": {"room": ["attic"]}})}
    async with http(environment) as client:
        answer = await client.get("/events", params=query, headers={"accept": "text/event-stream"})
        bad = await client.get("/events", params={"match": "{}{"}, headers={"accept": "text/event-stream"})
    blocks = answer.text.split("\n\n")
    assert blocks[0] == "retry: 2000\nid: 0"
    assert blocks[1].startswith("id: 2\nevent: b\ndata: {")
    assert blocks[2:] == [""]
    assert (bad.status_code, bad.json()["error"]["code"]) == (400, -32602)
