"""A message for whatever answers: a `USER_QUERY` on the bus, and the reply of the rule that is bound to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from eventhost.access import Access
from eventhost.rules import QUERY_ANSWERED, USER_QUERY, RuleState, RuleStatistics
from eventhost.web.access.caller import caller_of
from eventhost.web.answers import ErrorCode, error_answer, json_answer, now
from eventhost.web.endpoint import get, post
from eventhost.web.sessions.registry import SESSION_ID, Sessions, message_id

if TYPE_CHECKING:
    from eventhost.environment import ServerEnvironment


class MirixMessage(msgspec.Struct, frozen=True):
    """`session_id` names a conversation; if it is a session of the caller's, the reply goes there too."""

    content: Annotated[str, msgspec.Meta(min_length=1)]
    type: str = "user_message"
    session_id: Annotated[str, msgspec.Meta(pattern=rf"^{SESSION_ID}$(?!\n)")] | None = None


class MirixReply(msgspec.Struct, frozen=True):
    """`event_id` is the query's, as `explain` takes it; `delivered` says whether the reply went to a session too."""

    success: bool
    reply: Any
    rule: str
    event_id: str
    message_id: str
    session_id: str | None
    delivered: bool
    timestamp: str


class MirixStatus(msgspec.Struct, frozen=True):
    """`status` is `ready`, `failing` when the rule failed the last few times, or `unavailable` when there is none.

    `rules` answer the messages, and whoever is first replies; `status` tells of the first of them.
    """

    status: str
    event_type: str
    rules: list[RuleStatistics]
    message: str


class Mirix:
    """Messages for whatever answers."""

    def __init__(self, environment: ServerEnvironment, sessions: Sessions) -> None:
        self._environment, self._sessions = environment, sessions

    @post("/mirix/message", Access.PUBLISH, answers={"application/json": MirixReply}, errors=(404,))
    async def message(self, request: Request, body: MirixMessage) -> Response:
        """Ask the rule that is bound to `USER_QUERY`, and return its reply."""
        caller = caller_of(request.scope)
        if body.session_id is not None and self._sessions.is_anothers(body.session_id, caller):
            raise HTTPException(403, f"the session {body.session_id} is another key's; name one of your own, or none")
        try:
            answered = await self._environment.handle_query(
                body.content, session_id=body.session_id, more={"type": body.type}
            )
        except TimeoutError:
            what = (
                f"no rule replied in time; /mirix/status says how it fares, and a {QUERY_ANSWERED} event may yet come"
            )
            raise HTTPException(503, what, {"Retry-After": "5"}) from None
        said = answered.payload
        event_id = str(answered.metadata.get("causation_id", ""))
        if "error" in said:
            details = {"rule": said["rule"], "event_id": event_id}
            what = f"the rule {said['rule']} failed: {said['error']}"
            return error_answer(503, ErrorCode.SERVER_ERROR, what, details)
        identifier = message_id()
        delivered = body.session_id is not None and self._sessions.deliver(
            body.session_id, caller, "reply", said["answer"], identifier
        )
        reply = MirixReply(True, said["answer"], said["rule"], event_id, identifier, body.session_id, delivered, now())
        return json_answer(reply)

    @get("/mirix/status", Access.READ)
    async def status(self) -> MirixStatus:
        """Which rule replies, and how it fares."""
        rules = self._environment.answering()
        if not rules:
            message = f"no enabled rule answers; one whose `on` is {USER_QUERY} does"
            return MirixStatus("unavailable", USER_QUERY, [], message)
        if rules[0].state is RuleState.FAILING:
            message = f"the rule {rules[0].name} failed the last few times: {rules[0].last_error}"
            return MirixStatus("failing", USER_QUERY, rules, message)
        return MirixStatus("ready", USER_QUERY, rules, f"the rule {rules[0].name} replies")
