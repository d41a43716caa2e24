"""How far a stream has been read, and what was removed from it before it could be. Pure.

Sequence numbers of a stream only grow, and each is given once. A consumer numbers its deliveries too: when these follow
one another and the stream's numbers do not, then what is between them is not in the stream any more, or not wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from messages import Delivery
from options import Connection, Stream
from subjects import GAP

from eventhost.kit import Event


@dataclass(frozen=True, slots=True)
class Extent:
    """What a server says of a stream: when it was made, in milliseconds, and the numbers of its first and last."""

    created: int
    first_seq: int
    last_seq: int
    is_log: bool = True
    """Whether reading leaves messages where they are; not so with interest and work queues."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How far one stream was read."""

    created: int
    epoch: str
    """Tells this stream from others that had its name, and from itself before it lost messages."""
    seq: int
    """The last that was accepted by the host, or that needs not be."""
    since: int
    """What was removed up to here was so before anybody wanted it."""
    looked: int = 0
    """Up to here the stream holds nothing more that is wanted."""
    time: int | None = None
    """When the last one was stored, in milliseconds since the epoch."""

    @property
    def next_seq(self) -> int:
        """Where to go on."""
        return max(self.seq, self.looked) + 1

    def to_json(self) -> dict[str, Any]:
        """As it is kept."""
        return asdict(self)

    @classmethod
    def of_json(cls, kept: dict[str, Any]) -> Mark | None:
        """As it was kept; None where nothing was."""
        return cls(**kept) if kept else None

    def past(self, seq: int) -> Mark:
        """After it was seen that nothing more up to `seq` is wanted."""
        return replace(self, looked=max(self.looked, seq))

    def read(self, delivery: Delivery) -> Mark:
        """After this one was accepted."""
        if delivery.seq <= self.seq:
            return self
        return replace(self, seq=delivery.seq, time=delivery.timestamp)


def begun(extent: Extent, seq: int) -> Mark:
    """Where the first start begins: after `seq`."""
    within = max(min(seq, extent.last_seq), extent.first_seq - 1, 0)
    return Mark(extent.created, str(extent.created), within, extent.last_seq)


def resumed(mark: Mark, extent: Extent, of: Gaps) -> tuple[Mark, Event | None]:
    """Where to go on in the stream as it is now, and what was missed meanwhile."""
    first = max(extent.first_seq, 1)
    if extent.created != mark.created:
        anew = begun(extent, first - 1)
        return anew, of.gap(mark, "stream_replaced", anew.seq + 1, None)
    if extent.last_seq < mark.next_seq - 1:
        epoch = f"{extent.created}-{int(mark.epoch.partition('-')[2] or 0) + 1}"
        back = replace(mark, epoch=epoch, seq=extent.last_seq, since=extent.last_seq, looked=0, time=None)
        return back, of.gap(mark, "went_back", extent.last_seq + 1, None)
    return removed(mark, extent, of)


def removed(mark: Mark, extent: Extent, of: Gaps) -> tuple[Mark, Event | None]:
    """The mark, and what the stream has lost at its beginning before it was read."""
    if extent.first_seq <= mark.next_seq or of.cannot_tell(extent):
        return mark, None
    count = extent.first_seq - mark.next_seq
    is_exact = not of.filtered and mark.next_seq > mark.since
    gap = of.gap(mark, "removed", extent.first_seq, count, is_exact=is_exact)
    return replace(mark, seq=extent.first_seq - 1), gap


class AnotherReader(Exception):
    """Somebody else reads from the consumer that is this source's own."""


class Gaps:
    """What gaps are told of one stream, and whether they can be counted."""

    def __init__(self, connection: Connection, stream: Stream) -> None:
        self._connection, self._stream = connection, stream
        self.filtered = bool(stream.filters)
        self.shared = stream.shared

    def cannot_tell(self, extent: Extent) -> bool:
        """Whether a message that is gone may just have been read by those for whom it was."""
        return self.shared or (self.filtered and not extent.is_log)

    def gap(self, mark: Mark, reason: str, until_seq: int, count: int | None, *, is_exact: bool = True) -> Event:
        """That messages between the mark and `until_seq` were missed; `count` is how many, or the most."""
        after: dict[str, Any] = {"seq": mark.next_seq - 1}
        if mark.time is not None:
            after["time"] = iso(mark.time)
        messages = {} if count is None else {"messages" if is_exact else "messagesAtMost": count}
        payload = {
            "connection": self._connection.name,
            "stream": self._stream.stream,
            "reason": reason,
            **messages,
            "after": after,
            "until": {"seq": until_seq},
        }
        place = f"{self._connection.name}:{self._stream.stream}:{mark.epoch}"
        return Event(GAP, payload, id=f"{place}:gap:{reason}:{after['seq']}:{until_seq}")


class Track:
    """Follows the deliveries of one consumer, of which it had made `consumer_seq` before, up to `seq` of the stream."""

    def __init__(self, seq: int, consumer_seq: int, of: Gaps) -> None:
        self._gaps = of
        self._seq, self._consumer_seq = seq, consumer_seq

    def missed(self, mark: Mark, deliveries: Sequence[Delivery]) -> Event | None:
        """What was removed between these deliveries, and before them; `mark` is where they begin.

        Raises:
            AnotherReader: deliveries went elsewhere, so these are not all.
        """
        holes: list[tuple[int, int]] = []
        for delivery in deliveries:
            follows = delivery.consumer_seq == self._consumer_seq + 1
            if not follows and not self._gaps.shared:
                raise AnotherReader
            if follows and delivery.count == 1 and delivery.seq > self._seq + 1:
                begin = max(self._seq, mark.since) + 1
                if begin < delivery.seq:
                    holes.append((begin, delivery.seq))
            self._consumer_seq = delivery.consumer_seq
            self._seq = max(self._seq, delivery.seq)
        if not holes or self._gaps.filtered:
            return None
        count, after = sum(end - begin for begin, end in holes), holes[0][0] - 1
        before = replace(mark, seq=after, looked=0, time=mark.time if after == mark.seq else None)
        return self._gaps.gap(before, "removed", holes[-1][1], count)


def iso(time_ms: float) -> str:
    """ISO 8601 in UTC."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
