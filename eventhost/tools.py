"""`McpManager`: the tools, resources and prompts of all connections, as if they were one server's."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from typing import Any, TypeVar

import anyio
import structlog
from mcp_types import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    CallToolResult,
    GetPromptResult,
    Prompt,
    ReadResourceResult,
    Resource,
    Tool,
)

from eventhost.config import ServerConfig
from eventhost.connections import NO_ANSWER, Connection, ConnectionPool, EventSourceStatus, Link, list_all, refusal
from eventhost.errors import ActionError, ConnectionLost, NotFound

log = structlog.get_logger()

T = TypeVar("T")
Named = TypeVar("Named", Tool, Prompt)

MAX_NAME_LENGTH = 64
CONNECT_TIMEOUT_S = 30.0
LIST_TIMEOUT_S = 30.0
CALL_TIMEOUT_S = 60.0

_NEVER = (METHOD_NOT_FOUND, INVALID_PARAMS)
"""What a server answers to a call that it will not take the next time either."""


class _Wait(Enum):
    """For which servers is waited."""

    NOBODY = 0
    CONNECTING = 1
    RESTARTING = 2
    """For those that connect, and for those that are about to be started again."""


@dataclass(frozen=True, slots=True)
class HostedTool:
    """A tool under its public name, `server__tool`, which matches `^[a-zA-Z0-9_-]{1,64}$`."""

    name: str
    server: str
    tool: Tool


@dataclass(frozen=True, slots=True)
class HostedResource:
    server: str
    resource: Resource


@dataclass(frozen=True, slots=True)
class HostedPrompt:
    """A prompt under its public name, made as a tool's is."""

    name: str
    server: str
    prompt: Prompt


@dataclass(frozen=True, slots=True)
class _Listing:
    """What one server listed; valid for this link, until the server says that its lists changed."""

    link: Link
    list_changes: int
    tools: tuple[Tool, ...]
    resources: tuple[Resource, ...]
    prompts: tuple[Prompt, ...]


