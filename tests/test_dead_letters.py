"""Dead letters: what failed for good is kept whole, can be tried once more or discarded, and is in nobody's way."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from typer.testing import CliRunner, Result

from eventhost import ServerEnvironment
from eventhost.actions import Hands
from eventhost.actions.step import Retry
from eventhost.bus import EnvEventBus
from eventhost.cli import dead_letter as dead_letter_command
from eventhost.cli.app import app
from eventhost.config.tree import Tree
from eventhost.errors import ConfigError, ConnectionLost, EventhostError, HostRunning, NotFound
from eventhost.event import EnvEvent
from eventhost.journal import Change, DeadLetter, Journal, MemoryJournal, Position, open_journal
from eventhost.rules import Limits, Rule, RuleEngine, parse_rules
from eventhost.rules import letters as letters_room
from eventhost.rules.letters import Several, handle, in_full, in_short
from eventhost.web.access.guard import Guard
from eventhost.web.app import create_app

LIMIT_S = 20
"""Never reached unless something is broken."""

ONCE = Limits(retry=Retry(attempts=1))


@dataclass
class Far:
    """The far end of the rules' tools: fails while it is told to, and can be held."""

    broken: bool = True
    calls: list[int] = field(default_factory=list)
    hold: bool = False
    _go: anyio.Event = field(default_factory=anyio.Event)
    _called: anyio.Event = field(default_factory=anyio.Event)

    async def call_tool(self, name: str, arguments: Any, /, *, timeout_s: float) -> Any:
        self.calls.append(arguments["n"])
        self._called.set()
        self._called = anyio.Event()
        if self.hold:
            await self._go.wait()
        if self.broken:
            raise ConnectionLost("the far end is broken")

    async def until_called(self, count: int) -> None:
        with anyio.fail_after(LIMIT_S):
            while len(self.calls) < count:
                await self._called.wait()

    def let_go(self) -> None:
        self.hold = False
        self._go.set()
        self._go = anyio.Event()


@dataclass
class Host:
    """An engine on a journal."""

    engine: RuleEngine
    bus: EnvEventBus
    far: Far

    async def publish(self, *numbers: int, event_type: str = "door.opened") -> None:
        for n in numbers:
            await self.bus.publish(EnvEvent(str(n), event_type, 0, {"source_name": "s"}, {"n": n}))

    async def settled(self) -> list[DeadLetter]:
        """All dead letters, once everything is done and written."""
        assert await self.engine.drain(LIMIT_S)
        await self.engine.needed()
        return await self.letters()

    async def letters(self) -> list[DeadLetter]:
        return await self.bus.journal.dead_letters(None, 0, 1000)

    async def failed(self, *numbers: int) -> list[DeadLetter]:
        """Dead letters of events that fail; from here on the far end works again, and is asked of nothing else."""
        await self.publish(*numbers)
        letters = await self.settled()
        self.far.broken = False
        self.far.calls.clear()
        return letters


def rules(*values: dict[str, Any]) -> list[Rule]:
    return parse_rules(Tree.parse(json.dumps({"rules": values}), "config.jsonc").at("rules"))


def call(name: str = "a", **more: Any) -> dict[str, Any]:
    return {"name": name, "on": "door.*", "do": {"tool": "t", "arguments": {"n": "{{ payload.n }}"}}, **more}


@asynccontextmanager
async def hosting(
    root: Path, *values: dict[str, Any], journal: Journal | None = None, **more: Any
) -> AsyncIterator[Host]:
    far = Far()
    async with EnvEventBus(journal or MemoryJournal()) as bus:

        def unused(*_: Any, **__: Any) -> Any:
            raise AssertionError

        http = httpx2.AsyncClient(transport=httpx2.MockTransport(unused))
        hands = Hands(
            publish=bus.publish, call_tool=far.call_tool, spawn=unused, http=http, root=root, environment={},
            resolve_secret=unused,
        )  # fmt: skip
        engine = RuleEngine(bus, hands, **{"limits": ONCE, **more})
        await engine.update(rules(*values))
        async with engine:
            yield Host(engine, bus, far)


