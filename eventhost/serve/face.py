"""`McpFace`: one MCP server for all that speak MCP with the host, by whichever way they come."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.abc
import structlog
from mcp.server.subscriptions import (
    PromptsListChanged,
    ResourcesListChanged,
    ResourceUpdated,
    ServerEvent,
    ToolsListChanged,
)

from eventhost.errors import EventhostError
from eventhost.serve.channel import CAPABILITY, INSTRUCTIONS
from eventhost.serve.exchange import Exchanges
from eventhost.serve.http import StreamableHttp
from eventhost.serve.listeners import Listeners
from eventhost.serve.logs import is_heard, logged
from eventhost.serve.own import Own
from eventhost.serve.passing import Passing
from eventhost.serve.peer import Peer
from eventhost.serve.server import make_server
from eventhost.serve.watching import Watching, updated

if TYPE_CHECKING:
    from eventhost.environment import ServerEnvironment

log = structlog.get_logger()

MAX_BODY_BYTES: Final = 4 * 1_048_576

_TELL_S = 5.0
_GATHER_S = 0.1
"""Changes that come together are told together."""

_CHANGES: Final[dict[str, ServerEvent]] = {
    "tools": ToolsListChanged(),
    "resources": ResourcesListChanged(),
    "prompts": PromptsListChanged(),
}


class McpFace:
    """The host as an MCP server. What serves over HTTP, and tells of changes, works while `running` lasts."""

    def __init__(self, environment: ServerEnvironment, *, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        """`max_body_bytes` bounds one message that comes over HTTP."""
        self.environment = environment
        self.own = Own()
        self.passing = Passing(lambda: environment.get_mcp_manager())
        self.listeners = Listeners(self.heed)
        self._watching = Watching(self.passing.home)
        self.server = make_server(self)
        self.channel_server = make_server(self, instructions=INSTRUCTIONS, experimental=CAPABILITY)
        self.peers: set[Peer] = set()
        """Those that can be told something unasked."""
        self.http = StreamableHttp(self.server, max_body_bytes=max_body_bytes)
        self._exchanges = Exchanges(self.server)
        self._tasks: anyio.abc.TaskGroup | None = None
        self._telling = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve until the block ends; all sessions end then."""
        async with anyio.create_task_group() as tasks, self.http.running():
            self._tasks = tasks
            try:
                yield
            finally:
                self._tasks = None
                with anyio.CancelScope(shield=True):
                    for peer in list(self.peers):
                        await peer.aclose()
                tasks.cancel_scope.cancel()

    @property
    def tasks(self) -> anyio.abc.TaskGroup:
        """Where to start what runs for as long as the face does, or for a peer.

        Raises:
            EventhostError: the face is not running.
        """
        if self._tasks is None:
            raise EventhostError("the MCP server is not running; the host may be stopping")
        return self._tasks

    async def answer(self, message: Mapping[str, Any], peer: Peer) -> dict[str, Any] | None:
        """The JSON-RPC response to one message of a session; None if it asks for none.

        No handshake is needed before. Whatever is wrong comes as a JSON-RPC error. Messages of one peer may be answered
        at the same time; `notifications/cancelled` ends one of them without a response.
        """
        return await self._exchanges.answer(message, peer)

    def join(self, peer: Peer) -> None:
        """Take note of a peer, which is told of changes until it ends."""
        if peer.notify is None or peer in self.peers:
            return
        self.peers.add(peer)
        self.heed()

        async def leave() -> None:
            self.peers.discard(peer)
            self.heed()

        peer.at_end(leave)

    # Changes

    def watched(self) -> frozenset[str]:
        """URIs of the resources that somebody has subscribed to."""
        return frozenset(self.listeners.watched().union(*(peer.watched for peer in self.peers)))

    async def resource_updated(self, uri: str) -> None:
        """Tell those that have subscribed to a resource that it has changed."""
        await self.listeners.publish(ResourceUpdated(uri))
        await self._tell("notifications/resources/updated", {"uri": uri}, lambda peer: uri in peer.watched)

    async def lists_changed(self, *lists: str, hosts: bool = True) -> None:
        """Tell everybody, or all but other hosts, that these lists changed: `tools`, `resources`, `prompts`."""
        for kind in lists:
            await self.listeners.publish(_CHANGES[kind])
            await self._tell(f"notifications/{kind}/list_changed", {}, lambda peer: hosts or not peer.is_host)

    async def _tell_logs(self) -> None:
        async with aclosing(logged(self.environment.get_mcp_manager())) as messages:
            async for message in messages:
                level = message["level"]
                await self._tell("notifications/message", message, partial(_hears, level))

    def heed(self) -> None:
        """Take note that what somebody wants to be told may be another now."""
        if self._tasks is None:
            return
        if not self._telling:
            self._telling = True
            for tell in (self._tell_changes, self._tell_logs, self._tell_updates):
                self._tasks.start_soon(_apart, tell)
        self._watching.want({uri for uri in self.watched() if not self.own.has(uri)}, self._tasks)

    async def _tell_updates(self) -> None:
        async with aclosing(updated(self.environment.get_mcp_manager())) as uris:
            async for uri in uris:
                await self.resource_updated(uri)

    async def _tell_changes(self) -> None:
        manager = self.environment.get_mcp_manager()
        seen = manager.revisions
        while True:
            await manager.revised(seen)
            await anyio.sleep(_GATHER_S)
            before, seen = seen, manager.revisions
            changed = {kind for kind in seen if seen[kind] != before.get(kind)}
            await self.lists_changed(*(kind for kind in _CHANGES if kind in changed))
            # What this host has from others it does not offer to others.
            from_hosts = (kind for kind in _CHANGES if f"hosts' {kind}" in changed and kind not in changed)
            await self.lists_changed(*from_hosts, hosts=False)

    async def _tell(self, method: str, params: dict[str, Any], wants: Callable[[Peer], bool]) -> None:
        async def tell(peer: Peer) -> None:
            assert peer.notify is not None
            try:
                with anyio.fail_after(_TELL_S):
                    await peer.notify(method, params)
            except Exception as error:
                peer.told_of_changes = False  # until it is heard of again: others need not wait for it each time
                log.debug("peer_not_told", peer=peer.id, method=method, error=repr(error))

        async with anyio.create_task_group() as tasks:
            for peer in self.peers:
                if peer.told_of_changes and wants(peer):
                    tasks.start_soon(tell, peer)


async def _apart(run: Callable[[], Awaitable[None]]) -> None:
    """Run something whose failure is its own, and not the server's."""
    try:
        await run()
    except Exception:
        log.exception("mcp_changes_not_told")


def _hears(level: str, peer: Peer) -> bool:
    return is_heard(level, peer.log_level)