class McpManager:
    """Offers what every connection offers. A client that does not start by itself is started by its first use."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._listings: dict[str, _Listing] = {}
        self._clients: dict[str, ServerConfig] = {}

    def load_clients(self, clients: Mapping[str, ServerConfig]) -> None:
        """Take in these clients, and begin to connect those that are enabled and start by themselves."""
        for config in clients.values():
            self._clients[config.name] = config
            connection = self._pool.add(config)
            if config.enabled and config.auto_start:
                self._pool.start(connection)

    async def remove(self, name: str) -> None:
        """Stop and forget a client.

        Raises:
            NotFound: there is none of this name.
        """
        await self._pool.remove(name)
        del self._clients[name]

    async def get_tools(self, wanted: Sequence[str] = (), *, from_hosts: bool = True) -> list[HostedTool]:
        """The tools of all servers that are there, or of all that are no other eventhosts, under their public names.

        `wanted` are public names, or globs of them: for a server that one begins with (`todo__*`) is waited while it
        connects, for no other.
        """
        literals = [re.split(r"[*?\[]", glob, maxsplit=1)[0] for glob in wanted]
        awaited = {server for literal in literals for server in self._named_in(literal)}
        listed = [(listing, name) for name, listing in (await self._list_all(awaited, from_hosts=from_hosts)).items()]
        names = public_names([(server, tool.name) for listing, server in listed for tool in listing.tools])
        return [
            HostedTool(names[server, tool.name], server, tool) for listing, server in listed for tool in listing.tools
        ]

    async def execute_tool(
        self, name: str, arguments: Mapping[str, Any] | None = None, *, timeout_s: float = CALL_TIMEOUT_S
    ) -> CallToolResult:
        """Call the tool with this public name. A tool's own failure is a result with `is_error`.

        Raises:
            NotFound: there is no such tool; the text says what there is.
            ActionError: its server answered with an error; not to be retried if it does not know the tool, or does not
                take such arguments.
            ConnectionLost: its server cannot be reached, or did not answer within `timeout_s`.
        """
        tool = await self.tool(name)
        link = await self._link(self._pool.connections[tool.server])
        try:
            with anyio.fail_after(timeout_s):
                return await link.client.call_tool(tool.tool.name, dict(arguments or {}))
        except TimeoutError:
            raise ConnectionLost(f"{name} did not answer within {timeout_s:g} s") from None
        except NO_ANSWER as error:
            if link.ended.is_set():
                raise ConnectionLost(f"{tool.server} ended while {name} was running: {link.reason}") from error
            if (answer := refusal(error)) is not None:
                raise ActionError(f"{name}: {answer.message}", retry=answer.code not in _NEVER) from error
            raise ConnectionLost(f"{name}: {error}") from error

    async def get_resources(self, *, from_hosts: bool = True) -> list[HostedResource]:
        """The resources of all servers that are there, or of all that are no other eventhosts."""
        return [
            HostedResource(server, resource)
            for server, listing in (await self._list_all(from_hosts=from_hosts)).items()
            for resource in listing.resources
        ]

    async def read_resource(self, uri: str, *, server: str | None = None) -> ReadResourceResult:
        """Read a resource of the server that lists it, or of the one that is named.

        Raises:
            NotFound: no server lists it.
            ConnectionLost: its server cannot be reached, or refused.
        """
        if server is None:
            server = await self.home(uri)
        if server is None:
            raise NotFound(f"no server lists the resource {uri}")
        link = await self._link(self._connection(server))
        return await _answer(link.client.read_resource(uri), uri)

    async def home(self, uri: str) -> str | None:
        """The server that lists a resource, if there is one."""
        listings = await self._list_these(dict.fromkeys(self._pool.connections, _Wait.CONNECTING))
        having = (name for name in listings if any(str(each.uri) == uri for each in listings[name].resources))
        return next(having, None)

    async def get_prompts(self, *, from_hosts: bool = True) -> list[HostedPrompt]:
        """The prompts of all servers that are there, or of all that are no other eventhosts, by their public names."""
        return await self._prompts((), from_hosts=from_hosts)

    async def _prompts(self, awaited: Iterable[str], *, from_hosts: bool = True) -> list[HostedPrompt]:
        listings = await self._list_all(awaited, from_hosts=from_hosts)
        names = public_names(
            [(server, prompt.name) for server, listing in listings.items() for prompt in listing.prompts]
        )
        return [
            HostedPrompt(names[server, prompt.name], server, prompt)
            for server, listing in listings.items()
            for prompt in listing.prompts
        ]

    async def get_prompt(self, name: str, arguments: Mapping[str, str] | None = None) -> GetPromptResult:
        """Have a server fill in the prompt with this public name.

        Raises:
            NotFound: there is no such prompt.
            ConnectionLost: its server cannot be reached, or refused.
        """
        hosted = await self.prompt(name)
        link = await self._link(self._connection(hosted.server))
        return await _answer(link.client.get_prompt(hosted.prompt.name, dict(arguments or {})), name)

    async def prompt(self, name: str) -> HostedPrompt:
        """The prompt with this public name.

        Raises:
            NotFound: there is no such prompt.
        """
        prompts = await self._prompts(self._named_in(name))
        for hosted in prompts:
            if hosted.name == name:
                return hosted
        raise NotFound(f"no prompt is called {name!r}; there are: {', '.join(p.name for p in prompts) or 'none'}")

    async def tool(self, name: str) -> HostedTool:
        """The tool with this public name; asks first the servers whose names it begins with.

        Raises:
            NotFound: there is no such tool; the text says what there is.
            ConnectionLost: the server that must have it cannot be reached.
        """
        near = self._named_in(name)
        for servers, wait in ((near, _Wait.RESTARTING), (list(self._pool.connections), _Wait.CONNECTING)):
            listings = await self._list_these(dict.fromkeys(servers, wait))
            names = public_names([(server, tool.name) for server in listings for tool in listings[server].tools])
            for server, listing in listings.items():
                for tool in listing.tools:
                    if names[server, tool.name] == name:
                        return HostedTool(name, server, tool)
        unreached = [server for server in near if server not in self._listings]
        if unreached:
            connection = self._pool.connections[unreached[0]]
            why = f": {connection.last_error}" if connection.last_error else ""
            mend = "" if why else "; start it, or enable it in its config"
            raise ConnectionLost(f"{name}: {unreached[0]} is {connection.status}{why}{mend}")
        known = sorted(tool.name for tool in await self.get_tools())
        raise NotFound(f"no tool is called {name!r}; there are: {', '.join(known) or 'none'}")

    async def link(self, server: str) -> Link:
        """The connection to a server; one that starts by its first use is started.

        Raises:
            NotFound: there is none of this name.
            ConnectionLost: it cannot be reached.
        """
        return await self._link(self._connection(server))

    def links(self) -> list[Link]:
        """The connections that are up."""
        return [connection.link for connection in self._pool.connections.values() if connection.link is not None]

    def hear_logs(self, hear: Callable[[str, str, Any], None] | None) -> None:
        """Have `hear` called with each log notification of the servers: server, level, data; None ends that."""
        self._pool.on_log = hear

    def hear_updates(self, hear: Callable[[str], None] | None) -> None:
        """Have `hear` called with the URI of each resource that its server says has changed; None ends that."""
        self._pool.on_resource_updated = hear

    @property
    def revisions(self) -> dict[str, int]:
        """How often the `tools`, `resources` and `prompts` of all servers have changed, or those that have them."""
        return dict(self._pool.revisions)

    async def revised(self, since: Mapping[str, int]) -> None:
        """Wait until `revisions` are others than those."""
        await self._pool.revised(since)

    def _named_in(self, name: str) -> list[str]:
        """The servers that a public name begins with."""
        return [server for server in self._pool.connections if name.startswith(f"{_clean(server)}__")]

    async def _list_all(self, awaited: Iterable[str] = (), *, from_hosts: bool = True) -> dict[str, _Listing]:
        """What is there, and what is `awaited` while it connects."""
        links = {name: connection.link for name, connection in self._pool.connections.items()}
        # One that is not up is not asked either, unless it is awaited.
        asked = (name for name, link in links.items() if from_hosts or (link is not None and not link.is_host))
        waits = dict.fromkeys(asked, _Wait.NOBODY)
        return await self._list_these(waits | dict.fromkeys(awaited, _Wait.CONNECTING))

    async def _list_these(self, servers: Mapping[str, _Wait]) -> dict[str, _Listing]:
        """What each of these servers offers; one that cannot be reached is left out."""
        listings: dict[str, _Listing] = {}

        async def list_one(server: str) -> None:
            try:
                listings[server] = await self._list(server, servers[server])
            except ConnectionLost:
                self._listings.pop(server, None)

        async with anyio.create_task_group() as tasks:
            for server in servers:
                tasks.start_soon(list_one, server)
        return {server: listings[server] for server in servers if server in listings}

    async def _list(self, server: str, wait: _Wait) -> _Listing:
        connection = self._connection(server)
        link = await self._link(connection, wait)
        known = self._listings.get(server)
        if known is not None and known.link is link and known.list_changes == connection.list_changes:
            return known
        changes, has = connection.list_changes, link.capabilities
        listing = _Listing(
            link,
            changes,
            _by_name(await _answer(list_all(link.client.list_tools, "tools"), server) if has.tools else ()),
            tuple(await _answer(list_all(link.client.list_resources, "resources"), server) if has.resources else ()),
            _by_name(await _answer(list_all(link.client.list_prompts, "prompts"), server) if has.prompts else ()),
        )
        self._listings[server] = listing
        return listing

    async def _link(self, connection: Connection, wait: _Wait = _Wait.RESTARTING) -> Link:
        config = self._clients.get(connection.config.name)
        if config is not None and config.enabled and not config.auto_start:
            self._pool.start(connection)
        hopeless = {EventSourceStatus.STOPPED, EventSourceStatus.ERROR}
        if wait is not _Wait.RESTARTING:
            hopeless.add(EventSourceStatus.BACKOFF)
        if connection.status in hopeless:
            raise ConnectionLost(f"{connection.config.name} is {connection.status}")
        return await connection.connected(0 if wait is _Wait.NOBODY else CONNECT_TIMEOUT_S)

    def _connection(self, server: str) -> Connection:
        if server not in self._pool.connections:
            raise NotFound(f"no server is called {server!r}; there are: {', '.join(self._pool.connections) or 'none'}")
        return self._pool.connections[server]


async def _answer(request: Awaitable[T], what: str) -> T:
    try:
        with anyio.fail_after(LIST_TIMEOUT_S):
            return await request
    except TimeoutError:
        raise ConnectionLost(f"{what}: no answer within {LIST_TIMEOUT_S:g} s") from None
    except NO_ANSWER as error:
        log.warning("request_failed", what=what, error=str(error))  # who asks many servers only leaves this one out
        raise ConnectionLost(f"{what}: {error}") from error


def _by_name(listed: Iterable[Named]) -> tuple[Named, ...]:
    """What was listed, less what bears the name of an earlier one."""
    return tuple({item.name: item for item in reversed(list(listed))}.values())[::-1]


def public_names(items: list[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """A public name for each (server, name): `server__name` where that is valid and unambiguous, else with a hash.

    Names match `^[a-zA-Z0-9_-]{1,64}$`, which is what language models' APIs accept; they do not depend on the order.
    """
    plain: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for server, name in dict.fromkeys(items):
        plain[f"{_clean(server)}__{_clean(name)}"].append((server, name))
    names: dict[tuple[str, str], str] = {}
    for public, claimants in plain.items():
        for server, name in claimants:
            if len(claimants) == 1 and len(public) <= MAX_NAME_LENGTH:
                names[server, name] = public
            else:
                digest = sha256(f"{server}\0{name}".encode()).hexdigest()[:8]
                names[server, name] = f"{public[: MAX_NAME_LENGTH - 9]}_{digest}"
    return names


def _clean(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_-]", "_", name)
