"""Rules: on which events which actions are run, in order, at least once, each rule for itself."""

from eventhost.rules.emitted import Emitted
from eventhost.rules.engine import RuleEngine
from eventhost.rules.files import RuleSet, read_rules, uncollected
from eventhost.rules.query import QUERY_ANSWERED, ask
from eventhost.rules.queue import Limits, RuleState, RuleStatistics
from eventhost.rules.retention import LetterStatistics, Retention
from eventhost.rules.rule import USER_QUERY, Rule, parse_rules
from eventhost.rules.totals import RuleTotals
from eventhost.rules.trace import Tracing

__all__ = [
    "QUERY_ANSWERED",
    "USER_QUERY",
    "Emitted",
    "LetterStatistics",
    "Limits",
    "Retention",
    "Rule",
    "RuleEngine",
    "RuleSet",
    "RuleState",
    "RuleStatistics",
    "RuleTotals",
    "Tracing",
    "ask",
    "parse_rules",
    "read_rules",
    "uncollected",
]
