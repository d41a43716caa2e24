"""`Shaper`: decides when a rule runs, by the times of the journal alone: the same events give the same runs.

entry ─► maxAge ─► active ─► dedupe ─► debounce | batch | absence ─► throttle ─► budget ─► run
         (each may end an event's way here, with a verdict that is counted)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from eventhost.expression import ExpressionError
from eventhost.journal import Entry
from eventhost.rules.run import Run
from eventhost.rules.shaping import Shaping, spec
from eventhost.rules.shaping.digest import Allowance, Digest
from eventhost.rules.shaping.key import Key
from eventhost.rules.shaping.rate import Rate
from eventhost.rules.shaping.timeline import Timeline
from eventhost.rules.shaping.verdict import Verdict
from eventhost.rules.shaping.window import Absence, Batch, Debounce, Held, Tell, Window, size_of

__all__ = ["Bounds", "Shaper", "Verdict", "held_in"]

VERSION: Final = 1
"""Of what each stage dumps."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much one rule may remember and hold; bytes are those of the events' JSON."""

    keys: int = 10_000
    """For each of `throttle` and `dedupe`."""
    times: int = 100_000
    """How many runs `throttle` remembers, of all keys."""
    events: int = 10_000
    """What `debounce`, `batch` or `absence` hold."""
    bytes: int = 16 * 1_048_576
    digest_events: int = 1_000
    digest_bytes: int = 1_048_576


