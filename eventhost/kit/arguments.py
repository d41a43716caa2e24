"""The command line of a source: stdio unless a port is named. Read by hand, because argparse costs a megabyte."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from eventhost.wire import SERVER_CONFIG_VARIABLE

USAGE: Final = """usage: {program} [--http PORT] [--host ADDRESS]

Serves an event source over MCP: on stdin and stdout, or over Streamable HTTP at http://ADDRESS:PORT/mcp.

  --http PORT      listen on this port; 0 takes any that is free
  --host ADDRESS   listen on this address (127.0.0.1)

The environment variable PORT stands for --http, unless MCP_SERVER_CONFIG says that the transport is another.
"""


class Arguments(NamedTuple):
    """`port` is None for stdio."""

    port: int | None = None
    host: str = "127.0.0.1"


def parse(argv: Sequence[str]) -> Arguments:
    """What the arguments and the environment ask for.

    Raises:
        SystemExit: with status 0 after `--help`, with 2 when an argument is wrong.
    """
    arguments = Arguments(port=_port_of_environment())
    rest = [part for argument in argv for part in argument.split("=", 1)]
    while rest:
        option = rest.pop(0)
        if option in ("-h", "--help"):
            print(USAGE.format(program=os.path.basename(sys.argv[0])), end="")
            raise SystemExit(0)
        if option == "--http" and rest and _is_port(rest[0]):
            arguments = arguments._replace(port=int(rest.pop(0)))
        elif option == "--host" and rest:
            arguments = arguments._replace(host=rest.pop(0))
        else:
            print(f"{option}: not understood\n{USAGE.format(program=os.path.basename(sys.argv[0]))}", file=sys.stderr)
            raise SystemExit(2)
    return arguments


def _port_of_environment() -> int | None:
    port = os.environ.get("PORT", "")
    # A host whose own environment has a PORT may hand it on to a source that it talks to over stdio.
    return int(port) if _is_port(port) and _transport() in (None, "http") else None


def _transport() -> Any:
    """What the host says the transport is; None where no host speaks."""
    text = os.environ.get(SERVER_CONFIG_VARIABLE)
    if not text:
        return None
    try:
        config = json.loads(text)
    except ValueError:
        return ""
    return config.get("transport", "") if isinstance(config, dict) else ""


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 6 and int(text) < 65536
