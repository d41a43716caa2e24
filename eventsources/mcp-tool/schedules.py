"""When to call: every so often without drift, or by the calendar. Beats that nobody had time for are let go."""

from __future__ import annotations

import time
from datetime import datetime
from typing import NamedTuple, Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_LONGEST_SLEEP_S = 60.0
"""The wall clock can be set, and a laptop can sleep; nobody tells the event loop."""


class Schedule(Protocol):
    """Its times are in seconds of a clock of its own, `now_s`."""

    def now_s(self) -> float: ...

    def next_after(self, due_s: float, now_s: float) -> float:
        """The first beat after `now_s`, where the one before was due at `due_s`."""

    def sleep_s(self, due_s: float, now_s: float) -> float:
        """How long to sleep before asking again whether it is `due_s`."""


class Every(NamedTuple):
    """At an interval, counted from the first call."""

    interval_s: float

    def now_s(self) -> float:
        return time.monotonic()

    def next_after(self, due_s: float, now_s: float) -> float:
        return due_s + self.interval_s * (1 + max(0.0, now_s - due_s) // self.interval_s)

    def sleep_s(self, due_s: float, now_s: float) -> float:
        return due_s - now_s


class Cron(NamedTuple):
    """By a cron expression in a time zone."""

    text: str
    zone: str

    def now_s(self) -> float:
        return time.time()

    def next_after(self, due_s: float, now_s: float) -> float:
        # Imported here: croniter is megabytes that an interval does without.
        from croniter import croniter  # type: ignore[import-untyped]

        start = datetime.fromtimestamp(now_s, ZoneInfo(self.zone))
        return float(croniter(self.text, start, second_at_beginning=True).get_next(float))

    def sleep_s(self, due_s: float, now_s: float) -> float:
        return min(due_s - now_s, _LONGEST_SLEEP_S)


def cron(text: str, zone: str) -> Cron:
    """A schedule of five fields, six with the seconds first, or `@hourly` and the like.

    Raises:
        ValueError: it is none, or there is no such zone.
    """
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f'{zone} is no time zone; write one such as "Europe/Berlin"') from None
    schedule = Cron(text, zone)
    wrong = 'is no schedule; write five fields (minute hour day month weekday), such as "*/5 * * * *"'
    # croniter would take an `R` for a random value, another one after each restart.
    if not (text.startswith("@") or (len(text.split()) in (5, 6) and "R" not in text.split())):
        raise ValueError(f"{text!r} {wrong}")
    try:
        schedule.next_after(0, 0)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{text!r} {wrong}: {error}") from None
    return schedule
