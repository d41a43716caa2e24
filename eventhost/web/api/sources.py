"""Sources: how each fares, and what it can be told to do."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from eventhost.access import Access
from eventhost.sources import SourceStatus
from eventhost.web.endpoint import get, post

if TYPE_CHECKING:
    from eventhost.environment import ServerEnvironment


class Verb(StrEnum):
    """What a source can be told."""

    START = "start"
    STOP = "stop"
    RESTART = "restart"
    ENABLE = "enable"
    DISABLE = "disable"


class SourceList(msgspec.Struct, frozen=True):
    sources: list[SourceStatus]


class Sources:
    """The event sources."""

    def __init__(self, environment: ServerEnvironment) -> None:
        self._environment = environment
        self._verbs = {
            Verb.START: environment.start_source,
            Verb.STOP: environment.stop_source,
            Verb.RESTART: environment.restart_source,
            Verb.ENABLE: environment.enable_source,
            Verb.DISABLE: environment.disable_source,
        }

    @get("/sources", Access.READ)
    async def all(self) -> SourceList:
        """Every source's status, by name."""
        return SourceList(self._environment.source_statuses())

    @get("/sources/{name}", Access.READ)
    async def one(self, name: str) -> SourceStatus:
        """One source's status."""
        return self._environment.source_status(name)

    @post("/sources/{name}/{verb}", Access.ADMIN, errors=(409,))
    async def act(self, name: str, verb: Verb) -> SourceStatus:
        """Start, stop, restart, enable or disable a source; enabling and disabling last."""
        await self._verbs[verb](name)
        return self._environment.source_status(name)
