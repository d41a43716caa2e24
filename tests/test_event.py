"""Whatever a source says becomes one well-formed `EnvEvent`, or is refused with a reason; fast ways change nothing."""

from __future__ import annotations

import copy
import json
import math
import re
import time
import uuid
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventhost.errors import EventRejected
from eventhost.event import (
    MAX_DEPTH,
    MAX_EVENT_BYTES,
    MAX_ID_LENGTH,
    MAX_TIMESTAMP,
    MAX_TYPE_LENGTH,
    SHALLOW_BYTES,
    UNMEASURED_BYTES,
    EnvEvent,
    OddEvent,
    RawEvent,
    SourceProfile,
    TypeGlobs,
    normalize,
    uuid7,
)
from eventhost.message import normalize_batch

DOOR = SourceProfile("door")
NOW_MS = 1_700_000_000_000


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC-2")  # POSIX has it the other way round: two hours east of Greenwich
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def raw(**said: Any) -> RawEvent:
    return RawEvent(**{"type": "door.opened", **said})


def nested(depth: int) -> dict[str, Any]:
    """An object that nests `depth` levels, itself included."""
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"inner": value}
    return value


# --- normalize: what is accepted ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "field", "expected"),
    [
        ({"id": "a"}, "id", "a"),
        ({"id": "x" * MAX_ID_LENGTH}, "id", "x" * MAX_ID_LENGTH),
        ({"id": 7}, "id", "7"),
        ({"id": 1.5}, "id", "1.5"),
        ({"id": -(2**63)}, "id", str(-(2**63))),
        ({"type": "x" * MAX_TYPE_LENGTH}, "type", "x" * MAX_TYPE_LENGTH),
        ({"type": "ünï.cödé ✓"}, "type", "ünï.cödé ✓"),
        ({}, "timestamp", NOW_MS),
        ({"timestamp": 0}, "timestamp", 0),
        ({"timestamp": -5}, "timestamp", -5),
        ({"timestamp": 1700.9}, "timestamp", 1700),
        ({"timestamp": MAX_TIMESTAMP}, "timestamp", MAX_TIMESTAMP),
        ({"timestamp": "1970-01-01T00:00:01Z"}, "timestamp", 1000),
        ({"timestamp": "1970-01-01T00:00:01.005+00:00"}, "timestamp", 1005),
        ({"timestamp": "1970-01-01T02:00:00.001+02:00"}, "timestamp", 1),
        ({"timestamp": "1969-12-31T23:59:59.999Z"}, "timestamp", -1),
        ({"timestamp": "9999-12-31T23:59:59.999Z"}, "timestamp", 253402300799999),
        ({"timestamp": "0001-01-01T00:00:00Z"}, "timestamp", -62135596800000),
        ({"timestamp": "1970-01-01T02:00:01"}, "timestamp", 1000),  # the machine's own time
        ({"timestamp": "1970-01-02"}, "timestamp", 22 * 3_600_000),
        ({"timestamp": "19700101T020001"}, "timestamp", 1000),
        ({}, "payload", {}),
        ({"payload": {"a": [1, None]}}, "payload", {"a": [1, None]}),
        ({"payload": "text"}, "payload", {"value": "text"}),
        ({"payload": 0}, "payload", {"value": 0}),
        ({"payload": False}, "payload", {"value": False}),
        ({"payload": []}, "payload", {"value": []}),
        ({"payload": nested(MAX_DEPTH)}, "payload", nested(MAX_DEPTH)),
        ({}, "metadata", {"source": "door", "source_name": "door"}),
        ({"metadata": {"k": 1}}, "metadata", {"k": 1, "source": "door", "source_name": "door"}),
        ({"metadata": {"source": "lobby"}}, "metadata", {"source": "lobby", "source_name": "door"}),
        ({"metadata": {"source_name": "bank"}}, "metadata", {"source": "door", "source_name": "door"}),
        ({"metadata": {"source_name": {"a": 1}}}, "metadata", {"source": "door", "source_name": "door"}),
    ],
)
def test_what_a_source_may_say(utc: None, said: dict[str, Any], field: str, expected: object) -> None:
    assert getattr(normalize(raw(**said), DOOR, now_ms=NOW_MS), field) == expected


