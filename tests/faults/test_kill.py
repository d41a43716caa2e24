"""Journal and rules under kill -9: what was accepted is done, in order where promised, and hardly ever twice."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from collections import Counter, defaultdict
from contextlib import closing
from pathlib import Path
from random import Random

import pytest
from lives import RULES, Life, Nursery, nursery

from eventhost.journal import Trace
from eventhost.journal.traces import traces_after

KILLS = int(os.environ.get("EVENTHOST_KILLS", "200"))

IN_ORDER = ("inorder", "lagging")
NAMES = [str(rule["name"]) for rule in RULES]


class Checker:
    """Reads what the lives said, and compares; it knows nothing but their files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: Counter[str] = Counter()
        self.accepted: set[int] = set()
        self.ended: dict[str, dict[int, tuple[int, int]]] = defaultdict(dict)
        """By rule and number: in which life its run ended the last time, and when."""
        self.ended_to = dict.fromkeys(IN_ORDER, 0)
        self.repeated: Counter[str] = Counter()
        self.oldest_ms = 0.0
        """How long before a kill the earliest had ended of what was done once more."""
        self.saved: Counter[int] = Counter()
        """By life: when what is written down was gathered."""
        self.runs = 0
        self._killed_ns: list[int] = []

    def look(self, killed_ns: int) -> None:
        """Check what was said since the last time, of a life that ended at `killed_ns`."""
        for _, first, count in self._lines("accepted"):
            numbers = range(int(first), int(first) + int(count))
            assert self.accepted.isdisjoint(numbers), "a number was given twice"
            self.accepted.update(numbers)
        begun: dict[str, int] = dict.fromkeys(IN_ORDER, 0)
        for life, rule, what, at, seqs in self._lines("done"):
            for seq in map(int, seqs.split(",")):
                if what == "begun":
                    self._begun(rule, seq, begun)
                else:
                    self.runs += 1
                    self.ended[rule][seq] = int(life), int(at)
                    if rule in IN_ORDER:
                        self.ended_to[rule] = max(self.ended_to[rule], seq)
        for life, at in self._lines("saved"):
            self.saved[int(life)] = max(self.saved[int(life)], int(at))
        self._killed_ns.append(killed_ns)

    def _begun(self, rule: str, seq: int, begun: dict[str, int]) -> None:
        if rule in IN_ORDER:
            assert seq > begun[rule], f"{rule}: {seq} was begun after {begun[rule]}"
            begun[rule] = seq
            assert seq <= self.ended_to[rule] + 1, f"{rule}: {seq} was begun, and {self.ended_to[rule] + 1} not done"
        if (before := self.ended[rule].get(seq)) is not None:
            life, ended = before
            self.repeated[rule] += 1
            self.oldest_ms = max(self.oldest_ms, (self._killed_ns[life] - ended) / 1e6)
            if rule in (*IN_ORDER, "several"):
                # What shaping remembers is written less often when it takes long.
                assert ended > self.saved[life], f"{rule}: {seq} was done once more, though that was written down"

    def _lines(self, name: str) -> list[list[str]]:
        file = self._folder / name
        if not file.exists():
            return []
        with file.open("rb") as opened:
            opened.seek(self._read[name])
            text = opened.read()
        self._read[name] += len(text)
        return [line.split() for line in text.decode().splitlines()]


