"""Fires what a timer's options say, on time by the clock it is handed, and each scheduled tick at least once."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from schedules import Schedule

HEARTBEAT, TICK = "timer.heartbeat", "timer.tick"

_LONGEST_SLEEP_S = 60.0
"""The wall clock can be set, and a laptop can sleep; nobody tells the event loop."""

_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


class Clock(Protocol):
    """Where time comes from: the machine, or a test."""

    def wall_s(self) -> float:
        """Seconds since the epoch."""

    def steady_s(self) -> float:
        """Seconds since some moment; never set back."""

    async def sleep(self, seconds: float) -> None: ...


class Emit(Protocol):
    """Hands an event to the host; returns once it is accepted."""

    def __call__(
        self, event_type: str, payload: Mapping[str, Any], *, event_id: str | None = None, timestamp: int | None = None
    ) -> Awaitable[object]: ...


class Plan(NamedTuple):
    """What to fire; `interval_s` is None where there is no heartbeat."""

    interval_s: float | None
    heartbeat_type: str
    schedules: tuple[Schedule, ...]


def plan(options: Mapping[str, Any]) -> Plan:
    """Check the source's options.

    Raises:
        ValueError: what is wrong, and how to mend it.
    """
    allowed = options.get("eventTypes") or []
    only_ticks = TICK in allowed and not any(text in allowed for text in (HEARTBEAT, "timer.*", "*"))
    raw = options.get("schedules") or []
    if not isinstance(raw, list):
        raise ValueError('schedules: expected a list such as [{"name": "nightly", "cron": "0 3 * * *"}]')
    schedules: tuple[Schedule, ...] = ()
    if raw:
        # Here, because croniter and the time zones are megabytes that a plain heartbeat does without.
        from schedules import Schedule

        schedules = tuple(Schedule.from_config(entry, f"schedules[{n}]") for n, entry in enumerate(raw))
        names = [schedule.name for schedule in schedules]
        for n, name in enumerate(names):
            if name in names[:n]:
                raise ValueError(f"schedules[{n}].name: {name!r} is taken; each schedule needs a name of its own")
    return Plan(_interval_s(options.get("interval")), TICK if only_ticks else HEARTBEAT, schedules)


def _interval_s(value: Any) -> float | None:
    if value is None or value is False or value == 0:
        return None
    if isinstance(value, str) and (match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)", value.strip())):
        value = float(match[1]) * _UNITS_MS[match[2]]
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 1:
        raise ValueError(f'interval: expected milliseconds or a text such as "5s", got {value!r}')
    return value / 1000


async def beat(plan: Plan, emit: Emit, clock: Clock) -> None:
    """Emit a heartbeat each interval, without drift; beats that a busy host left no room for are let go."""
    if plan.interval_s is None:
        return
    count = 0
    due_s = clock.steady_s()
    while True:
        late_s = clock.steady_s() - due_s
        due_s += plan.interval_s * (1 + max(0, late_s) // plan.interval_s)
        await clock.sleep(due_s - clock.steady_s())
        count += 1
        await emit(plan.heartbeat_type, {"count": count, "timestamp": int(clock.wall_s() * 1000)})


async def follow_schedules(plan: Plan, emit: Emit, clock: Clock, state: Path) -> None:
    """Emit the ticks of all schedules, oldest first, and keep in the file `state` which have been accepted.

    A crash between the two repeats a tick with the same id and content, which the host drops as a duplicate.
    """
    if not plan.schedules:
        return
    from fired import Fired

    fired = Fired(state, plan.schedules, clock.wall_s())
    while True:
        now_s = clock.wall_s()
        due = [tick for schedule in plan.schedules for tick in schedule.due(fired[schedule].at_s, now_s)]
        for tick in sorted(due, key=lambda tick: tick.at_s):
            schedule = tick.schedule
            # Nothing in it may depend on when it is sent, or a repeat would not be known for one.
            said = {"schedule": schedule.name, "count": fired[schedule].count + 1, "timestamp": tick.at_s * 1000}
            await emit(schedule.type, {**schedule.payload, **said}, event_id=tick.id, timestamp=tick.at_s * 1000)
            fired.record(tick)
        now_s = clock.wall_s()
        next_s = min(schedule.next_after(now_s) for schedule in plan.schedules)
        await clock.sleep(min(next_s - now_s, _LONGEST_SLEEP_S))
