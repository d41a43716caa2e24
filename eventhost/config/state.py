"""What `enable` and `disable` decide outlives the host without a line of the user's files being rewritten."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from eventhost.config.tree import Tree
from eventhost.errors import ConfigError, Problem

STATE_FILE = Path("var", "state.json")


@dataclass(frozen=True, slots=True)
class State:
    """`enabled` overrides, by the name of a source or client, `rules` by that of a rule.

    `warnings` say what became of a file that was corrupt.
    """

    enabled: Mapping[str, bool] = field(default_factory=dict)
    warnings: tuple[Problem, ...] = ()
    rules: Mapping[str, bool] = field(default_factory=dict)


class _Written(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    enabled: dict[str, bool] = {}
    rules: dict[str, bool] = {}


def load_state(root: Path) -> State:
    """What was saved; nothing where nothing was, or where it cannot be read.

    A corrupt file is set aside as `state.json.corrupt`, so that the next save harms no evidence.
    """
    path = root / STATE_FILE
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return State()
    except UnicodeDecodeError:
        return State(warnings=(_set_aside(path, "is not UTF-8"),))
    except OSError as error:
        return State(warnings=(_warning(f"cannot be read: {error.strerror}", "let the host read it"),))
    try:
        written = Tree.parse(text, str(STATE_FILE)).validate(_Written)
    except ConfigError as error:
        return State(warnings=(_set_aside(path, error.problems[0].message),))
    return State(written.enabled, rules=written.rules)


def save_state(root: Path, state: State) -> None:
    """Write the state so that a crash leaves the old one or the new one, never half of it.

    Raises:
        OSError: it could not be written; the old one stands.
    """
    path = root / STATE_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    said = {"enabled": dict(sorted(state.enabled.items()))}
    if state.rules:
        said["rules"] = dict(sorted(state.rules.items()))
    text = json.dumps(said, indent=2) + "\n"
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".state-")
    try:
        with open(handle, "w", encoding="utf-8") as opened:
            opened.write(text)
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def set_enabled(root: Path, name: str, enabled: bool | None) -> None:
    """Remember that `name` is enabled or disabled, whatever the files say; `None` leaves it to them again.

    Raises:
        OSError: it could not be written.
    """
    state = load_state(root)
    save_state(root, replace(state, enabled=_with(state.enabled, name, enabled)))


def set_rule_enabled(root: Path, name: str, enabled: bool | None) -> None:
    """The same for a rule.

    Raises:
        OSError: it could not be written.
    """
    state = load_state(root)
    save_state(root, replace(state, rules=_with(state.rules, name, enabled)))


def _with(overrides: Mapping[str, bool], name: str, enabled: bool | None) -> dict[str, bool]:
    rest = {key: value for key, value in overrides.items() if key != name}
    return rest if enabled is None else {**rest, name: enabled}


def _set_aside(path: Path, reason: str) -> Problem:
    aside = path.with_name(path.name + ".corrupt")
    try:
        path.replace(aside)
    except OSError as error:
        return _warning(f"is corrupt ({reason}) and cannot be set aside: {error.strerror}", "remove it")
    return _warning(f"was corrupt ({reason}) and is now {aside.name}", "enable or disable again what it was about")


def _warning(message: str, mend: str) -> Problem:
    return Problem(str(STATE_FILE), message, mend=mend, fatal=False)