@pytest.mark.timeout(60 + KILLS * 3)
def test_what_was_accepted_is_done_whenever_the_host_is_killed(tmp_path: Path) -> None:
    random, checker = Random(KILLS), Checker(tmp_path)
    begun_s = time.monotonic()
    with nursery() as lives:
        for number in range(KILLS):
            pid = lives.begin(Life(number, str(tmp_path), batches=random.choice([1, 5, 20])))
            # Anywhere: while it opens the journal, takes up what is owed, is under load, or has nothing to do.
            if random.random() < 0.8:
                until_it_works(tmp_path)
            time.sleep(random.choice([0.01, 0.05, 0.2]) * random.random())
            killed_ns = time.monotonic_ns()
            assert lives.kill(pid) == -signal.SIGKILL
            checker.look(killed_ns)
        took_s = time.monotonic() - begun_s
        lives.begin(Life(KILLS, str(tmp_path), drains=True))
        assert lives.end() == 0
        checker.look(time.monotonic_ns())
        done = (tmp_path / "done").stat().st_size
        lives.begin(Life(KILLS + 1, str(tmp_path), drains=True))
        assert lives.end() == 0
    assert (tmp_path / "done").stat().st_size == done, "after a proper end nothing is done once more"
    with closing(sqlite3.connect(tmp_path / "journal.db")) as database:
        ((head,),) = database.execute("SELECT head FROM mark").fetchall()
        told: list[Trace] = []
        while page := traces_after(told[-1].seq if told else 0, database):
            told += page
        dead = database.execute("SELECT rule, seq, error FROM dead").fetchall()
    throttled = {
        trace.seq
        for trace in told
        if trace.rule == "throttled" and json.loads(trace.body).get("verdict") == "throttled"
    }
    everything = set(range(1, head + 1))
    assert checker.accepted <= everything
    assert not dead
    for rule in NAMES:
        lost = everything - checker.ended[rule].keys() - (throttled if rule == "throttled" else set())
        assert not lost, f"{rule}: {len(lost)} lost: {sorted(lost)[:10]}"
    print(
        f"\n{KILLS} kills in {took_s:.0f} s: {len(checker.accepted)} events accepted, {checker.runs} runs, "
        f"done once more {dict(checker.repeated)}, the oldest {checker.oldest_ms:.0f} ms before the kill"
    )
    assert len(checker.accepted) > 10 * KILLS


def until_it_works(folder: Path) -> None:
    """Wait until a life has done something, for as long as that may take on a machine that does much else."""
    file, by_s = folder / "done", time.monotonic() + 10
    before = file.stat().st_size if file.exists() else 0
    while time.monotonic() < by_s and (not file.exists() or file.stat().st_size == before):
        time.sleep(0.001)


def ended(folder: Path, rule: str) -> Counter[int]:
    lines = [line.split() for line in (folder / "done").read_text().splitlines()]
    return Counter(
        int(seq) for _, name, what, _, seqs in lines if (name, what) == (rule, "ended") for seq in seqs.split(",")
    )


def lived(lives: Nursery, life: Life) -> int:
    lives.begin(life)
    return lives.end()


@pytest.mark.timeout(120)
def test_an_event_that_kills_the_host_each_time_is_given_up_and_the_others_go_on(tmp_path: Path) -> None:
    with nursery() as lives:
        code = lived(lives, Life(0, str(tmp_path), batches=8, drains=True, poison=True, deaths=3))
        for number in range(1, 200):
            if code == 0:
                break
            assert code == -signal.SIGKILL
            code = lived(lives, Life(number, str(tmp_path), drains=True, poison=True, deaths=3))
        else:
            pytest.fail("it dies again and again")
    with closing(sqlite3.connect(tmp_path / "journal.db")) as database:
        everything = {
            seq for (seq,) in database.execute("SELECT seq FROM event WHERE json_extract(body, '$.type') = 't'")
        }
        dead = set(database.execute("SELECT rule, seq FROM dead").fetchall())
    poisonous = {seq for seq in everything if seq % 50 == 0}
    assert poisonous
    for rule in ("inorder", "several"):
        assert {seq for name, seq in dead if name == rule} == poisonous
        assert ended(tmp_path, rule).keys() == everything - poisonous
    assert ended(tmp_path, "lagging").keys() == everything - {seq for name, seq in dead if name == "lagging"}
    print(f"\n{number} deaths of {len(poisonous)} poisonous events among {len(everything)}; dead letters: {len(dead)}")
