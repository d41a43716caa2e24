"""An environment's files become one configuration; what is wrong in one folder or client stays with that one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eventhost.config import (
    EnvironmentConfig,
    HttpConfig,
    JournalConfig,
    LogConfig,
    Protocol,
    RateLimit,
    ServerKind,
    Timings,
    TlsConfig,
    check_environment,
    load_environment,
    make_source,
    set_enabled,
)
from eventhost.errors import ConfigError

SEEDS = Path(__file__).parent / "fixtures" / "seeds"


class Site:
    """An environment's folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("config.jsonc", {})

    def write(self, path: str, value: Any) -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(value if isinstance(value, str) else json.dumps(value))
        return target

    def source(self, folder: str, config: Any = None, server: str = "server.py") -> Path:
        if server:
            self.write(f"eventsources/{folder}/{server}", "")
        if config is not None:
            self.write(f"eventsources/{folder}/config.jsonc", config)
        return self.root / "eventsources" / folder

    def seed(self, name: str, path: str = "config.jsonc") -> None:
        self.write(path, (SEEDS / name).read_text())

    def load(self) -> EnvironmentConfig:
        return load_environment(self.root, {})

    def problems(self) -> list[str]:
        """Every fatal problem, whether it breaks one thing or all."""
        return [str(problem) for problem in check_environment(self.root, {}) if problem.fatal]

    def warnings(self) -> list[str]:
        return [str(problem) for problem in check_environment(self.root, {}) if not problem.fatal]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


# The seeds' configurations, as they stand.


def test_seed_5_1_names_two_of_its_three_clients_as_sources(site: Site) -> None:
    site.seed("5.1-environment.jsonc")
    config = site.load()
    assert (config.id, config.display_name) == ("test_env", "Test Environment")
    assert config.description == "测试环境，包含事件源功能"
    assert config.sources.keys() == {"timer", "webhook"}
    assert config.clients.keys() == {"remote-sensor"}
    assert (config.broken, config.warnings) == ({}, ())
    timer, webhook = config.sources["timer"], config.sources["webhook"]
    assert timer.server.command == ("bun", "run", "./eventsources/timer/server.mjs")
    assert (timer.server.kind, timer.server.directory, timer.folder) == (ServerKind.STDIO, site.root, None)
    assert timer.event_types == ("timer.heartbeat", "timer.tick")
    assert (webhook.server.kind, webhook.server.url) == (ServerKind.REMOTE, "http://192.168.1.100:3000/mcp")
    assert webhook.event_types == ("webhook.*",)
    assert all(source.enabled and source.auto_start for source in config.sources.values())


def test_seed_5_1_and_5_2_together_are_one_timer(site: Site) -> None:
    site.seed("5.1-environment.jsonc")
    site.seed("5.2-timer.jsonc", "eventsources/timer/config.jsonc")
    folder = site.source("timer", server="server.mjs")
    site.source("webhook")
    config = site.load()
    assert config.sources.keys() == {"timer", "webhook"}
    assert config.clients.keys() == {"remote-sensor"}
    assert (config.broken, config.warnings) == ({}, ())
    timer = config.sources["timer"]
    assert timer.folder == folder
    # Run as the client says, in the environment's root.
    assert timer.server.command == ("bun", "run", "./eventsources/timer/server.mjs")
    assert timer.server.directory == site.root
    assert timer.server.display_name == "Timer Event Source"
    assert timer.metadata == {"location": "server-room-1"}
    assert timer.server.settings["interval"] == 5000
    assert timer.server.settings["eventTypes"] == ["timer.heartbeat", "timer.tick"]
    assert timer.server.settings["options"] == {"eventTypes": ["timer.heartbeat", "timer.tick"]}
    # A client that bears a folder's name is that folder's source, and goes before it.
    assert config.sources["webhook"].server.url == "http://192.168.1.100:3000/mcp"


@pytest.mark.parametrize(
    ("seed", "types"),
    [
        ("5.2-timer.jsonc", ("timer.heartbeat", "timer.tick")),
        ("6.2-timer.jsonc", ("timer.heartbeat", "timer.tick")),
        ("10.1-timer.jsonc", ("timer.heartbeat",)),
    ],
)
def test_the_seeds_source_configs_make_a_folder_a_source(site: Site, seed: str, types: tuple[str, ...]) -> None:
    site.seed(seed, "eventsources/timer/config.jsonc")
    folder = site.source("timer", server="server.mjs")
    config = site.load()
    timer = config.sources["timer"]
    assert (timer.server.command, timer.server.directory) == (("node", "server.mjs"), folder)
    assert timer.event_types == types
    assert timer.server.settings["interval"] == 5000
    assert timer.server.file == "eventsources/timer/config.jsonc"
    assert (config.broken, config.warnings) == ({}, ())


@pytest.mark.parametrize("with_folder", [False, True])
def test_seed_10_2_makes_all_clients_sources(site: Site, with_folder: bool) -> None:
    site.seed("10.2-environment.jsonc")
    if with_folder:
        site.seed("10.1-timer.jsonc", "eventsources/timer/config.jsonc")
        site.source("timer", server="server.mjs")
    config = site.load()
    assert config.sources.keys() == {"timer", "remote-weather"}
    assert config.clients == {}
    assert config.sources["timer"].server.command[0] == "bun"
    assert (config.sources["timer"].folder is not None) == with_folder
    assert (config.broken, config.warnings) == ({}, ())


def test_seed_13_finds_its_servers_by_name(site: Site) -> None:
    site.seed("13-environment.jsonc")
    site.write("mcpservers/hello/server.mjs", "")
    site.write("mcpservers/todo/server.py", "")
    folder = site.source("timer", server="server.mjs")
    config = site.load()
    assert config.sources.keys() == {"timer", "webhook"}
    assert config.clients.keys() == {"hello", "todo"}
    assert (config.broken, config.warnings) == ({}, ())
    assert config.sources["timer"].poll_interval_s == 1.0
    assert config.sources["timer"].server.directory == folder
    assert config.sources["webhook"].server.kind is ServerKind.REMOTE
    assert config.clients["hello"].command == ("node", "mcpservers/hello/server.mjs")
    assert config.clients["todo"].command == (sys.executable, "mcpservers/todo/server.py")
    assert config.clients["todo"].directory == site.root


