"""`Bell`: wakes whoever waits at this moment; ringing it while nobody does costs nothing."""

from __future__ import annotations

import anyio


class Bell:
    """Wakes those who wait. Who comes later waits for the next ringing."""

    __slots__ = ("_rung",)

    def __init__(self) -> None:
        self._rung: anyio.Event | None = None

    def ring(self) -> None:
        """Wake all who wait now."""
        if self._rung is not None:
            self._rung.set()
            self._rung = None

    async def wait(self) -> None:
        """Wait for the next ringing."""
        if self._rung is None:
            self._rung = anyio.Event()
        await self._rung.wait()
