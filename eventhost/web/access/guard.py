"""Who may ask, and how often; outermost, so that its answer is the only one a stranger gets.

    name and origin ─► key, ticket or cookie ─► rate ─► size ─► room for one more stream ─► the routes

While nobody needs a key it is for this machine's own programs, and for no web page that a browser on it happens to
show. Whoever comes over the control socket had to pass its file mode, and is asked for nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from eventhost.access import NOBODY, OWNER, Caller
from eventhost.config.model import HttpConfig, RateLimit
from eventhost.event import MAX_EVENT_BYTES
from eventhost.web.access.door import Admitted, Door, asks_for_key, without_ticket
from eventhost.web.access.limits import Limiter, neighbourhood
from eventhost.web.access.origins import Cors, Names, is_own_page
from eventhost.web.access.visit import Visit, too_large
from eventhost.web.answers import ErrorCode, error_answer

log = structlog.get_logger()

MAX_BODY_BYTES = MAX_EVENT_BYTES + 65_536
"""The largest request body that is read: the largest event, and room for how it may be spelled.

Where events are published the body may hold many, and `http.maxBody` goes before it.
"""

_BOTH_WAYS = frozenset(("/mcp/lines",))
"""Requests whose body goes on for as long as the answer does."""

_REFUSED = frozenset((401, 403, 429))
_SAFE = frozenset(("GET", "HEAD", "OPTIONS"))
_UNLIMITED = HttpConfig(rate_limit=RateLimit(enabled=False), access_log=False)
_OWNER = Admitted(OWNER)
_WRONG = Admitted(Caller("", "wrong key", frozenset()))


class Guard:
    """ASGI middleware.

    `port` is the port that is bound, `hosts` are names and addresses that stand for it besides `localhost`, `127.0.0.1`
    and `[::1]`. `needs_keys`: whoever shows no key is nobody, and the name by which the host is called says nothing.
    Without a `door` nobody is asked who it is. `open_streams` is what is open now;
    answers are counted in `requests`, by status.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        port: int,
        hosts: Iterable[str] = (),
        http: HttpConfig = _UNLIMITED,
        door: Door | None = None,
        needs_keys: bool = False,
        open_streams: Collection[object] = (),
        requests: Counter[int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app, self._door, self._http = app, door, http
        self._needs_keys, self._open_streams = needs_keys, open_streams
        self._names = Names(port, hosts, http.hosts, tls=http.tls is not None)
        self._cors = Cors(http.cors_origins)
        self._proxies = tuple(map(ip_network, http.trusted_proxies))
        rate = http.rate_limit
        self._limiter = Limiter(rate.requests_per_minute, rate.burst_size, clock)
        self._publishing = Limiter(rate.publish_per_minute, rate.publish_burst, clock)
        self._publish_bytes = max(MAX_BODY_BYTES, http.max_body)
        self._visits: set[Visit] = set()
        self._requests = Counter[int]() if requests is None else requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return
        visit = Visit(scope, receive, send)
        self._visits.add(visit)
        try:
            answer = self._refusal(visit, scope) or self._app
            await answer(scope, visit.receive, visit.send)
        except Exception as error:
            log.exception("http_failed", method=visit.method, path=scope["path"], error=str(error))
        finally:
            self._visits.discard(visit)
            self._requests[visit.status] += 1
            if self._http.access_log and (visit.status in _REFUSED or not _is_about_health(scope["path"])):
                visit.tell("http_request")

    def overdue(self) -> list[Visit]:
        """Whose connection must be cut: of keys that were revoked, and of clients that have long ceased to read."""
        keys = self._door.ring.keys if self._door is not None else {}
        before = time.monotonic() - self._http.connection_timeout_s
        return [
            visit
            for visit in self._visits
            if visit.peer
            and ((visit.admitted.key_id and visit.admitted.key_id not in keys) or 0 < visit.waiting_since < before)
        ]

    def _refusal(self, visit: Visit, scope: Scope) -> Response | None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        visit.limit_bytes = self._publish_bytes if _publishes(scope) else MAX_BODY_BYTES
        if scope["path"] in _BOTH_WAYS:
            visit.is_open_ended = True
        if over_control_socket(scope):
            visit.admitted = _OWNER
        else:
            if self._proxies:
                self._believe_proxy(visit, headers)
            is_stream = _opens_stream(scope, headers)
            if (refused := self._stranger(visit, headers, is_stream) or self._limited(visit)) is not None:
                return refused
            if is_stream and len(self._open_streams) >= self._http.max_connections:
                answer = error_answer(503, ErrorCode.SERVER_ERROR, "there are too many connections; come again later")
                answer.headers["retry-after"] = "5"
                return answer
        scope.setdefault("state", {})["caller"] = visit.admitted.caller
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > visit.limit_bytes:
            return error_answer(413, ErrorCode.INVALID_REQUEST, too_large(visit.limit_bytes))
        return None

    def _stranger(self, visit: Visit, headers: dict[bytes, bytes], is_stream: bool) -> Response | None:
        """Find out who asks, and refuse whoever may not."""
        scope = visit.scope
        origin = headers.get(b"origin")
        page = origin.decode("latin-1") if origin is not None else ""
        foreign = origin is not None and page.lower() not in self._names.origins
        admitted = foreign and self._cors.admits(page)
        if not self._needs_keys and (refused := self._misnamed(scope, page if foreign and not admitted else None)):
            return refused
        if self._cors.on:
            visit.headers += self._cors.headers(page)
            if admitted and visit.method == "OPTIONS" and b"access-control-request-method" in headers:
                visit.headers += self._cors.preflight(headers)
                return Response(status_code=204)
        if self._door is None:
            visit.admitted = _OWNER
            return None
        found = self._door.enter(
            headers,
            scope["query_string"],
            visit.address,
            is_stream=is_stream,
            # Any page is not this machine's own program; one that the config names is as good as one.
            is_local=_is_loopback(visit.address) and (not foreign or self._cors.names(page)),
        )
        scope["query_string"] = without_ticket(scope["query_string"])
        if isinstance(found, Response):
            visit.admitted = _WRONG
            return found
        visit.admitted = found
        if scope["type"] == "websocket" and found.caller == NOBODY:
            return asks_for_key(f"the WebSocket {scope['path']}")
        if found.caller.how == "cookie" and (visit.method not in _SAFE) and not is_own_page(headers, self._names.hosts):
            message = "a page from elsewhere may not act for whoever is signed in here; let it send a key of its own"
            return error_answer(403, ErrorCode.INVALID_REQUEST, message)
        return None

    def _misnamed(self, scope: Scope, origin: str | None) -> Response | None:
        # Of several Host headers each must pass; uvicorn hands all of them on.
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if not hosts or any(host.lower() not in self._names.hosts for host in hosts):
            return _refused("Host", ", ".join(hosts), self._names.hosts)
        return None if origin is None else _refused("Origin", origin, self._names.origins)

    def _limited(self, visit: Visit) -> Response | None:
        scope, admitted = visit.scope, visit.admitted
        if not self._http.rate_limit.enabled or _is_about_health(scope["path"]):
            return None
        if admitted.caller.how == "cookie" and visit.method in _SAFE:
            return None
        who = admitted.key_id or neighbourhood(visit.address)
        taken = self._publishing.take(who) if _publishes(scope) else self._limiter.take(who, admitted.rate_limit)
        visit.headers += taken.headers()
        if not taken.retry_s:
            return None
        message = f"more than {taken.per_minute:.0f} requests a minute; come again in {taken.retry_after_s} s"
        return error_answer(429, ErrorCode.SERVER_ERROR, message, {"retry_after": taken.retry_after_s})

    def _believe_proxy(self, visit: Visit, headers: dict[bytes, bytes]) -> None:
        """Take from a trusted proxy whom it asks for, and by which scheme."""
        if not _is_among(visit.address, self._proxies):
            return
        hops = headers.get(b"x-forwarded-for", b"").decode("latin-1").split(",")
        for hop in reversed([hop.strip() for hop in hops if hop.strip()]):
            visit.address = hop
            if not _is_among(hop, self._proxies):
                break
        visit.scope["client"] = (visit.address, 0)
        if headers.get(b"x-forwarded-proto", b"").strip().lower() in (b"https", b"wss"):
            visit.scope["scheme"] = "wss" if visit.scope["type"] == "websocket" else "https"


def over_control_socket(scope: Scope) -> bool:
    """Whether a request comes over the control socket, which only the host's own user can open."""
    # By the listening side: a TCP client that is already gone has no address either.
    server = scope.get("server")
    return scope.get("client") is None and server is not None and server[1] is None


def _publishes(scope: Scope) -> bool:
    return scope["path"] == "/events" and scope.get("method") == "POST"


def _opens_stream(scope: Scope, headers: dict[bytes, bytes]) -> bool:
    if scope["type"] == "websocket":
        return True
    wants = b"text/event-stream" in headers.get(b"accept", b"") or scope["path"] == "/sse/connect"
    return bool(wants and scope["method"] == "GET")


def _is_about_health(path: str) -> bool:
    return path in ("/health", "/metrics") or path.startswith("/health/")


@lru_cache(maxsize=4096)
def _is_loopback(address: str) -> bool:
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    return bool((getattr(ip, "ipv4_mapped", None) or ip).is_loopback)


@lru_cache(maxsize=4096)
def _is_among(address: str, networks: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    plain = getattr(ip, "ipv4_mapped", None) or ip
    return any(bool(plain in network) for network in networks)


def _refused(header: str, value: str, allowed: Iterable[str]) -> Response:
    return error_answer(
        403,
        ErrorCode.INVALID_REQUEST,
        f"{header} {value!r} is not this host's; it answers to {', '.join(sorted(allowed))}",
    )
