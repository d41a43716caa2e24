"""Endpoints that others have written are sources, whatever line ends they use, also when they drop the connection."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import uvicorn
from aiohttp import web
from aiohttp_sse import EventSourceResponse as AiohttpResponse
from aiohttp_sse import sse_response
from hosting import Hosting, hosting, until
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from eventhost.config import ServerKind, SseConfig

pytestmark = pytest.mark.anyio

LAST = 60
AT_ONCE = 11
"""So many events a server says before it drops the connection."""


class Served:
    """What a server was asked."""

    def __init__(self) -> None:
        self.last_ids: list[str | None] = []

    def numbers(self, last_id: str | None) -> list[int]:
        """The numbers of the events to say on this connection."""
        self.last_ids.append(last_id)
        first = int(last_id or 0) + 1
        return list(range(first, min(LAST + 1, first + AT_ONCE)))


def text_of(number: int) -> str:
    return json.dumps({"n": number, "text": "über\nzwei Zeilen"}, ensure_ascii=False, indent=1)


def with_starlette(sep: str) -> Callable[[Served], AbstractAsyncContextManager[str]]:
    @asynccontextmanager
    async def serving(served: Served) -> AsyncIterator[str]:
        async def endpoint(request: Request) -> EventSourceResponse:
            numbers = served.numbers(request.headers.get("last-event-id"))

            async def events() -> AsyncIterator[dict[str, Any]]:
                for number in numbers:
                    yield {"event": "tick", "id": str(number), "retry": 10, "data": text_of(number)}
                if numbers[-1:] in ([], [LAST]):
                    await anyio.sleep_forever()

            return EventSourceResponse(events(), sep=sep, ping=1)

        app = Starlette(routes=[Route("/events", endpoint)])
        config = uvicorn.Config(app, port=0, log_level="critical", lifespan="off", timeout_graceful_shutdown=0)
        server = uvicorn.Server(config)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server._serve)
            await until(lambda: server.started)
            port = server.servers[0].sockets[0].getsockname()[1]
            try:
                yield f"http://127.0.0.1:{port}/events"
            finally:
                server.should_exit = True

    return serving


def with_aiohttp(sep: str) -> Callable[[Served], AbstractAsyncContextManager[str]]:
    class Response(AiohttpResponse):
        DEFAULT_SEPARATOR = sep

    @asynccontextmanager
    async def serving(served: Served) -> AsyncIterator[str]:
        async def endpoint(request: web.Request) -> AiohttpResponse:
            numbers = served.numbers(request.headers.get("last-event-id"))
            async with sse_response(request, response_cls=Response) as response:
                for number in numbers:
                    await response.send(text_of(number), id=str(number), event="tick", retry=10)
                if numbers[-1:] in ([], [LAST]):
                    await response.wait()
                # As a server that dies does it: not even the end of the body is said.
                assert request.transport is not None
                request.transport.abort()
            return response

        app = web.Application()
        app.router.add_get("/events", endpoint)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/events"
        finally:
            await runner.cleanup()

    return serving


def endpoint_of(host: Hosting, url: str) -> Any:
    sse = SseConfig(first_delay_s=0.01, longest_delay_s=0.1)
    return host.server("mai", ServerKind.SSE, url=url, sse=sse)


@pytest.mark.parametrize(
    "server",
    [
        pytest.param(with_starlette("\r\n"), id="sse-starlette-crlf"),
        pytest.param(with_starlette("\n"), id="sse-starlette-lf"),
        pytest.param(with_starlette("\r"), id="sse-starlette-cr"),
        pytest.param(with_aiohttp("\n"), id="aiohttp-sse-lf"),
        pytest.param(with_aiohttp("\r\n"), id="aiohttp-sse-crlf"),
    ],
)
async def test_nothing_is_lost_and_nothing_comes_twice_over_drops(
    tmp_path: Path, server: Callable[[Served], AbstractAsyncContextManager[str]]
) -> None:
    served = Served()
    async with server(served) as url, hosting(tmp_path) as host:
        client = host.source(endpoint_of(host, url))
        events = await host.events(LAST)
        assert [event.id for event in events] == [str(number) for number in range(1, LAST + 1)]
        assert [event.payload for event in events] == [json.loads(text_of(number)) for number in range(1, LAST + 1)]
        assert {event.type for event in events} == {"tick"}
        assert (client.received, client.deduplicated, client.rejected) == (LAST, 0, 0)
        assert served.last_ids == [None, *map(str, range(AT_ONCE, LAST, AT_ONCE))]
        await client.disconnect()
