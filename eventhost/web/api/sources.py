"""Sources: how each fares, what it can be told to do, and whether it would work as it is configured."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec

from eventhost.access import Access
from eventhost.config import SourceConfig
from eventhost.sources import SourceStatus
from eventhost.web.endpoint import get, post
from eventhost.web.redaction import HIDDEN, shown, shown_url
from eventhost.web.source_check import SourceTest, tested

if TYPE_CHECKING:
    from eventhost.environment import ServerEnvironment


class Verb(StrEnum):
    """What a source can be told."""

    START = "start"
    STOP = "stop"
    RESTART = "restart"
    ENABLE = "enable"
    DISABLE = "disable"


class SourceList(msgspec.Struct, frozen=True):
    sources: list[SourceStatus]


class SourceDefinition(msgspec.Struct, frozen=True):
    """As it is configured, but for secrets; of variables and headers only the names are told."""

    display_name: str
    description: str
    enabled: bool
    auto_start: bool
    kind: str
    protocol: str
    file: str
    folder: str | None
    command: list[str]
    url: str
    module: str
    environment: list[str]
    headers: list[str]
    event_types: list[str]
    metadata: dict[str, Any]
    resources: list[str]
    poll_interval_s: float

    @classmethod
    def of(cls, config: SourceConfig) -> SourceDefinition:
        """The definition of a source."""
        server = config.server
        return cls(
            server.display_name,
            server.description,
            config.enabled,
            config.auto_start,
            str(server.kind),
            str(server.protocol),
            server.file,
            str(config.folder) if config.folder is not None else None,
            [HIDDEN if _is_secret_word(server.command, place) else word for place, word in enumerate(server.command)],
            shown_url(server.url),
            server.module,
            sorted(server.environment),
            sorted(server.headers),
            list(config.event_types),
            shown(dict(config.metadata)),
            list(server.resources),
            config.poll_interval_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceDetail(SourceStatus):
    """Its status, and its definition; null while its configuration cannot be used."""

    definition: SourceDefinition | None


class Sources:
    """The event sources."""

    def __init__(self, environment: ServerEnvironment) -> None:
        self._environment = environment
        self._verbs = {
            Verb.START: environment.start_source,
            Verb.STOP: environment.stop_source,
            Verb.RESTART: environment.restart_source,
            Verb.ENABLE: environment.enable_source,
            Verb.DISABLE: environment.disable_source,
        }

    @get("/sources", Access.READ)
    async def all(self) -> SourceList:
        """Every source's status, by name."""
        return SourceList(self._environment.source_statuses())

    @get("/sources/{name}", Access.READ)
    async def one(self, name: str) -> SourceDetail:
        """One source's status, and how it is configured."""
        status = self._environment.source_status(name)
        config = self._environment.source_config(name)
        definition = SourceDefinition.of(config) if config is not None else None
        return SourceDetail(
            **{field.name: getattr(status, field.name) for field in fields(SourceStatus)}, definition=definition
        )

    @post("/sources/{name}/test", Access.ADMIN)
    async def test(self, name: str) -> SourceTest:
        """Whether a source works as its files have it now; nothing is started, stopped or changed."""
        return await tested(self._environment, name)

    @post("/sources/{name}/{verb}", Access.ADMIN, errors=(409,))
    async def act(self, name: str, verb: Verb) -> SourceStatus:
        """Start, stop, restart, enable or disable a source; enabling and disabling last."""
        await self._verbs[verb](name)
        return self._environment.source_status(name)


def _is_secret_word(command: tuple[str, ...], place: int) -> bool:
    """Whether a word of a command follows an option such as `--token`."""
    before = command[place - 1] if place else ""
    return before.startswith("-") and shown({before.lstrip("-"): "x"}) != {before.lstrip("-"): "x"}
