"""Another eventhost as a source: subscribed to, and asked for whatever a transport may have lost.

    subscribe_event ──► its events, pushed, each with the number before which nothing is missing ──► taken in order
    list_pending_events ──► the same, page by page: where nothing can be pushed, and where something did not come

How far this host has come is kept in `var/upstream/NAME.json`, so that it goes on there, whichever of both was
restarted. It is written up to `SAVE_S` late: what is repeated after a crash is recognized as from any source.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec
import structlog
from mcp_types import CallToolResult, TextContent

from eventhost.connections import NO_ANSWER, Batch, Link, Received
from eventhost.errors import EventRejected
from eventhost.event import RawEvent
from eventhost.relay import MOST_HOSTS, SUBSCRIBE_EVENT, Relay, taken_in
from eventhost.sources.poll import ANSWER_TIMEOUT_S, LONGEST_PAUSE_S, Reject, Take
from eventhost.wire import LIST_PENDING_EVENTS

log = structlog.get_logger()

EVERYTHING: Final = ("*",)

CHECK_S: Final = 15.0
"""Where events are pushed, how often it is asked whether one did not come; at first sooner."""
WAIT_S: Final = 20.0
"""Where nothing can be pushed, how long the other host waits for an event before it answers that there is none."""
SAVE_S: Final = 1.0

_PAGE: Final = 1000


class _Place(msgspec.Struct):
    """How far it has come: a number of the journal of a host, and which journal that is."""

    host: str = ""
    journal: str = ""
    seq: int | None = None


class _Subscribed(msgspec.Struct, rename="camel"):
    subscription_id: str
    delivery: str
    cursor: int
    host: str
    journal: str = ""


class Upstream:
    """The place in another host's journal, and the subscription there, for as long as this host knows the source."""

    def __init__(self, file: Path, host: str, globs: Sequence[str], take: Take, reject: Reject) -> None:
        """`host` is by what others know this one; `take` publishes, `reject` takes note of what went wrong."""
        self.pushes = False
        """Whether events are pushed."""
        self.returned = 0
        """How many of this host's own events came back to it, and were left out."""
        self._file, self._host, self._globs, self._take, self._reject = file, host, list(globs), take, reject
        self._place = self._saved = _Place()
        self._loaded = self._subscribed = False
        self._pause_s = self._interval_s = 0.0
        self._saved_at = float("-inf")
        self._taking = anyio.Lock()
        self._behind = anyio.Event()

    async def run(self, link: Link, interval_s: float) -> None:
        """Stay subscribed until cancelled; what cannot be had is reported, and tried again after a growing pause."""
        self._load()
        self._pause_s = self._interval_s = interval_s
        try:
            while not link.ended.is_set():
                try:
                    await self._stay(link, await self._subscribe(link))
                except (*NO_ANSWER, EventRejected) as error:
                    self._subscribed = False
                    if link.ended.is_set():
                        return
                    self._reject(f"{SUBSCRIBE_EVENT}: {str(error) or f'no answer within {ANSWER_TIMEOUT_S:g} s'}")
                    await anyio.sleep(self._pause_s)
                    self._pause_s = min(LONGEST_PAUSE_S, 2 * self._pause_s)
        finally:
            self._subscribed = self.pushes = False
            self.save()

    async def accept(self, batch: Batch) -> None:
        """Take what was pushed, as far as nothing is missing before it.

        What comes before it is known by which numbers is left out; it is asked for then.
        """
        async with self._taking:
            said = batch.events
            if not self._subscribed:
                said = [event for event in said if Relay.of(event.metadata) is None]
            events, seq = self._in_order(said, self._place.seq or 0)
            if events:
                await self._take(Batch(events, batch.bytes, batch.at_most_bytes))
            self._reach(seq)

    async def _subscribe(self, link: Link) -> _Subscribed:
        before = self._place
        arguments: dict[str, Any] = {"eventType": self._globs, "host": self._host}
        if before.seq is not None:
            arguments["after"] = before.seq
        answer: _Subscribed = await _call(link, SUBSCRIBE_EVENT, arguments, _Subscribed)
        if before.seq is not None and answer.host != before.host:
            # Its numbers have nothing to do with those of the other: it is heard from now on.
            log.warning("upstream_is_another", file=self._file.name, host=answer.host)
            await _call(link, "unsubscribe_event", {"subscriptionId": answer.subscription_id}, dict[str, Any])
            self._place = _Place()
            return await self._subscribe(link)
        # All is new of a journal that began anew; of one that does not go as far any more, that is the cursor.
        anew = before.seq is not None and answer.journal != before.journal
        async with self._taking:
            self._place = _Place(answer.host, answer.journal, 0 if anew else answer.cursor)
            self._subscribed = True
        self.pushes = answer.delivery == "push"
        return answer

    async def _stay(self, link: Link, subscribed: _Subscribed) -> None:
        """Ask for what is pending, at once and again and again, until the subscription is no more."""
        pause_s, wait_s = self._interval_s, 0.0
        while True:
            self._behind = anyio.Event()
            try:
                while await self._ask(link, subscribed, wait_s):
                    pause_s = self._interval_s
            except NO_ANSWER as error:
                if link.ended.is_set():
                    return
                self._reject(f"{LIST_PENDING_EVENTS}: {str(error) or f'no answer within {ANSWER_TIMEOUT_S:g} s'}")
                pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
            else:
                pause_s = min(CHECK_S, 2 * pause_s) if self.pushes else self._interval_s
                wait_s = 0.0 if self.pushes else WAIT_S
            self.save()
            with anyio.move_on_after(pause_s):
                await self._behind.wait()
                pause_s = self._interval_s

    async def _ask(self, link: Link, subscribed: _Subscribed, wait_s: float) -> bool:
        """Take a page of what is pending; whether there is more."""
        arguments = {
            "subscriptionId": subscribed.subscription_id,
            "cursor": self._place.seq or 0,
            "limit": _PAGE,
            "waitMs": int(wait_s * 1000),
        }
        page: _Page = await _call(link, LIST_PENDING_EVENTS, arguments, _Page)
        async with self._taking:
            # What was pushed meanwhile is in the page, too, or comes after it.
            events, seq = self._in_order([RawEvent.from_value(event) for event in page.events], self._place.seq or 0)
            if events:
                size = len(msgspec.json.encode(page.events))
                await self._take(Batch(events, size, size))
            self._reach(max(seq, page.cursor))
        self._pause_s = self._interval_s
        return page.more

    def _in_order(self, said: Sequence[Received], seq: int) -> tuple[list[Received], int]:
        """Those that follow on `seq` without anything missing, and how far they go."""
        events: list[Received] = []
        for event in said:
            relay = Relay.of(event.metadata)
            if relay is None:
                events.append(event)  # it came from no journal
                continue
            if relay.seq <= seq:
                continue
            if relay.after > seq:
                self._behind.set()
                break
            seq = relay.seq
            if self._host in relay.via:
                self.returned += 1
            elif len(relay.via) > MOST_HOSTS:
                self._reject(
                    f"event {event.id!r} came through {len(relay.via)} hosts; at most {MOST_HOSTS} are allowed"
                )
            else:
                events.append(msgspec.structs.replace(event, metadata=taken_in(event.metadata)))
        return events, seq

    def _reach(self, seq: int) -> None:
        if seq > (self._place.seq or 0):
            self._place = msgspec.structs.replace(self._place, seq=seq)
            if time.monotonic() - self._saved_at >= SAVE_S:
                self.save()

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        try:
            self._place = self._saved = msgspec.json.decode(self._file.read_bytes(), type=_Place)
        except FileNotFoundError:
            pass
        except (OSError, msgspec.MsgspecError) as error:
            log.error("upstream_place_lost", file=self._file.name, error=str(error))

    def save(self) -> None:
        """Write down how far it has come."""
        self._saved_at = time.monotonic()
        if self._place == self._saved or not self._place.host:
            return
        temporary = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(msgspec.json.encode(self._place))
            temporary.replace(self._file)
            self._saved = self._place
        except OSError as error:
            log.error("upstream_place_not_saved", file=self._file.name, error=str(error))


