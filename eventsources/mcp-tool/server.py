"""The MCP tool source: what a tool of any MCP server answers, looked at again and again, as events; see README.md."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from options import ServerAt, Watched, watched
from results import Answer
from watching import Watch

from eventhost.errors import NotFound
from eventhost.kit import EventSource
from eventhost.kit.upstream import first_to_end

if TYPE_CHECKING:
    from link import Server

source = EventSource("mcp-tool", ["mcp-tool.*"], description="Changes of what tools of MCP servers answer, as events")

_watches: dict[str, Watch] = {}

# What the SDK has to say about a failure is told as the failure; and it might name a URL with a secret in it.
logging.getLogger("mcp").setLevel(logging.CRITICAL)


@source.task
async def watch_all() -> None:
    """Watch every tool that the configuration names."""
    found = watched(source.options)
    _watches.clear()
    for one in found:
        _watches[one.name] = Watch(one, source.state_dir / "told", source.emit_all, source.upstream(one.name))
    # The SDK takes a second to load, which a mistake in the configuration need not wait for.
    from link import Server

    jobs: list[Awaitable[None]] = []
    for at in {id(one.server): one.server for one in found}.values():
        tools = [one for one in found if one.server is at]
        server = Server(at, source.state_dir / "server" / at.name, _log(at))
        server.on_news = partial(_retry, [tool.name for tool in tools])
        jobs.append(server.stay([source.upstream(tool.name) for tool in tools]))
        jobs += [_watches[tool.name].stay(partial(_call, server, tool)) for tool in tools]
    try:
        await first_to_end(*jobs)
    finally:
        for watch in _watches.values():
            watch.close()


@source.tool(description="Look at a tool now, beside its schedule; without a name, at all")
def look(name: str = "") -> list[str]:
    """Return the names of those that are looked at."""
    if name and name not in _watches:
        raise NotFound(f"there is no {name}; there are {', '.join(_watches)}")
    names = [name] if name else list(_watches)
    for one in names:
        _watches[one].look_now()
    return names


def _retry(names: list[str]) -> None:
    for name in names:
        _watches[name].retry_now()


async def _call(server: Server, tool: Watched, arguments: Mapping[str, Any]) -> Answer:
    return await server.call(tool.tool, arguments, tool.timeout_s)


def _log(at: ServerAt) -> Callable[[str, str], None]:
    return lambda level, text: source.log(level, f"{at.name}: {at.without_secrets(text)}")


if __name__ == "__main__":
    source.run()
