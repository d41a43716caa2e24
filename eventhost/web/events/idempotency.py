"""`Idempotency-Key`: a request that comes again, with the same key, is answered as before, and publishes nothing twice.

What is remembered stands in the events themselves, as `metadata.idempotency`: it is in the journal with them or not at
all, so that a request is known again after whatever happened between the commit and the answer.
https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import anyio

from eventhost.environment import IDEMPOTENCY
from eventhost.errors import EventRejected
from eventhost.event import EnvEvent
from eventhost.journal import Change, Entry, Journal
from eventhost.journal.file import Recorded
from eventhost.journal.search import backwards

KEPT_S: Final = 86_400.0
"""For how long a key is known."""

KEPT_KEYS: Final = 20_000
KEPT_IDS: Final = 200_000
"""At least the newest keys are known, with so many events together at most."""

MAX_KEY_LENGTH: Final = 255

_DIGEST_BYTES: Final = 12
_NEEDLE: Final = b'"%b":"' % IDEMPOTENCY.encode()


class OtherRequest(EventRejected):
    """The key was used for another request."""


@dataclass(frozen=True, slots=True)
class Done:
    """The events that a request published: their ids, and the number of the first."""

    ids: Sequence[str]
    seq: int


@dataclass(frozen=True, slots=True)
class _Known:
    request: str
    at_ms: int
    done: Done


def digest(*parts: bytes) -> str:
    """A short text for these bytes, and in practice for no others."""
    made = blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        made.update(b"%d:%b" % (len(part), part))
    return made.hexdigest()


class Idempotency:
    """The requests with a key that published something lately: in the last `KEPT_S`, and the newest, boundedly many."""

    def __init__(
        self,
        journal: Journal,
        reading: Callable[[], AbstractContextManager[Recorded]],
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """`reading` opens the journal for a search; what it holds by now is known again."""
        self._journal, self._reading, self._now_ms = journal, reading, now_ms
        self._known: dict[str, _Known] = {}
        """By key, the oldest first."""
        self._ids = 0
        self._unsure: dict[str, int] = {}
        """Keys of requests that were given up; what they published, if anything, is after this number."""
        self._under_way: dict[str, anyio.Event] = {}
        self._upto: int | None = journal.head
        """Up to where what hosts before this one published is to be looked for; None once it was."""
        self._recalling = anyio.Lock()

    async def once(
        self, key: str, request: str, publish: Callable[[str], Awaitable[tuple[Sequence[EnvEvent], int]]]
    ) -> tuple[Done, bool]:
        """Call `publish`, unless it was done before for `key`; return what was published, and whether that was now.

        `key` stands for the caller and its key, `request` for what is asked; `publish` is handed what the metadata of
        the events is to hold under `IDEMPOTENCY`. Of several at a time the later wait for the first.

        Raises:
            OtherRequest: the key was used for something else.
        """
        await self._recall()
        while (before := self._under_way.get(key)) is not None:
            await before.wait()
        under_way = self._under_way[key] = anyio.Event()
        try:
            if key in self._unsure:
                await self._find_out(key)
            self._forget_old()
            if (known := self._known.get(key)) is not None:
                if known.request != request:
                    raise OtherRequest(
                        "Idempotency-Key: this key was used for another request in the last 24 hours; send a new one "
                        "with each request, and the same body with one that is sent again"
                    )
                return known.done, False
            head = self._journal.head
            try:
                events, seq = await publish(f"{key}.{request}")
            except EventRejected:
                raise
            except BaseException:
                # What was handed to the journal may come to be kept, whether or not somebody waits for it.
                self._unsure[key] = head
                raise
            done = Done([event.id for event in events], seq)
            self._keep(key, _Known(request, self._now_ms(), done))
            return done, True
        finally:
            del self._under_way[key]
            under_way.set()

    async def _recall(self) -> None:
        """Know again what hosts before this one published."""
        async with self._recalling:
            if self._upto is None:
                return
            async with aclosing(self._search(0, self._upto)) as found:
                async for key, known in found:
                    if key not in self._known:
                        self._keep(key, known)
                    if len(self._known) >= KEPT_KEYS or self._ids >= KEPT_IDS:
                        break
            self._known = dict(reversed(self._known.items()))
            self._upto = None

    async def _find_out(self, key: str) -> None:
        """Whether a request that was given up published something after all."""
        await self._journal.save(Change())  # kept after what was handed to the journal before
        after = self._unsure[key]
        async for found, known in self._search(after, self._journal.head):
            if found == key:
                self._keep(key, known)
        del self._unsure[key]

    async def _search(self, after: int, upto: int) -> AsyncGenerator[tuple[str, _Known], None]:
        """The requests with keys of which the events are among these, and not too old; newest first."""
        waiting: list[Entry] = []
        with self._reading() as journal:
            after = max(after, await journal.seq_at(self._now_ms() - int(KEPT_S * 1000)) - 1)
            async for page in backwards(journal, min(upto, journal.head), after, [_NEEDLE]):
                for entry in page:
                    if (mark := _mark(entry)) is None:
                        continue
                    # The events of a request stand together.
                    if waiting and _mark(waiting[0]) != mark:
                        yield _request(waiting)
                        waiting = []
                    waiting.append(entry)
        if waiting:
            yield _request(waiting)

    def _keep(self, key: str, known: _Known) -> None:
        self._known[key] = known
        self._ids += len(known.done.ids)

    def _forget_old(self) -> None:
        oldest_ms = self._now_ms() - int(KEPT_S * 1000)
        while self._known:
            key, known = next(iter(self._known.items()))
            few = len(self._known) <= KEPT_KEYS and self._ids <= KEPT_IDS
            if few and known.at_ms >= oldest_ms:
                break
            del self._known[key]
            self._ids -= len(known.done.ids)
        while len(self._unsure) > KEPT_KEYS:
            del self._unsure[next(iter(self._unsure))]


def _mark(entry: Entry) -> str | None:
    metadata = entry.event.metadata
    mark = metadata.get(IDEMPOTENCY) if metadata.get("source_name") == "api" else None
    return mark if isinstance(mark, str) and mark.count(".") == 1 else None


def _request(newest_first: Sequence[Entry]) -> tuple[str, _Known]:
    first = newest_first[-1]
    key, _, request = (_mark(first) or ".").partition(".")
    done = Done([entry.event.id for entry in reversed(newest_first)], first.seq)
    return key, _Known(request, first.at_ms, done)
