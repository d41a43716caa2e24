"""Which events somebody asks for: globs of their types, and an event pattern; the same text for the same events."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from eventhost.bus import selector
from eventhost.journal import Entry
from eventhost.pattern import Pattern

Select = Callable[[Sequence[Entry]], list[Entry]]
"""Picks those of some entries that somebody asked for, in their order."""

_canonical = msgspec.json.Encoder(order="deterministic").encode


@dataclass(frozen=True, slots=True)
class Wanted:
    """Events whose type fits one of `globs`, and with which the pattern `match` agrees if there is one."""

    globs: tuple[str, ...] = ("*",)
    match: Any = None

    @classmethod
    def parse(cls, types: str | Iterable[str], match: Any = None) -> Wanted:
        """Globs, separated by commas or one by one; an event pattern, or None. There may be no glob left.

        Raises:
            PatternError: the pattern is none, and where.
        """
        if match is not None:
            Pattern.parse(match, strict=False)
        listed = types.split(",") if isinstance(types, str) else types
        return cls(tuple(sorted({glob.strip() for glob in listed if glob.strip()})), match)

    def __str__(self) -> str:
        types = ",".join(self.globs)
        return types if self.match is None else f"{types} {_canonical(self.match).decode()}"

    def select(self) -> Select:
        """What picks those that are wanted, in order."""
        by_type = selector(self.globs)
        if self.match is None:
            return by_type
        matches = Pattern.parse(self.match, strict=False).matches
        return lambda entries: [entry for entry in by_type(entries) if matches(entry.event)]
