"""`Failure`: why a pattern does not match an event, told as a person would ask: which clause, and what did it see?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any, Final, NamedTuple

from eventhost.pattern.condition import Path, after, condition, head_in
from eventhost.pattern.error import Place
from eventhost.pattern.leaf import MISSING, elements
from eventhost.pattern.syntax import Placed, read
from eventhost.pattern.tree import Field, Fields

OR: Final = "$or"


class Failure(NamedTuple):
    """A clause that does not hold."""

    path: Place
    """Where it stands in the pattern."""
    wanted: Any
    """The JSON value that stands there, e.g. `[{"numeric": [">", 30]}]`."""
    seen: Any
    """What the event has there, or `MISSING`; of a field that several elements of an array have, the list of theirs.

    For an `$or`, an object: the fields that its alternatives failed on, by their dotted paths, those that are there.
    """


class _Attempt(NamedTuple):
    """How far one combination of conditions got."""

    held: int
    """So many of them hold together; with the next one, they do not."""
    place: Place
    path: Path
    seen: Any


def first_failure(pattern: object, event: dict[str, Any]) -> Failure:
    """Why `pattern`, in which a bare scalar may stand for a list, does not match `event`, if it does not.

    The clauses of an object are asked in their order, those of its `$or` after them. Of an `$or` it is the clause that
    failed in the alternative that got furthest; the `$or` itself, if several got as far.
    """
    attempts = [_attempt(combination, event) for combination in read(pattern, strict=False)]
    furthest = max(attempt.held for attempt in attempts)
    attempts = [attempt for attempt in attempts if attempt.held == furthest]
    places = dict.fromkeys(attempt.place for attempt in attempts)
    shared: Place = tuple(steps[0] for steps in takewhile(_alike, zip(*places, strict=False)))
    if len(places) > 1 and shared[-1:] == (OR,):
        seen = {".".join(attempt.path): attempt.seen for attempt in attempts if attempt.seen is not MISSING}
        return Failure(shared, _at(pattern, shared), seen)
    place, seen = attempts[0].place, attempts[0].seen
    return Failure(place, _at(pattern, place), seen)


def _alike(steps: Sequence[str | int]) -> bool:
    return all(step == steps[0] for step in steps)


def _attempt(combination: Sequence[Placed], event: dict[str, Any]) -> _Attempt:
    """By halves: there may be tens of thousands of conditions."""
    conditions = [(path, Field(condition(path, alternatives))) for path, alternatives, _ in combination]
    held, failing = 0, len(conditions)
    while failing - held > 1:
        middle = (held + failing) // 2
        if Fields(conditions[:middle]).judge(event):
            held = middle
        else:
            failing = middle
    path, _, place = combination[held]
    seen = _seen(conditions[:held], path, event)
    return _Attempt(held, place, path, seen[0] if len(seen) == 1 else seen or MISSING)


def _seen(conditions: Sequence[tuple[Path, Field]], path: Path, value: Any) -> list[Any]:
    """What `path` leads to, in the elements of arrays that `conditions` leave in question."""
    if not path:
        return [value]
    if type(value) is list:
        fields = Fields(conditions)
        verdicts = [(fields.judge(element), element) for element in elements(value)]
        best = max((verdict for verdict, _ in verdicts), default=None)
        return [one for verdict, element in verdicts if verdict == best for one in _seen(conditions, path, element)]
    if type(value) is not dict or (head := head_in(value, path[0])) not in value:
        return []
    beside = [(rest, field) for other, field in conditions
              if head_in(value, other[0]) == head and (rest := after(other, head))]  # fmt: skip
    return _seen(beside, after(path, head), value[head])


def _at(pattern: Any, place: Place) -> Any:
    for step in place:
        pattern = pattern[step]
    return pattern