def test_an_event_without_a_time_happened_now() -> None:
    before = int(time.time() * 1000)
    assert before <= normalize(raw(), DOOR).timestamp <= int(time.time() * 1000)


@pytest.mark.parametrize("said", [None, ""])
def test_an_event_without_an_id_gets_a_time_ordered_one(said: str | None) -> None:
    ids = {normalize(raw(id=said), DOOR).id for _ in range(3)}
    assert len(ids) == 3
    assert {uuid.UUID(text).version for text in ids} == {7}


def test_configured_metadata_lies_under_what_the_source_said() -> None:
    profile = SourceProfile("door", metadata={"room": "hall", "floor": 1, "source": "lobby", "source_name": "bank"})
    event = normalize(raw(metadata={"floor": 2}), profile)
    assert event.metadata == {"room": "hall", "floor": 2, "source": "lobby", "source_name": "door"}
    assert profile.metadata["floor"] == 1


# --- normalize: what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"type": None}, "type: a non-empty string is required, got nothing"),
        ({"type": ""}, "type: a non-empty string is required, got an empty string"),
        ({"type": 5}, "type: a non-empty string is required, got a number"),
        ({"type": ["a"]}, "type: a non-empty string is required, got a list"),
        ({"type": "x" * (MAX_TYPE_LENGTH + 1)}, "type: 257 characters, at most 256 are accepted"),
        ({"type": "host.started"}, "'host.started' is the host's own; name it in eventTypes"),
        ({"id": True}, "id: a string is required, got a boolean"),
        ({"id": {"a": 1}}, "id: a string is required, got an object"),
        ({"id": "x" * (MAX_ID_LENGTH + 1)}, "id: 513 characters, at most 512 are accepted"),
        ({"id": 2**64}, "id: a number of at most 64 bits"),
        ({"id": 10**5000}, "id: a number of at most 64 bits"),
        ({"id": math.nan}, "id: a number of at most 64 bits"),
        ({"timestamp": True}, "timestamp: milliseconds or ISO 8601 is required, got a boolean"),
        ({"timestamp": []}, "timestamp: milliseconds or ISO 8601 is required, got a list"),
        ({"timestamp": "yesterday"}, "timestamp: 'yesterday' is neither milliseconds nor ISO 8601"),
        ({"timestamp": ""}, "timestamp: '' is neither milliseconds nor ISO 8601"),
        ({"timestamp": "0001-01-01"}, "timestamp: '0001-01-01' is neither"),  # before the year 1, in this time zone
        ({"timestamp": MAX_TIMESTAMP + 1}, "is not in milliseconds since 1970"),
        ({"timestamp": -MAX_TIMESTAMP - 1}, "is not in milliseconds since 1970"),
        ({"timestamp": 1e16}, "is not in milliseconds since 1970"),
        ({"timestamp": math.inf}, "timestamp: milliseconds or ISO 8601 is required"),
        ({"timestamp": math.nan}, "timestamp: milliseconds or ISO 8601 is required"),
        ({"metadata": []}, "metadata: an object is required, got a list"),
        ({"metadata": "door"}, "metadata: an object is required, got a string"),
        ({"payload": nested(MAX_DEPTH + 1)}, f"nests deeper than {MAX_DEPTH} levels"),
        ({"metadata": nested(MAX_DEPTH + 1)}, f"nests deeper than {MAX_DEPTH} levels"),
        ({"payload": [nested(MAX_DEPTH)]}, f"nests deeper than {MAX_DEPTH} levels"),
        ({"payload": {"text": "x" * MAX_EVENT_BYTES}}, f"at most {MAX_EVENT_BYTES} are accepted"),
        ({"payload": {"text": "\ud800"}}, "holds what JSON cannot say"),
        ({"payload": {"object": object()}}, "holds what JSON cannot say"),
    ],
)
def test_what_a_source_may_not_say(utc: None, said: dict[str, Any], reason: str) -> None:
    with pytest.raises(EventRejected, match=re.escape(reason)):
        normalize(raw(**said), DOOR)


