"""`Active`: the hours and days on which a rule is awake, by the clock on the wall of a place."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

from eventhost.config.wording import did_you_mean, one_of

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_DAY_MINUTES: Final = 24 * 60
_HOURS: Final = re.compile(r"(\d{1,2}):(\d\d)\s*-\s*(\d{1,2}):(\d\d)")

_MEND_HOURS: Final = 'write "08:00-18:00"; "22:00-06:00" goes on over midnight'
_MEND_DAYS: Final = f'write "sat" or "mon-fri"; the days are {one_of(DAYS)}'


@dataclass(frozen=True, slots=True)
class Active:
    """When a rule is awake: within one of the spans of hours that begin on one of the days."""

    config: str
    """As it is configured; two that say the same are equal."""
    hours: tuple[tuple[int, int], ...] = field(compare=False)
    """Spans in minutes of the day; the end is not part of one, and may lie before its start: it is on the next day."""
    days: frozenset[int] = field(compare=False)
    """On which a span begins; Monday is 0."""
    zone: ZoneInfo | None = field(compare=False)
    """None: that of the machine."""

    def covers(self, clock_ms: int) -> bool:
        """Whether the rule is awake at this time, in milliseconds since 1970."""
        return _covers(self, clock_ms // 1000)


# Under a flood many events, and rules, ask for the same second.
@lru_cache(maxsize=4096)
def _covers(active: Active, clock_s: int) -> bool:
    local = datetime.fromtimestamp(clock_s, active.zone)
    minute, day = local.hour * 60 + local.minute, local.weekday()
    for start, end in active.hours:
        if start < end:
            if day in active.days and start <= minute < end:
                return True
        elif (day in active.days and minute >= start) or ((day - 1) % 7 in active.days and minute < end):
            return True
    return False


def parse_hours(text: str) -> tuple[int, int]:
    """The span that `"08:00-18:00"` stands for, in minutes of the day.

    Raises:
        ValueError: with a message and a mend.
    """
    found = _HOURS.fullmatch(text)
    if found is None:
        raise ValueError(f"expected a span of hours, got {text[:40]!r}", _MEND_HOURS)
    start, end = int(found[1]) * 60 + int(found[2]), int(found[3]) * 60 + int(found[4])
    if int(found[2]) > 59 or int(found[4]) > 59 or start >= _DAY_MINUTES or end > _DAY_MINUTES:
        raise ValueError(f"{text} is not within 00:00 and 24:00", _MEND_HOURS)
    if start == end:
        raise ValueError(f"{text} begins where it ends", 'write "00:00-24:00", or leave it out, for the whole day')
    return start, end


def parse_days(text: str) -> frozenset[int]:
    """The days that `"mon-fri"` stands for, Monday being 0.

    Raises:
        ValueError: with a message and a mend.
    """
    ends = [part.strip() for part in text.lower().split("-")]
    unknown = [end for end in ends if end not in DAYS]
    if unknown or len(ends) > 2:
        mend = did_you_mean(unknown[0], DAYS) if unknown else ""
        raise ValueError(f"expected a day of the week or a span of them, got {text[:40]!r}", mend or _MEND_DAYS)
    first, last = DAYS.index(ends[0]), DAYS.index(ends[-1])
    return frozenset((first + offset) % 7 for offset in range((last - first) % 7 + 1))


def parse_zone(name: str) -> ZoneInfo:
    """The time zone of this name.

    Raises:
        ValueError: with a message and a mend.
    """
    if name not in available_timezones():
        mend = did_you_mean(name, available_timezones()) or 'write a name such as "Europe/Berlin" or "UTC"'
        raise ValueError(f"there is no time zone {name[:40]!r}", mend)
    return ZoneInfo(name)
