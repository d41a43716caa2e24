"""JSON with comments: its value, or one sentence on what is wrong with it; and where in the text each part stands.

Strict JSON is read by the standard library, and so is JSON with comments and trailing commas once these are blanked
out; whatever else JSON5 allows (https://spec.json5.org) is read by `json5`, which is slow: 50 KB/s.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from eventhost.errors import ConfigError, Problem

MAX_DEPTH = 64
"""The deepest nesting that is accepted, so that no reader of a value needs to fear its depth."""

MAX_JSON5 = 262_144
"""The longest text, in characters, that may use more of JSON5 than comments and trailing commas; it takes seconds."""

Path = Sequence[str | int]
"""Keys and indices that lead from the root of a value to a part of it."""


def parse(text: str, file: str) -> Any:
    """The value that `text` stands for; `file` is what messages call it.

    Raises:
        ConfigError: with the one problem that stopped the reading, and its place.
    """
    if text.startswith("\ufeff"):
        raise _error(text, file, _Fault(0, "the file begins with a byte order mark", "save it as UTF-8 without BOM"))
    try:
        value = _read(text)
        _check_depth(value)
    except RecursionError:
        mend = f"keep to {MAX_DEPTH} levels, and to fewer where the text is neither strict JSON nor JSON with comments"
        fault = _Fault(_deepest(text), "this nests too deeply", mend)
    except _TooSlow:
        mend = "put keys and texts into double quotes, or split the file"
        fault = _find_fault(text) or _Fault(0, "this is too long to be read as JSON5", mend)
    except ValueError as error:
        fault = _find_fault(text) or _Fault(*_said_by_json5(text, str(error)))
    else:
        lone = _find_lone_surrogate(text, value)
        if lone is None:
            return value
        fault = _Fault(lone, "this escape is half of a character", "write both halves, or the character itself")
    raise _error(text, file, fault)


def locate(text: str, path: Path, *, key: bool = False) -> tuple[int, int] | None:
    """Line and column, from 1, of the value at `path` (or of its key); `None` where `text` has no such part."""
    return Outline(text).locate(path, key=key)


@dataclass(frozen=True, slots=True)
class Member:
    """Offsets of one item of a container: its key (in a list: where its value begins, and empty) and its value."""

    key_start: int
    key_end: int
    start: int
    end: int


class Outline:
    """Where the parts of a text stand that `parse` accepts.

    Nothing is looked at before it is asked for, and then one container at a time, which is remembered: the first
    question costs a walk over the text, the next ones little.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._members: dict[int, dict[str | int, Member]] = {}
        self._line_starts: list[int] = []

    def find(self, path: Path) -> Member | None:
        """The part at `path`, or `None`."""
        try:
            start = skip(self.text, 0)
            if not path:
                return Member(start, start, start, _value_end(self.text, start))
            for part in path:
                found = self.members(start)[part]
                start = found.start
        except (KeyError, IndexError, ValueError):
            return None
        return found

    def members(self, start: int) -> dict[str | int, Member]:
        """The items of the container that begins at offset `start`, by key or index; of any other value, none."""
        if start not in self._members:
            self._members[start] = self._read_members(start) if self.text[start] in _CLOSING else {}
        return self._members[start]

    def locate(self, path: Path, *, key: bool = False) -> tuple[int, int] | None:
        """Line and column, from 1, of the value at `path`, or of its key."""
        found = self.find(path)
        return self.position(found.key_start if key else found.start) if found else None

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column, from 1, of an offset."""
        if not self._line_starts:
            self._line_starts = [0, *(newline.end() for newline in _NEWLINE.finditer(self.text))]
        line = bisect_right(self._line_starts, offset)
        return line, offset - self._line_starts[line - 1] + 1

    def _read_members(self, start: int) -> dict[str | int, Member]:
        text, closing, members = self.text, _CLOSING[self.text[start]], dict[str | int, Member]()
        at = skip(text, start + 1)
        while text[at] != closing:
            key: str | int = len(members)
            key_start = key_end = at
            if closing == "}":
                key_end = _value_end(text, at)
                key = _key(text[at:key_end])
                at = skip(text, skip(text, key_end) + 1)
            end = _value_end(text, at)
            members[key] = Member(key_start, key_end, at, end)
            at = skip(text, end)
            if text[at] == ",":
                at = skip(text, at + 1)
        return members


@dataclass(frozen=True, slots=True)
class _Fault:
    offset: int
    message: str
    mend: str = ""


class _Refused(ValueError):
    """What strict JSON has read is refused; the slower readers would refuse it as well."""


def _error(text: str, file: str, fault: _Fault) -> ConfigError:
    line, column = Outline(text).position(fault.offset)
    return ConfigError([Problem(file, fault.message, mend=fault.mend, line=line, column=column)])


class _TooSlow(ValueError):
    """Only the slow reader could say whether this is JSON5."""


# Reading.


def _read(text: str) -> Any:
    try:
        return _STRICT.decode(text)
    except _Refused:
        raise
    except ValueError:
        pass
    try:
        return _STRICT.decode(_blank(text))
    except _Refused:
        raise
    except ValueError:
        pass
    if len(text) > MAX_JSON5:
        raise _TooSlow
    import json5  # Most files never need it.

    return _joined(
        json5.loads(
            text,
            object_pairs_hook=_object_of_json5,
            allow_duplicate_keys=False,
            parse_float=_finite,
            parse_constant=_refuse,
        )
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _Refused("a key is given twice")
    return value


def _object_of_json5(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return _object([(_joined(key), value) for key, value in items])


def _joined(value: Any) -> Any:
    """`json5` leaves a character apart that is written as two escapes; strict JSON has it in one piece."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    elif isinstance(value, list):
        return [_joined(inner) for inner in value]
    elif isinstance(value, dict):
        return {key: _joined(inner) for key, inner in value.items()}
    return value


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise _Refused("a number is too large")
    return number


