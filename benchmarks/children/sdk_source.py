"""A source written with the MCP SDK for Python: one event when it is polled for the first time, then none."""

from __future__ import annotations

import json

from mcp.server.mcpserver import MCPServer

server = MCPServer("sdk")
pending = [{"type": "sdk.started"}]


@server.tool()
def list_pending_events() -> str:
    events = json.dumps(pending)
    pending.clear()
    return events


server.run()
