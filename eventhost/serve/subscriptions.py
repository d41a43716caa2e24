"""What sessions have subscribed to: a place in the journal each, pushed to who can be told, or asked for page by page.

Nothing of the events is held for anybody. A session that does not read delays nobody, and is told how much it missed
once the journal no longer holds that.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any, Final

import anyio
import anyio.abc
import structlog

from eventhost.bus import EnvEventBus, Lagged, Subscription
from eventhost.journal import Entry
from eventhost.serve.own import ToolFailed
from eventhost.serve.peer import Notify, Peer
from eventhost.serve.wanted import MAX_ANSWER_BYTES, for_host, not_by
from eventhost.wanted import Wanted
from eventhost.wire import EMITTED

log = structlog.get_logger()

MOST: Final = 1024
MOST_OF_ONE: Final = 64
"""Subscriptions of one key, outside sessions; or of one session."""
IDLE_S: Final = 3600.0
"""One that belongs to no session, and that nobody has asked for so long, ends."""

_SEARCH_S: Final = 2.0
"""Who waits for what is rare is answered after this long; the cursor leads on."""


class Held:
    """One subscription; if it is of another host, `by`, what came by that one is left out."""

    def __init__(self, peer: Peer, wanted: Wanted, position: int, *, push: bool, used_at: float, by: str = "") -> None:
        self.id = f"sub_{secrets.token_urlsafe(18)}"
        self.owner = (peer.caller.how, peer.caller.name)
        self.peer = peer if peer.notify is not None else None
        """The session that it belongs to, and ends with."""
        self.wanted, self.position, self.push, self.used_at = wanted, position, push, used_at
        self.select = not_by(by, wanted.select()) if by else wanted.select()
        self._scope = anyio.CancelScope()
        self._close: Callable[[], None] = lambda: None

    def at_close(self, close: Callable[[], None]) -> None:
        self._close = close

    async def aclose(self) -> None:
        """End it. Nothing happens the second time."""
        self._scope.cancel()
        self._close()

    async def keep_pushing(self, bus: EnvEventBus, notify: Notify, host: str) -> None:
        """Tell the session of each event, as fast as it reads, until it ends."""
        after = self.position
        with self._scope:
            try:
                await anyio.lowlevel.checkpoint()  # it may have ended before it began
                async for item in Subscription(bus, self.select, after, str(self.wanted)):
                    await notify(EMITTED, {"level": "info", "data": for_host(item, host, after)})
                    after = self.position = _number(item)
            except Exception as error:
                log.warning("subscription_ended", subscriber=self.owner, error=repr(error))
                self._close()  # whoever asks for it is told so, and can subscribe again


class Subscriptions:
    """All that there are."""

    def __init__(self, bus: Callable[[], EnvEventBus], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._bus, self._monotonic = bus, monotonic
        self._held: dict[str, Held] = {}

    def add(self, peer: Peer, wanted: Wanted, position: int, *, push: bool, by: str = "") -> Held:
        """Take one in; see `Held`.

        Raises:
            ToolFailed: there are too many.
        """
        now = self._monotonic()
        for one in [one for one in self._held.values() if one.peer is None and now - one.used_at > IDLE_S]:
            del self._held[one.id]
        held = Held(peer, wanted, position, push=push, used_at=now, by=by)
        of_one = sum(one.owner == held.owner and one.peer is held.peer for one in self._held.values())
        if of_one >= MOST_OF_ONE or len(self._held) >= MOST:
            count, of_whom = (of_one, "of yours") if of_one >= MOST_OF_ONE else (MOST, "of all clients")
            raise ToolFailed(f"{count} subscriptions {of_whom} are held already; call unsubscribe_event for one")
        self._held[held.id] = held
        if held.peer is not None:
            held.peer.subscriptions[held.id] = held

        def forget() -> None:
            self._held.pop(held.id, None)
            if held.peer is not None:
                held.peer.subscriptions.pop(held.id, None)

        held.at_close(forget)
        return held

    def push(self, held: Held, tasks: anyio.abc.TaskGroup, host: str) -> None:
        """Begin to tell its session."""
        assert held.peer is not None
        assert held.peer.notify is not None
        tasks.start_soon(held.keep_pushing, self._bus(), held.peer.notify, host)

    def of(self, peer: Peer) -> list[Held]:
        """Those of a session that are asked for page by page."""
        return [one for one in self._held.values() if one.peer is peer and not one.push]

    def get(self, subscription_id: str, peer: Peer) -> Held:
        """The subscription with this id, if it is the caller's.

        Raises:
            ToolFailed: there is none.
        """
        held = self._held.get(subscription_id)
        if held is None or held.owner != (peer.caller.how, peer.caller.name):
            raise ToolFailed(
                f"subscriptionId: there is no subscription {subscription_id[:80]!r} of yours; it ended with its "
                f"session, or after {IDLE_S / 60:.0f} minutes without use, or the host was restarted: call "
                "subscribe_event again, with your cursor as `after`"
            )
        held.used_at = self._monotonic()
        return held

    def __len__(self) -> int:
        return len(self._held)

    async def pending(self, held: Held, cursor: int, limit: int, host: str) -> Pending:
        """The events after `cursor`, at most `limit`."""
        bus = self._bus()
        reading = Subscription(bus, held.select, cursor, str(held.wanted))
        events: list[dict[str, Any]] = []
        size = 0
        until = self._monotonic() + _SEARCH_S
        while bus.journal.head > cursor:
            batch, upto = await reading.read(cursor)
            for item in batch:
                size += item.size if isinstance(item, Entry) else 0
                if len(events) == limit or (events and size > MAX_ANSWER_BYTES):
                    return Pending(events, cursor, more=True)
                events.append(for_host(item, host))
                cursor = _number(item)
            cursor = upto
            if self._monotonic() > until:
                break
            await anyio.lowlevel.checkpoint()  # reading memory never suspends
        return Pending(events, cursor, more=bus.journal.head > cursor)


class Pending:
    """Events that were not handed out before; those after `cursor` are the next, and `more` if there are any now."""

    def __init__(self, events: list[dict[str, Any]], cursor: int, *, more: bool) -> None:
        self.events, self.cursor, self.more = events, cursor, more


def _number(item: Entry | Lagged) -> int:
    return item.seq if isinstance(item, Entry) else item.resume - 1
