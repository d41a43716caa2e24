"""The pattern language, by tables of what matches, what does not, and what is refused."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventhost.event import EnvEvent
from eventhost.pattern import Pattern, PatternError
from eventhost.pattern.operators import IgnoringCase
from eventhost.pattern.syntax import _OPERATORS, MAX_COMBINATIONS, MAX_CONDITIONS, MAX_DEPTH, MAX_ITEMS

Case = tuple[str, dict[str, Any], dict[str, Any]]

MATCHES: list[Case] = [
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
    ("a leaf beside objects in an array", {"a": ["x"]}, {"a": [{"b": 1}, "x"]}),
    ("one object of an array", {"a": {"b": [1], "c": [2]}}, {"a": [{"b": 1}, {"b": 1, "c": 2}]}),
    ("one object of arrays in an array", {"a": {"b": [1], "c": [2]}}, {"a": [[{"b": 1}], [{"b": 1, "c": 2}]]}),
    ("different arrays, each its own element", {"a": {"x": [1]}, "b": {"x": [2]}}, {"a": [{"x": 1}], "b": [{"x": 2}]}),
    ("arrays within one element", {"a": {"b": [1], "c": [2]}}, {"a": [{"b": [0, 1], "c": [2, 3]}, {"b": 9}]}),
    ("a dotted key as a path", {"a.b.c": ["x"]}, {"a": {"b": {"c": "x"}}}),
    ("a dotted key below the root", {"a": {"b.c": ["x"]}}, {"a": {"b": {"c": "x"}}}),
    ("a dotted key that is there literally", {"a.b": ["x"]}, {"a.b": "x"}),
    ("a dotted key whose beginning is there literally", {"a.b.c": ["x"]}, {"a.b": {"c": "x"}}),
    ("a path and an object that meet", {"a.b": [1], "a": {"c": [2]}}, {"a": {"b": 1, "c": 2}}),
    ("paths through one array, in one element", {"a.b": [1], "a.c": [2]}, {"a": [{"b": 1, "c": 2}]}),
    ("a key with an operator's name", {"prefix": ["x"]}, {"prefix": "x"}),
    ("exactly", {"a": [{"exactly": "x"}]}, {"a": "x"}),
    ("one of values and operators", {"a": [1, {"prefix": "x"}]}, {"a": "xy"}),
    # prefix and suffix
    ("prefix", {"a": [{"prefix": "ab"}]}, {"a": "abc"}),
    ("the whole as prefix", {"a": [{"prefix": "ab"}]}, {"a": "ab"}),
    ("the empty prefix", {"a": [{"prefix": ""}]}, {"a": ""}),
    ("suffix", {"a": [{"suffix": ".png"}]}, {"a": "a.png"}),
    ("the empty suffix", {"a": [{"suffix": ""}]}, {"a": "x"}),
    ("prefix in any case", {"a": [{"prefix": {"equals-ignore-case": "aB"}}]}, {"a": "AbC"}),
    ("suffix in any case", {"a": [{"suffix": {"equals-ignore-case": ".Png"}}]}, {"a": "A.pNG"}),
    ("prefix of an element", {"a": [{"prefix": "b"}]}, {"a": ["ab", "bc"]}),
    # equals-ignore-case
    ("any case", {"a": [{"equals-ignore-case": "aLiCe"}]}, {"a": "AlIcE"}),
    ("any case beyond ASCII", {"a": [{"equals-ignore-case": "äÖ"}]}, {"a": "ÄÖ"}),
    ("a case of other length", {"a": [{"equals-ignore-case": "straße"}]}, {"a": "STRASSE"}),
    ("a case of other length in UTF-8", {"a": [{"equals-ignore-case": "ⱥ"}]}, {"a": "Ⱥ"}),
    ("a final sigma", {"a": [{"equals-ignore-case": "ς"}]}, {"a": "Σ"}),
    ("a title case letter as it is", {"a": [{"equals-ignore-case": "ǅ"}]}, {"a": "ǅ"}),
    ("a suffix of other length", {"a": [{"suffix": {"equals-ignore-case": "ß!"}}]}, {"a": "xSS!"}),
    # wildcard
    ("wildcard at the end", {"a": [{"wildcard": "ab*"}]}, {"a": "abc"}),
    ("wildcard for nothing", {"a": [{"wildcard": "a*b"}]}, {"a": "ab"}),
    ("wildcards inside", {"a": [{"wildcard": "a*b*c"}]}, {"a": "aXbbYc"}),
    ("wildcards on both ends", {"a": [{"wildcard": "*b*"}]}, {"a": "abc"}),
    ("only a wildcard", {"a": [{"wildcard": "*"}]}, {"a": ""}),
    ("no wildcard", {"a": [{"wildcard": "abc"}]}, {"a": "abc"}),
    ("an escaped star", {"a": [{"wildcard": "a\\*b*"}]}, {"a": "a*bc"}),
    ("an escaped backslash", {"a": [{"wildcard": "a\\\\*"}]}, {"a": "a\\b"}),
    ("a wildcard over a line break", {"a": [{"wildcard": "a*c"}]}, {"a": "a\nc"}),
    ("parts that overlap in the event", {"a": [{"wildcard": "*aab*"}]}, {"a": "aaab"}),
    # numeric
    ("above", {"a": [{"numeric": [">", 0]}]}, {"a": 0.1}),
    ("between", {"a": [{"numeric": [">", 0, "<=", 5]}]}, {"a": 5}),
    ("at the closed bottom", {"a": [{"numeric": [">=", 0, "<", 5]}]}, {"a": -0.0}),
    ("below", {"a": [{"numeric": ["<", 10]}]}, {"a": -1e300}),
    ("equal", {"a": [{"numeric": ["=", 3.018e2]}]}, {"a": 301.8}),
    ("beyond five billion", {"a": [{"numeric": [">", 5_000_000_000]}]}, {"a": 5_000_000_001}),
    ("beyond any float", {"a": [{"numeric": [">", 10**400]}]}, {"a": 10**400 + 1}),
    ("many digits", {"a": [{"numeric": ["<", 0.1234567891]}]}, {"a": 0.123456789}),
    ("beyond the precision of floats", {"a": [{"numeric": [">", 2**53]}]}, {"a": 2**53 + 1}),
    # anything-but
    ("anything but a string", {"a": [{"anything-but": "x"}]}, {"a": "y"}),
    ("anything but a string, of another type", {"a": [{"anything-but": "1"}]}, {"a": 1}),
    ("anything but, and null", {"a": [{"anything-but": "x"}]}, {"a": None}),
    ("anything but a number", {"a": [{"anything-but": 1}]}, {"a": 2}),
    ("anything but a number, and true", {"a": [{"anything-but": 1}]}, {"a": True}),
    ("anything but strings", {"a": [{"anything-but": ["x", "y"]}]}, {"a": "z"}),
    ("anything but numbers", {"a": [{"anything-but": [1, 2]}]}, {"a": 3}),
    ("an element that is something else", {"a": [{"anything-but": "x"}]}, {"a": ["x", "y"]}),
    ("anything but a prefix", {"a": [{"anything-but": {"prefix": "x"}}]}, {"a": "yx"}),
    ("anything but a prefix, no string", {"a": [{"anything-but": {"prefix": "x"}}]}, {"a": 1}),
    ("anything but prefixes", {"a": [{"anything-but": {"prefix": ["x", "y"]}}]}, {"a": "zx"}),
    ("anything but a suffix", {"a": [{"anything-but": {"suffix": "x"}}]}, {"a": "xy"}),
    ("anything but suffixes", {"a": [{"anything-but": {"suffix": ["x", "y"]}}]}, {"a": "z"}),
    ("anything but a wildcard", {"a": [{"anything-but": {"wildcard": "a*c"}}]}, {"a": "abd"}),
    ("anything but wildcards", {"a": [{"anything-but": {"wildcard": ["a*c", "x"]}}]}, {"a": "y"}),
    ("anything but, in any case", {"a": [{"anything-but": {"equals-ignore-case": "x"}}]}, {"a": "y"}),
    ("anything but several, in any case", {"a": [{"anything-but": {"equals-ignore-case": ["x", "y"]}}]}, {"a": "z"}),
    ("anything but a range", {"a": [{"anything-but": {"numeric": [">", 0, "<", 5]}}]}, {"a": 5}),
    # exists
    ("exists", {"a": [{"exists": True}]}, {"a": None}),
    ("does not exist", {"a": [{"exists": False}]}, {"b": 1}),
    ("an object is no leaf", {"a": [{"exists": False}]}, {"a": {"b": 1}}),
    ("an empty array has no leaf", {"a": [{"exists": False}]}, {"a": []}),
    ("arrays of nothing have no leaf", {"a": [{"exists": False}]}, {"a": [[], [[]]]}),
    ("an array of objects has no leaf", {"a": [{"exists": False}]}, {"a": [{"b": 1}]}),
    ("an array of objects and a leaf", {"a": [{"exists": True}]}, {"a": [{"b": 1}, 2]}),
    ("nothing below what is not there", {"a": {"b": [{"exists": False}]}}, {}),
    ("nothing below a leaf", {"a": {"b": [{"exists": False}]}}, {"a": 1}),
    ("nothing below an empty array", {"a": {"b": [{"exists": False}]}}, {"a": []}),
    ("missing, or a value", {"a": ["x", {"exists": False}]}, {}),
    ("in no element", {"a": {"b": [{"exists": False}]}}, {"a": [{"c": 1}, {"c": 2}]}),
    ("not in the element that is chosen", {"a": {"b": [{"exists": False}], "c": [1]}}, {"a": [{"b": 1}, {"c": 1}]}),
    # cidr
    ("an IPv4 network", {"a": [{"cidr": "10.0.0.0/24"}]}, {"a": "10.0.0.255"}),
    ("a network by any of its addresses", {"a": [{"cidr": "10.0.0.77/24"}]}, {"a": "10.0.0.1"}),
    ("all of IPv4", {"a": [{"cidr": "0.0.0.0/0"}]}, {"a": "255.255.255.255"}),
    ("an IPv6 network", {"a": [{"cidr": "2001:db8::/32"}]}, {"a": "2001:DB8:0:1::1"}),
    ("zeros before the parts of an address", {"a": [{"cidr": "10.0.0.0/24"}]}, {"a": "010.000.0.08"}),
    ("an IPv4 address within IPv6", {"a": [{"cidr": "10.0.0.0/8"}]}, {"a": "::ffff:0a00:0001"}),
    ("an IPv6 address written otherwise", {"a": ["2001:db8::1"]}, {"a": "2001:0db8:0:0::0001"}),
    # $or
    ("the first of alternatives", {"$or": [{"a": [1]}, {"b": [1]}]}, {"a": 1}),
    ("the second of alternatives", {"$or": [{"a": [1]}, {"b": [1]}]}, {"a": 2, "b": 1}),
    ("alternatives and a field", {"c": [1], "$or": [{"a": [1]}, {"b": [1]}]}, {"b": 1, "c": 1}),
    ("alternatives below a key", {"p": {"$or": [{"a": [1]}, {"b": {"c": [1]}}]}}, {"p": {"b": {"c": 1}}}),
    ("alternatives in alternatives", {"$or": [{"a": [1]}, {"b": [1], "$or": [{"c": [1]}, {"d": [1]}]}]},
     {"b": 1, "d": 1}),
    ("alternatives on both levels", {"$or": [{"a": [1]}, {"b": [1]}], "p": {"$or": [{"c": [1]}, {"d": [1]}]}},
     {"b": 1, "p": {"d": 1}}),
    ("alternatives in the same element", {"p": {"c": [1], "$or": [{"a": [1]}, {"b": [1]}]}},
     {"p": [{"c": 0, "a": 1}, {"c": 1, "b": 1}]}),
    ("$or as an ordinary key", {"$or": {"a": [1]}}, {"$or": {"a": 1}}),
    ("$or as a field's name", {"$or": ["x"]}, {"$or": "x"}),
    ("$or as a field with operators", {"$or": [{"prefix": "x"}, {"suffix": "y"}]}, {"$or": "xz"}),
]  # fmt: skip

DOES_NOT_MATCH: list[Case] = [
    ("another string", {"a": ["x"]}, {"a": "X"}),
    ("a string composed otherwise", {"a": ["\u00e9"]}, {"a": "e\u0301"}),
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
    ("conditions spread over deep elements", {"a": {"b": [1], "d": {"c": [2]}}}, {"a": [{"b": 1}, {"d": [{"c": 2}]}]}),
    ("paths spread over elements", {"a.b": [1], "a.c": [2]}, {"a": [{"b": 1}, {"c": 2}]}),
    ("a path and an object spread over elements", {"a.b": [1], "a": {"c": [2]}}, {"a": [{"b": 1}, {"c": 2}]}),
    ("a literal key hides the path", {"a.b": ["x"]}, {"a.b": "y", "a": {"b": "x"}}),
    ("a large integer is no neighbour's float", {"a": [2**53 + 1]}, {"a": float(2**53)}),
    ("prefix of another case", {"a": [{"prefix": "ab"}]}, {"a": "ABc"}),
    ("prefix of a number", {"a": [{"prefix": "1"}]}, {"a": 12}),
    ("the empty prefix of null", {"a": [{"prefix": ""}]}, {"a": None}),
    ("prefix of what is shorter", {"a": [{"prefix": "abc"}]}, {"a": "ab"}),
    ("suffix elsewhere", {"a": [{"suffix": "ab"}]}, {"a": "abc"}),
    ("suffix of any case, of a longer text", {"a": [{"suffix": {"equals-ignore-case": "abc"}}]}, {"a": "BC"}),
    ("any case of another text", {"a": [{"equals-ignore-case": "abc"}]}, {"a": "abcd"}),
    ("any case, other than event-ruler's", {"a": [{"equals-ignore-case": "ss"}]}, {"a": "ß"}),
    ("a sign that only looks like a letter", {"a": [{"equals-ignore-case": "k"}]}, {"a": "\u212a"}),
    ("half a case of other length", {"a": [{"equals-ignore-case": "ß"}]}, {"a": "s"}),
    ("wildcard in another order", {"a": [{"wildcard": "*b*a*"}]}, {"a": "ab"}),
    ("one text for two parts", {"a": [{"wildcard": "ab*b"}]}, {"a": "ab"}),
    ("inner parts that reach into the end", {"a": [{"wildcard": "a*bc*cd"}]}, {"a": "abcd"}),
    ("an escaped star for anything", {"a": [{"wildcard": "a\\*b"}]}, {"a": "axb"}),
    ("at the open bottom", {"a": [{"numeric": [">", 0, "<=", 5]}]}, {"a": 0}),
    ("at the open top", {"a": [{"numeric": [">=", 0, "<", 5]}]}, {"a": 5.0}),
    ("a number as text", {"a": [{"numeric": [">", 0]}]}, {"a": "1"}),
    ("a boolean as number", {"a": [{"numeric": [">", 0]}]}, {"a": True}),
    ("within the precision of floats", {"a": [{"numeric": [">", 2**53 + 1]}]}, {"a": float(2**53)}),
    ("anything but, and it is", {"a": [{"anything-but": "x"}]}, {"a": "x"}),
    ("anything but, and missing", {"a": [{"anything-but": "x"}]}, {}),
    ("anything but, and an object", {"a": [{"anything-but": "x"}]}, {"a": {}}),
    ("anything but a number, however it is written", {"a": [{"anything-but": [1, 2]}]}, {"a": 2.0}),
    ("anything but prefixes, and one is", {"a": [{"anything-but": {"prefix": ["x", "y"]}}]}, {"a": "yx"}),
    ("anything but suffixes, and one is", {"a": [{"anything-but": {"suffix": ["x", "y"]}}]}, {"a": "xy"}),
    ("anything but wildcards, and one is", {"a": [{"anything-but": {"wildcard": ["a*c", "x"]}}]}, {"a": "abc"}),
    ("anything but wildcards without one", {"a": [{"anything-but": {"wildcard": ["a*c", "x"]}}]}, {"a": "x"}),
    ("anything but in any case", {"a": [{"anything-but": {"equals-ignore-case": ["x", "y"]}}]}, {"a": "Y"}),
    ("anything but a range, within", {"a": [{"anything-but": {"numeric": [">", 0, "<", 5]}}]}, {"a": 1}),
    ("anything but equal", {"a": [{"anything-but": {"numeric": ["=", 5]}}]}, {"a": 5}),
    ("all elements are it", {"a": [{"anything-but": "x"}]}, {"a": ["x", "x"]}),
    ("exists, and missing", {"a": [{"exists": True}]}, {}),
    ("exists, and an object", {"a": [{"exists": True}]}, {"a": {"b": 1}}),
    ("exists, and an empty array", {"a": [{"exists": True}]}, {"a": []}),
    ("does not exist, and null", {"a": [{"exists": False}]}, {"a": None}),
    ("not in one of the elements", {"a": {"b": [{"exists": False}]}}, {"a": [{"b": 1}, {"c": 1}]}),
    ("in the element that is chosen", {"a": {"b": [{"exists": False}], "c": [1]}}, {"a": [{"b": 1, "c": 1}, {}]}),
    ("nothing there, and a value asked for", {"a": {"b": [{"exists": False}], "c": [1]}}, {"a": []}),
    ("another network", {"a": [{"cidr": "10.0.0.0/24"}]}, {"a": "10.0.1.0"}),
    ("a network of the other family", {"a": [{"cidr": "::/0"}]}, {"a": "10.0.0.1"}),
    ("no address", {"a": [{"cidr": "0.0.0.0/0"}]}, {"a": "10.0.0.256"}),
    ("an address with a zone", {"a": [{"cidr": "fe80::/10"}]}, {"a": "fe80::1%eth0"}),
    ("a network for an address", {"a": [{"cidr": "10.0.0.0/8"}]}, {"a": "10.0.0.0/8"}),
    ("an address as number", {"a": [{"cidr": "0.0.0.0/0"}]}, {"a": 167772161}),
    ("none of the alternatives", {"$or": [{"a": [1]}, {"b": [1]}]}, {"a": 2, "b": 2}),
    ("alternatives without the field", {"c": [1], "$or": [{"a": [1]}, {"b": [1]}]}, {"a": 1}),
    ("half an alternative", {"$or": [{"a": [1], "c": [1]}, {"b": [1]}]}, {"a": 1}),
    ("alternatives in another element", {"p": {"c": [1], "$or": [{"a": [1]}, {"b": [1]}]}},
     {"p": [{"c": 1}, {"c": 0, "b": 1}]}),
]  # fmt: skip


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
    with pytest.raises(PatternError, match=r"^match\.\$or\[0\]\.a: must be an object or an array, got a string$"):
        Pattern.parse({"$or": [{"a": "x"}, {"b": "y"}]})


def many(count: int) -> list[dict[str, Any]]:
    return [{f"a{number}": [number]} for number in range(count)]


REFUSED: list[tuple[Any, str]] = [
    ([], "match: a pattern is an object, got an array"),
    ({}, "match: empty objects are not allowed"),
    ({"a": {}}, "match.a: empty objects are not allowed"),
    ({"a": []}, "match.a: empty arrays are not allowed"),
    ({"a": [[1]]}, "match.a[0]: match value must be string, number, true, false, or null, got an array"),
    ({"a": [float("nan")]}, "match.a[0]: match value must be"),
    ({"a": [{}]}, "match.a[0]: match expression name not found"),
    ({"a": [{"prefx": "x"}]}, 'match.a[0]: unrecognized match type "prefx"; it is one of prefix,'),
    ({"a": [{"prefix": "x", "suffix": "y"}]}, "match.a[0]: only one key allowed in match expression"),
    ({"a": [{"prefix": 5}]}, "match.a[0].prefix: prefix match pattern must be a string, got a number"),
    ({"a": [{"prefix": ["x"]}]}, "match.a[0].prefix: prefix match pattern must be a string, got an array"),
    ({"a": [{"prefix": {"wildcard": "x"}}]}, 'match.a[0].prefix: unsupported prefix pattern: "wildcard"'),
    ({"a": [{"prefix": {}}]}, "match.a[0].prefix: unsupported prefix pattern"),
    ({"a": [{"prefix": {"equals-ignore-case": 1}}]}, "match.a[0].prefix.equals-ignore-case: equals-ignore-case match"),
    ({"a": [{"prefix": {"equals-ignore-case": "x", "b": 1}}]}, "match.a[0].prefix: only one key allowed"),
    ({"a": [{"suffix": None}]}, "match.a[0].suffix: suffix match pattern must be a string, got null"),
    ({"a": [{"suffix": {"prefix": "x"}}]}, 'match.a[0].suffix: unsupported suffix pattern: "prefix"'),
    ({"a": [{"equals-ignore-case": ["x"]}]}, "match.a[0].equals-ignore-case: equals-ignore-case match pattern must be"),
    ({"a": [{"exactly": 1}]}, "match.a[0].exactly: exactly match pattern must be a string"),
    ({"a": [{"wildcard": 1}]}, "match.a[0].wildcard: wildcard match pattern must be a string"),
    ({"a": [{"wildcard": "a**b"}]}, "match.a[0].wildcard: consecutive wildcard characters at pos 1"),
    ({"a": [{"wildcard": "a\\n"}]}, "match.a[0].wildcard: invalid escape character at pos 1"),
    ({"a": [{"wildcard": "a\\"}]}, "match.a[0].wildcard: invalid escape character at pos 1"),
    ({"a": [{"numeric": 5}]}, "match.a[0].numeric: the value of numeric must be an array"),
    ({"a": [{"numeric": []}]}, "match.a[0].numeric: invalid member in numeric match"),
    ({"a": [{"numeric": [5]}]}, "match.a[0].numeric: invalid member in numeric match"),
    ({"a": [{"numeric": ["!", 5]}]}, 'match.a[0].numeric[0]: unrecognized numeric range operator: "!"'),
    ({"a": [{"numeric": [">"]}]}, "match.a[0].numeric: the value of > must be numeric"),
    ({"a": [{"numeric": [">", "5"]}]}, "match.a[0].numeric: the value of > must be numeric, got a string"),
    ({"a": [{"numeric": ["=", True]}]}, "match.a[0].numeric: the value of = must be numeric, got a boolean"),
    ({"a": [{"numeric": ["<", float("inf")]}]}, "match.a[0].numeric: the value of < must be numeric"),
    ({"a": [{"numeric": ["=", 1, "<", 5]}]}, "match.a[0].numeric: too many elements in numeric expression"),
    ({"a": [{"numeric": ["<", 5, ">", 1]}]}, "match.a[0].numeric: too many elements in numeric expression"),
    ({"a": [{"numeric": [">", 1, ">", 5]}]}, "match.a[0].numeric[2]: bad numeric range operator: '>'"),
    ({"a": [{"numeric": [">", 1, "<"]}]}, "match.a[0].numeric: the value of < must be numeric"),
    ({"a": [{"numeric": [">", 1, "<", 5, "<", 6]}]}, "match.a[0].numeric: too many terms in numeric range"),
    ({"a": [{"numeric": [">", 5, "<", 1]}]}, "match.a[0].numeric: bottom must be less than top"),
    ({"a": [{"numeric": [">=", 5, "<=", 5]}]}, "match.a[0].numeric: bottom must be less than top"),
    ({"a": [{"exists": 1}]}, "match.a[0].exists: exists match pattern must be either true or false"),
    ({"a": [{"cidr": 1}]}, "match.a[0].cidr: cidr match pattern must be a string"),
    ({"a": [{"cidr": "10.0.0.0"}]}, "match.a[0].cidr: malformed CIDR, one '/' required"),
    ({"a": [{"cidr": "10.0.0.0/8/9"}]}, "match.a[0].cidr: malformed CIDR, one '/' required"),
    ({"a": [{"cidr": "10.0.0.0/x"}]}, "match.a[0].cidr: malformed CIDR, mask bits must be an integer"),
    ({"a": [{"cidr": "10.0.0.0/-1"}]}, "match.a[0].cidr: malformed CIDR, mask bits must not be negative"),
    ({"a": [{"cidr": "10.0.0/8"}]}, 'match.a[0].cidr: invalid IP address: "10.0.0"'),
    ({"a": [{"cidr": "10.0.0.0/32"}]}, "match.a[0].cidr: IPv4 mask bits must be < 32"),
    ({"a": [{"cidr": "::/128"}]}, "match.a[0].cidr: IPv6 mask bits must be < 128"),
    ({"a": [{"anything-but": []}]}, "match.a[0].anything-but: empty arrays are not allowed"),
    ({"a": [{"anything-but": None}]}, "match.a[0].anything-but: inside anything-but stand strings or numbers"),
    ({"a": [{"anything-but": ["x", True]}]}, "match.a[0].anything-but[1]: inside anything-but stand strings"),
    ({"a": [{"anything-but": ["x", 1]}]}, "match.a[0].anything-but: inside anything-but, either all values"),
    (
        {"a": [{"anything-but": {"exists": True}}]},
        'match.a[0].anything-but: unsupported anything-but pattern: "exists"',
    ),
    ({"a": [{"anything-but": {}}]}, "match.a[0].anything-but: unsupported anything-but pattern"),
    ({"a": [{"anything-but": {"prefix": ""}}]}, "match.a[0].anything-but.prefix: null prefix/suffix not allowed"),
    ({"a": [{"anything-but": {"suffix": ["x", ""]}}]}, "match.a[0].anything-but.suffix[1]: null prefix/suffix"),
    ({"a": [{"anything-but": {"prefix": []}}]}, "match.a[0].anything-but.prefix: empty arrays are not allowed"),
    ({"a": [{"anything-but": {"prefix": {"equals-ignore-case": "x"}}}]}, "anything-but.prefix: prefix match pattern"),
    ({"a": [{"anything-but": {"wildcard": "**"}}]}, "match.a[0].anything-but.wildcard: consecutive wildcard"),
    ({"a": [{"anything-but": {"equals-ignore-case": [1]}}]}, "anything-but.equals-ignore-case[0]: equals-ignore-case"),
    ({"a": [{"anything-but": {"prefix": "x", "suffix": "y"}}]}, "match.a[0].anything-but: only one key allowed"),
    ({"a.b": [1], "a": {"b": [2]}}, 'match.a.b: the path "a.b" cannot be there more than once'),
    ({"a": [1], "$or": [{"a": [2]}, {"b": [1]}]}, 'match.$or[0].a: the path "a" cannot be there more than once'),
    ({"$or": [{"a": [1]}]}, 'match.$or: there must be at least 2 objects in "$or"'),
    ({"$or": [{"a": [1]}, "x"]}, 'match.$or: only objects are allowed in the array of "$or"'),
    ({"$or": [{"a": [1]}, {}]}, "match.$or[1]: empty objects are not allowed"),
    ({"$or": [{"numeric": 123}, {"prefix": "abc"}]}, "match.$or[0].numeric: the value of numeric must be an array"),
    ({"$or": [{"a": {"prefix": [1]}}, {"b": [1]}]}, 'match.$or[0].a.prefix: "prefix" is an operator'),
    ({"$or": []}, "match.$or: empty arrays are not allowed"),
    ({"a." * 70 + "a": [1]}, f"nests deeper than {MAX_DEPTH} levels"),
    ({"$or": many(MAX_COMBINATIONS + 1)}, "combine in more than 1,000 ways"),
    ({"$or": many(32), "a": {"$or": many(32)}}, "combine in more than 1,000 ways"),
    ({"$or": many(100), **{f"b{number}": [1] for number in range(100)}}, "make more than 10,000 conditions"),
    ({"a": list(range(MAX_ITEMS + 1))}, "has more than 100,000 keys and values"),
    ({"a": [{"anything-but": {"prefix": ["x"] * MAX_ITEMS}}]}, "has more than 100,000 keys and values"),
]


@pytest.mark.parametrize(("pattern", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_an_invalid_pattern_is_refused_with_its_place(pattern: Any, message: str) -> None:
    with pytest.raises(PatternError) as caught:
        Pattern.parse(pattern)
    assert message in str(caught.value)
    assert str(caught.value).endswith(caught.value.reason)


def test_a_refusal_carries_the_place_as_a_path() -> None:
    with pytest.raises(PatternError) as caught:
        Pattern.parse({"payload": {"temp": [1, {"numeric": [">", "a"]}]}})
    assert caught.value.path == ("payload", "temp", 1, "numeric")


def test_a_pattern_of_the_greatest_depth_and_with_the_most_alternatives_works() -> None:
    deep: Any = [1]
    event: Any = 1
    for _ in range(MAX_DEPTH):
        deep, event = {"a": deep}, {"a": event}
    assert Pattern.parse(deep).matches(event)
    alternatives = Pattern.parse({"$or": many(MAX_COMBINATIONS)})
    assert alternatives.matches({"a999": 999})
    assert not alternatives.matches({"a999": 998})
    assert MAX_CONDITIONS > MAX_COMBINATIONS


def test_an_event_of_any_depth_can_be_matched() -> None:
    nested: Any = 1
    for _ in range(100_000):
        nested = [nested]
    assert Pattern.parse({"a": [1]}).matches({"a": nested})
    assert not Pattern.parse({"a": {"b": [1]}}).matches({"a": nested})


def test_no_form_of_a_character_begins_like_another_one() -> None:
    # Matching in any case takes the first form that fits.
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        forms = {char, char.lower(), char.upper()}
        if len(forms) > 1:
            assert not any(one != other and one.startswith(other) for one in forms for other in forms), char


CASED = st.text(st.sampled_from("aAkKsSß\u212aıIiİǅςΣσ\ufb00F1*é"), max_size=6)


@given(CASED, CASED)
def test_any_case_is_decided_character_by_character(pattern: str, value: str) -> None:
    endings = {""}
    for char in pattern:
        endings = {
            ending + form
            for ending in endings
            for form in (char, char.lower(), char.upper())
            if value.startswith(ending + form)
        }
    assert IgnoringCase(pattern).matches(value) == (value in endings)
    assert IgnoringCase(pattern, open_end=True).matches(value) == bool(endings)
    reversed_forms = {""}
    for char in reversed(pattern):
        reversed_forms = {
            form + ending
            for ending in reversed_forms
            for form in (char, char.lower(), char.upper())
            if value.endswith(form + ending)
        }
    assert IgnoringCase(pattern, open_start=True).matches(value) == bool(reversed_forms)
    folded = IgnoringCase(pattern).folded
    if folded is not None and value in endings:
        assert value.upper() == folded


DOCUMENT = (Path(__file__).parent.parent / "docs" / "rules.md").read_text()


def documented_items() -> list[tuple[str, list[str], list[str]]]:
    """Each item that may stand in a list, with what it is said to match and not to match."""
    rows = DOCUMENT.partition("| item | matches |")[2].partition("\n\n")[0].splitlines()[2:]
    cells = [re.split(r" \| ", row.strip("| ")) for row in rows]
    return [
        (item.strip("`"), *(re.findall(r"`([^`]*)`|(nothing)", cell) for cell in (yes, no)))  # type: ignore[misc]
        for item, yes, no in cells
    ]


@pytest.mark.parametrize(("item", "yes", "no"), documented_items(), ids=[row[0] for row in documented_items()])
def test_documented_items_match_what_they_are_said_to(
    item: str, yes: list[tuple[str, str]], no: list[tuple[str, str]]
) -> None:
    pattern = Pattern.parse({"a": [json.loads(item)]})

    def matches(value: str) -> bool:
        return pattern.matches({"a": json.loads(value)} if value else {})

    assert [value for value, _ in yes if not matches(value)] == []
    assert [value for value, _ in no if matches(value)] == []
    assert yes
    assert no


def test_the_documentation_names_every_operator_and_limit() -> None:
    items = " ".join(item for item, _, _ in documented_items())
    assert [name for name in _OPERATORS if name != "exactly" and f'{{"{name}"' not in items] == []
    assert [
        limit for limit in (MAX_COMBINATIONS, MAX_CONDITIONS, MAX_ITEMS, MAX_DEPTH) if f"{limit:,}" not in DOCUMENT
    ] == []
