"""A private Mosquitto, from where Debian puts it or from the PATH; it keeps sessions over a stop and a start."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import aiomqtt

from servers.instance import Instance, missing


class Mosquitto(Instance):
    """A broker, open to anybody who needs no password unless its settings say otherwise."""

    def __init__(self) -> None:
        self._program = (
            shutil.which("mosquitto")
            or shutil.which("mosquitto", path="/usr/sbin")
            or missing("mosquitto (Debian: apt install mosquitto)")
        )
        super().__init__()
        self._tls: list[str] = []

    def start(self, **settings: str) -> None:
        """Start it, with settings beside those of this file."""
        wanted = {
            # Started by root it would become somebody who may not enter its folder.
            **({"user": "root"} if os.geteuid() == 0 else {}),
            "persistence": "true",
            "persistence_location": f"{self.folder}/",
            "allow_anonymous": "true",
            # None of what a test sends is dropped, however much it is.
            "max_queued_messages": "0",
            "log_type": "all",
            "log_dest": "stderr",
            **settings,
        }
        lines = [f"{name} {value}" for name, value in wanted.items()]
        (self.folder / "conf").write_text("\n".join([*lines, f"listener {self.port} 127.0.0.1", *self._tls, ""]))
        self.launch([self._program, "-c", self.folder / "conf"], self._is_up)

    def stop(self) -> None:
        """Stop it in good order: it writes its sessions."""
        self.end(signal.SIGTERM)

    def write_sessions(self) -> None:
        """Have it write what it keeps, so that not even a kill makes it forget."""
        file = self.folder / "mosquitto.db"
        file.unlink(missing_ok=True)
        assert self._process is not None
        self._process.send_signal(signal.SIGUSR1)
        # It writes another file first, and then gives it this name.
        while not file.exists():
            assert self._process.poll() is None, self.log
            time.sleep(0.01)

    def passwords(self, **users: str) -> dict[str, str]:
        """Settings by which only these users may come in."""
        program = shutil.which("mosquitto_passwd") or missing("mosquitto_passwd (Debian: apt install mosquitto)")
        file = self.folder / "passwords"
        file.write_text("".join(f"{user}:{password}\n" for user, password in users.items()))
        self.call([program, "-U", file])
        return {"allow_anonymous": "false", "password_file": str(file)}

    def use_tls(self, cert: Path, key: Path, *, clients: Path | None = None) -> None:
        """Speak TLS from the next start on; with `clients`, to those alone whose certificate is from there."""
        self._tls = [f"certfile {cert}", f"keyfile {key}"]
        if clients is not None:
            self._tls += [f"cafile {clients}", "require_certificate true"]

    def url(self) -> str:
        """Where to connect to."""
        return f"{'mqtts' if self._tls else 'mqtt'}://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def client(self, **more: Any) -> AsyncIterator[aiomqtt.Client]:
        """A client that is connected, to publish with."""
        async with aiomqtt.Client("127.0.0.1", self.port, protocol=aiomqtt.ProtocolVersion.V5, **more) as client:
            yield client

    def _is_up(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False


@contextmanager
def mosquitto(**settings: str) -> Iterator[Mosquitto]:
    """A broker that runs until the block ends."""
    server = Mosquitto()
    try:
        server.start(**settings)
        yield server
    finally:
        server.remove()
