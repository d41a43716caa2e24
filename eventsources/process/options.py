"""The source's options, checked: which commands to run, which files to follow, which journals to read."""

from __future__ import annotations

import codecs
import glob
import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, TypeVar

from eventhost.errors import ConfigError, Problem
from eventhost.kit.options import CONFIG_FILE, Options

KINDS: Final = ("commands", "files", "journals")
PRIORITIES: Final = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
_LONGEST_S: Final = 31 * 86_400


@dataclass(frozen=True, slots=True)
class Command:
    """A program to run, and what is told of it."""

    name: str
    argv: tuple[str, ...]
    cwd: Path
    environment: Mapping[str, str]
    lines: bool
    exit: bool
    as_json: bool
    line_type: str
    exit_type: str
    every_s: float | None
    """From one start to the next; None where it is to run on and on."""
    restart: bool
    timeout_s: float | None


@dataclass(frozen=True, slots=True)
class Files:
    """Log files to follow; `path` is absolute, and a glob where `is_glob`."""

    name: str
    path: str
    is_glob: bool
    type: str
    as_json: bool
    from_beginning: bool
    encoding: str


@dataclass(frozen=True, slots=True)
class Journal:
    """What to read of which journal: `where` and `which` are arguments of journalctl."""

    name: str
    type: str
    where: tuple[str, ...]
    which: tuple[str, ...]
    is_own: bool
    """It is this machine's, and not a folder or files."""
    from_beginning: bool
    fields: bool


Wanted = Command | Files | Journal
_W = TypeVar("_W", Command, Files, Journal)


