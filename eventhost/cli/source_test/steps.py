"""A golden case without a player: the source itself is started, the case's steps are done, its events are taken."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import anyio
import httpx2

from eventhost.cli.source_test.process import MOST_LINES, raw_process
from eventhost.cli.source_test.session import NoAnswer, Session, short, talking
from eventhost.cli.source_test.subject import Subject
from eventhost.config.folders import interpreter
from eventhost.config.wording import did_you_mean
from eventhost.connections import minimal_environment
from eventhost.connections.http import free_port
from eventhost.errors import ConfigError, SpawnError
from eventhost.wire import LIST_PENDING_EVENTS

_POLL_S: Final = 0.1
_RETRY_S: Final = 0.05
_MOST_SHOWN: Final = 10


class StepFailed(Exception):
    """A case came to no end of its own; says where and why, and has what came and was written meanwhile."""

    def __init__(self, why: str, details: Sequence[str] = (), log: Sequence[str] = (), silence: str = "") -> None:
        super().__init__(why)
        self.details = details
        self.log = log
        self.silence = silence
        """Why the source is taken for blocked; empty if it is not."""


@dataclass(frozen=True, slots=True)
class Played:
    """What came of a case."""

    events: Sequence[dict[str, Any]]
    error: str | None
    """What the source wrote, or how it ended, if it did so by itself."""
    log: Sequence[str]
    """The last lines that it wrote or logged."""
    silence: str
    """Why it is taken for blocked; empty if it is not."""


async def run_steps(
    subject: Subject, case: Mapping[str, Any], folder: Path, wanted: int, error: str | None, within_s: float
) -> Played:
    """Do what `case` says; return what came of it. What was said twice, as after a kill, came once.

    `wanted` is how many events are waited for; with `error` it is the end of the source instead.

    Raises:
        StepFailed: a step is wrong or could not be done, or the source did what no case is about.
    """
    case = _filled(case, {"${folder}": str(folder), "${port}": free_port()})
    state = folder.parent / f"{folder.name}-state"
    acting = _Acting(subject.in_case(case.get("config", {}), state), folder, within_s)
    steps = case.get("input", [])
    if not isinstance(steps, list):
        raise StepFailed(f"input: without a player it is a list of steps, got {short(steps)}")
    planned = [acting.planned(step, f"input[{index}]") for index, step in enumerate(steps)]
    async with acting:
        try:
            await acting.start()
            for place, step in planned:
                await acting.done(place, step)
            await (acting.wait_for_end() if error is not None else acting.wait_for_events(wanted))
        except _Ended:
            pass
        return await acting.outcome()


def _filled(value: Any, places: Mapping[str, str | int]) -> Any:
    """`value` with what stands for something replaced; a text that is nothing else becomes that itself."""
    if isinstance(value, str):
        if value in places:
            return places[value]
        for name, meant in places.items():
            value = value.replace(name, str(meant))
        return value
    if isinstance(value, Mapping):
        return {key: _filled(inner, places) for key, inner in value.items()}
    return [_filled(inner, places) for inner in value] if isinstance(value, list) else value


def _written(session: Session) -> list[str]:
    """What a process wrote to stderr and logged."""
    return [*session.process.stderr.decode(errors="replace").splitlines(), *session.log]


def _same(before: Mapping[str, Any], event: Mapping[str, Any]) -> bool:
    """Whether two events of one id are one for the host; the time of one that says none is not compared."""
    keys = ("type", "payload", "metadata", *(("timestamp",) if event.get("timestamp") is not None else ()))
    # As JSON: in Python `True == 1`.
    one, other = (json.dumps([said.get(key) for key in keys], sort_keys=True) for said in (before, event))
    return one == other


def _brief(event: Mapping[str, Any]) -> str:
    """An event in a few words."""
    named = f" (id {short(event['id'], 40)})" if event.get("id") is not None else ""
    return f"{short(event.get('type'), 80)}{named}: {short(event.get('payload'), 80)}"


class _Ended(Exception):
    """The source has ended by itself."""


Step = Callable[[], Awaitable[None]]


class _Acting:
    """The source of one case, through all its restarts. Use it as an async context manager."""

    def __init__(self, subject: Subject, folder: Path, within_s: float) -> None:
        self._subject, self._folder, self._within_s = subject, folder, within_s
        self._running = AsyncExitStack()
        self._session: Session | None = None
        self._events: list[dict[str, Any]] = []
        self._taken = 0
        self._told: dict[str, dict[str, Any]] = {}
        self._refused: list[str] = []
        self._words: list[str] = []
        self._silence = ""
        self._polls = False

    async def __aenter__(self) -> None:
        return

    async def __aexit__(self, *raised: Any) -> None:
        await self._running.__aexit__(*raised)

    # What a case can say.

    def planned(self, step: Any, place: str) -> tuple[str, Step]:
        """What a step does.

        Raises:
            StepFailed: there is no such step.
        """
        kinds: dict[str, tuple[Callable[[Any, Mapping[str, Any]], Awaitable[None]], tuple[str, ...]]] = {
            "write": (self._write, ("text",)),
            "append": (self._append, ("text",)),
            "delete": (self._delete, ()),
            "rename": (self._rename, ()),
            "run": (self._run, ()),
            "call": (self._call, ("arguments",)),
            "request": (self._request, ("method", "headers", "body", "status")),
            "expect": (self._expect, ()),
        }
        if step in ("restart", "kill"):
            return place, self._restart if step == "restart" else self._kill
        if not isinstance(step, dict):
            raise StepFailed(f'{place}: expected an object, "restart" or "kill", got {short(step)}')
        named = [key for key in step if key in kinds]
        if len(named) != 1:
            known = ", ".join(kinds)
            mend = next((meant for key in step if (meant := did_you_mean(key, kinds))), f"there are {known}")
            raise StepFailed(f"{place}: expected one kind of step, got {short(step)}; {mend}")
        kind = named[0]
        act, more = kinds[kind]
        for key in step:
            if key != kind and key not in more:
                mend = did_you_mean(key, more) or f'"{kind}" has {", ".join(more) or "nothing"} beside it'
                raise StepFailed(f"{place}.{key}: {mend}")
        return f"{place}.{kind}", lambda: act(step[kind], step)

    async def done(self, place: str, step: Step) -> None:
        """Do one step.

        Raises:
            StepFailed: it could not be done.
        """
        if step in (self._restart, self._kill):
            await step()  # has limits of its own, and leaves a process running that must not stand within another
            return
        # These have limits of their own, and say more than that time ran out.
        within_s = math.inf if place.endswith((".call", ".expect")) else self._within_s
        try:
            with anyio.fail_after(within_s):
                await step()
        except TimeoutError:
            raise self._failed(f"{place}: not done within {self._within_s:g} s; {self._said()}", self._came()) from None
        except (NoAnswer, ValueError, SpawnError) as error:
            if self._session is not None and self._session.process.dead.is_set():
                raise _Ended from None
            raise self._failed(f"{place}: {error}", self._came()) from None
        except OSError as error:
            raise StepFailed(f"{place}: {error.strerror or error}: {error.filename}") from None

    # The source.

    async def start(self) -> None:
        """Start it, and be initialized with it.

        Raises:
            StepFailed: it cannot be started, or does not answer.
        """
        timings = self._subject.source.server.timings
        try:
            session = await self._running.enter_async_context(talking(self._subject))
        except (SpawnError, ConfigError) as error:
            raise StepFailed(f"it cannot be started: {error}") from None
        self._session, self._taken = session, 0
        session.answer_s = self._within_s
        try:
            answer = await session.handshake(timings.init_timeout_s)
        except NoAnswer as error:
            if await session.process.ended(1.0):
                raise _Ended from None
            raise self._failed(f"initialize: {error}") from None
        if "result" not in answer:
            raise self._failed(f"initialize was answered with {short(answer)}")
        self._polls = not session.acknowledges and await self._has_pending()

    async def _has_pending(self) -> bool:
        assert self._session is not None
        if "tools" not in self._session.capabilities:
            return False
        try:
            tools = await self._session.listed("tools/list", "tools")
        except NoAnswer:
            return False
        return any(isinstance(tool, dict) and tool.get("name") == LIST_PENDING_EVENTS for tool in tools)

    async def wait_for_events(self, count: int) -> None:
        """Wait until so many events have come in all, or time runs out."""
        session = self._session
        assert session is not None
        if await self._events_within(self._within_s / 2, session, count):
            return
        ping = session.say_ping()
        if not await self._events_within(self._within_s / 2, session, count) and not session.answers[ping]:
            session.blocked(self._within_s)

    async def _events_within(self, within_s: float, session: Session, count: int) -> bool:
        with anyio.move_on_after(within_s):
            while len(self._take_events()) < count:
                if session.process.dead.is_set():
                    raise _Ended
                if self._polls and not session.ways.keys() - {f"the tool {LIST_PENDING_EVENTS}"}:
                    try:
                        await session.take_pending()
                    except NoAnswer as error:
                        if session.process.dead.is_set():
                            raise _Ended from None
                        raise self._failed(str(error)) from None
                await session.news(_POLL_S if self._polls else 1.0)
        return len(self._events) >= count

    def _take_events(self) -> list[dict[str, Any]]:
        """All events so far; as in the host, the same one under an id that it had before is left out."""
        assert self._session is not None
        news, self._taken = self._session.events[self._taken :], len(self._session.events)
        for event in news:
            if event.get("id") is not None:
                before, self._told[str(event["id"])] = self._told.get(str(event["id"])), event
                if before is not None and _same(before, event):
                    continue
            self._events.append(event)
        return self._events

    async def wait_for_end(self) -> None:
        """Wait until it ends by itself, or time runs out."""
        assert self._session is not None
        if await self._session.process.ended(self._within_s):
            raise _Ended

    async def outcome(self) -> Played:
        """All its events, and the error that it ended with, if it did so by itself.

        Raises:
            StepFailed: it ended without an error, or said what the host would refuse.
        """
        session = self._session
        assert session is not None
        by_itself = session.process.dead.is_set()
        await self._stop()
        log = self._words[-MOST_LINES:]
        if by_itself and session.process.returncode == 0:
            raise StepFailed("it ended with status 0 before its stdin did", self._came(), log)
        if self._refused:
            raise StepFailed("the host would refuse an event", self._refused, log)
        words = "\n".join(self._words).rstrip() or session.process.describe_end()
        return Played(self._events, words if by_itself else None, log, self._silence)

    async def _stop(self) -> None:
        session = self._session
        assert session is not None
        await self._running.aclose()
        self._take_events()
        self._refused += session.refused
        self._words += _written(session)
        self._silence = self._silence or session.silence
        self._session = None

    def _failed(self, why: str, details: Sequence[str] = ()) -> StepFailed:
        session = self._session
        log = [*self._words, *(_written(session) if session else ())][-MOST_LINES:]
        return StepFailed(why, details, log, session.silence if session else self._silence)

    def _said(self) -> str:
        """How many events came."""
        count = len(self._take_events() if self._session else self._events)
        return f"{count} {'event' if count == 1 else 'events'} came"

    def _came(self) -> list[str]:
        """The last events, one line each."""
        events = self._take_events() if self._session else self._events
        beyond = [f"{len(events) - _MOST_SHOWN} more before these"] if len(events) > _MOST_SHOWN else []
        return [*beyond, *(f"came: {_brief(event)}" for event in events[-_MOST_SHOWN:])]

    # The steps.

    def _path(self, written: Any) -> Path:
        if not isinstance(written, str):
            raise ValueError(f"expected a path, got {short(written)}")
        path = (self._folder / written).resolve()
        if not path.is_relative_to(self._folder.resolve()):
            raise ValueError(f"{written} is outside of the case's folder; write a path relative to it")
        return path

    async def _write(self, written: Any, step: Mapping[str, Any], mode: str = "w") -> None:
        path = self._path(written)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open(mode, encoding="utf-8") as file:
            file.write(str(step.get("text", "")))

    async def _append(self, written: Any, step: Mapping[str, Any]) -> None:
        await self._write(written, step, "a")

    async def _delete(self, written: Any, _: Mapping[str, Any]) -> None:
        path = self._path(written)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()

    async def _rename(self, written: Any, _: Mapping[str, Any]) -> None:
        if not isinstance(written, list) or len(written) != 2:
            raise ValueError(f'expected ["from", "to"], got {short(written)}')
        target = self._path(written[1])
        target.parent.mkdir(parents=True, exist_ok=True)
        self._path(written[0]).rename(target)

    async def _run(self, command: Any, _: Mapping[str, Any]) -> None:
        if not (isinstance(command, list) and command and all(isinstance(word, str) for word in command)):
            raise ValueError(f'expected ["program", "argument"], got {short(command)}')
        said: list[bytes] = []
        async with raw_process(
            self._subject.surroundings.guardian,
            (interpreter(command[0]), *command[1:]),
            cwd=self._folder,
            env=minimal_environment(),
            on_stdout=said.append,
        ) as process:
            process.close_stdin()
            await process.dead.wait()
        if process.returncode:
            raise ValueError(f"{command[0]} {process.describe_end()}{process.last_words()}")

    async def _call(self, tool: Any, step: Mapping[str, Any]) -> None:
        assert self._session is not None
        arguments = step.get("arguments", {})
        if not isinstance(tool, str) or not isinstance(arguments, dict):
            raise ValueError('expected {"call": "tool", "arguments": {}}')
        await self._session.call(tool, arguments)

    async def _request(self, url: Any, step: Mapping[str, Any]) -> None:
        body = step.get("body")
        given = {"content": body} if isinstance(body, str) else {"json": body} if body is not None else {}
        method = step.get("method", "GET" if body is None else "POST")
        async with httpx2.AsyncClient(trust_env=False) as client:
            while True:
                try:
                    response = await client.request(
                        method, url, headers=cast("Any", step.get("headers")), **cast("Any", given)
                    )
                    break
                except httpx2.ConnectError:
                    await anyio.sleep(_RETRY_S)  # it does not listen yet
                except (httpx2.HTTPError, httpx2.InvalidURL, TypeError) as error:
                    raise ValueError(f"{url}: {error or type(error).__name__}") from None
        wanted = step.get("status")
        if response.status_code != wanted if wanted is not None else response.status_code >= 400:
            expected = wanted if wanted is not None else "a status below 400"
            raise ValueError(f"expected {expected}, came {response.status_code}: {short(response.text)}")

    async def _expect(self, count: Any, _: Mapping[str, Any]) -> None:
        if not isinstance(count, int) or isinstance(count, bool):
            raise ValueError(f"expected a number of events, got {short(count)}")
        await self.wait_for_events(count)
        if len(self._events) < count:
            assert self._session is not None
            silent = f"; {self._session.silence}" if self._session.silence else ""
            raise ValueError(f"expected {count} events within {self._within_s:g} s; {self._said()}{silent}")

    async def _restart(self) -> None:
        assert self._session is not None
        with suppress(NoAnswer):  # else it might be ended before it knows what was accepted
            await self._session.settled()
        await self._stop()
        await self.start()

    async def _kill(self) -> None:
        assert self._session is not None
        self._session.process.kill()
        await self._session.process.dead.wait()
        await self._stop()
        await self.start()
