"""The keys that every action may have besides its own: `if`, `retry`, `onError`."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from eventhost.actions.step import Retry
from eventhost.config.durations import Duration
from eventhost.config.tree import Tree
from eventhost.config.wording import did_you_mean, kind
from eventhost.errors import ConfigError
from eventhost.expression import Condition, ExpressionError

KEYS: Final = ("if", "retry", "onError")

MAX_ATTEMPTS: Final = 100

_DEFAULT: Final = Retry()


class RetrySpec(BaseModel):
    """How often an action is tried, and how long the pauses are, as it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    attempts: int = Field(
        default=_DEFAULT.attempts,
        ge=1,
        le=MAX_ATTEMPTS,
        description="How often it is tried in all.",
        examples=[5],
    )
    delay: Duration = Field(
        default=_DEFAULT.delay_s,
        description="The pause after the first failure; each further one is twice as long.",
        examples=["1s"],
    )
    maxDelay: Duration | None = Field(  # noqa: N815
        default=None,
        description="The longest pause; by default 5m, or `delay` where that is longer.",
        examples=["30s"],
    )

    @model_validator(mode="after")
    def _in_order(self) -> RetrySpec:
        if self.maxDelay is not None and self.maxDelay < self.delay:
            raise ValueError("maxDelay is shorter than delay", "let it be at least as long")
        return self


def _attempts(value: Any) -> Any:
    """A bare number of attempts, or `false`, as the object that it stands for."""
    if isinstance(value, dict):
        return value
    if value is False:
        return {"attempts": 1}
    if type(value) is not int:
        raise ValueError(f"expected a number of attempts, an object or false, got {kind(value)}")
    if not 1 <= value <= MAX_ATTEMPTS:
        raise ValueError(f"expected a number between 1 and {MAX_ATTEMPTS}", *(["write false"] if value < 1 else ()))
    return {"attempts": value}


def _known_follow(value: Any) -> Any:
    if isinstance(value, list | dict) or value in _FOLLOWS:
        return value
    mend = did_you_mean(value, _FOLLOWS) if isinstance(value, str) else ""
    got = f'"{value}"' if isinstance(value, str) else kind(value)
    raise ValueError(f'expected "stop", "continue" or actions, got {got}', mend or 'write "continue"')


_Attempts = RetrySpec | Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)] | Literal[False]
_Follow = Literal["stop", "continue"] | list[dict[str, Any]] | dict[str, Any]
_FOLLOWS: Final = ("stop", "continue")


class StepSpec(BaseModel):
    """What every action may say, as it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    if_: str = Field(
        default="",
        alias="if",
        min_length=1,
        description="A Jinja expression, as in `when`; it also sees `events`, `result` and `error`. "
        "The action is skipped when it is false.",
        examples=["payload.size > 1000"],
    )
    retry: Annotated[RetrySpec, BeforeValidator(_attempts, json_schema_input_type=_Attempts)] = Field(
        default_factory=RetrySpec,
        description="How often it is tried in all, alone or with the pauses between; `false` is the same as 1.",
        examples=[{"attempts": 5, "delay": "1s", "maxDelay": "30s"}],
    )
    onError: Annotated[Any, BeforeValidator(_known_follow, json_schema_input_type=_Follow)] = Field(  # noqa: N815
        default="stop",
        description="What follows when the last attempt has failed: the end of the rule, the next action, "
        "or these actions instead of the rest.",
        examples=["continue"],
    )


def parse_if(tree: Tree, names: tuple[str, ...]) -> Condition | None:
    """What an action's `if` says; `tree` is the action, `names` are what it knows besides the event.

    Raises:
        ConfigError: it is no condition.
    """
    source = tree.value.get("if")
    if not isinstance(source, str) or not source:
        return None
    try:
        return Condition(source, names)
    except ExpressionError as error:
        raise ConfigError([tree.problem(str(error), at="if")]) from None


def to_retry(spec: RetrySpec) -> Retry:
    """What `retry` says."""
    longest_s = max(_DEFAULT.max_delay_s, spec.delay) if spec.maxDelay is None else spec.maxDelay
    return Retry(spec.attempts, spec.delay, longest_s)
