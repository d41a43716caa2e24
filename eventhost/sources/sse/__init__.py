"""Plain Server-Sent Events as a source: endpoints that speak `text/event-stream`, and no MCP.

stream ─► parser ─► connection ─► the source's receiver ─► journal
                        └─► manager: what Python users register handlers with
"""

from eventhost.sources.sse.connection import SseConnection
from eventhost.sources.sse.manager import SseEvent, SseManager, get_mcp_sse_manager

__all__ = ["SseConnection", "SseEvent", "SseManager", "get_mcp_sse_manager"]
