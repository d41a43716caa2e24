"""One stream of events to many watchers: read once, encoded once, and handed to each at its own pace.

    bus ─► channel: reads the journal once for all watchers of the same events ─► pieces ─┬─► watcher ─► its client
                                                                                          ├─► watcher ─► its client
    journal ─────────────────── one that is behind the pieces reads for itself ───────────┴─► watcher ─► its client

SSE, WebSocket and sessions all use it the same way; `make` gives a piece the form in which it goes over the wire, and
is called once for all watchers that hand over the same function:

    with broadcast.watch(Wanted.parse("door.*"), after) as watcher:
        while (piece := await watcher.next()) is not None:
            await send(piece.made(make))        # of its `items`; none stand for a heartbeat

Nobody waits for a watcher. Its place is a number in the journal; the pieces are a short memory of what was read last,
bounded for all channels together, so that one that stalls costs the others nothing. A channel is read by whichever of
its watchers has nothing left to hand on, so that there is no task that somebody would have to own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import anyio
import anyio.lowlevel

from eventhost.bus import EnvEventBus, Lagged, Subscription
from eventhost.journal import Entry
from eventhost.wanted import Wanted

T = TypeVar("T")

Item = Entry | Lagged

PIECE_BYTES: Final = 65_536
"""A piece is not much longer, as JSON, unless it is a single event."""

_CATCH_UP_EVENTS: Final = 256
_KEPT_EVENTS: Final = 4_096
_KEPT_BYTES: Final = 4 * 1_048_576
"""So much of what was read last is remembered, of all channels together."""


class Piece:
    """The events that are wanted of those after `after` up to `upto`. Without any it says that the host lives."""

    __slots__ = ("_made", "after", "items", "size", "upto")

    def __init__(self, after: int, upto: int, items: Sequence[Item]) -> None:
        self.after, self.upto, self.items = after, upto, items
        self.size = sum(item.size for item in items if type(item) is Entry)
        self._made: dict[Callable[[Sequence[Item]], Any], Any] = {}

    def made(self, make: Callable[[Sequence[Item]], T]) -> T:
        """What `make` makes of the items; it is asked only once."""
        try:
            made: T = self._made[make]
        except KeyError:
            made = self._made[make] = make(self.items)
        return made

    def following(self, after: int) -> Piece:
        """The rest of it, after this number."""
        return Piece(after, self.upto, [item for item in self.items if _number(item) > after])


@dataclass(frozen=True, slots=True)
class BroadcastStatistics:
    """`channels` are the different selections of events that are watched."""

    watchers: int
    channels: int


class Watcher:
    """One client's place in the stream. Used in a `with` block, and by one task at a time."""

    def __init__(self, broadcast: Broadcast, wanted: Wanted, position: int) -> None:
        self._broadcast, self._wanted = broadcast, wanted
        self._channel: Channel
        self._place: int | None = None
        """The number of the next piece of its channel; None while it reads for itself."""
        self.position = position
        """Everything up to here was handed out, or is not wanted."""

    async def next(self) -> Piece | None:
        """The next events, or a piece without any when there were none for `heartbeat_s`; None once the bus is closed.

        May be cancelled; nothing is lost by that.
        """
        channel = self._channel
        while True:
            if self._place is None or self._place < channel.first:
                piece = await self._catch_up()
            elif self._place < channel.end:
                piece = channel.pieces[self._place - channel.first]
                self._place += 1
                if piece.after < self.position < piece.upto:
                    piece = piece.following(self.position)
                elif piece.upto <= self.position and piece.items:
                    continue
                self.position = max(self.position, piece.upto)
                return piece
            elif channel.ended:
                return None
            else:
                await channel.more(self)
                continue
            if piece is not None:
                return piece

    async def _catch_up(self) -> Piece | None:
        """Go on with the channel's pieces if they reach back far enough, else read what is before them."""
        channel = self._channel
        self._place = channel.place_after(self.position)
        if self._place is not None:
            return None
        await anyio.lowlevel.checkpoint()  # reading memory never suspends
        after = self.position
        items, upto = await channel.subscription.read(after, _CATCH_UP_EVENTS)
        piece = next(_pieces(after, upto, items))
        self.position = piece.upto
        return piece if piece.items else None

    def __enter__(self) -> Self:
        self._channel = self._broadcast.enter(self._wanted)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._broadcast.leave(self._channel)


