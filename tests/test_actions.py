"""Each kind of action: what it does, what it refuses, and that its failure is its own."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import httpx2
import msgspec
import pytest
from hosting import hosting, until
from hypothesis import example, given
from hypothesis import strategies as st
from mcp_types import CallToolResult, ImageContent, TextContent
from pydantic import BaseModel
from structlog.testing import capture_logs

from eventhost.actions import KINDS, Action, Context, Hands, Retry, StepSpec, http_client, parse_actions, walk
from eventhost.actions.caused import MAX_HOPS, caused_event
from eventhost.actions.exec import MAX_LINES, MAX_TAIL
from eventhost.actions.keys import KEYS, MAX_ATTEMPTS
from eventhost.actions.log import MAX_LENGTH
from eventhost.actions.parse import MAX_NESTING
from eventhost.actions.python import MAX_LEFT
from eventhost.actions.result import CUT, MAX_RESULT_BYTES, Cutter, as_result
from eventhost.actions.secrets import Secrets
from eventhost.actions.webhook import MAX_ANSWER
from eventhost.config.tree import Tree
from eventhost.connections import EventSourceStatus
from eventhost.connections.process import Guardian, child
from eventhost.errors import ActionError, BusClosed, ConfigError, ConnectionLost, NotFound, Problem
from eventhost.event import EnvEvent
from eventhost.expression import ExpressionError
from eventhost.journal import Entry

pytestmark = pytest.mark.anyio

LIMIT_S = 20
"""Never reached unless something is broken."""

EVENT = EnvEvent("7", "file.created", 1_700_000_000_000, {"source_name": "watcher"}, {"path": "a b.txt", "size": 3})
ENTRY = Entry(5, 1_700_000_000_123, EVENT)


@dataclass
class Host:
    """The rest of the host, as actions see it."""

    root: Path
    published: list[EnvEvent] = field(default_factory=list)
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    answer: Callable[[], Any] = lambda: None
    publish_error: Exception | None = None
    secrets: dict[str, str] = field(default_factory=lambda: {"${env:TOKEN}": "s3cret"})

    async def publish(self, event: EnvEvent) -> int:
        if self.publish_error:
            raise self.publish_error
        self.published.append(event)
        return len(self.published)

    async def call_tool(self, name: str, arguments: Any, /, *, timeout_s: float) -> Any:
        self.calls.append((name, arguments))
        answer = self.answer()
        return await answer if isinstance(answer, Awaitable) else answer

    def spawn(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("no program is to be started here")

    def resolve(self, reference: str) -> str:
        if reference not in self.secrets:
            raise ConfigError([Problem("config.jsonc", f"{reference} is not set")])
        return self.secrets[reference]

    def hands(self, *, spawn: Any = None, http: httpx2.AsyncClient | None = None) -> Hands:
        return Hands(
            publish=self.publish,
            call_tool=self.call_tool,
            spawn=spawn or self.spawn,
            http=http or httpx2.AsyncClient(transport=httpx2.MockTransport(lambda request: httpx2.Response(500))),
            root=self.root,
            environment={"PATH": os.environ["PATH"]},
            resolve_secret=self.resolve,
        )


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def action(value: Any, names: Sequence[str] = ()) -> Action:
    return parse_actions(tree(value), names)[0].action


def tree(value: Any) -> Tree:
    text = json.dumps(value, indent=2)
    return Tree.parse(text, "config.jsonc")


def nested(depth: int) -> Any:
    value: Any = {"log": "x"}
    for _ in range(depth):
        value = {"log": "x", "onError": [value]}
    return [value]


async def run(value: Any, hands: Hands, *, entry: Entry = ENTRY, place: str = "0", **more: Any) -> Any:
    with anyio.fail_after(LIMIT_S):
        return await action(value, tuple(more.get("values", ()))).run(entry, Context(hands, "greet", place, **more))


async def failure(value: Any, hands: Hands, *, entry: Entry = ENTRY) -> ActionError:
    with pytest.raises(ActionError) as caught:
        await run(value, hands, entry=entry)
    return caught.value


# Reading


def test_a_single_object_is_one_action() -> None:
    assert [step.action.kind for step in parse_actions(tree({"log": "hello"}))] == ["log"]


def test_the_first_key_names_the_action() -> None:
    actions = [
        {"log": "x", "level": "warning"},
        {"emit": "t"},
        {"tool": "a__b", "timeout": "5s"},
        {"exec": ["true"]},
        {"webhook": "https://example.com", "method": "PUT"},
        {"python": "package.module:Class.method"},
    ]
    assert [step.action.kind for step in parse_actions(tree(actions))] == [next(iter(one)) for one in actions]


@pytest.mark.parametrize(
    ("value", "field", "message", "mend"),
    [
        ([], "", "expected actions, got an empty list", "write"),
        ("log", "", "expected actions, got a string", "write"),
        (["log"], "[0]", "expected an action, got a string", "write"),
        ([{}], "[0]", "expected an action, got an empty object", "write"),
        ([{"lgo": "x"}], "[0].lgo", 'unknown action "lgo"', 'did you mean "log"?'),
        ([{"frobnicate": "x"}], "[0].frobnicate", 'unknown action "frobnicate"', "known here: log, emit, tool"),
        ([{"level": "info", "log": "x"}], "[0].level", 'unknown action "level"', 'write "log" first'),
        ([{"log": "x", "emit": "y"}], "[0].emit", "an action does one thing", "write an object for each"),
        ([{"log": "x", "colour": "red"}], "[0].colour", "unknown key", "known here"),
        ([{"log": 5}], "[0].log", "expected a string, got a number", "write"),
        ([{"log": "{{ nosuch }}"}], "[0].log", "column 4: unknown name nosuch", ""),
        ([{"log": "${env:TOKEN}"}], "[0].log", "a secret would be shown here", "webhook, exec and tool"),
        ([{"emit": "t", "payload": {"a": "${env:T}"}}], "[0].payload", "a secret would be shown here", "webhook"),
        ([{"emit": "t", "payload": {"a": ["{{ x }}"]}}], "[0].payload.a[0]", "unknown name x", ""),
        ([{"emit": "host.door"}], "[0].emit", "are the host's own", ""),
        ([{"tool": "a__b", "arguments": []}], "[0].arguments", "expected an object, got a list", "write"),
        ([{"tool": "{{ type }}"}], "[0].tool", "a tool is named, not chosen by an event", ""),
        ([{"exec": "notify --all 'a b'"}], "[0].exec", "got a string", 'write ["notify", "--all", "a b"]'),
        ([{"exec": []}], "[0].exec", "needs at least 1", ""),
        ([{"exec": ["{{ payload.path }}"]}], "[0].exec[0]", "not chosen by an event", "write it out"),
        ([{"exec": ["a", "{{ x }}"]}], "[0].exec[1]", "unknown name x", ""),
        ([{"exec": ["a"], "timeout": 5}], "[0].timeout", "expected a duration", "write"),
        ([{"webhook": "example.com"}], "[0].webhook", "expected an http or https URL", "https://"),
        ([{"webhook": "https://x", "method": "POTS"}], "[0].method", "expected one of", 'did you mean "POST"?'),
        ([{"webhook": "https://x", "headers": {"a": 1}}], "[0].headers.a", "expected a string, got a number", ""),
        ([{"python": "handlers.on_file"}], "[0].python", "must match", "write"),
        ([{"emit": "t", "timeout": "0s"}], "[0].timeout", "must be greater than 0", "write"),
        # What every action may say
        ([{"log": "x", "retyr": 3}], "[0].retyr", "unknown key", 'did you mean "retry"?'),
        ([{"log": "x", "onerror": "stop"}], "[0].onerror", "unknown key", 'did you mean "onError"?'),
        ([{"log": "x", "if": "nosuch"}], "[0].if", "unknown name nosuch", ""),
        ([{"log": "x", "if": ""}], "[0].if", "must not be shorter", "write"),
        ([{"log": "x", "if": True}], "[0].if", "expected a string, got true", "write"),
        ([{"log": "x", "if": "result"}], "[0].if", "unknown name result", ""),
        ([{"log": "{{ result }}"}], "[0].log", "unknown name result", ""),
        ([{"log": "{{ error.message }}"}], "[0].log", "unknown name error", ""),
        ([{"log": "x"}, {"log": "{{ error.message }}"}], "[1].log", "unknown name error", ""),
        ([{"log": "x", "onError": {"log": "{{ result }}"}}], "[0].onError.log", "unknown name result", ""),
        ([{"log": "x", "retry": 0}], "[0].retry", "expected a number between 1 and 100", "write false"),
        ([{"log": "x", "retry": 101}], "[0].retry", "expected a number between 1 and 100", "write"),
        ([{"log": "x", "retry": True}], "[0].retry", "expected a number of attempts, an object or false", "write"),
        ([{"log": "x", "retry": "often"}], "[0].retry", "got a string", "write"),
        ([{"log": "x", "retry": {"attempts": 0}}], "[0].retry.attempts", "must be at least 1", "write"),
        ([{"log": "x", "retry": {"tries": 3}}], "[0].retry.tries", "unknown key", "attempts, delay, maxDelay"),
        ([{"log": "x", "retry": {"delay": 5}}], "[0].retry.delay", "expected a duration with a unit", "write"),
        ([{"log": "x", "retry": {"delay": "5s", "maxDelay": "1s"}}], "[0].retry", "maxDelay is shorter", "as long"),
        ([{"log": "x", "onError": "continu"}], "[0].onError", "or actions, got", 'did you mean "continue"?'),
        ([{"log": "x", "onError": 5}], "[0].onError", 'expected "stop", "continue" or actions, got a number', "write"),
        ([{"log": "x", "onError": []}], "[0].onError", "expected actions, got an empty list", "write"),
        ([{"log": "x", "onError": [{"lgo": "x"}]}], "[0].onError[0].lgo", 'unknown action "lgo"', "log"),
        ([{"log": "x", "onError": {"log": 5}}], "[0].onError.log", "expected a string, got a number", "write"),
        (
            nested(MAX_NESTING + 1),
            "[0]" + ".onError[0]" * MAX_NESTING + ".onError",
            f"onError within onError may go {MAX_NESTING} deep",
            "",
        ),
    ],
)
def test_a_mistake_is_told_with_its_place_and_mend(value: Any, field: str, message: str, mend: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_actions(tree(value))
    (problem,) = caught.value.problems
    assert problem.field == field
    assert message in problem.message
    assert mend in problem.mend
    assert problem.line >= 1


def test_all_mistakes_are_told_at_once() -> None:
    wrong = {"log": 1, "if": "x", "retry": 0, "levle": "info", "onError": [{"log": "ok"}, {"log": 2}]}
    with pytest.raises(ConfigError) as caught:
        parse_actions(tree([wrong, {"log": "ok"}, {"nosuch": 1}]))
    assert {problem.field for problem in caught.value.problems} == {
        "[0].log", "[0].if", "[0].retry", "[0].levle", "[0].onError[1].log", "[2].nosuch",
    }  # fmt: skip


def test_what_an_action_may_refer_to() -> None:
    log = {"log": "{{ result }} {{ error }}", "if": "error"}
    steps = parse_actions(
        tree(
            [
                {"log": "{{ events | length }}", "onError": "continue"},
                log,
                {"log": "x", "onError": [log, {"log": "x", "onError": log}]},
                {"log": "{{ result }} {{ events }}"},
            ]
        ),
        ("events",),
    )
    assert [path for path, _ in walk(steps)] == [
        (0,), (1,), (2,), (2, "onError", 0), (2, "onError", 1), (2, "onError", 1, "onError", 0), (3,),
    ]  # fmt: skip


def test_as_deep_as_allowed_is_allowed() -> None:
    assert len(list(walk(parse_actions(tree(nested(MAX_NESTING)))))) == MAX_NESTING + 1


@pytest.mark.parametrize(
    ("value", "retry"),
    [
        (False, Retry(attempts=1)),
        (1, Retry(attempts=1)),
        (100, Retry(attempts=100)),
        ({}, Retry()),
        ({"attempts": 5, "delay": "500ms", "maxDelay": "10s"}, Retry(5, 0.5, 10)),
        ({"delay": "2m"}, Retry(delay_s=120)),
        ({"delay": "20m"}, Retry(delay_s=1200, max_delay_s=1200)),
        ({"delay": 0}, Retry(delay_s=0)),
    ],
)
def test_how_often_it_is_tried(value: Any, retry: Retry) -> None:
    assert parse_actions(tree({"log": "x", "retry": value}))[0].retry == retry


def test_an_action_that_says_nothing_is_tried_for_about_six_minutes() -> None:
    retry = Retry()
    longest_s = [min(300, 2**attempt) for attempt in range(retry.attempts - 1)]
    pauses_s = [retry.pause_s(attempt) for attempt in range(1, retry.attempts)]
    assert all(longest / 2 <= pause <= longest for pause, longest in zip(pauses_s, longest_s, strict=True))
    assert sum(longest_s) * 0.75 == pytest.approx(360, rel=0.1)


def test_pauses_grow_up_to_the_longest() -> None:
    retry = Retry(100, delay_s=1, max_delay_s=5)
    for attempt, longest_s in ((1, 1), (2, 2), (3, 4), (4, 5), (100, 5)):
        assert all(longest_s / 2 <= retry.pause_s(attempt) <= longest_s for _ in range(20))


@pytest.mark.parametrize("spec", [StepSpec, *(kind.spec for kind in KINDS.values())])
def test_each_key_is_described_and_shown_by_an_example(spec: type[BaseModel]) -> None:
    assert spec.__doc__
    for name, info in spec.model_fields.items():
        assert info.description, name
        assert info.examples, name


# Describing


SOME = {"events": [{"id": "7"}, {"id": "8"}]}


@pytest.mark.parametrize(
    ("value", "values", "described"),
    [
        ({"log": "new {{ payload.path }}"}, {}, {"log": "new a b.txt", "level": "info"}),
        ({"log": "{{ payload.size }}", "level": "debug"}, {}, {"log": "3", "level": "debug"}),
        ({"log": "{{ result.id }} of {{ type }}"}, {}, {"log": "{{ result.id }} of {{ type }}", "level": "info"}),
        (
            {"log": "{{ result.id }} of {{ type }}"},
            {"result": {"id": 5}},
            {"log": "5 of file.created", "level": "info"},
        ),
        ({"log": "{{ events | length }}"}, SOME, {"log": "2", "level": "info"}),
        ({"log": "{{ error.message }}"}, {}, {"log": "{{ error.message }}", "level": "info"}),
        ({"emit": "{{ type }}.seen"}, {}, {"emit": "file.created.seen"}),
        (
            {"emit": "t", "payload": {"n": "{{ payload.size }}", "of": ["{{ result }}", "{{ id }}"]}, "timeout": "1s"},
            {},
            {"emit": "t", "payload": {"n": 3, "of": ["{{ result }}", "7"]}},
        ),
        (
            {"tool": "a__b", "arguments": {"key": "${env:TOKEN}", "path": "${file:x}/{{ payload.path }}"}},
            {},
            {"tool": "a__b", "arguments": {"key": "${env:TOKEN}", "path": "${file:x}/a b.txt"}},
        ),
        ({"tool": "a__b"}, {}, {"tool": "a__b", "arguments": {}}),
        (
            {"exec": ["python", "-c", "{{ payload.size }}", "${env:TOKEN}"], "timeout": "1s"},
            {},
            {"exec": ["python", "-c", "3", "${env:TOKEN}"]},
        ),
        ({"webhook": "https://x/{{ id }}"}, {}, {"webhook": "https://x/7", "method": "POST"}),
        (
            {"webhook": "https://x", "method": "PUT", "headers": {"a": "Bearer ${env:TOKEN}"}, "body": "{{ payload }}"},
            {},
            {"webhook": "https://x", "method": "PUT", "headers": {"a": "Bearer ${env:TOKEN}"}, "body": EVENT.payload},
        ),
        ({"python": "no.such:function"}, {}, {"python": "no.such:function"}),
    ],
)
def test_what_an_action_would_do_is_told_and_not_done(value: Any, values: dict[str, Any], described: Any) -> None:
    # Nothing is handed to it, so that it cannot do anything.
    made = action(value, ("events", "result", "error"))
    assert made.describe(ENTRY, values) == described


def test_what_cannot_be_filled_in_cannot_be_described() -> None:
    with pytest.raises(ExpressionError, match=r"payload\.nosuch"):
        action({"log": "{{ payload.nosuch }}"}).describe(ENTRY, {})


def test_every_kind_is_described_here() -> None:
    said = test_what_an_action_would_do_is_told_and_not_done.pytestmark[0].args[1]
    assert KINDS.keys() - {"agent"} == {next(iter(value)) for value, _, _ in said}


# Results


def test_a_result_is_json_of_its_own() -> None:
    class Odd:
        def __str__(self) -> str:
            return "odd"

    shared = {"a": 1}
    made, cut = as_result({"t": (1, 2), "p": Path("a/b"), "n": float("nan"), 5: Odd(), "s": shared})
    assert (made, cut) == ({"t": [1, 2], "p": "a/b", "n": None, "5": "odd", "s": {"a": 1}}, False)
    assert made["s"] is not shared


def test_what_cannot_be_said_at_all_is_no_result() -> None:
    class Broken:
        def __str__(self) -> str:
            raise ValueError

    endless: list[Any] = []
    endless.append(endless)
    assert [as_result(value) for value in (Broken(), endless)] == [(None, True)] * 2


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


@example({"a": "x" * 30, "b": "x" * 100}, 45)
@given(JSON, st.integers(40, 200))
def test_a_cut_result_is_the_beginning_of_the_whole(value: Any, room: int) -> None:
    cut = Cutter(room).cut(value, 0)
    assert len(msgspec.json.encode(cut)) <= room
    assert is_beginning(cut, value)


def is_beginning(cut: Any, whole: Any) -> bool:
    if isinstance(whole, str):
        return cut == whole or (cut.endswith(CUT) and whole.startswith(cut.removesuffix(CUT)))
    if isinstance(whole, dict):
        same = list(cut) == list(whole)[: len(cut)]
        return same and all(is_beginning(cut[key], whole[key]) for key in cut)
    if isinstance(whole, list):
        return all(is_beginning(*pair) for pair in zip(cut, whole, strict=False)) and len(cut) <= len(whole)
    return bool(cut == whole) or cut is None


@pytest.mark.parametrize(
    "value",
    [
        "x" * 100_000,
        "\x01" * 100_000,
        "€" * 100_000,
        ["x" * 100] * 10_000,
        {str(n): n for n in range(50_000)},
        {"k" * 100_000: 1},
        [10**100_000],
        json.loads("[" * 150 + '"' + "x" * 80_000 + '"' + "]" * 150),
        json.loads("[" * 700 + '"' + "x" * 80_000 + '"' + "]" * 700),
    ],
    ids=["text", "control characters", "euros", "list", "object", "key", "number", "deep", "too deep"],
)
def test_a_result_is_bounded(value: Any) -> None:
    made, cut = as_result(value)
    assert cut
    assert len(msgspec.json.encode(made)) <= MAX_RESULT_BYTES


def test_what_comes_first_is_kept() -> None:
    made, _ = as_result({"id": 5, "text": "x" * 100_000, "last": 6})
    assert (made["id"], made["text"].endswith("x" + CUT), "last" in made) == (5, True, False)


# Secrets


def test_what_repeats_a_secret_shows_its_reference() -> None:
    secrets = Secrets({"a": "s3cret", "b": "s3cret-longer\n", "c": "abc", "d": "line one\nline two"}.__getitem__)
    for reference in "abcd":
        secrets.resolve(reference)
    told = {"s3cret": ["x s3cret-longer y", 5, None], "c": "abc", "d": "line two"}
    assert secrets.hide_in(told) == {"a": ["x b y", 5, None], "c": "abc", "d": "d"}


def test_what_lies_too_deep_to_be_looked_at_is_left_out() -> None:
    secrets = Secrets(lambda reference: "s3cret")
    secrets.resolve("a")
    hidden = json.dumps(secrets.hide_in(json.loads("[" * 700 + '"s3cret"' + "]" * 700)))
    assert hidden == "[" * 256 + "null" + "]" * 256


async def test_a_tool_that_repeats_a_secret_does_not_tell(host: Host) -> None:
    value = {"tool": "a__b", "arguments": {"key": "${env:TOKEN}"}}
    host.answer = lambda: CallToolResult(content=[TextContent(type="text", text="you said s3cret")])
    assert await run(value, host.hands()) == "you said ${env:TOKEN}"
    host.answer = lambda: CallToolResult(content=[TextContent(type="text", text="s3cret?")], is_error=True)
    assert str(await failure(value, host.hands())) == "a__b: ${env:TOKEN}?"


# log


async def test_log_writes_a_line_with_what_it_is_about(host: Host) -> None:
    with capture_logs() as lines:
        await run({"log": "new file {{ payload.path }}", "level": "warning"}, host.hands())
    assert lines == [
        {
            "event": "rule_log",
            "log_level": "warning",
            "text": "new file a b.txt",
            "rule": "greet",
            "event_id": "watcher:7",
            "seq": 5,
        }
    ]


async def test_a_long_text_is_cut_in_the_log(host: Host) -> None:
    long = Entry(1, 0, EnvEvent("1", "t", 0, {}, {"text": "x" * 100_000}))
    with capture_logs() as lines:
        assert await run({"log": "{{ payload.text }}"}, host.hands(), entry=long) == "x" * MAX_LENGTH + CUT
    assert len(lines[0]["text"]) == MAX_LENGTH + len(CUT)


async def test_a_template_that_fails_is_not_tried_again(host: Host) -> None:
    error = await failure({"log": "{{ payload.nosuch }}"}, host.hands())
    assert not error.retry
    assert "payload.nosuch" in str(error)


# emit


async def test_an_emitted_event_names_its_cause(host: Host) -> None:
    await run({"emit": "{{ type }}.seen", "payload": {"size": "{{ payload.size }}"}}, host.hands())
    (event,) = host.published
    assert event.type == "file.created.seen"
    assert event.payload == {"size": 3}
    assert event.timestamp == ENTRY.at_ms
    assert event.metadata == {
        "source": "host.rules",
        "source_name": "host.rules",
        "rule": "greet",
        "causation_id": "watcher:7",
        "hops": 1,
    }


async def test_a_delivery_emits_the_same_event_however_often_it_is_made(host: Host) -> None:
    hands, value = host.hands(), {"emit": "t"}
    for entry, place in ((ENTRY, "0"), (ENTRY, "0"), (ENTRY, "1"), (replace_seq(6), "0"), (Entry(5, 99, EVENT), "0")):
        await run(value, hands, entry=entry, place=place)
    first, again, *others = host.published
    assert first == again
    assert len({event.id for event in (first, *others)}) == 4


async def test_what_was_emitted_is_told(host: Host) -> None:
    given = await run({"emit": "t"}, host.hands())
    assert given == {"id": host.published[0].id, "type": "t", "seq": 1}


async def test_emitting_waits_no_longer_than_it_may(host: Host) -> None:
    hands = host.hands()

    async def full(_: EnvEvent) -> None:
        await anyio.sleep_forever()

    error = await failure({"emit": "t", "timeout": "10ms"}, replace(hands, publish=full))
    assert error.retry
    assert str(error) == "the journal did not accept the event within 0.01 s"


def replace_seq(seq: int) -> Entry:
    return Entry(seq, ENTRY.at_ms, EVENT)


async def test_without_a_payload_it_is_empty_and_a_bare_one_becomes_a_value(host: Host) -> None:
    await run([{"emit": "t"}], host.hands())
    await run([{"emit": "t", "payload": "{{ payload.size }}"}], host.hands())
    assert [event.payload for event in host.published] == [{}, {"value": 3}]


async def test_a_loop_of_rules_ends_with_an_error(host: Host) -> None:
    hands, entry = host.hands(), ENTRY
    for hop in range(1, MAX_HOPS + 1):
        await run({"emit": "again"}, hands, entry=entry)
        assert host.published[-1].metadata["hops"] == hop
        entry = Entry(5 + hop, 0, host.published[-1])
    error = await failure({"emit": "again"}, hands, entry=entry)
    assert not error.retry
    assert "rules cause each other" in str(error)
    assert len(host.published) == MAX_HOPS


async def test_a_source_cannot_forge_the_count_of_hops(host: Host) -> None:
    for hops in (10**6, -(10**6), "many"):
        forged = EnvEvent("1", "t", 0, {"source_name": "evil", "hops": hops}, {})
        await run({"emit": "t"}, host.hands(), entry=Entry(1, 0, forged))
        assert host.published[-1].metadata["hops"] == 1


@pytest.mark.parametrize(
    ("value", "payload"),
    [
        ({"emit": "{{ payload.type }}"}, {"type": "host.stop"}),
        ({"emit": "{{ payload.type }}"}, {"type": ""}),
        ({"emit": "{{ payload.type }}"}, {"type": "t" * 1000}),
        ({"emit": "t", "payload": {"a": "{{ payload.a ~ payload.a }}"}}, {"a": "x" * 600_000}),
    ],
)
async def test_what_is_no_event_is_not_emitted(host: Host, value: Any, payload: Any) -> None:
    error = await failure(value, host.hands(), entry=Entry(1, 0, EnvEvent("1", "t", 0, {}, payload)))
    assert not error.retry
    assert not host.published


async def test_emitting_is_tried_again_when_the_bus_is_closed(host: Host) -> None:
    host.publish_error = BusClosed("closed")
    assert (await failure({"emit": "t"}, host.hands())).retry


def test_the_id_is_a_time_ordered_uuid() -> None:
    early, late = (caused_event("t", {}, cause=Entry(1, at, EVENT), rule="r", place="0").id for at in (1000, 2000))
    assert early < late
    assert early[14] == "8"
    assert len(early) == 36


# tool


async def test_a_tool_is_called_with_filled_in_arguments(host: Host) -> None:
    host.answer = lambda: CallToolResult(content=[TextContent(type="text", text="done")])
    value = {
        "tool": "todo__add",
        "arguments": {"title": "{{ payload.path }}", "n": "{{ payload.size }}", "key": "${env:TOKEN}"},
    }
    assert await run(value, host.hands()) == "done"
    assert host.calls == [("todo__add", {"title": "a b.txt", "n": 3, "key": "s3cret"})]


async def test_a_tool_without_arguments_gets_none(host: Host) -> None:
    await run({"tool": "a__b"}, host.hands())
    assert host.calls == [("a__b", {})]


@pytest.mark.parametrize(
    ("error", "retry"),
    [
        (ConnectionLost("gone"), True),
        (NotFound("no such tool"), False),
        (ActionError("busy"), True),
        (ActionError("unknown tool", retry=False), False),
    ],
)
async def test_a_tool_that_cannot_be_called(host: Host, error: Exception, retry: bool) -> None:
    def answer() -> Any:
        raise error

    host.answer = answer
    caught = await failure({"tool": "a__b"}, host.hands())
    assert caught.retry is retry
    assert str(caught) == str(error)


async def test_what_a_tool_calls_an_error_is_a_failure(host: Host) -> None:
    class Content:
        text = "the list is locked"

    class Result:
        is_error = True
        content = (Content(),)

    host.answer = Result
    error = await failure({"tool": "todo__add"}, host.hands())
    assert str(error) == "todo__add: the list is locked"
    assert error.retry


@pytest.mark.parametrize(
    ("texts", "structured", "given"),
    [
        (["hello"], None, "hello"),
        (["hello"], {"a": 1}, {"a": 1}),
        (["[1]"], [], []),
        (['{"id": 5}'], None, {"id": 5}),
        ([" [1, 2]"], None, [1, 2]),
        (["[draft] a title"], None, "[draft] a title"),
        (["5"], None, "5"),
        (["true"], None, "true"),
        (["a", "b"], None, "a\nb"),
        ([], None, None),
        (["[" * 100_000], None, "[" * 100_000),
    ],
)
async def test_what_a_tool_gives(host: Host, texts: list[str], structured: Any, given: Any) -> None:
    content = [TextContent(type="text", text=text) for text in texts]
    image = ImageContent(type="image", data="AA==", mime_type="image/png")
    host.answer = lambda: CallToolResult(content=[image, *content], structured_content=structured)
    assert await run({"tool": "a__b"}, host.hands()) == given


async def test_a_call_that_is_cancelled_is_cancelled_at_its_server_too(host: Host) -> None:
    body = """
    TOOLS["wait"] = lambda: emit("asked")  # and gives None, which is no answer
    def heard(message):
        if message.get("method") == "notifications/cancelled":
            emit("cancelled")
    """
    async with hosting(host.root) as hosted, anyio.create_task_group() as tasks:
        hosted.source(hosted.tiny("slow", body))
        await hosted.becomes("slow", EventSourceStatus.RUNNING)
        hands = replace(host.hands(), call_tool=hosted.tools.execute_tool)
        tasks.start_soon(run, {"tool": "slow__wait"}, hands)
        await hosted.events(1)
        tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            assert [event.type for event in await hosted.events(2)] == ["asked", "cancelled"]


async def test_a_tool_that_never_answers_is_given_up(host: Host) -> None:
    host.answer = anyio.sleep_forever
    error = await failure({"tool": "a__b", "timeout": "20ms"}, host.hands())
    assert error.retry
    assert "did not answer within 0.02 s" in str(error)


# exec


@pytest.fixture
async def spawning(host: Host) -> AsyncIterator[Hands]:
    guardian = Guardian(host.root / "guardian.lock")
    await guardian.start()
    try:
        yield host.hands(spawn=partial(child, guardian))
    finally:
        await guardian.aclose()


async def test_a_program_gets_its_arguments_and_the_event_on_stdin(spawning: Hands, host: Host) -> None:
    script = "import json, sys; print(json.dumps([sys.argv[1:], json.load(sys.stdin)]), file=sys.stderr)"
    value = {
        "exec": ["python", "-c", script, "{{ payload.path }}", "{{ payload.size }}", "{{ payload }}", "${env:TOKEN}"]
    }
    with capture_logs() as lines:
        given = await run(value, spawning)
    (line,) = [line for line in lines if line["event"] == "exec_output"]
    arguments, stdin = json.loads(line["text"])
    assert arguments == ["a b.txt", "3", '{"path":"a b.txt","size":3}', "${env:TOKEN}"]
    assert given == {"status": 0, "stdout": "", "stderr": line["text"]}
    assert stdin == msgspec.json.decode(EVENT.to_json())
    assert (line["stream"], line["rule"], line["event_id"]) == ("stderr", "greet", "watcher:7")


async def test_a_program_runs_in_the_environments_folder_with_little_of_the_hosts_environment(
    spawning: Hands, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOSTS_SECRET", "x")
    (host.root / "script.sh").write_text("#!/bin/sh\npwd\nenv | grep -c HOSTS_SECRET\nexit 0\n")
    (host.root / "script.sh").chmod(0o755)
    with capture_logs() as lines:
        await run({"exec": ["./script.sh"]}, spawning)
    assert [line["text"] for line in lines if line["event"] == "exec_output"] == [str(host.root.resolve()), "0"]


async def test_nothing_an_event_says_is_seen_by_a_shell(spawning: Hands, host: Host) -> None:
    evil = EnvEvent("1", "t", 0, {}, {"path": "$(touch pwned); touch pwned #"})
    await run({"exec": ["echo", "{{ payload.path }}"]}, spawning, entry=Entry(1, 0, evil))
    assert not (host.root / "pwned").exists()


async def test_a_program_need_not_read_its_stdin(spawning: Hands) -> None:
    large = EnvEvent("1", "t", 0, {}, {"text": "x" * 500_000})
    await run({"exec": ["true"]}, spawning, entry=Entry(1, 0, large))


@pytest.mark.parametrize(
    ("command", "retry", "message"),
    [
        (["sh", "-c", "exit 3"], True, "sh exited with status 3"),
        (["sh", "-c", "kill -9 $$"], True, "sh killed by SIGKILL"),
        (["sh", "-c", "exit 127"], False, "sh exited with status 127"),
        (["no-such-program-anywhere"], False, "no-such-program-anywhere is not on PATH"),
        (["echo", "a\0b"], False, "echo could not be started"),
    ],
)
async def test_a_program_that_fails(spawning: Hands, command: list[str], retry: bool, message: str) -> None:
    error = await failure({"exec": command}, spawning)
    assert message in str(error)
    assert error.retry is retry


async def test_a_program_that_overstays_its_time_is_killed_with_all_it_started(
    spawning: Hands, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventhost.actions.exec.GRACE_S", 0.05)
    os.mkfifo(host.root / "alive")
    # Whoever lives has the pipe open for writing; its reader sees its end when none is left.
    script = "trap '' TERM; exec 3>alive; sleep 600 & sleep 600 & echo up; wait; wait"
    reader = os.open(host.root / "alive", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with capture_logs() as lines:
            error = await failure({"exec": ["sh", "-c", script], "timeout": "2s"}, spawning)
        assert error.retry
        assert "did not end within 2 s, and was killed" in str(error)
        assert "up" in [line.get("text") for line in lines]
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)


async def test_endless_output_is_cut(spawning: Hands) -> None:
    script = f"for n in range({MAX_LINES + 50}): print(n)\nprint('x' * 1_000_000)"
    with capture_logs() as lines:
        await run({"exec": ["python", "-c", script]}, spawning)
    assert len([line for line in lines if line["event"] == "exec_output"]) == MAX_LINES
    assert [line["event"] for line in lines].count("exec_output_cut") == 1


async def test_a_last_line_without_an_end_is_logged(spawning: Hands) -> None:
    with capture_logs() as lines:
        await run({"exec": ["printf", "one\ntwo"]}, spawning)
    assert [line["text"] for line in lines if line["event"] == "exec_output"] == ["one", "two"]


async def test_a_program_gets_a_secret_as_it_is_and_shows_its_reference(spawning: Hands, host: Host) -> None:
    script = 'printf %s "$1" > got; echo "with $1"; echo "$1 failed" >&2; exit "$2"'
    value = {"exec": ["sh", "-c", script, "sh", "${env:TOKEN}", "{{ payload.size }}"]}
    with capture_logs() as lines:
        error = await failure(value, spawning)
    assert (host.root / "got").read_text() == "s3cret"
    assert "s3cret" not in repr(lines)
    assert str(error) == "sh exited with status 3: ${env:TOKEN} failed"


async def test_what_a_program_gives(spawning: Hands) -> None:
    script = "import sys; print('one'); print('two\\n'); print('oh', file=sys.stderr)"
    given = await run({"exec": ["python", "-c", script]}, spawning)
    assert given == {"status": 0, "stdout": "one\ntwo\n", "stderr": "oh"}


@pytest.mark.parametrize("script", ["for n in range(50_000): print(n)", "print('x' * 1_000_000, end='')"])
async def test_of_a_long_output_the_end_is_given(spawning: Hands, script: str) -> None:
    given = await run({"exec": ["python", "-c", script]}, spawning)
    assert 0.9 * MAX_TAIL["stdout"] < len(given["stdout"]) <= MAX_TAIL["stdout"]
    assert given["stdout"].endswith(("49999", "xxx"))


async def test_a_program_gets_each_event_that_was_gathered_as_a_line(spawning: Hands, host: Host) -> None:
    await run({"exec": ["sh", "-c", "cat > got"]}, spawning, batch=(ENTRY, replace_seq(6)))
    lines = (host.root / "got").read_bytes().splitlines()
    assert [EnvEvent.from_json(line) for line in lines] == [EVENT, EVENT]


async def test_a_program_whose_run_is_cancelled_is_killed_with_all_it_started(
    spawning: Hands, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventhost.actions.exec.GRACE_S", 0.05)
    os.mkfifo(host.root / "alive")
    script = "trap '' TERM; exec 3>alive; sleep 600 & sleep 600 & echo up; wait; wait"
    reader = os.open(host.root / "alive", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with capture_logs() as lines:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run, {"exec": ["sh", "-c", script]}, spawning)
                await until(lambda: "up" in [line.get("text") for line in lines])
                with pytest.raises(BlockingIOError):
                    os.read(reader, 1)
                tasks.cancel_scope.cancel()
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)


# webhook


@asynccontextmanager
async def receiver(
    answer: Callable[[httpx2.Request], httpx2.Response], host: Host
) -> AsyncIterator[tuple[Hands, list[httpx2.Request]]]:
    requests: list[httpx2.Request] = []

    async def handle(request: httpx2.Request) -> httpx2.Response:
        await request.aread()
        requests.append(request)
        return answer(request)

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(handle)) as http:
        yield host.hands(http=http), requests


def answering(status: int, **fields: Any) -> Callable[[httpx2.Request], httpx2.Response]:
    async def body() -> AsyncIterator[bytes]:
        yield b"as said"

    return lambda request: httpx2.Response(status, content=body(), **fields)


async def test_a_webhook_posts_the_event(host: Host) -> None:
    async with receiver(answering(204), host) as (hands, requests):
        given = await run({"webhook": "https://example.com/{{ payload.size }}?k=${env:TOKEN}"}, hands)
    assert given == {"status": 204, "headers": {}, "body": "as said"}
    (request,) = requests
    assert request.method == "POST"
    assert str(request.url) == "https://example.com/3?k=s3cret"
    assert request.headers["content-type"] == "application/json"
    assert EnvEvent.from_json(request.content) == EVENT


@pytest.mark.parametrize(
    ("extra", "content", "content_type"),
    [
        ({"body": {"n": "{{ payload.size }}"}}, b'{"n":3}', "application/json"),
        ({"body": [1, "${env:TOKEN}"]}, b'[1,"s3cret"]', "application/json"),
        ({"body": "new: {{ payload.path }}"}, b"new: a b.txt", "text/plain; charset=utf-8"),
        ({"body": "{{ payload }}"}, b'{"path":"a b.txt","size":3}', "application/json"),
        ({"body": "x", "headers": {"content-type": "text/csv"}}, b"x", "text/csv"),
        ({"method": "GET"}, b"", None),
    ],
)
async def test_a_webhook_sends_what_it_is_told_to(
    host: Host, extra: dict[str, Any], content: bytes, content_type: str | None
) -> None:
    async with receiver(answering(200), host) as (hands, requests):
        await run({"webhook": "https://example.com", **extra}, hands)
    assert requests[0].content == content
    assert requests[0].headers.get("content-type") == content_type


async def test_a_webhook_posts_a_list_of_what_was_gathered(host: Host) -> None:
    async with receiver(answering(200), host) as (hands, requests):
        for batch in ((ENTRY,), (ENTRY, replace_seq(6))):
            await run({"webhook": "https://example.com"}, hands, batch=batch)
    assert [len(json.loads(request.content)) for request in requests] == [1, 2]
    assert json.loads(requests[0].content)[0] == json.loads(EVENT.to_json())


@pytest.mark.parametrize(
    ("headers", "content", "body"),
    [
        ({"content-type": "application/json"}, b'{"id": 5}', {"id": 5}),
        ({"content-type": "Application/Problem+JSON; charset=utf-8"}, b"[1]", [1]),
        ({"content-type": "application/json"}, b"{no json", "{no json"),
        ({"content-type": "application/json"}, b"[" * 100_000, "[" * 100_000),
        ({"content-type": "text/plain"}, b'{"id": 5}', '{"id": 5}'),
        ({}, "žluťoučký".encode(), "žluťoučký"),
        ({}, b"\xff\x00 and more", None),
        ({"content-encoding": "gzip"}, b"\x1f\x8b", None),
        ({}, b"", None),
    ],
)
async def test_what_an_answer_says(host: Host, headers: dict[str, str], content: bytes, body: Any) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield content

    async with receiver(lambda _: httpx2.Response(201, headers=headers, content=chunks()), host) as (hands, _):
        given = await run({"webhook": "https://example.com"}, hands)
    assert given["status"] == 201
    assert given["body"] == body


async def test_a_few_headers_are_given_and_no_cookie(host: Host) -> None:
    headers = {"location": "/orders/5", "set-cookie": "session=1", "x-request-id": "s3cret"}
    async with receiver(answering(201, headers=headers), host) as (hands, _):
        given = await run({"webhook": "https://example.com?k=${env:TOKEN}"}, hands)
    assert given["headers"] == {"location": "/orders/5", "x-request-id": "${env:TOKEN}"}


async def test_an_endless_answer_is_read_up_to_a_bound(host: Host) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield "é".encode() * 50_001

    async with receiver(lambda _: httpx2.Response(200, content=endless()), host) as (hands, _):
        given = await run({"webhook": "https://example.com"}, hands)
    assert MAX_ANSWER - 2 <= len(given["body"].encode()) <= MAX_ANSWER


async def test_an_answer_whose_rest_does_not_come_is_what_its_status_says(host: Host) -> None:
    async def stuck() -> AsyncIterator[bytes]:
        yield b"half"
        await anyio.sleep_forever()

    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise httpx2.ReadError("gone")

    for content in (stuck, broken):
        async with receiver(lambda _, content=content: httpx2.Response(200, content=content()), host) as (hands, _):
            given = await run({"webhook": "https://example.com", "timeout": "20ms"}, hands)
        assert given == {"status": 200, "headers": {}, "body": "half"}
        async with receiver(lambda _, content=content: httpx2.Response(404, content=content()), host) as (hands, _):
            assert not (await failure({"webhook": "https://example.com", "timeout": "20ms"}, hands)).retry


@pytest.mark.parametrize(
    ("said", "least_s", "most_s"),
    [
        ("120", 120, 120),
        ("0", 0, 0),
        ("Fri, 01 Jan 2100 00:00:00 GMT", 1e6, 1e10),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0, 0),
        ("soon", 0, 0),
        ("-5", 0, 0),
        ("٣", 0, 0),
        ("9" * 100, 0, 1e9),
    ],
)
async def test_a_server_may_ask_to_wait(host: Host, said: str, least_s: float, most_s: float) -> None:
    headers = {"retry-after": said.encode()}
    async with receiver(answering(429, headers=headers), host) as (hands, _):
        error = await failure({"webhook": "https://example.com"}, hands)
    assert least_s <= error.after_s <= most_s


async def test_headers_are_filled_in(host: Host) -> None:
    headers = {"Authorization": "Bearer ${env:TOKEN}", "X-Size": "{{ payload.size }}"}
    async with receiver(answering(200), host) as (hands, requests):
        await run({"webhook": "https://example.com", "headers": headers}, hands)
    assert requests[0].headers["authorization"] == "Bearer s3cret"
    assert requests[0].headers["x-size"] == "3"


@pytest.mark.parametrize(
    ("status", "retry"),
    [(400, False), (401, False), (404, False), (408, True), (425, True), (429, True), (500, True), (503, True)],
)
async def test_only_2xx_is_success(host: Host, status: int, retry: bool) -> None:
    async with receiver(answering(status), host) as (hands, _):
        error = await failure({"webhook": "https://example.com"}, hands)
    assert error.retry is retry
    assert f"answered {status}" in str(error)


async def test_redirects_are_not_followed(host: Host) -> None:
    async with receiver(answering(307, headers={"location": "https://elsewhere.example"}), host) as (hands, requests):
        error = await failure({"webhook": "https://example.com"}, hands)
    assert len(requests) == 1
    assert "redirects are not followed" in str(error)
    assert not error.retry


async def test_a_connection_that_cannot_be_made_is_tried_again(host: Host) -> None:
    def refuse(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError(f"refused: {request.url}")

    async with receiver(refuse, host) as (hands, _):
        error = await failure({"webhook": "https://example.com/${env:TOKEN}"}, hands)
    assert error.retry
    assert str(error) == "POST https://example.com/${env:TOKEN}: could not be connected to"


async def test_an_answer_that_does_not_come_is_given_up(host: Host) -> None:
    async def never(request: httpx2.Request) -> httpx2.Response:
        await anyio.sleep_forever()
        raise AssertionError

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(never)) as http:
        error = await failure({"webhook": "https://example.com", "timeout": "20ms"}, host.hands(http=http))
    assert error.retry
    assert "did not answer within 0.02 s" in str(error)


@asynccontextmanager
async def server(header: str = "") -> AsyncIterator[tuple[str, list[bytes]]]:
    """A real HTTP server on the loopback; what requests it got."""
    requests: list[bytes] = []

    async def handle(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            with suppress(anyio.EndOfStream):
                await respond(stream)

    async def respond(stream: anyio.abc.ByteStream) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += await stream.receive()
        head, _, body = data.partition(b"\r\n\r\n")
        length = int(dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])[b"content-length"])
        while len(body) < length:
            body += await stream.receive()
        requests.append(head + b"\r\n\r\n" + body)
        await stream.send(f"HTTP/1.1 204 No Content\r\nConnection: close\r\n{header}\r\n".encode())

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}", requests
        tasks.cancel_scope.cancel()


async def test_over_a_real_connection_and_without_a_word_in_the_log(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        async with server() as (url, requests), http_client() as http:
            given = await run({"webhook": f"{url}/hook?k=${{env:TOKEN}}"}, host.hands(http=http))
    assert given == {"status": 204, "headers": {}, "body": None}
    assert requests[0].startswith(b"POST /hook?k=s3cret HTTP/1.1\r\n")
    assert requests[0].endswith(EVENT.to_json())
    assert not caplog.records


async def test_a_cookie_of_one_request_is_not_sent_with_the_next(host: Host) -> None:
    async with server("Set-Cookie: session=1; Path=/\r\n") as (url, requests), http_client() as http:
        for _ in range(2):
            await run({"webhook": url}, host.hands(http=http))
    assert len(requests) == 2
    assert not any(b"cookie" in request.lower() for request in requests)


async def test_a_request_that_is_cancelled_is_hung_up_on(host: Host) -> None:
    asked, hung_up = anyio.Event(), anyio.Event()

    async def silent(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while True:
                    await stream.receive()
                    asked.set()
            hung_up.set()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, http_client() as http:
        url = f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
        async with anyio.create_task_group() as serving:
            serving.start_soon(listener.serve, silent)
            async with anyio.create_task_group() as asking:
                asking.start_soon(run, {"webhook": url}, host.hands(http=http))
                await asked.wait()
                asking.cancel_scope.cancel()
            with anyio.fail_after(LIMIT_S):
                await hung_up.wait()
            serving.cancel_scope.cancel()


async def test_no_error_shows_a_secret(host: Host) -> None:
    host.secrets = {"${env:TOKEN}": "s3cret\r\n", "${env:URL}": "s3cret://x", "${env:WORSE}": "https://s3cret\x00/"}
    async with server() as (url, _), http_client() as http:
        cases: list[dict[str, Any]] = [
            {"webhook": url, "headers": {"Authorization": "${env:TOKEN}"}},
            {"webhook": url, "headers": {"${env:TOKEN}": "x", "a b": "x"}},
            {"webhook": url, "headers": {"X": "${env:TOKEN}\u1234"}},
            {"webhook": "${env:URL}"},
            {"webhook": "${env:WORSE}"},
            {"webhook": url, "body": "${env:MISSING}"},
        ]
        for case in cases:
            error = await failure(case, host.hands(http=http))
            assert "s3cret" not in str(error)
            assert not error.retry, str(error)
            assert error.__suppress_context__


async def test_nothing_an_event_says_becomes_a_secret(host: Host) -> None:
    sneaky = EnvEvent("1", "t", 0, {}, {"name": "${env:TOKEN}"})
    async with receiver(answering(200), host) as (hands, requests):
        await run({"webhook": "https://x.example", "body": "hi {{ payload.name }}"}, hands, entry=Entry(1, 0, sneaky))
    assert requests[0].content == b"hi ${env:TOKEN}"


# python


HANDLERS = """
import asyncio, os, sys, time
import neighbour

