"""What a source reads from comes and goes: its backoff, its state as hosts and people see it, how far it was read."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_kit import Peer, served, settle

from eventhost.errors import ConfigError
from eventhost.kit import Event, EventSource
from eventhost.kit.bookmark import Bookmark
from eventhost.kit.payload import payload_of
from eventhost.kit.upstream import LONGEST_DELAY_S, Unavailable, Upstream, first_to_end
from eventhost.wire import STATUS


class Written:
    """Takes down what an upstream says."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.events: list[Event] = []
        self.states: list[str] = []
        self.upstream = Upstream("shop", self._say, self._emit, lambda: self.states.append(self.upstream.state))

    def _say(self, level: str, text: str) -> None:
        self.log.append(f"{level}: {text}")

    async def _emit(self, event: Event) -> None:
        self.events.append(event)


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between two sessions, none of which is waited for."""
    paused: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        paused.append(seconds)
        await real(0)

    monkeypatch.setattr("eventhost.kit.upstream.asyncio.sleep", sleep)
    return paused


class Over(Exception):
    """A session is over, and no other is to follow."""


@pytest.mark.anyio
async def test_a_session_is_begun_again_however_it_ends_and_later_and_later(no_pauses: list[float]) -> None:
    written = Written()
    outcomes: list[Any] = [Unavailable("not now"), OSError("no route"), None, *[Unavailable("not now")] * 8, Over()]

    async def session() -> None:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    with pytest.raises(Over):
        await written.upstream.stay(session)
    assert written.log[:4] == [
        "error: shop: not now; trying again until it works",
        "error: shop: no route; trying again until it works",
        "error: shop: the connection has ended; trying again until it works",
        "error: shop: not now; trying again until it works",
    ]
    assert len(written.log) == 4, "the same again is no news"
    assert len(no_pauses) == 11
    for number, pause_s in enumerate(no_pauses):
        expected_s = min(LONGEST_DELAY_S, 0.2 * 2**number)
        assert 0.75 * expected_s <= pause_s <= 1.25 * expected_s


@pytest.mark.anyio
async def test_what_asks_to_be_left_alone_is_left_alone(no_pauses: list[float]) -> None:
    outcomes = [Unavailable("busy", after_s=120), Over()]

    async def session() -> None:
        raise outcomes.pop(0)

    with pytest.raises(Over):
        await Written().upstream.stay(session)
    assert no_pauses == [120]


@pytest.mark.parametrize(("lasted_s", "again_from_the_start"), [(4.9, False), (5.1, True)])
def test_only_a_good_run_begins_the_backoff_anew(
    monkeypatch: pytest.MonkeyPatch, lasted_s: float, again_from_the_start: bool
) -> None:
    upstream, now_s = Written().upstream, [0.0]
    monkeypatch.setattr("eventhost.kit.upstream.time.monotonic", lambda: now_s[0])
    for _ in range(6):
        upstream.failed("away")
    upstream.connected()
    now_s[0] += lasted_s
    assert (upstream.failed("away") < 1) is again_from_the_start


@pytest.mark.anyio
async def test_its_state_and_its_gaps_are_told() -> None:
    written = Written()
    upstream = written.upstream
    assert upstream.snapshot() == {
        "name": "shop", "state": "connecting", "lastError": None, "gaps": 0, "position": None
    }  # fmt: skip
    upstream.connected("from 7")
    upstream.position = {"at": 7}
    await upstream.gap(Event("shop.gap", {"reason": "purged"}, id="g"))
    upstream.failed("away")
    assert written.states == ["connected", "connected", "reconnecting"]
    assert written.events == [Event("shop.gap", {"reason": "purged"}, id="g")]
    assert upstream.snapshot() == {
        "name": "shop", "state": "reconnecting", "lastError": "away", "gaps": 1, "position": {"at": 7}
    }  # fmt: skip
    assert written.log[0] == "info: shop: connected, from 7"


async def status(peer: Peer) -> list[tuple[str, str, str | None, int]]:
    """The next status that a host is told, its log lines left out."""
    while (message := await peer.hear())["method"] != STATUS:
        assert message["method"] == "notifications/message"
    told = message["params"]["upstreams"]
    return [(each["name"], each["state"], each["lastError"], each["gaps"]) for each in told]


@pytest.mark.anyio
async def test_a_host_is_told_whenever_something_changes_and_one_that_comes_later_how_it_is() -> None:
    source = EventSource("door")
    async with served(source, config={}) as peer:
        shop = source.upstream("shop")
        assert source.upstream("shop") is shop
        shop.failed("no route")
        await peer.initialize()
        assert await status(peer) == [("shop", "reconnecting", "no route", 0)]
        shop.connected()
        assert await status(peer) == [("shop", "connected", "no route", 0)]
        source.upstream("till")
        assert await status(peer) == [("shop", "connected", "no route", 0), ("till", "connecting", None, 0)]
        telling = asyncio.ensure_future(shop.gap(Event("door.gap", {}, id="g")))
        await settle()
        peer.accept("g")
        await telling
        assert ("shop", "connected", "no route", 1) in await status_after_event(peer)
        upstreams = (await peer.call("get_source_status"))["upstreams"]
        assert [(each["name"], each["gaps"]) for each in upstreams] == [("shop", 1), ("till", 0)]
    async with served(source, config={}) as peer:
        await peer.initialize()
        begun = [("shop", "connecting", None, 0), ("till", "connecting", None, 0)]
        assert await status(peer) == begun, "each serving begins anew"


async def status_after_event(peer: Peer) -> list[tuple[str, str, str | None, int]]:
    while (message := await peer.hear())["method"] != "notifications/eventsource/emitted":
        assert message["method"] == "notifications/message"
    return await status(peer)


@pytest.mark.anyio
async def test_a_client_that_is_no_host_is_not_told() -> None:
    source = EventSource("door")
    async with served(source, config={}) as peer:
        source.upstream("shop").connected()
        await peer.initialize(name="somebody")
        assert (await peer.call("get_source_status"))["upstreams"][0]["state"] == "connected"
        await settle()
        assert peer.heard_nothing()


@pytest.mark.anyio
async def test_events_emitted_together_keep_their_order_and_one_that_is_refused_harms_no_other() -> None:
    source = EventSource("door")
    async with served(source, config={}) as peer:
        await peer.initialize()
        emitting = asyncio.ensure_future(source.emit_all(Event("door.opened", {"n": n}, id=str(n)) for n in range(3)))
        assert [(await peer.event())["payload"]["n"] for _ in range(3)] == [0, 1, 2]
        peer.accept("0", "2", rejected=[{"id": "1", "reason": "no such door"}])
        await emitting
        message = await peer.hear()
    assert message["params"]["data"] == "the host rejected the event: no such door"


@pytest.mark.anyio
async def test_the_first_job_to_end_ends_the_others_and_its_failure_is_raised() -> None:
    ended: list[str] = []

    async def lasting() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("lasting")

    async def failing() -> None:
        raise Unavailable("away")

    with pytest.raises(Unavailable, match="away"):
        await first_to_end(lasting(), failing())
    assert ended == ["lasting"]


# Bookmarks


def test_a_bookmark_holds_what_was_saved_last(tmp_path: Path) -> None:
    mark = Bookmark(tmp_path / "shop.json")
    assert mark.content == {}
    content: dict[str, Any] = {"at": [1]}
    mark.save(content)
    content["at"].append(2)
    assert mark.content == Bookmark(tmp_path / "shop.json").content == {"at": [1]}
    mark.save(content)
    assert Bookmark(tmp_path / "shop.json").content == {"at": [1, 2]}
    assert [file.name for file in tmp_path.iterdir()] == ["shop.json"]


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_a_bookmark_that_is_damaged_is_told_with_its_mend_and_left(tmp_path: Path, text: str) -> None:
    file = tmp_path / "shop.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"shop\.json: .*; remove it, and the source begins with what comes from now"):
        Bookmark(file)
    assert file.read_text() == text


def test_a_crash_while_a_bookmark_is_written_leaves_the_old_one(tmp_path: Path) -> None:
    mark = Bookmark(tmp_path / "shop.json")
    mark.save({"at": 1})
    with pytest.raises(TypeError):
        mark.save({"at": object()})
    assert Bookmark(tmp_path / "shop.json").content == {"at": 1}


# Payloads


@pytest.mark.parametrize(
    ("data", "payload"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b"[1, null]", {"value": [1, None]}),
        (b"12.5", {"value": 12.5}),
        (b'"text"', {"value": "text"}),
        (b"warm", {"value": "warm"}),
        ("wärmer".encode(), {"value": "wärmer"}),
        (b"", {"value": ""}),
        (b"NaN", {"value": "NaN"}),
        (b'{"a": Infinity}', {"value": '{"a": Infinity}'}),
        (b"\xff\x00", {"base64": "/wA="}),
        (b"[" * 100_000, {"value": "[" * 100_000}),
    ],
)
def test_bytes_become_a_payload(data: bytes, payload: dict[str, Any]) -> None:
    assert payload_of(data) == payload


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_become_a_payload_that_is_json(data: bytes) -> None:
    payload = payload_of(data)
    assert json.loads(json.dumps(payload, allow_nan=False)) == payload
