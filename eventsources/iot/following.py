"""Follows one broker: connects, subscribes, and hands messages on; what the host has accepted is acknowledged.

broker ─► packets ─► Session.take ─► emitted, accepted ─► Session.receipts ─► broker
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from connection import Connection
from messages import Message
from options import Broker
from reasons import Refused
from session import Mark, Session, iso
from topics import Subscription

from eventhost.kit.event import Event
from eventhost.kit.upstream import Unavailable, Upstream, first_to_end

_NOTED_EVERY_S: Final = 30.0
"""How often it is noted that the connection holds; the bounds of a gap are no finer than this after a kill."""

_ASKED_EVERY_S: Final = 30.0
"""How often a subscription that was refused is asked for again."""

Tell = Callable[[Iterable[Event]], Awaitable[None]]


class Following:
    """One broker's messages, told for as long as `session` is run again and again."""

    def __init__(self, broker: Broker, mark: Mark, tell: Tell, upstream: Upstream) -> None:
        self._broker, self._tell, self._upstream = broker, tell, upstream
        self._session = Session(broker, mark)
        self._messages = 0

    async def session(self) -> None:
        """One connection, until it ends.

        Raises:
            Unavailable: it could not be made, or has ended.
        """
        try:
            connection = Connection(self._broker, self._session.client_id)
        except OSError as error:
            raise Unavailable(f"ca, cert or key cannot be used: {error}") from None
        async with connection:
            try:
                refused = await self._subscribe(connection)
                self._upstream.connected(self._detail(connection))
                await self._tell_gap()
                await first_to_end(
                    self._read(connection), self._note_time(connection), self._ask_again(connection, refused)
                )
            finally:
                self._session.disconnected(connection.heard)

    async def _subscribe(self, connection: Connection) -> dict[Subscription, int]:
        """Ask for all that is wanted; return what is refused."""
        wanted, unwanted = self._session.begin(present=connection.session_present)
        await asyncio.gather(*(connection.drop(name) for name in unwanted))
        for name in unwanted:
            self._session.unsubscribed(name)
        refused = await self._ask(connection, wanted)
        if refused and not self._session.is_subscribed:
            raise Unavailable("; ".join(str(refusal) for refusal in refused.values()))
        for refusal in refused.values():
            self._upstream.last_error = str(refusal)
            self._upstream.log("error", f"{refusal}; asking again until it does not")
        return {one: wanted[one] for one in refused}

    async def _ask(self, connection: Connection, wanted: dict[Subscription, int]) -> dict[Subscription, Refused]:
        answers = await asyncio.gather(*(connection.ask(one, number) for one, number in wanted.items()))
        refused = {}
        for (one, number), answer in zip(wanted.items(), answers, strict=True):
            if isinstance(answer, Refused):
                self._session.unsubscribed(one.filter)
                refused[one] = answer
                continue
            self._session.subscribed(one, number, answer)
            if answer < one.qos:
                text = f"{one.filter}: QoS {answer} is granted, not {one.qos}"
                self._upstream.log("warning", text if answer else f"{text}; what comes while nobody listens is lost")
        return refused

    async def _tell_gap(self) -> None:
        gap = self._session.complete(iso(time.time()))
        if gap is not None:
            await self._upstream.gap(gap)
            self._session.gap_told()

    async def _read(self, connection: Connection) -> None:
        while True:
            if not connection.has_waiting:
                # Else they are kept together with what comes next.
                connection.tell(self._session.receipts())
            packets = await connection.packets()
            messages = [packet for packet in packets if isinstance(packet, Message)]
            for packet in packets:
                if isinstance(packet, int):
                    self._session.released(packet)
            events = self._session.take(messages, connection.heard)
            connection.tell(self._session.receipts())
            await self._tell(events)
            self._session.accepted(messages)
            self._messages += len(messages)
            self._upstream.position = {"messages": self._messages, "last_message": connection.heard}

    async def _note_time(self, connection: Connection) -> None:
        while True:
            await asyncio.sleep(_NOTED_EVERY_S)
            self._session.heard(connection.heard)

    async def _ask_again(self, connection: Connection, refused: dict[Subscription, int]) -> None:
        while True:
            await asyncio.sleep(_ASKED_EVERY_S)
            if refused:
                still = await self._ask(connection, refused)
                for one in refused.keys() - still.keys():
                    self._upstream.log("info", f"{one.filter}: the subscription is granted now")
                refused = {one: refused[one] for one in still}
                self._session.heard(connection.heard)

    def _detail(self, connection: Connection) -> str:
        session = "the session goes on" if connection.session_present else "a new session"
        return f"MQTT {self._broker.version}, {session}, client id {self._session.client_id}"
