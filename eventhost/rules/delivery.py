"""One run of one rule: its steps in order, each tried as often as it may be; what came of each is told.

step ─► too old? ─► if ─► attempt ─► result ─► next step
                            │  ▲
                            ▼  │ pause, when it may help
                          error ─► onError: the end, the next step, or steps of its own
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from enum import StrEnum
from typing import Any

import anyio
import msgspec
import structlog

from eventhost.actions import Context, Hands
from eventhost.actions.caused import delivery_id
from eventhost.actions.result import as_result
from eventhost.actions.step import RUN_VALUES, Retry, Step
from eventhost.errors import ActionError
from eventhost.expression import ExpressionError
from eventhost.rules.run import Run

log = structlog.get_logger()

_MAX_ERROR = 2_000


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class End(StrEnum):
    """How a run ended."""

    DELIVERED = "delivered"
    FAILED = "failed"
    EXPIRED = "expired"


class Failure(msgspec.Struct, frozen=True, gc=False):
    """An attempt that failed."""

    started_ms: int
    ended_ms: int
    error: str


class StepOutcome(msgspec.Struct):
    """What came of one step; `attempts` is 0 when it was skipped, and when its `if` could not be told."""

    place: str
    kind: str
    started_ms: int
    attempts: int = 0
    ended_ms: int = 0
    result: Any = None
    cut: bool = False
    """The result was too large, and is not whole."""
    error: str | None = None
    """What the last attempt's failure was; None when it did not fail, or has not been tried."""
    failures: list[Failure] = msgspec.field(default_factory=list)
    """Every attempt that failed."""


class Outcome(msgspec.Struct):
    """What came of a run: its end, and its steps in the order in which they were begun.

    When it failed, the last one is that which failed it.
    """

    end: End = End.DELIVERED
    steps: list[StepOutcome] = msgspec.field(default_factory=list)
    result: Any = None
    """What the last action that was run gave; None when it failed."""
    failures: int = 0
    """How many attempts failed."""
    error: str | None = None
    """What the last failure was, be it of an attempt that was followed by a better one."""


class _Expired(Exception):
    """The run is too old to begin."""


class Delivery(msgspec.Struct, frozen=True):
    """How a rule's runs are delivered, with all that this takes."""

    rule: str
    steps: tuple[Step, ...]
    hands: Hands
    retry: Retry
    """For steps that have none of their own."""
    max_age_s: float | None = None
    """A run that is older is not begun; one of which a step has succeeded is finished."""
    spend: Callable[[int], None] = lambda tokens: None
    gathers: bool = False
    """Actions are handed a list of events, also where there is but one."""
    wall_ms: Callable[[], int] = _wall_clock_ms
    pause: Callable[[float], Awaitable[object]] = anyio.sleep
    uses: Collection[str] = RUN_VALUES
    """Which of the values that can be left out the steps look at."""

    async def deliver(self, run: Run) -> Outcome:
        """Run the steps; never raises for what an action does.

        Cancelled, it leaves nothing behind but what actions have done, and threads that cannot be ended.
        """
        outcome = Outcome()
        values: dict[str, Any] = {"result": None, "error": None}
        if self.uses:
            if "events" in self.uses:
                values["events"] = [msgspec.structs.asdict(entry.event) for entry in run.entries]
            if "delivery_id" in self.uses:
                values["delivery_id"] = delivery_id(run.entry, self.rule)
        try:
            if not await self._steps(run, self.steps, "", outcome, values, self.max_age_s is not None):
                outcome.end = End.FAILED
        except _Expired:
            outcome.end = End.EXPIRED
        return outcome

    def give_up(self, reason: str) -> Outcome:
        """The outcome of not even beginning."""
        now_ms = self.wall_ms()
        said = StepOutcome("0", self.steps[0].action.kind, now_ms, ended_ms=now_ms, error=reason)
        return Outcome(End.FAILED, [said], error=f"{said.kind}: {reason}")

    async def _steps(
        self, run: Run, steps: Sequence[Step], where: str, outcome: Outcome, values: dict[str, Any], may_expire: bool
    ) -> bool:
        """Whether these steps came to their end, some of them by way of their `onError`."""
        for index, step in enumerate(steps):
            said = StepOutcome(f"{where}{index}", step.action.kind, self.wall_ms())
            outcome.steps.append(said)
            try:
                await self._step(run, step, said, outcome, values, may_expire)
            finally:
                said.ended_ms = self.wall_ms()
            if said.error is None:
                if said.attempts:
                    outcome.result = values["result"] = said.result
                    may_expire = False
                continue
            outcome.result = None
            if step.on_error == "stop":
                return False
            log.warning(
                "rule_action_failed", rule=self.rule, action=said.kind, place=said.place, seq=run.seq,
                attempts=said.attempts, error=said.error,
            )  # fmt: skip
            values["error"] = {
                "message": said.error, "action": said.kind, "place": said.place, "attempts": said.attempts,
            }  # fmt: skip
            if step.on_error != "continue":
                return await self._steps(run, step.on_error, f"{said.place}.onError.", outcome, values, False)
            values["result"] = None
        return True

    async def _step(
        self, run: Run, step: Step, said: StepOutcome, outcome: Outcome, values: dict[str, Any], may_expire: bool
    ) -> None:
        entries = run.entries
        entry = entries[-1]
        if may_expire:
            self._refuse_old(run)
        try:
            if step.condition is not None and not step.condition.holds(entry.event, values, at_ms=entry.at_ms):
                return
        except ExpressionError as error:
            said.error = f"if: {error}"[:_MAX_ERROR]
            outcome.error = f"{said.kind}: {said.error}"
            return
        batch = entries if self.gathers or len(entries) > 1 else None
        started_ms = said.started_ms
        while True:
            said.attempts += 1
            place, attempt = said.place, said.attempts
            context = Context(self.hands, self.rule, place, attempt, values, self.spend, batch, run.left_out)
            failure: ActionError
            try:
                result = await step.action.run(entry, context)
            except ActionError as error:
                failure = error
            except Exception as error:
                log.exception("action_broken", rule=self.rule, action=said.kind, seq=entry.seq)
                failure = ActionError(f"{type(error).__name__}: {error}", retry=False)
            else:
                said.error = None
                said.result, said.cut = as_result(result)
                if said.cut:
                    log.warning("action_result_cut", rule=self.rule, action=said.kind, place=said.place, seq=entry.seq)
                return
            said.error = str(failure)[:_MAX_ERROR]
            said.failures.append(Failure(started_ms, self.wall_ms(), said.error))
            outcome.failures += 1
            outcome.error = f"{said.kind}: {said.error}"
            retry = step.retry or self.retry
            if not failure.retry or said.attempts >= retry.attempts:
                return
            pause_s = max(retry.pause_s(said.attempts), min(failure.after_s, retry.max_delay_s))
            log.debug(
                "rule_retry", rule=self.rule, action=said.kind, seq=entry.seq, attempt=said.attempts,
                delay_s=round(pause_s, 3), error=said.error,
            )  # fmt: skip
            await self.pause(pause_s)
            started_ms = self.wall_ms()
            if may_expire:
                self._refuse_old(run)

    def _refuse_old(self, run: Run) -> None:
        if self.max_age_s is not None and self.wall_ms() - run.born_ms > self.max_age_s * 1000:
            raise _Expired
