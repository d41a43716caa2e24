"""What a server sends is sorted here: events to the receiver ahead of pydantic, everything else to the SDK's session.

Between the reader and the receiver stands a bounded buffer. When it is full, reading stops, and the server is slowed
down by its own full pipe; but while a response to a request of ours may be next, reading goes on up to a larger bound,
so that a server can answer although its events are waiting.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import anyio
import msgspec
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCMessage, JSONRPCNotification, JSONRPCRequest, jsonrpc_message_adapter

from eventhost import wire
from eventhost.connections.sourcelog import SourceLog
from eventhost.errors import EventRejected
from eventhost.event import SHALLOW_BYTES, EnvEvent, RawEvent

MAX_LINE_BYTES = 16 * 1_048_576
"""The longest line a server may send: a response may be larger than any event."""

BUFFER_BYTES = 65_536
"""How much of events may wait before reading stops: little, so that nobody waits long behind one that floods."""

BUFFER_BYTES_WHILE_OWED = 64 * 1_048_576
"""The same while the server owes us a response."""

# How long what a server said last may take to be accepted, when the connection to it has ended.
_DRAIN_S = 10.0

LISTEN = "subscriptions/listen"
"""A request of the modern era that is answered when the subscription ends: no response to wait for."""

PING = "ping"
RESOURCE_UPDATED = "notifications/resources/updated"
LIST_CHANGED = tuple(f"notifications/{kind}/list_changed" for kind in ("tools", "resources", "prompts"))


Received = RawEvent | EnvEvent
"""An event as it came, or, when it came in full, as what it will be once the host has added its part."""


@dataclass(slots=True)
class Batch:
    """Events in the order in which they came, with the size of their JSON text: in all, and of none of them more."""

    events: list[Received]
    bytes: int
    at_most_bytes: int


class Receiver(Protocol):
    """Where a connection takes what it receives; an event source is one."""

    async def accept(self, batch: Batch) -> None:
        """Take a batch of events, in order; return once they are published or refused."""
        ...

    def reject(self, reason: str, event: Received | None = None) -> None:
        """Take note of an event that cannot be accepted."""
        ...

    def resource_updated(self, uri: str) -> None:
        """Take note that a resource has changed."""
        ...

    def fares(self, params: Mapping[str, Any]) -> None:
        """Take note of how the server fares: params of `wire.STATUS`."""
        ...


# What says more than these fields, or another level, is taken the longer way, by which nothing of it is lost.
class _InFull(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    data: EnvEvent
    level: Literal["info"] = "info"


class _EmittedInFull(msgspec.Struct, gc=False):
    method: Literal["notifications/eventsource/emitted"]
    params: _InFull


class _Params(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    data: RawEvent
    level: Literal["info"] = "info"


class _Emitted(msgspec.Struct, gc=False):
    method: str
    params: _Params


class _Event(msgspec.Struct, gc=False):
    method: str
    params: RawEvent


class _Odd(msgspec.Struct):
    method: str
    params: dict[str, Any]


# Mostly a whole block of lines holds nothing but events, each of them complete: then it is decoded in one go.
_decode_block = msgspec.json.Decoder(_EmittedInFull).decode_lines


# Where a line names its method near its beginning, as every serializer in use does, it need not be parsed twice.
_NEAR_THE_BEGINNING = 128
_FAST: tuple[tuple[bytes, str, Callable[[bytes], _Emitted | _Event]], ...] = (
    (b'"' + wire.EMITTED.encode() + b'"', wire.EMITTED, msgspec.json.Decoder(_Emitted).decode),
    (b'"' + wire.MESSAGE.encode() + b'"', wire.MESSAGE, msgspec.json.Decoder(_Emitted).decode),
    (b'"' + wire.EVENT.encode() + b'"', wire.EVENT, msgspec.json.Decoder(_Event).decode),
)
_decode_odd = msgspec.json.Decoder(_Odd).decode

# Not `[ERROR] no such sensor`.
_LIKE_JSON = re.compile(rb"""\s*(?:\{\s*(?:["'}]|$)|\[\s*(?:["\[{]|$))""")


class Inbound:
    """Sorts what one server sends, for as long as one connection to it lasts."""

    def __init__(self, receiver: Receiver | None, log: SourceLog, on_list_changed: Callable[[], None]) -> None:
        self._receiver, self._log, self._on_list_changed = receiver, log, on_list_changed
        self.on_resource_updated: Callable[[str], None] | None = None
        """Called with the URI of a resource that has changed, beside the receiver."""
        self._fast = _FAST[0]
        self._waiting = Batch([], 0, 0)
        self._handing = False
        self._taking = True
        self._changed = anyio.Event()
        self._owed: set[str | int] = set()
        self._pings: set[str | int] = set()

    @property
    def takes_events(self) -> bool:
        """Whether there is anybody to receive them; else they are dropped."""
        return self._receiver is not None

    # What we ask of the server.

    def sent(self, message: JSONRPCMessage) -> None:
        """Take note of a message to the server: a request is owed a response."""
        if isinstance(message, JSONRPCRequest):
            if message.method != LISTEN:
                self._owed.add(message.id)
                if message.method == PING:
                    self._pings = self._pings & self._owed | {message.id}
                self._notice()
        elif isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
            self._owed.discard((message.params or {}).get("requestId", ""))

    def overlook_pings(self) -> None:
        """Count no longer on answers to the pings that were sent: who floods may never come to them."""
        self._owed -= self._pings

    # What the server sends.

    async def take_block(self, block: bytes, forward: Callable[[SessionMessage], Awaitable[None]]) -> None:
        """Sort a block of whole lines."""
        try:
            notifications = _decode_block(block)
        except (msgspec.MsgspecError, RecursionError):
            notifications = []
        # An event that spans lines is none, and must not become one by the luck of standing whole in this block.
        if len(notifications) != block.count(b"\n"):
            await self.take_lines(block.split(b"\n"), forward)
        else:
            short = _no_line_exceeds(block, SHALLOW_BYTES)
            events: list[Received] = [notification.params.data for notification in notifications]
            await self._put(Batch(events, len(block), SHALLOW_BYTES if short else len(block)))

    async def take_lines(self, lines: list[bytes], forward: Callable[[SessionMessage], Awaitable[None]]) -> None:
        """Sort raw lines; `forward` gets what the session must see."""
        batch = Batch([], 0, 0)
        for line in lines:
            event = self._event_of(line)
            if event is not None:
                batch.events.append(event)
                batch.bytes += len(line)
                batch.at_most_bytes = max(batch.at_most_bytes, len(line))
            elif line and not line.isspace():
                await self._put(batch)  # what came before this line
                batch = Batch([], 0, 0)
                await self._take_line(line, forward)
        await self._put(batch)

    async def take_message(self, message: JSONRPCMessage) -> bool:
        """Sort a message that was parsed elsewhere; true when the session need not see it."""
        if not isinstance(message, JSONRPCNotification):
            if not isinstance(message, JSONRPCRequest) and message.id is not None:
                self._owed.discard(message.id)
            return False
        method, params = message.method, message.params or {}
        if method == wire.EMITTED:
            await self._put_value(params.get("data"), _envelope(method, params))
        elif method == wire.EVENT:
            await self._put_value(params)
        elif method == wire.STATUS:
            if self._receiver is not None:
                self._receiver.fares(params)
        elif method == wire.MESSAGE:
            data = params.get("data")
            if isinstance(data, Mapping) and isinstance(data.get("type"), str):
                await self._put_value(data, _envelope(method, params))
            else:
                self._log.hear(str(params.get("level", "info")), data)
        else:
            if method == RESOURCE_UPDATED:
                if self._receiver is not None:
                    self._receiver.resource_updated(str(params.get("uri", "")))
                if self.on_resource_updated is not None:
                    self.on_resource_updated(str(params.get("uri", "")))
            elif method in LIST_CHANGED:
                self._on_list_changed()
            return False
        return True

    def take_garbage(self, text: str, fault: str = "") -> None:
        """Count and show what is no message at all; `fault` is what keeps it from being one."""
        self._log.take_garbage(text, fault)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Hand events to the receiver until the block ends, and then whatever still waits; the latter is bounded."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._hand_over)
            try:
                yield
            finally:
                with anyio.move_on_after(_DRAIN_S, shield=True):
                    while self._taking and (self._waiting.events or self._handing):
                        await self._changed.wait()
                tasks.cancel_scope.cancel()

    async def _hand_over(self) -> None:
        try:
            while True:
                while not self._waiting.events:
                    await self._changed.wait()
                batch, self._waiting, self._handing = self._waiting, Batch([], 0, 0), True
                self._notice()
                if self._receiver is not None:
                    await self._receiver.accept(batch)
                self._handing = False
                self._notice()
        finally:
            self._taking = False
            self._notice()

    def _event_of(self, line: bytes) -> RawEvent | None:
        mark, method, decode = self._fast
        if line.find(mark, 0, _NEAR_THE_BEGINNING) < 0:
            # A server keeps to one kind of notification: the last one that fitted is tried first.
            for kind in _FAST:
                if line.find(kind[0], 0, _NEAR_THE_BEGINNING) >= 0:
                    mark, method, decode = self._fast = kind
                    break
            else:
                return None
        try:
            notification = decode(line)
        except (msgspec.MsgspecError, RecursionError):
            return _odd_event(line, method)
        params = notification.params
        event = params.data if isinstance(params, _Params) else params
        if notification.method != method or (method == wire.MESSAGE and type(event.type) is not str):
            return None
        return event

    async def _take_line(self, line: bytes, forward: Callable[[SessionMessage], Awaitable[None]]) -> None:
        try:
            message = jsonrpc_message_adapter.validate_json(line, by_name=False)
        except ValueError:
            self.take_garbage(line[:200].decode(errors="replace"), _fault_of(line))
            return
        if not await self.take_message(message):
            await forward(SessionMessage(message))

    async def _put_value(self, value: Any, envelope: Mapping[str, Any] | None = None) -> None:
        try:
            text = msgspec.json.encode(value)
            # Python's parsers let `NaN` through
            event = RawEvent.from_value(msgspec.json.decode(text), envelope)
        except (EventRejected, msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
            if self._receiver is not None:
                self._receiver.reject(str(error))
            return
        await self._put(Batch([event], len(text), len(text)))

    async def _put(self, batch: Batch) -> None:
        if not batch.events or not self._taking:
            return
        waiting = self._waiting
        waiting.events += batch.events
        waiting.bytes += batch.bytes
        waiting.at_most_bytes = max(waiting.at_most_bytes, batch.at_most_bytes)
        self._notice()
        while self._taking and self._waiting.bytes > (BUFFER_BYTES_WHILE_OWED if self._owed else BUFFER_BYTES):
            await self._changed.wait()

    def _notice(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


def _odd_event(line: bytes, method: str) -> RawEvent | None:
    """The event in a notification that says more than an event holds; none if it is no such notification."""
    try:
        notification = _decode_odd(line)
        params = notification.params
        event = (
            RawEvent.from_value(params)
            if method == wire.EVENT
            else RawEvent.from_value(params.get("data"), _envelope(method, params))
        )
    except (EventRejected, msgspec.MsgspecError, RecursionError):
        return None
    return event if notification.method == method and (method != wire.MESSAGE or type(event.type) is str) else None


def _envelope(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """What is worth telling of what came beside an event: nothing of `level: "info"`."""
    beside = {name: value for name, value in params.items() if name != "data" and (name, value) != ("level", "info")}
    return {"method": method, **beside} if beside else {}


def _fault_of(line: bytes) -> str:
    """What keeps a line that begins like JSON from being that."""
    if not _LIKE_JSON.match(line):
        return ""
    try:
        # Numbers as they stand: a very long one would be refused, and for what is no fault.
        json.loads(line.decode(), parse_int=str, parse_float=str)
    except json.JSONDecodeError as error:
        return f"{error.msg} at character {error.pos + 1}"
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start + 1}"
    except RecursionError:
        return "too deeply nested"
    return ""


def _no_line_exceeds(block: bytes, length: int) -> bool:
    """Whether the lines of `block` are at most `length` bytes long; looks at few of them."""
    start, end = 0, len(block)
    while end - start > length:
        newline = block.rfind(b"\n", start, start + length + 1)
        if newline < 0:
            return False
        start = newline + 1
    return True
