"""A child's death is noticed at once, nothing of it lives on, what it wrote is delivered; every wait has a bound.

`child()` runs one program in a session of its own, in this order:

    gate ─► the guardian is told ─► the gate opens ─► pump stdout, stderr ─► death ─► sweep the session ─► the guardian
    (`read` on the child's stdin)                     to the sinks          (pidfd)   is told ─► reap ─► drain ─► ended

- Gate: until it is opened the child only waits for its stdin, and a host that dies in between ends it by closing that.
- Death is that of the process itself, not the end of its output, which a grandchild may hold open for ever.
- Nobody else reaps: the unreaped process pins its number, so that neither the sweep nor `signal` can hit a stranger.
  The process classes of asyncio and anyio reap by themselves, and are therefore not used.
- A terminal's Ctrl-C reaches the host alone, since no child is in its session.

Never fork this process without exec (`multiprocessing` with "fork"): the worker would hold the children's stdin open.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path

import anyio
import structlog

from eventhost.connections import guardian as guardian_script
from eventhost.connections.gate import cannot_start, open_gate, spawn_at_gate
from eventhost.connections.guardian import death_fd, members, resident_bytes, signal_sessions, start_ticks
from eventhost.connections.pipe import InputPipe, OutputPipe
from eventhost.errors import HostRunning, SpawnError

log = structlog.get_logger()

Sink = Callable[[bytes], Awaitable[None]]
"""Takes one chunk of output; until it returns, nothing more is read."""

SWEEP_S = 2.0
SWEEP_PAUSE_S = 0.005
KILL_S = SWEEP_S + 1.0
"""How long `stop` waits after SIGKILL; only a process stuck in the kernel takes longer."""

GUARDIAN_END_S = guardian_script.SWEEP_LIMIT_S + 1.0
GUARDIAN_RETRY_S = 1.0


def reset_sigchld() -> None:
    """Undo an inherited `SIGCHLD=SIG_IGN`, with which the kernel would reap the children by itself.

    Call it from the main thread.
    """
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


class Guardian:
    """The host's end of the guardian process, which outlives the host by as long as it takes to kill what is left.

    `start()` before the first child, `keep()` in a task for the host's life, `aclose()` after the last child.
    """

    def __init__(self, lock_path: Path) -> None:
        self.lock_path = lock_path
        self._sessions: dict[int, int] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._closing = anyio.Event()

    @property
    def pid(self) -> int | None:
        """The guardian process; None before it is started, and while there is none."""
        return self._process.pid if self._process else None

    @property
    def sessions(self) -> frozenset[int]:
        """The sessions that are guarded, by the pid of their leader."""
        return frozenset(self._sessions)

    async def start(self, timeout_s: float = 10) -> None:
        """Start the guardian; return once no process of an earlier host is left.

        Raises:
            HostRunning: another host is alive, or what an earlier one left does not end within `timeout_s`.
            SpawnError: the guardian could not be started.
        """
        reset_sigchld()
        process = self._process = self._spawn()
        assert process.stdout is not None
        self._tell("".join(f"+{pid} {started}\n" for pid, started in self._sessions.items()))
        said = b""
        with anyio.move_on_after(timeout_s):
            while not said.endswith(b"ready\n"):
                await anyio.wait_readable(process.stdout)
                chunk = os.read(process.stdout.fileno(), 65536)
                if not chunk:
                    break
                said += chunk
        if said.endswith(b"ready\n"):
            log.debug("guardian_ready", pid=process.pid, sessions=len(self._sessions))
            return
        await self._end(0)
        verdict, _, holder = said.decode(errors="replace").strip().rpartition("\n")[2].partition(" ")
        if verdict == "held":
            raise HostRunning(f"another host (pid {holder}) is running and holds {self.lock_path}; stop it first")
        if verdict == "waiting":
            raise HostRunning(
                f"what an earlier host (pid {holder}) left behind still holds {self.lock_path} after {timeout_s:g} s; "
                "end its processes, then start again"
            )
        reason = said.decode(errors="replace").strip() or f"no answer within {timeout_s:g} s"
        raise SpawnError(f"the guardian process could not be started with {sys.executable}: {reason}")

    async def keep(self) -> None:
        """Replace a guardian that died, and tell the new one of every session; returns after `aclose()`.

        Raises:
            HostRunning: another host took the lock in the moment between two guardians.
        """
        while True:
            if self._process is not None:
                await _death_of(self._process.pid)
            if self._closing.is_set():
                return
            if self._process is not None:
                log.warning("guardian_died", pid=self._process.pid, sessions=len(self._sessions))
                await self._end(0)
            try:
                await self.start()
            except SpawnError as error:
                if not self._closing.is_set():
                    log.error("guardian_missing", error=str(error), retry_s=GUARDIAN_RETRY_S)
                with anyio.move_on_after(GUARDIAN_RETRY_S):
                    await self._closing.wait()

    async def aclose(self) -> None:
        """Let the guardian go; whatever is still alive of its sessions is killed. Takes 7 s at most."""
        self._closing.set()
        await self._end(GUARDIAN_END_S)

    def guard(self, pid: int) -> None:
        """From now on the session that `pid` leads is killed when this host is gone. Call it before reaping `pid`.

        Raises:
            OSError: no descriptor is left to look at the process with.
        """
        self._sessions[pid] = start_ticks(pid) or 0
        self._tell(f"+{pid} {self._sessions[pid]}\n")

    def release(self, pid: int) -> None:
        """Nothing of the session is left. Call it while `pid` is not yet reaped, and cannot be another's."""
        self._sessions.pop(pid, None)
        self._tell(f"-{pid}\n")

    def _spawn(self) -> subprocess.Popen[bytes]:
        try:
            self.lock_path.parent.mkdir(parents=True, exist_ok=True)
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", guardian_script.__file__, self.lock_path.absolute(), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,  # a traceback becomes the reason in the error
                bufsize=0,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise SpawnError(f"the guardian process could not be started with {sys.executable}: {error}") from error
        assert process.stdin is not None
        return process

    def _tell(self, lines: str) -> None:
        process = self._process
        if process is None or process.stdin is None or process.stdin.closed:
            return  # the next one is told all at once
        data = lines.encode()
        try:
            complete = os.write(process.stdin.fileno(), data) == len(data)
        except OSError:
            complete = False
        if not complete:
            process.kill()  # stuck or gone: keep() starts another

    async def _end(self, patience_s: float) -> None:
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        with anyio.CancelScope(shield=True):
            process.stdin.close()
            for wait_s in (patience_s, 1.0):
                with anyio.move_on_after(wait_s):
                    await _death_of(process.pid)
                if process.poll() is not None:
                    break
                process.kill()
            anyio.notify_closing(process.stdout)
            process.stdout.close()
        self._process = None


