"""`explain`: what became of one event, and why: read from what was recorded, and computed where nothing had to be.

received ─► normalized ─► duplicate? ─► each rule: matched, or stopped by what ─► shaped ─► its actions ─► events caused
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import anyio.lowlevel
import msgspec

from eventhost.actions.caused import HOST, RULES
from eventhost.event import EnvEvent, event_name
from eventhost.journal import DeadLetter, Entry, Progress, Trace
from eventhost.journal.file import Recorded
from eventhost.journal.search import backwards, find, forwards
from eventhost.rules.files import RuleSet
from eventhost.rules.replay import Replay, Span, play
from eventhost.rules.rule import Rule
from eventhost.rules.shaper import Verdict
from eventhost.rules.trial import Fate, Trial, answers, concerns, try_rule
from eventhost.sources.raw import RULE, Raw, raw_of

FEW: Final = 20
"""With no more rules than these, each that is for the event's type is told about; with more, those that match."""

CAUSED_SEARCHED: Final = 100_000
"""So many events after it are looked at for those that it caused."""

CAUSED_TOLD: Final = 200
_CAUSES_TOLD: Final = 16
_SAME_NAME_SEARCHED: Final = 10_000
_SHAPED_SEARCHED: Final = 10_000
_LETTERS_SEARCHED: Final = 10_000
_LETTERS_PAGE: Final = 500
_YIELD_EVERY: Final = 256

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Became(StrEnum):
    """What became of an event with one rule."""

    NOTHING = "nothing"
    """It does not match."""
    DELIVERED = "delivered"
    FAILED = "failed"
    EXPIRED = "expired"
    """It was older than `maxAge` when its turn came."""
    SUPPRESSED = "suppressed"
    """Shaping kept it from running."""
    HELD = "held"
    """It waits in a batch, say."""
    OWED = "owed"
    """It is being done, waits for its turn, or for another attempt."""
    UNSEEN = "unseen"
    """The rule has not come to it yet."""
    UNKNOWN = "unknown"
    """Nothing of it is owed, and what was done was not recorded."""


@dataclass(frozen=True, slots=True)
class RuleStory:
    """What became of the event with one rule."""

    trial: Trial
    """By the rule as it is now."""
    became: Became
    recorded: bool = False
    """Whether that was recorded when it happened; otherwise it is computed from the journal."""
    why: str = ""
    run: int | None = None
    """The number of the run that it was part of, which is that of the run's last event."""
    told: Mapping[str, Any] = field(default_factory=dict)
    """What was recorded of the run: `steps`, `born_ms`, …"""
    letter: DeadLetter | None = None
    """The run's dead letter, while there is one."""
    contradicts: bool = False
    """What was recorded is not what the rule as it is now would do: it was edited since."""
    file_changed: bool = False
    """The rule's file was changed since the event came: the rule may have been another."""

    @property
    def looked(self) -> bool:
        """Whether the event is of a type that the rule is for, or that it was probably meant for."""
        stop = self.trial.stop
        return self.trial.answers or stop is None or stop.clause != "on" or "slip" in stop.reason

    def to_json(self) -> dict[str, Any]:
        value = self.trial.to_json()
        if self.recorded:
            value.pop("actions", None)  # what was done is told instead of what would be
        value |= {"became": self.became.value, "recorded": self.recorded}
        if self.why:
            value["why"] = self.why
        if self.run is not None:
            value["run"] = self.run
        value |= {
            key: self.told[key] for key in ("born_ms", "events", "left_out", "deaths", "steps") if key in self.told
        }
        if self.letter is not None:
            letter = self.letter
            value["dead_letter"] = {"id": letter.id, "at_ms": letter.at_ms, "error": letter.error}
        if self.contradicts:
            value["edited_since"] = True
        if self.file_changed:
            value["file_changed_since"] = True
        return value


@dataclass(slots=True)
class Caused:
    """An event that was emitted because of another one, and those that it caused in turn."""

    entry: Entry
    caused: list[Caused] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {**_brief(self.entry), "caused": [one.to_json() for one in self.caused]}


