"""The error family: one class for each decision a caller can take, each with a sentence that says how to mend it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class EventhostError(Exception):
    """The base of all errors that the host raises on purpose; its text is meant for the user."""


# No dataclass: from Python 3.12 on that would cost every small source a megabyte.
class Problem(NamedTuple):
    """One thing wrong in a configuration: what, where and how to mend it.

    `file` is relative to the environment's root where it lies inside; `line` and `column` count from 1, 0 means
    unknown. `field` is the dotted path of the value (`mcp.clients.todo.command`). A problem that is not `fatal` is a
    warning: the configuration works without the mend.
    """

    file: str
    message: str
    mend: str = ""
    field: str = ""
    line: int = 0
    column: int = 0
    fatal: bool = True

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return ": ".join(part for part in (place, self.field, self.message) if part) + (
            f"; {self.mend}" if self.mend else ""
        )


class ConfigError(EventhostError):
    """The configuration must be mended by its author; carries every problem that was found, not the first alone."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class EventRejected(EventhostError):
    """This event can never be accepted as it is; sending it again is of no use."""


class BusClosed(EventhostError):
    """The host is stopping; the event was not accepted and may be sent again to the next one."""


class JournalFailed(BusClosed):
    """The journal can take nothing more until the host is started anew; the event was not accepted."""


class JournalUnusable(EventhostError):
    """This file cannot be the journal; another version of eventhost, or another file, is needed."""


class SpawnError(EventhostError):
    """A program could not be started; the command or the machine must be mended first."""


class HostRunning(EventhostError):
    """Another host, or what it left behind, holds this environment; stop it first."""


class ConnectionLost(EventhostError):
    """The other side is gone or not there yet; the same call may succeed once it is back."""


class NotFound(EventhostError):
    """Nothing has this name; the text lists what there is."""


class ActionError(EventhostError):
    """An action failed. `retry` tells whether the same attempt may succeed later, `after_s` how long to wait before."""

    def __init__(self, message: str, *, retry: bool = True, after_s: float = 0) -> None:
        super().__init__(message)
        self.retry, self.after_s = retry, after_s


def cause_of(error: BaseException) -> BaseException:
    """The first error inside the groups that task groups have wrapped around it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
