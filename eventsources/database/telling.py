"""What a database's changes become, and the loop that stays with a database however often it goes away.

session (connect, read) ─► events ─► tell ─► accepted by the host ─► position kept
   ▲                                                                     │
   └──────────── backoff ◄─────────────── Trouble ◄──────────────────────┘
"""

from __future__ import annotations

import asyncio
import base64
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

GAP = "database.gap"

_FIRST_DELAY_S = 0.2
_LONGEST_DELAY_S = 30.0
_GOOD_RUN_S = 5.0
"""Only after a connection has lasted this long does the delay begin anew."""


class Trouble(Exception):
    """The database cannot be read now; the text says what it said and, where it is known, how to mend it."""


@dataclass(frozen=True, slots=True)
class Event:
    """What is handed to the host; `timestamp` in milliseconds."""

    type: str
    payload: dict[str, Any]
    id: str | None = None
    timestamp: int | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


class Tell(Protocol):
    """Hands events to the host, in this order; returns once each is settled."""

    def __call__(self, events: Sequence[Event]) -> Awaitable[None]: ...


Log = Callable[[str, str], None]

Session = Callable[[], Awaitable[None]]
"""Connects, and tells until something ends it; then it raises `Trouble` or `OSError`."""


def gap(database: str, what: str, reason: str, after: dict[str, Any], until: dict[str, Any], event_id: str) -> Event:
    """That something between `after` and `until` was not seen and cannot be had any more."""
    payload = {"database": database, "what": what, "reason": reason, "after": after, "until": until}
    return Event(GAP, payload, id=event_id)


def in_base64(value: bytes) -> dict[str, str]:
    """How bytes are written in JSON."""
    return {"base64": base64.b64encode(value).decode()}


def now_iso() -> str:
    """The time now, as ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Watch:
    """One database's state for people: what `get_databases` tells, and what the log says of it."""

    def __init__(self, name: str, what: str, log: Log) -> None:
        self.name = name
        self.state = "connecting"
        self.last_error: str | None = None
        self.position: object = None
        self._what = what
        self._log = log
        self._failures = 0
        self._connected_s = 0.0

    def connected(self, since: str = "") -> None:
        """The session reads from now on."""
        self.state = "connected"
        self._connected_s = time.monotonic()
        self.log("info", f"connected{since and f', {since}'}")

    def failed(self, error: str) -> float:
        """The session has ended; return the seconds after which to try again."""
        if self.state == "connected" and time.monotonic() - self._connected_s > _GOOD_RUN_S:
            self._failures = 0
        delay_s = float(min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2 ** min(self._failures, 10)))
        if error != self.last_error or self.state == "connected":
            self.log("error", f"{error}; trying again until it works")
        self.state, self.last_error = "reconnecting", error
        self._failures += 1
        return delay_s * random.uniform(0.75, 1.25)

    def log(self, level: str, text: str) -> None:
        """A line of the source's log, under the database's name."""
        self._log(level, f"{self.name}: {self._what}: {text}")

    def snapshot(self) -> dict[str, object]:
        """The state as JSON."""
        return {
            "name": self.name,
            "what": self._what,
            "state": self.state,
            "position": self.position,
            "lastError": self.last_error,
        }


async def stay_with(watch: Watch, session: Session) -> None:
    """Run `session` again and again until cancelled."""
    while True:
        try:
            await session()
            raise Trouble("the connection has ended")
        except (Trouble, OSError) as error:
            delay_s = watch.failed(str(error).strip() or repr(error))
        await asyncio.sleep(delay_s)


async def first_to_end(*jobs: Coroutine[Any, Any, None]) -> None:
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
