"""Configuration as it is shown over HTTP: references to secrets as they stand, secrets that stand in files not."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

HIDDEN: Final = "(hidden)"

_TABLES: Final = frozenset(("env", "environment", "headers"))
_SECRET: Final = re.compile(r"token|secret|passw|(?:api|auth)[-_]?key|authorization|credential", re.IGNORECASE)


def shown(value: Any, *, hide: bool = False) -> Any:
    """A part of a configuration; in tables of headers and variables only references, templates and numbers are left."""
    match value:
        case dict():
            return {key: shown(each, hide=hide or key in _TABLES or _is_secret(key)) for key, each in value.items()}
        case list() | tuple():
            return [shown(each, hide=hide) for each in value]
        case str() if hide and not _refers(value):
            return HIDDEN
        case str() if "://" in value:
            return shown_url(value)
        case _:
            return value


def shown_url(url: str) -> str:
    """A URL without a password in it."""
    try:
        parts = urlsplit(url)
        password = parts.password
    except ValueError:
        return url
    if not password or _refers(password):
        return url
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username}:{HIDDEN}@{place}"))


def _is_secret(key: Any) -> bool:
    return isinstance(key, str) and _SECRET.search(key) is not None


def _refers(text: str) -> bool:
    return "${" in text or "{{" in text
