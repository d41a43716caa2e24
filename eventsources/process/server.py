"""The process source: lines of commands and log files, and entries of systemd's journal, as events; see README.md."""

from __future__ import annotations

import asyncio

from commands import Runner
from files import Tail
from journals import Reader
from options import Command, Files, Journal, Wanted, wanted

from eventhost.errors import ConfigError, cause_of
from eventhost.kit import EventSource
from eventhost.kit.bookmark import Bookmark
from eventhost.kit.upstream import Unavailable

source = EventSource(
    "process",
    ["process.*", "file.line", "journal.entry"],
    description="Lines of commands, of log files, and entries of systemd's journal as events",
)


@source.task
async def watch_all() -> None:
    """Run, follow and read all that the configuration names; what one lacks is no other's harm."""
    found = wanted(source.options)
    try:
        async with asyncio.TaskGroup() as tasks:
            for one in found:
                tasks.create_task(_keep_up(one))
    except BaseExceptionGroup as errors:
        raise cause_of(errors) from None


async def _keep_up(one: Wanted) -> None:
    upstream = source.upstream(one.name)
    match one:
        case Command():
            await Runner(one, source.emit_all, upstream).run()
        case Files():
            await upstream.stay(Tail(one, lambda: _bookmark("files", one), source.emit_all, upstream).session)
        case Journal():
            await upstream.stay(Reader(one, lambda: _bookmark("journal", one), source.emit_all, upstream).session)


def _bookmark(kind: str, one: Wanted) -> Bookmark:
    """Where this entry was; one that is damaged is this entry's own trouble."""
    try:
        return source.bookmark(f"{kind}-{one.name}")
    except ConfigError as error:
        raise Unavailable(str(error)) from None


if __name__ == "__main__":
    source.run()
