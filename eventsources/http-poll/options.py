"""What the configuration asks for: which URLs to look at, how, and what of their answers makes an event."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from importlib.util import find_spec
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from eventhost.kit.options import Options
from eventhost.kit.selection import Selection

FORMATS: Final = ("auto", "json", "feed", "text")
FEEDS_PACKAGE: Final = "feedparser"
FEEDS_MEND: Final = "pip install 'eventhost[feeds]'"

_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_OURS: Final = {"if-none-match", "if-modified-since", "accept-encoding", "host", "content-length", "connection"}
_TYPE_WORD: Final = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Page:
    """One URL and all about it. Durations are in seconds, sizes in bytes."""

    name: str
    url: str
    method: str
    headers: Mapping[str, str]
    body: bytes | None
    secrets: tuple[str, ...]
    """What no message may show."""
    interval_s: float
    max_age_s: float
    timeout_s: float
    max_bytes: int
    format: str
    selection: Selection
    next: str
    pages: int
    type: str
    first: str
    changed: bool | None
    """None: unless it is a feed."""
    deleted: bool
    remember: int

    @property
    def request(self) -> str:
        """The same for the same request only: what a server said of one says nothing of another."""
        asked = [self.method, self.url, sorted(self.headers.items()), (self.body or b"").hex()]
        return blake2b(json.dumps(asked).encode(), digest_size=16).hexdigest()

    def event_type(self, change: str) -> str:
        """The type of the event for `created`, `changed` or `deleted`."""
        return self.type.replace("{change}", change).replace("{name}", self.name)


def pages(settings: Mapping[str, Any]) -> list[Page]:
    """What to look at.

    Raises:
        ConfigError: it cannot be understood, or needs a package that is not installed.
    """
    options = Options(settings)
    if "urls" not in options:
        raise options.wrong("urls", "missing", 'write ["https://example.com/feed.xml"]')
    found: list[Page] = []
    for section in options.sections("urls", short="url"):
        page = _page(section)
        if any(page.name == other.name for other in found):
            raise section.wrong("name", f"{page.name} is there twice", "give each URL a `name` of its own")
        found.append(page)
    if not found:
        raise options.wrong("urls", "empty", 'write ["https://example.com/feed.xml"]')
    return found


def _page(options: Options) -> Page:
    url = options.text("url", example="https://example.com/feed.xml")
    name = options.text("name", _name_of(options, url))
    headers = _headers(options)
    secrets = [value for name, value in headers.items() if name.casefold() not in ("accept", "user-agent")]
    authorization, given = _authorization(options.section("auth")) if "auth" in options else ("", ())
    if authorization:
        if any(name.casefold() == "authorization" for name in headers):
            raise options.wrong("auth", "stands beside a header Authorization", "write one of them")
        headers["Authorization"] = authorization
    body = _body(options, headers)
    form = options.one_of("format", FORMATS, "auto")
    if form == "feed" and find_spec(FEEDS_PACKAGE) is None:
        raise options.wrong("format", f"feeds need the Python package {FEEDS_PACKAGE}", FEEDS_MEND)
    selection = Selection.of(options)
    if form in ("feed", "text") and (selection.items or selection.key):
        key = "items" if selection.items else "key"
        raise options.wrong(key, f"has no meaning for the format {form}", 'leave it out, or set `format` to "json"')
    page = Page(
        name=name,
        url=url,
        method=options.one_of("method", ("GET", "POST"), "GET" if body is None else "POST"),
        headers=headers,
        body=body,
        secrets=tuple(text for text in (*secrets, authorization, *given, *_secrets_of(url)) if len(text) > 3),
        interval_s=options.seconds("interval", 300, least=1, most=31 * 86_400),
        max_age_s=options.seconds("maxAge", 3600, least=0, most=31 * 86_400),
        timeout_s=options.seconds("timeout", 30, most=3600),
        max_bytes=options.whole("maxBytes", 10_000_000, least=1, most=1_000_000_000),
        format=form,
        selection=selection,
        next=options.text("next", "") if "next" in options else "",
        pages=options.whole("pages", 10, least=1, most=1000),
        type=_type(options),
        first=options.one_of("first", ("skip", "tell"), "skip"),
        changed=options.flag("changed", True) if "changed" in options else None,
        deleted=options.flag("deleted", False),
        remember=options.whole("remember", 10_000, least=0, most=10_000_000),
    )
    if page.method == "GET" and body is not None:
        raise options.wrong("body", "a GET has none", 'set `method` to "POST"')
    if page.deleted and form == "feed":
        raise options.wrong("deleted", "what a feed does not show any more is not deleted", "leave it out")
    if page.deleted and form != "text" and not selection.key:
        raise options.wrong("deleted", "needs to know the items by a `key`", 'write "key": "id"')
    options.close()
    return page


def _name_of(options: Options, url: str) -> str:
    """What a URL is called that was given no name: its host and path, for the rest may be secret."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError as error:
        raise options.wrong("url", f"is no URL: {error}", 'write "https://example.com/feed.xml"') from None
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"[\s\x00-\x1f]", url):
        raise options.wrong("url", "is no http or https URL", 'write "https://example.com/feed.xml"')
    return f"{parts.hostname}{port}{parts.path}".rstrip("/")


def _secrets_of(url: str) -> list[str]:
    parts = urlsplit(url)
    # A short value is more likely a word than a secret: `format=json`.
    values = [value for _, value in parse_qsl(parts.query) if len(value) >= 8]
    return [text for text in (parts.password, parts.query, *values) if text]


def _headers(options: Options) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in options.table("headers"):
        where = f"headers.{name}"
        if not _HEADER_NAME.fullmatch(name):
            raise options.wrong(where, "is no name of a header", 'write "X-Api-Key"')
        if name.casefold() in _OURS:
            raise options.wrong(where, "is set by this source", "leave it out")
        if not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
            raise options.wrong(where, "expected a text on one line", 'write "${env:NAME}" for a secret')
        headers[name] = value
    return headers


def _authorization(auth: Options) -> tuple[str, tuple[str, ...]]:
    """The header's value, and what of it is secret."""
    if ("bearer" in auth) == ("basic" in auth):
        raise auth.wrong("", 'expected {"bearer": "…"} or {"basic": {"user": "…", "password": "…"}}')
    if "bearer" in auth:
        token = auth.text("bearer", example="${env:TOKEN}")
        if not token.isascii() or not token.isprintable():
            raise auth.wrong("bearer", "expected a text of ASCII letters on one line")
        auth.close()
        return f"Bearer {token}", (token,)
    basic = auth.section("basic")
    user, password = basic.text("user"), basic.text("password", example="${env:PASSWORD}")
    if ":" in user:
        raise basic.wrong("user", "a colon ends it", "it cannot be sent this way")
    basic.close()
    auth.close()
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}", (password,)


def _body(options: Options, headers: dict[str, str]) -> bytes | None:
    body = options.value("body")
    if body is None:
        return None
    if not any(name.casefold() == "content-type" for name in headers):
        headers["Content-Type"] = "text/plain; charset=utf-8" if isinstance(body, str) else "application/json"
    return (body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)).encode(errors="replace")


def _type(options: Options) -> str:
    text = options.text("type", "http.{change}", example="release.{change}")
    if set(_TYPE_WORD.findall(text)) - {"change", "name"} or re.search(r"[{}]", _TYPE_WORD.sub("", text)):
        raise options.wrong("type", "it may hold {change} and {name}", 'write "release.{change}"')
    return text
