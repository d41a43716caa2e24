"""`Owed`: the runs that a rule has not finished, in order, and what must be written so that none is forgotten."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from eventhost.journal import Pending
from eventhost.rules.run import Run


class Held:
    """How long the JSON of the events is that all rules' runs keep in memory, in bytes."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0


class Owed:
    """Runs that wait, and runs that are being done. `by_number`: they come in the order of their numbers."""

    def __init__(self, rule: str, held: Held | None = None) -> None:
        """`held` counts what this one and others hold."""
        self._rule = rule
        self._held = held or Held()
        self.bytes = 0
        """How much of it is this one's."""
        self.waiting: deque[Run] = deque()
        self.running: dict[int, Run] = {}
        self.done_to = 0
        """The highest number of what was finished, or given up."""
        self.written: set[int] = set()
        """Numbers of those that the journal has as pending."""
        self.accused: set[int] = set()
        """Numbers of those that a host may have died of."""
        self._restored: set[int] = set()
        self._repeated: set[int] = set()
        self._to_write: dict[int, Run] = {}
        self._ended: list[int] = []

    def __len__(self) -> int:
        return len(self.waiting) + len(self.running)

    def __iter__(self) -> Iterator[Run]:
        yield from self.running.values()
        yield from self.waiting

    def add(self, run: Run) -> None:
        """Let a run wait for its turn."""
        self.waiting.append(run)
        self._weigh(run.size)

    def _weigh(self, size: int) -> None:
        self.bytes += size
        self._held.bytes += size

    def restore(self, runs: Iterable[Run]) -> None:
        """Take up what the journal has as pending."""
        for run in runs:
            self.add(run)
            self.written.add(run.seq)
            self._restored.add(run.seq)
            if run.attempts:
                self.accused.add(run.seq)

    def repeat(self, run: Run) -> None:
        """Let a dead letter's run be done once more; the letter is what is written of it."""
        self.add(run)
        self.written.add(run.seq)
        self._repeated.add(run.seq)

    def owes(self, seq: int) -> bool:
        """Whether a run of this number waits, or is being done."""
        return seq in self.running or any(run.seq == seq for run in self.waiting)

    def has(self, seq: int) -> bool:
        """Whether a run of this number was written down when the host started, be it done by now or not.

        So is one that is being repeated at this moment.
        """
        return seq in self._restored or seq in self._repeated

    def take(self) -> Run:
        """The next run, to be done now."""
        run = self.waiting.popleft()
        self.running[run.seq] = run
        return run

    def finish(self, run: Run) -> None:
        """The run is done."""
        seq = run.seq
        del self.running[seq]
        self._weigh(-run.size)
        if seq > self.done_to:
            self.done_to = seq
        self._forget(seq)

    def keep(self, run: Run) -> None:
        """Have the run written down as it is now, attempts and all."""
        self.running[run.seq] = run
        self._to_write[run.seq] = run

    def drop(self, run: Run) -> None:
        """A run that waits is not to be done."""
        self.waiting.remove(run)
        self._weigh(-run.size)
        self.done_to = max(self.done_to, run.seq)
        self._forget(run.seq)

    def discard(self) -> int:
        """Forget what waits; return how many that were."""
        count = len(self.waiting)
        for run in self.waiting:
            self._weigh(-run.size)
            self._forget(run.seq)
        self.waiting.clear()
        return count

    def end(self, seq: int) -> None:
        """Let the journal forget a pending run that cannot be taken up."""
        self._ended.append(seq)

    def _forget(self, seq: int) -> None:
        if seq in self.written:
            self.written.discard(seq)
            self.accused.discard(seq)
            self._repeated.discard(seq)
            self._ended.append(seq)
        if self._to_write:
            self._to_write.pop(seq, None)

    @property
    def first(self) -> int | None:
        """The lowest number that is owed, and neither written down nor about to be."""
        return min(self._loose(), default=None)

    def place(self, otherwise: int) -> int:
        """Up to where everything is done or, from now on, written down; `otherwise`, if nothing else is owed."""
        for run in self.running.values():
            if run.seq < self.done_to and run.seq not in self.written:
                self._to_write[run.seq] = run
        return min(self._loose(), default=otherwise + 1) - 1

    def _loose(self) -> list[int]:
        """The lowest numbers among those that only matching again would bring back."""
        written, to_write = self.written, self._to_write
        loose = [seq for seq in self.running if seq not in written and seq not in to_write]
        for run in self.waiting:
            if run.seq not in written and run.seq not in to_write:
                loose.append(run.seq)
                break
        return loose

    def write_all(self) -> None:
        """Have everything that is owed written down."""
        for run in self:
            if run.seq not in self.written:
                self._to_write[run.seq] = run

    def rows(self) -> tuple[list[Pending], list[tuple[str, int]]]:
        """What is to be written now, and what is to be deleted. They count as written from now on."""
        pending = [
            Pending(
                self._rule, run.seq, tuple(entry.seq for entry in run.entries), run.born_ms, run.attempts, run.left_out
            )
            for run in self._to_write.values()
        ]
        self.written.update(self._to_write)
        ended = [(self._rule, seq) for seq in self._ended]
        self._to_write, self._ended = {}, []
        return pending, ended
