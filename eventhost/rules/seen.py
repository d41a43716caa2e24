"""What an expression saw of an event: the fields that it names, their values, and the field that was probably meant."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from eventhost.config.wording import nearest
from eventhost.expression import ExpressionError
from eventhost.expression.source import Token, expression_tokens, regions_of
from eventhost.pattern import MISSING

Path = tuple[str | int, ...]

_ROOTS = ("payload", "metadata", "type", "id", "timestamp")


class Seen(NamedTuple):
    """A field that an expression or a pattern names; `value` is `MISSING` where the event has none."""

    path: Path
    value: Any
    meant: Path = ()
    """The nearest field of the event, if this one is not there and one is near."""

    def __str__(self) -> str:
        if self.value is not MISSING:
            return f"{spelled(self.path)} is {short(self.value)}"
        hint = f"; did you mean {spelled(self.meant)}?" if self.meant else ""
        return f"{spelled(self.path)} is not there{hint}"


def seen(path: Path, event: dict[str, Any]) -> Seen:
    """What an event has at `path`; of an array, its elements' fields are asked."""
    value: Any = event
    for depth, step in enumerate(path):
        in_list = isinstance(value, list) and isinstance(step, int) and -len(value) <= step < len(value)
        if in_list or (isinstance(value, dict) and step in value):
            value = value[step]
        else:
            near = nearest(step, map(str, value)) if isinstance(value, dict) and isinstance(step, str) else ""
            return Seen(path, MISSING, (*path[:depth], near, *path[depth + 1 :]) if near else ())
    return Seen(path, value)


def seen_by_condition(source: str, event: dict[str, Any]) -> list[Seen]:
    """The fields that a condition names, in its order."""
    try:
        return _seen_by(expression_tokens(source), event)
    except ExpressionError:
        return []


def seen_by_templates(value: Any, event: dict[str, Any]) -> list[Seen]:
    """The fields that the templates in a JSON value name."""
    if isinstance(value, str):
        found = [one for region in regions_of(value) for one in _seen_by(region.tokens, event)]
    elif isinstance(value, dict | list):
        items = value.values() if isinstance(value, dict) else value
        found = [one for item in items for one in seen_by_templates(item, event)]
    else:
        return []
    return list({one.path: one for one in found}.values())


def spelled(path: Path) -> str:
    """A path as an expression names it: `payload.temp[0]`, `payload['room temperature']`."""
    text = ""
    for step in path:
        if isinstance(step, str) and step.isidentifier():
            text += f".{step}" if text else step
        else:
            text += f"[{step!r}]"
    return text


def short(value: Any, limit: int = 80) -> str:
    """A value as JSON, at most so long."""
    # Not the whole of it: a payload may be a megabyte.
    text = _json(value, limit)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _json(value: Any, limit: int) -> str:
    if isinstance(value, str):
        return json.dumps(value[: limit + 1], ensure_ascii=False)
    if isinstance(value, list):
        return f"[{', '.join(_json(item, limit) for item in value[: limit // 2])}]"
    if isinstance(value, dict):
        items = list(value.items())[: limit // 4]
        return f"{{{', '.join(f'{_json(key, limit)}: {_json(item, limit)}' for key, item in items)}}}"
    return json.dumps(value)


def _seen_by(tokens: Sequence[Token], event: dict[str, Any]) -> list[Seen]:
    return list({path: seen(path, event) for path in _paths(tokens)}.values())


def _paths(tokens: Sequence[Token]) -> Iterator[Path]:
    """The paths into the event that stand in an expression; one ends where it goes on with what only running tells."""
    for position, token in enumerate(tokens):
        before = tokens[position - 1].text if position else ""
        if token.kind != "name" or token.text not in _ROOTS or before in (".", "|", "is"):
            continue
        path: list[str | int] = [token.text]
        at = position + 1
        while at + 1 < len(tokens):
            if tokens[at].text == "." and tokens[at + 1].kind == "name":
                if at + 2 < len(tokens) and tokens[at + 2].text == "(":
                    break  # a method
                path.append(tokens[at + 1].text)
                at += 2
            elif tokens[at].text == "[" and tokens[at + 2 : at + 3] and tokens[at + 2].text == "]":
                if tokens[at + 1].kind not in ("string", "number"):
                    break
                key = ast.literal_eval(tokens[at + 1].text)
                if not isinstance(key, str | int):
                    break
                path.append(key)
                at += 3
            else:
                break
        yield tuple(path)
