"""Which events a client asks for: `?type=` and `?match=`, as a rule's `on` and `match`."""

from __future__ import annotations

import msgspec
from starlette.exceptions import HTTPException

from eventhost.pattern import PatternError
from eventhost.wanted import Wanted

_MAX_MATCH = 16_384


def wanted(types: str, match: str | None) -> Wanted:
    """Globs separated by commas, and an event pattern as JSON; without a glob, those that `*` means.

    Raises:
        HTTPException: 400, with the place in the pattern that is wrong.
    """
    if match is not None and len(match) > _MAX_MATCH:
        raise HTTPException(400, f"match: {len(match)} characters, at most {_MAX_MATCH} are read")
    try:
        pattern = None if match is None else msgspec.json.decode(match)
        return Wanted.parse(types if types.strip(", ") else "*", pattern)
    except PatternError as error:
        raise HTTPException(400, str(error)) from None
    except (msgspec.DecodeError, RecursionError) as error:
        message = f'match: not JSON: {error}; write an event pattern such as {{"payload": {{"room": ["hall"]}}}}'
        raise HTTPException(400, message) from None
