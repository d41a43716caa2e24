"""The keys as a running host sees them: a key that is made or revoked counts from the next request on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import structlog

from eventhost.errors import ConfigError
from eventhost.web.access.keys import KEYS_FILE, USED_FILE, Key, last_used, opened_by, read_keys, write_privately

log = structlog.get_logger()

_WRITE_EVERY_S = 60.0


class KeyRing:
    """The keys of the environment in `root`. While their file cannot be used there are none."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._path = root / KEYS_FILE
        self._seen: tuple[int, int, int] | None = None
        self._keys: Mapping[str, Key] = {}
        self._known_uses = dict(last_used(root))
        self._used: dict[str, float] = {}
        self._written_at = float("-inf")

    @property
    def keys(self) -> Mapping[str, Key]:
        """All keys by id, as the file has them now."""
        try:
            found = self._path.stat()
            seen = (found.st_ino, found.st_mtime_ns, found.st_size)
        except OSError:
            seen = (0, 0, 0)
        if seen != self._seen:
            self._seen = seen
            try:
                self._keys = {key.id: key for key in read_keys(self._root)}
            except ConfigError as error:
                self._keys = {}
                log.error("keys_unusable", problem=str(error))
        return self._keys

    def opened_by(self, text: str) -> Key | None:
        """The key that `text` is."""
        if (key := opened_by(text, self.keys)) is not None:
            self._note(key)
        return key

    def _note(self, key: Key) -> None:
        """Remember that a key was used; written once a minute, since it is only told to people."""
        self._used[key.id] = now = time.time()
        if abs(now - self._written_at) >= _WRITE_EVERY_S:
            self._written_at = now
            self.save()

    def save(self) -> None:
        """Write down when each key was used last."""
        self._known_uses |= {made: _iso(when) for made, when in self._used.items()}
        used = {made: when for made, when in self._known_uses.items() if made in self._keys}
        with suppress(OSError):
            write_privately(self._root / USED_FILE, used, durable=False)


def _iso(when_s: float) -> str:
    return datetime.fromtimestamp(when_s, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
