"""All event sources: which there are, and starting, stopping and exchanging them without harm to each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import anyio

from eventhost.config import SourceConfig
from eventhost.connections import ConnectionPool, EventSourceStatus, memory_bytes
from eventhost.errors import NotFound
from eventhost.sources.client import EventMcpClient, OnUpstream, Publish
from eventhost.sources.dedup import DuplicateWindows
from eventhost.sources.raw import Record
from eventhost.sources.sse.manager import withdraw
from eventhost.sources.status import SourceStatus


class EventMcpManager:
    """Holds an `EventMcpClient` for each source, by name."""

    def __init__(
        self,
        pool: ConnectionPool,
        publish: Publish,
        record: Record | None = None,
        *,
        host: str = "",
        on_upstream: OnUpstream | None = None,
    ) -> None:
        """What all sources are handed; see `EventMcpClient`."""
        self._pool, self._publish = pool, publish
        self._handed: dict[str, Any] = {"record": record, "host": host, "on_upstream": on_upstream}
        self.windows = DuplicateWindows()
        """What the sources said lately; to be told, before they start, what a host before this one took from them."""
        self._clients: dict[str, EventMcpClient] = {}

    def add(self, config: SourceConfig) -> EventMcpClient:
        """Take in a source, without starting it."""
        client = self._clients[config.name] = EventMcpClient(
            config, self._pool, self._publish, self.windows.of(config.name), **self._handed
        )
        return client

    async def load_clients(self, sources: Mapping[str, SourceConfig]) -> None:
        """Take in these sources and begin to connect those that are enabled and start by themselves.

        Returns once launching has begun: a source that does not come up keeps nobody waiting.
        """
        for config in sources.values():
            client = self.add(config)
            if config.enabled and config.auto_start:
                client.start()

    async def disconnect_all(self) -> None:
        """Stop all sources at once; what they said until their end is published before this returns."""
        async with anyio.create_task_group() as tasks:
            for client in self._clients.values():
                tasks.start_soon(client.disconnect)
        for client in self._clients.values():
            if client.sse is not None:
                withdraw(client.sse)

    async def remove(self, names: Iterable[str]) -> None:
        """Stop and forget these sources."""
        names = list(names)
        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(self._pool.remove, name)
        for name in names:
            if (sse := self._clients.pop(name).sse) is not None:
                withdraw(sse)
            self.windows.drop(name)

    def client(self, name: str) -> EventMcpClient:
        """The source called `name`.

        Raises:
            NotFound: there is none.
        """
        if name not in self._clients:
            raise NotFound(f"no source is called {name!r}; there are: {', '.join(sorted(self._clients)) or 'none'}")
        return self._clients[name]

    def get_status(self, name: str) -> EventSourceStatus | None:
        """The state of the source called `name`; none if there is no such source."""
        return self._clients[name].get_status() if name in self._clients else None

    def statuses(self) -> dict[str, SourceStatus]:
        """A snapshot of every source, by name."""
        links = {name: client.connection.link for name, client in self._clients.items()}
        pids = {name: link.pid for name, link in links.items() if link is not None and link.pid is not None}
        memory = memory_bytes(set(pids.values()))
        return {name: client.status(memory.get(pids.get(name, 0))) for name, client in self._clients.items()}

    def get_clients(self) -> dict[str, EventMcpClient]:
        """All sources by name; the caller's to keep."""
        return dict(self._clients)

    def get_event_source_names(self) -> list[str]:
        """The names of all sources."""
        return list(self._clients)
