"""The event stream format, as the HTML standard has it (9.2.5, 9.2.6): bytes in, in pieces of any size; events out.

What is too large is refused and counted, never kept: a stream without line ends takes no more memory than one line may.
"""

from __future__ import annotations

from typing import Final

import msgspec

from eventhost.event import MAX_EVENT_BYTES

LONGEST_EVENT: Final = 4 * MAX_EVENT_BYTES
"""How many bytes the data of one event, or one line, may have: more than any event that the host accepts."""

LONGEST_RETRY_MS: Final = 10**12

_BOM: Final = b"\xef\xbb\xbf"
_LF: Final = 0x0A
_COLON: Final = 0x3A


class StreamEvent(msgspec.Struct, frozen=True, gc=False):
    """One event of a stream."""

    name: str
    """`message` if the stream did not say."""
    data: bytes
    """UTF-8, unless the server erred."""
    last_id: str
    """The id in force: its own, or the last one before it; empty if there was none."""
    own_id: str | None = None
    """The id that stood in the event itself."""
    retry_ms: int | None = None
    """The same of the reconnection time."""


class StreamParser:
    """Reads one stream, from its first byte on. What is not finished when the stream ends was never an event."""

    def __init__(self, last_id: str = "", longest_event: int = LONGEST_EVENT) -> None:
        """`last_id` is the id that was in force when the stream before this one ended."""
        self.last_id = last_id
        """The id of the last event that was complete: what to resume from."""
        self.retry_ms: int | None = None
        """The reconnection time that the server asked for last."""
        self.refused = 0
        """How many events were too large."""
        self._longest = longest_event
        self._head: bytes | None = b""  # until it is known whether there is a byte order mark
        self._after_cr = False
        self._line: list[bytes] = []
        self._line_bytes = 0
        self._line_lost = False
        self._id = last_id
        # Of the event that is being read:
        self._name = b""
        self._data: list[bytes] = []
        self._bytes = 0
        self._spoiled = False
        self._own_id: str | None = None
        self._retry_ms: int | None = None

    def feed(self, chunk: bytes) -> list[StreamEvent]:
        """The events that end within `chunk`."""
        if self._head is not None:
            chunk = self._head + chunk
            if len(chunk) < len(_BOM) and _BOM.startswith(chunk):
                self._head = chunk
                return []
            self._head, chunk = None, chunk.removeprefix(_BOM)
        if not chunk:
            return []
        if self._after_cr:
            self._after_cr = False
            if chunk[0] == _LF:
                chunk = chunk[1:]
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = chunk.split(b"\n")
        events: list[StreamEvent] = []
        if lines:
            if self._line:
                self._line.append(lines[0])
                lines[0] = b"".join(self._line)
            elif self._line_lost:
                del lines[0]
            self._line, self._line_bytes, self._line_lost = [], 0, False
            self._read(lines, events)
        if rest:
            self._keep(rest)
        return events

    def _keep(self, rest: bytes) -> None:
        """Keep the beginning of a line, unless it has become too long."""
        if self._line_lost:
            return
        self._line.append(rest)
        self._line_bytes += len(rest)
        if self._line_bytes > self._longest:
            if not self._line[0].startswith(b":"):
                self._spoil()
            self._line, self._line_lost = [], True

    def _read(self, lines: list[bytes], events: list[StreamEvent]) -> None:
        for line in lines:
            if not line:
                event = self._end()
                if event is not None:
                    events.append(event)
            elif line.startswith(b"data:"):
                self._add(line[6:] if line.startswith(b"data: ") else line[5:])
            elif line[0] != _COLON:  # with which a comment begins
                field, _, value = line.partition(b":")
                self._set(field, value.removeprefix(b" "))

    def _set(self, field: bytes, value: bytes) -> None:
        if field == b"event":
            self._name = value
        elif field == b"id":
            if b"\0" not in value:
                self._id = self._own_id = value.decode(errors="replace")
        elif field == b"data":
            self._add(value)
        elif field == b"retry" and value.isdigit():
            self.retry_ms = self._retry_ms = min(int(value[:15]), LONGEST_RETRY_MS)

    def _add(self, value: bytes) -> None:
        self._bytes += len(value) + 1
        if self._bytes > self._longest:
            self._spoil()
        else:
            self._data.append(value)

    def _spoil(self) -> None:
        self._spoiled = True
        self._bytes = self._longest
        self._data = []

    def _end(self) -> StreamEvent | None:
        """An empty line: the event, if there was data. An id counts without data, too."""
        self.last_id = self._id
        event = None
        if self._spoiled:
            self.refused += 1
        elif self._data:
            name = self._name.decode(errors="replace") if self._name else "message"
            event = StreamEvent(name, b"\n".join(self._data), self._id, self._own_id, self._retry_ms)
        elif not self._name and self._own_id is None and self._retry_ms is None:
            return None
        self._begin()
        return event

    def _begin(self) -> None:
        self._name, self._data, self._bytes, self._spoiled = b"", [], 0, False
        self._own_id = self._retry_ms = None
