"""The process source runs real commands, follows real files and reads real journals, whatever is killed meanwhile."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from servers import missing
from source_process import Event, SourceProcess, source_process

SOURCE = Path(__file__).parents[1] / "eventsources" / "process"

pytestmark = pytest.mark.anyio


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Any]:
    """`run(commands=…, files=…)` is the source with these options, always with the same state."""

    def start(**options: Any) -> Any:
        return source_process(SOURCE, {"options": options}, tmp_path / "state")

    return start


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def lines(events: Sequence[Event], kind: str = "process.line") -> list[str]:
    return [event["payload"]["line"] for event in events if event["type"] == kind]


def of_type(source: SourceProcess, kind: str) -> list[Event]:
    return [event for event in source.events if event["type"] == kind]


async def state_of(source: SourceProcess, name: str) -> dict[str, Any]:
    (state,) = (one for one in (await source.call("get_source_status"))["upstreams"] if one["name"] == name)
    return dict(state)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


# Commands.


async def test_a_commands_lines_and_its_end_are_told_and_it_is_started_again(run: Callable[..., Any]) -> None:
    command = ["sh", "-c", "echo one; echo '{\"level\": 3}'; echo oops >&2; printf end; exit 3"]
    async with run(commands={"name": "c", "command": command}) as source:
        await source.until(lambda: len(of_type(source, "process.exit")) == 2)
        first, second = of_type(source, "process.exit")
        await source.logged("c: it ended with status 3", times=1)
    by_stream = {
        stream: [event["payload"] for event in source.events if event["metadata"].get("stream") == stream]
        for stream in ("stdout", "stderr")
    }
    assert by_stream["stdout"][:3] == [{"line": "one"}, {"level": 3}, {"line": "end", "unfinished": True}]
    assert by_stream["stderr"][0] == {"line": "oops"}
    payload = first["payload"]
    assert (payload["code"], payload["signal"], payload["stdout"]) == (3, None, 'one\n{"level": 3}\nend')
    assert payload["stderr"] == "oops\n"
    assert first["metadata"]["pid"] != second["metadata"]["pid"]
    assert source.events.index(first) == 4, "the end is told after all lines"


async def test_a_command_runs_again_and_again_or_once(run: Callable[..., Any]) -> None:
    async with run(
        commands=[
            {"name": "often", "command": ["echo", "tick"], "every": "100ms", "exit": False},
            {"name": "once", "command": "echo $((1+1))", "shell": True, "restart": False},
        ]
    ) as source:
        await source.until(lambda: lines(source.events).count("tick") >= 3)
        assert lines(source.events).count("2") == 1
        assert [event["payload"]["code"] for event in of_type(source, "process.exit")] == [0]
        assert (await state_of(source, "once"))["position"] == {"runs": 1, "last": "ended with status 0"}


async def test_a_command_that_takes_too_long_is_ended_with_all_that_it_started(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    script = f"trap '' TERM; sh -c \"trap '' TERM; sleep 300\" & echo $! $$ > {shlex.quote(str(pids))}; echo on; wait"
    command = {"name": "slow", "command": script, "shell": True, "timeout": "200ms", "restart": False}
    async with run(commands=command) as source:
        (_, end) = await source.count(2)
        assert (end["payload"]["signal"], end["payload"]["timed_out"]) == ("SIGKILL", True)
        await source.until_asked(lambda: not any(is_alive(int(pid)) for pid in pids.read_text().split()))


async def test_who_keeps_the_output_open_after_the_commands_end_holds_nothing_up(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    code = f"""
import os, time
if os.fork() == 0:
    os.setsid()
    open({str(pid)!r}, "w").write(str(os.getpid()))
    time.sleep(300)
while not os.path.exists({str(pid)!r}):
    time.sleep(0.01)
print("done")
"""
    async with run(commands={"name": "c", "command": python(code), "restart": False}) as source:
        told = await source.count(2)
        assert [event["type"] for event in told] == ["process.line", "process.exit"]
        daemon = int(pid.read_text())
        assert is_alive(daemon), "it has left the group and the session, so it is on its own"
        os.kill(daemon, signal.SIGKILL)


async def test_what_a_command_leaves_behind_in_its_group_ends_with_it(run: Callable[..., Any]) -> None:
    async with run(commands={"command": ["sh", "-c", "sleep 300 & echo $!"], "restart": False}) as source:
        await source.count(2)
        (pid,) = lines(source.events)
        await source.until_asked(lambda: not is_alive(int(pid)))


async def test_no_command_outlives_the_source(run: Callable[..., Any]) -> None:
    stubborn = "trap '' TERM HUP; sleep 300 & echo $! $$; wait; wait"
    async with run(commands={"name": "c", "command": ["sh", "-c", stubborn]}) as source:
        await source.count(1)
        pids = [int(pid) for pid in lines(source.events)[0].split()]
        assert all(map(is_alive, pids))
        assert await source.end() == 0
        assert not any(map(is_alive, pids))
    assert "Traceback" not in source.log


async def test_a_command_that_floods_waits_for_the_host_and_no_memory_fills(run: Callable[..., Any]) -> None:
    code = """
