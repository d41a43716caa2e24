"""The files of other desktop clients become clients of ours, and enter a config without disturbing it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventhost.config import load_environment
from eventhost.config.clients import add_clients, read_clients
from eventhost.config.jsonc import parse
from eventhost.errors import ConfigError

HOME = str(Path.home())


@pytest.mark.parametrize(
    ("name", "text", "clients", "notes"),
    [
        (
            "claude_desktop_config.json",
            """{"mcpServers": {
                 "files": {"command": "npx", "args": ["-y", "server-filesystem", "/tmp"]},
                 "git": {"command": "uvx", "args": ["git"], "env": {"GIT_TOKEN": "hunter2", "LEVEL": "${LEVEL:-1}"}}
               }, "globalShortcut": "x"}""",
            {
                "files": {"type": "local", "command": ["npx", "-y", "server-filesystem", "/tmp"]},
                "git": {
                    "type": "local",
                    "command": ["uvx", "git"],
                    "environment": {"GIT_TOKEN": "hunter2", "LEVEL": "${env:LEVEL}"},
                },
            },
            [
                "git: the default of LEVEL was left out; put LEVEL=… into .env",
                "git: environment.GIT_TOKEN looks like a secret in plain text; put it into .env and write "
                "${env:GIT_TOKEN}",
            ],
        ),
        (
            ".cursor/mcp.json",
            """{"mcpServers": {
                 "local": {"command": "${workspaceFolder}/run.sh", "args": ["${userHome}/x"], "envFile": ".env"},
                 "far": {"url": "https://h/mcp", "headers": {"Authorization": "Bearer ${env:TOKEN}"}}
               }}""",
            {
                "local": {"type": "local", "command": ["{root}/run.sh", f"{HOME}/x"]},
                "far": {
                    "type": "remote",
                    "url": "https://h/mcp",
                    "headers": {"Authorization": "Bearer ${env:TOKEN}"},
                },
            },
            ["local: envFile is not read; copy what it needs into .env and name it in environment"],
        ),
        (
            ".vscode/mcp.json",
            """{
                 // comments are common here
                 "inputs": [{"type": "promptString", "id": "api-key", "password": true}],
                 "servers": {
                   "api": {"type": "http", "url": "https://h/mcp", "headers": {"X-API-Key": "${input:api-key}"}},
                   "Old One": {"type": "sse", "url": "https://h/sse"},
                   "dev": {"type": "stdio", "command": "node", "args": ["x.js"], "cwd": "${workspaceFolder}/a",
                           "dev": {"watch": "x"}},
                 },
               }""",
            {
                "api": {"type": "remote", "url": "https://h/mcp", "headers": {"X-API-Key": "${env:API_KEY}"}},
                "Old-One": {"type": "remote", "url": "https://h/sse", "enabled": False},
                "dev": {"type": "local", "command": ["node", "x.js"], "cwd": "{root}/a"},
            },
            [
                "api: asked for api-key; put API_KEY=… into .env",
                "Old One: speaks MCP's older SSE transport, which the host does not; it is disabled until its url is "
                "that of a Streamable HTTP endpoint",
                "Old One: is called Old-One here",
                "dev: left out, having no meaning here: dev",
            ],
        ),
        (
            "settings.json",
            """{"theme": "One", "context_servers": {
                 "new": {"source": "custom", "command": "x", "args": ["y"], "env": {"A": "b"}},
                 "old": {"command": {"path": "x", "args": ["z"], "env": {"N": 1, "none": null}}},
                 "extension": {"source": "extension", "settings": {}}
               }}""",
            {
                "new": {"type": "local", "command": ["x", "y"], "environment": {"A": "b"}},
                "old": {"type": "local", "command": ["x", "z"], "environment": {"N": "1"}},
            },
            ["extension: says neither a command nor a url, and was left out"],
        ),
        (
            "opencode.json",
            """{"mcp": {
                 "a": {"type": "local", "command": ["bun", "x"], "environment": {"K": "{env:K}"}, "enabled": false},
                 "b": {"type": "remote", "url": "https://h/mcp", "headers": {"Authorization": "{file:~/.key}"}}
               }}""",
            {
                "a": {"type": "local", "command": ["bun", "x"], "environment": {"K": "${env:K}"}, "enabled": False},
                "b": {"type": "remote", "url": "https://h/mcp", "headers": {"Authorization": "${file:~/.key}"}},
            },
            [],
        ),
    ],
)
def test_the_files_of_desktop_clients_are_read(
    tmp_path: Path, name: str, text: str, clients: dict[str, Any], notes: list[str]
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("\ufeff" + text)
    imported = read_clients(path)
    assert imported.clients == json.loads(json.dumps(clients).replace("{root}", str(tmp_path)))
    assert list(imported.notes) == notes


def test_windsurf_and_gemini_say_url_in_words_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "mcp_config.json"
    path.write_text(
        """{"mcpServers": {
             "far": {"serverUrl": "https://h/mcp", "disabled": true, "disabledTools": ["x"]},
             "wide": {"httpUrl": "https://g/mcp", "timeout": 5, "trust": true, "env": {"A": "${unknownThing}"}}
           }}"""
    )
    clients, notes = read_clients(path)
    assert clients == {
        "far": {"type": "remote", "url": "https://h/mcp", "enabled": False},
        "wide": {"type": "remote", "url": "https://g/mcp", "environment": {"A": "${unknownThing}"}},
    }
    assert notes == (
        "far: left out, having no meaning here: disabledTools",
        "wide: left out, having no meaning here: timeout, trust",
        "wide: ${unknownThing} stands for nothing here, and was kept as it is",
    )


def test_names_that_come_to_be_the_same_are_numbered(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps({"mcpServers": {name: {"command": "x"} for name in ("a b", "a/b", "@/", "a-b")}}))
    clients, notes = read_clients(path)
    assert list(clients) == ["a-b", "a-b-2", "server", "a-b-3"]
    assert notes == (
        "a b: is called a-b here",
        "a/b: is called a-b-2 here",
        "@/: is called server here",
        "a-b: is called a-b-3 here",
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", 'holds no MCP servers; it should have "mcpServers", "servers" or "context_servers"'),
        (b'{"mcpServers": {}}', "holds no MCP servers"),
        (b'{"servers": ["a"]}', "holds no MCP servers"),
        (b"[]", "holds no MCP servers"),
        (b'{"mcpServers": {"a" 1}}', "a colon is missing"),
        (b"\xff\xfe{}", "is not UTF-8"),
        (None, "cannot be read: No such file or directory; correct the path"),
    ],
)
def test_a_file_without_servers_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "mcp.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        read_clients(path)
    assert str(path) in str(raised.value)
    assert message in str(raised.value)


NEW = {"a": {"type": "local", "command": ["x", "y"], "environment": {"A": "b"}}, "b": {"url": "http://h"}}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "{}",
            """{
  "mcp": {
    "clients": {
      "a": {
        "type": "local",
        "command": ["x", "y"],
        "environment": {"A": "b"}
      },
      "b": {
        "url": "http://h"
      }
    }
  }
}""",
        ),
        (
            """// mine
{
    "id": "x", // the name

    // my servers
    "mcp": {
        "clients": {
            "old": {"url": "http://o"}, // keep me
            // "off": {},
        },
    },
    "rules": [],
}
""",
            """// mine
{
    "id": "x", // the name

    // my servers
    "mcp": {
        "clients": {
            "old": {"url": "http://o"}, // keep me
            "a": {
                "type": "local",
                "command": ["x", "y"],
                "environment": {"A": "b"}
            },
            "b": {
                "url": "http://h"
            },
            // "off": {},
        },
    },
    "rules": [],
}
""",
        ),
        (
            '{\n\t"mcp": {\n\t\t"clients": {\n\t\t\t"old": 1 // note\n\t\t}\n\t}\n}\n',
            '{\n\t"mcp": {\n\t\t"clients": {\n\t\t\t"old": 1, // note\n\t\t\t"a": {\n\t\t\t\t"type": "local",\n'
            '\t\t\t\t"command": ["x", "y"],\n\t\t\t\t"environment": {"A": "b"}\n\t\t\t},\n\t\t\t"b": {\n'
            '\t\t\t\t"url": "http://h"\n\t\t\t}\n\t\t}\n\t}\n}\n',
        ),
        (
            '{"mcp": {"clients": {"old": 1}}}',
            """{"mcp": {"clients": {"old": 1,
  "a": {
    "type": "local",
    "command": ["x", "y"],
    "environment": {"A": "b"}
  },
  "b": {
    "url": "http://h"
  }
}}}""",
        ),
        (
            '{\r\n  "mcp": {\r\n    "eventSources": {} /* none */\r\n  }\r\n}',
            '{\r\n  "mcp": {\r\n    "eventSources": {}, /* none */\r\n    "clients": {\r\n      "a": {\r\n'
            '        "type": "local",\r\n        "command": ["x", "y"],\r\n        "environment": {"A": "b"}\r\n'
            '      },\r\n      "b": {\r\n        "url": "http://h"\r\n      }\r\n    }\r\n  }\r\n}',
        ),
        (
            '{\n  "mcp": {\n    "clients": {\n      // none yet\n    }\n  }\n}',
            """{
  "mcp": {
    "clients": {
      // none yet
      "a": {
        "type": "local",
        "command": ["x", "y"],
        "environment": {"A": "b"}
      },
      "b": {
        "url": "http://h"
      }
    }
  }
}""",
        ),
    ],
)
def test_clients_enter_a_config_and_the_rest_stays_to_the_letter(before: str, after: str) -> None:
    assert add_clients(before, NEW) == after


def test_no_clients_leave_the_text_alone() -> None:
    assert add_clients("{ /* x */ }", {}) == "{ /* x */ }"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '{"mcp": {"clients": {"a": {}}}, "mcpServers": {"b": {}}}',
            [
                'config.jsonc:1:22: mcp.clients.a: there is a client "a" already; rename or remove one',
                'config.jsonc:1:48: mcpServers.b: there is a client "b" already; rename or remove one',
            ],
        ),
        ("[]", ["config.jsonc:1:1: expected an object; write {} to begin with"]),
        ('{"mcp": null}', ["config.jsonc:1:9: mcp: expected an object; write {} there, or remove the key"]),
        ('{"mcp": {"clients": []}}', [
            "config.jsonc:1:21: mcp.clients: expected an object; write {} there, or remove the key"
        ]),
        ("{", ["config.jsonc:1:1: { is never closed; add } where it ends"]),
    ],
)  # fmt: skip
def test_clients_are_refused_where_they_cannot_be_added(text: str, expected: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        add_clients(text, NEW)
    assert [str(problem) for problem in raised.value.problems] == expected


BLANKS = st.sampled_from(["", " ", "\n", "\n  ", " // x\n", "/* } */", "\n\t// , x\n"])
OTHERS = st.dictionaries(st.sampled_from(["c", "d", "e f"]), st.sampled_from([1, {}, {"x": [1, {}]}, [], "}"]))


@settings(deadline=None)
@given(OTHERS, OTHERS, OTHERS, st.booleans(), st.booleans(), st.data())
def test_whatever_the_config_looks_like_the_clients_are_added_and_nothing_else_changes(
    root: dict[str, Any],
    mcp: dict[str, Any],
    old: dict[str, Any],
    has_mcp: bool,
    has_clients: bool,
    data: st.DataObject,
) -> None:
    def written(value: Any) -> str:
        def blank() -> str:
            return data.draw(BLANKS)

        if not isinstance(value, dict):
            return json.dumps(value)
        items = [
            f"{blank()}{json.dumps(key)}{blank()}:{blank()}{written(inner)}{blank()}" for key, inner in value.items()
        ]
        comma = "," if items and data.draw(st.booleans()) else ""
        return "{" + ",".join(items) + comma + blank() + "}"

    value: dict[str, Any] = {**root}
    if has_mcp:
        value["mcp"] = {**mcp, **({"clients": old} if has_clients else {})}
    text = data.draw(BLANKS) + written(value) + data.draw(BLANKS)
    expected = json.loads(json.dumps(value))
    expected.setdefault("mcp", {}).setdefault("clients", {}).update(NEW)
    added = add_clients(text, NEW)
    assert parse(added, "f") == expected
    # What was there is still there, in order: only commas, blanks and the clients came between.
    position = -1
    for character in "".join(text.split()):
        position = added.index(character, position + 1)


def test_imported_clients_load(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    path.write_text('{"mcpServers": {"x": {"command": "python", "args": ["x.py"]}, "y": {"url": "http://h/mcp"}}}')
    (tmp_path / "config.jsonc").write_text(add_clients("{}", read_clients(path).clients))
    config = load_environment(tmp_path, {})
    assert config.sources.keys() == {"x", "y"}
    assert (config.broken, config.warnings) == ({}, ())
