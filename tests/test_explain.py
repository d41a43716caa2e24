"""Explain: what became of an event, and why, from what was recorded and from the journal itself."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import httpx2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from eventhost.actions import Hands
from eventhost.actions.caused import caused_event
from eventhost.actions.step import Retry
from eventhost.bus import EnvEventBus
from eventhost.cli.app import app
from eventhost.cli.explain import _lines
from eventhost.config.tree import Tree
from eventhost.connections import Batch, SourceLog
from eventhost.connections.inbound import Inbound
from eventhost.environment import ServerEnvironment
from eventhost.errors import ConnectionLost, JournalUnusable, NotFound
from eventhost.event import EnvEvent, RawEvent, SourceProfile, normalize, uuid7
from eventhost.journal import Change, Entry, MemoryJournal, Pending, Position, open_journal, search
from eventhost.journal.file import JournalFile
from eventhost.journal.search import find
from eventhost.message import given_back, normalize_batch
from eventhost.rules import Limits, RuleEngine, RuleSet, Tracing, parse_rules
from eventhost.rules import explain as room
from eventhost.rules.explain import Explanation, explain
from eventhost.rules.trial import Fate
from eventhost.sources import record
from eventhost.sources.raw import MOST_BYTES
from eventhost.web.access.guard import Guard
from eventhost.web.app import create_app

pytestmark = pytest.mark.anyio

LIMIT_S = 30
"""Never reached unless something is broken."""

CALL = {"tool": "far", "arguments": {"id": "{{ id }}"}}


def made(*values: dict[str, Any]) -> RuleSet:
    rules = parse_rules(Tree.parse(json.dumps(list(values)), "config.jsonc"))
    return RuleSet({"config.jsonc": tuple(rules)})


def event(number: int | str, event_type: str = "t", source: str = "s", **payload: Any) -> EnvEvent:
    return EnvEvent(str(number), event_type, 1000, {"source": source, "source_name": source}, payload)


class World:
    """An engine on a journal, and a far end that fails as often as it is told to."""

    def __init__(self, root: Path) -> None:
        self.root, self.fails = root, 0
        self.journal = MemoryJournal()
        self.pause: anyio.Event | None = None

    async def call_tool(self, name: str, arguments: Any, /, *, timeout_s: float) -> Any:
        if self.pause is not None:
            await self.pause.wait()
        if self.fails:
            self.fails -= 1
            raise ConnectionLost("the far end is down")
        return {"ok": arguments["id"]}

    async def run(self, rules: RuleSet, events: Sequence[EnvEvent], tracing: Tracing = Tracing.ALL) -> None:
        def unused(*_: Any, **__: Any) -> Any:
            raise AssertionError("not to be used here")

        async with EnvEventBus(self.journal) as bus:
            http = httpx2.AsyncClient(transport=httpx2.MockTransport(unused))
            hands = Hands(bus.publish, self.call_tool, unused, http, self.root, {}, unused)
            engine = RuleEngine(bus, hands, limits=Limits(retry=Retry(2, 0, 0)), tracing=tracing)
            await engine.update(rules.rules)
            async with engine:
                for one in events:
                    await bus.publish(one)
                with anyio.fail_after(LIMIT_S):
                    assert await engine.drain(LIMIT_S)

    async def explain(self, handle: str, rules: RuleSet, **more: Any) -> Explanation:
        with anyio.fail_after(LIMIT_S):
            return await explain(self.journal, handle, rules, **more)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def told(explanation: Explanation) -> dict[str, tuple[str, bool, str]]:
    return {story.trial.rule: (story.became.value, story.recorded, story.why) for story in explanation.rules}


def shown(explanation: Explanation) -> list[str]:
    return list(_lines(json.loads(json.dumps(explanation.to_json()))))


# Finding an event


async def test_an_event_is_found_by_number_id_or_source_and_id(world: World) -> None:
    await world.journal.append([event("a"), event("b", source="x"), event("c:d"), event("17")])
    for handle, seq in (("1", 1), ("a", 1), ("s:a", 1), ("x:b", 2), ("c:d", 3), ("s:c:d", 3), ("17", 4), ("s:17", 4)):
        assert (await find(world.journal, handle)).seq == seq, handle


async def test_a_number_is_a_sequence_number_first(world: World) -> None:
    await world.journal.append([event("2"), event("1")])
    assert (await find(world.journal, "2")).seq == 2
    assert (await find(world.journal, "s:2")).seq == 1


@pytest.mark.parametrize("handle", ["z", "x:a", "s:", ":a", "", "99", "0", "99999999999999999999999", "²"])
async def test_what_is_not_there_says_what_was_looked_at(world: World, handle: str) -> None:
    await world.journal.append([event("a")])
    with pytest.raises(NotFound, match=r"no event is called .*the events 1 to 1 were looked at"):
        await find(world.journal, handle)


async def test_several_that_fit_are_listed(world: World) -> None:
    await world.journal.append([event("a"), event("a", source="x"), event("a", n=2)])
    with pytest.raises(NotFound, match=r"3 \(s:a, t, .*\), 2 \(x:a, .*\), 1 \(s:a.*give the number of one"):
        await find(world.journal, "a")
    with pytest.raises(NotFound, match=r": 3 \(.*\), 1 \("):
        await find(world.journal, "s:a")
    assert (await find(world.journal, "x:a")).seq == 2


async def test_an_event_that_was_trimmed_says_so(world: World) -> None:
    await world.journal.append([event(f"e{n}") for n in range(9)])
    world.journal.trim(4)
    with pytest.raises(NotFound, match="event 3 is no longer held; the oldest that is has the number 5"):
        await find(world.journal, "3")


async def test_the_search_for_an_id_is_bounded_and_says_so(world: World) -> None:
    await world.journal.append([event("old"), *(event(f"e{n}") for n in range(100))])
    assert (await find(world.journal, "e1", 100)).seq == 3
    with pytest.raises(NotFound, match="the events 2 to 101 were looked at; there are older ones, from 1"):
        await find(world.journal, "old", 100)


async def test_an_id_with_a_time_in_it_is_looked_for_at_that_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_id = uuid7()
    await world.journal.append([event(made_id), *(event(f"e{n}") for n in range(9_000))])
    monkeypatch.setattr(search, "SEARCHED", 10)
    assert (await find(world.journal, made_id, 10)).seq == 1
    assert (await find(world.journal, f"s:{made_id}", 10)).seq == 1
    with pytest.raises(NotFound):
        await find(world.journal, f"x:{made_id}", 10)


# What rules made of it


async def test_each_rule_that_looked_tells_what_it_did_or_what_stopped_it(world: World) -> None:
    rules = made(
        {"name": "done", "on": "t", "do": [CALL, {"log": "much", "if": "payload.n > 100"}]},
        {"name": "pattern", "on": "t", "match": {"payload": {"n": [5]}}, "do": CALL},
        {"name": "when", "on": "t", "when": "payload.n > 10", "do": CALL},
        {"name": "broken", "on": "t", "when": "payload.m > 10", "do": CALL},
        {"name": "other", "on": "door.opened", "do": CALL},
        {"name": "off", "on": "t", "enabled": False, "do": CALL},
    )
    await world.run(rules, [event("a", n=3)])
    explanation = await world.explain("a", rules)
    assert told(explanation) == {
        "done": ("delivered", True, ""),
        "pattern": ("nothing", False, ""),
        "when": ("nothing", False, ""),
        "broken": ("nothing", False, ""),
        "off": ("nothing", False, ""),
    }
    assert explanation.others == 1
    text = "\n".join(shown(explanation))
    assert "do[0] tool: done at" in text
    assert "do[1] log: skipped by its if" in text
    assert "match.payload.n: wants [5]; payload.n is 3" in text
    assert "when: payload.n > 10 is false; payload.n is 3" in text
    assert "payload.m is not there" in text
    assert "the rule is disabled" in text
    assert "1 other rules do not match" in text


async def test_attempts_errors_and_the_dead_letter_are_told(world: World) -> None:
    world.fails = 3
    rules = made({"name": "r", "on": "t", "do": CALL})
    await world.run(rules, [event("a"), event("b")])
    first, second = [(await world.explain(handle, rules)).rules[0] for handle in ("a", "b")]
    assert (first.became, first.letter is not None, len(first.told["steps"][0]["failures"])) == ("failed", True, 2)
    assert (second.became, second.letter, len(second.told["steps"][0]["failures"])) == ("delivered", None, 1)
    lines = "\n".join(shown(await world.explain("a", rules)))
    assert "attempt 2 at" in lines
    assert "dead letter 1 of" in lines
    assert lines.count("the far end is down") == 3
    assert ", attempt 2" in "\n".join(shown(await world.explain("b", rules)))


@pytest.mark.parametrize("tracing", list(Tracing))
async def test_what_shaping_did_is_told_whether_it_was_recorded_or_not(world: World, tracing: Tracing) -> None:
    rules = made(
        {"name": "throttle", "on": "t", "throttle": {"per": "1h"}, "do": CALL},
        {"name": "batch", "on": "t", "batch": {"within": "1h", "max": 2}, "do": CALL},
        {"name": "debounce", "on": "t", "debounce": {"for": "1h"}, "do": CALL},
        {"name": "absence", "on": "t", "absence": {"of": "ok", "within": "1h"}, "do": CALL},
    )
    await world.run(rules, [event("a"), event("b"), event("ok", "ok"), event("c")], tracing)
    became = {
        handle: {name: one[0] for name, one in told(await world.explain(handle, rules)).items()}
        for handle in ("a", "b", "c")
    }
    ran = "delivered" if tracing is Tracing.ALL else "unknown"
    assert became == {
        "a": {"throttle": ran, "batch": ran, "debounce": "suppressed", "absence": "suppressed"},
        "b": {"throttle": "suppressed", "batch": ran, "debounce": "suppressed", "absence": "suppressed"},
        "c": {"throttle": "suppressed", "batch": "held", "debounce": "held", "absence": "held"},
    }
    whys = {name: one[2] for name, one in told(await world.explain("a", rules)).items()}
    assert whys["debounce"] == "a later event with its key came before there was quiet"
    assert whys["absence"] == "what would have been absent came"
    assert (await world.explain("a", rules)).rules[1].run == 2
    (answer,) = [one for one in (await world.explain("ok", rules)).rules if one.trial.answers]
    assert (answer.trial.rule, answer.became) == ("absence", "nothing")


async def test_what_is_owed_is_told_from_where_the_rules_are(world: World) -> None:
    rules = made(*({"name": name, "on": "t", "do": CALL} for name in ("row", "lags", "there", "done")))
    await world.journal.append([event(f"e{n}") for n in range(1, 10)])
    await world.journal.save(
        Change(
            low=5, pending=[Pending("row", 3, (3,), 0)],
            positions=[Position("lags", 2, lags=True), Position("there", 8)],
        )
    )  # fmt: skip
    became = {n: {name: one[0] for name, one in told(await world.explain(f"e{n}", rules)).items()} for n in (2, 3, 8)}
    assert became == {
        2: {"row": "unknown", "lags": "unknown", "there": "unknown", "done": "unknown"},
        3: {"row": "owed", "lags": "unseen", "there": "unknown", "done": "unknown"},
        8: {"row": "owed", "lags": "unseen", "there": "unknown", "done": "owed"},
    }


async def test_what_a_rule_did_before_it_was_edited_or_removed_is_told_as_it_was(world: World) -> None:
    do = {"name": "r", "on": "t", "do": CALL}
    await world.run(made(do, {**do, "name": "gone"}), [event("a", n=1)])
    edited = made({**do, "match": {"payload": {"n": [2]}}})
    explanation = await world.explain("a", edited)
    edit, gone = explanation.rules
    assert (edit.became, edit.contradicts, edit.trial.fate) == ("delivered", True, Fate.NO_MATCH)
    assert (gone.trial.rule, gone.trial.fate, gone.became) == ("gone", Fate.GONE, "delivered")
    text = "\n".join(shown(explanation))
    assert "the rule as it is now would not match: it was edited since" in text
    assert "there is no such rule any more" in text


async def test_a_file_that_was_changed_since_is_told(world: World, tmp_path: Path) -> None:
    await world.journal.append([event("a")])
    rules, file = made({"name": "r", "on": "t", "do": CALL}), tmp_path / "config.jsonc"
    file.write_text("{}")
    os.utime(file, (1, 1))
    assert not (await world.explain("a", rules, root=tmp_path)).rules[0].file_changed
    os.utime(file, (4e9, 4e9))
    assert (await world.explain("a", rules, root=tmp_path)).rules[0].file_changed


async def test_of_many_rules_those_that_match_are_told_and_the_others_counted(world: World) -> None:
    rules = made({"name": "r", "on": "t", "do": CALL},
                 *({"name": f"x{n}", "on": "t", "when": "payload.n > 1", "do": CALL} for n in range(30)))  # fmt: skip
    await world.run(rules, [event("a", n=5), event("b", n=0)])
    assert len((await world.explain("a", rules)).rules) == 31
    explanation = await world.explain("b", made(*({"name": f"y{n}", "on": "u", "do": CALL} for n in range(30))))
    assert (list(told(explanation)), explanation.others) == (["r"], 30)
    explanation = await world.explain("a", made(*({"name": f"y{n}", "on": "u", "do": CALL} for n in range(30))),
                                      every=True)  # fmt: skip
    assert len([one for one in explanation.rules if one.trial.fate is Fate.NO_MATCH]) == 30
    assert list(told(await world.explain("a", rules, only="x3"))) == ["x3"]


async def test_a_run_of_many_events_is_told_with_each_of_them(world: World) -> None:
    world.fails = 2
    rules = made({"name": "r", "on": "t", "batch": {"within": "1h", "max": 3}, "do": CALL})
    await world.run(rules, [event("a"), event("b"), event("c")], Tracing.FAILURES)
    for handle in ("a", "b", "c"):
        (story,) = (await world.explain(handle, rules)).rules
        assert (story.became, story.run, story.told["events"]) == ("failed", 3, 3)
        assert story.letter is not None
    world.fails = 2
    await world.run(rules, [event("d"), event("e"), event("f")], Tracing.OFF)
    (story,) = (await world.explain("e", rules)).rules
    assert (story.became, story.run, story.letter is not None) == (
        "failed",
        7,
        True,
    )  # the first failure is an event of its own


# Where it came from, and what came of it


async def test_what_it_caused_is_a_tree_and_what_caused_it_a_chain(world: World) -> None:
    rules = made(
        {"name": "one", "on": "a", "do": [{"emit": "b"}, {"emit": "c"}]},
        {"name": "two", "on": "b", "do": {"emit": "d"}},
    )
    await world.run(rules, [event("x"), event("root", "a"), event("y")])
    explanation = await world.explain("root", rules)

    def tree(caused: Sequence[Any]) -> dict[str, Any]:
        return {one.entry.event.type: tree(one.caused) for one in caused}

    assert tree(explanation.caused) == {"b": {"d": {}}, "c": {}}
    assert not explanation.cut
    entries = await world.journal.read(0, 100)
    (leaf,) = [entry for entry in entries if entry.event.type == "d"]
    assert [one.event.type for one in (await world.explain(str(leaf.seq), rules)).causes] == ["b", "a"]
    text = shown(explanation)
    assert any("by rule two" in line and line.startswith("        #") for line in text)


async def test_the_search_for_what_it_caused_is_bounded_and_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    cause = Entry(1, 1000, event("a"))
    effects = [caused_event("b", {}, cause=cause, rule="r", place=str(n)) for n in range(20)]
    await world.journal.append([event("a"), *effects, event("z")])
    monkeypatch.setattr(room, "CAUSED_SEARCHED", 10)
    explanation = await world.explain("a", made())
    assert (len(explanation.caused), explanation.searched_to, explanation.cut) == (10, 11, True)
    monkeypatch.setattr(room, "CAUSED_SEARCHED", 1000)
    monkeypatch.setattr(room, "CAUSED_TOLD", 5)
    explanation = await world.explain("a", made())
    assert (len(explanation.caused), explanation.searched_to, explanation.cut) == (5, 6, True)
    assert "there may be more" in "\n".join(shown(explanation))


async def test_causes_that_a_source_makes_up_do_no_harm(world: World) -> None:
    def forged(number: str, cause: object) -> EnvEvent:
        return EnvEvent(number, "t", 1000, {"source_name": "s", "causation_id": cause}, {})

    await world.journal.append([forged("a", "s:b"), forged("b", "s:a"), forged("c", "s:c"), forged("d", 5)])
    await world.journal.append([forged("e", ["s:a"])])
    for handle in "abcde":
        explanation = await world.explain(handle, made())
        assert explanation.causes == []
        assert shown(explanation)


# What was said


async def test_what_the_host_added_is_told(world: World) -> None:
    profile = SourceProfile("s", metadata={"room": "cellar"})
    bare, full = normalize(RawEvent("t"), profile), normalize(RawEvent("t", "7", 5, {"room": "attic"}), profile)
    await world.journal.append([bare, full, event(uuid7())])
    first, second, third = [await world.explain(handle, made()) for handle in ("1", "2", "3")]
    assert first.normalized == {
        "metadata": {"source_name": "s", "source": "s", "room": "cellar"}, "id": "made", "timestamp": "made",
    }  # fmt: skip
    assert second.normalized == {"metadata": {"source_name": "s", "source": "s"}, "id": "given", "timestamp": "given"}
    assert third.normalized == {"metadata": {"source_name": "s"}, "id": "given", "timestamp": "given"}
    assert "metadata.source_name, metadata.room, metadata.source, id, timestamp by the host" in "\n".join(shown(first))


EMITTED, MESSAGE = "notifications/eventsource/emitted", "notifications/message"
FULL: dict[str, Any] = {"type": "t", "id": "a", "timestamp": 5, "metadata": {"source": "x"}, "payload": {"n": 1}}
LOOKS_MADE = normalize(RawEvent("t"), SourceProfile("s")).id

COMPUTED: list[dict[str, Any]] = [
    FULL,
    {**FULL, "metadata": {"room": 1, "source": "s"}},
    {**FULL, "metadata": {"room": 1}},
    {**FULL, "metadata": {"configured": "otherwise"}},
    {"type": "t"},
    {"type": "t", "payload": {"n": 1}},
    {"type": "t", "timestamp": 5},
    {"type": "t", "metadata": {"room": 1}},
    {"type": "t", "id": "a", "timestamp": 5},
    {"type": "t", "id": LOOKS_MADE, "timestamp": 5, "metadata": {"source": "s"}},
]
RECORDED: list[dict[str, Any]] = [
    {"type": "t", "payload": "text"},
    {"type": "t", "payload": [1]},
    {"type": "t", "payload": False},
    {"type": "t", "timestamp": "2026-11-20T08:00:00Z"},
    {"type": "t", "timestamp": 5.75},
    {"type": "t", "id": 7},
    {"type": "t", "id": ""},
    {"type": "t", "id": "a"},
    {"type": "t", "metadata": {"source": "x"}},
    {"type": "t", "colour": "red"},
    {"type": "t", "more": 1, "envelope": {"a": 1}},
    {**FULL, "colour": "red"},
    {**FULL, "id": LOOKS_MADE, "metadata": {}},
    {**FULL, "metadata": {"source_name": "bank", "room": 1}},
    {**FULL, "metadata": {"source_name": "s"}},
    {"type": "t", "metadata": {"source_name": {"a": 1}}},
]


class Sent:
    """A source whose lines go the whole way to a journal, and what `explain` says of each."""

    def __init__(self, world: World, **metadata: Any) -> None:
        self.world, self.profile = world, SourceProfile("s", metadata=metadata)

    async def send(self, *messages: dict[str, Any]) -> list[dict[str, Any]]:
        """What `explain` tells of the `raw` of each."""
        block = b"".join(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n" for message in messages)
        inbound = Inbound(self, SourceLog("s"), lambda: None)
        async with inbound.running():
            await inbound.take_block(block, self._forward)
        last = self.world.journal.head
        told = [await self.world.explain(str(seq), made()) for seq in range(last - len(messages) + 1, last + 1)]
        return [one.to_json()["raw"] for one in told if shown(one)]

    async def _forward(self, message: Any) -> None:
        raise AssertionError(f"no event: {message}")

    async def accept(self, batch: Batch) -> None:
        normalized = normalize_batch(batch.events, self.profile, batch.at_most_bytes)
        assert not normalized.refused
        first = await self.world.journal.append(normalized.events)
        numbers = {id(one): seq for seq, one in enumerate(normalized.events, first)}
        messages = [(numbers[id(one)], message) for one, message in normalized.altered]
        if messages:
            await record(self.world.journal, messages)

    def reject(self, reason: str, event: Any = None) -> None:
        raise AssertionError(reason)

    def resource_updated(self, uri: str) -> None: ...


def emitted(said: dict[str, Any], **around: Any) -> dict[str, Any]:
    return {"method": EMITTED, "params": {"level": "info", "data": said} | around}


CONFIGURED: list[dict[str, Any]] = [{}, {"configured": 1}, {"source": "hall", "source_name": "x"}]


@pytest.mark.parametrize("metadata", CONFIGURED)
async def test_raw_is_what_was_sent(world: World, metadata: dict[str, Any]) -> None:
    sent = Sent(world, **metadata)
    for said, recorded in [(said, False) for said in COMPUTED] + [(said, True) for said in RECORDED]:
        for message in (emitted(said), {"method": "eventsource/event", "params": said},
                        {"method": MESSAGE, "params": {"level": "info", "data": said}}):  # fmt: skip
            assert await sent.send(message) == [{"message": said, "recorded": recorded, "cut": False}], said
    alike = [emitted(said) for said in COMPUTED + RECORDED]
    assert [raw["message"] for raw in await sent.send(*alike)] == COMPUTED + RECORDED


async def test_what_came_around_an_event_is_told_where_it_says_something(world: World) -> None:
    for message, envelope in (
        (emitted(FULL, level="warning"), {"method": EMITTED, "level": "warning"}),
        (emitted(FULL, _meta={"k": 1}), {"method": EMITTED, "_meta": {"k": 1}}),
        ({"method": MESSAGE, "params": {"level": "error", "logger": "lock", "data": FULL}},
         {"method": MESSAGE, "level": "error", "logger": "lock"}),
    ):  # fmt: skip
        [raw] = await Sent(world).send(message)
        assert raw == {"message": FULL, "recorded": True, "cut": False, "envelope": envelope}
    assert 'in {"method": "notifications/message", "level": "error", "logger": "lock"}' in "\n".join(
        shown(await world.explain(str(world.journal.head), made()))
    )


async def test_what_is_recorded_of_a_long_message_is_cut_and_says_so(world: World) -> None:
    said = {"type": "t", "payload": "é" * 5000}
    [raw] = await Sent(world).send(emitted(said, logger="x" * 5000))
    text = json.dumps(said, ensure_ascii=False, separators=(",", ":"))
    assert (raw["recorded"], raw["cut"]) == (True, True)
    assert text.startswith(raw["message"])
    assert MOST_BYTES - 1 <= len(raw["message"].encode()) <= MOST_BYTES
    assert len(json.dumps(raw["envelope"])) < 1000
    explanation = await world.explain("1", made())
    assert (explanation.normalized["id"], explanation.normalized["timestamp"]) == ("made", "made")
    assert any(line.startswith("    raw (recorded, cut) {") for line in shown(explanation))


async def test_what_was_normalized_is_told_by_what_was_recorded(world: World) -> None:
    await Sent(world).send(emitted({"type": "t", "id": "a", "metadata": {"room": 1, "source_name": "bank"}}))
    told = (await world.explain("1", made())).normalized
    assert told == {"metadata": {"source_name": "s", "source": "s"}, "id": "given", "timestamp": "made"}


async def test_what_rules_and_the_host_publish_nobody_sent(world: World) -> None:
    await world.journal.append([event("a")])
    [cause] = await world.journal.read(0, 1)
    await world.journal.append([caused_event("b", {}, cause=cause, rule="r", place="0"), event("b", source="host")])
    for handle in ("2", "3"):
        explanation = await world.explain(handle, made())
        assert explanation.to_json()["raw"] is None
        assert not any(line.startswith("    raw") for line in shown(explanation))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip
json_objects = st.dictionaries(st.sampled_from(["source", "source_name", "room", "a"]), json_values, max_size=3)
anything_said = st.fixed_dictionaries(
    {"type": st.sampled_from(["t", "u"])},
    optional={
        "id": json_values | st.sampled_from(["a", "", LOOKS_MADE]),
        "timestamp": json_values | st.sampled_from([5, 7.5, "2026-11-20T08:00:00Z"]),
        "metadata": json_objects | json_values,
        "payload": json_objects | json_values,
        "colour": json_values,
        "more": json_values,
    },
)


@given(st.lists(anything_said, min_size=1, max_size=4), json_objects, st.booleans())
def test_what_was_said_is_given_back_or_recorded(
    said: list[dict[str, Any]], configured: dict[str, Any], in_full: bool
) -> None:
    if in_full:
        said = [{"id": "a", "timestamp": 5, "metadata": {}, "payload": {}} | one for one in said]
    raws: list[RawEvent | EnvEvent] = []
    for one in said:
        text = msgspec.json.encode(one)
        try:
            raws.append(msgspec.json.decode(text, type=EnvEvent))
        except msgspec.ValidationError:
            raws.append(RawEvent.from_value(msgspec.json.decode(text)))
    normalized = normalize_batch(raws, SourceProfile("s", metadata=configured), 100)
    refused = {id(raw) for raw, _ in normalized.refused}
    accepted = [one for one, raw in zip(said, raws, strict=True) if id(raw) not in refused]
    told = {id(one): message.said for one, message in normalized.altered}
    for one, became in zip(accepted, normalized.events, strict=True):
        kept = EnvEvent.from_json(became.to_json())  # as it is had from a journal
        given = told.get(id(became), given_back(kept).said)
        assert plain(given) == plain(one)


def plain(said: Mapping[str, Any]) -> dict[str, Any]:
    """Without what says nothing: null, and empty `metadata` and `payload`."""
    nothing = {"metadata": {}, "payload": {}}
    told = {key: value for key, value in said.items() if value is not None and nothing.get(key) != value}
    return msgspec.json.decode(msgspec.json.encode(told))


async def test_an_id_that_was_used_before_is_told(world: World) -> None:
    await world.journal.append([event("a"), event("a", source="x"), event("a", n=1)])
    assert [(await world.explain(handle, made())).duplicate for handle in ("1", "2", "3")] == [
        {"verdict": "new"}, {"verdict": "new"}, {"verdict": "id used again", "before": 1},
    ]  # fmt: skip


async def test_what_a_source_says_cannot_steer_a_terminal(world: World) -> None:
    await world.journal.append([EnvEvent("\x1b[2J", "t\x1b[1m\n", 1, {"source_name": "s\x1b", "k\n": "\x1b"}, {})])
    assert not any(c in line for line in shown(await world.explain("1", made())) for c in "\x1b\n")


# From the file, from the host, and from the command line


async def test_the_file_tells_what_the_journal_tells(tmp_path: Path) -> None:
    world, path = World(tmp_path), tmp_path / "journal.db"
    world.fails = 3
    world.journal, _ = await open_journal(path)  # type: ignore[assignment]
    rules = made({"name": "r", "on": "t", "do": [CALL, {"emit": "b"}]},
                 {"name": "batch", "on": "t", "batch": {"within": "1h", "max": 2}, "do": CALL})  # fmt: skip
    await world.run(rules, [event("a"), *(event(f"e{n}", "u") for n in range(1500)), event("z")])
    before = [(await world.explain(handle, rules)).to_json() for handle in ("a", "z", "1200")]
    with JournalFile(path) as file:  # beside the one who writes it
        assert [(await explain(file, handle, rules)).to_json() for handle in ("a", "z", "1200")] == before
        held = await world.journal.read(0, 5000)
        assert list(await file.read(0, 5000)) == list(held)
        assert await file.read(700, 3) == list(held[700:703])
        assert await file.entries([5, 1100, 99_999]) == [held[4], held[1099]]
        middle = held[800].at_ms
        assert await file.seq_at(middle) == await world.journal.seq_at(middle)
        assert await file.seq_at(held[-1].at_ms + 1) == file.head + 1
    await world.journal.aclose()
    with JournalFile(path) as file:
        assert [(await explain(file, handle, rules)).to_json() for handle in ("a", "z", "1200")] == before


def test_what_is_no_journal_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(JournalUnusable, match="is not there: nothing was kept yet"):
        JournalFile(tmp_path / "journal.db")
    (tmp_path / "journal.db").write_bytes(b"x" * 5000)
    with pytest.raises(JournalUnusable, match="cannot be read"):
        JournalFile(tmp_path / "journal.db")


def write_environment(root: Path, **journal: Any) -> None:
    rules = [
        {"name": "greet", "on": "door.opened",
         "do": [{"webhook": "http://127.0.0.1:9/${env:EVENTHOST_TEST_SECRET}", "retry": {"attempts": 1}}]},
        {"name": "alarm", "on": "door.opened", "do": {"emit": "door.alarm"}},
    ]  # fmt: skip
    config = {"id": "test", "http": {"enabled": False}, "journal": journal, "rules": rules}
    (root / "config.jsonc").write_text(json.dumps(config))


async def test_a_host_answers_over_http_and_its_files_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTHOST_TEST_SECRET", "s3cr3t")
    write_environment(tmp_path, trace="all")
    async with ServerEnvironment.from_path(tmp_path) as environment:
        _, seq = await environment.publish_event({"type": "door.opened", "id": "a/b c"}, source="door")
        with anyio.fail_after(LIMIT_S):
            await environment.drain(LIMIT_S)
        transport = httpx2.ASGITransport(app=Guard(create_app(environment), port=8001))
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8001") as http:
            answer = await http.get("/events/door%3Aa%2Fb%20c/explain")
            assert answer.status_code == 200
            by_number = (await http.get(f"/events/{seq}/explain")).json()
            assert by_number == answer.json()
            assert [one["rule"] for one in (await http.get("/events/1/explain?rule=alarm")).json()["rules"]] == [
                "alarm"
            ]
            missing = await http.get("/events/nope/explain")
            assert (missing.status_code, "no event is called" in missing.text) == (404, True)
            lines = [json.loads(line) for line in (await http.post("/replay", json={})).text.splitlines()]
            assert [line.get("rule") for line in lines] == ["greet", "alarm", None]
            assert environment.bus.journal.head == by_number["caused"][-1]["seq"]
            head = environment.bus.journal.head
            request = {"since": "1", "rules": ["alarm"], "execute": True}
            lines = [json.loads(line) for line in (await http.post("/replay", json=request)).text.splitlines()]
            assert [line.get("end") for line in lines] == ["delivered", None]
            assert environment.bus.journal.head == head + 1
            wrongs: list[Any] = [
                {"execute": True},
                {"since": "x"},
                {"sinse": "1"},
                {"speed": -1},
                [],
                {"rules": ["no"]},
            ]
            for wrong in wrongs:
                assert (await http.post("/replay", json=wrong)).status_code in (400, 404), wrong
    stories = {one["rule"]: one for one in by_number["rules"]}
    assert (stories["greet"]["became"], stories["alarm"]["became"]) == ("failed", "delivered")
    assert [one["type"] for one in by_number["caused"]] == ["door.alarm", "host.dead_letter"]
    offline = await anyio.to_thread.run_sync(
        lambda: CliRunner().invoke(app, ["explain", "1", "--json", "--env", str(tmp_path)])
    )
    assert offline.exit_code == 0, offline.output
    found = json.loads(offline.stdout)
    assert found["rules"] == by_number["rules"]
    assert len(found["caused"]) == 3  # that of the replay, too
    everything = [json.dumps(by_number), offline.output, json.dumps(lines)]
    everything += [CliRunner().invoke(app, [*verb, "--env", str(tmp_path)]).output
                   for verb in (["explain", "1"], ["replay"], ["rule", "diff"])]  # fmt: skip
    assert not any("s3cr3t" in text for text in everything)
    assert "EVENTHOST_TEST_SECRET" in everything[-2]


@pytest.mark.parametrize("trace", ["all", "failures", "off"])
async def test_what_is_posted_is_recorded_unless_nothing_is_to_be(tmp_path: Path, trace: str) -> None:
    write_environment(tmp_path, trace=trace)
    said = {"type": "bell", "payload": ["two", "times"]}
    async with ServerEnvironment.from_path(tmp_path) as environment:
        transport = httpx2.ASGITransport(app=Guard(create_app(environment), port=8001))
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8001") as http:
            seq = (await http.post("/events", json=said)).json()["seq"]
            raw = (await http.get(f"/events/{seq}/explain")).json()["raw"]
    if trace == "off":
        assert raw == {
            "message": {"type": "bell", "payload": {"value": ["two", "times"]}},
            "recorded": False,
            "cut": False,
        }
    else:
        assert raw == {"message": said, "recorded": True, "cut": False}
    offline = await anyio.to_thread.run_sync(
        lambda: CliRunner().invoke(app, ["explain", str(seq), "--json", "--env", str(tmp_path)])
    )
    assert json.loads(offline.stdout)["raw"] == raw
