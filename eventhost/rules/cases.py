"""Tests of rules, `rules/tests/*.jsonc`: an event, and which rules must run and do what; nothing is executed.

A case is exact about which rules run, and partial about what they do: of an action only the keys that are given count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from eventhost.config.rulefiles import RULES_FOLDER, TESTS_FOLDER, list_in, list_rule_files, read_file
from eventhost.config.tree import Tree, dotted
from eventhost.config.wording import did_you_mean
from eventhost.errors import ConfigError, EventRejected, Problem
from eventhost.event import EnvEvent, RawEvent, SourceProfile, TypeGlobs, normalize
from eventhost.journal import Entry
from eventhost.pattern import MISSING
from eventhost.rules.rule import Rule
from eventhost.rules.seen import short
from eventhost.rules.trial import Trial, concerns, try_rule

MakeEvent = Callable[[Mapping[str, Any], int], EnvEvent]
"""Makes the event that a source's saying becomes, at a moment in milliseconds; raises EventRejected."""

NOON_MS = 1_767_614_400_000
"""When a case takes place that does not say it: at noon, UTC, on a Monday, the 5th of January 2026."""

SOURCE = "test"
"""Who says an event that does not name its `metadata.source_name`."""


class CaseSpec(BaseModel):
    """A test of the rules: an event, and what must come of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: str | None = Field(default=None, alias="$schema", description="For editors.")
    name: str = Field(
        default="", description="What is tested, in a few words.", examples=["a warm cellar rings the alarm"]
    )
    event: dict[str, Any] = Field(
        description="The event as its source would say it, or as `eventhost tail --json` prints it.",
        examples=[{"type": "door.opened", "payload": {"door": "cellar"}}],
    )
    expect: list[str] | dict[str, Literal[True] | list[dict[str, Any]]] = Field(
        description="The names of the rules that run, all of them and no others; or an object with, for each, what its "
        "actions do (of each action, the keys that are given), or `true`.",
        examples=[["greet"]],
    )
    at: int | str | None = Field(
        default=None,
        description="When the event is accepted: milliseconds or ISO 8601. By default, its `timestamp`; without one, "
        "noon UTC on Monday, 2026-01-05.",
        examples=["2026-01-05T12:00:00Z"],
    )
    results: dict[str, list[Any]] = Field(
        default={},
        description="By rule, what its actions are taken to give, one for each: the first is what the second sees as "
        "`result`.",
        examples=[{"greet": [{"text": "done"}]}],
    )
    rules: list[str] = Field(
        default=["*"],
        description="Globs of names: only these rules are looked at.",
        examples=[["door-*"]],
    )


@dataclass(frozen=True, slots=True)
class Case:
    """A test, ready to be run."""

    place: str
    """`file:line`"""
    name: str
    entry: Entry
    expect: Mapping[str, Sequence[Mapping[str, Any]] | None]
    """By rule, what its actions do; None where that does not matter."""
    results: Mapping[str, Sequence[Any]]
    globs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as a case says; `what` is a sentence, the others are its two sides where it has some."""

    rule: str
    what: str
    wanted: Any = MISSING
    got: Any = MISSING

    def __str__(self) -> str:
        sides = "" if self.wanted is MISSING else f": expected {_side(self.wanted)}, got {_side(self.got)}"
        return f"{self.rule}: {self.what}{sides}"


def profile(name: str) -> SourceProfile:
    """A source that may say anything: also what only the host says."""
    return SourceProfile(name, ("*", "host.*"))


def event_of(
    said: Mapping[str, Any], at_ms: int, profiles: Mapping[str, SourceProfile] | None = None, source: str = SOURCE
) -> EnvEvent:
    """The event that `said` becomes; `metadata.source_name`, where it is given, is the source that says it.

    Raises:
        EventRejected: it is no event, or none that this source may say.
    """
    metadata = said.get("metadata") if isinstance(said, Mapping) else None
    named = metadata.get("source_name") if isinstance(metadata, Mapping) else None
    name = named if isinstance(named, str) and named else source
    return normalize(RawEvent.from_value(said), (profiles or {}).get(name) or profile(name), now_ms=at_ms)


def moment_ms(written: int | str) -> int:
    """Milliseconds since the epoch, of a number of them or a text in ISO 8601.

    Raises:
        EventRejected: it is neither.
    """
    return normalize(RawEvent("moment", timestamp=written), profile(SOURCE)).timestamp


def read_cases(root: Path, rules: Iterable[Rule], make_event: MakeEvent = event_of) -> tuple[list[Case], list[Problem]]:
    """All cases of an environment, in the order of their files, and everything that is wrong with those files."""
    folder, cases, problems = root / RULES_FOLDER / TESTS_FOLDER, list[Case](), list[Problem]()
    names = {rule.name for rule in rules}
    try:
        files, _ = list_rule_files(folder)
    except OSError as error:
        return [], [Problem(f"{RULES_FOLDER}/{TESTS_FOLDER}", f"cannot be read: {error.strerror}", "make it readable")]
    for name in files:
        file = f"{RULES_FOLDER}/{TESTS_FOLDER}/{name}"
        try:
            tree = read_file(folder / name, file)
            parts = _cases_in(tree, problems) if tree is not None else []
        except ConfigError as error:
            problems += error.problems
            continue
        for part in parts:
            try:
                cases.append(_case(part, names, make_event))
            except ConfigError as error:
                problems += error.problems
    return cases, problems


