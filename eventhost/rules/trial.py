"""What a rule would do about an event: what keeps it from running, or what each action would do. Nothing is run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any

from eventhost.actions.step import Step
from eventhost.config.tree import dotted
from eventhost.config.wording import nearest
from eventhost.event import TypeGlobs
from eventhost.expression import Condition, ExpressionError
from eventhost.expression.source import expression_tokens
from eventhost.journal import Entry
from eventhost.pattern import MISSING
from eventhost.pattern.match import as_json
from eventhost.rules.rule import Rule
from eventhost.rules.run import Run
from eventhost.rules.seen import Seen, seen, seen_by_condition, seen_by_templates, short
from eventhost.rules.shaper import Shaper, Verdict
from eventhost.rules.shaping import KEYS


class Fate(StrEnum):
    """What a rule would do about an event that is the first it sees."""

    RUNS = "runs"
    HELD = "held"
    """It would run later, if nothing else came."""
    SUPPRESSED = "suppressed"
    """It matches, and its shaping would not let it run."""
    NO_MATCH = "no match"
    ERROR = "error"
    """Its condition cannot be told, which counts as false."""
    DISABLED = "disabled"
    GONE = "gone"
    """There is no such rule any more."""

    @property
    def matches(self) -> bool:
        return self in (Fate.RUNS, Fate.HELD, Fate.SUPPRESSED)

    @property
    def runs(self) -> bool:
        return self in (Fate.RUNS, Fate.HELD)


@dataclass(frozen=True, slots=True)
class Stop:
    """The first clause that keeps a rule from running, and what it saw."""

    clause: str
    """`on`, `when`, a key of its shaping, or a place in the pattern: `match.payload.temp`."""
    wanted: Any
    """What stands there in the configuration."""
    seen: tuple[Seen, ...]
    """The fields of the event that it is about."""
    reason: str
    """In a few words."""


@dataclass(frozen=True, slots=True)
class ActionTrial:
    """What one action would do: as it would be carried out, or why it would not be."""

    kind: str
    does: dict[str, Any] | None = None
    """The form of its configuration, filled in; references to secrets are left as they are."""
    skipped: str = ""
    """Its `if`, when that does not hold."""
    depends: str = ""
    """Its `if`, when only a run could tell whether it holds."""
    error: str = ""
    """Why it cannot be filled in; the run would fail here."""
    seen: tuple[Seen, ...] = ()
    """What is missing for it."""

    def to_json(self) -> dict[str, Any]:
        """The trial as JSON; what is empty is left out."""
        value: dict[str, Any] = {"kind": self.kind}
        if self.does is not None:
            value["does"] = self.does
        if self.skipped:
            value["skipped_by"] = self.skipped
        if self.depends:
            value["depends_on"] = self.depends
        if self.error:
            value["error"] = self.error
            value["seen"] = [_seen_json(one) for one in self.seen]
        return value


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of trying one rule on one event."""

    rule: str
    fate: Fate
    stop: Stop | None = None
    shaping: dict[str, Any] = field(default_factory=dict)
    """As it is configured."""
    due_ms: int | None = None
    """When it would run, if it is held."""
    actions: tuple[ActionTrial, ...] = ()
    answers: bool = False
    """Whether it is what the rule's `absence` waits for."""

    def to_json(self) -> dict[str, Any]:
        """The trial as JSON; what is empty is left out."""
        value: dict[str, Any] = {"rule": self.rule, "matches": self.fate.matches, "fate": self.fate.value}
        if self.answers:
            value["answers"] = True
        if self.stop is not None:
            stop = self.stop
            value["stopped_by"] = {"clause": stop.clause, "wanted": stop.wanted, "reason": stop.reason}
            value["stopped_by"]["seen"] = [_seen_json(one) for one in stop.seen]
        if self.shaping:
            value["shaping"] = self.shaping
        if self.due_ms is not None:
            value["due_ms"] = self.due_ms
        if self.fate.matches:
            value["actions"] = [action.to_json() for action in self.actions]
        return value


