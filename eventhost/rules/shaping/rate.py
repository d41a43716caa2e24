"""`Rate`: with each key at most so many within any span of time, exactly, however the span is laid."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from typing import Any


class Rate:
    """Remembers when each key was let through; at most `limit` times within `per_ms`.

    At most `max_keys` keys and `max_times` times are remembered. Beyond that the key that was let through the longest
    ago is forgotten, so that it may be let through too often, but never too seldom.
    """

    __slots__ = ("_count", "_times", "limit", "max_keys", "max_times", "per_ms")

    def __init__(self, limit: int, per_ms: int, max_keys: int, max_times: int) -> None:
        self.limit, self.per_ms, self.max_keys, self.max_times = limit, per_ms, max_keys, max_times
        # In the order of their newest times, so that what is over, and what is forgotten first, stands in front.
        self._times: OrderedDict[str, list[int]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return len(self._times)

    def admits(self, key: str, at_ms: int) -> bool:
        """Whether the key may be let through at `at_ms`; if so, it is. Times must not decrease."""
        times = self._times.get(key)
        if times is None:
            self._times[key] = [at_ms]
        else:
            past_ms = at_ms - self.per_ms
            if len(times) >= self.limit and times[0] > past_ms:
                return False
            if times[0] <= past_ms:
                over = bisect_right(times, past_ms)
                del times[:over]
                self._count -= over
            times.append(at_ms)
            self._times.move_to_end(key)
        self._count += 1
        self._forget(at_ms - self.per_ms)
        return True

    def _forget(self, past_ms: int) -> None:
        known = self._times
        while len(known) > 1:
            key = next(iter(known))
            times = known[key]
            if times[-1] > past_ms and len(known) <= self.max_keys and self._count <= self.max_times:
                return
            del known[key]
            self._count -= len(times)

    def dump(self, at_ms: int) -> list[list[Any]]:
        """What may still count after `at_ms`, as JSON."""
        past_ms = at_ms - self.per_ms
        return [[key, list(times)] for key, times in self._times.items() if times[-1] > past_ms]

    def load(self, state: list[list[Any]]) -> None:
        """Take up what `dump` gave."""
        self._times = OrderedDict((key, list(times)) for key, times in state)
        self._count = sum(map(len, self._times.values()))