# Once more


@pytest.mark.anyio
async def test_a_letter_stays_until_its_run_has_succeeded(tmp_path: Path) -> None:
    async with hosting(tmp_path, call()) as host:
        (letter,) = await host.failed(1)
        host.far.hold = True
        await host.engine.retry(letter)
        await host.far.until_called(1)
        await host.engine.needed()
        assert await host.letters() == [letter]
        assert host.engine.retrying() == {letter.id}
        host.far.let_go()
        assert await host.settled() == []
        assert host.engine.retrying() == set()


@pytest.mark.anyio
async def test_a_letter_that_fails_again_is_replaced(tmp_path: Path) -> None:
    async with hosting(tmp_path, call()) as host:
        (letter,) = await host.failed(1)
        host.far.broken = True
        await host.engine.retry(letter)
        (other,) = await host.settled()
        assert other.id > letter.id
        assert (other.rule, other.seq, other.entries) == (letter.rule, letter.seq, letter.entries)


@pytest.mark.anyio
@pytest.mark.parametrize("concurrency", [1, 4])
async def test_a_letter_that_is_tried_twice_at_once_is_done_once(tmp_path: Path, concurrency: int) -> None:
    async with hosting(tmp_path, call(concurrency=concurrency)) as host:
        (letter,) = await host.failed(1)
        host.far.hold = True
        for _ in range(3):
            await host.engine.retry(letter)
        await host.far.until_called(1)
        await host.engine.retry(letter)
        host.far.let_go()
        assert await host.settled() == []
        assert host.far.calls == [1]


@pytest.mark.anyio
async def test_two_letters_of_one_run_are_gone_when_it_has_succeeded(tmp_path: Path) -> None:
    async with hosting(tmp_path, call(concurrency=4)) as host:
        (letter,) = await host.failed(1)
        await host.bus.journal.save(Change(dead=[letter]))  # as after a crash between the run and its record
        first, second = await host.letters()
        host.far.hold = True
        await host.engine.retry(first)
        await host.engine.retry(second)
        await host.far.until_called(1)
        host.far.let_go()
        assert await host.settled() == []
        assert host.far.calls == [1]


@pytest.mark.anyio
async def test_all_events_of_a_batch_are_done_again_together(tmp_path: Path) -> None:
    rule = call(batch={"max": 3, "within": "1h"})
    rule["do"] = {"tool": "t", "arguments": {"n": "{{ events | length }}"}}
    async with hosting(tmp_path, rule) as host:
        (letter,) = await host.failed(1, 2, 3)
        await host.engine.retry(letter)
        assert await host.settled() == []
        assert host.far.calls == [3]


@pytest.mark.anyio
@pytest.mark.parametrize("shaped", [{}, {"throttle": {"limit": 1000, "per": "1h"}}])
async def test_a_run_that_is_done_again_holds_nothing_back(tmp_path: Path, shaped: dict[str, Any]) -> None:
    journal = MemoryJournal()
    async with hosting(tmp_path, call(concurrency=2, **shaped), call("b"), journal=journal) as host:
        letter = next(each for each in await host.failed(1) if each.rule == "a")
        host.far.hold = True
        await host.engine.retry(letter)
        await host.far.until_called(1)
        host.far.hold = False
        await host.publish(*range(2, 50))
        await host.far.until_called(1 + 2 * 48)
        with anyio.fail_after(LIMIT_S):
            while [each.running + each.queued for each in host.engine.statistics()] != [1, 0]:
                await anyio.lowlevel.checkpoint()
        # The letter alone says what is owed: were the host to die now, nothing else would be done again.
        await host.engine._ledger.write(whole=True)  # type: ignore[union-attr]
        assert await host.engine.needed() == {}
        progress = await journal.progress()
        assert progress.low == journal.head
        assert (progress.pending, progress.oldest) == ({}, None)
        assert not any(position.lags for position in progress.positions.values())
        host.far.let_go()


