"""JSON with comments: what is read, what is refused and in which words, and where each part of a text stands."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import json5
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventhost.config.jsonc import MAX_DEPTH, Outline, locate, parse
from eventhost.errors import ConfigError, Problem


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, 2.5, true, null, "x"]}', {"a": [1, 2.5, True, None, "x"]}),
        ('{\n  // one\n  "a": 1, /* two */\n}', {"a": 1}),
        ('["http://x//y", "/* no comment */", "a,]",]', ["http://x//y", "/* no comment */", "a,]"]),
        ("{a: 0x10, b: .5, c: +1, 'd': 'it\\'s', $e_1: 5.,}", {"a": 16, "b": 0.5, "c": 1, "d": "it's", "$e_1": 5.0}),
        ('["\'", "//"] // \'"', ["'", "//"]),
        ("['\"', // it's\n 'b']", ['"', "b"]),
        ('{"\\u0061": "\\ud83d\\ude00"}', {"a": "😀"}),
        ("{'\\ud83d\\ude00': '\\ud83d\\ude00'}", {"😀": "😀"}),
        ('"a\\\nb"', "ab"),
        ("\u00a0[1]", [1]),
        ("[" * MAX_DEPTH + "]" * MAX_DEPTH, json.loads("[" * MAX_DEPTH + "]" * MAX_DEPTH)),
    ],
)
def test_json_with_comments_and_json5_are_read(text: str, value: Any) -> None:
    assert parse(text, "f") == value


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "f:1:1: the file is empty; write {} to begin with"),
        (" // nothing\n", "f:1:1: the file is empty; write {} to begin with"),
        ("\ufeff{}", "f:1:1: the file begins with a byte order mark; save it as UTF-8 without BOM"),
        ('{"a": NaN}', "f:1:7: NaN is not a JSON value; write a finite number, or null"),
        ("{a: -Infinity}", "f:1:5: -Infinity is not a JSON value; write a finite number, or null"),
        ('{"a": 1e999}', "f:1:7: this number is too large; write one below 1e308, or a string"),
        ("[" + "9" * 5000 + "]", "f:1:2: this number is too large; write one below 1e308, or a string"),
        ('{"a": 1\n "b": 2}', "f:2:2: a comma is missing before this; put one after the value before"),
        ('{"a" 1}', 'f:1:6: a colon is missing between a key and its value; write "key": value'),
        ('{"a": }', "f:1:7: a value is missing after the colon; write one, or remove the key"),
        ('{"a": 1,,}', "f:1:9: a key is missing before this comma; write one, or remove the comma"),
        ("[,]", "f:1:2: a value is missing before this comma; write one, or remove the comma"),
        ("[1,,]", "f:1:4: a value is missing before this comma; write one, or remove the comma"),
        ('{"a": "b": 1}', "f:1:10: a colon is not expected here; write a comma, or put the key in an object"),
        ("{[1]: 2}", 'f:1:2: a key must be a string; write "key": value'),
        ("{1: 2}", "f:1:2: a key must be a string; put it in quotes"),
        ("[1, [2]", "f:1:1: [ is never closed; add ] where it ends"),
        ('{"a": [{"b": 1}', "f:1:7: [ is never closed; add ], and look below"),
        ('{\n "a": [1}\n', "f:2:9: } does not close [ of 2:7; write ]"),
        ("]", "f:1:1: ] closes nothing; remove it"),
        ("{}\n{}", "f:2:1: something follows after the end of the value; remove it, or a bracket before it"),
        ('{"a": "x\n"}', 'f:1:7: this string is not closed; close it with " on the same line'),
        ("['a]", "f:1:2: this string is not closed; close it with ' on the same line"),
        ("[1 /* two]", "f:1:4: this comment is not closed; close it with */"),
        ("[1 / 2]", "f:1:4: a lone slash means nothing here; begin a comment with // or /*"),
        ('["\\u12"]', r"f:1:3: this escape means nothing; write \uXXXX, \xXX, \n, \t, \" or \\"),
        (
            '["ok \\\\ \\ud800"]',
            "f:1:9: this escape is half of a character; write both halves, or the character itself",
        ),
        ("[True]", "f:1:2: True is not a JSON value; write true"),
        ("[undefined]", "f:1:2: undefined is not a JSON value; write null"),
        ("[hunter2]", "f:1:2: this word is not a JSON value; put it in quotes"),
        ("[01]", "f:1:2: this is not a number; write it as a string, or in the form -12.5e3"),
        ('{"a": 1,\n "a": 2}', 'f:2:2: the key "a" is given twice, first in line 1; keep one'),
        ("{a: 1, // twice\n '\\u0061': 2}", 'f:2:2: the key "a" is given twice, first in line 1; keep one'),
    ],
)
def test_what_is_wrong_is_one_located_sentence(text: str, error: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(text, "f")
    assert str(raised.value) == error
    assert len(raised.value.problems) == 1


@pytest.mark.parametrize("text", ["[" * 65 + "]" * 65, "[" * 100_000 + "]" * 100_000, "{a:" * 500 + "1" + "}" * 500])
def test_huge_nesting_is_refused_and_not_run_into(text: str) -> None:
    with pytest.raises(ConfigError, match="this nests too deeply"):
        parse(text, "f")


def test_a_syntax_error_never_shows_what_is_written() -> None:
    for text in ('{"password": hunter2}', '{"password": "hunter2}', '{"password": "hunter2" "b"}', "{hunter2"):
        with pytest.raises(ConfigError) as raised:
            parse(text, "f")
        assert "hunter2" not in str(raised.value)


def test_large_files_with_comments_do_not_need_the_slow_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "json5", None)
    assert parse('{"a": [1, 2, /* three */ 3,], // four\n}', "f") == {"a": [1, 2, 3]}


TEXT = """\
{
  // "b": "not here"
  "a": {"b": [10, {"c": 'x'}]},
  d: "e", "f\\u0067": [ ],
}
"""


@pytest.mark.parametrize(
    ("path", "value", "key"),
    [
        ((), (1, 1), (1, 1)),
        (("a",), (3, 8), (3, 3)),
        (("a", "b"), (3, 14), (3, 9)),
        (("a", "b", 0), (3, 15), (3, 15)),
        (("a", "b", 1, "c"), (3, 25), (3, 20)),
        (("d",), (4, 6), (4, 3)),
        (("fg",), (4, 22), (4, 11)),
        (("fg", 0), None, None),
        (("a", "x"), None, None),
        (("a", "b", "0"), None, None),
        (("d", "e"), None, None),
    ],
)
def test_values_and_keys_are_located(
    path: tuple[str | int, ...], value: tuple[int, int] | None, key: tuple[int, int] | None
) -> None:
    assert locate(TEXT, path) == value
    assert locate(TEXT, path, key=True) == key


def test_every_kind_of_line_ending_counts_as_one() -> None:
    assert locate("[\r\n1,\r2,\n3]", (2,)) == (4, 1)


def test_locating_in_what_is_no_json_finds_nothing() -> None:
    for text in ("", "{", '{"a"', '{"a": ', "[1", '{"a":: 1}', "nonsense", "{,"):
        assert locate(text, ("a",)) is None


# The law: whatever JSON value is written, however JSON5 lets one write it, is read back, and each part is found.

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
)
KEYS = st.sampled_from(["a", "b", "key", "$x", "sch\u00f6n"]) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=4
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4))

SPACES = st.sampled_from(["", " ", "\n", "\t ", "// x: [1, 'y\n", '/* , ] } " */', "\r\n", "/**/ ", "\u00a0", "//\n"])


class Writer:
    """Writes a value in one of the many ways of JSON5, and remembers where each part of it begins."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw, self.text = draw, ""
        self.starts: dict[tuple[str | int, ...], tuple[int, int]] = {}

    def space(self) -> None:
        self.text += self.draw(SPACES)

    def string(self, value: str) -> str:
        written = json.dumps(value, ensure_ascii=self.draw(st.booleans()))
        if self.draw(st.booleans()):
            written = "'" + written[1:-1].replace('\\"', '"').replace("'", "\\'") + "'"
        return written

    def key(self, value: str) -> str:
        return (
            value if value in ("a", "b", "key", "$x", "sch\u00f6n") and self.draw(st.booleans()) else self.string(value)
        )

    def value(self, value: Any, path: tuple[str | int, ...], key_start: int | None = None) -> None:
        start = len(self.text)
        self.starts[path] = (start if key_start is None else key_start, start)
        if isinstance(value, str):
            self.text += self.string(value)
        elif isinstance(value, dict):
            self.container("{}", list(value.items()), path)
        elif isinstance(value, list):
            self.container("[]", list(enumerate(value)), path)
        else:
            self.text += json.dumps(value)

    def container(self, brackets: str, items: list[Any], path: tuple[str | int, ...]) -> None:
        self.text += brackets[0]
        for index, (key, inner) in enumerate(items):
            self.space()
            key_start = None
            if brackets == "{}":
                key_start = len(self.text)
                self.text += self.key(key)
                self.space()
                self.text += ":"
                self.space()
            self.value(inner, (*path, key), key_start)
            self.space()
            if index + 1 < len(items) or self.draw(st.booleans()):
                self.text += ","
        self.space()
        self.text += brackets[1]


