"""Commands about API keys: make one, see which there are, revoke one. A running host notices at once."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from eventhost.access import Access
from eventhost.cli.show import JsonOption, print_json, print_rows
from eventhost.cli.target import EnvOption, folder

app = typer.Typer(no_args_is_help=True, help="Make and revoke the keys by which others may ask the host over HTTP.")


class Scope(StrEnum):
    """What a key can be for."""

    READ = Access.READ.value
    PUBLISH = Access.PUBLISH.value
    ADMIN = Access.ADMIN.value


Name = Annotated[str, typer.Argument(metavar="NAME", help="Whose it is, or what it is for.")]


@app.command()
def create(
    name: Name,
    scope: Annotated[
        list[Scope],
        typer.Option(help="What it is for; give it again for more. admin includes the others, publish not read."),
    ],
    rate_limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Requests a minute, instead of the config's own limit.")
    ] = None,
    as_json: JsonOption = False,
    env: EnvOption = None,
) -> None:
    """Make a key, and print it: it is kept nowhere, and cannot be shown again."""
    root = folder(env)
    from eventhost.web.access.keys import create_key

    key = create_key(root, name, map(Access, scope), rate_limit)
    if as_json:
        print_json({"name": name, "scopes": sorted({str(each) for each in scope}), "key": key})
        return
    print(key)
    print(f"this is the only time that the key {name} is shown; send it as X-API-Key", file=sys.stderr)


@app.command("list")
def list_keys(as_json: JsonOption = False, env: EnvOption = None) -> None:
    """List the keys: what each may, since when there is one, and when a host last saw it."""
    root = folder(env)
    from eventhost.web.access.keys import last_used, read_keys

    keys, used = read_keys(root), last_used(root)
    if as_json:
        listed = [
            {
                "name": key.name,
                "scopes": sorted(key.scopes),
                "rate_limit": key.rate_limit,
                "created": key.created,
                "last_used": used.get(key.id),
            }
            for key in keys
        ]
        print_json(listed)
        return
    columns = ("name", "scopes", "requests a minute", "created", "last used")
    rows = (
        (key.name, ", ".join(sorted(key.scopes)), key.rate_limit or "", key.created, used.get(key.id, "never"))
        for key in keys
    )
    print_rows(columns, rows)


@app.command()
def revoke(name: Name, env: EnvOption = None) -> None:
    """Make a key open nothing any longer; streams that were opened with it end."""
    root = folder(env)
    from eventhost.web.access.keys import revoke_key

    revoke_key(root, name)
    print(f"revoked {name}")