@pytest.mark.parametrize("value", [None, 1, "door.opened", [{"type": "door.opened"}], True])
def test_only_an_object_is_an_event(value: object) -> None:
    with pytest.raises(EventRejected, match="an event must be an object, got"):
        RawEvent.from_value(value)


def test_a_raw_event_keeps_apart_what_no_event_holds() -> None:
    assert RawEvent.from_value({"type": "a", "payload": None}) == RawEvent(type="a")
    assert RawEvent.from_value({"type": "a", "colour": "red"}) == OddEvent(type="a", more={"colour": "red"})
    assert normalize(OddEvent(type="a", id="7", more={"colour": "red"}), DOOR).payload == {}


def test_types_that_are_not_configured_are_refused_by_name() -> None:
    profile = SourceProfile("door", ("door.*", "bell"))
    assert normalize(raw(type="bell"), profile).type == "bell"
    with pytest.raises(
        EventRejected, match=r"type 'bells' is not among the configured eventTypes \['door\.\*', 'bell'\]"
    ):
        normalize(raw(type="bells"), profile)


def test_a_source_says_the_hosts_own_types_only_when_it_is_configured_to() -> None:
    assert normalize(raw(type="host.note"), SourceProfile("door", ("host.*",))).type == "host.note"
    with pytest.raises(EventRejected, match="not among the configured"):
        normalize(raw(type="host.note"), SourceProfile("door", ("*",)))


# --- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number", ["1e15", "1E1", "1e9", "-1e-5", "123456789.25", "0.1", "1e16", "18446744073709551616"]
)
def test_text_of_the_size_that_is_not_measured_fits_however_it_is_written_again(number: str) -> None:
    start, end = b'{"type":"t","payload":[', b"]}"
    count = (UNMEASURED_BYTES - len(start) - len(end) + 1) // (len(number) + 1)
    text = start + b",".join([number.encode()] * count) + end
    assert UNMEASURED_BYTES - len(number) - 1 <= len(text) <= UNMEASURED_BYTES
    event = normalize(msgspec.json.decode(text, type=RawEvent), DOOR, at_most_bytes=len(text))
    assert len(event.to_json()) <= MAX_EVENT_BYTES


