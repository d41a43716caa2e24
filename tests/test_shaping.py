"""Shaping: when a rule runs, by the times of its events alone; each stage is held against a naive model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from eventhost.actions.step import Budget
from eventhost.config.tree import Tree
from eventhost.errors import ConfigError
from eventhost.event import EnvEvent
from eventhost.journal import Entry
from eventhost.rules.run import Run
from eventhost.rules.shaper import Bounds, Shaper, Verdict
from eventhost.rules.shaping import KEYS, Shaping, ShapingSpec, parse_shaping
from eventhost.rules.shaping.active import parse_days, parse_hours
from eventhost.rules.shaping.rate import Rate
from eventhost.rules.shaping.spec import BATCH, MAX_LIMIT
from eventhost.rules.shaping.timeline import Timeline

HOUR_MS = 3_600_000
KEY = "{{ payload.k }}"


def shaping(budget: Budget | None = None, **keys: Any) -> Shaping:
    return parse_shaping(Tree.parse(json.dumps({"name": "r", **keys}, indent=1), "c.jsonc"), budget)


def at(seq: int, at_ms: int, k: Any = "", timestamp: int | None = None, **payload: Any) -> Entry:
    when = at_ms if timestamp is None else timestamp
    return Entry(seq, at_ms, EnvEvent(str(seq), "t", when, {}, {"k": k, **payload}))


@dataclass
class Told:
    """What a shaper tells: each verdict in order."""

    verdicts: list[tuple[int, Verdict]] = field(default_factory=list)

    def __call__(self, seq: int, verdict: Verdict) -> None:
        self.verdicts.append((seq, verdict))

    @property
    def last(self) -> dict[int, Verdict]:
        """The last verdict on each event."""
        return dict(self.verdicts)


def made(shape: Shaping, before: Shaper | None = None, bounds: Bounds | None = None) -> tuple[Shaper, Told]:
    told = Told()
    return Shaper(shape, told, before, bounds), told


def ran(runs: Iterable[Run]) -> list[tuple[int, ...]]:
    return [tuple(entry.seq for entry in run.entries) for run in runs]


FAR_MS = 1_000 * HOUR_MS


# What is configured


@pytest.mark.parametrize(
    ("keys", "place", "message"),
    [
        ({"throttle": 5}, "throttle", "expected an object, got a number"),
        ({"throttle": {}}, "throttle.per", "this key is required"),
        ({"throttle": {"per": 5}}, "throttle.per", "got a bare number"),
        ({"throttle": {"per": "0s"}}, "throttle.per", "must be at least"),
        ({"throttle": {"per": "1s", "limit": 0}}, "throttle.limit", "must be at least 1"),
        ({"throttle": {"per": "1s", "limit": 10_001}}, "throttle.limit", "must be at most 10000"),
        ({"throttle": {"per": "1s", "limt": 1}}, "throttle.limt", "unknown key"),
        ({"throttle": {"per": "1s", "key": "payload.room"}}, "throttle.key", "the same for all events"),
        ({"throttle": {"per": "1s", "key": []}}, "throttle.key", "the same for all events"),
        ({"throttle": {"per": "1s", "key": "{{ paylaod.room }}"}}, "throttle.key", "unknown name paylaod"),
        ({"throttle": {"per": "1s", "key": ["{{ id }}", "{{ x }}"]}}, "throttle.key[1]", "unknown name x"),
        ({"throttle": {"per": "1s", "key": "${env:A} {{ id }}"}}, "throttle.key", "a secret would be shown here"),
        ({"dedupe": {"key": KEY}}, "dedupe.within", "this key is required"),
        ({"debounce": {"for": "fast"}}, "debounce.for", "expected a duration"),
        ({"batch": {"within": "1m", "max": 0}}, "batch.max", "must be at least 1"),
        ({"absence": {"within": "1m"}}, "absence.of", "this key is required"),
        ({"absence": {"within": "1m", "of": 5}}, "absence.of", "expected a string or a list of strings or an object"),
        ({"absence": {"within": "1m", "of": []}}, "absence.of", "an empty list matches nothing"),
        ({"absence": {"within": "1m", "of": {"when": "x"}}}, "absence.of.when", "unknown name x"),
        ({"absence": {"within": "1m", "of": {"match": {}}}}, "absence.of.match", "empty objects are not allowed"),
        ({"absence": {"within": "1m", "of": {"key": "{{ x }}"}}}, "absence.of.key", "unknown name x"),
        ({"absence": {"within": "1m", "of": {"no": "b"}}}, "absence.of.no", "unknown key"),
        ({"maxAge": "long"}, "maxAge", "expected a duration"),
        ({"maxAge": 0}, "maxAge", "must be at least"),
        ({"active": {}}, "active", "neither hours nor weekdays"),
        ({"active": {"timeZone": "UTC"}}, "active", "neither hours nor weekdays"),
        ({"active": {"hours": "8-18"}}, "active.hours", "expected a span of hours, got '8-18'"),
        ({"active": {"hours": ["08:00-18:00", "18:60-19:00"]}}, "active.hours", "not within 00:00 and 24:00"),
        ({"active": {"hours": "24:00-06:00"}}, "active.hours", "not within 00:00 and 24:00"),
        ({"active": {"hours": "08:00-08:00"}}, "active.hours", "begins where it ends"),
        ({"active": {"hours": []}}, "active.hours", "an empty list is never"),
        ({"active": {"weekdays": "mon-fry"}}, "active.weekdays", "expected a day of the week"),
        ({"active": {"weekdays": "mon-tue-wed"}}, "active.weekdays", "expected a day of the week"),
        ({"active": {"weekdays": "mon", "timeZone": "Europe/Berln"}}, "active.timeZone", "there is no time zone"),
        (
            {"debounce": {"for": "1s"}, "batch": {"within": "1s"}},
            "batch",
            "debounce and batch cannot be on one rule",
        ),
        (
            {"debounce": {"for": "1s"}, "batch": {"within": "1s"}, "absence": {"of": "b", "within": "1s"}},
            "batch",
            "debounce, batch and absence cannot be on one rule",
        ),
    ],
)
def test_a_mistake_in_shaping_is_told_with_its_place(keys: dict[str, Any], place: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        shaping(**keys)
    (problem,) = caught.value.problems
    assert problem.field == place
    assert message in problem.message
    assert problem.line > 1


@pytest.mark.parametrize(
    ("key", "mend"),
    [
        ("payload.room", "{{ payload.room }}"),
        ("type", "{{ type }}"),
        ("room", "{{ payload.room }}"),
        ("the room", "{{ payload.name }}"),
        (["metadata.source", "x"], "{{ metadata.source }}"),
        ([], "{{ payload.name }}"),
    ],
)
def test_a_key_that_is_no_template_is_told_what_to_write(key: Any, mend: str) -> None:
    with pytest.raises(ConfigError) as caught:
        shaping(dedupe={"within": "1s", "key": key})
    (problem,) = caught.value.problems
    assert f'write "{mend}"' in problem.mend
    assert shaping(dedupe={"within": "1s", "key": mend}).dedupe is not None


def test_all_mistakes_in_shaping_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        shaping(throttle={"limit": 0}, dedupe={}, active={"hours": "x"}, maxAge=-1)
    places = {problem.field for problem in caught.value.problems}
    assert places == {"throttle.limit", "throttle.per", "dedupe.within", "active.hours", "maxAge"}


def test_other_keys_are_not_looked_at_and_null_means_nothing() -> None:
    assert shaping(do=5, on=[], xyz={}, throttle=None) == Shaping()
    assert shaping().is_plain
    assert not shaping().gathers


@pytest.mark.parametrize(
    "keys",
    [
        {"throttle": {"per": "1s"}},
        {"dedupe": {"within": "1s"}},
        {"debounce": {"for": "1s"}},
        {"batch": {"within": "1s"}},
        {"absence": {"of": "b", "within": "1s"}},
        {"maxAge": "1s"},
        {"active": {"weekdays": "mon"}},
    ],
)
def test_a_rule_with_any_shaping_is_not_plain(keys: dict[str, Any]) -> None:
    assert set(keys) <= set(KEYS)
    assert not shaping(**keys).is_plain
    assert shaping(**keys) == shaping(**keys)
    assert shaping(**keys).gathers == ("batch" in keys)


def test_a_budget_is_shaping_too() -> None:
    made = shaping(Budget(1, None))
    assert (made.budget, made.is_plain, made.gathers) == (Budget(1, None), False, True)


def test_shaping_is_equal_when_it_says_the_same() -> None:
    assert shaping(throttle={"per": "60s"}) == shaping(throttle={"limit": 1, "per": "1m"})
    assert shaping(throttle={"per": "60s"}) != shaping(throttle={"per": "60s", "key": KEY})


def test_what_absence_waits_for_is_a_trigger_of_its_own() -> None:
    absence = shaping(absence={"of": ["b", "c.*"], "within": "1m", "key": KEY}).absence
    assert absence is not None
    assert (absence.on, absence.match, absence.when, absence.of_key) == (("b", "c.*"), None, None, absence.key)
    of = {"on": "b", "match": {"payload": {"x": 1}}, "when": "payload.x > 0", "key": "{{ payload.j }}"}
    absence = shaping(absence={"of": of, "within": "1m", "key": KEY}).absence
    assert absence is not None
    assert absence.match is not None
    assert absence.match.matches(at(1, 0, x=1).event)
    assert absence.when is not None
    assert absence.of_key is not None
    assert absence.of_key.of(at(1, 0, j="7")) == '"7'


def test_the_specification_says_what_each_key_means() -> None:
    schema = ShapingSpec.model_json_schema(by_alias=True)
    assert tuple(schema["properties"]) == KEYS
    for definition in (schema, *schema["$defs"].values()):
        for name, part in definition["properties"].items():
            assert part.get("description") or name in ("on", "match", "when", "key", "do"), name


# Keys


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a", "a", True),
        ("a", "b", False),
        (1, 1.0, True),
        (1, "1", False),
        (1, True, False),
        (0, False, False),
        (0, None, False),
        ("null", None, False),
        ("", None, False),
        ([1, [2.0]], [1.0, [2]], True),
        ([1, 2], [2, 1], False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({"a": 1}, {"a": 2}, False),
        ("x" * 1000, "x" * 1000, True),
        ("x" * 1000, "x" * 1001, False),
        ("#" + "0" * 64, "#" + "0" * 64, True),
        (2**53, 2**53 + 1, False),
        (10**30, 10**30 + 1, False),
        ("é\u2028", "é\u2028", True),
        ('"a', "a", False),
    ],
)
def test_events_have_the_same_key_when_its_values_are_the_same_json(one: Any, other: Any, same: bool) -> None:
    for key in (KEY, [KEY], ["{{ type }}", KEY]):
        shaper, told = made(shaping(dedupe={"within": "1m", "key": key}))
        shaper.offer(at(1, 0, one), 0)
        shaper.offer(at(2, 1, other), 1)
        assert told.last == {1: Verdict.RUN, 2: Verdict.DUPLICATE if same else Verdict.RUN}


def test_several_keys_do_not_run_into_each_other() -> None:
    shaper, told = made(shaping(dedupe={"within": "1m", "key": [KEY, "{{ payload.j }}"]}))
    shaper.offer(at(1, 0, "a", j="bc"), 0)
    shaper.offer(at(2, 0, "ab", j="c"), 0)
    assert set(told.last.values()) == {Verdict.RUN}


def test_a_long_key_takes_little_room() -> None:
    shaper, _ = made(shaping(dedupe={"within": "1m", "key": KEY}))
    shaper.offer(at(1, 0, "x" * 100_000), 0)
    assert len(json.dumps(shaper.dump())) < 1000


@pytest.mark.parametrize(
    "keys",
    [
        {"throttle": {"per": "1m", "key": "{{ payload.room }}"}},
        {"dedupe": {"within": "1m", "key": ["{{ payload.k }}", "{{ payload.room }}"]}},
        {"debounce": {"for": "1m", "key": "{{ payload.room }}"}},
        {"batch": {"within": "1m", "key": "{{ payload.room }}"}},
        {"absence": {"of": "b", "within": "1m", "key": "{{ payload.room }}"}},
        {"debounce": {"for": "1m"}, "throttle": {"per": "1m", "key": "{{ payload.room }}"}},
    ],
)
def test_an_event_without_its_key_is_not_run_for_and_it_is_said_why(keys: dict[str, Any]) -> None:
    shaper, told = made(shaping(**keys))
    assert shaper.offer(at(1, 0), 0) == []
    assert shaper.advance(FAR_MS) == []
    assert told.last == {1: Verdict.KEY_ERROR}
    assert shaper.statistics() == {Verdict.KEY_ERROR: 1}
    assert shaper.last_error is not None
    assert "payload.room" in shaper.last_error


# maxAge and active


def test_an_event_that_is_too_old_is_not_run_for() -> None:
    shaper, told = made(shaping(maxAge="1m"))
    for seq, age_ms in enumerate((0, 60_000, 60_001, -5)):
        shaper.offer(at(seq, 1_000_000, timestamp=1_000_000 - age_ms), 1_000_000)
    # It is the wall clock that counts: this one came in time, and was looked at too late.
    shaper.offer(at(4, 1_000_000), 1_060_001)
    assert told.last == {
        0: Verdict.RUN, 1: Verdict.RUN, 2: Verdict.EXPIRED, 3: Verdict.RUN, 4: Verdict.EXPIRED,
    }  # fmt: skip


def test_an_event_that_is_refused_by_one_stage_is_not_seen_by_the_next() -> None:
    night = 3 * HOUR_MS
    keys = {"maxAge": "1m", "active": {"hours": "08:00-18:00", "timeZone": "UTC"}, "dedupe": {"within": "20h"}}
    shaper, told = made(shaping(**keys))
    shaper.offer(at(1, night + 1, timestamp=0), night + 1)
    shaper.offer(at(2, night + 2), night + 2)
    shaper.offer(at(3, 9 * HOUR_MS), 9 * HOUR_MS)
    shaper.offer(at(4, 9 * HOUR_MS + 1), 9 * HOUR_MS + 1)
    verdicts = [Verdict.EXPIRED, Verdict.INACTIVE, Verdict.RUN, Verdict.DUPLICATE]
    assert list(told.last.values()) == verdicts


BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("active", "yes", "no"),
    [
        ({"hours": "08:00-18:00"}, ["2026-11-20T08:00:00", "2026-11-21T17:59:59"],
         ["2026-11-20T07:59:59", "2026-11-20T18:00:00"]),
        ({"hours": "8:00-18:00", "weekdays": "mon-fri"}, ["2026-11-20T08:00"], ["2026-11-21T08:00"]),
        ({"weekdays": "Sat-Mon"}, ["2026-11-21T00:00", "2026-11-22T12:00", "2026-11-23T23:59:59"],
         ["2026-11-20T23:59:59", "2026-11-24T00:00"]),
        ({"weekdays": ["mon-tue", "sun"]}, ["2026-11-22T12:00", "2026-11-24T12:00"], ["2026-11-25T12:00"]),
        # Over midnight: the night that begins on Friday ends on Saturday, the one that begins on Sunday is none of it.
        ({"hours": "22:00-06:00", "weekdays": "fri"}, ["2026-11-20T22:00", "2026-11-21T05:59:59"],
         ["2026-11-20T05:00", "2026-11-21T06:00", "2026-11-21T22:00"]),
        ({"hours": "22:00-06:00", "weekdays": "sun"}, ["2026-11-23T01:00"], ["2026-11-22T01:00"]),
        ({"hours": "22:00-24:00"}, ["2026-11-20T23:59:59"], ["2026-11-21T00:00"]),
        ({"hours": ["08:00-09:00", "00:00-00:30"]}, ["2026-11-20T00:29:59", "2026-11-20T08:30"], ["2026-11-20T00:30"]),
        # Summer time begins: the clock goes from 02:00 to 03:00.
        ({"hours": "01:30-03:30"}, ["2026-03-29T01:30", "2026-03-29T03:29"], ["2026-03-29T03:30"]),
        # It ends: there are two hours from 02:00 to 03:00, and both count.
        ({"hours": "02:00-03:00"}, ["2026-10-25T02:30+02:00", "2026-10-25T02:30+01:00"], ["2026-10-25T03:00+01:00"]),
    ],
)  # fmt: skip
def test_a_rule_is_awake_at_the_hours_and_on_the_days_it_says(
    active: dict[str, Any], yes: list[str], no: list[str]
) -> None:
    configured = shaping(active={**active, "timeZone": "Europe/Berlin"}).active
    assert configured is not None

    def covers(text: str) -> bool:
        time = datetime.fromisoformat(text)
        return configured.covers(int((time if time.tzinfo else time.replace(tzinfo=BERLIN)).timestamp() * 1000))

    assert [text for text in yes if not covers(text)] == []
    assert [text for text in no if covers(text)] == []


@given(
    st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),
    st.integers(0, 1439),
    st.integers(0, 1440),
    st.sets(st.integers(0, 6), min_size=1),
    st.sampled_from(["Europe/Berlin", "UTC", "Asia/Kolkata", "America/St_Johns", "Australia/Lord_Howe"]),
)
def test_active_is_what_counting_the_minutes_of_the_span_gives(
    time: datetime, start: int, end: int, days: set[int], zone: str
) -> None:
    assume(start != end)
    names = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    hours = f"{start // 60:02}:{start % 60:02}-{end // 60:02}:{end % 60:02}"
    configured = shaping(active={"hours": hours, "weekdays": [names[day] for day in days], "timeZone": zone}).active
    assert configured is not None
    length = end - start if end > start else end - start + 1440
    within = {(day * 1440 + start + minute) % 10_080 for day in days for minute in range(length)}
    local = time.astimezone(ZoneInfo(zone))
    minute = local.weekday() * 1440 + local.hour * 60 + local.minute
    assert configured.covers(int(time.timestamp() * 1000)) == (minute in within)


def test_without_a_zone_the_machines_clock_is_meant() -> None:
    configured = shaping(active={"hours": "08:00-18:00"}).active
    assert configured is not None
    for hour in range(24):
        time = datetime(2026, 6, 1, hour)  # the machine's own time
        assert configured.covers(int(time.timestamp() * 1000)) == (8 <= hour < 18)


@given(st.text(max_size=12))
def test_reading_hours_and_days_fails_only_as_it_is_said_to(text: str) -> None:
    for read in (parse_hours, parse_days):
        message = ()
        try:
            read(text)
        except ValueError as error:
            message = error.args
        assert len(message) in (0, 2)


# Each stage against a model

Steps = list[tuple[int, str]]
"""Pauses before events, and their keys."""


def steps(longest_ms: int) -> st.SearchStrategy[Steps]:
    return st.lists(st.tuples(st.integers(0, longest_ms), st.sampled_from("ab")), max_size=40)


def entries(steps: Steps) -> list[Entry]:
    made, now_ms = [], 0
    for seq, (pause_ms, key) in enumerate(steps):
        now_ms += pause_ms
        made.append(at(seq, now_ms, key))
    return made


def key_of(entry: Entry) -> str:
    return entry.event.payload["k"]


@given(steps(6), st.integers(1, 4), st.integers(1, 12))
def test_throttle_never_runs_more_than_its_limit_and_never_less_than_it_may(
    steps: Steps, limit: int, per_ms: int
) -> None:
    shaper, told = made(shaping(throttle={"limit": limit, "per": f"{per_ms}ms", "key": KEY}))
    let: dict[str, list[int]] = {"a": [], "b": []}
    for entry in entries(steps):
        times = let[key_of(entry)]
        recent = [time for time in times if entry.at_ms - per_ms < time]
        runs = shaper.offer(entry, entry.at_ms)
        # Suppressed exactly when the span that ends here was used up.
        assert bool(runs) == (len(recent) < limit)
        assert told.last[entry.seq] == (Verdict.RUN if runs else Verdict.THROTTLED)
        if runs:
            times.append(entry.at_ms)
    for times in let.values():
        # No span of `per`, however it is laid, has more: the run `limit` places later is at least `per` away.
        assert all(later - time >= per_ms for time, later in zip(times, times[limit:], strict=False))


@given(steps(6), st.integers(1, 12))
def test_dedupe_lets_a_key_through_once_from_each_that_was_let_through(steps: Steps, within_ms: int) -> None:
    shaper, told = made(shaping(dedupe={"within": f"{within_ms}ms", "key": KEY}))
    last: dict[str, int] = {}
    for entry in entries(steps):
        through = entry.at_ms - last.get(key_of(entry), -within_ms) >= within_ms
        if through:
            last[key_of(entry)] = entry.at_ms
        shaper.offer(entry, entry.at_ms)
        assert told.last[entry.seq] == (Verdict.RUN if through else Verdict.DUPLICATE)


@given(steps(6), st.integers(1, 12))
def test_debounce_runs_for_the_last_after_quiet(steps: Steps, for_ms: int) -> None:
    shaper, told = made(shaping(debounce={"for": f"{for_ms}ms", "key": KEY}))
    all_entries = entries(steps)
    runs = [run for entry in all_entries for run in shaper.offer(entry, entry.at_ms)] + shaper.advance(FAR_MS)
    expected = []
    for entry in all_entries:
        later = [other.at_ms for other in all_entries if other.seq > entry.seq and key_of(other) == key_of(entry)]
        if not later or later[0] >= entry.at_ms + for_ms:
            expected.append((entry.at_ms + for_ms, entry.seq))
    assert [(run.born_ms, run.entry.seq) for run in runs] == sorted(expected)
    kept = {seq for _, seq in expected}
    for entry in all_entries:
        assert told.last[entry.seq] == (Verdict.RUN if entry.seq in kept else Verdict.SUPERSEDED)
    assert (shaper.held, shaper.due_ms) == (0, None)


@given(steps(6), st.integers(1, 12), st.integers(1, 4))
def test_batch_runs_for_all_of_a_while(steps: Steps, within_ms: int, most: int) -> None:
    shaper, told = made(shaping(batch={"within": f"{within_ms}ms", "max": most, "key": KEY}))
    all_entries = entries(steps)
    runs = [run for entry in all_entries for run in shaper.offer(entry, entry.at_ms)] + shaper.advance(FAR_MS)
    expected = []
    for key in "ab":
        rest = [entry for entry in all_entries if key_of(entry) == key]
        while rest:
            due_ms = rest[0].at_ms + within_ms
            batch = [entry for entry in rest if entry.at_ms < due_ms][:most]
            born_ms = batch[-1].at_ms if len(batch) == most else due_ms
            expected.append((born_ms, tuple(entry.seq for entry in batch)))
            rest = rest[len(batch) :]
    assert sorted((run.born_ms, *ran([run])) for run in runs) == sorted(expected)
    assert [run.born_ms for run in runs] == sorted(run.born_ms for run in runs)
    assert set(told.last.values()) <= {Verdict.RUN}


@given(
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from("ab"), st.sampled_from(["A", "B", "AB"])), max_size=40),
    st.integers(1, 12),
)
def test_absence_runs_when_nobody_answers_in_time(steps: list[tuple[int, str, str]], within_ms: int) -> None:
    shaper, told = made(shaping(absence={"of": "b", "within": f"{within_ms}ms", "key": KEY}))
    runs, expected, answered, ignored = list[Run](), [], [], []
    waiting: dict[str, Entry] = {}
    now_ms = 0
    for seq, (pause_ms, key, kind) in enumerate(steps):
        now_ms += pause_ms
        entry = at(seq, now_ms, key)
        if "B" in kind:
            runs += shaper.answer(entry)
        if "A" in kind:
            runs += shaper.offer(entry, now_ms)
        if key in waiting and waiting[key].at_ms + within_ms <= now_ms:
            expected.append((waiting[key].at_ms + within_ms, waiting.pop(key).seq))
        if "B" in kind and key in waiting:
            answered.append(waiting.pop(key).seq)
        if "A" in kind:
            if key in waiting:
                ignored.append(seq)
            else:
                waiting[key] = entry
    expected += [(entry.at_ms + within_ms, entry.seq) for entry in waiting.values()]
    runs += shaper.advance(FAR_MS)
    assert [(run.born_ms, run.entry.seq) for run in runs] == sorted(expected)
    assert told.last == (
        {seq: Verdict.RUN for _, seq in expected}
        | dict.fromkeys(answered, Verdict.ANSWERED)
        | dict.fromkeys(ignored, Verdict.DUPLICATE)
    )


@given(st.lists(st.integers(0, HOUR_MS // 2), max_size=30), st.integers(1, 4))
def test_a_budget_gathers_into_one_run_what_it_does_not_allow(pauses: list[int], limit: int) -> None:
    shaper, told = made(shaping(Budget(limit, None)))
    runs, expected = list[Run](), list[tuple[int, tuple[int, ...]]]()
    times, digest, now_ms = list[int](), list[int](), 0

    def room_ms() -> int:
        return times[-limit] + HOUR_MS if len(times) >= limit else 0

    for seq, pause_ms in enumerate(pauses):
        now_ms += pause_ms
        if digest and room_ms() <= now_ms:
            times.append(room_ms())
            expected.append((times[-1], tuple(digest)))
            digest = []
        if digest or room_ms() > now_ms:
            digest.append(seq)
        else:
            times.append(now_ms)
            expected.append((now_ms, (seq,)))
        runs += shaper.offer(at(seq, now_ms), now_ms)
        assert shaper.held == len(digest)
        assert shaper.due_ms == (room_ms() if digest else None)
    if digest:
        expected.append((room_ms(), tuple(digest)))
    runs += shaper.advance(FAR_MS)
    assert [(run.born_ms, *ran([run])) for run in runs] == expected
    assert set(told.last.values()) <= {Verdict.RUN}
    assert all(later - time >= HOUR_MS for time, later in zip(times, times[limit:], strict=False))


def test_tokens_that_were_used_up_hold_runs_back_until_they_are_an_hour_old() -> None:
    shaper, told = made(shaping(Budget(None, 100)))
    assert ran(shaper.offer(at(1, 0), 0)) == [(1,)]
    shaper.spend(60, 5_000)
    assert ran(shaper.offer(at(2, 6_000), 6_000)) == [(2,)]
    shaper.spend(60, 61_000)
    assert shaper.offer(at(3, 70_000), 70_000) == []
    assert shaper.offer(at(4, 80_000), 80_000) == []
    assert (shaper.held, shaper.due_ms) == (2, HOUR_MS + 60_000)
    assert shaper.advance(HOUR_MS + 59_999) == []
    (run,) = shaper.advance(HOUR_MS + 60_000)
    assert (ran([run]), run.born_ms, run.left_out) == ([(3, 4)], HOUR_MS + 60_000, 0)
    # What is spent at once by far too much is waited for until it is gone.
    shaper.spend(1_000, HOUR_MS + 60_000)
    assert shaper.offer(at(5, HOUR_MS + 70_000), 0) == []
    assert shaper.due_ms == 2 * HOUR_MS + 120_000
    assert [verdict for seq, verdict in told.verdicts if seq == 3] == [Verdict.HELD, Verdict.RUN]


def test_throttle_and_budget_see_what_was_gathered_as_one_run() -> None:
    keys = {"batch": {"within": "10ms"}, "throttle": {"per": "15ms", "key": KEY}}
    shaper, told = made(shaping(**keys))
    runs = []
    for seq, key in enumerate("xay" + "za" + "w"):
        runs += shaper.offer(at(seq, seq * 5, key), 0)
    runs += shaper.advance(FAR_MS)
    # 0..9: seqs 0 1, of key a; 10..19: 2 3, of key z; 20..29: 4 5, of key w.
    assert ran(runs) == [(0, 1), (2, 3), (4, 5)]
    again, told = made(shaping(batch={"within": "10ms"}, throttle={"per": "15ms"}))
    runs = [run for seq in range(6) for run in again.offer(at(seq, seq * 5), 0)] + again.advance(FAR_MS)
    assert ran(runs) == [(0, 1), (4, 5)]
    assert (told.last[2], told.last[3]) == (Verdict.THROTTLED, Verdict.THROTTLED)


# All together

CONFIGS: list[tuple[dict[str, Any], Budget | None]] = [
    ({**gate, **hold, **rate}, budget)
    for gate in ({}, {"dedupe": {"within": "4ms", "key": "{{ payload.k }}"}})
    for hold in (
        {},
        {"debounce": {"for": "5ms", "key": KEY}},
        {"batch": {"within": "7ms", "max": 3, "key": KEY}},
        {"absence": {"of": "b", "within": "5ms", "key": KEY}},
    )
    for rate in ({}, {"throttle": {"limit": 2, "per": "9ms"}}, {"throttle": {"per": "9ms", "key": KEY}})
    for budget in (None, Budget(2, None), Budget(3, 100))
]
SMALL = Bounds(keys=2, times=3, events=3, bytes=400, digest_events=4, digest_bytes=500)

Happening = tuple[str, int, str, int]
"""What happens: its kind, the pause before it, the event's key, tokens."""

