"""What a server says of when to ask again, and of what may be asked only whether it has changed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final

LONGEST_S: Final = 86_400.0
"""No server is left alone for longer because it asked so."""

_DIRECTIVE: Final = re.compile(r'([\w-]+)(?:\s*=\s*(?:"([^"]*)"|([^\s,]*)))?')


def validators(headers: Mapping[str, str]) -> dict[str, str]:
    """What to send with the next request, so that the server can say that nothing has changed."""
    sent = {"If-None-Match": headers.get("etag", ""), "If-Modified-Since": headers.get("last-modified", "")}
    return {name: value for name, value in sent.items() if value and value.isascii() and value.isprintable()}


def fresh_s(headers: Mapping[str, str]) -> float:
    """For how many seconds an answer stays as it is, by its `Cache-Control` and its `Age`; 0 where it does not say."""
    directives = _DIRECTIVE.findall(headers.get("cache-control", ""))
    said = {name.casefold(): quoted or plain for name, quoted, plain in directives}
    if said.keys() & {"no-cache", "no-store"}:
        return 0
    return max(_seconds(said.get("max-age", "")) - _seconds(headers.get("age", "")), 0)


def retry_after_s(headers: Mapping[str, str], now_s: float) -> float:
    """For how many seconds the server wants to be left alone, a number or a date; 0 where it does not say."""
    said = headers.get("retry-after", "").strip()
    if said.isascii() and said.isdigit():
        return _seconds(said)
    try:
        return min(max(parsedate_to_datetime(said).timestamp() - now_s, 0), LONGEST_S)
    except (ValueError, OverflowError):
        return 0


def _seconds(text: str) -> float:
    return min(float(text[:12]), LONGEST_S) if text.isascii() and text.isdigit() else 0
