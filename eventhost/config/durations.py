"""Durations as people write them, such as `"500ms"`, become seconds; a bare number counts only where a unit is said."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BeforeValidator

from eventhost.config.wording import kind

UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
LONGEST_S = 366 * UNITS_S["d"]

_MEND = 'write a number with ms, s, m, h or d, such as "5s" or "500ms"'
_WRITTEN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def seconds(value: Any, *, bare_unit: str = "") -> float:
    """The seconds that a config's value stands for: a string with a unit, or a bare number of `bare_unit`.

    Without a `bare_unit` no bare number but 0 is accepted.

    Raises:
        ValueError: with a message and a mend.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not bare_unit and value:
            raise ValueError("expected a duration with a unit, got a bare number", _MEND)
        duration_s = value * UNITS_S[bare_unit or "s"]
    elif isinstance(value, str) and (written := _WRITTEN.fullmatch(value)):
        duration_s = float(written[1]) * UNITS_S[written[2]]
    else:
        # What begins with a digit was meant as a duration and can be shown; anything else may be a secret.
        got = f'"{value}"' if isinstance(value, str) and re.match(r"\d[\w .]{0,15}\Z", value) else kind(value)
        raise ValueError(f"expected a duration, got {got}", _MEND)
    if not 0 <= duration_s <= LONGEST_S:
        raise ValueError("expected a duration between 0 and 366 days", _MEND)
    return duration_s


def _reader(bare_unit: str) -> Callable[[Any], float]:
    return lambda value: seconds(value, bare_unit=bare_unit)


Duration = Annotated[float, BeforeValidator(_reader(""))]
"""Seconds, written with a unit; only 0 may be bare."""

Seconds = Annotated[float, BeforeValidator(_reader("s"))]
"""Seconds; a bare number is seconds too."""

Milliseconds = Annotated[float, BeforeValidator(_reader("ms"))]
"""Seconds; a bare number is milliseconds."""
