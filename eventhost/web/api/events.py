"""Events: read, watched, published, and explained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import anyio
import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from eventhost.access import Access
from eventhost.event import MAX_ID_LENGTH, MAX_TIMESTAMP, MAX_TYPE_LENGTH, EnvEvent
from eventhost.exchange.http import BATCHED, STRUCTURED
from eventhost.journal import Journal
from eventhost.journal.search import Ambiguous, find
from eventhost.wanted import Wanted
from eventhost.web.access.guard import over_control_socket
from eventhost.web.answers import ErrorCode, error_answer, json_answer
from eventhost.web.api.explained import Explained
from eventhost.web.endpoint import get, post, read_body
from eventhost.web.events.broadcast import Broadcast
from eventhost.web.events.history import MAX_EVENTS, Page, following, newest, position, span
from eventhost.web.events.idempotency import MAX_KEY_LENGTH
from eventhost.web.events.publishing import MAX_BATCH, Publisher, read_events
from eventhost.web.events.stream import EventStream, event_json
from eventhost.web.events.wanted import wanted

if TYPE_CHECKING:
    from eventhost.environment import ServerEnvironment

TypeName = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TYPE_LENGTH)]
EventId = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_LENGTH)]
IsoTime = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]
Timestamp = Annotated[int, msgspec.Meta(ge=-MAX_TIMESTAMP, le=MAX_TIMESTAMP)]


class EventsWanted(msgspec.Struct, frozen=True):
    """`type` has globs, separated by commas, and `match` is an event pattern as JSON.

    `from`, `to` and `since` are a sequence number, a time (ISO 8601) or how long ago; `since` is what comes after it.
    `cursor` is where the answer before this one ended.
    """

    type: str = "*"
    match: str | None = None
    since: str | None = None
    from_: str | None = msgspec.field(default=None, name="from")
    to: str | None = None
    cursor: Annotated[int, msgspec.Meta(ge=0)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_EVENTS)] = 100


class NumberedEvent(msgspec.Struct, frozen=True):
    """An event, and its place in the journal."""

    seq: int
    id: EventId
    type: TypeName
    timestamp: Timestamp
    metadata: dict[str, Any]
    payload: dict[str, Any]


class EventPage(msgspec.Struct, frozen=True):
    """Newest last. `missed` events are no longer held; with `more` the span goes on after `cursor`."""

    events: list[NumberedEvent]
    cursor: int
    missed: int | msgspec.UnsetType = msgspec.UNSET
    more: bool | msgspec.UnsetType = msgspec.UNSET


class NewEvent(msgspec.Struct, frozen=True):
    """An event to be published; what is left out is completed by the host."""

    type: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TYPE_LENGTH, pattern=r"^(?!host\.)")]
    id: Annotated[str, msgspec.Meta(max_length=MAX_ID_LENGTH)] | int | None = None
    timestamp: Timestamp | IsoTime | None = None
    metadata: dict[str, Any] | None = None
    payload: Any = None


class CloudEvent(msgspec.Struct, frozen=True):
    """A CloudEvent of version 1.0; extension attributes may stand beside these."""

    specversion: Annotated[str, msgspec.Meta(pattern=r"^1\.0$")]
    id: EventId
    source: Annotated[str, msgspec.Meta(min_length=1)]
    type: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TYPE_LENGTH, pattern=r"^(?!host\.)")]
    time: IsoTime | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None
    subject: str | None = None
    data: Any = msgspec.UNSET


NewEvents = Annotated[list[NewEvent], msgspec.Meta(min_length=1, max_length=MAX_BATCH)]
CloudEvents = Annotated[list[CloudEvent], msgspec.Meta(min_length=1, max_length=MAX_BATCH)]


class PublishedEvent(msgspec.Struct, frozen=True):
    id: str
    seq: int


class Published(msgspec.Struct, frozen=True):
    """`id` and `seq` of the event; of a list the `events`, in the order in which they were sent."""

    id: str | msgspec.UnsetType = msgspec.UNSET
    seq: int | msgspec.UnsetType = msgspec.UNSET
    events: list[PublishedEvent] | msgspec.UnsetType = msgspec.UNSET


class Imported(msgspec.Struct, frozen=True):
    """`first` is the sequence number of the first of them."""

    first: int
    count: int


_BINARY: Final = dict.fromkeys(("ce-specversion", "ce-id", "ce-source", "ce-type"), str)
IdempotencyKey = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_KEY_LENGTH)]

_decode_events = msgspec.json.Decoder(list[EnvEvent]).decode


class ToExplain(msgspec.Struct, frozen=True):
    """`rule` names one rule; `all` tells of every one, however many do not match."""

    all: bool = False
    rule: str | None = None


class Events:
    """What happened."""

    def __init__(
        self, environment: ServerEnvironment, open_streams: set[anyio.CancelScope], broadcast: Broadcast
    ) -> None:
        self._environment, self._open_streams, self._broadcast = environment, open_streams, broadcast
        self._publisher = Publisher(environment)

    @get(
        "/events",
        Access.READ,
        answers={"application/json": EventPage, "text/event-stream": str},
        headers={"Last-Event-ID": str},
        streams=True,
    )
    async def all(self, request: Request, query: EventsWanted) -> Response | ASGIApp:
        """Events of the past, newest last; live ones for whoever accepts an event stream."""
        asked = wanted(query.type, query.match)
        if "text/event-stream" in request.headers.get("accept", "") and request.method == "GET":
            return await self._live(asked, request.headers.get("last-event-id") or query.since)
        journal = self._environment.bus.journal
        if query.since is not None and query.from_ is not None:
            raise HTTPException(400, "since and from: give one of them; since is what comes after, from is inclusive")
        try:
            after, upto = await span(journal, query.from_, query.to)
        except ValueError as error:
            raise HTTPException(400, f"from, to: {error}") from None
        if query.cursor is not None:
            after = await _position(journal, str(query.cursor))
        elif query.since is not None:
            after = await _position(journal, query.since)
        if after is None:
            page = await newest(journal, asked.select(), query.limit, upto)
        else:
            page = await following(journal, asked.select(), query.limit, after, upto)
        return _paged(page)

    async def _live(self, asked: Wanted, since: str | None) -> ASGIApp:
        http = self._environment.config.http
        after = None if since is None else await _position(self._environment.bus.journal, since)
        return EventStream(self._broadcast.watch(asked, after), self._open_streams, http.connection_timeout_s)

    @post(
        "/events",
        Access.PUBLISH,
        status=201,
        # Any other body is taken with the headers of a CloudEvent in binary mode, and refused by `read_events` without.
        takes={"application/json": NewEvent | NewEvents, STRUCTURED: CloudEvent, BATCHED: CloudEvents, "*/*": bytes},
        answers={"application/json": Published},
        headers={"Idempotency-Key": IdempotencyKey, **_BINARY},
        errors=(422,),
    )
    async def publish(self, request: Request) -> Response:
        """Publish an event, or a list of them, all or none; answered once they are in the journal."""
        body = await request.body()
        media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
        incoming = read_events(media_type, request.scope["headers"], body)
        done, fresh = await self._publisher.publish(request, incoming, body)
        published = [PublishedEvent(each, done.seq + place) for place, each in enumerate(done.ids)]
        answer = json_answer(Published(events=published) if incoming.listed else published[0], 201)
        if not fresh:
            answer.headers["idempotent-replayed"] = "true"
        return answer

    @post("/events/import", Access.ADMIN, status=201, takes={"application/json": list[EnvEvent]})
    async def import_events(self, request: Request) -> Imported:
        """Publish events as they are, all or none; over the control socket only."""
        # What it publishes may say that it comes from anywhere: that is for the host's own user.
        if not over_control_socket(request.scope):
            raise HTTPException(403, "events are imported over the control socket only")
        events = read_body(await request.body(), _decode_events)
        return Imported(await self._environment.import_events(events), len(events))

    @get("/events/{event:path}/explain", Access.READ, answers={"application/json": Explained}, errors=(409,))
    async def explain(self, event: str, query: ToExplain) -> dict[str, Any]:
        """What became of an event, rule by rule, and why."""
        return (await self._environment.explain(event, every=query.all, only=query.rule)).to_json()

    @get("/events/{event:path}", Access.READ, answers={"application/json": NumberedEvent}, errors=(409,))
    async def one(self, event: str) -> Response:
        """One event, by its number, its id, or SOURCE:ID; 409 lists the candidates where several are called so."""
        try:
            with self._environment.reading() as journal:
                entry = await find(journal, event)
        except Ambiguous as error:
            candidates = [msgspec.Raw(event_json(entry)) for entry in error.entries]
            return error_answer(409, ErrorCode.INVALID_PARAMS, str(error), {"candidates": candidates})
        return Response(event_json(entry), media_type="application/json")


def _paged(page: Page) -> Response:
    missed = b',"missed":%d' % page.missed if page.missed else b""
    more = b',"more":true' if page.more else b""
    text = b'{"events":[%b],"cursor":%d%b%b}' % (b",".join(page.events), page.cursor, missed, more)
    return Response(text, media_type="application/json")


async def _position(journal: Journal, since: str) -> int:
    try:
        return await position(journal, since)
    except ValueError as error:
        raise HTTPException(400, f"since: {error}") from error
