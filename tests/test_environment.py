"""`ServerEnvironment`: what a person does to an environment's files, and what becomes of its sources."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import psutil
import pytest

from eventhost import EnvEvent, ServerEnvironment
from eventhost.connections import EventSourceStatus
from eventhost.errors import BusClosed, ConfigError, EventRejected, HostRunning, NotFound
from eventhost.web.health.judgement import judge
from eventhost.web.health.survey import survey

TICKER = """
import asyncio, os
from eventhost.kit import EventSource
source = EventSource("ticker")
@source.task
async def tick():
    count = 0
    while True:
        count += 1
        await source.emit("ticker.tick", {"count": count, "note": source.config.get("note"), "pid": os.getpid()})
        await asyncio.sleep(0.05)
source.run()
"""

CRASHING = "import sys; sys.exit('no luck today')"

# Ignores what it is asked, but answers `initialize`, and writes a last event when its stdin ends.
LAST_WORDS = """
import json, sys
def write(message): print(json.dumps(message), flush=True)
request = json.loads(sys.stdin.readline())
info = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "x", "version": "1"}}
write({"jsonrpc": "2.0", "id": request["id"], "result": info})
for line in sys.stdin: pass
for number in range(500):
    write({"jsonrpc": "2.0", "method": "eventsource/event", "params": {"type": "last.word", "payload": {"n": number}}})
