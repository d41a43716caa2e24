"""Plays a source's golden cases for `eventhost source test`: cases come in on stdin, what became of them goes out.

A player is `golden/play.py` in the source's folder, whose modules it imports by their plain names:

    from eventhost.kit.golden import play


    async def drive(case, folder):
        return events_of(case["config"], case["input"], folder)


    play(drive)
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from eventhost.errors import ConfigError, cause_of
from eventhost.kit import event as kit_event

Case = dict[str, Any]
"""What a file in `golden/` says, whole, and `"folder"`."""

Event = kit_event.Event | Mapping[str, Any]
"""An event as the source would emit it, or as it would say it."""

Drive = Callable[[Case, Path], Awaitable[Sequence[Event]]]
"""Has one case happen; returns the events that came of it, in order. The folder is empty, and the case's own.

A `ValueError` or `ConfigError` is what the source says of what it cannot use. Any other exception is a mistake in the
player: it fails this case alone.
"""


def play(drive: Drive) -> None:
    """Answer each case on stdin until there are no more: one JSON object a line, either way.

    An answer has `events`, or `error`, or `failure`, the traceback of a mistake. Each case has an event loop of its
    own. What is printed meanwhile goes to stderr.
    """
    with _own_streams() as (cases, answers):
        for line in cases:
            answers.write(_answer(drive, line) + b"\n")
            answers.flush()


def _answer(drive: Drive, line: bytes) -> bytes:
    case = json.loads(line)
    try:
        answer = _played(drive, case)
        return json.dumps(answer, allow_nan=False, separators=(",", ":")).encode()
    except Exception as error:
        return json.dumps({"failure": "".join(traceback.format_exception(error))}).encode()


def _played(drive: Drive, case: Case) -> dict[str, Any]:
    async def driven() -> list[dict[str, Any]]:
        events = await drive(case, Path(case["folder"]))
        return [_said(event) for event in events]

    try:
        return {"events": asyncio.run(driven())}
    except Exception as error:
        cause = cause_of(error)
        if not isinstance(cause, ValueError | ConfigError):
            raise
        return {"error": str(cause)}


def _said(event: Event) -> dict[str, Any]:
    """What is left out when it is emitted is left out here."""
    if isinstance(event, kit_event.Event):
        return {name: value for name, value in event._asdict().items() if value is not None}
    return dict(event)


@contextmanager
def _own_streams() -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Stdin and stdout for the cases alone: what a case prints, or starts, can neither answer nor swallow one."""
    sys.stdout.flush()
    stdin, stdout = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    with open(stdin, "rb") as cases, open(stdout, "wb") as answers:
        yield cases, answers