class _Page(msgspec.Struct):
    events: list[dict[str, Any]]
    cursor: int
    more: bool


async def subscribe(link: Link, globs: Sequence[str], reject: Reject) -> None:
    """Call the `subscribe_event` of a source that is no host, once for each glob."""
    for glob in globs:
        try:
            with anyio.fail_after(ANSWER_TIMEOUT_S):
                result = await link.client.call_tool(SUBSCRIBE_EVENT, {"eventType": glob})
            if result.is_error:
                raise EventRejected(_text(result) or "the tool reported an error without a text")
        except (*NO_ANSWER, EventRejected) as error:
            if link.ended.is_set():
                return
            reject(f"{SUBSCRIBE_EVENT} {glob}: {str(error) or f'no answer within {ANSWER_TIMEOUT_S:g} s'}")


async def _call(link: Link, tool: str, arguments: dict[str, Any], answer: type[Any]) -> Any:
    """Raises EventRejected where it fails, or answers something else."""
    with anyio.fail_after(ANSWER_TIMEOUT_S):
        result = await link.client.call_tool(tool, arguments)
    if result.is_error:
        raise EventRejected(_text(result) or f"{tool} reported an error without a text")
    try:
        return msgspec.convert(result.structured_content, answer)
    except msgspec.ValidationError as error:
        raise EventRejected(f"{tool}: an answer that is not another eventhost's: {error}") from None


def _text(result: CallToolResult) -> str:
    return "".join(block.text for block in result.content if isinstance(block, TextContent))
