"""Reading an expression's text before it runs: names, filters, tests and methods that are not there show at load.

The engine finds a misspelt filter only on the day that its branch is taken, knows unknown names but not where they
stand, lets `*` make a string of any length, and counts a search with `in` as one instruction however long it takes. So
the text is split into tokens here, as the engine splits it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from eventhost.errors import EventhostError

Path = tuple[str | int, ...]


class ExpressionError(EventhostError):
    """An expression cannot be used, or failed on this event. `path` leads to it inside a nested template."""

    def __init__(self, message: str, path: Path = ()) -> None:
        super().__init__(message)
        self.path = path


class Token(NamedTuple):
    kind: str
    """`string`, `number`, `name` or `operator`."""
    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a template that is code: `{{ … }}`, or `{% … %}` if it is a statement."""

    start: int
    end: int
    statement: bool
    tokens: tuple[Token, ...]


_TOKEN: Final = re.compile(
    r"""\s+
      | (?P<string> '(?:\\.|[^'\\])*' | "(?:\\.|[^"\\])*" )
      | (?P<number> \d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)? )
      | (?P<name> [^\W\d]\w* )
      | (?P<operator> \*\*|//|==|!=|<=|>=|. )""",
    re.VERBOSE | re.DOTALL,
)
_OPENING: Final = re.compile(r"\{[{%#]")
_RAW: Final = re.compile(r"\{%[-+]?\s*raw\s*[-+]?%\}.*?\{%[-+]?\s*endraw\s*[-+]?%\}", re.DOTALL)
TAKING_NULL: Final = frozenset(("format", "hash", "indent", "replace", "tojson", "truncate", "urlencode"))
"""The filters of ours that would take a field that is not there for null: Python has no other word for it."""
_NEUTRAL: Final = {"number": "0", "string": "''"}
_MAKING_NUMBERS: Final = frozenset(("abs", "count", "duration", "float", "int", "length", "now", "timestamp"))
_WORDS: Final = frozenset(("and", "or", "not", "in", "is", "if", "else"))


def tokens_of(text: str, start: int = 0, closing: str = "") -> Iterator[Token]:
    """The tokens from `start` on, up to where `closing` stands outside of all brackets."""
    depth, at = 0, start
    while at < len(text) and not (closing and depth <= 0 and text.startswith(closing, at)):
        found = _TOKEN.match(text, at)
        if found is None:  # no text has such a place: the last operator is any character
            return
        if found.lastgroup:
            depth += (found[0] in ("(", "[", "{")) - (found[0] in (")", "]", "}"))
            yield Token(found.lastgroup, found[0], at)
        at = found.end()


def expression_tokens(text: str) -> tuple[Token, ...]:
    """The tokens of an expression.

    Raises:
        ExpressionError: its brackets do not fit each other, so that it could leave those that are put around it.
    """
    closers: list[str] = []
    found = tuple(tokens_of(text))
    for token in found:
        if token.text in ("(", "[", "{"):
            closers.append({"(": ")", "[": "]", "{": "}"}[token.text])
        elif token.text in (")", "]", "}") and (not closers or closers.pop() != token.text):
            raise ExpressionError(f"column {token.start + 1}: {token.text} closes nothing")
        elif token.text in ("'", '"'):
            raise ExpressionError(f"column {token.start + 1}: this string is not closed")
    if closers:
        raise ExpressionError(f"{closers[-1]} is missing at the end")
    if not found:
        raise ExpressionError("an expression is missing")
    return found


def regions_of(text: str) -> list[Region]:
    """The parts of a template that are code, in order; comments and `{% raw %}` are not."""
    found: list[Region] = []
    at = 0
    while opening := _OPENING.search(text, at):
        start = opening.start()
        if opening[0] == "{#":
            end = text.find("#}", start)
            at = len(text) if end < 0 else end + 2
        elif raw := _RAW.match(text, start):
            at = raw.end()
        else:
            closing = "}}" if opening[0] == "{{" else "%}"
            # What stands right after `{{` and right before `}}` may be a sign that trims the space around.
            code = start + (3 if text[start + 2 : start + 3] in ("-", "+") else 2)
            tokens = tuple(tokens_of(text, code, closing))
            at = text.find(closing, tokens[-1].end if tokens else code)
            at = len(text) if at < 0 else at + 2
            if tokens and tokens[-1].text in ("-", "+"):
                tokens = tokens[:-1]
            found.append(Region(start, at, opening[0] == "{%", tokens))
    return found


@dataclass(frozen=True, slots=True)
class Names:
    """What a stretch of code refers to by name, but for filters and tests, which are calls."""

    methods: tuple[Token, ...]
    others: tuple[Token, ...]
    """Variables and functions, but also names of arguments and of what the template itself sets."""


