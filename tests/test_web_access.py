"""Who may ask over HTTP, and how often: keys, cookies, tickets, limits, origins, TLS, and what the log tells of it."""

from __future__ import annotations

import json
import socket
import ssl
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
import websockets
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from structlog.testing import capture_logs
from test_web import FakeEnvironment
from typer.testing import CliRunner

from eventhost.access import Access
from eventhost.cli.app import app as command_line
from eventhost.cli.control import Host
from eventhost.config.model import HttpConfig, RateLimit, TlsConfig
from eventhost.errors import ConfigError, EventhostError, NotFound
from eventhost.web import server
from eventhost.web.access import limits, signin
from eventhost.web.access.caller import caller_of
from eventhost.web.access.door import FAILURES_AT_ONCE, Door
from eventhost.web.access.guard import MAX_BODY_BYTES, Guard
from eventhost.web.access.keys import KEYS_FILE, create_key, last_used, read_keys, revoke_key
from eventhost.web.access.limits import Limiter, neighbourhood
from eventhost.web.access.ring import KeyRing
from eventhost.web.access.tls import Certificate
from eventhost.web.api.auth import Auth
from eventhost.web.endpoint import endpoints, get, post
from eventhost.web.server import serving

pytestmark = pytest.mark.anyio

UNLIMITED = RateLimit(enabled=False)
READ, PUBLISH, ADMIN = [Access.READ], [Access.PUBLISH], [Access.ADMIN]


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Probe:
    """One route for each access."""

    @get("/health", Access.OPEN)
    async def health(self) -> str:
        """Open."""
        return "healthy"

    @get("/who", Access.READ)
    async def who(self, request: Request) -> list[str]:
        """Who asks."""
        caller = caller_of(request.scope)
        return [caller.name, caller.how, *sorted(caller.scopes)]

    @get("/address", Access.OPEN)
    async def address(self, request: Request) -> str:
        """From where it asks."""
        assert request.client is not None
        return f"{request.url.scheme} {request.client.host}"

    @post("/events", Access.PUBLISH, takes={"application/json": Any})
    async def publish(self, request: Request) -> int:
        """How large the body is."""
        return len(await request.body())

    @post("/change", Access.ADMIN)
    async def change(self) -> str:
        """Something is changed."""
        return "changed"


async def stream(request: Request) -> Response:
    async def pieces() -> AsyncIterator[str]:
        yield f"data: {caller_of(request.scope).how} {request.url.query}\n\n"

    return StreamingResponse(pieces(), media_type="text/event-stream")


async def echo(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text(caller_of(socket.scope).how)
    await socket.close()


class Site:
    """A guarded application over the keys of one folder."""

    def __init__(self, root: Path, *, needs_keys: bool = True, **http: Any) -> None:
        self.root = root
        self.http = HttpConfig(**{"rate_limit": UNLIMITED, **http})
        self.clock = Clock()
        self.door = Door(KeyRing(root), needs_keys=needs_keys, clock=self.clock)
        routes = [endpoint.route() for endpoint in endpoints([Probe(), Auth(self.door)])]
        app = Starlette(routes=[*routes, Route("/sse/connect", stream), WebSocketRoute("/ws/a", echo)])
        self.open_streams: list[int] = []
        self.guard = Guard(
            app,
            port=8001,
            http=self.http,
            door=self.door,
            needs_keys=needs_keys,
            open_streams=self.open_streams,
            clock=self.clock,
        )

    def key(self, name: str, *scopes: Access, rate_limit: int | None = None) -> str:
        return create_key(self.root, name, scopes or READ, rate_limit)

    def client(self, address: str = "127.0.0.1", **options: Any) -> httpx2.AsyncClient:
        transport = httpx2.ASGITransport(app=self.guard, client=(address, 1234))
        return httpx2.AsyncClient(transport=transport, **{"base_url": "http://127.0.0.1:8001", **options})

    async def get(self, path: str = "/who", address: str = "127.0.0.1", **headers: str) -> httpx2.Response:
        async with self.client(address) as http:
            return await http.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    async def post(self, path: str, address: str = "127.0.0.1", **headers: str) -> httpx2.Response:
        async with self.client(address) as http:
            return await http.post(path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    async def websocket(self, query: str = "", **headers: str) -> tuple[int, str]:
        """The status of a handshake, and the first message."""
        sent: list[dict[str, Any]] = []
        incoming = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}]

        async def receive() -> dict[str, Any]:
            return incoming.pop(0)

        async def send(message: Any) -> None:
            sent.append(message)

        given = {"host": "127.0.0.1:8001", **{name.replace("_", "-"): value for name, value in headers.items()}}
        scope = {
            "type": "websocket", "path": "/ws/a", "query_string": query.encode(), "scheme": "ws", "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in given.items()], "subprotocols": [],
            "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 8001),
            "extensions": {"websocket.http.response": {}},
        }  # fmt: skip
        await self.guard(scope, receive, send)
        if sent[0]["type"] == "websocket.accept":
            return 101, sent[1]["text"]
        return sent[0]["status"], ""


# Keys at rest.


def test_a_key_is_kept_as_a_digest_that_only_this_user_can_read(tmp_path: Path) -> None:
    text = create_key(tmp_path, "ann", [Access.READ, Access.PUBLISH], 30)
    file = tmp_path / KEYS_FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert text.rpartition("_")[2] not in file.read_text()
    (key,) = read_keys(tmp_path)
    assert (key.name, key.scopes, key.rate_limit) == ("ann", {Access.READ, Access.PUBLISH}, 30)
    assert [path.name for path in file.parent.iterdir()] == ["keys.json"]


