"""CloudEvents 1.0 in JSON, both ways, and nothing is lost on either: what one form cannot say is carried along in it.

    EnvEvent                   CloudEvent
    id, type                   id, type
    timestamp                  time
    metadata.source_name       source
    metadata.source            (the same, or in `eventhost`)
    metadata.NAME              NAME, where name and value may be those of an attribute
    payload                    data
    whatever else              eventhost: an extension attribute, JSON text

A CloudEvent whose `data` is no object becomes a payload of `{"value": …}`. How that was spelled, and a `time` that says
more than milliseconds in UTC, is kept in `metadata.cloudevent`.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import quote

import msgspec
from msgspec import UNSET, UnsetType

from eventhost.errors import EventRejected
from eventhost.event import EnvEvent

VERSION: Final = "1.0"

REST: Final = "eventhost"
"""The extension attribute that has what no other says."""

HOW: Final = "cloudevent"
"""The metadata key that has how a CloudEvent was spelled."""

_JSON: Final = "application/json"
_NO_SOURCE: Final = "eventhost"
_OWN: Final = {"specversion", "id", "source", "type", "time", "data", "datacontenttype", REST, HOW}
"""Names that no metadata goes by on its own."""

_NAME: Final = re.compile(r"[a-z0-9]+")
_ODD: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef" + "".join(
    f"{chr(plane << 16 | 0xFFFE)}{chr(plane << 16 | 0xFFFF)}" for plane in range(17)
) + "]")  # fmt: skip
"""What a String of CloudEvents may not hold: control characters, surrogates, noncharacters."""

_PCHAR: Final = r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})"
_AUTHORITY: Final = r"(?://[A-Za-z0-9\-._~!$&'()*+,;=:@%\[\]]*(?=[/?#]|\Z))?"
_URI_REST: Final = rf"{_AUTHORITY}(?:/|{_PCHAR})*(?:\?(?:[/?]|{_PCHAR})*)?(?:#(?:[/?]|{_PCHAR})*)?"
_SCHEME: Final = r"[A-Za-z][A-Za-z0-9+.\-]*:"
_URI: Final = re.compile(_SCHEME + _URI_REST)
_URI_REFERENCE: Final = re.compile(rf"(?=.)(?:{_SCHEME}|(?![^/?#]*:)){_URI_REST}")
"""RFC 3986, 4.1, as far as it matters: what no parser of it refuses."""

_MEDIA_TYPE: Final = re.compile(r"[A-Za-z0-9!#$&^_.+\-]+/[A-Za-z0-9!#$&^_.+\-]+(?: *;[ -~]*)?")
_TIME: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:)(\d\d)(?:\.(\d+))?(?:([Zz])|([+-])(\d\d):(\d\d))", re.ASCII
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_INTEGERS: Final = range(-(2**31), 2**31)


class _Rest(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What the other attributes of an event that was made a CloudEvent do not say."""

    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    timestamp: int | UnsetType = UNSET
    payload: dict[str, Any] | UnsetType = UNSET
    metadata: dict[str, Any] = {}
    """Keys that are missing, or have another value."""
    without: list[str] = []
    """Keys of metadata that are too many."""


def to_cloudevent(event: EnvEvent) -> dict[str, Any]:
    """The event as a CloudEvent: the JSON object of the JSON Event Format.

    `from_cloudevent` gives the same event again.
    """
    metadata = event.metadata
    how = metadata.get(HOW)
    how = how if isinstance(how, dict) else {}
    said: dict[str, Any] = {"specversion": VERSION, "id": _string(event.id), "type": _string(event.type)}
    said["source"] = _source(metadata.get("source_name"))
    moment = how.get("time")
    if moment is None or not _is_time(moment, event.timestamp):
        moment = _time(event.timestamp)
    if moment is not None:
        said["time"] = moment
    said |= {name: each for name, each in metadata.items() if _is_attribute(name, each)}
    said |= _data(event.payload, how.get("data"), metadata.get("datacontenttype"))
    if rest := msgspec.to_builtins(_rest(event, _plain(said, 0))):
        # In ASCII, all else escaped: a String may not hold every character.
        said[REST] = json.dumps(rest, separators=(",", ":"))
    return said