FULL = """{
  "id": "test_env", "displayName": "Test", "description": "…",
  "mcp": {
    "clients": {                                   // tool servers, and sources that are not folders
      "todo":    { "type": "local",  "command": ["python", "./mcpservers/todo/server.py"] },
      "sensor":  { "type": "remote", "url": "http://10.0.0.1:3000/mcp",
                   "headers": {"Authorization": "Bearer ${env:SENSOR_TOKEN}"} },
      "mai":     { "type": "sse",    "server_url": "http://10.0.0.1:8080/events", "enable": true }
    },
    "eventSources": { "enabled": true, "autoStart": true,
      "sources": { "sensor": { "name": "sensor", "enabled": true,
                   "options": { "eventTypes": ["sensor.*"], "pollInterval": 250, "metadata": {"room": "a"} } } } }
  },
  "rules": [ { "name": "greet", "on": "file.created", "do": [ { "log": "new file {{ payload.path }}" } ] } ],
  "journal": { "type": "sqlite", "path": "./var/journal.db" },
  "http": { "host": "127.0.0.1", "port": 8001 }
}"""


def test_a_whole_root_config_loads(site: Site) -> None:
    site.write("config.jsonc", FULL)
    (site.root / ".env").write_text("SENSOR_TOKEN=x")
    config = site.load()
    assert config.clients.keys() == {"todo"}
    assert config.clients["todo"].command == (sys.executable, "./mcpservers/todo/server.py")
    sensor = config.sources["sensor"]
    assert (sensor.event_types, sensor.poll_interval_s, sensor.metadata) == (("sensor.*",), 0.25, {"room": "a"})
    assert config.rules.value[0]["name"] == "greet"
    assert config.rules.at(0, "on").problem("x").line == 14
    assert config.journal == JournalConfig(path="./var/journal.db")
    mai = config.sources["mai"].server
    assert (mai.kind, mai.enabled) == (ServerKind.SSE, True)
    assert not config.broken
    assert not config.warnings


def test_an_empty_root_config_is_enough(site: Site) -> None:
    config = site.load()
    assert config.id == site.root.name
    assert (config.http, config.log, config.journal) == (HttpConfig(), LogConfig(), JournalConfig())
    assert (config.sources, config.clients, config.broken, config.warnings) == ({}, {}, {}, ())
    assert config.rules.value is None


def test_the_hosts_own_keys_are_taken(site: Site) -> None:
    site.write(
        "config.jsonc",
        {
            "$schema": "https://example.org/schema.json",
            "http": {"host": "::1", "port": 0, "enabled": True},
            "log": {"level": "debug", "format": "json"},
            "journal": {"type": "memory", "capacity": 10, "retention": {"age": None, "size": "5 MB", "cap": 20}},
            "launchLimit": 4,
            "rules": None,
        },
    )
    config = site.load()
    assert config.http == HttpConfig("::1", 0, True)
    assert config.log == LogConfig("debug", "json")
    assert config.journal == JournalConfig("memory", age_s=None, size_bytes=5_000_000, cap_bytes=20, capacity=10)
    assert config.launch_limit == 4
    assert config.warnings == ()


# Folders.


@pytest.mark.parametrize(
    ("files", "command"),
    [
        (["server.py", "server.mjs", "server.js"], (sys.executable, "server.py")),
        (["server.mjs", "server.js"], ("node", "server.mjs")),
        (["server.js"], ("node", "server.js")),
    ],
)
def test_a_server_file_is_enough_to_be_a_source(site: Site, files: list[str], command: tuple[str, ...]) -> None:
    for file in files:
        folder = site.source("door", server=file)
    source = site.load().sources["door"]
    assert (source.server.command, source.server.directory, source.folder) == (command, folder, folder)
    assert (source.server.name, source.server.kind) == ("door", ServerKind.STDIO)
    assert source.server.file == "eventsources/door"
    assert (source.event_types, source.metadata, source.poll_interval_s) == ((), {}, 1.0)
    assert source.server.timings == Timings()


def test_a_folders_config_says_all_about_its_source(site: Site) -> None:
    folder = site.source(
        "folder",
        """{
          "name": "door", "displayName": "The door", "description": "opens", "enabled": false, "autoStart": false,
          "command": ["python3", "main.py", "--fast"], "transport": "http", "protocol": "auto",
          "environment": {"A": "b"}, "inheritEnvironment": true, "resources": ["*"],
          "eventTypes": ["door.*"], "pollInterval": "2s", "metadata": {"floor": 1},
          "startsecs": "1s", "startretries": 5, "errorRetry": 0, "stopTimeout": "500ms", "initTimeout": 10,
          "pin": 4, "options": {"speed": 2},
        }""",
        server="",
    )
    config = site.load()
    source = config.sources["door"]
    server = source.server
    assert (source.folder, server.directory) == (folder, folder)
    assert server.command == (sys.executable, "main.py", "--fast")
    assert (server.kind, server.protocol, server.resources) == (ServerKind.HTTP, Protocol.AUTO, ("*",))
    assert (server.environment, server.inherit_environment) == ({"A": "b"}, True)
    assert (server.display_name, server.description) == ("The door", "opens")
    assert server.timings == Timings(1.0, 5, 0.0, 0.5, 10.0)
    assert (source.enabled, source.auto_start, server.enabled, server.auto_start) == (False, False, False, False)
    assert (source.event_types, source.poll_interval_s, source.metadata) == (("door.*",), 2.0, {"floor": 1})
    assert (server.settings["pin"], server.settings["options"]) == (4, {"speed": 2})
    assert config.warnings == ()


