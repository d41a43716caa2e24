"""`{"python": "module:function"}`: a function of the user's; one that never returns is that rule's own trouble.

It is called with the `EnvEvent`: an async one is awaited, any other one runs in a thread. A thread cannot be killed:
one that overstays its time is left to itself, and when too many are, no more are started.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from inspect import isawaitable, iscoroutinefunction
from pathlib import Path
from traceback import extract_tb
from typing import Any, ClassVar, Final

import anyio
from pydantic import BaseModel, ConfigDict, Field

from eventhost.actions.action import Context
from eventhost.config.durations import Duration
from eventhost.config.tree import Tree
from eventhost.errors import ActionError
from eventhost.event import EnvEvent
from eventhost.journal import Entry

TIMEOUT_S: Final = 30.0

MAX_LEFT: Final = 8
"""How many calls of one action may be running in threads at once, those that overstayed their time among them."""


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    python: str = Field(pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*$", examples=["handlers:on_file"])
    timeout: Duration = Field(default=TIMEOUT_S, gt=0, examples=["30s"])


@dataclass(frozen=True, slots=True)
class PythonAction:
    """Calls a function, and returns what it returns."""

    target: str
    timeout_s: float
    threads: set[threading.Thread] = field(default_factory=set, compare=False, repr=False)
    kind: ClassVar[str] = "python"

    async def run(self, entry: Entry, context: Context) -> Any:
        function = context.hands.functions.find(self.target)
        try:
            with anyio.fail_after(self.timeout_s):
                if iscoroutinefunction(function):
                    return await function(entry.event)
                result = await self._in_thread(function, entry.event)
                return await result if isawaitable(result) else result
        except ActionError:
            raise
        except TimeoutError as error:
            # The function's own TimeoutError has been through the function.
            if _place(error, context.hands.root):
                raise self._failed(error, context) from error
            raise ActionError(f"{self.target} did not return within {self.timeout_s:g} s") from None
        except Exception as error:
            raise self._failed(error, context) from error

    def _failed(self, error: Exception, context: Context) -> ActionError:
        return ActionError(f"{self.target}: {type(error).__name__}: {error}{_place(error, context.hands.root)}")

    async def _in_thread(self, function: Callable[[EnvEvent], Any], event: EnvEvent) -> Any:
        if len(self.threads) >= MAX_LEFT:
            raise ActionError(f"{self.target}: {MAX_LEFT} earlier calls have not returned yet")
        loop = asyncio.get_running_loop()
        returned = anyio.Event()
        outcome: list[tuple[Any, BaseException | None]] = []

        def work() -> None:
            try:
                outcome.append((context.run(function, event), None))
            except BaseException as error:
                outcome.append((None, error))
            self.threads.discard(threading.current_thread())
            with suppress(RuntimeError):  # the loop is closed, and nobody waits
                loop.call_soon_threadsafe(returned.set)

        context = copy_context()
        # A daemon thread: one that hangs must not keep the process from ending.
        thread = threading.Thread(target=work, name=f"python action {self.target}", daemon=True)
        self.threads.add(thread)
        thread.start()
        await returned.wait()
        result, error = outcome[0]
        if isinstance(error, Exception):
            raise error
        if error is not None:
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
        return result


def parse(tree: Tree) -> PythonAction:
    """The action that `tree` describes.

    Raises:
        ConfigError: with every problem.
    """
    spec = tree.validate(_Spec)
    return PythonAction(spec.python, spec.timeout)


def _place(error: BaseException, root: Path) -> str:
    """Where in the environment's files an exception came from, as the end of a sentence."""
    for frame in reversed(extract_tb(error.__traceback__)):
        if Path(frame.filename).is_relative_to(root):
            return f" ({Path(frame.filename).relative_to(root)}, line {frame.lineno})"
    return ""
