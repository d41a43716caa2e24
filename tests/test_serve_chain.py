"""One eventhost as a source of another, by config alone: what happens there happens here, once, in order."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup, TaskStatus
from hosting import PACKAGES, TINY, until

from eventhost import EnvEvent, ServerEnvironment
from eventhost.sources import upstream
from eventhost.web.server import Listening, serving

pytestmark = pytest.mark.anyio

QUICK = {"startsecs": 0, "stopTimeout": "500ms"}
POLL = "50ms"


ASKED = """
def subscribe(eventType):
    emit("asked", payload={"for": eventType})
    return text("ok")
TOOLS["subscribe_event"] = subscribe
"""


class Host:
    """A host that may be restarted, in a task of its own; its port and its configuration stay the same."""

    def __init__(self, root: Path, tasks: TaskGroup) -> None:
        self.root, self._tasks = root, tasks
        root.mkdir()
        self.port = 0
        self.said: dict[str, Any] = {}
        self._stop, self._stopped = anyio.Event(), anyio.Event()
        self.env: ServerEnvironment
        self.listening: Listening

    async def start(self, **said: Any) -> None:
        self.said |= said
        config = {"supervision": QUICK, "http": {"port": self.port, "rate_limit": {"enabled": False}}, **self.said}
        (self.root / "config.jsonc").write_text(json.dumps(config))
        self._stop, self._stopped = anyio.Event(), anyio.Event()
        await self._tasks.start(self._run)

    async def _run(self, *, task_status: TaskStatus[None]) -> None:
        try:
            async with ServerEnvironment.from_path(self.root) as self.env, serving(self.env) as self.listening:
                self.port = int(self.listening.url.rpartition(":")[2])
                task_status.started()
                await self._stop.wait()
        finally:
            self._stopped.set()

    async def stop(self) -> None:
        self._stop.set()
        with anyio.fail_after(30):
            await self._stopped.wait()

    def source(self, name: str, way: str = "push", **more: Any) -> dict[str, Any]:
        """How another host's config says that this one is a source of it."""
        client: dict[str, Any] = {"type": "remote", "url": f"{self.listening.url}/mcp"}
        if way in ("stdio", "modern stdio"):
            client = {
                "type": "local",
                "command": [sys.executable, "-m", "eventhost", "mcp", "--env", str(self.root)],
                "environment": {"PYTHONPATH": PACKAGES},
            }
        if way in ("poll", "modern stdio"):
            client["protocol"] = "modern"
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
            while True:
                head = self.env.bus.journal.head
                if len(found := await self.events(event_type)) >= count:
                    return found
                await self.env.bus.grown(head)

    async def hears(self, name: str, way_in: str = "push") -> None:
        """Wait until it has subscribed to another host."""

        def subscribed() -> bool:
            status = self.env.source_status(name)
            place = self.root / "var" / "upstream" / f"{name}.json"
            return status.status == "running" and place.is_file() and status.way_in == way_in

        await until(subscribed, lambda: str(self.env.source_status(name)))


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Callable[[str], Host]]:
    made: list[Host] = []

    async with anyio.create_task_group() as tasks:

        def make(name: str) -> Host:
            made.append(Host(tmp_path / name, tasks))
            return made[-1]

        yield make
        for host in reversed(made):
            await host.stop()


@pytest.mark.parametrize(
    ("way", "way_in"), [("push", "push"), ("poll", "poll"), ("stdio", "push"), ("modern stdio", "push")]
)
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


async def test_a_host_is_asked_only_for_what_is_wanted(hosts: Callable[[str], Host]) -> None:
    a, b = hosts("a"), hosts("b")
    await a.start()
    await b.start(mcp=a.source("upstairs", subscribeEvents=["door.*", "last"]))
    await b.hears("upstairs")
    for event_type in ("door.opened", "window.opened", "last"):
        await a.publish(event_type)
    await b.gets("last")
    assert [event.type for event in await b.events()] == ["door.opened", "last"]
    assert b.env.source_status("upstairs").rejected == 0


async def test_what_one_host_hands_on_does_not_come_back_to_it(hosts: Callable[[str], Host]) -> None:
    a, b = hosts("a"), hosts("b")
    await a.start()
    await b.start(mcp=a.source("a"))
    await b.hears("a")
    await a.stop()
    await a.start(mcp=b.source("b"))
    await a.hears("b")
    for number in range(5):
        await a.publish("from.a", number=number)
        await b.publish("from.b", number=number)
    await b.gets("from.a", 5)
    await a.gets("from.b", 5)
    # What is published last on either side has gone behind everything that might go in circles.
    await a.publish("end.a")
    await b.publish("end.b")
    await b.gets("end.a")
    await a.gets("end.b")
    for host in (a, b):
        assert len(await host.events()) == 12
        assert [event.payload["number"] for event in await host.events("from.a")] == list(range(5))


async def test_rules_that_answer_each_other_from_host_to_host_come_to_an_end(hosts: Callable[[str], Host]) -> None:
    a, b = hosts("a"), hosts("b")
    await a.start()
    await b.start(mcp=a.source("a"), rules=[{"name": "pong", "on": "ping", "do": [{"emit": "pong"}]}])
    await b.hears("a")
    await a.stop()
    await a.start(mcp=b.source("b"), rules=[{"name": "ping", "on": "pong", "do": [{"emit": "ping"}]}])
    await a.hears("b")
    await a.publish("ping")

    def failed() -> list[str]:
        return [rule.last_error or "" for host in (a, b) for rule in host.env.rule_statistics() if rule.failed]

    await until(failed)
    assert "a chain of 16 events" in failed()[0]
    assert 3 < len(await a.events()) < 16


