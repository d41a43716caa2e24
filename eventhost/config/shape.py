"""What the files may say, key by key: the names, types and examples of everything that is the host's own.

Each model takes the keys it knows and leaves the others alone: whether those are a source's own settings or a mistake
is decided where the place is known. Everything may be left out, and `null` means that it is.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from eventhost.config.durations import Milliseconds, Seconds
from eventhost.config.model import Protocol


class Shape(BaseModel):
    """A part of a file: keys in camelCase, as they are written there."""

    model_config = ConfigDict(extra="ignore", frozen=True, alias_generator=to_camel)

    @classmethod
    def known(cls) -> list[str]:
        """The names of the keys it knows, as they are written."""
        return [info.alias or name for name, info in cls.model_fields.items()]


class Supervision(Shape):
    """How patient the host is, for one server or, at the root, for all."""

    startsecs: Seconds | None = None
    startretries: int | None = Field(default=None, ge=0, examples=[3])
    error_retry: Seconds | None = None
    stop_timeout: Seconds | None = None
    init_timeout: Seconds | None = None


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Words = Annotated[list[str], BeforeValidator(_as_list)]
"""A list of strings; one string is a list of one."""


class Received(Shape):
    """What is done with a source's events; may stand under `options` as well as beside it."""

    event_types: list[str] | None = Field(default=None, examples=[["timer.*"]])
    poll_interval: Milliseconds | None = None
    metadata: dict[str, Any] | None = None


class Server(Supervision, Received):
    """One server, wherever it is configured: the keys of a source's folder."""

    name: str | None = None
    display_name: str | None = None
    description: str | None = None
    enabled: bool | None = None
    enable: bool | None = None
    auto_start: bool | None = None
    command: Words | None = Field(default=None, examples=[["python", "server.py"]])
    args: list[str] | None = Field(default=None, examples=[["server.py"]])
    url: str | None = Field(default=None, examples=["http://127.0.0.1:3000/mcp"])
    headers: dict[str, str] | None = Field(default=None, examples=[{"Authorization": "Bearer ${env:TOKEN}"}])
    module: str | None = Field(default=None, examples=["package.module"])
    transport: Literal["stdio", "http"] | None = None
    protocol: Protocol | None = None
    environment: dict[str, str] | None = Field(default=None, examples=[{"NAME": "value"}])
    env: dict[str, str] | None = Field(default=None, examples=[{"NAME": "value"}])
    inherit_environment: bool | None = None
    resources: list[str] | None = Field(default=None, examples=[["*"]])
    options: dict[str, Any] | None = None


class Client(Server):
    """An entry of `mcp.clients` or `mcpServers`: a server that is no folder, and so must say of which type it is."""

    type: str | None = None
    cwd: str | None = None
    disabled: bool | None = None
    server_url: str | None = Field(default=None, alias="server_url")


class Entry(Client):
    """An entry of `eventSources.sources`; `client` is checked as a `Client` of its own."""

    client: dict[str, Any] | None = None


class Mcp(Shape):
    """The part that older designs know; its clients are checked one by one."""

    clients: dict[str, Any] | None = Field(default=None, examples=[{"todo": {"command": ["python", "./todo.py"]}}])
    event_sources: dict[str, Any] | None = None
    eventsources: dict[str, Any] | None = None


class EventSources(Shape):
    """The switch of all sources; `sources` is checked entry by entry."""

    enabled: bool | None = None
    enable: bool | None = None
    auto_start: bool | None = None
    sources: dict[str, Any] | None = None


class Http(Shape):
    """Where the host listens."""

    host: str = "127.0.0.1"
    port: int = Field(default=8001, ge=0, le=65_535)
    enabled: bool = True


class Journal(Shape):
    """Where events are kept."""

    type: Literal["memory", "sqlite"] = "memory"
    capacity: int = Field(default=10_000, ge=1)
    path: str | None = None


class Log(Shape):
    """What the host's log looks like."""

    level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


class Root(Shape):
    """The root file; its larger parts are checked one by one."""

    schema_: str | None = Field(default=None, alias="$schema")
    id: str | None = None
    display_name: str | None = None
    description: str | None = None
    launch_limit: int | None = Field(default=None, ge=0)
    mcp: Any = None
    mcp_servers: dict[str, Any] | None = Field(default=None, alias="mcpServers")
    eventsources: dict[str, Any] | None = None
    event_sources: dict[str, Any] | None = None
    rules: list[Any] | None = None
    journal: Any = None
    http: Any = None
    log: Any = None
    supervision: Any = None