def test_a_name_is_taken_until_its_key_is_revoked(tmp_path: Path) -> None:
    first = create_key(tmp_path, "ann", READ)
    with pytest.raises(ConfigError, match="there is a key 'ann' already"):
        create_key(tmp_path, "ann", READ)
    revoke_key(tmp_path, "ann")
    with pytest.raises(NotFound, match="there is no key 'ann'; there is: none"):
        revoke_key(tmp_path, "ann")
    assert create_key(tmp_path, "ann", READ) != first


@pytest.mark.parametrize("name", ["", "-a", "a b", "a\n", "ä", "a" * 65])
def test_a_name_that_would_confuse_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="not a name"):
        create_key(tmp_path, name, READ)


def test_a_key_needs_a_scope(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a key needs a scope"):
        create_key(tmp_path, "ann", [])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"keys": [{}]}', '{"keys": 5}', "\udcff"])
def test_a_file_of_keys_that_is_damaged_is_named_and_left_alone(tmp_path: Path, text: str) -> None:
    file = tmp_path / KEYS_FILE
    file.parent.mkdir()
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    for attempt in (lambda: read_keys(tmp_path), lambda: create_key(tmp_path, "a", READ)):
        with pytest.raises(ConfigError, match=r"^var/keys\.json: "):
            attempt()
    assert file.read_bytes() == text.encode("utf-8", "surrogateescape")


