"""Events that go from host to host: each bears the way it came, so that nothing goes in circles, or is taken twice.

    metadata.relay = {"via": [the hosts it came through], "hops": 2, "seq": 812, "source_name": "door"}

`via` ends with the host that handed it on; `seq` and `source_name` are what that one calls it by. On the wire stands
`after`, too: the number up to which all that is wanted was handed on before. Who takes events in knows by that whether
it missed one, whatever the transport lost.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

RELAY: Final = "relay"
"""The key in an event's metadata."""

HOST_NAME: Final = "eventhost"
"""What a host calls itself as an MCP server, and as the client of one whose events it takes."""

HOST_NAMES: Final = frozenset((HOST_NAME, f"{HOST_NAME}-tools"))
"""What it calls itself as a client."""

SUBSCRIBE_EVENT: Final = "subscribe_event"

LAGGED: Final = "eventsource.lagged"
"""The type of what a subscriber gets in place of events that are no longer held: `{missed, resume}`."""

MOST_HOSTS: Final = 16
"""How many hosts an event may come through."""

_ID_FILE: Final = Path("var", "host-id")


@dataclass(frozen=True, slots=True)
class Relay:
    """How an event came from other hosts; `seq` and `after` are those of the last of them."""

    via: tuple[str, ...] = ()
    hops: int = 0
    seq: int = 0
    after: int = 0

    @classmethod
    def of(cls, metadata: Any) -> Relay | None:
        """What an event's metadata says; None if it came from no other host."""
        said = metadata.get(RELAY) if isinstance(metadata, Mapping) else None
        if not isinstance(said, Mapping):
            return None
        via, hops, seq, after = (said.get(key) for key in ("via", "hops", "seq", "after"))
        if not isinstance(via, list) or not all(isinstance(host, str) for host in via):
            return None
        return cls(tuple(via), _count(hops), _count(seq), _count(after))


def handed_on(metadata: Mapping[str, Any], hops: int, host: str, seq: int, after: int | None = None) -> dict[str, Any]:
    """The metadata of an event that `host` hands on to another one; `hops` is the length of its chain until now."""
    before = Relay.of(metadata)
    relay: dict[str, Any] = {"via": [*(before.via if before else ()), host], "hops": hops + 1, "seq": seq}
    if after is not None:
        relay["after"] = after
    return {**metadata, RELAY: relay}


def taken_in(metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata with which a host that took an event in publishes it: what it said, and who its source was."""
    relay = {key: value for key, value in metadata[RELAY].items() if key in ("via", "hops", "seq")}
    rest = {key: value for key, value in metadata.items() if key not in (RELAY, "source_name")}
    if isinstance(name := metadata.get("source_name"), str):
        relay["source_name"] = name
    return {**rest, RELAY: relay}


def host_id(root: Path) -> str:
    """By which other hosts know this environment's: made once, and kept in `var/`."""
    path = root / _ID_FILE
    try:
        if known := path.read_text("ascii").strip():
            return known
    except (OSError, ValueError):
        pass
    made = uuid.uuid4().hex
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(made + "\n", "ascii")
    temporary.replace(path)
    return made


def _count(value: Any) -> int:
    return max(0, value) if type(value) is int else 0
