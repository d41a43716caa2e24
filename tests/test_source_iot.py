"""The MQTT source follows a real broker: nothing is lost when either of them stops, and a gap says what is."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from servers.mosquitto import Mosquitto, mosquitto
from source_process import Event, SourceProcess, source_process
from test_web_access import Certificates

SOURCE = Path(__file__).parents[1] / "eventsources" / "iot"

pytestmark = pytest.mark.anyio

aside = anyio.to_thread.run_sync

versions = pytest.mark.parametrize("version", ["5", "3.1.1"])

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[Mosquitto]:
    with mosquitto() as running:
        yield running


@pytest.fixture
def own_server() -> Iterator[Mosquitto]:
    """A broker that this test may stop."""
    with mosquitto() as running:
        yield running


class House:
    """Topics of a test's own at a broker, and the source that follows them."""

    def __init__(self, server: Mosquitto, folder: Path) -> None:
        self.server = server
        self.name = f"house{next(_numbers)}"
        self.state = folder / "state"

    def config(self, *topics: Any, **more: Any) -> dict[str, Any]:
        named = [{**one, "topic": f"{self.name}/{one['topic']}"} for one in topics] or [f"{self.name}/#"]
        return {"broker": {"name": "hub", "url": self.server.url(), "topics": named, **more}}

    def source(self, *topics: Any, **more: Any) -> Any:
        return source_process(SOURCE, self.config(*topics, **more), self.state)

    async def publish(self, *payloads: Any, topic: str = "door", qos: int = 1, **more: Any) -> None:
        async with self.server.client(max_queued_outgoing_messages=0) as client:
            # All at once, and waited for at the end: the order of sending is kept.
            sent = [client.publish(f"{self.name}/{topic}", each, qos=qos, **more) for each in payloads]
            for start in range(0, len(sent), 10):
                await asyncio.gather(*sent[start : start + 10])


@pytest.fixture
def house(server: Mosquitto, tmp_path: Path) -> House:
    return House(server, tmp_path)


@pytest.fixture
def own_house(own_server: Mosquitto, tmp_path: Path) -> House:
    return House(own_server, tmp_path)


def values(events: Any) -> list[Any]:
    return [event["payload"].get("value") for event in events]


def gaps(source: SourceProcess) -> list[Event]:
    return [event for event in source.events if event["type"] == "mqtt.gap"]


def of_publish(**properties: Any) -> Properties:
    made = Properties(PacketTypes.PUBLISH)
    for name, value in properties.items():
        setattr(made, name, value)
    return made


@versions
async def test_messages_become_events_whose_type_is_their_topic(house: House, version: str) -> None:
    async with house.source(version=version) as source:
        await source.logged(f"connected, MQTT {version}, a new session")
        await house.publish('{"open": true}', "21.5", "ajar", b"\x00\xff", "")
        await house.publish("1", topic="küche/v1.2/x y", qos=0)
        events = await source.count(6)
    assert [event["payload"] for event in events] == [
        {"open": True},
        {"value": 21.5},
        {"value": "ajar"},
        {"base64": "AP8="},
        {"value": ""},
        {"value": 1},
    ]
    assert [event["type"] for event in events[4:]] == [
        f"mqtt.{house.name}.door",
        f"mqtt.{house.name}.küche.v1_2.x_y",
    ]
    assert events[0]["metadata"] == {
        "source": "iot",
        "broker": "hub",
        "topic": f"{house.name}/door",
        "filter": f"{house.name}/#",
        "wildcards": ["door"],
        "qos": 1,
        "retained": False,
    }
    assert len({event["id"] for event in events}) == 6


