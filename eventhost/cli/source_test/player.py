"""A source's own player of its golden cases: one process for all of them, and another where that one fails."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import anyio

from eventhost.cli.source_test.process import RawProcess, raw_process
from eventhost.cli.source_test.session import short
from eventhost.config import SourceConfig
from eventhost.config.folders import interpreter
from eventhost.connections import Guardian, minimal_environment
from eventhost.errors import ConnectionLost, SpawnError

CASE_S: Final = 60.0
"""How long one case may take."""

PLAYERS: Final = ("play.py", "play.mjs", "play.js", "play")
"""The names that a player may have in `golden/`, in the order in which they are looked for."""

_MOST_BYTES: Final = 64 * 1_048_576
_MOST_LINES: Final = 30
_PYTHON: Final = re.compile(r"python[0-9.]*")


class PlayerFailed(Exception):
    """A case could not be played; says why, and has what the player wrote about it."""

    def __init__(self, why: str, details: list[str]) -> None:
        super().__init__(why)
        self.details = details


def player_of(folder: Path, source: SourceConfig | None) -> tuple[str, ...] | None:
    """The command of a folder's player, to be run there; None if it has none.

    In Python it is run by the interpreter that runs the source, where that is one.
    """
    name = next((name for name in PLAYERS if (folder / "golden" / name).is_file()), None)
    if name is None:
        return None
    if name == "play":
        return ("./golden/play",)
    if name != "play.py":
        return ("node", f"golden/{name}")
    own = source.server.command[:1] if source else ()
    python = own[0] if own and _PYTHON.fullmatch(os.path.basename(own[0])) else interpreter("python")
    # Without -P the player's own folder would come before the source's.
    return (python, "-P", "golden/play.py")


class Player:
    """Plays cases one after the other, started at the first. Use it as an async context manager."""

    def __init__(self, folder: Path, command: tuple[str, ...], guardian: Guardian) -> None:
        self._folder, self._command, self._guardian = folder, command, guardian
        self._running = AsyncExitStack()
        self._process: RawProcess | None = None
        self._said = b""
        self._told: list[str] = []
        self._changed = anyio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._running.__aexit__(kind, error, trace)

    async def play(self, case: Mapping[str, Any], within_s: float = CASE_S) -> dict[str, Any]:
        """What the player answers: `events`, or `error`.

        Raises:
            PlayerFailed: it answered neither; the next case has another process.
        """
        if self._said:
            await self._end()  # what it said after its last answer would be taken for the next one
        try:
            answer = await self._answer(case, within_s)
            problem = _problem(answer) or (f"a line more than one: {short(self._text())}" if self._said else "")
            if problem:
                raise PlayerFailed(f"the player answered nonsense: {problem}", self._words())
        except PlayerFailed:
            await self._end()
            raise
        if "failure" in answer:
            raise PlayerFailed("the player itself failed", str(answer["failure"]).splitlines())
        assert isinstance(answer, dict)
        return answer

    async def _answer(self, case: Mapping[str, Any], within_s: float) -> Any:
        try:
            process = self._process = self._process or await self._start()
        except SpawnError as error:
            raise PlayerFailed(f"the player cannot be started: {error}", []) from None
        with anyio.move_on_after(within_s):
            try:
                await process.send(json.dumps(case).encode() + b"\n")
                while b"\n" not in self._said and len(self._said) < _MOST_BYTES and not process.dead.is_set():
                    with anyio.move_on_after(1.0):
                        await self._changed.wait()
            except ConnectionLost:
                await process.ended(1.0)
        line, newline, self._said = self._said.partition(b"\n")
        if not newline:
            if process.dead.is_set():
                raise PlayerFailed(f"the player {process.describe_end()} before it had answered", self._words())
            raise PlayerFailed(f"the player did not answer within {within_s:g} s", self._words())
        try:
            return json.loads(line)
        except (ValueError, RecursionError):
            raise PlayerFailed(
                f"the player answered nonsense: {short(line.decode(errors='replace'))} is no JSON", self._words()
            ) from None

    async def _start(self) -> RawProcess:
        self._said = b""
        path = os.pathsep.join((str(self._folder), str(self._folder / "golden")))
        process = raw_process(
            self._guardian,
            self._command,
            cwd=self._folder,
            env={**minimal_environment(), "PYTHONPATH": path},
            on_stdout=self._take,
        )
        return await self._running.enter_async_context(process)

    async def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None
        await self._running.aclose()

    def _text(self) -> str:
        return self._said.decode(errors="replace")

    def _take(self, chunk: bytes) -> None:
        self._said += chunk
        self._changed.set()
        self._changed = anyio.Event()

    def _words(self) -> list[str]:
        """What it wrote to stderr; one that cannot even start says the same of each case."""
        words = self._process.stderr.decode(errors="replace").splitlines()[-_MOST_LINES:] if self._process else []
        before, self._told = self._told, words
        return ["(as above)"] if words and words == before else words


def _problem(answer: Any) -> str:
    if not isinstance(answer, dict) or len(answer.keys() & {"events", "error", "failure"}) != 1:
        return f'expected an object with "events" or "error", came {short(answer)}'
    if "events" in answer:
        events = answer["events"]
        if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
            return f"expected a list of events, came {short(events)}"
    elif not all(isinstance(value, str) for value in answer.values()):
        return f"expected a text, came {short(answer)}"
    return ""
