"""Real processes, on both event loops: deaths are noticed, nothing is left, what was written arrives."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
import psutil
import pytest

from eventhost.connections import guardian as guardian_script
from eventhost.connections.guardian import start_ticks
from eventhost.connections.pipe import OutputPipe
from eventhost.connections.process import Child, Guardian, child, memory_bytes, reset_sigchld
from eventhost.errors import ConnectionLost, HostRunning, SpawnError

ENV = {"PATH": os.environ["PATH"]}
LIMIT_S = 20
"""Never reached unless something is broken."""


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


class Output:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.data = b""
        self._grew = anyio.Event()

    async def __call__(self, chunk: bytes) -> None:
        self.data += chunk
        self._grew.set()
        self._grew = anyio.Event()

    async def line(self, number: int = 0) -> str:
        """The complete line of that number, waited for."""
        with anyio.fail_after(LIMIT_S):
            while self.data.count(b"\n") <= number:
                await self._grew.wait()
        return self.data.split(b"\n")[number].decode()


Run = Callable[..., contextlib.AbstractAsyncContextManager[Child]]


@pytest.fixture
async def guardian(tmp_path: Path) -> AsyncIterator[Guardian]:
    guardian = Guardian(tmp_path / "var" / "guardian.lock")
    await guardian.start()
    yield guardian
    await guardian.aclose()


@pytest.fixture
def out() -> Output:
    return Output()


@pytest.fixture
def run(guardian: Guardian, tmp_path: Path, out: Output) -> Run:
    return partial(child, guardian, cwd=tmp_path, env=ENV, on_stdout=out, on_stderr=Output(), grace_s=0.1)


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code]


def shell(code: str) -> list[str]:
    return ["/bin/sh", "-c", code]


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()


GRANDCHILD = """
import os
if os.fork():
    input()
{}
print(os.getpid(), flush=True)
os.execlp("sleep", "sleep", "1000")
"""


async def ended(c: Child) -> None:
    with anyio.fail_after(LIMIT_S):
        await c.ended.wait()


# --- death


@pytest.mark.anyio
async def test_the_death_of_an_idle_child_is_noticed(run: Run, guardian: Guardian) -> None:
    async with run(["sleep", "1000"]) as c:
        assert c.describe_end() == "is running"
        assert guardian.sessions == {c.pid}
        os.kill(c.pid, signal.SIGKILL)
        await ended(c)
        assert c.dead.is_set()
        assert c.output_ended.is_set()
        assert not c.output_cut
        assert c.returncode == -signal.SIGKILL
        assert c.describe_end() == "killed by SIGKILL"
        assert guardian.sessions == set()


@pytest.mark.anyio
async def test_a_grandchild_that_holds_stdout_does_not_hide_the_death_and_is_killed(run: Run, out: Output) -> None:
    async with run(shell("sleep 1000 & echo $!; read _")) as c:
        grandchild = int(await out.line())
        assert alive(grandchild)
        os.kill(c.pid, signal.SIGKILL)
        await ended(c)
        assert not alive(grandchild)


@pytest.mark.anyio
async def test_a_child_that_closes_its_stdout_lives_on_until_it_is_stopped(run: Run) -> None:
    async with run(shell("exec >&-; exec sleep 1000")) as c:
        with anyio.fail_after(LIMIT_S):
            await c.output_ended.wait()
        assert not c.dead.is_set()
        assert alive(c.pid)
    assert c.returncode == -signal.SIGTERM


@pytest.mark.anyio
@pytest.mark.parametrize("leaving", ["os.fork() and os._exit(0)", "os.setpgid(0, 0)"])
async def test_who_leaves_its_parent_or_its_group_is_swept(run: Run, out: Output, leaving: str) -> None:
    async with run(python(GRANDCHILD.format(leaving))) as c:
        stray = int(await out.line())
        assert alive(stray)
        os.kill(c.pid, signal.SIGKILL)
        await ended(c)
        assert not alive(stray)


@pytest.mark.anyio
async def test_a_process_that_left_the_session_does_not_delay_the_end(run: Run, out: Output) -> None:
    async with run(python(GRANDCHILD.format("os.setsid()")), drain_s=2 * LIMIT_S) as c:
        stray = int(await out.line())
        try:
            os.kill(c.pid, signal.SIGKILL)
            await ended(c)  # although the stray still holds stdout
            assert alive(stray)
            assert not c.output_cut
        finally:
            os.kill(stray, signal.SIGKILL)


@pytest.mark.anyio
async def test_the_end_is_described_for_the_user(run: Run, tmp_path: Path) -> None:
    async def end_of(*argv: str) -> str:
        async with run(argv) as c:
            await ended(c)
        return c.describe_end()

    script = tmp_path / "server"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    assert await end_of(*shell("exit 3")) == "exited with status 3"
    assert await end_of(*shell("kill -USR1 $$")) == "killed by SIGUSR1"
    assert (await end_of("./server")).startswith("exited with status 127: not found; if it is a script, its first line")
    assert (await end_of(*shell("exit 126"))).startswith("exited with status 126: could not be executed")


# --- stopping


@pytest.mark.anyio
async def test_a_child_is_stopped_by_the_end_of_its_stdin(run: Run, out: Output) -> None:
    async with run(shell("echo up; read _; echo bye")) as c:
        await out.line()
        await c.stop(grace_s=LIMIT_S)
        assert c.returncode == 0
        assert out.data == b"up\nbye\n"


@pytest.mark.anyio
async def test_a_child_that_ignores_sigterm_is_killed(run: Run, out: Output) -> None:
    async with run(shell("trap '' TERM; echo up; while :; do sleep 1000; done")) as c:
        await out.line()
    assert c.returncode == -signal.SIGKILL


@pytest.mark.anyio
async def test_a_suspended_child_takes_sigterm(run: Run) -> None:
    async with run(["sleep", "1000"]) as c:
        c.signal(signal.SIGSTOP)
        await c.stop(grace_s=0.5)
        assert c.returncode == -signal.SIGTERM


@pytest.mark.anyio
async def test_two_who_stop_at_once_send_one_sigterm(run: Run, out: Output) -> None:
    counts = "import signal\nsignal.signal(15, lambda *_: print('TERM', flush=True))\nprint('up', flush=True)\n"
    async with run(python(counts + "while True: signal.pause()")) as c:
        await out.line()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(c.stop, grace_s=0.2))
            tasks.start_soon(partial(c.stop, grace_s=0.2))
        await c.stop()
        assert out.data.count(b"TERM") == 1
        assert c.returncode == -signal.SIGKILL


@pytest.mark.anyio
async def test_a_cancelled_block_still_leaves_nothing(run: Run, out: Output) -> None:
    with anyio.CancelScope() as scope:
        async with run(shell("sleep 1000 & echo $!; read _; wait")) as c:
            grandchild = int(await out.line())
            scope.cancel()
            await anyio.sleep_forever()
    assert c.ended.is_set()
    assert not alive(grandchild)


@pytest.mark.anyio
async def test_what_the_block_raises_comes_out_as_it_is(run: Run) -> None:
    with pytest.raises(ConnectionLost, match="mine"):
        async with run(["sleep", "1000"]) as c:
            raise ConnectionLost("mine")
    assert c.ended.is_set()


# --- input and output


@pytest.mark.anyio
async def test_all_that_was_written_before_the_exit_is_delivered(run: Run, out: Output) -> None:
    async with run(python("import sys\nsys.stdout.write('x' * 3_000_000 + 'end')")) as c:
        await ended(c)
    assert len(out.data) == 3_000_003
    assert out.data.endswith(b"end")
    assert not c.output_cut


@pytest.mark.anyio
async def test_a_paused_sink_holds_the_child_back_and_loses_nothing(run: Run) -> None:
    taken: list[bytes] = []
    called, go_on = anyio.Event(), anyio.Event()

    async def pausing(chunk: bytes) -> None:
        taken.append(chunk)
        called.set()
        await go_on.wait()

    async with run(python("for i in range(300_000): print(i)"), on_stdout=pausing) as c:
        with anyio.fail_after(LIMIT_S):
            await called.wait()
        await anyio.sleep(0.05)  # time enough for it to go wrong
        assert len(taken) == 1
        assert not c.dead.is_set()
        go_on.set()
        await ended(c)
    assert b"".join(taken).split() == [b"%d" % i for i in range(300_000)]


@pytest.mark.anyio
async def test_a_full_pipe_that_nobody_reads_does_not_keep_the_loop_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    look = OutputPipe._on_readable

    def counted(output: OutputPipe) -> None:
        nonlocal looks
        looks += 1
        look(output)

    monkeypatch.setattr(OutputPipe, "_on_readable", counted)
    descriptor, writer = os.pipe()
    output = OutputPipe(open(descriptor, "rb", buffering=0))  # noqa: ASYNC230, SIM115 - a pipe, and `close` closes it
    os.write(writer, b"first")
    with anyio.fail_after(LIMIT_S):
        assert await output.read() == b"first"
        os.write(writer, b"second")
        for _ in range(20):  # turns of the loop, which looks at its descriptors in each
            await anyio.lowlevel.checkpoint()
        assert looks == 2
        assert await output.read() == b"second"
        os.close(writer)
        assert await output.read() == b""
    output.close()


@pytest.mark.anyio
async def test_what_waits_in_the_pipe_at_death_is_delivered_once_the_sink_is_free(run: Run) -> None:
    taken: list[bytes] = []
    go_on = anyio.Event()

    async def pausing(chunk: bytes) -> None:
        taken.append(chunk)
        await go_on.wait()

    writer = "import os\nos.write(1, b'first')\nos.read(0, 1)\nos.write(1, b'x' * 60_000 + b'last')"
    async with run(python(writer), on_stdout=pausing, drain_s=LIMIT_S) as c:
        await c.send(b"!")
        with anyio.fail_after(LIMIT_S):
            await c.dead.wait()
        assert not c.ended.is_set()
        go_on.set()
        await ended(c)
    assert b"".join(taken) == b"first" + b"x" * 60_000 + b"last"
    assert not c.output_cut


@pytest.mark.anyio
async def test_a_sink_that_is_stuck_does_not_keep_the_child_from_ending(run: Run) -> None:
    called = anyio.Event()

    async def stuck(chunk: bytes) -> None:
        called.set()
        await anyio.sleep_forever()

    async with run(python("while True: print('x' * 1000)"), on_stdout=stuck, drain_s=0.05) as c:
        with anyio.fail_after(LIMIT_S):
            await called.wait()
            await c.stop(grace_s=0.05)
        assert c.ended.is_set()
        assert c.output_cut


@pytest.mark.anyio
async def test_a_sink_that_raises_ends_that_child_alone(run: Run, out: Output) -> None:
    async def raising(chunk: bytes) -> None:
        raise ValueError("a line without end")

    async with run(["cat"]) as neighbour, run(shell("echo x; sleep 1000"), on_stdout=raising) as c:
        await ended(c)
        assert isinstance(c.error, ValueError)
        assert c.output_cut
        assert c.describe_end() == "ended by the host, which could not take its output: a line without end"
        await neighbour.send(b"still here\n")
        assert await out.line() == "still here"


@pytest.mark.anyio
async def test_stderr_has_a_sink_of_its_own(run: Run, out: Output) -> None:
    errors = Output()
    async with run(shell("echo out; echo err >&2"), on_stderr=errors) as c:
        await ended(c)
    assert out.data == b"out\n"
    assert errors.data == b"err\n"


@pytest.mark.anyio
async def test_concurrent_sends_larger_than_the_pipe_do_not_mix(run: Run, out: Output) -> None:
    messages = [bytes([letter]) * 300_000 + b"\n" for letter in b"abc"]
    async with run(["cat"]) as c:
        async with anyio.create_task_group() as tasks:
            for message in messages:
                tasks.start_soon(c.send, message)
        c.close_stdin()
        await ended(c)
    assert sorted(out.data.splitlines(keepends=True)) == messages


@pytest.mark.anyio
async def test_sending_to_a_child_that_no_longer_listens_is_a_lost_connection(run: Run, out: Output) -> None:
    async with run(shell("exec <&-; echo deaf; exec sleep 1000")) as c:
        await out.line()
        with pytest.raises(ConnectionLost):
            await c.send(b"x")
        c.close_stdin()
        with pytest.raises(ConnectionLost):
            await c.send(b"x")


@pytest.mark.anyio
async def test_a_waiting_send_ends_when_the_child_does(run: Run) -> None:
    async with run(["sleep", "1000"]) as c, anyio.create_task_group() as tasks:

        async def send_more_than_fits() -> None:
            with pytest.raises(ConnectionLost):
                await c.send(b"x" * 1_000_000)

        tasks.start_soon(send_more_than_fits)
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(LIMIT_S):
            await c.stop(grace_s=0.05)


# --- starting


@pytest.mark.anyio
@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"PLAIN": "with\nnewline=", "EMPTY": ""},
        {"npm_config_//registry.example/:_token": "t", "a.b": "c", "é": "ü"},
        {"IFS": ":", "LC_CTYPE": "C", "1st": "2"},
        {"PWD": "/elsewhere"},
    ],
)
async def test_the_environment_arrives_as_it_was_given(
    run: Run, tmp_path: Path, out: Output, odd: dict[str, str]
) -> None:
    async with run(["env", "-0"], env=ENV | odd) as c:
        await ended(c)
    seen = dict(variable.decode().split("=", 1) for variable in out.data.split(b"\0")[:-1])
    assert seen == ENV | odd | {"PWD": str(tmp_path)}


@pytest.mark.anyio
async def test_stdin_belongs_to_the_program_from_its_first_byte(run: Run, out: Output) -> None:
    for env in (ENV, ENV | {"a.b": "the other gate"}):
        out.data = b""
        async with run(["cat"], env=env) as c:
            await c.send(b"\nfirst\n")
            c.close_stdin()
            await ended(c)
        assert out.data == b"\nfirst\n"


@pytest.mark.anyio
async def test_what_cannot_be_started_says_how_to_mend_it(guardian: Guardian, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    (tmp_path / "folder").mkdir()

    async def refusal(argv: list[str], *, cwd: Path = tmp_path, env: Mapping[str, str] = ENV) -> str:
        with pytest.raises(SpawnError) as caught:
            async with child(guardian, argv, cwd=cwd, env=env, on_stdout=Output(), on_stderr=Output()):
                pytest.fail("it was started")
        return str(caught.value)

    assert await refusal([]) == 'the command is empty; write it as a list such as ["python", "server.py"]'
    assert await refusal(["nosuch"]) == "nosuch is not on PATH; install it, or give its full path"
    assert (await refusal(["data"])).endswith(f"; data in {tmp_path} is started as ./data")
    assert (
        await refusal(["sleep"], env={"PATH": "/nowhere"}) == "sleep is not on PATH; install it, or give its full path"
    )
    assert await refusal(["./nosuch"]) == f"{tmp_path}/./nosuch is missing; correct the command"
    assert await refusal(["./folder"]) == f"{tmp_path}/./folder is a directory; correct the command"
    assert "is not executable; mend that with chmod +x" in await refusal(["./data"])
    assert await refusal(["sleep"], cwd=tmp_path / "no") == (
        f"the working directory {tmp_path}/no is missing or no directory; create it"
    )
    assert "null byte" in await refusal(["sleep", "\0"])
    assert "too large for the system" in await refusal(["sleep", "x" * 5_000_000])


@pytest.mark.anyio
async def test_a_child_that_cannot_be_watched_is_not_started(
    run: Run, guardian: Guardian, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_descriptor_left(pid: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr("eventhost.connections.process.death_fd", no_descriptor_left)
        with pytest.raises(SpawnError, match=r"Too many open files; raise the limit of open files \(ulimit -n\)"):
            async with run(["sleep", "1000"]):
                pytest.fail("it was started")
    assert guardian.sessions == set()


@pytest.mark.anyio
async def test_memory_is_that_of_the_whole_session(run: Run, out: Output) -> None:
    grandchild = f"{sys.executable} -ISc 'import time; print(1, flush=True); time.sleep(1000)'"
    async with run(shell(f"{grandchild} & exec sleep 1000")) as c:
        await out.line()
        assert memory_bytes({c.pid})[c.pid] > psutil.Process(c.pid).memory_info().rss > 0
    assert memory_bytes({c.pid}) == {}


# --- the guardian


@pytest.mark.anyio
async def test_a_second_host_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    first, second = Guardian(tmp_path / "lock"), Guardian(tmp_path / "lock")
    await first.start()
    with pytest.raises(HostRunning, match=rf"another host \(pid {os.getpid()}\) is running"):
        await second.start()
    assert second.pid is None
    await first.aclose()
    await second.start()
    await second.aclose()


@pytest.mark.anyio
async def test_closing_the_guardian_kills_what_is_left(guardian: Guardian) -> None:
    with sleeper() as process:
        guardian.guard(process.pid)
        await guardian.aclose()
        assert process.wait(LIMIT_S) == -signal.SIGKILL


@pytest.mark.anyio
async def test_a_guardian_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(SpawnError, match="Is a directory"):
        await Guardian(tmp_path / "lock").start()


@pytest.mark.anyio
async def test_a_guardian_that_died_is_replaced_and_the_new_one_knows_every_session(
    run: Run, guardian: Guardian
) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(guardian.keep)
        with sleeper() as process:
            guardian.guard(process.pid)
            first = guardian.pid
            assert first is not None
            os.kill(first, signal.SIGKILL)
            with anyio.fail_after(LIMIT_S):
                while guardian.pid in (first, None):
                    await anyio.sleep(0.01)
            async with run(["cat"]) as c:
                assert not c.dead.is_set()
            await guardian.aclose()
            assert process.wait(LIMIT_S) == -signal.SIGKILL
    assert guardian.pid is None  # and keep() has returned


@pytest.mark.anyio
async def test_an_inherited_sigchld_setting_is_undone(run: Run) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        reset_sigchld()
        assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
        async with run(shell("exit 7")) as c:
            await ended(c)
        assert c.returncode == 7
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize(("started", "killed"), [("right", True), ("wrong", False)])
def test_a_number_that_was_used_again_is_left_alone(tmp_path: Path, started: str, killed: bool) -> None:
    argv = [sys.executable, "-I", "-S", guardian_script.__file__, str(tmp_path / "lock"), str(os.getpid())]
    with (
        sleeper() as process,
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as script,
    ):
        ticks = (start_ticks(process.pid) or 0) + (started == "wrong")
        said, _ = script.communicate(f"+{process.pid} {ticks}\n".encode(), timeout=LIMIT_S)
        assert said in (b"ready\n", b"")  # stdin may end before the lock is taken
        assert (process.poll() == -signal.SIGKILL) is killed


# --- the host's own death

HOST = """
import os, sys, types, anyio
from pathlib import Path