"""


class Folder:
    """An environment's folder, with what a person does to it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config('{"supervision": {"startsecs": "100ms"}}')

    def config(self, text: str) -> None:
        (self.root / "config.jsonc").write_text(text)

    def source(self, name: str, config: str = "{}", server: str = TICKER) -> Path:
        folder = self.root / "eventsources" / name
        made = self.root / "eventsources" / f".{name}"
        made.mkdir(parents=True)
        (made / "server.py").write_text(server)
        (made / "config.jsonc").write_text(config)
        made.rename(folder)
        return folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait for something that only looking tells."""
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.02)


async def until_running(env: ServerEnvironment, *names: str) -> None:
    await until(lambda: all(env.source_status(name).status is EventSourceStatus.RUNNING for name in names))


async def next_event(env: ServerEnvironment, wanted: Callable[[EnvEvent], bool], after: int | None = None) -> EnvEvent:
    with anyio.fail_after(20):
        async for item in env.bus.subscribe(("*", "host.*"), after=after):
            if wanted(item.event):  # type: ignore[union-attr]
                return item.event  # type: ignore[union-attr]
    raise AssertionError("the bus has closed")


def of_source(name: str, **payload: Any) -> Callable[[EnvEvent], bool]:
    return lambda event: event.metadata["source_name"] == name and payload.items() <= event.payload.items()


@pytest.mark.anyio
async def test_a_folder_that_is_dropped_in_starts_and_one_that_is_removed_ends(folder: Folder) -> None:
    async with ServerEnvironment.from_path(folder.root) as env, anyio.create_task_group() as tasks:
        tasks.start_soon(env.watch)
        await anyio.lowlevel.checkpoint()
        made = folder.source("door")
        event = await next_event(env, of_source("door"), after=0)
        await until_running(env, "door")
        shutil.rmtree(made)
        await until(lambda: env.source_statuses() == [])
        await until(lambda: not psutil.pid_exists(event.payload["pid"]))
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_only_the_source_whose_config_was_edited_restarts(folder: Folder) -> None:
    door = folder.source("door")
    folder.source("window")
    async with ServerEnvironment.from_path(folder.root) as env, anyio.create_task_group() as tasks:
        tasks.start_soon(env.watch)
        await until_running(env, "door", "window")
        before = {status.name: status.pid for status in env.source_statuses()}
        (door / "config.jsonc").write_text('{"note": "edited"}')
        await next_event(env, of_source("door", note="edited"))
        after = {status.name: status.pid for status in env.source_statuses()}
        assert after["door"] != before["door"]
        assert after["window"] == before["window"]
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_source_restarts_when_its_code_is_edited(folder: Folder) -> None:
    door = folder.source("door")
    async with ServerEnvironment.from_path(folder.root) as env, anyio.create_task_group() as tasks:
        tasks.start_soon(env.watch)
        await until_running(env, "door")
        (door / "server.py").write_text(TICKER.replace("ticker.tick", "ticker.tock"))
        await next_event(env, lambda event: event.type == "ticker.tock")
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_several_writes_cause_one_reload(folder: Folder) -> None:
    door = folder.source("door")
    async with ServerEnvironment.from_path(folder.root) as env, anyio.create_task_group() as tasks:
        tasks.start_soon(env.watch)
        await until_running(env, "door")
        for number in range(5):
            (door / "config.jsonc").write_text(f'{{"note": {number}}}')
        await next_event(env, of_source("door", note=4))
        events = await env.bus.get_recent_events(10_000)
        notes = {event.payload["note"] for event in events if event.type == "ticker.tick"}
        assert notes == {None, 4}
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_broken_config_leaves_the_last_good_one_running_and_says_where(folder: Folder) -> None:
    door = folder.source("door")
    async with ServerEnvironment.from_path(folder.root) as env:
        await until_running(env, "door")
        pid = env.source_status("door").pid
        (door / "config.jsonc").write_text('{\n  "note": 1,\n  "command": 7\n}')
        report = await env.reload()
        status = env.source_status("door")
        assert status.status is EventSourceStatus.RUNNING
        assert status.pid == pid
        assert "eventsources/door/config.jsonc:3:14: command: expected a list of strings" in str(status.last_error)
        assert [str(problem) for problem in report.problems]
        (door / "config.jsonc").write_text('{"note": "mended"}')
        await env.reload()
        await next_event(env, of_source("door", note="mended"))
        assert env.source_status("door").last_error is None


@pytest.mark.anyio
async def test_a_new_config_that_does_not_come_up_is_reverted(folder: Folder) -> None:
    door = folder.source("door")
    (door / "crash.py").write_text(CRASHING)
    async with ServerEnvironment.from_path(folder.root) as env:
        await until_running(env, "door")
        (door / "config.jsonc").write_text('{"command": ["python", "crash.py"]}')
        report = await env.reload()
        await until_running(env, "door")
        assert "no luck today" in str(env.source_status("door").last_error)
        assert "last good one is in use" in str(report.problems[0])
        # The same files again are the same mistake, not a new one: nothing restarts to no purpose.
        (door / "config.jsonc").write_text('{"note": "better"}')
        await env.reload()
        await next_event(env, of_source("door", note="better"))


@pytest.mark.anyio
async def test_a_broken_root_config_changes_nothing(folder: Folder) -> None:
    folder.source("door")
    async with ServerEnvironment.from_path(folder.root) as env:
        await until_running(env, "door")
        pid = env.source_status("door").pid
        folder.config("{ nonsense")
        report = await env.reload()
        assert report.problems[0].line == 1
        assert env.source_status("door").pid == pid


@pytest.mark.anyio
async def test_a_change_that_needs_a_restart_of_the_host_says_so(folder: Folder) -> None:
    async with ServerEnvironment.from_path(folder.root) as env:
        folder.config('{"log": {"level": "debug"}}')
        [problem] = (await env.reload()).problems
        assert str(problem) == "config.jsonc: log: takes effect when the host starts anew; restart it"
        assert not problem.fatal
        assert (await env.reload()).problems == []


@pytest.mark.anyio
async def test_a_renamed_folder_is_another_source(folder: Folder) -> None:
    door = folder.source("door")
    async with ServerEnvironment.from_path(folder.root) as env:
        await until_running(env, "door")
        door.rename(door.with_name("gate"))
        await env.reload()
        await until_running(env, "gate")
        assert [status.name for status in env.source_statuses()] == ["gate"]


@pytest.mark.anyio
async def test_a_disabled_source_stops_and_says_so(folder: Folder) -> None:
    door = folder.source("door")
    async with ServerEnvironment.from_path(folder.root) as env:
        await until_running(env, "door")
        (door / "config.jsonc").write_text('{"enabled": false}')
        await env.reload()
        assert env.source_status("door").status is EventSourceStatus.STOPPED


@pytest.mark.anyio
async def test_disable_outlives_the_host_and_rewrites_no_file(folder: Folder) -> None:
    door = folder.source("door", '{"note": "mine"} // keep')
    async with ServerEnvironment.from_path(folder.root) as env:
        await until_running(env, "door")
        await env.disable_source("door")
        assert env.source_status("door").status is EventSourceStatus.STOPPED
        await env.reload()
        assert env.source_status("door").status is EventSourceStatus.STOPPED
    async with ServerEnvironment.from_path(folder.root) as env:
        assert env.source_status("door").status is EventSourceStatus.STOPPED
        await env.enable_source("door")
        await until_running(env, "door")
    assert (door / "config.jsonc").read_text() == '{"note": "mine"} // keep'


@pytest.mark.anyio
async def test_what_the_old_instance_wrote_before_its_end_is_published(folder: Folder) -> None:
    last = folder.source("last", server=LAST_WORDS)
    async with ServerEnvironment.from_path(folder.root) as env:
        await until_running(env, "last")
        (last / "config.jsonc").write_text('{"note": 1}')
        await env.reload()
        events = [event for event in await env.bus.get_recent_events(10_000) if event.type == "last.word"]
        assert [event.payload["n"] for event in events] == list(range(500))


@pytest.mark.anyio
async def test_one_bad_folder_never_keeps_the_others_from_starting(folder: Folder) -> None:
    folder.source("bad", "{ nonsense")
    folder.source("crashing", server=CRASHING)
    folder.source("good")
    async with ServerEnvironment.from_path(folder.root) as env:
        await until_running(env, "good")
        await until(lambda: env.source_status("crashing").status is EventSourceStatus.ERROR)
        bad = env.source_status("bad")
        assert bad.status is EventSourceStatus.ERROR
        assert "eventsources/bad/config.jsonc:1:1" in str(bad.last_error)
        assert env.source_status("good").restarts == 0
        with pytest.raises(ConfigError):
            await env.start_source("bad")


@pytest.mark.anyio
async def test_a_killed_source_comes_back(folder: Folder) -> None:
    folder.source("door")
    async with ServerEnvironment.from_path(folder.root) as env:
        await until_running(env, "door")
        pid = env.source_status("door").pid
        assert pid is not None
        head = env.bus.journal.head
        os.kill(pid, signal.SIGKILL)
        await next_event(env, lambda event: event.type == "host.source_disconnected", after=head)
        await until_running(env, "door")
        assert env.source_status("door").restarts == 1
        assert env.source_status("door").last_error == "killed by SIGKILL"


READER = """
from eventhost.kit import EventSource, sleep

