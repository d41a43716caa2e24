"""`{"agent": "prompt"}`: a model is told of an event, may call the tools it is allowed, and its answer is an event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Annotated, Any, ClassVar, Final

import anyio
import structlog
from pydantic import BaseModel, ConfigDict, Field

from eventhost.actions.action import Context, render, template
from eventhost.actions.agent.fence import Fence
from eventhost.actions.agent.message import message
from eventhost.actions.agent.meter import Meter
from eventhost.actions.agent.prompt import Prompt
from eventhost.actions.agent.tools import Toolbox
from eventhost.actions.caused import caused_event
from eventhost.actions.secrets import Secrets
from eventhost.actions.step import Budget
from eventhost.config.durations import Duration
from eventhost.config.tree import Tree
from eventhost.errors import ActionError, BusClosed, ConfigError, EventhostError, Problem
from eventhost.expression import ExpressionError, Template
from eventhost.journal import Entry

log = structlog.get_logger()

REPLIED: Final = "agent.replied"
"""The type of the event that an answer becomes."""

TIMEOUT_S: Final = 120.0
MAX_STEPS: Final = 10
MAX_TOKENS: Final = 50_000
RUNS_PER_HOUR: Final = 60
TOKENS_PER_HOUR: Final = 200_000

MAX_TEXT: Final = 32_768
"""How many characters of an answer are kept."""

OPENAI_URL: Final = "https://api.openai.com/v1"

_INSTALL: Final = "run: pip install 'eventhost[agent]'"
_CONVERSATION: Final = "eventhost.actions.agent.conversation"
_SHOWN_MARK: Final = f"k{24 * '0'}"
_REFERENCE: Final = r"^\$\{(env|file):[^{}]+\}$"


class BudgetSpec(BaseModel):
    """What a rule's agent may use within any hour, as it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runs: int | None = Field(
        default=RUNS_PER_HOUR, ge=1, description="Runs within any hour; null: any number.", examples=[20]
    )
    tokens: int | None = Field(
        default=TOKENS_PER_HOUR, ge=1, description="Tokens within any hour; null: any number.", examples=[100_000]
    )


class AgentSpec(BaseModel):
    """A model that is told of the event, as it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    agent: str = Field(
        min_length=1,
        description="What the model is to do. `{{ … }}` is sent beside it, as data.",
        examples=["Someone is at {{ payload.door }}. Decide whether to tell."],
    )
    model: str = Field(
        default="${env:OPENAI_MODEL}", min_length=1, description="The model's name.", examples=["gpt-5-mini"]
    )
    url: str = Field(
        default="",
        min_length=1,
        description="The base URL of an OpenAI-compatible API; without it OPENAI_BASE_URL, else OpenAI's own.",
        examples=["http://127.0.0.1:11434/v1"],
    )
    apiKey: str = Field(  # noqa: N815
        default="",
        pattern=_REFERENCE,
        description="A reference to the key. Where neither it nor `url` is given, OPENAI_API_KEY is used if it is set.",
        examples=["${env:OPENAI_API_KEY}"],
    )
    tools: list[Annotated[str, Field(pattern=r"^[\w*?\[\]!-]+$")]] = Field(
        default=[],
        description="Public names of the tools that the model may call, or globs of them; by default none.",
        examples=[["todo__add", "hello__*"]],
    )
    budget: BudgetSpec = Field(
        default=BudgetSpec(),
        description="What it may use within any hour; what comes beyond that is collected into one run.",
        examples=[{"runs": 20, "tokens": 100_000}],
    )
    timeout: Duration = Field(default=TIMEOUT_S, gt=0, description="How long a run may take.", examples=["2m"])
    maxSteps: int = Field(  # noqa: N815
        default=MAX_STEPS, ge=1, le=100, description="How many requests to the model a run may make.", examples=[10]
    )
    maxTokens: int = Field(  # noqa: N815
        default=MAX_TOKENS, ge=1, description="How many tokens a run may use.", examples=[50_000]
    )


@dataclass(frozen=True, slots=True)
class AgentAction:
    """Tells a model of an event, publishes its answer, and gives it."""

    prompt: Prompt
    model: Template
    url: Template | None
    """None: what the environment names, else OpenAI's."""
    key: Template | None
    tools: tuple[str, ...]
    budget: Budget
    timeout_s: float
    max_steps: int
    max_tokens: int
    missed: set[str] = field(default_factory=set, compare=False, repr=False)
    """The globs of tools by which nothing was found the last time."""
    kind: ClassVar[str] = "agent"

    async def run(self, entry: Entry, context: Context) -> dict[str, Any]:
        secrets = Secrets(context.hands.resolve_secret)
        fence = Fence()
        try:
            filled = self.prompt.fill(entry.event, context.values, entry.at_ms)
            said = message(self.prompt, filled, entry, context.values, fence, context.left_out)
        except ExpressionError as error:
            raise ActionError(str(error), retry=False) from None
        toolbox = Toolbox(self.tools, context.hands, fence)
        meter = Meter(self.max_steps, self.max_tokens, context.spend)
        try:
            with anyio.fail_after(self.timeout_s):
                conversation = await _conversation()
                endpoint = conversation.Endpoint(*self._endpoint(entry, context, secrets))
                offers = await toolbox.offers()
                self._tell_of_missing(toolbox, context)
                text = await conversation.converse(endpoint, said, offers, toolbox.call, meter, context.hands.http)
        except TimeoutError:
            raise ActionError(f"the agent gave no answer within {self.timeout_s:g} s") from None
        except ActionError as error:
            raise ActionError(secrets.hide(str(error)), retry=error.retry, after_s=error.after_s) from None
        except EventhostError as error:
            raise ActionError(secrets.hide(str(error))) from None
        reply = {
            "text": secrets.hide(text)[:MAX_TEXT],
            "rule": context.rule,
            "tools": toolbox.called,
            "tokens": meter.to_json(),
            "events": max(len(context.values.get("events") or ()), 1) + context.left_out,
        }
        event = caused_event(REPLIED, reply, cause=entry, rule=context.rule, place=context.place)
        try:
            await context.hands.publish(event)
        except BusClosed as error:
            raise ActionError(str(error)) from None
        return reply

    def describe(self, entry: Entry, values: Mapping[str, Any]) -> dict[str, Any]:
        filled = self.prompt.describe(entry, values)
        said = message(self.prompt, filled, entry, values, Fence(_SHOWN_MARK))
        return {
            "agent": filled.text,
            "values": filled.values,
            "model": self.model.value,
            "url": self.url.value if self.url else f"${{env:OPENAI_BASE_URL}} or {OPENAI_URL}",
            "tools": list(self.tools),
            "instructions": said.instructions,
            "message": said.data,
        }

    def _endpoint(self, entry: Entry, context: Context, secrets: Secrets) -> tuple[str, str, str, str | None]:
        """URL, the URL as it may be shown, model and key."""

        def of_environment(name: str) -> str | None:
            try:
                return secrets.resolve(f"${{env:{name}}}") or None
            except ConfigError:
                return None

        try:
            # Not among `secrets`: its name may well be a word of the answer.
            model = str(render(self.model, entry, context, Secrets(context.hands.resolve_secret)))
        except ActionError:
            if self.model.value != _DEFAULT_MODEL:
                raise
            raise ActionError('no model is named; write "model", or set OPENAI_MODEL', retry=False) from None
        key: str | None = None
        if self.key is not None:
            key = str(render(self.key, entry, context, secrets)).strip()
        elif self.url is None:
            # The key is for where the environment says: to any other place it would be given away.
            key = of_environment("OPENAI_API_KEY")
        if key is not None and not (key.isascii() and key.isprintable()):
            raise ActionError("the API key has signs that no key can have", retry=False)
        if self.url is not None:
            url, shown = str(render(self.url, entry, context, secrets)), str(self.url.value)
        elif (found := of_environment("OPENAI_BASE_URL")) is not None:
            url, shown = found, "${env:OPENAI_BASE_URL}"
        else:
            url = shown = OPENAI_URL
        if not url.casefold().startswith(("http://", "https://")):
            raise ActionError(f"{shown} is no http or https URL", retry=False)
        return url, shown, model, key

    def _tell_of_missing(self, toolbox: Toolbox, context: Context) -> None:
        missing = set(toolbox.unmatched())
        for glob in sorted(missing - self.missed):
            log.warning("agent_tool_missing", rule=context.rule, tool=glob, mend="no server offers it now")
        self.missed.clear()
        self.missed.update(missing)


