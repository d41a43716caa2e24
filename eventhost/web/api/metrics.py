"""Metrics for Prometheus."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import anyio
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import Response

from eventhost.access import Access
from eventhost.web.endpoint import get
from eventhost.web.health.collector import HostCollector
from eventhost.web.health.survey import survey
from eventhost.web.health.traffic import Traffic

if TYPE_CHECKING:
    from eventhost.environment import ServerEnvironment


class Metrics:
    """What a monitoring system asks for every few seconds."""

    def __init__(self, environment: ServerEnvironment, traffic: Traffic) -> None:
        self._environment, self._traffic = environment, traffic
        self._started = time.monotonic()
        self._process = ProcessCollector(registry=None)

    @get("/metrics", Access.READ, answers={"text/plain": str, "application/openmetrics-text": str})
    async def metrics(self, request: Request) -> Response:
        """Counters, gauges and histograms, in the text format of Prometheus, or as OpenMetrics for who accepts it."""
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
        registry = CollectorRegistry()
        registry.register(self._process)
        found = await survey(self._environment)
        uptime_s = time.monotonic() - self._started
        registry.register(HostCollector(found, self._environment.bus.latency, self._traffic.statistics(), uptime_s))
        # A thousand rules make some ten thousand lines, which would keep all others waiting for their turn.
        text = await anyio.to_thread.run_sync(encode, registry)
        return Response(text, headers={"Content-Type": media_type})
