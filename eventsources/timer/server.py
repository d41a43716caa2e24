"""The timer: heartbeats at an interval, ticks by cron schedules; see README.md."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import ticking

from eventhost.errors import ConfigError, EventRejected, Problem
from eventhost.kit import EventSource, sleep

source = EventSource("timer", [ticking.HEARTBEAT, ticking.TICK], description="Heartbeats, and ticks by the calendar")


class MachineClock:
    """The clock of the machine it runs on."""

    wall_s = staticmethod(time.time)
    steady_s = staticmethod(time.monotonic)
    sleep = staticmethod(sleep)


def plan() -> ticking.Plan:
    """What the configuration asks for.

    Raises:
        ConfigError: it cannot be understood.
    """
    try:
        return ticking.plan(source.options)
    except ValueError as error:
        raise ConfigError([Problem("config.jsonc", str(error))]) from None


async def emit(
    event_type: str, payload: Mapping[str, Any], *, event_id: str | None = None, timestamp: int | None = None
) -> None:
    """Emit, and go on when the host wants no such event: it counts and shows what it rejected."""
    try:
        await source.emit(event_type, dict(payload), id=event_id, timestamp=timestamp)
    except EventRejected as error:
        source.log("warning", str(error))


@source.task
async def heartbeats() -> None:
    """Fire the interval."""
    await ticking.beat(plan(), emit, MachineClock())


@source.task
async def schedules() -> None:
    """Fire the schedules."""
    wanted = plan()
    if wanted.schedules:
        await ticking.follow_schedules(wanted, emit, MachineClock(), source.state_dir / "schedules.json")


if __name__ == "__main__":
    source.run()
