"""A source written with the kit: one event at once, then silence."""

from __future__ import annotations

from eventhost.kit import EventSource, sleep

source = EventSource("kit", event_types=["kit.started"])


@source.task
async def say() -> None:
    await source.emit("kit.started", {})
    while True:
        await sleep(3600)


source.run()
