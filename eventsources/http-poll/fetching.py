"""One request and its answer: bounded in time and size, redirects followed, and no secret told to another server.

Messages are in words of our own: those of the HTTP library may quote the request.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final, NamedTuple

import httpx2
from answers import Answer
from freshness import retry_after_s
from options import Page

from eventhost import __version__
from eventhost.kit.upstream import Unavailable

MAX_REDIRECTS: Final = 10
_MOVED: Final = frozenset((301, 302, 303, 307, 308))
_FOR_GOOD: Final = frozenset((301, 308))
_ASK_AGAIN: Final = frozenset((408, 425, 429))
_SHOWN_BYTES: Final = 200

_MENDS: Final = {
    401: "; mend `auth` or `headers`",
    403: "; `auth` or `headers` may be wrong",
    404: "; is the `url` right?",
    410: ": it is gone for good; take it out of `urls`",
}

# It logs the URL of each request, with what secrets it holds.
logging.getLogger("httpx2").setLevel(logging.WARNING)

Fetch = Callable[[Page, str, Mapping[str, str]], Awaitable[Answer]]
"""Asks for a URL, with these headers besides the page's own. Raises `Unavailable`."""


def http_client() -> httpx2.AsyncClient:
    """The client that all URLs share: one pool of connections, and no cookie."""
    return httpx2.AsyncClient(
        timeout=None,
        # No bound on all: URLs that do not answer would hold up the others.
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=60),
        headers={"User-Agent": f"eventhost/{__version__}", "Accept": "*/*"},
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
    )


class _Request(NamedTuple):
    method: str
    url: httpx2.URL
    headers: Mapping[str, str]
    content: bytes | None


class Fetcher:
    """Fetches with one client; `log` is told what its user should know."""

    def __init__(self, client: httpx2.AsyncClient, log: Callable[[str, str], None]) -> None:
        self._client = client
        self._log = log
        self._told: set[str] = set()

    async def fetch(self, page: Page, url: str, conditional: Mapping[str, str]) -> Answer:
        """Ask for `url`, the page's own or one that follows it; an answer has status 200 to 203, or 304.

        Raises:
            Unavailable: there was no such answer.
        """
        try:
            async with asyncio.timeout(page.timeout_s):
                answer = await self._follow(page, url, conditional)
        except TimeoutError:
            raise Unavailable(f"did not answer within {page.timeout_s:g} s; raise `timeout`?") from None
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol):
            raise Unavailable("this is no http or https URL") from None
        except httpx2.ConnectError as error:
            raise Unavailable(f"cannot be connected to: {hidden(page, str(error))}") from None
        except httpx2.DecodingError:
            raise Unavailable("the answer is packed in a way that cannot be unpacked") from None
        except httpx2.HTTPError as error:
            raise Unavailable(f"the connection failed ({type(error).__name__})") from None
        if answer.status == 304 and conditional:
            return answer
        if not 200 <= answer.status <= 203:
            raise _refusal(page, answer)
        return answer

    async def _follow(self, page: Page, url: str, conditional: Mapping[str, str]) -> Answer:
        own = {**page.headers, **conditional}
        request = _Request(page.method, httpx2.URL(page.url).join(url), own, page.body)
        if not _same_server(httpx2.URL(page.url), request.url):
            raise Unavailable("the next page is on another server, which is not asked")
        for _ in range(MAX_REDIRECTS + 1):
            answer = await self._ask(page, request)
            if answer.status not in _MOVED or "location" not in answer.headers:
                return answer
            target = request.url.join(answer.headers["location"])
            if target.scheme not in ("http", "https"):
                raise Unavailable("leads to what is no http or https URL")
            if answer.status in _FOR_GOOD:
                self._tell_moved(page, target)
            headers = request.headers if _same_server(request.url, target) else {}
            if answer.status in (307, 308) or request.method == "GET":
                # What is sent may be secret as well.
                if request.content is not None and not headers:
                    raise Unavailable(f"sends its {request.method} to another server; mend the `url`")
                request = request._replace(url=target, headers=headers)
            else:
                request = _Request("GET", target, headers, None)
        raise Unavailable(f"more than {MAX_REDIRECTS} redirects")

    async def _ask(self, page: Page, request: _Request) -> Answer:
        method, url, headers, content = request
        async with self._client.stream(method, url, headers=dict(headers), content=content) as response:
            said = {name.lower(): value for name, value in response.headers.items()}
            body = bytearray()
            is_answer = response.status_code not in _MOVED and response.status_code != 304
            if is_answer:
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > page.max_bytes:
                        raise Unavailable(f"the answer is larger than {page.max_bytes} bytes; raise `maxBytes`")
            return Answer(response.status_code, said, bytes(body), str(response.url))

    def _tell_moved(self, page: Page, target: httpx2.URL) -> None:
        if page.name not in self._told:
            self._told.add(page.name)
            place = hidden(page, f"{target.scheme}://{target.netloc.decode('ascii')}{target.path}".replace("\n", ""))
            self._log("warning", f"{page.name}: has moved for good to {place}; mend its `url`")


def hidden(page: Page, text: str) -> str:
    """The text without the page's secrets."""
    for secret in sorted(page.secrets, key=len, reverse=True):
        text = text.replace(secret, "…")
    return text


def _same_server(one: httpx2.URL, other: httpx2.URL) -> bool:
    """Whether what is secret to one may be told the other: the same, or the same by TLS."""
    if one.host != other.host:
        return False
    upgraded = (one.scheme, other.scheme) == ("http", "https") and one.port is None and other.port is None
    return upgraded or (one.scheme, one.port) == (other.scheme, other.port)


def _refusal(page: Page, answer: Answer) -> Unavailable:
    """What an answer that is none says, in the words of its status and, where they are for people, its own."""
    status = answer.status
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = ""
    said = ""
    if answer.media_type.endswith("json") or answer.media_type == "text/plain":
        said = " ".join(answer.body[: _SHOWN_BYTES * 4].decode(errors="replace").split())
        said = hidden(page, said)
        said = f": {said[:_SHOWN_BYTES]}{'…' if len(said) > _SHOWN_BYTES else ''}" if said else ""
    after_s = retry_after_s(answer.headers, time.time())
    if 400 <= status < 500 and status not in _ASK_AGAIN:
        # Asking sooner is of no use: somebody has to mend it.
        after_s = max(after_s, page.interval_s)
    return Unavailable(f"answered {status} {reason}".rstrip() + said + _MENDS.get(status, ""), after_s=after_s)
