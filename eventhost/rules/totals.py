"""What became of the events of all rules together, of those too that are no more."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from eventhost.rules.queue import RuleStatistics


@dataclass(slots=True)
class RuleTotals:
    """Sums of `RuleStatistics`; what waits or runs now is not among them."""

    matched: int = 0
    suppressed: Counter[str] = field(default_factory=Counter)
    delivered: int = 0
    failed: int = 0
    """Given up; each is, or was, a dead letter."""
    retried: int = 0
    condition_errors: int = 0

    def add(self, one: RuleStatistics) -> None:
        """Add a rule's counts."""
        self.matched += one.matched
        self.suppressed.update(one.suppressed)
        self.delivered += one.delivered
        self.failed += one.failed
        self.retried += one.retried
        self.condition_errors += one.condition_errors

    def copy(self) -> RuleTotals:
        """The same sums, to add to."""
        return RuleTotals(
            self.matched, self.suppressed.copy(), self.delivered, self.failed, self.retried, self.condition_errors
        )
