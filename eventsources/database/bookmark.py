"""Keeps how far a database has been told, so that the next start goes on there; a crash leaves the old or the new."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from eventhost.errors import ConfigError, Problem


class Bookmark:
    """A small JSON object in a file, written only after the events before it were accepted.

    Raises:
        ConfigError: the file holds no JSON.
    """

    def __init__(self, folder: Path, kind: str, name: str) -> None:
        self._file = folder / f"{kind}-{name}.json"
        self.content: dict[str, Any] = {}
        try:
            kept = json.loads(self._file.read_text("utf-8"))
            self.content = kept if isinstance(kept, dict) else {}
        except FileNotFoundError:
            pass
        except ValueError as error:
            mend = "remove it, and the source begins with what changes from now on"
            raise ConfigError([Problem(str(self._file), f"not JSON: {error}", mend)]) from None

    def save(self, content: dict[str, Any]) -> None:
        """Keep `content`; it is on the disk when this returns."""
        if content == self.content:
            return
        draft = self._file.with_suffix(".draft")
        with draft.open("w", encoding="utf-8") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._file)
        self.content = dict(content)
