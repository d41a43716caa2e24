"""Looks at one URL again and again; tells what has changed since what was told last, and nothing because of an error.

wait ─► ask, if it has changed ─► answer ─► items ─► how they differ from the table ─► events ─► accepted ─► kept
 ▲                                                                                                            │
 └────────── as long as `interval`, the server and the feed say ◄─────────────────────────────────────────────┘
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from answers import Answer, Reading, read
from feeds import timestamp_of
from fetching import Fetch, hidden
from freshness import fresh_s, validators
from options import Page

from eventhost.kit.diff import Change, Table
from eventhost.kit.event import Event
from eventhost.kit.selection import Items, Misshapen, canonical
from eventhost.kit.upstream import Unavailable, Upstream

GAP: Final = "http.gap"

Emit = Callable[[Sequence[Event]], Awaitable[None]]
"""Emits in order; returns once the host has accepted."""


class Poll:
    """One URL, and what was told of it; `reading` bounds how many answers are read and compared at once.

    Raises:
        ConfigError: what is kept of it is damaged.
    """

    def __init__(
        self, page: Page, folder: Path, fetch: Fetch, emit: Emit, upstream: Upstream, reading: asyncio.Semaphore
    ) -> None:
        self.page = page
        self._table = Table(folder, page.name, page.selection)
        self._fetch, self._emit, self._upstream, self._reading = fetch, emit, upstream, reading
        self._failures = 0
        self._told_patience = False

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            started_s = time.monotonic()
            wait_s = await self.turn()
            await asyncio.sleep(max(wait_s - (time.monotonic() - started_s), 0))

    async def turn(self) -> float:
        """Look once; where that fails, say so in the status. Return the seconds from this look to the next."""
        page = self.page
        try:
            wait_s = await self.look()
        except (Unavailable, Misshapen, OSError) as error:
            # A server that fails is left alone for longer and longer, but no longer than one that does not.
            again_s = min(page.interval_s, 2.0**self._failures)
            self._failures = min(self._failures + 1, 30)
            after_s = error.after_s if isinstance(error, Unavailable) else page.interval_s
            self._upstream.failed(hidden(page, str(error)))
            return max(after_s, again_s)
        self._failures = 0
        return wait_s

    async def look(self) -> float:
        """Look once, and tell; return the seconds from one look to the next.

        Raises:
            Unavailable: it cannot be read now.
            Misshapen: the answer is not of the right shape.
        """
        page, table = self.page, self._table
        await table.resume(self._tell)
        note = table.note or {}
        known = note if note.get("request") == page.request else {}
        # Of several pages, only the first would be asked for.
        conditional = {} if page.next else known.get("validators", {})
        answer = await self._fetch(page, page.url, conditional)
        if answer.status == 304:
            self._connected("nothing has changed")
            wait_s = fresh_s(answer.headers) or known.get("ttl_s", 0)
        else:
            wait_s = await self._take(answer, known)
        wait_s = max(page.interval_s, min(wait_s, page.max_age_s))
        if wait_s > page.interval_s and not self._told_patience:
            self._told_patience = True
            told = f"the server or the feed says that it stays as it is for {wait_s:g} s"
            self._upstream.log("info", f"{told}, so it is not looked at every {page.interval_s:g} s; see `maxAge`")
        self._looked(answer.status, wait_s)
        return wait_s

    def close(self) -> None:
        """Close what is kept."""
        self._table.close()

    async def _take(self, answer: Answer, known: dict[str, Any]) -> float:
        digest = blake2b(answer.body, digest_size=16).hexdigest()
        if not self.page.next and known.get("body") == digest and known.get("validators") == validators(answer.headers):
            self._connected("nothing has changed")
            return fresh_s(answer.headers) or float(known["ttl_s"])
        reading = await self._all_pages(answer)
        await asyncio.to_thread(self._table.expect, reading.items.form)
        self._connected(f"{len(reading.items.items)} items")
        note = {
            "request": self.page.request,
            "validators": validators(answer.headers),
            "body": digest,
            "ttl_s": reading.ttl_s,
            "at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        async with self._reading:
            await self._compare(reading.items, note)
        return fresh_s(answer.headers) or reading.ttl_s

    async def _all_pages(self, answer: Answer) -> Reading:
        """The items of this answer and of those that follow it; what moved to a later page meanwhile is there once."""
        page = self.page
        reading = await self._read(answer)
        form, items = reading.items
        found = {canonical(key): (key, item) for key, item in items}
        for _ in range(page.pages - 1):
            if reading.next is None:
                break
            reading = await self._read(await self._fetch(page, reading.next, {}))
            if reading.items.form != form:
                raise Misshapen(f"the first page was a {form}, and another is a {reading.items.form}")
            for key, item in reading.items.items:
                found.setdefault(canonical(key), (key, item))
        if reading.next is not None and self._is_whole(form):
            # What is on the others would be told as deleted.
            raise Misshapen(f"there are more than {page.pages} pages; raise `pages`, or leave out `deleted`")
        return Reading(Items(form, list(found.values())), None, reading.ttl_s)

    async def _read(self, answer: Answer) -> Reading:
        async with self._reading:
            return await asyncio.to_thread(read, self.page, answer)

    async def _compare(self, found: Items, note: dict[str, Any]) -> None:
        page, table = self.page, self._table
        silent = table.is_new and page.first == "skip"
        whole = self._is_whole(found.form)
        await self._tell_gap(found)
        await table.tell(found, self._tell, silent=silent, remember=None if whole else page.remember, note=note)

    def _is_whole(self, form: str) -> bool:
        """Whether what is not there any more is gone, not just out of sight."""
        return form == "document" or (form == "list" and self.page.deleted)

    async def _tell_gap(self, found: Items) -> None:
        """Where no item of a list that shows only its newest is known, others may have gone through it unseen."""
        page, table = self.page, self._table
        if self._is_whole(found.form) or not found.items or table.is_new or not len(table):
            return
        if await asyncio.to_thread(table.knows_any, found.items):
            return
        payload = {
            "name": page.name,
            "reason": "window",
            "after": (table.note or {}).get("at"),
            "until": {"items": len(found.items), "key": found.items[0][0]},
        }
        what = blake2b(canonical(payload).encode(), digest_size=4).hexdigest()
        await self._upstream.gap(Event(GAP, payload, table.id_of(f"gap-{what}")))

    async def _tell(self, changes: Sequence[Change]) -> None:
        if events := [self._event(change) for change in changes if self._is_told(change)]:
            await self._emit(events)

    def _is_told(self, change: Change) -> bool:
        page = self.page
        told = page.changed if page.changed is not None else self._table.form != "feed"
        return told or change.kind != "changed"

    def _event(self, change: Change) -> Event:
        page, form = self.page, self._table.form
        payload = {
            "name": page.name,
            "change": change.kind,
            "key": change.key,
            "item": change.new,
            "old": change.old,
            "changed": change.changed,
        }
        timestamp = timestamp_of(change.new, change.kind) if form == "feed" and change.new else None
        return Event(page.event_type(change.kind), payload, change.id, timestamp)

    def _looked(self, status: int, wait_s: float) -> None:
        now_s = time.time()
        moments = [datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for at_s in (now_s, now_s + wait_s)]
        self._upstream.position = {
            "lookedAt": moments[0], "status": status, "items": len(self._table), "next": moments[1],
        }  # fmt: skip

    def _connected(self, detail: str) -> None:
        if self._upstream.state != "connected":
            self._upstream.connected(detail)
