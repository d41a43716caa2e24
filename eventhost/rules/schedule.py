"""`Schedule`: which queue has something to do next, without asking them all."""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from typing import Generic, Protocol, TypeVar


class Due(Protocol):
    """Knows when it has something to do."""

    @property
    def due_ms(self) -> int | None: ...


Item = TypeVar("Item", bound=Due)


class Schedule(Generic[Item]):
    """Items by the time at which they are due. One whose time has become later is found out only when it comes up."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Item]] = []
        self._times: dict[Item, int] = {}
        self._numbers = count()

    def note(self, item: Item) -> bool:
        """Heed that the item's time may have changed; return whether something is due earlier than anything before."""
        due_ms = item.due_ms
        if due_ms is None or self._times.get(item, due_ms + 1) <= due_ms:
            return False
        first = self.next_ms
        self._times[item] = due_ms
        heappush(self._heap, (due_ms, next(self._numbers), item))
        return first is None or due_ms < first

    @property
    def next_ms(self) -> int | None:
        """The earliest time at which an item may be due; None when none is."""
        return self._heap[0][0] if self._heap else None

    def take(self, now_ms: int) -> list[Item]:
        """The items that are due by `now_ms`, earliest first. Each must be noted again afterwards."""
        due: list[Item] = []
        while self._heap and self._heap[0][0] <= now_ms:
            at_ms, _, item = heappop(self._heap)
            if self._times.get(item) != at_ms:
                continue  # it was noted anew with an earlier time since
            del self._times[item]
            item_due_ms = item.due_ms
            if item_due_ms is not None and item_due_ms <= now_ms:
                due.append(item)
            else:
                self.note(item)
        return due

    def forget(self, item: Item) -> None:
        """Let the item be due no more."""
        self._times.pop(item, None)
