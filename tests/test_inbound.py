"""What a server sends is sorted the same however it is cut: events, messages, log, garbage. A flood is held back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCNotification, JSONRPCRequest, jsonrpc_message_adapter
from structlog.testing import capture_logs

from eventhost.connections import Batch, Received, SourceLog
from eventhost.connections import inbound as inbound_room
from eventhost.connections import lines as lines_room
from eventhost.connections.inbound import MAX_LINE_BYTES, Inbound
from eventhost.connections.lines import LineTransport
from eventhost.errors import ConnectionLost
from eventhost.event import SHALLOW_BYTES, SourceProfile
from eventhost.message import Message, normalize_batch

LIMIT_S = 10
"""Never reached unless something is broken."""

FULL = {"id": "7", "type": "door.opened", "timestamp": 5, "metadata": {"floor": 1}, "payload": {"count": 1}}


async def settle() -> None:
    """Let everything that can run do so: nothing here waits for anything outside this loop."""
    for _ in range(30):
        await anyio.lowlevel.checkpoint()


class Taken:
    """A receiver that keeps everything, at the pace of its gate."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.rejections: list[str] = []
        self.resources: list[str] = []
        self.statuses: list[dict[str, Any]] = []
        self.gate = anyio.Event()
        self.gate.set()
        self.failure: Exception | None = None

    @property
    def events(self) -> list[Received]:
        return [event for batch in self.batches for event in batch.events]

    @property
    def types(self) -> list[Any]:
        return [event.type for event in self.events]

    async def accept(self, batch: Batch) -> None:
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        self.batches.append(batch)

    def reject(self, reason: str, event: Received | None = None) -> None:
        self.rejections.append(reason)

    def resource_updated(self, uri: str) -> None:
        self.resources.append(uri)

    def fares(self, params: Mapping[str, Any]) -> None:
        self.statuses.append(dict(params))


class Wire:
    """A server's end of a `LineTransport`, and what came out at the host's."""

    def __init__(self, receiver: Taken | None = None) -> None:
        self.receiver = receiver or Taken()
        self.log = SourceLog("door")
        self.list_changes = 0
        self.inbound = Inbound(self.receiver, self.log, self._note_list_change)
        self.sent: list[bytes] = []
        self.transport = LineTransport(self.inbound, self._send)
        self.feed = self.transport.feed
        self.messages: list[Any] = []

    async def _send(self, line: bytes) -> None:
        self.sent.append(line)

    def _note_list_change(self) -> None:
        self.list_changes += 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Wire]:
        """While this lasts there is a session, which reads all messages; at its end everything was handed over."""

        async def session() -> None:
            async for item in read:
                assert isinstance(item, SessionMessage)
                self.messages.append(item.message.model_dump(by_alias=True, exclude_unset=True))

        async with self.inbound.running(), self.transport as (read, _), anyio.create_task_group() as tasks:
            tasks.start_soon(session)
            yield self
            await settle()
            tasks.cancel_scope.cancel()

    @property
    def garbage(self) -> list[str]:
        return [line for line in self.log.lines if line.startswith("not a JSON-RPC message")]


async def received(*lines: str | bytes) -> Wire:
    """What comes of these lines, fed at once."""
    wire = Wire()
    with anyio.fail_after(LIMIT_S):
        async with wire.running():
            await wire.feed(b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in lines))
    return wire


def line(method: str, params: Any = None, **more: Any) -> str:
    return json.dumps({"jsonrpc": "2.0", "method": method, "params": params, **more}, ensure_ascii=False)


def emitted(event: Any = FULL) -> str:
    return line("notifications/eventsource/emitted", {"level": "info", "data": event})


def fields(event: Received) -> dict[str, Any]:
    """What was said, without what was not."""
    return dict(Message.of(event).said)


# --- the dialects ---------------------------------------------------------------------------------------------------

BARE = {"type": "door.opened"}
LATE = {"params": {"data": {"type": "door.opened", "payload": "x" * 200}}, "jsonrpc": "2.0"}

