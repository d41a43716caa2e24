"""Servers of every kind are kept up: started, watched, started again, and given up only in the way that is promised."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import anyio
import psutil
import pytest
from hosting import LIMIT_S, PACKAGES, QUICK, TINY, Hosting, hosting, until
from http_peer import HttpPeer
from mcp import MCPError
from servers import missing
from structlog.testing import capture_logs

from eventhost.config import Protocol, ServerKind
from eventhost.connections import Batch, Connection, EventSourceStatus, Link, Received, ServerStatus
from eventhost.connections import connection as connection_room
from eventhost.connections import http as http_room
from eventhost.connections.http import free_port
from eventhost.errors import ConnectionLost, NotFound

STOPPED, CONNECTING, RUNNING, DISCONNECTED, BACKOFF, ERROR = (
    EventSourceStatus.STOPPED,
    EventSourceStatus.CONNECTING,
    EventSourceStatus.RUNNING,
    EventSourceStatus.DISCONNECTED,
    EventSourceStatus.BACKOFF,
    EventSourceStatus.ERROR,
)
PATIENT = replace(QUICK, startretries=1000)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_room, "FIRST_BACKOFF_S", 0.02)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Hosting]:
    async with hosting(tmp_path) as host:
        yield host


@pytest.fixture(autouse=True)
def _forget_modules(tmp_path: Path) -> Iterator[None]:
    """One process has one environment, so that nobody else's modules are in its way; here there are many."""
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


class Taken:
    """A receiver that keeps what it gets."""

    def __init__(self) -> None:
        self.events: list[Received] = []
        self.rejections: list[str] = []
        self.gate = anyio.Event()
        self.gate.set()

    @property
    def ids(self) -> list[str]:
        return [event.id for event in self.events]

    async def accept(self, batch: Batch) -> None:
        await self.gate.wait()
        self.events += batch.events

    def reject(self, reason: str, event: Received | None = None) -> None:
        self.rejections.append(reason)

    def resource_updated(self, uri: str) -> None: ...


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def pid_of(connection: Connection) -> int:
    assert connection.link is not None
    assert connection.link.pid is not None
    return connection.link.pid


async def kill_and_wait(host: Hosting, connection: Connection, restarts: int) -> None:
    """Kill its server, and wait until it is up for the time after `restarts` restarts."""
    os.kill(pid_of(connection), signal.SIGKILL)
    await until(lambda: connection.restarts == restarts and connection.status is RUNNING)


# --- up, down and up again ------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_killed_server_comes_back_after_a_pause(host: Hosting) -> None:
    with capture_logs() as logs:
        connection = await host.running(host.tiny("door"))
        first = pid_of(connection)
        os.kill(first, signal.SIGKILL)
        await host.becomes("door", CONNECTING, RUNNING, DISCONNECTED, BACKOFF, CONNECTING, RUNNING)
        assert host.statuses["door"] == [CONNECTING, RUNNING, DISCONNECTED, BACKOFF, CONNECTING, RUNNING]
    assert pid_of(connection) != first
    assert connection.restarts == 1
    assert connection.last_error == "killed by SIGKILL"
    [backoff] = [entry for entry in logs if entry["event"] == "source_backoff"]
    assert (backoff["source"], backoff["attempt"], backoff["error"]) == ("door", 1, "killed by SIGKILL")


@pytest.mark.anyio
async def test_runs_that_end_soon_are_no_failed_starts(host: Hosting) -> None:
    broken = host.root / "broken"
    body = f"os.path.exists({str(broken)!r}) and sys.exit(3)"
    connection = await host.running(host.tiny("door", body, timings=replace(QUICK, startretries=2)))
    for restarts in range(1, 5):  # more often than `startretries`
        await kill_and_wait(host, connection, restarts)
    assert ERROR not in host.statuses["door"]
    assert connection.restarts == 4
    broken.touch()
    os.kill(pid_of(connection), signal.SIGKILL)
    await host.becomes("door", ERROR)
    failed = [CONNECTING, DISCONNECTED, BACKOFF, CONNECTING, DISCONNECTED, ERROR]
    assert host.statuses["door"][-len(failed) - 3 :] == [RUNNING, DISCONNECTED, BACKOFF, *failed]


@pytest.mark.anyio
async def test_the_pauses_grow_while_runs_end_soon_and_begin_anew_after_a_good_one(
    host: Hosting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_room, "LONGEST_BACKOFF_S", 0.1)
    monkeypatch.setattr("eventhost.connections.connection.random.uniform", lambda low, high: high)
    connection = await host.running(host.tiny("door"))
    with capture_logs() as logs:
        for restarts in range(1, 6):
            await kill_and_wait(host, connection, restarts)
        os.kill(pid_of(connection), signal.SIGKILL)
        monkeypatch.setattr(connection_room, "GOOD_RUN_S", 0.01)
        await host.becomes("door", *[CONNECTING, RUNNING] * 7)
        await until(lambda: connection._did_well)
        monkeypatch.undo()
        monkeypatch.setattr(connection_room, "FIRST_BACKOFF_S", 0.02)
        monkeypatch.setattr("eventhost.connections.connection.random.uniform", lambda low, high: high)
        for restarts in (7, 8, 9):
            await kill_and_wait(host, connection, restarts)
    told = [(entry["attempt"], entry["delay_s"]) for entry in logs if entry["event"] == "source_backoff"]
    growing = [(1, 0.02), (2, 0.04), (3, 0.08), (4, 0.1), (5, 0.1), (6, 0.1)]
    assert told == [*growing, (0, 0.02), (1, 0.02), (2, 0.04)]


@pytest.mark.anyio
async def test_a_start_by_hand_lets_the_pauses_begin_anew(host: Hosting) -> None:
    connection = await host.running(host.tiny("door"))
    with capture_logs() as logs:
        for restarts in (1, 2):
            await kill_and_wait(host, connection, restarts)
        await connection.stop()
        host.pool.start(connection)
        await host.becomes("door", STOPPED, CONNECTING, RUNNING)
        await kill_and_wait(host, connection, 3)
    assert [entry["attempt"] for entry in logs if entry["event"] == "source_backoff"] == [1, 2, 1]


