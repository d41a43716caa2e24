"""Loggers that bear a name, as the standard library's do: users of these streams know them by it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

_log = structlog.get_logger()


class NamedLog:
    """structlog's logger, whose lines all say `logger`; bound anew each time, since logging may be configured later."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, level: str) -> Callable[..., Any]:
        return partial(getattr(_log, level), logger=self._name)


client_log = NamedLog("mcp.sse_client")
handler_log = NamedLog("mcp.event_handler")
manager_log = NamedLog("mcp.manager")
