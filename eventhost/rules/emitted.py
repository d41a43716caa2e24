"""What a rule emits is in the journal once, however often the run that emits it is done.

The id of such an event derives from its delivery: of two with one id the first counts, be it that a further attempt, or
another host after a crash, would have it say something else.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from eventhost.actions import RULES
from eventhost.event import EnvEvent
from eventhost.journal import Change, Entry, Journal

EMITTED_IDS: Final = 20_000
EMITTED_S: Final = 3600.0


class Emitted:
    """Publishes for the actions of all rules, and knows the ids of what they emitted: two generations, each bounded.

    At least those of the last `EMITTED_S` seconds are known, or the last `EMITTED_IDS`, whichever are fewer.
    """

    def __init__(
        self,
        publish: Callable[[EnvEvent], Awaitable[int]],
        journal: Journal,
        recalled: Callable[[], Awaitable[object]],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`recalled` returns once what hosts before this one emitted was told to `recall`."""
        self._publish, self._journal, self._recalled, self._monotonic = publish, journal, recalled, monotonic
        self._young: dict[str, int | None] = {}
        """The number that each id got; None while that is not known."""
        self._old: dict[str, int | None] = {}
        self._young_since = monotonic()
        self.repeated = 0
        """How many were not published, since they had been before."""

    def recall(self, entries: Iterable[Entry]) -> None:
        """Know again what was emitted before the host started; newest first."""
        for entry in entries:
            if entry.event.metadata.get("source_name") == RULES:
                self._old[entry.event.id] = entry.seq  # of two that are there already, the older counts

    async def publish(self, event: EnvEvent) -> int | None:
        """Publish what an action has to say, unless it was published before; return its sequence number, if known.

        Returns once the journal has it, in any case.

        Raises:
            BusClosed: the host is stopping; it was not accepted.
        """
        if event.metadata.get("source_name") != RULES:
            return await self._publish(event)
        await self._recalled()
        self._forget_old()
        if event.id in self._young or event.id in self._old:
            self.repeated += 1
            seq = self._young.get(event.id) or self._old.get(event.id)
            if seq is None:
                # It is on its way: the attempt that sent it was given up. What is saved now is kept after it.
                await self._journal.save(Change())
            return seq
        self._young[event.id] = None
        try:
            seq = self._young[event.id] = await self._publish(event)
        except Exception:
            # Not when cancelled: what was handed to the journal is kept, whether or not somebody waits for it.
            self._young.pop(event.id, None)
            raise
        return seq

    def _forget_old(self) -> None:
        now = self._monotonic()
        past = now - self._young_since
        if past >= EMITTED_S or len(self._young) >= EMITTED_IDS:
            self._old = self._young if past < 2 * EMITTED_S else {}
            self._young, self._young_since = {}, now