@pytest.mark.anyio
async def test_a_host_that_ends_meanwhile_leaves_the_letter_and_the_next_does_not_begin_by_itself(
    tmp_path: Path,
) -> None:
    path = tmp_path / "journal.db"
    journal, _ = await open_journal(path)
    async with hosting(tmp_path, call(), journal=journal) as host:
        (letter,) = await host.failed(1)
        host.far.hold = True
        await host.engine.retry(letter)
        await host.far.until_called(1)
    await journal.aclose()
    journal, _ = await open_journal(path)
    async with hosting(tmp_path, call(), journal=journal) as host:
        host.far.broken = False
        await host.publish(2)
        assert await host.settled() == [letter]
        assert host.far.calls == [2]
        await host.engine.retry(letter)
        assert await host.settled() == []
        assert host.far.calls == [2, 1]
    await journal.aclose()


@pytest.mark.anyio
async def test_what_is_matched_again_meanwhile_is_not_done_twice(tmp_path: Path) -> None:
    journal = MemoryJournal()
    async with hosting(tmp_path, call(), journal=journal) as host:
        (letter,) = await host.failed(1)
    # The next host does not know that it was done; it is still at its beginning when somebody tries the letter.
    await journal.save(Change(gone=["a"], positions=[Position("a", 0, lags=True)]))
    async with hosting(tmp_path, call(concurrency=2), journal=journal) as host:
        host.far.broken = False
        await host.engine.retry(letter)
        assert await host.settled() == []
        assert host.far.calls == [1]


@pytest.mark.anyio
async def test_a_letter_of_a_rule_that_is_gone_or_disabled_is_refused(tmp_path: Path) -> None:
    async with hosting(tmp_path, call()) as host:
        (letter,) = await host.failed(1)
        await host.engine.update(rules(call(enabled=False)))
        with pytest.raises(ConfigError, match="a is disabled; enable it first"):
            await host.engine.retry(letter)
        await host.engine.update([])
        with pytest.raises(NotFound, match="there is no rule a any more"):
            await host.engine.retry(letter)
        await host.engine.update(rules(call()))
        await host.engine.retry(letter)
        assert await host.settled() == []


@pytest.mark.anyio
async def test_a_rule_that_is_disabled_before_it_comes_to_it_leaves_the_letter(tmp_path: Path) -> None:
    async with hosting(tmp_path, call()) as host:
        first, second = await host.failed(1, 2)
        host.far.hold = True
        await host.engine.retry(first)
        await host.engine.retry(second)
        await host.far.until_called(1)
        await host.engine.update(rules(call(enabled=False)))
        assert host.engine.retrying() == {first.id}
        host.far.let_go()
        assert await host.settled() == [second]
        await host.engine.update(rules(call()))
        await host.engine.retry(second)
        assert await host.settled() == []
        assert host.far.calls == [1, 2]


@pytest.mark.anyio
async def test_one_that_grows_too_old_while_it_is_tried_stays(tmp_path: Path) -> None:
    now_ms = 1_000_000
    rule = call(maxAge="1m")
    rule["do"]["retry"] = {"attempts": 5, "delay": "1ms"}
    async with hosting(tmp_path, rule, wall_ms=lambda: now_ms) as host:
        await host.bus.publish(EnvEvent("1", "door.opened", now_ms, {"source_name": "s"}, {"n": 1}))
        (letter,) = await host.settled()
        host.far.hold = True
        await host.engine.retry(letter)
        await host.far.until_called(6)
        now_ms += 120_000
        host.far.let_go()
        assert await host.settled() == [letter]


@pytest.mark.anyio
async def test_at_the_hard_cap_nothing_is_made_of_what_is_tried_again(tmp_path: Path) -> None:
    async with hosting(tmp_path, call()) as host:
        first, second = await host.failed(1, 2)
        host.far.hold = True
        await host.engine.retry(first)
        await host.engine.retry(second)
        await host.far.until_called(1)
        assert await host.engine.give_up("a", 100) == (0, 0)
        host.far.let_go()
        assert await host.settled() == []
        assert host.far.calls == [1, 2]