_DEFAULT_MODEL: Final = AgentSpec.model_fields["model"].default


async def _conversation() -> ModuleType:
    """The module that talks to models. Loading it takes seconds, during which the host goes on.

    Raises:
        ActionError: not to be retried: what it needs is not installed.
    """
    try:
        # Also when it is there: another run may be in the middle of loading it.
        return await anyio.to_thread.run_sync(import_module, _CONVERSATION)
    except ImportError as error:
        raise ActionError(f"agents need more packages ({error.name}); {_INSTALL}", retry=False) from None


def parse(tree: Tree, names: Sequence[str]) -> AgentAction:
    """The action that `tree` describes; its templates know `names` besides the event.

    Raises:
        ConfigError: with every problem.
    """
    problems: list[Problem] = []
    if find_spec("pydantic_ai") is None or find_spec("openai") is None:
        message = "agents need packages that are not installed"
        problems.append(tree.problem(message, mend=_INSTALL, at="agent", key=True))
    try:
        spec = tree.validate(AgentSpec)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    prompt: Prompt | None = None
    fixed: dict[str, Template | None] = {"model": Template(spec.model), "url": None, "apiKey": None}
    try:
        template(tree, "agent", names=names)
        prompt = Prompt(spec.agent, names)
    except ConfigError as error:
        problems += error.problems
    except ExpressionError as error:
        problems.append(tree.problem(str(error), at="agent"))
    for key in fixed:
        if key not in tree.value:
            continue
        try:
            fixed[key] = made = template(tree, key, secrets=True)
        except ConfigError as error:
            problems += error.problems
            continue
        if not made.is_constant:
            problems.append(tree.problem("this is configured, not chosen by an event", mend="write it out", at=key))
    literal = spec.url.partition("${")[0]
    if literal and not literal.casefold().startswith(("http://", "https://")):
        problems.append(tree.problem("expected an http or https URL", mend="begin it with https://", at="url"))
    model = fixed["model"]
    if problems or prompt is None or model is None:
        raise ConfigError(problems)
    return AgentAction(
        prompt,
        model,
        fixed["url"],
        fixed["apiKey"],
        tuple(spec.tools),
        Budget(spec.budget.runs, spec.budget.tokens),
        spec.timeout,
        spec.maxSteps,
        spec.maxTokens,
    )
