"""Durations as people write them, such as `"500ms"`, become seconds; a bare number counts only where a unit is said."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BeforeValidator, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from eventhost.config.wording import kind
from eventhost.durations import UNITS_MS, milliseconds

LONGEST_S = 366 * 86_400

_MEND = 'write a number with ms, s, m, h or d, such as "5s" or "500ms"'


def seconds(value: Any, *, bare_unit: str = "") -> float:
    """The seconds that a config's value stands for: a string with a unit, or a bare number of `bare_unit`.

    Without a `bare_unit` no bare number but 0 is accepted.

    Raises:
        ValueError: with a message and a mend.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not bare_unit and value:
            raise ValueError("expected a duration with a unit, got a bare number", _MEND)
        duration_s = value * UNITS_MS[bare_unit or "s"] / 1000
    elif isinstance(value, str) and (duration_ms := milliseconds(value)) is not None:
        duration_s = float(duration_ms / 1000)
    else:
        # What begins with a digit was meant as a duration and can be shown; anything else may be a secret.
        got = f'"{value}"' if isinstance(value, str) and re.match(r"\d[\w .]{0,15}\Z", value) else kind(value)
        raise ValueError(f"expected a duration, got {got}", _MEND)
    if not 0 <= duration_s <= LONGEST_S:
        raise ValueError("expected a duration between 0 and 366 days", _MEND)
    return duration_s


def _reader(bare_unit: str) -> Callable[[Any], float]:
    return lambda value: seconds(value, bare_unit=bare_unit)


class _Written:
    """Tells JSON Schema how a duration is written, which pydantic cannot know from the function that reads it."""

    def __init__(self, bare_unit: str) -> None:
        self._bare_unit = bare_unit

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        positive = not {"exclusiveMinimum", "minimum"}.isdisjoint(handler(core))
        number = r"[0-9]+(\.[0-9]+)?"
        parts = "".join(f"({number}{unit})?" for unit in UNITS_MS)
        schema: dict[str, Any] = {"type": "string", "pattern": rf"^(?=.*{'[1-9]' if positive else '[0-9]'}){parts}$"}
        if self._bare_unit or not positive:
            schema |= {"type": ["string", "number"], "minimum": 0}
            if not self._bare_unit:
                schema["maximum"] = 0
        return schema


Duration = Annotated[float, BeforeValidator(_reader("")), _Written("")]
"""Seconds, written with a unit; only 0 may be bare."""

Seconds = Annotated[float, BeforeValidator(_reader("s")), _Written("s")]
"""Seconds; a bare number is seconds too."""

Milliseconds = Annotated[float, BeforeValidator(_reader("ms")), _Written("ms")]
"""Seconds; a bare number is milliseconds."""
