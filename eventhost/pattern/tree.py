"""The conditions of a pattern as a tree beside the event's own: which verdict they come to, in one walk over both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from eventhost.pattern.condition import Condition, Path, after, beginnings
from eventhost.pattern.leaf import MISSING, elements, leaf
from eventhost.pattern.syntax import Branch

# Of conditions below an array, those on leaves that are there choose an element. Those on leaves that are not there
# hold for what is chosen; where nothing is, they must hold for all elements.
NO: Final = 0
ABSENT: Final = 1
"""All conditions hold, each because its leaf is not there."""
PRESENT: Final = 2
"""All conditions hold, one of them for a leaf that is there."""

Verdict = int


@lru_cache(4096)
def tree_of(branch: Branch) -> Fields:
    """The conditions by their first keys, and so on inwards."""
    return Fields([(condition.path, Field(condition)) for condition in branch])


class Field:
    """A leaf: a condition holds for it; of an array, for any element."""

    __slots__ = ("_test", "optional")

    def __init__(self, condition: Condition) -> None:
        self.optional: Final = condition.optional
        self._test = condition.test()

    def judge(self, value: object) -> Verdict:
        if type(value) is not list:
            if type(value) is not dict and value is not MISSING:
                return PRESENT if self._test(leaf(value)) else NO
            return ABSENT if self.optional else NO
        missing = True
        for element in elements(value):
            if type(element) is not dict:
                missing = False
                if self._test(leaf(element)):
                    return PRESENT
        return ABSENT if missing and self.optional else NO


class Fields:
    """An object: all its fields hold; of an array of objects, all within the same element.

    A key with dots is a path, unless the object it looks at has that literal key, or a literal beginning of it. Paths
    that share their beginning are one object, so that they too hold within the same element.
    """

    __slots__ = ("_below", "_conditions", "_literals", "optional")

    def __init__(self, conditions: Sequence[tuple[Path, Field]], literals: Mapping[str, str] | None = None) -> None:
        """`literals`: what to take as one key of a dotted one, for an object that has it."""
        self._conditions = conditions
        self.optional: Final = all(field.optional for _, field in conditions)
        dotted = {path[0]: beginnings(path[0]) for path, _ in conditions if "." in path[0]}
        self._literals = () if literals is not None else tuple(dotted.items())
        below: dict[str, list[tuple[Path, Field]]] = {}
        self._below: list[tuple[str, Field | Fields]] = []
        for path, field in conditions:
            key = path[0]
            head = (literals or {}).get(key) or key.partition(".")[0]
            rest = after(path, head)
            if rest:
                below.setdefault(head, []).append((rest, field))
            else:
                self._below.append((head, field))
        self._below += [(key, Fields(inner)) for key, inner in below.items()]

    def judge(self, value: object) -> Verdict:
        if type(value) is not list:
            return self._judge_one(value)
        everywhere: Verdict | None = None
        for element in elements(value):
            verdict = self._judge_one(element)
            if verdict == PRESENT:
                return PRESENT
            everywhere = verdict if everywhere is None else min(everywhere, verdict)
        return self._judge_one(MISSING) if everywhere is None else everywhere

    def _judge_one(self, value: object) -> Verdict:
        if type(value) is not dict:
            return ABSENT if self.optional else NO
        if self._literals and (literals := self._found(value)):
            return Fields(self._conditions, literals)._judge_one(value)
        verdict = ABSENT
        for key, below in self._below:
            one = below.judge(value.get(key, MISSING))
            if one == NO:
                return NO
            if one == PRESENT:
                verdict = PRESENT
        return verdict

    def _found(self, value: dict[str, Any]) -> dict[str, str]:
        return {
            key: found
            for key, tries in self._literals
            if (found := next((beginning for beginning in tries if beginning in value), None))
        }