@dataclass(frozen=True, slots=True)
class Explanation:
    """All that is known of one event."""

    entry: Entry
    raw: Raw | None
    """What its source said; none if it is the host's own."""
    normalized: Mapping[str, Any]
    duplicate: Mapping[str, Any]
    causes: Sequence[Entry]
    """The event because of which it was emitted, that one's, and so on."""
    rules: Sequence[RuleStory]
    others: int
    """How many further rules it does not concern."""
    caused: Sequence[Caused]
    searched_to: int
    """Events up to this one were looked at for those that it caused."""
    cut: bool
    """There may be more that it caused."""

    def to_json(self) -> dict[str, Any]:
        return {
            "event": {"seq": self.entry.seq, "at_ms": self.entry.at_ms, **msgspec.to_builtins(self.entry.event)},
            "raw": self.raw.to_json() if self.raw is not None else None,
            "normalized": dict(self.normalized),
            "duplicate": dict(self.duplicate),
            "caused_by": [_brief(entry) for entry in self.causes],
            "rules": [story.to_json() for story in self.rules],
            "others": self.others,
            "caused": [one.to_json() for one in self.caused],
            "caused_searched_to": self.searched_to,
            "caused_cut": self.cut,
        }


async def explain(
    journal: Recorded,
    handle: str,
    rules: RuleSet,
    *,
    root: Path | None = None,
    every: bool = False,
    only: str | None = None,
) -> Explanation:
    """What became of the event that `handle` names, with these rules.

    `every`: tell about rules, too, that it does not concern, however many there are; `only`: about this one alone.
    With the environment's `root` it is told which rules' files were changed since.

    Raises:
        NotFound: see `recorded.find`.
    """
    entry = await find(journal, handle)
    traces = {trace.rule: trace for trace in await journal.traces(entry.seq)}
    message = traces.pop(RULE, None)
    # What rules and the host itself publish nobody has sent.
    sent = entry.event.metadata.get("source_name") not in (RULES, HOST)
    raw = raw_of(entry.event, message) if sent else None
    progress = await journal.progress()
    looked = [
        (rule, changed)
        for file, changed in _changed(rules, root, entry).items()
        for rule in rules.files[file]
        if only is None or rule.name == only
    ]
    every, few = every or only is not None, len(looked) <= FEW
    stories: list[RuleStory] = []
    for number, (rule, changed) in enumerate(looked):
        if number % _YIELD_EVERY == 0:
            await anyio.lowlevel.checkpoint()
        if every or few or rule.name in traces or concerns(rule, entry) or answers(rule, entry):
            story = await _story(journal, rule, entry, traces.pop(rule.name, None), progress)
            if story.became is not Became.NOTHING:
                stories.append(replace(story, file_changed=changed))
            elif every or story.looked:
                stories.append(story)
    # What was done by rules that are no more.
    for name, trace in traces.items():
        if only is None or name == only:
            trial = Trial(name, Fate.GONE)
            stories.append(await _of_trace(journal, trial, entry, trace))
    caused, searched_to, cut = await _caused(journal, entry)
    return Explanation(
        entry,
        raw,
        _normalized(entry.event, raw),
        await _duplicate(journal, entry),
        await _causes(journal, entry),
        stories,
        len(looked) - sum(story.trial.fate is not Fate.GONE for story in stories),
        caused,
        searched_to,
        cut,
    )


def _changed(rules: RuleSet, root: Path | None, entry: Entry) -> dict[str, bool]:
    """Which of the rules' files were changed since the event came."""
    changed = dict.fromkeys(rules.files, False)
    if root is not None:
        for file in changed:
            with suppress(OSError):
                changed[file] = (root / file).stat().st_mtime_ns // 1_000_000 > entry.at_ms
    return changed


# Where it came from


def _normalized(event: EnvEvent, raw: Raw | None) -> dict[str, Any]:
    """What the host added to what the source said."""
    if raw is None:
        return {"metadata": {}, "id": "made", "timestamp": "made"}
    told_back = raw if raw.recorded and not raw.cut else raw_of(event, None)
    said = told_back.message.get("metadata") or {}
    added = [key for key in event.metadata if key == "source_name" or key not in said]
    told: dict[str, Any] = {"metadata": {key: event.metadata[key] for key in added}}
    return told | {name: "made" if name in raw.made else "given" for name in ("id", "timestamp")}


