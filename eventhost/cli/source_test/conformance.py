"""What a host relies on in any source over stdio, tried on its own process, which is treated as badly as a pipe can.

config ─► handshake ─► tools, resources, unknown ─► events ─► garbage ─► slow reader ─► ends of stdin ─► killed
One process as long as it lives; the check that ends it fails, and the next has another with the same state. Before that
is said, another process is left alone for as long: one that ends by itself is told once, as is one that blocks, and
what cannot be tried with it is skipped.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, Final

import anyio

from eventhost.cli.source_test.check import Check, Outcome, failed, ok, skipped
from eventhost.cli.source_test.process import LINGER_S
from eventhost.cli.source_test.session import ANSWER_S, NoAnswer, Session, line_of, short, talking
from eventhost.cli.source_test.subject import Found, Subject
from eventhost.cli.source_test.wrong import (
    MOST_SHOWN,
    advice,
    shown,
    wrong_contents,
    wrong_events,
    wrong_handshake,
    wrong_tools,
)
from eventhost.errors import ConfigError, ConnectionLost, SpawnError
from eventhost.wire import ACCEPTED, LIST_PENDING_EVENTS

METHOD_NOT_FOUND: Final = -32601
PINGS: Final = 2000
"""So many answers, of 50 bytes and more, do not fit into a pipe, which holds 64 KiB."""

HUGE_BYTES: Final = 1_048_576
_NO_METHOD: Final = "eventhost-no-method"
_STALL_S: Final = 1.0
_MOST_READ: Final = 50

CHECKS: Final = (
    "handshake",
    "tools",
    "resources",
    "unknown method",
    "unknown notification",
    "events",
    "acknowledgement",
    "garbage",
    "slow reader",
    "stdin end",
    "stdin end inside a line",
    "stdin end before initialize",
    "killed",
    "stdout",
)
"""The checks over stdio, in their order, after that of the configuration."""

_LIVES: Final = frozenset(CHECKS[: CHECKS.index("stdin end")])
"""Those in which it is to live on."""

_ALONE_S: Final = 10.0
"""How long a process is left alone at most, to see whether it ends by itself."""

_NOBODY: Final = "without a handshake there is nobody to ask"

Tell = Callable[[Check], object]


def config_check(found: Found) -> Check:
    """Whether the source's configuration can be used, and what it warns of."""
    if found.problems:
        return failed("config", "it cannot be used as it is configured", list(map(str, found.problems)))
    said = "it is disabled, and tested all the same" if found.source and not found.source.enabled else ""
    return ok("config", said, [f"warning: {warning}" for warning in found.warnings])