def from_cloudevent(value: Any, *, now_ms: int = 0) -> EnvEvent:
    """The event that a CloudEvent is; one without a `time` gets `now_ms`.

    Raises:
        EventRejected: it is no CloudEvent of version 1.0 in JSON, or holds what an event may not.
    """
    if not isinstance(value, dict):
        raise EventRejected("a CloudEvent must be an object")
    # Null stands for what is left out, but for the data itself.
    said = {name: each for name, each in value.items() if each is not None or name == "data"}
    if said.get("specversion") != VERSION:
        raise EventRejected(f"specversion: {VERSION!r} is required, got {said.get('specversion')!r}")
    for name in ("id", "source", "type"):
        if not isinstance(said.get(name), str) or not said[name]:
            raise EventRejected(f"{name}: a CloudEvent requires a non-empty string")
    for name in ("datacontenttype", "dataschema", "subject"):
        if not isinstance(said.get(name, ""), str):
            raise EventRejected(f"{name}: must be a string, if it is there")
    if "data" in said and "data_base64" in said:
        raise EventRejected("data and data_base64: a CloudEvent has one of them, not both")
    rest = _parsed(said.pop(REST, "{}"))
    fields = msgspec.structs.asdict(_plain(said, now_ms))
    more = msgspec.structs.asdict(rest)
    without, metadata = more.pop("without"), {**fields["metadata"], **more.pop("metadata")}
    fields |= {name: each for name, each in more.items() if each is not UNSET}
    fields["metadata"] = {name: each for name, each in metadata.items() if name not in without}
    try:
        return msgspec.convert(fields, EnvEvent)
    except msgspec.ValidationError as error:
        raise EventRejected(f"not an event: {error}") from error


def _plain(said: dict[str, Any], now_ms: int) -> EnvEvent:
    """The event that a CloudEvent is without what `eventhost` has to say."""
    how: dict[str, Any] = {}
    payload = _payload(said, how)
    timestamp = now_ms
    if "time" in said:
        timestamp = _milliseconds(said["time"])
        if said["time"] != _time(timestamp):
            how["time"] = said["time"]
    known = {"specversion", "id", "source", "type", "time", "data", "data_base64"}
    metadata = {name: each for name, each in said.items() if name not in known}
    if "data" in said and metadata.get("datacontenttype") == _JSON:
        del metadata["datacontenttype"]
    if how:
        metadata[HOW] = how
    metadata["source"] = metadata["source_name"] = said["source"]
    return EnvEvent(said["id"], said["type"], timestamp, metadata, payload)


def _rest(event: EnvEvent, plain: EnvEvent) -> _Rest:
    """What must be said besides so that `plain` becomes `event`."""
    rest = _Rest()
    for name in ("id", "type", "timestamp", "payload"):
        if not _same(value := getattr(event, name), getattr(plain, name)):
            setattr(rest, name, value)
    metadata, known = event.metadata, plain.metadata
    rest.metadata = {name: each for name, each in metadata.items() if name not in known or not _same(each, known[name])}
    rest.without = [name for name in known if name not in metadata]
    return rest


def _parsed(text: Any) -> _Rest:
    try:
        return msgspec.convert(json.loads(text), _Rest)
    except (TypeError, ValueError, RecursionError) as error:
        raise EventRejected(f"{REST}: this is not what a host writes there: {error}") from error


def _string(text: str) -> str:
    """`text` without what a String of CloudEvents may not hold: that is percent-encoded."""
    return _ODD.sub(lambda odd: quote(odd[0], errors="replace"), text)


