"""What is wrong with what a source says, told in sentences: its handshake, tools, resources and events."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from eventhost.cli.source_test.session import Session, short
from eventhost.errors import EventRejected

_TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_./-]{1,128}")
MOST_SHOWN: Final = 5

_FIRST_MS: Final = 946_684_800_000
"""The year 2000: before it, a timestamp is more likely in seconds than true."""
_AHEAD_MS: Final = 86_400_000


def shown(lines: Sequence[str]) -> list[str]:
    """The first of many lines."""
    more = len(lines) - MOST_SHOWN
    return [*lines[:MOST_SHOWN], *([f"and {more} more"] if more > 0 else [])]


def wrong_handshake(result: dict[str, Any]) -> Iterable[str]:
    """What is wrong with the answer to `initialize`, one line each."""
    version = result.get("protocolVersion")
    if version not in HANDSHAKE_PROTOCOL_VERSIONS:
        known = ", ".join(HANDSHAKE_PROTOCOL_VERSIONS)
        yield f"protocolVersion: expected one of {known}; came {short(version)}"
    info = result.get("serverInfo")
    for key in ("name", "version"):
        if not isinstance(info, dict) or not isinstance(info.get(key), str) or (key == "name" and not info[key]):
            came = info.get(key) if isinstance(info, dict) else info
            yield f"serverInfo.{key}: expected a text; came {short(came)}"
    capabilities = result.get("capabilities")
    if not isinstance(capabilities, dict):
        yield f"capabilities: expected an object; came {short(capabilities)}"
        return
    for key, value in capabilities.items():
        if not isinstance(value, dict):
            yield f"capabilities.{key}: expected an object; came {short(value)}"
    experimental = capabilities.get("experimental")
    for key, value in experimental.items() if isinstance(experimental, dict) else ():
        if not isinstance(value, dict):
            yield f'capabilities.experimental["{key}"]: expected an object; came {short(value)}'


def wrong_tools(tools: Sequence[Any]) -> Iterable[str]:
    """What is wrong with a list of tools, one line each."""
    seen: set[str] = set()
    for tool in tools:
        name = tool.get("name") if isinstance(tool, dict) else None
        if not isinstance(name, str) or not _TOOL_NAME.fullmatch(name):
            yield f"expected a name of 1 to 128 letters, digits, _ - . and /; came {short(name)}"
        elif name in seen:
            yield f"{name}: expected each name once; it came again"
        else:
            seen.add(name)
        schema = tool.get("inputSchema") if isinstance(tool, dict) else None
        if not isinstance(schema, dict) or schema.get("type") != "object":
            yield f'{name}: expected an inputSchema such as {{"type": "object"}}; came {short(schema)}'


def wrong_contents(resource: dict[str, Any], contents: Any) -> Iterable[str]:
    """What is wrong with what was read of a resource, one line each."""
    uri = resource["uri"]
    if not isinstance(contents, list):
        yield f'{uri}: expected a list "contents"; came {short(contents)}'
        return
    for content in contents:
        text = content.get("text") if isinstance(content, dict) else None
        if not isinstance(content, dict) or not isinstance(text if text is not None else content.get("blob"), str):
            yield f'{uri}: expected contents with a "text" or a "blob"; came {short(content)}'
        elif text is not None and content.get("mimeType", resource.get("mimeType")) == "application/json":
            try:
                json.loads(text)
            except ValueError as error:
                yield f"{uri}: expected JSON, as its mimeType says; {error}: {short(text)}"


def wrong_events(session: Session) -> list[str]:
    """What is wrong with the events that have come, one line each."""
    wrong = [f"the host would refuse it: {line}" for line in session.refused]
    seen: dict[str, str] = {}
    for event in session.events:
        try:
            normal = session.normalized(event)
        except EventRejected:
            continue
        if reason := wrong_time(normal.timestamp):
            wrong.append(f"timestamp: {reason}: {short(event)}")
        if event.get("id") is not None:
            content = json.dumps(event, sort_keys=True)
            if seen.setdefault(normal.id, content) != content:
                wrong.append(f"id: expected another for each event; this one's was used before: {short(event)}")
    return wrong


def wrong_time(timestamp_ms: int) -> str:
    """Why a timestamp is probably wrong; nothing if it may be right."""
    now_ms = int(time.time() * 1000)
    if _FIRST_MS <= timestamp_ms <= now_ms + _AHEAD_MS:
        return ""
    if _FIRST_MS <= timestamp_ms * 1000 <= now_ms + _AHEAD_MS:
        return f"{timestamp_ms} is in seconds; write milliseconds"
    return f"expected a time since 2000 in milliseconds, and not ahead of now; came {timestamp_ms}"


def advice(events: Sequence[dict[str, Any]]) -> list[str]:
    """What would be better, though it is not wrong."""
    if all(event.get("id") is not None for event in events):
        return []
    return ["advice: give events an id; without one, an event that is sent twice is published twice"]
