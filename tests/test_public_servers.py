"""Servers that other people wrote, as they are published, hosted as sources and as tool servers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from mcp_types import TextContent
from untested import untested

from eventhost import ServerEnvironment
from eventhost.connections import EventSourceStatus


@pytest.fixture(scope="session")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where npm has put `@modelcontextprotocol/server-everything`."""
    folder = tmp_path_factory.mktemp("everything")
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "@modelcontextprotocol/server-everything"]
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=100)
    except (OSError, subprocess.SubprocessError) as error:
        untested(f"npm cannot install server-everything: {error}; install Node.js 18 or later, with npm")
    return folder


def environment(root: Path, everything: Path) -> None:
    """One folder of each kind for each server, and nothing else."""
    package = everything / "node_modules/@modelcontextprotocol/server-everything/dist/index.js"
    commands = {"time": ["python", "-m", "mcp_server_time"], "everything": ["node", str(package), "stdio"]}
    clients = {}
    for name, command in commands.items():
        folder = root / "eventsources" / name
        folder.mkdir(parents=True)
        (folder / "config.jsonc").write_text(json.dumps({"command": command}))
        tools = root / "mcpservers" / name
        tools.mkdir(parents=True)
        clients[f"{name}-tools"] = {"type": "local", "command": command}
    config = {"mcp": {"clients": clients, "eventSources": {"sources": {}}}}
    (root / "config.jsonc").write_text(json.dumps(config))


@pytest.mark.anyio
async def test_public_servers_run_in_both_places_and_their_tools_can_be_called(
    tmp_path: Path, everything: Path, needs: Callable[[str], str]
) -> None:
    needs("node")
    environment(tmp_path, everything)
    async with ServerEnvironment.from_path(tmp_path) as env:
        with anyio.fail_after(60):
            while not all(status.status is EventSourceStatus.RUNNING for status in env.source_statuses()):
                await anyio.sleep(0.05)
        assert [status.name for status in env.source_statuses()] == ["everything", "time"]
        tools = env.get_mcp_manager()
        names = {tool.name for tool in await tools.get_tools(["everything__*", "everything-tools__*"])}
        for server in ("everything", "everything-tools"):
            assert f"{server}__echo" in names
            result = await tools.execute_tool(f"{server}__echo", {"message": "hello"})
            assert isinstance(result.content[0], TextContent)
            assert "hello" in result.content[0].text
        for server in ("time", "time-tools"):
            result = await tools.execute_tool(f"{server}__get_current_time", {"timezone": "Europe/Zurich"})
            assert not result.is_error
        assert [status.restarts for status in env.source_statuses()] == [0, 0]