def _source(name: Any) -> str:
    if not isinstance(name, str) or not name:
        return _NO_SOURCE
    return name if _URI_REFERENCE.fullmatch(name) else quote(name, safe="", errors="replace")


def _is_attribute(name: str, value: Any) -> bool:
    """Whether metadata can be an attribute of CloudEvents as it is."""
    if name in _OWN or not _NAME.fullmatch(name):
        return False
    if type(value) is str:
        if name == "dataschema":
            return _URI.fullmatch(value) is not None
        return _ODD.search(value) is None and (name != "subject" or value != "")
    return name not in ("dataschema", "subject") and (
        type(value) is bool or (type(value) is int and value in _INTEGERS)
    )


def _data(payload: dict[str, Any], form: Any, content_type: Any) -> dict[str, Any]:
    """The data and its type, the way `form` says if it can be so."""
    known = {}
    if type(content_type) is str and _MEDIA_TYPE.fullmatch(content_type):
        known = {"datacontenttype": content_type}
    value = payload["value"] if payload.keys() == {"value"} else payload
    if form == "none" and not payload:
        return known
    if form == "base64" and _is_base64(value):
        return {**known, "data_base64": value}
    data = value if form == "value" and type(value) is not dict else payload
    # What is no JSON is text.
    is_json = not known or re.search(r"[/+]json *(;|\Z)", known["datacontenttype"], re.IGNORECASE)
    return {"datacontenttype": _JSON, **(known if is_json or type(data) is str else {}), "data": data}


def _payload(said: dict[str, Any], how: dict[str, Any]) -> dict[str, Any]:
    if "data_base64" in said:
        if not _is_base64(said["data_base64"]):
            raise EventRejected("data_base64: text in Base64 (RFC 4648) is required")
        how["data"] = "base64"
        return {"value": said["data_base64"]}
    if "data" not in said:
        how["data"] = "none"
        return {}
    data = said["data"]
    if type(data) is dict:
        return data
    how["data"] = "value"
    return {"value": data}


def _is_base64(value: Any) -> bool:
    if type(value) is not str:
        return False
    try:
        return base64.b64decode(value, validate=True) is not None
    except (binascii.Error, ValueError):
        return False


def _time(timestamp: int) -> str | None:
    """RFC 3339, in UTC; None for a moment that it has no way to say."""
    try:
        moment = _EPOCH + timestamp * _MILLISECOND
    except OverflowError:
        return None
    return moment.isoformat(timespec="milliseconds" if timestamp % 1000 else "seconds").replace("+00:00", "Z")


def _is_time(text: Any, timestamp: int) -> bool:
    """Whether an event of this `timestamp` may have had `text` as its time."""
    try:
        return _milliseconds(text) == timestamp
    except EventRejected:
        return False


def _milliseconds(text: Any) -> int:
    found = _TIME.fullmatch(text) if type(text) is str else None
    if found is None:
        raise EventRejected(f"time: RFC 3339 is required, such as 2026-11-20T08:00:00Z, got {text!r:.80}")
    day, clock, second, fraction, _, sign, hours, minutes = found.groups()
    # A leap second is the end of the one before it.
    leap = second == "60"
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}{'59' if leap else second}+00:00")
        if hours and (int(hours) > 23 or int(minutes) > 59):
            raise ValueError
    except ValueError:
        raise EventRejected(f"time: there is no {text[:80]!r}") from None
    away = timedelta(hours=int(hours), minutes=int(minutes)) if sign else timedelta()
    milliseconds = (moment - _EPOCH) // _MILLISECOND - (away // _MILLISECOND) * (-1 if sign == "-" else 1)
    return milliseconds + (999 if leap else int((fraction or "0")[:3].ljust(3, "0")))


def _same(one: Any, other: Any) -> bool:
    # Python takes 1 for 1.0 and for True.
    if type(one) is not type(other):
        return False
    if type(one) is dict:
        return one.keys() == other.keys() and all(_same(each, other[name]) for name, each in one.items())
    if type(one) is list:
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
