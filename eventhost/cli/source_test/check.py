"""What a check found, in one line for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from eventhost.cli.show import printable, styled


class Outcome(StrEnum):
    """What became of a check."""

    OK = "ok"
    FAILED = "FAILED"
    SKIPPED = "skipped"


_COLORS = {Outcome.OK: "32", Outcome.FAILED: "31", Outcome.SKIPPED: "2"}


@dataclass(frozen=True, slots=True)
class Check:
    """One check, and what it found."""

    name: str
    outcome: Outcome
    said: str
    """What was seen; of one that failed what was expected, what came, and how to mend it; of a skipped one why."""
    details: Sequence[str] = ()
    """Further lines: each difference, or a traceback."""

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "outcome": self.outcome.lower(), "said": self.said, "details": list(self.details)}

    def lines(self) -> list[str]:
        """As it is printed; what has several lines is printed so."""
        outcome = styled(f"{self.outcome:<7}", _COLORS[self.outcome])
        said, *more = self.said.splitlines() or [""]
        first = f"{outcome} {printable(self.name)}" + (f": {printable(said)}" if said else "")
        more += [line for text in self.details for line in text.splitlines()]
        return [first, *(f"        {printable(line.expandtabs())}".rstrip() for line in more)]


def ok(name: str, said: str = "", details: Sequence[str] = ()) -> Check:
    """A check that found nothing wrong."""
    return Check(name, Outcome.OK, said, details)


def failed(name: str, said: str, details: Sequence[str] = ()) -> Check:
    """A check that found something to mend."""
    return Check(name, Outcome.FAILED, said, details)


def skipped(name: str, why: str) -> Check:
    """A check that could not be made, or has nothing to look at."""
    return Check(name, Outcome.SKIPPED, why)


class Printer:
    """Prints each check as it is told; those that are skipped in a row for the same reason are one line."""

    def __init__(self, print_line: Callable[[str], object]) -> None:
        self._print = print_line
        self._skipped: list[Check] = []

    def tell(self, check: Check) -> None:
        """Print it, or keep it for a line with others."""
        alike = check.outcome is Outcome.SKIPPED and (not self._skipped or self._skipped[-1].said == check.said)
        if not alike:
            self.flush()
        if check.outcome is Outcome.SKIPPED:
            self._skipped.append(check)
        else:
            self._print("\n".join(check.lines()))

    def flush(self) -> None:
        """Print what was kept."""
        if self._skipped:
            names = ", ".join(check.name for check in self._skipped)
            self._print("\n".join(replace(self._skipped[0], name=names).lines()))
            self._skipped.clear()


def summary(checks: Sequence[Check]) -> str:
    """How many there were of each outcome."""
    counts = [(sum(check.outcome is outcome for check in checks), outcome) for outcome in Outcome]
    return ", ".join(f"{count} {outcome}" for count, outcome in counts if count) or "nothing was checked"
