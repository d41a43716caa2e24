"""A source's golden cases: played by its own player, or by the source itself, and every difference is told."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from source_checks import FLAWED, environment

from eventhost.cli.source_test import find, play_golden
from eventhost.cli.source_test.check import Check, Outcome
from eventhost.cli.source_test.expected import differences, read_expected

LIMIT_S = 60
"""Never reached unless something is broken."""

OK, FAILED = Outcome.OK, Outcome.FAILED


async def played(root: Path, name: str = "door") -> dict[str, Check]:
    """What became of each case, by its name."""
    checks: list[Check] = []
    with anyio.fail_after(LIMIT_S):
        await play_golden(find(root, name), root, checks.append)
    assert not psutil.Process().children(recursive=True)
    return {check.name.removeprefix("golden "): check for check in checks}


def cases(**said: Any) -> dict[str, str]:
    """Files of cases."""
    return {f"golden/{name.replace('_', '-')}.json": json.dumps(case) for name, case in said.items()}


def everything(check: Check) -> str:
    return "\n".join([check.said, *check.details])


# What is expected


@pytest.mark.parametrize(
    ("wanted", "came"),
    [
        ({"type": "a", "payload": {"n": 1}}, {"type": "a", "payload": {"n": 1}, "id": "x", "timestamp": 7}),
        ({"type": "a", "payload": {"n": 1}}, {"type": "a", "payload": {"n": 1.0}}),
        ({"type": "a"}, {"type": "a", "metadata": {}}),
        ({"type": "a", "id": "x"}, {"type": "a", "id": "x"}),
        ({"match": {"type": "a", "payload": {"n": [{"numeric": [">", 0]}]}}}, {"type": "a", "payload": {"n": 1}}),
        ({"match": {"id": [{"exists": True}]}}, {"type": "a", "id": "x"}),
    ],
)
def test_an_event_is_as_expected(wanted: Any, came: Any) -> None:
    assert differences([read_expected(wanted)], [came]) == []


@pytest.mark.parametrize(
    ("wanted", "came", "said"),
    [
        ({"type": "a"}, {"type": "b"}, 'events[0].type: expected a, came b'),
        ({"type": "a"}, {"type": "a", "payload": {}}, "events[0].payload: expected nothing, came {}"),
        ({"type": "a", "payload": {}}, {"type": "a"}, "events[0].payload: expected {}, came nothing"),
        ({"type": "a", "payload": {"b": [1, 2]}}, {"type": "a", "payload": {"b": [1, 3]}},
         "events[0].payload.b[1]: expected 2, came 3"),
        ({"type": "a", "payload": {"b": [1]}}, {"type": "a", "payload": {"b": [1, None]}},
         "events[0].payload.b[1]: expected nothing, came null"),
        ({"type": "a", "payload": {"b": 1}}, {"type": "a", "payload": {"b": True}},
         "events[0].payload.b: expected 1, came true"),
        ({"type": "a", "id": "x"}, {"type": "a"}, "events[0].id: expected x, came nothing"),
        ({"match": {"payload": {"n": [{"numeric": [">", 1]}]}}}, {"type": "a", "payload": {"n": 1}},
         'events[0].payload.n: expected what matches [{"numeric": [">", 1]}], came 1'),
        ({"match": {"payload": {"n": [1]}}}, {"type": "a"},
         "events[0].payload.n: expected what matches [1], came nothing there"),
    ],
)  # fmt: skip
def test_each_difference_is_told_with_its_place(wanted: Any, came: Any, said: str) -> None:
    assert differences([read_expected(wanted)], [came]) == [said]


def test_events_that_are_missing_and_events_beyond_are_told() -> None:
    a, b = {"type": "a"}, {"type": "b"}
    assert differences([a, b], [a]) == ['events[1]: expected {"type": "b"}, but no more came']
    assert differences([a], [a, b]) == ['events[1]: expected no more, but there came {"type": "b"}']


# By a player

PLAYER = """
import asyncio, os, sys
from door import event
from eventhost.errors import ConfigError, Problem
from eventhost.kit.golden import play

async def drive(case, folder):
    print("this goes to nobody")
    assert not list(folder.iterdir()), "the folder is empty"
    (folder / "used").write_text("")
    said = case["input"]
    if said == "wrong value":
        raise ValueError("port: expected a number")
    if said == "wrong config":
        raise ConfigError([Problem("config.jsonc", "there is no door")])
    if said == "mistake":
        raise KeyError("the player's own")
    if said == "dies":
        print("I am gone", file=sys.stderr)
        os._exit(3)
    if said == "hangs":
        await asyncio.Event().wait()
    return [event(said)] * case["config"].get("times", 1)

