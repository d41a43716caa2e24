"""Plays golden cases: what a tool answers, look by look, and what is told of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from options import Watched, watched
from results import Answer
from watching import Watch

from eventhost.errors import EventhostError
from eventhost.kit.golden import Event, play
from eventhost.kit.upstream import Upstream

RESTART = "restart"


class Tool:
    """Gives the answers of one look, a page for each call."""

    def __init__(self, look: Mapping[str, Any]) -> None:
        self._pages: list[Mapping[str, Any]] = list(look.get("pages", [look]))
        self.failure: str = look.get("fails", "")
        self.asked: list[Mapping[str, Any]] = []

    async def call(self, arguments: Mapping[str, Any]) -> Answer:
        """The next page; `asked` of it is what must have been asked for it."""
        page = self._pages[min(len(self.asked), len(self._pages) - 1)]
        self.asked.append(arguments)
        assert arguments == page.get("asked", arguments), f"asked {arguments}, expected {page['asked']}"
        texts = [{"type": "text", "text": text} for text in page.get("texts", [])]
        return Answer(page.get("structured"), page.get("content", texts), page.get("isError", False))


async def drive(case: dict[str, Any], folder: Path) -> list[Event]:
    """Look at each of the answers; after `"restart"` from what is kept."""
    config = case["config"]
    (tool,) = watched({**config, **config.get("options", {})})
    events: list[dict[str, Any]] = []

    async def emit(emitted: Iterable[Any]) -> None:
        events.extend(event._asdict() for event in emitted)

    watch = _watch(tool, folder, emit)
    for look in case["input"].get("looks", []):
        if look == RESTART:
            watch.close()
            watch = _watch(tool, folder, emit)
        else:
            await _look(watch, Tool(look))
    watch.close()
    return [{key: value for key, value in event.items() if value is not None} for event in events]


async def _look(watch: Watch, tool: Tool) -> None:
    failure = ""
    try:
        await watch.look(tool.call)
    except EventhostError as error:
        failure = str(error)
    assert tool.failure in failure, f"fails with {failure!r}, expected {tool.failure!r}"
    assert bool(tool.failure) == bool(failure), f"fails with {failure!r}"


def _watch(tool: Watched, folder: Path, emit: Any) -> Watch:
    async def gap(event: Any) -> None:
        await emit([event])

    return Watch(tool, folder, emit, Upstream(tool.name, lambda level, text: None, gap, lambda: None))


if __name__ == "__main__":
    play(drive)
