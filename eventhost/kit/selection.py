"""Which part of an answer is the list of items, what each item is known by, and what of it counts as a change.

A path leads into JSON: `data.items`, `owner.login`, `tags.0`. In what is ignored or compared alone, `*` stands for each
value of a list or an object: `assets.*.downloads`. A key that has a dot in it needs a JSON Pointer (RFC 6901):
`/a.b/c`. The empty path is the whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from eventhost.errors import EventhostError

if TYPE_CHECKING:
    from eventhost.kit.options import Options

Item = tuple[Any, Any]
"""What an item is known by, and the item; both JSON."""

_SHOWN: Final = 200
"""How much of an unexpected answer an error shows."""

MAX_DEPTH: Final = 200
"""How many levels of lists and objects an item may have; a host takes events with a few more."""

_MISSING: Final = object()


class Misshapen(EventhostError):
    """An answer is not of the shape that the configuration says; the text tells what came, and the mend."""


class Items(NamedTuple):
    """What an answer holds: `form` is `list`, or `document` where the whole is one item, known by null."""

    form: str
    items: list[Item]


class Selection(NamedTuple):
    """How to read items out of an answer. Without `key`, an item of a list is known by its content."""

    items: str = ""
    key: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    """Where given, nothing else is compared."""

    @classmethod
    def of(cls, options: Options) -> Selection:
        """What `items`, `key`, `ignore` and `only` of a configuration ask for.

        Raises:
            ConfigError: one of them is no path.
        """
        paths = {
            name: tuple(options.texts(name, (), example='["owner.login", "number"]'))
            for name in ("key", "ignore", "only")
        }
        for name, ones in paths.items():
            for path in ones:
                if "" in _steps(path) or (name == "key" and "*" in _steps(path)):
                    raise options.wrong(name, f"{path} is no path", 'write "owner.login", or "/owner.name/login"')
        items = "" if options.value("items", "") == "" else options.text("items", example="data.items")
        if items and ("" in _steps(items) or "*" in _steps(items)):
            raise options.wrong("items", f"{items} is no path", 'write "data.items", or "" for the whole')
        if paths["ignore"] and paths["only"]:
            raise options.wrong("only", "stands beside `ignore`", "write one of them")
        return cls(items, **paths)

    @property
    def text(self) -> str:
        """The same text for the same selection, and another for any other."""
        return canonical(list(self))

    def read(self, answer: Any) -> Items:
        """The items of `answer`. Without a key, what is there twice is one item.

        Raises:
            Misshapen: there is no list of items with a key each, no two of them the same.
        """
        found = at(answer, self.items)
        place = f"at {self.items}" if self.items else "as the whole"
        if found is _MISSING:
            raise Misshapen(f"there is nothing {place} of the answer; set `items` to where it is; {shown(answer)}")
        if not isinstance(found, list):
            if self.key:
                raise Misshapen(f"there is no list {place} of the answer; set `items` to where it is; {shown(answer)}")
            return Items("document", [(None, found)])
        items: dict[str, Item] = {}
        for position, item in enumerate(found):
            key = self._key(item, position) if self.key else self.digest(item).hex()
            text = canonical(key)
            if text in items and self.key:
                raise Misshapen(f"two items have the key {text}; add to `key` what tells them apart; {shown(item)}")
            items.setdefault(text, (key, item))
        return Items("list", list(items.values()))

    def compared(self, item: Any) -> Any:
        """What of `item` counts: when this is the same, nothing has changed."""
        if self.only:
            return [[list(place), value] for path in self.only for place, value in _places(item, _steps(path))]
        for path in self.ignore:
            item = _without(item, _steps(path))
        return item

    def digest(self, item: Any) -> bytes:
        """16 bytes that stand for what counts of `item`."""
        return blake2b(canonical(self.compared(item)).encode(), digest_size=16).digest()

    def changed(self, old: Any, new: Any) -> list[str]:
        """The paths of what counts and differs, as far down as both are objects."""
        if not self.only:
            return [written(place) for place in _differing(self.compared(old), self.compared(new))]
        before, after = (
            {place: value for path in self.only for place, value in _places(item, _steps(path))} for item in (old, new)
        )
        return [
            written(place + deeper)
            for place in {**before, **after}
            for deeper in _differing(before.get(place, _MISSING), after.get(place, _MISSING))
        ]

    def _key(self, item: Any, position: int) -> Any:
        values = [at(item, path) for path in self.key]
        for path, value in zip(self.key, values, strict=True):
            if value is _MISSING or value is None or isinstance(value, list | dict):
                told = "no" if value is _MISSING or value is None else "no plain value as its"
                raise Misshapen(f"item {position} has {told} {path}, which is its `key`; {shown(item)}")
        return values[0] if len(values) == 1 else values


def canonical(value: Any) -> str:
    """The one way in which JSON of this meaning is written here, in ASCII.

    Raises:
        Misshapen: it is nested too deep, or is not JSON.
    """
    try:
        return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    except (RecursionError, ValueError) as error:
        raise Misshapen(f"the answer cannot be kept as JSON: {error}") from None


def as_kept(item: Any) -> str:
    """The item as it is kept: `canonical`, and sure to be read again.

    Raises:
        Misshapen: it is nested too deep, or is not JSON.
    """
    text = canonical(item)
    # No shorter text can nest deeper: each level takes two brackets.
    level = [item] if len(text) > 2 * MAX_DEPTH else []
    depth = 0
    while level:
        if depth > MAX_DEPTH:
            raise Misshapen(f"an item is nested deeper than {MAX_DEPTH} levels")
        depth += 1
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return text


def at(value: Any, path: str) -> Any:
    """What `path` leads to, or an object of its own where it leads nowhere."""
    for step in _steps(path):
        value = _into(value, step)
    return value


def is_there(value: Any) -> bool:
    """Whether `at` found something."""
    return value is not _MISSING


def shown(value: Any) -> str:
    """The beginning of what came, for an error."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return f"it is {text if len(text) <= _SHOWN else text[:_SHOWN] + '…'}"