play(drive)
"""
DOOR = "def event(what):\n    return {'type': f'door.{what}', 'payload': {}}\n"
OPENED = {"type": "door.opened", "payload": {}}


@pytest.mark.anyio
async def test_a_player_answers_each_case_and_outlives_none_that_it_cannot_play(tmp_path: Path) -> None:
    files = cases(
        a_good={"input": "opened", "config": {"times": 2}, "events": [OPENED, OPENED]},
        b_mistake={"input": "mistake", "events": []},
        c_good={"input": "opened", "events": [OPENED]},
        d_dies={"input": "dies", "events": []},
        e_good={"input": "opened", "events": [OPENED]},
        f_hangs={"input": "hangs", "events": [], "within": "300ms"},
        g_good={"input": "opened", "answers": "are the player's own", "events": [OPENED]},
        h_value={"input": "wrong value", "error": "port: expected a number"},
        i_config={"input": "wrong config", "error": "there is no door"},
        j_other={"input": "wrong value", "error": "host"},
        k_none={"input": "opened", "error": "host"},
        l_error={"input": "wrong value", "events": [OPENED]},
        m_other={"input": "closed", "events": [OPENED]},
    )
    environment(tmp_path, "door", {"server.py": "", "door.py": DOOR, "golden/play.py": PLAYER, **files})
    checks = await played(tmp_path)
    good = {"a-good", "c-good", "e-good", "g-good", "h-value", "i-config"}
    assert {name for name, check in checks.items() if check.outcome is OK} == good
    said = {name: everything(check) for name, check in checks.items()}
    assert "the player itself failed" in said["b-mistake"]
    assert 'KeyError: "the player\'s own"' in said["b-mistake"]
    assert "the player ended with status 3 before it had answered\n" in said["d-dies"]
    assert "I am gone" in said["d-dies"]
    assert "the player did not answer within 0.3 s" in said["f-hangs"]
    assert "expected an error that contains host; came port: expected a number" in said["j-other"]
    assert "expected an error that contains host; 1 events came" in said["k-none"]
    assert "expected 1 events; came the error port: expected a number" in said["l-error"]
    assert "events[0].type: expected door.opened, came door.closed" in said["m-other"]


@pytest.mark.anyio
async def test_one_process_plays_all_cases_of_a_source(tmp_path: Path) -> None:
    player = "import os\nfrom eventhost.kit.golden import play\n\nasync def drive(case, folder):\n"
    player += "    return [{'type': str(os.getpid())}]\n\nplay(drive)\n"
    files = cases(**{f"case_{number}": {"events": [{"type": "?"}]} for number in range(3)})
    environment(tmp_path, "door", {"server.py": "", "golden/play.py": player, **files})
    checks = await played(tmp_path)
    assert len({tuple(check.details) for check in checks.values()}) == 1
    assert len(checks) == 3


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["play.mjs", "play.js"])
async def test_a_player_may_be_written_in_javascript(name: str, tmp_path: Path, needs: Callable[[str], str]) -> None:
    needs("node")
    load = 'import("node:readline")' if name == "play.mjs" else 'Promise.resolve(require("node:readline"))'
    player = f"""
        {load}.then(({{ createInterface }}) => createInterface({{ input: process.stdin }}).on("line", (line) => {{
          const {{ input }} = JSON.parse(line);
          process.stdout.write(JSON.stringify({{ events: [{{ type: `door.${{input}}`, payload: {{}} }}] }}) + "\\n");
        }}));
    """
    files = cases(a={"input": "opened", "events": [OPENED]}, b={"input": "closed", "events": [OPENED]})
    environment(tmp_path, "door", {"server.py": "", f"golden/{name}": player, **files})
    assert [check.outcome for check in (await played(tmp_path)).values()] == [OK, FAILED]


@pytest.mark.anyio
async def test_a_player_may_be_any_program(tmp_path: Path) -> None:
    player = '#!/bin/sh\nwhile read -r case; do echo \'{"error": "no door"}\'; done\n'
    folder = environment(tmp_path, "door", {"server.py": "", "golden/play": player, **cases(a={"error": "door"})})
    (check,) = (await played(tmp_path)).values()
    assert "golden/play is not executable; mend that with chmod +x" in check.said
    os.chmod(folder / "golden" / "play", 0o755)
    (check,) = (await played(tmp_path)).values()
    assert check.outcome is OK


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("what?", "what? is no JSON"),
        ("[]", 'expected an object with "events" or "error", came []'),
        ('{"events": [], "error": ""}', 'expected an object with "events" or "error", came'),
        ('{"events": [1]}', "expected a list of events, came [1]"),
        ('{"error": 1}', 'expected a text, came {"error": 1}'),
        ('{"events": []}\nand more', "a line more than one: and more"),
    ],
)
async def test_a_player_that_answers_nonsense_fails_the_case(answer: str, said: str, tmp_path: Path) -> None:
    player = f"import sys\nfor case in sys.stdin:\n    print({answer!r}, flush=True)\n"
    environment(tmp_path, "door", {"server.py": "", "golden/play.py": player, **cases(a={"events": []})})
    (check,) = (await played(tmp_path)).values()
    assert check.said.startswith(f"the player answered nonsense: {said}")


@pytest.mark.anyio
async def test_a_player_that_cannot_start_says_why_once(tmp_path: Path) -> None:
    files = cases(a={"events": []}, b={"events": []})
    environment(tmp_path, "door", {"server.py": "", "golden/play.py": "import no_such_module\n", **files})
    first, second = (await played(tmp_path)).values()
    assert "No module named 'no_such_module'" in everything(first)
    assert second.outcome is FAILED
    assert second.details == ["(as above)"]


# By the source itself

FOLLOWER = '''
"""Emits each line that is added to a file, and remembers how many it has told."""

from eventhost.errors import ConfigError, Problem
from eventhost.kit import EventSource, sleep

source = EventSource("door", event_types=["door.said"])


@source.task
async def follow():
    if "file" not in source.options:
        raise ConfigError([Problem("config.jsonc", "file: name the file to follow")])
    from pathlib import Path

    file, kept = Path(source.options["file"]), source.state_dir / "told"
    told = int(kept.read_text()) if kept.exists() else 0
    while True:
        lines = file.read_text().splitlines() if file.exists() else []
        for line in lines[told:]:
            await source.emit("door.said", {"line": line})
            told += 1
            if not source.options.get("forget"):
                kept.write_text(str(told))
        await sleep(0.01)


@source.tool(description="Say something")
async def say(text):
    await source.emit("door.said", {"line": text})
    return "said"


if __name__ == "__main__":
    source.run()
'''


def said(*lines: str) -> list[Any]:
    return [{"type": "door.said", "payload": {"line": line}} for line in lines]


FOLLOWED = {"config": {"options": {"file": "${folder}/in/lines"}}}


@pytest.mark.anyio
async def test_without_a_player_the_source_itself_is_played_step_by_step(tmp_path: Path) -> None:
    copy = "import shutil; shutil.copy('in/lines', 'in/copy')"
    files = cases(
        a_written={**FOLLOWED, "input": [{"write": "in/lines", "text": "one\n"}, {"expect": 1},
                                         {"append": "in/lines", "text": "two\n"}], "events": said("one", "two")},
        b_restarted={**FOLLOWED, "input": [{"write": "in/lines", "text": "one\n"}, {"expect": 1}, "restart",
                                           {"append": "in/lines", "text": "two\n"}], "events": said("one", "two")},
        c_killed={"config": {"options": {"file": "${folder}/in/lines", "forget": True}}, "events": said("one", "one"),
                  "input": [{"write": "in/lines", "text": "one\n"}, {"expect": 1}, "kill"]},
        d_called={**FOLLOWED, "input": [{"call": "say", "arguments": {"text": "hi"}}], "events": said("hi")},
        e_other_files={**FOLLOWED, "events": said("moved"), "input": [
            {"write": "in/draft", "text": "moved\n"}, {"write": "in/x", "text": ""}, {"delete": "in/x"},
            {"rename": ["in/draft", "in/lines"]}, {"run": ["python", "-c", copy]}]},
        f_nothing={**FOLLOWED, "events": []},
        g_error={"config": {}, "error": "file: name the file to follow"},
    )  # fmt: skip
    environment(tmp_path, "door", {"server.py": FOLLOWER, **files}, stopTimeout="20s")
    checks = await played(tmp_path)
    assert {name: everything(check) for name, check in checks.items() if check.outcome is not OK} == {}
    assert len(checks) == 7
    assert not (tmp_path / "var").exists()


@pytest.mark.anyio
async def test_a_case_that_fails_without_a_player_says_why(tmp_path: Path) -> None:
    files = cases(
        a_missing={**FOLLOWED, "input": [{"write": "in/lines", "text": "one\n"}], "events": said("one", "two"),
                   "within": "300ms"},
        b_beyond={**FOLLOWED, "input": [{"write": "in/lines", "text": "one\n"}, {"expect": 1}], "events": []},
        c_no_error={**FOLLOWED, "error": "file", "within": "300ms"},
        d_ends={"events": said("one")},
        e_no_tool={**FOLLOWED, "input": [{"call": "shout"}], "events": []},
        f_program={**FOLLOWED, "input": [{"run": ["sh", "-c", "echo no such luck >&2; exit 4"]}], "events": []},
        g_outside={**FOLLOWED, "input": [{"write": "../x", "text": ""}], "events": []},
        h_waits={**FOLLOWED, "input": [{"expect": 1}], "events": [], "within": "300ms"},
        i_nobody={**FOLLOWED, "input": [{"request": "http://127.0.0.1:${port}/"}], "events": [], "within": "300ms"},
        j_no_file={**FOLLOWED, "input": [{"delete": "none"}], "events": []},
    )  # fmt: skip
    environment(tmp_path, "door", {"server.py": FOLLOWER, **files}, stopTimeout="20s")
    checks = await played(tmp_path)
    wanted = {
        "a-missing": "events[1]: expected",
        "b-beyond": "events[0]: expected no more, but there came",
        "c-no-error": "expected an error that contains file; none came",
        "d-ends": "expected 1 events; came the error ",
        "e-no-tool": "input[0].call: ",
        "f-program": "input[0].run: sh ended with status 4; its last words: no such luck",
        "g-outside": "input[0].write: ../x is outside of the case's folder",
        "h-waits": "input[0].expect: ",
        "i-nobody": "input[0].request: not done within 0.3 s",
        "j-no-file": "input[0].delete: No such file or directory",
    }
    assert {name: wanted[name] in everything(check) for name, check in checks.items()} == dict.fromkeys(wanted, True)
    assert {check.outcome for check in checks.values()} == {FAILED}


def flawed(root: Path, **said: Any) -> None:
    command = [sys.executable, "-I", "-S", "server.py"]
    environment(root, "door", {"server.py": FLAWED, **cases(**said)}, command=command, stopTimeout="1s")


@pytest.mark.anyio
async def test_a_step_that_waits_in_vain_says_what_came_instead_and_what_the_source_wrote(tmp_path: Path) -> None:
    config = {"flaw": "says the same"}
    flawed(tmp_path, a={"config": config, "input": [{"expect": 2}], "events": [], "within": "300ms"})
    (check,) = (await played(tmp_path)).values()
    assert check.said == "input[0].expect: expected 2 events within 0.3 s; 1 event came"
    assert check.details == ["came: flawed.happened (id 1): {}", "it wrote:", "  as I said"]


@pytest.mark.anyio
async def test_what_a_source_says_twice_under_one_id_came_once(tmp_path: Path) -> None:
    happened = {"type": "flawed.happened", "id": "1"}
    flawed(
        tmp_path,
        a_same={"config": {"flaw": "says the same"}, "input": [{"expect": 1}, "kill", "restart"],
                "events": [{**happened, "payload": {}}]},
        b_other={"config": {"flaw": "says another"}, "input": [{"expect": 1}, "kill", {"expect": 2}],
                 "events": [{"match": happened}, {"match": happened}]},
    )  # fmt: skip
    checks = await played(tmp_path)
    assert {name: everything(check) for name, check in checks.items() if check.outcome is not OK} == {}


@pytest.mark.anyio
@pytest.mark.parametrize(
    "blocked",
    [
        {"config": {"flaw": "blocks at once"}, "events": [{"type": "flawed.happened"}, {"type": "flawed.missing"}]},
        {"config": {"flaw": "blocks at once"}, "input": [{"expect": 2}], "events": []},
        {"config": {"flaw": "blocks"}, "input": [{"call": "list_pending_events"}], "events": []},
    ],
)
async def test_a_source_that_blocks_in_one_case_is_played_no_other(blocked: dict[str, Any], tmp_path: Path) -> None:
    flawed(tmp_path, a={**blocked, "within": "1s"}, b={"events": []}, c={"events": []})
    checks = await played(tmp_path)
    assert [check.outcome for check in checks.values()] == [FAILED, Outcome.SKIPPED, Outcome.SKIPPED]
    assert checks["a"].said.endswith("it has not answered for 1 s: does it loop or block?")
    assert checks["b"].said == checks["c"].said
    assert "it has not answered for 1 s" in checks["b"].said


@pytest.mark.anyio
async def test_a_source_that_dies_shows_what_it_wrote_as_lines_and_once(tmp_path: Path) -> None:
    files = {"server.py": "while True\n", **cases(a={"events": []}, b={"events": []})}
    environment(tmp_path, "door", files)
    first, second = (await played(tmp_path)).values()
    assert first.said.startswith("expected 0 events; came the error SyntaxError: ")
    assert first.details[0] == "it wrote:"
    assert first.details[2].strip() == "while True"
    assert second.details == ["it wrote the same as above"]


WEB = """
import asyncio
from eventhost.kit import EventSource

