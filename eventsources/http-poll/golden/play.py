"""Plays the source's golden cases: a server that answers what the case says, one look after the other.

An answer has `json`, `text` or a `file` beside the cases, and `status`, `headers`; `"restart"` ends the source and
starts it again. One that has `unavailable` is to fail with that text. Of several URLs, the first is looked at.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from answers import Answer
from options import Page, pages
from polling import Poll

from eventhost.kit.event import Event
from eventhost.kit.golden import play
from eventhost.kit.selection import Misshapen
from eventhost.kit.upstream import Unavailable, Upstream


class WrongLook(Exception):
    """A look succeeded or failed otherwise than the case says."""


class Server:
    """Gives the answers in turn; of a list of answers, each to the request for the next page."""

    def __init__(self) -> None:
        self.answers: list[dict[str, Any]] = []

    async def fetch(self, page: Page, url: str, conditional: Mapping[str, str]) -> Answer:
        """The next answer; as `Fetcher.fetch`, conditions are for the server."""
        said = self.answers.pop(0)
        if "json" in said:
            body, kind = json.dumps(said["json"]).encode(), "application/json"
        elif "file" in said:
            body, kind = Path(__file__).with_name(said["file"]).read_bytes(), ""
        else:
            body, kind = said.get("text", "").encode(said.get("encoding", "utf-8")), ""
        headers = {"content-type": kind, **said.get("headers", {})} if kind else said.get("headers", {})
        return Answer(said.get("status", 200), headers, body, page.url)


async def drive(case: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Look as often as there are answers."""
    config, steps = case["config"], case["input"]
    page, *_ = pages({**config, **config.get("options", {})})
    told: list[dict[str, Any]] = []

    async def emit(events: Sequence[Event]) -> None:
        told.extend({key: value for key, value in event._asdict().items() if value is not None} for event in events)

    server = Server()

    def start() -> Poll:
        upstream = Upstream(page.name, lambda *_: None, lambda event: emit([event]), lambda: None)
        return Poll(page, folder, server.fetch, emit, upstream, asyncio.Semaphore())

    poll = start()
    for step in steps:
        if step == "restart":
            poll.close()
            poll = start()
            continue
        server.answers = step if isinstance(step, list) else [step]
        expected = server.answers[-1].get("unavailable")
        try:
            await poll.look()
            failed = None
        except (Unavailable, Misshapen) as error:
            failed = str(error)
        if (expected is None) != (failed is None) or (expected or "") not in (failed or ""):
            raise WrongLook(f"{step}: expected {expected or 'an answer'}, got {failed or 'an answer'}")
    poll.close()
    return told


if __name__ == "__main__":
    play(drive)