class Channel:
    """What watchers of the same events share: the pieces that were read last, numbered from `first` to `end`."""

    def __init__(self, broadcast: Broadcast, key: str, subscription: Subscription) -> None:
        self._broadcast = broadcast
        self.key, self.subscription = key, subscription
        self.position = subscription.after
        """Up to which number the journal was read."""
        self.pieces: deque[Piece] = deque()
        self.first = 0
        self.watchers = 0
        self.ended = False
        self._reading = False
        self._waiting = 0
        self._changed = anyio.Event()

    @property
    def end(self) -> int:
        """The number that the next piece gets."""
        return self.first + len(self.pieces)

    def place_after(self, position: int) -> int | None:
        """With which piece it goes on after `position`; None if that is too long ago."""
        if position < (self.pieces[0].after if self.pieces else self.position):
            return None
        for number in range(len(self.pieces), 0, -1):
            if self.pieces[number - 1].upto <= position:
                return self.first + number
        return self.first

    async def more(self, watcher: Watcher) -> None:
        """Return once there may be a further piece; one of those who wait does the reading."""
        if self._reading:
            self._waiting += 1
            try:
                await self._changed.wait()
            finally:
                self._waiting -= 1
            return
        if watcher.position > self.position and not self._waiting:
            # All others have stalled far behind. What they missed meanwhile they read for themselves.
            self._skip_to(watcher.position)
            return
        self._reading = True
        try:
            await self._read()
        finally:
            self._reading = False
            self._changed.set()
            self._changed = anyio.Event()

    async def _read(self) -> None:
        bus = self._broadcast.bus
        with anyio.move_on_after(self._broadcast.heartbeat_s) as waiting:
            self.ended = not await bus.grown(self.position)
        if waiting.cancelled_caught:
            self._add(Piece(self.position, self.position, ()))
        elif not self.ended:
            items, upto = await self.subscription.read(self.position)
            for piece in _pieces(self.position, upto, items):
                self._add(piece)
            self.position = self.subscription.after = upto
            await anyio.lowlevel.checkpoint()  # reading memory never suspends

    def _add(self, piece: Piece) -> None:
        if piece.items or piece.after == piece.upto:
            self.pieces.append(piece)
            self._broadcast.remember(self, piece)
        elif self.pieces:
            # Nothing of it is wanted: that is said by the piece before.
            self.pieces[-1].upto = piece.upto

    def _skip_to(self, position: int) -> None:
        self.first = self.end + 1
        self.pieces.clear()
        self.position = self.subscription.after = position

    def forget(self, piece: Piece) -> None:
        """Remember it no longer, if it is the oldest."""
        if self.pieces and self.pieces[0] is piece:
            self.pieces.popleft()
            self.first += 1


class Broadcast:
    """The streams of one host."""

    def __init__(self, bus: EnvEventBus, heartbeat_s: float) -> None:
        """After `heartbeat_s` without an event a watcher gets a piece without any."""
        self.bus, self.heartbeat_s = bus, heartbeat_s
        self._channels: dict[str, Channel] = {}
        self._kept: deque[tuple[Channel, Piece]] = deque()
        self._kept_events = self._kept_bytes = 0

    def watch(self, wanted: Wanted, after: int | None = None) -> Watcher:
        """Watch what is wanted of the events after the number `after`, or from now on; to be used with `with`."""
        head = self.bus.journal.head
        return Watcher(self, wanted, head if after is None else min(after, head))

    def statistics(self) -> BroadcastStatistics:
        """A snapshot."""
        return BroadcastStatistics(self.watchers, len(self._channels))

    @property
    def watchers(self) -> int:
        """How many there are."""
        return sum(channel.watchers for channel in self._channels.values())

    def enter(self, wanted: Wanted) -> Channel:
        """The channel of a watcher that has come."""
        key = str(wanted)
        channel = self._channels.get(key)
        if channel is None:
            # It begins now: a watcher whose place is long ago catches up alone, beside those who come later.
            subscription = Subscription(self.bus, wanted.select(), self.bus.journal.head, key)
            channel = self._channels[key] = Channel(self, key, subscription)
            self.bus.subscriptions.add(subscription)
        channel.watchers += 1
        return channel

    def leave(self, channel: Channel) -> None:
        """A watcher has gone."""
        channel.watchers -= 1
        if not channel.watchers:
            self.bus.subscriptions.discard(channel.subscription)
            del self._channels[channel.key]

    def remember(self, channel: Channel, piece: Piece) -> None:
        """A channel keeps this piece; what was kept longest is let go of if there is too much."""
        kept = self._kept
        kept.append((channel, piece))
        self._kept_events += max(1, len(piece.items))
        self._kept_bytes += piece.size
        while len(kept) > 1 and (self._kept_events > _KEPT_EVENTS or self._kept_bytes > _KEPT_BYTES):
            channel, piece = kept.popleft()
            self._kept_events -= max(1, len(piece.items))
            self._kept_bytes -= piece.size
            channel.forget(piece)


def _pieces(after: int, upto: int, items: Sequence[Item]) -> Iterator[Piece]:
    """What was read, in pieces; at least one."""
    start = size = 0
    for number, item in enumerate(items, 1):
        size += item.size if type(item) is Entry else 0
        if size >= PIECE_BYTES and number < len(items):
            end = _number(item)
            yield Piece(after, end, items[start:number])
            after, start, size = end, number, 0
    yield Piece(after, upto, items[start:])


def _number(item: Item) -> int:
    """Up to which number one has come with it."""
    return item.seq if isinstance(item, Entry) else item.resume - 1
