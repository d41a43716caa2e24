"""`Condition`: what can be known to be wrong shows when it is loaded; a missing field is an error, never a guess."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eventhost.event import EnvEvent
from eventhost.expression.engine import ENGINE, VARIABLES, Compiled, check
from eventhost.expression.source import ExpressionError, Token, expression_tokens, guarded


class Condition:
    """An expression that holds for an event or does not. `names` are further variables, to be given to `holds`.

    Raises:
        ExpressionError: the expression is invalid, or refers to what does not exist.
    """

    __slots__ = ("_compiled", "_held", "source")

    def __init__(self, source: str, names: Sequence[str] = ()) -> None:
        self.source = source
        variables = (*VARIABLES, *names)
        tokens = expression_tokens(source)
        self._held = check(source, tokens, variables, expression=True)
        # A missing field would count as false, and this is the only way to tell it from one that is.
        self._compiled = around(source, tokens, "{% if r is undefined %}{% elif r %}1{% else %}0{% endif %}", variables)

    def holds(self, event: EnvEvent, extra: Mapping[str, Any] | None = None, *, at_ms: int) -> bool:
        """Whether the expression is true for this event, which was accepted at `at_ms`, as Jinja takes truth.

        Raises:
            ExpressionError: it cannot be told, for a missing field, say.
        """
        try:
            text, _ = ENGINE.run(self._compiled, event, extra, at_ms=at_ms)
        except ExpressionError as error:
            raise ExpressionError(f"{self.source}: {error}") from None
        if not text:
            raise ExpressionError(f"{self.source}: the value is undefined; ask `… is defined` first")
        return text == "1"


def around(source: str, tokens: Sequence[Token], rest: str, variables: Sequence[str]) -> Compiled:
    """A template that sets `r` to an expression's value once, and goes on with `rest`.

    Raises:
        ExpressionError: the expression goes wrong whatever the event is.
    """
    compiled = ENGINE.compile(f"{{% set r = ({guarded(source, tokens)}) %}}{rest}")
    ENGINE.try_out(compiled, variables)
    return compiled