async def test_what_mqtt_5_says_beside_the_payload_is_in_the_metadata(house: House) -> None:
    async with house.source({"topic": "+", "type": "{1}.told", "id": "metadata.user_properties.id"}) as source:
        await source.logged("connected")
        await house.publish(
            "007",
            properties=of_publish(
                ContentType="text/plain",
                ResponseTopic="answers/here",
                CorrelationData=b"\x00\x01",
                MessageExpiryInterval=60,
                UserProperty=[("id", "m-1"), ("tag", "a"), ("tag", "b")],
            ),
        )
        await house.publish("7", properties=of_publish(MessageExpiryInterval=60))
        event, without = await source.count(2)
    assert (event["type"], event["id"]) == ("door.told", f"hub:{house.name}/door:m-1")
    assert event["payload"] == {"value": "007"}
    assert {
        "content_type": "text/plain",
        "response_topic": "answers/here",
        "correlation_data": "AAE=",
        "user_properties": {"id": "m-1", "tag": ["a", "b"]},
    }.items() <= event["metadata"].items()
    assert without["metadata"]["message_expiry_s"] in (59, 60)


@versions
async def test_a_message_is_told_once_for_each_topic_that_takes_it(house: House, version: str) -> None:
    topics = [{"topic": "#"}, {"topic": "+/door", "type": "door"}, {"topic": "hall/+", "type": "hall", "qos": 2}]
    async with house.source(*topics, version=version) as source:
        await source.logged("connected")
        for qos in (0, 1, 2):
            await house.publish(str(qos), topic="hall/door", qos=qos)
        await house.publish("end", topic="end", qos=2)
        await source.until(lambda: "end" in values(source.events))
    told = [(event["payload"]["value"], event["metadata"]["filter"]) for event in source.events[:-1]]
    filters = [f"{house.name}/{topic['topic']}" for topic in topics]
    assert sorted(told) == sorted((qos, each) for qos in (0, 1, 2) for each in filters)
    assert len({event["id"] for event in source.events}) == 10


async def test_shared_subscriptions_share_the_messages(house: House) -> None:
    config = {"name": "hub", "url": house.server.url(), "topics": {f"$share/team/{house.name}/+": "{1}"}}
    async with (
        source_process(SOURCE, {"broker": config}, house.state) as one,
        source_process(SOURCE, {"broker": config}, house.state.with_name("other")) as other,
    ):
        await one.logged("connected")
        await other.logged("connected")
        await house.publish(*map(str, range(20)))
        # Each of the two is waited for by what the other tells.
        with anyio.fail_after(30):
            while len(one.events) + len(other.events) < 20:
                await anyio.sleep(0.02)
    assert sorted(values([*one.events, *other.events])) == list(range(20))
    assert {event["type"] for event in one.events} == {"door"} == {event["type"] for event in other.events}


@versions
async def test_retained_messages_are_marked_and_told_when_they_are_new(house: House, version: str) -> None:
    await house.publish("old", topic="lamp", retain=True)
    await house.publish("old", topic="quiet", retain=True)
    topics = [{"topic": "lamp"}, {"topic": "quiet", "retained": "skip"}]
    async with house.source(*topics, version=version) as source:
        await source.logged("connected")
        await house.publish("new", topic="quiet", retain=True)
        await house.publish("new", topic="lamp", retain=True)
        events = await source.count(3)
    assert [(event["payload"]["value"], event["metadata"]["retained"]) for event in events] == [
        ("old", True),
        ("new", False),
        ("new", False),
    ]
    async with house.source(*topics, version=version) as source:
        await source.logged("the session goes on")
        await house.publish("newer", topic="lamp")
        assert values(await source.count(1)) == ["newer"]