def test_a_ring_notices_what_changes_and_opens_nothing_while_its_file_is_damaged(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    assert ring.keys == {}
    ann, bob = create_key(tmp_path, "ann", READ), create_key(tmp_path, "bob", READ)
    found = ring.opened_by(ann)
    assert found is not None
    assert found.name == "ann"
    revoke_key(tmp_path, "ann")
    assert ring.opened_by(ann) is None
    assert ring.opened_by(bob) is not None
    (tmp_path / KEYS_FILE).write_text("{")
    with capture_logs() as logs:
        assert ring.opened_by(bob) is None
        assert ring.opened_by(bob) is None
    assert [entry["event"] for entry in logs] == ["keys_unusable"]


@pytest.mark.parametrize(
    "change", [str.upper, lambda key: key[:-1], lambda key: key + "A", lambda _: "", lambda _: "é"]
)
def test_only_the_very_key_opens(tmp_path: Path, change: Any) -> None:
    ring = KeyRing(tmp_path)
    key = create_key(tmp_path, "ann", READ)
    assert ring.opened_by(change(key)) is None
    other = create_key(tmp_path, "bob", READ)
    # The id of one, the secret of another.
    assert ring.opened_by(key[:16] + other[16:]) is None


def test_the_last_use_is_told_and_goes_with_its_key(tmp_path: Path) -> None:
    ann = create_key(tmp_path, "ann", READ)
    (key,) = read_keys(tmp_path)
    assert last_used(tmp_path) == {}
    KeyRing(tmp_path).opened_by(ann)
    assert datetime.fromisoformat(last_used(tmp_path)[key.id]).tzinfo is not None
    revoke_key(tmp_path, "ann")
    ring = KeyRing(tmp_path)
    assert ring.keys == {}
    ring.save()
    assert last_used(tmp_path) == {}


def test_the_command_line_makes_lists_and_revokes_keys(tmp_path: Path) -> None:
    (tmp_path / "config.jsonc").write_text("{}")
    run = CliRunner()

    def key(*words: str) -> Any:
        return run.invoke(command_line, ["key", *words, "--env", str(tmp_path)], catch_exceptions=False)

    made = key("create", "ann", "--scope", "read", "--scope", "publish", "--rate-limit", "600")
    assert made.exit_code == 0
    assert KeyRing(tmp_path).opened_by(made.stdout.strip()) is not None
    assert "only time" in made.stderr
    (listed,) = json.loads(key("list", "--json").stdout)
    assert listed["created"] <= listed["last_used"]
    assert {name: listed[name] for name in ("name", "scopes", "rate_limit")} == {
        "name": "ann", "scopes": ["publish", "read"], "rate_limit": 600,
    }  # fmt: skip
    assert "eh_" not in key("list").stdout
    assert json.loads(key("create", "bob", "--scope", "admin", "--json").stdout)["scopes"] == ["admin"]
    assert key("create", "eve", "--scope", "everything").exit_code == 2
    assert key("create", "eve").exit_code == 2
    assert key("revoke", "ann").stdout == "revoked ann\n"
    assert [each.name for each in read_keys(tmp_path)] == ["bob"]


@pytest.mark.parametrize(
    ("http", "said"),
    [
        ({"host": "0.0.0.0"}, "http.host: the host does not start on this address as yet"),
        ({"auth": "keys"}, "http.auth: nobody may ask as yet"),
        ({}, ""),
        ({"host": "0.0.0.0", "enabled": False}, ""),
    ],
)
def test_a_check_tells_that_a_key_is_missing(tmp_path: Path, http: dict[str, Any], said: str) -> None:
    (tmp_path / "config.jsonc").write_text(json.dumps({"http": http}))

    def check() -> str:
        checked = CliRunner().invoke(command_line, ["check", "--env", str(tmp_path)], catch_exceptions=False)
        assert checked.exit_code == 0
        return checked.stderr

    assert said in check()
    assert bool(check()) == bool(said)
    create_key(tmp_path, "ann", READ)
    assert check() == ""


# When a key is needed.


async def test_without_keys_on_loopback_everybody_is_the_owner(tmp_path: Path) -> None:
    answer = await Site(tmp_path, needs_keys=False).get()
    assert answer.json() == ["", "local", "admin", "publish", "read"]


async def test_a_key_that_is_given_is_checked_and_its_scopes_hold_even_where_none_is_needed(tmp_path: Path) -> None:
    site = Site(tmp_path, needs_keys=False)
    key = site.key("ann", *READ)
    assert (await site.get(x_api_key=key)).json() == ["ann", "key", "read"]
    refused = await site.post("/change", x_api_key=key)
    assert refused.status_code == 403
    assert refused.json()["error"]["message"].endswith("asks for the scope admin; the key 'ann' has read")
    assert (await site.get("/health", x_api_key="eh_wrong")).status_code == 401


@pytest.mark.parametrize(
    ("scope", "may"),
    [
        (Access.READ, [200, 403, 403]),
        (Access.PUBLISH, [403, 200, 403]),
        (Access.ADMIN, [200, 200, 200]),
    ],
)
async def test_a_scope_opens_its_own_routes_and_admin_all(tmp_path: Path, scope: Access, may: list[int]) -> None:
    site = Site(tmp_path)
    headers = {"x_api_key": site.key("ann", scope)}
    answers = [await site.get(**headers), await site.post("/events", **headers), await site.post("/change", **headers)]
    assert [answer.status_code for answer in answers] == may


async def test_with_keys_only_what_is_open_needs_none(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.key("ann")
    assert (await site.get("/health")).status_code == 200
    answer = await site.get()
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert set(answer.json()) == {"error", "timestamp"}
    assert "eventhost key create" in answer.json()["error"]["message"]


async def test_a_key_comes_in_either_header(tmp_path: Path) -> None:
    site = Site(tmp_path)
    key = site.key("ann")
    for headers in ({"x_api_key": key}, {"authorization": f"Bearer {key}"}, {"authorization": f"bearer  {key} "}):
        assert (await site.get(**headers)).json() == ["ann", "key", "read"]
    # What a proxy in between asked for is no key of ours.
    assert (await site.get(authorization="Basic YTpi")).status_code == 401
    assert (await site.get("/health", authorization="Basic YTpi")).status_code == 200


async def test_a_revoked_key_is_refused_at_once_and_told_apart_from_nobody(tmp_path: Path) -> None:
    site = Site(tmp_path)
    key = site.key("ann")
    assert (await site.get(x_api_key=key)).status_code == 200
    revoke_key(tmp_path, "ann")
    answer = await site.get(x_api_key=key)
    assert answer.status_code == 401
    assert "not known here, or was revoked" in answer.json()["error"]["message"]


async def test_with_keys_the_name_by_which_the_host_is_called_says_nothing(tmp_path: Path) -> None:
    site = Site(tmp_path)
    headers = {"host": "events.example", "origin": "https://pages.example"}
    assert (await site.get(**headers, x_api_key=site.key("ann"))).status_code == 200
    assert (await site.get(**headers)).status_code == 401


async def test_names_that_a_proxy_sends_are_let_in_where_nobody_needs_a_key(tmp_path: Path) -> None:
    site = Site(tmp_path, needs_keys=False, hosts=("events.example",))
    for host in ("events.example", "Events.Example:8001"):
        assert (await site.get(host=host, origin="https://events.example")).status_code == 200
    assert (await site.get(host="evil.example")).status_code == 403


# Guessing.


async def test_wrong_keys_are_limited_by_address_and_one_that_was_right_there_is_let_in(tmp_path: Path) -> None:
    site = Site(tmp_path)
    known, unknown = site.key("ann"), site.key("bob")
    wrong = "eh_" + "0" * 12 + "_" + "A" * 43
    assert (await site.get(address="192.0.2.7", x_api_key=known)).status_code == 200
    for _ in range(FAILURES_AT_ONCE):
        assert (await site.get(address="192.0.2.7", x_api_key=wrong)).status_code == 401
    limited = await site.get(address="192.0.2.7", x_api_key=wrong)
    assert limited.status_code == 429
    assert int(limited.headers["retry-after"]) >= 1
    # A guess that is right now tells nothing.
    assert (await site.get(address="192.0.2.7", x_api_key=unknown)).status_code == 429
    assert (await site.get(address="192.0.2.7", x_api_key=known)).status_code == 200
    assert (await site.get(address="192.0.2.8", x_api_key=unknown)).status_code == 200
    site.clock.now += int(limited.headers["retry-after"])
    assert (await site.get(address="192.0.2.7", x_api_key=unknown)).status_code == 200


# Browsers.


@asynccontextmanager
async def signed_in(site: Site, *scopes: Access) -> AsyncIterator[httpx2.AsyncClient]:
    async with site.client() as http:
        answer = await http.post("/auth/login", headers={"x-api-key": site.key("ann", *scopes)})
        assert answer.status_code == 200
        assert answer.json() == {"name": "ann", "scopes": sorted(scopes), "expires_in": 43_200}
        yield http


async def test_a_browser_signs_in_with_a_key_and_out_again(tmp_path: Path) -> None:
    site = Site(tmp_path)
    async with signed_in(site, *READ) as http:
        assert (await http.get("/who")).json() == ["ann", "cookie", "read"]
        stolen = dict(http.cookies)
        assert (await http.post("/auth/logout", headers={"sec-fetch-site": "same-origin"})).json() == {"success": True}
        assert not http.cookies
        assert (await http.get("/who")).status_code == 401
        http.cookies.update(stolen)
        assert (await http.get("/who")).status_code == 401


@pytest.mark.parametrize(("base_url", "secure"), [("http://127.0.0.1:8001", False), ("https://127.0.0.1:8001", True)])
async def test_the_cookie_is_for_this_host_alone_and_no_script(tmp_path: Path, base_url: str, secure: bool) -> None:
    site = Site(tmp_path)
    key = site.key("ann")
    async with site.client(base_url=base_url) as http:
        answer = await http.post("/auth/login", headers={"x-api-key": key})
    said = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")}
    assert {"httponly", "samesite=strict", "path=/", "max-age=43200"} < said
    assert ("secure" in said) == secure
    assert key not in answer.headers["set-cookie"]


async def test_signing_in_needs_a_right_key(tmp_path: Path) -> None:
    site = Site(tmp_path, needs_keys=False)
    assert (await site.post("/auth/login")).status_code == 401
    assert (await site.post("/auth/login", x_api_key="eh_wrong")).status_code == 401


async def test_who_is_signed_in_is_nobody_once_the_key_is_revoked_or_the_time_is_up(tmp_path: Path) -> None:
    site = Site(tmp_path)
    async with signed_in(site, *READ) as http:
        site.clock.now += 43_199
        assert (await http.get("/who")).status_code == 200
        site.clock.now += 1
        assert (await http.get("/who")).status_code == 401
    revoke_key(tmp_path, "ann")
    async with signed_in(site, *READ) as http:
        revoke_key(tmp_path, "ann")
        assert (await http.get("/who")).status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "same-origin", "origin": "http://127.0.0.1:8001"}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"origin": "http://127.0.0.1:8001"}, 200),
        ({"origin": "https://events.example", "host": "events.example"}, 200),
        ({}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "https://pages.example"}, 403),
        ({"origin": "http://127.0.0.1:3000"}, 403),
        ({"sec-fetch-site": "same-site", "origin": "http://127.0.0.1:8001"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "none"}, 403),
    ],
)
async def test_with_a_cookie_only_the_hosts_own_pages_change_anything(
    tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    site = Site(tmp_path, cors_origins=("https://pages.example",))
    async with signed_in(site, *ADMIN) as http:
        assert (await http.post("/change", headers=headers)).status_code == status
        cookie = "; ".join(f"{name}={value}" for name, value in http.cookies.items())
    assert (await site.websocket(cookie=cookie, **headers))[0] == (101 if status == 200 else 403)


async def test_a_ticket_opens_one_stream_once(tmp_path: Path) -> None:
    site = Site(tmp_path)
    key = site.key("ann")
    assert (await site.post("/auth/ticket")).status_code == 401
    given = (await site.post("/auth/ticket", x_api_key=key)).json()
    assert given["expires_in"] == 60
    query = f"a=1&ticket={given['ticket']}&b=2"
    # Nothing but a stream, and it is not used up by that.
    assert (await site.get(f"/who?{query}")).status_code == 401
    answer = await site.get(f"/sse/connect?{query}", accept="text/event-stream")
    assert answer.text == "data: ticket a=1&b=2\n\n"
    assert (await site.get(f"/sse/connect?{query}", accept="text/event-stream")).status_code == 401


async def test_a_ticket_opens_a_websocket_for_a_minute_while_its_key_lives(tmp_path: Path) -> None:
    site = Site(tmp_path)
    key = site.key("ann")

    async def ticket() -> str:
        return f"ticket={(await site.post('/auth/ticket', x_api_key=key)).json()['ticket']}"

    fresh, late, orphan = await ticket(), await ticket(), await ticket()
    site.clock.now += 59
    assert await site.websocket(fresh) == (101, "ticket")
    site.clock.now += 1
    assert (await site.websocket(late))[0] == 401
    site.clock.now -= 1
    revoke_key(tmp_path, "ann")
    assert (await site.websocket(orphan))[0] == 401


async def test_an_owner_without_a_key_gets_a_ticket_too(tmp_path: Path) -> None:
    site = Site(tmp_path, needs_keys=False)
    given = (await site.post("/auth/ticket")).json()["ticket"]
    assert await site.websocket(f"ticket={given}", origin="http://127.0.0.1:8001") == (101, "ticket")


def test_passes_are_bounded_and_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signin, "CAPACITY", 2)
    passes = signin.Passes(60, Clock())
    bearer = signin.Pass(caller=signin.Caller("a", "key", frozenset()), key_id="1")
    first, second, third = (passes.give(bearer) for _ in range(3))
    assert [passes.bearer(text) for text in (first, second, third)] == [None, bearer, bearer]


