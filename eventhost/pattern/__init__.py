"""Event patterns: which events a rule is about, told by values. Parsed once, matched alone or many at a time."""

from eventhost.pattern.error import PatternError
from eventhost.pattern.failure import Failure
from eventhost.pattern.index import PatternIndex
from eventhost.pattern.leaf import MISSING
from eventhost.pattern.match import Pattern

__all__ = ["MISSING", "Failure", "Pattern", "PatternError", "PatternIndex"]
