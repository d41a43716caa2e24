"""RSS 0.9 to 2.0, Atom and JSON Feed as items of one shape, oldest first; nothing is fetched, no entity expanded.

An item has {"id", "title", "link", "summary", "content", "author", "published", "updated", "tags", "enclosures"}.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from time import struct_time
from typing import Any, Final, NamedTuple
from urllib.parse import urljoin
from xml.sax import SAXException

from eventhost.kit.selection import Item, Items, Misshapen, canonical

JSON_FEED: Final = "https://jsonfeed.org/version/"

_ENTITY: Final = re.compile(rb"<!ENTITY", re.IGNORECASE)
_END: Final = re.compile(rb"</(?:[\w.-]+:)?(?:rss|feed|rdf)\s*>(?:\s|<!--.*?-->)*\Z", re.IGNORECASE | re.DOTALL)


class Feed(NamedTuple):
    """What a feed holds; `ttl_s` is how long it says that it stays as it is."""

    items: Items
    ttl_s: float = 0


def xml_feed(body: bytes, content_type: str, url: str) -> Feed:
    """Read RSS or Atom; `url` is what relative links start from. Those inside of HTML stay as they are.

    Raises:
        Misshapen: it is no feed, is not whole, or declares entities of its own.
    """
    # Imported here: who looks at JSON alone need not have it.
    import feedparser  # type: ignore[import-untyped]

    plain = body.replace(b"\0", b"")  # as UTF-16 has them
    if _ENTITY.search(plain):
        raise Misshapen("the feed declares entities, which may be a trap and is not read")
    # Without the URL: ids would be taken for relative links, and be others after a redirect.
    headers = {"content-type": content_type} if content_type else {}
    # A file, not bytes: those could be taken for the name of one.
    try:
        parsed = feedparser.parse(io.BytesIO(body), response_headers=headers)
    except Exception as error:
        # It is a heap of old code, and a feed may be anything: whatever that makes it raise is the feed's fault.
        raise Misshapen(f"the feed cannot be read: {type(error).__name__}: {error}") from error
    if not parsed.get("version"):
        raise Misshapen(f"this is no feed: {parsed.get('bozo_exception') or 'there is no RSS or Atom in it'}")
    # An odd declaration of the encoding is no harm.
    is_broken = parsed.bozo and isinstance(parsed.bozo_exception, SAXException)
    if is_broken and not _END.search(plain):
        raise Misshapen(f"the feed is not whole: {parsed.bozo_exception}")
    entries = [_of_entry(entry, url) for entry in parsed.entries]
    ttl = str(parsed.feed.get("ttl", "")).strip()
    return Feed(_in_order(entries), 60.0 * int(ttl[:6]) if ttl.isascii() and ttl.isdigit() else 0)


def json_feed(feed: Mapping[str, Any]) -> Feed:
    """Read a JSON Feed.

    Raises:
        Misshapen: it has no list of items.
    """
    items = feed.get("items")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise Misshapen("this JSON Feed has no list of `items`")
    return Feed(_in_order([_of_json_item(item) for item in items]))


def timestamp_of(item: Mapping[str, Any], change: str) -> str | None:
    """When it happened, as the feed has it."""
    published, updated = item.get("published"), item.get("updated")
    said = (published or updated) if change == "created" else updated
    return said if isinstance(said, str) else None


def _in_order(entries: Sequence[dict[str, Any]]) -> Items:
    """Without doubles, the oldest first: by their dates where each has one, else the last is the oldest."""
    found: dict[str, Item] = {}
    for entry in entries:
        found.setdefault(key := _key(entry), (key, entry))
    ordered = list(reversed(found.values()))
    dates = {key: entry["published"] or entry["updated"] for key, entry in ordered}
    if all(dates.values()):
        ordered.sort(key=lambda item: str(dates[item[0]]))
    return Items("feed", ordered)


def _key(entry: Mapping[str, Any]) -> str:
    known = entry["id"] or entry["link"]
    return str(known) if known else blake2b(canonical(entry).encode(), digest_size=16).hexdigest()


def _of_entry(entry: Mapping[str, Any], base: str) -> dict[str, Any]:
    contents = [one for one in entry.get("content", ()) if one.get("value")]
    html = [one for one in contents if "html" in str(one.get("type", ""))]
    link = entry.get("link") or None
    if entry.get("guidislink") and link and not link.startswith(("http://", "https://")):
        link = None  # it is the id, which only may be a link
    return {
        "id": entry.get("id") or None,
        "title": entry.get("title") or None,
        "link": _absolute(base, link) if link else None,
        "summary": entry.get("summary") or None,
        "content": (html or contents)[0]["value"] if contents else None,
        "author": entry.get("author") or None,
        "published": _date(entry.get("published_parsed")),
        "updated": _date(entry.get("updated_parsed") if "updated" in entry else None),
        "tags": [term for tag in entry.get("tags", ()) if (term := tag.get("term") or tag.get("label"))],
        "enclosures": [
            {"url": _absolute(base, one["href"]), "type": one.get("type") or None, "length": _length(one.get("length"))}
            for one in entry.get("enclosures", ())
            if one.get("href")
        ],
    }


def _of_json_item(item: Mapping[str, Any]) -> dict[str, Any]:
    authors = item.get("authors") if isinstance(item.get("authors"), list) else [item.get("author")]
    names = [one["name"] for one in authors or () if isinstance(one, dict) and isinstance(one.get("name"), str)]
    tags, attachments = item.get("tags"), item.get("attachments")
    known = item.get("id")
    return {
        # Some write a number.
        "id": known if isinstance(known, str) and known else None if known in (None, "") else json.dumps(known),
        "title": _text(item.get("title")),
        "link": _text(item.get("url")),
        "summary": _text(item.get("summary")),
        "content": _text(item.get("content_html")) or _text(item.get("content_text")),
        "author": ", ".join(names) or None,
        "published": _iso(item.get("date_published")),
        "updated": _iso(item.get("date_modified")),
        "tags": [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else [],
        "enclosures": [
            {"url": one["url"], "type": _text(one.get("mime_type")), "length": _length(one.get("size_in_bytes"))}
            for one in (attachments if isinstance(attachments, list) else ())
            if isinstance(one, dict) and isinstance(one.get("url"), str)
        ],
    }


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _absolute(base: str, link: str) -> str:
    try:
        return urljoin(base, link)
    except ValueError:
        return link  # it is none, and the feed's own


def _length(value: Any) -> int | None:
    text = str(value)
    return int(text[:18]) if text.isascii() and text.isdigit() else None


def _date(parsed: struct_time | None) -> str | None:
    if parsed is None:
        return None
    try:
        return _written(datetime(*parsed[:6], tzinfo=UTC))
    except ValueError:
        return None


def _iso(value: Any) -> str | None:
    try:
        moment = datetime.fromisoformat(value)
        return _written(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (TypeError, ValueError, OverflowError):
        return None


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"
