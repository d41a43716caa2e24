"""`{"tool": "server__tool", "arguments": {…}}`: a call of an MCP tool; what the tool calls an error is a failure.

A call that is given up is cancelled at its server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import anyio
import msgspec
from pydantic import BaseModel, ConfigDict, Field

from eventhost.actions.action import Context, describe, render, template
from eventhost.actions.secrets import Secrets
from eventhost.config.durations import Duration
from eventhost.config.tree import Tree
from eventhost.errors import ActionError, ConfigError, ConnectionLost, EventhostError
from eventhost.expression import Template
from eventhost.journal import Entry

TIMEOUT_S: Final = 60.0

_MAX_REASON: Final = 500


class ToolSpec(BaseModel):
    """A call of an MCP tool, as it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tool: str = Field(min_length=1, description="Its public name, `server__tool`.", examples=["todo__add"])
    arguments: dict[str, Any] = Field(
        default={}, description="What it is given, with templates in it.", examples=[{"title": "{{ payload.path }}"}]
    )
    timeout: Duration = Field(
        default=TIMEOUT_S,
        gt=0,
        description="How long it may take in all, connecting to its server included.",
        examples=["30s"],
    )


@dataclass(frozen=True, slots=True)
class ToolAction:
    """Calls a tool, and gives its structured content, or else its text; text that is a JSON object or list is read."""

    name: str
    arguments: Template
    timeout_s: float
    kind: ClassVar[str] = "tool"

    async def run(self, entry: Entry, context: Context) -> Any:
        secrets = Secrets(context.hands.resolve_secret)
        arguments = render(self.arguments, entry, context, secrets)
        try:
            # The manager times the call alone; finding the tool and connecting to its server count here too.
            with anyio.fail_after(self.timeout_s):
                result = await context.hands.call_tool(self.name, arguments, timeout_s=self.timeout_s)
        except TimeoutError:
            raise ActionError(f"{self.name} did not answer within {self.timeout_s:g} s") from None
        except ConnectionLost as error:
            raise ActionError(secrets.hide(str(error))) from None
        except ActionError as error:
            raise ActionError(secrets.hide(str(error))[:_MAX_REASON], retry=error.retry) from None
        except EventhostError as error:
            raise ActionError(secrets.hide(str(error)), retry=False) from None
        if getattr(result, "is_error", False):
            reason = _text(result) or "it failed, and does not say why"
            raise ActionError(f"{self.name}: {secrets.hide(reason)[:_MAX_REASON]}")
        return secrets.hide_in(_given(result))

    def describe(self, entry: Entry, values: Mapping[str, Any]) -> dict[str, Any]:
        return {"tool": self.name, "arguments": describe(self.arguments, entry, values)}


def parse(tree: Tree, names: Sequence[str]) -> ToolAction:
    """The action that `tree` describes; its templates know `names` besides the event.

    Raises:
        ConfigError: with every problem.
    """
    spec = tree.validate(ToolSpec)
    if "{{" in spec.tool:
        raise ConfigError([tree.problem("a tool is named, not chosen by an event", at="tool")])
    arguments = template(tree, "arguments", names=names, secrets=True) if "arguments" in tree.value else Template({})
    return ToolAction(spec.tool, arguments, spec.timeout)


def _given(result: Any) -> Any:
    structured = getattr(result, "structured_content", None)
    if structured is not None:
        return structured
    text = _text(result)
    # A bare number or word in a text is more often a text: a title, an id.
    if text.lstrip()[:1] in ("{", "["):
        try:
            return msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError):
            return text
    return text or None


def _text(result: Any) -> str:
    """The text of a tool's result, without its images and the like."""
    texts = [getattr(content, "text", None) for content in getattr(result, "content", None) or ()]
    return "\n".join(text for text in texts if isinstance(text, str) and text)
