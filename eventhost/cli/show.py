"""What a command prints: tables and color for a person at a terminal, plain lines for a program, JSON when asked."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eventhost.errors import Problem

if TYPE_CHECKING:
    from rich.table import Table

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_COLORS = {"running": "green", "connecting": "yellow", "backoff": "yellow", "disconnected": "yellow", "error": "red"}


def at_terminal() -> bool:
    """Whether a person reads stdout."""
    return sys.stdout.isatty()


def print_json(value: Any) -> None:
    """`value` as JSON: indented for a person, on one line for a program."""
    print(json.dumps(value, ensure_ascii=False, indent=2 if at_terminal() else None))


def print_rows(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table at a terminal; else one line for each row, its cells separated by tabs."""
    if at_terminal():
        from rich.console import Console

        Console().print(table(columns, rows))
        return
    for row in rows:
        print("\t".join(printable(str(cell)) for cell in row))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table for a terminal; cells that are a state have its color."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    named = any(columns)
    result = Table(*columns, box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, show_header=named)
    for row in rows:
        cells = [printable(str(cell)) for cell in row]
        result.add_row(*(Text(cell, style=_COLORS.get(cell, "dim" if cell == "stopped" else "")) for cell in cells))
    return result


def styled(text: str, style: str) -> str:
    """`text` in an ANSI style (`"1"` bold, `"2"` dim, `"36"` cyan), where a person reads it and wants color."""
    return f"\x1b[{style}m{text}\x1b[0m" if at_terminal() and not os.environ.get("NO_COLOR") else text


def printable(text: str) -> str:
    """`text` on one line, without anything that a terminal would take as a command."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def clock(timestamp_ms: int | None) -> str:
    """A moment as this machine's wall clock shows it; empty for None."""
    if timestamp_ms is None:
        return ""
    try:
        return datetime.fromtimestamp(timestamp_ms / 1000).isoformat(" ", "milliseconds")
    except (OverflowError, OSError, ValueError):
        # An event may claim any moment; not every one has a date.
        return str(timestamp_ms)


def duration(seconds: float | None) -> str:
    """A duration in its two largest units; empty for None."""
    if seconds is None:
        return ""
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86_400)
    if days:
        return f"{days}d {hours % 24}h"
    if hours:
        return f"{hours}h {minutes % 60}m"
    return f"{minutes}m {int(seconds) % 60}s" if minutes else f"{seconds:.0f}s"


def size(count: int | None) -> str:
    """A number of bytes in megabytes; empty for None."""
    return "" if count is None else f"{count / 1_000_000:.0f} MB"


def print_problems(problems: Sequence[Problem]) -> None:
    """Say everything that is wrong, on stderr."""
    for problem in problems:
        print(("" if problem.fatal else "warning: ") + printable(str(problem)), file=sys.stderr)
