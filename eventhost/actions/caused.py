"""Events that come of events: each names its cause, and a chain of them has an end.

The id derives from the delivery and the action, and the time is that at which the cause was accepted: delivered again,
the same event comes out.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

from eventhost.errors import ActionError, EventRejected
from eventhost.event import EnvEvent, RawEvent, SourceProfile, event_name, normalize
from eventhost.journal import Entry
from eventhost.relay import Relay

MAX_HOPS: Final = 16
"""How long a chain of events, each emitted because of the one before, may be."""

RULES: Final = "host.rules"
"""The `source_name` of what rules emit; no source is called so."""

HOST: Final = "host"
"""The `source_name` of the host's own events."""

_PROFILES: Final = {RULES: SourceProfile(RULES), HOST: SourceProfile(HOST, ("host.*",))}


def caused_event(
    event_type: str, payload: Any, *, cause: Entry, rule: str, place: str, source_name: str = RULES
) -> EnvEvent:
    """The event that the action at `place` of a rule emits because of `cause`.

    Its metadata carries `causation_id` (`source_name:id` of the cause), `hops` (the length of the chain) and `rule`. A
    payload that is no object becomes `{"value": …}`.

    Raises:
        ActionError: not to be retried: the chain is too long, or this is no event.
    """
    hops = 1 + hops_of(cause.event.metadata)
    if hops > MAX_HOPS:
        raise ActionError(
            f"a chain of {MAX_HOPS} events was emitted, each because of the one before: rules cause each other; "
            f"let {rule} match fewer events",
            retry=False,
        )
    metadata = {"source": source_name, "rule": rule, "causation_id": event_name(cause.event), "hops": hops}
    try:
        return normalize(
            RawEvent(event_type, delivery_id(cause, rule, place), cause.at_ms, metadata, payload),
            _PROFILES[source_name],
        )
    except EventRejected as error:
        raise ActionError(f"this cannot be emitted: {error}", retry=False) from None


def hops_of(metadata: Mapping[str, Any]) -> int:
    """The length of the chain that an event with this metadata ends, on other hosts too.

    Sources say what they like in their metadata: only the host's own count is trusted, and that of another host, which
    bears another name.
    """
    if metadata.get("source_name") in (RULES, HOST):
        return int(metadata.get("hops") or 0)
    relay = Relay.of(metadata)
    return relay.hops if relay is not None else 0


def delivery_id(cause: Entry, rule: str, place: str = "") -> str:
    """What a rule's run for `cause`, or one of its actions, is known by to others: the same however often it is tried.

    A UUID, version 8 (RFC 9562): the milliseconds of the cause, then bits that derive from the delivery.
    """
    delivery = f"{rule}\0{place}\0{cause.seq}\0{cause.at_ms}\0{event_name(cause.event)}"
    bits = int.from_bytes(sha256(delivery.encode()).digest()[:10], "big")
    value = (cause.at_ms & (1 << 48) - 1) << 80 | bits
    value = value & ~(0xF << 76) & ~(0x3 << 62) | 0x8 << 76 | 0x2 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
