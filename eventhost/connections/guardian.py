"""No process of a host outlives it, however the host dies: the guardian does what the dead host no longer can.

It runs as a script beside the host, on the standard library alone: `python -I -S guardian.py LOCK_FILE HOST_PID`. The
host's end of the two pipes is `process.Guardian`:

    host ──► stdin    `+PID START` guard the session that PID leads · `-PID` nothing of it is left
    host ◄── stdout   `held PID` another host lives · `waiting PID` for what an earlier host left · `ready`

Every child leads a *session* of its own, and sessions are what is swept: whoever changed only its group (`timeout`,
`bash -i`) is still found. Only a process that calls `setsid` itself leaves; on Linux systemd alone contains that one.

The process table is read here, and every difference between Linux (`pidfd`, `/proc`; kernel 5.3 or later) and the other
systems (`kqueue`, `ps`) stays here. Zombies never count as alive: where process 1 does not reap, they stay for ever.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator

SWEEP_LIMIT_S = 5.0
"""How long the guardian goes on killing; only a process stuck in the kernel outlasts the first milliseconds."""

SWEEP_PAUSE_S = 0.005
LOCK_PAUSE_S = 0.02


if sys.platform == "linux":

    def _pids() -> Iterator[int]:
        return (int(name) for name in os.listdir("/proc") if name.isdigit())

    def start_ticks(pid: int) -> int | None:
        """When the live process `pid` started, in clock ticks since boot; None when it is dead, reaped or not.

        Number and start together name one process for good; the number alone is used again. 0 means unknown, where
        the system does not tell.
        Raises:
            OSError: it cannot be found out, for want of a descriptor, say.
        """
        try:
            with open(f"/proc/{pid}/stat", "rb", buffering=0) as stat:
                fields = stat.read(1024).rpartition(b")")[2].split()  # proc(5), from the 3rd field: the state
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in (b"Z", b"X") else int(fields[19])

    def resident_bytes(pid: int) -> int | None:
        """How much memory the process `pid` holds; None when there is no such process, or only its zombie."""
        try:
            with open(f"/proc/{pid}/statm", "rb", buffering=0) as statm:
                pages = int(statm.read(256).split()[1])
        except (OSError, IndexError):
            return None
        return pages * os.sysconf("SC_PAGE_SIZE") or None

    def _death_fd(pid: int) -> int:
        return os.pidfd_open(pid)

else:

    def _ps(*arguments: str) -> str:
        return subprocess.run(["/bin/ps", *arguments], capture_output=True, text=True, check=False).stdout

    def _pids() -> Iterator[int]:
        return map(int, _ps("-axo", "pid=").split())

    def start_ticks(pid: int) -> int | None:
        """0, since `ps` tells whole seconds only; None when the process is dead, reaped or not."""
        state = _ps("-o", "stat=", "-p", str(pid)).strip()
        return 0 if state and not state.startswith("Z") else None

    def resident_bytes(pid: int) -> int | None:
        """How much memory the process `pid` holds; None when there is no such process, or only its zombie."""
        kibibytes = _ps("-o", "rss=", "-p", str(pid)).strip()
        return int(kibibytes) * 1024 or None if kibibytes else None

    def _death_fd(pid: int) -> int:
        queue = select.kqueue()
        exits = select.kevent(pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT)
        queue.control([exits], 0)
        return os.dup(queue.fileno())  # the queue closes its own descriptor when it is collected


def death_fd(pid: int) -> int:
    """Open a descriptor that becomes readable when `pid` dies, at once if it is gone; it does not reap.

    Raises:
        OSError: no descriptor is left.
    """
    try:
        return _death_fd(pid)
    except ProcessLookupError:
        readable_at_once, writer = os.pipe()
        os.close(writer)
        return readable_at_once


def members(sessions: Collection[int]) -> list[tuple[int, int]]:
    """Find every live process whose group or session is among `sessions`, as pairs of its pid and its group.

    Raises:
        OSError: the process table cannot be read, for want of a descriptor, say.
    """
    found = []
    for pid in _pids():
        try:
            group = os.getpgid(pid)
            session = os.getsid(pid)
        except OSError:
            continue  # ended while we looked
        # The state costs a file to read: asked only of the few that are ours.
        if (session in sessions or group in sessions) and start_ticks(pid) is not None:
            found.append((pid, group))
    return found


def signal_sessions(sessions: Collection[int], signum: int) -> bool:
    """Signal each process of `sessions` once; return whether any was alive.

    Groups are signalled as such, which no fork can slip through, and who left its group but not its session by its own
    number. The caller sees to it that none of the numbers has been used again.
    """
    try:
        found = members(sessions)
        alive = bool(found)
    except OSError:
        found, alive = [], True  # unable to look, and therefore to be done
    strays = [pid for pid, group in found if group not in sessions]
    for target in [*(-session for session in sessions), *strays]:
        with contextlib.suppress(OSError):  # gone, or only zombies are left
            os.kill(target, signum)
    return alive


def _used_again(pid: int, started: int) -> bool:
    try:
        now = start_ticks(pid)
    except OSError:
        return False
    return started != 0 and now is not None and now != started


def _kill_all(told: dict[int, int]) -> None:
    # With the host dead nobody pins the numbers any more: one that now belongs to a later process is left alone.
    sessions = {pid for pid, started in told.items() if not _used_again(pid, started)}
    deadline = time.monotonic() + SWEEP_LIMIT_S
    while sessions and signal_sessions(sessions, signal.SIGKILL) and time.monotonic() < deadline:
        time.sleep(SWEEP_PAUSE_S)


class _Sessions:
    """What the host has told on stdin: when each session's leader started, by its pid."""

    def __init__(self) -> None:
        self.told: dict[int, int] = {}
        self._unfinished = b""
        os.set_blocking(0, False)

    def hear(self) -> bool:
        """Take in all that was said so far; return whether the host may say more."""
        try:
            while chunk := os.read(0, 65536):
                *lines, self._unfinished = (self._unfinished + chunk).split(b"\n")
                for line in lines:
                    pid, _, started = line[1:].partition(b" ")
                    if line.startswith(b"+"):
                        self.told[int(pid)] = int(started)
                    else:
                        self.told.pop(int(pid), None)
        except BlockingIOError:
            return True
        return False


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # the host died; what is to be done does not depend on its hearing
        os.write(1, line.encode() + b"\n")


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(lock: int) -> tuple[int, bool] | None:
    """The pid of the host that the lock file names, and whether it is alive; None when it names none yet."""
    try:
        pid, started = map(int, os.pread(lock, 64, 0).split())
    except ValueError:
        return None
    return pid, start_ticks(pid) == started


