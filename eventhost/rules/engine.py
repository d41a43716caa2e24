"""`RuleEngine`: reads the journal through one index and hands each match to its rule; matching never waits for a rule.

journal ─► matcher ─► index ─► when ─► a rule's queue ─► its workers ─► actions
             (one task)                  (never waits)     (their own tasks)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

import anyio
import anyio.abc
import anyio.lowlevel
import structlog

from eventhost.actions import Hands
from eventhost.bus import EnvEventBus
from eventhost.pattern import PatternIndex
from eventhost.rules.queue import Limits, RuleQueue, RuleStatistics
from eventhost.rules.rule import Rule

log = structlog.get_logger()

_BATCH = 512
_YIELD_EVERY = 64


class RuleEngine:
    """Runs the rules on the events of a bus, from those after sequence number `after` on, else from now on.

    Use it as an async context manager; leave it in the task that entered it. Leaving ends what is being done: `drain`
    first. A match is delivered at least once, as long as the process lives: an action that fails is tried again, then
    counted as failed, logged, and told as a `host.rule_failed` event.
    """

    def __init__(
        self,
        bus: EnvEventBus,
        hands: Hands,
        *,
        after: int | None = None,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bus, self._hands, self._clock = bus, hands, clock
        self._limits = limits or Limits()
        self._position = bus.journal.head if after is None else after
        self._index = PatternIndex[str]()
        self._rules: list[Rule] = []
        self._queues: dict[str, RuleQueue] = {}
        self._leaving: set[RuleQueue] = set()
        self._missed = 0
        self._progress = anyio.Event()
        self._tasks: anyio.abc.TaskGroup | None = None

    async def __aenter__(self) -> Self:
        tasks = anyio.create_task_group()
        await tasks.__aenter__()
        self._tasks = tasks
        self._exchange(self._rules)
        tasks.start_soon(self._match)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._tasks is not None
        await self.aclose()
        return await self._tasks.__aexit__(kind, error, trace)

    @property
    def missed(self) -> int:
        """How many events the journal no longer held when the matcher got to them."""
        return self._missed

    async def update(self, rules: Iterable[Rule]) -> None:
        """Let these be the rules, from the next event on.

        Those that are configured as before are not touched. One that was edited keeps its queue and its counts, and
        what it is doing right now is finished as it was; one that is gone, or disabled, forgets its queue.
        """
        rules = list(rules)
        if self._tasks is not None:
            self._exchange(rules)
        self._rules = rules

    def statistics(self) -> list[RuleStatistics]:
        """A snapshot of every rule, in their order."""
        return [self._queues[rule.name].statistics() for rule in self._rules if rule.name in self._queues]

    async def drain(self, deadline_s: float) -> bool:
        """Wait until every event so far is matched and every match dealt with; false when `deadline_s` passed first.

        What the actions emit meanwhile is matched and waited for as well.
        """
        if self._tasks is None:
            return True
        with anyio.move_on_after(deadline_s):
            while not self._settled():
                await self._progress.wait()
            return True
        waiting = sum(queue.statistics().queued for queue in self._queues.values())
        log.warning("rules_not_drained", deadline_s=deadline_s, queued=waiting)
        return False

    async def aclose(self) -> None:
        """End matching and whatever is being done. Leaving the context does it too."""
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()

    def _exchange(self, rules: list[Rule]) -> None:
        assert self._tasks is not None
        names = {rule.name for rule in rules}
        for name in self._queues.keys() - names:
            self._retire(self._queues.pop(name))
        old = self._queues
        self._queues = {}
        for rule in rules:
            queue = old.get(rule.name)
            if queue is None:
                queue = RuleQueue(rule, self._hands, self._limits, self._tasks, self._clock, self._advance)
            elif queue.rule == rule:
                self._queues[rule.name] = queue
                continue
            self._queues[rule.name] = queue
            if rule.enabled:
                self._index.add(rule.name, rule.on, rule.match)
            else:
                self._index.remove(rule.name)
                self._forget(queue)
            queue.exchange(rule)

    def _retire(self, queue: RuleQueue) -> None:
        self._index.remove(queue.rule.name)
        self._forget(queue)
        if not queue.settled:
            self._leaving.add(queue)

    def _forget(self, queue: RuleQueue) -> None:
        if discarded := queue.discard():
            log.warning("rule_queue_discarded", rule=queue.rule.name, discarded=discarded)

    async def _match(self) -> None:
        journal, bus = self._bus.journal, self._bus
        since_yield = 0
        while await bus.grown(self._position):
            entries = await journal.read(self._position, _BATCH)
            # Asked only now: what was there before the reading may have been overwritten meanwhile.
            missed = (entries[0].seq if entries else journal.first) - self._position - 1
            if missed > 0:
                self._missed += missed
                self._position += missed
                log.warning("rules_missed_events", missed=missed, resume=self._position + 1)
            for entry in entries:
                try:
                    # Asked for anew each time: an update takes effect from the next event on.
                    for name in self._index.match(entry.event):
                        self._queues[name].offer(entry)
                        since_yield += 1
                except Exception:
                    log.exception("event_not_matched", seq=entry.seq)
                self._position = entry.seq
                if since_yield >= _YIELD_EVERY:
                    since_yield = 0
                    await anyio.lowlevel.checkpoint()
            self._advance()
            # Reading memory never suspends; without this a fast publisher would keep the loop to us two.
            await anyio.lowlevel.checkpoint()
        self._advance()

    def _settled(self) -> bool:
        self._leaving = {queue for queue in self._leaving if not queue.settled}
        return (
            self._position >= self._bus.journal.head
            and not self._leaving
            and all(queue.settled for queue in self._queues.values())
        )

    def _advance(self) -> None:
        self._progress.set()
        self._progress = anyio.Event()
