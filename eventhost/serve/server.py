"""The SDK's server with a handler for each request: what is the host's own first, the rest passed on."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from mcp import MCPError
from mcp.server.caching import CacheHint
from mcp.server.connection import Connection
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    CallToolRequestParams,
    CallToolResult,
    CompleteRequestParams,
    CompleteResult,
    EmptyResult,
    GetPromptRequestParams,
    GetPromptResult,
    InputRequiredResult,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ListToolsResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    ServerCapabilities,
    SetLevelRequestParams,
    SubscribeRequestParams,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
    UnsubscribeRequestParams,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from eventhost import __version__
from eventhost.access import Access
from eventhost.errors import EventhostError, NotFound
from eventhost.relay import HOST_NAME, HOST_NAMES
from eventhost.serve.asking import Asking
from eventhost.serve.audit import audited
from eventhost.serve.http import sender
from eventhost.serve.peer import Peer

if TYPE_CHECKING:
    from eventhost.serve.face import McpFace

Context = ServerRequestContext[Any, Any]

RESOURCE_NOT_FOUND: Final = -32002
"""What a resource that is not there has as code in the handshake era; the modern one has `INVALID_PARAMS`."""

PEER: Final = "eventhost.peer"
"""Under this name the state of a connection holds its peer."""

_INSTRUCTIONS: Final = (
    "Tools and prompts that are named server__name belong to the MCP servers behind this host. What has no server's "
    "name in front is the host's own, and is about events: to look at them, to wait for them, to publish them."
)

_CACHEABLE: Final = (
    "prompts/list",
    "resources/list",
    "resources/read",
    "resources/templates/list",
    "server/discover",
    "tools/list",
)


def make_server(
    face: McpFace, *, instructions: str = _INSTRUCTIONS, experimental: dict[str, dict[str, Any]] | None = None
) -> Server[Any]:
    """The server of this face; `experimental` are capabilities that it declares besides."""
    handlers = _Handlers(face)
    server = _Server(
        HOST_NAME,
        version=__version__,
        title="eventhost",
        description="Event sources, and the tools, resources and prompts of the MCP servers behind this host.",
        instructions=instructions,
        # What is listed depends on who asks, and on which servers are up.
        cache_hints={method: CacheHint(ttl_ms=0, scope="private") for method in _CACHEABLE},
        get_tool_input_schema=face.passing.schema,
        on_list_tools=handlers.list_tools,
        on_call_tool=handlers.call_tool,
        on_list_resources=handlers.list_resources,
        on_list_resource_templates=handlers.list_templates,
        on_read_resource=handlers.read_resource,
        on_subscribe_resource=handlers.subscribe,
        on_unsubscribe_resource=handlers.unsubscribe,
        on_subscriptions_listen=handlers.listen,
        on_list_prompts=handlers.list_prompts,
        on_get_prompt=handlers.get_prompt,
        on_completion=handlers.complete,
    )
    server.experimental = experimental
    # By the constructor's own argument for it, the SDK warns of a method that old clients still use.
    server.add_request_handler("logging/setLevel", SetLevelRequestParams, handlers.set_level)
    server.middleware.append(handlers.meet)
    return server


def peer_of(ctx: Context) -> Peer:
    """Who sent this message; only a session's peer outlives it."""
    peer = _connection(ctx).state[PEER]
    assert isinstance(peer, Peer)
    return peer


def _connection(ctx: Context) -> Connection:
    # There is no public way to what lasts as long as the session does, and ends with it.
    return ctx.session._connection


class _Server(Server[Any]):
    experimental: dict[str, dict[str, Any]] | None = None

    def get_capabilities(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
        *,
        protocol_version: str | None = None,
    ) -> ServerCapabilities:
        experimental = experimental_capabilities or self.experimental
        return super().get_capabilities(
            notification_options, experimental, extensions, protocol_version=protocol_version
        )

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        changes = NotificationOptions(prompts_changed=True, resources_changed=True, tools_changed=True)
        return super().create_initialization_options(changes, experimental_capabilities, extensions)


