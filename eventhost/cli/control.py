"""Talking to a running host: over its control socket, or over HTTP where a URL is given. Standard library only.

What goes wrong becomes one sentence that says how to mend it.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote, urlencode, urlsplit

from eventhost.errors import ConfigError, ConnectionLost, EventhostError, Problem
from eventhost.web.control_socket import CONTROL_SOCKET, socket_name

KEY_VARIABLE: Final = "EVENTHOST_KEY"

_TIMEOUT_S = 60.0
"""Longer than a source may take to stop and start; a live stream has a heartbeat every 15 s."""


@dataclass(frozen=True, slots=True)
class StreamItem:
    """One event of a live stream: `event` is its type, `data` its JSON text, `id` where to resume after it."""

    event: str
    data: str
    id: str


class Host:
    """One running host.

    Every method raises `ConnectionLost` when it is not there, `ConfigError` when a configuration stands in the way, and
    `EventhostError` when it refuses.
    """

    def __init__(self, connection: HTTPConnection, *, prefix: str, absent: str, key: str = "") -> None:
        self._connection = connection
        self._key = key
        self._prefix = prefix
        self._absent = absent

    @classmethod
    def of_folder(cls, root: Path) -> Self:
        """The host of the environment in `root`, over its control socket."""
        absent = f"no host is running for {root}; start one with `eventhost run --env {root}`"
        return cls(_UnixConnection(root / CONTROL_SOCKET), prefix="", absent=absent)

    @classmethod
    def at_url(cls, url: str) -> Self:
        """The host at `url`; the variable `EVENTHOST_KEY` holds the key for it, where it asks for one.

        Raises:
            ConfigError: it is no URL of a host.
        """
        try:
            parts = urlsplit(url)
            name, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise ConfigError([Problem(url, f"not a URL: {error}", "write http://127.0.0.1:8001")]) from error
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        absent = f"no host answers at {url}; start it there with `eventhost run`, and look at http.port in its config"
        key = os.environ.get(KEY_VARIABLE, "")
        return cls(kind(name, port, timeout=_TIMEOUT_S), prefix=parts.path.rstrip("/"), absent=absent, key=key)

    def get(self, path: str, **query: str | int | None) -> Any:
        """The JSON answer to GET; a `query` value of None is left out."""
        given = {name: value for name, value in query.items() if value is not None}
        return self._json("GET", f"{path}?{urlencode(given)}" if given else path)

    def post(self, path: str, body: Any = None) -> Any:
        """The JSON answer to POST; a `body` of bytes is JSON already."""
        if not isinstance(body, bytes):
            body = b"" if body is None else json.dumps(body).encode()
        return self._json("POST", path, body)

    def lines(self, path: str, body: Any) -> Iterator[Any]:
        """The JSON lines that are the answer to POST, as they come; leaving off ends what is told."""
        with self._answer("POST", path, json.dumps(body).encode()) as answer:
            for line in answer:
                if line.strip():
                    yield _parse(line)

    def stream(self, path: str, **query: str | int | None) -> Iterator[StreamItem]:
        """Live events, as they come, until the host ends them."""
        given = {name: value for name, value in query.items() if value is not None}
        with self._answer("GET", f"{path}?{urlencode(given)}", headers={"Accept": "text/event-stream"}) as answer:
            fields: dict[str, str] = {}
            for line in answer:
                text = line.decode(errors="replace").rstrip("\r\n")
                name, _, value = text.partition(": ")
                if text:
                    fields[name] = value
                    continue
                if "data" in fields:
                    yield StreamItem(fields.get("event", "message"), fields["data"], fields.get("id", ""))
                fields.clear()

    def _json(self, method: str, path: str, body: bytes = b"") -> Any:
        with self._answer(method, path, body) as answer:
            return _parse(answer.read())

    @contextmanager
    def _answer(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Iterator[HTTPResponse]:
        headers = {**({"Content-Type": "application/json"} if body else {}), **(headers or {})}
        if self._key:
            headers["X-API-Key"] = self._key
        try:
            self._connection.request(method, self._prefix + path, body or None, headers)
        except PermissionError as error:
            raise ConnectionLost("the host belongs to another user; use that account, or sudo") from error
        except OSError as error:
            raise ConnectionLost(self._absent) from error
        try:
            answer = self._connection.getresponse()
            if answer.status >= 400:
                raise _refusal(answer)
            yield answer
        except TimeoutError as error:
            raise ConnectionLost(f"the host has not answered for {_TIMEOUT_S:.0f} s; its log may say why") from error
        except (OSError, HTTPException) as error:
            raise ConnectionLost("the host ended the connection; it may be stopping") from error
        finally:
            self._connection.close()


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("eventhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            with socket_name(self._path) as name:
                self.sock.connect(name)
        except OSError:
            self.sock.close()
            raise


def source_path(name: str, verb: str = "") -> str:
    """The path of a source, and of something to do with it."""
    return f"/sources/{quote(name, safe='')}" + (f"/{verb}" if verb else "")


def _refusal(answer: HTTPResponse) -> EventhostError:
    value = _parse(answer.read())
    try:
        message, data = str(value["error"]["message"]), value["error"]["data"]
        if problems := data.get("problems"):
            return ConfigError([Problem(**problem) for problem in problems])
    except (KeyError, TypeError, AttributeError):
        return EventhostError(f"what answers there is no eventhost: {answer.status} {answer.reason}; look at --env")
    return EventhostError(message)


def _parse(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise EventhostError("what answers there is no eventhost; look at --env") from error
