"""What a log file is called after it was rotated, and which of several such files is the older one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

COMPRESSED: Final = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".Z")

_MARK: Final = r"(?:[.\-_~](?:\d[\d.\-_:T+]*|old|prev|bak))"


class Rotated(NamedTuple):
    """A file's name, and where it stands among the others: the smaller, the older. None: only its time can tell."""

    name: str
    age: tuple[str, ...] | None


def rotated(name: str, others: Iterable[str]) -> list[Rotated]:
    """Those of `others` that are what the log file `name` was before: `app.log.1`, `app-20260102.log.gz`, and so on."""
    stem, dot, extension = name.rpartition(".")
    patterns = [re.compile(f"{re.escape(name)}({_MARK})")]
    if stem:
        patterns.append(re.compile(f"{re.escape(stem)}({_MARK}){re.escape(dot + extension)}"))
    found = []
    for other in others:
        bare = uncompressed(other)
        match = next((match for pattern in patterns if (match := pattern.fullmatch(bare))), None)
        if match and other != name:
            found.append(Rotated(other, _age(match[1][1:])))
    return found


def uncompressed(name: str) -> str:
    """The name without what compressing has added to it."""
    bare, extension = os.path.splitext(name)
    return bare if extension in COMPRESSED else name


def _age(mark: str) -> tuple[str, ...] | None:
    # A short number counts how often it was rotated; a longer one is a date or a time.
    if re.fullmatch(r"\d{1,3}", mark):
        return ("number", f"{999 - int(mark):03}")
    if re.match(r"\d{4}", mark):
        return ("date", *re.findall(r"\d+", mark))
    return None


def newer_than(which: Rotated, others: Iterable[Rotated], times: dict[str, int]) -> list[str]:
    """The names of those of `others` that took the log's place after `which`, the oldest first.

    By what their names say where that can be compared, else by `times`, when each was last written, in any unit.
    """
    newer = []
    for other in others:
        if uncompressed(other.name) == uncompressed(which.name):
            continue
        if _comparable([which, other]):
            later = (other.age or ()) > (which.age or ())
        else:
            later = times[other.name] > times[which.name]
        if later:
            newer.append(other)
    by_name = _comparable(newer)
    return [one.name for one in sorted(newer, key=lambda one: (0 if by_name else times[one.name], one.age or ()))]


def _comparable(files: Iterable[Rotated]) -> bool:
    kinds = {one.age[0] if one.age else None for one in files}
    return None not in kinds and len(kinds) == 1
