"""`Allowance` and `Digest`: what an agent may use in an hour, and what gathers into one run while it may not."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from eventhost.journal import Entry
from eventhost.rules.shaping.verdict import Verdict
from eventhost.rules.shaping.window import Tell, size_of

HOUR_MS: Final = 3_600_000
MINUTE_MS: Final = 60_000


class Allowance:
    """At most so many runs within any hour, and none while the tokens of the last hour are used up.

    Tokens are counted by the minute: those of a minute count until an hour after its end.
    """

    def __init__(self, runs_per_hour: int | None, tokens_per_hour: int | None) -> None:
        self._runs = deque[int](maxlen=runs_per_hour if runs_per_hour is not None else 0)
        self._run_limit, self._token_limit = runs_per_hour, tokens_per_hour
        self._minutes: deque[list[int]] = deque()
        """Number of the minute, and its tokens."""
        self._tokens = 0

    @property
    def free_ms(self) -> int:
        """From when on a run is allowed; 0 if nothing is against it."""
        free_ms = 0
        if self._run_limit is not None and len(self._runs) >= self._run_limit:
            free_ms = self._runs[0] + HOUR_MS
        if self._token_limit is not None and (left := self._tokens) >= self._token_limit:
            for minute, tokens in self._minutes:
                left -= tokens
                if left < self._token_limit:
                    return max(free_ms, (minute + 1) * MINUTE_MS + HOUR_MS)
        return free_ms

    def run(self, at_ms: int) -> None:
        """A run begins."""
        self._runs.append(at_ms)

    def spend(self, tokens: int, at_ms: int) -> None:
        """So many tokens were used."""
        if self._token_limit is None or tokens <= 0:
            return
        minute, minutes = at_ms // MINUTE_MS, self._minutes
        while minutes and (minutes[0][0] + 1) * MINUTE_MS + HOUR_MS <= at_ms:
            self._tokens -= minutes.popleft()[1]
        if minutes and minutes[-1][0] >= minute:
            minutes[-1][1] += tokens
        else:
            minutes.append([minute, tokens])
        self._tokens += tokens

    def dump(self) -> dict[str, Any]:
        """The state as JSON."""
        return {"runs": list(self._runs), "minutes": [list(minute) for minute in self._minutes]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what `dump` gave."""
        self._runs.extend(state["runs"])
        self._minutes = deque(list(minute) for minute in state["minutes"])
        self._tokens = sum(tokens for _, tokens in self._minutes)


class Digest:
    """Events that will be in one run. Without room the oldest are left out, and counted; the newest always stays."""

    def __init__(self, max_events: int, max_bytes: int, tell: Tell) -> None:
        self._max_events, self._max_bytes, self._tell = max_events, max_bytes, tell
        self._held: deque[tuple[Entry, int]] = deque()
        self._bytes = 0
        self.left_out = 0

    def __len__(self) -> int:
        return len(self._held)

    def entries(self) -> Iterator[Entry]:
        """The events that are held."""
        return (entry for entry, _ in self._held)

    def add(self, entries: Iterable[Entry], left_out: int = 0) -> None:
        """Hold further events, and take it that so many were left out before."""
        self.left_out += left_out
        for entry in entries:
            size = size_of(entry)
            self._held.append((entry, size))
            self._bytes += size
        while len(self._held) > 1 and (len(self._held) > self._max_events or self._bytes > self._max_bytes):
            entry, size = self._held.popleft()
            self._bytes -= size
            self.left_out += 1
            self._tell((entry,), Verdict.OVERFLOW)

    def clear(self) -> tuple[tuple[Entry, ...], int]:
        """Take out the events, oldest first, and how many were left out."""
        entries = tuple(sorted((entry for entry, _ in self._held), key=lambda entry: entry.seq))
        left_out, self.left_out, self._bytes = self.left_out, 0, 0
        self._held.clear()
        return entries, left_out

    def dump(self) -> dict[str, Any]:
        """What is held, as JSON; events are their sequence numbers."""
        return {"seqs": [entry.seq for entry, _ in self._held], "left_out": self.left_out}
