"""`PatternError`: what is wrong with a pattern, and where."""

from __future__ import annotations

from eventhost.errors import EventhostError

Place = tuple[str | int, ...]
"""Keys and array positions, from the pattern's root inwards."""


class PatternError(EventhostError):
    """The pattern must be mended by its author; `path` leads from its root to the place where `reason` holds."""

    def __init__(self, reason: str, path: Place = ()) -> None:
        self.reason, self.path = reason, path
        place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
        super().__init__(f"match{place}: {reason}")
