"""A value that knows where it was written, so that whoever checks it can say what is wrong with it, and where."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from eventhost.config.jsonc import Outline, Path, parse
from eventhost.config.wording import MISSING, choices, describe, did_you_mean, kind
from eventhost.errors import ConfigError, Problem

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Layer:
    """What one file says; the outline of its text is read only when a place is asked for."""

    file: str
    value: Any = field(repr=False)
    outline: Outline | None = field(default=None, repr=False)


class Tree:
    """A part of a configuration: its value, its path, and the files that it comes from, the last one on top.

    Two trees are equal when their values are the same JSON text, order of keys included, wherever they were written:
    the first key of an action names it. Nobody may change `value`.
    """

    def __init__(
        self, value: Any, file: str = "", text: str = "", *, path: Path = (), layers: Sequence[Layer] = ()
    ) -> None:
        self.value = value
        self.path = tuple(path)
        self.layers = tuple(layers) or (Layer(file, value, Outline(text) if text else None),)

    @classmethod
    def parse(cls, text: str, file: str) -> Tree:
        """The tree of a file's text; `file` is what messages call it.

        Raises:
            ConfigError: the text is not JSON5.
        """
        return cls(parse(text, file), file, text)

    @classmethod
    def layered(cls, *trees: Tree) -> Tree:
        """Whole files, merged: the later ones win, as in `merge`."""
        value = trees[0].value
        for tree in trees[1:]:
            value = merge(value, tree.value)
        return cls(value, layers=[layer for tree in trees for layer in tree.layers])

    def at(self, *path: str | int) -> Tree:
        """The part at `path`; where there is none, its value is `None`."""
        value = _walk(self.value, path)
        return Tree(None if value is MISSING else value, path=(*self.path, *path), layers=self.layers)

    def only(self, *keys: str) -> Tree:
        """This object (or nothing) with only some of its keys."""
        value = {key: self.value[key] for key in keys if self.value and key in self.value}
        return Tree(value, path=self.path, layers=self.layers)

    @property
    def file(self) -> str:
        """The file on top of those which say something here."""
        return self._place(self.path)[0].file

    def problem(
        self, message: str, *, mend: str = "", at: Path | str | int = (), fatal: bool = True, key: bool = False
    ) -> Problem:
        """A problem of this part, or of the one at `at` inside it, located in the file that says it.

        `key` places it at the key instead of the value. A part that is nowhere gets the place of what should hold it.
        """
        path = (*self.path, *([at] if isinstance(at, str | int) else at))
        layer, found = self._place(path)
        line, column = 0, 0
        if layer.outline:
            line, column = layer.outline.locate(found, key=key and found == path) or (0, 0)
        return Problem(layer.file, message, mend=mend, field=dotted(path), line=line, column=column, fatal=fatal)

    def validate(self, model: type[M]) -> M:
        """This value as a `model`, strictly: nothing is converted that is not the same in JSON.

        A field's `examples` become mends; a validator may raise `ValueError(message, mend)`.

        Raises:
            ConfigError: with every problem of the value, each in its place.
        """
        try:
            return model.model_validate_json(self._json, strict=True)
        except ValidationError as error:
            raise ConfigError(self._problems(model, error.errors(include_url=False, include_input=False))) from None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tree):
            return NotImplemented
        # The plain comparison is quick, but to it 1, 1.0 and true are the same.
        return self.value == other.value and self._json == other._json

    def __hash__(self) -> int:
        return hash(self._json)

    def __repr__(self) -> str:
        # Never the value: it may hold a secret, and a repr ends up in logs.
        return f"Tree({self.file!r}, {dotted(self.path)!r})"

    @cached_property
    def _json(self) -> str:
        return json.dumps(self.value)

    def _place(self, path: Path) -> tuple[Layer, Path]:
        """The topmost file that has something to say of `path`, and how far it goes."""
        best, best_path = self.layers[0], tuple[str | int, ...]()
        for layer in reversed(self.layers):
            depth, value = 0, layer.value
            while depth < len(path) and (inner := _walk(value, path[depth : depth + 1])) is not MISSING:
                value, depth = inner, depth + 1
            found = tuple(path[:depth])
            # A list, or a plain value, hides what the files below say of its inside.
            if depth == len(path) or (depth and not isinstance(value, dict)):
                return layer, found
            if depth >= len(best_path):
                best, best_path = layer, found
        return best, best_path

    def _problems(self, model: type[BaseModel], errors: list[ErrorDetails]) -> list[Problem]:
        """Pydantic's errors in the words of the house; those of a union's branches become one."""
        by_path: dict[tuple[str | int, ...], list[tuple[str, str, bool]]] = {}
        located = [(error, self._real_path(error)) for error in errors]
        for error, path in located:
            # What is wrong deeper inside shows which branch of a union was meant: the others have nothing to say.
            inside = any(other[: len(path)] == path and len(other) > len(path) for _, other in located)
            if inside and _is_about_type(error):
                continue
            by_path.setdefault(path, []).append(self._worded(model, error, path))
        return [
            self.problem(_either([message for message, _, _ in said]), mend=said[0][1], at=path, key=said[0][2])
            for path, said in by_path.items()
        ]

    def _real_path(self, error: ErrorDetails) -> tuple[str | int, ...]:
        """Where in the value an error is: pydantic's location without the tags of unions and validators."""
        path, value = list[str | int](), self.value
        for part in error["loc"]:
            inner = _walk(value, (part,))
            if inner is not MISSING:
                path.append(part)
                value = inner
        return (*path, error["loc"][-1]) if error["type"] == "missing" else tuple(path)

    def _worded(
        self, model: type[BaseModel], error: ErrorDetails, path: tuple[str | int, ...]
    ) -> tuple[str, str, bool]:
        """Message, mend, and whether the key is meant rather than its value."""
        code, context = error["type"], error.get("ctx", {})
        annotation, example = _declared(model, error["loc"])
        value = _walk(self.value, path)
        mend = f"write {json.dumps(example)}" if example is not None else ""
        if code == "extra_forbidden":
            given = set(_walk(self.value, path[:-1]))
            known = [name for name in _names(model, error["loc"][:-1]) if name not in given]
            return "unknown key", did_you_mean(str(path[-1]), known) or f"known here: {', '.join(known)}", True
        if code == "missing":
            name = json.dumps(path[-1])
            return "this key is required", f"add {name}: {json.dumps(example)}" if mend else f"add {name}", False
        if code in ("value_error", "assertion_error"):
            arguments = [str(argument) for argument in context["error"].args]
            return (*arguments, mend)[0], (arguments[1] if len(arguments) > 1 else mend), False
        if code in ("literal_error", "enum") and isinstance(value, str):
            return f"expected {describe(annotation)}", did_you_mean(value, choices(annotation)), False
        if code in _BOUNDS:
            wording, name = _BOUNDS[code]
            return wording.format(context[name]), mend, False
        if _is_about_type(error) or code in ("literal_error", "enum"):
            expected = describe(annotation) if annotation is not None else _EXPECTED.get(code, "another value")
            got = "a fraction" if code.startswith("int_") and isinstance(value, float) else kind(value)
            return f"expected {expected}, got {got}", mend, False
        return error["msg"][:1].lower() + error["msg"][1:], mend, False


