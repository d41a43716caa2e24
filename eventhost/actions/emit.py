"""`{"emit": "type", "payload": {…}}`: a further event; delivered twice, it is the same event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import anyio
from pydantic import BaseModel, ConfigDict, Field

from eventhost.actions.action import Context, as_text, describe, render, template
from eventhost.actions.caused import caused_event
from eventhost.config.durations import Duration
from eventhost.config.tree import Tree
from eventhost.errors import ActionError, BusClosed, ConfigError
from eventhost.expression import Template
from eventhost.journal import Entry

TIMEOUT_S: Final = 30.0


class EmitSpec(BaseModel):
    """A further event, as it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    emit: str = Field(min_length=1, description="Its type; a template.", examples=["door.alarm"])
    payload: Any = Field(
        default=None,
        description='Its payload, with templates in it; what is no object becomes `{"value": …}`.',
        examples=[{"where": "{{ payload.name }}"}],
    )
    timeout: Duration = Field(
        default=TIMEOUT_S, gt=0, description="How long the journal may take to accept it.", examples=["30s"]
    )


@dataclass(frozen=True, slots=True)
class EmitAction:
    """Publishes an event, and returns once the journal has it."""

    type: Template
    payload: Template
    has_payload: bool
    timeout_s: float
    kind: ClassVar[str] = "emit"

    async def run(self, entry: Entry, context: Context) -> dict[str, Any]:
        event_type = as_text(render(self.type, entry, context))
        _refuse_host(event_type)
        payload = render(self.payload, entry, context)
        event = caused_event(event_type, payload, cause=entry, rule=context.rule, place=context.place)
        try:
            with anyio.fail_after(self.timeout_s):
                seq = await context.hands.publish(event)
        except TimeoutError:
            raise ActionError(f"the journal did not accept the event within {self.timeout_s:g} s") from None
        except BusClosed as error:
            raise ActionError(str(error)) from None
        return {"id": event.id, "type": event.type, **({"seq": seq} if isinstance(seq, int) else {})}

    def describe(self, entry: Entry, values: Mapping[str, Any]) -> dict[str, Any]:
        payload = {"payload": describe(self.payload, entry, values)} if self.has_payload else {}
        return {"emit": as_text(describe(self.type, entry, values)), **payload}


def parse(tree: Tree, names: Sequence[str]) -> EmitAction:
    """The action that `tree` describes; its templates know `names` besides the event.

    Raises:
        ConfigError: with every problem.
    """
    spec = tree.validate(EmitSpec)
    event_type, payload = template(tree, "emit", names=names), template(tree, "payload", names=names)
    if event_type.is_constant:
        try:
            _refuse_host(spec.emit)
        except ActionError as error:
            raise ConfigError([tree.problem(str(error), at="emit")]) from None
    return EmitAction(event_type, payload, "payload" in tree.value, spec.timeout)


def _refuse_host(event_type: str) -> None:
    if event_type.startswith("host."):
        raise ActionError(f'"{event_type}": types that begin with host. are the host\'s own', retry=False)