@pytest.mark.anyio
async def test_while_a_rule_has_too_much_to_do_who_tries_a_letter_waits(tmp_path: Path) -> None:
    async with hosting(tmp_path, call(), limits=Limits(queue=3, retry=Retry(attempts=1))) as host:
        letters = await host.failed(*range(8))
        host.far.hold = True
        begun: list[int] = []

        async def retry_all() -> None:
            for letter in letters:
                await host.engine.retry(letter)
                begun.append(letter.id)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(retry_all)
            await host.far.until_called(1)
            await anyio.wait_all_tasks_blocked()
            assert len(begun) in (3, 4)  # the queue, and one that is being done
            host.far.let_go()
        assert await host.settled() == []
        assert host.far.calls == list(range(8))


# Told


@pytest.mark.anyio
async def test_in_short_it_is_told_of_which_event_it_is_and_in_full_all_of_them(tmp_path: Path) -> None:
    async with hosting(tmp_path, call(batch={"max": 2, "within": "1h"})) as host:
        (letter,) = await host.failed(1, 2)
    said = in_short(letter, {letter.id})
    assert said.items() >= {
        "id": letter.id, "rule": "a", "seq": 2, "action": "tool", "place": "0", "attempts": 1, "event": "s:2",
        "type": "door.opened", "events": 2, "retrying": True, "error": "the far end is broken",
    }.items()  # fmt: skip
    full = in_full(letter)
    assert [entry["event"]["payload"] for entry in full["entries"]] == [{"n": 1}, {"n": 2}]
    assert full["retrying"] is False


# A real host

CONFIG = {
    "http": {"port": 0},
    "rules": [
        {"name": "copy", "on": "door.*", "do": {"exec": ["cat", "there"], "retry": {"attempts": 1}}},
        {"name": "never", "on": "gate.*", "do": {"exec": ["false"], "retry": {"attempts": 1}}},
    ],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "config.jsonc").write_text(json.dumps(CONFIG))
    return tmp_path


async def letters_of(env: ServerEnvironment, condition: Callable[[list[DeadLetter]], bool]) -> list[DeadLetter]:
    """All dead letters, once they are as they should be; what is done is written a moment later."""
    with anyio.fail_after(LIMIT_S):
        await env.drain(LIMIT_S)
        while not condition(letters := await env.dead_letters()):
            await anyio.sleep(0.005)
    return letters


@pytest.mark.anyio
async def test_a_letter_of_a_real_host_outlives_it_and_is_done_once_its_cause_is_mended(root: Path) -> None:
    async with ServerEnvironment.from_path(root) as env:
        await env.publish_event({"type": "door.opened"})
        (letter,) = await letters_of(env, lambda found: len(found) == 1)
        assert "status 1" in letter.error
    async with ServerEnvironment.from_path(root) as env:
        assert await env.dead_letters() == [letter]
        assert await env.dead_letter(letter.id) == letter
        await env.retry_dead_letter(letter.id)
        (letter,) = await letters_of(env, lambda found: bool(found) and found[0].id > letter.id)
        (root / "there").write_text("mended")
        await env.retry_dead_letter(letter.id)
        assert await letters_of(env, lambda found: not found) == []
        with pytest.raises(NotFound, match=f"there is no dead letter {letter.id}"):
            await env.retry_dead_letter(letter.id)


