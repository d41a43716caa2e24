"""What the files may say, key by key: the names, types and examples of everything that is the host's own.

Each model takes the keys it knows and leaves the others alone: whether those are a source's own settings or a mistake
is decided where the place is known. Everything may be left out, and `null` means that it is.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

from eventhost.config.durations import Duration, Milliseconds, Seconds
from eventhost.config.model import Protocol
from eventhost.config.sizes import Size


class Shape(BaseModel):
    """A part of a file: keys in camelCase, as they are written there."""

    model_config = ConfigDict(extra="ignore", frozen=True, alias_generator=to_camel)

    @classmethod
    def known(cls) -> list[str]:
        """The names of the keys it knows, as they are written."""
        return [info.alias or name for name, info in cls.model_fields.items()]


class Supervision(Shape):
    """How patient the host is, for one server or, at the root, for all."""

    startsecs: Seconds | None = Field(
        default=None, description="How long it must stay up to count as running; a bare number is seconds."
    )
    startretries: int | None = Field(
        default=None, ge=0, description="Failed starts in a row before a local server is in `error`.", examples=[3]
    )
    error_retry: Seconds | None = Field(default=None, description="When it is tried again then; 0 means never.")
    stop_timeout: Seconds | None = Field(default=None, description="Patience at each step of stopping.")
    init_timeout: Seconds | None = Field(default=None, description="Patience with its initialization.")


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Words = Annotated[
    list[str],
    BeforeValidator(_as_list),
    WithJsonSchema({"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string"}]}),
]
"""A list of strings; one string is a list of one."""


class Received(Shape):
    """What is done with a source's events; may stand under `options` as well as beside it."""

    event_types: list[str] | None = Field(
        default=None,
        description="Globs of the types that it may say; others are refused and counted. By default any.",
        examples=[["timer.*"]],
    )
    poll_interval: Milliseconds | None = Field(
        default=None, description="How often `list_pending_events` is asked; a bare number is milliseconds."
    )
    subscribe_events: list[str] | None = Field(
        default=None,
        description="Globs of the types for which its `subscribe_event` is called; of another eventhost by default "
        "any, of others none.",
        examples=[["door.*"]],
    )
    metadata: dict[str, Any] | None = Field(default=None, description="Laid under the metadata of each event.")


class Server(Supervision, Received):
    """One server, wherever it is configured: the keys of a source's folder."""

    name: str | None = Field(default=None, description="The source's name; by default that of its folder.")
    display_name: str | None = Field(default=None, description="Its name for people.")
    description: str | None = Field(default=None, description="What it is, for people.")
    enabled: bool | None = Field(default=None, description="Whether it runs; by default it does.")
    enable: bool | None = Field(default=None, description="Another spelling of `enabled`.")
    auto_start: bool | None = Field(default=None, description="Whether it starts with the host; by default it does.")
    command: Words | None = Field(
        default=None,
        description="Program and arguments of a child; `python` means the host's own interpreter.",
        examples=[["python", "server.py"]],
    )
    args: list[str] | None = Field(
        default=None, description="More arguments, after those of `command`.", examples=[["server.py"]]
    )
    url: str | None = Field(
        default=None,
        description="A Streamable HTTP endpoint that somebody else runs.",
        examples=["http://127.0.0.1:3000/mcp"],
    )
    headers: dict[str, str] | None = Field(
        default=None,
        description="Sent with each request to `url`.",
        examples=[{"Authorization": "Bearer ${env:TOKEN}"}],
    )
    module: str | None = Field(
        default=None,
        description="A server in the host's own process: `package.module` or `package.module:attribute`.",
        examples=["package.module"],
    )
    transport: Literal["stdio", "http"] | None = Field(
        default=None, description="How a child speaks; `http`: on the port that the variable PORT tells it."
    )
    protocol: Protocol | None = Field(default=None, description="Which era of MCP to speak.")
    environment: dict[str, str] | None = Field(
        default=None, description="Variables of a child, beside a minimal environment.", examples=[{"NAME": "value"}]
    )
    env: dict[str, str] | None = Field(
        default=None, description="Another spelling of `environment`.", examples=[{"NAME": "value"}]
    )
    inherit_environment: bool | None = Field(default=None, description="Give a child all of the host's variables.")
    resources: list[str] | None = Field(
        default=None, description="URIs to subscribe to; `*` stands for all that it lists.", examples=[["*"]]
    )
    options: dict[str, Any] | None = Field(
        default=None,
        description="The server's own settings; `eventTypes`, `pollInterval` and `metadata` work here too.",
    )


class Client(Server):
    """An entry of `mcp.clients` or `mcpServers`: a server that is no folder, and so must say of which type it is."""

    type: str | None = Field(
        default=None, description="How it is reached; follows from `command`, `url` or `module` if it is not said."
    )
    cwd: str | None = Field(default=None, description="Where a child runs, from the environment's folder.")
    disabled: bool | None = Field(default=None, description="`enabled`, the other way round.")