source = EventSource("reader")

@source.tool()
async def lose() -> None:
    shop = source.upstream("shop")
    shop.connected()
    shop.failed("no route")

@source.tool()
async def find() -> None:
    source.upstream("shop").connected()

source.run()
"""


async def call(env: ServerEnvironment, source: str, tool: str) -> None:
    link = env._sources.client(source).connection.link
    assert link is not None
    await link.client.call_tool(tool)


@pytest.mark.anyio
async def test_what_a_source_reads_from_is_shown_and_its_coming_and_going_are_events(folder: Folder) -> None:
    folder.source("reader", server=READER)
    async with ServerEnvironment.from_path(folder.root) as env:
        await until_running(env, "reader")
        assert env.source_status("reader").upstreams == []
        head = env.bus.journal.head
        await call(env, "reader", "lose")
        lost = await next_event(env, lambda event: event.type == "host.upstream_disconnected", after=head)
        assert lost.payload == {"source": "reader", "upstream": "shop", "error": "no route"}
        status = env.source_status("reader")
        assert [(each.name, each.state) for each in status.upstreams] == [("shop", "reconnecting")]
        assert (status.status, status.last_error) == (EventSourceStatus.RUNNING, "shop: no route")
        verdict, reasons = judge(await survey(env))
        assert (verdict, reasons) == ("degraded", ["the source reader cannot read shop: no route"])
        # Away it stays, whatever becomes of who told.
        await env.restart_source("reader")
        assert env.source_status("reader").upstreams == []
        await until_running(env, "reader")
        await call(env, "reader", "find")
        back = await next_event(env, lambda event: event.type.startswith("host.upstream"), after=head + 2)
        assert (back.type, back.payload["upstream"]) == ("host.upstream_connected", "shop")
        assert back.payload["from"] <= back.payload["to"]
        assert env.source_status("reader").last_error is None
        assert (await survey(env)).sources[0].upstreams[0].state == "connected"


@pytest.mark.anyio
async def test_a_stop_by_hand_lasts_over_a_reload(folder: Folder) -> None:
    folder.source("door")
    async with ServerEnvironment.from_path(folder.root) as env:
        await until_running(env, "door")
        await env.stop_source("door")
        await env.reload()
        assert env.source_status("door").status is EventSourceStatus.STOPPED
        await env.start_source("door")
        await until_running(env, "door")


@pytest.mark.anyio
async def test_rules_run_and_are_exchanged_by_a_reload(folder: Folder) -> None:
    rule = '{"rules": [{"name": "echo", "on": "ask", "do": {"emit": "%s", "payload": {"q": "{{ payload.q }}"}}}]}'
    folder.config(rule % "answer")
    async with ServerEnvironment.from_path(folder.root) as env:
        await env.publish_event({"type": "ask", "payload": {"q": 1}})
        event = await next_event(env, lambda event: event.type == "answer", after=0)
        assert event.payload == {"q": 1}
        folder.config(rule % "reply")
        await env.reload()
        await env.publish_event({"type": "ask", "payload": {"q": 2}})
        await next_event(env, lambda event: event.type == "reply", after=0)


@pytest.mark.anyio
async def test_a_rule_that_calls_a_tool_of_its_own_flooding_source_does_not_deadlock(folder: Folder) -> None:
    folder.config(
        '{"rules": [{"name": "r", "on": "flood", "when": "payload.n % 500 == 0",'
        ' "do": {"tool": "flood__answer", "arguments": {"n": "{{ payload.n }}"}}}]}'
    )
    folder.source(
        "flood",
        server="""
