"""The JSON Schemas of the configuration files agree with what reads those files, and with every shipped config."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from eventhost.actions import KINDS
from eventhost.config import Tree, check_environment, load_environment
from eventhost.config.jsonc import parse
from eventhost.errors import ConfigError
from eventhost.rules import parse_rules
from eventhost.rules.cases import read_cases
from eventhost.schema import FOLDER, KINDS_OF_FILES, file_name, schema, schema_text, write_schemas

ROOT = Path(__file__).parent.parent
SEEDS = ROOT / "tests" / "fixtures" / "seeds"
VALIDATORS = {kind: jsonschema.Draft7Validator(schema(kind)) for kind in KINDS_OF_FILES}


def refusals(kind: str, value: Any) -> list[str]:
    return [f"{list(error.absolute_path)}: {error.message}" for error in VALIDATORS[kind].iter_errors(value)]


def read(path: Path) -> Any:
    return parse(path.read_text().replace("@NAME@", "door"), str(path))


@pytest.mark.parametrize("kind", KINDS_OF_FILES)
def test_a_schema_is_one(kind: str) -> None:
    jsonschema.Draft7Validator.check_schema(schema(kind))
    made = schema(kind)
    references = set(re.findall(r'"#/definitions/(\w+)"', json.dumps(made)))
    assert references <= made["definitions"].keys()


@pytest.mark.parametrize("kind", KINDS_OF_FILES)
def test_the_schemas_in_the_repository_are_those_of_this_version(kind: str) -> None:
    assert (ROOT / FOLDER / file_name(kind)).read_text() == schema_text(kind), "run `eventhost schema --write`"


@pytest.mark.parametrize("kind", KINDS_OF_FILES)
def test_every_key_is_explained(kind: str) -> None:
    made = schema(kind)
    parts = {"": made, **made["definitions"]}
    silent = [
        f"{part}.{name}"
        for part, body in parts.items()
        for name, inner in body.get("properties", {}).items()
        if "description" not in inner and "$ref" not in inner
    ]
    assert silent == []


# What is shipped is valid, and refers to its schema.

SHIPPED = [
    *((path, "source") for path in sorted((ROOT / "eventsources").glob("*/config.jsonc"))),
    *((path, "source") for path in sorted((ROOT / "eventhost" / "cli" / "templates").glob("*/config.jsonc.in"))),
    (ROOT / "config.jsonc", "config"),
]


@pytest.mark.parametrize(("path", "kind"), SHIPPED, ids=lambda value: getattr(value, "parent", value))
def test_a_shipped_config_is_valid_and_names_its_schema(path: Path, kind: str) -> None:
    value = read(path)
    assert refusals(kind, value) == []
    # A template's place is a folder of `eventsources/`, too.
    folder = ROOT / "eventsources" / "door" if path.suffix == ".in" else path.parent
    assert (folder / value["$schema"]).resolve() == ROOT / FOLDER / file_name(kind)


@pytest.mark.parametrize("path", sorted(SEEDS.iterdir()), ids=lambda path: path.name)
def test_the_seeds_configs_are_valid(path: Path) -> None:
    assert refusals("config" if "environment" in path.name else "source", read(path)) == []


def documented() -> list[tuple[str, str, Any]]:
    """Every example of a configuration in the documentation, and of what it is one."""
    found = []
    for page in sorted((ROOT / "docs").glob("*.md")):
        if page.name == "testing-sources.md":
            continue  # golden cases are no configuration
        for number, text in enumerate(
            re.findall(r"^```(?:jsonc|json5)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
        ):
            value = parse(text, page.name)
            if page.name == "writing-a-source.md" and "do" not in value:
                kind = "source"
            elif isinstance(value, dict) and {"event", "tests"} & value.keys():
                kind = "rule-tests"
            elif isinstance(value, dict) and next(iter(value)) in KINDS:
                kind, value = "rules", [{"do": value}]
            elif isinstance(value, dict) and "do" in value:
                kind, value = "rules", [value]
            elif isinstance(value, list) and value and all(next(iter(item)) in KINDS for item in value):
                kind, value = "rules", [{"do": value}]
            else:
                kind = "config" if isinstance(value, dict) else "rules"
            found.append((f"{page.name}-{number}", kind, value))
    return found


@pytest.mark.parametrize(
    ("name", "kind", "value"), documented(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_the_examples_of_the_documentation_are_valid(name: str, kind: str, value: Any) -> None:
    assert refusals(kind, value) == []


def test_the_documentation_has_examples() -> None:
    assert len(documented()) > 15
    assert {kind for _, kind, _ in documented()} >= {"rules", "source", "rule-tests"}


# A schema refuses what the host refuses, or warns of.


def host_says(tmp_path: Path, kind: str, value: Any) -> bool:
    """Whether the host has anything to say against a file."""
    for name in ("config.jsonc", "rules/r.jsonc"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}" if name == "config.jsonc" else "[]")
    place = {"config": "config.jsonc", "source": "eventsources/door/config.jsonc", "rules": "rules/r.jsonc"}[kind]
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    if kind == "source":
        (path.parent / "server.py").touch()
    if check_environment(tmp_path, {}):
        return True
    config = load_environment(tmp_path, {})
    try:
        for tree in (config.rules, *config.rule_files.values()):
            parse_rules(tree)
    except ConfigError:
        return True
    return False


def action(**said: Any) -> list[Any]:
    return [{"do": said}]


def match(pattern: Any) -> list[Any]:
    return [{"match": pattern, "do": {"log": "x"}}]


BAD: list[tuple[str, Any]] = [
    ("config", []),
    ("config", {"id": 1}),
    ("config", {"rulse": []}),
    ("config", {"rules": {}}),
    ("config", {"http": {"port": "many"}}),
    ("config", {"http": {"port": 70_000}}),
    ("config", {"http": {"prot": 1}}),
    ("config", {"journal": {"type": "postgres"}}),
    ("config", {"journal": {"capacity": 0}}),
    ("config", {"log": {"level": "loud"}}),
    ("config", {"supervision": {"startsecs": "soon"}}),
    ("config", {"supervision": {"startsecs": -1}}),
    ("config", {"supervision": {"startretries": 1.5}}),
    ("config", {"launchLimit": -1}),
    ("config", {"mcp": []}),
    ("config", {"mcp": {"client": {}}}),
    ("config", {"mcp": {"clients": {"a": {"command": 7}}}}),
    ("config", {"mcp": {"clients": {"a": {"type": "locl", "command": ["x"]}}}}),
    ("config", {"mcp": {"clients": {"a": {"url": "http://x/mcp", "headers": {"A": 1}}}}}),
    ("config", {"mcp": {"eventSources": {"enabled": "yes"}}}),
    ("config", {"mcp": {"eventSources": {"sources": {"a": {"client": {"command": [1]}}}}}}),
    ("config", {"mcpServers": {"a": {"command": "x", "args": "y"}}}),
    ("config", {"eventsources": {"door": {"command": ["x"], "options": {"eventTypes": "a"}}}}),
    ("config", {"rules": [{"on": "a"}]}),
    ("source", {"command": 7}),
    ("source", {"eventTypes": "door.*"}),
    ("source", {"transport": "pigeon"}),
    ("source", {"protocol": "new"}),
    ("source", {"pollInterval": "1 s"}),
    ("source", {"enabled": "true"}),
    ("source", {"options": {"metadata": []}}),
    ("source", {"environment": {"A": 1}}),
    ("rules", {}),
    ("rules", 3),
    ("rules", {"rules": [], "more": 1}),
    ("rules", ["x"]),
    ("rules", [{}]),
    ("rules", [{"do": []}]),
    ("rules", [{"do": {}}]),
    ("rules", [{"do": {"log": "x"}, "naem": "x"}]),
    ("rules", [{"do": {"log": "x"}, "name": ""}]),
    ("rules", [{"do": {"log": "x"}, "on": 1}]),
    ("rules", [{"do": {"log": "x"}, "when": True}]),
    ("rules", [{"do": {"log": "x"}, "enabled": "no"}]),
    ("rules", [{"do": {"log": "x"}, "concurrency": 0}]),
    ("rules", [{"do": {"log": "x"}, "throttle": {}}]),
    ("rules", [{"do": {"log": "x"}, "throttle": {"per": 5}}]),
    ("rules", [{"do": {"log": "x"}, "throttle": {"per": "0s"}}]),
    ("rules", [{"do": {"log": "x"}, "throttle": {"per": "5s", "limit": 0}}]),
    ("rules", [{"do": {"log": "x"}, "dedupe": {"within": "5 minutes"}}]),
    ("rules", [{"do": {"log": "x"}, "debounce": {"within": "5s"}}]),
    ("rules", [{"do": {"log": "x"}, "batch": {"max": "many", "within": "1s"}}]),
    ("rules", [{"do": {"log": "x"}, "absence": {"within": "1s"}}]),
    ("rules", [{"do": {"log": "x"}, "absence": {"of": {"match": {"a": []}}, "within": "1s"}}]),
    ("rules", [{"do": {"log": "x"}, "maxAge": "0s"}]),
    ("rules", [{"do": {"log": "x"}, "maxAge": 5}]),
    ("rules", [{"do": {"log": "x"}, "active": {"hours": 8}}]),
    ("rules", action(lgo="x")),
    ("rules", action(log=1)),
    ("rules", action(log="x", level="loud")),
    ("rules", action(log="x", emit="y")),
    ("rules", action(log="x", payload={})),
    ("rules", action(emit="")),
    ("rules", action(exec="ls -l")),
    ("rules", action(exec=[])),
    ("rules", action(exec=["ls"], timeout="0s")),
    ("rules", action(exec=["ls"], timeout=5)),
    ("rules", action(tool="a__b", arguments=[])),
    ("rules", action(webhook="http://x", method="post")),
    ("rules", action(webhook="http://x", headers={"A": 1})),
    ("rules", action(python="no function")),
    ("rules", action(log="x", retry=0)),
    ("rules", action(log="x", retry={"attempts": 1000})),
    ("rules", action(log="x", onError="retry")),
    ("rules", action(log="x", onError=[{"lgo": "y"}])),
    ("rules", match([])),
    ("rules", match({})),
    ("rules", match({"payload": {}})),
    ("rules", match({"payload.x": []})),
    ("rules", match({"payload.x": [[1]]})),
    ("rules", match({"payload.x": [{}]})),
    ("rules", match({"payload.x": [{"numric": [">", 1]}]})),
    ("rules", match({"payload.x": [{"numeric": [">"]}]})),
    ("rules", match({"payload.x": [{"numeric": ["<", 1, ">", 0]}]})),
    ("rules", match({"payload.x": [{"numeric": [">", "1"]}]})),
    ("rules", match({"payload.x": [{"prefix": 1}]})),
    ("rules", match({"payload.x": [{"prefix": "a", "suffix": "b"}]})),
    ("rules", match({"payload.x": [{"prefix": {"wildcard": "a"}}]})),
    ("rules", match({"payload.x": [{"exists": "yes"}]})),
    ("rules", match({"payload.x": [{"anything-but": []}]})),
    ("rules", match({"payload.x": [{"anything-but": ["a", 1]}]})),
    ("rules", match({"payload.x": [{"anything-but": {"exists": True}}]})),
    ("rules", match({"$or": [{"payload.x": 1}]})),
    ("rules", match({"$or": {"payload.x": []}})),
]


@pytest.mark.parametrize(
    ("kind", "value"), BAD, ids=lambda value: value if isinstance(value, str) else json.dumps(value)
)
def test_what_is_wrong_is_refused_by_schema_and_host_alike(tmp_path: Path, kind: str, value: Any) -> None:
    assert refusals(kind, value) != []
    assert host_says(tmp_path, kind, value)


GOOD: list[tuple[str, Any]] = [
    ("config", {}),
    ("config", {"$schema": "x", "id": None, "http": None, "rules": None, "mcp": None, "journal": None}),
    ("config", {"http": {"port": 0, "host": None}, "journal": {"type": "memory", "capacity": 5}}),
    ("config", {"supervision": {"startsecs": 0, "errorRetry": "1h30m", "stopTimeout": 2.5, "startretries": None}}),
    ("config", {"mcp": {"clients": {"a": {"command": "x", "own": 7}, "b": None}}}),
    ("config", {"mcp": {"eventSources": {"enable": True, "door": {"command": ["x"], "pollInterval": 500}}}}),
    ("config", {"mcpServers": {"a": {"command": "x", "args": ["y"], "type": "stdio", "env": {"A": "b"}}}}),
    ("config", {"rules": [{"on": ["a", "b*"], "do": [{"log": "x"}]}]}),
    ("source", {"$schema": "x", "type": "anything", "own": {"deep": [1]}, "interval": 5}),
    ("source", {"command": "python", "enabled": None, "eventTypes": ["a.*"], "pollInterval": "500ms"}),
    ("rules", []),
    ("rules", {"$schema": "x", "rules": []}),
    ("rules", [{"do": {"log": "x"}, "throttle": {"per": "1h30m", "key": "{{ payload.a }}"}, "maxAge": "1.5s"}]),
    ("rules", [{"do": {"log": "x"}, "throttle": None, "batch": {"within": "1m", "max": 3, "key": ["{{ type }}"]}}]),
    ("rules", [{"do": {"log": "x"}, "absence": {"of": {"on": "a", "match": {"payload.x": 1}}, "within": "1m"}}]),
    ("rules", [{"do": {"log": "x"}, "active": {"hours": ["08:00-18:00"], "weekdays": "mon-fri"}}]),
    ("rules", action(log="x", retry=False, onError=[{"log": "{{ error.message }}", "onError": "continue"}])),
    ("rules", action(exec=["ls", "{{ type }}"], timeout="5s", retry={"attempts": 2, "delay": 0})),
    ("rules", action(webhook="http://x", body=[1, {"a": "{{ type }}"}], method="PUT")),
    ("rules", match({"payload": {"x": 1, "y": [None, "a", True, {"exists": False}]}, "type": "a"})),
    ("rules", match({"payload.x": [{"numeric": [">", 1, "<=", 2]}, {"numeric": ["=", 1]}]})),
    ("rules", match({"payload.x": [{"prefix": {"equals-ignore-case": "a"}}, {"cidr": "10.0.0.0/8"}]})),
    ("rules", match({"payload.x": [{"anything-but": {"prefix": ["a", "b"]}}, {"anything-but": ["a"]}]})),
    ("rules", match({"payload.x": [{"anything-but": {"numeric": [">", 1]}}, {"wildcard": "a*"}]})),
    ("rules", match({"$or": [{"payload.x": 1}, {"payload.y": {"z": [2]}, "$or": [{"id": "1"}, {"id": "2"}]}]})),
]


@pytest.mark.parametrize(
    ("kind", "value"), GOOD, ids=lambda value: value if isinstance(value, str) else json.dumps(value)
)
def test_what_is_right_is_taken_by_schema_and_host_alike(tmp_path: Path, kind: str, value: Any) -> None:
    assert refusals(kind, value) == []
    assert not host_says(tmp_path, kind, value)


@pytest.mark.parametrize(
    ("value", "good"),
    [
        ({"event": {"type": "a"}, "expect": []}, True),
        (
            [
                {
                    "$schema": "x",
                    "name": "n",
                    "event": {"type": "a"},
                    "expect": {},
                    "at": 5,
                    "results": {},
                    "rules": ["*"],
                }
            ],
            True,
        ),
        ({"tests": [{"event": {"type": "a"}, "expect": [], "at": "2026-01-05"}]}, True),
        ({"event": {"type": "a"}}, False),
        ({"event": [], "expect": []}, False),
        ({"event": {"type": "a"}, "expect": {"r": False}}, False),
        ({"event": {"type": "a"}, "expect": {"r": [3]}}, False),
        ({"event": {"type": "a"}, "expect": [], "expects": []}, False),
        ([{"event": {"type": "a"}, "expect": [], "at": []}], False),
        ({"tests": {}}, False),
        (3, False),
    ],
)
def test_schema_and_host_agree_on_tests_of_rules(tmp_path: Path, value: Any, good: bool) -> None:
    (tmp_path / "rules" / "tests").mkdir(parents=True)
    (tmp_path / "rules" / "tests" / "t.jsonc").write_text(json.dumps(value))
    assert (refusals("rule-tests", value) == []) is good
    assert (read_cases(tmp_path, parse_rules(Tree([])))[1] == []) is good


def test_a_schema_reference_is_taken_everywhere_and_passed_on_to_nobody(tmp_path: Path) -> None:
    (tmp_path / "config.jsonc").write_text('{"$schema": "./x.json"}')
    folder = tmp_path / "eventsources" / "door"
    folder.mkdir(parents=True)
    (folder / "server.py").touch()
    (folder / "config.jsonc").write_text('{"$schema": "../x.json", "own": 1}')
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "r.jsonc").write_text('{"$schema": "../x.json", "rules": []}')
    assert check_environment(tmp_path, {}) == []
    assert load_environment(tmp_path, {}).sources["door"].server.settings == {"own": 1}


def test_schemas_are_written_once(tmp_path: Path) -> None:
    assert {path.name for path in write_schemas(tmp_path)} == {file_name(kind) for kind in KINDS_OF_FILES}
    assert write_schemas(tmp_path) == []
    path = tmp_path / FOLDER / file_name("rules")
    path.write_text("{}")
    assert write_schemas(tmp_path) == [path]
    assert sorted(each.name for each in path.parent.iterdir()) == sorted(map(file_name, KINDS_OF_FILES))
