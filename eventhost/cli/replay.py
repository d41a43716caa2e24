"""`eventhost replay`: which rules recorded events would set going, and what they would do; or doing it once more."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from eventhost.cli.explain import steps
from eventhost.cli.offline import read_environment, readable_journal
from eventhost.cli.rule import action_line
from eventhost.cli.show import JsonOption, at_terminal, clock, printable, styled
from eventhost.cli.target import EnvOption, connect, folder, is_url
from eventhost.errors import EventhostError, EventRejected, NotFound

app = typer.Typer()

_PANEL = "Events"
_PLACE = "SEQ|TIME|DURATION"


@app.command(rich_help_panel=_PANEL)
def replay(
    since: Annotated[
        str | None,
        typer.Option(
            "--from", metavar=_PLACE, help="Where to begin: 42, 2026-11-20T08:00, 7d ago.", show_default="beginning"
        ),
    ] = None,
    upto: Annotated[str, typer.Option("--to", metavar=_PLACE, help="Where to end.")] = "now",
    types: Annotated[
        list[str] | None,
        typer.Option("--type", "-t", metavar="GLOB", help="Only runs for events of these types; may be repeated."),
    ] = None,
    rules: Annotated[
        list[str] | None,
        typer.Option("--rule", "-r", metavar="NAME", help="Only these rules, globs too; may be repeated."),
    ] = None,
    speed: Annotated[
        float, typer.Option(min=0, metavar="N", help="So many times as fast as the first time; 0: without waiting.")
    ] = 0,
    execute: Annotated[bool, typer.Option("--execute", help="Do it once more, through the running host.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before --execute.")] = False,
    as_json: JsonOption = False,
    env: EnvOption = None,
) -> None:
    """Play recorded events to the rules once more, by the times of the journal.

    Nothing is done, unless with --execute: then every action of every run is done again, and what it publishes has
    metadata.replayed. Ctrl-C ends it after the action that is being done.
    """
    from eventhost.journal.moment import with_zone

    # The host that it is sent to may be in another zone.
    request: dict[str, Any] = {"upto": with_zone(upto), "types": types or [], "rules": rules or [], "speed": speed}
    if since is not None:
        request["since"] = with_zone(since)
    if execute:
        if since is None:
            raise typer.BadParameter("what is done once more must say from where on", param_hint="--from")
        if not yes:
            request["upto"] = _confirmed(request, env)
        lines = connect(env).lines("/replay", {**request, "execute": True})
    else:
        lines = _dry(request, env)
    end = _print(lines, as_json)
    if end.get("failed"):
        raise typer.Exit(1)


def _confirmed(request: Mapping[str, Any], env: str | None) -> str:
    """Have a person agree to what would be done; return where it ends, as it was shown."""
    if not (at_terminal() and sys.stdin.isatty()):
        raise typer.BadParameter("nobody is there to be asked; add --yes", param_hint="--execute")
    end = _end(connect(env).lines("/replay", {**request, "speed": 0}), lambda line: None)
    by_rule = ", ".join(f"{printable(rule)} {count}" for rule, count in end["by_rule"].items())
    print(f"{_runs(end)} for the events {end['first']} to {end['last']}: {by_rule or 'nothing to do'}")
    if not end["runs"] or not typer.confirm("Do all of them once more?"):
        raise typer.Exit(0 if not end["runs"] else 1)
    return str(end["last"])


def _dry(request: Mapping[str, Any], env: str | None) -> Iterator[Any]:
    """What would be run: told by the files, beside a host if one runs; or by the host, where the files are not here."""
    if env is not None and is_url(env):
        return connect(env).lines("/replay", dict(request))
    root = folder(env)
    config, _ = read_environment(root)
    if config.journal.type == "memory":
        return connect(env).lines("/replay", dict(request))
    return _from_files(root, request)


def _from_files(root: Path, request: Mapping[str, Any]) -> Iterator[Any]:
    import anyio.from_thread

    from eventhost.rules.again import Request, chosen, told

    config, rules = read_environment(root)
    wanted = Request(**request)
    with readable_journal(config) as journal, anyio.from_thread.start_blocking_portal() as portal:
        try:
            playing = chosen(rules.rules, wanted.rules)
            span = portal.call(wanted.span, journal)
        except (EventRejected, NotFound) as error:
            raise typer.BadParameter(str(error)) from None
        lines = told(journal, playing, span, speed=wanted.speed)
        try:
            while True:
                try:
                    yield portal.call(lines.__anext__)
                except StopAsyncIteration:
                    return
        finally:
            portal.call(lines.aclose)


def _print(lines: Iterable[Any], as_json: bool) -> Mapping[str, Any]:
    def show(line: Mapping[str, Any]) -> None:
        if as_json:
            print(json.dumps(line, ensure_ascii=False), flush=True)
        else:
            for text in _texts(line):
                print(text, flush=True)

    end = _end(lines, show)
    if as_json:
        show(end)
        return end
    did = "done" if "failed" in end else "to do"
    failed = f", {end['failed']} of them failed" if end.get("failed") else ""
    print(f"{_runs(end)} {did} for the events {end['first']} to {end['last']}{failed}")
    for rule, count in end["held"].items():
        print(f"    {printable(rule)}: {count} events would still be held")
    for rule, count in end["condition_errors"].items():
        print(f"    {printable(rule)}: for {count} events its condition cannot be told, which counts as false")
    return end


def _runs(end: Mapping[str, Any]) -> str:
    return "1 run" if end["runs"] == 1 else f"{end['runs']} runs"


def _end(lines: Iterable[Any], show: Callable[[Mapping[str, Any]], None]) -> Mapping[str, Any]:
    """Hand each line to `show`; return the last one, which counts them.

    Raises:
        EventhostError: it ended before its end.
    """
    for line in lines:
        if "error" in line and "rule" not in line:
            raise EventhostError(line["error"])
        if line.get("done"):
            return dict(line)
        show(line)
    raise EventhostError("the host ended the replay before it was through; it may be stopping")


def _texts(line: Mapping[str, Any]) -> Iterator[str]:
    gathered = f" and {len(line['events']) - 1} before it" if "events" in line else ""
    what = printable(f"#{line['seq']} {line['type']}{gathered}")
    end = f": {styled(line['end'], '32' if line['end'] == 'delivered' else '31')}" if "end" in line else ""
    yield f"{styled(clock(line['at_ms']), '2')} {styled(printable(line['rule']), '1')} {what}{end}"
    for action in line.get("actions", ()):
        yield f"    {printable(action_line(action))}"
    for step in line.get("steps", ()):
        yield from (f"    {text}" for text in steps(step))
