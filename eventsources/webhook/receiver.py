"""One HTTP request in, one event out; the answer is 200 only after the host has accepted the event.

request ─► route ─► size ─► signature ─► body ─► type, id, payload ─► emit ─► answer
            404      413       401        400        400                      200, 422, 503

A sender repeats what was not answered with 200, under the same delivery id, so nothing that it sends is lost.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Any, Protocol
from urllib.parse import parse_qsl

import bodies
import signatures
from routes import Options, Route

from eventhost.errors import ConnectionLost, EventRejected

ACCEPT_S = 10.0
"""How long a sender waits for the host; most give up after ten seconds or more, and then send again."""

_BODY_S = 30.0
_LET_PASS_S = 2.0
# None that differs from one attempt of a delivery to the next, or the host would not know the repeat for one.
_OWN_HEADERS = ("content-type", "user-agent", "x-*-event", "x-*-topic", "x-event-*", "webhook-id")
_SECRET_HEADERS = ("authorization", "proxy-*", "*cookie*", "*signature*", "*token*", "*secret*", "*key*", "*password*")
"""Never part of an event, whatever the configuration wants."""

_Message = MutableMapping[str, Any]


class Emit(Protocol):
    """Hands an event to the host; returns its id once it is accepted."""

    def __call__(self, event_type: str, payload: dict[str, Any], *, event_id: str | None = None) -> Awaitable[str]: ...


class _Answer(Exception):
    """Ends the handling of a request with this answer."""

    def __init__(self, status: int, error: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.headers = headers or {}


class Receiver:
    """The webhook's HTTP application, as ASGI 3 has it. `log(level, text)` tells of requests that became no event."""

    def __init__(
        self,
        options: Options,
        emit: Emit,
        log: Callable[[str, str], None],
        *,
        now_s: Callable[[], float] = time.time,
        accept_s: float = ACCEPT_S,
    ) -> None:
        self._options = options
        self._emit = emit
        self._log = log
        self._now_s = now_s
        self._accept_s = accept_s

    async def __call__(
        self,
        scope: _Message,
        receive: Callable[[], Awaitable[_Message]],
        send: Callable[[_Message], Awaitable[None]],
    ) -> None:
        """Answer one request."""
        try:
            event_id = await self._handle(scope, receive)
        except _Answer as answer:
            self._log("warning", f"{scope['method']} {scope['path'][:200]!r}: {answer.status} {answer}")
            await _send(send, answer.status, {"error": str(answer)}, answer.headers)
        else:
            await _send(send, 200, {"id": event_id}, {})

    async def _handle(self, scope: _Message, receive: Callable[[], Awaitable[_Message]]) -> str:
        method, path = scope["method"], scope["path"]
        headers = _headers(scope)
        route = self._options.route(path)
        if route is None:
            raise _Answer(404, "no route takes this path")
        if method not in route.methods:
            raise _Answer(405, f"this route takes {', '.join(route.methods)}", {"allow": ", ".join(route.methods)})
        # Any page in a browser can post to a port of this machine; what signs its requests is no such page.
        if not route.signature and "origin" in headers and headers["origin"] not in route.origins:
            raise _Answer(403, "requests from web pages are refused here; name the page's origin in `origins`")
        body = await self._body(headers, receive)
        self._authenticate(route, headers, body)
        event_type, event_id, payload = await self._event(route, scope, headers, body)
        return await self._hand_over(event_type, event_id, payload)

    async def _body(self, headers: dict[str, str], receive: Callable[[], Awaitable[_Message]]) -> bytes:
        limit = self._options.max_body
        announced = headers.get("content-length", "")
        too_large = announced.isdecimal() and (len(announced) > 15 or int(announced) > limit)
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(_BODY_S):
                while more and not too_large:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Answer(400, "the sender went away")
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    too_large = len(body) > limit
        except TimeoutError:
            raise _Answer(408, "the body did not come in time", {"connection": "close"}) from None
        if not too_large:
            return bytes(body)
        if more and "expect" not in headers:
            await _let_pass(receive)
        raise _Answer(413, f"at most {limit} bytes are taken", {"connection": "close"})

    def _authenticate(self, route: Route, headers: dict[str, str], body: bytes) -> None:
        if not route.signature:
            return
        try:
            signatures.verify(
                route.signature, route.secrets, headers, body, now_s=self._now_s(), tolerance_s=route.tolerance_s
            )
        except signatures.Refused as refused:
            challenge = {"www-authenticate": "Bearer"} if route.signature == "bearer" else {}
            raise _Answer(401, str(refused), challenge) from None

    async def _event(
        self, route: Route, scope: _Message, headers: dict[str, str], body: bytes
    ) -> tuple[str, str | None, dict[str, Any]]:
        method, path = scope["method"], scope["path"]
        try:
            content = await bodies.parse(body, headers.get("content-type", ""))
            query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=1000)
            dotted = ".".join(filter(None, (part.strip(".") for part in path.split("/")))) or "received"
            event_type = re.sub(r"[^A-Za-z0-9_.:-]", "_", route.type.fill(dotted, method, headers, content))
            event_id = route.event_id(dotted, method, headers, content)
        except (bodies.Malformed, ValueError) as error:
            raise _Answer(400, str(error)) from None
        return (
            event_type,
            event_id,
            {
                "method": method,
                "path": path,
                "query": bodies.fold(list(query)),
                "headers": {name: value for name, value in headers.items() if self._is_shown(name)},
                "body": content,
            },
        )

    def _is_shown(self, name: str) -> bool:
        wanted = any(fnmatchcase(name, glob) for glob in (*_OWN_HEADERS, *self._options.headers))
        return wanted and not any(fnmatchcase(name, glob) for glob in _SECRET_HEADERS)

    async def _hand_over(self, event_type: str, event_id: str | None, payload: dict[str, Any]) -> str:
        try:
            async with asyncio.timeout(self._accept_s):
                return await self._emit(event_type, payload, event_id=event_id)
        except EventRejected as error:
            raise _Answer(422, str(error)) from None
        except (ConnectionLost, TimeoutError):
            # It may have been accepted after all; the same delivery id makes the repeat known for one.
            raise _Answer(503, "the host does not take events now", {"retry-after": "10"}) from None


async def _let_pass(receive: Callable[[], Awaitable[_Message]]) -> None:
    """Read a body that nobody wants, for a while: a sender that is cut off does not see the answer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_LET_PASS_S):
            while (message := await receive())["type"] != "http.disconnect" and message.get("more_body"):
                pass


def _headers(scope: _Message) -> dict[str, str]:
    """The headers by name in lower case; several of one name are joined, as RFC 9110 has it."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


async def _send(
    send: Callable[[_Message], Awaitable[None]], status: int, content: dict[str, str], headers: dict[str, str]
) -> None:
    body = json.dumps(content).encode()
    raw = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    pairs = [(name.encode(), value.encode()) for name, value in raw.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