def wanted(options: Mapping[str, Any]) -> list[Wanted]:
    """Check the options; relative paths begin in the working folder, which is the source's own.

    Raises:
        ConfigError: what is wrong, all of it, and how to mend it.
    """
    top = Options(options)
    problems: list[Problem] = []
    for key in top.keys():  # noqa: SIM118 - no mapping
        near = get_close_matches(key, KINDS, 1, 0.75)
        if near and key not in KINDS:
            problems.append(Problem(CONFIG_FILE, "no such option", f"did you mean {near[0]}?", key))
    found: list[Wanted] = [
        *_all(top, "commands", "", _command, problems),
        *_all(top, "files", "path", _files, problems),
        *_all(top, "journals", "", _journal, problems),
    ]
    if not found and not problems:
        mend = 'such as "files": [{"path": "/var/log/syslog"}]'
        problems.append(Problem(CONFIG_FILE, "nothing is to be watched", f"name {', '.join(KINDS)}; {mend}"))
    names = [one.name for one in found]
    problems += [
        Problem(CONFIG_FILE, f"{name} is there twice", "give each a `name` of its own")
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    if problems:
        raise ConfigError(problems)
    return found


def _all(top: Options, key: str, short: str, read: Callable[[Options], _W], problems: list[Problem]) -> list[_W]:
    found = []
    try:
        sections = top.sections(key, short)
    except ConfigError as error:
        problems += error.problems
        return []
    for section in sections:
        try:
            found.append(read(section))
            section.close()
        except ConfigError as error:
            problems += error.problems
    return found


def _command(options: Options) -> Command:
    given = options.value("command")
    example = 'a list of texts such as ["ping", "-i", "60", "10.0.0.1"]'
    if options.flag("shell", False):
        argv = ["/bin/sh", "-c", options.text("command", example="dmesg | tail -1")]
        default = "shell"
    elif isinstance(given, str):
        raise options.wrong("command", f"expected {example}, got a text", 'or add "shell": true to have it run by sh')
    else:
        argv = options.texts("command", example='["ping", "-i", "60", "10.0.0.1"]')
        default = Path(argv[0]).name
    if any("\0" in text for text in argv):
        raise options.wrong("command", "no text may hold the character 0")
    environment = dict(options.table("environment"))
    for name, value in environment.items():
        if not isinstance(value, str) or not name or "=" in name or "\0" in name + value:
            raise options.wrong("environment", f'expected texts such as {{"LANG": "C"}}, got another at {name!r}')
    every_s = options.seconds("every", 0, least=0.1, most=_LONGEST_S) or None
    restart = options.flag("restart", True)
    if every_s and "restart" in options:
        raise options.wrong("restart", "has no meaning beside `every`", "leave one of them out")
    lines, told = options.flag("lines", True), options.flag("exit", True)
    if not lines and not told:
        raise options.wrong("exit", "neither lines nor the exit are to be told", "set one of them to true")
    name = _name(options, default)
    return Command(
        name,
        tuple(argv),
        Path.cwd() / Path(options.text("cwd", ".")).expanduser(),
        environment,
        lines,
        told,
        _as_json(options),
        _type(options, "type", "process.line", name),
        _type(options, "exitType", "process.exit", name),
        every_s,
        restart,
        options.seconds("timeout", 0, least=0.1, most=_LONGEST_S) or None,
    )


def _files(options: Options) -> Files:
    path = options.text("path", example="/var/log/syslog")
    if "\0" in path:
        raise options.wrong("path", "a path may not hold the character 0")
    absolute = str(Path.cwd() / Path(path).expanduser())
    encoding = options.text("encoding", "utf-8")
    try:
        codecs.lookup(encoding)
        # Lines are looked for before they are decoded.
        fits = "a\n".encode(encoding) == b"a\n"
    except (LookupError, ValueError):
        raise options.wrong("encoding", f"{encoding!r} is unknown", 'write one such as "latin-1"') from None
    if not fits:
        raise options.wrong("encoding", f"{encoding} writes the end of a line in its own way, which is not supported")
    name = _name(options, Path(path).name)
    return Files(
        name,
        absolute,
        glob.has_magic(absolute),
        _type(options, "type", "file.line", name),
        _as_json(options),
        _from_beginning(options),
        encoding,
    )


def _journal(options: Options) -> Journal:
    units, matches = options.texts("units", []), options.texts("matches", [], example='["_UID=0"]')
    for match in matches:
        if not re.fullmatch(r"[A-Z0-9_]+=(?s:.*)", match) and match != "+":
            raise options.wrong("matches", 'expected texts such as "_UID=0", or "+" between alternatives')
    folder = options.text("directory", "")
    files = options.texts("files", [])
    user = options.flag("user", False)
    if bool(folder) + bool(files) + user > 1:
        raise options.wrong("", "name one of `directory`, `files` and `user`", "leave the others out")
    where = [f"--directory={_absolute(folder)}"] if folder else [f"--file={_absolute(file)}" for file in files]
    if user:
        where = ["--user"]
    which = [f"--{'user-unit' if user else 'unit'}={unit}" for unit in units]
    which += [f"--identifier={one}" for one in options.texts("identifiers", [])]
    if "priority" in options:
        which.append(f"--priority={options.one_of('priority', PRIORITIES)}")
    name = _name(options, units[0].removesuffix(".service") if units else "journal")
    return Journal(
        name,
        _type(options, "type", "journal.entry", name),
        tuple(where),
        (*which, *matches),
        not folder and not files,
        _from_beginning(options),
        options.flag("fields", False),
    )


def _absolute(path: str) -> Path:
    return Path.cwd() / Path(path).expanduser()


def _from_beginning(options: Options) -> bool:
    return options.one_of("from", ("end", "beginning"), "end") == "beginning"


def _as_json(options: Options) -> bool:
    value = options.value("json", "auto")
    if value not in ("auto", False):
        raise options.wrong("json", 'expected "auto" or false')
    return bool(value)


def _type(options: Options, key: str, default: str, name: str) -> str:
    template = options.text(key, default)
    try:
        words = {word for _, word, _, _ in string.Formatter().parse(template) if word is not None}
    except ValueError:
        words = {""}
    if words - {"name"}:
        raise options.wrong(key, "it may hold {name}, and no other braces")
    return template.replace("{name}", name)


def _name(options: Options, default: str) -> str:
    name = options.text("name", re.sub(r"[^A-Za-z0-9_.-]", "_", default)[:40])
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,40}", name):
        raise options.wrong("name", f"at most 40 letters, digits, _, . and -, got {name!r}")
    return name
