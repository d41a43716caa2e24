"""For audit: who asked the MCP server for what, with which result. No arguments and no contents are told."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import structlog
from mcp import MCPError

from eventhost.serve.peer import Peer

log = structlog.get_logger()

_TOLD: Final = frozenset({"tools/call", "resources/read", "prompts/get"})
"""What a person may want to know of afterwards; the rest is told at the level `debug`."""

_LONGEST_NAME: Final = 256


class Request:
    """One request, and what became of it."""

    result: str | int = "given up"

    def ended_in(self, result: Any) -> None:
        """Take note of its result."""
        self.result = "failed" if isinstance(result, Mapping) and result.get("isError") else "ok"


@contextmanager
def audited(method: str, params: Mapping[str, Any] | None, peer: Peer) -> Iterator[Request]:
    """Tell of a request when the block ends."""
    begun, request = time.monotonic(), Request()
    try:
        yield request
    except MCPError as error:
        request.result = error.code
        raise
    except Exception:
        request.result = "error"
        raise
    finally:
        asked = (params or {}).get("name", (params or {}).get("uri"))
        (log.info if method in _TOLD else log.debug)(
            "mcp_request",
            method=method,
            **({"name": asked[:_LONGEST_NAME]} if isinstance(asked, str) else {}),
            caller=peer.caller.name,
            how=peer.caller.how,
            result=request.result,
            ms=round((time.monotonic() - begun) * 1000, 1),
        )
