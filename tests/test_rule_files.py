"""Rules in `rules/*.jsonc`: they follow the root's, keep their last good form, and harm no other file."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from eventhost.config import diff, load_environment
from eventhost.config.jsonc import MAX_JSON5, parse
from eventhost.environment import ServerEnvironment
from eventhost.errors import ConfigError
from eventhost.rules import RuleSet, read_rules, uncollected
from eventhost.rules.files import MANY_OBJECTS

LOG = {"log": "text"}


class Rules:
    """An environment's rules, in files that a test writes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("config.jsonc", {})

    def write(self, file: str, value: Any) -> Path:
        path = self.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return path

    def read(self, before: RuleSet | None = None) -> RuleSet:
        return read_rules(load_environment(self.root, {}), before)

    def broken(self, before: RuleSet | None = None) -> list[str]:
        return [str(problem) for problems in self.read(before).broken.values() for problem in problems]


@pytest.fixture
def rules(tmp_path: Path) -> Rules:
    return Rules(tmp_path)


def names(found: RuleSet) -> list[str]:
    return [rule.name for rule in found.rules]


def rule(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "do": LOG, **more}


def test_the_roots_rules_come_first_then_the_files_by_name(rules: Rules) -> None:
    rules.write("config.jsonc", {"rules": [rule("root")]})
    rules.write("rules/b.jsonc", [rule("b")])
    rules.write("rules/a.jsonc", [rule("a1"), rule("a2")])
    assert names(rules.read()) == ["root", "a1", "a2", "b"]
    assert list(rules.read().files) == ["config.jsonc", "rules/a.jsonc", "rules/b.jsonc"]


def test_a_file_is_a_list_or_an_object_that_may_name_its_schema(rules: Rules) -> None:
    rules.write("rules/a.jsonc", '// mine\n[{"name": "a", "do": {"log": "x"},},]')
    rules.write("rules/b.jsonc", {"$schema": "../schemas/rules.schema.json", "rules": [rule("b")]})
    rules.write("rules/c.jsonc", [])
    assert names(rules.read()) == ["a", "b"]
    assert load_environment(rules.root, {}).warnings == ()


def test_a_rule_without_a_name_is_called_after_its_file_and_place(rules: Rules) -> None:
    rules.write("config.jsonc", {"rules": [{"do": LOG}]})
    rules.write("rules/door.jsonc", [{"do": LOG}, rule("named"), {"do": LOG}])
    assert names(rules.read()) == ["rule-1", "door-1", "named", "door-3"]


@pytest.mark.parametrize(
    "name",
    [".hidden.jsonc", "_draft.jsonc", "door.jsonc~", "#door.jsonc#", "door.txt", "tests/door.jsonc", "d.jsonc/x"],
)
def test_what_is_no_rule_file_is_left_alone(rules: Rules, name: str) -> None:
    rules.write(f"rules/{name}", "not JSON")
    assert rules.read() == RuleSet({"config.jsonc": ()})


def test_a_json_file_is_pointed_out(rules: Rules) -> None:
    rules.write("rules/door.json", [])
    (warning,) = load_environment(rules.root, {}).warnings
    assert str(warning) == "rules/door.json: only .jsonc files are read here; name it door.jsonc"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("[\n  {,\n]", "rules/door.jsonc:2:4: a key is missing before this comma; write one, or remove the comma"),
        ("7", "rules/door.jsonc:1:1: expected a list of rules, got a number; write [] to begin with"),
        ('{"rule": []}', "rules/door.jsonc:1:1: expected a list of rules, got an object with rule"),
        ('{\n"rules": {}}', "rules/door.jsonc:2:10: rules: expected a list, got an object; write [] to begin with"),
        ('[\n\n  {"name": "x", "do": {"lgo": "x"}}]', 'rules/door.jsonc:3:24: [0].do.lgo: unknown action "lgo"'),
        ('[\n  {"do": {"log": "x"},\n   "when": "payload.x >"}]', "rules/door.jsonc:3:12: [0].when: "),
        ('{"rules": [\n{"do": {"log": "x"}, "match": {"type": []}}]}', "rules/door.jsonc:2:40: rules[0].match.type: "),
    ],
)
def test_a_mistake_is_told_in_its_own_place_and_harms_no_other_file(rules: Rules, written: str, expected: str) -> None:
    rules.write("rules/door.jsonc", written)
    rules.write("rules/light.jsonc", [rule("light")])
    found = rules.read()
    assert names(found) == ["light"]
    (problem,) = rules.broken()
    assert problem.startswith(expected)
    assert list(found.broken) == ["rules/door.jsonc"]


def test_a_mistake_in_the_root_tells_those_of_the_files_too(rules: Rules) -> None:
    rules.write("config.jsonc", {"rules": [{"do": 1}]})
    rules.write("rules/door.jsonc", [{"do": 2}])
    with pytest.raises(ConfigError) as caught:
        rules.read()
    assert [problem.file for problem in caught.value.problems] == ["rules/door.jsonc", "config.jsonc"] or [
        problem.file for problem in caught.value.problems
    ] == ["config.jsonc", "rules/door.jsonc"]


