"""The tools, resources and prompts of all tool servers, for programs that speak plain HTTP; the names are MCP's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
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
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request

from eventhost.access import Access
from eventhost.connections import refusal
from eventhost.errors import ActionError, ConnectionLost, NotFound
from eventhost.web.endpoint import get, post

if TYPE_CHECKING:
    from eventhost.environment import ServerEnvironment

_RESOURCE_NOT_FOUND: Final = -32002

_AS_ASKED: Final = {INVALID_PARAMS: 400, METHOD_NOT_FOUND: 404, _RESOURCE_NOT_FOUND: 404}
"""What a server answers to a request that is wrong, with the status for it."""


class HostedTool(Tool):
    """MCP's `Tool`, under its public name."""

    server: str


class Tools(BaseModel):
    """The tools, each with the `server` that it is of."""

    tools: list[HostedTool]


class ToolCall(msgspec.Struct, frozen=True):
    name: str
    arguments: dict[str, Any] = {}


class HostedResource(Resource):
    """MCP's `Resource`."""

    server: str


class Resources(BaseModel):
    """The resources, each with the `server` that it is of."""

    resources: list[HostedResource]


class ResourceWanted(msgspec.Struct, frozen=True):
    """`server` is asked even if it does not list the resource."""

    server: str | None = None


class HostedPrompt(Prompt):
    """MCP's `Prompt`, under its public name."""

    server: str


class Prompts(BaseModel):
    """The prompts, each with the `server` that it is of."""

    prompts: list[HostedPrompt]


class Mcp:
    """The tools, resources and prompts of all tool servers."""

    def __init__(self, environment: ServerEnvironment) -> None:
        self._environment = environment

    @get("/mcp/tools", Access.READ, answers={"application/json": Tools})
    async def tools(self) -> dict[str, Any]:
        """The tools of all servers that are there."""
        tools = await self._environment.get_mcp_manager().get_tools()
        return {"tools": [_as_mcp(each.tool) | {"name": each.name, "server": each.server} for each in tools]}

    @post("/mcp/tools/call", Access.PUBLISH, answers={"application/json": CallToolResult}, errors=(404,))
    async def call(self, body: ToolCall) -> dict[str, Any]:
        """Call a tool; its own failure is an answer with `isError`."""
        try:
            return _as_mcp(await self._environment.get_mcp_manager().execute_tool(body.name, body.arguments))
        except ActionError as error:
            raise HTTPException(503 if error.retry else 400, str(error)) from None
        except ConnectionLost as error:
            raise _unanswered(error) from None

    @get("/mcp/resources", Access.READ, answers={"application/json": Resources})
    async def resources(self) -> dict[str, Any]:
        """The resources of all servers that are there."""
        resources = await self._environment.get_mcp_manager().get_resources()
        return {"resources": [_as_mcp(hosted.resource) | {"server": hosted.server} for hosted in resources]}

    @get("/mcp/resources/{uri:path}", Access.READ, answers={"application/json": ReadResourceResult})
    async def resource(self, uri: str, query: ResourceWanted) -> dict[str, Any]:
        """Read a resource; a `?` or `#` of its URI is written `%3F` or `%23`."""
        manager = self._environment.get_mcp_manager()
        try:
            return _as_mcp(await manager.read_resource(uri, server=query.server))
        except NotFound as error:
            if query.server is not None:
                raise
            known = sorted({str(hosted.resource.uri) for hosted in await manager.get_resources()})
            raise NotFound(f"{error}; there are: {', '.join(known) or 'none'}") from None
        except ConnectionLost as error:
            raise _unanswered(error) from None

    @get("/mcp/prompts", Access.READ, answers={"application/json": Prompts})
    async def prompts(self) -> dict[str, Any]:
        """The prompts of all servers that are there."""
        prompts = await self._environment.get_mcp_manager().get_prompts()
        return {"prompts": [_as_mcp(each.prompt) | {"name": each.name, "server": each.server} for each in prompts]}

    @get("/mcp/prompts/{name}", Access.READ, answers={"application/json": GetPromptResult}, errors=(400,))
    async def prompt(self, request: Request, name: str) -> dict[str, Any]:
        """Have a prompt filled in; the query's parameters are its arguments."""
        manager, arguments = self._environment.get_mcp_manager(), dict(request.query_params)
        for hosted in await manager.get_prompts():
            wanted = hosted.prompt.arguments or [] if hosted.name == name else []
            if missing := [each.name for each in wanted if each.required and each.name not in arguments]:
                raise HTTPException(400, f"{missing[0]}: an argument that is required; say it as ?{missing[0]}=…")
        try:
            return _as_mcp(await manager.get_prompt(name, arguments))
        except ConnectionLost as error:
            raise _unanswered(error) from None


def _unanswered(error: ConnectionLost) -> HTTPException:
    """The server did not answer, or refused: the latter may be the asker's own fault."""
    answer = refusal(error.__cause__) if isinstance(error.__cause__, Exception) else None
    status = 503 if answer is None else _AS_ASKED.get(answer.code, 503)
    return HTTPException(status, str(error), {"Retry-After": "5"} if status == 503 else None)


def _as_mcp(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)
