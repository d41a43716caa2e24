"""`PatternIndex`: one event against all rules; gives exactly the rules that match it alone, in the order of adding."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, Generic, TypeVar

from eventhost.event import EnvEvent, TypeGlobs
from eventhost.pattern.syntax import Pattern, as_json

Key = TypeVar("Key", bound=Hashable)

_MAX_REMEMBERED_TYPES = 4096


class PatternIndex(Generic[Key]):
    """Rules by the event types that they look at, each under a key, with or without a pattern.

    The rules that look at a type are remembered for a bounded number of types: for an event that nothing looks at,
    matching is one dict lookup.
    """

    def __init__(self) -> None:
        self._rules: dict[Key, tuple[int, tuple[str, ...]]] = {}
        self._added = 0
        self._by_type: dict[str, dict[Key, Pattern | None]] = {}
        self._by_globs: dict[tuple[str, ...], tuple[TypeGlobs, dict[Key, Pattern | None]]] = {}
        self._remembered: dict[str, tuple[tuple[Key, Pattern | None], ...]] = {}

    def __len__(self) -> int:
        return len(self._rules)

    def add(self, key: Key, globs: Iterable[str], pattern: Pattern | None = None) -> None:
        """Let `key` be found for events whose type matches any of `globs` and that match `pattern`, if there is one.

        A key that is there already is replaced, and takes the last place.
        """
        self.remove(key)
        globs = tuple(globs)
        self._added += 1
        self._rules[key] = self._added, globs
        exact, wild = _split(globs)
        for event_type in exact:
            self._by_type.setdefault(event_type, {})[key] = pattern
        if wild:
            if wild not in self._by_globs:
                self._by_globs[wild] = TypeGlobs(wild), {}
            self._by_globs[wild][1][key] = pattern
        self._remembered.clear()

    def remove(self, key: Key) -> None:
        """Let `key` be found no more; does nothing when it was not there."""
        if key not in self._rules:
            return
        _, globs = self._rules.pop(key)
        exact, wild = _split(globs)
        for event_type in exact:
            rules = self._by_type[event_type]
            rules.pop(key, None)
            if not rules:
                del self._by_type[event_type]
        if wild:
            _, rules = self._by_globs[wild]
            rules.pop(key, None)
            if not rules:
                del self._by_globs[wild]
        self._remembered.clear()

    def match(self, event: EnvEvent) -> list[Key]:
        """The keys that the event matches, each once, in the order in which they were added."""
        candidates = self._remembered.get(event.type)
        if candidates is None:
            candidates = self._remember(event.type)
        if not candidates:
            return []
        json: dict[str, Any] | None = None
        keys = []
        for key, pattern in candidates:
            if pattern is not None:
                if json is None:
                    json = as_json(event)
                if not pattern.matches_json(json):
                    continue
            keys.append(key)
        return keys

    def _remember(self, event_type: str) -> tuple[tuple[Key, Pattern | None], ...]:
        found = dict(self._by_type.get(event_type, {}))
        for globs, rules in self._by_globs.values():
            if globs[event_type]:
                found.update(rules)
        if len(self._remembered) >= _MAX_REMEMBERED_TYPES:
            self._remembered.clear()
        order = sorted(found, key=lambda key: self._rules[key][0])
        self._remembered[event_type] = candidates = tuple((key, found[key]) for key in order)
        return candidates


def _split(globs: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The exact types, each once, and the globs proper."""
    return tuple({glob: None for glob in globs if "*" not in glob}), tuple(glob for glob in globs if "*" in glob)