@pytest.mark.anyio
async def test_a_server_is_running_only_after_startsecs(host: Hosting) -> None:
    patient, quick = replace(QUICK, startsecs_s=600), replace(QUICK, startsecs_s=0.01)
    slow = host.connect(host.tiny("slow", timings=patient))
    with anyio.fail_after(LIMIT_S):
        await slow.connected(LIMIT_S)
    await host.running(host.tiny("quick", timings=quick))
    assert slow.status is CONNECTING
    os.kill(pid_of(slow), signal.SIGKILL)
    await host.becomes("slow", BACKOFF)
    assert RUNNING not in host.statuses["slow"]


@pytest.mark.anyio
async def test_a_crash_loop_ends_in_error_and_leaves_others_alone(host: Hosting) -> None:
    good = await host.running(host.tiny("good"))
    bad = host.connect(host.tiny("bad", 'print("no such sensor", file=sys.stderr); sys.exit(3)'))
    await host.becomes("bad", ERROR)
    assert host.statuses["bad"] == [*[CONNECTING, DISCONNECTED, BACKOFF] * 2, CONNECTING, DISCONNECTED, ERROR]
    assert bad.restarts == 2
    assert bad.last_error == "exited with status 3; its last words: no such sensor"
    assert not await bad.settled()
    assert host.statuses["good"] == [CONNECTING, RUNNING]
    assert good.restarts == 0
    assert bad.link is None


@pytest.mark.anyio
async def test_a_server_in_error_is_tried_again_every_error_retry(host: Hosting) -> None:
    timings = replace(QUICK, startretries=1, error_retry_s=0.01)
    host.connect(host.tiny("bad", "sys.exit(3)", timings=timings))
    await host.becomes("bad", ERROR, CONNECTING, ERROR, CONNECTING, ERROR)


@pytest.mark.anyio
async def test_a_server_that_recovers_leaves_error_behind(host: Hosting) -> None:
    cure = host.root / "cure"
    timings = replace(QUICK, startretries=1, error_retry_s=0.01)
    host.connect(host.tiny("bad", f"os.path.exists({str(cure)!r}) or sys.exit(3)", timings=timings))
    await host.becomes("bad", ERROR)
    cure.touch()
    await host.becomes("bad", ERROR, CONNECTING, RUNNING)


@pytest.mark.anyio
async def test_an_error_retry_of_zero_means_never(host: Hosting) -> None:
    bad = host.connect(host.tiny("bad", "sys.exit(3)", timings=replace(QUICK, startretries=1, error_retry_s=0)))
    await host.becomes("bad", ERROR)
    await host.running(host.tiny("good"))
    assert bad.status is ERROR
    await bad.stop()
    assert bad.status is STOPPED


@pytest.mark.anyio
async def test_what_runs_beside_a_link_and_fails_once_it_runs_is_no_failed_start(host: Hosting) -> None:
    async def fail(link: Link) -> None:
        await until(lambda: connection.status is RUNNING)
        raise ConnectionLost("lost its temper")

    connection = host.pool.add(host.tiny("door", timings=replace(QUICK, startretries=1)), serve=fail)
    host.pool.start(connection)
    await host.becomes("door", RUNNING, DISCONNECTED, BACKOFF, RUNNING, DISCONNECTED, BACKOFF)
    assert ERROR not in host.statuses["door"]
    assert connection.last_error == "lost its temper"


@pytest.mark.anyio
async def test_pauses_grow_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_room, "FIRST_BACKOFF_S", 0.5)
    monkeypatch.setattr("eventhost.connections.connection.random.uniform", lambda low, high: high)
    async with hosting(tmp_path) as host:
        local = host.pool.add(host.tiny("local", timings=replace(QUICK, startretries=5)))
        remote = host.pool.add(host.server("remote", ServerKind.REMOTE, url="http://127.0.0.1:9"))
        assert [local._pause_s(failures) for failures in range(5)] == [0.5, 0.5, 1, 2, 4]
        local._failed_starts = 4
        assert local._pause_s(5) == 8, "of the five one came up"
        local._failed_starts = 5
        assert local._pause_s(6) == 600
        assert local.status is ERROR
        assert [remote._pause_s(failures) for failures in (9, 10, 11, 1000)] == [128, 256, 300, 300]
        assert remote.status is BACKOFF


# --- opening --------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_an_initialize_that_hangs_is_bounded_and_its_child_is_gone(host: Hosting) -> None:
    body = "def initialize(message): print(os.getpid(), file=sys.stderr, flush=True)"
    hung = host.connect(host.tiny("hung", body, timings=replace(QUICK, init_timeout_s=0.3, startretries=1)))
    await host.becomes("hung", ERROR)
    assert hung.last_error is not None
    assert hung.last_error.startswith("did not answer initialize within 0.3 s (initTimeout); its last words: ")
    pid = int(hung.log.lines[-1])
    assert not alive(pid)


@pytest.mark.anyio
async def test_a_missing_command_says_how_to_mend_it(host: Hosting) -> None:
    missing = host.connect(
        host.server("missing", command=("no-such-program", "x"), timings=replace(QUICK, startretries=1))
    )
    script = host.connect(host.server("script", command=("./server.sh",), timings=replace(QUICK, startretries=1)))
    (host.root / "server.sh").write_text("#!/bin/sh\n")
    await host.becomes("missing", ERROR)
    await host.becomes("script", ERROR)
    assert missing.last_error == "no-such-program is not on PATH; install it, or give its full path"
    assert script.last_error is not None
    assert "chmod +x" in script.last_error


@pytest.mark.anyio
async def test_a_refused_initialize_is_told(host: Hosting) -> None:
    body = """
    def initialize(message):
        say(id=message["id"], error={"code": -32000, "message": "licence expired"})
    """
    connection = host.connect(host.tiny("door", body, timings=replace(QUICK, startretries=1)))
    await host.becomes("door", ERROR)
    assert "licence expired" in str(connection.last_error)


@pytest.mark.anyio
async def test_a_protocol_version_that_nobody_knows_is_told(host: Hosting) -> None:
    body = """
    def initialize(message):
        say(id=message["id"], result={"protocolVersion": "1999-01-01", "capabilities": {},
                                      "serverInfo": {"name": "old", "version": "1"}})
    """
    connection = host.connect(host.tiny("door", body, timings=replace(QUICK, startretries=1)))
    await host.becomes("door", ERROR)
    assert "1999-01-01" in str(connection.last_error)


