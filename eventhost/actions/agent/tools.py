"""`Toolbox`: the tools that a run's model may call: those on the allow-list, asked for again at each call.

What goes wrong with a tool is told to the model, as data like all that a tool says; it is no failure of the action.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

import anyio
import structlog

from eventhost.actions.action import Hands
from eventhost.actions.agent.fence import Fence, written
from eventhost.errors import EventhostError, NotFound

if TYPE_CHECKING:
    # At run time this would load the whole MCP SDK, to check a configuration too.
    from eventhost.tools import HostedTool

log = structlog.get_logger()

MAX_TOOLS: Final = 128
"""How many tools a model is offered; some APIs take no more."""

MAX_CALLS: Final = 50
"""How many calls a run may make."""

MAX_RESULT: Final = 8_192
"""How many characters of a tool's result a model is told."""

CALL_TIMEOUT_S: Final = 60.0

_MAX_DESCRIPTION: Final = 4_096
_GRACE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Offer:
    """A tool as a model is told of it."""

    name: str
    description: str
    schema: dict[str, Any]


@dataclass(slots=True)
class Toolbox:
    """The tools of one run, and the names of those that were called, in order."""

    allowed: tuple[str, ...]
    """Globs of public names."""
    hands: Hands
    fence: Fence
    called: list[str] = field(default_factory=list)
    _offered: frozenset[str] = frozenset()

    async def offers(self) -> list[Offer]:
        """What the model is offered; nothing is asked when nothing is allowed."""
        if not self.allowed:
            return []
        tools = await self.hands.list_tools(self.allowed)
        offers = [_offer(tool) for tool in tools if is_allowed(tool.name, self.allowed)]
        self._offered = frozenset(offer.name for offer in offers[:MAX_TOOLS])
        if len(offers) > MAX_TOOLS:
            log.warning(
                "agent_tools_left_out", offered=MAX_TOOLS, left_out=[offer.name for offer in offers[MAX_TOOLS:]]
            )
        return offers[:MAX_TOOLS]

    def unmatched(self) -> list[str]:
        """The globs on the allow-list by which nothing is offered."""
        return [glob for glob in self.allowed if not any(fnmatchcase(name, glob) for name in self._offered)]

    async def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """What the model is told of this call, fenced."""
        return self.fence.around(written(await self._outcome(name, arguments), MAX_RESULT))

    async def _outcome(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        if name not in self._offered or not is_allowed(name, self.allowed):
            return {"error": "this tool may not be called"}
        if len(self.called) >= MAX_CALLS:
            return {"error": f"{MAX_CALLS} calls have been made, and no more are; answer now"}
        self.called.append(name)
        try:
            # The manager keeps the time; this is for one that does not.
            with anyio.fail_after(CALL_TIMEOUT_S + _GRACE_S):
                result = await self.hands.call_tool(name, arguments, timeout_s=CALL_TIMEOUT_S)
        except TimeoutError:
            return {"error": f"it did not answer within {CALL_TIMEOUT_S:g} s"}
        except NotFound:
            return {"error": "this tool is gone"}  # the message would list all there are
        except EventhostError as error:
            return {"error": str(error)}
        return {"error" if getattr(result, "is_error", False) else "result": _said(result)}


def is_allowed(name: str, allowed: Sequence[str]) -> bool:
    """Whether a tool's public name is on the list."""
    return any(fnmatchcase(name, glob) for glob in allowed)


def _offer(tool: HostedTool) -> Offer:
    return Offer(tool.name, (tool.tool.description or "")[:_MAX_DESCRIPTION], tool.tool.input_schema)


def _said(result: Any) -> Any:
    """What a tool gave: its structured content, else its texts; of anything else, what it is."""
    structured = getattr(result, "structured_content", None)
    if structured is not None:
        return structured
    said = [_part(content) for content in getattr(result, "content", None) or ()]
    return said[0] if len(said) == 1 else said


def _part(content: Any) -> str:
    text = getattr(content, "text", None)
    return text if isinstance(text, str) else f"({getattr(content, 'type', 'something')}, which cannot be shown here)"
