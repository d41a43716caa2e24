"""The daemon as its users run it, in a process of its own, in a folder made for the measurement."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.hosting import CHILDREN
from eventhost.cli.control import Host
from eventhost.errors import ConnectionLost

PATIENCE_S = 120.0


@dataclass
class Daemon:
    process: subprocess.Popen[bytes]
    root: Path

    def host(self) -> Host:
        return Host.of_folder(self.root)

    def until_running(self, count: int) -> None:
        """Return once `count` sources are running."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                sources = self.host().get("/sources")["sources"]
            except ConnectionLost:
                sources = []
            if sum(source["status"] == "running" for source in sources) >= count:
                return
            time.sleep(0.05)
        raise TimeoutError(f"{count} sources were not running within {PATIENCE_S:g} s")


def add_source(root: Path, name: str) -> None:
    """Drop a light source in, whole from the first moment on."""
    made = root / f".{name}"
    made.mkdir()
    shutil.copy(CHILDREN / "kit_source.py", made / "server.py")
    (made / "config.jsonc").write_text('{"eventTypes": ["kit.*"]}')
    (root / "eventsources").mkdir(exist_ok=True)
    made.rename(root / "eventsources" / name)


@contextmanager
def daemon(sources: int) -> Iterator[Daemon]:
    """A daemon that was just started, with so many light sources."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "config.jsonc").write_text('{"http": {"enabled": false}, "log": {"level": "error"}}')
        for number in range(sources):
            add_source(root, f"source-{number}")
        command = [sys.executable, "-m", "eventhost", "run", "--env", str(root)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        try:
            yield Daemon(process, root)
        finally:
            process.terminate()
            process.wait(PATIENCE_S)
