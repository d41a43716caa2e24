"""The source's options, checked: which databases to watch, what in them, and what its events are called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

_COMMON = {"name", "url", "tables", "type"}
_KEYS = {
    "postgresql": _COMMON | {"password", "channels", "slot", "publication", "create"},
    "mysql": _COMMON | {"password", "serverId", "position"},
    "sqlite": _COMMON | {"interval"},
}
_KINDS = {
    "postgresql": "postgresql",
    "postgres": "postgresql",
    "mysql": "mysql",
    "mariadb": "mysql",
    "sqlite": "sqlite",
}
_TEMPLATE = re.compile(r"\{(database|schema|table|operation)\}")
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0}

EVERY_TABLE = "*"


@dataclass(frozen=True, slots=True)
class TypeTemplate:
    """A text with `{database}`, `{schema}`, `{table}` and `{operation}` in it."""

    text: str

    def fill(self, database: str, schema: str, table: str, operation: str) -> str:
        """The event type; what no type should hold becomes `_`."""
        values = {"database": database, "schema": schema, "table": table, "operation": operation}
        return _TEMPLATE.sub(lambda match: re.sub(r"[^A-Za-z0-9_:-]", "_", values[match[1]]), self.text)


@dataclass(frozen=True, slots=True)
class Postgres:
    """One PostgreSQL database; `tables` is None where the publication is another's business."""

    name: str
    conninfo: str
    password: str
    tables: tuple[str, ...] | None
    channels: Mapping[str, str]
    """The event type of each channel."""
    slot: str
    publication: str
    create: bool
    type: TypeTemplate

    @property
    def captures(self) -> bool:
        """Whether changes of tables are wanted, and not notifications alone."""
        return self.tables is not None or bool(self.publication)


@dataclass(frozen=True, slots=True)
class MySql:
    """One MySQL or MariaDB server, and its tables as `schema.table`; all of them where there are none."""

    name: str
    connect: Mapping[str, Any]
    """Keyword arguments of `pymysql.connect`."""
    tables: frozenset[str]
    schema: str
    server_id: int | None
    by_file: bool
    type: TypeTemplate


@dataclass(frozen=True, slots=True)
class Sqlite:
    """One SQLite file; each table with the column whose values only grow, or with None for a comparison."""

    name: str
    path: str
    tables: Mapping[str, str | None]
    interval_s: float
    type: TypeTemplate


Database = Postgres | MySql | Sqlite


def databases(options: Mapping[str, Any]) -> list[Database]:
    """Check the options; relative paths begin in the working folder, which is the source's own.

    Raises:
        ValueError: what is wrong, and how to mend it.
    """
    one, several = options.get("database"), options.get("databases")
    if (one is None) == (several is None):
        raise ValueError('databases: name what to watch, such as [{"url": "postgresql://host/shop", "tables": ["*"]}]')
    given = several if one is None else [one]
    if not isinstance(given, list) or not given:
        raise ValueError("databases: expected a list of objects, each with a url")
    found = [_database(value, "database" if several is None else f"databases[{i}]") for i, value in enumerate(given)]
    names = [database.name for database in found]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"databases: {doubled[0]} is there twice; give each a `name` of its own")
    return found


def _database(given: Any, where: str) -> Database:
    value = {"url": given} if isinstance(given, str) else given
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: expected an object with a url")
    url = _text(value, "url", where)
    scheme, colon, _ = url.partition(":")
    kind = _KINDS.get(scheme.split("+")[0]) if colon else None
    if kind is None:
        raise ValueError(f"{where}.url: expected postgresql://…, mysql://…, mariadb://… or sqlite:///…")
    if unknown := sorted(value.keys() - _KEYS[kind]):
        raise ValueError(f"{where}.{unknown[0]}: no option of {kind}; there are {', '.join(sorted(_KEYS[kind]))}")
    url = kind + url[len(scheme) :]
    template = _text(value, "type", where, "database.{operation}")
    if re.search(r"[{}]", _TEMPLATE.sub("", template)):
        raise ValueError(f"{where}.type: it may hold {{database}}, {{schema}}, {{table}} and {{operation}}")
    if kind == "postgresql":
        return _postgres(value, url, TypeTemplate(template), where)
    return (_mysql if kind == "mysql" else _sqlite)(value, url, TypeTemplate(template), where)


def _postgres(value: Mapping[str, Any], url: str, template: TypeTemplate, where: str) -> Postgres:
    name = _name(value, urlsplit(url).path.strip("/") or "postgresql", where)
    tables = _tables(value, where)
    slot = _text(value, "slot", where, "eventhost_" + re.sub(r"[^a-z0-9_]", "_", name.lower()))
    if not re.fullmatch(r"[a-z0-9_]{1,63}", slot):
        raise ValueError(f"{where}.slot: at most 63 lower-case letters, digits and _, got {slot!r}")
    create = value.get("create", True)
    if not isinstance(create, bool):
        raise ValueError(f"{where}.create: expected true or false")
    publication = _text(value, "publication", where, slot if tables is not None else "")
    channels = _channels(value, where)
    if tables is None and not publication and not channels:
        raise ValueError(f'{where}: name `tables` (["*"] for all), a `publication`, or `channels`')
    password = _text(value, "password", where, "")
    return Postgres(name, url, password, tables, channels, slot, publication, create, template)


