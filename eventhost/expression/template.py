"""`Template`: a JSON value of the configuration, filled in from an event. What arrives in an event is never a template.

Neither does it ever name a secret: only references that stand in the configuration itself are resolved.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from secrets import token_hex
from typing import Any, Final, NamedTuple, Protocol

from eventhost.event import EnvEvent
from eventhost.expression.condition import around
from eventhost.expression.engine import ENGINE, VARIABLES, check, check_statement
from eventhost.expression.source import ExpressionError, Path, Region, Token, expression_tokens, guarded, regions_of
from eventhost.expression.views import plain

Resolve = Callable[[str], str]

_REFERENCE: Final = re.compile(r"\$\{(?:env|file):[^{}]*\}")
# What stands for a reference while a text is filled in; no event can know it.
_MARK: Final = f"\x00{token_hex(16)}:"


class Template:
    """A JSON value in whose strings `{{ … }}` is filled in; one that is nothing but that keeps the value's type.

    Keys are left as they are. `names` are further variables, to be given to `render`.

    Raises:
        ExpressionError: with the `path` of the string that is wrong.
    """

    __slots__ = ("_node", "has_secrets", "is_constant", "value")

    def __init__(self, value: Any, names: Sequence[str] = ()) -> None:
        self.value = value
        """As it stands in the configuration."""
        self._node = _compile(value, (), (*VARIABLES, *names))
        self.is_constant = isinstance(self._node, _Constant)
        """It is the same for all events, but for its secrets."""
        self.has_secrets = bool(_references(value))
        """It refers to secrets."""

    def render(
        self, event: EnvEvent, extra: Mapping[str, Any] | None = None, *, at_ms: int, resolve: Resolve | None = None
    ) -> Any:
        """The value for this event, accepted at `at_ms`; containers are new, but for those taken from the event itself.

        `resolve` gives the text that a reference to a secret (`${env:NAME}`) stands for; without it they stay.

        Raises:
            ExpressionError: a string cannot be filled in, for a missing field, say.
        """
        return self._node.render(_Seen(event, at_ms, extra), resolve)


class _Seen(NamedTuple):
    """What a template is filled in from."""

    event: EnvEvent
    at_ms: int
    extra: Mapping[str, Any] | None


class _Node(Protocol):
    def render(self, seen: _Seen, resolve: Resolve | None) -> Any: ...


class _Constant:
    """Nothing to fill in but secrets."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def render(self, seen: _Seen, resolve: Resolve | None) -> Any:
        return _copied(self._value, resolve)


class _Object:
    def __init__(self, fields: Mapping[str, _Node]) -> None:
        self._fields = fields

    def render(self, seen: _Seen, resolve: Resolve | None) -> Any:
        return {key: node.render(seen, resolve) for key, node in self._fields.items()}


class _List:
    def __init__(self, items: Sequence[_Node]) -> None:
        self._items = items

    def render(self, seen: _Seen, resolve: Resolve | None) -> Any:
        return [node.render(seen, resolve) for node in self._items]


class _Value:
    """A string that is nothing but one `{{ … }}`."""

    def __init__(self, text: str, region: Region, variables: Sequence[str]) -> None:
        _refuse_secret(text)
        self._held = check(text, region.tokens, variables)
        self._source = source = text[2:-2].removeprefix("-").removeprefix("+").removesuffix("-").strip()
        tokens = expression_tokens(source)
        # A float without a fraction comes back as an integer, a missing field as null: both are asked about inside.
        kept = "{% if r is defined %}{{ [r, r is float]|__keep }}{% endif %}"
        self._compiled = around(source, tokens, kept, variables)

    def render(self, seen: _Seen, resolve: Resolve | None) -> Any:
        try:
            _, kept = ENGINE.run(self._compiled, seen.event, seen.extra, at_ms=seen.at_ms)
        except ExpressionError as error:
            raise ExpressionError(f"{{{{ {self._source} }}}}: {error}") from None
        if kept is None:
            raise ExpressionError(f"{{{{ {self._source} }}}}: the value is undefined; `|default(…)` gives it another")
        value, is_float = kept
        return float(value) if is_float else plain(value)


