"""Reading a rule's `do`: every problem at once, each in its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from eventhost.actions.action import Action
from eventhost.actions.emit import parse as parse_emit
from eventhost.actions.exec import parse as parse_exec
from eventhost.actions.log import parse as parse_log
from eventhost.actions.python import parse as parse_python
from eventhost.actions.tool import parse as parse_tool
from eventhost.actions.webhook import parse as parse_webhook
from eventhost.config.tree import Tree
from eventhost.config.wording import did_you_mean, kind
from eventhost.errors import ConfigError, Problem

KINDS: Final[Mapping[str, Callable[[Tree], Action]]] = {
    "log": parse_log,
    "emit": parse_emit,
    "tool": parse_tool,
    "exec": parse_exec,
    "webhook": parse_webhook,
    "python": parse_python,
}
"""The reader of each kind of action, by the key that names it."""


def parse_actions(tree: Tree) -> list[Action]:
    """The actions of a `do`: a list of objects, or a single one, each named by its first key.

    Raises:
        ConfigError: with every problem that was found.
    """
    if isinstance(tree.value, Mapping):
        return [_action(tree)]
    if not isinstance(tree.value, list) or not tree.value:
        got = "an empty list" if tree.value == [] else kind(tree.value)
        raise ConfigError([tree.problem(f"expected actions, got {got}", mend='write [{"log": "text"}]')])
    actions: list[Action] = []
    problems: list[Problem] = []
    for index in range(len(tree.value)):
        try:
            actions.append(_action(tree.at(index)))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return actions


def _action(tree: Tree) -> Action:
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
    return KINDS[name](tree)
