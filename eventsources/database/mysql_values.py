"""Makes a JSON value of what the binlog's rows hold: exact, or a text where JSON could not be exact."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from eventhost.kit.payload import in_base64


def row_of(values: Mapping[str, Any], absent: Mapping[str, Any], in_utc: frozenset[str]) -> dict[str, Any]:
    """A row as an object. `absent` tells why a value is None; `in_utc` names the columns of type TIMESTAMP."""
    return {
        name: value_of(value, utc=name in in_utc)
        for name, value in values.items()
        # Written by a session with another binlog_row_image: the log does not hold this column.
        if absent.get(name) != "cols_bitmap"
    }


def value_of(value: Any, *, utc: bool = False) -> Any:
    """The JSON value of one column."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return value.isoformat() + ("Z" if utc else "")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return _time(value)
    if isinstance(value, bytes | bytearray):
        return in_base64(bytes(value))
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return {_json_text(key): _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    return str(value)


def _json(value: Any) -> Any:
    # MySQL's binary JSON gives its texts as bytes.
    return _json_text(value) if isinstance(value, bytes) else value_of(value)


def _json_text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _time(value: timedelta) -> str:
    sign, whole = ("-", -value) if value < timedelta(0) else ("", value)
    minutes, seconds = divmod(whole.days * 86400 + whole.seconds, 60)
    text = f"{sign}{minutes // 60:02}:{minutes % 60:02}:{seconds:02}"
    return f"{text}.{whole.microseconds:06}" if whole.microseconds else text
