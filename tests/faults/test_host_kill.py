"""The whole host under kill -9: what a webhook's sender was answered with 200 is delivered, and no child is left."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from random import Random

import anyio
import httpx2
import psutil
import pytest

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

SOURCES = Path(__file__).parents[2] / "eventsources"

KILLS = int(os.environ.get("EVENTHOST_HOST_KILLS", "10"))

SLOW_S = 60
"""For a machine that does much else."""


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        return int(taken.getsockname()[1])


class Endpoint:
    """What the rule calls: outside the host's control, it lives through all of it."""

    def __init__(self) -> None:
        self.came: list[int] = []
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
                self.came.append(json.loads(await reader.readexactly(length))["n"])
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                await writer.drain()
        writer.close()


def environment(root: Path, port: int, url: str) -> None:
    rule = {"name": "bring", "on": "webhook.n", "do": {"webhook": url, "body": {"n": "{{ payload.body.n }}"}}}
    config = {"http": {"enabled": False}, "rules": [rule], "supervision": {"startsecs": "100ms"}}
    (root / "config.jsonc").write_text(json.dumps(config))
    shutil.copytree(SOURCES / "webhook", root / "eventsources" / "webhook")
    (root / "eventsources" / "webhook" / "config.jsonc").write_text(json.dumps({"port": port}))


def launch(root: Path) -> subprocess.Popen[bytes]:
    with (root / "log").open("ab") as log:
        command = [sys.executable, "-m", "eventhost", "run", "--env", str(root)]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log)


async def start(root: Path, port: int) -> tuple[subprocess.Popen[bytes], list[psutil.Process]]:
    """A host whose webhook takes requests, and its children."""
    host = launch(root)
    with anyio.fail_after(SLOW_S):
        while True:
            assert host.poll() is None, (root / "log").read_text()
            with suppress(OSError):
                async with await anyio.connect_tcp("127.0.0.1", port):
                    return host, psutil.Process(host.pid).children(recursive=True)
            await anyio.sleep(0.02)


async def none_is_left(children: list[psutil.Process]) -> None:
    """Wait until the guardian has ended them, and itself."""

    def alive(child: psutil.Process) -> bool:
        with suppress(psutil.NoSuchProcess):
            return child.is_running() and child.status() != psutil.STATUS_ZOMBIE
        return False

    with anyio.fail_after(SLOW_S):
        while any(map(alive, children)):
            await anyio.sleep(0.01)


async def test_what_was_answered_with_200_is_delivered_whenever_the_host_is_killed(tmp_path: Path) -> None:
    endpoint, random, port = Endpoint(), Random(KILLS), free_port()
    server = await asyncio.start_server(endpoint.answer, "127.0.0.1", 0)
    environment(tmp_path, port, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    answered: list[int] = []
    one_by_one: set[int] = set()
    sent = 0
    async with server:
        for _ in range(KILLS):
            host, children = await start(tmp_path, port)
            assert len(children) >= 2, "a guardian, and the source"
            most = random.choice([0, 1, 5, 30, 100])
            async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=SLOW_S) as sender:

                async def send(sender: httpx2.AsyncClient, number: int) -> None:
                    with suppress(httpx2.TransportError):
                        if (await sender.post("/n", json={"n": number})).status_code == 200:
                            answered.append(number)

                async with anyio.create_task_group() as tasks:
                    for _ in range(most):
                        sent += 1
                        one_by_one.add(sent)
                        await send(sender, sent)
                    for _ in range(8):  # while these are under way
                        sent += 1
                        tasks.start_soon(send, sender, sent)
                    await anyio.sleep(random.random() * 0.02)
                    host.send_signal(signal.SIGKILL)
                    host.wait()
                    await none_is_left(children)
        host, children = await start(tmp_path, port)
        with anyio.fail_after(SLOW_S):
            while not set(answered) <= set(endpoint.came):
                await anyio.sleep(0.02)
        host.send_signal(signal.SIGTERM)
        assert await anyio.to_thread.run_sync(host.wait, SLOW_S) == 0
        await none_is_left(children)
    repeated = sum(count - 1 for count in Counter(endpoint.came).values())
    first = list(dict.fromkeys(endpoint.came))
    in_turn = [number for number in first if number in one_by_one]
    assert in_turn == sorted(in_turn)
    assert set(first) <= set(range(1, sent + 1))
    print(f"\n{KILLS} kills: {sent} sent, {len(answered)} answered with 200, {len(first)} delivered, {repeated} twice")
    assert repeated <= KILLS * 20
