"""One server, kept connected: started, watched, started again after a pause that grows, until somebody stops it.

stopped ──start──► connecting ──up for startsecs──► running
                     ▲     │                           │
                     │     └────────► disconnected ◄───┘   it ended, or never came up
                     │                  │        │
                     └── backoff ◄──────┘        └──► error    a local one that failed `startretries` times in a
                     └─────────── every errorRetry ────┘       row; a remote one stays in backoff

A good run lets the pauses begin anew. A shorter one makes them longer, but is no failed start.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import structlog
from mcp import MCPError
from mcp_types import METHOD_NOT_FOUND
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from eventhost.config import ServerConfig, ServerKind
from eventhost.connections.inbound import Inbound, Receiver
from eventhost.connections.lastwords import last_words
from eventhost.connections.link import NO_ANSWER, Link, Surroundings, open_link, refusal
from eventhost.connections.lists import listen_for_lists
from eventhost.connections.sourcelog import SourceLog
from eventhost.connections.states import EventSourceStatus
from eventhost.connections.waiting import first_of
from eventhost.errors import ConnectionLost, EventhostError, cause_of

log = structlog.get_logger()

FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 300.0
GOOD_RUN_S = 10.0
"""A run that lasts as long lets the pauses begin anew; it must have come to `running`, too."""

# A server that loops, was restarted, or is out of reach, is silent: asking is the only way to know.
PING_INTERVAL_S = 15.0
PING_TIMEOUT_S = 10.0


class Connection:
    """Keeps one server connected; `run` is the supervisor, everything else may be called at any time."""

    def __init__(
        self,
        config: ServerConfig,
        surroundings: Surroundings,
        launches: anyio.CapacityLimiter,
        *,
        receiver: Receiver | None = None,
        serve: Callable[[Link], Coroutine[Any, Any, None]] | None = None,
        source_log: SourceLog | None = None,
        on_status: Callable[[Connection], None] | None = None,
        on_lists: Callable[[frozenset[str]], None] | None = None,
    ) -> None:
        """`receiver` takes the events; `serve` runs beside each connection for as long as it is up.

        `on_status` is called after each change of `status`; `on_lists` when what the server lists may be another, with
        which lists it has: `tools`, `resources`, `prompts`, or `hosts' tools` and so on, if it is another eventhost.
        """
        self.config = config
        self.log = source_log or SourceLog(config.name)
        self.status = EventSourceStatus.STOPPED
        self.restarts = 0
        self.silence: str | None = None
        """How long its server has not answered, as the end of a sentence about it; None while it does."""
        self.link: Link | None = None
        self.up_since: float | None = None
        """When the present link came up, on the monotonic clock."""
        self.finished: str | None = None
        """Why its server wants no further connection; None as long as that is not so."""
        self.list_changes = 0
        """How often the server said that its tools or resources changed; who caches them compares."""
        self.on_resource_updated: Callable[[str], None] | None = None
        """Called with the URI of a resource of which the server says that it has changed."""
        self._surroundings, self._launches = surroundings, launches
        self._receiver, self._serve, self._on_status = receiver, serve, on_status
        self._on_lists = on_lists
        self._changed = anyio.Event()
        self._stop = anyio.Event()
        self._stopped = anyio.Event()
        self._stopped.set()
        self._opening: anyio.CancelScope | None = None
        self._last_error: str | None = None
        self._failed_starts = 0
        self._did_well = False

    @property
    def last_error(self) -> str | None:
        """What is wrong at present, or else the last thing that was."""
        return self.silence or self._last_error

    @last_error.setter
    def last_error(self, error: str | None) -> None:
        self._last_error = error

    def begin(self) -> bool:
        """Make ready for `run`; false when that is under way already."""
        if not self._stopped.is_set():
            return False
        self._stop, self._stopped = anyio.Event(), anyio.Event()
        self.finished = None
        self._become(EventSourceStatus.CONNECTING)
        return True

    async def run(self) -> None:
        """Supervise from `begin` until `stop`."""
        try:
            failures = self._failed_starts = 0
            while not self._stop.is_set():
                self._become(EventSourceStatus.CONNECTING)
                failures = 0 if await self._attempt() else failures + 1
                if self._stop.is_set():
                    break
                self._become(EventSourceStatus.DISCONNECTED)
                with anyio.move_on_after(self._pause_s(failures)):
                    await self._stop.wait()
                if not self._stop.is_set():
                    self.restarts += 1
        finally:
            self._become(EventSourceStatus.STOPPED)
            self._stopped.set()

    async def stop(self) -> None:
        """End the supervision and the server; return when nothing of it is left and all it said was taken."""
        self._stop.set()
        if self._opening is not None:
            self._opening.cancel()
        await self._stopped.wait()

    async def settled(self) -> bool:
        """Wait until it is running (true), or has failed to come up or was stopped (false)."""
        while self.status in (EventSourceStatus.CONNECTING, EventSourceStatus.DISCONNECTED):
            await self._changed.wait()
        return self.status is EventSourceStatus.RUNNING

    async def connected(self, timeout_s: float) -> Link:
        """The link, as soon as there is one.

        Raises:
            ConnectionLost: there was none within `timeout_s`.
        """
        with anyio.move_on_after(timeout_s):
            while self.link is None or self.link.ended.is_set():
                await self._changed.wait()
        if self.link is None or self.link.ended.is_set():
            raise ConnectionLost(
                f"{self.config.name} is {self.status}" + (f" ({self.last_error})" if self.last_error else "")
            )
        return self.link

    def _pause_s(self, failures: int) -> float:
        """How long to wait after an attempt ended, by how many in a row were no good runs."""
        timings, local = self.config.timings, self.config.kind is not ServerKind.REMOTE
        if local and self._failed_starts >= timings.startretries:
            self._become(EventSourceStatus.ERROR)
            log.error("source_failed", source=self.config.name, attempts=self._failed_starts, error=self.last_error)
            return timings.error_retry_s or math.inf
        delay_s = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(max(failures - 1, 0), 16))
        delay_s *= random.uniform(0.75, 1)  # those that fell together need not rise together
        self._become(EventSourceStatus.BACKOFF)
        log.warning(
            "source_backoff",
            source=self.config.name,
            delay_s=round(delay_s, 2),
            attempt=failures,
            error=self.last_error,
        )
        return delay_s

    async def _attempt(self) -> bool:
        """Connect, and stay until it ends; true when it was a good run, after which the pause is the shortest."""
        self._did_well = False
        inbound = Inbound(self._receiver, self.log, self._note_list_change)
        inbound.on_resource_updated = self.on_resource_updated
        slot = _LaunchSlot(self._launches)
        timings = self.config.timings
        reason = ""
        self.log.begin()
        try:
            async with inbound.running():
                with anyio.CancelScope() as opening:
                    self._opening = opening
                    await slot.take()
                    opening.deadline = anyio.current_time() + timings.init_timeout_s
                    async with open_link(self.config, self._surroundings, inbound, self.log) as link:
                        opening.deadline, self._opening = math.inf, None
                        slot.free()
                        reason = await self._stay(link, inbound)
            if reason:
                self._fail(reason)  # only now: what it said last may have been worth an error too
            elif opening.cancelled_caught and not self._stop.is_set():
                self._fail(f"did not answer initialize within {timings.init_timeout_s:g} s (initTimeout)")
        except Exception as error:
            cause = cause_of(error)
            if not isinstance(cause, EventhostError):
                log.exception("source_crashed", source=self.config.name)
            self._fail(str(cause) if isinstance(cause, EventhostError) else f"{type(cause).__name__}: {cause}")
        finally:
            slot.free()
            self._tell_lists()
            self._opening = self.link = self.up_since = None
        self._failed_starts = 0 if self.status is EventSourceStatus.RUNNING else self._failed_starts + 1
        return self._did_well

    async def _stay(self, link: Link, inbound: Inbound) -> str:
        """Stay with a link until it ends, and return why, or until a stop is asked for."""
        self.link, self.up_since = link, time.monotonic()
        self._notice()
        self._tell_lists()
        async with anyio.create_task_group() as tasks:
            if self._serve is not None:
                tasks.start_soon(self._serve, link)
            if self.config.kind in (ServerKind.HTTP, ServerKind.REMOTE):
                tasks.start_soon(self._ping, link)
            elif self.config.kind is ServerKind.STDIO:
                tasks.start_soon(self._watch, link, inbound)
            tasks.start_soon(listen_for_lists, link, self._note_list_change)
            startsecs_s = self.config.timings.startsecs_s
            with anyio.move_on_after(startsecs_s) as starting:
                await first_of(link.ended.wait, self._stop.wait)
            if starting.cancelled_caught:
                self._become(EventSourceStatus.RUNNING)
                with anyio.move_on_after(max(0, GOOD_RUN_S - startsecs_s)) as proving:
                    await first_of(link.ended.wait, self._stop.wait)
                if proving.cancelled_caught:
                    self._did_well = True
                    await first_of(link.ended.wait, self._stop.wait)
            tasks.cancel_scope.cancel()
        return link.reason if link.ended.is_set() else ""

    async def _ping(self, link: Link) -> None:
        if link.protocol not in HANDSHAKE_PROTOCOL_VERSIONS:
            return  # without a session there is nothing that could be lost between two requests
        while True:
            await anyio.sleep(PING_INTERVAL_S)
            try:
                with anyio.fail_after(PING_TIMEOUT_S):
                    await link.client.send_ping()
            except TimeoutError:
                link.lost(f"did not answer a ping within {PING_TIMEOUT_S:g} s")
            except MCPError as error:
                if error.code != METHOD_NOT_FOUND:
                    link.lost(f"answered a ping with an error: {error}")

    async def _watch(self, link: Link, inbound: Inbound) -> None:
        """Note when a child does not answer. It may be about something that takes long, and is not ended for it."""
        if link.protocol not in HANDSHAKE_PROTOCOL_VERSIONS:
            return
        listens = True
        while listens:
            await anyio.sleep(PING_INTERVAL_S)
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._grow_impatient, inbound)
                    listens = await _answers_ping(link)
                    tasks.cancel_scope.cancel()
                if self.silence is not None and listens:
                    log.info("source_answers", source=self.config.name)
            finally:
                self.silence = None

    async def _grow_impatient(self, inbound: Inbound) -> None:
        waited_s = PING_TIMEOUT_S
        await anyio.sleep(waited_s)
        inbound.overlook_pings()
        log.warning("source_silent", source=self.config.name, waited_s=waited_s)
        while True:
            self.silence = f"has not answered a ping for {waited_s:.9g} s: it may loop, or block"
            await anyio.sleep(PING_INTERVAL_S)
            waited_s += PING_INTERVAL_S

    def _fail(self, reason: str) -> None:
        self.last_error = reason
        if self.config.kind in (ServerKind.STDIO, ServerKind.HTTP):
            directory = self.config.directory
            words = last_words(self.log.words, (str(directory.absolute()), str(directory.resolve())))
            self.last_error += f"; its last words: {words}" if words else ""

    def _note_list_change(self) -> None:
        self.list_changes += 1
        self._tell_lists()

    def _tell_lists(self) -> None:
        if self.link is not None and self._on_lists is not None:
            has = self.link.capabilities
            lists = frozenset(kind for kind in ("tools", "resources", "prompts") if getattr(has, kind))
            self._on_lists(frozenset(f"hosts' {kind}" for kind in lists) if self.link.is_host else lists)

    def _become(self, status: EventSourceStatus) -> None:
        if status is not self.status:
            self.status = status
            log.info("source_status", source=self.config.name, status=str(status))
            if self._on_status is not None:
                self._on_status(self)
        self._notice()

    def _notice(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


async def _answers_ping(link: Link) -> bool:
    """Ask once, and wait however long it takes: more pings would only fill its stdin. False: it cannot be asked."""
    try:
        await link.client.send_ping()
    except NO_ANSWER as error:
        return not isinstance(error, MCPError) or refusal(error) is not None  # an error is an answer, too
    return True


class _LaunchSlot:
    """One of the places among servers that are starting; given back once."""

    def __init__(self, launches: anyio.CapacityLimiter) -> None:
        self._launches, self._taken = launches, False

    async def take(self) -> None:
        await self._launches.acquire_on_behalf_of(self)
        self._taken = True

    def free(self) -> None:
        if self._taken:
            self._taken = False
            self._launches.release_on_behalf_of(self)