@versions
@pytest.mark.parametrize("qos", [1, 2])
async def test_a_kill_in_the_middle_of_a_flood_loses_nothing_and_what_it_doubles_is_marked(
    own_house: House, version: str, qos: int
) -> None:
    await aside(own_house.server.stop)
    await aside(lambda: own_house.server.start(max_inflight_messages="100"))
    accepted: dict[str, Event] = {}
    topic = {"topic": "#", "qos": qos}
    async with own_house.source(topic, version=version) as source:
        await source.logged("connected")
    await own_house.publish(*map(str, range(600)), qos=2)
    for most in (130, 290):

        def some(event: Event, most: int = most) -> bool:
            if len(accepted) < most:
                assert accepted.setdefault(event["id"], event) == event
            return event["id"] in accepted

        async with own_house.source(topic, version=version) as source:
            source.accepts = some
            await source.until(lambda: any(event["id"] not in accepted for event in source.events))
            source.kill()
        assert not gaps(source)
    async with own_house.source(topic, version=version) as source:
        await own_house.publish("end", qos=qos)
        await source.until(lambda: "end" in values(source.events))
        for event in source.events[:-1]:
            assert accepted.setdefault(event["id"], event) == event
    told: dict[int, Event] = {}
    doubles = [event for event in accepted.values() if told.setdefault(event["payload"]["value"], event) is not event]
    assert list(told) == list(range(600))
    assert all(event["metadata"]["duplicate"] for event in doubles)
    assert qos == 1 or not doubles


async def test_the_broker_is_told_only_what_the_host_has_accepted_and_sends_no_more_than_it_may(
    own_house: House,
) -> None:
    await aside(own_house.server.stop)
    await aside(lambda: own_house.server.start(max_inflight_messages="0"))
    async with own_house.source() as source:
        await source.logged("connected")
        source.accepts = lambda event: False
        await own_house.publish(*map(str, range(1200)))
        await source.count(1)
        sent = lambda: own_house.server.log.count("Sending PUBLISH to eventhost")  # noqa: E731
        await source.until_asked(lambda: sent() >= 500)
        assert (await source.call("get_source_status"))["upstreams"][0]["state"] == "connected"
        assert sent() == 500
        assert "Received PUBACK from eventhost" not in own_house.server.log
    async with own_house.source() as source:
        first = await source.count(1200)
    assert values(first) == list(range(1200))


async def test_a_flood_that_nobody_acknowledges_is_read_no_faster_than_the_host_accepts(own_house: House) -> None:
    async with own_house.source({"topic": "#", "qos": 0}, keepAlive="1s") as source:
        await source.logged("connected")
        source.accepts = lambda event: False
        body = "x" * 20_000
        await own_house.publish(*[body] * 3000, qos=0)
        await source.count(1)
        pings = own_house.server.log.count("Received PINGREQ from eventhost")
        # It lives on without reading, for longer than it would without a sign of life.
        await source.until_asked(lambda: own_house.server.log.count("Received PINGREQ from eventhost") >= pings + 4)
        assert source.peak_memory_bytes() < 100_000_000
        assert len(source.events) < 1500
        source.accepts = lambda event: True
        await source.end()
    assert "ended" not in source.log
    assert gaps(source) == []


@versions
@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_it_goes_on_where_it_was_when_the_broker_comes_back(own_house: House, version: str, how: str) -> None:
    async with own_house.source(version=version) as source:
        await source.logged("connected")
        await own_house.publish("1", "2")
        await source.count(2)
        await source.until_asked(lambda: own_house.server.log.count("Received PUBACK from eventhost") == 2)
        await aside(own_house.server.write_sessions)
        await aside(own_house.server.stop if how == "stop" else own_house.server.kill)
        await source.logged("trying again")
        assert (await source.call("get_source_status"))["upstreams"][0]["state"] == "reconnecting"
        await aside(own_house.server.start)
        await own_house.publish("3", "4")
        await source.logged("the session goes on")
        await source.until(lambda: values(source.events)[-1] == 4)
        assert (await source.call("get_source_status"))["upstreams"][0]["state"] == "connected"
    seen: dict[str, Any] = {event["id"]: event["payload"]["value"] for event in source.events}
    assert list(seen.values()) == [1, 2, 3, 4]


@versions
async def test_what_comes_while_it_is_away_waits_for_it(house: House, version: str) -> None:
    async with house.source(version=version) as source:
        await source.logged("connected")
    await house.publish(*map(str, range(50)))
    async with house.source(version=version) as source:
        assert values(await source.count(50)) == list(range(50))
    assert not gaps(source)


