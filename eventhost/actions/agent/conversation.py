"""One conversation with a model, over an OpenAI-compatible endpoint: bounded in steps and tokens, all of it booked.

This alone loads pydantic-ai, which takes a second or two and some forty megabytes: nobody imports it before the first
run. Nothing is sent but to the given URL, and nothing is taken from the process's environment.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx2
import openai
import pydantic_ai
from openai import AsyncOpenAI
from pydantic_ai import Agent, Tool
from pydantic_ai.exceptions import (
    AgentRunError,
    ContentFilterError,
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelHTTPError,
    ModelNotFoundError,
    ModelQuotaExceededError,
    ModelTimeoutError,
    OutputTokenLimitExceeded,
    UserError,
)
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.profiles.openai import OpenAIModelProfile
from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import UsageLimits
from pydantic_core import SchemaValidator, core_schema

from eventhost import __version__
from eventhost.actions.agent.message import Message
from eventhost.actions.agent.meter import Meter
from eventhost.actions.agent.tools import Offer
from eventhost.errors import ActionError, cause_of

REPEATS_IN_MIDDLE: Final = 2
"""How often a request is repeated once tools were called: to fail then would mean to call them again."""

_RETRYABLE: Final = frozenset((408, 425, 429))
_MAX_REASON: Final = 300
_BYTES_PER_TOKEN: Final = 4

# Both would write to the host's output: what a first run looks like, and each request that is repeated.
pydantic_ai.BANNER_ENABLED = False
logging.getLogger("openai").setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a model is reached. Neither `url` nor `key` may be shown; `shown` is the URL as it is configured."""

    url: str
    shown: str
    model: str
    key: str | None


async def converse(
    endpoint: Endpoint,
    message: Message,
    offers: Sequence[Offer],
    call: Callable[[str, Mapping[str, Any]], Awaitable[str]],
    meter: Meter,
    http: httpx2.AsyncClient,
) -> str:
    """Tell a model what there is to do, let it call tools, and return its answer.

    Raises:
        ActionError: there is no answer; its text may repeat what the endpoint said.
    """
    try:
        client = _Client(endpoint.key, endpoint.url, http)
    except (httpx2.InvalidURL, ValueError):
        raise ActionError(f"{endpoint.shown} is no URL", retry=False) from None
    # Tools are offered as their servers describe them.
    profile = OpenAIModelProfile(json_schema_transformer=None)
    provider = OpenAICompatibleProvider("eventhost", openai_client=client, profile=profile)
    model = OpenAIChatModel(endpoint.model, provider=provider)
    agent = Agent(
        _Metered(model, meter, client),
        name="eventhost",
        instructions=message.instructions,
        tools=[_tool(offer, call, client) for offer in offers],
        model_settings=ModelSettings(extra_headers={"User-Agent": f"eventhost/{__version__}"}),
        # What a model makes of a tool's mistake is bounded by the steps of the run.
        retries={"tools": meter.max_steps, "output": 1},
    )
    try:
        # The meter has limits of its own, which hold for servers that count no tokens too.
        result = await agent.run(message.data, usage_limits=UsageLimits(request_limit=None), infer_name=False)
    except AgentRunError as error:
        raise _failure(error, endpoint) from None
    except UserError as error:
        raise ActionError(f"{endpoint.model} at {endpoint.shown}: {error}", retry=False) from None
    except ExceptionGroup as error:
        # Raised by what connects, for a port that cannot be, say.
        failed = f"the connection failed ({type(cause_of(error)).__name__})"
        raise ActionError(f"{endpoint.model} at {endpoint.shown}: {failed}") from None
    # A model's own escapes may say halves of a sign, which no event can hold.
    return result.output.encode(errors="replace").decode()


class _Client(AsyncOpenAI):
    """Sends no header but what the API needs: none that the process's environment names, none about this machine."""

    def __init__(self, key: str | None, url: str, http: httpx2.AsyncClient) -> None:
        self._key = key
        super().__init__(api_key="none", base_url=url, http_client=http, max_retries=0, timeout=None)

    @property
    def default_headers(self) -> dict[str, str | openai.Omit]:
        return {
            "Accept": "application/json",
            "Content-Type": "application/json",
            "Authorization": f"Bearer {self._key}" if self._key else openai.Omit(),
        }

    def _validate_headers(self, headers: Any, custom_headers: Any) -> None:
        """A server on this machine needs no key."""


