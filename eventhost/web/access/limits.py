"""How often somebody may ask: a token bucket for each key, or for each address where there is no key.

A bucket holds as many tokens as may be spent at once, and fills up evenly. What is remembered is bounded: of very many
addresses, those that have not asked for the longest time are forgotten, and begin anew with a full bucket.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

CAPACITY = 10_000
"""How many buckets are remembered."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of one request: `left` tokens, full again after `full_s`; `retry_s` is 0 if it may pass."""

    per_minute: float
    left: int
    full_s: float
    retry_s: float

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that tell the client; `Reset` is in seconds since the epoch."""
        told = [
            (b"x-ratelimit-limit", b"%d" % self.per_minute),
            (b"x-ratelimit-remaining", b"%d" % self.left),
            (b"x-ratelimit-reset", b"%d" % math.ceil(time.time() + self.full_s)),
        ]
        return [*told, (b"retry-after", b"%d" % self.retry_after_s)] if self.retry_s else told

    @property
    def retry_after_s(self) -> int:
        """When to come again, in whole seconds."""
        return max(1, math.ceil(self.retry_s))


@dataclass(slots=True)
class Limiter:
    """Buckets of `burst` tokens that `per_minute` fill again, by the name of who asks."""

    per_minute: float
    burst: float
    clock: Callable[[], float] = time.monotonic
    _buckets: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def take(self, who: str, per_minute: float | None = None) -> Taken:
        """Take a token of `who`, if there is one; with another rate, the burst grows or shrinks in proportion."""
        rate, burst = self.per_minute, self.burst
        if per_minute is not None:
            rate, burst = per_minute, max(1.0, burst * per_minute / rate)
        left, now = self._left(who, rate, burst), self.clock()
        passes = left >= 1
        if passes:
            left -= 1
        self._buckets[who] = (left, now)
        self._buckets.move_to_end(who)
        if len(self._buckets) > CAPACITY:
            self._buckets.popitem(last=False)
        per_s = rate / 60
        return Taken(rate, int(left), (burst - left) / per_s, 0 if passes else (1 - left) / per_s)

    def is_empty(self, who: str) -> float:
        """The seconds until `who` has a token again; 0 if there is one now. Takes nothing."""
        left = self._left(who, self.per_minute, self.burst)
        return 0 if left >= 1 else (1 - left) / (self.per_minute / 60)

    def _left(self, who: str, per_minute: float, burst: float) -> float:
        held = self._buckets.get(who)
        return burst if held is None else min(burst, held[0] + (self.clock() - held[1]) * per_minute / 60)


@lru_cache(maxsize=4096)
def neighbourhood(address: str) -> str:
    """Whose bucket an address takes from: of IPv6 a whole /64, which is what one customer has at least."""
    try:
        ip = ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return f"{IPv6Address(int(ip) >> 64 << 64)}/64"
    return address
