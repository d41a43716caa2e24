"""Routes as methods: what a request holds, what it answers and who may ask, read from the method's own signature.

    class Sources:
        @get("/sources/{name}", Access.READ)
        async def one(self, name: str) -> SourceStatus:
            "One source's status."

A parameter named as in the path is that part of it; `query` (a struct) is the query string, `body` (any type) the JSON
body, `request` the request itself. What is returned is the JSON answer, unless it is a response or an ASGI application.
The OpenAPI document is made of the same signatures (`openapi.py`), so that it cannot say something else.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, get_type_hints

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send

from eventhost.access import NOBODY, Access
from eventhost.exchange.http import NotJson
from eventhost.web.access.caller import caller_of
from eventhost.web.access.door import asks_for_key
from eventhost.web.answers import ErrorCode, error_answer, json_answer

F = TypeVar("F", bound=Callable[..., Awaitable[Any]])
T = TypeVar("T")

_MARK: Final = "__endpoint__"


@dataclass(frozen=True, slots=True)
class Mark:
    """What a decorator says of a method."""

    method: str
    path: str
    access: Access
    status: int = 200
    takes: Mapping[str, Any] = field(default_factory=dict)
    """Bodies that the method reads itself, by media type."""
    answers: Mapping[str, Any] = field(default_factory=dict)
    """Answers that no annotation tells, by media type."""
    errors: tuple[int, ...] = ()
    """Statuses of errors beside those that the signature implies."""
    headers: Mapping[str, Any] = field(default_factory=dict)
    """Headers that the method reads itself; none of them has to be there."""
    more: Mapping[int, Any] = field(default_factory=dict)
    """JSON answers with other statuses, in a shape of their own; `None` is an empty answer."""
    streams: bool = False
    """Whether the answer is a stream or a WebSocket, which a ticket opens."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One route, ready to be served and described."""

    mark: Mark
    handler: Callable[..., Awaitable[Any]]
    group: str
    """The name of the class that it is a method of."""
    parameters: Mapping[str, Any]
    """The handler's parameters by name, with their types."""
    returns: Any

    @classmethod
    def of(cls, handler: Callable[..., Awaitable[Any]], mark: Mark, group: str) -> Endpoint:
        hints = get_type_hints(handler, include_extras=True)
        returns = hints.pop("return", None)
        names = inspect.signature(handler).parameters
        return cls(mark, handler, group, {name: hints[name] for name in names}, returns)

    @property
    def summary(self) -> str:
        """The first line of the method's docstring."""
        return (inspect.getdoc(self.handler) or "").split("\n", 1)[0]

    @property
    def purpose(self) -> str:
        """The first line of its class's docstring."""
        return (inspect.getdoc(getattr(self.handler, "__self__", None)) or "").split("\n", 1)[0]

    def route(self) -> Route:
        """The route for Starlette."""
        methods = ["GET", "HEAD"] if self.mark.method == "GET" else [self.mark.method]
        return Route(self.mark.path, _App(self), methods=methods)


def allowed(routes: Iterable[BaseRoute], scope: Scope) -> list[str]:
    """The methods that the address of a request takes, those of the routes that fit it most closely."""
    closest, methods = -1, set[str]()
    for route in routes:
        if not isinstance(route, Route):
            continue
        matched, found = route.matches(scope)
        app = route.endpoint
        if matched is Match.NONE or not (isinstance(app, _App) and app.fits(found["path_params"])):
            continue
        # `/rules/{name:path}` is the address of a rule whose name ends in `/test`, too.
        close = len(re.sub(r"{.*?}", "", route.path))
        if close > closest:
            closest, methods = close, set()
        if close == closest:
            methods |= route.methods or set()
    return sorted(methods)


def get(path: str, access: Access, **more: Any) -> Callable[[F], F]:
    """Mark a method as what answers GET requests for `path`; `more` is as in `Mark`."""
    return _marked(Mark("GET", path, access, **more))


def post(path: str, access: Access, **more: Any) -> Callable[[F], F]:
    """Mark a method as what answers POST requests for `path`; `more` is as in `Mark`."""
    return _marked(Mark("POST", path, access, **more))


