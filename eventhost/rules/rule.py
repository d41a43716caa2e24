"""A rule as it is configured; what is wrong with any of them is said at once, each in its place."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from eventhost.actions import Action, parse_actions
from eventhost.actions.functions import Functions
from eventhost.actions.python import PythonAction
from eventhost.config.tree import Tree
from eventhost.config.wording import kind
from eventhost.errors import ConfigError, Problem
from eventhost.expression import Condition, ExpressionError
from eventhost.pattern import Pattern, PatternError

T = TypeVar("T")

MAX_CONCURRENCY = 256


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(default="", min_length=1, max_length=128, examples=["greet"])
    on: str | list[str] = Field(default="*", examples=["file.created"])
    match: Any = None
    when: str = Field(default="", min_length=1, examples=["payload.size > 1000"])
    do: Any = Field(examples=[[{"log": "text"}]])
    enabled: bool = True
    concurrency: int = Field(default=1, ge=1, le=MAX_CONCURRENCY)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, ready to be used. Rules are equal when they are configured alike."""

    name: str
    config: str = field(repr=False)
    """Its configuration, as JSON text."""
    on: tuple[str, ...] = field(compare=False)
    """Globs of the types that it looks at."""
    match: Pattern | None = field(compare=False)
    when: Condition | None = field(compare=False)
    actions: tuple[Action, ...] = field(compare=False)
    concurrency: int = field(compare=False)
    """How many events it may be busy with at once; 1 means in order."""
    enabled: bool = field(compare=False)


def parse_rules(tree: Tree, root: Path | None = None) -> list[Rule]:
    """The rules that a list describes. A rule without a name is called after its place, `rule-1` the first.

    With the environment's `root`, the modules of `python` actions must be there; nothing of them is run.

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
            rule = _parse_rule(part, f"rule-{index + 1}", functions)
        except ConfigError as error:
            problems += error.problems
            continue
        first = places.setdefault(rule.name, index)
        if first != index:
            message = f'the name "{rule.name}" is that of rules[{first}] too'
            where = "name" if "name" in part.value else ()
            problems.append(part.problem(message, mend="name each rule differently", at=where))
        rules.append(rule)
    if problems:
        raise ConfigError(problems)
    return rules


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
    spec = collect(lambda: tree.validate(_Spec))
    given = tree.value
    on = collect(lambda: _types(tree.at("on"))) if "on" in given else ("*",)
    match = collect(lambda: _pattern(tree.at("match"))) if "match" in given else None
    when = (
        collect(lambda: _condition(tree.at("when"))) if isinstance(given.get("when"), str) and given["when"] else None
    )
    actions = (collect(lambda: parse_actions(tree.at("do"))) if "do" in given else None) or []
    if functions is not None:
        problems += _missing_modules(tree.at("do"), actions, functions)
    if problems or spec is None or on is None:
        raise ConfigError(_once(problems))
    return Rule(
        spec.name or default_name,
        json.dumps(given),
        on,
        match,
        when,
        tuple(actions),
        spec.concurrency,
        spec.enabled,
    )


def _types(tree: Tree) -> tuple[str, ...]:
    globs = [tree.value] if isinstance(tree.value, str) else tree.value
    if not isinstance(globs, list) or not all(isinstance(glob, str) for glob in globs):
        return ()  # the model has said so
    mend = 'write a type such as "file.created", or a glob such as "file.*"; leave `on` out for any type'
    if not globs:
        raise ConfigError([tree.problem("an empty list matches nothing", mend=mend)])
    empty = [tree.problem("an empty type", mend=mend, at=() if globs is not tree.value else index)
             for index, glob in enumerate(globs) if not glob]  # fmt: skip
    if empty:
        raise ConfigError(empty)
    return tuple(globs)


def _pattern(tree: Tree) -> Pattern:
    try:
        return Pattern.parse(tree.value, strict=False)
    except PatternError as error:
        raise ConfigError([tree.problem(error.reason, at=error.path)]) from None


def _condition(tree: Tree) -> Condition:
    try:
        return Condition(tree.value)
    except ExpressionError as error:
        raise ConfigError([tree.problem(str(error))]) from None


def _missing_modules(tree: Tree, actions: list[Action], functions: Functions) -> list[Problem]:
    single = isinstance(tree.value, dict)
    missing = []
    for index, action in enumerate(actions):
        if isinstance(action, PythonAction) and not functions.exists(module := action.target.partition(":")[0]):
            file = module.replace(".", "/") + ".py"
            mend = f"create {file} in the environment's folder, or install the module"
            at = ("python",) if single else (index, "python")
            missing.append(tree.problem(f"there is no module {module}", mend=mend, at=at))
    return missing


def _once(problems: list[Problem]) -> list[Problem]:
    return list(dict.fromkeys(problems))
