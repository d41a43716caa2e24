"""A source's settings are read with their types and bounds; what is wrong is told with its place and its mend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from eventhost.errors import ConfigError
from eventhost.kit.options import Options

GOOD: list[tuple[dict[str, Any], Callable[[Options], Any], Any]] = [
    ({"url": "nats://h"}, lambda o: o.text("url"), "nats://h"),
    ({}, lambda o: o.text("url", ""), ""),
    ({"url": None}, lambda o: o.text("url", "x"), "x"),
    ({"how": "b"}, lambda o: o.one_of("how", ("a", "b")), "b"),
    ({}, lambda o: o.one_of("how", ("a", "b"), "a"), "a"),
    ({"paths": "a"}, lambda o: o.texts("paths"), ["a"]),
    ({"paths": ["a", "b"]}, lambda o: o.texts("paths"), ["a", "b"]),
    ({}, lambda o: o.texts("paths", ()), []),
    ({"on": False}, lambda o: o.flag("on", True), False),
    ({}, lambda o: o.flag("on", True), True),
    ({"n": 3}, lambda o: o.whole("n", least=1, most=3), 3),
    ({}, lambda o: o.whole("n", 0, least=1, most=3), 0),
    ({"t": "1m30s"}, lambda o: o.seconds("t"), 90.0),
    ({"t": 1500}, lambda o: o.seconds("t"), 1.5),
    ({}, lambda o: o.seconds("t", 7), 7),
    ({"s": {"a": "b"}}, lambda o: o.section("s").text("a"), "b"),
    ({}, lambda o: o.section("s").keys(), []),
    ({"t": ["a", {"topic": "b"}]}, lambda o: [one.text("topic") for one in o.sections("t", "topic")], ["a", "b"]),
    ({"t": "a"}, lambda o: [(one.field, one.text("topic")) for one in o.sections("t", "topic")], [("t", "a")]),
    ({"t": [{}, {}]}, lambda o: [one.field for one in o.sections("t")], ["t[0]", "t[1]"]),
    ({}, lambda o: o.sections("t"), []),
    ({"t": []}, lambda o: o.sections("t"), []),
    ({"t": {"x": 1}}, lambda o: list(o.table("t")), [("x", 1)]),
    ({"a": 1}, lambda o: ("a" in o, "b" in o), (True, False)),
]

BAD: list[tuple[dict[str, Any], Callable[[Options], Any], str]] = [
    ({}, lambda o: o.text("url", example="nats://h"), 'url: missing; write a text such as "nats://h"'),
    ({"url": ""}, lambda o: o.text("url"), "url: expected a text, got an empty text"),
    ({"url": 5}, lambda o: o.text("url"), "url: expected a text, got 5"),
    ({"how": "c"}, lambda o: o.one_of("how", ("a", "b")), "how: expected one of a, b, got a text"),
    ({"paths": []}, lambda o: o.texts("paths"), "paths: expected a list of texts, got an empty list"),
    ({"paths": ["a", 1]}, lambda o: o.texts("paths"), "paths: expected a list of texts, got a list"),
    ({"paths": [""]}, lambda o: o.texts("paths"), "paths: expected a list of texts, got a list"),
    ({"on": "yes"}, lambda o: o.flag("on", True), "on: expected true or false, got a text"),
    ({"n": 4}, lambda o: o.whole("n", least=1, most=3), "n: expected a whole number from 1 to 3, got 4"),
    ({"n": True}, lambda o: o.whole("n", least=1, most=3), "n: expected a whole number from 1 to 3, got true or false"),
    ({"n": 1.5}, lambda o: o.whole("n", least=1, most=3), "n: expected a whole number from 1 to 3, got 1.5"),
    ({"t": "soon"}, lambda o: o.seconds("t"), 't: expected a duration such as "5s" or a number of milliseconds, from'),
    ({"t": 500}, lambda o: o.seconds("t", least=1), "from 1s to 1d, got 500"),
    ({"t": "2d"}, lambda o: o.seconds("t"), "from 1ms to 1d, got a text"),
    ({"t": True}, lambda o: o.seconds("t"), "got true or false"),
    ({"t": float("inf")}, lambda o: o.seconds("t"), "got inf"),
    ({"s": []}, lambda o: o.section("s"), "s: expected an object, got an empty list"),
    ({"s": {"a": 1}}, lambda o: o.section("s").text("a"), "s.a: expected a text, got 1"),
    ({"t": ["a"]}, lambda o: o.sections("t"), "t[0]: expected a list of objects, got a text"),
    ({"t": [1]}, lambda o: o.sections("t", "topic"), "t[0]: expected a list of objects, or of texts, each its topic"),
    ({"t": 1}, lambda o: o.sections("t"), "t: expected a list of objects, got 1"),
    ({"s": [{}, {"a": 1}]}, lambda o: o.sections("s")[1].text("a"), "s[1].a: expected a text, got 1"),
    ({}, lambda o: (_ for _ in ()).throw(o.wrong("a", "no good", "do better")), "a: no good; do better"),
]


@pytest.mark.parametrize(("values", "read", "expected"), GOOD)
def test_a_value_is_read(values: dict[str, Any], read: Callable[[Options], Any], expected: Any) -> None:
    assert read(Options(values)) == expected


@pytest.mark.parametrize(("values", "read", "told"), BAD)
def test_what_is_wrong_is_told(values: dict[str, Any], read: Callable[[Options], Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(Options(values))
    assert told in str(caught.value)
    assert str(caught.value).startswith("config.jsonc: ")


def test_no_value_that_may_be_a_secret_is_told() -> None:
    for read in (lambda o: o.whole("a", least=0, most=1), lambda o: o.seconds("a"), lambda o: o.one_of("a", ("b",))):
        with pytest.raises(ConfigError) as caught:
            read(Options({"a": "hunter2"}))
        assert "hunter2" not in str(caught.value)


def test_a_key_that_nobody_asked_for_is_told_with_what_was_meant() -> None:
    topic = Options({"topics": [{"topic": "a", "qos": 1, "typ": "x", "retain": True}]}).sections("topics")[0]
    topic.text("topic")
    topic.text("type", "")
    topic.whole("qos", 0, least=0, most=2)
    with pytest.raises(ConfigError) as caught:
        topic.close()
    assert str(caught.value).splitlines() == [
        "config.jsonc: topics[0].typ: no such option; did you mean type?",
        "config.jsonc: topics[0].retain: no such option; there are qos, topic, type",
    ]
    topic.value("typ")
    topic.value("retain")
    topic.close()
