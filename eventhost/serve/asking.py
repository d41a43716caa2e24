"""A request that is passed on in its caller's name: what the caller can be asked, the tool server may want to know.

In the modern era a server answers that input is required, and the caller asks again with it; such an answer is passed
back as it is. A caller of the handshake era is asked meanwhile, by requests of its own era. What tool servers of the
handshake era ask is not passed on: nothing tells on whose behalf they do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, cast

from mcp import MCPError
from mcp.server.context import ServerRequestContext
from mcp.shared.dispatcher import ProgressFnT
from mcp.shared.message import ServerMessageMetadata
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    INTERNAL_ERROR,
    LOG_LEVEL_META_KEY,
    CallToolRequest,
    CreateMessageRequest,
    CreateMessageResult,
    CreateMessageResultWithTools,
    ElicitRequest,
    ElicitResult,
    GetPromptRequest,
    InputRequiredResult,
    InputResponses,
    ListRootsRequest,
    ListRootsResult,
    ReadResourceRequest,
    RequestParamsMeta,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import TypeAdapter

from eventhost.connections import Link

T = TypeVar("T")

MOST_ROUNDS: Final = 10
"""How often one request may need more input."""

Again = Callable[[InputResponses | None, str | None], Awaitable[T | InputRequiredResult]]
"""Sends a request, with the input that it was found to need, and the state that came with that."""

_CAN = {"sampling", "elicitation", "roots"}


class Asking:
    """One request, as its caller made it."""

    def __init__(self, ctx: ServerRequestContext[Any, Any], log_level: str | None) -> None:
        """`log_level`: what the caller wants to hear of the tool server's log; None for nothing."""
        self._ctx, self._log_level = ctx, log_level
        self._modern = ctx.protocol_version in MODERN_PROTOCOL_VERSIONS

    def meta(self) -> RequestParamsMeta:
        """What the server has to know of the caller."""
        meta: dict[str, Any] = {CLIENT_CAPABILITIES_META_KEY: self._capabilities()}
        if self._log_level is not None:
            meta[LOG_LEVEL_META_KEY] = self._log_level
        return cast(RequestParamsMeta, meta)

    async def until_settled(self, send: Again[T], responses: InputResponses | None, state: str | None) -> Any:
        """The result of `send`; where input is required, that of a caller who cannot be answered so."""
        result = await send(responses, state)
        if self._modern:
            return result
        for _ in range(MOST_ROUNDS):
            if not isinstance(result, InputRequiredResult):
                return result
            result = await send(await self._answers(result), result.request_state)
        raise MCPError(INTERNAL_ERROR, f"the server still asks for input after {MOST_ROUNDS} rounds")

    async def _answers(self, result: InputRequiredResult) -> InputResponses:
        related = ServerMessageMetadata(related_request_id=self._ctx.request_id)
        answers: InputResponses = {}
        for key, request in (result.input_requests or {}).items():
            match request:
                case CreateMessageRequest():
                    kind = CreateMessageResultWithTools if request.params.tools else CreateMessageResult
                    answers[key] = await self._ctx.session.send_request(request, kind, metadata=related)
                case ElicitRequest():
                    answers[key] = await self._ctx.session.send_request(request, ElicitResult, metadata=related)
                case ListRootsRequest():
                    answers[key] = await self._ctx.session.send_request(request, ListRootsResult, metadata=related)
        return answers

    def _capabilities(self) -> dict[str, Any]:
        declared = self._ctx.session.client_capabilities
        if declared is None or not (self._modern or self._ctx.session.can_send_request):
            return {}
        return declared.model_dump(by_alias=True, mode="json", exclude_none=True, include=_CAN)


class _CallersMeta(dict[str, Any]):
    """A request's `_meta` in which the caller's capabilities stay, and the host's own are not put in their place."""

    def __setitem__(self, key: str, value: Any) -> None:
        if key != CLIENT_CAPABILITIES_META_KEY or key not in self:
            super().__setitem__(key, value)


def _in_callers_name(data: dict[str, Any]) -> dict[str, Any]:
    data["params"]["_meta"] = _CallersMeta(data["params"].get("_meta", {}))
    return data


class CallTool(CallToolRequest):
    """`tools/call` in the caller's name."""

    def model_dump(self, **how: Any) -> dict[str, Any]:
        return _in_callers_name(super().model_dump(**how))


class GetPrompt(GetPromptRequest):
    """`prompts/get` in the caller's name."""

    def model_dump(self, **how: Any) -> dict[str, Any]:
        return _in_callers_name(super().model_dump(**how))


class ReadResource(ReadResourceRequest):
    """`resources/read` in the caller's name."""

    def model_dump(self, **how: Any) -> dict[str, Any]:
        return _in_callers_name(super().model_dump(**how))


async def send(
    link: Link,
    request: CallTool | GetPrompt | ReadResource,
    result: TypeAdapter[Any],
    progress: ProgressFnT | None = None,
) -> Any:
    """Send a request to a server, and wait for its result."""
    if link.protocol not in MODERN_PROTOCOL_VERSIONS and request.params is not None:
        request.params.meta = None  # it knows nothing of that
    return await link.client.session.send_request(request, result, progress_callback=progress)
