"""What is wrong with a configuration, as an answer tells it."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from eventhost.errors import Problem


class ProblemShown(msgspec.Struct, frozen=True):
    """`line` and `column` count from 1, 0 is unknown; what is not `fatal` is a warning."""

    file: str
    message: str
    mend: str
    field: str
    line: int
    column: int
    fatal: bool

    @classmethod
    def all(cls, problems: Iterable[Problem]) -> list[ProblemShown]:
        """These problems."""
        return [cls(*problem) for problem in problems]