@pytest.mark.anyio
async def test_over_http_they_are_listed_shown_retried_and_discarded(root: Path) -> None:
    async with ServerEnvironment.from_path(root) as env:
        for event_type in ("door.opened", "gate.opened", "gate.closed"):
            await env.publish_event({"type": event_type})
        one, two, three = [letter.id for letter in await letters_of(env, lambda found: len(found) == 3)]
        transport = httpx2.ASGITransport(app=Guard(create_app(env), port=8001))
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8001") as http:
            answer = (await http.get("/dead-letters")).json()
            assert sorted(letter["type"] for letter in answer["dead_letters"]) == [
                "door.opened", "gate.closed", "gate.opened",
            ]  # fmt: skip
            assert answer["cursor"] == three
            answer = (await http.get("/dead-letters", params={"limit": 1, "after": one})).json()
            assert ([letter["id"] for letter in answer["dead_letters"]], answer["cursor"]) == ([two], two)
            answer = (await http.get("/dead-letters", params={"rule": "copy", "after": three})).json()
            assert answer == {"dead_letters": [], "cursor": three}
            (door,) = (await http.get("/dead-letters?rule=copy")).json()["dead_letters"]
            full = (await http.get(f"/dead-letters/{door['id']}")).json()
            assert full["entries"][0]["event"]["type"] == "door.opened"
            (root / "there").write_text("mended")
            answer = await http.post(f"/dead-letters/{door['id']}/retry")
            assert (answer.status_code, answer.json()["id"]) == (202, door["id"])
            await letters_of(env, lambda found: len(found) == 2)
            gate = next(letter.id for letter in await env.dead_letters("never"))
            assert (await http.post(f"/dead-letters/{gate}/discard")).status_code == 200
            for verb in ("retry", "discard"):
                assert (await http.post(f"/dead-letters/{gate}/{verb}")).status_code == 404
            assert (await http.get(f"/dead-letters/{gate}")).status_code == 404
            for wrong in ("after=x", "limit=0", "limit=1001", "after=-1"):
                assert (await http.get(f"/dead-letters?{wrong}")).status_code == 400, wrong
            assert (await http.get("/dead-letters/first")).status_code == 404


@pytest.mark.anyio
async def test_over_http_several_are_retried_or_discarded_at_once(root: Path) -> None:
    async with ServerEnvironment.from_path(root) as env:
        for event_type in ("door.opened", "door.closed", "gate.opened", "gate.closed"):
            await env.publish_event({"type": event_type})
        await letters_of(env, lambda found: len(found) == 4)
        doors = [letter.id for letter in await env.dead_letters("copy")]
        gates = [letter.id for letter in await env.dead_letters("never")]
        transport = httpx2.ASGITransport(app=Guard(create_app(env), port=8001))
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8001") as http:

            async def post(verb: str, body: Any) -> tuple[int, Any]:
                answer = await http.post(f"/dead-letters/{verb}", json=body)
                return answer.status_code, answer.json()

            status, said = await post("discard", {"ids": [gates[0], 99, gates[0]]})
            assert (status, [letter["id"] for letter in said["dead_letters"]]) == (200, [gates[0]])
            assert [refused["id"] for refused in said["refused"]] == [99]
            assert "there is no dead letter 99" in said["refused"][0]["error"]
            assert (said["left"], said["more"]) == ([], False)
            assert (await post("discard", {"ids": []}))[1]["dead_letters"] == []
            (root / "there").write_text("mended")
            status, said = await post("retry", {"rule": "copy"})
            assert (status, [letter["id"] for letter in said["dead_letters"]]) == (202, doors)
            assert [letter.id for letter in await letters_of(env, lambda found: len(found) == 1)] == [gates[1]]
            status, said = await post("retry", {})
            assert [letter["id"] for letter in said["dead_letters"]] == [gates[1]]
            (again,) = await letters_of(env, lambda found: bool(found) and found[0].id > gates[1])
            status, said = await post("discard", {})
            assert [letter["id"] for letter in said["dead_letters"]] == [again.id]
            assert await env.dead_letters() == []
            for wrong in (
                {"rule": "copy", "ids": [1]},
                {"rules": "copy"},
                {"ids": [0]},
                {"ids": [1] * 1001},
                [1],
                None,
            ):
                assert (await post("discard", wrong))[0] == 400, wrong


