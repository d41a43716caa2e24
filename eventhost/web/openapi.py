"""The OpenAPI 3.1 document, made of the same signatures that the routes are served by."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from pydantic import BaseModel
from starlette.responses import Response

from eventhost import __version__
from eventhost.access import Access
from eventhost.web.answers import ErrorAnswer
from eventhost.web.endpoint import Endpoint, get

_REF: Final = "#/components/schemas/{name}"

_ERRORS: Final = {
    400: "A parameter or the body cannot be used.",
    401: "A key is needed.",
    403: "The key has not the scope for it, or a web page from elsewhere asks.",
    404: "There is nothing of this name.",
    409: "It cannot be done now; `data.problems` says why.",
    413: "The body is too large.",
    415: "The body is of a kind that is not taken here.",
    426: "It is to be asked for as a WebSocket.",
    422: "The key in `Idempotency-Key` was used for another request.",
    429: "Too many requests; `Retry-After` says when to come again.",
    500: "A fault of the host's; its log says more.",
    503: "The host is stopping, or is not ready.",
}


class Description:
    """The description of the host's own HTTP face."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = endpoints
        self._document: dict[str, Any] | None = None

    @get("/openapi.json", Access.OPEN)
    async def openapi(self) -> dict[str, Any]:
        """This document."""
        if self._document is None:
            self._document = document(self._endpoints)
        return self._document


def document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The OpenAPI document of these endpoints."""
    kinds = [kind for endpoint in endpoints for kind in _kinds(endpoint)]
    models = {kind for kind in kinds if _is_model(kind)}
    plain = [kind for kind in kinds if not _is_model(kind)]
    schemas, components = msgspec.json.schema_components([*plain, ErrorAnswer], ref_template=_REF)
    known = dict(zip(map(_key, plain), schemas, strict=False))
    for model in models:
        known[_key(model)] = model.model_json_schema(ref_template=_REF.replace("{name}", "{model}"))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        path = re.sub(r"{(\w+):\w+}", r"{\1}", endpoint.mark.path)
        paths.setdefault(path, {})[endpoint.mark.method.lower()] = _operation(endpoint, known, components)
    return {
        "openapi": "3.1.0",
        "info": {"title": "eventhost", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _operation(endpoint: Endpoint, known: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    mark = endpoint.mark
    names = re.findall(r"{(\w+)", mark.path)
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": known[_key(endpoint.parameters[name])]}
        for name in names
    ]
    query = endpoint.parameters.get("query")
    if query is not None:
        schema = components[known[_key(query)]["$ref"].rpartition("/")[2]]
        required = schema.get("required", [])
        for name, kind in schema["properties"].items():
            parameters.append({"name": name, "in": "query", "required": name in required, "schema": kind})
    statuses = {413, 429, 500, 503, *mark.errors} | ({400, 404} if names else set()) | ({400} if query else set())
    bodies = dict(mark.takes)
    if "body" in endpoint.parameters:
        bodies["application/json"] = endpoint.parameters["body"]
    if bodies:
        statuses |= {400, 415}
    if mark.access is not Access.OPEN:
        statuses |= {401, 403}
    operation: dict[str, Any] = {
        "operationId": f"{endpoint.group}.{endpoint.handler.__name__}",
        "tags": [endpoint.group],
        "summary": endpoint.summary,
        "parameters": parameters,
        "responses": {
            str(mark.status): {
                "description": endpoint.summary,
                "content": {media: {"schema": known[_key(kind)]} for media, kind in _answers(endpoint).items()},
            },
            **{
                str(status): {
                    "description": _ERRORS[status],
                    "content": {"application/json": {"schema": {"$ref": _REF.format(name="ErrorAnswer")}}},
                }
                for status in sorted(statuses)
            },
        },
        "x-scope": str(mark.access),
        "security": [] if mark.access is Access.OPEN else [{"key": []}, {"bearer": []}, {}],
    }
    if bodies:
        content = {media: {"schema": known[_key(kind)]} for media, kind in bodies.items()}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _answers(endpoint: Endpoint) -> dict[str, Any]:
    if endpoint.mark.answers:
        return dict(endpoint.mark.answers)
    returns = endpoint.returns
    if returns is None or (isinstance(returns, type) and issubclass(returns, Response)):
        return {}
    return {"application/json": returns}


def _kinds(endpoint: Endpoint) -> Iterable[Any]:
    apart = {"request"}
    yield from (kind for name, kind in endpoint.parameters.items() if name not in apart)
    yield from endpoint.mark.takes.values()
    yield from _answers(endpoint).values()


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _key(kind: Any) -> str:
    return repr(kind)
