"""`ServerEnvironment` wires the stages together; it alone knows them all, and starts, reloads and stops them in order.

sources ─► normalize ─► journal ─► rules ─► actions ─┐
   ▲                       ▲                         │
   └────── tool servers ◄──┴──── call_tool, emit ────┘
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import structlog

from eventhost.actions import HOST, Hands, http_client
from eventhost.bus import EnvEventBus
from eventhost.config import (
    EnvironmentConfig,
    SourceConfig,
    diff,
    load_environment,
    make_source,
    resolve_all,
    set_enabled,
    touched_sources,
    variables,
    with_last_good,
)
from eventhost.config.watch import watch
from eventhost.connections import (
    Connection,
    ConnectionPool,
    EventSourceStatus,
    Guardian,
    Surroundings,
    child,
    minimal_environment,
)
from eventhost.errors import ConfigError, NotFound, Problem
from eventhost.event import EnvEvent, RawEvent, SourceProfile, normalize, uuid7
from eventhost.journal import MemoryJournal
from eventhost.rules import RuleEngine, RuleStatistics, parse_rules
from eventhost.sources import EventMcpClient, EventMcpManager, SourceStatus
from eventhost.tools import McpManager

log = structlog.get_logger()

DRAIN_S = 10.0


@dataclass(frozen=True, slots=True)
class ReloadReport:
    """What a reload did: names of sources and clients, and the problems that kept some on their last good config."""

    started: list[str]
    restarted: list[str]
    stopped: list[str]
    problems: list[Problem]


class ServerEnvironment:
    """A running environment. Use it as an async context manager; leave it in the task that entered it."""

    def __init__(
        self,
        config: EnvironmentConfig,
        *,
        start_sources: bool = True,
        changes: AsyncIterator[frozenset[Path]] | None = None,
    ) -> None:
        """`changes` are the changed paths since `config` was read, which `watch` heeds."""
        self.config = config
        self._changes = changes
        self.root = config.root
        self.bus = EnvEventBus(MemoryJournal(config.journal.capacity))
        self._start_sources = start_sources
        self._pool = ConnectionPool(
            Surroundings(Guardian(self.root / "var" / "guardian.lock"), self.root, self._resolve),
            config.launch_limit,
            self._on_status,
        )
        self._sources = EventMcpManager(self._pool, self.bus.publish_batch)
        self._tools = McpManager(self._pool)
        self._rules = RuleEngine(
            self.bus,
            Hands(
                publish=self.bus.publish,
                call_tool=self._tools.execute_tool,
                spawn=partial(child, self._pool.surroundings.guardian),
                http=(http := http_client()),
                root=self.root,
                environment=minimal_environment(),
                resolve_secret=self._resolve,
            ),
        )
        self._http = http
        self._to_announce: list[EnvEvent] = []
        self._announcing = anyio.Event()
        self._reloading = anyio.Lock()
        self._stack = AsyncExitStack()

    @classmethod
    def from_path(cls, root: str | Path, *, start_sources: bool = True) -> ServerEnvironment:
        """The environment whose `config.jsonc` lies in `root`, ready to be entered.

        Raises:
            ConfigError: its configuration cannot be used; one bad source is no reason.
        """
        root = Path(root).absolute()
        changes = watch(root)  # first, so that no change between reading and watching is missed
        config = load_environment(root)
        parse_rules(config.rules, root)
        return cls(config, start_sources=start_sources, changes=changes)

    async def __aenter__(self) -> Self:
        """Start everything in order, the sources last.

        Raises:
            HostRunning: another host holds this environment.
        """
        (self.root / "var").mkdir(parents=True, exist_ok=True)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._pool)
            await stack.enter_async_context(self.bus)
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)
            tasks.start_soon(self._announce)
            await stack.enter_async_context(self._http)
            await self._rules.update(parse_rules(self.config.rules, self.root))
            await stack.enter_async_context(self._rules)
            self._tools.load_clients(self.config.clients)
            if self._start_sources:
                await self.start_sources()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.dispose()

    async def dispose(self) -> None:
        """Stop everything in order: sources, their output read to its end; rules, what is queued worked off; the rest.

        Every stage has a deadline. Nothing happens the second time.
        """
        with anyio.CancelScope(shield=True):
            await self.stop_sources()
            await self.drain(DRAIN_S)
        await self._stack.aclose()

    async def start_sources(self) -> None:
        """Begin to launch the sources that start by themselves; returns once that has begun."""
        await self._sources.load_clients(self.config.sources)
        for name, problems in self.config.broken.items():
            self._report(name, problems)

    async def stop_sources(self) -> None:
        """Stop all sources; what they said until their end is published."""
        await self._sources.disconnect_all()

    async def drain(self, deadline_s: float) -> None:
        """Let the rules work off what is queued, for at most `deadline_s`."""
        await self._rules.drain(deadline_s)

    # Events

    async def publish_event(self, event: EnvEvent | Mapping[str, Any], *, source: str = "api") -> tuple[EnvEvent, int]:
        """Publish an event; a mapping is normalized as if the source `source` had said it.

        Returns the event as it was published, and its sequence number.

        Raises:
            EventRejected: the mapping is no event.
            BusClosed: the host is stopping.
        """
        if not isinstance(event, EnvEvent):
            event = normalize(RawEvent.from_value(event), SourceProfile(source))
        return event, await self.bus.publish(event)

    # Sources

    def source_statuses(self) -> list[SourceStatus]:
        """A snapshot of every source, by name; those whose configuration cannot be used are among them."""
        statuses = self._sources.statuses()
        for name, problems in self.config.broken.items():
            if name not in statuses and name not in self._pool.connections:
                statuses[name] = SourceStatus.broken(name, "\n".join(map(str, problems)))
        return [statuses[name] for name in sorted(statuses)]

    def source_status(self, name: str) -> SourceStatus:
        """A snapshot of one source.

        Raises:
            NotFound: there is none of this name.
        """
        statuses = {status.name: status for status in self.source_statuses()}
        if name not in statuses:
            raise NotFound(f"no source is called {name!r}; there are: {', '.join(statuses) or 'none'}")
        return statuses[name]

    async def start_source(self, name: str) -> None:
        """Start a source that is stopped, or do not wait any longer to start it again.

        Raises:
            NotFound, ConfigError: there is none of this name, or its configuration cannot be used.
        """
        client = self._usable(name)
        if client.get_status() in (EventSourceStatus.BACKOFF, EventSourceStatus.ERROR):
            await client.disconnect()
        client.start()

    async def stop_source(self, name: str) -> None:
        """Stop a source until it is started by hand, or the host restarts.

        Raises:
            NotFound: there is none of this name.
        """
        await self._sources.client(name).disconnect()

    async def restart_source(self, name: str) -> None:
        """Stop a source and start it again.

        Raises:
            NotFound, ConfigError: there is none of this name, or its configuration cannot be used.
        """
        client = self._usable(name)
        await client.disconnect()
        client.start()

    async def enable_source(self, name: str) -> None:
        """Enable a source, for good, and start it.

        Raises:
            NotFound: there is none of this name.
        """
        await self._set_enabled(name, True)

    async def disable_source(self, name: str) -> None:
        """Stop a source and disable it, for good.

        Raises:
            NotFound: there is none of this name.
        """
        await self._set_enabled(name, False)

    async def add_event_source(self, name: str, config: Mapping[str, Any]) -> None:
        """Take in and start a source that stands in no file; it is gone with the host.

        `config` is what a client's entry under `mcp.clients` would say.

        Raises:
            ConfigError: `config` cannot be used, or the name is taken.
        """
        if name in self._pool.connections:
            raise ConfigError([Problem("add_event_source", f"the name {name!r} is taken", "choose another", name)])
        self._sources.add(make_source(name, config, self.root)).start()

    async def remove_event_source(self, name: str) -> None:
        """Stop and forget a source, until the next reload if it stands in a file.

        Raises:
            NotFound: there is none of this name.
        """
        self._sources.client(name)
        await self._sources.remove([name])

    def get_event_mcp_manager(self) -> EventMcpManager:
        """The sources."""
        return self._sources

    def get_mcp_manager(self) -> McpManager:
        """The tools, resources and prompts of all connections."""
        return self._tools

    def rule_statistics(self) -> list[RuleStatistics]:
        """A snapshot of every rule."""
        return self._rules.statistics()

    def _usable(self, name: str) -> EventMcpClient:
        if name in self.config.broken and name not in self._sources.get_clients():
            raise ConfigError(self.config.broken[name])
        return self._sources.client(name)

    async def _set_enabled(self, name: str, enabled: bool) -> None:
        client = self._sources.client(name)
        set_enabled(self.root, name, enabled)
        async with self._reloading:
            await client.disconnect()
            server = replace(client.config.server, enabled=enabled)
            config = replace(client.config, enabled=enabled, server=server)
            await client.reconfigure(config)
            self.config = replace(self.config, sources={**self.config.sources, name: config})
            if enabled:
                client.start()

    # Reload

    async def watch(self) -> None:
        """Reload whenever a file of the configuration or of a source changes, until cancelled."""
        async for paths in self._changes or watch(self.root):
            await self.reload(paths)

    async def reload(self, touched: frozenset[Path] = frozenset()) -> ReloadReport:
        """Read the configuration again, and restart what differs or has its code among `touched`; nothing else.

        Never raises for a bad configuration: what cannot be used leaves the last good one in place, and is in the
        report.
        """
        async with self._reloading:
            try:
                new = await anyio.to_thread.run_sync(load_environment, self.root)
                rules = parse_rules(new.rules, self.root)
            except ConfigError as error:
                self._report("configuration", error.problems)
                return ReloadReport([], [], [], list(error.problems))
            report = await self._apply(new, touched)
            await self._rules.update(rules)
        log.info("reloaded", started=report.started, restarted=report.restarted, stopped=report.stopped)
        return report

    async def _apply(self, new: EnvironmentConfig, touched: frozenset[Path]) -> ReloadReport:
        """Make the connections what `new` says; each for itself, and all at once."""
        changes = diff(self.config, new)
        changed = changes.sources_changed | (touched_sources(touched, new) - changes.sources_added - changes.kept)
        report = ReloadReport(
            sorted(changes.sources_added | changes.clients_added),
            sorted(changed | changes.clients_changed),
            sorted(changes.sources_removed | changes.clients_removed),
            [problem for problems in new.broken.values() for problem in problems],
        )
        for part in ("http", "journal", "log"):
            if getattr(new, part) != getattr(self.config, part):
                log.warning("restart_needed", part=part)
                message, mend = "takes effect when the host starts anew", "restart it"
                report.problems.append(Problem("config.jsonc", message, mend, part, fatal=False))
        for name, problems in new.broken.items():
            self._report(name, problems)
            if name in self._sources.get_clients():
                kept = "; the last good configuration is in use"
                self._sources.client(name).problem = "\n".join(map(str, problems)) + kept
        reverted: dict[str, SourceConfig] = {}

        async def exchange(name: str) -> None:
            client = self._sources.client(name)
            old = client.config
            if not await client.reconfigure(new.sources[name]):
                reverted[name] = old
                report.problems.append(Problem(new.sources[name].server.file, str(client.problem)))

        await self._sources.remove(changes.sources_removed & self._sources.get_clients().keys())
        for name in changes.clients_removed | changes.clients_changed:
            await self._tools.remove(name)
        self._tools.load_clients({name: new.clients[name] for name in changes.clients_added | changes.clients_changed})
        added = changes.sources_added - self._sources.get_clients().keys()
        await self._sources.load_clients({name: new.sources[name] for name in added})
        async with anyio.create_task_group() as tasks:
            for name in changed | (changes.sources_added - added):
                tasks.start_soon(exchange, name)
        self.config = with_last_good(self.config, new)
        if reverted:
            self.config = replace(self.config, sources={**self.config.sources, **reverted})
        for name in self._sources.get_clients().keys() - new.broken.keys() - reverted.keys():
            self._sources.client(name).problem = None
        return report

    # The host's own part

    def _resolve(self, value: Any) -> Any:
        # Read anew each time: a secret that was changed is used from then on, and none is kept.
        return resolve_all(value, self.root, variables(self.root))

    def _on_status(self, connection: Connection) -> None:
        """Say on the bus what happens to sources and to clients."""
        name = connection.config.name
        kind = "source" if name in self._sources.get_clients() else "client"
        match connection.status:
            case EventSourceStatus.RUNNING:
                self._say(f"host.{kind}_started", {kind: name, "restarts": connection.restarts})
            case EventSourceStatus.DISCONNECTED:
                self._say(f"host.{kind}_disconnected", {kind: name, "error": connection.last_error})
            case EventSourceStatus.ERROR:
                self._say(f"host.{kind}_failed", {kind: name, "error": connection.last_error})

    def _report(self, name: str, problems: Iterable[Problem]) -> None:
        """Log what is wrong in the configuration, and say it on the bus."""
        texts = [str(problem) for problem in problems if problem.fatal]
        if texts:
            log.error("config_error", part=name, problems=texts)
            self._say("host.config_error", {"part": name, "problems": texts})

    def _say(self, event_type: str, payload: dict[str, Any]) -> None:
        metadata = {"source": HOST, "source_name": HOST}
        event = EnvEvent(uuid7(), event_type, int(time.time() * 1000), metadata, payload)
        self._to_announce.append(event)
        self._announcing.set()

    async def _announce(self) -> None:
        """Publish what the host has to say; those who say it cannot wait for the journal."""
        while True:
            await self._announcing.wait()
            self._announcing = anyio.Event()
            events, self._to_announce = self._to_announce, []
            await self.bus.publish_batch(events)
