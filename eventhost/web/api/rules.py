"""Rules: what there are, and how each fares."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import anyio.lowlevel
import msgspec

from eventhost.access import Access
from eventhost.web.endpoint import get

if TYPE_CHECKING:
    from eventhost.environment import ServerEnvironment

_RULES_AT_ONCE = 500


class RulesWanted(msgspec.Struct, frozen=True):
    """`name` is a glob."""

    name: str = "*"


class RuleList(msgspec.Struct, frozen=True):
    """`broken` has what is wrong with files that cannot be used, by file."""

    rules: list[dict[str, Any]]
    broken: dict[str, list[dict[str, Any]]]


class Rules:
    """The rules."""

    def __init__(self, environment: ServerEnvironment) -> None:
        self._environment = environment

    @get("/rules", Access.READ)
    async def all(self, query: RulesWanted) -> RuleList:
        """Every rule, in the order of their files, with its counts."""
        rules, broken = self._environment.rule_set.files, self._environment.rule_set.broken
        statistics = {each.name: each for each in self._environment.rule_statistics()}
        listed: list[dict[str, Any]] = []
        for file, group in rules.items():
            for number, rule in enumerate(group):
                if number % _RULES_AT_ONCE == 0:
                    await anyio.lowlevel.checkpoint()
                if rule.name in statistics and fnmatchcase(rule.name, query.name):
                    fares = msgspec.to_builtins(statistics[rule.name])
                    listed.append({"name": rule.name, "file": file, "on": rule.on, **fares})
        problems = {file: [problem._asdict() for problem in found] for file, found in broken.items()}
        return RuleList(listed, problems)
