"""Remembers what a watched path held, so that what changes while the source is down is told when it is back."""

from __future__ import annotations

import json
import os
import secrets
from hashlib import sha256
from pathlib import Path
from zlib import crc32

from snapshot import Change, Stamp, Watched


class Seen:
    """The files of one watched path, as far as their changes have been told; kept in a file of `folder`.

    A path that is new here, or that is now watched by other globs, begins with the files that are there: they are
    nobody's change.
    """

    def __init__(self, watched: Watched, folder: Path) -> None:
        name = sha256(repr(watched).encode()).hexdigest()[:16]
        self.file = folder / f"seen-{name}.json"
        self.files: dict[str, Stamp] = {}
        self._series = secrets.token_hex(4)
        self._told = 0
        self._dirty = False
        try:
            kept = json.loads(self.file.read_text("utf-8"))
            self.files = {path: Stamp(*stamp) for path, stamp in kept["files"].items()}
            self._series, self._told = kept["series"], kept["told"]
        except (OSError, ValueError, TypeError, KeyError):
            # Nothing kept, or nothing that can be read: the files that are there now are the beginning.
            self.files = watched.look()
            self._dirty = True

    def next_id(self, change: Change) -> str:
        """An id for the event of `change`: the same one if a crash makes it be told again."""
        content = crc32(repr((change.type, change.path, change.stamp)).encode())
        return f"{self._series}-{self._told + 1}-{content:08x}"

    def told(self, change: Change, *, gone: bool) -> None:
        """The event of `change` was accepted."""
        self._told += 1
        self._dirty = True
        if gone:
            self.files.pop(change.path, None)
        else:
            self.files[change.path] = change.stamp

    def save(self) -> None:
        """Write what changed to the file; a crash meanwhile leaves the old one."""
        if not self._dirty:
            return
        draft = self.file.with_suffix(".draft")
        with draft.open("w", encoding="utf-8") as file:
            json.dump({"series": self._series, "told": self._told, "files": self.files}, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.file)
        self._dirty = False
