"""Servers that a desktop client already knows move into `config.jsonc`, and what cannot move with them is told.

The formats are those of Claude Desktop and Claude Code, Cursor, Cline, Windsurf, Gemini (`mcpServers`), VS Code
(`servers` with `inputs`, https://code.visualstudio.com/docs/copilot/reference/mcp-configuration), Zed
(`context_servers`, https://zed.dev/docs/ai/mcp) and opencode (`mcp`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from eventhost.config.jsonc import Outline, skip
from eventhost.config.tree import Tree
from eventhost.errors import ConfigError, Problem

_TABLES: tuple[tuple[str, ...], ...] = (
    ("mcpServers",),
    ("servers",),
    ("context_servers",),
    ("mcp", "servers"),
    ("mcp", "clients"),
    ("mcp",),
)
_URL_KEYS = ("url", "serverUrl", "httpUrl", "server_url")
_CARRIED = {"type", "command", "args", "cwd", "env", "environment", "headers", "disabled", "enabled", *_URL_KEYS}
_WITHOUT_MEANING = {"$schema", "source", "name"}
_SECRET_NAME = re.compile(r"token|secret|passw|(?:api|auth)[-_]?key|authorization|credential", re.IGNORECASE)


class Imported(NamedTuple):
    """`clients` as entries of `mcp.clients`; `notes` are sentences on what was changed or left out, without values."""

    clients: dict[str, dict[str, Any]]
    notes: tuple[str, ...]


def read_clients(path: Path) -> Imported:
    """The servers in a desktop client's file.

    Raises:
        ConfigError: the file cannot be read, or holds no servers.
    """
    file = str(path)
    try:
        tree = Tree.parse(path.read_bytes().decode("utf-8-sig"), file)
    except OSError as error:
        raise ConfigError([Problem(file, f"cannot be read: {error.strerror}", mend="correct the path")]) from None
    except UnicodeDecodeError:
        raise ConfigError([Problem(file, "is not UTF-8", mend="save it as UTF-8")]) from None
    table = next((found for keys in _TABLES if _is_table((found := tree.at(*keys)).value)), None)
    if table is None:
        mend = 'it should have "mcpServers", "servers" or "context_servers"'
        raise ConfigError([tree.problem("holds no MCP servers", mend=mend)])
    reader = _Reader(path)
    clients: dict[str, dict[str, Any]] = {}
    for name, said in table.value.items():
        client = reader.client(name, said)
        if client is not None:
            clients[reader.new_name(name, clients)] = client
    return Imported(clients, tuple(dict.fromkeys(reader.notes)))


def add_clients(config_text: str, clients: Mapping[str, Mapping[str, Any]], file: str = "config.jsonc") -> str:
    """The text of a root config with `clients` added to `mcp.clients`; all else stays to the letter, comments too.

    Raises:
        ConfigError: a name is taken already, or the text is not a config that clients can be added to.
    """
    tree = Tree.parse(config_text, file)
    problems = [
        tree.problem(f'there is a client "{name}" already', mend="rename or remove one", at=(*path, name), key=True)
        for path in (("mcp", "clients"), ("mcpServers",))
        for name in clients
        if isinstance(taken := tree.at(*path).value, dict) and name in taken
    ]
    keys = ("mcp", "clients")
    for depth in range(3):
        value = tree.at(*keys[:depth]).value
        if not isinstance(value, dict) and (depth == 0 or keys[depth - 1] in tree.at(*keys[: depth - 1]).value):
            mend = "write {} there, or remove the key" if depth else "write {} to begin with"
            problems.append(tree.problem("expected an object", mend=mend, at=keys[:depth]))
            break
        if value is None:
            break
    if problems:
        raise ConfigError(problems)
    if not clients:
        return config_text
    inside = next(keys[:depth] for depth in (2, 1, 0) if isinstance(tree.at(*keys[:depth]).value, dict))
    added: Mapping[str, Any] = clients
    for key in reversed(keys[len(inside) :]):
        added = {key: added}
    return _insert(config_text, inside, added)


class _Reader:
    """Turns entries of one file into clients, and notes what is lost."""

    def __init__(self, path: Path) -> None:
        folder = path.absolute().parent
        self.workspace = folder.parent if folder.name in (".vscode", ".cursor", ".zed") else folder
        self.notes: list[str] = []

    def client(self, name: str, said: Any) -> dict[str, Any] | None:
        if not isinstance(said, dict):
            self.notes.append(f"{name}: is no object and was left out")
            return None
        command, environment = said.get("command"), said.get("env", said.get("environment"))
        arguments = said.get("args")
        if isinstance(command, dict):  # As Zed wrote it once.
            arguments, environment = command.get("args"), command.get("env", environment)
            command = command.get("path")
        words = [*_list(command), *_list(arguments)]
        url = next((said[key] for key in _URL_KEYS if isinstance(said.get(key), str)), None)
        if not words and url is None:
            self.notes.append(f"{name}: says neither a command nor a url, and was left out")
            return None
        result: dict[str, Any] = {"type": "local", "command": words} if words else {"type": "remote", "url": url}
        if isinstance(said.get("cwd"), str):
            result["cwd"] = said["cwd"]
        for key, values in (("environment", environment), ("headers", said.get("headers"))):
            if isinstance(values, dict) and values:
                result[key] = {inner: _text(value) for inner, value in values.items() if value is not None}
        off = said.get("disabled") is True or said.get("enabled") is False
        if not words and "sse" in (said.get("type"), said.get("transport")):
            off = True
            self.notes.append(
                f"{name}: speaks MCP's older SSE transport, which the host does not; it is disabled until its url is "
                "that of a Streamable HTTP endpoint"
            )
        if off:
            result["enabled"] = False
        self._note_left_out(name, said)
        translated: dict[str, Any] = self._translated(name, result)
        for key in ("environment", "headers"):
            for inner, value in translated.get(key, {}).items():
                if _SECRET_NAME.search(inner) and value and "${" not in value:
                    variable = _variable(inner)
                    self.notes.append(
                        f"{name}: {key}.{inner} looks like a secret in plain text; "
                        f"put it into .env and write ${{env:{variable}}}"
                    )
        return translated

    def new_name(self, name: str, taken: Mapping[str, object]) -> str:
        new = plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:60] or "server"
        number = 1
        while new in taken:
            number += 1
            new = f"{plain}-{number}"
        if new != name:
            self.notes.append(f"{name}: is called {new} here")
        return new

    def _note_left_out(self, name: str, said: Mapping[str, Any]) -> None:
        if "envFile" in said:
            self.notes.append(f"{name}: envFile is not read; copy what it needs into .env and name it in environment")
        unknown = sorted(said.keys() - _CARRIED - _WITHOUT_MEANING - {"envFile", "transport"})
        if unknown:
            self.notes.append(f"{name}: left out, having no meaning here: {', '.join(unknown)}")

    def _translated(self, name: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._translated(name, inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._translated(name, _text(inner)) for inner in value]
        return _VARIABLE.sub(lambda found: self._variable(name, found), value) if isinstance(value, str) else value

    def _variable(self, name: str, found: re.Match[str]) -> str:
        """What stands for another client's `${…}` here."""
        inner = found["name"] or found["defaulted"] or found["plain"]
        if found["kind"] == "input":
            variable = _variable(inner)
            self.notes.append(f"{name}: asked for {inner}; put {variable}=… into .env")
            return f"${{env:{variable}}}"
        if found["kind"]:
            return f"${{{found['kind']}:{inner}}}"
        if found["defaulted"]:
            self.notes.append(f"{name}: the default of {inner} was left out; put {inner}=… into .env")
            return f"${{env:{inner}}}"
        known = {
            "workspaceFolder": str(self.workspace),
            "workspaceRoot": str(self.workspace),
            "workspaceFolderBasename": self.workspace.name,
            "userHome": str(Path.home()),
            "HOME": str(Path.home()),
            "pathSeparator": "/",
            "/": "/",
        }
        if inner in known:
            return known[inner]
        if inner.isupper():
            return f"${{env:{inner}}}"
        self.notes.append(f"{name}: {found[0]} stands for nothing here, and was kept as it is")
        return found[0]