DIALECTS: list[tuple[str, dict[str, Any]]] = [
    (emitted(), FULL),
    (emitted(BARE), BARE),
    (emitted({**BARE, "payload": [1], "colour": "red"}), {**BARE, "payload": [1], "colour": "red"}),
    (line("notifications/eventsource/emitted", {"data": FULL}), FULL),
    (line("notifications/eventsource/emitted", {"data": BARE, "level": 5, "logger": "x"}), BARE),
    (line("eventsource/event", FULL), FULL),
    (line("eventsource/event", BARE), BARE),
    (line("notifications/message", {"level": "info", "data": FULL}), FULL),
    (line("notifications/message", {"level": "info", "logger": "x", "data": BARE}), BARE),
    # written by serializers of other habits
    (emitted().replace(" ", ""), FULL),
    (emitted().replace(":", " :\t"), FULL),
    (emitted() + "\r", FULL),
    (f"  {emitted()}  ", FULL),
    (emitted().replace("notifications/event", "notifications\\/event"), FULL),
    (emitted({**BARE, "id": "ü\u2028\U0001f6aa"}), {**BARE, "id": "ü\u2028\U0001f6aa"}),
    (json.dumps({**LATE, "method": "notifications/eventsource/emitted"}), LATE["params"]["data"]),  # type: ignore[index]
    (json.dumps({**LATE, "method": "notifications/message"}), LATE["params"]["data"]),  # type: ignore[index]
    (json.dumps({"params": {**BARE, "payload": "x" * 200}, "method": "eventsource/event", "jsonrpc": "2.0"}),
     {**BARE, "payload": "x" * 200}),
    (emitted({**BARE, "payload": 10**25}), {**BARE, "payload": 10**25}),
    # not JSON to the letter, but what Python's `json` writes
    (emitted({**BARE, "payload": {"t": float("nan"), "u": float("inf")}}), {**BARE, "payload": {"t": None, "u": None}}),
]  # fmt: skip


@pytest.mark.anyio
@pytest.mark.parametrize(("text", "event"), DIALECTS)
async def test_an_event_is_recognized_in_every_dialect(text: str, event: dict[str, Any]) -> None:
    wire = await received(text)
    assert [fields(item) for item in wire.receiver.events] == [event]
    assert (wire.messages, wire.receiver.rejections, list(wire.log.lines)) == ([], [], [])


@pytest.mark.anyio
@pytest.mark.parametrize(("text", "event"), DIALECTS)
async def test_an_event_is_recognized_among_others(text: str, event: dict[str, Any]) -> None:
    wire = await received(emitted({"type": "before"}), text, emitted({"type": "after"}))
    assert [fields(item) for item in wire.receiver.events] == [{"type": "before"}, event, {"type": "after"}]
    assert (wire.messages, wire.receiver.rejections, list(wire.log.lines)) == ([], [], [])


@pytest.mark.anyio
@pytest.mark.parametrize(("text", "event"), DIALECTS)
async def test_an_event_is_recognized_in_a_message_that_was_parsed_elsewhere(text: str, event: dict[str, Any]) -> None:
    wire = Wire()
    async with wire.running():
        assert await wire.inbound.take_message(jsonrpc_message_adapter.validate_json(text, by_name=False))
    assert [fields(item) for item in wire.receiver.events] == [event]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (line("notifications/message", {"level": "warning", "data": "hinge is loose"}), "hinge is loose"),
        (line("notifications/message", {"level": "info", "data": {"msg": "ü"}}), '{"msg":"ü"}'),
        (line("notifications/message", {"level": "info", "data": {"type": 5}}), '{"type":5}'),
        (line("notifications/message", {"level": "info", "data": ["type"]}), '["type"]'),
        (line("notifications/message", {"level": "info", "data": 10**25}), "1" + "0" * 25),
        (line("notifications/message", {"level": "info", "data": {"t": float("nan")}}), '{"t":null}'),
        (line("notifications/message", {"level": ["odd"], "data": "text"}), "text"),
        (line("notifications/message", {"data": None}), "null"),
        (line("notifications/message", {}), "null"),
    ],
)
async def test_a_log_notification_is_a_line_of_the_log(text: str, shown: str) -> None:
    wire = await received(text)
    assert list(wire.log.lines) == [shown]
    assert (wire.receiver.events, wire.receiver.rejections, wire.messages, wire.garbage) == ([], [], [], [])


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (line("notifications/eventsource/emitted", {"data": "text"}), "a string"),
        (line("notifications/eventsource/emitted", {"data": [FULL]}), "a list"),
        (line("notifications/eventsource/emitted", {"level": "info"}), "nothing"),
        (line("notifications/eventsource/emitted", {}), "nothing"),
    ],
)
async def test_what_is_announced_as_an_event_and_is_none_is_rejected(text: str, kind: str) -> None:
    wire = await received(text)
    assert wire.receiver.rejections == [f"an event must be an object, got {kind}"]
    assert (wire.receiver.events, wire.messages, wire.garbage) == ([], [], [])


