"""Reading patterns: an invalid one is refused with the reason and the place, a valid one never fails to match.

The language is Amazon EventBridge's; the refusals, and most of their words, are event-ruler's.
https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-create-pattern-operators.html
https://github.com/aws/event-ruler
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from math import inf, isfinite
from sys import intern
from typing import Any, Final

from eventhost.pattern.condition import Alternative, Condition, Path, condition
from eventhost.pattern.error import PatternError, Place
from eventhost.pattern.leaf import Leaf, leaf
from eventhost.pattern.operators import (
    IPV4_BITS,
    IPV6_BITS,
    AnythingBut,
    Cidr,
    Exists,
    IgnoringCase,
    Operator,
    Prefix,
    Range,
    Suffix,
    Wildcard,
    parse_address,
)

MAX_DEPTH: Final = 64
"""Levels of objects and of steps in dotted keys."""

MAX_ITEMS: Final = 100_000
"""Keys and values of one pattern."""

MAX_COMBINATIONS: Final = 1_000
"""In how many ways the alternatives of all `$or` of a pattern may combine, as EventBridge has it."""

MAX_CONDITIONS: Final = 10_000
"""The conditions of all these combinations together."""

Branch = tuple[Condition, ...]
"""Conditions on different fields that must hold together."""

Placed = tuple[Path, tuple[Alternative, ...], Place]
"""A condition to be, with its place in the pattern."""

_RESERVED_IN_OR: Final = frozenset((
    "exactly", "equals-ignore-case", "prefix", "suffix", "anything-but", "exists", "wildcard", "numeric", "cidr", "=",
    "<", "<=", ">", ">=", "regex", "not-wildcard", "not-equals-ignore-case", "date-after", "date-on-or-after",
    "date-before", "date-on-or-before", "in-date-range", "ip-address-in-range", "ip-address-not-in-range",
))  # fmt: skip
"""Names that event-ruler keeps for itself: with them, `$or` is a field like any other."""


def parse_branches(pattern: object, strict: bool) -> tuple[Branch, ...]:
    """The combinations of conditions of which one must hold.

    Raises:
        PatternError: the pattern is invalid.
    """
    return tuple(map(_branch, read(pattern, strict)))


def read(pattern: object, strict: bool) -> list[tuple[Placed, ...]]:
    """As `parse_branches`, with places."""
    return _Reader(strict).read(pattern, (), (), 0)


def _branch(placed: Sequence[Placed]) -> Branch:
    if len(placed) > 1:
        names: set[str] = set()
        for path, _, place in placed:
            name = ".".join(path)
            if name in names:
                raise PatternError(
                    f'the path "{name}" cannot be there more than once; write all its values into one array', place
                )
            names.add(name)
    return tuple(condition(path, alternatives) for path, alternatives, _ in placed)


class _Reader:
    """Reads one pattern, and sees to its size."""

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self._items = 0

    def read(
        self, value: object, path: Path, place: Place, depth: int, within_or: bool = False
    ) -> list[tuple[Placed, ...]]:
        """The combinations of conditions that an object stands for."""
        if type(value) is not dict and not isinstance(value, Mapping):
            raise PatternError(f"a pattern is an object, got {_kind(value)}", place)
        if not value:
            raise PatternError("empty objects are not allowed; leave it out to match anything", place)
        self._count(len(value), place)
        fields: list[Placed] = []
        choices: list[list[tuple[Placed, ...]]] = []
        for key, inner in value.items():
            if not isinstance(key, str):
                raise PatternError(f"a key is a string, got {_kind(key)}", place)
            at = (*place, key)
            if (deeper := depth + 1 + key.count(".")) > MAX_DEPTH:
                raise PatternError(f"nests deeper than {MAX_DEPTH} levels", at)
            if key == "$or" and _is_or(inner, at):
                choices.append(
                    [
                        branch
                        for position, alternative in enumerate(inner)
                        for branch in self.read(alternative, path, (*at, position), deeper, within_or=True)
                    ]
                )
                continue
            if within_or and key in _RESERVED_IN_OR:
                raise PatternError(f'"{key}" is an operator, which cannot be a field\'s name inside "$or"', at)
            below = (*path, intern(key))
            if type(inner) is dict or (type(inner) is not list and isinstance(inner, Mapping)):
                branches = self.read(inner, below, at, deeper, within_or)
                if len(branches) == 1:
                    fields += branches[0]
                else:
                    choices.append(branches)
            else:
                fields.append((below, self._alternatives(inner, at), at))
        return _combine(fields, choices, place) if choices else [tuple(fields)]

    def _alternatives(self, value: object, place: Place) -> tuple[Alternative, ...]:
        if type(value) is not list and not isinstance(value, tuple | list):
            if self._strict:
                raise PatternError(f"must be an object or an array, got {_kind(value)}", place)
            return (_scalar(value, place),)
        if not value:
            raise PatternError("empty arrays are not allowed", place)
        self._count(len(value), place)
        return tuple([
            # The first is for haste only.
            item if (type(item) is str and ":" not in item) or type(item) is int
            else self._operator(item, (*place, position)) if isinstance(item, Mapping)
            else _scalar(item, (*place, position))
            for position, item in enumerate(value)
        ])  # fmt: skip

    def _operator(self, value: Mapping[Any, Any], place: Place) -> Alternative:
        if not value:
            raise PatternError('match expression name not found; write an operator, such as {"prefix": "a"}', place)
        name, operand = next(iter(value.items()))
        if name not in _OPERATORS:
            raise PatternError(f'unrecognized match type "{name}"; it is one of {", ".join(_OPERATORS)}', place)
        if len(value) > 1:
            raise PatternError("only one key allowed in match expression; write several as several items", place)
        if isinstance(operand, list | tuple):
            self._count(len(operand), place)
        elif isinstance(operand, Mapping):
            self._count(sum(len(inner) for inner in operand.values() if isinstance(inner, list | tuple)), place)
        return _OPERATORS[name](operand, (*place, name))

    def _count(self, items: int, place: Place) -> None:
        self._items += items
        if self._items > MAX_ITEMS:
            raise PatternError(f"has more than {MAX_ITEMS:,} keys and values; write several rules", place)


def _is_or(value: object, place: Place) -> bool:
    """Whether the value of a key `$or` is alternatives, and not what a field of that name must be."""
    if not isinstance(value, list | tuple) or not any(isinstance(item, Mapping) for item in value):
        return False
    if any(isinstance(item, Mapping) and not _RESERVED_IN_OR.isdisjoint(item) for item in value):
        return False
    if not all(isinstance(item, Mapping) for item in value):
        raise PatternError('only objects are allowed in the array of "$or"', place)
    if len(value) < 2:
        raise PatternError('there must be at least 2 objects in "$or"', place)
    return True


def _combine(fields: list[Placed], choices: list[list[tuple[Placed, ...]]], place: Place) -> list[tuple[Placed, ...]]:
    count, size = 1, len(fields)
    for branches in choices:
        size = size * len(branches) + count * sum(map(len, branches))
        count *= len(branches)
        if count > MAX_COMBINATIONS:
            raise PatternError(f'the alternatives of "$or" combine in more than {MAX_COMBINATIONS:,} ways', place)
        if size > MAX_CONDITIONS:
            raise PatternError(f'the alternatives of "$or" make more than {MAX_CONDITIONS:,} conditions', place)
    return [(*fields, *(field for branch in chosen for field in branch)) for chosen in product(*choices)]


def _scalar(value: object, place: Place) -> Alternative:
    if type(value) is str:
        if ":" in value and (address := parse_address(value)) is not None:
            width, number = address
            return Cidr(width, width, number)  # the same address may be written in several ways
        return value
    if value is None or isinstance(value, str | bool) or _is_number(value):
        return leaf(value)
    raise PatternError(f"match value must be string, number, true, false, or null, got {_kind(value)}", place)


def _exactly(operand: object, place: Place) -> Alternative:
    return _text("exactly", operand, place)


def _prefix(operand: object, place: Place) -> Alternative:
    if isinstance(operand, Mapping):
        return IgnoringCase(_inner_text("prefix", operand, place), open_end=True)
    return Prefix(_text("prefix", operand, place))


def _suffix(operand: object, place: Place) -> Alternative:
    if isinstance(operand, Mapping):
        return IgnoringCase(_inner_text("suffix", operand, place), open_start=True)
    return Suffix(_text("suffix", operand, place))


def _inner_text(name: str, operand: Mapping[Any, Any], place: Place) -> str:
    if (inner := next(iter(operand), None)) != "equals-ignore-case":
        raise PatternError(f'unsupported {name} pattern: "{inner}"; it is a string or "equals-ignore-case"', place)
    if len(operand) > 1:
        raise PatternError("only one key allowed in match expression", place)
    return _text(inner, operand[inner], (*place, inner))


def _ignoring_case(operand: object, place: Place) -> Alternative:
    return IgnoringCase(_text("equals-ignore-case", operand, place))


def _wildcard(operand: object, place: Place) -> Alternative:
    text = _text("wildcard", operand, place)
    parts = [""]
    position = 0
    while position < len(text):
        char = text[position]
        if char == "*":
            if text.startswith("*", position + 1):
                raise PatternError(f"consecutive wildcard characters at pos {position}", place)
            parts.append("")
        elif char == "\\":
            position += 1
            if not text.startswith(("*", "\\"), position):
                raise PatternError(
                    f"invalid escape character at pos {position - 1}; a backslash stands before * or another one", place
                )
            parts[-1] += text[position]
        else:
            parts[-1] += char
        position += 1
    return Wildcard(tuple(parts)) if len(parts) > 1 else parts[0]


def _numeric(operand: object, place: Place) -> Alternative:
    if not isinstance(operand, list | tuple):
        raise PatternError(f"the value of numeric must be an array, got {_kind(operand)}", place)
    sign = operand[0] if operand else None
    if not isinstance(sign, str):
        raise PatternError('invalid member in numeric match; write a comparison, such as [">", 0, "<=", 5]', place)
    if sign not in ("=", "<", "<=", ">", ">="):
        raise PatternError(f'unrecognized numeric range operator: "{sign}"; it is one of =, <, <=, >, >=', (*place, 0))
    bound = _bound(operand, 1, place)
    if sign in ("<", "<=", "="):
        if len(operand) > 2:
            raise PatternError("too many elements in numeric expression; a lower bound stands first", place)
        return bound if sign == "=" else Range(-inf, bound, open_top=sign == "<")
    if len(operand) == 2:
        return Range(bound, inf, open_bottom=sign == ">")
    if operand[2] not in ("<", "<="):
        raise PatternError(f"bad numeric range operator: {operand[2]!r}; an upper bound follows, < or <=", (*place, 2))
    top = _bound(operand, 3, place)
    if len(operand) > 4:
        raise PatternError("too many terms in numeric range expression", place)
    if bound >= top:
        raise PatternError("bottom must be less than top", place)
    return Range(bound, top, sign == ">", operand[2] == "<")


def _bound(operand: Sequence[Any], position: int, place: Place) -> int | float:
    value = operand[position] if position < len(operand) else None
    if isinstance(value, int | float) and _is_number(value):
        return value
    raise PatternError(f"the value of {operand[position - 1]} must be numeric, got {_kind(value)}", place)


def _exists(operand: object, place: Place) -> Alternative:
    if not isinstance(operand, bool):
        raise PatternError(f"exists match pattern must be either true or false, got {_kind(operand)}", place)
    return Exists(operand)


def _cidr(operand: object, place: Place) -> Alternative:
    text = _text("cidr", operand, place)
    address_text, slash, bits_text = text.partition("/")
    if not slash or "/" in bits_text:
        raise PatternError("malformed CIDR, one '/' required", place)
    if not (bits_text.isascii() and bits_text.isdigit() and len(bits_text) <= 3):
        negative = bits_text.startswith("-") and bits_text[1:].isdigit()
        raise PatternError(
            "malformed CIDR, mask bits must " + ("not be negative" if negative else "be an integer"), place
        )
    if (address := parse_address(address_text)) is None:
        raise PatternError(f'invalid IP address: "{address_text}"', place)
    width, number = address
    if int(bits_text) >= width:
        family = {IPV4_BITS: "IPv4", IPV6_BITS: "IPv6"}[width]
        raise PatternError(f"{family} mask bits must be < {width}; write a single address as a plain value", place)
    return Cidr(width, int(bits_text), number >> (width - int(bits_text)))


def _anything_but(operand: object, place: Place) -> Alternative:
    if isinstance(operand, Mapping):
        name = next(iter(operand), None)
        if name not in _INSIDE_ANYTHING_BUT:
            raise PatternError(
                f'unsupported anything-but pattern: "{name}"; it is one of {", ".join(_INSIDE_ANYTHING_BUT)}', place
            )
        if len(operand) > 1:
            raise PatternError("only one key allowed in match expression", place)
        inner, at = operand[name], (*place, name)
        if name == "numeric":
            return _excluding([_numeric(inner, at)])
        if not isinstance(inner, list | tuple):
            return _excluding([_excluded(name, inner, at)])
        if not inner:
            raise PatternError("empty arrays are not allowed", at)
        return _excluding([_excluded(name, item, (*at, position)) for position, item in enumerate(inner)])
    values: Sequence[Any] = operand if isinstance(operand, list | tuple) else [operand]
    if not values:
        raise PatternError("empty arrays are not allowed", place)
    for position, value in enumerate(values):
        if not isinstance(value, str) and not _is_number(value):
            at = (*place, position) if values is operand else place
            raise PatternError(f"inside anything-but stand strings or numbers, got {_kind(value)}", at)
    if len({isinstance(value, str) for value in values}) > 1:
        raise PatternError("inside anything-but, either all values are numbers or all are strings", place)
    return AnythingBut(frozenset(values))


def _excluded(name: str, value: object, place: Place) -> Alternative:
    text = _text(name, value, place)
    if not text and name in ("prefix", "suffix"):
        raise PatternError("null prefix/suffix not allowed", place)
    return _INSIDE_ANYTHING_BUT[name](text, place)


def _excluding(alternatives: list[Alternative]) -> AnythingBut:
    operators = tuple(alternative for alternative in alternatives if isinstance(alternative, Operator))
    values: frozenset[Leaf] = frozenset(value for value in alternatives if not isinstance(value, Operator))
    return AnythingBut(values, operators)


_INSIDE_ANYTHING_BUT: Final[dict[str, Callable[[object, Place], Alternative]]] = {
    "prefix": _prefix,
    "suffix": _suffix,
    "equals-ignore-case": _ignoring_case,
    "wildcard": _wildcard,
    "numeric": _numeric,
}
_OPERATORS: Final[dict[str, Callable[[object, Place], Alternative]]] = {
    **_INSIDE_ANYTHING_BUT,
    "anything-but": _anything_but,
    "exists": _exists,
    "cidr": _cidr,
    "exactly": _exactly,
}


def _text(name: str, value: object, place: Place) -> str:
    if not isinstance(value, str):
        raise PatternError(f"{name} match pattern must be a string, got {_kind(value)}", place)
    return value


def _is_number(value: object) -> bool:
    if isinstance(value, float):
        return isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    return "a number" if type(value) in (int, float) else names.get(type(value), type(value).__name__)
