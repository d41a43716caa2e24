"""CloudEvents 1.0 in HTTP messages: structured, batched, and binary, where the event is in the headers.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import msgspec

from eventhost.errors import EventRejected
from eventhost.event import EnvEvent
from eventhost.exchange.cloudevents import from_cloudevent

STRUCTURED: Final = "application/cloudevents+json"
BATCHED: Final = "application/cloudevents-batch+json"
VERSION_HEADER: Final = b"ce-specversion"
"""Whoever sends it sends an event in binary mode, unless the body is a CloudEvent itself."""

_PREFIX: Final = b"ce-"
_NAME: Final = re.compile(r"[a-z0-9]+")
_JSON: Final = re.compile(r"[^;]*[/+]json\s*(;|\Z)", re.IGNORECASE)
_TEXT: Final = re.compile(r"text/|[^;]*[/+]xml\s*(;|\Z)", re.IGNORECASE)


class NotJson(EventRejected):
    """The body is no JSON at all."""


def is_binary(media_type: str, headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a request is a CloudEvent in binary mode."""
    return not media_type.startswith("application/cloudevents") and any(name == VERSION_HEADER for name, _ in headers)


def read_cloudevents(body: bytes, *, now_ms: int) -> list[EnvEvent]:
    """The events of a structured body, which is an object, or of a batched one, which is a list.

    Raises:
        EventRejected: one of them is no CloudEvent, and which one.
        NotJson: none of it is.
    """
    value = _decoded(body)
    if not isinstance(value, list):
        return [from_cloudevent(value, now_ms=now_ms)]
    events = []
    for place, each in enumerate(value):
        try:
            events.append(from_cloudevent(each, now_ms=now_ms))
        except EventRejected as error:
            raise EventRejected(f"[{place}]: {error}") from error
    return events


def read_binary(headers: Iterable[tuple[bytes, bytes]], body: bytes, *, now_ms: int) -> EnvEvent:
    """The event of which the headers are the attributes, and the body is the data.

    JSON becomes the payload; other text, and bytes in Base64, become `{"value": …}` of it.

    Raises:
        EventRejected: it is no CloudEvent.
        NotJson: the body is not the JSON that its Content-Type says it is.
    """
    said: dict[str, Any] = {}
    content_type = ""
    for name, value in headers:
        if name == b"content-type":
            content_type = value.decode("latin-1").strip()
        elif name.startswith(_PREFIX):
            attribute = name[len(_PREFIX) :].decode("latin-1")
            if not _NAME.fullmatch(attribute) or attribute in ("data", "datacontenttype"):
                raise EventRejected(f"ce-{attribute[:80]}: no header of a CloudEvent; its type is in Content-Type")
            said[attribute] = _unquoted(attribute, value)
    if content_type:
        said["datacontenttype"] = content_type
    if body:
        said |= _data(content_type, body)
    return from_cloudevent(said, now_ms=now_ms)


def _data(content_type: str, body: bytes) -> dict[str, Any]:
    if not content_type or _JSON.match(content_type):
        return {"data": _decoded(body)}
    if _TEXT.match(content_type):
        try:
            return {"data": body.decode()}
        except UnicodeDecodeError:
            pass
    return {"data_base64": base64.b64encode(body).decode()}


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise NotJson(f"the body is not JSON: {error}") from None


def _unquoted(attribute: str, value: bytes) -> str:
    """A header's value as it was meant: it may be quoted, and is percent-encoded."""
    text = value.strip()
    if len(text) > 1 and text[:1] == text[-1:] == b'"':
        text = re.sub(rb"\\(.)", rb"\1", text[1:-1])
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise EventRejected(f"ce-{attribute}: not UTF-8, percent-encoded") from None
