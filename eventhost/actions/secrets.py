"""`Secrets`: those that one action uses, so that what comes back from it can be shown: they are taken out again.

A program prints its arguments, a server repeats what it was sent; results, errors and logs must not show that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

_SHORTEST: Final = 4
"""A shorter text is too common to be taken out."""

_MAX_DEPTH: Final = 256


class Secrets:
    """Resolves references, and knows afterwards what they stood for; forgotten with the attempt that it belongs to."""

    __slots__ = ("_known", "_resolve")

    def __init__(self, resolve: Callable[[str], str]) -> None:
        self._resolve = resolve
        self._known: dict[str, str] = {}

    def resolve(self, reference: str) -> str:
        """The text that `${env:NAME}` or `${file:path}` stands for.

        Raises:
            ConfigError: there is none.
        """
        secret = self._resolve(reference)
        # Each line too: output comes line by line. And a file's last line end is seldom repeated.
        for part in {secret.strip(), *map(str.strip, secret.splitlines())}:
            if len(part) >= _SHORTEST:
                self._known[part] = reference
        return secret

    def hide(self, text: str) -> str:
        """`text` with the reference in place of each secret that it repeats as it is."""
        # The longest first: one may be the beginning of another.
        for secret in sorted(self._known, key=len, reverse=True):
            text = text.replace(secret, self._known[secret])
        return text

    def hide_in(self, value: Any) -> Any:
        """The same for all texts in a JSON value."""
        return self._hidden(value, 0) if self._known else value

    def _hidden(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return self.hide(value)
        if depth >= _MAX_DEPTH:
            return None
        if isinstance(value, dict):
            return {self.hide(key): self._hidden(inner, depth + 1) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._hidden(inner, depth + 1) for inner in value]
        return value
