"""`Shaping`: how a rule's runs are spaced and gathered, as it is configured; what cannot be meant is refused here."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from eventhost.actions.action import template
from eventhost.config.durations import Duration
from eventhost.config.tree import Tree
from eventhost.errors import ConfigError, Problem
from eventhost.expression import VARIABLES, Condition
from eventhost.pattern import Pattern
from eventhost.rules.shaping.active import Active, parse_days, parse_hours, parse_zone
from eventhost.rules.shaping.key import Key
from eventhost.rules.trigger import Trigger, TriggerSpec, parse_trigger

if TYPE_CHECKING:
    from eventhost.actions.step import Budget

T = TypeVar("T")

MAX_LIMIT: Final = 10_000
"""The greatest `limit` of `throttle`, and the longest batch."""

BATCH: Final = 1_000
"""How many events make a batch full unless `max` says it."""

KeyText = Annotated[
    str | list[str],
    Field(
        description="Events for which this gives the same value belong together; left out, all do.",
        examples=["{{ payload.room }}"],
    ),
]


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ThrottleSpec(_Spec):
    """At most `limit` runs within any `per`; what comes beyond is suppressed."""

    limit: int = Field(default=1, ge=1, le=MAX_LIMIT, description="How many runs.", examples=[5])
    per: Duration = Field(ge=0.001, description="Within which time, however it is laid.", examples=["1m"])
    key: KeyText | None = None


class DedupeSpec(_Spec):
    """An event is suppressed when one with the same key was let through less than `within` before."""

    key: KeyText | None = None
    within: Duration = Field(ge=0.001, description="For how long a key is let through once.", examples=["10m"])


class DebounceSpec(_Spec):
    """The last event runs when there has been none for a while; those before it are suppressed."""

    for_: Duration = Field(alias="for", ge=0.001, description="How long there must be quiet.", examples=["5s"])
    key: KeyText | None = None


class BatchSpec(_Spec):
    """One run for all the events of a while; templates see them as `events`."""

    max: int = Field(default=BATCH, ge=1, le=MAX_LIMIT, description="With so many it is full and runs.", examples=[100])
    within: Duration = Field(ge=0.001, description="It runs so long after its first event.", examples=["1m"])
    key: KeyText | None = None


class OfSpec(TriggerSpec):
    """The events of which one is expected, where a type does not say enough."""

    key: KeyText | None = Field(default=None, description="Their key; by default that of `absence`.")


class AbsenceSpec(_Spec):
    """Runs when an event is not followed by an expected one."""

    of: str | list[str] | OfSpec = Field(
        description="What is expected: a type, a glob, a list of them, or an object with `on`, `match`, `when`, `key`.",
        examples=["door.closed"],
    )
    within: Duration = Field(ge=0.001, description="How long it is waited for.", examples=["10m"])
    key: KeyText | None = None


class ActiveSpec(_Spec):
    """The hours and days on which the rule is awake; what comes at other times is suppressed."""

    hours: str | list[str] | None = Field(
        default=None,
        description="Spans of hours. One that goes on over midnight belongs to the day on which it begins.",
        examples=["08:00-18:00"],
    )
    weekdays: str | list[str] | None = Field(
        default=None, description="Days, or spans of them.", examples=[["mon-fri", "sun"]]
    )
    time_zone: str | None = Field(
        default=None,
        alias="timeZone",
        description="Whose clock is meant; by default the machine's.",
        examples=["Europe/Berlin"],
    )

    @field_validator("hours", "weekdays")
    @classmethod
    def _can_be_read(cls, value: str | list[str] | None, info: Any) -> str | list[str] | None:
        if value == []:
            raise ValueError("an empty list is never", "leave it out")
        for text in _listed(value):
            parse_hours(text) if info.field_name == "hours" else parse_days(text)
        return value

    @field_validator("time_zone")
    @classmethod
    def _exists(cls, value: str | None) -> str | None:
        if value is not None:
            parse_zone(value)
        return value

    @model_validator(mode="after")
    def _says_something(self) -> ActiveSpec:
        if self.hours is None and self.weekdays is None:
            raise ValueError("neither hours nor weekdays are said", 'write {"hours": "08:00-18:00"}, or leave it out')
        return self


class ShapingSpec(_Spec):
    """What a rule may say about its shaping."""

    max_age: Duration | None = Field(
        default=None,
        alias="maxAge",
        ge=0.001,
        description="An event that is older, by its own timestamp, is not run for any more.",
        examples=["5m"],
    )
    active: ActiveSpec | None = Field(
        default=None, description=ActiveSpec.__doc__, examples=[{"hours": "08:00-18:00", "weekdays": "mon-fri"}]
    )
    dedupe: DedupeSpec | None = Field(
        default=None, description=DedupeSpec.__doc__, examples=[{"key": "{{ payload.id }}", "within": "10m"}]
    )
    debounce: DebounceSpec | None = Field(default=None, description=DebounceSpec.__doc__, examples=[{"for": "5s"}])
    batch: BatchSpec | None = Field(
        default=None, description=BatchSpec.__doc__, examples=[{"max": 100, "within": "1m"}]
    )
    absence: AbsenceSpec | None = Field(
        default=None, description=AbsenceSpec.__doc__, examples=[{"of": "door.closed", "within": "10m"}]
    )
    throttle: ThrottleSpec | None = Field(
        default=None, description=ThrottleSpec.__doc__, examples=[{"limit": 5, "per": "1m"}]
    )


KEYS: Final = tuple(info.alias or name for name, info in ShapingSpec.model_fields.items())
"""The keys of a rule that this room reads, in the order in which an event comes by them."""

HOLDING: Final = ("debounce", "batch", "absence")
"""Those of them which hold events back; a rule has one at most."""


@dataclass(frozen=True, slots=True)
class Throttle:
    """At most `limit` within any `per_ms`, with each key. Equal when configured alike, as all that follow."""

    name: ClassVar[str] = "throttle"
    config: str
    limit: int = field(compare=False)
    per_ms: int = field(compare=False)
    key: Key | None = field(compare=False)


@dataclass(frozen=True, slots=True)
class Dedupe:
    """At most one within any `within_ms`, with each key."""

    name: ClassVar[str] = "dedupe"
    config: str
    within_ms: int = field(compare=False)
    key: Key | None = field(compare=False)


@dataclass(frozen=True, slots=True)
class Debounce:
    """The last with each key, after quiet for `for_ms`."""

    name: ClassVar[str] = "debounce"
    config: str
    for_ms: int = field(compare=False)
    key: Key | None = field(compare=False)


@dataclass(frozen=True, slots=True)
class Batch:
    """All with the same key, once they are `most`, or `within_ms` after the first."""

    name: ClassVar[str] = "batch"
    config: str
    most: int = field(compare=False)
    within_ms: int = field(compare=False)
    key: Key | None = field(compare=False)


@dataclass(frozen=True, slots=True)
class Absence:
    """One with each key, unless an event that `of` means follows with the same `of_key` within `within_ms`."""

    name: ClassVar[str] = "absence"
    config: str
    of: Trigger = field(compare=False)
    of_key: Key | None = field(compare=False)
    within_ms: int = field(compare=False)
    key: Key | None = field(compare=False)

    @property
    def on(self) -> tuple[str, ...]:
        """Globs of the types that answer."""
        return self.of.on

    @property
    def match(self) -> Pattern | None:
        """The pattern of what answers, or None."""
        return self.of.match

    @property
    def when(self) -> Condition | None:
        """The condition on what answers, or None."""
        return self.of.when


Hold = Debounce | Batch | Absence
"""What holds events back."""


@dataclass(frozen=True, slots=True)
class Shaping:
    """What a `Shaper` does; without anything, each event is a run."""

    max_age_s: float | None = None
    active: Active | None = None
    dedupe: Dedupe | None = None
    hold: Hold | None = None
    throttle: Throttle | None = None
    budget: Budget | None = None
    """That of the rule's agent."""

    @property
    def is_plain(self) -> bool:
        """Each event is a run at once, so that no `Shaper` is needed."""
        return self == _PLAIN

    @property
    def absence(self) -> Absence | None:
        """What the rule waits for, if it does."""
        return self.hold if isinstance(self.hold, Absence) else None

    @property
    def gathers(self) -> bool:
        """Whether a run may have several events: templates then know `events`."""
        return isinstance(self.hold, Batch) or self.budget is not None


