"""`Emitted`: what a rule emits is in the journal once, whatever is tried again, and whoever dies in between."""

from __future__ import annotations

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventhost.actions import HOST, RULES
from eventhost.errors import BusClosed
from eventhost.event import EnvEvent
from eventhost.journal import Entry, MemoryJournal
from eventhost.rules import Emitted
from eventhost.rules import emitted as emitted_room
from eventhost.rules.emitted import EMITTED_S

pytestmark = pytest.mark.anyio


class Far:
    """A journal behind a gate; `now_s` is the clock."""

    def __init__(self) -> None:
        self.journal = MemoryJournal()
        self.gate = anyio.Event()
        self.gate.set()
        self.recalled = anyio.Event()
        self.recalled.set()
        self.failure: Exception | None = None
        self.now_s = 0.0
        self.emitted = Emitted(self.publish, self.journal, self.recalled.wait, lambda: self.now_s)

    async def publish(self, event: EnvEvent) -> int:
        if self.failure is not None:
            raise self.failure
        # As a journal does: what was handed over is kept, though nobody waits any more.
        seq = await self.journal.append([event])
        await self.gate.wait()
        return seq

    @property
    def kept(self) -> int:
        return self.journal.head


def say(event_id: str, content: int = 0, source: str = RULES) -> EnvEvent:
    return EnvEvent(event_id, "t", 1, {"source_name": source}, {"n": content})


async def test_what_is_emitted_again_is_published_once_and_has_its_number() -> None:
    far = Far()
    assert [await far.emitted.publish(say(name)) for name in ("a", "b", "a")] == [1, 2, 1]
    assert (far.kept, far.emitted.repeated) == (2, 1)


async def test_of_two_with_one_id_the_first_counts_whatever_they_say() -> None:
    far = Far()
    await far.emitted.publish(say("a", content=1))
    await far.emitted.publish(say("a", content=2))
    assert [entry.event.payload["n"] for entry in await far.journal.read(0, 9)] == [1]


async def test_what_is_not_a_rules_event_is_published_as_often_as_it_is_said() -> None:
    far = Far()
    assert [await far.emitted.publish(say("a", source=HOST)) for _ in range(2)] == [1, 2]
    assert await far.emitted.publish(say("a")) == 3


async def test_an_attempt_that_was_given_up_is_not_made_twice() -> None:
    far = Far()
    far.gate = anyio.Event()
    with anyio.move_on_after(0.01):
        await far.emitted.publish(say("a"))
    assert await far.emitted.publish(say("a")) is None
    assert far.kept == 1


async def test_what_was_refused_may_be_tried_again() -> None:
    far = Far()
    far.failure = BusClosed("the host is stopping")
    with pytest.raises(BusClosed):
        await far.emitted.publish(say("a"))
    far.failure = None
    assert await far.emitted.publish(say("a")) == 1


async def test_nothing_is_emitted_before_it_is_known_what_was() -> None:
    far = Far()
    far.recalled = anyio.Event()
    far.emitted = Emitted(far.publish, far.journal, far.recalled.wait)
    numbers = []

    async def publish(name: str) -> None:
        numbers.append((name, await far.emitted.publish(say(name))))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(publish, "old")
        tasks.start_soon(publish, "new")
        await anyio.wait_all_tasks_blocked()
        assert far.kept == 0
        far.emitted.recall([Entry(9, 0, say("old")), Entry(8, 0, say("other", source="door")), Entry(7, 0, say("old"))])
        far.recalled.set()
    assert sorted(numbers) == [("new", 1), ("old", 7)]


async def test_ids_are_forgotten_by_time_and_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emitted_room, "EMITTED_IDS", 100)
    far = Far()
    await far.emitted.publish(say("a"))
    far.now_s += 1.5 * EMITTED_S
    await far.emitted.publish(say("a"))
    assert far.kept == 1
    far.now_s += 2 * EMITTED_S
    await far.emitted.publish(say("a"))
    assert far.kept == 2
    for number in range(1_000):
        await far.emitted.publish(say(str(number)))
    assert len(far.emitted._young) + len(far.emitted._old) <= 200


@given(st.lists(st.sampled_from("abcdef"), max_size=30), st.integers(0, 30))
async def test_however_often_and_across_a_restart_each_is_there_once(names: list[str], restart: int) -> None:
    far = Far()
    for number, name in enumerate(names):
        if number == restart:
            kept = list(await far.journal.read(0, 99))
            far.emitted = Emitted(far.publish, far.journal, far.recalled.wait)
            far.emitted.recall(reversed(kept))
        seq = await far.emitted.publish(say(name, content=number))
        assert (await far.journal.read(0, 99))[(seq or 0) - 1].event.id == name
    assert far.kept == len(set(names))