async def test_a_websocket_passes_the_same_checks(tmp_path: Path) -> None:
    keys, without = Site(tmp_path), Site(tmp_path, needs_keys=False)
    key = keys.key("ann")
    assert (await keys.websocket())[0] == 401
    assert await keys.websocket(x_api_key=key) == (101, "key")
    assert await without.websocket() == (101, "local")
    assert (await without.websocket(host="evil.example"))[0] == 403
    assert (await without.websocket(origin="http://evil.example"))[0] == 403
    limited = Site(tmp_path, rate_limit=RateLimit(burst_size=1))
    assert (await limited.websocket(x_api_key=key))[0] == 101
    assert (await limited.websocket(x_api_key=key))[0] == 429


# Limits.


def test_a_bucket_empties_fills_evenly_and_says_when_to_come_again() -> None:
    clock = Clock()
    limiter = Limiter(60, 10, clock)
    taken = [limiter.take("a") for _ in range(11)]
    assert [each.left for each in taken] == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0]
    assert [each.retry_s for each in taken] == [0] * 10 + [1]
    assert (taken[0].full_s, taken[10].full_s) == (1, 10)
    clock.now += 0.5
    assert limiter.take("a").retry_s == 0.5
    clock.now += 0.5
    assert limiter.take("a").retry_s == 0
    clock.now += 3600
    assert limiter.take("a").left == 9


def test_a_rate_of_its_own_has_a_burst_in_proportion() -> None:
    limiter = Limiter(60, 10, Clock())
    assert [limiter.take("a", 600).left for _ in range(3)] == [99, 98, 97]
    slow = [limiter.take("b", 3) for _ in range(2)]
    assert [(each.left, each.retry_s) for each in slow] == [(0, 0), (0, 20)]


