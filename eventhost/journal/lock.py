"""The journal's lock: one process writes, no other; and beside it, outside the journal, how far it had come.

The journal's file may be lost, in part or whole. What is written here says so: a journal that ends before it did is not
taken for one that ended there, and no number is given twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Final
from weakref import WeakSet
from zlib import crc32

from eventhost.errors import HostRunning, JournalUnusable

_LINE: Final = 42
"""How long the first line is: the holder's number, the newest event's, a checksum; always overwritten as a whole."""


class Lock:
    """Keeps everybody else from writing the journal, for as long as this process lives."""

    def __init__(self, path: Path) -> None:
        """Take the lock of the journal at `path`, whose folder is made if it is not there.

        Raises:
            HostRunning: another process holds it.
            JournalUnusable: nothing can be written in that folder.
        """
        self.path = path.with_name(f"{path.name}.lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError(0, "it is a folder")
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise JournalUnusable(
                f"{path} cannot be the journal: {error.strerror}; let this user write in {path.parent}, or name "
                f"another file in journal.path"
            ) from error
        text = os.pread(self._file, 4096, 0).decode(errors="replace")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            holder = text[:10].strip()
            who = f"the process {holder}" if holder.isdigit() else "another process"
            raise HostRunning(f"{path} is used by {who}; stop it, or name another file in journal.path") from None
        self._held = True
        self.head = _head(text)
        """The newest event that the journal ever told to be kept; None if that is not known."""
        self.damage = text[_LINE:].strip() or None
        """What an earlier host found wrong with the journal, and nobody mended yet."""
        _held.add(self)
        self._write()

    def reach(self, head: int) -> None:
        """Remember that this event is kept; survives the process, not the power."""
        self.head = head
        self._write()

    def complain(self, damage: str) -> None:
        """Have whoever opens the journal next salvage it."""
        self.damage = damage
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, _LINE)
            os.pwrite(self._file, f"{damage}\n".encode(errors="replace")[:2048], _LINE)

    def mended(self) -> None:
        """Forget the complaint."""
        self.damage = None
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, _LINE)

    def _write(self) -> None:
        known = f"{os.getpid():<10} {'' if self.head is None else self.head:<20}"
        with contextlib.suppress(OSError):  # without it a loss might go unnoticed, and nothing else
            os.pwrite(self._file, f"{known} {crc32(known.encode()):08x} \n".encode(), 0)

    def release(self) -> None:
        """Let others write."""
        if self._held:
            self._held = False
            os.close(self._file)


def _head(text: str) -> int | None:
    line = text[:_LINE]
    known, head = line[:31], line[11:31].strip()
    return int(head) if head.isdigit() and line[32:40] == f"{crc32(known.encode()):08x}" else None


_held: WeakSet[Lock] = WeakSet()


def _let_go() -> None:
    # A forked child would hold the lock on when its parent has ended.
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_let_go)
