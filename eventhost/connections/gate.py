"""A program becomes itself only once its host says so: until then it waits at a gate, and ends when the host dies.

The gate is the child's own stdin, from which a shell reads one line before it turns into the program. So nothing is
ever running that the guardian does not know.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from eventhost.errors import SpawnError

# The gate: `read` takes not a byte too many from a pipe (POSIX), so the rest of stdin is the program's.
_SHELL_GATE = ("/bin/sh", "-c", 'read -r _eventhost_gate && exec "$@"', "sh")

# A shell drops variables that it cannot name (`npm_config_//registry/:_token`) and rewrites a few of its own: then
# Python waits. It takes ten times as long, and sets LC_CTYPE where there is no locale, so that is put back.
_SHELL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_SHELL_OWN = frozenset({"BASHOPTS", "IFS", "LINENO", "OPTIND", "PPID", "SHELLOPTS"})
_PYTHON_GATE = """
import os, sys
if os.read(0, 1):
    os.environ.pop("LC_CTYPE", None)
    if sys.argv[1]:
        os.environ["LC_CTYPE"] = sys.argv[1]
    try:
        os.execv(sys.argv[2], sys.argv[2:])
    except OSError as error:
        sys.stderr.write(f"{sys.argv[2]}: {error.strerror}\\n")
        os._exit(127)
"""


def spawn_at_gate(argv: Sequence[str], cwd: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start `argv` in a session of its own, with pipes for all three streams, and leave it at its gate.

    `cwd` is absolute; `env` is the whole environment, to which only `PWD` is added, as any shell would.
    Raises:
        SpawnError: it cannot be started; says how to mend it.
    """
    assert threading.current_thread() is threading.main_thread(), "children are started from the main thread only"
    program = _find_program(argv, cwd, env)
    try:
        return subprocess.Popen(
            [*_gate(env), *_death_with_host(), program, *argv[1:]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=cwd,
            env={**env, "PWD": str(cwd)},
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise cannot_start(program, error) from error


def open_gate(process: subprocess.Popen[bytes]) -> None:
    """Let it become the program."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it was killed at its gate: noticed like any other death
        os.write(process.stdin.fileno(), b"\n")


def cannot_start(program: str, error: Exception) -> SpawnError:
    """The error for a program that the system refused to start, with its mend."""
    mend = {
        errno.E2BIG: "its arguments and environment are too large for the system; pass large values in a file",
        errno.EMFILE: "raise the limit of open files (ulimit -n)",
        errno.ENFILE: "the machine has no file left to open",
        errno.EAGAIN: "raise the limit of processes (ulimit -u)",
        errno.ENOMEM: "the machine has no memory left",
    }.get(getattr(error, "errno", None) or 0, "correct the command or its environment")
    reason = getattr(error, "strerror", None) or error  # without the path, which would be the gate's
    return SpawnError(f"{program} could not be started: {reason}; {mend}")


def _find_program(argv: Sequence[str], cwd: Path, env: Mapping[str, str]) -> str:
    """The full path of the program, as the child itself would find it: by its own PATH, from its own directory."""
    if not argv or not argv[0]:
        raise SpawnError('the command is empty; write it as a list such as ["python", "server.py"]')
    if not os.path.isdir(cwd):
        raise SpawnError(f"the working directory {cwd} is missing or no directory; create it")
    name = argv[0]
    if os.sep in name:
        path = os.path.join(cwd, name)
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
        if os.path.isfile(path):
            raise SpawnError(f"{path} is not executable; mend that with chmod +x {path}")
        raise SpawnError(f"{path} is {'a directory' if os.path.isdir(path) else 'missing'}; correct the command")
    folders = env.get("PATH", os.defpath).split(os.pathsep)
    found = shutil.which(name, path=os.pathsep.join(os.path.join(cwd, folder) for folder in folders))
    if found is None:
        beside = f"; {name} in {cwd} is started as ./{name}" if os.path.isfile(os.path.join(cwd, name)) else ""
        raise SpawnError(f"{name} is not on PATH; install it, or give its full path{beside}")
    return found


def _gate(env: Mapping[str, str]) -> tuple[str, ...]:
    if all(_SHELL_NAME.fullmatch(name) and name not in _SHELL_OWN for name in env):
        return _SHELL_GATE
    return (sys.executable, "-I", "-S", "-c", _PYTHON_GATE, env.get("LC_CTYPE", ""))


@functools.cache
def _death_with_host() -> tuple[str, ...]:
    """What has the kernel kill the child, though not its own children, when host and guardian die together."""
    setpriv = shutil.which("setpriv")  # util-linux; other systems have none
    if setpriv is None:
        return ()
    prefix = (os.path.abspath(setpriv), "--pdeathsig", "KILL", "--")
    # BusyBox has a setpriv without this option.
    trial = subprocess.run([*prefix, "/bin/sh", "-c", ":"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return prefix if trial.returncode == 0 else ()
