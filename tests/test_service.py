"""The service definitions: what systemd and launchd are told, and `eventhost service` around them."""

from __future__ import annotations

import os
import plistlib
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eventhost.cli import service as commands
from eventhost.cli.app import app
from eventhost.cli.units import STOP_TIMEOUT_S, Service, launchd_plist, systemd_unit
from eventhost.errors import ConfigError, EventhostError

AWKWARD = 'it\'s 100% "my" $HOME \\ 環境'


def a_service(root: Path, user: str = "") -> Service:
    return Service(
        name="eventhost-demo",
        root=root,
        python=Path(sys.executable),
        variables={"PATH": f"{root}/bin:/usr/bin:/bin"},
        user=user,
        caches=(root / "no such cache",),
    )


def settings(unit: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in unit.splitlines() if "=" in line and not line.startswith("#"))


def test_the_unit_says_what_the_host_relies_on(tmp_path: Path) -> None:
    unit = settings(systemd_unit(a_service(tmp_path, "alice"), system=True))
    assert unit["Type"] == "notify"
    assert unit["NotifyAccess"] == "main"
    assert unit["KillMode"] == "mixed"
    assert unit["Restart"] == "on-failure"
    assert unit["RestartPreventExitStatus"] == "2"
    assert unit["User"] == "alice"
    assert unit["WorkingDirectory"] == str(tmp_path)
    assert unit["ExecStart"] == f'"{sys.executable}" "-P" "-m" "eventhost" "run" "--env" "{tmp_path}"'
    assert unit["Environment"] == f'"PATH={tmp_path}/bin:/usr/bin:/bin"'
    assert unit["ProtectSystem"] == "strict"
    assert unit["ReadWritePaths"].split() == [f'"{tmp_path}"', f'"-{tmp_path}/no', "such", 'cache"']
    assert "MemoryDenyWriteExecute" not in unit, "Node compiles at run time"


def test_the_stop_timeout_leaves_time_for_every_stage() -> None:
    from eventhost.cli.daemon import DRAIN_S, EXIT_S

    assert DRAIN_S + EXIT_S + 15 <= STOP_TIMEOUT_S


def test_a_users_unit_asks_for_nothing_that_needs_a_namespace(tmp_path: Path) -> None:
    unit = settings(systemd_unit(a_service(tmp_path), system=False))
    forbidden = {"ProtectSystem", "ReadWritePaths", "PrivateTmp", "CapabilityBoundingSet", "User"}
    assert not forbidden & unit.keys()
    assert unit["NoNewPrivileges"] == "yes"
    assert unit["WantedBy"] == "default.target"


@pytest.mark.parametrize("name", ["plain", AWKWARD])
@pytest.mark.parametrize("system", [True, False])
def test_systemd_accepts_the_unit_whatever_the_folder_is_called(
    tmp_path: Path, needs: Callable[[str], str], name: str, system: bool
) -> None:
    analyze = needs("systemd-analyze")
    root = tmp_path / name
    root.mkdir()
    unit = tmp_path / "eventhost-demo.service"
    unit.write_text(systemd_unit(a_service(root), system=system), "utf-8")
    done = subprocess.run(
        [analyze, "--user" if not system else "--system", "verify", "--man=no", str(unit)],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:", "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if unit.name in line]
    assert not complaints
    assert done.returncode == 0, done.stderr