def test_a_folder_can_stand_for_a_remote_or_an_in_process_server(site: Site) -> None:
    site.source("far", {"url": "https://example.org/mcp", "headers": {"X": "y"}}, server="")
    folder = site.source("near", {"module": "near.source:main"}, server="")
    sources = site.load().sources
    assert (sources["far"].server.kind, sources["far"].server.headers) == (ServerKind.REMOTE, {"X": "y"})
    near = sources["near"].server
    assert (near.kind, near.module, near.directory) == (ServerKind.INPROCESS, "near.source:main", folder)


@pytest.mark.parametrize("name", [".hidden", "_draft", "node_modules", "__pycache__"])
def test_folders_that_are_no_sources_are_left_alone(site: Site, name: str) -> None:
    site.source(name, "{oops")
    site.write("eventsources/notes/README.md", "")
    site.write("eventsources/file.py", "")
    config = site.load()
    assert (config.sources, config.broken, config.warnings) == ({}, {}, ())


def test_a_folders_local_config_goes_over_its_config(site: Site) -> None:
    folder = site.source("door", {"pin": {"a": 1, "b": 2}, "eventTypes": ["a", "b"], "autoStart": False, "x": 1})
    local = site.write("eventsources/door/config.local.jsonc", '{"pin": {"b": 3}, "eventTypes": ["c"], "x": null}')
    source = site.load().sources["door"]
    assert source.server.settings == {"pin": {"a": 1, "b": 3}, "eventTypes": ["c"], "autoStart": False}
    local.write_text('{"pin": {"b": 3},\n "eventTypes": 5}')
    expected = 'eventTypes: expected a list of strings, got a number; write ["timer.*"]'
    assert site.problems() == [f"eventsources/door/config.local.jsonc:2:16: {expected}"]
    assert folder.is_dir()


def test_one_bad_folder_keeps_no_other_from_being_a_source(site: Site) -> None:
    site.source("good")
    site.source("syntax", '{\n  "name": "syntax"\n  "x": 1\n}')
    site.source("type", {"command": 5})
    site.source("empty", "")
    site.source("list", "[]")
    site.source("nothing", {"interval": 5}, server="")
    (site.source("binary") / "config.jsonc").write_bytes(b'{"a": "\xff"}')
    (site.source("folder") / "config.jsonc").mkdir()
    config = site.load()
    assert config.sources.keys() == {"good"}
    assert {name: [str(problem) for problem in problems] for name, problems in config.broken.items()} == {
        "syntax": [
            "eventsources/syntax/config.jsonc:3:3: a comma is missing before this; put one after the value before"
        ],
        "type": [
            "eventsources/type/config.jsonc:1:13: command: expected a list of strings, got a number; "
            'write ["python", "server.py"]'
        ],
        "empty": ["eventsources/empty/config.jsonc:1:1: the file is empty; write {} to begin with"],
        "list": ["eventsources/list/config.jsonc:1:1: expected an object; write {} to begin with"],
        "nothing": [
            "eventsources/nothing/config.jsonc:1:1: nothing says how to start or reach this server; add a server.py, "
            'server.mjs, server.js or server.sh, or "command": ["python", "server.py"], "url": "http://…" or "module": '
            '"package.module"'
        ],
        "binary": ["eventsources/binary/config.jsonc: is not UTF-8 at byte 7; save it as UTF-8"],
        "folder": ["eventsources/folder/config.jsonc: cannot be read: Is a directory; make it a readable file"],
    }


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ('"enabled": "no"', ['5:14: enabled: expected true or false, got a string']),
        ('"enabled": true, "enable": false', ['5:20: enable: "enabled" is given too; keep one of them']),
        ('"env": {}, "environment": {}', ['5:3: env: "environment" is given too; keep one of them']),
        ('"env": {"PORT": 1}', ['5:19: env.PORT: expected a string, got a number']),
        ('"url": "http://h", "command": ["x"]', ['5:3: url: "command" is given too; keep one of them']),
        ('"command": []', ['5:14: command: names no program; write ["python", "server.py"]']),
        (
            '"command": "python main.py"',
            [
                "5:14: command: expected a list of strings, got one with spaces; "
                'write ["program", "argument"], or put the arguments into "args"'
            ],
        ),
        ('"command": ["a", 5]', ['5:20: command[1]: expected a string, got a number']),
        ('"command": ["a\\u0000"]', ["5:14: command: holds a null character; remove it"]),
        ('"url": "ftp://h"', ['5:10: url: expected the address of a server; write "http://host:port/path", or https']),
        ('"url": "http://h", "transport": "stdio"', [
            '5:35: transport: "stdio" needs a command, not a url; leave it out: a url is always reached over HTTP'
        ]),
        ('"transport": "tcp"', ['5:16: transport: expected one of "stdio", "http"']),
        ('"protocol": "moden"', [
            '5:15: protocol: expected one of "legacy", "modern", "auto"; did you mean "modern"?'
        ]),
        ('"module": "a b"', [
            '5:13: module: expected the name of a Python module; write "package.module" or "package.module:attribute"'
        ]),
        ('"headers": {"A": "b\\nc"}', ["5:20: headers.A: a control character cannot be sent; remove it"]),
        ('"pollInterval": 0', ["5:19: pollInterval: must be longer than 0; write 1000 (ms)"]),
        ('"options": {"pollInterval": "1"}', [
            '5:31: options.pollInterval: expected a duration, got "1"; write a number with ms, s, m, h or d, such as '
            '"5s" or "500ms"'
        ]),
        ('"options": []', ["5:14: options: expected an object, got a list"]),
        ('"options": {"eventTypes": "x"}, "metadata": 1', [
            "5:47: metadata: expected an object, got a number",
            '5:29: options.eventTypes: expected a list of strings, got a string; write ["timer.*"]',
        ]),
        ('"startretries": -1', ["5:19: startretries: must be at least 0; write 3"]),
        ('"name": "a/b"', [
            "5:11: name: this is not a name that a source or client can have; "
            "write letters, digits, - _ and . only, at most 64, beginning with a letter or digit, "
            "and not host or host.…"
        ]),
        ('"name": 5', ["5:11: name: expected a string, got a number"]),
    ],
)  # fmt: skip
def test_each_mistake_in_a_folder_is_one_sentence_at_its_place(site: Site, written: str, expected: list[str]) -> None:
    site.source("door", "{\n\n\n\n  " + written + "\n}")
    assert site.problems() == [f"eventsources/door/config.jsonc:{problem}" for problem in expected]
    assert "door" not in site.load().sources


