"""What tests of connections, sources and tools share: a host without rules and web, and small servers for it."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from eventhost.bus import EnvEventBus
from eventhost.config import ServerConfig, ServerKind, SourceConfig, Timings
from eventhost.connections import Connection, ConnectionPool, EventSourceStatus, Guardian, Surroundings
from eventhost.event import EnvEvent
from eventhost.journal import Entry, MemoryJournal
from eventhost.sources import EventMcpClient, EventMcpManager
from eventhost.tools import McpManager

PACKAGES = str(Path(__file__).parents[1])

LIMIT_S = 30
"""Never reached unless something is broken."""

QUICK = Timings(startsecs_s=0, startretries=3, error_retry_s=600, stop_timeout_s=0.5, init_timeout_s=20)

TINY = """
import json, os, signal, sys, threading, time

stdin = open(0, "rb", 0)  # unbuffered, so that `select` can be asked for what is left
lock = threading.Lock()

def write(text):
    with lock:
        sys.stdout.write(text)
        sys.stdout.flush()

def say(**message):
    write(json.dumps({"jsonrpc": "2.0", **message}) + "\\n")

def emitted(event_type="door.opened", **said):
    data = {"type": event_type, **said}
    return json.dumps({"jsonrpc": "2.0", "method": "notifications/eventsource/emitted",
                       "params": {"level": "info", "data": data}}) + "\\n"

def emit(event_type="door.opened", **said):
    write(emitted(event_type, **said))

def text(value, **more):
    return {"content": [{"type": "text", "text": value if isinstance(value, str) else json.dumps(value)}], **more}

def initialize(message):
    version = message["params"]["protocolVersion"]
    say(id=message["id"], result={"protocolVersion": version, "capabilities": capabilities,
                                  "serverInfo": {"name": "tiny", "version": "1"}})

def tools():
    return [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]

capabilities, methods, TOOLS = {}, {}, {}
def initialized(): pass
def heard(message): pass

#BODY#

if TOOLS:
    capabilities["tools"] = {}
    methods.setdefault("tools/list", lambda params: {"tools": tools()})
    methods.setdefault("tools/call", lambda params: TOOLS[params["name"]](**params.get("arguments", {})))

def handle(line):
    message = json.loads(line)
    method = message.get("method")
    if method == "initialize":
        initialize(message)
    elif method == "notifications/initialized":
        initialized()
    elif method in methods:
        try:
            result = methods[method](message.get("params", {}))
            if result is not None:
                say(id=message["id"], result=result)
        except Exception as error:
            say(id=message["id"], error={"code": -32000, "message": repr(error)})
    elif method == "ping":
        say(id=message["id"], result={})
    elif method and "id" in message:
        say(id=message["id"], error={"code": -32601, "message": "no such method"})
    else:
        heard(message)

for line in stdin:
    handle(line)
"""
"""An MCP server on the standard library alone: `#BODY#` fills `capabilities`, `methods` and `TOOLS` (what
returns None does not answer), or defines `initialize(message)`, `initialized()` and `heard(message)` anew."""


class Hosting:
    """A pool, a bus, the sources and the tools, as the environment wires them."""

    def __init__(self, root: Path, journal: MemoryJournal, launch_limit: int) -> None:
        self.root = root
        self.statuses: dict[str, list[EventSourceStatus]] = {}
        """Every status that a connection has had, oldest first."""
        surroundings = Surroundings(Guardian(root / "var" / "guardian.lock"), root, lambda value: value)
        self.pool = ConnectionPool(surroundings, launch_limit, self._on_status)
        self.bus = EnvEventBus(journal)
        self.sources = EventMcpManager(self.pool, self.bus.publish_batch)
        self.tools = McpManager(self.pool)

    # Servers

    def tiny(self, name: str, body: str = "", **more: Any) -> ServerConfig:
        """A `TINY` server with this body."""
        return self.script(name, TINY.replace("#BODY#", textwrap.dedent(body)), isolated=True, **more)

    def kit(self, name: str, body: str, **more: Any) -> ServerConfig:
        """A source written with the kit, in which `source` is to be filled in."""
        text = f"""
