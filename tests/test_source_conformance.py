"""What `source test` relies on in any source: a good one passes all of it, and each check can fail."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import psutil
import pytest
from source_checks import FLAWED, environment, tried

from eventhost.cli.source_test import conformance, session
from eventhost.cli.source_test.check import Outcome
from eventhost.cli.source_test.conformance import CHECKS

pytestmark = pytest.mark.anyio

LIMIT_S = 60
"""Never reached unless something is broken."""

AFTER_ONE_EVENT = {"same id", "ends after an event", "again"}
"""Flaws that show only after the first event."""

SHELL = r"""
emit() {
  printf '{"jsonrpc":"2.0","method":"eventsource/event","params":{"id":"%s","type":"shell.started"}}\n' "$$"
}
answer() {
  id=${request#*\"id\":}
  printf '{"jsonrpc":"2.0","id":%s,%s}\n' "${id%%[,\}]*}" "$1"
}
while IFS= read -r request; do
  case $request in
    *'"initialize"'*)
      answer '"result":{"protocolVersion":"2025-06-18","capabilities":{},"serverInfo":{"name":"sh","version":"1"}}' ;;
    *'"notifications/initialized"'*) emit ;;
    *'"notifications/'*) ;;
    *'"ping"'*) answer '"result":{}' ;;
    *'"id"'*'"method"'*) answer '"error":{"code":-32601,"message":"no such method"}' ;;
  esac
