"""Who sent a request: what the guard found out about it."""

from __future__ import annotations

from starlette.types import Scope

from eventhost.access import OWNER, Caller


def caller_of(scope: Scope) -> Caller:
    """Who sent this request: what the guard found out; without a guard, the owner."""
    caller = scope.get("state", {}).get("caller", OWNER)
    assert isinstance(caller, Caller)
    return caller