def _refuse(constant: str) -> NoReturn:
    raise _Refused(f"{constant} is not a JSON value")


_STRICT = json.JSONDecoder(object_pairs_hook=_object, parse_float=_finite, parse_constant=_refuse)


def _blank(text: str) -> str:
    """`text` without comments and trailing commas; any other liberty of JSON5 stays, to be refused by strict JSON."""
    text = _STRING_OR_COMMENT.sub(lambda found: found[0] if found[0][0] == '"' else " ", text)
    return _STRING_OR_COMMA.sub(lambda found: "" if found[0] == "," else found[0], text)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer if type(outer) is list else ())
            if type(inner) is dict or type(inner) is list
        ]
        if not level:
            return
    raise RecursionError


def _find_lone_surrogate(text: str, value: Any) -> int | None:
    found = _LONE_SURROGATE.search(text) if "\\u" in text else None
    if found is None:
        return None
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return found.start()
    return None


def _said_by_json5(text: str, message: str) -> tuple[int, str, str]:
    found = re.search(r":(\d+) (Unexpected .*) at column (\d+)", message, re.DOTALL)
    if found is None:
        return 0, "this is not JSON", "write strict JSON, or JSON5"
    newlines = [0, *(newline.end() for newline in _NEWLINE.finditer(text))]
    line = min(int(found[1]), len(newlines))
    return newlines[line - 1] + int(found[3]) - 1, "this is not JSON here", "write strict JSON, or JSON5"


# Walking over the text. `_value_end` expects what `parse` accepts, and raises ValueError or IndexError else.

