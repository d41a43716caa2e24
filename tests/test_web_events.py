"""Events over HTTP: paged, found by name, and published in every form that is taken, once for each key."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from eventhost.access import EVERYTHING, Access, Caller
from eventhost.environment import IDEMPOTENCY, ServerEnvironment
from eventhost.errors import BusClosed, EventRejected, JournalFailed
from eventhost.event import EnvEvent
from eventhost.exchange import to_cloudevent
from eventhost.exchange.http import BATCHED, STRUCTURED, read_binary
from eventhost.web.api.events import Events
from eventhost.web.app import create_app
from eventhost.web.endpoint import endpoints
from eventhost.web.events import history, publishing
from eventhost.web.events.broadcast import Broadcast
from eventhost.web.events.history import following
from eventhost.web.events.idempotency import KEPT_S, Done, Idempotency, OtherRequest, digest
from eventhost.web.openapi import document
from eventhost.web.server import serving

pytestmark = pytest.mark.anyio

Published = tuple[Sequence[EnvEvent], int]

CLOUD_EVENT = {
    "specversion": "1.0",
    "id": "A234-1234-1234",
    "source": "https://github.com/cloudevents/spec/pull",
    "type": "com.github.pull.create",
    "time": "2018-04-05T17:31:00Z",
    "comexampleextension": "value",
    "datacontenttype": "application/json",
    "data": {"number": 123},
}
"""As the specification shows it."""


@asynccontextmanager
async def host(root: Path, journal: str = "memory") -> AsyncIterator[ServerEnvironment]:
    """An environment without sources."""
    config = {"id": "test", "journal": {"type": journal}, "http": {"port": 0}}
    (root / "config.jsonc").write_text(json.dumps(config))
    async with ServerEnvironment.from_path(root) as environment:
        yield environment


@pytest.fixture
async def environment(tmp_path: Path) -> AsyncIterator[ServerEnvironment]:
    async with host(tmp_path) as environment:
        yield environment


def client(environment: ServerEnvironment, caller: Caller | None = None) -> httpx2.AsyncClient:
    return client_of(create_app(environment), caller)


def client_of(app: ASGIApp, caller: Caller | None = None) -> httpx2.AsyncClient:
    async def called(scope: Scope, receive: Receive, send: Send) -> None:
        if caller is not None:
            scope["state"] = {"caller": caller}
        await app(scope, receive, send)

    transport = httpx2.ASGITransport(app=called)  # type: ignore[arg-type]
    return httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8001")


async def held(environment: ServerEnvironment) -> list[EnvEvent]:
    """What was published, but for what the host says of itself."""
    events = [entry.event for entry in await environment.bus.journal.read(0, 10_000)]
    return [event for event in events if not event.type.startswith("host.")]


# Reading


async def test_a_span_is_read_page_by_page(environment: ServerEnvironment) -> None:
    seen: list[int] = []
    query: dict[str, Any] = {"from": 3, "to": 18, "type": "even", "limit": 3}
    async with client(environment) as http:
        for number in range(1, 21):
            await http.post("/events", json={"type": "even" if number % 2 == 0 else "odd"})
        while True:
            page = (await http.get("/events", params=query)).json()
            seen += [event["seq"] for event in page["events"]]
            if not page.get("more"):
                break
            query["cursor"] = page["cursor"]
        assert seen == [4, 6, 8, 10, 12, 14, 16, 18]
        newest = (await http.get("/events", params={"to": 18, "limit": 2})).json()
        assert [event["seq"] for event in newest["events"]] == [17, 18]
        assert (await http.get("/events?from=30")).json() == {"events": [], "cursor": 20}
        assert (await http.get("/events?from=5&to=4")).json()["events"] == []


async def test_a_span_between_times(environment: ServerEnvironment) -> None:
    async with client(environment) as http:
        await http.post("/events", json=[{"type": "a"}, {"type": "b"}])
        for query, count in (
            ("from=2020-01-01T00:00:00Z&to=now", 2),
            ("from=1h&to=0s", 2),
            ("since=1h&to=2020-01-01T00:00:00Z", 0),
            ("to=2020-01-01T00:00:00Z", 0),
            ("from=beginning&to=1", 1),
            ("since=1&to=2", 1),
        ):
            assert len((await http.get(f"/events?{query}")).json()["events"]) == count, query


@pytest.mark.parametrize(
    "query", ["from=soon", "to=x", "from=1&since=1", "cursor=-1", "cursor=x", "match=x", "limit=0"]
)
async def test_what_is_no_place_is_refused(environment: ServerEnvironment, query: str) -> None:
    async with client(environment) as http:
        answer = await http.get(f"/events?{query}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32602)
    assert query.partition("=")[0] in answer.json()["error"]["message"]


async def test_match_picks_events_of_the_past(environment: ServerEnvironment) -> None:
    pattern = json.dumps({"payload": {"size": [{"numeric": [">", 5]}]}})
    async with client(environment) as http:
        await http.post("/events", json=[{"type": "a", "payload": {"size": size}} for size in (1, 9, 5, 7)])
        for query in ({}, {"since": "0"}):
            page = (await http.get("/events", params={"match": pattern, **query})).json()
            assert [event["seq"] for event in page["events"]] == [2, 4]


async def test_a_long_search_is_answered_with_where_to_go_on(
    environment: ServerEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "SEARCH_S", -1.0)
    monkeypatch.setattr(history, "_CHUNK", 4)
    await environment.publish_events([_raw({"type": "a"}) for _ in range(10)])
    page = await following(environment.bus.journal, lambda entries: [], 5, 0)
    assert (list(page.events), page.cursor, page.more) == ([], 4, True)


@pytest.mark.parametrize("journal", ["memory", "sqlite"])
async def test_an_event_is_found_by_number_id_and_name(tmp_path: Path, journal: str) -> None:
    async with host(tmp_path, journal) as environment, client(environment) as http:
        await http.post("/events", json={"type": "a", "id": "x/1", "payload": {"n": 1}})
        await http.post("/events", json={"type": "b"})
        for handle in ("1", "x%2F1", "api:x%2F1", "x/1"):
            answer = await http.get(f"/events/{handle}")
            assert answer.status_code == 200
            event = answer.json()
            assert (event["seq"], event["id"], event["payload"]) == (1, "x/1", {"n": 1})
        head = await http.head("/events/1")
        assert (head.status_code, head.headers["content-type"]) == (200, "application/json")
        missing = await http.get("/events/nothing")
        assert missing.status_code == 404
        assert "no event is called 'nothing'" in missing.json()["error"]["message"]


async def test_several_events_of_one_name_are_listed(environment: ServerEnvironment) -> None:
    async with client(environment) as http:
        await http.post("/events", json=[{"type": "a", "id": "twice"}, {"type": "b", "id": "twice"}])
        answer = await http.get("/events/twice")
    assert answer.status_code == 409
    error = answer.json()["error"]
    assert [(event["seq"], event["type"]) for event in error["data"]["candidates"]] == [(2, "b"), (1, "a")]
    assert "give the number of one" in error["message"]


# Publishing


def _raw(value: dict[str, Any]) -> Any:
    return publishing.RawEvent.from_value(value)


async def test_a_list_is_published_all_or_none(environment: ServerEnvironment) -> None:
    async with client(environment) as http:
        answer = await http.post("/events", json=[{"type": "a", "id": "1"}, {"type": "b", "id": "2"}])
        assert (answer.status_code, answer.json()) == (201, {"events": [{"id": "1", "seq": 1}, {"id": "2", "seq": 2}]})
        alone = await http.post("/events", json=[{"type": "a", "id": "3"}])
        assert alone.json() == {"events": [{"id": "3", "seq": 3}]}
        bad = await http.post("/events", json=[{"type": "a"}, {"type": ""}, {"type": "c"}])
    assert bad.status_code == 400
    assert "[1]: type: " in bad.json()["error"]["message"]
    assert environment.bus.journal.head == 3


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ([], "nothing to publish"),
        ([{"type": "a"}] * 1001, "1001 events: at most 1000"),
        ([{"type": "a"}, 5], "[1]: an event must be an object"),
        (5, "an event must be an object"),
        ({"type": "host.gap"}, "the host's own"),
        (CLOUD_EVENT, "send it as application/cloudevents+json"),
    ],
)
async def test_what_cannot_be_published_is_refused(environment: ServerEnvironment, body: Any, said: str) -> None:
    async with client(environment) as http:
        answer = await http.post("/events", json=body)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]
    assert environment.bus.journal.head == 0


async def test_an_id_may_come_again_and_both_events_are_kept(environment: ServerEnvironment) -> None:
    async with client(environment) as http:
        for seq in (1, 2):
            answer = await http.post("/events", json={"type": "a", "id": "same", "timestamp": 1})
            assert answer.json() == {"id": "same", "seq": seq}


async def test_a_structured_cloudevent_keeps_its_source_but_not_its_name(environment: ServerEnvironment) -> None:
    async with client(environment) as http:
        answer = await http.post(
            "/events", content=json.dumps(CLOUD_EVENT), headers={"content-type": f"{STRUCTURED}; charset=UTF-8"}
        )
    assert (answer.status_code, answer.json()) == (201, {"id": "A234-1234-1234", "seq": 1})
    (event,) = await held(environment)
    assert event.type == "com.github.pull.create"
    assert event.timestamp == 1522949460000
    assert event.payload == {"number": 123}
    assert event.metadata["source"] == "https://github.com/cloudevents/spec/pull"
    assert event.metadata["source_name"] == "api"
    assert event.metadata["comexampleextension"] == "value"


async def test_what_a_host_exported_cannot_forge_its_source_either(environment: ServerEnvironment) -> None:
    exported = to_cloudevent(EnvEvent("1", "a", 5, {"source": "door", "source_name": "door", IDEMPOTENCY: "k.r"}, {}))
    async with client(environment) as http:
        headers = {"content-type": STRUCTURED}
        assert (await http.post("/events", content=json.dumps(exported), headers=headers)).status_code == 201
    (event,) = await held(environment)
    assert event.metadata["source_name"] == "api"
    assert IDEMPOTENCY not in event.metadata


async def test_a_batch_of_cloudevents(environment: ServerEnvironment) -> None:
    batch = [CLOUD_EVENT, {**CLOUD_EVENT, "id": "2", "data": [1, 2]}]
    async with client(environment) as http:

        async def post(body: Any, media_type: str = BATCHED) -> httpx2.Response:
            return await http.post("/events", content=json.dumps(body), headers={"content-type": media_type})

        assert [event["seq"] for event in (await post(batch)).json()["events"]] == [1, 2]
        one_bad = await post([CLOUD_EVENT, {**CLOUD_EVENT, "specversion": "0.3"}])
        assert (one_bad.status_code, "[1]: specversion" in one_bad.text) == (400, True)
        assert (await post(CLOUD_EVENT)).status_code == 400
        assert (await post(batch, STRUCTURED)).status_code == 400
        no_json = await http.post("/events", content=b"{", headers={"content-type": BATCHED})
        assert (no_json.status_code, no_json.json()["error"]["code"]) == (400, -32700)
    assert [event.payload for event in await held(environment)] == [{"number": 123}, {"value": [1, 2]}]


BINARY = {"ce-specversion": "1.0", "ce-id": "7", "ce-source": "/door", "ce-type": "door.opened"}


@pytest.mark.parametrize(
    ("content_type", "body", "payload"),
    [
        ("application/json", b'{"by": "me"}', {"by": "me"}),
        ("application/vnd.door+json; charset=utf-8", b"[1]", {"value": [1]}),
        ("text/plain", "grüß".encode(), {"value": "grüß"}),
        ("text/plain", b"\xff", {"value": base64.b64encode(b"\xff").decode()}),
        ("application/octet-stream", b"\0\1", {"value": "AAE="}),
        ("application/xml", b"<a/>", {"value": "<a/>"}),
        ("", b"", {}),
        ("", b"5", {"value": 5}),
    ],
)
async def test_a_cloudevent_in_binary_mode_has_any_body(
    environment: ServerEnvironment, content_type: str, body: bytes, payload: dict[str, Any]
) -> None:
    said = {"ce-time": "2026-01-01T00:00:00Z", "ce-subject": "Gr%C3%BC%C3%9F%20dich", "ce-room": '"a \\"b\\""'}
    headers = {**BINARY, **said, **({"content-type": content_type} if content_type else {})}
    async with client(environment) as http:
        answer = await http.post("/events", content=body, headers=headers)
    assert (answer.status_code, answer.json()) == (201, {"id": "7", "seq": 1})
    (event,) = await held(environment)
    assert (event.type, event.payload, event.timestamp) == ("door.opened", payload, 1767225600000)
    assert event.metadata["source"] == "/door"
    assert event.metadata["source_name"] == "api"
    assert event.metadata["subject"] == "Grüß dich"
    assert event.metadata["room"] == 'a "b"'
    assert event.metadata.get("datacontenttype", "application/json") == (content_type or "application/json")


@pytest.mark.parametrize(
    ("headers", "body", "said"),
    [
        ({"ce-specversion": "1.0"}, b"", "id: a CloudEvent requires"),
        ({**BINARY, "ce-specversion": "2.0"}, b"", "specversion: '1.0' is required"),
        ({**BINARY, "ce-a_b": "x"}, b"", "ce-a_b: no header of a CloudEvent"),
        ({**BINARY, "ce-data": "x"}, b"", "ce-data: no header"),
        ({**BINARY, "ce-subject": "%FF"}, b"", "ce-subject: not UTF-8"),
        ({**BINARY, "ce-time": "today"}, b"", "time: RFC 3339"),
        ({**BINARY, "ce-type": "host.gap"}, b"", "the host's own"),
        ({**BINARY, "content-type": "application/json"}, b"{", "not JSON"),
    ],
)
async def test_headers_that_are_no_cloudevent_are_refused(
    environment: ServerEnvironment, headers: dict[str, str], body: bytes, said: str
) -> None:
    async with client(environment) as http:
        answer = await http.post("/events", content=body, headers=headers)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]
    assert environment.bus.journal.head == 0


async def test_another_kind_of_body_is_not_taken(environment: ServerEnvironment) -> None:
    async with client(environment) as http:
        for media_type in ("text/plain", "application/cloudevents+xml", "application/x-www-form-urlencoded"):
            answer = await http.post("/events", content=b"{}", headers={"content-type": media_type})
            assert answer.status_code == 415
            assert "send application/json" in answer.json()["error"]["message"]


def test_of_a_binary_event_without_time_the_time_is_now() -> None:
    headers = [(name.encode(), value.encode()) for name, value in BINARY.items()]
    assert read_binary(headers, b"", now_ms=42).timestamp == 42


async def test_all_forms_are_described(environment: ServerEnvironment) -> None:
    group = Events(environment, set(), Broadcast(environment.bus, 30))
    paths = document(endpoints([group]))["paths"]
    assert paths["/events"]["post"]["requestBody"]["content"].keys() == {"application/json", STRUCTURED, BATCHED, "*/*"}
    names = {parameter["name"] for parameter in paths["/events"]["get"]["parameters"]}
    assert names == {"Last-Event-ID", "type", "match", "since", "from", "to", "cursor", "limit"}


# Idempotency-Key


async def test_a_request_that_comes_again_is_answered_as_before(environment: ServerEnvironment) -> None:
    async with client(environment) as http:
        for body in ({"type": "a"}, [{"type": "a"}, {"type": "b", "id": "mine"}]):
            headers = {"idempotency-key": f"key of {len(body)}"}
            first = await http.post("/events", json=body, headers=headers)
            again = await http.post("/events", json=body, headers=headers)
            assert first.status_code == again.status_code == 201
            assert first.json() == again.json()
            assert "idempotent-replayed" not in first.headers
            assert again.headers["idempotent-replayed"] == "true"
    assert [event.type for event in await held(environment)] == ["a", "a", "b"]


async def test_the_key_belongs_to_one_body_and_one_caller(environment: ServerEnvironment) -> None:
    app, headers = create_app(environment), {"idempotency-key": "k"}
    async with client_of(app) as http, client_of(app, Caller("other", "key", EVERYTHING)) as other:
        assert (await http.post("/events", json={"type": "a"}, headers=headers)).json()["seq"] == 1
        refused = await http.post("/events", json={"type": "b"}, headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, -32602)
        assert (await other.post("/events", json={"type": "b"}, headers=headers)).json()["seq"] == 2
        for key in ("", "x" * 256):
            bad = await http.post("/events", json={"type": "a"}, headers={"idempotency-key": key})
            assert bad.status_code == 400
    assert environment.bus.journal.head == 2


async def test_attributes_in_headers_are_part_of_the_request(environment: ServerEnvironment) -> None:
    async with client(environment) as http:
        headers = {**BINARY, "idempotency-key": "k"}
        assert (await http.post("/events", headers=headers)).status_code == 201
        assert (await http.post("/events", headers=headers)).json()["seq"] == 1
        assert (await http.post("/events", headers={**headers, "ce-id": "8"})).status_code == 422


async def test_what_was_refused_may_be_sent_anew_with_the_same_key(environment: ServerEnvironment) -> None:
    async with client(environment) as http:
        headers = {"idempotency-key": "k"}
        assert (await http.post("/events", json={"type": ""}, headers=headers)).status_code == 400
        assert (await http.post("/events", json={"type": "a"}, headers=headers)).json()["seq"] == 1


async def test_a_key_outlives_the_host(tmp_path: Path) -> None:
    bodies = [{"type": "a"}, [{"type": "b", "payload": {"n": n}} for n in range(1000)], {"type": "c"}]

    async def post_all() -> list[Any]:
        async with host(tmp_path, "sqlite") as environment, client(environment) as http:
            answers = [
                (await http.post("/events", json=body, headers={"idempotency-key": str(number)})).json()
                for number, body in enumerate(bodies)
            ]
            other = await http.post("/events", json={"type": "x"}, headers={"idempotency-key": "0"})
            assert other.status_code == 422
            counts.append(len(await held(environment)))
            return answers

    counts: list[int] = []
    first = await post_all()
    assert await post_all() == first
    assert counts == [1002, 1002]


async def test_who_may_publish_cannot_say_that_a_key_was_used(tmp_path: Path) -> None:
    async with host(tmp_path, "sqlite") as environment, client(environment) as http:
        await http.post("/events", json={"type": "a"}, headers={"idempotency-key": "k"})
        (event,) = await held(environment)
        mark = event.metadata[IDEMPOTENCY]
        forged = {"type": "forged", "metadata": {IDEMPOTENCY: mark, "kept": 1}}
        await http.post("/events", json=forged)
        await http.post("/events", json=[forged], headers={"idempotency-key": "k2"})
        await environment.publish_event(forged)
        for event in (await held(environment))[1:]:
            assert event.metadata["kept"] == 1
            assert event.metadata.get(IDEMPOTENCY) != mark


class Journaled:
    """An `Idempotency` over a host's journal, and a clock of its own."""

    def __init__(self, environment: ServerEnvironment) -> None:
        self.environment = environment
        self.ahead_ms = 0
        self.once = Idempotency(environment.bus.journal, environment.reading, self.now_ms)

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self.ahead_ms

    def publishing(self, event_type: str = "a") -> Callable[[str], Awaitable[Published]]:
        async def publish(mark: str) -> Published:
            return await self.environment.publish_events([_raw({"type": event_type})], metadata={IDEMPOTENCY: mark})

        return publish


