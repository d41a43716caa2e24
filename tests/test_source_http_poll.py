"""The HTTP poll source against a real web site: one that lies, breaks, moves, goes away and comes back."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from http_site import Page, Site, page, site
from hypothesis import given, settings
from hypothesis import strategies as st
from source_process import Event, SourceProcess, source_process
from test_shipped_sources import modules_of

from eventhost.errors import ConfigError
from eventhost.kit.selection import Misshapen
from eventhost.kit.upstream import Unavailable, Upstream

SOURCE = Path(__file__).parents[1] / "eventsources" / "http-poll"
GOLDEN = SOURCE / "golden"

pytestmark = pytest.mark.anyio

Told = tuple[str, Any]


@pytest.fixture
def web() -> Iterator[Site]:
    with site() as served:
        yield served


def config(web: Site, path: str = "/list", **more: Any) -> dict[str, Any]:
    return {"urls": [{"name": "list", "url": f"{web.url}{path}", "interval": "1s", "key": "id", **more}]}


def items(*ids: int, **more: Any) -> Page:
    return page([{"id": number, **more} for number in ids])


def told(events: list[Event]) -> list[Told]:
    return [(event["type"].removeprefix("http."), event["payload"]["key"]) for event in events]


async def looked(source: SourceProcess, web: Site, times: int = 1, path: str = "/list") -> None:
    """Wait for a whole look, and for what comes of it: one may have begun before this."""
    wanted = len(web.statuses(path)) + times + 1
    await source.until_asked(lambda: len(web.statuses(path)) >= wanted)


async def state(source: SourceProcess) -> dict[str, Any]:
    (upstream,) = (await source.call("get_source_status"))["upstreams"]
    found: dict[str, Any] = upstream
    return found


async def test_a_list_is_followed_and_what_has_not_changed_costs_nothing(web: Site, tmp_path: Path) -> None:
    web.pages["/list"] = items(1, 2)
    web.packs = True
    async with source_process(SOURCE, config(web, deleted=True), tmp_path) as source:
        await source.logged("connected, 2 items")
        web.pages["/list"] = page([{"id": 3, "text": "café"}, {"id": 1, "text": "b"}])
        await source.count(3)
        await looked(source, web)
        assert web.statuses("/list")[-1] == 304
        position = (await state(source))["position"]
        assert (position["status"], position["items"]) == (304, 2)
    assert told(source.events) == [("created", 3), ("changed", 1), ("deleted", 2)]
    assert source.events[0]["payload"]["item"]["text"] == "café"
    # The next start asks only whether it has changed since.
    web.requests.clear()
    async with source_process(SOURCE, config(web, deleted=True), tmp_path) as source:
        await source.logged("connected")
        assert web.statuses("/list") == [304]
        assert source.events == []


async def test_a_server_that_ignores_conditions_is_not_told_twice(web: Site, tmp_path: Path) -> None:
    web.tags = False
    web.pages["/list"] = items(1)
    async with source_process(SOURCE, config(web), tmp_path) as source:
        await source.logged("connected")
        web.pages["/list"] = items(1, 2)
        await source.count(1)
        await looked(source, web)
    assert told(source.events) == [("created", 2)]
    assert set(web.statuses("/list")) == {200}


async def test_an_error_deletes_nothing_and_its_end_is_noticed(web: Site, tmp_path: Path) -> None:
    whole = items(*range(50), text="x" * 50)
    web.pages["/list"] = whole
    web.tags = False  # with them, it would not send what it breaks
    async with source_process(SOURCE, config(web, deleted=True), tmp_path) as source:
        await source.logged("connected")
        for broken, message in [
            (page({"message": "busy"}, 500), 'answered 500 Internal Server Error: {"message": "busy"}'),
            (page("gone", 404, content_type="text/html"), "answered 404 Not Found; is the `url` right?"),
            (whole._replace(cut=1000), "the connection failed"),
            (page(b"", 204), "answered 204 No Content"),
            (page(b"", 304), "answered 304 Not Modified"),
        ]:
            web.pages["/list"] = broken
            await source.logged(message)
            assert (await state(source))["state"] == "reconnecting"
            assert message in (await state(source))["lastError"]
        web.pages["/list"] = whole
        await source.logged("connected", 2)
        web.pages["/list"] = items(*range(1, 50), text="x" * 50)
        await source.count(1)
    assert told(source.events) == [("deleted", 0)]


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
async def test_a_server_that_goes_away_and_comes_back_loses_nothing(web: Site, tmp_path: Path, kill: bool) -> None:
    web.pages["/list"] = items(1)
    async with source_process(SOURCE, config(web), tmp_path) as source:
        await source.logged("connected")
        if kill:
            web.answering.clear()
            await source.until_asked(lambda: web.requests)
        web.stop(kill=kill)
        await source.logged("trying again until it works")
        assert (await state(source))["state"] == "reconnecting"
        web.pages["/list"] = items(1, 2)
        web.start()
        await source.count(1)
        assert (await state(source))["state"] == "connected"
    assert told(source.events) == [("created", 2)]


async def test_a_source_killed_in_a_flood_repeats_what_was_not_accepted_as_it_was(web: Site, tmp_path: Path) -> None:
    web.pages["/list"] = page([])
    accepted: dict[str, Event] = {}

    def first_700(event: Event) -> bool:
        if len(accepted) < 700:
            accepted[event["id"]] = event
        return event["id"] in accepted

    async with source_process(SOURCE, config(web, deleted=True), tmp_path) as source:
        await source.logged("connected")
        source.accepts = first_700
        web.pages["/list"] = items(*range(2000), n=1)
        await source.until(lambda: len(accepted) == 700)
        source.kill()
    # Meanwhile some are as they were before, some are gone, and all stand in another order.
    web.pages["/list"] = items(*reversed(range(100, 2000)), n=2)
    current: dict[int, Any] = {}
    async with source_process(SOURCE, config(web, deleted=True), tmp_path) as source:
        await source.until(lambda: [kind for kind, _ in told(source.events)].count("deleted") == 100)
        for event in source.events:
            assert accepted.setdefault(event["id"], event) == event
    assert told(source.events)[:500] == [("created", number) for number in range(500, 1000)]
    for event in accepted.values():
        key, item, old = (event["payload"][name] for name in ("key", "item", "old"))
        assert current.get(key) == old
        current[key] = item
    assert {key: item for key, item in current.items() if item} == {n: {"id": n, "n": 2} for n in range(100, 2000)}


async def test_a_host_that_does_not_accept_is_waited_for_and_nothing_new_is_asked(web: Site, tmp_path: Path) -> None:
    web.pages["/list"] = page([])
    wanted = config(web, headers={"X-Who": "waiting"})
    async with source_process(SOURCE, wanted, tmp_path) as source:
        await source.logged("connected")
        source.accepts = lambda event: False
        web.pages["/list"] = items(1)
        (event,) = await source.count(1)
        asked = len(web.requests)
        web.pages["/list"] = items(1, 2)
        # For as long as another source takes for several looks.
        async with source_process(SOURCE, config(web, first="tell"), tmp_path / "other") as other:
            await other.count(2)
            await looked(other, web)
        assert "waiting" not in [request.headers.get("x-who") for request in web.requests[asked:]]
        assert source.events == [event]
    async with source_process(SOURCE, wanted, tmp_path) as source:
        await source.count(2)
    assert source.events[0] == event
    assert told(source.events) == [("created", 1), ("created", 2)]


async def test_an_event_that_the_host_rejects_is_told_in_the_log_and_holds_up_nothing(
    web: Site, tmp_path: Path
) -> None:
    web.pages["/list"] = page([])
    async with source_process(SOURCE, config(web), tmp_path) as source:
        await source.logged("connected")

        def all_but_the_first(event: Event) -> bool:
            if event["payload"]["key"] == 1:
                rejected = [{"id": event["id"], "reason": "not here"}]
                source.say(method="notifications/eventsource/accepted", params={"ids": [], "rejected": rejected})
            return bool(event["payload"]["key"] != 1)

        source.accepts = all_but_the_first
        web.pages["/list"] = items(1, 2)
        await source.logged("not here")
        web.pages["/list"] = items(1, 2, 3)
        await source.count(3)
        await looked(source, web)
    assert told(source.events) == [("created", 1), ("created", 2), ("created", 3)]


async def test_feeds_are_followed_by_their_new_items_and_a_gap_says_when_some_may_be_missing(
    web: Site, tmp_path: Path
) -> None:
    def feed(*guids: str) -> Page:
        entries = "".join(f"<item><guid isPermaLink='false'>{guid}</guid></item>" for guid in guids)
        return page(f"<rss version='2.0'><channel>{entries}</channel></rss>", content_type="application/rss+xml")

    web.pages["/list"] = feed("b", "a")
    wanted = config(web, key=None)
    async with source_process(SOURCE, wanted, tmp_path) as source:
        await source.logged("connected, 2 items")
        web.pages["/list"] = feed("d", "c", "b")
        await source.count(2)
        await looked(source, web)
    assert told(source.events) == [("created", "c"), ("created", "d")]
    # While it is down, more come than the feed shows.
    web.pages["/list"] = feed("z", "y")
    async with source_process(SOURCE, wanted, tmp_path) as source:
        source.accepts = lambda event: False
        (not_accepted,) = await source.count(1)
    async with source_process(SOURCE, wanted, tmp_path) as source:
        gap, *rest = await source.count(3)
        assert gap == not_accepted
        assert (await state(source))["gaps"] == 1
        await looked(source, web)
    assert gap["type"] == "http.gap"
    assert gap["payload"]["reason"] == "window"
    assert gap["payload"]["until"] == {"items": 2, "key": "y"}
    assert told(rest) == [("created", "y"), ("created", "z")]
    assert len(source.events) == 3


async def test_a_move_is_followed_told_and_no_secret_is_told_to_another_server(web: Site, tmp_path: Path) -> None:
    with site() as other:
        other.pages["/there"] = items(1)
        web.pages["/list?key=opensesame"] = page(b"", 301, location="/moved?key=opensesame")
        web.pages["/moved?key=opensesame"] = page(b"", 302, location=f"{other.url}/there")
        secrets = {"auth": {"bearer": "hunter2"}, "headers": {"X-Api-Key": "swordfish"}}
        async with source_process(SOURCE, config(web, "/list?key=opensesame", **secrets), tmp_path) as source:
            await source.logged("connected, 1 items")
            await source.logged(f"list: has moved for good to {web.url}/moved; mend its `url`")
            other.pages["/there"] = page({"error": "no hunter2, swordfish or opensesame"}, 403)
            await source.logged("answered 403 Forbidden")
        assert [request.headers["authorization"] for request in web.requests[:2]] == ["Bearer hunter2"] * 2
        assert all("x-api-key" in request.headers for request in web.requests)
        assert all(not {"authorization", "x-api-key"} & request.headers.keys() for request in other.requests)
    for secret in ("hunter2", "swordfish", "opensesame"):
        assert secret not in source.log


async def test_a_post_asks_with_its_body_and_several_urls_know_nothing_of_each_other(web: Site, tmp_path: Path) -> None:
    web.pages["/graphql"] = page({"data": {"list": [{"id": 1}]}})
    web.pages["/text"] = page("one")
    broken = {"name": "broken", "url": f"{web.url}/nowhere", "interval": "1s"}
    text = {
        "name": "text",
        "url": f"{web.url}/text",
        "format": "text",
        "interval": "1s",
        "type": "page.{name}.{change}",
    }
    basic = {"basic": {"user": "ada", "password": "pässword"}}
    wanted = config(web, "/graphql", items="data.list", body={"query": "{ list { id } }"}, first="tell", auth=basic)
    wanted["urls"] += [broken, text]
    async with source_process(SOURCE, wanted, tmp_path) as source:
        await source.count(1)
        await source.logged("text: connected")
        await source.logged("broken: answered 404")
        web.pages["/text"] = page("two")
        await source.count(2)
        states = {one["name"]: one["state"] for one in (await source.call("get_source_status"))["upstreams"]}
    assert states == {"list": "connected", "broken": "reconnecting", "text": "connected"}
    assert [event["type"] for event in source.events] == ["http.created", "page.text.changed"]
    assert source.events[1]["payload"]["old"] == {"text": "one"}
    asked = next(request for request in web.requests if request.path == "/graphql")
    assert (asked.method, json.loads(asked.body)) == ("POST", {"query": "{ list { id } }"})
    assert asked.headers["content-type"] == "application/json"
    assert asked.headers["authorization"] == "Basic YWRhOnDDpHNzd29yZA=="


async def test_a_server_that_does_not_answer_in_time_is_given_up(web: Site, tmp_path: Path) -> None:
    web.pages["/list"] = items(1)
    web.answering.clear()
    async with source_process(SOURCE, config(web, timeout="200ms"), tmp_path) as source:
        await source.logged("did not answer within 0.2 s; raise `timeout`?")
        web.answering.set()
        await source.logged("connected")


async def test_urls_that_do_not_answer_hold_up_no_other(web: Site, tmp_path: Path) -> None:
    with site() as silent:
        silent.answering.clear()
        wanted = config(web)
        wanted["urls"] += [f"{silent.url}/{number}" for number in range(20)]
        web.pages["/list"] = items(1)
        async with source_process(SOURCE, wanted, tmp_path) as source:
            await source.logged("connected")
            web.pages["/list"] = items(1, 2)
            await source.count(1)
            states = [one["state"] for one in (await source.call("get_source_status"))["upstreams"]]
    assert states == ["connected"] + ["connecting"] * 20


async def test_an_answer_that_is_too_large_packed_or_not_is_given_up_without_holding_it(
    web: Site, tmp_path: Path
) -> None:
    bomb = gzip.compress(b"[" + b" " * 200_000_000 + b"]", 1)
    web.pages["/list"] = Page(bomb, 200, {"Content-Type": "application/json", "Content-Encoding": "gzip"})
    async with source_process(SOURCE, config(web), tmp_path) as source:
        await source.logged("the answer is larger than 10000000 bytes; raise `maxBytes`")
        assert source.peak_memory_bytes() < 120_000_000
        web.pages["/list"] = page(b"x" * 100, content_encoding="gzip")
        await source.logged("cannot be unpacked")


async def test_a_large_list_is_followed_in_bounded_memory(web: Site, tmp_path: Path) -> None:
    many = [{"id": number, "text": "x" * 100} for number in range(20_000)]
    web.pages["/list"] = page(many)
    async with source_process(SOURCE, config(web, deleted=True), tmp_path) as source:
        await source.logged("connected, 20000 items")
        await looked(source, web)
        many[19_998]["text"] = "y"
        web.pages["/list"] = page(many[:-1])
        changed, _ = await source.count(2)
        assert source.peak_memory_bytes() < 150_000_000
    assert told(source.events) == [("changed", 19_998), ("deleted", 19_999)]
    assert changed["payload"]["changed"] == ["text"]


async def test_state_that_is_damaged_is_told_with_the_mend(web: Site, tmp_path: Path) -> None:
    (tmp_path / "list.db").write_bytes(b"no database" * 100)
    async with source_process(SOURCE, config(web), tmp_path) as source:
        await source.logged("list.db: damaged")
        await source.logged("remove it, and the source begins with what is there then")


@pytest.mark.parametrize(
    ("urls", "message"),
    [
        (None, 'urls: missing; write ["https://example.com/feed.xml"]'),
        ([], 'urls: empty; write ["https://example.com/feed.xml"]'),
        (7, "urls: expected a list of objects, or of texts, each its url, got 7"),
        ("ftp://h/", "urls.url: is no http or https URL"),
        (["https://h:port/"], "urls[0].url: is no URL: Port could not be cast"),
        ([{"url": "https://h/", "body": {}, "method": "GET"}], "urls[0].body: a GET has none"),
        ([{"url": "https://h/", "auth": {"token": "hunter2"}}], 'urls[0].auth: expected {"bearer": "…"} or'),
        ([{"url": "https://h/", "auth": {"bearer": "hunter2\n"}}], "urls[0].auth.bearer: expected a text of ASCII"),
        ([{"url": "https://h/", "headers": {"X": "hunter2\n"}}], "urls[0].headers.X: expected a text on one line"),
        ([{"url": "https://h/", "headers": {"Host": "a"}}], "urls[0].headers.Host: is set by this source"),
        ([{"url": "https://u:hunter2@h/", "format": "xml"}], "urls[0].format: expected one of auto, json, feed, text"),
    ],
)
async def test_a_wrong_setting_ends_the_source_with_its_place_and_mend(tmp_path: Path, urls: Any, message: str) -> None:
    async with source_process(SOURCE, {"urls": urls}, tmp_path) as source:
        await source.logged(message)
    assert "hunter2" not in source.log


# Without a process


@contextmanager
def loaded(name: str, *others: str) -> Iterator[Any]:
    with modules_of("http-poll") as load:
        yield load(name) if not others else tuple(load(one) for one in (name, *others))


def test_the_package_for_feeds_is_asked_for_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    with loaded("options", "answers") as (options, answers):
        for module in (options, answers):
            monkeypatch.setattr(module, "find_spec", lambda name: None)
        mend = r"pip install 'eventhost\[feeds\]'"
        with pytest.raises(ConfigError, match=rf"format: feeds need the Python package feedparser; {mend}"):
            options.pages({"urls": {"url": "https://h/", "format": "feed"}})
        (auto,) = options.pages({"urls": "https://h/"})
        assert answers.read(auto, answers.Answer(200, {}, b"[1]", "https://h/")).items.form == "list"
        with pytest.raises(Misshapen, match=f"this is a feed, .*; {mend}"):
            answers.read(auto, answers.Answer(200, {}, b"<rss version='2.0'/>", "https://h/"))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"cache-control": "max-age=60"}, 60),
        ({"cache-control": 'public, max-age="60", must-revalidate', "age": "20"}, 40),
        ({"cache-control": "max-age=60", "age": "90"}, 0),
        ({"cache-control": "Max-Age = 60"}, 60),
        ({"cache-control": "no-cache, max-age=60"}, 0),
        ({"cache-control": "max-age=-5"}, 0),
        ({"cache-control": "max-age=1e9, s-maxage=60"}, 0),
        ({"cache-control": "max-age=" + "9" * 5000}, 86_400),
        ({"cache-control": "max-age=60", "age": "x"}, 60),
    ],
)
def test_for_how_long_an_answer_stays_as_it_is(headers: dict[str, str], seconds: float) -> None:
    with loaded("freshness") as freshness:
        assert freshness.fresh_s(headers) == seconds


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("", 0),
        ("120", 120),
        ("Fri, 02 Jan 2026 03:05:05 GMT", 60),
        ("Fri, 02 Jan 2026 03:00:00 GMT", 0),
        ("999999999999999", 86_400),
        ("soon", 0),
        ("-1", 0),
        ("²", 0),
    ],
)
def test_for_how_long_a_server_wants_to_be_left_alone(said: str, seconds: float) -> None:
    with loaded("freshness") as freshness:
        assert freshness.retry_after_s({"retry-after": said}, 1767323045.0) == seconds


@pytest.mark.parametrize(
    ("status", "headers", "waits_s"),
    [
        (429, {"Retry-After": "3600"}, [3600, 3600]),
        (503, {"Retry-After": "7200"}, [7200, 7200]),
        (404, {}, [600, 600]),
        (401, {"Retry-After": "5"}, [600, 600]),
        (429, {}, [1, 2, 4, 8]),
        (500, {}, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]),
    ],
)
async def test_a_server_that_refuses_is_left_alone_for_as_long_as_it_asked_or_longer_and_longer(
    tmp_path: Path, status: int, headers: dict[str, str], waits_s: list[float]
) -> None:
    with loaded("options", "fetching", "polling") as (options, fetching, polling):
        (wanted,) = options.pages({"urls": {"url": "https://h/", "interval": "10m"}})
        transport = httpx2.MockTransport(lambda request: httpx2.Response(status, headers=headers))
        async with httpx2.AsyncClient(transport=transport) as client:
            fetcher, upstream = fetching.Fetcher(client, lambda *_: None), upstream_of("h")
            poll = polling.Poll(wanted, tmp_path, fetcher.fetch, None, upstream, asyncio.Semaphore())
            assert [await poll.turn() for _ in waits_s] == waits_s
        poll.close()
    assert (upstream.state, upstream.last_error[:12]) == ("reconnecting", f"answered {status}")


def upstream_of(name: str, log: list[str] | None = None) -> Any:
    async def emit(event: Any) -> None:
        raise AssertionError(event)

    lines = [] if log is None else log
    return Upstream(name, lambda _, line: lines.append(line), emit, lambda: None)


@pytest.mark.parametrize(
    ("option", "headers", "body", "wait_s"),
    [
        ("5m", {"cache-control": "max-age=900"}, b"[]", 900),
        ("5m", {"cache-control": "max-age=31536000"}, b"[]", 3600),
        ("5m", {"cache-control": "max-age=10"}, b"[]", 300),
        ("2h", {}, b"[]", 7200),
        ("5m", {}, b"<rss version='2.0'><channel><ttl>15</ttl></channel></rss>", 900),
        ("5m", {}, b"<rss version='2.0'><channel><ttl>15000000000</ttl></channel></rss>", 3600),
        ("5m", {}, b"<rss version='2.0'><channel><ttl>soon</ttl></channel></rss>", 300),
    ],
)
async def test_the_next_look_comes_when_the_server_and_the_feed_say(
    tmp_path: Path, option: str, headers: dict[str, str], body: bytes, wait_s: float
) -> None:
    log: list[str] = []
    with loaded("options", "answers", "polling") as (options, answers, polling):
        (wanted,) = options.pages({"urls": {"url": "https://h/", "interval": option}})

        async def fetch(page: Any, url: str, conditional: Any) -> Any:
            return answers.Answer(200, headers, body, url)

        poll = polling.Poll(wanted, tmp_path, fetch, None, upstream_of("h", log), asyncio.Semaphore())
        # Also of the same answer again, which is not read any more.
        assert [await poll.turn(), await poll.turn()] == [wait_s] * 2
        assert len([line for line in log if "see `maxAge`" in line]) == (wait_s > wanted.interval_s)
        poll.close()


@pytest.mark.parametrize(
    ("start", "target", "kept"),
    [
        ("https://h/a", "https://h/b", True),
        ("http://h/a", "https://h/a", True),
        ("https://h/a", "http://h/a", False),
        ("https://h/a", "https://h:8443/a", False),
        ("http://h:8080/a", "https://h/a", False),
        ("https://h/a", "https://h.evil/a", False),
        ("https://h/a", "//evil/a", False),
    ],
)
async def test_secrets_follow_a_redirect_to_the_same_server_only(start: str, target: str, kept: bool) -> None:
    asked: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        return httpx2.Response(302, headers={"Location": target}) if len(asked) == 1 else httpx2.Response(200)

    with loaded("options", "fetching") as (options, fetching):
        (wanted,) = options.pages({"urls": {"url": start, "auth": {"bearer": "hunter2"}, "headers": {"X-Key": "k"}}})
        async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as client:
            await fetching.Fetcher(client, lambda *_: None).fetch(wanted, start, {"If-None-Match": '"a"'})
    for name in ("authorization", "x-key", "if-none-match"):
        assert name in asked[0].headers
        assert (name in asked[1].headers) == kept


async def test_redirects_end_and_a_body_goes_to_no_other_server() -> None:
    def moved(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(int(request.url.path[1:]), headers={"Location": request.url.params.get("to", "")})

    with loaded("options", "fetching") as (options, fetching):

        async def fails(url: str, **more: Any) -> str:
            (wanted,) = options.pages({"urls": {"url": url, **more}})
            async with httpx2.AsyncClient(transport=httpx2.MockTransport(moved)) as client:
                with pytest.raises(Unavailable) as raised:
                    await fetching.Fetcher(client, lambda *_: None).fetch(wanted, url, {})
            return str(raised.value)

        assert await fails("https://h/302") == "more than 10 redirects"
        assert await fails("https://h/302?to=ftp://h/") == "leads to what is no http or https URL"
        assert await fails("https://h/307?to=https://evil/307", body={}) == (
            "sends its POST to another server; mend the `url`"
        )


async def test_the_next_page_of_a_list_is_asked_for_on_its_own_server_only() -> None:
    with loaded("options", "fetching") as (options, fetching):
        (wanted,) = options.pages({"urls": {"url": "https://h/list", "next": "next"}})
        transport = httpx2.MockTransport(lambda request: httpx2.Response(200, json=str(request.url)))
        async with httpx2.AsyncClient(transport=transport) as client:
            fetch = fetching.Fetcher(client, lambda *_: None).fetch
            assert json.loads((await fetch(wanted, "?page=2", {})).body) == "https://h/list?page=2"
            with pytest.raises(Unavailable, match="the next page is on another server"):
                await fetch(wanted, "https://evil/list", {})


PIECES = b"""\
<rss version='2.0'>  <feed xmlns='http://www.w3.org/2005/Atom'>  <channel>  <item>  <entry>  <guid>  1  </guid>  \
<title type='html'>  &lt;a href='http://[x'&gt;  &x;  ]]>  <!DOCTYPE rss [  <![CDATA[  <link href='http://[bad'/>  \
<pubDate>Fri, 32 Foo 99999 25:61:00 XYZ</pubDate>  <enclosure url='//[' length='-1'/>  <content:encoded>  <updated>  \
</item>  </channel>  </rss>  <?xml version='1.0' encoding='utf-7'?>  <media:content url=''/>  \0  \xff"""


@given(st.binary(max_size=300) | st.lists(st.sampled_from(PIECES.split(b"  ")), max_size=20).map(b"".join))
@settings(max_examples=300)
def test_a_feed_may_be_anything_and_is_read_or_refused(body: bytes) -> None:
    with loaded("feeds") as feeds:
        try:
            found = feeds.xml_feed(body, "", "https://h/feed")
        except Misshapen:
            return
        assert json.dumps([item for _, item in found.items.items], allow_nan=False)
        keys = [key for key, _ in found.items.items]
        assert len(set(keys)) == len(keys)


@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,0e-nulNaI\\ud\ufeff', max_size=40).map(str.encode))
def test_any_answer_is_json_that_can_be_told_or_refused(body: bytes) -> None:
    with loaded("options", "answers") as (options, answers):
        (wanted,) = options.pages({"urls": {"url": "https://h/", "format": "json"}})
        try:
            reading = answers.read(wanted, answers.Answer(200, {}, body, "https://h/"))
        except Misshapen:
            return
        json.dumps([item for _, item in reading.items.items], allow_nan=False)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "latin-1"])
def test_json_is_read_in_every_encoding(encoding: str) -> None:
    with loaded("options", "answers") as (options, answers):
        (wanted,) = options.pages({"urls": "https://h/"})
        kind = "application/json; charset=latin1" if encoding == "latin-1" else "application/json"
        body = '["café"]'.encode(encoding)
        reading = answers.read(wanted, answers.Answer(200, {"content-type": kind}, body, "https://h/"))
    assert [item for _, item in reading.items.items] == ["café"]
