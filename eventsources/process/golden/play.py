"""Plays golden cases: what a command writes, what is done to a log file, what journalctl says."""

from __future__ import annotations

import base64
import gzip
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from commands import Output, exit_event
from files import Followed
from journals import Entry, entry_event, gap_event
from options import Command, Files, Journal, wanted

from eventhost.kit import Event
from eventhost.kit.golden import play

PID = 4711
_BEGIN_S = 1_800_000_000


async def drive(case: dict[str, Any], folder: Path) -> Sequence[Event]:
    """The events of one case; its input names what its one entry takes."""
    config, said = case["config"], case["input"]
    for files in config.get("files", []) if "steps" in said else []:
        files["path"] = str(folder / files["path"])
    one, *_ = wanted({**config, **config.get("options", {})})
    events: Sequence[Event] = ()
    if isinstance(one, Command) and "output" in said:
        events = of_command(one, said)
    elif isinstance(one, Files) and "steps" in said:
        events = of_files(one, said, folder)
    elif isinstance(one, Journal) and "entries" in said:
        events = of_journal(one, said)
    elif said:
        raise RuntimeError(f"no {type(one).__name__} takes {', '.join(said)}")
    return events


def of_command(command: Command, said: Mapping[str, Any]) -> list[Event]:
    """The events of the pieces of an output, on stdout unless they are said to be on stderr."""
    outputs = {stream: Output(command, stream, PID) for stream in ("stdout", "stderr")}
    events: list[Event] = []
    for piece in said["output"]:
        what = piece if isinstance(piece, dict) else {"stdout": piece}
        for stream, text in what.items():
            data = base64.b64decode(text["base64"]) if isinstance(text, dict) else text.encode()
            events += outputs[stream].feed(data * (text.get("times", 1) if isinstance(text, dict) else 1))
    for output in outputs.values():
        events += output.end()
    if command.exit:
        tails = {stream: output.tail for stream, output in outputs.items()}
        events.append(exit_event(command, PID, said["status"], said.get("duration_s", 1), tails))
    return events


def of_files(files: Files, said: Mapping[str, Any], folder: Path) -> list[Event]:
    """The events of what is done to files, after each step of which a look is taken."""
    log = Log(folder)
    log.do({"append": said.get("there", "")})
    followed = Followed(files, {})
    events = look(followed)
    for step in said["steps"]:
        if step == "restart":
            followed.close()
            # As JSON, which is how it is kept.
            followed = Followed(files, json.loads(json.dumps(followed.kept)))
            continue
        for deed in step:
            log.do(deed)
        events += look(followed)
    followed.close()
    return _placeless(events, folder)


def look(followed: Followed) -> list[Event]:
    """All that is new."""
    followed.find()
    events: list[Event] = []
    while taken := followed.take():
        events += taken
    return events


def _placeless(events: Sequence[Event], folder: Path) -> list[Event]:
    """The same wherever the case is played: a content is called by a letter, and a file by its name."""
    letters: dict[str, str] = {}
    found = []
    for event in events:
        name, life, rest = (event.id or "").split(":", 2)
        letter = letters.setdefault(life, chr(ord("A") + len(letters)))
        metadata, payload = dict(event.metadata or {}), dict(event.payload)
        for place in (metadata, payload):
            if str(place.get("file", "")).startswith(str(folder)):
                place["file"] = os.path.relpath(place["file"], folder)
        found.append(event._replace(id=f"{name}:{letter}:{rest}", metadata=metadata or None, payload=payload))
    return found


class Log:
    """The files of a case; each change is a second later than the one before."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._now_s = _BEGIN_S

    def do(self, deed: Mapping[str, Any]) -> None:
        """Do one thing to a file, `app.log` unless it says `to` which."""
        path = self._folder / deed.get("to", "app.log")
        if "append" in deed:
            text = deed["append"]
            with path.open("ab") as file:
                file.write(base64.b64decode(text["base64"]) if isinstance(text, dict) else text.encode())
        elif "truncate" in deed:
            os.truncate(path, deed["truncate"])
        elif "remove" in deed:
            (self._folder / deed["remove"]).unlink()
        elif "rename" in deed:
            old, new = (self._folder / name for name in deed["rename"])
            old.rename(new)
        elif "copy" in deed:
            old, path = (self._folder / name for name in deed["copy"])
            shutil.copy(old, path)
        elif "gzip" in deed:
            plain = self._folder / deed["gzip"]
            archive = plain.with_name(f"{plain.name}.gz")
            archive.write_bytes(gzip.compress(plain.read_bytes()))
            shutil.copystat(plain, archive)
            plain.unlink()
        else:
            raise RuntimeError(f"{deed}: no such deed")
        if deed.keys() & {"append", "truncate", "copy"}:
            self._now_s += 1
            os.utime(path, (self._now_s, self._now_s))


def of_journal(journal: Journal, said: Mapping[str, Any]) -> list[Event]:
    """The events of what journalctl says, and of a cursor `gone` that it does not find."""
    entries = [Entry.of(json.dumps(entry).encode()) for entry in said["entries"]]
    gaps = [gap_event(journal, said["gone"], entries[0] if entries else None)] if "gone" in said else []
    return gaps + [entry_event(journal, entry) for entry in entries]


if __name__ == "__main__":
    play(drive)