class _Handlers:
    def __init__(self, face: McpFace) -> None:
        self._face, self._own, self._passing = face, face.own, face.passing

    async def meet(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        """See who it is, and whether they may read; what a tool asks for beyond that is checked at its call."""
        connection = _connection(ctx)
        peer = connection.state.get(PEER)
        if peer is None:
            # Over lines the peer is there before its first message, and outlives each of the modern era.
            if isinstance(ctx.lifespan_context, Peer):
                peer = ctx.lifespan_context
            else:
                notify = partial(_notify, connection) if connection.has_standalone_channel else None
                peer = Peer(sender(ctx.request), notify)
                connection.exit_stack.push_async_callback(peer.aclose)
            connection.state[PEER] = peer
            self._face.join(peer)
        peer.told_of_changes = peer.notify is not None and ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS
        client = ctx.session.client_params
        peer.is_host = client is not None and client.client_info.name in HOST_NAMES
        if ctx.method != "initialize":
            peer.ready.set()
        with audited(ctx.method, ctx.params, peer) as request:
            _allow(peer, Access.READ, ctx.method)
            try:
                result = await call_next(ctx)
            except EventhostError as error:
                raise MCPError(INTERNAL_ERROR, str(error)) from error
            request.ended_in(result)
            return result

    # Tools

    async def list_tools(self, ctx: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
        own = [tool.tool for tool in self._own.tools.values()]
        return ListToolsResult(tools=[*own, *await self._passing.tools(from_hosts=not peer_of(ctx).is_host)])

    async def call_tool(self, ctx: Context, params: CallToolRequestParams) -> CallToolResult | InputRequiredResult:
        peer = peer_of(ctx)
        if (own := self._own.tools.get(params.name)) is not None:
            _allow(peer, own.access, params.name)
            return await self._own.call(own, params.arguments or {}, peer)
        _allow(peer, Access.PUBLISH, params.name)
        return await self._passing.call(params, _asking(ctx), ctx.session.report_progress)

    # Resources

    async def list_resources(self, ctx: Context, params: PaginatedRequestParams | None) -> ListResourcesResult:
        own = [resource for provider in self._own.providers for resource in provider.list()]
        passed = await self._passing.resources(from_hosts=not peer_of(ctx).is_host)
        # A source may have resources of the same name, as the kit's do; the host's own, which is read, says more.
        known = {str(resource.uri) for resource in own}
        return ListResourcesResult(resources=[*own, *(each for each in passed if str(each.uri) not in known)])

    async def list_templates(self, ctx: Context, params: PaginatedRequestParams | None) -> ListResourceTemplatesResult:
        own = [template for provider in self._own.providers for template in provider.templates()]
        passed = await self._passing.templates(from_hosts=not peer_of(ctx).is_host)
        return ListResourceTemplatesResult(resource_templates=[*own, *passed])

    async def read_resource(
        self, ctx: Context, params: ReadResourceRequestParams
    ) -> ReadResourceResult | InputRequiredResult:
        try:
            own = await self._own.read(params.uri, peer_of(ctx))
            return own if own is not None else await self._passing.read(params, _asking(ctx))
        except NotFound as error:
            code = INVALID_PARAMS if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS else RESOURCE_NOT_FOUND
            raise MCPError(code, str(error), {"uri": params.uri}) from None

    async def subscribe(self, ctx: Context, params: SubscribeRequestParams) -> EmptyResult:
        peer_of(ctx).watched.add(str(params.uri))
        self._face.heed()
        return EmptyResult()

    async def unsubscribe(self, ctx: Context, params: UnsubscribeRequestParams) -> EmptyResult:
        peer_of(ctx).watched.discard(str(params.uri))
        self._face.heed()
        return EmptyResult()

    async def listen(self, ctx: Context, params: SubscriptionsListenRequestParams) -> SubscriptionsListenResult:
        return await self._face.listeners.listen(ctx, params)

    # Prompts, and the rest

    async def list_prompts(self, ctx: Context, params: PaginatedRequestParams | None) -> ListPromptsResult:
        return ListPromptsResult(prompts=await self._passing.prompts(from_hosts=not peer_of(ctx).is_host))

    async def get_prompt(self, ctx: Context, params: GetPromptRequestParams) -> GetPromptResult | InputRequiredResult:
        try:
            return await self._passing.prompt(params, _asking(ctx))
        except NotFound as error:
            raise MCPError(INVALID_PARAMS, str(error)) from None

    async def complete(self, ctx: Context, params: CompleteRequestParams) -> CompleteResult:
        try:
            return await self._passing.complete(params)
        except NotFound as error:
            raise MCPError(INVALID_PARAMS, str(error)) from None

    async def set_level(self, ctx: Context, params: SetLevelRequestParams) -> EmptyResult:
        peer_of(ctx).log_level = params.level
        return EmptyResult()


def _asking(ctx: Context) -> Asking:
    return Asking(ctx, peer_of(ctx).log_level)


def _allow(peer: Peer, access: Access, what: str) -> None:
    if not peer.caller.may(access):
        has = ", ".join(sorted(peer.caller.scopes)) or "none"
        raise MCPError(INVALID_REQUEST, f"{what} asks for the scope {access}; the key {peer.caller.name!r} has {has}")


async def _notify(connection: Connection, method: str, params: dict[str, Any]) -> None:
    await connection.notify(method, params)
