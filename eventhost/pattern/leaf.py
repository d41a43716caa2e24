"""Leaves: an event's strings, numbers, booleans and nulls, made so that two are equal when JSON says they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final


class Literal:
    """Stands for what Python would confuse with another value: it takes `True` for 1."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


TRUE: Final = Literal("true")
FALSE: Final = Literal("false")

MISSING: Final = Literal("missing")
"""No leaf is there: no such key, an object, or an empty array."""

Leaf = str | int | float | Literal | None


def leaf(value: Any) -> Leaf:
    """The leaf that a JSON scalar is."""
    if value is True:
        return TRUE
    if value is False:
        return FALSE
    return value  # type: ignore[no-any-return]


def elements(array: list[Any]) -> Iterator[Any]:
    """What stands in an array and in the arrays within it, at any depth; in no particular order."""
    arrays = [array]
    while arrays:
        for value in arrays.pop():
            if type(value) is list:
                arrays.append(value)
            else:
                yield value
