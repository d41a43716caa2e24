"""The request that opens a stream: what an answer means is decided here, and to whom a secret is sent.

Messages never quote what the HTTP library says of a URL: it may hold a secret.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Final

import anyio
import httpx2

from eventhost.errors import ConnectionLost, EventhostError

MOST_REDIRECTS: Final = 10
LONGEST_ID: Final = 4_096
"""A longer id is not sent: no server would take such a header."""

LONGEST_WAIT_S: Final = 86_400.0
"""However long a server asks to be left alone, it is asked again after a day."""

_REDIRECTS: Final = (301, 302, 303, 307, 308)


class StreamEnded(EventhostError):
    """The server wants no further connection; it is stopped."""


class StreamForbidden(EventhostError):
    """The server knows who asks, and refuses; a person must act before it is asked again."""


class NoStream(EventhostError):
    """What is there is no event stream; asking again soon is of no use."""


class StreamRefused(ConnectionLost):
    """It may be there another time, but not before `after_s`."""

    def __init__(self, message: str, after_s: float = 0.0) -> None:
        super().__init__(message)
        self.after_s = after_s


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked, and how; secrets are in here, so it is made for one attempt and not kept."""

    url: str = field(repr=False)
    auth_key: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    user_agent: str = ""
    last_id: str = ""
    verify_tls: bool = True
    cert: Path | None = None
    key: Path | None = None


@asynccontextmanager
async def open_stream(request: Request) -> AsyncIterator[AsyncIterator[bytes]]:
    """The bytes of an event stream, until the block ends. The caller bounds the time that opening takes.

    Redirects are followed; to another server than the configured one go no key, no headers and no certificate.

    Raises:
        StreamEnded, StreamForbidden, NoStream, StreamRefused: the answer is another.
        ConnectionLost: there is no answer.
    """
    own = url = _parsed(request.url)
    for _ in range(MOST_REDIRECTS + 1):
        async with AsyncExitStack() as stack:
            trusted = _same_server(own, url)
            client = await stack.enter_async_context(await _client(request, url, trusted))
            try:
                response = await client.send(_get(client, request, url, trusted), stream=True)
            except (httpx2.LocalProtocolError, UnicodeError):
                raise NoStream("auth_key, or a header, holds a character that cannot be sent; correct it") from None
            except httpx2.TransportError as error:
                raise ConnectionLost(describe(error)) from error
            stack.push_async_callback(response.aclose)
            if response.status_code not in _REDIRECTS or "location" not in response.headers:
                _check(response)
                yield response.aiter_bytes()
                return
            url = _redirected(url, response.headers["location"])
    raise NoStream(f"more than {MOST_REDIRECTS} redirects; correct server_url")


def describe(error: httpx2.RequestError) -> str:
    """What went wrong with the connection, in words that hold no secret."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the server's certificate is not trusted: {cause.verify_message}; see verify_ssl"
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__


def retry_after_s(headers: httpx2.Headers, now_s: float) -> float:
    """How long the server asks to wait, by `Retry-After` in seconds or as a date; 0 if it does not say."""
    said = headers.get("retry-after", "").strip()
    if said.isascii() and said.isdigit():
        return min(float(said[:9]), LONGEST_WAIT_S)
    try:
        return min(max(parsedate_to_datetime(said).timestamp() - now_s, 0.0), LONGEST_WAIT_S)
    except (ValueError, OverflowError):
        return 0.0


async def _client(request: Request, url: httpx2.URL, trusted: bool) -> httpx2.AsyncClient:
    # Reading the certificates of all authorities takes a while, and needs no event loop.
    context = await anyio.to_thread.run_sync(_tls, request, url.scheme == "https", trusted)
    return httpx2.AsyncClient(
        verify=context,
        timeout=None,
        follow_redirects=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
    )


def _tls(request: Request, used: bool, trusted: bool) -> ssl.SSLContext:
    if not used:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context = ssl.create_default_context()
    if not request.verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if request.cert is not None and trusted:
        try:
            context.load_cert_chain(request.cert, request.key, password=_nobody)
        except (OSError, ValueError) as error:
            raise StreamForbidden(f"the client certificate cannot be used: {error}; see ssl_cert_path") from None
    return context


def _nobody() -> str:
    # Else OpenSSL would ask at the terminal.
    raise ValueError("its key is encrypted")


def _get(client: httpx2.AsyncClient, request: Request, url: httpx2.URL, trusted: bool) -> httpx2.Request:
    headers = httpx2.Headers({"Accept": "text/event-stream", "Accept-Encoding": "identity"})
    headers.update({"Cache-Control": "no-store", "User-Agent": request.user_agent})
    if trusted:
        if key := request.auth_key.strip():
            headers["Authorization"] = f"Bearer {key}"
        headers.update(dict(request.headers))
    fields: list[tuple[bytes, bytes]] = list(headers.raw)
    last_id = request.last_id.encode()
    if 0 < len(last_id) <= LONGEST_ID:
        fields.append((b"Last-Event-ID", last_id))
    return client.build_request("GET", url, headers=fields)


def _check(response: httpx2.Response) -> None:
    status = response.status_code
    answer = f"the server answered HTTP {status} {response.reason_phrase}".rstrip()
    if status == httpx2.codes.NO_CONTENT:
        raise StreamEnded(f"{answer}: it wants no further connection; start the source to ask again")
    if status in (httpx2.codes.UNAUTHORIZED, httpx2.codes.FORBIDDEN):
        raise StreamForbidden(f"{answer}; correct auth_key, and start the source again")
    if status >= 400:
        raise StreamRefused(answer, retry_after_s(response.headers, time.time()))
    kind = response.headers.get("content-type", "").partition(";")[0].strip().casefold()
    if status != httpx2.codes.OK or kind != "text/event-stream":
        raise NoStream(f"{answer} with {kind[:80] or 'no content type'}, not text/event-stream; correct server_url")


def _parsed(url: str) -> httpx2.URL:
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, TypeError):
        raise NoStream("server_url is no URL; correct it") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise NoStream("server_url is no http or https URL; correct it")
    return parsed


def _redirected(url: httpx2.URL, location: str) -> httpx2.URL:
    try:
        target = url.join(location)
    except httpx2.InvalidURL:
        raise NoStream("the server redirects to what is no URL; correct server_url") from None
    if target.scheme not in ("http", "https") or (url.scheme == "https" and target.scheme == "http"):
        raise NoStream(f"the server redirects from {url.scheme} to {target.scheme[:20]}, which is refused")
    return target


def _same_server(own: httpx2.URL, url: httpx2.URL) -> bool:
    """Whether `url` is at the configured server, or at the same one over TLS."""
    if own.host != url.host:
        return False
    return _place(own) == _place(url) or (_place(own), _place(url)) == (("http", 80), ("https", 443))


def _place(url: httpx2.URL) -> tuple[str, int]:
    return url.scheme, url.port or (443 if url.scheme == "https" else 80)
