"""Remembers which tick each schedule fired last."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from schedules import Schedule, Tick

from eventhost.errors import ConfigError, Problem
from eventhost.kit.bookmark import Bookmark

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
        ConfigError: the file is damaged.
    """

    def __init__(self, path: Path, schedules: Iterable[Schedule], now_s: float) -> None:
        self._bookmark = Bookmark(path)
        try:
            known = {name: Position(**raw) for name, raw in self._bookmark.content.items()}
        except TypeError as error:
            problem = Problem(str(path), f"damaged: {error}", "remove it to start anew from now")
            raise ConfigError([problem]) from None
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
        self._bookmark.save({name: asdict(position) for name, position in self._positions.items()})
