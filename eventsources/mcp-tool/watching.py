"""Looks at one tool again and again, and tells how its answer differs from what was told last.

schedule ─► call ─► items ─► the table's changes ─► events ─► accepted by the host ─► kept
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from options import Watched
from results import Call, read

from eventhost.kit.diff import Change, Table
from eventhost.kit.event import Event
from eventhost.kit.selection import Misshapen, shown
from eventhost.kit.upstream import Unavailable, Upstream

FIRST_PAUSE_S: Final = 1.0
"""How long after a call that failed it is tried again; twice that after the next one, and so on to the next beat."""

Emit = Callable[[Iterable[Event]], Awaitable[None]]
"""Emits; returns once the host has accepted."""


class Away(Unavailable):
    """The server went away during a call: its own status says why, and when it is back."""


class Watch:
    """One tool, and what was told of it; its table is a file in `folder`.

    Raises:
        ConfigError: the table is damaged.
    """

    def __init__(self, watched: Watched, folder: Path, emit: Emit, upstream: Upstream) -> None:
        self.watched = watched
        self._emit, self._upstream = emit, upstream
        folder.mkdir(parents=True, exist_ok=True)
        self._table = Table(folder, watched.name, watched.selection, watched.question)
        self._wished = asyncio.Event()
        self._looks = False

    def look_now(self) -> None:
        """Do not wait for the next beat."""
        self._wished.set()

    def retry_now(self) -> None:
        """What failed may work now; a look that is under way finds out by itself."""
        if self._upstream.state != "connected" and not self._looks:
            self._wished.set()

    async def stay(self, call: Call) -> None:
        """Look at each beat of the schedule, and at once at first, until cancelled; whatever fails is tried again."""
        schedule, upstream = self.watched.schedule, self._upstream
        due_s = schedule.now_s()
        pause_s = FIRST_PAUSE_S
        while True:
            retry_s = 0.0
            self._wished.clear()
            self._looks = True
            try:
                count = await self.look(call)
            except Away:
                # The next call waits for the server's return.
                continue
            except (Unavailable, Misshapen, OSError) as error:
                upstream.failed(self.watched.server.without_secrets(str(error)))
                retry_s, pause_s = pause_s, pause_s * 2
            else:
                pause_s = FIRST_PAUSE_S
                upstream.position = {"items": count, "looked": datetime.now(UTC).isoformat(timespec="seconds")}
                if upstream.state != "connected":
                    upstream.connected(f"{count} items")
            finally:
                self._looks = False
            now_s = schedule.now_s()
            due_s = schedule.next_after(due_s, now_s)
            await self._until(due_s, retry_s)

    async def look(self, call: Call) -> int:
        """Call the tool, and tell what changed; return how many items there are.

        Raises:
            Unavailable: the tool failed; nothing was told.
            Misshapen: the answer is not what the configuration says; nothing was told.
        """
        watched = self.watched
        # Before anything is asked: the server may be away, and this was on its way to the host when the source ended.
        await self._table.resume(self._tell)
        found = await read(watched, call)
        try:
            self._table.expect(found.form)
        except Misshapen as error:
            mend = "if that is how the tool says that there is nothing, set `empty` to it"
            if found.form != "document":
                raise
            raise Misshapen(f"{error}; {mend}; {shown(found.items[0][1])}") from None
        silent = self._table.is_new and not watched.tells_first
        await self._table.tell(found, self._tell, silent=silent)
        return len(found.items)

    def close(self) -> None:
        """Close its file."""
        self._table.close()

    async def _tell(self, changes: Sequence[Change]) -> None:
        wanted = [change for change in changes if self.watched.tells_deleted or change.kind != "deleted"]
        await self._emit(map(self._event, wanted))

    def _event(self, change: Change) -> Event:
        watched = self.watched
        payload: dict[str, Any] = {
            "name": watched.name,
            "tool": watched.tool,
            "change": change.kind,
            "key": change.key,
            "item": change.new,
            "old": change.old,
            "changed": change.changed,
        }
        metadata = {"server": watched.server.name}
        return Event(watched.types[change.kind], payload, id=change.id, metadata=metadata)

    async def _until(self, due_s: float, retry_s: float) -> None:
        """Return when it is `due_s`, or `retry_s` later if that is not 0, or somebody wishes it."""
        schedule = self.watched.schedule
        end_s = asyncio.get_running_loop().time() + retry_s if retry_s else float("inf")
        while (now_s := schedule.now_s()) < due_s and not self._wished.is_set():
            left_s = end_s - asyncio.get_running_loop().time()
            if left_s <= 0:
                break
            try:
                async with asyncio.timeout(min(schedule.sleep_s(due_s, now_s), left_s)):
                    await self._wished.wait()
            except TimeoutError:
                continue
