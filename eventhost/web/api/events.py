"""Events: read, watched, published, and explained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import anyio
import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from eventhost.access import Access
from eventhost.bus import selector
from eventhost.event import EnvEvent
from eventhost.journal import Journal
from eventhost.web.endpoint import get, post
from eventhost.web.guard import over_control_socket
from eventhost.web.history import MAX_EVENTS, following, newest, position
from eventhost.web.stream import EventStream

if TYPE_CHECKING:
    from eventhost.environment import ServerEnvironment


class EventsWanted(msgspec.Struct, frozen=True):
    """`type` has globs, separated by commas; `since` is a sequence number, or how long ago."""

    type: str = "*"
    since: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_EVENTS)] = 100

    @property
    def globs(self) -> list[str]:
        """The globs of `type`."""
        return [glob.strip() for glob in self.type.split(",") if glob.strip()] or ["*"]


class Published(msgspec.Struct, frozen=True):
    id: str
    seq: int


class Imported(msgspec.Struct, frozen=True):
    """`first` is the sequence number of the first of them."""

    first: int
    count: int


class ToExplain(msgspec.Struct, frozen=True):
    """`rule` names one rule; `all` tells of every one, however many do not match."""

    all: bool = False
    rule: str | None = None


class Events:
    """What happened."""

    def __init__(self, environment: ServerEnvironment, open_streams: set[anyio.CancelScope]) -> None:
        self._environment, self._open_streams = environment, open_streams

    @get("/events", Access.READ, answers={"application/json": dict[str, Any], "text/event-stream": str})
    async def all(self, request: Request, query: EventsWanted) -> Response | ASGIApp:
        """Recent events, newest last; live ones for whoever accepts an event stream."""
        bus, since = self._environment.bus, query.since
        if "text/event-stream" in request.headers.get("accept", "") and request.method == "GET":
            since = request.headers.get("last-event-id", since)
            after = None if since is None else await _position(bus.journal, since)
            return EventStream(bus.subscribe(query.globs, after=after), self._open_streams)
        select = selector(query.globs)
        if since is None:
            page = await newest(bus.journal, select, query.limit)
        else:
            page = await following(bus.journal, select, query.limit, await _position(bus.journal, since))
        missed = b',"missed":%d' % page.missed if page.missed else b""
        text = b'{"events":[%b],"cursor":%d%b}' % (b",".join(page.events), page.cursor, missed)
        return Response(text, media_type="application/json")

    @post("/events", Access.PUBLISH, status=201)
    async def publish(self, body: dict[str, Any]) -> Published:
        """Publish an event; answered once it is in the journal."""
        event, seq = await self._environment.publish_event(body)
        return Published(event.id, seq)

    @post("/events/import", Access.ADMIN, status=201)
    async def import_events(self, request: Request, body: list[EnvEvent]) -> Imported:
        """Publish events as they are, all or none; over the control socket only."""
        # What it publishes may say that it comes from anywhere: that is for the host's own user.
        if not over_control_socket(request.scope):
            raise HTTPException(403, "events are imported over the control socket only")
        return Imported(await self._environment.import_events(body), len(body))

    @get("/events/{event:path}/explain", Access.READ)
    async def explain(self, event: str, query: ToExplain) -> dict[str, Any]:
        """What became of an event, rule by rule, and why."""
        return (await self._environment.explain(event, every=query.all, only=query.rule)).to_json()


async def _position(journal: Journal, since: str) -> int:
    try:
        return await position(journal, since)
    except ValueError as error:
        raise HTTPException(400, f"since: {error}") from error
