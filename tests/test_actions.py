"""Each kind of action: what it does, what it refuses, and that its failure is its own."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import httpx2
import msgspec
import pytest
from structlog.testing import capture_logs

from eventhost.actions import Action, Context, Hands, http_client, parse_actions
from eventhost.actions.caused import MAX_HOPS, caused_event
from eventhost.actions.exec import MAX_LINES
from eventhost.config.tree import Tree
from eventhost.connections.process import Guardian, child
from eventhost.errors import ActionError, BusClosed, ConfigError, ConnectionLost, NotFound, Problem
from eventhost.event import EnvEvent
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


def action(value: Any) -> Action:
    return parse_actions(tree(value))[0]


def tree(value: Any) -> Tree:
    text = json.dumps(value, indent=2)
    return Tree.parse(text, "config.jsonc")


async def run(value: Any, hands: Hands, *, entry: Entry = ENTRY, index: int = 0) -> Any:
    with anyio.fail_after(LIMIT_S):
        return await action(value).run(entry, Context(hands, "greet", index))


async def failure(value: Any, hands: Hands, *, entry: Entry = ENTRY) -> ActionError:
    with pytest.raises(ActionError) as caught:
        await run(value, hands, entry=entry)
    return caught.value


# Reading


def test_a_single_object_is_one_action() -> None:
    assert [made.kind for made in parse_actions(tree({"log": "hello"}))] == ["log"]


def test_the_first_key_names_the_action() -> None:
    actions = [
        {"log": "x", "level": "warning"},
        {"emit": "t"},
        {"tool": "a__b", "timeout": "5s"},
        {"exec": ["true"]},
        {"webhook": "https://example.com", "method": "PUT"},
        {"python": "package.module:Class.method"},
    ]
    assert [made.kind for made in parse_actions(tree(actions))] == [next(iter(one)) for one in actions]


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
    with pytest.raises(ConfigError) as caught:
        parse_actions(tree([{"log": 1}, {"log": "ok"}, {"nosuch": 1}]))
    assert [problem.field for problem in caught.value.problems] == ["[0].log", "[2].nosuch"]


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
    for entry, index in ((ENTRY, 0), (ENTRY, 0), (ENTRY, 1), (replace_seq(6), 0), (Entry(5, 99, EVENT), 0)):
        await run(value, hands, entry=entry, index=index)
    first, again, *others = host.published
    assert first == again
    assert len({event.id for event in (first, *others)}) == 4


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
    early, late = (caused_event("t", {}, cause=Entry(1, at, EVENT), rule="r", index=0).id for at in (1000, 2000))
    assert early < late
    assert early[14] == "8"
    assert len(early) == 36


# tool


async def test_a_tool_is_called_with_filled_in_arguments(host: Host) -> None:
    host.answer = lambda: "done"
    value = {
        "tool": "todo__add",
        "arguments": {"title": "{{ payload.path }}", "n": "{{ payload.size }}", "key": "${env:TOKEN}"},
    }
    assert await run(value, host.hands()) == "done"
    assert host.calls == [("todo__add", {"title": "a b.txt", "n": 3, "key": "s3cret"})]


async def test_a_tool_without_arguments_gets_none(host: Host) -> None:
    await run({"tool": "a__b"}, host.hands())
    assert host.calls == [("a__b", {})]


@pytest.mark.parametrize(("error", "retry"), [(ConnectionLost("gone"), True), (NotFound("no such tool"), False)])
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


async def test_a_tool_that_never_answers_is_given_up(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventhost.actions.tool._GRACE_S", 0)
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
        assert await run(value, spawning) == 0
    (line,) = [line for line in lines if line["event"] == "exec_output"]
    arguments, stdin = json.loads(line["text"])
    assert arguments == ["a b.txt", "3", '{"path":"a b.txt","size":3}', "s3cret"]
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
        assert await run({"webhook": "https://example.com/{{ payload.size }}?k=${env:TOKEN}"}, hands) == 204
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
async def server() -> AsyncIterator[tuple[str, list[bytes]]]:
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
        await stream.send(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}", requests
        tasks.cancel_scope.cancel()


async def test_over_a_real_connection_and_without_a_word_in_the_log(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        async with server() as (url, requests), http_client() as http:
            assert await run({"webhook": f"{url}/hook?k=${{env:TOKEN}}"}, host.hands(http=http)) == 204
    assert requests[0].startswith(b"POST /hook?k=s3cret HTTP/1.1\r\n")
    assert requests[0].endswith(EVENT.to_json())
    assert not caplog.records


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

async def for_ever(event):
    await asyncio.sleep(3600)

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


async def test_a_thread_that_never_returns_is_left_and_soon_no_more_are_started(host: Host) -> None:
    (host.root / "stuck.py").write_text("import threading\ngate = threading.Event()\ndef wait(event): gate.wait()\n")
    hands, made = host.hands(), action({"python": "stuck:wait", "timeout": "10ms"})
    try:
        messages = []
        for _ in range(9):
            with pytest.raises(ActionError) as caught:
                await made.run(ENTRY, Context(hands, "greet", 0))
            messages.append(str(caught.value))
        assert "did not return within" in messages[0]
        assert messages[-1] == "stuck:wait: 8 earlier calls have not returned yet"
    finally:
        hands.functions.find("stuck:wait").__globals__["gate"].set()
    for thread in threading.enumerate():
        if thread.name.startswith("python action stuck"):
            thread.join(LIMIT_S)
    with anyio.fail_after(LIMIT_S):
        await made.run(ENTRY, Context(hands, "greet", 0))
