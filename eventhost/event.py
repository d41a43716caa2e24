"""`EnvEvent`, its JSON form, and `normalize`: what a source said takes one shape, or is rejected with the reason."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import translate
from random import Random
from re import compile as compile_regex
from typing import Annotated, Any

import msgspec

from eventhost.errors import EventRejected

MAX_EVENT_BYTES = 1_048_576
"""The largest event the host accepts, as JSON text."""

UNMEASURED_BYTES = MAX_EVENT_BYTES // 4
"""JSON text this short stays within `MAX_EVENT_BYTES` when it is written anew: a number grows most, to less than four
times its length (`1e15` becomes `1000000000000000.0`)."""

MAX_DEPTH = 256
"""The deepest nesting of objects and arrays that the host accepts in a payload or in metadata."""

SHALLOW_BYTES = 2 * MAX_DEPTH
"""No JSON text this short can nest deeper than `MAX_DEPTH`: each level takes two brackets."""

MAX_TIMESTAMP = 2**53
"""JSON numbers are exact up to here, in every language."""

MAX_TYPE_LENGTH = 256
MAX_ID_LENGTH = 512
MAX_ID_NUMBER = 2**64

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class EnvEvent(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Something that happened: the one shape in which every room of the host sees an event.

    `timestamp` is in milliseconds since the epoch. `id` is unique within a source only. `metadata["source_name"]` is
    the host's own name for the source. `metadata` and `payload` hold JSON values; nobody may change them.
    """

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_LENGTH)]
    type: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TYPE_LENGTH)]
    timestamp: Annotated[int, msgspec.Meta(ge=-MAX_TIMESTAMP, le=MAX_TIMESTAMP)]
    metadata: dict[str, Any]
    payload: dict[str, Any]

    def to_json(self) -> bytes:
        """The event as compact JSON text."""
        return _encode(self)

    @classmethod
    def from_json(cls, text: bytes | str) -> EnvEvent:
        """The event that `to_json` wrote.

        Raises:
            EventRejected: the text is not such an event.
        """
        try:
            return _decode(text)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise EventRejected(f"not an event: {error}") from error


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(EnvEvent).decode


def event_name(event: EnvEvent) -> str:
    """`source_name:id`, by which an event is known everywhere."""
    return f"{event.metadata.get('source_name', '')}:{event.id}"


class RawEvent(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """An event as a source said it, in part and of whatever types; `OddEvent` if it said more than that."""

    type: Any = None
    id: Any = None
    timestamp: Any = None
    metadata: Any = None
    payload: Any = None

    @classmethod
    def from_value(cls, value: Any, envelope: Mapping[str, Any] | None = None) -> RawEvent:
        """The fields of a JSON object that was decoded elsewhere; `envelope`, if it is worth telling, came around it.

        Raises:
            EventRejected: `value` is not an object.
        """
        if not isinstance(value, Mapping):
            raise EventRejected(f"an event must be an object, got {_kind(value)}")
        said = value.get
        fields = said("type"), said("id"), said("timestamp"), said("metadata"), said("payload")
        if not envelope and value.keys() <= _RAW_FIELDS:
            return RawEvent(*fields)
        more = {name: value[name] for name in value if name not in _RAW_FIELDS}
        return OddEvent(*fields, more, envelope or {})


class OddEvent(RawEvent, gc=False):
    """An event with which a source said what no event holds: `more` fields, or something in the message around it."""

    more: Mapping[str, Any] = {}
    envelope: Mapping[str, Any] = {}


_RAW_FIELDS = frozenset(RawEvent.__struct_fields__)


@dataclass(frozen=True, slots=True)
class SourceProfile:
    """What normalizing needs to know of a source: its name in the host, the types it may say, metadata to add.

    `event_types` are globs (`*` stands for any characters); empty means any but the host's own `host.*`.
    """

    name: str
    event_types: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    allows: TypeGlobs = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "allows", TypeGlobs(self.event_types or ("*",)))


class TypeGlobs(dict[str, bool]):
    """Event type globs: `globs[type]` tells whether one matches. `*` stands for any characters.

    The host's own `host.*` matches only a glob that begins so. Answers are remembered, up to a bound, so that asking
    again is one dict lookup.
    """

    __slots__ = ("_any", "_own", "globs")

    def __init__(self, globs: Iterable[str]) -> None:
        super().__init__()
        self.globs = tuple(globs)
        self._any = [compile_regex(_to_regex(glob)) for glob in self.globs]
        self._own = [compile_regex(_to_regex(glob)) for glob in self.globs if glob.startswith("host.")]

    def __missing__(self, event_type: str) -> bool:
        if len(self) >= 4096:
            self.clear()
        candidates = self._own if event_type.startswith("host.") else self._any
        answer = self[event_type] = any(regex.fullmatch(event_type) for regex in candidates)
        return answer


def _to_regex(glob: str) -> str:
    # fnmatch gives `*` a linear-time form; `?` and `[` have no meaning in a type glob and stand for themselves.
    return translate(glob.replace("[", "[[]").replace("?", "[?]"))