def test_text_that_may_be_too_large_is_measured_as_what_it_became() -> None:
    numbers = [1e15] * (MAX_EVENT_BYTES // 19)
    text = b'{"type":"t","payload":[' + b",".join([b"1e15"] * len(numbers)) + b"]}"
    assert len(text) < MAX_EVENT_BYTES
    with pytest.raises(EventRejected, match="at most 1048576 are accepted"):
        normalize(msgspec.json.decode(text, type=RawEvent), DOOR, at_most_bytes=len(text))


def test_no_text_that_counts_as_shallow_can_nest_too_deep() -> None:
    text = b"[" * (SHALLOW_BYTES // 2) + b"]" * (SHALLOW_BYTES // 2)
    value = msgspec.json.decode(text)
    normalize(raw(payload={"v": value[0]}), DOOR)


# --- batches --------------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
json_objects = st.dictionaries(st.sampled_from(["source", "source_name", "room", "a"]), json_values, max_size=3)
event_types = st.sampled_from(["door.opened", "door.closed", "bell", "host.started"])
anything = json_values | st.sampled_from(["", "a", "2024-05-01T10:00:00Z", 5, -1, MAX_TIMESTAMP + 1, "x" * 600])
raw_events = st.builds(
    RawEvent,
    type=event_types | anything,
    id=st.none() | st.text("ab", min_size=1, max_size=3) | anything,
    timestamp=st.none() | st.integers(-10, 10) | anything,
    metadata=st.none() | json_objects | anything,
    payload=anything,
)
whole_events = st.builds(
    EnvEvent,
    id=st.text("ab", min_size=1, max_size=3),
    type=event_types,
    timestamp=st.integers(-10, 10),
    metadata=json_objects,
    payload=st.dictionaries(st.text(max_size=6), json_values, max_size=3),
)
profiles = st.builds(
    SourceProfile,
    name=st.just("door"),
    event_types=st.sampled_from([(), ("door.*",), ("*",), ("bell", "host.*")]),
    metadata=st.just({}) | json_objects,
)


def one_by_one(
    raws: list[RawEvent | EnvEvent], profile: SourceProfile
) -> tuple[list[EnvEvent], list[tuple[int, str]], set[str]]:
    """The events, which were refused (by position) and why, and the ids of those without a time of their own."""
    events, refused, untimed = [], [], set()
    for position, item in enumerate(raws):
        try:
            event = normalize(item, profile)
        except EventRejected as error:
            refused.append((position, str(error)))
        else:
            events.append(event)
            if isinstance(item, RawEvent) and item.timestamp is None:
                untimed.add(event.id)
    return events, refused, untimed


@given(st.lists(whole_events, max_size=4) | st.lists(whole_events | raw_events, max_size=4), profiles)
def test_a_batch_becomes_what_its_events_become_one_by_one(
    raws: list[RawEvent | EnvEvent], profile: SourceProfile
) -> None:
    at_most = max((len(msgspec.json.encode(item)) for item in raws), default=0)
    twin = copy.deepcopy(raws)
    with patch("eventhost.event.time.time", return_value=1.5), patch("eventhost.event.uuid7", return_value="made"):
        batch = normalize_batch(raws, profile, at_most)
        events, refused, untimed = one_by_one(twin, profile)
    assert batch.events == events
    assert [(next(n for n, item in enumerate(raws) if item is one), str(why)) for one, why in batch.refused] == refused
    assert batch.untimed == untimed


@given(st.lists(whole_events | raw_events, min_size=1, max_size=4), profiles)
def test_no_source_speaks_in_anothers_name(raws: list[RawEvent | EnvEvent], profile: SourceProfile) -> None:
    for event in normalize_batch(raws, profile, MAX_EVENT_BYTES).events:
        assert event.metadata["source_name"] == "door"
        assert "source" in event.metadata


@given(raw_events | whole_events, profiles)
def test_what_was_accepted_is_the_same_after_json(item: RawEvent | EnvEvent, profile: SourceProfile) -> None:
    try:
        event = normalize(item, profile)
    except EventRejected:
        return
    text = event.to_json()
    assert EnvEvent.from_json(text) == event
    assert EnvEvent.from_json(text.decode()) == event
    assert json.loads(text) == {name: getattr(event, name) for name in EnvEvent.__struct_fields__}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b'{"id":"1","type":"t","timestamp":1.5,"metadata":{},"payload":{}}',
        b'{"id":"1","type":"t","timestamp":9007199254740993,"metadata":{},"payload":{}}',
        b'{"id":"1","type":"","timestamp":1,"metadata":{},"payload":{}}',
        b'{"id":"","type":"t","timestamp":1,"metadata":{},"payload":{}}',
        b'{"id":"1","type":"t","timestamp":1,"metadata":{},"payload":' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}",
    ],
)
def test_text_that_is_no_event_is_refused_as_such(text: bytes) -> None:
    with pytest.raises(EventRejected, match="not an event"):
        EnvEvent.from_json(text)