def run_case(case: Case, rules: Sequence[Rule]) -> list[Difference]:
    """What is not as the case says; nothing, if all is."""
    globs, differences = TypeGlobs(case.globs), list[Difference]()
    by_name = {rule.name: rule for rule in rules}
    for rule in rules:
        if rule.name in case.expect or not rule.enabled or not globs[rule.name] or not concerns(rule, case.entry):
            continue
        if try_rule(rule, case.entry).fate.runs:
            differences.append(Difference(rule.name, "runs, and is not expected to"))
    for name, actions in case.expect.items():
        trial = try_rule(by_name[name], case.entry, case.results.get(name, ()))
        if not trial.fate.runs:
            differences.append(Difference(name, f"does not run: {reason(trial)}"))
        elif actions is not None:
            differences += _compared(name, actions, trial)
    return differences


def reason(trial: Trial) -> str:
    """Why a rule does not run, in one line."""
    stop = trial.stop
    if stop is None:
        return f"it is {trial.fate}"
    return "; ".join([f"{stop.clause}: {stop.reason}", *map(str, stop.seen)])


def _cases_in(tree: Tree, problems: list[Problem]) -> list[Tree]:
    if isinstance(tree.value, dict) and "tests" not in tree.value:
        return [tree]
    cases = list_in(tree, "tests", problems)
    return [cases.at(index) for index in range(len(cases.value))]


def _case(tree: Tree, names: Iterable[str], make_event: MakeEvent) -> Case:
    spec = tree.validate(CaseSpec)
    problems: list[Problem] = []
    at_ms, timestamp = NOON_MS, spec.event.get("timestamp")
    try:
        at_ms = moment_ms(spec.at if spec.at is not None else NOON_MS if timestamp is None else timestamp)
    except EventRejected as error:
        problems.append(tree.problem(str(error), at="at" if spec.at is not None else ("event", "timestamp")))
    event = None
    try:
        event = make_event(spec.event, at_ms)
    except EventRejected as error:
        problems.append(tree.problem(str(error), at="event"))
    expected: dict[str, Any] = spec.expect if isinstance(spec.expect, dict) else dict.fromkeys(spec.expect, True)
    for key, given in (("expect", spec.expect), ("results", spec.results)):
        for index, name in enumerate(given):
            if name not in names:
                at = (key, index if isinstance(given, list) else name)
                mend = did_you_mean(name, names) or "look at `eventhost rule list`"
                problems.append(
                    tree.problem(f'no rule is called "{name}"', mend=mend, at=at, key=isinstance(given, dict))
                )
    if problems or event is None:
        raise ConfigError(problems)
    place = tree.problem("")
    return Case(
        f"{place.file}:{place.line}",
        spec.name,
        Entry(1, at_ms, event),
        {name: None if actions is True else actions for name, actions in expected.items()},
        spec.results,
        tuple(spec.rules),
    )


def _compared(name: str, wanted: Sequence[Mapping[str, Any]], trial: Trial) -> Iterable[Difference]:
    done = [(index, action) for index, action in enumerate(trial.actions) if not action.skipped]
    for index, action in done:
        if action.error:
            missing = "".join(f"; {one}" for one in action.seen)
            yield Difference(name, f"do[{index}] ({action.kind}) would fail: {action.error}{missing}")
            return
    for (index, action), one in zip(done, wanted, strict=False):
        yield from _differences(name, ("do", index), one, action.does)
    if len(done) != len(wanted):
        kinds = ", ".join(action.kind for _, action in done) or "none"
        yield Difference(name, f"expected {len(wanted)} actions, got {len(done)}: {kinds}")


def _differences(name: str, path: tuple[str | int, ...], wanted: Any, got: Any) -> Iterable[Difference]:
    """Objects are compared by the keys that are wanted, everything else as a whole."""
    if isinstance(wanted, Mapping) and isinstance(got, Mapping):
        for key, value in wanted.items():
            yield from _differences(name, (*path, key), value, got.get(key, MISSING))
    elif isinstance(wanted, list) and isinstance(got, list) and len(wanted) == len(got):
        for index, value in enumerate(wanted):
            yield from _differences(name, (*path, index), value, got[index])
    elif not _equal(wanted, got):
        yield Difference(name, dotted(path), wanted, got)


def _equal(one: Any, other: Any) -> bool:
    # To JSON 1 and 1.0 are one number, and true is none.
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _side(value: Any) -> str:
    return "nothing" if value is MISSING else short(value, 300)
