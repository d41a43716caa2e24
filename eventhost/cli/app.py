"""`eventhost`: its commands in groups, and the only place where an error becomes an exit code.

0: done; 1: it failed, and may succeed another time; 2: a configuration, or how the command was called, must be mended.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from eventhost import __version__
from eventhost.cli import (
    dead_letter,
    environment,
    events,
    explain,
    host,
    journal,
    key,
    mcp,
    replay,
    rule,
    schema,
    service,
    source,
)
from eventhost.cli.target import ENV_VARIABLE
from eventhost.errors import ConfigError, EventhostError

app = typer.Typer(
    name="eventhost",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (environment, schema, host, mcp, events, explain, replay, journal):
    app.add_typer(group.app)
app.add_typer(source.app, name="source", rich_help_panel="Groups of commands")
app.add_typer(rule.app, name="rule", rich_help_panel="Groups of commands")
app.add_typer(key.app, name="key", rich_help_panel="Groups of commands")
app.add_typer(dead_letter.app, name="dead-letter", rich_help_panel="Groups of commands")
app.add_typer(service.app, name="service", rich_help_panel="Groups of commands")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"eventhost {__version__}")
        raise typer.Exit


@app.callback()
def eventhost(
    env: Annotated[
        str | None,
        typer.Option(
            "--env", envvar=ENV_VARIABLE, metavar="DIR|URL", help="Which environment; may also follow the command."
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """A daemon that hosts event sources: drop a folder in, and its events reach an action.

    Begin with [bold]eventhost init demo[/bold], [bold]cd demo[/bold], [bold]eventhost run[/bold]. Without
    [bold]--env[/bold] a command takes the current directory, or the nearest one above that holds a config.jsonc.
    """
    if env is not None:
        # Handed to the command's own --env the way a shell would do it.
        os.environ[ENV_VARIABLE] = env


def main() -> None:
    """Run the command line and end the process with its exit code."""
    try:
        app()
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        sys.exit(2)
    except EventhostError as error:
        print(f"eventhost: {error}", file=sys.stderr)
        sys.exit(1)
