"""The source's options, checked: which servers to connect to, and which subjects and streams to read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from subjects import EVERYTHING, Wanted, doubled, problem_of

from eventhost.kit.options import Options

_DEFAULT_TYPE = "nats.{subject}"
_SECRETS = ("password", "token", "nkeySeed", "credentials")
_SCHEMES = ("nats", "tls")


@dataclass(frozen=True, slots=True)
class Login:
    """Who this is to the server; at most one way has a value."""

    user: str = ""
    password: str = ""
    token: str = ""
    nkey_seed: str = ""
    credentials: str = ""
    """The path of a credentials file."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Paths of PEM files; empty where the machine's own authorities, and no certificate, will do."""

    ca: str = ""
    cert: str = ""
    key: str = ""
    first: bool = False
    """Whether the handshake comes before anything else."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream of JetStream, read through the consumer `consumer`, which is this source's own unless it is `shared`."""

    stream: str
    consumer: str
    shared: bool
    filters: tuple[str, ...]
    """The subjects that are wanted; all where there are none."""
    wanted: tuple[Wanted, ...]
    """What events are called, by the first that fits."""
    deliver: str
    """Where the first start begins: `new`, `all`, `last`, `seq` or `time`."""
    first_seq: int = 0
    first_time: datetime | None = None
    domain: str = ""


@dataclass(frozen=True, slots=True)
class Connection:
    """One server, or several of one cluster, and what is read there."""

    name: str
    urls: tuple[str, ...]
    login: Login
    tls: Tls
    subjects: tuple[Wanted, ...]
    streams: tuple[Stream, ...]

    @property
    def needs_tls(self) -> bool:
        """Whether nothing may be said to a server that speaks no TLS."""
        return bool(self.tls.ca or self.tls.cert) or any(url.startswith("tls://") for url in self.urls)

    @property
    def where(self) -> str:
        """The addresses, for people; without secrets."""
        return ", ".join(f"{urlsplit(url).hostname}:{urlsplit(url).port or 4222}" for url in self.urls)


def connections(values: Mapping[str, Any]) -> list[Connection]:
    """Check the options.

    Raises:
        ConfigError: what is wrong, where, and how to mend it.
    """
    options = Options(values)
    if ("connection" in options) == ("connections" in options):
        example = '{"url": "nats://127.0.0.1:4222", "subjects": ["orders.>"]}'
        raise options.wrong("connections", "name the server and what to read there", f"write [{example}]")
    key = "connection" if "connection" in options else "connections"
    sections = options.sections(key)
    found = [_connection(section) for section in sections]
    if not found:
        raise options.wrong(key, "there is none", "name one, or take the source away")
    if name := doubled(one.name for one in found):
        raise options.wrong(key, f"{name} is there twice", "give each a `name` of its own")
    return found


def _connection(options: Options) -> Connection:
    name = options.text("name", "nats")
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name):
        raise options.wrong("name", "it may have at most 40 letters, digits, _ and -", f"such as {_tame(name)}")
    urls = tuple(options.texts("url", example='["nats://127.0.0.1:4222"]'))
    for url in urls:
        _check_url(options, url)
    login = _login(options, urls)
    tls = _tls(options)
    default = options.text("type", _DEFAULT_TYPE)
    subjects = tuple(_wanted(options, default, in_stream=False))
    if pattern := doubled(f"{one.pattern} {one.queue}".strip() for one in subjects):
        raise options.wrong("subjects", f"{pattern} is there twice", "take one of them away")
    streams = tuple(_stream(section, name, default) for section in options.sections("streams", "stream"))
    if stream := doubled(one.stream for one in streams):
        raise options.wrong("streams", f"{stream} is there twice", "list all its `subjects` in one of them")
    if not subjects and not streams:
        raise options.wrong(
            "subjects", "there is nothing to read", 'name `subjects` such as ["orders.>"], or `streams`'
        )
    options.close()
    return Connection(name, urls, login, tls, subjects, streams)


def _check_url(options: Options, url: str) -> None:
    mend = "write nats://host:4222, or tls://host:4222"
    try:
        parts = urlsplit(url)
        problem = "" if parts.hostname else "it names no host"
        _ = parts.port
    except ValueError:
        # Its text would repeat the address, which may hold a password.
        problem = "it is no address"
    if not problem and parts.scheme not in _SCHEMES:
        problem = "it begins with neither nats:// nor tls://"
    if problem:
        raise options.wrong("url", problem, mend)


def _login(options: Options, urls: tuple[str, ...]) -> Login:
    login = Login(
        options.text("user", ""),
        options.text("password", ""),
        options.text("token", ""),
        options.text("nkeySeed", ""),
        options.text("credentials", ""),
    )
    if bool(login.user) != bool(login.password):
        missing = "password" if login.user else "user"
        raise options.wrong(missing, "missing", "a `user` needs a `password`, and a `password` a `user`")
    ways = [key for key in _SECRETS if key in options]
    if any(urlsplit(url).username for url in urls):
        ways.append("url")
    if len(ways) > 1:
        raise options.wrong(ways[0], f"{' and '.join(ways)} both say who this is", "leave one of them")
    if login.nkey_seed and not re.fullmatch(r"SU[A-Z2-7]{56}", login.nkey_seed.strip()):
        mend = "write the 58 characters beginning with SU, as `nk -gen user` prints them"
        raise options.wrong("nkeySeed", "it is not the seed of a user's nkey", mend)
    return login


