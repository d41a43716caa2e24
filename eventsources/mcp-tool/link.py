"""A connection to an MCP server, over stdio or Streamable HTTP, made anew whenever it has ended."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import httpx2
from child import MOST_BYTES, child_transport
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import Implementation, ToolListChangedNotification
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from options import ServerAt
from pydantic import ValidationError
from results import Answer
from watching import Away

from eventhost import __version__
from eventhost.errors import cause_of
from eventhost.kit.upstream import Unavailable, Upstream

CHECK_S: Final = (1.0, 10.0)
"""How long a server may take to list its tools after a call has failed; else it is held for dead. It is the timeout of
the call, within these bounds."""

_MOST_PAGES: Final = 100
_CONNECT_S: Final = 30.0
_GOODBYE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 3600.0

_NO_ANSWER: Final = (MCPError, ValidationError, RuntimeError)
"""What the SDK raises where a server refuses, answers nonsense, or has gone; `RuntimeError` is its word for an answer
that contradicts the tool's schema."""

_FAILURES: Final = (
    *_NO_ANSWER,
    OSError,
    httpx2.HTTPError,
    httpx2.InvalidURL,
    httpx2.StreamError,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
)


class Server:
    """An MCP server, and its tools; while it is away, calls wait. A child of it keeps its state in `state`."""

    def __init__(self, at: ServerAt, state: Path, log: Callable[[str, str], None]) -> None:
        self.at = at
        self.on_news: Callable[[], None] = lambda: None
        """Called when the server is there again, or has other tools: what failed may work now."""
        self._state = state
        self._log = log
        self._link: _Link | None = None
        self._up = asyncio.Event()

    async def stay(self, upstreams: Sequence[Upstream]) -> None:
        """Keep connected until cancelled; `upstreams`, which are its tools, say so while it is not."""
        while True:
            try:
                await self._stay_connected()
            except Unavailable as error:
                text = self.at.without_secrets(str(error))
                await asyncio.sleep(min(upstream.failed(text, error.after_s) for upstream in upstreams))

    async def call(self, tool: str, arguments: Mapping[str, Any], timeout_s: float) -> Answer:
        """Call a tool, once the server is there.

        Raises:
            Unavailable: the server has no such tool, or it did not answer in time, or not as it should.
            Away: the server went away meanwhile.
        """
        await self._up.wait()
        link = self._link
        assert link is not None
        try:
            return await link.call(tool, arguments, timeout_s)
        except Away:
            if self._link is link:
                self._up.clear()
            raise

    async def _stay_connected(self) -> None:
        reason = _Reason()
        opening = anyio.CancelScope(deadline=anyio.current_time() + self.at.timeout_s)
        try:
            with opening:
                async with Client(
                    self._transport(reason),
                    # No version of the modern era by name: the SDK would take it on trust.
                    mode="legacy" if self.at.protocol == "legacy" else "auto",
                    client_info=Implementation(name="eventhost-mcp-tool", version=__version__),
                    message_handler=self._on_message,
                    cache=None,
                ) as client:
                    if self.at.protocol == "modern" and client.protocol_version not in MODERN_PROTOCOL_VERSIONS:
                        raise Unavailable(f'it speaks MCP {client.protocol_version}; write "protocol": "legacy"')
                    link = _Link(client, reason)
                    await link.list_tools()
                    opening.deadline = math.inf
                    self._link = link
                    self._up.set()
                    self.on_news()
                    await reason.known.wait()
        except Exception as error:
            cause = cause_of(error)
            if not isinstance(cause, (Unavailable, *_FAILURES)):
                raise
            reason.tell(str(cause).strip() or type(cause).__name__)
        finally:
            self._up.clear()
            self._link = None
            reason.tell("the connection has ended")
        if opening.cancelled_caught:
            raise Unavailable(f"{self._name}: no answer within {self.at.timeout_s:g} s, its `timeout`")
        raise Unavailable(f"{self._name}: {reason}", after_s=reason.after_s)

    @property
    def _name(self) -> str:
        return self.at.address if self.at.url else f"server {self.at.name}"

    @asynccontextmanager
    async def _transport(self, reason: _Reason) -> AsyncIterator[Any]:
        if self.at.command:
            async with child_transport(self.at, self._state, self._log, reason.tell) as streams:
                yield streams
            return

        async def note_status(response: httpx2.Response) -> None:
            # The SDK says no more than that there was an error. A server need not have an event stream (GET).
            if response.request.method == "POST":
                reason.status = f"HTTP {response.status_code} {response.reason_phrase}" if response.is_error else ""
                pause = response.headers.get("retry-after", "") if response.is_error else ""
                reason.after_s = min(float(pause), _LONGEST_PAUSE_S) if pause.isdecimal() else 0

        async def hasten_goodbye(request: httpx2.Request) -> None:
            if request.method == "DELETE":
                # A server that hangs would hold us back for ever.
                request.extensions["timeout"] = httpx2.Timeout(_GOODBYE_S).as_dict()

        async with (
            httpx2.AsyncClient(
                headers=dict(self.at.headers or {}),
                timeout=httpx2.Timeout(_CONNECT_S, read=None),  # calls have a timeout of their own
                event_hooks={"response": [note_status], "request": [hasten_goodbye]},
            ) as client,
            streamable_http_client(self.at.url, http_client=client, max_sse_event_size=MOST_BYTES) as streams,
        ):
            yield streams

    async def _on_message(self, message: object) -> None:
        if isinstance(message, ToolListChangedNotification):
            self.on_news()


