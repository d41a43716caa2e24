"""The NATS source follows a real server: nothing of a stream is lost when either stops, and a gap says what is."""

from __future__ import annotations

import itertools
import json
import shutil
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import nats
import nkeys
import pytest
from anyio.abc import SocketAttribute, SocketStream
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig
from servers.instance import free_port
from servers.nats import Nats, nats_server
from source_process import Event, SourceProcess, source_process
from test_shipped_sources import modules_of
from test_web_access import Certificates

from eventhost.environment import ServerEnvironment
from eventhost.errors import ConfigError
from eventhost.kit import EventSource

SOURCE = Path(__file__).parents[1] / "eventsources" / "nats"

pytestmark = pytest.mark.anyio

aside = anyio.to_thread.run_sync

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[Nats]:
    with nats_server() as running:
        yield running


@asynccontextmanager
async def client_of(server: Nats, **more: Any) -> AsyncIterator[Client]:
    client = await nats.connect(server.url(), allow_reconnect=False, **more)
    try:
        yield client
    finally:
        await client.close()


class Orders:
    """A stream of its own, what the source is told of it, and whoever writes to it."""

    def __init__(self, server: Nats, state: Path) -> None:
        self.server, self.state = server, state
        number = next(_numbers)
        self.stream, self.subject = f"ORDERS{number}", f"orders{number}"

    async def make(self, **config: Any) -> None:
        async with client_of(self.server) as client:
            await client.jetstream().add_stream(StreamConfig(self.stream, subjects=[f"{self.subject}.>"], **config))

    async def write(self, *numbers: int, subject: str = "made") -> None:
        async with client_of(self.server) as client:
            jetstream = client.jetstream()
            for number in numbers:
                await jetstream.publish_async(f"{self.subject}.{subject}", json.dumps({"n": number}).encode())
            await jetstream.publish_async_completed()

    async def ask(self, what: str, *arguments: Any, **more: Any) -> Any:
        """Have the server do something with the stream."""
        async with client_of(self.server) as client:
            return await getattr(client.jetstream(), what)(self.stream, *arguments, **more)

    async def floor(self, consumer: str = "eventhost-nats") -> int:
        """Up to where the consumer has acknowledgements."""
        return (await self.ask("consumer_info", consumer)).ack_floor.stream_seq

    async def until_floor(self, seq: int, consumer: str = "eventhost-nats") -> None:
        with anyio.fail_after(20):
            while await self.floor(consumer) < seq:
                await anyio.sleep(0.05)

    def config(self, **more: Any) -> dict[str, Any]:
        return {"connection": {"url": self.server.url(), "streams": [{"stream": self.stream, **more}]}}

    def source(self, **more: Any) -> Any:
        return source_process(SOURCE, self.config(**more), self.state)


@pytest.fixture
def orders(server: Nats, tmp_path: Path) -> Orders:
    return Orders(server, tmp_path / "state")


def numbers(events: Sequence[Event]) -> list[int]:
    return [event["payload"]["n"] for event in events if event["type"] != "nats.gap"]


def gaps(source: SourceProcess) -> list[Event]:
    return [event for event in source.events if event["type"] == "nats.gap"]


# Subjects


def subjects(server: Nats, wanted: Any, **more: Any) -> dict[str, Any]:
    return {"connection": {"url": server.url(), "subjects": wanted, **more}}


async def test_messages_become_events_by_their_subjects(server: Nats, tmp_path: Path) -> None:
    wanted = [
        {"subject": "door.*.opened", "type": "door.opened.{1}"},
        {"subject": "log.>", "type": "{subject}"},
        "plain",
    ]
    async with source_process(SOURCE, subjects(server, wanted), tmp_path) as source, client_of(server) as client:
        await source.logged("subscribed")
        await client.publish("door.front.opened", b'{"by": "Ann"}', headers={"Trace": "7"})
        await client.publish("log.a.b c".replace(" ", "_"), b"text", reply="answer.here")
        await client.publish("plain", b"\xff\x00")
        await client.flush()
        events = await source.count(3)
    by_type = {event["type"]: event for event in events}
    assert {name: event["payload"] for name, event in by_type.items()} == {
        "door.opened.front": {"by": "Ann"},
        "log.a.b_c": {"value": "text"},
        "nats.plain": {"base64": "/wA="},
    }
    assert by_type["door.opened.front"]["metadata"] == {
        "source": "nats",
        "connection": "nats",
        "subject": "door.front.opened",
        "headers": {"Trace": "7"},
    }
    assert by_type["log.a.b_c"]["metadata"]["reply"] == "answer.here"


async def until_heard(source: SourceProcess, bookmark: Path, times: int = 1) -> None:
    """Wait until the source has noted so often up to when it has heard everything."""
    await source.until_asked(bookmark.exists)
    for _ in range(times):
        before = bookmark.read_text()
        await source.until_asked(lambda before=before: bookmark.read_text() != before)  # type: ignore[misc]


async def test_a_queue_group_shares_its_messages(server: Nats, tmp_path: Path) -> None:
    config = subjects(server, {"subject": "work", "queue": "workers"})
    async with (
        source_process(SOURCE, config, tmp_path / "a") as one,
        source_process(SOURCE, config, tmp_path / "b") as other,
        client_of(server) as client,
    ):
        await one.logged("subscribed")
        await other.logged("subscribed")
        for number in range(50):
            await client.publish("work", json.dumps({"n": number}).encode())
        await client.flush()
        with anyio.fail_after(20):
            while len(one.events) + len(other.events) < 50:
                await anyio.sleep(0.02)
    assert one.events
    assert other.events
    assert sorted(numbers(one.events) + numbers(other.events)) == list(range(50))


