"""JSON within text, fingerprints, objects put together, and base64: what events carry and their receivers ask for."""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from binascii import Error
from collections.abc import Callable
from typing import Any, Final

import msgspec

from eventhost.event import MAX_DEPTH
from eventhost.expression.source import ExpressionError
from eventhost.expression.views import Budget, ObjectView, kind, plain, present, view

_ALGORITHMS: Final = ("md5", "sha1", "sha256", "sha512")
_canonical: Final = msgspec.json.Encoder(order="sorted").encode


def filters(budget: Budget) -> dict[str, Callable[..., Any]]:
    """The filters by name."""

    def from_json(value: Any) -> Any:
        text = _text(value, "from_json")
        budget.write(len(text))
        try:
            found = msgspec.json.decode(text)
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            raise ExpressionError(f"from_json: {error}") from None
        if _is_too_deep(found):
            raise ExpressionError(f"from_json: nests deeper than {MAX_DEPTH} levels")
        return view(found, budget)

    def hash_(value: Any, algorithm: Any = "sha256") -> str:
        text = value.encode() if isinstance(value, str) else _canonical(_alike(plain(present(value)), budget))
        budget.write(len(text))
        return hashlib.new(check_algorithm(algorithm), text, usedforsecurity=False).hexdigest()

    def combine(value: Any, *others: Any) -> dict[str, Any]:
        combined: dict[str, Any] = {}
        for other in (value, *others):
            if not isinstance(other, ObjectView | dict):
                raise ExpressionError(f"combine: objects are needed, got {kind(other)}")
            budget.read(len(other))
            combined |= {key: other[key] for key in other}
        return combined

    def b64encode_(value: Any) -> str:
        text = _text(value, "b64encode").encode()
        budget.write(len(text) * 4 // 3)
        return b64encode(text).decode()

    def b64decode_(value: Any) -> str:
        text = _text(value, "b64decode")
        budget.write(len(text))
        try:
            return b64decode(text, validate=True).decode()
        except (Error, ValueError) as error:
            raise ExpressionError(f"b64decode: {error}") from None

    return {
        "from_json": from_json,
        "hash": hash_,
        "combine": combine,
        "b64encode": b64encode_,
        "b64decode": b64decode_,
    }


def check_algorithm(algorithm: Any) -> str:
    """`algorithm` itself.

    Raises:
        ExpressionError: it is none.
    """
    if algorithm not in _ALGORITHMS:
        raise ExpressionError(f"hash: there are {', '.join(_ALGORITHMS)}")
    return str(algorithm)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ExpressionError(f"{name}: a string is needed, got {kind(value)}")
    return str(value)


def _alike(value: Any, budget: Budget) -> Any:
    """`value` with each number written in the one way in which its equals are: `3.0` as `3`."""
    if isinstance(value, dict):
        budget.read(len(value))
        return {key: _alike(inner, budget) for key, inner in value.items()}
    if isinstance(value, list):
        budget.read(len(value))
        return [_alike(inner, budget) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True
