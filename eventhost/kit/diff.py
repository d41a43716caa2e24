"""Tells how a list of items differs from what was told of it last: created, changed, deleted, each exactly as it was.

    items ──► look ──► a batch of changes, written down ──► emit ──► accepted by the host ──► kept
                ▲                                                                              │
                └────────────────────────────── the table ◄────────────────────────────────────┘

What was told stands in an SQLite file, not in JSON and not in memory: of a list of 100,000 items a look writes only
what has changed. A batch is written down before it is told, so after a crash it is told again as it was, under the same
ids, whatever became of the items meanwhile; only then comes the next look. So whoever applies what is told, one change
after the other, has what was there at the last look.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from eventhost.errors import ConfigError, Problem
from eventhost.kit.selection import Item, Items, Misshapen, Selection, as_kept, canonical
from eventhost.kit.upstream import Unavailable

if TYPE_CHECKING:
    from pathlib import Path

BATCH: Final = 500
"""How many changes are told at once, at most."""

BATCH_BYTES: Final = 4_000_000
"""How large their items are together; a change that is larger is told alone."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS item (at INTEGER PRIMARY KEY, key TEXT UNIQUE, digest BLOB, item TEXT);
CREATE TABLE IF NOT EXISTS telling (number INTEGER PRIMARY KEY, kind TEXT, key TEXT, digest BLOB, item TEXT);
CREATE TABLE IF NOT EXISTS note (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
"""


class Change(NamedTuple):
    """One difference. `old` is None of what is created, `new` of what is deleted."""

    id: str
    """For the event: no other change has it, and this one has it whenever it is told again."""
    kind: str
    """`created`, `changed` or `deleted`."""
    key: Any
    old: Any
    new: Any
    changed: list[str]
    """The paths that differ, where it is changed."""


Tell = Callable[[Sequence[Change]], Awaitable[object]]
"""Emits; returns once the host has accepted."""


class _Row(NamedTuple):
    """A change as it is written down; JSON stands as text, `old` and `item` are empty where there is nothing."""

    kind: str
    key: str
    digest: bytes
    old: str
    item: str


class Table:
    """What was told of one list. `name` tells it from others in `folder`, and begins the ids.

    Where `selection` is another than at the last time, or `question`, JSON that stands for what was asked, what is kept
    says nothing any more, and the table begins anew. The file holds the question: no secret may be in it.

    Raises:
        ConfigError: the file is damaged; by each method too.
        Unavailable: the file cannot be read or written now; by each method too.
    """

    def __init__(self, folder: Path, name: str, selection: Selection, question: Any = None) -> None:
        self.name = name
        self.file = folder / f"{_file_name(name)}.db"
        self._selection, self._question = selection, question
        self._notes: dict[str, Any] = {}
        with self._refusals():
            # Its methods may run in any thread, one after the other.
            self._database = sqlite3.connect(self.file, isolation_level=None, check_same_thread=False)
        try:
            with self._refusals():
                self._database.execute("PRAGMA journal_mode = WAL")
                self._database.execute("PRAGMA synchronous = FULL")
                self._database.executescript(_SCHEMA)
                self._begin()
        except BaseException:
            self._database.close()
            raise

    @property
    def is_new(self) -> bool:
        """Whether no look has come to its end yet."""
        return "looked" not in self._notes

    @property
    def form(self) -> str | None:
        """The form of what was told, or is being told; None before the first time."""
        form: str | None = self._notes.get("form")
        return form

    @property
    def note(self) -> Any:
        """What was noted with the last look that came to its end; None before."""
        return self._notes.get("note")

    def __len__(self) -> int:
        with self._refusals():
            count: int = self._database.execute("SELECT count(*) FROM item").fetchone()[0]
        return count

    async def resume(self, tell: Tell) -> None:
        """Tell again what was being told when the source ended; nothing may have come of that."""
        while batch := await asyncio.to_thread(self._being_told):
            await tell(batch)
            await asyncio.to_thread(self.keep)

    async def tell(
        self, found: Items, tell: Tell, *, silent: bool = False, remember: int | None = None, note: Any = None
    ) -> None:
        """Have `tell` tell how `found`, no two of one key, differs from what was told; keep each batch after it.

        A `silent` look keeps all and tells nothing. With `remember`, what is not there any more is not deleted, but
        remembered: so many items, and always those that are there. `note`, JSON, is kept with the end of the look.

        Raises:
            Misshapen: what was a list is none any more, or the other way round; nothing is told.
        """
        await asyncio.to_thread(self.expect, found.form)
        await self.resume(tell)
        batches = self.look(found.items, silent=silent, deletions=remember is None)
        while (batch := await asyncio.to_thread(next, batches, None)) is not None:
            if not silent:
                await tell(batch)
                await asyncio.to_thread(self.keep)
        await asyncio.to_thread(self.looked, found, note, remember)

    def expect(self, form: str) -> None:
        """Take note that the answer has this form.

        Raises:
            Misshapen: it had another one at the last look.
        """
        if self.form == form:
            return
        if not self.is_new:
            mend = f"if it is to stay so, remove {self.file}, or set `items`"
            raise Misshapen(f"the answer was a {self.form}, and now is a {form}; {mend}")
        with self._transaction():
            self._set(form=form)

    def look(
        self, items: Sequence[Item], *, silent: bool = False, deletions: bool = True
    ) -> Iterator[Sequence[Change]]:
        """The changes in batches: first of what is there, in its order, then what is gone.

        A batch is written down when it is given; `keep` it before the next. A `silent` look keeps by itself.
        """
        there: set[str] = set()
        yield from self._written_down(self._of_items(items, there), silent)
        if deletions and len(self) > len(there):
            yield from self._written_down(self._of_the_gone(there), silent)

    def keep(self) -> None:
        """The last batch was accepted."""
        with self._transaction():
            self._apply(
                self._database.execute("SELECT kind, key, digest, item FROM telling ORDER BY number").fetchall()
            )
            self._database.execute("DELETE FROM telling")

    def looked(self, found: Items, note: Any = None, remember: int | None = None) -> None:
        """A look has come to its end, and all of it was kept; see `tell`."""
        with self._transaction():
            if remember is not None and (surplus := len(self) - remember) > 0:
                there = {canonical(key) for key, _ in found.items}
                oldest = self._database.execute("SELECT key FROM item ORDER BY at")
                forgotten = list(islice(((key,) for (key,) in oldest if key not in there), surplus))
                self._database.executemany("DELETE FROM item WHERE key = ?", forgotten)
            if self.is_new or note != self.note:
                self._set(looked=True, note=note)

    def knows_any(self, items: Sequence[Item]) -> bool:
        """Whether one of these was among what was told."""
        keys = [canonical(key) for key, _ in items]
        return any(self._rows(keys[at : at + BATCH]) for at in range(0, len(keys), BATCH))

    def id_of(self, what: str) -> str:
        """An id for something else that is told before the next change is: the same until then."""
        return f"{self._id(self._notes['told'] + 1)}-{what}"

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _begin(self) -> None:
        self._notes = {
            name: json.loads(value) for name, value in self._database.execute("SELECT name, value FROM note")
        }
        if (self._notes.get("selection"), self._notes.get("question")) != (self._selection.text, self._question):
            self._notes = {}
            with self._transaction():
                for table in ("item", "telling", "note"):
                    self._database.execute(f"DELETE FROM {table}")
                # Another series each time, for what was told under its numbers is not known any more.
                series = secrets.token_hex(4)
                self._set(selection=self._selection.text, question=self._question, series=series, told=0)

    def _set(self, **values: Any) -> None:
        rows = [(name, json.dumps(value)) for name, value in values.items()]
        self._database.executemany("INSERT OR REPLACE INTO note VALUES (?, ?)", rows)
        self._notes = {**self._notes, **values}

    def _of_items(self, items: Sequence[Item], there: set[str]) -> Iterator[_Row]:
        for start in range(0, len(items), BATCH):
            part = {canonical(key): item for key, item in items[start : start + BATCH]}
            there.update(part)
            kept = self._rows(list(part))
            for key, item in part.items():
                digest = self._selection.digest(item)
                if key not in kept:
                    yield _Row("created", key, digest, "", as_kept(item))
                elif kept[key][0] != digest:
                    yield _Row("changed", key, digest, kept[key][1], as_kept(item))

    def _of_the_gone(self, there: set[str]) -> Iterator[_Row]:
        after = 0
        while True:
            with self._refusals():
                part = self._database.execute(
                    "SELECT at, key, item FROM item WHERE at > ? ORDER BY at LIMIT ?", (after, BATCH)
                ).fetchall()
            if not part:
                return
            after = part[-1][0]
            yield from (_Row("deleted", key, b"", old, "") for _, key, old in part if key not in there)

    def _written_down(self, rows: Iterator[_Row], silent: bool) -> Iterator[Sequence[Change]]:
        for batch in _batches(rows):
            first = self._notes["told"] + 1
            with self._transaction():
                if silent:
                    self._apply([(row.kind, row.key, row.digest, row.item) for row in batch])
                else:
                    numbered = [(at, row.kind, row.key, row.digest, row.item) for at, row in enumerate(batch, first)]
                    self._database.executemany("INSERT INTO telling VALUES (?, ?, ?, ?, ?)", numbered)
                    self._set(told=first + len(batch) - 1)
            yield [] if silent else [self._change(at, row) for at, row in enumerate(batch, first)]

    def _being_told(self) -> list[Change]:
        statement = """
            SELECT number, kind, key, telling.digest, coalesce(item.item, ''), telling.item
            FROM telling LEFT JOIN item USING (key) ORDER BY number
        """
        with self._refusals():
            return [self._change(number, _Row(*row)) for number, *row in self._database.execute(statement)]

    def _apply(self, rows: Sequence[tuple[str, str, bytes, str]]) -> None:
        for kind, key, digest, item in rows:
            if kind == "deleted":
                self._database.execute("DELETE FROM item WHERE key = ?", (key,))
            else:
                # What was changed last comes last, and is forgotten last.
                statement = "INSERT OR REPLACE INTO item (key, digest, item) VALUES (?, ?, ?)"
                self._database.execute(statement, (key, digest, item))

    def _change(self, number: int, row: _Row) -> Change:
        old, new = (json.loads(text) if text else None for text in (row.old, row.item))
        changed = self._selection.changed(old, new) if row.kind == "changed" else []
        return Change(self._id(number), row.kind, json.loads(row.key), old, new, changed)

    def _id(self, number: int) -> str:
        return f"{self.name}:{self._notes['series']}-{number}"

    def _rows(self, keys: Sequence[str]) -> dict[str, tuple[bytes, str]]:
        statement = f"SELECT key, digest, item FROM item WHERE key IN ({', '.join('?' * len(keys))})"
        with self._refusals():
            return {key: (digest, item) for key, digest, item in self._database.execute(statement, keys)}

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        notes = self._notes
        with self._refusals():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                self._notes = notes
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise Unavailable(f"{self.file}: {error}; what was told is kept there") from None
        except sqlite3.DatabaseError as error:
            mend = "remove it, and the source begins with what is there then"
            raise ConfigError([Problem(str(self.file), f"damaged: {error}", mend)]) from None


def _batches(rows: Iterable[_Row]) -> Iterator[list[_Row]]:
    batch: list[_Row] = []
    size = 0
    for row in rows:
        bytes_of_row = len(row.old) + len(row.item)
        if batch and (len(batch) == BATCH or size + bytes_of_row > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += bytes_of_row
    if batch:
        yield batch


def _file_name(name: str) -> str:
    """A name for a file: the same letters where they are harmless, and no other name's in any case."""
    plain = re.sub(r"[^a-z0-9._-]", "_", name)[:80].lstrip(".")
    return plain if plain == name else f"{plain}-{blake2b(name.encode(), digest_size=4).hexdigest()}"
