"""Why a pattern does not match, by a table of what is told to a person, and by the law that it is told only then."""

from __future__ import annotations

import os
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pattern_index import pattern, payload

from eventhost.event import EnvEvent
from eventhost.pattern import MISSING, Failure, Pattern

CASES = int(os.environ.get("EVENTHOST_LAW_CASES", "20000"))

HOT: Any = [{"numeric": [">", 30]}]
DISK: Any = {"kind": ["disk"], "$or": [{"free": [1]}, {"state": ["bad", "gone"]}]}
DEEP: Any = {"$or": [{"a": {"b": [1], "c": [2], "d": [3]}}, {"e": [4]}]}
TWO: Any = {"$or": [{"a": [1]}, {"a": [2]}], "b": {"$or": [{"c": [1]}, {"d": [2]}]}}
SKU: Any = {"items": {"sku": ["A"], "count": [2]}}

FAILURES: list[tuple[str, dict[str, Any], dict[str, Any], tuple[Any, Any, Any]]] = [
    ("a leaf", {"a": HOT}, {"a": 30}, (("a",), HOT, 30)),
    ("a leaf that is not there", {"a": {"b": HOT}}, {"a": {}}, (("a", "b"), HOT, MISSING)),
    ("a null is there", {"a": [1]}, {"a": None}, (("a",), [1], None)),
    ("a scalar where an object should be", {"a": {"b": [1]}}, {"a": 5}, (("a", "b"), [1], MISSING)),
    ("an object where a leaf should be", {"a": [1]}, {"a": {"b": 1}}, (("a",), [1], {"b": 1})),
    ("the first in the order of writing", {"b": [1], "a": [1]}, {"a": 2, "b": 3}, (("b",), [1], 3)),
    ("the second where the first holds", {"b": [1], "a": [1]}, {"a": 2, "b": 1}, (("a",), [1], 2)),
    ("a leaf that should not be there", {"a": [{"exists": False}]}, {"a": 1}, (("a",), [{"exists": False}], 1)),
    ("a list of leaves", {"a": [1]}, {"a": [2, [3]]}, (("a",), [1], [2, [3]])),
    ("an empty list", {"a": [1]}, {"a": []}, (("a",), [1], [])),
    ("a dotted key", {"a.b": [1]}, {"a": {"b": 2}}, (("a.b",), [1], 2)),
    ("a dotted key that is there literally", {"a.b.c": [1]}, {"a.b": {"c": 2}}, (("a.b.c",), [1], 2)),
    ("the only element of an array", SKU, {"items": [{"sku": "B"}]}, (("items", "sku"), ["A"], "B")),
    ("any of several elements", SKU, {"items": [{"sku": "B"}, {}, {"sku": "C"}]},
     (("items", "sku"), ["A"], ["B", "C"])),
    ("the element for which the others hold", SKU, {"items": [{"sku": "B", "count": 2}, {"sku": "A", "count": 3}]},
     (("items", "count"), [2], 3)),
    ("that element in a nested array", {"a": SKU}, {"a": [[{"items": [[{"sku": "A"}]]}, {"items": 7}]]},
     (("a", "items", "count"), [2], MISSING)),
    ("what stands beside $or comes first", DISK, {"kind": "tape", "free": 9}, (("kind",), ["disk"], "tape")),
    ("no alternative of $or got further than another", DISK, {"kind": "disk", "free": 9, "state": "ok"},
     (("$or",), DISK["$or"], {"free": 9, "state": "ok"})),
    ("nothing is there for any alternative of $or", DISK, {"kind": "disk"}, (("$or",), DISK["$or"], {})),
    ("the alternative of $or that got furthest", DEEP, {"a": {"b": 1, "c": 2, "d": 4}, "e": 5},
     (("$or", 0, "a", "d"), [3], 4)),
    ("one of two $or holds", TWO, {"a": 2, "b": {"c": 2}}, (("b", "$or"), TWO["b"]["$or"], {"b.c": 2})),
    ("neither of two $or holds", TWO, {"a": 3, "b": {"c": 2}}, (("$or",), TWO["$or"], {"a": 3})),
]  # fmt: skip


@pytest.mark.parametrize(
    ("clauses", "event", "expected"), [row[1:] for row in FAILURES], ids=[row[0] for row in FAILURES]
)
def test_the_first_clause_that_fails_is_told_with_what_it_saw(
    clauses: dict[str, Any], event: dict[str, Any], expected: tuple[Any, Any, Any]
) -> None:
    assert Pattern.parse(clauses).first_failure(event) == Failure(*expected)
    assert Pattern.parse({"payload": clauses}).first_failure(EnvEvent("1", "t", 0, {}, event)) is not None


def test_what_is_wanted_is_told_as_it_was_written() -> None:
    wanted = [{"anything-but": ["b", "a"]}, {"numeric": [">", -(10**30), "<=", 1e300]}, "\ud800", "::0001", -0.0]
    failure = Pattern.parse({"a": {"b": "bare"}, "c": wanted}, strict=False).first_failure({"a": {"b": "bare"}})
    assert failure == (("c",), wanted, MISSING)
    assert Pattern.parse({"a": "bare"}, strict=False).first_failure({}) == (("a",), "bare", MISSING)


def test_a_pattern_that_is_changed_after_parsing_still_tells_what_was_parsed() -> None:
    clauses: dict[str, Any] = {"a": [1]}
    parsed = Pattern.parse(clauses)
    clauses["a"].append(2)
    assert parsed.first_failure({"a": 2}) == (("a",), [1], 2)


def test_the_largest_patterns_tell_their_failure() -> None:
    clauses = {f"k{number}": [number] for number in range(20_000)}
    event = {key: values[0] for key, values in clauses.items()} | {"k12345": 0}
    assert Pattern.parse(clauses).first_failure(event) == (("k12345",), [12345], 0)


@settings(max_examples=CASES // 10, deadline=None)
@given(st.integers(0, 2**64))
def test_a_failure_is_told_if_and_only_if_the_pattern_does_not_match(seed: int) -> None:
    random = Random(seed)
    parsed = pattern(random)
    if parsed is None:
        return
    event = EnvEvent("1", "t", 0, {}, payload(random))
    failure = parsed.first_failure(event)
    assert (failure is None) == parsed.matches(event)
    if failure is not None:
        assert failure.path[0] == "payload"
        assert isinstance(failure.wanted, list)
