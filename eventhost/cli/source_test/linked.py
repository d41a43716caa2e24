"""What a host relies on in a source over HTTP, or in the modern era, as far as the host's own connection shows it.

Nothing is published, and nothing that waits for a host is taken from an endpoint that may be another's too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import anyio
import msgspec
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from eventhost.cli.source_test.check import Check, failed, ok, skipped
from eventhost.cli.source_test.conformance import CHECKS
from eventhost.cli.source_test.session import short
from eventhost.cli.source_test.subject import Subject
from eventhost.cli.source_test.wrong import shown, wrong_contents, wrong_time, wrong_tools
from eventhost.config import ServerKind
from eventhost.connections import (
    NO_ANSWER,
    Batch,
    Connection,
    ConnectionPool,
    EventSourceStatus,
    Link,
    Received,
    list_all,
)
from eventhost.errors import ConnectionLost, EventRejected
from eventhost.event import EnvEvent, SourceProfile
from eventhost.message import normalize_batch
from eventhost.sources.acknowledge import Acknowledger
from eventhost.sources.poll import offers_polling, poll
from eventhost.wire import ACK

ANSWER_S: Final = 10.0
_MOST_READ: Final = 50
_MENDS: Final = {
    ServerKind.REMOTE: "is it running, and is this its address?",
    ServerKind.HTTP: "listen on the port that PORT says, at /mcp",
}
_HERE: Final = ("handshake", "tools", "resources", "events")


class LinkedConformance:
    """Tries one source by the host's connection to it, and is that connection's receiver."""

    def __init__(
        self, subject: Subject, tell: Callable[[Check], object], *, seconds: float, count: int, why: str
    ) -> None:
        """`why` tells why the other checks do not apply."""
        self._why = why
        self._subject, self._tell = subject, tell
        self._seconds, self._count = seconds, count
        source = subject.source
        self._profile = SourceProfile(source.name, source.event_types, source.metadata)
        self._own = source.server.kind is not ServerKind.REMOTE
        self._acknowledger = Acknowledger()
        self._events: list[EnvEvent] = []
        self._wrong: list[str] = []
        self._came = anyio.Event()

    async def run(self) -> None:
        """Make the checks that apply, and tell of the others that they do not."""
        # One failure says more than going on trying.
        server = self._subject.source.server
        timings = replace(server.timings, startretries=1, error_retry_s=0)
        pool = ConnectionPool(self._subject.surroundings, on_status=lambda _: self._notice())
        async with pool:
            connection = pool.add(replace(server, timings=timings), receiver=self)
            pool.start(connection)
            link = await self._handshake(connection, timings.init_timeout_s + timings.startsecs_s)
            for name, check in (("tools", self._tools), ("resources", self._resources)):
                self._tell(skipped(name, "it is not connected") if link is None else await check(link))
            self._tell(skipped("events", "it is not connected") if link is None else await self._take_events(link))
        for name in CHECKS:
            if name not in _HERE:
                self._tell(skipped(name, self._why))

    async def _handshake(self, connection: Connection, limit_s: float) -> Link | None:
        name = "handshake"
        over = (EventSourceStatus.ERROR, EventSourceStatus.BACKOFF, EventSourceStatus.STOPPED)
        with anyio.move_on_after(limit_s):
            while connection.status is not EventSourceStatus.RUNNING and connection.status not in over:
                await self._news()
        try:
            link = await connection.connected(0)
            if link.protocol in HANDSHAKE_PROTOCOL_VERSIONS:  # the others know no ping
                with anyio.fail_after(ANSWER_S):
                    await link.client.send_ping()
        except ConnectionLost as error:
            mend = _MENDS.get(self._subject.source.server.kind, "write only messages to stdout")
            self._tell(failed(name, f"expected an answer to initialize within {limit_s:g} s; {error}; {mend}"))
            return None
        except NO_ANSWER as error:
            self._tell(failed(name, f"expected an answer to ping; came {str(error) or 'none'}"))
            return link
        info = link.client.server_info
        said = f"{info.name} {info.version}, " if info else ""
        self._tell(ok(name, f"{said}MCP {link.protocol}"))
        return link

    async def _tools(self, link: Link) -> Check:
        name = "tools"
        if link.capabilities.tools is None:
            return skipped(name, "it declares none")
        try:
            with anyio.fail_after(ANSWER_S):
                listed = await list_all(link.client.list_tools, "tools")
        except NO_ANSWER as error:
            return failed(name, f"it declares tools, and expected was a list of them; {str(error) or 'none came'}")
        tools = [tool.model_dump(by_alias=True, exclude_none=True, mode="json") for tool in listed]
        if wrong := list(wrong_tools(tools)):
            return failed(name, "tools/list was answered wrongly", wrong)
        return ok(name, f"{len(tools)} tools: {short(', '.join(tool['name'] for tool in tools))}")

    async def _resources(self, link: Link) -> Check:
        name = "resources"
        if link.capabilities.resources is None:
            return skipped(name, "it declares none")
        wrong: list[str] = []
        try:
            with anyio.fail_after(ANSWER_S):
                resources = await list_all(link.client.list_resources, "resources")
        except NO_ANSWER as error:
            return failed(name, f"it declares resources, and expected was a list of them; {str(error) or 'none came'}")
        for resource in resources[:_MOST_READ]:
            try:
                with anyio.fail_after(ANSWER_S):
                    read = await link.client.read_resource(str(resource.uri))
            except NO_ANSWER as error:
                wrong.append(f"{resource.uri}: expected its contents; {str(error) or 'none came'}")
                continue
            said = resource.model_dump(by_alias=True, exclude_none=True, mode="json")
            wrong += wrong_contents(said, read.model_dump(by_alias=True, exclude_none=True, mode="json")["contents"])
        if wrong:
            return failed(name, "not every resource that it lists can be read", wrong)
        return ok(name, f"{len(resources)} resources")

    async def _take_events(self, link: Link) -> Check:
        name, began = "events", time.monotonic()
        acknowledges = ACK in (link.capabilities.experimental or {})
        polls = False
        async with anyio.create_task_group() as tasks:
            # Of an endpoint that is another's, what waits for its host is not to be taken away.
            if self._own and acknowledges:
                tasks.start_soon(self._acknowledger.run, link)
            elif self._own and (polls := await offers_polling(link)):
                interval_s = self._subject.source.poll_interval_s
                tasks.start_soon(self._poll, link, interval_s)
            with anyio.move_on_after(self._seconds):
                while not (0 < self._count <= len(self._events)) and not link.ended.is_set():
                    await self._news()
            tasks.cancel_scope.cancel()
        if link.ended.is_set():
            after_s = time.monotonic() - began
            return failed(name, f"expected that it stays connected; after {after_s:.1f} s: {link.reason}")
        if self._wrong:
            return failed(name, "not all of its events are as they should be", shown(self._wrong))
        if not self._events:
            alone = "" if self._own else "; what waits for a host that polls or acknowledges is left to it"
            return skipped(name, f"none came within {self._seconds:g} s{alone}; wait longer with --seconds")
        types = ", ".join(sorted({event.type for event in self._events}))
        return ok(name, f"{len(self._events)} by {'polling' if polls else 'push'}: {short(types)}")

    async def _poll(self, link: Link, interval_s: float) -> None:
        await poll(link, interval_s, self.accept, self.reject, enough=lambda: False)

    # As the connection's receiver.

    async def accept(self, batch: Batch) -> None:
        """Take events as the host would, and publish none."""
        normalized = normalize_batch(batch.events, self._profile, batch.at_most_bytes)
        for raw, error in normalized.refused:
            self._refuse(f"{_said(raw)}: {error}")
            if isinstance(raw.id, str):
                self._acknowledger.rejected(raw.id, str(error))
        self._events += normalized.events
        for event in normalized.events:
            if reason := wrong_time(event.timestamp):
                self._wrong.append(f"timestamp: {reason}: {_said(event)}")
        self._acknowledger.accepted([event.id for event in normalized.events])
        self._notice()

    def reject(self, reason: str, event: Received | None = None) -> None:
        """Take note of what cannot be an event."""
        self._refuse(reason)

    def resource_updated(self, uri: str) -> None:
        """No check is about it."""

    def fares(self, params: Mapping[str, Any]) -> None:
        """Nor about how it says it fares."""

    def _refuse(self, reason: str) -> None:
        self._wrong.append(f"the host would refuse it: {reason}")
        self._notice()

    def _notice(self) -> None:
        self._came.set()
        self._came = anyio.Event()

    async def _news(self) -> None:
        with anyio.move_on_after(0.5):
            await self._came.wait()


def _said(event: Any) -> str:
    try:
        return short(msgspec.json.encode(event).decode())
    except (TypeError, ValueError, RecursionError, EventRejected):
        return short(str(event))
