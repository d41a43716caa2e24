"""The OpenAPI 3.1 document, made of the same signatures that the routes are served by."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, get_origin

import msgspec
from pydantic import BaseModel
from starlette.responses import Response

from eventhost import __version__
from eventhost.access import Access
from eventhost.web.access.door import Door
from eventhost.web.answers import ErrorAnswer
from eventhost.web.endpoint import Endpoint, get

_REF: Final = "#/components/schemas/{name}"
_ERROR: Final = {"$ref": _REF.format(name="ErrorAnswer")}

_ERRORS: Final = {
    400: "A parameter or the body cannot be used.",
    401: "A key is needed, or the one that was sent is not known.",
    403: "The key has not the scope for it, or a web page from elsewhere asks.",
    404: "There is nothing of this name.",
    406: "None of the media types that are accepted can be had.",
    409: "It cannot be done now, or several things are called so; `data` says more.",
    413: "The body is too large.",
    415: "The body is of a kind that is not taken here.",
    422: "The key in `Idempotency-Key` was used for another request.",
    426: "It is to be asked for as a WebSocket.",
    429: "Too many requests.",
    500: "A fault of the host's; its log says more.",
    503: "The host is stopping, or is not ready, or does not get an answer itself.",
}
_ALWAYS: Final = frozenset((401, 403, 413, 429, 500, 503))
"""Errors of every route: what the guard answers, and what may happen to any."""

_RETRY_AFTER: Final = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 0}}}
_RATE: Final = {
    "X-RateLimit-Limit": {"description": "Requests a minute.", "schema": {"type": "integer"}},
    "X-RateLimit-Remaining": {"description": "Requests that may come at once.", "schema": {"type": "integer"}},
    "X-RateLimit-Reset": {"description": "When that is all again, in s since 1970.", "schema": {"type": "integer"}},
}


class Description:
    """The description of the host's own HTTP face."""

    def __init__(self, endpoints: Sequence[Endpoint], door: Door) -> None:
        self._endpoints, self._door = endpoints, door
        self._document: dict[str, Any] | None = None

    @get("/openapi.json", Access.OPEN)
    async def openapi(self) -> dict[str, Any]:
        """This document."""
        if self._document is None:
            self._document = document(self._endpoints, cookie=self._door.cookie, needs_keys=self._door.needs_keys)
        return self._document


def document(endpoints: Sequence[Endpoint], *, cookie: str = "eventhost", needs_keys: bool = False) -> dict[str, Any]:
    """The OpenAPI document of these endpoints; `cookie` is what a browser that is signed in shows."""
    known, components = _schemas(endpoints)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        path = re.sub(r"{(\w+):\w+}", r"{\1}", endpoint.mark.path)
        operation = _operation(endpoint, known, components)
        operation["security"] = _security(endpoint, needs_keys)
        paths.setdefault(path, {})[endpoint.mark.method.lower()] = operation
    groups = {endpoint.group: endpoint.purpose for endpoint in endpoints}
    return {
        "openapi": "3.1.0",
        "info": {"title": "eventhost", "version": __version__},
        "tags": [{"name": name, "description": purpose} for name, purpose in groups.items()],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": cookie},
                "ticket": {"type": "apiKey", "in": "query", "name": "ticket"},
            },
        },
    }


