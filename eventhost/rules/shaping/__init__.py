"""Shaping: how a rule's runs are spaced and gathered. `spec.py` reads it, `eventhost.rules.shaper` does it."""

from eventhost.rules.shaping.spec import KEYS, Shaping, ShapingSpec, parse_shaping

__all__ = ["KEYS", "Shaping", "ShapingSpec", "parse_shaping"]
