"""Who may ask: only this machine's own programs, and no web page that a browser on it happens to show.

A page from elsewhere can make a browser talk to a loopback port: by DNS rebinding it even becomes the same origin. It
cannot choose the `Host` and `Origin` that the browser sends, nor send JSON elsewhere unasked; that is what is checked.
"""

from __future__ import annotations

from collections.abc import Iterable

import structlog
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eventhost.event import MAX_EVENT_BYTES
from eventhost.web.answers import ErrorCode, error_answer

log = structlog.get_logger()

MAX_BODY_BYTES = MAX_EVENT_BYTES + 65_536
"""The largest request body that is read: the largest event, and room for how it may be spelled."""

_TOO_LARGE = f"the body is larger than {MAX_BODY_BYTES} bytes"


class Guard:
    """ASGI middleware; outermost, so that its answer is the only one a stranger gets.

    `hosts` are names and addresses by which the host may be called, besides `localhost`, `127.0.0.1` and `[::1]`;
    `port` is the port that is bound. Whoever comes over the control socket had to pass its file mode: its name is not
    checked.
    """

    def __init__(self, app: ASGIApp, *, port: int, hosts: Iterable[str] = ()) -> None:
        self._app = app
        names = {"localhost", "127.0.0.1", "[::1]", *(_in_url(host) for host in hosts)}
        self._hosts = {f"{name}:{port}" for name in names} | (names if port == 80 else set())
        self._origins = {f"http://{host}" for host in self._hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        answer = self._refusal(scope) or self._app
        try:
            await answer(scope, _Body(receive).receive, send)
        except Exception as error:
            log.exception("http_failed", method=scope["method"], path=scope["path"], error=str(error))

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if not over_control_socket(scope):
            # Of several Host headers each must pass; uvicorn hands all of them on.
            hosts = [value for name, value in scope["headers"] if name == b"host"]
            if not hosts or any(host.decode("latin-1").lower() not in self._hosts for host in hosts):
                return _refused("Host", b", ".join(hosts), self._hosts)
            origin = headers.get(b"origin")
            if origin is not None and origin.decode("latin-1").lower() not in self._origins:
                return _refused("Origin", origin, self._origins)

        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > MAX_BODY_BYTES:
            return error_answer(413, ErrorCode.INVALID_REQUEST, _TOO_LARGE)
        has_body = length != b"0" or b"transfer-encoding" in headers
        if scope["method"] not in ("GET", "HEAD") and has_body:
            content_type = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
            if content_type != b"application/json":
                return error_answer(
                    415,
                    ErrorCode.INVALID_REQUEST,
                    f"a body must be JSON: send Content-Type: application/json, not {content_type.decode('latin-1')!r}",
                )
        return None


class _Body:
    """Counts what is read, since a chunked body does not say its size beforehand."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._read = 0

    async def receive(self) -> Message:
        message = await self._receive()
        self._read += len(message.get("body", b""))
        if self._read > MAX_BODY_BYTES:
            raise HTTPException(413, _TOO_LARGE)
        return message


def over_control_socket(scope: Scope) -> bool:
    """Whether a request comes over the control socket, which only the host's own user can open."""
    # By the listening side: a TCP client that is already gone has no address either.
    server = scope.get("server")
    return scope.get("client") is None and server is not None and server[1] is None


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host.lower()


def _refused(header: str, value: bytes, allowed: Iterable[str]) -> ASGIApp:
    return error_answer(
        403,
        ErrorCode.INVALID_REQUEST,
        f"{header} {value.decode('latin-1')!r} is not this host's; it answers to {', '.join(sorted(allowed))}",
    )
