"""What holds of the MQTT source whatever the topics are, and whenever it is killed."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_shipped_sources import modules_of

with modules_of("iot") as of_source:
    messages, options, session, topics = (of_source(name) for name in ("messages", "options", "session", "topics"))

LEVELS = st.sampled_from(["a", "b", "", "$c"])
TOPICS = st.lists(LEVELS, min_size=1, max_size=4).map("/".join).filter(bool)
FILTERS = st.builds(
    lambda levels, rest: "/".join([*levels, *rest]),
    st.lists(st.one_of(LEVELS, st.just("+")), max_size=3),
    st.sampled_from([[], ["#"]]),
).filter(bool)


@pytest.mark.parametrize(
    ("topic_filter", "topic", "stands_for"),
    [
        ("a/b", "a/b", []),
        ("a/b", "a/B", None),
        ("a/+", "a/b", ["b"]),
        ("a/+", "a/", [""]),
        ("a/+", "a", None),
        ("a/+", "a/b/c", None),
        ("+/+", "/a", ["", "a"]),
        ("a/#", "a", [""]),
        ("a/#", "a/b/c", ["b/c"]),
        ("+/b/#", "a/b/c/d", ["a", "c/d"]),
        ("#", "a/b", ["a/b"]),
        ("#", "$SYS/a", None),
        ("+/a", "$SYS/a", None),
        ("$SYS/#", "$SYS/a", ["a"]),
        ("$share/group/a/+", "a/b", ["b"]),
    ],
)
def test_a_filter_takes_topics_as_the_standard_says(
    topic_filter: str, topic: str, stands_for: list[str] | None
) -> None:
    assert topics.problem_of(topic_filter) == ""
    assert topics.matched(topic_filter, topic) == stands_for


@given(wide=FILTERS, narrow=FILTERS, topic=TOPICS)
def test_a_filter_that_covers_another_takes_whatever_that_takes(wide: str, narrow: str, topic: str) -> None:
    if topics.covers(wide, narrow) and topics.matched(narrow, topic) is not None:
        assert topics.matched(wide, topic) is not None


@given(topic_filter=FILTERS, topic=TOPICS)
def test_what_the_wildcards_stand_for_makes_the_topic_again(topic_filter: str, topic: str) -> None:
    found = topics.matched(topic_filter, topic)
    if found is None:
        return
    assert len(found) == topics.wildcards(topic_filter)
    standing = deque(found)
    made = "/".join(standing.popleft() if level in "+#" and level else level for level in topic_filter.split("/"))
    assert topic in (made, made.removesuffix("/"))


@given(filters=st.lists(st.tuples(FILTERS, st.integers(0, 2)), min_size=1, max_size=5, unique_by=lambda one: one[0]))
def test_each_topic_is_carried_by_one_subscription_that_covers_it(filters: list[tuple[str, int]]) -> None:
    wanted = [topics.Topic(name, "t", qos) for name, qos in filters]
    carried = topics.subscriptions(wanted)
    assert Counter(topic for those in carried.values() for topic in those) == Counter(wanted)
    for subscription, those in carried.items():
        for topic in those:
            assert topics.covers(subscription.filter, topic.filter)
            assert subscription.qos >= topic.qos


@given(template=st.sampled_from(["{topic}", "mqtt.{topic}", "x.{1}", "{broker}"]), topic=st.text(min_size=1))
def test_whatever_a_topic_is_its_type_is_a_word_between_dots(template: str, topic: str) -> None:
    name = topics.type_of(template, "hub", topic, [topic])
    assert name != topics.GAP
    assert all(name.split("."))
    assert not any(character.isspace() for character in name)


class Broker:
    """A broker by the book: it sends again what was not acknowledged, and uses a number again as soon as it may."""

    def __init__(self, qos: int) -> None:
        self.qos = qos
        self.waiting: deque[int] = deque()
        self.sent: dict[int, int] = {}
        self.received: list[int] = []
        """Numbers of messages of QoS 2 that the client has said to have."""

    def send(self) -> list[Any]:
        """Send what fits."""
        fresh = []
        while self.waiting and len(self.sent) + len(self.received) < 4:
            number = next(each for each in range(1, 9) if each not in self.sent and each not in self.received)
            self.sent[number] = self.waiting.popleft()
            fresh.append(self._message(number))
        return fresh

    def send_again(self) -> list[Any]:
        """Send what a lost connection has left open."""
        return [self._message(number, duplicate=True) for number in self.sent]

    def hear(self, receipts: list[Any]) -> None:
        for number, step in receipts:
            if step is session.Step.PUBCOMP:
                self.received.remove(number)
                continue
            del self.sent[number]
            if step is session.Step.PUBREC:
                self.received.append(number)

    def _message(self, number: int, *, duplicate: bool = False) -> Any:
        # All messages look alike but for what the test knows them by.
        payload = json.dumps({"nr": self.sent[number]}).encode()
        return messages.Message("a", payload, qos=self.qos, number=number, duplicate=duplicate)


class Kept:
    """A bookmark: what was saved last, as JSON."""

    def __init__(self) -> None:
        self.text = "{}"

    @property
    def content(self) -> dict[str, Any]:
        return dict(json.loads(self.text))

    def save(self, content: dict[str, Any]) -> None:
        self.text = json.dumps(content)


STEPS = ["publish", "take", "accept", "tell", "drop", "release", "kill", "break"]


@settings(max_examples=300)
@given(
    qos=st.sampled_from([1, 2]),
    steps=st.lists(st.sampled_from(STEPS), max_size=60),
)
def test_however_it_is_killed_no_message_is_lost_and_none_takes_anothers_id(qos: int, steps: list[str]) -> None:
    """Host, broker and source, with a kill or a broken connection anywhere; `drop` is a receipt lost on its way."""
    (config,) = options.brokers({"broker": {"url": "mqtt://h", "topics": [{"topic": "a", "qos": 2}]}})
    broker, kept = Broker(qos), Kept()
    here = session.Session(config, kept)
    accepted: dict[str, int] = {}
    ids: dict[int, set[str]] = {}
    published = lost_receipts = 0
    # What has come and was not taken yet, and what was taken and not accepted yet.
    came: list[Any] = []
    taken: list[Any] = []
    events: list[Any] = []

    def connect(*, again: bool) -> None:
        came[:], taken[:], events[:] = broker.send_again() if again else [], [], []
        wanted, _ = here.begin(present=again)
        for one, number in wanted.items():
            here.subscribed(one, number, 2)
        here.complete("2026-01-02T03:04:05.000Z")

    def take() -> None:
        came.extend(broker.send())
        if not taken:
            taken[:], came[:] = came[:], []
            events[:] = here.take(taken, "2026-01-02T03:04:05.000Z")
            broker.hear(here.receipts())

    def accept() -> None:
        for event in events:
            number = event.payload["nr"]
            # The host knows an event by its id: another message of the same one would be lost.
            assert accepted.setdefault(event.id, number) == number
            ids.setdefault(number, set()).add(event.id)
        here.accepted(taken)
        taken[:], events[:] = [], []

    def release() -> None:
        for number in list(broker.received):
            here.released(number)
        broker.hear(here.receipts())

    def restart() -> None:
        nonlocal here
        here = session.Session(config, kept)
        connect(again=True)

    def interrupt() -> None:
        here.disconnected("2026-01-02T03:04:05.000Z")
        connect(again=True)

    connect(again=False)
    does: dict[str, Callable[[], object]] = {
        "take": take, "accept": accept, "tell": lambda: broker.hear(here.receipts()), "release": release,
        "kill": restart, "break": interrupt,
    }  # fmt: skip
    for step in steps:
        if step == "publish":
            broker.waiting.append(published)
            published += 1
        elif step == "drop":
            lost_receipts += len(here.receipts())
            restart()
        else:
            does[step]()
    for _ in range(2 * published + 2):
        for step in ("take", "accept", "tell", "release"):
            does[step]()
    assert set(ids) == set(range(published))
    assert not broker.sent
    assert not broker.received
    assert not kept.content["given"]
    doubles = sum(len(each) - 1 for each in ids.values())
    assert doubles <= (lost_receipts if qos == 1 else 0)


def test_a_gap_waits_on_the_disk_until_the_host_has_it(tmp_path: Path) -> None:
    (config,) = options.brokers({"broker": {"url": "mqtt://h", "topics": ["a"]}})
    kept = Kept()
    first = session.Session(config, kept)
    for one, number in first.begin(present=False)[0].items():
        first.subscribed(one, number, 1)
    assert first.complete("2026-01-02T03:00:00.000Z") is None
    # Killed before it has subscribed anew: the broker has a session by then, and says so.
    session.Session(config, kept).begin(present=False)
    later = session.Session(config, kept)
    wanted, _ = later.begin(present=True)
    assert [one.filter for one in wanted] == ["a"]
    gap = later.complete("2026-01-02T04:00:00.000Z")
    assert gap.payload["after"] == {"time": "2026-01-02T03:00:00.000Z"}
    assert gap.payload["until"] == {"time": "2026-01-02T04:00:00.000Z"}
    later.gap_told()
    assert "gap" not in kept.content