class _Reason:
    """Why a connection has ended: the first one counts."""

    def __init__(self) -> None:
        self.known = asyncio.Event()
        self.status = ""
        """What HTTP said last, if that was an error."""
        self.after_s = 0.0
        """How long it asked to be left alone."""
        self._text = ""

    def tell(self, text: str) -> None:
        if not self.known.is_set():
            self._text = text
            self.known.set()

    def __str__(self) -> str:
        return f"{self.status}: {self._text}" if self.status else self._text


class _Link:
    """A connection that is up."""

    def __init__(self, client: Client, reason: _Reason) -> None:
        self._client, self._reason = client, reason
        self._tools: set[str] = set()

    async def list_tools(self) -> None:
        """Learn what tools there are."""
        tools: set[str] = set()
        cursor = None
        for _ in range(_MOST_PAGES):
            page = await self._client.list_tools(cursor=cursor)
            tools.update(tool.name for tool in page.tools)
            cursor = page.next_cursor
            if not cursor:
                break
        self._tools = tools

    async def call(self, tool: str, arguments: Mapping[str, Any], timeout_s: float) -> Answer:
        """See `Server.call`."""
        patience_s = min(max(CHECK_S[0], timeout_s), CHECK_S[1])
        if tool not in self._tools:
            await self._check(tool, patience_s)
        try:
            async with asyncio.timeout(timeout_s):
                result = await self._unless_lost(self._client.call_tool(tool, dict(arguments)))
        except TimeoutError:
            await self._check(tool, patience_s)
            raise Unavailable(f"{tool} did not answer within {timeout_s:g} s, its `timeout`") from None
        except _NO_ANSWER as error:
            told = ": ".join(filter(None, (self._reason.status, _told(error))))
            await self._check(tool, patience_s)
            raise Unavailable(f"{tool} failed: {told}") from None
        content = [part.model_dump(mode="json", by_alias=True, exclude_none=True) for part in result.content]
        if result.is_error:
            await self._check(tool, patience_s)
        return Answer(result.structured_content, content, result.is_error)

    async def _check(self, tool: str, patience_s: float) -> None:
        """Learn after a failure whether the server is well, and has the tool.

        Raises:
            Unavailable: it has no such tool.
            Away: it does not list its tools within `patience_s`.
        """
        try:
            async with asyncio.timeout(patience_s):
                await self._unless_lost(self.list_tools())
        except TimeoutError:
            self._reason.tell(f"it does not answer: its tools could not be listed within {patience_s:g} s")
            raise Away(str(self._reason)) from None
        except _NO_ANSWER as error:
            self._reason.tell(_told(error))
            raise Away(str(self._reason)) from None
        if tool not in self._tools:
            there = f"it has {', '.join(sorted(self._tools))}" if self._tools else "it has none"
            raise Unavailable(f"the server has no tool {tool}; {there}")

    async def _unless_lost(self, work: Any) -> Any:
        task = asyncio.ensure_future(work)
        # What it raises once nobody waits for it is no news.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        ended = asyncio.ensure_future(self._reason.known.wait())
        try:
            await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done() or task.cancelled():
                raise Away(str(self._reason))
            try:
                return task.result()
            except _NO_ANSWER:
                if self._reason.known.is_set():
                    raise Away(str(self._reason)) from None
                raise
        finally:
            task.cancel()
            ended.cancel()
            # Bounded, for the server is told, and may not be reading.
            await asyncio.wait({task, ended}, timeout=_GOODBYE_S)


def _told(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text if len(text) <= 1000 else f"{text[:1000]}…"
