"""JSON answers, and the one shape that every error of the HTTP face has.

`{"error": {"code", "message", "data"}, "timestamp"}`; `code` is one of JSON-RPC 2.0's (section 5.1).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any

import msgspec
from starlette.responses import Response


class ErrorCode(IntEnum):
    """JSON-RPC 2.0 error codes."""

    PARSE_ERROR = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL_ERROR = -32603
    SERVER_ERROR = -32000


class ErrorDetails(msgspec.Struct, frozen=True):
    """`message` is a sentence for the user, `data` what a program may want to know besides.

    `data.details` is that sentence again, for clients that look for it there.
    """

    code: int
    message: str
    data: dict[str, Any]


class ErrorAnswer(msgspec.Struct, frozen=True):
    error: ErrorDetails
    timestamp: str


def now() -> str:
    """The present moment, ISO 8601 in UTC."""
    return moment(time.time())


def moment(at_s: float) -> str:
    """A moment in seconds since the epoch, as `now` has it."""
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def json_answer(value: Any, status_code: int = 200) -> Response:
    """`value` as JSON; dataclasses, structs and enumerations included."""
    return Response(msgspec.json.encode(value), status_code, media_type="application/json")


def error_answer(status_code: int, code: ErrorCode, message: str, data: Mapping[str, Any] | None = None) -> Response:
    """An error in the one shape that they all have."""
    details = {"details": message, **(data or {})}
    return json_answer(ErrorAnswer(ErrorDetails(int(code), message, details), now()), status_code)
