"""Rows out of a database file page by page, without SQLite, which gives up at the first thing it does not understand.

Nothing in the file is trusted: every number is checked before it is used, and whether a row is true tells its seal. The
format is that of https://www.sqlite.org/fileformat2.html; all that is not in our own files is left out.
"""

from __future__ import annotations

import os
import struct
import sys
from array import array
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final, Self

from eventhost.journal.schema import PAGE

Row = tuple[Any, ...]

_TABLE_LEAF: Final = 0x0D
_TABLE_INNER: Final = 0x05
_INDEX_LEAF: Final = 0x0A
_INDEX_INNER: Final = 0x02

_LONGEST_ROW: Final = 64 * 1_048_576

_FRAME: Final = 24 + PAGE


class Unreadable(Exception):
    """This place of the file does not hold what it should."""


class Pages:
    """The pages of a database file and of its write-ahead log, as they were last committed."""

    def __init__(self, path: Path) -> None:
        """Open `path`, and the log beside it if there is one.

        Raises:
            OSError: it cannot be read.
        """
        self._file = os.open(path if path.exists() else os.devnull, os.O_RDONLY)
        self._log: int | None = None
        self._newer: dict[int, int] = {}
        """Where in the log a page is, if it is there."""
        self.stale = False
        """Whether the log held something newer that cannot be read: what is read may have been changed since."""
        log = path.with_name(f"{path.name}-wal")
        if log.exists():
            self._log = os.open(log, os.O_RDONLY)
            self._read_log(self._log)
        size = os.fstat(self._file).st_size
        self.count = max(-(-size // PAGE), max(self._newer, default=0))
        """How many pages there are."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
        if self._log is not None:
            os.close(self._log)

    def page(self, number: int) -> bytes:
        """A page, counted from 1.

        Raises:
            Unreadable: there is no such page.
        """
        if not 1 <= number <= self.count:
            raise Unreadable(f"no page {number}")
        if (place := self._newer.get(number)) is not None and self._log is not None:
            file, start = self._log, place
        else:
            file, start = self._file, (number - 1) * PAGE
        try:
            page = os.pread(file, PAGE, start)
        except OSError as error:
            raise Unreadable(f"page {number}: {error.strerror}") from error
        return page.ljust(PAGE, b"\0")

    def scattered(self) -> Iterator[Row]:
        """What looks like a row of any table with a number as its key, wherever it lies, key first; false ones too."""
        for number in range(2, self.count + 1):
            try:
                page = self.page(number)
            except Unreadable:
                continue
            if page[0] == _TABLE_LEAF:
                for place in _cells(page, 8):
                    try:
                        yield self._table_row(page, place)
                    except Unreadable:
                        continue

    def rows(self, root: int) -> Iterator[Row | None]:
        """The rows of the table that begins at page `root`, as far as they can be reached; None for what cannot."""
        seen: set[int] = set()
        waiting = [root]
        while waiting:
            number = waiting.pop()
            if number in seen:
                yield None
                continue
            seen.add(number)
            try:
                page = self.page(number)
            except Unreadable:
                yield None
                continue
            kind = page[0]
            if kind not in (_TABLE_LEAF, _TABLE_INNER, _INDEX_LEAF, _INDEX_INNER):
                yield None
                continue
            inner = kind in (_TABLE_INNER, _INDEX_INNER)
            if inner:
                waiting.append(int.from_bytes(page[8:12], "big"))
            places = _cells(page, 12 if inner else 8)
            if len(places) != int.from_bytes(page[3:5], "big"):
                yield None
            for place in places:
                try:
                    if inner:
                        waiting.append(int.from_bytes(page[place : place + 4], "big"))
                    if kind == _TABLE_LEAF:
                        yield self._table_row(page, place)
                    elif kind != _TABLE_INNER:
                        yield self._index_row(page, place + 4 if inner else place)
                except Unreadable:
                    yield None

    def _table_row(self, page: bytes, place: int) -> Row:
        size, place = _varint(page, place)
        key, place = _varint(page, place)
        return (_signed(key), *_record(self._payload(page, place, size, PAGE - 35))[1:])

    def _index_row(self, page: bytes, place: int) -> Row:
        size, place = _varint(page, place)
        return _record(self._payload(page, place, size, (PAGE - 12) * 64 // 255 - 23))

    def _payload(self, page: bytes, place: int, size: int, most: int) -> bytes:
        """A row's bytes, of which a page holds `most` at most; the rest is in a chain of further pages."""
        if size > _LONGEST_ROW:
            raise Unreadable("a row that is too long")
        if size <= most:
            return page[place : place + size]
        least = (PAGE - 12) * 32 // 255 - 23
        here = least + (size - least) % (PAGE - 4)
        if here > most:
            here = least
        parts = [page[place : place + here]]
        following, left = int.from_bytes(page[place + here : place + here + 4], "big"), size - here
        while left > 0:
            page = self.page(following)
            following = int.from_bytes(page[:4], "big")
            parts.append(page[4 : 4 + left])
            left -= PAGE - 4
        return b"".join(parts)

    def _read_log(self, log: int) -> None:
        """Find which pages are newer in the log.

        SQLite stops at the first frame that is damaged. Here the ones that follow are taken too, if each belongs to
        the one before: what a frame should be is known from the checksum that the one before it bears.
        """
        header = os.pread(log, 32, 0)
        if len(header) < 32:
            return
        little = header[3] == 0x82
        salts = header[16:24]
        before = struct.unpack(">II", header[24:32])
        if header[:3] != b"\x37\x7f\x06" or _checksum((0, 0), header[:24], little) != before:
            self.stale = True
            salts, little = os.pread(log, 8, 40), True  # those of the first frame, and as on nearly every machine
        found: dict[int, int] = {}
        start = 32
        damaged = broken = 0
        while len(frame := os.pread(log, _FRAME, start)) == _FRAME:
            number, commit = struct.unpack(">II", frame[:8])
            sums = struct.unpack(">II", frame[16:24])
            if frame[8:16] == salts and _checksum(_checksum(before, frame[:8], little), frame[24:], little) == sums:
                found[number] = start + 24
                if commit:
                    self._newer.update(found)
                    found.clear()
                    damaged += broken  # and not only what was never finished
                    broken = 0
            else:
                broken += 1
            before = sums
            start += _FRAME
        self.stale = self.stale or damaged > 0


def _cells(page: bytes, header: int) -> list[int]:
    """Where the cells of a tree's page begin."""
    count = int.from_bytes(page[3:5], "big")
    if header + 2 * count > PAGE:
        return []
    places = struct.unpack_from(f">{count}H", page, header)
    return [place for place in places if header + 2 * count <= place <= PAGE - 4]


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    try:
        for _ in range(8):
            byte = data[place]
            place += 1
            value = value << 7 | byte & 0x7F
            if byte < 0x80:
                return value, place
        return value << 8 | data[place], place + 1
    except IndexError:
        raise Unreadable("a number that is cut off") from None


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_LENGTHS: Final = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)


def _record(data: bytes) -> Row:
    length, place = _varint(data, 0)
    if not 0 < length <= min(len(data), 256):
        raise Unreadable("no row")
    kinds = []
    while place < length:
        kind, place = _varint(data, place)
        kinds.append(kind)
    values: list[Any] = []
    place = length
    for kind in kinds:
        size = _LENGTHS[kind] if kind < 10 else (kind - 12) // 2
        part = data[place : place + size]
        if len(part) < size or kind in (10, 11):
            raise Unreadable("a row that is cut off")
        place += size
        if kind == 0:
            values.append(None)
        elif kind <= 6:
            values.append(int.from_bytes(part, "big", signed=True))
        elif kind == 7:
            values.append(struct.unpack(">d", part)[0])
        elif kind <= 9:
            values.append(kind - 8)
        elif kind % 2:
            try:
                values.append(part.decode())
            except UnicodeDecodeError:
                raise Unreadable("a text that is none") from None
        else:
            values.append(part)
    return tuple(values)


def _checksum(before: tuple[int, ...], data: bytes, little: bool) -> tuple[int, int]:
    one, two = before
    words = array("I", data)
    if little != (sys.byteorder == "little"):
        words.byteswap()
    for even, odd in zip(islice(words, 0, None, 2), islice(words, 1, None, 2), strict=True):
        one = one + even + two & 0xFFFFFFFF
        two = two + odd + one & 0xFFFFFFFF
    return one, two
