"""Durations as people write them: `"500ms"`, `"5m"`, `"1h30m"`; what is written reads as what it was."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

UNITS_MS: Final = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
"""The units, from the longest to the shortest; several stand in this order."""

_MAX_LENGTH: Final = 40
_NUMBER: Final = r"([0-9]+(?:\.[0-9]+)?)"
_WRITTEN: Final = re.compile("".join(f"(?:{_NUMBER}{unit})?" for unit in UNITS_MS))


def milliseconds(text: str) -> Fraction | None:
    """The exact number of milliseconds that `text` stands for, or None if it is no duration."""
    found = _WRITTEN.fullmatch(text) if 0 < len(text) <= _MAX_LENGTH else None
    if found is None:
        return None
    parts = zip(found.groups(), UNITS_MS.values(), strict=True)
    return sum((Fraction(number) * unit_ms for number, unit_ms in parts if number), Fraction())


def written(duration_ms: int, units: int = len(UNITS_MS)) -> str:
    """The shortest text that stands for a duration, cut off after so many `units`: `"1h30m"`."""
    counts: list[tuple[int, str]] = []
    rest_ms = abs(duration_ms)
    for unit, unit_ms in UNITS_MS.items():
        count, rest_ms = divmod(rest_ms, unit_ms)
        if counts or count:
            counts.append((count, unit))
    text = "".join(f"{count}{unit}" for count, unit in counts[:units] if count)
    return f"-{text}" if duration_ms < 0 else text or "0s"
