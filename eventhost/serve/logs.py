"""What the tool servers log, told to the sessions that asked for it by `logging/setLevel`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final, get_args

import anyio
from mcp_types import LoggingLevel

from eventhost.tools import McpManager

_LEVELS: Final[tuple[str, ...]] = get_args(LoggingLevel)
"""From the least to the most severe."""

_WAITING: Final = 256
"""Messages that may wait to be told; what comes beyond is in the host's own log only."""


def is_heard(level: str, wanted: str | None) -> bool:
    """Whether a message of this level is for somebody who wants those from `wanted` on."""
    if wanted is None:
        return False
    return level not in _LEVELS or _LEVELS.index(level) >= _LEVELS.index(wanted)


async def logged(manager: McpManager) -> AsyncGenerator[dict[str, Any], None]:
    """The parameters of each `notifications/message` that there is to tell, for as long as they are taken."""
    send, receive = anyio.create_memory_object_stream[dict[str, Any]](_WAITING)

    def hear(server: str, level: str, data: Any) -> None:
        if send.statistics().current_buffer_used < _WAITING:
            known = level if level in _LEVELS else "info"
            send.send_nowait({"level": known, "logger": server, "data": data})

    manager.hear_logs(hear)
    try:
        with send, receive:
            async for message in receive:
                yield message
    finally:
        manager.hear_logs(None)
