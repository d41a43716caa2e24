"""The engine's promise under any interleaving: what was accepted is done, in order, once unless a host died of it."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from simulation import LIMITS, Attempt, Job, Simulation

from eventhost.actions import parse as actions
from eventhost.rules import queue
from eventhost.rules.shaper import held_in

EXAMPLES = int(os.environ.get("EVENTHOST_EXAMPLES", "150"))

SHAPING: dict[str, dict[str, Any]] = {
    "debounce": {"debounce": {"for": "5s"}},
    "batch": {"batch": {"within": "5s", "max": 3}},
    "throttle": {"throttle": {"limit": 2, "per": "5s"}},
}

NAMES = ("inorder", "several", "picky", *SHAPING)


class Bed:
    """One rule as it is configured at the moment, and what is known of what it has to do."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.edition = 0
        self.incarnation = 1
        self.enabled = True
        self.on = "x" if name == "picky" else "[xy]"
        self.there = True

    @property
    def gate(self) -> str:
        return f"{self.name} {self.incarnation}"

    def config(self) -> dict[str, Any]:
        on = ["x", "y"] if self.on == "[xy]" else self.on
        concurrency = {"several": 3}.get(self.name, 1)
        return {
            "name": self.name, "on": on, "enabled": self.enabled, "concurrency": concurrency,
            "do": [{"gate": self.gate}, *({"log": "again"} for _ in range(self.edition % 2))],
            **SHAPING.get(self.name, {}),
        }  # fmt: skip


