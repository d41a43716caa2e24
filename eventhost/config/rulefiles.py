"""`rules/*.jsonc`: lists of rules beside the root config; a file that cannot be read harms no other."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from eventhost.config.tree import Tree
from eventhost.config.wording import kind
from eventhost.errors import ConfigError, Problem

RULES_FOLDER = "rules"
TESTS_FOLDER = "tests"
"""Inside of `rules`: the rules' tests, which the host does not read."""

SUFFIX = ".jsonc"


@dataclass(frozen=True, slots=True)
class RuleFiles:
    """What the rule files say, in the order of their names."""

    lists: dict[str, Tree] = field(default_factory=dict)
    """The list of rules in each file that can be read; files are named relative to the environment's root."""
    broken: dict[str, tuple[Problem, ...]] = field(default_factory=dict)
    warnings: list[Problem] = field(default_factory=list)


def read_rule_files(root: Path) -> RuleFiles:
    """Read all `rules/*.jsonc`; each is a list of rules, or an object with such a list under `rules`."""
    found = RuleFiles()
    try:
        names, others = list_rule_files(root / RULES_FOLDER)
    except OSError as error:
        mend = "make it a folder that the host may read"
        found.warnings.append(Problem(RULES_FOLDER, f"cannot be read: {error.strerror}", mend=mend, fatal=False))
        return found
    for name in others:
        stem, file = name.rpartition(".")[0], f"{RULES_FOLDER}/{name}"
        mend = f"name it {stem}{SUFFIX}"
        found.warnings.append(Problem(file, f"only {SUFFIX} files are read here", mend=mend, fatal=False))
    for name in names:
        file = f"{RULES_FOLDER}/{name}"
        try:
            tree = read_file(root / RULES_FOLDER / name, file)
            if tree is None:  # it went away meanwhile
                continue
            found.lists[file] = list_in(tree, "rules", found.warnings)
        except ConfigError as error:
            found.broken[file] = error.problems
    return found


def list_rule_files(folder: Path) -> tuple[list[str], list[str]]:
    """The names of a folder's files of rules, in order; and of those that seem to be meant as such.

    What begins with `.` or `_` is left alone. A folder that is not there holds nothing.

    Raises:
        OSError: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.name[0] not in "._" and _is_file(entry))
    except FileNotFoundError:
        return [], []
    return [name for name in names if name.endswith(SUFFIX)], [name for name in names if name.endswith(".json")]


def read_file(path: Path, file: str) -> Tree | None:
    """The tree of a file that messages call `file`; none if it is not there.

    Raises:
        ConfigError: it cannot be read, or is not JSON.
    """
    try:
        return Tree.parse(path.read_bytes().decode(), file)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError([Problem(file, f"cannot be read: {error.strerror}", "make it a readable file")]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(file, f"is not UTF-8 at byte {error.start}", "save it as UTF-8")]) from None


def list_in(tree: Tree, key: str, warnings: list[Problem]) -> Tree:
    """The list that a file consists of, or has under `key`; `$schema` may stand beside it.

    Raises:
        ConfigError: there is no such list.
    """
    if isinstance(tree.value, list):
        return tree
    if isinstance(tree.value, dict) and key in tree.value:
        message = "unknown key, left out of account"
        others = [other for other in tree.value if other not in (key, "$schema")]
        warnings += [tree.problem(message, mend="remove it", at=other, fatal=False, key=True) for other in others]
        inner = tree.at(key)
        if isinstance(inner.value, list):
            return inner
        raise ConfigError([inner.problem(f"expected a list, got {kind(inner.value)}", mend="write [] to begin with")])
    mend = f'write [] to begin with, or {{"{key}": []}}'
    raise ConfigError([tree.problem(f"expected a list of {key}, got {_got(tree)}", mend=mend)])


def _got(tree: Tree) -> str:
    keys = ", ".join(list(tree.value)[:3]) if isinstance(tree.value, dict) else ""
    return f"an object with {keys}" if keys else kind(tree.value)


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False
