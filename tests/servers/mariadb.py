"""A private MariaDB, from the PATH."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pymysql

from servers.instance import Instance, missing

_SETTINGS = {
    "log-bin": "binlog",
    "server-id": "1",
    "binlog-format": "ROW",
    "binlog-row-metadata": "FULL",
    "bind-address": "127.0.0.1",
    "innodb-flush-log-at-trx-commit": "2",
    "innodb-buffer-pool-size": "16M",
    "innodb-log-file-size": "8M",
    "default-time-zone": "+02:00",
}


class MariaDb(Instance):
    """A server with a user `root`, who needs no password."""

    def __init__(self) -> None:
        self._program, install = _program("mariadbd"), _program("mariadb-install-db")
        super().__init__()
        self._who = ["--user=root"] if os.geteuid() == 0 else []
        data = f"--datadir={self.folder / 'data'}"
        normal = "--auth-root-authentication-method=normal"
        self.call([install, "--no-defaults", *self._who, data, normal, "--skip-test-db"])

    def start(self, **settings: str) -> None:
        """Start it, with settings other than those of this file."""
        wanted = {**_SETTINGS, **{name.replace("_", "-"): value for name, value in settings.items()}}
        options = [f"--{name}={value}" for name, value in wanted.items() if value != "no"]
        places = [f"--datadir={self.folder / 'data'}", f"--socket={self.folder / 'socket'}", f"--port={self.port}"]
        self.launch([self._program, "--no-defaults", *self._who, *places, "--skip-name-resolve", *options], self._is_up)

    def stop(self) -> None:
        """Stop it in good order."""
        self.end(signal.SIGTERM)

    def url(self, database: str = "", user: str = "root") -> str:
        """Where to connect to."""
        return f"mariadb://{user}@127.0.0.1:{self.port}/{database}"

    def sql(self, *statements: str, database: str = "") -> list[dict[str, Any]]:
        """Run statements, each committed by itself; return the rows of the last one."""
        session = pymysql.connect(
            host="127.0.0.1",
            port=self.port,
            user="root",
            database=database or None,
            autocommit=True,
            charset="utf8mb4",
            connect_timeout=20,
            cursorclass=pymysql.cursors.DictCursor,
        )
        with session, session.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    def _is_up(self) -> bool:
        with suppress(pymysql.Error):
            return bool(self.sql("SELECT 1"))
        return False


def _program(name: str) -> str:
    # Debian puts servers where only root's PATH leads.
    return (
        shutil.which(name)
        or shutil.which(name, path="/usr/sbin")
        or missing(f"{name} (Debian: apt install mariadb-server)")
    )


@contextmanager
def mariadb() -> Iterator[MariaDb]:
    """A server that runs until the block ends."""
    server = MariaDb()
    try:
        server.start()
        yield server
    finally:
        server.remove()