@pytest.mark.anyio
@pytest.mark.parametrize("event", [{}, {"type": ""}, {"type": 5}, {"type": "x" * 300}, {**FULL, "type": ""}])
async def test_an_event_without_a_proper_type_reaches_the_receiver_who_can_say_why_it_refuses(event: Any) -> None:
    wire = await received(emitted(event))
    [batch] = wire.receiver.batches
    normalized = normalize_batch(batch.events, SourceProfile("door"), batch.at_most_bytes)
    assert normalized.events == []
    assert "type: " in str(normalized.refused[0][1])


@pytest.mark.anyio
async def test_an_id_that_is_empty_is_none() -> None:
    wire = await received(emitted({**FULL, "id": ""}))
    [batch] = wire.receiver.batches
    [event] = normalize_batch(batch.events, SourceProfile("door"), batch.at_most_bytes).events
    assert len(event.id) == 36


@pytest.mark.anyio
async def test_everything_else_goes_to_the_session_in_order() -> None:
    messages: list[dict[str, Any]] = [
        {"jsonrpc": "2.0", "id": 1, "result": {"method": "notifications/message", "params": {"data": BARE}}},
        {"jsonrpc": "2.0", "id": "a", "method": "roots/list"},
        {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 2}},
        {"jsonrpc": "2.0", "id": 2, "error": {"code": -32601, "message": "notifications/eventsource/emitted"}},
        {"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": "file:///a"}},
        {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"},
        {"jsonrpc": "2.0", "method": "notifications/resources/list_changed"},
        {"jsonrpc": "2.0", "method": "notifications/prompts/list_changed"},
    ]
    texts = [text for message in messages for text in (json.dumps(message), emitted())]
    wire = await received(*texts)
    assert wire.messages == messages
    assert len(wire.receiver.events) == len(messages)
    assert wire.receiver.resources == ["file:///a"]
    assert wire.list_changes == 3
    assert wire.garbage == []


@pytest.mark.anyio
async def test_how_a_server_fares_is_for_the_receiver() -> None:
    status = {"upstreams": [{"name": "shop", "state": "connected"}]}
    wire = await received(
        json.dumps({"jsonrpc": "2.0", "method": "notifications/eventsource/status", "params": status})
    )
    assert wire.receiver.statuses == [status]
    assert (wire.messages, wire.garbage) == ([], [])


@pytest.mark.anyio
async def test_events_keep_their_order_whichever_way_each_is_recognized() -> None:
    wire = await received(*[
        text
        for number in range(0, 40, 4)
        for text in (
            emitted({**FULL, "id": str(number)}),
            line("notifications/message", {"data": {**BARE, "id": str(number + 1)}}),
            json.dumps({"params": {"data": {**BARE, "id": str(number + 2), "payload": "x" * 200}},
                        "method": "notifications/eventsource/emitted", "jsonrpc": "2.0"}),
            line("eventsource/event", {**BARE, "id": str(number + 3)}),
        )
    ])  # fmt: skip
    assert [event.id for event in wire.receiver.events] == [str(number) for number in range(40)]


@pytest.mark.anyio
async def test_a_batch_knows_the_size_of_its_events() -> None:
    small, large = emitted(), emitted({**FULL, "payload": {"text": "x" * 3000}})
    for texts in ([small, small], [small, large], [large], [line("eventsource/event", FULL), large]):
        wire = await received(*texts)
        [batch] = wire.receiver.batches
        assert batch.at_most_bytes >= max(len(text) for text in texts if len(text) > SHALLOW_BYTES or len(texts) > 1)
        assert sum(map(len, texts)) <= batch.bytes <= sum(map(len, texts)) + len(texts)
    wire = await received(*[small] * 1000)
    assert sum(batch.bytes for batch in wire.receiver.batches) == 1000 * (len(small) + 1)
    assert all(batch.at_most_bytes <= SHALLOW_BYTES for batch in wire.receiver.batches)


