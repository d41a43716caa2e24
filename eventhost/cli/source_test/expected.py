"""Compares the events that came of a golden case with those that it expects: every difference, with its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final

from eventhost.cli.source_test.session import short
from eventhost.config.tree import dotted
from eventhost.pattern import MISSING, Pattern, PatternError

ALWAYS: Final = ("type", "payload")
"""What an event is compared by even where the case says nothing of it."""

_NOTHING: Final = object()
_Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Like:
    """An expected event that is told by a pattern."""

    pattern: Pattern
    said: Any


Expected = Mapping[str, Any] | Like


def read_expected(said: Any) -> Expected:
    """One of the `events` of a case.

    Raises:
        ValueError: it can be expected of no event.
    """
    if not isinstance(said, Mapping):
        raise ValueError(f'expected an event, or {{"match": PATTERN}}, got {short(said)}')
    if "match" in said:
        if set(said) != {"match"}:
            raise ValueError('"match" stands alone: the pattern says what type and payload must be')
        try:
            return Like(Pattern.parse(said["match"], strict=False), said["match"])
        except PatternError as error:
            raise ValueError(f"match: {error}") from None
    if not isinstance(said.get("type"), str):
        raise ValueError('an event needs a "type"')
    return said


def differences(expected: Sequence[Expected], came: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is not as expected, one line for each difference; nothing if all is."""
    found: list[str] = []
    for index, (wanted, event) in enumerate(zip_longest(expected, came, fillvalue=_NOTHING)):
        at: _Path = ("events", index)
        if event is _NOTHING:
            said = wanted.said if isinstance(wanted, Like) else wanted
            found.append(f"{dotted(at)}: expected {short(said)}, but no more came")
        elif wanted is _NOTHING:
            found.append(f"{dotted(at)}: expected no more, but there came {short(event)}")
        elif isinstance(wanted, Like):
            found += _unlike(wanted, event, at)
        else:
            found += _compared(wanted, event, at)
    return found


def _unlike(wanted: Like, event: Any, at: _Path) -> list[str]:
    failure = wanted.pattern.first_failure(event)
    if failure is None:
        return []
    seen = "nothing there" if failure.seen is MISSING else short(failure.seen)
    return [f"{dotted((*at, *failure.path))}: expected what matches {short(failure.wanted)}, came {seen}"]


def _compared(wanted: Any, event: Any, at: _Path) -> list[str]:
    keys = [*wanted, *(key for key in ALWAYS if key not in wanted)]
    return [line for key in keys for line in _field(wanted, event, key, at)]


def _field(wanted: Mapping[str, Any], came: Mapping[str, Any], key: str, at: _Path) -> list[str]:
    return _differing(wanted.get(key, _NOTHING), came.get(key, _NOTHING), (*at, key))


def _differing(wanted: Any, came: Any, at: _Path) -> list[str]:
    if isinstance(wanted, Mapping) and isinstance(came, Mapping):
        return [line for key in dict.fromkeys((*wanted, *came)) for line in _field(wanted, came, key, at)]
    if isinstance(wanted, list) and isinstance(came, list):
        pairs = enumerate(zip_longest(wanted, came, fillvalue=_NOTHING))
        return [line for index, pair in pairs for line in _differing(*pair, (*at, index))]
    # In Python `True == 1`; in JSON they differ.
    if wanted == came and isinstance(wanted, bool) == isinstance(came, bool):
        return []
    texts = ["nothing" if value is _NOTHING else short(value) for value in (wanted, came)]
    return [f"{dotted(at)}: expected {texts[0]}, came {texts[1]}"]
