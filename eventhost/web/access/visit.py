"""One request from its beginning to its end: what it reads and sends is counted, and what became of it is told.

The access log is for audit: who asked what, by which way, and with which result. A path is told without its query, and
nothing of a header or a body, so that no secret gets there.
"""

from __future__ import annotations

import time

import structlog
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from eventhost.access import NOBODY
from eventhost.web.access.door import Admitted
from eventhost.web.access.origins import Headers

log = structlog.get_logger()

_NOBODY = Admitted(NOBODY)


class Visit:
    """One request, or one WebSocket; its `receive` and `send` go between the server and whatever answers."""

    __slots__ = (
        "_body_bytes",
        "_receive",
        "_send",
        "_started",
        "address",
        "admitted",
        "headers",
        "is_open_ended",
        "limit_bytes",
        "method",
        "peer",
        "scope",
        "sent_bytes",
        "status",
        "waiting_since",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self._receive, self._send = scope, receive, send
        self._started = time.monotonic()
        self._body_bytes = 0
        self.is_open_ended = scope["type"] == "websocket"
        """Whether nobody knows when the client says something again: its body, if it has one, was read."""
        self.method: str = scope.get("method", "WEBSOCKET")
        self.peer = scope.get("client")
        self.address: str = self.peer[0] if self.peer else ""
        self.admitted = _NOBODY
        self.headers: Headers = []
        """What is added to the headers of the answer."""
        self.limit_bytes = 0
        self.sent_bytes = 0
        self.status = 0
        self.waiting_since = 0.0
        """Since when the client has not read what it is sent, or not sent what it promised; 0 while it does."""

    async def receive(self) -> Message:
        """The next message of the client's; a body is counted, since a chunked one does not say its size beforehand."""
        if self.is_open_ended:
            return await self._receive()
        self.waiting_since = time.monotonic()
        message = await self._receive()
        self.waiting_since = 0.0
        self.is_open_ended = not message.get("more_body", False)
        self._body_bytes += len(message.get("body", b""))
        if self._body_bytes > self.limit_bytes:
            raise HTTPException(413, too_large(self.limit_bytes))
        return message

    async def send(self, message: Message) -> None:
        """Hand the next message on to the client."""
        kind = message["type"]
        if kind == "http.response.body":
            self.sent_bytes += len(message.get("body", b""))
        elif kind == "websocket.send":
            self.sent_bytes += len(message.get("text") or message.get("bytes") or b"")
        elif kind in ("http.response.start", "websocket.http.response.start"):
            self.status = message["status"]
            if self.headers:
                message = {**message, "headers": [*message.get("headers", ()), *self.headers]}
            if self.status == 200 and (b"content-type", b"text/event-stream") in _kinds(message):
                self.tell("http_stream_opened")
        elif kind == "websocket.accept":
            self.status = 101
            self.tell("http_stream_opened")
        elif kind == "websocket.close" and not self.status:
            self.status = 403
        self.waiting_since = time.monotonic()
        await self._send(message)
        self.waiting_since = 0.0

    def tell(self, event: str) -> None:
        """Log this request; over the control socket, where only the own user asks, for whoever looks for faults."""
        caller = self.admitted.caller
        (log.info if self.peer else log.debug)(
            event,
            caller=caller.name or caller.how,
            how=caller.how,
            method=self.method,
            path=self.scope["path"],
            status=self.status,
            bytes=self.sent_bytes,
            ms=round((time.monotonic() - self._started) * 1000, 1),
            address=self.address or "control socket",
        )


def too_large(limit_bytes: int) -> str:
    """The message for a body beyond the limit."""
    return f"the body is larger than {limit_bytes} bytes"


def _kinds(message: Message) -> Headers:
    return [(name, value.split(b";")[0]) for name, value in message.get("headers", ()) if name == b"content-type"]
