"""`eventhost run` as a process: starting and stopping in order, signals, the service manager, the log."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import anyio
import httpx2
import psutil
import pytest
from anyio.abc import Process, UNIXDatagramSocket

from eventhost.cli.new_source import Template, create_source
from eventhost.cli.notify import ServiceManager
from eventhost.web.control_socket import CONTROL_SOCKET

pytestmark = pytest.mark.anyio

SLOW_S = 60
"""For a machine that does much else; no test takes that long on its own."""

STUBBORN = """
import signal, sys, json
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for line in sys.stdin:
    message = json.loads(line)
    if message["method"] == "initialize":
        result = {"protocolVersion": message["params"]["protocolVersion"], "capabilities": {},
                  "serverInfo": {"name": "stubborn", "version": "1"}}
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
while True:
    signal.pause()
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "demo"
    root.mkdir()
    configure(root)
    return root


def configure(root: Path, **config: Any) -> None:
    (root / "config.jsonc").write_text(json.dumps({"id": "demo", "http": {"port": 0}, **config}))


@dataclass
class RunningHost:
    process: Process
    root: Path
    log_file: Path
    notifications: UNIXDatagramSocket

    async def notified(self, wanted: str) -> dict[str, str]:
        """The next notification that has the line `wanted`."""
        while True:
            text, _ = await self.notifications.receive()
            lines = text.decode().splitlines()
            if any(line.startswith(wanted) for line in lines):
                return dict(line.split("=", 1) for line in lines)

    def client(self) -> httpx2.AsyncClient:
        transport = httpx2.AsyncHTTPTransport(uds=str(self.root / CONTROL_SOCKET))
        return httpx2.AsyncClient(transport=transport, base_url="http://eventhost")

    def log(self) -> str:
        return self.log_file.read_text()