# `${env:NAME}`, `{env:NAME}`, `${input:id}`, `${NAME:-default}`, `${NAME}`.
_VARIABLE = re.compile(
    r"\$?\{(?:(?P<kind>env|file|input):)(?P<name>[^}]*)\}"
    r"|\$\{(?P<defaulted>[A-Za-z_]\w*):-[^}]*\}"
    r"|\$\{(?P<plain>[A-Za-z_]\w*|/)\}"
)


def _variable(name: str) -> str:
    return re.sub(r"\W+", "_", name).strip("_").upper() or "VALUE"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if isinstance(value, str) else []


def _is_table(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(inner, dict) for inner in value.values())
        and any(inner.keys() & _CARRIED for inner in value.values())
    )


# Writing into a text.


def _insert(text: str, path: tuple[str, ...], added: Mapping[str, Any]) -> str:
    """`text` with `added` at the end of the object at `path`."""
    outline = Outline(text)
    found = outline.find(path)
    assert found is not None
    newline = "\r\n" if "\r\n" in text else "\n"
    outer = _indentation(text, found.start)
    members = sorted(outline.members(found.start).values(), key=lambda member: member.start)
    own_line = bool(members) and "\n" in text[found.start : members[0].key_start]
    inner = _indentation(text, members[0].key_start) if own_line else outer + _unit(text, outline)
    step = inner[len(outer) :] if inner.startswith(outer) and len(inner) > len(outer) else "  "
    lines = f",{newline}".join(_written(key, value, inner, step, newline) for key, value in added.items())
    if not members:
        before, after = text[: found.end - 1].rstrip(), text[found.end - 1 :]
        return f"{before}{newline}{lines}{newline}{outer}{after}"
    end = members[-1].end
    comma = skip(text, end)
    had_comma = text[comma] == ","
    split = comma + 1 if had_comma else end
    # A comment behind the last item belongs to it, and stays in its line.
    rest = _LINE_REST.match(text, split)
    tail = rest.end() if rest else split
    head = text[:tail] if had_comma else f"{text[:end]},{text[end:tail]}"
    after = text[tail:]
    if had_comma:
        lines += ","
    if after.lstrip(" \t").startswith("}"):
        return f"{head.rstrip(' ' + chr(9))}{newline}{lines}{newline}{outer}{after.lstrip(' ' + chr(9))}"
    return f"{head}{newline}{lines}{after}"


