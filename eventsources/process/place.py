"""How far one file of a log was read, and how its content is known again, under whatever name it stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lines import MAX_LINE_BYTES
from logfile import TAIL_BYTES, Head, LogFile, Plain, Unreadable, digest


class Overwritten(Exception):
    """What was read of a file before is not in it any more."""


@dataclass(slots=True, eq=False)
class Place:
    """How far one file was read."""

    inode: int | None
    real: str
    """The path behind any links."""
    offset: int = 0
    head: Head | None = None
    tail: str = ""
    tail_length: int = 0
    life: str = ""
    """Names the content, whatever file it is in; empty while nothing was told of it."""
    skipping: bool = False
    """Within a line that is too long."""
    gone: bool = False
    """It does not stand at the path any more."""
    owes_gap: bool = False
    """It cannot be found; what is there instead may be it, for nothing was known of its content."""
    size: int = 0
    mtime_ns: int = 0
    beside: dict[str, list[Any]] = field(default_factory=dict)
    """What was there already when it came and is therefore older: by inode a size, and what was just before it."""
    file: LogFile | None = None
    recent: bytes = b""
    """The bytes before `offset`."""
    read_at: tuple[int, int] | None = None
    """What the file was like when it was read to its end."""
    grew_s: float = 0.0

    def kept(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "inode": self.inode,
            "real": self.real,
            "offset": self.offset,
            "head": self.head and list(self.head),
            "tail": [self.tail_length, self.tail],
            "life": self.life,
            "skipping": self.skipping,
            "gone": self.gone,
            "owes_gap": self.owes_gap,
            "size": self.size,
            "mtime": self.mtime_ns,
            "beside": self.beside,
        }

    @classmethod
    def of(cls, kept: dict[str, Any]) -> Place:
        """What `kept` gave."""
        length, tail = kept["tail"]
        return cls(
            kept["inode"],
            kept["real"],
            kept["offset"],
            Head(*kept["head"]) if kept["head"] else None,
            tail,
            length,
            kept["life"],
            kept["skipping"],
            kept["gone"],
            kept["owes_gap"],
            kept["size"],
            kept["mtime"],
            kept["beside"],
        )

    def fits(self, file: LogFile) -> bool:
        """Whether `file` holds what was read."""
        if self.head is not None and not self.head.begins(file.read_at(0, self.head.length)):
            return False
        recent = file.read_at(self.offset - self.tail_length, self.tail_length)
        if len(recent) != self.tail_length or (recent and digest(recent) != self.tail):
            return False
        self.recent = recent
        return True

    @property
    def is_known_by_content(self) -> bool:
        """Whether more than a first line was read, which many files may share."""
        return self.head is not None and self.head.complete and self.offset > self.head.length

    def read(self, count: int) -> bytes:
        """Bytes from `offset` on.

        Raises:
            Overwritten: what was before it is not there any more.
            Unreadable: they cannot be read.
        """
        assert self.file is not None
        # In one go, so that nothing can come in between.
        data = self.file.read_at(self.offset - len(self.recent), len(self.recent) + count)
        if not data.startswith(self.recent):
            raise Overwritten
        if self.offset == 0 and self.head is not None and not self.head.begins(data):
            raise Overwritten
        return data[len(self.recent) :]

    def move(self, data: bytes) -> None:
        """`data` was read."""
        self.offset += len(data)
        self.size = max(self.size, self.offset)
        self.recent = (self.recent + data[-TAIL_BYTES:])[-TAIL_BYTES:]
        self.tail, self.tail_length = digest(self.recent), len(self.recent)

    def continues_in(self, file: LogFile, *, no_more: bool = False) -> bool:
        """Whether `file` holds what its own file does, and perhaps more; an empty one tells nothing."""
        try:
            rest = self.read(MAX_LINE_BYTES)
            # A rest that is as long as what is read may go on.
            more = 1 if no_more and len(rest) < MAX_LINE_BYTES else 0
            known = bool(rest or self.recent) and self.fits(file)
            return known and file.read_at(self.offset, len(rest) + more) == rest
        except (Overwritten, Unreadable):
            return False


def before(file: LogFile, offset: int) -> bytes:
    """The last bytes before `offset`, by which it is known again."""
    return file.read_at(max(0, offset - TAIL_BYTES), min(offset, TAIL_BYTES))


def after_last_line(file: Plain, size: int) -> int:
    """Where the line begins that is not complete yet at the end of `file`."""
    position = size
    while position > 0:
        start = max(0, position - 65_536)
        found = file.read_at(start, position - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        position = start
    return 0