@asynccontextmanager
async def host(
    root: Path, *arguments: str, variables: Mapping[str, str] | None = None, address: Path | None = None
) -> AsyncIterator[RunningHost]:
    """A host in a process of its own; killed at the end if it is still there."""
    log_file, address = root.parent / "log", address or root.parent / "notify"
    environment = {**os.environ, "NOTIFY_SOCKET": str(address), **(variables or {})}
    async with await anyio.create_unix_datagram_socket(local_path=address) as notifications:
        with log_file.open("ab") as stderr, anyio.fail_after(SLOW_S):
            process = await anyio.open_process(
                [sys.executable, "-m", "eventhost", "run", "--env", str(root), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env=environment,
            )
            try:
                yield RunningHost(process, root, log_file, notifications)
            finally:
                with anyio.CancelScope(shield=True):
                    with suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()
    address.unlink()


async def ended(pids: list[int]) -> None:
    """Wait until none of these processes lives."""

    def alive(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    await until(lambda: not any(alive(pid) for pid in pids))


async def running_source(http: httpx2.AsyncClient, name: str) -> dict[str, Any]:
    while (status := (await http.get(f"/sources/{name}")).json()).get("status") != "running":
        await anyio.sleep(0.02)
    return dict(status)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await anyio.sleep(0.01)


async def test_ready_means_serving_and_a_stop_leaves_nothing_behind(root: Path) -> None:
    create_source(root, "door", Template.PYTHON)
    async with host(root) as running:
        ready = await running.notified("READY=1")
        assert ready["STATUS"].startswith("sources: 1 ")
        async with running.client() as http:
            assert (await http.get("/health")).json()["status"] == "healthy"
            pid = (await running_source(http, "door"))["pid"]
        children = [child.pid for child in psutil.Process(running.process.pid).children(recursive=True)]
        assert pid in children
        running.process.send_signal(signal.SIGTERM)
        stopping = await running.notified("STOPPING=1")
        assert int(stopping["EXTEND_TIMEOUT_USEC"]) > 1_000_000
        assert await running.process.wait() == 0
        await ended(children)
    assert not (root / CONTROL_SOCKET).exists()


async def test_the_status_line_follows_the_sources(root: Path) -> None:
    create_source(root, "door", Template.PYTHON)
    async with host(root) as running:
        while not (await running.notified("STATUS="))["STATUS"].startswith("sources: 1 running; http://127.0.0.1:"):
            pass
        async with running.client() as http:
            await http.post("/sources/door/stop")
        while not (await running.notified("STATUS="))["STATUS"].startswith("sources: 1 stopped"):
            pass


async def test_sighup_reloads(root: Path) -> None:
    async with host(root) as running:
        assert (await running.notified("READY=1"))["STATUS"].startswith("sources: none")
        create_source(root, "door", Template.PYTHON)
        running.process.send_signal(signal.SIGHUP)
        assert int((await running.notified("RELOADING=1"))["MONOTONIC_USEC"]) > 0
        await running.notified("READY=1")
        async with running.client() as http:
            assert [source["name"] for source in (await http.get("/sources")).json()["sources"]] == ["door"]


async def test_the_watchdog_is_fed(root: Path) -> None:
    async with host(root, variables={"WATCHDOG_USEC": "200000"}) as running:
        for _ in range(3):
            await running.notified("WATCHDOG=1")


async def test_a_second_signal_ends_the_host_at_once_and_its_children_with_it(root: Path) -> None:
    folder = root / "eventsources" / "stubborn"
    folder.mkdir(parents=True)
    (folder / "server.py").write_text(STUBBORN)
    (folder / "config.jsonc").write_text('{"stopTimeout": "50s"}')
    async with host(root) as running:
        await running.notified("READY=1")
        async with running.client() as http:
            await running_source(http, "stubborn")
        children = [child.pid for child in psutil.Process(running.process.pid).children(recursive=True)]
        running.process.send_signal(signal.SIGTERM)
        await running.notified("STOPPING=1")
        assert running.process.returncode is None
        running.process.send_signal(signal.SIGINT)
        with anyio.fail_after(10):
            assert await running.process.wait() == -signal.SIGINT
            await ended(children)


async def test_a_signal_during_the_start_stops_in_order(root: Path) -> None:
    create_source(root, "door", Template.PYTHON)
    async with host(root) as running:
        await until((root / "var" / "guardian.lock").exists)
        running.process.send_signal(signal.SIGTERM)
        assert await running.process.wait() == 0
    assert not (root / CONTROL_SOCKET).exists()


async def test_an_environment_may_lie_deeper_than_a_socket_name_may_be_long(tmp_path: Path) -> None:
    root = tmp_path / ("deep" * 20) / ("deeper" * 10)
    root.mkdir(parents=True)
    configure(root)
    async with host(root, address=tmp_path / "notify") as running:
        await running.notified("READY=1")
        command = [sys.executable, "-m", "eventhost", "status", "--json", "--env", str(root)]
        status = json.loads((await anyio.run_process(command)).stdout)
        assert status["pid"] == running.process.pid


async def test_a_second_host_for_one_environment_is_refused(root: Path) -> None:
    async with host(root) as running:
        await running.notified("READY=1")
        done = await anyio.run_process(
            [sys.executable, "-m", "eventhost", "run", "--env", str(root)], check=False, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 1
        assert b"Traceback" not in done.stderr
        assert b"eventhost: " in done.stderr
        async with running.client() as http:
            assert (await http.get("/health")).status_code == 200


def run_to_the_end(root: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "eventhost", "run", "--env", str(root), *arguments],
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SLOW_S,
        check=False,
    )


def test_a_port_that_is_taken_ends_the_start_with_a_sentence(root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        configure(root, http={"port": taken.getsockname()[1]})
        done = run_to_the_end(root)
    assert done.returncode == 1
    assert f"port {taken.getsockname}" not in done.stderr
    assert "is in use by another program" in done.stderr
    assert "http.port" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (root / CONTROL_SOCKET).exists()


def test_a_bad_configuration_ends_the_start_with_every_problem(root: Path) -> None:
    configure(root, http={"host": "0.0.0.0", "port": "many"})
    done = run_to_the_end(root)
    assert done.returncode == 2
    assert "config.jsonc:1:" in done.stderr
    assert "http.port" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_log_level_is_a_configuration_error(root: Path) -> None:
    done = run_to_the_end(root, EVENTHOST_LOG_LEVEL="loud")
    assert done.returncode == 2
    assert "debug, info, warning, error" in done.stderr


async def test_the_log_is_json_where_no_person_reads_it(root: Path) -> None:
    async with host(root) as running:
        await running.notified("READY=1")
        running.process.terminate()
        await running.process.wait()
        lines = [json.loads(line) for line in running.log().splitlines()]
    events = [line["event"] for line in lines]
    assert [event for event in events if event in ("listening", "stopping", "stopped")] == [
        "listening",
        "stopping",
        "stopped",
    ]
    assert all(line["level"] and line["timestamp"].endswith("Z") for line in lines)


@pytest.mark.parametrize("way", ["flag", "environment", "config"])
async def test_the_log_level_comes_from_flag_environment_or_config(root: Path, way: str) -> None:
    level = {"config": "error", "environment": "debug", "flag": "debug"}
    configure(root, log={"level": level["config"]})
    arguments = ["--log-level", "error"] if way == "flag" else []
    variables = {"EVENTHOST_LOG_LEVEL": "info"} if way != "config" else {}
    async with host(root, *arguments, variables=variables) as running:
        await running.notified("READY=1")
        running.process.terminate()
        await running.process.wait()
        assert ("listening" in running.log()) == (way == "environment")


@dataclass
class Terminal:
    """A terminal, seen from its other end, and the host that runs in it."""

    screen: IO[bytes]
    process: subprocess.Popen[bytes]

    def shown(self, wanted: bytes) -> bytes:
        text = b""
        while wanted not in text:
            text += self.screen.read(4096)
        return text


@pytest.fixture
def terminal(root: Path) -> Iterator[Terminal]:
    create_source(root, "door", Template.PYTHON)
    ours, theirs = pty.openpty()
    # A session leader without a terminal that opens one is controlled by it from then on.
    script = f'exec "$0" "$@" <{os.ttyname(theirs)} >{os.ttyname(theirs)} 2>&1'
    command = ["sh", "-c", script, sys.executable, "-m", "eventhost", "run", "--env", str(root)]
    with open(ours, "rb", buffering=0) as screen:
        process = subprocess.Popen(command, start_new_session=True)
        try:
            terminal = Terminal(screen, process)
            terminal.shown(b"http://127.0.0.1:")
            os.close(theirs)
            yield terminal
        finally:
            process.kill()
            process.wait()


def test_a_person_sees_a_readable_log_and_ctrl_c_stops(root: Path, terminal: Terminal) -> None:
    shown = terminal.shown(b"running")
    assert b"source_status" in shown
    assert b"{" not in shown
    terminal.process.send_signal(signal.SIGINT)
    terminal.shown(b"stopped")
    assert terminal.process.wait(SLOW_S) == 0


def test_a_closed_terminal_stops_the_host(root: Path, terminal: Terminal) -> None:
    terminal.screen.close()
    assert terminal.process.wait(SLOW_S) == 0
    assert not (root / CONTROL_SOCKET).exists()


async def test_a_log_that_nobody_reads_any_longer_harms_nothing(root: Path) -> None:
    reading, writing = os.pipe()
    address = root.parent / "notify"
    async with await anyio.create_unix_datagram_socket(local_path=address) as notifications:
        process = await anyio.open_process(
            [sys.executable, "-m", "eventhost", "run", "--env", str(root)],
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=writing,
            env={**os.environ, "NOTIFY_SOCKET": str(address)},
        )
        os.close(writing)
        try:
            with anyio.fail_after(SLOW_S):
                running = RunningHost(process, root, Path(os.devnull), notifications)
                await running.notified("READY=1")
                os.close(reading)
                create_source(root, "door", Template.PYTHON)
                async with running.client() as http:
                    assert (await http.post("/reload")).status_code == 200
                    await running_source(http, "door")
                process.terminate()
                assert await process.wait() == 0
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def test_without_a_service_manager_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = ServiceManager({})
    manager.ready("fine")
    assert not manager.present
    assert manager.ping_interval_s is None


def test_the_variables_of_the_service_manager_are_not_passed_on() -> None:
    variables = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(os.getpid()), "A": "b"}
    manager = ServiceManager(variables)
    assert variables == {"A": "b"}
    assert manager.ping_interval_s == 5
    manager.ready("nobody listens, and that is no error")


def test_another_processs_watchdog_is_none_of_ours() -> None:
    assert ServiceManager({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "1"}).ping_interval_s is None


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's own")
def test_an_abstract_socket_is_told_too() -> None:
    name = f"eventhost-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name}")
        ServiceManager({"NOTIFY_SOCKET": f"@{name}"}).status("sources: none")
        assert listener.recv(100) == b"STATUS=sources: none"
