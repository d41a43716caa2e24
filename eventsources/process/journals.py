"""One journal of systemd: its entries become events, from where they were told last, whatever happened in between.

what was written meanwhile (journalctl) ─► what is written from now on (journalctl --follow) ─┐
   ▲                                                                                          │
   └───────────── every half an hour, so that the position never grows old ◄──────────────────┘

`--follow` alone shows the entries of the newest boot only.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

from child import Child, Pipe
from lines import Line, Splitter, fitted
from options import Journal

from eventhost.kit.bookmark import Bookmark
from eventhost.kit.event import Event
from eventhost.kit.payload import in_base64
from eventhost.kit.upstream import Unavailable, Upstream

GAP_TYPE: Final = "process.gap"

_REFRESH_S: Final = 1800.0
_MOST_BYTES: Final = 8_000_000
"""Of one entry; with all its fields one may hold a whole memory image."""

_MOST_TEXT_BYTES: Final = 900_000
_MOST_BINARY_BYTES: Final = 600_000
_BATCH: Final = 500

_OWN_FIELDS: Final = {
    "MESSAGE": "message",
    "PRIORITY": "priority",
    "_SYSTEMD_UNIT": "unit",
    "_SYSTEMD_USER_UNIT": "user_unit",
    "UNIT": "about_unit",
    "SYSLOG_IDENTIFIER": "identifier",
    "_PID": "pid",
    "_HOSTNAME": "host",
}
_NUMBERS: Final = {"PRIORITY", "_PID"}

EmitAll = Callable[[Sequence[Event]], Awaitable[None]]


class Entry(NamedTuple):
    """One entry: where it stands, when it was written, and its fields as journalctl says them."""

    cursor: str
    time_us: int
    fields: dict[str, Any]

    @classmethod
    def of(cls, line: bytes) -> Entry:
        """What a line of journalctl's says.

        Raises:
            Unavailable: it is no entry.
        """
        try:
            said = json.loads(line)
            return cls(said["__CURSOR"], int(said["__REALTIME_TIMESTAMP"]), said)
        except (ValueError, KeyError, TypeError):
            raise Unavailable(f"journalctl says what is no entry: {line[:100].decode(errors='replace')}") from None


def entry_event(journal: Journal, entry: Entry) -> Event:
    """What an entry becomes."""
    payload: dict[str, Any] = {}
    truncated = False
    for field, name in _OWN_FIELDS.items():
        value, cut = _value(entry.fields.get(field))
        truncated = truncated or cut
        if field in _NUMBERS and isinstance(value, str) and value.isdecimal():
            value = int(value)
        if value is not None:
            payload[name] = value
    if journal.fields:
        payload["fields"], cut = _fields(entry.fields)
        truncated = truncated or cut
    if truncated:
        payload["truncated"] = True
    metadata = {"name": journal.name, "cursor": entry.cursor}
    return Event(journal.type, payload, f"{journal.name}:{entry.cursor}", entry.time_us // 1000, metadata)


def _value(value: Any) -> tuple[Any, bool]:
    """A field as JSON is to have it, and whether it was cut; bytes that are no text come as a list of numbers."""
    if isinstance(value, str):
        return fitted(value, _MOST_TEXT_BYTES)
    if isinstance(value, list) and value and all(isinstance(byte, int) for byte in value):
        data = bytes(byte & 255 for byte in value)
        return in_base64(data[:_MOST_BINARY_BYTES]), len(data) > _MOST_BINARY_BYTES
    if isinstance(value, list):
        # A field that is there several times.
        found = [_value(one) for one in value]
        return [one for one, _ in found], any(cut for _, cut in found)
    return value, False


def _fields(said: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """As many of the fields that are not told already as one event can hold."""
    fields: dict[str, Any] = {}
    left = _MOST_TEXT_BYTES // 4
    truncated = False
    for name in sorted(said.keys() - _OWN_FIELDS.keys()):
        if name.startswith("__"):
            continue
        value, _ = _value(said[name])
        size = len(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")) + len(name)
        if size > left:
            truncated = True
            continue
        left -= size
        fields[name] = value
    return fields, truncated


def gap_event(journal: Journal, after: str, until: Entry | None) -> Event:
    """That entries after the cursor `after` are not in the journal any more."""
    payload = {
        "name": journal.name,
        "reason": "vacuumed",
        "after": {"cursor": after, "timestamp": _time_ms(after)},
        "until": None if until is None else {"cursor": until.cursor, "timestamp": until.time_us // 1000},
    }
    return Event(GAP_TYPE, payload, f"{journal.name}:{after}:vacuumed")


def is_same(one: str, other: str) -> bool:
    """Whether two cursors mean the same entry, maybe in different files."""

    def parts(cursor: str) -> dict[str, str]:
        return dict(part.split("=", 1) for part in cursor.split(";") if part[:2] in ("b=", "m=", "t=", "x="))

    return one == other or (bool(parts(one)) and parts(one) == parts(other))


def _time_ms(cursor: str) -> int | None:
    """When the entry was written, which its cursor tells."""
    for part in cursor.split(";"):
        if part.startswith("t="):
            try:
                return int(part[2:], 16) // 1000
            except ValueError:
                return None
    return None


class Position(NamedTuple):
    """Where reading goes on: after the entry at `cursor`, or with it unless it was `told`. None: at the beginning."""

    cursor: str | None
    told: bool = True

    @classmethod
    def of(cls, kept: dict[str, Any]) -> Position:
        """What `kept` gave."""
        return cls(kept["cursor"], kept["told"])

    @property
    def kept(self) -> dict[str, Any]:
        """As JSON."""
        return self._asdict()


class Reader:
    """Tells the entries of one journal."""

    def __init__(
        self, journal: Journal, bookmark: Callable[[], Bookmark], emit_all: EmitAll, upstream: Upstream
    ) -> None:
        self._journal, self._bookmark, self._emit_all, self._upstream = journal, bookmark, emit_all, upstream
        self._position = Position(None)

    async def session(self) -> None:
        """Tell all entries from the position on, until cancelled.

        Raises:
            Unavailable: journalctl cannot be run, or has ended.
        """
        if shutil.which("journalctl") is None:
            raise Unavailable("journalctl is not on the PATH; a journal can be read where systemd runs")
        mark = self._bookmark()
        newest = await self._one()
        if not mark.content:
            is_past = newest is not None and not self._journal.from_beginning
            self._move(mark, Position(newest.cursor) if newest and is_past else Position(None))
        else:
            self._position = Position.of(mark.content)
            await self._check(mark, newest)
        self._upstream.connected()
        while True:
            await self._read(mark, follow=False)
            if newest is not None and (_time_ms(newest.cursor) or 0) > (_time_ms(self._position.cursor or "") or 0):
                # All that is wanted up to there was told, though it was written before.
                self._move(mark, Position(newest.cursor))
            try:
                async with asyncio.timeout(_REFRESH_S):
                    await self._read(mark, follow=True)
            except TimeoutError:
                newest = await self._one()
            else:
                raise Unavailable("journalctl has ended")

    async def _check(self, mark: Bookmark, newest: Entry | None) -> None:
        """Tell what cannot be had any more, if the entry at the position is not there."""
        cursor = self._position.cursor
        if cursor is None:
            return
        there = await self._one(cursor)
        if there is not None and is_same(there.cursor, cursor):
            return
        # With a clock that was set back all that is left may be older.
        next_one = there or newest
        await self._upstream.gap(gap_event(self._journal, cursor, next_one))
        self._move(mark, Position(next_one.cursor, told=False) if next_one else Position(None))

    def _move(self, mark: Bookmark, position: Position) -> None:
        mark.save(position.kept)
        self._position = position
        self._upstream.position = position.cursor

    async def _one(self, cursor: str | None = None) -> Entry | None:
        """The entry at a cursor, or the next one that there is; the newest one without. None: there is none.

        Raises:
            Unavailable: as `session`.
        """
        where = ["--lines=1"] if cursor is None else [f"--cursor={cursor}", "--lines=1"]
        child = self._start([*where, "--output-fields=PRIORITY"])
        found = b""
        try:
            words = asyncio.ensure_future(_last_words(child.stderr))
            while data := await child.stdout.read():
                found += data
            await self._well(child, words)
        finally:
            await child.stop()
        line = found.split(b"\n")[0]
        return Entry.of(line) if line else None

    async def _read(self, mark: Bookmark, *, follow: bool) -> None:
        """Tell what is wanted of what journalctl has from the position on; returns when it ends.

        Raises:
            Unavailable: it failed.
        """
        # Not --after-cursor, which leaves out one entry that is wanted where the one at the cursor is not.
        where = [f"--cursor={self._position.cursor}"] if self._position.cursor else []
        how = ["--follow", "--no-tail"] if follow else []
        if follow and not self._journal.is_own:
            # Else of several machines, or boots, only one would be followed.
            how += ["--merge", "--boot=all"]
        fields = [] if self._journal.fields else [f"--output-fields={','.join(_OWN_FIELDS)}"]
        child = self._start([*how, *where, "--all", *fields, *self._journal.which])
        splitter = Splitter(_MOST_BYTES)
        words = asyncio.ensure_future(_last_words(child.stderr))
        try:
            while data := await child.stdout.read():
                await self._tell(mark, splitter.feed(data))
            await self._well(child, words)
        finally:
            words.cancel()
            await child.stop()

    async def _tell(self, mark: Bookmark, lines: Sequence[Line]) -> None:
        entries = []
        for line in lines:
            if line.truncated:
                self._upstream.log("warning", f"an entry of more than {_MOST_BYTES} bytes is left out")
            elif line.data:
                entries.append(Entry.of(line.data))
        if self._position.told:
            entries = [entry for entry in entries if entry.cursor != self._position.cursor]
        for start in range(0, len(entries), _BATCH):
            batch = entries[start : start + _BATCH]
            await self._emit_all([entry_event(self._journal, entry) for entry in batch])
            self._move(mark, Position(batch[-1].cursor))

    def _start(self, arguments: Sequence[str]) -> Child:
        always = ["--output=json", "--no-pager", "--quiet"]
        return Child(["journalctl", *self._journal.where, *always, *arguments])

    async def _well(self, child: Child, words: asyncio.Future[str]) -> None:
        """Its output has ended; raise `Unavailable` if it failed."""
        await child.dead()
        status = child.sweep()
        said = await words
        if status:
            raise Unavailable(f"journalctl ended with status {status}{said and f': {said}'}")


async def _last_words(pipe: Pipe) -> str:
    """The last line that it writes, once it writes no more."""
    splitter, last = Splitter(), ""
    while data := await pipe.read():
        for line in splitter.feed(data):
            last = line.data.decode(errors="replace").strip() or last
    for line in splitter.end():
        last = line.data.decode(errors="replace").strip() or last
    return last[:300]
