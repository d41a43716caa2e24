"""What an event source's author imports: `EventSource`, `Event` and `sleep`. Light: a source takes less than 15 MB.

`sleep` is `asyncio.sleep`, so that a small source need not import `asyncio` first; see `deferred.py` for what that
saves.
"""

from __future__ import annotations

from eventhost.kit.deferred import import_asyncio_lightly

import_asyncio_lightly()

from asyncio import sleep  # noqa: E402

from eventhost.kit.event import Event  # noqa: E402
from eventhost.kit.source import EventSource  # noqa: E402

__all__ = ["Event", "EventSource", "sleep"]
