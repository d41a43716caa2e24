"""Source folders: which there are, what their files say, and how a folder is started that does not say it."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from eventhost.config.tree import Tree
from eventhost.errors import ConfigError, Problem

SOURCES_FOLDER = "eventsources"
TOOLS_FOLDER = "mcpservers"
CONFIG_FILE = "config.jsonc"
LOCAL_CONFIG_FILE = "config.local.jsonc"

SERVER_FILES = {"server.py": "python", "server.mjs": "node", "server.js": "node", "server.sh": "sh"}
"""The files that make a folder a server, in the order in which they are looked for, and what runs them."""

_NEVER_SOURCES = {"node_modules", "__pycache__"}


@dataclass(frozen=True, slots=True)
class Folder:
    """One folder of `eventsources/` as it was found."""

    path: Path
    tree: Tree
    """What its config says; empty when it has none, or cannot be read."""
    problems: tuple[Problem, ...] = ()

    @property
    def name(self) -> str:
        """What it calls itself, else the folder's name."""
        name = self.tree.value.get("name")
        return name if isinstance(name, str) else self.path.name


def find_folders(root: Path) -> tuple[list[Folder], list[Problem]]:
    """The source folders of an environment by name, and warnings; a folder that cannot be read says so itself.

    A folder counts when it holds a config or a server file, and its name begins with neither `.` nor `_`.
    """
    parent = root / SOURCES_FOLDER
    try:
        with os.scandir(parent) as entries:
            names = sorted(entry.name for entry in entries if is_source_folder(entry))
    except FileNotFoundError:
        return [], []
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
        return [], [Problem(SOURCES_FOLDER, message, mend="make it a folder that the host may read", fatal=False)]
    folders = [_read_folder(parent / name) for name in names]
    return [folder for folder in folders if folder is not None], []


def is_source_folder(entry: os.DirEntry[str]) -> bool:
    """Whether something in `eventsources/` may be a source's folder, going by name and kind."""
    if entry.name.startswith((".", "_")) or entry.name in _NEVER_SOURCES:
        return False
    try:
        return entry.is_dir()
    except OSError:
        return False


def read_tree(folder: Path, root: Path, *, required: bool = False) -> Tree | None:
    """`config.jsonc` of a folder under its `config.local.jsonc`; none where there is neither.

    Raises:
        ConfigError: a file cannot be read, is not JSON, or is no object; or the required one is missing.
    """
    trees: list[Tree] = []
    problems: list[Problem] = []
    for name in (CONFIG_FILE, LOCAL_CONFIG_FILE):
        path = folder / name
        file = str(path.relative_to(root))
        try:
            tree = Tree.parse(path.read_bytes().decode(), file)
            if not isinstance(tree.value, dict):
                raise ConfigError([tree.problem("expected an object", mend="write {} to begin with")])
            trees.append(tree)
        except FileNotFoundError:
            if required and name == CONFIG_FILE:
                problems.append(Problem(file, f"there is none in {folder}", mend="run eventhost init"))
        except OSError as error:
            problems.append(Problem(file, f"cannot be read: {error.strerror}", mend="make it a readable file"))
        except UnicodeDecodeError as error:
            problems.append(Problem(file, f"is not UTF-8 at byte {error.start}", mend="save it as UTF-8"))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return Tree.layered(*trees) if trees else None


def find_server(folder: Path) -> tuple[str, str] | None:
    """Program and file that start a folder's server; none where it holds no file of a known name."""
    for name, program in SERVER_FILES.items():
        if os.path.isfile(folder / name):
            return program, name
    return None


def interpreter(program: str) -> str:
    """The program to run: `python` means the host's own interpreter, which has what the host has."""
    return sys.executable if program in ("python", "python3") else program


def relative_name(folder: Path) -> str:
    """What messages call a source's folder."""
    return f"{SOURCES_FOLDER}/{folder.name}"


def _read_folder(path: Path) -> Folder | None:
    nothing = Tree({}, relative_name(path))
    try:
        tree = read_tree(path, path.parent.parent)
    except ConfigError as error:
        return Folder(path, nothing, error.problems)
    if tree is None and find_server(path) is None:
        return None
    return Folder(path, tree or nothing)