def guard(lock_path: str, host: int) -> None:
    """Hold the lock, learn the sessions from stdin, and when the host is gone kill what is left of them.

    Returns when that is done, when stdin ends, or when another host turns out to be alive.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    sessions = _Sessions()
    lock = os.open(lock_path, os.O_RDWR | os.O_CREAT, 0o600)
    host_died = death_fd(host)
    host_started = start_ticks(host) or 0
    locked = waiting = False
    host_lives = os.getppid() == host  # else it died before it could be watched, and the number may be another's
    while host_lives:
        if not locked and _try_lock(lock):
            locked = True
            os.ftruncate(lock, 0)
            os.pwrite(lock, b"%d %d\n" % (host, host_started), 0)
            _say("ready")
        elif not locked and (holder := _holder(lock)):
            pid, alive = holder
            if alive:
                _say(f"held {pid}")
                return
            if not waiting:
                waiting = True
                _say(f"waiting {pid}")
        readable = select.select([0, host_died], [], [], None if locked else LOCK_PAUSE_S)[0]
        # Not the end of stdin alone: a process that the host forked without exec would hold that pipe open.
        host_lives = host_died not in readable and sessions.hear()
    sessions.hear()  # its last words may have come after the last look
    _kill_all(sessions.told)


if __name__ == "__main__":
    guard(sys.argv[1], int(sys.argv[2]))
