"""All connections of the host: what they share, who has which name, and that none outlives the block."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.abc

from eventhost.config import ServerConfig
from eventhost.connections.connection import Connection
from eventhost.connections.inbound import Receiver
from eventhost.connections.link import Link, Surroundings
from eventhost.connections.sourcelog import SourceLog
from eventhost.errors import NotFound


class ConnectionPool:
    """Holds connections by name. Use it as an async context manager: it starts the guardian, and ends everything."""

    def __init__(
        self,
        surroundings: Surroundings,
        launch_limit: int = 0,
        on_status: Callable[[Connection], None] | None = None,
    ) -> None:
        """`launch_limit` bounds how many servers may be starting at once.

        0 means two more than there are processors: one that starts waits for the host now and then. `on_status` is
        called after each change of any connection's status.
        """
        self.surroundings = surroundings
        self._on_status = on_status
        self.connections: dict[str, Connection] = {}
        self._launches = anyio.CapacityLimiter(launch_limit or (os.cpu_count() or 1) + 2)
        self._tasks: anyio.abc.TaskGroup | None = None
        self.revisions: Counter[str] = Counter()
        """How often what some server lists has changed, by list: it came or went, or said so."""
        self._revised = anyio.Event()
        self.on_log: Callable[[str, str, Any], None] | None = None
        """Called with each log notification: server, level, data."""
        self.on_gap: Callable[[str, int, int], None] | None = None
        """Called where a source may have said what nobody heard: name, from when to when, in ms since the epoch."""
        self.on_resource_updated: Callable[[str], None] | None = None
        """Called with the URI of each resource of which its server says that it has changed."""

    async def revised(self, since: Mapping[str, int]) -> None:
        """Wait until `revisions` are others than those."""
        while self.revisions == since:
            await self._revised.wait()

    def tell_gap(self, name: str, from_ms: int, to_ms: int) -> None:
        """Have it said that something of this source may be missing."""
        if self.on_gap is not None:
            self.on_gap(name, from_ms, to_ms)

    def _logged(self, server: str, level: str, data: Any) -> None:
        if self.on_log is not None:
            self.on_log(server, level, data)

    def _updated(self, uri: str) -> None:
        if self.on_resource_updated is not None:
            self.on_resource_updated(uri)

    def _revise(self, lists: frozenset[str]) -> None:
        self.revisions.update(lists)
        self._revised.set()
        self._revised = anyio.Event()

    async def __aenter__(self) -> Self:
        await self.surroundings.guardian.start()
        self._tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(self.surroundings.guardian.keep)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._tasks is not None
        with anyio.CancelScope(shield=True):  # every wait below is bounded by the connections' own timings
            await self.stop_all(list(self.connections))
        self._tasks.cancel_scope.cancel()
        try:
            return await self._tasks.__aexit__(kind, error, trace)
        finally:
            with anyio.CancelScope(shield=True):
                await self.surroundings.guardian.aclose()

    def add(
        self,
        config: ServerConfig,
        *,
        receiver: Receiver | None = None,
        serve: Callable[[Link], Coroutine[Any, Any, None]] | None = None,
        source_log: SourceLog | None = None,
        make: Callable[..., Connection] = Connection,
    ) -> Connection:
        """A connection that is not started yet, in the place of one with the same name, which must be stopped.

        `make` takes what a `Connection` does, for one of another kind.
        """
        connection = make(
            config,
            self.surroundings,
            self._launches,
            receiver=receiver,
            serve=serve,
            source_log=source_log,
            on_status=self._on_status,
            on_lists=self._revise,
        )
        connection.log.on_message = partial(self._logged, config.name)
        connection.on_resource_updated = self._updated
        self.connections[config.name] = connection
        return connection

    def start(self, connection: Connection) -> None:
        """Begin to supervise it; nothing happens when it is supervised already."""
        assert self._tasks is not None
        if connection.begin():
            self._tasks.start_soon(connection.run)

    async def remove(self, name: str) -> None:
        """Stop and forget the connection called `name`.

        Raises:
            NotFound: there is none.
        """
        if name not in self.connections:
            raise NotFound(f"no connection is called {name!r}; there are: {', '.join(self.connections) or 'none'}")
        await self.connections[name].stop()
        del self.connections[name]

    async def stop_all(self, names: list[str]) -> None:
        """Stop these connections, all at once."""
        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(self.connections[name].stop)
