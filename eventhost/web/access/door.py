"""Who asks: by a key, by a ticket, by the cookie of a browser that signed in with a key, or without any of them.

What is shown is always checked: a wrong key opens nothing, not even what is open to everybody.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from urllib.parse import parse_qsl, urlencode

from starlette.responses import Response

from eventhost.access import NOBODY, OWNER, Caller
from eventhost.web.access.keys import Key
from eventhost.web.access.limits import Limiter, neighbourhood
from eventhost.web.access.ring import KeyRing
from eventhost.web.access.signin import TICKET_S, Pass, Passes
from eventhost.web.answers import ErrorCode, error_answer

FAILURES_PER_MINUTE = 10
FAILURES_AT_ONCE = 20
"""How many wrong keys an address may show; then it must wait, unless it shows one that was right before."""

_REMEMBERED = 4096
_HOW_TO_GET_ONE = "`eventhost key create` makes one"


@dataclass(frozen=True, slots=True)
class Admitted:
    """Somebody who is let in: the id of the key, if there is one, and its own limit in requests a minute."""

    caller: Caller
    key_id: str = ""
    rate_limit: int | None = None


class Door:
    """Tells callers apart; one for all requests of a host.

    `needs_keys`: whoever shows nothing is nobody. `cookie` is the cookie's name: browsers keep those of all ports of a
    machine together.
    """

    def __init__(
        self,
        ring: KeyRing,
        *,
        needs_keys: bool = False,
        sign_in_s: float = 43_200.0,
        cookie: str = "eventhost",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ring = ring
        self.cookie = cookie
        self.needs_keys = needs_keys
        self.sign_ins = Passes(sign_in_s, clock)
        self.tickets = Passes(TICKET_S, clock)
        self._failures = Limiter(FAILURES_PER_MINUTE, FAILURES_AT_ONCE, clock)
        self._known: OrderedDict[tuple[str, bytes], None] = OrderedDict()

    def enter(
        self, headers: Mapping[bytes, bytes], query: bytes, address: str, *, is_stream: bool, is_local: bool
    ) -> Admitted | Response:
        """Who asks from `address`, or why nobody may: a key or a ticket that is wrong, or too many of those.

        `is_local`: who shows nothing may be the owner. A ticket is for one stream, and is used up here.
        """
        if (text := _shown(headers)) is not None:
            return self._by_key(text, address)
        if b"ticket=" in query and (ticket := dict(parse_qsl(query.decode("latin-1"))).get("ticket")):
            return self._by_ticket(ticket, address, is_stream=is_stream)
        if (cookie := headers.get(b"cookie")) is not None:
            for signed_in in _cookies(cookie.decode("latin-1"), self.cookie):
                if (bearer := self.sign_ins.bearer(signed_in)) and (admitted := self._by_pass(bearer, "cookie")):
                    return admitted
        return Admitted(OWNER if is_local and not self.needs_keys else NOBODY)

    def _by_key(self, text: str, address: str) -> Admitted | Response:
        place = neighbourhood(address)
        shown = (place, sha256(text.encode()).digest())
        if (wait_s := self._failures.is_empty(place)) and shown not in self._known:
            return _too_many(wait_s)
        if (key := self.ring.opened_by(text)) is None:
            self._failures.take(place)
            return _wrong("this key is not known here, or was revoked")
        self._known[shown] = None
        self._known.move_to_end(shown)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return _admitted(key, "key")

    def _by_ticket(self, ticket: str, address: str, *, is_stream: bool) -> Admitted | Response:
        if not is_stream:
            return _wrong("a ticket opens a stream or a WebSocket, and nothing else")
        place = neighbourhood(address)
        if wait_s := self._failures.is_empty(place):
            return _too_many(wait_s)
        bearer = self.tickets.take(ticket)
        if bearer is None or (admitted := self._by_pass(bearer, "ticket")) is None:
            self._failures.take(place)
            return _wrong("this ticket was used, or is older than a minute; POST /auth/ticket gives another one")
        return admitted

    def _by_pass(self, bearer: Pass, how: str) -> Admitted | None:
        """Whoever a pass stands for, with what the key may now; nobody once it is revoked."""
        if not bearer.key_id:
            return Admitted(replace(bearer.caller, how=how))
        key = self.ring.keys.get(bearer.key_id)
        return _admitted(key, how) if key is not None else None


def without_ticket(query: bytes) -> bytes:
    """A query string that can be shown."""
    if b"ticket=" not in query:
        return query
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    return urlencode([(name, value) for name, value in pairs if name != "ticket"]).encode()


def asks_for_key(what: str) -> Response:
    """The answer for nobody where `what` is not for everybody."""
    return _wrong(f"{what} asks for a key; send it as X-API-Key or as a bearer token; {_HOW_TO_GET_ONE}")


def _admitted(key: Key, how: str) -> Admitted:
    return Admitted(Caller(key.name, how, key.scopes), key.id, key.rate_limit)


def _shown(headers: Mapping[bytes, bytes]) -> str | None:
    if (key := headers.get(b"x-api-key")) is not None:
        return key.decode("latin-1").strip()
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    # Other schemes are a proxy's own.
    return token.decode("latin-1").strip() if scheme.lower() == b"bearer" else None


def _cookies(header: str, name: str) -> Iterator[str]:
    for part in header.split(";"):
        key, _, value = part.strip().partition("=")
        if key == name:
            yield value


def _wrong(message: str) -> Response:
    answer = error_answer(401, ErrorCode.INVALID_REQUEST, message)
    answer.headers["www-authenticate"] = "Bearer"
    return answer


def _too_many(wait_s: float) -> Response:
    after_s = max(1, math.ceil(wait_s))
    message = f"too many wrong keys from this address; come again in {after_s} s with a right one"
    answer = error_answer(429, ErrorCode.SERVER_ERROR, message, {"retry_after": after_s})
    answer.headers["retry-after"] = str(after_s)
    return answer
