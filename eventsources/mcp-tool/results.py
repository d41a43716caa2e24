"""What a tool answered, as a list of items; pure.

    structured content, else text (JSON, if it is) ──► the items ──► what each is known by

An answer that is not what was expected is an error, and never an empty list: who took it for one would tell that all
was deleted.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final, NamedTuple

from options import Pages, Watched

from eventhost.kit.selection import Item, Items, Misshapen, at, canonical, is_there, shown
from eventhost.kit.upstream import Unavailable

_SHOWN: Final = 500


class Answer(NamedTuple):
    """The result of a call, as MCP has it; `content` is JSON."""

    structured: Any = None
    content: Sequence[Mapping[str, Any]] = ()
    is_error: bool = False

    @property
    def text(self) -> str:
        """What it says in words, to be shown."""
        said = " ".join(str(part["text"]).strip() for part in self.content if part.get("type") == "text")
        said = said or (json.dumps(self.structured) if self.structured is not None else "nothing")
        return said if len(said) <= _SHOWN else f"{said[:_SHOWN]}…"

    @property
    def value(self) -> Any:
        """What it holds: the structured content; else its one part, or the list of its parts."""
        if self.structured is not None:
            return self.structured
        parts = [_parsed(part["text"]) if part.get("type") == "text" else dict(part) for part in self.content]
        return parts[0] if len(parts) == 1 else parts


Call = Callable[[Mapping[str, Any]], Awaitable[Answer]]
"""Calls the tool with these arguments."""


async def read(watched: Watched, call: Call) -> Items:
    """Call the tool, once for each page, and return the items it told.

    Raises:
        Misshapen: an answer is not what the configuration says.
        Unavailable: the tool failed.
    """
    if watched.pages is None:
        return _items(await _answered(watched, call, watched.arguments), watched)
    return await _all_pages(watched, watched.pages, call)


async def _all_pages(watched: Watched, pages: Pages, call: Call) -> Items:
    # An item that moved to the next page meanwhile is there twice; what was read last is what it is.
    items: dict[str, Item] = {}
    cursor: Any = pages.start
    for _ in range(pages.most):
        arguments = dict(watched.arguments) if cursor is None else {**watched.arguments, pages.argument: cursor}
        answer = await _answered(watched, call, arguments)
        form, page = _items(answer, watched)
        if form != "list":
            raise Misshapen(f"a page is no list; set `items` to where it is; {shown(answer.value)}")
        items |= {canonical(key): (key, item) for key, item in page}
        before, cursor = cursor, _next(answer.value, page, pages, cursor)
        if cursor is None:
            return Items("list", list(items.values()))
        if cursor == before:
            raise Misshapen(f"the answer to {pages.argument} {cursor!r} names itself as the next page, at {pages.next}")
    raise Misshapen(
        f"there are more than {pages.most} pages, and what is not seen cannot be compared; set `pages.most` higher"
    )


def _next(value: Any, page: Sequence[Item], pages: Pages, cursor: Any) -> Any:
    """What asks for the page after this one, or None."""
    if pages.more:
        more = at(value, pages.more)
        if not isinstance(more, bool):
            raise Misshapen(f"there is no true or false at {pages.more}, where `pages.more` looks; {shown(value)}")
        if not more:
            return None
    if pages.start is not None:
        return cursor + 1 if page or pages.more else None
    found = at(value, pages.next)
    if not is_there(found) or found is None or found == "":
        if pages.more:
            raise Misshapen(f"there is more, and no cursor at {pages.next}, where `pages.next` looks; {shown(value)}")
        return None
    if not isinstance(found, str | int | float):
        raise Misshapen(f"what is at {pages.next}, where `pages.next` looks, is no cursor; {shown(found)}")
    return found


async def _answered(watched: Watched, call: Call, arguments: Mapping[str, Any]) -> Answer:
    answer = await call(arguments)
    if answer.is_error:
        raise Unavailable(f"{watched.tool} failed: {answer.text}")
    return answer


def _items(answer: Answer, watched: Watched) -> Items:
    value, selection = answer.value, watched.selection
    if watched.empty:
        found = value if isinstance(value, str) else at(value, selection.items)
        if is_there(found) and not isinstance(found, list):
            text = found.strip() if isinstance(found, str) else canonical(found)
            if any(fnmatchcase(text, glob) for glob in watched.empty):
                return Items("list", [])
    if not selection.items:
        if isinstance(value, dict) and value.keys() == {"result"} and answer.structured is not None:
            # So do servers on the Python SDK wrap what is no object.
            value = value["result"]
        elif selection.key and isinstance(value, dict) and all(is_there(at(value, path)) for path in selection.key):
            # Older ones tell each item of a list as a text of its own, and so a list of one as that one.
            value = [value]
    return selection.read(value)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
