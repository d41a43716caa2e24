"""A backup is whole, and made beside a running host; restoring refuses what is not, and gives no number twice."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from eventhost.errors import HostRunning, JournalUnusable
from eventhost.event import EnvEvent
from eventhost.journal import Change, DeadLetter, Loss, Pending, Position, Trace, open_journal
from eventhost.journal.backup import backup, restore
from eventhost.journal.schema import TABLES, tables

pytestmark = pytest.mark.anyio


def events(count: int, first: int = 1) -> list[EnvEvent]:
    return [EnvEvent(str(n), "test.counted", n, {"source": "s"}, {"number": n}) for n in range(first, first + count)]


def falsify(path: Path) -> None:
    """Change one event, so that no JSON parser would notice."""
    data = path.read_bytes()
    assert data.count(b'"number":777}') == 1
    path.write_bytes(data.replace(b'"number":777}', b'"number":778}'))


CHANGE = Change(
    low=3,
    pending=[Pending("a", 5, (4, 5), 1)],
    positions=[Position("a", 7)],
    dead=[DeadLetter("a", 1, 5, "webhook", "do[0]", 3, "refused", b"[]")],
    traces=[Trace(2, "a", b"{}")],
)


async def made(path: Path, count: int = 1000) -> None:
    journal, _ = await open_journal(path)
    await journal.append(events(count))
    await journal.save(CHANGE)
    await journal.aclose()


async def held(path: Path) -> tuple[int, list[EnvEvent], Loss | None]:
    """What is in a journal, with all records as `CHANGE` has them."""
    journal, loss = await open_journal(path)
    try:
        assert not journal.crashed
        await journal.check()
        assert await journal.pending("a", 0, 9) == list(CHANGE.pending)
        assert (await journal.progress()).positions == {"a": CHANGE.positions[0]}
        assert (await journal.progress()).low == 3
        assert [letter.seq for letter in await journal.dead_letters(None, 0, 9)] == [1]
        assert await journal.traces(2) == list(CHANGE.traces)
        found: list[EnvEvent] = []
        while entries := await journal.read(len(found), 10**6):
            found += [entry.event for entry in entries]
        return journal.head, found, loss
    finally:
        await journal.aclose()


async def test_a_backup_of_a_closed_journal_is_the_journal(tmp_path: Path) -> None:
    await made(tmp_path / "journal.db")
    assert backup(tmp_path / "journal.db", tmp_path / "copy.db") == 1000
    assert not list(tmp_path.glob("copy.db?*")), "one file"
    assert await held(tmp_path / "copy.db") == (1000, events(1000), None)


async def test_the_tables_of_a_backup_begin_where_a_journals_do(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    await made(path)
    journal, _ = await open_journal(path)
    journal.trim(500)
    await journal.append(events(10))
    await journal.aclose()
    backup(path, tmp_path / "copy.db")
    database = sqlite3.connect(tmp_path / "copy.db")
    assert tables(database) == TABLES
    assert database.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    database.close()


async def test_a_backup_beside_a_running_writer_is_whole_up_to_some_event(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal, _ = await open_journal(path, "normal")
    await journal.save(CHANGE)
    await journal.append(events(2000))
    code = "import sys; from pathlib import Path; from eventhost.journal.backup import backup\n"
    code += "print(backup(Path(sys.argv[1]), Path(sys.argv[2])))"
    ended = anyio.Event()
    heads: list[int] = []

    async def write() -> None:
        while not ended.is_set():
            await journal.append(events(20, first=journal.head + 1))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        for number in range(3):
            before = journal.head
            command = [sys.executable, "-c", code, str(path), str(tmp_path / f"copy-{number}.db")]
            run = await anyio.to_thread.run_sync(lambda command=command: subprocess.check_output(command, text=True))
            heads.append(int(run))
            assert before <= heads[-1] <= journal.head
        ended.set()
    await journal.aclose()
    for number, head in enumerate(heads):
        assert await held(tmp_path / f"copy-{number}.db") == (head, events(head), None)


async def test_an_older_backup_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    path, target = tmp_path / "journal.db", tmp_path / "copy.db"
    await made(path)
    backup(path, target)
    journal, _ = await open_journal(path)
    await journal.append(events(1))
    await journal.aclose()
    assert backup(path, target) == 1001
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    for wrong in (notes, path):
        with pytest.raises(JournalUnusable, match="name another file"):
            backup(path, wrong)
    assert notes.read_text() == "mine"
    with pytest.raises(JournalUnusable, match="is not there"):
        backup(tmp_path / "none.db", target)
    with pytest.raises(JournalUnusable, match="is not a journal of eventhost"):
        backup(notes_database(tmp_path), target)
    with pytest.raises(JournalUnusable, match="cannot be copied"):
        backup(path, tmp_path / "missing" / "copy.db")


def notes_database(folder: Path) -> Path:
    path = folder / "app.db"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE IF NOT EXISTS user(name)")
    database.close()
    return path


async def test_a_damaged_journal_makes_no_backup(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    await made(path)
    falsify(path)
    with pytest.raises(JournalUnusable, match="events 513 to 1000 are not true"):
        backup(path, tmp_path / "copy.db")
    assert not [file for file in tmp_path.iterdir() if "copy" in file.name]


async def test_what_is_restored_takes_the_place_and_the_old_is_kept(tmp_path: Path) -> None:
    path, copy = tmp_path / "journal.db", tmp_path / "copy.db"
    await made(path)
    backup(path, copy)
    journal, _ = await open_journal(path)
    await journal.append(events(500, first=1001))
    await journal.aclose()
    old = restore(copy, path)
    assert old is not None
    assert old.name.startswith("journal.db.replaced-")
    head, found, loss = await held(path)
    assert (head, found) == (1500, events(1000))
    assert loss is not None
    assert (loss.lost, loss.damage, loss.aside) == (((1001, 1500),), f"restored from {copy}", str(old))
    journal, loss = await open_journal(path)
    assert loss is None
    assert await journal.append(events(1)) == 1501
    await journal.aclose()
    assert await held(old) == (1500, events(1500), None)
    assert copy.exists()


async def test_a_backup_is_restored_where_nothing_is(tmp_path: Path) -> None:
    await made(tmp_path / "journal.db")
    backup(tmp_path / "journal.db", tmp_path / "copy.db")
    path = tmp_path / "new" / "journal.db"
    assert restore(tmp_path / "copy.db", path) is None
    assert await held(path) == (1000, events(1000), None)


async def test_nothing_is_restored_under_a_running_host(tmp_path: Path) -> None:
    path, copy = tmp_path / "journal.db", tmp_path / "copy.db"
    await made(path)
    backup(path, copy)
    journal, _ = await open_journal(path)
    with pytest.raises(HostRunning, match="stop it"):
        restore(copy, path)
    assert await journal.append(events(1)) == 1001
    await journal.aclose()


@pytest.mark.parametrize("how", ["cut off", "changed", "zeroed", "something else", "missing"])
async def test_what_is_no_whole_backup_is_not_restored(how: str, tmp_path: Path) -> None:
    path, copy = tmp_path / "journal.db", tmp_path / "copy.db"
    await made(path)
    backup(path, copy)
    data = copy.read_bytes()
    match how:
        case "cut off":
            copy.write_bytes(data[: len(data) // 2])
        case "changed":
            falsify(copy)
        case "zeroed":
            copy.write_bytes(bytes(4096) + data[4096:])
        case "something else":
            copy.write_bytes(b"notes" * 5000)
        case "missing":
            copy.unlink()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(JournalUnusable):
        restore(copy, path)
    assert [file for file in sorted(tmp_path.iterdir()) if ".building" not in file.name] == before
    assert await held(path) == (1000, events(1000), None)


async def test_a_journal_with_holes_can_be_backed_up(tmp_path: Path) -> None:
    path, copy = tmp_path / "journal.db", tmp_path / "copy.db"
    await made(path)
    falsify(path)
    journal, loss = await open_journal(path)
    await journal.append(events(1))
    await journal.aclose()
    assert loss is not None
    assert loss.lost == ((513, 1000),)
    assert backup(path, copy) == 1001
    assert (await held(copy))[0] == 1001