# --- garbage --------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize(
    "text",
    [
        b"Server listening on stdio",
        b"{",
        b'"text"',
        b"[]",
        b'[{"jsonrpc":"2.0","method":"eventsource/event","params":{"type":"a"}}]',
        b'{"method":"ping"}',
        b"\xff\xfe\x00",
        b'{"jsonrpc":"2.0","method":"eventsource/event","params":{"type":"a","payload":"\\ud800"}}',
        (emitted() + emitted()).encode(),
        (emitted() + " " + emitted()).encode(),
        emitted()[:-1].encode(),
        b'{"jsonrpc":"2.0","method":"eventsource/event","params":' + b'{"a":' * 3000 + b"1" + b"}" * 3000 + b"}",
    ],
)
async def test_garbage_is_counted_and_shown_and_harms_no_neighbour(text: bytes) -> None:
    wire = await received(emitted(), text, emitted())
    assert wire.log.garbage == 1
    assert len(wire.garbage) == 1
    assert text[:10].decode(errors="replace").rstrip() in wire.garbage[0]
    assert len(wire.garbage[0]) < 300
    assert wire.receiver.types == ["door.opened"] * 2
    assert wire.messages == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b'{"jsonrpc": 2 "method": "ping"}', ": Expecting ',' delimiter at character 15"),
        (b"{'jsonrpc': '2.0'}", ": Expecting property name enclosed in double quotes at character 2"),
        (b' {"id": 1', ": Expecting ',' delimiter at character 10"),
        (emitted().encode() + b"x", f": Extra data at character {len(emitted()) + 1}"),
        (b'["\xff"]', ": not UTF-8 at byte 3"),
        (b"[" * 100_000, ": too deeply nested"),
        (b'{"method":"ping"}', ""),
        (b'{"id":' + b"1" * 5000 + b"}", ""),
        (b"listening on {stdin}", ""),
        (b"[ERROR] no such sensor", ""),
        (b"[2026-11-21] up", ""),
    ],
)
async def test_garbage_that_begins_like_json_is_told_with_where_it_breaks(text: bytes, fault: str) -> None:
    [told] = (await received(text)).garbage
    assert told == f"not a JSON-RPC message: {text[:200].decode(errors='replace')}{fault}"


@pytest.mark.anyio
async def test_blank_lines_are_nothing() -> None:
    wire = await received("", "  ", emitted(), "\r", "\t", emitted(), "")
    assert wire.receiver.types == ["door.opened"] * 2
    assert (wire.log.garbage, list(wire.log.lines)) == (0, [])


@pytest.mark.anyio
async def test_an_event_written_over_several_lines_is_garbage_even_in_one_block() -> None:
    wire = await received(*json.dumps(json.loads(emitted()), indent=1).splitlines(), emitted())
    assert len(wire.receiver.events) == 1
    assert wire.log.garbage > 5


@pytest.mark.anyio
async def test_a_line_that_is_too_long_is_skipped_and_the_next_one_is_fine() -> None:
    wire = Wire()
    chunk = b"x" * 262_144
    async with wire.running():
        await wire.feed(emitted().encode() + b"\nbeginning")
        for _ in range(MAX_LINE_BYTES // len(chunk) + 3):
            await wire.feed(chunk)
            assert wire.transport._parts_size <= MAX_LINE_BYTES
        await wire.feed(b'{"end":1}\n' + emitted().encode() + b"\n")
    assert wire.receiver.types == ["door.opened"] * 2
    [shown] = wire.garbage
    assert f"a line of more than {MAX_LINE_BYTES} bytes, beginning beginningxxx" in shown
    assert (wire.log.garbage, wire.messages) == (1, [])


@pytest.mark.anyio
async def test_a_long_line_within_the_bound_is_read() -> None:
    wire = Wire()
    text = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"text": "x" * (MAX_LINE_BYTES - 100)}}).encode()
    async with wire.running():
        for start in range(0, len(text), 262_144):
            await wire.feed(text[start : start + 262_144])
        await wire.feed(b"\n")
    assert len(wire.messages) == 1
    assert wire.garbage == []


# --- chunks ---------------------------------------------------------------------------------------------------------

LONGEST = 400
"""The bound on a line, in the tests of this section."""

