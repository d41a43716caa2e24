"""Sessions: one client over however many connections, by Server-Sent Events or WebSocket."""
