"""The database source follows a real MariaDB: nothing is lost when either of them stops, and a gap says what is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hosting import until
from servers.mariadb import MariaDb, mariadb
from shop import Shop, aside, rows, told_through_stops
from source_process import Event

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server() -> Iterator[MariaDb]:
    with mariadb() as running:
        yield running


@pytest.fixture
def shop(server: MariaDb, tmp_path: Path) -> Shop:
    return Shop(server, tmp_path)


POSITIONS = pytest.mark.parametrize("position", ["gtid", "file"])


async def test_rows_that_come_change_and_go_are_told_with_where_they_stand(shop: Shop) -> None:
    async with shop.source() as source:
        await source.logged("connected")
        shop.sql(
            "CREATE TABLE not_watched (x int)",
            "BEGIN",
            "INSERT INTO orders VALUES (1, 'a'), (2, NULL)",
            "INSERT INTO not_watched VALUES (1)",
            "UPDATE orders SET note = 'b' WHERE id = 1",
            "COMMIT",
            "DELETE FROM orders WHERE id = 1",
        )
        events = await source.count(4)
    assert rows(events) == [
        ("insert", None, {"id": 1, "note": "a"}),
        ("insert", None, {"id": 2, "note": None}),
        ("update", {"id": 1, "note": "a"}, {"id": 1, "note": "b"}),
        ("delete", {"id": 1, "note": "b"}, None),
    ]
    first, second, third, last = (event["metadata"] for event in events)
    assert first["gtid"] == second["gtid"] == third["gtid"] != last["gtid"]
    assert [mark["position"] for mark in (first, second, third, last)] == [1, 2, 3, 1]
    assert events[0]["id"] == f"{shop.name}:{first['gtid']}:1"
    assert [event["type"] for event in events[1:]] == ["database.insert", "database.update", "database.delete"]
    assert (events[0]["payload"]["schema"], events[0]["payload"]["table"]) == (shop.name, "orders")


async def test_values_are_exact_in_json_or_texts(shop: Shop) -> None:
    columns = {
        "decimal(10,2)": ("-1.50", "-1.50"),
        "double": ("0.1", 0.1),
        "bigint unsigned": ("18446744073709551615", 18446744073709551615),
        "bigint": ("-9007199254740993", -9007199254740993),
        "tinyint unsigned": ("255", 255),
        "tinyint(1)": ("true", 1),
        "datetime(3)": ("'2026-01-02 03:04:05.678'", "2026-01-02T03:04:05.678000"),
        # The session's time zone is two hours before UTC; what is stored is UTC.
        "timestamp": ("'2026-01-02 03:04:05'", "2026-01-02T01:04:05Z"),
        "date": ("'2026-02-03'", "2026-02-03"),
        "time": ("'-25:04:05'", "-25:04:05"),
        "year": ("2026", 2026),
        "varbinary(4)": ("x'00ff'", {"base64": "AP8="}),
        "blob": ("x'00ff'", {"base64": "AP8="}),
        "varchar(20) charset latin1": ("'größe'", "größe"),
        "text charset utf8mb4": ("'😀'", "😀"),
        "enum('sad','ok')": ("'ok'", "ok"),
        "set('b','a')": ("'b,a'", ["a", "b"]),
        "bit(10)": ("b'11'", "0000000011"),
    }
    shop.sql(f"CREATE TABLE kinds ({', '.join(f'c{at} {kind}' for at, kind in enumerate(columns))})")
    async with shop.source(tables=["kinds"]) as source:
        await source.logged("connected")
        shop.sql(f"INSERT INTO kinds VALUES ({', '.join(literal for literal, _ in columns.values())})")
        (event,) = await source.count(1)
    found = dict(zip(columns, event["payload"]["new"].values(), strict=True))
    assert found == {kind: expected for kind, (_, expected) in columns.items()}


async def test_a_table_that_is_altered_meanwhile_is_told_as_it_is_from_then_on(shop: Shop) -> None:
    async with shop.source(tables=["*"]) as source:
        await source.logged("connected")
        shop.sql(
            "INSERT INTO orders VALUES (1, 'a')",
            "ALTER TABLE orders ADD price int DEFAULT 2, DROP note",
            "INSERT INTO orders VALUES (2, 3)",
            "RENAME TABLE orders TO sales",
            "INSERT INTO sales (id) VALUES (3)",
        )
        events = await source.count(3)
    assert [(event["payload"]["table"], event["payload"]["new"]) for event in events] == [
        ("orders", {"id": 1, "note": "a"}),
        ("orders", {"id": 2, "price": 3}),
        ("sales", {"id": 3, "price": 2}),
    ]


@POSITIONS
async def test_nothing_is_lost_or_told_out_of_order_when_the_server_stops_and_starts(shop: Shop, position: str) -> None:
    insert = "INSERT INTO orders SELECT seq, 'x' FROM seq_{}_to_{}"
    told = await told_through_stops(shop, insert, position=position)
    assert [event["payload"]["new"]["id"] for event in told] == list(range(1, 1001))


@POSITIONS
async def test_a_source_that_is_killed_loses_nothing_and_what_it_repeats_is_the_same(shop: Shop, position: str) -> None:
    accepted: dict[str, Event] = {}

    def first_300(event: Event) -> bool:
        if len(accepted) < 300:
            accepted[event["id"]] = event
        return event["id"] in accepted

    async with shop.source(position=position) as source:
        await source.logged("connected")
        source.accepts = first_300
        shop.sql("INSERT INTO orders SELECT seq, 'x' FROM seq_1_to_2000", "DELETE FROM orders WHERE id <= 10")
        await source.until(lambda: len(accepted) == 300)
        source.kill()
    shop.sql("INSERT INTO orders VALUES (3000, 'while it was away')")
    async with shop.source(position=position) as source:
        await source.until(lambda: source.events and (source.events[-1]["payload"]["new"] or {}).get("id") == 3000)
        for event in source.events:
            assert accepted.setdefault(event["id"], event) == event
    told = [event["payload"]["new"]["id"] for event in accepted.values() if event["payload"]["new"]]
    assert told == [*range(1, 2001), 3000]
    assert len(accepted) == 2011


async def test_what_the_host_had_not_accepted_when_the_source_ended_is_told_again(shop: Shop) -> None:
    async with shop.source() as source:
        await source.logged("connected")
        shop.sql("INSERT INTO orders VALUES (1, 'a')")
        await source.count(1)
        source.accepts = lambda event: False
        shop.sql("INSERT INTO orders VALUES (2, 'b')")
        (_, event) = await source.count(2)
        assert await source.end() == 0
    async with shop.source() as source:
        await source.until(lambda: event in source.events)


@POSITIONS
async def test_a_binlog_that_was_purged_is_a_gap_and_what_is_left_of_it_is_told(shop: Shop, position: str) -> None:
    async with shop.source(position=position) as source:
        await source.logged("connected")
        shop.sql("INSERT INTO orders VALUES (1, 'a')")
        await source.count(1)
        await source.end()
    shop.sql("INSERT INTO orders VALUES (2, 'lost')", "FLUSH BINARY LOGS", "INSERT INTO orders VALUES (3, 'kept')")
    newest = shop.sql("SHOW BINARY LOGS")[-1]["Log_name"]
    shop.sql("FLUSH BINARY LOGS")

    def purged() -> bool:
        # It purges no file that somebody reads, and notices only after a while that nobody does.
        shop.sql(f"PURGE BINARY LOGS TO '{newest}'")
        return bool(shop.sql("SHOW BINARY LOGS")[0]["Log_name"] == newest)

    await until(purged)
    async with shop.source(position=position) as source:
        gap, kept = await source.count(2)
    said = gap["payload"]
    assert (gap["type"], said["what"], said["reason"]) == ("database.gap", "changes", "binlog_purged")
    assert said["until"]["file"] == newest
    assert said["after"]["file"] < newest
    assert said["after"]["time"] <= said["until"]["time"]
    assert kept["payload"]["new"] == {"id": 3, "note": "kept"}
    async with shop.source(position=position) as source:
        await source.logged("connected")
        shop.sql("INSERT INTO orders VALUES (4, 'b')")
        await source.until(lambda: source.events and source.events[-1]["payload"]["new"] == {"id": 4, "note": "b"})
    assert {event["type"] for event in source.events} == {"database.insert"}


async def test_a_server_that_writes_no_whole_rows_is_told_with_the_mend(shop: Shop) -> None:
    shop.sql("SET GLOBAL binlog_row_metadata = MINIMAL", "SET GLOBAL binlog_row_image = MINIMAL")
    try:
        async with shop.source() as source:
            await source.logged(
                "binlog_row_metadata is MINIMAL, and must be FULL; SET GLOBAL binlog_row_metadata = FULL"
            )
            assert "binlog_row_image is MINIMAL" in source.log
            shop.sql("SET GLOBAL binlog_row_metadata = FULL", "SET GLOBAL binlog_row_image = FULL")
            await source.logged("connected")
    finally:
        shop.sql("SET GLOBAL binlog_row_metadata = FULL", "SET GLOBAL binlog_row_image = FULL")


async def test_a_user_without_rights_is_told_which_and_the_sql_that_it_prints_gives_them(shop: Shop) -> None:
    user = f"reader_{shop.name}"
    shop.sql(f"CREATE USER {user}@'%'")
    async with shop.source(url=shop.server.url(shop.name, user)) as source:
        await source.logged("REPLICATION SLAVE and REPLICATION CLIENT")
        printed = await source.call("get_setup_sql")
        statements = [line for line in printed.splitlines() if line.startswith(("GRANT", "SET"))]
        shop.sql(*statements)
        await source.logged("connected")
        shop.sql("INSERT INTO orders VALUES (1, 'a')")
        await source.count(1)


async def test_a_server_without_a_binlog_is_told_with_the_mend(shop: Shop) -> None:
    async with shop.source() as source:
        await source.logged("connected")
        await aside(shop.server.stop)
        await aside(lambda: shop.server.start(log_bin="no"))
        try:
            await source.logged("log_bin is OFF, and must be ON; write log_bin into the server's configuration")
        finally:
            await aside(shop.server.stop)
            await aside(shop.server.start)
        await source.logged("connected", 2)
