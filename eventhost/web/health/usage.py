"""How much of the machine the host's own process takes."""

from __future__ import annotations

import time
from typing import Final

import psutil  # type: ignore[import-untyped]

_SPAN_S: Final = 1.0


class Usage:
    """Memory, and the share of a processor since it was last asked, a second ago at the least."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._at, self._used_s = time.monotonic(), self._cpu_s()
        self._percent: float | None = None

    def memory(self) -> str:
        """Resident memory, as `45.2MB`."""
        return f"{self._process.memory_info().rss / 1e6:.1f}MB"

    def cpu(self) -> str:
        """As `12.5%`, of one processor."""
        now, used_s = time.monotonic(), self._cpu_s()
        span_s = now - self._at
        if self._percent is None or span_s >= _SPAN_S:
            self._percent = 100 * (used_s - self._used_s) / max(span_s, 1e-3)
            self._at, self._used_s = now, used_s
        return f"{self._percent:.1f}%"

    def _cpu_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)
