"""Telling the service manager how the host fares: systemd's sd_notify(3) protocol, in the standard library.

Without a service manager every call does nothing; one that does not listen never disturbs the host.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping
from contextlib import suppress


class ServiceManager:
    """The service manager that started this process, if any did.

    Its variables are taken out of `variables`, so that no child mistakes itself for the service.
    """

    def __init__(self, variables: MutableMapping[str, str] | None = None) -> None:
        variables = os.environ if variables is None else variables
        address = variables.pop("NOTIFY_SOCKET", "")
        # A leading @ stands for the zero byte of Linux's abstract namespace.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        watchdog_us = variables.pop("WATCHDOG_USEC", "")
        watched_pid = variables.pop("WATCHDOG_PID", str(os.getpid()))
        wanted = watchdog_us.isdigit() and watched_pid == str(os.getpid())
        self.ping_interval_s: float | None = int(watchdog_us) / 1_000_000 / 2 if wanted and int(watchdog_us) else None
        """How often `ping` must be called; None when nobody watches."""

    @property
    def present(self) -> bool:
        """Whether somebody listens."""
        return bool(self._address)

    def ready(self, status: str) -> None:
        """The host is up, or up again after a reload."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, within_s: float) -> None:
        """The host stops, and may take this long, whatever the service's own limit is."""
        self._send("STOPPING=1", "STATUS=stopping", f"EXTEND_TIMEOUT_USEC={int(within_s * 1_000_000)}")

    def status(self, status: str) -> None:
        """One line on how it goes."""
        self._send(f"STATUS={status}")

    def ping(self) -> None:
        """The event loop is alive."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram:
            datagram.setblocking(False)
            datagram.sendto("\n".join(lines).encode(), self._address)
