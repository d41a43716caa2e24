"""Which environment a command is about: a folder on this machine, or the URL of a host that runs somewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from eventhost.errors import ConfigError, Problem

if TYPE_CHECKING:
    from eventhost.cli.control import Host

ENV_VARIABLE: Final = "EVENTHOST_ENV"
CONFIG_FILE: Final = "config.jsonc"
SOURCES_FOLDER: Final = "eventsources"

EnvOption = Annotated[
    str | None,
    typer.Option(
        "--env",
        "-e",
        envvar=ENV_VARIABLE,
        metavar="DIR|URL",
        help="The environment's folder, or the URL of a running host.",
        show_default="the current directory, or the nearest above with a config.jsonc",
    ),
]


def folder(env: str | None) -> Path:
    """The environment's folder; absolute.

    Raises:
        ConfigError: there is none, or `env` is a URL and this command needs the files.
    """
    if env is None:
        here = Path.cwd()
        for candidate in (here, *here.parents):
            # A source's folder has a config.jsonc too.
            if (candidate / CONFIG_FILE).is_file() and candidate.parent.name != SOURCES_FOLDER:
                return candidate
        raise ConfigError(
            [
                Problem(
                    CONFIG_FILE,
                    f"found neither in {here} nor above it",
                    "make an environment with `eventhost init`, or name one with --env DIR",
                )
            ]
        )
    if is_url(env):
        raise ConfigError([Problem(env, "this command needs the environment's files", "give its folder: --env DIR")])
    root = Path(env).expanduser().absolute()
    if not root.is_dir():
        raise ConfigError([Problem(env, "there is no such folder", "make it with `eventhost init DIR`")])
    return root


def connect(env: str | None) -> Host:
    """The running host of an environment; nothing is sent yet.

    Raises:
        ConfigError: as `folder`.
    """
    from eventhost.cli.control import Host

    if env is not None and is_url(env):
        return Host.at_url(env)
    return Host.of_folder(folder(env))


def is_url(env: str) -> bool:
    """Whether an environment is named by its URL."""
    return env.startswith(("http://", "https://"))