some_lines = st.lists(
    st.sampled_from([
        emitted(),
        emitted({**FULL, "id": "8", "payload": {"ü": "✓"}}),
        emitted({**FULL, "type": ""}),
        emitted(BARE),
        emitted({}),
        emitted("no event"),
        line("eventsource/event", FULL),
        line("notifications/message", {"level": "info", "data": BARE}),
        line("notifications/message", {"level": "info", "data": "a line of the log"}),
        json.dumps({**LATE, "method": "notifications/eventsource/emitted"}),
        '{"jsonrpc": "2.0", "id": 1, "result": {}}',
        '{"jsonrpc": "2.0", "id": 2, "method": "roots/list"}',
        emitted() + emitted(),
        json.dumps(json.loads(emitted()), indent=1),
        emitted() + "\r",
        "",
        "   ",
        "garbage",
        "x" * LONGEST,
        "x" * (LONGEST + 1),
        emitted({**FULL, "payload": {"text": "y" * LONGEST}}),
        "z" * (3 * LONGEST),
    ]),
    max_size=12,
)  # fmt: skip


async def outcome(chunks: Sequence[bytes]) -> tuple[object, ...]:
    wire = Wire()
    async with wire.running():
        for chunk in chunks:
            await wire.feed(chunk)
    taken = Batch([], 0, 0)
    for batch in wire.receiver.batches:
        taken.events += batch.events
        taken.at_most_bytes = max(taken.at_most_bytes, batch.at_most_bytes)
    with patch("eventhost.event.time.time", return_value=1.5), patch("eventhost.event.uuid7", return_value="made"):
        normalized = normalize_batch(taken.events, SourceProfile("door"), taken.at_most_bytes)
    refused = [str(error) for _, error in normalized.refused]
    return (
        normalized.events,
        refused,
        wire.receiver.rejections,
        wire.messages,
        list(wire.log.lines),
        wire.log.garbage,
    )


@given(some_lines, st.data())
@example(["x" * LONGEST, "x" * (LONGEST + 1), emitted()], None)
def test_the_same_comes_of_the_same_bytes_however_they_are_cut(texts: list[str], data: st.DataObject | None) -> None:
    text = "".join(f"{text}\n" for text in texts).encode() + b'{"unfinished'
    cuts = data.draw(st.sets(st.integers(1, len(text) - 1)), label="cuts") if data else set()
    # A reader hands over far less at once than the longest line.
    edges = sorted({0, len(text), *cuts, *range(0, len(text), LONGEST)})
    chunks = [text[start:end] for start, end in pairwise(edges)]

    async def main() -> None:
        with patch.object(lines_room, "MAX_LINE_BYTES", LONGEST):
            assert await outcome(chunks) == await outcome([text[at : at + 1] for at in range(len(text))])

    anyio.run(main)


# --- backpressure ---------------------------------------------------------------------------------------------------

REQUEST = JSONRPCRequest(jsonrpc="2.0", id=1, method="tools/list")
LISTENING = JSONRPCRequest(jsonrpc="2.0", id=2, method="subscriptions/listen")  # answered when it ends
PING = JSONRPCRequest(jsonrpc="2.0", id=3, method="ping")
RESPONSE = b'{"jsonrpc":"2.0","id":1,"result":{}}\n'
CANCELLED = JSONRPCNotification(jsonrpc="2.0", method="notifications/cancelled", params={"requestId": 1})


@asynccontextmanager
async def stuck(
    monkeypatch: pytest.MonkeyPatch, before: Callable[[Wire], Awaitable[object]] | None = None
) -> AsyncIterator[Wire]:
    """A wire whose receiver is stuck with its first batch, and whose buffer holds no more than a few events."""
    monkeypatch.setattr(inbound_room, "BUFFER_BYTES", 2000)
    monkeypatch.setattr(inbound_room, "BUFFER_BYTES_WHILE_OWED", 10_000)
    wire = Wire()
    wire.receiver.gate = anyio.Event()
    with anyio.fail_after(LIMIT_S):
        async with wire.running():
            await wire.feed(emitted().encode() + b"\n")
            await settle()
            yield wire
            wire.receiver.gate.set()


async def flood(wire: Wire, most: int = 1000) -> int:
    """Feed events until `feed` waits; how many were taken until then."""
    taken = 0

    async def write() -> None:
        nonlocal taken
        for _ in range(most):
            await wire.feed(emitted().encode() + b"\n")
            taken += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        await settle()
        tasks.cancel_scope.cancel()
    return taken


