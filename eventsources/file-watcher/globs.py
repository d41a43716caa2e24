"""Which files count: include and exclude globs, in the words that people know from .gitignore."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Globs:
    """A path counts when it fits any of `include` (or that is empty) and none of `exclude`.

    `*` and `?` stay within one name, `**` stands for any number of folders. A glob without a slash is matched against
    names at any depth, one with a slash against the path from the watched folder on. One that fits a folder fits
    everything in it.
    """

    include: tuple[re.Pattern[str], ...]
    exclude: tuple[re.Pattern[str], ...]

    @classmethod
    def of(cls, include: Iterable[str], exclude: Iterable[str]) -> Globs:
        """Compile the globs."""
        return cls(tuple(map(_compile, include)), tuple(map(_compile, exclude)))

    def takes(self, path: str) -> bool:
        """Whether the file at `path` counts; relative to the watched folder, with slashes."""
        return (not self.include or _any(self.include, path)) and not _any(self.exclude, path)

    def enters(self, path: str) -> bool:
        """Whether a file in the folder at `path` could count."""
        return not _any(self.exclude, path)


def _any(patterns: Iterable[re.Pattern[str]], path: str) -> bool:
    return any(pattern.fullmatch(path) for pattern in patterns)


def _compile(glob: str) -> re.Pattern[str]:
    parts = glob.strip("/").split("/")
    if "/" not in glob.rstrip("/"):
        parts.insert(0, "**")
    regex = ""
    for part in parts[:-1]:
        regex += "(?:[^/]+/)*" if part == "**" else f"{_name(part)}/"
    regex += ".*" if parts[-1] == "**" else f"{_name(parts[-1])}(?:/.*)?"
    return re.compile(regex, re.DOTALL)


def _name(part: str) -> str:
    return re.escape(part).replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
