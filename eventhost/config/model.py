"""What the rest of the host knows of its configuration: plain frozen values, checked, with nothing left to guess.

Secrets are still references (`${env:NAME}`, `${file:path}`) in here; `secrets.resolve` is called where one is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from eventhost.config.tree import Tree
from eventhost.errors import Problem


class ServerKind(StrEnum):
    """How a server is reached."""

    STDIO = "stdio"
    """A child that speaks over its stdin and stdout."""
    HTTP = "http"
    """A child that speaks Streamable HTTP on the port that `PORT` tells it."""
    REMOTE = "remote"
    """A Streamable HTTP endpoint that somebody else runs."""
    INPROCESS = "inprocess"
    """A Python module in the host's own process."""
    SSE = "sse"
    """An endpoint that speaks `text/event-stream` and no MCP: a source without tools."""


class Protocol(StrEnum):
    """Which era of MCP to speak."""

    LEGACY = "legacy"
    MODERN = "modern"
    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Timings:
    """How patient the host is with one server; all in seconds, but `startretries`, a count."""

    startsecs_s: float = 0.5
    startretries: int = 3
    error_retry_s: float = 600.0
    stop_timeout_s: float = 2.0
    init_timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class SseConfig:
    """How an `sse` endpoint is asked, and what its events become."""

    auth_key: str = field(default="", repr=False)
    connection_timeout_s: float = 30.0
    read_timeout_s: float = 60.0
    """So long it may be silent; 0: for ever."""
    reconnect: bool = True
    max_attempts: int = 10
    """How many attempts in a row may fail; -1: any number."""
    first_delay_s: float = 1.0
    longest_delay_s: float = 60.0
    backoff_factor: float = 2.0
    buffer: int = 1000
    """How many events are kept for Python users."""
    log_events: bool = True
    subscribed: tuple[str, ...] = ()
    """Globs of the names of events that are taken; empty means any."""
    types: Mapping[str, str] = field(default_factory=dict)
    """Event types by names of events; `*` is for all others, and stands for the name in its type."""
    user_agent: str = ""
    verify_tls: bool = True
    cert: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """One MCP server and how to keep it: a source folder's, or a client's.

    Equal configs mean that nothing needs a restart.
    """

    name: str
    kind: ServerKind
    directory: Path
    """Where a child runs and relative paths begin."""
    file: str
    """The file that says so, for messages; relative to the environment's root."""
    command: tuple[str, ...] = ()
    """Program and arguments of a child; `python` is already the host's own interpreter."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    inherit_environment: bool = False
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    module: str = ""
    """`package.module` or `package.module:attribute` of an in-process server."""
    sse: SseConfig | None = None
    """Of an endpoint of kind `sse`."""
    protocol: Protocol = Protocol.LEGACY
    resources: tuple[str, ...] = ()
    """URIs to subscribe to; `*` stands for all that the server lists."""
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What a child gets as JSON in `MCP_SERVER_CONFIG`: everything its config says."""
    timings: Timings = field(default_factory=Timings)
    enabled: bool = True
    auto_start: bool = True
    display_name: str = ""
    description: str = ""
    secrets_digest: str = field(default="", repr=False)
    """Differs when a secret that the config refers to does, so that a changed one restarts what uses it."""


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """One event source: its server, and what the host does with its events."""

    name: str
    server: ServerConfig
    folder: Path | None = None
    """The source's folder, where it is one."""
    event_types: tuple[str, ...] = ()
    """Globs of the types it may say; empty means any."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    poll_interval_s: float = 1.0
    subscribe: tuple[str, ...] | None = None
    """Globs of the types that it is asked for; None: of another eventhost any, of all others what they say by
    themselves."""
    enabled: bool = True
    auto_start: bool = True


@dataclass(frozen=True, slots=True)
class JournalConfig:
    """Where events are kept, and for how long; `None` is no limit."""

    type: Literal["memory", "sqlite"] = "sqlite"
    path: str = "var/journal.db"
    """Relative to the environment's root."""
    durability: Literal["full", "normal"] = "full"
    age_s: float | None = 7 * 86_400
    size_bytes: int | None = 1_000_000_000
    cap_bytes: int | None = None
    trace: Literal["off", "failures", "all"] = "all"
    capacity: int = 10_000
    """How many events a journal in memory holds."""
    letters: int | None = 10_000
    """How many dead letters are kept."""
    letters_size: int | None = None
    """How long they may be together, in bytes; a tenth of `size_bytes` if it is not given."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """How often one key, or one address, may ask; a burst is what may come at once."""

    enabled: bool = True
    requests_per_minute: int = 60
    burst_size: int = 10
    publish_per_minute: int = 6000
    publish_burst: int = 1000


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """Files in PEM form, relative to the environment's root; that of `cert` may hold the chain too."""

    cert: str
    key: str


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """`enabled: false` leaves only the control socket."""

    host: str = "127.0.0.1"
    port: int = 8001
    enabled: bool = True
    auth: Literal["auto", "keys"] = "auto"
    """`auto`: without keys while only this machine can ask."""
    hosts: tuple[str, ...] = ()
    """Further names by which it is called, as a proxy's clients know it."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks whose `X-Forwarded-For` is believed."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may ask; `*` is any of them, without cookies."""
    rate_limit: RateLimit = field(default_factory=RateLimit)
    tls: TlsConfig | None = None
    max_body: int = 8_000_000
    """The largest batch of events in one request, in bytes."""
    access_log: bool = True
    sign_in_s: float = 43_200.0
    """How long a browser stays signed in."""
    heartbeat_s: float = 30.0
    """A stream says at least this often that it lives."""
    max_connections: int = 1000
    """Streams and sessions at once."""
    connection_timeout_s: float = 300.0
    """A stream or session whose client does not read for so long is ended."""


@dataclass(frozen=True, slots=True)
class LogConfig:
    """`format` is `auto` (console on a terminal, else JSON), `console` or `json`."""

    level: str = "info"
    format: str = "auto"


@dataclass(frozen=True, slots=True)
class EnvironmentConfig:
    """Everything that an environment's files say."""

    root: Path
    rules: Tree
    """The located `rules` list of the root config; the room `rules/` checks it."""
    rule_files: Mapping[str, Tree] = field(default_factory=dict, repr=False)
    """The located lists of `rules/*.jsonc`, by file, in the order in which they follow the root's."""
    broken_rules: Mapping[str, tuple[Problem, ...]] = field(default_factory=dict)
    """The rule files that cannot be read; the others are unharmed."""
    rules_enabled: Mapping[str, bool] = field(default_factory=dict)
    """By name, the rules that were enabled or disabled for good, whatever their files say."""
    id: str = ""
    display_name: str = ""
    description: str = ""
    clients: Mapping[str, ServerConfig] = field(default_factory=dict)
    """Connections that are no sources: their tools are offered, their events are not taken."""
    sources: Mapping[str, SourceConfig] = field(default_factory=dict)
    """All event sources by name, folders and clients alike; their tools are offered too."""
    broken: Mapping[str, tuple[Problem, ...]] = field(default_factory=dict)
    """Folders and clients whose part of the configuration cannot be used; the others are unharmed."""
    warnings: tuple[Problem, ...] = ()
    http: HttpConfig = field(default_factory=HttpConfig)
    journal: JournalConfig = field(default_factory=JournalConfig)
    log: LogConfig = field(default_factory=LogConfig)
    launch_limit: int = 0
    """How many servers may be starting at once; 0 means two more than there are processors."""
