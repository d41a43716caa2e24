"""Delivery records as rows of the journal's file, each under a seal: a position that is not true would lose events."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Any, TypeVar

import msgspec

from eventhost.journal.block import Damaged, seal
from eventhost.journal.protocol import PAGE_BYTES
from eventhost.journal.records import Change, DeadLetter, LettersHeld, LetterSize, Pending, Position, Progress

T = TypeVar("T")

Row = tuple[Any, ...]


def write(database: sqlite3.Connection, change: Change, dead_id: int) -> int:
    """Write all of a change but `low` and traces; return the last dead letter's id, `dead_id` if there is no new one.

    What is owed is there before what says that it need not be looked for.
    """
    many = database.executemany
    if change.gone:
        many("DELETE FROM pending WHERE rule = ?", [(rule,) for rule in change.gone])
        many("DELETE FROM position WHERE rule = ?", [(rule,) for rule in change.gone])
    if change.pending:
        many("INSERT OR REPLACE INTO pending VALUES(?, ?, ?, ?, ?, ?, ?)", map(_pending_row, change.pending))
    if change.ended:
        many("DELETE FROM pending WHERE rule = ? AND seq = ?", change.ended)
    if change.dead:
        letters = list(enumerate(change.dead, dead_id + 1))
        many("INSERT INTO dead VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", [_dead_row(*letter) for letter in letters])
        dead_id = letters[-1][0]
    if change.buried:
        many("DELETE FROM dead WHERE id = ?", [(number,) for number in change.buried])
    if change.positions:
        many("INSERT OR REPLACE INTO position VALUES(?, ?, ?, ?, ?)", map(_position_row, change.positions))
    return dead_id


def progress(database: sqlite3.Connection) -> Progress:
    """Where the rules are, all of the same moment."""
    database.execute("BEGIN")
    try:
        low = mark(database).low
        positions = {position.rule: position for position in _found(database, position_of, "SELECT * FROM position")}
        counts: dict[str, int] = {}
        oldest: int | None = None
        for run in _found(database, pending_of, "SELECT * FROM pending"):
            counts[run.rule] = counts.get(run.rule, 0) + 1
            begins = min(run.entries, default=run.seq)
            oldest = begins if oldest is None else min(oldest, begins)
        return Progress(low, positions, counts, oldest)
    finally:
        database.execute("ROLLBACK")


def pending(database: sqlite3.Connection, rule: str, after: int, limit: int) -> list[Pending]:
    """See `Journal.pending`."""
    sql = "SELECT * FROM pending WHERE rule = ? AND seq > ? ORDER BY seq LIMIT ?"
    return list(_found(database, pending_of, sql, (rule, after, limit)))


def dead_letters(database: sqlite3.Connection, rule: str | None, after: int, limit: int) -> list[DeadLetter]:
    """See `Journal.dead_letters`."""
    sql = "SELECT * FROM dead WHERE id > ?1 AND (?2 IS NULL OR rule = ?2) ORDER BY id LIMIT ?3"
    found: list[DeadLetter] = []
    size = 0
    with closing(_found(database, dead_of, sql, (after, rule, limit))) as letters:
        for letter in letters:
            size += len(letter.entries)
            if size > PAGE_BYTES and found:
                break
            found.append(letter)
    return found


def letters_held(database: sqlite3.Connection) -> LettersHeld:
    """See `Journal.letters_held`."""
    return LettersHeld(*database.execute("SELECT count(*), coalesce(sum(length(entries)), 0) FROM dead").fetchone())


def oldest_letters(database: sqlite3.Connection, limit: int) -> list[LetterSize]:
    """See `Journal.oldest_letters`."""
    sql = "SELECT id, rule, seq, length(entries) FROM dead ORDER BY id LIMIT ?"
    return [LetterSize(*row) for row in database.execute(sql, (limit,)).fetchall()]


class Mark:
    """The one row of the table `mark`: where the journal itself is."""

    __slots__ = ("at_ms", "clean", "dead", "first", "head", "low")

    def __init__(self, head: int = 0, low: int = 0, first: int = 1, at_ms: int = 0, dead: int = 0, clean: int = 1):
        self.head, self.low, self.first, self.at_ms, self.dead, self.clean = head, low, first, at_ms, dead, clean

    def write(self, database: sqlite3.Connection) -> None:
        """Put it into the file."""
        values = (self.head, self.low, self.first, self.at_ms, self.dead, self.clean)
        database.execute("INSERT OR REPLACE INTO mark VALUES(1, ?, ?, ?, ?, ?, ?, ?)", (*values, seal(*values)))


def mark(database: sqlite3.Connection) -> Mark:
    """The file's mark, that of an empty journal if it has none yet.

    Raises:
        Damaged: it is not what was written.
    """
    row = database.execute("SELECT * FROM mark").fetchone()
    return Mark() if row is None else mark_of(row)


def mark_of(row: Row) -> Mark:
    """A row of `mark`.

    Raises:
        Damaged: it is not what was written.
    """
    *values, sealed = row[1:]
    if seal(*values) != sealed:
        raise Damaged("the mark is damaged")
    return Mark(*values)


def position_of(row: Row) -> Position:
    """A row of `position`; like the others, raises `Damaged` when it is not what was written."""
    rule, seq, lags, state = _true(row)
    return Position(rule, seq, bool(lags), state)


def pending_of(row: Row) -> Pending:
    """A row of `pending`."""
    rule, seq, born_ms, attempts, left_out, numbers = _true(row)
    entries = (seq,) if numbers is None else tuple(map(int, numbers.split()))
    return Pending(rule, seq, entries, born_ms, attempts, left_out)


def dead_of(row: Row) -> DeadLetter:
    """A row of `dead`."""
    number, *values = _true(row)
    return msgspec.structs.replace(DeadLetter(*values), id=number)


def _position_row(position: Position) -> Row:
    return _sealed(position.rule, position.seq, int(position.lags), position.state)


def _pending_row(run: Pending) -> Row:
    # The usual run has a single event, whose number the row has anyway.
    numbers = None if run.entries == (run.seq,) else b" ".join([b"%d" % seq for seq in run.entries])
    return _sealed(run.rule, run.seq, run.born_ms, run.attempts, run.left_out, numbers)


def _dead_row(number: int, dead: DeadLetter) -> Row:
    error = dead.error.encode("utf-8", "backslashreplace").decode()  # a program's output may be anything
    return _sealed(number, dead.rule, dead.seq, dead.at_ms, dead.action, dead.place, dead.attempts, error, dead.entries)


def _sealed(*values: object) -> Row:
    return (*values, seal(*values))


def _true(row: Row) -> Row:
    if seal(*row[:-1]) != row[-1]:
        raise Damaged(f"a delivery record is damaged: {row[:3]!r}")
    return row[:-1]


def _found(
    database: sqlite3.Connection, make: Callable[[Row], T], sql: str, parameters: Sequence[Any] = ()
) -> Generator[T, None, None]:
    # Closed even if a row is damaged: what is not would keep the writer from starting its log anew.
    with closing(database.execute(sql, parameters)) as cursor:
        yield from map(make, cursor)