_PLAIN: Final = Shaping()


def parse_shaping(tree: Tree, budget: Budget | None = None) -> Shaping:
    """What a rule says about its shaping; `tree` is the rule, of which only `KEYS` are read.

    Raises:
        ConfigError: with every problem.
    """
    given = tree.value if isinstance(tree.value, dict) else {}
    if not any(given.get(name) is not None for name in KEYS):
        return Shaping(budget=budget) if budget is not None else _PLAIN
    problems: list[Problem] = []

    def collect(name: str, read: Callable[[Tree, Any], T]) -> T | None:
        """What `read` makes of a part's tree and model; each part for itself, so that all mistakes show."""
        if given.get(name) is None:
            return None
        try:
            spec = tree.only(name).validate(ShapingSpec)
            return read(tree.at(name), getattr(spec, "max_age" if name == "maxAge" else name))
        except ConfigError as error:
            problems.extend(error.problems)
            return None

    shaping = Shaping(
        collect("maxAge", lambda part, spec: float(spec)),
        collect("active", _active),
        collect("dedupe", lambda part, spec: Dedupe(_config(spec), _ms(spec.within), _key(part))),
        _one([collect("debounce", _debounce), collect("batch", _batch), collect("absence", _absence)]),
        collect("throttle", lambda part, spec: Throttle(_config(spec), spec.limit, _ms(spec.per), _key(part))),
        budget,
    )
    holding = [name for name in HOLDING if given.get(name) is not None]
    if len(holding) > 1:
        names = f"{', '.join(holding[:-1])} and {holding[-1]}"
        message = f"{names} cannot be on one rule: each says in its own way when what it holds is run for"
        mend = "make two rules, of which the first emits what the second looks at"
        problems.append(tree.problem(message, mend=mend, at=holding[1], key=True))
    if problems:
        raise ConfigError(problems)
    return shaping


