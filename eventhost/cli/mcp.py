"""The command that makes the running host an MCP server on stdin and stdout."""

from __future__ import annotations

import sys
from functools import partial
from typing import Annotated
from urllib.parse import urlencode

import typer

from eventhost.cli.target import EnvOption, folder, is_url
from eventhost.errors import ConfigError, Problem

app = typer.Typer()


@app.command(rich_help_panel="Host")
def mcp(
    env: EnvOption = None,
    channel: Annotated[
        bool, typer.Option("--channel", help="Be a channel for Claude Code, too: put events before the agent.")
    ] = False,
    match: Annotated[
        str | None,
        typer.Option(
            metavar="GLOBS|JSON",
            help="Which events: type globs with commas, or an event pattern as JSON.",
            show_default="all but host.*",
        ),
    ] = None,
) -> None:
    """Be an MCP server on stdin and stdout, for the running host: its tools, resources, prompts and events.

    Write it where an MCP client asks for a command: {"command": "eventhost", "args": ["mcp", "--env", "DIR"]}.
    """
    if env is not None and is_url(env):
        raise ConfigError([Problem(env, "an MCP client reaches a host at a URL by itself", f"give it {env}/mcp")])
    if match is not None and not channel:
        raise ConfigError([Problem("--match", "says which events a channel shows", "add --channel")])
    root = folder(env)
    from eventhost.cli.attach import Attachment
    from eventhost.cli.bridge import Bridge

    asked = {"channel": "true", **({} if match is None else {"match": match})} if channel else {}
    query = f"?{urlencode(asked)}" if asked else ""
    Bridge(partial(Attachment, root, query), sys.stdin.fileno(), sys.stdout.fileno()).run()