done
"""


def flawed(root: Path, flaw: str, **config: object) -> None:
    command = [sys.executable, "-I", "-S", "server.py"]
    settings = {"command": command, "eventTypes": ["flawed.*"], "stopTimeout": "20s", "flaw": flaw, **config}
    environment(root, "flawed", {"server.py": FLAWED}, **settings)


async def test_a_source_without_a_flaw_passes_every_check(tmp_path: Path) -> None:
    flawed(tmp_path, "")
    with anyio.fail_after(LIMIT_S):
        checks = await tried(tmp_path, "flawed")
    assert list(checks) == list(CHECKS)
    assert {check.outcome for check in checks.values()} == {Outcome.OK}, list(checks.values())
    assert "1 flawed.happened" in checks["events"].said
    assert "1 events were acknowledged" in checks["acknowledgement"].said


async def test_a_raw_shell_script_passes_every_check(tmp_path: Path) -> None:
    environment(tmp_path, "shell", {"server.sh": SHELL}, command=["sh", "server.sh"], stopTimeout="20s")
    with anyio.fail_after(LIMIT_S):
        checks = await tried(tmp_path, "shell")
    skipped = {name for name, check in checks.items() if check.outcome is Outcome.SKIPPED}
    assert skipped == {"tools", "resources", "acknowledgement"}
    assert not [check for check in checks.values() if check.outcome is Outcome.FAILED]


@pytest.mark.parametrize(
    ("flaw", "name", "said"),
    [
        ("odd handshake", "handshake", "serverInfo.version: expected a text; came null"),
        ("odd handshake", "handshake", "capabilities.tools: expected an object; came true"),
        ("odd handshake", "handshake", "protocolVersion: expected one of"),
        ("odd pong", "handshake", 'expected "result": {} for ping; came'),
        ("same name", "tools", "list_pending_events: expected each name once"),
        ("odd name", "tools", "expected a name of 1 to 128 letters"),
        ("no schema", "tools", 'expected an inputSchema such as {"type": "object"}; came null'),
        ("pending is no JSON", "tools", "expected a JSON array of events as text"),
        ("pending is a number", "tools", "its text is no array of events: 7"),
        ("unreadable", "resources", 'flawed://status: expected a list "contents"; came null'),
        ("no JSON in it", "resources", "flawed://status: expected JSON, as its mimeType says"),
        ("knows everything", "unknown method", "expected the error -32601; came"),
        ("answers notifications", "unknown notification", "expected no answer; came"),
        ("wrong type", "events", "type 'other.happened' is not among the configured eventTypes"),
        ("no type", "events", "type: a non-empty string is required"),
        ("in seconds", "events", "is in seconds; write milliseconds"),
        ("same id", "events", "id: expected another for each event"),
        ("ends after an event", "events", "it ended with status 3"),
        ("ends by itself", "events", "expected that it lives on; after 0 events it ended with status 3"),
        ("again", "acknowledgement", "came again: 1"),
        ("no id", "acknowledgement", "expected an id in each event"),
        ("dies of ids", "acknowledgement", "expected that it bears with an id that it does not know; it ended with"),
        ("dies of garbage", "garbage", "a line that is no JSON: expected that it goes on; it ended with status 1"),
        ("dies of arrays", "garbage", "a JSON array: expected that it goes on; it ended with status 4"),
        ("dies of size", "garbage", "a line of 1048576 bytes: expected that it goes on; it ended with status 5"),
        ("drops", "slow reader", "pings were not answered"),
        ("tears", "slow reader", "the last line has no end: "),
        ("odd status", "stdin end", "expected status 0; it ended with status 3"),
        ("leaves a process", "stdin end", "expected no process left behind; 1 lived on"),
        ("half a line", "stdin end", "expected whole lines; the last one was '{\"jsonrpc\":'"),
        ("dies inside a line", "stdin end inside a line", "expected status 0; it ended with status 1"),
        ("needs initialize", "stdin end before initialize", "its last words: nobody was there"),
        ("does not start again", "killed", "its last words: it seems to be running already"),
        ("prints", "stdout", "a line that is no JSON: Ready!"),
    ],
)
async def test_each_check_fails_for_the_source_that_has_its_flaw(
    flaw: str, name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flawed(tmp_path, flaw)
    monkeypatch.setattr(conformance, "ANSWER_S", 2.0)  # how long an answer that was lost is waited for
    only = {name, "events"} if name == "acknowledgement" else {name}
    with anyio.fail_after(LIMIT_S):
        checks = await tried(tmp_path, "flawed", only, count=2 if flaw in AFTER_ONE_EVENT else 1)
    assert checks[name].outcome is Outcome.FAILED
    assert said in "\n".join([checks[name].said, *checks[name].details])


async def test_a_second_answer_is_seen_wherever_it_comes(tmp_path: Path) -> None:
    flawed(tmp_path, "answers twice")
    with anyio.fail_after(LIMIT_S):
        checks = await tried(tmp_path, "flawed", {"resources", "stdout"})
    assert checks["stdout"].outcome is Outcome.FAILED
    assert "a second answer to the same request" in checks["stdout"].details[0]


async def test_a_source_that_ignores_the_end_of_stdin_is_told_and_ended(tmp_path: Path) -> None:
    flawed(tmp_path, "lives on", stopTimeout="100ms")
    with anyio.fail_after(LIMIT_S):
        checks = await tried(tmp_path, "flawed", {"stdin end"})
    assert "expected that it ends within 0.1 s (stopTimeout); it lived on, and was killed" in checks["stdin end"].said
    assert not psutil.Process().children(recursive=True)


async def test_without_a_handshake_the_rest_is_skipped(tmp_path: Path) -> None:
    flawed(tmp_path, "silent", initTimeout="500ms", stopTimeout="100ms")
    with anyio.fail_after(LIMIT_S):
        checks = await tried(tmp_path, "flawed")
    assert "expected an answer to initialize within 0.5 s (initTimeout)" in checks["handshake"].said
    outcomes = {name: check.outcome for name, check in checks.items() if name not in ("handshake", "stdout")}
    assert set(outcomes.values()) == {Outcome.SKIPPED}
    assert list(checks) == list(CHECKS)


async def test_a_source_that_cannot_be_started_has_written_nothing_to_stdout(tmp_path: Path) -> None:
    environment(tmp_path, "absent", {}, command=["no-such-program"])
    checks = await tried(tmp_path, "absent")
    assert {check.outcome for name, check in checks.items() if name != "handshake"} == {Outcome.SKIPPED}


async def test_a_source_that_blocks_is_told_once_and_asked_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flawed(tmp_path, "blocks", stopTimeout="100ms")
    monkeypatch.setattr(session, "ANSWER_S", 1.0)
    with anyio.fail_after(LIMIT_S):
        checks = await tried(tmp_path, "flawed")
    why = "it has not answered for 1 s: does it loop or block?"
    assert checks["tools"].outcome is Outcome.FAILED
    assert checks["tools"].said.endswith(f"{why}; its last words: deep in thought")
    assert checks["events"].said.startswith("1 flawed.happened")  # what had come is looked at all the same
    assert "it lived on, and was killed" in checks["stdin end"].said
    tried_still = {"handshake", "tools", "events", "stdin end", "stdout"}
    assert {name: check.said for name, check in checks.items() if name not in tried_still} == dict.fromkeys(
        (name for name in CHECKS if name not in tried_still), why
    )
    assert not psutil.Process().children(recursive=True)


async def test_a_source_that_leaves_one_question_alone_is_not_taken_for_blocked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flawed(tmp_path, "leaves questions alone")
    monkeypatch.setattr(session, "ANSWER_S", 2.0)
    with anyio.fail_after(LIMIT_S):
        checks = await tried(tmp_path, "flawed")
    assert [name for name, check in checks.items() if check.outcome is not Outcome.OK] == ["unknown method"]
    assert "no answer came within 2 s, though a ping was answered" in checks["unknown method"].said


async def test_a_source_that_ends_by_itself_fails_one_check_and_not_those_that_were_in_its_way(tmp_path: Path) -> None:
    flawed(tmp_path, "falls")
    with anyio.fail_after(LIMIT_S):
        checks = await tried(tmp_path, "flawed")
    if checks["handshake"].outcome is Outcome.OK:  # else it was gone before the first ping
        assert [name for name, check in checks.items() if check.outcome is Outcome.FAILED] == ["events"]
        assert "after 1 events it ended with status 1; its last words: I give up" in checks["events"].said
        refused, *words = checks["events"].details
        assert "type 'other.happened' is not among the configured eventTypes" in refused
        assert words == ["it was refused:", "I give up"]
        assert checks["tools"].said.startswith("it ends by itself within ")
        assert checks["killed"].outcome is Outcome.SKIPPED


async def test_a_check_that_ends_the_source_is_told_and_the_next_has_another_process(tmp_path: Path) -> None:
    flawed(tmp_path, "dies of tools")
    with anyio.fail_after(LIMIT_S):
        checks = await tried(tmp_path, "flawed")
    assert [name for name, check in checks.items() if check.outcome is not Outcome.OK] == ["tools"]
    assert "it ended with status 1; its last words: the tools are gone" in checks["tools"].said
    assert checks["tools"].details == ["no such luck:", "the tools are gone"]


async def test_what_a_server_gathers_is_asked_for(tmp_path: Path) -> None:
    flawed(tmp_path, "pending")
    with anyio.fail_after(LIMIT_S):
        checks = await tried(tmp_path, "flawed", {"tools", "events"}, count=3)
    assert checks["events"].said.endswith("by the tool list_pending_events")


async def test_a_program_that_is_missing_fails_the_handshake(tmp_path: Path) -> None:
    environment(tmp_path, "absent", {}, command=["no-such-program"])
    checks = await tried(tmp_path, "absent")
    assert "it cannot be started: no-such-program is not on PATH" in checks["handshake"].said
