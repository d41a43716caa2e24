"""The promise, whole: what a sender was answered with 200 is committed, and is delivered, whatever the host dies of."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from eventhost import ServerEnvironment
from eventhost.journal import Change, DeadLetter, open_journal
from eventhost.web.control_socket import CONTROL_SOCKET

pytestmark = pytest.mark.anyio

SOURCES = Path(__file__).parent.parent / "eventsources"
SLOW_S = 60
"""For a machine that does much else; no test takes that long on its own."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that only looking tells."""
    while not condition():
        await anyio.sleep(0.02)


@dataclass
class Folder:
    """An environment with the webhook source, as a user has it."""

    root: Path
    port: int = field(default_factory=free_port)

    def make(self, *rules: dict[str, Any]) -> Folder:
        config = {"http": {"enabled": False}, "rules": rules, "supervision": {"startsecs": "100ms"}}
        (self.root / "config.jsonc").write_text(json.dumps(config))
        shutil.copytree(SOURCES / "webhook", self.root / "eventsources" / "webhook")
        (self.root / "eventsources" / "webhook" / "config.jsonc").write_text(json.dumps({"port": self.port}))
        return self

    async def listening(self) -> None:
        """Return once the webhook takes requests."""
        while True:
            try:
                async with await anyio.connect_tcp("127.0.0.1", self.port):
                    return
            except OSError:
                await anyio.sleep(0.05)

    def sender(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=SLOW_S)

    def committed(self) -> list[str]:
        """The ids of the webhook's events, as another process finds them in the journal's file."""
        with closing(sqlite3.connect(f"file:{self.root}/var/journal.db?mode=ro", uri=True)) as database:
            bodies = [json.loads(body) for (body,) in database.execute("SELECT body FROM event ORDER BY seq")]
        return [body["id"] for body in bodies if body["metadata"]["source_name"] == "webhook"]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


async def send(sender: httpx2.AsyncClient, delivery: str) -> int:
    """Deliver as senders of webhooks do, under an id of the delivery's own; the status of the answer."""
    answer = await sender.post("/orders", json={"order": delivery}, headers={"idempotency-key": delivery})
    return answer.status_code


async def test_a_sender_is_answered_with_200_only_once_its_event_is_committed(folder: Folder) -> None:
    folder.make()
    with anyio.fail_after(SLOW_S):
        async with ServerEnvironment.from_path(folder.root) as env, folder.sender() as sender:
            await folder.listening()
            assert await send(sender, "first") == 200
            assert folder.committed() == ["first"]
            journal = env.bus.journal
            with closing(sqlite3.connect(folder.root / "var" / "journal.db", isolation_level=None)) as holder:
                holder.execute("BEGIN IMMEDIATE")  # nobody else can commit now
                head = journal.head
                answer = asyncio.ensure_future(send(sender, "second"))
                await until(lambda: env.source_status("webhook").received == 2)
                # The journal's writer has tried, and waits.
                await until(lambda: journal.statistics().stalled)
                assert not answer.done()
                assert (journal.head, env.source_status("webhook").published) == (head, 1)
                holder.execute("ROLLBACK")
            assert await answer == 200
            assert folder.committed() == ["first", "second"]


