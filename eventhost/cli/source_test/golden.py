"""Golden cases: files that say a configuration, what happens, and which events, or which error, must come of it.

golden/*.jsonc ──► the folder's player, one process for all of them ──┐
              └──► no player: the source itself, a process a case ────┴──► compared ──► a check a case
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from eventhost.cli.source_test.check import Check, Outcome, failed, ok, skipped
from eventhost.cli.source_test.expected import Expected, differences, read_expected
from eventhost.cli.source_test.player import CASE_S, Player, PlayerFailed, player_of
from eventhost.cli.source_test.session import short
from eventhost.cli.source_test.steps import StepFailed, run_steps
from eventhost.cli.source_test.subject import Subject
from eventhost.config import Protocol
from eventhost.config.jsonc import parse
from eventhost.config.wording import did_you_mean
from eventhost.connections import Guardian
from eventhost.connections.lastwords import last_words
from eventhost.durations import milliseconds
from eventhost.errors import ConfigError

STEPS_S: Final = 10.0
"""How long the events of a case without a player may take to come, unless it says `within`."""

_KEYS: Final = ("config", "input", "events", "error", "within")


@dataclass(frozen=True, slots=True)
class Case:
    """One file in `golden/`."""

    name: str
    said: dict[str, Any]
    events: tuple[Expected, ...]
    error: str | None
    within_s: float | None


def case_files(folder: Path) -> list[Path]:
    """The golden cases of a source's folder, by name."""
    found = folder / "golden"
    return sorted(path for path in found.glob("*") if path.suffix in (".json", ".jsonc")) if found.is_dir() else []


def read_case(path: Path, *, played: bool) -> Case:
    """The case in a file. One that is not `played` by a player holds nothing but what is known here.

    Raises:
        ValueError: it cannot be used; says how to mend it.
    """
    try:
        said = parse(path.read_text("utf-8"), f"golden/{path.name}")
    except OSError as wrong:
        raise ValueError(f"golden/{path.name} cannot be read: {wrong.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"golden/{path.name} is not UTF-8; save it so") from None
    except ConfigError as wrong:
        raise ValueError(str(wrong)) from None
    if not isinstance(said, dict):
        raise ValueError('expected an object; write {"config": {}, "input": [], "events": []}')
    for key in said:
        if not played and key not in _KEYS:
            mend = did_you_mean(key, _KEYS) or f"without a player there are {', '.join(_KEYS)}"
            raise ValueError(f"{key}: no such key; {mend}")
    if not isinstance(said.get("config", {}), dict):
        raise ValueError(f"config: expected an object, got {short(said['config'])}")
    if ("events" in said) == ("error" in said):
        raise ValueError('write one of "events", what must come of it, and "error", what must be complained of')
    error, events = said.get("error"), said.get("events", [])
    if "error" in said and not (isinstance(error, str) and error):
        raise ValueError(f"error: expected a text that the error must contain, got {short(error)}")
    if not isinstance(events, list):
        raise ValueError(f"events: expected a list, got {short(events)}")
    expected = []
    for index, one in enumerate(events):
        try:
            expected.append(read_expected(one))
        except ValueError as wrong:
            raise ValueError(f"events[{index}]: {wrong}") from None
    return Case(path.stem, said, tuple(expected), error, _within_s(said))


def _within_s(said: dict[str, Any]) -> float | None:
    if "within" not in said:
        return None
    within = said["within"]
    duration_ms = milliseconds(within) if isinstance(within, str) else None
    if not duration_ms:
        raise ValueError(f'within: expected a duration such as "30s", got {short(within)}')
    return float(duration_ms) / 1000


async def golden_checks(
    folder: Path, subject: Subject | None, guardian: Guardian, scratch: Path, tell: Callable[[Check], object]
) -> None:
    """Play all cases of a folder, one after the other, and tell a check for each.

    `scratch` is where their folders are made. `subject` may be None where there is a player.
    """
    files = case_files(folder)
    if not files:
        tell(skipped("golden", "there are no golden cases; docs/testing-sources.md tells how to write one"))
        return
    command = player_of(folder, subject.source if subject else None)
    if command is None:
        acts = _Acts(subject)
        for number, path in enumerate(files):
            tell(await acts.play(path, _empty(scratch / f"case-{number}")))
        return
    async with Player(folder, command, guardian) as player:
        for number, path in enumerate(files):
            tell(await _played(path, player, _empty(scratch / f"case-{number}")))


def _empty(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


async def _played(path: Path, player: Player, folder: Path) -> Check:
    name = f"golden {path.stem}"
    try:
        case = read_case(path, played=True)
        answer = await player.play({"config": {}, **case.said, "folder": str(folder)}, case.within_s or CASE_S)
    except ValueError as error:
        return failed(name, str(error))
    except PlayerFailed as error:
        return failed(name, str(error), error.details)
    return judged(name, case, answer.get("events", []), answer.get("error"))


class _Acts:
    """Cases that the source plays itself; what would be told of each is told of the first."""

    def __init__(self, subject: Subject | None) -> None:
        self._subject = subject
        self._silence = ""
        self._told: Sequence[str] = ()

    async def play(self, path: Path, folder: Path) -> Check:
        """Play one case in `folder`."""
        name, subject = f"golden {path.stem}", self._subject
        try:
            case = read_case(path, played=False)
        except ValueError as error:
            return failed(name, str(error))
        if subject is None or not subject.speaks_stdio or subject.source.server.protocol is Protocol.MODERN:
            return skipped(name, "without a player, a source is played over stdio, in the legacy era, alone")
        if self._silence:
            return skipped(name, f"in a case before this, {self._silence}")
        within_s = case.within_s or STEPS_S
        try:
            played = await run_steps(subject, case.said, folder, len(case.events), case.error, within_s)
        except StepFailed as wrong:
            self._silence = wrong.silence
            return self._with_log(failed(name, str(wrong), wrong.details), wrong.log)
        check = judged(name, case, played.events, played.error)
        if check.outcome is not Outcome.FAILED:
            return check
        self._silence = played.silence
        if played.error is not None:
            check = replace(check, details=())  # it is what it wrote
        if played.silence:
            check = replace(check, said=f"{check.said}; {played.silence}")
        return self._with_log(check, played.log)

    def _with_log(self, check: Check, log: Sequence[str]) -> Check:
        """A check that failed, with the last that the source wrote; one that cannot start writes the same each time."""
        lines = [line for text in log for line in text.splitlines() if line.strip()]
        if not lines:
            return check
        again, self._told = lines == self._told, lines
        shown = ["it wrote the same as above"] if again else ["it wrote:", *(f"  {each}" for each in lines)]
        return replace(check, details=[*check.details, *shown])


def judged(name: str, case: Case, events: Sequence[dict[str, Any]], error: str | None) -> Check:
    """Whether what came of a case is what it expects."""
    lines = [line.rstrip() for line in (error or "").splitlines() if line.strip()]
    last = last_words(lines) if lines else "one without a word"
    lines = lines if len(lines) > 1 else []
    if case.error is not None:
        if error is None:
            came = f"{len(events)} events came" if events else "none came"
            return failed(name, f"expected an error that contains {short(case.error)}; {came}")
        if case.error not in error:
            return failed(name, f"expected an error that contains {short(case.error)}; came {last}", lines)
        return ok(name)
    if error is not None:
        return failed(name, f"expected {len(case.events)} events; came the error {last}", lines)
    found = differences(case.events, events)
    return failed(name, "other events came than expected", found) if found else ok(name)
