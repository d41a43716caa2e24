"""The description of the HTTP face: it is whole, it is OpenAPI, and the host does what it says whatever is sent."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import anyio
import httpx2
import jsonschema
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import GenerationMode
from sessions import LIMIT_S, FakeEnvironment
from starlette.applications import Starlette
from starlette.routing import Match, Route, WebSocketRoute

from eventhost.access import Access
from eventhost.connections.http import free_port
from eventhost.exchange.http import BATCHED, STRUCTURED
from eventhost.web.access.door import Door
from eventhost.web.access.keys import create_key
from eventhost.web.access.ring import KeyRing
from eventhost.web.app import create_app
from eventhost.web.endpoint import allowed

NOT_TRIED: Final = {
    "GET /sse/connect": "a stream, which does not end by itself; see test_web_sessions.py",
    "GET /ws/{session_id}": "a WebSocket; see test_web_sessions.py",
    "POST /mcp/lines": "it reads and answers until the client leaves; see test_mcp_command.py",
    "GET /mcp": "MCP's own transport, a stream; its conformance suite tries it",
    "POST /mcp": "MCP's own transport, a stream; its conformance suite tries it",
    "DELETE /mcp": "MCP's own transport; its conformance suite tries it",
}
"""Where nothing is made up, and why."""

SOURCE = """
from eventhost.kit import EventSource
EventSource("door").run()
"""

TOOL_SERVER = """
import json, sys
schema = {"type": "object", "properties": {"title": {"type": "string"}}}
text = {"type": "text", "text": "done"}
answers = {
    "initialize": {
        "protocolVersion": "2025-11-25",
        "capabilities": {"tools": {}, "prompts": {}, "resources": {}},
        "serverInfo": {"name": "todo", "version": "1"},
    },
    "ping": {},
    "tools/list": {"tools": [{"name": "add", "inputSchema": schema}]},
    "tools/call": {"content": [text]},
    "prompts/list": {"prompts": [{"name": "ask"}]},
    "prompts/get": {"messages": [{"role": "user", "content": text}]},
    "resources/list": {"resources": [{"uri": "note://one", "name": "one"}]},
    "resources/templates/list": {"resourceTemplates": []},
    "resources/read": {"contents": [{"uri": "note://one", "text": "one"}]},
}
for line in sys.stdin:
    request = json.loads(line)
    if "id" in request and "method" in request:
        found = answers.get(request["method"])
        said = {"error": {"code": -32601, "message": "no such method"}} if found is None else {"result": found}
        print(json.dumps({"jsonrpc": "2.0", "id": request["id"], **said}), flush=True)
"""

PROGRAM: Final = {"type": "local", "command": ["python", "-I", "-S", "todo.py"]}

CONFIG: Final = {
    "rules": [
        {"name": "greet", "on": "door.*", "when": "payload.size > 3", "do": {"log": "{{ payload.size }}"}},
        {"name": "answer", "on": "USER_QUERY", "do": {"log": "asked"}},
        {"name": "broken", "on": "door.opened", "do": {"exec": ["./nowhere"], "retry": {"attempts": 1}}},
    ],
    "mcp": {
        # The one is asked, the other one is started and stopped.
        "clients": {"todo": PROGRAM, "spare": PROGRAM},
        "eventSources": {"sources": {}},
    },
    "journal": {"type": "memory"},
    "supervision": {"startsecs": "10ms"},
}

HTTP: Final = {"auth": "keys", "trustedProxies": ["127.0.0.1"], "rateLimit": {"enabled": False}, "accessLog": False}

ADDRESSES: Final = count(1)
JSON_KINDS: Final = ("application/json", STRUCTURED, BATCHED)

NAMES: Final = {"/sources": "door", "/servers": "spare", "/rules": "greet", "/mcp": "todo__ask"}
KNOWN: Final = {"event": "first", "number": "1", "session_id": "mine", "uri": "note://one"}
"""What parts of paths are called at the host that is tried: what is made up is never there."""

SAID: Final = {"match": '{"payload": {"size": [4]}}', "since": "1h", "from": "1", "to": "2100-01-01T00:00:00Z"}
"""What is written in a language of its own, which no schema describes."""


def application() -> Starlette:
    """The application of a host that is not there, at which keys are needed."""
    root = Path(__file__).parent
    return create_app(FakeEnvironment(root), door=Door(KeyRing(root), needs_keys=True))  # type: ignore[arg-type]


def description(app: Starlette) -> dict[str, Any]:
    """The application's description, as it is served."""

    async def asked() -> Any:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://test") as http:
            return (await http.get("/openapi.json")).json()

    document: dict[str, Any] = anyio.run(asked)
    return document