# --- ids ------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**48 - 1), st.binary(min_size=10, max_size=10))
def test_a_uuid7_says_its_version_variant_and_millisecond(milliseconds: int, random: bytes) -> None:
    with (
        patch("eventhost.event.time.time_ns", return_value=milliseconds * 1_000_000 + 999_999),
        patch("eventhost.event._random_bits", return_value=int.from_bytes(random, "big")),
    ):
        text = uuid7()
    value = uuid.UUID(text)
    assert str(value) == text
    assert value.version == 7
    assert value.variant == uuid.RFC_4122
    assert value.int >> 80 == milliseconds
    kept = (0xFFF << 64) | (2**62 - 1)  # the 74 random bits of RFC 9562
    assert value.int & kept == int.from_bytes(random, "big") & kept


@given(st.lists(st.integers(0, 2**48 - 1), unique=True, min_size=2, max_size=8))
def test_uuid7s_are_ordered_as_their_times_are(times: list[int]) -> None:
    made = []
    for milliseconds in times:
        with patch("eventhost.event.time.time_ns", return_value=milliseconds * 1_000_000):
            made.append(uuid7())
    assert sorted(made) == [text for _, text in sorted(zip(times, made, strict=True))]


def test_ids_of_one_millisecond_differ() -> None:
    with patch("eventhost.event.time.time_ns", return_value=1):
        assert len({uuid7() for _ in range(1000)}) == 1000


# --- type globs -----------------------------------------------------------------------------------------------------


def matches(glob: str, event_type: str) -> bool:
    """The definition, as plain as it can be said."""
    if event_type.startswith("host.") and not glob.startswith("host."):
        return False

    def rest(g: int, t: int) -> bool:
        if g == len(glob):
            return t == len(event_type)
        if glob[g] == "*":
            return rest(g + 1, t) or (t < len(event_type) and rest(g, t + 1))
        return t < len(event_type) and glob[g] == event_type[t] and rest(g + 1, t + 1)

    return rest(0, 0)


pieces = st.lists(
    st.sampled_from(["host.", "host", "*", "a", "b", ".", "[", "]", "[a]", "[!a]", "?", "\\", "\n", "(", "^"]),
    max_size=5,
)
texts = pieces.map("".join)


@given(st.lists(texts, max_size=3), st.lists(texts.map(lambda text: text.replace("*", "ab")) | texts, max_size=5))
def test_type_globs_match_what_their_definition_says(globs: list[str], types: list[str]) -> None:
    compiled = TypeGlobs(globs)
    for event_type in [*types, *types]:  # remembered answers are the same
        assert compiled[event_type] is any(matches(glob, event_type) for glob in globs), (globs, event_type)


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("*", ["a", "a.b", "host", "hosts.a"], ["host.started"]),
        ("host.*", ["host.started", "host."], ["host", "hosts.a", "a"]),
        ("host*", ["host", "hosts.a"], ["host.started"]),
        ("file.*", ["file.created", "file.", "file.a.b"], ["file", "files.a", "a.file.b", "FILE.a"]),
        ("*.created", ["file.created", ".created"], ["created", "host.created"]),
        ("a*b*c", ["abc", "axxbyyc", "abcbc"], ["ab", "acb"]),
        ("a[bc]?", ["a[bc]?"], ["abx", "ac!"]),
    ],
)
def test_type_globs_by_example(glob: str, yes: list[str], no: list[str]) -> None:
    globs = TypeGlobs([glob])
    assert [event_type for event_type in yes + no if globs[event_type]] == yes


def test_type_globs_remember_a_bounded_number_of_answers() -> None:
    globs = TypeGlobs(["a*"])
    for number in range(10_000):
        assert globs[f"a{number}"]
    assert len(globs) <= 4096
    assert globs["a0"]
    assert not globs["b0"]


def test_a_glob_of_many_stars_is_matched_in_linear_time() -> None:
    # With backtracking this would outlive the universe.
    assert not TypeGlobs(["*a" * 30 + "b"])["a" * MAX_TYPE_LENGTH]