@pytest.mark.anyio
async def test_no_more_servers_start_at_once_than_the_limit_allows(tmp_path: Path) -> None:
    starting, go = tmp_path / "starting", tmp_path / "go"
    starting.mkdir()
    body = f"""
    def initialize(message, answer=initialize):
        own = os.path.join({str(starting)!r}, str(os.getpid()))
        open(own, "w").close()
        while not os.path.exists({str(go)!r}):
            time.sleep(0.003)
        print(len(os.listdir({str(starting)!r})), file=sys.stderr, flush=True)
        os.remove(own)
        answer(message)
    """
    async with hosting(tmp_path, launch_limit=2) as host:
        connections = [host.connect(host.tiny(f"s{number}", body)) for number in range(8)]
        await until(lambda: len(list(starting.iterdir())) == 2)
        await until(lambda: host.pool._launches.statistics().tasks_waiting == 6)
        broken = host.connect(host.server("broken", command=("no-such-program",)))
        go.touch()
        await until(lambda: all(connection.status is RUNNING for connection in connections))
        await host.becomes("broken", BACKOFF)
        assert max(int(line) for connection in connections for line in connection.log.lines) <= 2
        # Those that are up, down, or stopped give their place back.
        await broken.stop()
        assert host.pool._launches.borrowed_tokens == 0


@pytest.mark.anyio
async def test_a_server_waiting_for_its_turn_can_be_stopped_and_is_not_timed_out(tmp_path: Path) -> None:
    async with hosting(tmp_path, launch_limit=1) as host:
        hung = host.connect(host.tiny("hung", "def initialize(message): pass"))
        await until(lambda: host.pool._launches.borrowed_tokens == 1)
        waiting = host.connect(host.tiny("waiting", timings=replace(QUICK, init_timeout_s=0.01)))
        other = host.connect(host.tiny("other"))
        await until(lambda: host.pool._launches.statistics().tasks_waiting == 2)
        with anyio.fail_after(LIMIT_S):
            await waiting.stop()
            assert waiting.last_error is None
            await hung.stop()
            assert await other.settled()


# --- stopping -------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_stop_by_hand_lasts(host: Hosting) -> None:
    connection = await host.running(host.tiny("door"))
    pid = pid_of(connection)
    await connection.stop()
    assert not alive(pid)
    await host.running(host.tiny("other"))
    assert host.statuses["door"] == [CONNECTING, RUNNING, STOPPED]
    assert (connection.link, connection.up_since) == (None, None)
    await connection.stop()
    host.pool.start(connection)
    host.pool.start(connection)
    await host.becomes("door", STOPPED, CONNECTING, RUNNING)
    assert host.statuses["door"].count(CONNECTING) == 2


@pytest.mark.anyio
@pytest.mark.parametrize("body", ["def initialize(message): pass", "sys.exit(3)"], ids=["connecting", "backoff"])
async def test_a_server_that_is_not_up_can_be_stopped_at_once(
    host: Hosting, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_room, "FIRST_BACKOFF_S", 1e6)
    connection = host.connect(host.tiny("door", body, timings=PATIENT))
    if "exit" in body:
        await host.becomes("door", BACKOFF)
    with anyio.fail_after(LIMIT_S):
        await connection.stop()
    assert connection.status is STOPPED


@pytest.mark.anyio
async def test_leaving_the_pool_leaves_nothing_behind(tmp_path: Path) -> None:
    pids = []
    async with hosting(tmp_path) as host:
        stubborn = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ndef heard(message): time.sleep(1000)"
        for number in range(4):
            timings = replace(QUICK, stop_timeout_s=0.05)
            connection = await host.running(host.tiny(f"s{number}", stubborn, timings=timings))
            pids.append(pid_of(connection))
        assert host.pool.surroundings.guardian.pid is not None
        pids.append(host.pool.surroundings.guardian.pid)
        host.connect(host.tiny("starting", "def initialize(message): pass"))
    assert not any(map(alive, pids))


@pytest.mark.anyio
async def test_connections_are_removed_by_name(host: Hosting) -> None:
    await host.running(host.tiny("door"))
    with pytest.raises(NotFound, match="no connection is called 'gate'; there are: door"):
        await host.pool.remove("gate")
    await host.pool.remove("door")
    assert host.pool.connections == {}
    with pytest.raises(NotFound, match="there are: none"):
        await host.pool.remove("door")


@pytest.mark.anyio
async def test_who_waits_for_a_link_is_told_why_there_is_none(host: Hosting) -> None:
    bad = host.connect(host.tiny("bad", "sys.exit(3)", timings=replace(QUICK, startretries=1)))
    await host.becomes("bad", ERROR)
    with pytest.raises(ConnectionLost, match=r"bad is error \(exited with status 3\)"):
        await bad.connected(0)
    good = host.connect(host.tiny("good"))
    assert (await good.connected(LIMIT_S)).protocol == "2025-11-25"


# --- ends of all kinds ----------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_what_was_written_before_the_exit_is_accepted(host: Hosting) -> None:
    taken = Taken()
    body = """
    def initialized():
        for number in range(2000):
            emit(id=str(number), payload={"text": "x" * 100})
        os._exit(0)
    """
    host.connect(host.tiny("door", body, timings=replace(QUICK, startretries=1, error_retry_s=0)), taken)
    await host.becomes("door", DISCONNECTED)
    assert taken.ids[:2000] == [str(number) for number in range(2000)]


@pytest.mark.anyio
async def test_what_is_written_while_it_is_being_stopped_is_accepted(host: Hosting) -> None:
    taken = Taken()
    body = """
    import atexit
    atexit.register(lambda: emit(id="last"))
    """
    connection = await host.running(host.tiny("door", body), taken)
    await connection.stop()
    assert taken.ids == ["last"]


@pytest.mark.anyio
async def test_what_is_written_before_the_answer_to_initialize_is_accepted(host: Hosting) -> None:
    taken = Taken()
    await host.running(host.tiny("door", 'emit(id="early")'), taken)
    await until(lambda: taken.ids == ["early"])


@pytest.mark.anyio
async def test_the_death_of_an_idle_server_is_noticed(host: Hosting) -> None:
    connection = await host.running(host.tiny("door", timings=replace(QUICK, startretries=1)))
    link = connection.link
    assert link is not None
    os.kill(pid_of(connection), signal.SIGKILL)
    with anyio.fail_after(LIMIT_S):
        await link.ended.wait()
    assert link.reason == "killed by SIGKILL"


