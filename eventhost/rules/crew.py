"""`Crew`: tasks that stay for the next piece of work: to make one takes longer than most of what is to be done."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import anyio.abc
import anyio.lowlevel

Work = Callable[[], Awaitable[object]]

_COMING: Final = 2
"""So many are called at once; each of them calls as many if there is more to do than it can."""

_MOST_IDLE: Final = 64
_YIELD_EVERY: Final = 256


class Crew:
    """Does pieces of work, each of them at once, as a task group does: one that waits holds up no other.

    They begin in the order in which they were given. What one raises ends the task group.
    """

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self._tasks = tasks
        self._work: deque[Work] = deque()
        self._idle: list[anyio.Event] = []
        self._coming = 0
        """How many were called, and are not there yet."""

    def start_soon(self, work: Work) -> None:
        """Have this done."""
        self._work.append(work)
        self._call()

    def _call(self) -> None:
        while self._coming < min(len(self._work), _COMING):
            self._coming += 1
            if self._idle:
                self._idle.pop().set()
            else:
                self._tasks.start_soon(self._serve)

    async def _serve(self) -> None:
        done = 0
        while True:
            self._coming -= 1
            while self._work:
                work = self._work.popleft()
                self._call()  # this one may have to wait for something
                await work()
                done += 1
                # Some actions never suspend; without this much work would keep the loop to itself.
                if done % _YIELD_EVERY == 0:
                    await anyio.lowlevel.checkpoint()
            if len(self._idle) >= _MOST_IDLE:
                return
            called = anyio.Event()
            self._idle.append(called)
            await called.wait()
