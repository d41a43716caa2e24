"""The webhook's options, checked: which path takes what, under which secret, and what event it becomes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from signatures import SCHEMES, check_secret

_ROUTE_KEYS = {"type", "id", "methods", "signature", "secret", "tolerance", "origins"}
_TEMPLATE = re.compile(r"\{(path|method|header:[A-Za-z0-9-]+|body:[^{}]+)\}")
_METHODS = ("POST", "PUT", "PATCH")
_DELIVERY_HEADERS = ("x-github-delivery", "webhook-id", "idempotency-key")


@dataclass(frozen=True, slots=True)
class Template:
    """A text with `{path}`, `{method}`, `{header:NAME}` and `{body:a.b}` in it."""

    text: str

    def fill(self, path: str, method: str, headers: Mapping[str, str], body: Any) -> str:
        """Put the request's values in.

        Raises:
            ValueError: the request lacks one.
        """

        def value(match: re.Match[str]) -> str:
            kind, _, name = match[1].partition(":")
            if kind == "path":
                return path
            if kind == "method":
                return method.lower()
            found: Any = headers.get(name.lower()) if kind == "header" else body
            if kind == "body":
                for key in name.split("."):
                    found = found.get(key) if isinstance(found, dict) else None
            if not isinstance(found, str | int) or isinstance(found, bool) or found == "":
                raise ValueError(f"this route needs {'the header' if kind == 'header' else 'the body field'} {name}")
            return str(found)

        return _TEMPLATE.sub(value, self.text)


@dataclass(frozen=True, slots=True)
class Route:
    """What becomes of requests to one path, or to all below one."""

    path: str
    """Without its trailing `/*`, if it had one."""
    below: bool
    type: Template
    id: Template | None
    methods: tuple[str, ...]
    signature: str
    secrets: tuple[str, ...]
    tolerance_s: float
    origins: frozenset[str]

    def event_id(self, path: str, method: str, headers: Mapping[str, str], body: Any) -> str | None:
        """The sender's own name for this delivery, so that its repeat is known for one; None where it has none."""
        if self.id is not None:
            return self.id.fill(path, method, headers, body)
        found = next((headers[name] for name in _DELIVERY_HEADERS if headers.get(name)), None)
        if found is None and self.signature == "stripe" and isinstance(body, dict):
            found = body.get("id")
        return found if isinstance(found, str) and 0 < len(found) <= 512 and found.isprintable() else None


@dataclass(frozen=True, slots=True)
class Options:
    """Everything that the source's config says to it; sizes in bytes."""

    host: str
    port: int
    max_body: int
    headers: tuple[str, ...]
    routes: tuple[Route, ...]

    @classmethod
    def from_config(cls, options: Mapping[str, Any]) -> Options:
        """Check the options.

        Raises:
            ValueError: what is wrong, and how to mend it.
        """
        host = _expect(options, "host", str, "127.0.0.1", 'an address such as "127.0.0.1"')
        port = _expect(options, "port", int, 8002, "a number from 0 to 65535; 0 takes any that is free")
        max_body = _expect(options, "maxBody", int, 1_000_000, "a number of bytes")
        headers = _texts(options.get("headers", []), "headers")
        routes = _expect(options, "routes", dict, {"/*": {}}, 'an object such as {"/orders": {"type": "shop.order"}}')
        if not 0 <= port <= 65535:
            raise ValueError(f"port: expected a number from 0 to 65535, got {port}")
        if max_body < 1:
            raise ValueError(f"maxBody: expected at least 1, got {max_body}")
        checked = [_route(path, raw) for path, raw in routes.items()]
        checked.sort(key=lambda route: (route.below, -len(route.path)))
        return cls(host, port, max_body, tuple(name.lower() for name in headers), tuple(checked))

    def open_routes(self) -> list[str]:
        """Routes without a signature, where others than this machine's programs reach the address."""
        if self.host.startswith("127.") or self.host in ("::1", "localhost"):
            return []
        return [route.path + "/*" * route.below for route in self.routes if not route.signature]

    def route(self, path: str) -> Route | None:
        """The route that takes `path`: the exact one, else the longest that it lies below."""
        path = path.rstrip("/")
        for route in self.routes:
            if path == route.path or (route.below and path.startswith(f"{route.path}/")):
                return route
        return None


def _route(path: str, raw: Any) -> Route:
    place = f"routes[{path!r}]"
    if not path.startswith("/"):
        raise ValueError(f'{place}: a path begins with "/", and may end with "/*"')
    if not isinstance(raw, dict):
        raise ValueError(f'{place}: expected an object such as {{"type": "shop.order"}}')
    if unknown := sorted(raw.keys() - _ROUTE_KEYS):
        raise ValueError(f"{place}.{unknown[0]}: no such option; there are {', '.join(sorted(_ROUTE_KEYS))}")
    signature = _expect(raw, "signature", str, "", f"one of {', '.join(SCHEMES)}", place)
    secrets = _texts(raw.get("secret", []), f"{place}.secret")
    if signature and signature not in SCHEMES:
        raise ValueError(f"{place}.signature: expected one of {', '.join(SCHEMES)}, got {signature!r}")
    if bool(signature) != bool(secrets) or "" in secrets:
        raise ValueError(f'{place}: "signature" and a non-empty "secret" go together')
    for secret in secrets:
        try:
            check_secret(signature, secret)
        except ValueError as error:
            raise ValueError(f"{place}.secret: {error}") from None
    tolerance_s = _expect(raw, "tolerance", int, 300, "a number of seconds", place)
    kind = _expect(raw, "type", str, "webhook.{path}", "a text", place)
    event_id = _expect(raw, "id", str, "", "a text", place)
    methods = tuple(method.upper() for method in _texts(raw.get("methods", list(_METHODS)), f"{place}.methods"))
    origins = frozenset(_texts(raw.get("origins", []), f"{place}.origins"))
    below = path.endswith("/*")
    return Route(
        path.removesuffix("/*").rstrip("/"),
        below,
        _template(kind, f"{place}.type"),
        _template(event_id, f"{place}.id") if event_id else None,
        methods,
        signature,
        secrets,
        float(tolerance_s),
        origins,
    )


def _template(text: str, place: str) -> Template:
    if not text or set("{}") & set(_TEMPLATE.sub("", text)):
        raise ValueError(f"{place}: {text!r} may hold {{path}}, {{method}}, {{header:NAME}} and {{body:FIELD}}")
    return Template(text)


def _expect(raw: Mapping[str, Any], key: str, kind: type, default: Any, wanted: str, place: str = "") -> Any:
    value = raw.get(key, default)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{place}{'.' if place else ''}{key}: expected {wanted}, got {type(value).__name__}")
    return value


def _texts(value: Any, place: str) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(text, str) for text in values):
        raise ValueError(f"{place}: expected a text or a list of them")
    return tuple(values)
