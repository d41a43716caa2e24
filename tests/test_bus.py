"""The bus's promise: publishing waits for the journal alone; whoever listens gets everything, or is told what not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from eventhost import bus as bus_room
from eventhost.bus import EnvEventBus, Lagged, Subscription
from eventhost.errors import BusClosed
from eventhost.event import EnvEvent
from eventhost.journal import Entry, JournalStatistics, MemoryJournal
from eventhost.pattern import PatternError

LIMIT_S = 10
"""Never reached unless something is broken."""


def event(number: int, event_type: str = "test.counted") -> EnvEvent:
    return EnvEvent(str(number), event_type, number, {"source": "s", "source_name": "s"}, {"number": number})


def events(count: int, first: int = 1) -> list[EnvEvent]:
    return [event(number) for number in range(first, first + count)]


@pytest.fixture
async def bus() -> AsyncIterator[EnvEventBus]:
    with anyio.fail_after(LIMIT_S):
        async with EnvEventBus(MemoryJournal()) as bus:
            yield bus


async def take(subscription: Subscription, count: int) -> list[Entry | Lagged]:
    """The next `count` items; the subscription may be taken from again."""
    items: list[Entry | Lagged] = []
    with anyio.fail_after(LIMIT_S):
        async with aclosing(aiter(subscription)) as stream:  # type: ignore[type-var]
            while len(items) < count:
                items.append(await anext(stream))
    return items


async def rest(subscription: Subscription) -> list[Entry | Lagged]:
    """Everything until the subscription ends."""
    with anyio.fail_after(LIMIT_S):
        return [item async for item in subscription]


def seqs(items: Sequence[Entry | Lagged]) -> list[int]:
    assert all(isinstance(item, Entry) for item in items), items
    return [item.seq for item in items if isinstance(item, Entry)]


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(LIMIT_S):
        while not condition():
            await anyio.lowlevel.checkpoint()


class GatedJournal(MemoryJournal):
    """Appends, or reads, only when its gate is open, as one on a slow disk."""

    def __init__(self, capacity: int = 100) -> None:
        super().__init__(capacity)
        self.append_gate, self.read_gate = anyio.Event(), anyio.Event()
        self.append_gate.set()
        self.read_gate.set()
        self.failure: Exception | None = None

    async def append(self, events: Sequence[EnvEvent]) -> int:
        await self.append_gate.wait()
        if self.failure is not None:
            raise self.failure
        return await super().append(events)

    async def read(self, after: int, limit: int) -> Sequence[Entry]:
        await self.read_gate.wait()
        return await super().read(after, limit)


# --- publishing -----------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_publish_returns_the_sequence_number(bus: EnvEventBus) -> None:
    assert await bus.publish(event(1)) == 1
    assert await bus.publish_batch(events(3, first=2)) == 2
    assert await bus.publish(event(5)) == 5
    assert [e.id for e in await bus.get_recent_events(100)] == ["1", "2", "3", "4", "5"]


@pytest.mark.anyio
async def test_publish_waits_for_the_journal() -> None:
    journal = GatedJournal()
    async with EnvEventBus(journal) as bus, anyio.create_task_group() as tasks:
        journal.append_gate = anyio.Event()
        done: list[int] = []

        async def publish() -> None:
            done.append(await bus.publish(event(1)))

        tasks.start_soon(publish)
        await anyio.wait_all_tasks_blocked()
        assert done == []
        journal.append_gate.set()
        await until(lambda: done == [1])


@pytest.mark.anyio
async def test_a_slow_watcher_never_delays_anybody(bus: EnvEventBus) -> None:
    never = anyio.Event()
    stuck, watched = [], []

    async def stall(item: EnvEvent) -> None:
        stuck.append(item.id)
        await never.wait()

    bus.register_event_handler("*", stall)
    bus.register_event_handler("*", lambda item: watched.append(item.id))
    watching, untouched = bus.subscribe(), bus.subscribe()
    async with aclosing(aiter(watching)) as stream:  # type: ignore[type-var]
        await bus.publish(event(0))
        await anext(stream)  # and from now on it is not read any more
        for number in range(1, 200):
            await bus.publish(event(number))
        await until(lambda: len(watched) == 200)
    assert stuck == ["0"]
    assert seqs(await take(untouched, 200)) == list(range(1, 201))
    never.set()


@pytest.mark.anyio
async def test_a_closed_bus_accepts_nothing() -> None:
    bus = EnvEventBus(MemoryJournal())
    await bus.publish(event(1))
    await bus.aclose()
    with pytest.raises(BusClosed, match="the host is stopping"):
        await bus.publish(event(2))
    with pytest.raises(BusClosed):
        await bus.publish_batch(events(2))
    assert bus.journal.head == 1
    assert [item.id for item in await bus.get_recent_events(5)] == ["1"]


@pytest.mark.anyio
async def test_a_journal_that_fails_fails_the_publisher_alone() -> None:
    journal = GatedJournal()
    async with EnvEventBus(journal) as bus:
        subscription = bus.subscribe()
        journal.failure = OSError("disk full")
        with pytest.raises(OSError, match="disk full"):
            await bus.publish(event(1))
        journal.failure = None
        assert await bus.publish(event(2)) == 1
        assert seqs(await take(subscription, 1)) == [1]


# --- subscribing ----------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_subscription_begins_now(bus: EnvEventBus) -> None:
    await bus.publish_batch(events(3))
    subscription = bus.subscribe()
    await bus.publish_batch(events(2, first=4))
    assert seqs(await take(subscription, 2)) == [4, 5]


@pytest.mark.anyio
async def test_a_subscription_may_begin_earlier(bus: EnvEventBus) -> None:
    await bus.publish_batch(events(5))
    assert seqs(await take(bus.subscribe(after=0), 5)) == [1, 2, 3, 4, 5]
    assert seqs(await take(bus.subscribe(after=3), 2)) == [4, 5]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", [1, 2, 4]),
        ("door.*", [1, 4]),
        (["door.opened", "bell"], [1, 2]),
        (["*", "host.*"], [1, 2, 3, 4]),
        ("host.*", [3]),
        ({"type": ["bell"]}, [2]),
        ({"payload": {"number": [4]}}, [4]),
    ],
)
async def test_a_subscription_gets_what_its_pattern_describes(
    bus: EnvEventBus, pattern: bus_room.EventPattern, expected: list[int]
) -> None:
    for number, event_type in enumerate(["door.opened", "bell", "host.started", "door.closed"], 1):
        await bus.publish(event(number, event_type))
    await bus.aclose()
    assert seqs(await rest(bus.subscribe(pattern, after=0))) == expected


@pytest.mark.anyio
async def test_a_pattern_that_is_none_is_refused_at_once(bus: EnvEventBus) -> None:
    with pytest.raises(PatternError):
        bus.subscribe({"payload": {"number": [{"nonsense": 1}]}})
    with pytest.raises(PatternError):
        bus.register_event_handler({"payload": object()}, print)


@pytest.mark.anyio
async def test_a_subscription_ends_after_the_last_accepted_event(bus: EnvEventBus) -> None:
    behind, waiting = bus.subscribe(), bus.subscribe("none.such")
    ended: list[str] = []

    async def wait_for_nothing() -> None:
        assert await rest(waiting) == []
        ended.append("waiting")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait_for_nothing)
        await bus.publish_batch(events(2000))
        await bus.aclose()
        assert seqs(await rest(behind)) == list(range(1, 2001))
        await until(lambda: ended == ["waiting"])
    assert await rest(bus.subscribe()) == []
    assert bus.statistics().subscriptions == 0


@pytest.mark.anyio
async def test_what_was_being_appended_when_the_bus_closed_is_delivered() -> None:
    journal = GatedJournal()
    seen: list[str] = []
    with anyio.fail_after(LIMIT_S):
        async with EnvEventBus(journal) as bus, anyio.create_task_group() as tasks:
            bus.register_event_handler("*", lambda item: seen.append(item.id))
            journal.append_gate = anyio.Event()
            tasks.start_soon(bus.publish, event(1))
            await anyio.wait_all_tasks_blocked()
            await bus.aclose()
            await anyio.wait_all_tasks_blocked()
            journal.append_gate.set()
    assert seen == ["1"]


@pytest.mark.anyio
async def test_a_failed_append_does_not_keep_a_closed_bus_waiting() -> None:
    journal = GatedJournal()
    with anyio.fail_after(LIMIT_S):
        async with EnvEventBus(journal) as bus, anyio.create_task_group() as tasks:
            subscription = bus.subscribe()
            journal.append_gate, journal.failure = anyio.Event(), OSError("disk full")

            async def publish() -> None:
                with pytest.raises(OSError, match="disk full"):
                    await bus.publish(event(1))

            tasks.start_soon(publish)
            await anyio.wait_all_tasks_blocked()
            await bus.aclose()
            journal.append_gate.set()
            assert await rest(subscription) == []


# --- lagging --------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_who_lags_is_told_how_many_it_missed_and_where_it_goes_on() -> None:
    bus = EnvEventBus(MemoryJournal(10))
    subscription = bus.subscribe()
    await bus.publish_batch(events(25))
    items = await take(subscription, 11)
    assert items[0] == Lagged(missed=15, resume=16)
    assert seqs(items[1:]) == list(range(16, 26))
    await bus.publish_batch(events(10, first=26))
    assert seqs(await take(subscription, 10)) == list(range(26, 36))


@pytest.mark.anyio
async def test_lagging_is_counted_in_events_of_every_kind() -> None:
    bus = EnvEventBus(MemoryJournal(4))
    subscription = bus.subscribe("door.*")
    for number in range(1, 11):
        await bus.publish(event(number, "door.opened" if number % 2 else "bell"))
    assert await take(subscription, 1) == [Lagged(missed=6, resume=7)]
    await bus.aclose()
    assert seqs(await rest(subscription)) == [7, 9]


@pytest.mark.anyio
async def test_what_is_overwritten_while_it_is_being_read_is_told_as_well() -> None:
    journal = GatedJournal(10)
    bus = EnvEventBus(journal)
    subscription = bus.subscribe()
    items: list[Entry | Lagged] = []

    async def watch() -> None:
        items.extend(await take(subscription, 11))

    async with anyio.create_task_group() as tasks:
        journal.read_gate = anyio.Event()
        await bus.publish_batch(events(10))
        tasks.start_soon(watch)
        await anyio.wait_all_tasks_blocked()  # it found nothing missing, and now waits for the reading
        await bus.publish_batch(events(5, first=11))
        journal.read_gate.set()
    assert items[0] == Lagged(missed=5, resume=6)
    assert seqs(items[1:]) == list(range(6, 16))


@pytest.mark.anyio
async def test_a_handler_that_lags_goes_on_with_what_is_held() -> None:
    seen: list[str] = []
    gate = anyio.Event()

    async def handler(item: EnvEvent) -> None:
        seen.append(item.id)
        await gate.wait()

    with capture_logs() as logs, anyio.fail_after(LIMIT_S):
        async with EnvEventBus(MemoryJournal(600)) as bus:
            bus.register_event_handler("*", handler)
            await bus.publish(event(1))
            await until(lambda: seen == ["1"])
            await bus.publish_batch(events(1000, first=2))
            gate.set()
    assert seen == ["1", *map(str, range(402, 1002))]
    assert [(entry["event"], entry["missed"]) for entry in logs] == [("handler_lagged", 400)]


# --- resuming -------------------------------------------------------------------------------------------------------


@given(
    batches=st.lists(st.integers(1, 600), max_size=4),
    reads=st.lists(st.integers(1, 400), max_size=6),
    pattern=st.sampled_from(["*", "odd"]),
)
def test_watching_in_parts_is_watching_in_one_go(batches: list[int], reads: list[int], pattern: str) -> None:
    async def main() -> None:
        bus = EnvEventBus(MemoryJournal())
        for size in batches:
            head = bus.journal.head
            await bus.publish_batch([event(n, "odd" if n % 2 else "even") for n in range(head + 1, head + size + 1)])
        await bus.aclose()
        whole = seqs(await rest(bus.subscribe(pattern, after=0)))
        parts: list[int] = []
        after = 0
        for count in reads:
            subscription = bus.subscribe(pattern, after=after)
            parts += seqs(await take(subscription, min(count, len(whole) - len(parts))))
            after = subscription.after
            assert not parts or after >= parts[-1]
        assert parts + seqs(await rest(bus.subscribe(pattern, after=after))) == whole

    anyio.run(main)


@pytest.mark.anyio
async def test_a_watcher_of_batches_resumes_after_the_batch(bus: EnvEventBus) -> None:
    await bus.publish_batch(events(1000))
    first = bus.subscribe(after=0)
    async with aclosing(first.batches()) as batches:
        batch = await anext(batches)
    await bus.aclose()
    assert seqs(batch) + seqs(await rest(bus.subscribe(after=first.after))) == list(range(1, 1001))


# --- handlers -------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_handlers_sync_and_async_get_their_events_in_order() -> None:
    asynchronous, synchronous, everything = list[str](), list[str](), list[str]()

    async def handler(item: EnvEvent) -> None:
        await anyio.lowlevel.checkpoint()
        asynchronous.append(item.id)

    bus = EnvEventBus(MemoryJournal())
    bus.register_event_handler("test.*", handler)  # before the bus runs
    await bus.publish(event(1))
    async with bus:
        bus.register_event_handler({"type": ["test.counted"]}, lambda item: synchronous.append(item.id))
        bus.register_global_event_handler(lambda item: everything.append(item.id))
        await bus.publish_batch([event(2), event(3, "host.note"), event(4)])
    assert asynchronous == ["1", "2", "4"]
    assert synchronous == ["2", "4"]
    assert everything == ["2", "3", "4"]


@pytest.mark.anyio
async def test_a_handler_that_raises_harms_neither_others_nor_itself() -> None:
    good, bad = list[str](), list[str]()

    def fail(item: EnvEvent) -> None:
        bad.append(item.id)
        raise KeyError(item.id)

    async def fail_later(item: EnvEvent) -> None:
        await anyio.lowlevel.checkpoint()
        fail(item)

    with capture_logs() as logs:
        async with EnvEventBus(MemoryJournal()) as bus:
            bus.register_event_handler("*", fail)
            bus.register_event_handler("*", lambda item: good.append(item.id))
            bus.register_event_handler("*", fail_later)
            await bus.publish_batch(events(3))
            await until(lambda: len(bad) == 6 and len(good) == 3)
            assert bus.statistics().handler_errors == 6
            assert bus.statistics().handlers == 3
    assert good == ["1", "2", "3"]
    assert sorted(bad) == ["1", "1", "2", "2", "3", "3"]
    assert [entry["event"] for entry in logs] == ["handler_failed"] * 6


@pytest.mark.anyio
async def test_a_handler_may_publish() -> None:
    async with EnvEventBus(MemoryJournal()) as bus:
        seen: list[str] = []

        async def relay(item: EnvEvent) -> None:
            await bus.publish(event(100 + int(item.id), "second"))

        bus.register_event_handler("first", relay)
        bus.register_event_handler("second", lambda item: seen.append(item.id))
        await bus.publish_batch([event(1, "first"), event(2, "first")])
        await until(lambda: seen == ["101", "102"])


@pytest.mark.anyio
async def test_an_unregistered_handler_is_not_called_again(bus: EnvEventBus) -> None:
    gone, left = list[str](), list[str]()
    unregister = bus.register_event_handler("*", lambda item: gone.append(item.id))
    bus.register_event_handler("*", lambda item: left.append(item.id))
    await bus.publish(event(1))
    await until(lambda: gone == ["1"])
    unregister()
    unregister()
    await bus.publish(event(2))
    await until(lambda: left == ["1", "2"])
    assert gone == ["1"]
    assert bus.statistics().handlers == 1


@pytest.mark.anyio
async def test_a_handler_may_unregister_itself(bus: EnvEventBus) -> None:
    once, always = list[str](), list[str]()

    def take_one(item: EnvEvent) -> None:
        once.append(item.id)
        unregister()

    unregister = bus.register_event_handler("*", take_one)
    bus.register_event_handler("*", lambda item: always.append(item.id))
    await bus.publish(event(1))
    await until(lambda: always == ["1"])
    await bus.publish(event(2))
    await until(lambda: always == ["1", "2"])
    assert once == ["1"]


@pytest.mark.anyio
async def test_a_handler_unregistered_before_it_ran_never_runs(bus: EnvEventBus) -> None:
    gone, left = list[str](), list[str]()
    bus.register_event_handler("*", lambda item: gone.append(item.id))()
    bus.register_event_handler("*", lambda item: left.append(item.id))
    await bus.publish(event(1))
    await until(lambda: left == ["1"])
    assert gone == []
    assert bus.statistics().subscriptions == 1


@pytest.mark.anyio
async def test_leaving_the_bus_lets_handlers_finish() -> None:
    seen: list[str] = []

    async def handler(item: EnvEvent) -> None:
        await anyio.lowlevel.checkpoint()
        seen.append(item.id)

    async with EnvEventBus(MemoryJournal()) as bus:
        bus.register_event_handler("*", handler)
        await bus.publish_batch(events(1000))
    assert len(seen) == 1000


@pytest.mark.anyio
async def test_a_handler_that_never_ends_is_ended_with_the_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus_room, "HANDLERS_END_S", 0.01)
    with anyio.fail_after(LIMIT_S):
        async with EnvEventBus(MemoryJournal()) as bus:
            bus.register_event_handler("*", lambda _: anyio.sleep_forever())
            await bus.publish(event(1))


@pytest.mark.anyio
async def test_what_raises_in_the_block_ends_the_handlers() -> None:
    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012 - the block is what is tested
        async with EnvEventBus(MemoryJournal()) as bus:
            bus.register_event_handler("*", lambda _: anyio.sleep_forever())
            await bus.publish(event(1))
            raise LookupError
    assert caught.group_contains(LookupError)


# --- looking back ---------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("limit", "expected"), [(0, []), (2, ["6", "7"]), (3, ["5", "6", "7"]), (99, ["4", "5", "6", "7"])]
)
async def test_recent_events_come_newest_last(limit: int, expected: list[str]) -> None:
    bus = EnvEventBus(MemoryJournal(4))
    await bus.publish_batch(events(7))
    assert [item.id for item in await bus.get_recent_events(limit)] == expected


@pytest.mark.anyio
async def test_statistics_are_a_snapshot(bus: EnvEventBus) -> None:
    await bus.publish_batch(events(3))
    async with aclosing(bus.subscribe(after=0).batches()) as batches:
        await anext(batches)
        snapshot = bus.statistics()
    assert snapshot.journal == JournalStatistics("memory", 1, 3, 0)
    assert (snapshot.subscriptions, snapshot.handlers, snapshot.handler_errors) == (1, 0, 0)
    assert bus.statistics().subscriptions == 0
