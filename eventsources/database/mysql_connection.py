"""Asks a MySQL or MariaDB server what it is, whether it can be followed, and where its binlog stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from options import MySql

from eventhost.kit.upstream import Unavailable

_TIMEOUT_S = 10

_SETTINGS = {
    "log_bin": ("ON", "write log_bin into the server's configuration and restart it"),
    "binlog_format": ("ROW", "SET GLOBAL binlog_format = ROW, and in the server's configuration"),
    "binlog_row_image": ("FULL", "SET GLOBAL binlog_row_image = FULL, and in the server's configuration"),
    "binlog_row_metadata": (
        "FULL",
        "SET GLOBAL binlog_row_metadata = FULL, and in the server's configuration; the log holds the columns' names "
        "only then (MySQL 8.0.14, MariaDB 10.5 and later)",
    ),
    "log_bin_compress": ("OFF", "SET GLOBAL log_bin_compress = OFF; compressed rows cannot be read"),
    "binlog_transaction_compression": ("OFF", "SET GLOBAL binlog_transaction_compression = OFF"),
}
_MAY_LACK = {"log_bin_compress", "binlog_transaction_compression"}

_MENDS = {
    1044: "ask for the rights that `python server.py --sql` prints",
    1045: "check the user and the password",
    1227: "ask for the rights that `python server.py --sql` prints: REPLICATION SLAVE and REPLICATION CLIENT",
    1698: "check the user and the password",
    2003: "is the server running, and are host and port right?",
}


@dataclass(frozen=True, slots=True)
class Position:
    """Where to read on in the binlog: after the transactions `gtids`, or where there are none in `file` at `pos`."""

    file: str
    pos: int
    gtids: str | None = None

    def as_json(self) -> dict[str, Any]:
        """For the bookmark, the log and gap events."""
        return {"file": self.file, "pos": self.pos, "gtids": self.gtids}


@dataclass(frozen=True, slots=True)
class Server:
    """What the server is; `uuid` tells two servers apart, `files` are its binlogs, oldest first."""

    is_mariadb: bool
    has_gtids: bool
    uuid: str
    files: tuple[str, ...]
    end: Position = field(repr=False)
    oldest: Position = field(repr=False)


def drivers() -> Any:
    """PyMySQL, untyped as it is."""
    return import_module("pymysql")


@contextmanager
def refusals() -> Iterator[None]:
    """Turn what PyMySQL raises into `Unavailable`, with the mend where it is known."""
    try:
        yield
    except drivers().MySQLError as error:
        code, text = error.args if len(error.args) == 2 else (0, str(error))
        mend = _MENDS.get(code, "")
        raise Unavailable(f"{text}{f' (error {code})' if code else ''}{mend and f'; {mend}'}") from None


def look(options: MySql) -> Server:
    """Ask the server; takes as long as the network does.

    Raises:
        Unavailable: it cannot be asked, or cannot be followed as it is set.
    """
    with refusals():
        connection = drivers().connect(
            **options.connect, connect_timeout=_TIMEOUT_S, read_timeout=_TIMEOUT_S, charset="utf8mb4", autocommit=True
        )
        with connection, connection.cursor() as cursor:
            variables = _variables(cursor)
            _check(variables)
            is_mariadb = "mariadb" in variables["version"].lower()
            has_gtids = not options.by_file and (is_mariadb or variables.get("gtid_mode") == "ON")
            cursor.execute("SHOW BINARY LOGS")
            files = tuple(str(row[0]) for row in cursor.fetchall())
            status = _status(cursor)
            end, oldest = Position(str(status[0]), int(status[1])), Position(files[0], 4)
            if has_gtids and is_mariadb:
                end = Position(end.file, end.pos, _one(cursor, "SELECT @@GLOBAL.gtid_binlog_pos"))
                oldest = Position(oldest.file, 4, _one(cursor, "SELECT BINLOG_GTID_POS(%s, 4)", oldest.file))
            elif has_gtids:
                end = Position(end.file, end.pos, _one(cursor, "SELECT @@GLOBAL.gtid_executed"))
                oldest = Position(oldest.file, 4, _one(cursor, "SELECT @@GLOBAL.gtid_purged"))
            uuid = variables.get("server_uid") or variables.get("server_uuid") or variables["server_id"]
    return Server(is_mariadb, has_gtids, uuid, files, end, oldest)


def _variables(cursor: Any) -> Mapping[str, str]:
    names = [*_SETTINGS, "version", "gtid_mode", "server_id", "server_uid", "server_uuid"]
    cursor.execute(f"SHOW GLOBAL VARIABLES WHERE Variable_name IN ({', '.join(['%s'] * len(names))})", names)
    return {str(name).lower(): str(value) for name, value in cursor.fetchall()}


def _check(variables: Mapping[str, str]) -> None:
    wrong = []
    for name, (wanted, mend) in _SETTINGS.items():
        found = variables.get(name, wanted if name in _MAY_LACK else "not there")
        if found.upper() != wanted:
            wrong.append(f"{name} is {found}, and must be {wanted}; {mend}")
    if wrong:
        raise Unavailable(". ".join(wrong))


def _status(cursor: Any) -> Any:
    try:
        cursor.execute("SHOW BINARY LOG STATUS")
    except drivers().err.ProgrammingError:
        # As it was called until MySQL 8.4, and in MariaDB until today.
        cursor.execute("SHOW MASTER STATUS")
    return cursor.fetchone()


def _one(cursor: Any, statement: str, *arguments: Any) -> str:
    cursor.execute(statement, arguments or None)
    (value,) = cursor.fetchone()
    return str(value or "").replace("\n", "")