def merge(below: Any, above: Any) -> Any:
    """`above` laid over `below`: objects key by key and deeply, anything else replaced; `null` takes a key away.

    That is JSON Merge Patch (RFC 7396), but that a `null` which takes nothing away stays.
    """
    if not isinstance(below, Mapping) or not isinstance(above, Mapping):
        return above
    merged = dict(below)
    for key, value in above.items():
        if value is None and key in merged:
            del merged[key]
        else:
            merged[key] = merge(merged[key], value) if key in merged else value
    return merged


def dotted(path: Path) -> str:
    """A path as messages write it: `rules[0].do`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def _walk(value: Any, path: Path) -> Any:
    for part in path:
        if isinstance(value, list):
            there = isinstance(part, int) and 0 <= part < len(value)
        else:
            there = isinstance(value, dict) and part in value
        if not there:
            return MISSING
        value = value[part]
    return value


def _is_about_type(error: ErrorDetails) -> bool:
    return error["type"].endswith(("_type", "_parsing", "_from_float", "none_required"))


def _either(messages: list[str]) -> str:
    """One message out of those for the branches of a union: "expected a string or a list, got a number"."""
    parts = [message.partition(", got ") for message in dict.fromkeys(messages)]
    if len(parts) == 1 or not all(expected.startswith("expected ") for expected, _, _ in parts):
        return messages[0]
    expected = dict.fromkeys(part[0].removeprefix("expected ") for part in parts)
    return f"expected {' or '.join(expected)}{parts[0][1]}{parts[0][2]}"


# What the models say of a place: found by following pydantic's location through their annotations.


def _declared(model: type[BaseModel], path: Path) -> tuple[Any, Any]:
    """The type that is declared where `path` leads, and an example of it; `None` for what is unknown."""
    found: list[tuple[Any, FieldInfo | None]] = [(model, None)]
    for part in path:
        # What leads nowhere is the tag of a union's branch or of a validator.
        found = [step for annotation, _ in found for step in _steps(annotation, part)] or found
    annotation, info = found[0]
    example = info.examples[0] if info is not None and info.examples else None
    return annotation if path else None, example


def _names(model: type[BaseModel], path: Path) -> list[str]:
    found: list[Any] = [model]
    for part in path:
        found = [step for annotation in found for step, _ in _steps(annotation, part)] or found
    models = [inner for annotation in found for inner in _models(annotation)]
    return list(dict.fromkeys(info.alias or name for inner in models for name, info in inner.model_fields.items()))


def _steps(annotation: Any, part: str | int) -> Iterator[tuple[Any, FieldInfo | None]]:
    if isinstance(part, str):
        for model in _models(annotation):
            spelled_both_ways = model.model_config.get("populate_by_name", False)
            for name, info in model.model_fields.items():
                if part == (info.alias or name) or (part == name and spelled_both_ways):
                    yield info.annotation, info
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _steps(arguments[0], part)
    elif isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(part, str):
        yield arguments[1], None
    elif isinstance(origin, type) and issubclass(origin, Sequence | set | frozenset) and isinstance(part, int):
        yield arguments[0], None
    elif not isinstance(origin, type) or not issubclass(origin, Mapping | Sequence):
        for argument in arguments:
            if not (isinstance(argument, type) and issubclass(argument, BaseModel)):
                yield from _steps(argument, part)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and get_origin(annotation) is None:
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    if not (isinstance(origin := get_origin(annotation), type) and issubclass(origin, Mapping | Sequence)):
        for argument in get_args(annotation):
            yield from _models(argument)


_EXPECTED = {
    "string_type": "a string",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "none_required": "null",
}

_BOUNDS = {
    "greater_than": ("must be greater than {}", "gt"),
    "greater_than_equal": ("must be at least {}", "ge"),
    "less_than": ("must be less than {}", "lt"),
    "less_than_equal": ("must be at most {}", "le"),
    "too_short": ("needs at least {} of them", "min_length"),
    "too_long": ("may hold at most {} of them", "max_length"),
    "string_too_short": ("must not be shorter than {} characters", "min_length"),
    "string_too_long": ("must not be longer than {} characters", "max_length"),
    "string_pattern_mismatch": ("must match {}", "pattern"),
}
