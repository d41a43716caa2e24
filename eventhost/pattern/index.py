"""`PatternIndex`: one event against all rules; gives exactly the rules that match it alone, in the order of adding."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from functools import lru_cache
from operator import methodcaller
from typing import Any, Generic, NamedTuple, TypeVar

from eventhost.event import EnvEvent
from eventhost.pattern import arrays
from eventhost.pattern.condition import condition
from eventhost.pattern.leaf import Leaf
from eventhost.pattern.match import Pattern, as_json
from eventhost.pattern.node import Check, Node, Rest
from eventhost.pattern.operators import Wildcard
from eventhost.pattern.paths import EVENT_TYPE, Paths
from eventhost.pattern.syntax import Branch

Key = TypeVar("Key", bound=Hashable)

MAX_STEPS = 2_000
"""Where an event's arrays leave a choice, so many times a rule may look at a value, each on its own. It is the shorter
way for few rules and values, and the longer one for many."""

_OWN = "host."
"""Types that begin so match only globs that do."""


class _Rule(NamedTuple):
    number: int
    """Of the first of its places; the others follow."""
    globs: tuple[str, ...]
    pattern: Pattern | None


class PatternIndex(Generic[Key]):
    """Rules by the event types that they look at, each under a key, with or without a pattern.

    event ─► fields (one walk) ─► node of rules ─► numbers of rules ─► keys
                 └─ arrays that leave a choice ─► rules that may match ─► each asked alone, or all together

    Adding and removing costs what the rule's own conditions cost, whatever other rules there are.
    """

    def __init__(self) -> None:
        self._rules: dict[Key, _Rule] = {}
        self._keys: dict[int, Key] = {}
        """By the number of each place where a rule stands: for each of its branches, in one node or in both."""
        self._repeated = 0
        """Keys that stand at several places."""
        self._next = 0
        self._paths = Paths()
        self._own, self._others = Node(), Node()
        """For the host's own events, and for all others."""

    def __len__(self) -> int:
        return len(self._rules)

    def add(self, key: Key, globs: Iterable[str], pattern: Pattern | None = None) -> None:
        """Let `key` be found for events whose type matches any of `globs` and that match `pattern`, if there is one.

        A key that is there already is replaced, and takes the last place.
        """
        self.remove(key)
        rule = self._rules[key] = _Rule(self._next, tuple(globs), pattern)
        for branch in _branches(pattern):
            for field in branch:
                self._paths.acquire(field.path)
        for node, rest in self._places(rule):
            self._keys[self._next] = key
            node.add(self._next, rest)
            self._next += 1
        if self._next - rule.number > 1:
            self._repeated += 1

    def remove(self, key: Key) -> None:
        """Let `key` be found no more; does nothing when it was not there."""
        rule = self._rules.pop(key, None)
        if rule is None:
            return
        number = rule.number
        for node, rest in self._places(rule):
            del self._keys[number]
            node.remove(number, rest)
            number += 1
        if number - rule.number > 1:
            self._repeated -= 1
        for branch in _branches(rule.pattern):
            for field in branch:
                self._paths.release(field.path)

    def match(self, event: EnvEvent | Mapping[str, Any]) -> list[Key]:
        """The keys that the event, or the JSON object, matches, each once, in the order in which they were added."""
        json = as_json(event) if type(event) is EnvEvent else dict(event)  # type: ignore[arg-type]
        event_type = json["type"]
        node = self._own if event_type.startswith(_OWN) else self._others
        read = self._paths.read(json, event_type)
        if read is None:
            return self._ask(node, json, event_type)
        found: list[int] = []
        leaves, present = read
        node.collect(leaves, present, found)
        if not found:
            return []
        if len(found) > 1:
            found = sorted(set(found))
        keys = self._keys
        matching = [keys[number] for number in found]
        return list(dict.fromkeys(matching)) if self._repeated else matching

    def _ask(self, node: Node, json: dict[str, Any], event_type: str) -> list[Key]:
        reading = arrays.read(self._paths.root, json, event_type)
        choices = reading.choices()
        possible: set[int] = set()
        node.collect_possible(choices, list(choices), possible)
        keys = dict.fromkeys([self._keys[number] for number in sorted(possible)])
        if len(possible) * reading.size <= MAX_STEPS:
            return [key for key in keys if (pattern := self._rules[key].pattern) is None or pattern.matches_json(json)]
        rests = {
            number: rest
            for key in keys
            for number, (_, rest) in enumerate(self._places(self._rules[key]), self._rules[key].number)
            if number in possible
        }
        matching = arrays.matching(rests, reading)
        return list(dict.fromkeys([self._keys[number] for number in sorted(matching)]))

    def _places(self, rule: _Rule) -> Iterator[tuple[Node, Rest]]:
        """In which nodes a rule stands, with which conditions; the same each time as long as its paths are in use."""
        for own, on in _types(rule.globs):
            node = self._own if own else self._others
            for branch in _branches(rule.pattern):
                checks = [Check(self._paths.number(field.path), field.test(), field) for field in branch]
                yield node, (*checks, on) if on is not None else tuple(checks)


def _branches(pattern: Pattern | None) -> tuple[Branch, ...]:
    return ((),) if pattern is None else pattern.branches


@lru_cache(4096)
def _types(globs: tuple[str, ...]) -> tuple[tuple[bool, Check | None], ...]:
    """What the type must be, among the host's own or among the others; nothing, if it may be any of them."""
    own = tuple(glob for glob in globs if glob.startswith(_OWN))
    others = tuple(glob for glob in globs if not glob.startswith(_OWN))
    return tuple((are_own, _on(some)) for are_own, some in ((True, own), (False, others)) if some)


def _on(globs: tuple[str, ...]) -> Check | None:
    parts = [re.split(r"\*+", glob) for glob in dict.fromkeys(globs)]
    if ["", ""] in parts:
        return None
    values: list[Leaf | Wildcard] = [Wildcard(tuple(part)) if len(part) > 1 else part[0] for part in parts]
    types = condition(("on",), tuple(values))
    test = types.test()
    match parts:
        # The usual globs; a type is always a string.
        case [[head, ""]]:
            test = methodcaller("startswith", head)
        case [["", tail]]:
            test = methodcaller("endswith", tail)
    return Check(EVENT_TYPE, test, types)