source = EventSource("door")


async def answer(reader, writer):
    head = await reader.readuntil(b"\\r\\n\\r\\n")
    path = head.split()[1].decode()
    if path != "/refused":
        await source.emit("door.asked", {"path": path})
    status = "403 Forbidden" if path == "/refused" else "200 OK"
    writer.write(f"HTTP/1.1 {status}\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n".encode())
    writer.close()


@source.task
async def listen():
    server = await asyncio.start_server(answer, "127.0.0.1", source.options["port"])
    await server.serve_forever()


source.run()
"""


@pytest.mark.anyio
async def test_a_step_may_ask_over_http_on_a_port_that_is_free(tmp_path: Path) -> None:
    config = {"port": "${port}"}
    url = "http://127.0.0.1:${port}"
    files = cases(
        a_asked={"config": config, "input": [{"request": f"{url}/bell", "body": {"a": 1}}, {"request": f"{url}/2"}],
                 "events": [{"type": "door.asked", "payload": {"path": path}} for path in ("/bell", "/2")]},
        b_refused={"config": config, "input": [{"request": f"{url}/refused", "status": 403}], "events": []},
        c_refused={"config": config, "input": [{"request": f"{url}/refused"}], "events": []},
    )  # fmt: skip
    environment(tmp_path, "door", {"server.py": WEB, **files}, stopTimeout="20s")
    checks = await played(tmp_path)
    assert [check.outcome for check in checks.values()] == [OK, OK, FAILED]
    assert "expected a status below 400, came 403" in checks["c-refused"].said


@pytest.mark.anyio
async def test_an_event_that_the_host_would_refuse_fails_the_case(tmp_path: Path) -> None:
    case = {**FOLLOWED, "input": [{"write": "in/lines", "text": "one\n"}], "events": said("one")}
    settings = {"eventTypes": ["window.*"], "stopTimeout": "20s"}
    environment(tmp_path, "door", {"server.py": FOLLOWER, **cases(a=case)}, **settings)
    (check,) = (await played(tmp_path)).values()
    assert "type 'door.said' is not among the configured eventTypes" in everything(check)


# Cases that say nothing


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("[", "golden/a.json:1:"),
        ("[]", "expected an object"),
        ("{}", 'write one of "events"'),
        ('{"events": [], "error": "x"}', 'write one of "events"'),
        ('{"events": {}}', "events: expected a list, got {}"),
        ('{"events": [{}]}', 'events[0]: an event needs a "type"'),
        ('{"events": [1]}', "events[0]: expected an event"),
        ('{"events": [{"match": {"a": []}, "type": "x"}]}', 'events[0]: "match" stands alone'),
        ('{"events": [{"match": {"a": [{"prefx": "x"}]}}]}', "events[0]: match: "),
        ('{"error": ""}', "error: expected a text"),
        ('{"events": [], "config": []}', "config: expected an object, got []"),
        ('{"events": [], "within": 3}', 'within: expected a duration such as "30s", got 3'),
        ('{"events": [], "inputs": []}', 'inputs: no such key; did you mean "input"?'),
        ('{"events": [], "input": {}}', "input: without a player it is a list of steps, got {}"),
        ('{"events": [], "input": ["stop"]}', 'input[0]: expected an object, "restart" or "kill", got stop'),
        ('{"events": [], "input": [{"wirte": "x"}]}', 'did you mean "write"?'),
        (
            '{"events": [], "input": [{"write": "x", "txt": ""}]}',
            'input[0].txt: did you mean "text"?',
        ),
    ],
)
async def test_a_case_that_cannot_be_used_says_how_to_mend_it(case: str, said: str, tmp_path: Path) -> None:
    environment(tmp_path, "door", {"server.py": "", "golden/a.json": case}, command=[sys.executable, "server.py"])
    (check,) = (await played(tmp_path)).values()
    assert check.outcome is FAILED
    assert said in check.said


@pytest.mark.anyio
async def test_a_source_without_cases_is_told_where_to_read_of_them(tmp_path: Path) -> None:
    environment(tmp_path, "door", {"server.py": ""})
    (check,) = (await played(tmp_path)).values()
    assert (check.outcome, "docs/testing-sources.md" in check.said) == (Outcome.SKIPPED, True)
