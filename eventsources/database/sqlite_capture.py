"""Looks at an SQLite file whenever somebody has written to it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from options import Sqlite
from sqlite_compared import Compared
from sqlite_file import File
from sqlite_growing import Growing
from telling import Tell

from eventhost.kit.bookmark import Bookmark
from eventhost.kit.upstream import Unavailable, Upstream


class Capture:
    """The changes of one file."""

    def __init__(self, options: Sqlite, bookmark: Bookmark, folder: Path, tell: Tell, upstream: Upstream) -> None:
        self._options = options
        self._upstream = upstream
        self._growing = Growing(options, bookmark, tell, upstream)
        self._compared = Compared(options, folder, tell, upstream)

    async def session(self) -> None:
        """Open the file, and tell until it is no longer there.

        Raises:
            Unavailable: it is not there, or cannot be read.
        """
        file = await asyncio.to_thread(File, self._options.path)
        try:
            # Once before `connected`: what is wrong with a table shows here.
            version = await asyncio.to_thread(file.version)
            await self.look(file)
            self._upstream.connected(f"looking every {self._options.interval_s:g} s")
            while True:
                await asyncio.sleep(self._options.interval_s)
                if await asyncio.to_thread(file.replaced):
                    raise Unavailable("another file has taken its place")
                now = await asyncio.to_thread(file.version)
                if now != version:
                    # Taken before the look: what is written meanwhile is a reason for the next one.
                    version = now
                    await self.look(file)
        finally:
            file.close()

    async def look(self, file: File) -> None:
        """Tell what is new."""
        await self._growing.look(file)
        await self._compared.look(file)

    def close(self) -> None:
        """Close what is kept open between sessions."""
        self._compared.close()
