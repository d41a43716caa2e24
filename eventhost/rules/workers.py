"""`Workers`: a rule's runs are done so many at a time; one that waits for another attempt makes room for the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import anyio.abc
import anyio.lowlevel

from eventhost.rules.crew import Crew
from eventhost.rules.owed import Owed
from eventhost.rules.run import Run

_YIELD_EVERY: Final = 16
_MAX_PARKED: Final = 1_000
"""So many runs may wait for another attempt without taking a place from the others."""


class Workers:
    """Does what is owed, in order, `concurrency` at a time. Lives only while there is work.

    What a host may have died of is done alone, lest others are counted among what it died of.

    With a concurrency of 1 a run that waits for another attempt keeps its place: those behind it must wait for it.
    """

    def __init__(
        self,
        owed: Owed,
        concurrency: int,
        parks: Callable[[], bool],
        deliver: Callable[[Run], Awaitable[None]],
        tasks: anyio.abc.TaskGroup | Crew,
        on_idle: Callable[[], None],
    ) -> None:
        """`deliver` never raises for what an action does, and takes the run out of what is owed.

        `parks` tells whether a run that waits for another attempt makes room for the next.
        """
        self._owed, self._parks, self._deliver = owed, parks, deliver
        self.concurrency = concurrency
        self._tasks, self._on_idle = tasks, on_idle
        self._places = 0
        """How many are taken."""
        self.pausing = 0
        """How many runs wait for another attempt."""
        self._parked = 0
        self._back: deque[anyio.Event] = deque()
        """Those whose pause is over, and who wait for a place."""

    @property
    def idle(self) -> bool:
        """Nothing is going on, and nothing will but what waits for another attempt."""
        return len(self._owed.running) == self.pausing and (not self._owed.waiting or self.pausing > 0)

    def staff(self) -> None:
        """See to it that what waits is done."""
        if waiting := len(self._owed.waiting):
            for _ in range(min(self._most - self._places, waiting)):
                self._places += 1
                self._tasks.start_soon(self._work)

    @property
    def _most(self) -> int:
        return 1 if self._owed.accused else self.concurrency

    async def _work(self) -> None:
        done = 0
        while self._owed.waiting and self._places <= self._most and not self._back:
            await self._deliver(self._owed.take())
            done += 1
            # Some actions never suspend; without this a long queue would keep the loop to itself.
            if done % _YIELD_EVERY == 0:
                await anyio.lowlevel.checkpoint()
        # Not when it is cancelled: nothing more is to be begun then, least of all out of order.
        self._leave()

    def _leave(self) -> None:
        """Give a place up, to whoever is back from a pause first."""
        if self._back and self._places <= self._most:
            self._back.popleft().set()
        else:
            self._places -= 1
            self.staff()

    async def pause(self, delay_s: float) -> None:
        """Wait for another attempt at a run that is being delivered."""
        parks = self._parks() and self._parked < _MAX_PARKED
        self.pausing += 1
        if parks:
            self._parked += 1
            self._leave()
        if self.idle:
            self._on_idle()
        try:
            await anyio.sleep(delay_s)
        finally:
            self.pausing -= 1
            self._parked -= parks
        if not parks:
            return
        if self._places < self._most:
            self._places += 1
        else:
            place = anyio.Event()
            self._back.append(place)
            await place.wait()