async def test_a_server_that_goes_away_leaves_a_gap_in_subjects_and_is_found_again(tmp_path: Path) -> None:
    with nats_server() as server:
        async with source_process(SOURCE, subjects(server, ["a"]), tmp_path) as source:
            await source.logged("subscribed")
            for at, end in enumerate((server.stop, server.kill), 1):
                await aside(end)
                await source.logged("the server has closed the connection", at)
                await aside(server.start)
                await source.logged("subscribed", at + 1)
                async with client_of(server) as client:
                    await client.publish("a", json.dumps({"n": at}).encode())
                await source.until(lambda at=at: at in numbers(source.events))  # type: ignore[misc]
        assert [event["type"] for event in source.events] == ["nats.gap", "nats.a"] * 2
        told = source.events[0]["payload"]
        assert (told["reason"], told["subjects"], told["connection"]) == ("not_connected", ["a"], "nats")
        assert told["after"]["time"] < told["until"]["time"]
        async with source_process(SOURCE, subjects(server, ["a"]), tmp_path) as source:
            (again,) = await source.count(1)
        assert again["payload"]["after"]["time"] >= source.events[0]["payload"]["after"]["time"]
        assert again["payload"]["until"]["time"] > gaps(source)[0]["payload"]["after"]["time"]


async def test_what_has_come_is_told_though_the_server_goes_away_before_the_host_takes_it(tmp_path: Path) -> None:
    with nats_server() as server:
        async with source_process(SOURCE, subjects(server, ["a"]), tmp_path) as source:
            await source.logged("subscribed")
            source.accepts = lambda event: event["payload"].get("n") != 0
            async with client_of(server) as client:
                for number in range(10):
                    await client.publish("a", json.dumps({"n": number}).encode())
                await client.flush()
            (first,) = await source.count(1)
            await source.until_asked(lambda: server.sent_to("eventhost nats") == 10)
            await aside(server.kill)
            await source.logged("trying again")
            await aside(server.start)
            await source.logged("subscribed", 2)
            source.accepts = lambda event: True
            source.say(method="notifications/eventsource/accepted", params={"ids": [first["id"]]})
            await source.until(lambda: gaps(source))
            async with client_of(server) as client:
                await client.publish("a", b'{"n": 10}')
            await source.count(12)
    assert [event["payload"].get("n") for event in source.events] == [*range(10), None, 10]


async def test_what_was_heard_is_noted_only_after_the_host_has_accepted_it(server: Nats, tmp_path: Path) -> None:
    late = {"name": "late", "url": server.url(), "subjects": ["late"]}
    # Tells how time goes by.
    other = {"name": "other", "url": server.url(), "subjects": ["other"]}
    config = {"connections": [late, other]}
    async with source_process(SOURCE, config, tmp_path) as source, client_of(server) as client:
        await source.logged("subscribed", 2)
        await until_heard(source, tmp_path / "late.subjects.json")
        source.accepts = lambda event: False
        await client.publish("late", b'{"n": 1}')
        await client.flush()
        await source.count(1)
        noted = (tmp_path / "late.subjects.json").read_text()
        await until_heard(source, tmp_path / "other.subjects.json", 2)
        source.kill()
    async with source_process(SOURCE, config, tmp_path) as source:
        told = {event["payload"]["connection"]: event["payload"] for event in await source.count(2)}
    assert told["late"]["after"]["time"] == json.loads(noted)["heard"] < told["other"]["after"]["time"]


async def test_a_flood_that_the_host_does_not_take_is_bounded_and_what_was_dropped_is_told(
    server: Nats, tmp_path: Path
) -> None:
    size, count = 1_000_000, 100
    config = subjects(server, ["flood"], name="flooded")
    async with source_process(SOURCE, config, tmp_path) as source, client_of(server) as client:
        await source.logged("subscribed")
        source.accepts = lambda event: False
        for _ in range(count):
            await client.publish("flood", b"x" * size)
        await client.flush()
        await source.count(1)
        await source.until_asked(lambda: server.sent_to("eventhost flooded") == count)
        assert source.peak_memory_bytes() < 220_000_000
        source.accepts = lambda event: True
        ids = [event["id"] for event in source.events]
        source.say(method="notifications/eventsource/accepted", params={"ids": ids})
        await source.until(lambda: gaps(source))
        told = source.events.index(gaps(source)[0])
        assert 60 < told < count
        await client.publish("flood", b'{"n": 1}')
        await client.flush()
        await source.count(told + 2)
    assert [event["type"] for event in source.events[told:]] == ["nats.gap", "nats.flood"]
    gap = source.events[told]["payload"]
    assert (gap["reason"], told + gap["messages"]) == ("slow_consumer", count)


# Streams


async def test_a_stream_is_told_from_now_on_with_its_own_ids_and_times(orders: Orders) -> None:
    await orders.make()
    await orders.write(1, 2)
    async with orders.source(subjects={f"{orders.subject}.*": "order.{1}"}) as source:
        await source.logged("connected")
        await orders.write(3, subject="paid")
        (event,) = await source.count(1)
        await orders.until_floor(3)
        info = await orders.ask("stream_info")
        created = int(info.created.timestamp() * 1000)
        message = await orders.ask("get_msg", 3)
    assert event["type"] == "order.paid"
    assert event["payload"] == {"n": 3}
    assert event["id"] == f"nats:{orders.stream}:{created}:3"
    assert event["metadata"] == {
        "source": "nats",
        "connection": "nats",
        "subject": f"{orders.subject}.paid",
        "stream": orders.stream,
        "seq": 3,
    }
    assert abs(event["timestamp"] - message.time.timestamp() * 1000) <= 1


