"""The database source with SQLite, without its drivers, and in a whole host; the servers have files of their own."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from hosting import until
from servers.postgres import Postgres, postgres
from source_process import Event, source_process
from test_shipped_sources import modules_of

from eventhost.environment import ServerEnvironment
from eventhost.errors import ConfigError
from eventhost.kit.bookmark import Bookmark
from eventhost.kit.upstream import Unavailable, Upstream

SOURCE = Path(__file__).parents[1] / "eventsources" / "database"

pytestmark = pytest.mark.anyio


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data.db"


def write(file: Path, *statements: str) -> None:
    connection = sqlite3.connect(file, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def config(file: Path, tables: Any, **more: Any) -> dict[str, Any]:
    return {"database": {"url": f"sqlite:///{file}", "tables": tables, "interval": 20, **more}}


async def test_an_sqlite_file_in_use_is_followed_from_when_it_is_there(file: Path, tmp_path: Path) -> None:
    async with source_process(SOURCE, config(file, ["note"]), tmp_path / "state") as source:
        await source.logged("cannot be read")
        write(file, "PRAGMA journal_mode = WAL", "CREATE TABLE other (x)")
        await source.logged("there is no table note")
        write(file, "CREATE TABLE note (id INTEGER PRIMARY KEY, text)", "INSERT INTO note VALUES (1, 'there')")
        await source.logged("connected")
        write(file, "INSERT INTO note VALUES (2, 'b')", "DELETE FROM note WHERE id = 1")
        events = await source.count(2)
    assert [(event["type"], event["payload"]["old"], event["payload"]["new"]) for event in events] == [
        ("database.insert", None, {"id": 2, "text": "b"}),
        ("database.delete", {"id": 1, "text": "there"}, None),
    ]


async def test_a_file_that_takes_the_place_of_another_is_compared_with_it(file: Path, tmp_path: Path) -> None:
    make = "CREATE TABLE note (id INTEGER PRIMARY KEY, text)"
    write(file, make, "INSERT INTO note VALUES (1, 'a'), (2, 'b')")
    async with source_process(SOURCE, config(file, ["note"]), tmp_path / "state") as source:
        await source.logged("connected")
        write(tmp_path / "new.db", make, "INSERT INTO note VALUES (2, 'c')")
        (tmp_path / "new.db").replace(file)
        events = await source.count(2)
    assert [event["type"] for event in events] == ["database.update", "database.delete"]


@pytest.mark.parametrize("tables", [["line"], {"line": {"cursor": "id"}}], ids=["compared", "growing"])
async def test_a_source_that_is_killed_loses_nothing_and_what_it_repeats_is_the_same(
    file: Path, tmp_path: Path, tables: Any
) -> None:
    write(file, "CREATE TABLE line (id INTEGER PRIMARY KEY, text)")
    accepted: dict[str, Event] = {}

    def first_700(event: Event) -> bool:
        if len(accepted) < 700:
            accepted[event["id"]] = event
        return event["id"] in accepted

    async with source_process(SOURCE, config(file, tables), tmp_path / "state") as source:
        await source.logged("connected")
        source.accepts = first_700
        numbers = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 2000) SELECT x, 'x' FROM n"
        write(file, f"INSERT INTO line {numbers}")
        await source.until(lambda: len(accepted) == 700)
        source.kill()
    async with source_process(SOURCE, config(file, tables), tmp_path / "state") as source:
        await source.until(lambda: source.events and source.events[-1]["payload"]["new"]["id"] == 2000)
        for event in source.events:
            assert accepted.setdefault(event["id"], event) == event
    assert [event["payload"]["new"]["id"] for event in accepted.values()] == list(range(1, 2001))


async def test_a_large_table_is_compared_without_holding_it(file: Path, tmp_path: Path) -> None:
    write(file, "CREATE TABLE line (id INTEGER PRIMARY KEY, text)")
    numbers = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 20000)"
    write(file, f"INSERT INTO line {numbers} SELECT x, hex(randomblob(1000)) FROM n")  # 40 MB
    async with source_process(SOURCE, config(file, ["line"]), tmp_path / "state") as source:
        await source.logged("connected")
        write(file, "UPDATE line SET text = 'x' WHERE id = 19999")
        (event,) = await source.count(1)
        assert event["payload"]["new"] == {"id": 19999, "text": "x"}
        assert source.peak_memory_bytes() < 100_000_000


def test_a_position_in_the_binlog_grows_by_transactions_and_their_rows_are_told_apart() -> None:
    server = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
    with modules_of("database") as load:
        binlog, position = load("mysql_binlog"), load("mysql_connection").Position
        (options,) = load("options").databases({"database": "mysql://h/shop"})

        def event(kind: str, **said: Any) -> Any:
            packet = SimpleNamespace(log_pos=said.pop("pos"))
            said = {"packet": packet, "schema": "shop", "table": "orders", "columns": [], "timestamp": 1, **said}
            return type(kind, (SimpleNamespace,), {})(**said)

        row = {"values": {"id": 1}}
        log = [
            event("GtidEvent", pos=10, gtid=f"{server}:6"),
            event("QueryEvent", pos=20, query="BEGIN"),
            event("WriteRowsEvent", pos=30, rows=[row, row]),
            event("QueryEvent", pos=40, query="SAVEPOINT a"),
            event("DeleteRowsEvent", pos=50, rows=[row]),
            event("XidEvent", pos=60),
            event("GtidEvent", pos=70, gtid=f"{server}:7"),
            event("QueryEvent", pos=80, query="ALTER TABLE orders ADD x int"),
            event("QueryEvent", pos=90, query="BEGIN"),
            event("WriteRowsEvent", pos=95, rows=[row]),
        ]
        walk = binlog.Walk(options, position("log.1", 4, f"{server}:1-5"), is_mariadb=False)
        items = [item for one in log for item in walk.take(one, "log.1")]
        places = [getattr(item, "place", None) for item in items]
        settled = [item.position for item in items if isinstance(item, binlog.Settled)]
        assert settled == [position("log.1", 60, f"{server}:1-6"), position("log.1", 80, f"{server}:1-7")]
        # What has no GTID goes by file and position.
        assert places == [f"{server}:6:1", f"{server}:6:2", f"{server}:6:3", None, None, "log.1:95:1"]


async def test_only_what_the_host_has_accepted_is_acknowledged_whatever_the_server_asks(tmp_path: Path) -> None:
    acknowledged: list[int] = []
    accepted, told = anyio.Event(), anyio.Event()

    async def tell(events: Any) -> None:
        assert [event.payload["new"] for event in events] == [{"id": "1"}]
        told.set()
        await accepted.wait()

    with modules_of("database") as load:
        pgoutput = load("golden.play").encoded
        stream, slot = load("pg_stream"), load("pg_slot").Slot("system", 100, None)
        (options,) = load("options").databases({"database": {"url": "postgresql://h/shop", "tables": ["t"]}})
        mark, upstream = Bookmark(tmp_path / "changes-shop.json"), Upstream("shop", print, tell, print)
        columns = [["id", 25, 1]]
        items = [
            stream.Keepalive(110, True),
            stream.Data(120, pgoutput({"relation": 1, "schema": "public", "table": "t", "columns": columns})),
            stream.Data(120, pgoutput({"begin": 200, "time": "2026-01-02T03:04:05+00:00", "xid": 1})),
            stream.Keepalive(190, True),
            stream.Data(120, pgoutput({"insert": 1, "new": ["1"]})),
            stream.Keepalive(195, True),
            stream.Data(200, pgoutput({"commit": 200})),
            stream.Keepalive(300, True),
        ]

        class Stream:
            def read(self) -> Any:
                return items.pop(0) if items else None

            async def wait(self) -> None:
                await anyio.sleep_forever()

            async def acknowledge(self, lsn: int) -> None:
                assert load("pgoutput").lsn_number(mark.content["lsn"]) >= lsn
                acknowledged.append(lsn)

        reading = load("pg_capture").Reading(options, mark, tell, upstream, slot, Stream())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reading.read)
            await told.wait()
            tasks.start_soon(reading.keep_acknowledging)
            await until(lambda: len(acknowledged) > 4)
            assert set(acknowledged) == {110}
            accepted.set()
            await until(lambda: acknowledged[-1] == 300)
            tasks.cancel_scope.cancel()


def test_the_library_is_kept_from_reading_on_in_the_middle_of_a_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    with modules_of("database") as load:
        binlog = load("mysql_binlog")
        monkeypatch.setattr(binlog, "drivers", lambda: SimpleNamespace(connect=lambda **settings: settings))
        connect = binlog.once_each()
        assert connect(host="h") == {"host": "h"}
        assert connect(host="h", db="information_schema")["db"] == "information_schema"
        with pytest.raises(Unavailable, match="the connection is gone"):
            connect(host="h")


def test_a_row_of_the_binlog_that_cannot_be_read_is_a_gap_and_stops_nothing(tmp_path: Path) -> None:
    logged: list[str] = []
    with modules_of("database") as load:
        binlog, position = load("mysql_binlog"), load("mysql_connection").Position
        (options,) = load("options").databases({"database": "mysql://h/shop"})

        class WriteRowsEvent:
            schema, table, packet = "shop", "orders", SimpleNamespace(log_pos=30)

            @property
            def rows(self) -> Any:
                raise NotImplementedError("Unknown MySQL column type: 242")

        start = position("log.1", 4)
        (item,) = binlog.Walk(options, start, is_mariadb=False).take(WriteRowsEvent(), "log.1")
        upstream = Upstream("shop", lambda level, text: logged.append(text), anyio.sleep, print)
        mark = Bookmark(tmp_path / "changes-shop.json")
        server = load("mysql_connection").Server(False, False, "s", ("log.1",), start, start)
        event = load("mysql_capture").Capture(options, mark, None, upstream).event(item, server)
    assert (event.type, event.payload["reason"]) == ("database.gap", "unreadable")
    assert event.payload["after"] == {"place": "log.1:30", "table": "shop.orders"}
    assert "Unknown MySQL column type: 242" in logged[0]


@pytest.mark.parametrize(("url", "driver"), [("postgresql://h/d", "psycopg"), ("mysql://h/d", "pymysql")])
async def test_a_driver_that_is_not_installed_is_told_with_what_to_install(
    url: str, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with modules_of("database") as load:
        server = load("server")
        monkeypatch.setattr(server, "find_spec", lambda name: None)
        monkeypatch.setenv("MCP_SERVER_CONFIG", json.dumps({"database": {"url": url, "tables": ["a"]}}))
        with pytest.raises(
            ConfigError, match=rf"d needs the Python package {driver}; pip install 'eventhost\[database]'"
        ):
            server.wanted()


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as running:
        yield running


async def test_a_rule_runs_for_a_row_that_was_added_in_a_whole_host(
    server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_PASSWORD", "trusted without")
    server.sql("CREATE TABLE orders (id int PRIMARY KEY, note text)")
    root = tmp_path / "environment"
    rule = {
        "name": "large",
        "on": "database.insert",
        "when": "payload.table == 'orders'",
        "do": {"emit": "order.seen", "payload": {"id": "{{ payload.new.id }}"}},
    }
    root.mkdir()
    (root / "config.jsonc").write_text(json.dumps({"id": "test", "rules": [rule], "journal": {"type": "memory"}}))
    async with ServerEnvironment.from_path(root) as env, anyio.create_task_group() as tasks:
        tasks.start_soon(env.watch)
        ignore = shutil.ignore_patterns("golden", "__pycache__", "config.jsonc")
        shutil.copytree(SOURCE, root / "made", ignore=ignore)
        database = {"url": server.url(), "password": "${env:SHOP_PASSWORD}", "tables": ["orders"]}
        settings = {"name": "database", "enabled": True, "database": database, "eventTypes": ["database.*"]}
        (root / "made" / "config.jsonc").write_text(json.dumps(settings))
        (root / "eventsources").mkdir()
        (root / "made").rename(root / "eventsources" / "database")
        await until(lambda: server.sql("SELECT 1 FROM pg_replication_slots WHERE active"))
        server.sql("INSERT INTO orders VALUES (7, 'a')")
        with anyio.fail_after(30):
            async for item in env.bus.subscribe(("order.*",), after=0):
                assert item.event.payload == {"id": 7}  # type: ignore[union-attr]
                break
        tasks.cancel_scope.cancel()