def concerns(rule: Rule, entry: Entry) -> bool:
    """Whether a rule's `on` and `match` agree with an event, quickly."""
    if not _on(rule.on, entry.event.type):
        return False
    return rule.match is None or rule.match.matches_json(as_json(entry.event))


def answers(rule: Rule, entry: Entry) -> bool:
    """Whether an event is what the rule's `absence` waits for, whatever its key."""
    absence = rule.shaping.absence
    if absence is None or not rule.enabled or not _on(absence.on, entry.event.type):
        return False
    try:
        return (absence.match is None or absence.match.matches_json(as_json(entry.event))) and (
            absence.when is None or absence.when.holds(entry.event, at_ms=entry.at_ms)
        )
    except ExpressionError:
        return False


def try_rule(rule: Rule, entry: Entry, results: Sequence[Any] = ()) -> Trial:
    """What `rule` would do about an event, accepted at `entry.at_ms`, if it was the first that it sees.

    `results` are what its actions are taken to give, one for each, in their order.
    """
    shaping = {key: value for key, value in json.loads(rule.config).items() if key in KEYS}
    if not rule.enabled:
        return Trial(rule.name, Fate.DISABLED, shaping=shaping)
    also = answers(rule, entry)
    stopped = _stopped(rule, entry)
    if stopped is not None:
        fate, stop = stopped
        return Trial(rule.name, fate, stop, shaping, answers=also)
    runs, verdict, due_ms = [Run((entry,), entry.event.timestamp)], Verdict.RUN, None
    if not rule.shaping.is_plain:
        runs, verdict, due_ms = _shaped(rule, entry)
    actions = tuple(_actions(rule, runs[0] if runs else Run((entry,), entry.at_ms), results))
    if not runs:
        clause, reason = _VERDICTS.get(verdict, ("shaping", f"the event would be {verdict}"))
        stop = Stop(clause, shaping.get(clause), (), reason)
        return Trial(rule.name, Fate.SUPPRESSED, stop, shaping, None, actions, also)
    return Trial(rule.name, Fate.RUNS if due_ms is None else Fate.HELD, None, shaping, due_ms, actions, also)


_VERDICTS = {
    Verdict.EXPIRED: ("maxAge", "the event is older"),
    Verdict.INACTIVE: ("active", "the rule sleeps at this time"),
}


def _stopped(rule: Rule, entry: Entry) -> tuple[Fate, Stop] | None:
    event = as_json(entry.event)
    if not _on(rule.on, entry.event.type):
        on = rule.on[0] if len(rule.on) == 1 else list(rule.on)
        near = nearest(entry.event.type, (glob for glob in rule.on if "*" not in glob), 0.8)
        field = Seen(("type",), entry.event.type)
        own = entry.event.type.startswith("host.") and any(glob.startswith("*") for glob in rule.on)
        reason = f"wants {short(on)}" + (f"; is {short(near)} a slip?" if near else "")
        if own:
            reason = f"{short(on)} leaves out the host's own events; begin the glob with host."
        return Fate.NO_MATCH, Stop("on", on, (field,), reason)
    if rule.match is not None and (failure := rule.match.first_failure(event)) is not None:
        fields = _seen_by_pattern(failure.path, failure.seen, event)
        clause = dotted(("match", *failure.path))
        return Fate.NO_MATCH, Stop(clause, failure.wanted, fields, f"wants {short(failure.wanted)}")
    if rule.when is None:
        return None
    fields = tuple(seen_by_condition(rule.when.source, event))
    try:
        if rule.when.holds(entry.event, at_ms=entry.at_ms):
            return None
    except ExpressionError as error:
        missing = tuple(one for one in fields if one.value is MISSING)
        return Fate.ERROR, Stop("when", rule.when.source, missing or fields, str(error))
    return Fate.NO_MATCH, Stop("when", rule.when.source, fields, f"{rule.when.source} is false")


