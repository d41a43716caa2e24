"""Live events as Server-Sent Events: a client that stalls delays nobody, and is told what it missed.

The format is the HTML standard's, section 9.2. Events that gathered while the client was slow go out in one piece,
which all clients with the same `?type=` and `?match=` share (see `broadcast.py`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import inf
from typing import Any, Final

import anyio
import msgspec
import structlog
from starlette.types import Receive, Scope, Send

from eventhost.bus import Lagged
from eventhost.journal import Entry
from eventhost.web.events.broadcast import Item, Watcher

log = structlog.get_logger()

_RETRY_MS: Final = 2000
_LAST_WORD_S: Final = 0.5

_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


def event_json(entry: Entry) -> bytes:
    """An event's JSON with its `seq` in front."""
    return b'{"seq":%d,%b' % (entry.seq, entry.event.to_json()[1:])


def sse(items: Sequence[Item]) -> bytes:
    """Events as they go over the wire; a comment if there are none."""
    return b"".join(map(_text, items)) or b": still here\n\n"


class EventStream:
    """An ASGI application that answers one request with what `watcher` sees, until either side ends it.

    Each event is `id: seq`, `event: type`, `data:` its JSON. `event: lagged` tells of events that are no longer held:
    how many, and with which sequence number the stream goes on. A client that does not read for `timeout_s` is ended.
    """

    def __init__(self, watcher: Watcher, open_streams: set[anyio.CancelScope], timeout_s: float) -> None:
        self._watcher, self._open_streams, self._timeout_s = watcher, open_streams, timeout_s
        self._sending_since = inf

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stalled = False

        async def until_client_leaves() -> None:
            nonlocal stalled
            while not stalled:
                with anyio.move_on_after(self._timeout_s / 4):
                    while (await receive())["type"] != "http.disconnect":
                        pass
                    break
                stalled = time.monotonic() - self._sending_since >= self._timeout_s
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            self._open_streams.add(tasks.cancel_scope)
            try:
                with self._watcher as watcher:
                    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
                    # An id without data is no event, yet sets where a client resumes that leaves before the first one.
                    await send(_message(b"retry: %d\nid: %d\n\n" % (_RETRY_MS, watcher.position)))
                    tasks.start_soon(until_client_leaves)
                    while (piece := await watcher.next()) is not None:
                        self._sending_since = time.monotonic()
                        await send(piece.made(_sse_message))
                        self._sending_since = inf
                tasks.cancel_scope.cancel()
            finally:
                self._open_streams.discard(tasks.cancel_scope)
        if stalled and (abort := scope.get("state", {}).get("abort")) is not None:
            log.info("stream_ended", reason="its client did not read", after_s=self._timeout_s)
            abort()
        # Somebody who does not read cannot be told that it ends; the server cuts that connection.
        with anyio.move_on_after(_LAST_WORD_S):
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def _message(text: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": text, "more_body": True}


def _sse_message(items: Sequence[Item]) -> dict[str, Any]:
    return _message(sse(items))


def _text(item: Item) -> bytes:
    if isinstance(item, Lagged):
        data = msgspec.json.encode({"missed": item.missed, "resume": item.resume})
        return b"id: %d\nevent: lagged\ndata: %b\n\n" % (item.resume - 1, data)
    # A line break inside a type would end the field, and let an event forge others.
    name = " ".join(item.event.type.splitlines()).encode()
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (item.seq, name, event_json(item))
