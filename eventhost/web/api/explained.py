"""What `explain` answers, for the description of the API."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from eventhost.rules.delivery import StepOutcome
from eventhost.rules.explain import Became
from eventhost.web.api.rules import RuleTried

Made = Literal["given", "made"]


class ExplainedEvent(msgspec.Struct, frozen=True):
    """The event, and when it was accepted."""

    seq: int
    at_ms: int
    id: str
    type: str
    timestamp: int
    metadata: dict[str, Any]
    payload: dict[str, Any]


class SaidBySource(msgspec.Struct, frozen=True):
    """What the source said: recorded, or computed from the event. One that is `cut` is the beginning of its text."""

    message: Any
    recorded: bool
    cut: bool
    envelope: Any | msgspec.UnsetType = msgspec.UNSET


class Normalized(msgspec.Struct, frozen=True):
    """What the host added."""

    metadata: dict[str, Any]
    id: Made
    timestamp: Made


class Duplicate(msgspec.Struct, frozen=True):
    """`before` is the number of an event with the same id and other content."""

    verdict: Literal["new", "id used again"]
    before: int | msgspec.UnsetType = msgspec.UNSET


class EventNamed(msgspec.Struct, frozen=True):
    """An event in short; `rule` emitted it, and the replay `replayed` did, if it was one."""

    seq: int
    at_ms: int
    type: str
    source_name: str | None
    id: str
    rule: Any | msgspec.UnsetType = msgspec.UNSET
    replayed: Any | msgspec.UnsetType = msgspec.UNSET


class EventCaused(EventNamed, frozen=True, kw_only=True):
    """An event that it caused, and those which that one caused."""

    caused: list[EventCaused]


class LetterNamed(msgspec.Struct, frozen=True):
    id: int
    at_ms: int
    error: str


class RuleExplained(RuleTried, frozen=True, kw_only=True):
    """What became of the event with one rule, besides what the rule as it is now would do.

    `run` is the number of the run's last event, `born_ms` is when it began to be gathered, `events` of so many, and
    with `left_out` more that it knows of by count alone. `deaths` is how often a host began it.
    """

    became: Became
    recorded: bool
    why: str | msgspec.UnsetType = msgspec.UNSET
    run: int | msgspec.UnsetType = msgspec.UNSET
    born_ms: int | msgspec.UnsetType = msgspec.UNSET
    events: int | msgspec.UnsetType = msgspec.UNSET
    left_out: int | msgspec.UnsetType = msgspec.UNSET
    deaths: int | msgspec.UnsetType = msgspec.UNSET
    steps: list[StepOutcome] | msgspec.UnsetType = msgspec.UNSET
    dead_letter: LetterNamed | msgspec.UnsetType = msgspec.UNSET
    edited_since: bool | msgspec.UnsetType = msgspec.UNSET
    file_changed_since: bool | msgspec.UnsetType = msgspec.UNSET


class Explained(msgspec.Struct, frozen=True):
    """What became of an event; `others` counts the rules that it does not concern.

    With `caused_cut` it may have caused more: events up to `caused_searched_to` were looked at.
    """

    event: ExplainedEvent
    raw: SaidBySource | None
    normalized: Normalized
    duplicate: Duplicate
    caused_by: list[EventNamed]
    rules: list[RuleExplained]
    others: int
    caused: list[EventCaused]
    caused_searched_to: int
    caused_cut: bool
