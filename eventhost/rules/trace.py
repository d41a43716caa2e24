"""What became of runs, as it is written beside the events: traces for `explain`, dead letters to be tried again."""

from __future__ import annotations

from enum import StrEnum

import msgspec
from msgspec.structs import replace

from eventhost.journal import DeadLetter, Entry, Trace
from eventhost.rules.delivery import End, Outcome, StepOutcome
from eventhost.rules.run import Run
from eventhost.rules.shaping.verdict import Verdict

_encode = msgspec.json.Encoder().encode
_decode_entries = msgspec.json.Decoder(list[Entry]).decode


class _Said(msgspec.Struct, omit_defaults=True, gc=False):
    """What is recorded of a run."""

    end: End
    born_ms: int
    steps: list[StepOutcome]
    events: int = 1
    left_out: int | None = None
    deaths: int = 0
    """How many hosts may have died of it."""


class Tracing(StrEnum):
    """What is recorded of the events' way through the rules."""

    OFF = "off"
    FAILURES = "failures"
    """Runs of which an attempt failed, or that expired."""
    ALL = "all"

    def run(self, rule: str, run: Run, outcome: Outcome) -> list[Trace]:
        """What to record of a run: its steps, with its last event; for the others that it is the run."""
        if self is Tracing.OFF or (self is Tracing.FAILURES and outcome.end is End.DELIVERED and not outcome.failures):
            return []
        number, events = run.seq, len(run.entries)
        if events == 1:
            said = _Said(outcome.end, run.born_ms, outcome.steps, deaths=run.attempts)
            return [Trace(number, rule, _encode(said))]
        said = _Said(outcome.end, run.born_ms, outcome.steps, events, run.left_out, run.attempts)
        others = [Trace(entry.seq, rule, b'{"run":%d}' % number) for entry in run.entries[:-1]]
        return [*others, Trace(number, rule, _encode(said))]

    def verdict(self, rule: str, seq: int, verdict: Verdict) -> list[Trace]:
        """What to record of an event that shaping kept from running."""
        if self is not Tracing.ALL or verdict is Verdict.RUN:
            return []
        return [Trace(seq, rule, _encode({"verdict": verdict}))]


def dead_letter(run: Run, rule: str, outcome: Outcome, at_ms: int) -> DeadLetter:
    """What is kept of a run that failed for good: all that it takes to try it once more."""
    step = outcome.steps[-1]
    error = step.error or "it failed, and did not say why"
    entries = [{"seq": entry.seq, "at_ms": entry.at_ms, "event": entry.event} for entry in run.entries]
    return DeadLetter(rule, run.seq, at_ms, step.kind, step.place, step.attempts, error, _encode(entries))


def entries_of(letter: DeadLetter) -> tuple[Entry, ...]:
    """The events of a dead letter, oldest first."""
    entries = _decode_entries(letter.entries)
    return tuple(replace(entry, size=len(letter.entries) // len(entries)) for entry in entries)
