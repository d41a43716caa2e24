"""What an expression sees of an event: values that it can read, within a budget, and never change.

The engine holds Python's containers by reference and finds their methods where a field is missing: with a plain dict
`payload.clear()` would empty the event, and `payload.values > 5` compare a method. These views have no public names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from eventhost.expression.source import ExpressionError

MAX_READS: Final = 200_000
"""How many fields and elements one evaluation may look at; about 0.1 s of work."""

MAX_TEXT: Final = 4_194_304
"""How many characters one evaluation may make."""

MAX_SEARCH: Final = 33_554_432
"""How many steps the regular expressions of one evaluation may take at worst: characters times instructions."""

MISSING: Final[Any] = object()
"""Stands for a field that is not there, for those filters of ours to which null is a value."""

encode = msgspec.json.Encoder().encode


class Budget:
    """What is left of the work that one evaluation may do."""

    __slots__ = ("patterns", "reads", "steps", "text")

    def __init__(self) -> None:
        self.patterns: set[str] = set()
        """Those of which this evaluation has paid for the making, be they at hand or not: else a replay may differ."""
        self.refill()

    def refill(self) -> None:
        self.reads, self.text, self.steps = MAX_READS, MAX_TEXT, MAX_SEARCH
        self.patterns.clear()

    def read(self, count: int = 1) -> None:
        self.reads -= count
        if self.reads < 0:
            raise self.spent()

    def write(self, length: int) -> None:
        self.text -= length
        if self.text < 0:
            raise ExpressionError(f"makes more than {MAX_TEXT} characters of text")

    def search(self, steps: int) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise ExpressionError("searches too much text: a shorter pattern takes a longer text")

    @staticmethod
    def spent() -> ExpressionError:
        return ExpressionError(f"does too much work: it looks at more than {MAX_READS} values")


class ObjectView:
    """An object of the event."""

    __slots__ = ("_budget", "_value")

    def __init__(self, value: dict[str, Any], budget: Budget) -> None:
        self._value, self._budget = value, budget

    def __getitem__(self, key: object) -> Any:
        self._budget.read()
        return view(self._value[key], self._budget)  # type: ignore[index]

    def __len__(self) -> int:
        return len(self._value)

    def __iter__(self) -> Iterator[Any]:
        # The engine takes an object that cannot be walked through for an empty one; `Engine.run` asks the budget.
        self._budget.read(len(self._value))
        return iter(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self._value == other._value

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return to_text(self._value, self._budget)


class ListView:
    """A list of the event."""

    __slots__ = ("_budget", "_value")

    def __init__(self, value: list[Any], budget: Budget) -> None:
        self._value, self._budget = value, budget

    def __getitem__(self, index: Any) -> Any:
        self._budget.read()
        return view(self._value[index], self._budget)

    def __len__(self) -> int:
        return len(self._value)

    def __iter__(self) -> Iterator[Any]:
        self._budget.read(len(self._value))
        return iter([view(item, self._budget) for item in self._value])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self._value == other._value

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return to_text(self._value, self._budget)


# By this the engine knows a list; it takes on none of Sequence's methods.
Sequence.register(ListView)


def view(value: Any, budget: Budget) -> Any:
    """`value` as an expression may see it."""
    if type(value) is dict:
        return ObjectView(value, budget)
    if type(value) is list:
        return ListView(value, budget)
    return value


def plain(value: Any) -> Any:
    """The JSON value that an expression gave: views become what they show, the engine's own values JSON's."""
    if isinstance(value, ObjectView | ListView):
        return value._value
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(plain(key)): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    return str(value)


def to_text(value: Any, budget: Budget) -> str:
    """`value` as JSON text, as it stands within a longer text."""
    text = encode(plain(value)).decode()
    budget.write(len(text))
    return text


def kind(value: Any) -> str:
    """What `value` is, in a message."""
    if value is None:
        return "nothing"
    names = {bool: "a boolean", int: "a number", float: "a number", ObjectView: "an object", dict: "an object"}
    return "a string" if isinstance(value, str) else names.get(type(value), "a list")


def present(value: Any) -> Any:
    """`value`, unless it stands for a field that is not there.

    Raises:
        ExpressionError: it does.
    """
    if value is MISSING:
        raise ExpressionError("the value is undefined; `|default(…)` gives it another")
    return value
