"""`eventhost source test`: each check in a line or as JSON, the exit code, and nothing left behind whatever happens."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from source_checks import FLAWED, environment

from eventhost.cli.new_source import Template, create_source

SLOW_S = 60
"""For a machine that does much else; no command takes that long on its own."""

COMMAND = [sys.executable, "-m", "eventhost", "source", "test"]


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No temporary folder, no process, and no state in the environment outlives a test."""
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    yield
    assert not list(scratch.iterdir())
    assert not (tmp_path / "env" / "var").exists()
    assert not processes_in(tmp_path)


def processes_in(folder: Path) -> list[psutil.Process]:
    """The processes that work in a folder, whoever has started them."""

    def works_there(process: psutil.Process) -> bool:
        try:
            return process.cwd().startswith(str(folder)) and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    return [process for process in psutil.process_iter() if works_there(process)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "env"
    made.mkdir()
    (made / "config.jsonc").write_text("{}")
    return made


def run(root: Path, name: str, *arguments: str) -> Any:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("EVENTHOST_")}
    return subprocess.run(
        [*COMMAND, name, "--env", str(root), *arguments],
        env={**clean, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=SLOW_S,
        check=False,
    )


@pytest.mark.parametrize("template", Template)
def test_a_new_source_passes_in_every_language(template: Template, root: Path, needs: Callable[[str], str]) -> None:
    if template is Template.NODE:
        needs("node")
    folder = create_source(root, "door", template)
    config = folder / "config.jsonc"
    config.write_text(config.read_text().replace('"enabled": true,', '"enabled": true, "stopTimeout": "20s",'))
    done = run(root, "door", "--count", "1", "--seconds", "30", "--json")
    said = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout
    assert (said["passed"], said["failed"], said["enabled"]) == (True, 0, True)
    outcomes = {check["name"]: check["outcome"] for check in said["checks"]}
    assert (outcomes["config"], outcomes["golden first-tick"], outcomes["events"]) == ("ok", "ok", "ok")
    assert set(outcomes.values()) <= {"ok", "skipped"}
    assert said["ok"] + said["skipped"] == len(said["checks"])


def flawed(root: Path, flaw: str, **config: Any) -> None:
    command = [sys.executable, "-I", "-S", "server.py"]
    environment(root, "flawed", {"server.py": FLAWED}, command=command, stopTimeout="20s", flaw=flaw, **config)


def test_what_fails_is_told_in_lines_and_ends_with_1(root: Path) -> None:
    flawed(root, "knows everything", enabled=False)
    done = run(root, "flawed", "--count", "1")
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert lines[0] == "ok      config: it is disabled, and tested all the same"
    assert "skipped golden: there are no golden cases; docs/testing-sources.md tells how to write one" in lines
    (failed,) = [line for line in lines if line.startswith("FAILED")]
    assert failed.startswith("FAILED  unknown method: expected the error -32601; came {")
    assert lines[-1].endswith(" ok, 1 FAILED, 1 skipped")


def test_a_source_that_dies_at_once_is_told_in_lines_and_each_reason_once(root: Path) -> None:
    environment(root, "door", {"server.py": "while True\n"})
    done = run(root, "door")
    assert done.returncode == 1
    assert "\\x" not in done.stdout
    lines = done.stdout.splitlines()
    handshake = next(index for index, line in enumerate(lines) if line.startswith("FAILED  handshake: "))
    assert "it ended with status 1; its last words: SyntaxError: " in lines[handshake]
    assert lines[handshake + 2] == "            while True"
    skipped = "skipped tools, resources, unknown method, unknown notification, events, acknowledgement, garbage, "
    skipped += "slow reader, stdin end, stdin end inside a line, stdin end before initialize, killed, stdout"
    assert lines[-2:] == [f"{skipped}: without a handshake there is nobody to ask", "1 ok, 1 FAILED, 14 skipped"]
    checks = json.loads(run(root, "door", "--json").stdout)["checks"]
    assert [check["name"] for check in checks if check["outcome"] == "skipped"][-1] == "stdout"
    assert len(checks) == 16


def test_a_configuration_that_must_be_mended_ends_with_2_and_golden_cases_are_played_all_the_same(root: Path) -> None:
    player = "import sys\nfor case in sys.stdin:\n    print('{\"events\": []}', flush=True)\n"
    files = {"server.py": "", "golden/play.py": player, "golden/a.json": '{"events": []}'}
    environment(root, "door", files, command=7)
    done = run(root, "door")
    assert done.returncode == 2
    lines = done.stdout.splitlines()
    assert lines[0] == "FAILED  config: it cannot be used as it is configured"
    assert done.stderr.startswith("eventsources/door/config.jsonc:1:29: command: expected")
    assert lines[1:] == [
        "ok      golden a",
        "skipped conformance: its configuration must be mended first",
        "1 ok, 1 FAILED, 1 skipped",
    ]


def test_a_disabled_source_with_a_wrong_configuration_is_told_of_it(root: Path) -> None:
    environment(root, "door", {"server.py": ""}, enabled=False, command=7)
    done = run(root, "door", "--json")
    said = json.loads(done.stdout)
    assert (done.returncode, said["passed"]) == (2, False)
    assert "command: expected" in said["checks"][0]["details"][0]


def test_a_source_is_found_although_all_are_switched_off(root: Path) -> None:
    flawed(root, "")
    (root / "config.jsonc").write_text('{"mcp": {"eventSources": {"enabled": false}}}')
    done = run(root, "flawed", "--count", "1")
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("ok      config: it is disabled, and tested all the same\n")


def test_warnings_are_told_and_fail_nothing(root: Path) -> None:
    flawed(root, "", initTimeot="20s")
    done = run(root, "flawed", "--count", "1")
    assert done.returncode == 0, done.stdout
    assert "warning: eventsources/flawed/config.jsonc:1:" in done.stdout
    assert 'initTimeot: no key of the host\'s, only passed on to the server; did you mean "initTimeout"?' in done.stdout


def test_a_name_that_nothing_has_lists_what_there_is(root: Path) -> None:
    flawed(root, "")
    done = run(root, "door")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no source is called 'door'; there are: flawed" in done.stderr


def test_a_connection_that_is_dropped_is_for_streams_alone(root: Path) -> None:
    flawed(root, "")
    done = run(root, "flawed", "--reconnect")
    assert done.returncode == 2
    said = " ".join(done.stderr.replace("│", " ").split())
    assert 'only a source of type "sse" is connected to again' in said


def test_a_source_in_the_hosts_own_process_has_golden_cases_alone(root: Path) -> None:
    environment(root, "door", {"server.py": ""}, type="inprocess", module="door")
    done = run(root, "door")
    assert done.returncode == 0, done.stdout
    assert "skipped conformance: it runs in the host's own process" in done.stdout


def test_over_http_is_tried_what_can_be(root: Path) -> None:
    config = create_source(root, "door", Template.PYTHON) / "config.jsonc"
    said = config.read_text().replace('"enabled": true,', '"enabled": true, "transport": "http",')
    config.write_text(said.replace('"interval": 2000', '"interval": 20'))
    (config.parent / "golden" / "first-tick.jsonc").unlink()
    done = run(root, "door", "--count", "3", "--seconds", "30", "--json")
    assert done.returncode == 0, done.stdout
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    for name in ("handshake", "tools", "resources", "events"):
        assert checks[name]["outcome"] == "ok", checks[name]
    assert checks["garbage"]["said"] == "not applicable over HTTP"
    assert checks["events"]["said"].endswith("by push: door.ticked")


def test_in_the_modern_era_is_tried_what_can_be(root: Path) -> None:
    config = create_source(root, "door", Template.PYTHON) / "config.jsonc"
    said = config.read_text().replace('"enabled": true,', '"enabled": true, "protocol": "modern",')
    config.write_text(said.replace('"interval": 2000', '"interval": 20'))
    done = run(root, "door", "--count", "3", "--seconds", "30")
    assert done.returncode == 0, done.stdout
    assert "ok      handshake: door 1.0.0, MCP 2026-07-28" in done.stdout
    assert "by push: door.ticked" in done.stdout
    names = 'killed, stdout: not tried with "protocol": "modern"\n'
    assert "skipped unknown method, unknown notification, acknowledgement, garbage, " in done.stdout
    assert names in done.stdout


def test_an_address_where_nobody_answers_fails(root: Path) -> None:
    (root / "config.jsonc").write_text(
        '{"mcp": {"clients": {"door": {"type": "remote", "url": "http://127.0.0.1:1/mcp", "initTimeout": "5s"}}}}'
    )
    done = run(root, "door")
    assert done.returncode == 1
    assert "FAILED  handshake: expected an answer to initialize" in done.stdout
    assert "is it running, and is this its address?" in done.stdout


def begun(root: Path) -> subprocess.Popen[str]:
    """The command, with stdout to be read, and much time."""
    command = [*COMMAND, "flawed", "--env", str(root), "--seconds", "300"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until_said(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    while text not in process.stdout.readline():
        assert process.poll() is None


def until(condition: Callable[[], object]) -> None:
    """Wait for what another process does."""
    end = time.monotonic() + SLOW_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.usefixtures("heeds_interrupts")
@pytest.mark.parametrize("moment", ["checks", "golden"])
def test_an_interrupt_ends_all_that_was_started(moment: str, root: Path) -> None:
    player = "import time\nopen('playing', 'w').close()\ntime.sleep(300)\n"
    files = {"golden/play.py": player, "golden/a.json": '{"events": []}'} if moment == "golden" else {}
    command = [sys.executable, "-I", "-S", "server.py"]
    folder = environment(root, "flawed", {"server.py": FLAWED, **files}, command=command, flaw="leaves a process")
    process = begun(root)
    if moment == "checks":
        until_said(process, "unknown notification")
    else:
        until((folder / "playing").exists)
    assert processes_in(folder)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=SLOW_S)
    assert process.returncode == 130


def test_a_command_that_is_killed_leaves_no_process(root: Path, tmp_path: Path) -> None:
    flawed(root, "leaves a process")
    folder = root / "eventsources" / "flawed"
    process = begun(root)
    until_said(process, "unknown notification")
    assert processes_in(folder)
    process.kill()
    process.communicate(timeout=SLOW_S)
    until(lambda: not processes_in(folder))
    for left in (tmp_path / "tmp").iterdir():
        shutil.rmtree(left)  # nobody was there to do it