seen = []

def plain(event):
    seen.append(event.id)
    return (event.payload["size"], neighbour.NAME, len(seen))

async def waits(event):
    await asyncio.sleep(0)
    return event.type

def returns_awaitable(event):
    return waits(event)

def fails(event):
    raise ValueError("no good")

def exits(event):
    sys.exit(3)

def times_out(event):
    raise TimeoutError("mine")

ended = []

async def for_ever(event):
    try:
        await asyncio.sleep(3600)
    finally:
        ended.append(event.id)

def changes(event):
    event.payload["size"] += 1
    event.metadata.clear()
    return event.payload["size"]

def counts(events):
    return [event.id for event in events]

def knows(event, result, *, error=None):
    result["seen"] = True
    return [result, error]

def knows_nothing(result):
    return result.id

def yields(event):
    yield 1

async def yields_later(event):
    yield 1

class Things:
    @staticmethod
    def on_event(event):
        return "static"

NOT_A_FUNCTION = 5
"""


@pytest.fixture
def handlers(host: Host) -> Path:
    (host.root / "handlers.py").write_text(HANDLERS)
    (host.root / "neighbour.py").write_text("NAME = 'first'\n")
    return host.root


async def test_a_function_is_called_with_the_event(host: Host, handlers: Path) -> None:
    hands = host.hands()
    assert await run({"python": "handlers:plain"}, hands) == (3, "first", 1)
    assert await run({"python": "handlers:plain"}, hands) == (3, "first", 2)
    assert await run({"python": "handlers:waits"}, hands) == "file.created"
    assert await run({"python": "handlers:returns_awaitable"}, hands) == "file.created"
    assert await run({"python": "handlers:Things.on_event"}, hands) == "static"


async def test_what_a_function_changes_is_its_own(host: Host, handlers: Path) -> None:
    hands = host.hands()
    assert [await run({"python": "handlers:changes"}, hands) for _ in range(2)] == [4, 4]
    assert EVENT.payload["size"] == 3
    result = {"a": 1}
    given = await run({"python": "handlers:knows"}, hands, values={"result": result, "error": {"message": "m"}})
    assert given == [{"a": 1, "seen": True}, {"message": "m"}]
    assert result == {"a": 1}


async def test_a_function_gets_the_events_that_were_gathered_as_a_list(host: Host, handlers: Path) -> None:
    for batch in ((ENTRY,), (ENTRY, replace_seq(6))):
        assert await run({"python": "handlers:counts"}, host.hands(), batch=batch) == ["7"] * len(batch)


async def test_the_first_parameter_is_the_event_whatever_its_name(host: Host, handlers: Path) -> None:
    assert await run({"python": "handlers:knows_nothing"}, host.hands(), values={"result": 5}) == "7"


async def test_functions_leave_no_trace_in_the_process(
    host: Host, handlers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path, modules = list(sys.path), set(sys.modules)
    await run({"python": "handlers:plain"}, host.hands())
    assert sys.path == path
    assert not {"handlers", "neighbour"} & (set(sys.modules) - modules)
    assert "__pycache__" not in os.listdir(handlers)


async def test_a_module_of_the_same_name_elsewhere_is_not_disturbed(
    host: Host, handlers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker: Any = object()
    monkeypatch.setitem(sys.modules, "handlers", marker)
    assert (await run({"python": "handlers:plain"}, host.hands()))[0] == 3
    assert sys.modules["handlers"] is marker


async def test_an_edited_file_is_used_from_the_next_event_on(host: Host, handlers: Path) -> None:
    hands = host.hands()
    assert (await run({"python": "handlers:plain"}, hands))[1] == "first"
    (handlers / "neighbour.py").write_text("NAME = 'other'\n")
    os.utime(handlers / "neighbour.py", ns=(1, 1))
    assert await run({"python": "handlers:plain"}, hands) == (3, "other", 1)
    (handlers / "neighbour.py").write_text("NAME = \n")
    assert "cannot be imported: SyntaxError" in str(await failure({"python": "handlers:plain"}, hands))
    (handlers / "neighbour.py").write_text("NAME = 'mended'\n")
    assert (await run({"python": "handlers:plain"}, hands))[1] == "mended"


async def test_functions_of_one_module_share_its_state(host: Host, handlers: Path) -> None:
    (handlers / "also.py").write_text("import handlers\ndef count(event): return len(handlers.seen)\n")
    hands = host.hands()
    await run({"python": "handlers:plain"}, hands)
    assert await run({"python": "also:count"}, hands) == 1


async def test_an_installed_function_can_be_named(host: Host) -> None:
    assert await run({"python": "msgspec.json:encode"}, host.hands()) == EVENT.to_json()


@pytest.mark.parametrize(
    ("target", "retry", "message"),
    [
        ("handlers:fails", True, "handlers:fails: ValueError: no good (handlers.py, line 19)"),
        ("handlers:times_out", True, "handlers:times_out: TimeoutError: mine (handlers.py, line 25)"),
        ("handlers:exits", True, "SystemExit: 3"),
        ("handlers:yields", False, "is a generator: nothing of it is run"),
        ("handlers:yields_later", False, "is a generator: nothing of it is run"),
        ("handlers:nosuch", False, "the module handlers has no nosuch"),
        ("handlers:NOT_A_FUNCTION", False, "this is no function"),
        ("nosuch_module_anywhere:f", False, "nosuch_module_anywhere cannot be imported: ModuleNotFoundError"),
    ],
)
async def test_a_function_that_fails(host: Host, handlers: Path, target: str, retry: bool, message: str) -> None:
    error = await failure({"python": target}, host.hands())
    assert message in str(error)
    assert error.retry is retry


async def test_an_async_function_that_never_returns_is_cancelled(host: Host, handlers: Path) -> None:
    error = await failure({"python": "handlers:for_ever", "timeout": "20ms"}, host.hands())
    assert "did not return within 0.02 s" in str(error)
    assert error.retry


async def test_an_async_function_whose_run_is_cancelled_ends(host: Host, handlers: Path) -> None:
    hands = host.hands()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, {"python": "handlers:for_ever"}, hands)
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert hands.functions.find("handlers:for_ever").__globals__["ended"] == ["7"]


async def test_calls_that_are_on_time_are_not_counted_as_left(host: Host) -> None:
    (host.root / "stuck.py").write_text("import threading\ngate = threading.Event()\ndef wait(event): gate.wait()\n")
    hands, made = host.hands(), action({"python": "stuck:wait"})
    async with anyio.create_task_group() as tasks:
        for _ in range(MAX_LEFT + 3):
            tasks.start_soon(made.run, ENTRY, Context(hands, "greet", "0"))
        await until(lambda: sum("stuck" in thread.name for thread in threading.enumerate()) == MAX_LEFT + 3)
        hands.functions.find("stuck:wait").__globals__["gate"].set()


async def test_a_thread_that_never_returns_is_left_and_soon_no_more_are_started(host: Host) -> None:
    (host.root / "stuck.py").write_text("import threading\ngate = threading.Event()\ndef wait(event): gate.wait()\n")
    hands, made = host.hands(), action({"python": "stuck:wait", "timeout": "10ms"})
    try:
        messages = []
        for _ in range(9):
            with pytest.raises(ActionError) as caught:
                await made.run(ENTRY, Context(hands, "greet", "0"))
            messages.append(str(caught.value))
        assert "did not return within" in messages[0]
        assert messages[-1] == "stuck:wait: 8 earlier calls have not returned yet"
    finally:
        hands.functions.find("stuck:wait").__globals__["gate"].set()
    for thread in threading.enumerate():
        if thread.name.startswith("python action stuck"):
            thread.join(LIMIT_S)
    with anyio.fail_after(LIMIT_S):
        await made.run(ENTRY, Context(hands, "greet", "0"))


def test_the_limits_are_documented() -> None:
    document = (Path(__file__).parent.parent / "docs" / "rules.md").read_text()
    limits = (MAX_LENGTH, MAX_TAIL["stdout"], MAX_TAIL["stderr"], MAX_ATTEMPTS, MAX_RESULT_BYTES // 1024)
    assert [limit for limit in limits if f"{limit:,}" not in document] == []
    assert CUT in document
    assert {line.split("`")[1] for line in document.partition("| key of an action |")[2].splitlines()[2:5]} == set(KEYS)
