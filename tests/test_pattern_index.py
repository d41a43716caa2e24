"""The index by its law: for any rules and events, it gives what matching each rule alone gives."""

from __future__ import annotations

import os
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventhost.event import EnvEvent, TypeGlobs
from eventhost.pattern import Pattern, PatternError, PatternIndex
from eventhost.pattern import arrays as arrays_module
from eventhost.pattern import index as index_module
from eventhost.pattern import node as node_module
from eventhost.pattern.node import MAX_BUCKET, MAX_VALUES
from eventhost.pattern.operators import Range
from eventhost.pattern.tables import RangeTable

CASES = int(os.environ.get("EVENTHOST_LAW_CASES", "20000"))
"""Events that the law's longest test matches, each against some rules."""


def event(event_type: str, payload: dict[str, Any] | None = None) -> EnvEvent:
    return EnvEvent("1", event_type, 0, {"source_name": "s"}, payload or {})


def parsed(*items: Any) -> Pattern:
    return Pattern.parse({"payload": {"a": list(items)}})


def test_it_finds_by_exact_type_by_glob_and_by_pattern() -> None:
    index = PatternIndex[str]()
    index.add("any", ["*"])
    index.add("exact", ["door.opened"])
    index.add("glob", ["door.*", "*.opened"])
    index.add("front", ["door.*"], Pattern.parse({"payload": {"name": ["front"]}}))
    index.add("host", ["host.*"])
    assert index.match(event("door.opened", {"name": "front"})) == ["any", "exact", "glob", "front"]
    assert index.match(event("door.opened")) == ["any", "exact", "glob"]
    assert index.match(event("window.closed")) == ["any"]
    assert index.match(event("host.gap")) == ["host"]


def test_it_matches_plain_objects_too() -> None:
    index = PatternIndex[str]()
    index.add("a", ["door.*"], Pattern.parse({"name": ["front"]}))
    assert index.match({"type": "door.opened", "name": "front"}) == ["a"]
    assert index.match({"type": "door.opened", "name": ["back", "front"]}) == ["a"]
    assert index.match({"type": "window.opened", "name": "front"}) == []


def test_it_forgets_what_is_removed_and_replaces_what_is_added_again() -> None:
    index = PatternIndex[str]()
    index.add("a", ["door.opened", "door.*"])
    index.add("b", ["door.opened"])
    assert index.match(event("door.opened")) == ["a", "b"]
    index.add("a", ["window.*"])
    assert index.match(event("door.opened")) == ["b"]
    assert index.match(event("window.opened")) == ["a"]
    index.remove("b")
    index.remove("never there")
    assert index.match(event("door.opened")) == []
    assert len(index) == 1


def test_a_rule_is_found_once_however_often_it_matches() -> None:
    index = PatternIndex[str]()
    index.add("a", ["t", "t", "t*"], Pattern.parse({"payload": {"$or": [{"a": [1, 1.0]}, {"a": [1]}, {"b": [1]}]}}))
    assert index.match(event("t", {"a": [1, 1.0, 1], "b": 1})) == ["a"]
    index.remove("a")
    assert index.match(event("t", {"a": 1})) == []


def test_a_rule_of_more_types_than_are_looked_up_can_be_removed() -> None:
    index = PatternIndex[str]()
    types = [f"t{number}" for number in range(MAX_VALUES + 1)]
    index.add("a", types)
    index.add("b", types)
    assert index.match(event("t7")) == ["a", "b"]
    index.remove("a")
    assert index.match(event("t7")) == ["b"]
    index.remove("b")
    assert index.match(event("t7")) == []


def test_a_rule_found_by_a_type_glob_alone_is_told_from_its_neighbours() -> None:
    index = PatternIndex[str]()
    for number in range(2 * MAX_BUCKET):
        for glob in ("a.*", "*.z", "a.*z", "*.*", "a.z", "*a*"):
            index.add(f"{glob} {number}", [glob], parsed(1))
    for kind, globs in {"a.z": 6, "a.b": 3, "b.z": 2, "xa": 1, "a": 1, "": 0}.items():
        assert len(index.match(event(kind, {"a": 1}))) == globs * 2 * MAX_BUCKET


def test_a_key_that_stands_at_several_places_no_more_is_still_given_once() -> None:
    index = PatternIndex[str]()
    either = Pattern.parse({"payload": {"$or": [{"a": [1]}, {"b": [1]}]}})
    index.add("a", ["*"], either)
    index.add("b", ["*"], either)
    index.add("a", ["*"])
    assert index.match(event("t", {"a": 1, "b": 1})) == ["b", "a"]
    index.add("b", ["*"])
    assert index.match(event("t", {"a": 1, "b": 1})) == ["a", "b"]
    assert index._repeated == 0


