"""What the host offers itself beside the tool servers: resources, and tools whose names have no `server__` in front."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from mcp_types import CallToolResult, ReadResourceResult, Resource, ResourceTemplate, TextContent, Tool

from eventhost.access import Access
from eventhost.errors import EventhostError
from eventhost.serve.peer import Peer
from eventhost.serve.uris import fits


class ToolFailed(EventhostError):
    """A tool of the host's own cannot do what it was asked; the text goes to whoever called it."""


ToolAnswer = dict[str, Any] | str | CallToolResult


@dataclass(frozen=True, slots=True)
class OwnTool:
    """A tool of the host's own; `access` is what its caller must have."""

    tool: Tool
    access: Access
    call: Callable[[dict[str, Any], Peer], Awaitable[ToolAnswer]]


class OwnResources(Protocol):
    """Resources of the host's own."""

    def list(self) -> Sequence[Resource]:
        """Those that there are now."""
        ...

    def templates(self) -> Sequence[ResourceTemplate]:
        """The shapes of their URIs."""
        ...

    async def read(self, uri: str, peer: Peer) -> ReadResourceResult | None:
        """The contents of one; None if it is none of these."""
        ...


class Own:
    """The registry of what is the host's own."""

    def __init__(self) -> None:
        self.tools: dict[str, OwnTool] = {}
        self.providers: list[OwnResources] = []

    def tool(self, tool: OwnTool) -> None:
        """Offer a tool."""
        assert "__" not in tool.tool.name, "that is how names of tool servers' tools look"
        self.tools[tool.tool.name] = tool

    def resources(self, provider: OwnResources) -> None:
        """Offer resources."""
        self.providers.append(provider)

    async def call(self, tool: OwnTool, arguments: dict[str, Any], peer: Peer) -> CallToolResult:
        """Call a tool; its failure is a result with `is_error`."""
        try:
            answer = await tool.call(arguments, peer)
        except EventhostError as error:
            return failure(str(error))
        if isinstance(answer, CallToolResult):
            return answer
        if isinstance(answer, str):
            return CallToolResult(content=[TextContent(text=answer)])
        text = msgspec.json.encode(answer).decode()
        return CallToolResult(content=[TextContent(text=text)], structured_content=answer)

    def has(self, uri: str) -> bool:
        """Whether a resource is of the host's own."""
        return any(
            any(str(resource.uri) == uri for resource in provider.list())
            or any(fits(template.uri_template, uri) for template in provider.templates())
            for provider in self.providers
        )

    async def read(self, uri: str, peer: Peer) -> ReadResourceResult | None:
        """The contents of a resource; None if it is none of the host's own."""
        for provider in self.providers:
            if (result := await provider.read(uri, peer)) is not None:
                return result
        return None


def failure(text: str) -> CallToolResult:
    """A tool's failure, as its result."""
    return CallToolResult(content=[TextContent(text=text)], is_error=True)
