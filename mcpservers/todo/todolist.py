"""A to-do list in a file: whole after a crash at any moment, and right when several processes write to it at once."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from eventhost.errors import NotFound


@dataclass(frozen=True, slots=True)
class Todo:
    """One entry; `id` is never given twice."""

    id: int
    title: str
    done: bool = False


class TodoList:
    """The list in the file `path`. Each change takes the lock beside it, reads, and replaces the file as a whole."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, title: str) -> Todo:
        """Add an entry at the end; it is on the disk when this returns."""
        with self._changing() as kept:
            todo = Todo(kept["next_id"], title)
            kept["next_id"] += 1
            kept["todos"].append(asdict(todo))
            return todo

    def entries(self) -> list[Todo]:
        """All entries, oldest first."""
        return [Todo(**entry) for entry in self._read()["todos"]]

    def finish(self, todo_id: int) -> Todo:
        """Mark an entry as done; one that is done already stays so.

        Raises:
            NotFound: there is none with this id.
        """
        with self._changing() as kept:
            index, todo = _find(kept, todo_id)
            todo = replace(todo, done=True)
            kept["todos"][index] = asdict(todo)
            return todo

    def remove(self, todo_id: int) -> Todo:
        """Take an entry off the list and return it.

        Raises:
            NotFound: there is none with this id.
        """
        with self._changing() as kept:
            index, todo = _find(kept, todo_id)
            del kept["todos"][index]
            return todo

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # A lock file of its own, because the list's file is another one after each change.
        with self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            kept = self._read()
            yield kept
            draft = self._path.with_suffix(".draft")
            with draft.open("w", encoding="utf-8") as file:
                json.dump(kept, file, ensure_ascii=False, indent=1)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)

    def _read(self) -> dict[str, Any]:
        try:
            kept: dict[str, Any] = json.loads(self._path.read_text("utf-8"))
        except FileNotFoundError:
            return {"next_id": 1, "todos": []}
        return kept


def _find(kept: dict[str, Any], todo_id: int) -> tuple[int, Todo]:
    for index, entry in enumerate(kept["todos"]):
        if entry["id"] == todo_id:
            return index, Todo(**entry)
    ids = ", ".join(str(entry["id"]) for entry in kept["todos"]) or "none"
    raise NotFound(f"there is no entry {todo_id}; there are: {ids}")
