"""Events to text: those that are held, read from the journal's file or asked of a running host, a line for each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any, Final

import msgspec

from eventhost.bus import selector
from eventhost.cli.control import Host
from eventhost.event import EnvEvent
from eventhost.exchange import to_cloudevent
from eventhost.journal import Entry
from eventhost.journal.file import Events
from eventhost.journal.moment import Moment
from eventhost.journal.search import forwards
from eventhost.web.events.stream import event_json

_EVERYTHING: Final = "*,host.*"
_YEAR_MS: Final = 365 * 86_400_000
_MOST: Final = 10_000


class HostEvents:
    """The events that a running host holds, as it tells them over HTTP; when they were accepted it does not tell."""

    def __init__(self, host: Host) -> None:
        self._host = host
        held = host.get("/status")["bus"]["journal"]
        self.head, self.first = int(held["head"]), int(held["first"])

    async def read(self, after: int, limit: int) -> Sequence[Entry]:
        after = max(after, self.first - 1)
        if limit <= 0 or after >= self.head:
            return ()
        events = self._get(str(after), min(limit, _MOST, self.head - after))
        return [Entry(each.pop("seq"), 0, msgspec.convert(each, EnvEvent)) for each in events]

    async def seq_at(self, at_ms: int) -> int:
        ago_ms = time.time_ns() // 1_000_000 - at_ms
        if ago_ms > _YEAR_MS:
            return self.first
        events = self._get(f"{max(ago_ms, 0)}ms", 1)
        return int(events[0]["seq"]) if events else self.head + 1

    def _get(self, since: str, limit: int) -> list[dict[str, Any]]:
        answer = self._host.get("/events", since=since, limit=limit, type=_EVERYTHING)
        return list(answer["events"])


@dataclass(slots=True)
class Exported:
    """What was written; `missing` are numbers of events that were asked for and are not held any more."""

    count: int = 0
    missing: str | None = None


async def export_events(
    journal: Events,
    start: Moment | None,
    end: Moment | None,
    types: Sequence[str] | None,
    out: IO[bytes],
    *,
    cloudevents: bool = False,
) -> Exported:
    """Write the events of a span, each on a line, in their order; those that come meanwhile are not among them."""
    after = await start.before(journal) if start is not None else journal.first - 1
    upto = await end.upto(journal) if end is not None else journal.head
    exported = Exported()
    if start is not None and start.seq is not None and 0 < start.seq < journal.first:
        exported.missing = f"{start.seq} to {journal.first - 1}"
    select = selector(types) if types else None
    async for entries in forwards(journal, after, upto):
        for entry in select(entries) if select is not None else entries:
            out.write(msgspec.json.encode(to_cloudevent(entry.event)) if cloudevents else event_json(entry))
            out.write(b"\n")
            exported.count += 1
    return exported