def test_a_broken_file_keeps_its_last_good_rules_while_the_others_change(rules: Rules) -> None:
    rules.write("rules/door.jsonc", [rule("door")])
    rules.write("rules/light.jsonc", [rule("light")])
    before = rules.read()
    rules.write("rules/door.jsonc", "[")
    rules.write("rules/light.jsonc", [rule("light", on="a"), rule("lamp")])
    after = rules.read(before)
    assert names(after) == ["door", "light", "lamp"]
    assert after.rules[0] is before.rules[0]
    rules.write("rules/light.jsonc", [{"do": 1}])
    last = rules.read(after)
    assert names(last) == ["door", "light", "lamp"]
    assert list(last.broken) == ["rules/door.jsonc", "rules/light.jsonc"]
    rules.write("rules/door.jsonc", [rule("door"), rule("gate")])
    (rules.root / "rules" / "light.jsonc").unlink()
    mended = rules.read(last)
    assert (names(mended), dict(mended.broken)) == (["door", "gate"], {})


def test_only_the_rules_that_differ_are_read_anew(rules: Rules) -> None:
    rules.write("rules/door.jsonc", [rule("a"), rule("b"), rule("c")])
    rules.write("rules/light.jsonc", [rule("light")])
    before = rules.read()
    rules.write("rules/door.jsonc", [rule("a"), rule("b", on="x"), rule("c"), rule("d")])
    after = rules.read(before)
    same = [
        new is old for new, old in zip(after.files["rules/door.jsonc"], before.files["rules/door.jsonc"], strict=False)
    ]
    assert same == [True, False, True]
    assert after.files["rules/light.jsonc"] is before.files["rules/light.jsonc"]


def test_a_name_is_there_once_and_the_error_names_both_places(rules: Rules) -> None:
    rules.write("config.jsonc", '{"rules": [\n\n  {"name": "x", "do": {"log": "x"}}]}')
    rules.write("rules/door.jsonc", [rule("y"), rule("x")])
    found = rules.read()
    assert names(found) == ["x"]
    (problem,) = rules.broken()
    assert problem == (
        'rules/door.jsonc:1:49: [1].name: the name "x" is that of config.jsonc:3 too; name each rule differently'
    )
    rules.write("rules/door.jsonc", '[{"name": "y", "do": {"log": "1"}},\n{"name": "y", "do": {"log": "2"}}]')
    (problem,) = rules.broken()
    assert problem.startswith('rules/door.jsonc:2:10: [1].name: the name "y" is that of [0] (line 1) too')


def test_a_new_file_never_takes_a_name_from_one_that_was_there(rules: Rules) -> None:
    rules.write("rules/b.jsonc", [rule("x", on="b")])
    before = rules.read()
    rules.write("rules/a.jsonc", [rule("x", on="a")])
    after = rules.read(before)
    assert [found.on for found in after.rules] == [("b",)]
    assert list(after.broken) == ["rules/a.jsonc"]
    fresh = rules.read()
    assert [found.on for found in fresh.rules] == [("a",)]
    assert list(fresh.broken) == ["rules/b.jsonc"]


def test_a_rule_may_not_move_while_its_old_file_is_broken(rules: Rules) -> None:
    rules.write("rules/a.jsonc", [rule("x", on="a")])
    before = rules.read()
    rules.write("rules/a.jsonc", "[")
    rules.write("rules/b.jsonc", [rule("x", on="b")])
    after = rules.read(before)
    assert [found.on for found in after.rules] == [("a",)]
    assert 'the name "x" is that of rules/a.jsonc, as it was before, too' in str(after.broken["rules/b.jsonc"][0])
    rules.write("rules/a.jsonc", [])
    assert [found.on for found in rules.read(after).rules] == [("b",)]


def test_names_stay_unique_whatever_was_last_good(rules: Rules) -> None:
    rules.write("rules/a.jsonc", [rule("x")])
    rules.write("rules/b.jsonc", [rule("y")])
    before = rules.read()
    rules.write("rules/a.jsonc", [rule("y")])
    rules.write("rules/b.jsonc", "[")
    after = rules.read(before)
    assert sorted(names(after)) == ["x", "y"]
    rules.write("config.jsonc", {"rules": [rule("x"), rule("y")]})
    assert sorted(names(rules.read(after))) == ["x", "y"]


