"""A small host in the benchmark's own process: real children, real connections, the real bus."""

from __future__ import annotations

import gc
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio

from eventhost.bus import EnvEventBus
from eventhost.cli.daemon import GC_THRESHOLDS
from eventhost.config import ServerConfig, ServerKind, SourceConfig
from eventhost.connections import ConnectionPool, Guardian, Surroundings
from eventhost.journal import Journal, MemoryJournal
from eventhost.sources import EventMcpManager

CHILDREN = Path(__file__).parent / "children"

T = TypeVar("T")


def run_as_daemon(function: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run as the daemon does: on uvloop, with the garbage collector told to look at many objects at once."""
    gc.set_threshold(*GC_THRESHOLDS)
    return anyio.run(function, backend_options={"use_uvloop": True})


def child(name: str, script: str, *arguments: str) -> SourceConfig:
    """A source that runs one of `children/`."""
    command = (sys.executable, str(CHILDREN / script), *arguments)
    return SourceConfig(name, ServerConfig(name, ServerKind.STDIO, CHILDREN, "", command=command))


@asynccontextmanager
async def hosting(journal: Journal | None = None) -> AsyncIterator[tuple[EventMcpManager, EnvEventBus]]:
    """A manager of sources, and the bus on which they publish; in memory, unless a journal is given."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        surroundings = Surroundings(Guardian(root / "guardian.lock"), root, lambda value: value)
        async with ConnectionPool(surroundings) as pool, EnvEventBus(journal or MemoryJournal()) as bus:
            yield EventMcpManager(pool, bus.publish_batch), bus
