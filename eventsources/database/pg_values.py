"""Makes a JSON value of what PostgreSQL writes as text: exact, or a text where JSON could not be exact."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from eventhost.kit.payload import in_base64

FIRST_OWN_OID: Final = 16384
"""Types from here on were made by a user; what they are stands in the catalogue."""

SESSION: Final = (
    "-c datestyle=ISO -c timezone=UTC -c intervalstyle=iso_8601 -c bytea_output=hex -c extra_float_digits=3 "
    "-c client_encoding=UTF8"
)
"""The session's settings under which values are written as this module reads them."""


@dataclass(frozen=True, slots=True)
class OwnType:
    """A type of the catalogue: a domain over `base`, or an array of `element`."""

    base: int = 0
    element: int = 0


def value_of(text: str, oid: int, own: Mapping[int, OwnType]) -> Any:
    """The JSON value of one column; what cannot be read as its type stays the text that it is."""
    try:
        return _value(text, oid, own)
    except (ValueError, IndexError, RecursionError):
        return text


def _value(text: str, oid: int, own: Mapping[int, OwnType]) -> Any:
    while (found := own.get(oid)) is not None and found.base:
        oid = found.base
    element = _ELEMENTS.get(oid) or (found.element if found else 0)
    if element:
        return _array(text, lambda item: _value(item, element, own))
    read = _READERS.get(oid)
    return text if read is None else read(text)


def _float(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def _bytes(text: str) -> Any:
    return in_base64(bytes.fromhex(text[2:]))


def _timestamp(text: str) -> str:
    # Beyond the calendar of ISO 8601 it stays as PostgreSQL writes it: infinity, 0044-03-15 12:00:00 BC.
    return text.replace(" ", "T") if text[:1].isdigit() and not text.endswith("BC") else text


def _timestamptz(text: str) -> str:
    written = _timestamp(text)
    return written.removesuffix("+00") + "Z" if written.endswith("+00") else written


def _json(text: str) -> Any:
    return json.loads(text, parse_float=_float, parse_int=_json_int)


def _json_int(digits: str) -> int | str:
    # Beyond 64 bits most readers of JSON would make another number of it.
    return int(digits) if len(digits) < 19 or (len(digits) < 21 and -(2**63) <= int(digits) < 2**64) else digits


def _array(text: str, item_of: Callable[[str], Any]) -> list[Any]:
    if text.startswith("["):
        # Bounds other than from 1 on: [0:2]={…}
        text = text[text.index("=") + 1 :]
    stack: list[list[Any]] = [[]]
    for kind, token in _tokens(text):
        if kind == "{":
            stack.append([])
        elif kind == "}":
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(None if kind == "null" else item_of(token))
    whole: list[Any] = stack[0][0]
    return whole


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(text):
        char = text[at]
        if char in "{}":
            yield char, char
            at += 1
        elif char == ",":
            at += 1
        elif char == '"':
            item: list[str] = []
            at += 1
            while text[at] != '"':
                at += text[at] == "\\"
                item.append(text[at])
                at += 1
            at += 1
            yield "item", "".join(item)
        else:
            end = at
            while text[end] not in ",}":
                end += 2 if text[end] == "\\" else 1
            bare = text[at:end]
            yield ("null", "") if bare == "NULL" else ("item", bare)
            at = end


_READERS: Final[Mapping[int, Callable[[str], Any]]] = {
    16: lambda text: text == "t",
    17: _bytes,
    20: int,
    21: int,
    23: int,
    26: int,
    700: _float,
    701: _float,
    114: _json,
    3802: _json,
    1114: _timestamp,
    1184: _timestamptz,
}
"""By the type's number: bool, bytea, int8, int2, int4, oid, float4, float8, json, jsonb, the two timestamps."""

_ELEMENTS: Final[Mapping[int, int]] = {
    1000: 16, 1001: 17, 1002: 18, 1003: 19, 1016: 20, 1005: 21, 1007: 23, 1009: 25, 1028: 26, 199: 114,
    1021: 700, 1022: 701, 791: 790, 1014: 1042, 1015: 1043, 1182: 1082, 1183: 1083, 1115: 1114, 1185: 1184,
    1187: 1186, 1270: 1266, 1231: 1700, 2951: 2950, 3807: 3802, 1041: 869, 651: 650, 1040: 829,
}  # fmt: skip
"""What the built-in array types hold."""
