"""Commands about an environment's files: make one, check it, take over what another program has configured."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

import eventhost
from eventhost.cli.show import printable
from eventhost.cli.target import CONFIG_FILE, SOURCES_FOLDER, EnvOption, folder
from eventhost.errors import ConfigError, EventhostError

app = typer.Typer()

_PANEL = "Environment"
_HERE = Path(".")
_FOLDERS = (SOURCES_FOLDER, "mcpservers")
_LEFT_OUT = shutil.ignore_patterns("node_modules", "__pycache__", "var", ".*", "config.local.jsonc")
_GITIGNORE = """\
# State, logs and sockets of a running host.
/var/
# Secrets and what holds for this machine alone.
.env
config.local.jsonc
node_modules/
__pycache__/
"""


@app.command(rich_help_panel=_PANEL)
def init(
    directory: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Where; the current directory if left out.")
    ] = Path("."),
) -> None:
    """Make an environment: a config, some event sources, and tool servers to try them with."""
    template = _template()
    taken = [name for name in (CONFIG_FILE, *_FOLDERS) if (directory / name).exists()]
    if taken:
        raise EventhostError(
            f"{directory} already has {' and '.join(taken)}; nothing was changed: choose another folder"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name in _FOLDERS:
            shutil.copytree(template / name, directory / name, ignore=_LEFT_OUT)
        if not (directory / ".gitignore").exists():
            (directory / ".gitignore").write_text(_GITIGNORE, "utf-8")
        # Last: with it the folder is an environment.
        shutil.copyfile(template / CONFIG_FILE, directory / CONFIG_FILE)
    except OSError as error:
        raise EventhostError(f"cannot make an environment in {directory}: {error.strerror}") from error
    print(f"made an environment in {directory.absolute()}")
    print("run it with: eventhost run" + ("" if directory == _HERE else f" --env {directory}"))


def _template() -> Path:
    package = Path(eventhost.__file__).parent
    # An installed package carries it along; in a checkout it is the checkout itself.
    for candidate in (package / "templates", package.parent):
        if (candidate / CONFIG_FILE).is_file() and all((candidate / name).is_dir() for name in _FOLDERS):
            return candidate
    raise EventhostError("this installation has no template to copy; reinstall eventhost")


@app.command(rich_help_panel=_PANEL)
def check(env: EnvOption = None) -> None:
    """Check the configuration without running it; exit code 2 and every problem if something is wrong."""
    root = folder(env)
    from eventhost.config import check_environment, load_environment
    from eventhost.config.folders import read_tree
    from eventhost.rules import parse_rules

    problems = check_environment(root)
    rules: Sequence[object] = ()
    try:
        tree = read_tree(root, root, required=True)
        rules = parse_rules(tree.at("rules"), root) if tree is not None else ()
    except ConfigError as error:
        problems += [problem for problem in error.problems if problem not in problems]
    for problem in problems:
        print(("" if problem.fatal else "warning: ") + printable(str(problem)), file=sys.stderr)
    if any(problem.fatal for problem in problems):
        raise typer.Exit(2)
    config = load_environment(root)
    disabled = sum(not source.enabled for source in config.sources.values())
    print(
        f"{config.id}: {len(config.sources)} sources"
        + (f" ({disabled} disabled)" if disabled else "")
        + f", {len(config.clients)} tool servers, {len(rules)} rules"
    )


@app.command("import", rich_help_panel=_PANEL)
def import_clients(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file with mcpServers, as desktop clients write it.")],
    env: EnvOption = None,
) -> None:
    """Take over the MCP servers that another program has configured, as clients of this environment."""
    config = (folder(env) / CONFIG_FILE).resolve()
    from eventhost.config.clients import add_clients, read_clients

    imported = read_clients(file)
    try:
        text = config.read_bytes().decode()
        _replace(config, add_clients(text, imported.clients, CONFIG_FILE).encode())
    except OSError as error:
        raise EventhostError(f"cannot change {config}: {error.strerror}") from error
    for note in imported.notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    for name in imported.clients:
        print(name)


def _replace(file: Path, content: bytes) -> None:
    """Write `file` so that a running host sees the old content or the new one, never half of it."""
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}-", delete=False) as draft:
        try:
            draft.write(content)
            draft.flush()
            shutil.copymode(file, draft.name)
            os.replace(draft.name, file)
        except BaseException:
            os.unlink(draft.name)
            raise


@app.command(rich_help_panel=_PANEL)
def version() -> None:
    """Show the version."""
    print(f"eventhost {eventhost.__version__}")