from eventhost.kit import EventSource, sleep
source = EventSource({name!r})
{textwrap.dedent(body)}
source.run()
"""
        return self.script(name, text, **more)

    def script(self, name: str, text: str, *, isolated: bool = False, **more: Any) -> ServerConfig:
        """A server in Python, started from a file; `isolated` starts faster, and finds no installed package."""
        file = self.root / f"{name}.py"
        file.write_text(textwrap.dedent(text))
        options = ("-I", "-S") if isolated else ()
        environment = {**({} if isolated else {"PYTHONPATH": PACKAGES}), **more.pop("environment", {})}
        return self.server(name, command=(sys.executable, *options, str(file)), environment=environment, **more)

    def server(self, name: str, kind: ServerKind = ServerKind.STDIO, **more: Any) -> ServerConfig:
        """A server of any kind."""
        return ServerConfig(name, kind, self.root, f"{name}/config.jsonc", **{"timings": QUICK, **more})

    # Connections

    def connect(self, config: ServerConfig, receiver: Any = None) -> Connection:
        """A connection that was told to start."""
        connection = self.pool.add(config, receiver=receiver)
        self.pool.start(connection)
        return connection

    async def running(self, config: ServerConfig, receiver: Any = None) -> Connection:
        """A connection that is up and running."""
        connection = self.connect(config, receiver)
        with anyio.fail_after(LIMIT_S):
            assert await connection.settled(), connection.last_error
        return connection

    async def becomes(self, name: str, *statuses: EventSourceStatus) -> None:
        """Wait until the connection has gone through `statuses`, in this order, with or without others between."""

        def gone_through() -> bool:
            passed = iter(self.statuses.get(name, []))
            return all(status in passed for status in statuses)

        try:
            await until(gone_through)
        except TimeoutError:
            last_error = self.pool.connections[name].last_error
            raise AssertionError(f"{name} was {self.statuses.get(name)} and not {statuses}: {last_error}") from None

    # Sources

    def source(self, config: ServerConfig, **more: Any) -> EventMcpClient:
        """A source that was told to start."""
        client = self.sources.add(source_config(config, **more))
        client.start()
        return client

    async def events(self, count: int) -> list[EnvEvent]:
        """The first `count` events of the journal, waited for."""
        await until(lambda: self.bus.journal.head >= count, lambda: f"{self.bus.journal.head} events of {count}")
        entries: list[Entry] = []
        while len(entries) < count:
            entries += await self.bus.journal.read(len(entries), count - len(entries))
        return [entry.event for entry in entries]

    async def all_events(self) -> list[EnvEvent]:
        """What is in the journal now."""
        return await self.events(self.bus.journal.head)

    def _on_status(self, connection: Connection) -> None:
        self.statuses.setdefault(connection.config.name, []).append(connection.status)


def source_config(server: ServerConfig, **more: Any) -> SourceConfig:
    """A source of this server."""
    return SourceConfig(server.name, server, **{"poll_interval_s": 0.02, **more})


@asynccontextmanager
async def hosting(root: Path, *, capacity: int = 65_536, launch_limit: int = 8) -> AsyncIterator[Hosting]:
    """A `Hosting` until the block ends; leaving it is bounded as well."""
    host = Hosting(root, MemoryJournal(capacity), launch_limit)
    with anyio.fail_after(2 * LIMIT_S):
        async with host.pool, host.bus:
            yield host


async def until(condition: Callable[[], object], otherwise: Callable[[], str] | None = None) -> None:
    """Wait for what a process, or the network, brings about."""
    with anyio.move_on_after(LIMIT_S) as waiting:
        while not condition():
            await anyio.sleep(0.003)
    if waiting.cancelled_caught:
        raise TimeoutError(otherwise() if otherwise else "")
