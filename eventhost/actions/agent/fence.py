"""`Fence`: what others wrote reaches a model as data: one line of JSON between two marks that nobody could know before.

A line of JSON has no end but its own, so that no text inside can close the fence. What is not plain to see, and what a
chat template may take for a token of its own (`<|im_start|>`, `[INST]`), is written as JSON escapes: nothing is lost.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from itertools import islice
from secrets import token_hex
from typing import Any, Final

_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_SUSPECT: Final = re.compile(r"[<>\x7f]|[^\x00-\x7f]|\[(?=/?[A-Za-z_]+\])")
_UNSEEN: Final = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
# Letters that are blank, and what chooses between forms of the sign before it and can say anything unseen.
_BLANK: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_PLAIN: Final = frozenset("<>[]")
_ROOMS: Final = (16, 64, 256, 1_024, 4_096, 8_192, 16_384)
_MAX_DEPTH: Final = 8


class Fence:
    """The marks of one run. `mark` is for showing what a run would look like."""

    __slots__ = ("begin", "end", "mark")

    def __init__(self, mark: str = "") -> None:
        self.mark = mark or f"k{token_hex(12)}"
        self.begin = f"BEGIN DATA {self.mark}"
        self.end = f"END DATA {self.mark}"

    def around(self, text: str) -> str:
        """What `written` gave, between the marks, which never stand inside, even if somebody has learned them."""
        # Inside a string this is the same JSON, and `mark` begins with a letter that no number or escape has.
        inside = text.replace(self.mark, f"\\u{ord(self.mark[0]):04x}{self.mark[1:]}")
        return f"{self.begin}\n{inside}\n{self.end}"


def written(value: Any, limit: int) -> str:
    """A JSON value on one line of at most `limit` (from 100 up) characters.

    What is longer is shortened, the longest of its parts first, and says where. Takes time for little more than `limit`
    once it was written out as it is.
    """
    whole = _dumped(value)
    if whole is not None and len(whole) <= limit and len(text := _escaped(whole)) <= limit:
        return text
    best = ""
    for room in _ROOMS:
        plain = _dumped(_shortened(value, room, 0)) or ""
        if len(plain) > limit or len(text := _escaped(plain)) > limit:
            # A character takes 12 at most.
            return best or _escaped(json.dumps(plain[: limit // 12 - 4] + "…", ensure_ascii=False))
        best = text
    return best


def _dumped(value: Any) -> str | None:
    """Plain JSON text; None for what is too deep."""
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except RecursionError:
        return None


def _escaped(text: str) -> str:
    return _STRING.sub(lambda found: _SUSPECT.sub(_escape, found[0]), text)


def _escape(found: re.Match[str]) -> str:
    char = found[0]
    if char < "\x7f":
        return f"\\u{ord(char):04x}"
    unseen = unicodedata.category(char) in _UNSEEN or _BLANK.match(char)
    # A tokenizer may put signs in their plain form first: ＜ is < to it.
    if unseen or set(unicodedata.normalize("NFKC", char)) & _PLAIN:
        return json.dumps(char)[1:-1]
    return char


def _shortened(value: Any, room: int, depth: int) -> Any:
    if isinstance(value, str):
        return value if len(value) <= room else f"{value[:room]}… ({len(value) - room} characters left out)"
    if isinstance(value, Mapping):
        if depth >= _MAX_DEPTH:
            return "…"
        items = islice(value.items(), room)
        kept = {_shortened(key, room, depth): _shortened(inner, room, depth + 1) for key, inner in items}
        return kept if len(value) <= room else {**kept, "…": f"({len(value) - room} fields left out)"}
    if isinstance(value, list | tuple):
        if depth >= _MAX_DEPTH:
            return "…"
        kept_items = [_shortened(inner, room, depth + 1) for inner in value[:room]]
        return kept_items if len(value) <= room else [*kept_items, f"… ({len(value) - room} items left out)"]
    return value
