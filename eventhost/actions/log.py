"""`{"log": "text"}`: a line in the host's log, with what it is about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import structlog
from pydantic import BaseModel, ConfigDict, Field

from eventhost.actions.action import Context, as_text, render, template
from eventhost.actions.caused import event_name
from eventhost.config.tree import Tree
from eventhost.expression import Template
from eventhost.journal import Entry

log = structlog.get_logger()


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    log: str = Field(examples=["new file {{ payload.path }}"])
    level: Literal["debug", "info", "warning", "error"] = "info"


@dataclass(frozen=True, slots=True)
class LogAction:
    """Writes a line; never fails but for its template."""

    text: Template
    level: str
    kind: ClassVar[str] = "log"

    async def run(self, entry: Entry, context: Context) -> None:
        text = as_text(render(self.text, entry, context))
        getattr(log, self.level)(
            "rule_log", text=text, rule=context.rule, event_id=event_name(entry.event), seq=entry.seq
        )


def parse(tree: Tree) -> LogAction:
    """The action that `tree` describes.

    Raises:
        ConfigError: with every problem.
    """
    spec = tree.validate(_Spec)
    return LogAction(template(tree, "log"), spec.level)