@pytest.mark.parametrize(
    ("deliver", "expected"), [("all", [1, 2, 3, 4]), ("last", [3, 4]), ({"from": 2}, [2, 3, 4]), ("new", [4])]
)
async def test_the_first_start_begins_where_it_is_told_to(orders: Orders, deliver: Any, expected: list[int]) -> None:
    await orders.make()
    await orders.write(1, 2, 3)
    async with orders.source(deliver=deliver) as source:
        await source.logged("connected")
        await orders.write(4)
        await source.until(lambda: source.events and source.events[-1]["payload"].get("n") == 4)
    assert numbers(source.events) == expected
    assert not gaps(source)


async def test_the_first_start_can_begin_at_a_time(orders: Orders) -> None:
    await orders.make()
    await orders.write(1)
    await orders.write(2)
    time = (await orders.ask("get_msg", 2)).time
    async with orders.source(deliver={"from": time.isoformat()}) as source:
        await source.count(1)
    assert numbers(source.events) == [2]


async def test_nothing_is_lost_or_out_of_order_when_the_server_stops_and_starts(tmp_path: Path) -> None:
    with nats_server() as server:
        orders = Orders(server, tmp_path / "state")
        await orders.make()
        async with orders.source() as source:
            await source.logged("connected")
            await orders.write(*range(700))
            await source.count(100)
            await aside(server.stop)
            await source.logged("trying again")
            await aside(server.start)
            await orders.write(*range(700, 900))
            await source.until(lambda: source.events[-1]["payload"].get("n") == 899)
            await orders.write(*range(900, 1500))
            await aside(server.kill)
            await aside(server.start)
            await orders.write(1500)
            await source.until(lambda: source.events[-1]["payload"].get("n") == 1500)
        assert not gaps(source)
        told = {event["id"]: event for event in source.events}
        assert numbers(list(told.values())) == list(range(1501))


async def test_a_source_that_is_killed_loses_nothing_and_what_it_repeats_is_the_same(orders: Orders) -> None:
    accepted: dict[str, Event] = {}

    def first_300(event: Event) -> bool:
        if len(accepted) < 300:
            accepted[event["id"]] = event
        return event["id"] in accepted

    await orders.make()
    async with orders.source() as source:
        await source.logged("connected")
        source.accepts = first_300
        await orders.write(*range(3000))
        await source.until(lambda: len(accepted) == 300)
        source.kill()
    await orders.write(3000)
    async with orders.source() as source:
        await source.until(lambda: source.events and source.events[-1]["payload"].get("n") == 3000)
        assert numbers(source.events) == list(range(numbers(source.events)[0], 3001))
        for event in source.events:
            assert accepted.setdefault(event["id"], event) == event
    assert numbers(list(accepted.values())) == list(range(3001))
    assert not gaps(source)


async def test_only_what_the_host_has_accepted_is_acknowledged(orders: Orders) -> None:
    await orders.make()
    async with orders.source() as source:
        await source.logged("connected")
        source.accepts = lambda event: False
        await orders.write(1)
        (event,) = await source.count(1)
        info = await orders.ask("consumer_info", "eventhost-nats")
        assert (info.num_ack_pending, info.ack_floor.stream_seq) == (1, 0)
        assert await source.end() == 0
    assert await orders.floor() == 0
    async with orders.source() as source:
        assert (await source.count(1))[0] == event
        await orders.until_floor(1)


async def test_a_consumer_that_is_deleted_is_made_again_where_it_stood(orders: Orders) -> None:
    await orders.make()
    async with orders.source() as source:
        await source.logged("connected")
        await orders.write(1)
        await source.count(1)
        await orders.until_floor(1)
        await orders.ask("delete_consumer", "eventhost-nats")
        await source.logged("was deleted; if that repeats")
        await orders.write(2)
        await source.count(2)
        await orders.until_floor(2)
    await orders.ask("delete_consumer", "eventhost-nats")
    await orders.write(3)
    async with orders.source() as again:
        await again.count(1)
    assert numbers([*source.events, *again.events]) == [1, 2, 3]
    assert not gaps(source)
    assert not gaps(again)


async def test_a_stream_that_is_made_anew_is_a_gap_and_is_told_from_its_beginning(orders: Orders) -> None:
    await orders.make()
    async with orders.source() as source:
        await source.logged("connected")
        await orders.write(1, 2)
        await source.count(2)
        await orders.ask("delete_stream")
        await source.logged("there is no stream")
        await orders.make()
        await orders.write(3)
        _, second, gap, third = await source.count(4)
    told = gap["payload"]
    assert (told["reason"], told["stream"]) == ("stream_replaced", orders.stream)
    assert told["after"]["seq"] == second["metadata"]["seq"]
    assert (third["payload"], third["metadata"]["seq"]) == ({"n": 3}, 1)
    assert third["id"] != source.events[0]["id"]


async def test_what_was_removed_before_it_was_read_is_counted_exactly(orders: Orders) -> None:
    await orders.make(max_msgs=5)
    async with orders.source() as source:
        await source.logged("connected")
        await orders.write(1, 2)
        await source.count(2)
        await orders.until_floor(2)
    await orders.write(*range(3, 13))
    async with orders.source() as source:
        gap, *events = await source.count(6)
        assert gap["payload"] | {"after": None} == {
            "connection": "nats",
            "stream": orders.stream,
            "reason": "removed",
            "messages": 5,
            "after": None,
            "until": {"seq": 8},
        }
        assert gap["payload"]["after"]["seq"] == 2
        assert numbers(events) == [8, 9, 10, 11, 12]
        await orders.until_floor(12)
        (upstream,) = [line for line in source.log.splitlines() if "removed" in line]
        assert "nats.gap" in upstream
    async with orders.source() as source:
        await source.logged("connected")
        await orders.write(13)
        await source.count(1)
    assert numbers(source.events) == [13]
    assert not gaps(source)


