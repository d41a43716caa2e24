"""References keep secrets out of files: `${env:NAME}` and `${file:path}` become values only where one is used.

No message, and no repr, ever holds a value: only the name of what is missing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eventhost.config.tree import dotted
from eventhost.errors import ConfigError, Problem

DOTENV = ".env"
MAX_FILE_BYTES = 1_048_576

_REFERENCE = re.compile(r"\$\{(env|file):([^}]*)\}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference to a secret: `kind` is `env` or `file`; `path` leads to the string that holds it."""

    kind: str
    name: str
    path: tuple[str | int, ...] = ()


def resolve(text: str, root: Path, environ: Mapping[str, str], *, field: str = "", file: str = "") -> str:
    """`text` with the values of its references; paths begin at `root`, and a file's trailing newlines are left out.

    `environ` is what `variables` returned. `field` and `file` say in messages where the text was configured.

    Raises:
        ConfigError: a variable is not set, or a file cannot be read.
    """

    def value(found: re.Match[str]) -> str:
        try:
            return _value(Reference(found[1], found[2]), root, environ)
        except _Missing as error:
            raise ConfigError([Problem(file, error.message, mend=error.mend, field=field)]) from None

    return _REFERENCE.sub(value, text)


def resolve_all(
    value: Any, root: Path, environ: Mapping[str, str], *, file: str = "", path: tuple[str | int, ...] = ()
) -> Any:
    """A copy of a JSON value, each of its strings resolved; keys stay as they are.

    Raises:
        ConfigError: with every variable that is not set and every file that cannot be read.
    """
    problems: list[Problem] = []

    def resolved(inner: Any, at: tuple[str | int, ...]) -> Any:
        if isinstance(inner, str):
            try:
                return resolve(inner, root, environ, field=dotted(at), file=file)
            except ConfigError as error:
                problems.extend(error.problems)
                return inner
        if isinstance(inner, Mapping):
            return {key: resolved(item, (*at, key)) for key, item in inner.items()}
        if isinstance(inner, list | tuple):
            return [resolved(item, (*at, index)) for index, item in enumerate(inner)]
        return inner

    result = resolved(value, path)
    if problems:
        raise ConfigError(problems)
    return result


def references(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[Reference]:
    """All references inside a JSON value."""
    if isinstance(value, str):
        for found in _REFERENCE.finditer(value):
            yield Reference(found[1], found[2], path)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from references(inner, (*path, key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from references(inner, (*path, index))


def missing(reference: Reference, root: Path, environ: Mapping[str, str]) -> tuple[str, str] | None:
    """What stands in the way of a reference, and how to mend it; `None` when it can be resolved."""
    try:
        _value(reference, root, environ)
    except _Missing as error:
        return error.message, error.mend
    return None


def variables(root: Path, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables for `resolve`: those of `.env` in `root`, under those of `environ` (else the process's own).

    They never enter the process's own environment. Lines of `.env` that cannot be read are left out;
    `check_dotenv` names them.
    """
    written, _ = _read_dotenv(root)
    return {**written, **(os.environ if environ is None else environ)}


def check_dotenv(root: Path) -> list[Problem]:
    """What is wrong with `.env` in `root`: warnings, never with the text of a line."""
    return _read_dotenv(root)[1]


def parse_dotenv(text: str) -> tuple[dict[str, str], list[int]]:
    """The `KEY=VALUE` lines of a text, and the numbers (from 1) of the lines that are none.

    `export` before a key, comments, and quotes are understood: nothing is special between single quotes; between
    double quotes `\\n`, `\\t`, `\\"`, `\\\\` and `\\$` are; quoted values may span lines. Nothing is interpolated.
    """
    found: dict[str, str] = {}
    wrong: list[int] = []
    at = 0
    while at < len(text):
        line = _DOTENV_LINE.match(text, at)
        if line is None:
            wrong.append(text.count("\n", 0, at) + 1)
            end = text.find("\n", at)
            at = len(text) if end < 0 else end + 1
            continue
        at = line.end()
        if line["key"] is None:
            continue
        if line["double"] is not None:
            found[line["key"]] = _ESCAPE.sub(lambda escape: _ESCAPED.get(escape[1], escape[0]), line["double"])
        else:
            found[line["key"]] = line["single"] if line["single"] is not None else (line["plain"] or "").strip()
    return found, wrong


_DOTENV_LINE = re.compile(
    r"""[ \t]*(?:
        (?:export[ \t]+)?(?P<key>[A-Za-z_][\w.-]*)[ \t]*=[ \t]*
        (?: "(?P<double>(?:[^"\\]|\\.)*)"[ \t]*(?:\#[^\n]*)?
          | '(?P<single>[^']*)'[ \t]*(?:\#[^\n]*)?
          | (?P<plain>(?!["'])(?:(?!(?<=[ \t])\#)[^\n])*)(?:\#[^\n]*)?
        )
      | \#[^\n]*
      |
    )(?:\n|\Z)""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "$": "$"}


def _read_dotenv(root: Path) -> tuple[dict[str, str], list[Problem]]:
    try:
        text = (root / DOTENV).read_text("utf-8-sig")
    except FileNotFoundError:
        return {}, []
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        return {}, [Problem(DOTENV, f"cannot be read: {reason}", mend="make it a readable text file", fatal=False)]
    found, wrong = parse_dotenv(text)
    message, mend = "this line is not understood", "write KEY=VALUE, and quote what holds spaces"
    return found, [Problem(DOTENV, message, mend=mend, line=line, column=1, fatal=False) for line in wrong]


class _Missing(Exception):
    def __init__(self, message: str, mend: str) -> None:
        super().__init__(message)
        self.message, self.mend = message, mend


def _value(reference: Reference, root: Path, environ: Mapping[str, str]) -> str:
    name = reference.name
    if reference.kind == "env":
        if not name:
            raise _Missing("${env:} names no variable", "write ${env:NAME}")
        if name not in environ:
            raise _Missing(f"the environment variable {name} is not set", f"set it, or add {name}=… to {DOTENV}")
        return environ[name]
    if not name:
        raise _Missing("${file:} names no file", "write ${file:path}")
    try:
        path = root / Path(name).expanduser()
        if path.exists() and not path.is_file():
            raise _Missing(f"{name} is not a file", "name the file that holds the secret")
        with path.open("rb") as opened:
            content = opened.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise _Missing(f"the file {name} is larger than {MAX_FILE_BYTES} bytes", "a secret is shorter")
        return content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise _Missing(f"the file {name} is not UTF-8", "encode it, in base64 for example") from None
    except (OSError, RuntimeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "this path cannot be"
        mend = "create it, or correct the path, which begins at the environment's root"
        raise _Missing(f"the file {name} cannot be read: {reason}", mend) from None
