"""One process of a server, which can be stopped, killed and started again where it was."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from untested import untested

NOBODY = 65534
LIMIT_S = 60


def missing(what: str) -> NoReturn:
    """Leave the test, for lack of this."""
    untested(f"{what} is not installed")


def free_port() -> int:
    """A port that nobody had a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


class Instance:
    """A server that listens on `port` of the loopback address; its data is in `folder` until `remove`."""

    def __init__(self, *, as_nobody: bool = False) -> None:
        # Not pytest's folder, into which other users may not go.
        self.folder = Path(tempfile.mkdtemp(prefix="eventhost-server-"))
        self.port = free_port()
        self._owner: dict[str, Any] = {}
        if as_nobody and os.geteuid() == 0:
            self._owner = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
            os.chown(self.folder, NOBODY, NOBODY)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """What the server has written."""
        return (self.folder / "log").read_text("utf-8", errors="replace")

    def call(self, command: Sequence[str | Path], **more: Any) -> None:
        """Run a program that prepares the server."""
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, timeout=LIMIT_S, check=False, **self._owner, **more
        )
        assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")

    def launch(self, command: Sequence[str | Path], is_up: Callable[[], bool]) -> None:
        """Start the server, and wait until it is up."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._owner,
            )
        end_s = time.monotonic() + LIMIT_S
        while not is_up():
            assert self._process.poll() is None, self.log
            assert time.monotonic() < end_s, self.log
            time.sleep(0.02)

    def end(self, how: signal.Signals) -> None:
        """Send it this signal, and wait for its end."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(LIMIT_S)
            self._process = None

    def kill(self) -> None:
        """End it, and all its processes, as a power cut does."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(LIMIT_S)
            self._process = None

    def remove(self) -> None:
        """End it and remove its data."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