import itertools, sys
for number in itertools.count(1):
    sys.stdout.write(f"{number} {'x' * 1000}\\n")
    sys.stdout.flush()
    if number % 100 == 0:
        print(number, file=sys.stderr, flush=True)
"""
    async with run(commands={"name": "c", "command": python(code)}) as source:
        await source.count(200)
        source.accepts = lambda event: False
        seen = -1
        while seen != len(source.events):
            seen = len(source.events)
            with anyio.move_on_after(0.5):
                await source.until(lambda: len(source.events) > seen)  # noqa: B023 - awaited here
        written = [int(line.split()[0]) for line in lines(source.events)]
        assert len(source.events) - 200 <= 1200, "it is read no faster than it is accepted"
        assert max(written) < 5000
        assert source.peak_memory_bytes() < 100_000_000


async def test_a_line_that_is_too_long_is_cut_and_what_is_no_text_is_told_as_it_is(run: Callable[..., Any]) -> None:
    code = "import os; os.write(1, b'x' * 3_000_000 + b'\\n' + b'caf\\xe9\\n' + b'\\x00' * 400_000 + b'\\nend\\n')"
    command = {"name": "c", "command": python(code), "restart": False, "exit": False}
    async with run(commands=command) as source:
        long, odd, control, end = await source.count(4)
    assert (len(long["payload"]["line"]), long["payload"]["truncated"]) == (999_998, True)
    assert odd["payload"] == {"line": "caf\ufffd", "base64": "Y2Fm6Q=="}
    assert control["payload"]["truncated"] is True
    assert len(json.dumps(control).encode()) < 1_048_576
    assert end["payload"] == {"line": "end"}


async def test_a_command_is_not_given_what_is_the_sources_own(run: Callable[..., Any], tmp_path: Path) -> None:
    script = 'echo "$MCP_SERVER_CONFIG$EVENTHOST_STATE_DIR|$GREETING|$(pwd)|$(cat)"'
    command = {"command": script, "shell": True, "environment": {"GREETING": "hello"}, "cwd": str(tmp_path)}
    async with run(commands=command) as source:
        (event, *_) = await source.count(1)
    assert event["payload"]["line"] == f"|hello|{tmp_path}|"


async def test_what_one_entry_lacks_does_the_others_no_harm(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "files-damaged.json").write_text("{")
    log = tmp_path / "good.log"
    log.touch()
    async with run(
        commands=[
            {"name": "unknown", "command": ["no-such-program"]},
            {"name": "nowhere", "command": ["true"], "cwd": str(tmp_path / "none")},
            {"name": "closed", "command": [str(log)]},
        ],
        files=[
            {"name": "damaged", "path": str(log)},
            {"name": "folder", "path": str(tmp_path)},
            {"name": "good", "path": str(log)},
        ],
        journals={"name": "missing", "directory": str(tmp_path / "none")},
    ) as source:
        await source.logged("good: connected")
        log.write_text("hello\n")
        await source.until(lambda: lines(source.events, "file.line") == ["hello"])
        for said in (
            "unknown: no-such-program: not found; install it",
            f"nowhere: {tmp_path}/none: no such folder; check `cwd`",
            f"closed: {log} cannot be started: Permission denied",
            "damaged: ",
            f"folder: {tmp_path}: no regular file",
            "missing: journalctl",
        ):
            await source.logged(f"error: {said}")
        assert {one["name"]: one["state"] for one in (await source.call("get_source_status"))["upstreams"]} == {
            **dict.fromkeys(("unknown", "nowhere", "closed", "damaged", "folder", "missing"), "reconnecting"),
            "good": "connected",
        }
        assert "remove it" in (await state_of(source, "damaged"))["lastError"]


async def test_all_that_is_wrong_in_the_configuration_is_told_at_once(run: Callable[..., Any]) -> None:
    async with run(commands={"command": "df -h"}, files={"pth": "/var/log/syslog"}) as source:
        await source.logged('or add "shell": true')
        await source.logged("files.path: missing")
        assert await source.end() == 1
    assert "Traceback" not in source.log


# Files.


class Log:
    """A log, of which each line is another number, and how it is rotated."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "app.log"
        self.path.touch()
        self.written = 0

    def write(self, count: int, width: int = 0) -> None:
        numbers = range(self.written + 1, self.written + count + 1)
        with self.path.open("a") as file:
            file.writelines(f"{number}{' ' * width}.\n" for number in numbers)
        self.written += count

    def _shift(self) -> None:
        for number in range(5, 0, -1):
            for suffix in ("", ".gz"):
                with suppress(FileNotFoundError):
                    os.rename(f"{self.path}.{number}{suffix}", f"{self.path}.{number + 1}{suffix}")

    def rename(self) -> None:
        self._shift()
        self.path.rename(f"{self.path}.1")
        self.path.touch()

    def copy_and_truncate(self) -> None:
        self._shift()
        shutil.copy(self.path, f"{self.path}.1")
        os.truncate(self.path, 0)

    def compress(self, number: int) -> None:
        plain = Path(f"{self.path}.{number}")
        Path(f"{plain}.gz").write_bytes(gzip.compress(plain.read_bytes()))
        shutil.copystat(plain, f"{plain}.gz")
        plain.unlink()


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def numbers(events: Sequence[Event]) -> list[int]:
    return [int(line.rstrip(". ")) for line in lines(events, "file.line")]


