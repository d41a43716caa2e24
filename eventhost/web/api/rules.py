"""Rules: what there are, how each fares, switching them, and what one would do about an event."""

from __future__ import annotations

import json
import time
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any, Final

import anyio.lowlevel
import msgspec

from eventhost.access import Access
from eventhost.event import MAX_ID_LENGTH, MAX_TIMESTAMP, MAX_TYPE_LENGTH
from eventhost.rules import Rule, RuleState, RuleStatistics
from eventhost.rules.cases import moment_ms
from eventhost.web.endpoint import get, post
from eventhost.web.problems import ProblemShown
from eventhost.web.redaction import shown

if TYPE_CHECKING:
    from eventhost.environment import ServerEnvironment

_RULES_AT_ONCE = 500


class RulesWanted(msgspec.Struct, frozen=True):
    """`name` is a glob."""

    name: str = "*"


class RuleShown(msgspec.Struct, frozen=True):
    """A rule's counts since the host started; `on` are the globs of types that it looks at."""

    name: str
    file: str
    on: list[str]
    state: RuleState
    matched: int
    suppressed: dict[str, int]
    held: int
    queued: int
    running: int
    delivered: int
    failed: int
    retried: int
    lags: int
    condition_errors: int
    last_error: str | None

    @classmethod
    def of(cls, file: str, rule: Rule, fares: RuleStatistics) -> RuleShown:
        """How a rule fares."""
        counts = {name: getattr(fares, name) for name in cls.__struct_fields__[3:]}
        return cls(rule.name, file, list(rule.on), **counts)


class RuleDetail(RuleShown, frozen=True, kw_only=True):
    """`definition` is as configured; what looks like a secret is hidden, references to secrets are not.

    `switched` is whether it was enabled or disabled by hand, null if it was not: then its file says it.
    """

    definition: dict[str, Any]
    switched: bool | None


class RuleList(msgspec.Struct, frozen=True):
    """`broken` has what is wrong with files that cannot be used, by file."""

    rules: list[RuleShown]
    broken: dict[str, list[ProblemShown]]


class RuleVerb(StrEnum):
    """What a rule can be told."""

    ENABLE = "enable"
    DISABLE = "disable"


_IsoTime = Annotated[str, msgspec.Meta(max_length=64, extra_json_schema={"format": "date-time"})]
_EVENT: Final = {
    "required": ["type"],
    "properties": {
        "type": {"type": "string", "minLength": 1, "maxLength": MAX_TYPE_LENGTH},
        "id": {"type": ["string", "integer", "null"], "maxLength": MAX_ID_LENGTH},
        "timestamp": {"type": ["integer", "null"], "minimum": -MAX_TIMESTAMP, "maximum": MAX_TIMESTAMP},
        "metadata": {"type": ["object", "null"]},
    },
}


class RuleTest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`event` is as its source would say it; `at` is when it is accepted, by default now: ISO 8601, or ms."""

    event: Annotated[dict[str, Any], msgspec.Meta(extra_json_schema=_EVENT)]
    at: _IsoTime | Annotated[int, msgspec.Meta(ge=0, le=10**14)] | None = None


class FieldSeen(msgspec.Struct, frozen=True):
    """A field of the event; without `value` it is not there."""

    field: str
    value: Any = msgspec.UNSET
    did_you_mean: str | msgspec.UnsetType = msgspec.UNSET


class StoppedBy(msgspec.Struct, frozen=True):
    """The first clause that keeps the rule from running."""

    clause: str
    wanted: Any
    reason: str
    seen: list[FieldSeen]


class ActionTried(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an action would do, or why it would not: the `if` that skips it, or the error."""

    kind: str
    does: dict[str, Any] | None = None
    skipped_by: str = ""
    depends_on: str = ""
    error: str = ""
    seen: list[FieldSeen] = []


class RuleTried(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the rule would do; `due_ms` is when, if it would be held."""

    rule: str
    matches: bool
    fate: str
    answers: bool = False
    stopped_by: StoppedBy | None = None
    shaping: dict[str, Any] = {}
    due_ms: int | None = None
    actions: list[ActionTried] = []


class Rules:
    """The rules."""

    def __init__(self, environment: ServerEnvironment) -> None:
        self._environment = environment

    @get("/rules", Access.READ)
    async def all(self, query: RulesWanted) -> RuleList:
        """Every rule, in the order of their files, with its counts."""
        rules, broken = self._environment.rule_set.files, self._environment.rule_set.broken
        statistics = {each.name: each for each in self._environment.rule_statistics()}
        listed: list[RuleShown] = []
        for file, group in rules.items():
            for number, rule in enumerate(group):
                if number % _RULES_AT_ONCE == 0:
                    await anyio.lowlevel.checkpoint()
                if rule.name in statistics and fnmatchcase(rule.name, query.name):
                    listed.append(RuleShown.of(file, rule, statistics[rule.name]))
        return RuleList(listed, {file: ProblemShown.all(found) for file, found in broken.items()})

    @get("/rules/{name:path}", Access.READ)
    async def one(self, name: str) -> RuleDetail:
        """One rule: as it is configured, and how it fares."""
        environment = self._environment
        file, rule = environment.rule_set.find(name)
        brief = RuleShown.of(file, rule, environment.rule_status(name))
        definition = shown(json.loads(rule.config))
        switched = environment.rule_set.switched.get(name)
        return RuleDetail(**msgspec.structs.asdict(brief), definition=definition, switched=switched)

    @post("/rules/{name:path}/test", Access.READ)
    async def test(self, name: str, body: RuleTest) -> RuleTried:
        """What a rule would do about an event; nothing is done."""
        at_ms = int(time.time() * 1000) if body.at is None else moment_ms(body.at)
        trial = self._environment.try_rule(name, body.event, at_ms)
        return msgspec.convert(shown(trial.to_json()), RuleTried)

    @post("/rules/{name:path}/{verb}", Access.ADMIN)
    async def act(self, name: str, verb: RuleVerb) -> RuleShown:
        """Enable or disable a rule, for good, whatever its file says; one that is disabled forgets what it owes."""
        environment = self._environment
        await (environment.enable_rule if verb is RuleVerb.ENABLE else environment.disable_rule)(name)
        file, rule = environment.rule_set.find(name)
        return RuleShown.of(file, rule, environment.rule_status(name))
