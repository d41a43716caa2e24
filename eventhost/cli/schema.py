"""`schema`: JSON Schemas of the configuration files, for editors and other programs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from eventhost.cli.show import print_rows
from eventhost.cli.target import EnvOption, folder
from eventhost.errors import EventhostError

app = typer.Typer()


@app.command(rich_help_panel="Environment")
def schema(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="[KIND]", help="config, source, rules or rule-tests; without it, which there are."),
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Write all of them into the environment's schemas/.")] = False,
    env: EnvOption = None,
) -> None:
    """Print the JSON Schema of a kind of configuration file, by which editors complete and check it."""
    from eventhost.schema import KINDS_OF_FILES, file_name, schema_text, write_schemas

    if write:
        root = folder(env)
        try:
            written = write_schemas(root)
        except OSError as error:
            raise EventhostError(f"cannot write {root / 'schemas'}: {error.strerror}") from error
        for path in written:
            print(path)
    elif kind is None:
        print_rows(
            ("kind", "of", "file"), [(name, title, file_name(name)) for name, (title, _) in KINDS_OF_FILES.items()]
        )
    elif kind not in KINDS_OF_FILES:
        raise typer.BadParameter(f"there are {', '.join(KINDS_OF_FILES)}", param_hint="KIND")
    else:
        sys.stdout.write(schema_text(kind))
