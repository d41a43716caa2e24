"""Commands about events: publish one, and watch them go by."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from eventhost.cli.show import JsonOption, at_terminal, clock, print_json, printable, styled
from eventhost.cli.target import EnvOption, connect
from eventhost.errors import ConnectionLost

app = typer.Typer()

_PANEL = "Events"


@app.command(rich_help_panel=_PANEL)
def emit(
    event_type: Annotated[str, typer.Argument(metavar="TYPE", help="The event's type, such as door.opened.")],
    payload: Annotated[str, typer.Argument(metavar="[JSON|-]", help="Its payload; - reads it from stdin.")] = "{}",
    as_json: JsonOption = False,
    env: EnvOption = None,
) -> None:
    """Publish one event; prints its sequence number and id."""
    text = sys.stdin.read() if payload == "-" else payload
    try:
        value = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"the payload is not JSON: {error}", param_hint="JSON") from error
    answer = connect(env).post("/events", {"type": event_type, "payload": value})
    if as_json:
        print_json(answer)
    else:
        print(answer["seq"], printable(answer["id"]))


@app.command(rich_help_panel=_PANEL)
def tail(
    types: Annotated[
        list[str] | None,
        typer.Option("--type", "-t", metavar="GLOB", help="Only these types, such as 'door.*'; may be repeated."),
    ] = None,
    as_json: JsonOption = False,
    since: Annotated[
        str | None,
        typer.Option(metavar="SEQ|DURATION", help="Begin after a sequence number, or this long ago (10m, 2h)."),
    ] = None,
    env: EnvOption = None,
) -> None:
    """Show events as they happen, until Ctrl-C.

    The host's own events (host.*) are shown when a --type begins with host.
    """
    for item in connect(env).stream("/events", type=",".join(types or ["*"]), since=since):
        data = json.loads(item.data)
        if item.event == "lagged" and "seq" not in data:
            print(f"eventhost: {data['missed']} events are no longer held and were missed", file=sys.stderr)
        elif as_json:
            print(item.data, flush=True)
        else:
            print(_line(data), flush=True)
    raise ConnectionLost("the host ended the stream; it is stopping")


def _line(event: dict[str, Any]) -> str:
    source = printable(str(event["metadata"].get("source_name", "")))
    event_type = printable(event["type"])
    payload = printable(json.dumps(event["payload"], ensure_ascii=False, separators=(",", ":")))
    when, seq = clock(event["timestamp"]), str(event["seq"])
    if not at_terminal():
        return "\t".join((when, seq, source, event_type, payload))
    return f"{styled(f'{when} #{seq}', '2')} {styled(source, '36')} {styled(event_type, '1')} {payload}"
