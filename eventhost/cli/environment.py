"""Commands about an environment's files: make one, check it, take over what another program has configured."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import eventhost
from eventhost.cli.show import print_problems, printable
from eventhost.cli.target import CONFIG_FILE, SOURCES_FOLDER, EnvOption, folder
from eventhost.errors import ConfigError, EventhostError, Problem

if TYPE_CHECKING:
    from eventhost.config import EnvironmentConfig

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
        from eventhost.schema import write_schemas

        write_schemas(directory)
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
    """Check the configuration without running it, and run the rules' tests.

    Exit code 2 and every problem if something is wrong, 1 if a test fails.
    """
    root = folder(env)
    from eventhost.cli.rule import print_failed, run_tests
    from eventhost.rules import RuleSet, read_rules

    config, problems = _read(root)
    problems += _stale_schemas(root)
    problems += _missing_key(config)
    rules, tests = RuleSet(), ""
    try:
        rules = read_rules(config)
        problems += [problem for each in rules.broken.values() for problem in each]
    except ConfigError as error:
        problems += error.problems
    problems = list(dict.fromkeys(problems))
    failed: Sequence[object] = ()
    if not any(problem.fatal for problem in problems):
        cases, failed, wrong = run_tests(config, rules)
        problems += wrong
        tests = f", {len(cases)} tests" + (f" ({len(failed)} failed)" if failed else "") if cases else ""
        print_failed(failed)
    print_problems(problems)
    if any(problem.fatal for problem in problems):
        raise typer.Exit(2)
    disabled = sum(not source.enabled for source in config.sources.values())
    print(
        f"{config.id}: {len(config.sources)} sources"
        + (f" ({disabled} disabled)" if disabled else "")
        + (f", {len(config.clients)} tool servers" if config.clients else "")
        + f", {len(rules.rules)} rules{tests}"
    )
    if failed:
        raise typer.Exit(1)


def _read(root: Path) -> tuple[EnvironmentConfig, list[Problem]]:
    """The configuration, or if it cannot be used the rules in it, and everything that is wrong but for the rules."""
    from eventhost.config import EnvironmentConfig, Tree, check_environment, load_environment
    from eventhost.config.folders import read_tree
    from eventhost.config.rulefiles import read_rule_files

    try:
        config = load_environment(root)
    except ConfigError:
        files = read_rule_files(root)
        try:
            tree = read_tree(root, root, required=True)
        except ConfigError:
            tree = None
        rules = tree.at("rules") if tree is not None and isinstance(tree.at("rules").value, list) else Tree(None)
        return EnvironmentConfig(root, rules, files.lists, files.broken), check_environment(root)
    return config, [*(problem for each in config.broken.values() for problem in each), *config.warnings]


def _missing_key(config: EnvironmentConfig) -> list[Problem]:
    from eventhost.web.access.keys import read_keys

    http = config.http
    try:
        # What a name stands for, this machine may say otherwise than the one that will run it.
        alone = not http.enabled or http.host == "localhost" or ip_address(http.host).is_loopback
    except ValueError:
        alone = True
    try:
        if (alone and http.auth == "auto") or read_keys(config.root):
            return []
    except ConfigError as error:
        return list(error.problems)
    message = "nobody may ask as yet" if alone else "the host does not start on this address as yet"
    mend = "make a key: eventhost key create NAME --scope read"
    return [Problem(CONFIG_FILE, message, mend, "http.auth" if alone else "http.host", fatal=False)]


def _stale_schemas(root: Path) -> list[Problem]:
    from eventhost.schema import FOLDER, KINDS_OF_FILES, file_name, schema_text

    for kind in KINDS_OF_FILES:
        path = root / FOLDER / file_name(kind)
        if path.is_file() and path.read_text("utf-8", "replace") != schema_text(kind):
            message = "is of another version of eventhost"
            mend = "run `eventhost schema --write`"
            return [Problem(f"{FOLDER}/{file_name(kind)}", message, mend, fatal=False)]
    return []


@app.command("import", rich_help_panel=_PANEL)
def import_clients(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A file with mcpServers, as desktop clients write it, or with [mcp_sse]."),
    ],
    env: EnvOption = None,
) -> None:
    """Take over the MCP servers that another program has configured, as clients of this environment."""
    config = (folder(env) / CONFIG_FILE).resolve()
    from eventhost.config.clients import add_clients, read_clients
    from eventhost.config.mcp_sse import read_mcp_sse

    imported = read_mcp_sse(file) if file.suffix == ".toml" else read_clients(file)
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