import asyncio
from eventhost.kit import EventSource
source = EventSource("flood")
answered = []
@source.tool()
async def answer(n):
    answered.append(n)
    return "ok"
@source.task
async def flood():
    for first in range(0, 5000, 500):
        await asyncio.gather(*(source.emit("flood", {"n": first + n, "filler": "x" * 2000}) for n in range(500)))
    while len(answered) < 10:
        await asyncio.sleep(0.02)
    await source.emit("done", {"answered": answered})
source.run()
""",
    )
    async with ServerEnvironment.from_path(folder.root) as env:
        event = await next_event(env, lambda event: event.type == "done", after=0)
        assert event.payload["answered"] == list(range(0, 5000, 500))


@pytest.mark.anyio
async def test_a_flooding_source_does_not_hold_up_another(folder: Folder) -> None:
    folder.source(
        "flood",
        server=LAST_WORDS.replace(
            "for line in sys.stdin: pass\nfor number in range(500):", "number = 0\nwhile True:\n    number += 1"
        ),
    )
    folder.source("door")
    async with ServerEnvironment.from_path(folder.root) as env:
        await until_running(env, "flood", "door")
        before = env.source_status("door").published
        await until(lambda: env.source_status("door").published >= before + 10)
        assert env.source_status("flood").published > 1000


@pytest.mark.anyio
async def test_a_source_can_be_added_and_removed_by_the_program(folder: Folder) -> None:
    server = folder.root / "ticker.py"
    server.write_text(TICKER)
    async with ServerEnvironment.from_path(folder.root) as env:
        await env.add_event_source("mine", {"type": "local", "command": ["python", "ticker.py"]})
        await until_running(env, "mine")
        with pytest.raises(ConfigError, match="taken"):
            await env.add_event_source("mine", {"type": "local", "command": ["python", "ticker.py"]})
        await env.remove_event_source("mine")
        assert env.source_statuses() == []
        with pytest.raises(NotFound):
            await env.remove_event_source("mine")


@pytest.mark.anyio
async def test_events_are_published_by_the_program_and_refused_with_a_reason(folder: Folder) -> None:
    async with ServerEnvironment.from_path(folder.root) as env:
        event, seq = await env.publish_event({"type": "hand.made", "payload": [1]})
        assert event.metadata["source_name"] == "api"
        assert event.payload == {"value": [1]}
        assert (await env.bus.journal.read(seq - 1, 1))[0].event == event
        with pytest.raises(EventRejected, match="non-empty string"):
            await env.publish_event({"payload": {}})
    with pytest.raises(BusClosed):
        await env.publish_event({"type": "too.late"})


@pytest.mark.anyio
async def test_a_second_host_is_refused(folder: Folder) -> None:
    async with ServerEnvironment.from_path(folder.root):
        with pytest.raises(HostRunning):
            async with ServerEnvironment.from_path(folder.root):
                raise AssertionError("two hosts run one environment")


def test_when_the_host_is_killed_nothing_of_its_sources_is_left(folder: Folder) -> None:
    folder.source(
        "family",
        '{"command": ["sh", "-c", "sleep 1000 & sh -c \'sleep 1000 & exec python3 server.py\'"]}',
        TICKER.replace("import asyncio", "import sys; sys.path[:0] = %r\nimport asyncio" % [str(Path.cwd())]),
    )
    script = f"""
import anyio, structlog
from eventhost import ServerEnvironment
structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
async def main():
    async with ServerEnvironment.from_path({str(folder.root)!r}) as env:
        async for item in env.bus.subscribe("ticker.tick"):
            print("up", flush=True)
            await anyio.sleep_forever()
anyio.run(main)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as host:
        try:
            assert host.stdout is not None
            assert host.stdout.readline() == b"up\n"
            family = psutil.Process(host.pid).children(recursive=True)
            assert sum(process.name() == "sleep" for process in family) == 2
        finally:
            host.kill()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(_lives(process) for process in family):
        time.sleep(0.01)
    assert not [process for process in family if _lives(process)]


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
