"""Why a source cannot go on: a traceback for its author, then a last line that says it all; to its user, a sentence."""

from __future__ import annotations

import os
import sys
import traceback
from types import TracebackType

from eventhost.errors import ConfigError, EventhostError, cause_of


def tell_end(name: str, error: BaseException) -> None:
    """Tell on stderr why the source `name` ends; the last line is `RuntimeError: out of cheese (server.py:11)`.

    An error that is raised on purpose, by the kit say, is told without a traceback, and a wrong configuration without
    the place in the code: neither is of use to who has to mend it.
    """
    cause = cause_of(error)
    if isinstance(cause, ConfigError):
        line = f"{name}: {cause}"
    elif isinstance(cause, EventhostError):
        line = f"{name}: {cause}{_place(cause)}"
    else:
        traceback.print_exception(error)
        said = next(iter(str(cause).splitlines()), "")
        line = type(cause).__qualname__ + (f": {said}" if said else "") + _place(cause)
    print(line, file=sys.stderr, flush=True)


def spare_tracebacks_of_configuration() -> None:
    """From now on an uncaught `ConfigError` is told on stderr by its text alone; nobody else's hook is replaced."""
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _tell_uncaught


def _tell_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, ConfigError):
        print(error, file=sys.stderr, flush=True)
    else:
        sys.__excepthook__(kind, error, trace)


def _place(error: BaseException) -> str:
    """Where in the program's own folder it was raised, as ` (server.py:11)`; nothing if it was not raised there."""
    program = getattr(sys.modules.get("__main__"), "__file__", None)
    if program is None or isinstance(error, SyntaxError):
        return ""  # a syntax error says its place itself
    folder = os.path.join(os.path.dirname(os.path.abspath(program)), "")
    found = ""
    frames = error.__traceback__
    while frames is not None:
        path = os.path.abspath(frames.tb_frame.f_code.co_filename)
        if path.startswith(folder) and f"{os.sep}site-packages{os.sep}" not in path:
            found = f" ({path.removeprefix(folder)}:{frames.tb_lineno})"
        frames = frames.tb_next
    return found
