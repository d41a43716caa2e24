"""What a server says beside its events: the last lines are kept, and all go to the host's log, unless it floods."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

log = structlog.get_logger()

KEPT_LINES = 100
MAX_LINE_LENGTH = 4096
MAX_LINES_PER_SECOND = 200

# MCP's levels are syslog's; the host's log knows five.
_LEVELS = {"notice": "info", "alert": "critical", "emergency": "critical"}
_KNOWN = {"debug", "info", "warning", "error", "critical"}


class SourceLog:
    """The log of one server, fed from its stderr and its log notifications."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.garbage = 0
        self.last_garbage = ""
        """The last line that was no message, with what is wrong with it."""
        self.words: deque[str] = deque(maxlen=KEPT_LINES)
        """The last lines of the present process alone, as it wrote them."""
        self.on_message: Callable[[str, Any], None] | None = None
        """Called with the level and the data of each log notification."""
        self._rest = b""
        self._second = 0
        self._in_second = 0
        self._suppressed = 0

    def begin(self) -> None:
        """A new process begins: what an earlier one wrote is none of its words."""
        self.words.clear()
        self._rest = b""

    async def stderr(self, chunk: bytes) -> None:
        """Take what the server wrote to its stderr, in pieces of any size."""
        *lines, rest = (self._rest + chunk).split(b"\n")
        if len(rest) > MAX_LINE_LENGTH:
            lines.append(rest)
            rest = b""
        self._rest = rest
        for line in lines:
            self._take_line(line)

    def end(self) -> None:
        """The server has ended: its last line needs no newline."""
        self._take_line(self._rest)
        self._rest = b""

    def take_garbage(self, text: str, fault: str = "") -> None:
        """Count and show what is no message at all; `fault` is what keeps it from being one, if that can be told."""
        self.garbage += 1
        text = text[:200]
        self.last_garbage = f"{text}: {fault}" if fault else text
        said = f"not a JSON-RPC message: {self.last_garbage}"
        self._keep_words(said if fault else text)  # many a program tells its errors on stdout
        self.say("warning", said)

    def describe_garbage(self) -> str | None:
        """What was no message, in one sentence; None if there is no such thing."""
        if not self.garbage:
            return None
        lines = (
            "1 line was no JSON-RPC message" if self.garbage == 1 else f"{self.garbage} lines were no JSON-RPC messages"
        )
        return f"{lines}, the last: {self.last_garbage}"

    def hear(self, level: str, data: Any) -> None:
        """Take a log notification: its data may be any JSON value."""
        if self.on_message is not None:
            self.on_message(level, data)
        text = data if isinstance(data, str) else msgspec.json.encode(data).decode()
        self._keep_words(text)
        self.say(level, text)

    def say(self, level: str, text: str) -> None:
        """Keep one line, and pass it to the host's log; a flood is kept here but only counted there."""
        text = text[:MAX_LINE_LENGTH]
        self.lines.append(text)
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._in_second = second, 0
            if self._suppressed:
                log.warning("source_log_suppressed", source=self.name, lines=self._suppressed)
                self._suppressed = 0
        self._in_second += 1
        if self._in_second > MAX_LINES_PER_SECOND:
            self._suppressed += 1
            return
        level = _LEVELS.get(level, level)
        getattr(log, level if level in _KNOWN else "info")("source_log", source=self.name, line=text)

    def _take_line(self, line: bytes) -> None:
        if text := line.decode(errors="replace").rstrip():
            self._keep_words(text)
            self.say("info", text)

    def _keep_words(self, text: str) -> None:
        self.words.extend(text[:MAX_LINE_LENGTH].splitlines())
