"""One run of a rule: what is done in which order, what is tried again, and what is told of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from structlog.testing import capture_logs

from eventhost.actions import Context, Hands, parse_actions
from eventhost.actions.parse import KINDS, Kind
from eventhost.actions.result import MAX_RESULT_BYTES
from eventhost.actions.step import Retry
from eventhost.config.tree import Tree
from eventhost.errors import ActionError, ConfigError
from eventhost.event import EnvEvent
from eventhost.journal import Entry
from eventhost.rules import parse_rules
from eventhost.rules.delivery import Delivery, End, Outcome
from eventhost.rules.run import Run

pytestmark = pytest.mark.anyio

LIMIT_S = 20
"""Never reached unless something is broken."""

BORN_MS = 1_000_000


class FakeSpec(BaseModel):
    fake: str
    gives: Any = None


@dataclass(frozen=True)
class Fake:
    """An action that does what `far` says."""

    name: str
    gives: Any
    far: Far
    kind: str = "fake"

    async def run(self, entry: Entry, context: Context) -> Any:
        self.far.seen.append((self.name, context))
        answer = self.far.answers.get(self.name, [])
        first = answer.pop(0) if answer else None
        if isinstance(first, Exception):
            raise first
        if callable(first):
            return await first()
        return self.gives if first is None else first

    def describe(self, entry: Entry, values: Mapping[str, Any]) -> dict[str, Any]:
        raise AssertionError


@dataclass
class Far:
    """What actions reach, what time it is, and what happened."""

    root: Path
    answers: dict[str, list[Any]] = field(default_factory=dict)
    seen: list[tuple[str, Context]] = field(default_factory=list)
    now_ms: int = BORN_MS
    pauses: list[float] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.seen]

    async def pause(self, pause_s: float) -> None:
        self.pauses.append(pause_s)
        self.now_ms += round(pause_s * 1000)

    async def deliver(
        self, do: Any, *, entries: Sequence[Entry] = (), retry: Retry | None = None, **more: Any
    ) -> Outcome:
        steps = parse_actions(Tree.parse(json.dumps(do), "config.jsonc"), ("events",))
        run = Run(tuple(entries) or (entry(1),), BORN_MS)
        delivery = Delivery(
            "greet", tuple(steps), self.hands(), retry or Retry(), **more,
            wall_ms=lambda: self.now_ms, pause=self.pause,
        )  # fmt: skip
        with anyio.fail_after(LIMIT_S):
            return await delivery.deliver(run)

    def hands(self) -> Hands:
        def never(*_: Any, **__: Any) -> Any:
            raise AssertionError

        http = httpx2.AsyncClient(transport=httpx2.MockTransport(never))
        return Hands(never, never, never, http, self.root, {}, never)


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Far:
    far = Far(tmp_path)

    def parse(tree: Tree, names: Sequence[str]) -> Fake:
        return Fake(tree.value["fake"], tree.value.get("gives"), far)

    monkeypatch.setitem(KINDS, "fake", Kind(FakeSpec, parse))
    return far


def entry(seq: int, **payload: Any) -> Entry:
    return Entry(seq, BORN_MS, EnvEvent(str(seq), "t", BORN_MS, {"source_name": "s"}, payload))


def fake(name: str, **more: Any) -> dict[str, Any]:
    return {"fake": name, **more}


def steps_of(outcome: Outcome) -> list[tuple[str, int, str | None]]:
    return [(step.place, step.attempts, step.error) for step in outcome.steps]


GONE = ActionError("gone")
HOPELESS = ActionError("no good", retry=False)


async def logged(far: Far, do: Any, **more: Any) -> tuple[list[str], Outcome]:
    """The texts that `log` actions write, and the outcome."""
    with capture_logs() as lines:
        outcome = await far.deliver(do, **more)
    return [line["text"] for line in lines if line["event"] == "rule_log"], outcome


# In order


async def test_steps_are_done_in_order_and_their_results_are_told(far: Far) -> None:
    outcome = await far.deliver([fake("a", gives=1), fake("b", gives={"x": [2]})])
    assert far.names == ["a", "b"]
    assert (outcome.end, outcome.result, outcome.error) == (End.DELIVERED, {"x": [2]}, None)
    assert [(step.kind, step.result, step.failures) for step in outcome.steps] == [
        ("fake", 1, []), ("fake", {"x": [2]}, []),
    ]  # fmt: skip


async def test_the_next_action_knows_the_result(far: Far) -> None:
    do = [fake("a", gives={"id": 5}), {"log": "{{ result.id }}"}, {"log": "again {{ result }}"}]
    texts, outcome = await logged(far, do)
    assert texts == ["5", "again 5"]
    assert outcome.result == "again 5"


async def test_a_result_that_is_too_large_is_cut_and_it_is_said(far: Far) -> None:
    with capture_logs() as lines:
        outcome = await far.deliver(fake("a", gives="x" * MAX_RESULT_BYTES))
    assert outcome.steps[0].cut
    assert len(outcome.result) < MAX_RESULT_BYTES
    assert [line["event"] for line in lines] == ["action_result_cut"]


async def test_a_result_is_not_shared_with_who_gave_it(far: Far) -> None:
    given = {"a": [1]}
    far.answers["a"] = [given]
    outcome = await far.deliver(fake("a"))
    given["a"].append(2)
    assert outcome.result == {"a": [1]}


async def test_each_action_is_told_where_it_stands(far: Far) -> None:
    far.answers["b"] = [HOPELESS]
    await far.deliver([fake("a"), fake("b", onError=[fake("c"), fake("d")])], spend=print)
    assert [(name, context.place, context.rule) for name, context in far.seen] == [
        ("a", "0", "greet"), ("b", "1", "greet"), ("c", "1.onError.0", "greet"), ("d", "1.onError.1", "greet"),
    ]  # fmt: skip
    assert far.seen[0][1].spend is print


async def test_times_are_told(far: Far) -> None:
    async def slow() -> None:
        far.now_ms += 7

    far.answers["a"] = [GONE, slow]
    outcome = await far.deliver(fake("a", retry={"delay": 0}))
    (step,) = outcome.steps
    assert (step.started_ms, step.ended_ms, step.attempts) == (BORN_MS, BORN_MS + 7, 2)
    assert [(one.started_ms, one.ended_ms, one.error) for one in step.failures] == [(BORN_MS, BORN_MS, "gone")]


# if


@pytest.mark.parametrize(
    ("condition", "done"),
    [
        ("payload.n > 1", True),
        ("payload.n > 2", False),
        ("result.ok", True),
        ("result.ok and type == 'other'", False),
        ("events | length == 1", True),
    ],
)
async def test_an_action_whose_condition_is_false_is_skipped(far: Far, condition: str, done: bool) -> None:
    do = [fake("a", gives={"ok": True}), {**fake("b"), "if": condition}, fake("c")]
    outcome = await far.deliver(do, entries=[entry(1, n=2)])
    assert far.names == (["a", "b", "c"] if done else ["a", "c"])
    assert outcome.end is End.DELIVERED
    assert outcome.steps[1].attempts == int(done)


async def test_a_skipped_action_leaves_the_result_as_it_was(far: Far) -> None:
    texts, _ = await logged(far, [fake("a", gives=1), fake("b", gives=2, **{"if": "false"}), {"log": "{{ result }}"}])
    assert texts == ["1"]
    texts, _ = await logged(far, [fake("a", gives=1, **{"if": "false"}), {"log": "{{ result is none }}"}])
    assert texts == ["true"]


async def test_what_the_last_action_that_was_run_gave_is_the_runs_result(far: Far) -> None:
    outcome = await far.deliver([fake("a", gives=1), fake("b", gives=2, **{"if": "false"})])
    assert outcome.result == 1


async def test_a_condition_that_cannot_be_told_is_a_failure_that_is_not_tried_again(far: Far) -> None:
    outcome = await far.deliver([fake("a", **{"if": "payload.nosuch"}), fake("b")])
    assert far.seen == []
    assert outcome.end is End.FAILED
    assert outcome.error is not None
    assert outcome.error.startswith("fake: if: payload.nosuch: ")
    assert [step.attempts for step in outcome.steps] == [0]


async def test_its_on_error_is_heeded_too(far: Far) -> None:
    outcome = await far.deliver([fake("a", onError="continue", **{"if": "payload.nosuch"}), fake("b")])
    assert (far.names, outcome.end) == (["b"], End.DELIVERED)


# retry


async def test_what_may_help_is_tried_again_and_only_that_step(far: Far) -> None:
    far.answers["b"] = [GONE, GONE]
    outcome = await far.deliver([fake("a"), fake("b", gives=5), fake("c")])
    assert far.names == ["a", "b", "b", "b", "c"]
    assert [context.attempt for name, context in far.seen if name == "b"] == [1, 2, 3]
    assert (outcome.end, outcome.steps[1].error, outcome.steps[1].result) == (End.DELIVERED, None, 5)
    assert outcome.error == "fake: gone"
    assert [pause_s for pause_s in far.pauses if 0.5 <= pause_s <= 2] == far.pauses


@pytest.mark.parametrize(
    ("retry", "error", "attempts"),
    [
        (None, GONE, 10),
        (False, GONE, 1),
        (1, GONE, 1),
        (5, GONE, 5),
        ({"attempts": 2, "delay": 0}, GONE, 2),
        (5, HOPELESS, 1),
        (5, ValueError("a bug"), 1),
    ],
)
async def test_how_often_it_is_tried(far: Far, retry: Any, error: Exception, attempts: int) -> None:
    far.answers["a"] = [error] * 100
    outcome = await far.deliver([fake("a", **({} if retry is None else {"retry": retry})), fake("never")])
    assert far.names == ["a"] * attempts
    assert outcome.end is End.FAILED
    assert (outcome.steps[-1].attempts, len(outcome.steps[-1].failures)) == (attempts, attempts)
    assert len(far.pauses) == attempts - 1


async def test_an_error_of_a_step_itself_is_its_own_failure(far: Far) -> None:
    far.answers["a"] = [ExceptionGroup("several", [ValueError("a bug")])]
    outcome = await far.deliver(fake("a"))
    assert outcome.error == "fake: ExceptionGroup: several (1 sub-exception)"


@pytest.mark.parametrize(
    ("after_s", "least_s", "most_s"), [(0, 0.5, 1), (5, 5, 5), (20, 20, 20), (21, 20, 20), (1e9, 20, 20)]
)
async def test_who_asks_to_wait_is_waited_for_but_not_for_ever(
    far: Far, after_s: float, least_s: float, most_s: float
) -> None:
    far.answers["a"] = [ActionError("busy", after_s=after_s)]
    await far.deliver(fake("a", retry={"delay": "1s", "maxDelay": "20s"}))
    assert len(far.pauses) == 1
    assert least_s <= far.pauses[0] <= most_s


async def test_a_long_error_is_cut(far: Far) -> None:
    far.answers["a"] = [ActionError("x" * 10_000, retry=False)]
    outcome = await far.deliver(fake("a"))
    assert len(outcome.steps[0].error or "") == 2_000


# onError


async def test_a_failure_ends_the_run(far: Far) -> None:
    far.answers["b"] = [HOPELESS]
    outcome = await far.deliver([fake("a"), fake("b"), fake("c")])
    assert far.names == ["a", "b"]
    assert (outcome.end, outcome.result) == (End.FAILED, None)
    assert steps_of(outcome) == [("0", 1, None), ("1", 1, "no good")]


async def test_unless_it_says_that_the_next_follows(far: Far) -> None:
    far.answers["a"] = [HOPELESS]
    do = [
        fake("a", onError="continue"),
        {
            "log": "{{ 'none' if result is none }} {{ error.message }}, {{ error.action }} {{ error.place }}, "
            "{{ error.attempts }} attempt"
        },
        {"log": "still known: {{ error.message }}"},
    ]
    texts, outcome = await logged(far, do)
    assert texts == ["none no good, fake 0, 1 attempt", "still known: no good"]
    assert (outcome.end, outcome.error) == (End.DELIVERED, "fake: no good")


async def test_after_such_a_failure_there_is_no_result(far: Far) -> None:
    far.answers["b"] = [HOPELESS, HOPELESS]
    do = [fake("a", gives=1), fake("b", onError="continue")]
    texts, _ = await logged(far, [*do, {"log": "{{ result }}"}])
    assert texts == ["null"]
    assert (await far.deliver(do)).result is None


async def test_where_nothing_failed_there_is_no_error(far: Far) -> None:
    texts, _ = await logged(far, [fake("a", onError="continue"), {"log": "x", "if": "error"}, {"log": "{{ error }}"}])
    assert texts == ["null"]


async def test_other_steps_may_follow_instead_of_the_rest(far: Far) -> None:
    far.answers["b"] = [GONE] * 10
    handled = [{"log": "{{ error.action }}: {{ error.message }} ({{ error.attempts }}), after {{ result }}"}, fake("d")]
    texts, outcome = await logged(far, [fake("a", gives=7), fake("b", onError=handled), fake("c")])
    assert texts == ["fake: gone (10), after 7"]
    assert far.names == ["a", *["b"] * 10, "d"]
    assert (outcome.end, outcome.error) == (End.DELIVERED, "fake: gone")
    assert [place for place, _, _ in steps_of(outcome)] == ["0", "1", "1.onError.0", "1.onError.1"]


async def test_a_handled_failure_is_told_in_the_log(far: Far) -> None:
    far.answers["a"] = [HOPELESS]
    with capture_logs() as lines:
        await far.deliver(fake("a", onError=fake("b")))
    (line,) = [line for line in lines if line["log_level"] == "warning"]
    assert (line["event"], line["place"], line["error"]) == ("rule_action_failed", "0", "no good")


async def test_when_those_fail_too_the_run_has_failed_by_them(far: Far) -> None:
    far.answers = {"a": [HOPELESS], "b": [ActionError("worse", retry=False)]}
    outcome = await far.deliver([fake("a", onError=[fake("b"), fake("c")]), fake("d")])
    assert far.names == ["a", "b"]
    assert (outcome.end, outcome.error) == (End.FAILED, "fake: worse")
    assert outcome.steps[-1].place == "0.onError.0"


async def test_they_may_have_an_on_error_of_their_own(far: Far) -> None:
    far.answers = {"a": [HOPELESS], "b": [ActionError("worse", retry=False)]}
    texts, outcome = await logged(far, fake("a", onError=fake("b", onError={"log": "{{ error.message }}"})))
    assert texts == ["worse"]
    assert outcome.end is End.DELIVERED


# Age


async def test_a_run_that_is_too_old_is_not_begun(far: Far) -> None:
    far.now_ms = BORN_MS + 5_001
    outcome = await far.deliver(fake("a"), max_age_s=5)
    assert far.seen == []
    assert (outcome.end, outcome.error) == (End.EXPIRED, None)


@pytest.mark.parametrize("now_ms", [BORN_MS + 5_000, BORN_MS - 10_000])
async def test_one_that_is_just_young_enough_is(far: Far, now_ms: int) -> None:
    far.now_ms = now_ms
    assert (await far.deliver(fake("a"), max_age_s=5)).end is End.DELIVERED


async def test_one_that_grows_too_old_between_its_first_attempts_is_given_up(far: Far) -> None:
    far.answers["a"] = [GONE] * 10
    outcome = await far.deliver(fake("a", retry={"attempts": 10, "delay": "4s", "maxDelay": "4s"}), max_age_s=5)
    # Pauses last between 2 s and 4 s.
    assert far.names in (["a"] * 2, ["a"] * 3)
    assert (outcome.end, outcome.error) == (End.EXPIRED, "fake: gone")
    assert outcome.steps[0].ended_ms == far.now_ms


async def test_what_was_begun_is_finished_at_whatever_age(far: Far) -> None:
    async def slow() -> None:
        far.now_ms += 60_000

    far.answers = {"a": [slow], "b": [GONE]}
    outcome = await far.deliver([fake("a"), fake("b"), fake("c")], max_age_s=5)
    assert far.names == ["a", "b", "b", "c"]
    assert outcome.end is End.DELIVERED


@pytest.mark.parametrize("first", [{"if": "false"}, {"onError": "continue", "if": "payload.nosuch"}])
async def test_what_was_skipped_or_failed_is_no_beginning(far: Far, first: dict[str, Any]) -> None:
    async def slow() -> None:
        far.now_ms += 60_000
        raise GONE

    far.answers["b"] = [slow]
    outcome = await far.deliver([fake("a", **first), fake("b", retry=2)], max_age_s=5)
    assert (far.names, outcome.end) == (["b"], End.EXPIRED)


async def test_a_failure_is_handled_at_whatever_age(far: Far) -> None:
    async def slow() -> None:
        far.now_ms += 60_000
        raise HOPELESS

    far.answers["a"] = [slow]
    outcome = await far.deliver(fake("a", onError=fake("b")), max_age_s=5)
    assert (far.names, outcome.end) == (["a", "b"], End.DELIVERED)


# Several events


async def test_all_events_are_known_and_the_last_is_the_one(far: Far) -> None:
    text = "{{ payload.n }} of {{ events | map(attribute='payload.n') | join('+') }} {{ events[0].id }}"
    texts, _ = await logged(far, {"log": text}, entries=[entry(1, n=1), entry(2, n=2)])
    assert texts == ["2 of 1+2 1"]


async def test_a_single_event_is_a_list_of_one(far: Far) -> None:
    texts, _ = await logged(far, {"log": "{{ events[0].metadata.source_name }} {{ events | length }}"})
    assert texts == ["s 1"]


@pytest.mark.parametrize(
    ("count", "gathers", "listed"), [(1, False, False), (1, True, True), (2, True, True), (2, False, True)]
)
async def test_actions_are_handed_a_list_where_events_are_gathered(
    far: Far, count: int, gathers: bool, listed: bool
) -> None:
    entries = tuple(entry(seq) for seq in range(count))
    await far.deliver(fake("a"), entries=entries, gathers=gathers)
    assert far.seen[0][1].batch == (entries if listed else None)


# The end


async def test_a_run_that_is_cancelled_ends_at_once(far: Far) -> None:
    begun, ended = anyio.Event(), anyio.Event()

    async def for_ever() -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    far.answers["a"] = [for_ever]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(far.deliver, [fake("a", onError="continue"), fake("b")])
        await begun.wait()
        tasks.cancel_scope.cancel()
    assert ended.is_set()
    assert far.names == ["a"]


STEP = st.deferred(
    lambda: st.tuples(
        st.sampled_from(["ok", "fails", "skipped"]),
        st.sampled_from(["stop", "continue"]) | st.lists(STEP, min_size=1, max_size=2),
    )
)


def model(steps: Sequence[Any]) -> tuple[list[str], bool]:
    """What is done of these steps, told as plainly as can be, and whether it ends well."""
    done: list[str] = []
    for what, then in steps:
        done.append(what)
        if what != "fails" or then == "continue":
            continue
        if then == "stop":
            return done, False
        inner, well = model(then)
        return done + inner, well
    return done, True


def depth_of(steps: Sequence[Any]) -> int:
    return 1 + max((depth_of(then) for _, then in steps if isinstance(then, list)), default=0)


@given(st.lists(STEP, min_size=1, max_size=4).filter(lambda steps: depth_of(steps) <= 4))
def test_any_nest_of_steps_is_done_as_the_model_says(steps: Any) -> None:
    async def deliver(do: Any, far: Far) -> Outcome:
        return await far.deliver(do, retry=Retry(1))

    def written(steps: Any) -> Any:
        return [
            {
                **({"python": "no_such_module:f"} if what == "fails" else {"log": "x"}),
                **({"if": "false"} if what == "skipped" else {}),
                "onError": then if isinstance(then, str) else written(then),
            }
            for what, then in steps
        ]

    outcome = anyio.run(deliver, written(steps), Far(Path("nowhere")))
    done, well = model(steps)
    told = ["fails" if step.error else "ok" if step.attempts else "skipped" for step in outcome.steps]
    assert told == done
    assert outcome.end is (End.DELIVERED if well else End.FAILED)
    if not well:
        assert outcome.steps[-1].error


@pytest.mark.parametrize("do", [{"log": "x", "onError": {"python": "nosuch:f"}}, [{"python": "nosuch:f"}]])
def test_what_follows_a_failure_is_checked_like_the_rest(tmp_path: Path, do: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_rules(Tree.parse(json.dumps([{"do": do}]), "config.jsonc"), tmp_path)
    place = "[0].do.onError.python" if isinstance(do, dict) else "[0].do[0].python"
    assert [(problem.field, problem.message) for problem in caught.value.problems] == [
        (place, "there is no module nosuch")
    ]
