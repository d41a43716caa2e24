"""A replay as it is told, run by run: what each would do, or, if it is to be done once more, what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final

import anyio
import msgspec
from pydantic import BaseModel, ConfigDict, Field

from eventhost.actions import Hands
from eventhost.actions.step import Retry
from eventhost.config.wording import did_you_mean
from eventhost.errors import EventRejected, NotFound
from eventhost.event import EnvEvent, TypeGlobs
from eventhost.journal.file import Recorded
from eventhost.journal.moment import Moment
from eventhost.rules.delivery import Delivery, End, Outcome
from eventhost.rules.replay import Firing, Replay, Span, play, run_up_of
from eventhost.rules.rule import Rule
from eventhost.rules.trial import would_do

REPLAYED: Final = "replayed"
"""The metadata key of an event that a replay published; its value tells which replay."""

_RETRY: Final = Retry(attempts=3, delay_s=1.0, max_delay_s=10.0)
"""Somebody waits for it: an action that does not say how often it is tried is not tried for minutes."""


class Request(BaseModel):
    """What is to be replayed, as a person says it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    since: str = Field(
        default="beginning",
        description="Where it begins; a time that names no zone is by the clock of the host's machine.",
    )
    upto: str = Field(default="now", description="Where it ends: a time is left out, a number is not.")
    types: list[str] = Field(default=[], description="Globs of the types of the events that runs are for.")
    rules: list[str] = Field(default=[], description="Names of rules, or globs of them.")
    speed: float = Field(default=0, ge=0, description="So many times as fast as the first time; 0: without waiting.")
    execute: bool = False

    async def span(self, journal: Recorded) -> Span:
        """What it is in this journal, at this moment: events that come later are not part of it.

        Raises:
            EventRejected: a place is none; or all is to be done once more, and it was not said from where on.
        """
        if self.execute and "since" not in self.model_fields_set:
            raise EventRejected("what is done once more must say from where on; give --from")
        try:
            after = await Moment.parse(self.since).before(journal)
            upto = journal.head if self.upto == "now" else await Moment.parse(self.upto).upto(journal)
        except ValueError as error:
            raise EventRejected(str(error)) from None
        return Span(after, upto, tuple(self.types))


@dataclass(frozen=True, slots=True)
class Again:
    """Does runs once more: what they publish says that it is of the replay `name`, and has ids of its own.

    What a webhook sends bears the key of the first time: a far end that has done it does not do it twice.
    """

    name: str
    """A UUID with the time at which it began (version 7)."""
    hands: Hands
    retry: Retry = _RETRY

    async def do(self, firing: Firing) -> Outcome:
        """Do all steps of a run; never raises for what an action does. It makes no dead letter."""
        rule, named = firing.rule, dict[str, str]()

        async def publish(event: EnvEvent) -> object:
            marked = self._marked(event)
            named[event.id] = marked.id
            return await self.hands.publish(marked)

        hands = replace(self.hands, publish=publish)
        delivery = Delivery(
            rule=rule.name,
            steps=rule.steps,
            hands=hands,
            retry=self.retry,
            gathers=rule.shaping.gathers,
            uses=rule.uses,
        )
        outcome = await delivery.deliver(firing.run)
        for step in outcome.steps:  # `emit` gives the id that it asked for
            if step.kind == "emit" and isinstance(step.result, dict) and step.result.get("id") in named:
                step.result = {**step.result, "id": named[step.result["id"]]}
        return outcome

    def _marked(self, event: EnvEvent) -> EnvEvent:
        # An id of its own: with the first one's it would be taken for that, come twice.
        mark = sha256(f"{self.name}\0{event.id}".encode()).hexdigest()
        made = f"{self.name[:14]}8{mark[:3]}-8{mark[3:6]}-{mark[6:18]}"
        metadata = {**event.metadata, REPLAYED: self.name}
        return msgspec.structs.replace(event, id=made, metadata=metadata)


def chosen(rules: Iterable[Rule], names: Sequence[str]) -> list[Rule]:
    """The rules with these names, or globs of them; all if there are none.

    Raises:
        NotFound: nothing has one of these names.
    """
    rules = list(rules)
    if not names:
        return rules
    known = {rule.name for rule in rules}
    found: set[str] = set()
    for name in names:
        globs = TypeGlobs([name])
        fitting = {name} & known or {one for one in known if globs[one]}
        if not fitting:
            raise NotFound(
                f'no rule is called "{name}"; {did_you_mean(name, known) or "`eventhost rule list` shows all"}'
            )
        found |= fitting
    return [rule for rule in rules if rule.name in found]


async def told(
    journal: Recorded, rules: Sequence[Rule], span: Span, *, speed: float = 0, again: Again | None = None
) -> AsyncGenerator[dict[str, Any], None]:
    """Each run of a replay as JSON, when it is due; at last how many there were. With `again` they are done.

    One is done after the other, in the order of the times at which they were due.
    """
    replay, counts, failed = Replay(rules), Counter[str](), 0
    first_ms, begun_s = None, anyio.current_time()
    async with aclosing(play(journal, replay, span, run_up_ms=run_up_of(rules))) as firings:
        async for firing in firings:
            if speed:
                first_ms = firing.at_ms if first_ms is None else first_ms
                await anyio.sleep_until(begun_s + (firing.at_ms - first_ms) / 1000 / speed)
            counts[firing.rule.name] += 1
            line = _line(firing)
            if again is None:
                line["actions"] = [action.to_json() for action in would_do(firing.rule, firing.run)]
            else:
                outcome = await again.do(firing)
                failed += outcome.end is not End.DELIVERED
                line |= _came_of(outcome)
            yield line
    end: dict[str, Any] = {"done": True, "runs": counts.total(), "by_rule": dict(counts)}
    end |= {"first": span.after + 1, "last": span.upto, "held": replay.held, "condition_errors": dict(replay.untold)}
    yield end if again is None else {**end, "failed": failed, "replay": again.name}


def _line(firing: Firing) -> dict[str, Any]:
    run = firing.run
    event = run.entry.event
    line: dict[str, Any] = {"rule": firing.rule.name, "seq": run.seq, "at_ms": firing.at_ms, "type": event.type}
    line |= {"source_name": event.metadata.get("source_name"), "id": event.id}
    if len(run.entries) > 1:
        line["events"] = [entry.seq for entry in run.entries]
    return line


def _came_of(outcome: Outcome) -> Mapping[str, Any]:
    return {"end": outcome.end.value, "error": outcome.error, "steps": msgspec.to_builtins(outcome.steps)}