class Conformance:
    """Tries one source. Use it as an async context manager; `run` tells each check as it is done."""

    def __init__(self, subject: Subject, tell: Tell, *, seconds: float, count: int) -> None:
        """Events are waited for `seconds`, or until `count` have come if that is not 0."""
        self._subject, self._tell = subject, tell
        self._seconds, self._count = seconds, count
        self._timings = subject.source.server.timings
        self._running = AsyncExitStack()
        self._session: Session | None = None
        self._handshake_s = 0.0
        self._lines = self._runs = 0
        self._wrong: Counter[str] = Counter()
        self._polls = False
        self._fallen: Session | None = None
        """The process that has ended by itself last, until the next check."""
        self._silence = ""
        """Why the source is taken for blocked."""
        self._why = ""
        """Why no more can be tried, but for what is in `_still`."""
        self._still: frozenset[str] = frozenset()

    async def __aenter__(self) -> Conformance:
        return self

    async def __aexit__(self, *raised: Any) -> None:
        await self._running.__aexit__(*raised)

    async def run(self, only: Collection[str] = CHECKS) -> None:
        """Make these checks, and the handshake, without which there is none."""
        try:
            session = await self._start()
            handshake = await self._handshake(session)
            if session.process.dead.is_set():
                handshake = replace(handshake, details=(*handshake.details, *_more_words(session)))
        except (SpawnError, ConfigError) as error:
            handshake = failed("handshake", f"it cannot be started: {error}")
        self._tell(handshake)
        if handshake.outcome is not Outcome.OK:
            self._be_done(self._session.silence if self._session else "")
            self._why = self._why or _NOBODY
        makers = {
            "tools": self._tools,
            "resources": self._resources,
            "unknown method": self._unknown_method,
            "unknown notification": self._unknown_notification,
            "events": self._events,
            "acknowledgement": self._acknowledgement,
            "garbage": self._garbage,
            "slow reader": self._slow_reader,
            "stdin end": self._stdin_end,
            "stdin end inside a line": self._stdin_end_inside_a_line,
            "stdin end before initialize": self._stdin_end_before_initialize,
            "killed": self._killed,
        }
        for name, make in makers.items():
            if name in only:
                self._tell(await self._made(name, make, "events" in only))
        await self._end()
        if "stdout" in only:
            self._tell(self._stdout())

    async def _made(self, name: str, make: Callable[[], Awaitable[Check]], events_follow: bool) -> Check:
        """Make a check, unless it cannot be made any more, and find out whether it is the check that ends the source.

        `events_follow`: that it ends by itself is for the check of the events to tell, if that was not made yet.
        """
        if self._why and name not in self._still:
            return skipped(name, self._why)
        if self._why and name == "events" and self._fallen is not None:
            return self._fell(name, self._fallen)
        self._take_fallen()
        check = await make()
        if check.outcome is not Outcome.FAILED:
            return check
        if self._session is not None and self._session.process.dead.is_set():
            await self._end()
        if self._session is not None:
            self._silence = self._silence or self._session.silence
        if self._silence:
            self._be_done(self._silence)
            return check
        fallen = self._take_fallen()
        if fallen is None or name not in _LIVES:
            return check
        if why := await self._cannot_stay(fallen.process.lived_s):
            self._why, self._still = why, frozenset({"stdin end before initialize"})
            if self._fallen is None:  # it did not even come up
                return check
            if name != "events" and events_follow and CHECKS.index(name) < CHECKS.index("events"):
                self._still |= {"events"}
                return skipped(name, why)
            return self._fell(name, self._fallen)
        return check if check.details else replace(check, details=_more_words(fallen))

    def _be_done(self, silence: str) -> None:
        """Try no more what needs an answer, if there is a reason."""
        if silence:
            self._silence = self._why = silence
            self._still = frozenset({"events", "stdin end"})

    async def _cannot_stay(self, lived_s: float) -> str:
        """Why another process, which is asked nothing, does not live longer either; empty if it does, and is there."""
        try:
            session = await self._ready(anew=True)
        except NoAnswer as error:
            return f"it did not come up any more: {error}"
        if not await session.process.ended(min(1.5 * lived_s + 1.0, _ALONE_S)):
            return ""
        await self._end()
        return f"it ends by itself within {max(0.1, session.process.lived_s):.1f} s of its start"

    def _fell(self, name: str, session: Session) -> Check:
        """What is told of a process that has ended by itself."""
        process = session.process
        said = f"expected that it lives on; after {len(session.events)} events it {process.describe_end()}"
        return failed(name, f"{said}{process.last_words()}", [*shown(wrong_events(session)), *_more_words(session)])

    def _take_fallen(self) -> Session | None:
        fallen, self._fallen = self._fallen, None
        return fallen

    # Processes, one at a time.

    async def _start(self) -> Session:
        await self._end()
        self._session = await self._running.enter_async_context(talking(self._subject))
        self._runs += 1
        return self._session

    async def _end(self) -> None:
        """End the process that there is, and keep what its stdout had wrong."""
        if self._session is not None and self._session.process.dead.is_set():
            self._fallen = self._session
        await self._running.aclose()
        if self._session is not None:
            self._silence = self._silence or self._session.silence
            self._lines += self._session.lines
            self._wrong.update(self._session.wrong_lines)
            self._session = None

    async def _ready(self, *, anew: bool = False) -> Session:
        """A session that is initialized: the last one, or another if there is none.

        Raises:
            NoAnswer: the last one has ended by itself since, or it does not come up any more.
        """
        session = self._session
        if not anew and session is not None:
            if session.process.dead.is_set():
                raise NoAnswer(f"before that it {session.process.describe_end()}{session.process.last_words()}")
            return session
        session = await self._start()
        answer = await session.handshake(self._timings.init_timeout_s)
        if "result" not in answer:
            raise NoAnswer(f"initialize was answered with {short(answer)}")
        return session

    # The checks.

    async def _handshake(self, session: Session) -> Check:
        name, limit_s = "handshake", self._timings.init_timeout_s
        try:
            answer = await session.handshake(limit_s)
        except NoAnswer as error:
            mend = "answer initialize with protocolVersion, capabilities and serverInfo"
            if session.process.dead.is_set():
                return failed(name, f"expected an answer to initialize; {error}")
            return failed(name, f"expected an answer to initialize within {limit_s:g} s (initTimeout); {error}; {mend}")
        result = answer.get("result")
        if not isinstance(result, dict):
            return failed(name, f"expected a result for initialize; came {short(answer)}; answer with an object")
        self._handshake_s = session.handshake_s
        if wrong := list(wrong_handshake(result)):
            return failed(name, "initialize was answered wrongly", wrong)
        try:
            pong = await session.request("ping")
        except NoAnswer as error:
            return failed(name, f'expected an answer to ping; {error}; answer it with "result": {{}}')
        if not isinstance(pong.get("result"), dict):
            return failed(name, f'expected "result": {{}} for ping; came {short(pong)}; answer it so')
        info = result["serverInfo"]
        return ok(name, f"{info['name']} {info['version']}, MCP {result['protocolVersion']}")

    async def _tools(self) -> Check:
        name = "tools"
        try:
            session = await self._ready()
            if "tools" not in session.capabilities:
                return skipped(name, "it declares none")
            tools = await session.listed("tools/list", "tools")
        except NoAnswer as error:
            return failed(name, f"it declares tools, and expected was a list of them; {error}")
        if wrong := list(wrong_tools(tools)):
            return failed(name, "tools/list was answered wrongly", wrong)
        if any(tool["name"] == LIST_PENDING_EVENTS for tool in tools):
            self._polls = not session.acknowledges
            try:
                await session.take_pending()
            except NoAnswer as error:
                return failed(name, f"expected a JSON array of events as text from {LIST_PENDING_EVENTS}; {error}")
        return ok(name, f"{len(tools)} tools: {short(', '.join(tool['name'] for tool in tools))}")

    async def _resources(self) -> Check:
        name = "resources"
        try:
            session = await self._ready()
            if "resources" not in session.capabilities:
                return skipped(name, "it declares none")
            resources = await session.listed("resources/list", "resources")
        except NoAnswer as error:
            return failed(name, f"it declares resources, and expected was a list of them; {error}")
        wrong: list[str] = []
        for resource in resources[:_MOST_READ]:
            if not isinstance(resource, dict) or not isinstance(resource.get("uri"), str):
                wrong.append(f'expected a resource with a "uri"; came {short(resource)}')
                continue
            try:
                result = await session.result("resources/read", {"uri": resource["uri"]})
            except NoAnswer as error:
                wrong.append(f"{resource['uri']}: expected its contents; {error}")
                if session.silence or session.process.dead.is_set():
                    break
                continue
            wrong += wrong_contents(resource, result.get("contents"))
        if wrong:
            return failed(name, "not every resource that it lists can be read", wrong)
        beyond = f", the first {_MOST_READ} were read" if len(resources) > _MOST_READ else ""
        return ok(name, f"{len(resources)} resources{beyond}")

    async def _unknown_method(self) -> Check:
        name = "unknown method"
        mend = f'answer {{"error": {{"code": {METHOD_NOT_FOUND}, "message": "…"}}}} to a method that it does not know'
        try:
            session = await self._ready()
            answer = await session.request("eventhost/no-such-method", {})
        except NoAnswer as error:
            return failed(name, f"expected the error {METHOD_NOT_FOUND}; {error}; {mend}")
        said = answer.get("error")
        if not isinstance(said, dict) or said.get("code") != METHOD_NOT_FOUND:
            return failed(name, f"expected the error {METHOD_NOT_FOUND}; came {short(answer)}; {mend}")
        return ok(name)

    async def _unknown_notification(self) -> Check:
        name = "unknown notification"
        mend = "leave out of account what has no id and is not known"
        try:
            session = await self._ready()
            before = len(session.unasked)
            await session.tell("notifications/eventhost/no-such-notification", {})
            await session.request("ping")
        except NoAnswer as error:
            return failed(name, f"expected that it lives on; {error}; {mend}")
        if answers := session.unasked[before:]:
            return failed(name, f"expected no answer; came {answers[0]}; {mend}")
        return ok(name)

    async def _events(self) -> Check:
        name = "events"
        try:
            session = await self._ready()
            if not self._silence:
                await self._gather(session)
        except NoAnswer as error:
            return failed(name, f"expected events for {self._seconds:g} s; {error}")
        if session.process.dead.is_set():
            end = f"{session.process.describe_end()}{session.process.last_words()}"
            return failed(name, f"expected that it lives on; after {len(session.events)} events it {end}")
        if not session.events:
            if self._silence:
                return skipped(name, self._silence)
            more = "set its interval or cause one, or wait longer with --seconds"
            return skipped(name, f"none came within {self._seconds:g} s; to see some, {more}")
        if wrong := wrong_events(session):
            return failed(name, f"not all of {len(session.events)} events are as they should be", shown(wrong))
        types = Counter(str(event.get("type")) for event in session.events)
        said = ", ".join(f"{count} {kind}" for kind, count in types.most_common(MOST_SHOWN))
        return ok(name, f"{said}; by {', '.join(session.ways)}", advice(session.events))

    async def _gather(self, session: Session) -> None:
        pause_s = self._subject.source.poll_interval_s
        end_s = time.monotonic() + self._seconds
        while (left_s := end_s - time.monotonic()) > 0 and not session.process.dead.is_set():
            if 0 < self._count <= len(session.events):
                return
            if self._polls and not session.ways.keys() - {f"the tool {LIST_PENDING_EVENTS}"}:
                await session.take_pending()
                left_s = min(left_s, pause_s)
            await session.news(min(left_s, 1.0))

    async def _acknowledgement(self) -> Check:
        name = "acknowledgement"
        try:
            session = await self._ready()
            if not session.acknowledges:
                return skipped(name, "it does not ask for it")
            if session.unnamed:
                return failed(
                    name,
                    "expected an id in each event, by which it can be acknowledged; "
                    f"came {short(session.unnamed[0])}; give it an id",
                )
            session.say({"method": ACCEPTED, "params": {"ids": ["eventhost-no-such-event"], "rejected": []}})
            await session.settled()
        except NoAnswer as error:
            return failed(name, f"expected that it bears with an id that it does not know; {error}; leave it alone")
        if session.again:
            ids = short(", ".join(dict.fromkeys(session.again)))
            return failed(
                name,
                "expected that what was acknowledged is not sent again; "
                f"came again: {ids}; forget an event when its id is in {ACCEPTED}",
            )
        none = "no event came; it bears with an id that it does not know"
        return ok(name, f"{len(session.accepted)} events were acknowledged" if session.accepted else none)

    async def _garbage(self) -> Check:
        name = "garbage"
        wrong: list[str] = []
        try:
            for what, line in _garbage():
                session = await self._ready()
                session.answers.setdefault(_NO_METHOD, [])
                try:
                    await session.send_line(line)
                    await session.request("ping")
                except NoAnswer as error:
                    wrong.append(f"{what}: expected that it goes on; {error}")
                    if session.silence:
                        break  # each of the others might take as long
                    await self._ready(anew=True)
        except NoAnswer as error:
            wrong.append(f"then it did not come up any more: {error}")
        if wrong:
            mend = f"catch what is wrong with a line, answer {short({'code': -32700})} or nothing, and read on"
            return failed(name, mend, wrong)
        return ok(name)

    async def _slow_reader(self) -> Check:
        name = "slow reader"
        mend = "write whole lines, wait while the pipe is full, and drop no answer"
        try:
            session = await self._ready()
            before = len(session.wrong_lines)
            numbers = await _ping_unread(session)
        except NoAnswer as error:
            return failed(name, f"expected that it waits while nobody reads; {error}; {mend}")
        answered = Counter(len(session.answers[number]) for number in numbers)
        wrong = session.wrong_lines[before:]
        if session.process.dead.is_set():
            wrong.append(f"it {session.process.describe_end()}{session.process.last_words()}")
        if answered[0]:
            wrong.append(f"{answered[0]} pings were not answered")
            if session.unfinished:
                wrong.append(f"the last line has no end: {short(session.unfinished)}")
        if wrong:
            await self._end()
            return failed(name, f"expected one answer to each of {PINGS} pings; {mend}", shown(wrong))
        return ok(name, f"{PINGS} pings were answered after nobody had read for a while")

    async def _stdin_end(self) -> Check:
        return await self._ended("stdin end", lambda session: session.tell("notifications/eventhost/last-words", {}))

    async def _stdin_end_inside_a_line(self) -> Check:
        half = line_of({"id": 0, "method": "ping"})[:20]
        return await self._ended("stdin end inside a line", lambda session: session.send_line(half))

    async def _ended(self, name: str, say: Callable[[Session], Any]) -> Check:
        try:
            session = await self._ready()
            if not self._silence:
                await say(session)
        except NoAnswer as error:
            return failed(name, f"expected that it reads until then; {error}")
        return await self._close(name, session, self._timings.stop_timeout_s)

    async def _stdin_end_before_initialize(self) -> Check:
        # It may not even have begun to read: what it took to answer the first time it may take again.
        session = await self._start()
        limit_s = self._timings.stop_timeout_s + 2 * self._handshake_s
        return await self._close("stdin end before initialize", session, limit_s)

    async def _close(self, name: str, session: Session, limit_s: float) -> Check:
        """End its stdin, and see what it makes of that."""
        process, began = session.process, time.monotonic()
        process.close_stdin()
        if not await process.ended(limit_s + LINGER_S):
            await self._end()
            return failed(
                name,
                f"expected that it ends within {limit_s:.3g} s (stopTimeout); it lived on, and was killed; "
                "end when stdin ends, or raise stopTimeout if it has much to finish",
            )
        took_s = time.monotonic() - began
        wrong: list[str] = []
        if process.returncode != 0:
            wrong.append(f"expected status 0; it {process.describe_end()}{process.last_words()}")
        if process.left_behind:
            wrong.append(f"expected no process left behind; {process.left_behind} lived on; end them before itself")
        if session.unfinished:
            wrong.append(f"expected whole lines; the last one was {short(session.unfinished)}; write it to its end")
        await self._end()
        if wrong:
            return failed(name, "; ".join(wrong))
        return ok(name, f"it ended within {took_s:.1f} s")

    async def _killed(self) -> Check:
        name = "killed"
        try:
            session = await self._ready(anew=True)
            await session.request("ping")
            session.process.kill()
            await session.process.ended(ANSWER_S)
            await self._ready(anew=True)
        except NoAnswer as error:
            mend = "write its state so that a half-written file is never read"
            return failed(name, f"expected that it starts again with the same state; {error}; {mend}")
        return ok(name, "it starts again with the same state")

    def _stdout(self) -> Check:
        if self._wrong:
            lines = [f"{text}" + (f" ({count} times)" if count > 1 else "") for text, count in self._wrong.items()]
            mend = "write nothing else to stdout; what is for people goes to stderr"
            return failed("stdout", f"expected nothing but messages, one on each line; {mend}", shown(lines))
        if not self._lines:
            return skipped("stdout", self._why or "nothing was written there")
        return ok("stdout", f"{self._lines} lines in {self._runs} runs")


