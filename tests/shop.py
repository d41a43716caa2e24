"""A shop: a database of a private server with a table `orders`, which the database source follows."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import anyio
from source_process import Event, source_process

SOURCE = Path(__file__).parents[1] / "eventsources" / "database"

aside = anyio.to_thread.run_sync
"""A server that is stopped waits until the source has been told all, so the host of the test must go on meanwhile."""

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


async def told_through_stops(shop: Shop, insert: str, **more: Any) -> list[Event]:
    """What comes of 1000 rows while the server is stopped, killed and started again; each event once.

    `insert` is the statement that adds orders from a number to another.
    """
    async with shop.source(**more) as source:
        await source.logged("connected")
        shop.sql(insert.format(1, 700))
        await source.count(100)
        await aside(shop.server.stop)
        await source.logged("trying again")
        await aside(shop.server.start)
        shop.sql(insert.format(701, 900))
        await source.until(lambda: source.events[-1]["payload"]["new"]["id"] == 900)
        await aside(shop.server.kill)
        await aside(shop.server.start)
        shop.sql(insert.format(901, 1000))
        await source.until(lambda: source.events[-1]["payload"]["new"]["id"] == 1000)
    return list({event["id"]: event for event in source.events}.values())


def rows(events: Iterable[Event]) -> list[Any]:
    """What happened, in short."""
    return [(event["payload"]["operation"], event["payload"]["old"], event["payload"]["new"]) for event in events]
