"""The `[mcp_sse]` table of a chat bot's TOML file becomes a client of type `sse`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Final

from eventhost.config.clients import Imported
from eventhost.config.shape import Sse
from eventhost.errors import ConfigError, Problem

TABLE: Final = "mcp_sse"


def read_mcp_sse(path: Path) -> Imported:
    """The client that the table stands for, called as the table is.

    Raises:
        ConfigError: the file cannot be read, or holds no such table.
    """
    file = str(path)
    try:
        said = tomllib.loads(path.read_bytes().decode("utf-8-sig")).get(TABLE)
    except OSError as error:
        raise ConfigError([Problem(file, f"cannot be read: {error.strerror}", mend="correct the path")]) from None
    except UnicodeDecodeError:
        raise ConfigError([Problem(file, "is not UTF-8", mend="save it as UTF-8")]) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([Problem(file, f"is not TOML: {error}", mend="correct it")]) from None
    if not isinstance(said, dict):
        raise ConfigError([Problem(file, "holds no plain event stream", mend=f"it should have a table [{TABLE}]")])
    known = {"enable", *Sse.known()}
    notes = []
    if unknown := sorted(said.keys() - known):
        notes.append(f"{TABLE}: left out, having no meaning here: {', '.join(unknown)}")
    # An empty text is the file's way of saying nothing.
    carried: dict[str, Any] = {key: value for key, value in said.items() if key in known and value != ""}
    if "server_url" not in carried:
        notes.append(f"{TABLE}: says no server_url; it needs one before it is enabled")
    if isinstance(key := carried.get("auth_key"), str) and "${" not in key:
        notes.append(
            f"{TABLE}: auth_key looks like a secret in plain text; put it into .env and write ${{env:MCP_SSE_AUTH_KEY}}"
        )
    if carried.get("enable") is not True:
        notes.append(f'{TABLE}: is disabled; write "enable": true to switch it on')
    return Imported({TABLE: {"type": "sse", **carried}}, tuple(notes))