def _schemas(endpoints: Sequence[Endpoint]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema of everything that is read or answered, by `_key`, and what those schemas refer to."""
    kinds = [kind for endpoint in endpoints for kind in _kinds(endpoint)]
    plain = [kind for kind in kinds if not _is_model(kind)]
    schemas, components = msgspec.json.schema_components([*plain, ErrorAnswer], ref_template=_REF)
    known = dict(zip(map(_key, plain), schemas, strict=False))
    for model in kinds:
        if _is_model(model) and _key(model) not in known:
            schema = model.model_json_schema(ref_template=_REF.replace("{name}", "{model}"))
            components.update(schema.pop("$defs", {}))
            components[model.__name__] = schema
            known[_key(model)] = {"$ref": _REF.format(name=model.__name__)}
    return known, components


def _operation(endpoint: Endpoint, known: Mapping[str, Any], components: Mapping[str, Any]) -> dict[str, Any]:
    mark, query = endpoint.mark, endpoint.parameters.get("query")
    bodies = dict(mark.takes)
    if "body" in endpoint.parameters:
        bodies["application/json"] = endpoint.parameters["body"]
    statuses = _ALWAYS | set(mark.errors) | ({404} if "{" in mark.path else set()) | ({400} if query else set())
    statuses |= {400, 415} if bodies else set()
    operation: dict[str, Any] = {
        "operationId": f"{endpoint.group}.{endpoint.handler.__name__}",
        "tags": [endpoint.group],
        "summary": endpoint.summary,
        "parameters": _parameters(endpoint, known, components),
        "responses": {
            str(mark.status): {
                "description": endpoint.summary,
                "headers": _RATE,
                "content": _content(_answers(endpoint), known),
            },
            **{str(status): _error(status) for status in sorted(statuses)},
        },
        "x-scope": str(mark.access),
    }
    for status, kind in mark.more.items():
        own = {} if kind is None else _content({"application/json": kind}, known)
        told = operation["responses"].setdefault(str(status), {"description": _ERRORS.get(status, endpoint.summary)})
        if "content" in told:
            own["application/json"]["schema"] = {"anyOf": [_ERROR, own["application/json"]["schema"]]}
        told["content"] = own
    if query is not None and query.__doc__:
        operation["description"] = inspect.cleandoc(query.__doc__)
    if bodies:
        operation["requestBody"] = {"required": True, "content": _content(bodies, known)}
    return operation


def _parameters(endpoint: Endpoint, known: Mapping[str, Any], components: Mapping[str, Any]) -> list[dict[str, Any]]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": known[_key(endpoint.parameters[name])]}
        for name in re.findall(r"{(\w+)", endpoint.mark.path)
    ]
    query = endpoint.parameters.get("query")
    if query is not None:
        schema = components[known[_key(query)]["$ref"].rpartition("/")[2]]
        required = schema.get("required", [])
        for name, kind in schema["properties"].items():
            parameters.append({"name": name, "in": "query", "required": name in required, "schema": kind})
    for name, kind in endpoint.mark.headers.items():
        parameters.append({"name": name, "in": "header", "required": False, "schema": known[_key(kind)]})
    return parameters


def _security(endpoint: Endpoint, needs_keys: bool) -> list[dict[str, list[str]]]:
    if endpoint.mark.access is Access.OPEN:
        return []
    ways: list[dict[str, list[str]]] = [{"key": []}, {"bearer": []}, {"cookie": []}]
    if endpoint.mark.streams:
        ways.append({"ticket": []})
    return ways if needs_keys else [*ways, {}]


def _error(status: int) -> dict[str, Any]:
    told = {"description": _ERRORS[status], "content": {"application/json": {"schema": _ERROR}}}
    if status == 429:
        return {**told, "headers": {**_RETRY_AFTER, **_RATE}}
    return {**told, "headers": _RETRY_AFTER} if status == 503 else told


def _content(kinds: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    return {media: {"schema": known[_key(kind)]} for media, kind in kinds.items()}


def _answers(endpoint: Endpoint) -> Mapping[str, Any]:
    if endpoint.mark.answers:
        return endpoint.mark.answers
    returns = endpoint.returns
    if returns is None or get_origin(returns) is Callable or issubclass(returns, Response):
        return {}
    return {"application/json": returns}


def _kinds(endpoint: Endpoint) -> Iterable[Any]:
    mark = endpoint.mark
    yield from (kind for name, kind in endpoint.parameters.items() if name != "request")
    for told in (mark.takes, mark.headers, mark.more, _answers(endpoint)):
        yield from (kind for kind in told.values() if kind is not None)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _key(kind: Any) -> str:
    return repr(kind)
