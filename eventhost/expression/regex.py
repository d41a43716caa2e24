r"""Regular expressions, in time linear in the text: https://github.com/google/re2/wiki/Syntax

RE2 has no look-around and no back references, and no pattern on which it runs away. What one search may cost at worst
is its text's length times its pattern's size; that is what an evaluation pays, whatever the search does cost.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache
from typing import Any, Final
from weakref import WeakValueDictionary

import re2  # type: ignore[import-untyped]

from eventhost.expression.source import ExpressionError
from eventhost.expression.views import Budget, kind

MAX_PATTERN: Final = 1_000
"""How many characters a pattern may have."""

_MAX_MEMORY_BYTES: Final = 262_144  # for one pattern, and as much again for what it remembers of texts
_KEPT: Final = 256
# Making a pattern takes up to 0.3 ms for each character, as measured with `\pL{200}`: as much as so many steps.
_MAKING_STEPS: Final = 20_000
_CALL_STEPS: Final = 1_000
_GROUP: Final = re.compile(r"\\(?:(\d)|g<(\w+)>|(.?))", re.DOTALL)


class Regex:
    """A pattern that was made ready; shared by all who have the same.

    Raises:
        ExpressionError: it is none, or too large.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.asked = _made(pattern, captures=False)
        self.size: int = max(self.asked.programsize, 1)

    @cached_property
    def capturing(self) -> Any:
        return _made(self.pattern, captures=True)


_in_use: Final[WeakValueDictionary[str, Regex]] = WeakValueDictionary()


def regex(pattern: Any) -> Regex:
    """The pattern, made ready; it stays so as long as somebody holds it, and a while longer.

    Raises:
        ExpressionError: it is none, or too large.
    """
    if not isinstance(pattern, str):
        raise ExpressionError(f"a pattern is a string, got {kind(pattern)}")
    return _in_use.get(pattern) or _recent(str(pattern))


def check_replacement(replacement: Any) -> str:
    """`replacement` itself.

    Raises:
        ExpressionError: it is none, or was not written as it was meant.
    """
    if not isinstance(replacement, str):
        raise ExpressionError(f"a replacement is a string, got {kind(replacement)}")
    if any(character < "\b" for character in replacement):
        raise ExpressionError(r"in a string '\1' is a control character; write '\\1' for what the first group matched")
    return str(replacement)


@lru_cache(maxsize=_KEPT)
def _recent(pattern: str) -> Regex:
    made = _in_use[pattern] = Regex(pattern)
    return made


def tests(budget: Budget) -> dict[str, Callable[..., bool]]:
    """The tests by name."""

    def regex_match(value: Any, pattern: Any) -> bool:
        return _asked(value, pattern, "regex_match", budget, "match")

    def regex_search(value: Any, pattern: Any) -> bool:
        return _asked(value, pattern, "regex_search", budget, "search")

    return {"regex_match": regex_match, "regex_search": regex_search}


def filters(budget: Budget) -> dict[str, Callable[..., Any]]:
    """The filters by name."""

    def regex_replace(value: Any, pattern: Any, replacement: Any = "") -> str:
        text, made = _paid(value, pattern, "regex_replace", budget)
        parts = _parts(check_replacement(replacement), made)
        pieces, at = [], 0
        for found in _found(made, text, budget):
            filled = [part if isinstance(part, str) else found.group(part) or "" for part in parts]
            budget.write(sum(map(len, filled)))
            pieces += [text[at : found.start()], *filled]
            at = found.end()
        pieces.append(text[at:])
        budget.write(len(text))
        return "".join(pieces)

    def regex_findall(value: Any, pattern: Any) -> list[Any]:
        text, made = _paid(value, pattern, "regex_findall", budget)
        results: list[Any] = []
        for found in _found(made, text, budget):
            groups = [group or "" for group in found.groups()]
            budget.write(len(found.group()) + sum(map(len, groups)))
            results.append(groups if len(groups) > 1 else groups[0] if groups else found.group())
        return results

    return {**tests(budget), "regex_replace": regex_replace, "regex_findall": regex_findall}


def _made(pattern: str, *, captures: bool) -> Any:
    if len(pattern) > MAX_PATTERN:
        raise ExpressionError(f"a pattern of more than {MAX_PATTERN} characters is refused")
    if "\b" in pattern:
        raise ExpressionError(r"in a string '\b' is a backspace; write '\\b' for the border of a word")
    options = re2.Options()
    options.max_mem = _MAX_MEMORY_BYTES
    options.log_errors = False
    options.never_capture = not captures
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        told = error.args[0] if error.args else ""
        told = told.decode(errors="replace") if isinstance(told, bytes) else str(told)
        raise ExpressionError(f"{pattern[:80]!r} is no pattern: {told}") from None


def _paid(value: Any, pattern: Any, name: str, budget: Budget) -> tuple[str, Regex]:
    """The text and the pattern, after the budget was asked for the making of one and one look at the other."""
    if not isinstance(value, str):
        mend = "; `|string` makes one" if isinstance(value, int | float) else ""
        raise ExpressionError(f"{name}: a string is needed, got {kind(value)}{mend}")
    if isinstance(pattern, str) and pattern not in budget.patterns:
        budget.search(_MAKING_STEPS * min(len(pattern), MAX_PATTERN))
        budget.patterns.add(str(pattern))
    made = regex(pattern)
    budget.search(_CALL_STEPS + len(value) * made.size)
    return str(value), made


def _asked(value: Any, pattern: Any, name: str, budget: Budget, how: str) -> bool:
    text, made = _paid(value, pattern, name, budget)
    return getattr(made.asked, how)(text.encode()) is not None


def _found(made: Regex, text: str, budget: Budget) -> Iterator[Any]:
    """The places that match; after each, the rest of the text is looked at anew, and paid for."""
    for found in made.capturing.finditer(text):
        budget.read()
        budget.search((len(text) - found.end()) * made.size)
        yield found


def _parts(replacement: str, made: Regex) -> list[str | int]:
    r"""A replacement's texts, and the numbers of the groups that stand between them as `\1` or `\g<name>`."""
    names, count = made.capturing.groupindex, made.capturing.groups
    parts: list[str | int] = []
    at = 0
    for found in _GROUP.finditer(replacement):
        number, name, other = found.groups()
        if other is not None and other != "\\":
            raise ExpressionError(
                rf"regex_replace: in a replacement {found[0]} stands for nothing, and \\ for a backslash"
            )
        group = int(number or (name if name.isdecimal() else names.get(name, -1))) if other is None else None
        if group is not None and not 0 <= group <= count:
            raise ExpressionError(f"the pattern has no group {number or name}")
        parts += [replacement[at : found.start()], "\\" if group is None else group]
        at = found.end()
    return [part for part in (*parts, replacement[at:]) if part != ""]
