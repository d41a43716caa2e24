"""One conversation with a source over stdio, as the host would have it, with every line of it looked at."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import anyio

from eventhost import __version__
from eventhost.cli.source_test.process import RawProcess
from eventhost.cli.source_test.subject import Subject
from eventhost.connections.link import CLIENT_NAME
from eventhost.errors import ConnectionLost, EventRejected
from eventhost.event import EnvEvent, RawEvent, SourceProfile, normalize
from eventhost.wire import ACCEPTED, ACK, EMITTED, EVENT, LIST_PENDING_EVENTS, MESSAGE

PROTOCOL: Final = "2025-11-25"
ANSWER_S: Final = 10.0
"""How long an answer may take, where nothing else is said."""

_MOST_PAGES: Final = 100
_METHOD_NOT_FOUND: Final = -32601

Message = dict[str, Any]


class NoAnswer(Exception):
    """A request was not answered; says what happened instead."""


class Session:
    """Everything that one process of a source has said so far, and how to speak to it. Made by `talking`."""

    def __init__(self, subject: Subject) -> None:
        self.process: RawProcess
        self.answers: dict[Any, list[Message]] = {}
        """What was answered to each request, by its id."""
        self.events: list[dict[str, Any]] = []
        """The events, as it said them."""
        self.refused: list[str] = []
        """Why the host would refuse an event, one line for each that it would."""
        self.ways: Counter[str] = Counter()
        """How many events came by which way."""
        self.accepted: set[str] = set()
        """The ids that it was told are accepted."""
        self.again: list[str] = []
        """Ids of events that came although they were accepted before."""
        self.unnamed: list[dict[str, Any]] = []
        """Events without an id."""
        self.unasked: list[str] = []
        """Answers to what was not asked."""
        self.log: list[str] = []
        """Its log messages."""
        self.lines = 0
        self.wrong_lines: list[str] = []
        """What is wrong with lines of its stdout that are no message."""
        self.capabilities: dict[str, Any] = {}
        self.handshake_s = 0.0
        self.answer_s = ANSWER_S
        """How long an answer may take, but for the handshake's, which has its own limit."""
        self.silence = ""
        """Why it is taken for blocked; empty as long as it is not."""
        self._subject = subject
        self._profile = SourceProfile(subject.source.name, subject.source.event_types, subject.source.metadata)
        self._unfinished = b""
        self._asked = 0
        self._changed = anyio.Event()
        self._to_say_in, self._to_say_out = anyio.create_memory_object_stream[Message](100_000)

    @property
    def acknowledges(self) -> bool:
        """Whether the source asks to be told which events were accepted."""
        experimental = self.capabilities.get("experimental")
        return isinstance(experimental, dict) and ACK in experimental

    @property
    def unfinished(self) -> bytes:
        """What it wrote after its last whole line."""
        return self._unfinished

    # What is said to it.

    async def handshake(self, within_s: float) -> Message:
        """Initialize it; return what it answered.

        Raises:
            NoAnswer: it did not within that time.
        """
        client = {"name": CLIENT_NAME, "version": __version__}
        params = {"protocolVersion": PROTOCOL, "capabilities": {}, "clientInfo": client}
        began = time.monotonic()
        answer = await self.request("initialize", params, within_s)
        self.handshake_s = time.monotonic() - began
        result = answer.get("result")
        capabilities = result.get("capabilities") if isinstance(result, dict) else None
        self.capabilities = capabilities if isinstance(capabilities, dict) else {}
        if isinstance(result, dict):
            with suppress(ConnectionLost):  # whoever asks it next is told that it has ended
                await self.send({"method": "notifications/initialized"})
        return answer

    def next_id(self) -> int:
        """An id that no request has had."""
        self._asked += 1
        return self._asked

    async def request(
        self, method: str, params: Mapping[str, Any] | None = None, within_s: float | None = None
    ) -> Message:
        """Ask; return the whole answer, be it a result or an error.

        Raises:
            NoAnswer: there was none within that time, or within `answer_s`. If it did not even answer a ping,
                `silence` says so from then on.
        """
        number = self.next_id()
        return await self.ask(
            {"id": number, "method": method, **({} if params is None else {"params": params})}, within_s
        )

    async def ask(self, message: Message, within_s: float | None = None) -> Message:
        """As `request`, for a message with its `id`."""
        number, method = message["id"], message["method"]
        within_s = self.answer_s if within_s is None else within_s
        self.answers.setdefault(number, [])
        began = time.monotonic()
        await self.send_line(line_of(message), within_s)
        left_s = within_s - (time.monotonic() - began)
        # Where nothing came for a while, a ping tells one that blocks from one that leaves this request alone.
        ping = number if method == "ping" else None
        answered = await self.until(lambda: self.answers[number], left_s if ping is not None else left_s / 2)
        if not answered and ping is None and not self.process.dead.is_set():
            ping = self.say_ping() if method != "initialize" else None
            answered = await self.until(lambda: self.answers[number], left_s / 2)
        if answered:
            return self.answers[number][0]
        if self.process.dead.is_set():
            raise NoAnswer(f"it {self.process.describe_end()}{self.process.last_words()}")
        if ping is not None and not self.answers[ping]:
            raise self.blocked(within_s)
        though = "" if ping is None else ", though a ping was answered"
        raise NoAnswer(f"no answer came within {within_s:g} s{though}{self.process.last_words()}")

    def say_ping(self) -> int:
        """Have a ping sent, without waiting; return its number in `answers`."""
        number = self.next_id()
        self.answers[number] = []
        self.say({"id": number, "method": "ping"})
        return number

    def blocked(self, for_s: float) -> NoAnswer:
        """Take note that it did not answer a ping for so long; return what to raise."""
        self.silence = f"it has not answered for {for_s:g} s: does it loop or block?"
        return NoAnswer(f"{self.silence}{self.process.last_words()}")

    async def tell(self, method: str, params: Mapping[str, Any]) -> None:
        """Send a notification.

        Raises:
            NoAnswer: it no longer reads.
        """
        await self.send_line(line_of({"method": method, "params": dict(params)}))

    async def send_line(self, line: bytes, within_s: float | None = None) -> None:
        """Send bytes as they are.

        Raises:
            NoAnswer: it no longer reads; one that lives, but did not within that time, has its `silence`.
        """
        within_s = self.answer_s if within_s is None else within_s
        try:
            with anyio.fail_after(within_s):
                await self.process.send(line)
        except TimeoutError:
            self.silence = f"it has not read its stdin for {within_s:g} s: does it loop or block?"
            raise NoAnswer(f"{self.silence}{self.process.last_words()}") from None
        except ConnectionLost:
            dead = await self.process.ended(1.0)
            why = self.process.describe_end() if dead else "closed its stdin"
            raise NoAnswer(f"it {why}{self.process.last_words()}") from None

    async def result(self, method: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What it answers, if that is a result.

        Raises:
            NoAnswer: it is none.
        """
        answer = await self.request(method, params)
        result = answer.get("result")
        if not isinstance(result, dict):
            raise NoAnswer(f"{method} was answered with {short(answer.get('error', result))}")
        return result

    async def listed(self, method: str, field: str) -> list[Any]:
        """All items of a paged listing.

        Raises:
            NoAnswer: it cannot be had.
        """
        items: list[Any] = []
        cursor: Any = None
        for _ in range(_MOST_PAGES):
            page = await self.result(method, {} if cursor is None else {"cursor": cursor})
            if not isinstance(page.get(field), list):
                raise NoAnswer(f"{method} was answered without a list {field!r}: {short(page)}")
            items += page[field]
            cursor = page.get("nextCursor")
            if cursor is None:
                return items
        raise NoAnswer(f"{method} has more than {_MOST_PAGES} pages")

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> list[str]:
        """The texts that a tool answers.

        Raises:
            NoAnswer: it answered none, or with an error.
        """
        result = await self.result("tools/call", {"name": tool, "arguments": dict(arguments)})
        content = result.get("content")
        blocks = [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []
        texts = [block["text"] for block in blocks if isinstance(block.get("text"), str)]
        if result.get("isError"):
            raise NoAnswer(f"{tool} answered with an error: {short(' '.join(texts))}")
        return texts

    async def take_pending(self) -> int:
        """Ask for the events that it has gathered; return how many there were.

        Raises:
            NoAnswer: the answer is no list of events.
        """
        texts = await self.call(LIST_PENDING_EVENTS, {})
        taken = 0
        for text in texts:
            try:
                values = json.loads(text) if text else []
            except (ValueError, RecursionError) as error:
                raise NoAnswer(f"its text is no JSON ({error}): {short(text)}") from None
            # The SDKs make one text of each item of a list that a tool returns.
            for value in [values] if isinstance(values, dict) else values if isinstance(values, list) else [None]:
                if not isinstance(value, dict):
                    raise NoAnswer(f"its text is no array of events: {short(text)}")
                self._take_event(value, f"the tool {LIST_PENDING_EVENTS}")
                taken += 1
        return taken

    async def send(self, message: Message) -> None:
        """Send one message.

        Raises:
            ConnectionLost: it no longer reads.
        """
        await self.process.send(line_of(message))

    def say(self, message: Message) -> None:
        """Have a message sent after what is being sent, without waiting; dropped once nobody sends any more."""
        with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError, anyio.WouldBlock):
            self._to_say_in.send_nowait(message)

    async def settled(self, within_s: float | None = None) -> None:
        """Wait until it has taken all that was said to it, acknowledgements too.

        Raises:
            NoAnswer: it has not within that time.
        """
        within_s = self.answer_s if within_s is None else within_s
        number = self.say_ping()
        if not await self.until(lambda: self.answers[number], within_s):
            if self.process.dead.is_set():
                raise NoAnswer(f"it {self.process.describe_end()}{self.process.last_words()}")
            raise self.blocked(within_s)

    async def until(self, condition: Callable[[], object], within_s: float) -> bool:
        """Wait until `condition` holds, which what it says brings about; false if it ended or time ran out first."""
        with anyio.move_on_after(within_s):
            while not (condition() or self.process.dead.is_set()):
                await self.news()
        return bool(condition())

    # What it says.

    def feed(self, chunk: bytes) -> None:
        """Take what was read from its stdout."""
        *lines, self._unfinished = (self._unfinished + chunk).split(b"\n")
        for line in lines:
            self.lines += 1
            self._take_line(line)
        self.notice()

    def notice(self) -> None:
        """Something has happened: whoever waits looks again."""
        self._changed.set()
        self._changed = anyio.Event()

    async def news(self, within_s: float = 1.0) -> None:
        """Wait until it says something, at most so long: that it died is no news of what it says."""
        with anyio.move_on_after(within_s):
            await self._changed.wait()

    def _take_line(self, line: bytes) -> None:
        try:
            text = line.decode()
        except UnicodeDecodeError:
            self.wrong_lines.append(f"a line that is not UTF-8: {short(line)}")
            return
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            self.wrong_lines.append(f"a line that is no JSON: {short(text)}" if text.strip() else "an empty line")
            return
        if wrong := _wrong(message):
            self.wrong_lines.append(f"{wrong}: {short(text)}")
            return
        if "method" not in message:
            self._take_answer(message, text)
        elif "id" in message:
            self._answer(message)
        else:
            self._take_notification(message)

    def _take_answer(self, message: Message, text: str) -> None:
        number = message.get("id")
        if isinstance(number, int | str) and number in self.answers:
            self.answers[number].append(message)
            if len(self.answers[number]) == 2:
                self.wrong_lines.append(f"a second answer to the same request: {short(text)}")
        else:
            self.unasked.append(short(text))
            if number is not None or "result" in message:
                self.wrong_lines.append(f"an answer to what was not asked: {short(text)}")

    def _answer(self, message: Message) -> None:
        if message["method"] == "ping":
            self.say({"id": message["id"], "result": {}})
        else:
            error = {"code": _METHOD_NOT_FOUND, "message": f"there is no method {message['method']}"}
            self.say({"id": message["id"], "error": error})

    def _take_notification(self, message: Message) -> None:
        method, params = message["method"], message.get("params") or {}
        if method == EVENT:
            self._take_event(params, method)
        elif method == EMITTED:
            self._take_event(params.get("data"), method)
        elif method == MESSAGE:
            data = params.get("data")
            if isinstance(data, dict) and isinstance(data.get("type"), str):
                self._take_event(data, method)
            else:
                self.log.append(data if isinstance(data, str) else json.dumps(data))

    def _take_event(self, event: Any, way: str) -> None:
        self.ways[way] += 1
        self.events.append(event if isinstance(event, dict) else {"type": None, "payload": event})
        event_id = event.get("id") if isinstance(event, dict) else None
        if event_id is None:
            self.unnamed.append(self.events[-1])
        if isinstance(event_id, str) and event_id in self.accepted:
            self.again.append(event_id)
        try:
            normal = self.normalized(event)
        except EventRejected as error:
            self.refused.append(f"{short(event)}: {error}")
            if self.acknowledges and isinstance(event_id, str):
                rejected = [{"id": event_id, "reason": str(error)}]
                self.say({"method": ACCEPTED, "params": {"ids": [], "rejected": rejected}})
            return
        if self.acknowledges:
            self.accepted.add(normal.id)
            self.say({"method": ACCEPTED, "params": {"ids": [normal.id], "rejected": []}})

    def normalized(self, event: Any) -> EnvEvent:
        """The event as the host would publish it.

        Raises:
            EventRejected: it would not.
        """
        return normalize(RawEvent.from_value(event), self._profile)

    async def keep_saying(self) -> None:
        """Send what is to be said, until it no longer reads."""
        async for message in self._to_say_out:
            try:
                await self.send(message)
            except ConnectionLost:
                return

    def forget(self) -> None:
        """Nothing more is to be said."""
        self._to_say_in.close()
        self._to_say_out.close()


@asynccontextmanager
async def talking(subject: Subject, grace_s: float | None = None) -> AsyncIterator[Session]:
    """A process of the source, until the block ends; nothing is said to it yet.

    Raises:
        SpawnError, ConfigError: it cannot be started as it is configured.
    """
    session = Session(subject)
    try:
        async with subject.started(session.feed, grace_s) as process:
            session.process, process.on_stderr = process, session.notice
            raised: Exception | None = None
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(session.keep_saying)
                try:
                    yield session
                except Exception as error:
                    raised = error  # not to be wrapped in a group
                tasks.cancel_scope.cancel()
            if raised is not None:
                raise raised
    finally:
        session.forget()


def line_of(message: Message) -> bytes:
    """A message as it stands on the wire."""
    return json.dumps({"jsonrpc": "2.0", **message}, separators=(",", ":")).encode() + b"\n"


def short(value: object, characters: int = 160) -> str:
    """The beginning of a value, as text."""
    if isinstance(value, bytes):
        text = repr(value)[1:]
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= characters else f"{text[: characters - 1]}…"


def _wrong(message: Any) -> str:
    """Why a JSON value is no JSON-RPC message; nothing if it is one."""
    if not isinstance(message, dict):
        return "a line that is no object"
    if message.get("jsonrpc") != "2.0":
        return 'a message without "jsonrpc": "2.0"'
    if "method" in message:
        if not isinstance(message["method"], str):
            return "a method that is no string"
        return "" if isinstance(message.get("params", {}), dict) else "params that are no object"
    # What cannot be read has no id to be answered with.
    if ("result" in message) == ("error" in message) or ("id" not in message and "error" not in message):
        return 'neither a request, nor an answer with "id" and one of "result" and "error"'
    error = message.get("error")
    if "error" in message and not (
        isinstance(error, dict) and isinstance(error.get("code"), int) and isinstance(error.get("message"), str)
    ):
        return 'an error without "code" and "message"'
    return ""
