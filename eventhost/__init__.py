"""eventhost: a daemon that hosts event sources; its public names, each loaded when first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from eventhost.bus import EnvEventBus
    from eventhost.environment import ServerEnvironment
    from eventhost.event import EnvEvent
    from eventhost.sources import EventMcpClient, EventMcpManager, get_mcp_sse_manager
    from eventhost.tools import McpManager

__all__ = [
    "EnvEvent",
    "EnvEventBus",
    "EventMcpClient",
    "EventMcpManager",
    "McpManager",
    "ServerEnvironment",
    "get_mcp_sse_manager",
]

_HOMES = {
    "EnvEvent": "eventhost.event",
    "EnvEventBus": "eventhost.bus",
    "EventMcpClient": "eventhost.sources",
    "EventMcpManager": "eventhost.sources",
    "McpManager": "eventhost.tools",
    "ServerEnvironment": "eventhost.environment",
    "get_mcp_sse_manager": "eventhost.sources",
}


def __getattr__(name: str) -> object:
    # Lazy, so that `import eventhost.kit` inside a small source costs megabytes less.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'eventhost' has no attribute {name!r}")