_CLOSING = {"{": "}", "[": "]"}
_NEWLINE = re.compile(r"\r\n|\n|\r")
_DOUBLE = r'"(?:[^"\\\n\r]++|\\(?:\r\n|.))*+"'
_SINGLE = r"'(?:[^'\\\n\r]++|\\(?:\r\n|.))*+'"
_COMMENT = r"//[^\n\r\u2028\u2029]*|/\*.*?\*/"
_STRING = re.compile(f"{_DOUBLE}|{_SINGLE}", re.DOTALL)
_SPACE = re.compile(rf"(?:[\s\ufeff]+|{_COMMENT})*+", re.DOTALL)
_WORD = re.compile(r"""[^\s\ufeff{}\[\]:,"'/]+""")
_SKIPPED_OR_BRACKET = re.compile(rf"{_DOUBLE}|{_SINGLE}|{_COMMENT}|[{{}}\[\]]", re.DOTALL)
_STRING_OR_COMMENT = re.compile(f"{_DOUBLE}|{_COMMENT}", re.DOTALL)
# A comma that follows an opening bracket is no trailing comma: it stays, and is refused.
_STRING_OR_COMMA = re.compile(rf"{_DOUBLE}|[\[{{]\s*,|,(?=\s*[\]}}])", re.DOTALL)
_LONE_SURROGATE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)


def skip(text: str, at: int) -> int:
    """The offset where blanks and comments that begin at offset `at` have ended."""
    space = _SPACE.match(text, at)
    return space.end() if space else at


def _value_end(text: str, at: int) -> int:
    if text[at] not in _CLOSING:
        found = _STRING.match(text, at) or _WORD.match(text, at)
        if found is None:
            raise ValueError("no value here")
        return found.end()
    depth = 0
    for token in _SKIPPED_OR_BRACKET.finditer(text, at):
        character = text[token.start()]
        if character in "{[":
            depth += 1
        elif character in "}]":
            depth -= 1
            if depth == 0:
                return token.end()
    raise ValueError("never closed")


def _key(written: str) -> str:
    if written[0] in "\"'":
        return str(_read(written)) if "\\" in written else written[1:-1]
    return str(next(iter(_read(f"{{{written}:0}}")))) if "\\" in written else written


def _deepest(text: str) -> int:
    depth = deepest = offset = 0
    for token in _SKIPPED_OR_BRACKET.finditer(text):
        character = text[token.start()]
        depth += 1 if character in "{[" else -1 if character in "}]" else 0
        if depth > deepest:
            deepest, offset = depth, token.start()
    return offset


# Saying what is wrong: a walk over the grammar that stops at the first thing which does not fit.

_CONSTANTS = {"true", "false", "null"}
_MEANT = {"True": "true", "TRUE": "true", "yes": "true", "on": "true", "False": "false", "FALSE": "false"} | {
    "no": "false",
    "off": "false",
    "None": "null",
    "nil": "null",
    "undefined": "null",
}
_NUMBER = re.compile(
    r"[+-]?(?:0[xX][0-9a-fA-F]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?)"
)
_IDENTIFIER = re.compile(r"(?:[^\W\d]|\$|\\u[0-9a-fA-F]{4})(?:\w|\$|[\u200c\u200d]|\\u[0-9a-fA-F]{4})*")
_BAD_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*(\\(?:u(?![0-9a-fA-F]{4})|x(?![0-9a-fA-F]{2})|[1-9]))")


@dataclass(slots=True)
class _Open:
    """A container that is being walked through."""

    offset: int
    closing: str
    keys: dict[str, int]


