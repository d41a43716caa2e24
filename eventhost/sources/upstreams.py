"""What a source says of that from which it reads: a database, a broker, a URL, each there or away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from eventhost.errors import EventRejected

MOST_UPSTREAMS: Final = 100
"""How many of one source are shown."""

_LONGEST: Final = 1_000


@dataclass(frozen=True, slots=True)
class UpstreamStatus:
    """What a source reads from; `gaps` counts the holes that it told since it was started.

    `state` is `connecting`, `connected`, or `reconnecting`; `last_error` is the last there was.
    """

    name: str
    state: str
    last_error: str | None
    gaps: int

    @property
    def is_away(self) -> bool:
        """Whether it cannot be read."""
        return self.state == "reconnecting"


class _Upstream(msgspec.Struct, rename="camel"):
    name: str
    state: str
    last_error: str | None = None
    gaps: int = 0


class _Said(msgspec.Struct):
    upstreams: list[_Upstream]


def upstreams_of(params: Mapping[str, Any]) -> list[UpstreamStatus]:
    """What the params of `wire.STATUS` say.

    Raises:
        EventRejected: they are not of that form.
    """
    try:
        said = msgspec.convert(params, _Said).upstreams[:MOST_UPSTREAMS]
    except msgspec.ValidationError as error:
        raise EventRejected(f"a status that is none: {error}") from None
    return [
        UpstreamStatus(
            each.name[:_LONGEST], each.state[:_LONGEST], (each.last_error or "")[:_LONGEST] or None, each.gaps
        )
        for each in said
    ]
