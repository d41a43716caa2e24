"""Reads a binlog in a thread of its own and hands over what it finds, a bounded number of rows ahead of its reader."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from mysql_connection import Position, Server, drivers, refusals
from mysql_values import row_of
from options import MySql

from eventhost.kit.upstream import Unavailable

_HEARTBEAT_S = 1.0
_SILENCE_S = 20
_MOST_AHEAD = 2000

# ER_MASTER_FATAL_ERROR_READING_BINLOG, ER_GTID_POSITION_NOT_FOUND_IN_BINLOG and its like: the position is not there.
_NOT_THERE = {1236, 1945, 1955}
_OTHER_CAUSES = ("same server", "max_allowed_packet", "server_uuid/server_id", "Could not open log file")


class PositionLost(Exception):
    """The server has no longer what stood at the position; the text is its own."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row that came, changed or went, and where it stands; `time_s` is a whole second."""

    operation: str
    schema: str
    table: str
    old: dict[str, Any] | None
    new: dict[str, Any] | None
    place: str
    """The transaction and the number of the row in it, or the file, the position and the number of the row there."""
    metadata: Mapping[str, Any]
    time_s: int


@dataclass(frozen=True, slots=True)
class Settled:
    """All transactions up to this position are complete."""

    position: Position


@dataclass(frozen=True, slots=True)
class Unread:
    """Rows of a watched table that could not be read."""

    schema: str
    table: str
    place: str
    error: str


Item = Row | Settled | Unread


