"""Sessions: what a client is owed over however many connections it comes back by, and whom it belongs to.

    POST /sse/send ──► McpFace ──► outbox ─┐
    broadcast, mirix ──────────────────────┤► Feed ──► SSE or WebSocket
    bus ─► subscription ───────────────────┘

A session has one connection at most; a further one takes it over. Without a connection it lasts `connection_timeout_s`.
It belongs to the key that made it: to others, but administrators, it does not exist.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.lowlevel
import msgspec
import structlog
from starlette.exceptions import HTTPException
from starlette.types import Scope

from eventhost.access import Access, Caller
from eventhost.errors import EventhostError, NotFound
from eventhost.serve import McpFace, Peer
from eventhost.web.sessions.outbox import Outbox
from eventhost.wire import EMITTED

if TYPE_CHECKING:
    from eventhost.config.model import HttpConfig

log = structlog.get_logger()

MAX_UNANSWERED: Final = 32
"""So many messages of one session are worked on at once."""

SESSION_ID: Final = r"[A-Za-z0-9_.-]{1,128}"

STOPPING: Final = "the host is stopping"

_CLOSE_S = 2.0


class ClientInfo(msgspec.Struct, frozen=True):
    user_agent: str
    ip_address: str


@dataclass(frozen=True, slots=True)
class SessionStatistics:
    """`active_connections` are open now; `messages_sent` went to clients, the bus's events among them."""

    active_connections: int
    total_connections: int
    messages_sent: int
    messages_received: int


class Line:
    """One connection of a session, for as long as `scope` is not cancelled."""

    def __init__(self, transport: str) -> None:
        self.transport = transport
        self.scope = anyio.CancelScope()
        self.reason = STOPPING
        self.left = self.stalled = False
        """Whether the client itself ended it, and whether it did so by not reading."""

    def leave(self) -> None:
        """The client is gone."""
        self.left = True
        self.scope.cancel()

    @asynccontextmanager
    async def in_time(self, timeout_s: float) -> AsyncIterator[None]:
        """For sending: a client that takes nothing for `timeout_s`, or is gone, ends the line."""
        try:
            with anyio.fail_after(timeout_s):
                yield
                return
        except TimeoutError:
            self.stalled = True
        except OSError:
            self.left = True
        self.scope.cancel()
        await anyio.lowlevel.checkpoint()

    def end(self, reason: str) -> None:
        """End it; the client is told the reason, if it listens."""
        self.reason = reason
        self.scope.cancel()


