"""`Start`: from which event on a rule that no host has seen before looks at the journal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from eventhost.config.durations import seconds
from eventhost.config.tree import Tree
from eventhost.errors import ConfigError
from eventhost.journal import Journal
from eventhost.journal.moment import time_ms

_MEND: Final = (
    'write "now", "beginning", an event\'s number, a time such as "2026-11-20T08:00:00Z" (without a zone it is the '
    'host\'s own), or "7d" for seven days ago'
)


@dataclass(frozen=True, slots=True)
class Start:
    """From now on, unless it says a number, a time in milliseconds, or how long ago."""

    seq: int | None = None
    at_ms: int | None = None
    ago_s: float | None = None

    async def find(self, journal: Journal) -> int:
        """The number of the last event that is left out."""
        if self.seq is not None:
            return min(max(self.seq, journal.first) - 1, journal.head)
        if self.at_ms is not None:
            return await journal.seq_at(self.at_ms) - 1
        if self.ago_s is not None:
            return await journal.seq_at(await journal.clock() - int(self.ago_s * 1000)) - 1
        return journal.head


def parse_start(tree: Tree) -> Start:
    """What a rule's `from` says.

    Raises:
        ConfigError: it says nothing of the kind.
    """
    value = tree.value
    if value in (None, "now"):
        return Start()
    if value == "beginning":
        return Start(seq=0)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return Start(seq=value)
    if isinstance(value, str):
        if value.isascii() and value.isdigit():
            return Start(seq=int(value))
        try:
            return Start(ago_s=seconds(value))
        except ValueError:
            pass
        try:
            return Start(at_ms=time_ms(value))
        except ValueError:
            pass
    raise ConfigError([tree.problem("expected where to start", mend=_MEND)])