FAMILIES: dict[str, Any] = {
    "one value": lambda number: [number],
    "many values": lambda number: list(range(number, number + MAX_VALUES + 1)),
    "mixed": lambda number: [number, {"prefix": f"p{number}-"}],
    "prefix": lambda number: [{"prefix": f"p{number}-"}],
    "long prefix": lambda number: [{"prefix": "p" * 70 + f"{number}-"}],
    "suffix": lambda number: [{"suffix": f"-{number}"}],
    "wildcard": lambda number: [{"wildcard": f"*-{number}-*"}],
    "wildcard around": lambda number: [{"wildcard": f"{number}*{number}"}],
    "range": lambda number: [{"numeric": [">=", number, "<", number + 1]}],
    "half a range": lambda number: [{"numeric": [">", number - 0.5]}],
    "any case": lambda number: [{"equals-ignore-case": f"Äb{number}"}],
    "prefix in any case": lambda number: [{"prefix": {"equals-ignore-case": f"Äb{number}-"}}],
    "suffix in any case": lambda number: [{"suffix": {"equals-ignore-case": f"-{number}Äb"}}],
    "unfoldable": lambda number: [{"equals-ignore-case": f"\u212a{number}"}],
    "network": lambda number: [{"cidr": f"10.0.{number}.0/24"}],
    "network of six": lambda number: [{"cidr": f"2001:db8:{number}::/48"}],
    "anything but": lambda number: [{"anything-but": [number]}],
    "exists": lambda number: [{"exists": True}],
    "does not exist": lambda number: [{"exists": False}],
}


def probes(number: int) -> list[Any]:
    """Values of which each family finds some, or their neighbours."""
    long = "p" * 70
    return [
        number, number + 0.5, f"p{number}-x", f"{long}{number}-", f"x-{number}", f"x-{number}-x", f"{number}x{number}",
        f"ÄB{number}", f"äb{number}", f"Äb{number}-x", f"x-{number}äB", f"k{number}", f"\u212a{number}",
        f"10.0.{number}.7", f"2001:db8:{number}::7", None, [number, f"p{number}-x"],
    ]  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shared", [False, True])
def test_each_operator_is_found_among_many(family: str, shared: bool) -> None:
    count = 3 * MAX_BUCKET
    rules = {
        number: {"a": FAMILIES[family](3 if shared else number), "b": [number % 3], "c": [{"prefix": f"{number}-"}]}
        for number in range(count)
    }
    index = PatternIndex[int]()
    patterns = {number: Pattern.parse({"payload": rule}) for number, rule in rules.items()}
    for number, pattern in patterns.items():
        index.add(number, ["t.*"], pattern)
    events = [
        event("t.x", {"a": value, "b": number % 3, "c": [f"{number}-", "4-"]})
        for number in (0, 3, count - 1)
        for value in probes(number)
    ] + [event("t.x", {"b": 0, "c": "3-x"})]
    found = 0
    for _ in range(2):
        for subject in events:
            alone = [number for number, pattern in patterns.items() if pattern.matches(subject)]
            assert index.match(subject) == alone
            found += len(alone)
        for number in range(0, count, 2):
            if number != 6:
                index.remove(number)
                patterns.pop(number, None)
    assert found


def test_an_array_is_matched_the_same_way_whether_rules_are_asked_alone_or_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rules: dict[int, Any] = {
        number: {"items": {"sku": [number % 7], "count": [{"numeric": [">", number]}], "sold": [{"exists": False}]}}
        for number in range(60)
    }
    rules |= {number: {"items": {"sold": [{"exists": False}, number]}} for number in range(60, 120)}
    rules |= {
        number: {"tags": [number], "other": {"sub": {"x": [{"prefix": f"{number}"}]}}} for number in range(120, 180)
    }
    index = PatternIndex[int]()
    patterns = {number: Pattern.parse({"payload": rule}) for number, rule in rules.items()}
    for number, pattern in patterns.items():
        index.add(number, ["*"], pattern)
    items: list[Any] = [
        {"sku": n % 7, "count": n, "sold": n} if n % 3 else {"sku": n % 7, "count": n} for n in range(90)
    ]
    payloads: list[dict[str, Any]] = [
        {"items": items},
        {"items": [[item] for item in items]},
        {"items": [{"sku": 1}, "x", {"count": 50}]},
        {"items": [{}] * 50},
        {
            "items": items[:70],
            "tags": list(range(150)),
            "other": [{"sub": [{"x": f"{n}"}, {"x": "no"}]} for n in range(90, 170)],
        },
        {"tags": [[number] * 3 for number in range(100, 200)], "other": {"sub": {"x": "150"}}},
    ]
    together = []

    def matching(rules: Any, reading: Any) -> set[int]:
        together.append(len(rules))
        return asked_together(rules, reading)

    asked_together = arrays_module.matching
    monkeypatch.setattr(arrays_module, "matching", matching)
    for subject in (event("t", one) for one in payloads):
        alone = [number for number, pattern in patterns.items() if pattern.matches(subject)]
        for steps in (10**9, 0):
            monkeypatch.setattr(index_module, "MAX_STEPS", steps)
            count = len(together)
            assert index.match(subject) == alone
            assert (len(together) > count) == (steps == 0)