def test_what_a_limiter_remembers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CAPACITY", 3)
    limiter = Limiter(60, 1, Clock())
    for who in "abcd":
        limiter.take(who)
    assert [limiter.is_empty(who) > 0 for who in "abcd"] == [False, True, True, True]


def test_of_ipv6_a_whole_network_is_one() -> None:
    assert neighbourhood("2001:db8::1") == neighbourhood("2001:db8::ffff:1") == "2001:db8::/64"
    assert neighbourhood("2001:db8:0:1::1") == "2001:db8:0:1::/64"
    assert neighbourhood("::ffff:192.0.2.1") == neighbourhood("192.0.2.1") == "192.0.2.1"


async def test_requests_are_limited_by_key_and_by_address(tmp_path: Path) -> None:
    site = Site(tmp_path, rate_limit=RateLimit(burst_size=2))
    ann, bob, eve = site.key("ann"), site.key("bob"), site.key("eve", rate_limit=120)
    first, second, third = [await site.get(x_api_key=ann) for _ in range(3)]
    assert [each.status_code for each in (first, second, third)] == [200, 200, 429]
    assert [each.headers["x-ratelimit-remaining"] for each in (first, second, third)] == ["1", "0", "0"]
    assert third.headers["x-ratelimit-limit"] == "60"
    assert int(third.headers["x-ratelimit-reset"]) >= datetime.now(UTC).timestamp() - 60
    assert third.headers["retry-after"] == "1"
    assert third.json()["error"]["code"] == -32000
    assert third.json()["error"]["data"]["retry_after"] == 1
    assert (await site.get(x_api_key=bob)).status_code == 200
    assert [(await site.get(x_api_key=eve)).status_code for _ in range(5)] == [200] * 4 + [429]
    site.clock.now += 1
    assert [(await site.get(x_api_key=ann)).status_code for _ in range(2)] == [200, 429]
    # Whoever shows nothing shares an address.
    assert [(await site.get("/nothing", "192.0.2.1")).status_code for _ in range(3)] == [404, 404, 429]
    assert (await site.get("/nothing", "192.0.2.2")).status_code == 404


async def test_publishing_has_a_limit_of_its_own_and_health_none(tmp_path: Path) -> None:
    site = Site(tmp_path, rate_limit=RateLimit(burst_size=1, publish_burst=2))
    key = site.key("ann", Access.PUBLISH, Access.READ)
    assert (await site.get(x_api_key=key)).status_code == 200
    published = [await site.post("/events", x_api_key=key) for _ in range(3)]
    assert [each.status_code for each in published] == [200, 200, 429]
    assert published[0].headers["x-ratelimit-limit"] == "6000"
    assert (await site.get(x_api_key=key)).status_code == 429
    healthy = [await site.get("/health") for _ in range(20)]
    assert {each.status_code for each in healthy} == {200}
    assert "x-ratelimit-limit" not in healthy[0].headers


async def test_reads_with_the_cookie_are_not_limited_and_changes_are(tmp_path: Path) -> None:
    site = Site(tmp_path, rate_limit=RateLimit(burst_size=2))
    async with signed_in(site, *ADMIN) as http:
        assert {(await http.get("/who")).status_code for _ in range(20)} == {200}
        own = {"sec-fetch-site": "same-origin"}
        assert [(await http.post("/change", headers=own)).status_code for _ in range(2)] == [200, 429]


async def test_more_streams_than_there_may_be_are_refused(tmp_path: Path) -> None:
    site = Site(tmp_path, needs_keys=False, max_connections=1)
    assert (await site.get("/sse/connect")).status_code == 200
    site.open_streams.append(1)
    answer = await site.get("/sse/connect")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert (await site.websocket())[0] == 503
    assert (await site.get()).status_code == 200


async def test_a_batch_of_events_may_be_larger_than_other_bodies(tmp_path: Path) -> None:
    site = Site(tmp_path, needs_keys=False, max_body=2 * MAX_BODY_BYTES)
    body = b"1" * (MAX_BODY_BYTES + 1)
    headers = {"content-type": "application/json"}
    async with site.client() as http:
        assert (await http.post("/events", content=body, headers=headers)).json() == len(body)
        assert (await http.post("/events", content=body + body, headers=headers)).status_code == 413
        assert (await http.post("/change", content=body, headers=headers)).status_code == 413
        assert (await http.post("/events", content=b"1", headers={"content-type": "text/plain"})).status_code == 415


# Proxies.


@pytest.mark.parametrize(
    ("peer", "forwarded", "status"),
    [
        ("127.0.0.1", "", 200),
        ("127.0.0.1", "198.51.100.1", 401),
        ("127.0.0.1", "127.0.0.1, 198.51.100.1", 401),
        ("127.0.0.1", "198.51.100.1, 10.0.0.9", 401),
        ("127.0.0.1", "nonsense", 401),
        ("127.0.0.1", "10.0.0.9", 401),
    ],
)
async def test_behind_a_trusted_proxy_only_this_machine_is_the_owner(
    tmp_path: Path, peer: str, forwarded: str, status: int
) -> None:
    site = Site(tmp_path, needs_keys=False, trusted_proxies=("127.0.0.1", "10.0.0.0/8"))
    assert (await site.get(address=peer, x_forwarded_for=forwarded)).status_code == status


