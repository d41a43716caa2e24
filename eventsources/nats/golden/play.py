"""Plays the source's golden cases: messages as a server would hand them over, and the streams as it describes them."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from marks import Extent, Gaps, Mark, Track, begun, resumed
from messages import Message, delivery_of, event_of_stream, event_of_subject
from options import Connection, connections

from eventhost.kit import Event
from eventhost.kit.golden import play


async def drive(case: dict[str, Any], folder: Path) -> Sequence[dict[str, Any]]:
    """The events of one case: of `messages` to subjects, and of what happens to a `stream`."""
    config, said = case["config"], case["input"]
    (connection,) = connections({**config, **config.get("options", {})})
    events = [*of_subjects(connection, said.get("messages", ())), *of_stream(connection, said.get("stream", ()))]
    return [{name: value for name, value in event._asdict().items() if value is not None} for event in events]


def of_subjects(connection: Connection, messages: Sequence[dict[str, Any]]) -> Iterator[Event]:
    """Each message comes once for each subscription that it fits."""
    for given in messages:
        for wanted in connection.subjects:
            if wanted.match(given["subject"]) is not None:
                yield event_of_subject(connection, wanted, message_of(given))


def of_stream(connection: Connection, steps: Sequence[dict[str, Any]]) -> Iterator[Event]:
    """The source starts and finds the stream as `starts` says, or the consumer `delivers` a batch."""
    mark: Mark | None = None
    for step in steps:
        gaps = Gaps(connection, connection.streams[0])
        if "starts" in step:
            extent = Extent(**step["starts"])
            if mark is None:
                mark = begun(extent, extent.last_seq)
            else:
                mark, gap = resumed(mark, extent, gaps)
                if gap is not None:
                    yield gap
            track = Track(mark.seq, 0, gaps)
            continue
        assert mark is not None
        batch = [(message_of(given), delivery_of(given["reply"])) for given in step["delivers"]]
        gap = track.missed(mark, [delivery for _, delivery in batch])
        if gap is not None:
            yield gap
        for message, delivery in batch:
            yield event_of_stream(connection, connection.streams[0], mark.epoch, message, delivery)
            mark = mark.read(delivery)


def message_of(given: dict[str, Any]) -> Message:
    """What came: a `text`, or `bytes` in base64."""
    data = base64.b64decode(given["bytes"]) if "bytes" in given else given["text"].encode()
    return Message(given["subject"], data, given.get("reply", ""), given.get("headers"))


if __name__ == "__main__":
    play(drive)
