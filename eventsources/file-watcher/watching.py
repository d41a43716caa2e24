"""Watches one path for as long as it is asked to, whether the path is there or not, and tells each change once.

touched paths (watchfiles) ─► look there ─► compare with what is known ─► emit ─► known

What the operating system says is only the reason to look.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from globs import Globs
from seen import Seen
from snapshot import DELETED, Change, Watched, at_or_below, differences
from watchfiles import awatch

_LOOK_AGAIN_S = 1.0
"""How often a path that is not there is looked for, and one that is there for whether it is still the same."""

_SAVE_EVERY_S = 1.0

_EXCLUDED = (".*", "*~", "*.tmp", "*.part", "*.crdownload", "node_modules", "__pycache__")
_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000}

Emit = Callable[[Change, str], Awaitable[None]]
"""Hands a change to the host, under an id; returns once it is settled."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the configuration asks for; `quiet_ms` is how long nothing must have happened before a look is taken."""

    watched: tuple[Watched, ...]
    quiet_ms: int

    @classmethod
    def from_config(cls, options: Mapping[str, Any]) -> Options:
        """Check the options; relative paths begin in the working folder, which is the source's own.

        Raises:
            ValueError: what is wrong, and how to mend it.
        """
        paths = _texts(options, "paths", ())
        if not paths:
            raise ValueError('paths: name at least one file or folder, such as ["../../inbox"]')
        recursive = options.get("recursive", True)
        if not isinstance(recursive, bool):
            raise ValueError("recursive: expected true or false")
        globs = Globs.of(_texts(options, "include", ()), _texts(options, "exclude", _EXCLUDED))
        # Resolved, because some systems tell of changes under the real path only.
        resolved = dict.fromkeys(Path(path).expanduser().resolve() for path in paths)
        return cls(tuple(Watched(path, globs, recursive) for path in resolved), _quiet_ms(options.get("debounce", 100)))


def _texts(options: Mapping[str, Any], key: str, default: tuple[str, ...]) -> tuple[str, ...]:
    value = options.get(key, list(default))
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, list) or not all(isinstance(text, str) and text for text in value):
        raise ValueError(f"{key}: expected a list of texts")
    return tuple(value)


def _quiet_ms(value: Any) -> int:
    if isinstance(value, str) and (match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m)", value.strip())):
        value = float(match[1]) * _UNITS_MS[match[2]]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= 60_000:
        raise ValueError(f'debounce: expected milliseconds or a text such as "200ms", at most a minute, got {value!r}')
    return int(value)


async def watch(watched: Watched, seen: Seen, quiet_ms: int, emit: Emit, log: Callable[[str, str], None]) -> None:
    """Tell every change of `watched` until cancelled."""
    missing = False
    try:
        while True:
            await tell_changes(watched, seen, emit, None)
            place = _place(watched.path)
            if place is None:
                if not missing:
                    log("warning", f"{watched.path} is not there yet; it will be watched once it is")
                missing = True
                seen.save()
                await asyncio.sleep(_LOOK_AGAIN_S)
                continue
            if missing:
                log("info", f"{watched.path} is there now")
            missing = False
            try:
                await _watch_while_there(watched, seen, quiet_ms, emit, place)
            except OSError as error:
                # Most often the system's limit on watches; what happens meanwhile is seen by the next look.
                log("error", f"{watched.path} cannot be watched: {error}")
                await asyncio.sleep(10 * _LOOK_AGAIN_S)
    finally:
        seen.save()


async def tell_changes(watched: Watched, seen: Seen, emit: Emit, near: list[str] | None) -> None:
    """Look at the paths `near`, or at all, and emit what differs from what is known."""
    after = await asyncio.to_thread(watched.look, near)
    before = seen.files if near is None else at_or_below(near, seen.files)
    for change in differences(before, after):
        await emit(change, seen.next_id(change))
        seen.told(change, gone=change.type == DELETED)


async def _watch_while_there(
    watched: Watched, seen: Seen, quiet_ms: int, emit: Emit, place: tuple[Path, int, int]
) -> None:
    saved_s = time.monotonic()
    async with aclosing(_touched(place[0], quiet_ms, watched.recursive)) as batches:
        async for near in batches:
            if near is None or near:
                await tell_changes(watched, seen, emit, near)
            if not near or time.monotonic() - saved_s > _SAVE_EVERY_S:
                seen.save()
                saved_s = time.monotonic()
            # A folder that was removed and made anew can have the number of the old one.
            if _place(watched.path) != place or (near and str(place[0]) in near):
                return


async def _touched(folder: Path, quiet_ms: int, recursive: bool) -> AsyncGenerator[list[str] | None, None]:
    """The paths near which something happened; none when nothing has for a while; None where all must be looked at."""
    changes = awatch(
        folder,
        watch_filter=None,
        step=quiet_ms,
        debounce=20 * quiet_ms,
        rust_timeout=int(_LOOK_AGAIN_S * 1000),
        yield_on_timeout=True,
        recursive=recursive,
        ignore_permission_denied=True,
    )
    # What happened between the look before and the start of the watch has been told by nobody.
    first = True
    async with aclosing(changes):
        async for batch in changes:
            yield None if first else sorted({path for _, path in batch})
            first = False


def _place(path: Path) -> tuple[Path, int, int] | None:
    """The folder to watch, and which one it is; None where `path` is not there.

    A file is watched through its folder: programs replace a file rather than write to it.
    """
    try:
        folder = path if path.is_dir() else path.parent if path.exists() else None
        if folder is None:
            return None
        seen = folder.stat()
    except OSError:
        return None
    return folder, seen.st_dev, seen.st_ino