async def test_a_proxy_is_believed_only_if_it_is_trusted(tmp_path: Path) -> None:
    trusting = Site(tmp_path, trusted_proxies=("10.0.0.1",), rate_limit=RateLimit(burst_size=1))
    for client in ("192.0.2.1", "192.0.2.2"):
        assert (await trusting.get("/nothing", "10.0.0.1", x_forwarded_for=f"192.0.2.9, {client}")).status_code == 404
    assert (await trusting.get("/nothing", "10.0.0.1", x_forwarded_for="192.0.2.2")).status_code == 429
    # From anywhere else it is one address, whatever it says.
    assert (await trusting.get("/nothing", "10.0.0.2", x_forwarded_for="192.0.2.3")).status_code == 404
    assert (await trusting.get("/nothing", "10.0.0.2", x_forwarded_for="192.0.2.4")).status_code == 429


async def test_the_routes_are_told_what_a_trusted_proxy_says(tmp_path: Path) -> None:
    site = Site(tmp_path, trusted_proxies=("10.0.0.1",))
    said = {"x_forwarded_for": "192.0.2.1", "x_forwarded_proto": "https"}
    assert (await site.get("/address", "10.0.0.1", **said)).json() == "https 192.0.2.1"
    assert (await site.get("/address", "10.0.0.2", **said)).json() == "http 10.0.0.2"


async def test_a_trusted_proxy_with_tls_makes_the_cookie_secure(tmp_path: Path) -> None:
    site = Site(tmp_path, trusted_proxies=("10.0.0.1",))
    key = site.key("ann")
    said = {"x_api_key": key, "x_forwarded_proto": "https"}
    assert "Secure" in (await site.post("/auth/login", "10.0.0.1", **said)).headers["set-cookie"]
    assert "Secure" not in (await site.post("/auth/login", "10.0.0.2", **said)).headers["set-cookie"]


# Pages from elsewhere.

PREFLIGHT = {
    "access-control-request-method": "POST", "access-control-request-headers": "content-type,x-api-key",
    "access-control-request-private-network": "true",
}  # fmt: skip


async def preflight(site: Site, origin: str) -> httpx2.Response:
    async with site.client() as http:
        return await http.options("/events", headers={"origin": origin, **PREFLIGHT})


async def test_a_named_origin_may_ask_beforehand_and_read_the_answer(tmp_path: Path) -> None:
    site = Site(tmp_path, cors_origins=("https://pages.example",))
    asked = await preflight(site, "https://pages.example")
    assert asked.status_code == 204
    told = {name: value for name, value in asked.headers.multi_items() if name.startswith("access-control-")}
    assert told.pop("access-control-expose-headers")
    assert told == {
        "access-control-allow-origin": "https://pages.example",
        "access-control-allow-methods": "GET, HEAD, POST, PUT, PATCH, DELETE",
        "access-control-allow-headers": "content-type,x-api-key",
        "access-control-allow-private-network": "true",
        "access-control-max-age": "600",
    }
    assert asked.headers["vary"] == "Origin"
    # Errors can be read, too.
    refused = await site.get(origin="https://pages.example")
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://pages.example")
    assert refused.headers.get_list("access-control-allow-origin") == ["https://pages.example"]


async def test_other_origins_are_told_nothing(tmp_path: Path) -> None:
    for origins in ((), ("https://pages.example",)):
        site = Site(tmp_path, cors_origins=origins)
        for answer in (await preflight(site, "https://evil.example"), await site.get(origin="https://evil.example")):
            assert answer.status_code in (401, 404, 405)
            assert not any("allow" in name and name != "allow" for name in answer.headers)


async def test_any_origin_may_ask_with_a_key_and_never_with_a_cookie(tmp_path: Path) -> None:
    for needs_keys in (True, False):
        site = Site(tmp_path, needs_keys=needs_keys, cors_origins=("*",))
        asked = await preflight(site, "https://evil.example")
        assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (204, "*")
        assert "access-control-allow-credentials" not in asked.headers
        assert (await site.get(origin="https://evil.example")).status_code == 401
    key = site.key("ann")
    answer = await site.get(origin="https://pages.example", x_api_key=key)
    assert (answer.json(), answer.headers["access-control-allow-origin"]) == (["ann", "key", "read"], "*")


async def test_a_named_origin_is_as_good_as_a_program_where_nobody_needs_a_key(tmp_path: Path) -> None:
    site = Site(tmp_path, needs_keys=False, cors_origins=("http://localhost:3000",))
    assert (await site.get(origin="http://localhost:3000")).json()[1] == "local"
    assert (await site.get(origin="http://localhost:3001")).status_code == 403


# The access log.


async def test_the_log_tells_who_asked_what_and_no_secret(tmp_path: Path) -> None:
    site = Site(tmp_path)
    key = site.key("ann", *READ)
    with capture_logs() as logs:
        await site.get("/who?a=secret", "192.0.2.1", x_api_key=key)
        await site.post("/change", x_api_key=key)
        await site.get()
        await site.get(x_api_key="eh_wrong")
        async with site.client() as http:
            await http.post("/auth/login", headers={"x-api-key": key})
            await http.get("/who")
            cookie = next(iter(http.cookies.values()))
        ticket = (await site.post("/auth/ticket", x_api_key=key)).json()["ticket"]
        await site.get(f"/sse/connect?ticket={ticket}")
        await site.websocket(x_api_key=key)
        await site.get("/health")
        await site.get("/health", x_api_key="eh_wrong")
    told = [entry for entry in logs if entry["log_level"] == "info"]
    assert [
        (entry["event"], entry["caller"], entry["how"], entry["method"], entry["path"], entry["status"])
        for entry in told
    ] == [
        ("http_request", "ann", "key", "GET", "/who", 200),
        ("http_request", "ann", "key", "POST", "/change", 403),
        ("http_request", "anonymous", "anonymous", "GET", "/who", 401),
        ("http_request", "wrong key", "wrong key", "GET", "/who", 401),
        ("http_request", "ann", "key", "POST", "/auth/login", 200),
        ("http_request", "ann", "cookie", "GET", "/who", 200),
        ("http_request", "ann", "key", "POST", "/auth/ticket", 200),
        ("http_stream_opened", "ann", "ticket", "GET", "/sse/connect", 200),
        ("http_request", "ann", "ticket", "GET", "/sse/connect", 200),
        ("http_stream_opened", "ann", "key", "WEBSOCKET", "/ws/a", 101),
        ("http_request", "ann", "key", "WEBSOCKET", "/ws/a", 101),
        ("http_request", "wrong key", "wrong key", "GET", "/health", 401),
    ]
    assert told[0]["address"] == "192.0.2.1"
    assert told[0]["bytes"] == len('["ann","key","read"]')
    text = repr(logs)
    assert not [secret for secret in (key, key[16:], cookie, ticket, "a=secret", "eh_wrong") if secret in text]


