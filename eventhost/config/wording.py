"""What values and types are called in a message to the user, and which word a misspelt one was meant to be."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel

MISSING: Final[Any] = object()
"""Stands for a value that is not there, where `None` would mean JSON's `null`."""


def kind(value: Any) -> str:
    """What `value` is, without saying it: it may be a secret."""
    if value is MISSING:
        return "nothing"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string" if value else "an empty string"
    return "an object" if isinstance(value, Mapping) else "a list" if isinstance(value, Sequence) else "something else"


def describe(annotation: Any) -> str:
    """What a JSON value must be to fit a type: `list[str]` is "a list of strings"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return describe(arguments[0])
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(describe(inner) for inner in arguments if inner is not NoneType))
    if origin is Literal:
        return one_of(arguments)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return one_of(member.value for member in annotation)
    if annotation in _NAMES:
        return _NAMES[annotation][0]
    container = origin or annotation
    if not isinstance(container, type):
        return "another value"
    if issubclass(container, Mapping | BaseModel):
        inner = arguments[1] if len(arguments) == 2 else Any
        return "an object" if inner is Any else f"an object of {_plural(inner)}"
    if issubclass(container, Sequence | set | frozenset):
        inner = arguments[0] if arguments else Any
        return "a list" if inner is Any else f"a list of {_plural(inner)}"
    return "another value"


def choices(annotation: Any) -> list[str]:
    """The strings that a type leaves to choose from, where it is an enumeration."""
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return [str(member.value) for member in annotation]
    if get_origin(annotation) is Literal:
        return [choice for choice in get_args(annotation) if isinstance(choice, str)]
    return [choice for inner in get_args(annotation) for choice in choices(inner)]


def one_of(values: Iterable[Any]) -> str:
    """The choices, as they are written in JSON."""
    written = [json.dumps(value) for value in values]
    return written[0] if len(written) == 1 else f"one of {', '.join(written)}"


def nearest(word: str, candidates: Iterable[str], cutoff: float = 0.6) -> str:
    """The candidate that `word` was probably meant to be, or an empty string; upper case and `_` do not count."""
    by_plain = {_plain(candidate): candidate for candidate in candidates}
    close = get_close_matches(_plain(word), by_plain, 1, cutoff)
    return by_plain[close[0]] if close else ""


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """A mend for a misspelt word, or an empty string."""
    meant = nearest(word, candidates)
    return f'did you mean "{meant}"?' if meant else ""


def _plain(word: str) -> str:
    return word.casefold().replace("_", "").replace("-", "")


def _plural(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if annotation in _NAMES:
        return _NAMES[annotation][1]
    container = get_origin(annotation) or annotation
    if isinstance(container, type) and issubclass(container, Mapping | BaseModel):
        return "objects"
    return "lists" if isinstance(container, type) and issubclass(container, Sequence) else "values"


_NAMES: dict[Any, tuple[str, str]] = {
    str: ("a string", "strings"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "booleans"),
    NoneType: ("null", "nulls"),
}
