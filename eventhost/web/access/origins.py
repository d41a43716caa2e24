"""By which names the host is called, and the pages of which origins may ask.

A page from elsewhere can make a browser talk to a loopback port: by DNS rebinding it even becomes the same origin. It
cannot choose the `Host` and `Origin` that the browser sends; that is what is checked while nobody needs a key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

Headers = list[tuple[bytes, bytes]]

_TOKENS = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~, -]{0,1024}")
_SHOWN = b"X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, Retry-After, Mcp-Session-Id"
_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE"


class Names:
    """The names that the host answers to: loopback's and its `own` with its port, `hosts` with or without one."""

    def __init__(self, port: int, own: Iterable[str] = (), hosts: Iterable[str] = (), *, tls: bool = False) -> None:
        names = {"localhost", "127.0.0.1", "[::1]", *map(_in_url, own)}
        with_port = {f"{name}:{port}" for name in names}
        bare = names if port == (443 if tls else 80) else set[str]()
        given = set(map(_in_url, hosts))
        given |= {f"{name}:{port}" for name in given}
        scheme = "https" if tls else "http"
        self.hosts = with_port | bare | given
        # What a proxy offers under a name of its own may be encrypted or not, whatever is spoken here.
        self.origins = {f"{scheme}://{host}" for host in with_port | bare}
        self.origins |= {f"{either}://{host}" for host in given for either in ("http", "https")}


class Cors:
    """Pages from elsewhere: `*` is any of them. Cookies are for the host's own pages, and never offered to others."""

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(origins)
        self.any = "*" in self._origins
        self.on = bool(self._origins)

    def names(self, origin: str) -> bool:
        """Whether an origin is named, not merely one of any."""
        return origin.lower() in self._origins - {"*"}

    def admits(self, origin: str) -> bool:
        """Whether its pages may read answers."""
        return self.any or self.names(origin)

    def headers(self, origin: str) -> Headers:
        """What an answer says to the browser of whoever asks from `origin`."""
        if self.any:
            return [(b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", _SHOWN)]
        told: Headers = [(b"vary", b"Origin")]
        if self.names(origin):
            value = origin.encode("latin-1")
            told += [(b"access-control-allow-origin", value), (b"access-control-expose-headers", _SHOWN)]
        return told

    def preflight(self, headers: Mapping[bytes, bytes]) -> Headers:
        """What a browser is told besides that asks beforehand; `headers` are those of its request."""
        wanted = headers.get(b"access-control-request-headers", b"")
        told = [(b"access-control-allow-methods", _METHODS), (b"access-control-max-age", b"600")]
        if wanted and _TOKENS.fullmatch(wanted):
            told.append((b"access-control-allow-headers", wanted))
        if b"access-control-request-private-network" in headers:
            told.append((b"access-control-allow-private-network", b"true"))
        return told


def is_own_page(headers: Mapping[bytes, bytes], hosts: Iterable[str]) -> bool:
    """Whether a browser says that a page of this very host asks, called by `hosts` or as the request calls it."""
    if (site := headers.get(b"sec-fetch-site")) is not None and site != b"same-origin":
        return False
    if (origin := headers.get(b"origin")) is None:
        return site is not None
    called = urlsplit(origin.decode("latin-1").lower()).netloc
    return bool(called) and (called == headers.get(b"host", b"").decode("latin-1").lower() or called in set(hosts))


def _in_url(host: str) -> str:
    return f"[{host.lower()}]" if host.count(":") > 1 and not host.startswith("[") else host.lower()
