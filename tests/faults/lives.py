"""Lives of a host on one journal, each in a process of its own that can be killed; they begin without importing anew.

Run as a program it imports everything once, then forks a child for each line that it reads: a life, as JSON. Whoever
writes the lines is told each child's process id, and how it ended. What a life says, it says in files that outlive it:

    accepted    `life first count`, once `publish` has returned
    done        `life rule begun|ended time seq,seq,…`, by the action itself
    saved       `life time`: what was ended before was written down by then
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import anyio
import httpx2
import structlog
from pydantic import BaseModel

from eventhost.actions import KINDS, Hands
from eventhost.actions.parse import Kind
from eventhost.bus import EnvEventBus
from eventhost.config.tree import Tree
from eventhost.errors import ActionError
from eventhost.event import EnvEvent
from eventhost.journal import Change, open_journal
from eventhost.rules import Limits, RuleEngine, Tracing, parse_rules


@dataclass(frozen=True)
class Life:
    """What is to happen in one life. It ends by itself, properly, if it `drains`: with nothing left to do."""

    number: int
    folder: str
    batches: int = 0
    """How many batches of events are published, by four publishers at once."""
    drains: bool = False
    poison: bool = False
    """Whether the host dies of every event whose number can be divided by 50."""
    deaths: int = 1_000_000
    """So many hosts may die of a run: here they die of something else."""

    def file(self, name: str) -> Path:
        return Path(self.folder) / name


class Nursery:
    """The program of this file, as its parent sees it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def begin(self, life: Life) -> int:
        """Begin a life; return its process id."""
        self._stdin.write(json.dumps(asdict(life)) + "\n")
        self._stdin.flush()
        return int(self._stdout.readline())

    def end(self) -> int:
        """Wait until the life has ended; what `os.waitstatus_to_exitcode` says of it."""
        return int(self._stdout.readline())

    def kill(self, pid: int) -> int:
        """Kill the life, unless it has ended; as `end`."""
        os.kill(pid, signal.SIGKILL)  # nobody has waited for it yet, so it is still its number
        self._stdin.write("\n")
        self._stdin.flush()
        return self.end()

    @property
    def _stdin(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _stdout(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout


@contextmanager
def nursery() -> Iterator[Nursery]:
    """A nursery that has imported what it needs."""
    command = [sys.executable, str(Path(__file__))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield Nursery(process)
        finally:
            process.stdin.close()


def main() -> None:
    """Fork lives."""
    anyio.run(anyio.sleep, 0)  # imports what comes with it
    print("ready", flush=True)
    while line := sys.stdin.readline():
        if not line.strip():
            continue
        life = Life(**json.loads(line))
        if (pid := os.fork()) == 0:
            code = 70
            try:
                live(life)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        print(pid, flush=True)
        if not life.drains and not life.poison:
            sys.stdin.readline()  # it has been killed
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def live(life: Life) -> None:
    """Be a host."""
    random.seed(life.number)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    anyio.run(_live, life, backend_options={"use_uvloop": False})


RULES: list[dict[str, Any]] = [
    {"name": "inorder", "do": {"count": "inorder"}},
    {"name": "several", "concurrency": 8, "do": {"count": "several", "retry": {"attempts": 10, "delay": "1ms"}}},
    {"name": "lagging", "do": {"count": "lagging"}},
    {"name": "batch", "batch": {"max": 7, "within": "20ms"}, "do": {"count": "batch"}},
    {"name": "throttled", "throttle": {"limit": 5, "per": "20ms"}, "do": {"count": "throttled"}},
]


async def _live(life: Life) -> None:
    files = {
        name: os.open(life.file(name), os.O_WRONLY | os.O_APPEND | os.O_CREAT) for name in ("accepted", "done", "saved")
    }

    def say(name: str, *words: object) -> None:
        # One write, so that a line is there whole or not at all, in the order in which things happened.
        os.write(files[name], (" ".join(map(str, (life.number, *words))) + "\n").encode())

    class Spec(BaseModel):
        count: str

    @dataclass(frozen=True)
    class Count:
        rule: str
        kind: str = "count"

        async def run(self, entry: Any, context: Any) -> None:
            seqs = ",".join(str(one.seq) for one in context.batch or (entry,))
            if context.attempt == 1:
                say("done", self.rule, "begun", time.monotonic_ns(), seqs)
            if life.poison and entry.seq % 50 == 0 and self.rule in ("inorder", "several"):
                os.kill(os.getpid(), signal.SIGKILL)
            if self.rule == "lagging" and entry.seq % 16 == 0:
                await anyio.sleep(0.003)
            elif self.rule == "several":
                await anyio.sleep(random.random() * 0.002)
                if random.random() < 0.1:
                    raise ActionError("not this time")
            say("done", self.rule, "ended", time.monotonic_ns(), seqs)

        def describe(self, entry: Any, values: Any) -> dict[str, Any]:
            raise AssertionError

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError

    KINDS["count"] = Kind(Spec, lambda tree, names: Count(tree.value["count"]))
    journal, loss = await open_journal(life.file("journal.db"))
    assert loss is None, loss
    keep = journal.save

    async def save(change: Change) -> None:
        asked = time.monotonic_ns()
        await keep(change)
        say("saved", asked)

    journal.save = save  # type: ignore[method-assign]

    async def publish(bus: EnvEventBus) -> None:
        for _ in range(life.batches):
            events = [EnvEvent(f"{life.number}", "t", 1, {}, {}) for _ in range(random.choice([1, 1, 2, 5, 30]))]
            say("accepted", await bus.publish_batch(events), len(events))
            if random.random() < 0.3:
                await anyio.sleep(random.random() * 0.01)

    async with EnvEventBus(journal) as bus:
        http = httpx2.AsyncClient(transport=httpx2.MockTransport(never))  # any other reads all certificates first
        hands = Hands(bus.publish, never, never, http, Path(life.folder), {}, never)
        engine = RuleEngine(
            bus,
            hands,
            limits=Limits(queue=40, deaths=life.deaths),
            tracing=Tracing.ALL if not life.poison else Tracing.OFF,
        )
        await engine.update(parse_rules(Tree.parse(json.dumps({"rules": RULES}), "config.jsonc").at("rules")))
        async with engine, anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(publish, bus)
            if life.drains:
                while not await engine.drain(60) or any(one.held for one in engine.statistics()):
                    await anyio.sleep(0.01)
            else:
                await anyio.sleep_forever()
    await journal.aclose()


if __name__ == "__main__":
    main()