async def test_what_is_removed_in_the_middle_of_what_is_unread_is_a_gap(orders: Orders) -> None:
    await orders.make()
    async with orders.source() as source:
        await source.logged("connected")
        await orders.write(1)
        await source.count(1)
        await orders.until_floor(1)
    await orders.write(2, 3, 4, 5, 6)
    for seq in (3, 5):
        await orders.ask("delete_msg", seq)
    async with orders.source() as source:
        gap, *events = await source.count(4)
    assert (gap["payload"]["messages"], gap["payload"]["after"]["seq"], gap["payload"]["until"]["seq"]) == (2, 2, 6)
    assert numbers(events) == [2, 4, 6]


async def test_of_some_subjects_of_a_stream_what_was_removed_is_told_as_what_it_is_at_most(orders: Orders) -> None:
    await orders.make(max_msgs=5)
    wanted = [f"{orders.subject}.paid"]
    async with orders.source(subjects=wanted) as source:
        await source.logged("connected")
        await orders.write(1, subject="paid")
        await source.count(1)
        await orders.until_floor(1)
    await orders.write(*range(2, 9), subject="other")
    async with orders.source(subjects=wanted) as source:
        (gap,) = await source.count(1)
        await source.logged("connected")
        await orders.write(9, subject="paid")
        await source.count(2)
    assert gap["payload"]["messagesAtMost"] == 2
    assert "messages" not in gap["payload"]
    assert numbers(source.events) == [9]


async def test_what_was_never_wanted_is_no_gap_when_it_is_removed(orders: Orders) -> None:
    await orders.make(max_msgs_per_subject=1)
    for subject in ("a", "b"):
        await orders.write(1, 2, 3, subject=subject)
    async with orders.source(deliver="all") as source:
        await source.count(2)
        await orders.write(4, subject="a")
        await source.count(3)
        await orders.until_floor(7)
    assert numbers(source.events) == [3, 3, 4]
    assert not gaps(source)


async def test_two_sources_that_read_from_one_consumer_say_so_and_lose_nothing(orders: Orders, tmp_path: Path) -> None:
    await orders.make()
    async with orders.source() as one, source_process(SOURCE, orders.config(), tmp_path / "other") as other:
        await one.logged("connected")
        await other.logged("connected")
        with anyio.fail_after(30):
            number = 0
            while "a `durable` of its own" not in one.log + other.log:
                await orders.write(number := number + 1)
        await other.end()
        await orders.write(number + 1)
        await one.until(lambda: number + 1 in numbers(one.events))
    assert sorted({*numbers(one.events)}) == list(range(1, number + 2))


async def test_a_consumer_that_others_share_gives_each_its_part_and_again_what_was_not_accepted(
    orders: Orders, tmp_path: Path
) -> None:
    await orders.make(retention="workqueue")
    await orders.ask("add_consumer", ConsumerConfig(durable_name="workers", ack_policy=AckPolicy.EXPLICIT, ack_wait=1))
    config = orders.config(consumer="workers")
    async with orders.source(consumer="workers") as one:
        await one.logged("connected")
        one.accepts = lambda event: False
        await orders.write(*range(20))
        await one.count(1)
        one.kill()
    async with orders.source(consumer="workers") as one, source_process(SOURCE, config, tmp_path / "b") as other:
        await one.logged("connected")
        await other.logged("connected")
        await orders.write(*range(20, 40))
        with anyio.fail_after(30):
            while {*numbers(one.events), *numbers(other.events)} != set(range(40)):
                await anyio.sleep(0.05)
        with anyio.fail_after(20):
            while (await orders.ask("stream_info")).state.messages:
                await anyio.sleep(0.05)
    assert not gaps(one)
    assert not gaps(other)


async def test_a_work_queue_is_read_by_a_consumer_that_the_source_makes(orders: Orders) -> None:
    await orders.make(retention="workqueue")
    await orders.write(1, 2)
    async with orders.source() as source:
        await source.count(2)
        await orders.until_floor(2)
    await orders.write(3)
    async with orders.source() as again:
        await again.count(1)
    assert numbers([*source.events, *again.events]) == [1, 2, 3]
    assert not gaps(again)


async def test_while_the_host_takes_its_time_nothing_is_delivered_twice(orders: Orders) -> None:
    await orders.make()
    await orders.ask("add_consumer", ConsumerConfig(durable_name="slow", ack_policy=AckPolicy.EXPLICIT, ack_wait=1))
    async with orders.source(consumer="slow") as source, client_of(orders.server) as client:
        await source.logged("connected")
        source.accepts = lambda event: False
        said = await client.subscribe(f"$JS.ACK.{orders.stream}.slow.>")
        await client.flush()
        await orders.write(1)
        (event,) = await source.count(1)
        # Three of them come in the time after which it would be delivered again.
        for _ in range(5):
            assert (await said.next_msg(20)).data == b"+WPI"
        source.accepts = lambda event: True
        source.say(method="notifications/eventsource/accepted", params={"ids": [event["id"]]})
        await orders.until_floor(1, "slow")
        info = await orders.ask("consumer_info", "slow")
        assert info.delivered.consumer_seq == 1