@pytest.mark.anyio
async def test_one_that_fails_again_at_once_is_not_tried_a_second_time(tmp_path: Path) -> None:
    async with hosting(tmp_path, call()) as host:
        letters = await host.failed(1, 2, 3)
        host.far.broken = True

        async def retry(number: int) -> DeadLetter:
            letter = next(letter for letter in letters if letter.id == number)
            await host.engine.retry(letter)
            await host.settled()
            return letter

        handled = await handle(Several(rule="a"), host.bus.journal, retry, host.engine.retrying)
        assert [letter["id"] for letter in handled.dead_letters] == [letter.id for letter in letters]
        assert host.far.calls == [1, 2, 3]
        assert [letter.id for letter in await host.settled()] == [4, 5, 6]


@pytest.mark.anyio
async def test_who_waits_for_many_is_told_in_time_which_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letters_room, "WITHIN_S", 0.05)
    async with hosting(tmp_path, call()) as host:
        one, two, three = await host.failed(1, 2, 3)

        async def act(number: int) -> DeadLetter:
            if number == two.id:
                await anyio.sleep_forever()
            return one

        handled = await handle(Several(), host.bus.journal, act, host.engine.retrying)
        assert [letter["id"] for letter in handled.dead_letters] == [one.id]
        assert (handled.left, handled.more) == ([two.id, three.id], False)


@pytest.mark.anyio
async def test_of_more_than_are_done_at_once_the_oldest_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters_room, "AT_ONCE", 3)
    monkeypatch.setattr(letters_room, "_PAGE", 2)
    journal = MemoryJournal()
    await journal.save(Change(dead=[letter("ab"[n % 2], n) for n in range(1, 9)]))
    assert await Several().numbers(journal) == ([1, 2, 3], True)
    assert await Several(rule="a").numbers(journal) == ([2, 4, 6], True)
    assert await Several(rule="c").numbers(journal) == ([], False)
    await journal.save(Change(buried=[1, 3, 5]))
    assert await Several(rule="b").numbers(journal) == ([7], False)


# The command line


def test_the_command_line_asks_for_many_at_once_and_goes_on_with_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letter_command, "_AT_ONCE", 3)
    asked: list[tuple[str, list[int]]] = []

    class Slow:
        """A host that comes to two of those that it is asked for."""

        def get(self, path: str, **query: Any) -> Any:
            return {"dead_letters": [{"id": n} for n in range(1, 8) if n > query["after"]][:2]}

        def post(self, path: str, body: Any) -> Any:
            asked.append((path, body["ids"]))
            done = [{"id": n, "rule": "a", "seq": n, "type": "t"} for n in body["ids"][:2]]
            return {"dead_letters": done, "refused": [], "left": body["ids"][2:], "more": False}

    monkeypatch.setattr(dead_letter_command, "connect", lambda env: Slow())
    result = cli("dead-letter", "retry", "--all")
    assert result.exit_code == 0, result.output
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == [f"retrying {n}" for n in range(1, 8)]
    assert asked == [("/dead-letters/retry", ids) for ids in ([1, 2, 3], [3, 4, 5], [5, 6, 7], [7])]


def cli(*arguments: str | Path | int) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def listed(root: Path, *more: str) -> list[dict[str, Any]]:
    result = cli("dead-letter", "list", "--json", "--env", root, *more)
    assert result.exception is None, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


async def keep(root: Path, *dead: DeadLetter) -> None:
    journal, _ = await open_journal(root / "var" / "journal.db")
    await journal.save(Change(dead=dead))
    await journal.aclose()


def letter(rule: str, n: int) -> DeadLetter:
    event = {"id": f"e{n}", "type": "t", "timestamp": n, "metadata": {"source_name": "s"}, "payload": {"n": n}}
    entries = json.dumps([{"seq": n, "at_ms": n, "event": event}]).encode()
    return DeadLetter(rule, n, n, "webhook", "0", 3, f"refused\n{n}", entries)