HAPPENINGS = st.lists(
    st.tuples(
        st.sampled_from(["offer", "offer", "offer", "answer", "both", "spend"]),
        st.one_of(st.integers(0, 8), st.sampled_from([HOUR_MS // 2, HOUR_MS, -3, -HOUR_MS])),
        st.sampled_from("abcd"),
        st.integers(0, 60),
    ),
    max_size=30,
)


class Story:
    """A shaper that lives through what happens; it can be exchanged at any point."""

    def __init__(self, shape: Shaping, bounds: Bounds | None) -> None:
        self.shape, self.bounds, self.told = shape, bounds, Told()
        self.shaper = Shaper(shape, self.told, bounds=bounds)
        self.runs: list[Run] = []
        self.seen: dict[int, Entry] = {}
        self.offered: set[int] = set()
        self.clock_ms = 2 * HOUR_MS

    def happen(self, happening: Happening) -> None:
        kind, pause_ms, key, tokens = happening
        self.clock_ms += pause_ms
        if kind == "spend":
            self.shaper.spend(tokens, self.clock_ms)
            return
        entry = at(len(self.seen), self.clock_ms, key)
        self.seen[entry.seq] = entry
        if kind in ("answer", "both"):
            self.runs += self.shaper.answer(entry)
        if kind != "answer":
            self.offered.add(entry.seq)
            self.runs += self.shaper.offer(entry, self.clock_ms)

    def restart(self) -> None:
        state = json.loads(json.dumps(self.shaper.dump()))
        self.shaper = Shaper(self.shape, self.told, bounds=self.bounds)
        self.shaper.load(state, self.seen.get)

    def edit(self) -> None:
        self.shaper = Shaper(self.shape, self.told, self.shaper, self.bounds)

    def end(self) -> None:
        self.runs += self.shaper.advance(self.clock_ms + FAR_MS)

    @property
    def outcome(self) -> object:
        return self.runs, self.told.verdicts


def lived(
    config: tuple[dict[str, Any], Budget | None],
    happenings: Sequence[Happening],
    bounds: Bounds | None,
    between: Callable[[Story, int], None] = lambda story, index: None,
) -> Story:
    keys, budget = config
    story = Story(shaping(budget, **keys), bounds)
    for index, happening in enumerate(happenings):
        story.happen(happening)
        between(story, index)
    story.end()
    return story


@given(st.sampled_from(CONFIGS), HAPPENINGS, st.sampled_from([None, SMALL]), st.sets(st.integers(0, 29)))
def test_a_state_that_was_dumped_and_loaded_goes_on_as_if_nothing_had_been(
    config: tuple[dict[str, Any], Budget | None], happenings: list[Happening], bounds: Bounds | None, points: set[int]
) -> None:
    def restart(story: Story, index: int) -> None:
        if index in points:
            held, due_ms = story.shaper.held, story.shaper.due_ms
            story.restart()
            assert (story.shaper.held, story.shaper.due_ms) == (held, due_ms)

    assert lived(config, happenings, bounds, restart).outcome == lived(config, happenings, bounds).outcome


@given(st.sampled_from(CONFIGS), HAPPENINGS, st.sampled_from([None, SMALL]), st.sets(st.integers(0, 29)))
def test_an_edit_that_leaves_the_shaping_alone_changes_nothing_of_it(
    config: tuple[dict[str, Any], Budget | None], happenings: list[Happening], bounds: Bounds | None, points: set[int]
) -> None:
    def edit(story: Story, index: int) -> None:
        if index in points:
            before = story.shaper
            story.edit()
            assert (before.held, before.flush()) == (0, [])

    edited, untouched = lived(config, happenings, bounds, edit), lived(config, happenings, bounds)
    assert edited.outcome == untouched.outcome
    assert edited.shaper.statistics() == untouched.shaper.statistics()


FORWARD = HAPPENINGS.map(lambda told: [(kind, abs(pause_ms), key, 0) for kind, pause_ms, key, _ in told])


@given(st.sampled_from(CONFIGS), FORWARD, st.sampled_from([None, SMALL]), st.data())
def test_looking_at_the_clock_more_often_changes_nothing(
    config: tuple[dict[str, Any], Budget | None],
    happenings: list[Happening],
    bounds: Bounds | None,
    data: st.DataObject,
) -> None:
    pauses = [pause_ms for _, pause_ms, _, _ in happenings[1:]] + [FAR_MS]

    def advance(story: Story, index: int) -> None:
        for offset_ms in sorted(data.draw(st.lists(st.integers(-5, pauses[index]), max_size=3))):
            story.runs += story.shaper.advance(story.clock_ms + offset_ms)

    assert lived(config, happenings, bounds, advance).outcome == lived(config, happenings, bounds).outcome


@given(st.sampled_from(CONFIGS), HAPPENINGS, st.sampled_from([None, SMALL]))
def test_every_event_ends_in_one_way_and_runs_at_most_once(
    config: tuple[dict[str, Any], Budget | None], happenings: list[Happening], bounds: Bounds | None
) -> None:
    def look(story: Story, index: int) -> None:
        shaper = story.shaper
        waiting = sum(verdict is Verdict.HELD for verdict in story.told.last.values())
        assert shaper.held == waiting
        assert (shaper.due_ms is None) == (waiting == 0)
        if bounds is not None:
            assert waiting <= bounds.events + bounds.digest_events
            assert all(
                len(shaper.dump().get(name, {"keys": ()})["keys"]) <= bounds.keys for name in ("dedupe", "throttle")
            )

    story = lived(config, happenings, bounds, look)
    final = story.told.last
    assert set(final) == story.offered
    assert Verdict.HELD not in final.values()
    in_runs = [entry.seq for run in story.runs for entry in run.entries]
    assert sorted(in_runs) == sorted(seq for seq, verdict in final.items() if verdict is Verdict.RUN)
    assert sum(run.left_out for run in story.runs) == sum(
        verdict is Verdict.OVERFLOW for verdict in final.values()
    ) or ("absence" in config[0])
    counted = Counter(verdict for verdict in final.values() if verdict is not Verdict.RUN)
    assert story.shaper.statistics() == counted
    for seq in story.offered:
        said = [verdict for number, verdict in story.told.verdicts if number == seq]
        assert len(said) <= 2
        assert len(said) == 1 or said[0] is Verdict.HELD


def test_a_heartbeat_that_ended_a_wait_begins_the_next_one_whatever_dedupe_says() -> None:
    shaper, told = made(shaping(dedupe={"within": "1h"}, absence={"of": "t", "within": "10ms"}))
    for seq in range(5):
        entry = at(seq, seq * 5)
        assert shaper.answer(entry) + shaper.offer(entry, 0) == []
    (run,) = shaper.advance(FAR_MS)
    assert (run.entry.seq, run.born_ms) == (4, 30)
    # Nothing was waited for when this one came.
    late = at(5, 100)
    assert shaper.answer(late) + shaper.offer(late, 0) == []
    assert told.last[5] is Verdict.DUPLICATE


# Bounds


def test_throttle_forgets_the_key_that_ran_the_longest_ago() -> None:
    shaper, told = made(shaping(throttle={"per": "1h", "key": KEY}), bounds=Bounds(keys=2))
    for seq, key in enumerate("abacab"):
        shaper.offer(at(seq, seq, key), seq)
    # c drives a out, which runs again and drives b out.
    assert [told.last[seq] for seq in range(6)] == [
        Verdict.RUN, Verdict.RUN, Verdict.THROTTLED, Verdict.RUN, Verdict.RUN, Verdict.RUN,
    ]  # fmt: skip


def test_running_again_keeps_a_key_from_being_forgotten() -> None:
    rate = Rate(limit=2, per_ms=1000, max_keys=2, max_times=100)
    assert [rate.admits(key, number) for number, key in enumerate("abac")] == [True] * 4
    assert [rate.admits("a", 4), [key for key, _ in rate.dump(4)]] == [False, ["a", "c"]]


def test_only_as_much_is_forgotten_as_must_be() -> None:
    rate = Rate(limit=1, per_ms=1000, max_keys=100, max_times=3)
    assert all(rate.admits(key, number) for number, key in enumerate("abcdef"))
    assert [key for key, _ in rate.dump(6)] == ["d", "e", "f"]


@given(steps(6), st.integers(1, 3), st.integers(1, 12))
def test_with_too_many_keys_too_much_runs_but_never_too_little(steps: Steps, limit: int, per_ms: int) -> None:
    keys = {"throttle": {"limit": limit, "per": f"{per_ms}ms", "key": KEY}}
    narrow, _ = made(shaping(**keys), bounds=Bounds(keys=1, times=2))
    let: dict[str, list[int]] = {"a": [], "b": []}
    for entry in entries(steps):
        times = let[key_of(entry)]
        recent = [time for time in times if entry.at_ms - per_ms < time]
        if narrow.offer(entry, entry.at_ms):
            times.append(entry.at_ms)
        else:
            assert len(recent) >= limit


def test_the_times_that_are_remembered_are_bounded_too() -> None:
    rate = Rate(limit=3, per_ms=1000, max_keys=10, max_times=5)
    admitted = [rate.admits(key, number) for number, key in enumerate(["a", "a", "a", "a", "b", "b", "b", "a"])]
    assert admitted == [True, True, True, False, True, True, True, True]
    assert sum(len(times) for _, times in rate.dump(7)) <= 5


def test_what_is_over_is_not_remembered() -> None:
    rate = Rate(limit=1, per_ms=10, max_keys=1000, max_times=1000)
    for number in range(100):
        assert rate.admits(str(number), number)
    assert len(rate) == 10
    assert [key for key, _ in rate.dump(105)] == ["96", "97", "98", "99"]


def test_debounce_without_room_lets_go_early_what_is_due_first() -> None:
    shaper, _ = made(shaping(debounce={"for": "1m", "key": KEY}), bounds=Bounds(events=2))
    assert shaper.offer(at(1, 0, "a"), 0) == []
    assert shaper.offer(at(2, 1, "b"), 1) == []
    assert shaper.offer(at(3, 2, "a"), 2) == []
    (run,) = shaper.offer(at(4, 3, "c"), 3)
    assert (run.entry.seq, run.born_ms) == (2, 3)
    assert ran(shaper.advance(FAR_MS)) == [(3,), (4,)]


def test_batch_without_room_lets_go_early_what_is_due_first() -> None:
    big = "x" * 1000
    shaper, _ = made(shaping(batch={"within": "1m", "key": KEY}), bounds=Bounds(bytes=4000))
    runs = [shaper.offer(at(seq, seq, key, big=big), seq) for seq, key in enumerate("aabac")]
    assert [ran(run) for run in runs] == [[], [], [], [(0, 1)], []]
    assert shaper.held == 3


def test_absence_without_room_does_not_watch_further_ones() -> None:
    shaper, told = made(shaping(absence={"of": "b", "within": "1m", "key": KEY}), bounds=Bounds(events=2))
    for seq, key in enumerate("abcd"):
        assert shaper.offer(at(seq, seq, key), seq) == []
    assert told.last == {0: Verdict.HELD, 1: Verdict.HELD, 2: Verdict.OVERFLOW, 3: Verdict.OVERFLOW}
    shaper.answer(at(4, 4, "a"))
    shaper.offer(at(5, 5, "c"), 5)
    assert ran(shaper.advance(FAR_MS)) == [(1,), (5,)]


def test_a_digest_keeps_the_newest_and_counts_the_others() -> None:
    shaper, _ = made(shaping(Budget(1, None)), bounds=Bounds(digest_events=3))
    for seq in range(10):
        shaper.offer(at(seq, seq), seq)
    (run,) = shaper.advance(HOUR_MS)
    assert (ran([run]), run.left_out) == ([(7, 8, 9)], 6)
    assert shaper.statistics() == {Verdict.OVERFLOW: 6}


def test_an_event_larger_than_all_room_is_still_held() -> None:
    huge = at(1, 0, "a", text="x" * 5000)
    for keys in ({"debounce": {"for": "1m"}}, {"batch": {"within": "1m"}}):
        shaper, _ = made(shaping(**keys), bounds=Bounds(bytes=10))
        assert shaper.offer(huge, 0) == []
        assert ran(shaper.advance(FAR_MS)) == [(1,)]


# The clock


@given(st.lists(st.integers(0, 100), max_size=20))
def test_a_rules_time_never_goes_back_and_never_stands_still_for_long(clock: list[int]) -> None:
    timeline, times = Timeline(), []
    for clock_ms in clock:
        times.append(timeline.at(clock_ms))
        timeline.reach(times[-1])
    assert times == sorted(times)
    for (before, after), (time_before, time_after) in zip(pairwise(clock), pairwise(times), strict=True):
        assert time_after - time_before == max(0, after - before)


def test_a_clock_that_was_once_wrong_by_years_blocks_nothing() -> None:
    wrong, right = 20_000 * HOUR_MS, 10_000 * HOUR_MS
    shaper, _ = made(shaping(debounce={"for": "1m"}, throttle={"per": "1h"}))
    shaper.offer(at(1, wrong), wrong)
    assert shaper.offer(at(2, right), right) == []
    assert shaper.due_ms == right + 60_000
    (run,) = shaper.advance(right + 60_000)
    assert (run.entry.seq, run.born_ms) == (2, right + 60_000)
    shaper.offer(at(3, right + HOUR_MS), 0)
    assert ran(shaper.advance(right + 2 * HOUR_MS)) == [(3,)]


def test_a_clock_that_is_set_back_after_something_was_due_takes_no_time_away() -> None:
    shaper, _ = made(shaping(debounce={"for": "10ms"}, throttle={"per": "10ms"}))
    shaper.offer(at(1, 0), 0)
    assert ran(shaper.advance(10)) == [(1,)]
    shaper.offer(at(2, 5), 5)
    assert shaper.due_ms == 15
    assert ran(shaper.advance(15)) == [(2,)]


def test_what_is_due_when_a_digest_is_joins_it() -> None:
    shaper, _ = made(shaping(Budget(1, None), debounce={"for": "10ms"}))
    shaper.offer(at(1, 0), 0)
    assert ran(shaper.offer(at(2, 20), 20)) == [(1,)]
    assert shaper.offer(at(3, HOUR_MS), HOUR_MS) == []
    (run,) = shaper.advance(FAR_MS)
    assert (ran([run]), run.born_ms) == ([(2, 3)], HOUR_MS + 10)


def test_what_is_due_at_the_moment_of_an_event_is_let_go_before_it() -> None:
    shaper, _ = made(shaping(debounce={"for": "10ms"}))
    shaper.offer(at(1, 0), 0)
    assert ran(shaper.offer(at(2, 10), 10)) == [(1,)]
    assert shaper.advance(19) == []
    assert ran(shaper.advance(20)) == [(2,)]


def test_the_age_of_a_run_counts_from_its_event_or_from_when_it_was_due() -> None:
    shaper, _ = made(shaping(throttle={"per": "1ms"}))
    (run,) = shaper.offer(at(1, 100, timestamp=7), 100)
    assert run.born_ms == 7
    shaper, _ = made(shaping(debounce={"for": "10ms"}))
    shaper.offer(at(1, 100, timestamp=7), 100)
    (run,) = shaper.advance(FAR_MS)
    assert run.born_ms == 110


# A rule that is edited


def edited(old: dict[str, Any], new: dict[str, Any], *offered: Entry) -> tuple[Shaper, Told]:
    before, _ = made(shaping(**old))
    for entry in offered:
        assert before.offer(entry, entry.at_ms) == []
    after, told = made(shaping(**new), before)
    assert before.flush() == []
    return after, told


def test_what_a_stage_held_that_is_gone_is_run_for_at_once() -> None:
    after, told = edited({"batch": {"within": "1h"}}, {"throttle": {"per": "1s"}}, at(1, 0), at(2, 1))
    assert (after.held, after.due_ms) == (2, 1)
    assert ran(after.advance(1)) == [(1, 2)]
    assert told.last == {1: Verdict.RUN, 2: Verdict.RUN}


def test_what_a_stage_held_that_differs_passes_the_throttle_of_the_new_rule() -> None:
    old, new = (
        {"debounce": {"for": "1h", "key": KEY}},
        {"debounce": {"for": "2h", "key": KEY}, "throttle": {"per": "1m"}},
    )
    after, told = edited(old, new, at(1, 0, "a"), at(2, 1, "b"))
    assert ran(after.offer(at(3, 5, "c"), 5)) == [(1,)]
    assert told.last == {1: Verdict.RUN, 2: Verdict.THROTTLED, 3: Verdict.HELD}


def test_an_absence_that_is_edited_goes_on_being_waited_for() -> None:
    old = {"absence": {"of": "b", "within": "1h", "key": KEY}}
    after, told = edited(old, {"absence": {"of": "b", "within": "10ms", "key": KEY}}, at(1, 0, "a"), at(2, 5, "b"))
    assert after.due_ms == 10
    after.answer(at(3, 6, "a"))
    assert ran(after.advance(FAR_MS)) == [(2,)]
    assert told.last == {1: Verdict.ANSWERED, 2: Verdict.RUN}


def test_an_absence_that_nobody_waits_for_any_more_is_no_run() -> None:
    old = {"absence": {"of": "b", "within": "1h"}}
    after, told = edited(old, {"throttle": {"per": "1s"}}, at(1, 0))
    assert (after.held, after.due_ms, told.last) == (0, None, {1: Verdict.LOST})
    before, told = made(shaping(**old))
    before.offer(at(1, 0), 0)
    assert (before.flush(), told.last, before.held) == ([], {1: Verdict.LOST}, 0)


def test_a_throttle_that_is_as_before_remembers_its_runs() -> None:
    throttle = {"throttle": {"per": "1h"}}
    before, _ = made(shaping(**throttle))
    assert before.offer(at(1, 0), 0)
    same, _ = made(shaping(**throttle, maxAge="1h"), before)
    assert same.offer(at(2, 1), 1) == []
    other, _ = made(shaping(throttle={"per": "2h"}), same)
    assert other.offer(at(3, 2), 2)


def test_a_budget_that_is_edited_does_not_forget_what_was_used() -> None:
    before, _ = made(shaping(Budget(2, 100)))
    assert ran([*before.offer(at(1, 0), 0), *before.offer(at(2, 1), 1), *before.offer(at(3, 2), 2)]) == [(1,), (2,)]
    wider, _ = made(shaping(Budget(3, 100)), before)
    assert (wider.held, wider.due_ms) == (1, 2)
    assert ran(wider.advance(5)) == [(3,)]
    assert wider.offer(at(4, 6), 6) == []
    gone, _ = made(shaping(throttle={"per": "1s"}), wider)
    assert ran(gone.advance(6)) == [(4,)]


def test_giving_up_runs_for_everything_that_is_held() -> None:
    shaper, told = made(shaping(Budget(1, None), debounce={"for": "1m", "key": KEY}))
    for seq, time in enumerate((0, 0, 60_001)):
        shaper.offer(at(seq, time, seq), time)
    assert shaper.held == 2
    assert ran(shaper.flush()) == [(1,), (2,)]
    assert (shaper.held, shaper.due_ms) == (0, None)
    assert set(told.last.values()) == {Verdict.RUN}


# A state that is kept


def test_what_the_journal_no_longer_has_is_lost_and_said() -> None:
    before, _ = made(shaping(batch={"within": "1h"}))
    first = at(1, 0)
    before.offer(first, 0)
    before.offer(at(2, 1), 1)
    after, told = made(shaping(batch={"within": "1h"}))
    after.load(before.dump(), {1: first}.get)
    assert (told.last, after.held) == ({2: Verdict.LOST}, 1)
    assert after.statistics() == {Verdict.LOST: 1}


def test_a_state_of_another_version_is_refused() -> None:
    shaper, _ = made(shaping(throttle={"per": "1s"}))
    state = shaper.dump()
    state["throttle"]["v"] = 99
    with pytest.raises(ValueError, match="throttle is of version 99"):
        shaper.load(state, {}.get)


def test_a_state_names_events_by_their_numbers_only() -> None:
    shaper, _ = made(shaping(Budget(1, None), batch={"within": "1m", "max": 2}))
    for seq in range(5):
        shaper.offer(at(seq, seq, "k", secret="x" * 1000), 0)
    assert "xxx" not in json.dumps(shaper.dump())
    assert len(json.dumps(shaper.dump())) < 500


# The documentation

DOCUMENT = (Path(__file__).parent.parent / "docs" / "rules.md").read_text()


def documented_timelines() -> list[tuple[str, str, str]]:
    rows = DOCUMENT.partition("| key | events | runs |")[2].partition("\n\n")[0].splitlines()[2:]
    return [(key.strip(" `"), told, runs) for row in rows for _, key, told, runs, _ in [row.split("|")]]


@pytest.mark.parametrize(("key", "told", "runs"), documented_timelines())
def test_documented_timelines_are_as_they_are_said_to_be(key: str, told: str, runs: str) -> None:
    shape = shaping(**json.loads(f"{{{key}}}"))
    shaper, _ = made(shape)
    found: list[Run] = []
    for word in told.split():
        kind, second = "b" if word.endswith("b") else "a", int(word.removesuffix("b"))
        entry = at(second, second * 1000)
        if shape.absence is not None and kind in shape.absence.on:
            found += shaper.answer(entry)
        if kind == "a":
            found += shaper.offer(entry, entry.at_ms)
    found += shaper.advance(FAR_MS)
    said = [f"{' '.join(map(str, *ran([run])))} at {run.born_ms // 1000}" for run in found]
    assert "; ".join(said) == runs.strip()


def test_the_documentation_shows_each_key_and_each_bound() -> None:
    timelines = " ".join(key for key, _, _ in documented_timelines())
    assert [key for key in KEYS if f"### `{key}`" not in DOCUMENT] == []
    assert [key for key in ("throttle", "dedupe", "debounce", "batch", "absence") if key not in timelines] == []
    bounds = Bounds()
    numbers = [bounds.keys, bounds.times, bounds.events, bounds.digest_events, MAX_LIMIT, BATCH]
    assert [number for number in numbers if f"{number:,}" not in DOCUMENT] == []
    assert (bounds.bytes, bounds.digest_bytes) == (16 * 2**20, 2**20)
    section = DOCUMENT.partition("## Shaping")[2].partition("## `{{")[0]
    told = {verdict for verdict in Verdict if f"`{verdict}`" in section}
    assert set(Verdict) - told == {Verdict.RUN, Verdict.HELD}
