"""`Pattern`: matches one event by looking at it as a tree, in time that grows with the event and with the pattern."""

from __future__ import annotations

from collections.abc import Mapping
from json import JSONEncoder, loads
from typing import Any, Final, Self

import msgspec

from eventhost.event import EnvEvent
from eventhost.pattern.failure import Failure, first_failure
from eventhost.pattern.syntax import Branch, parse_branches
from eventhost.pattern.tree import tree_of


class Pattern:
    """A parsed event pattern."""

    __slots__ = ("_text", "branches")

    def __init__(self, branches: tuple[Branch, ...], text: str | bytes) -> None:
        self.branches: Final = branches
        """The combinations of conditions of which one must hold; one, unless the pattern has `$or`."""
        self._text = text
        """What was parsed. A text takes a fifth of what its objects would."""

    @classmethod
    def parse(cls, pattern: object, strict: bool = True) -> Self:
        """Read a pattern: JSON values as EventBridge takes them. Not `strict`: a bare scalar means a one-item array.

        Raises:
            PatternError: the pattern is invalid.
        """
        return cls(parse_branches(pattern, strict), _as_text(pattern))

    def matches(self, event: EnvEvent | Mapping[str, Any]) -> bool:
        """Whether the event, or the JSON object, has what the pattern asks for."""
        return self.matches_json(as_json(event) if isinstance(event, EnvEvent) else dict(event))

    def matches_json(self, event: dict[str, Any]) -> bool:
        """As `matches`, for what `as_json` gave: many patterns can share it."""
        return any(tree_of(branch).judge(event) for branch in self.branches)

    def first_failure(self, event: EnvEvent | Mapping[str, Any]) -> Failure | None:
        """The first clause that does not hold, and what it saw instead; nothing when the pattern matches.

        For people: it takes many times as long as `matches`.
        """
        json = as_json(event) if isinstance(event, EnvEvent) else dict(event)
        return None if self.matches_json(json) else first_failure(loads(self._text), json)


def _as_object(value: object) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(value)
    return dict(value)


_as_plain_text = msgspec.json.Encoder(enc_hook=_as_object).encode
_as_any_text = JSONEncoder(default=dict, separators=(",", ":")).encode


def _as_text(pattern: object) -> str | bytes:
    try:
        return _as_plain_text(pattern)
    except (TypeError, ValueError):
        return _as_any_text(pattern)  # slower; knows numbers of any size, and lone surrogates


def as_json(event: EnvEvent) -> dict[str, Any]:
    """The JSON object that a pattern looks at; shares everything below its first level with the event."""
    return {
        "id": event.id,
        "type": event.type,
        "timestamp": event.timestamp,
        "metadata": event.metadata,
        "payload": event.payload,
    }
