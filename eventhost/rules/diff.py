"""What edited rules would have done on recorded events, against what was done: added and missing runs of each rule.

Two runs are the same when they are of the same rule and end with the same event. Nothing is done.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from eventhost.journal import Entry
from eventhost.journal.file import JournalFile, Recorded
from eventhost.rules.replay import Replay, Span, play
from eventhost.rules.rule import Rule
from eventhost.rules.trial import Trial, try_rule

EXAMPLES: Final = 3
"""So many are shown of each kind, of each rule."""


@dataclass(frozen=True, slots=True)
class Example:
    """A run that only one side has, and what the edited rule says of its event."""

    entry: Entry
    trial: Trial | None
    """None when there is no such rule any more."""

    def to_json(self) -> dict[str, Any]:
        event = self.entry.event
        value: dict[str, Any] = {
            "seq": self.entry.seq,
            "at_ms": self.entry.at_ms,
            "type": event.type,
            "source_name": event.metadata.get("source_name"),
            "id": event.id,
        }
        return {**value, "now": self.trial.to_json()} if self.trial is not None else value


@dataclass(slots=True)
class RuleDiff:
    """One rule that would have run otherwise; `before` and `after` count its runs."""

    rule: str
    before: int = 0
    after: int = 0
    added: list[int] = field(default_factory=list)
    """Numbers of the events for which it would run, and did not."""
    missing: list[int] = field(default_factory=list)
    """Numbers of those for which it ran, and would not."""
    examples_added: list[Example] = field(default_factory=list)
    examples_missing: list[Example] = field(default_factory=list)

    @property
    def differs(self) -> bool:
        return bool(self.added or self.missing)

    def to_json(self) -> dict[str, Any]:
        return {
            "rule": self.rule,
            "before": self.before,
            "after": self.after,
            "added": {"count": len(self.added), "examples": [one.to_json() for one in self.examples_added]},
            "missing": {"count": len(self.missing), "examples": [one.to_json() for one in self.examples_missing]},
        }


Runs = dict[str, set[int]]
"""By rule, the numbers of its runs."""


async def runs_made(journal: Recorded, rules: Sequence[Rule], span: Span, run_up_ms: int) -> Runs:
    """The runs that these rules make of a span."""
    runs: Runs = {}
    async for firing in play(journal, Replay(rules), span, run_up_ms=run_up_ms):
        runs.setdefault(firing.rule.name, set()).add(firing.run.seq)
    return runs


async def runs_recorded(journal: JournalFile, span: Span) -> Runs:
    """The runs of a span that were recorded as begun: delivered or failed."""
    runs: Runs = {}
    async for name, seq in _recorded(journal, span):
        runs.setdefault(name, set()).add(seq)
    return runs


async def _recorded(journal: JournalFile, span: Span) -> AsyncIterator[tuple[str, int]]:
    async for traces in journal.traces_after(span.after, span.upto):
        for trace in traces:
            said = _decode(trace.body)
            if said.end is not None and said.end != "expired":
                yield trace.rule, trace.seq


class _Said(msgspec.Struct):
    end: str | None = None


_decode = msgspec.json.Decoder(_Said).decode


async def compare(journal: Recorded, rules: Sequence[Rule], before: Runs, after: Runs) -> list[RuleDiff]:
    """What differs, rule by rule: those that have it first, in the order of `rules`, then those that are no more."""
    by_name = {rule.name: rule for rule in rules}
    names = [*by_name, *sorted(before.keys() - by_name.keys())]
    diffs = []
    for name in names:
        old, new = before.get(name, set()), after.get(name, set())
        one = RuleDiff(name, len(old), len(new), sorted(new - old), sorted(old - new))
        one.examples_added = await _examples(journal, by_name.get(name), one.added)
        one.examples_missing = await _examples(journal, by_name.get(name), one.missing)
        diffs.append(one)
    return diffs


async def _examples(journal: Recorded, rule: Rule | None, seqs: Sequence[int]) -> list[Example]:
    # The newest: they are what a person remembers.
    entries = await journal.entries(seqs[-EXAMPLES:])
    return [Example(entry, try_rule(rule, entry) if rule is not None else None) for entry in entries]
