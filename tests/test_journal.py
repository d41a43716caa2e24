"""The `Journal` protocol, kept by every way of keeping events: numbers without holes, and reading what is held."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventhost.event import EnvEvent
from eventhost.journal import Entry, Journal, JournalStatistics, MemoryJournal

Open = Callable[[], Journal]

JOURNALS: list[Open] = [MemoryJournal]
"""Each opens a journal of its kind, empty, that holds at least 10,000 events."""

each_journal = pytest.mark.parametrize("open_journal", JOURNALS, ids=[kind.__name__ for kind in JOURNALS])


def event(number: int) -> EnvEvent:
    return EnvEvent(str(number), "test.counted", number, {"source": "s", "source_name": "s"}, {"number": number})


def events(count: int, first: int = 1) -> list[EnvEvent]:
    return [event(number) for number in range(first, first + count)]


def seqs(entries: object) -> list[int]:
    return [entry.seq for entry in entries]  # type: ignore[attr-defined]


# --- what every journal promises ------------------------------------------------------------------------------------


@pytest.mark.anyio
@each_journal
async def test_an_empty_journal_holds_nothing(open_journal: Open) -> None:
    journal = open_journal()
    assert (journal.first, journal.head) == (1, 0)
    assert list(await journal.read(0, 10)) == []
    assert journal.statistics().overwritten == 0
    await journal.aclose()


@pytest.mark.anyio
@each_journal
async def test_sequence_numbers_begin_at_1_and_have_no_holes(open_journal: Open) -> None:
    journal = open_journal()
    assert await journal.append(events(1)) == 1
    assert await journal.append(events(3, first=2)) == 2
    assert await journal.append(events(1, first=5)) == 5
    assert (journal.first, journal.head) == (1, 5)
    entries = await journal.read(0, 100)
    assert seqs(entries) == [1, 2, 3, 4, 5]
    assert [entry.event for entry in entries] == events(5)
    await journal.aclose()


@pytest.mark.anyio
@each_journal
async def test_appending_nothing_takes_no_number(open_journal: Open) -> None:
    journal = open_journal()
    await journal.append([])
    assert journal.head == 0
    assert await journal.append(events(1)) == 1
    await journal.append([])
    assert await journal.append(events(1)) == 2
    await journal.aclose()


@pytest.mark.anyio
@each_journal
async def test_an_entry_says_when_it_was_accepted(open_journal: Open) -> None:
    journal = open_journal()
    before = int(time.time() * 1000)
    await journal.append(events(2))
    assert all(before <= entry.at_ms <= int(time.time() * 1000) for entry in await journal.read(0, 10))
    await journal.aclose()


@pytest.mark.anyio
@each_journal
async def test_a_reader_sees_only_what_follows_and_no_more_than_it_asked_for(open_journal: Open) -> None:
    journal = open_journal()
    await journal.append(events(10))
    assert seqs(await journal.read(0, 3)) == [1, 2, 3]
    assert seqs(await journal.read(3, 3)) == [4, 5, 6]
    assert seqs(await journal.read(8, 3)) == [9, 10]
    assert seqs(await journal.read(10, 3)) == []
    assert seqs(await journal.read(99, 3)) == []
    assert seqs(await journal.read(-5, 2)) == [1, 2]
    assert seqs(await journal.read(4, 0)) == []
    await journal.aclose()


@pytest.mark.anyio
@each_journal
async def test_what_was_appended_does_not_change_with_the_list_it_came_in(open_journal: Open) -> None:
    journal = open_journal()
    batch = events(2)
    await journal.append(batch)
    batch.clear()
    assert [entry.event for entry in await journal.read(0, 10)] == events(2)
    await journal.aclose()


@pytest.mark.anyio
@each_journal
async def test_batches_of_concurrent_writers_stay_contiguous(open_journal: Open) -> None:
    journal = open_journal()

    async def write(writer: int) -> None:
        for number in range(20):
            batch = events(3, first=writer * 1000 + number * 10)
            first = await journal.append(batch)
            written[first] = batch
            await anyio.lowlevel.checkpoint()

    written: dict[int, list[EnvEvent]] = {}
    async with anyio.create_task_group() as tasks:
        for writer in range(4):
            tasks.start_soon(write, writer)
    entries = await journal.read(0, 1000)
    assert seqs(entries) == list(range(1, 241))
    for first, batch in written.items():
        assert [entry.event for entry in entries[first - 1 : first + 2]] == batch
    await journal.aclose()


@each_journal
@given(
    st.lists(st.integers(0, 7), max_size=8), st.lists(st.tuples(st.integers(-2, 50), st.integers(0, 60)), max_size=8)
)
def test_reading_a_journal_is_slicing_a_list(
    open_journal: Open, sizes: list[int], windows: list[tuple[int, int]]
) -> None:
    async def main() -> None:
        journal = open_journal()
        model: list[EnvEvent] = []
        for size in sizes:
            batch = events(size, first=len(model) + 1)
            assert await journal.append(batch) == len(model) + 1
            model += batch
            assert journal.head == len(model)
        for after, limit in windows:
            start = max(after, 0)
            assert [(e.seq, e.event) for e in await journal.read(after, limit)] == [
                (number, model[number - 1]) for number in range(start + 1, min(start + limit, len(model)) + 1)
            ]
        await journal.aclose()

    anyio.run(main)


# --- in memory ------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_full_ring_overwrites_the_oldest_and_counts_it() -> None:
    journal = MemoryJournal(4)
    await journal.append(events(4))
    assert journal.statistics() == JournalStatistics("memory", 1, 4, overwritten=0)
    await journal.append(events(3, first=5))
    assert journal.statistics() == JournalStatistics("memory", 4, 7, overwritten=3)
    assert seqs(await journal.read(0, 10)) == [4, 5, 6, 7]
    assert seqs(await journal.read(2, 2)) == [4, 5]
    assert seqs(await journal.read(5, 10)) == [6, 7]


@pytest.mark.anyio
async def test_a_batch_larger_than_the_ring_leaves_its_end() -> None:
    journal = MemoryJournal(3)
    assert await journal.append(events(10)) == 1
    assert journal.statistics() == JournalStatistics("memory", 8, 10, overwritten=7)
    assert [entry.event for entry in await journal.read(0, 10)] == events(3, first=8)
    assert await journal.append(events(1, first=11)) == 11


@given(
    st.integers(1, 9),
    st.lists(st.integers(0, 12), max_size=8),
    st.lists(st.tuples(st.integers(-2, 60), st.integers(0, 12)), max_size=8),
)
def test_a_ring_reads_as_the_end_of_a_list(capacity: int, sizes: list[int], windows: list[tuple[int, int]]) -> None:
    async def main() -> None:
        journal = MemoryJournal(capacity)
        for size in sizes:
            await journal.append(events(size, first=journal.head + 1))
        held = range(max(0, sum(sizes) - capacity) + 1, sum(sizes) + 1)
        assert (journal.first, journal.head) == (held.start, held.stop - 1)
        assert journal.statistics().overwritten == held.start - 1
        for after, limit in windows:
            entries = await journal.read(after, limit)
            assert seqs(entries) == [seq for seq in held if seq > after][:limit]
            assert [entry.event for entry in entries] == [event(entry.seq) for entry in entries]

    anyio.run(main)


def test_a_ring_must_hold_something() -> None:
    for capacity in (0, -1):
        with pytest.raises(ValueError, match="capacity must be at least 1"):
            MemoryJournal(capacity)


@pytest.mark.anyio
async def test_a_closed_ring_has_let_go_of_its_events() -> None:
    journal = MemoryJournal()
    await journal.append(events(2))
    await journal.aclose()
    assert list(await journal.read(0, 10)) == []
    assert (journal.first, journal.head) == (3, 2)


def test_an_entry_is_not_to_be_changed() -> None:
    entry = Entry(1, 2, event(1))
    with pytest.raises(AttributeError):
        entry.seq = 2  # type: ignore[misc]
