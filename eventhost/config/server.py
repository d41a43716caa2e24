"""Of all that the files say of one server, the nearest word counts: its entry's, its client's, its folder's."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from eventhost.config.folders import TOOLS_FOLDER, Folder, find_server, interpreter
from eventhost.config.model import Protocol, ServerConfig, ServerKind, SourceConfig, Timings
from eventhost.config.secrets import missing, references, resolve
from eventhost.config.shape import Client, Entry, Received, Server, Supervision
from eventhost.config.sse import Place, read_sse
from eventhost.config.tree import Tree, merge
from eventhost.config.wording import did_you_mean, one_of
from eventhost.errors import ConfigError, Problem

T = TypeVar("T")

TYPES = {
    "local": "local",
    "stdio": "local",
    "remote": "remote",
    "http": "remote",
    "streamable-http": "remote",
    "streamableHttp": "remote",
    "inprocess": "inprocess",
    "sse": "sse",
}
"""Every spelling of a client's type."""

_FOLDER_TYPES = ("local", "remote", "inprocess", "sse")
"""In a folder any other `type` is the source's own setting."""

_WAYS = {"command": "local", "url": "remote", "module": "inprocess"}
"""The keys that say how to start or reach a server, and the type that each makes it."""

_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*(:[^\W\d]\w*)?")

# Digests of secrets are only ever compared within one process; nobody else can make anything of them.
_DIGEST_KEY = os.urandom(32)


@dataclass(frozen=True, slots=True)
class Said:
    """What one place says of a server; `directory` is where its relative paths begin."""

    tree: Tree
    server: Server
    received: Received
    directory: Path

    @classmethod
    def read(cls, tree: Tree, shape: type[Server], directory: Path) -> Said:
        """Check one place.

        Raises:
            ConfigError: with all that is wrong there.
        """
        options, problems = tree.at("options"), list[Problem]()
        received = Received()
        if isinstance(options.value, dict):
            try:
                received = options.validate(Received)
            except ConfigError as error:
                problems += error.problems
        try:
            said = cls(tree, tree.validate(shape), received, directory)
        except ConfigError as error:
            raise ConfigError([*error.problems, *problems]) from None
        problems += said._contradictions()
        if problems:
            raise ConfigError(problems)
        return said

    @property
    def type(self) -> str | None:
        """`local`, `remote`, `inprocess`, `sse`, or nothing if it is not said."""
        if isinstance(self.server, Client):
            return TYPES[self.server.type] if self.server.type is not None else None
        own = self.tree.value.get("type")
        return own if own in _FOLDER_TYPES else None

    @property
    def ways(self) -> list[str]:
        """The keys by which it says how to start or reach the server."""
        return [way for way in _WAYS if getattr(self.server, way) is not None]

    @property
    def enabled(self) -> bool | None:
        for value in (self.server.enabled, self.server.enable):
            if value is not None:
                return value
        disabled = self.server.disabled if isinstance(self.server, Client) else None
        return None if disabled is None else not disabled

    @property
    def environment(self) -> Mapping[str, str]:
        return self.server.environment or self.server.env or {}

    def _contradictions(self) -> list[Problem]:
        tree, server, problems = self.tree, self.server, list[Problem]()
        twins = [("enabled", "enable"), ("environment", "env"), ("command", "url"), ("command", "module")]
        twins.append(("url", "module"))
        if isinstance(server, Client):
            twins += [("enabled", "disabled"), ("enable", "disabled")]
            if server.type is not None and server.type not in TYPES:
                mend = did_you_mean(server.type, TYPES)
                problems.append(tree.problem(f"expected {one_of(_FOLDER_TYPES)}", mend=mend, at="type"))
        for one, other in twins:
            if getattr(server, one) is not None and getattr(server, other) is not None:
                problems.append(tree.problem(f'"{one}" is given too', mend="keep one of them", at=other, key=True))
        problems += self._command_problems()
        if server.url is not None and (wrong := _url_problem(server.url)):
            problems.append(tree.problem(wrong, mend='write "http://host:port/path", or https', at="url"))
        if server.url is not None and server.transport == "stdio":
            mend = "leave it out: a url is always reached over HTTP"
            problems.append(tree.problem('"stdio" needs a command, not a url', mend=mend, at="transport"))
        if server.module is not None and not _MODULE.fullmatch(server.module):
            mend = 'write "package.module" or "package.module:attribute"'
            problems.append(tree.problem("expected the name of a Python module", mend=mend, at="module"))
        for where, received in (((), server), (("options",), self.received)):
            if received.poll_interval == 0:
                at = (*where, "pollInterval")
                problems.append(tree.problem("must be longer than 0", mend="write 1000 (ms)", at=at))
        for key in ("environment", "env", "headers"):
            for name, value in (getattr(server, key) or {}).items():
                if "\0" in name + value or (key == "headers" and re.search(r"[\r\n]", name + value)):
                    message = "a control character cannot be sent"
                    problems.append(tree.problem(message, mend="remove it", at=(key, name)))
        return problems

    def _command_problems(self) -> list[Problem]:
        tree, command = self.tree, self.server.command
        if command is None:
            return []
        if not command or not command[0]:
            return [tree.problem("names no program", mend='write ["python", "server.py"]', at="command")]
        if any("\0" in word for word in (*command, *(self.server.args or ()))):
            return [tree.problem("holds a null character", mend="remove it", at="command")]
        written = tree.value["command"]
        if not isinstance(written, str) or self.server.args is not None or len(written.split()) < 2:
            return []
        if os.path.exists(self.directory / written):
            return []
        mend = 'write ["program", "argument"], or put the arguments into "args"'
        return [tree.problem("expected a list of strings, got one with spaces", mend=mend, at="command")]


