"""`run`: the host as a process. It starts in order, says how it fares, and stops in order, each stage in its time.

    environment ─► HTTP ─► sources ─► READY=1 ─ … ─ SIGTERM ─► sources ─► rules ─► HTTP ─► environment

The first SIGTERM or SIGINT stops it so; the second ends it at once, and the guardian its children. SIGHUP reloads.
"""

from __future__ import annotations

import gc
import os
import signal
from collections import Counter
from pathlib import Path

import anyio
import anyio.abc
import structlog

from eventhost import __version__
from eventhost.cli.logs import configure_logging
from eventhost.cli.notify import ServiceManager
from eventhost.connections import EventSourceStatus
from eventhost.environment import ServerEnvironment
from eventhost.errors import EventhostError, cause_of
from eventhost.web.server import serving

log = structlog.get_logger()

DRAIN_S = 10.0
"""How long rules may take to work off what is queued when the host stops."""

EXIT_S = 15.0
"""How long the rest of the environment may take to stop."""

GC_THRESHOLDS = (100_000, 50, 100)
"""Events are many and hold no cycles: looking for some as often as Python does by default costs more than the rest."""

_SOURCES_MARGIN_S = 5.0
_STATUS_INTERVAL_S = 1.0


def run_host(root: Path, *, log_level: str | None = None) -> None:
    """Run the environment in `root` until a signal stops it.

    Raises:
        ConfigError: its configuration cannot be used.
        EventhostError: another host runs it, something that it needs cannot be had now, or it failed.
    """
    configure_logging(log_level or "info")
    environment = ServerEnvironment.from_path(root, start_sources=False)
    configure_logging(log_level or environment.config.log.level, environment.config.log.format)
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        anyio.run(_Daemon(environment, ServiceManager()).run, backend_options={"use_uvloop": True})
    except Exception as error:
        cause = cause_of(error)
        if isinstance(cause, EventhostError):
            raise cause from None
        log.error("host_failed", error=str(cause), exc_info=error)
        raise EventhostError(f"the host failed: {cause!r}; its log has the details") from error


class _Daemon:
    """One environment, between the first signal handler and the last."""

    def __init__(self, environment: ServerEnvironment, manager: ServiceManager) -> None:
        self._environment = environment
        self._manager = manager
        self._at_terminal = os.isatty(0)
        self._stop = anyio.Event()
        self._reload = anyio.Event()
        self._url = ""

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._heed_signals)
            tasks.start_soon(self._ping)
            with anyio.CancelScope() as life:
                async with self._environment:
                    try:
                        await self._live()
                    finally:
                        life.deadline = anyio.current_time() + EXIT_S
            if life.cancelled_caught:
                log.error("stop_incomplete", deadline_s=EXIT_S)
            tasks.cancel_scope.cancel()
        log.info("stopped")

    async def _live(self) -> None:
        environment = self._environment
        for problem in environment.config.warnings:
            log.warning("config_warning", problem=str(problem))
        async with serving(environment) as listening:
            self._url = listening.url
            log.info(
                "listening", version=__version__, environment=str(environment.root), url=listening.url or "off",
                control_socket=str(listening.control_socket),
            )  # fmt: skip
            # Starting takes a moment, and may have been interrupted.
            if not self._stop.is_set():
                await environment.start_sources()
                self._manager.ready(self._status())
                async with anyio.create_task_group() as tasks:
                    for task in (environment.watch, self._reload_when_told, self._tell_status):
                        tasks.start_soon(task)
                    await self._stop.wait()
                    tasks.cancel_scope.cancel()
            timings = [source.server.timings for source in environment.config.sources.values()]
            sources_s = max((timing.stop_timeout_s for timing in timings), default=0.0) + _SOURCES_MARGIN_S
            log.info("stopping")
            self._manager.stopping(within_s=sources_s + DRAIN_S + EXIT_S)
            with anyio.move_on_after(sources_s):
                await environment.stop_sources()
            with anyio.move_on_after(DRAIN_S):
                await environment.drain(DRAIN_S)

    async def _heed_signals(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
            task_status.started()
            async for number in received:
                # A closed terminal says SIGHUP too, and means that nobody wants this any longer.
                if number != signal.SIGHUP or (self._at_terminal and not os.isatty(0)):
                    break
                self._reload.set()
        # The kernel's own handling needs no event loop that still turns.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._stop.set()

    async def _reload_when_told(self) -> None:
        while True:
            await self._reload.wait()
            self._reload = anyio.Event()
            self._manager.reloading()
            await self._environment.reload()
            self._manager.ready(self._status())

    async def _tell_status(self) -> None:
        """Keep the service manager's status line up to date."""
        if not self._manager.present:
            return
        told = ""
        while True:
            if (status := self._status()) != told:
                self._manager.status(told := status)
            await anyio.sleep(_STATUS_INTERVAL_S)

    async def _ping(self) -> None:
        if (interval_s := self._manager.ping_interval_s) is None:
            return
        while True:
            self._manager.ping()
            await anyio.sleep(interval_s)

    def _status(self) -> str:
        environment = self._environment
        clients = environment.get_event_mcp_manager().get_clients()
        states = Counter(client.get_status() for client in clients.values())
        states[EventSourceStatus.ERROR] += len(environment.config.broken.keys() - clients.keys())
        counts = ", ".join(f"{states[state]} {state}" for state in EventSourceStatus if states[state])
        return f"sources: {counts or 'none'}; {self._url or 'control socket only'}"
