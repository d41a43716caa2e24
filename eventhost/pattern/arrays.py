"""Many rules against an event whose arrays leave a choice: time grows with rules plus values, not their product.

Conditions below one array must hold in the same element of it, those below different arrays need not. So for each array
the conditions below it, of all rules in question, become a node of their own, which each element is matched with. A
rule that holds in one element leaves the node.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eventhost.pattern.condition import after, condition, head_in
from eventhost.pattern.leaf import MISSING, Leaf, elements, leaf
from eventhost.pattern.node import Node, Rest
from eventhost.pattern.operators import Exists
from eventhost.pattern.paths import EVENT_TYPE, Field, Object


class Leaves(dict[int, Leaf]):
    """The leaf at each number; `MISSING` where there is none."""

    def __missing__(self, number: int) -> Leaf:
        return MISSING


class Choices(dict[int, tuple[Leaf, ...]]):
    """All leaves at each number, in whatever elements they are."""

    def __missing__(self, number: int) -> tuple[Leaf, ...]:
        return (MISSING,)


class Reading:
    """What an object, or a leaf of an array, has at the numbers that rules look at."""

    __slots__ = ("arrays", "leaves", "size")

    def __init__(self) -> None:
        self.leaves = Leaves()
        """Where there is no choice."""
        self.arrays: list[list[Reading]] = []
        """The elements of each array that leaves a choice."""
        self.size = 1
        """The number of values in it."""

    def choices(self) -> Choices:
        """All leaves in it, and `MISSING` where some element may have none. Which ones go together is left open."""
        found: dict[int, list[Leaf]] = {}
        todo = list(self.arrays)
        while todo:
            for element in todo.pop():
                todo += element.arrays
                for number, value in element.leaves.items():
                    found.setdefault(number, [MISSING]).append(value)
        choices = Choices((number, (value,)) for number, value in self.leaves.items())
        choices.update((number, tuple(values)) for number, values in found.items())
        return choices


def read(root: Object, json: dict[str, Any], event_type: str) -> Reading:
    """An event as the paths below `root` see it."""
    reading = Reading()
    reading.leaves[EVENT_TYPE] = event_type
    _read([root], [], json, reading)
    return reading


def _read(objects: list[Object], tails: list[tuple[str, Field]], event: dict[str, Any], reading: Reading) -> None:
    """`tails`: what is left of dotted keys that lead through here, each with where it leads."""
    ends: dict[str, list[Field]] = {}
    ways: dict[str, list[tuple[str, Field]]] = {}
    for here in objects:
        plain = here.plain
        for key in plain if len(plain) <= len(event) else event:
            if key in plain and key in event:
                ends.setdefault(key, []).append(plain[key])
        tails = [*tails, *here.dotted.items()]
    for key, field in tails:
        if (head := head_in(event, key)) == key:
            ends.setdefault(head, []).append(field)
        else:
            ways.setdefault(head, []).append((after((key,), head)[0], field))
    for key in {**ends, **ways}:
        if key in event:
            _read_value(ends.get(key, []), ways.get(key, []), event[key], reading)


def _read_value(ends: list[Field], ways: list[tuple[str, Field]], value: Any, reading: Reading) -> None:
    objects: list[dict[str, Any]] = []
    leaves: list[Leaf] = []  # not a set: an event may hold numbers that all have the same hash
    for element in elements(value) if type(value) is list else (value,):
        reading.size += 1
        if type(element) is dict:
            objects.append(element)
        else:
            leaves.append(leaf(element))
    if numbers := [field.number for field in ends if field.number >= 0]:
        if len(leaves) == 1:
            reading.leaves.update(dict.fromkeys(numbers, leaves[0]))
        elif leaves:
            reading.arrays.append([_only(dict.fromkeys(numbers, one)) for one in leaves])
    inner = [field.inner for field in ends if field.inner is not None]
    if not inner and not ways:
        return
    if len(objects) == 1:
        _read(inner, ways, objects[0], reading)
    elif objects:
        below = [Reading() for _ in objects]
        for one, element in zip(below, objects, strict=True):
            _read(inner, ways, element, one)
            reading.size += one.size
        reading.arrays.append([one for one in below if one.leaves or one.arrays])


def _only(leaves: Mapping[int, Leaf]) -> Reading:
    reading = Reading()
    reading.leaves.update(leaves)
    return reading


def matching(rules: Mapping[int, Rest], reading: Reading) -> set[int]:
    """Those of the rules all of whose conditions hold."""
    array_of = {number: place for place, array in enumerate(reading.arrays) for number in _numbers(array)}
    below: list[dict[int, Rest]] = [{} for _ in reading.arrays]
    found = set()
    for rule, rest in rules.items():
        chosen: dict[int, Rest] = {}
        for check in rest:
            place = array_of.get(check.number)
            if place is not None:
                chosen[place] = (*chosen.get(place, ()), check)
            elif not check.test(reading.leaves[check.number]):
                break
        else:
            found.add(rule)
            for place, part in chosen.items():
                below[place][rule] = part
    for parts, array in zip(below, reading.arrays, strict=True):
        asked = {rule: part for rule, part in parts.items() if rule in found}
        found -= asked.keys() - _in_one_element(asked, array)
    return found


def _numbers(array: list[Reading]) -> set[int]:
    """Where some element has a leaf."""
    found: set[int] = set()
    todo = [array]
    while todo:
        for element in todo.pop():
            found.update(element.leaves)
            todo += element.arrays
    return found


def _in_one_element(rules: Mapping[int, Rest], array: list[Reading]) -> set[int]:
    """Those of the rules that hold in an element; in which one of their leaves is there, as the array has one."""
    node = Node()
    entries: list[tuple[int, Rest]] = []
    of_rule: dict[int, list[int]] = {}
    for rule, rest in rules.items():
        for variant in _with_a_leaf(rest):
            of_rule.setdefault(rule, []).append(len(entries))
            node.add(len(entries), variant)
            entries.append((rule, variant))
    held: set[int] = set()
    for element in array:
        if not node.size:
            break
        found: list[int] = []
        if element.arrays:
            possible: set[int] = set()
            choices = element.choices()
            node.collect_possible(choices, list(choices), possible)
            found += matching({entry: entries[entry][1] for entry in possible}, element)
        else:
            node.collect(element.leaves, list(element.leaves), found)
        for rule in {entries[entry][0] for entry in found}:
            held.add(rule)
            for entry in of_rule[rule]:
                node.remove(entry, entries[entry][1])
    return held


def _with_a_leaf(rest: Rest) -> list[Rest]:
    """The conditions, so that they hold only where one of their leaves is there; of each way to say that, one."""
    if not all(check.condition.optional for check in rest):
        return [rest]
    ways = []
    for place, check in enumerate(rest):
        alternatives = check.condition.alternatives
        present = tuple(one for one in alternatives if not isinstance(one, Exists) or one.present)
        if present:
            needed = condition(check.condition.path, present)
            ways.append((*rest[:place], check._replace(test=needed.test(), condition=needed), *rest[place + 1 :]))
    return ways
