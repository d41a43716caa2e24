"""The filters and functions of our own: those whose work an event could drive up, and those that must know our views.

The engine counts instructions, not the work inside one: `"%9999999999d"|format(1)` would end the process. What is
here draws on the evaluation's budget; what an event's author has no use for is taken away.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote

import msgspec

from eventhost.expression.source import ExpressionError
from eventhost.expression.views import Budget, ListView, ObjectView, encode, kind, plain, present, to_text

REMOVED_FILTERS: Final = ("batch", "pprint", "slice", "wordwrap")
REMOVED_FUNCTIONS: Final = ("cycler", "debug", "joiner", "namespace")

_MAX_RANGE: Final = 100_000
_CONVERSION: Final = re.compile(r"%(?:\([^)]*\))?[-+ #0]*(\*|\d*)(?:\.(\*|\d*))?")
_MAX_WIDTH: Final = 1_000


def filters(budget: Budget) -> dict[str, Callable[..., Any]]:
    """The filters by name."""

    def tojson(value: Any, indent: Any = None) -> str:
        text = encode(plain(present(value)))
        if indent is not None:
            text = msgspec.json.format(text, indent=min(_whole(indent, "indent"), 16))
        budget.write(len(text))
        return text.decode()

    def replace(value: Any, old: Any, new: Any) -> str:
        text, before, after = _text(value, budget), _text(old, budget), _text(new, budget)
        budget.write(len(text) + text.count(before) * len(after))
        return text.replace(before, after)

    def join(values: Any, separator: Any = "", attribute: Any = None) -> str:
        if isinstance(values, str) or not isinstance(values, ObjectView | ListView | list | tuple | dict):
            raise ExpressionError(f"join: a list is needed, got {kind(values)}")
        items = [_attribute(item, attribute) for item in values] if attribute is not None else list(values)
        between = _text(separator, budget)
        texts = [_text(item, budget) for item in items]
        budget.write(sum(map(len, texts)) + len(between) * len(texts))
        return between.join(texts)

    def format_(template: Any, *values: Any, **named: Any) -> str:
        text = _text(template, budget)
        for width, precision in _CONVERSION.findall(text):
            if "*" in (width, precision) or max(int(width or 0), int(precision or 0)) > _MAX_WIDTH:
                raise ExpressionError(f"format: a width above {_MAX_WIDTH} is refused")
            # Each value is written at most once, but padded at most to that width.
            budget.write(max(int(width or 0), int(precision or 0)))
        try:
            filled = text % (named if named else values)
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise ExpressionError(f"format: {error}") from None
        budget.write(len(filled))
        return filled

    def indent(value: Any, width: Any = 4, first: Any = False, blank: Any = False) -> str:
        text, space = _text(value, budget), " " * min(_whole(width, "indent"), _MAX_WIDTH)
        lines = text.split("\n")
        budget.write(len(text) + len(lines) * len(space))
        return "\n".join(
            space + line if (line or blank) and (first or number) else line for number, line in enumerate(lines)
        )

    def truncate(value: Any, length: Any = 255, killwords: Any = False, end: Any = "...", leeway: Any = 5) -> str:
        text, tail = _text(value, budget), _text(end, budget)
        if len(text) <= _whole(length, "truncate") + _whole(leeway, "truncate"):
            return text
        kept = text[: max(length - len(tail), 0)]
        budget.write(len(kept) + len(tail))
        return (kept if killwords else kept.rsplit(" ", 1)[0]) + tail

    def urlencode(value: Any) -> str:
        # The engine's own makes an empty text of a field that is not there.
        if isinstance(value, ObjectView | dict):
            pairs = [f"{quoted(_text(key, budget), '')}={quoted(_text(value[key], budget), '')}" for key in value]
            return "&".join(pairs)
        return quoted(_text(value, budget), "/")

    def quoted(text: str, safe: str) -> str:
        budget.write(3 * len(text))
        return quote(text, safe)

    def items(value: Any) -> list[list[Any]]:
        _object(value, "items")
        return [[key, value[key]] for key in value]

    def dictsort(value: Any, by: Any = "key", reverse: Any = False, case_sensitive: Any = False) -> list[list[Any]]:
        position = 1 if by == "value" else 0

        def key(pair: list[Any]) -> Any:
            held = plain(pair[position])
            return held.lower() if isinstance(held, str) and not case_sensitive else held

        try:
            return sorted(items(value), key=key, reverse=bool(reverse))
        except TypeError:
            raise ExpressionError("dictsort: values of different types have no order") from None

    def searched(value: Any) -> Any:
        # A view counts what is read of it.
        if isinstance(value, list | tuple | dict):
            budget.read(len(value))
        elif not isinstance(value, str | ObjectView | ListView):
            raise ExpressionError(f"in: a list, an object or a string is needed, got {kind(value)}")
        return value

    return {
        "__number": number,
        "__searched": searched,
        "tojson": tojson,
        "replace": replace,
        "join": join,
        "format": format_,
        "indent": indent,
        "truncate": truncate,
        "urlencode": urlencode,
        "items": items,
        "dictsort": dictsort,
    }


def functions(budget: Budget) -> dict[str, Callable[..., Any]]:
    """The functions by name."""

    def range_(*bounds: Any) -> tuple[int, ...]:
        if not 1 <= len(bounds) <= 3 or not all(type(bound) is int for bound in bounds) or bounds[2:] == (0,):
            raise ExpressionError("range: one to three whole numbers are needed")
        numbers = range(*bounds)
        # Its length may be too large for len().
        if max(abs(bound) for bound in bounds) > 2**62 or len(numbers) > _MAX_RANGE:
            raise ExpressionError(f"range: more than {_MAX_RANGE} numbers are refused")
        budget.read(len(numbers))
        return tuple(numbers)

    return {"range": range_}


def tests(budget: Budget) -> dict[str, Callable[..., bool]]:
    """The tests by name."""

    def in_(value: Any, values: Any) -> bool:
        if isinstance(values, str):
            return _text(value, budget) in values
        if not isinstance(values, ObjectView | ListView | list | tuple | dict):
            raise ExpressionError(f"in: a list, an object or a string is needed, got {kind(values)}")
        if not isinstance(values, ObjectView | ListView):
            budget.read(len(values))
        return any(value == other for other in values)

    # To the engine itself a view is no mapping.
    return {"in": in_, "mapping": lambda value: isinstance(value, ObjectView | dict)}


def number(value: Any) -> Any:
    """What may stand beside `*`, which without it repeats strings and lists.

    Raises:
        ExpressionError: `value` is no number.
    """
    if isinstance(value, int | float):
        return value
    raise ExpressionError(f"* multiplies numbers, got {kind(value)}")


def _text(value: Any, budget: Budget) -> str:
    if isinstance(present(value), str):
        return str(value)
    return to_text(value, budget) if isinstance(value, ObjectView | ListView | dict | list | tuple) else str(value)


def _whole(value: Any, name: str) -> int:
    if type(value) is not int or value < 0:
        raise ExpressionError(f"{name}: a whole number is needed, got {kind(value)}")
    return value


def _object(value: Any, name: str) -> None:
    if not isinstance(value, ObjectView | dict):
        raise ExpressionError(f"{name}: an object is needed, got {kind(value)}")


def _attribute(value: Any, name: Any) -> Any:
    _object(value, "join")
    try:
        return value[name]
    except KeyError:
        raise ExpressionError(f"join: an element has no field {name!r}") from None
