"""`Condition`: what one field must be. Equal conditions are one object, so that what they cost is paid once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from operator import eq
from typing import Any, Final
from weakref import WeakValueDictionary

from eventhost.pattern.leaf import Leaf
from eventhost.pattern.operators import Exists, Operator

Path = tuple[str, ...]
"""A field's keys as the pattern has them, from the event's root inwards; one that has dots may itself be a path."""

Alternative = Leaf | Operator


class Condition:
    """The leaf at `path` is one of these values, or one of these operators matches it.

    Make one with `condition`: those with an operator are the same object when they are equal. Values alone seldom
    recur, and are not worth remembering.
    """

    __slots__ = ("__weakref__", "_test", "alternatives", "exact", "path")

    def __init__(self, path: Path, alternatives: tuple[Alternative, ...], exact: bool) -> None:
        self.path, self.alternatives = path, alternatives
        self.exact: Final = exact
        """Whether it is values alone."""
        self._test: Callable[[Leaf], bool] | None = None

    @property
    def optional(self) -> bool:
        """Whether it holds where no leaf is."""
        return any(type(alternative) is Exists and not alternative.present for alternative in self.alternatives)

    def test(self) -> Callable[[Leaf], bool]:
        """What tells whether it holds for a leaf, or for `MISSING`."""
        if self.exact:
            # Not remembered: an index seldom needs it, and it would be most of what the condition takes.
            if len(self.alternatives) == 1:
                return partial(eq, self.alternatives[0])
            return frozenset(self.alternatives).__contains__
        if self._test is not None:
            return self._test
        operators = [alternative for alternative in self.alternatives if isinstance(alternative, Operator)]
        values = frozenset(self.alternatives).difference(operators)
        tests = tuple(operator.matches for operator in operators)
        if len(tests) == 1 and not values:
            self._test = tests[0]
        else:
            self._test = lambda leaf: leaf in values or any(test(leaf) for test in tests)
        return self._test


_known: WeakValueDictionary[tuple[Path, tuple[Alternative, ...]], Condition] = WeakValueDictionary()


def condition(path: Path, alternatives: tuple[Alternative, ...]) -> Condition:
    """That condition; the one there is already, if it has an operator."""
    if not any(isinstance(alternative, Operator) for alternative in alternatives):
        return Condition(path, alternatives, exact=True)
    key = path, alternatives
    known = _known.get(key)
    if known is None:
        known = _known[key] = Condition(path, alternatives, exact=False)
    return known


def beginnings(key: str) -> tuple[str, ...]:
    """`a.b.c` and `a.b` of `a.b.c`: what may be there literally, the longest first."""
    steps = key.split(".")
    return tuple(".".join(steps[:count]) for count in range(len(steps), 1, -1))


def head_in(event: Mapping[str, Any], key: str) -> str:
    """The beginning of `key` that is itself a key for this object: a literal one, else the first step."""
    return next((beginning for beginning in beginnings(key) if beginning in event), key.partition(".")[0])


def after(path: Path, head: str) -> Path:
    """What is left of a path once its `head` has been followed."""
    key = path[0]
    return path[1:] if head == key else (key[len(head) + 1 :], *path[1:])
