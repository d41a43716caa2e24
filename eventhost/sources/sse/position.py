"""How far a stream was taken outlives the host: written only after the events up to there were accepted."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

import anyio
import msgspec

from eventhost.sources.sse.names import client_log as log

FILE: Final = "sse.json"

EVERY_S: Final = 1.0
"""It is written at most this often: what comes again after a crash is known by its id."""


class _Written(msgspec.Struct, rename="camel"):
    url: str
    last_event_id: str
    at_ms: int


class Position:
    """Where to resume one endpoint, in a folder for its state.

    What is not there, cannot be read, or was another endpoint's, is no position. That a crash may undo the last writes
    is harmless: what comes again then is recognized as a duplicate.
    """

    def __init__(self, folder: Path, url: str) -> None:
        """`url` as it is configured, with references to secrets in it."""
        self.last_id = ""
        self.at_ms: int | None = None
        """When the endpoint was last heard, in milliseconds since the epoch; None: never."""
        self._path, self._url, self._moved = folder / FILE, url, anyio.Event()
        try:
            written = msgspec.json.decode(self._path.read_bytes(), type=_Written)
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("sse_position_unusable", file=str(self._path), error=str(error))
            return
        if written.url == url:
            self.last_id, self.at_ms = written.last_event_id, written.at_ms

    def reached(self, last_id: str, at_ms: int) -> None:
        """All that was heard until then, and up to the event with this id, was accepted; `keep` writes it soon."""
        self.last_id, self.at_ms = last_id, at_ms
        self._moved.set()

    async def keep(self) -> None:
        """Write what was reached, until cancelled; a disk that is slow holds up no event."""
        while True:
            await self._moved.wait()
            self._moved = anyio.Event()
            await anyio.to_thread.run_sync(self.write)
            await anyio.sleep(EVERY_S)

    def write(self) -> None:
        """Write it now. A disk that is full stops no event."""
        if self.at_ms is None:
            return
        text = msgspec.json.encode(_Written(self._url, self.last_id, self.at_ms))
        try:
            handle, draft = tempfile.mkstemp(dir=self._path.parent, prefix=f".{FILE}-")
            try:
                with open(handle, "wb") as opened:
                    opened.write(text)
                os.replace(draft, self._path)
            except BaseException:
                os.unlink(draft)
                raise
        except OSError as error:
            log.warning("sse_position_not_written", file=str(self._path), error=str(error))