def delete(path: str, access: Access, **more: Any) -> Callable[[F], F]:
    """Mark a method as what answers DELETE requests for `path`; `more` is as in `Mark`."""
    return _marked(Mark("DELETE", path, access, **more))


def _marked(mark: Mark) -> Callable[[F], F]:
    def put(handler: F) -> F:
        setattr(handler, _MARK, mark)
        return handler

    return put


def endpoints(groups: Iterable[object]) -> list[Endpoint]:
    """The endpoints among the methods of each of these, in the order in which they are written."""
    return [
        Endpoint.of(getattr(group, name), mark, type(group).__name__)
        for group in groups
        for name, method in vars(type(group)).items()
        if (mark := getattr(method, _MARK, None)) is not None
    ]


class _App:
    """The ASGI application of one endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._body = endpoint.parameters.get("body")
        self._decode = msgspec.json.Decoder(self._body).decode if self._body is not None else None
        self._query = endpoint.parameters.get("query")
        apart = {"body", "query", "request"}
        self._path = {name: kind for name, kind in endpoint.parameters.items() if name not in apart}
        self._takes = {media.lower() for media in endpoint.mark.takes}
        self._takes |= {"application/json"} if self._body is not None else set()

    def fits(self, path_params: Mapping[str, Any]) -> bool:
        """Whether the parts of a path are such as this endpoint takes."""
        try:
            self._of_path(path_params)
        except HTTPException:
            return False
        return True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self._answer(Request(scope, receive, send))
        await answer(scope, receive, send)

    async def _answer(self, request: Request) -> Any:
        endpoint = self._endpoint
        if (refusal := _refusal(request, endpoint.mark.access) or _strange_body(request, self._takes)) is not None:
            return refusal
        arguments = self._of_path(request.path_params)
        if "request" in endpoint.parameters:
            arguments["request"] = request
        if self._query is not None:
            arguments["query"] = _converted(dict(request.query_params), self._query, "")
        if self._decode is not None:
            arguments["body"] = read_body(await request.body(), self._decode)
        result = await endpoint.handler(**arguments)
        return result if isinstance(result, Response) or callable(result) else json_answer(result, endpoint.mark.status)

    def _of_path(self, path_params: Mapping[str, Any]) -> dict[str, Any]:
        return {name: _converted(path_params[name], kind, name, 404) for name, kind in self._path.items()}


def _refusal(request: Request, access: Access) -> Response | None:
    caller = caller_of(request.scope)
    if caller.may(access):
        return None
    what = f"{request.method} {request.url.path}"
    if caller == NOBODY:
        return asks_for_key(what)
    has = ", ".join(sorted(caller.scopes)) or "none"
    message = f"{what} asks for the scope {access}; the key {caller.name!r} has {has}"
    return error_answer(403, ErrorCode.INVALID_REQUEST, message)


def _strange_body(request: Request, takes: Collection[str]) -> Response | None:
    """Refuse a body that is not declared as one of these; a web page could send those of some other kinds unasked."""
    if not takes:
        return None
    headers = request.headers
    if "transfer-encoding" not in headers and headers.get("content-length", "0") == "0":
        return None
    declared = headers.get("content-type", "").split(";")[0].strip().lower()
    if declared in takes or "*/*" in takes:
        return None
    message = f"a body must be one of {', '.join(sorted(takes))}: say so by Content-Type, not {declared!r}"
    return error_answer(415, ErrorCode.INVALID_REQUEST, message)


def read_body(text: bytes, decode: Callable[[bytes], T]) -> T:
    """What a JSON body says.

    Raises:
        NotJson: it is no JSON.
        HTTPException: 400, with the place at which it is something else than is wanted.
    """
    try:
        return decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        try:
            msgspec.json.decode(text)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as syntax:
            raise NotJson(f"the body is not JSON: {syntax}") from None
        raise HTTPException(400, _placed(error, "the body")) from None


def _converted(value: Any, kind: Any, name: str, status: int = 400) -> Any:
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        raise HTTPException(status, _placed(error, name or "the query")) from None


def _placed(error: Exception, what: str) -> str:
    """What is wrong, with its place in front: `limit: Expected …`."""
    message, _, place = str(error).partition(" - at `")
    return f"{place.rstrip('`').removeprefix('$').removeprefix('.') or what}: {message}"
