"""Looking back for whoever asks: at the newest events that fit, at the types there are, at the sources' states."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventhost.errors import NotFound
from eventhost.journal import Entry, Journal
from eventhost.journal.moment import Moment
from eventhost.journal.search import backwards
from eventhost.serve.own import ToolFailed
from eventhost.serve.wanted import MAX_ANSWER_BYTES, for_people, wanted

if TYPE_CHECKING:
    from eventhost.environment import ServerEnvironment

LONGEST_PAGE: Final = 200
"""Events in one answer."""

SEARCH_S: Final = 3.0
"""Who looks for what is rare is answered after this long with what was found so far."""

_LOOKED_AT: Final = 20_000
"""So many of the newest events are looked at for their types."""
_MOST_TYPES: Final = 1_000
_STEP: Final = 512

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Query:
    """Which events; `before` is a sequence number, and so may `since` and `until` be, or a moment."""

    types: str | Sequence[str] = "*"
    match: Any = None
    source: str | None = None
    text: str | None = None
    since: int | str | None = None
    until: int | str | None = None
    before: int | None = None


class Lookback:
    """What there was, and what there is."""

    def __init__(self, environment: ServerEnvironment) -> None:
        self._environment = environment

    async def find(self, query: Query, limit: int) -> dict[str, Any]:
        """The newest events that fit, oldest first, and how far back was looked.

        Raises:
            ToolFailed: the query says something that cannot be.
        """
        journal = self._environment.bus.journal
        select = wanted(query.types, query.match).select()
        after, upto = await _span(journal, query)
        needle = query.text.casefold() if query.text else None
        found: list[dict[str, Any]] = []
        size, until = 0, time.monotonic() + SEARCH_S
        async for page in backwards(journal, upto, after, step=_STEP):
            for entry in select(page):
                if query.source is not None and entry.event.metadata.get("source_name") != query.source:
                    continue
                if needle is not None and needle not in entry.event.to_json().decode().casefold():
                    continue
                shown = for_people(entry)
                size += len(_encode(shown))
                if len(found) == limit or (found and size > MAX_ANSWER_BYTES):
                    older = found[-1]["seq"]
                    return {"events": found[::-1], "searched_to": older, "older": older}
                found.append(shown)
            if page and time.monotonic() > until and (oldest := page[-1].seq) > after + 1:
                return {"events": found[::-1], "searched_to": oldest, "older": oldest}
        return {"events": found[::-1], "searched_to": after + 1}

    async def types(self, source: str | None) -> dict[str, Any]:
        """The types of the newest events with how often each came, and those that sources are configured to say.

        Raises:
            NotFound: no source is called so, and no event is of it.
        """
        journal = self._environment.bus.journal
        counts: dict[str, int] = {}
        lowest = journal.head - _LOOKED_AT
        async for page in backwards(journal, journal.head, lowest, step=_STEP):
            for entry in page:
                if source is None or entry.event.metadata.get("source_name") == source:
                    counts[entry.event.type] = counts.get(entry.event.type, 0) + 1
        for name, client in self._environment.get_event_mcp_manager().get_clients().items():
            if source in (None, name):
                for glob in client.config.event_types:
                    counts.setdefault(glob, 0)
        if source is not None and not counts:
            self._environment.source_status(source)  # raises if there is none
        listed = sorted(counts)[:_MOST_TYPES]
        return {
            "types": [{"type": each, "count": counts[each]} for each in listed],
            "looked_at": max(0, journal.head - max(lowest, journal.first - 1)),
            **({"left_out": len(counts) - len(listed)} if len(counts) > len(listed) else {}),
        }

    async def newest(self, source: str, limit: int) -> list[dict[str, Any]]:
        """The newest events of a source, of those that were looked at for types; oldest first."""
        journal = self._environment.bus.journal
        found: list[Entry] = []
        async for page in backwards(journal, journal.head, journal.head - _LOOKED_AT, step=_STEP):
            found += [entry for entry in page if entry.event.metadata.get("source_name") == source]
            if len(found) >= limit:
                break
        return [for_people(entry) for entry in found[:limit][::-1]]

    def status(self, source: str) -> dict[str, Any]:
        """All that is known of a source; `eventsEmitted` is what sources themselves call what they published.

        Raises:
            NotFound: there is none of this name.
        """
        status = self._environment.source_status(source)
        return {**asdict(status), "status": str(status.status), "eventsEmitted": status.published}

    def statuses(self) -> list[dict[str, Any]]:
        """Each source in brief."""
        brief = ("name", "way_in", "published", "rejected", "restarts", "last_error", "last_event_at")
        return [
            {"status": str(status.status), **{key: getattr(status, key) for key in brief}}
            for status in self._environment.source_statuses()
        ]

    def marks(self, source: str) -> tuple[Any, Any]:
        """What changes when the state of a source does, and when it has said something.

        Raises:
            NotFound: there is none of this name.
        """
        client = self._environment.get_event_mcp_manager().get_clients().get(source)
        if client is None:
            if source not in self._environment.config.broken:
                raise NotFound(f"no source is called {source!r}")
            return "broken", 0
        connection = client.connection
        state = (connection.status, connection.restarts, connection.last_error, client.problem, client.rejected)
        return state, client.published


async def _span(journal: Journal, query: Query) -> tuple[int, int]:
    """After which number, and up to which."""
    after, upto = journal.first - 1, journal.head
    try:
        if query.since is not None:
            moment = Moment.parse(str(query.since))
            after = moment.seq - 1 if moment.seq is not None else await moment.before(journal)
        if query.until is not None:
            upto = await Moment.parse(str(query.until)).upto(journal)
    except ValueError as error:
        raise ToolFailed(f"from, to: {error}; write a sequence number, an ISO 8601 time, or 10m, 2h, 7d") from None
    if query.before is not None:
        upto = min(upto, query.before - 1)
    return max(after, journal.first - 1), min(upto, journal.head)