APPLICATION = application()
DOCUMENT = description(APPLICATION)
OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
}

API = schemathesis.openapi.from_dict(
    DOCUMENT,
    config=schemathesis.Config.from_dict({"generation": {"allow-x00": True}, "checks": {"enabled": True}}),
).exclude(name=list(NOT_TRIED))


def test_every_route_is_described_and_what_is_described_is_a_route() -> None:
    routes = set[str]()
    for route in APPLICATION.routes:
        if isinstance(route, WebSocketRoute):
            routes.add(f"GET {route.path}")
        else:
            assert isinstance(route, Route)
            assert route.methods is not None
            routes |= {f"{method} {route.path_format}" for method in route.methods - {"HEAD"}}
    assert routes == OPERATIONS.keys()
    assert routes > NOT_TRIED.keys()


def test_the_description_is_openapi_and_its_schemas_are_schemas() -> None:
    schemathesis.openapi.from_dict(DOCUMENT).validate()
    schemas = DOCUMENT["components"]["schemas"]
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    referred = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(DOCUMENT)))
    assert referred <= schemas.keys()
    assert not re.findall(r'"#/(?!components/schemas/)', json.dumps(DOCUMENT))


@pytest.mark.parametrize(
    ("method", "path", "methods"),
    [
        ("DELETE", "/events", "GET, HEAD, POST"),
        ("GET", "/rules/greet/test", None),
        ("DELETE", "/rules/greet/test", "POST"),
        ("DELETE", "/rules/greet/enable", "POST"),
        ("DELETE", "/rules/a/b", "GET, HEAD"),
        ("POST", "/mcp/tools", "GET, HEAD"),
        ("PUT", "/dead-letters/1", "GET, HEAD"),
    ],
)
def test_a_method_that_an_address_does_not_take_is_answered_with_those_that_it_takes(
    method: str, path: str, methods: str | None
) -> None:
    scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": []}
    if methods is None:
        assert any(route.matches(scope)[0] is Match.FULL for route in APPLICATION.routes)
    else:
        assert ", ".join(allowed(APPLICATION.routes, scope)) == methods


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_says_what_it_does_who_may_ask_and_what_is_answered(name: str) -> None:
    operation = OPERATIONS[name]
    assert operation["summary"].endswith((".", ".)"))
    assert operation["x-scope"] in set(Access)
    assert ("security" in operation and operation["security"] != []) == (operation["x-scope"] != "open")
    assert {"401", "403", "429", "500", "503"} <= operation["responses"].keys()
    bare = {"type": "object"}
    for answer in operation["responses"].values():
        for media in answer.get("content", {}).values():
            assert media["schema"] != bare or name == "GET /openapi.json"


def test_operations_have_names_of_their_own() -> None:
    names = [operation["operationId"] for operation in OPERATIONS.values()]
    assert len(set(names)) == len(names)
    assert {operation["tags"][0] for operation in OPERATIONS.values()} == {tag["name"] for tag in DOCUMENT["tags"]}
    assert all(tag["description"] for tag in DOCUMENT["tags"])


def test_without_keys_nobody_has_to_show_one() -> None:
    root = Path(__file__).parent
    operations = description(create_app(FakeEnvironment(root)))["paths"]  # type: ignore[arg-type]
    assert {} in operations["/events"]["get"]["security"]
    assert {} not in OPERATIONS["GET /events"]["security"]