def test_an_event_with_numbers_of_one_hash_is_matched_without_collecting_them_by_hash() -> None:
    class Counted(int):
        hashed = 0

        def __hash__(self) -> int:
            Counted.hashed += 1
            return int.__hash__(self)

    index = PatternIndex[int]()
    for number in range(1000):
        index.add(number, ["*"], Pattern.parse({"payload": {"a": [number]}}))
    assert index.match(event("t", {"a": [Counted(number) for number in range(500, 5000)]})) == list(range(500, 1000))
    assert Counted.hashed <= 2 * 4500


def test_rules_with_thousands_of_sets_of_fields_share_their_lookups() -> None:
    random = Random(1)
    index = PatternIndex[int]()
    for number in range(2000):
        fields = random.sample([f"f{field}" for field in range(30)], 3)
        index.add(number, ["*"], Pattern.parse({"payload": {"device": [number], **{field: [1] for field in fields}}}))
    device = index._paths.number(("payload", "device"))
    assert len(index._others._fields[device].values) > 1900
    assert index.match(event("t", {"device": 7, **{f"f{field}": 1 for field in range(30)}})) == [7]


def test_everything_that_was_added_can_be_removed_and_leaves_nothing() -> None:
    random = Random(1)
    index = PatternIndex[int]()
    for key in range(500):
        index.add(key, globs(random), pattern(random))
    for key in random.sample(range(500), 500):
        index.remove(key)
    assert len(index) == 0
    assert not index._own.size
    assert not index._others.size
    assert not index._paths.root
    assert not index._paths._numbers


@given(
    st.lists(st.tuples(*[st.integers(-6, 6) | st.floats(allow_nan=False) | st.integers(2**60, 2**60 + 4)] * 2)),
    st.lists(st.integers(-7, 7) | st.floats(allow_nan=False) | st.integers(2**60, 2**60 + 4) | st.just(10**400)),
    st.randoms(use_true_random=False),
)
def test_the_table_of_ranges_finds_what_each_range_holds(
    bounds: list[tuple[float, float]], values: list[float], random: Random
) -> None:
    table = RangeTable[Range]()
    ranges = {
        Range(min(pair), max(pair), random.random() < 0.5, random.random() < 0.5) for pair in bounds if len({*pair}) > 1
    }
    for one in ranges:
        table.open(one, one)
    for gone in [one for one in ranges if random.random() < 0.3]:
        ranges.discard(gone)
        table.close(gone)
    for value in [*values, *(bound for pair in bounds for bound in pair)]:
        hits: list[Range] = []
        table.find(value, hits)
        assert len(hits) == len(set(hits))
        assert set(hits) == {one for one in ranges if one.matches(value)}


# The law, on rules and events that are drawn from a small world, so that they meet.

KEYS = ["a", "b", "c", "a.b", "b.c", "a.b.c"]
TEXTS = ["", "a", "ab", "AB", "abc", "xab", "ß", "SS", "ss", "10.0.0.1", "10.0.1.1", "::1", "a*b", "k", "\u212a"]
NUMBERS = [0, -0.0, 1, 1.0, 2, 2.5, -1, 10, 2**53, 2**53 + 1, 1e300]
SCALARS = [*TEXTS, *NUMBERS, True, False, None]
GLOBS = ["*", "t.a", "t.b", "t.*", "*.a", "t*a", "t.**", "host.*", "host.x", "h*", "*x"]
TYPES = ["t.a", "t.b", "u.a", "host.x", "h.x", "t.*"]


