"""Rules: on which events which actions are run, in order, at least once, each rule for itself."""

from eventhost.rules.engine import RuleEngine
from eventhost.rules.queue import Limits, RuleStatistics
from eventhost.rules.rule import Rule, parse_rules

__all__ = ["Limits", "Rule", "RuleEngine", "RuleStatistics", "parse_rules"]