async def test_messages_that_are_larger_than_a_batch_are_told_too(tmp_path: Path) -> None:
    with nats_server(max_payload=6_000_000, max_pending=12_000_000) as server:
        orders = Orders(server, tmp_path / "state")
        await orders.make()
        async with orders.source() as source, client_of(server) as client:
            await source.logged("connected")
            jetstream = client.jetstream()
            for size in (10, 5_500_000, 1_500_000, 1_500_000, 1_500_000, 10):
                await jetstream.publish(f"{orders.subject}.made", b"x" * size)
            events = await source.count(6)
            await orders.until_floor(6)
    sizes = [len(event["payload"]["value"]) for event in events]
    assert sizes == [10, 5_500_000, 1_500_000, 1_500_000, 1_500_000, 10]


async def test_no_more_of_a_stream_is_read_than_the_host_takes(orders: Orders) -> None:
    await orders.make()
    async with orders.source() as source, client_of(orders.server) as client:
        await source.logged("connected")
        source.accepts = lambda event: False
        for _ in range(30):
            await client.jetstream().publish(f"{orders.subject}.made", b"x" * 1_000_000)
        await source.count(1)
        info = await orders.ask("consumer_info", "eventhost-nats")
        assert info.num_pending > 15
        source.accepts = lambda event: True
        source.say(
            method="notifications/eventsource/accepted", params={"ids": [event["id"] for event in source.events]}
        )
        await orders.until_floor(30)
    assert len({event["id"] for event in source.events}) == 30


async def test_a_stream_that_has_forgotten_its_last_messages_is_a_gap_and_what_follows_is_told(tmp_path: Path) -> None:
    with nats_server() as server:
        orders = Orders(server, tmp_path / "state")
        await orders.make()
        async with orders.source() as source:
            await source.logged("connected")
            await orders.write(1)
            await source.count(1)
            await orders.until_floor(1)
            await aside(server.stop)
            shutil.copytree(server.folder / "streams", tmp_path / "older")
            await aside(server.start)
            await orders.write(2, 3)
            await source.until(lambda: 3 in numbers(source.events))
            await orders.until_floor(3)
            await aside(server.stop)
            shutil.rmtree(server.folder / "streams")
            shutil.copytree(tmp_path / "older", server.folder / "streams")
            await aside(server.start)
            await source.until(lambda: gaps(source))
            await orders.write(4)
            await source.until(lambda: 4 in numbers(source.events))
    told = gaps(source)[0]["payload"]
    assert (told["reason"], told["after"]["seq"], told["until"]["seq"]) == ("went_back", 3, 2)
    assert numbers(source.events) == [1, 2, 3, 4]
    assert len({event["id"] for event in source.events}) == 5


async def test_a_stream_that_is_not_there_yet_does_not_keep_others_from_being_read(orders: Orders) -> None:
    config = orders.config()
    config["connection"]["streams"].append("LATER")
    config["connection"]["subjects"] = [f"{orders.subject}.>"]
    async with source_process(SOURCE, config, orders.state) as source:
        await source.logged("there is no stream LATER")
        await source.logged(f"there is no stream {orders.stream}")
        await orders.make()
        # What was written before the source has seen that it is there was written after its first start.
        await orders.write(1)
        core, stored = sorted(await source.count(2), key=lambda event: "stream" in event["metadata"])
    assert core["payload"] == stored["payload"] == {"n": 1}


