"""Reading a rule's `do`: every problem at once, each in its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, NamedTuple, TypeVar

from pydantic import BaseModel

from eventhost.actions.action import Action
from eventhost.actions.agent import AgentSpec
from eventhost.actions.agent import parse as parse_agent
from eventhost.actions.emit import EmitSpec
from eventhost.actions.emit import parse as parse_emit
from eventhost.actions.exec import ExecSpec
from eventhost.actions.exec import parse as parse_exec
from eventhost.actions.keys import KEYS, StepSpec, parse_if, to_retry
from eventhost.actions.log import LogSpec
from eventhost.actions.log import parse as parse_log
from eventhost.actions.python import PythonSpec
from eventhost.actions.python import parse as parse_python
from eventhost.actions.step import Step
from eventhost.actions.tool import ToolSpec
from eventhost.actions.tool import parse as parse_tool
from eventhost.actions.webhook import WebhookSpec
from eventhost.actions.webhook import parse as parse_webhook
from eventhost.config.tree import Tree
from eventhost.config.wording import did_you_mean, kind
from eventhost.errors import ConfigError, Problem

T = TypeVar("T")


class Kind(NamedTuple):
    """One kind of action: the keys of its own as they are written, and its reader."""

    spec: type[BaseModel]
    parse: Callable[[Tree, Sequence[str]], Action]
    """Is given those keys alone, and what templates know besides the event."""


KINDS: Final[Mapping[str, Kind]] = {
    "log": Kind(LogSpec, parse_log),
    "emit": Kind(EmitSpec, parse_emit),
    "tool": Kind(ToolSpec, parse_tool),
    "exec": Kind(ExecSpec, parse_exec),
    "webhook": Kind(WebhookSpec, parse_webhook),
    "python": Kind(PythonSpec, parse_python),
    "agent": Kind(AgentSpec, parse_agent),
}
"""Each kind of action, by the key that names it."""

MAX_NESTING: Final = 3
"""How deep `onError` within `onError` may go."""

_RESULT, _ERROR = "result", "error"


def parse_actions(tree: Tree, names: Sequence[str] = ()) -> list[Step]:
    """The steps of a `do`: a list of objects, or a single one, each named by its first key.

    `names` are what all of its templates know besides the event; they also know the `result` of the action before,
    and, where there can be one, the last `error`.

    Raises:
        ConfigError: with every problem that was found.
    """
    return _steps(tree, tuple(names), 0)


def _steps(tree: Tree, names: tuple[str, ...], depth: int) -> list[Step]:
    if isinstance(tree.value, Mapping):
        return [_step(tree, names, depth)]
    if not isinstance(tree.value, list) or not tree.value:
        got = "an empty list" if tree.value == [] else kind(tree.value)
        raise ConfigError([tree.problem(f"expected actions, got {got}", mend='write [{"log": "text"}]')])
    steps: list[Step] = []
    problems: list[Problem] = []
    for index, value in enumerate(tree.value):
        try:
            steps.append(_step(tree.at(index), names, depth))
        except ConfigError as error:
            problems += error.problems
        continues = isinstance(value, Mapping) and value.get("onError") == "continue"
        names = tuple(dict.fromkeys((*names, _RESULT, *([_ERROR] if continues else []))))
    if problems:
        raise ConfigError(problems)
    return steps


def _step(tree: Tree, names: tuple[str, ...], depth: int) -> Step:
    own = KINDS[_kind_of(tree)]
    problems: list[Problem] = []

    def collect(read: Callable[[], T]) -> T | None:
        try:
            return read()
        except ConfigError as error:
            problems.extend(error.problems)
            return None

    known = [info.alias or name for name, info in own.spec.model_fields.items()]
    problems += _unknown(tree, [*known, *KEYS])
    action = collect(lambda: own.parse(tree.only(*known), names))
    keys = collect(lambda: tree.only(*KEYS).validate(StepSpec))
    condition = collect(lambda: parse_if(tree, names))
    on_error = collect(lambda: _on_error(tree.at("onError"), names, depth))
    if problems or action is None or keys is None or on_error is None:
        raise ConfigError(dict.fromkeys(problems))
    return Step(action, condition, to_retry(keys.retry) if "retry" in tree.value else None, on_error)


def _on_error(tree: Tree, names: tuple[str, ...], depth: int) -> Literal["stop", "continue"] | tuple[Step, ...]:
    if not isinstance(tree.value, list | Mapping):
        return "continue" if tree.value == "continue" else "stop"  # anything else is no `StepSpec`
    if depth == MAX_NESTING:
        raise ConfigError([tree.problem(f"onError within onError may go {MAX_NESTING} deep")])
    return tuple(_steps(tree, tuple(dict.fromkeys((*names, _ERROR))), depth + 1))


def _kind_of(tree: Tree) -> str:
    known = f"known here: {', '.join(KINDS)}"
    if not isinstance(tree.value, Mapping) or not tree.value:
        got = "an empty object" if tree.value == {} else kind(tree.value)
        raise ConfigError([tree.problem(f"expected an action, got {got}", mend='write {"log": "text"}')])
    name = next(iter(tree.value))
    named = [key for key in tree.value if key in KINDS]
    if name not in KINDS:
        mend = f'write "{named[0]}" first' if named else did_you_mean(name, KINDS) or known
        raise ConfigError([tree.problem(f'unknown action "{name}"', mend=mend, at=name, key=True)])
    if len(named) > 1:
        mend = "write an object for each"
        message = f"an action does one thing, this one names {' and '.join(named)}"
        raise ConfigError([tree.problem(message, mend=mend, at=named[1], key=True)])
    return str(name)


def _unknown(tree: Tree, known: Sequence[str]) -> list[Problem]:
    left = [key for key in known if key not in tree.value]
    return [
        tree.problem("unknown key", mend=did_you_mean(key, left) or f"known here: {', '.join(left)}", at=key, key=True)
        for key in tree.value
        if key not in known
    ]
