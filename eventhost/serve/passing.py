"""Requests passed on to the tool servers, and their answers passed back as they are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
from mcp import MCPError
from mcp.shared.dispatcher import ProgressFnT
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    CompleteRequestParams,
    CompleteResult,
    Completion,
    GetPromptRequestParams,
    GetPromptResult,
    InputRequiredResult,
    InputResponses,
    Prompt,
    PromptReference,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    Tool,
)
from pydantic import TypeAdapter

from eventhost.connections import NO_ANSWER, Link, list_all, refusal
from eventhost.errors import ConnectionLost, NotFound
from eventhost.serve.asking import Asking, CallTool, GetPrompt, ReadResource, send
from eventhost.serve.own import failure
from eventhost.serve.uris import fits
from eventhost.tools import McpManager

T = TypeVar("T")
CALL_TIMEOUT_S = 600.0
"""How long a tool may take; whoever called it can give up before."""
ANSWER_TIMEOUT_S = 60.0

_TOOL_RESULT: TypeAdapter[Any] = TypeAdapter(CallToolResult | InputRequiredResult)
_CONTENTS: TypeAdapter[Any] = TypeAdapter(ReadResourceResult | InputRequiredResult)
_PROMPT_RESULT: TypeAdapter[Any] = TypeAdapter(GetPromptResult | InputRequiredResult)


class Passing:
    """What the tool servers offer, under the names by which the host offers it."""

    def __init__(self, manager: Callable[[], McpManager]) -> None:
        self._manager = manager
        self._schemas: dict[str, dict[str, Any]] = {}

    def schema(self, name: str) -> dict[str, Any] | None:
        """The input schema of a tool that was listed or called before."""
        return self._schemas.get(name)

    async def tools(self, *, from_hosts: bool = True) -> list[Tool]:
        """The tools of all servers, or of all that are no other eventhosts."""
        hosted = await self._manager().get_tools(from_hosts=from_hosts)
        tools = [_named(each.tool, each.name) for each in hosted]
        self._schemas = {**({} if from_hosts else self._schemas), **{tool.name: tool.input_schema for tool in tools}}
        return tools

    async def call(
        self, params: CallToolRequestParams, asking: Asking, progress: ProgressFnT
    ) -> CallToolResult | InputRequiredResult:
        """Call a tool; that its server is out of reach is a failure of the tool.

        Raises:
            MCPError: there is none of this name, or its server refused the request.
        """
        try:
            hosted = await self._manager().tool(params.name)
            self._schemas[hosted.name] = hosted.tool.input_schema
            link = await self._manager().link(hosted.server)

            async def once(responses: InputResponses | None, state: str | None) -> Any:
                request = CallTool(
                    params=CallToolRequestParams(
                        name=hosted.tool.name,
                        arguments=params.arguments,
                        input_responses=responses,
                        request_state=state,
                        _meta=asking.meta(),
                    )
                )
                result = await send(link, request, _TOOL_RESULT, progress)
                if isinstance(result, CallToolResult) and not result.is_error:
                    await link.client.session.validate_tool_result(hosted.tool.name, result)
                return result

            settled = asking.until_settled(once, params.input_responses, params.request_state)
            result = await _bounded(settled, link, params.name, CALL_TIMEOUT_S)
        except NotFound as error:
            raise MCPError(INVALID_PARAMS, str(error)) from None
        except ConnectionLost as error:
            return failure(str(error))
        assert isinstance(result, CallToolResult | InputRequiredResult)
        return result

    async def resources(self, *, from_hosts: bool = True) -> list[Resource]:
        """The resources of all servers; of those with one URI only the first, which is the one that would be read."""
        hosted = await self._manager().get_resources(from_hosts=from_hosts)
        return list({str(each.resource.uri): each.resource for each in reversed(hosted)}.values())[::-1]

    async def templates(self, *, from_hosts: bool = True) -> list[ResourceTemplate]:
        """The resource templates of all servers."""
        return [template for _, template in await self._templates(from_hosts=from_hosts)]

    async def read(self, params: ReadResourceRequestParams, asking: Asking) -> ReadResourceResult | InputRequiredResult:
        """Read a resource of the server that lists it, or that has a template for it.

        Raises:
            NotFound: no server has it.
            ConnectionLost, MCPError: its server cannot be reached, or refused.
        """
        link = await self.home(params.uri)

        async def once(responses: InputResponses | None, state: str | None) -> Any:
            asked = ReadResourceRequestParams(
                uri=params.uri, input_responses=responses, request_state=state, _meta=asking.meta()
            )
            return await send(link, ReadResource(params=asked), _CONTENTS)

        settled = asking.until_settled(once, params.input_responses, params.request_state)
        result = await _bounded(settled, link, params.uri)
        assert isinstance(result, ReadResourceResult | InputRequiredResult)
        return result

    async def home(self, uri: str) -> Link:
        """The connection to the server that has a resource.

        Raises:
            NotFound: no server has it.
            ConnectionLost: it cannot be reached.
        """
        if (server := await self._manager().home(uri)) is not None:
            return await self._manager().link(server)
        for link, template in await self._templates():
            if fits(template.uri_template, uri):
                return link
        raise NotFound(f"no server has the resource {uri}")

    async def prompts(self, *, from_hosts: bool = True) -> list[Prompt]:
        """The prompts of all servers."""
        hosted = await self._manager().get_prompts(from_hosts=from_hosts)
        return [_named(each.prompt, each.name) for each in hosted]

    async def prompt(self, params: GetPromptRequestParams, asking: Asking) -> GetPromptResult | InputRequiredResult:
        """Have a server fill in a prompt.

        Raises:
            NotFound: there is none of this name.
            ConnectionLost, MCPError: its server cannot be reached, or refused.
        """
        hosted = await self._manager().prompt(params.name)
        link = await self._manager().link(hosted.server)

        async def once(responses: InputResponses | None, state: str | None) -> Any:
            asked = GetPromptRequestParams(
                name=hosted.prompt.name,
                arguments=params.arguments,
                input_responses=responses,
                request_state=state,
                _meta=asking.meta(),
            )
            return await send(link, GetPrompt(params=asked), _PROMPT_RESULT)

        settled = asking.until_settled(once, params.input_responses, params.request_state)
        result = await _bounded(settled, link, params.name)
        assert isinstance(result, GetPromptResult | InputRequiredResult)
        return result

    async def complete(self, params: CompleteRequestParams) -> CompleteResult:
        """What could follow; nothing, where the server has no completions.

        Raises:
            NotFound: there is no such prompt or template.
            ConnectionLost, MCPError: its server cannot be reached, or refused.
        """
        ref = params.ref
        if isinstance(ref, PromptReference):
            hosted = await self._manager().prompt(ref.name)
            link = await self._manager().link(hosted.server)
            ref = ref.model_copy(update={"name": hosted.prompt.name})
        else:
            links = [link for link, template in await self._templates() if template.uri_template == ref.uri]
            link = links[0] if links else await self.home(ref.uri)
        if not link.capabilities.completions:
            return CompleteResult(completion=Completion(values=[]))
        context = params.context.arguments if params.context else None
        argument = {"name": params.argument.name, "value": params.argument.value}
        return await _bounded(link.client.session.complete(ref, argument, context), link, "completion")

    async def _templates(self, *, from_hosts: bool = True) -> list[tuple[Link, ResourceTemplate]]:
        """The templates of the servers that are up."""
        found: dict[int, list[tuple[Link, ResourceTemplate]]] = {}

        async def ask(number: int, link: Link) -> None:
            try:
                listed = list_all(link.client.list_resource_templates, "resource_templates")
                found[number] = [(link, template) for template in await _bounded(listed, link, "templates")]
            except (ConnectionLost, MCPError):
                found[number] = []  # many servers with resources know nothing of templates

        async with anyio.create_task_group() as tasks:
            for number, link in enumerate(self._manager().links()):
                if link.capabilities.resources and (from_hosts or not link.is_host):
                    tasks.start_soon(ask, number, link)
        return [pair for number in sorted(found) for pair in found[number]]


N = TypeVar("N", Tool, Prompt)


def _named(item: N, name: str) -> N:
    return item.model_copy(update={"name": name})


async def _bounded(request: Awaitable[T], link: Link, what: str, timeout_s: float = ANSWER_TIMEOUT_S) -> T:
    """Raises ConnectionLost where there is no answer; an error that the server answered with is passed on."""
    try:
        with anyio.fail_after(timeout_s):
            return await request
    except TimeoutError:
        raise ConnectionLost(f"{what} did not answer within {timeout_s:g} s") from None
    except NO_ANSWER as error:
        if link.ended.is_set():
            raise ConnectionLost(f"the server of {what} ended meanwhile: {link.reason}") from error
        if refusal(error) is not None:
            raise
        raise ConnectionLost(f"{what}: {error}") from error
