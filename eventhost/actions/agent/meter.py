"""`Meter`: counts what one run uses, takes it from the rule's budget at once, and ends the run at its own limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from eventhost.errors import ActionError


@dataclass(slots=True)
class Meter:
    """Steps are requests to the model. Tokens that a server does not count are estimated."""

    max_steps: int
    max_tokens: int
    spend: Callable[[int], None]
    """Takes so many tokens from the budget."""
    steps: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    estimated: bool = False

    def begin_step(self) -> None:
        """Count a request that is about to be made.

        Raises:
            ActionError: not to be retried: it is one too many, or the run has used up its tokens.
        """
        if self.steps >= self.max_steps:
            raise ActionError(f"gave no answer within {self.max_steps} steps (maxSteps)", retry=False)
        if self.total >= self.max_tokens:
            raise ActionError(f"gave no answer within {self.max_tokens} tokens (maxTokens)", retry=False)
        self.steps += 1

    def book(self, input_tokens: int, output_tokens: int, *, estimated: bool) -> None:
        """Add what a request used, and take it from the budget."""
        input_tokens, output_tokens = max(input_tokens, 0), max(output_tokens, 0)
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens
        self.estimated = self.estimated or estimated
        self.spend(input_tokens + output_tokens)

    @property
    def total(self) -> int:
        return self.input_tokens + self.output_tokens

    def to_json(self) -> dict[str, int | bool]:
        """The tokens of a run, as its result has them."""
        tokens: dict[str, int | bool] = {
            "input": self.input_tokens,
            "output": self.output_tokens,
            "total": self.total,
        }
        return {**tokens, "estimated": True} if self.estimated else tokens
