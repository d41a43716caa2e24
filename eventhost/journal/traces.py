"""Traces in the journal's file: those of a change in as few rows as may be, each under a seal.

A row for each trace would take several times the time to write. Of two traces of one event and rule the newer counts.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from operator import attrgetter
from typing import Any, Final, NamedTuple
from zlib import crc32

import msgspec

from eventhost.journal.block import Damaged, seal
from eventhost.journal.records import Trace

SPAN: Final = 512
"""Of how many numbers in a row the traces of one row are at most: few rows are looked at to find those of one event."""

_SHORT_BYTES: Final = 800
"""SQLite gives whole pages to a row that is longer: so it is either shorter, or many pages long."""

_MANY_BYTES: Final = 16_384
_LONG_BYTES: Final = 65_536

_OPENINGS: Final = 20
"""So many bits of a row's number count the rows that one opening of the journal has written."""

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[tuple[int, str, bytes]]).decode
_seq = attrgetter("seq")

_ROWS: Final = "SELECT first, number, last, seal, body FROM trace "


class TraceBlock(NamedTuple):
    """A row of the table `trace`: traces of the events `first` to `last`."""

    first: int
    number: int
    """Rows that are written later have higher ones."""
    last: int
    seal: int
    body: bytes

    @classmethod
    def of(cls, number: int, traces: Sequence[Trace]) -> TraceBlock:
        """Seal traces that are in order."""
        first, last = traces[0].seq, traces[-1].seq
        body = _pack([(trace.seq, trace.rule, trace.body) for trace in traces])
        return cls(first, number, last, crc32(body, seal(first, number, last)), body)

    @property
    def seq(self) -> int:
        """The newest event that it speaks of."""
        return self.last

    def traces(self) -> Iterator[Trace]:
        """Its traces, in order.

        Raises:
            Damaged: it is not what was written.
        """
        if self.seal != crc32(self.body, seal(self.first, self.number, self.last)):
            raise Damaged(f"traces of the events {self.first} to {self.last} are damaged")
        return (Trace(*trace) for trace in _unpack(self.body))


def first_number(at_ms: int) -> int:
    """What rows are numbered from by whoever opens a journal, at a time later than that of any other opening."""
    return at_ms << _OPENINGS


def block_of(row: Sequence[Any]) -> TraceBlock:
    """A row of `trace`; raises `Damaged` when it is not what was written."""
    first, number, last, sealed, body = row
    block = TraceBlock(first, number, last, sealed, body)
    block.traces()
    return block


def write(database: sqlite3.Connection, traces: Sequence[Trace], number: int) -> int:
    """Write traces in rows that are numbered from `number` on; return the number of the next one."""
    blocks = [TraceBlock.of(number + place, some) for place, some in enumerate(_split(traces))]
    database.executemany("INSERT INTO trace VALUES(?, ?, ?, ?, ?)", blocks)
    return number + len(blocks)


def traces(database: sqlite3.Connection, seq: int) -> list[Trace]:
    """See `Journal.traces`."""
    return _newest(database, seq - 1, seq)


def traces_after(after: int, database: sqlite3.Connection) -> list[Trace]:
    """Those of some events that follow `after`, all up to the last of them; empty when there are none."""
    row = database.execute(
        "SELECT first FROM trace WHERE first > ? AND last > ? ORDER BY first LIMIT 1", (after - SPAN, after)
    ).fetchone()
    if row is None:
        return []
    after = max(after, row[0] - 1)
    return _newest(database, after, after + SPAN)


def _newest(database: sqlite3.Connection, after: int, upto: int) -> list[Trace]:
    """All that follow `after`, up to `upto`, in the order of events and rules."""
    found: dict[tuple[int, str], Trace] = {}
    sql = _ROWS + "WHERE first > ? AND first <= ? AND last > ? ORDER BY number"
    # Closed even if a row is damaged: what is not would keep the writer from starting its log anew.
    with closing(database.execute(sql, (after + 1 - SPAN, upto, after))) as rows:
        for row in rows:
            found.update(
                ((trace.seq, trace.rule), trace) for trace in TraceBlock(*row).traces() if after < trace.seq <= upto
            )
    return [found[key] for key in sorted(found)]


def _split(traces: Sequence[Trace]) -> Iterator[list[Trace]]:
    """In order, in groups of which each is to be a row."""
    ordered = sorted(traces, key=_seq)
    sizes = [len(trace.body) + len(trace.rule) + 8 for trace in ordered]
    most = _LONG_BYTES if sum(sizes) > _MANY_BYTES else _SHORT_BYTES
    some: list[Trace] = []
    size = 0
    for trace, length in zip(ordered, sizes, strict=True):
        if some and (size + length > most or trace.seq - some[0].seq >= SPAN):
            yield some
            some, size = [], 0
        some.append(trace)
        size += length
    if some:
        yield some
