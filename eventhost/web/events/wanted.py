"""Which events a client asks for: `?type=` and `?match=`, as a rule's `on` and `match`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.exceptions import HTTPException

from eventhost.bus import selector
from eventhost.journal import Entry
from eventhost.pattern import Pattern, PatternError

Select = Callable[[Sequence[Entry]], list[Entry]]
"""Picks those of some entries that a client asked for, in their order."""

_MAX_MATCH = 16_384

_canonical = msgspec.json.Encoder(order="deterministic").encode


@dataclass(frozen=True, slots=True)
class Wanted:
    """Events whose type matches one of `globs`, and with which the pattern `match` agrees if there is one."""

    globs: tuple[str, ...] = ("*",)
    match: Any = None

    @classmethod
    def parse(cls, types: str = "*", match: str | None = None) -> Wanted:
        """Globs separated by commas, and an event pattern as JSON.

        Raises:
            HTTPException: 400, with the place in the pattern that is wrong.
        """
        globs = tuple(sorted({glob.strip() for glob in types.split(",") if glob.strip()})) or ("*",)
        if match is None:
            return cls(globs)
        if len(match) > _MAX_MATCH:
            raise HTTPException(400, f"match: {len(match)} characters, at most {_MAX_MATCH} are read")
        try:
            written = msgspec.json.decode(match)
            Pattern.parse(written, strict=False)
        except PatternError as error:
            raise HTTPException(400, str(error)) from None
        except (msgspec.DecodeError, RecursionError) as error:
            message = f'match: not JSON: {error}; write an event pattern such as {{"payload": {{"room": ["hall"]}}}}'
            raise HTTPException(400, message) from None
        return cls(globs, written)

    def __str__(self) -> str:
        """The same text for the same events."""
        types = ",".join(self.globs)
        return types if self.match is None else f"{types} {_canonical(self.match).decode()}"

    def select(self) -> Select:
        """What picks those that are wanted, in order."""
        by_type = selector(self.globs)
        if self.match is None:
            return by_type
        matches = Pattern.parse(self.match, strict=False).matches
        return lambda entries: [entry for entry in by_type(entries) if matches(entry.event)]
