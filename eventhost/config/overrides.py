"""Environment variables that go before the files: the names by which services of this kind are set up in containers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from eventhost.config.durations import LONGEST_S
from eventhost.config.model import HttpConfig, LogConfig
from eventhost.errors import Problem

_LEVELS = ("debug", "info", "warning", "error", "critical")


def override(
    http: HttpConfig, log: LogConfig, variables: Mapping[str, str]
) -> tuple[HttpConfig, LogConfig, list[Problem]]:
    """What the files say with what the variables say laid over it, and the variables that cannot be used.

    An empty variable says nothing.
    """
    problems: list[Problem] = []
    said: dict[str, Any] = {}
    for name, (read, expected) in _VARIABLES.items():
        if not (text := variables.get(name, "").strip()):
            continue
        try:
            said[name] = read(text)
        except ValueError:
            # Never what it holds: nobody knows what somebody has put into a variable.
            problems.append(Problem(f"the variable {name}", f"expected {expected}", "mend it, or unset it"))
    chosen = {field: said[name] for name, field in _HTTP.items() if name in said}
    limits = {field: said[name] for name, field in _LIMITS.items() if name in said}
    http = replace(http, **chosen, rate_limit=replace(http.rate_limit, **limits))
    if said.get("MCP_SSE_DEBUG"):
        log = replace(log, level="debug")
    elif "MCP_SSE_LOG_LEVEL" in said:
        log = replace(log, level=said["MCP_SSE_LOG_LEVEL"])
    return http, log, problems


def _whole(low: int, high: float = math.inf) -> tuple[Callable[[str], int], str]:
    def read(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError
        return value

    return read, f"a whole number from {low}" + ("" if high == math.inf else f" to {high}")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= LONGEST_S:
        raise ValueError
    return value


def _level(text: str) -> str:
    level = {"warn": "warning", "fatal": "critical"}.get(text.lower(), text.lower())
    if level not in _LEVELS:
        raise ValueError
    return level


def _switch(text: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if text.lower() not in words:
        raise ValueError
    return words[text.lower()]


_SECONDS = (_seconds, "a number of seconds, more than 0")

_VARIABLES: dict[str, tuple[Callable[[str], Any], str]] = {
    "MCP_SSE_HOST": (str, "an address"),
    "MCP_SSE_PORT": _whole(0, 65_535),
    "MCP_SSE_LOG_LEVEL": (_level, f"one of {', '.join(_LEVELS)}"),
    "MCP_SSE_DEBUG": (_switch, "true or false"),
    "SSE_HEARTBEAT_INTERVAL": _SECONDS,
    "SSE_MAX_CONNECTIONS": _whole(1),
    "SSE_CONNECTION_TIMEOUT": _SECONDS,
    "RATE_LIMIT_REQUESTS_PER_MINUTE": _whole(1),
    "RATE_LIMIT_BURST_SIZE": _whole(1),
}

_HTTP = {
    "MCP_SSE_HOST": "host",
    "MCP_SSE_PORT": "port",
    "SSE_HEARTBEAT_INTERVAL": "heartbeat_s",
    "SSE_MAX_CONNECTIONS": "max_connections",
    "SSE_CONNECTION_TIMEOUT": "connection_timeout_s",
}

_LIMITS = {
    "RATE_LIMIT_REQUESTS_PER_MINUTE": "requests_per_minute",
    "RATE_LIMIT_BURST_SIZE": "burst_size",
}
