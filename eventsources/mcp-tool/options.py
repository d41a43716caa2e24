"""What the configuration asks for: which tools of which servers to call, when, and how to read what they answer."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from schedules import Every, Schedule, cron

from eventhost.kit.options import Options
from eventhost.kit.selection import Selection, canonical

CHANGES: Final = ("created", "changed", "deleted")
PROTOCOLS: Final = ("legacy", "modern", "auto")

_TYPE: Final = "mcp-tool.{name}.{change}"
_PLACES: Final = ("name", "tool", "change")
_EXAMPLE: Final = '"tools": [{"server": {"command": ["python", "server.py"]}, "tool": "list", "key": "id"}]'


@dataclass(frozen=True, slots=True)
class ServerAt:
    """Where an MCP server is: a command to start, or a URL."""

    name: str
    command: tuple[str, ...] = ()
    cwd: str = "."
    environment: Mapping[str, str] | None = None
    url: str = ""
    headers: Mapping[str, str] | None = None
    protocol: str = "legacy"
    timeout_s: float = 60

    def without_secrets(self, text: str) -> str:
        """`text` without what only the configuration may say: header values, variables, what is in the URL."""
        text = text.replace(self.url, self.address) if self.url else text
        url = urlsplit(self.url)
        secrets = [*(self.headers or {}).values(), *(self.environment or {}).values(), url.query, url.password or ""]
        # A header such as `Bearer abc` may be repeated in parts. Short texts are words rather than secrets.
        found = {part for value in secrets for part in (value, *value.split()) if len(part) >= 8}
        for part in sorted(found, key=len, reverse=True):
            text = text.replace(part, "…")
        return text

    @property
    def address(self) -> str:
        """The URL without what may be a secret."""
        parts = urlsplit(self.url)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"


@dataclass(frozen=True, slots=True)
class Pages:
    """How to ask for the rest of a list: with what the answer says is next, or by counting."""

    argument: str
    next: str = ""
    more: str = ""
    start: int | None = None
    most: int = 100


@dataclass(frozen=True, slots=True)
class Watched:
    """One tool to call again and again; `types` are the events' types by the kind of change."""

    name: str
    server: ServerAt
    tool: str
    arguments: Mapping[str, Any]
    schedule: Schedule
    selection: Selection
    types: Mapping[str, str]
    tells_first: bool
    tells_deleted: bool
    empty: tuple[str, ...]
    pages: Pages | None
    timeout_s: float

    @property
    def question(self) -> str:
        """The same text as long as the same is asked. It is kept, and arguments may hold secrets."""
        pages = self.pages and [self.pages.argument, self.pages.next, self.pages.start]
        return sha256(canonical([self.tool, dict(self.arguments), pages]).encode()).hexdigest()[:16]


def watched(options: Mapping[str, Any]) -> list[Watched]:
    """The tools that a source's options name.

    Raises:
        ConfigError: what is wrong, and how to mend it.
    """
    top = Options(options)
    section = top.section("servers")
    servers = {name: _server(section.section(name), _name(section, name, name)) for name, _ in top.table("servers")}
    entries = top.sections("tools")
    if not entries:
        raise top.wrong("tools", "name what to call", f"write {_EXAMPLE}")
    found: dict[str, Watched] = {}
    for entry in entries:
        one = _watched(entry, servers)
        if one.name in found:
            raise entry.wrong("name", f"{one.name} is there twice", "give each tool a `name` of its own")
        found[one.name] = one
    return list(found.values())


def _watched(options: Options, servers: Mapping[str, ServerAt]) -> Watched:
    tool = options.text("tool", example="list_issues")
    name = _name(options, "name", options.text("name", tool))
    arguments = options.value("arguments", {})
    if not isinstance(arguments, dict):
        raise options.wrong("arguments", "expected an object", 'write {"state": "open"}')
    first = options.one_of("first", ("skip", "tell"), "skip")
    one = Watched(
        name=name,
        server=_server_of(options, servers, name),
        tool=tool,
        arguments=arguments,
        schedule=_schedule(options),
        selection=Selection.of(options),
        types=_types(options, name, tool),
        tells_first=first == "tell",
        tells_deleted=options.flag("deleted", True),
        empty=tuple(options.texts("empty", (), example="No issues found*")),
        pages=_pages(options.section("pages")) if "pages" in options else None,
        timeout_s=options.seconds("timeout", 60, least=0.1, most=3600),
    )
    options.close()
    return one


def _name(options: Options, key: str, name: str) -> str:
    # It is part of types, ids and file names.
    if not re.fullmatch(r"[\w-][\w.-]{0,99}", name, re.ASCII):
        mend = "give it one of at most 100 letters, digits, `_`, `.`, `-`"
        raise options.wrong(key, f"{name[:100]} is no name", mend)
    return name


