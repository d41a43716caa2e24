"""Whether the host lives, and how it fares."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from eventhost import __version__
from eventhost.access import Access
from eventhost.web.answers import now
from eventhost.web.endpoint import get

if TYPE_CHECKING:
    from eventhost.environment import ServerEnvironment


class HealthAnswer(msgspec.Struct, frozen=True):
    """`uptime` is in seconds."""

    status: str
    timestamp: str
    version: str
    uptime: int


class Health:
    """Health, for load balancers and service managers."""

    def __init__(self, environment: ServerEnvironment) -> None:
        self._environment = environment
        self._started = time.monotonic()

    @get("/health", Access.OPEN)
    async def health(self) -> HealthAnswer:
        """Whether the host answers at all."""
        return HealthAnswer("healthy", now(), __version__, int(time.monotonic() - self._started))
