"""Follows log files: whenever one may have grown its new lines are read, emitted, and then remembered as told.

the system tells, or a second passes ─► look (in a thread) ─► emit ─► accepted by the host ─► bookmark
"""

from __future__ import annotations

import asyncio
import glob
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

from lines import payload_of_line
from options import Files
from reading import Told
from rotation import rotated, uncompressed
from trail import Gap, Trail

from eventhost.kit.bookmark import Bookmark
from eventhost.kit.event import Event
from eventhost.kit.upstream import Upstream, first_to_end

GAP_TYPE: Final = "process.gap"

_BATCH: Final = 500
_BATCHES: Final = 2
"""So many may be on their way to the host."""

_BATCH_BYTES: Final = 4_000_000
_LOOK_AGAIN_S: Final = 1.0
"""Some file systems tell nothing."""

_SAVE_EVERY_S: Final = 0.25
_MISSING_S: Final = 2.0
"""While a log is rotated it is not there for a moment."""

_MOST_GONE: Final = 1000
_MOST_SHOWN: Final = 20

EmitAll = Callable[[Sequence[Event]], Awaitable[None]]


def event_of(files: Files, path: str, told: Told | Gap) -> Event:
    """What is emitted for a line, or for lines that are missing."""
    event_id = f"{files.name}:{told.id}"
    if isinstance(told, Gap):
        payload = {"name": files.name, "file": path, "reason": told.reason, "after": {"offset": told.offset}}
        if told.detail:
            payload["detail"] = told.detail
        return Event(GAP_TYPE, payload, event_id)
    payload = payload_of_line(told.line, as_json=files.as_json, encoding=files.encoding)
    return Event(files.type, payload, event_id, metadata={"name": files.name, "file": path, "offset": told.offset})


class Followed:
    """All files of one entry, and how far each was read. For one thread at once."""

    def __init__(self, files: Files, kept: dict[str, Any]) -> None:
        self._files = files
        self._is_new = not kept
        self._trails = {path: Trail(Path(path), trail) for path, trail in kept.get("trails", {}).items()}
        self._ignored: dict[str, int] = kept.get("ignored", {})
        """Files that fit, but have been told under another name, by their inode."""
        self._asleep: dict[str, dict[str, Any]] = kept.get("asleep", {})
        """What is to be known of files that are gone, should one of their name come again."""
        self._turn = 0
        self.folders: set[str] = set()
        """Where something may happen."""

    @property
    def kept(self) -> dict[str, Any]:
        """All that is to be known of them, as JSON."""
        return {
            "trails": {path: trail.kept for path, trail in self._trails.items()},
            "ignored": dict(self._ignored),
            "asleep": dict(self._asleep),
        }

    def _all_folders(self) -> set[str]:
        places = {os.path.dirname(path) for path in self._trails}
        places |= {os.path.dirname(os.path.realpath(path)) for path in self._trails}
        places.add(os.path.dirname(self._files.path.split("*")[0].split("?")[0].split("[")[0]))
        return {place for place in places if os.path.isdir(place)}

    @property
    def offsets(self) -> dict[str, int | None]:
        """How far each file was read, of the first few."""
        shown = list(self._trails.items())[:_MOST_SHOWN]
        return {path: trail.offset for path, trail in shown}

    @property
    def troubles(self) -> list[str]:
        """Why some cannot be read."""
        if self._files.is_glob:
            there = (trail for path, trail in self._trails.items() if os.path.lexists(path))
            return [trail.trouble for trail in there if trail.trouble]
        return [trail.trouble for trail in self._trails.values() if trail.trouble]

    def find(self) -> None:
        """Look for files that came, and forget those that are gone."""
        if not self._files.is_glob:
            self._add(self._files.path)
        else:
            there = sorted(glob.glob(self._files.path, recursive=True))
            by_folder: dict[str, set[str]] = {}
            for path in [*there, *self._trails]:
                by_folder.setdefault(os.path.dirname(path), set()).add(os.path.basename(path))
            past = {
                os.path.join(folder, one.name)
                for folder, names in by_folder.items()
                for name in names
                for one in rotated(name, names)
            }
            for path in there:
                if path not in self._trails and path not in past and uncompressed(path) == path:
                    self._add_unless_known(path)
            self._forget(set(there))
        self._is_new = False
        self.folders = self._all_folders()

    def take(self) -> list[Event]:
        """The next events; none when there are none."""
        events: list[Event] = []
        size = 0
        trails = list(self._trails.items())
        for turn in range(len(trails)):
            path, trail = trails[(self._turn + turn) % len(trails)]
            taken = trail.take(_BATCH - len(events), _BATCH_BYTES - size)
            events += [event_of(self._files, path, one) for one in taken]
            size += sum(len(one.line.data) for one in taken if isinstance(one, Told))
            if len(events) >= _BATCH or size >= _BATCH_BYTES:
                # Those that had no turn come first next time.
                self._turn = (self._turn + turn + 1) % len(trails)
                break
        return events

    def close(self) -> None:
        """Let go of all files."""
        for trail in self._trails.values():
            trail.close()

    def _add_unless_known(self, path: str) -> None:
        try:
            about = os.stat(path)
        except OSError:
            return
        if os.path.isdir(path) or self._ignored.get(path) == about.st_ino:
            return
        if any(trail.holds(about.st_dev, about.st_ino) for trail in self._trails.values()):
            self._ignored[path] = about.st_ino
            return
        self._add(path)

    def _add(self, path: str) -> None:
        if path not in self._trails:
            from_beginning = self._files.from_beginning or not self._is_new
            kept = self._asleep.pop(path, None)
            self._trails[path] = Trail(Path(path), kept, from_beginning=from_beginning)

    def _forget(self, there: set[str]) -> None:
        for path in [path for path, trail in self._trails.items() if path not in there and trail.is_over]:
            trail = self._trails.pop(path)
            trail.close()
            self._asleep[path] = {"lives": trail.kept["lives"], "steps": []}
        for path in list(self._asleep)[: max(0, len(self._asleep) - _MOST_GONE)]:
            del self._asleep[path]
        for path in [path for path in self._ignored if path not in there]:
            del self._ignored[path]


