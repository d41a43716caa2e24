"""`Turn`: what a host may have died of is done one after the other, whatever the rules: none is taken for another."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import anyio

LONGEST_S: Final = 60.0
"""So long a run waits for its turn: an endpoint that does not answer must not hold up other rules for ever."""


class Turn:
    """One turn, for the runs of all rules."""

    def __init__(self) -> None:
        self._lock = anyio.Lock()

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Have the turn, or, once that has taken `LONGEST_S`, go on without."""
        has = False
        with anyio.move_on_after(LONGEST_S):
            await self._lock.acquire()
            has = True
        try:
            yield
        finally:
            if has:
                self._lock.release()