class Shaper:
    """One rule's shaping. Pure: no clock, no task; whoever owns it calls `advance` when `due_ms` has come.

    `note` is told each verdict on each event, the last one last: an event that is held gets another one later.

    What is due is let go as of the time when it was due, whenever that is noticed: further calls of `advance` change
    nothing. An event at the very moment when something is due comes too late for it.
    """

    def __init__(
        self,
        shaping: Shaping,
        note: Callable[[int, Verdict], None],
        before: Shaper | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        """`before` is that of the rule before it was edited: stages that are configured alike go on with their state.

        What another stage of it held is due at once. Do not use it afterwards: it is empty.
        """
        self._shaping, self._note = shaping, note
        self.last_error: str | None = None
        """Why a key could not be filled in the last time."""
        self._time = Timeline()
        self._counts: Counter[Verdict] = Counter()
        bounds = bounds or Bounds()
        dedupe, throttle, budget = shaping.dedupe, shaping.throttle, shaping.budget
        self._dedupe = Rate(1, dedupe.within_ms, bounds.keys, bounds.times) if dedupe is not None else None
        self._window = _window(shaping, bounds, self._tell)
        self._throttle = (
            Rate(throttle.limit, throttle.per_ms, bounds.keys, bounds.times) if throttle is not None else None
        )
        self._allowance = Allowance(budget.runs_per_hour, budget.tokens_per_hour) if budget is not None else None
        self._digest = Digest(bounds.digest_events, bounds.digest_bytes, self._tell)
        self._holds = self._window is not None or self._allowance is not None
        """Whether any stage ever holds events."""
        self._answering: int | None = None
        """The event that last ended a wait for an absence."""
        self._backlog: list[Run] = []
        """What another shaping held; due at once."""
        if before is not None:
            self._counts.update(before._counts)
            self.last_error = before.last_error
            entries = {entry.seq: entry for entry in before._held_entries()}
            self.load(before.dump(), entries.get)
            before._empty()

    def offer(self, entry: Entry, now_ms: int) -> list[Run]:
        """Take an event that matches, at wall-clock time `now_ms`; return the runs that are due, oldest first.

        Whatever was due by `entry.at_ms` comes first.
        """
        at_ms = self._time.at(entry.at_ms)
        # Under a flood most rules hold nothing, and this is asked for each event.
        runs = self._let_go(at_ms) if self._holds or self._backlog else []
        self._time.reach(at_ms)
        shaping = self._shaping
        if shaping.max_age_s is not None and now_ms - entry.event.timestamp > shaping.max_age_s * 1000:
            self._tell((entry,), Verdict.EXPIRED)
        elif shaping.active is not None and not shaping.active.covers(entry.at_ms):
            self._tell((entry,), Verdict.INACTIVE)
        elif shaping.dedupe is not None and not (
            # What has just ended a wait begins the next one: else nobody would notice if it was the last of its kind.
            entry.seq == self._answering or self._admits(self._dedupe, shaping.dedupe.key, (entry,), at_ms)
        ):
            pass
        elif self._window is None:
            self._pass((entry,), entry.event.timestamp, at_ms, runs, held=False)
        elif shaping.hold is not None and (key := self._key(shaping.hold.key, (entry,))) is not None:
            for held in self._window.take(entry, key, at_ms):
                self._pass(tuple(held.entries), self._time.clock_ms(at_ms), at_ms, runs)
        return runs

    def answer(self, entry: Entry) -> list[Run]:
        """Take an event of the kind whose absence is waited for; return the runs that were due before it.

        An event that matches the rule too is answered with first, and then offered. One whose key cannot be filled in
        answers nothing; that is counted, but no verdict on an event of the rule.
        """
        at_ms = self._time.at(entry.at_ms)
        runs = self._let_go(at_ms)
        self._time.reach(at_ms)
        absence, window = self._shaping.absence, self._window
        if absence is not None and isinstance(window, Absence):
            try:
                if window.answer(absence.of_key.of(entry) if absence.of_key is not None else ""):
                    self._answering = entry.seq
            except ExpressionError as error:
                self.last_error = f"key: {error}"
                self._counts[Verdict.KEY_ERROR] += 1
        return runs

    def advance(self, now_ms: int) -> list[Run]:
        """Return the runs that are due by `now_ms`; all events accepted before have been offered.

        A clock that was set back is believed only when the next event comes.
        """
        return self._let_go(now_ms + self._time.behind_ms)

    def spend(self, tokens: int, now_ms: int) -> None:
        """Take so many tokens from the budget."""
        if self._allowance is not None:
            self._allowance.spend(tokens, now_ms + self._time.behind_ms)

    @property
    def due_ms(self) -> int | None:
        """When `advance` has something to do; None while nothing is held."""
        due_ms = self._due()
        return None if due_ms is None else self._time.clock_ms(due_ms)

    @property
    def held(self) -> int:
        """How many events wait here."""
        backlog = sum(len(run.entries) for run in self._backlog)
        return backlog + (len(self._window) if self._window is not None else 0) + len(self._digest)

    @property
    def held_from(self) -> int | None:
        """The lowest number of an event that waits here."""
        return min((entry.seq for entry in self._held_entries()), default=None)

    def flush(self) -> list[Run]:
        """Give up what is held, as runs, oldest first, whatever throttle and budget say.

        For an owner that cannot keep the state: the host stops, or the rule has no shaping any more. What waits for an
        absence is not run for, since nothing is absent yet: it is lost.
        """
        runs, born_ms = self._backlog, self._time.clock_ms(self._time.now_ms)
        if self._digest:
            entries, left_out = self._digest.clear()
            runs.append(Run(entries, born_ms, left_out))
        if self._window is not None:
            for held in self._window.clear():
                if isinstance(self._window, Absence):
                    self._tell(held.entries, Verdict.LOST)
                else:
                    runs.append(Run(tuple(held.entries), born_ms))
        self._backlog = []
        for run in runs:
            self._tell(run.entries, Verdict.RUN)
        return runs

    def dump(self) -> dict[str, Any]:
        """The state as JSON; events are named by their sequence numbers."""
        shaping, now_ms = self._shaping, self._time.now_ms
        state: dict[str, Any] = {"time": {"v": VERSION, **self._time.dump()}}
        if shaping.dedupe is not None and self._dedupe is not None:
            state["dedupe"] = {"v": VERSION, "of": _mark(shaping.dedupe), "keys": self._dedupe.dump(now_ms)}
        if shaping.hold is not None and self._window is not None:
            state[shaping.hold.name] = {"v": VERSION, "of": _mark(shaping.hold), "held": self._window.dump()}
        if shaping.throttle is not None and self._throttle is not None:
            state["throttle"] = {"v": VERSION, "of": _mark(shaping.throttle), "keys": self._throttle.dump(now_ms)}
        if self._allowance is not None:
            state["budget"] = {"v": VERSION, **self._allowance.dump(), "digest": self._digest.dump()}
        if self._backlog:
            runs = [[run.born_ms, run.left_out, [entry.seq for entry in run.entries]] for run in self._backlog]
            state["backlog"] = {"v": VERSION, "runs": runs}
        return state

    def load(self, state: Mapping[str, Any], entries: Callable[[int], Entry | None]) -> None:
        """Take up a state that `dump` gave; `entries` finds an event again, or None.

        Stages that were configured otherwise begin anew; what they held is due at once. An absence that is waited for
        otherwise goes on being waited for from when it began. What cannot be found again is lost.

        Raises:
            ValueError: the state is of another version.
        """
        for name, stage in state.items():
            if stage["v"] != VERSION:
                raise ValueError(f"the state of {name} is of version {stage['v']}; this host knows version {VERSION}")
        shaping, find = self._shaping, _Finder(entries, self._say)
        self._time.load(state["time"])
        if self._dedupe is not None and shaping.dedupe is not None and _alike(state, shaping.dedupe):
            self._dedupe.load(state["dedupe"]["keys"])
        if self._throttle is not None and shaping.throttle is not None and _alike(state, shaping.throttle):
            self._throttle.load(state["throttle"]["keys"])
        if "backlog" in state:
            self._backlog = [
                Run(found, born_ms, left_out)
                for born_ms, left_out, seqs in state["backlog"]["runs"]
                if (found := find(seqs))
            ]
        for name in spec.HOLDING:
            if name in state:
                self._load_held(name, state, find)
        if "budget" in state:
            # Whatever the budget is by now: what was used was used.
            self._load_budget(state["budget"], find)

    def statistics(self) -> Counter[Verdict]:
        """How many events got which verdict, but for `RUN` and `HELD`."""
        return Counter({verdict: count for verdict, count in self._counts.items() if verdict not in _UNSUPPRESSED})

    def _due(self) -> int | None:
        """When the next thing is due, in the rule's time."""
        first_ms = self._window.due_ms if self._window is not None else None
        if self._allowance is not None and self._digest:
            free_ms = self._allowance.free_ms
            first_ms = free_ms if first_ms is None else min(first_ms, free_ms)
        now_ms = self._time.now_ms
        if self._backlog:
            return now_ms
        return first_ms if first_ms is None or first_ms > now_ms else now_ms

    def _let_go(self, until_ms: int) -> list[Run]:
        runs: list[Run] = []
        while (due_ms := self._due()) is not None and due_ms <= until_ms:
            self._time.reach(due_ms)
            born_ms = self._time.clock_ms(due_ms)
            if self._backlog:
                backlog, self._backlog = self._backlog, []
                for run in backlog:
                    self._pass(run.entries, run.born_ms, due_ms, runs, left_out=run.left_out)
            elif self._window is not None and self._window.is_due(due_ms):
                self._pass(tuple(self._window.pop_first().entries), born_ms, due_ms, runs)
            elif self._allowance is not None:
                entries, left_out = self._digest.clear()
                self._allowance.run(due_ms)
                self._run(entries, born_ms, runs, left_out)
        return runs

    def _pass(
        self,
        entries: tuple[Entry, ...],
        born_ms: int,
        at_ms: int,
        runs: list[Run],
        *,
        held: bool = True,
        left_out: int = 0,
    ) -> None:
        """Take events that are a run, as far as throttle and budget allow."""
        throttle = self._shaping.throttle
        if throttle is not None and not self._admits(self._throttle, throttle.key, entries, at_ms):
            return
        if self._allowance is not None:
            if self._digest or self._allowance.free_ms > at_ms:
                if not held:
                    self._tell(entries, Verdict.HELD)
                self._digest.add(entries, left_out)
                return
            self._allowance.run(at_ms)
        self._run(entries, born_ms, runs, left_out)

    def _run(self, entries: tuple[Entry, ...], born_ms: int, runs: list[Run], left_out: int) -> None:
        self._tell(entries, Verdict.RUN)
        runs.append(Run(entries, born_ms, left_out))

    def _admits(self, rate: Rate | None, key: Key | None, entries: tuple[Entry, ...], at_ms: int) -> bool:
        text = self._key(key, entries)
        if text is None:
            return False
        if rate is None or rate.admits(text, at_ms):
            return True
        self._tell(entries, Verdict.THROTTLED if rate is self._throttle else Verdict.DUPLICATE)
        return False

    def _key(self, key: Key | None, entries: tuple[Entry, ...]) -> str | None:
        """The key of what is a run, which is that of its last event; None, with the verdict said, if it has none."""
        if key is None:
            return ""
        try:
            return key.of(entries[-1])
        except ExpressionError as error:
            self.last_error = f"key: {error}"
            self._tell(entries, Verdict.KEY_ERROR)
            return None

    def _tell(self, entries: Iterable[Entry], verdict: Verdict) -> None:
        for entry in entries:
            self._counts[verdict] += 1
            self._note(entry.seq, verdict)

    def _say(self, seq: int, verdict: Verdict) -> None:
        self._counts[verdict] += 1
        self._note(seq, verdict)

    def _load_held(self, name: str, state: Mapping[str, Any], find: _Finder) -> None:
        window, hold = self._window, self._shaping.hold
        waiting = [
            Held(key, since_ms, list(found), sum(map(size_of, found)))
            for key, since_ms, seqs in state[name]["held"]
            if (found := find(seqs))
        ]
        if window is not None and hold is not None and _alike(state, hold):
            window.load(waiting)
            return
        for held in waiting:
            if name != spec.Absence.name:
                self._backlog.append(Run(tuple(held.entries), self._time.clock_ms(self._time.now_ms)))
            elif not isinstance(window, Absence) or hold is None:
                self._tell(held.entries, Verdict.LOST)  # nothing is absent yet, and nobody asks any more
            elif (key := self._key(hold.key, tuple(held.entries))) is not None:
                window.take(held.entries[0], key, held.since_ms)

    def _load_budget(self, state: Mapping[str, Any], find: _Finder) -> None:
        left_out, entries = state["digest"]["left_out"], find(state["digest"]["seqs"])
        if self._allowance is not None:
            self._allowance.load(state)
            self._digest.add(entries, left_out)
        elif entries:
            self._backlog.append(Run(entries, self._time.clock_ms(self._time.now_ms), left_out))

    def _held_entries(self) -> Iterator[Entry]:
        for run in self._backlog:
            yield from run.entries
        if self._window is not None:
            yield from self._window.entries()
        yield from self._digest.entries()

    def _empty(self) -> None:
        self._backlog = []
        if self._window is not None:
            self._window.clear()
        self._digest.clear()


def held_in(state: Mapping[str, Any]) -> set[int]:
    """The numbers of the events that a state from `Shaper.dump` holds."""
    seqs = [seq for name in spec.HOLDING if name in state for held in state[name]["held"] for seq in held[2]]
    seqs += [seq for run in state.get("backlog", {}).get("runs", ()) for seq in run[2]]
    seqs += state.get("budget", {}).get("digest", {}).get("seqs", ())
    return set(seqs)


_UNSUPPRESSED: Final = (Verdict.RUN, Verdict.HELD)


class _Finder:
    """Finds events again by their sequence numbers, and says which are lost."""

    def __init__(self, entries: Callable[[int], Entry | None], say: Callable[[int, Verdict], None]) -> None:
        self._entries, self._say = entries, say

    def __call__(self, seqs: Iterable[int]) -> tuple[Entry, ...]:
        found = []
        for seq in seqs:
            if (entry := self._entries(seq)) is not None:
                found.append(entry)
            else:
                self._say(seq, Verdict.LOST)
        return tuple(found)


def _alike(state: Mapping[str, Any], config: spec.Dedupe | spec.Hold | spec.Throttle) -> bool:
    """Whether the state is that of a stage which was configured like this one."""
    return config.name in state and state[config.name]["of"] == _mark(config)


def _mark(config: spec.Dedupe | spec.Hold | spec.Throttle) -> str:
    """What tells this configuration from others, in few characters."""
    return sha256(config.config.encode()).hexdigest()[:16]


def _window(shaping: Shaping, bounds: Bounds, tell: Tell) -> Window | None:
    match shaping.hold:
        case spec.Debounce(for_ms=span_ms):
            return Debounce(span_ms, bounds.events, bounds.bytes, tell)
        case spec.Batch(within_ms=span_ms, most=most):
            return Batch(span_ms, bounds.events, bounds.bytes, tell, most)
        case spec.Absence(within_ms=span_ms):
            return Absence(span_ms, bounds.events, bounds.bytes, tell)
    return None
