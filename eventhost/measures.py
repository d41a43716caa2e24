"""How long things take, in histograms that cost next to nothing to fill; who reads them adds up."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

BOUNDS_S: Final = (
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0,
)  # fmt: skip
"""The upper bounds of the buckets, in seconds; beyond the last there is one more."""


class Histogram:
    """Counts durations by `BOUNDS_S`."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def observe(self, duration_s: float, times: int = 1) -> None:
        """Something took this long, so many times; a clock that was set back makes it 0."""
        self.counts[bisect_left(BOUNDS_S, duration_s)] += times
        if duration_s > 0:
            self.sum_s += duration_s * times

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """For each bound, and for infinity, how many took no longer."""
        return zip((*BOUNDS_S, float("inf")), accumulate(self.counts), strict=True)


@dataclass(frozen=True, slots=True)
class Latency:
    """How long an event is on its way, stage by stage."""

    accept: Histogram = field(default_factory=Histogram)
    """From being published to being durable."""
    match: Histogram = field(default_factory=Histogram)
    """From being accepted until all rules were asked; each sixteenth event stands for those up to the next."""
    deliver: Histogram = field(default_factory=Histogram)
    """From being owed to a rule, once its shaping let it go, until its actions were done or given up."""
