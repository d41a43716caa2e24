"""The source's options, checked: which brokers, how to come in, which topics, and what their events are called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from topics import Topic, problem_of, wrong_in_type

from eventhost.kit.options import Options

DEFAULT_TYPE: Final = "mqtt.{topic}"
_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
_TLS_OPTIONS: Final = ("ca", "cert", "key", "keyPassword", "verify")
_EXAMPLE: Final = "mqtt://broker.example"
_NEVER_S: Final = 0xFFFF_FFFE


@dataclass(frozen=True, slots=True)
class Tls:
    """Whom to trust and as whom to come; the files are PEM."""

    ca: str | None
    cert: str | None
    key: str | None
    key_password: str
    verify: bool


@dataclass(frozen=True, slots=True)
class Broker:
    """One broker, and what is wanted of it."""

    name: str
    host: str
    port: int
    tls: Tls | None
    username: str | None
    password: str | None
    client_id: str | None
    version: str
    keep_alive_s: int
    session_expiry_s: int
    topics: tuple[Topic, ...]


def brokers(values: Mapping[str, Any]) -> list[Broker]:
    """Check the options; relative paths begin in the working folder, which is the source's own.

    Raises:
        ConfigError: what is wrong, and how to mend it.
    """
    options = Options(values)
    if ("broker" in options) == ("brokers" in options):
        mend = f'write "brokers": [{{"url": "{_EXAMPLE}", "topics": ["home/#"]}}]'
        if "broker" in options:
            raise options.wrong("broker", "there are `brokers` too", "move it to them")
        raise options.wrong("brokers", "missing", mend)
    key = "broker" if "broker" in options else "brokers"
    sections = [options.section(key)] if key == "broker" else options.sections(key)
    if not sections:
        raise options.wrong(key, "expected a list of objects, got an empty list")
    found: list[Broker] = []
    for section in sections:
        broker = _broker(section)
        _alone(broker, found, section)
        found.append(broker)
    return found


def _alone(broker: Broker, others: list[Broker], section: Options) -> None:
    for other in others:
        if other.name == broker.name:
            raise section.wrong("name", f"{broker.name} is the name of another broker, too", "give each its own")
        same = (other.host, other.port, other.client_id) == (broker.host, broker.port, broker.client_id)
        if same and broker.client_id is not None:
            raise section.wrong(
                "clientId", f"{other.name} has it, too, and a broker serves only one of them", "give each its own"
            )


def _broker(options: Options) -> Broker:
    scheme, host, port, user = _address(options)
    name = options.text("name", re.sub(r"[^A-Za-z0-9._-]", "_", host))
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", name):
        raise options.wrong("name", "expected at most 64 letters, digits, ., _ and -")
    username = options.text("username", user or "") or None
    password = options.text("password", "") or None
    if password is not None and username is None:
        raise options.wrong("password", "it needs a user", 'write "username", too')
    broker = Broker(
        name=name,
        host=host,
        port=port,
        tls=_tls(options, scheme),
        username=username,
        password=password,
        client_id=options.text("clientId", "") or None,
        version=options.one_of("version", ["5", "3.1.1"], "5"),
        keep_alive_s=round(options.seconds("keepAlive", 30, least=1, most=65_535)),
        session_expiry_s=round(options.seconds("sessionExpiry", 7 * 86_400, least=1, most=_NEVER_S)),
        topics=_topics(options),
    )
    options.close()
    return broker


def _address(options: Options) -> tuple[str, str, int, str | None]:
    url = options.text("url", example=_EXAMPLE)
    expected = "expected mqtt://HOST:PORT, or mqtts://HOST:PORT for TLS"
    # What stands in it may be a secret, so none of it is told.
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise options.wrong("url", f"{expected}, got something else") from None
    if parts.scheme not in _PORTS or not host or port == 0:
        raise options.wrong("url", f"{expected}, got something else")
    if parts.password is not None:
        raise options.wrong("url", "a password in it would be seen", 'write it as "password": "${env:MQTT_PASSWORD}"')
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise options.wrong("url", f"{expected}, got more", "write what to listen to under `topics`")
    return parts.scheme, host, port or _PORTS[parts.scheme], unquote(parts.username) if parts.username else None


def _tls(options: Options, scheme: str) -> Tls | None:
    given = [key for key in _TLS_OPTIONS if key in options]
    if scheme == "mqtt":
        if given:
            raise options.wrong(given[0], "this is for TLS alone", "write mqtts:// in `url`")
        return None
    files = {key: options.text(key, "") or None for key in ("ca", "cert", "key")}
    for key, file in files.items():
        if file is not None and not Path(file).is_file():
            raise options.wrong(key, f"there is no file {file}", "write the path of a PEM file")
    if files["key"] is not None and files["cert"] is None:
        raise options.wrong("key", "a key is of no use without its certificate", 'write "cert", too')
    return Tls(**files, key_password=options.text("keyPassword", ""), verify=options.flag("verify", True))


def _topics(options: Options) -> tuple[Topic, ...]:
    # A topic that does not say how goes by what the broker says of all its topics.
    common = _topic_options(options, Topic("#", DEFAULT_TYPE))
    given = options.value("topics")
    if isinstance(given, dict):
        sections = [
            Options({**how, "topic": name} if isinstance(how, dict) else {"topic": name, "type": how}, place)
            for name, how in given.items()
            for place in [f"{options.field}.topics.{name}"]
        ]
    else:
        sections = options.sections("topics", "topic")
    if not sections:
        raise options.wrong("topics", "missing", 'write what to listen to, such as ["home/+/temperature"]')
    found: dict[str, Topic] = {}
    for section in sections:
        topic_filter = section.text("topic", example="home/+/temperature")
        if problem := problem_of(topic_filter):
            raise section.wrong("topic", f"this is no topic filter: {problem}")
        if topic_filter in found:
            raise section.wrong("topic", f"{topic_filter} is there twice", "leave one of them out")
        topic = _topic_options(section, common, topic_filter)
        if problem := wrong_in_type(topic.type, topic_filter):
            raise (section if "type" in section else options).wrong("type", problem)
        section.close()
        found[topic_filter] = topic
    return tuple(found.values())


def _topic_options(options: Options, common: Topic, topic_filter: str = "#") -> Topic:
    return Topic(
        filter=topic_filter,
        type=options.text("type", common.type, example="door.{1}"),
        qos=options.whole("qos", common.qos, least=0, most=2),
        retained=options.one_of("retained", ["tell", "skip"], "tell" if common.retained else "skip") == "tell",
        payload=options.one_of("payload", ["auto", "text", "base64"], common.payload),
        id=_path(options, common.id),
    )


def _path(options: Options, default: tuple[str, ...]) -> tuple[str, ...]:
    if "id" not in options:
        return default
    path = tuple(options.text("id", example="payload.id").split("."))
    if len(path) < 2 or path[0] not in ("payload", "metadata") or not all(path):
        raise options.wrong(
            "id", "expected where it stands in the event", 'write "payload.id" or "metadata.user_properties.id"'
        )
    return path