def operator(random: Random) -> Any:
    text = random.choice(TEXTS)
    low, high = sorted(random.sample([-1, 0, 0.5, 1, 2, 3, 2**53, 2**53 + 1], 2))
    name = random.choice(["prefix", "suffix", "equals-ignore-case"])
    choices: list[Any] = [
        {"prefix": text},
        {"suffix": text},
        {"equals-ignore-case": text},
        {random.choice(["prefix", "suffix"]): {"equals-ignore-case": text}},
        {"wildcard": random.choice(["*", "a*", "*b", "a*b", "*a*", "*ab*", "*abc*", "x*b", "a\\*b", "ab", "*1*1"])},
        {"numeric": [random.choice([">", ">="]), low, random.choice(["<", "<="]), high]},
        {"numeric": [random.choice([">", ">=", "<", "<=", "="]), high]},
        {"exists": random.random() < 0.4},
        {"cidr": random.choice(["10.0.0.0/24", "10.0.0.0/8", "0.0.0.0/0", "::/0", "::/64"])},
        {"anything-but": random.choice(["a", 1, ["a", "ab"], [1, 2]])},
        {"anything-but": {name: random.choice([text or "a", [text or "a", "x"]])}},
        {"anything-but": {"wildcard": random.choice(["a*", ["*b", "x*"]])}},
        {"anything-but": {"numeric": [">", low]}},
    ]
    return random.choice(choices)


def leaf_pattern(random: Random) -> list[Any]:
    if random.random() < 0.5:
        return random.choices(SCALARS, k=random.choice([1, 1, 2, 3]))
    return [operator(random) if random.random() < 0.7 else random.choice(SCALARS) for _ in range(random.choice([1, 2]))]


def object_pattern(random: Random, depth: int) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key in random.sample(KEYS, random.choice([1, 1, 2, 3])):
        inner = depth < 2 and random.random() < 0.35
        made[key] = object_pattern(random, depth + 1) if inner else leaf_pattern(random)
    if random.random() < 0.2 / (1 + depth):
        made["$or"] = [object_pattern(random, depth + 2) for _ in range(random.choice([2, 2, 3]))]
    return made


def pattern(random: Random) -> Pattern | None:
    if random.random() < 0.05:
        return None
    while True:
        try:
            return Pattern.parse({"payload": object_pattern(random, 0)})
        except PatternError as error:
            if "cannot be there more than once" not in error.reason:
                raise


def globs(random: Random) -> list[str]:
    return ["*"] if random.random() < 0.5 else random.choices(GLOBS, k=random.choice([1, 1, 2, 3]))


def value(random: Random, depth: int, arrays: float) -> Any:
    chance = random.random()
    if depth < 4 and chance < 0.25:
        return {key: value(random, depth + 1, arrays) for key in random.sample(KEYS, random.choice([0, 1, 2, 3]))}
    if depth < 4 and chance < 0.25 + arrays:
        return [value(random, depth + 1, arrays) for _ in range(random.choice([0, 1, 2, 3]))]
    return random.choice(SCALARS)


def payload(random: Random, arrays: float = 0.2) -> dict[str, Any]:
    """`arrays`: how often a value is one."""
    return {key: value(random, 1, arrays) for key in random.sample(KEYS, random.choice([0, 1, 2, 3, 4]))}


ROUNDS = 40


def check_law(random: Random, arrays: float = 0.2) -> int:
    """Rules come and go, and between that events are matched; the number of events that matched some rule."""
    index = PatternIndex[int]()
    rules: dict[int, tuple[TypeGlobs, Pattern | None]] = {}
    matching = 0
    for _ in range(ROUNDS):
        for _ in range(random.choice([0, 1, 2, 20] if len(rules) < 20 else [0, 1, 2])):
            key = random.randrange(30)
            rules.pop(key, None)
            if random.random() < 0.2:
                index.remove(key)
            else:
                on, made = globs(random), pattern(random)
                rules[key] = TypeGlobs(on), made
                index.add(key, on, made)
        subject = event(random.choice(TYPES), payload(random, arrays))
        alone = [
            key
            for key, (on_globs, made) in rules.items()
            if on_globs[subject.type] and (made is None or made.matches(subject))
        ]
        assert index.match(subject) == alone, subject
        matching += bool(alone)
    return matching


@settings(max_examples=CASES // ROUNDS, deadline=None)
@given(st.integers(0, 2**64))
def test_the_index_gives_what_matching_each_rule_alone_gives(seed: int) -> None:
    check_law(Random(seed))


@settings(max_examples=CASES // ROUNDS, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**64))
def test_it_does_so_when_rules_are_asked_together(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "MAX_STEPS", 0)
    monkeypatch.setattr(node_module, "FEW_LEAVES", 1)
    check_law(Random(seed), arrays=0.5)


def test_the_rules_and_events_of_the_law_meet() -> None:
    assert sum(check_law(Random(seed)) for seed in range(20)) > 20 * ROUNDS / 3
