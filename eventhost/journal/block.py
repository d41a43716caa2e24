"""Blocks: the events of a commit kept together as one JSON array, under a seal that tells whether they are still true.

A row for each event would take three times the time to write. SQLite does not notice when a page's content changes on
the disk; the seal does.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import accumulate, count, repeat
from typing import Final, NamedTuple
from zlib import crc32

import msgspec

from eventhost.errors import EventRejected
from eventhost.event import EnvEvent
from eventhost.journal.protocol import Entry

BLOCK_EVENTS: Final = 512
"""How many events a block has at most: to read one, all of them are decoded."""

BLOCK_BYTES: Final = 262_144
"""A block of more than one event is not longer than about twice this."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[EnvEvent]).decode
_split = msgspec.json.Decoder(list[msgspec.Raw]).decode
_pack = msgspec.msgpack.Encoder().encode


class Damaged(sqlite3.DatabaseError):
    """What is in the file is not what was written there."""


def seal(*values: object) -> int:
    """A checksum over the values of a row."""
    return crc32(_pack(values))


class Part(NamedTuple):
    """Some events that are to be kept, encoded; no more than fit into one block."""

    sizes: Sequence[int]
    """How long each of them is."""
    body: bytes


class Block(NamedTuple):
    """A row of the table `block`: the events `first` to `last`, all accepted at the same time."""

    first: int
    last: int
    at_ms: int
    low: int
    """Everything up to here had been delivered by then: the newest block knows it if nothing else does."""
    seal: int
    body: bytes

    @classmethod
    def of(cls, first: int, last: int, at_ms: int, low: int, body: bytes) -> Block:
        """Seal a block."""
        return cls(first, last, at_ms, low, crc32(body, seal(first, last, at_ms, low)), body)

    @property
    def true(self) -> bool:
        """Whether it is what was written."""
        if type(self.body) is not bytes:
            return False
        return self.seal == crc32(self.body, seal(self.first, self.last, self.at_ms, self.low))

    def check(self) -> None:
        """Make sure that it is what was written.

        Raises:
            Damaged: it is not.
        """
        if not self.true:
            raise Damaged(f"events {self.first} to {self.last} are damaged")

    def entries(self) -> list[Entry]:
        """Its events.

        Raises:
            Damaged: it is not what was written.
        """
        self.check()
        sizes = map(len, _split(self.body))
        return list(map(Entry, count(self.first), repeat(self.at_ms), _decode(self.body), sizes))


def encode(events: Sequence[EnvEvent]) -> list[Part]:
    """The events as JSON arrays, each no longer than a block.

    Raises:
        EventRejected: one of them holds what JSON cannot say.
    """
    try:
        texts = [*map(_encode, events)]
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise EventRejected(f"an event holds what JSON cannot say: {error}") from error
    sizes, parts, start = [*map(len, texts)], [], 0
    while start < len(texts):
        some = sizes[start : start + BLOCK_EVENTS]
        if len(some) + sum(some) >= BLOCK_BYTES:
            fit = sum(size < BLOCK_BYTES for size in accumulate(size + 1 for size in some))
            some = some[: max(1, fit)]
        end = start + len(some)
        parts.append(Part(some, b"[" + b",".join(texts[start:end]) + b"]"))
        start = end
    return parts


def blocks_of(parts: Iterable[Part], first: int, at_ms: int, low: int) -> list[Block]:
    """The parts in as few blocks as may be, numbered from `first`."""
    blocks: list[Block] = []
    bodies: list[bytes] = []
    begun = seq = first
    size = 0

    def end() -> None:
        if bodies:
            body = bodies[0] if len(bodies) == 1 else b"[" + b",".join([body[1:-1] for body in bodies]) + b"]"
            blocks.append(Block.of(begun, seq - 1, at_ms, low, body))

    for part in parts:
        events = len(part.sizes)
        if seq - begun + events > BLOCK_EVENTS or size > BLOCK_BYTES:
            end()
            bodies, begun, size = [], seq, 0
        bodies.append(part.body)
        seq += events
        size += len(part.body)
    end()
    return blocks
