"""The copy-both stream of a replication slot: messages in, acknowledgements out; nothing is interpreted here."""

from __future__ import annotations

import asyncio
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pg_connection import mended

from eventhost.kit.upstream import Unavailable

if TYPE_CHECKING:
    from psycopg import AsyncConnection

_EPOCH_S = 946_684_800


@dataclass(frozen=True, slots=True)
class Data:
    """One message of the plugin, which stands at `lsn`."""

    lsn: int
    message: bytes


@dataclass(frozen=True, slots=True)
class Keepalive:
    """Everything up to `lsn` has been sent."""

    lsn: int
    wants_reply: bool


class Stream:
    """What a slot sends from its confirmed position on."""

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        self._pg = connection.pgconn
        self._fd = connection.fileno()

    async def start(self, slot: str, publication: str) -> None:
        """Begin.

        Raises:
            Unavailable: the server refuses.
        """
        from psycopg import pq

        name = publication.replace('"', '""').replace("'", "''")
        command = f"START_REPLICATION SLOT {slot} LOGICAL 0/0 (proto_version '1', publication_names '\"{name}\"')"
        self._pg.send_query(command.encode())
        await self._flush()
        while self._pg.is_busy():
            await self.wait()
        result = self._pg.get_result()
        if result is None or result.status != pq.ExecStatus.COPY_BOTH:
            raise _ended(result.error_message if result else self._pg.error_message)

    def read(self) -> Data | Keepalive | None:
        """The next message that has arrived; None when `wait` is due.

        Raises:
            Unavailable: the server has ended the stream.
        """
        size, data = self._pg.get_copy_data(1)
        if size == 0:
            return None
        if size < 0:
            result = self._pg.get_result() if size == -1 else None
            raise _ended((result.error_message if result else b"") or self._pg.error_message)
        message = bytes(data)
        if message[:1] == b"w":
            (lsn,) = struct.unpack_from(">Q", message, 1)
            return Data(lsn, message[25:])
        lsn, _, wants_reply = struct.unpack_from(">QqB", message, 1)
        return Keepalive(lsn, bool(wants_reply))

    async def wait(self) -> None:
        """Wait until the server has sent something.

        Raises:
            Unavailable: the connection is gone.
        """
        import psycopg

        await _ready(self._fd, reading=True)
        try:
            self._pg.consume_input()
        except psycopg.Error as error:
            raise mended(str(error)) from None

    async def acknowledge(self, lsn: int) -> None:
        """Tell the server that it need not keep what was before `lsn`.

        Raises:
            Unavailable: the connection is gone.
        """
        import psycopg

        now_us = int((time.time() - _EPOCH_S) * 1_000_000)
        try:
            self._pg.put_copy_data(struct.pack(">cQQQqB", b"r", lsn, lsn, lsn, now_us, 0))
            await self._flush()
        except psycopg.Error as error:
            raise mended(str(error)) from None

    async def _flush(self) -> None:
        while self._pg.flush():
            await _ready(self._fd, reading=False)


async def _ready(fd: int, *, reading: bool) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    (loop.add_reader if reading else loop.add_writer)(fd, tell)
    try:
        await ready
    finally:
        (loop.remove_reader if reading else loop.remove_writer)(fd)


def _ended(message: bytes) -> Unavailable:
    return mended(message.decode(errors="replace") or "the server has ended the stream")