async def test_the_log_can_be_switched_off(tmp_path: Path) -> None:
    with capture_logs() as logs:
        await Site(tmp_path, access_log=False).get()
    assert logs == []


# From here on over real sockets.


@pytest.fixture
def environment(tmp_path: Path) -> FakeEnvironment:
    return FakeEnvironment(tmp_path)


async def test_an_address_that_others_can_reach_needs_a_key_from_everybody(environment: FakeEnvironment) -> None:
    environment.http = replace(environment.http, host="0.0.0.0")
    with pytest.raises(ConfigError, match=r"http\.host: '0\.0\.0\.0' can be reached .* eventhost key create"):
        async with serving(environment):
            pass
    key = create_key(environment.root, "ann", READ)
    async with serving(environment) as listening:
        url = listening.url.replace("0.0.0.0", "127.0.0.1")
        async with httpx2.AsyncClient(base_url=url) as http:
            assert (await http.get("/health")).status_code == 200
            assert (await http.get("/sources")).status_code == 401
            assert (await http.get("/sources", headers={"x-api-key": key})).status_code == 200
        transport = httpx2.AsyncHTTPTransport(uds=str(listening.control_socket))
        async with httpx2.AsyncClient(transport=transport, base_url="http://eventhost") as http:
            assert (await http.get("/sources")).status_code == 200


async def test_keys_can_be_asked_for_on_loopback_too(environment: FakeEnvironment) -> None:
    environment.http = replace(environment.http, auth="keys")
    with capture_logs() as logs:
        async with serving(environment) as listening, httpx2.AsyncClient(base_url=listening.url) as http:
            assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == ["no_keys"]
            assert (await http.get("/sources")).status_code == 401
            key = create_key(environment.root, "ann", READ)
            assert (await http.get("/sources", headers={"x-api-key": key})).status_code == 200
    assert last_used(environment.root)


async def test_a_file_of_keys_that_is_damaged_stops_the_start(environment: FakeEnvironment) -> None:
    environment.http = replace(environment.http, auth="keys")
    (environment.root / KEYS_FILE).parent.mkdir()
    (environment.root / KEYS_FILE).write_text("{")
    with pytest.raises(ConfigError, match="no file of keys"):
        async with serving(environment):
            pass


async def test_a_stream_ends_with_its_key(environment: FakeEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "WATCH_S", 0.01)
    ann, bob = create_key(environment.root, "ann", READ), create_key(environment.root, "bob", READ)
    accept = {"accept": "text/event-stream"}
    with anyio.fail_after(20):
        async with (
            serving(environment) as listening,
            httpx2.AsyncClient(base_url=listening.url) as http,
            http.stream("GET", "/events", headers={**accept, "x-api-key": ann}) as hers,
            http.stream("GET", "/events", headers={**accept, "x-api-key": bob}) as his,
        ):
            lines = hers.aiter_lines()
            await anext(lines)
            revoke_key(environment.root, "ann")
            with pytest.raises((httpx2.RemoteProtocolError, httpx2.ReadError)):
                async for _ in lines:
                    pass
            await environment.publish_event({"type": "a"})
            async for line in his.aiter_lines():
                if line == "event: a":
                    break


async def test_who_promises_a_body_and_does_not_send_it_is_cut(
    environment: FakeEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "WATCH_S", 0.01)
    environment.http = replace(environment.http, connection_timeout_s=0.05)
    with anyio.fail_after(20):
        async with serving(environment) as listening:
            host, port = listening.url.removeprefix("http://").split(":")
            async with await anyio.connect_tcp(host, int(port)) as lazy:
                head = f"POST /events HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
                await lazy.send(f"{head}Content-Length: 10\r\n\r\n".encode())
                with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                    await lazy.receive()


async def test_a_websocket_without_a_key_is_refused_before_it_opens(environment: FakeEnvironment) -> None:
    environment.http = replace(environment.http, auth="keys")
    async with serving(environment) as listening:
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with websockets.connect(listening.url.replace("http", "ws") + "/ws/a"):
                pass
    assert refused.value.response.status_code == 401
    assert json.loads(refused.value.response.body or b"")["error"]["code"] == -32600


async def test_a_websocket_opens_with_a_key(environment: FakeEnvironment) -> None:
    environment.http = replace(environment.http, auth="keys")
    key = create_key(environment.root, "ann", ADMIN)
    async with serving(environment) as listening:
        url = listening.url.replace("http", "ws") + "/ws/a"
        async with websockets.connect(url, additional_headers={"X-API-Key": key}) as opened:
            assert json.loads(await opened.recv())["event"] == "connected"


