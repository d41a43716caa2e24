"""A rule as it is configured; what is wrong with any of them is said at once, each in its place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from eventhost.actions import parse_actions
from eventhost.actions.functions import Functions
from eventhost.actions.python import PythonAction
from eventhost.actions.step import RUN_VALUES, Step, walk
from eventhost.config.tree import Tree, dotted
from eventhost.config.wording import kind
from eventhost.errors import ConfigError, Problem
from eventhost.expression import Condition
from eventhost.pattern import Pattern
from eventhost.rules.shaping import Shaping, parse_shaping
from eventhost.rules.start import Start, parse_start
from eventhost.rules.trigger import parse_trigger

T = TypeVar("T")

MAX_CONCURRENCY = 256

USER_QUERY: Final = "USER_QUERY"
"""The type of what somebody asks; a rule whose `on` names it answers."""


class RuleSpec(BaseModel):
    """A rule as it is written, but for what other rooms read: its trigger, its shaping, its actions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(
        default="",
        min_length=1,
        max_length=128,
        description="Its name in logs and statistics; no other rule has it. By default, after its place.",
        examples=["greet"],
    )
    on: str | list[str] = Field(default="*", examples=["file.created"])
    match: Any = None
    when: str = Field(default="", min_length=1, examples=["payload.size > 1000"])
    do: Any = Field(
        description="An action, or a list of them that are done one after the other.", examples=[[{"log": "text"}]]
    )
    enabled: bool = Field(default=True, description="`false` switches it off.")
    concurrency: int = Field(
        default=1,
        ge=1,
        le=MAX_CONCURRENCY,
        description="How many events it may be busy with at once; 1 means in order.",
        examples=[4],
    )
    from_: Any = Field(
        default=None,
        alias="from",
        description="Where a rule that is new starts: from now on, unless it says otherwise. A time without a zone is "
        "the host's own.",
        examples=["beginning", "7d", "2026-11-20T08:00:00Z", 1042],
    )
    throttle: Any = None
    dedupe: Any = None
    debounce: Any = None
    batch: Any = None
    absence: Any = None
    maxAge: Any = None  # noqa: N815
    active: Any = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, ready to be used. Rules are equal when they are configured alike, and both are enabled or not."""

    name: str
    config: str = field(repr=False)
    """Its configuration, as JSON text."""
    start: Start = field(compare=False)
    """Where it starts when it is new."""
    on: tuple[str, ...] = field(compare=False)
    """Globs of the types that it looks at."""
    match: Pattern | None = field(compare=False)
    when: Condition | None = field(compare=False)
    shaping: Shaping = field(compare=False)
    steps: tuple[Step, ...] = field(compare=False)
    uses: frozenset[str] = field(compare=False)
    """Which of `RUN_VALUES` its steps look at."""
    concurrency: int = field(compare=False)
    """How many events it may be busy with at once; 1 means in order."""
    enabled: bool
    """As configured, unless it was enabled or disabled by hand."""

    @property
    def answers(self) -> bool:
        """Whether what its actions give is the answer to a `USER_QUERY`; a rule for all events does not mean to."""
        return USER_QUERY in self.on


def parse_rules(
    tree: Tree, root: Path | None = None, *, named: str = "rule", known: Mapping[str, Rule] = MappingProxyType({})
) -> list[Rule]:
    """The rules that a list describes. A rule without a name is called after its place, `rule-1` the first.

    With the environment's `root`, the modules of `python` actions must be there; nothing of them is run. Of the rules
    that are `known`, by name, those that are configured as before are taken over instead of being read again.

    Raises:
        ConfigError: with every problem of every rule.
    """
    if tree.value is None:
        return []
    if not isinstance(tree.value, list):
        mend = 'write [{"on": "file.created", "do": [{"log": "new file"}]}]'
        raise ConfigError([tree.problem(f"expected a list of rules, got {kind(tree.value)}", mend=mend)])
    problems: list[Problem] = []
    rules: list[Rule] = []
    places: dict[str, int] = {}
    functions = Functions(root) if root is not None else None
    for index in range(len(tree.value)):
        part = tree.at(index)
        try:
            default_name = f"{named}-{index + 1}"
            rule = _as_before(part, default_name, known) or _parse_rule(part, default_name, functions)
        except ConfigError as error:
            problems += error.problems
            continue
        first = places.setdefault(rule.name, index)
        if first != index:
            line = tree.at(first).problem("").line
            there = dotted((*tree.path, first)) + (f" (line {line})" if line else "")
            message = f'the name "{rule.name}" is that of {there} too'
            where = "name" if "name" in part.value else ()
            problems.append(part.problem(message, mend="name each rule differently", at=where))
        rules.append(rule)
    if problems:
        raise ConfigError(problems)
    return rules


def _as_before(tree: Tree, default_name: str, known: Mapping[str, Rule]) -> Rule | None:
    name = tree.value.get("name", default_name) if isinstance(tree.value, dict) else None
    rule = known.get(name) if isinstance(name, str) else None
    return rule if rule is not None and rule.config == json.dumps(tree.value) else None


def _parse_rule(tree: Tree, default_name: str, functions: Functions | None) -> Rule:
    if not isinstance(tree.value, dict):
        mend = 'write {"on": "file.created", "do": [{"log": "new file"}]}'
        raise ConfigError([tree.problem(f"expected a rule, got {kind(tree.value)}", mend=mend)])
    problems: list[Problem] = []

    def collect(read: Callable[[], T]) -> T | None:
        try:
            return read()
        except ConfigError as error:
            problems.extend(error.problems)
            return None

    # Each part for itself, so that a mistake in one does not hide those in the others.
    spec = collect(lambda: tree.validate(RuleSpec))
    given = tree.value
    trigger = collect(lambda: parse_trigger(tree))
    steps = (collect(lambda: parse_actions(tree.at("do"), RUN_VALUES)) if "do" in given else None) or []
    budget = next(filter(None, (getattr(step.action, "budget", None) for _, step in walk(steps))), None)
    shaping = collect(lambda: parse_shaping(tree, budget))
    start = collect(lambda: parse_start(tree.at("from"))) if "from" in given else Start()
    if functions is not None:
        problems += _missing_modules(tree.at("do"), steps, functions)
    if problems or spec is None or trigger is None or shaping is None or start is None:
        raise ConfigError(_once(problems))
    config = json.dumps(given)
    return Rule(
        spec.name or default_name,
        config,
        start,
        trigger.on,
        trigger.match,
        trigger.when,
        shaping,
        tuple(steps),
        # Not made for each run unless they are looked at; an agent looks at its events itself.
        frozenset(name for name in RUN_VALUES if name in config or '"agent"' in config),
        spec.concurrency,
        spec.enabled,
    )


def _missing_modules(tree: Tree, steps: list[Step], functions: Functions) -> list[Problem]:
    missing = []
    for path, step in walk(steps):
        action = step.action
        if isinstance(action, PythonAction) and not functions.exists(module := action.target.partition(":")[0]):
            file = module.replace(".", "/") + ".py"
            mend = f"create {file} in the environment's folder, or install the module"
            at = (*_as_written(tree.value, path), "python")
            missing.append(tree.problem(f"there is no module {module}", mend=mend, at=at))
    return missing


def _as_written(do: Any, path: Sequence[str | int]) -> Iterator[str | int]:
    """The path of a step, less the index of one that stands alone without a list."""
    for part in path:
        if isinstance(part, str) or isinstance(do, list):
            do = do[part]
            yield part


def _once(problems: list[Problem]) -> list[Problem]:
    return list(dict.fromkeys(problems))
