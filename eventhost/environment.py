"""`ServerEnvironment` wires the stages together; it alone knows them all, and starts, reloads and stops them in order.

sources ─► normalize ─► journal ─► rules ─► actions ─┐
   ▲                       ▲                         │
   └────── tool servers ◄──┴──── call_tool, emit ────┘
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import msgspec
import structlog

from eventhost.actions import Hands, http_client
from eventhost.announcer import Announcer
from eventhost.bus import EnvEventBus
from eventhost.config import (
    EnvironmentConfig,
    SourceConfig,
    diff,
    load_environment,
    make_source,
    resolve_all,
    set_enabled,
    set_rule_enabled,
    touched_sources,
    variables,
    with_last_good,
)
from eventhost.config.model import JournalConfig
from eventhost.config.watch import watch
from eventhost.connections import (
    Connection,
    ConnectionPool,
    EventSourceStatus,
    Guardian,
    ServerStatus,
    Surroundings,
    child,
    minimal_environment,
)
from eventhost.errors import BusClosed, ConfigError, EventhostError, EventRejected, JournalFailed, NotFound, Problem
from eventhost.event import EnvEvent, RawEvent, SourceProfile, normalize, uuid7
from eventhost.exchange import as_kept
from eventhost.gaps import Gap, Gaps, Reason
from eventhost.journal import Change, DeadLetter, Entry, Journal, Loss, MemoryJournal, SqliteJournal, open_journal
from eventhost.journal.file import JournalFile, Recorded
from eventhost.journal.retention import Limits
from eventhost.message import Message, normalize_and_tell
from eventhost.relay import host_id
from eventhost.rules import (
    USER_QUERY,
    Emitted,
    LetterStatistics,
    Retention,
    RuleEngine,
    RuleSet,
    RuleStatistics,
    RuleTotals,
    Tracing,
    ask,
    read_rules,
    uncollected,
)
from eventhost.rules.again import Again, Request, chosen, told
from eventhost.rules.cases import event_of
from eventhost.rules.explain import Explanation, explain
from eventhost.rules.letters import Handled, Several, handle, only
from eventhost.rules.trial import Trial, try_rule
from eventhost.sources import EventMcpClient, EventMcpManager, SourceStatus, newest_first, record
from eventhost.sources.raw import Record
from eventhost.sources.sse import SseManager
from eventhost.tools import McpManager

log = structlog.get_logger()

DRAIN_S = 10.0
JOURNAL_CHECK_S = 1.0
QUERY_TIMEOUT_S = 120.0
RECORDS_S = 1.0

IDEMPOTENCY = "idempotency"
"""The metadata key by which the host knows a request again that published events; nobody else may say it."""

_API = SourceProfile("api")


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
        self._start_sources = start_sources
        self.problems: tuple[Problem, ...] = ()
        """What is wrong with a newer configuration of the whole than the one in use."""
        self.unready: str | None = "the host is starting"
        """Why it cannot do its work yet, or any more; None while it can."""
        self._rule_set = RuleSet()
        self._pool = ConnectionPool(
            Surroundings(Guardian(self.root / "var" / "guardian.lock"), self.root, self._resolve),
            config.launch_limit,
            self._on_status,
        )
        self._tools = McpManager(self._pool)
        self._announcer = Announcer()
        self._reloading = anyio.Lock()
        self._recalled = anyio.Event()
        self._replaying = anyio.Lock()
        self._stack = AsyncExitStack()
        # What needs the journal is made once that is open.
        self.bus: EnvEventBus
        self.host_id: str
        """By which other hosts know this environment's."""
        self.journal_id: str
        """Another one when the numbers of events begin anew, as those of a journal in memory do."""
        self._sources: EventMcpManager
        self._rules: RuleEngine
        self._retention: Retention
        self._hands: Hands
        self._record: Record | None

    @classmethod
    def from_path(cls, root: str | Path, *, start_sources: bool = True) -> ServerEnvironment:
        """The environment whose `config.jsonc` lies in `root`, ready to be entered.

        Raises:
            ConfigError: its configuration cannot be used; one bad source is no reason.
        """
        root = Path(root).absolute()
        changes = watch(root)  # first, so that no change between reading and watching is missed
        with uncollected():
            config = load_environment(root)
            environment = cls(config, start_sources=start_sources, changes=changes)
            environment._rule_set = read_rules(config)
        return environment

    async def __aenter__(self) -> Self:
        """Start everything in order, the sources last.

        Raises:
            HostRunning: another host holds this environment.
        """
        (self.root / "var").mkdir(parents=True, exist_ok=True)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._pool)
            self.host_id = host_id(self.root)
            journal, loss = await self._open_journal()
            self.journal_id = uuid7() if self.config.journal.type == "memory" else ""
            stack.push_async_callback(journal.aclose)
            last = await journal.read(journal.head - 1, 1) if journal.crashed else ()
            gaps = Gaps(self._announcer.say)
            self._pool.on_gap = lambda name, from_ms, to_ms: gaps.tell(
                Gap(Reason.UNRESUMED, from_ms=from_ms, to_ms=to_ms, more={"source": name})
            )
            self.bus = await stack.enter_async_context(EnvEventBus(journal, gaps.tell))
            tracing = Tracing(self.config.journal.trace)
            self._record = None if tracing is Tracing.OFF else partial(record, journal)
            self._sources = EventMcpManager(
                self._pool,
                self.bus.publish_batch,
                self._record,
                host=self.host_id,
                on_upstream=self._announcer.heed_upstream,
            )
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)
            tasks.start_soon(self._announcer.keep_saying, self.bus.publish_batch)
            tasks.start_soon(gaps.keep_saying)
            tasks.start_soon(_end_if_it_fails, journal)
            emitted = Emitted(self.bus.publish, journal, self._recalled.wait)
            tasks.start_soon(self._recall, journal, emitted)
            self._hands = Hands(
                publish=emitted.publish,
                call_tool=self._tools.execute_tool,
                list_tools=self._tools.get_tools,
                spawn=partial(child, self._pool.surroundings.guardian),
                http=await stack.enter_async_context(http_client()),
                root=self.root,
                environment=minimal_environment(),
                resolve_secret=self._resolve,
            )
            self._rules = RuleEngine(
                self.bus,
                self._hands,
                tracing=tracing,
            )
            self._rule_set = read_rules(self.config, self._rule_set)
            self.config = _without_trees(self.config)
            # Of a file that cannot be read now, what its rules owe is kept for when it can be.
            await self._rules.update(self._rule_set.rules, complete=not self._rule_set.broken)
            await stack.enter_async_context(self._rules)
            for gap in _gaps(journal, loss, last):
                gaps.tell(gap)
            self._retention = Retention(journal, self._rules, _limits(self.config.journal), gaps.tell)
            tasks.start_soon(self._retention.keep)
            for file, problems in self._rule_set.broken.items():
                self._announcer.report(file, problems)
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
            if self.config.journal.type == "memory":
                self._rules.release()
                await self.drain(DRAIN_S)
            else:
                # What waits for another attempt, or is held back, the next host goes on with.
                await self._rules.drain(DRAIN_S, retries=False)
        await self._stack.aclose()

    async def start_sources(self) -> None:
        """Begin to launch the sources that start by themselves; returns once that has begun."""
        await self._recalled.wait()
        await self._sources.load_clients(self.config.sources)
        for name, problems in self.config.broken.items():
            self._announcer.report(name, problems)
        self.unready = None

    async def stop_sources(self) -> None:
        """Stop all sources; what they said until their end is published."""
        self.unready = "the host is stopping"
        await self._sources.disconnect_all()

    async def drain(self, deadline_s: float) -> None:
        """Let the rules work off what is queued, for at most `deadline_s`."""
        await self._rules.drain(deadline_s)

    async def _open_journal(self) -> tuple[Journal, Loss | None]:
        config = self.config.journal
        if config.type == "memory":
            return MemoryJournal(config.capacity), None
        return await open_journal(self.root / config.path, config.durability)

    async def _recall(self, journal: Journal, emitted: Emitted) -> None:
        """Know again what was accepted lately, since after a crash it may be said once more."""
        begun = time.perf_counter()
        try:
            async with aclosing(newest_first(journal)) as pages:
                async for page in pages:
                    self._sources.windows.recall(page)
                    emitted.recall(entry for entry, _ in page)
        except BusClosed as error:
            log.error("events_not_recalled", error=str(error))  # who publishes is told so, too
        finally:
            self._recalled.set()
        log.debug("events_recalled", took_s=round(time.perf_counter() - begun, 3))

    # Events

    async def publish_event(self, event: EnvEvent | Mapping[str, Any], *, source: str = "api") -> tuple[EnvEvent, int]:
        """Publish an event; a mapping is normalized as if the source `source` had said it.

        Returns the event as it was published, and its sequence number.

        Raises:
            EventRejected: the mapping is no event.
            BusClosed: the host is stopping.
        """
        if isinstance(event, EnvEvent):
            return event, await self.bus.publish(event)
        events, seq = await self.publish_events([RawEvent.from_value(event)], source=source)
        return events[0], seq

    async def publish_events(
        self,
        events: Sequence[RawEvent | EnvEvent],
        *,
        source: str = "api",
        metadata: Mapping[str, Any] | None = None,
        at_most_bytes: int | None = None,
    ) -> tuple[list[EnvEvent], int]:
        """Publish events as if the source `source` had said them: all, one after the other, or none.

        `metadata` is added; `at_most_bytes` bounds the JSON of each where that is known. Returns the events as they
        were published, and the sequence number of the first.

        Raises:
            EventRejected: one of them is no event, and which one.
            BusClosed: the host is stopping.
        """
        profile = _API if source == "api" and not metadata else SourceProfile(source, metadata=metadata or {})
        normal: list[EnvEvent] = []
        messages: list[tuple[int, Message]] = []
        for place, event in enumerate(events):
            try:
                one, message = normalize_and_tell(_unmarked(event), profile, at_most_bytes=at_most_bytes)
            except EventRejected as error:
                raise error if len(events) == 1 else EventRejected(f"[{place}]: {error}") from None
            normal.append(one)
            if message is not None:
                messages.append((place, message))
        seq = await self.bus.publish_batch(normal)
        if messages and self._record is not None:
            await self._record([(seq + place, message) for place, message in messages])
        return normal, seq

    async def import_events(self, events: Sequence[EnvEvent]) -> int:
        """Publish events as they are, with the `source_name` that they bear: for the operator, never for a source.

        Returns the sequence number of the first.

        Raises:
            EventRejected: one of them is no event that the host keeps; none was published.
            BusClosed: the host is stopping.
        """
        return await self.bus.publish_batch([as_kept(event) for event in events])

    async def handle_query(
        self,
        query: str,
        *,
        session_id: str | None = None,
        more: Mapping[str, Any] | None = None,
        source: str = "api",
        timeout_s: float = QUERY_TIMEOUT_S,
    ) -> EnvEvent:
        """Ask whatever rule is bound to `USER_QUERY`; return its answer, a `query.answered` event.

        The query's payload has `query`, `session_id` if it is given, and what `more` says besides.

        Raises:
            NotFound: no rule answers queries.
            TimeoutError: none did within `timeout_s`.
            BusClosed: the host is stopping.
        """
        if not self._rules.answering():
            mend = f'add one such as {{"on": "{USER_QUERY}", "do": {{"agent": "Answer the query."}}}}'
            raise NotFound(f"no rule answers {USER_QUERY}; {mend}")
        payload = {**(more or {}), "query": query}
        if session_id is not None:
            payload["session_id"] = session_id
        event = normalize(RawEvent(USER_QUERY, payload=payload), SourceProfile(source))
        return await ask(self.bus, event, timeout_s)

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

    def sse(self, name: str) -> SseManager:
        """The events of the source called `name`, of type `sse`, as handlers in this process get them.

        Raises:
            NotFound: there is none of this name, or it is of another type.
        """
        manager = self._sources.client(name).sse
        if manager is None:
            raise NotFound(f'the source {name!r} is not of type "sse"')
        return manager

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

    def source_config(self, name: str) -> SourceConfig | None:
        """The configuration that a source runs by; None of one whose configuration cannot be used."""
        client = self._sources.get_clients().get(name)
        return client.config if client is not None else None

    async def add_event_source(self, name: str, config: Mapping[str, Any]) -> None:
        """Take in and start a source that stands in no file; it is gone with the host.

        `config` is what a client's entry under `mcp.clients` would say.

        Raises:
            ConfigError: `config` cannot be used, or the name is taken.
        """
        if name in self._pool.connections:
            raise ConfigError([Problem("add_event_source", f"the name {name!r} is taken", "choose another", name)])
        await self._recalled.wait()
        self._sources.add(make_source(name, config, self.root)).start()

    async def remove_event_source(self, name: str) -> None:
        """Stop and forget a source, until the next reload if it stands in a file.

        Raises:
            NotFound: there is none of this name.
        """
        self._sources.client(name)
        await self._sources.remove([name])

    # Tool servers

    def server_statuses(self) -> list[ServerStatus]:
        """A snapshot of every tool server, by name."""
        return [ServerStatus.of(self._pool.connections[name]) for name in sorted(self._servers())]

    def server_status(self, name: str) -> ServerStatus:
        """A snapshot of one tool server.

        Raises:
            NotFound: there is none of this name.
        """
        return ServerStatus.of(self._server(name))

    async def start_server(self, name: str) -> None:
        """Start a tool server that is stopped, or do not wait any longer to start it again.

        Raises:
            NotFound: there is none of this name.
        """
        server = self._server(name)
        if server.status in (EventSourceStatus.BACKOFF, EventSourceStatus.ERROR):
            await server.stop()
        self._pool.start(server)

    async def stop_server(self, name: str) -> None:
        """Stop a tool server; its next use starts it again if it does not start by itself.

        Raises:
            NotFound: there is none of this name.
        """
        await self._server(name).stop()

    async def restart_server(self, name: str) -> None:
        """Stop a tool server and start it again.

        Raises:
            NotFound: there is none of this name.
        """
        server = self._server(name)
        await server.stop()
        self._pool.start(server)

    def _servers(self) -> set[str]:
        return self._pool.connections.keys() - self._sources.get_clients().keys()

    def _server(self, name: str) -> Connection:
        if name not in (servers := self._servers()):
            raise NotFound(f"no tool server is called {name!r}; there are: {', '.join(sorted(servers)) or 'none'}")
        return self._pool.connections[name]

    def offers(self) -> set[str]:
        """Of `tools`, `resources` and `prompts` those that some server offers now."""
        return {what for each in self._pool.connections.values() for what in ServerStatus.of(each).offers}

    def get_event_mcp_manager(self) -> EventMcpManager:
        """The sources."""
        return self._sources

    def get_mcp_manager(self) -> McpManager:
        """The tools, resources and prompts of all connections."""
        return self._tools

    @property
    def rule_set(self) -> RuleSet:
        """The rules in use, by file, and what keeps others from being it."""
        return self._rule_set

    def rule_statistics(self) -> list[RuleStatistics]:
        """A snapshot of every rule."""
        return self._rules.statistics()

    def active_rules(self) -> Iterator[RuleStatistics]:
        """A snapshot of each rule that has, or had, something to do, made when it is asked for."""
        return self._rules.active()

    def past_rules(self) -> RuleTotals:
        """What became, since the host started, of the events of rules that are gone."""
        return self._rules.past()

    @property
    def unmatched(self) -> int:
        """How many events no rule was asked about yet."""
        return self._rules.unmatched

    def rule_status(self, name: str) -> RuleStatistics:
        """A snapshot of one rule.

        Raises:
            NotFound: there is none of this name.
        """
        return self._rules.statistics_of(self._rule_set.find(name)[1].name)

    async def enable_rule(self, name: str) -> None:
        """Enable a rule, for good; it starts from now.

        Raises:
            NotFound: there is none of this name.
        """
        await self._set_rule_enabled(name, True)

    async def disable_rule(self, name: str) -> None:
        """Disable a rule, for good; what it still owes is forgotten.

        Raises:
            NotFound: there is none of this name.
        """
        await self._set_rule_enabled(name, False)

    async def _set_rule_enabled(self, name: str, enabled: bool) -> None:
        async with self._reloading:
            self._rule_set.find(name)
            set_rule_enabled(self.root, name, enabled)
            self.config = replace(self.config, rules_enabled={**self.config.rules_enabled, name: enabled})
            rules = self._rule_set.switch(self.config.rules_enabled)
            await self._rules.update(rules.rules)
            self._rule_set = rules

    def try_rule(self, name: str, said: Mapping[str, Any], at_ms: int) -> Trial:
        """What a rule would do about an event, were it accepted at `at_ms`; nothing is done.

        Raises:
            NotFound: there is none of this name.
            EventRejected: it is no event.
        """
        _, rule = self._rule_set.find(name)
        profiles = {
            source.name: SourceProfile(source.name, source.event_types, source.metadata)
            for source in self.config.sources.values()
        }
        return try_rule(rule, Entry(1, at_ms, event_of(said, at_ms, profiles)))

    def answering(self) -> list[RuleStatistics]:
        """A snapshot of the rules that answer a `USER_QUERY`, in their order."""
        return self._rules.answering()

    async def explain(self, event: str, *, every: bool = False, only: str | None = None) -> Explanation:
        """What became of an event: a sequence number, an id, or `source:id`; see `rules.explain`.

        Raises:
            NotFound: none is called so, or several.
        """
        with anyio.move_on_after(RECORDS_S):
            await self._rules.needed()  # what was done is written a moment later; a full disk may make it wait
        with self.reading() as journal:
            return await explain(journal, event, rules=self._rule_set, root=self.root, every=every, only=only)

    @contextmanager
    def reading(self) -> Iterator[Recorded]:
        """The journal as it is now, for who searches in it: a file is sifted much faster."""
        if self.config.journal.type == "memory":
            yield self.bus.journal
            return
        with JournalFile(self.root / self.config.journal.path) as journal:
            yield journal

    async def replay(self, request: Request) -> AsyncGenerator[dict[str, Any], None]:
        """The runs that the rules make of recorded events, told one after the other; done again if it says so.

        One replay that does something at a time: a second one ends with an error before it has begun.

        Raises:
            NotFound, EventRejected: `request` names what is not there.
        """
        journal, rules = self.bus.journal, chosen(self._rule_set.rules, request.rules)
        span = await request.span(journal)
        if not request.execute:
            return told(journal, rules, span, speed=request.speed)
        lines = told(journal, rules, span, speed=request.speed, again=Again(uuid7(), self._hands))
        return self._alone(lines)

    async def _alone(self, lines: AsyncGenerator[dict[str, Any], None]) -> AsyncGenerator[dict[str, Any], None]:
        if self._replaying.locked():
            raise EventhostError("another replay is being executed; wait for its end, or end it with Ctrl-C")
        async with self._replaying, aclosing(lines):
            async for line in lines:
                yield line

    # Dead letters

    def letter_statistics(self) -> LetterStatistics:
        """How many there are, as of a few seconds ago."""
        return self._retention.letters

    @property
    def journal_cap_bytes(self) -> int | None:
        """The size that the journal never keeps; None without a limit, and of a journal in memory."""
        return _limits(self.config.journal).hard_bytes if self.config.journal.type != "memory" else None

    async def dead_letters(self, rule: str | None = None, *, after: int = 0, limit: int = 100) -> list[DeadLetter]:
        """Up to `limit` dead letters, of a rule or of all, whose ids follow `after`, in order."""
        return await self.bus.journal.dead_letters(rule, after, limit)

    async def dead_letter(self, number: int) -> DeadLetter:
        """One dead letter.

        Raises:
            NotFound: there is none with this id.
        """
        return only(await self.bus.journal.dead_letters(None, number - 1, 1), number)

    def retrying(self) -> set[int]:
        """The ids of the dead letters that are tried once more at this moment."""
        return self._rules.retrying()

    async def retry_dead_letter(self, number: int) -> DeadLetter:
        """Have its rule do a dead letter's run once more; returns once that waits for its turn.

        The letter is gone when that has succeeded, and replaced by another if it fails.

        Raises:
            NotFound: there is none with this id, or its rule is no more.
            ConfigError: its rule is disabled.
        """
        letter = await self.dead_letter(number)
        await self._rules.retry(letter)
        return letter

    async def discard_dead_letter(self, number: int) -> DeadLetter:
        """Forget a dead letter, for good; if it is tried once more right now, that is finished.

        Raises:
            NotFound: there is none with this id.
        """
        letter = await self.dead_letter(number)
        await self.bus.journal.save(Change(buried=[number]))
        return letter

    async def retry_dead_letters(self, several: Several) -> Handled:
        """`retry_dead_letter` for many; one that fails again meanwhile is not tried a second time."""
        return await handle(several, self.bus.journal, self.retry_dead_letter, self.retrying)

    async def discard_dead_letters(self, several: Several) -> Handled:
        """`discard_dead_letter` for many."""
        handled = await handle(several, self.bus.journal, self.dead_letter, self.retrying)
        if handled.dead_letters:
            await self.bus.journal.save(Change(buried=[letter["id"] for letter in handled.dead_letters]))
        return handled

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
                with uncollected():
                    new = await anyio.to_thread.run_sync(load_environment, self.root)
                    rules = await anyio.to_thread.run_sync(read_rules, new, self._rule_set)
                new = _without_trees(new)
            except ConfigError as error:
                self._announcer.report("configuration", error.problems)
                self.problems = error.problems
                return ReloadReport([], [], [], list(error.problems))
            self.problems = ()
            report = await self._apply(new, touched)
            await self._rules.update(rules.rules)
            self._rule_set = rules
            for file, problems in rules.broken.items():
                self._announcer.report(file, problems)
                report.problems.extend(problems)
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
            self._announcer.report(name, problems)
            if name in self._sources.get_clients():
                kept = "; the last good configuration is in use"
                self._sources.client(name).problem = "\n".join(map(str, problems)) + kept
        reverted: dict[str, SourceConfig] = {}

        async def exchange(name: str) -> None:
            client = self._sources.client(name)
            old = client.config
            if (wrong := await client.reconfigure(new.sources[name])) is not None:
                report.problems.append(Problem(new.sources[name].server.file, wrong))
            if client.problem is not None:
                reverted[name] = old

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
        self._announcer.heed(connection, is_source=connection.config.name in self._sources.get_clients())


