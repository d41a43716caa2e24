"""`{"emit": "type", "payload": {…}}`: a further event; delivered twice, it is the same event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from eventhost.actions.action import Context, as_text, render, template
from eventhost.actions.caused import caused_event
from eventhost.config.tree import Tree
from eventhost.errors import ActionError, BusClosed, ConfigError
from eventhost.expression import Template
from eventhost.journal import Entry


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    emit: str = Field(min_length=1, examples=["door.alarm"])
    payload: Any = None


@dataclass(frozen=True, slots=True)
class EmitAction:
    """Publishes an event, and returns once the journal has it."""

    type: Template
    payload: Template
    kind: ClassVar[str] = "emit"

    async def run(self, entry: Entry, context: Context) -> dict[str, str]:
        event_type = as_text(render(self.type, entry, context))
        _refuse_host(event_type)
        payload = render(self.payload, entry, context)
        event = caused_event(event_type, payload, cause=entry, rule=context.rule, index=context.index)
        try:
            await context.hands.publish(event)
        except BusClosed as error:
            raise ActionError(str(error)) from None
        return {"id": event.id}


def parse(tree: Tree) -> EmitAction:
    """The action that `tree` describes.

    Raises:
        ConfigError: with every problem.
    """
    tree.validate(_Spec)
    action = EmitAction(template(tree, "emit"), template(tree, "payload"))
    if action.type.is_constant:
        try:
            _refuse_host(tree.value["emit"])
        except ActionError as error:
            raise ConfigError([tree.problem(str(error), at="emit")]) from None
    return action


def _refuse_host(event_type: str) -> None:
    if event_type.startswith("host."):
        raise ActionError(f'"{event_type}": types that begin with host. are the host\'s own', retry=False)
