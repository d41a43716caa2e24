"""The database source follows a real PostgreSQL: nothing is lost when either of them stops, and a gap says what is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.postgres import Postgres, postgres
from shop import SOURCE, Shop, aside, rows, told_through_stops
from source_process import Event, SourceProcess, source_process

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as running:
        yield running


class PostgresShop(Shop):
    """A shop whose changes are read from a slot."""

    @property
    def confirmed(self) -> str:
        """How far the source has acknowledged."""
        slots = self.sql(
            f"SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'eventhost_{self.name}'"
        )
        return str(slots[0]["confirmed_flush_lsn"])


@pytest.fixture
def shop(server: Postgres, tmp_path: Path) -> PostgresShop:
    return PostgresShop(server, tmp_path)


def gaps(source: SourceProcess) -> list[Event]:
    return [event for event in source.events if event["type"] == "database.gap"]


async def test_rows_that_come_change_and_go_are_told_with_where_they_stand(shop: PostgresShop) -> None:
    async with shop.source() as source:
        await source.logged("connected")
        shop.sql(
            "BEGIN; INSERT INTO orders VALUES (1, 'a'), (2, NULL); UPDATE orders SET note = 'b' WHERE id = 1; COMMIT",
            "UPDATE orders SET id = 3 WHERE id = 1",
            "DELETE FROM orders WHERE id = 3",
            "TRUNCATE orders",
        )
        events = await source.count(6)
    assert rows(events[:5]) == [
        ("insert", None, {"id": 1, "note": "a"}),
        ("insert", None, {"id": 2, "note": None}),
        ("update", {"id": 1}, {"id": 1, "note": "b"}),
        ("update", {"id": 1}, {"id": 3, "note": "b"}),
        ("delete", {"id": 3}, None),
    ]
    assert [event["type"] for event in events[-2:]] == ["database.delete", "database.truncate"]
    first = events[0]
    assert {key: first["payload"][key] for key in ("database", "schema", "table")} == {
        "database": shop.name,
        "schema": "public",
        "table": "orders",
    }
    marks = [event["metadata"] for event in events[:4]]
    assert [mark["position"] for mark in marks] == [1, 2, 3, 1]
    assert len({(mark["xid"], mark["commit_lsn"], mark["commit_time"]) for mark in marks[:3]}) == 1
    assert first["id"] == f"{shop.name}:{first['metadata']['commit_lsn']}:1"
    assert len({event["id"] for event in events}) == 6


async def test_values_are_exact_in_json_or_texts(shop: PostgresShop) -> None:
    columns = {
        "numeric": ("'1.50'", "1.50"),
        "float8": ("'NaN'", "NaN"),
        "real": ("0.1", 0.1),
        "bigint": ("9007199254740993", 9007199254740993),
        "boolean": ("true", True),
        "timestamptz": ("'2026-01-02 03:04:05.678+01'", "2026-01-02T02:04:05.678Z"),
        "timestamp": ("'2026-01-02 03:04:05'", "2026-01-02T03:04:05"),
        "date": ("'2026-02-03'", "2026-02-03"),
        "time": ("'03:04:05'", "03:04:05"),
        "interval": ("'1 day 2 hours'", "P1DT2H"),
        "bytea": (r"'\x00ff'", {"base64": "AP8="}),
        "uuid": ("'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        "jsonb": ("""'{"a": [1, 2.5, null]}'""", {"a": [1, 2.5, None]}),
        "int[]": ("'{1,NULL,3}'", [1, None, 3]),
        "text[]": (r"""'{{"a,b","c\"d"},{"NULL",e}}'""", [["a,b", 'c"d'], ["NULL", "e"]]),
        "mood": ("'sad'", "sad"),
        "mood[]": ("'{ok,sad}'", ["ok", "sad"]),
        "small": ("7", 7),
        "inet": ("'10.0.0.1/8'", "10.0.0.1/8"),
    }
    shop.sql(
        "CREATE TYPE mood AS ENUM ('sad', 'ok')",
        "CREATE DOMAIN small AS int",
        f"CREATE TABLE kinds ({', '.join(f'c{at} {kind}' for at, kind in enumerate(columns))})",
    )
    async with shop.source(tables=["kinds"]) as source:
        await source.logged("connected")
        shop.sql(f"INSERT INTO kinds VALUES ({', '.join(literal for literal, _ in columns.values())})")
        (event,) = await source.count(1)
    found = dict(zip(columns, event["payload"]["new"].values(), strict=True))
    assert found == {kind: expected for kind, (_, expected) in columns.items()}


async def test_old_rows_are_whole_with_replica_identity_full_and_large_values_that_did_not_change_are_marked(
    shop: Shop,
) -> None:
    shop.sql("ALTER TABLE orders ADD body text", "ALTER TABLE orders ALTER body SET STORAGE EXTERNAL")
    body = "x" * 10_000
    async with shop.source() as source:
        await source.logged("connected")
        shop.sql(
            f"INSERT INTO orders VALUES (1, 'a', '{body}')",
            "UPDATE orders SET note = 'b'",
            "ALTER TABLE orders REPLICA IDENTITY FULL",
            "UPDATE orders SET note = 'c'",
        )
        _, marked, whole = await source.count(3)
    assert (marked["payload"]["new"], marked["payload"]["unchanged"]) == ({"id": 1, "note": "b"}, ["body"])
    assert rows([whole]) == [("update", {"id": 1, "note": "b", "body": body}, {"id": 1, "note": "c", "body": body})]
    assert "unchanged" not in whole["payload"]


async def test_a_table_that_is_altered_meanwhile_is_told_as_it_is_from_then_on(shop: PostgresShop) -> None:
    async with shop.source(tables=["*"]) as source:
        await source.logged("connected")
        shop.sql(
            "INSERT INTO orders VALUES (1, 'a')",
            "ALTER TABLE orders ADD price numeric DEFAULT 2, DROP note",
            "INSERT INTO orders VALUES (2, '3.0')",
            "ALTER TABLE orders RENAME TO sales",
            "INSERT INTO sales VALUES (3)",
            "CREATE TABLE other (x int)",
            "INSERT INTO other VALUES (4)",
        )
        events = await source.count(4)
    assert [(event["payload"]["table"], event["payload"]["new"]) for event in events] == [
        ("orders", {"id": 1, "note": "a"}),
        ("orders", {"id": 2, "price": "3.0"}),
        ("sales", {"id": 3, "price": "2"}),
        ("other", {"x": 4}),
    ]


async def test_nothing_is_lost_or_told_out_of_order_when_the_server_stops_and_starts(shop: PostgresShop) -> None:
    insert = "INSERT INTO orders SELECT generate_series({}, {}), 'x'"
    told = await told_through_stops(shop, insert)
    assert [event["payload"]["new"]["id"] for event in told] == list(range(1, 1001))
    assert all(event["type"] != "database.gap" for event in told)


async def test_a_source_that_is_killed_loses_nothing_and_what_it_repeats_is_the_same(shop: PostgresShop) -> None:
    accepted: dict[str, Event] = {}

    def first_300(event: Event) -> bool:
        if len(accepted) < 300:
            accepted[event["id"]] = event
        return event["id"] in accepted

    async with shop.source() as source:
        await source.logged("connected")
        source.accepts = first_300
        shop.sql("INSERT INTO orders SELECT generate_series(1, 2000), 'x'", "DELETE FROM orders WHERE id <= 10")
        await source.until(lambda: len(accepted) == 300)
        source.kill()
    async with shop.source() as source:
        await source.until(lambda: source.events and source.events[-1]["payload"]["old"] == {"id": 10})
        for event in source.events:
            assert accepted.setdefault(event["id"], event) == event
    assert [event["payload"]["new"]["id"] for event in accepted.values() if event["payload"]["new"]] == list(
        range(1, 2001)
    )
    assert len(accepted) == 2010
    assert not gaps(source)


async def test_the_server_is_told_only_what_the_host_has_accepted(shop: PostgresShop) -> None:
    async with shop.source() as source:
        await source.logged("connected")
        before = shop.confirmed
        source.accepts = lambda event: False
        shop.sql("INSERT INTO orders VALUES (1, 'a')")
        (event,) = await source.count(1)
        (now,) = shop.sql("SELECT now()::text")
        replied = f"SELECT 1 FROM pg_stat_replication WHERE reply_time > '{now['now']}'"
        await source.until_asked(lambda: shop.sql(replied))
        assert _number(shop.confirmed) < _number(event["metadata"]["commit_lsn"])
        position = (await source.call("get_source_status"))["upstreams"][0]["position"]
        assert _number(position) < _number(event["metadata"]["commit_lsn"])
        assert await source.end() == 0
    assert _number(shop.confirmed) < _number(event["metadata"]["commit_lsn"])
    assert _number(before) <= _number(shop.confirmed)
    async with shop.source() as source:
        assert (await source.count(1))[0] == event
        await source.until_asked(lambda: _number(shop.confirmed) > _number(event["metadata"]["commit_lsn"]))


def _number(lsn: str) -> int:
    high, low = lsn.split("/")
    return (int(high, 16) << 32) + int(low, 16)


async def test_a_slot_that_was_dropped_is_made_anew_and_the_gap_is_told_with_its_bounds(shop: PostgresShop) -> None:
    async with shop.source() as source:
        await source.logged("connected")
        shop.sql("INSERT INTO orders VALUES (1, 'a')")
        (last,) = await source.count(1)
        await source.until_asked(lambda: _number(shop.confirmed) > _number(last["metadata"]["commit_lsn"]))
    shop.sql(f"SELECT pg_drop_replication_slot('eventhost_{shop.name}')", "INSERT INTO orders VALUES (2, 'lost')")
    async with shop.source() as source:
        await source.logged("connected")
        shop.sql("INSERT INTO orders VALUES (3, 'b')")
        gap, following = await source.count(2)
    assert gap["type"] == "database.gap"
    said = gap["payload"]
    assert (said["database"], said["what"], said["reason"]) == (shop.name, "changes", "slot_missing")
    assert _number(last["metadata"]["commit_lsn"]) < _number(said["after"]["lsn"]) < _number(said["until"]["lsn"])
    assert said["after"]["time"] < said["until"]["time"]
    assert following["payload"]["new"] == {"id": 3, "note": "b"}


async def test_a_slot_that_another_has_made_or_moved_is_a_gap(shop: PostgresShop) -> None:
    async with shop.source() as source:
        await source.logged("connected")
    name = f"eventhost_{shop.name}"
    shop.sql(
        "INSERT INTO orders VALUES (1, 'lost')",
        f"SELECT pg_replication_slot_advance('{name}', pg_current_wal_lsn())",
    )
    async with shop.source() as source:
        (gap,) = await source.count(1)
        assert gap["payload"]["reason"] == "slot_moved"
        await source.logged("connected")
    async with shop.source() as source:
        await source.logged("connected")
        shop.sql("INSERT INTO orders VALUES (2, 'b')")
        (event,) = await source.count(1)
        assert event["payload"]["new"]["id"] == 2


@pytest.mark.parametrize("note", [{"lsn": "FFFF/0"}, {"system": "1"}], ids=["an older copy", "another server"])
async def test_a_server_that_is_not_what_it_was_is_a_gap(shop: PostgresShop, note: dict[str, str]) -> None:
    async with shop.source() as source:
        await source.logged("connected")
        await source.end()
    bookmark = shop.state / f"changes-{shop.name}.json"
    bookmark.write_text(json.dumps({**json.loads(bookmark.read_text()), **note}))
    async with shop.source() as source:
        await source.logged("connected")
        shop.sql("INSERT INTO orders VALUES (1, 'a')")
        gap, event = await source.count(2)
    assert (gap["type"], gap["payload"]["reason"]) == ("database.gap", "another_server")
    assert event["payload"]["new"] == {"id": 1, "note": "a"}
    assert _number(json.loads(bookmark.read_text())["lsn"]) < _number("FFFF/0")


async def test_a_log_that_the_server_has_removed_is_a_gap(shop: PostgresShop) -> None:
    async with shop.source() as source:
        await source.logged("connected")
    shop.sql("INSERT INTO orders VALUES (1, 'lost')")
    await aside(shop.server.stop)
    await aside(lambda: shop.server.start(max_slot_wal_keep_size="1MB"))
    try:
        for _ in range(3):
            shop.sql(
                "CREATE TABLE IF NOT EXISTS filler (x int)", "INSERT INTO filler VALUES (1)", "SELECT pg_switch_wal()"
            )
        shop.sql("CHECKPOINT")
        async with shop.source() as source:
            (gap,) = await source.count(1)
            assert (gap["type"], gap["payload"]["reason"]) == ("database.gap", "wal_removed")
            await source.logged("connected")
            shop.sql("INSERT INTO orders VALUES (2, 'b')")
            assert (await source.count(2))[1]["payload"]["new"] == {"id": 2, "note": "b"}
    finally:
        await aside(shop.server.stop)
        await aside(shop.server.start)


async def test_notifications_are_told_by_channel_and_what_was_missed_is_a_gap(shop: PostgresShop) -> None:
    channels = {"orders": "orders.told", "Other one": None}
    config = {"url": shop.server.url(shop.name), "channels": channels, "name": "front"}
    async with source_process(SOURCE, {"databases": [config]}, shop.state) as source:
        await source.logged("listening")
        notify = "SELECT pg_notify('{}', '{}')"
        shop.sql(
            notify.format("orders", '{"id": 7}'), notify.format("Other one", "plain"), notify.format("orders", "[1]")
        )
        events = await source.count(3)
        assert [(event["type"], event["payload"]) for event in events] == [
            ("orders.told", {"id": 7}),
            ("database.notify.Other_one", {"value": "plain"}),
            ("orders.told", {"value": [1]}),
        ]
        assert {"database": "front", "channel": "orders"}.items() <= events[0]["metadata"].items()
        await aside(shop.server.stop)
        await source.logged("trying again")
        await aside(shop.server.start)
        await source.count(4)
        shop.sql(notify.format("orders", '{"id": 8}'))
        gap, event = (await source.count(5))[3:]
    assert gap["type"] == "database.gap"
    assert (gap["payload"]["what"], gap["payload"]["reason"]) == ("notifications", "not_listening")
    assert gap["payload"]["after"]["time"] < gap["payload"]["until"]["time"]
    assert event["payload"] == {"id": 8}
    async with source_process(SOURCE, {"databases": [config]}, shop.state) as source:
        (again,) = await source.count(1)
    assert again["payload"]["after"]["time"] >= gap["payload"]["until"]["time"]


async def test_the_sql_that_it_prints_makes_all_that_it_needs(shop: PostgresShop) -> None:
    user = f"reader_{shop.name}"
    shop.sql(f"CREATE ROLE {user} LOGIN")
    url = shop.server.url(shop.name, user)
    config = shop.config(url=url, create=False, channels=["orders"])
    async with source_process(SOURCE, config, shop.state) as source:
        await source.logged("ALTER ROLE … REPLICATION, as `python server.py --sql` prints")
        printed = await source.call("get_setup_sql")
    assert "password" not in printed
    statements = re.split(r";\n(?=--|ALTER|CREATE|GRANT|SELECT)", printed.replace("ALTER SYSTEM", "-- ALTER SYSTEM"))
    shop.sql(*statements)
    async with source_process(SOURCE, config, shop.state) as source:
        await source.logged("connected", 2)
        shop.sql("INSERT INTO orders VALUES (1, 'a')", "UPDATE orders SET note = 'b'")
        await source.until(lambda: {"database.update", "database.notify.orders"} <= {e["type"] for e in source.events})
    by_type = {event["type"]: event for event in source.events}
    assert by_type["database.update"]["payload"]["old"] == {"id": 1, "note": "a"}
    assert by_type["database.notify.orders"]["payload"]["id"] == 1


def test_the_sql_can_be_printed_from_the_shell(tmp_path: Path) -> None:
    command = [sys.executable, str(SOURCE / "server.py"), "--sql"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd=tmp_path)
    assert "pg_create_logical_replication_slot" in done.stdout


async def test_a_server_that_writes_no_logical_log_is_told_with_the_mend(tmp_path: Path) -> None:
    server = Postgres()
    try:
        server.start(wal_level="replica")
        config = {"database": {"url": server.url(), "tables": ["*"]}}
        async with source_process(SOURCE, config, tmp_path) as source:
            await source.logged("wal_level is replica")
            assert "ALTER SYSTEM SET wal_level = 'logical'" in source.log
            (state,) = (await source.call("get_source_status"))["upstreams"]
            assert state["state"] == "reconnecting"
    finally:
        server.remove()


async def test_one_database_that_is_away_does_not_keep_another_from_being_told(shop: PostgresShop) -> None:
    away = {"name": "away", "url": "postgresql://nobody@127.0.0.1:1/none", "tables": ["*"]}
    config = {"databases": [away, shop.config()["database"]]}
    async with source_process(SOURCE, config, shop.state) as source:
        await source.logged("away: connection failed")
        await source.logged(f"{shop.name}: connected")
        shop.sql("INSERT INTO orders VALUES (1, 'a')")
        assert (await source.count(1))[0]["payload"]["database"] == shop.name
