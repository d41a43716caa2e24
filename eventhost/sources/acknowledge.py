"""A source that asked for it is told which of its events were accepted, in as few messages as its speed allows."""

from __future__ import annotations

from typing import Any, Literal, cast

import anyio
from mcp_types import ClientNotification, Notification, NotificationParams

from eventhost.connections import Link
from eventhost.wire import ACCEPTED

MOST_UNSENT = 100_000
"""A source that lets this many acknowledgements wait does not read its stdin any more."""


class _AcceptedParams(NotificationParams):
    ids: list[str]
    rejected: list[dict[str, str]]


class _Accepted(Notification[_AcceptedParams, Literal["notifications/eventsource/accepted"]]):
    method: Literal["notifications/eventsource/accepted"] = ACCEPTED
    params: _AcceptedParams


class Acknowledger:
    """Gathers what became of events, and tells the source; never makes the one who reports it wait.

    Gathers before there is a link, too: a source may speak before the host knows that it asked for this.
    """

    def __init__(self) -> None:
        self._link: Link | None = None
        self._ids: list[str] = []
        self._rejected: list[dict[str, str]] = []
        self._gathered = anyio.Event()

    def accepted(self, ids: list[str]) -> None:
        """These are in the journal."""
        self._ids += ids
        self._note()

    def rejected(self, event_id: str, reason: str) -> None:
        """This one never will be."""
        self._rejected.append({"id": event_id, "reason": reason})
        self._note()

    def _note(self) -> None:
        self._gathered.set()
        if len(self._ids) + len(self._rejected) <= MOST_UNSENT:
            return
        if self._link is not None:
            self._link.lost("does not read the acknowledgements that it asked for")
        self._ids, self._rejected = [], []

    async def run(self, link: Link) -> None:
        """Send what has gathered, until cancelled."""
        self._link = link
        while True:
            await self._gathered.wait()
            self._gathered = anyio.Event()
            ids, rejected = self._ids, self._rejected
            self._ids, self._rejected = [], []
            notification: Any = _Accepted(params=_AcceptedParams(ids=ids, rejected=rejected))
            await link.client.session.send_notification(cast("ClientNotification", notification))