async def test_a_log_is_followed_through_every_rotation(run: Callable[..., Any], log: Log) -> None:
    log.write(5)
    async with run(files=str(log.path)) as source:
        await source.logged("app.log: connected")
        for rotate in (log.rename, log.copy_and_truncate, log.rename):
            log.write(10)
            await source.until(lambda: numbers(source.events)[-1:] == [log.written])
            log.write(10)
            rotate()
            log.write(10)
            await source.until(lambda: numbers(source.events)[-1:] == [log.written])
    assert numbers(source.events) == list(range(6, log.written + 1))
    assert len({event["id"] for event in source.events}) == log.written - 5
    assert {event["metadata"]["file"] for event in source.events} == {str(log.path)}


async def test_what_a_log_was_given_while_the_source_was_down_is_told_through_rotations(
    run: Callable[..., Any], log: Log
) -> None:
    async with run(files=str(log.path)) as source:
        await source.logged("app.log: connected")
        log.write(10)
        told = {event["id"]: event for event in await source.count(10)}
    for rotate in (log.rename, log.copy_and_truncate, log.rename):
        log.write(10)
        rotate()
        if Path(f"{log.path}.2").exists():
            log.compress(2)
    log.write(10)
    async with run(files=str(log.path)) as source:
        await source.until(lambda: numbers(source.events)[-1:] == [log.written])
    told |= {event["id"]: event for event in source.events}
    assert numbers(list(told.values())) == list(range(1, log.written + 1))


async def test_a_source_that_is_killed_in_a_flood_loses_no_line_and_repeats_under_the_same_ids(
    run: Callable[..., Any], log: Log
) -> None:
    accepted: dict[str, Event] = {}

    def take(event: Event) -> bool:
        assert accepted.setdefault(event["id"], event) == event
        return True

    async with run(files=str(log.path)) as source:
        await source.logged("app.log: connected")
    lives = 0
    for kill_after in (700, 2000, 0):
        async with run(files=str(log.path)) as source:
            source.accepts = take
            await source.logged("app.log: connected")
            log.write(1500, width=100)
            log.rename()
            log.write(1500, width=100)
            lives += 1
            if kill_after:
                begin = len(accepted)
                await source.until(lambda: len(accepted) >= begin + kill_after)  # noqa: B023 - awaited here
                source.kill()
            else:
                await source.until(lambda: numbers(source.events)[-1:] == [log.written])
    assert lives == 3
    assert numbers(list(accepted.values())) == list(range(1, 9001))


async def test_a_position_is_kept_only_once_the_host_has_accepted(run: Callable[..., Any], log: Log) -> None:
    async with run(files=str(log.path)) as source:
        await source.logged("app.log: connected")
        source.accepts = lambda event: False
        log.write(3)
        refused = list(await source.count(3))
        assert await source.end() == 0
        assert "Traceback" not in source.log
    async with run(files=str(log.path)) as source:
        assert list(await source.count(3)) == refused


