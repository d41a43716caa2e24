"""`{"python": "module:function"}`: a function of the user's; one that never returns is that rule's own trouble.

It is called with the `EnvEvent`, or with the list of those that a rule gathered, which are its own to change: an async
one is awaited, any other one runs in a thread. A thread cannot be killed: one that overstays its time is left to
itself, and when too many are, no more are started.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from inspect import Parameter, isasyncgen, isawaitable, iscoroutinefunction, isgenerator, signature
from pathlib import Path
from traceback import extract_tb
from typing import Any, ClassVar, Final

import anyio
import msgspec
from pydantic import BaseModel, ConfigDict, Field

from eventhost.actions.action import Context
from eventhost.config.durations import Duration
from eventhost.config.tree import Tree
from eventhost.errors import ActionError
from eventhost.event import EnvEvent
from eventhost.journal import Entry

TIMEOUT_S: Final = 30.0

MAX_LEFT: Final = 8
"""How many calls of one action that overstayed their time may be running in threads."""

_OFFERED: Final = ("result", "error")
"""What a function is given besides the event when it has a parameter of this name."""


class PythonSpec(BaseModel):
    """A call of a function, as it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    python: str = Field(
        pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*$",
        description="`module:function`, in the environment's folder or installed.",
        examples=["handlers:on_file"],
    )
    timeout: Duration = Field(default=TIMEOUT_S, gt=0, description="How long it may take.", examples=["30s"])


@dataclass(frozen=True, slots=True)
class PythonAction:
    """Calls a function, and gives what it returns."""

    target: str
    timeout_s: float
    left: set[threading.Thread] = field(default_factory=set, compare=False, repr=False)
    """Those that overstayed their time, and have not returned yet."""
    kind: ClassVar[str] = "python"

    async def run(self, entry: Entry, context: Context) -> Any:
        function = context.hands.functions.find(self.target)
        events = [EnvEvent.from_json(one.event.to_json()) for one in context.batch or (entry,)]
        call = partial(function, events[0] if context.batch is None else events, **_further(function, context.values))
        try:
            with anyio.fail_after(self.timeout_s):
                result = call() if iscoroutinefunction(function) else await self._in_thread(call)
                result = await result if isawaitable(result) else result
        except ActionError:
            raise
        except TimeoutError as error:
            # The function's own TimeoutError has been through the function.
            if _place(error, context.hands.root):
                raise self._failed(error, context) from error
            raise ActionError(f"{self.target} did not return within {self.timeout_s:g} s") from None
        except Exception as error:
            raise self._failed(error, context) from error
        if isgenerator(result) or isasyncgen(result):
            raise ActionError(f"{self.target} is a generator: nothing of it is run; let it not yield", retry=False)
        return result

    def describe(self, entry: Entry, values: Mapping[str, Any]) -> dict[str, Any]:
        return {"python": self.target}

    def _failed(self, error: Exception, context: Context) -> ActionError:
        return ActionError(f"{self.target}: {type(error).__name__}: {error}{_place(error, context.hands.root)}")

    async def _in_thread(self, call: Callable[[], Any]) -> Any:
        if len(self.left) >= MAX_LEFT:
            raise ActionError(f"{self.target}: {MAX_LEFT} earlier calls have not returned yet")
        loop = asyncio.get_running_loop()
        returned = anyio.Event()
        outcome: list[tuple[Any, BaseException | None]] = []

        def work() -> None:
            try:
                outcome.append((context.run(call), None))
            except BaseException as error:
                outcome.append((None, error))
            self.left.discard(threading.current_thread())
            with suppress(RuntimeError):  # the loop is closed, and nobody waits
                loop.call_soon_threadsafe(returned.set)

        context = copy_context()
        # A daemon thread: one that hangs must not keep the process from ending.
        thread = threading.Thread(target=work, name=f"python action {self.target}", daemon=True)
        thread.start()
        try:
            await returned.wait()
        except anyio.get_cancelled_exc_class():
            self.left.add(thread)
            if outcome:  # it returned just now, and may not have found itself there
                self.left.discard(thread)
            raise
        result, error = outcome[0]
        if isinstance(error, Exception):
            raise error
        if error is not None:
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
        return result


def parse(tree: Tree, names: Sequence[str]) -> PythonAction:
    """The action that `tree` describes; its templates know `names` besides the event.

    Raises:
        ConfigError: with every problem.
    """
    spec = tree.validate(PythonSpec)
    return PythonAction(spec.python, spec.timeout)


def _further(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """What the function asks for by the names of its parameters, its own to change."""
    try:
        parameters = signature(function).parameters
    except (TypeError, ValueError):
        return {}  # written in C, and does not say
    named = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    asked = [name for name in _OFFERED if name in parameters and parameters[name].kind in named]
    if asked and next(iter(parameters)) in asked:
        asked.remove(next(iter(parameters)))  # the event, whatever it is called
    return {name: msgspec.json.decode(msgspec.json.encode(values.get(name))) for name in asked}


def _place(error: BaseException, root: Path) -> str:
    """Where in the environment's files an exception came from, as the end of a sentence."""
    for frame in reversed(extract_tb(error.__traceback__)):
        if Path(frame.filename).is_relative_to(root):
            return f" ({Path(frame.filename).relative_to(root)}, line {frame.lineno})"
    return ""
