"""`<` and its like compare numbers with numbers and texts with texts, and nothing else.

To the engine any text is greater than any number, so that `payload.temp > 30` would hold for `"5"`, and null is less
than both. So something is put beside each side (`source.guarded`): where the other one is a literal, a zero or an
empty text to be added, which the engine refuses to do with another kind; else the two filters here. They know a
comparison by its place, since others may lie within it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from eventhost.expression.source import ExpressionError
from eventhost.expression.views import kind, present


def filters() -> dict[str, Callable[..., Any]]:
    """The filters by name."""
    kinds: dict[int, str] = {}

    def left(value: Any, place: int) -> Any:
        kinds[place] = kind(present(value))
        return _comparable(value)

    def right(value: Any, place: int) -> Any:
        one, other = kinds[place], kind(present(value))
        value = _comparable(value)
        if (one == "a string") is not isinstance(value, str):
            raise ExpressionError(f"cannot compare {one} with {other}; `|float` or `|string` makes them alike")
        return value

    return {"__left": left, "__right": right}


def _comparable(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int | float | str):
        return value
    raise ExpressionError(f"cannot compare {kind(value)}: only numbers and texts have an order")
