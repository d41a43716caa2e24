"""A server in the host's own process: a kit `EventSource`, or a server of the SDK's, spoken to as if it were apart."""

from __future__ import annotations

import importlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from mcp.server import Server
from mcp.server.mcpserver import MCPServer
from mcp.shared.memory import create_client_server_memory_streams

from eventhost.connections.inbound import Inbound
from eventhost.connections.lines import LineTransport
from eventhost.connections.streams import Streams, sorted_streams
from eventhost.errors import ConnectionLost, SpawnError, cause_of
from eventhost.kit import EventSource

Found = EventSource | MCPServer | Server[Any]
_FOUND = (EventSource, MCPServer, Server)


def load(module: str, root: Path) -> Found:
    """The server that `package.module` or `package.module:attribute` names; looked for in `root` too, and loaded anew.

    Raises:
        SpawnError: there is no such module, or no such server in it, or more than one.
    """
    name, _, attribute = module.partition(":")
    for loaded in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
        if _inside(sys.modules[loaded], root):
            del sys.modules[loaded]  # a file of the user's may have been edited since
    importlib.invalidate_caches()  # another may have been written since
    sys.path.insert(0, str(root))
    try:
        found = importlib.import_module(name)
    except ImportError as error:
        raise SpawnError(f"module {name}: {error}; put it into {root} or install it") from error
    except (Exception, SystemExit) as error:
        raise SpawnError(f"module {name} failed while it was imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(root))
    if attribute:
        server = getattr(found, attribute, None)
        if not isinstance(server, _FOUND):
            raise SpawnError(f"{module}: {attribute} is not an EventSource or a server of the MCP SDK")
        return server
    servers = {id(value): value for value in vars(found).values() if isinstance(value, _FOUND)}
    if len(servers) != 1:
        raise SpawnError(
            f"module {name} holds {len(servers)} servers; name one of them: {name}:attribute"
            if servers
            else f"module {name} holds no EventSource and no server of the MCP SDK"
        )
    return servers.popitem()[1]


def _inside(module: Any, root: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).is_relative_to(root)


@asynccontextmanager
async def inprocess_transport(
    server: Found,
    inbound: Inbound,
    lost: Callable[[str], None],
    *,
    config: Mapping[str, Any],
    state_dir: Path,
) -> AsyncIterator[Streams]:
    """Run `server` and connect to it, until the block ends. What it raises is its own failure: `lost` is told."""

    async def guarded(run: Callable[[], Awaitable[None]]) -> None:
        try:
            await run()
        except Exception as error:
            cause = cause_of(error)
            lost(f"{type(cause).__name__}: {cause}")
        else:
            lost("the server returned")

    async with anyio.create_task_group() as tasks:
        if isinstance(server, EventSource):
            to_server, from_host = anyio.create_memory_object_stream[bytes](16)

            async def send(line: bytes) -> None:
                try:
                    await to_server.send(line)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    raise ConnectionLost("the server in this process has ended") from None

            async def receive() -> bytes:
                try:
                    return await from_host.receive()
                except anyio.EndOfStream:
                    return b""

            transport = LineTransport(inbound, send)

            async def serve() -> None:
                try:
                    await server.serve(receive, transport.feed, config=config, state_dir=state_dir)
                finally:
                    transport.end()

            with to_server, from_host:
                tasks.start_soon(guarded, serve)
                async with transport as streams:
                    yield streams
                tasks.cancel_scope.cancel()
        else:
            lowlevel = server._lowlevel_server if isinstance(server, MCPServer) else server
            async with create_client_server_memory_streams() as (ours, theirs):
                tasks.start_soon(guarded, lambda: lowlevel.run(*theirs, lowlevel.create_initialization_options()))
                async with sorted_streams(ours, inbound) as streams:
                    yield streams
                tasks.cancel_scope.cancel()