def names_in(tokens: Sequence[Token]) -> Names:
    """The names in `tokens`, by what they are names of."""
    methods: list[Token] = []
    others: list[Token] = []
    for position, token in enumerate(tokens):
        if token.kind != "name":
            continue
        before = [tokens[position - back].text if position >= back else "" for back in (1, 2)]
        called = position + 1 < len(tokens) and tokens[position + 1].text == "("
        if before[0] in ("|", "is") or before == ["not", "is"]:
            continue
        if before[0] == ".":
            # The methods of `loop` are the engine's, those of all else the strings'.
            if called and before[1] != "loop":
                methods.append(token)
        elif token.text not in _WORDS:
            others.append(token)
    return Names(tuple(methods), tuple(others))


def guarded(text: str, tokens: Sequence[Token]) -> str:
    """`text` with what keeps the engine from doing what nobody means.

    - After both sides of each `*` the filter `__number`, and after what follows an `in` the filter `__searched`. A
      filter binds tighter than any operator, so it takes the last thing before the `*` and the first one after; what
      they are part of (`-a * b`, `a / b * c`, `a * b ** c`) is a number if they are, and is refused by the engine else.
    - Beside both sides of each `<`, `<=`, `>` and `>=` what `compare` says; not where a `~` stands, which makes a text
      of anything.
    - Before a filter to which null is a value, what stands for a field that is not there.
    """
    guards: list[tuple[int, int, str]] = []
    loops = bool(tokens) and tokens[0].text == "for"
    compares = all(token.text != "~" for token in tokens)
    for position, token in enumerate(tokens):
        if token.kind == "name":
            if token.text == "in":
                end = None if loops else _operand_end(tokens, position + 1)
                loops = False
                if end is not None:
                    guards.append((tokens[end].end, 0, "|__searched"))
            elif token.text in TAKING_NULL and position > 1 and tokens[position - 1].text == "|":
                guards.append((tokens[position - 2].end, 0, "|default(__missing)"))
        elif token.text == "*" and position and _ends_operand(tokens[position - 1]):
            guards.append((tokens[position - 1].end, 0, "|__number"))
            end = _operand_end(tokens, position + 1)
            if end is not None:
                guards.append((tokens[end].end, 0, "|__number"))
        elif token.text in ("<", "<=", ">", ">=") and position and compares:
            guards += _beside(tokens, position)
    for place, _, guard in sorted(set(guards), reverse=True):
        text = f"{text[:place]}{guard}{text[place:]}"
    return text


def _beside(tokens: Sequence[Token], position: int) -> list[tuple[int, int, str]]:
    """What is put beside the sides of a comparison: its place, whether it comes after filters there, and its text.

    One value tells the kind of its whole side, whatever is calculated with it.
    """
    before = tokens[position - 1]
    end = _operand_end(tokens, position + 1)
    if end is None:
        return []
    left, right = _known_kind(tokens, position - 1, position - 1), _known_kind(tokens, position + 1, end)
    if left and right:
        return []
    if right:
        return [(before.end, 1, f" + {_NEUTRAL[right]}")]
    if left:
        return [(tokens[position + 1].start, 1, f"{_NEUTRAL[left]} + ")]
    return [
        (before.end, 0, f"|default(__missing)|__left({position})"),
        (tokens[end].end, 0, f"|default(__missing)|__right({position})"),
    ]


def _known_kind(tokens: Sequence[Token], start: int, end: int) -> str:
    """`number` or `string`, if that is what stands from `start` to `end` in any event, or an empty string."""
    while start < end and tokens[start].text in ("-", "+"):
        start += 1
    if start == end and tokens[end].kind in _NEUTRAL:
        return tokens[end].kind
    if tokens[end].kind == "name":
        is_number = tokens[end].text in _MAKING_NUMBERS and tokens[end - 1].text == "|"
    else:
        is_call = tokens[start].kind == "name" and _group_end(tokens, start + 1) == end
        is_number = is_call and tokens[start].text in _MAKING_NUMBERS
    return "number" if is_number else ""


def _ends_operand(token: Token) -> bool:
    return token.text in (")", "]", "}") or (token.kind != "operator" and token.text not in _WORDS)


def _operand_end(tokens: Sequence[Token], at: int) -> int | None:
    """The last token of what begins at `at`: signs, a value, then any `.name`, `[…]`, `(…)` and `|filter`."""
    while at < len(tokens) and tokens[at].text in ("-", "+"):
        at += 1
    if at >= len(tokens):
        return None
    end = _group_end(tokens, at)
    while end + 1 < len(tokens):
        following = tokens[end + 1].text
        if following in (".", "|") and end + 2 < len(tokens):
            end += 2
        elif following in ("(", "["):
            end = _group_end(tokens, end + 1)
        else:
            break
    return end


def _group_end(tokens: Sequence[Token], at: int) -> int:
    depth = 0
    for position in range(at, len(tokens)):
        depth += (tokens[position].text in ("(", "[", "{")) - (tokens[position].text in (")", "]", "}"))
        if depth <= 0:
            return position
    return len(tokens) - 1