async def test_two_hosts_that_know_each_other_list_what_each_has_once(hosts: Callable[[str], Host]) -> None:
    a, b = hosts("a"), hosts("b")
    await a.start()
    await b.start(mcp=a.source("a"))
    await b.hears("a")
    await a.stop()
    await a.start(mcp=b.source("b"))
    await a.hears("b")
    await b.hears("a")
    with anyio.fail_after(30):
        for host, other in ((a, "b"), (b, "a")):
            manager = host.env.get_mcp_manager()
            await until(lambda manager=manager: manager.links())
            names = {tool.name for tool in await manager.get_tools()}
            assert f"{other}__emit_event" in names
            assert not any(name.count("__") > 1 for name in names)
            assert not await manager.get_tools(from_hosts=False)


@pytest.mark.parametrize("way", ["push", "poll", "stdio"])
async def test_what_happened_while_one_of_them_was_away_is_not_lost(
    hosts: Callable[[str], Host], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "CHECK_S", 0.1)
    a, b = hosts("a"), hosts("b")
    await a.start()
    await b.start(mcp=a.source("a", way))
    await b.hears("a", "poll" if way == "poll" else "push")
    await a.publish("n", number=0)
    await b.gets("n")
    await b.stop()
    await a.publish("n", number=1)
    await b.start()
    await b.gets("n", 2)
    await a.stop()
    await a.start()
    await a.publish("n", number=2)
    found = await b.gets("n", 3)
    assert [event.payload["number"] for event in found] == [0, 1, 2]
    await a.publish("end")
    await b.gets("end")
    assert len(await b.events("n")) == 3


async def test_what_the_transport_loses_is_asked_for(
    hosts: Callable[[str], Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "CHECK_S", 0.1)
    a, b = hosts("a"), hosts("b")
    await a.start()
    await b.start(mcp=a.source("a"))
    await b.hears("a")
    client = b.env.get_event_mcp_manager().client("a")
    accept = client.accept
    lost: list[str] = []

    async def lossy(batch: Any) -> None:
        kept = [event for event in batch.events if event.payload["number"] not in (1, 2, 5)]
        lost.extend(event.id for event in batch.events if event not in kept)
        batch.events = kept
        await accept(batch)

    monkeypatch.setattr(client, "accept", lossy)
    for number in range(6):
        await a.publish("n", number=number)
    found = await b.gets("n", 6)
    assert [event.payload["number"] for event in found] == list(range(6))
    assert len(lost) == 3
    assert client.deduplicated == 0


async def test_a_journal_that_begins_anew_is_read_from_its_beginning(hosts: Callable[[str], Host]) -> None:
    a, b = hosts("a"), hosts("b")
    await a.start(journal={"type": "memory"})
    await b.start(mcp=a.source("a"))
    await b.hears("a")
    for number in range(3):
        await a.publish("n", number=number)
    await b.gets("n", 3)
    await b.stop()
    await a.stop()
    await a.start()
    for number in range(3, 9):
        await a.publish("n", number=number)
    await b.start()
    assert [event.payload["number"] for event in await b.gets("n", 9)] == list(range(9))


async def test_another_host_at_the_same_place_is_heard_from_now_on(hosts: Callable[[str], Host]) -> None:
    a, b, c = hosts("a"), hosts("b"), hosts("c")
    await a.start()
    await b.start(mcp=a.source("a"))
    await b.hears("a")
    for number in range(3):
        await a.publish("n", number=number)
    await b.gets("n", 3)
    await b.stop()
    await a.stop()
    c.port = a.port
    await c.start()
    for number in range(10, 20):
        await c.publish("n", number=number)
    await b.start()

    def heard() -> bool:
        place = json.loads((b.root / "var" / "upstream" / "a.json").read_text())
        return bool(place["host"] == c.env.host_id)

    await until(heard)
    await c.publish("n", number=20)
    assert [event.payload["number"] for event in await b.gets("n", 4)] == [0, 1, 2, 20]


async def test_an_event_bears_the_hosts_that_it_came_through(hosts: Callable[[str], Host]) -> None:
    a, b, c = hosts("a"), hosts("b"), hosts("c")
    await a.start()
    await b.start(mcp=a.source("a"))
    await b.hears("a")
    await c.start(mcp=b.source("b"))
    await c.hears("b")
    said = await a.publish("n")
    (event,) = await c.gets("n")
    (between,) = await b.env.bus.journal.read(b.env.bus.journal.head - 1, 1)
    assert said == between.event.metadata["relay"]["seq"]
    assert event.metadata["relay"] == {
        "via": [a.env.host_id, b.env.host_id],
        "hops": 2,
        "seq": between.seq,
        "source_name": "a",
    }


async def test_a_source_that_is_no_host_is_asked_for_what_is_wanted_of_it(hosts: Callable[[str], Host]) -> None:
    b = hosts("b")
    server = b.root / "server.py"
    server.write_text(TINY.replace("#BODY#", ASKED))
    client = {"type": "local", "command": [sys.executable, "-I", "-S", str(server)]}
    entry = {"client": client, "options": {"subscribeEvents": ["door.*", "window.*"]}}
    await b.start(eventSources={"sources": {"asked": entry}})
    found = await b.gets("asked", 2)
    assert [event.payload for event in found] == [{"for": "door.*"}, {"for": "window.*"}]
