"""Whether a source would work: its configuration as the files have it now, its program, its secrets, its server.

A second copy of a source is not started for it: that could take events away from the first, or from the next start.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Final

import anyio
import msgspec
from mcp import MCPError
from mcp_types import METHOD_NOT_FOUND
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from eventhost.config import ServerConfig, ServerKind, load_environment, resolve_all, variables
from eventhost.connections import EventSourceStatus
from eventhost.errors import ConfigError, EventhostError
from eventhost.sources import SourceStatus

if TYPE_CHECKING:
    from eventhost.environment import ServerEnvironment

ANSWER_S: Final = 10.0
"""How long its server may take to answer."""


class Check(msgspec.Struct, frozen=True):
    """`passed` is null where there was nothing to look at."""

    name: str
    passed: bool | None
    detail: str


class SourceTest(msgspec.Struct, frozen=True):
    """`passed` when no check failed. `running` tells whether the server itself was asked."""

    name: str
    passed: bool
    running: bool
    checks: list[Check]


async def tested(environment: ServerEnvironment, name: str) -> SourceTest:
    """What there is to say of the source `name`; nothing is started, stopped or changed.

    Raises:
        NotFound: there is none of this name.
    """
    status = environment.source_status(name)
    running = environment.source_config(name)
    checks = await anyio.to_thread.run_sync(_files, environment, name)
    checks.append(await _server(environment, status))
    if running is not None and status.rejected:
        said = "; the last reason: " + status.refused[-1].reason if status.refused else ""
        checks.append(Check("events", False, f"{status.rejected} events were rejected{said}"))
    elif status.published:
        checks.append(Check("events", True, f"{status.published} events were published"))
    passed = all(check.passed is not False for check in checks)
    return SourceTest(name, passed, status.status is EventSourceStatus.RUNNING, checks)


def _files(environment: ServerEnvironment, name: str) -> list[Check]:
    """Read the configuration anew, and look for what it needs."""
    root = environment.root
    try:
        read = load_environment(root)
    except ConfigError as error:
        return [Check("configuration", False, str(error))]
    if name in read.broken:
        return [Check("configuration", False, "\n".join(map(str, read.broken[name])))]
    if name not in read.sources:
        return [Check("configuration", None, "it stands in no file")]
    config = read.sources[name]
    used = environment.source_config(name)
    newer = "" if used == config else "; it differs from the one in use, which a reload mends"
    server = config.server
    checks = [Check("configuration", True, f"{server.file} can be used{newer}")]
    try:
        resolve_all(
            {"environment": server.environment, "headers": server.headers, "url": server.url, **server.settings},
            root,
            variables(root),
            file=server.file,
        )
        checks.append(Check("secrets", True, "all that it refers to is there"))
    except ConfigError as error:
        checks.append(Check("secrets", False, str(error)))
    if server.kind in (ServerKind.STDIO, ServerKind.HTTP):
        checks.append(_program(server))
    return checks


def _program(server: ServerConfig) -> Check:
    program = server.command[0]
    if os.sep in program:
        program = os.path.join(server.directory, program)
    found = shutil.which(program)
    return Check(
        "program",
        found is not None,
        f"{found} can be run" if found else f"{program} is not there, or cannot be run; correct the command",
    )


async def _server(environment: ServerEnvironment, status: SourceStatus) -> Check:
    client = environment.get_event_mcp_manager().get_clients().get(status.name)
    link = client.connection.link if client is not None else None
    if link is None and status.way_in == "sse":
        return Check("server", True, "its event stream is open")
    if link is None:
        because = f": {status.last_error}" if status.last_error else ""
        failed = status.status in (EventSourceStatus.ERROR, EventSourceStatus.BACKOFF)
        return Check("server", False if failed else None, f"it is {status.status}{because}")
    try:
        with anyio.fail_after(ANSWER_S):
            if link.protocol in HANDSHAKE_PROTOCOL_VERSIONS:
                await link.client.send_ping()
            else:
                await link.client.list_tools()
    except TimeoutError:
        return Check("server", False, f"it did not answer within {ANSWER_S:g} s")
    except MCPError as error:
        if error.code != METHOD_NOT_FOUND:
            return Check("server", False, f"it answered with an error: {error}")
    except EventhostError as error:
        return Check("server", False, str(error))
    return Check("server", True, f"it answers; events come by {status.way_in}, protocol {status.protocol}")
