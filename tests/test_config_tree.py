"""Located values: merging, comparing, and problems in the words of the house."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_validator

from eventhost.config.durations import Duration, Milliseconds, Seconds, seconds
from eventhost.config.tree import Tree, merge
from eventhost.errors import ConfigError


class Color(StrEnum):
    RED = "red"
    GREEN = "green"


class Step(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    log: str | None = None
    tool: str | None = None
    arguments: dict[str, Any] = {}


class Rule(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(examples=["greet"])
    on: str | list[str] = "*"
    do: list[Step] = Field(default=[], examples=[[{"log": "{{ type }}"}]])
    enabled: bool = True
    concurrency: int = Field(1, ge=1)
    color: Color = Color.RED
    mode: Literal["once", "twice"] = "once"
    words: tuple[str, ...] = ()
    headers: dict[str, str] = {}
    weight: float = 1.0
    max_wait: Duration = Field(5.0, alias="maxWait")
    interval: Milliseconds = 1.0
    patience: Seconds = 1.0
    inner: Step | None = None
    either: Step | list[Step] | None = None

    @field_validator("name")
    @classmethod
    def _checked(cls, name: str) -> str:
        if name == "bad":
            raise ValueError("this name is bad", 'write "good"')
        return name


def errors(text: str, model: type[BaseModel] = Rule) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        Tree.parse(text, "f").validate(model)
    return [str(problem) for problem in raised.value.problems]


def test_a_valid_value_becomes_the_model() -> None:
    text = """{
      "name": "x", "on": ["a", "b"], "do": [{"log": "y"}], "color": "green", "mode": "twice", "words": ["u", "v"],
      "weight": 2, "maxWait": "2m", "interval": 250, "patience": 3, "either": [{"tool": "t"}], "headers": {"A": "b"},
    }"""
    rule = Tree.parse(text, "f").validate(Rule)
    assert (rule.on, rule.do, rule.color, rule.words) == (["a", "b"], [Step(log="y")], Color.GREEN, ("u", "v"))
    assert (rule.weight, rule.max_wait, rule.interval, rule.patience) == (2.0, 120.0, 0.25, 3.0)
    assert rule.either == [Step(tool="t")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", ['f:1:1: name: this key is required; add "name": "greet"']),
        ("[]", ["f:1:1: expected an object, got a list"]),
        ('{"name": 5}', ['f:1:10: name: expected a string, got a number; write "greet"']),
        ('{"name": null}', ['f:1:10: name: expected a string, got null; write "greet"']),
        ('{"name": "bad"}', ['f:1:10: name: this name is bad; write "good"']),
        ('{"name": "x", "on": 5}', ["f:1:21: on: expected a string or a list of strings, got a number"]),
        ('{"name": "x", "on": ["a", 5]}', ["f:1:27: on[1]: expected a string, got a number"]),
        (
            '{"name": "x", "do": {"log": "y"}}',
            ['f:1:21: do: expected a list of objects, got an object; write [{"log": "{{ type }}"}]'],
        ),
        ('{"name": "x", "do": [{"log": 1}]}', ["f:1:30: do[0].log: expected a string, got a number"]),
        ('{"name": "x", "do": [{"lgo": "y"}]}', ['f:1:23: do[0].lgo: unknown key; did you mean "log"?']),
        ('{"name": "x", "do": [{"q": 1}]}', ["f:1:23: do[0].q: unknown key; known here: log, tool, arguments"]),
        ('{"name": "x", "max_wait": "1s"}', ['f:1:15: max_wait: unknown key; did you mean "maxWait"?']),
        ('{"name": "x", "enabled": "true"}', ["f:1:26: enabled: expected true or false, got a string"]),
        ('{"name": "x", "enabled": 1}', ["f:1:26: enabled: expected true or false, got a number"]),
        ('{"name": "x", "concurrency": 0}', ["f:1:30: concurrency: must be at least 1"]),
        ('{"name": "x", "concurrency": 1.5}', ["f:1:30: concurrency: expected a whole number, got a fraction"]),
        ('{"name": "x", "color": "gren"}', ['f:1:24: color: expected one of "red", "green"; did you mean "green"?']),
        ('{"name": "x", "color": 5}', ['f:1:24: color: expected one of "red", "green", got a number']),
        ('{"name": "x", "mode": "never"}', ['f:1:23: mode: expected one of "once", "twice"']),
        ('{"name": "x", "words": "u"}', ["f:1:24: words: expected a list of strings, got a string"]),
        ('{"name": "x", "headers": {"A": 1}}', ["f:1:32: headers.A: expected a string, got a number"]),
        ('{"name": "x", "headers": []}', ["f:1:26: headers: expected an object of strings, got a list"]),
        ('{"name": "x", "weight": "1"}', ["f:1:25: weight: expected a number, got a string"]),
        ('{"name": "x", "inner": {"lob": 1}}', ['f:1:25: inner.lob: unknown key; did you mean "log"?']),
        ('{"name": "x", "either": 5}', ["f:1:25: either: expected an object or a list of objects, got a number"]),
        (
            '{"name": "x", "maxWait": 5}',
            [
                "f:1:26: maxWait: expected a duration with a unit, got a bare number; "
                'write a number with ms, s, m, h or d, such as "5s" or "500ms"'
            ],
        ),
        (
            '{"name": 1, "do": [{"log": 1}, {"x": 1}],\n "words": 5}',
            [
                'f:1:10: name: expected a string, got a number; write "greet"',
                "f:1:28: do[0].log: expected a string, got a number",
                "f:1:33: do[1].x: unknown key; known here: log, tool, arguments",
                "f:2:11: words: expected a list of strings, got a number",
            ],
        ),
    ],
)
def test_every_problem_is_told_at_once_with_place_and_mend(text: str, expected: list[str]) -> None:
    assert errors(text) == expected


def test_the_branches_of_a_tagged_union_are_told_apart() -> None:
    class Log(BaseModel):
        kind: Literal["log"]
        text: str

    class Call(BaseModel):
        kind: Literal["call"]
        tool: str

    class Both(BaseModel):
        do: list[Annotated[Log | Call, Field(discriminator="kind")]]

    assert errors('{"do": [{"kind": "call", "tool": 5}]}', Both) == [
        "f:1:34: do[0].tool: expected a string, got a number"
    ]
    assert errors('{"do": [{"kind": "call"}]}', Both) == ['f:1:9: do[0].tool: this key is required; add "tool"']


def test_a_part_keeps_its_place() -> None:
    rules = Tree.parse('{"rules": [\n {"name": "a"},\n {"nmae": "b"}]}', "config.jsonc").at("rules")
    assert rules.path == ("rules",)
    with pytest.raises(ConfigError) as raised:
        rules.at(1).validate(Rule)
    assert [str(problem) for problem in raised.value.problems] == [
        'config.jsonc:3:2: rules[1].name: this key is required; add "name": "greet"',
        'config.jsonc:3:3: rules[1].nmae: unknown key; did you mean "name"?',
    ]


def test_problems_can_be_made_of_any_part() -> None:
    tree = Tree.parse('{"a": {"b": [1, 2]}}', "f")
    assert str(tree.problem("is wrong", mend="mend it")) == "f:1:1: is wrong; mend it"
    assert str(tree.at("a").problem("is wrong", at=("b", 1))) == "f:1:17: a.b[1]: is wrong"
    assert str(tree.at("a").problem("is wrong", at="b", key=True)) == "f:1:8: a.b: is wrong"
    assert str(tree.at("a", "c").problem("is missing", fatal=False)) == "f:1:7: a.c: is missing"
    assert not tree.problem("is odd", fatal=False).fatal


def test_what_is_not_there_has_no_value() -> None:
    tree = Tree.parse('{"a": [1], "n": null}', "f")
    assert tree.at("a", 0).value == 1
    for path in (("b",), ("a", 1), ("a", -1), ("a", "x"), ("a", 0, "x"), ("n",), ("n", "x")):
        assert tree.at(*path).value is None
    assert tree.at("a").only("x").value == {}


def test_a_tree_without_a_text_has_paths_but_no_places() -> None:
    problem = Tree({"a": [1]}, "api").problem("is wrong", at=("a", 0))
    assert str(problem) == "api: a[0]: is wrong"


def test_layers_are_merged_and_each_value_is_located_where_it_was_given() -> None:
    base = Tree.parse('{"a": {"x": 1, "y": [1, 2]},\n "b": 1, "c": 1}', "base")
    local = Tree.parse('{"a": {"y": [3],\n       "z": 4}, "b": {"d": 5}, "c": null}', "local")
    tree = Tree.layered(base, local)
    assert tree.value == {"a": {"x": 1, "y": [3], "z": 4}, "b": {"d": 5}}
    places = {
        ("a", "x"): "base:1:13: a.x",
        ("a", "y"): "local:1:13: a.y",
        ("a", "y", 0): "local:1:14: a.y[0]",
        ("a", "y", 1): "local:1:13: a.y[1]",
        ("a", "z"): "local:2:13: a.z",
        ("b", "d"): "local:2:28: b.d",
        ("a", "missing"): "base:1:7: a.missing",
        ("missing",): "base:1:1: missing",
    }
    assert {path: str(tree.problem("", at=path)) for path in places} == places
    assert tree.at("a", "x").file == "base"
    assert tree.at("a", "z").file == "local"


def test_trees_are_equal_when_they_say_the_same_wherever_and_however_they_are_written() -> None:
    one, other = Tree.parse('{"a": [1, {"b": 2}]}', "one"), Tree.parse("// x\n{a: [1, {b: 2}],}", "other")
    assert one == other
    assert hash(one) == hash(other)
    assert one.at("a", 1) == Tree({"b": 2})
    for different in ('{"a": [1.0, {"b": 2}]}', '{"a": [true, {"b": 2}]}', '{"a": [1, {"b": 3}]}', "{}"):
        assert one != Tree.parse(different, "one")
    assert Tree({"log": 1, "tool": 2}) != Tree({"tool": 2, "log": 1})
    assert one != {"a": [1, {"b": 2}]}


def test_neither_a_repr_nor_a_problem_shows_a_value() -> None:
    tree = Tree.parse('{"name": ["hunter2"], "mode": "hunter2", "headers": {"A": 1}, "maxWait": "hunter2"}', "f")
    with pytest.raises(ConfigError) as raised:
        tree.validate(Rule)
    for shown in (repr(tree), repr(tree.layers), str(raised.value), repr(raised.value.problems)):
        assert "hunter2" not in shown


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=2), inner, max_size=3),
)
OBJECTS = st.dictionaries(st.text("abc", max_size=2), JSON, max_size=4)


@settings(deadline=None)
@given(OBJECTS, OBJECTS)
def test_merging_is_done_key_by_key_and_the_upper_layer_wins(below: dict[str, Any], above: dict[str, Any]) -> None:
    merged = merge(below, above)
    for key in below.keys() | above.keys():
        if key not in above:
            assert merged[key] == below[key]
        elif above[key] is None and key in below:
            assert key not in merged
        elif key in below:
            assert merged[key] == merge(below[key], above[key])
        else:
            assert merged[key] == above[key]
    assert merge(below, {}) == below
    assert merge({}, above) == above


@settings(deadline=None)
@given(OBJECTS, OBJECTS)
def test_every_part_of_merged_layers_is_located_in_a_layer_that_has_it(
    below: dict[str, Any], above: dict[str, Any]
) -> None:
    trees = [Tree.parse(json.dumps(value), name) for value, name in ((below, "below"), (above, "above"))]
    tree = Tree.layered(*trees)

    def check(part: Tree) -> None:
        problem = part.problem("is wrong")
        source = trees[0] if problem.file == "below" else trees[1]
        if not isinstance(part.value, dict):
            assert json.dumps(source.at(*part.path).value) == json.dumps(part.value)
        assert problem.line == 1
        inner = part.value
        for key in inner if isinstance(inner, dict) else range(len(inner)) if isinstance(inner, list) else ():
            check(part.at(key))

    check(tree)


MEND = 'write a number with ms, s, m, h or d, such as "5s" or "500ms"'


@pytest.mark.parametrize(
    ("written", "expected_s"),
    [
        ("500ms", 0.5),
        ("5s", 5),
        ("10m", 600),
        ("2h", 7200),
        ("1d", 86_400),
        ("1.5s", 1.5),
        ("1h30m", 5400),
        ("0s", 0),
        (0, 0),
    ],
)
def test_durations_with_a_unit_are_seconds(written: str | int, expected_s: float) -> None:
    assert seconds(written) == pytest.approx(expected_s)


def test_bare_numbers_count_where_a_unit_is_said() -> None:
    assert seconds(1500, bare_unit="ms") == 1.5
    assert seconds(1.5, bare_unit="s") == 1.5
    assert seconds("2m", bare_unit="ms") == 120


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("5", 'expected a duration, got "5"'),
        ("5 sec", 'expected a duration, got "5 sec"'),
        ("30m1h", 'expected a duration, got "30m1h"'),
        ("-5s", "expected a duration, got a string"),
        ("hunter2", "expected a duration, got a string"),
        ("", "expected a duration, got an empty string"),
        (True, "expected a duration, got true"),
        (None, "expected a duration, got null"),
        (["5s"], "expected a duration, got a list"),
        (5, "expected a duration with a unit, got a bare number"),
        ("400d", "expected a duration between 0 and 366 days"),
    ],
)
def test_what_is_no_duration_is_refused_without_being_shown(written: Any, message: str) -> None:
    with pytest.raises(ValueError, match="expected a duration") as raised:
        seconds(written)
    assert raised.value.args == (message, MEND)


def test_negative_bare_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 366 days"):
        seconds(-1, bare_unit="s")