# Only what is tested here: the rest of the room takes ten times as long to import, and there are many hosts to kill.
room = types.ModuleType("eventhost.connections")
room.__path__ = [sys.argv.pop(1)]
sys.modules[room.__name__] = room
from eventhost.connections.pipe import OutputPipe
from eventhost.connections.process import Guardian, child

folder, scenario = Path(sys.argv[1]), sys.argv[2]
ready = 0

async def say(chunk):
    global ready
    ready += chunk.count(b"\\n")

async def run(guardian, *argv):
    env = {"PATH": os.environ["PATH"], "TOKEN": os.environ["TOKEN"]}
    async with child(guardian, argv, cwd=folder, env=env, on_stdout=say, on_stderr=say) as c:
        await c.ended.wait()

async def main():
    guardian = Guardian(folder / "lock")
    await guardian.start()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(guardian.keep)
        if scenario == "spawning":
            print("ready", flush=True)
            for _ in range(40):
                tasks.start_soon(run, guardian, "/bin/sh", "-c", "sleep 1000 & wait")
                await anyio.sleep(0)
        tasks.start_soon(run, guardian, "/bin/sh", "-c", "sleep 1000 & sleep 1000 & echo up; wait")
        tasks.start_soon(run, guardian, "/bin/sh", "-c", "trap '' TERM HUP INT; (sleep 1000 & echo up); sleep 1000")
        tasks.start_soon(run, guardian, "/bin/sh", "-c", "timeout 1000 sleep 1000 & echo up; kill -STOP $$")
        tasks.start_soon(run, guardian, sys.executable, "-ISc", "print('up', flush=True)\\nwhile True: pass")
        while ready < 4:
            await anyio.sleep(0.01)
        if scenario == "guardian replaced":
            first = guardian.pid
            os.kill(first, 9)
            while guardian.pid in (first, None):
                await anyio.sleep(0.01)
        print("ready", flush=True)
        await anyio.sleep_forever()

