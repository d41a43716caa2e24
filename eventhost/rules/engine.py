"""`RuleEngine`: two readers of one journal: the matcher at its head, and one that brings along the rules that lag.

journal ─► matcher ─► index ─► a rule's queue ─► its workers ─► actions
   │      (one task)           (never waits)    (their own tasks)
   └─────► bringing along ────────▲
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final, NamedTuple, Self

import anyio
import anyio.abc
import anyio.lowlevel
import msgspec
import structlog

from eventhost.actions import Hands
from eventhost.bus import EnvEventBus
from eventhost.errors import BusClosed, ConfigError, NotFound, Problem
from eventhost.gaps import Gap, Reason
from eventhost.journal import DeadLetter, Entry, Position, Progress
from eventhost.pattern import PatternIndex
from eventhost.rules.bell import Bell
from eventhost.rules.crew import Crew
from eventhost.rules.ledger import Ledger
from eventhost.rules.letters import Room
from eventhost.rules.queue import Common, Limits, RuleQueue, RuleStatistics
from eventhost.rules.rule import Rule
from eventhost.rules.run import Run
from eventhost.rules.schedule import Schedule
from eventhost.rules.shaper import held_in
from eventhost.rules.totals import RuleTotals
from eventhost.rules.trace import Tracing, entries_of

log = structlog.get_logger()

_BATCH: Final = 512
_MOST_PENDING: Final = 100_000
"""More than any rule ever has: what shaping let go, and what overtook others."""

_MEASURED: Final = 16
"""Of so many events the first is looked at how long it took to be matched."""

_YIELD_EVERY: Final = 256
_LONGEST_WAIT_S: Final = 60.0
"""A wall clock that is set forward is noticed after so long at the latest."""


GIVEN_UP: Final = "given up, since the journal had reached its hard cap"


class _Role(NamedTuple):
    """What a rule looks at an event for: to run, or because it waits for its absence."""

    rule: str
    answers: bool


def wall_clock_ms() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)


class RuleEngine:
    """Runs the rules on the events of a bus.

    Use it as an async context manager; leave it in the task that entered it. A match is delivered at least once: what a
    rule owed when the host ended, however it ended, the next one delivers. A rule that no host has seen before starts
    from now, or from where its `from` says.
    """

    def __init__(
        self,
        bus: EnvEventBus,
        hands: Hands,
        *,
        limits: Limits | None = None,
        tracing: Tracing = Tracing.FAILURES,
        monotonic: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self._bus, self._hands, self._monotonic, self._wall_ms = bus, hands, monotonic, wall_ms
        self._limits, self._tracing = limits or Limits(), tracing
        self._position = 0
        self._index = PatternIndex[_Role]()
        self._rules: list[Rule] = []
        self._complete = True
        self._by_name: dict[str, Rule] = {}
        self._queues: dict[str, RuleQueue] = {}
        """Of the rules that have, or had, something to do: of a hundred thousand most never have."""
        self._crashed_at = 0
        """The newest event of a host that crashed."""
        self._lagging: dict[str, RuleQueue] = {}
        self._leaving: set[RuleQueue] = set()
        self._schedule = Schedule[RuleQueue]()
        self._sooner = anyio.Event()
        self._room = anyio.Event()
        self._progress = Bell()
        self._missed = 0
        self._past = RuleTotals()
        """Of rules that are gone."""
        self._tasks: anyio.abc.TaskGroup | None = None
        self._common: Common | None = None
        self._ledger: Ledger | None = None

    async def __aenter__(self) -> Self:
        journal = self._bus.journal
        progress = await journal.progress()
        self._position = max(progress.low, journal.first - 1)
        self._crashed_at = journal.head if journal.crashed else 0
        self._ledger = Ledger(journal, lambda: self._position, self._position)
        tasks = anyio.create_task_group()
        await tasks.__aenter__()
        self._tasks = tasks
        self._common = Common(
            self._hands, self._limits, self._tracing, Crew(tasks), self._monotonic, self._wall_ms, self._ledger.write,
            lambda: self._position, self._ledger.owing, self._bus.latency.deliver,
        )  # fmt: skip
        try:
            await self._exchange(self._rules, progress)
            # Before anything is accepted: a host that dies now must not find a rule new once more.
            await self._ledger.write()
        except BaseException:
            tasks.cancel_scope.cancel()
            await tasks.__aexit__(None, None, None)
            raise
        for task in (self._match, self._bring_along, self._keep_time, self._ledger.keep):
            tasks.start_soon(task)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._tasks is not None
        assert self._ledger is not None
        await self.aclose()
        try:
            return await self._tasks.__aexit__(kind, error, trace)
        finally:
            self._note_lagging()
            with anyio.CancelScope(shield=True), suppress(BusClosed):
                await self._ledger.write(whole=True)

    @property
    def missed(self) -> int:
        """How many events the journal no longer held when a rule would have got to them."""
        return self._missed

    async def update(self, rules: Iterable[Rule], *, complete: bool = True) -> None:
        """Let these be the rules, from the next event on.

        Before the engine has started, rules that a host before this one knew, and that are not among these, are
        forgotten if these are `complete`.

        Those that are configured as before are not touched. One that was edited keeps its place, what it owes and its
        counts, and what it is doing right now is finished as it was; one that is gone, or disabled, forgets what it
        owes.
        """
        self._rules, self._complete = list(rules), complete
        if self._tasks is not None and self._ledger is not None:
            await self._exchange(self._rules, None)
            await self._ledger.write()

    def statistics(self) -> list[RuleStatistics]:
        """A snapshot of every rule, in their order."""
        return [self._statistics(rule) for rule in self._rules]

    def past(self) -> RuleTotals:
        """What became of the events of rules that are gone."""
        return self._past.copy()

    def active(self) -> Iterator[RuleStatistics]:
        """A snapshot of each rule that has, or had, something to do, made when it is asked for."""
        head = self._bus.journal.head
        return (queue.statistics(head) for queue in list(self._queues.values()))

    def statistics_of(self, name: str) -> RuleStatistics:
        """A snapshot of one rule.

        Raises:
            KeyError: there is none of this name.
        """
        return self._statistics(self._by_name[name])

    @property
    def unmatched(self) -> int:
        """How many events the matcher has still to come to."""
        return max(0, self._bus.journal.head - self._position)

    def answering(self) -> list[RuleStatistics]:
        """A snapshot of the rules that answer a `USER_QUERY`, in their order."""
        return [self._statistics(rule) for rule in self._rules if rule.enabled and rule.answers]

    def _statistics(self, rule: Rule) -> RuleStatistics:
        queue = self._queues.get(rule.name)
        return queue.statistics(self._bus.journal.head) if queue is not None else RuleStatistics.idle(rule)

    async def drain(self, deadline_s: float, *, retries: bool = True) -> bool:
        """Wait until every event so far is matched and every match dealt with; false when `deadline_s` passed first.

        What the actions emit meanwhile is matched and waited for as well; without `retries` those are not waited for
        that only wait for another attempt.
        """
        if self._tasks is None:
            return True
        with anyio.move_on_after(deadline_s):
            while not self._settled(retries):
                await self._progress.wait()
            return True
        waiting = sum(queue.statistics(0).queued for queue in self._queues.values())
        log.warning("rules_not_drained", deadline_s=deadline_s, queued=waiting)
        return False

    async def needed(self) -> dict[str, int]:
        """For each rule that lags, owes a run or holds events: the oldest event that it needs.

        `*` are all others: what was not matched yet is needed too.

        Raises:
            BusClosed: the journal takes no more.
        """
        assert self._ledger is not None
        needed = {name: seq for name, queue in self._queues.items() if (seq := queue.needed_from) is not None}
        if self._by_name and self._position < self._bus.journal.head:
            needed["*"] = self._position + 1
        self._note_lagging()
        await self._ledger.write()  # so that a host that dies does not look for what is trimmed
        return needed

    async def give_up(self, name: str, upto: int) -> tuple[int, int]:
        """Let a rule not owe anything for events up to `upto`: what it owes become dead letters, and are not begun.

        Returns how many dead letters that made, and how many more runs are lost since there were too many.

        Raises:
            BusClosed: the journal takes no more.
        """
        assert self._ledger is not None
        queue = self._queues.get(name)
        if queue is None:
            return 0, 0
        room = Room()
        kept, lost = queue.give_up(upto, room, GIVEN_UP)
        while not queue.follows and queue.position < upto:
            entries = await self._bus.journal.read(queue.position, min(_BATCH, upto - queue.position))
            for entry in entries:
                if entry.seq > queue.position and (queue, False) in self._interested(entry) and queue.would_run(entry):
                    if room.take(entry.size):
                        queue.bury(Run((entry,), entry.event.timestamp), GIVEN_UP)
                        kept += 1
                    else:
                        lost += 1
            if not queue.follows:
                queue.position = max(queue.position, entries[-1].seq if entries else upto)
            # Page by page: all of them at once would be as much memory as they are.
            self._ledger.note(queue)
            await self._ledger.write()
        self._ledger.note(queue)
        await self._ledger.write()
        return kept, lost

    def release(self) -> None:
        """Begin now what shaping holds back, since it would be lost when the engine ends."""
        for queue in self._queues.values():
            queue.release()

    async def retry(self, letter: DeadLetter) -> None:
        """Do a dead letter's run once more; the letter is gone when that has succeeded, and replaced if it fails.

        Returns once it is begun, or waits for its turn; so long as the rule has too much to do already it waits.

        Raises:
            NotFound: its rule is no more.
            ConfigError: its rule is disabled.
        """
        while True:
            rule = self._by_name.get(letter.rule)
            if rule is None:
                mend = "discard the dead letter, or add the rule again"
                raise NotFound(f"there is no rule {letter.rule} any more; {mend}")
            if not rule.enabled:
                raise ConfigError([Problem("rules", f"{letter.rule} is disabled", "enable it first", "enabled")])
            queue = self._queue(rule)
            if not queue.is_full:
                break
            await self._progress.wait()
        queue.retry(letter, Run(entries_of(letter), self._wall_ms(), again=True))

    def retrying(self) -> set[int]:
        """The ids of the dead letters that are tried once more at this moment."""
        return {number for queue in self._queues.values() for number in queue.retrying}

    async def aclose(self) -> None:
        """End matching and whatever is being done. Leaving the context does it too."""
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()

    # Rules come and go

    async def _exchange(self, rules: list[Rule], progress: Progress | None) -> None:
        assert self._ledger is not None
        names = {rule.name for rule in rules}
        for name in self._by_name.keys() - names:
            self._retire(name)
        if progress is not None and self._complete:
            for name in progress.positions.keys() - names:
                self._ledger.forget(name)
        for number, rule in enumerate(rules, 1):
            before = self._by_name.get(rule.name)
            if before != rule:
                if before is None:
                    await self._begin(rule, progress)
                else:
                    self._edit(before, rule)
                self._by_name[rule.name] = rule
                if rule.enabled:
                    self._add_to_index(rule)
            if number % _YIELD_EVERY == 0:
                await anyio.lowlevel.checkpoint()

    async def _begin(self, rule: Rule, progress: Progress | None) -> None:
        """Let a rule go on where the last host left it, or start where a new one is to start."""
        assert self._ledger is not None
        journal, known = self._bus.journal, progress.positions.get(rule.name) if progress is not None else None
        if known is None or not rule.enabled:
            if progress is not None and rule.name in progress.pending:
                self._ledger.forget(rule.name)
            self._place(rule, await rule.start.find(journal) if rule.enabled else journal.head)
            return
        assert progress is not None
        self._set(rule, known.seq if known.lags else max(known.seq, progress.low))
        if known.lags and known.seq >= self._position:
            # It does not lag any more: said at once, lest the next host begins there again.
            self._ledger.place(msgspec.structs.replace(known, lags=False))
        pending = await journal.pending(rule.name, 0, _MOST_PENDING) if rule.name in progress.pending else []
        if pending or known.state is not None:
            numbers = {seq for run in pending for seq in run.entries}
            if known.state is not None:
                numbers |= held_in(msgspec.json.decode(known.state))
            entries = {entry.seq: entry for entry in await journal.entries(sorted(numbers))}
            queue = self._queue(rule)
            queue.restore(known.state, pending, entries)
            self._heed(queue)
        if journal.crashed and (left := self._queues.get(rule.name)) is not None:
            left.suspect()  # before anything of it is begun

    def _edit(self, before: Rule, rule: Rule) -> None:
        self._unindex(rule.name)
        queue = self._queues.get(rule.name)
        if queue is not None and not rule.enabled:
            self._say_discarded(queue, queue.discard())
        if rule.enabled and not before.enabled:
            self._place(rule, self._bus.journal.head)
        if queue is not None:
            queue.exchange(rule)
            self._heed(queue)
        elif before.enabled:
            # What came until now was not for it, whatever the rule as it is would say.
            self._place(rule, self._position)

    def _queue(self, rule: Rule) -> RuleQueue:
        """The rule's queue; a rule that had nothing to do yet has none."""
        queue = self._queues.get(rule.name)
        if queue is None:
            assert self._common is not None
            queue = self._queues[rule.name] = RuleQueue(rule, self._common, self._changed)
            if self._position < self._crashed_at:
                queue.suspect()
        return queue

    def _place(self, rule: Rule, position: int) -> None:
        """Let a rule begin behind `position`, now and after a restart."""
        assert self._ledger is not None
        self._set(rule, position)
        self._ledger.place(Position(rule.name, position, position < self._position))

    def _set(self, rule: Rule, position: int) -> None:
        if position == self._position and rule.name not in self._queues:
            return
        queue = self._queue(rule)
        queue.stand(position, follows=position >= self._position)
        if queue.follows:
            self._lagging.pop(rule.name, None)
        else:
            self._lagging[rule.name] = queue
            self._room.set()

    def _add_to_index(self, rule: Rule) -> None:
        # What answers comes first: an event that is both ends one wait and begins the next.
        if (absence := rule.shaping.absence) is not None:
            self._index.add(_Role(rule.name, True), absence.on, absence.match)
        self._index.add(_Role(rule.name, False), rule.on, rule.match)

    def _unindex(self, name: str) -> None:
        self._index.remove(_Role(name, True))
        self._index.remove(_Role(name, False))

    def _retire(self, name: str) -> None:
        assert self._ledger is not None
        del self._by_name[name]
        self._unindex(name)
        queue = self._queues.pop(name, None)
        self._ledger.forget(name, queue)
        if queue is not None:
            self._past.add(queue.statistics(0))
            self._say_discarded(queue, queue.retire())
            self._schedule.forget(queue)
            self._lagging.pop(name, None)
            if not queue.settled:
                self._leaving.add(queue)

    def _note_lagging(self) -> None:
        """Have written how far they are, also those that found nothing on their way."""
        assert self._ledger is not None
        for queue in self._lagging.values():
            self._ledger.note(queue)

    def _say_discarded(self, queue: RuleQueue, discarded: int) -> None:
        if discarded:
            log.warning("rule_queue_discarded", rule=queue.rule.name, discarded=discarded)

    # Events come

    async def _match(self) -> None:
        journal, bus = self._bus.journal, self._bus
        while await bus.grown(self._position):
            head = journal.head
            entries = await journal.read(self._position, _BATCH)
            # Where nothing can be read nothing is left: it was overwritten, trimmed, or lost by a damaged journal.
            missed = (entries[0].seq if entries else head + 1) - self._position - 1
            if missed > 0:
                self._miss("*", self._position, missed)
                self._position += missed
            since_yield = 0
            for entry in entries:
                for queue, answers in self._interested(entry):
                    if queue.follows and entry.seq > queue.position:
                        self._offer(queue, entry, answers=answers)
                        since_yield += 1
                self._position = entry.seq
                if since_yield >= _YIELD_EVERY:
                    since_yield = 0
                    await anyio.lowlevel.checkpoint()
            assert self._ledger is not None
            self._ledger.moved()
            self._progress.ring()
            self._measure(entries)
            # Reading memory never suspends; without this a fast publisher would keep the loop to us two.
            await anyio.lowlevel.checkpoint()
        self._progress.ring()

    def _measure(self, entries: Sequence[Entry]) -> None:
        now_s, observe, left = time.time(), self._bus.latency.match.observe, len(entries)
        for entry in entries[::_MEASURED]:
            observe(now_s - entry.at_ms / 1000, left if left < _MEASURED else _MEASURED)
            left -= _MEASURED

    def _offer(self, queue: RuleQueue, entry: Entry, *, answers: bool) -> None:
        if answers:
            queue.answer(entry)
        else:
            queue.offer(entry)
            if queue.is_full and queue.follows:
                queue.lag(entry.seq)
                self._lagging[queue.rule.name] = queue
        self._heed(queue)

    def _interested(self, entry: Entry) -> list[tuple[RuleQueue, bool]]:
        try:
            # Asked for anew each time: an update takes effect from the next event on.
            found = self._index.match(entry.event)
            return [(self._queues.get(name) or self._queue(self._by_name[name]), answers) for name, answers in found]
        except Exception:
            log.exception("event_not_matched", seq=entry.seq)
            return []

    async def _bring_along(self) -> None:
        """Offer the rules that lag what they have not seen, as they have room, until they are where the matcher is."""
        journal = self._bus.journal
        while True:
            self._room = anyio.Event()
            ready = {name: queue for name, queue in self._lagging.items() if queue.has_room}
            for name, queue in [*ready.items()]:
                if queue.position >= self._position:
                    del self._lagging[name], ready[name]
                    queue.follow()
                    self._heed(queue)
                    self._progress.ring()
            if not ready:
                await self._room.wait()
                continue
            start, upto = min(queue.position for queue in ready.values()), self._position
            entries = await journal.read(start, min(_BATCH, upto - start))
            first = entries[0].seq if entries else upto + 1
            for name, queue in ready.items():
                if first - 1 > queue.position:
                    self._miss(name, queue.position, first - 1 - queue.position)
                    queue.position = first - 1
            for entry in entries:
                offered: dict[str, RuleQueue] = {}
                for queue, answers in self._interested(entry):
                    # A page is read for several rules; one that is full, or gone, has done with it.
                    if ready.get(queue.rule.name) is queue and entry.seq > queue.position:
                        self._offer(queue, entry, answers=answers)
                        offered[queue.rule.name] = queue
                for name, queue in offered.items():
                    queue.position = entry.seq
                    if queue.is_full:
                        del ready[name]
                if entry.seq % _YIELD_EVERY == 0:
                    await anyio.lowlevel.checkpoint()
            for queue in ready.values():
                if entries and not queue.follows:
                    queue.position = max(queue.position, entries[-1].seq)

    def _miss(self, who: str, position: int, missed: int) -> None:
        self._missed += missed
        log.warning("rules_missed_events", rules=who, missed=missed, resume=position + missed + 1)
        self._bus.on_gap(Gap(Reason.MISSED, position + 1, position + missed, missed, more={"rule": who}))

    # Time passes

    def _heed(self, queue: RuleQueue) -> None:
        if queue.due_ms is not None and queue.follows and self._schedule.note(queue):
            self._sooner.set()

    async def _keep_time(self) -> None:
        """Begin what is due, once everything that was accepted before it has been matched."""
        while True:
            self._sooner = anyio.Event()
            next_ms = self._schedule.next_ms
            wait_s = _LONGEST_WAIT_S if next_ms is None else (next_ms - self._wall_ms()) / 1000
            if wait_s > 0:
                with anyio.move_on_after(min(wait_s, _LONGEST_WAIT_S)):
                    await self._sooner.wait()
                continue
            try:
                now_ms = await self._bus.journal.clock()
            except BusClosed:
                return
            while self._position < self._bus.journal.head:
                await self._progress.wait()
            for queue in self._schedule.take(now_ms):
                if queue.follows:
                    queue.advance(now_ms)
                    self._heed(queue)

    # Work is done

    def _changed(self, queue: RuleQueue) -> None:
        assert self._ledger is not None
        self._ledger.note(queue)
        if queue.overflow is not None:
            self._bus.on_gap(queue.overflow)
            queue.overflow = None
        if not queue.follows and queue.has_room:
            self._room.set()
        self._progress.ring()

    def _settled(self, retries: bool) -> bool:
        self._leaving = {queue for queue in self._leaving if not queue.settled}
        return (
            self._position >= self._bus.journal.head
            and not any(queue.has_room for queue in self._lagging.values())
            and not self._leaving
            and all(queue.settled if retries else queue.idle for queue in self._queues.values())
        )
