"""Takes lines out of a file, complete ones, each with an id that it keeps under every name of the file."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from lines import MAX_LINE_BYTES, Line
from logfile import Head, Unreadable, digest
from place import Overwritten, Place

_CHUNK_BYTES: Final = 262_144
_MAX_LIVES: Final = 64


class Told(NamedTuple):
    """A line, and where it began."""

    id: str
    offset: int
    line: Line


class Lives:
    """Names contents of one log: by how they begin, and by how many there were that began so before."""

    def __init__(self, path: Path, known: Mapping[str, int]) -> None:
        self.known = dict(known)
        self._path = path

    def name(self, place: Place, data: bytes) -> None:
        """Give the content a name of its own, which it has under every name of the file."""
        if place.life:
            return
        assert place.file is not None
        head = place.head.digest if place.head and place.head.complete else digest(data)
        number = self.known.pop(head, 0)
        self.known[head] = number + 1
        while len(self.known) > _MAX_LIVES:
            del self.known[next(iter(self.known))]
        place.life = digest(f"{self._path}\0{head}\0{number}".encode("utf-8", "surrogateescape"))


def lines_of(place: Place, lives: Lives, most_lines: int, most_bytes: int, now_s: float) -> list[Told]:
    """The complete lines that follow in the file of `place`; none while it has not changed.

    Raises:
        Overwritten, Unreadable: as `Place.read`.
    """
    assert place.file is not None
    seen = place.file.seen()
    if seen is not None and seen == place.read_at:
        return []
    found: list[Told] = []
    size, count = 0, _CHUNK_BYTES
    while len(found) < most_lines and size < most_bytes:
        data = place.read(count)
        if data:
            place.grew_s = now_s
            if place.offset == 0:
                place.head = Head.of(data)
        if seen is not None:
            # Not before the reading: of a file that was overwritten it must stay what it was.
            place.size, place.mtime_ns = max(place.offset, seen[0]), seen[1]
        empty = 0 if place.skipping else len(data) - len(data.lstrip(b"\0"))
        if empty and not (empty == len(data) < count):
            # A writer that goes on at its old place after the file was truncated leaves a hole.
            place.move(data[:empty])
            continue
        if place.skipping:
            end = data.find(b"\n") + 1
            place.skipping = end == 0
            place.move(data[:end] if end else data)
            if end:
                continue
        elif b"\n" in data:
            lives.name(place, data)
            told = _split(place, data, most_lines - len(found), most_bytes - size)
            found += told
            size += sum(len(one.line.data) for one in told)
        elif len(data) > MAX_LINE_BYTES:
            lives.name(place, data)
            line = Line(data[:MAX_LINE_BYTES], truncated=True)
            found.append(Told(f"{place.life}:{place.offset}", place.offset, line))
            size += MAX_LINE_BYTES
            place.skipping = True
            place.move(data)
            count = _CHUNK_BYTES
        elif len(data) == count:
            count = MAX_LINE_BYTES + 1
            continue
        if len(data) < count:
            # Both are of the time before the reading, so that what came meanwhile is seen at the next look.
            if len(found) < most_lines and size < most_bytes:
                place.read_at = seen
            break
    return found


def last_line(place: Place, lives: Lives) -> Told | None:
    """What a file that nobody writes to any more ends with, though it is no complete line."""
    with suppress(Overwritten, Unreadable):
        data = place.read(MAX_LINE_BYTES)
        if data.strip() and not place.skipping:
            lives.name(place, data)
            told = Told(f"{place.life}:{place.offset}", place.offset, Line(data, unfinished=True))
            place.move(data)
            return told
    return None


def _split(place: Place, data: bytes, most_lines: int, most_bytes: int) -> list[Told]:
    """The lines at the beginning of `data`, which is what follows in the file."""
    told: list[Told] = []
    start = 0
    while len(told) < most_lines and most_bytes > 0 and (end := data.find(b"\n", start)) >= 0:
        text = data[start:end]
        if not text.isspace() and text:
            at = place.offset + start
            line = Line(text[:MAX_LINE_BYTES], truncated=len(text) > MAX_LINE_BYTES)
            told.append(Told(f"{place.life}:{at}", at, line))
            most_bytes -= len(text)
        start = end + 1
    place.move(data[:start])
    return told
