"""What is released works by itself: the wheel carries the templates, and an environment made from it runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import psutil
import pytest

ROOT = Path(__file__).parent.parent
RELEASED = ("pyproject.toml", "README.md", "LICENSE", "config.jsonc", "eventhost", "eventsources", "mcpservers")
STRAYS = (
    "eventsources/node-example/node_modules/x/index.js",
    "eventsources/node-example/package-lock.json",
    "eventsources/timer/__pycache__/server.cpython-311.pyc",
    "eventsources/timer/var/state.json",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of what is released, in which somebody has worked."""
    tree = tmp_path_factory.mktemp("tree")
    for name in RELEASED:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, tree / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
        else:
            shutil.copy(path, tree / name)
    for stray in STRAYS:
        (tree / stray).parent.mkdir(parents=True, exist_ok=True)
        (tree / stray).write_text("")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tree / "dist"), str(tree)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = (tree / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def commands(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of a fresh environment that has the wheel, and from this one only what the wheel depends on."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], timeout=60, check=True)
    python = folder / "bin" / "python"
    install = ["pip", "--python", str(python), "install", "--quiet", "--no-index", "--no-deps", str(wheel)]
    subprocess.run([sys.executable, "-m", *install], timeout=100, check=True)
    # After the wheel, so that pip sees an empty environment. An editable install of the project that lies there stays
    # unseen: a .pth file is not looked for in folders that another one names.
    site = next((folder / "lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = subprocess.run(
        [str(python), "-c", "import eventhost; print(eventhost.__file__)"],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert where.stdout.startswith(str(site))
    return folder / "bin"


def clean_environment() -> dict[str, str]:
    """The environment of this process without what would lead back into the checkout."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("EVENTHOST_", "PYTHON", "VIRTUAL_"))
    }


def test_the_wheel_carries_the_templates_and_nothing_that_was_left_behind(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("eventsources", "mcpservers"):
        for path in (ROOT / folder).rglob("*"):
            local = {"node_modules", "__pycache__", "var", "package-lock.json"}.intersection(path.parts)
            if path.is_file() and not local:
                assert f"eventhost/templates/{path.relative_to(ROOT).as_posix()}" in names
    assert {"eventhost/templates/config.jsonc", "eventhost/py.typed", "eventhost/__main__.py"} <= names
    left_behind = ("node_modules", "__pycache__", "/var/", "package-lock.json")
    assert not [name for name in names if any(part in name for part in left_behind)]
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "eventsources/", "mcpservers/"))]


@pytest.fixture
def demo(commands: Path, tmp_path: Path) -> Path:
    """An environment that the installed package made, moved to ports of its own."""
    made = subprocess.run(
        [str(commands / "eventhost"), "init", "demo"],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    # Naming sources leaves out the clients that are not named.
    sources = {"webhook": {"options": {"port": 0}}, "timer": {"options": {"interval": 100}}, "todo": {"enabled": True}}
    local = {"http": {"port": 0}, "mcp": {"eventSources": {"sources": sources}}}
    (tmp_path / "demo" / "config.local.jsonc").write_text(json.dumps(local))
    return tmp_path / "demo"


@pytest.fixture
def host(commands: Path, demo: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`eventhost run` in the environment."""
    with (demo.parent / "log").open("wb") as log:
        command = [str(commands / "eventhost"), "run"]
        process = subprocess.Popen(command, cwd=demo, env=clean_environment(), stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


Ask = Callable[[], Awaitable[Any]]


async def until(ask: Ask, host: subprocess.Popen[bytes], said: Callable[[], str]) -> Any:
    """Ask again and again until the answer is true; a socket that is not there yet is no answer."""
    while True:
        assert host.poll() is None, said()
        try:
            if answer := await ask():
                return answer
        except httpx2.TransportError:
            pass
        await anyio.sleep(0.05)


@pytest.mark.anyio
async def test_an_environment_of_the_installed_package_runs(
    commands: Path, demo: Path, host: subprocess.Popen[bytes]
) -> None:
    folders = {"timer", "webhook", "file-watcher"}
    said = (demo.parent / "log").read_text
    transport = httpx2.AsyncHTTPTransport(uds=str(demo / "var" / "control.sock"))

    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as control:

        async def get(path: str) -> Any:
            return (await control.get(path)).raise_for_status().json()

        async def running() -> dict[str, Any]:
            sources = {source["name"]: source for source in (await get("/sources"))["sources"]}
            up = {name for name, source in sources.items() if source["status"] == "running"}
            return sources if folders <= up else {}

        async def events(event_type: str) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = (await get(f"/events?type={event_type}"))["events"]
            return found

        with anyio.fail_after(60):
            await until(lambda: get("/health"), host, said)
            sources = await until(running, host, said)
            assert sources.get("node-example", {"status": "stopped"})["status"] == "stopped"
            beats = await until(lambda: events("timer.heartbeat"), host, said)
            assert beats[0]["payload"]["count"] == 1
            # A file comes, a rule sees it, and a tool server is called: one way through the whole house.
            letter = demo / "inbox" / "letter.txt"
            letter.parent.mkdir()
            letter.write_text("Dear Ada")
            added = await until(lambda: events("todo.added"), host, said)
            assert [event["payload"]["title"] for event in added] == ["Read letter.txt"]

            status = await anyio.run_process(
                [str(commands / "eventhost"), "status", "--json"], cwd=demo, env=clean_environment()
            )
            assert json.loads(status.stdout)["pid"] == host.pid

    children = psutil.Process(host.pid).children(recursive=True)
    assert len(children) >= len(folders)
    host.send_signal(signal.SIGTERM)
    assert await anyio.to_thread.run_sync(host.wait, 30) == 0, said()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []


def test_a_second_init_changes_nothing(commands: Path, demo: Path) -> None:
    before = (demo / "config.jsonc").read_bytes()
    again = subprocess.run(
        [str(commands / "eventhost"), "init"],
        cwd=demo,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert again.returncode == 1
    assert "nothing was changed" in again.stderr
    assert (demo / "config.jsonc").read_bytes() == before
