"""A session over a WebSocket: JSON text frames, JSON-RPC in, `{event, data, id}` out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

import anyio
import msgspec
from anyio.abc import TaskGroup
from starlette.types import Receive, Scope, Send

from eventhost.access import Access, Caller
from eventhost.web.answers import ErrorCode
from eventhost.web.events.broadcast import Item, Piece
from eventhost.web.sessions.feed import Feed, Frame, ending, frames_of
from eventhost.web.sessions.registry import STOPPING, Line, Session, abort, message_id
from eventhost.web.sessions.rpc import failure, fault

_LAST_WORD_S: Final = 0.5
_NORMAL: Final = 1000
_GOING_AWAY: Final = 1001


class SessionSocket:
    """An ASGI application that carries `session` over one WebSocket, both ways.

    Ended as a `SessionStream` is. Whoever sends faster than is answered is not read from until it has read the answers;
    what it asked for is worked on to its end though it leaves, and answered when it comes back.
    """

    def __init__(
        self, session: Session, caller: Caller, feed: Feed, open_streams: set[anyio.CancelScope], timeout_s: float
    ) -> None:
        self._session, self._caller, self._feed = session, caller, feed
        self._open_streams, self._timeout_s = open_streams, timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        accepted = False

        async def accept() -> None:
            nonlocal accepted
            if not accepted:
                accepted = True
                await send({"type": "websocket.accept"})

        async with anyio.create_task_group() as work:
            with self._session.connected("websocket") as line:
                self._open_streams.add(line.scope)
                try:
                    with line.scope:
                        await accept()
                        async with anyio.create_task_group() as tasks:
                            tasks.start_soon(self._read, line, receive, work)
                            await self._feed.run(_Carrier(line, send, self._timeout_s))
                            tasks.cancel_scope.cancel()
                finally:
                    self._open_streams.discard(line.scope)
            if line.stalled:
                abort(self._session, scope)
            elif not line.left:
                await _close(line, accept, send)

    async def _read(self, line: Line, receive: Receive, work: TaskGroup) -> None:
        while (message := await receive())["type"] != "websocket.disconnect":
            await self._session.turn()
            refused = self._taken(message.get("text"), work)
            if refused is not None:
                self._session.tell("response", refused)
        line.leave()

    def _taken(self, text: str | None, work: TaskGroup) -> dict[str, Any] | None:
        """Begin to work on a frame; None, or the answer that it gets instead."""
        if not self._caller.may(Access.PUBLISH):
            what = f"the scope {Access.PUBLISH} is needed to send messages; the key {self._caller.name!r} has it not"
            return failure(ErrorCode.INVALID_REQUEST, what)
        try:
            message: Any = msgspec.json.decode(text or "")
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            return failure(ErrorCode.PARSE_ERROR, f"a text frame of JSON is expected: {error}")
        if (what_is_wrong := fault(message)) is not None:
            return failure(ErrorCode.INVALID_REQUEST, what_is_wrong)
        self._session.take()
        work.start_soon(self._session.work_on, message, message_id())
        return None


class _Carrier:
    def __init__(self, line: Line, send: Send, timeout_s: float) -> None:
        self._line, self._send, self._timeout_s = line, send, timeout_s

    async def carry(self, frames: Iterable[Frame]) -> None:
        async with self._line.in_time(self._timeout_s):
            for frame in frames:
                await self._send(_message(text_of(frame)))

    async def carry_piece(self, piece: Piece) -> None:
        async with self._line.in_time(self._timeout_s):
            for message in piece.made(_made):
                await self._send(message)


async def _close(line: Line, accept: Callable[[], Awaitable[None]], send: Send) -> None:
    code = _GOING_AWAY if line.reason == STOPPING else _NORMAL
    with anyio.move_on_after(_LAST_WORD_S), suppress(OSError):
        await accept()  # another connection may have come in between
        await send(_message(text_of(ending(line))))
        await send({"type": "websocket.close", "code": code, "reason": line.reason})


def _made(items: Sequence[Item]) -> list[dict[str, Any]]:
    return [_message(text_of(frame)) for frame in frames_of(items)]


def _message(text: str) -> dict[str, Any]:
    return {"type": "websocket.send", "text": text}


def text_of(frame: Frame) -> str:
    """A frame as JSON; `id` only where there is one."""
    place = f',"id":"{frame.id}"' if frame.id else ""
    return f'{{"event":{msgspec.json.encode(frame.event).decode()},"data":{frame.data.decode()}{place}}}'
