"""One connection to one server, from its opening to its end: whatever the server's kind, it yields the same `Link`."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from mcp import Client, MCPError
from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT, ErrorData, Implementation, ServerCapabilities
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from eventhost import __version__
from eventhost.config import Protocol, ServerConfig, ServerKind
from eventhost.connections.http import free_port, http_transport, until_answering
from eventhost.connections.inbound import Inbound
from eventhost.connections.inprocess import inprocess_transport, load
from eventhost.connections.lines import LineTransport
from eventhost.connections.process import Child, Guardian, child
from eventhost.connections.sourcelog import SourceLog
from eventhost.connections.streams import Streams
from eventhost.connections.waiting import first_of
from eventhost.errors import ConnectionLost, EventhostError, cause_of
from eventhost.relay import HOST_NAME
from eventhost.wire import SERVER_CONFIG_VARIABLE, STATE_DIR_VARIABLE

INHERITED = ("HOME", "LANG", "LC_ALL", "LC_CTYPE", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER")
"""The variables of the host's own environment that every child gets; none of them holds a secret."""

CLIENT_NAME = HOST_NAME
"""What the host calls itself where it takes events, and says which of them it has accepted."""

MOST_PAGES = 100


def minimal_environment() -> dict[str, str]:
    """What every program that the host starts gets of the host's own environment."""
    return {name: os.environ[name] for name in INHERITED if name in os.environ}