_LINE_REST = re.compile(r"(?:[ \t]*(?:/\*(?:(?!\*/)[^\n])*\*/|//[^\n\r]*))*")


def _indentation(text: str, offset: int) -> str:
    start = max(text.rfind("\n", 0, offset), text.rfind("\r", 0, offset)) + 1
    found = re.compile(r"[ \t]*").match(text, start)
    return found[0] if found else ""


def _unit(text: str, outline: Outline) -> str:
    """One step of the text's own indentation."""
    root = outline.find(())
    members = outline.members(root.start) if root else {}
    first = next(iter(members.values()), None)
    return (_indentation(text, first.key_start) if first else "") or "  "


def _written(key: str, value: Any, indent: str, step: str, newline: str) -> str:
    """One item of an object: an object of objects on several lines, all else on one for each key."""
    if not isinstance(value, Mapping) or not value:
        return f"{indent}{json.dumps(key, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False)}"
    flat = all(not isinstance(inner, Mapping | list) for inner in value.values()) and key in ("environment", "headers")
    if flat:
        return f"{indent}{json.dumps(key, ensure_ascii=False)}: {json.dumps(dict(value), ensure_ascii=False)}"
    items = f",{newline}".join(_written(name, inner, indent + step, step, newline) for name, inner in value.items())
    return f"{indent}{json.dumps(key, ensure_ascii=False)}: {{{newline}{items}{newline}{indent}}}"
