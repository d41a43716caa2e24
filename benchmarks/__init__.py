"""Measurements: each figure beside its ceiling and its peer, from the same run, as a ratio."""