class Entry(Client):
    """An entry of `eventSources.sources`; `client` is checked as a `Client` of its own."""

    client: dict[str, Any] | None = Field(default=None, description="The server, with the keys of a client.")


class Mcp(Shape):
    """The part that older designs know; its clients are checked one by one."""

    clients: dict[str, Any] | None = Field(
        default=None,
        description="MCP servers that are no folders, by name.",
        examples=[{"todo": {"command": ["python", "./todo.py"]}}],
    )
    event_sources: dict[str, Any] | None = Field(default=None, description="Which servers are event sources.")
    eventsources: dict[str, Any] | None = Field(default=None, description="Another spelling of `eventSources`.")


class EventSources(Shape):
    """The switch of all sources; `sources` is checked entry by entry."""

    enabled: bool | None = Field(default=None, description="`false`: there are no sources, only tool servers.")
    enable: bool | None = Field(default=None, description="Another spelling of `enabled`.")
    auto_start: bool | None = Field(default=None, description="`false`: no source starts by itself.")
    sources: dict[str, Any] | None = Field(default=None, description="By the name of a client or of a folder.")


class Spelled(Shape):
    """Keys in camelCase or, as other services of this kind write them, in snake_case."""

    model_config = ConfigDict(populate_by_name=True)

    @classmethod
    def known(cls) -> list[str]:
        """The names of the keys it knows, in both spellings."""
        return list(dict.fromkeys([*super().known(), *cls.model_fields]))


class Sse(Spelled):
    """What an `sse` client says besides: an endpoint that speaks `text/event-stream` and no MCP."""

    server_url: str | None = Field(
        default=None,
        description="Where its events are; `url` will do as well.",
        examples=["https://example.org/events"],
    )
    auth_key: str | None = Field(default=None, description="Sent as a bearer token.", examples=["${env:SSE_KEY}"])
    connection_timeout: Seconds | None = Field(
        default=None, gt=0, description="How long it may take to answer; a bare number is seconds. By default 30."
    )
    read_timeout: Seconds | None = Field(
        default=None,
        description="How long it may send nothing at all; a bare number is seconds. By default 60; 0: for ever.",
    )
    enable_reconnect: bool | None = Field(default=None, description="Whether to connect again; by default it does.")
    max_reconnect_attempts: int | None = Field(
        default=None, ge=-1, description="So many attempts in a row may fail; by default 10; -1: any number."
    )
    initial_reconnect_delay: Seconds | None = Field(
        default=None, description="The pause before the first attempt; a bare number is seconds. By default 1."
    )
    max_reconnect_delay: Seconds | None = Field(
        default=None, description="The longest pause; a bare number is seconds. By default 60."
    )
    reconnect_backoff_factor: float | None = Field(
        default=None, ge=1, description="By what each pause is longer than the last; by default 2.", examples=[2.0]
    )
    event_buffer_size: int | None = Field(
        default=None, ge=1, description="How many of the last events are kept for Python users; by default 1000."
    )
    enable_event_logging: bool | None = Field(
        default=None, description="Log each event, at the level `debug`; by default it does."
    )
    subscribed_events: Words | None = Field(
        default=None,
        description="Globs of the names of events that are taken; none given: all.",
        examples=[["chat.message"]],
    )
    type_map: dict[str, Annotated[str, Field(min_length=1)]] | None = Field(
        default=None,
        description="Event types by the names of events; `*` is for all others, and stands for the name in its type.",
        examples=[{"message": "mai.message", "*": "mai.*"}],
    )
    user_agent: str | None = Field(default=None, description="What the host calls itself.")
    verify_ssl: bool | None = Field(
        default=None, description="Whether to check the server's certificate; by default yes."
    )
    ssl_cert_path: str | None = Field(default=None, description="A client certificate, in PEM form.")
    ssl_key_path: str | None = Field(default=None, description="Its key, unless it stands in the same file.")


class Limits(Spelled):
    """Requests in a minute and at once, for each key, or for each address where there is none."""

    enabled: bool = Field(default=True, description="`false`: as often as it likes.")
    requests_per_minute: int = Field(default=60, ge=1, description="In the long run.")
    burst_size: int = Field(default=10, ge=1, description="At once.")
    publish_per_minute: int = Field(default=6000, ge=1, description="The same for POST /events alone.")
    publish_burst: int = Field(default=1000, ge=1, description="The same for POST /events alone.")


class Cors(Spelled):
    """The origins of web pages that may ask although they come from elsewhere."""

    origins: list[str] = Field(
        default=[],
        description="Such as `https://example.org`; `*`: any page, with a key but never with a cookie.",
        examples=[["https://example.org"]],
    )


class Tls(Spelled):
    """Encryption; both are files in PEM form, from the environment's folder."""

    cert: str = Field(
        min_length=1, description="The certificate, and after it the chain.", examples=["./tls/fullchain.pem"]
    )
    key: str = Field(min_length=1, description="Its private key.", examples=["./tls/key.pem"])


