"""Commands about the journal as a whole: copies of it, and its events as text that people and programs can read."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Final

import typer

from eventhost.cli.offline import existing_journal, journal_file
from eventhost.cli.show import JsonOption, print_json, printable
from eventhost.cli.target import EnvOption, connect, folder, is_url
from eventhost.errors import ConnectionLost, EventhostError

if TYPE_CHECKING:
    from eventhost.cli.importing import Taker
    from eventhost.journal.file import Events
    from eventhost.journal.moment import Moment

app = typer.Typer()

_PANEL: Final = "Journal"
_STDIO: Final = Path("-")

CloudEventsOption = Annotated[bool, typer.Option("--cloudevents", help="As CloudEvents 1.0 (JSON).")]


@app.command(rich_help_panel=_PANEL)
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", dir_okay=False, help="Where; an older backup is replaced.")],
    env: EnvOption = None,
) -> None:
    """Copy the journal, beside a running host or without one; what it owes its rules is in it."""
    path = existing_journal(folder(env))
    from eventhost.journal.backup import backup as copy

    head = copy(path, file)
    print(f"{file} has the journal up to event {head}")


@app.command(rich_help_panel=_PANEL)
def restore(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="What `backup` has written.")
    ],
    env: EnvOption = None,
) -> None:
    """Let a backup be the journal, while no host runs; the journal that was there is kept beside it."""
    path = existing_journal(folder(env))
    from eventhost.journal.backup import restore as put_back

    old = put_back(file, path)
    print(f"{path} is what {file} was" + (f"; the journal before is {old}" if old is not None else ""))


@app.command(rich_help_panel=_PANEL)
def export(
    file: Annotated[
        Path,
        typer.Argument(metavar="[FILE|-]", dir_okay=False, allow_dash=True, help="A new file; stdout if left out."),
    ] = _STDIO,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="SEQ|TIME|AGO", help="The first event, or accepted when at the earliest."),
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="SEQ|TIME|AGO", help="The last event, or accepted before when.")
    ] = None,
    types: Annotated[
        list[str] | None,
        typer.Option("--type", "-t", metavar="GLOB", help="Only these types, such as 'door.*'; may be repeated."),
    ] = None,
    cloudevents: CloudEventsOption = False,
    env: EnvOption = None,
) -> None:
    """Write the events that are held, one JSON object a line, beside a running host or without one.

    Times are ISO 8601, or how long ago (7d), or sequence numbers. Without --type the host's own events are among them.
    """
    import anyio

    from eventhost.cli.exporting import export_events

    span = (_moment(start, "--from"), _moment(end, "--to"))
    with _events(env) as journal, _written(file) as out:
        exported = anyio.run(partial(export_events, journal, *span, types, out, cloudevents=cloudevents))
    if exported.missing is not None:
        print(f"eventhost: events {exported.missing} are not held any more", file=sys.stderr)
    if file != _STDIO:
        print(f"{file} has {exported.count} events")


def _moment(text: str | None, option: str) -> Moment | None:
    from eventhost.journal.moment import Moment

    try:
        return None if text is None else Moment.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


@contextmanager
def _events(env: str | None) -> Iterator[Events]:
    """The journal to be read: its file, or the host that alone has it."""
    from eventhost.cli.exporting import HostEvents
    from eventhost.journal.file import JournalFile

    path = None if env is not None and is_url(env) else journal_file(folder(env))
    if path is None:
        yield HostEvents(connect(env))
        return
    with JournalFile(path) as journal:
        yield journal


@contextmanager
def _written(file: Path) -> Iterator[IO[bytes]]:
    """A file that is there only once it is whole."""
    if file == _STDIO:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if file.exists():
        raise typer.BadParameter(f"{file} is there already; name another file, or remove it", param_hint="FILE")
    made = file.with_name(f"{file.name}.making")
    try:
        with made.open("wb") as out:
            yield out
        made.rename(file)
    except OSError as error:
        raise EventhostError(f"{file} cannot be written: {error.strerror}") from error
    finally:
        with suppress(OSError):
            made.unlink(missing_ok=True)


@app.command("import-events", rich_help_panel=_PANEL)
def import_events(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE|-", exists=True, dir_okay=False, allow_dash=True, help="What `export` has written."
        ),
    ],
    cloudevents: CloudEventsOption = False,
    as_json: JsonOption = False,
    env: EnvOption = None,
) -> None:
    """Publish the events in a file, as they are; without a running host, put them into its journal.

    The rules run for them as for any other. Events that the journal holds already are left out.
    """
    root = folder(env)
    import anyio

    from eventhost.cli.importing import Import, by_host, in_file

    taker: Taker = by_host(root) if _runs(root) else in_file(existing_journal(root))
    work = Import(cloudevents)
    try:
        with file.open("rb") if file != _STDIO else sys.stdin.buffer as lines:
            anyio.run(work.run, lines, taker)
    finally:
        for number, reason in work.complaints:
            print(f"eventhost: line {number}: {printable(reason)}", file=sys.stderr)
        if (more := work.refused - len(work.complaints)) > 0:
            print(f"eventhost: {more} more lines were refused", file=sys.stderr)
        if as_json:
            print_json(work.to_json())
        else:
            print(work.summary())
    if work.refused:
        raise typer.Exit(1)


def _runs(root: Path) -> bool:
    try:
        connect(str(root)).get("/health")
    except ConnectionLost:
        return False
    return True
