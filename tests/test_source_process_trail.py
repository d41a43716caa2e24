"""A log file is followed through everything that is done to it, and no line that can still be read is lost."""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st
from test_shipped_sources import modules_of

HEADER = "# every file begins so"
ROTATED = 3


@pytest.fixture(scope="module")
def trails() -> Iterator[SimpleNamespace]:
    with modules_of("process") as module:
        yield SimpleNamespace(trail=module("trail"), rotation=module("rotation"))


class Content:
    """What was written between two rotations, wherever it is now."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.partial = ""
        self.may_grow = True


class World:
    """A log, what is done to it, and who follows it. Every change is a second later than the one before."""

    def __init__(self, trails: SimpleNamespace, folder: Path) -> None:
        self.trails = trails
        self.log = folder / "app.log"
        self.now_s = 1_800_000_000
        self.waited_s = 0.0
        self.contents: dict[Path, Content] = {}
        self.told: set[tuple[str, str]] = set()
        """Ids and lines."""
        self.gaps: list[Any] = []
        self.lines = 0
        self.destroyed = False
        self.trail = self._new(None)
        self.append(0)
        self.look()
        self.kept = self.trail.kept

    def _new(self, kept: Any) -> Any:
        return self.trails.trail.Trail(self.log, kept, clock=lambda: self.waited_s)

    def rotated(self, number: int) -> Path:
        return self.log.with_name(f"app.log.{number}")

    def _touch(self, path: Path) -> None:
        self.now_s += 1
        os.utime(path, (self.now_s, self.now_s))

    # What is done to the log.

    def append(self, count: int, header: bool = False, path: Path | None = None) -> None:
        path = path or self.log
        content = self.contents.setdefault(path, Content())
        text = ""
        if header and not content.lines and not content.partial:
            content.lines.append(HEADER)
            text = f"{HEADER}\n"
        for _ in range(count):
            self.lines += 1
            line = f"line {self.lines} {'x' * (self.lines % 7 * 60)}"
            content.lines.append(content.partial + line)
            content.partial = ""
            text += f"{line}\n"
        with path.open("a") as file:
            file.write(text)
        self._touch(path)

    def append_part(self) -> None:
        self.lines += 1
        part = f"part {self.lines} "
        self.contents.setdefault(self.log, Content()).partial += part
        with self.log.open("a") as file:
            file.write(part)
        self._touch(self.log)

    def append_late(self, count: int) -> None:
        content = self.contents.get(self.rotated(1))
        if content is not None and content.may_grow and content.lines:
            self.append(count, path=self.rotated(1))

    def _shift(self) -> None:
        for number in range(ROTATED, 0, -1):
            for suffix in ("", ".gz"):
                old = Path(f"{self.rotated(number)}{suffix}")
                if old in self.contents:
                    content = self.contents.pop(old)
                    if number == ROTATED:
                        old.unlink()
                        self._destroy(content)
                    else:
                        new = Path(f"{self.rotated(number + 1)}{suffix}")
                        old.rename(new)
                        self.contents[new] = content

    def rename(self, create: bool) -> None:
        if self.log in self.contents:
            self._shift()
            self.log.rename(self.rotated(1))
            self.contents[self.rotated(1)] = self.contents.pop(self.log)
            if create:
                self.append(0)

    def copy_and_truncate(self, keep_time: bool) -> None:
        # A copy of a first line alone, to which another begins alike, cannot be told from a log that was not emptied.
        if self.log in self.contents and self.contents[self.log].lines != [HEADER]:
            self._shift()
            (shutil.copy2 if keep_time else shutil.copy)(self.log, self.rotated(1))
            if not keep_time:
                self._touch(self.rotated(1))
            content = self.contents[self.rotated(1)] = self.contents.pop(self.log)
            content.may_grow = False
            os.truncate(self.log, 0)
            self.contents[self.log] = Content()
            self._touch(self.log)

    def compress(self, number: int) -> None:
        plain = self.rotated(number)
        if plain in self.contents:
            archive = Path(f"{plain}.gz")
            archive.write_bytes(gzip.compress(plain.read_bytes()))
            shutil.copystat(plain, archive)
            plain.unlink()
            content = self.contents[archive] = self.contents.pop(plain)
            content.may_grow = False

    def truncate(self) -> None:
        if self.log in self.contents:
            os.truncate(self.log, 0)
            before, self.contents[self.log] = self.contents[self.log], Content()
            self._touch(self.log)
            self._destroy(before)

    def delete(self) -> None:
        if content := self.contents.pop(self.log, None):
            self.log.unlink()
            self._destroy(content)

    def _destroy(self, content: Content) -> None:
        self.destroyed = True
        if HEADER in content.lines:
            # Which of several files that begin alike it was is known from what is kept, and from nothing else.
            self.look_and_keep(5)

    # What is done by who follows it.

    def look(self, most_lines: int = 1000) -> None:
        while taken := self.trail.take(most_lines, 300):
            for one in taken:
                if isinstance(one, self.trails.trail.Gap):
                    self.gaps.append(one)
                elif not one.line.unfinished:
                    self.told.add((one.id, one.line.data.decode()))

    def look_and_keep(self, most_lines: int) -> None:
        self.look(most_lines)
        self.kept = self.trail.kept

    def crash(self) -> None:
        self.trail.close()
        self.trail = self._new(self.kept)

    def wait(self) -> None:
        self.look()
        self.waited_s += 100
        for content in self.contents.values():
            content.may_grow = False
        if self.log in self.contents:
            self.contents[self.log].may_grow = True

    def check(self) -> None:
        lines = [line for _, line in self.told if line != HEADER]
        assert len(lines) == len(set(lines)), "a line was told under two ids"
        there = {line for content in self.contents.values() for line in content.lines}
        assert there - {line for _, line in self.told} == set()
        # What was told and not kept, and whose place was then taken by what begins alike, has its id taken, too.
        ids = [one for one, line in self.told if line in there]
        assert len(ids) == len(set(ids)), "two lines were told under one id"
        if not self.destroyed:
            assert self.gaps == []


count = st.integers(0, 5)
operations = st.one_of(
    st.tuples(st.just("append"), count, st.booleans()),
    st.tuples(st.just("append"), count, st.booleans()),
    st.tuples(st.just("append_part")),
    st.tuples(st.just("append_late"), count),
    st.tuples(st.just("rename"), st.booleans()),
    st.tuples(st.just("copy_and_truncate"), st.booleans()),
    st.tuples(st.just("compress"), st.integers(1, ROTATED)),
    st.tuples(st.just("truncate")),
    st.tuples(st.just("delete")),
    st.tuples(st.just("look"), st.integers(1, 5)),
    st.tuples(st.just("look_and_keep"), st.integers(1, 5)),
    st.tuples(st.just("look_and_keep"), st.integers(1, 5)),
    st.tuples(st.just("crash")),
    st.tuples(st.just("wait")),
)


@settings(max_examples=1000, derandomize=True)
@given(steps=st.lists(operations, max_size=25))
def test_every_complete_line_that_is_still_there_is_told_once(trails: SimpleNamespace, steps: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(trails, Path(folder))
        note(str(steps))
        for name, *arguments in steps:
            getattr(world, name)(*arguments)
        world.look()
        world.check()
        world.trail.close()


# What the names of rotated files say.


@pytest.mark.parametrize(
    ("name", "there", "expected"),
    [
        ("app.log", ["app.log.1", "app.log.10", "app.log.2.gz"], ["app.log.10", "app.log.2.gz", "app.log.1"]),
        ("app.log", ["app.log-20260102.gz", "app.log-20251231"], ["app.log-20251231", "app.log-20260102.gz"]),
        ("app.log", ["app-2026-01-02.log", "app-2026-01-02_2.log"], ["app-2026-01-02.log", "app-2026-01-02_2.log"]),
        ("app.log", ["app.1.log", "app.log.2026-01-02T03.xz"], ["app.1.log", "app.log.2026-01-02T03.xz"]),
        ("app.log", ["app.log.old", "app.log~prev"], ["app.log.old", "app.log~prev"]),
        ("syslog", ["syslog.1", "syslog.2.gz"], ["syslog.2.gz", "syslog.1"]),
        ("app.log", ["app.log", "application.log", "app.log.d", "app2.log", "myapp.log.1", "app.log.1.tmp"], []),
        ("access.log", ["error.log.1", "access.log.gz"], []),
    ],
)  # fmt: skip
def test_a_rotated_file_is_known_by_its_name_and_so_is_which_is_older(
    trails: SimpleNamespace, name: str, there: list[str], expected: list[str]
) -> None:
    found = trails.rotation.rotated(name, there)
    assert sorted(one.name for one in found) == sorted(expected)
    oldest = trails.rotation.Rotated("", None)
    times = {one.name: at for at, one in enumerate(found, 1)} | {"": 0}
    assert trails.rotation.newer_than(oldest, found, times) == expected


def test_names_say_what_is_newer_where_times_do_not(trails: SimpleNamespace) -> None:
    first, second, third = trails.rotation.rotated("a", ["a.1", "a.2.gz", "a.3"])
    times = {"a.1": 1, "a.2.gz": 1, "a.3": 9}
    assert trails.rotation.newer_than(third, [first, second, third], times) == ["a.2.gz", "a.1"]
    assert trails.rotation.newer_than(first, [first, second, third], times) == []


# What else can be in a file, or happen to it.


class Follower:
    """A trail and what it told."""

    def __init__(self, trails: SimpleNamespace, path: Path) -> None:
        self._trails, self._path = trails, path
        self.now_s = 0.0
        self.trail = self._new(None)

    def _new(self, kept: Any) -> Any:
        return self._trails.trail.Trail(self._path, kept, clock=lambda: self.now_s)

    def told(self) -> list[str]:
        told = []
        while taken := self.trail.take(500, 4_000_000):
            told += [getattr(one, "reason", None) or one.line.data.decode(errors="replace") for one in taken]
        return told

    def restart(self) -> None:
        kept = self.trail.kept
        self.trail.close()
        self.trail = self._new(kept)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "app.log"
    path.touch()
    return path


@pytest.fixture
def follower(trails: SimpleNamespace, log: Path) -> Iterator[Follower]:
    follower = Follower(trails, log)
    yield follower
    follower.trail.close()


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_a_line_that_is_too_long_is_told_once_and_the_rest_of_it_never(follower: Follower, log: Path) -> None:
    append(log, b"a\n" + b"x" * 1_500_000)
    assert [len(line) for line in follower.told()] == [1, 1_000_000]
    append(log, b"y" * 1_500_000)
    follower.restart()
    assert follower.told() == []
    append(log, b"y\nb\n")
    assert follower.told() == ["b"]


def test_a_hole_in_a_file_is_no_line_however_large(follower: Follower, log: Path) -> None:
    append(log, b"a\n")
    assert follower.told() == ["a"]
    os.truncate(log, 3_000_000)
    assert follower.told() == []
    append(log, b"b\n")
    assert follower.told() == ["b"]


def test_a_file_that_is_written_anew_with_what_it_held_goes_on(follower: Follower, log: Path) -> None:
    append(log, b"one\ntwo\n")
    assert follower.told() == ["one", "two"]
    for restart in (False, True):
        anew = log.with_name("draft")
        anew.write_bytes(log.read_bytes() + b"three\n")
        anew.rename(log)
        if restart:
            follower.restart()
        assert follower.told() == ["three"]


def test_what_cannot_be_read_is_a_gap(follower: Follower, log: Path) -> None:
    append(log, b"one\ntwo\n")
    assert follower.told() == ["one", "two"]
    follower.restart()
    log.unlink()
    Path(f"{log}.2.gz").write_bytes(gzip.compress(b"one\ntwo\nthree\n" * 5000)[:-9])
    Path(f"{log}.1.zst").write_bytes(b"whatever")
    append(log, b"four\n")
    told = follower.told()
    assert told[-1] == "four"
    assert {"unreadable", "gone"} & set(told)


def test_a_last_line_without_an_end_is_told_once_nobody_writes_any_more_and_no_disk_is_held(
    trails: SimpleNamespace, follower: Follower, log: Path
) -> None:
    append(log, b"one\ntw")
    assert follower.told() == ["one"]
    log.unlink()
    assert follower.told() == []
    assert _descriptor_of(log) is not None
    follower.now_s += trails.trail.LINGER_S + 1
    assert follower.told() == ["tw"]
    assert _descriptor_of(log) is None
    append(log, b"three\n")
    assert follower.told() == ["three"]


def _descriptor_of(removed: Path) -> str | None:
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            if os.readlink(f"/proc/self/fd/{descriptor}") == f"{removed} (deleted)":
                return descriptor
    return None


def test_a_pipe_or_a_folder_at_the_path_is_no_log_and_holds_nothing_up(follower: Follower, log: Path) -> None:
    log.unlink()
    os.mkfifo(log)
    assert follower.told() == []
    assert follower.trail.trouble == f"{log}: no regular file"
    log.unlink()
    append(log, b"one\n")
    assert (follower.told(), follower.trail.trouble) == (["one"], "")


def test_a_file_of_many_lines_is_taken_in_pieces(follower: Follower, log: Path) -> None:
    append(log, b"".join(b"%d\n" % number for number in range(5000)))
    assert len(follower.trail.take(500, 4_000_000)) == 500
    assert [one.line.data for one in follower.trail.take(500, 6)] == [b"500", b"501"]
    follower.restart()
    assert follower.told() == [str(number) for number in range(502, 5000)]
