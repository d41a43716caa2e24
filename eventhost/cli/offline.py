"""An environment without its host: its configuration, rules and journal, to read or, while no host runs, to write."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import TYPE_CHECKING

from eventhost.errors import EventhostError, JournalUnusable

if TYPE_CHECKING:
    from eventhost.config import EnvironmentConfig
    from eventhost.journal import SqliteJournal
    from eventhost.journal.file import JournalFile
    from eventhost.rules import RuleSet


def read_environment(root: Path) -> tuple[EnvironmentConfig, RuleSet]:
    """The configuration in a folder, and its rules; of a file that cannot be used, none.

    Raises:
        ConfigError: it cannot be used.
    """
    from eventhost.config import load_environment
    from eventhost.rules import read_rules

    config = load_environment(root)
    return config, read_rules(config)


def readable_journal(config: EnvironmentConfig) -> JournalFile:
    """The journal of an environment, to be read.

    Raises:
        JournalUnusable: it has none that can be read.
    """
    from eventhost.journal.file import JournalFile

    if config.journal.type == "memory":
        raise JournalUnusable("this environment keeps its journal in memory: it is there only while the host runs")
    return JournalFile(config.root / config.journal.path)


def journal_file(root: Path) -> Path | None:
    """Where the environment in `root` keeps its journal; None when that lives in the host's memory.

    Raises:
        ConfigError: its configuration cannot be used.
    """
    from eventhost.config import load_environment

    config = load_environment(root).journal
    return None if config.type == "memory" else root / config.path


def existing_journal(root: Path) -> Path:
    """Where the environment in `root` keeps its journal, which may not be there yet.

    Raises:
        ConfigError: its configuration cannot be used.
        EventhostError: it is in memory, so that only a running host has it.
    """
    path = journal_file(root)
    if path is None:
        raise EventhostError("this environment's journal is in memory only; set journal.type to sqlite to keep it")
    return path


@asynccontextmanager
async def journal_to_write(path: Path) -> AsyncIterator[SqliteJournal]:
    """The journal at `path`, to be written while no host runs.

    Raises:
        HostRunning: a host uses it.
        JournalUnusable: it cannot be written, or has something to say to the next host first.
    """
    import anyio.to_thread

    from eventhost.journal import open_journal

    await anyio.to_thread.run_sync(_make_sure, path)
    journal, _ = await open_journal(path)
    try:
        yield journal
    finally:
        await journal.aclose()


def _make_sure(path: Path) -> None:
    # To close it properly would hide from the next host that the last one did not, and what was lost.
    from eventhost.journal import rows
    from eventhost.journal.lock import Lock
    from eventhost.journal.salvage import find_damage, untold
    from eventhost.journal.schema import connect_to_read

    lock = Lock(path)
    try:
        damage = find_damage(path, lock)
        if damage is None and path.is_file() and path.stat().st_size:
            with closing(connect_to_read(path)) as database:
                crashed = not rows.mark(database).clean
            if crashed or untold(path) is not None:
                damage = "the host that used it last did not end properly"
    finally:
        lock.release()
    if damage is not None:
        raise JournalUnusable(f"{path}: {damage}; start the host, which sees to that, and do this then")