async def _death_of(pid: int) -> None:
    death = death_fd(pid)
    try:
        await anyio.wait_readable(death)
    finally:
        os.close(death)


class Child:
    """One program in a session of its own; made by `child()`.

    A sink that raises ends this child alone: the exception is kept in `error`, the session is killed, and what the
    child wrote afterwards is not delivered.
    """

    def __init__(self, process: subprocess.Popen[bytes], death: int, drain_s: float) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.pid = process.pid
        self.started_at = time.monotonic()
        """When it was started, by the clock of `time.monotonic()`."""
        self.returncode: int | None = None
        """As in `subprocess`: the exit status, or the negative number of the signal; None until `dead`."""
        self.error: Exception | None = None
        """What a sink raised."""
        self.output_cut = False
        """Part of what it wrote was not delivered: the sinks were stuck for too long, or one raised."""
        self.dead = anyio.Event()
        """The process is gone, and its whole session was swept."""
        self.output_ended = anyio.Event()
        """Its stdout ended; it may live on, and is then the owner's to stop."""
        self.ended = anyio.Event()
        """It is dead, and all that it had written was delivered, as far as the sinks took it in time."""
        self._process = process
        self._stdin = InputPipe(process.stdin, process.pid)
        self._stdout, self._stderr = OutputPipe(process.stdout), OutputPipe(process.stderr)
        os.set_blocking(process.stdin.fileno(), False)
        self._death = death
        self._drain_s = drain_s
        self._pumping = anyio.CancelScope()
        self._stopping = anyio.Lock()

    async def send(self, data: bytes) -> None:
        """Write all of `data` to its stdin, after what others are sending; waits while the pipe is full.

        Cancelled while it waits, a part may have been written.
        Raises:
            ConnectionLost: the child no longer listens.
        """
        await self._stdin.write(data)

    def close_stdin(self) -> None:
        """End its stdin, which is how a well-behaved server is asked to stop."""
        self._stdin.close()

    def signal(self, signum: int) -> None:
        """Signal every process of its session; nothing happens once it is dead."""
        if not (self.dead.is_set() or self.ended.is_set()):
            signal_sessions({self.pid}, signum)

    async def stop(self, *, grace_s: float = 2.0) -> None:
        """Close stdin, wait `grace_s`, SIGTERM, wait `grace_s`, SIGKILL; return when it has `ended`.

        Bounded, and not to be cancelled half-way; a second call waits for the first. To hasten a stop that is under
        way, `signal(SIGKILL)`. Should the process be stuck in the kernel, `returncode` stays None, and the guardian
        goes on knowing it.
        """
        with anyio.CancelScope(shield=True):
            async with self._stopping:
                self.close_stdin()
                # A stopped process takes SIGTERM when it is continued.
                steps = (((), grace_s), ((signal.SIGTERM, signal.SIGCONT), grace_s), ((signal.SIGKILL,), KILL_S))
                for signals, wait_s in steps:
                    if self.dead.is_set() or self.ended.is_set():
                        break
                    for signum in signals:
                        self.signal(signum)
                    with anyio.move_on_after(wait_s):
                        await self.dead.wait()
                if not self.dead.is_set():
                    self._pumping.cancel()
                await self.ended.wait()

    def describe_end(self) -> str:
        """How it ended, to follow the program's name: `exited with status 3`, `killed by SIGKILL`."""
        if self.error is not None:
            return f"ended by the host, which could not take its output: {self.error}"
        if self.returncode is None:
            return "does not end, not even by SIGKILL" if self.ended.is_set() else "is running"
        if self.returncode < 0:
            return f"killed by {_signal_name(-self.returncode)}"
        ending = f"exited with status {self.returncode}"
        if self.returncode == 127:
            return (
                f"{ending}: not found; if it is a script, its first line must name its interpreter, such as #!/bin/sh"
            )
        if self.returncode == 126:
            return f"{ending}: could not be executed; is it a program for this machine?"
        return ending

    async def _own(self, guardian: Guardian, on_stdout: Sink, on_stderr: Sink) -> None:
        """Follow it from the first byte to the last; `stop` is what ends this early."""
        try:
            with anyio.CancelScope(shield=True):
                async with anyio.create_task_group() as pumps:
                    self._pumping = pumps.cancel_scope
                    pumps.start_soon(self._pump, self._stdout, on_stdout, self.output_ended)
                    pumps.start_soon(self._pump, self._stderr, on_stderr, anyio.Event())
                    await anyio.wait_readable(self._death)
                    await self._bury(guardian)
                self.output_cut = self.output_cut or pumps.cancel_scope.cancelled_caught
        finally:
            self.close_stdin()
            for output in (self._stdout, self._stderr):
                output.close()
            os.close(self._death)
            self.output_ended.set()
            self.ended.set()

    async def _bury(self, guardian: Guardian) -> None:
        """Sweep the session, tell the guardian, reap, and have the pumps end with what is in the pipes now."""
        with anyio.move_on_after(SWEEP_S) as sweep:
            while signal_sessions({self.pid}, signal.SIGKILL):  # noqa: ASYNC110 - no event tells it
                await anyio.sleep(SWEEP_PAUSE_S)
        if sweep.cancelled_caught:
            log.error("process_left_behind", session=self.pid, reason="it does not end, not even by SIGKILL")
        else:
            guardian.release(self.pid)
        self.returncode = self._process.wait()
        self.dead.set()
        self._postpone_cut()
        for output in (self._stdout, self._stderr):
            output.wake()

    async def _pump(self, output: OutputPipe, sink: Sink, ended: anyio.Event) -> None:
        try:
            while not self.dead.is_set() and (chunk := await output.read()) is not None:
                if not chunk:
                    return
                await sink(chunk)
            for chunk in output.rest():
                self._postpone_cut()
                await sink(chunk)
        except Exception as error:
            self.error = error
            self.output_cut = True
            self.signal(signal.SIGKILL)
        finally:
            ended.set()

    def _postpone_cut(self) -> None:
        self._pumping.deadline = anyio.current_time() + self._drain_s


