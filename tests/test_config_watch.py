"""Which changes of files are told, and that one saving is told once."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import anyio
import pytest
import watchfiles
from structlog.testing import capture_logs

from eventhost.config import watch as watch_module
from eventhost.config.watch import look, watch

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "_STEP_MS", 10)
    monkeypatch.setattr(watch_module, "_TIMEOUT_MS", 50)


class Watched:
    """An environment's folder that is being watched; its files are written by the test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.changes: AsyncGenerator[frozenset[Path]] = watch(root)

    def write(self, path: str, text: str = "x") -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return target

    async def told(self) -> set[str]:
        """The next set of changes, as paths relative to the root."""
        with anyio.fail_after(10):
            return {str(path.relative_to(self.root)) for path in await anext(self.changes)}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Watched]:
    watched = Watched(tmp_path)
    yield watched
    await watched.changes.aclose()


async def test_what_changes_before_the_first_question_is_told(site: Watched) -> None:
    site.write("config.jsonc")
    assert await site.told() == {"config.jsonc"}


async def test_several_writes_in_a_row_are_told_once(site: Watched) -> None:
    target = site.write("config.jsonc", "")
    assert await site.told() == {"config.jsonc"}

    async def save() -> None:
        with target.open("w") as opened:
            for part in range(10):
                opened.write(f"part {part}\n")
                opened.flush()
                await anyio.sleep(0.02)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(save)
        assert await site.told() == {"config.jsonc"}
    assert target.read_text().endswith("part 9\n")
    # Nothing more was waiting to be told.
    site.write(".env")
    assert await site.told() == {".env"}


@pytest.mark.parametrize("swap", ["config.jsonc~", ".config.jsonc.swp", "4913", "config.jsonc.tmp"])
async def test_an_editor_that_replaces_the_file_is_told_as_one_change_of_it(site: Watched, swap: str) -> None:
    site.write("eventsources/door/config.jsonc", "old")
    await site.told()
    new = site.write(f"eventsources/door/{swap}", "new")
    os.replace(new, site.root / "eventsources/door/config.jsonc")
    assert await site.told() == {"eventsources/door/config.jsonc"}


async def test_a_folder_that_comes_is_renamed_and_goes_is_told_with_its_files(site: Watched) -> None:
    site.write("config.jsonc")
    await site.told()
    site.write("eventsources/door/server.py")
    door = {"eventsources/door", "eventsources/door/server.py"}
    assert await site.told() == door
    site.write("eventsources/door/config.jsonc")
    assert await site.told() == {"eventsources/door/config.jsonc"}
    (site.root / "eventsources/door").rename(site.root / "eventsources/gate")
    gate = {path.replace("door", "gate") for path in door} | {"eventsources/gate/config.jsonc"}
    assert await site.told() == door | gate | {"eventsources/door/config.jsonc"}
    for name in ("server.py", "config.jsonc"):
        (site.root / "eventsources/gate" / name).unlink()
    (site.root / "eventsources/gate").rmdir()
    assert await site.told() == gate


async def test_code_and_configs_are_told_and_nothing_else(site: Watched) -> None:
    site.write("eventsources/door/server.py")
    await site.told()
    told = ["server.py", "helper.mjs", "config.jsonc", "config.local.jsonc", "lib.RB"]
    for name in told:
        site.write(f"eventsources/door/{name}", "new")
    program = site.write("eventsources/door/program")
    program.chmod(0o755)
    for silent in (
        "eventsources/door/data.db",
        "eventsources/door/README",
        "eventsources/door/.hidden.py",
        "eventsources/door/server.py~",
        "eventsources/door/.server.py.swp",
        "eventsources/door/__pycache__/server.pyc",
        "eventsources/door/node_modules/x/index.js",
        "eventsources/door/lib/deep.py",
        "eventsources/_draft/server.py",
        "eventsources/.git/x.py",
        "eventsources/node_modules/server.js",
        "eventsources/loose.py",
        "var/state.json",
        "var/journal.py",
        "other.jsonc",
        "script.py",
    ):
        site.write(silent)
    assert await site.told() == {f"eventsources/door/{name}" for name in [*told, "program"]}
    site.write("config.local.jsonc")
    assert await site.told() == {"config.local.jsonc"}


async def test_a_touch_without_a_change_of_time_or_size_is_silent(site: Watched) -> None:
    target = site.write("config.jsonc")
    await site.told()
    os.utime(target, ns=(0, target.stat().st_mtime_ns))
    site.write(".env")
    assert await site.told() == {".env"}


async def test_a_linked_config_is_told_when_what_it_links_to_changes_place(site: Watched, tmp_path: Path) -> None:
    # As a mounted config map is exchanged.
    for version in ("..1", "..2"):
        site.write(f"{version}/config.jsonc", version)
    (site.root / "..data").symlink_to("..1")
    (site.root / "config.jsonc").symlink_to("..data/config.jsonc")
    assert await site.told() == {"config.jsonc"}
    (site.root / "..new").symlink_to("..2")
    os.replace(site.root / "..new", site.root / "..data")
    assert await site.told() == {"config.jsonc"}


async def test_cancelling_ends_the_watch_at_once(site: Watched) -> None:
    site.write("config.jsonc")
    await site.told()
    with anyio.fail_after(10):
        with anyio.move_on_after(0.1) as scope:
            await anext(site.changes)
        assert scope.cancelled_caught


async def test_a_removed_environment_that_comes_back_is_seen(tmp_path: Path) -> None:
    root = tmp_path / "env"
    root.mkdir()
    watched = Watched(root)
    watched.write("config.jsonc", "old")
    assert await watched.told() == {"config.jsonc"}
    root.rename(tmp_path / "away")
    assert await watched.told() == {"config.jsonc"}
    (tmp_path / "away").rename(root)
    assert await watched.told() == {"config.jsonc"}
    await watched.changes.aclose()


async def test_where_notices_cannot_be_had_the_files_are_looked_at_anyway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*_: object, **__: object) -> AsyncGenerator[set[watchfiles.main.FileChange]]:
        raise OSError("OS file watch limit reached.")
        yield set()

    monkeypatch.setattr(watch_module, "awatch", refused)
    monkeypatch.setattr(watch_module, "_POLL_S", 0.01)
    watched = Watched(tmp_path)
    with capture_logs() as logs:
        watched.write("config.jsonc")
        assert await watched.told() == {"config.jsonc"}
        watched.write("config.jsonc", "new")
        assert await watched.told() == {"config.jsonc"}
    await watched.changes.aclose()
    assert [(entry["event"], entry["reason"]) for entry in logs] == [("watch_polls", "OS file watch limit reached.")]


async def test_looking_at_nothing_finds_nothing(tmp_path: Path) -> None:
    assert look(tmp_path / "none") == {}
