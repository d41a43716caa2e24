"""Reads tables of an SQLite file that others write, page by page, so that no writer waits and no memory fills."""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eventhost.kit.payload import in_base64
from eventhost.kit.upstream import Unavailable

PAGE = 500
_BUSY_S = 5.0


Found = tuple[tuple[Any, ...], dict[str, Any]]
"""Some columns as they are, and a row as JSON."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table's columns, and those by which its rows are known and paged."""

    name: str
    key: tuple[str, ...]
    pages: tuple[str, ...]


@contextmanager
def refusals() -> Iterator[None]:
    """Turn what SQLite raises into `Unavailable`."""
    try:
        yield
    except sqlite3.Error as error:
        raise Unavailable(f"SQLite: {error}") from None


class File:
    """One SQLite file, opened to read.

    Raises:
        Unavailable: it is not there, or no database.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path).expanduser().resolve()
        self.inode = self._inode()
        with refusals():
            self._connection = sqlite3.connect(
                f"{self._path.as_uri()}?mode=ro", uri=True, timeout=_BUSY_S, isolation_level=None,
                check_same_thread=False,
            )  # fmt: skip
        self._connection.text_factory = lambda text: text.decode(errors="replace")

    def close(self) -> None:
        """Close it."""
        self._connection.close()

    def version(self) -> tuple[int, int]:
        """A number that differs after others have written, and which file it is."""
        ((version,),) = self.rows("PRAGMA data_version")
        return version, self.inode

    def replaced(self) -> bool:
        """Whether another file stands in its place."""
        return self._inode() != self.inode

    def table(self, name: str) -> Table:
        """What the table is like now.

        Raises:
            Unavailable: there is none, or it has no key.
        """
        columns = self.rows(f"PRAGMA table_info({quoted(name)})")
        if not columns:
            raise Unavailable(f"there is no table {name} in {self._path}; check `tables`")
        key = tuple(column[1] for column in sorted(columns, key=lambda column: column[5]) if column[5])
        try:
            self._connection.execute(f"SELECT rowid FROM {quoted(name)} LIMIT 0")
            pages: tuple[str, ...] = ("rowid",)
        except sqlite3.Error:
            pages = key
        if not pages:
            raise Unavailable(f"{name} has neither a key nor rowids; a view cannot be compared")
        return Table(name, key or pages, pages)

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """All rows of a statement."""
        with refusals():
            return self._connection.execute(statement, values).fetchall()

    def objects(
        self, statement: str, values: Sequence[Any], extra: int
    ) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        """The rows of a statement: the first `extra` values as they are, the others as an object for JSON."""
        with refusals():
            cursor = self._connection.execute(statement, values)
            names = [column[0] for column in cursor.description][extra:]
            return [
                (row[:extra], {name: json_value(value) for name, value in zip(names, row[extra:], strict=True)})
                for row in cursor
            ]

    def _inode(self) -> int:
        try:
            return os.stat(self._path).st_ino
        except OSError as error:
            raise Unavailable(f"{self._path} cannot be read: {error.strerror}") from None


def quoted(name: str) -> str:
    """A name as SQL has it."""
    return '"' + name.replace('"', '""') + '"' if name != "rowid" else name


def json_value(value: Any) -> Any:
    """The JSON value of one column."""
    if isinstance(value, bytes):
        return in_base64(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