async def test_a_file_that_is_emptied_is_a_gap_and_so_is_one_that_went_while_the_source_was_down(
    run: Callable[..., Any], log: Log
) -> None:
    async with run(files=str(log.path)) as source:
        await source.logged("app.log: connected")
        log.write(2)
        await source.count(2)
        os.truncate(log.path, 0)
        gap = (await source.count(3))[2]
        log.write(1)
        await source.count(4)
        assert (await state_of(source, "app.log"))["gaps"] == 1
    assert gap["payload"] == {
        "name": "app.log", "file": str(log.path), "reason": "truncated", "after": {"offset": 6},
    }  # fmt: skip
    anew = log.path.with_name("anew")
    anew.write_text("4.\n")
    anew.rename(log.path)
    async with run(files=str(log.path)) as source:
        gap, line = await source.count(2)
    assert (gap["payload"]["reason"], numbers([line])) == ("gone", [4])


async def test_files_that_fit_a_glob_come_and_go_and_a_link_is_followed_to_where_it_leads(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    logs = tmp_path / "logs"
    async with run(
        files=[{"name": "all", "path": f"{logs}/*.log"}, {"name": "link", "path": str(tmp_path / "current")}]
    ) as source:
        await source.logged("all: connected")
        await source.logged("current is not there; it is read once it is")
        logs.mkdir()
        (logs / "a.log").write_text("a1\n")
        (tmp_path / "current").symlink_to(logs / "a.log")
        await source.until(lambda: lines(source.events, "file.line") == ["a1", "a1"])
        (logs / "b.log").write_text("b1\n")
        await source.until(lambda: lines(source.events, "file.line")[2:] == ["b1"])
        (tmp_path / "switched").symlink_to(logs / "b.log")
        with (logs / "a.log").open("a") as file:
            file.write("a2\n")
        (tmp_path / "switched").rename(tmp_path / "current")
        await source.until(lambda: sorted(lines(source.events, "file.line")[3:]) == ["a2", "a2", "b1"])
        assert (await state_of(source, "link"))["state"] == "connected"
    by_name = {
        name: [event["payload"]["line"] for event in source.events if event["metadata"]["name"] == name]
        for name in ("all", "link")
    }
    assert by_name == {"all": ["a1", "b1", "a2"], "link": ["a1", "a2", "b1"]}


# Journals.

BOOTS = ("0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210")
_names = itertools.count(1)


class Journal:
    """A folder with journal files as systemd writes them."""

    def __init__(self, folder: Path) -> None:
        places = (Path(root, "systemd-journal-remote") for root in ("/usr/lib/systemd", "/lib/systemd"))
        self._program = next((place for place in places if place.exists()), None) or missing(
            "systemd-journal-remote (Debian: apt install systemd-journal-remote)"
        )
        if shutil.which("journalctl") is None:
            missing("journalctl (Debian: apt install systemd)")
        self.folder = folder / "journal"
        self.folder.mkdir()
        self.written = 0
        self.file = "a.journal"

    def write(self, count: int, *, boot: int = 0, **fields: str | bytes) -> None:
        """Add entries, each with its number as its message; a field of bytes may hold anything."""
        export = b""
        for number in range(self.written + 1, self.written + count + 1):
            entry = {
                "__REALTIME_TIMESTAMP": str(1_767_323_000_000_000 + number * 1_000_000),
                "__MONOTONIC_TIMESTAMP": str(number * 1_000_000),
                "_BOOT_ID": BOOTS[boot],
                "MESSAGE": str(number),
                "PRIORITY": "6",
                **fields,
            }
            for name, value in entry.items():
                if isinstance(value, bytes):
                    export += name.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"
                else:
                    export += f"{name}={value}\n".encode()
            export += b"\n"
        self.written += count
        command = [self._program, f"--output={self.folder / self.file}", "-"]
        subprocess.run(command, input=export, check=True, capture_output=True, timeout=30)

    def options(self, **more: Any) -> dict[str, Any]:
        return {"name": "j", "directory": str(self.folder), **more}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path)


def messages(events: Sequence[Event]) -> list[int]:
    return [int(event["payload"]["message"]) for event in events if event["type"] == "journal.entry"]


async def test_a_journal_is_read_on_where_it_was_whatever_ends_and_however_often_the_machine_was_booted(
    run: Callable[..., Any], journal: Journal
) -> None:
    journal.write(3)
    async with run(journals=journal.options()) as source:
        await source.logged("j: connected")
        journal.write(3)
        await source.until(lambda: messages(source.events) == [4, 5, 6])
        (first, *_) = source.events
    journal.write(3)
    journal.write(3, boot=1)
    journal.file = "b.journal"
    journal.write(3, boot=1)
    async with run(journals=journal.options()) as source:
        await source.until(lambda: messages(source.events) == list(range(7, 16)))
        journal.write(3, boot=1)
        await source.until(lambda: messages(source.events) == list(range(7, 19)))
    assert first["timestamp"] == 1_767_323_004_000
    assert first["id"] == f"j:{first['metadata']['cursor']}"
    assert first["payload"] == {"message": "4", "priority": 6}