class Delivery(RuleBasedStateMachine):
    """Publishes, commits, ends actions, edits rules, stops and kills hosts; compares what came of it."""

    def __init__(self) -> None:
        super().__init__()
        self.sim = sim = Simulation()
        self._patch = pytest.MonkeyPatch()
        self._patch.setitem(actions.KINDS, "gate", sim.kind)
        self._patch.setattr(queue, "_STATE_SHARE", 0)  # else how often it is written depends on the machine's speed
        sim.on_begin, sim.on_finish, sim.on_commit = self._begun, self._finished, self._committed
        self.beds = {name: Bed(name) for name in NAMES}
        self.expected: dict[str, set[int]] = defaultdict(set)
        """By gate: the events that must come to an end."""
        self.excused: dict[str, set[int]] = defaultdict(set)
        """Those that need not, since their rule was disabled or removed; they may."""
        self.finished: dict[tuple[str, int], int] = {}
        """When an event's run succeeded."""
        self.begun: Counter[tuple[str, int]] = Counter()
        self.begun_in: dict[tuple[str, int], set[int]] = defaultdict(set)
        """The lives in which a run was begun."""
        self.counted_in: dict[tuple[str, int], set[int]] = defaultdict(set)
        """The lives in which it was written down that a run was about to be begun."""
        self.durable: set[tuple[str, int]] = set()
        """What is written down to be done."""
        self.allowed: Counter[tuple[str, int]] = Counter()
        """Dead letters that were tried again."""
        self.retried: set[tuple[str, int]] = set()
        self.crashes: set[int] = set()
        self.verdicts: dict[tuple[int, str], str] = {}
        self.failures: list[str] = []

    # What is told

    def _begun(self, attempt: Attempt) -> None:
        name = attempt.gate.split()[0]
        if attempt.attempt > 1:
            return
        for seq in attempt.seqs:
            key = attempt.gate, seq
            if attempt.life in self.begun_in[key] or key in self.durable:
                if self.allowed[key]:
                    self.allowed[key] -= 1
                else:
                    self.failures.append(f"{key} was begun twice in life {attempt.life}")
            self.begun[key] += 1
            self.begun_in[key].add(attempt.life)
            if seq not in self.expected[attempt.gate] | self.excused[attempt.gate]:
                self.failures.append(f"{key} was not for it")
        if name in ("inorder", "picky") and (attempt.gate, attempt.seqs[0]) not in self.retried:
            ended = self._ended(attempt.gate)
            behind = {seq for seq in self.expected[attempt.gate] if seq < attempt.seqs[0]} - ended
            if behind:
                self.failures.append(f"{attempt.gate}: {attempt.seqs} was begun before {sorted(behind)} had ended")

    def _finished(self, attempt: Attempt, number: int) -> None:
        for seq in attempt.seqs:
            self.finished.setdefault((attempt.gate, seq), number)

    def _committed(self, job: Job, first: int) -> None:
        for seq, event in enumerate(job.events, first):
            for bed in self.beds.values():
                if bed.enabled and bed.there and event.type in bed.on:
                    self.expected[bed.gate].add(seq)
        if job.change is None:
            return
        for run in job.change.pending:
            if run.attempts:
                self.counted_in[run.rule, run.seq].add(self.sim.life)
        for trace in job.change.traces:
            said = json.loads(trace.body)
            self.verdicts[trace.seq, trace.rule] = said.get("verdict", "run")
        self.durable |= {key for key, number in self.finished.items() if number < job.number}
        gates = {bed.name: bed.gate for bed in self.beds.values()}
        self.durable |= {(gates[dead.rule], seq) for dead in job.change.dead for seq in self._seqs(dead.entries)}
        self._check_disk(job.number)

    def _check_disk(self, number: int) -> None:
        """Whatever is owed would be found by a host that starts on this disk."""
        disk = self.sim.disk
        for bed in self.beds.values():
            if not bed.there or not bed.enabled or bed.name not in disk.positions:
                continue
            begins, state = disk.begins(bed.name), disk.positions[bed.name].state
            held = held_in(msgspec.json.decode(state)) if state is not None else set()
            rows = {seq for (name, _), run in disk.pending.items() if name == bed.name for seq in run.entries}
            for seq in self.expected[bed.gate]:
                verdict = self.verdicts.get((seq, bed.name), "held")
                done = (bed.gate, seq) in self.durable or verdict not in ("held", "run")
                if seq <= begins and seq not in rows | held and not done:
                    self.failures.append(f"{bed.gate}: {seq} is not owed any more at {begins}, and not done")

    @staticmethod
    def _seqs(entries: bytes) -> list[int]:
        return [entry["seq"] for entry in json.loads(entries)]

    def _dead(self, gate: str) -> set[int]:
        bed = self.beds[gate.split()[0]]
        if bed.gate != gate:
            return set()
        letters = [dead for dead in self.sim.disk.dead.values() if dead.rule == bed.name]
        return {seq for dead in letters for seq in self._seqs(dead.entries)}

    def _ended(self, gate: str) -> set[int]:
        """What has come to an end as far as anybody can see, be it written down yet or not."""
        failed = {seq for (name, seq) in self.failed if name == gate}
        return {seq for (name, seq) in self.finished if name == gate} | self._dead(gate) | failed

    @property
    def failed(self) -> set[tuple[str, int]]:
        """What failed for good, by what the engine said of it."""
        found = set()
        gates = {bed.name: bed.gate for bed in self.beds.values()}
        for entry in self.sim.disk.entries:
            if entry.event.type == "host.dead_letter":
                found.add((gates[entry.event.payload["rule"]], entry.event.payload["seq"]))
        return found

    # What may happen

    @initialize()
    def begin(self) -> None:
        self.sim.start(*self._configs())

    def _configs(self) -> Iterator[dict[str, Any]]:
        return (bed.config() for bed in self.beds.values() if bed.there)

    @rule(event_type=st.sampled_from("xy"), count=st.integers(1, 6))
    def publish(self, event_type: str, count: int) -> None:
        self.sim.publish(event_type, count)

    @rule()
    def hold(self) -> None:
        self.sim.hold()

    @rule(most=st.integers(1, 3))
    def commit(self, most: int) -> None:
        self.sim.journal.commit(most)
        self.sim.loop.settle()

    @rule()
    def release(self) -> None:
        self.sim.release()

    @precondition(lambda self: self.sim.under_way)
    @rule(data=st.data(), how=st.sampled_from(["finish", "finish", "fail", "give up"]))
    def end_one(self, data: st.DataObject, how: str) -> None:
        attempt = self.sim.under_way[data.draw(st.integers(0, len(self.sim.under_way) - 1), "attempt")]
        if how == "finish":
            attempt.finish()
        else:
            attempt.fail(retry=how == "fail")
        self.sim.loop.settle()

    @precondition(lambda self: self.sim.under_way)
    @rule(name=st.sampled_from(NAMES), most=st.integers(1, 10))
    def end_many(self, name: str, most: int) -> None:
        for _ in range(most):
            for attempt in self.sim.of(self.beds[name].gate)[:1]:
                attempt.finish()
                self.sim.loop.settle()

    @rule(seconds=st.sampled_from([0.01, 1, 2, 5, 20]))
    def wait(self, seconds: float) -> None:
        self.sim.advance(seconds)

    @rule(back_s=st.sampled_from([-3600, -3, 3]))
    def set_clock(self, back_s: int) -> None:
        self.sim.wall_offset_ms += back_s * 1000

    @rule(name=st.sampled_from(NAMES))
    def edit(self, name: str) -> None:
        self.beds[name].edition += 1
        self.sim.update(*self._configs())

    @rule()
    def edit_pattern(self) -> None:
        self.sim.release()
        bed = self.beds["picky"]
        # One that lags looks at what it has not seen as it is by then.
        if bed.there and next(one for one in self.sim.engine.statistics() if one.name == bed.name).lags:
            return
        bed.on = "y" if bed.on == "x" else "x"
        self.sim.update(*self._configs())

    @rule(name=st.sampled_from(NAMES))
    def disable_or_enable(self, name: str) -> None:
        self.sim.release()
        bed = self.beds[name]
        if bed.enabled:
            self._excuse(bed)
        bed.enabled = not bed.enabled
        self.sim.update(*self._configs())

    @rule(name=st.sampled_from(["several", "debounce"]))
    def remove_or_add(self, name: str) -> None:
        self.sim.release()
        bed = self.beds[name]
        if bed.there:
            self._excuse(bed)
        else:
            bed.incarnation += 1
        bed.there = not bed.there
        self.sim.update(*self._configs())

    def _excuse(self, bed: Bed) -> None:
        self.excused[bed.gate] |= self.expected.pop(bed.gate, set())

    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        self.sim.release()
        letters = [
            letter
            for letter in self.sim.disk.dead.values()
            if self.beds[letter.rule].there
            and self.beds[letter.rule].enabled
            and letter.id not in self.sim.engine.retrying()
            and next(one for one in self.sim.engine.statistics() if one.name == letter.rule).queued < LIMITS.queue
        ]
        if not letters:
            return
        letter = data.draw(st.sampled_from(letters), "letter")
        gate = self.beds[letter.rule].gate
        for seq in self._seqs(letter.entries):
            self.allowed[gate, seq] += 1
            self.retried.add((gate, seq))
            self.excused[gate].add(seq)
        self.sim.do(self.sim.engine.retry(letter))

    @rule()
    def trim(self) -> None:
        self.sim.release()
        needed = self.sim.do(self.sim.engine.needed())
        self.sim.journal.trim(min([*needed.values(), self.sim.journal.head + 1]) - 1)

    @rule()
    def stop_and_start(self) -> None:
        self.sim.stop()
        self.sim.start()

    @rule(committed=st.integers(0, 3))
    def crash_and_start(self, committed: int) -> None:
        self.crashes.add(self.sim.life)
        self.sim.crash(committed)
        self.allowed.clear()  # a retry is nobody's promise: its letter stays
        self.finished = {key: number for key, number in self.finished.items() if key in self.durable}
        self.sim.start()

    # What must hold

    @invariant()
    def nothing_went_wrong(self) -> None:
        assert not self.failures, self.failures

    @invariant()
    def nobody_is_given_up_who_did_not_see_hosts_die(self) -> None:
        for dead in self.sim.disk.dead.values():
            if "the host died" in dead.error:
                lives = (self.begun_in[f"{dead.rule} {number}", dead.seq] for number in range(1, 100))
                # A host that died between writing that it begins and beginning cannot be told from one that began.
                deaths = self.counted_in[dead.rule, dead.seq].union(*lives) & self.crashes
                assert len(deaths) >= LIMITS.deaths, f"{dead.rule}: {dead.seq} was there when {deaths} died"

    def teardown(self) -> None:
        try:
            if not self.failures and hasattr(self.sim, "journal"):
                self._bring_to_an_end()
                self.nothing_went_wrong()
        finally:
            self.sim.close()
            self._patch.undo()

    def _bring_to_an_end(self) -> None:
        sim = self.sim
        sim.release()
        sim.wall_offset_ms += 3_600_000 * 100
        for _ in range(100):
            sim.finish_all()
            sim.advance(20)
            if not sim.under_way and all(
                one.queued + one.running + one.held + one.lags == 0 for one in sim.engine.statistics()
            ):
                break
        else:
            pytest.fail(f"it does not come to an end: {sim.engine.statistics()}")
        assert sim.engine.missed == 0
        sim.stop()
        for gate, expected in self.expected.items():
            name = gate.split()[0]
            dead = self._dead(gate)
            for seq in expected:
                verdict = self.verdicts.get((seq, name), "nothing")
                runs = self.begun[gate, seq]
                assert runs or seq in dead or verdict not in ("nothing", "held"), f"{gate}: {seq} is lost"
                assert (gate, seq) in self.finished or seq in dead or not runs or verdict != "run", f"{gate}: {seq}"
                if not self.crashes and verdict not in ("run", "nothing"):
                    assert not runs, f"{gate}: {seq} is {verdict}, and was run"
        assert not sim.disk.pending
        positions = sim.disk.positions.values()
        assert all(position.seq >= sim.disk.head or sim.disk.low >= sim.disk.head for position in positions)


TestDelivery = Delivery.TestCase
TestDelivery.pytestmark = [pytest.mark.timeout(120 + EXAMPLES)]
TestDelivery.settings = settings(max_examples=EXAMPLES, stateful_step_count=40, deadline=None)
