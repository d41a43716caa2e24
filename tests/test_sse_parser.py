"""The event stream format is read as the HTML standard has it, however its bytes are cut."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventhost.sources.sse.parser import StreamEvent, StreamParser


def parse(stream: bytes, size: int = 0, **more: object) -> list[StreamEvent]:
    parser = StreamParser(**more)  # type: ignore[arg-type]
    size = size or len(stream) or 1
    return [event for start in range(0, len(stream), size) for event in parser.feed(stream[start : start + size])]


def told(stream: bytes, size: int = 0) -> list[tuple[str, str, str]]:
    return [(event.name, event.data.decode(errors="replace"), event.last_id) for event in parse(stream, size)]


EXAMPLES = [
    # Those of the standard, 9.2.6.
    (b"data: YHOO\ndata: +2\ndata: 10\n\n", [("message", "YHOO\n+2\n10", "")]),
    (
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
        [("message", "first event", "1"), ("message", "second event", ""), ("message", " third event", "")],
    ),
    (b"data\n\ndata\ndata\n\ndata:", [("message", "", ""), ("message", "\n", "")]),
    (b"data:test\n\ndata: test\n\n", [("message", "test", ""), ("message", "test", "")]),
    # 9.2.1.
    (
        b"data: This is the first message.\n\ndata: This is the second message, it\ndata: has two lines.\n\n"
        b"data: This is the third message.\n\n",
        [
            ("message", "This is the first message.", ""),
            ("message", "This is the second message, it\nhas two lines.", ""),
            ("message", "This is the third message.", ""),
        ],
    ),
    (
        b"event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\nevent: add\ndata: 113411\n\n",
        [("add", "73857293", ""), ("remove", "2153", ""), ("add", "113411", "")],
    ),
    # The byte order mark: one, and only at the beginning.
    (b"\xef\xbb\xbfdata: a\n\n", [("message", "a", "")]),
    (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
    (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [("message", "a", "")]),
    (b"\xef\xbbdata: a\n\n", []),
    # Line ends.
    (b"data: a\r\n\r\ndata: b\r\r", [("message", "a", ""), ("message", "b", "")]),
    (b"data: a\rdata: b\r\ndata: c\n\r", [("message", "a\nb\nc", "")]),
    (b"data: a\n\r\ndata: b\r\n\n", [("message", "a", ""), ("message", "b", "")]),
    ("data: a\u2028b\x0b\x0c\x85\n\n".encode(), [("message", "a\u2028b\x0b\x0c\x85", "")]),
    # Fields.
    (b":\n:comment\ndata: a\n:data: b\n\n", [("message", "a", "")]),
    (b"Data: a\n data: b\ndata : c\nfoo: d\n\n", []),
    (b"data::a\ndata: : b\n\n", [("message", ":a\n: b", "")]),
    (b"event:a\nevent:\ndata: x\n\n", [("message", "x", "")]),
    (b"event: a\n\ndata: x\n\n", [("message", "x", "")]),
    (b"event:  a \ndata: x\n\n", [(" a ", "x", "")]),
    # Ids.
    (b"id: 1\ndata: a\n\ndata: b\n\n", [("message", "a", "1"), ("message", "b", "1")]),
    (b"id: 1\ndata: a\n\nid:\ndata: b\n\n", [("message", "a", "1"), ("message", "b", "")]),
    (b"id: 1\n\ndata: a\n\n", [("message", "a", "1")]),
    (b"id: 1\0\ndata: a\n\nid: 2\nid: \0\ndata: b\n\n", [("message", "a", ""), ("message", "b", "2")]),
    ("id: é\ndata: ☃\n\n".encode(), [("message", "☃", "é")]),
    # What is not finished is no event.
    (b"data: a\n\ndata: b\n", [("message", "a", "")]),
    (b"data: a", []),
    (b"", []),
    (b"\n\n\n", []),
    # Not UTF-8.
    (b"data: \xff\xe2\x98\n\n", [("message", "\ufffd\ufffd", "")]),
]  # fmt: skip


@pytest.mark.parametrize(("stream", "events"), EXAMPLES)
def test_a_stream_is_read_as_the_standard_says(stream: bytes, events: list[tuple[str, str, str]]) -> None:
    assert told(stream) == events


@pytest.mark.parametrize(("stream", "events"), EXAMPLES)
def test_a_stream_that_comes_byte_by_byte_is_the_same(stream: bytes, events: list[tuple[str, str, str]]) -> None:
    assert told(stream, 1) == events


PIECES = st.sampled_from(
    [b"data", b"id", b"event", b"retry", b":", b" ", b"\n", b"\r", b"\r\n", b"\n\n", b"\0", b"7", b"\xe2",
     b"\xef\xbb\xbf", b"data: ", b"id: 1", b"event: a", b"retry: 10", b"data: {}\r\n\r\n", "☃".encode()]
)  # fmt: skip


@given(st.lists(PIECES, max_size=60).map(b"".join), st.data())
def test_any_cutting_gives_the_same_events(stream: bytes, data: st.DataObject) -> None:
    whole, cut = StreamParser("before"), StreamParser("before")
    expected = whole.feed(stream)
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=12).map(sorted))
    found = []
    for start, end in zip([0, *places], [*places, len(stream)], strict=True):
        found += cut.feed(stream[start:end])
    assert found == expected
    assert (cut.last_id, cut.retry_ms) == (whole.last_id, whole.retry_ms)


def naive(stream: bytes) -> list[tuple[str, str, str]]:
    """The standard's algorithm, word for word."""
    text = stream.decode(errors="replace").removeprefix("\ufeff")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")[:-1]
    events, data, name, last_id = [], "", "", ""
    for line in lines:
        if not line:
            if data:
                events.append((name or "message", data.removesuffix("\n"), last_id))
            data = name = ""
            continue
        field, colon, value = line.partition(":")
        value = value.removeprefix(" ")
        if colon and not field:
            continue
        if field == "event":
            name = value
        elif field == "data":
            data += value + "\n"
        elif field == "id" and "\0" not in value:
            last_id = value
    return events


