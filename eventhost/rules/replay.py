"""Replay: which runs the rules make of the events that were recorded: the very ones that the first time made.

event ─► index ─► when ─► a fresh shaper for each rule, by the journal's times ─► run ─► told, or done once more

Nothing is done: see `again.py` for that.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

import anyio
import anyio.lowlevel

from eventhost.event import TypeGlobs
from eventhost.expression import Condition, ExpressionError
from eventhost.journal import Entry
from eventhost.journal.file import Recorded
from eventhost.journal.search import forwards
from eventhost.pattern import PatternIndex
from eventhost.rules.rule import Rule
from eventhost.rules.run import Run
from eventhost.rules.schedule import Schedule
from eventhost.rules.shaper import Shaper, Verdict

LONGEST_RUN_UP_MS: Final = 24 * 3_600_000
"""Before a span begins, shaping looks at the events of so long a time at most."""

_YIELD_EVERY: Final = 64


class Firing(NamedTuple):
    """A run that the replay has come to, of which rule, and at which time of the journal it is due."""

    rule: Rule
    run: Run
    at_ms: int


@dataclass(frozen=True, slots=True)
class Span:
    """The runs for events after `after` up to `upto`, of some types."""

    after: int
    upto: int
    types: tuple[str, ...] = ()
    """Globs; none for all."""


class _Role(NamedTuple):
    rule: str
    answers: bool


@dataclass(slots=True, eq=False)
class _Player:
    """One rule that is played, with what its shaping remembers."""

    rule: Rule
    shaper: Shaper | None

    @property
    def due_ms(self) -> int | None:
        return self.shaper.due_ms if self.shaper is not None else None


def _ignore(rule: str, seq: int, verdict: Verdict) -> None:
    pass


class Replay:
    """The rules that are played. Pure: entries and times are handed in; the same ones give the same runs."""

    def __init__(self, rules: Iterable[Rule], note: Callable[[str, int, Verdict], None] = _ignore) -> None:
        """`note` is told what shaping makes of each event. Rules that are disabled are left out."""
        self._index = PatternIndex[_Role]()
        self._players: dict[str, _Player] = {}
        self._schedule = Schedule[_Player]()
        self.untold: Counter[str] = Counter()
        """By rule, for how many events its condition could not be told, which counts as false."""
        for rule in rules:
            if rule.enabled:
                self._add(rule, note)

    def _add(self, rule: Rule, note: Callable[[str, int, Verdict], None]) -> None:
        name = rule.name
        shaper = None
        if not rule.shaping.is_plain:
            shaper = Shaper(rule.shaping, lambda seq, verdict: note(name, seq, verdict))
        self._players[name] = _Player(rule, shaper)
        # What answers comes first: an event that is both ends one wait and begins the next.
        if (absence := rule.shaping.absence) is not None:
            self._index.add(_Role(name, True), absence.on, absence.match)
        self._index.add(_Role(name, False), rule.on, rule.match)

    def offer(self, entry: Entry) -> list[Firing]:
        """The runs that are due once this event has come, in order; those that were due before it come first."""
        firings = self.advance(entry.at_ms)
        for name, answers in self._index.match(entry.event):
            player = self._players[name]
            rule, shaper = player.rule, player.shaper
            if answers:
                absence = rule.shaping.absence
                if shaper is None or absence is None or not self._holds(rule, absence.when, entry):
                    continue
                runs = shaper.answer(entry)
            elif not self._holds(rule, rule.when, entry):
                continue
            elif shaper is None:
                runs = [Run((entry,), entry.event.timestamp)]
            else:
                # It was as old when it came as it was when it was accepted.
                runs = shaper.offer(entry, entry.at_ms)
            firings += [Firing(rule, run, entry.at_ms) for run in runs]
            self._schedule.note(player)
        return firings

    def advance(self, now_ms: int) -> list[Firing]:
        """The runs that are due by now, the earliest first."""
        firings: list[Firing] = []
        while players := self._schedule.take(now_ms):
            for player in players:
                due_ms, shaper = player.due_ms, player.shaper
                if shaper is not None and due_ms is not None:
                    firings += [Firing(player.rule, run, due_ms) for run in shaper.advance(due_ms)]
                self._schedule.note(player)
        return firings

    @property
    def held(self) -> dict[str, int]:
        """How many events still wait for their run, by rule."""
        held = {name: player.shaper.held for name, player in self._players.items() if player.shaper is not None}
        return {name: count for name, count in held.items() if count}

    def _holds(self, rule: Rule, condition: Condition | None, entry: Entry) -> bool:
        try:
            return condition is None or condition.holds(entry.event, at_ms=entry.at_ms)
        except ExpressionError:
            self.untold[rule.name] += 1
            return False


async def play(
    journal: Recorded, replay: Replay, span: Span, *, run_up_ms: int = 0, now_ms: int | None = None
) -> AsyncGenerator[Firing, None]:
    """The runs of a span, in the order of the times at which they are due.

    Shaping has looked at the events of `run_up_ms` before it, as the first time it had, and at those of all types. What
    is due after the span, but by the time of the first event that follows it (or by now, if none does), is a run of it.
    """
    globs = TypeGlobs(span.types) if span.types else None

    def within(firings: list[Firing]) -> list[Firing]:
        return [
            firing
            for firing in firings
            if firing.run.seq > span.after and (globs is None or globs[firing.run.entry.event.type])
        ]

    start = await _run_up(journal, span.after, run_up_ms)
    async for page in forwards(journal, start, span.upto):
        for number, entry in enumerate(page):
            for firing in within(replay.offer(entry)):
                yield firing
            if number % _YIELD_EVERY == 0:
                await anyio.lowlevel.checkpoint()
    for firing in within(replay.advance(await _end_ms(journal, span.upto, now_ms))):
        yield firing


def run_up_of(rules: Iterable[Rule]) -> int:
    """For how long what shaping saw may matter to these rules, in milliseconds; a day at most."""
    longest = 0
    for rule in rules:
        shaping = rule.shaping
        spans = [shaping.dedupe.within_ms if shaping.dedupe is not None else 0]
        spans.append(shaping.throttle.per_ms if shaping.throttle is not None else 0)
        spans.append(getattr(shaping.hold, "for_ms", 0) or getattr(shaping.hold, "within_ms", 0))
        longest = max(longest, sum(spans))
    return min(longest, LONGEST_RUN_UP_MS)


async def _run_up(journal: Recorded, after: int, run_up_ms: int) -> int:
    if not run_up_ms or after < journal.first:
        return after
    (first,) = await journal.read(after, 1) or (None,)
    return after if first is None else min(after, await journal.seq_at(first.at_ms - run_up_ms) - 1)


async def _end_ms(journal: Recorded, upto: int, now_ms: int | None) -> int:
    # What is due at the very moment of an event is due before it.
    if following := await journal.read(upto, 1):
        return following[0].at_ms
    return time.time_ns() // 1_000_000 if now_ms is None else now_ms
