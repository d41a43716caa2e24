"""Event patterns: which events a rule is about, told by values. Parsed once, matched alone or many at a time."""

from eventhost.pattern.index import PatternIndex
from eventhost.pattern.syntax import Pattern, PatternError

__all__ = ["Pattern", "PatternError", "PatternIndex"]