# A child that closed its stdout is mostly about to die, and then has more to say about why.
_DEATH_AFTER_SILENCE_S = 0.5


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What servers get of the host that starts them."""

    guardian: Guardian
    root: Path
    resolve: Callable[[Any], Any]
    """Replaces the references to secrets in a JSON value; what it returns must not be kept."""

    def state_dir(self, name: str) -> Path:
        """A folder for the state of the server `name`."""
        folder = self.root / "var" / "state" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def environment(self, config: ServerConfig) -> dict[str, str]:
        """The complete environment of a child."""
        return {
            **(os.environ if config.inherit_environment else minimal_environment()),
            **self.resolve(dict(config.environment)),
            SERVER_CONFIG_VARIABLE: json.dumps(self.resolve(dict(config.settings)), ensure_ascii=False),
            STATE_DIR_VARIABLE: str(self.state_dir(config.name)),
        }


@dataclass(slots=True)
class Link:
    """A connection that is up. `ended` is set, and `reason` says why, when it is not any more."""

    client: Client
    protocol: str
    """The protocol version that was agreed on."""
    capabilities: ServerCapabilities
    pid: int | None
    _ending: _Ending
    is_host: bool = False
    """Whether the server is another eventhost."""

    @property
    def ended(self) -> anyio.Event:
        return self._ending.event

    @property
    def reason(self) -> str:
        return self._ending.reason

    def lost(self, reason: str) -> None:
        """Declare it over."""
        self._ending.lost(reason)


class _Ending:
    """Why a connection ended: the first reason counts."""

    def __init__(self) -> None:
        self.event = anyio.Event()
        self.reason = ""

    def lost(self, reason: str) -> None:
        if not self.event.is_set():
            self.reason = reason
            self.event.set()


@asynccontextmanager
async def open_link(
    config: ServerConfig, surroundings: Surroundings, inbound: Inbound, log: SourceLog
) -> AsyncIterator[Link]:
    """Start or reach the server, and be initialized with it; when the block ends, leave nothing of it behind.

    A child is then stopped, and what it wrote until its end has gone through `inbound`. The caller bounds the time that
    opening takes.

    Raises:
        SpawnError: the server cannot be started as it is configured.
        ConnectionLost: it ended, or could not be reached.
    """
    ending = _Ending()
    # A source that knows this name waits to be told that its events were accepted; from a client none are taken.
    name = CLIENT_NAME if inbound.takes_events else f"{CLIENT_NAME}-tools"
    try:
        async with (
            _reached(config, surroundings, inbound, log, ending) as (transport, process),
            Client(
                transport,
                # Not a modern version itself: the SDK would take it on trust, and ask nothing of the server.
                mode="legacy" if config.protocol is Protocol.LEGACY else "auto",
                client_info=Implementation(name=name, version=__version__),
                cache=None,
            ) as client,
        ):
            if config.protocol is Protocol.MODERN and client.protocol_version not in MODERN_PROTOCOL_VERSIONS:
                raise ConnectionLost(f'speaks MCP {client.protocol_version}; write "protocol": "legacy", or "auto"')
            pid = process.pid if process else None
            is_host = client.server_info is not None and client.server_info.name == HOST_NAME
            yield Link(client, client.protocol_version, client.server_capabilities, pid, ending, is_host)
    except Exception as error:
        raise _plain(error, ending.reason) from error


@asynccontextmanager
async def _reached(
    config: ServerConfig, surroundings: Surroundings, inbound: Inbound, log: SourceLog, ending: _Ending
) -> AsyncIterator[tuple[AbstractAsyncContextManager[Streams], Child | None]]:
    match config.kind:
        case ServerKind.STDIO:
            async with _stdio(config, surroundings, inbound, log, ending) as reached:
                yield reached
        case ServerKind.HTTP:
            port = free_port()
            async with _child(config, surroundings, log, ending, log.stderr, {"PORT": str(port)}) as process:
                await first_of(ending.event.wait, lambda: until_answering(port))
                if ending.event.is_set():
                    raise ConnectionLost(ending.reason)
                yield http_transport(f"http://127.0.0.1:{port}/mcp", {}, inbound, ending.lost), process
        case ServerKind.REMOTE:
            headers = surroundings.resolve(dict(config.headers))
            yield http_transport(surroundings.resolve(config.url), headers, inbound, ending.lost), None
        case ServerKind.INPROCESS:
            server = load(config.module, surroundings.root)
            settings, state_dir = surroundings.resolve(dict(config.settings)), surroundings.state_dir(config.name)
            yield inprocess_transport(server, inbound, ending.lost, config=settings, state_dir=state_dir), None


@asynccontextmanager
async def _stdio(
    config: ServerConfig, surroundings: Surroundings, inbound: Inbound, log: SourceLog, ending: _Ending
) -> AsyncIterator[tuple[AbstractAsyncContextManager[Streams], Child]]:
    async def send(data: bytes) -> None:
        await process.send(data)

    lines = LineTransport(inbound, send)
    async with AsyncExitStack() as stack:
        stack.callback(lines.close)
        process = await stack.enter_async_context(_child(config, surroundings, log, ending, lines.feed, {}))
        tasks = await stack.enter_async_context(anyio.create_task_group())

        async def end() -> None:
            await ending.event.wait()
            lines.end()

        tasks.start_soon(end)
        stack.callback(tasks.cancel_scope.cancel)
        stack.callback(lines.close)  # before the child is stopped: what it still says is for nobody but its events
        yield lines, process


@asynccontextmanager
async def _child(
    config: ServerConfig,
    surroundings: Surroundings,
    log: SourceLog,
    ending: _Ending,
    on_stdout: Callable[[bytes], Awaitable[None]],
    variables: Mapping[str, str],
) -> AsyncIterator[Child]:
    async with (
        child(
            surroundings.guardian,
            config.command,
            cwd=config.directory,
            env={**surroundings.environment(config), **variables},
            on_stdout=on_stdout,
            on_stderr=log.stderr,
            grace_s=config.timings.stop_timeout_s,
        ) as process,
        anyio.create_task_group() as tasks,
    ):

        async def fell_silent() -> None:
            await process.output_ended.wait()
            await anyio.sleep(_DEATH_AFTER_SILENCE_S)

        async def watch() -> None:
            if config.kind is ServerKind.STDIO:
                await first_of(process.ended.wait, fell_silent)
            else:
                await process.ended.wait()  # what it does with its stdout is its own affair
            log.end()
            ending.lost(process.describe_end() if process.ended.is_set() else "closed its stdout but lived on")

        tasks.start_soon(watch)
        try:
            yield process
        finally:
            tasks.cancel_scope.cancel()
    log.end()


def _plain(error: Exception, reason: str) -> EventhostError:
    """The one error to act on; why the connection ended says more than what failed because it had."""
    cause = cause_of(error)
    if isinstance(cause, EventhostError) and not isinstance(cause, ConnectionLost):
        return cause
    return ConnectionLost(reason or str(cause) or type(cause).__name__)


NO_ANSWER = (MCPError, ValidationError, RuntimeError, TimeoutError)
"""What a request through `Link.client` raises when the server refuses it, answers nonsense, answers not at all, or has
ended meanwhile. The SDK has `RuntimeError` for an answer that contradicts a schema, and for a client that was left."""


def refusal(error: Exception) -> ErrorData | None:
    """What the server itself answered, of what is in `NO_ANSWER`; None if it answered nothing that can be used."""
    # The SDK says with the same class that there is no answer.
    if not isinstance(error, MCPError) or (error.code, error.message) == (CONNECTION_CLOSED, "Connection closed"):
        return None
    return None if error.code == REQUEST_TIMEOUT else error.error


async def list_all(method: Callable[..., Awaitable[Any]], field: str) -> list[Any]:
    """All items of a paged listing (`client.list_tools`, `"tools"`); at most `MOST_PAGES` pages are asked for."""
    items: list[Any] = []
    cursor: str | None = None
    for _ in range(MOST_PAGES):
        page = await method(cursor=cursor)
        items += getattr(page, field)
        cursor = page.next_cursor
        if not cursor:
            break
    return items
