"""`Ledger`: writes down what the rules still owe, with the commits of the events, and never more than that.

A match is not written down. What is: one mark below which nothing is owed, the place of each rule that is not there,
and the runs below a rule's own place that are not done. Whoever starts next matches again from the mark.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import anyio
import structlog

from eventhost.errors import BusClosed
from eventhost.journal import Change, Journal, Position
from eventhost.rules.queue import RuleQueue
from eventhost.rules.records import Records

log = structlog.get_logger()

EVERY_S: Final = 0.01
"""How long what is done may stay unwritten: what a host that dies would do once more."""

_SHARE: Final = 20
"""Writing takes at most this part of the time."""

FAR: Final = 20_000
"""A rule that owes an event so far behind gets a place of its own, lest the next start has to match all since."""


class Ledger:
    """The records of all rules of one engine; `matched` tells how far the matcher is."""

    def __init__(self, journal: Journal, matched: Callable[[], int], low: int) -> None:
        self._journal, self._matched = journal, matched
        self.low = low
        """Nothing is owed up to here by any rule that has no place of its own."""
        self._dirty: set[RuleQueue] = set()
        self._owing: set[RuleQueue] = set()
        self._gone: list[str] = []
        self._placed: list[Position] = []
        self._changed = anyio.Event()
        self._writing = anyio.Lock()
        self._begun = self._saved = 0
        """Changes are numbered: the last that was gathered, and the last that was saved."""

    def note(self, queue: RuleQueue) -> None:
        """Something about this queue is to be written."""
        if queue not in self._dirty:
            self._dirty.add(queue)
            self._owing.add(queue)
            self._changed.set()

    def owing(self) -> int:
        """How many rules owed something lately."""
        return len(self._owing)

    def forget(self, name: str, queue: RuleQueue | None = None) -> None:
        """Let a rule's records go: it is no more."""
        if queue is not None:
            self._dirty.discard(queue)
            self._owing.discard(queue)
        self._gone.append(name)
        self._changed.set()

    def place(self, position: Position) -> None:
        """Let a rule that is new begin there."""
        self._placed.append(position)
        self._changed.set()

    def moved(self) -> None:
        """The matcher went on."""
        self._changed.set()

    async def keep(self) -> None:
        """Write whenever there is something to write, until the journal is closed."""
        try:
            while True:
                await self._changed.wait()
                self._changed = anyio.Event()
                begun = anyio.current_time()
                await self.write()
                await anyio.sleep(max(EVERY_S, (anyio.current_time() - begun) * _SHARE))
        except BusClosed as error:
            log.error("records_not_kept", error=str(error))

    async def write(self, *, whole: bool = False) -> None:
        """Write what there is to write; return once it is as durable as events. `whole`: shaping, too, to the last.

        Raises:
            BusClosed: the journal takes no more; what is done since the last time will be done once more.
        """
        asked = self._begun
        async with self._writing:
            if self._saved > asked and not whole:
                return  # what was gathered since this was asked for had it too
            self._begun += 1
            await self._journal.save(self._gather(whole))
            self._saved = self._begun

    def _gather(self, whole: bool) -> Change:
        records, matched, low = Records(), self._matched(), self._matched()
        dirty, self._dirty = self._dirty, set()
        records.gone, self._gone = self._gone, []
        records.positions, self._placed = self._placed, []
        for queue in dirty:
            queue.snapshot(whole=whole)
        for queue in [*self._owing]:
            owed = queue.owed_from
            far = owed is not None and owed <= matched - FAR
            # The mark may have gone past what a rule owes that lagged until now: it never goes back.
            apart = not queue.follows or far or (owed is not None and owed <= self.low)
            if apart != queue.apart:
                queue.apart = apart
                dirty.add(queue)
            if owed is None:
                self._owing.discard(queue)
            elif queue.unwritten or (queue.follows and not far):
                low = min(low, owed - 1)
        self.low = max(self.low, low)
        for queue in dirty:
            queue.write(records, self.low)
            if queue.unwritten:
                self.note(queue)
        return records.change(self.low)