@pytest.mark.anyio
async def test_a_grandchild_that_holds_stdout_does_not_hide_the_death(host: Hosting) -> None:
    taken = Taken()
    body = """
    import subprocess
    def initialized():
        child = subprocess.Popen(["sleep", "1000"])
        emit(id=str(child.pid))
        os._exit(7)
    """
    connection = host.connect(host.tiny("door", body, timings=replace(QUICK, startretries=1, error_retry_s=0)), taken)
    await host.becomes("door", DISCONNECTED)
    assert connection.last_error == "exited with status 7"
    assert not any(alive(int(pid)) for pid in taken.ids)


@pytest.mark.anyio
async def test_a_server_that_closes_its_stdout_but_lives_is_ended(host: Hosting) -> None:
    taken = Taken()
    body = """
    def initialized():
        emit(id=str(os.getpid()))
        os.close(1)
        time.sleep(1000)
    """
    timings = replace(QUICK, startretries=1, error_retry_s=0, stop_timeout_s=0.05)
    connection = host.connect(host.tiny("door", body, timings=timings), taken)
    await host.becomes("door", DISCONNECTED)
    assert connection.last_error == "closed its stdout but lived on"
    assert not alive(int(taken.ids[0]))


@pytest.mark.anyio
async def test_a_server_that_says_why_it_dies_after_closing_its_stdout_is_heard(host: Hosting) -> None:
    body = """
    def initialized():
        os.close(1)
        print("sensor unplugged", file=sys.stderr)
        os._exit(5)
    """
    connection = host.connect(host.tiny("door", body, timings=replace(QUICK, error_retry_s=0)))
    await host.becomes("door", DISCONNECTED)
    assert connection.last_error == "exited with status 5; its last words: sensor unplugged"


@pytest.mark.anyio
async def test_a_server_that_stops_reading_its_stdin_is_no_reason_to_stop_listening(host: Hosting) -> None:
    taken = Taken()
    body = """
    def initialized():
        os.close(0)
        for number in range(3):
            emit(id=str(number))
            time.sleep(0.01)
        threading.Event().wait()
    """
    timings = replace(QUICK, stop_timeout_s=0.05)
    await host.running(host.tiny("door", body, timings=timings), taken)
    await until(lambda: taken.ids == ["0", "1", "2"])
    assert host.statuses["door"] == [CONNECTING, RUNNING]


# --- a server that does not answer ---------------------------------------------------------------------------------


BUSY = """
def ping(params):
    while not os.path.exists({!r}):
        pass
    return {{}}
methods["ping"] = ping
"""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_room, "PING_INTERVAL_S", 0.02)
    monkeypatch.setattr(connection_room, "PING_TIMEOUT_S", 0.05)


