"""What is kept how long: too old or too much goes, needed stays, and the hard cap holds whatever is needed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventhost.journal.retention import Decision, Held, Limits, decide

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