@versions
async def test_a_session_that_the_broker_has_lost_is_a_gap_with_its_bounds(own_house: House, version: str) -> None:
    async with own_house.source(version=version) as source:
        await source.logged("connected")
        await own_house.publish("1")
        await source.count(1)
        await aside(own_house.server.kill)
        for file in own_house.server.folder.glob("mosquitto.db*"):
            file.unlink()
        await aside(own_house.server.start)
        gap = (await source.count(2))[1]
        await own_house.publish("2")
        assert values(await source.count(3))[2] == 2
        assert (await source.call("get_source_status"))["upstreams"][0]["gaps"] == 1
    assert gap["type"] == "mqtt.gap"
    said = gap["payload"]
    assert (said["broker"], said["reason"], said["topics"]) == ("hub", "session_lost", [f"{own_house.name}/#"])
    assert said["after"]["time"] < said["until"]["time"]
    async with own_house.source(version=version) as source:
        await source.logged("the session goes on")
        await own_house.publish("3")
        assert values(await source.count(1)) == [3]


async def test_a_gap_that_nobody_has_accepted_is_told_again(own_house: House) -> None:
    async with own_house.source() as source:
        await source.logged("connected")
    await aside(own_house.server.kill)
    await aside(own_house.server.start)
    async with own_house.source() as source:
        source.accepts = lambda event: False
        (gap,) = await source.count(1)
        source.kill()
    async with own_house.source() as source:
        (again,) = await source.count(1)
    assert gap["payload"]["reason"] == again["payload"]["reason"] == "session_lost"
    assert (gap["id"], gap["payload"]["after"]) == (again["id"], again["payload"]["after"])


async def test_what_is_sent_at_qos_0_is_missed_while_it_is_away_and_that_is_a_gap(house: House) -> None:
    topics = [{"topic": "asked", "qos": 0}, {"topic": "sent"}, {"topic": "kept"}]
    async with house.source(*topics) as source:
        await source.logged("connected")
        await house.publish("1", topic="sent", qos=0)
        await house.publish("1", topic="kept", qos=1)
        await source.count(2)
    for topic in ("asked", "sent", "kept"):
        await house.publish("lost" if topic != "kept" else "2", topic=topic, qos=0 if topic == "sent" else 1)
    async with house.source(*topics) as source:
        gap, kept = await source.count(2)
    assert (gap["payload"]["reason"], sorted(gap["payload"]["topics"])) == (
        "not_connected",
        [f"{house.name}/asked", f"{house.name}/sent"],
    )
    assert kept["payload"] == {"value": 2}


async def test_a_topic_that_is_taken_out_of_the_configuration_is_told_no_more(house: House) -> None:
    both = [{"topic": "a"}, {"topic": "b"}]
    async with house.source(*both) as source:
        await source.logged("connected")
    await house.publish("queued", topic="b")
    async with house.source(both[0]) as source:
        await source.logged("connected")
        await house.publish("1", topic="b")
        await house.publish("2", topic="a")
        assert values(await source.count(1)) == [2]
    async with house.source(*both) as source:
        await source.logged("connected")
        await house.publish("3", topic="b")
        assert values(await source.count(1)) == [3]


@versions
async def test_a_wrong_password_is_told_with_its_mend_until_it_is_right(own_house: House, version: str) -> None:
    wrong = own_house.server.passwords(mai="other")
    right = own_house.server.passwords(mai="secret-1")
    await aside(own_house.server.stop)
    own_house.server.passwords(mai="other")
    await aside(lambda: own_house.server.start(**wrong))
    async with own_house.source(version=version, username="mai", password="secret-1") as source:
        await source.logged("Not authorized; see username and password")
        status = await source.call("get_source_status")
        assert status["upstreams"][0]["state"] in ("reconnecting", "connecting")
        assert "Not authorized" in status["upstreams"][0]["lastError"]
        await aside(own_house.server.stop)
        own_house.server.passwords(mai="secret-1")
        await aside(lambda: own_house.server.start(**right))
        await source.logged("connected, MQTT")
    assert "secret-1" not in source.log
    assert not source.events


