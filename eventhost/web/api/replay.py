"""Playing recorded events to the rules once more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp

from eventhost.access import Access
from eventhost.rules.again import Request as Wanted
from eventhost.web.endpoint import post
from eventhost.web.events.replay import ReplayStream

if TYPE_CHECKING:
    from eventhost.environment import ServerEnvironment


class Replay:
    """Recorded events, played once more."""

    def __init__(self, environment: ServerEnvironment, open_streams: set[anyio.CancelScope]) -> None:
        self._environment, self._open_streams = environment, open_streams

    @post(
        "/replay",
        Access.ADMIN,
        takes={"application/json": Wanted},
        answers={"application/x-ndjson": str},
        errors=(404,),
    )
    async def replay(self, request: Request) -> ASGIApp:
        """Play recorded events to the rules; dry unless it says `execute`."""
        try:
            wanted = Wanted.model_validate_json(await request.body(), strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "the body"
            raise HTTPException(400, f"{place}: {first['msg']}") from None
        return ReplayStream(await self._environment.replay(wanted), self._open_streams)