def _server_of(options: Options, servers: Mapping[str, ServerAt], name: str) -> ServerAt:
    value = options.value("server")
    if isinstance(value, dict):
        return _server(options.section("server"), name)
    if value is None and len(servers) == 1:
        return next(iter(servers.values()))
    wanted = 'write {"command": […]}, {"url": "…"}, or the name of one of `servers`'
    if value is None:
        raise options.wrong("server", "missing", wanted)
    if not isinstance(value, str):
        raise options.wrong("server", "expected an object or a text", wanted)
    if value not in servers:
        there = f"there are {', '.join(servers)}" if servers else "there is no `servers`"
        raise options.wrong("server", f"there is no server {value}", f"{there}; {wanted}")
    return servers[value]


def _server(options: Options, name: str) -> ServerAt:
    if ("command" in options) == ("url" in options):
        told = "has both `command` and `url`" if "url" in options else "has neither `command` nor `url`"
        raise options.wrong("", told, 'write one of them: {"command": ["npx", "-y", "…"]} or {"url": "https://…/mcp"}')
    common: dict[str, Any] = {
        "name": name,
        "protocol": options.one_of("protocol", PROTOCOLS, "legacy"),
        "timeout_s": options.seconds("timeout", 60, least=0.1, most=3600),
    }
    if "url" in options:
        url = options.text("url")
        if not _is_address(url):
            raise options.wrong("url", "expected an address", 'write one such as "https://example.org/mcp"')
        server = ServerAt(url=url, headers=_texts(options, "headers"), **common)
    else:
        # As servers' own instructions have it: a program, and its arguments beside it.
        command = options.texts("command", example='["python", "server.py"]')
        arguments = options.texts("args", ()) if options.value("args") != [] else []
        if len(command) == 1 and not arguments and " " in command[0] and not Path(command[0]).exists():
            raise options.wrong(
                "command", "one text is a program without arguments", 'write a list: ["python", "server.py"]'
            )
        if command[0] in ("python", "python3"):
            command = [sys.executable, *command[1:]]
        both = [key for key in ("environment", "env") if key in options]
        if len(both) == 2:
            raise options.wrong("env", "stands beside `environment`", "write one of them")
        server = ServerAt(
            command=(*command, *arguments),
            cwd=str(Path(options.text("cwd", ".")).expanduser()),
            environment=_texts(options, both[0] if both else "environment"),
            **common,
        )
        if not Path(server.cwd).is_dir():
            raise options.wrong("cwd", f"there is no folder {server.cwd}", "it is relative to the source's folder")
    options.close()
    return server


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        # An impossible port is noticed only when it is asked for.
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _texts(options: Options, key: str) -> dict[str, str]:
    found = dict(options.table(key))
    for name, value in found.items():
        if not isinstance(value, str):
            raise options.wrong(f"{key}.{name}", "expected a text", 'write "…", or "${env:NAME}" for a secret')
    return found


def _schedule(options: Options) -> Schedule:
    if "cron" not in options:
        if "timezone" in options:
            raise options.wrong("timezone", "goes with `cron`", "leave it out")
        return Every(options.seconds("every", 60, least=0.1, most=30 * 86_400))
    if "every" in options:
        raise options.wrong("cron", "stands beside `every`", "write one of them")
    text, zone = options.text("cron"), options.text("timezone", "UTC")
    try:
        return cron(text, zone)
    except ValueError as error:
        # The message names the zone if it is the zone.
        raise options.wrong("timezone" if zone in str(error) else "cron", str(error)) from None


def _types(options: Options, name: str, tool: str) -> dict[str, str]:
    given = options.value("type", _TYPE)
    if isinstance(given, dict):
        section = options.section("type")
        templates = {change: section.text(change, _TYPE) for change in CHANGES}
        section.close()
    else:
        template = options.text("type", _TYPE, example=_TYPE)
        templates = dict.fromkeys(CHANGES, template)
    types = {}
    for change, template in templates.items():
        unknown = [place for place in re.findall(r"\{([^{}]*)\}", template) if place not in _PLACES]
        if unknown:
            places = ", ".join(f"{{{place}}}" for place in _PLACES)
            raise options.wrong("type", f"there is no {{{unknown[0]}}}", f"it may hold {places}")
        values = {"name": name, "tool": tool, "change": change}
        types[change] = re.sub(r"\{(\w+)\}", lambda found, values=values: values[found[1]], template)  # type: ignore[misc]
    return types


def _pages(options: Options) -> Pages:
    argument = options.text("argument", example="cursor")
    if ("next" in options) == ("from" in options):
        mend = 'write "next", the path of its cursor in the answer, or "from": 1'
        raise options.wrong("", "it is not said how the next page is asked for", mend)
    pages = Pages(
        argument,
        next=options.text("next") if "next" in options else "",
        more=options.text("more") if "more" in options else "",
        start=options.whole("from", least=0, most=1_000_000) if "from" in options else None,
        most=options.whole("most", 100, least=1, most=10_000),
    )
    options.close()
    return pages