def _find_fault(text: str) -> _Fault | None:
    """The first thing in `text` that is not JSON5, or that the host refuses; `None` if it all seems well."""
    position = Outline(text).position
    stack: list[_Open] = []
    # What may come: a value; an element or the end of its list; a key or the end of its object; a colon; a comma or
    # an end (that of a container is `comma`, that of the text is `end`).
    expected = "value"
    at = skip(text, 0)
    if at == len(text):
        return _Fault(0, "the file is empty", "write {} to begin with")
    while at < len(text):
        character = text[at]
        if text.startswith("/*", at):
            return _Fault(at, "this comment is not closed", "close it with */")
        if character == "/":
            return _Fault(at, "a lone slash means nothing here", "begin a comment with // or /*")
        if expected == "end":
            return _Fault(at, "something follows after the end of the value", "remove it, or a bracket before it")
        if expected == "colon":
            if character != ":":
                return _Fault(at, "a colon is missing between a key and its value", 'write "key": value')
            expected, end = "value", at + 1
        elif character in "}]":
            if not stack:
                return _Fault(at, f"{character} closes nothing", "remove it")
            container = stack.pop()
            line, column = position(container.offset)
            opened = f"{text[container.offset]} of {line}:{column}"
            if character != container.closing:
                return _Fault(at, f"{character} does not close {opened}", f"write {container.closing}")
            if expected == "value":
                return _Fault(at, "a value is missing after the colon", "write one, or remove the key")
            expected, end = "comma" if stack else "end", at + 1
        elif expected == "comma":
            if character == ":":
                return _Fault(at, "a colon is not expected here", "write a comma, or put the key in an object")
            if character != ",":
                return _Fault(at, "a comma is missing before this", "put one after the value before")
            expected, end = "key" if stack[-1].closing == "}" else "element", at + 1
        elif character in ",:":
            missing = "key" if expected == "key" else "value"
            name = "comma" if character == "," else "colon"
            return _Fault(at, f"a {missing} is missing before this {name}", f"write one, or remove the {name}")
        elif character in _CLOSING:
            if expected == "key":
                return _Fault(at, "a key must be a string", 'write "key": value')
            stack.append(_Open(at, _CLOSING[character], {}))
            expected, end = "key" if character == "{" else "element", at + 1
        else:
            scalar = _STRING.match(text, at) or _WORD.match(text, at)
            if scalar is None:
                return _Fault(at, "this string is not closed", f"close it with {character} on the same line")
            fault = _scalar_fault(scalar[0], at, is_key=expected == "key")
            if fault:
                return fault
            if expected == "key":
                key = _key(scalar[0])
                first = stack[-1].keys.setdefault(key, at)
                if first != at:
                    line, _ = position(first)
                    return _Fault(at, f"the key {json.dumps(key)} is given twice, first in line {line}", "keep one")
                expected = "colon"
            else:
                expected = "comma" if stack else "end"
            end = scalar.end()
        at = skip(text, end)
    if stack:
        container = stack[-1]
        return _Fault(
            container.offset,
            f"{text[container.offset]} is never closed",
            f"add {container.closing} where it ends" if len(stack) == 1 else f"add {container.closing}, and look below",
        )
    return None


def _scalar_fault(written: str, at: int, *, is_key: bool) -> _Fault | None:
    if written[0] in "\"'":
        bad = _BAD_ESCAPE.search(written)
        if bad:
            mend = r"write \uXXXX, \xXX, \n, \t, \" or \\"
            return _Fault(at + bad.start(1), "this escape means nothing", mend)
        return None
    if is_key:
        return None if _IDENTIFIER.fullmatch(written) else _Fault(at, "a key must be a string", "put it in quotes")
    if written in _CONSTANTS:
        return None
    if written in _MEANT:
        return _Fault(at, f"{written} is not a JSON value", f"write {_MEANT[written]}")
    if written.lstrip("+-") in ("NaN", "Infinity"):
        return _Fault(at, f"{written} is not a JSON value", "write a finite number, or null")
    if _NUMBER.fullmatch(written):
        if "x" in written.lower():
            return None
        if math.isinf(float(written)):
            return _Fault(at, "this number is too large", "write one below 1e308, or a string")
        if written.lstrip("+-").isdecimal() and len(written) > 4000:
            return _Fault(at, "this number has too many digits", "write it as a string")
        return None
    if written[0] in "+-.0123456789":
        return _Fault(at, "this is not a number", "write it as a string, or in the form -12.5e3")
    return _Fault(at, "this word is not a JSON value", "put it in quotes")
