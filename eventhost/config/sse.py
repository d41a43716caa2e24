"""What the files say of an `sse` client becomes its configuration; the nearest place counts, key by key."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eventhost import __version__
from eventhost.config.model import SseConfig
from eventhost.config.shape import Sse
from eventhost.config.tree import Tree
from eventhost.errors import ConfigError, Problem

_USER_AGENT = f"eventhost/{__version__}"
_DEFAULT = SseConfig()


class Place(NamedTuple):
    """One place that speaks of the client, and where relative paths in it begin."""

    tree: Tree
    directory: Path


def read_sse(places: Sequence[Place]) -> tuple[SseConfig, int | None, str]:
    """The configuration, and which of the places names the server, by which URL; `places` are nearest first.

    Raises:
        ConfigError: with all that is wrong.
    """
    problems: list[Problem] = []
    said: list[Sse] = []
    for place in places:
        try:
            said.append(place.tree.validate(Sse))
        except ConfigError as error:
            problems += error.problems
        problems += _spelled_twice(place.tree)
    if problems:
        raise ConfigError(problems)
    cert, key = (_path(places, [getattr(each, name) for each in said]) for name in ("ssl_cert_path", "ssl_key_path"))
    if key is not None and cert is None:
        message, mend = "a key without a certificate", 'add "ssl_cert_path", or remove this one'
        raise ConfigError([places[0].tree.problem(f"ssl_key_path: {message}", mend=mend)])
    types: dict[str, str] = {}
    for each in reversed(said):
        types |= each.type_map or {}
    config = SseConfig(
        auth_key=_first((each.auth_key for each in said), ""),
        connection_timeout_s=_first((each.connection_timeout for each in said), _DEFAULT.connection_timeout_s),
        read_timeout_s=_first((each.read_timeout for each in said), _DEFAULT.read_timeout_s),
        reconnect=_first((each.enable_reconnect for each in said), _DEFAULT.reconnect),
        max_attempts=_first((each.max_reconnect_attempts for each in said), _DEFAULT.max_attempts),
        first_delay_s=_first((each.initial_reconnect_delay for each in said), _DEFAULT.first_delay_s),
        longest_delay_s=_first((each.max_reconnect_delay for each in said), _DEFAULT.longest_delay_s),
        backoff_factor=_first((each.reconnect_backoff_factor for each in said), _DEFAULT.backoff_factor),
        buffer=_first((each.event_buffer_size for each in said), _DEFAULT.buffer),
        log_events=_first((each.enable_event_logging for each in said), _DEFAULT.log_events),
        subscribed=tuple(_first((each.subscribed_events for each in said), ())),
        types=types,
        user_agent=_first((each.user_agent for each in said), "") or _USER_AGENT,
        verify_tls=_first((each.verify_ssl for each in said), _DEFAULT.verify_tls),
        cert=cert,
        key=key,
    )
    for index, (place, each) in enumerate(zip(places, said, strict=True)):
        for url in (each.server_url, place.tree.value.get("url")):
            if url is not None:
                return config, index, url
    return config, None, ""


def _spelled_twice(tree: Tree) -> Iterable[Problem]:
    spellings = [(info.alias or name, name) for name, info in Sse.model_fields.items()]
    for one, other in [*spellings, ("url", "server_url"), ("url", "serverUrl")]:
        if one != other and tree.value.get(one) is not None and tree.value.get(other) is not None:
            yield tree.problem(f'"{one}" is given too', mend="keep one of them", at=other, key=True)


def _path(places: Sequence[Place], said: Sequence[str | None]) -> Path | None:
    for place, path in zip(places, said, strict=True):
        if path is not None:
            return place.directory / Path(path).expanduser() if path else None
    return None


def _first(values: Iterable[Any], default: Any) -> Any:
    return next((value for value in values if value is not None), default)