@contextlib.asynccontextmanager
async def child(
    guardian: Guardian,
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    on_stdout: Sink,
    on_stderr: Sink,
    drain_s: float = 1.0,
    grace_s: float = 2.0,
) -> AsyncIterator[Child]:
    """Run `argv` until the block ends, then `stop(grace_s=grace_s)` it; `await c.ended.wait()` to see it end by itself.

    `env` is all of its environment, but for `PWD`, which is always `cwd`. After its death each further chunk of output
    must be taken within `drain_s`, else the rest is cut. The main thread alone may do this: on Linux, where `setpriv`
    is installed, the kernel kills a child when the *thread* that started it ends.
    Raises:
        SpawnError: it cannot be started; never wrapped in a group, and neither is what the block raises.
    """
    started = _start(guardian, argv, cwd, env, drain_s)
    raised: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(started._own, guardian, on_stdout, on_stderr)
        try:
            yield started
        except Exception as error:
            raised = error
        finally:
            await started.stop(grace_s=grace_s)
    if raised is not None:
        raise raised


def memory_bytes(pids: Collection[int]) -> dict[int, int]:
    """Resident memory of each of these children together with all that is in its session; who is gone is left out.

    Reads the process table once, however many are asked for: about 0.1 ms for a hundred processes.
    """
    found = {pid: own for pid in pids if (own := resident_bytes(pid)) is not None}
    for member, group in members(found.keys()):
        if member in found:
            continue
        with contextlib.suppress(OSError, KeyError):  # ended while we looked
            owner = group if group in found else os.getsid(member)
            found[owner] += resident_bytes(member) or 0
    return found


def _start(guardian: Guardian, argv: Sequence[str], cwd: Path, env: Mapping[str, str], drain_s: float) -> Child:
    process = spawn_at_gate(argv, cwd.absolute(), env)
    try:
        guardian.guard(process.pid)
        death = death_fd(process.pid)
    except OSError as error:
        process.kill()  # it is still at its gate, alone in its session
        guardian.release(process.pid)
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        raise cannot_start(argv[0], error) from error
    open_gate(process)
    return Child(process, death, drain_s)


def _signal_name(signum: int) -> str:
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {signum}"  # a real-time signal has no name