def normalize(
    raw: RawEvent | EnvEvent,
    source: SourceProfile,
    *,
    at_most_bytes: int | None = None,
    now_ms: int | None = None,
) -> EnvEvent:
    """Make an `EnvEvent` of what a source said. Pure but for the clock and the id of an event that has none.

    `id` is kept (a number as its text), else a time-ordered UUID (version 7); `timestamp` may be milliseconds or ISO
    8601, else it is now; the source's configured metadata lies under what the source said; `source_name` cannot be
    forged; a payload that is no object becomes `{"value": …}`. What a source said in full, as an `EnvEvent` that
    nobody else has seen, is completed in place. In `metadata` what the source said stands before `source_name`, and
    what the host added after it.

    `at_most_bytes` bounds the size of its JSON text where that is known: it saves measuring a small one.

    Raises:
        EventRejected: saying which field is wrong, and how.
    """
    if type(raw) is EnvEvent:
        event = raw
        _add_own(raw.metadata, source)
    else:
        event = _complete(raw, source, now_ms)  # type: ignore[arg-type]
    if not source.allows[event.type]:
        raise EventRejected(
            f"type {event.type[:80]!r} is not among the configured eventTypes {list(source.event_types)}"
            if source.event_types
            else f"type {event.type[:80]!r} is the host's own; name it in eventTypes if this source may say it"
        )
    if at_most_bytes is None or at_most_bytes > SHALLOW_BYTES:
        _check_depth(event)
        if at_most_bytes is None or at_most_bytes > UNMEASURED_BYTES:
            _check_size(event)
    return event


def _complete(raw: RawEvent, source: SourceProfile, now_ms: int | None) -> EnvEvent:
    event_type, metadata, payload = raw.type, raw.metadata, raw.payload
    if type(event_type) is not str or not event_type:
        raise EventRejected(f"type: a non-empty string is required, got {_kind(event_type)}")
    if len(event_type) > MAX_TYPE_LENGTH:
        raise EventRejected(f"type: {len(event_type)} characters, at most {MAX_TYPE_LENGTH} are accepted")
    if metadata is None:
        metadata = {}
    elif type(metadata) is not dict:
        raise EventRejected(f"metadata: an object is required, got {_kind(metadata)}")
    metadata = dict(metadata)
    metadata.pop("source_name", None)
    _add_own(metadata, source)
    if type(payload) is not dict:
        payload = {} if payload is None else {"value": payload}
    event_id, timestamp = raw.id, raw.timestamp
    if type(event_id) is not str or not event_id or len(event_id) > MAX_ID_LENGTH:
        event_id = _id(event_id, timestamp is None)
    if type(timestamp) is not int:
        timestamp = _milliseconds(timestamp, now_ms)
    if abs(timestamp) > MAX_TIMESTAMP:
        raise EventRejected(f"timestamp: {timestamp} is not in milliseconds since 1970")
    return EnvEvent(event_id, event_type, timestamp, metadata, payload)


def _add_own(metadata: dict[str, Any], source: SourceProfile) -> None:
    metadata["source_name"] = source.name
    for key, value in source.metadata.items():
        metadata.setdefault(key, value)
    metadata.setdefault("source", source.name)


def _check_depth(event: EnvEvent) -> None:
    level: list[Any] = [event.payload, event.metadata]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) is dict or type(inner) is list
        ]
        if not level:
            return
    raise EventRejected(f"nests deeper than {MAX_DEPTH} levels")


def _check_size(event: EnvEvent) -> None:
    try:
        size = len(event.to_json())
    except (TypeError, ValueError, RecursionError) as error:
        raise EventRejected(f"holds what JSON cannot say: {error}") from error
    if size > MAX_EVENT_BYTES:
        raise EventRejected(f"{size} bytes, at most {MAX_EVENT_BYTES} are accepted")


def _id(value: Any, untimed: bool) -> str:
    if value is None or value == "":
        made = uuid7()
        return f"{made[:14]}{_MADE[untimed]}{made[18:]}"
    if isinstance(value, str):
        raise EventRejected(f"id: {len(value)} characters, at most {MAX_ID_LENGTH} are accepted")
    if isinstance(value, int | float) and not isinstance(value, bool):
        if -MAX_ID_NUMBER < value < MAX_ID_NUMBER:
            return str(value)
        raise EventRejected("id: a number of at most 64 bits is accepted; write a longer one as a string")
    raise EventRejected(f"id: a string is required, got {_kind(value)}")


def _milliseconds(value: Any, now_ms: int | None) -> int:
    if value is None:
        return int(time.time() * 1000) if now_ms is None else now_ms
    if isinstance(value, float) and value == value and abs(value) < 1e17:
        return int(value)
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is None:
                moment = moment.astimezone()  # a time without an offset is the machine's own, as ISO 8601 has it
        except (ValueError, OverflowError):
            raise EventRejected(f"timestamp: {value[:80]!r} is neither milliseconds nor ISO 8601") from None
        return (moment - _EPOCH) // _MILLISECOND
    raise EventRejected(f"timestamp: milliseconds or ISO 8601 is required, got {_kind(value)}")


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if value == "":
        return "an empty string"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", dict: "an object", list: "a list"}
    return names.get(type(value), type(value).__name__)


def is_made(event_id: str) -> bool:
    """Whether an id looks like those that `normalize` makes."""
    return event_id[14:18] in _MADE


_MADE = ("7eb0", "7eb1")
"""The third group of an id that `normalize` made, beside a timestamp that was said, or that it made, too. RFC 9562
leaves all but the version to whoever makes it."""


# Nobody needs to be kept from guessing an id. Asking the system for each cost a third of the time of publishing.
_random = Random()
_random_bits = _random.getrandbits
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)


def uuid7() -> str:
    """A time-ordered UUID, version 7 (RFC 9562): the milliseconds since the epoch, then random bits."""
    value = (time.time_ns() // 1_000_000 << 80) | _random_bits(80)
    value = value & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
