"""Sizes as people write them, such as `"1GB"`, become bytes."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, WithJsonSchema

from eventhost.config.wording import kind

UNITS: Final = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}

_MEND: Final = 'write a number with KB, MB, GB or TB, such as "1GB"'
_WRITTEN: Final = re.compile(r"(\d+(?:\.\d+)?) ?(B|KB|MB|GB|TB)", re.IGNORECASE)


def size_bytes(value: Any) -> int:
    """The bytes that a config's value stands for: a bare number, or a string with a unit.

    Raises:
        ValueError: with a message and a mend.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and (written := _WRITTEN.fullmatch(value)):
        return int(float(written[1]) * UNITS[written[2].upper()])
    got = f'"{value}"' if isinstance(value, str) and value[:1].isdigit() and len(value) < 20 else kind(value)
    raise ValueError(f"expected a size, got {got}", _MEND)


Size = Annotated[
    int,
    BeforeValidator(size_bytes),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^\\d"}]}),
]
"""Bytes; a bare number, or one with a unit."""