anyio.run(main, backend_options={"use_uvloop": True})
"""


class Host:
    """A host in a process of its own, and whatever it has started, told by a token in the environment."""

    def __init__(self, folder: Path, scenario: str) -> None:
        self.token = uuid.uuid4().hex
        room = Path(guardian_script.__file__).parent
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOST, room, folder, scenario],
            env=ENV | {"TOKEN": self.token, "PYTHONPATH": str(room.parents[1])},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line == b"ready\n":
                return
        pytest.fail("the host did not come up")

    def left(self) -> list[int]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("TOKEN") == self.token and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
        return found

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(LIMIT_S)

    def is_all_gone(self) -> bool:
        """Whether nothing is left, the guardian included, after a while that is ample."""
        deadline = time.monotonic() + 5
        while self.left():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def close(self) -> None:
        self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()
        for pid in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


StartHost = Callable[[Path, str], Host]


@pytest.fixture
def start_host() -> Iterator[StartHost]:
    with contextlib.ExitStack() as hosts:

        def start(folder: Path, scenario: str) -> Host:
            host = Host(folder, scenario)
            hosts.callback(host.close)
            return host

        yield start


@pytest.mark.parametrize("scenario", ["settled", "guardian replaced"])
def test_a_killed_host_leaves_no_process(start_host: StartHost, tmp_path: Path, scenario: str) -> None:
    host = start_host(tmp_path, scenario)
    host.wait_until_ready()
    assert len(host.left()) >= 9  # the host, the guardian, four children and their own
    host.kill()
    assert host.is_all_gone()


def test_hosts_killed_while_they_spawn_leak_no_process(start_host: StartHost, tmp_path: Path) -> None:
    for attempt in range(15):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        host = start_host(folder, "spawning")
        host.wait_until_ready()
        time.sleep(attempt * 0.0017)  # another moment of the spawning each time
        host.kill()
        assert host.is_all_gone()


@pytest.mark.anyio
async def test_a_new_host_is_refused_by_a_living_one_and_waits_for_what_a_killed_one_left(
    start_host: StartHost, tmp_path: Path
) -> None:
    host = start_host(tmp_path, "settled")
    host.wait_until_ready()
    guardian = Guardian(tmp_path / "lock")
    with pytest.raises(HostRunning, match=rf"another host \(pid {host.process.pid}\) is running"):
        await guardian.start()
    host.kill()
    await guardian.start()
    assert host.left() == []
    await guardian.aclose()