def _more_words(session: Session) -> list[str]:
    """What it wrote to stderr, if that is more than its last words."""
    words = session.process.words()
    return words if len(words) > 1 else []


def _garbage() -> Iterable[tuple[str, bytes]]:
    yield "a line that is no JSON", b"this is no JSON\n"
    yield "half of a message", line_of({"id": 1, "method": "ping"})[:20] + b"\n"
    yield "a JSON array", b"[1, 2, 3]\n"
    yield "a JSON number", b"42\n"
    yield "null", b"null\n"
    yield "a line that is not UTF-8", b'{"jsonrpc":"2.0","method":"\xff\xfe"}\n'
    yield "an empty line", b"\n"
    yield "a request without a method", line_of({"id": _NO_METHOD})
    yield "params that are no object", line_of({"method": "notifications/eventhost/odd", "params": 7})
    yield f"a line of {HUGE_BYTES} bytes", b"x" * HUGE_BYTES + b"\n"
    message = {"method": "notifications/eventhost/huge", "params": {"text": "x" * HUGE_BYTES}}
    yield f"a message of {HUGE_BYTES} bytes", line_of(message)


async def _ping_unread(session: Session) -> list[int]:
    """Ask many times while nothing is read, until all is asked or the source can take no more; then read it all.

    Raises:
        NoAnswer: it no longer takes what is asked.
    """
    numbers = [session.next_id() + 10**15 for _ in range(PINGS)]
    for number in numbers:
        session.answers[number] = []
    sent = 0
    lost = False

    async def ask() -> None:
        nonlocal sent, lost
        try:
            for number in numbers:
                await session.send({"id": number, "method": "ping"})
                sent += 1
        except ConnectionLost:
            lost = True

    def answered() -> int:
        return sum(bool(session.answers[number]) for number in numbers)

    session.process.stop_reading()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        before = -1
        while sent < PINGS and sent != before and not lost:
            before = sent
            await anyio.sleep(_STALL_S)  # not one more within that: it waits for a reader
        session.process.read_on()
        before, patience_s = -1, time.monotonic() + ANSWER_S
        while (now := answered()) < PINGS and not session.process.dead.is_set() and time.monotonic() < patience_s:
            if now != before:
                before, patience_s = now, time.monotonic() + ANSWER_S
            await session.news()
        tasks.cancel_scope.cancel()
    return numbers