async def _duplicate(journal: Recorded, entry: Entry) -> dict[str, Any]:
    """An event in the journal was no duplicate; but its id may have been used before, with other content."""
    name, event_id = event_name(entry.event), entry.event.id
    lowest = entry.seq - _SAME_NAME_SEARCHED - 1
    needle = b'{"id":' + msgspec.json.encode(event_id)
    async for page in backwards(journal, entry.seq - 1, lowest, [needle]):
        for other in page:
            if other.event.id == event_id and event_name(other.event) == name:
                return {"verdict": "id used again", "before": other.seq}
    return {"verdict": "new"}


async def _causes(journal: Recorded, entry: Entry) -> list[Entry]:
    causes: list[Entry] = []
    while len(causes) < _CAUSES_TOLD and (cause := await _cause(journal, entry)) is not None:
        causes.append(cause)
        entry = cause
    return causes


async def _cause(journal: Recorded, entry: Entry) -> Entry | None:
    """The event because of which it was emitted. What rules emit bears the time when that was accepted."""
    name = entry.event.metadata.get("causation_id")
    if not isinstance(name, str) or entry.event.metadata.get("source_name") not in (RULES, HOST):
        return None
    at_ms = entry.event.timestamp
    after = await journal.seq_at(at_ms) - 1
    async for page in forwards(journal, after, entry.seq - 1):
        for other in page:
            if other.at_ms > at_ms:
                return None
            if event_name(other.event) == name:
                return other
    return None


async def _caused(journal: Recorded, entry: Entry) -> tuple[list[Caused], int, bool]:
    """What it caused; up to which event was looked; whether there may be more."""
    root = Caused(entry)
    known = {event_name(entry.event): root}
    upto = min(journal.head, entry.seq + CAUSED_SEARCHED)
    async for page in forwards(journal, entry.seq, upto, [b'"causation_id":']):
        for other in page:
            name = other.event.metadata.get("causation_id")
            if not isinstance(name, str) or (cause := known.get(name)) is None:
                continue
            if len(known) > CAUSED_TOLD:
                return root.caused, other.seq - 1, True
            cause.caused.append(one := Caused(other))
            known.setdefault(event_name(other.event), one)
    return root.caused, upto, upto < journal.head


def _brief(entry: Entry) -> dict[str, Any]:
    metadata = entry.event.metadata
    value = {
        "seq": entry.seq,
        "at_ms": entry.at_ms,
        "type": entry.event.type,
        "source_name": metadata.get("source_name"),
        "id": entry.event.id,
    }
    return value | {key: metadata[key] for key in ("rule", "replayed") if key in metadata}


# What became of it with a rule


async def _story(journal: Recorded, rule: Rule, entry: Entry, trace: Trace | None, progress: Progress) -> RuleStory:
    trial = try_rule(rule, entry)
    if trace is not None:
        return await _of_trace(journal, trial, entry, trace)
    if not (trial.fate.matches or (trial.fate is Fate.DISABLED and concerns(rule, entry))):
        return RuleStory(trial, Became.NOTHING, why="it answers a wait for its absence" if trial.answers else "")
    if (letter := await _letter(journal, rule.name, entry.seq)) is not None:
        return RuleStory(trial, Became.FAILED, True, run=letter.seq, letter=letter)
    if trial.fate is Fate.DISABLED:
        return RuleStory(trial, Became.NOTHING)
    if rule.shaping.is_plain:
        became, why = await _unrecorded(journal, rule.name, entry.seq, progress)
        return RuleStory(trial, became, run=entry.seq, why=why)
    return await _computed(journal, rule, entry, trial, progress)


