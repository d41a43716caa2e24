"""A place in the journal as a person says it, and the times in it: one without a zone is the machine's own."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from eventhost.config.durations import seconds
from eventhost.journal.file import Events

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


def time_ms(text: str) -> int:
    """The milliseconds since 1970 of an ISO 8601 time; one that names no zone is by the clock of this machine.

    Raises:
        ValueError: it is none.
    """
    try:
        return (datetime.fromisoformat(text).astimezone(UTC) - _EPOCH) // _MILLISECOND
    except (OverflowError, OSError) as error:
        raise ValueError(str(error)) from None


def with_zone(text: str) -> str:
    """The same place, for a machine whose clock may be in another zone: a time gets the zone of this one's."""
    try:
        moment = datetime.fromisoformat(text)
        return text if text.isdigit() or moment.tzinfo is not None else moment.astimezone().isoformat()
    except (ValueError, OverflowError, OSError):
        return text


@dataclass(frozen=True, slots=True)
class Moment:
    """A place in the journal as a person says it: a number, a time, or how long ago."""

    seq: int | None = None
    at_ms: int | None = None

    @classmethod
    def parse(cls, text: str, now_ms: int | None = None) -> Moment:
        """`42`, `2026-11-20T08:00` (as `time_ms` takes it), `7d` ago, `beginning` or `now`.

        Raises:
            ValueError: it is none of these.
        """
        # What was accepted in this very millisecond lies before now.
        now_ms = time.time_ns() // 1_000_000 + 1 if now_ms is None else now_ms
        if text == "beginning":
            return cls(seq=0)
        if text == "now":
            return cls(at_ms=now_ms)
        if text.isascii() and text.isdigit():
            return cls(seq=int(text))
        try:
            return cls(at_ms=now_ms - int(seconds(text) * 1000))
        except ValueError:
            pass
        try:
            return cls(at_ms=time_ms(text))
        except ValueError:
            raise ValueError(
                f'{text[:80]!r} is no place in the journal; write a sequence number, "beginning", a time such as '
                f"2026-11-20T08:00 (the machine's own, unless a zone such as Z follows), or how long ago: 7d"
            ) from None

    async def after(self, journal: Events) -> int:
        """The number of the event after which somebody goes on who was here: a number itself is behind them.

        One ahead of the newest event comes from a journal that is gone: then all that there is now is new.
        """
        if self.seq is None:
            return await self.before(journal)
        return self.seq if self.seq <= journal.head else journal.first - 1

    async def before(self, journal: Events) -> int:
        """The number of the last event that is before it; never less than what is not held."""
        if self.seq is not None:
            return min(max(self.seq, journal.first) - 1, journal.head)
        assert self.at_ms is not None
        return await journal.seq_at(self.at_ms) - 1

    async def upto(self, journal: Events) -> int:
        """The number of the last event of a span that ends here: a number itself is within, a time is not."""
        return min(self.seq, journal.head) if self.seq is not None else await self.before(journal)
