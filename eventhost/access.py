"""Who asks, and what that one may do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Access(StrEnum):
    """What a route asks of its caller; each but `OPEN` is also a scope that a key can have."""

    OPEN = "open"
    """Nothing at all: whether the host lives is no secret."""
    READ = "read"
    """See events, sources, rules and statistics."""
    PUBLISH = "publish"
    """Put events in, call tools, send messages."""
    ADMIN = "admin"
    """Start and stop, change, discard; whatever the others may."""


@dataclass(frozen=True, slots=True)
class Caller:
    """`name` is a key's name, or says by which way somebody came who needs none; `how` is that way, for the audit."""

    name: str
    how: str
    scopes: frozenset[Access]

    def may(self, access: Access) -> bool:
        """Whether a route that asks for `access` is open to this caller."""
        return access is Access.OPEN or access in self.scopes or Access.ADMIN in self.scopes


EVERYTHING: Final = frozenset({Access.READ, Access.PUBLISH, Access.ADMIN})

NOBODY: Final = Caller("", "anonymous", frozenset())
OWNER: Final = Caller("", "local", EVERYTHING)
"""Whoever uses the control socket, or a host that only this machine can reach and that asks for no keys."""