@dataclass
class Endpoint:
    """What a rule calls: out of order at first. `came` is what it took, in order."""

    works: bool = False
    came: list[str] = field(default_factory=list)
    refused: int = 0
    url: str = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Endpoint]:
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        async with server:
            yield self

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        body = json.loads(await reader.readexactly(length))
        if self.works:
            self.came.append(body["order"])
        else:
            self.refused += 1
        status = "200 OK" if self.works else "503 Out Of Order"
        writer.write(f"HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()


@asynccontextmanager
async def host(root: Path) -> AsyncIterator[httpx2.AsyncClient]:
    """A host in a process of its own, as its control socket answers; killed at the end, as by the kernel."""
    with (root / "log").open("ab") as stderr:
        process = await anyio.open_process(
            [sys.executable, "-m", "eventhost", "run", "--env", str(root)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    try:
        transport = httpx2.AsyncHTTPTransport(uds=str(root / CONTROL_SOCKET))
        async with httpx2.AsyncClient(transport=transport, base_url="http://eventhost") as client:
            yield client
    finally:
        process.kill()
        with anyio.CancelScope(shield=True):
            await process.wait()


async def asked(client: httpx2.AsyncClient, path: str, wanted: Callable[[Any], object]) -> Any:
    """What the host answers, as soon as it is what is wanted."""
    while True:
        try:
            answer = (await client.get(path)).json()
        except httpx2.TransportError:
            answer = None
        if answer is not None and wanted(answer):
            return answer
        await anyio.sleep(0.05)


async def test_dead_letters_that_had_to_go_are_counted_where_people_look(tmp_path: Path) -> None:
    config = {"http": {"enabled": False}, "journal": {"retention": {"deadLetters": 2}}}
    (tmp_path / "config.jsonc").write_text(json.dumps(config))
    (tmp_path / "var").mkdir()
    journal, _ = await open_journal(tmp_path / "var" / "journal.db", "normal")
    await journal.save(Change(dead=[DeadLetter("ship", seq, 1, "log", "0", 1, "no", b"[]") for seq in range(1, 6)]))
    await journal.aclose()
    with anyio.fail_after(SLOW_S):
        async with host(tmp_path) as client:
            status = await asked(client, "/status", lambda answer: answer["dead_letters"]["discarded"])
            assert (status["dead_letters"]["held"], status["dead_letters"]["discarded"]) == (2, 3)
            gaps = await asked(client, "/events?type=host.gap", lambda answer: answer["events"])
            (gap,) = (event["payload"] for event in gaps["events"])
            assert (gap["reason"], gap["rule"], gap["first"], gap["last"], gap["count"]) == (
                "discarded",
                "ship",
                1,
                3,
                3,
            )

            async def said(*command: str) -> str:
                done = await anyio.run_process([sys.executable, "-m", "eventhost", *command, "--env", str(tmp_path)])
                return (done.stdout + done.stderr).decode()

            assert "2 held, 3 discarded" in await said("status")
            listed = await said("dead-letter", "list")
            assert listed.count("ship") == 2
            assert "3 older ones were discarded" in listed


async def test_what_was_answered_with_200_is_delivered_after_the_host_was_killed(folder: Folder) -> None:
    deliveries = [f"order-{number}" for number in range(5)]
    with anyio.fail_after(SLOW_S):
        async with Endpoint().serving() as endpoint:
            hook = {"webhook": endpoint.url, "body": {"order": "{{ payload.body.order }}"}}
            folder.make(
                {"name": "ship", "on": "webhook.orders", "do": hook},
                {"name": "note", "on": "webhook.orders", "do": [{"emit": "order.noted"}, hook]},
            )
            async with host(folder.root) as client, folder.sender() as sender:
                await folder.listening()
                for delivery in deliveries:
                    assert await send(sender, delivery) == 200
                await until(lambda: endpoint.refused >= 2)
                noted = await asked(client, "/events?type=order.noted", lambda answer: answer["events"])
            assert endpoint.came == []
            endpoint.works = True
            async with host(folder.root) as client, folder.sender() as sender:
                await until(lambda: len(endpoint.came) >= 2 * len(deliveries))
                # Each of the two rules brought them all, in their order.
                assert list(dict.fromkeys(endpoint.came)) == deliveries
                assert sorted(endpoint.came) == sorted(2 * deliveries)

                # The sender of the last one did not hear its 200, say, and sends it once more.
                await folder.listening()
                assert await send(sender, deliveries[-1]) == 200
                status = await asked(client, "/sources/webhook", lambda answer: answer["deduplicated"])
                assert (status["deduplicated"], status["published"]) == (1, 0)
                assert folder.committed() == deliveries

                # What a rule emitted before the kill, its run that was done once more did not emit again.
                again = await asked(client, "/events?type=order.noted", lambda answer: len(answer["events"]) >= 5)
                assert [event["id"] for event in again["events"][: len(noted["events"])]] == [
                    event["id"] for event in noted["events"]
                ]
                assert len(again["events"]) == len(deliveries)

                # And it is said that the host before this one did not end properly, with bounds.
                gaps = await asked(client, "/events?type=host.gap", lambda answer: answer["events"])
                (gap,) = (event["payload"] for event in gaps["events"])
                assert gap["reason"] == "crash"
                assert gap["from"] <= gap["to"]
                assert gap["after"] >= len(deliveries)
