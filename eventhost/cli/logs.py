"""One log for everything: structlog's events and the libraries' logging, for a person or, as JSON, for a program.

It goes to stderr, and writing it never fails: a reader that has left must not take a source down with it.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from typing import Any, Final

import structlog
from structlog.typing import EventDict

from eventhost.cli.show import printable
from eventhost.errors import ConfigError, Problem

LEVELS: Final = ("debug", "info", "warning", "error", "critical")
LEVEL_VARIABLE: Final = "EVENTHOST_LOG_LEVEL"


def configure_logging(level: str = "info", form: str = "auto") -> None:
    """Send logs of at least `level` to stderr. `form` is `console`, `json`, or `auto`: console at a terminal.

    Libraries that use the standard library's logging are heard from `warning` on.

    Raises:
        ConfigError: there is no such level.
    """
    if level not in LEVELS:
        raise ConfigError([Problem("log level", f"{level!r} is not known", f"use one of {', '.join(LEVELS)}")])
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper("%H:%M:%S" if console else "iso", utc=not console),
            *(_for_people() if console else _for_programs()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Stderr(),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_Forward()], level=logging.WARNING, force=True)
    logging.captureWarnings(True)


def _for_people() -> list[Any]:
    colors = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    # structlog's own choice of traceback would show local variables, and so perhaps a secret.
    plain = structlog.dev.plain_traceback
    return [
        _without_terminal_commands,
        structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain, pad_event_to=24, sort_keys=False),
    ]


def _without_terminal_commands(_logger: Any, _method: str, fields: EventDict) -> EventDict:
    # What a source writes to its stderr is logged, and must not steer the terminal of whoever watches.
    return {key: printable(value) if isinstance(value, str) else value for key, value in fields.items()}


def _for_programs() -> list[Any]:
    return [
        structlog.processors.format_exc_info,
        structlog.processors.UnicodeDecoder(),
        structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
    ]


class _Stderr:
    """Where rendered lines go. It looks stderr up each time, as whoever redirects it would expect."""

    def msg(self, line: str) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    log = debug = info = warning = error = critical = exception = msg


class _Forward(logging.Handler):
    """The standard library's records as structlog events, under the name of their logger."""

    def emit(self, record: logging.LogRecord) -> None:
        # structlog knows no levels but the five.
        level = min(record.levelno // 10 * 10, logging.CRITICAL)
        structlog.get_logger().log(level, record.getMessage(), logger=record.name, exc_info=record.exc_info or None)