@given(st.lists(PIECES, max_size=60).map(b"".join))
def test_the_parser_agrees_with_the_standards_own_words(stream: bytes) -> None:
    assert told(stream) == naive(stream)


def test_a_line_end_that_is_cut_in_two_is_one_line_end() -> None:
    parser = StreamParser()
    assert parser.feed(b"data: a\r\n\r") == [StreamEvent("message", b"a", "")]
    assert parser.feed(b"\ndata: b\r") == []
    assert parser.feed(b"\n") == []
    assert [event.data for event in parser.feed(b"\r")] == [b"b"]


def test_an_id_that_was_before_stays_in_force() -> None:
    [event] = parse(b"data: a\n\n", last_id="7")
    assert (event.last_id, event.own_id) == ("7", None)
    [event] = parse(b"id: 8\ndata: a\n\n", last_id="7")
    assert (event.last_id, event.own_id) == ("8", "8")


def test_the_id_of_an_event_that_is_not_finished_does_not_count() -> None:
    parser = StreamParser("1")
    parser.feed(b"id: 2\ndata: a\n")
    assert parser.last_id == "1"
    parser.feed(b"\n")
    assert parser.last_id == "2"


def test_an_id_without_data_counts() -> None:
    parser = StreamParser()
    assert parser.feed(b"id: 5\n\n") == []
    assert parser.last_id == "5"


@pytest.mark.parametrize(
    ("line", "retry_ms"),
    [
        (b"retry: 1500", 1500),
        (b"retry:0", 0),
        (b"retry: 1.5", None),
        (b"retry: -1", None),
        (b"retry: 1s", None),
        (b"retry:", None),
        (b"retry", None),
        (b"retry:  1", None),
        ("retry: ١".encode(), None),
        (b"retry: " + b"9" * 5000, 10**12),
    ],
)
def test_a_reconnection_time_has_digits_only(line: bytes, retry_ms: int | None) -> None:
    parser = StreamParser()
    [event] = parser.feed(line + b"\ndata: a\n\n")
    assert parser.retry_ms == event.retry_ms == retry_ms


def test_a_reconnection_time_belongs_to_its_event_alone() -> None:
    first, second = parse(b"retry: 9\ndata: a\n\ndata: b\n\n")
    assert (first.retry_ms, second.retry_ms) == (9, None)


# Bounds.


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize(
    "large",
    [
        b"data: " + b"x" * 200 + b"\n\n",
        b"data: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n" * 5 + b"\n",
        b"data\n" * 101 + b"\n",
    ],
)
def test_what_is_too_large_is_refused_and_counted_and_the_next_is_read(large: bytes, size: int) -> None:
    parser = StreamParser(longest_event=100)
    stream = b"data: a\n\nid: 4\n" + large + b"data: b\n\n"
    found = [event for start in range(0, len(stream), size) for event in parser.feed(stream[start : start + size])]
    assert [event.data for event in found] == [b"a", b"b"]
    assert (parser.refused, parser.last_id) == (1, "4")


def test_a_long_comment_spoils_nothing() -> None:
    parser = StreamParser(longest_event=100)
    stream = b"data: a\n:" + b"x" * 300 + b"\ndata: b\n\n"
    found = [event for index in range(len(stream)) for event in parser.feed(stream[index : index + 1])]
    assert ([event.data for event in found], parser.refused) == ([b"a\nb"], 0)


def test_a_line_that_never_ends_is_given_up() -> None:
    parser = StreamParser(longest_event=1000)
    for _ in range(1000):
        assert parser.feed(b"event: " * 100) == []
    [event] = parser.feed(b"\n\ndata: a\n\n")
    assert (event.data, parser.refused) == (b"a", 1)


def test_a_stream_without_line_ends_takes_little_memory() -> None:
    parser = StreamParser(longest_event=10_000)
    tracemalloc.start()
    try:
        for _ in range(2_000):
            parser.feed(bytes(5_000))
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()
