"""A session with the running host as an MCP server, over its control socket; lines both ways. Standard library only."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Final

from eventhost.errors import ConnectionLost, EventhostError
from eventhost.web.control_socket import CONTROL_SOCKET, socket_name

LINES_PATH: Final = "/mcp/lines"

_ANSWER_S = 10.0
"""How long a host that is busy, or about to stop, may take to begin the session."""


class Attachment:
    """One such session; it ends when the host does, or by `close`."""

    def __init__(self, root: Path, query: str = "") -> None:
        """Attach to the host of the environment in `root`.

        Raises:
            ConnectionLost: there is none.
            EventhostError: it refuses.
        """
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(_ANSWER_S)
        try:
            with socket_name(root / CONTROL_SOCKET) as name:
                self._socket.connect(name)
            head = (
                f"POST {LINES_PATH}{query} HTTP/1.1",
                "Host: eventhost",
                "Content-Type: application/json",
                "Transfer-Encoding: chunked",
            )
            self._socket.sendall("\r\n".join((*head, "", "")).encode())
            self._response = HTTPResponse(self._socket, method="POST")
            self._response.begin()
        except PermissionError as error:
            self._socket.close()
            raise ConnectionLost("the host belongs to another user; use that account, or sudo") from error
        except (OSError, HTTPException) as error:
            self._socket.close()
            raise ConnectionLost(
                f"no host is running for {root}; start one with `eventhost run --env {root}`"
            ) from error
        if self._response.status == 400:
            refusal = _said(self._response)
            self.close()
            raise EventhostError(refusal)
        if self._response.status != 200:
            self.close()
            raise EventhostError(
                f"the host of {root} does not serve MCP ({self._response.status}); is it of another version? restart it"
            )
        self._socket.settimeout(None)

    def send(self, line: bytes) -> None:
        """Say one line, with its end.

        Raises:
            OSError: the session has ended.
        """
        self._socket.sendall(b"%x\r\n%b\r\n" % (len(line), line))

    def lines(self) -> Iterator[bytes]:
        """What the host says, line by line, until the session ends."""
        try:
            while line := self._response.readline():
                yield line
        except (OSError, HTTPException, ValueError):
            return  # ended in the middle of it

    def close(self) -> None:
        """End the session."""
        with suppress(OSError):  # ended already
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _said(response: HTTPResponse) -> str:
    """What the host says is wrong with what was asked for."""
    try:
        return str(json.loads(response.read())["error"]["message"])
    except (OSError, HTTPException, ValueError, LookupError, TypeError):
        return "the host refuses what was asked for, and did not say why"
