"""Browsers: signed in by a cookie, and let in once by a ticket where they cannot send a header.

Both are random and known only here, so that the end of the host, or of the key that they stand for, ends them. What is
kept is a digest: whoever reads the host's memory or a dump of it finds nothing to come in with.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256

from eventhost.access import Caller

CAPACITY = 10_000
"""How many are kept; the oldest go first."""

TICKET_S = 60.0


@dataclass(frozen=True, slots=True)
class Pass:
    """Who comes with it, and by which key; the id is empty for whoever needed none."""

    caller: Caller
    key_id: str


@dataclass(slots=True)
class Passes:
    """Random texts that stand for somebody for `life_s` seconds each."""

    life_s: float
    clock: Callable[[], float] = time.monotonic
    _held: OrderedDict[bytes, tuple[float, Pass]] = field(default_factory=OrderedDict)

    def give(self, bearer: Pass) -> str:
        """A new text for `bearer`."""
        now = self.clock()
        while self._held and (len(self._held) >= CAPACITY or next(iter(self._held.values()))[0] <= now):
            self._held.popitem(last=False)
        text = secrets.token_urlsafe(32)
        self._held[_digest(text)] = (now + self.life_s, bearer)
        return text

    def bearer(self, text: str) -> Pass | None:
        """Whom `text` stands for."""
        held = self._held.get(_digest(text))
        return held[1] if held is not None and held[0] > self.clock() else None

    def take(self, text: str) -> Pass | None:
        """Whom `text` stood for: from now on nobody."""
        held = self._held.pop(_digest(text), None)
        return held[1] if held is not None and held[0] > self.clock() else None


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogatepass")).digest()
