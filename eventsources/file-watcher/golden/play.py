"""Plays the file watcher's golden cases: works on files, and has the watcher look after each step."""

from __future__ import annotations

import os
from contextlib import chdir
from pathlib import Path
from typing import Any

import watching
from seen import Seen
from snapshot import Change

from eventhost.kit.golden import Event, play


async def drive(case: dict[str, Any], folder: Path) -> list[Event]:
    """Take the first look at what is there, then one after each step; paths are told relative to the place."""
    state, place = folder / "state", folder / "place"
    state.mkdir()
    (place / "watched").mkdir(parents=True)
    config = case["config"]
    with chdir(place):
        options = watching.Options.from_config({"paths": ["watched"], **config, **config.get("options", {})})
    events: list[Event] = []

    async def emit(change: Change, event_id: str) -> None:
        if not event_id:
            raise RuntimeError(f"a change of {change.payload['path']} has no id")
        path = Path(change.payload["path"]).relative_to(place.resolve())
        events.append({"type": change.type, "payload": {**change.payload, "path": str(path)}})

    def start() -> list[Seen]:
        return [Seen(watched, state) for watched in options.watched]

    work(place, case["input"]["there"])
    memories = start()
    for steps in case["input"]["steps"]:
        work(place, steps)
        if any(step.get("restart") for step in steps):
            for seen in memories:
                seen.save()
            memories = start()
        for watched, seen in zip(options.watched, memories, strict=True):
            await watching.tell_changes(watched, seen, emit, None)
    return events


def work(place: Path, steps: list[dict[str, Any]]) -> None:
    """Do to the files what the steps say."""
    for step in steps:
        if "write" in step:
            path = place / step["write"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(step["text"])
            os.utime(path, (step["mtime"], step["mtime"]))
        elif "rename" in step:
            (place / step["rename"][0]).rename(place / step["rename"][1])
        elif "delete" in step:
            (place / step["delete"]).unlink()


if __name__ == "__main__":
    play(drive)
