"""One bounded Jinja engine for all expressions: an evaluation ends soon, changes nothing, and fails alone.

`fuel` bounds the instructions, the budget what they may read and write between them. https://docs.rs/minijinja
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache, wraps
from inspect import Signature, signature
from itertools import count
from threading import Lock
from typing import Any, Final
from weakref import WeakValueDictionary, finalize

from minijinja import Environment, TemplateError

from eventhost.event import EnvEvent
from eventhost.expression import compare, data, filters, regex, times
from eventhost.expression.calls import Kind, Misplaced, calls_in, check_call
from eventhost.expression.source import ExpressionError, Token, names_in
from eventhost.expression.views import MISSING, Budget, ListView, ObjectView, to_text, view

VARIABLES: Final = ("id", "type", "timestamp", "metadata", "payload")
"""What an expression sees of an event."""

FUEL: Final = 50_000
"""How many instructions one evaluation may take."""

_PLACE: Final = re.compile(r" \(in [^()]*:\d+\)$")
_OPERANDS: Final = re.compile(r"tried to use \S+ operator on unsupported types (\w+) and (\w+)")
_KINDS: Final = {
    "none": "nothing",
    "bool": "a boolean",
    "map": "an object",
    "sequence": "a list",
    "iterator": "an object",
}
# What an evaluation of a sample shows to be wrong whatever the event is.
_ALWAYS_WRONG: Final = ("UnknownFilter", "UnknownTest", "UnknownFunction", "TooManyArguments", "MissingArgument")
# These make strings whose size the event decides; the filters of the same name are bounded.
_FILTERS_INSTEAD: Final = ("format", "join", "replace")
_STATEMENTS: Final = frozenset(
    ("if", "elif", "else", "endif", "for", "endfor", "set", "endset", "with", "endwith", "break", "continue", "raw")
)


class Compiled:
    """A template in the engine, shared by all who have the same; forgotten there when nobody holds it any more.

    Its name is a number: the engine would escape what a template whose name ends in `.html` prints.
    """

    __slots__ = ("__weakref__", "name", "source")

    def __init__(self, name: str, source: str) -> None:
        self.name, self.source = name, source


class Engine:
    """The Jinja engine, and what of it is ours.

    Evaluations take turns, from whatever thread: the engine's own lock would wait for Python's while it is held.
    """

    def __init__(self) -> None:
        self._budget = budget = Budget()
        self._kept: list[Any] = []
        self._at_ms = 0
        self._ours: dict[Kind, dict[str, Callable[..., Any]]] = {
            "filter": {
                **filters.filters(budget),
                **regex.filters(budget),
                **times.filters(budget),
                **data.filters(budget),
                **compare.filters(),
            },
            "test": {**filters.tests(budget), **regex.tests(budget)},
            "function": {**filters.functions(budget), **times.functions(lambda: self._at_ms)},
        }
        self.signatures: dict[tuple[Kind, str], Signature] = {
            (kind, name): signature(function) for kind, ours in self._ours.items() for name, function in ours.items()
        }
        """Of the filters, tests and functions that are not the engine's own."""
        self._turn = Lock()
        self._names = count()
        self._loaded: set[str] = set()
        self._forgotten: deque[str] = deque()
        self._by_source: WeakValueDictionary[str, Compiled] = WeakValueDictionary()
        self._jinja = self._start()

    def _start(self) -> Environment:
        budget = self._budget

        def counted(function: Callable[..., Any]) -> Callable[..., Any]:
            # `map` and `select` call one for each character of a text, which is one instruction to the engine.
            @wraps(function)
            def call(*arguments: Any, **named: Any) -> Any:
                budget.read()
                return function(*arguments, **named)

            return call

        ours = {kind: {name: counted(each) for name, each in made.items()} for kind, made in self._ours.items()}
        jinja = Environment(
            undefined_behavior="strict",
            fuel=FUEL,
            keep_trailing_newline=True,
            finalizer=self._print,
            filters={**ours["filter"], "__keep": self._keep},
            tests=ours["test"],
        )
        for name in filters.REMOVED_FILTERS:
            jinja.remove_filter(name)
        for name in filters.REMOVED_FUNCTIONS:
            jinja.remove_global(name)
        for name, function in ours["function"].items():
            jinja.add_global(name, function)
        jinja.add_global("__missing", MISSING)
        return jinja

    def compile(self, source: str) -> Compiled:
        """Take a template in.

        Raises:
            ExpressionError: it is not Jinja.
        """
        with self._turn:
            while self._forgotten:
                name = self._forgotten.popleft()
                self._loaded.discard(name)
                self._jinja.remove_template(name)
            compiled = self._by_source.get(source)
            if compiled is None:
                compiled = Compiled(str(next(self._names)), source)
                self._load(compiled)
                self._by_source[source] = compiled
                finalize(compiled, self._forgotten.append, compiled.name).atexit = False
        return compiled

    def _load(self, compiled: Compiled) -> None:
        try:
            self._jinja.add_template(compiled.name, compiled.source)
        except TemplateError as error:
            raise ExpressionError(_explain(error)) from None
        self._loaded.add(compiled.name)

    def run(
        self, compiled: Compiled, event: EnvEvent, extra: Mapping[str, Any] | None = None, *, at_ms: int
    ) -> tuple[str, Any]:
        """The text that a template gives, and the last `[value, is it a float]` that it kept, or None.

        The event was accepted at `at_ms`, in milliseconds since 1970.

        Raises:
            ExpressionError: it failed, or was stopped by one of its bounds.
        """
        with self._turn:
            if compiled.name not in self._loaded:
                self._load(compiled)
            budget, kept = self._budget, self._kept
            budget.refill()
            kept.clear()
            self._at_ms = at_ms
            variables = {
                "id": event.id,
                "type": event.type,
                "timestamp": event.timestamp,
                "metadata": ObjectView(event.metadata, budget),
                "payload": ObjectView(event.payload, budget),
            }
            if extra:
                variables.update((name, view(value, budget)) for name, value in extra.items())
            try:
                text = self._jinja.render_template(compiled.name, **variables)
            except ExpressionError:
                raise
            except Exception as error:
                raise (budget.spent() if budget.reads < 0 else ExpressionError(_explain(error))) from None
            except BaseException as error:
                if type(error).__name__ != "PanicException":
                    raise
                # A panic leaves the engine's lock unusable for ever.
                self._jinja = self._start()
                self._loaded.clear()
                raise ExpressionError(f"the expression engine gave up: {error}") from None
            if budget.reads < 0:
                raise budget.spent()
            return text, kept[-1] if kept else None

    def unknown_names(self, text: str, known: Iterable[str], *, expression: bool) -> set[str]:
        """The names that a template, or an expression, uses but neither sets nor finds among `known` and the functions.

        Raises:
            ExpressionError: it is not Jinja.
        """
        with self._turn:
            try:
                found = self._jinja.undeclared_variables_in_str(f"{{{{ ({text}) }}}}" if expression else text)
            except TemplateError as error:
                refusal = error
            else:
                return found - set(known) - {name for name in self._jinja.globals if not name.startswith("__")}
            if expression:
                # What is no expression within brackets is none without: nothing is evaluated here.
                try:
                    self._jinja.eval_expr(text)
                except TemplateError as error:
                    refusal = error
            place = f"column {_column(text, refusal.range[0])}: " if refusal.range else ""
            raise ExpressionError(place + _explain(refusal))

    def probe(self, expression: str) -> str:
        """The kind of error that an expression without variables gives, or an empty string."""
        with self._turn:
            self._budget.refill()
            try:
                self._jinja.eval_expr(expression)
            except TemplateError as error:
                return error.kind
            except Exception:
                return "CallbackError"
            return ""

    def literal(self, token: Token) -> str:
        """What a string in an expression says."""
        with self._turn:
            return str(self._jinja.eval_expr(token.text))

    def try_out(self, compiled: Compiled, variables: Iterable[str]) -> None:
        """Evaluate once, on an empty event, for what goes wrong whatever the event is.

        Raises:
            ExpressionError: such a thing was found.
        """
        with self._turn:
            self._budget.refill()
            self._kept.clear()
            self._at_ms = 0
            sample: dict[str, Any] = {name: ObjectView({}, self._budget) for name in variables}
            sample |= {"id": "", "type": "", "timestamp": 0}
            try:
                self._jinja.render_template(compiled.name, **sample)
            except TemplateError as error:
                if error.kind in _ALWAYS_WRONG:
                    raise ExpressionError(_explain(error)) from None
            except Exception:
                return  # a callback's complaint about the sample's values

    def _keep(self, value: Any) -> str:
        self._kept.append(value)
        return ""

    def _print(self, value: Any) -> Any:
        if isinstance(value, str):
            self._budget.write(len(value))
        elif isinstance(value, ObjectView | ListView | dict | list | tuple):
            return to_text(value, self._budget)
        return NotImplemented  # the engine writes what it had, and refuses what is undefined