def test_all_mistakes_of_all_files_are_told_at_once(site: Site) -> None:
    site.write("config.jsonc", '{"http": {"port": "x"}, "rules": {}, "mcp": {"clients": {"a": {"url": 1}}}}')
    site.source("door", {"command": 5, "enabled": 1})
    with pytest.raises(ConfigError) as raised:
        site.load()
    expected = [
        "config.jsonc:1:19: http.port: expected a whole number, got a string",
        'config.jsonc:1:34: rules: expected a list, got an object; write [{"name": "…", "on": "…", "do": […]}]',
        'config.jsonc:1:71: mcp.clients.a.url: expected a string, got a number; write "http://127.0.0.1:3000/mcp"',
        "eventsources/door/config.jsonc:1:27: enabled: expected true or false, got a number",
        "eventsources/door/config.jsonc:1:13: command: expected a list of strings, got a number; "
        'write ["python", "server.py"]',
    ]
    assert sorted(map(str, raised.value.problems)) == sorted(expected)
    assert sorted(site.problems()) == sorted(expected)


def test_two_folders_with_one_name_are_an_error_that_names_both(site: Site) -> None:
    site.source("a", {"name": "door"})
    site.source("door")
    site.source("c")
    config = site.load()
    assert config.sources.keys() == {"c"}
    assert [str(problem) for problem in config.broken["door"]] == [
        'eventsources/a/config.jsonc:1:10: name: "door" is the name of eventsources/a and of eventsources/door; '
        "rename one of them",
        'eventsources/door: "door" is the name of eventsources/a and of eventsources/door; rename one of them',
    ]


# Near misses.


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("event_types", "eventTypes"),
        ("eventtypes", "eventTypes"),
        ("comand", "command"),
        ("Name", "name"),
        ("autostart", "autoStart"),
        ("enviroment", "environment"),
        ("startSecs", "startsecs"),
        ("pollinterval", "pollInterval"),
    ],
)
def test_a_near_miss_of_a_hosts_key_is_a_warning_with_the_suggestion(site: Site, key: str, meant: str) -> None:
    site.source("door", {key: 1})
    assert site.warnings() == [
        f"eventsources/door/config.jsonc:1:2: {key}: no key of the host's, only passed on to the server; "
        f'did you mean "{meant}"?'
    ]
    assert site.load().sources["door"].server.settings == {key: 1}


@pytest.mark.parametrize(
    "key", ["interval", "path", "paths", "urls", "port", "host", "timeout", "types", "events", "cron", "topic", "type"]
)
def test_a_sources_own_keys_are_passed_on_without_a_word(site: Site, key: str) -> None:
    site.source("door", {key: "x"})
    config = site.load()
    assert config.sources["door"].server.settings == {key: "x"}
    assert config.warnings == ()


def test_unknown_keys_of_the_root_are_warnings(site: Site) -> None:
    site.write(
        "config.jsonc",
        '{"ruels": [], "zebra": 1, "http": {"prot": 1}, "mcp": {"client": {}, "eventSources": {"autostart": 1}}}',
    )
    assert site.warnings() == [
        'config.jsonc:1:2: ruels: unknown key, left out of account; did you mean "rules"?',
        "config.jsonc:1:15: zebra: unknown key, left out of account; remove it",
        'config.jsonc:1:36: http.prot: unknown key, left out of account; did you mean "port"?',
        'config.jsonc:1:56: mcp.client: unknown key, left out of account; did you mean "clients"?',
        'config.jsonc:1:87: mcp.eventSources.autostart: unknown key, left out of account; did you mean "autoStart"?',
    ]


# Clients, and which of them are sources.


def clients(site: Site, said: dict[str, Any], **more: Any) -> EnvironmentConfig:
    site.write("config.jsonc", {"mcp": {"clients": said, **more}})
    return site.load()


REMOTE = {"type": "remote", "url": "http://h/mcp"}


def test_all_clients_are_sources_unless_sources_are_given(site: Site) -> None:
    said = {"a": REMOTE, "b": REMOTE}
    assert clients(site, said).sources.keys() == {"a", "b"}
    chosen = clients(site, said, eventSources={"sources": {"a": {}}})
    assert (chosen.sources.keys(), chosen.clients.keys()) == ({"a"}, {"b"})
    none = clients(site, said, eventSources={"sources": {}})
    assert (none.sources, none.clients.keys()) == ({}, {"a", "b"})


def test_folders_are_sources_whatever_sources_are_given(site: Site) -> None:
    site.source("door")
    site.source("gate", {"enabled": False})
    config = clients(site, {"a": REMOTE}, eventSources={"sources": {}})
    assert {name: source.enabled for name, source in config.sources.items()} == {"door": True, "gate": False}


def test_switched_off_event_sources_leave_the_clients_their_tools(site: Site) -> None:
    site.source("door")
    site.source("gate")
    config = clients(site, {"a": REMOTE, "gate": REMOTE}, eventSources={"enabled": False, "sources": {"a": {}}})
    assert config.sources == {}
    assert config.clients.keys() == {"a", "gate"}
    assert all(client.enabled for client in config.clients.values())


def test_without_auto_start_no_source_starts_by_itself(site: Site) -> None:
    site.source("door", {"autoStart": True})
    config = clients(site, {"a": REMOTE, "b": REMOTE}, eventSources={"autoStart": False, "sources": {"a": {}}})
    assert {name: source.auto_start for name, source in config.sources.items()} == {"door": False, "a": False}
    assert all(source.enabled for source in config.sources.values())
    assert config.clients["b"].auto_start


def test_an_entry_that_is_off_ends_a_clients_events_but_not_its_tools(site: Site) -> None:
    config = clients(site, {"a": REMOTE}, eventSources={"sources": {"a": {"enabled": False}}})
    assert (config.sources, config.clients["a"].enabled) == ({}, True)
    set_enabled(site.root, "a", True)
    assert site.load().sources["a"].enabled


