"""The service definitions of systemd and launchd, as text: what a service manager is told about a host.

Quoting is systemd.syntax(7)'s and systemd.service(5)'s; specifiers systemd.unit(5)'s; the sandbox systemd.exec(5)'s.
"""

from __future__ import annotations

import plistlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eventhost.errors import ConfigError, Problem

STOP_TIMEOUT_S = 60
"""Longer than all stages of an orderly stop together; see `daemon.py`."""

WATCHDOG_S = 30


@dataclass(frozen=True, slots=True)
class Service:
    """What runs as a service. `user` is empty for the account that the manager runs as anyway."""

    name: str
    root: Path
    python: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    caches: tuple[Path, ...] = ()
    """Folders outside the environment that children may write to, where they exist."""

    def __post_init__(self) -> None:
        for path in (self.root, self.python, *self.caches):
            # Not every setting of a unit file can be quoted.
            if not str(path).isprintable() or str(path).endswith((" ", "\\")):
                mend = "rename it, without control characters or line breaks, or a space or backslash at its end"
                raise ConfigError([Problem(repr(str(path)), "cannot be the path of a service", mend)])


def systemd_unit(service: Service, *, system: bool) -> str:
    """The unit file, for the system's manager or for a user's own."""
    command = [str(service.python), "-P", "-m", "eventhost", "run", "--env", str(service.root)]
    lines = [
        "[Unit]",
        f"Description=eventhost: {_specifiers(service.root.name)}",
        *(["After=network-online.target", "Wants=network-online.target"] if system else []),
        # Whoever mends what makes it crash finds it running again; a broken config stops it for good (exit code 2).
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "Type=notify",
        "NotifyAccess=main",
        *([f"User={_specifiers(service.user)}"] if service.user else []),
        f"WorkingDirectory={_specifiers(str(service.root))}",
        "ExecStart=" + " ".join(_command_word(word) for word in command),
        "ExecReload=/bin/kill -HUP $MAINPID",
        *(f"Environment={_quoted(f'{name}={value}')}" for name, value in service.variables.items()),
        "Restart=on-failure",
        "RestartSec=2",
        "RestartPreventExitStatus=2",
        f"WatchdogSec={WATCHDOG_S}",
        "TimeoutStartSec=90",
        f"TimeoutStopSec={STOP_TIMEOUT_S}",
        "# The host stops its sources in order; what is left after that is killed.",
        "KillMode=mixed",
        "UMask=0077",
        "",
        "NoNewPrivileges=yes",
        "LockPersonality=yes",
        "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes",
        "SystemCallArchitectures=native",
        *(_sandbox(service) if system else _NO_SANDBOX),
        "",
        "[Install]",
        f"WantedBy={'multi-user' if system else 'default'}.target",
    ]
    return "\n".join(lines) + "\n"


_NO_SANDBOX = (
    "# A user's manager can close off files only in a user namespace of its own, which many systems forbid: there the",
    "# service would not start. The system's service has the whole sandbox.",
)


def _sandbox(service: Service) -> Iterable[str]:
    writable = [_quoted(str(service.root)), *(_quoted(f"-{cache}") for cache in service.caches)]
    return (
        "# Sources and actions may write in the environment, in /tmp, and where tool runners keep what they fetch.",
        "ProtectSystem=strict",
        f"ReadWritePaths={' '.join(writable)}",
        "PrivateTmp=yes",
        "ProtectControlGroups=yes",
        "ProtectHostname=yes",
        "ProtectKernelLogs=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelTunables=yes",
        "CapabilityBoundingSet=",
        "AmbientCapabilities=",
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
    )


def _specifiers(text: str) -> str:
    return text.replace("%", "%%")


def _quoted(text: str) -> str:
    """One word of a list, whatever it contains."""
    return '"' + _specifiers(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _command_word(text: str) -> str:
    # Only a command line has variables.
    return _quoted(text).replace("$", "$$")


def launchd_plist(service: Service, *, system: bool) -> bytes:
    """The property list for launchd(8)."""
    log = str(service.root / "var" / "eventhost.log")
    definition: dict[str, Any] = {
        "Label": launchd_label(service.name),
        "ProgramArguments": [str(service.python), "-P", "-m", "eventhost", "run", "--env", str(service.root)],
        "WorkingDirectory": str(service.root),
        "EnvironmentVariables": dict(service.variables),
        "RunAtLoad": True,
        # launchd knows no exit codes: it starts again whatever did not end well.
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 10,
        "ExitTimeOut": STOP_TIMEOUT_S,
        "ProcessType": "Background",
        "Umask": 0o077,
        "StandardOutPath": log,
        "StandardErrorPath": log,
    }
    if system and service.user:
        definition["UserName"] = service.user
    return plistlib.dumps(definition)


def launchd_label(name: str) -> str:
    """What launchd calls the service."""
    return f"eventhost.{name}"