class _Metered(WrapperModel):
    """Takes the tokens of each request from the budget as soon as it is answered."""

    def __init__(self, wrapped: Model, meter: Meter, client: _Client) -> None:
        super().__init__(wrapped)
        self._meter, self._client = meter, client

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        self._meter.begin_step()
        try:
            response = await super().request(messages, model_settings, model_request_parameters)
        except ModelHTTPError:
            raise  # refused, and not charged for
        except BaseException:
            # It was sent, and an answer may have been made that nobody got.
            self._meter.book(_tokens(messages), 0, estimated=True)
            raise
        usage = response.usage
        if usage.unmeasured_requests or not usage.total_tokens:
            self._meter.book(_tokens(messages), _tokens([response]), estimated=True)
        else:
            self._meter.book(usage.input_tokens, usage.output_tokens, estimated=False)
        return response


def _tool(offer: Offer, call: Callable[[str, Mapping[str, Any]], Awaitable[str]], client: _Client) -> Tool[None]:
    async def called(**arguments: Any) -> str:
        client.max_retries = REPEATS_IN_MIDDLE
        return await call(offer.name, arguments)

    # One after the other: two calls that one answer asks for may depend on each other.
    tool: Tool[None] = Tool.from_schema(called, offer.name, offer.description, offer.schema, sequential=True)
    # The rest is for the tool's server to check.
    tool.function_schema.validator = SchemaValidator(core_schema.dict_schema(core_schema.str_schema()))
    return tool


def _tokens(messages: list[ModelMessage]) -> int:
    """About how many tokens some messages are."""
    return len(ModelMessagesTypeAdapter.dump_json(messages)) // _BYTES_PER_TOKEN


def _failure(error: AgentRunError, endpoint: Endpoint) -> ActionError:
    """The error in words of our own: those of the libraries may quote the request."""

    def failed(reason: str, *, retry: bool, after_s: float = 0) -> ActionError:
        return ActionError(f"{endpoint.model} at {endpoint.shown}: {reason}", retry=retry, after_s=after_s)

    status = error.status_code if isinstance(error, ModelHTTPError) else 0
    match error:
        case ModelAuthenticationError():
            # What is said with it may repeat a part of the key.
            return failed(f"the key is refused or missing ({status}); set apiKey", retry=False)
        case ModelNotFoundError():
            return failed(f"there is no such model, or no chat API at this URL ({status}){_said(error)}", retry=False)
        case ModelQuotaExceededError():
            return failed(f"the account's quota is used up ({status}){_said(error)}", retry=False)
        case ModelHTTPError():
            retry = status >= 500 or status in _RETRYABLE
            return failed(f"answered {status}{_said(error)}", retry=retry, after_s=error.retry_after or 0)
        case ModelTimeoutError():
            return failed("did not answer in time", retry=True)
        case ModelConnectionError():
            return failed(f"the connection failed ({type(_root(error)).__name__})", retry=True)
        case ModelAPIError():
            cause = error.__cause__
            if isinstance(cause, openai.APIStatusError):
                return failed(f"answered {cause.status_code}, and redirects are not followed", retry=False)
            return failed("the answer is not one of a chat API; is the URL right?", retry=True)
        case ContentFilterError():
            return failed("the model, or who runs it, refused to answer this", retry=False)
        case OutputTokenLimitExceeded():
            return failed("the answer became longer than the model can write", retry=False)
    return failed("gave no answer that can be used: it was empty or malformed", retry=True)


def _said(error: ModelHTTPError | ModelAPIError) -> str:
    """What the endpoint said of an error, as the end of a sentence."""
    body = getattr(error, "body", None)
    inner = body.get("error", body) if isinstance(body, dict) else body
    said = inner.get("message") if isinstance(inner, dict) else inner
    if not isinstance(said, str) or not said.strip():
        return ""
    plain = " ".join("".join(char if char.isprintable() else " " for char in said[: 4 * _MAX_REASON]).split())
    return f": {plain[:_MAX_REASON]}"


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
