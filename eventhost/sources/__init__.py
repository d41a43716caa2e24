"""Event sources: receiving what they say, by whatever way in their servers offer."""

from eventhost.connections.states import EventSourceStatus
from eventhost.sources.client import EventMcpClient
from eventhost.sources.dedup import newest_first
from eventhost.sources.manager import EventMcpManager
from eventhost.sources.raw import record
from eventhost.sources.sse import SseEvent, SseManager, get_mcp_sse_manager
from eventhost.sources.status import SourceStatus
from eventhost.sources.upstreams import UpstreamStatus

__all__ = [
    "EventMcpClient",
    "EventMcpManager",
    "EventSourceStatus",
    "SourceStatus",
    "SseEvent",
    "SseManager",
    "UpstreamStatus",
    "get_mcp_sse_manager",
    "newest_first",
    "record",
]
