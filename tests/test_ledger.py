"""What is written down, and when: told by what a host that starts on the same disk does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from simulation import Attempt, Simulation

from eventhost.actions import parse as actions
from eventhost.journal import Position
from eventhost.rules.ledger import EVERY_S
from eventhost.rules.turn import LONGEST_S


@pytest.fixture
def sim() -> Iterator[Simulation]:
    sim = Simulation()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(actions.KINDS, "gate", sim.kind)
        yield sim
    sim.close()


def gate(name: str, **more: Any) -> dict[str, Any]:
    """A rule whose action bears its name."""
    return {"name": name, "do": {"gate": name}, **more}


def begun(sim: Simulation, name: str) -> list[tuple[int, ...]]:
    return [attempt.seqs for attempt in sim.of(name)]


def finish(sim: Simulation, name: str) -> None:
    """Let the oldest attempt succeed."""
    sim.of(name)[0].finish()
    sim.loop.settle()


def statistics(sim: Simulation, name: str) -> Any:
    return next(one for one in sim.engine.statistics() if one.name == name)


def test_a_rule_that_does_not_lag_any_more_still_owes_what_the_mark_has_passed(sim: Simulation) -> None:
    sim.start(gate("slow"))
    sim.publish(count=5)
    sim.advance(1)
    assert (statistics(sim, "slow").lags, sim.disk.low) == (2, 5)
    for _ in range(3):
        finish(sim, "slow")
    sim.advance(1)
    assert (statistics(sim, "slow").lags, begun(sim, "slow")) == (0, [(4,)])
    sim.crash()
    sim.start()
    for seq in (4, 5):
        assert begun(sim, "slow") == [(seq,)]
        finish(sim, "slow")
    sim.advance(1)
    assert sim.disk.positions["slow"] == Position("slow", 5)


@pytest.mark.parametrize("state", [None, b'{"time": {"v": 1, "last": 0, "behind": 0}}'])
def test_one_that_lagged_up_to_where_the_mark_is_does_not_begin_there_for_ever(
    sim: Simulation, state: bytes | None
) -> None:
    shaping = {} if state is None else {"throttle": {"limit": 100, "per": "1h"}}
    sim.disk.positions["a"] = Position("a", 0, lags=True, state=state)
    sim.start(gate("a", **shaping))
    assert not sim.disk.positions["a"].lags
    assert sim.disk.positions["a"].state == state
    sim.publish(count=3)
    sim.finish_all()
    sim.advance(1)
    sim.crash()
    sim.start()
    assert not sim.under_way


def test_what_came_before_an_edit_is_not_for_the_rule_as_it_is_now(sim: Simulation) -> None:
    sim.start(gate("stuck"), gate("late", on="z"))
    sim.publish("y")
    sim.update(gate("stuck"), gate("late", on="y"))
    assert sim.disk.low == 0
    sim.crash()
    sim.start()
    assert begun(sim, "late") == []
    sim.publish("y")
    assert begun(sim, "late") == [(2,)]


@pytest.mark.parametrize("after", [{"on": "z"}, {"on": "z", "throttle": {"per": "1h"}}, {"on": "z", "concurrency": 2}])
def test_an_edited_rule_owes_what_it_owed_whatever_it_looks_at_now(sim: Simulation, after: dict[str, Any]) -> None:
    sim.start(gate("a", on="y"))
    sim.publish("y", count=3)
    sim.update(gate("a", **after))
    sim.crash()
    sim.start()
    seen = []
    sim.on_finish = lambda attempt, _: seen.append(attempt.seqs)
    sim.finish_all()
    assert seen == [(1,), (2,), (3,)]


def test_what_is_done_is_written_within_ten_milliseconds_and_not_done_once_more(sim: Simulation) -> None:
    sim.start(gate("a"))
    sim.advance(1)
    sim.publish(count=3)
    finish(sim, "a")
    finish(sim, "a")
    sim.advance(EVERY_S)
    sim.crash()
    sim.start()
    assert begun(sim, "a") == [(3,)]


def test_what_overtook_others_is_not_done_once_more(sim: Simulation) -> None:
    sim.start(gate("a", concurrency=3))
    sim.publish(count=4)
    sim.of("a")[1].finish()
    sim.of("a")[2].finish()
    sim.loop.settle()
    assert begun(sim, "a") == [(1,), (4,)]
    sim.advance(EVERY_S)
    sim.crash()
    sim.start()
    assert begun(sim, "a") == [(1,), (4,)]


def test_a_proper_end_leaves_nothing_to_be_done_twice(sim: Simulation) -> None:
    rules = [gate("a"), gate("b", concurrency=3), gate("c", batch={"max": 2, "within": "1h"})]
    sim.start(*rules)
    seen: list[tuple[str, tuple[int, ...]]] = []
    sim.on_finish = lambda attempt, _: seen.append((attempt.gate, attempt.seqs))
    sim.publish(count=9)
    for name in "aabbcb":
        finish(sim, name)
        sim.stop()
        sim.start()
    sim.finish_all()
    assert [seqs for name, seqs in seen if name == "a"] == [(seq,) for seq in range(1, 10)]
    assert sorted(seqs for name, seqs in seen if name == "b") == [(seq,) for seq in range(1, 10)]
    assert [seqs for name, seqs in seen if name == "c"] == [(1, 2), (3, 4), (5, 6), (7, 8)]
    assert statistics(sim, "c").held == 1


# Edited, disabled and removed while no host is there


def test_what_was_held_is_due_when_the_rule_has_no_shaping_any_more(sim: Simulation) -> None:
    shaped, plain = gate("a", batch={"within": "1h"}), gate("a")
    sim.start(shaped)
    sim.publish(count=2)
    sim.stop()
    sim.start(plain)
    assert begun(sim, "a") == [(1, 2)]
    sim.crash()
    sim.start()
    assert begun(sim, "a") == [(1, 2)]
    finish(sim, "a")
    sim.stop()
    sim.start(shaped)
    sim.advance(7200)
    assert begun(sim, "a") == [], "what was held is forgotten"


def test_the_same_while_a_host_is_there(sim: Simulation) -> None:
    shaped, plain = gate("a", batch={"within": "1h"}), gate("a")
    sim.start(shaped)
    sim.publish(count=2)
    sim.advance(1)
    sim.update(plain)
    assert begun(sim, "a") == [(1, 2)]
    finish(sim, "a")
    assert sim.do(sim.engine.needed()) == {}
    sim.stop()
    sim.start(shaped)
    sim.advance(7200)
    assert begun(sim, "a") == []


@pytest.mark.parametrize("shaping", [{}, {"batch": {"max": 1, "within": "1h"}}])
def test_a_disabled_rule_forgets_what_it_owed(sim: Simulation, shaping: dict[str, Any]) -> None:
    sim.start(gate("a", **shaping))
    sim.publish(count=3)
    sim.stop()
    sim.start(gate("a", enabled=False, **shaping))
    sim.publish()
    sim.stop()
    assert not sim.disk.pending
    sim.start(gate("a", **shaping))
    assert not sim.under_way
    sim.publish()
    assert begun(sim, "a") == [(5,)]


def test_a_rule_that_is_gone_writes_nothing_about_the_next_of_its_name(sim: Simulation) -> None:
    sim.start(gate("a"), gate("b"))
    sim.publish(count=3)
    sim.update(gate("b"))
    sim.update({**gate("a"), "from": "beginning", "do": {"gate": "second"}}, gate("b"))
    sim.advance(1)
    finish(sim, "a")
    sim.advance(1)
    sim.crash()
    sim.start()
    seen = []
    sim.on_finish = lambda attempt, _: seen.append((attempt.gate, attempt.seqs))
    sim.finish_all()
    assert [seqs for name, seqs in seen if name == "second"] == [(1,), (2,), (3,)]


# What hosts die of


def test_only_what_the_host_dies_of_is_given_up(sim: Simulation) -> None:
    """Those before it are done within the time that is written at once, and are done once more each time."""
    poison = 30

    def at_once(attempt: Attempt) -> None:
        if attempt.seqs != (poison,):
            attempt.finish()

    sim.limits = replace(sim.limits, queue=100)
    sim.on_begin = at_once
    sim.start(gate("a"))
    sim.publish(count=40)
    lives = die_until_it_lives(sim, poison)
    assert {letter.seq for letter in sim.disk.dead.values()} == {poison}
    assert lives == sim.limits.deaths + 1, "the first does not count: nobody had been warned"


def test_nor_is_what_was_done_beside_it(sim: Simulation) -> None:
    sim.start(gate("a", concurrency=3))
    sim.publish(count=3)
    die_until_it_lives(sim, 2)
    assert {letter.seq for letter in sim.disk.dead.values()} == {2}


def test_the_others_are_done_together_again_once_that_is_over(sim: Simulation) -> None:
    sim.limits = replace(sim.limits, queue=10)
    sim.start(gate("a", concurrency=3))
    sim.publish(count=6)
    for _ in range(2):  # the first time it is not known what was being done
        sim.crash()
        sim.start()
    for seq in (1, 2, 3):
        assert begun(sim, "a") == [(seq,)]
        finish(sim, "a")
    assert begun(sim, "a") == [(4,), (5,), (6,)]


def test_what_was_left_behind_by_the_others_is_counted_too(sim: Simulation) -> None:
    """Its row is all that there is: nothing is matched anew."""
    sim.start(gate("a", on="x", concurrency=3))
    sim.publish(count=3)
    sim.of("a")[1].finish()
    sim.of("a")[2].finish()
    sim.advance(1)
    sim.publish("y")
    sim.advance(1)
    assert (sim.disk.low, set(sim.disk.pending)) == (4, {("a", 1)})
    die_until_it_lives(sim, 1)
    assert {letter.seq for letter in sim.disk.dead.values()} == {1}


def die_until_it_lives(sim: Simulation, poison: int) -> int:
    """Kill hosts as soon as they begin the run; end what else they do. How many died."""
    for lives in range(50):
        while sim.under_way and all(attempt.seqs != (poison,) for attempt in sim.under_way):
            sim.under_way[0].finish()
            sim.loop.settle()
        if not sim.under_way:
            sim.advance(1)
            return lives
        sim.crash()
        sim.start()
    raise AssertionError("they die again and again")


def test_another_rules_run_is_not_counted_among_what_the_host_dies_of(sim: Simulation) -> None:
    sim.start(gate("calm"), gate("poisonous"))
    sim.publish()
    sim.advance(1)
    for _ in range(10):
        sim.crash()
        sim.start()
        while sim.under_way and not begun(sim, "poisonous"):
            finish(sim, "calm")
            sim.advance(1)
        if not sim.under_way:
            break
    sim.advance(1)
    assert [letter.rule for letter in sim.disk.dead.values()] == ["poisonous"]
    assert statistics(sim, "calm").failed == 0


def test_whoever_waits_long_for_its_turn_goes_on_without(sim: Simulation) -> None:
    sim.start(gate("hangs"), gate("waits"))
    sim.publish()
    sim.advance(1)
    for _ in range(2):  # now the host may have died of either
        sim.crash()
        sim.start()
    assert len(sim.under_way) == 1
    sim.advance(LONGEST_S)
    assert len(sim.under_way) == 2


def test_a_failure_that_was_told_is_written_down_before_the_host_ends(sim: Simulation) -> None:
    sim.start(gate("a"))
    sim.publish()
    sim.hold()
    sim.of("a")[0].fail(retry=False)
    sim.loop.settle()
    sim.stop(while_held=True)
    sim.start()
    assert not sim.under_way
    assert [letter.seq for letter in sim.disk.dead.values()] == [1]
    assert [entry.event.type for entry in sim.disk.entries] == ["x", "host.dead_letter"]


# Damage


def test_what_is_lost_at_the_end_of_the_journal_keeps_nobody_busy(sim: Simulation) -> None:
    sim.start(gate("a"))
    sim.publish(count=8)
    sim.finish_all()
    sim.stop()
    sim.disk.lost |= {5, 6, 7, 8}
    sim.start({**gate("b"), "from": "beginning"}, gate("a"))
    sim.finish_all()
    sim.publish()
    sim.finish_all()
    assert (statistics(sim, "a").lags, statistics(sim, "b").lags) == (0, 0)
    assert statistics(sim, "b").delivered == 5


def test_a_run_whose_events_are_lost_is_not_looked_for_for_ever(sim: Simulation) -> None:
    sim.start(gate("a", batch={"max": 2, "within": "1h"}))
    sim.publish(count=4)
    sim.stop()
    assert set(sim.disk.pending) == {("a", 2), ("a", 4)}
    sim.disk.lost |= {1, 2, 3}
    sim.start()
    assert begun(sim, "a") == [(4,)]
    sim.advance(1)
    assert set(sim.disk.pending) == {("a", 4)}


# What is given up, and what is trimmed


def test_what_a_rule_gave_up_is_not_owed_any_more_whatever_becomes_of_the_host(sim: Simulation) -> None:
    sim.start(gate("a"))
    sim.publish(count=8)
    assert statistics(sim, "a").lags == 5
    assert sim.do(sim.engine.give_up("a", 6)) == (5, 0)
    sim.crash()
    assert [letter.seq for letter in sim.disk.dead.values()] == [2, 3, 4, 5, 6]
    sim.start()
    seen: list[tuple[int, ...]] = []
    sim.on_finish = lambda attempt, _: seen.append(attempt.seqs)
    sim.finish_all()
    assert seen == [(1,), (7,), (8,)]


def test_what_nobody_needs_can_be_trimmed_and_nobody_misses_it(sim: Simulation) -> None:
    sim.start(gate("a", on="y"), gate("b", batch={"within": "1h"}), {**gate("c"), "from": "beginning", "on": "z"})
    sim.publish("y", count=4)
    finish(sim, "a")
    assert sim.do(sim.engine.needed()) == {"a": 2, "b": 1}
    sim.update(gate("a", on="y"), {**gate("c"), "from": "beginning", "on": "z"})
    assert sim.do(sim.engine.needed()) == {"a": 2}
    sim.journal.trim(1)
    sim.crash()
    sim.start()
    assert begun(sim, "a") == [(2,)]
    assert sim.engine.missed == 0