class Tail:
    """Follows the files of one entry and tells what is written to them."""

    def __init__(self, files: Files, bookmark: Callable[[], Bookmark], emit_all: EmitAll, upstream: Upstream) -> None:
        self._files, self._bookmark, self._emit_all, self._upstream = files, bookmark, emit_all, upstream
        self._wake = asyncio.Event()
        self._found_s = 0.0
        self._well_s = time.monotonic()

    async def session(self) -> None:
        """Tell every new line until cancelled."""
        mark = self._bookmark()
        followed = Followed(self._files, mark.content)
        await first_to_end(self._follow(followed, mark), self._watch(followed))

    async def _follow(self, followed: Followed, mark: Bookmark) -> None:
        saved_s = time.monotonic()
        accepted = mark.content
        on_their_way: deque[tuple[asyncio.Task[None], dict[str, Any]]] = deque()
        try:
            while True:
                self._wake.clear()
                events = await asyncio.to_thread(self._look, followed)
                has_gap = any(event.type == GAP_TYPE for event in events)
                on_their_way.append((asyncio.create_task(self._tell(events)), followed.kept))
                # The next batch is read while the host takes this one.
                while len(on_their_way) > (_BATCHES if events and not has_gap else 0):
                    told, kept = on_their_way[0]
                    await told
                    on_their_way.popleft()
                    accepted = kept
                now_s = time.monotonic()
                if not events or now_s - saved_s > _SAVE_EVERY_S:
                    mark.save(accepted)
                    saved_s = now_s
                self._show(followed)
                if not events:
                    await self._something()
        finally:
            for task, _ in on_their_way:
                task.cancel()
            mark.save(accepted)
            followed.close()

    def _look(self, followed: Followed) -> list[Event]:
        now_s = time.monotonic()
        if now_s - self._found_s >= _LOOK_AGAIN_S or not self._found_s:
            followed.find()
            self._found_s = now_s
        return followed.take()

    async def _tell(self, events: Sequence[Event]) -> None:
        begin = 0
        for at, event in enumerate(events):
            if event.type == GAP_TYPE:
                await self._emit_all(events[begin:at])
                await self._upstream.gap(event)
                begin = at + 1
        if events[begin:]:
            await self._emit_all(events[begin:])

    def _show(self, followed: Followed) -> None:
        upstream = self._upstream
        upstream.position = followed.offsets
        now_s = time.monotonic()
        if troubles := followed.troubles:
            if upstream.state != "reconnecting" and (
                upstream.state == "connecting" or now_s - self._well_s > _MISSING_S
            ):
                upstream.failed(troubles[0])
        else:
            self._well_s = now_s
            if upstream.state != "connected":
                upstream.connected(f"{self._files.path}")

    async def _something(self) -> None:
        try:
            async with asyncio.timeout(_LOOK_AGAIN_S):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _watch(self, followed: Followed) -> None:
        """Have a look taken as soon as the system tells of a change."""
        from watchfiles import awatch

        told = False
        while True:
            folders = followed.folders
            if not folders:
                await asyncio.sleep(_LOOK_AGAIN_S)
                continue
            stop = asyncio.Event()
            try:
                changes = awatch(
                    *sorted(folders), watch_filter=None, step=10, debounce=50, recursive=False, stop_event=stop,
                    rust_timeout=1000, yield_on_timeout=True, ignore_permission_denied=True,
                )  # fmt: skip
                async for _ in changes:
                    self._wake.set()
                    if followed.folders != folders:
                        stop.set()
            except OSError as error:
                # Most often the system's limit on watches.
                if not told:
                    self._upstream.log("warning", f"the system tells of no changes: {error}; looking every second")
                told = True
                await asyncio.sleep(30 * _LOOK_AGAIN_S)
