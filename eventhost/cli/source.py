"""Commands about event sources: see them, tell them what to do, make a new one."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from eventhost.cli.control import Host, source_path
from eventhost.cli.new_source import SCHEMA, Template, create_source
from eventhost.cli.show import (
    JsonOption,
    at_terminal,
    clock,
    duration,
    print_json,
    print_rows,
    printable,
    size,
    table,
)
from eventhost.cli.target import EnvOption, connect, folder
from eventhost.errors import EventhostError

app = typer.Typer(no_args_is_help=True, help="See event sources, tell them what to do, make a new one.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The source's name.")]

_COLUMNS = ("name", "status", "way in", "events", "last error")
_REFRESH_S = 1.0
_FOLLOW_S = 0.5


@app.command("list")
def list_sources(
    as_json: JsonOption = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep the table up to date until Ctrl-C.")] = False,
    env: EnvOption = None,
) -> None:
    """List all sources and their states."""
    host = connect(env)
    if watch and at_terminal() and not as_json:
        from rich.live import Live

        with Live(table(_COLUMNS, _rows(host)), auto_refresh=False) as live:
            while True:
                time.sleep(_REFRESH_S)
                live.update(table(_COLUMNS, _rows(host)), refresh=True)
    if as_json:
        print_json(host.get("/sources")["sources"])
    else:
        print_rows(_COLUMNS, _rows(host))


def _rows(host: Host) -> list[tuple[str, ...]]:
    return [
        (each["name"], each["status"], each["way_in"], str(each["published"]), each["last_error"] or "")
        for each in host.get("/sources")["sources"]
    ]


@app.command()
def show(name: Name, as_json: JsonOption = False, env: EnvOption = None) -> None:
    """Show everything the host knows of one source."""
    _print(connect(env).get(source_path(name)), as_json)


def _print(status: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(status)
        return
    readable = {
        "uptime_s": ("uptime", duration),
        "memory_bytes": ("memory", size),
        "last_event_at": ("last event", clock),
    }
    rows = []
    told_otherwise = ("log", "refused", "upstreams", "definition")
    definition = status.get("definition") or {}
    defined = {key: value for key, value in definition.items() if value not in (None, "", [], {})}
    for key, value in [*status.items(), *defined.items()]:
        label, spell = readable.get(key, (key.replace("_", " "), _spelled))
        if key not in told_otherwise:
            rows.append((label, spell(value)))
    print_rows(("", ""), rows)
    for upstream in status["upstreams"]:
        error = f": {printable(upstream['last_error'])}" if upstream["state"] == "reconnecting" else ""
        gaps = f", {upstream['gaps']} gaps" if upstream["gaps"] else ""
        print(f"reads {printable(upstream['name'])}: {upstream['state']}{gaps}{error}")
    for refused in status["refused"]:
        print(f"rejected {clock(refused['at_ms'])}: {printable(refused['reason'])}")
        if refused["said"]:
            print(f"    {printable(refused['said'])}")


def _spelled(value: Any) -> object:
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "" if value is None else value


@app.command()
def logs(
    name: Name,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines are added, until Ctrl-C.")] = False,
    env: EnvOption = None,
) -> None:
    """Print the last 100 lines that a source logged."""
    host = connect(env)
    printed: list[str] = []
    while True:
        lines = host.get(source_path(name))["log"]
        for line in _added(printed, lines):
            print(printable(line), flush=True)
        if not follow:
            return
        printed = lines
        time.sleep(_FOLLOW_S)


def _added(before: list[str], after: list[str]) -> list[str]:
    """What came to the last lines: those of `after` that follow the longest end of `before` it begins with."""
    for length in range(min(len(before), len(after)), 0, -1):
        if before[-length:] == after[:length]:
            return after[length:]
    return after


@app.command()
def start(name: Name, env: EnvOption = None) -> None:
    """Start a source that was stopped, or is waiting to be tried again."""
    _act(name, "start", env)


@app.command()
def stop(name: Name, env: EnvOption = None) -> None:
    """Stop a source until it is started, or the host is."""
    _act(name, "stop", env)


@app.command()
def restart(name: Name, env: EnvOption = None) -> None:
    """Stop a source, read its output to the end, and start it again."""
    _act(name, "restart", env)


@app.command()
def enable(name: Name, env: EnvOption = None) -> None:
    """Enable a source for good, whatever its config says."""
    _act(name, "enable", env)


@app.command()
def disable(name: Name, env: EnvOption = None) -> None:
    """Disable a source for good, whatever its config says."""
    _act(name, "disable", env)


def _act(name: str, verb: str, env: str | None) -> None:
    status = connect(env).post(source_path(name, verb))
    print_rows(("name", "status"), [(status["name"], status["status"])])


@app.command("test")
def try_source(
    name: Name,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds",
            "--for",
            min=0.1,
            metavar="SECONDS",
            help="How long to wait for events.",
            show_default="3, or 10 for one of type sse",
        ),
    ] = None,
    count: Annotated[
        int,
        typer.Option("--count", "--events", "-n", min=0, help="Wait for no more than so many events; 0: only in time."),
    ] = 0,
    reconnect: Annotated[
        bool,
        typer.Option("--reconnect", help="Of type sse: drop the connection in the middle, and see that it is resumed."),
    ] = False,
    as_json: JsonOption = False,
    env: EnvOption = None,
) -> None:
    """Try a source: its golden cases, and whether it does what a host relies on in any.

    It needs no running host, publishes nothing, and leaves the source's own state alone.

    A source of type `sse` is connected to as configured; what it says is printed, and how much of each type. That takes
    nothing away from a running host.

    Exit code 1 if anything failed, or if an endpoint cannot be reached, or not again; 2 if the configuration must be
    mended first.
    """
    root = folder(env)
    from eventhost.cli.logs import configure_logging
    from eventhost.cli.source_test.stream import is_stream, try_stream

    configure_logging("critical")  # what there is to say is printed
    if is_stream(root, name):
        passed = try_stream(root, name, seconds=seconds or 10.0, count=count, reconnect=reconnect, as_json=as_json)
    elif reconnect:
        raise typer.BadParameter('only a source of type "sse" is connected to again', param_hint="--reconnect")
    else:
        from eventhost.cli.source_test import report

        passed = report(root, name, seconds=seconds or 3.0, count=count, as_json=as_json)
    if not passed:
        raise typer.Exit(1)


@app.command()
def new(
    name: Name,
    template: Annotated[Template, typer.Option(help="The language to write it in.")] = Template.PYTHON,
    env: EnvOption = None,
) -> None:
    """Make a source's folder that works at once; edit it from there.

    A running host starts it as soon as it is there.
    """
    root = folder(env)
    made = create_source(root, name, template)
    if not (root / SCHEMA).exists():
        from eventhost.schema import write_schemas

        try:
            write_schemas(root)
        except OSError as error:
            raise EventhostError(f"cannot write {root / SCHEMA}: {error.strerror}") from error
    print(f"made {made}")