def test_a_unit_that_is_wrong_would_be_noticed(tmp_path: Path, needs: Callable[[str], str]) -> None:
    unit = tmp_path / "eventhost-demo.service"
    text = systemd_unit(a_service(tmp_path), system=True)
    unit.write_text(text.replace("KillMode=mixed", "KillMode=gently").replace("ExecStart=", "ExecStart=bad "), "utf-8")
    done = subprocess.run(
        [needs("systemd-analyze"), "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "gently" in done.stderr


@pytest.mark.parametrize("name", ["two\nlines", "ends in \\", "ends in space "])
def test_a_folder_that_no_unit_can_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="rename it"):
        a_service(tmp_path / name)


def test_the_property_list_survives_an_awkward_folder(tmp_path: Path) -> None:
    root = tmp_path / AWKWARD
    plist = plistlib.loads(launchd_plist(a_service(root, "alice"), system=True))
    assert plist["Label"] == "eventhost.eventhost-demo"
    assert plist["ProgramArguments"][-2:] == ["--env", str(root)]
    assert plist["WorkingDirectory"] == str(root)
    assert plist["KeepAlive"] == {"SuccessfulExit": False}
    assert plist["UserName"] == "alice"
    assert plist["EnvironmentVariables"]["PATH"].startswith(str(root))


# `eventhost service`, with a systemctl that only writes down what it was told.


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    programs = tmp_path / "bin"
    programs.mkdir()
    record = tmp_path / "calls"
    for name in ("systemctl", "launchctl"):
        program = programs / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> "{record}"\n[ ! -e "{tmp_path}/broken" ]\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(commands, "_SYSTEMD_RUNS", tmp_path)
    return lambda: record.read_text().splitlines() if record.exists() else []


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "my demo"
    root.mkdir()
    (root / "config.jsonc").write_text("{}")
    return root


def invoke(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="the commands below speak to systemd")


def test_install_writes_the_unit_and_starts_it_and_uninstall_takes_it_away(
    tmp_path: Path, root: Path, calls: Callable[[], list[str]]
) -> None:
    unit = tmp_path / "config" / "systemd" / "user" / "eventhost-my-demo.service"
    invoke("service", "install", "--user", "--env", root)
    assert settings(unit.read_text())["WorkingDirectory"] == str(root)
    assert settings(unit.read_text())["Environment"].startswith(f'"PATH={tmp_path}/bin:')
    assert calls() == [
        "systemctl --user daemon-reload",
        "systemctl --user enable eventhost-my-demo.service",
        "systemctl --user restart eventhost-my-demo.service",
    ]
    invoke("service", "install", "--user", "--env", root)
    invoke("service", "uninstall", "--user", "--env", root)
    assert not unit.exists()
    assert calls()[-2:] == [
        "systemctl --user disable --now eventhost-my-demo.service",
        "systemctl --user daemon-reload",
    ]


def test_print_changes_nothing(tmp_path: Path, root: Path, calls: Callable[[], list[str]]) -> None:
    assert "Type=notify" in invoke("service", "install", "--system", "--print", "--env", root)
    assert calls() == []
    assert not (tmp_path / "config").exists()


def test_another_environments_service_is_not_overwritten(
    tmp_path: Path, root: Path, calls: Callable[[], list[str]]
) -> None:
    invoke("service", "install", "--user", "--env", root)
    other = tmp_path / "elsewhere" / "my demo"
    other.mkdir(parents=True)
    with pytest.raises(EventhostError, match="--name"):
        invoke("service", "install", "--user", "--env", other)
    with pytest.raises(EventhostError, match="--name"):
        invoke("service", "uninstall", "--user", "--env", other)
    invoke("service", "install", "--user", "--env", other, "--name", "other")
    assert calls()[-1] == "systemctl --user restart other.service"


def test_what_the_service_manager_complains_about_is_shown(
    tmp_path: Path, root: Path, calls: Callable[[], list[str]]
) -> None:
    (tmp_path / "broken").touch()
    with pytest.raises(EventhostError, match="`systemctl --user daemon-reload` failed: exit code 1"):
        invoke("service", "install", "--user", "--env", root)
    result = CliRunner().invoke(app, ["service", "status", "--user", "--env", str(root)])
    assert result.exit_code == 1


def test_uninstalling_what_is_not_there_says_so(root: Path, calls: Callable[[], list[str]]) -> None:
    with pytest.raises(EventhostError, match="does not exist"):
        invoke("service", "uninstall", "--user", "--env", root)
    assert calls() == []


def test_without_systemd_the_error_names_print(
    tmp_path: Path, root: Path, calls: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "_SYSTEMD_RUNS", tmp_path / "no such folder")
    with pytest.raises(EventhostError, match="--print"):
        invoke("service", "install", "--user", "--env", root)
    assert calls() == []
    assert "Type=notify" in invoke("service", "install", "--user", "--print", "--env", root)