@pytest.mark.anyio
async def test_reading_stops_while_the_receiver_is_stuck_and_goes_on_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with stuck(monkeypatch) as wire:
        taken = await flood(wire)
        assert 2000 // len(emitted()) - 1 <= taken <= 2000 // len(emitted())
        assert wire.inbound._waiting.bytes <= 2000 + len(emitted()) + 1
        wire.receiver.gate.set()
        assert await flood(wire, 100) == 100
    # What feeding was cancelled in the middle of counts as taken.
    assert len(wire.receiver.events) == 1 + taken + 1 + 100


@pytest.mark.anyio
async def test_reading_goes_on_while_a_response_is_owed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with stuck(monkeypatch) as wire, anyio.create_task_group() as tasks:
        await flood(wire)
        wire.inbound.sent(REQUEST)
        tasks.start_soon(wire.feed, emitted().encode() + b"\n" + RESPONSE)
        await settle()
        assert wire.messages == [{"jsonrpc": "2.0", "id": 1, "result": {}}]
        assert await flood(wire) == 0  # nothing is owed any more


@pytest.mark.anyio
async def test_a_request_sent_while_reading_is_stopped_sets_it_going(monkeypatch: pytest.MonkeyPatch) -> None:
    async with stuck(monkeypatch) as wire, anyio.create_task_group() as tasks:

        async def server() -> None:
            for _ in range(20):
                await wire.feed(emitted().encode() + b"\n")
            await wire.feed(RESPONSE)

        tasks.start_soon(server)
        await settle()
        assert wire.messages == []
        wire.inbound.sent(REQUEST)
        await settle()
        assert len(wire.messages) == 1


@pytest.mark.anyio
async def test_even_while_a_response_is_owed_there_is_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    async with stuck(monkeypatch) as wire:
        wire.inbound.sent(REQUEST)
        assert 2000 // len(emitted()) < await flood(wire) <= 10_000 // len(emitted())
        assert wire.inbound._waiting.bytes <= 10_000 + len(emitted()) + 1


@pytest.mark.anyio
@pytest.mark.parametrize("settle", ["cancelled", "error"])
async def test_a_request_that_was_given_up_or_failed_is_not_owed_a_response(
    monkeypatch: pytest.MonkeyPatch, settle: str
) -> None:
    async with stuck(monkeypatch) as wire:
        wire.inbound.sent(REQUEST)
        if settle == "cancelled":
            wire.inbound.sent(CANCELLED)
        else:
            await wire.feed(b'{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"no"}}\n')
        assert await flood(wire) <= 2000 // len(emitted())


@pytest.mark.anyio
async def test_a_ping_that_is_late_is_read_on_for_no_longer_and_other_requests_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with stuck(monkeypatch) as wire:
        wire.inbound.sent(PING)
        assert await flood(wire, 20) > 2000 // len(emitted())
        wire.inbound.overlook_pings()
        assert await flood(wire) == 0
        wire.inbound.sent(PING)
        wire.inbound.sent(REQUEST)
        wire.inbound.overlook_pings()
        assert await flood(wire, 1) == 1


@pytest.mark.anyio
async def test_all_that_the_session_sends_is_noted() -> None:
    wire = Wire()
    async with wire.inbound.running(), wire.transport as (_, write):
        await write.send(SessionMessage(REQUEST))
        assert wire.inbound._owed == {1}
        await write.send(SessionMessage(LISTENING))
        assert wire.inbound._owed == {1}
        await write.send(SessionMessage(CANCELLED))
        assert wire.inbound._owed == set()
        await settle()
    methods = ["tools/list", "subscriptions/listen", "notifications/cancelled"]
    assert [json.loads(text)["method"] for text in wire.sent] == methods
    assert all(text.endswith(b"\n") and text.count(b"\n") == 1 for text in wire.sent)


# --- the end --------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_what_was_said_before_and_after_the_session_is_accepted() -> None:
    wire = Wire()
    with anyio.fail_after(LIMIT_S):
        async with wire.inbound.running():
            await wire.feed(emitted({"type": "before"}).encode() + b"\n")
            async with wire.transport:
                await wire.feed(emitted({"type": "while"}).encode() + b"\n")
            await wire.feed(RESPONSE + emitted({"type": "after"}).encode() + b"\n" + RESPONSE)
            wire.receiver.gate = anyio.Event()
            await wire.feed(emitted({"type": "last"}).encode() + b"\n")
            wire.receiver.gate.set()
    assert wire.receiver.types == ["before", "while", "after", "last"]


