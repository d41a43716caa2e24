"""`source new`: a folder that works at once, in the language its author prefers."""

from __future__ import annotations

import os
import re
import tempfile
from enum import StrEnum
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from eventhost.cli.target import SOURCES_FOLDER
from eventhost.errors import ConfigError, EventhostError, Problem

SCHEMA = "schemas/source.schema.json"
"""What the templates' configs refer to as their schema, from the environment's folder."""


class Template(StrEnum):
    """The languages there is a template for."""

    PYTHON = "python"
    NODE = "node"
    SHELL = "shell"


def create_source(root: Path, name: str, template: Template) -> Path:
    """Make `eventsources/<name>` in the environment; return the folder.

    It appears there complete: a host that watches never sees half of it.

    Raises:
        ConfigError: the name cannot be a source's.
        EventhostError: there is such a folder, or it cannot be written.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
        mend = "use letters, digits, - and _, 64 at most, a letter or digit first"
        raise ConfigError([Problem(f"{SOURCES_FOLDER}/{name}", "not a name for a source", mend)])
    folder = root / SOURCES_FOLDER / name
    if folder.exists():
        raise EventhostError(f"{folder} is already there; choose another name, or remove it first")
    try:
        folder.parent.mkdir(exist_ok=True)
        # Dotfiles are not looked at, so that the host takes no notice before the folder has its name.
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as scratch:
            draft = Path(scratch, name)
            _fill(draft, files("eventhost.cli").joinpath("templates", template), name)
            os.rename(draft, folder)
    except OSError as error:
        raise EventhostError(f"cannot make {folder}: {error.strerror}") from error
    return folder


def _fill(folder: Path, template: Traversable, name: str) -> None:
    folder.mkdir()
    for entry in template.iterdir():
        if entry.is_dir():
            _fill(folder / entry.name, entry, name)
        else:
            text = entry.read_text("utf-8").replace("@NAME@", name)
            (folder / entry.name.removesuffix(".in")).write_text(text, "utf-8")
