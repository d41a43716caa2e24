"""Keeps how far a source has come, so that the next start goes on there; a crash leaves the old or the new, whole."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from eventhost.errors import ConfigError, Problem

if TYPE_CHECKING:
    from pathlib import Path


class Bookmark:
    """A JSON object in a file; save it only after the events before it were accepted.

    Raises:
        ConfigError: the file holds no JSON object.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.content: dict[str, Any] = {}
        """What was saved last; empty before the first time."""
        try:
            kept = json.loads(file.read_text("utf-8"))
            problem = "" if isinstance(kept, dict) else "no JSON object"
        except FileNotFoundError:
            return
        except ValueError as error:
            kept, problem = {}, f"not JSON: {error}"
        if problem:
            mend = "remove it, and the source begins with what comes from now on"
            raise ConfigError([Problem(str(file), problem, mend)])
        self.content = kept

    def save(self, content: dict[str, Any]) -> None:
        """Keep `content`; it is on the disk when this returns."""
        if content == self.content:
            return
        draft = self._file.with_name(f"{self._file.name}.draft")
        # Not `dump`, which takes ten times as long: some sources save with every batch of events.
        text = json.dumps(content, ensure_ascii=False)
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._file)
        # A copy: what the caller changes later is not saved.
        self.content = json.loads(text)