class Binlog:
    """The server's binlog from `start` on."""

    def __init__(self, options: MySql, server: Server, start: Position, server_id: int) -> None:
        self._options = options
        self._server = server
        self._start = start
        self._server_id = server_id
        self._loop = asyncio.get_running_loop()
        self._items: deque[Item | BaseException] = deque()
        self._arrived = asyncio.Event()
        self._room = threading.Semaphore(_MOST_AHEAD)
        self._stopping = False
        # A daemon: at the end of the process nobody waits for a read that may last until the next heartbeat.
        self._thread = threading.Thread(target=self._run, name="binlog", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Have the thread end with the next thing that it reads."""
        self._stopping = True
        self._room.release(_MOST_AHEAD)

    async def items(self, most: int) -> list[Item]:
        """What has been found, in order, at least one and at most `most`.

        Raises:
            PositionLost: the server no longer has what is to be read.
            Unavailable: the connection is gone, or the server refuses.
        """
        while not self._items:
            self._arrived.clear()
            if not self._items:
                await self._arrived.wait()
        found: list[Item] = []
        while self._items and len(found) < most:
            item = self._items[0]
            if isinstance(item, BaseException):
                if found:
                    break
                raise item
            found.append(item)
            self._items.popleft()
            self._room.release()
        return found

    def _put(self, item: Item | BaseException) -> None:
        if not isinstance(item, BaseException):
            self._room.acquire()
        self._items.append(item)
        if not self._arrived.is_set() and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._arrived.set)

    def _run(self) -> None:
        try:
            with refusals():
                try:
                    self._read()
                except drivers().MySQLError as error:
                    raise _cause(error) from None
            raise Unavailable("the server has ended the stream")
        except (Unavailable, PositionLost, OSError) as error:
            ended: BaseException = error
        except Exception as error:
            # The library knows many errors, and has more.
            ended = Unavailable(f"the binlog cannot be read: {type(error).__name__}: {error}")
        if not self._stopping:
            self._put(ended)

    def _read(self) -> None:
        library = import_module("pymysqlreplication")
        gtids = self._start.gtids
        # In MariaDB no transaction yet is a position; the library knows none such in MySQL.
        by_gtid = bool(gtids) or (gtids is not None and self._server.is_mariadb)
        stream = library.BinLogStreamReader(
            {**self._options.connect, "connect_timeout": _SILENCE_S, "read_timeout": _SILENCE_S},
            server_id=self._server_id,
            blocking=True,
            resume_stream=True,
            log_file=None if by_gtid else self._start.file,
            log_pos=None if by_gtid else self._start.pos,
            auto_position=gtids if by_gtid else None,
            is_mariadb=by_gtid and self._server.is_mariadb,
            slave_heartbeat=_HEARTBEAT_S,
            pymysql_wrapper=once_each(),
            enable_logging=False,
        )
        walk = Walk(self._options, self._start, self._server.is_mariadb)
        try:
            for event in stream:
                if self._stopping:
                    return
                for item in walk.take(event, stream.log_file):
                    self._put(item)
        finally:
            stream.close()


class Walk:
    """Where in the log, and in which transaction, the stream stands."""

    def __init__(self, options: MySql, start: Position, is_mariadb: bool) -> None:
        self._options = options
        self._is_mariadb = is_mariadb
        self._gtids = start.gtids
        self._gtid = ""
        self._xid: int | None = None
        self._in_transaction = False
        self._rows = 0

    def take(self, event: Any, file: str | None) -> list[Item]:
        """What comes of one event of the log."""
        kind = type(event).__name__
        if kind in ("GtidEvent", "MariadbGtidEvent"):
            self._gtid, self._rows = event.gtid, 0
            # In MariaDB it is the transaction's begin too, unless it says that one statement follows.
            self._in_transaction = kind == "MariadbGtidEvent" and not event.flags & 1
        elif kind in ("XidEvent", "XAPrepareEvent"):
            return self._end(event, file)
        elif kind == "QueryEvent":
            return self._query(event, file)
        elif kind in ("WriteRowsEvent", "UpdateRowsEvent", "DeleteRowsEvent"):
            return self._changes(event, file, kind)
        return []

    def _query(self, event: Any, file: str | None) -> list[Item]:
        query = event.query if isinstance(event.query, str) else event.query.decode(errors="replace")
        words = query.upper().split(None, 2)
        if words[:1] == ["BEGIN"] or words[:2] in (["START", "TRANSACTION"], ["XA", "START"]):
            self._in_transaction, self._rows = True, 0
            return []
        ends = words[:1] in (["COMMIT"], ["ROLLBACK"]) and words[1:2] != ["TO"]
        return self._end(event, file) if ends or not self._in_transaction else []

    def _end(self, event: Any, file: str | None) -> list[Item]:
        self._in_transaction, self._rows = False, 0
        if self._gtids is not None and self._gtid:
            self._gtids = with_gtid(self._gtids, self._gtid, is_mariadb=self._is_mariadb)
        self._gtid = ""
        return [Settled(Position(file or "", event.packet.log_pos, self._gtids))]

    def _changes(self, event: Any, file: str | None, kind: str) -> list[Item]:
        # A table that the library knows nothing of has no name here; it logs why.
        schema, table = getattr(event, "schema", ""), getattr(event, "table", "")
        if not table or not self._wants(schema, table):
            return []
        log_pos = event.packet.log_pos
        try:
            rows = event.rows
        except Exception as error:
            # One row that cannot be read must not stop all that follow.
            return [Unread(schema, table, f"{file}:{log_pos}", f"{type(error).__name__}: {error}")]
        in_utc = frozenset(column.name for column in event.columns if column.type in (7, 17))
        items: list[Item] = []
        for row in rows:
            self._rows += 1
            place = f"{self._gtid}:{self._rows}" if self._gtid else f"{file}:{log_pos}:{len(items) + 1}"
            old, new = _images(kind, row, in_utc)
            metadata = {"gtid": self._gtid or None, "file": file, "pos": log_pos, "position": self._rows}
            operation = {"W": "insert", "U": "update", "D": "delete"}[kind[0]]
            items.append(Row(operation, schema, table, old, new, place, metadata, event.timestamp))
        return items

    def _wants(self, schema: str, table: str) -> bool:
        wanted = self._options.tables
        if wanted:
            return f"{schema}.{table}" in wanted
        return schema == self._options.schema if self._options.schema else schema not in ("mysql", "sys")


def with_gtid(gtids: str, gtid: str, *, is_mariadb: bool) -> str:
    """The position `gtids` after the transaction `gtid`."""
    if not is_mariadb:
        library = import_module("pymysqlreplication.gtid")
        return str(library.GtidSet(gtids) + library.Gtid(gtid))
    domains = {one.split("-")[0]: one for one in gtids.split(",") if one}
    domains[gtid.split("-")[0]] = gtid
    return ",".join(domains[domain] for domain in sorted(domains, key=int))


def _images(
    kind: str, row: Mapping[str, Any], in_utc: frozenset[str]
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    if kind == "UpdateRowsEvent":
        return (
            row_of(row["before_values"], row.get("before_none_sources", {}), in_utc),
            row_of(row["after_values"], row.get("after_none_sources", {}), in_utc),
        )
    image = row_of(row["values"], row.get("none_sources", {}), in_utc)
    return (None, image) if kind == "WriteRowsEvent" else (image, None)


def once_each() -> Any:
    """A `connect` that serves once for the stream and once for the catalogue.

    The library connects again by itself when a connection breaks, and then begins in the middle of a transaction, whose
    tables it does not know any more: it would leave rows out without a word.
    """
    made: set[bool] = set()

    def connect(**settings: Any) -> Any:
        is_catalogue = settings.get("db") == "information_schema"
        if is_catalogue in made:
            raise Unavailable("the connection is gone")
        made.add(is_catalogue)
        return drivers().connect(**settings)

    return connect


def _cause(error: Any) -> Exception:
    code = error.args[0] if error.args else 0
    text = str(error.args[1]) if len(error.args) > 1 else str(error)
    if code in _NOT_THERE and not any(cause in text for cause in _OTHER_CAUSES):
        return PositionLost(text)
    if code in _NOT_THERE:
        return Unavailable(f"{text} (error {code}); if another replica has this source's `serverId`, give it another")
    return error if isinstance(error, Exception) else Unavailable(text)
