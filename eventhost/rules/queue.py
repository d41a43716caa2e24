"""One rule's deliveries: its own queue, its own workers, its own failures; nobody else ever waits for them.

entry ─► queue (bounded: the oldest give way) ─► worker ─► action, action, … ─► delivered
                                                   │ ▲
                                                   └─┘ again, after a pause     ─► failed
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import anyio
import anyio.abc
import anyio.lowlevel
import structlog

from eventhost.actions import HOST, Action, Context, Hands, caused_event
from eventhost.actions.caused import event_name
from eventhost.errors import ActionError, EventhostError
from eventhost.expression import ExpressionError
from eventhost.journal import Entry
from eventhost.rules.rule import Rule

log = structlog.get_logger()

RULE_FAILED = "host.rule_failed"

_COMPLAINT_S = 60.0
_YIELD_EVERY = 16
_MAX_ERROR = 2_000


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a rule may gather, and how often it tries.

    The pause after the first failure of an action is `first_pause_s`, twice that after the second, and so on up to
    `longest_pause_s`; each is shortened at random by up to a half.
    """

    queue: int = 10_000
    attempts: int = 3
    first_pause_s: float = 1.0
    longest_pause_s: float = 30.0

    def pause_s(self, attempt: int) -> float:
        """How long to wait after this attempt, which counts from 1, has failed."""
        longest = min(self.longest_pause_s, self.first_pause_s * 2.0 ** min(attempt - 1, 60))
        return longest * random.uniform(0.5, 1.0)


@dataclass(frozen=True, slots=True)
class RuleStatistics:
    """What became of a rule's events since the engine started, in counts. `queued` are those that wait."""

    name: str
    enabled: bool
    matched: int
    delivered: int
    failed: int
    condition_errors: int
    queued: int
    running: int
    overrun: int
    """Dropped, the oldest first, because too many were waiting."""
    last_error: str | None


class RuleQueue:
    """What one rule has to do; survives the rule's being edited. Its workers live only while there is work."""

    def __init__(
        self,
        rule: Rule,
        hands: Hands,
        limits: Limits,
        tasks: anyio.abc.TaskGroup,
        clock: Callable[[], float],
        on_settled: Callable[[], None],
    ) -> None:
        self.rule = rule
        self._hands, self._limits, self._tasks, self._clock, self._on_settled = hands, limits, tasks, clock, on_settled
        self._waiting: deque[Entry] = deque()
        self._workers = 0
        self._running = 0
        self._matched = self._delivered = self._failed = self._condition_errors = self._overrun = 0
        self._last_error: str | None = None
        self._complaints: dict[str, float] = {}

    @property
    def settled(self) -> bool:
        """Nothing waits, and nothing is being done."""
        return not self._waiting and not self._workers

    def offer(self, entry: Entry) -> None:
        """Take an entry whose type and pattern match, unless the condition says no. Never waits."""
        rule = self.rule
        if rule.when is not None:
            try:
                if not rule.when.holds(entry.event):
                    return
            except ExpressionError as error:
                self._condition_errors += 1
                self._last_error = str(error)[:_MAX_ERROR]
                self._complain("rule_condition_failed", seq=entry.seq, error=self._last_error)
                return
        self._matched += 1
        if len(self._waiting) >= self._limits.queue:
            self._waiting.popleft()
            self._overrun += 1
            self._complain("rule_overrun", overrun=self._overrun, queue=self._limits.queue)
        self._waiting.append(entry)
        self._staff()

    def exchange(self, rule: Rule) -> None:
        """Go on with what waits as `rule` says; what is being done right now is finished as it was begun."""
        self.rule = rule
        self._staff()

    def discard(self) -> int:
        """Forget what waits; return how much that was. What is being done is finished."""
        count = len(self._waiting)
        self._waiting.clear()
        return count

    def statistics(self) -> RuleStatistics:
        """A snapshot."""
        return RuleStatistics(
            self.rule.name,
            self.rule.enabled,
            self._matched,
            self._delivered,
            self._failed,
            self._condition_errors,
            len(self._waiting),
            self._running,
            self._overrun,
            self._last_error,
        )

    def _staff(self) -> None:
        for _ in range(min(self.rule.concurrency - self._workers, len(self._waiting))):
            self._workers += 1
            self._tasks.start_soon(self._work)

    async def _work(self) -> None:
        done = 0
        try:
            while self._waiting and self._workers <= self.rule.concurrency:
                entry, rule = self._waiting.popleft(), self.rule
                self._running += 1
                try:
                    await self._deliver(entry, rule)
                finally:
                    self._running -= 1
                done += 1
                # Some actions never suspend; without this a long queue would keep the loop to itself.
                if done % _YIELD_EVERY == 0:
                    await anyio.lowlevel.checkpoint()
        finally:
            self._workers -= 1
            if self.settled:
                self._on_settled()

    async def _deliver(self, entry: Entry, rule: Rule) -> None:
        for index, action in enumerate(rule.actions):
            attempt = 1
            while (
                error := await self._attempt(action, entry, Context(self._hands, rule.name, index, attempt))
            ) is not None:
                self._last_error = f"{action.kind}: {error}"[:_MAX_ERROR]
                if not error.retry or attempt >= self._limits.attempts:
                    await self._fail(entry, rule, index, action, attempt)
                    return
                pause_s = self._limits.pause_s(attempt)
                log.debug(
                    "rule_retry", rule=rule.name, action=action.kind, seq=entry.seq, attempt=attempt,
                    delay_s=round(pause_s, 3), error=self._last_error,
                )  # fmt: skip
                await anyio.sleep(pause_s)
                attempt += 1
        self._delivered += 1

    async def _attempt(self, action: Action, entry: Entry, context: Context) -> ActionError | None:
        try:
            await action.run(entry, context)
        except ActionError as error:
            return error
        except Exception as error:
            log.exception("action_broken", rule=context.rule, action=action.kind, seq=entry.seq)
            return ActionError(f"{type(error).__name__}: {error}", retry=False)
        return None

    async def _fail(self, entry: Entry, rule: Rule, index: int, action: Action, attempts: int) -> None:
        self._failed += 1
        event, error = entry.event, self._last_error
        log.error(
            "rule_failed", rule=rule.name, action=action.kind, index=index, seq=entry.seq, event_id=event_name(event),
            attempts=attempts, error=error,
        )  # fmt: skip
        if event.type == RULE_FAILED:
            return  # a rule about failures that fails itself would go on for ever
        payload = {
            "rule": rule.name,
            "action": action.kind,
            "index": index,
            "seq": entry.seq,
            "event": event_name(event),
            "type": event.type,
            "attempts": attempts,
            "error": error,
        }
        try:
            await self._hands.publish(
                caused_event(RULE_FAILED, payload, cause=entry, rule=rule.name, index=index, source_name=HOST)
            )
        except EventhostError as unsaid:
            log.debug("rule_failed_unsaid", rule=rule.name, seq=entry.seq, error=str(unsaid))

    def _complain(self, name: str, **fields: object) -> None:
        now = self._clock()
        if now - self._complaints.get(name, -_COMPLAINT_S) >= _COMPLAINT_S:
            self._complaints[name] = now
            log.warning(name, rule=self.rule.name, **fields)
