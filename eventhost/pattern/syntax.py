"""The pattern language: an invalid pattern is refused with the reason and the place, a valid one never fails to match.

The language is Amazon EventBridge's, over an event's JSON: an object's keys are AND, an array's items are OR. So far an
item is an exact value; the operators are refused by name.
https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-create-pattern.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Final, Self

from eventhost.errors import EventhostError
from eventhost.event import EnvEvent

Path = tuple[str | int, ...]
"""Keys and array positions, from the pattern's root inwards."""

MAX_PATTERN_DEPTH: Final = 64

_OPERATORS: Final = frozenset(
    ("prefix", "suffix", "equals-ignore-case", "anything-but", "wildcard", "numeric", "exists", "cidr")
)


class PatternError(EventhostError):
    """The pattern must be mended by its author; `path` leads from its root to the place where `reason` holds."""

    def __init__(self, reason: str, path: Path = ()) -> None:
        self.reason, self.path = reason, path
        place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
        super().__init__(f"match{place}: {reason}")


class Pattern:
    """A parsed event pattern."""

    __slots__ = ("_root",)

    def __init__(self, root: Fields) -> None:
        self._root = root

    @classmethod
    def parse(cls, pattern: object, strict: bool = True) -> Self:
        """Read a pattern: JSON values as EventBridge takes them. Not `strict`: a bare scalar means a one-item array.

        Raises:
            PatternError: the pattern is invalid, or uses an operator that is not supported yet.
        """
        return cls(_object(pattern, (), strict, 1))

    def matches(self, event: EnvEvent | Mapping[str, Any]) -> bool:
        """Whether the event, or the JSON object, has what the pattern asks for."""
        return self._root.holds(as_json(event) if isinstance(event, EnvEvent) else dict(event))

    def matches_json(self, event: dict[str, Any]) -> bool:
        """As `matches`, for what `as_json` gave: many patterns can share it."""
        return self._root.holds(event)


def as_json(event: EnvEvent) -> dict[str, Any]:
    """The JSON object that a pattern looks at; shares everything below its first level with the event."""
    return {
        "id": event.id,
        "type": event.type,
        "timestamp": event.timestamp,
        "metadata": event.metadata,
        "payload": event.payload,
    }


class Values:
    """A leaf: the field is one of these values; of an array, any element is."""

    __slots__ = ("_values",)

    def __init__(self, values: Sequence[object]) -> None:
        self._values = frozenset(map(_distinct, values))

    def holds(self, value: object) -> bool:
        if type(value) is list:
            return any(map(self.holds, value))
        return type(value) is not dict and _distinct(value) in self._values


class Fields:
    """An object: all fields hold; of an array of objects, all within the same element.

    A key with dots is a path, unless the object it looks at has that literal key, or a literal beginning of it. Paths
    that share their beginning are one object, so that they too hold within the same element.
    """

    __slots__ = ("_fields", "_literals", "pairs")

    def __init__(self, pairs: Sequence[tuple[str, Node]], splits: Mapping[str, str] | None = None) -> None:
        self.pairs = tuple(pairs)
        self._literals = () if splits else tuple((key, _beginnings(key)) for key, _ in pairs if "." in key)
        fields: list[tuple[str, Node]] = []
        below: dict[str, list[tuple[str, Node]]] = {}
        for key, node in pairs:
            head = (splits or {}).get(key) or key.partition(".")[0]
            if head != key:
                below.setdefault(head, []).append((key[len(head) + 1 :], node))
            elif isinstance(node, Fields):
                below.setdefault(head, []).extend(node.pairs)
            else:
                fields.append((key, node))
        self._fields = (*fields, *((key, Fields(inner)) for key, inner in below.items()))

    def holds(self, value: object) -> bool:
        if type(value) is list:
            return any(map(self.holds, value))
        if type(value) is not dict:
            return False
        if self._literals and (splits := self._literal_splits(value)):
            return Fields(self.pairs, splits).holds(value)
        for key, node in self._fields:  # noqa: SIM110 - a generator would take three times as long
            if key not in value or not node.holds(value[key]):
                return False
        return True

    def _literal_splits(self, value: dict[str, Any]) -> dict[str, str]:
        return {
            key: found
            for key, beginnings in self._literals
            if (found := next((beginning for beginning in beginnings if beginning in value), None))
        }


Node = Values | Fields


class _Boolean:
    """What stands for a boolean in a set, where Python would take `True` for 1."""


_TRUE, _FALSE = _Boolean(), _Boolean()


def _distinct(value: object) -> object:
    return _TRUE if value is True else _FALSE if value is False else value


def _beginnings(key: str) -> tuple[str, ...]:
    """`a.b.c` and `a.b` of `a.b.c`: what may be there literally, the longest first."""
    steps = key.split(".")
    return tuple(".".join(steps[:count]) for count in range(len(steps), 1, -1))


def _object(value: object, path: Path, strict: bool, depth: int) -> Fields:
    if not isinstance(value, Mapping):
        raise PatternError(f"a pattern is an object, got {_kind(value)}", path)
    if not value:
        raise PatternError("empty objects are not allowed; leave it out to match anything", path)
    pairs: list[tuple[str, Node]] = []
    for key, inner in value.items():
        at = (*path, key)
        if not isinstance(key, str):
            raise PatternError(f"a key is a string, got {_kind(key)}", path)
        if (deeper := depth + 1 + key.count(".")) > MAX_PATTERN_DEPTH:
            raise PatternError(f"nests deeper than {MAX_PATTERN_DEPTH} levels", at)
        if key == "$or" and isinstance(inner, list):
            raise PatternError('not supported yet: "$or"; write one rule for each alternative', at)
        node = _object(inner, at, strict, deeper) if isinstance(inner, Mapping) else _values(inner, at, strict)
        pairs.append((key, node))
    return Fields(pairs)


def _values(value: object, path: Path, strict: bool) -> Values:
    if not isinstance(value, list | tuple):
        if strict:
            raise PatternError(f"must be an object or an array, got {_kind(value)}", path)
        return Values([_scalar(value, path)])
    if not value:
        raise PatternError("empty arrays are not allowed", path)
    return Values([_scalar(item, (*path, position)) for position, item in enumerate(value)])


def _scalar(value: object, path: Path) -> object:
    if isinstance(value, Mapping):
        name = next(iter(value), "")
        if name in _OPERATORS:
            raise PatternError(f'not supported yet: the operator "{name}"; put the condition into `when`', path)
        raise PatternError(f'unrecognized match type "{name}"; in an array stand values, such as ["a", 1, true]', path)
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and isfinite(value)):
        return value
    raise PatternError(f"match value must be string, number, true, false, or null, got {_kind(value)}", path)


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    return "a number" if type(value) in (int, float) else names.get(type(value), type(value).__name__)