def _seen_by_pattern(path: Sequence[str | int], value: Any, event: dict[str, Any]) -> tuple[Seen, ...]:
    # A key may be several steps with dots between them; `$or` and its numbers are no part of the event.
    keys: list[str] = []
    parts = iter(path)
    for part in parts:
        if part == "$or":
            next(parts, None)
        elif isinstance(part, str):
            keys += part.split(".")
    if path and path[-1] == "$or" and isinstance(value, dict):
        return tuple(Seen(tuple(name.split(".")), one) for name, one in value.items())
    if value is not MISSING:
        return (Seen(tuple(keys), value),)
    return (seen(tuple(keys), event)._replace(value=MISSING),)


def _shaped(rule: Rule, entry: Entry) -> tuple[list[Run], Verdict, int | None]:
    """The run that a fresh shaper gives for the event, the event's verdict, and when the run is due if not now."""
    verdicts: list[Verdict] = []
    shaper = Shaper(rule.shaping, lambda seq, verdict: verdicts.append(verdict))
    runs, due_ms = shaper.offer(entry, entry.at_ms), None
    # What is held may be let go in several stages, but for one event these are few.
    for _ in range(8):
        if runs or shaper.due_ms is None:
            break
        due_ms = shaper.due_ms
        runs = shaper.advance(due_ms)
    return runs, verdicts[-1] if verdicts else Verdict.RUN, due_ms


def would_do(rule: Rule, run: Run) -> list[ActionTrial]:
    """What each action of a run would do."""
    return _actions(rule, run, ())


def _actions(rule: Rule, run: Run, results: Sequence[Any]) -> list[ActionTrial]:
    do = json.loads(rule.config)["do"]
    written = do if isinstance(do, list) else [do]
    events = [as_json(entry.event) for entry in run.entries]
    tried: list[ActionTrial] = []
    values: dict[str, Any] = {"events": events}
    begun = False
    for index, step in enumerate(rule.steps):
        tried.append(action := _action(step, written[index], run.entry, values))
        begun = begun or not action.skipped
        if not begun:
            values["result"] = None
        elif action.skipped:
            continue  # what it would be is as it was
        elif index < len(results):
            values["result"] = results[index]
        else:
            values.pop("result", None)
    return tried


def _action(step: Step, written: Mapping[str, Any], entry: Entry, values: Mapping[str, Any]) -> ActionTrial:
    kind = step.action.kind
    depends = ""
    if step.condition is not None and _names_others(step.condition, values):
        depends = step.condition.source
    elif step.condition is not None:
        try:
            if not step.condition.holds(entry.event, values, at_ms=entry.at_ms):
                return ActionTrial(kind, skipped=step.condition.source)
        except ExpressionError as error:
            fields = seen_by_condition(step.condition.source, as_json(entry.event))
            return ActionTrial(kind, error=f"if: {error}", seen=_missing(fields))
    try:
        return ActionTrial(kind, step.action.describe(entry, values), depends=depends)
    except ExpressionError as error:
        fields = seen_by_templates(written, as_json(entry.event))
        return ActionTrial(kind, error=str(error), seen=_missing(fields))


def _names_others(condition: Condition, values: Mapping[str, Any]) -> bool:
    """Whether it asks for what only a run knows: the result, or the error, of an action before."""
    unknown = {"result", "error"} - values.keys()
    return any(token.kind == "name" and token.text in unknown for token in expression_tokens(condition.source))


def _missing(fields: Sequence[Seen]) -> tuple[Seen, ...]:
    return tuple(one for one in fields if one.value is MISSING)


def _on(globs: tuple[str, ...], event_type: str) -> bool:
    return event_type in globs or (any("*" in glob for glob in globs) and _type_globs(globs)[event_type])


@lru_cache(4096)
def _type_globs(globs: tuple[str, ...]) -> TypeGlobs:
    return TypeGlobs(globs)


def _seen_json(one: Seen) -> dict[str, Any]:
    value: dict[str, Any] = {"field": ".".join(map(str, one.path))}
    if one.value is not MISSING:
        value["value"] = one.value
    if one.meant:
        value["did_you_mean"] = ".".join(map(str, one.meant))
    return value
