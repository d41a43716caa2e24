"""`Paths`: reads all fields that any rule looks at in one walk over an event, as a list of leaves."""

from __future__ import annotations

from typing import Any, Final

from eventhost.pattern.condition import Path, head_in
from eventhost.pattern.leaf import MISSING, Leaf, leaf

EVENT_TYPE: Final = 0
"""The number of what `on` looks at; it is not read from the JSON."""


class Field:
    """What a key leads to: a leaf that has a number, an object, or either."""

    __slots__ = ("inner", "number")

    def __init__(self) -> None:
        self.number = -1
        self.inner: Object | None = None


class Object:
    """The keys of an object; those that have dots apart, as what they mean depends on the event."""

    __slots__ = ("dotted", "plain")

    def __init__(self) -> None:
        self.plain: dict[str, Field] = {}
        self.dotted: dict[str, Field] = {}

    def keys_like(self, key: str) -> dict[str, Field]:
        return self.dotted if "." in key else self.plain

    def __bool__(self) -> bool:
        return bool(self.plain or self.dotted)


class Paths:
    """The paths in use, each with a small number that stays its own as long as it is used."""

    def __init__(self) -> None:
        self.root: Final = Object()
        self._numbers: dict[Path, int] = {}
        self._uses = [1]
        self._free: list[int] = []
        self._blank: list[Leaf] = [MISSING]

    def acquire(self, path: Path) -> int:
        """The number of a path, which is read from now on."""
        number = self._numbers.get(path)
        if number is None:
            number = self._numbers[path] = self._new_number()
            field = self._field(path)
            field.number = number
        self._uses[number] += 1
        return number

    def release(self, path: Path) -> None:
        """Undo one `acquire`; a path that nobody uses is read no more."""
        number = self._numbers[path]
        self._uses[number] -= 1
        if not self._uses[number]:
            del self._numbers[path]
            self._free.append(number)
            self._forget(self.root, path)

    def number(self, path: Path) -> int:
        """The number of a path in use."""
        return self._numbers[path]

    def read(self, event: dict[str, Any], event_type: str) -> tuple[list[Leaf], list[int]] | None:
        """The leaf at each number, and the numbers that have one; nothing if an array leaves a choice."""
        leaves = self._blank.copy()
        leaves[EVENT_TYPE] = event_type
        present = [EVENT_TYPE]
        return (leaves, present) if _read(self.root, event, leaves, present) else None

    def _new_number(self) -> int:
        if self._free:
            return self._free.pop()
        self._uses.append(0)
        self._blank.append(MISSING)
        return len(self._uses) - 1

    def _field(self, path: Path) -> Field:
        here = self.root
        for key in path[:-1]:
            field = here.keys_like(key).setdefault(key, Field())
            if field.inner is None:
                field.inner = Object()
            here = field.inner
        return here.keys_like(path[-1]).setdefault(path[-1], Field())

    def _forget(self, here: Object, path: Path) -> None:
        key, rest = path[0], path[1:]
        fields = here.keys_like(key)
        field = fields[key]
        if not rest:
            field.number = -1
        elif field.inner is not None:
            self._forget(field.inner, rest)
            if not field.inner:
                field.inner = None
        if field.number < 0 and field.inner is None:
            del fields[key]


def _read(here: Object, event: dict[str, Any], leaves: list[Leaf], present: list[int]) -> bool:
    """Whether no array leaves a choice."""
    fields = here.plain
    if len(fields) > len(event):
        # Rules may look at thousands of fields, and events may have as many.
        fields = {key: fields[key] for key in event if key in fields}
    for key, field in fields.items():
        if key in event:
            value = event[key]
            kind = type(value)
            if kind is str or kind is int or kind is float:
                number = field.number
                if number >= 0:
                    leaves[number] = value
                    present.append(number)
            elif kind is dict:
                if field.inner is not None and not _read(field.inner, value, leaves, present):
                    return False
            elif not _read_other(field, value, leaves, present):
                return False
    for key, field in here.dotted.items():  # noqa: SIM110 - a generator would take longer
        if not _read_other(field, _follow(event, key), leaves, present):
            return False
    return True


def _read_other(field: Field, value: Any, leaves: list[Leaf], present: list[int]) -> bool:
    while type(value) is list:
        if len(value) != 1:
            return not value
        value = value[0]
    if type(value) is dict:
        return field.inner is None or _read(field.inner, value, leaves, present)
    if field.number >= 0 and value is not MISSING:
        leaves[field.number] = leaf(value)
        present.append(field.number)
    return True


def _follow(event: Any, key: str) -> Any:
    """What a dotted key leads to, or the array on the way that leaves a choice."""
    while True:
        while type(event) is list:
            if len(event) != 1:
                return event or MISSING
            event = event[0]
        if type(event) is not dict:
            return MISSING
        head = head_in(event, key)
        event = event.get(head, MISSING)
        if head == key:
            return event
        key = key[len(head) + 1 :]
