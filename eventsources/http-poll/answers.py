"""What a server answered, and the items in it. What is not of the right shape is never taken for an empty list."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Final, NamedTuple

import feeds
from options import FEEDS_MEND, FEEDS_PACKAGE, Page

from eventhost.kit.selection import Items, Misshapen, at

_LINK: Final = re.compile(r'<([^<>]*)>((?:\s*;\s*[\w*-]+\s*(?:=\s*(?:"[^"]*"|[^\s;,"]*))?)*)')
_REL: Final = re.compile(r';\s*rel\s*=\s*(?:"([^"]*)"|([^\s;,"]*))', re.IGNORECASE)
_FEED: Final = re.compile(rb"<(?:rss|feed|(?:[\w.-]+:)?rdf)[\s>]", re.IGNORECASE)


class Answer(NamedTuple):
    """One answer, whole; the names of its headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str
    """Where it came from in the end."""

    @property
    def media_type(self) -> str:
        """Such as `text/html`; empty where the server does not say."""
        return self.headers.get("content-type", "").partition(";")[0].strip().casefold()

    @property
    def charset(self) -> str | None:
        """The one that is declared and known."""
        found = re.search(r'charset\s*=\s*"?([\w.:-]+)', self.headers.get("content-type", ""), re.IGNORECASE)
        try:
            return codecs.lookup(found[1]).name if found else None
        except LookupError:
            return None


class Reading(NamedTuple):
    """What was found in an answer; `next` is where the list goes on, `ttl_s` for how long it stays as it is."""

    items: Items
    next: str | None = None
    ttl_s: float = 0


def read(page: Page, answer: Answer) -> Reading:
    """Find the items.

    Raises:
        Misshapen: the answer is not what it should be.
    """
    form = page.format if page.format != "auto" else _format_of(answer)
    if form == "text":
        text = answer.body.decode(answer.charset or "utf-8", errors="replace")
        return Reading(Items("document", [(None, {"text": text})]))
    if form == "feed" and answer.body.lstrip()[:1] != b"{":
        if find_spec(FEEDS_PACKAGE) is None:
            raise Misshapen(f"this is a feed, which needs the Python package {FEEDS_PACKAGE}; {FEEDS_MEND}")
        items, ttl_s = feeds.xml_feed(answer.body, answer.headers.get("content-type", ""), answer.url)
        return Reading(items, ttl_s=ttl_s)
    value = _json(answer)
    if form == "feed" or _is_json_feed(page, value):
        if not isinstance(value, dict):
            raise Misshapen("this is no feed")
        return Reading(*feeds.json_feed(value)[:1])
    found = page.selection.read(value)
    return Reading(found, _next(page, answer, value))


def _format_of(answer: Answer) -> str:
    start = answer.body.replace(b"\0", b"")[:4096]
    if answer.media_type.endswith("json") or start.lstrip(codecs.BOM_UTF8 + b" \t\r\n")[:1] in (b"{", b"["):
        return "json"
    if _FEED.search(start):
        return "feed"
    kind = answer.media_type or "of no declared type"
    raise Misshapen(f'neither JSON nor a feed, but {kind}; set `format` to "text" if that is what it is')


def _json(answer: Answer) -> Any:
    try:
        charset = answer.charset
        known = charset is None or charset.startswith("utf")
        return json.loads(answer.body if known else answer.body.decode(charset or ""), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        what = "it is empty" if not answer.body.strip() else f"{type(error).__name__}: {error}"
        kind = f", but {answer.media_type}" if answer.media_type and not answer.media_type.endswith("json") else ""
        raise Misshapen(f"the answer is not JSON{kind}: {what}") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _is_json_feed(page: Page, value: Any) -> bool:
    asked = page.format != "auto" or page.selection.items or page.selection.key
    return not asked and isinstance(value, dict) and str(value.get("version", "")).startswith(feeds.JSON_FEED)


def _next(page: Page, answer: Answer, value: Any) -> str | None:
    if page.next != "link":
        found = at(value, page.next) if page.next else None
        return found if isinstance(found, str) and found else None
    for target, parameters in _LINK.findall(answer.headers.get("link", "")):
        rel = _REL.search(parameters)
        if rel and "next" in (rel[1] or rel[2] or "").casefold().split():
            return str(target)
    return None
