"""A damaged journal: what is true of it is kept, what is lost is told, no number is given twice."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventhost.errors import JournalFailed, JournalUnusable
from eventhost.event import EnvEvent
from eventhost.journal import Change, DeadLetter, Entry, Loss, Pending, Position, SqliteJournal, Trace, open_journal
from eventhost.journal.block import Block
from eventhost.journal.lock import Lock
from eventhost.journal.pages import Pages
from eventhost.journal.schema import PAGE, ROOTS, TABLES, connect, tables

pytestmark = pytest.mark.anyio


def event(number: int) -> EnvEvent:
    payload = {"number": number, "text": "x" * (number % 50)}
    return EnvEvent(str(number), "test.counted", number, {"source": "s", "source_name": "s"}, payload)


def events(count: int, first: int = 1) -> list[EnvEvent]:
    return [event(number) for number in range(first, first + count)]


RUNS = [Pending("rule", seq, (seq,), 7) for seq in range(1, 200, 7)]
POSITIONS = [Position(f"rule-{number}", 400 + number, bool(number % 2), b'{"x":1}') for number in range(60)]
DEAD = [DeadLetter("rule", seq, 5, "webhook", "do[0]", 3, "refused", b"[]" * 40) for seq in range(1, 60)]
TRACES = [Trace(seq, "rule", b"{}" * 30) for seq in range(1, 100)]
COUNT = 1_400


async def fill(path: Path) -> None:
    """Events one by one and in batches, records of every kind, something trimmed; the last 100 events single."""
    journal, _ = await open_journal(path, "normal")
    await journal.append(events(500))
    await journal.save(Change(low=300, pending=RUNS, positions=POSITIONS, dead=DEAD, traces=TRACES))
    for number in range(501, 601):
        await journal.append(events(1, first=number))
    await journal.append(events(700, first=601))
    for number in range(1301, COUNT + 1):
        await journal.append(events(1, first=number))
    await journal.aclose()


async def fill_and_die(path: Path) -> None:
    """The same, and then as if the host had been killed: the newest events are in the log only."""
    with TemporaryDirectory() as folder:
        live = Path(folder) / "journal.db"
        await fill(live)
        journal, _ = await open_journal(live, "normal")
        for number in range(COUNT + 1, COUNT + 31):
            await journal.append(events(1, first=number))
        await journal.append(events(60, first=COUNT + 31))
        for file in Path(folder).iterdir():
            if not file.name.endswith("-shm"):
                shutil.copy(file, path.with_name(file.name))
        await journal.aclose()


class Filled(dict[str, dict[str, bytes]]):
    """Files by name, of several journals."""

    def __repr__(self) -> str:
        return "<files>"  # megabytes otherwise, in every report of a failure


@pytest.fixture(scope="module")
def filled() -> Filled:
    """The files of a journal that was closed, and of one whose host was killed; made once, for they are only copied."""
    made = Filled()
    for name, fill_it in (("closed", fill), ("killed", fill_and_die)):
        with TemporaryDirectory() as folder:
            path = Path(folder) / "journal.db"
            anyio.run(fill_it, path)
            made[name] = {file.name: file.read_bytes() for file in Path(folder).iterdir()}
    return made


def lay(files: dict[str, bytes], folder: Path) -> Path:
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder / "journal.db"


async def whole(journal: SqliteJournal) -> list[Entry]:
    return list(await journal.read(0, 100_000))


def overwrite(path: Path, start: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data)


def complain(path: Path) -> None:
    """Have it salvaged, though nothing is wrong with it."""
    lock = Lock(path)
    lock.complain("a test says so")
    lock.release()


def page_of(path: Path, table: str) -> int:
    return (ROOTS[table] - 1) * PAGE


async def true_and_told(path: Path, count: int, at_least: set[int] | None = None) -> tuple[list[int], Loss | None]:
    """Open until all can be read; what is there is true, and what is not was told."""
    losses = []
    for _ in range(3):
        journal, loss = await open_journal(path, "normal")
        if loss is not None:
            losses.append(loss)
        try:
            entries = await whole(journal)
            await journal.check()
        except JournalFailed:
            await journal.aclose()
            continue
        break
    else:
        pytest.fail("it is damaged still")
    seqs = [entry.seq for entry in entries]
    assert [entry.event for entry in entries] == [event(seq) for seq in seqs]
    told = {seq for loss in losses for first, last in loss.lost for seq in range(first, last + 1)}
    missing = set(range(1, count + 1)) - set(seqs)
    if any("mark" in loss.records for loss in losses):
        missing -= set(range(1, journal.first))  # nobody knows whether they had been trimmed
    assert missing <= told, "lost and not told"
    assert not told & set(seqs), "told to be lost, and there"
    if at_least is not None:
        assert at_least <= set(seqs), "undamaged and not kept"
    assert journal.head >= count, "a number could be given twice"
    head = journal.head
    assert await journal.append(events(1, first=head + 1)) == head + 1
    # What records there are is what was written.
    progress = await journal.progress()
    assert progress.low <= 300
    assert all(position in POSITIONS for position in progress.positions.values())
    assert all(run in RUNS for run in await journal.pending("rule", 0, 1000))
    assert {(letter.seq, letter.entries) for letter in await journal.dead_letters(None, 0, 1000)} <= {
        (letter.seq, letter.entries) for letter in DEAD
    }
    await journal.aclose()
    journal, loss = await open_journal(path, "normal")
    assert loss is None, "told, and the host came to its end"
    assert journal.head == head + 1
    assert [entry.seq for entry in await whole(journal)] == [*seqs, head + 1]
    await journal.aclose()
    return seqs, losses[-1] if losses else None


# --- what may happen to a file --------------------------------------------------------------------------------------


async def test_an_undamaged_journal_has_lost_nothing(filled: Filled, tmp_path: Path) -> None:
    seqs, loss = await true_and_told(lay(filled["closed"], tmp_path), COUNT)
    assert (len(seqs), loss) == (COUNT, None)


async def test_what_a_killed_host_left_in_the_log_is_there(filled: Filled, tmp_path: Path) -> None:
    assert len(filled["killed"]["journal.db-wal"]) > 30 * PAGE
    path = lay(filled["killed"], tmp_path)
    journal, loss = await open_journal(path)
    assert (journal.crashed, loss, journal.head) == (True, None, COUNT + 90)
    await journal.aclose()
    seqs, loss = await true_and_told(path, COUNT + 90)
    assert (len(seqs), loss) == (COUNT + 90, None)


async def test_with_its_first_page_gone_nothing_is_lost(filled: Filled, tmp_path: Path) -> None:
    path = lay(filled["closed"], tmp_path)
    overwrite(path, 0, bytes(PAGE))
    seqs, loss = await true_and_told(path, COUNT)
    assert len(seqs) == COUNT
    assert loss is not None
    assert (loss.lost, loss.records, loss.count, loss.first, loss.last) == ((), (), 0, None, None)
    assert Path(loss.aside).read_bytes()[PAGE:] == filled["closed"]["journal.db"][PAGE:]


async def test_records_come_through_whole(filled: Filled, tmp_path: Path) -> None:
    path = lay(filled["killed"], tmp_path)
    complain(path)
    journal, loss = await open_journal(path)
    assert loss is not None
    assert (loss.lost, loss.records) == ((), ())
    assert (await journal.progress()).low == 300
    assert await journal.pending("rule", 0, 1000) == RUNS
    assert (await journal.progress()).positions == {position.rule: position for position in POSITIONS}
    assert [letter.seq for letter in await journal.dead_letters(None, 0, 1000)] == [letter.seq for letter in DEAD]
    for trace in TRACES:
        assert await journal.traces(trace.seq) == [trace]
    await journal.aclose()


async def test_a_block_that_is_changed_by_one_bit_is_lost_alone(filled: Filled, tmp_path: Path) -> None:
    data = filled["closed"]["journal.db"]
    path = lay(filled["closed"], tmp_path)
    # Within a text: without the seal it would be another event.
    overwrite(path, data.index(b'"550"'), b'"551"')
    _, loss = await true_and_told(path, COUNT, set(range(1, COUNT + 1)) - {550})
    assert loss is not None
    assert (loss.lost, loss.records) == (((550, 550),), ())
    assert "550" in loss.damage


async def test_damage_that_is_found_while_it_runs_ends_the_journal_and_is_mended_by_the_next(
    filled: Filled, tmp_path: Path
) -> None:
    path = lay(filled["closed"], tmp_path)
    overwrite(path, filled["closed"]["journal.db"].index(b'"550"'), b'"551"')
    journal, loss = await open_journal(path)
    assert loss is None, "a short look does not find it"
    assert len(await journal.read(0, 500)) == 500
    with pytest.raises(JournalFailed, match="550"):
        await journal.read(500, 200)
    assert "550" in (journal.statistics().failed or "")
    with pytest.raises(JournalFailed, match="start the host anew"):
        await journal.append(events(1))
    await journal.aclose()
    journal, loss = await open_journal(path)
    assert loss is not None
    assert loss.lost == ((550, 550),)
    await journal.aclose()


async def test_events_that_sqlite_passes_over_in_silence_are_missed(filled: Filled, tmp_path: Path) -> None:
    path = lay(filled["closed"], tmp_path)
    database = sqlite3.connect(path)
    database.execute("DELETE FROM block WHERE first = 560")
    database.commit()
    database.close()
    journal, _ = await open_journal(path)
    assert [entry.seq for entry in await journal.read(555, 4)] == [556, 557, 558, 559]
    with pytest.raises(JournalFailed, match="events 560 to 560 are not to be found"):
        await journal.read(555, 5)
    await journal.aclose()
    _, loss = await true_and_told(path, COUNT, set(range(1, COUNT + 1)) - {560})
    assert loss is not None
    assert loss.lost == ((560, 560),)


async def test_a_file_that_is_cut_off_keeps_what_it_still_holds(filled: Filled, tmp_path: Path) -> None:
    path = lay(filled["closed"], tmp_path)
    os.truncate(path, path.stat().st_size - 5 * PAGE - 100)
    seqs, loss = await true_and_told(path, COUNT)
    assert loss is not None
    assert 600 < len(seqs) < COUNT


@pytest.mark.parametrize("kind", ["position", "pending", "dead", "trace", "mark"])
async def test_which_records_suffered_is_told(kind: str, filled: Filled, tmp_path: Path) -> None:
    path = lay(filled["closed"], tmp_path)
    overwrite(path, page_of(path, kind), bytes(PAGE))
    overwrite(path, 0, bytes(100))
    journal, loss = await open_journal(path)
    assert loss is not None
    assert (loss.lost, loss.records) == ((), (kind,))
    assert len(await whole(journal)) == COUNT
    await journal.aclose()


async def test_without_its_mark_a_journal_knows_from_its_events_what_had_been_delivered(
    filled: Filled, tmp_path: Path
) -> None:
    path = lay(filled["closed"], tmp_path)
    overwrite(path, page_of(path, "mark"), bytes(PAGE))
    journal, loss = await open_journal(path)
    assert loss is not None
    assert loss.records == ("mark",)
    assert (await journal.progress()).low == 300
    assert (journal.first, journal.head) == (1, COUNT)
    await journal.aclose()


async def test_a_log_that_is_gone_is_missed(filled: Filled, tmp_path: Path) -> None:
    path = lay(filled["killed"], tmp_path)
    path.with_name("journal.db-wal").unlink()
    seqs, loss = await true_and_told(path, COUNT + 90)
    assert loss is not None
    assert (len(seqs), loss.lost) == (COUNT, ((COUNT + 1, COUNT + 90),))
    assert "were kept" in loss.damage


async def test_one_bad_page_in_the_log_does_not_take_the_later_ones_along(filled: Filled, tmp_path: Path) -> None:
    path = lay(filled["killed"], tmp_path)
    log = path.with_name("journal.db-wal")
    frames = (log.stat().st_size - 32) // (24 + PAGE)
    assert frames > 60
    overwrite(log, 32 + 20 * (24 + PAGE) + 24 + 3000, b"\xff" * 50)
    seqs, loss = await true_and_told(path, COUNT + 90, set(range(1, COUNT + 1)))
    assert loss is not None
    assert COUNT + 90 in seqs
    assert loss.count <= 20


async def test_a_torn_log_ends_where_it_is_torn(filled: Filled, tmp_path: Path) -> None:
    path = lay(filled["killed"], tmp_path)
    log = path.with_name("journal.db-wal")
    os.truncate(log, log.stat().st_size // 2)
    seqs, loss = await true_and_told(path, COUNT + 90, set(range(1, COUNT + 1)))
    assert loss is not None
    assert loss.lost == ((len(seqs) + 1, COUNT + 90),)


async def test_a_journal_that_is_gone_goes_on_with_its_numbers(filled: Filled, tmp_path: Path) -> None:
    path = lay(filled["closed"], tmp_path)
    path.unlink()
    journal, loss = await open_journal(path)
    assert loss is not None
    assert (loss.lost, loss.aside) == (((1, COUNT),), "")
    assert await journal.append(events(1)) == COUNT + 1
    await journal.aclose()


async def test_numbers_leap_where_nothing_knows_how_far_they_had_come(filled: Filled, tmp_path: Path) -> None:
    path = lay(filled["closed"], tmp_path)
    path.with_name("journal.db.lock").unlink()
    overwrite(path, page_of(path, "mark"), bytes(PAGE))
    journal, loss = await open_journal(path)
    assert loss is not None
    assert loss.lost == ((COUNT + 1, COUNT + 1_000_000),)
    assert await journal.append(events(1)) == COUNT + 1_000_001
    assert [entry.seq for entry in await journal.read(COUNT - 1, 2)] == [COUNT, COUNT + 1_000_001]
    await journal.aclose()


async def test_what_was_lost_is_told_again_until_a_host_that_knows_of_it_ends(filled: Filled, tmp_path: Path) -> None:
    path = lay(filled["killed"], tmp_path)
    path.with_name("journal.db-wal").unlink()
    journal, loss = await open_journal(path)
    dead_again = tmp_path / "again"
    dead_again.mkdir()
    for file in tmp_path.glob("journal.db*"):
        shutil.copy(file, dead_again / file.name)
    await journal.aclose()
    journal, again = await open_journal(dead_again / "journal.db")
    assert again == loss
    assert loss is not None
    await journal.aclose()
    journal, again = await open_journal(dead_again / "journal.db")
    assert again is None
    await journal.aclose()


async def test_what_was_trimmed_does_not_come_back(filled: Filled, tmp_path: Path) -> None:
    path = lay(filled["closed"], tmp_path)
    journal, _ = await open_journal(path)
    journal.trim(900)
    await journal.append(events(1, first=COUNT + 1))
    await journal.aclose()
    overwrite(path, 0, bytes(PAGE))
    journal, loss = await open_journal(path)
    assert loss is not None
    assert loss.lost == ()
    assert [entry.seq for entry in await whole(journal)] == list(range(901, COUNT + 2))
    await journal.aclose()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"my precious notes\n" * 500, "is not a journal of eventhost"),
        (b"SQLite format 3\0" + b"\0" * 5000, "is not a journal of eventhost"),
        (b"x", "is not a journal of eventhost"),
    ],
)
async def test_a_file_that_never_was_a_journal_is_left_alone(text: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(text)
    for _ in range(2):
        with pytest.raises(JournalUnusable, match=reason):
            await open_journal(path)
    assert path.read_bytes() == text


async def test_somebody_elses_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE user(name)")
    database.close()
    before = path.read_bytes()
    with pytest.raises(JournalUnusable, match="is not a journal of eventhost; name another file"):
        await open_journal(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("stop", ["building", "ready", "log moved", "old moved"])
async def test_a_host_that_is_killed_while_it_salvages_is_followed_by_one_that_ends_it(
    stop: str, filled: Filled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = lay(filled["killed"], tmp_path)
    complain(path)
    left = {"building": 0, "ready": 1, "log moved": 2, "old moved": 3}[stop]
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        await open_journal(path)
    monkeypatch.undo()
    journal, loss = await open_journal(path)
    assert loss is not None
    assert (loss.lost, loss.records) == ((), ())
    assert [entry.seq for entry in await whole(journal)] == list(range(1, COUNT + 91))
    await journal.aclose()
    assert sorted(file.name.partition("journal.db")[2].split("-2")[0] for file in tmp_path.iterdir()) == sorted(
        ["", ".lock", ".damaged", ".damaged"]
    )


EXAMPLES = int(os.environ.get("EVENTHOST_EXAMPLES", "40"))

# --- any damage -----------------------------------------------------------------------------------------------------

damages = st.lists(
    st.tuples(
        st.sampled_from(["flip", "zero page", "random page", "truncate", "swap pages", "garbage"]),
        st.sampled_from(["journal.db", "journal.db-wal"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 2**32 - 1),
    ),
    min_size=1,
    max_size=4,
)


def damage(files: dict[str, bytes], kind: str, name: str, where: float, seed: int) -> None:
    data = bytearray(files.get(name) or files["journal.db"])
    name = name if name in files else "journal.db"
    if not data:
        return
    random, at = Random(seed), int(where * len(data))
    page = at // PAGE * PAGE
    match kind:
        case "flip":
            data[at] ^= 1 << seed % 8
        case "zero page":
            data[page : page + PAGE] = bytes(len(data[page : page + PAGE]))
        case "random page":
            data[page : page + PAGE] = random.randbytes(len(data[page : page + PAGE]))
        case "truncate":
            del data[at:]
        case "swap pages":
            other = seed % max(1, len(data) // PAGE) * PAGE
            one, two = data[page : page + PAGE], data[other : other + PAGE]
            if len(one) == len(two):
                data[page : page + PAGE], data[other : other + PAGE] = two, one
        case "garbage":
            length = seed % 600
            data[at : at + length] = random.randbytes(len(data[at : at + length]))
    files[name] = bytes(data)


def undamaged(before: dict[str, bytes], after: dict[str, bytes]) -> set[int]:
    """The events of all blocks of which no page has changed, of those in the file that the log does not replace."""

    def blocks(files: dict[str, bytes]) -> set[Block]:
        with TemporaryDirectory() as folder:
            path = lay(files, Path(folder))
            with Pages(path) as pages:
                replaced = set(pages._newer)
            data = bytearray(files["journal.db"])
            for number in replaced:
                # Put in a wrong place, a page is lost there too.
                data[(number - 1) * PAGE : number * PAGE] = bytes(PAGE)
            path.write_bytes(data)
            path.with_name("journal.db-wal").unlink(missing_ok=True)
            with Pages(path) as pages:
                rows = {row for row in pages.scattered() if len(row) == 6 and all(type(v) is int for v in row[:5])}
            return {block for row in rows if (block := Block(*row)).true}

    held = blocks(before) & blocks(after)
    return {seq for block in held for seq in range(block.first, block.last + 1)}


@pytest.mark.parametrize("state", ["closed", "killed"])
@given(damages=damages)
@settings(deadline=None, max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_damaged_what_comes_out_is_true_and_the_rest_is_told(
    state: str, filled: Filled, damages: list[tuple[str, str, float, int]]
) -> None:
    files = dict(filled[state])
    for one in damages:
        damage(files, *one)

    async def main() -> None:
        with TemporaryDirectory() as folder:
            path = lay(files, Path(folder))
            count = COUNT if state == "closed" else COUNT + 90
            await true_and_told(path, count, undamaged(filled[state], files))

    anyio.run(main)


@pytest.mark.parametrize("state", ["closed", "killed"])
def test_whichever_page_is_lost_the_journal_opens_and_tells_it(state: str, filled: Filled) -> None:
    async def main() -> None:
        for page in range(len(filled[state]["journal.db"]) // PAGE):
            files = dict(filled[state])
            damage(files, "zero page", "journal.db", page * PAGE / len(files["journal.db"]), 0)
            with TemporaryDirectory() as folder:
                path = lay(files, Path(folder))
                count = COUNT if state == "closed" else COUNT + 90
                await true_and_told(path, count, undamaged(filled[state], files))

    anyio.run(main)


# --- what it rests on -----------------------------------------------------------------------------------------------


def test_each_table_begins_at_the_same_page_in_a_file_as_in_memory(tmp_path: Path) -> None:
    database = connect(tmp_path / "journal.db")
    assert tables(database) == TABLES
    database.close()


def read_without_sqlite(path: Path) -> Callable[[str], list[tuple[object, ...]]]:
    def read(table: str) -> list[tuple[object, ...]]:
        with Pages(path) as pages:
            found = list(pages.rows(ROOTS[table]))
        assert None not in found
        return sorted(found)  # type: ignore[type-var]

    return read


@pytest.mark.parametrize("state", ["closed", "killed"])
async def test_rows_read_without_sqlite_are_those_that_sqlite_reads(state: str, filled: Filled, tmp_path: Path) -> None:
    path = lay(filled[state], tmp_path)
    read = read_without_sqlite(path)
    found = {table: read(table) for table in ("mark", "block", "position", "pending", "dead", "trace")}
    database = sqlite3.connect(path)
    for table, rows in found.items():
        assert rows == sorted(database.execute(f"SELECT * FROM {table}")), table
        assert rows
    database.close()