def _channels(value: Mapping[str, Any], where: str) -> dict[str, str]:
    channels = value.get("channels", {})
    if isinstance(channels, list):
        channels = dict.fromkeys(channels)
    if not isinstance(channels, Mapping) or not all(
        isinstance(channel, str) and channel and (event_type is None or (isinstance(event_type, str) and event_type))
        for channel, event_type in channels.items()
    ):
        raise ValueError(f'{where}.channels: expected a list of channels, or types such as {{"orders": "orders.told"}}')
    return {
        channel: event_type or "database.notify." + re.sub(r"[^A-Za-z0-9_:-]", "_", channel)
        for channel, event_type in channels.items()
    }


def _mysql(value: Mapping[str, Any], url: str, template: TypeTemplate, where: str) -> MySql:
    try:
        parts = urlsplit(url)
        port = parts.port or 3306
    except ValueError as error:
        raise ValueError(f"{where}.url: {error}") from None
    schema = unquote(parts.path.strip("/"))
    connect: dict[str, Any] = {
        "host": parts.hostname or "127.0.0.1",
        "port": port,
        "user": unquote(parts.username or ""),
        "password": _text(value, "password", where, "") or unquote(parts.password or ""),
    }
    for key, text in parse_qsl(parts.query):
        if key not in ("unix_socket", "ssl_ca", "ssl_cert", "ssl_key", "ssl_verify_cert", "ssl_verify_identity"):
            raise ValueError(f"{where}.url: {key} is none of unix_socket, ssl_ca, ssl_cert, ssl_key, ssl_verify_…")
        connect[key] = text not in ("0", "false") if "verify" in key else text
    server_id = value.get("serverId")
    if server_id is not None and (
        isinstance(server_id, bool) or not isinstance(server_id, int) or not 0 < server_id < 2**32
    ):
        raise ValueError(f"{where}.serverId: expected a whole number from 1 to {2**32 - 1} that no other replica has")
    position = value.get("position", "gtid")
    if position not in ("gtid", "file"):
        raise ValueError(f'{where}.position: expected "gtid" or "file"')
    tables = _tables(value, where) or (EVERY_TABLE,)
    if EVERY_TABLE in tables:
        wanted: frozenset[str] = frozenset()
    elif not schema and (bare := [table for table in tables if "." not in table]):
        raise ValueError(f"{where}.tables: which database has {bare[0]}? Write database.{bare[0]}, or name it in `url`")
    else:
        wanted = frozenset(table if "." in table else f"{schema}.{table}" for table in tables)
    name = _name(value, schema or "mysql", where)
    return MySql(name, connect, wanted, schema, server_id, position == "file", template)


def _sqlite(value: Mapping[str, Any], url: str, template: TypeTemplate, where: str) -> Sqlite:
    path = unquote(url.removeprefix("sqlite:").removeprefix("//").removeprefix("/"))
    if not path or path == ":memory:":
        raise ValueError(f"{where}.url: name a file: sqlite:///relative.db, or sqlite:////absolute.db")
    given = value.get("tables", {})
    tables: dict[str, str | None] = {}
    if isinstance(given, Mapping):
        for table, how in given.items():
            cursor = how.get("cursor") if isinstance(how, Mapping) and how.keys() <= {"cursor"} else how
            if not isinstance(how, Mapping) or not (cursor is None or (isinstance(cursor, str) and cursor)):
                raise ValueError(f'{where}.tables.{table}: expected {{}} or {{"cursor": "id"}}')
            tables[table] = cursor
    else:
        tables = dict.fromkeys(_tables(value, where) or ())
    if not tables or EVERY_TABLE in tables:
        raise ValueError(f'{where}.tables: name them, such as ["orders"] or {{"orders": {{"cursor": "id"}}}}')
    name = _name(value, re.split(r"[/\\]", path)[-1].split(".")[0], where)
    return Sqlite(name, path, tables, _seconds(value.get("interval", 1000), f"{where}.interval"), template)


def _name(value: Mapping[str, Any], default: str, where: str) -> str:
    name = _text(value, "name", where, re.sub(r"[^A-Za-z0-9_-]", "_", default))
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name):
        raise ValueError(f"{where}.name: at most 40 letters, digits, _ and -, got {name!r}")
    return name


def _tables(value: Mapping[str, Any], where: str) -> tuple[str, ...] | None:
    tables = value.get("tables")
    if tables is None:
        return None
    tables = [tables] if isinstance(tables, str) else tables
    if not isinstance(tables, list) or not tables or not all(isinstance(table, str) and table for table in tables):
        raise ValueError(f'{where}.tables: expected a list of tables such as ["public.orders"], or ["*"] for all')
    return tuple(dict.fromkeys(tables))


def _text(value: Mapping[str, Any], key: str, where: str, default: str | None = None) -> str:
    text = value.get(key, default)
    if not isinstance(text, str):
        raise ValueError(f"{where}.{key}: expected a text")
    return text


def _seconds(value: Any, where: str) -> float:
    if isinstance(value, str) and (match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m)", value.strip())):
        seconds = float(match[1]) * _UNITS_S[match[2]]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value / 1000
    else:
        raise ValueError(f'{where}: expected milliseconds or a text such as "500ms", got {value!r}')
    if not 0.01 <= seconds <= 3600:
        raise ValueError(f"{where}: expected at least 10 ms and at most an hour, got {value!r}")
    return seconds