ENGINE: Final = Engine()


def check(
    text: str, tokens: Sequence[Token], variables: Sequence[str], *, expression: bool = False
) -> tuple[object, ...]:
    """Refuse a template, or an expression, for its syntax and for what it refers to and will never find.

    What it gives was made ready for its evaluations, and is to be held as long as they may come.

    Raises:
        ExpressionError: saying what is unknown, where, and what was perhaps meant.
    """
    unknown = ENGINE.unknown_names(text, variables, expression=expression)
    names = names_in(tokens)
    for token in names.methods:
        if token.text in _FILTERS_INSTEAD:
            raise _at(text, token, f"the method {token.text} is refused; use the filter: value|{token.text}(…)")
        if _unknown("''.{}()", token.text) == "UnknownMethod":
            hint = "; an object's fields are read by name, value|items gives its pairs" * (token.text in dir(dict))
            raise _at(text, token, f"unknown method {token.text}{hint}")
    calls = tuple(calls_in(tokens))
    for call in calls:
        if call.kind != "function" and _is_unknown(call.kind, call.name):
            raise _at(text, call.token, f"unknown {call.kind} {call.name}")
    for token in names.others:
        if token.text in unknown:
            meant = get_close_matches(token.text, variables, 1)
            known = f"did you mean {meant[0]}?" if meant else f"known here: {', '.join(variables)}"
            raise _at(text, token, f"unknown name {token.text}; {known}")
    if unknown:
        raise ExpressionError(f"unknown name {min(unknown)}; known here: {', '.join(variables)}")
    held: list[object] = []
    for call in calls:
        found = ENGINE.signatures.get((call.kind, call.name))
        if found is not None:
            try:
                held += check_call(call, found, ENGINE.literal)
            except Misplaced as error:
                raise _at(text, error.token, str(error)) from None
    return tuple(held)


