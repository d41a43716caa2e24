"""`Timeline`: a rule's time, which never goes back, whatever the machine's clock does."""

from __future__ import annotations

from typing import Any


class Timeline:
    """Turns the times of the journal into times that do not decrease.

    When the clock is set back, time goes on from where it was, as if none had passed: nothing waits for years because
    the clock was once wrong by years.
    """

    __slots__ = ("behind_ms", "last_ms")

    def __init__(self) -> None:
        self.last_ms = 0
        """When last something happened, by the machine's clock."""
        self.behind_ms = 0
        """By how much, in all, the clock was set back: what it says plus this is the rule's time."""

    def at(self, clock_ms: int) -> int:
        """The rule's time when an event was accepted at `clock_ms`; never before `now_ms`."""
        if clock_ms < self.last_ms:
            self.behind_ms += self.last_ms - clock_ms
            self.last_ms = clock_ms
        return clock_ms + self.behind_ms

    def reach(self, at_ms: int) -> None:
        """It is now `at_ms` of the rule's time."""
        self.last_ms = at_ms - self.behind_ms

    @property
    def now_ms(self) -> int:
        """The rule's time when last something happened."""
        return self.last_ms + self.behind_ms

    def clock_ms(self, at_ms: int) -> int:
        """What the machine's clock says at this time of the rule, unless it is set anew."""
        return at_ms - self.behind_ms

    def dump(self) -> dict[str, Any]:
        """The state as JSON."""
        return {"last": self.last_ms, "behind": self.behind_ms}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `dump` gave."""
        self.last_ms, self.behind_ms = state["last"], state["behind"]
