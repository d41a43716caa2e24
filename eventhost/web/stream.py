"""Live events as Server-Sent Events: a client that stalls delays nobody, and is told what it missed.

The format is the HTML standard's, section 9.2. Events that gathered while the client was slow go out in one piece, so
that many watchers cost little; the subscription is a cursor over the journal, so that a stalled one costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing

import anyio
import msgspec
from starlette.types import Receive, Scope, Send

from eventhost.bus import Lagged, Subscription
from eventhost.journal import Entry

HEARTBEAT_S = 15.0
"""A comment is sent this often when nothing else is, so that either side notices a dead connection."""

_PIECE_BYTES = 65_536
_RETRY_MS = 2000
_LAST_WORD_S = 0.5

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


def event_json(entry: Entry) -> bytes:
    """An event's JSON with its `seq` in front."""
    return b'{"seq":%d,%b' % (entry.seq, entry.event.to_json()[1:])


class EventStream:
    """An ASGI application that answers one request with the events of `subscription`, until either side ends it.

    Each is `id: seq`, `event: type`, `data:` the event's JSON. `event: lagged` tells of events that are no longer held:
    how many, and with which sequence number the stream goes on.
    """

    def __init__(self, subscription: Subscription, open_streams: set[anyio.CancelScope]) -> None:
        self._subscription = subscription
        self._open_streams = open_streams
        self._sending = anyio.Lock()
        self._silent = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def piece(text: bytes) -> None:
            async with self._sending:
                await send({"type": "http.response.body", "body": text, "more_body": True})
            self._silent = False

        async def heartbeats() -> None:
            while True:
                self._silent = True
                await anyio.sleep(HEARTBEAT_S)
                if self._silent:
                    await piece(b": still here\n\n")

        async def until_client_leaves() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            self._open_streams.add(tasks.cancel_scope)
            try:
                await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
                # An id without data is no event, yet sets where a client resumes that leaves before the first one.
                await piece(b"retry: %d\nid: %d\n\n" % (_RETRY_MS, self._subscription.after))
                tasks.start_soon(heartbeats)
                tasks.start_soon(until_client_leaves)
                async with aclosing(self._subscription.batches()) as batches:
                    async for batch in batches:
                        for text in _pieces(batch):
                            await piece(text)
                tasks.cancel_scope.cancel()
            finally:
                self._open_streams.discard(tasks.cancel_scope)
        # Somebody who does not read cannot be told that it ends; the server cuts that connection.
        with anyio.move_on_after(_LAST_WORD_S):
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def _pieces(batch: list[Entry | Lagged]) -> Iterator[bytes]:
    gathered = bytearray()
    for item in batch:
        gathered += _text(item)
        if len(gathered) >= _PIECE_BYTES:
            yield bytes(gathered)
            gathered.clear()
    if gathered:
        yield bytes(gathered)


def _text(item: Entry | Lagged) -> bytes:
    if isinstance(item, Lagged):
        data = msgspec.json.encode({"missed": item.missed, "resume": item.resume})
        return b"id: %d\nevent: lagged\ndata: %b\n\n" % (item.resume - 1, data)
    # A line break inside a type would end the field, and let an event forge others.
    name = " ".join(item.event.type.splitlines()).encode()
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (item.seq, name, event_json(item))
