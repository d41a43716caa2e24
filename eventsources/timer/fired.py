"""Remembers which tick each schedule fired last: a file that a crash at any moment leaves whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from schedules import Schedule, Tick

_CLOCK_SET_BACK_S = 3600
"""A position further ahead than this was written under a clock that was wrong."""


@dataclass(slots=True)
class Position:
    """Where one schedule stands: `at_s`, in seconds since the epoch, was its last tick; `count` of them have fired."""

    cron: str
    timezone: str
    at_s: int
    count: int = 0


class Fired:
    """The positions of all `schedules`, kept in the file `path`.

    A schedule that is new, or whose `cron` or `timezone` was edited, starts from `now_s`: what came before is not its
    own.

    Raises:
        ValueError: the file is damaged.
    """

    def __init__(self, path: Path, schedules: Iterable[Schedule], now_s: float) -> None:
        self._path = path
        known: dict[str, Position] = {}
        if path.exists():
            try:
                known = {name: Position(**raw) for name, raw in json.loads(path.read_text("utf-8")).items()}
            except (ValueError, TypeError, AttributeError) as error:
                raise ValueError(f"{path} is damaged ({error}); remove it to start anew from now") from None
        self._positions: dict[str, Position] = {}
        for schedule in schedules:
            position = known.get(schedule.name)
            if (
                position is None
                or (position.cron, position.timezone) != (schedule.cron, schedule.timezone)
                or position.at_s > now_s + _CLOCK_SET_BACK_S
            ):
                position = Position(schedule.cron, schedule.timezone, int(now_s))
            self._positions[schedule.name] = position
        self._save()

    def __getitem__(self, schedule: Schedule) -> Position:
        return self._positions[schedule.name]

    def record(self, tick: Tick) -> None:
        """`tick` was accepted; once this returns it never fires again."""
        position = self._positions[tick.schedule.name]
        position.at_s = tick.at_s
        position.count += 1
        self._save()

    def _save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_name(f"{self._path.name}.draft")
        with draft.open("w", encoding="utf-8") as file:
            json.dump({name: asdict(position) for name, position in self._positions.items()}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)