async def test_the_command_line_shows_the_key_of_a_variable(
    environment: FakeEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment.http = replace(environment.http, auth="keys")
    key = create_key(environment.root, "ann", READ)
    async with serving(environment) as listening:

        def sources() -> Any:
            return Host.at_url(listening.url).get("/sources")

        with pytest.raises(EventhostError, match="asks for a key"):
            await anyio.to_thread.run_sync(sources)
        monkeypatch.setenv("EVENTHOST_KEY", key)
        assert [each["name"] for each in (await anyio.to_thread.run_sync(sources))["sources"]] == ["door"]


# TLS.


class Certificates:
    """A root, an authority between, and certificates for 127.0.0.1, in PEM files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root_key, self.middle_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        self.root = self._make("root", self.root_key, "root", self.root_key, authority=True)
        self.middle = self._make("middle", self.middle_key, "root", self.root_key, authority=True)

    def issue(self, *, chain: bool = True, password: bytes = b"") -> x509.Certificate:
        """Write `cert.pem` and `key.pem`."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = self._make("host", key, "middle", self.middle_key, authority=False)
        encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        (self.folder / "key.pem").write_bytes(key.private_bytes(pem, pkcs8, encryption))
        parts = [made, self.middle] if chain else [made]
        (self.folder / "cert.pem").write_bytes(b"".join(part.public_bytes(pem) for part in parts))
        return made

    def trusting(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.root.public_bytes(serialization.Encoding.PEM).decode())
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context

    def _make(self, name: str, key: Any, issuer: str, issuer_key: Any, *, authority: bool) -> x509.Certificate:
        now = datetime.now(UTC)
        called = {each: x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, each)]) for each in (name, issuer)}
        builder = (
            x509.CertificateBuilder(called[issuer], called[name], key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        )
        return builder.sign(issuer_key, hashes.SHA256())


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


TLS = TlsConfig("cert.pem", "key.pem")


async def test_the_port_speaks_tls_with_the_chain_and_the_control_socket_does_not(
    environment: FakeEnvironment, certificates: Certificates
) -> None:
    certificates.issue()
    environment.http = replace(environment.http, tls=TLS)
    async with serving(environment) as listening:
        assert listening.url.startswith("https://")
        async with httpx2.AsyncClient(base_url=listening.url, verify=certificates.trusting()) as http:
            own = {"origin": listening.url}
            assert (await http.get("/sources", headers=own)).status_code == 200
            plain = {"origin": listening.url.replace("https", "http")}
            assert (await http.get("/sources", headers=plain)).status_code == 403
        transport = httpx2.AsyncHTTPTransport(uds=str(listening.control_socket))
        async with httpx2.AsyncClient(transport=transport, base_url="http://eventhost") as http:
            assert (await http.get("/sources")).status_code == 200
        old = certificates.trusting()
        with pytest.warns(DeprecationWarning, match="deprecated"):
            old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        with pytest.raises(httpx2.ConnectError):
            async with httpx2.AsyncClient(base_url=listening.url, verify=old) as http:
                await http.get("/health")


async def test_a_certificate_that_is_renewed_is_taken_without_a_restart(
    environment: FakeEnvironment, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "WATCH_S", 0.01)
    certificates.issue()
    environment.http = replace(environment.http, tls=TLS)
    async with serving(environment) as listening:
        port = int(listening.url.rpartition(":")[2])

        def shown() -> int:
            context = certificates.trusting()
            with socket.create_connection(("127.0.0.1", port)) as raw:
                raw.settimeout(10)
                with context.wrap_socket(raw, server_hostname="127.0.0.1") as secured:
                    return int(dict(secured.getpeercert() or {})["serialNumber"], 16)

        first = await anyio.to_thread.run_sync(shown)
        renewed = certificates.issue()
        assert first != renewed.serial_number
        with anyio.fail_after(20):
            while await anyio.to_thread.run_sync(shown) != renewed.serial_number:
                await anyio.sleep(0.01)


def test_a_renewal_that_cannot_be_used_leaves_the_certificate(tmp_path: Path, certificates: Certificates) -> None:
    certificates.issue()
    certificate = Certificate(tmp_path, TLS)
    (tmp_path / "cert.pem").write_text("half")
    with capture_logs() as logs:
        certificate.refresh()
        certificate.refresh()
    assert [entry["event"] for entry in logs] == ["certificate_unusable"]


@pytest.fixture
def wrong_pairs(tmp_path: Path, certificates: Certificates) -> Path:
    certificates.issue(password=b"secret")
    (tmp_path / "key.pem").rename(tmp_path / "locked.pem")
    certificates.issue()
    (tmp_path / "key.pem").rename(tmp_path / "other.pem")
    certificates.issue()
    (tmp_path / "empty.pem").write_text("")
    (tmp_path / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n")
    return tmp_path


@pytest.mark.parametrize(
    ("cert", "key", "expected"),
    [
        ("none.pem", "key.pem", r"http\.tls\.cert: none\.pem cannot be read: No such file"),
        ("empty.pem", "key.pem", r"http\.tls\.cert: empty\.pem holds no certificate"),
        ("cert.pem", "cert.pem", r"http\.tls\.key: cert\.pem holds no private key"),
        ("broken.pem", "key.pem", r"http\.tls\.cert: broken\.pem and key\.pem cannot be used"),
        ("cert.pem", "other.pem", r"http\.tls\.key: other\.pem is not the key of the first certificate in cert\.pem"),
        ("cert.pem", "locked.pem", r"http\.tls\.key: locked\.pem is protected by a password"),
    ],
)
def test_a_certificate_that_cannot_be_used_says_why(wrong_pairs: Path, cert: str, key: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        Certificate(wrong_pairs, TlsConfig(cert, key))
