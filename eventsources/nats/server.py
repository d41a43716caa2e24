"""The NATS source: messages of subjects, and of streams of JetStream, as events; see README.md."""

from __future__ import annotations

from importlib.util import find_spec

from options import Connection, connections

from eventhost.errors import ConfigError, Problem
from eventhost.kit import EventSource
from eventhost.kit.upstream import first_to_end

source = EventSource("nats", ["nats.*"], description="Messages of NATS and JetStream as events")


def wanted() -> list[Connection]:
    """What the configuration asks for.

    Raises:
        ConfigError: it cannot be understood, or a Python package is not installed.
    """
    for package in ("nats", "nkeys"):
        if find_spec(package) is None:
            needs = f"it needs the Python package {package}"
            raise ConfigError([Problem("config.jsonc", needs, "pip install 'eventhost[nats]'")])
    return connections(source.options)


@source.task
async def read_all() -> None:
    """Read whatever the configuration names."""
    found = wanted()
    # Imported here: without the package nothing could say that it is missing.
    from connecting import Servers
    from streams import Reader
    from subscriptions import Subscriptions

    shared = [Servers(connection) for connection in found]
    kept_up = []
    for connection, servers in zip(found, shared, strict=True):
        if connection.subjects:
            kept_up.append(Subscriptions(source, connection, servers).stay())
        kept_up += [Reader(source, connection, stream, servers).stay() for stream in connection.streams]
    try:
        await first_to_end(*kept_up)
    finally:
        for servers in shared:
            await servers.close()


if __name__ == "__main__":
    source.run()