async def test_an_entry_that_journalctl_would_leave_out_after_a_cursor_of_another_unit_is_told(
    run: Callable[..., Any], journal: Journal
) -> None:
    journal.write(2, _SYSTEMD_UNIT="b.service")
    options = journal.options(units=["a.service"], priority="info", matches=["_TRANSPORT=journal"])
    async with run(journals=options) as source:
        await source.logged("j: connected")
    journal.write(1, _SYSTEMD_UNIT="a.service", _TRANSPORT="journal")
    journal.write(1, _SYSTEMD_UNIT="a.service", _TRANSPORT="stdout")
    journal.write(1, _SYSTEMD_UNIT="a.service", _TRANSPORT="journal", PRIORITY="7")
    journal.write(1, _SYSTEMD_UNIT="a.service", _TRANSPORT="journal", PRIORITY="3")
    async with run(journals=options) as source:
        await source.until(lambda: messages(source.events) == [3, 6])


async def test_a_source_that_is_killed_while_it_reads_a_journal_loses_no_entry(
    run: Callable[..., Any], journal: Journal
) -> None:
    accepted: dict[str, Event] = {}

    def first_300(event: Event) -> bool:
        if len(accepted) < 300:
            accepted[event["id"]] = event
        return event["id"] in accepted

    options = journal.options(**{"from": "beginning"})
    journal.write(1000)
    async with run(journals=options) as source:
        source.accepts = first_300
        await source.until(lambda: len(accepted) == 300)
        source.kill()
    async with run(journals=options) as source:
        await source.until(lambda: messages(source.events)[-1:] == [1000])
        for event in source.events:
            assert accepted.setdefault(event["id"], event) == event
    assert messages(list(accepted.values())) == list(range(1, 1001))


async def test_a_journalctl_that_is_killed_is_started_again_and_nothing_is_missing(
    run: Callable[..., Any], journal: Journal
) -> None:
    journal.write(1)
    async with run(journals=journal.options()) as source:
        await source.logged("j: connected")
        journal.write(1)
        await source.count(1)
        end = ["pkill", "-KILL", "--full", f"^journalctl --directory={journal.folder} .*--follow"]
        await anyio.run_process(end)
        await source.logged("journalctl ended with status -9")
        journal.write(1)
        await source.until(lambda: messages(source.events) == [2, 3])


async def test_a_journal_that_was_vacuumed_is_a_gap_and_what_is_left_of_it_follows(
    run: Callable[..., Any], journal: Journal
) -> None:
    journal.write(2)
    async with run(journals=journal.options(**{"from": "beginning"})) as source:
        (_, last) = await source.count(2)
    (journal.folder / journal.file).unlink()
    journal.written += 5
    journal.write(2)
    async with run(journals=journal.options()) as source:
        gap, *_ = await source.count(3)
        assert messages(source.events) == [8, 9]
        assert (await state_of(source, "j"))["gaps"] == 1
    assert (gap["type"], gap["payload"]["reason"]) == ("process.gap", "vacuumed")
    assert gap["payload"]["after"] == {"cursor": last["metadata"]["cursor"], "timestamp": last["timestamp"]}
    assert gap["payload"]["until"]["timestamp"] == 1_767_323_008_000
    async with run(journals=journal.options()) as source:
        await source.logged("j: connected")
        journal.write(1)
        await source.until(lambda: messages(source.events) == [10])


async def test_fields_of_an_entry_are_told_if_wanted_and_bytes_as_they_are(
    run: Callable[..., Any], journal: Journal
) -> None:
    journal.write(1, MESSAGE=b"caf\xe9", OTHER="x" * 5000, RAW=b"\x00\xff", _PID="42", SYSLOG_IDENTIFIER="me")
    async with run(journals=journal.options(fields=True, **{"from": "beginning"})) as source:
        (event,) = await source.count(1)
    payload = event["payload"]
    assert payload.pop("fields") == {"OTHER": "x" * 5000, "RAW": {"base64": "AP8="}, "_BOOT_ID": BOOTS[0]}
    assert payload == {"message": {"base64": "Y2Fm6Q=="}, "priority": 6, "identifier": "me", "pid": 42}
