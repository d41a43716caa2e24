"""The pattern language by tables of what matches and what does not, and the index by its law."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventhost.event import EnvEvent, TypeGlobs
from eventhost.pattern import Pattern, PatternError, PatternIndex

MATCHES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("a string", {"a": ["x"]}, {"a": "x"}),
    ("any of several values", {"a": ["x", "y"]}, {"a": "y"}),
    ("a number, however it is written", {"a": [5]}, {"a": 5.0}),
    ("a large integer, exactly", {"a": [2**53 + 1]}, {"a": 2**53 + 1}),
    ("a boolean", {"a": [True]}, {"a": True}),
    ("null", {"a": [None]}, {"a": None}),
    ("the empty string", {"a": [""]}, {"a": ""}),
    ("all fields", {"a": ["x"], "b": [1]}, {"a": "x", "b": 1, "c": 2}),
    ("a nested object", {"a": {"b": {"c": ["x"]}}}, {"a": {"b": {"c": "x"}}}),
    ("any element of an array", {"a": ["x"]}, {"a": ["w", "x"]}),
    ("an element of an array in an array", {"a": ["x"]}, {"a": [["w"], ["x"]]}),
    ("one object of an array", {"a": {"b": [1], "c": [2]}}, {"a": [{"b": 1}, {"b": 1, "c": 2}]}),
    ("a dotted key as a path", {"a.b.c": ["x"]}, {"a": {"b": {"c": "x"}}}),
    ("a dotted key below the root", {"a": {"b.c": ["x"]}}, {"a": {"b": {"c": "x"}}}),
    ("a dotted key that is there literally", {"a.b": ["x"]}, {"a.b": "x"}),
    ("a dotted key whose beginning is there literally", {"a.b.c": ["x"]}, {"a.b": {"c": "x"}}),
    ("a path and an object that meet", {"a.b": [1], "a": {"c": [2]}}, {"a": {"b": 1, "c": 2}}),
    ("paths through one array, in one element", {"a.b": [1], "a.c": [2]}, {"a": [{"b": 1, "c": 2}]}),
    ("two conditions on one array", {"a.b": [1], "a": {"b": [2]}}, {"a": {"b": [1, 2]}}),
    ("a key with an operator's name", {"prefix": ["x"]}, {"prefix": "x"}),
    ("$or as an ordinary key", {"$or": {"a": [1]}}, {"$or": {"a": 1}}),
]

DOES_NOT_MATCH: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("another string", {"a": ["x"]}, {"a": "X"}),
    ("a missing field", {"a": ["x"]}, {}),
    ("a missing field is not null", {"a": [None]}, {}),
    ("true is not 1", {"a": [1]}, {"a": True}),
    ("1 is not true", {"a": [True]}, {"a": 1}),
    ("false is not 0", {"a": [0]}, {"a": False}),
    ("a number is not its text", {"a": [1]}, {"a": "1"}),
    ("null is not false", {"a": [False]}, {"a": None}),
    ("only one of two fields", {"a": ["x"], "b": [1]}, {"a": "x"}),
    ("an object where a value is asked for", {"a": ["x"]}, {"a": {"x": "x"}}),
    ("a value where an object is asked for", {"a": {"b": ["x"]}}, {"a": "b"}),
    ("an empty array", {"a": ["x"]}, {"a": []}),
    ("conditions spread over elements", {"a": {"b": [1], "c": [2]}}, {"a": [{"b": 1}, {"c": 2}]}),
    ("paths spread over elements", {"a.b": [1], "a.c": [2]}, {"a": [{"b": 1}, {"c": 2}]}),
    ("a path and an object spread over elements", {"a.b": [1], "a": {"c": [2]}}, {"a": [{"b": 1}, {"c": 2}]}),
    ("a literal key hides the path", {"a.b": ["x"]}, {"a.b": "y", "a": {"b": "x"}}),
    ("both of two conditions on one field", {"a.b": [1], "a": {"b": [2]}}, {"a": {"b": 1}}),
    ("a large integer is no neighbour's float", {"a": [2**53 + 1]}, {"a": float(2**53)}),
]


@pytest.mark.parametrize(("pattern", "event"), [case[1:] for case in MATCHES], ids=[case[0] for case in MATCHES])
def test_it_matches(pattern: dict[str, Any], event: dict[str, Any]) -> None:
    assert Pattern.parse(pattern).matches(event)


@pytest.mark.parametrize(
    ("pattern", "event"), [case[1:] for case in DOES_NOT_MATCH], ids=[case[0] for case in DOES_NOT_MATCH]
)
def test_it_does_not_match(pattern: dict[str, Any], event: dict[str, Any]) -> None:
    assert not Pattern.parse(pattern).matches(event)


def test_an_event_is_seen_as_its_json() -> None:
    event = EnvEvent("7", "door.opened", 5, {"source_name": "door"}, {"door": {"name": "front"}})
    pattern = {
        "id": ["7"],
        "type": ["door.opened"],
        "timestamp": [5],
        "metadata": {"source_name": ["door"]},
        "payload.door.name": ["front"],
    }
    assert Pattern.parse(pattern).matches(event)
    assert not Pattern.parse({**pattern, "timestamp": [6]}).matches(event)


def test_a_bare_scalar_is_a_one_item_list_when_not_strict() -> None:
    pattern = Pattern.parse({"payload": {"temp": 5, "on": True, "why": None}}, strict=False)
    assert pattern.matches({"payload": {"temp": 5, "on": True, "why": None}})
    assert not pattern.matches({"payload": {"temp": 5, "on": 1, "why": None}})
    with pytest.raises(PatternError, match=r"^match\.payload\.temp: must be an object or an array, got a number$"):
        Pattern.parse({"payload": {"temp": 5}})


@pytest.mark.parametrize(
    ("pattern", "path", "message"),
    [
        ([], (), "match: a pattern is an object, got an array"),
        ({}, (), "match: empty objects are not allowed"),
        ({"a": {}}, ("a",), "match.a: empty objects are not allowed"),
        ({"a": []}, ("a",), "match.a: empty arrays are not allowed"),
        ({"a": [[1]]}, ("a", 0), "match.a[0]: match value must be string, number, true, false, or null, got an array"),
        ({"a": [float("nan")]}, ("a", 0), "match.a[0]: match value must be"),
        (
            {"payload": {"temp": [1, {"prefix": "x"}]}},
            ("payload", "temp", 1),
            'not supported yet: the operator "prefix"',
        ),
        ({"a": [{"numeric": [">", 5]}]}, ("a", 0), "match.a[0]: not supported yet"),
        ({"$or": [{"a": [1]}, {"b": [1]}]}, ("$or",), 'match.$or: not supported yet: "$or"'),
        ({"a": [{"prefx": "x"}]}, ("a", 0), 'match.a[0]: unrecognized match type "prefx"'),
        ({"a." * 70 + "a": [1]}, ("a." * 70 + "a",), "nests deeper than 64 levels"),
    ],
)
def test_an_invalid_pattern_is_refused_with_its_place(pattern: Any, path: tuple[Any, ...], message: str) -> None:
    with pytest.raises(PatternError) as caught:
        Pattern.parse(pattern)
    assert caught.value.path == path
    assert message in str(caught.value)


def event(event_type: str, payload: dict[str, Any] | None = None) -> EnvEvent:
    return EnvEvent("1", event_type, 0, {"source_name": "s"}, payload or {})


def test_the_index_finds_by_exact_type_by_glob_and_by_pattern() -> None:
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


def test_the_index_forgets_what_is_removed_and_replaces_what_is_added_again() -> None:
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


NAMES = st.sampled_from(["a", "b", "a.b", "c"])
SCALARS = st.sampled_from([0, 1, 1.0, True, False, None, "", "x", "1"])
EVENT_VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=8
)
PATTERNS = st.dictionaries(
    NAMES,
    st.recursive(
        st.lists(SCALARS, min_size=1, max_size=3),
        lambda inner: st.dictionaries(NAMES, inner, min_size=1, max_size=3),
        max_leaves=4,
    ),
    min_size=1,
    max_size=2,
)
GLOBS = st.lists(st.sampled_from(["*", "t.a", "t.b", "t.*", "*.a", "host.*", "host.x"]), min_size=1, max_size=3)
RULES = st.lists(st.tuples(GLOBS, st.none() | PATTERNS.map(lambda pattern: {"payload": pattern})), max_size=8)


@given(
    RULES,
    st.lists(st.integers(0, 7), max_size=3),
    st.lists(
        st.tuples(st.sampled_from(["t.a", "t.b", "u.a", "host.x"]), st.dictionaries(NAMES, EVENT_VALUES, max_size=3)),
        max_size=4,
    ),
)
def test_the_index_gives_what_matching_each_rule_alone_gives(
    rules: list[tuple[list[str], dict[str, Any] | None]],
    removed: list[int],
    events: list[tuple[str, dict[str, Any]]],
) -> None:
    index = PatternIndex[int]()
    for key, (globs, pattern) in enumerate(rules):
        index.add(key, globs, Pattern.parse(pattern) if pattern else None)
    for event_type, payload in events:
        index.match(event(event_type, payload))
    for key in removed:
        index.remove(key)
    for event_type, payload in events:
        subject = event(event_type, payload)
        alone = [
            key
            for key, (globs, pattern) in enumerate(rules)
            if key not in removed
            and TypeGlobs(globs)[event_type]
            and (pattern is None or Pattern.parse(pattern).matches(subject))
        ]
        assert index.match(subject) == alone
