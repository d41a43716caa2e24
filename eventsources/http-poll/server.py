"""The HTTP poll source: what is new, changed or deleted at any JSON, RSS or Atom URL; see README.md."""

from __future__ import annotations

import asyncio
from typing import Final

from fetching import Fetcher, http_client
from options import pages
from polling import Poll

from eventhost.kit import EventSource
from eventhost.kit.upstream import first_to_end

AT_ONCE: Final = 2
"""How many answers are read and compared at once: each takes several times its size. Asking has no such bound."""

source = EventSource("http-poll", ["http.*"], description="What is new at JSON, RSS and Atom URLs, as events")


@source.task
async def poll_all() -> None:
    """Look at every URL that the configuration names."""
    found = pages(source.options)
    reading = asyncio.Semaphore(AT_ONCE)
    async with http_client() as client:
        fetcher = Fetcher(client, source.log)
        polls = [
            Poll(page, source.state_dir, fetcher.fetch, source.emit_all, source.upstream(page.name), reading)
            for page in found
        ]
        await first_to_end(*(poll.run() for poll in polls))


if __name__ == "__main__":
    source.run()
