"""Questions over the bus: a `USER_QUERY` is answered by what a rule's actions gave, as a `query.answered` event.

asker ─► USER_QUERY ─► the rule whose `on` names it ─► its actions ─► query.answered {answer | error} ─► asker
"""

from __future__ import annotations

from typing import Any, Final

import anyio

from eventhost.actions import caused_event
from eventhost.bus import EnvEventBus
from eventhost.errors import BusClosed
from eventhost.event import EnvEvent, event_name
from eventhost.journal import Entry
from eventhost.rules.delivery import End, Outcome

QUERY_ANSWERED: Final = "query.answered"

_PLACE: Final = "answer"


def answer_event(query: Entry, rule: str, outcome: Outcome) -> EnvEvent:
    """The event that tells an asker what came of a query; its `causation_id` says of which.

    The payload has `rule`, the `session_id` that the query named, and `answer`: what the last action gave, of which an
    object's `text` is enough. In place of `answer` it has `error` when the rule failed.

    Raises:
        ActionError: the query stands at the end of a chain of events that is too long.
    """
    payload: dict[str, Any] = {"rule": rule}
    asked = query.event
    session_id = asked.payload.get("session_id", asked.metadata.get("session_id"))
    if session_id is not None:
        payload["session_id"] = session_id
    if outcome.end is End.DELIVERED:
        payload["answer"] = _said(outcome.result)
    else:
        payload["error"] = outcome.error or f"the query has {outcome.end}"
    return caused_event(QUERY_ANSWERED, payload, cause=query, rule=rule, place=_PLACE)


async def ask(bus: EnvEventBus, query: EnvEvent, timeout_s: float) -> EnvEvent:
    """Publish a query; return the first answer to it.

    Raises:
        BusClosed: the host is stopping.
        TimeoutError: nobody answered within `timeout_s`; an answer may still come, on the bus.
    """
    answers = bus.subscribe(QUERY_ANSWERED)  # first, so that no answer is missed
    await bus.publish(query)
    asked = event_name(query)
    with anyio.fail_after(timeout_s):
        async for item in answers:
            if isinstance(item, Entry) and item.event.metadata.get("causation_id") == asked:
                return item.event
    raise BusClosed("the host is stopping; ask again once it is back")


def _said(result: Any) -> Any:
    text = result.get("text") if isinstance(result, dict) else None
    return text if isinstance(text, str) else result
