"""`{"exec": ["cmd", "{{ payload.path }}"]}`: a program, never a shell; it and all that it started end with its time."""

from __future__ import annotations

import json
import shlex
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import anyio
import structlog
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from eventhost.actions.action import Context, as_text, render, template
from eventhost.actions.caused import event_name
from eventhost.config.durations import Duration
from eventhost.config.folders import interpreter
from eventhost.config.tree import Tree
from eventhost.errors import ActionError, ConfigError, ConnectionLost, SpawnError
from eventhost.expression import Template
from eventhost.journal import Entry

log = structlog.get_logger()

TIMEOUT_S = 30.0
GRACE_S = 1.0
"""How long a program may take to end after its stdin is closed, and again after SIGTERM."""

MAX_LINES = 1_000
MAX_LINE_LENGTH = 4_096

# Not to be tried again: the program is not there, or is none.
_HOPELESS = (126, 127)


def _no_shell(value: Any) -> Any:
    if isinstance(value, str):
        try:
            meant = json.dumps(shlex.split(value), ensure_ascii=False)
        except ValueError:
            meant = '["program", "argument"]'
        raise ValueError("expected a list of strings, got a string", f"there is no shell: write {meant}")
    return value


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    exec: Annotated[list[str], BeforeValidator(_no_shell)] = Field(min_length=1, examples=[["notify", "{{ type }}"]])
    timeout: Duration = Field(default=TIMEOUT_S, gt=0, examples=["30s"])


@dataclass(frozen=True, slots=True)
class ExecAction:
    """Runs a program in the environment's folder, the event as a line of JSON on its stdin, its output in the log."""

    program: str
    arguments: Template
    timeout_s: float
    kind: ClassVar[str] = "exec"

    async def run(self, entry: Entry, context: Context) -> int:
        arguments = [as_text(argument) for argument in render(self.arguments, entry, context)]
        hands = context.hands
        out, err = _Lines("stdout", entry, context), _Lines("stderr", entry, context)
        try:
            async with hands.spawn(
                [self.program, *arguments],
                cwd=hands.root,
                env=hands.environment,
                on_stdout=out.take,
                on_stderr=err.take,
                grace_s=GRACE_S,
            ) as process:
                with anyio.move_on_after(self.timeout_s) as time:
                    await _tell(process.send, entry.event.to_json() + b"\n")
                    process.close_stdin()
                    await process.ended.wait()
        except SpawnError as error:
            raise ActionError(str(error), retry=False) from None
        out.end()
        err.end()
        if time.cancelled_caught:
            raise ActionError(f"{self.program} did not end within {self.timeout_s:g} s, and was killed")
        if process.returncode != 0:
            reason = f"{self.program} {process.describe_end()}"
            raise ActionError(reason, retry=process.returncode not in _HOPELESS)
        return 0


async def _tell(send: Callable[[bytes], Awaitable[None]], data: bytes) -> None:
    with suppress(ConnectionLost):  # a program need not read what it is told
        await send(data)


class _Lines:
    """Brings a program's output into the log, line by line, as much as anybody will read."""

    def __init__(self, stream: str, entry: Entry, context: Context) -> None:
        self._log = log.bind(rule=context.rule, stream=stream, event_id=event_name(entry.event))
        self._rest = b""
        self._lines = 0

    async def take(self, chunk: bytes) -> None:
        *lines, rest = (self._rest + chunk).split(b"\n")
        # What exceeds a line's limit is dropped here already, so that an endless line takes no memory.
        self._rest = rest[: MAX_LINE_LENGTH * 4]
        for line in lines:
            self._write(line)

    def end(self) -> None:
        if self._rest:
            self._write(self._rest)
            self._rest = b""

    def _write(self, line: bytes) -> None:
        self._lines += 1
        if self._lines <= MAX_LINES:
            self._log.info("exec_output", text=line.decode(errors="replace").rstrip("\r")[:MAX_LINE_LENGTH])
        elif self._lines == MAX_LINES + 1:
            self._log.warning("exec_output_cut", lines=MAX_LINES)


def parse(tree: Tree) -> ExecAction:
    """The action that `tree` describes.

    Raises:
        ConfigError: with every problem.
    """
    spec = tree.validate(_Spec)
    program = spec.exec[0]
    if not program or not Template(program).is_constant:
        message = "the program is named here, not chosen by an event" if program else "a program's name is missing"
        raise ConfigError([tree.problem(message, mend="write it out", at=("exec", 0))])
    made = template(tree, "exec", secrets=True)
    arguments = Template(made.value[1:])
    return ExecAction(interpreter(program), arguments, spec.timeout)
