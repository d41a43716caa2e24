"""`{"log": "text"}`: a line in the host's log, with what it is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

import structlog
from pydantic import BaseModel, ConfigDict, Field

from eventhost.actions.action import Context, as_text, describe, render, template
from eventhost.actions.result import CUT
from eventhost.config.tree import Tree
from eventhost.event import event_name
from eventhost.expression import Template
from eventhost.journal import Entry

log = structlog.get_logger()

MAX_LENGTH: Final = 16_384
"""How many characters of a text are written."""


class LogSpec(BaseModel):
    """A line in the host's log, as it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    log: str = Field(description="The text; a template.", examples=["new file {{ payload.path }}"])
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="How important it is.", examples=["warning"]
    )


@dataclass(frozen=True, slots=True)
class LogAction:
    """Writes a line, and gives its text; never fails but for its template."""

    text: Template
    level: str
    kind: ClassVar[str] = "log"

    async def run(self, entry: Entry, context: Context) -> str:
        text = as_text(render(self.text, entry, context))
        if len(text) > MAX_LENGTH:
            text = text[:MAX_LENGTH] + CUT
        getattr(log, self.level)(
            "rule_log", text=text, rule=context.rule, event_id=event_name(entry.event), seq=entry.seq
        )
        return text

    def describe(self, entry: Entry, values: Mapping[str, Any]) -> dict[str, Any]:
        return {"log": as_text(describe(self.text, entry, values)), "level": self.level}


def parse(tree: Tree, names: Sequence[str]) -> LogAction:
    """The action that `tree` describes; its templates know `names` besides the event.

    Raises:
        ConfigError: with every problem.
    """
    spec = tree.validate(LogSpec)
    return LogAction(template(tree, "log", names=names), spec.level)
