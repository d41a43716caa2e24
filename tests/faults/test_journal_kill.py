"""The journal alone under kill -9: every number that was told to the outside is there afterwards, with its event."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from random import Random

import pytest

from eventhost.event import EnvEvent
from eventhost.journal import open_journal

KILLS = int(os.environ.get("EVENTHOST_KILLS", "50"))

CHILD = textwrap.dedent(
    """
    import asyncio, sys
    from pathlib import Path
    from eventhost.event import EnvEvent
    from eventhost.journal import Change, Position, open_journal

    async def main(path, durability, kill):
        journal, loss = await open_journal(path, durability)
        assert loss is None, loss
        async def publish(publisher):
            number = 0
            while True:
                batch = [
                    EnvEvent(f"{kill}-{publisher}-{number + place}", "t", 1, {}, {"text": "x" * (number % 300)})
                    for place in range(1 + number % 40)
                ]
                first = await journal.append(batch)
                number += len(batch)
                # One write, so that a line is there whole or not at all.
                sys.stdout.write("".join(f"{first + place} {event.id}\\n" for place, event in enumerate(batch)))
                sys.stdout.flush()
                if not number % 7:
                    await journal.save(Change(low=first, positions=[Position("rule", first)]))
                if not number % 5:
                    journal.trim(first - 20_000)
        print("ready", flush=True)
        await asyncio.gather(*(publish(publisher) for publisher in range(8)))

    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
    """
)


def killed(path: Path, durability: str, kill: int, after_lines: int) -> list[str]:
    """What a child wrote until it was killed: whole lines, each a number and the id of its event."""
    command = [sys.executable, "-c", CHILD, str(path), durability, str(kill)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "ready\n"
            # Not by a clock: after so many lines, whenever that is.
            written = "".join(child.stdout.readline() for _ in range(after_lines))
        finally:
            child.send_signal(signal.SIGKILL)
        written += child.stdout.read()
    assert child.returncode == -signal.SIGKILL
    return [line for line in written.splitlines(keepends=True) if line.endswith("\n")]


@pytest.mark.anyio
@pytest.mark.timeout(120 + KILLS * 3)
@pytest.mark.parametrize("durability", ["full", "normal"])
async def test_what_was_told_to_be_kept_survives_the_kill(durability: str, tmp_path: Path) -> None:
    path, random = tmp_path / "journal.db", Random(KILLS)
    told: dict[int, str] = {}
    for kill in range(KILLS // 2):
        for line in killed(path, durability, kill, random.choice([0, 1, 10, 300, 3000])):
            seq, event_id = line.split()
            assert told.setdefault(int(seq), event_id) == event_id, "a number was given twice"
        journal, loss = await open_journal(path)
        assert loss is None
        assert journal.crashed
        assert journal.head >= max(told, default=0)
        position, found = journal.first - 1, {}
        while entries := await journal.read(position, 5_000):
            assert [entry.seq for entry in entries] == list(range(position + 1, position + len(entries) + 1))
            found |= {entry.seq: entry.event for entry in entries}
            position = entries[-1].seq
        assert position == journal.head
        assert all(found[seq].id == event_id for seq, event_id in told.items() if seq >= journal.first)
        assert all(isinstance(event, EnvEvent) for event in found.values())
        await journal.check()
        await journal.aclose()
    assert len(told) > 1000
