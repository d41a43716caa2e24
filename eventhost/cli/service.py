"""Commands that make the host a service of this machine: of systemd, or of launchd on macOS."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

import eventhost
from eventhost.cli.target import EnvOption, folder
from eventhost.cli.units import Service, launchd_label, launchd_plist, systemd_unit
from eventhost.errors import EventhostError

app = typer.Typer(no_args_is_help=True, help="Make the host a service that starts with the machine.")

SystemOption = Annotated[
    bool | None,
    typer.Option("--system/--user", help="The system's service, or your own.", show_default="--system for root"),
]
NameOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The service's name.", show_default="eventhost- and the folder's name"),
]

_SYSTEMD_RUNS = Path("/run/systemd/system")
"""There exactly when systemd is the init system; see sd_booted(3)."""

_COMMAND_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Registration:
    """How one service is made known to its manager: a file, and the commands before and after it comes or goes."""

    name: str
    file: Path
    text: bytes
    after_writing: tuple[tuple[str, ...], ...]
    before_removing: tuple[tuple[str, ...], ...]
    after_removing: tuple[tuple[str, ...], ...]
    status: tuple[str, ...]
    hint: str = ""


@app.command()
def install(
    system: SystemOption = None,
    name: NameOption = None,
    only_print: Annotated[bool, typer.Option("--print", help="Only print the definition; change nothing.")] = False,
    env: EnvOption = None,
) -> None:
    """Have the host run now, and whenever the machine (or, with --user, your session) starts."""
    registration = _registration(folder(env), name, system)
    if only_print:
        sys.stdout.write(registration.text.decode())
        return
    _require_manager()
    file = registration.file
    if file.exists() and not _is_ours(registration):
        raise EventhostError(f"{file} belongs to another environment; choose another --name")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(registration.text)
    except PermissionError as error:
        raise EventhostError(f"{file} cannot be written by this user; {_as_root()}, or install with --user") from error
    for command in registration.after_writing:
        _manage(command)
    print(f"installed {registration.name}: {file}")
    if registration.hint:
        print(registration.hint)


@app.command()
def uninstall(system: SystemOption = None, name: NameOption = None, env: EnvOption = None) -> None:
    """Stop the service and forget it; the environment's files stay."""
    registration = _registration(folder(env), name, system)
    _require_manager()
    file = registration.file
    if not file.exists():
        raise EventhostError(f"there is no service {registration.name}: {file} does not exist")
    if not _is_ours(registration):
        raise EventhostError(f"{file} belongs to another environment; name this one's service with --name")
    for command in registration.before_removing:
        _manage(command)
    try:
        file.unlink()
    except PermissionError as error:
        raise EventhostError(f"{file} cannot be removed by this user; {_as_root()}") from error
    for command in registration.after_removing:
        _manage(command)
    print(f"uninstalled {registration.name}")


@app.command()
def status(system: SystemOption = None, name: NameOption = None, env: EnvOption = None) -> None:
    """Show what the service manager says; exit code 1 when the service does not run."""
    registration = _registration(folder(env), name, system)
    _require_manager()
    sys.stdout.flush()
    if _run(registration.status, capture=False).returncode:
        raise typer.Exit(1)


def _registration(root: Path, name: str | None, system: bool | None) -> Registration:
    is_system = os.geteuid() == 0 if system is None else system
    name = _unit_name(name or f"eventhost-{root.name}")
    owner = pwd.getpwuid(root.stat().st_uid)
    home = Path(owner.pw_dir)
    service = Service(
        name=name,
        root=root,
        python=Path(sys.executable),
        variables=_variables(),
        user=owner.pw_name if is_system and owner.pw_uid != 0 else "",
        caches=(home / ".npm", home / ".cache"),
    )
    return (_launchd if sys.platform == "darwin" else _systemd)(service, is_system)


def _systemd(service: Service, system: bool) -> Registration:
    systemctl = ("systemctl",) if system else ("systemctl", "--user")
    unit = f"{service.name}.service"
    own = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", "systemd", "user")
    return Registration(
        name=unit,
        file=(Path("/etc/systemd/system") if system else own) / unit,
        text=systemd_unit(service, system=system).encode(),
        after_writing=((*systemctl, "daemon-reload"), (*systemctl, "enable", unit), (*systemctl, "restart", unit)),
        before_removing=((*systemctl, "disable", "--now", unit),),
        after_removing=((*systemctl, "daemon-reload"),),
        status=(*systemctl, "status", "--no-pager", unit),
        hint="" if system else "it ends with your last session, unless you run once: loginctl enable-linger",
    )


def _launchd(service: Service, system: bool) -> Registration:
    domain = "system" if system else f"gui/{os.getuid()}"
    label = launchd_label(service.name)
    folder = Path("/Library/LaunchDaemons") if system else Path.home() / "Library" / "LaunchAgents"
    file = folder / f"{label}.plist"
    return Registration(
        name=label,
        file=file,
        text=launchd_plist(service, system=system),
        after_writing=(("launchctl", "bootstrap", domain, str(file)),),
        before_removing=(("launchctl", "bootout", f"{domain}/{label}"),),
        after_removing=(),
        status=("launchctl", "print", f"{domain}/{label}"),
    )


def _variables() -> dict[str, str]:
    """What the service's process needs of this shell's environment, and would not have otherwise."""
    variables = {"PATH": os.environ.get("PATH", os.defpath)}
    without = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found = subprocess.run(
        [sys.executable, "-P", "-c", "import eventhost"], cwd="/", env=without, capture_output=True, check=False
    )
    if found.returncode:
        # Run from a checkout that is not installed.
        variables["PYTHONPATH"] = str(Path(eventhost.__file__).parents[1])
    return variables


def _unit_name(name: str) -> str:
    # systemd.unit(5): ASCII letters, digits and a few signs.
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name)[:200]


def _is_ours(registration: Registration) -> bool:
    """Whether the file that is there defines this environment's service, as its working directory says."""
    place = re.compile(rb"WorkingDirectory(?:=|</key>\s*)(.*)")
    there, ours = place.search(registration.file.read_bytes()), place.search(registration.text)
    return there is not None and ours is not None and there[1] == ours[1]


def _require_manager() -> None:
    if sys.platform != "darwin" and not _SYSTEMD_RUNS.is_dir():
        raise EventhostError(
            "systemd does not run this machine; see the unit with `eventhost service install --print`, or have "
            "whatever starts services here start `eventhost run`"
        )


def _manage(command: tuple[str, ...]) -> None:
    done = _run(command, capture=True)
    if done.returncode:
        said = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
        raise EventhostError(f"`{' '.join(command)}` failed: {said}")


def _run(command: tuple[str, ...], *, capture: bool) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            capture_output=capture,
            text=True,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError as error:
        raise EventhostError(f"{command[0]} is not installed; see the definition with --print") from error
    except subprocess.TimeoutExpired as error:
        raise EventhostError(f"`{' '.join(command)}` has not ended for {_COMMAND_TIMEOUT_S:.0f} s") from error


def _as_root() -> str:
    return f"run it as root: sudo {sys.executable} -m eventhost {' '.join(sys.argv[1:])}"