@pytest.mark.anyio
@pytest.mark.usefixtures("impatient")
async def test_a_loop_without_end_is_told_and_when_it_has_ended_too(
    host: Hosting, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = host.root / "out"
    with capture_logs() as logs:
        connection = await host.running(host.tiny("door", BUSY.format(str(out))))
        connection.last_error = "the error before"
        await until(lambda: connection.silence is not None)
        first = connection.last_error
        assert first == "has not answered a ping for 0.05 s: it may loop, or block"
        await until(lambda: connection.last_error != first)
        assert connection.last_error.endswith(" s: it may loop, or block")
        shown = ServerStatus.of(connection)
        assert (shown.status, shown.last_error, shown.silence) == (RUNNING, connection.silence, connection.silence)
        monkeypatch.setattr(connection_room, "PING_INTERVAL_S", 1e6)
        out.touch()
        await until(lambda: connection.silence is None)
    assert connection.last_error == "the error before"
    assert host.statuses["door"] == [CONNECTING, RUNNING]
    told = [
        (entry["event"], entry["log_level"]) for entry in logs if entry["event"] in ("source_silent", "source_answers")
    ]
    assert told == [("source_silent", "warning"), ("source_answers", "info")]


@pytest.mark.anyio
@pytest.mark.usefixtures("impatient")
async def test_a_source_that_is_suspended_is_seen_and_can_be_stopped(host: Hosting) -> None:
    client = host.source(host.tiny("door"))
    await host.becomes("door", RUNNING)
    os.kill(pid_of(client.connection), signal.SIGSTOP)
    await until(lambda: client.status().silence is not None)
    status = client.status()
    assert (status.status, status.last_error) == (RUNNING, status.silence)
    with anyio.fail_after(LIMIT_S):
        await client.disconnect()
    assert (client.status().silence, client.status().last_error) == (None, None)


@pytest.mark.anyio
@pytest.mark.usefixtures("impatient")
async def test_why_a_silent_server_ended_says_more_than_its_silence(host: Hosting) -> None:
    connection = await host.running(host.tiny("door"))
    os.kill(pid_of(connection), signal.SIGSTOP)
    await until(lambda: connection.silence is not None)
    os.kill(pid_of(connection), signal.SIGKILL)
    await host.becomes("door", BACKOFF)
    assert connection.last_error == "killed by SIGKILL"


@pytest.mark.anyio
async def test_a_server_without_ping_is_not_called_silent(host: Hosting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_room, "PING_INTERVAL_S", 0.02)
    body = """
    answer = say
    def say(**message):
        if "error" in message:
            print(message["error"]["code"], file=sys.stderr, flush=True)
        answer(**message)
    """
    text = TINY.replace("#BODY#", dedent(body)).replace('elif method == "ping":', 'elif method == "no ping":')
    with capture_logs() as logs:
        connection = await host.running(host.script("door", text, isolated=True))
        await until(lambda: len(connection.log.lines) > 2)
    assert set(connection.log.lines) == {"-32601"}
    assert (connection.silence, connection.last_error, connection.status) == (None, None, RUNNING)
    assert not [entry for entry in logs if entry["event"] in ("source_silent", "source_answers")]


@pytest.mark.anyio
async def test_a_server_that_has_closed_its_stdin_cannot_be_pinged_and_is_heard_all_the_same(
    host: Hosting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_room, "PING_INTERVAL_S", 0.02)
    taken = Taken()
    body = """
    def initialized():
        os.close(0)
        while True:
            emit()
            time.sleep(0.01)
    """
    connection = await host.running(host.tiny("door", body, timings=replace(QUICK, stop_timeout_s=0.05)), taken)
    assert connection.link is not None
    ping = connection.link.client.send_ping
    with pytest.raises(MCPError, match="Connection closed"):
        await ping()
    before = len(taken.events)
    await until(lambda: len(taken.events) > before + 10)
    assert (connection.silence, connection.last_error, connection.status) == (None, None, RUNNING)


# --- log ------------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_stderr_and_log_notifications_are_in_the_log_under_its_name(host: Hosting) -> None:
    body = """
    print("starting", file=sys.stderr, flush=True)
    def initialized():
        say(method="notifications/message", params={"level": "warning", "logger": "x", "data": "hinge is loose"})
        say(method="notifications/message", params={"level": "error", "data": {"code": 5}})
        print("garbage on stdout", flush=True)
        print("unfinished", end="", file=sys.stderr, flush=True)
        os._exit(0)
    """
    with capture_logs() as logs:
        connection = host.connect(host.tiny("door", body, timings=replace(QUICK, startretries=1, error_retry_s=0)))
        await host.becomes("door", DISCONNECTED)
    assert sorted(connection.log.lines) == sorted([
        "starting", "hinge is loose", '{"code":5}', "not a JSON-RPC message: garbage on stdout", "unfinished",
    ])  # fmt: skip
    levels = {entry["line"]: entry["log_level"] for entry in logs if entry["event"] == "source_log"}
    assert levels["hinge is loose"] == "warning"
    assert levels['{"code":5}'] == "error"
    assert levels["starting"] == "info"
    assert {entry["source"] for entry in logs if entry["event"] == "source_log"} == {"door"}


@pytest.mark.anyio
async def test_a_crash_is_told_with_the_error_and_its_place_in_the_servers_folder(host: Hosting) -> None:
    timings = replace(QUICK, startretries=1, error_retry_s=0)
    body = """
    def initialized():
        print("going on", flush=True)
        raise RuntimeError("out of cheese")
    """
    python = host.connect(host.tiny("python", body, timings=timings))
    misspelt = host.connect(host.script("misspelt", "import sys\ndef f(:", timings=timings))
    await host.becomes("python", DISCONNECTED)
    await host.becomes("misspelt", DISCONNECTED)
    assert re.fullmatch(
        r"exited with status 1; its last words: RuntimeError: out of cheese \([\w./-]+\.py:\d+\)",
        python.last_error or "",
    )
    assert re.fullmatch(
        r"exited with status 1; its last words: SyntaxError: invalid syntax \([\w./-]+\.py:2\)",
        misspelt.last_error or "",
    )
    assert str(host.root) not in f"{python.last_error} {misspelt.last_error}"


@pytest.mark.anyio
async def test_a_crash_of_node_is_told_with_the_error_and_its_place(host: Hosting) -> None:
    node = shutil.which("node")
    if node is None:
        missing("node (Node.js, from the system's package manager or nodejs.org)")
    timings = replace(QUICK, startretries=1, error_retry_s=0)
    (host.root / "server.mjs").write_text("// a door\nlet hinge = ;\n")
    server = host.server("door", command=(node, "server.mjs"), timings=timings)
    connection = host.connect(server)
    await host.becomes("door", DISCONNECTED)
    assert connection.last_error == (
        "exited with status 1; its last words: SyntaxError: Unexpected token ';' (server.mjs:2)"
    )


@pytest.mark.anyio
async def test_the_last_words_are_those_of_the_process_that_ended_and_not_of_an_earlier_one(host: Hosting) -> None:
    earlier = host.root / "earlier"
    body = f"""
    if not os.path.exists({str(earlier)!r}):
        open({str(earlier)!r}, "w").close()
        print("error: no such sensor", file=sys.stderr)
        print("hallo", flush=True)
        sys.exit(3)
    """
    connection = host.connect(host.tiny("door", body))
    await host.becomes("door", BACKOFF)
    assert connection.last_error == "exited with status 3; its last words: error: no such sensor"
    await host.becomes("door", BACKOFF, CONNECTING, RUNNING)
    os.kill(pid_of(connection), signal.SIGKILL)
    await host.becomes("door", RUNNING, DISCONNECTED)
    assert connection.last_error == "killed by SIGKILL"
    assert "error: no such sensor" in connection.log.lines


# --- what servers ask of the host -----------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_server_that_asks_for_roots_sampling_or_elicitation_is_answered_politely(host: Hosting) -> None:
    taken = Taken()
    body = """
    def initialized():
        text = {"role": "user", "content": {"type": "text", "text": "hello"}}
        schema = {"type": "object", "properties": {}}
        say(id="roots", method="roots/list")
        say(id="sampling", method="sampling/createMessage", params={"messages": [text], "maxTokens": 5})
        say(id="elicitation", method="elicitation/create", params={"message": "name?", "requestedSchema": schema})
        say(id="nonsense", method="no/such/method")
        say(id="broken", method="sampling/createMessage", params={"messages": 5})
        say(id="ping", method="ping")
    def heard(message):
        error = message.get("error", {})
        emit(id=message["id"], payload={"code": error.get("code"), "message": error.get("message")})
    """
    await host.running(host.tiny("door", body), taken)
    await until(lambda: len(taken.events) == 6)
    answers = {event.id: event.payload for event in taken.events}
    assert answers.pop("ping") == {"code": None, "message": None}
    assert all(isinstance(answer["code"], int) and answer["message"] for answer in answers.values())
    assert host.statuses["door"] == [CONNECTING, RUNNING]


# --- what a child gets ----------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_child_gets_its_config_its_state_folder_and_no_more_than_the_minimal_environment(
    host: Hosting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOST_SECRET", "xyzzy")
    taken = Taken()
    body = "def initialized(): emit(id=os.getcwd(), payload=dict(os.environ))"
    settings = {"interval": 5, "name": "ü"}
    await host.running(host.tiny("door", body, settings=settings, environment={"LEVEL": "3"}), taken)
    await host.running(host.tiny("gate", body, inherit_environment=True), taken)
    await until(lambda: len(taken.events) == 2)
    door, gate = (event.payload for event in taken.events)
    assert json.loads(door["MCP_SERVER_CONFIG"]) == settings
    state = host.root / "var" / "state" / "door"
    assert door["EVENTHOST_STATE_DIR"] == str(state)
    assert state.is_dir()
    assert door["LEVEL"] == "3"
    assert "HOST_SECRET" not in door
    assert gate["HOST_SECRET"] == "xyzzy"
    assert taken.ids == [str(host.root)] * 2


# --- eras -----------------------------------------------------------------------------------------------------------

KIT = """
@source.task
async def say():
    await source.emit("kit.said", {"text": "hello"}, id="1")
"""
SDK = """
import os
from typing import Any, Literal
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import Notification, NotificationParams

server = MCPServer("sdk")

class Params(NotificationParams):
    data: dict[str, Any]

class Emitted(Notification[Params, Literal["notifications/eventsource/emitted"]]):
    method: Literal["notifications/eventsource/emitted"] = "notifications/eventsource/emitted"
    params: Params

@server.tool()
async def say(text: str, context: Context) -> str:
    event = {"type": "sdk.said", "id": text, "payload": {"pid": os.getpid()}}
    await context.session.send_notification(Emitted(params=Params(data=event)))
    return text

@server.tool()
def fail() -> str:
    raise ValueError("no such sensor")
"""
MODERN, LEGACY = "2026-07-28", "2025-11-25"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("protocol", "spoken"), [(Protocol.LEGACY, LEGACY), (Protocol.AUTO, MODERN), (Protocol.MODERN, MODERN)]
)
async def test_a_kit_source_is_spoken_to_in_either_era(host: Hosting, protocol: Protocol, spoken: str) -> None:
    taken = Taken()
    connection = await host.running(host.kit("kit", KIT, protocol=protocol), taken)
    assert connection.link is not None
    assert connection.link.protocol == spoken
    await until(lambda: taken.ids == ["1"])


