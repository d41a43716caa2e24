"""Backup, restore, export and import: what one host has kept another reads as the very same, once."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import anyio
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from eventhost.cli.app import app
from eventhost.cli.importing import Import, in_file
from eventhost.errors import ConfigError, EventhostError, EventRejected, HostRunning, JournalUnusable
from eventhost.event import MAX_EVENT_BYTES, EnvEvent
from eventhost.exchange import from_cloudevent, read_line, to_cloudevent
from eventhost.journal import Entry, open_journal

SLOW_S = 60
"""For a machine that does much else."""

NOW_MS = 1_700_000_000_000


def cli(*arguments: str | Path | int, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)), input=stdin)


def ok(*arguments: str | Path | int, stdin: bytes = b"") -> str:
    result = cli(*arguments, stdin=stdin)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def events(count: int, first: int = 1, event_type: str = "test.counted") -> list[EnvEvent]:
    metadata = {"source": "s", "source_name": "s"}
    return [EnvEvent(f"e{n}", event_type, n, dict(metadata), {"n": n}) for n in range(first, first + count)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "env"
    root.mkdir()
    (root / "config.jsonc").write_text("{}")
    return root


def keep(root: Path, *batches: Sequence[EnvEvent], trim: int = 0) -> None:
    async def run() -> None:
        journal, _ = await open_journal(root / "var" / "journal.db")
        for batch in batches:
            await journal.append(batch)
        if trim:
            journal.trim(trim)
            await journal.append(events(1, 9999))
        await journal.aclose()

    anyio.run(run)


def kept(root: Path) -> list[Entry]:
    async def run() -> list[Entry]:
        journal, loss = await open_journal(root / "var" / "journal.db")
        assert loss is None
        try:
            return list(await journal.read(0, 10**6))
        finally:
            await journal.aclose()

    return anyio.run(run)


def lines_of(values: Sequence[Any]) -> bytes:
    return b"".join(msgspec.json.encode(value) + b"\n" for value in values)


# CloudEvents

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
names = st.sampled_from([
    "zone", "subject", "dataschema", "datacontenttype", "data", "data_base64", "id", "type", "time", "specversion",
    "source", "source_name", "cloudevent", "eventhost", "Zone", "causation_id", "traceparent",
]) | texts  # fmt: skip
numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
plain = st.none() | st.booleans() | numbers | texts
values = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
spellings = st.fixed_dictionaries(
    {},
    optional={
        "data": st.sampled_from(["value", "none", "base64", "odd", 5]),
        "time": st.sampled_from(["2023-11-14T22:13:20.000Z", "2023-11-15T00:13:20+02:00", "never", 7]),
        "more": plain,
    },
)
types_of_content = st.sampled_from(["application/json", "text/xml", "application/vnd.x+json; a=b", "nonsense", 5])
metadatas = st.dictionaries(names, values, max_size=5).flatmap(
    lambda base: st.fixed_dictionaries(
        {},
        optional={
            "cloudevent": spellings,
            "datacontenttype": types_of_content,
            "source_name": texts | st.sampled_from(["door", "https://x.test/a?b#c", "1:2", "a b", "%zz"]),
            "source": texts,
            "dataschema": st.sampled_from(["https://x.test/schema", "schema", ""]),
        },
    ).map(lambda more: {**base, **more})
)
payloads = st.dictionaries(texts, values, max_size=3) | st.fixed_dictionaries(
    {"value": values | st.sampled_from(["aGVsbG8=", "%%"])}
)
any_events = st.builds(
    EnvEvent,
    id=texts.filter(bool),
    type=texts.filter(bool),
    timestamp=st.integers(-(2**53), 2**53) | st.just(1_700_000_000_000),
    metadata=metadatas,
    payload=payloads,
)


def canonical(event: EnvEvent) -> bytes:
    return msgspec.json.encode(event, order="deterministic")


@given(any_events)
@example(EnvEvent("1", "t", 0, {"n": 1.0, "b": True, "i": 1, "big": 2**31}, {"value": {"value": 1}}))
@example(EnvEvent("\x7f\x00", "\ufdd0", 2**53, {"source_name": "", "eventhost": "{}"}, {}))
def test_an_event_comes_back_from_a_cloudevent_as_it_was(event: EnvEvent) -> None:
    text = json.dumps(to_cloudevent(event))
    assert canonical(from_cloudevent(json.loads(text))) == canonical(event)


@given(any_events)
@example(EnvEvent("1", "t", 0, {"n": 2**31, "a": "\x85", "Zone": "\x7f", "subject": ""}, {}))
@example(EnvEvent("1", "t", 0, {"cloudevent": {"data": "none"}}, {"value": 1}))
@example(EnvEvent("1", "t", 0, {"cloudevent": {"data": "base64"}}, {"value": "%"}))
def test_whatever_the_event_what_is_said_is_a_cloudevent(event: EnvEvent) -> None:
    said = json.loads(json.dumps(to_cloudevent(event)))
    assert {"specversion", "id", "type", "source"} <= said.keys()
    assert len({"data", "data_base64"} & said.keys()) <= 1
    payload = said.pop("data", None)
    assert re.fullmatch(r"[A-Za-z0-9+/]*=*", said.pop("data_base64", ""))
    assert payload in (None, event.payload, event.payload.get("value"))
    assert "payload" not in json.loads(said.get("eventhost", "{}"))
    for name, value in said.items():
        assert re.fullmatch("[a-z0-9]+", name), name
        assert value != "" or name not in ("id", "type", "source", "subject", "dataschema")
        if isinstance(value, str):
            assert not [each for each in value if unicodedata.category(each) == "Cc" or each in NONCHARACTERS]
        else:
            assert type(value) is bool or (type(value) is int and -(2**31) <= value < 2**31), name


NONCHARACTERS = {chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF)} | {
    chr(code) for code in range(0xFDD0, 0xFDF0)
}

attribute_texts = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Cn"], exclude_characters=["\x7f"]), min_size=1, max_size=8
)
extensions = st.dictionaries(
    st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True).filter(
        lambda name: name not in (
            "specversion", "id", "source", "type", "time", "data", "datacontenttype", "dataschema", "subject",
            "eventhost", "cloudevent",
        )
    ),
    attribute_texts | st.booleans() | st.integers(-(2**31), 2**31 - 1),
    max_size=3,
)  # fmt: skip
core = st.fixed_dictionaries(
    {
        "specversion": st.just("1.0"),
        "id": attribute_texts,
        "type": attribute_texts,
        "source": st.sampled_from([
            "https://github.com/cloudevents", "mailto:cncf-wg-serverless@lists.cncf.io", "1-555-123-4567",
            "urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66", "/sensors/tn-1234567/alerts", "//x.test:80/a%20b?c=d#e",
        ]),
        "time": st.sampled_from([
            "2018-04-05T17:31:00Z", "2018-04-05T17:31:00.000Z", "2018-04-05T17:31:00.123456789+02:00",
            "2018-04-05t17:31:00-23:59", "1985-04-12T23:20:50.52Z", "1990-12-31T23:59:60Z", "0001-01-01T00:00:00Z",
        ]),
    },
    optional={"subject": attribute_texts, "dataschema": st.sampled_from(["https://x.test/s", "urn:x"])},
)  # fmt: skip
data = st.one_of(
    st.just({}),
    st.just({"datacontenttype": "application/json"}),
    st.fixed_dictionaries({
        "datacontenttype": st.sampled_from(["application/json", "application/vnd.x+json", "text/json; charset=utf-8"]),
        "data": values,
    }),
    st.fixed_dictionaries({"datacontenttype": st.just("text/xml"), "data": texts}),
    st.fixed_dictionaries({"datacontenttype": st.just("image/png"), "data_base64": st.sampled_from(["", "aGVsbG8="])}),
    st.just({"data_base64": "aGVsbG8="}),
)  # fmt: skip


@given(core, extensions, data)
def test_a_cloudevent_comes_back_from_an_event_as_it_was(core: Any, extensions: Any, data: Any) -> None:
    said = {**extensions, **core, **data}
    event = from_cloudevent(json.loads(json.dumps(said)), now_ms=NOW_MS)
    back = json.loads(json.dumps(to_cloudevent(event)))
    assert json.dumps(back, sort_keys=True) == json.dumps(said, sort_keys=True)
    # And as an event it is one that any host keeps.
    assert canonical(read_line(json.dumps(said).encode(), cloudevents=True, now_ms=NOW_MS)) == canonical(event)


def test_the_usual_event_is_a_cloudevent_without_anything_of_ours() -> None:
    event = EnvEvent("e1", "door.opened", NOW_MS + 5, {"source": "door", "source_name": "door", "zone": "x"}, {"by": 1})
    assert to_cloudevent(event) == {
        "specversion": "1.0", "id": "e1", "type": "door.opened", "source": "door", "time": "2023-11-14T22:13:20.005Z",
        "zone": "x", "datacontenttype": "application/json", "data": {"by": 1},
    }  # fmt: skip


def test_the_example_of_the_specification_is_an_event() -> None:
    said = {
        "specversion": "1.0", "type": "com.github.pull_request.opened", "subject": "123", "id": "A234-1234-1234",
        "source": "https://github.com/cloudevents/spec/pull", "time": "2018-04-05T17:31:00Z",
        "comexampleextension1": "value", "comexampleothervalue": 5, "datacontenttype": "text/xml",
        "data": '<much wow="xml"/>', "unset": None,
    }  # fmt: skip
    event = from_cloudevent(said)
    assert (event.id, event.type, event.timestamp) == (said["id"], said["type"], 1_522_949_460_000)
    assert event.payload == {"value": '<much wow="xml"/>'}
    assert event.metadata == {
        "source": said["source"], "source_name": said["source"], "subject": "123", "comexampleextension1": "value",
        "comexampleothervalue": 5, "datacontenttype": "text/xml", "cloudevent": {"data": "value"},
    }  # fmt: skip


def test_what_is_implied_is_said_and_a_time_that_is_missing_is_now() -> None:
    said = {"specversion": "1.0", "type": "t", "id": "1", "source": "/s", "data": {}}
    event = from_cloudevent(said, now_ms=NOW_MS)
    assert event == EnvEvent("1", "t", NOW_MS, {"source": "/s", "source_name": "/s"}, {})
    more = {"datacontenttype": "application/json", "time": "2023-11-14T22:13:20Z"}
    assert to_cloudevent(event) == {**said, **more}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"specversion": "0.3"}, "specversion: '1.0' is required, got '0.3'"),
        ({"specversion": None}, "specversion"),
        ({"id": ""}, "id: a CloudEvent requires a non-empty string"),
        ({"id": 5}, "id: a CloudEvent requires a non-empty string"),
        ({"source": None}, "source: a CloudEvent requires"),
        ({"type": None}, "type: a CloudEvent requires"),
        ({"type": "t" * 257}, "not an event"),
        ({"time": "yesterday"}, "time: RFC 3339 is required"),
        ({"time": "2023-02-30T00:00:00Z"}, "time: there is no"),
        ({"time": "2023-02-03T00:00:00"}, "time: RFC 3339 is required"),
        ({"time": "2023-02-03T00:00:00+24:00"}, "time: there is no"),
        ({"time": 5}, "time: RFC 3339 is required"),
        ({"data": 1, "data_base64": ""}, "has one of them, not both"),
        ({"data_base64": "%"}, "text in Base64"),
        ({"data_base64": 5}, "text in Base64"),
        ({"eventhost": "{"}, "eventhost: this is not what a host writes there"),
        ({"eventhost": 5}, "eventhost: this is not what a host writes there"),
        ({"eventhost": '{"hops": 5}'}, "eventhost: this is not what a host writes there"),
        ({"eventhost": '{"timestamp": "now"}'}, "eventhost: this is not what a host writes there"),
        ({"eventhost": '{"id": ""}'}, "not an event"),
    ],
)
def test_what_is_no_cloudevent_is_refused_with_the_reason(change: dict[str, Any], message: str) -> None:
    said = {"specversion": "1.0", "type": "t", "id": "1", "source": "s", **change}
    with pytest.raises(EventRejected, match=message):
        from_cloudevent(said)


# Lines


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"[]", "an event must be an object, got a list"),
        (b'{"type": "a"} {"type": "b"}', "each event on a line of its own"),
        (b"\xff", "not JSON"),
        (b"[" * 10_000, "not JSON"),
        (b'{"type": "a", "specversion": "1.0"}', "add --cloudevents"),
        (b'{"type": "a", "door": 5}', "'door' is no field of an event"),
        (b'{"payload": {}}', "type: a non-empty string is required"),
        (b'{"type": "a", "metadata": []}', "metadata: an object is required"),
        (b'{"type": "a", "timestamp": true}', "timestamp"),
        (b'{"type": "a", "payload": {"x": "' + b"x" * MAX_EVENT_BYTES + b'"}}', "at most"),
    ],
)
def test_a_line_that_is_no_event_is_refused_with_the_reason(line: bytes, message: str) -> None:
    with pytest.raises(EventRejected, match=message):
        read_line(line, now_ms=NOW_MS)


def test_a_line_may_say_less_and_is_completed() -> None:
    event = read_line(b'{"type": "door.opened", "payload": 5}', now_ms=NOW_MS)
    assert (event.timestamp, event.metadata) == (NOW_MS, {"source": "import", "source_name": "import"})
    assert event.payload == {"value": 5}
    assert event.id


@given(any_events.filter(lambda event: isinstance(event.metadata.get("source_name"), str)))
def test_a_line_that_a_host_wrote_is_the_same_event(event: EnvEvent) -> None:
    said = {"seq": 5, "at_ms": 7, **msgspec.to_builtins(event)}
    completed = {"source": event.metadata["source_name"] or "import", **event.metadata}
    completed["source_name"] = completed["source_name"] or "import"
    assert canonical(read_line(msgspec.json.encode(said), now_ms=NOW_MS)) == canonical(
        msgspec.structs.replace(event, metadata=completed)
    )


# Export and import without a host


def exported(root: Path, *arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ok("export", *arguments, "--env", root).splitlines()]


def test_what_is_held_is_exported_line_by_line_with_its_numbers(root: Path) -> None:
    keep(root, events(1000), events(3, 1001, "host.gap"))
    assert exported(root)[:1] == [{"seq": 1, **msgspec.to_builtins(events(1)[0])}]
    assert [line["seq"] for line in exported(root)] == list(range(1, 1004))
    assert [line["seq"] for line in exported(root, "--from", "10", "--to", "12")] == [10, 11, 12]
    assert [line["seq"] for line in exported(root, "--from", "1001", "--to", "9999")] == [1001, 1002, 1003]
    assert [line["seq"] for line in exported(root, "--type", "host.*")] == [1001, 1002, 1003]
    assert len(exported(root, "--type", "*")) == 1000
    assert len(exported(root, "--type", "test.*", "--type", "host.*", "--from", "7d")) == 1003
    assert exported(root, "--to", "7d") == []
    assert exported(root, "--from", "2200-01-01") == []
    assert exported(root, "--from", "5", "--to", "4") == []


def test_times_are_those_of_acceptance(root: Path) -> None:
    keep(root, events(2))
    moment = kept(root)[-1].at_ms + 1
    while time.time_ns() // 1_000_000 <= moment:
        pass
    keep(root, events(2, 3))
    text = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.localtime(moment // 1000))}.{moment % 1000:03}"
    assert [line["seq"] for line in exported(root, "--from", text)] == [3, 4]
    assert [line["seq"] for line in exported(root, "--to", text)] == [1, 2]


def test_it_is_said_that_some_are_not_held_any_more(root: Path) -> None:
    keep(root, events(600), trim=100)
    result = cli("export", "--from", "50", "--to", "102", "--env", root)
    assert [json.loads(line)["seq"] for line in result.stdout.splitlines()] == [101, 102]
    assert "events 50 to 100 are not held any more" in result.stderr


@pytest.mark.parametrize("cloudevents", [False, True])
def test_what_was_exported_is_imported_elsewhere_as_it_was_and_once(
    root: Path, tmp_path: Path, cloudevents: bool
) -> None:
    odd = EnvEvent("\x00", "host.odd", -5, {"source": "a", "source_name": "b c", "n": [1.0, None]}, {"value": "é"})
    keep(root, [*events(1500), odd])
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.jsonc").write_text("{}")
    keep(other, events(1, 5000), events(2, 10))  # two of them are there already
    form = ["--cloudevents"] if cloudevents else []
    file = tmp_path / "events.jsonl"
    assert ok("export", file, *form, "--env", root) == f"{file} has 1501 events\n"
    said = json.loads(ok("import-events", file, *form, "--json", "--env", other))
    assert said == {"imported": 1499, "first": 4, "last": 1502, "duplicates": 2, "refused": 0}
    wanted = [event for event in (*events(1500), odd) if event.id not in ("e10", "e11")]
    assert list(map(canonical, (entry.event for entry in kept(other)[3:]))) == list(map(canonical, wanted))
    assert "imported 0 events, 1501 are held already" in ok("import-events", file, *form, "--env", other)


def test_the_same_id_with_other_content_is_another_event(root: Path) -> None:
    keep(root, events(1))
    (event,) = events(1)
    changed = [msgspec.structs.replace(event, payload={"n": n}) for n in (1, 1.0, True, 2, 2)]
    said = json.loads(ok("import-events", "-", "--json", "--env", root, stdin=lines_of(changed)))
    assert (said["imported"], said["duplicates"]) == (3, 2)


def test_lines_that_are_no_events_are_told_and_the_others_imported(root: Path) -> None:
    bad = b"nonsense\n" * 30
    result = cli("import-events", "-", "--env", root, stdin=b"\n" + lines_of(events(2)) + bad + lines_of(events(1, 3)))
    assert result.exit_code == 1
    told = result.stderr.splitlines()
    assert told[0].startswith("eventhost: line 4: not JSON")
    assert (len(told), told[-1]) == (21, "eventhost: 10 more lines were refused")
    assert result.stdout == "imported 3 events (1 to 3), refused 30\n"
    assert [entry.event.id for entry in kept(root)] == ["e1", "e2", "e3"]


def test_a_large_file_is_taken_in_parts_and_each_part_knows_the_one_before(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventhost.cli.importing._AT_ONCE", 100)
    work = Import()
    lines = BytesIO(lines_of([*events(250), *events(250)]))
    anyio.run(work.run, lines, in_file(root / "var" / "journal.db"))
    assert (work.count, work.duplicates, work.first, work.last) == (250, 250, 1, 250)
    assert [entry.event for entry in kept(root)] == events(250)


def test_an_export_never_overwrites_and_leaves_nothing_half(root: Path, tmp_path: Path) -> None:
    keep(root, events(5))
    file = tmp_path / "out"
    file.write_text("mine")
    assert cli("export", file, "--env", root).exit_code == 2
    assert file.read_text() == "mine"
    assert isinstance(cli("export", tmp_path / "no" / "out", "--env", root).exception, EventhostError)
    falsified = root / "var" / "journal.db"
    falsified.write_bytes(falsified.read_bytes().replace(b'"n":3}', b'"n":4}'))
    other = tmp_path / "other"
    assert isinstance(cli("export", other, "--env", root).exception, EventhostError)
    assert not list(tmp_path.glob("other*"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "--from", "then"],
        ["export", "--to", "-5"],
        ["export", "."],
        ["backup"],
        ["backup", "."],
        ["restore", "missing.db"],
        ["import-events"],
        ["import-events", "missing.jsonl"],
        ["import-events", "."],
    ],
)
def test_a_bad_call_is_told_apart_from_a_failure(root: Path, arguments: list[str]) -> None:
    assert cli(*arguments, "--env", root).exit_code == 2


def test_a_journal_in_memory_has_no_file(root: Path) -> None:
    (root / "config.jsonc").write_text('{"journal": {"type": "memory"}}')
    for command in (["backup", "x.db"], ["import-events", "-"]):
        assert "in memory" in str(cli(*command, "--env", root).exception)
    (root / "config.jsonc").write_text("{")
    assert isinstance(cli("backup", "x.db", "--env", root).exception, ConfigError)


# Backup


def test_a_backup_is_restored_and_the_journal_before_is_kept(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    assert isinstance(cli("backup", copy, "--env", root).exception, JournalUnusable)
    keep(root, events(5))
    assert ok("backup", copy, "--env", root) == f"{copy} has the journal up to event 5\n"
    keep(root, events(5, 6))
    told = ok("restore", copy, "--env", root)
    assert "journal.db.replaced-" in told
    assert [line["seq"] for line in exported(root)] == [1, 2, 3, 4, 5]
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(copy.read_bytes()[:5000])
    assert isinstance(cli("restore", damaged, "--env", root).exception, JournalUnusable)


# Beside a running host


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("running")
    rules = [{"name": "seen", "on": "test.*", "do": {"exec": ["sh", "-c", "cat >> seen"]}}]
    (root / "config.jsonc").write_text(json.dumps({"http": {"port": 0}, "rules": rules}))
    command = [sys.executable, "-m", "eventhost", "run", "--env", str(root)]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("EVENTHOST_")}
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=variables)
    try:
        end = time.monotonic() + SLOW_S
        while cli("status", "--env", root).exit_code and time.monotonic() < end:
            time.sleep(0.05)
        yield root
    finally:
        process.terminate()
        process.wait(SLOW_S)


def test_a_running_host_takes_imported_events_as_they_are_and_its_rules_run(host: Path, tmp_path: Path) -> None:
    large = EnvEvent("large", "big.one", 7, {"source": "x", "source_name": "x"}, {"x": "é" * 500_000})
    said = json.loads(ok("import-events", "-", "--json", "--env", host, stdin=lines_of([*events(1200), large])))
    assert (said["imported"], said["duplicates"], said["last"] - said["first"]) == (1201, 0, 1200)
    again = json.loads(ok("import-events", "-", "--json", "--env", host, stdin=lines_of([*events(1300), large])))
    assert (again["imported"], again["duplicates"]) == (100, 1201)
    file = tmp_path / "out"
    ok("export", file, "--type", "test.*", "--type", "big.*", "--env", host)
    found = [json.loads(line) for line in file.read_bytes().splitlines()]
    assert [EnvEvent(**{k: v for k, v in line.items() if k != "seq"}) for line in found] == [
        *events(1200), large, *events(100, 1201),
    ]  # fmt: skip
    end = time.monotonic() + SLOW_S
    while not ((host / "seen").exists() and "\n" in (host / "seen").read_text()) and time.monotonic() < end:
        time.sleep(0.02)
    first = json.loads((host / "seen").read_text().splitlines()[0])
    assert (first["id"], first["metadata"]) == ("e1", {"source": "s", "source_name": "s"})


def test_over_http_events_are_exported_and_not_imported(host: Path) -> None:
    listening = next(line for line in (host / "log").read_text().splitlines() if '"listening"' in line)
    url = json.loads(listening)["url"]
    ok("emit", "door.opened", '{"by": "me"}', "--env", host)
    (line,) = ok("export", "--type", "door.*", "--from", "1h", "--env", url).splitlines()
    assert json.loads(line)["payload"] == {"by": "me"}
    assert ok("export", "--from", "2200-01-01", "--env", url) == ""
    assert ok("export", "--to", "2h", "--env", url) == ""
    assert isinstance(cli("import-events", "-", "--env", url).exception, ConfigError)
    request = Request(f"{url}/events/import", b"[]", {"Content-Type": "application/json"})
    with pytest.raises(HTTPError, match="403"):
        urlopen(request)


def test_a_backup_is_made_beside_the_host_and_not_restored_under_it(host: Path, tmp_path: Path) -> None:
    ok("emit", "door.opened", "--env", host)
    copy = tmp_path / "copy.db"
    assert "has the journal up to event" in ok("backup", copy, "--env", host)
    assert isinstance(cli("restore", copy, "--env", host).exception, HostRunning)
    ok("emit", "door.opened", "--env", host)