class Recorder(EventSource):
    """Stands for the source under a host that takes everything; `meanwhile` happens while it does."""

    def __init__(self, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__("nats")
        monkeypatch.setenv("EVENTHOST_STATE_DIR", str(state))
        self.told: list[Any] = []
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    async def emit_all(self, events: Iterable[Any]) -> None:
        self.told.extend(events)
        if self.meanwhile is not None:
            happens, self.meanwhile = self.meanwhile, None
            await happens()


async def read_until(source: Recorder, orders: Orders, load: Any, is_there: Callable[[dict[str, Any]], object]) -> None:
    """Read the subject `paid` in this process, until the bookmark is so."""
    config = orders.config(subjects=[f"{orders.subject}.paid"], deliver="all")
    (connection,) = load("options").connections(config)
    servers = load("connecting").Servers(connection)
    try:
        async with anyio.create_task_group() as tasks:
            reader = load("streams").Reader(source, connection, connection.streams[0], servers)
            tasks.start_soon(reader.stay)
            with anyio.fail_after(20):
                while not is_there(source.bookmark(f"nats.stream.{orders.stream}").content):
                    await anyio.sleep(0.05)
            tasks.cancel_scope.cancel()
    finally:
        await servers.close()


async def test_of_some_subjects_what_was_looked_at_and_not_wanted_is_no_gap_when_it_is_removed(
    orders: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    await orders.make(max_msgs=5)
    await orders.write(1, subject="paid")
    source = Recorder(orders.state, monkeypatch)
    with modules_of("nats") as load:
        for name, value in (("_EXPIRES_S", 0.5), ("_HEARTBEAT_S", 0.2)):
            monkeypatch.setattr(load("pulling"), name, value)
        await read_until(source, orders, load, lambda mark: mark.get("seq") == 1)
        await orders.write(*range(2, 9), subject="other")
        await read_until(source, orders, load, lambda mark: mark.get("looked") == 8)
        assert [event.payload.get("messagesAtMost") for event in source.told] == [None, 2]
        await orders.write(*range(9, 14), subject="other")
        await read_until(source, orders, load, lambda mark: mark.get("looked") == 13)
    assert len(source.told) == 2


async def test_of_some_subjects_what_is_removed_while_the_host_takes_its_time_is_a_gap(
    orders: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    await orders.make(max_msgs=5)
    source = Recorder(orders.state, monkeypatch)

    async def write_more() -> None:
        # While the first is told the second arrives, and no more.
        await orders.write(2, subject="paid")
        with anyio.fail_after(20):
            while (await orders.ask("consumer_info", "eventhost-nats")).delivered.stream_seq < 2:
                await anyio.sleep(0.02)
        await orders.write(*range(3, 11), subject="paid")

    source.meanwhile = write_more
    await orders.write(1, subject="paid")
    with modules_of("nats") as load:
        monkeypatch.setattr(load("streams"), "_LATE_S", 0.0)
        monkeypatch.setattr(load("pulling"), "MOST_EVENTS", 1)
        await read_until(source, orders, load, lambda mark: mark.get("seq") == 10)
    (gap,) = [event.payload for event in source.told if event.type == "nats.gap"]
    told = [event.payload["n"] for event in source.told if event.type != "nats.gap"]
    assert (gap["after"]["seq"], gap["until"]["seq"], gap["messagesAtMost"]) == (2, 6, 3)
    assert told == [1, 2, 6, 7, 8, 9, 10]


# Who may connect, and what is told if not


async def test_a_wrong_password_is_told_without_it_and_the_right_one_works(tmp_path: Path) -> None:
    with nats_server(authorization={"user": "eve", "password": "right-one"}) as server:
        config = {"url": server.url(), "subjects": ["a"], "user": "eve"}
        wrong = {"connection": {**config, "password": "wrong-one"}}
        async with source_process(SOURCE, wrong, tmp_path) as source:
            await source.logged("check user, password, token, nkeySeed or credentials")
            assert "wrong-one" not in source.log
        async with source_process(SOURCE, {"connection": {**config, "password": "right-one"}}, tmp_path) as source:
            await source.logged("subscribed")


async def test_what_is_not_permitted_is_told_and_the_rest_is_read(tmp_path: Path) -> None:
    rights = {"subscribe": ["open.>", "_INBOX.>"], "publish": [">"]}
    users = [{"user": "eve", "password": "pw", "permissions": rights}]
    with nats_server(authorization={"users": users}) as server:
        config = subjects(server, ["open.a", "secret.b"], user="eve", password="pw")
        async with source_process(SOURCE, config, tmp_path) as source:
            await source.logged('permissions violation for subscription to "secret.b"')
            async with client_of(server, user="eve", password="pw") as client:
                await client.publish("open.a", b"{}")
                await client.flush()
                await source.count(1)


async def test_a_server_without_jetstream_is_told(tmp_path: Path) -> None:
    with nats_server(jetstream=None) as server:
        config = {"connection": {"url": server.url(), "streams": ["ORDERS"]}}
        async with source_process(SOURCE, config, tmp_path) as source:
            await source.logged("has no JetStream")


@pytest.fixture
def tls_folder(tmp_path: Path) -> Path:
    """`cert.pem` and `key.pem` of a server, and `ca.pem` of who made them."""
    made = Certificates(tmp_path)
    made.issue()
    (tmp_path / "ca.pem").write_bytes(made.root.public_bytes(Encoding.PEM))
    return tmp_path


def tls(folder: Path, **more: Any) -> dict[str, Any]:
    return {"cert_file": str(folder / "cert.pem"), "key_file": str(folder / "key.pem"), **more}


async def test_a_certificate_that_nobody_trusts_is_told_with_the_mend(tls_folder: Path, tmp_path: Path) -> None:
    with nats_server(tls=tls(tls_folder)) as server:
        async with source_process(SOURCE, subjects(server, ["a"]), tmp_path / "state") as source:
            await source.logged("its certificate cannot be verified")
            await source.logged("name its authority as `ca`")
        trusting = subjects(server, ["a"], ca=str(tls_folder / "ca.pem"))
        async with source_process(SOURCE, trusting, tmp_path / "state") as source:
            await source.logged("subscribed")


@pytest.mark.parametrize("first", [False, True], ids=["after the greeting", "before anything else"])
async def test_a_server_that_wants_a_certificate_is_shown_it(tls_folder: Path, tmp_path: Path, first: bool) -> None:
    pem = {"ca": str(tls_folder / "ca.pem"), "cert": str(tls_folder / "cert.pem"), "key": str(tls_folder / "key.pem")}
    settings = tls(tls_folder, ca_file=pem["ca"], verify=True, handshake_first=first)
    # It greets nobody before the handshake, so that it is up is seen in its log alone.
    with nats_server(greets=not first, tls=settings) as server:
        config = subjects(server, ["a"], tlsFirst=first, **pem)
        config["connection"]["url"] = server.url("tls")
        async with source_process(SOURCE, config, tmp_path / "state") as source:
            await source.logged("subscribed")


@asynccontextmanager
async def playing(serve: Callable[[SocketStream], Awaitable[None]]) -> AsyncIterator[int]:
    """A server that greets, and then does what the test wants; gives its port."""

    async def greet(stream: SocketStream) -> None:
        async with stream:
            await stream.send(b'INFO {"server_id":"x","version":"2.10.0","headers":true,"max_payload":1000}\r\n')
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                await serve(stream)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, greet)
        yield listener.extra(SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


async def test_no_secret_is_told_to_a_server_that_speaks_no_tls_where_tls_is_wanted(tmp_path: Path) -> None:
    said = b""

    async def listen(stream: SocketStream) -> None:
        nonlocal said
        while True:
            said += await stream.receive()

    async with playing(listen) as port:
        url = f"tls://127.0.0.1:{port}"
        config = {"connection": {"url": url, "subjects": ["a"], "user": "eve", "password": "secret"}}
        async with source_process(SOURCE, config, tmp_path) as source:
            await source.logged("it offers no TLS")
    assert said == b""


async def test_why_a_server_throws_it_out_is_told(tmp_path: Path) -> None:
    async def throw_out(stream: SocketStream) -> None:
        while True:
            said = await stream.receive()
            if b"SUB" in said:
                await stream.send(b"-ERR 'maximum subscriptions exceeded'\r\n")
            else:
                await stream.send(b"PONG\r\n" * said.count(b"PING"))

    async with playing(throw_out) as port:
        config = {"connection": {"url": f"nats://127.0.0.1:{port}", "subjects": ["a"]}}
        async with source_process(SOURCE, config, tmp_path) as source:
            await source.logged("maximum subscriptions exceeded; trying again")


async def test_an_nkey_and_a_token_let_it_in(tmp_path: Path) -> None:
    user, seed = key(nkeys.PREFIX_BYTE_USER)
    with nats_server(authorization={"users": [{"nkey": user.public_key.decode()}]}) as server:
        config = subjects(server, ["a"], nkeySeed=seed)
        async with source_process(SOURCE, config, tmp_path / "nkey") as source:
            await source.logged("subscribed")
            assert seed not in source.log
    with nats_server(authorization={"token": "let-me-in"}) as server:
        async with source_process(SOURCE, subjects(server, ["a"], token="let-me-in"), tmp_path / "token") as source:
            await source.logged("subscribed")


def jwt(issuer: nkeys.KeyPair, subject: nkeys.KeyPair, kind: str, **claims: Any) -> str:
    """What `issuer` says of `subject`, as NATS writes it."""

    def part(value: dict[str, Any]) -> str:
        return urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    claim = {"iss": issuer.public_key.decode(), "sub": subject.public_key.decode(), "name": kind, "iat": 1_700_000_000}
    said = part({"typ": "JWT", "alg": "ed25519-nkey"})
    said += "." + part({**claim, "jti": kind, "nats": {"type": kind, "version": 2, **claims}})
    return f"{said}.{urlsafe_b64encode(issuer.sign(said.encode())).decode().rstrip('=')}"


def key(prefix: int) -> tuple[nkeys.KeyPair, str]:
    seed = nkeys.encode_seed(bytes([prefix]) * 32, prefix)
    return nkeys.from_seed(bytearray(seed)), seed.decode()


async def test_a_credentials_file_lets_it_in(tmp_path: Path) -> None:
    operator, _ = key(nkeys.PREFIX_BYTE_OPERATOR)
    account, _ = key(nkeys.PREFIX_BYTE_ACCOUNT)
    user, seed = key(nkeys.PREFIX_BYTE_USER)
    unlimited = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
    preload = {account.public_key.decode(): jwt(operator, account, "account", limits=unlimited)}
    of_user = jwt(account, user, "user", subs=-1, data=-1, payload=-1)
    file = tmp_path / "eve.creds"
    file.write_text(
        f"-----BEGIN NATS USER JWT-----\n{of_user}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
    own = jwt(operator, operator, "operator")
    with nats_server(jetstream=None, operator=own, resolver="MEMORY", resolver_preload=preload) as server:
        async with source_process(SOURCE, subjects(server, ["a"], credentials=str(file)), tmp_path / "s") as source:
            await source.logged("subscribed")


@pytest.mark.parametrize("content", [None, "no credentials", "-----BEGIN NATS USER JWT-----\nx\n"])
async def test_a_credentials_file_that_is_none_is_told(server: Nats, tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "eve.creds"
    if content is not None:
        file.write_text(content)
    async with source_process(SOURCE, subjects(server, ["a"], credentials=str(file)), tmp_path / "state") as source:
        await source.logged("eve.creds: " + ("No such file" if content is None else "it holds no user's JWT and seed"))


async def test_a_subject_that_is_not_utf_8_is_told_as_far_as_it_can_be_read(orders: Orders) -> None:
    await orders.make()
    config = orders.config()
    config["connection"]["subjects"] = [f"{orders.subject}.>"]
    async with source_process(SOURCE, config, orders.state) as source:
        await source.logged("connected", 2)
        async with await anyio.connect_tcp("127.0.0.1", orders.server.port) as raw:
            await raw.send(b"CONNECT {}\r\nPUB " + orders.subject.encode() + b".\xff 2\r\n{}\r\nPING\r\n")
            answered = b""
            while b"PONG" not in answered:
                answered += await raw.receive()
        await orders.write(1)
        events = await source.count(4)
    for of_stream in (False, True):
        told = [event for event in events if ("stream" in event["metadata"]) == of_stream]
        assert [event["metadata"]["subject"] for event in told] == [
            f"{orders.subject}.\ufffd",
            f"{orders.subject}.made",
        ]


async def test_a_wrong_configuration_ends_it_with_what_to_mend(tmp_path: Path) -> None:
    async with source_process(SOURCE, {"connection": {"url": "nats://h", "subject": "a"}}, tmp_path) as source:
        await source.logged("connection.subjects: there is nothing to read")
        with anyio.fail_after(20):
            assert await source.end() == 1


async def test_an_address_where_nobody_listens_is_told_without_the_password_in_it(tmp_path: Path) -> None:
    config = {"connection": {"url": f"nats://eve:secret@127.0.0.1:{free_port()}", "subjects": ["a"]}}
    async with source_process(SOURCE, config, tmp_path) as source:
        await source.logged("nobody listens there")
        assert "secret" not in source.log
        status = await source.call("get_source_status")
    assert [upstream["state"] for upstream in status["upstreams"]] == ["reconnecting"]


async def test_a_rule_runs_for_a_message_of_a_stream_in_a_whole_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORDERS_PASSWORD", "top-secret")
    folder = tmp_path / "eventsources" / "nats"
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("golden", "__pycache__", "config.jsonc"))
    rule = {"name": "seen", "on": "order.*", "do": {"emit": "seen", "payload": {"n": "{{ payload.n }}"}}}
    (tmp_path / "config.jsonc").write_text(json.dumps({"rules": [rule], "journal": {"type": "memory"}}))
    async with AsyncExitStack() as stack:
        server = stack.enter_context(nats_server(authorization={"user": "eve", "password": "top-secret"}))
        stream = {"stream": "ORDERS", "subjects": {"orders.*": "order.{1}"}, "deliver": "all"}
        connection = {"url": server.url(), "user": "eve", "password": "${env:ORDERS_PASSWORD}", "streams": [stream]}
        settings = {"connection": connection, "eventTypes": ["nats.*", "order.*"]}
        (folder / "config.jsonc").write_text(json.dumps(settings))
        client = await stack.enter_async_context(client_of(server, user="eve", password="top-secret"))
        await client.jetstream().add_stream(StreamConfig("ORDERS", subjects=["orders.*"]))
        await client.jetstream().publish("orders.paid", b'{"n": 7}')
        env = await stack.enter_async_context(ServerEnvironment.from_path(tmp_path))
        with anyio.fail_after(30):
            async for item in env.bus.subscribe(("seen",), after=0):
                assert item.event.payload == {"n": 7}  # type: ignore[union-attr]
                break


def test_without_its_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    with modules_of("nats") as load:
        server = load("server")
        monkeypatch.setattr(server, "find_spec", lambda name: None)
        with pytest.raises(ConfigError, match=r"it needs the Python package nats; pip install 'eventhost\[nats\]'"):
            server.wanted()


# Laws


def test_of_a_whole_stream_each_number_is_told_or_counted_in_a_gap() -> None:
    with modules_of("nats") as load:
        marks, delivery_of = load("marks"), load("messages").Delivery
        (connection,) = load("options").connections({"connection": {"url": "nats://h", "streams": ["S"]}})
        of = marks.Gaps(connection, connection.streams[0])

        @given(st.data())
        @settings(max_examples=200, deadline=None)
        def law(data: st.DataObject) -> None:
            began = data.draw(st.integers(0, 5), "the first start")
            mark = marks.begun(marks.Extent(1, 1, began), began)
            kept = data.draw(st.lists(st.booleans(), max_size=40), "which are not removed before they are read")
            left = [began + at for at, is_kept in enumerate(kept, 1) if is_kept]
            told, counted = [], 0
            while left:
                mark, gap = marks.resumed(mark, marks.Extent(1, left[0], began + len(kept)), of)
                counted += gap.payload["messages"] if gap else 0
                track, consumer_seq = marks.Track(mark.seq, 0, of), 0
                for _ in range(data.draw(st.integers(1, 3), "batches of this session")):
                    taken = left[: data.draw(st.integers(1, 5))]
                    batch = [delivery_of(seq, consumer_seq + at, 1, 0, 0) for at, seq in enumerate(taken, 1)]
                    gap = track.missed(mark, batch)
                    counted += gap.payload["messages"] if gap else 0
                    for delivery in batch:
                        mark = mark.read(delivery)
                    told += taken
                    consumer_seq += len(batch)
                    left = left[len(batch) :]
            assert told == sorted(set(told))
            assert len(told) + counted == mark.seq - began

        law()


def test_a_pattern_fits_what_it_was_made_of_and_its_wildcards_stand_for_what_they_took_the_place_of() -> None:
    with modules_of("nats") as load:
        wanted = load("subjects").Wanted

        @given(st.lists(st.tuples(st.text("abc-_é", min_size=1, max_size=4), st.booleans()), min_size=1), st.data())
        @settings(deadline=None)
        def law(words: list[tuple[str, bool]], data: st.DataObject) -> None:
            subject = ".".join(word for word, _ in words)
            tokens = ["*" if hidden else word for word, hidden in words]
            assert wanted(".".join(tokens), "t").match(subject) == [word for word, hidden in words if hidden]
            cut = data.draw(st.integers(0, len(words) - 1))
            rest = ".".join(word for word, _ in words[cut:])
            found = wanted(".".join([*tokens[:cut], ">"]), "t").match(subject)
            assert found == [*[word for word, hidden in words[:cut] if hidden], rest]
            for longer in (f"{subject}.*", f"{subject}.>", f"{subject}.a"):
                assert wanted(longer, "t").match(subject) is None

        law()


def test_an_inbox_keeps_order_and_counts_what_it_has_no_room_for() -> None:
    with modules_of("nats") as load:
        subscriptions, message_of, wanted = load("subscriptions"), load("messages").Message, load("subjects").Wanted

        async def flood(steps: list[Any]) -> None:
            times = itertools.count()
            inbox = subscriptions.Inbox(20, 10**9, now_s=lambda: float(next(times)))
            put, seen, dropped = 0, 0, 0
            for step in [*steps, *["take"] * 100]:
                if step != "take":
                    for _ in range(step):
                        inbox.put(wanted("a", "a"), message_of("a", str(put).encode()))
                        put += 1
                elif put > seen + dropped:
                    for one in await inbox.take():
                        if isinstance(one, subscriptions.Dropped):
                            assert one.first_ms <= one.last_ms
                            dropped += one.count
                        else:
                            # So many came before it: each was seen, or stands in a gap before it.
                            assert int(one[1].data) == seen + dropped
                            seen += 1
            assert put == seen + dropped

        @given(st.lists(st.one_of(st.integers(1, 30), st.just("take")), max_size=60))
        @settings(deadline=None)
        def law(steps: list[Any]) -> None:
            anyio.run(flood, steps)

        law()
