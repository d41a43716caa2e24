"""From files to one checked `EnvironmentConfig`, or to every problem at once, each with its place."""

from eventhost.config.diff import Changes, diff, touched_sources, with_last_good
from eventhost.config.durations import Duration, Milliseconds, Seconds
from eventhost.config.load import check_environment, load_environment, make_source
from eventhost.config.model import (
    EnvironmentConfig,
    HttpConfig,
    JournalConfig,
    LogConfig,
    Protocol,
    RateLimit,
    ServerConfig,
    ServerKind,
    SourceConfig,
    SseConfig,
    Timings,
    TlsConfig,
)
from eventhost.config.secrets import resolve, resolve_all, variables
from eventhost.config.state import State, load_state, save_state, set_enabled, set_rule_enabled
from eventhost.config.tree import Tree

__all__ = [
    "Changes",
    "Duration",
    "EnvironmentConfig",
    "HttpConfig",
    "JournalConfig",
    "LogConfig",
    "Milliseconds",
    "Protocol",
    "RateLimit",
    "Seconds",
    "ServerConfig",
    "ServerKind",
    "SourceConfig",
    "SseConfig",
    "State",
    "Timings",
    "TlsConfig",
    "Tree",
    "check_environment",
    "diff",
    "load_environment",
    "load_state",
    "make_source",
    "resolve",
    "resolve_all",
    "save_state",
    "set_enabled",
    "set_rule_enabled",
    "touched_sources",
    "variables",
    "with_last_good",
]
