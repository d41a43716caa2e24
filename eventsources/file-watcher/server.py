"""The file watcher: files that come, change and go become events; see README.md."""

from __future__ import annotations

import asyncio

from seen import Seen
from snapshot import CHANGED, CREATED, DELETED, Change
from watching import Options, watch

from eventhost.errors import ConfigError, EventRejected, Problem
from eventhost.kit import EventSource

source = EventSource("file-watcher", [CREATED, CHANGED, DELETED], description="Changes of files as events")


async def emit(change: Change, event_id: str) -> None:
    """Emit, and go on when the host wants no such event: it counts and shows what it rejected."""
    try:
        await source.emit(change.type, change.payload, id=event_id)
    except EventRejected as error:
        source.log("warning", str(error))


@source.task
async def watch_all() -> None:
    """Watch every path that the configuration names."""
    try:
        options = Options.from_config(source.options)
    except ValueError as error:
        raise ConfigError([Problem("config.jsonc", str(error))]) from None
    state = source.state_dir
    seen = [await asyncio.to_thread(Seen, watched, state) for watched in options.watched]
    for stale in set(state.glob("seen-*.json")) - {one.file for one in seen}:
        stale.unlink()
    async with asyncio.TaskGroup() as tasks:
        for watched, one in zip(options.watched, seen, strict=True):
            tasks.create_task(watch(watched, one, options.quiet_ms, emit, source.log))


if __name__ == "__main__":
    source.run()
