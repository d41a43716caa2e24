"""A session over Server-Sent Events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import anyio
from starlette.types import Receive, Scope, Send

from eventhost.web.events.broadcast import PIECE_BYTES, Item, Piece
from eventhost.web.sessions.feed import Feed, Frame, ending, frames_of
from eventhost.web.sessions.registry import Line, Session, abort

_LAST_WORD_S: Final = 0.5
_RETRY: Final = b"retry: 2000\n"

_HEADERS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"connection", b"keep-alive"),
    (b"x-accel-buffering", b"no"),
]


class SessionStream:
    """An ASGI application that answers one request with what `session` has for its client.

    Ended by the client, by another connection of the session, by the end of either, or because the client does not read
    for `timeout_s`; `closed` tells the client, unless it is that which ended it.
    """

    def __init__(self, session: Session, feed: Feed, open_streams: set[anyio.CancelScope], timeout_s: float) -> None:
        self._session, self._feed = session, feed
        self._open_streams, self._timeout_s = open_streams, timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def begin() -> None:
            nonlocal begun
            if not begun:
                begun = True
                await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})

        async def until_client_leaves() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            line.leave()

        with self._session.connected("sse") as line:
            self._open_streams.add(line.scope)
            try:
                with line.scope:
                    async with anyio.create_task_group() as tasks:
                        await begin()
                        tasks.start_soon(until_client_leaves)
                        await self._feed.run(_Carrier(line, send, self._timeout_s))
                        tasks.cancel_scope.cancel()
            finally:
                self._open_streams.discard(line.scope)
        if line.stalled:
            abort(self._session, scope)
        elif not line.left:
            with anyio.move_on_after(_LAST_WORD_S):
                await begin()  # another connection may have come in between
                await send({"type": "http.response.body", "body": text_of(ending(line)), "more_body": False})


class _Carrier:
    def __init__(self, line: Line, send: Send, timeout_s: float) -> None:
        self._line, self._send, self._timeout_s = line, send, timeout_s
        self._begin = _RETRY

    async def carry(self, frames: Iterable[Frame]) -> None:
        gathered = bytearray(self._begin)
        self._begin = b""
        for frame in frames:
            gathered += text_of(frame)
            if len(gathered) >= PIECE_BYTES:
                await self._send_message(_message(bytes(gathered)))
                gathered.clear()
        if gathered:
            await self._send_message(_message(bytes(gathered)))

    async def carry_piece(self, piece: Piece) -> None:
        await self._send_message(piece.made(_made))

    async def _send_message(self, message: dict[str, Any]) -> None:
        async with self._line.in_time(self._timeout_s):
            await self._send(message)


def _made(items: Sequence[Item]) -> dict[str, Any]:
    return _message(b"".join(map(text_of, frames_of(items))))


def _message(text: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": text, "more_body": True}


def text_of(frame: Frame) -> bytes:
    """A frame as the HTML standard's section 9.2 has it; neither its name nor its data has a line break."""
    place = f"id: {frame.id}\n" if frame.id else ""
    return b"%bevent: %b\ndata: %b\n\n" % (place.encode(), frame.event.encode(), frame.data)