class Http(Spelled):
    """Where the host listens, and whom it answers."""

    host: str = Field(
        default="127.0.0.1", description="An address or name of this machine; others than loopback need a key."
    )
    port: int = Field(default=8001, ge=0, le=65_535, description="0 lets the system choose.")
    enabled: bool = Field(default=True, description="`false` leaves only the control socket.")
    auth: Literal["auto", "keys"] = Field(
        default="auto", description="`keys`: everybody needs a key; `auto`: not while only this machine can ask."
    )
    hosts: list[str] = Field(
        default=[],
        description="Further names by which it is called, such as a proxy's.",
        examples=[["events.example.org"]],
    )
    trusted_proxies: list[str] = Field(
        default=[],
        description="Addresses or networks of proxies that say in X-Forwarded-For who asks.",
        examples=[["10.0.0.1"]],
    )
    cors: Cors = Field(default=Cors(), description="Which web pages from elsewhere may ask.")
    rate_limit: Limits = Field(default=Limits(), description="How often one key, or one address, may ask.")
    tls: Tls | None = Field(default=None, description="Encryption; by default none.")
    max_body: Size = Field(default=8_000_000, description="The largest batch of events in one request.")
    access_log: bool = Field(default=True, description="Log who asked what, and what became of it.")
    sign_in: Seconds = Field(
        default=43_200.0, gt=0, description="How long a browser stays signed in; a bare number is seconds."
    )
    heartbeat: Seconds = Field(
        default=30.0, gt=0, description="A stream says at least this often that it lives; a bare number is seconds."
    )
    max_connections: int = Field(default=1000, ge=1, description="Streams and sessions at once.")
    connection_timeout: Seconds = Field(
        default=300.0,
        gt=0,
        description="A stream whose client does not read for so long is ended; a bare number is seconds.",
    )


class Retention(Shape):
    """How long events are kept."""

    age: Duration | None = Field(
        default=7 * 86_400, description="What is older goes; `null`: nothing is too old.", examples=["7d"]
    )
    size: Size | None = Field(
        default=1_000_000_000,
        description="Beyond it the oldest go that no rule needs; `null`: no limit.",
        examples=["1GB"],
    )
    cap: Size | None = Field(
        default=None,
        description="Beyond it the oldest go even if a rule needs them: what it owes become dead letters. By default, "
        "twice `size`.",
        examples=["2GB"],
    )
    dead_letters: int | None = Field(
        default=10_000,
        ge=0,
        description="How many dead letters are kept; beyond it the oldest go, and a `host.gap` says so. `null`: no "
        "limit.",
    )
    dead_letters_size: Size | None = Field(
        default=None,
        description="How long they may be together; beyond it likewise. By default, a tenth of `size`.",
        examples=["100MB"],
    )


class Journal(Shape):
    """Where events are kept."""

    type: Literal["memory", "sqlite"] = Field(
        default="sqlite", description="`memory` loses everything when the host ends."
    )
    path: str = Field(default="var/journal.db", description="The file of an `sqlite` journal.")
    durability: Literal["full", "normal"] = Field(
        default="full", description="`normal` survives the host's end, but perhaps not the machine's."
    )
    retention: Retention = Field(default=Retention(), description="How long an `sqlite` journal keeps events.")
    trace: Literal["off", "failures", "all"] = Field(
        default="all", description="Of which events' way through the rules `explain` can tell every attempt."
    )
    capacity: int = Field(default=10_000, ge=1, description="How many events a `memory` journal holds.")


class Log(Shape):
    """What the host's log looks like."""

    level: Literal["debug", "info", "warning", "error", "critical"] = Field(
        default="info", description="What is less important is left out."
    )
    format: Literal["auto", "console", "json"] = Field(
        default="auto", description="`auto`: for people on a terminal, else JSON lines."
    )


class Root(Shape):
    """The root file; its larger parts are checked one by one."""

    schema_: str | None = Field(default=None, alias="$schema", description="For editors.")
    id: str | None = Field(default=None, description="The environment's name; by default that of its folder.")
    display_name: str | None = Field(default=None, description="Its name for people.")
    description: str | None = Field(default=None, description="What it is, for people.")
    launch_limit: int | None = Field(
        default=None, ge=0, description="Servers that may be starting at once; 0: two more than there are processors."
    )
    mcp: Any = Field(default=None, description="MCP servers, and which of them are event sources.")
    mcp_servers: dict[str, Any] | None = Field(
        default=None, alias="mcpServers", description="`mcp.clients`, in the widespread spelling."
    )
    eventsources: dict[str, Any] | None = Field(default=None, description="Which servers are event sources.")
    event_sources: dict[str, Any] | None = Field(default=None, description="Which servers are event sources.")
    rules: list[Any] | None = Field(default=None, description="What happens on an event.")
    journal: Any = Field(default=None, description="Where events are kept.")
    http: Any = Field(default=None, description="The host's HTTP interface, for programs on this machine.")
    log: Any = Field(default=None, description="What the host's log looks like.")
    supervision: Any = Field(default=None, description="How patient the host is with all servers.")
