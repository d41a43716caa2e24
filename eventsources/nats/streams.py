"""Tells what is in a stream, from where it was told last; nothing is acknowledged before the host has accepted it.

consumer ─► pull (bounded) ─► events ─► accepted by the host ─► bookmark ─► acknowledged to the consumer

The position is kept on both sides. The bookmark is never behind what was acknowledged, so it tells what was removed
unread, and where a consumer that was deleted has to begin. What was not acknowledged comes again under the same ids.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

from connecting import Servers
from marks import AnotherReader, Extent, Gaps, Mark, Track, begun, removed, resumed
from messages import event_of_stream
from nats.js import api
from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError
from options import Connection, Stream
from pulling import Pull, Pulled, pulling

from eventhost.kit import Event, EventSource
from eventhost.kit.upstream import Unavailable, first_to_end

_ACK_WAIT_S = 30.0
_ANSWER_S = 5
_LATE_S = 5.0
"""A consumer that was not asked for so long may have missed what the stream has removed."""


class Reader:
    """One stream of a connection."""

    def __init__(self, source: EventSource, connection: Connection, stream: Stream, servers: Servers) -> None:
        self.source = source
        self.connection, self.stream = connection, stream
        self.gaps = Gaps(connection, stream)
        self.upstream = source.upstream(f"{connection.name}/{stream.stream}")
        self._servers = servers
        self._bookmark = source.bookmark(f"{connection.name}.stream.{stream.stream}")
        self._waited = False
        """Whether the stream was not there at first, so that all that is in it is new."""
        self._api = f"$JS.{stream.domain}.API" if stream.domain else "$JS.API"

    async def stay(self) -> None:
        """Tell what comes, until cancelled."""
        await self.upstream.stay(self._session)

    async def _session(self) -> None:
        stream = self.stream
        async with self._servers.client() as client:
            jetstream = client.jetstream(timeout=_ANSWER_S, prefix=self._api)
            extent = await self.extent(jetstream)
            mark = Mark.of_json(self._bookmark.content)
            if mark is not None:
                mark, gap = resumed(mark, extent, self.gaps)
                await self.keep(mark, gap)
            consumer, mark = await self._consumer(jetstream, extent, mark)
            await self.keep(mark)
            self.upstream.connected(f"reading {stream.stream} through {stream.consumer} from {mark.next_seq}")
            async with pulling(client, self._api, stream.stream, stream.consumer) as pull:
                reading = _Reading(self, jetstream, pull, consumer, mark, extent)
                await first_to_end(reading.read(), client.ended())

    async def extent(self, jetstream: JetStreamContext) -> Extent:
        """What the server says of the stream.

        Raises:
            Unavailable: there is none.
        """
        name = self.stream.stream
        try:
            info = await jetstream.stream_info(name)
        except NotFoundError:
            self._waited = True
            raise Unavailable(f"there is no stream {name}; create it, or mend its name") from None
        created_ms = int(info.created.timestamp() * 1000) if info.created else 0
        is_log = info.config.retention in (None, api.RetentionPolicy.LIMITS)
        return Extent(created_ms, info.state.first_seq, info.state.last_seq, is_log)

    async def _consumer(
        self, jetstream: JetStreamContext, extent: Extent, mark: Mark | None
    ) -> tuple[api.ConsumerInfo, Mark]:
        """The consumer, made anew where it does not stand at the mark, and the mark, made where there is none."""
        stream = self.stream
        try:
            found = await jetstream.consumer_info(stream.stream, stream.consumer)
        except NotFoundError:
            found = None
        if stream.shared and found is None:
            mend = "make it, or name a `durable`, which this source makes itself"
            raise Unavailable(f"the stream {stream.stream} has no consumer {stream.consumer}; {mend}")
        if found is not None:
            self._check(found, extent)
            if mark is None:
                mark = begun(extent, _floor(found))
            if stream.shared or not extent.is_log or self._stands_at(found, mark):
                return found, mark
            # Else what was delivered and not acknowledged would come late, and after what is newer.
            await jetstream.delete_consumer(stream.stream, stream.consumer)
        made = await jetstream.add_consumer(stream.stream, self._wanted(extent, mark))
        return made, mark or begun(extent, _delivered(made))

    def _check(self, found: api.ConsumerInfo, extent: Extent) -> None:
        stream, config = self.stream, found.config
        name = f"the consumer {stream.consumer} of {stream.stream}"
        if config.deliver_subject:
            raise Unavailable(f"{name} pushes; name one that is pulled from")
        if config.ack_policy == api.AckPolicy.NONE:
            raise Unavailable(
                f"{name} wants no acknowledgements, so what a crash interrupts would be lost; name another"
            )
        if not stream.shared and not extent.is_log and _filters(config) != set(stream.filters):
            raise Unavailable(f"{name} is for other subjects; delete it when it may forget its position")

    def _stands_at(self, found: api.ConsumerInfo, mark: Mark) -> bool:
        is_same = _filters(found.config) == set(self.stream.filters)
        return is_same and not found.num_ack_pending and _delivered(found) == mark.seq

    def _wanted(self, extent: Extent, mark: Mark | None) -> api.ConsumerConfig:
        stream = self.stream
        config = api.ConsumerConfig(
            name=stream.consumer,
            durable_name=stream.consumer,
            description="eventhost",
            # One acknowledgement for each batch; work queues take none but explicit ones.
            ack_policy=api.AckPolicy.ALL if extent.is_log else api.AckPolicy.EXPLICIT,
            ack_wait=_ACK_WAIT_S,
        )
        if len(stream.filters) == 1:
            config.filter_subject = stream.filters[0]
        elif stream.filters:
            config.filter_subjects = list(stream.filters)
        if not extent.is_log:
            # A work queue takes no other, and in both kinds what is left is what nobody has read.
            config.deliver_policy = api.DeliverPolicy.ALL
        elif mark is not None:
            config.deliver_policy, config.opt_start_seq = api.DeliverPolicy.BY_START_SEQUENCE, mark.next_seq
        elif stream.deliver == "last":
            config.deliver_policy = api.DeliverPolicy.LAST
        elif stream.deliver == "time":
            config.deliver_policy, config.opt_start_time = api.DeliverPolicy.BY_START_TIME, stream.first_time
        elif stream.deliver == "seq" or (stream.deliver == "new" and not self._waited):
            # What comes between this and the first look at the stream is new, too.
            first = stream.first_seq if stream.deliver == "seq" else extent.last_seq + 1
            config.deliver_policy, config.opt_start_seq = api.DeliverPolicy.BY_START_SEQUENCE, first
        return config

    async def keep(self, mark: Mark, gap: Event | None = None) -> None:
        """Tell the gap, if there is one, then keep the mark."""
        if gap is not None:
            await self.upstream.gap(gap)
        self._bookmark.save(mark.to_json())
        self.upstream.position = {"seq": mark.next_seq - 1}


class _Reading:
    """One session with a consumer."""

    def __init__(
        self,
        reader: Reader,
        jetstream: JetStreamContext,
        pull: Pull,
        consumer: api.ConsumerInfo,
        mark: Mark,
        extent: Extent,
    ) -> None:
        self._reader, self._jetstream, self._pull = reader, jetstream, pull
        self._mark, self._extent = mark, extent
        self._ack_wait_s = consumer.config.ack_wait or _ACK_WAIT_S
        self._acknowledges_all = consumer.config.ack_policy == api.AckPolicy.ALL
        delivered = consumer.delivered.consumer_seq if consumer.delivered else 0
        self._track = Track(max(mark.seq, _delivered(consumer)), delivered, reader.gaps)
        self._last_seq = 0
        self._removed = 0
        """Up to here it was told what was removed unread."""

    async def read(self) -> None:
        """Tell what comes, in order."""
        while True:
            batch = await self._pull.take()
            if not batch:
                await self._look()
                continue
            begun_s = time.monotonic()
            await self._hand_over(batch)
            if time.monotonic() - begun_s > _LATE_S:
                await self._look_for_removed()

    async def _hand_over(self, batch: Sequence[Pulled]) -> None:
        reader, stream = self._reader, self._reader.stream
        try:
            gap = self._track.missed(self._mark, [delivery for _, delivery in batch])
        except AnotherReader:
            mend = "give each source a `durable` of its own"
            raise Unavailable(f"somebody else reads from the consumer {stream.consumer}, too; {mend}") from None
        if gap is not None:
            await reader.upstream.gap(gap)
        epoch = self._mark.epoch
        events = [event_of_stream(reader.connection, stream, epoch, *pulled) for pulled in batch]
        telling = asyncio.ensure_future(reader.source.emit_all(events))
        try:
            while not (await asyncio.wait([telling], timeout=self._ack_wait_s / 3))[0]:
                await self._pull.keep(batch)
            telling.result()
        finally:
            telling.cancel()
        for _, delivery in batch:
            self._mark = self._mark.read(delivery)
        await reader.keep(self._mark)
        reader.upstream.position = {"seq": self._mark.seq, "pending": batch[-1][1].pending}
        await self._pull.acknowledge(batch[-1:] if self._acknowledges_all else batch)

    async def _look(self) -> None:
        """Note how far the stream holds nothing that is wanted, so that what is removed there is no gap."""
        gaps = self._reader.gaps
        if not gaps.filtered or gaps.cannot_tell(self._extent):
            return
        stream = self._reader.stream
        info = await self._jetstream.consumer_info(stream.stream, stream.consumer)
        if not info.num_pending and not info.num_ack_pending and self._last_seq > self._mark.looked:
            # Where the stream was at the look before: a consumer may be some way behind its stream.
            self._mark = self._mark.past(self._last_seq)
            await self._reader.keep(self._mark)
        self._last_seq = (await self._reader.extent(self._jetstream)).last_seq

    async def _look_for_removed(self) -> None:
        """Tell what the stream has removed after what has arrived, some of which may still wait to be told."""
        reader = self._reader
        if not reader.gaps.filtered:
            return
        extent = await reader.extent(self._jetstream)
        arrived = max(self._pull.last_seq, self._mark.next_seq - 1, self._removed)
        time_ms = self._mark.time if arrived == self._mark.seq else None
        _, gap = removed(replace(self._mark, seq=arrived, time=time_ms), extent, reader.gaps)
        if gap is not None:
            self._removed = extent.first_seq - 1
            await reader.upstream.gap(gap)


def _filters(config: api.ConsumerConfig) -> set[str]:
    return {subject for subject in (config.filter_subject, *(config.filter_subjects or ())) if subject}


def _delivered(consumer: api.ConsumerInfo) -> int:
    return consumer.delivered.stream_seq if consumer.delivered else 0


def _floor(consumer: api.ConsumerInfo) -> int:
    return consumer.ack_floor.stream_seq if consumer.ack_floor else 0
