"""A damaged journal is moved aside, and what is true of it is kept in a new one; what is lost is known, and is said."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from eventhost.errors import JournalUnusable
from eventhost.journal import rows, succession, traces
from eventhost.journal.block import BLOCK_EVENTS, Block, Damaged
from eventhost.journal.lock import Lock
from eventhost.journal.pages import Pages, Row
from eventhost.journal.schema import PAGE, ROOTS, TABLES, TABLES_1, check, make, open_to_read, tables

log = structlog.get_logger()

_LEAP: Final = 1_000_000
"""So much further the numbers go on where nothing is left that knows how far they had come."""

_RECORDS: Final[dict[str, Callable[[Row], Any]]] = {
    "position": rows.position_of,
    "pending": rows.pending_of,
    "dead": rows.dead_of,
    "trace": traces.block_of,
}


class Loss(msgspec.Struct, frozen=True):
    """What a damaged journal has lost."""

    damage: str
    """What was found."""
    aside: str
    """Where the damaged file is now; it may be deleted. Empty when there was none."""
    lost: tuple[tuple[int, int], ...]
    """The events that were kept and are no more, oldest first: the first and the last number of each stretch."""
    records: tuple[str, ...] = ()
    """Kinds of delivery records of which some may be missing or out of date: `mark`, `position`, `pending`, `dead`,
    `trace`."""

    @property
    def count(self) -> int:
        """How many events are lost; at most so many, where it is not known how many there were."""
        return sum(last - first + 1 for first, last in self.lost)

    @property
    def first(self) -> int | None:
        """The oldest event that is lost, if any is."""
        return self.lost[0][0] if self.lost else None

    @property
    def last(self) -> int | None:
        """The newest event that is lost, if any is."""
        return self.lost[-1][1] if self.lost else None


def find_damage(path: Path, lock: Lock) -> str | None:
    """What is wrong with the journal at `path`, as far as a short look tells, whatever its size; writes nothing.

    Raises:
        JournalUnusable: it is no journal, or a newer eventhost's.
    """
    if lock.damage is not None:
        return lock.damage
    log_file = path.with_name(f"{path.name}-wal")
    if not path.exists() or path.stat().st_size == 0:
        if log_file.exists() and log_file.stat().st_size:
            return "the file is gone, and its log is not"
        return f"the file is gone, which held events up to {lock.head}" if lock.head else None
    database = open_to_read(path)
    try:
        if not tables(database):
            if path.stat().st_size < PAGE:
                return "the file is no database"  # too short for SQLite to care; but it may be somebody's
            # Whoever made it did not come to its end.
            return f"the file is empty, which held events up to {lock.head}" if lock.head else None
        check(database, path)
        return _find_damage(database, path, lock)
    except (sqlite3.Error, TypeError, ValueError) as error:
        return str(error)
    finally:
        database.close()


def _find_damage(database: sqlite3.Connection, path: Path, lock: Lock) -> str | None:
    if tables(database) not in (TABLES, TABLES_1):
        return "the list of its tables is damaged"
    # A first page that is older than the others, or was never written, has the wrong count.
    ((pages,),) = database.execute("PRAGMA page_count").fetchall()
    log_file = path.with_name(f"{path.name}-wal")
    logged = log_file.exists() and log_file.stat().st_size > 0
    if not logged and path.stat().st_size < pages * PAGE:
        return f"the file is cut off: {pages} pages of {PAGE} bytes should be there"
    mark = rows.mark(database)
    if not mark.first - 1 <= mark.head:
        return "the mark is damaged"
    if lock.head is not None and lock.head > mark.head:
        return f"events up to {lock.head} were kept, and the file knows of {mark.head}"
    gaps = dict(database.execute("SELECT last, first FROM gap"))
    for order in ("ASC", "DESC"):
        row = database.execute(f"SELECT * FROM block ORDER BY first {order} LIMIT 1").fetchone()
        if row is not None:
            Block(*row).entries()
    newest = row[1] if row is not None else mark.first - 1
    while newest < mark.head:
        ends = [last for last, first in gaps.items() if first <= newest + 1 <= last]
        if not ends:
            return f"events {newest + 1} to {mark.head} are not to be found"
        newest = ends[0]
    if newest > mark.head:
        return f"event {newest} is there, and the file knows of {mark.head}"
    return None


def salvage(path: Path, lock: Lock, damage: str) -> Loss:
    """Make a new journal of what is true in the damaged one at `path`; takes as long as reading all of it does.

    Raises:
        JournalUnusable: nothing there shows that it ever was a journal; or there is no room for the new one.
    """
    log.error("journal_damaged", path=str(path), damage=damage)
    started = time.monotonic()
    aside = succession.aside(path, "damaged")
    try:
        built = succession.building(path)
        with Pages(path) as pages:
            loss = _rebuild(pages, built, lock.head, Loss(damage, str(aside) if path.exists() else "", ()))
        if loss is None:
            raise JournalUnusable(
                f"{path} is not a journal of eventhost ({damage}); move it away, or name another file in journal.path"
            )
        succession.succeed(path, built, aside)
    except (OSError, sqlite3.Error) as error:
        raise JournalUnusable(
            f"{path} is damaged ({damage}) and what is left of it cannot be copied: {error}; make room on its disk "
            f"for another file of its size, or move it away"
        ) from error
    lock.mended()
    log.warning(
        "journal_salvaged",
        path=str(path),
        aside=loss.aside,
        events_lost=loss.count,
        first=loss.first,
        last=loss.last,
        records=loss.records,
        took_s=round(time.monotonic() - started, 3),
    )
    return loss


def untold(path: Path) -> Loss | None:
    """What the journal at `path` has lost, until a host that was told of it comes to its end."""
    if not path.exists():
        return None
    with closing(open_to_read(path)) as database:
        if not tables(database):
            return None
        row = database.execute("SELECT body FROM loss").fetchone()
    try:
        return None if row is None else msgspec.json.decode(row[0], type=Loss)
    except (TypeError, msgspec.MsgspecError):
        return None  # it was told once at least


def _rebuild(pages: Pages, built: Path, known_head: int | None, loss: Loss) -> Loss | None:
    """Fill a new journal; None if nothing was found that is ours."""
    database = sqlite3.connect(built, isolation_level=None)
    try:
        make(database)
        database.execute("PRAGMA journal_mode = OFF")
        database.execute("PRAGMA synchronous = OFF")
        database.execute("BEGIN")
        mark, marked = _mark(pages)
        blocks, low, at_ms = _copy_blocks(pages, database, mark.first if marked else 1)
        records, newest, dead_id = _copy_records(pages, database)
        if not (blocks or marked or newest or known_head):
            return None
        mark.low, mark.at_ms, mark.dead = max(mark.low, low), max(mark.at_ms, at_ms), max(mark.dead, dead_id)
        ((oldest, youngest),) = database.execute("SELECT min(first), max(last) FROM block").fetchall()
        mark.head = max(mark.head, youngest or 0, newest, mark.low, known_head or 0)
        if not marked:
            records = ("mark", *records)
            mark.first = oldest or 1
            if known_head is None:
                mark.head += _LEAP
        mark.first = min(mark.first, mark.head + 1)
        _drop_overlaps(database)
        known = _gaps(pages)
        holes = list(_holes(database, mark.first, mark.head))
        database.executemany("INSERT INTO gap VALUES(?, ?)", holes)
        lost = tuple(new for hole in holes for new in _without(hole, known))
        loss = msgspec.structs.replace(loss, lost=lost, records=records)
        mark.clean = 0
        mark.write(database)
        database.execute("INSERT INTO loss VALUES(1, ?)", (msgspec.json.encode(loss),))
        database.execute("COMMIT")
        return loss
    finally:
        database.close()


def _mark(pages: Pages) -> tuple[rows.Mark, bool]:
    """The journal's mark, and whether it was found."""
    for row in pages.rows(ROOTS["mark"]):
        try:
            if row is not None:
                return rows.mark_of(row), True
        except (Damaged, TypeError, ValueError):
            continue
    return rows.Mark(), False


