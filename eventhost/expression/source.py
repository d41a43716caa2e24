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
    """What a stretch of code refers to by name."""

    filters: tuple[Token, ...]
    tests: tuple[Token, ...]
    methods: tuple[Token, ...]
    others: tuple[Token, ...]
    """Variables and functions, but also names of arguments and of what the template itself sets."""


def names_in(tokens: Sequence[Token]) -> Names:
    """The names in `tokens`, by what they are names of."""
    filters: list[Token] = []
    tests: list[Token] = []
    methods: list[Token] = []
    others: list[Token] = []
    for position, token in enumerate(tokens):
        if token.kind != "name":
            continue
        before = [tokens[position - back].text if position >= back else "" for back in (1, 2)]
        called = position + 1 < len(tokens) and tokens[position + 1].text == "("
        if before[0] == "|":
            filters.append(token)
        elif before[0] == "is" or before == ["not", "is"]:
            if token.text != "not":
                tests.append(token)
        elif before[0] == ".":
            # The methods of `loop` are the engine's, those of all else the strings'.
            if called and before[1] != "loop":
                methods.append(token)
        elif token.text not in _WORDS:
            others.append(token)
    return Names(tuple(filters), tuple(tests), tuple(methods), tuple(others))


def guarded(text: str, tokens: Sequence[Token]) -> str:
    """`text` with the filter `__number` put after both sides of each `*`, and `__searched` after what follows an `in`.

    A filter binds tighter than any operator, so it takes the last thing before the `*` and the first one after; what
    they are part of (`-a * b`, `a / b * c`, `a * b ** c`) is a number if they are, and is refused by the engine else.
    """
    guards: dict[int, str] = {}
    loops = bool(tokens) and tokens[0].text == "for"
    for position, token in enumerate(tokens):
        if token.text == "in" and token.kind == "name":
            end = None if loops else _operand_end(tokens, position + 1)
            loops = False
            if end is not None:
                guards[tokens[end].end] = "__searched"
        elif token.text == "*" and position and _ends_operand(tokens[position - 1]):
            guards[tokens[position - 1].end] = "__number"
            end = _operand_end(tokens, position + 1)
            if end is not None:
                guards[tokens[end].end] = "__number"
    for place, guard in sorted(guards.items(), reverse=True):
        text = f"{text[:place]}|{guard}{text[place:]}"
    return text


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
