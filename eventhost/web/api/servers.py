"""Tool servers: the connections that are no sources."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from eventhost.access import Access
from eventhost.connections import ServerStatus
from eventhost.web.endpoint import get, post

if TYPE_CHECKING:
    from eventhost.environment import ServerEnvironment


class ServerVerb(StrEnum):
    """What a tool server can be told."""

    START = "start"
    STOP = "stop"
    RESTART = "restart"


class ServerList(msgspec.Struct, frozen=True):
    servers: list[ServerStatus]


class Servers:
    """The tool servers."""

    def __init__(self, environment: ServerEnvironment) -> None:
        self._environment = environment

    @get("/servers", Access.READ)
    async def all(self) -> ServerList:
        """Every tool server's status, by name."""
        return ServerList(self._environment.server_statuses())

    @get("/servers/{name}", Access.READ)
    async def one(self, name: str) -> ServerStatus:
        """One tool server's status."""
        return self._environment.server_status(name)

    @post("/servers/{name}/{verb}", Access.ADMIN)
    async def act(self, name: str, verb: ServerVerb) -> ServerStatus:
        """Start, stop or restart a tool server, until the host restarts."""
        environment = self._environment
        match verb:
            case ServerVerb.START:
                await environment.start_server(name)
            case ServerVerb.STOP:
                await environment.stop_server(name)
            case ServerVerb.RESTART:
                await environment.restart_server(name)
        return environment.server_status(name)
