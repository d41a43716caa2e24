"""`{"exec": ["cmd", "{{ payload.path }}"]}`: a program, never a shell; it and all that it started end with its time."""

from __future__ import annotations

import json
import shlex
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

import anyio
import structlog
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from eventhost.actions.action import Context, as_text, describe, render, template
from eventhost.actions.secrets import Secrets
from eventhost.config.durations import Duration
from eventhost.config.folders import interpreter
from eventhost.config.tree import Tree
from eventhost.errors import ActionError, ConfigError, ConnectionLost, SpawnError
from eventhost.event import event_name
from eventhost.expression import Template
from eventhost.journal import Entry

log = structlog.get_logger()

TIMEOUT_S: Final = 30.0
GRACE_S = 1.0
"""How long a program may take to end after its stdin is closed, and again after SIGTERM."""

MAX_LINES: Final = 1_000
MAX_LINE_LENGTH: Final = 4_096
MAX_TAIL: Final = {"stdout": 32_768, "stderr": 8_192}
"""How many characters of each of its outputs, the last ones, a program gives."""

_MAX_REASON: Final = 200

# Not to be tried again: the program is not there, or is none.
_HOPELESS: Final = (126, 127)


def _no_shell(value: Any) -> Any:
    if isinstance(value, str):
        try:
            meant = json.dumps(shlex.split(value), ensure_ascii=False)
        except ValueError:
            meant = '["program", "argument"]'
        raise ValueError("expected a list of strings, got a string", f"there is no shell: write {meant}")
    return value


class ExecSpec(BaseModel):
    """A program that is run, as it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    exec: Annotated[list[str], BeforeValidator(_no_shell)] = Field(
        min_length=1,
        description="The program, and its arguments, which are templates. There is no shell.",
        examples=[["notify", "{{ type }}"]],
    )
    timeout: Duration = Field(
        default=TIMEOUT_S, gt=0, description="How long it may run; then it is killed.", examples=["30s"]
    )


@dataclass(frozen=True, slots=True)
class ExecAction:
    """Runs a program in the environment's folder, each event as a line of JSON on its stdin, its output in the log."""

    program: str
    arguments: Template
    timeout_s: float
    kind: ClassVar[str] = "exec"

    async def run(self, entry: Entry, context: Context) -> dict[str, Any]:
        hands, secrets = context.hands, Secrets(context.hands.resolve_secret)
        arguments = [as_text(argument) for argument in render(self.arguments, entry, context, secrets)]
        events = b"".join(one.event.to_json() + b"\n" for one in context.batch or (entry,))
        out, err = (_Output(stream, entry, context, secrets) for stream in ("stdout", "stderr"))
        try:
            async with hands.spawn(
                [interpreter(self.program), *arguments],
                cwd=hands.root,
                env=hands.environment,
                on_stdout=out.take,
                on_stderr=err.take,
                grace_s=GRACE_S,
            ) as process:
                with anyio.move_on_after(self.timeout_s) as time:
                    await _tell(process.send, events)
                    process.close_stdin()
                    await process.ended.wait()
        except SpawnError as error:
            raise ActionError(secrets.hide(str(error)), retry=False) from None
        out.end()
        err.end()
        if time.cancelled_caught:
            raise ActionError(f"{self.program} did not end within {self.timeout_s:g} s, and was killed")
        if process.returncode != 0:
            said = f": {err.last_line}" if err.last_line else ""
            reason = f"{self.program} {process.describe_end()}{said}"
            raise ActionError(reason, retry=process.returncode not in _HOPELESS)
        return {"status": 0, "stdout": out.tail, "stderr": err.tail}

    def describe(self, entry: Entry, values: Mapping[str, Any]) -> dict[str, Any]:
        return {"exec": [self.program, *map(as_text, describe(self.arguments, entry, values))]}


async def _tell(send: Callable[[bytes], Awaitable[None]], data: bytes) -> None:
    with suppress(ConnectionLost):  # a program need not read what it is told
        await send(data)


class _Output:
    """Brings what a program writes into the log, line by line, as much as anybody will read; keeps the end of it."""

    def __init__(self, stream: str, entry: Entry, context: Context, secrets: Secrets) -> None:
        self._log = log.bind(rule=context.rule, stream=stream, event_id=event_name(entry.event))
        self._secrets, self._longest = secrets, MAX_TAIL[stream]
        self._rest = b""
        self._lines = 0
        self._last: deque[str] = deque()
        self._kept = 0

    @property
    def tail(self) -> str:
        """The last lines, at most `MAX_TAIL` characters."""
        return "\n".join(self._last)[-self._longest :]

    @property
    def last_line(self) -> str:
        """The last line that is not empty, as a part of a message."""
        return next((line.strip()[:_MAX_REASON] for line in reversed(self._last) if line.strip()), "")

    async def take(self, chunk: bytes) -> None:
        *lines, rest = (self._rest + chunk).split(b"\n")
        # What exceeds a line's limit is dropped here already, so that an endless line takes no memory.
        self._rest = rest[: self._longest * 4]
        for line in lines:
            self._add(line)

    def end(self) -> None:
        if self._rest:
            self._add(self._rest)
            self._rest = b""

    def _add(self, line: bytes) -> None:
        text = self._secrets.hide(line[: self._longest * 4].decode(errors="replace").rstrip("\r"))
        self._keep(text[: self._longest])
        self._lines += 1
        if self._lines <= MAX_LINES:
            self._log.info("exec_output", text=text[:MAX_LINE_LENGTH])
        elif self._lines == MAX_LINES + 1:
            self._log.warning("exec_output_cut", lines=MAX_LINES)

    def _keep(self, text: str) -> None:
        self._last.append(text)
        self._kept += len(text) + 1
        while self._kept - len(self._last[0]) - 1 >= self._longest:
            self._kept -= len(self._last.popleft()) + 1


def parse(tree: Tree, names: Sequence[str]) -> ExecAction:
    """The action that `tree` describes; its templates know `names` besides the event.

    Raises:
        ConfigError: with every problem.
    """
    spec = tree.validate(ExecSpec)
    program = spec.exec[0]
    if not program or not Template(program).is_constant:
        message = "the program is named here, not chosen by an event" if program else "a program's name is missing"
        raise ConfigError([tree.problem(message, mend="write it out", at=("exec", 0))])
    made = template(tree, "exec", names=names, secrets=True)
    return ExecAction(program, Template(made.value[1:], names), spec.timeout)
