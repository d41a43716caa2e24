"""`Records`: what one change of the journal's delivery records will say, as it is gathered from rule to rule."""

from __future__ import annotations

from eventhost.journal import Change, DeadLetter, Pending, Position, Trace


class Records:
    """Lists to add to; `change` makes of them what the journal takes."""

    __slots__ = ("buried", "dead", "ended", "gone", "pending", "positions", "traces")

    def __init__(self) -> None:
        self.pending: list[Pending] = []
        self.ended: list[tuple[str, int]] = []
        self.dead: list[DeadLetter] = []
        self.buried: list[int] = []
        self.positions: list[Position] = []
        self.gone: list[str] = []
        self.traces: list[Trace] = []

    def change(self, low: int) -> Change:
        """All of it, and that nothing is owed up to `low` but what is said here."""
        return Change(low, self.pending, self.ended, self.dead, self.buried, self.positions, self.gone, self.traces)
