"""The HTTP face: its routes, who is let in, live streams, and how it starts and stops."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import httpx2
import pytest
from anyio.abc import SocketStream

from eventhost.bus import EnvEventBus
from eventhost.config.model import HttpConfig, RateLimit
from eventhost.connections.states import EventSourceStatus
from eventhost.errors import ConfigError, EventhostError, NotFound, Problem
from eventhost.event import EnvEvent, RawEvent, SourceProfile, normalize
from eventhost.journal import MemoryJournal
from eventhost.rules.retention import LetterStatistics
from eventhost.sources.status import SourceStatus
from eventhost.web.access.guard import MAX_BODY_BYTES, Guard
from eventhost.web.app import create_app
from eventhost.web.control_socket import CONTROL_SOCKET, socket_name
from eventhost.web.server import Listening, serving

pytestmark = pytest.mark.anyio

_STOPPED = SourceStatus("door", EventSourceStatus.STOPPED, "", "", None, None, None, 0, 0, 0, 0, 0, None, None, [])


@dataclass(frozen=True)
class Report:
    restarted: list[str]
    started: list[str]
    stopped: list[str]
    problems: list[Problem]


@dataclass
class FakeEnvironment:
    """What the HTTP face asks of an environment, without any process; the bus is a real one."""

    root: Path
    bus: EnvEventBus = field(default_factory=lambda: EnvEventBus(MemoryJournal(capacity=5000)))
    http: HttpConfig = field(default_factory=lambda: HttpConfig(port=0, rate_limit=RateLimit(enabled=False)))
    door: SourceStatus = _STOPPED

    @property
    def config(self) -> Any:
        return SimpleNamespace(id="test_env", http=self.http)

    async def publish_event(self, event: Mapping[str, Any], *, source: str = "api") -> tuple[EnvEvent, int]:
        events, seq = await self.publish_events([RawEvent.from_value(event)], source=source)
        return events[0], seq

    async def publish_events(
        self, events: list[RawEvent | EnvEvent], *, source: str = "api", **_: Any
    ) -> tuple[list[EnvEvent], int]:
        normal = [normalize(event, SourceProfile(source)) for event in events]
        return normal, await self.bus.publish_batch(normal)

    def source_statuses(self) -> list[SourceStatus]:
        return [self.door]

    def source_status(self, name: str) -> SourceStatus:
        if name != "door":
            raise NotFound(f"no source is called {name!r}; there is: door")
        return self.door

    def source_config(self, name: str) -> None:
        return None

    async def start_source(self, name: str) -> None:
        self.source_status(name)
        self.door = replace(self.door, status=EventSourceStatus.RUNNING)

    async def stop_source(self, name: str) -> None:
        self.source_status(name)
        self.door = replace(self.door, status=EventSourceStatus.STOPPED)

    async def restart_source(self, name: str) -> None:
        raise ConfigError([Problem("eventsources/door/config.jsonc", "no such program", "install it", "command", 2, 5)])

    enable_source = start_source
    disable_source = stop_source

    async def reload(self) -> Report:
        return Report(["door"], [], [], [])

    def rule_statistics(self) -> list[Any]:
        return []

    def letter_statistics(self) -> LetterStatistics:
        return LetterStatistics()


@pytest.fixture
def environment(tmp_path: Path) -> FakeEnvironment:
    return FakeEnvironment(tmp_path)


def client(environment: FakeEnvironment, **options: Any) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app=Guard(create_app(environment), port=8001))
    return httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8001", **options)


async def publish(environment: FakeEnvironment, *types: str) -> None:
    for event_type in types:
        await environment.publish_event({"type": event_type, "payload": {"of": event_type}})


async def test_health_says_that_the_host_is_alive(environment: FakeEnvironment) -> None:
    async with client(environment) as http:
        answer = (await http.get("/health")).json()
    assert answer["status"] == "healthy"
    assert answer["timestamp"].endswith("Z")
    assert answer.keys() == {"status", "timestamp", "version", "uptime"}


async def test_status_counts_sources_by_state(environment: FakeEnvironment) -> None:
    async with client(environment) as http:
        answer = (await http.get("/status")).json()
    assert answer["id"] == "test_env"
    assert answer["pid"] == os.getpid()
    assert answer["sources"] == {"stopped": 1}
    assert answer["bus"]["journal"]["kind"] == "memory"


async def test_a_source_is_shown_and_told_what_to_do(environment: FakeEnvironment) -> None:
    async with client(environment) as http:
        assert (await http.get("/sources")).json()["sources"][0]["status"] == "stopped"
        assert (await http.post("/sources/door/start")).json()["status"] == "running"
        assert (await http.get("/sources/door")).json()["status"] == "running"
        assert (await http.post("/sources/door/disable")).json()["status"] == "stopped"


async def test_an_unknown_source_is_not_found_and_the_answer_lists_what_there_is(environment: FakeEnvironment) -> None:
    async with client(environment) as http:
        answer = await http.post("/sources/dor/start")
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert error["code"] == -32602
    assert "there is: door" in error["message"]
    assert answer.json()["timestamp"].endswith("Z")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, -32601),
        ("DELETE", "/events", 405, -32600),
        ("GET", "/sources/door/start", 405, -32600),
        ("POST", "/sources/door/explode", 404, -32601),
        ("GET", "/events?limit=0", 400, -32602),
        ("GET", "/events?limit=10001", 400, -32602),
        ("GET", "/events?limit=ten", 400, -32602),
        ("GET", "/events?since=yesterday", 400, -32602),
        ("GET", "/events?since=-1", 400, -32602),
    ],
)
async def test_every_error_has_one_shape(
    environment: FakeEnvironment, method: str, path: str, status: int, code: int
) -> None:
    async with client(environment) as http:
        answer = await http.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert answer.json()["error"]["message"]


async def test_a_configuration_error_carries_its_problems(environment: FakeEnvironment) -> None:
    async with client(environment) as http:
        answer = await http.post("/sources/door/restart")
    assert answer.status_code == 409
    assert answer.json()["error"]["data"]["problems"][0]["line"] == 2


async def test_an_unexpected_error_is_answered_without_its_details(environment: FakeEnvironment) -> None:
    def explode() -> list[SourceStatus]:
        raise RuntimeError("the secret is tulip")

    environment.source_statuses = explode  # type: ignore[method-assign]
    async with client(environment) as http:
        answer = await http.get("/sources")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == -32603
    assert "tulip" not in answer.text


async def test_reload_answers_with_what_changed(environment: FakeEnvironment) -> None:
    async with client(environment) as http:
        assert (await http.post("/reload")).json()["restarted"] == ["door"]


async def test_an_event_is_published_and_can_be_read_again(environment: FakeEnvironment) -> None:
    async with client(environment) as http:
        answer = await http.post("/events", json={"type": "door.opened", "id": "a1", "payload": {"by": "me"}})
        assert answer.status_code == 201
        assert answer.json() == {"id": "a1", "seq": 1}
        listed = (await http.get("/events")).json()
    assert listed.keys() == {"events", "cursor"}
    assert listed["cursor"] == 1
    event = listed["events"][0]
    assert (event["seq"], event["id"], event["type"], event["payload"]) == (1, "a1", "door.opened", {"by": "me"})
    assert event["metadata"]["source_name"] == "api"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", -32700),
        (b"", -32700),
        (b"\xff", -32700),
        (b"[" * 100_000, -32700),
        (b"[]", -32602),
        (b"{}", -32602),
        (b'{"type": ""}', -32602),
        (b'{"type": "host.gap"}', -32602),
        (b'{"type": "a", "payload": ' + b"[" * 300 + b"]" * 300 + b"}", -32602),
    ],
)
async def test_what_is_no_event_is_refused_with_the_reason(
    environment: FakeEnvironment, body: bytes, code: int
) -> None:
    async with client(environment, headers={"content-type": "application/json"}) as http:
        answer = await http.post("/events", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == code
    assert environment.bus.journal.head == 0


async def test_a_stopping_host_says_that_the_event_was_not_accepted(environment: FakeEnvironment) -> None:
    await environment.bus.aclose()
    async with client(environment) as http:
        answer = await http.post("/events", json={"type": "a"})
    assert answer.status_code == 503


async def test_events_are_the_newest_and_newest_last(environment: FakeEnvironment) -> None:
    await publish(environment, *(f"t.{n}" for n in range(3000)))
    async with client(environment) as http:
        default = (await http.get("/events")).json()["events"]
        some = (await http.get("/events", params={"limit": 3, "type": "*.7, t.2*"})).json()
    assert [event["seq"] for event in default] == list(range(2901, 3001))
    assert [event["type"] for event in some["events"]] == ["t.2997", "t.2998", "t.2999"]
    assert some["cursor"] == 3000


async def test_a_rare_type_is_found_however_far_back_it_lies(environment: FakeEnvironment) -> None:
    await publish(environment, "rare", *["t"] * 4000)
    async with client(environment) as http:
        assert [event["seq"] for event in (await http.get("/events?type=rare")).json()["events"]] == [1]


async def test_the_cursor_leads_through_all_events_without_gap_or_repetition(environment: FakeEnvironment) -> None:
    await publish(environment, *(f"{'ab'[n % 2]}.{n}" for n in range(2500)))
    seen: list[int] = []
    cursor = 0
    async with client(environment) as http:
        for _ in range(6):
            page = (await http.get("/events", params={"since": cursor, "limit": 300, "type": "b.*"})).json()
            assert "missed" not in page
            seen += [event["seq"] for event in page["events"]]
            cursor = page["cursor"]
    assert seen == list(range(2, 2501, 2))
    assert cursor == 2500


async def test_since_tells_how_many_events_are_no_longer_held(environment: FakeEnvironment) -> None:
    await publish(environment, *["t"] * 5010)
    async with client(environment) as http:
        page = (await http.get("/events?since=4&limit=1")).json()
    assert page["missed"] == 6
    assert page["events"][0]["seq"] == 11


async def test_since_takes_a_duration(environment: FakeEnvironment) -> None:
    await publish(environment, "a", "b")
    async with client(environment) as http:
        assert len((await http.get("/events?since=1h")).json()["events"]) == 2
        assert (await http.get("/events?since=0s")).json() == {"events": [], "cursor": 2}


async def test_a_cursor_of_a_journal_that_is_gone_begins_anew(environment: FakeEnvironment) -> None:
    await publish(environment, "a", "b")
    async with client(environment) as http:
        assert len((await http.get("/events?since=99999")).json()["events"]) == 2


async def test_a_large_answer_is_cut_and_the_cursor_leads_on(environment: FakeEnvironment) -> None:
    for n in range(40):
        await environment.publish_event({"type": f"big.{n}", "payload": {"text": "x" * 1_000_000}})
    async with client(environment) as http:
        newest = (await http.get("/events?limit=40")).json()
        first = (await http.get("/events?since=0&limit=40")).json()
        second = (await http.get(f"/events?since={first['cursor']}&limit=40")).json()
    assert [event["seq"] for event in newest["events"]] == list(range(41 - len(newest["events"]), 41))
    assert 20 < len(newest["events"]) < 40
    assert [event["seq"] for event in first["events"] + second["events"]] == list(range(1, 41))


HOSTILE = ["evil.example:8001", "evil.example", "127.0.0.1:9999", "127.0.0.1", "localhost.evil.example:8001", ""]


@pytest.mark.parametrize("host", HOSTILE)
async def test_a_foreign_host_name_is_refused(environment: FakeEnvironment, host: str) -> None:
    async with client(environment) as http:
        answer = await http.get("/events", headers={"host": host})
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == -32600


@pytest.mark.parametrize("host", ["127.0.0.1:8001", "localhost:8001", "LOCALHOST:8001", "[::1]:8001"])
async def test_loopback_names_are_let_in(environment: FakeEnvironment, host: str) -> None:
    async with client(environment) as http:
        assert (await http.get("/health", headers={"host": host})).status_code == 200


async def test_a_configured_name_is_let_in(environment: FakeEnvironment) -> None:
    guard = Guard(create_app(environment), port=8001, hosts=["127.0.0.2", "::1"])
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=guard), base_url="http://127.0.0.2:8001") as http:
        assert (await http.get("/health")).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:3000", "https://localhost:8001"])
async def test_a_foreign_origin_is_refused(environment: FakeEnvironment, origin: str) -> None:
    async with client(environment) as http:
        answer = await http.post("/events", json={"type": "a"}, headers={"origin": origin})
        bare = await http.post("/sources/door/start", headers={"origin": origin})
    assert (answer.status_code, bare.status_code) == (403, 403)
    assert environment.bus.journal.head == 0
    assert environment.door.status == "stopped"


async def test_the_own_origin_is_let_in(environment: FakeEnvironment) -> None:
    async with client(environment, headers={"origin": "http://localhost:8001"}) as http:
        assert (await http.post("/events", json={"type": "a"})).status_code == 201


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonx"])
async def test_a_body_that_is_not_declared_as_json_is_refused(environment: FakeEnvironment, content_type: str) -> None:
    async with client(environment) as http:
        answer = await http.post("/events", content=b'{"type": "a"}', headers={"content-type": content_type})
    assert answer.status_code == 415
    assert environment.bus.journal.head == 0


async def test_a_body_that_is_too_large_is_refused_declared_or_not(environment: FakeEnvironment) -> None:
    body = b'{"type": "a", "payload": "' + b"x" * MAX_BODY_BYTES + b'"}'

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 65_536):
            yield body[start : start + 65_536]

    guard = Guard(create_app(environment), port=8001, http=HttpConfig(max_body=0))
    transport = httpx2.ASGITransport(app=guard)
    headers = {"content-type": "application/json; charset=utf-8"}
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8001", headers=headers) as http:
        declared = await http.post("/events", content=body)
        chunked = await http.post("/events", content=chunks())
    assert (declared.status_code, chunked.status_code) == (413, 413)
    assert chunked.json()["error"]["code"] == -32600


# From here on over real sockets.


def over(listening: Listening) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=listening.url)


def over_control_socket(path: Path) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.AsyncHTTPTransport(uds=str(path)), base_url="http://eventhost")


async def test_the_port_and_the_control_socket_serve_the_same(environment: FakeEnvironment) -> None:
    async with serving(environment) as listening:
        async with over(listening) as http:
            assert (await http.get("/health")).status_code == 200
            assert (await http.get("/health", headers={"host": "evil.example"})).status_code == 403
        async with over_control_socket(listening.control_socket) as http:
            assert (await http.get("/health")).status_code == 200
            assert (await http.post("/events", json={"type": "a"})).json()["seq"] == 1


async def test_the_control_socket_is_for_this_user_alone_and_gone_afterwards(environment: FakeEnvironment) -> None:
    path = environment.root / CONTROL_SOCKET
    async with serving(environment):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


async def test_the_file_of_a_killed_host_is_replaced(environment: FakeEnvironment) -> None:
    path = environment.root / CONTROL_SOCKET
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    async with serving(environment), over_control_socket(path) as http:
        assert (await http.get("/health")).status_code == 200


async def test_an_environment_deeper_than_a_socket_name_may_be_long(tmp_path: Path) -> None:
    environment = FakeEnvironment(tmp_path / ("d" * 60) / ("e" * 60))
    environment.root.mkdir(parents=True)
    async with serving(environment) as listening:
        assert len(str(listening.control_socket)) > 107
        assert stat.S_IMODE(listening.control_socket.stat().st_mode) == 0o600
        with socket_name(listening.control_socket) as name:
            http = over_control_socket(Path(name))
            assert (await http.get("/health")).status_code == 200
            await http.aclose()
    assert not listening.control_socket.exists()


async def test_without_http_only_the_control_socket_is_served(environment: FakeEnvironment) -> None:
    environment.http = HttpConfig(enabled=False)
    async with serving(environment) as listening, over_control_socket(listening.control_socket) as http:
        assert listening.url == ""
        assert (await http.get("/health")).status_code == 200


async def test_localhost_means_both_loopback_addresses(environment: FakeEnvironment) -> None:
    environment.http = HttpConfig(host="localhost", port=0)
    async with serving(environment) as listening, over(listening) as http:
        assert listening.url.startswith("http://localhost:")
        assert (await http.get("/health")).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "no-such-name.invalid"])
async def test_an_address_that_cannot_be_used_is_refused(environment: FakeEnvironment, host: str) -> None:
    environment.http = HttpConfig(host=host, port=0)
    with pytest.raises(ConfigError, match=r"http\.host.*127\.0\.0\.1"):
        async with serving(environment):
            pass
    assert not (environment.root / CONTROL_SOCKET).exists()


async def test_a_port_that_is_taken_is_named_with_the_mend(environment: FakeEnvironment) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        environment.http = HttpConfig(port=taken.getsockname()[1])
        with pytest.raises(EventhostError, match=rf"port {environment.http.port} .*set http\.port"):
            async with serving(environment):
                pass


async def test_an_error_while_serving_still_takes_the_socket_away(environment: FakeEnvironment) -> None:
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with serving(environment):
            raise ZeroDivisionError
    assert not (environment.root / CONTROL_SOCKET).exists()


@dataclass
class Live:
    """One open stream; `read` gives its next blocks as field dictionaries."""

    lines: AsyncIterator[str]

    async def read(self, count: int) -> list[dict[str, str]]:
        blocks: list[dict[str, str]] = []
        block: dict[str, str] = {}
        while len(blocks) < count:
            line = await anext(self.lines)
            if line:
                name, _, value = line.partition(": ")
                block[name] = value
            else:
                blocks.append(block)
                block = {}
        return blocks


@asynccontextmanager
async def live(listening: Listening, query: str = "", **headers: str) -> AsyncIterator[Live]:
    accept = {"accept": "text/event-stream", **headers}
    async with over(listening) as http, http.stream("GET", f"/events{query}", headers=accept) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Live(answer.aiter_lines())


async def test_a_live_stream_shows_what_happens_from_now_on(environment: FakeEnvironment) -> None:
    await publish(environment, "before")
    with anyio.fail_after(10):
        async with serving(environment) as listening, live(listening, "?type=door.*,x") as stream:
            assert await stream.read(1) == [{"retry": "2000", "id": "1"}]
            await publish(environment, "door.opened", "other", "x")
            first, second = await stream.read(2)
    assert (first["id"], first["event"]) == ("2", "door.opened")
    assert json.loads(first["data"])["payload"] == {"of": "door.opened"}
    assert json.loads(first["data"])["seq"] == 2
    assert second["id"] == "4"


async def test_a_live_stream_resumes_where_it_was_left(environment: FakeEnvironment) -> None:
    await publish(environment, "a", "b", "c")
    with anyio.fail_after(10):
        async with serving(environment) as listening:
            async with live(listening, **{"last-event-id": "1"}) as stream:
                assert [block.get("event") for block in await stream.read(3)] == [None, "b", "c"]
            async with live(listening, "?since=2") as stream:
                assert [block.get("event") for block in await stream.read(2)] == [None, "c"]


async def test_a_resumed_stream_tells_what_is_no_longer_held(environment: FakeEnvironment) -> None:
    await publish(environment, *["t"] * 5010)
    with anyio.fail_after(10):
        async with serving(environment) as listening, live(listening, **{"last-event-id": "3"}) as stream:
            _, lagged, event = await stream.read(3)
    assert (lagged["event"], lagged["id"]) == ("lagged", "10")
    assert json.loads(lagged["data"]) == {"missed": 7, "resume": 11}
    assert event["id"] == "11"


async def test_a_silent_stream_has_a_heartbeat(environment: FakeEnvironment) -> None:
    environment.http = HttpConfig(port=0, heartbeat_s=0.01)
    with anyio.fail_after(10):
        async with serving(environment) as listening, live(listening) as stream:
            _, beat, again = await stream.read(3)
    assert beat == again == {"": "still here"}


async def test_a_type_with_line_breaks_cannot_forge_a_field(environment: FakeEnvironment) -> None:
    with anyio.fail_after(10):
        async with serving(environment) as listening, live(listening) as stream:
            await publish(environment, "a\ndata: forged\r\n\nevent: b")
            _, block = await stream.read(2)
    assert json.loads(block["data"])["type"] == "a\ndata: forged\r\n\nevent: b"
    assert "\n" not in block["event"]


async def stalled(listening: Listening) -> SocketStream:
    """A client that asks for a live stream and never reads."""
    host, port = listening.url.removeprefix("http://").split(":")
    stream = await anyio.connect_tcp(host, int(port))
    request = f"GET /events HTTP/1.1\r\nHost: {host}:{port}\r\nAccept: text/event-stream\r\n\r\n"
    await stream.send(request.encode())
    return stream


async def test_a_stalled_client_delays_nobody_and_is_told_what_it_missed(environment: FakeEnvironment) -> None:
    with anyio.fail_after(60):
        async with serving(environment) as listening, live(listening, "?type=end") as other:
            await other.read(1)
            async with await stalled(listening) as lazy:
                assert b"id: 0" in await lazy.receive()
                for _ in range(10_000):
                    await environment.publish_event({"type": "flood", "payload": {"text": "x" * 2000}})
                    await anyio.lowlevel.checkpoint()
                await publish(environment, "end")
                (end,) = await other.read(1)
                assert end["id"] == "10001"
                text = bytearray()
                while b'"type":"end"' not in text[-10_000:]:
                    text += await lazy.receive()
    lagged = text.split(b"event: lagged\ndata: ")
    assert len(lagged) > 1
    assert json.loads(lagged[-1].split(b"\n")[0])["missed"] > 0


async def test_open_and_stalled_streams_do_not_hold_the_stop(environment: FakeEnvironment) -> None:
    with anyio.fail_after(20):
        async with serving(environment) as listening:
            stream = live(listening)
            open_one = await stream.__aenter__()
            lazy = await stalled(listening)
            await lazy.receive()
            for _ in range(5000):
                await environment.publish_event({"type": "flood", "payload": {"text": "x" * 2000}})
        with anyio.fail_after(5):
            async for _ in open_one.lines:
                pass
            await stream.__aexit__(None, None, None)
            await lazy.aclose()
    assert environment.bus.statistics().subscriptions == 0


async def test_a_client_that_leaves_ends_its_subscription(environment: FakeEnvironment) -> None:
    with anyio.fail_after(10):
        async with serving(environment) as listening:
            async with live(listening) as stream:
                await stream.read(1)
                assert environment.bus.statistics().subscriptions == 1
            while environment.bus.statistics().subscriptions:
                await anyio.lowlevel.checkpoint()