class _Text:
    """A string with `{{ … }}` in it."""

    def __init__(self, source: str, variables: Sequence[str]) -> None:
        self._source = source
        self._references: list[str] = []
        regions = regions_of(source)
        text, at = "", 0
        captures = 0
        for region in regions:
            _refuse_secret(source[region.start : region.end])
            # Tokens are counted from the text's beginning, and what is put in stands after that of the region.
            marked = self._marked(source[at : region.start])
            if captures and marked != source[at : region.start]:
                raise ExpressionError("a secret cannot stand between {% set %} and {% endset %}; write it beside")
            text += marked
            text += guarded(source[: region.end], region.tokens)[region.start :]
            at = region.end
            if region.statement:
                check_statement(source, region.tokens)
                captures += _capture(region.tokens)
        text += self._marked(source[at:])
        tokens: list[Token] = []
        for region in regions:
            # Its last name is not called by a bracket with which the next one begins.
            tokens += (*region.tokens[1 if region.statement else 0 :], Token("operator", "", region.end))
        self._held = check(source, tokens, variables)
        self._compiled = ENGINE.compile(text)
        ENGINE.try_out(self._compiled, variables)

    def _marked(self, text: str) -> str:
        def mark(found: re.Match[str]) -> str:
            self._references.append(found[0])
            return f"{_MARK}{len(self._references) - 1}\x00"

        return _REFERENCE.sub(mark, text)

    def render(self, seen: _Seen, resolve: Resolve | None) -> Any:
        try:
            text, _ = ENGINE.run(self._compiled, seen.event, seen.extra, at_ms=seen.at_ms)
        except ExpressionError as error:
            raise ExpressionError(f"{self._source}: {error}") from None
        for number, reference in enumerate(self._references):
            text = text.replace(f"{_MARK}{number}\x00", resolve(reference) if resolve else reference)
        return text


def _compile(value: Any, path: Path, variables: Sequence[str]) -> _Node:
    nodes: list[_Node]
    if isinstance(value, str):
        if "{{" not in value and "{%" not in value:
            return _Constant(value)
        try:
            return _filled_in(value, tuple(variables))
        except ExpressionError as error:
            raise ExpressionError(str(error), path) from None
    if isinstance(value, Mapping):
        for key in value:
            if "{{" in key or "{%" in key:
                raise ExpressionError("a key is no template; only values are filled in", (*path, key))
        nodes = [_compile(inner, (*path, key), variables) for key, inner in value.items()]
        constant = all(isinstance(node, _Constant) for node in nodes)
        return _Constant(value) if constant else _Object(dict(zip(value, nodes, strict=True)))
    if isinstance(value, list | tuple):
        nodes = [_compile(inner, (*path, position), variables) for position, inner in enumerate(value)]
        return _Constant(value) if all(isinstance(node, _Constant) for node in nodes) else _List(nodes)
    return _Constant(value)


@lru_cache(4096)  # thousands of rules say the same
def _filled_in(text: str, variables: tuple[str, ...]) -> _Node:
    regions = regions_of(text)
    alone = len(regions) == 1 and (regions[0].start, regions[0].end) == (0, len(text))
    if alone and not regions[0].statement and text.endswith("}}"):
        return _Value(text, regions[0], variables)
    return _Text(text, variables)


def _capture(tokens: Sequence[Token]) -> int:
    """1 for what takes the text that follows as a value, -1 for its end, else 0."""
    words = [token.text for token in tokens]
    return (words[:1] == ["set"] and "=" not in words) - (words == ["endset"])


def _refuse_secret(code: str) -> None:
    if _REFERENCE.search(code):
        raise ExpressionError("a secret cannot be used inside of {{ }}; write it beside")


def _copied(value: Any, resolve: Resolve | None) -> Any:
    if isinstance(value, str):
        return value if resolve is None else _REFERENCE.sub(lambda found: resolve(found[0]), value)
    if isinstance(value, Mapping):
        return {key: _copied(inner, resolve) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(inner, resolve) for inner in value]
    return value


def _references(value: Any) -> list[str]:
    if isinstance(value, str):
        return _REFERENCE.findall(value)
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [reference for item in inner for reference in _references(item)]
