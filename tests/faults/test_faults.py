"""What else may go wrong: a disk that is full, a clock that jumps, an endpoint that comes and goes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation import Simulation

from eventhost.actions import Hands
from eventhost.actions import parse as actions
from eventhost.actions.step import Retry
from eventhost.bus import EnvEventBus
from eventhost.config.tree import Tree
from eventhost.event import EnvEvent
from eventhost.journal import MemoryJournal, open_journal
from eventhost.rules import Limits, RuleEngine, Tracing, parse_rules

LIMIT_S = 60
"""Never reached unless something is broken."""


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("not to be used here")


async def _empty() -> AsyncIterator[bytes]:
    yield b""


class Endpoint:
    """What webhooks call. It answers as `answers` says, one after the other, and then well."""

    def __init__(self, answers: Iterator[int | type[Exception]]) -> None:
        self.answers = answers
        self.came: list[int] = []
        self.refused = 0

    def client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(transport=httpx2.MockTransport(self._answer))

    async def _answer(self, request: httpx2.Request) -> httpx2.Response:
        answer = next(self.answers, 200)
        if isinstance(answer, int) and answer < 300:
            self.came.append(json.loads(request.content)["seq"])
            return httpx2.Response(answer, content=_empty())
        self.refused += 1
        if isinstance(answer, int):
            return httpx2.Response(answer, content=_empty())
        raise answer("it is not there")

    def rule(self, **more: Any) -> dict[str, Any]:
        do = {"webhook": "http://there.test/", "body": {"seq": "{{ payload.n }}"}}
        return {"name": "a", "on": "t", "do": do, **more}


def engine(bus: EnvEventBus, endpoint: Endpoint, **limits: Any) -> RuleEngine:
    hands = Hands(bus.publish, never, never, endpoint.client(), Path(), {}, never)
    return RuleEngine(bus, hands, limits=Limits(**limits), tracing=Tracing.OFF)


def rules(*values: dict[str, Any]) -> Any:
    return parse_rules(Tree.parse(json.dumps({"rules": values}), "config.jsonc").at("rules"))


def event(n: int, text: str = "") -> EnvEvent:
    return EnvEvent(str(n), "t", 0, {"source_name": "s"}, {"n": n, "text": text})


FLAPS = st.lists(st.sampled_from([200, 500, 503, 429, 408, httpx2.ConnectError, httpx2.ReadTimeout]), max_size=40)


@pytest.mark.parametrize("concurrency", [1, 4])
@given(answers=FLAPS)
@settings(max_examples=40, deadline=None)
def test_an_endpoint_that_comes_and_goes_gets_everything(concurrency: int, answers: list[Any]) -> None:
    endpoint = Endpoint(iter(answers))

    async def main() -> None:
        async with EnvEventBus(MemoryJournal()) as bus:
            one = engine(bus, endpoint, queue=4, retry=Retry(attempts=100, delay_s=0, max_delay_s=0))
            await one.update(rules(endpoint.rule(concurrency=concurrency)))
            async with one:
                for n in range(20):
                    await bus.publish(event(n))
                assert await one.drain(LIMIT_S)
                (statistics,) = one.statistics()
                assert (statistics.delivered, statistics.failed) == (20, 0)

    anyio.run(main)
    assert (endpoint.came if concurrency == 1 else sorted(endpoint.came)) == list(range(20))
    assert endpoint.refused == sum(answer != 200 for answer in answers[: 20 + endpoint.refused])


@pytest.mark.anyio
async def test_a_full_disk_makes_everybody_wait_and_nothing_is_lost_or_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventhost.journal.writer._PAUSE_S", 0.01)
    journal, _ = await open_journal(tmp_path / "journal.db", "normal")
    endpoint = Endpoint(iter(()))
    accepted: list[int] = []

    async def publish(bus: EnvEventBus, number: int) -> None:
        for n in range(number * 100, number * 100 + 20):
            await bus.publish(event(n, "x" * 5_000))
            accepted.append(n)

    async with EnvEventBus(journal) as bus:
        one = engine(bus, endpoint)
        await one.update(rules(endpoint.rule()))
        with anyio.fail_after(LIMIT_S):
            async with one, anyio.create_task_group() as tasks:
                journal._writer._database.execute("PRAGMA max_page_count = 200").fetchall()
                for number in range(10):
                    tasks.start_soon(publish, bus, number)
                while journal.statistics().stalled is None:
                    await anyio.sleep(0.01)
                so_many = len(accepted)
                assert so_many < 200
                journal._writer._database.execute("PRAGMA max_page_count = 1000000").fetchall()
                while len(accepted) < 200:
                    await anyio.sleep(0.01)
                assert await one.drain(LIMIT_S)
        assert sorted(endpoint.came) == sorted(accepted)
    await journal.aclose()
    journal, loss = await open_journal(tmp_path / "journal.db", "normal")
    assert loss is None
    async with EnvEventBus(journal) as bus:
        two = engine(bus, endpoint)
        await two.update(rules(endpoint.rule()))
        async with two:
            assert await two.drain(LIMIT_S)
    assert len(endpoint.came) == 200, "what was done is done"
    await journal.aclose()


DAY_S = 86_400


@pytest.mark.parametrize(
    "shaping",
    [
        {"debounce": {"for": "5s"}},
        {"batch": {"within": "5s", "max": 3}},
        {"throttle": {"limit": 2, "per": "5s"}},
        {"dedupe": {"key": "{{ type }}", "within": "5s"}},
    ],
)
@given(
    steps=st.lists(
        st.one_of(
            st.just(("publish", 0)),
            st.tuples(st.just("wait"), st.sampled_from([1, 6])),
            st.tuples(st.just("jump"), st.sampled_from([-400 * DAY_S, -DAY_S, -1, 1, DAY_S, 400 * DAY_S])),
            st.just(("restart", 0)),
        ),
        max_size=25,
    )
)
@settings(max_examples=50, deadline=None)
def test_a_clock_that_jumps_loses_and_doubles_nothing(shaping: dict[str, Any], steps: list[tuple[str, int]]) -> None:
    sim = Simulation()
    begun: Counter[int] = Counter()
    sim.on_begin = lambda attempt: (begun.update(attempt.seqs), attempt.finish())[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(actions.KINDS, "gate", sim.kind)
        sim.start({"name": "a", "do": {"gate": "a"}, **shaping})
        for what, seconds in steps:
            match what:
                case "publish":
                    sim.publish()
                case "wait":
                    sim.advance(seconds)
                case "jump":
                    sim.wall_offset_ms += seconds * 1000
                case "restart":
                    sim.stop()
                    sim.start()
        # Nothing waits for the clock to come to where it once was, unless that is what is left to wait for.
        sim.wall_offset_ms = max(sim.wall_offset_ms, sim.disk.at_ms)
        sim.advance(120)
        sim.stop()
        head = sim.disk.head
        told = {seq: json.loads(trace.body) for (seq, _), trace in sim.disk.traces.items()}
        sim.close()
    times = [entry.at_ms for entry in sim.disk.entries]
    assert times == sorted(times)
    for seq in range(1, head + 1):
        said = told[seq]
        ran = "end" in said or "run" in said
        assert begun[seq] == int(ran), f"{seq}: {said}"
        assert ran or said["verdict"] in ("superseded", "throttled", "duplicate"), f"{seq}: {said}"