def check_statement(text: str, tokens: Sequence[Token]) -> None:
    """Refuse a statement that leads to other templates, or defines what no single value has a use for.

    Raises:
        ExpressionError: naming it.
    """
    if tokens and tokens[0].text not in _STATEMENTS:
        raise _at(text, tokens[0], f"the statement {tokens[0].text} is not available here")


def _is_unknown(kind: Kind, name: str) -> bool:
    if name.startswith("__") or not name.isidentifier():
        return True
    form, error = ("1|{}", "UnknownFilter") if kind == "filter" else ("1 is {}", "UnknownTest")
    return _unknown(form, name) == error


@cache
def _unknown(form: str, name: str) -> str:
    return ENGINE.probe(form.format(name))


def _at(text: str, token: Token, message: str) -> ExpressionError:
    line = text.count("\n", 0, token.start) + 1
    column = token.start - text.rfind("\n", 0, token.start)
    return ExpressionError(f"{f'line {line}, ' if line > 1 else ''}column {column}: {message}")


def _column(text: str, offset_bytes: int) -> int:
    before = text.encode()[:offset_bytes].decode(errors="ignore")
    return len(before) - before.rfind("\n")


def _explain(error: BaseException) -> str:
    """The engine's message without its own place: positions are told by our tokens, in the text as it was written."""
    if not isinstance(error, TemplateError):
        return f"{type(error).__name__}: {error}"
    if error.kind == "OutOfFuel":
        return f"does too much work: more than {FUEL} instructions"
    if operands := _OPERANDS.search(error.message):
        # The operator may be one that was put in: see `compare`.
        one, other = (_KINDS.get(word, f"a {word}") for word in operands.groups())
        if "undefined" in operands.groups():
            return _PLACE.sub("", error.message).partition("(")[2].rstrip(")") or "a value is undefined"
        return f"cannot calculate with {one} and {other}, nor compare them; `|float` or `|string` makes them alike"
    return _PLACE.sub("", error.message)
