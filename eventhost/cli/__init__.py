"""The command line. What a command does not need is not imported, so that `emit` and `status` answer at once."""

from eventhost.cli.app import main

__all__ = ["main"]
