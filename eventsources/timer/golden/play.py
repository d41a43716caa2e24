"""Plays the timer's golden cases by a clock that moves only while the timer sleeps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import ticking

from eventhost.kit.golden import Event, play


class Over(Exception):
    """The time that a case lasts is over."""


class FakeClock:
    """Time that passes only while somebody sleeps."""

    def __init__(self, start_s: float, end_s: float) -> None:
        self.now_s, self.end_s = start_s, end_s

    def wall_s(self) -> float:
        """Seconds since the epoch."""
        return self.now_s

    steady_s = wall_s

    async def sleep(self, seconds: float) -> None:
        """Be so much later at once.

        Raises:
            Over: that would be after the end.
        """
        if self.now_s + seconds > self.end_s:
            raise Over
        self.now_s += max(0.0, seconds)


class Recorder:
    """Stands for the host: takes events down."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    async def emit(
        self, event_type: str, payload: Mapping[str, Any], *, event_id: str | None = None, timestamp: int | None = None
    ) -> None:
        """Take an event; what it does not say is left out."""
        event = {"id": event_id, "type": event_type, "timestamp": timestamp, "payload": dict(payload)}
        self.events.append({key: value for key, value in event.items() if value is not None})


async def drive(case: dict[str, Any], folder: Path) -> list[Event]:
    """Let the time pass that the case lasts: first for the heartbeat, then for the schedules."""
    config, span = case["config"], case["input"]
    plan = ticking.plan({**config, **config.get("options", {})})
    start_s, end_s = (datetime.fromisoformat(span[name]).timestamp() for name in ("from", "until"))
    state = folder / "schedules.json"
    if "fired" in span:
        state.write_text(json.dumps(span["fired"]))
    host = Recorder()
    with suppress(Over):
        await ticking.beat(plan, host.emit, FakeClock(start_s, end_s))
    with suppress(Over):
        await ticking.follow_schedules(plan, host.emit, FakeClock(start_s, end_s), state)
    return list(host.events)


if __name__ == "__main__":
    play(drive)
