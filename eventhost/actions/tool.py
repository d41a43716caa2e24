"""`{"tool": "server__tool", "arguments": {…}}`: a call of an MCP tool; what the tool calls an error is a failure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import anyio
from pydantic import BaseModel, ConfigDict, Field

from eventhost.actions.action import Context, render, template
from eventhost.config.durations import Duration
from eventhost.config.tree import Tree
from eventhost.errors import ActionError, ConfigError, ConnectionLost, EventhostError
from eventhost.expression import Template
from eventhost.journal import Entry

TIMEOUT_S = 60.0

_GRACE_S = 1.0
_MAX_REASON = 500


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    tool: str = Field(min_length=1, examples=["todo__add"])
    arguments: dict[str, Any] = Field(default={}, examples=[{"title": "{{ payload.path }}"}])
    timeout: Duration = Field(default=TIMEOUT_S, gt=0, examples=["30s"])


@dataclass(frozen=True, slots=True)
class ToolAction:
    """Calls a tool, and returns its result."""

    name: str
    arguments: Template
    timeout_s: float
    kind: ClassVar[str] = "tool"

    async def run(self, entry: Entry, context: Context) -> Any:
        arguments = render(self.arguments, entry, context)
        try:
            # The manager keeps the time; this is for one that does not.
            with anyio.fail_after(self.timeout_s + _GRACE_S):
                result = await context.hands.call_tool(self.name, arguments, timeout_s=self.timeout_s)
        except TimeoutError:
            raise ActionError(f"{self.name} did not answer within {self.timeout_s:g} s") from None
        except ConnectionLost as error:
            raise ActionError(str(error)) from None
        except EventhostError as error:
            raise ActionError(str(error), retry=False) from None
        if getattr(result, "is_error", False):
            raise ActionError(f"{self.name}: {_said(result)}")
        return result


def parse(tree: Tree) -> ToolAction:
    """The action that `tree` describes.

    Raises:
        ConfigError: with every problem.
    """
    spec = tree.validate(_Spec)
    if "{{" in spec.tool:
        raise ConfigError([tree.problem("a tool is named, not chosen by an event", at="tool")])
    arguments = template(tree, "arguments", secrets=True) if "arguments" in tree.value else Template({})
    return ToolAction(spec.tool, arguments, spec.timeout)


def _said(result: Any) -> str:
    """The text of a tool's result; the tool wrote it, so it may be long."""
    texts = [getattr(content, "text", "") for content in getattr(result, "content", None) or ()]
    return (" ".join(filter(None, texts)) or "it failed, and does not say why")[:_MAX_REASON]