def _copy_blocks(pages: Pages, database: sqlite3.Connection, first: int) -> tuple[int, int, int]:
    """Copy all that is true from wherever it lies; how many, the furthest `low`, and the latest time."""
    count = low = at_ms = 0
    for row in pages.scattered():
        if len(row) != 6 or not all(type(value) is int for value in row[:5]):
            continue
        block = Block(*row)
        # What was trimmed may lie about in pages that are free.
        if not first <= block.last or not block.first <= block.last < block.first + BLOCK_EVENTS or not block.true:
            continue
        # The same numbers twice: in a page that is free there is what was left behind when a power cut undid it.
        database.execute(
            "INSERT INTO block VALUES(?, ?, ?, ?, ?, ?) ON CONFLICT(first) DO UPDATE SET last = excluded.last, "
            "at_ms = excluded.at_ms, low = excluded.low, seal = excluded.seal, body = excluded.body "
            "WHERE excluded.at_ms > block.at_ms",
            block,
        )
        count, low, at_ms = count + 1, max(low, block.low), max(at_ms, block.at_ms)
    return count, low, at_ms


def _drop_overlaps(database: sqlite3.Connection) -> None:
    end, dropped = 0, []
    for first, last in database.execute("SELECT first, last FROM block ORDER BY first"):
        if first <= end:
            dropped.append((first,))
        else:
            end = last
    database.executemany("DELETE FROM block WHERE first = ?", dropped)


def _copy_records(pages: Pages, database: sqlite3.Connection) -> tuple[tuple[str, ...], int, int]:
    """Copy what is true; tell which kinds are not whole, the newest event that any speaks of, and the last dead letter.

    Only what the tables reach: what lies elsewhere was deleted, and a run that was done is not to be begun again.
    """
    broken, newest, dead_id = [], 0, 0
    for table, record_of in _RECORDS.items():
        whole = not pages.stale
        for row in pages.rows(ROOTS[table]):
            try:
                if row is None:
                    raise Damaged(f"a page of {table} is damaged")
                record = record_of(row)
                places = ", ".join("?" * len(row))
                database.execute(f"INSERT OR REPLACE INTO {table} VALUES({places})", row)
            except (Damaged, TypeError, ValueError):
                whole = False
                continue
            newest = max(newest, record.seq)
            if table == "dead":
                dead_id = max(dead_id, record.id)
        if not whole:
            broken.append(table)
    return tuple(broken), newest, dead_id


def _gaps(pages: Pages) -> list[tuple[int, int]]:
    """What was lost before, and has been told."""
    return sorted(
        row
        for row in pages.rows(ROOTS["gap"])
        if row is not None and len(row) == 2 and all(type(value) is int for value in row)
    )


def _holes(database: sqlite3.Connection, first: int, head: int) -> Iterator[tuple[int, int]]:
    for start, last in database.execute("SELECT first, last FROM block ORDER BY first"):
        if start > first:
            yield first, start - 1
        first = last + 1
    if first <= head:
        yield first, head


def _without(hole: tuple[int, int], known: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """What of a stretch is in none of the others."""
    first, last = hole
    for start, end in known:
        if start <= last and end >= first:
            if first < start:
                yield first, start - 1
            first = max(first, end + 1)
    if first <= last:
        yield first, last