class Chain:
    """What the files say of one server, nearest first, and the configuration that follows from it."""

    def __init__(
        self, name: str, said: Sequence[Said], folder: Folder | None, root: Path, variables: Mapping[str, str]
    ) -> None:
        self.name, self.said, self.folder = name, said, folder
        self._root, self._variables = root, variables

    @property
    def type(self) -> str | None:
        """The type that is said, or that follows from how the server is started or reached."""
        for said in self.said:
            if said.type or said.ways:
                return said.type or _WAYS[said.ways[0]]
        return None

    @property
    def enabled(self) -> bool:
        # Plain event streams are configured as their users know it: switched on by `enable`.
        return _first([said.enabled for said in self.said], self.type != "sse")

    def server(self, defaults: Supervision, *, enabled: bool, auto_start: bool = True) -> ServerConfig:
        """The connection.

        Raises:
            ConfigError: nothing says how to start or reach it, or what is said does not fit together.
        """
        way, base = self._way()
        servers = [said.server for said in self.said]
        # Headers belong to the URL they were written for: those of a place further away must not reach it.
        addressed = self.said[: self.said.index(way) + 1] if way else self.said
        config = replace(
            base,
            enabled=enabled,
            auto_start=auto_start,
            environment={key: value for said in reversed(self.said) for key, value in said.environment.items()},
            headers={key: value for said in reversed(addressed) for key, value in (said.server.headers or {}).items()},
            inherit_environment=_first([server.inherit_environment for server in servers], False),
            protocol=_first([server.protocol for server in servers], Protocol.LEGACY),
            resources=tuple(_first([server.resources for server in servers], [])),
            settings=self._settings(),
            timings=_timings([*servers, defaults]),
            display_name=_first([server.display_name for server in servers], ""),
            description=_first([server.description for server in servers], ""),
        )
        return replace(config, secrets_digest=self._digest(config))

    def source(self, server: ServerConfig) -> SourceConfig:
        """The event source behind a connection."""
        received = [part for said in self.said for part in (said.received, said.server)]
        metadata: dict[str, Any] = {}
        for part in reversed(received):
            metadata = merge(metadata, part.metadata or {})
        return SourceConfig(
            name=self.name,
            server=server,
            folder=self.folder.path if self.folder else None,
            event_types=tuple(_first([part.event_types for part in received], [])),
            metadata=metadata,
            poll_interval_s=_first([part.poll_interval for part in received], 1.0),
            subscribe=_first([_globs(part.subscribe_events) for part in received], None),
            enabled=server.enabled,
            auto_start=server.auto_start,
        )

    def auto_start(self) -> bool:
        return _first([said.server.auto_start for said in self.said], True)

    def missing_secrets(self) -> list[Problem]:
        """A warning for each reference that cannot be resolved now."""
        return [
            said.tree.problem(what[0], mend=what[1], at=reference.path, fatal=False)
            for said in self.said
            for reference in references(said.tree.value)
            if (what := missing(reference, self._root, self._variables))
        ]

    def _way(self) -> tuple[Said | None, ServerConfig]:
        """Who says how to start or reach the server, if anybody does; and what follows for the connection."""
        way = next((said for said in self.said if said.ways), None)
        # A type that is said further away than the way does not speak of it.
        near = self.said[: self.said.index(way) + 1] if way else self.said
        declared = next((said for said in near if said.type), None)
        if declared is None:
            return way, self._said_server(way) if way else self._found_server()
        if declared.type == "sse":
            return self._event_stream(declared, way)
        if declared.type != (_WAYS[way.ways[0]] if way else "local"):
            needed = next(key for key, kind in _WAYS.items() if kind == declared.type)
            message = f'type {json.dumps(declared.tree.value["type"])} needs "{needed}"'
            raise ConfigError([declared.tree.problem(message, mend="add it, or correct the type", at="type")])
        return way, self._said_server(way) if way else self._found_server()

    def _event_stream(self, declared: Said, way: Said | None) -> tuple[Said | None, ServerConfig]:
        if way is not None and way.ways != ["url"]:
            message = f'type "sse" takes no "{way.ways[0]}"'
            raise ConfigError(
                [way.tree.problem(message, mend="remove it, or correct the type", at=way.ways[0], key=True)]
            )
        sse, index, url = read_sse([Place(said.tree, said.directory) for said in self.said])
        if index is None:
            message, mend = 'type "sse" needs "server_url"', "add it, or correct the type"
            raise ConfigError([declared.tree.problem(message, mend=mend, at="type")])
        place = self.said[index]
        if wrong := _url_problem(url):
            at = next(key for key in ("server_url", "serverUrl", "url") if place.tree.value.get(key) is not None)
            raise ConfigError([place.tree.problem(wrong, mend='write "https://host/path", or http', at=at)])
        return place, ServerConfig(self.name, ServerKind.SSE, place.directory, place.tree.file, url=url, sse=sse)

    def _said_server(self, way: Said) -> ServerConfig:
        said = way.server
        cwd = said.cwd if isinstance(said, Client) else None
        base = ServerConfig(
            name=self.name,
            kind=ServerKind.REMOTE if said.url else ServerKind.INPROCESS,
            directory=way.directory / Path(cwd).expanduser() if cwd else way.directory,
            file=way.tree.file,
            url=said.url or "",
            module=said.module or "",
        )
        if said.command is None:
            return base
        program, *arguments = said.command
        command = (interpreter(program), *arguments, *(said.args or ()))
        return replace(base, kind=self._child_kind(), command=command)

    def _found_server(self) -> ServerConfig:
        """The server in the folder, or in that of a client that says no more than its name."""
        said = self.said[-1]
        folder = self.folder.path if self.folder else self._root / TOOLS_FOLDER / self.name
        found = find_server(folder)
        if found is None:
            ways = '"command": ["python", "server.py"], "url": "http://…" or "module": "package.module"'
            mend = f"add a server.py, server.mjs, server.js or server.sh, or {ways}" if self.folder else f"add {ways}"
            raise ConfigError([said.tree.problem("nothing says how to start or reach this server", mend=mend)])
        program, file = found
        return ServerConfig(
            name=self.name,
            kind=self._child_kind(),
            directory=folder if self.folder else self._root,
            file=said.tree.file,
            command=(interpreter(program), file if self.folder else f"{TOOLS_FOLDER}/{self.name}/{file}"),
        )

    def _child_kind(self) -> ServerKind:
        transport = _first([said.server.transport for said in self.said], "stdio")
        return ServerKind.HTTP if transport == "http" else ServerKind.STDIO

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {}
        for said in reversed(self.said):
            # An entry's `client` is a place of its own, and has been laid under it.
            hidden = ("client", "$schema") if isinstance(said.server, Entry) else ("$schema",)
            settings = merge(settings, {key: value for key, value in said.tree.value.items() if key not in hidden})
        return settings

    def _digest(self, config: ServerConfig) -> str:
        """Changes when a secret behind the configuration does; says nothing else of it."""
        used = (config.command, config.url, config.headers, config.environment, config.settings)
        names = sorted({(reference.kind, reference.name) for reference in references(used)})
        if not names:
            return ""
        digest = hmac.new(_DIGEST_KEY, digestmod=hashlib.blake2b)
        for kind, name in names:
            try:
                value = resolve(f"${{{kind}:{name}}}", self._root, self._variables)
            except ConfigError:
                value = "\0missing"
            digest.update(f"{kind}\0{name}\0{value}\0".encode())
        return digest.hexdigest()


def _first(values: Iterable[T | None], default: T) -> T:
    return next((value for value in values if value is not None), default)


def _globs(said: list[str] | None) -> tuple[str, ...] | None:
    return None if said is None else tuple(said)


def _timings(said: Sequence[Supervision]) -> Timings:
    own = Timings()
    return Timings(
        startsecs_s=_first((one.startsecs for one in said), own.startsecs_s),
        startretries=_first((one.startretries for one in said), own.startretries),
        error_retry_s=_first((one.error_retry for one in said), own.error_retry_s),
        stop_timeout_s=_first((one.stop_timeout for one in said), own.stop_timeout_s),
        init_timeout_s=_first((one.init_timeout for one in said), own.init_timeout_s),
    )


def _url_problem(url: str) -> str:
    if "${" in url:
        return ""
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0):
            return ""
    except ValueError:
        pass
    return "expected the address of a server"
