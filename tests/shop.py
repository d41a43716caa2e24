"""A shop: a database of a private server with a table `orders`, which the database source follows."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from source_process import Event, source_process

SOURCE = Path(__file__).parents[1] / "eventsources" / "database"

_numbers = itertools.count(1)


class Server(Protocol):
    """A private server, of whatever make."""

    def url(self, database: str) -> str: ...

    def sql(self, *statements: str, database: str = ...) -> list[dict[str, Any]]: ...


class Shop:
    """The database, and what the source is told of it."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server: Any = server
        self.name = f"shop{next(_numbers)}"
        self.state = folder / "state"
        server.sql(f"CREATE DATABASE {self.name}")
        self.sql("CREATE TABLE orders (id int PRIMARY KEY, note text)")

    def sql(self, *statements: str) -> list[dict[str, Any]]:
        return self.server.sql(*statements, database=self.name)

    def config(self, **more: Any) -> dict[str, Any]:
        return {"database": {"url": self.server.url(self.name), "tables": ["orders"], **more}}

    def source(self, **more: Any) -> Any:
        return source_process(SOURCE, self.config(**more), self.state)


def rows(events: Iterable[Event]) -> list[Any]:
    """What happened, in short."""
    return [(event["payload"]["operation"], event["payload"]["old"], event["payload"]["new"]) for event in events]
