"""The command that makes the running host an MCP server on stdin and stdout."""

from __future__ import annotations

import sys
from functools import partial

import typer

from eventhost.cli.target import EnvOption, folder, is_url
from eventhost.errors import ConfigError, Problem

app = typer.Typer()


@app.command(rich_help_panel="Host")
def mcp(env: EnvOption = None) -> None:
    """Be an MCP server on stdin and stdout, for the running host: its tools, resources, prompts and events.

    Write it where an MCP client asks for a command: {"command": "eventhost", "args": ["mcp", "--env", "DIR"]}.
    """
    if env is not None and is_url(env):
        raise ConfigError([Problem(env, "an MCP client reaches a host at a URL by itself", f"give it {env}/mcp")])
    root = folder(env)
    from eventhost.cli.attach import Attachment
    from eventhost.cli.bridge import Bridge

    Bridge(partial(Attachment, root), sys.stdin.buffer, sys.stdout.fileno()).run()