def test_without_a_host_they_are_listed_and_shown_from_the_file(root: Path) -> None:
    anyio.run(keep, root, letter("a", 1), letter("b", 2), letter("a", 3))
    assert [(each["id"], each["event"]) for each in listed(root)] == [(1, "s:e1"), (2, "s:e2"), (3, "s:e3")]
    assert [each["id"] for each in listed(root, "--rule", "a")] == [1, 3]
    lines = cli("dead-letter", "list", "--env", root).stdout.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["1", "2", "3"]
    assert "refused\\x0a2" in lines[1]
    shown = cli("dead-letter", "show", 2, "--env", root).stdout
    assert 'payload {"n": 2}' in shown
    assert json.loads(cli("dead-letter", "show", 2, "--json", "--env", root).stdout)["entries"][0]["seq"] == 2
    missing = cli("dead-letter", "show", 9, "--env", root)
    assert isinstance(missing.exception, NotFound)


def test_without_a_host_they_can_be_discarded_but_not_retried(root: Path) -> None:
    anyio.run(keep, root, *(letter(rule, n) for n, rule in enumerate("aabbc", 1)))
    refused = cli("dead-letter", "retry", 1, "--env", root)
    assert isinstance(refused.exception, ConnectionLost)
    assert "start one with" in str(refused.exception)
    assert cli("dead-letter", "discard", 2, "--env", root).exit_code == 0
    partly = cli("dead-letter", "discard", 2, 1, "--env", root)
    assert partly.exit_code == 1
    assert [each["id"] for each in listed(root)] == [3, 4, 5]
    assert cli("dead-letter", "discard", "--rule", "b", "--env", root).exit_code == 0
    assert [each["id"] for each in listed(root)] == [5]
    assert cli("dead-letter", "discard", "--all", "--env", root).exit_code == 0
    assert cli("dead-letter", "discard", "--all", "--env", root).exit_code == 0
    assert listed(root) == []


@pytest.mark.parametrize("verb", ["retry", "discard"])
@pytest.mark.parametrize("which", [[], ["1", "--all"], ["--all", "--rule", "a"], ["x"], ["0"], ["--rul", "a"]])
def test_it_must_be_said_which_ones_and_in_one_way(root: Path, verb: str, which: list[str]) -> None:
    assert cli("dead-letter", verb, *which, "--env", root).exit_code == 2


def test_a_journal_that_was_not_closed_is_left_to_the_next_host(root: Path) -> None:
    anyio.run(keep, root, letter("a", 1))
    path = root / "var" / "journal.db"

    async def die() -> None:
        journal, _ = await open_journal(path)
        await journal.append([EnvEvent("1", "t", 0, {}, {})])
        (root / "copy").mkdir()
        for file in path.parent.iterdir():
            (root / "copy" / file.name).write_bytes(file.read_bytes())
        refused = cli_error(await anyio.to_thread.run_sync(lambda: cli("dead-letter", "discard", 1, "--env", root)))
        assert isinstance(refused, HostRunning)
        await journal.aclose()

    anyio.run(die)
    for file in (root / "copy").iterdir():
        (path.parent / file.name).write_bytes(file.read_bytes())
    assert "did not end properly" in str(cli_error(cli("dead-letter", "discard", 1, "--env", root)))
    assert [each["id"] for each in listed(root)] == [1]

    async def crashed() -> bool:
        journal, _ = await open_journal(path)
        try:
            return journal.crashed
        finally:
            await journal.aclose()

    assert anyio.run(crashed)
    assert cli("dead-letter", "discard", 1, "--env", root).exit_code == 0


def cli_error(result: Result) -> BaseException | None:
    assert isinstance(result.exception, EventhostError), result.output
    return result.exception


def test_a_journal_in_memory_is_gone_with_its_host(root: Path) -> None:
    (root / "config.jsonc").write_text('{"journal": {"type": "memory"}}')
    assert "in memory" in str(cli_error(cli("dead-letter", "list", "--env", root)))
