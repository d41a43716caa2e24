"""Into a session: over Server-Sent Events or over a WebSocket, with what is asked for checked before."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import anyio
import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from eventhost.access import Access, Caller
from eventhost.errors import BusClosed
from eventhost.web.access.caller import caller_of
from eventhost.web.answers import ErrorCode, error_answer
from eventhost.web.events.broadcast import Broadcast
from eventhost.web.events.history import position
from eventhost.web.events.wanted import wanted as parsed
from eventhost.web.sessions.feed import Feed, Place
from eventhost.web.sessions.registry import ClientInfo, Session, Sessions
from eventhost.web.sessions.stream import SessionStream
from eventhost.web.sessions.websocket import SessionSocket

if TYPE_CHECKING:
    from eventhost.environment import ServerEnvironment

_MAX_USER_AGENT: Final = 256


class EventsOfSession(msgspec.Struct, frozen=True):
    """Which events a session shows besides its messages, and from where on.

    `type` has globs, separated by commas; `match` is an event pattern as JSON. `since` is the id of the last frame that
    the client has, a sequence number, a time, or how long ago.
    """

    type: str = "*"
    match: str | None = None
    since: str | None = None


class SessionEntry:
    """Makes the connections of sessions."""

    def __init__(
        self,
        environment: ServerEnvironment,
        sessions: Sessions,
        broadcast: Broadcast,
        open_streams: set[anyio.CancelScope],
    ) -> None:
        self.sessions = sessions
        self._environment, self._broadcast, self._open_streams = environment, broadcast, open_streams

    async def stream(self, asked: HTTPConnection, session_id: str | None, wanted: EventsOfSession) -> SessionStream:
        """What answers a request for a session's stream.

        Raises:
            HTTPException: it cannot be had; nothing was made, and nobody's connection ended.
        """
        session, feed = await self._enter(asked, session_id, wanted)
        return SessionStream(session, feed, self._open_streams, self.sessions.http.connection_timeout_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application of `/ws/{session_id}`."""
        asked = WebSocket(scope, receive, send)
        await asked.receive()
        try:
            socket = await self._socket(asked, caller_of(scope))
        except HTTPException as error:
            code = ErrorCode.INVALID_PARAMS if error.status_code == 400 else ErrorCode.INVALID_REQUEST
            refused = error_answer(error.status_code, code, f"GET {asked.url.path}: {error.detail}")
            refused.headers.update(error.headers or {})
            await asked.send_denial_response(refused)
        except BusClosed as error:
            await asked.send_denial_response(error_answer(503, ErrorCode.SERVER_ERROR, str(error)))
        else:
            await socket(scope, receive, send)

    async def _socket(self, asked: WebSocket, caller: Caller) -> SessionSocket:
        if not caller.may(Access.READ):
            mend = "send a key that has it, or a ticket of such a key"
            raise HTTPException(403 if caller.name else 401, f"the scope {Access.READ} is needed; {mend}")
        try:
            wanted = msgspec.convert(dict(asked.query_params), EventsOfSession)
        except msgspec.ValidationError as error:
            raise HTTPException(400, f"the query: {error}") from None
        session, feed = await self._enter(asked, asked.path_params["session_id"], wanted)
        return SessionSocket(session, caller, feed, self._open_streams, self.sessions.http.connection_timeout_s)

    async def _enter(
        self, asked: HTTPConnection, session_id: str | None, wanted: EventsOfSession
    ) -> tuple[Session, Feed]:
        events = parsed(wanted.type, wanted.match)
        place = Place.parse(wanted.since) if wanted.since else None
        after: int | None = None
        if wanted.since:
            try:
                after = await position(self._environment.bus.journal, str(place.seq) if place else wanted.since)
            except ValueError as error:
                raise HTTPException(400, f"since: {error}") from None
        session = await self.sessions.enter(session_id, caller_of(asked.scope), _client(asked))
        return session, Feed(session, self._broadcast, events, after, place)


def _client(connection: HTTPConnection) -> ClientInfo:
    agent = re.sub(r"[^\x20-\x7e]", "?", connection.headers.get("user-agent", ""))[:_MAX_USER_AGENT]
    return ClientInfo(agent, connection.client.host if connection.client else "")
