"""What is SQLite's own: one host on a file, a full disk, a failing one, the tail in memory, the file itself."""

from __future__ import annotations

import os
import resource
import sqlite3
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import anyio.to_thread
import pytest

from eventhost.errors import BusClosed, EventRejected, HostRunning, JournalFailed, JournalUnusable
from eventhost.event import EnvEvent
from eventhost.journal import Change, DeadLetter, SqliteJournal, open_journal, schema
from eventhost.journal.block import BLOCK_BYTES, BLOCK_EVENTS, Part, blocks_of, encode

pytestmark = pytest.mark.anyio


def event(number: int, text: str = "") -> EnvEvent:
    return EnvEvent(str(number), "test.counted", number, {"source": "s"}, {"number": number, "text": text})


def events(count: int, first: int = 1, text: str = "") -> list[EnvEvent]:
    return [event(number, text) for number in range(first, first + count)]


async def opened(path: Path) -> SqliteJournal:
    journal, loss = await open_journal(path, "normal")
    assert loss is None
    return journal


async def run(code: str) -> subprocess.CompletedProcess[str]:
    """What became of a child that ran this."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return await anyio.to_thread.run_sync(
        lambda: subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    )


# --- kept -----------------------------------------------------------------------------------------------------------


async def test_what_was_kept_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "var" / "journal.db"
    journal = await opened(path)
    await journal.append(events(3))
    await journal.save(Change(low=2))
    await journal.aclose()
    assert sorted(file.name for file in path.parent.iterdir()) == ["journal.db", "journal.db.lock"]
    journal = await opened(path)
    assert (journal.first, journal.head, journal.crashed) == (1, 3, False)
    assert [entry.event for entry in await journal.read(0, 10)] == events(3)
    assert await journal.append(events(1)) == 4
    await journal.aclose()


async def test_time_does_not_go_back_from_one_host_to_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.db"
    monkeypatch.setattr(time, "time", lambda: 5000.0)
    journal = await opened(path)
    await journal.append(events(1))
    monkeypatch.setattr(time, "time", lambda: 6000.0)
    assert await journal.clock() == 6_000_000
    await journal.save(Change(low=1))
    journal.trim(1)
    await journal.aclose()
    monkeypatch.setattr(time, "time", lambda: 100.0)
    journal = await opened(path)
    assert await journal.clock() == 6_000_001  # no two openings have the same time
    await journal.append(events(1))
    assert [entry.at_ms for entry in await journal.read(0, 9)] == [6_000_001]
    await journal.aclose()


async def test_numbers_of_dead_letters_are_not_given_again_by_the_next_host(tmp_path: Path) -> None:
    letter = DeadLetter("a", 1, 5, "log", "do[0]", 1, "no", b"[]")
    for expected in (1, 2, 3):
        journal = await opened(tmp_path / "journal.db")
        await journal.save(Change(dead=[letter]))
        (found,) = await journal.dead_letters(None, 0, 9)
        assert found.id == expected
        await journal.save(Change(buried=[found.id]))
        await journal.aclose()


async def test_one_who_is_up_to_date_gets_the_very_objects_that_were_appended(tmp_path: Path) -> None:
    journal = await opened(tmp_path / "journal.db")
    batch = events(5)
    await journal.append(batch)
    assert all(entry.event is mine for entry, mine in zip(await journal.read(0, 9), batch, strict=True))
    assert all(entry.event is mine for entry, mine in zip(await journal.entries([1, 3]), batch[::2], strict=False))
    assert (await journal.read(0, 1))[0] is (await journal.read(0, 1))[0]
    await journal.append(events(20_000))
    assert (await journal.read(0, 1))[0].event is not batch[0], "long ago: from the file"
    assert (await journal.read(0, 1))[0].event == batch[0]
    await journal.aclose()


async def test_a_reader_may_go_from_the_file_into_the_tail_and_miss_nothing(tmp_path: Path) -> None:
    journal = await opened(tmp_path / "journal.db")
    for start in range(1, 20_001, 100):
        await journal.append(events(100, first=start))
    position = 0
    while position < journal.head:
        entries = await journal.read(position, 777)
        assert [entry.seq for entry in entries] == list(range(position + 1, position + len(entries) + 1))
        assert [entry.event.timestamp for entry in entries] == [entry.seq for entry in entries]
        position = entries[-1].seq
    assert position == 20_000
    await journal.aclose()


async def test_large_events_make_the_tail_shorter(tmp_path: Path) -> None:
    journal = await opened(tmp_path / "journal.db")
    for start in range(1, 51):
        await journal.append(events(1, first=start, text="x" * 1_000_000))
    assert len(journal._tail) < 20
    assert (await journal.read(0, 1))[0].event.payload["number"] == 1
    for after in (10, 45):  # from the file, and from memory
        assert [entry.seq for entry in await journal.read(after, 99)] == [after + n for n in (1, 2, 3, 4)]
    await journal.aclose()


async def test_an_event_that_json_cannot_say_is_refused_and_its_neighbours_with_it(tmp_path: Path) -> None:
    journal = await opened(tmp_path / "journal.db")
    for payload in ({"x": "\ud800"}, {"x": object()}):
        bad = EnvEvent("1", "t", 1, {}, payload)
        with pytest.raises(EventRejected, match="JSON cannot say"):
            await journal.append([event(1), bad])
    assert journal.head == 0
    assert await journal.append(events(1)) == 1
    await journal.aclose()


async def test_people_can_look_into_the_file_with_any_tool(tmp_path: Path) -> None:
    journal = await opened(tmp_path / "journal.db")
    await journal.append(events(700))
    database = sqlite3.connect(tmp_path / "journal.db")
    assert database.execute("SELECT count(*), min(seq), max(seq) FROM event").fetchone() == (700, 1, 700)
    assert database.execute("SELECT body ->> '$.payload.number' FROM event WHERE seq = 612").fetchone() == (612,)
    database.close()
    await journal.aclose()


def test_blocks_are_neither_too_many_nor_too_large() -> None:
    small = encode(events(100))
    assert [len(part.sizes) for part in small] == [100]
    blocks = blocks_of(small * 11, 1, 0, 0)
    assert [(block.first, block.last) for block in blocks] == [(1, 500), (501, 1000), (1001, 1100)]
    assert [len(part.sizes) for part in encode(events(1300))] == [512, 512, 276]
    large = encode(events(512, text="x" * 10_000))
    assert max(len(part.body) for part in large) <= BLOCK_BYTES
    assert sum(len(part.sizes) for part in large) == 512
    assert [len(part.sizes) for part in encode(events(2, text="x" * BLOCK_BYTES))] == [1, 1]
    for block in blocks_of(large * 2, 1, 0, 0):
        assert len(block.body) <= 3 * BLOCK_BYTES
        assert block.last - block.first < BLOCK_EVENTS
        assert [entry.seq for entry in block.entries()] == list(range(block.first, block.last + 1))
    assert encode([]) == []
    assert blocks_of([], 1, 0, 0) == []
    assert blocks_of([Part([1], b"[1]")], 7, 5, 3)[0][:4] == (7, 7, 5, 3)


# --- trimming -------------------------------------------------------------------------------------------------------


async def test_what_is_trimmed_leaves_the_file_and_the_file_gets_shorter(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = await opened(path)
    for _ in range(50):
        await journal.append(events(1000, text="x" * 1000))
    before = await journal.size_bytes()
    assert before > 50_000_000
    journal.trim(49_900)
    with anyio.fail_after(60):
        while await journal.size_bytes() > before / 20 or path.stat().st_size > before / 2:
            await journal.append(events(1))
    assert [entry.seq for entry in await journal.read(0, 2)] == [49_901, 49_902]
    await journal.check()
    await journal.aclose()


async def test_trimming_that_was_not_done_is_done_by_the_next_host(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = await opened(path)
    for start in range(1, 12_001, 3000):
        await journal.append(events(3000, first=start, text="x" * 500))
    journal.trim(11_000)
    await journal.aclose()  # at once: after a slice at most
    journal = await opened(path)
    assert (journal.first, journal.head) == (11_001, 12_000)
    with anyio.fail_after(30):
        while await journal.size_bytes() > 1_500_000:
            await journal.append(events(1))
    assert (await journal.read(0, 1))[0].event.timestamp == 11_001
    await journal.aclose()


# --- one host on a file ---------------------------------------------------------------------------------------------


async def test_a_second_host_is_refused_with_the_first_ones_number(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = await opened(path)
    with pytest.raises(HostRunning, match=f"is used by the process {os.getpid()}; stop it"):
        await open_journal(path)
    other = await run(f"""
        import anyio
        from pathlib import Path
        from eventhost.journal import open_journal
        anyio.run(open_journal, Path({str(path)!r}))
    """)
    assert f"is used by the process {os.getpid()}" in other.stderr
    assert await journal.append(events(1)) == 1
    await journal.aclose()
    await (await opened(path)).aclose()


async def test_the_lock_of_a_host_that_is_gone_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    died = await run(f"""
        import anyio, os
        from pathlib import Path
        from eventhost.event import EnvEvent
        from eventhost.journal import open_journal
        async def main():
            journal, _ = await open_journal(Path({str(path)!r}))
            await journal.append([EnvEvent("1", "t", 1, {{}}, {{}})])
            os.kill(os.getpid(), 9)
        anyio.run(main)
    """)
    assert died.returncode == -9
    journal = await opened(path)
    assert (journal.crashed, journal.head) == (True, 1)
    await journal.aclose()
    journal = await opened(path)
    assert not journal.crashed
    await journal.aclose()


async def test_a_child_that_was_forked_neither_holds_the_lock_nor_harms_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = await opened(path)
    await journal.append(events(1))
    gate, open_gate = os.pipe()
    lives, say_lives = os.pipe()
    if (child := os.fork()) == 0:
        os.close(open_gate)
        os.write(say_lives, b"x")
        os.read(gate, 1)  # lives on until the other end is closed
        os._exit(0)
    os.close(gate)
    await anyio.to_thread.run_sync(os.read, lives, 1)  # what it inherited it lets go of as soon as it lives
    os.close(lives)
    os.close(say_lives)
    await journal.append(events(1))
    await journal.aclose()
    journal = await opened(path)  # though the child lives
    assert await journal.append(events(1)) == 3
    os.close(open_gate)
    assert (await anyio.to_thread.run_sync(os.waitpid, child, 0))[1] == 0
    assert await journal.append(events(1)) == 4
    await journal.check()
    await journal.aclose()


async def test_a_place_that_cannot_be_written_is_said_with_the_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.db").mkdir()
    for path in (tmp_path / "file" / "journal.db", tmp_path / "folder.db"):
        with pytest.raises(JournalUnusable, match=r"let this user write in .*, or name another file in journal\.path"):
            await open_journal(path)


async def test_a_folder_that_may_only_be_read_is_said_with_the_mend() -> None:
    with TemporaryDirectory() as folder:
        os.chmod(folder, stat.S_IRUSR | stat.S_IXUSR | stat.S_IROTH | stat.S_IXOTH)
        mighty = os.geteuid() == 0
        if mighty:
            os.seteuid(65534)  # root may write anywhere
        try:
            with pytest.raises(JournalUnusable, match="Permission denied; let this user write in"):
                await open_journal(Path(folder) / "journal.db")
        finally:
            if mighty:
                os.seteuid(0)
            os.chmod(folder, stat.S_IRWXU)


async def test_a_journal_of_a_newer_version_is_refused_with_the_version_to_install(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    await (await opened(path)).aclose()
    database = sqlite3.connect(path)
    database.execute("UPDATE format SET readable_from = '7.3'")
    database.execute("PRAGMA user_version = 9")
    database.commit()
    database.close()
    before = path.read_bytes()
    with pytest.raises(
        JournalUnusable, match=r"newer eventhost \(format 9, this one reads 2\); install eventhost 7\.3"
    ):
        await open_journal(path)
    assert path.read_bytes() == before


async def test_a_file_whose_making_was_cut_short_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    database = sqlite3.connect(path)
    database.execute("PRAGMA auto_vacuum = INCREMENTAL")
    database.execute("PRAGMA journal_mode = WAL")
    database.close()
    assert path.stat().st_size > 0
    journal = await opened(path)
    assert await journal.append(events(1)) == 1
    await journal.aclose()


@pytest.mark.parametrize(("durability", "synchronous", "fullfsync"), [("full", 2, 1), ("normal", 1, 0)])
def test_durability_is_what_sqlite_is_told(
    durability: schema.Durability, synchronous: int, fullfsync: int, tmp_path: Path
) -> None:
    database = schema.connect(tmp_path / "journal.db", durability)
    asked = [
        database.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("synchronous", "fullfsync", "checkpoint_fullfsync", "journal_mode", "auto_vacuum")
    ]
    assert asked == [synchronous, fullfsync, 1, "wal", 2]
    database.close()


# --- a full disk, a failing one -------------------------------------------------------------------------------------


def limit_pages(journal: SqliteJournal, pages: int) -> None:
    """As if there was no more room on the disk than for so many pages."""
    journal._writer._database.execute(f"PRAGMA max_page_count = {pages}").fetchall()


async def stalled(journal: SqliteJournal) -> str:
    with anyio.fail_after(20):
        while (reason := journal.statistics().stalled) is None:
            await anyio.sleep(0.01)
    return reason


async def test_everybody_waits_while_the_disk_is_full_and_goes_on_when_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventhost.journal.writer._PAUSE_S", 0.01)
    journal = await opened(tmp_path / "journal.db")
    await journal.append(events(10))
    limit_pages(journal, 200)
    ended: list[object] = []

    async def append(number: int) -> None:
        ended.append(await journal.append(events(100, first=number, text="x" * 1000)))

    async with anyio.create_task_group() as tasks:
        for number in range(30):
            tasks.start_soon(append, number * 100)
        assert "full" in await stalled(journal)
        tasks.start_soon(journal.save, Change(low=9))
        assert [entry.seq for entry in await journal.read(0, 3)] == [1, 2, 3], "what is there can be read"
        assert len(ended) < 30
        with anyio.move_on_after(0.05):
            await journal.clock()
        limit_pages(journal, 1_000_000)
    assert journal.statistics().stalled is None
    assert ended == list(range(11, 3011, 100))
    assert (await journal.progress()).low == 9
    await journal.check()
    await journal.aclose()


async def test_trimming_makes_room_for_those_who_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventhost.journal.writer._PAUSE_S", 0.01)
    journal = await opened(tmp_path / "journal.db")
    await journal.append(events(1000, text="x" * 1000))
    limit_pages(journal, 300)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(journal.append, events(500, text="x" * 1000))
        await stalled(journal)
        journal.trim(1000)
        with anyio.fail_after(20):
            while journal.head < 1500:
                await anyio.sleep(0.01)
    assert journal.statistics().stalled is None
    await journal.aclose()


async def test_closing_ends_though_the_disk_is_full_and_what_waited_was_not_accepted(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = await opened(path)
    await journal.append(events(10))
    limit_pages(journal, 20)
    refused: list[str] = []

    async def append() -> None:
        with pytest.raises(BusClosed) as caught:
            await journal.append(events(500, text="x" * 1000))
        refused.append(str(caught.value))

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(append)
        await stalled(journal)
        with anyio.fail_after(10):
            await journal.aclose()
    assert len(refused) == 3
    assert all("closed while nothing could be written" in reason for reason in refused)
    journal = await opened(path)
    assert journal.head == 10
    await journal.aclose()


async def test_a_limit_on_the_size_of_files_makes_everybody_wait_too(tmp_path: Path) -> None:
    """In a child, for the limit is the process's; raised again, it goes on."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    child = await run(f"""
        import anyio, resource
        from pathlib import Path
        from eventhost.event import EnvEvent
        from eventhost.journal import open_journal, writer
        writer._PAUSE_S = 0.01
        async def main():
            journal, _ = await open_journal(Path({str(tmp_path / "journal.db")!r}))
            batch = [EnvEvent("1", "t", 1, {{}}, {{"x": "x" * 1000}})] * 100
            await journal.append(batch)
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, hard))
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(journal.append, batch)
                while journal.statistics().stalled is None:
                    await anyio.sleep(0.01)
                print(journal.statistics().stalled, journal.head < 2100)
                resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            print(journal.head, journal.statistics().stalled)
            await journal.check()
            await journal.aclose()
        anyio.run(main)
    """)
    lines = [line for line in child.stdout.splitlines() if "journal_" not in line]
    assert lines == ["disk I/O error True", "2100 None"], child.stderr


class Failing:
    """A connection that fails at one statement, as SQLite would."""

    def __init__(self, database: sqlite3.Connection, statement: str, code: int) -> None:
        self._database, self._statement, self._code = database, statement, code

    def __getattr__(self, name: str) -> object:
        return getattr(self._database, name)

    def execute(self, sql: str, *parameters: object) -> object:
        if sql.startswith(self._statement):
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = self._code
            raise error
        return self._database.execute(sql, *parameters)


@pytest.mark.parametrize(
    ("statement", "code", "complains"),
    [
        ("COMMIT", sqlite3.SQLITE_IOERR_FSYNC, False),
        ("COMMIT", sqlite3.SQLITE_IOERR_READ, False),
        ("BEGIN", sqlite3.SQLITE_READONLY, False),
        ("INSERT OR REPLACE INTO mark", sqlite3.SQLITE_CORRUPT, True),
    ],
)
async def test_a_disk_that_fails_ends_the_journal_and_everybody_is_told(
    statement: str, code: int, complains: bool, tmp_path: Path
) -> None:
    path = tmp_path / "journal.db"
    journal = await opened(path)
    await journal.append(events(10))
    writer = journal._writer
    writer._database = Failing(writer._database, statement, code)  # type: ignore[assignment]
    told: list[str] = []

    async def fail(call: object) -> None:
        with pytest.raises(JournalFailed) as caught:
            await call  # type: ignore[misc]
        told.append(str(caught.value))

    async with anyio.create_task_group() as tasks:
        for call in (journal.append(events(1)), journal.save(Change(low=3)), journal.clock(), journal.append([])):
            tasks.start_soon(fail, call)
    await fail(journal.append(events(1)))
    await fail(journal.clock())
    assert len(told) == 6
    assert all("disk I/O error" in text and "start the host anew" in text for text in told)
    assert "disk I/O error" in (journal.statistics().failed or "")
    assert len(await journal.read(0, 99)) == 10
    with anyio.fail_after(10):
        await journal.aclose()
    journal, loss = await open_journal(path)
    assert (journal.crashed, journal.head) == (True, 10)
    assert (loss is not None) == complains
    assert loss is None or loss.lost == ()
    await journal.aclose()


async def test_a_failing_sync_of_the_file_ends_the_journal_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventhost.journal.writer._CHECKPOINT_BYTES", 1)
    journal = await opened(tmp_path / "journal.db")
    checkpointer = journal._writer._checkpointer
    connect = checkpointer._connect
    checkpointer._connect = lambda: Failing(  # type: ignore[assignment,return-value]
        connect(), "PRAGMA wal_checkpoint", sqlite3.SQLITE_IOERR_FSYNC
    )

    async def append_on_and_on() -> None:
        with anyio.fail_after(20):
            while True:
                await journal.append(events(1))

    with pytest.raises(JournalFailed, match="disk I/O error"):
        await append_on_and_on()
    await journal.aclose()


async def test_another_process_that_writes_makes_everybody_wait_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventhost.journal.writer._PAUSE_S", 0.01)
    journal = await opened(tmp_path / "journal.db")
    journal._writer._database.execute("PRAGMA busy_timeout = 10").fetchall()
    person = sqlite3.connect(tmp_path / "journal.db", isolation_level=None, check_same_thread=False)
    person.execute("BEGIN IMMEDIATE")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(journal.append, events(1))
        assert "locked" in await stalled(journal)
        person.execute("ROLLBACK")
    assert journal.head == 1
    person.close()
    await journal.aclose()
