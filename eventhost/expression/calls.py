"""What can be known of a call before it runs: whether its arguments fit, and whether those that stand as literals do.

A pattern, a layout or a zone that is wrong shows when the configuration is loaded, with its place, and not on the day
that its branch is taken. Only the filters, tests and functions of our own are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import Signature
from typing import Any, Final, Literal

from eventhost.expression.data import check_algorithm
from eventhost.expression.regex import check_replacement, regex
from eventhost.expression.source import ExpressionError, Token
from eventhost.expression.times import check_layout, duration, time_zone

CHECKS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "algorithm": check_algorithm,
    "duration_text": duration,
    "layout": check_layout,
    "pattern": regex,
    "replacement": check_replacement,
    "zone": time_zone,
}
"""What a literal must pass, by the name of the parameter that it stands for."""

Kind = Literal["filter", "test", "function"]
Argument = tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A filter, a test or a function by its name, with what stands between its brackets."""

    kind: Kind
    name: str
    token: Token
    positional: tuple[Argument, ...]
    """Of a filter or a test, its value first: as far as that is one token, else nothing."""
    named: Mapping[str, Argument] = field(default_factory=dict)
    is_whole: bool = True
    """No `*list` or `**object` stands among them."""


def calls_in(tokens: Sequence[Token]) -> Iterator[Call]:
    """The calls in an expression, and those that `map`, `select` and their like are told to do."""
    for position, token in enumerate(tokens):
        before = [tokens[position - back].text if position >= back else "" for back in (1, 2, 3)]
        if token.kind != "name" or before[0] == ".":
            continue
        start = position + 1
        is_called = start < len(tokens) and tokens[start].text == "("
        if before[0] == "|":
            call = _call("filter", tokens, position, tokens[position - 2 : position - 1])
            yield call
            yield from _told(call)
        elif before[0] == "is" or before[:2] == ["not", "is"]:
            if token.text != "not":
                back = 2 if before[0] == "is" else 3
                yield _call("test", tokens, position, tokens[max(position - back, 0) : position - back + 1])
        elif is_called:
            yield _call("function", tokens, position, None)


def check_call(call: Call, signature: Signature, literal: Callable[[Token], str]) -> list[object]:
    """What was made of the literals in a call; it is to be held as long as the expression is.

    Raises:
        Misplaced: with the token that is wrong.
    """
    if not call.is_whole:
        return []
    try:
        bound = signature.bind(*call.positional, **call.named)
    except TypeError as error:
        raise Misplaced(call.token, f"{call.name}: {error}") from None
    made: list[object] = []
    for parameter, argument in bound.arguments.items():
        check = CHECKS.get(parameter)
        if check is not None and len(argument) == 1 and argument[0].kind == "string":
            try:
                made.append(check(literal(argument[0])))
            except ExpressionError as error:
                raise Misplaced(argument[0], str(error)) from None
    return made


class Misplaced(Exception):
    """A token can never work."""

    def __init__(self, token: Token, message: str) -> None:
        super().__init__(message)
        self.token = token


def _call(kind: Kind, tokens: Sequence[Token], position: int, value: Sequence[Token] | None) -> Call:
    positional: list[Argument] = []
    if value is not None:
        is_literal = len(value) == 1 and value[0].kind == "string"
        positional.append(tuple(value) if is_literal else ())
    named: dict[str, Argument] = {}
    is_whole = True
    for argument in _arguments(tokens, position + 1):
        if argument[0].text in ("*", "**"):
            is_whole = False
        elif len(argument) > 1 and argument[1].text == "=":
            named[argument[0].text] = argument[2:]
        else:
            positional.append(argument)
    if kind == "test" and position + 1 < len(tokens) and tokens[position + 1].kind in ("string", "number"):
        positional.append((tokens[position + 1],))  # a test may take an argument without brackets
    return Call(kind, tokens[position].text, tokens[position], tuple(positional), named, is_whole)


def _arguments(tokens: Sequence[Token], opening: int) -> Iterator[Argument]:
    """What stands between brackets, parted by the commas that are not within further ones."""
    if opening >= len(tokens) or tokens[opening].text != "(":
        return
    depth, start = 0, opening + 1
    for position in range(opening, len(tokens)):
        text = tokens[position].text
        depth += (text in ("(", "[", "{")) - (text in (")", "]", "}"))
        if depth == 0 or (depth == 1 and text == ","):
            if position > start:
                yield tuple(tokens[start:position])
            start = position + 1
        if depth == 0:
            return


def _told(call: Call) -> Iterator[Call]:
    """The call that `map`, `select`, `reject`, `selectattr` or `rejectattr` does for each element."""
    kinds: dict[str, tuple[Kind, int]] = {
        "map": ("filter", 1),
        "select": ("test", 1),
        "reject": ("test", 1),
        "selectattr": ("test", 2),
        "rejectattr": ("test", 2),
    }
    kind, at = kinds.get(call.name, ("function", 0))
    if not at or len(call.positional) <= at or "attribute" in call.named:
        return
    told = call.positional[at]
    if len(told) == 1 and told[0].kind == "string":
        yield Call(kind, told[0].text[1:-1], told[0], ((), *call.positional[at + 1 :]), call.named, call.is_whole)
