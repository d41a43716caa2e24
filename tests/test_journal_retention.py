"""What is kept how long: too old or too much goes, needed stays, and the hard cap holds whatever is needed."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventhost.gaps import Gap, Reason
from eventhost.journal import Change, DeadLetter, LettersHeld, MemoryJournal
from eventhost.journal.retention import Decision, Held, Limits, decide, too_many
from eventhost.rules import LetterStatistics, Retention, RuleEngine

MB = 1_000_000
SMALL = Limits(age_ms=1000, size_bytes=100 * MB)


@pytest.mark.parametrize(
    ("held", "limits", "expected"),
    [
        # nothing to do
        (Held(1, 100, 10 * MB, young=1), SMALL, Decision({}, 0)),
        (Held(1, 0, 10 * MB, young=1), SMALL, Decision({}, 0)),
        (Held(51, 100, 10 * MB, young=51), SMALL, Decision({}, 50)),
        # too old
        (Held(1, 100, 10 * MB, young=41), SMALL, Decision({}, 40)),
        (Held(1, 100, 10 * MB, young=101), SMALL, Decision({}, 100)),
        (Held(1, 100, 10 * MB, young=41), Limits(None, 100 * MB), Decision({}, 0)),
        # too old, and needed
        (Held(1, 100, 10 * MB, young=41, needed={"a": 31, "b": 90}), SMALL, Decision({}, 30)),
        (Held(1, 100, 10 * MB, young=41, needed={"a": 1}), SMALL, Decision({}, 0)),
        (Held(1, 100, 10 * MB, young=41, needed={"a": 61}), SMALL, Decision({}, 40)),
        # too much
        (Held(1, 100, 125 * MB, young=1), SMALL, Decision({}, 20)),
        (Held(1, 100, 125 * MB, young=31), SMALL, Decision({}, 30)),
        (Held(1, 100, 125 * MB, young=1), Limits(1000, None), Decision({}, 0)),
        (Held(1, 100, 125 * MB, young=1, needed={"a": 11}), SMALL, Decision({}, 10)),
        # far too much: at the cap of 200 MB a fifth must go, at the limit of 100 MB three
        (Held(1, 100, 250 * MB, young=1), SMALL, Decision({}, 60)),
        (Held(1, 100, 250 * MB, young=1, needed={"a": 1, "b": 50}), SMALL, Decision({"a": 20}, 20)),
        (Held(1, 100, 250 * MB, young=1, needed={"a": 21, "b": 50}), SMALL, Decision({}, 20)),
        (Held(1, 100, 250 * MB, young=1, needed={"a": 31}), SMALL, Decision({}, 30)),
        (Held(1, 100, 250 * MB, young=1, needed={"a": 1}), Limits(1000, 100 * MB, 500 * MB), Decision({}, 0)),
        (Held(1, 100, 250 * MB, young=1, needed={"a": 1}), Limits(1000, None, 200 * MB), Decision({"a": 20}, 20)),
        (Held(1, 100, 250 * MB, young=1, needed={"a": 1}), Limits(1000, None, None), Decision({}, 0)),
    ],
)
def test_what_goes(held: Held, limits: Limits, expected: Decision) -> None:
    assert decide(held, limits) == expected


def test_by_default_it_is_seven_days_or_a_gigabyte_and_twice_that_at_the_most() -> None:
    assert (Limits().age_ms, Limits().size_bytes, Limits().hard_bytes) == (604_800_000, 1_000 * MB, 2_000 * MB)
    assert Limits(cap_bytes=5).hard_bytes == 5
    assert Limits(size_bytes=None).hard_bytes is None


@pytest.mark.parametrize(
    ("held", "limits", "many"),
    [
        (LettersHeld(10_000, 100 * MB), Limits(), False),
        (LettersHeld(10_001, 1), Limits(), True),
        (LettersHeld(1, 100 * MB + 1), Limits(), True),
        (LettersHeld(1, 1), Limits(letters=0), True),
        (LettersHeld(0, 0), Limits(letters=0, letters_size=0), False),
        (LettersHeld(10**6, 100 * MB), Limits(letters=None), False),
        (LettersHeld(2, 30), Limits(letters_size=30), False),
        (LettersHeld(2, 31), Limits(letters_size=30), True),
        (LettersHeld(2, 31), Limits(size_bytes=None, cap_bytes=300), True),
        (LettersHeld(2, 10**12), Limits(size_bytes=None), False),
    ],
)
def test_dead_letters_are_bounded_by_count_and_by_a_tenth_of_what_events_may_take(
    held: LettersHeld, limits: Limits, many: bool
) -> None:
    assert too_many(held, limits) is many


class Idle:
    """An engine whose rules need nothing."""

    async def needed(self) -> dict[str, int]:
        return {}


def letter(rule: str, seq: int, size: int) -> DeadLetter:
    return DeadLetter(rule, seq, 1, "log", "0", 1, "no", b"x" * size)


@pytest.mark.anyio
async def test_the_oldest_dead_letters_go_until_the_rest_fits_and_a_gap_for_each_rule_tells_their_bounds() -> None:
    journal, told = MemoryJournal(), list[Gap]()
    limits = Limits(letters=1_000, letters_size=5 * MB)
    retention = Retention(journal, cast(RuleEngine, Idle()), limits, told.append)
    await retention.look()
    assert (retention.letters, told) == (LetterStatistics(0, 0, 0), [])
    await journal.save(Change(dead=[letter("ab"[seq % 2], seq, 10) for seq in range(1, 1_602)]))
    await retention.look()
    assert retention.letters == LetterStatistics(1_000, 10_000, 601)
    assert sorted((gap.more["rule"], gap.first, gap.last, gap.count) for gap in told) == [
        ("a", 2, 600, 300),
        ("b", 1, 601, 301),
    ]
    assert {gap.reason for gap in told} == {Reason.DISCARDED}
    told.clear()
    await journal.save(Change(dead=[letter("c", seq, 2 * MB) for seq in (7, 5, 6)]))
    await retention.look()
    assert retention.letters == LetterStatistics(2, 4 * MB, 601 + 1_001)
    assert [one.seq for one in await journal.oldest_letters(9)] == [5, 6]
    assert [(gap.first, gap.last) for gap in told if gap.more["rule"] == "c"] == [(7, 7)]


sizes = st.none() | st.integers(1, 1000)


@given(
    first=st.integers(1, 50),
    count=st.integers(0, 100),
    size=st.integers(0, 1000),
    young=st.integers(0, 150),
    needed=st.dictionaries(st.sampled_from("abc"), st.integers(0, 150)),
    limits=st.builds(Limits, st.none() | st.just(1), sizes, sizes),
)
def test_nothing_needed_goes_unless_it_is_given_up(
    first: int, count: int, size: int, young: int, needed: dict[str, int], limits: Limits
) -> None:
    head = first + count - 1
    held = Held(
        first,
        head,
        size,
        min(max(young, first), head + 1),
        {rule: min(max(seq, first), head + 1) for rule, seq in needed.items()},
    )
    decision = decide(held, limits)
    assert first - 1 <= decision.trim <= head
    for rule, seq in held.needed.items():
        assert seq > decision.trim or decision.give_up.get(rule, 0) == decision.trim
    if decision.give_up:
        assert limits.hard_bytes is not None
        assert size > limits.hard_bytes
    if limits.hard_bytes is not None and size > limits.hard_bytes and count:
        assert decision.trim >= first, "it does not stand still at the cap"


@given(st.integers(1, 10_000), st.integers(1, 2_000), st.integers(1, 500), st.dictionaries(st.just("a"), st.just(1)))
def test_asked_again_and_again_it_comes_to_fit(count: int, each: int, limit: int, needed: dict[str, int]) -> None:
    limits = Limits(None, limit, limit)
    first = 1
    for _ in range(count + 1):
        size = (count - first + 1) * each
        held = Held(first, count, size, 1, {rule: max(seq, first) for rule, seq in needed.items()})
        trim = decide(held, limits).trim
        if trim < first:
            break
        first = trim + 1
    assert (count - first + 1) * each <= limit