def test_the_difference_of_two_configurations_knows_rule_files(rules: Rules) -> None:
    rules.write("rules/a.jsonc", [rule("x")])
    old = load_environment(rules.root, {})
    assert not diff(old, load_environment(rules.root, {}))
    rules.write("rules/a.jsonc", '[{"name": "x", "do": {"log": "text"}} /* as before */]')
    assert not diff(old, load_environment(rules.root, {}))
    rules.write("rules/a.jsonc", "[")
    broken = load_environment(rules.root, {})
    assert not diff(old, broken)
    rules.write("rules/a.jsonc", [rule("x", on="y")])
    assert diff(broken, load_environment(rules.root, {})).rules_changed
    (rules.root / "rules" / "a.jsonc").unlink()
    assert diff(old, load_environment(rules.root, {})).rules_changed


def test_a_long_file_that_only_json5_allows_is_refused_and_not_read_for_minutes() -> None:
    rules = ",\n".join(f"{{'name': 'rule {number}', 'do': {{'log': 'x'}}}}" for number in range(8_000))
    assert len(rules) > MAX_JSON5
    with pytest.raises(ConfigError, match="too long to be read as JSON5; put keys and texts into double quotes"):
        parse(f"[{rules}]", "rules/long.jsonc")
    with pytest.raises(ConfigError, match=r"rules/long.jsonc:8001:7: a value is missing"):
        parse(f"[{rules},\n{{'x': }}]", "rules/long.jsonc")


def until(condition: Callable[[], Any]) -> Any:
    async def wait() -> None:
        with anyio.fail_after(20):
            while not condition():
                await anyio.sleep(0.01)

    return wait()


@pytest.mark.anyio
async def test_a_running_host_takes_up_rule_files_as_they_are_saved(rules: Rules) -> None:
    rules.write("rules/door.jsonc", [rule("door", on="door.*")])
    rules.write("rules/light.jsonc", [rule("light", on="light.*")])
    host = ServerEnvironment.from_path(rules.root)

    def matched() -> dict[str, int]:
        return {each.name: each.matched for each in host.rule_statistics()}

    async with host, anyio.create_task_group() as tasks:
        tasks.start_soon(host.watch)
        await host.publish_event({"type": "door.opened"})
        await until(lambda: matched() == {"door": 1, "light": 0})
        rules.write("rules/light.jsonc", [rule("light", on="lamp.*")])
        rules.write("rules/new.jsonc", [rule("new", on="*")])
        await until(lambda: matched() == {"door": 1, "light": 0, "new": 0})
        await host.publish_event({"type": "lamp.lit"})
        await until(lambda: matched() == {"door": 1, "light": 1, "new": 1})
        rules.write("rules/door.jsonc", "[")
        (rules.root / "rules" / "new.jsonc").unlink()
        await until(lambda: matched() == {"door": 1, "light": 1})
        await until(lambda: list(host.rule_set.broken) == ["rules/door.jsonc"])
        await host.publish_event({"type": "door.opened"})
        await until(lambda: matched() == {"door": 2, "light": 1})
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_host_starts_without_a_broken_rule_file_and_says_so(rules: Rules) -> None:
    rules.write("rules/door.jsonc", [{"do": {"lgo": number}} for number in range(30)])
    rules.write("rules/light.jsonc", [rule("light")])
    async with ServerEnvironment.from_path(rules.root) as host:
        events = host.bus.subscribe("host.config_error", after=0)
        assert [each.name for each in host.rule_statistics()] == ["light"]
        with anyio.fail_after(20):
            entry = await anext(aiter(events))
        told = entry.event.payload  # type: ignore[union-attr]
        assert told["part"] == "rules/door.jsonc"
        assert len(told["problems"]) == 21
        assert told["problems"][-1] == "and 10 more; `eventhost check` tells them all"
        report = await host.reload()
        assert len(report.problems) == 30


def test_the_collector_is_as_it_was_after_many_rules_were_read() -> None:
    frozen = gc.get_freeze_count()
    try:
        with uncollected():
            assert not gc.isenabled()
            kept = [[number] for number in range(MANY_OBJECTS + 1_000)]
        assert gc.isenabled()
        assert gc.get_freeze_count() >= frozen + len(kept)
        with pytest.raises(ConfigError), uncollected():
            raise ConfigError([])
        assert gc.isenabled()
    finally:
        gc.unfreeze()


def test_what_was_switched_by_hand_goes_before_the_files_and_can_be_taken_back(rules: Rules) -> None:
    rules.write("config.jsonc", {"rules": [rule("on"), rule("off", enabled=False)]})
    rules.write("rules/a.jsonc", [rule("a")])
    before = rules.read()
    rules.write("var/state.json", {"rules": {"on": False, "off": True, "a": False, "gone": True}})
    switched = rules.read(before)
    assert [each.enabled for each in switched.rules] == [False, True, False]
    assert switched.rules[0] != before.rules[0], "what is in use is exchanged for it"
    assert [each.enabled for each in rules.read(switched).rules] == [False, True, False]
    rules.write("var/state.json", {"rules": {"off": True}})
    assert [each.enabled for each in rules.read(switched).rules] == [True, True, True]
    assert switched.switch({}).rules == before.rules