def test_a_client_that_is_off_is_off(site: Site) -> None:
    config = clients(site, {"a": {**REMOTE, "enabled": False}, "b": {**REMOTE, "enable": False}})
    assert {name: source.enabled for name, source in config.sources.items()} == {"a": False, "b": False}
    config = clients(site, {"a": {**REMOTE, "disabled": True}}, eventSources={"sources": {}})
    assert not config.clients["a"].enabled


@pytest.mark.parametrize(
    "shape",
    [
        {"mcp": {"eventSources": {"sources": {"a": {"eventTypes": ["x"]}}}}},
        {"mcp": {"eventsources": {"sources": {"a": {"eventTypes": ["x"]}}}}},
        {"eventsources": {"enabled": True, "sources": {"a": {"options": {"eventTypes": ["x"]}}}}},
        {"eventSources": {"a": {"eventTypes": ["x"]}}},
        {"mcp": {"eventSources": {"autoStart": True, "a": {"options": {"eventTypes": ["x"]}}}}},
    ],
)
def test_every_spelling_of_the_switch_chooses_sources(site: Site, shape: dict[str, Any]) -> None:
    site.write("config.jsonc", {**shape, "mcp": {"clients": {"a": REMOTE, "b": REMOTE}, **shape.get("mcp", {})}})
    config = site.load()
    assert (config.sources.keys(), config.clients.keys()) == ({"a"}, {"b"})
    assert config.sources["a"].event_types == ("x",)
    assert config.warnings == ()


@pytest.mark.parametrize(
    "entry",
    [
        {"client": {"type": "remote", "url": "http://h/mcp"}, "name": "a", "enabled": True, "autoStart": True},
        {"type": "remote", "url": "http://h/mcp", "pollInterval": 1000},
        {"url": "http://h/mcp"},
    ],
)
@pytest.mark.parametrize("direct", [True, False])
def test_a_source_can_bring_its_own_client(site: Site, entry: dict[str, Any], direct: bool) -> None:
    site.write("config.jsonc", {"mcp": {"eventSources": {"a": entry} if direct else {"sources": {"a": entry}}}})
    config = site.load()
    assert config.sources["a"].server.url == "http://h/mcp"
    assert config.sources["a"].server.kind is ServerKind.REMOTE
    assert (config.broken, config.warnings) == ({}, ())


@pytest.mark.parametrize("server", ["server.py", "server.mjs", "server.ts", "main.py"])
@pytest.mark.parametrize("prefix", ["./", "", "{root}/"])
def test_a_client_that_starts_a_folders_server_is_that_folders_source(site: Site, server: str, prefix: str) -> None:
    folder = site.source("door", {"name": "inner", "command": ["deno", "main.py"], "pin": 4}, server=server)
    command = ["bun", "run", f"{prefix.format(root=site.root)}eventsources/door/{server}"]
    config = clients(site, {"clock": {"command": command}})
    assert config.sources.keys() == {"clock"}
    clock = config.sources["clock"]
    assert (clock.folder, clock.server.directory, clock.server.command) == (folder, site.root, tuple(command))
    assert clock.server.settings["pin"] == 4


def test_a_client_that_only_names_a_folder_is_a_client_of_its_own(site: Site) -> None:
    site.source("door")
    site.write("eventsources/door/data.txt", "")
    config = clients(
        site,
        {
            "a": {"command": ["npx", "files", "./eventsources"]},
            "b": {"command": ["npx", "files", "./eventsources/door"]},
            "c": {"command": ["cat", "./eventsources/door/data.txt"]},
            "d": {"command": ["python", "./eventsources/none/server.py"]},
        },
    )
    assert config.sources.keys() == {"a", "b", "c", "d", "door"}
    assert config.sources["door"].server.directory == site.root / "eventsources/door"


def test_a_second_client_that_starts_the_same_server_is_another_source(site: Site) -> None:
    site.source("door")
    command = ["python", "./eventsources/door/server.py"]
    config = clients(site, {"second": {"command": [*command, "2"]}, "door": {"command": command}})
    assert config.sources["door"].folder is not None
    assert config.sources["second"].folder is None


def test_the_entry_goes_over_the_client_and_the_client_over_the_folder(site: Site) -> None:
    site.source(
        "door",
        {
            "eventTypes": ["folder"],
            "metadata": {"a": "folder", "b": "folder", "c": {"x": 1}},
            "environment": {"A": "folder", "B": "folder"},
            "startsecs": "1s",
            "startretries": 1,
            "initTimeout": "1s",
            "protocol": "auto",
            "displayName": "folder",
            "interval": 1,
            "options": {"p": 1, "q": 1},
        },
    )
    config = clients(
        site,
        {"door": {"metadata": {"b": "client"}, "environment": {"B": "client"}, "startsecs": "2s", "startretries": 2}},
        eventSources={
            "sources": {
                "door": {
                    "startsecs": "3s",
                    "interval": 3,
                    "options": {"eventTypes": ["entry"], "metadata": {"c": {"y": 2}}, "pollInterval": 10, "q": 3},
                }
            }
        },
    )
    door = config.sources["door"]
    assert door.event_types == ("entry",)
    assert door.metadata == {"a": "folder", "b": "client", "c": {"x": 1, "y": 2}}
    assert door.poll_interval_s == 0.01
    assert door.server.environment == {"A": "folder", "B": "client"}
    assert (door.server.protocol, door.server.display_name) == (Protocol.AUTO, "folder")
    assert door.server.timings == Timings(3.0, 2, 600.0, 2.0, 1.0)
    assert door.server.settings["interval"] == 3
    assert door.server.settings["options"]["p"] == 1
    assert door.server.settings["options"]["q"] == 3
    assert "client" not in door.server.settings


def test_a_switched_off_entry_goes_over_client_and_folder(site: Site) -> None:
    site.source("door", {"enabled": True})
    config = clients(site, {"door": {"enabled": True}}, eventSources={"sources": {"door": {"enabled": False}}})
    assert (config.sources["door"].enabled, config.clients) == (False, {})
    config = clients(site, {"door": {"enabled": False}})
    assert not config.sources["door"].enabled


