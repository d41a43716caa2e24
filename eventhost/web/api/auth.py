"""How browsers, which cannot send a key everywhere, come in: by cookie, and by ticket."""

from __future__ import annotations

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from eventhost.access import NOBODY, Access
from eventhost.web.access.caller import caller_of
from eventhost.web.access.door import Door, asks_for_key
from eventhost.web.access.signin import TICKET_S, Pass
from eventhost.web.answers import json_answer
from eventhost.web.endpoint import post


class SignedIn(msgspec.Struct, frozen=True):
    """The key's name and scopes; `expires_in` is in seconds."""

    name: str
    scopes: list[str]
    expires_in: int


class SignedOut(msgspec.Struct, frozen=True):
    success: bool


class Ticket(msgspec.Struct, frozen=True):
    """`expires_in` is in seconds."""

    ticket: str
    expires_in: int


class Auth:
    """Signing in and out."""

    def __init__(self, door: Door) -> None:
        self._door = door

    @post("/auth/login", Access.OPEN, answers={"application/json": SignedIn})
    async def login(self, request: Request) -> Response:
        """Sign a browser in with the key of this request; it keeps a cookie that its scripts cannot read."""
        caller = caller_of(request.scope)
        if caller.how != "key":
            return asks_for_key("signing in")
        life_s = int(self._door.sign_ins.life_s)
        answer = json_answer(SignedIn(caller.name, sorted(caller.scopes), life_s))
        self._set_cookie(request, answer, self._door.sign_ins.give(self._bearer(request)), life_s)
        return answer

    @post("/auth/logout", Access.OPEN, answers={"application/json": SignedOut})
    async def logout(self, request: Request) -> Response:
        """Sign a browser out."""
        self._door.sign_ins.take(request.cookies.get(self._door.cookie, ""))
        answer = json_answer(SignedOut(success=True))
        self._set_cookie(request, answer, "", 0)
        return answer

    @post("/auth/ticket", Access.OPEN, answers={"application/json": Ticket})
    async def ticket(self, request: Request) -> Ticket | Response:
        """A ticket that opens one stream or WebSocket within a minute as `?ticket=`, with the scopes of who asks."""
        if caller_of(request.scope) == NOBODY:
            return asks_for_key("a ticket")
        return Ticket(self._door.tickets.give(self._bearer(request)), int(TICKET_S))

    def _bearer(self, request: Request) -> Pass:
        caller = caller_of(request.scope)
        key_id = next((key.id for key in self._door.ring.keys.values() if key.name == caller.name), "")
        if caller.name and not key_id:
            raise HTTPException(401, f"the key {caller.name!r} was revoked just now; use another one")
        return Pass(caller, key_id)

    def _set_cookie(self, request: Request, answer: Response, value: str, life_s: int) -> None:
        answer.set_cookie(
            self._door.cookie,
            value,
            max_age=life_s,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
