"""Gaps are events: where something may be missing, it is said on the bus, with bounds, as `host.gap`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

import anyio

GAP: Final = "host.gap"

EVERY_S: Final = 5.0
"""Gaps of one kind that follow within so long are one event: whoever lags, lags again."""


class Reason(StrEnum):
    """Why something may be missing."""

    CRASH = "crash"
    """The host before this one did not end properly: what sources said from then on nobody took."""
    DAMAGE = "damage"
    """The journal was damaged, and salvaged."""
    CAP = "cap"
    """The journal had reached its hard cap: a rule gave up what it owed."""
    DISCARDED = "discarded"
    """There were more dead letters than are kept: the oldest of a rule's are gone."""
    MISSED = "missed"
    """The journal no longer held what a rule had still to look at."""
    LAGGED = "lagged"
    """The journal no longer held what a watcher had still to be shown."""
    UNRESUMED = "unresumed"
    """A source was away, and its server cannot say what it said meanwhile."""
    OVERFLOW = "overflow"
    """A rule's shaping had no room to hold what it should have held."""


@dataclass(frozen=True, slots=True)
class Gap:
    """What may be missing; what is None is not known."""

    reason: Reason
    first: int | None = None
    last: int | None = None
    """The numbers of the first and of the last event within it."""
    count: int | None = None
    from_ms: int | None = None
    to_ms: int | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    """Whose gap it is, and what else is known."""

    def payload(self) -> dict[str, Any]:
        """What the event says."""
        bounds = {"first": self.first, "last": self.last, "count": self.count, "from": self.from_ms, "to": self.to_ms}
        return {"reason": str(self.reason), **bounds, **self.more}

    def followed_by(self, later: Gap) -> Gap:
        """Both as one; they are of one kind."""
        counts = [gap.count for gap in (self, later) if gap.count is not None]
        return replace(
            self,
            first=self.first if self.first is not None else later.first,
            last=later.last if later.last is not None else self.last,
            count=sum(counts) if counts else None,
            from_ms=self.from_ms if self.from_ms is not None else later.from_ms,
            to_ms=later.to_ms if later.to_ms is not None else self.to_ms,
        )


class Gaps:
    """Gathers gaps, and says them; never makes the one who tells of one wait."""

    def __init__(
        self, say: Callable[[str, dict[str, Any]], None], pause: Callable[[float], Awaitable[object]] = anyio.sleep
    ) -> None:
        self._say, self._pause = say, pause
        self._untold: dict[tuple[Any, ...], Gap] = {}
        self._told = anyio.Event()

    def tell(self, gap: Gap) -> None:
        """Have it said: at once, unless something was just a moment ago."""
        key = (gap.reason, *(gap.more.get(whose) for whose in ("rule", "watcher", "source")))
        before = self._untold.get(key)
        self._untold[key] = gap if before is None else before.followed_by(gap)
        self._told.set()

    async def keep_saying(self) -> None:
        """Say what there is to say, until cancelled."""
        while True:
            await self._told.wait()
            self._told = anyio.Event()
            untold, self._untold = self._untold, {}
            for gap in untold.values():
                self._say(GAP, gap.payload())
            await self._pause(EVERY_S)