def test_a_folders_headers_never_go_to_a_clients_url(site: Site) -> None:
    site.source("door", {"url": "http://mine/mcp", "headers": {"Authorization": "mine"}}, server="")
    config = clients(site, {"door": {"url": "http://other/mcp", "headers": {"X": "y"}}})
    assert config.sources["door"].server.headers == {"X": "y"}
    config = clients(site, {"door": {"headers": {"X": "y"}}})
    assert config.sources["door"].server.headers == {"Authorization": "mine", "X": "y"}


def test_an_entry_may_rename_its_source(site: Site) -> None:
    site.source("door")
    config = clients(site, {"a": REMOTE}, eventSources={"sources": {"a": {"name": "b"}, "door": {"name": "gate"}}})
    assert config.sources.keys() == {"b", "gate"}
    assert config.sources["b"].server.name == "b"


def test_an_entry_finds_its_folder_by_either_of_its_names(site: Site) -> None:
    site.source("door", {"name": "inner"})
    for key in ("door", "inner"):
        config = clients(site, {}, eventSources={"sources": {key: {"eventTypes": ["x"]}}})
        assert config.sources["inner"].event_types == ("x",)
    config = clients(site, {}, eventSources={"sources": {"door": {}, "inner": {}}})
    assert [str(problem) for problem in config.broken["inner"]] == [
        'config.jsonc:1:66: mcp.eventSources.sources.inner: "door" is an entry for the same source; keep one of them'
    ]


@pytest.mark.parametrize(
    ("said", "kind", "command"),
    [
        ({"command": "npx", "args": ["-y", "server"]}, ServerKind.STDIO, ("npx", "-y", "server")),
        ({"type": "stdio", "command": "python", "args": ["a b.py"]}, ServerKind.STDIO, (sys.executable, "a b.py")),
        ({"command": "server"}, ServerKind.STDIO, ("server",)),
        ({"type": "http", "url": "http://h/mcp"}, ServerKind.REMOTE, ()),
        ({"type": "streamable-http", "url": "http://h/mcp"}, ServerKind.REMOTE, ()),
        ({"url": "http://h/mcp"}, ServerKind.REMOTE, ()),
        ({"url": "${env:URL}"}, ServerKind.REMOTE, ()),
        ({"type": "inprocess", "module": "a.b"}, ServerKind.INPROCESS, ()),
        ({"command": ["deno", "x.ts"], "transport": "http"}, ServerKind.HTTP, ("deno", "x.ts")),
    ],
)
@pytest.mark.parametrize("key", ["mcpServers", "mcp.clients"])
def test_the_widespread_shape_is_a_spelling_of_clients(
    site: Site, key: str, said: dict[str, Any], kind: ServerKind, command: tuple[str, ...]
) -> None:
    said = {**said, "env": {"A": "b"}}
    site.write(
        "config.jsonc", {"mcpServers": {"x": said}} if key == "mcpServers" else {"mcp": {"clients": {"x": said}}}
    )
    server = site.load().sources["x"].server
    assert (server.kind, server.command, server.environment) == (kind, command, {"A": "b"})
    assert (server.directory, server.file) == (site.root, "config.jsonc")


def test_a_clients_cwd_is_where_it_runs(site: Site) -> None:
    config = clients(site, {"a": {"command": ["x"], "cwd": "tools"}, "b": {"command": ["x"], "cwd": "/opt"}})
    assert config.sources["a"].server.directory == site.root / "tools"
    assert config.sources["b"].server.directory == Path("/opt")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"type": "locl", "command": ["x"]}, [
            'type: expected one of "local", "remote", "inprocess", "sse"; did you mean "local"?'
        ]),
        ({"type": "remote", "command": ["x"]}, ['type: type "remote" needs "url"; add it, or correct the type']),
        ({"type": "local", "url": "http://h"}, ['type: type "local" needs "command"; add it, or correct the type']),
        ({"type": "inprocess"}, ['type: type "inprocess" needs "module"; add it, or correct the type']),
        ({"type": "local"}, [
            'nothing says how to start or reach this server; add "command": ["python", "server.py"], '
            '"url": "http://…" or "module": "package.module"'
        ]),
        ({"enabled": True, "disabled": True}, ['disabled: "enabled" is given too; keep one of them']),
        ({"type": "sse", "enable": True}, ['type: type "sse" needs "server_url"; add it, or correct the type']),
        ([], ["expected an object, got a list"]),
        ("http://h", ["expected an object, got a string"]),
    ],
)  # fmt: skip
def test_a_bad_client_is_broken_and_harms_no_other(site: Site, said: Any, expected: list[str]) -> None:
    config = clients(site, {"good": REMOTE, "bad": said})
    assert config.sources.keys() == {"good"}
    problems = [
        f"{problem.field.removeprefix('mcp.clients.bad').removeprefix('.')}: {problem.message}; {problem.mend}"
        for problem in config.broken["bad"]
    ]
    assert [problem.removeprefix(": ").removesuffix("; ") for problem in problems] == expected
    assert all(problem.line for problem in config.broken["bad"])


def test_what_is_wrong_with_a_client_that_is_off_is_a_warning(site: Site) -> None:
    config = clients(site, {"a": {"type": "sse", "server_url": "there", "enable": False}})
    assert (config.broken, config.sources, config.clients) == ({}, {}, {})
    config = clients(site, {"a": {"type": "sse"}}, eventSources={"sources": {"a": {"enabled": False}}})
    assert (config.broken, config.sources, config.clients) == ({}, {}, {})
    assert [problem.message for problem in config.warnings] == ['type "sse" needs "server_url"']