@pytest.mark.anyio
async def test_auto_falls_back_to_the_legacy_era(host: Hosting) -> None:
    connection = await host.running(host.tiny("old", protocol=Protocol.AUTO))
    assert connection.link is not None
    assert connection.link.protocol == LEGACY


@pytest.mark.anyio
async def test_a_server_that_is_said_to_be_modern_and_is_not_is_told(host: Hosting) -> None:
    timings = replace(QUICK, startretries=1)
    connection = host.connect(host.tiny("old", protocol=Protocol.MODERN, timings=timings))
    await host.becomes("old", ERROR)
    assert connection.last_error == 'speaks MCP 2025-11-25; write "protocol": "legacy", or "auto"'


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("protocol", "spoken"), [(Protocol.LEGACY, LEGACY), (Protocol.AUTO, MODERN), (Protocol.MODERN, MODERN)]
)
async def test_a_server_of_the_sdk_is_spoken_to_in_either_era(host: Hosting, protocol: Protocol, spoken: str) -> None:
    taken = Taken()
    config = host.script("sdk", SDK + "\nserver.run()", protocol=protocol)
    connection = await host.running(config, taken)
    assert connection.link is not None
    assert connection.link.protocol == spoken
    assert not (await connection.link.client.call_tool("say", {"text": "hello"})).is_error
    await until(lambda: taken.ids == ["hello"])


# --- over HTTP, started by the host ---------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_child_that_serves_http_is_told_its_port_and_taken_from(host: Hosting) -> None:
    taken = Taken()
    body = KIT + "import os; os.close(1)"  # what it does with its stdout is its own affair
    config = replace(host.kit("kit", body, settings={"transport": "http"}), kind=ServerKind.HTTP)
    connection = await host.running(config, taken)
    await until(lambda: taken.ids == ["1"])
    assert any("http://127.0.0.1:" in line for line in connection.log.lines)
    os.kill(pid_of(connection), signal.SIGKILL)
    await host.becomes("kit", RUNNING, DISCONNECTED, BACKOFF, CONNECTING, RUNNING)
    assert str(connection.last_error).startswith("killed by SIGKILL")
    await until(lambda: taken.ids == ["1", "1"])


@pytest.mark.anyio
async def test_a_child_that_never_answers_over_http_is_given_up(host: Hosting) -> None:
    timings = replace(QUICK, init_timeout_s=0.2, startretries=1)
    deaf = host.connect(replace(host.tiny("deaf", timings=timings), kind=ServerKind.HTTP))
    dead = host.connect(replace(host.tiny("dead", "sys.exit(4)", timings=timings), kind=ServerKind.HTTP))
    await host.becomes("deaf", ERROR)
    await host.becomes("dead", ERROR)
    assert deaf.last_error == "did not answer initialize within 0.2 s (initTimeout)"
    assert dead.last_error == "exited with status 4"


# --- over HTTP, elsewhere -------------------------------------------------------------------------------------------


@pytest.fixture
def remote(host: Hosting) -> Any:
    def config(url: str, **more: Any) -> Any:
        return host.server("remote", ServerKind.REMOTE, url=url, **more)

    return config


@pytest.mark.anyio
async def test_events_of_a_remote_server_are_pushed(host: Hosting, remote: Any) -> None:
    taken = Taken()
    async with HttpPeer().serving() as peer:
        headers = {"Authorization": "Bearer secret", "X-Site": "7"}
        connection = await host.running(remote(peer.url, headers=headers), taken)
        await until(lambda: peer.streams)
        for number in range(3):
            await peer.emit(id=str(number))
        await until(lambda: taken.ids == ["0", "1", "2"])
        assert all(sent["authorization"] == "Bearer secret" and sent["x-site"] == "7" for sent in peer.headers)
        assert connection.link is not None
        assert connection.link.pid is None
        await connection.stop()
        await until(lambda: "DELETE" in peer.methods)
        assert peer.sessions == set()


@pytest.mark.anyio
async def test_a_remote_event_may_be_as_large_as_a_local_one(host: Hosting, remote: Any) -> None:
    taken = Taken()
    async with HttpPeer().serving() as peer:
        await host.running(remote(peer.url), taken)
        await until(lambda: peer.streams)
        await peer.emit(id="large", payload={"text": "x" * 1_500_000})
        await peer.emit(id="small")
        await until(lambda: taken.ids == ["large", "small"])


