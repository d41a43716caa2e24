"""The MQTT source: messages of brokers as events; see README.md."""

from __future__ import annotations

from importlib.util import find_spec

from options import Broker, brokers

from eventhost.errors import ConfigError, Problem
from eventhost.kit import EventSource
from eventhost.kit.upstream import first_to_end

source = EventSource("iot", ["mqtt.*"], description="Messages of MQTT brokers as events")


def wanted() -> list[Broker]:
    """What the configuration asks for.

    Raises:
        ConfigError: it cannot be understood, or the driver is not installed.
    """
    if find_spec("aiomqtt") is None:
        mend = "pip install 'eventhost[mqtt]'"
        raise ConfigError([Problem("config.jsonc", "MQTT needs the Python package aiomqtt", mend)])
    return brokers(source.options)


@source.task
async def follow_all() -> None:
    """Follow every broker that the configuration names."""
    found = wanted()
    # Imported here: without aiomqtt it is `wanted` that says so.
    from following import Following

    sessions = []
    for broker in found:
        upstream = source.upstream(broker.name)
        following = Following(broker, source.bookmark(broker.name), source.emit_all, upstream)
        sessions.append(upstream.stay(following.session))
    await first_to_end(*sessions)


if __name__ == "__main__":
    source.run()
