"""What the tools of the bus take: each class is a tool of that name, in snake_case, and its docstring describes it."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec

from eventhost.event import MAX_ID_LENGTH, MAX_TYPE_LENGTH
from eventhost.serve.lookback import LONGEST_PAGE

LONGEST_WAIT_MS: Final = 25_000

_Id = Annotated[str, msgspec.Meta(max_length=MAX_ID_LENGTH)]
_Number = Annotated[int, msgspec.Meta(ge=0)]
_Needle = Annotated[str, msgspec.Meta(max_length=1000)]

Types = Annotated[
    str | list[str],
    msgspec.Meta(description="Globs of event types: `door.*`, several as a list or with commas; `*` is all but host.*"),
]
Match = Annotated[
    dict[str, Any] | None,
    msgspec.Meta(description='An event pattern besides, such as {"payload": {"room": ["hall"]}}'),
]
Source = Annotated[str | None, msgspec.Meta(description="The name of one source; all if it is left out")]
Moment = Annotated[
    int | str | None, msgspec.Meta(description="A sequence number, an ISO 8601 time, or how long ago: 10m, 2h, 7d")
]
Limit = Annotated[int, msgspec.Meta(ge=1, le=LONGEST_PAGE, description="How many events at most")]


class EmitEvent(msgspec.Struct, forbid_unknown_fields=True):
    """Publish an event on the host's bus: rules that match it will run. Returns its id and sequence number once it is
    durable. The host names you as its source (`source_name: mcp`); types that begin with host. are the host's own.
    """

    type: Annotated[
        str, msgspec.Meta(min_length=1, max_length=MAX_TYPE_LENGTH, description="Event type, such as door.opened")
    ]
    payload: Annotated[Any, msgspec.Meta(description="Event payload, an object")] = None
    metadata: Annotated[dict[str, Any] | None, msgspec.Meta(description="Event metadata")] = None
    id: Annotated[_Id | None, msgspec.Meta(description="Its id; the host makes one if it is left out")] = None
    timestamp: Annotated[
        int | str | None, msgspec.Meta(description="When it happened: ms since 1970, or ISO 8601; now if left out")
    ] = None


class SubscribeEvent(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """Subscribe to events, from now on or after a cursor. Returns a subscription id. Where the session can be told
    something unasked, each event comes as notifications/eventsource/emitted; otherwise call list_pending_events.
    """

    event_type: Types
    match: Match = None
    after: Annotated[
        int | str | None,
        msgspec.Meta(description="Begin after this cursor, or so long ago (10m, 2h); by default with what comes now"),
    ] = None
    delivery: Annotated[
        Literal["push", "poll"] | None,
        msgspec.Meta(
            description="push: notifications in this session; poll: list_pending_events. By default what is possible",
        ),
    ] = None
    host: Annotated[
        str, msgspec.Meta(description="For another eventhost: its id; what came by it is left out", max_length=64)
    ] = ""


class UnsubscribeEvent(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """End a subscription."""

    subscription_id: Annotated[str, msgspec.Meta(description="What subscribe_event returned")]


class ListPendingEvents(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """Events of your subscriptions that were not handed out yet, oldest first, as a JSON list. With a cursor: those
    after it, which makes it safe to ask again. `more` tells that there are further ones now.
    """

    subscription_id: Annotated[
        str | None, msgspec.Meta(description="What subscribe_event returned; by default all of this session")
    ] = None
    cursor: Annotated[
        _Number | None,
        msgspec.Meta(description="The events after it; by default those that were not handed out before"),
    ] = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000, description="How many events at most")] = 100
    wait_ms: Annotated[
        int, msgspec.Meta(ge=0, le=LONGEST_WAIT_MS, description="How long to wait for one if there is none yet")
    ] = 0


class ListEvents(msgspec.Struct, forbid_unknown_fields=True):
    """The newest events, oldest of them first, each with its sequence number (`seq`). Long ones are shortened.
    `older` is what to give as `before` for those before them.
    """

    type: Types = "*"
    source: Source = None
    before: Annotated[_Number | None, msgspec.Meta(description="Those before this one; see `older`")] = None
    limit: Limit = 20


class SearchEvents(msgspec.Struct, forbid_unknown_fields=True, rename={"from_": "from"}):
    """Find events in the journal: by type, source, time, a text in them, or an event pattern. The newest that fit, the
    oldest of them first; `searched_to` tells how far back was looked, `older` what to give as `before` to go on.
    """

    text: Annotated[_Needle | None, msgspec.Meta(description="What its JSON holds, in any case")] = None
    type: Types = "*"
    match: Match = None
    source: Source = None
    from_: Moment = None
    to: Moment = None
    before: Annotated[_Number | None, msgspec.Meta(description="Those before this one; see `older`")] = None
    limit: Limit = 20


class ExplainEvent(msgspec.Struct, forbid_unknown_fields=True):
    """What became of one event, and why: its raw message, which rules matched it and what they did, attempt by
    attempt, what caused it and what it caused.
    """

    event: Annotated[int | str, msgspec.Meta(description="Its sequence number, its id, or SOURCE:ID")]
    rule: Annotated[str | None, msgspec.Meta(description="Tell of this rule alone")] = None
    all: Annotated[bool, msgspec.Meta(description="Tell of all rules, also of those that it does not concern")] = False


class ListEventTypes(msgspec.Struct, forbid_unknown_fields=True):
    """The types of the newest events in the journal, and those that sources are configured to say, as a JSON list."""

    source: Source = None


class GetSourceStatus(msgspec.Struct, forbid_unknown_fields=True):
    """The state of one event source, with its counters, its last error and the end of its log; or of all, in brief."""

    source: Source = None
