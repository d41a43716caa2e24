"""Plays the webhook's golden cases: sends its requests to the receiver, and checks each answer on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
from receiver import Receiver
from routes import Options

from eventhost.errors import ConnectionLost, EventRejected
from eventhost.kit.golden import Event, play

_LEFT_OUT = ("user-agent", "accept", "accept-encoding", "connection")
"""What the client says by itself, and no case is about."""


class WrongAnswer(Exception):
    """A request was answered, or logged, otherwise than the case says."""


class Host:
    """The host as a case wants it: it accepts, rejects, is gone, or is silent."""

    def __init__(self, manner: str) -> None:
        self.events: list[Event] = []
        self._manner = manner

    async def emit(self, event_type: str, payload: Mapping[str, Any], *, event_id: str | None = None) -> str:
        """Take an event, or do not."""
        if self._manner == "rejects":
            raise EventRejected("no such type")
        if self._manner == "gone":
            raise ConnectionLost("the host has gone away")
        if self._manner == "silent":
            await asyncio.Event().wait()
        said = {"id": event_id} if event_id is not None else {}
        self.events.append({**said, "type": event_type, "payload": dict(payload)})
        return event_id or "an id"


async def drive(case: dict[str, Any], _: Path) -> list[Event]:
    """Send the requests one after the other; `answers` has a status, or what is answered, for each."""
    config, said = case["config"], case["input"]
    options = Options.from_config({**config, **config.get("options", {})})
    host = Host(said.get("host", "accepts"))
    logged: list[str] = []
    receiver = Receiver(
        options, host.emit, lambda _, text: logged.append(text), now_s=lambda: said.get("now", 0), accept_s=0.01
    )
    transport = httpx2.ASGITransport(app=receiver)
    async with httpx2.AsyncClient(transport=transport, base_url="http://receiver") as client:
        for request, answer in zip(said["requests"], case.get("answers", []), strict=True):
            built = client.build_request(request["method"], request["path"], content=request.get("body"))
            for name in _LEFT_OUT:
                del built.headers[name]
            built.headers.update(request.get("headers", {}))
            response = await client.send(built)
            check(response, answer, request)
            if len(logged) != (response.status_code != 200):
                raise WrongAnswer(f"{request}: a refused request is logged, and no other; the log has {logged}")
            logged.clear()
    return host.events


def check(response: httpx2.Response, answer: Any, request: Any) -> None:
    """Compare what was answered.

    Raises:
        WrongAnswer: it is another status, or another error.
    """
    expected = answer if isinstance(answer, dict) else {"status": answer}
    came = {"status": response.status_code, "error": response.json().get("error")}
    if wrong := {key: came[key] for key in expected if came[key] != expected[key]}:
        raise WrongAnswer(f"{request}: expected the answer {expected}, came {wrong}")


if __name__ == "__main__":
    play(drive)
