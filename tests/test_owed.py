"""What a rule owes: whatever is not finished is beyond its place, or written down."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eventhost.event import EnvEvent
from eventhost.journal import Entry
from eventhost.rules.owed import Owed
from eventhost.rules.run import Run


def run(*seqs: int, attempts: int = 0, again: bool = False) -> Run:
    entries = tuple(Entry(seq, 0, EnvEvent(str(seq), "t", 0, {}, {})) for seq in seqs)
    return Run(entries, 0, attempts=attempts, again=again)


def owing(*seqs: int) -> Owed:
    owed = Owed("a")
    for one in map(run, seqs):
        owed.add(one)
    return owed


def numbers(owed: Owed) -> tuple[list[int], list[int]]:
    """What `rows` writes and deletes."""
    pending, ended = owed.rows()
    return [row.seq for row in pending], [seq for _, seq in ended]


def test_runs_are_taken_in_order_and_the_place_is_before_the_first_that_is_not_done() -> None:
    owed = owing(3, 5, 8)
    assert (owed.first, owed.place(9)) == (3, 2)
    first = owed.take()
    assert (first.seq, owed.place(9)) == (3, 2)
    owed.finish(first)
    assert (owed.first, owed.place(9)) == (5, 4)
    for _ in range(2):
        owed.finish(owed.take())
    assert (owed.first, owed.place(9), len(owed)) == (None, 9, 0)


def test_what_was_overtaken_is_written_down_and_forgotten_when_it_is_done() -> None:
    owed = owing(1, 2, 3)
    one, two = owed.take(), owed.take()
    owed.finish(two)
    assert owed.place(9) == 2
    assert numbers(owed) == ([1], [])
    assert numbers(owed) == ([], [])
    owed.finish(one)
    assert numbers(owed) == ([], [1])


def test_what_was_not_written_yet_need_not_be_forgotten() -> None:
    owed = owing(1, 2)
    one, two = owed.take(), owed.take()
    owed.finish(two)
    owed.place(9)
    owed.finish(one)
    assert numbers(owed) == ([], [])


def test_what_is_kept_is_written_with_its_attempts() -> None:
    owed = owing(1)
    owed.take()
    owed.keep(run(1, attempts=2))
    assert owed.place(9) == 9
    ((row,), _) = owed.rows()
    assert (row.seq, row.attempts) == (1, 2)


def test_what_was_written_when_the_host_started_is_known_for_ever() -> None:
    owed = Owed("a")
    owed.restore([run(4, attempts=1), run(7)])
    assert (owed.accused, owed.first, owed.place(9)) == ({4}, None, 9)
    owed.finish(owed.take())
    assert (owed.has(4), owed.has(5), owed.accused) == (True, False, set())
    assert numbers(owed) == ([], [4])


def test_a_dead_letter_that_is_tried_again_holds_nothing_up() -> None:
    owed = owing(8)
    owed.repeat(run(2, again=True))
    assert (owed.owes(2), owed.first, owed.place(9)) == (True, 8, 7)
    owed.write_all()
    assert numbers(owed) == ([8], [])


def test_what_is_given_up_does_not_come_back_behind_what_is_being_done() -> None:
    owed = owing(1, 2, 3)
    owed.take()
    owed.drop(owed.waiting[0])
    assert owed.place(9) == 2
    assert numbers(owed) == ([1], [])


def test_what_waits_can_be_discarded() -> None:
    owed = owing(1, 2, 3)
    owed.write_all()
    owed.rows()
    owed.take()
    assert owed.discard() == 2
    assert numbers(owed) == ([], [2, 3])
    assert [one.seq for one in owed] == [1]


STEPS = st.lists(
    st.one_of(
        st.just(("offer", 0)),
        st.just(("take", 0)),
        st.tuples(st.just("finish"), st.integers(0, 9)),
        st.tuples(st.just("keep"), st.integers(0, 9)),
        st.tuples(st.just("drop"), st.integers(0, 9)),
        st.just(("write", 0)),
        st.just(("write all", 0)),
    ),
    max_size=60,
)


@given(STEPS)
def test_whenever_it_is_written_nothing_that_is_owed_is_forgotten_and_nothing_else_is_kept(
    steps: list[tuple[str, int]],
) -> None:
    owed, seen, rows, place = Owed("a"), 0, set[int](), 0
    unfinished: set[int] = set()
    for what, number in steps:
        match what:
            case "offer":
                seen += 1
                unfinished.add(seen)
                owed.add(run(seen))
            case "take" if owed.waiting:
                owed.take()
            case "finish" if owed.running:
                one = list(owed.running.values())[number % len(owed.running)]
                owed.finish(one)
                unfinished.remove(one.seq)
            case "keep" if owed.running:
                one = list(owed.running.values())[number % len(owed.running)]
                owed.keep(run(one.seq, attempts=one.attempts + 1))
            case "drop" if owed.waiting:
                one = owed.waiting[number % len(owed.waiting)]
                owed.drop(one)
                unfinished.remove(one.seq)
            case "write" | "write all":
                if what == "write all":
                    owed.write_all()
                place = owed.place(seen)
                pending, ended = numbers(owed)
                rows = (rows | set(pending)) - set(ended)
                assert {seq for seq in unfinished if seq <= place} <= rows <= unfinished
                beyond = unfinished - rows
                assert owed.first == (min(beyond) if beyond else None)
                assert place == (min(beyond) - 1 if beyond else seen) or max(unfinished, default=0) <= place
