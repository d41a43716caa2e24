"""The configurations that the original design shows run, as they stand but for their programs, addresses and pace."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from eventhost import ServerEnvironment
from eventhost.connections.http import free_port, until_answering

REPOSITORY = Path(__file__).parent.parent
SEEDS = Path(__file__).parent / "fixtures" / "seeds"

REMOTE = """
from eventhost.kit import EventSource, sleep
source = EventSource("remote")
@source.task
async def tell():
    while True:
        await source.emit("webhook.called", {})
        await sleep(0.1)
source.run()
"""


def run_with_ours(text: str, port: int) -> str:
    """The text of a seed with our programs, this machine's addresses, and a heartbeat that tests can wait for."""
    text = text.replace(
        '["bun", "run", "./eventsources/timer/server.mjs"]', '["python", "eventsources/timer/server.py"]'
    )
    text = re.sub(r"http://[\w.-]+:300\d/mcp", f"http://127.0.0.1:{port}/mcp", text)
    return text.replace('"interval": 5000', '"interval": 100')


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("mcpservers", "eventsources/timer"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "eventsources/timer/config.jsonc").write_text('{"interval": 100}')
    return tmp_path


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[int]:
    """The port of a source that somebody else runs."""
    (tmp_path / "remote.py").write_text(REMOTE)
    port = free_port()
    with subprocess.Popen([sys.executable, tmp_path / "remote.py", "--http", str(port)]) as process:
        yield port
        process.terminate()


async def sources_of(env: ServerEnvironment, wanted: set[str]) -> None:
    """Return once each of these sources has published an event."""
    with anyio.fail_after(30):
        async for item in env.bus.subscribe("*", after=0):
            wanted.discard(item.event.metadata["source_name"])  # type: ignore[union-attr]
            if not wanted:
                return


@pytest.mark.anyio
@pytest.mark.parametrize("seed", ["5.2-timer.jsonc", "6.2-timer.jsonc", "10.1-timer.jsonc"])
async def test_a_seeds_folder_ticks(root: Path, seed: str) -> None:
    (root / "config.jsonc").write_text("{}")
    (root / "eventsources/timer/config.jsonc").write_text(run_with_ours((SEEDS / seed).read_text(), 0))
    async with ServerEnvironment.from_path(root) as env:
        await sources_of(env, {"timer"})
        event = (await env.bus.journal.read(0, 10_000))[-1].event
        assert event.type == "timer.heartbeat"
        assert event.payload.keys() == {"count", "timestamp"}
        assert event.metadata["source_name"] == "timer"
        assert event.metadata.get("location") == ("server-room-1" if seed.startswith("5.2") else None)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("seed", "sources"),
    [
        ("5.1-environment.jsonc", {"timer", "webhook"}),
        ("10.2-environment.jsonc", {"timer", "remote-weather"}),
        ("13-environment.jsonc", {"timer", "webhook"}),
    ],
)
async def test_a_seeds_environment_runs(root: Path, remote: int, seed: str, sources: set[str]) -> None:
    (root / "config.jsonc").write_text(run_with_ours((SEEDS / seed).read_text(), remote))
    with anyio.fail_after(30):
        await until_answering(remote)
    async with ServerEnvironment.from_path(root) as env:
        assert set(env.get_event_mcp_manager().get_event_source_names()) == sources
        await sources_of(env, set(sources))
        if seed.startswith("13"):
            names = {tool.name for tool in await env.get_mcp_manager().get_tools(["hello__*", "todo__*"])}
            assert {"hello__hello", "todo__add", "timer__emit_event"} <= names
