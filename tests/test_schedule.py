"""`Schedule` gives what is due, in time and in order, however often the times change."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eventhost.rules.schedule import Schedule


class Item:
    def __init__(self, due_ms: int | None) -> None:
        self.due_ms = due_ms


def test_what_is_due_comes_earliest_first_and_only_once() -> None:
    schedule, late, early, never = Schedule[Item](), Item(20), Item(10), Item(None)
    assert schedule.note(late)
    assert schedule.note(early)
    assert not schedule.note(late)
    assert not schedule.note(never)
    assert schedule.next_ms == 10
    assert schedule.take(9) == []
    assert schedule.take(20) == [early, late]
    assert schedule.take(1000) == []
    assert schedule.next_ms is None


def test_what_was_forgotten_does_not_come() -> None:
    schedule, item = Schedule[Item](), Item(10)
    schedule.note(item)
    schedule.forget(item)
    assert schedule.take(10) == []


@given(st.lists(st.tuples(st.integers(0, 3), st.none() | st.integers(0, 50)), max_size=60))
def test_nothing_due_is_missed_and_nothing_comes_too_early(changes: list[tuple[int, int | None]]) -> None:
    schedule, items = Schedule[Item](), [Item(None) for _ in range(4)]
    for now_ms, (number, due_ms) in enumerate(changes):
        items[number].due_ms = due_ms
        schedule.note(items[number])
        due = [item for item in items if item.due_ms is not None and item.due_ms <= now_ms]
        waiting = [item.due_ms for item in items if item.due_ms is not None]
        assert not waiting or (schedule.next_ms is not None and schedule.next_ms <= min(waiting))
        taken = schedule.take(now_ms)
        assert sorted(map(id, taken)) == sorted(map(id, due))
        for item in taken:
            item.due_ms = None
