"""References to secrets, `.env`, and the rule that no message ever shows a value."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventhost.config import load_environment, resolve, resolve_all, variables
from eventhost.config.secrets import check_dotenv, parse_dotenv, references
from eventhost.errors import ConfigError


def test_references_are_replaced_wherever_they_stand_in_a_text(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    environ = {"USER_NAME": "ann", "EMPTY": ""}
    assert resolve("Bearer ${file:token}", tmp_path, environ) == "Bearer s3cret"
    assert resolve("${env:USER_NAME}:${file:./token}@${env:EMPTY}", tmp_path, environ) == "ann:s3cret@"
    assert resolve(f"${{file:{tmp_path}/token}}", Path("/"), environ) == "s3cret"
    assert resolve("$HOME ${HOME} $env:X {env:X} 100%", tmp_path, {}) == "$HOME ${HOME} $env:X {env:X} 100%"


def test_what_a_reference_stands_for_is_not_read_again(tmp_path: Path) -> None:
    assert resolve("${env:A}", tmp_path, {"A": "${env:B}", "B": "x"}) == "${env:B}"


def test_only_trailing_newlines_of_a_file_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(" a\nb \r\n\n", newline="")
    assert resolve("${file:key}", tmp_path, {}) == " a\nb "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${env:TOKEN}", "the environment variable TOKEN is not set; set it, or add TOKEN=… to .env"),
        ("${env:}", "${env:} names no variable; write ${env:NAME}"),
        ("${file:}", "${file:} names no file; write ${file:path}"),
        (
            "${file:none}",
            "the file none cannot be read: No such file or directory; "
            "create it, or correct the path, which begins at the environment's root",
        ),
        ("${file:folder}", "folder is not a file; name the file that holds the secret"),
        ("${file:binary}", "the file binary is not UTF-8; encode it, in base64 for example"),
        ("${file:large}", "the file large is larger than 1048576 bytes; a secret is shorter"),
    ],
)
def test_what_cannot_be_resolved_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "large").write_bytes(b"x" * 1_048_577)
    with pytest.raises(ConfigError) as raised:
        resolve(text, tmp_path, {"OTHER": "hunter2"}, file="config.jsonc", field="mcp.clients.x.url")
    assert str(raised.value) == f"config.jsonc: mcp.clients.x.url: {message}"


def test_all_strings_of_a_value_are_resolved_and_all_problems_told_at_once(tmp_path: Path) -> None:
    value = {"a": ["${env:A}", 1, None], "${env:A}": {"b": "x${env:A}"}}
    assert resolve_all(value, tmp_path, {"A": "1"}) == {"a": ["1", 1, None], "${env:A}": {"b": "x1"}}
    assert value["a"] == ["${env:A}", 1, None]
    with pytest.raises(ConfigError) as raised:
        resolve_all({"a": "${env:A}", "b": ["${env:B}"]}, tmp_path, {}, path=("settings",))
    assert [problem.field for problem in raised.value.problems] == ["settings.a", "settings.b[0]"]


def test_references_are_found_with_their_paths() -> None:
    found = list(references({"a": ["x", "${env:A}${file:b}"], "c": ("${env:C}",)}))
    assert [(one.kind, one.name, one.path) for one in found] == [
        ("env", "A", ("a", 1)),
        ("file", "b", ("a", 1)),
        ("env", "C", ("c", 0)),
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("A=b", {"A": "b"}),
        ("  export A = b c ", {"A": "b c"}),
        ("A=", {"A": ""}),
        ("A=b # comment", {"A": "b"}),
        ("A=b#c", {"A": "b#c"}),
        ("A= # comment", {"A": ""}),
        ('A="b # c" # d', {"A": "b # c"}),
        (r'A="b\n\"c\" \\ \$ \q"', {"A": 'b\n"c" \\ $ \\q'}),
        (r"A='b\n $c'", {"A": r"b\n $c"}),
        ('A="b\nc"\nD=e', {"A": "b\nc", "D": "e"}),
        ("A=b=c", {"A": "b=c"}),
        ("A=it's", {"A": "it's"}),
        ("# A=b\n\n   \n\tA=c", {"A": "c"}),
        ("A=1\nA=2", {"A": "2"}),
        ("a.b-c=1", {"a.b-c": "1"}),
    ],
)
def test_dotenv_lines(line: str, expected: dict[str, str]) -> None:
    assert parse_dotenv(line) == (expected, [])


def test_wrong_lines_of_dotenv_are_warnings_that_do_not_show_them(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text('A=1\nhunter2\nB="hunter2\n1C=hunter2\nD=2\r\n')
    assert variables(tmp_path, {}) == {"A": "1", "D": "2"}
    mend = "this line is not understood; write KEY=VALUE, and quote what holds spaces"
    problems = check_dotenv(tmp_path)
    assert [str(problem) for problem in problems] == [f".env:{line}:1: {mend}" for line in (2, 3, 4)]
    assert not any(problem.fatal for problem in problems)


@given(
    st.dictionaries(
        st.from_regex(r"[A-Z_][A-Z0-9_]{0,5}", fullmatch=True), st.text(st.characters(exclude_categories=["Cs"]))
    )
)
def test_whatever_is_quoted_in_dotenv_is_read_back(pairs: dict[str, str]) -> None:
    def quoted(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$") + '"'

    assert parse_dotenv("\n".join(f"{key}={quoted(value)} # x" for key, value in pairs.items())) == (pairs, [])


@given(st.text("A=\"' #\\\n\rexport", max_size=40))
def test_any_text_is_read_as_dotenv(text: str) -> None:
    found, wrong = parse_dotenv(text)
    assert len(found) + len(wrong) <= text.count("\n") + 1


def test_the_environment_wins_over_dotenv_and_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=file\nEVENTHOST_TEST_B=file\n")
    assert variables(tmp_path, {"A": "process"}) == {"A": "process", "EVENTHOST_TEST_B": "file"}
    assert variables(tmp_path)["EVENTHOST_TEST_B"] == "file"
    assert "EVENTHOST_TEST_B" not in os.environ


CONFIG = """{ "mcp": { "clients": {
  "sensor": { "url": "http://127.0.0.1:1/mcp", "headers": { "Authorization": "Bearer ${env:TOKEN}" } },
  "todo": { "command": ["python", "todo.py"], "environment": { "KEY": "${file:key}" } },
  "off": { "url": "http://127.0.0.1:2/${env:NONE}", "enabled": false }
} } }"""


def test_secrets_stay_references_in_a_loaded_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.jsonc").write_text(CONFIG)
    (tmp_path / ".env").write_text("TOKEN=hunter2")
    (tmp_path / "key").write_text("hunter2")
    config = load_environment(tmp_path, {})
    assert config.warnings == ()
    assert config.sources["sensor"].server.headers == {"Authorization": "Bearer ${env:TOKEN}"}
    assert "hunter2" not in repr(config)


def test_missing_secrets_are_warnings_with_their_place(tmp_path: Path) -> None:
    (tmp_path / "config.jsonc").write_text(CONFIG)
    warnings = [str(problem) for problem in load_environment(tmp_path, {}).warnings]
    assert warnings == [
        "config.jsonc:2:78: mcp.clients.sensor.headers.Authorization: the environment variable TOKEN is not set; "
        "set it, or add TOKEN=… to .env",
        "config.jsonc:3:71: mcp.clients.todo.environment.KEY: the file key cannot be read: No such file or directory; "
        "create it, or correct the path, which begins at the environment's root",
    ]


def test_a_changed_secret_makes_a_changed_server(tmp_path: Path) -> None:
    (tmp_path / "config.jsonc").write_text(CONFIG)
    (tmp_path / "key").write_text("one")
    before = load_environment(tmp_path, {"TOKEN": "one"}).sources
    assert load_environment(tmp_path, {"TOKEN": "one", "MORE": "x"}).sources == before
    assert load_environment(tmp_path, {"TOKEN": "two"}).sources["sensor"] != before["sensor"]
    (tmp_path / "key").write_text("two")
    after = load_environment(tmp_path, {"TOKEN": "one"}).sources
    assert after["sensor"] == before["sensor"]
    assert after["todo"] != before["todo"]
