"""`Step`: one entry of a rule's `do`: an action, when it is done, how often it is tried, what follows its failure."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from eventhost.actions.action import Action
from eventhost.expression import Condition

RUN_VALUES: Final = ("events", "delivery_id")
"""What the templates of all actions see besides the event: all events of the run, and its idempotency key."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How often an action is tried, and how long the pauses are.

    The pause after the first failure is `delay_s`, twice that after the second, and so on up to `max_delay_s`; each is
    shortened at random by up to a half, so that what failed together is not tried together.
    """

    attempts: int = 10
    delay_s: float = 1.0
    max_delay_s: float = 300.0
    """With these: about six minutes in all, since nothing is lost meanwhile, whatever becomes of the host."""

    def pause_s(self, attempt: int) -> float:
        """How long to wait after this attempt, which counts from 1, has failed."""
        longest = min(self.max_delay_s, self.delay_s * 2.0 ** min(attempt - 1, 60))
        return longest * random.uniform(0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Budget:
    """What the agent of a rule may use within any hour; None: as much as it likes."""

    runs_per_hour: int | None
    tokens_per_hour: int | None


@dataclass(frozen=True, slots=True)
class Step:
    """What a rule does about an event, one thing after the other."""

    action: Action
    condition: Condition | None = None
    """It is skipped when this does not hold."""
    retry: Retry | None = None
    """None: as the host does it."""
    on_error: Literal["stop", "continue"] | tuple[Step, ...] = "stop"
    """What follows when the last attempt has failed: the end, the next step, or other steps instead of the rest."""


def walk(steps: Iterable[Step]) -> Iterator[tuple[tuple[str | int, ...], Step]]:
    """All steps, those of `onError` too, each with its path within `do` as a list: `(1, "onError", 0)`."""
    for index, step in enumerate(steps):
        yield (index,), step
        if not isinstance(step.on_error, str):
            for path, inner in walk(step.on_error):
                yield (index, "onError", *path), inner
