"""What bytes become that somebody sends, when nothing says what they are."""

from __future__ import annotations

import base64
import json
from typing import Any


def payload_of(data: bytes) -> dict[str, Any]:
    """A JSON object as it is, other JSON and other text as `{"value": …}`, anything else as `{"base64": …}`."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return in_base64(data)
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        value = text
    return value if isinstance(value, dict) else {"value": value}


def in_base64(data: bytes) -> dict[str, Any]:
    """How bytes are written in JSON."""
    return {"base64": base64.b64encode(data).decode()}


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
