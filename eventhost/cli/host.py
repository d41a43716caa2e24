"""Commands about the host itself: run it, ask how it fares, have it read its configuration again."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from eventhost.cli.show import JsonOption, duration, print_json, print_rows, printable, size
from eventhost.cli.target import EnvOption, connect, folder
from eventhost.errors import Problem

app = typer.Typer()

_PANEL = "Host"


@app.command(rich_help_panel=_PANEL)
def run(
    log_level: Annotated[
        str | None,
        typer.Option(
            metavar="LEVEL",
            envvar="EVENTHOST_LOG_LEVEL",
            help="debug, info, warning or error; goes before log.level in the config.",
        ),
    ] = None,
    env: EnvOption = None,
) -> None:
    """Run the host in the foreground, until Ctrl-C or SIGTERM.

    SIGHUP makes it read its configuration again. A second Ctrl-C ends it at once.
    """
    root = folder(env)
    # The host is the one command that needs everything.
    from eventhost.cli.daemon import run_host

    run_host(root, log_level=log_level)


@app.command(rich_help_panel=_PANEL)
def status(as_json: JsonOption = False, env: EnvOption = None) -> None:
    """How the host fares: what is wrong, sources by state, rules, events held."""
    host = connect(env)
    answer, health = host.get("/status"), host.get("/health/detailed")
    if as_json:
        print_json({**answer, "health": {name: health[name] for name in ("status", "reasons")}})
        return
    journal = answer["bus"]["journal"]
    sources = ", ".join(f"{count} {state}" for state, count in sorted(answer["sources"].items())) or "none"
    held = max(0, journal["head"] - journal["first"] + 1)
    rules = answer["rules"]
    matched, failed = (sum(rule[what] for rule in rules) for what in ("matched", "failed"))
    letters = answer["dead_letters"]
    gone = f", {letters['discarded']} discarded since the host started" if letters["discarded"] else ""
    rows = [
        ("environment", f"{answer['id']} ({answer['root']})" if answer["id"] else answer["root"]),
        ("host", f"eventhost {answer['version']}, pid {answer['pid']}, up {duration(answer['uptime_s'])}"),
        ("health", health["status"]),
        *(("", reason) for reason in health["reasons"]),
        ("sources", sources),
        ("rules", f"{len(rules)}; {matched} matches, {failed} failed"),
        ("events", f"{journal['head']} accepted, {held} held ({journal['kind']})"),
        ("dead letters", f"{letters['held']} held{gone}"),
        ("disk", f"{size(health['journal']['size'])} journal, {size(health['disk']['free'])} free"),
    ]
    print_rows(("", ""), rows)


@app.command(rich_help_panel=_PANEL)
def reload(as_json: JsonOption = False, env: EnvOption = None) -> None:
    """Have the host read its configuration again; only what differs is restarted.

    Exit code 2 when something is wrong with it: the host then goes on with what it had.
    """
    report = connect(env).post("/reload")
    if as_json:
        print_json(report)
    else:
        changed = [(what, name) for what in ("started", "restarted", "stopped") for name in report[what]]
        print_rows(("", "source"), changed)
        if not changed and not report["problems"]:
            print("nothing has changed")
    problems = [Problem(**problem) for problem in report["problems"]]
    for problem in problems:
        print(printable(str(problem)), file=sys.stderr)
    if any(problem.fatal for problem in problems):
        raise typer.Exit(2)