def test_an_entry_without_a_server_is_broken(site: Site) -> None:
    entries = {"senser": {"enabled": True}, "xyz": {}, "off": {"enabled": False}}
    config = clients(site, {"sensor": REMOTE}, eventSources={"sources": entries})
    assert (config.sources, config.clients.keys(), config.broken.keys()) == ({}, {"sensor"}, {"senser", "xyz"})
    assert [str(problem).partition(": ")[2] for name in ("senser", "xyz") for problem in config.broken[name]] == [
        'mcp.eventSources.sources.senser: no folder and no client has this name; did you mean "sensor"?',
        "mcp.eventSources.sources.xyz: no folder and no client has this name; "
        'add "command", "url" or "module" here, a client, or a folder',
    ]
    assert [problem.field for problem in config.warnings] == ["mcp.eventSources.sources.off"]


@pytest.mark.parametrize("name", ["", "a b", "-a", "é", "a/b", "x" * 65])
def test_names_are_plain(site: Site, name: str) -> None:
    config = clients(site, {name: REMOTE})
    assert config.sources == {}
    assert config.broken[name][0].message == "this is not a name that a source or client can have"


def test_a_client_in_both_places_is_an_error(site: Site) -> None:
    site.write("config.jsonc", {"mcp": {"clients": {"a": REMOTE}}, "mcpServers": {"a": REMOTE, "b": REMOTE}})
    config = site.load()
    assert config.sources.keys() == {"b"}
    assert str(config.broken["a"][0]).endswith("mcpServers.a: this client is also in mcp.clients; keep one")


# The root config.


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("[]", ["1:1: expected an object; write {} to begin with"]),
        ('{"mcp": []}', ["1:9: mcp: expected an object, got a list"]),
        ('{"mcp": {"clients": []}}', [
            "1:21: mcp.clients: expected an object, got a list; "
            'write {"todo": {"command": ["python", "./todo.py"]}}'
        ]),
        ('{"mcpServers": 1}', ["1:16: mcpServers: expected an object, got a number"]),
        ('{"mcp": {"eventSources": true}}', ["1:26: mcp.eventSources: expected an object, got true"]),
        ('{"eventsources": {"enabled": 1}}', ["1:30: eventsources.enabled: expected true or false, got a number"]),
        ('{"eventsources": {}, "mcp": {"eventSources": {}}}', [
            "1:2: eventsources: event sources are configured in two places; keep one of them"
        ]),
        ('{"eventsources": {"sources": []}}', ["1:30: eventsources.sources: expected an object, got a list"]),
        ('{"rules": 5}', ['1:11: rules: expected a list, got a number; write [{"name": "…", "on": "…", "do": […]}]']),
        ('{"log": {"level": "INFO"}}', [
            '1:19: log.level: expected one of "debug", "info", "warning", "error", "critical"; did you mean "info"?'
        ]),
        ('{"log": {"level": null}}', []),
        ('{"journal": {"type": "redis"}}', ['1:22: journal.type: expected one of "memory", "sqlite"']),
        ('{"journal": {"capacity": 0}}', ["1:26: journal.capacity: must be at least 1"]),
        (
            '{"journal": {"retention": {"size": "much", "age": 7}}}',
            [
                "1:51: journal.retention.age: expected a duration with a unit, got a bare number; write a number with "
                'ms, s, m, h or d, such as "5s" or "500ms"',
                "1:36: journal.retention.size: expected a size, got a string; write a number with KB, MB, GB or TB, "
                'such as "1GB"',
            ],
        ),
        ('{"http": {"port": 70000}}', ["1:19: http.port: must be at most 65535"]),
        ('{"http": {"rate_limit": {"burst_size": 0}}}', ["1:40: http.rate_limit.burst_size: must be at least 1"]),
        ('{"http": {"tls": {"cert": "a.pem"}}}', [
            '1:18: http.tls.key: this key is required; add "key": "./tls/key.pem"'
        ]),
        ('{"http": {"trustedProxies": ["::1", "proxy"]}}', [
            "1:37: http.trustedProxies[1]: this is no address; write an address, or a network such as 10.0.0.0/8"
        ]),
        ('{"http": {"cors": {"origins": ["*", "https://a.example/"]}}}', [
            "1:37: http.cors.origins[1]: this is no origin; write scheme, name and port only, such as "
            '"https://example.org", or "*"'
        ]),
        ('{"supervision": {"startsecs": "x"}}', [
            "1:31: supervision.startsecs: expected a duration, got a string; "
            'write a number with ms, s, m, h or d, such as "5s" or "500ms"'
        ]),
        ('{"launchLimit": 1.5}', ["1:17: launchLimit: expected a whole number, got a fraction"]),
        ('{"id": 5}', ["1:8: id: expected a string, got a number"]),
        ('{"id": "a", "id": "b"}', ['1:13: the key "id" is given twice, first in line 1; keep one']),
    ],
)  # fmt: skip
def test_a_mistake_in_the_hosts_own_part_makes_the_root_unusable(site: Site, written: str, expected: list[str]) -> None:
    site.write("config.jsonc", written)
    assert site.problems() == [f"config.jsonc:{problem}" for problem in expected]
    if expected:
        with pytest.raises(ConfigError):
            site.load()


