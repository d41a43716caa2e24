"""What an action gave, as JSON of at most 64 KB: the next action sees it as `result`, and it is kept with the event."""

from __future__ import annotations

from typing import Any, Final

import msgspec

MAX_RESULT_BYTES: Final = 65_536
"""The largest result, as JSON text."""

CUT: Final = "… (cut)"
"""The end of a text that was too long."""

_MAX_DEPTH: Final = 256

_encode = msgspec.json.Encoder(enc_hook=str).encode


def as_result(value: Any) -> tuple[Any, bool]:
    """`value` as JSON of its own, and whether something had to be left out.

    What JSON does not know becomes its text. What is longer than `MAX_RESULT_BYTES` is cut there: a text ends with
    `CUT`, further elements and fields are missing. What has no text either becomes None. Never raises.
    """
    if value is None or value is True or value is False:
        return value, False
    try:
        text = _encode(value)
        made = msgspec.json.decode(text)
    except Exception:
        return None, True  # it contains itself, or its `__str__` fails
    if len(text) <= MAX_RESULT_BYTES:
        return made, False
    return Cutter(MAX_RESULT_BYTES - 2 * len(CUT.encode())).cut(made, 0), True


class Cutter:
    """Takes from a value what there is room for, from its beginning on."""

    def __init__(self, room: int) -> None:
        self._room = room

    def cut(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return self._cut_text(value)
        if depth >= _MAX_DEPTH:
            self._room -= 4
            return None
        if isinstance(value, dict):
            return self._cut_object(value, depth)
        if isinstance(value, list):
            return self._cut_list(value, depth)
        size = len(_encode(value))
        if size > self._room:
            return None
        self._room -= size
        return value

    def _cut_text(self, value: str) -> str:
        size = len(_encode(value))
        if size <= self._room:
            self._room -= size
            return value
        # A character takes up to six bytes, and most take one: as many as surely fit, again and again.
        kept, room = 0, self._room - 2 - len(CUT.encode())
        while kept < len(value) and (more := value[kept : kept + max(room // 6, 1)]):
            size = len(_encode(more)) - 2
            if size > room:
                break
            kept, room = kept + len(more), room - size
        self._room = 0
        return value[:kept] + CUT

    def _cut_object(self, value: dict[str, Any], depth: int) -> dict[str, Any]:
        self._room -= 2
        made: dict[str, Any] = {}
        for key, inner in value.items():
            size = len(_encode(key)) + 2
            if self._room < size + _LEAST:
                break
            self._room -= size
            made[key] = self.cut(inner, depth + 1)
        return made

    def _cut_list(self, value: list[Any], depth: int) -> list[Any]:
        self._room -= 2
        made: list[Any] = []
        for inner in value:
            if self._room < 1 + _LEAST:
                break
            self._room -= 1
            made.append(self.cut(inner, depth + 1))
        return made


# Room for the longest number, and for a text that is nothing but its end.
_LEAST: Final = 32