async def _of_trace(journal: Recorded, trial: Trial, entry: Entry, trace: Trace) -> RuleStory:
    said, number = _decode(trace.body), entry.seq
    contradicts = trial.fate in (Fate.NO_MATCH, Fate.ERROR, Fate.DISABLED)
    if "run" in said:  # it was gathered with others; what was done is recorded with the last of them
        number = int(said["run"])
        run = next((one for one in await journal.traces(number) if one.rule == trace.rule), None)
        said = _decode(run.body) if run is not None else {}
        if "end" not in said:
            return RuleStory(trial, Became.UNKNOWN, True, f"its run, {number}, is no longer recorded", number)
    if "verdict" in said:
        verdict = Verdict(said["verdict"])
        if verdict is Verdict.HELD:
            return RuleStory(trial, Became.HELD, True, _VERDICTS[verdict], contradicts=contradicts)
        return RuleStory(trial, Became.SUPPRESSED, True, _VERDICTS[verdict], contradicts=contradicts)
    letter = await _letter(journal, trace.rule, entry.seq) if said["end"] == "failed" else None
    return RuleStory(trial, Became(said["end"]), True, "", number, said, letter, contradicts)


async def _unrecorded(journal: Recorded, rule: str, run: int, progress: Progress) -> tuple[Became, str]:
    """What is owed of a run that was not recorded."""
    position = progress.positions.get(rule)
    if progress.pending.get(rule) and any(one.seq == run for one in await journal.pending(rule, run - 1, 1)):
        return Became.OWED, ""
    if position is not None and position.lags:
        if run > position.seq:
            return Became.UNSEEN, f"the rule lags: it has come to event {position.seq}"
    elif run > max(progress.low, position.seq if position is not None else 0):
        return Became.OWED, ""
    return Became.UNKNOWN, "nothing of it is owed; whether the rule was there then, and what it did, was not recorded"


async def _computed(journal: Recorded, rule: Rule, entry: Entry, trial: Trial, progress: Progress) -> RuleStory:
    """What shaping makes of the event, found out by playing the events around it once more."""
    verdicts: dict[int, Verdict] = {}
    replay = Replay([rule], lambda name, seq, verdict: verdicts.__setitem__(seq, verdict))
    run: int | None = None
    around = Span(max(journal.first, entry.seq - _SHAPED_SEARCHED) - 1, min(journal.head, entry.seq + _SHAPED_SEARCHED))
    async with aclosing(play(journal, replay, around)) as firings:
        async for firing in firings:
            if any(one.seq == entry.seq for one in firing.run.entries):
                run = firing.run.seq
                break
    verdict = verdicts.get(entry.seq)
    if run is not None:
        became, why = await _unrecorded(journal, rule.name, run, progress)
        return RuleStory(trial, became, run=run, why=why)
    if verdict in (None, Verdict.HELD):
        return RuleStory(trial, Became.HELD, why=_VERDICTS[Verdict.HELD])
    assert verdict is not None
    return RuleStory(trial, Became.SUPPRESSED, why=_VERDICTS[verdict])


async def _letter(journal: Recorded, rule: str, seq: int) -> DeadLetter | None:
    """The dead letter of a run that the event is part of."""
    last = looked = 0
    while looked < _LETTERS_SEARCHED and (letters := await journal.dead_letters(rule, last, _LETTERS_PAGE)):
        for letter in letters:
            if letter.seq == seq or (letter.seq > seq and seq in _numbers(letter)):
                return letter
        last, looked = letters[-1].id, looked + len(letters)
    return None


class _Numbered(msgspec.Struct):
    seq: int


_decode_numbers = msgspec.json.Decoder(list[_Numbered]).decode


def _numbers(letter: DeadLetter) -> Iterable[int]:
    return (one.seq for one in _decode_numbers(letter.entries))


_VERDICTS: Final = {
    Verdict.RUN: "it was let run",
    Verdict.HELD: "it waits for its run",
    Verdict.EXPIRED: "it was older than maxAge",
    Verdict.INACTIVE: "the rule slept at that time",
    Verdict.DUPLICATE: "another event with its key had been let through shortly before, or was waited for",
    Verdict.THROTTLED: "throttle had let as many through as it may",
    Verdict.SUPERSEDED: "a later event with its key came before there was quiet",
    Verdict.ANSWERED: "what would have been absent came",
    Verdict.OVERFLOW: "there was no room to hold it",
    Verdict.KEY_ERROR: "its key could not be filled in",
    Verdict.LOST: "it was held, and could not be any longer",
}
