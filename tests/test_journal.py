"""The `Journal` protocol, kept by every way of keeping events: numbers without holes, reading what is held, records.

Nothing here assumes that a journal is in this process, nor that it is the only one to use it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventhost.errors import BusClosed
from eventhost.event import EnvEvent
from eventhost.journal import (
    Change,
    DeadLetter,
    Entry,
    Journal,
    JournalStatistics,
    LettersHeld,
    MemoryJournal,
    Pending,
    Position,
    Progress,
    Trace,
    open_journal,
)

Open = Callable[[], AbstractAsyncContextManager[Journal]]


@asynccontextmanager
async def memory() -> AsyncIterator[Journal]:
    journal = MemoryJournal()
    yield journal
    await journal.aclose()


@asynccontextmanager
async def sqlite() -> AsyncIterator[Journal]:
    with TemporaryDirectory() as folder:
        journal, loss = await open_journal(Path(folder) / "journal.db", "normal")
        assert loss is None
        yield journal
        await journal.aclose()


JOURNALS: list[Open] = [memory, sqlite]
"""Each opens a journal of its kind, empty, that holds at least 10,000 events."""

each_journal = pytest.mark.parametrize("opened", JOURNALS, ids=[kind.__name__ for kind in JOURNALS])


def event(number: int) -> EnvEvent:
    return EnvEvent(str(number), "test.counted", number, {"source": "s", "source_name": "s"}, {"number": number})


def events(count: int, first: int = 1) -> list[EnvEvent]:
    return [event(number) for number in range(first, first + count)]


def seqs(entries: Iterable[Entry]) -> list[int]:
    return [entry.seq for entry in entries]


def dead(rule: str, seq: int) -> DeadLetter:
    return DeadLetter(rule, seq, 5, "webhook", "do[0]", 3, f"refused {seq}", b"[]")


# --- numbers and reading --------------------------------------------------------------------------------------------


@pytest.mark.anyio
@each_journal
async def test_an_empty_journal_holds_nothing(opened: Open) -> None:
    async with opened() as journal:
        assert (journal.first, journal.head) == (1, 0)
        assert list(await journal.read(0, 10)) == []
        assert await journal.entries([1, 2]) == []
        assert await journal.seq_at(0) == 1
        assert await journal.progress() == Progress(0, {}, {}, None)
        assert journal.statistics().overwritten == 0
        assert not journal.crashed


@pytest.mark.anyio
@each_journal
async def test_sequence_numbers_begin_at_1_and_have_no_holes(opened: Open) -> None:
    async with opened() as journal:
        assert await journal.append(events(1)) == 1
        assert await journal.append(events(3, first=2)) == 2
        assert await journal.append(events(1, first=5)) == 5
        assert (journal.first, journal.head) == (1, 5)
        entries = await journal.read(0, 100)
        assert seqs(entries) == [1, 2, 3, 4, 5]
        assert [entry.event for entry in entries] == events(5)


@pytest.mark.anyio
@each_journal
async def test_appending_nothing_takes_no_number(opened: Open) -> None:
    async with opened() as journal:
        await journal.append([])
        assert journal.head == 0
        assert await journal.append(events(1)) == 1
        await journal.append([])
        assert await journal.append(events(1)) == 2
        assert seqs(await journal.read(0, 10)) == [1, 2]


@pytest.mark.anyio
@each_journal
async def test_an_entry_says_when_it_was_accepted(opened: Open) -> None:
    async with opened() as journal:
        before = int(time.time() * 1000)
        await journal.append(events(2))
        assert all(before <= entry.at_ms <= int(time.time() * 1000) for entry in await journal.read(0, 10))


@pytest.mark.anyio
@each_journal
async def test_time_does_not_go_back_when_the_clock_does(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as journal:
        for now_s, expected in ((1000.0, 1_000_000), (2000.0, 2_000_000), (500.0, 2_000_000), (2000.5, 2_000_500)):
            monkeypatch.setattr(time, "time", lambda now_s=now_s: now_s)
            first = await journal.append(events(2))
            assert [entry.at_ms for entry in await journal.read(first - 1, 10)] == [expected, expected]
            monkeypatch.setattr(time, "time", lambda: 1.0)
            assert await journal.clock() == expected


@pytest.mark.anyio
@each_journal
async def test_no_entry_is_older_than_the_clock_told_before_it(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as journal:
        monkeypatch.setattr(time, "time", lambda: 3000.0)
        told = await journal.clock()
        assert told == 3_000_000
        monkeypatch.setattr(time, "time", lambda: 10.0)
        await journal.append(events(1))
        assert [entry.at_ms for entry in await journal.read(0, 1)] == [told]


@pytest.mark.anyio
@each_journal
async def test_what_the_clock_told_can_all_be_read(opened: Open) -> None:
    async with opened() as journal:
        told: list[tuple[int, int]] = []

        async def append(number: int) -> None:
            await journal.append(events(3, first=number))

        async def ask() -> None:
            now_ms = await journal.clock()
            told.append((now_ms, journal.head))

        async with anyio.create_task_group() as tasks:
            for number in range(40):
                tasks.start_soon(append, number)
                tasks.start_soon(ask)
        entries = await journal.read(0, 1000)
        for now_ms, head in told:
            assert all(entry.at_ms >= now_ms for entry in entries[head:])


@pytest.mark.anyio
@each_journal
async def test_the_number_at_a_time_is_that_of_the_first_so_young(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened() as journal:
        times = [1, 1, 2, 5, 5, 5, 9, 12]
        for at_s in times:
            monkeypatch.setattr(time, "time", lambda at_s=at_s: float(at_s))
            await journal.append(events(3))
        ats = [at_s * 1000 for at_s in times for _ in range(3)]
        for at_ms in (*range(0, 13_000, 500), 999, 1001, 99_000):
            expected = next((seq for seq, at in enumerate(ats, 1) if at >= at_ms), len(ats) + 1)
            assert await journal.seq_at(at_ms) == expected, at_ms
        journal.trim(10)
        assert await journal.seq_at(0) == 11
        assert await journal.seq_at(5_000) == 11
        assert await journal.seq_at(9_000) == 19
        assert await journal.seq_at(99_000) == 25


@pytest.mark.anyio
@each_journal
async def test_a_reader_sees_only_what_follows_and_no_more_than_it_asked_for(opened: Open) -> None:
    async with opened() as journal:
        await journal.append(events(10))
        assert seqs(await journal.read(0, 3)) == [1, 2, 3]
        assert seqs(await journal.read(3, 3)) == [4, 5, 6]
        assert seqs(await journal.read(8, 3)) == [9, 10]
        assert seqs(await journal.read(10, 3)) == []
        assert seqs(await journal.read(99, 3)) == []
        assert seqs(await journal.read(-5, 2)) == [1, 2]
        assert seqs(await journal.read(4, 0)) == []


@pytest.mark.anyio
@each_journal
async def test_entries_come_in_the_order_in_which_they_are_asked_for(opened: Open) -> None:
    async with opened() as journal:
        await journal.append(events(10))
        assert [entry.event for entry in await journal.entries([7, 2, 2, 99, 0, -1, 10])] == [
            event(number) for number in (7, 2, 2, 10)
        ]
        journal.trim(5)
        assert seqs(await journal.entries([5, 6, 1, 10])) == [6, 10]


@pytest.mark.anyio
@each_journal
async def test_what_was_appended_does_not_change_with_the_list_it_came_in(opened: Open) -> None:
    async with opened() as journal:
        batch = events(2)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(journal.append, batch)
            await anyio.lowlevel.checkpoint()
            batch.clear()
        assert [entry.event for entry in await journal.read(0, 10)] == events(2)


@pytest.mark.anyio
@each_journal
async def test_any_text_and_number_comes_back_as_it_went_in(opened: Open) -> None:
    payload = {"text": 'ü\n"\\\0💧\u2028', "n": 2**63, "f": 1.5e300, "none": None, "deep": [[[{"a": [True, False]}]]]}
    odd = EnvEvent("é" * 512, "t", -(2**53), {"source": "s", "source_name": "s"}, payload)
    async with opened() as journal:
        await journal.append([odd])
        await journal.append(events(9_000))  # so that it is not read from what was just appended
        assert (await journal.read(0, 1))[0].event == odd


@pytest.mark.anyio
@each_journal
async def test_batches_of_concurrent_writers_stay_contiguous(opened: Open) -> None:
    async with opened() as journal:

        async def write(writer: int) -> None:
            for number in range(20):
                batch = events(3, first=writer * 1000 + number * 10)
                first = await journal.append(batch)
                written[first] = batch
                await anyio.lowlevel.checkpoint()

        written: dict[int, list[EnvEvent]] = {}
        async with anyio.create_task_group() as tasks:
            for writer in range(40):
                tasks.start_soon(write, writer)
        entries = await journal.read(0, 10_000)
        assert seqs(entries) == list(range(1, 2401))
        for first, batch in written.items():
            assert [entry.event for entry in entries[first - 1 : first + 2]] == batch


@pytest.mark.anyio
@each_journal
async def test_appends_end_in_the_order_in_which_they_were_begun(opened: Open) -> None:
    async with opened() as journal:
        ended: list[int] = []

        async def append(number: int) -> None:
            ended.append(await journal.append(events(number % 4, first=number)))

        async with anyio.create_task_group() as tasks:
            for number in range(200):
                tasks.start_soon(append, number)
        assert ended == sorted(ended)
        assert ended[-1] == journal.head - 200 % 4 - 2


@pytest.mark.anyio
@each_journal
async def test_who_gives_up_waiting_disturbs_nobody(opened: Open) -> None:
    async with opened() as journal:
        numbers: list[int] = []

        async def append() -> None:
            numbers.append(await journal.append(events(2)))

        for _ in range(20):
            async with anyio.create_task_group() as tasks:
                with anyio.move_on_after(0):
                    await journal.append(events(1))
                tasks.start_soon(append)
                with anyio.move_on_after(0):
                    await journal.save(Change(low=1))
                with anyio.move_on_after(0):
                    await journal.clock()
                tasks.start_soon(append)
        assert len(numbers) == 40
        entries = await journal.read(0, 1000)
        assert seqs(entries) == list(range(1, journal.head + 1))
        for number in numbers:
            assert [entry.event for entry in entries[number - 1 : number + 1]] == events(2)


@each_journal
@given(
    st.lists(st.integers(0, 7), max_size=8), st.lists(st.tuples(st.integers(-2, 50), st.integers(0, 60)), max_size=8)
)
@settings(deadline=None, max_examples=40)
def test_reading_a_journal_is_slicing_a_list(opened: Open, sizes: list[int], windows: list[tuple[int, int]]) -> None:
    async def main() -> None:
        async with opened() as journal:
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

    anyio.run(main)


# --- records --------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@each_journal
async def test_every_part_of_a_change_is_kept(opened: Open) -> None:
    async with opened() as journal:
        await journal.append(events(9))
        runs = [Pending("a", 3, (3,), 10), Pending("a", 5, (2, 4, 5), 11, 2, 7), Pending("b", 3, (1,), 12)]
        positions = [Position("a", 6), Position("b", 4, True, b'{"open":[1]}')]
        letters = [dead("a", 1), dead("b", 2)]
        marks = [Trace(3, "b", b"{}"), Trace(3, "a", b"[1]"), Trace(4, "a", b"[2]")]
        await journal.save(Change(low=2, pending=runs, dead=letters, positions=positions, traces=marks))
        assert await journal.progress() == Progress(2, {"a": positions[0], "b": positions[1]}, {"a": 2, "b": 1}, 1)
        assert await journal.pending("a", 0, 10) == runs[:2]
        assert await journal.pending("a", 3, 10) == [runs[1]]
        assert await journal.pending("a", 0, 1) == [runs[0]]
        assert await journal.pending("b", 0, 10) == [runs[2]]
        assert await journal.pending("nobody", 0, 10) == []
        found = await journal.dead_letters(None, 0, 10)
        assert [msgspec.structs.replace(letter, id=0) for letter in found] == letters
        assert found[0].id < found[1].id
        assert await journal.dead_letters("b", 0, 10) == [found[1]]
        assert await journal.dead_letters(None, found[0].id, 10) == [found[1]]
        assert await journal.dead_letters(None, 0, 1) == [found[0]]
        assert await journal.dead_letters("nobody", 0, 10) == []
        assert await journal.traces(3) == [marks[1], marks[0]]
        assert await journal.traces(5) == []


@pytest.mark.anyio
@each_journal
async def test_runs_that_ended_and_letters_that_were_dealt_with_are_gone(opened: Open) -> None:
    async with opened() as journal:
        runs = [Pending("a", seq, (seq,), 1) for seq in (1, 2, 3)]
        await journal.save(Change(pending=runs, dead=[dead("a", 1), dead("a", 2)]))
        first, second = await journal.dead_letters(None, 0, 10)
        await journal.save(Change(ended=[("a", 2), ("a", 99), ("nobody", 1)], buried=[first.id, 999_999]))
        assert await journal.pending("a", 0, 10) == [runs[0], runs[2]]
        assert await journal.dead_letters(None, 0, 10) == [second]
        await journal.save(Change(buried=[second.id]))
        await journal.save(Change(dead=[dead("a", 3)]))
        (third,) = await journal.dead_letters(None, 0, 10)
        assert third.id > second.id, "an id is given once"


@pytest.mark.anyio
@each_journal
async def test_dead_letters_are_weighed_and_large_ones_read_a_few_at_a_time(opened: Open) -> None:
    async with opened() as journal:
        assert (await journal.letters_held(), await journal.oldest_letters(9)) == (LettersHeld(0, 0), [])
        sizes = [3_000_000, 1_000_000, 10, 9_000_000, 20]
        letters = [
            msgspec.structs.replace(dead("a", seq), entries=b"x" * size) for seq, size in enumerate(sizes, start=1)
        ]
        await journal.save(Change(dead=letters))
        assert await journal.letters_held() == LettersHeld(5, sum(sizes))
        oldest = await journal.oldest_letters(3)
        assert [(letter.rule, letter.seq, letter.size) for letter in oldest] == [
            ("a", seq, size) for seq, size in enumerate(sizes[:3], start=1)
        ]
        pages, last = [], 0
        while found := await journal.dead_letters(None, last, 99):
            pages.append([letter.seq for letter in found])
            last = found[-1].id
        assert pages == [[1, 2, 3], [4], [5]]
        await journal.save(Change(buried=[letter.id for letter in oldest]))
        assert await journal.letters_held() == LettersHeld(2, sum(sizes[3:]))
        assert [letter.seq for letter in await journal.oldest_letters(9)] == [4, 5]


@pytest.mark.anyio
@each_journal
async def test_a_record_that_is_saved_again_takes_the_place_of_the_old(opened: Open) -> None:
    async with opened() as journal:
        await journal.save(
            Change(
                pending=[Pending("a", 1, (1,), 1)],
                positions=[Position("a", 1, True, b"x")],
                traces=[Trace(1, "a", b"1")],
            )
        )
        await journal.append(events(1))
        again = Change(
            pending=[Pending("a", 1, (1,), 1, attempts=4)], positions=[Position("a", 7)], traces=[Trace(1, "a", b"2")]
        )
        await journal.save(again)
        assert await journal.pending("a", 0, 10) == list(again.pending)
        assert (await journal.progress()).positions == {"a": Position("a", 7)}
        assert await journal.traces(1) == list(again.traces)


@pytest.mark.anyio
@each_journal
async def test_within_one_change_what_is_owed_comes_before_what_has_ended(opened: Open) -> None:
    async with opened() as journal:
        await journal.save(
            Change(
                gone=["a"],
                pending=[Pending("a", 1, (1,), 1), Pending("a", 2, (2,), 1)],
                ended=[("a", 1)],
                positions=[Position("a", 2)],
            )
        )
        assert seqs_of(await journal.pending("a", 0, 10)) == [2], "made and ended at once: it has ended"
        assert (await journal.progress()).positions == {"a": Position("a", 2)}, "the rule that is new is not gone"


def seqs_of(runs: Sequence[Pending]) -> list[int]:
    return [run.seq for run in runs]


@pytest.mark.anyio
@each_journal
async def test_a_rule_that_is_gone_leaves_its_dead_letters_only(opened: Open) -> None:
    async with opened() as journal:
        for rule in "ab":
            await journal.save(
                Change(pending=[Pending(rule, 1, (1,), 1)], positions=[Position(rule, 1)], dead=[dead(rule, 1)])
            )
        await journal.save(Change(gone=["a", "nobody"]))
        progress = await journal.progress()
        assert (set(progress.positions), progress.pending) == ({"b"}, {"b": 1})
        assert [letter.rule for letter in await journal.dead_letters(None, 0, 10)] == ["a", "b"]


@pytest.mark.anyio
@each_journal
async def test_the_low_mark_never_goes_back(opened: Open) -> None:
    async with opened() as journal:
        for low, expected in ((5, 5), (3, 5), (None, 5), (7, 7), (0, 7)):
            await journal.save(Change(low=low))
            assert (await journal.progress()).low == expected


@pytest.mark.anyio
@each_journal
async def test_changes_are_saved_in_the_order_of_calls_though_nobody_waits(opened: Open) -> None:
    async with opened() as journal:
        async with anyio.create_task_group() as tasks:
            for number in range(100):
                run = Pending("a", number, (number,), 1)
                tasks.start_soon(journal.save, Change(pending=[run], positions=[Position("a", number)]))
                tasks.start_soon(journal.append, events(1))
                if number % 2:
                    tasks.start_soon(journal.save, Change(ended=[("a", number)]))
        assert (await journal.progress()).positions["a"].seq == 99
        assert seqs_of(await journal.pending("a", -1, 100)) == list(range(0, 100, 2))


@pytest.mark.anyio
@each_journal
async def test_the_oldest_event_that_is_owed_is_known(opened: Open) -> None:
    async with opened() as journal:
        await journal.save(Change(pending=[Pending("a", 9, (4, 9), 1), Pending("b", 6, (6,), 1)]))
        assert (await journal.progress()).oldest == 4
        await journal.save(Change(ended=[("a", 9)]))
        assert (await journal.progress()).oldest == 6
        await journal.save(Change(ended=[("b", 6)]))
        assert (await journal.progress()).oldest is None


@pytest.mark.anyio
@each_journal
async def test_an_error_may_hold_what_is_no_text(opened: Open) -> None:
    async with opened() as journal:
        letter = msgspec.structs.replace(dead("a", 1), error="exit 1: \udcff\0")
        await journal.save(Change(dead=[letter]))
        (found,) = await journal.dead_letters("a", 0, 1)
        assert found.error.startswith("exit 1: ")
        assert await journal.append(events(1)) == 1


# --- trimming and closing -------------------------------------------------------------------------------------------


@pytest.mark.anyio
@each_journal
async def test_what_is_trimmed_is_not_held_from_that_moment_on(opened: Open) -> None:
    async with opened() as journal:
        await journal.append(events(600))
        await journal.save(Change(traces=[Trace(3, "a", b"1"), Trace(9, "a", b"2")]))
        journal.trim(5)
        assert (journal.first, journal.head) == (6, 600)
        assert seqs(await journal.read(0, 3)) == [6, 7, 8]
        assert await journal.traces(3) == []
        assert len(await journal.traces(9)) == 1
        journal.trim(2)
        assert journal.first == 6, "never back"
        assert journal.statistics().overwritten == 5


@pytest.mark.anyio
@each_journal
async def test_numbers_go_on_when_everything_was_trimmed(opened: Open) -> None:
    async with opened() as journal:
        await journal.append(events(3))
        journal.trim(99)
        assert (journal.first, journal.head) == (4, 3)
        assert list(await journal.read(0, 10)) == []
        assert await journal.append(events(1)) == 4
        assert seqs(await journal.read(0, 10)) == [4]


@pytest.mark.anyio
@each_journal
async def test_records_outlive_the_events_that_are_trimmed(opened: Open) -> None:
    async with opened() as journal:
        await journal.append(events(9))
        await journal.save(Change(low=9, positions=[Position("a", 9)], dead=[dead("a", 2)]))
        journal.trim(9)
        await journal.append(events(1))
        assert (await journal.progress()).positions == {"a": Position("a", 9)}
        assert len(await journal.dead_letters("a", 0, 10)) == 1


@pytest.mark.anyio
@each_journal
async def test_a_closed_journal_accepts_and_holds_nothing(opened: Open) -> None:
    async with opened() as journal:
        await journal.append(events(3))
        await journal.aclose()
        for refused in (journal.append(events(1)), journal.save(Change()), journal.clock(), journal.progress()):
            with pytest.raises(BusClosed, match="host is stopping"):
                await refused
        assert (journal.first, journal.head) == (4, 3)
        assert list(await journal.read(0, 10)) == []
        assert await journal.entries([1, 2]) == []
        journal.trim(3)
        await journal.aclose()


@pytest.mark.anyio
@each_journal
async def test_what_was_begun_before_closing_is_kept(opened: Open) -> None:
    async with opened() as journal:
        numbers: list[int] = []

        async def append() -> None:
            numbers.append(await journal.append(events(1)))

        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(append)
            await anyio.lowlevel.checkpoint()
            await journal.aclose()
        assert numbers == list(range(1, 11))


# --- any interleaving -----------------------------------------------------------------------------------------------

rules = st.sampled_from("abc")
numbers = st.integers(1, 12)
changes = st.builds(
    Change,
    low=st.none() | st.integers(0, 20),
    pending=st.lists(st.builds(Pending, rules, numbers, st.lists(numbers, max_size=3).map(tuple), numbers), max_size=3),
    ended=st.lists(st.tuples(rules, numbers), max_size=3),
    dead=st.lists(st.builds(dead, rules, numbers), max_size=2),
    buried=st.lists(numbers, max_size=2),
    positions=st.lists(
        st.builds(Position, rules, numbers, st.booleans(), st.none() | st.binary(max_size=3)), max_size=2
    ),
    gone=st.lists(rules, max_size=1),
    traces=st.lists(st.builds(Trace, numbers, rules, st.binary(max_size=3)), max_size=2),
)
steps = st.one_of(
    st.tuples(st.just("append"), st.integers(0, 600)),
    st.tuples(st.just("save"), changes),
    st.tuples(st.just("trim"), st.integers(0, 1500)),
    st.tuples(st.just("read"), st.integers(-1, 2000), st.integers(0, 700)),
    st.tuples(st.just("entries"), st.lists(st.integers(0, 1500), max_size=5)),
    st.just(("tick",)),
    st.just(("settle",)),
    st.just(("reopen",)),
)


class Model:
    """What a journal should hold: plain lists and dicts."""

    def __init__(self) -> None:
        self.events: list[EnvEvent] = []
        self.first = 1
        self.low = 0
        self.pending: dict[tuple[str, int], Pending] = {}
        self.positions: dict[str, Position] = {}
        self.dead: dict[int, DeadLetter] = {}
        self.dead_id = 0
        self.traces: dict[tuple[int, str], Trace] = {}

    def save(self, change: Change) -> None:
        for rule in change.gone:
            self.positions.pop(rule, None)
            self.pending = {key: run for key, run in self.pending.items() if key[0] != rule}
        self.pending |= {(run.rule, run.seq): run for run in change.pending}
        for key in change.ended:
            self.pending.pop(key, None)
        for letter in change.dead:
            self.dead_id += 1
            self.dead[self.dead_id] = msgspec.structs.replace(letter, id=self.dead_id)
        for number in change.buried:
            self.dead.pop(number, None)
        self.positions |= {position.rule: position for position in change.positions}
        self.traces |= {(trace.seq, trace.rule): trace for trace in change.traces}
        self.low = max(self.low, change.low or 0)

    def trim(self, upto: int) -> None:
        self.first = max(self.first, min(upto, len(self.events)) + 1)

    def numbers(self, after: int, limit: int) -> list[int]:
        return list(range(max(after + 1, self.first), len(self.events) + 1))[:limit]

    async def check(self, journal: Journal) -> None:
        assert (journal.first, journal.head) == (self.first, len(self.events))
        entries = await journal.read(0, 100_000)
        assert seqs(entries) == self.numbers(0, 100_000)
        assert [entry.event for entry in entries] == self.events[self.first - 1 :]
        ats = [entry.at_ms for entry in entries]
        assert ats == sorted(ats)
        counts: dict[str, int] = {}
        for rule, _ in self.pending:
            counts[rule] = counts.get(rule, 0) + 1
        oldest = min((min(run.entries, default=run.seq) for run in self.pending.values()), default=None)
        assert await journal.progress() == Progress(self.low, self.positions, counts, oldest)
        for rule in "abc":
            expected = [
                run for (name, _), run in sorted(self.pending.items(), key=lambda item: item[0]) if name == rule
            ]
            assert await journal.pending(rule, 0, 100) == expected
        assert await journal.dead_letters(None, 0, 1000) == list(self.dead.values())
        for seq in range(1, 13):
            expected_traces = [
                trace
                for (number, _), trace in sorted(self.traces.items(), key=lambda item: item[0])
                if number == seq and self.first <= seq <= len(self.events)
            ]
            if self.first <= seq <= len(self.events):
                assert await journal.traces(seq) == expected_traces


@each_journal
@given(st.lists(steps, max_size=14))
@settings(deadline=None, max_examples=60)
def test_any_interleaving_leaves_what_a_list_would_hold(opened: Open, taken: list[tuple]) -> None:
    """Nobody waits for an `append` or a `save` before the next step, unless the step says so."""

    async def main() -> None:
        with TemporaryDirectory() as folder:
            kind = opened.__name__
            path = Path(folder) / "journal.db"
            journal: Journal = MemoryJournal() if kind == "memory" else (await open_journal(path, "normal"))[0]
            model = Model()
            running: list[anyio.Event] = []

            async def wait(call: object, done: anyio.Event, expected: object) -> None:
                assert await call == expected  # type: ignore[misc]
                done.set()

            async def settle() -> None:
                for done in running:
                    await done.wait()
                running.clear()

            async with anyio.create_task_group() as tasks:

                async def begin(call: object, expected: object) -> None:
                    done = anyio.Event()
                    running.append(done)
                    tasks.start_soon(wait, call, done, expected)
                    await anyio.lowlevel.checkpoint()  # it has been called

                for step, *given_ in taken:
                    if step == "append":
                        batch = events(given_[0], first=len(model.events) + 1)
                        await begin(journal.append(batch), len(model.events) + 1)
                        model.events += batch
                    elif step == "save":
                        # A trace of what is not held is nobody's business.
                        change = msgspec.structs.replace(
                            given_[0],
                            traces=[t for t in given_[0].traces if model.first <= t.seq <= len(model.events)],
                        )
                        await begin(journal.save(change), None)
                        model.save(change)
                    elif step == "tick":
                        assert await journal.clock() > 0
                        assert journal.head == len(model.events)
                    else:
                        await settle()
                        if step == "trim":
                            journal.trim(given_[0])
                            model.trim(given_[0])
                        elif step == "read":
                            after, limit = given_
                            assert seqs(await journal.read(after, limit)) == model.numbers(after, limit)
                        elif step == "entries":
                            held = [seq for seq in given_[0] if model.first <= seq <= len(model.events)]
                            found = await journal.entries(given_[0])
                            assert [entry.event for entry in found] == [model.events[seq - 1] for seq in held]
                        elif step == "reopen" and kind != "memory":
                            await journal.aclose()
                            journal, loss = await open_journal(path, "normal")
                            assert (loss, journal.crashed) == (None, False)
                        await model.check(journal)
                await settle()
                await model.check(journal)
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
async def test_a_ring_keeps_no_more_traces_than_events() -> None:
    journal = MemoryJournal(3)
    await journal.append(events(3))
    for number in range(9):
        await journal.save(Change(traces=[Trace(3, f"rule-{number}", b"{}")]))
    assert [trace.rule for trace in await journal.traces(3)] == ["rule-6", "rule-7", "rule-8"]


def test_an_entry_is_not_to_be_changed() -> None:
    entry = Entry(1, 2, event(1))
    with pytest.raises(AttributeError):
        entry.seq = 2  # type: ignore[misc]
