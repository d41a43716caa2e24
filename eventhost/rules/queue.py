"""One rule's runs: its own shaping, queue, workers and failures; nobody else ever waits for them.

entry ─► when ─► shaper ─► owed (bounded: a rule that is full lags) ─► worker ─► its steps ─► delivered, failed, expired
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from time import perf_counter
from typing import Final

import anyio
import anyio.abc
import msgspec
import structlog

from eventhost.actions import HOST, Hands, caused_event
from eventhost.actions.step import Retry
from eventhost.errors import EventhostError
from eventhost.event import EnvEvent, event_name
from eventhost.expression import Condition, ExpressionError
from eventhost.gaps import Gap, Reason
from eventhost.journal import DeadLetter, Entry, Pending, Position, Trace
from eventhost.measures import Histogram
from eventhost.rules.crew import Crew
from eventhost.rules.delivery import Delivery, End, Outcome
from eventhost.rules.letters import Room
from eventhost.rules.owed import Held, Owed
from eventhost.rules.query import answer_event
from eventhost.rules.records import Records
from eventhost.rules.rule import USER_QUERY, Rule
from eventhost.rules.run import Run
from eventhost.rules.shaper import Shaper, Verdict
from eventhost.rules.trace import Tracing, dead_letter
from eventhost.rules.turn import Turn
from eventhost.rules.workers import Workers

log = structlog.get_logger()

DEAD_LETTER: Final = "host.dead_letter"

KEEPS_FAILING: Final = 3
"""So many failures one after the other make a rule `failing`."""

_FEW: Final = 16
"""So many runs may wait in memory whatever the other rules have."""

_FEW_LARGE: Final = 2
"""The same, however large they are."""

_COMPLAINT_S: Final = 60.0
_MAX_ERROR: Final = 2_000

_CAREFUL: Final = 100
"""So many runs are counted as attempts after a crash: more than were done in the time that is written at once."""

_TELL_S: Final = 10.0
"""How long it may take to tell of a run that has ended, be it that the host ends or that its disk is full."""

_STATE_SHARE: Final = 20
"""Writing what shaping remembers takes at most this part of the time."""


class RuleState(StrEnum):
    """How a rule fares."""

    RUNNING = "running"
    FAILING = "failing"
    """Its condition, or its actions, failed each of the last few times."""
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a rule may gather, and how its actions are tried again unless they say it themselves."""

    queue: int = 1_000
    """Runs that wait in memory; a rule that has so many reads the journal at its own pace from there on."""
    runs: int = 20_000
    """The same, of all rules together; each may have a few in any case."""
    bytes: int = 64 * 1_048_576
    """How long the JSON of the events is that all rules' runs keep in memory, but for a few runs of each rule."""
    retry: Retry = field(default_factory=Retry)
    deaths: int = 3
    """How many hosts may die of a run before it is given up."""


@dataclass(frozen=True, slots=True)
class RuleStatistics:
    """What became of a rule's events since the engine started, in counts; a run may be for several of them."""

    name: str
    state: RuleState
    matched: int
    """What a host before left to it is among them."""
    suppressed: dict[str, int]
    """By verdict: throttled, duplicate, expired and so on."""
    held: int
    """Wait for their run: in a batch, say."""
    queued: int
    """Runs that wait for their turn."""
    running: int
    delivered: int
    failed: int
    """Given up; each is a dead letter."""
    retried: int
    """Attempts that failed, and were followed by another."""
    lags: int
    """How many events, of whatever kind, the rule has still to look at."""
    condition_errors: int
    last_error: str | None

    @classmethod
    def idle(cls, rule: Rule) -> RuleStatistics:
        """Of a rule that has had nothing to do."""
        state = RuleState.RUNNING if rule.enabled else RuleState.DISABLED
        return cls(rule.name, state, 0, {}, 0, 0, 0, 0, 0, 0, 0, 0, None)


