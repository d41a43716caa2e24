"""Reads the messages of PostgreSQL's logical replication plugin `pgoutput`, protocol version 1; nothing else.

https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum
from typing import Final

_EPOCH_US: Final = 946_684_800_000_000
"""From 1970 to 2000, where PostgreSQL's time begins, in microseconds."""


class Unchanged(Enum):
    """The mark of a large (TOASTed) value that an update left as it was, and that the server therefore did not send."""

    UNCHANGED = "unchanged"


UNCHANGED: Final = Unchanged.UNCHANGED

Tuple = tuple[str | Unchanged | None, ...]
"""A row's values in PostgreSQL's text format."""


@dataclass(frozen=True, slots=True)
class Begin:
    """A transaction begins; `lsn` is where its commit stands, `time_us` when it was committed."""

    lsn: int
    time_us: int
    xid: int


@dataclass(frozen=True, slots=True)
class Commit:
    """A transaction's end; what is acknowledged is `end_lsn`."""

    end_lsn: int


@dataclass(frozen=True, slots=True)
class Column:
    """A column; `key` tells whether it belongs to the replica identity."""

    name: str
    type_oid: int
    key: bool


@dataclass(frozen=True, slots=True)
class Relation:
    """A table, as it is from here on."""

    oid: int
    schema: str
    table: str
    columns: tuple[Column, ...]
    identity: str
    """`d` default, `n` nothing, `f` full, `i` index."""


@dataclass(frozen=True, slots=True)
class Change:
    """A row that came, changed or went; `old` holds the key's columns alone unless `whole_old`."""

    operation: str
    relation: int
    old: Tuple | None
    new: Tuple | None
    whole_old: bool = False


@dataclass(frozen=True, slots=True)
class Truncate:
    """Tables were emptied."""

    relations: tuple[int, ...]
    cascade: bool
    restart_identity: bool


Message = Begin | Commit | Relation | Change | Truncate


class Unreadable(Exception):
    """This is no message of protocol version 1."""


def decode(data: bytes) -> Message | None:
    """One message; None for one that carries no change.

    Raises:
        Unreadable: it does not follow the protocol.
    """
    try:
        return _Reader(data).message()
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise Unreadable(f"a message of {len(data)} bytes that begins with {data[:1]!r}: {error}") from error


def lsn_text(lsn: int) -> str:
    """A position in the log as PostgreSQL writes it: `16/B374D848`."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def lsn_number(text: str) -> int:
    """The opposite of `lsn_text`."""
    high, low = text.split("/")
    return (int(high, 16) << 32) + int(low, 16)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def message(self) -> Message | None:
        kind = self._letter()
        if kind == "B":
            lsn, time, xid = self._take(">QqI")
            return Begin(lsn, time + _EPOCH_US, xid)
        if kind == "C":
            _, _, end, _ = self._take(">BQQq")
            return Commit(end)
        if kind == "R":
            return self._relation()
        if kind in "IUD":
            return self._change(kind)
        if kind == "T":
            count, options = self._take(">IB")
            return Truncate(self._take(f">{count}I"), bool(options & 1), bool(options & 2))
        if kind in "OYM":
            # Where it came from, a type's name, a message of a program: no row of a table.
            return None
        raise Unreadable(f"a message of kind {kind!r}")

    def _relation(self) -> Relation:
        (oid,) = self._take(">I")
        schema, table = self._text() or "pg_catalog", self._text()
        identity = self._letter()
        (count,) = self._take(">H")
        columns = []
        for _ in range(count):
            (flags,) = self._take(">B")
            name = self._text()
            type_oid, _ = self._take(">Ii")
            columns.append(Column(name, type_oid, bool(flags & 1)))
        return Relation(oid, schema, table, tuple(columns), identity)

    def _change(self, kind: str) -> Change:
        (relation,) = self._take(">I")
        old: Tuple | None = None
        part = self._letter()
        whole_old = part == "O"
        if part in "KO":
            old = self._tuple()
            if kind == "D":
                return Change("delete", relation, old, None, whole_old)
            part = self._letter()
        if part != "N":
            raise Unreadable(f"a row of kind {part!r}")
        return Change("insert" if kind == "I" else "update", relation, old, self._tuple(), whole_old)

    def _tuple(self) -> Tuple:
        (count,) = self._take(">H")
        values: list[str | Unchanged | None] = []
        for _ in range(count):
            kind = self._letter()
            if kind == "n":
                values.append(None)
            elif kind == "u":
                values.append(UNCHANGED)
            elif kind == "t":
                (length,) = self._take(">I")
                text = self._data[self._at : self._at + length]
                if len(text) != length:
                    raise Unreadable("a value that was cut short")
                self._at += length
                values.append(text.decode())
            else:
                raise Unreadable(f"a value of kind {kind!r}")
        return tuple(values)

    def _take(self, form: str) -> tuple[int, ...]:
        values = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return values

    def _letter(self) -> str:
        self._at += 1
        return chr(self._data[self._at - 1])

    def _text(self) -> str:
        end = self._data.find(b"\0", self._at)
        if end < 0:
            raise Unreadable("a text without an end")
        text = self._data[self._at : end].decode()
        self._at = end + 1
        return text
