"""The trail of one log file through its rotations: each complete line that can still be had is told, once, in order.

    look ─► what stands at the path? ─► the same ─► read on
                  │ another, or overwritten
                  ▼
            the rest of what it was (still open, renamed, copied, compressed)
            ─► what came and went in between ─► the new one from its beginning

What it gives out counts as told only when `kept` is kept; whoever starts again from an older one is told the same under
the same ids.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from lines import MAX_LINE_BYTES
from logfile import HEAD_BYTES, Head, LogFile, Plain, Unreadable, digest, open_rotated
from place import Overwritten, Place, after_last_line, before
from reading import Lives, Told, last_line, lines_of
from rotation import COMPRESSED, Rotated, newer_than, rotated, uncompressed

LINGER_S: Final = 60.0
"""A file that has left its path is read on until nothing was added to it for so long: its writer may not know yet."""


class Gap(NamedTuple):
    """Lines may be missing after `offset` of what the file held before."""

    id: str
    reason: str
    """`truncated`, `gone` or `unreadable`."""
    offset: int
    detail: str = ""


class Trail:
    """What was, is and will be called `path`, which is absolute.

    `kept` is what the property of that name gave at another time; without it, what is in the file already is told only
    `from_beginning`. Its methods look at files, and so take their time; call them from one thread at once.
    """

    def __init__(
        self,
        path: Path,
        kept: dict[str, Any] | None = None,
        *,
        from_beginning: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self.trouble = ""
        """Why it cannot be read now; empty while it can."""
        self._from_beginning = from_beginning
        self._clock = clock
        self._steps: list[Place | Gap] = []
        """What is to be told, the oldest first; the last place is the one at the path, unless it is `gone`."""
        self._lives = Lives(path, kept["lives"] if kept is not None else {})
        self._resumed = True
        if kept is not None:
            self._from_beginning = True
            self._resumed = False
            self._steps = [Gap(**step["gap"]) if "gap" in step else Place.of(step) for step in kept["steps"]]

    @property
    def kept(self) -> dict[str, Any]:
        """All that is to be known of it, as JSON."""
        steps = [
            {"gap": {"id": step.id, "reason": step.reason, "offset": step.offset, "detail": step.detail}}
            if isinstance(step, Gap)
            else step.kept()
            for step in self._steps
        ]
        return {"lives": dict(self._lives.known), "steps": steps}

    @property
    def offset(self) -> int | None:
        """How far the file at the path was read; None where there is none."""
        current = self._current
        return None if current is None else current.offset

    @property
    def is_over(self) -> bool:
        """Whether nothing is at the path, and all that was has been told."""
        return self.trouble != "" and not any(
            isinstance(step, Gap) or not step.gone or self._clock() - step.grew_s <= LINGER_S for step in self._steps
        )

    def holds(self, device: int, inode: int) -> bool:
        """Whether this file is part of the trail."""
        return any(
            isinstance(step.file, Plain) and (step.file.device, step.file.inode) == (device, inode)
            for step in self._places
        )

    def close(self) -> None:
        """Let go of all files."""
        for place in self._places:
            self._let_go(place)

    def take(self, most_lines: int, most_bytes: int) -> list[Told | Gap]:
        """What is new; none when nothing is.

        `most_bytes` may be exceeded by one line.
        """
        self._look()
        taken: list[Told | Gap] = []
        size = 0
        while self._steps and len(taken) < most_lines and size < most_bytes:
            found = self._take_step(most_lines - len(taken), most_bytes - size)
            if not found:
                break
            taken += found
            size += sum(len(told.line.data) for told in found if isinstance(told, Told))
        return taken

    # What stands where.

    @property
    def _places(self) -> list[Place]:
        return [step for step in self._steps if isinstance(step, Place)]

    @property
    def _current(self) -> Place | None:
        last = self._steps[-1] if self._steps else None
        return last if isinstance(last, Place) and not last.gone else None

    def _look(self) -> None:
        if not self._resumed:
            self._resume()
            self._resumed = True
        now = self._open_path()
        try:
            now = self._compare(now)
        finally:
            if now is not None:
                now.close()
        if self._steps or not os.path.lexists(self.path):
            self._from_beginning = True

    def _open_path(self) -> Plain | None:
        try:
            file = Plain(self.path)
        except FileNotFoundError:
            self.trouble = f"{self.path} is not there; it is read once it is"
        except Unreadable as error:
            self.trouble = str(error)
        else:
            self.trouble = ""
            return file
        return None

    def _compare(self, now: Plain | None) -> Plain | None:
        """Take note of `now`, the file at the path; returns it where it is not needed."""
        current = self._current
        # Asked of what was opened: the path may lead elsewhere by now, which the next look sees.
        same = next((p for p in self._places if now is not None and _is_same(p.file, now)), None)
        if current is not None and same is current:
            return now
        if now is None and os.path.lexists(self.path):
            return now
        if current is not None:
            if (
                now is not None
                and isinstance(current.file, Plain)
                and current.file.removed()
                and current.is_known_by_content
                and current.continues_in(now)
            ):
                # It was written anew with all that it held, as editors do.
                current.file.close()
                current.file, current.inode, current.read_at = now, now.inode, None
                return None
            current.gone, current.grew_s = True, self._clock()
        last = self._places[-1] if self._places else None
        if last is not None and last.file is None and now is not None:
            last.file, last.grew_s = self._find(last), self._clock()
        back = next((p for p in self._places if now is not None and _is_same(p.file, now)), None)
        if back is not None and back.inode is not None:
            self._steps = [*(step for step in self._steps if step is not back), back]
            back.gone = False
            return now
        if last is not None:
            where = self._whereabouts(last)
            between = list(self._between(where, last, now, _written_ns(last)))
            if last.owes_gap and last.file is None and now is not None and not between and not self._unchanged(last):
                between = [self._gap(last, "gone")]
            last.owes_gap = last.owes_gap and now is None and not between
            self._steps += between
        if now is not None:
            self._steps.append(self._begin(now))
        return None

    def _begin(self, file: Plain) -> Place:
        place = self._new_place(file)
        if not self._from_beginning:
            self._from_beginning = True
            with suppress(Unreadable):
                place.offset = after_last_line(file, place.size)
                place.head = Head.of(file.read_at(0, HEAD_BYTES))
                recent = before(file, place.offset)
                place.recent, place.tail, place.tail_length = recent, digest(recent), len(recent)
        return place

    def _new_place(self, file: Plain) -> Place:
        place = Place(file.inode, os.path.realpath(self.path), file=file, grew_s=self._clock())
        place.size, place.mtime_ns = file.seen() or (0, 0)
        place.beside = _records(path for path in self._rotated_files() if not file.is_at(path))
        return place

    def _is_beside(self, place: Place, path: Path) -> bool:
        """Whether this was there before the file of `place` came, and is thus not what came after it."""
        with suppress(OSError, Unreadable), closing(Plain(path)) as plain:
            size, held = place.beside.get(str(plain.inode), (0, ""))
            if size and digest(before(plain, size)) == held:
                return True
        if path.suffix not in COMPRESSED:
            return False
        # What was compressed meanwhile has another number. It is read forwards.
        with suppress(OSError, Unreadable), closing(open_rotated(path)) as file:
            return any(digest(before(file, size)) == held for size, held in sorted(place.beside.values()))
        return False

    def _is_twin(self, path: Path) -> bool:
        """Whether this is a copy of a file that is still open."""
        with suppress(OSError, Unreadable), closing(open_rotated(path)) as file:
            return any(place.file is not None and place.continues_in(file, no_more=True) for place in self._places)
        return False

    def _resume(self) -> None:
        """Find the files of what was kept."""
        steps: list[Place | Gap] = []
        for step in self._steps:
            steps.append(step)
            if isinstance(step, Gap):
                continue
            step.file, step.grew_s = self._find(step), self._clock()
            if isinstance(step.file, Plain) and step.file.inode is not None and step.file.is_at(self.path):
                step.gone = False
            elif step.file is not None:
                step.gone = True
            elif not step.gone or step.offset < step.size:
                if step.offset == step.size == 0:
                    step.owes_gap = True
                else:
                    steps[-1:] = [self._gap(step, "truncated" if self._stands_in(step) else "gone"), step]
                step.gone, step.size = True, step.offset
        self._steps = steps

    def _unchanged(self, place: Place) -> bool:
        """Whether something beside the path was written last when the file of `place` was."""
        for path in self._rotated_files():
            with suppress(OSError):
                if path.stat().st_mtime_ns == place.mtime_ns:
                    return True
        return False

    def _stands_in(self, place: Place) -> bool:
        """Whether the path has the very file, if not its content."""
        try:
            return os.stat(self.path).st_ino == place.inode
        except OSError:
            return False

    def _find(self, place: Place) -> LogFile | None:
        """The file that holds what was read and what followed it, under whatever name."""
        if place.head is None and place.gone:
            # It was empty when it was seen last, and any other file may have its number by now.
            return None
        if place.inode is not None:
            # Of a file of which little is known, the number alone would take any other for it.
            rotated_files = (path for path in self._rotated_files() if path.suffix not in COMPRESSED)
            names = None if place.is_known_by_content else {self.path, *rotated_files}
            for entry in self._neighbours():
                path = Path(entry.path)
                if (
                    (entry.inode() == place.inode or path == self.path)
                    and (names is None or path in names)
                    and (file := self._fitting(place, path))
                ):
                    return file
        if place.is_known_by_content and not place.gone and (file := self._fitting(place, self.path, any_inode=True)):
            place.inode = file.inode
            return file
        if place.gone and place.offset == place.size and not place.is_known_by_content:
            # It had left, and was told whole; what begins alike is more likely another.
            return None
        return self._copy(place)

    def _fitting(self, place: Place, path: Path, *, any_inode: bool = False) -> Plain | None:
        with suppress(FileNotFoundError, Unreadable):
            file = Plain(path)
            with suppress(Unreadable):
                if (any_inode or file.inode == place.inode) and place.fits(file):
                    return file
            file.close()
        return None

    def _copy(self, place: Place) -> LogFile | None:
        """A rotated file with the same content, plain or compressed."""
        if place.head is None:
            return None
        for path in self._rotated_files():
            with suppress(OSError, Unreadable):
                # Many files may share a first line, but only those that were written later can be copies.
                written_ns = path.stat().st_mtime_ns
                if not place.is_known_by_content and (written_ns < place.mtime_ns or self._is_beside(place, path)):
                    continue
                file = open_rotated(path)
                with suppress(Unreadable):
                    if place.fits(file):
                        file.inode = place.inode = None
                        place.mtime_ns = max(place.mtime_ns, written_ns)
                        return file
                file.close()
        return None

    def _between(self, where: Path | None, last: Place, now: Plain | None, written_ns: int) -> Iterator[Place | Gap]:
        """What came after `last`, of which the file is at `where`, and has given way to the file at the path `now`.

        `written_ns` is when `last` was written last.
        """
        files = self._rotated_files()
        times: dict[str, int] = {}
        known = {(now.device, now.inode)} if now else set()
        known |= {(p.file.device, p.file.inode) for p in self._places if isinstance(p.file, Plain)}
        others = []
        for path in files:
            try:
                about = os.stat(path)
            except OSError:
                continue
            if path == where or (about.st_dev, about.st_ino) in known:
                continue
            if not self._is_beside(last, path) and not self._is_twin(path):
                times[path.name] = about.st_mtime_ns
                others.append(path)
        name = where.name if where is not None else ""
        times[name] = written_ns
        names = (self.path.name, os.path.basename(last.real))
        marked = {one.name: one for base in names for one in rotated(base, [*times])}
        which = marked.get(name) or Rotated(name, None)
        candidates = [marked[path.name] for path in others if path.name in marked]
        newer_names = newer_than(which, candidates, times)
        for at, newer in enumerate(newer_names):
            path = next(path for path in others if path.name == newer)
            try:
                file = open_rotated(path)
            except FileNotFoundError:
                continue
            except Unreadable as error:
                yield Gap(f"{digest(os.fsencode(path))}:{times[newer]}:unreadable", "unreadable", 0, str(error))
                continue
            place = Place(file.inode, str(path), gone=True, file=file, mtime_ns=times[newer], grew_s=self._clock())
            place.beside = _records(one for one in files if one.name not in newer_names[at:])
            yield place

    def _whereabouts(self, place: Place) -> Path | None:
        """What the file of `place` is called now."""
        if isinstance(place.file, Plain) and place.file.inode is not None:
            for entry in self._neighbours():
                if entry.inode() == place.file.inode and place.file.is_at(Path(entry.path)):
                    return Path(entry.path)
            return None
        return place.file.path if place.file else None

    def _neighbours(self) -> Iterator[os.DirEntry[str]]:
        for folder in self._folders():
            with suppress(OSError), os.scandir(folder) as entries:
                yield from entries

    def _rotated_files(self) -> list[Path]:
        """Those that may hold what the log was before, each once; what is not compressed stands for what is."""
        names = {self.path.name, *(os.path.basename(place.real) for place in self._places)}
        found: dict[Path, Path] = {}
        for folder in self._folders():
            with suppress(OSError):
                there = sorted(os.listdir(folder))
                for one in (one for name in sorted(names) for one in rotated(name, there)):
                    bare = Path(folder, uncompressed(one.name))
                    if bare not in found or one.name == bare.name:
                        found[bare] = Path(folder, one.name)
        return list(found.values())

    def _folders(self) -> list[str]:
        return list(
            dict.fromkeys(
                [str(self.path.parent), *(os.path.dirname(place.real) for place in self._places)],
            )
        )

    # Reading.

    def _take_step(self, most_lines: int, most_bytes: int) -> list[Told | Gap]:
        """What the first step that has something has; a step that has no more is left behind."""
        for step in list(self._steps):
            if isinstance(step, Gap):
                self._steps = [other for other in self._steps if other is not step]
                return [step]
            if step.file is None:
                if step is not self._places[-1]:
                    self._replace(step, [])
                continue
            try:
                if self._may_have_been_emptied(step):
                    assert isinstance(step.file, Plain)
                    if step.head is not None and self._has_copy(step):
                        raise Overwritten
                    between = [] if step.head else list(self._between(None, step, step.file, step.mtime_ns))
                    if step.head is None:
                        step.size, step.mtime_ns = step.file.seen() or (0, 0)
                    if between:
                        step.beside = self._new_place(step.file).beside
                        self._replace(step, [*between, step])
                        return self._take_step(most_lines, most_bytes)
                if found := lines_of(step, self._lives, most_lines, most_bytes, self._clock()):
                    return list(found)
            except Overwritten:
                self._overwritten(step)
                return self._take_step(most_lines, most_bytes)
            except Unreadable as error:
                if step.inode is not None:
                    self.trouble = str(error)
                    continue
                self._replace(step, [self._gap(step, "unreadable", str(error))])
                return self._take_step(most_lines, most_bytes)
            if step.gone and (step.inode is None or self._clock() - step.grew_s > LINGER_S):
                last = last_line(step, self._lives)
                # The last place is kept for what comes after it, but no disk is to be kept full for that.
                if step is self._places[-1]:
                    self._let_go(step)
                else:
                    self._replace(step, [])
                if last:
                    return [last]
        return []

    def _has_copy(self, place: Place) -> bool:
        """Whether a copy has what the file had and has no more, so that it was emptied, and begins as it did."""
        probe = replace(place)
        copy = self._copy(probe)
        if copy is None:
            return False
        with closing(copy):
            if any(isinstance(one.file, Plain) and one.file.is_at(copy.path) for one in self._places):
                return False
            return not place.read(MAX_LINE_BYTES).startswith(copy.read_at(place.offset, MAX_LINE_BYTES))

    @staticmethod
    def _may_have_been_emptied(place: Place) -> bool:
        """Whether something happened to a file of which too little is known to tell by its content."""
        return (
            not place.is_known_by_content
            and place.inode is not None
            and isinstance(place.file, Plain)
            and place.file.seen() != (place.size, place.mtime_ns)
        )

    def _overwritten(self, place: Place) -> None:
        """The file was truncated, and perhaps written anew; its former content may have been copied before."""
        file = place.file
        assert file is not None
        was_current = not place.gone
        mended: list[Place | Gap] = []
        copy = self._copy(place)
        place.file = copy
        place.gone = True
        if copy is not None:
            place.read_at = None
            mended.append(place)
        elif was_current or place.offset < place.size:
            mended.append(self._gap(place, "truncated"))
        if isinstance(file, Plain) and file.inode is not None:
            anew = self._new_place(file)
            anew.gone = not was_current
            self._replace(place, [*mended, anew])
            # Only now, so that what this file holds is not taken for what another does.
            between = self._between(copy.path if copy else None, place, file, place.mtime_ns)
            self._replace(anew, [*between, anew])
        else:
            file.close()
            self._replace(place, mended)

    def _replace(self, place: Place, steps: list[Place | Gap]) -> None:
        at = next(i for i, step in enumerate(self._steps) if step is place)
        self._steps[at : at + 1] = steps
        if place not in steps:
            self._let_go(place)

    def _let_go(self, place: Place) -> None:
        file, place.file = place.file, None
        if file is not None:
            file.close()

    def _gap(self, place: Place, reason: str, detail: str = "") -> Gap:
        life = place.life or digest(f"{self.path}\0{place.inode}".encode("utf-8", "surrogateescape"))
        return Gap(f"{life}:{place.offset}:{reason}", reason, place.offset, detail)


def _is_same(file: LogFile | None, other: Plain) -> bool:
    return isinstance(file, Plain) and (file.device, file.inode) == (other.device, other.inode)


def _written_ns(place: Place) -> int:
    """When it was written last, as far as that can be known."""
    seen = place.file.seen() if place.file else None
    return seen[1] if seen else place.mtime_ns


def _records(paths: Iterable[Path]) -> dict[str, list[Any]]:
    """What is to be known of these files to know them again: by inode a size, and what is just before that."""
    records: dict[str, list[Any]] = {}
    for path in paths:
        with suppress(OSError, Unreadable), closing(Plain(path)) as file:
            # Of an empty one nothing was told, and its number may be that of another soon.
            if size := (file.seen() or (0, 0))[0]:
                records[str(file.inode)] = [size, digest(before(file, size))]
    return records