async def _end_if_it_fails(journal: Journal) -> None:
    """End the host when nothing more can be accepted: whoever starts it anew has the journal salvaged.

    Raises:
        JournalFailed: the journal has failed.
    """
    if journal.crashed and isinstance(journal, SqliteJournal):
        await journal.check()  # at the opening there is only a short look
    while True:
        if (failed := journal.statistics().failed) is not None:
            raise JournalFailed(failed)
        await anyio.sleep(JOURNAL_CHECK_S)


def _gaps(journal: Journal, loss: Loss | None, last: Sequence[Entry]) -> list[Gap]:
    """What may be missing since the host before this one: of a journal that was damaged, and of what sources said.

    `last` is the last event that a host accepted which did not end properly, if there is one.
    """
    gaps = []
    if loss is not None:
        told = {"damage": loss.damage, "lost": loss.lost, "records": loss.records, "aside": loss.aside}
        gaps.append(Gap(Reason.DAMAGE, loss.first, loss.last, loss.count, more=told))
    if journal.crashed:
        after, from_ms = (last[-1].seq, last[-1].at_ms) if last else (0, None)
        gaps.append(Gap(Reason.CRASH, from_ms=from_ms, to_ms=int(time.time() * 1000), more={"after": after}))
    return gaps


def _unmarked(event: RawEvent | EnvEvent) -> RawEvent | EnvEvent:
    if type(event.metadata) is not dict or IDEMPOTENCY not in event.metadata:
        return event
    rest = {name: value for name, value in event.metadata.items() if name != IDEMPOTENCY}
    return msgspec.structs.replace(event, metadata=rest)


def _limits(config: JournalConfig) -> Limits:
    age_ms = int(config.age_s * 1000) if config.age_s is not None else None
    return Limits(age_ms, config.size_bytes, config.cap_bytes, config.letters, config.letters_size)


def _without_trees(config: EnvironmentConfig) -> EnvironmentConfig:
    # Once they are read, a hundred thousand rules need not be kept as JSON too: that takes 200 MB.
    return replace(config, rule_files={})
