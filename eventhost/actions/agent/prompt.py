"""`Prompt`: what an event says never becomes part of the instructions; there, `{{ … }}` stays and names a value.

The instructions are the configured text, of which `{% if %}` may choose parts. The values are sent beside it, as data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from eventhost.actions.action import describe
from eventhost.event import EnvEvent
from eventhost.expression import ExpressionError, Template
from eventhost.expression.source import regions_of
from eventhost.journal import Entry

_CHOOSING: Final = frozenset(("if", "elif", "else", "endif"))


class Filled(NamedTuple):
    """The instructions for an event, and what each `{{ … }}` in them, as it stands there, is."""

    text: str
    values: dict[str, Any]


class Prompt:
    """A text with `{{ … }}` in it. `names` are further variables, to be given to `fill`.

    Raises:
        ExpressionError: it is no template, or says by itself nothing to do.
    """

    __slots__ = ("_text", "_values", "source")

    def __init__(self, source: str, names: Sequence[str] = ()) -> None:
        self.source = source
        Template(source, names)  # says what is wrong, in its place
        self._values: dict[str, Template] = {}
        text, words, at = "", "", 0
        for region in regions_of(source):
            outside = source[at : region.start]
            code = source[region.start : region.end]
            if region.statement:
                if not region.tokens or region.tokens[0].text not in _CHOOSING:
                    raise ExpressionError(
                        f"column {region.start + 1}: only {{% if %}} can stand in a prompt; "
                        "write what it makes of the event as one expression, such as {{ payload.names | join(', ') }}"
                    )
            else:
                code = code[2:-2].removeprefix("-").removeprefix("+").removesuffix("-").strip()
                name = f"{{{{ {code} }}}}"
                self._values[name] = Template(name, names)
                code = f"{{{{ {json.dumps(name, ensure_ascii=False)} }}}}"  # a string that says so
            text += outside + code
            words += outside
            at = region.end
        if not any(char.isalnum() for char in words + source[at:]):
            raise ExpressionError(
                "what comes from an event is data, and tells the agent nothing to do; "
                'write what it is to do with it, such as "Answer the question {{ payload.query }}"'
            )
        self._text = Template(text + source[at:], names)

    def fill(self, event: EnvEvent, extra: Mapping[str, Any], at_ms: int) -> Filled:
        """What is sent for this event.

        Raises:
            ExpressionError: it cannot be filled in, for a missing field, say.
        """
        text = str(self._text.render(event, extra, at_ms=at_ms))
        return Filled(text, self.values(text, event, extra, at_ms))

    def values(self, text: str, event: EnvEvent, extra: Mapping[str, Any], at_ms: int) -> dict[str, Any]:
        """What each `{{ … }}` that stands in `text` is for this event.

        Raises:
            ExpressionError: one cannot be filled in.
        """
        return {name: value.render(event, extra, at_ms=at_ms) for name, value in self._values.items() if name in text}

    def describe(self, entry: Entry, extra: Mapping[str, Any]) -> Filled:
        """The same as `fill`, where `extra` may lack what is not known yet: that stays as it stands.

        Raises:
            ExpressionError: it cannot be filled in.
        """
        text = describe(self._text, entry, extra)
        if text == self._text.value:
            text = self.source
        values = {name: describe(value, entry, extra) for name, value in self._values.items() if name in text}
        return Filled(text, values)
