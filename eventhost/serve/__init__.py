"""The host as an MCP server: what all tool servers offer, and what the host offers itself, to whoever speaks MCP.

    /mcp ────────────────► Streamable HTTP, both eras ─┐
    eventhost mcp ───────► lines, both eras ───────────┼─► one SDK server ─┬─► what is the host's own (`own.py`)
    /sse, /ws sessions ──► McpFace.answer ─────────────┘                   └─► tool servers (`passing.py`)

What the host offers itself is registered before the face runs:

    face.own.tool(OwnTool(Tool(name="emit_event", input_schema=…), Access.PUBLISH, call))
    face.own.resources(provider)

`call(arguments, peer)` returns a dict (structured content, and its JSON as text), a str, or a `CallToolResult`; it
raises `ToolFailed`, or any error of the house, whose text the caller gets as the tool's failure. A provider of
resources is an `OwnResources`.

A `Peer` is one session: `peer.caller` says who it is, `peer.notify(method, params)` reaches it (None where nothing
unsolicited can: modern HTTP, where each request is a peer of its own), `peer.subscriptions` holds by key what ends with
it: each value's `aclose()` is awaited then. What has to run meanwhile is started in `face.tasks`.

`await face.resource_updated(uri)` tells all that have subscribed to it; `face.watched()` are those URIs, so that nobody
needs to look for changes that interest nobody.
"""

from eventhost.serve.bus import BusTools
from eventhost.serve.face import McpFace
from eventhost.serve.own import OwnResources, OwnTool, ToolFailed
from eventhost.serve.peer import Notify, Peer, Subscription

__all__ = ["BusTools", "McpFace", "Notify", "OwnResources", "OwnTool", "Peer", "Subscription", "ToolFailed"]
