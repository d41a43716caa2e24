"""Events out of a request, in whatever form they came, into the journal; who waits for that waits boundedly."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import anyio
import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request

from eventhost.environment import IDEMPOTENCY
from eventhost.errors import BusClosed, EventRejected
from eventhost.event import EnvEvent, RawEvent
from eventhost.exchange.http import BATCHED, STRUCTURED, VERSION_HEADER, NotJson, is_binary, read_binary
from eventhost.exchange.http import read_cloudevents as read_structured
from eventhost.web.access.caller import caller_of
from eventhost.web.events.idempotency import MAX_KEY_LENGTH, Done, Idempotency, OtherRequest, digest

if TYPE_CHECKING:
    from eventhost.environment import ServerEnvironment

MAX_BATCH: Final = 1_000
"""So many events are published by one request."""

PATIENCE_S: Final = 10.0
"""How long a request waits for the journal."""

_RETRY_AFTER_S: Final = 5

_decode = msgspec.json.Decoder(RawEvent | list[RawEvent]).decode


class Incoming(msgspec.Struct, frozen=True):
    """What a request wants published; `listed` if it was a list."""

    events: Sequence[RawEvent | EnvEvent]
    listed: bool


def read_events(media_type: str, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> Incoming:
    """The events of a request with this body.

    Raises:
        HTTPException: 415, it is of no form that is known.
        EventRejected: one of them is no event; as `NotJson` if the body is not even that.
    """
    now_ms = time.time_ns() // 1_000_000
    if is_binary(media_type, headers):
        return Incoming([_without_source(read_binary(headers, body, now_ms=now_ms))], listed=False)
    if media_type in (STRUCTURED, BATCHED):
        said = [*map(_without_source, read_structured(body, now_ms=now_ms))]
        return _bounded(said, media_type == BATCHED, body.lstrip()[:1] == b"[")
    if media_type != "application/json":
        raise HTTPException(
            415,
            f"{media_type or 'no Content-Type'!r}: send application/json, {STRUCTURED}, {BATCHED}, or the headers of a "
            f"CloudEvent in binary mode ({VERSION_HEADER.decode()} and others) with any body",
        )
    value = _decoded(body)
    if isinstance(value, RawEvent):
        return Incoming([value], listed=False)
    if not isinstance(value, list):
        return Incoming([_raw(value)], listed=False)
    _bounded(value, True, True)
    events: list[RawEvent | EnvEvent] = []
    for place, each in enumerate(value):
        try:
            events.append(each if isinstance(each, RawEvent) else _raw(each))
        except EventRejected as error:
            raise EventRejected(f"[{place}]: {error}") from None
    return Incoming(events, listed=True)


class Publisher:
    """Publishes what requests want, once for each `Idempotency-Key`."""

    def __init__(self, environment: ServerEnvironment) -> None:
        self._environment = environment
        self._once = Idempotency(environment.bus.journal, lambda: environment.reading())

    async def publish(self, request: Request, incoming: Incoming, body: bytes) -> tuple[Done, bool]:
        """Publish them all, or none; return once they are durable, and whether they were published now.

        Raises:
            EventRejected: one of them is no event.
            HTTPException: 503, the host is stopping, or its journal takes nothing; 422, the key belongs to another
                request; 400, it is no key.
        """
        size = len(body)
        key = request.headers.get("idempotency-key")
        if key is None:
            events, seq = await self._publish(incoming.events, size)
            return Done([event.id for event in events], seq), True
        if not 0 < len(key) <= MAX_KEY_LENGTH:
            raise HTTPException(400, f"Idempotency-Key: 1 to {MAX_KEY_LENGTH} characters are accepted, got {len(key)}")
        caller = caller_of(request.scope)
        said = sorted(header for header in request.scope["headers"] if _is_said(header[0]))
        asked = digest(body, *(part for header in said for part in header))

        async def publish(mark: str) -> tuple[list[EnvEvent], int]:
            return await self._publish(incoming.events, size, {IDEMPOTENCY: mark})

        try:
            return await self._once.once(digest(caller.name.encode(), key.encode()), asked, publish)
        except OtherRequest as error:
            raise HTTPException(422, str(error)) from None
        except BusClosed as error:
            raise _unavailable(str(error)) from None

    async def _publish(
        self, events: Sequence[RawEvent | EnvEvent], size: int, metadata: dict[str, Any] | None = None
    ) -> tuple[list[EnvEvent], int]:
        if (stalled := self._environment.bus.journal.statistics().stalled) is not None:
            raise _unavailable(f"the journal takes nothing at the moment: {stalled}; nothing was published")
        try:
            with anyio.fail_after(PATIENCE_S):
                return await self._environment.publish_events(events, metadata=metadata, at_most_bytes=size)
        except BusClosed as error:
            raise _unavailable(str(error)) from None
        except TimeoutError:
            raise _unavailable(
                f"the journal has not answered for {PATIENCE_S:.0f} s, and may yet take what was sent; with an "
                "Idempotency-Key it can be sent again without being published twice"
            ) from None


def _is_said(header: bytes) -> bool:
    """Whether a header is part of what is published."""
    return header == b"content-type" or header.startswith(b"ce-")


def _decoded(body: bytes) -> Any:
    """An event or a list of them, where they say nothing beside what an event has; any other JSON otherwise."""
    try:
        return _decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        pass
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise NotJson(f"the body is not JSON: {error}") from None


def _raw(value: Any) -> RawEvent:
    raw = RawEvent.from_value(value)
    if "specversion" in value:
        raise EventRejected(f"this is a CloudEvent; send it as {STRUCTURED}")
    return raw


def _without_source(event: EnvEvent) -> EnvEvent:
    # Who sent it stays in `metadata.source`; `source_name` is the host's.
    event.metadata.pop("source_name", None)
    return event


def _bounded(events: Sequence[Any], wanted_list: bool, is_list: bool) -> Incoming:
    if wanted_list != is_list:
        raise EventRejected(f"{STRUCTURED} is one event, {BATCHED} a list of them; this is the other")
    if not events:
        raise EventRejected("an empty list: there is nothing to publish")
    if len(events) > MAX_BATCH:
        raise EventRejected(f"{len(events)} events: at most {MAX_BATCH} are published at once; send several lists")
    return Incoming(events, is_list)


def _unavailable(message: str) -> HTTPException:
    return HTTPException(503, message, headers={"Retry-After": str(_RETRY_AFTER_S)})
