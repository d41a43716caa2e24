"""What an action is and what it is handed: it reaches the rest of the host by nothing but its `Hands`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import httpx2
import msgspec

from eventhost.actions.functions import Functions
from eventhost.config.tree import Tree
from eventhost.errors import ActionError, ConfigError, EventhostError
from eventhost.event import EnvEvent
from eventhost.expression import ExpressionError, Template
from eventhost.journal import Entry

if TYPE_CHECKING:
    # At run time this would load the whole MCP SDK, to check a configuration too.
    from eventhost.connections.process import Child


class Spawn(Protocol):
    """`eventhost.connections.child` with its guardian given."""

    def __call__(
        self,
        argv: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        on_stdout: Callable[[bytes], Awaitable[None]],
        on_stderr: Callable[[bytes], Awaitable[None]],
        grace_s: float,
    ) -> AbstractAsyncContextManager[Child]: ...


class CallTool(Protocol):
    """`McpManager.execute_tool`."""

    def __call__(self, name: str, arguments: Mapping[str, Any], /, *, timeout_s: float) -> Awaitable[Any]: ...


@dataclass(frozen=True, slots=True)
class Hands:
    """What all actions of an environment are handed."""

    publish: Callable[[EnvEvent], Awaitable[object]]
    """Takes a further event into the journal."""
    call_tool: CallTool
    spawn: Spawn
    http: httpx2.AsyncClient
    """Shared by all webhooks, see `http_client`; whoever made it closes it."""
    root: Path
    """The environment's folder: where programs run and functions are found."""
    environment: Mapping[str, str]
    """All the variables that a program gets."""
    resolve_secret: Callable[[str], str]
    """Gives the text that `${env:NAME}` or `${file:path}` stands for, or raises ConfigError; never kept."""
    functions: Functions = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "functions", Functions(self.root))


@dataclass(frozen=True, slots=True)
class Context:
    """Which action of which rule is being run: `index` counts from 0 within `do`, `attempt` from 1."""

    hands: Hands
    rule: str
    index: int
    attempt: int = 1


class Action(Protocol):
    """One thing to do about an event."""

    @property
    def kind(self) -> str: ...

    async def run(self, entry: Entry, context: Context) -> Any:
        """Do it; return what came of it.

        Raises:
            ActionError: it failed; `retry` says whether trying again may help.
        """
        ...


def template(tree: Tree, *path: str | int, secrets: bool = False) -> Template:
    """The template at `path` of an action; with `secrets` it may refer to some.

    Raises:
        ConfigError: it is invalid, or refers to a secret that it would show.
    """
    part = tree.at(*path)
    try:
        made = Template(part.value)
    except ExpressionError as error:
        raise ConfigError([part.problem(str(error), at=error.path)]) from None
    if made.has_secrets and not secrets:
        mend = "secrets can be used in webhook, exec and tool"
        raise ConfigError([part.problem("a secret would be shown here", mend=mend)])
    return made


def render(made: Template, entry: Entry, context: Context) -> Any:
    """The value of a template for this event, its secrets resolved.

    Raises:
        ActionError: not to be retried: it cannot be filled in, or a secret is missing.
    """
    try:
        return made.render(entry.event, resolve=context.hands.resolve_secret)
    except EventhostError as error:
        raise ActionError(str(error), retry=False) from None


def as_text(value: Any) -> str:
    """A filled-in value where only text can stand: what is no string is written as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