def test_a_missing_root_config_says_how_to_begin(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        load_environment(tmp_path, {})
    assert str(raised.value) == f"config.jsonc: there is none in {tmp_path}; run eventhost init"


def test_the_local_root_config_goes_over_the_other(site: Site) -> None:
    site.write("config.jsonc", {"id": "a", "http": {"port": 1, "enabled": False}, "mcp": {"clients": {"x": REMOTE}}})
    site.write("config.local.jsonc", '{"http": {"port": 2}, "mcp": {"clients": {"x": null, "y": {"url": "http://y"}}}}')
    config = site.load()
    assert config.http == HttpConfig(port=2, enabled=False)
    assert config.sources.keys() == {"y"}
    site.write("config.local.jsonc", '{\n "http": {"port": "2"}}')
    assert site.problems() == ["config.local.jsonc:2:19: http.port: expected a whole number, got a string"]


def test_the_http_part_is_read_in_both_spellings(site: Site) -> None:
    site.write(
        "config.jsonc",
        {
            "http": {
                "auth": "keys", "hosts": ["events.example"], "trustedProxies": ["::1", "10.0.0.0/8"],
                "cors": {"origins": ["https://A.example"]}, "rate_limit": {"requests_per_minute": 5, "burstSize": 6},
                "tls": {"cert": "a.pem", "key": "b.pem"}, "max_body": "1MB", "accessLog": False, "signIn": "1h",
                "heartbeat": 5, "max_connections": 7, "connectionTimeout": "2m",
            }
        },
    )  # fmt: skip
    config = site.load()
    assert config.http == HttpConfig(
        auth="keys",
        hosts=("events.example",),
        trusted_proxies=("::1", "10.0.0.0/8"),
        cors_origins=("https://a.example",),
        rate_limit=RateLimit(requests_per_minute=5, burst_size=6),
        tls=TlsConfig("a.pem", "b.pem"),
        max_body=1_000_000,
        access_log=False,
        sign_in_s=3600,
        heartbeat_s=5,
        max_connections=7,
        connection_timeout_s=120,
    )
    assert config.warnings == ()
    site.write("config.jsonc", '{"http": {"rateLimit": {"perMinute": 5}, "tsl": {}}}')
    assert [(problem.field, problem.fatal) for problem in site.load().warnings] == [
        ("http.tsl", False), ("http.rateLimit.perMinute", False),
    ]  # fmt: skip


VARIABLES = {
    "MCP_SSE_HOST": "0.0.0.0",
    "MCP_SSE_PORT": "9",
    "MCP_SSE_LOG_LEVEL": "WARNING",
    "SSE_HEARTBEAT_INTERVAL": "1.5",
    "SSE_MAX_CONNECTIONS": "3",
    "SSE_CONNECTION_TIMEOUT": "4",
    "RATE_LIMIT_REQUESTS_PER_MINUTE": "5",
    "RATE_LIMIT_BURST_SIZE": "6",
}


def test_variables_go_before_the_files(site: Site) -> None:
    site.write("config.jsonc", {"http": {"port": 1, "rateLimit": {"publishBurst": 2}}, "log": {"level": "error"}})
    expected = HttpConfig(
        host="0.0.0.0",
        port=9,
        heartbeat_s=1.5,
        max_connections=3,
        connection_timeout_s=4,
        rate_limit=RateLimit(requests_per_minute=5, burst_size=6, publish_burst=2),
    )
    config = load_environment(site.root, VARIABLES)
    assert (config.http, config.log.level) == (expected, "warning")
    assert load_environment(site.root, {**VARIABLES, "MCP_SSE_DEBUG": "true"}).log.level == "debug"
    assert load_environment(site.root, {"MCP_SSE_DEBUG": "0", "MCP_SSE_PORT": ""}).log.level == "error"
    site.write(".env", "\n".join(f"{name}={value}" for name, value in VARIABLES.items()))
    assert load_environment(site.root, {}).http == expected


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("MCP_SSE_PORT", "70000", "a whole number from 0 to 65535"),
        ("MCP_SSE_LOG_LEVEL", "loud", "one of debug, info, warning, error, critical"),
        ("MCP_SSE_DEBUG", "maybe", "true or false"),
        ("SSE_HEARTBEAT_INTERVAL", "nan", "a number of seconds, more than 0"),
        ("SSE_MAX_CONNECTIONS", "0", "a whole number from 1"),
        ("SSE_CONNECTION_TIMEOUT", "5m", "a number of seconds, more than 0"),
        ("RATE_LIMIT_REQUESTS_PER_MINUTE", "-1", "a whole number from 1"),
        ("RATE_LIMIT_BURST_SIZE", "ten", "a whole number from 1"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named_and_not_shown(
    site: Site, name: str, value: str, expected: str
) -> None:
    site.write("config.jsonc", {})
    with pytest.raises(ConfigError) as raised:
        load_environment(site.root, {name: value})
    assert str(raised.value) == f"the variable {name}: expected {expected}; mend it, or unset it"


def test_supervision_sets_the_timings_of_all_servers(site: Site) -> None:
    site.source("door", {"startretries": 9})
    site.write(
        "config.jsonc",
        {
            "supervision": {
                "startsecs": "2s",
                "startretries": 5,
                "errorRetry": "1m",
                "stopTimeout": 3,
                "initTimeout": "1s",
            },
            "mcp": {"clients": {"a": {**REMOTE, "errorRetry": 0}}},
        },
    )
    sources = site.load().sources
    assert sources["door"].server.timings == Timings(2.0, 9, 60.0, 3.0, 1.0)
    assert sources["a"].server.timings == Timings(2.0, 5, 0.0, 3.0, 1.0)


def test_loading_twice_gives_equal_configurations(site: Site) -> None:
    site.write("config.jsonc", FULL)
    site.source("door", {"pin": [1, {"a": 2}]})
    assert site.load() == site.load()


def test_a_relative_root_is_made_absolute(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.source("door")
    monkeypatch.chdir(site.root)
    config = load_environment(Path(), {})
    assert config.root == site.root
    assert config.sources["door"].server.directory == site.root / "eventsources/door"


def test_a_source_can_be_made_without_a_file(tmp_path: Path) -> None:
    source = make_source("a", {"command": ["python", "x.py"], "eventTypes": ["x"], "enabled": True}, tmp_path)
    assert (source.name, source.folder, source.event_types) == ("a", None, ("x",))
    assert (source.server.command, source.server.directory) == ((sys.executable, "x.py"), tmp_path)
    with pytest.raises(ConfigError) as raised:
        make_source("a", {"url": 5, "command": [1]}, tmp_path)
    assert [str(problem) for problem in raised.value.problems] == [
        "the source a: command[0]: expected a string, got a number",
        'the source a: url: expected a string, got a number; write "http://127.0.0.1:3000/mcp"',
    ]
    with pytest.raises(ConfigError, match="not a name"):
        make_source("a/b", {"url": "http://h"}, tmp_path)


def test_importing_the_room_loads_neither_the_watcher_nor_the_slow_parser() -> None:
    code = (
        "import sys, eventhost.config; print([m for m in ('watchfiles', 'json5', 'mcp', 'anyio') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
