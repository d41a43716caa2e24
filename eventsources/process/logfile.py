"""One file of a log, plain or compressed, and the proof that it is the one that was read before.

A file is known by its content: its first line, and the bytes just before the place up to which it was read. A number
that the file system gives to a file may soon be another's.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import stat
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, Protocol, cast

from rotation import COMPRESSED

HEAD_BYTES: Final = 1024
TAIL_BYTES: Final = 256

_WINDOW_BYTES: Final = 65_536
_OPENERS: Final[dict[str, Callable[[Path], Any]]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


class Unreadable(Exception):
    """The file is there, but nothing can be read of it; the text says why."""


class LogFile(Protocol):
    """An open file. `inode` is None for one that stands for another: a copy, or what is compressed."""

    path: Path
    inode: int | None

    def read_at(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes from `offset` on; fewer only where the file ends.

        Raises:
            Unreadable: they cannot be read.
        """
        ...

    def seen(self) -> tuple[int, int] | None:
        """Something that differs once the file has changed: its size, and when it was last written, in ns."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class Plain:
    """A file as it is written; it stays readable when it is renamed or removed.

    Raises:
        FileNotFoundError: it is not there.
        Unreadable: it is no file, or may not be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Without O_NONBLOCK a pipe would be waited for.
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise Unreadable(f"{path}: {error.strerror}") from None
        about = os.fstat(self._descriptor)
        if not stat.S_ISREG(about.st_mode):
            os.close(self._descriptor)
            raise Unreadable(f"{path}: no regular file")
        self.inode: int | None = about.st_ino
        self.device = about.st_dev

    def read_at(self, offset: int, count: int) -> bytes:
        """See `LogFile`."""
        found = bytearray()
        try:
            while len(found) < count and (more := os.pread(self._descriptor, count - len(found), offset + len(found))):
                found += more
        except OSError as error:
            raise Unreadable(f"{self.path}: {error.strerror}") from None
        return bytes(found)

    def seen(self) -> tuple[int, int] | None:
        """See `LogFile`."""
        about = os.fstat(self._descriptor)
        return about.st_size, about.st_mtime_ns

    def removed(self) -> bool:
        """Whether it has no name any more."""
        return os.fstat(self._descriptor).st_nlink == 0

    def is_at(self, path: Path) -> bool:
        """Whether it is what stands at `path`, or behind the link there."""
        try:
            about = os.stat(path)
        except OSError:
            return False
        return (about.st_dev, about.st_ino) == (self.device, self.inode)

    def close(self) -> None:
        """See `LogFile`."""
        os.close(self._descriptor)


class Archive:
    """What a compressed file holds. It is read forwards, but for a little before where it was read last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.inode: int | None = None
        opener = _OPENERS.get(path.suffix)
        if opener is None:
            raise Unreadable(f"{path}: {path.suffix} cannot be read; gz, bz2 and xz can")
        try:
            self._file = cast("IO[bytes]", opener(path))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise Unreadable(f"{path}: {error.strerror}") from None
        self._window = bytearray()
        self._start = 0

    def read_at(self, offset: int, count: int) -> bytes:
        """See `LogFile`."""
        while self._start + len(self._window) < offset + count:
            try:
                more = self._file.read(_WINDOW_BYTES)
            except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
                raise Unreadable(f"{self.path}: {error}") from None
            if not more:
                break
            self._window += more
            surplus = min(len(self._window), offset - HEAD_BYTES - self._start)
            if surplus > 0:
                del self._window[:surplus]
                self._start += surplus
        at = offset - self._start
        if at < 0:
            raise Unreadable(f"{self.path}: {offset} was passed already")
        return bytes(self._window[at : at + count])

    def seen(self) -> tuple[int, int] | None:
        """See `LogFile`."""
        return None

    def close(self) -> None:
        """See `LogFile`."""
        self._file.close()


def open_rotated(path: Path) -> LogFile:
    """The file at `path`, or what it holds where its name says that it is compressed.

    Raises:
        FileNotFoundError: it is not there.
        Unreadable: it is no file, or may not be read.
    """
    return Archive(path) if path.suffix in COMPRESSED else Plain(path)


class Head(NamedTuple):
    """The first line of a file, or the first `HEAD_BYTES` of a longer one; once `complete` it changes no more."""

    length: int
    digest: str
    complete: bool

    @classmethod
    def of(cls, data: bytes) -> Head | None:
        """That of a file that begins so; None of an empty one."""
        end = data.find(b"\n", 0, HEAD_BYTES) + 1 or min(len(data), HEAD_BYTES)
        return cls(end, digest(data[:end]), end == HEAD_BYTES or data[end - 1 : end] == b"\n") if data else None

    def begins(self, data: bytes) -> bool:
        """Whether a file that begins with `data` begins so."""
        return len(data) >= self.length and digest(data[: self.length]) == self.digest


def digest(data: bytes) -> str:
    """A short name for these bytes."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()
