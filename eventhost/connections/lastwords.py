"""Which of the lines that a process wrote says why it ended: the last that looks like an error, with its place.

Python, Node, Java, Go, Rust and their like differ in whether an error stands above its trace or below it; what they
share is that the trace is indented, or marked, and the error is not.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from posixpath import normpath
from urllib.parse import unquote

LONGEST = 500
"""How many characters of an error are shown, beside its place."""

LONGEST_PLACE = 200

# An error is told at the end; one that is followed by more than this has not ended the process.
_LINES_AFTER = 10
_LINES_OF_AN_EXCERPT = 5

# Python draws the tree of an exception group with these.
_GUTTER = re.compile(r"(?: *[|+](?:[-+ ]|$))+(?:-+(?: \d+ -+)?$)?")

_NAMED = re.compile(r"(?:Error|Exception)(?: \[\w+\])?(?:[:)]|$)")
_SAID = re.compile(r"(?i:\b(?:error|fatal|panic|critical)\]?:)|\b(?:ERROR|FATAL|PANIC|CRITICAL)\b|\bpanicked at\b")
_BANNER = re.compile(
    r"Node\.js v\d|Bun v\d|exit status \d|note: run with `?RUST_BACKTRACE|npm error A complete log|\^?[\s^~}\])]*$"
)

_PYTHON_FRAME = re.compile(r'\s+File "(.+)", line (\d+)')
_FRAME = re.compile(r"\s+(?:at (?:async )?|(?=/))(.+?):(\d{1,9})(?::\d+)?(?:\)|\s|$)")
_EXCERPT = re.compile(r"((?:file://)?/.+):(\d{1,9})(?::\d+)?$")
_PLACED = re.compile(r"\.[A-Za-z]\w*(?::|[\"')]*, line )\d+")
_OTHERS = ("/node_modules/", "/site-packages/", "/dist-packages/")


def last_words(lines: Sequence[str], folders: Collection[str] = ()) -> str:
    """Why a process ended, of what it wrote: `RuntimeError: out of cheese (server.py:11)`; empty if it tells nothing.

    `folders` are absolute paths, each another name of the folder that the process runs in: paths below it are told from
    there on. Where no line looks like an error it is the last one that says anything.
    """
    lines = [_GUTTER.sub("", line, count=1).rstrip() for line in lines]
    at = _headline(lines)
    if at is None:
        return _short(next((line.strip() for line in reversed(lines) if not _BANNER.match(line)), ""), folders)
    text = lines[at]
    if text.endswith(":"):
        text += " " + next((line.strip() for line in lines[at + 1 :] if line), "")
    text = _short(text, folders)
    place = "" if _PLACED.search(text) else _place(lines, at, folders)
    return f"{text} ({place})" if place else text


def _headline(lines: Sequence[str]) -> int | None:
    """The number of the line that tells the error."""
    of_a_trace = None
    after = 0
    for at in reversed(range(len(lines))):
        line = lines[at]
        if not line or line[0].isspace() or _BANNER.match(line):
            continue
        if _NAMED.search(line) or _SAID.search(line) or _ends_a_python_trace(lines, at):
            return at
        if of_a_trace is None and at + 1 < len(lines) and re.match(r"\s+at ", lines[at + 1]):
            of_a_trace = at  # a name of its own: `Boom: no cheese`
        after += 1
        if after > _LINES_AFTER:
            break
    return of_a_trace


def _ends_a_python_trace(lines: Sequence[str], at: int) -> bool:
    return any(_PYTHON_FRAME.match(line) for line in _indented_above(lines, at))


def _indented_above(lines: Sequence[str], at: int) -> Iterator[str]:
    for line in reversed(lines[:at]):
        if not line[:1].isspace():
            return
        yield line


def _place(lines: Sequence[str], at: int, folders: Collection[str]) -> str:
    """Where the error of line `at` came from: the innermost frame of the program's own, or else any."""
    frames = [frame for line in _indented_above(lines, at) if (frame := _PYTHON_FRAME.match(line))]
    if not frames:
        frames = [frame for line in lines[at + 1 :] if (frame := _PYTHON_FRAME.match(line) or _FRAME.match(line))]
        above = lines[max(0, at - _LINES_OF_AN_EXCERPT) : at]
        frames += [frame for line in above if (frame := _EXCERPT.match(line))]
    others = ""
    for frame in frames:
        path, number = frame[1].rpartition("(")[2], frame[2]
        if path.startswith(("<", "node:")) or len(path) > LONGEST_PLACE:
            continue
        path = normpath(unquote(path.removeprefix("file://")) if path.startswith("file://") else path)
        told = _below(path, folders)
        if not told.startswith("/") and not any(part in f"/{told}" for part in _OTHERS):
            return f"{told}:{number}"
        others = others or f"{told.rpartition('/')[2]}:{number}"
    return others


def _below(path: str, folders: Collection[str]) -> str:
    for folder in folders:
        path = path.removeprefix(f"{folder.rstrip('/')}/")
    return path


def _short(text: str, folders: Collection[str]) -> str:
    for folder in folders:
        text = re.sub(rf"(?<![\w.~/-])(?:file://)?{re.escape(folder.rstrip('/'))}/", "", text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