async def test_of_several_at_once_one_publishes(environment: ServerEnvironment) -> None:
    journaled, answers = Journaled(environment), list[tuple[Done, bool]]()

    async def ask() -> None:
        answers.append(await journaled.once.once("k", "r", journaled.publishing()))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(ask)
    assert environment.bus.journal.head == 1
    assert [fresh for _, fresh in answers].count(True) == 1
    assert len({tuple(done.ids) for done, _ in answers}) == 1


@pytest.mark.parametrize("kept", [True, False])
async def test_of_a_request_that_was_given_up_the_journal_knows_what_came(
    environment: ServerEnvironment, kept: bool
) -> None:
    journaled = Journaled(environment)

    async def given_up(mark: str) -> Published:
        if kept:
            await journaled.publishing()(mark)
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await journaled.once.once("k", "r", given_up)
    await environment.publish_event({"type": "between"})
    done, fresh = await journaled.once.once("k", "r", journaled.publishing())
    assert (done.seq, fresh) == ((1, False) if kept else (2, True))
    assert len(await held(environment)) == 2
    with pytest.raises(OtherRequest):
        await journaled.once.once("k", "other", journaled.publishing())


async def test_what_failed_for_good_is_not_remembered(environment: ServerEnvironment) -> None:
    journaled = Journaled(environment)

    async def rejected(mark: str) -> Published:
        raise EventRejected("no")

    with pytest.raises(EventRejected):
        await journaled.once.once("k", "r", rejected)
    assert (await journaled.once.once("k", "other", journaled.publishing()))[1]


