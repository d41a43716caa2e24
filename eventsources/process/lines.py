"""Bytes become lines, and lines payloads that any host takes; no more than a bound of a line is ever held."""

from __future__ import annotations

import base64
import json
import math
import re
from typing import Any, Final, NamedTuple

MAX_LINE_BYTES: Final = 1_000_000
"""What is told of one line; the rest of a longer one is skipped."""

_MAX_JSON_BYTES: Final = 1_000_000
"""A host takes events of 1 MiB; this leaves room for all that is around the payload."""

_MAX_ESCAPED: Final = 6
"""How many bytes of JSON one byte of text may take."""

_MAX_INVALID_BYTES: Final = 130_000
"""A line that is no text is told twice, as far as it can be read, and in base64."""

_MAX_BRACKETS: Final = 250
_SUSPECT: Final = re.compile(rb"NaN|Infinity|[eE]\+?\d{3}|\d{309}|\\u[dD][89a-fA-F]")
"""What JSON may hold that cannot be written as JSON again."""


class Line(NamedTuple):
    """A line without its end. `truncated`: it was longer. `unfinished`: its end never came."""

    data: bytes
    truncated: bool = False
    unfinished: bool = False


class Splitter:
    """Makes lines of chunks of any size."""

    def __init__(self, limit: int = MAX_LINE_BYTES) -> None:
        self._limit = limit
        self._held = bytearray()
        self._skipping = False

    def feed(self, chunk: bytes) -> list[Line]:
        """The lines that `chunk` completes; one that is too long is told as soon as it is."""
        lines: list[Line] = []
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            self._hold(piece, lines)
            if not self._skipping:
                lines.append(Line(bytes(self._held)))
            self._held.clear()
            self._skipping = False
        self._hold(rest, lines)
        return lines

    def end(self) -> list[Line]:
        """What is left when no more comes."""
        rest, self._held = bytes(self._held), bytearray()
        return [Line(rest, unfinished=True)] if rest else []

    def _hold(self, piece: bytes, lines: list[Line]) -> None:
        if self._skipping:
            return
        self._held += piece
        if len(self._held) > self._limit:
            lines.append(Line(bytes(self._held[: self._limit]), truncated=True))
            self._held.clear()
            self._skipping = True


def payload_of_line(line: Line, *, as_json: bool = True, encoding: str = "utf-8") -> dict[str, Any]:
    """A line that is a JSON object is the payload, where `as_json`; any other is `{"line": …}`.

    `truncated`, `unfinished` and `base64` stand beside `line` where they hold; the latter is the line as it is where it
    is no text in `encoding`.
    """
    data = line.data.removesuffix(b"\r")
    if as_json and not line.truncated and data.lstrip()[:1] == b"{" and (value := _object(data)) is not None:
        return value
    payload: dict[str, Any] = {}
    truncated = line.truncated
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        truncated = truncated or len(data) > _MAX_INVALID_BYTES
        data = data[:_MAX_INVALID_BYTES]
        text = data.decode(encoding, errors="replace")
        payload["base64"] = base64.b64encode(data).decode()
    else:
        text, cut = fitted(text)
        truncated = truncated or cut
    payload = {"line": text, **payload}
    if truncated:
        payload["truncated"] = True
    if line.unfinished:
        payload["unfinished"] = True
    return payload


def fitted(text: str, limit: int = _MAX_JSON_BYTES) -> tuple[str, bool]:
    """As much of `text` as takes no more than `limit` bytes of JSON, and whether that is less than all."""
    if len(text) * _MAX_ESCAPED <= limit:
        return text, False
    cut = False
    while (size := len(json.dumps(text, ensure_ascii=False).encode("utf-8", "replace"))) > limit:
        text, cut = text[: int(len(text) * limit / size)], True
    return text, cut


def _object(data: bytes) -> dict[str, Any] | None:
    """The object, if it is one that a host takes."""
    if data.count(b"{") + data.count(b"[") > _MAX_BRACKETS and _depth(data) > _MAX_BRACKETS:
        return None
    try:
        value = json.loads(data)
        if _SUSPECT.search(data) or len(data) > _MAX_JSON_BYTES // 4:
            written = json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
            if len(written) > _MAX_JSON_BYTES:
                return None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _depth(data: bytes) -> float:
    """How deep it nests at most, or more: brackets in texts are counted as well."""
    depth = deepest = 0
    for found in re.finditer(rb"[\[{}\]]", data):
        depth += 1 if found[0] in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest if depth == 0 else math.inf
