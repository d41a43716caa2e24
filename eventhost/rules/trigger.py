"""`Trigger`: which events are meant, by `on`, `match` and `when`; each mistake in them is told, in its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from eventhost.config.tree import Tree
from eventhost.config.wording import kind
from eventhost.errors import ConfigError, Problem
from eventhost.expression import Condition, ExpressionError
from eventhost.pattern import Pattern, PatternError

T = TypeVar("T")

KEYS: Final = ("on", "match", "when")
"""The keys that are read here."""


class TriggerSpec(BaseModel):
    """Which events are meant, as it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    on: str | list[str] = Field(
        default="*",
        description="A type, a glob (`*` stands for any characters), or a list of them; by default any type.",
        examples=["file.created"],
    )
    match: Any = Field(
        default=None,
        description="A pattern of values that the event must have, in the language of Amazon EventBridge.",
        examples=[{"payload": {"status": ["paid"]}}],
    )
    when: str = Field(
        default="",
        min_length=1,
        description="A Jinja expression, asked only when `on` and `match` agree.",
        examples=["payload.size > 1000"],
    )


@dataclass(frozen=True, slots=True)
class Trigger:
    """Events whose type matches one of the globs `on`, and with which `match` and `when` agree, where they are said."""

    on: tuple[str, ...] = ("*",)
    match: Pattern | None = None
    when: Condition | None = None


def parse_trigger(tree: Tree) -> Trigger:
    """What `on`, `match` and `when` of an object say; its other keys are not looked at.

    Raises:
        ConfigError: with every problem of the three.
    """
    if not isinstance(tree.value, dict):
        raise ConfigError([tree.problem(f"expected an object, got {kind(tree.value)}")])
    part, problems = tree.only(*KEYS), list[Problem]()

    def collect(read: Callable[[], T]) -> T | None:
        try:
            return read()
        except ConfigError as error:
            problems.extend(error.problems)
            return None

    # Each part for itself, so that a mistake in one does not hide those in the others.
    given = part.value
    collect(lambda: part.validate(TriggerSpec))
    on = collect(lambda: _types(part.at("on"))) if "on" in given else ("*",)
    match = collect(lambda: _pattern(part.at("match"))) if "match" in given else None
    written = isinstance(given.get("when"), str) and given["when"]
    when = collect(lambda: _condition(part.at("when"))) if written else None
    if problems or on is None:
        raise ConfigError(dict.fromkeys(problems))
    return Trigger(on, match, when)


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
        return _compiled(tree.value)
    except ExpressionError as error:
        raise ConfigError([tree.problem(str(error))]) from None


@lru_cache(4096)  # thousands of rules say the same
def _compiled(source: str) -> Condition:
    return Condition(source)
