"""The command line: what each command prints, to a person and to a program, and with which exit code it ends."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventhost.cli.new_source import Template, create_source
from eventhost.cli.show import clock, duration, printable
from eventhost.cli.source import _added
from eventhost.errors import ConfigError, EventhostError
from eventhost.sources.status import SourceStatus

SLOW_S = 60
"""For a machine that does much else; no command takes that long on its own."""

COMMAND = [sys.executable, "-m", "eventhost"]


def run(*arguments: str | Path, stdin: str = "", cwd: Path | None = None, **variables: str) -> Any:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("EVENTHOST_")}
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        env={**clean, "NO_COLOR": "1", **variables},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=SLOW_S,
        check=False,
    )


def ok(*arguments: str | Path, **options: Any) -> str:
    done = run(*arguments, **options)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def eventually(condition: Callable[[], Any]) -> Any:
    """The first truth of `condition`; it is about another process, which has no event to wait for."""
    end = time.monotonic() + SLOW_S
    while time.monotonic() < end:
        if result := condition():
            return result
        time.sleep(0.02)
    raise TimeoutError


@dataclass
class RunningHost:
    root: Path
    log_file: Path

    @property
    def url(self) -> str:
        for line in self.log_file.read_text().splitlines():
            if '"listening"' in line:
                return str(json.loads(line)["url"])
        raise AssertionError("the host does not listen yet")

    def source(self, name: str) -> dict[str, Any]:
        return dict(json.loads(ok("source", "show", name, "--json", "--env", self.root)))


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHost]:
    """A host with one source that works, one whose config does not, and one that is disabled."""
    root = tmp_path_factory.mktemp("demo")
    log_file = root.parent / "log"
    rules = [{"name": "greet", "on": "test.*", "do": [{"log": "hello"}]}]
    (root / "config.jsonc").write_text(
        f'{{"id": "demo", "http": {{"port": 0}}, // a comment\n"rules": {json.dumps(rules)}}}'
    )
    create_source(root, "door", Template.PYTHON)
    config = root / "eventsources" / "door" / "config.jsonc"
    config.write_text(config.read_text().replace("2000", "50"))
    (create_source(root, "broken", Template.PYTHON) / "config.jsonc").write_text('{"command": 7}')
    (create_source(root, "asleep", Template.PYTHON) / "config.jsonc").write_text('{"enabled": false}')
    with log_file.open("wb") as log:
        process = subprocess.Popen([*COMMAND, "run", "--env", root], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        running = RunningHost(root, log_file)
        eventually(lambda: run("status", "--env", root).returncode == 0)
        eventually(lambda: running.source("door")["published"])
        eventually(lambda: running.source("door")["status"] == "running")
        yield running
    finally:
        process.terminate()
        try:
            process.wait(SLOW_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def imported_by(*arguments: str | Path) -> set[str]:
    script = "import sys; from eventhost.cli import main\ntry: main()\nexcept SystemExit: pass\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, timeout=SLOW_S, check=True
    )
    return {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}


def test_quick_commands_import_nothing_heavy(host: RunningHost) -> None:
    heavy = {"pydantic", "mcp", "starlette", "uvicorn", "httpx2", "msgspec", "anyio", "asyncio", "structlog", "psutil"}
    for command in (["--help"], ["emit", "a.b"], ["status"], ["source", "list"], ["rule", "list"], ["version"]):
        environment = ["--env", host.root] if command[0] not in ("--help", "version") else []
        assert not imported_by(*command, *environment) & heavy, command


def test_help_names_every_command() -> None:
    shown = ok("--help")
    commands = ["init", "run", "check", "status", "reload", "tail", "emit", "import", "source", "service", "version"]
    commands += ["rule", "schema"]
    assert [command for command in commands if f" {command} " not in shown] == []
    assert [verb for verb in ("list", "test") if f" {verb} " not in ok("rule", "--help")] == []
    verbs = ["list", "show", "logs", "start", "stop", "restart", "enable", "disable", "new"]
    shown = ok("source", "--help")
    assert [verb for verb in verbs if f" {verb} " not in shown] == []


def test_version_is_said_either_way() -> None:
    assert ok("version") == ok("--version")


def test_status_is_for_people_and_with_json_for_programs(host: RunningHost) -> None:
    assert "sources\t" in ok("status", "--env", host.root)
    status = json.loads(ok("status", "--json", "--env", host.root))
    assert status["id"] == "demo"
    assert status["sources"]["error"] == 1
    assert status["health"]["status"] == "degraded"
    assert "health\tdegraded" in ok("status", "--env", host.root)
    assert [rule["name"] for rule in status["rules"]] == ["greet"]


def test_the_environment_is_found_from_below_by_flag_by_variable_and_by_url(host: RunningHost) -> None:
    below = host.root / "eventsources" / "door"
    expected = json.loads(ok("status", "--json", "--env", host.root))["pid"]
    for found in (
        ok("status", "--json", cwd=below),
        ok("--env", str(host.root), "status", "--json"),
        ok("status", "--json", EVENTHOST_ENV=str(host.root)),
        ok("status", "--json", "--env", host.url, cwd=Path("/")),
        ok("--env", str(host.root), "status", "--json", EVENTHOST_ENV="/nowhere"),
    ):
        assert json.loads(found)["pid"] == expected


def test_no_environment_is_a_configuration_error_with_the_mend(tmp_path: Path) -> None:
    done = run("status", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "eventhost init" in done.stderr
    assert "Traceback" not in done.stderr
    done = run("status", "--env", tmp_path / "nowhere")
    assert done.returncode == 2


@pytest.mark.parametrize("command", [["status"], ["emit", "a"], ["tail"], ["source", "list"], ["reload"]])
def test_a_host_that_does_not_run_is_one_sentence(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "config.jsonc").write_text("{}")
    done = run(*command, "--env", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert f"eventhost run --env {tmp_path}" in done.stderr


def test_a_url_where_nobody_answers_is_one_sentence() -> None:
    done = run("status", "--env", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "no host answers at http://127.0.0.1:9" in done.stderr
    assert run("status", "--env", "http://127.0.0.1:no").returncode == 2


def test_a_url_of_something_else_is_one_sentence() -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        done = run("status", "--env", f"http://127.0.0.1:{server.server_port}")
        thread.join(SLOW_S)
    assert done.returncode == 1
    assert "no eventhost" in done.stderr


def test_what_needs_files_refuses_a_url() -> None:
    for command in (["run"], ["check"], ["source", "new", "x"], ["service", "install"], ["import", "x"]):
        done = run(*command, "--env", "http://127.0.0.1:8001")
        assert done.returncode == 2
        assert "needs the environment's files" in done.stderr


def test_an_event_is_emitted_with_its_payload_from_argument_or_stdin(host: RunningHost) -> None:
    seq, event_id = ok("emit", "test.one", '{"a": 1}', "--env", host.root).split()
    answer = json.loads(ok("emit", "test.two", "-", "--json", "--env", host.root, stdin='{"b": [2]}'))
    assert event_id
    lines = tail(host, "test.two", "--json", "--type", "test.*", "--since", str(int(seq) - 1))
    events = [json.loads(line) for line in lines]
    assert [(event["seq"], event["type"], event["payload"]) for event in events] == [
        (int(seq), "test.one", {"a": 1}),
        (answer["seq"], "test.two", {"b": [2]}),
    ]


def test_a_payload_that_is_not_json_is_a_usage_error(host: RunningHost) -> None:
    done = run("emit", "test.x", "{", "--env", host.root)
    assert done.returncode == 2
    assert "not JSON" in done.stderr


def test_an_event_that_is_refused_says_why(host: RunningHost) -> None:
    done = run("emit", "host.gap", "--env", host.root)
    assert done.returncode == 1
    assert "host.gap" in done.stderr
    assert "Traceback" not in done.stderr


def tail(host: RunningHost, until: str, *arguments: str) -> list[str]:
    """What `tail` prints, up to the first line that holds `until`."""
    process = subprocess.Popen(
        [*COMMAND, "tail", "--env", host.root, *arguments], stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL
    )
    timer = threading.Timer(SLOW_S, process.kill)
    timer.start()
    lines = []
    try:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                lines.append(line.rstrip("\n"))
                if until in line:
                    return lines
        raise AssertionError(f"never saw {until!r} in {lines}")
    finally:
        timer.cancel()
        process.kill()
        process.wait()


def test_tail_shows_one_line_for_each_event_and_nothing_that_steers_a_terminal(host: RunningHost) -> None:
    seq = ok("emit", "test.esc\x1b[31m", '{"text": "a\\nb\\u009b"}', "--env", host.root).split()[0]
    (line,) = tail(host, "test.esc", "--type", "test.*", "--since", str(int(seq) - 1))
    _when, shown_seq, source, event_type, payload = line.split("\t")
    assert (shown_seq, source, event_type) == (seq, "api", "test.esc\\x1b[31m")
    assert payload == '{"text":"a\\nb\\x9b"}'


def test_tail_follows_live_events(host: RunningHost) -> None:
    assert all("door.ticked" in line for line in tail(host, "door.ticked", "--type", "door.*"))


def test_tail_refuses_a_since_that_is_none(host: RunningHost) -> None:
    done = run("tail", "--since", "yesterday", "--env", host.root)
    assert done.returncode == 1
    assert "how long ago" in done.stderr


@dataclass
class Greeted:
    """An event for which the rule `greet` has run, and `replay --execute` for it."""

    host: RunningHost
    seq: int

    def greetings(self) -> int:
        """How often its rule has run for it."""
        lines = map(json.loads, self.host.log_file.read_text().splitlines())
        return sum(line["event"] == "rule_log" and line["seq"] == self.seq for line in lines)

    @property
    def again(self) -> list[str]:
        return ["replay", "--execute", "--from", str(self.seq), "--rule", "greet", "--env", str(self.host.root)]


@pytest.fixture
def greeted(host: RunningHost) -> Greeted:
    said = json.loads(ok("emit", "test.greeted", "--json", "--env", host.root))
    found = Greeted(host, said["seq"])
    eventually(lambda: found.greetings() == 1)
    return found


def typed(arguments: list[str], answer: str) -> tuple[int, str]:
    """What a command ends with, and shows, at a terminal where `answer` is typed once it asks."""
    ours, theirs = pty.openpty()
    variables = {**os.environ, "NO_COLOR": "1", "TERM": "dumb"}
    process = subprocess.Popen([*COMMAND, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=variables)
    os.close(theirs)
    shown = ""
    with suppress(OSError), open(ours, "r+b", buffering=0) as screen:
        while piece := screen.read(4096):
            shown += piece.decode()
            if answer and "[y/N]" in shown:
                screen.write(answer.encode())
                answer = ""
    return process.wait(SLOW_S), shown


@pytest.mark.parametrize("answer", ["n\n", "\n", "\x04"], ids=["no", "nothing", "end"])
def test_what_is_not_agreed_to_is_not_done_once_more(greeted: Greeted, answer: str) -> None:
    code, shown = typed(greeted.again, answer)
    assert code == 1
    assert f"1 run for the events {greeted.seq} to " in shown
    assert "greet 1" in shown
    assert "Do all of them once more?" in shown
    assert greeted.greetings() == 1


def test_what_is_agreed_to_is_done_once_more(greeted: Greeted) -> None:
    code, shown = typed(greeted.again, "y\n")
    assert code == 0, shown
    assert f"1 run done for the events {greeted.seq} to " in shown
    eventually(lambda: greeted.greetings() == 2)


def test_where_nothing_is_to_be_done_nobody_is_asked(greeted: Greeted) -> None:
    code, shown = typed([*greeted.again, "--type", "nothing.*"], "")
    assert code == 0
    assert "nothing to do" in shown
    assert "[y/N]" not in shown


def test_without_a_terminal_it_must_be_said_beforehand(greeted: Greeted) -> None:
    refused = run(*greeted.again, stdin="y\n")
    assert refused.returncode == 2
    assert "nobody is there to be asked; add --yes" in refused.stderr
    assert greeted.greetings() == 1
    assert f"1 run done for the events {greeted.seq} to " in ok(*greeted.again, "--yes")
    eventually(lambda: greeted.greetings() == 2)


def test_a_reader_that_leaves_ends_tail_quietly(host: RunningHost) -> None:
    piped = f"'{sys.executable}' -m eventhost tail --since 1h --env '{host.root}' | head -n 1"
    done = subprocess.run(["sh", "-c", piped], capture_output=True, text=True, timeout=SLOW_S, check=True)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_sources_are_listed_with_what_is_wrong(host: RunningHost) -> None:
    rows = dict(line.split("\t", 1) for line in ok("source", "list", "--env", host.root).splitlines())
    assert rows["door"].startswith("running\tpush\t")
    assert rows["asleep"].startswith("stopped\t")
    assert rows["broken"].startswith("error\t")
    assert "eventsources/broken/config.jsonc:1:13: command" in rows["broken"]
    listed = json.loads(ok("source", "list", "--json", "--env", host.root))
    assert [source["name"] for source in listed] == ["asleep", "broken", "door"]


def test_a_person_at_a_terminal_gets_a_table_with_color(host: RunningHost) -> None:
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    command = [*COMMAND, "source", "list", "--env", host.root]
    variables = {**environment, "TERM": "xterm-256color", "COLUMNS": "100"}
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, env=variables)
    os.close(theirs)
    shown = b""
    with suppress(OSError), open(ours, "rb", buffering=0) as screen:
        while piece := screen.read(4096):
            shown += piece
    assert process.wait(SLOW_S) == 0
    assert b"last error" in shown
    assert b"\x1b[32mrunning" in shown


def test_show_prints_the_whole_document(host: RunningHost) -> None:
    shown = ok("source", "show", "door", "--env", host.root)
    assert "status\trunning" in shown
    assert "way in\tpush" in shown
    document = host.source("door")
    assert list(document) == [*(field.name for field in fields(SourceStatus)), "definition"]


def test_a_source_that_is_not_there_says_which_are(host: RunningHost) -> None:
    done = run("source", "show", "dor", "--env", host.root)
    assert done.returncode == 1
    assert "door" in done.stderr


def test_a_source_is_stopped_started_disabled_and_enabled(host: RunningHost) -> None:
    assert ok("source", "stop", "door", "--env", host.root) == "door\tstopped\n"
    ok("source", "start", "door", "--env", host.root)
    before = eventually(lambda: host.source("door")["status"] == "running" and host.source("door")["pid"])
    ok("source", "restart", "door", "--env", host.root)
    eventually(lambda: host.source("door")["status"] == "running" and host.source("door")["pid"] != before)
    ok("source", "disable", "door", "--env", host.root)
    assert host.source("door")["status"] == "stopped"
    assert json.loads((host.root / "var" / "state.json").read_text())["enabled"] == {"door": False}
    ok("source", "enable", "door", "--env", host.root)
    eventually(lambda: host.source("door")["status"] == "running")


def test_starting_what_cannot_be_used_shows_its_problems(host: RunningHost) -> None:
    done = run("source", "start", "broken", "--env", host.root)
    assert done.returncode == 2
    assert "eventsources/broken/config.jsonc:1:13" in done.stderr


def test_logs_print_what_the_source_says(host: RunningHost) -> None:
    folder = create_source(host.root, "talker", Template.PYTHON)
    server = folder / "server.py"
    server.write_text(
        server.read_text().replace("count += 1\n", "count += 1\n        print('at', count, file=sys.stderr)\n")
    )
    server.write_text(server.read_text().replace("from eventhost", "import sys\n\nfrom eventhost", 1))
    process = subprocess.Popen(
        [*COMMAND, "source", "logs", "-f", "talker", "--env", host.root], stdout=subprocess.PIPE, text=True
    )
    try:
        eventually(lambda: run("source", "show", "talker", "--env", host.root).returncode == 0)
    finally:
        process.kill()
        process.communicate()
    eventually(lambda: "at 1" in ok("source", "logs", "talker", "--env", host.root))


def test_reload_says_what_changed_and_what_is_wrong(host: RunningHost) -> None:
    config = host.root / "config.jsonc"
    good = config.read_text()
    folder = create_source(host.root, "another", Template.PYTHON)
    done = run("reload", "--env", host.root)
    assert done.returncode == 2, "one source is broken"
    assert "eventsources/broken/config.jsonc:1:13" in done.stderr
    config.write_text(good.replace('"demo"', "7"))
    try:
        done = run("reload", "--env", host.root)
        assert done.returncode == 2
        assert "config.jsonc:1:" in done.stderr
    finally:
        config.write_text(good)
        shutil.rmtree(folder)
    report = json.loads(run("reload", "--json", "--env", host.root).stdout)
    assert report["problems"][0]["file"] == "eventsources/broken/config.jsonc"


# Without a host.


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "config.jsonc").write_text('{\n  // mine\n  "id": "demo"\n}\n')
    return tmp_path


def test_check_prints_every_problem_and_exits_with_2(root: Path) -> None:
    assert ok("check", "--env", root) == "demo: 0 sources, 0 rules\n"
    for name in ("one", "two"):
        (create_source(root, name, Template.PYTHON) / "config.jsonc").write_text('{\n  "command": 7\n}')
    (root / "config.jsonc").write_text('{"http": {"port": "many"}, "rules": [{"name": "r", "do": 1}]}')
    done = run("check", "--env", root)
    assert (done.returncode, done.stdout) == (2, "")
    for place in (
        "config.jsonc:1:",
        "http.port",
        "rules",
        "sources/one/config.jsonc:2:",
        "sources/two/config.jsonc:2:",
    ):
        assert place in done.stderr


def test_init_makes_an_environment_that_is_valid_and_overwrites_nothing(tmp_path: Path) -> None:
    shown = ok("init", "demo", cwd=tmp_path)
    assert "eventhost run --env demo" in shown
    made = tmp_path / "demo"
    assert {"config.jsonc", "eventsources", "mcpservers", ".gitignore"} <= set(os.listdir(made))
    assert "/var/" in (made / ".gitignore").read_text()
    assert not [path for path in made.rglob("*") if path.name in ("node_modules", "__pycache__", "var", ".env")]
    ok("check", "--env", made)
    (made / "config.jsonc").write_text("{}")
    done = run("init", "demo", cwd=tmp_path)
    assert done.returncode == 1
    assert "already has config.jsonc" in done.stderr
    assert (made / "config.jsonc").read_text() == "{}"


# Rules.


def test_rules_are_listed_with_how_they_fare(host: RunningHost) -> None:
    ok("emit", "test.listed", "--env", host.root)

    def listed() -> list[str]:
        return ok("rule", "list", "--env", host.root).rstrip("\n").split("\t")

    row = eventually(lambda: (row := listed())[3] != "0" and row[3] == row[4] and row)
    assert row[:3] == ["greet", "running", "test.*"]
    assert row[5:] == ["0", "", "0", ""]
    (rule,) = json.loads(ok("rule", "list", "--json", "--env", host.url))["rules"]
    assert (rule["name"], rule["file"], rule["on"], rule["state"]) == ("greet", "config.jsonc", ["test.*"], "running")
    assert ok("rule", "list", "g*", "--env", host.root).startswith("greet")
    assert ok("rule", "list", "x*", "--env", host.root) == ""
    assert "eventhost: counted since the host started, " in run("rule", "list", "--env", host.root).stderr


def test_a_rule_is_disabled_and_enabled_for_good(host: RunningHost) -> None:
    try:
        assert ok("rule", "disable", "greet", "--env", host.root) == "greet\tdisabled\n"
        assert ok("rule", "list", "--env", host.root).startswith("greet\tdisabled")
        event = '{"type": "test.x"}'
        assert "greet: disabled" in run("rule", "test", "greet", "--event", event, "--env", host.root).stdout
    finally:
        assert ok("rule", "enable", "greet", "--env", host.root) == "greet\trunning\n"
    done = run("rule", "disable", "gret", "--env", host.root)
    assert done.returncode == 1
    assert 'did you mean "greet"?' in done.stderr


def test_without_a_host_the_rules_are_listed_as_the_files_have_them(root: Path) -> None:
    write_rules(root, "door", [{"name": "a", "do": LOG}, {"name": "b", "on": ["x", "y"], "do": LOG, "enabled": False}])
    write_rules(root, "wrong", [{"do": 1}, {"do": 2}])
    done = run("rule", "list", "--env", root)
    assert done.returncode == 0
    assert [line.rstrip("\t").split("\t") for line in done.stdout.splitlines()] == [
        ["a", "stopped", "*"], ["b", "disabled", "x, y"],
    ]  # fmt: skip
    assert "no host is running" in done.stderr
    assert "rules/wrong.jsonc cannot be used as it is: rules/wrong.jsonc:1:9: [0].do: " in done.stderr
    assert "1 more, see `eventhost check`" in done.stderr
    done = run("rule", "list", "--env", "http://127.0.0.1:9")
    assert (done.returncode, done.stdout) == (1, "")


LOG = {"log": "it is {{ payload.x }}"}


def write_rules(root: Path, name: str, value: Any) -> Path:
    path = root / "rules" / f"{name}.jsonc"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def test_rules_are_tried_on_an_event_from_stdin_a_file_or_the_argument(root: Path) -> None:
    write_rules(root, "door", [{"name": "a", "on": "door.*", "do": LOG}, {"name": "b", "when": "payload.y", "do": LOG}])
    text = '{"type": "door.opened", "payload": {"x": 5}} // a comment'
    file = root / "event.jsonc"
    file.write_text(text)
    shown = ok("rule", "test", "--env", root, stdin=text)
    lines = shown.splitlines()
    assert lines[:3] == ["a: would run", '    {"log": "it is 5", "level": "info"}', "b: cannot be told"]
    assert lines[3].startswith("    when: payload.y: ")
    assert lines[3].endswith("payload.y is not there")
    assert len(lines) == 4
    assert ok("rule", "test", "--env", root, "--event", "-", stdin=text) == shown
    assert ok("rule", "test", "--env", root, "--event", file) == shown
    assert ok("rule", "test", "--env", root, "--event", '{"type": "door.opened", "payload": {"x": 5}}') == shown
    tried = json.loads(ok("rule", "test", "--json", "--env", root, "--event", file, "--at", "2026-01-05T12:00:00Z"))
    assert tried["event"]["at_ms"] == 1_767_614_400_000
    assert [rule["fate"] for rule in tried["rules"]] == ["runs", "error"]


def test_the_exit_code_says_whether_the_named_rule_would_run(root: Path) -> None:
    write_rules(root, "door", [{"name": "a", "on": "door.*", "do": LOG}, {"name": "b", "on": "x", "do": LOG}])
    event = '{"type": "door.opened", "payload": {"x": 5}}'
    assert run("rule", "test", "a", "--env", root, stdin=event).returncode == 0
    done = run("rule", "test", "b", "--env", root, stdin=event)
    assert (done.returncode, done.stdout) == (1, 'b: no match\n    on: wants "x"; type is "door.opened"\n')
    done = run("rule", "test", "c", "--env", root, stdin=event)
    assert (done.returncode, done.stdout) == (1, "")
    assert 'no rule is called "c"' in done.stderr
    write_rules(root, "wrong", [{"do": 1}])
    done = run("rule", "test", "a", "--env", root, stdin=event)
    assert done.returncode == 2
    assert done.stdout.startswith("a: would run")
    assert "rules/wrong.jsonc:1:9: " in done.stderr


@pytest.mark.parametrize(
    ("arguments", "stdin", "told"),
    [
        ([], "", "stdin:1:1: the file is empty"),
        ([], "{", "stdin:1:1: { is never closed"),
        ([], '{"payload": {}}', "stdin: type: a non-empty string is required"),
        ([], "[]", "stdin: an event must be an object"),
        (["--event", "no.json"], "", "no.json cannot be read: No such file"),
        (["--event", '{"type": "a"}', "--at", "noon"], "", "neither milliseconds nor ISO 8601"),
        (["--all", "--event", "-"], "", "takes neither a rule nor an event"),
        (["--all", "name"], "", "takes neither a rule nor an event"),
    ],
)
def test_an_event_that_is_none_is_a_usage_error(root: Path, arguments: list[str], stdin: str, told: str) -> None:
    done = run("rule", "test", "--env", root, *arguments, stdin=stdin)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in " ".join(done.stderr.replace("│", " ").split())


def test_of_many_rules_those_that_match_are_told_and_the_others_counted(root: Path) -> None:
    many = [{"name": f"r{number}", "on": f"t.{number}", "do": LOG} for number in range(1_000)]
    write_rules(root, "many", [*many, {"name": "broken", "when": "payload.no", "do": LOG}])
    event = '{"type": "t.7", "payload": {"x": 5}}'
    shown = ok("rule", "test", "--env", root, stdin=event).splitlines()
    assert [line for line in shown if not line.startswith(" ")] == [
        "r7: would run",
        "broken: cannot be told",
        "999 other rules do not match; name one to see why, or add --all-rules",
    ]
    assert ok("rule", "test", "-v", "--env", root, stdin=event).count("no match") == 999


def test_a_source_that_is_configured_says_its_events_as_it_would(root: Path) -> None:
    (create_source(root, "door", Template.PYTHON) / "config.jsonc").write_text(
        '{"eventTypes": ["door.*"], "metadata": {"floor": 2}}'
    )
    write_rules(root, "r", [{"name": "a", "do": {"log": "{{ metadata.floor }}"}}])
    event = '{"type": "door.opened", "metadata": {"source_name": "door"}}'
    assert '{"log": "2", "level": "info"}' in ok("rule", "test", "--env", root, stdin=event)
    done = run("rule", "test", "--env", root, stdin=event.replace("door.opened", "lamp.lit"))
    assert done.returncode == 2
    assert "not among the configured eventTypes" in done.stderr


def test_an_event_that_tail_printed_can_be_tried(host: RunningHost) -> None:
    ok("emit", "test.tailed", '{"x": 1}', "--env", host.root)
    (event, *_) = tail(host, "test.tailed", "--json", "--type", "test.tailed", "--since", "0")
    tried = json.loads(ok("rule", "test", "--json", "--env", host.root, stdin=event))
    assert tried["event"]["id"] == json.loads(event)["id"]
    assert [rule["fate"] for rule in tried["rules"]] == ["runs"]


def test_the_tests_of_rules_are_run_alone_and_by_check(root: Path) -> None:
    write_rules(root, "door", [{"name": "a", "on": "door.*", "do": LOG}])
    case = {
        "name": "opens",
        "event": {"type": "door.opened", "payload": {"x": 5}},
        "expect": {"a": [{"log": "it is 5"}]},
    }
    write_rules(root, "tests/door", [case, {**case, "expect": ["a"]}])
    assert ok("rule", "test", "--all", "--env", root) == "2 tests, 0 failed\n"
    assert ok("check", "--env", root) == "demo: 0 sources, 1 rules, 2 tests\n"
    write_rules(root, "tests/door", [{**case, "expect": {"a": [{"log": "it is 6"}]}}])
    failed = 'failed rules/tests/door.jsonc:1 opens\n    a: do[0].log: expected "it is 6", got "it is 5"\n'
    done = run("rule", "test", "--all", "--env", root)
    assert (done.returncode, done.stdout) == (1, f"{failed}1 tests, 1 failed\n")
    done = run("check", "--env", root)
    assert done.returncode == 1
    assert done.stdout == f"{failed}demo: 0 sources, 1 rules, 1 tests (1 failed)\n"
    told = json.loads(run("rule", "test", "--all", "--json", "--env", root).stdout)
    assert (told["tests"], told["failed"][0]["place"]) == (1, "rules/tests/door.jsonc:1")
    write_rules(root, "tests/door", [case, {"event": 1, "expect": []}])
    for command in (["check"], ["rule", "test", "--all"]):
        done = run(*command, "--env", root)
        assert done.returncode == 2
        assert "rules/tests/door.jsonc:1:" in done.stderr


def test_check_tells_the_problems_of_rule_files_with_all_others(root: Path) -> None:
    (root / "config.jsonc").write_text('{"http": {"port": "many"}, "rules": [{"do": 1}]}')
    write_rules(root, "door", [{"do": {"log": "x"}, "when": "payload.x >"}])
    (root / "rules" / "light.jsonc").write_text("[")
    done = run("check", "--env", root)
    assert done.returncode == 2
    places = ["config.jsonc:1:19: http.port", "config.jsonc:1:45: rules[0].do", "rules/light.jsonc:1:1"]
    assert [place for place in [*places, "rules/door.jsonc:1:31: [0].when"] if place not in done.stderr] == []
    assert len(done.stderr.splitlines()) == 4


def test_the_documentation_shows_what_is_printed(root: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "rules.md").read_text()
    section = page.partition("\n## Trying rules\n")[2].partition("\n## ")[0]
    blocks = dict(re.findall(r"^```(\w+)\n(.*?)^```", section, re.MULTILINE | re.DOTALL)[::-1])
    (root / "rules" / "tests").mkdir(parents=True)
    (root / "rules" / "climate.jsonc").write_text(blocks["jsonc"])
    command, *shown = blocks["console"].splitlines()
    text = re.fullmatch(r"\$ echo '(.*)' \| eventhost rule test", command)
    assert text
    assert ok("rule", "test", "--env", root, stdin=text[1]).splitlines() == shown
    tests = root / "rules" / "tests" / "climate.jsonc"
    tests.write_text(blocks["json5"])
    assert ok("rule", "test", "--all", "--env", root) == "2 tests, 0 failed\n"
    tests.write_text(blocks["json5"].replace("cool cellar", "cool attic"))
    assert run("rule", "test", "--all", "--env", root).stdout.startswith(
        section.split("```console\n")[2].split("```")[0]
    )


# Schemas.


def test_schemas_are_printed_and_written(root: Path) -> None:
    assert [line.split("\t")[0] for line in ok("schema").splitlines()] == ["config", "source", "rules", "rule-tests"]
    assert json.loads(ok("schema", "rules"))["title"].startswith("Rules")
    assert run("schema", "rule").returncode == 2
    assert len(ok("schema", "--write", "--env", root).splitlines()) == 4
    assert ok("schema", "--write", "--env", root) == ""
    assert ok("check", "--env", root)
    (root / "schemas" / "rules.schema.json").write_text("{}")
    assert "rules.schema.json: is of another version" in run("check", "--env", root).stderr


def test_what_is_made_refers_to_schemas_that_are_there(tmp_path: Path) -> None:
    ok("init", "demo", cwd=tmp_path)
    ok("source", "new", "door", "--env", tmp_path / "demo")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.jsonc").write_text("{}")
    ok("source", "new", "door", "--env", tmp_path / "bare")
    configs = [*tmp_path.glob("*/eventsources/*/config.jsonc"), tmp_path / "demo" / "config.jsonc"]
    assert len(configs) > 4
    for config in configs:
        (reference,) = (line.split('"')[3] for line in config.read_text().splitlines() if '"$schema"' in line)
        assert (config.parent / reference).is_file(), config


def test_import_takes_over_servers_and_leaves_the_rest_to_the_letter(root: Path) -> None:
    other = root / "claude.json"
    other.write_text(json.dumps({"mcpServers": {"time": {"command": "uvx", "args": ["mcp-server-time"]}}}))
    assert ok("import", other, "--env", root) == "time\n"
    text = (root / "config.jsonc").read_text()
    assert "// mine" in text
    assert '"uvx", "mcp-server-time"' in text
    done = run("import", other, "--env", root)
    assert done.returncode == 2
    assert "time" in done.stderr
    assert (root / "config.jsonc").read_text() == text


def test_a_new_source_has_its_own_name_and_is_never_overwritten(root: Path) -> None:
    assert str(root / "eventsources" / "door") in ok("source", "new", "door", "--env", root)
    folder = root / "eventsources" / "door"
    made = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert made.keys() == {"server.py", "config.jsonc", "README.md", "golden/first-tick.jsonc"}
    assert all("@NAME@" not in path.read_text() for path in made.values())
    assert [path.name for path in folder.parent.iterdir()] == ["door"]
    done = run("source", "new", "door", "--env", root)
    assert done.returncode == 1
    assert "already there" in done.stderr


@pytest.mark.parametrize("name", ["", "../up", "a/b", "-x", "a b", ".hidden", "x" * 65])
def test_a_name_that_no_source_can_have_is_refused(root: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="not a name"):
        create_source(root, name, Template.PYTHON)


def test_a_folder_that_cannot_be_written_is_a_sentence(root: Path) -> None:
    (root / "eventsources").write_text("a file")
    with pytest.raises(EventhostError, match="cannot make"):
        create_source(root, "door", Template.PYTHON)


@pytest.mark.parametrize("template", list(Template))
def test_a_new_source_works_at_once(
    root: Path, template: Template, needs: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if template is Template.NODE:
        needs("node")
    (root / "config.jsonc").write_text('{"http": {"port": 0}}')
    process = subprocess.Popen(
        [*COMMAND, "run", "--env", root], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        running = RunningHost(root, root / "log")
        eventually(lambda: run("status", "--env", root).returncode == 0)
        ok("source", "new", "door", "--template", template, "--env", root)
        (event, *_) = tail(running, "door.ticked", "--json", "--type", "door.*", "--since", "0")
        assert json.loads(event)["payload"] == {"count": 1}
    finally:
        process.terminate()
        process.wait(SLOW_S)


def test_the_generated_python_is_clean(root: Path) -> None:
    folder = create_source(root, "door", Template.PYTHON)
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
    assert ruff, "ruff belongs to the test extra"
    subprocess.run([ruff, "check", "--isolated", "--line-length", "120", folder / "server.py"], check=True)


@given(st.text())
def test_what_is_printed_never_steers_a_terminal(text: str) -> None:
    assert printable(text).isprintable()


@given(st.lists(st.integers(), max_size=30, unique=True), st.integers(0, 30), st.integers(1, 10))
def test_following_a_log_prints_every_line_once(lines: list[int], read: int, keep: int) -> None:
    text = [str(line) for line in lines]
    read = min(read, len(text))
    before, after = text[max(0, read - keep) : read], text[-keep:]
    printed = _added(before, after)
    assert printed == text[max(read, len(text) - keep) :]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, ""), (0.4, "0s"), (59, "59s"), (61, "1m 1s"), (3700, "1h 1m"), (90_000, "1d 1h")],
)
def test_durations_are_short(seconds: float | None, shown: str) -> None:
    assert duration(seconds) == shown


def test_a_moment_beyond_the_calendar_is_shown_as_its_number() -> None:
    assert clock(10**17) == str(10**17)
