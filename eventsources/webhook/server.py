"""The webhook: an HTTP receiver whose requests become events; see README.md."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from receiver import Receiver
from routes import Options

from eventhost.errors import ConfigError, Problem
from eventhost.kit import EventSource

source = EventSource("webhook", ["webhook.*"], description="HTTP requests as events")

_LAST_ANSWERS_S = 0.5
"""How long requests that are being handled at the end have; the kit allows a second for everything."""

_address = ""


class Server(uvicorn.Server):
    """Uvicorn without its signal handlers: the end comes from the host, through the kit."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def options() -> Options:
    """What the configuration asks for.

    Raises:
        ConfigError: it cannot be understood.
    """
    try:
        return Options.from_config(source.options)
    except ValueError as error:
        raise ConfigError([Problem("config.jsonc", str(error))]) from None


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        ConfigError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        message = f"cannot listen on {host}:{port}: {error.strerror}"
        raise ConfigError([Problem("config.jsonc", message, "choose another port, or 0 for any", "port")]) from None


async def emit(event_type: str, payload: dict[str, Any], *, event_id: str | None = None) -> str:
    """Emit, and return the event's id once the host has accepted it."""
    return await source.emit(event_type, payload, id=event_id)


@source.task
async def receive() -> None:
    """Take requests until cancelled; those that are being handled then are still answered."""
    global _address
    wanted = options()
    receiver = Receiver(wanted, emit, source.log)
    config = uvicorn.Config(
        receiver,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=512,
    )
    with listen(wanted.host, wanted.port) as listener:
        host, port, *_ = listener.getsockname()
        _address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        source.log("info", f"listening on {_address}")
        for path in wanted.open_routes():
            source.log("warning", f"{path}: whoever reaches {_address} can send events here; add a signature")
        server = Server(config)
        serving = asyncio.ensure_future(server.serve(sockets=[listener]))
        try:
            await asyncio.shield(serving)
        finally:
            server.should_exit = True
            await asyncio.wait([serving], timeout=_LAST_ANSWERS_S)
            server.force_exit = True
            await serving


@source.tool(description="Tell the address that takes webhooks")
def get_address() -> dict[str, str]:
    """Where to send requests; empty until the receiver listens."""
    return {"address": _address}


if __name__ == "__main__":
    source.run()
