"""Asks a consumer of JetStream for messages, so many and no more, and notices when it answers no longer."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import nats.errors
from connecting import Client
from messages import Delivery, Message, delivery_of
from nats.aio.msg import Msg
from subscriptions import MOST_BYTES, MOST_EVENTS

from eventhost.kit.upstream import Unavailable

_EXPIRES_S = 10
_HEARTBEAT_S = 3
_SILENT_S = 10
"""After so long without any sign, heartbeats included, nobody is there any more."""

Pulled = tuple[Message, Delivery]


class Pull:
    """What one consumer delivers; `api` is the prefix of JetStream's subjects. Made by `pulling`."""

    def __init__(self, client: Client, api: str, stream: str, consumer: str) -> None:
        self._client = client
        self._name = f"{stream}/{consumer}"
        self._subject = f"{api}.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self.inbox = client.new_inbox()
        self.last_seq = 0
        """The highest number in the stream that has arrived."""
        self._number = 0
        self._owed = 0
        """How many messages the request that is open may still bring; none: no request is open."""
        self._brought = 0
        self._one_alone = False
        self._waiting: deque[Pulled] = deque()
        self._error: Unavailable | None = None
        self._sign = asyncio.Event()

    async def take(self) -> Sequence[Pulled]:
        """What there is, and makes one good batch; empty when nothing has come for a while.

        The next request goes out before the batch is told, so that there always is something to tell.

        Raises:
            Unavailable: the consumer does not answer, or is gone.
        """
        while True:
            if self._owed == 0 and self._error is None:
                await self._ask()
            if self._waiting:
                return self._batch()
            number = self._number
            await self._any_sign()
            if not self._waiting and self._owed == 0 and self._number == number and not self._one_alone:
                return []

    async def keep(self, batch: Sequence[Pulled]) -> None:
        """Tell the consumer that these, and those that wait behind them, are being worked on."""
        for message, _ in (*batch, *self._waiting):
            await self._client.publish(message.reply, b"+WPI")

    async def acknowledge(self, batch: Sequence[Pulled]) -> None:
        """Tell the consumer that these are done."""
        for message, _ in batch:
            await self._client.publish(message.reply)

    async def arrived(self, message: Msg) -> None:
        """Take what the server has sent: a message, or what it says of a request."""
        self._sign.set()
        if not message.subject.startswith(self.inbox):
            self._owed = max(0, self._owed - 1)
            self._brought += 1
            taken = Message(message.subject, message.data, message.reply, message.headers)
            delivery = delivery_of(message.reply)
            self._waiting.append((taken, delivery))
            self.last_seq = max(self.last_seq, delivery.seq)
            return
        headers = message.headers or {}
        status, description = headers.get("Status", ""), headers.get("Description", "").strip()
        if status == "100" or message.subject != f"{self.inbox}.{self._number}":
            return
        self._owed = 0
        if status in ("404", "408") or description == "Batch Completed":
            return
        if description == "Message Size Exceeds MaxBytes":
            self._one_alone = self._brought == 0
            return
        told = {
            "503": "is not there",
            "Consumer Deleted": "was deleted; if that repeats, another source has it as its `durable`",
        }.get(description if status == "409" else status, f"gives nothing: {description or status}")
        self._error = Unavailable(f"the consumer {self._name} {told}")

    async def _ask(self) -> None:
        self._number += 1
        self._brought = 0
        self._owed = 1 if self._one_alone else MOST_EVENTS
        # One that is larger than all of them may be is asked for alone.
        limit = {} if self._one_alone else {"max_bytes": MOST_BYTES}
        self._one_alone = False
        times = {"expires": int(_EXPIRES_S * 10**9), "idle_heartbeat": int(_HEARTBEAT_S * 10**9)}
        request = json.dumps({"batch": self._owed, **limit, **times}).encode()
        await self._client.publish(self._subject, request, f"{self.inbox}.{self._number}")

    async def _any_sign(self) -> None:
        if self._error is not None:
            raise self._error
        try:
            async with asyncio.timeout(_SILENT_S):
                await self._sign.wait()
        except TimeoutError:
            # If nobody answers at all, the connection is of no use to others either.
            await self._client.round_trip()
            refused = f"; the server said: {self._client.refusals[-1]}" if self._client.refusals else ""
            raise Unavailable(f"the consumer {self._name} gives no sign of life{refused}") from None
        self._sign.clear()

    def _batch(self) -> list[Pulled]:
        batch: list[Pulled] = []
        size = 0
        while self._waiting and len(batch) < MOST_EVENTS and size < MOST_BYTES:
            batch.append(self._waiting.popleft())
            size += batch[-1][0].size_bytes
        return batch


@asynccontextmanager
async def pulling(client: Client, api: str, stream: str, consumer: str) -> AsyncIterator[Pull]:
    """Read from a consumer until the block ends."""
    pull = Pull(client, api, stream, consumer)
    subscription = await client.subscribe(
        f"{pull.inbox}.*", cb=pull.arrived, pending_msgs_limit=0, pending_bytes_limit=0
    )
    try:
        yield pull
    finally:
        with suppress(nats.errors.Error):
            await subscription.unsubscribe()