@pytest.mark.anyio
async def test_an_event_stream_that_is_closed_is_opened_again(
    host: Hosting, remote: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp.client.streamable_http.DEFAULT_RECONNECTION_DELAY_MS", 10)
    taken = Taken()
    async with HttpPeer().serving() as peer:
        await host.running(remote(peer.url), taken)
        for number in range(4):
            await until(lambda: peer.streams)
            await peer.emit(id=str(number))
            await until(lambda: len(taken.ids) > number)  # noqa: B023 - called at once
            peer.close_streams()
            await until(lambda: not peer.streams)
        await until(lambda: peer.streams)
        assert taken.ids == ["0", "1", "2", "3"]
        assert peer.methods.count("initialize") == 1
    assert host.statuses["remote"][:2] == [CONNECTING, RUNNING]


@pytest.mark.anyio
async def test_an_event_stream_that_stays_closed_is_a_lost_connection(
    host: Hosting, remote: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp.client.streamable_http.DEFAULT_RECONNECTION_DELAY_MS", 3_600_000)
    monkeypatch.setattr(http_room, "REOPEN_S", 0.05)
    taken = Taken()
    async with HttpPeer().serving() as peer:
        connection = await host.running(remote(peer.url), taken)
        await until(lambda: peer.streams)
        peer.close_streams()
        await host.becomes("remote", RUNNING, DISCONNECTED, BACKOFF, CONNECTING, RUNNING)
        assert connection.last_error == "the event stream ended (the server closed it) and was not opened again"
        await until(lambda: peer.streams)
        await peer.emit(id="again")
        await until(lambda: taken.ids == ["again"])


@pytest.mark.anyio
async def test_an_event_stream_that_is_refused_after_it_was_open_is_a_lost_connection(
    host: Hosting, remote: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp.client.streamable_http.DEFAULT_RECONNECTION_DELAY_MS", 10)
    taken = Taken()
    async with HttpPeer().serving() as peer:
        connection = await host.running(remote(peer.url), taken)
        await until(lambda: peer.streams)
        peer.restart()  # it knows no session any more, and nothing but the event stream would tell
        await host.becomes("remote", RUNNING, DISCONNECTED, BACKOFF, CONNECTING, RUNNING)
        assert "refused its event stream with HTTP 404" in str(connection.last_error)
        await until(lambda: peer.streams)
        await peer.emit(id="again")
        await until(lambda: taken.ids == ["again"])


@pytest.mark.anyio
@pytest.mark.parametrize("status", [404, 405, 501])
async def test_a_server_without_an_event_stream_is_connected_all_the_same(
    host: Hosting, remote: Any, status: int
) -> None:
    peer = HttpPeer()
    peer.get_status = status
    async with peer.serving():
        connection = await host.running(remote(peer.url))
        await until(lambda: "GET" in peer.methods)
        assert connection.link is not None
        await connection.link.client.send_ping()
        assert connection.status is RUNNING


@pytest.mark.anyio
async def test_a_server_that_was_restarted_without_a_word_is_noticed_by_a_ping(
    host: Hosting, remote: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_room, "PING_INTERVAL_S", 0.02)
    peer = HttpPeer()
    peer.get_status = 405
    async with peer.serving():
        connection = await host.running(remote(peer.url))
        await until(lambda: peer.methods.count("ping") > 2)
        assert host.statuses["remote"] == [CONNECTING, RUNNING]
        peer.sessions.clear()
        await host.becomes("remote", RUNNING, DISCONNECTED, BACKOFF, CONNECTING, RUNNING)
        assert "answered a ping with an error" in str(connection.last_error)


@pytest.mark.anyio
async def test_a_server_that_hangs_is_noticed_by_a_ping_and_holds_nobody_back(
    host: Hosting, remote: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_room, "PING_INTERVAL_S", 0.02)
    monkeypatch.setattr(connection_room, "PING_TIMEOUT_S", 0.05)
    monkeypatch.setattr(http_room, "_GOODBYE_TIMEOUT_S", 0.05)
    async with HttpPeer().serving() as peer:
        connection = await host.running(remote(peer.url))
        await until(lambda: peer.streams)
        peer.frozen = True
        await host.becomes("remote", RUNNING, DISCONNECTED, BACKOFF, CONNECTING)
        assert connection.last_error == "did not answer a ping within 0.05 s"
        await until(lambda: peer.methods.count("initialize") == 2)
        peer.restart()
        peer.frozen = False
        await host.becomes("remote", RUNNING, CONNECTING, RUNNING)
        peer.frozen = True
        with anyio.fail_after(LIMIT_S):
            await connection.stop()


@pytest.mark.anyio
async def test_a_remote_server_out_of_reach_is_tried_for_ever(host: Hosting, remote: Any) -> None:
    url = f"http://127.0.0.1:{free_port()}/mcp"
    connection = host.connect(remote(url, timings=replace(QUICK, startretries=1)))
    await host.becomes("remote", *[BACKOFF] * 4)
    assert ERROR not in host.statuses["remote"]
    assert "connect" in str(connection.last_error).lower()


@pytest.mark.anyio
async def test_a_remote_server_that_never_answers_is_given_up_for_a_while(host: Hosting, remote: Any) -> None:
    peer = HttpPeer()
    peer.frozen = True
    async with peer.serving():
        connection = host.connect(remote(peer.url, timings=replace(QUICK, init_timeout_s=0.1)))
        await host.becomes("remote", BACKOFF)
        assert connection.last_error == "did not answer initialize within 0.1 s (initTimeout)"


SDK_OVER_HTTP = (
    SDK
    + """
import anyio, socket, sys, uvicorn

seen = set()

async def middleware(context, call_next):
    if context.method == "notifications/initialized":
        tasks.start_soon(push, context.session)
    return await call_next(context)

async def push(session):
    while True:
        event = {"type": "sdk.tick", "payload": {"pid": os.getpid()}}
        await session.send_notification(Emitted(params=Params(data=event)))
        await anyio.sleep(0.01)

server.middleware.append(middleware)

async def main():
    global tasks
    listening = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    async with anyio.create_task_group() as tasks:
        app = server.streamable_http_app()
        await uvicorn.Server(uvicorn.Config(app, log_level="error")).serve(sockets=[listening])

anyio.run(main)
"""
)


@contextmanager
def sdk_over_http(file: Path, port: int) -> Iterator[int]:
    """A server of the SDK's, unmodified but for what it pushes; its pid."""
    file.write_text(SDK_OVER_HTTP)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": PACKAGES}
    with subprocess.Popen([sys.executable, file, str(port)], env=environment, start_new_session=True) as process:
        try:
            yield process.pid
        finally:
            process.kill()


@pytest.mark.anyio
async def test_a_remote_server_of_the_sdk_may_die_and_come_back_on_its_port(
    host: Hosting, remote: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_room, "LONGEST_BACKOFF_S", 0.1)
    monkeypatch.setattr(connection_room, "PING_INTERVAL_S", 0.1)
    monkeypatch.setattr(http_room, "REOPEN_S", 0.1)
    taken, port = Taken(), free_port()
    host.connect(remote(f"http://127.0.0.1:{port}/mcp"), taken)

    def from_pid(pid: int) -> bool:
        return any(event.payload["pid"] == pid for event in taken.events)

    for _ in range(2):
        with sdk_over_http(host.root / "remote.py", port) as pid:
            await until(lambda: from_pid(pid))
            await until(lambda: host.statuses["remote"][-1] is RUNNING)
        await until(lambda: host.statuses["remote"][-1] is not RUNNING)
    assert taken.rejections == []


# --- in this process ------------------------------------------------------------------------------------------------


def in_process(host: Hosting, name: str, text: str, **more: Any) -> Any:
    (host.root / f"{name}.py").write_text(text)
    return host.server(name, ServerKind.INPROCESS, module=name, **more)


KIT_IN_PROCESS = """
from eventhost.kit import EventSource, sleep
source = EventSource("inner")

@source.task
async def say():
    await source.emit("kit.said", {"state": str(source.state_dir), **source.options}, id="1")

@source.tool()
def crash():
    global crashed
    crashed = True
    return "crashing"

crashed = False

@source.task
async def watch():
    while not crashed:
        await sleep(0.005)
    raise OSError("the sensor is gone")
"""


@pytest.mark.anyio
async def test_a_kit_source_may_live_in_this_process_and_its_crash_is_its_own(host: Hosting) -> None:
    taken = Taken()
    good = await host.running(host.tiny("good"))
    config = in_process(host, "inner", KIT_IN_PROCESS, settings={"options": {"level": 3}})
    connection = await host.running(config, taken)
    await until(lambda: taken.ids == ["1"])
    assert taken.events[0].payload["state"] == str(host.root / "var" / "state" / "inner")
    assert taken.events[0].payload["level"] == 3
    assert connection.link is not None
    assert connection.link.pid is None
    await connection.link.client.call_tool("crash", {})
    await host.becomes("inner", RUNNING, DISCONNECTED, BACKOFF, CONNECTING, RUNNING)
    assert connection.last_error == "OSError: the sensor is gone"
    await until(lambda: taken.ids == ["1", "1"])
    assert good.status is RUNNING
    await connection.stop()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("protocol", "spoken"), [(Protocol.LEGACY, LEGACY), (Protocol.AUTO, MODERN), (Protocol.MODERN, MODERN)]
)
async def test_a_server_of_the_sdk_may_live_in_this_process(host: Hosting, protocol: Protocol, spoken: str) -> None:
    taken = Taken()
    config = replace(in_process(host, "inner", SDK, protocol=protocol), module="inner:server")
    connection = await host.running(config, taken)
    assert connection.link is not None
    assert connection.link.protocol == spoken
    await connection.link.client.call_tool("say", {"text": "hello"})
    await until(lambda: taken.ids == ["hello"])
    assert (await connection.link.client.call_tool("fail", {})).is_error
    assert connection.status is RUNNING


@pytest.mark.anyio
async def test_the_crash_of_an_sdk_server_in_this_process_is_its_own_and_it_is_started_again(host: Hosting) -> None:
    text = """
import anyio
from contextlib import asynccontextmanager
from mcp.server import Server

@asynccontextmanager
async def lifespan(_):
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(crash)
        yield {}
        tasks.cancel_scope.cancel()

async def crash():
    await stop.wait()
    raise OSError("the sensor is gone")

stop = anyio.Event()
server = Server("inner", lifespan=lifespan)
"""
    good = await host.running(host.tiny("good"))
    connection = await host.running(in_process(host, "inner", text))
    sys.modules["inner"].stop.set()
    await host.becomes("inner", RUNNING, DISCONNECTED, BACKOFF, CONNECTING, RUNNING)
    assert connection.last_error == "OSError: the sensor is gone"
    assert good.status is RUNNING


@pytest.mark.anyio
async def test_a_module_is_loaded_anew_at_each_start(host: Hosting) -> None:
    taken = Taken()
    text = KIT_IN_PROCESS.replace('id="1"', 'id="{}"')
    connection = await host.running(in_process(host, "inner", text.replace("{}", "old")), taken)
    await until(lambda: taken.ids == ["old"])
    await connection.stop()
    (host.root / "inner.py").write_text(text.replace("{}", "newer"))
    host.pool.start(connection)
    await until(lambda: taken.ids == ["old", "newer"])


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("module", "text", "reason"),
    [
        ("nowhere", "", "module nowhere: No module named 'nowhere'; put it into "),
        ("inner", "import no_such_library", "No module named 'no_such_library'"),
        ("inner", "1 / 0", "module inner failed while it was imported: ZeroDivisionError: division by zero"),
        ("inner", "raise SystemExit(3)", "module inner failed while it was imported: SystemExit: 3"),
        ("inner", "x = 1", "module inner holds no EventSource and no server of the MCP SDK"),
        ("inner:x", "x = 1", "inner:x: x is not an EventSource or a server of the MCP SDK"),
        ("inner:y", "x = 1", "inner:y: y is not an EventSource"),
        (
            "inner",
            "from eventhost.kit import EventSource\na, b = EventSource('a'), EventSource('b')",
            "module inner holds 2 servers; name one of them: inner:attribute",
        ),
    ],
)
async def test_a_module_that_cannot_be_used_says_why(host: Hosting, module: str, text: str, reason: str) -> None:
    (host.root / "inner.py").write_text(text)
    config = host.server("bad", ServerKind.INPROCESS, module=module, timings=replace(QUICK, startretries=1))
    connection = host.connect(config)
    await host.becomes("bad", ERROR)
    assert reason in str(connection.last_error)


@pytest.mark.anyio
async def test_a_module_may_hold_several_servers_and_modules_beside_it(host: Hosting) -> None:
    taken = Taken()
    (host.root / "parts").mkdir()
    (host.root / "parts" / "__init__.py").write_text("")
    (host.root / "parts" / "words.py").write_text("WORD = 'hello'")
    text = """
from eventhost.kit import EventSource
from parts.words import WORD
a, b = EventSource("a"), EventSource("b")

@b.task
async def say():
    await b.emit("said", id=WORD)
"""
    (host.root / "several.py").write_text(text)
    await host.running(host.server("several", ServerKind.INPROCESS, module="several:b"), taken)
    await until(lambda: taken.ids == ["hello"])
    assert str(host.root) not in sys.path