class Host:
    """A host that is tried, which has one of everything."""

    def __init__(self, url: str, key: str) -> None:
        self.url, self.headers = url, {"X-API-Key": key}

    def get(self, path: str) -> Any:
        """What it answers; nothing while it does not."""
        try:
            answer = requests.get(self.url + path, headers=self.headers, timeout=LIMIT_S)
        except requests.ConnectionError:
            return {}
        return answer.json() if answer.ok else {}

    def prepare(self) -> None:
        """Wait until everything is there: an event, a dead letter, and a session, which lasts without its stream."""
        wait_for(lambda: self.get("/health/ready"))
        for path in ("/sources/door", "/servers/todo"):
            wait_for(lambda path=path: self.get(path).get("status") == "running")
        event = {"id": "first", "type": "door.opened", "payload": {"size": 4}}
        assert requests.post(f"{self.url}/events", json=event, headers=self.headers, timeout=LIMIT_S).ok
        wait_for(lambda: self.get("/dead-letters").get("dead_letters"))
        stream = f"{self.url}/sse/connect?session_id=mine"
        with requests.get(stream, headers=self.headers, stream=True, timeout=LIMIT_S) as made:
            assert made.ok


def wait_for(condition: Callable[[], object]) -> None:
    """Wait for what another process brings about."""
    until = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    root, port = tmp_path_factory.mktemp("host"), free_port()
    (root / "eventsources" / "door").mkdir(parents=True)
    (root / "eventsources" / "door" / "server.py").write_text(SOURCE)
    (root / "eventsources" / "door" / "config.jsonc").write_text("{}")
    (root / "todo.py").write_text(TOOL_SERVER)
    (root / "config.jsonc").write_text(json.dumps({**CONFIG, "http": {**HTTP, "port": port}}))
    key = create_key(root, "tester", [Access.ADMIN])
    command = [sys.executable, "-m", "eventhost", "run", "--env", str(root), "--log-level", "error"]
    with subprocess.Popen(command) as process:
        try:
            host = Host(f"http://127.0.0.1:{port}", key)
            host.prepare()
            yield host
        finally:
            process.terminate()


def shortest(number: str) -> float:
    """To JSON Schema 1.0 is an integer; the host takes it for none."""
    return int(float(number)) if float(number).is_integer() else float(number)


def complete(case: schemathesis.Case) -> None:
    """Have a request that should be answered ask for what there is."""
    path = case.operation.path
    if isinstance(case.body, dict | list):
        case.body = json.loads(json.dumps(case.body), parse_float=shortest)
    for name in case.path_parameters or ():
        if name == "name":
            case.path_parameters[name] = NAMES["/" + path.split("/")[1]]
        elif name in KNOWN:
            case.path_parameters[name] = KNOWN[name]
    for name in SAID.keys() & (case.query or {}).keys():
        if name != "from" or "since" not in case.query:
            case.query[name] = SAID[name]
        else:
            del case.query[name]
    if path == "/replay":
        # At a pace it takes as long as it says.
        case.body = {**case.body, "since": "1", "upto": "now", "speed": 0, "rules": ["greet"]}
    elif path == "/mcp/tools/call":
        case.body = {"name": "todo__add", "arguments": {"title": "one"}}
    elif path == "/sse/send/{session_id}":
        case.body = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    elif path == "/events" and case.method == "POST":
        # What has these headers is a CloudEvent in binary mode, and what is of any other kind must have them.
        binary = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/here", "ce-type": "door.closed"}
        once = {"Idempotency-Key": uuid4().hex} if "Idempotency-Key" in case.headers else {}
        case.headers = {**once, **(binary if case.media_type not in JSON_KINDS else {})}


@API.parametrize()
@settings(max_examples=10, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
def test_the_host_does_what_its_description_says(case: schemathesis.Case, host: Host) -> None:
    if case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE:
        complete(case)
    # Of one address only so many wrong keys are looked at.
    headers = {**host.headers, "X-Forwarded-For": f"2001:db8:{next(ADDRESSES):x}::1"}
    case.call_and_validate(base_url=host.url, headers=headers, timeout=LIMIT_S)