async def test_another_client_of_the_same_id_is_told(house: House) -> None:
    async with house.source(clientId=house.name) as source:
        await source.logged(f"client id {house.name}")
        async with house.server.client(identifier=house.name):
            # This broker does not say why.
            await source.logged("another client has the same client id: give each its own, see clientId")


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[int]:
    """A server that says the same to whoever comes, and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        await writer.drain()
        writer.close()

    served = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with served:
        yield served.sockets[0].getsockname()[1]


class OddBroker:
    """A broker of MQTT 5 that grants what it likes, and sends what the test wants sent.

    `grants` tells for a filter the reason code of its SUBACK, `connack` are the properties of its CONNACK.
    """

    def __init__(self, grants: Callable[[str], int] = lambda topic_filter: 1, connack: bytes = b"") -> None:
        self.grants, self.connack = grants, connack
        self.asked: list[str] = []
        self.told: list[bytes] = []
        """What the source has said, packet by packet, after it had subscribed."""
        self.port = 0
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> OddBroker:
        self._served = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._served.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._served.close()

    def say(self, packet: bytes) -> None:
        assert self._writer is not None
        self._writer.write(packet)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        try:
            while True:
                kind = (await reader.readexactly(1))[0]
                body = await reader.readexactly((await reader.readexactly(1))[0])
                if kind == 0x10:
                    writer.write(bytes([0x20, 3 + len(self.connack), 0, 0, len(self.connack)]) + self.connack)
                elif kind == 0x82:
                    at = 3 + body[2]
                    name = body[at + 2 : at + 2 + int.from_bytes(body[at : at + 2], "big")].decode()
                    self.asked.append(name)
                    writer.write(bytes([0x90, 4, *body[:2], 0, self.grants(name)]))
                else:
                    self.told.append(bytes([kind]) + body)
        except asyncio.IncompleteReadError:
            writer.close()


async def test_a_topic_that_the_broker_refuses_does_not_harm_the_others(tmp_path: Path) -> None:
    codes = {"open": 1, "closed": 0x87, "once": 0, "$share/g/a": 0x9E}
    async with OddBroker(codes.__getitem__) as odd:
        config = {"name": "odd", "url": f"mqtt://127.0.0.1:{odd.port}", "topics": list(codes)}
        async with source_process(SOURCE, {"broker": config}, tmp_path) as source:
            await source.logged("connected")
            assert "refuses the subscription to closed: Not authorized; is this user allowed to read it?" in source.log
            assert "$share/g/a: Shared subscription not supported; leave $share/GROUP/ out" in source.log
            assert "once: QoS 0 is granted, not 1; what comes while nobody listens is lost" in source.log
            assert "the subscription to" in (await source.call("get_source_status"))["upstreams"][0]["lastError"]
            odd.say(b"\x30\x09\x00\x04open\x00hi")
            assert values(await source.count(1)) == ["hi"]


async def test_a_broker_that_refuses_every_topic_is_asked_again(tmp_path: Path) -> None:
    answers = iter([0x87, 1])
    async with OddBroker(lambda topic_filter: next(answers)) as odd:
        config = {"name": "odd", "url": f"mqtt://127.0.0.1:{odd.port}", "topics": ["a"]}
        async with source_process(SOURCE, {"broker": config}, tmp_path) as source:
            await source.logged("refuses the subscription to a: Not authorized")
            await source.logged("connected, MQTT 5")
            assert gaps(source) == []


async def test_a_broker_that_says_why_it_ends_the_connection_is_quoted(tmp_path: Path) -> None:
    async with OddBroker() as odd:
        config = {"name": "odd", "url": f"mqtt://127.0.0.1:{odd.port}", "topics": ["a"]}
        async with source_process(SOURCE, {"broker": config}, tmp_path) as source:
            await source.logged("connected")
            odd.say(b"\xe0\x02\x8e\x00")
            await source.logged(
                "Session taken over; another client has come under the same client id; give each its own"
            )
            assert (await source.call("get_source_status"))["upstreams"][0]["state"] == "reconnecting"
            assert odd.asked == ["a"]


async def test_a_broker_that_is_silent_is_left(tmp_path: Path) -> None:
    async with OddBroker() as odd:
        config = {"name": "odd", "url": f"mqtt://127.0.0.1:{odd.port}", "topics": ["a"], "keepAlive": "1s"}
        async with source_process(SOURCE, {"broker": config}, tmp_path) as source:
            await source.logged("the broker is silent; see keepAlive, 1 s")
            await source.logged("connected", 2)


async def test_what_the_host_refuses_is_told_in_the_log_and_does_not_come_again(tmp_path: Path) -> None:
    async with OddBroker() as odd:
        config = {"name": "odd", "url": f"mqtt://127.0.0.1:{odd.port}", "topics": ["a"]}
        async with source_process(SOURCE, {"broker": config}, tmp_path) as source:
            await source.logged("connected")
            source.accepts = lambda event: False
            odd.say(b"\x32\x08\x00\x01a\x00\x07\x00hi")
            (event,) = await source.count(1)
            refusal = {"id": event["id"], "reason": "too large"}
            source.say(method="notifications/eventsource/accepted", params={"ids": [], "rejected": [refusal]})
            await source.logged("the host rejected the event: too large")
            await source.until_asked(lambda: odd.told)
    assert odd.told[0][:3] == b"\x40\x00\x07"


async def test_a_broker_without_subscription_identifiers_is_not_sent_any(tmp_path: Path) -> None:
    async with OddBroker(connack=b"\x29\x00") as odd:
        config = {"name": "odd", "url": f"mqtt://127.0.0.1:{odd.port}", "topics": {"+/b": "one", "a/+": "other"}}
        async with source_process(SOURCE, {"broker": config}, tmp_path) as source:
            await source.logged("connected")
            odd.say(b"\x30\x08\x00\x03a/b\x00hi")
            events = await source.count(2)
    assert [event["type"] for event in events] == ["one", "other"]


async def test_a_message_of_qos_2_is_taken_over_from_the_broker_only_once_it_is_accepted(tmp_path: Path) -> None:
    async with OddBroker(lambda topic_filter: 2) as odd:
        config = {"name": "odd", "url": f"mqtt://127.0.0.1:{odd.port}", "topics": [{"topic": "a", "qos": 2}]}
        publish = b"\x34\x08\x00\x01a\x00\x07\x00hi"
        async with source_process(SOURCE, {"broker": config}, tmp_path) as source:
            await source.logged("connected")
            source.accepts = lambda event: False
            odd.say(publish)
            (event,) = await source.count(1)
            assert odd.told == []
            source.kill()
        # The session of this broker is always a new one; what it has is told apart by the bookmark alone.
        odd.told.clear()
        async with source_process(SOURCE, {"broker": config}, tmp_path) as source:
            await source.logged("connected")
            odd.say(publish)
            await source.until(lambda: event["payload"] in [each["payload"] for each in source.events])
            await source.until_asked(lambda: odd.told)
            odd.say(b"\x62\x02\x00\x07")
            await source.until_asked(lambda: len(odd.told) == 2)
    assert [packet[:3] for packet in odd.told[:2]] == [b"\x50\x00\x07", b"\x70\x00\x07"]


@pytest.mark.parametrize(
    ("version", "answer", "mend"),
    [
        ("5", b"\x20\x02\x00\x01", 'Unsupported protocol version; write "version": "3.1.1"'),
        ("3.1.1", b"\x20\x02\x00\x01", "before it answered; does it want TLS (mqtts://), or MQTT 5?"),
        ("5", b"\x20\x03\x00\x88\x00", "Server unavailable; it may do so later"),
        ("5", b"", 'before it answered; does it want TLS (mqtts://), or "version": "3.1.1"?'),
        ("5", b"HTTP/1.1 400 Bad Request\r\n\r\n", "before it answered"),
    ],
)
async def test_a_server_that_is_no_broker_of_this_version_is_told_with_the_mend(
    tmp_path: Path, version: str, answer: bytes, mend: str
) -> None:
    async with answering(answer) as port:
        config = {"broker": {"url": f"mqtt://127.0.0.1:{port}", "topics": ["a"], "version": version}}
        async with source_process(SOURCE, config, tmp_path) as source:
            await source.logged(mend)


async def test_over_tls_broker_and_source_know_each_other(tmp_path: Path) -> None:
    for name in ("server", "client"):
        (tmp_path / name).mkdir()
    of_server, of_client = Certificates(tmp_path / "server"), Certificates(tmp_path / "client")
    server = Mosquitto()
    try:
        for one in (of_server, of_client):
            one.issue(password=b"hunter2" if one is of_client else b"")
            (one.folder / "ca.pem").write_bytes(one.root.public_bytes(Encoding.PEM))
        pem = {name: tmp_path / "server" / f"{name}.pem" for name in ("cert", "key")}
        server.use_tls(pem["cert"], pem["key"], clients=tmp_path / "client" / "ca.pem")
        server.start()
        mine = {name: str(tmp_path / "client" / f"{name}.pem") for name in ("cert", "key")}
        base = {"name": "hub", "url": server.url(), "topics": ["a"]}
        good = {**base, **mine, "ca": str(tmp_path / "server/ca.pem"), "keyPassword": "hunter2"}
        cases = {
            "is its certificate for this name, and from whom `ca` trusts?": {**good, "ca": mine["cert"]},
            "ca, cert or key cannot be used": {**good, "keyPassword": "wrong"},
            "the connection has ended": {**base, "ca": good["ca"]},
            "before it answered; does it want TLS": {**base, "url": server.url().replace("mqtts", "mqtt")},
        }
        for number, (told, config) in enumerate(cases.items()):
            async with source_process(SOURCE, {"broker": config}, tmp_path / f"state{number}") as source:
                await source.until(lambda: told in source.log or "before it answered" in source.log)  # noqa: B023
        for config in (good, {key: value for key, value in good.items() if key != "ca"} | {"verify": False}):
            async with source_process(SOURCE, {"broker": config}, tmp_path / "state") as source:
                await source.logged("connected, MQTT 5")
    finally:
        server.remove()


async def test_a_port_without_tls_is_told_with_the_mend(house: House) -> None:
    url = house.server.url().replace("mqtt:", "mqtts:")
    async with source_process(SOURCE, {"broker": {"url": url, "topics": ["a"]}}, house.state) as source:
        await source.logged("cannot connect to 127.0.0.1")


async def test_one_broker_that_is_away_does_not_keep_another_from_being_told(house: House) -> None:
    away = {"name": "away", "url": "mqtt://127.0.0.1:1", "topics": ["#"]}
    async with source_process(SOURCE, {"brokers": [away, house.config()["broker"]]}, house.state) as source:
        await source.logged("away: cannot connect to 127.0.0.1:1")
        await source.logged("hub: connected")
        await house.publish("1")
        await source.count(1)


async def test_the_client_id_is_kept_and_each_source_has_its_own(house: House, tmp_path: Path) -> None:
    ids = set()
    for state in ("one", "one", "two"):
        async with source_process(SOURCE, house.config(), tmp_path / state) as source:
            await source.logged("connected")
        ids.add(json.loads((tmp_path / state / "hub.json").read_text())["client"])
    assert len(ids) == 2
    assert all(len(each) <= 23 for each in ids)


def test_a_package_that_is_missing_is_told_with_its_mend(tmp_path: Path) -> None:
    script = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "aiomqtt" else find(name, *more)
import server
try:
    server.wanted()
except Exception as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=SOURCE, capture_output=True, text=True, timeout=60, check=True
    )
    assert "pip install 'eventhost[mqtt]'" in done.stdout