class Session:
    """What one client is owed, and what it subscribed to."""

    def __init__(self, session_id: str, caller: Caller, face: McpFace, counts: Counts) -> None:
        self.id, self.caller = session_id, caller
        self.client = ClientInfo("", "")
        self.created_s = self.active_s = time.time()
        """When it was made, and when something went either way, in seconds since the epoch."""
        self.message_count = 0
        self.outbox = Outbox()
        self.line: Line | None = None
        self.left_at = time.monotonic()
        """When its last connection ended, by the monotonic clock."""
        self._face, self._counts = face, counts
        self._peer = Peer(caller, self._notify)
        self._unanswered = 0

    def take(self) -> None:
        """Make sure that a message can be worked on, and its answer kept.

        Raises:
            HTTPException: too many wait already.
        """
        if self.outbox.full:
            raise _busy(f"{self.id} has many messages waiting; read its stream first")
        if self._unanswered >= MAX_UNANSWERED:
            raise _busy(f"{self.id} has {self._unanswered} messages under way; wait for their answers")
        self._unanswered += 1
        self.count_received()

    async def turn(self) -> None:
        """Wait until `take` does not refuse."""
        while self.outbox.full or self._unanswered >= MAX_UNANSWERED:
            await self.outbox.changed()

    async def work_on(self, message: Any, message_id: str) -> None:
        """Have a message, or a batch of them, answered; `take` was called before."""
        try:
            if isinstance(message, list):
                answers = [answer for each in message if (answer := await self._answer(each)) is not None]
                content: Any = answers or None
            else:
                content = await self._answer(message)
            if content is not None:
                self.tell("response", content, message_id)
        finally:
            self._unanswered -= 1
            self.outbox.announce()

    def tell(self, kind: str, content: Any, message_id: str = "") -> None:
        """Send a `message` of this kind, for which there has to be room."""
        self.outbox.put("message", _message(kind, content, message_id))

    def count_received(self) -> None:
        """A message came from the client."""
        self._counts.received += 1
        self.message_count += 1
        self.active_s = time.time()

    def count_sent(self, events: int, messages: int) -> None:
        """So much was written to the client."""
        self._counts.sent += events + messages
        self.message_count += messages
        self.active_s = time.time()

    @contextmanager
    def connected(self, transport: str) -> Iterator[Line]:
        """A connection of this session, while the context lasts; one that there was is ended."""
        if self.line is not None:
            self.line.end("another connection took the session over")
        line = self.line = Line(transport)
        self._counts.active += 1
        self._counts.total += 1
        self.active_s = time.time()
        try:
            yield line
        finally:
            self._counts.active -= 1
            if self.line is line:
                self.line = None
                self.left_at = time.monotonic()
                self._counts.changed()

    async def come_back(self, caller: Caller) -> None:
        """The owner is here again; what it may do now holds, and not what it might when the session was made."""
        if caller.name == self.caller.name and caller.scopes != self.caller.scopes:
            old, self.caller, self._peer = self._peer, caller, Peer(caller, self._notify)
            await old.aclose()

    async def aclose(self, reason: str) -> None:
        """End the connection, and what was subscribed to."""
        if self.line is not None:
            self.line.end(reason)
        self.outbox.close()
        with anyio.move_on_after(_CLOSE_S, shield=True):
            await self._peer.aclose()

    async def _answer(self, message: Mapping[str, Any]) -> dict[str, Any] | None:
        try:
            return await self._face.answer(message, self._peer)
        except Exception as error:
            log.exception("session_message_failed", session=self.id, method=message.get("method"), error=str(error))
            if "id" not in message:
                return None
            text = str(error) if isinstance(error, EventhostError) else "the host failed to answer; its log says why"
            return {"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32603, "message": text}}

    async def _notify(self, method: str, params: dict[str, Any]) -> None:
        content = {"jsonrpc": "2.0", "method": method, "params": params}
        if method == EMITTED:
            await self.outbox.room()  # an event is not to be lost; whoever reads them for this peer waits with it
        self.outbox.offer("message", _message("notification", content))


class Counts:
    """What all sessions have counted."""

    def __init__(self) -> None:
        self.active = self.total = self.sent = self.received = 0
        self._changed = anyio.Event()

    def changed(self) -> None:
        """A session came, or was left."""
        self._changed.set()
        self._changed = anyio.Event()

    async def wait(self) -> None:
        """Wait until a session comes, or is left."""
        await self._changed.wait()


class Sessions:
    """All sessions of the host, at most `max_connections` of them."""

    def __init__(self, face: McpFace, http: HttpConfig) -> None:
        self.http = http
        self._face = face
        self._sessions: dict[str, Session] = {}
        self._counts = Counts()

    async def enter(self, session_id: str | None, caller: Caller, client: ClientInfo) -> Session:
        """The session with this id, made if need be; without an id, one with a new id.

        Raises:
            HTTPException: the id is unusable or another key's, or there are too many sessions.
        """
        await self._end_those_left()
        session_id = session_id or f"sess_{secrets.token_hex(12)}"
        if not re.fullmatch(SESSION_ID, session_id):
            allowed = "1 to 128 letters, digits, dots, hyphens and underscores"
            raise HTTPException(400, f"session_id: {session_id[:64]!r} is not made of {allowed}")
        session = self._sessions.get(session_id)
        if session is None:
            # Nothing may come between, lest two that come at once get one session each.
            displaced = self._displaced()
            session = self._sessions[session_id] = Session(session_id, caller, self._face, self._counts)
            if displaced is not None:
                await self._end(displaced, "others needed its place")
        elif not _may_see(caller, session):
            raise HTTPException(403, f"the session {session_id} is another key's; choose another id, or none")
        else:
            session.left_at = time.monotonic()
            await session.come_back(caller)
        session.client = client
        return session

    def find(self, session_id: str, caller: Caller) -> Session:
        """A session that `caller` may use.

        Raises:
            NotFound: there is none of this id.
        """
        session = self._sessions.get(session_id)
        if session is None or self._is_over(session) or not _may_see(caller, session):
            raise NotFound(f"there is no session {session_id[:128]!r}; GET /sse/connect makes one")
        return session

    def seen_by(self, caller: Caller) -> list[Session]:
        """The sessions that `caller` may use, oldest first."""
        return [each for each in self._sessions.values() if not self._is_over(each) and _may_see(caller, each)]

    def is_anothers(self, session_id: str, caller: Caller) -> bool:
        """Whether there is a session of this id that `caller` may not use."""
        session = self._sessions.get(session_id)
        return session is not None and not self._is_over(session) and not _may_see(caller, session)

    async def end(self, session: Session) -> None:
        """End a session, with all that is kept for it."""
        await self._end(session, "it was disconnected")

    def broadcast(self, event: str, data: bytes) -> int:
        """Send an event to every session; return how many those are."""
        sessions = [session for session in self._sessions.values() if not self._is_over(session)]
        for session in sessions:
            session.outbox.offer(event, data)
        return len(sessions)

    def deliver(self, session_id: str, caller: Caller, kind: str, content: Any, identifier: str) -> bool:
        """Send a `message` of this kind to a session of `caller`; false if there is none of this id."""
        session = next((each for each in self.seen_by(caller) if each.id == session_id), None)
        if session is not None:
            session.outbox.offer("message", _message(kind, content, identifier))
        return session is not None

    def statistics(self) -> SessionStatistics:
        """A snapshot."""
        counts = self._counts
        return SessionStatistics(counts.active, counts.total, counts.sent, counts.received)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """End sessions whose clients do not come back, while the block lasts; then end all of them."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()
                for session in list(self._sessions.values()):
                    await self._end(session, STOPPING)

    async def _keep(self) -> None:
        while True:
            await self._end_those_left()
            left = [session.left_at for session in self._sessions.values() if session.line is None]
            due_s = min(left) + self.http.connection_timeout_s - time.monotonic() if left else float("inf")
            with anyio.move_on_after(due_s):
                await self._counts.wait()

    def _is_over(self, session: Session) -> bool:
        return session.line is None and time.monotonic() - session.left_at >= self.http.connection_timeout_s

    async def _end_those_left(self) -> None:
        for session in list(self._sessions.values()):
            if self._is_over(session):
                await self._end(session, "its client did not come back")

    def _displaced(self) -> Session | None:
        """Who gives way to one more, if there are too many: whoever was left first of those without a connection."""
        if len(self._sessions) < self.http.max_connections:
            return None
        left = [session for session in self._sessions.values() if session.line is None]
        if not left:
            many = self.http.max_connections
            raise HTTPException(
                503, f"there are {many} sessions, which is the most; see http.max_connections", {"Retry-After": "5"}
            )
        return min(left, key=lambda session: session.left_at)

    async def _end(self, session: Session, reason: str) -> None:
        if self._sessions.get(session.id) is session:
            del self._sessions[session.id]
            await session.aclose(reason)


def abort(session: Session, scope: Scope) -> None:
    """Cut the connection of a client that does not read, as far as the server lets us."""
    log.info("session_cut", session=session.id, reason="its client did not read")
    cut = scope.get("state", {}).get("abort")
    if cut is not None:
        cut()


def message_id() -> str:
    """An id for a message; no other one has it."""
    return f"msg_{secrets.token_hex(8)}"


def _message(kind: str, content: Any, identifier: str = "") -> bytes:
    return msgspec.json.encode({"id": identifier or message_id(), "type": kind, "content": content})


def _busy(what: str) -> HTTPException:
    return HTTPException(429, what, {"Retry-After": "1"})


def _may_see(caller: Caller, session: Session) -> bool:
    return caller.name == session.caller.name or caller.may(Access.ADMIN)
