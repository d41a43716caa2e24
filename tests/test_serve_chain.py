"""One eventhost as a source of another, by config alone: what happens there happens here, once, in order."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest

from eventhost import EnvEvent, ServerEnvironment
from eventhost.web.server import Listening, serving
from tests.hosting import PACKAGES, until

pytestmark = pytest.mark.anyio

QUICK = {"startsecs": 0, "stopTimeout": "500ms"}
POLL = "50ms"


class Host:
    """A host that may be restarted; what it says it listens to stays the same."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        self.port = 0
        self.said: dict[str, Any] = {}
        self._stack = AsyncExitStack()
        self.env: ServerEnvironment
        self.listening: Listening

    async def start(self, **said: Any) -> None:
        self.said |= said
        config = {"supervision": QUICK, "http": {"port": self.port, "rate_limit": {"enabled": False}}, **self.said}
        (self.root / "config.jsonc").write_text(json.dumps(config))
        self.env = await self._stack.enter_async_context(ServerEnvironment.from_path(self.root))
        self.listening = await self._stack.enter_async_context(serving(self.env))
        self.port = int(self.listening.url.rpartition(":")[2])

    async def stop(self) -> None:
        await self._stack.aclose()

    def source(self, name: str, way: str = "push", **more: Any) -> dict[str, Any]:
        """How another host's config says that this one is a source of it."""
        client: dict[str, Any] = {"type": "remote", "url": f"{self.listening.url}/mcp"}
        if way == "poll":
            client["protocol"] = "modern"
        if way == "stdio":
            client = {
                "type": "local",
                "command": [sys.executable, "-m", "eventhost", "mcp", "--env", str(self.root)],
                "environment": {"PYTHONPATH": PACKAGES},
            }
        entry = {"client": client, "options": {"pollInterval": POLL, **more}}
        return {"eventSources": {"sources": {name: entry}}}

    async def publish(self, event_type: str, **payload: Any) -> int:
        return (await self.env.publish_event({"type": event_type, "payload": payload}))[1]

    async def events(self, event_type: str = "") -> list[EnvEvent]:
        """The events of its journal, but for the host's own."""
        found = [entry.event for entry in await self.env.bus.journal.read(0, 10_000)]
        return [event for event in found if not event.type.startswith("host.") and event_type in ("", event.type)]

    async def gets(self, event_type: str, count: int = 1) -> list[EnvEvent]:
        """Its first `count` events of a type, waited for."""
        with anyio.fail_after(30):
            while len(found := await self.events(event_type)) < count:
                await self.env.bus.grown(self.env.bus.journal.head)
        return found

    async def hears(self, name: str, way_in: str = "push") -> None:
        """Wait until it has subscribed to another host."""

        def subscribed() -> bool:
            status = self.env.source_status(name)
            place = self.root / "var" / "upstream" / f"{name}.json"
            return status.status == "running" and place.is_file() and status.way_in == way_in

        await until(subscribed, lambda: str(self.env.source_status(name)))


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Callable[[str], Host]]:
    started: list[Host] = []

    def make(name: str) -> Host:
        started.append(Host(tmp_path / name))
        return started[-1]

    yield make
    for host in reversed(started):
        await host.stop()


@pytest.mark.parametrize(("way", "way_in"), [("push", "push"), ("poll", "poll"), ("stdio", "push")])
async def test_what_happens_on_one_host_arrives_on_the_other(
    hosts: Callable[[str], Host], way: str, way_in: str
) -> None:
    a, b = hosts("a"), hosts("b")
    await a.start()
    await b.start(mcp=a.source("upstairs", way), rules=[{"name": "greet", "on": "door.*", "do": [{"emit": "greeted"}]}])
    await b.hears("upstairs", way_in)
    seq = await a.publish("door.opened", name="front")
    (event,) = await b.gets("door.opened")
    (said,) = await a.events("door.opened")
    assert (event.id, event.timestamp, event.payload) == (said.id, said.timestamp, {"name": "front"})
    assert event.metadata == {
        "source": "api",
        "relay": {"via": [a.env.host_id], "hops": 1, "seq": seq, "source_name": "api"},
        "source_name": "upstairs",
    }
    await b.gets("greeted")
