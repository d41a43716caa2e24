"""Makes a JSON value of a request's body, whatever its content type says it is."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator
from email.message import Message
from typing import Any
from urllib.parse import parse_qsl

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

_MOST_FIELDS = 1000
_FORM, _MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data"


class Malformed(Exception):
    """The body is not what its content type says."""


async def parse(body: bytes, content_type: str) -> Any:
    """The body as a JSON value.

    JSON as it is; a form as an object, a repeated field as a list, and of a file its name, type and size alone; text
    as a string; anything else as `{"base64": …}`; an empty body as null.

    Raises:
        Malformed: the body is not what `content_type` says.
    """
    if not body:
        return None
    header = Message()
    header["content-type"] = content_type or "application/octet-stream"
    kind = header.get_content_type()
    if kind == "application/json" or kind.endswith("+json"):
        return _json(body)
    if kind == _FORM:
        # What `curl -d '{…}'` sends says that it is a form, and a form never begins so.
        if body.lstrip()[:1] in (b"{", b"["):
            try:
                return _json(body)
            except Malformed:
                pass
        return _form(body)
    if kind == _MULTIPART:
        return await _multipart(body, content_type, header.get_boundary(""))
    try:
        if content_type.lower().startswith("text/") or not content_type:
            return body.decode(str(header.get_param("charset", "utf-8")))
    except (UnicodeDecodeError, LookupError):
        pass
    return {"base64": base64.b64encode(body).decode()}


def fold(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Fields as an object; one that is repeated becomes a list."""
    gathered: dict[str, list[Any]] = {}
    for name, value in pairs:
        gathered.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in gathered.items()}


def _json(body: bytes) -> Any:
    try:
        return json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Malformed("the body is not JSON") from error


def _no_constant(name: str) -> None:
    # Python's parser takes NaN and Infinity, which are no JSON and could not be sent on.
    raise ValueError(f"{name} is not JSON")


def _form(body: bytes) -> dict[str, Any]:
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict")
    except ValueError as error:
        raise Malformed("the body is not a form") from error
    return fold(list(pairs))


async def _multipart(body: bytes, content_type: str, boundary: str) -> dict[str, Any]:
    # The parser takes a form that was cut short for one with fewer fields.
    if f"--{boundary}--".encode() not in body:
        raise Malformed("the body is not a whole multipart form")
    headers = Headers({"content-type": content_type})
    parser = MultiPartParser(
        headers, _whole(body), max_files=_MOST_FIELDS, max_fields=_MOST_FIELDS, max_part_size=len(body)
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Malformed("the body is not a multipart form") from error
    try:
        return fold([(name, _part(value)) for name, value in form.multi_items()])
    finally:
        await form.close()


async def _whole(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


def _part(value: str | UploadFile) -> Any:
    if isinstance(value, str):
        return value
    return {"filename": value.filename, "content_type": value.content_type, "size": value.size}