@pytest.mark.anyio
async def test_a_receiver_that_never_takes_the_rest_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbound_room, "_DRAIN_S", 0.01)
    wire = Wire()
    wire.receiver.gate = anyio.Event()
    with anyio.fail_after(LIMIT_S):
        async with wire.inbound.running():
            await wire.feed(emitted().encode() + b"\n")
    assert wire.receiver.events == []
    wire.transport.close()


@pytest.mark.anyio
async def test_a_receiver_that_fails_ends_the_connection_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbound_room, "_DRAIN_S", 1e6)
    monkeypatch.setattr(inbound_room, "BUFFER_BYTES", 10)
    wire = Wire()
    wire.receiver.failure = RuntimeError("no journal")
    with anyio.fail_after(LIMIT_S), pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012
        async with wire.inbound.running():
            try:
                for _ in range(1000):
                    await wire.feed(emitted().encode() + b"\n")
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):  # as the reader of a child that is being stopped
                    await wire.feed(emitted().encode() + b"\n")
    assert caught.group_contains(RuntimeError, match="no journal")
    wire.transport.close()


@pytest.mark.anyio
async def test_without_a_receiver_events_are_nobodys() -> None:
    log = SourceLog("tools")
    inbound = Inbound(None, log, lambda: None)
    with anyio.fail_after(LIMIT_S):
        async with inbound.running():
            transport = LineTransport(inbound, Taken().accept)  # type: ignore[arg-type]
            for text in (emitted(), emitted("none"), line("notifications/resources/updated", {"uri": "a"})):
                transport.close()
                await transport.feed(text.encode() + b"\n")
    assert list(log.lines) == []


@pytest.mark.anyio
async def test_a_server_that_no_longer_listens_ends_the_session() -> None:
    async def send(_: bytes) -> None:
        raise ConnectionLost("gone")

    transport = LineTransport(Inbound(None, SourceLog("door"), lambda: None), send)
    with anyio.fail_after(LIMIT_S):
        async with transport as (read, write):
            await write.send(SessionMessage(REQUEST))
            with pytest.raises(anyio.EndOfStream):
                await read.receive()


# --- the log of a source --------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(["one", "zwei ü", "", "  ", "x" * 5000]), max_size=6), st.data())
def test_lines_of_stderr_do_not_depend_on_the_cuts_either(texts: list[str], data: st.DataObject) -> None:
    text = "".join(f"{line}\n" for line in texts if len(line) < 4096).encode() + b"last"
    cuts = sorted({0, len(text), *data.draw(st.sets(st.integers(1, len(text))), label="cuts")})

    async def main() -> None:
        log = SourceLog("door")
        for start, end in pairwise(cuts):
            await log.stderr(text[start:end])
        log.end()
        log.end()
        assert list(log.lines) == [line for line in texts if line.strip() and len(line) < 4096] + ["last"]

    anyio.run(main)


@pytest.mark.anyio
async def test_a_line_of_stderr_that_never_ends_is_shown_in_pieces() -> None:
    log = SourceLog("door")
    for _ in range(10):
        await log.stderr(b"x" * 1000)
    log.end()
    assert len(log.lines) >= 2
    assert all(set(line) == {"x"} and len(line) <= 4096 for line in log.lines)


def test_the_last_100_lines_are_kept_and_a_flood_is_counted_in_the_hosts_log(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("eventhost.connections.sourcelog.time.monotonic", lambda: now)
    log = SourceLog("door")
    with capture_logs() as logs:
        for number in range(1000):
            log.say("info", str(number))
        now = 101.0
        log.say("notice", "calm again")
    assert list(log.lines) == [*map(str, range(901, 1000)), "calm again"]
    assert [entry["line"] for entry in logs if entry["event"] == "source_log"] == [*map(str, range(200)), "calm again"]
    assert [entry["lines"] for entry in logs if entry["event"] == "source_log_suppressed"] == [800]
    assert all(entry["source"] == "door" for entry in logs)


@pytest.mark.parametrize(
    ("said", "logged"),
    [
        ("debug", "debug"),
        ("notice", "info"),
        ("alert", "critical"),
        ("emergency", "critical"),
        ("bind", "info"),
        ("", "info"),
    ],
)
def test_levels_are_translated(said: str, logged: str) -> None:
    with capture_logs() as logs:
        SourceLog("door").say(said, "text")
    assert [(entry["log_level"], entry["line"]) for entry in logs] == [(logged, "text")]
