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
from eventhost.actions.secrets import Secrets
from eventhost.config.tree import Tree
from eventhost.errors import ActionError, ConfigError, EventhostError
from eventhost.event import EnvEvent
from eventhost.expression import ExpressionError, Template
from eventhost.journal import Entry

if TYPE_CHECKING:
    # At run time these would load the whole MCP SDK, to check a configuration too.
    from eventhost.connections.process import Child
    from eventhost.tools import HostedTool


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


async def _no_tools(wanted: Sequence[str]) -> Sequence[HostedTool]:
    return ()


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
    list_tools: Callable[[Sequence[str]], Awaitable[Sequence[HostedTool]]] = _no_tools
    """`McpManager.get_tools`."""
    functions: Functions = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "functions", Functions(self.root))


class Context(msgspec.Struct, frozen=True):
    """Which action of which rule is being run, and what is known besides the event."""

    hands: Hands
    rule: str
    place: str
    """Where it stands within `do`: `0` is the first, `1.onError.0` the first of what follows the second's failure."""
    attempt: int = 1
    """Counts from 1."""
    values: Mapping[str, Any] = msgspec.field(default_factory=dict)
    """What templates see besides the event: `events` of the run, `result` of the action before, the last `error`."""
    spend: Callable[[int], None] = lambda tokens: None
    """Takes so many tokens from the rule's budget."""
    batch: tuple[Entry, ...] | None = None
    """All that was gathered for this run, oldest first; None when it is for the one event alone."""
    left_out: int = 0
    """How many further events there was no room to gather."""


class Action(Protocol):
    """One thing to do about an event."""

    @property
    def kind(self) -> str: ...

    async def run(self, entry: Entry, context: Context) -> Any:
        """Do it; return what came of it, as JSON: the next action knows it as `result`.

        Raises:
            ActionError: it failed; `retry` says whether trying again may help.
        """
        ...

    def describe(self, entry: Entry, values: Mapping[str, Any]) -> dict[str, Any]:
        """What it would do, in the form of its configuration: templates filled in, secrets as references.

        A template that needs a `result` which `values` does not have stays as it stands in the configuration.

        Raises:
            ExpressionError: it cannot be filled in.
        """
        ...


def template(tree: Tree, *path: str | int, names: Sequence[str] = (), secrets: bool = False) -> Template:
    """The template at `path` of an action; it knows `names` besides the event; with `secrets` it may refer to some.

    Raises:
        ConfigError: it is invalid, or refers to a secret that it would show.
    """
    part = tree.at(*path)
    try:
        made = Template(part.value, names)
    except ExpressionError as error:
        raise ConfigError([part.problem(str(error), at=error.path)]) from None
    if made.has_secrets and not secrets:
        mend = "secrets can be used in webhook, exec and tool"
        raise ConfigError([part.problem("a secret would be shown here", mend=mend)])
    return made


def render(made: Template, entry: Entry, context: Context, secrets: Secrets | None = None) -> Any:
    """The value of a template for this event; without `secrets` it refers to none.

    Raises:
        ActionError: not to be retried: it cannot be filled in, or a secret is missing.
    """
    resolve = secrets.resolve if secrets is not None else None
    try:
        return made.render(entry.event, context.values, at_ms=entry.at_ms, resolve=resolve)
    except EventhostError as error:
        raise ActionError(str(error), retry=False) from None


def describe(made: Template, entry: Entry, values: Mapping[str, Any]) -> Any:
    """The value of a template as `Action.describe` shows it.

    Raises:
        ExpressionError: it cannot be filled in.
    """
    return _described(made.value, entry, values)


def _described(value: Any, entry: Entry, values: Mapping[str, Any]) -> Any:
    if isinstance(value, Mapping):
        return {key: _described(inner, entry, values) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_described(inner, entry, values) for inner in value]
    try:
        made = Template(value, tuple(values))
    except ExpressionError:
        return value  # it was accepted with more names than there are values now
    return made.render(entry.event, values, at_ms=entry.at_ms)


def as_text(value: Any) -> str:
    """A filled-in value where only text can stand: what is no string is written as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
