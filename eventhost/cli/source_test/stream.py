"""`source test` of a plain event stream: connect as configured, without a host, and print what comes.

Nothing is published and nothing remembered: a source that runs meanwhile goes on as it was.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec

from eventhost.cli.show import clock, print_json, printable
from eventhost.config import ServerConfig, ServerKind, load_environment, resolve_all, variables
from eventhost.connections import Batch, ConnectionPool, EventSourceStatus, Guardian, Received, Surroundings
from eventhost.sources.sse import SseConnection, SseManager

_SHOWN_CHARACTERS: Final = 200


@dataclass(slots=True)
class Seen:
    """What came of the test."""

    connected: bool = False
    events: Counter[str] = field(default_factory=Counter)
    rejected: int = 0
    dropped: bool = False
    resumed_from: str | None = None
    """The last event id that was sent with the second connection; None without one."""
    resumed: bool = False
    """Whether there was a second connection after the first was dropped."""
    first_id: str | None = None
    """The id of the first event of the second connection."""
    again: int = 0
    """How many ids came a second time."""
    error: str | None = None
    ids: dict[str, None] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return self.connected and (self.resumed or not self.dropped)

    def to_json(self) -> dict[str, Any]:
        names = ("passed", "connected", "rejected", "dropped", "resumed", "resumed_from", "first_id", "again", "error")
        return {"events": dict(self.events), **{name: getattr(self, name) for name in names}}


def try_stream(root: Path, name: str, *, seconds: float, count: int, reconnect: bool, as_json: bool) -> bool:
    """Test the source called `name` of the environment in `root`; true if it could be reached, and again.

    It ends after `seconds`, after `count` events if that is not 0, or at Ctrl-C. With `reconnect` the connection is
    dropped after the first events, or after half the time.

    Raises:
        ConfigError, KeyError: there is no such source.
    """
    server = load_environment(root).sources[name].server
    seen = Seen()
    print_event = (lambda _: None) if as_json else partial(print, flush=True)
    with suppress(KeyboardInterrupt):
        anyio.run(_Test(root, server, seen, print_event, reconnect).run, seconds, count)
    if as_json:
        print_json(seen.to_json())
    else:
        _print(seen)
    return seen.passed


def is_stream(root: Path, name: str) -> bool:
    """Whether `name` is a plain event stream.

    Raises:
        ConfigError: the environment's configuration cannot be used.
    """
    source = load_environment(root).sources.get(name)
    return source is not None and source.server.kind is ServerKind.SSE


class _Test:
    """Takes the events of one connection that is made for it, and is its receiver."""

    def __init__(
        self, root: Path, server: ServerConfig, seen: Seen, say: Callable[[str], object], reconnect: bool
    ) -> None:
        self._root, self._server, self._seen, self._say, self._reconnect = root, server, seen, say, reconnect
        self._came = anyio.Event()

    async def run(self, seconds: float, count: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            surroundings = Surroundings(Guardian(Path(folder, "guardian.lock")), Path(folder), self._resolve)
            pool = ConnectionPool(surroundings, on_status=self._on_status)
            async with pool:
                make = partial(SseConnection, manager=SseManager(self._server.name))
                # A test that ends says more than one that goes on trying.
                server = replace(self._server, timings=replace(self._server.timings, error_retry_s=0))
                connection = pool.add(server, receiver=self, make=make)
                assert isinstance(connection, SseConnection)
                pool.start(connection)
                with anyio.move_on_after(seconds) as limit:
                    await self._watch(connection, seconds, count)
                if limit.cancelled_caught and not self._seen.connected:
                    self._seen.error = connection.last_error or f"no answer within {seconds:g} s"

    async def _watch(self, connection: SseConnection, seconds: float, count: int) -> None:
        seen, half = self._seen, max(1, count // 2)

        def over() -> bool:
            return connection.status in (EventSourceStatus.ERROR, EventSourceStatus.STOPPED)

        await self._until(lambda: seen.connected or over())
        if self._reconnect and seen.connected:
            with anyio.move_on_after(seconds / 2):
                await self._until(lambda: seen.events.total() >= half or over())
            await self._until(lambda: connection.status is EventSourceStatus.RUNNING or over())
            if not over():
                seen.dropped, seen.resumed_from = True, connection.last_event_id
                self._say(f"-- dropped after {seen.events.total()} events, at {_id(seen.resumed_from)}")
                connection.drop()
                await self._until(lambda: seen.resumed or over())
        await self._until(lambda: 0 < count <= seen.events.total() or over())
        if over():
            seen.error = connection.last_error

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._came.wait()

    def _notice(self) -> None:
        self._came.set()
        self._came = anyio.Event()

    def _on_status(self, connection: Any) -> None:
        if connection.status is EventSourceStatus.RUNNING:
            self._seen.resumed = self._seen.dropped
            self._seen.connected = True
            self._say("-- connected" + (" again" if self._seen.resumed else ""))
        elif connection.status is EventSourceStatus.BACKOFF:
            self._say(f"-- {printable(str(connection.last_error))}")
        self._notice()

    def _resolve(self, value: Any) -> Any:
        return resolve_all(value, self._root, variables(self._root))

    # As the connection's receiver.

    async def accept(self, batch: Batch) -> None:
        for event in batch.events:
            if self._seen.resumed and self._seen.first_id is None:
                self._seen.first_id = event.id or ""
            self._seen.events[str(event.type)] += 1
            if event.id is not None:
                self._seen.again += event.id in self._seen.ids
                self._seen.ids[event.id] = None
            said = msgspec.json.encode(event.payload).decode()
            short = said if len(said) <= _SHOWN_CHARACTERS else f"{said[: _SHOWN_CHARACTERS - 1]}…"
            now = clock(int(time.time() * 1000))
            self._say(f"{now}  {printable(str(event.type))}  {_id(event.id)}  {printable(short)}")
        self._notice()

    def reject(self, reason: str, event: Received | None = None) -> None:
        self._seen.rejected += 1
        self._say(f"-- {printable(reason)}")

    def resource_updated(self, uri: str) -> None:
        """Streams have no resources."""

    def fares(self, params: Mapping[str, Any]) -> None:
        """Streams do not say."""


def _id(event_id: object) -> str:
    return f"id {printable(str(event_id))}" if event_id else "no id"


def _print(seen: Seen) -> None:
    for name, number in sorted(seen.events.items()):
        print(f"{number}\t{printable(name)}")
    print(f"{seen.events.total()} events" + (f", {seen.rejected} refused" if seen.rejected else ""))
    if seen.dropped:
        if not seen.resumed:
            print("it could not be reached again")
        elif not seen.resumed_from:
            print("it was reached again; it gives no ids, so what it said meanwhile is missing")
        else:
            first = "nothing came since" if seen.first_id is None else f"the first event since had {_id(seen.first_id)}"
            print(f"it was reached again, from {_id(seen.resumed_from)}: {first}, {seen.again} came a second time")
    if seen.error:
        print(printable(seen.error))
