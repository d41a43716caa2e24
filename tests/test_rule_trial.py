"""Trying rules on an event: what stops a rule is told with the value it saw, what runs is told and never done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventhost.config.tree import Tree
from eventhost.errors import EventRejected
from eventhost.event import SourceProfile
from eventhost.expression.source import expression_tokens
from eventhost.journal import Entry
from eventhost.pattern import MISSING, PatternIndex
from eventhost.rules import Rule, parse_rules
from eventhost.rules.cases import NOON_MS, event_of, moment_ms, read_cases, reason, run_case
from eventhost.rules.seen import Seen, _paths, seen, seen_by_condition, seen_by_templates, short, spelled
from eventhost.rules.trial import Fate, concerns, try_rule

SENSOR = {"type": "sensor.reading", "payload": {"temp": 25, "room": "cellar", "tags": ["a", "b"]}}
LOG = {"log": "x"}


def one(**said: Any) -> Rule:
    return parse_rules(Tree([{"name": "r", "do": LOG, **said}], "rules.jsonc"))[0]


def entry(event: dict[str, Any] = SENSOR, at_ms: int = NOON_MS) -> Entry:
    return Entry(1, at_ms, event_of(event, at_ms))


@pytest.mark.parametrize(
    ("said", "fate", "told"),
    [
        ({}, Fate.RUNS, None),
        ({"on": ["door.*", "sensor.*"]}, Fate.RUNS, None),
        ({"enabled": False}, Fate.DISABLED, None),
        ({"on": "door.*"}, Fate.NO_MATCH, 'on: wants "door.*"; type is "sensor.reading"'),
        ({"on": ["a", "b"]}, Fate.NO_MATCH, 'on: wants ["a", "b"]; type is "sensor.reading"'),
        (
            {"on": "sensor.raeding"},
            Fate.NO_MATCH,
            'on: wants "sensor.raeding"; is "sensor.raeding" a slip?; type is "sensor.reading"',
        ),
        (
            {"match": {"payload": {"temp": [{"numeric": [">", 30]}]}}},
            Fate.NO_MATCH,
            'match.payload.temp: wants [{"numeric": [">", 30]}]; payload.temp is 25',
        ),
        (
            {"match": {"payload.tmep": [{"numeric": [">", 30]}]}},
            Fate.NO_MATCH,
            'match.payload.tmep: wants [{"numeric": [">", 30]}]; payload.tmep is not there; did you mean payload.temp?',
        ),
        (
            {"match": {"payload": {"room": "cellar", "tags": ["c"]}}},
            Fate.NO_MATCH,
            'match.payload.tags: wants ["c"]; payload.tags is ["a", "b"]',
        ),
        (
            {"match": {"payload": {"zzz": {"deep": [1]}}}},
            Fate.NO_MATCH,
            "match.payload.zzz.deep: wants [1]; payload.zzz.deep is not there",
        ),
        (
            {"match": {"$or": [{"payload.temp": [1]}, {"payload.room": ["attic"]}]}},
            Fate.NO_MATCH,
            'match.$or: wants [{"payload.temp": [1]}, {"payload.room": ["attic"]}]; '
            'payload.temp is 25; payload.room is "cellar"',
        ),
        (
            {"when": "payload.temp > 30 and payload['room'] == 'attic'"},
            Fate.NO_MATCH,
            "when: payload.temp > 30 and payload['room'] == 'attic' is false; "
            'payload.temp is 25; payload.room is "cellar"',
        ),
        ({"when": "payload.temp is defined", "throttle": {"per": "1m"}}, Fate.RUNS, None),
        ({"maxAge": "5m"}, Fate.RUNS, None),
        ({"active": {"hours": "11:00-13:00", "weekdays": "mon", "timeZone": "UTC"}}, Fate.RUNS, None),
        (
            {"active": {"hours": "13:00-14:00", "timeZone": "UTC"}},
            Fate.SUPPRESSED,
            "active: the rule sleeps at this time",
        ),
        ({"debounce": {"for": "5s"}}, Fate.HELD, None),
        ({"batch": {"within": "1m"}}, Fate.HELD, None),
        ({"batch": {"within": "1m", "max": 1}}, Fate.RUNS, None),
        ({"absence": {"of": "sensor.ok", "within": "10m"}}, Fate.HELD, None),
    ],
)
def test_what_stops_a_rule_is_told_with_what_it_saw(said: dict[str, Any], fate: Fate, told: str | None) -> None:
    trial = try_rule(one(**said), entry())
    assert trial.fate is fate
    assert (None if trial.stop is None else reason(trial)) == told
    assert json.loads(json.dumps(trial.to_json()))["matches"] is fate.matches


def test_a_condition_that_cannot_be_told_names_the_field_that_was_meant() -> None:
    trial = try_rule(one(when="payload.tmep > 30 or payload.room == 'x'"), entry())
    assert trial.fate is Fate.ERROR
    assert reason(trial).endswith("payload.tmep is not there; did you mean payload.temp?")
    assert "payload.room is" not in reason(trial)


def test_what_is_too_old_would_not_run() -> None:
    trial = try_rule(one(maxAge="5m"), entry({**SENSOR, "timestamp": NOON_MS - 300_001}))
    assert (trial.fate, reason(trial)) == (Fate.SUPPRESSED, "maxAge: the event is older")
    assert try_rule(one(maxAge="5m"), entry({**SENSOR, "timestamp": NOON_MS - 299_999})).fate is Fate.RUNS


def test_the_hosts_own_events_say_why_a_star_leaves_them_out() -> None:
    trial = try_rule(one(on="*"), entry({"type": "host.source_started", "metadata": {"source_name": "host"}}))
    assert "begin the glob with host." in reason(trial)


def test_held_events_say_until_when() -> None:
    assert try_rule(one(debounce={"for": "5s"}), entry()).due_ms == NOON_MS + 5_000
    assert try_rule(one(batch={"within": "1m"}), entry()).due_ms == NOON_MS + 60_000
    assert try_rule(one(), entry()).due_ms is None


def test_actions_are_told_filled_in_with_secrets_as_references_and_not_done(tmp_path: Path) -> None:
    marker = tmp_path / "done"
    do = [
        {"exec": ["touch", str(marker)]},
        {"webhook": "http://127.0.0.1:9/x", "headers": {"Authorization": "Bearer ${env:TOKEN}"}, "body": "{{ type }}"},
        {"tool": "todo__add", "arguments": {"title": "{{ payload.room }}"}},
        {"emit": "b.c", "payload": {"was": "{{ payload.temp }}", "gave": "{{ result.id }}"}},
        {"log": "{{ events|length }}"},
    ]
    trial = try_rule(one(do=do), entry())
    assert [action.error for action in trial.actions] == [""] * 5
    does = [action.does or {} for action in trial.actions]
    assert does[0]["exec"] == ["touch", str(marker)]
    assert does[1]["headers"] == {"Authorization": "Bearer ${env:TOKEN}"}
    assert does[1]["body"] == "sensor.reading"
    assert does[2]["arguments"] == {"title": "cellar"}
    assert does[3]["payload"] == {"was": 25, "gave": "{{ result.id }}"}
    assert does[4]["log"] == "1"
    assert not marker.exists()


def test_results_are_filled_in_where_they_are_given() -> None:
    do = [LOG, {"emit": "b", "payload": {"gave": "{{ result.id }}"}, "if": "result.ok"}]
    unknown = try_rule(one(do=do), entry()).actions[1]
    assert (unknown.does or {})["payload"] == {"gave": "{{ result.id }}"}
    assert unknown.depends == "result.ok"
    told = try_rule(one(do=do), entry(), [{"ok": True, "id": 7}]).actions[1]
    assert (told.does or {})["payload"] == {"gave": 7}
    assert not told.depends
    assert try_rule(one(do=do), entry(), [{"ok": False}]).actions[1].skipped == "result.ok"


def test_a_result_is_that_of_the_last_action_which_would_be_run() -> None:
    do = [LOG, {**LOG, "if": "payload.temp > 99"}, {"emit": "b", "payload": "{{ result }}"}]
    assert (try_rule(one(do=do), entry(), ["first", "second"]).actions[2].does or {})["payload"] == "first"
    assert (try_rule(one(do=do), entry()).actions[2].does or {})["payload"] == "{{ result }}"
    assert (try_rule(one(do=do[1:]), entry()).actions[1].does or {})["payload"] is None


def test_what_only_a_failure_would_tell_stays_as_it_is_written() -> None:
    do = [{**LOG, "onError": "continue"}, {"log": "{{ error.message }}"}, {**LOG, "if": "error"}]
    actions = try_rule(one(do=do), entry()).actions
    assert (actions[1].does or {})["log"] == "{{ error.message }}"
    assert actions[2].depends == "error"


def test_an_agent_would_be_asked_and_is_not() -> None:
    rule = one(do={"agent": "Say hello.", "model": "m", "url": "http://127.0.0.1:9/v1", "apiKey": "${env:NO_KEY}"})
    trial = try_rule(rule, entry())
    assert trial.fate is Fate.RUNS
    assert trial.actions[0].error == ""
    assert "Say hello." in json.dumps(trial.actions[0].does)


def test_an_action_that_cannot_be_filled_in_names_the_field_that_was_meant() -> None:
    trial = try_rule(one(do=[{"log": "{{ payload.romm }} {{ payload.temp }}"}]), entry())
    assert trial.fate is Fate.RUNS
    assert trial.actions[0].error
    assert list(map(str, trial.actions[0].seen)) == ["payload.romm is not there; did you mean payload.room?"]
    assert trial.to_json()["actions"][0]["seen"] == [{"field": "payload.romm", "did_you_mean": "payload.room"}]


def test_trying_tells_the_same_as_the_index_of_a_running_host() -> None:
    said: list[dict[str, Any]] = [
        {"on": "sensor.*"},
        {"on": "*.reading"},
        {"on": "host.*"},
        {"on": ["x", "sensor.reading"]},
        {"match": {"payload.temp": 25}},
        {"match": {"payload.temp": 26}},
        {"on": "host.x"},
        {"match": {"payload.tags": ["b"]}},
        {"on": "sensor.read"},
        {"on": "*", "match": {"payload.no": [{"exists": False}]}},
    ]
    rules = parse_rules(Tree([{"do": LOG, **each} for each in said], "r"))
    index = PatternIndex[str]()
    for rule in rules:
        index.add(rule.name, rule.on, rule.match)
    for event in (SENSOR, {"type": "host.x"}, {"type": "x"}, {"type": "sensor.read", "payload": {"no": 1}}):
        tried = entry(event)
        assert [rule.name for rule in rules if concerns(rule, tried)] == index.match(tried.event)
        assert [rule.name for rule in rules if try_rule(rule, tried).fate.matches] == index.match(tried.event)


# What an expression saw.


@pytest.mark.parametrize(
    ("source", "paths"),
    [
        ("payload.a.b > 1", ["payload.a.b"]),
        ("payload['a b'][0].c", ["payload['a b'][0].c"]),
        ("payload.name.startswith('x')", ["payload.name"]),
        ("payload.items()|length", ["payload"]),
        ("payload[metadata.key]", ["payload", "metadata.key"]),
        ("type == 'x' and id", ["type", "id"]),
        ("x.payload or payload.x is payload", ["payload.x"]),
        ("'payload.x' == payload.y", ["payload.y"]),
        ("payload.a[1:2]", ["payload.a"]),
    ],
)
def test_the_fields_that_an_expression_names_are_found(source: str, paths: list[str]) -> None:
    assert [spelled(path) for path in _paths(expression_tokens(source))] == paths


def test_a_field_that_is_not_there_shows_the_nearest_that_is() -> None:
    event = {"payload": {"room": {"temperature": 1}, "list": [{"a": 1}]}}
    assert seen(("payload", "rom", "temperature"), event).meant == ("payload", "room", "temperature")
    assert seen(("payload", "room", "temprature"), event).meant == ("payload", "room", "temperature")
    assert seen(("payload", "zzz"), event) == Seen(("payload", "zzz"), MISSING)
    assert seen(("payload", "list", 0, "a"), event).value == 1
    assert seen(("payload", "list", "a"), event) == Seen(("payload", "list", "a"), MISSING)
    assert seen_by_condition("((", event) == []
    assert [each.path for each in seen_by_templates({"a": ["{{ payload.x }} {{ payload.x }}"], "b": 1}, event)] == [
        ("payload", "x")
    ]


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_a_value_is_shown_short_and_whole_if_it_fits(value: Any) -> None:
    whole = json.dumps(value, ensure_ascii=False)
    assert len(short(value)) <= 80
    if len(whole) < 40:
        assert short(value) == whole


# Events as they are given.


def test_an_event_is_made_as_its_source_would_say_it() -> None:
    profiles = {"door": SourceProfile("door", ("door.*",), {"floor": 2})}
    made = event_of({"type": "door.opened", "metadata": {"source_name": "door"}}, 5, profiles)
    assert (made.metadata, made.timestamp, made.payload) == (
        {"source": "door", "floor": 2, "source_name": "door"},
        5,
        {},
    )
    with pytest.raises(EventRejected, match="not among the configured eventTypes"):
        event_of({"type": "light.lit", "metadata": {"source_name": "door"}}, 5, profiles)
    assert event_of({"type": "a"}, 5, profiles).metadata["source_name"] == "test"
    with pytest.raises(EventRejected, match="an event must be an object"):
        event_of([], 5)  # type: ignore[arg-type]


def test_an_event_as_the_host_prints_it_stays_as_it_is() -> None:
    made = event_of({**SENSOR, "id": "7", "metadata": {"source_name": "s"}}, 5)
    printed = {**json.loads(made.to_json()), "seq": 12}
    assert event_of(printed, 99) == made


@pytest.mark.parametrize(
    ("written", "at_ms"), [(5, 5), ("1970-01-01T00:00:01Z", 1_000), ("2026-01-05T12:00:00+00:00", NOON_MS)]
)
def test_a_moment_is_milliseconds_or_iso_8601(written: int | str, at_ms: int) -> None:
    assert moment_ms(written) == at_ms


# Tests of rules.

RULES = [
    {
        "name": "warm",
        "on": "sensor.*",
        "when": "payload.temp > 20",
        "do": [
            {"log": "{{ payload.room }}"},
            {"tool": "todo__add", "arguments": {"title": "{{ payload.temp }}", "n": "{{ result }}"}},
            {"log": "never", "if": "payload.temp > 100"},
        ],
    },
    {"name": "night", "on": "sensor.*", "active": {"hours": "00:00-05:00", "timeZone": "UTC"}, "do": LOG},
    {"name": "off", "enabled": False, "do": LOG},
]


def outcome(tmp_path: Path, text: Any, rules: list[dict[str, Any]] = RULES) -> tuple[list[str], list[str]]:
    """What one file of tests comes to: what differs, and what is wrong with the file."""
    folder = tmp_path / "rules" / "tests"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "t.jsonc").write_text(text if isinstance(text, str) else json.dumps(text))
    made = parse_rules(Tree(rules, "rules.jsonc"))
    cases, problems = read_cases(tmp_path, made)
    return [f"{case.place}: {each}" for case in cases for each in run_case(case, made)], list(map(str, problems))


@pytest.mark.parametrize(
    "case",
    [
        {"expect": ["warm"]},
        {"expect": {"warm": True}},
        {"expect": {"warm": [{}, {}]}},
        {"expect": {"warm": [{"log": "cellar"}, {"arguments": {"title": 25}}]}},
        {
            "expect": {"warm": [{"level": "info"}, {"tool": "todo__add", "arguments": {"n": 7}}]},
            "results": {"warm": [7]},
        },
        {"expect": ["warm", "night"], "at": "2026-01-05T03:00:00Z"},
        {"expect": ["night", "warm"], "event": {**SENSOR, "timestamp": "2026-01-05T03:00:00Z"}},
        {"expect": ["warm"], "event": {**SENSOR, "timestamp": "2026-01-05T03:00:00Z"}, "at": NOON_MS},
        {"expect": [], "event": {"type": "x"}},
        {"expect": ["night"], "rules": ["n*"], "at": "2026-01-05T03:00:00Z"},
        {"expect": [], "rules": ["night"]},
    ],
)
def test_a_case_that_is_right_passes(tmp_path: Path, case: dict[str, Any]) -> None:
    whole = {"event": SENSOR, **case}
    assert outcome(tmp_path, whole) == ([], [])
    assert outcome(tmp_path, [whole, whole]) == ([], [])
    assert outcome(tmp_path, {"$schema": "x", "tests": [whole]}) == ([], [])


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ({"expect": []}, ["warm: runs, and is not expected to"]),
        ({"expect": ["night", "warm"]}, ["night: does not run: active: the rule sleeps at this time"]),
        ({"expect": ["off", "warm"]}, ["off: does not run: it is disabled"]),
        (
            {"expect": ["warm"], "event": {**SENSOR, "payload": {"temp": 3}}},
            ["warm: does not run: when: payload.temp > 20 is false; payload.temp is 3"],
        ),
        (
            {"expect": {"warm": [{"log": "attic"}, {"arguments": {"title": "25"}}]}},
            ['warm: do[0].log: expected "attic", got "cellar"', 'warm: do[1].arguments.title: expected "25", got 25'],
        ),
        ({"expect": {"warm": [{"lgo": "x"}, {}]}}, ['warm: do[0].lgo: expected "x", got nothing']),
        ({"expect": {"warm": [{"log": "cellar"}]}}, ["warm: expected 1 actions, got 2: log, tool"]),
        (
            {"expect": {"warm": [{}]}, "event": {**SENSOR, "payload": {"temp": 30, "rom": "x"}}},
            ["warm: do[0] (log) would fail: "],
        ),
    ],
)
def test_a_case_that_fails_says_what_differs(tmp_path: Path, case: dict[str, Any], told: list[str]) -> None:
    differences, problems = outcome(tmp_path, f"\n\n{json.dumps({'event': SENSOR, **case})}")
    assert problems == []
    assert len(differences) == len(told)
    for difference, start in zip(differences, told, strict=True):
        assert difference.startswith(f"rules/tests/t.jsonc:3: {start}")


def test_truth_and_numbers_are_not_the_same_in_a_case(tmp_path: Path) -> None:
    rules = [{"name": "r", "do": {"emit": "a", "payload": {"x": "{{ payload.x }}"}}}]
    for wanted, given_, same in (
        (1, 1.0, True),
        (1, True, False),
        (0, False, False),
        ([1], [True], False),
        ({}, {"a": 1}, True),
    ):
        case = {"event": {"type": "t", "payload": {"x": given_}}, "expect": {"r": [{"payload": {"x": wanted}}]}}
        assert (outcome(tmp_path, case, rules)[0] == []) is same, (wanted, given_)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "rules/tests/t.jsonc:1:1: { is never closed"),
        ('{"event": {"type": "x"}}', "rules/tests/t.jsonc:1:1: expect: this key is required"),
        (
            '[{"event": {"type": "x"}, "expect": ["wram"]}]',
            '1:38: [0].expect[0]: no rule is called "wram"; did you mean "warm"?',
        ),
        ('{"event": {"type": "x"}, "expect": {"wram": true}}', '1:37: expect.wram: no rule is called "wram"'),
        ('{"event": {}, "expect": []}', "1:11: event: type: a non-empty string is required, got nothing"),
        ('{"event": {"type": "x"}, "expect": [], "at": "noon"}', "1:46: at: timestamp: 'noon' is neither"),
        ('{"event": {"type": "x"}, "expect": [], "expects": []}', "1:40: expects: unknown key"),
        ('{"event": {"type": "x"}, "expect": {"warm": false}}', "1:45: expect.warm: expected"),
        ('{"tests": {}}', "1:11: tests: expected a list, got an object"),
        ("3", "1:1: expected a list of tests, got a number"),
    ],
)
def test_a_case_that_cannot_be_read_says_where(tmp_path: Path, text: str, told: str) -> None:
    differences, problems = outcome(tmp_path, text)
    assert differences == []
    assert len(problems) == 1
    assert told in problems[0]


def test_one_bad_case_keeps_no_other_from_being_run(tmp_path: Path) -> None:
    differences, problems = outcome(tmp_path, [{"event": 3, "expect": []}, {"event": SENSOR, "expect": []}])
    assert (len(differences), len(problems)) == (1, 1)
