"""Traces lie in rows of many: what is read is what was written last, and a journal of version 1 keeps its own."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventhost.errors import JournalUnusable
from eventhost.event import EnvEvent
from eventhost.journal import Change, Trace, open_journal, traces
from eventhost.journal.backup import backup, restore, verify
from eventhost.journal.block import Damaged, seal
from eventhost.journal.file import JournalFile
from eventhost.journal.schema import ROOTS, TABLES, TABLES_1, make, tables

pytestmark = pytest.mark.anyio


def fresh() -> sqlite3.Connection:
    database = sqlite3.connect(":memory:", isolation_level=None)
    make(database)
    return database


def count_rows(database: sqlite3.Connection) -> int:
    ((count,),) = database.execute("SELECT count(*) FROM trace").fetchall()
    return int(count)


async def fill(path: Path, count: int) -> None:
    journal, _ = await open_journal(path)
    await journal.append([EnvEvent(str(number), "t", 1, {}, {}) for number in range(count)])
    await journal.aclose()


def write_as_version_1(path: Path, written: list[Trace]) -> None:
    """Put the journal at `path` back to what version 1 would have written."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        ((definition,),) = [table[3:] for table in TABLES_1 if table[1] == "trace"]
        database.execute("PRAGMA writable_schema = ON")
        database.execute("BEGIN")
        database.execute("UPDATE sqlite_schema SET sql = ? WHERE name = 'trace'", (definition,))
        database.execute("PRAGMA writable_schema = RESET")
        database.execute("PRAGMA user_version = 1")
        rows = [(one.seq, one.rule, one.body, seal(one.seq, one.rule, one.body)) for one in written]
        database.executemany("INSERT INTO trace VALUES(?, ?, ?, ?)", rows)
        database.execute("COMMIT")
        assert tables(database) == TABLES_1


TRACES = st.builds(
    Trace,
    st.one_of(st.integers(1, 40), st.integers(1, 3 * traces.SPAN)),
    st.sampled_from(["a", "b", ""]),
    st.integers(0, 3_000).map(bytes),
)


@given(st.lists(st.lists(TRACES, min_size=1, max_size=30), max_size=6))
@settings(deadline=None)
def test_the_newest_of_each_event_and_rule_is_read(changes: list[list[Trace]]) -> None:
    expected: dict[tuple[int, str], Trace] = {}
    following = 7
    with closing(fresh()) as database:
        for change in changes:
            before, following = following, traces.write(database, change, following)
            assert following > before
            expected |= {(trace.seq, trace.rule): trace for trace in change}
        in_order = [expected[key] for key in sorted(expected)]
        for seq in {trace.seq for trace in in_order} | {2}:
            assert traces.traces(database, seq) == [trace for trace in in_order if trace.seq == seq]
        found: list[Trace] = []
        while page := traces.traces_after(found[-1].seq if found else 0, database):
            found += page
        assert found == in_order


def test_many_lie_in_few_rows_and_few_take_no_page_of_their_own() -> None:
    with closing(fresh()) as database:
        traces.write(database, [Trace(seq, "rule", b"x" * 200) for seq in range(1, 401)], 1)
        assert count_rows(database) == 2
        traces.write(database, [Trace(seq, "rule", b"x" * 200) for seq in range(1, 11)], 5)
        assert count_rows(database) == 2 + 4


def test_a_row_that_was_changed_is_noticed() -> None:
    with closing(fresh()) as database:
        traces.write(database, [Trace(1, "rule", b"{}")], 1)
        database.execute("UPDATE trace SET body = CAST(replace(CAST(body AS TEXT), '{}', '[]') AS BLOB)")
        with pytest.raises(Damaged, match="traces of the events 1 to 1"):
            traces.traces(database, 1)


async def test_a_trace_that_a_later_host_writes_counts_though_the_clock_went_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.db"
    await fill(path, 3)
    monkeypatch.setattr("eventhost.journal.writer.time.time", lambda: 5.0)
    for body in (b"1", b"2", b"3"):
        journal, _ = await open_journal(path)
        await journal.save(Change(traces=[Trace(2, "a", body)]))
        assert await journal.traces(2) == [Trace(2, "a", body)]
        await journal.aclose()


async def test_trimming_takes_rows_whose_events_are_all_gone(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    await fill(path, 100)
    journal, _ = await open_journal(path)
    await journal.save(Change(traces=[Trace(seq, "a", b"x" * 300) for seq in range(1, 101)]))
    journal.trim(50)
    await journal.append([EnvEvent("last", "t", 1, {}, {})])
    assert await journal.traces(50) == []
    assert len(await journal.traces(51)) == 1
    await journal.aclose()
    with closing(sqlite3.connect(path)) as database:
        ((oldest,),) = database.execute("SELECT min(last) FROM trace").fetchall()
    assert oldest > 50


async def test_a_journal_of_version_1_is_taken_over_with_its_traces(tmp_path: Path) -> None:
    path, copy, other = tmp_path / "journal.db", tmp_path / "copy.db", tmp_path / "other" / "journal.db"
    written = [Trace(seq, rule, b"%d" % seq) for seq in range(1, 1_500) for rule in ("a", "b")]
    await fill(path, 1_500)
    write_as_version_1(path, written)
    with pytest.raises(JournalUnusable, match="start the host once"):
        JournalFile(path)
    backup(path, copy)
    for place in (path, other):
        if place is other:
            restore(copy, other)
        journal, loss = await open_journal(place)
        assert loss is None
        assert await journal.traces(700) == [Trace(700, "a", b"700"), Trace(700, "b", b"700")]
        await journal.save(Change(traces=[Trace(700, "a", b"later")]))
        await journal.check()
        await journal.aclose()
        verify(place)
        with JournalFile(place) as file:
            found = [trace async for page in file.traces_after(0, 1_500) for trace in page]
        assert found == [Trace(700, "a", b"later") if (one.seq, one.rule) == (700, "a") else one for one in written]
        with closing(sqlite3.connect(place)) as database:
            assert tables(database) == TABLES
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_a_damaged_journal_of_version_1_is_salvaged(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    await fill(path, 10)
    write_as_version_1(path, [Trace(3, "a", b"{}")])
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("UPDATE trace SET seal = seal + 1")
    journal, loss = await open_journal(path)
    assert loss is not None
    assert (loss.count, loss.records) == (0, ("trace",))
    assert journal.head == 10
    await journal.aclose()


def test_tables_begin_where_those_of_version_1_did() -> None:
    assert {name: page for _, name, page, _ in TABLES_1} == ROOTS
