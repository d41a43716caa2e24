"""What a source reads from, which may go away and come back: a database, a broker, a URL.

    session (connect, read) ─► events ─► emit ─► accepted by the host ─► position kept
       ▲                                                                     │
       └──────────── backoff ◄────────────── Unavailable ◄───────────────────┘

Its state is in the source's status, and a host that knows how to listen is told whenever it changes.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from eventhost.errors import EventhostError
from eventhost.kit.event import Event

FIRST_DELAY_S: Final = 0.2
LONGEST_DELAY_S: Final = 30.0
GOOD_RUN_S: Final = 5.0
"""Only after a connection has lasted this long does the delay begin anew."""

Session = Callable[[], Awaitable[None]]
"""Connects, calls `connected`, and emits until something ends it."""


class Unavailable(EventhostError):
    """What a source reads from cannot be read now; it is worth trying again.

    The text says what it said and, where it is known, how to mend it. `after_s` is how long it asked to be left alone.
    """

    def __init__(self, message: str, *, after_s: float = 0) -> None:
        super().__init__(message)
        self.after_s = after_s


class Upstream:
    """One thing that a source reads from, by name; made by `EventSource.upstream`.

    `position` is whatever tells people how far it has been read.
    """

    def __init__(
        self,
        name: str,
        log: Callable[[str, str], None],
        emit: Callable[[Event], Awaitable[object]],
        changed: Callable[[], None],
    ) -> None:
        self.name = name
        self._log, self._emit, self._changed = log, emit, changed
        self.begin()

    def begin(self) -> None:
        """The source is started: nothing is known yet."""
        self.state = "connecting"
        """`connecting`, `connected`, or `reconnecting`."""
        self.last_error: str | None = None
        self.position: object = None
        self.gaps = 0
        """How many holes were told since the source was started."""
        self._failures = 0
        self._connected_s = 0.0

    def connected(self, detail: str = "") -> None:
        """It is read from now on, or is read still; `detail` is for the log."""
        if self.state == "connected":
            return
        self.state = "connected"
        self._connected_s = time.monotonic()
        self.log("info", f"connected{detail and f', {detail}'}")
        self._changed()

    def failed(self, error: str, after_s: float = 0) -> float:
        """It cannot be read; return the seconds after which to try again, which are `after_s` at least."""
        if self.state == "connected" and time.monotonic() - self._connected_s > GOOD_RUN_S:
            self._failures = 0
        delay_s = float(min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(self._failures, 10)))
        is_news = error != self.last_error or self.state == "connected"
        self.state, self.last_error = "reconnecting", error
        self._failures += 1
        if is_news:
            self.log("error", f"{error}; trying again until it works")
            self._changed()
        return max(after_s, delay_s * random.uniform(0.75, 1.25))

    async def stay(self, session: Session) -> None:
        """Run `session` again and again until cancelled: whenever it returns, or raises `Unavailable` or `OSError`."""
        while True:
            try:
                await session()
                delay_s = self.failed("the connection has ended")
            except (Unavailable, OSError) as error:
                after_s = error.after_s if isinstance(error, Unavailable) else 0
                delay_s = self.failed(str(error).strip() or repr(error), after_s)
            await asyncio.sleep(delay_s)

    async def gap(self, event: Event) -> None:
        """Emit `event`, which says that something was missed that cannot be had any more, and count it."""
        reason = event.payload.get("reason") if isinstance(event.payload, dict) else None
        self.log("warning", f"something was missed{f' ({reason})' if reason else ''}; see the event {event.type}")
        await self._emit(event)
        self.note_gaps(1)

    def note_gaps(self, count: int) -> None:
        """Count holes that were told otherwise."""
        if count:
            self.gaps += count
            self._changed()

    def log(self, level: str, text: str) -> None:
        """A line of the source's log, under this name."""
        self._log(level, f"{self.name}: {text}")

    def snapshot(self) -> dict[str, Any]:
        """The state as JSON."""
        return {
            "name": self.name,
            "state": self.state,
            "lastError": self.last_error,
            "gaps": self.gaps,
            "position": self.position,
        }


async def first_to_end(*jobs: Awaitable[None]) -> None:
    """Run all until one ends, end the others, and raise what that one raised."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
