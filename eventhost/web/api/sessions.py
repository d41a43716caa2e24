"""Sessions: made over Server-Sent Events or a WebSocket, spoken to in JSON-RPC, listed, and told all at once."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from eventhost.access import Access
from eventhost.web.access.caller import caller_of
from eventhost.web.answers import ErrorCode, error_answer, json_answer, moment, now
from eventhost.web.endpoint import delete, get, post
from eventhost.web.sessions.entry import EventsOfSession, SessionEntry
from eventhost.web.sessions.feed import RESERVED
from eventhost.web.sessions.registry import ClientInfo, Session, Sessions, message_id
from eventhost.web.sessions.rpc import fault


class SessionWanted(msgspec.Struct, frozen=True):
    """Which session, and which events it shows besides its messages.

    `type` has globs, separated by commas; `match` is an event pattern as JSON. `since` is the id of the last frame that
    the client has, a sequence number, a time, or how long ago; `Last-Event-ID` goes before it.
    """

    session_id: str | None = None
    type: str = "*"
    match: str | None = None
    since: str | None = None


class MessageTaken(msgspec.Struct, frozen=True):
    """The answer comes on the session's stream, as a `message` whose id is `message_id`."""

    success: bool
    message_id: str
    timestamp: str


class Disconnected(msgspec.Struct, frozen=True):
    success: bool
    message: str


class SessionShown(msgspec.Struct, frozen=True):
    """`message_count` counts what went either way, the bus's events left out.

    `connection` is how it is connected now: `sse`, `websocket` or null. `waiting` messages were not written yet.
    """

    session_id: str
    created_at: str
    last_activity: str
    message_count: int
    client_info: ClientInfo
    connection: str | None
    waiting: int
    key: str
    """The name of the key that it belongs to; empty when it was made without one."""

    @classmethod
    def of(cls, session: Session) -> SessionShown:
        return cls(
            session.id,
            moment(session.created_s),
            moment(session.active_s),
            session.message_count,
            session.client,
            session.line.transport if session.line else None,
            session.outbox.waiting,
            session.caller.name,
        )


class SessionsShown(msgspec.Struct, frozen=True):
    sessions: list[SessionShown]
    total: int


class Announcement(msgspec.Struct, frozen=True):
    """`event` is a word without dots, and none by which streams themselves speak."""

    event: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$(?!\n)")]
    data: Any


class Announced(msgspec.Struct, frozen=True):
    """`sessions` is how many were told."""

    success: bool
    sessions: int
    timestamp: str


class Sse:
    """A session's stream, and the way back."""

    def __init__(self, entry: SessionEntry) -> None:
        self._entry, self._sessions = entry, entry.sessions

    @get(
        "/sse/connect",
        Access.READ,
        answers={"text/event-stream": str},
        headers={"Last-Event-ID": str},
        streams=True,
    )
    async def connect(self, request: Request, query: SessionWanted) -> Response | ASGIApp:
        """A session's messages and events, as they come; a session that is connected already moves here."""
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        since = request.headers.get("last-event-id", query.since)
        wanted = EventsOfSession(query.type, query.match, since)
        return await self._entry.stream(request, query.session_id, wanted)

    @post("/sse/send/{session_id}", Access.PUBLISH, answers={"application/json": MessageTaken})
    async def send(self, request: Request, session_id: str, body: Any) -> Response:
        """Send a session a JSON-RPC message, or a batch; the answer comes on its stream."""
        session = self._sessions.find(session_id, caller_of(request.scope))
        if (what := fault(body)) is not None:
            return error_answer(400, ErrorCode.INVALID_REQUEST, f"this is no JSON-RPC message: {what}")
        session.take()
        identifier = message_id()
        answer = json_answer(MessageTaken(True, identifier, now()))
        answer.background = BackgroundTask(session.work_on, body, identifier)
        return answer

    @delete("/sse/disconnect/{session_id}", Access.READ)
    async def disconnect(self, request: Request, session_id: str) -> Disconnected:
        """End a session and its connection; what waits for it is gone."""
        await self._sessions.end(self._sessions.find(session_id, caller_of(request.scope)))
        return Disconnected(True, "Session disconnected successfully")

    @get("/ws/{session_id}", Access.READ, status=101, errors=(426,), streams=True)
    async def websocket(self, session_id: str, query: EventsOfSession) -> Response:
        """The same session over a WebSocket: `{event, data, id}` comes out, JSON-RPC goes in."""
        what = f"GET /ws/{session_id} is the way into a WebSocket; send `Upgrade: websocket`, or use /sse/connect"
        answer = error_answer(426, ErrorCode.INVALID_REQUEST, what)
        answer.headers["upgrade"] = "websocket"
        return answer


class SessionList:
    """Who is connected."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    @get("/sessions", Access.READ)
    async def all(self, request: Request) -> SessionsShown:
        """The caller's sessions; all of them for an administrator."""
        shown = [SessionShown.of(session) for session in self._sessions.seen_by(caller_of(request.scope))]
        return SessionsShown(shown, len(shown))

    @post("/sessions/broadcast", Access.ADMIN, errors=(409,))
    async def broadcast(self, body: Announcement) -> Announced:
        """Send an event to every session."""
        if body.event.lower() in RESERVED:
            raise HTTPException(409, f"event: streams say {body.event!r} themselves; choose another word")
        count = self._sessions.broadcast(body.event, msgspec.json.encode(body.data))
        return Announced(True, count, now())

    @get("/sessions/{session_id}", Access.READ)
    async def one(self, request: Request, session_id: str) -> SessionShown:
        """One session."""
        return SessionShown.of(self._sessions.find(session_id, caller_of(request.scope)))