def _active(part: Tree, spec: ActiveSpec) -> Active:
    hours = tuple(map(parse_hours, _listed(spec.hours))) or ((0, 24 * 60),)
    days = frozenset[int]().union(*map(parse_days, _listed(spec.weekdays))) or frozenset(range(7))
    return Active(_config(spec), hours, days, parse_zone(spec.time_zone) if spec.time_zone is not None else None)


def _debounce(part: Tree, spec: DebounceSpec) -> Debounce:
    return Debounce(_config(spec), _ms(spec.for_), _key(part))


def _batch(part: Tree, spec: BatchSpec) -> Batch:
    return Batch(_config(spec), spec.max, _ms(spec.within), _key(part))


def _absence(part: Tree, spec: AbsenceSpec) -> Absence:
    key = _key(part)
    of = part.at("of")
    if isinstance(of.value, dict):
        trigger, of_key = parse_trigger(of), _key(of) or key
    else:
        # It is read as an `on`, and what is wrong with it is said of its own place.
        try:
            trigger, of_key = parse_trigger(Tree({"on": of.value})), key
        except ConfigError as error:
            raise ConfigError(
                part.problem(problem.message, mend='write a type, such as "door.closed"', at="of")
                for problem in error.problems
            ) from None
    return Absence(_config(spec), trigger, of_key, _ms(spec.within), key)


def _key(part: Tree) -> Key | None:
    value = part.value.get("key")
    if value is None:
        return None
    made = template(part, "key")
    if made.is_constant:
        text = value if isinstance(value, str) else next(iter(value), "")
        name = text if text.partition(".")[0] in VARIABLES else f"payload.{text if text.isidentifier() else 'name'}"
        mend = f'write "{{{{ {name} }}}}" for the value of a field, or leave it out'
        raise ConfigError([part.problem("this key is the same for all events", mend=mend, at="key")])
    return Key(made)


def _one(read: list[Any]) -> Any:
    return next((made for made in read if made is not None), None)


def _listed(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else value or []


def _ms(duration_s: float) -> int:
    return round(duration_s * 1000)


def _config(spec: BaseModel) -> str:
    """The same text for what is configured alike."""
    return json.dumps(spec.model_dump(mode="json", by_alias=True), sort_keys=True)