async def test_a_key_is_forgotten_after_a_day_and_when_there_are_many(
    environment: ServerEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    journaled = Journaled(environment)
    await journaled.once.once("k", "r", journaled.publishing())
    journaled.ahead_ms = int(KEPT_S * 1000) - 60_000
    assert not (await journaled.once.once("k", "r", journaled.publishing()))[1]
    journaled.ahead_ms += 120_000
    assert (await journaled.once.once("k", "r", journaled.publishing()))[1]
    anew = Journaled(environment)
    anew.ahead_ms = 2 * int(KEPT_S * 1000)
    assert (await anew.once.once("k", "r", anew.publishing()))[1]

    monkeypatch.setattr("eventhost.web.events.idempotency.KEPT_KEYS", 2)
    for key in ("1", "2", "3", "4"):
        assert (await journaled.once.once(key, "r", journaled.publishing()))[1]
    assert not (await journaled.once.once("4", "r", journaled.publishing()))[1]
    assert (await journaled.once.once("1", "r", journaled.publishing()))[1]


# When nothing can be taken


async def test_a_stopping_host_asks_to_come_back(environment: ServerEnvironment) -> None:
    await environment.bus.aclose()
    async with client(environment) as http:
        for headers in ({}, {"idempotency-key": "k"}):
            answer = await http.post("/events", json={"type": "a"}, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, -32000)
            assert answer.headers["retry-after"] == "5"


async def test_while_the_disk_is_full_nothing_is_handed_over(
    environment: ServerEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal: Any = environment.bus.journal
    statistics = type(journal.statistics())("sqlite", 1, 0, 0, stalled="database or disk is full")
    monkeypatch.setattr(journal, "statistics", lambda: statistics)
    async with client(environment) as http:
        answer = await http.post("/events", json={"type": "a"})
    assert answer.status_code == 503
    assert "disk is full; nothing was published" in answer.json()["error"]["message"]
    assert journal.head == 0


async def test_who_waits_for_the_journal_waits_boundedly(
    environment: ServerEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = environment.bus.journal.append

    async def late(events: Sequence[EnvEvent]) -> int:
        seq = await append(events)
        await anyio.sleep_forever()
        return seq

    monkeypatch.setattr(publishing, "PATIENCE_S", 0.01)
    headers = {"idempotency-key": "k"}
    async with client(environment) as http:
        with monkeypatch.context() as patch:
            patch.setattr(environment.bus.journal, "append", late)
            slow = await http.post("/events", json={"type": "a"}, headers=headers)
        assert slow.status_code == 503
        assert "Idempotency-Key" in slow.json()["error"]["message"]
        again = await http.post("/events", json={"type": "a"}, headers=headers)
        assert (again.status_code, again.json()["seq"]) == (201, 1)
    assert len(await held(environment)) == 1


async def test_a_journal_that_failed_takes_nothing(
    environment: ServerEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failed(events: Sequence[EnvEvent]) -> int:
        raise JournalFailed("the disk is gone")

    monkeypatch.setattr(environment.bus.journal, "append", failed)
    async with client(environment) as http:
        answer = await http.post("/events", json={"type": "a"}, headers={"idempotency-key": "k"})
    assert answer.status_code == 503
    assert "the disk is gone" in answer.json()["error"]["message"]
    assert issubclass(JournalFailed, BusClosed)


async def test_publishing_asks_for_its_scope(environment: ServerEnvironment) -> None:
    async with client(environment, Caller("reader", "key", frozenset({Access.READ}))) as http:
        assert (await http.post("/events", json={"type": "a"})).status_code == 403
        assert (await http.get("/events/1")).status_code == 404


# Over a socket, past whoever guards it


async def test_every_form_is_let_in(tmp_path: Path) -> None:
    async with (
        host(tmp_path) as environment,
        serving(environment) as listening,
        httpx2.AsyncClient(base_url=listening.url) as http,
    ):
        plain = await http.post("/events", json={"type": "a"})
        structured = await http.post("/events", content=json.dumps(CLOUD_EVENT), headers={"content-type": STRUCTURED})
        batch = await http.post("/events", content=json.dumps([CLOUD_EVENT]), headers={"content-type": BATCHED})
        binary = await http.post("/events", content=b"open", headers={**BINARY, "content-type": "text/plain"})
        bare = await http.post("/events", headers=BINARY)
        other = await http.post("/events", content=b"a=b", headers={"content-type": "text/plain"})
        large = await http.post("/events", json=[{"type": "a", "payload": {"text": "x" * 500_000}}] * 5)
    assert [each.status_code for each in (plain, structured, batch, binary, bare, large)] == [201] * 6
    assert other.status_code == 415


async def test_a_key_of_a_killed_host_is_known_by_the_next(tmp_path: Path) -> None:
    """The events are committed, their sender never heard of it."""
    body = b'{"type":"a"}'
    async with host(tmp_path, "sqlite") as environment:
        mark = f"{digest(b'', b'k')}.{digest(body, b'content-type', b'application/json')}"
        await environment.publish_events([_raw({"type": "a", "id": "first"})], metadata={IDEMPOTENCY: mark})
    async with host(tmp_path, "sqlite") as environment, client(environment) as http:
        headers = {"content-type": "application/json", "idempotency-key": "k"}
        answer = await http.post("/events", content=body, headers=headers)
        assert answer.json() == {"id": "first", "seq": 1}
        assert [event.id for event in await held(environment)] == ["first"]
