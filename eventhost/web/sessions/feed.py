"""What one connection of a session carries: the session's messages and the bus's events, each in its order.

Both are merged here and nowhere else; how they look on the wire is said by a `Carrier`. A client that does not read
holds up its own connection alone: the bus's events wait in the journal, the messages in the bounded outbox.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol

import anyio
import msgspec

from eventhost.bus import Lagged
from eventhost.wanted import Wanted
from eventhost.web.answers import now
from eventhost.web.events.broadcast import Broadcast, Item, Piece
from eventhost.web.events.stream import event_json
from eventhost.web.sessions.registry import Line, Session

RESERVED: Final = frozenset({"", "message", "connected", "heartbeat", "lagged", "closed", "error", "open"})
"""What a session itself says; an event of such a type is shown with `bus.` before it."""


class Frame(NamedTuple):
    """An event on the wire; `data` is JSON. A client resumes after `id`, which is empty where there is none."""

    event: str
    data: bytes
    id: str = ""


class Place(NamedTuple):
    """Where a client left off: after this event of the bus, and after this message that followed it.

    Written `SEQ` or `SEQ.MESSAGE`, as the ids of frames are.
    """

    seq: int
    message: int | None = None

    @classmethod
    def parse(cls, text: str) -> Place | None:
        """The place that `text` says; None if it says something else."""
        found = re.fullmatch(r"([0-9]{1,18})(?:\.([0-9]{1,18}))?", text)
        return cls(int(found[1]), int(found[2]) if found[2] else None) if found else None

    def __str__(self) -> str:
        return f"{self.seq}" if self.message is None else f"{self.seq}.{self.message}"


class Carrier(Protocol):
    """A wire; each method returns once its client can take more."""

    async def carry(self, frames: Iterable[Frame]) -> None:
        """Send these frames."""
        ...

    async def carry_piece(self, piece: Piece) -> None:
        """Send the events of `piece`, made into what goes over the wire once for all that are connected this way."""
        ...


class Feed:
    """The frames of one connection, sent one after the other."""

    def __init__(
        self, session: Session, broadcast: Broadcast, wanted: Wanted, after: int | None, place: Place | None
    ) -> None:
        """The events that are `wanted` after number `after`, or from now on; `place` is where the client left off."""
        self._session = session
        self._watcher = broadcast.watch(wanted, after)
        self._heartbeat_s = broadcast.heartbeat_s
        self._seq = self._watcher.position
        self._message = session.outbox.resume(place and place.seq, place and place.message)
        self._sending = anyio.Lock()

    async def run(self, carrier: Carrier) -> None:
        """Send until the bus closes."""
        self._session.outbox.mark_written(self._message)
        async with anyio.create_task_group() as tasks:
            data = {"session_id": self._session.id, "timestamp": now()}
            # With an id, so that a client resumes here that leaves before anything else came.
            await carrier.carry([Frame("connected", msgspec.json.encode(data), str(Place(self._seq, self._message)))])
            tasks.start_soon(self._heartbeats, carrier)
            tasks.start_soon(self._messages, carrier)
            await self._events(carrier)
            tasks.cancel_scope.cancel()

    async def _heartbeats(self, carrier: Carrier) -> None:
        while True:
            await anyio.sleep(self._heartbeat_s)
            async with self._sending:
                await carrier.carry([Frame("heartbeat", msgspec.json.encode({"timestamp": now()}))])

    async def _messages(self, carrier: Carrier) -> None:
        outbox = self._session.outbox
        while True:
            messages = await outbox.after(self._message)
            async with self._sending:
                if outbox.missed:
                    await carrier.carry([Frame("lagged", b'{"missed_messages":%d}' % outbox.missed)])
                    outbox.missed = 0
                for message in messages:
                    message.follows = self._seq
                await carrier.carry(
                    Frame(message.event, message.data, str(Place(self._seq, message.number))) for message in messages
                )
            self._message = messages[-1].number
            outbox.mark_written(self._message)
            self._session.count_sent(0, len(messages))

    async def _events(self, carrier: Carrier) -> None:
        with self._watcher as watcher:
            while (piece := await watcher.next()) is not None:
                if piece.items:
                    async with self._sending:
                        await carrier.carry_piece(piece)
                        self._seq = watcher.position
                    self._session.count_sent(len(piece.items), 0)


def frames_of(items: Sequence[Item]) -> Iterator[Frame]:
    """The frames of these events."""
    for item in items:
        if isinstance(item, Lagged):
            data = b'{"missed":%d,"resume":%d}' % (item.missed, item.resume)
            yield Frame("lagged", data, str(item.resume - 1))
        else:
            yield Frame(_event_name(item.event.type), event_json(item), str(item.seq))


def _event_name(event_type: str) -> str:
    """The type as the name of an event: of one line, and none by which the session itself speaks."""
    name = " ".join(event_type.splitlines())
    return f"bus.{name}" if name in RESERVED else name


def ending(line: Line) -> Frame:
    """The last frame of a connection that the host ends."""
    return Frame("closed", msgspec.json.encode({"reason": line.reason, "timestamp": now()}))