@dataclass(frozen=True, slots=True)
class Common:
    """What the rules of one engine have in common."""

    hands: Hands
    limits: Limits
    tracing: Tracing
    crew: Crew
    monotonic: Callable[[], float]
    wall_ms: Callable[[], int]
    written: Callable[[], Awaitable[None]]
    """Writes down what is to be written, now."""
    matched: Callable[[], int]
    """How far the matcher is."""
    owing: Callable[[], int]
    """How many rules there are that owe something."""
    took: Histogram
    """How long runs take."""
    held: Held = field(default_factory=Held)
    turn: Turn = field(default_factory=Turn)


class RuleQueue:
    """What one rule has to do; survives the rule's being edited.

    It `follows` when it is offered each event that the matcher comes to; one that is full, or behind for any other
    reason, lags: it is brought along from `position`, as it has room.
    """

    def __init__(self, rule: Rule, common: Common, on_change: Callable[[RuleQueue], None]) -> None:
        """`on_change` is told when there is something to write, and when a run has ended."""
        self.rule = rule
        self.position = 0
        """It was offered what it had to be offered up to here; of one that follows, the last before it did."""
        self.follows = True
        self.apart = False
        """Whether it has a place of its own in the journal, whatever the others' is."""
        self._common, self._on_change = common, on_change
        self._limits, self._tracing, self._held = common.limits, common.tracing, common.held
        self._wall_ms, self._matched_to = common.wall_ms, common.matched
        self._owed = Owed(rule.name, self._held)
        self._since: dict[int, float] = {}
        """Since when what was matched is owed, by the runs' numbers."""
        self._workers = Workers(
            self._owed,
            rule.concurrency,
            lambda: self.rule.concurrency > 1 and self._owed.bytes < self._free,
            self._deliver,
            common.crew,
            lambda: self._on_change(self),
        )
        self._delivery = self._make_delivery(rule)
        self._shaper = self._make_shaper(rule, None)
        self._offered_from: int | None = None
        """The first event that shaping got since its state was last written."""
        self._write_state_at = 0.0
        self._state: Position | None = None
        """What shaping remembers, ready to be written."""
        self._say_place = False
        """Whether its place is to be written the next time in any case."""
        self._gone = False
        self._suspects = 0
        """How many of the next runs the last host may have died of."""
        self._letters: dict[int, list[int]] = {}
        """Dead letters that are tried once more: their ids by their runs' numbers."""
        self.overflow: Gap | None = None
        """Events that shaping had no room to hold; whoever tells of it takes it away."""
        self._dead: list[DeadLetter] = []
        self._buried: list[int] = []
        self._traces: list[Trace] = []
        self._matched = self._delivered = self._failed = self._retried = self._condition_errors = 0
        self._suppressed: Counter[str] = Counter()
        self._condition_failures = self._delivery_failures = 0
        """In a row."""
        self._last_error: str | None = None
        self._complaints: dict[str, float] = {}

    # What comes in

    def offer(self, entry: Entry) -> None:
        """Take an entry whose type and pattern match, unless the condition says no. Never waits."""
        if not self._holds(self.rule.when, entry):
            return
        self._matched += 1
        if self._shaper is not None:
            self._shaped(entry.seq, self._shaper.offer(entry, self._wall_ms()))
        elif not self._owed.has(entry.seq):
            self._owed.add(Run((entry,), entry.event.timestamp))
            self._since[entry.seq] = perf_counter()
            self._go_on()

    def answer(self, entry: Entry) -> None:
        """Take an entry whose absence the rule waits for, unless the condition on it says no. Never waits."""
        absence = self.rule.shaping.absence
        if self._shaper is not None and absence is not None and self._holds(absence.when, entry):
            self._shaped(entry.seq, self._shaper.answer(entry))

    def advance(self, now_ms: int) -> None:
        """Begin what is due by now. To be called only once everything accepted before has been offered."""
        if self._shaper is not None and (runs := self._shaper.advance(now_ms)):
            self._shaped(self._seen_to + 1, runs)

    def _shaped(self, seq: int, runs: Iterable[Run]) -> None:
        self._touch(seq)
        for run in runs:
            if not self._owed.has(run.seq):
                self._owed.add(run)
                self._since[run.seq] = perf_counter()
        self._go_on()

    def _touch(self, seq: int) -> None:
        """Have the shaping's state written: an event, or what else came before this one, has changed it."""
        if self._offered_from is None:
            self._offered_from = seq

    def _go_on(self) -> None:
        self._on_change(self)
        self._workers.staff()

    @property
    def is_full(self) -> bool:
        """Whether no more should be offered for now."""
        waiting = len(self._owed.waiting)
        if waiting >= self._limits.queue or (waiting >= _FEW_LARGE and self._owed.bytes >= self._free):
            return True
        return waiting >= _FEW and waiting >= self._share

    @property
    def has_room(self) -> bool:
        """Whether it is worth the while to offer more to one that was full."""
        waiting = len(self._owed.waiting)
        if waiting >= _FEW_LARGE and 2 * self._owed.bytes > self._free:
            return False
        return waiting <= min(self._limits.queue, max(_FEW, self._share)) // 2

    @property
    def _free(self) -> int:
        """How much more all rules together may keep in memory: a rule has no more than would be left for the others."""
        return self._limits.bytes - self._held.bytes

    @property
    def _share(self) -> int:
        return self._limits.runs // max(1, self._common.owing())

    @property
    def settled(self) -> bool:
        """Nothing waits for its turn, and nothing is being done."""
        return not len(self._owed)

    @property
    def idle(self) -> bool:
        """Nothing is being done but to wait for another attempt."""
        return self._workers.idle

    @property
    def due_ms(self) -> int | None:
        """The wall-clock time at which `advance` has something to do, if nothing happens before."""
        return self._shaper.due_ms if self._shaper is not None else None

    @property
    def _seen_to(self) -> int:
        """Up to where everything was offered."""
        return max(self._matched_to(), self.position) if self.follows else self.position

    # What is written down

    def restore(self, state: bytes | None, runs: Iterable[Pending], entries: Mapping[int, Entry]) -> None:
        """Go on from what a host before this one wrote; `entries` has the events of `runs` and of the state."""
        self._owed.restore(run for row in runs if (run := self._taken_up(row, entries)) is not None)
        if state is not None and self._shaper is not None:
            self._shaper.load(msgspec.json.decode(state), entries.get)
            self._matched += self._shaper.held
        elif state is not None:
            # It was edited while no host was there, and has no shaping any more: what was held is due.
            before = Shaper(self.rule.shaping, self._note)
            before.load(msgspec.json.decode(state), entries.get)
            for run in before.flush():
                if not self._owed.has(run.seq):
                    self._owed.add(run)
            self._owed.write_all()
            self._say_place = True
        self._go_on()

    def _taken_up(self, row: Pending, entries: Mapping[int, Entry]) -> Run | None:
        found = tuple(entries[seq] for seq in row.entries if seq in entries)
        if not found or found[-1].seq != row.seq:
            log.error("rule_run_lost", rule=self.rule.name, seq=row.seq, reason="the journal no longer has its event")
            self._owed.end(row.seq)
            return None
        self._matched += len(found)
        return Run(found, row.born_ms, row.left_out, row.attempts)

    def suspect(self) -> None:
        """Count the next runs as attempts before they are begun: the last host may have died of one of them.

        Each is written down together with the end of the one before it: what a host did not die of is soon cleared.
        """
        self._suspects = max(_CAREFUL, 2 * self.rule.concurrency)

    def stand(self, position: int, *, follows: bool) -> None:
        """Begin behind `position`, as the journal has it."""
        self.position, self.follows = position, follows
        self.apart = self._say_place = not follows

    @property
    def owed_from(self) -> int | None:
        """The first event that must be looked at again if the host died now; None when nothing would be missing."""
        if self._gone:
            return None
        return self._offered_from if self._shaper is not None else self._owed.first

    @property
    def needed_from(self) -> int | None:
        """The oldest event that is still needed: that owes a run, or that shaping holds."""
        numbers = [run.entries[0].seq for run in self._owed if not run.again]
        if self._shaper is not None and (held := self._shaper.held_from) is not None:
            numbers.append(held)
        if self._offered_from is not None:
            numbers.append(self._offered_from)
        if not self.follows:
            numbers.append(self.position + 1)
        return min(numbers, default=None)

    def snapshot(self, *, whole: bool) -> None:
        """Make ready what shaping remembers, unless that was done a short while ago; if `whole`, in any case."""
        begun = time.perf_counter()
        if self._shaper is None or self._offered_from is None or (begun < self._write_state_at and not whole):
            return
        state = msgspec.json.encode(self._shaper.dump())
        self._owed.write_all()
        self._state = Position(self.rule.name, self._seen_to, not self.follows, state)
        self._offered_from = None
        # A large state is written less often: what is done since the last time would be done once more.
        took_s = time.perf_counter() - begun
        self._write_state_at = begun + took_s * _STATE_SHARE

    def write(self, records: Records, low: int) -> None:
        """Add to the records what is to be written of this rule; nothing of it need be owed up to `low`."""
        if not self._gone:
            self._write_place(records, low)
        records.dead += self._dead
        records.buried += self._buried
        records.traces += self._traces
        self._dead, self._buried, self._traces = [], [], []

    def _write_place(self, records: Records, low: int) -> None:
        if self._shaper is None:
            place = self._owed.place(self._seen_to)
            if self.apart or self._say_place or place > low:
                records.positions.append(Position(self.rule.name, place, self.apart))
                self._say_place = self.apart
        elif self._state is not None:
            records.positions.append(self._state)
            self._state = None
        pending, ended = self._owed.rows()
        records.pending += pending
        records.ended += ended

    @property
    def unwritten(self) -> bool:
        """Whether there is more to write another time."""
        return self._shaper is not None and self._offered_from is not None and not self._gone

    def lag(self, position: int) -> None:
        """Be offered nothing more by the matcher; everything up to `position` was."""
        self.follows, self.position = False, position
        self._on_change(self)

    def follow(self) -> None:
        """Be offered by the matcher what comes next."""
        self.follows = True
        self._touch_state()  # so that its new place is written
        self._on_change(self)

    def _touch_state(self) -> None:
        if self._shaper is not None:
            self._touch(self._seen_to + 1)

    # What changes by hand

    def exchange(self, rule: Rule) -> None:
        """Go on with what waits as `rule` says; what is being done right now is finished as it was begun.

        What was held by shaping that has changed is due at once.
        """
        self.rule, self._delivery = rule, self._make_delivery(rule)
        self._workers.concurrency = rule.concurrency
        before, self._shaper = self._shaper, self._make_shaper(rule, self._shaper)
        if before is not None and self._shaper is None:
            for run in before.flush():
                self._owed.add(run)
            self._offered_from = None
        # What the rule as it was had matched, the rule as it is may not match again.
        self._owed.write_all()
        self._say_place, self._write_state_at = True, 0.0
        self._touch_state()
        self._condition_failures = self._delivery_failures = 0
        self._go_on()

    def discard(self) -> int:
        """Forget what waits and what is held; return how much that was. What is being done is finished."""
        count = self._owed.discard()
        self._since.clear()
        self._letters = {seq: ids for seq, ids in self._letters.items() if seq in self._owed.running}
        if self._shaper is not None:
            count += self._shaper.held
            self._shaper = self._make_shaper(self.rule, None)
            self._touch_state()
        self._owed.write_all()  # what is being done must not hold the rule's place, should it be enabled again
        self._on_change(self)
        return count

    def retire(self) -> int:
        """Forget what waits and what is held; from now on nothing is written but what becomes of what is being done.

        Returns how much it forgot. Another rule may bear the name by then.
        """
        self._gone = True
        return self.discard()

    def release(self) -> None:
        """Begin now what shaping holds, since it would be lost."""
        if self._shaper is not None:
            self._shaped(self._seen_to + 1, self._shaper.flush())

    def retry(self, letter: DeadLetter, run: Run) -> None:
        """Begin a dead letter's run once more; the letter stays until that is done.

        One that is under way already, for this letter or another, is not begun twice.
        """
        letters = self._letters.setdefault(run.seq, [])
        if letter.id not in letters:
            letters.append(letter.id)
        if not self._owed.owes(run.seq):
            self._owed.repeat(run)
            self._go_on()

    @property
    def retrying(self) -> set[int]:
        """The ids of the dead letters that are tried once more at this moment."""
        return {number for numbers in self._letters.values() for number in numbers}

    def give_up(self, upto: int, room: Room, reason: str) -> tuple[int, int]:
        """Let what waits for events up to `upto` be dead letters; return how many are, and how many had no room."""
        old = [run for run in self._owed.waiting if run.entries[0].seq <= upto and not run.again]
        kept = 0
        for run in old:
            self._owed.drop(run)
            self._since.pop(run.seq, None)
            if room.take(run.size):
                self.bury(run, reason)
                kept += 1
        return kept, len(old) - kept

    def bury(self, run: Run, reason: str) -> None:
        """Make a dead letter of a run that is not even begun."""
        outcome = self._delivery.give_up(reason)
        self._failed += 1
        self._dead.append(dead_letter(run, self.rule.name, outcome, self._wall_ms()))
        self._on_change(self)

    def would_run(self, entry: Entry) -> bool:
        """Whether the condition holds for an entry that matches; nothing is counted."""
        try:
            return self.rule.when is None or self.rule.when.holds(entry.event, at_ms=entry.at_ms)
        except ExpressionError:
            return False

    # What is done

    def _make_delivery(self, rule: Rule) -> Delivery:
        shaping = rule.shaping
        return Delivery(
            rule.name, rule.steps, self._common.hands, self._limits.retry, shaping.max_age_s, self._spend,
            shaping.gathers, self._wall_ms, self._workers.pause, rule.uses,
        )  # fmt: skip

    async def _deliver(self, run: Run) -> None:
        if run.seq not in self._owed.accused:
            await self._do(run)
            return
        async with self._common.turn.taken():
            await self._do(run)

    async def _do(self, run: Run) -> None:
        rule, delivery = self.rule, self._delivery
        if self._suspects > 0 and not run.again:
            self._suspects -= 1
            run = msgspec.structs.replace(run, attempts=run.attempts + 1)
            self._owed.keep(run)
            self._on_change(self)
            await self._common.written()
        if run.attempts > self._limits.deaths:
            outcome = delivery.give_up(f"the host died {run.attempts - 1} times while this was being done")
        else:
            outcome = await delivery.deliver(run)
        if outcome.end is End.FAILED or run.entries[-1].event.type == USER_QUERY:
            await self._tell(run, rule, outcome)
        # From here to the end nothing waits: what came of the run is written together with its end, or neither is.
        self._heed(run, rule, outcome)
        self._owed.finish(run)
        if (since := self._since.pop(run.seq, None)) is not None:
            self._common.took.observe(perf_counter() - since)
        self._on_change(self)
        if run.attempts:
            self._workers.staff()  # it may have been the last that was done alone

    async def _tell(self, run: Run, rule: Rule, outcome: Outcome) -> None:
        """Publish what came of the run. Were it written down before, a host that dies here would never tell."""
        if outcome.end is End.FAILED:
            await self._tell_failure(run.entry, rule, outcome)
        if rule.answers and run.entry.event.type == USER_QUERY:
            await self._publish(lambda: answer_event(run.entry, rule.name, outcome))

    def _heed(self, run: Run, rule: Rule, outcome: Outcome) -> None:
        if outcome.error is not None:
            self._last_error = outcome.error[:_MAX_ERROR]
        if outcome.failures:
            self._retried += outcome.failures - (outcome.end is End.FAILED)
        if self._letters and (letters := self._letters.pop(run.seq, [])) and outcome.end is not End.EXPIRED:
            self._buried += letters
        match outcome.end:
            case End.DELIVERED:
                self._delivered += 1
                self._delivery_failures = 0
            case End.EXPIRED:
                self._suppressed[Verdict.EXPIRED] += len(run.entries)
            case End.FAILED:
                self._failed += 1
                self._delivery_failures += 1
                self._dead.append(dead_letter(run, rule.name, outcome, self._wall_ms()))
        if self._tracing is not Tracing.OFF:
            self._traces += self._tracing.run(rule.name, run, outcome)

    # How it fares

    def statistics(self, head: int) -> RuleStatistics:
        """A snapshot; `head` is the number of the newest event."""
        return RuleStatistics(
            self.rule.name,
            self._fares(),
            self._matched,
            dict(self._suppressed),
            self._shaper.held if self._shaper is not None else 0,
            len(self._owed.waiting),
            len(self._owed.running),
            self._delivered,
            self._failed,
            self._retried,
            0 if self.follows else head - self.position,
            self._condition_errors,
            self._last_error,
        )

    def _fares(self) -> RuleState:
        if not self.rule.enabled:
            return RuleState.DISABLED
        failing = max(self._condition_failures, self._delivery_failures) >= KEEPS_FAILING
        return RuleState.FAILING if failing else RuleState.RUNNING

    def _make_shaper(self, rule: Rule, before: Shaper | None) -> Shaper | None:
        return None if rule.shaping.is_plain else Shaper(rule.shaping, self._note, before)

    def _note(self, seq: int, verdict: Verdict) -> None:
        if verdict not in (Verdict.RUN, Verdict.HELD):
            self._suppressed[verdict] += 1
        if verdict is Verdict.KEY_ERROR and self._shaper is not None:
            self._last_error = (self._shaper.last_error or "")[:_MAX_ERROR]
            self._complain("rule_key_failed", seq=seq, error=self._last_error)
        if verdict is Verdict.OVERFLOW:
            gap = Gap(Reason.OVERFLOW, seq, seq, 1, more={"rule": self.rule.name})
            self.overflow = gap if self.overflow is None else self.overflow.followed_by(gap)
        self._traces += self._tracing.verdict(self.rule.name, seq, verdict)

    def _holds(self, condition: Condition | None, entry: Entry) -> bool:
        if condition is None:
            return True
        try:
            holds = condition.holds(entry.event, at_ms=entry.at_ms)
        except ExpressionError as error:
            self._condition_errors += 1
            self._condition_failures += 1
            self._last_error = str(error)[:_MAX_ERROR]
            self._complain("rule_condition_failed", seq=entry.seq, error=self._last_error)
            return False
        self._condition_failures = 0
        return holds

    def _spend(self, tokens: int) -> None:
        if self._shaper is not None:
            self._shaper.spend(tokens, self._wall_ms())
            self._touch_state()

    async def _tell_failure(self, entry: Entry, rule: Rule, outcome: Outcome) -> None:
        event, step, error = entry.event, outcome.steps[-1], (outcome.error or "")[:_MAX_ERROR]
        log.error(
            "dead_letter", rule=rule.name, action=step.kind, place=step.place, seq=entry.seq,
            event_id=event_name(event), attempts=step.attempts, error=error,
        )  # fmt: skip
        if event.type == DEAD_LETTER:
            return  # a rule about failures that fails itself would go on for ever
        payload = {
            "rule": rule.name,
            "action": step.kind,
            "place": step.place,
            "seq": entry.seq,
            "event": event_name(event),
            "type": event.type,
            "attempts": step.attempts,
            "error": error,
        }
        await self._publish(
            lambda: caused_event(DEAD_LETTER, payload, cause=entry, rule=rule.name, place=step.place, source_name=HOST)
        )

    async def _publish(self, make: Callable[[], EnvEvent]) -> None:
        try:
            # A host that ends does not cut it off: what is done but not told would be done once more.
            with anyio.fail_after(_TELL_S, shield=True):
                await self._common.hands.publish(make())
        except TimeoutError:
            log.warning("rule_event_unsaid", rule=self.rule.name, error="the journal does not take it")
        except EventhostError as error:
            log.warning("rule_event_unsaid", rule=self.rule.name, error=str(error))

    def _complain(self, name: str, **fields: object) -> None:
        now = self._common.monotonic()
        if now - self._complaints.get(name, -_COMPLAINT_S) >= _COMPLAINT_S:
            self._complaints[name] = now
            log.warning(name, rule=self.rule.name, **fields)