def _tls(options: Options) -> Tls:
    tls = Tls(
        options.text("ca", ""), options.text("cert", ""), options.text("key", ""), options.flag("tlsFirst", False)
    )
    if tls.key and not tls.cert:
        raise options.wrong("cert", "missing", "a `key` belongs to a certificate")
    return tls


def _wanted(options: Options, default: str, *, in_stream: bool) -> list[Wanted]:
    """What stands under `subjects`: a list of subjects, of objects, or a type for each subject."""
    given = options.value("subjects")
    if isinstance(given, dict) and "subject" not in given:
        entries = []
        for pattern, event_type in options.table("subjects"):
            if event_type is not None and (not isinstance(event_type, str) or not event_type):
                raise options.wrong(f"subjects.{pattern}", "expected the type of its events", "write a text, or null")
            entries.append((options, f"subjects.{pattern}", Wanted(pattern, event_type or default)))
    else:
        entries = []
        for section in options.sections("subjects", "subject"):
            pattern = section.text("subject", example="orders.>")
            queue = section.text("queue", "") if not in_stream else ""
            entries.append((section, "", Wanted(pattern, section.text("type", default), queue)))
            section.close()
    for section, key, wanted in entries:
        if problem := problem_of(wanted.pattern):
            raise section.wrong(key or "subject", problem, "write such as orders.created, orders.* or orders.>")
        if re.search(r"\s", wanted.queue):
            raise section.wrong("queue", "a group's name has no spaces in it", f"such as {_tame(wanted.queue)}")
        if unknown := wanted.unknown_placeholder(in_stream=in_stream):
            raise section.wrong(key or "type", f"{unknown} means nothing here", _placeholders(wanted, in_stream))
    return [wanted for _, _, wanted in entries]


def _stream(options: Options, connection: str, default: str) -> Stream:
    stream = _name(options, "stream", options.text("stream", example="ORDERS"))
    if "consumer" in options and "durable" in options:
        raise options.wrong("consumer", "there is a `durable` too", "leave `durable` for one that is this source's own")
    shared = "consumer" in options
    consumer = options.text("consumer") if shared else options.text("durable", f"eventhost-{connection}")
    _name(options, "consumer" if shared else "durable", consumer)
    own_type = options.text("type", default)
    wanted = _wanted(options, own_type, in_stream=True)
    everything = Wanted(EVERYTHING, own_type)
    if unknown := everything.unknown_placeholder(in_stream=True):
        raise options.wrong("type", f"{unknown} means nothing here", _placeholders(everything, in_stream=True))
    filters = () if shared else tuple(one.pattern for one in wanted)
    if pattern := doubled(filters):
        raise options.wrong("subjects", f"{pattern} is there twice", "take one of them away")
    if shared and "deliver" in options:
        raise options.wrong("deliver", "the consumer decides", "take it away, or name a `durable` instead")
    deliver, seq, time = _deliver(options)
    domain = options.text("domain", "")
    if domain:
        _name(options, "domain", domain)
    options.close()
    return Stream(stream, consumer, shared, filters, (*wanted, everything), deliver, seq, time, domain)


def _deliver(options: Options) -> tuple[str, int, datetime | None]:
    value = options.value("deliver", "new")
    wanted = 'write "new", "all", "last", {"from": 1200} or {"from": "2026-01-02T03:04:05Z"}'
    if value in ("new", "all", "last"):
        return str(value), 0, None
    if not isinstance(value, dict):
        raise options.wrong("deliver", "it says nowhere to begin", wanted)
    section = options.section("deliver")
    begin = section.value("from")
    section.close()
    if isinstance(begin, int) and not isinstance(begin, bool) and begin > 0:
        return "seq", begin, None
    try:
        time = datetime.fromisoformat(begin)
    except (TypeError, ValueError):
        raise options.wrong("deliver.from", "it is neither a sequence number nor a time", wanted) from None
    return "time", 0, time if time.tzinfo else time.replace(tzinfo=UTC)


def _name(options: Options, key: str, name: str) -> str:
    if re.search(r"[\s.*>/\\]", name) or not name.isprintable() or len(name) > 255:
        raise options.wrong(key, "a name has no spaces and none of . * > / \\ in it", f"such as {_tame(name)}")
    return name


def _tame(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:40] or "main"


def _placeholders(wanted: Wanted, in_stream: bool) -> str:
    names = ["subject", *(["stream"] if in_stream else []), *map(str, range(1, wanted.wildcards + 1))]
    return "there are " + ", ".join(f"{{{name}}}" for name in names)
