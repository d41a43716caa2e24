"""Sources as resources: `event-source://NAME/status` and `event-source://NAME/events`, with word of their updates."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote

import anyio
import msgspec
from mcp_types import ReadResourceResult, Resource, ResourceTemplate, TextResourceContents

from eventhost.errors import NotFound
from eventhost.serve.lookback import Lookback
from eventhost.serve.peer import Peer
from eventhost.serve.wanted import bounded

if TYPE_CHECKING:
    from eventhost.serve.face import McpFace

LOOK_S = 1.0
"""How soon a change is told."""

_SHOWN: Final = 20
_NEVER: Final = object()
_URI: Final = re.compile(r"event-source://([^/?#]+)/(status|events)")
_JSON: Final = "application/json"

_KINDS: Final = {
    "status": "Its state, counters, last error, and the end of its log",
    "events": "The types of its events, and the newest of them",
}


class SourceResources:
    """What there is to read of each source."""

    def __init__(self, face: McpFace, lookback: Lookback) -> None:
        self._face, self._lookback = face, lookback

    def list(self) -> Sequence[Resource]:
        """Two of each source."""
        statuses = self._face.environment.source_statuses()
        return [
            Resource(uri=_uri(status.name, kind), name=f"{status.name} {kind}", description=said, mime_type=_JSON)
            for status in statuses
            for kind, said in _KINDS.items()
        ]

    def templates(self) -> Sequence[ResourceTemplate]:
        """The shapes of their URIs."""
        return [
            ResourceTemplate(
                uri_template=f"event-source://{{name}}/{kind}",
                name=f"source {kind}",
                description=said,
                mime_type=_JSON,
            )
            for kind, said in _KINDS.items()
        ]

    async def read(self, uri: str, peer: Peer) -> ReadResourceResult | None:
        """The contents of one; None if it is none of these.

        Raises:
            NotFound: no source is called so.
        """
        if (found := _URI.fullmatch(uri)) is None:
            return None
        name = unquote(found[1])
        value = self._lookback.status(name) if found[2] == "status" else await self._events(name)
        text = msgspec.json.encode(bounded(value)).decode()
        return ReadResourceResult(contents=[TextResourceContents(uri=uri, mime_type=_JSON, text=text)])

    async def tell_changes(self) -> None:
        """Tell those that have subscribed to it when one has changed, until cancelled."""
        seen: dict[str, Any] = {}
        while True:
            watched = {uri: found for uri in self._face.watched() if (found := _URI.fullmatch(uri))}
            for uri, found in watched.items():
                try:
                    mark = self._lookback.marks(unquote(found[1]))[found[2] == "events"]
                except NotFound:
                    mark = None
                # The first time, too: it may have changed since it was subscribed to.
                if seen.get(uri, _NEVER) != mark:
                    await self._face.resource_updated(uri)
                    seen[uri] = mark
            seen = {uri: mark for uri, mark in seen.items() if uri in watched}
            await anyio.sleep(LOOK_S)

    async def _events(self, name: str) -> dict[str, Any]:
        self._lookback.status(name)  # raises if there is none
        return {"source": name, **await self._lookback.types(name), "newest": await self._lookback.newest(name, _SHOWN)}


def _uri(name: str, kind: str) -> str:
    return f"event-source://{quote(name, safe='')}/{kind}"
