"""A tool server as small as they come, on the official SDK: any such server can be hosted unchanged."""

from __future__ import annotations

from mcp.server.mcpserver import MCPServer

server = MCPServer("hello", version="1.0.0", instructions="Says hello.")


@server.tool()
def hello(name: str = "world") -> str:
    """Say hello to somebody."""
    return f"Hello, {name}!"


@server.resource("hello://greeting", mime_type="text/plain")
def greeting() -> str:
    """The greeting that `hello` begins with."""
    return "Hello"


@server.prompt()
def welcome(name: str) -> str:
    """Ask for a welcome note."""
    return f"Write a short and warm note that welcomes {name}."


if __name__ == "__main__":
    server.run("stdio")
