"""The connections that read: several, so that one who reads much delays neither the writer nor the next reader."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Final, TypeVar

import anyio
import anyio.to_thread

T = TypeVar("T")

_READERS: Final = 3


class Readers:
    """Connections that are opened when they are needed, and each used by one at a time."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._idle: list[sqlite3.Connection] = []
        self._limiter = anyio.CapacityLimiter(_READERS)

    async def ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """What `question` answers, in a thread; waits while as many as there are connections are being asked.

        Raises:
            sqlite3.DatabaseError: the file is damaged, or cannot be read.
        """
        return await anyio.to_thread.run_sync(self._answer, question, limiter=self._limiter)

    async def aclose(self) -> None:
        """Let go of the file, as soon as nobody is reading."""
        for _ in range(_READERS):
            await self._limiter.acquire_on_behalf_of(object())
        for database in self._idle:
            database.close()

    def _answer(self, question: Callable[[sqlite3.Connection], T]) -> T:
        database = self._idle.pop() if self._idle else self._connect()
        try:
            return question(database)
        finally:
            self._idle.append(database)
