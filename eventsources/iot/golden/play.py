"""Plays the golden cases against the session as this side knows it; a case's `input` is what one broker does."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from messages import Message
from options import Broker, brokers
from session import Session

from eventhost.kit.bookmark import Bookmark
from eventhost.kit.event import Event as Emitted
from eventhost.kit.golden import Event, play


class Played:
    """A source that is told step by step what its broker does."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        self._broker, self._file = broker, folder / "hub.json"
        self._ids: Iterator[int] = count(1)
        self._numbers: dict[str, int] = {}
        self.events: list[Event] = []
        self._restart()

    def step(self, step: dict[str, Any]) -> None:
        """One of `connect`, `messages`, `release`, `disconnect` and `kill`."""
        at = step.get("at", "2026-01-02T03:04:05.000Z")
        if "connect" in step:
            self._connect(step["connect"], at)
        elif "messages" in step:
            self._take([self._message(given) for given in step["messages"]], at, accepted=step.get("accepted", True))
        elif "release" in step:
            self._session.released(step["release"])
            self._session.receipts()
        elif "disconnect" in step:
            self._session.disconnected(at)
        elif "kill" in step:
            self._restart()
        else:
            raise KeyError(f"no such step: {sorted(step)}")

    def _restart(self) -> None:
        self._session = Session(self._broker, Bookmark(self._file), lambda: f"m{next(self._ids)}")

    def _connect(self, connect: dict[str, Any], at: str) -> None:
        wanted, unwanted = self._session.begin(present=connect["session"])
        for name in unwanted:
            self._session.unsubscribed(name)
        for one, number in wanted.items():
            self._numbers[one.filter] = number
            self._session.subscribed(one, number, connect.get("grants", {}).get(one.filter, one.qos))
        gap = self._session.complete(at)
        if gap is not None:
            self._tell([gap])
            self._session.gap_told()

    def _take(self, messages: list[Message], at: str, *, accepted: bool) -> None:
        self._tell(self._session.take(messages, at))
        if accepted:
            self._session.accepted(messages)
            self._session.receipts()

    def _message(self, given: dict[str, Any]) -> Message:
        known = dict(given)
        payload = known.pop("text", "").encode() or base64.b64decode(known.pop("base64", ""))
        if "correlation_data" in known:
            known["correlation_data"] = base64.b64decode(known["correlation_data"])
        known["user_properties"] = tuple((name, value) for name, value in known.get("user_properties", []))
        known["subscriptions"] = tuple(self._numbers[name] for name in known.pop("for", []))
        return Message(payload=payload, **known)

    def _tell(self, events: list[Emitted]) -> None:
        told = (event._asdict() for event in events)
        self.events += [{key: value for key, value in event.items() if value is not None} for event in told]


async def drive(case: dict[str, Any], folder: Path) -> list[Event]:
    """Have the broker do what the case says."""
    (broker,) = brokers(case["config"])
    played = Played(broker, folder)
    for step in case.get("input", []):
        played.step(step)
    return played.events


if __name__ == "__main__":
    play(drive)
