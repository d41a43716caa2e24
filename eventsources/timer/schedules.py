"""Says which ticks of a cron schedule are due; pure, for the caller reads the clock.

Time zones follow the custom of cron: a schedule at fixed hours fires once for each time on the clock's face, so the
hour that comes twice in autumn does not double it, and a time that spring leaves out fires when the clocks have jumped.
A schedule whose hour field begins with `*` follows elapsed time instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from itertools import takewhile
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import croniter  # type: ignore[import-untyped]

ON_TIME_S = 10
"""A tick up to this late is not missed: a restart or a busy host must not cost one."""

MOST_MISSED = 1000
"""How many missed ticks `all` makes up for, the latest ones."""

_FIELDS = {"name", "cron", "timezone", "type", "payload", "missed"}


class Missed(StrEnum):
    """What becomes of the ticks that nobody was there to fire."""

    SKIP = "skip"
    ONCE = "once"
    ALL = "all"


_MADE_UP = {Missed.SKIP: 0, Missed.ONCE: 1, Missed.ALL: MOST_MISSED}


@dataclass(frozen=True, slots=True)
class Tick:
    """One time at which a schedule fires, in whole seconds since the epoch."""

    schedule: Schedule
    at_s: int

    @property
    def id(self) -> str:
        """The same for the same tick whenever it is asked for, so that a repeat is recognised."""
        return f"{self.schedule.name}@{datetime.fromtimestamp(self.at_s, UTC):%Y-%m-%dT%H:%M:%SZ}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """A cron expression in a time zone, and the event it fires."""

    name: str
    cron: str
    timezone: str = "UTC"
    type: str = "timer.tick"
    payload: Mapping[str, Any] = field(default_factory=dict)
    missed: Missed = Missed.SKIP

    @classmethod
    def from_config(cls, raw: Any, place: str) -> Schedule:
        """Check one entry of `schedules`; `place` names it in messages.

        Raises:
            ValueError: what is wrong with it, and how to mend it.
        """
        if not isinstance(raw, Mapping):
            raise ValueError(f'{place}: expected an object such as {{"name": "nightly", "cron": "0 3 * * *"}}')
        unknown = sorted(raw.keys() - _FIELDS)
        if unknown:
            raise ValueError(f"{place}.{unknown[0]}: no such option; there are {', '.join(sorted(_FIELDS))}")
        texts = {key: raw[key] for key in ("name", "cron", "timezone", "type", "missed") if key in raw}
        for key in ("name", "cron", *texts):
            if not isinstance(texts.get(key), str) or not texts[key]:
                raise ValueError(f"{place}.{key}: expected a non-empty string")
        payload = raw.get("payload", {})
        if not isinstance(payload, Mapping):
            raise ValueError(f"{place}.payload: expected an object")
        missed = texts.pop("missed", Missed.SKIP)
        if missed not in list(Missed):
            raise ValueError(f"{place}.missed: expected one of {', '.join(Missed)}, got {missed!r}")
        schedule = cls(**texts, payload=dict(payload), missed=Missed(missed))
        schedule._check(place)
        return schedule

    def _check(self, place: str) -> None:
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(
                f'{place}.timezone: {self.timezone!r} is unknown; write one such as "Europe/Berlin"'
            ) from None
        fields = self.cron.split()
        # `R` would choose other times after each restart.
        if re.search(r"\bR\b", self.cron) or not (self.cron.startswith("@") or len(fields) in (5, 6)):
            raise ValueError(
                f"{place}.cron: {self.cron!r} is no schedule; write five fields (minute hour day month weekday), "
                "six with the seconds first, or one of @hourly @daily @weekly @monthly @yearly"
            )
        try:
            self.next_after(0)
        except ValueError as error:
            raise ValueError(f"{place}.cron: {self.cron!r} is no schedule that ever fires: {error}") from None

    def next_after(self, moment_s: float) -> int:
        """The first tick after `moment_s`."""
        return next(self._walk(moment_s, "get_next"))

    def due(self, after_s: float, now_s: float) -> list[Tick]:
        """The ticks to fire of those after `after_s` and up to `now_s`, oldest first, as `missed` has it."""
        # Newest first, so that a year of missed seconds costs no more than the ticks that are kept.
        newest_first = takewhile(lambda at_s: at_s > after_s, self._walk(int(now_s) + 1, "get_prev"))
        ticks: list[int] = []
        missed = 0
        for at_s in newest_first:
            missed += at_s < now_s - ON_TIME_S
            if missed > _MADE_UP[self.missed]:
                break
            ticks.append(at_s)
        return [Tick(self, at_s) for at_s in reversed(ticks)]

    def _walk(self, start_s: float, step: str) -> Iterator[int]:
        zone = ZoneInfo(self.timezone)
        advance = getattr(croniter(self.cron, datetime.fromtimestamp(start_s, zone), second_at_beginning=True), step)
        fields = self.cron.split()
        at_fixed_hours = self.cron != "@hourly" and not (len(fields) > 1 and fields[-4].startswith("*"))
        while True:
            at_s = int(advance(float))
            # Not croniter's own `fold`: walking back it is set on times that exist only once.
            if not (at_fixed_hours and datetime.fromtimestamp(at_s, zone).fold):
                yield at_s
