"""What a session has for its client besides the bus's events: bounded, and kept until the client surely has it.

Messages are numbered. What was written is kept a while longer, with the position of the bus's events after which it was
written, so that a client that comes back gets again what a broken connection may have swallowed, and nothing else.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import anyio

MAX_WAITING = 256
"""So many messages wait for a client at most, ..."""
MAX_WAITING_BYTES = 2_097_152
"""... or of so many bytes, though one may be larger."""

_KEPT = 64
_KEPT_BYTES = 262_144


@dataclass(slots=True)
class Message:
    """One message: the event's name, and its data as JSON."""

    number: int
    event: str
    data: bytes
    follows: int = -1
    """The last of the bus's events that was written before it; -1 until it was written."""


class Outbox:
    """The messages of one session, for one reader at a time."""

    def __init__(self) -> None:
        self.written = 0
        """The number of the last message that was written."""
        self.waiting = 0
        """How many were not."""
        self.missed = 0
        """Messages that found no room, since the client was last told of it."""
        self._messages: deque[Message] = deque()
        self._number = 0
        self._waiting_bytes = self._kept_bytes = 0
        self._closed = False
        self._changed = anyio.Event()

    @property
    def full(self) -> bool:
        """Whether nothing more is to be put in before the client has read."""
        return self.waiting >= MAX_WAITING or self._waiting_bytes >= MAX_WAITING_BYTES

    def put(self, event: str, data: bytes) -> None:
        """Add a message for which there has to be room: an answer, whose question was only taken if there was."""
        self._number += 1
        self._messages.append(Message(self._number, event, data))
        self.waiting += 1
        self._waiting_bytes += len(data)
        self.announce()

    def offer(self, event: str, data: bytes) -> None:
        """Add a message if there is room; else the client is told that it missed one."""
        if self.full or self._closed:
            self.missed += 1
        else:
            self.put(event, data)

    async def room(self) -> None:
        """Wait until it is not full, or closed."""
        while self.full and not self._closed:
            await self.changed()

    async def after(self, number: int) -> list[Message]:
        """The messages that follow `number`; waits until there is one."""
        while self._number <= number:
            await self.changed()
        return [message for message in self._messages if message.number > number]

    def mark_written(self, number: int) -> None:
        """Everything up to `number` was handed to the client."""
        for message in self._messages:
            if self.written < message.number <= number:
                self.waiting -= 1
                self._waiting_bytes -= len(message.data)
                self._kept_bytes += len(message.data)
        self.written = max(self.written, number)
        while len(self._messages) - self.waiting > _KEPT or self._kept_bytes > _KEPT_BYTES:
            self._kept_bytes -= len(self._messages.popleft().data)
        self.announce()

    def resume(self, position: int | None, number: int | None) -> int:
        """The number after which to go on for a client that comes back.

        It had the bus's events up to `position`, and after that one the messages up to `number`. Without a `position`
        it goes on with what was not written yet.
        """
        if position is None:
            return self.written
        if number is not None:
            return number if number <= self._number else 0
        for message in self._messages:
            if message.number > self.written or message.follows >= position:
                return message.number - 1
        return self.written

    def close(self) -> None:
        """Take nothing more that is offered; nobody will read it."""
        self._closed = True
        self.announce()

    async def changed(self) -> None:
        """Wait until something was put in, or written."""
        await self._changed.wait()

    def announce(self) -> None:
        """Let those go on who wait for a change."""
        self._changed.set()
        self._changed = anyio.Event()
