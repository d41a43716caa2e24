"""What a watched path held when last looked at, and what has changed since: two looks make the events, not hearsay.

The operating system tells that something happened near a path, sometimes twice, sometimes in an order of its own, and
never what happened while nobody listened. So its word is only the reason to look.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from globs import Globs

CREATED, CHANGED, DELETED = "file.created", "file.changed", "file.deleted"


class Stamp(NamedTuple):
    """What tells one content of a file from another, as far as can be seen from outside."""

    mtime_ns: int
    size: int


@dataclass(frozen=True, slots=True)
class Change:
    """A file came, changed or went; `stamp` is the new one, or the last one of a file that went."""

    type: str
    path: str
    stamp: Stamp

    @property
    def payload(self) -> dict[str, Any]:
        """`path` and `name`; `size` in bytes and `mtime` in milliseconds since the epoch where the file is there."""
        seen = {"size": self.stamp.size, "mtime": self.stamp.mtime_ns // 1_000_000} if self.type != DELETED else {}
        return {"path": self.path, "name": os.path.basename(self.path), **seen}


@dataclass(frozen=True, slots=True)
class Watched:
    """A file, or the files in a folder, and which of them count."""

    path: Path
    globs: Globs
    recursive: bool

    def look(self, near: Iterable[str] | None = None) -> dict[str, Stamp]:
        """The files that are there now, by path: all, or those at or below the paths `near`."""
        if near is None:
            near = [str(self.path)]
        return {path: stamp for place in near for path, stamp in self._look_at(place)}

    def takes(self, path: str) -> bool:
        """Whether a file at the absolute `path` belongs to this."""
        return path == str(self.path) or self._takes_relative(self._relative(path))

    def _look_at(self, place: str) -> Iterator[tuple[str, Stamp]]:
        try:
            seen = os.stat(place)
        except OSError:
            return
        if stat.S_ISREG(seen.st_mode):
            if self.takes(place):
                yield place, _stamp(seen)
        elif stat.S_ISDIR(seen.st_mode):
            relative = self._relative(place)
            if relative is not None and (not relative or (self.recursive and self.globs.enters(relative))):
                yield from self._scan(place)

    def _scan(self, folder: str) -> Iterator[tuple[str, Stamp]]:
        folders = [folder]
        while folders:
            # A folder or a file may go while we look, or not be ours to read.
            with suppress(OSError), os.scandir(folders.pop()) as entries:
                for entry in entries:
                    relative = self._relative(entry.path)
                    # A link to a folder is not followed: it may lead in a circle.
                    if entry.is_dir(follow_symlinks=False):
                        if self.recursive and relative and self.globs.enters(relative):
                            folders.append(entry.path)
                    elif self._takes_relative(relative):
                        with suppress(OSError):
                            seen = entry.stat()
                            if stat.S_ISREG(seen.st_mode):
                                yield entry.path, _stamp(seen)

    def _takes_relative(self, relative: str | None) -> bool:
        return bool(relative and (self.recursive or "/" not in relative) and self.globs.takes(relative))

    def _relative(self, path: str) -> str | None:
        """`path` as seen from the watched folder; None when it lies outside."""
        root = str(self.path)
        if path == root:
            return ""
        prefix = root if root.endswith("/") else f"{root}/"
        return path.removeprefix(prefix) if path.startswith(prefix) else None


def differences(before: Mapping[str, Stamp], after: Mapping[str, Stamp]) -> list[Change]:
    """What happened between two looks, in the order of the paths."""
    changes = []
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        if new is None:
            assert old is not None
            changes.append(Change(DELETED, path, old))
        elif old is None:
            changes.append(Change(CREATED, path, new))
        elif old != new:
            changes.append(Change(CHANGED, path, new))
    return changes


def at_or_below(paths: Iterable[str], known: Mapping[str, Stamp]) -> dict[str, Stamp]:
    """Of `known`, what lies at one of `paths` or below it."""
    places = set(paths)
    found = {path: known[path] for path in places & known.keys()}
    # A file has nothing below it; only for what is not known as one all must be gone through.
    folders = tuple(f"{path}/" for path in places - known.keys())
    if folders:
        found |= {path: stamp for path, stamp in known.items() if path.startswith(folders)}
    return found


def _stamp(seen: os.stat_result) -> Stamp:
    return Stamp(seen.st_mtime_ns, seen.st_size)