def written(place: Sequence[str]) -> str:
    """The path that leads there."""
    if place and all(step and "." not in step and "/" not in step and step != "*" for step in place):
        return ".".join(place)
    return "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in place)


def _steps(path: str) -> list[str]:
    if path.startswith("/"):
        return [step.replace("~1", "/").replace("~0", "~") for step in path[1:].split("/")]
    return path.split(".") if path else []


def _into(value: Any, step: str) -> Any:
    if isinstance(value, dict):
        return value.get(step, _MISSING)
    if isinstance(value, list) and step.isascii() and step.isdigit() and int(step) < len(value):
        return value[int(step)]
    return _MISSING


def _places(value: Any, steps: Sequence[str], place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not steps:
        yield place, value
        return
    for step in _names(value) if steps[0] == "*" else (steps[0],):
        inner = _into(value, step)
        if inner is not _MISSING:
            yield from _places(inner, steps[1:], (*place, step))


def _names(value: Any) -> Iterable[str]:
    if isinstance(value, dict):
        return list(value)
    return map(str, range(len(value))) if isinstance(value, list) else ()


def _without(value: Any, steps: Sequence[str]) -> Any:
    """A copy without what the steps lead to; in a list null takes its place, so that the others keep theirs."""
    step, *rest = steps
    if isinstance(value, dict):
        names = [step] if step in value else list(value) if step == "*" else []
        if not rest:
            return {name: one for name, one in value.items() if name not in names}
        return {name: _without(one, rest) if name in names else one for name, one in value.items()}
    if isinstance(value, list):
        return [
            one if step not in ("*", str(index)) else _without(one, rest) if rest else None
            for index, one in enumerate(value)
        ]
    return value


def _differing(old: Any, new: Any) -> Iterator[tuple[str, ...]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in {**old, **new}:
            for place in _differing(old.get(name, _MISSING), new.get(name, _MISSING)):
                yield (name, *place)
    elif old is _MISSING or new is _MISSING or canonical(old) != canonical(new):
        yield ()
