"""One journal takes another's place: whenever the host is killed, the next one finds the old whole, or the new.

The new one is complete, and safely on the disk, before it gets the name by which it is found here. From then on it is
the journal; what is left to do is done again by whoever comes next.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path


def building(path: Path) -> Path:
    """Where a successor is made; what an earlier attempt left there is removed."""
    place = _beside(path, ".building")
    for file in (place, _beside(place, "-wal"), _beside(place, "-shm"), _beside(place, "-journal")):
        file.unlink(missing_ok=True)
    return place


def aside(path: Path, why: str) -> Path:
    """Where the journal will be moved, away from its successor: `journal.db.damaged-20261121T120000Z`."""
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    names = [f".{why}-{moment}", *(f".{why}-{moment}-{number}" for number in range(2, 1000))]
    return next(place for name in names if not (place := _beside(path, name)).exists())


def succeed(path: Path, built: Path, old: Path) -> None:
    """Let what was built be the journal at `path`; what is there goes to `old`, with its log."""
    sync(built)
    # Its name says where the old one goes, so that whoever finishes this knows.
    ready = _beside(path, f".next{old.name.removeprefix(path.name)}")
    built.rename(ready)
    sync(path.parent)
    finish(path)


def finish(path: Path) -> bool:
    """Do what is left to do of a succession, if one had begun; whether it had."""
    found = sorted(path.parent.glob(f"{_escape(path.name)}.next.*"))
    for ready in found:
        old = path.with_name(path.name + ready.name.removeprefix(f"{path.name}.next"))
        # The log first of all is out of the way before the new one has the name that it goes with.
        for end in ("-wal", ""):
            if (file := _beside(path, end)).exists():
                file.rename(_beside(old, end))
        _beside(path, "-shm").unlink(missing_ok=True)
        sync(path.parent)
        ready.rename(path)
        sync(path.parent)
    return bool(found)


def sync(path: Path) -> None:
    """Have a file, or a folder's list of names, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _beside(path: Path, end: str) -> Path:
    return path.with_name(path.name + end)


def _escape(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
