"""`Key`: which events belong together. Two have the same key when its templates give the same JSON value for both."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from eventhost.expression import Template
from eventhost.journal import Entry

MAX_LENGTH: Final = 64
"""Longer keys are kept as a hash, so that an event does not decide how much memory its key takes."""

_EXACT: Final = 2**53


@dataclass(frozen=True, slots=True)
class Key:
    """Tells events apart by a template, or a list of them."""

    template: Template

    def of(self, entry: Entry) -> str:
        """The key of an event, as a text that is different for each JSON value.

        Raises:
            ExpressionError: it cannot be filled in, for a missing field, say.
        """
        value = self.template.render(entry.event, at_ms=entry.at_ms)
        # What begins with a quotation mark is a string, so it needs no escapes to stay one.
        text = f'"{value}' if type(value) is str else _written(value)
        return text if len(text) <= MAX_LENGTH else "#" + sha256(text.encode(errors="backslashreplace")).hexdigest()


def _written(value: Any) -> str:
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"))


def _plain(value: Any) -> Any:
    """The value with 1.0 written as 1: they are the same number."""
    if type(value) is float and value.is_integer() and abs(value) < _EXACT:
        return int(value)
    if type(value) is dict:
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if type(value) is list else value