@st.composite
def written_values(draw: st.DrawFn) -> tuple[Any, Writer]:
    writer, value = Writer(draw), draw(VALUES)
    writer.space()
    writer.value(value, ())
    writer.space()
    return value, writer


@settings(deadline=None)
@given(written_values())
def test_any_value_written_in_any_way_is_read_back_and_every_part_of_it_is_found(written: tuple[Any, Writer]) -> None:
    value, writer = written
    assert parse(writer.text, "f") == value
    outline = Outline(writer.text)
    for path, (key_start, start) in writer.starts.items():
        assert outline.locate(path, key=True) == outline.position(key_start)
        assert outline.locate(path) == outline.position(start)
        found = outline.find(path)
        assert found is not None
        assert parse(writer.text[found.start : found.end], "f") == part(value, path)


@settings(deadline=None)
@given(VALUES, st.sampled_from([None, 2]))
def test_strict_json_is_read_back_as_python_would(value: Any, indent: int | None) -> None:
    text = json.dumps(value, indent=indent)
    assert json.dumps(parse(text, "f")) == json.dumps(value)


@settings(deadline=None)
@given(written_values(), st.data())
def test_a_damaged_text_is_read_or_refused_in_one_located_sentence(
    written: tuple[Any, Writer], data: st.DataObject
) -> None:
    text = written[1].text
    at = data.draw(st.integers(0, len(text)))
    text = text[:at] + data.draw(st.sampled_from([*"{}[]:,\"'/\\x0+-\n", "true", "1e"])) + text[at + 1 :]
    try:
        parse(text, "f")
    except ConfigError as error:
        (problem,) = error.problems
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        assert 1 <= problem.line <= len(lines)
        assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1
        assert problem.message
        assert problem.mend


@settings(deadline=None)
@given(st.text("{}[]:,\"'/*\\ \nab1-.", max_size=30))
def test_any_text_is_read_or_refused_in_one_located_sentence(text: str) -> None:
    problems: tuple[Problem, ...] = ()
    try:
        parse(text, "f")
    except ConfigError as error:
        problems = error.problems
    assert [problem.line > 0 for problem in problems] in ([], [True])


@settings(deadline=None)
@given(st.text("{}[]:,\"'/*\\ \n\u00a0ab1-.", max_size=20))
def test_the_fast_way_reads_nothing_that_json5_would_refuse_or_read_otherwise(text: str) -> None:
    try:
        value = parse(text, "f")
    except ConfigError:
        return
    assert json5.loads(text, allow_duplicate_keys=False) == value


def part(value: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


def paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths(inner, (*path, key))


@settings(deadline=None)
@given(VALUES)
def test_every_path_of_a_value_is_found_in_strict_json(value: Any) -> None:
    text = json.dumps(value)
    for path in paths(value):
        line, column = locate(text, path) or (0, 0)
        assert line == 1
        assert text[column - 1 :].startswith(json.dumps(part(value, path)))
