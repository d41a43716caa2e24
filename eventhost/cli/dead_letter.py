"""Commands about dead letters: what failed for good, to be seen, tried once more, or discarded."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from eventhost.cli.control import Host
from eventhost.cli.show import JsonOption, clock, print_json, print_rows, printable, styled
from eventhost.cli.target import EnvOption, connect, folder, is_url
from eventhost.errors import ConnectionLost

app = typer.Typer(no_args_is_help=True, help="See what failed for good; try it once more, or discard it.")

Ids = Annotated[
    list[int] | None, typer.Argument(metavar="[ID]...", help="Dead letters, as `list` numbers them.", min=1)
]
RuleOption = Annotated[str | None, typer.Option("--rule", metavar="NAME", help="All of this rule.")]
AllOption = Annotated[bool, typer.Option("--all", help="All there are.")]

_COLUMNS: Final = ("id", "given up", "rule", "action", "attempts", "event", "type", "error")
_PAGE: Final = 200
_AT_ONCE: Final = 200
"""Dead letters that a host is asked about at once; it takes 1,000 at most."""

Letter = Mapping[str, Any]
_Batch = tuple[Sequence[Letter], Sequence[str]]
"""Letters to which it was done, and what was said of those to which it cannot be."""


@app.command("list")
def list_letters(
    rule: Annotated[str | None, typer.Option("--rule", metavar="NAME", help="Only those of this rule.")] = None,
    as_json: JsonOption = False,
    env: EnvOption = None,
) -> None:
    """List the runs that failed for good, oldest first; without a running host, as its journal has them."""
    letters, discarded = _read(
        env,
        lambda host: (list(_pages(host, rule)), host.get("/status")["dead_letters"]["discarded"]),
        lambda root: (_from_file(root, rule), 0),
    )
    if as_json:
        print_json(letters)
    else:
        print_rows(_COLUMNS, map(_row, letters))
    if discarded:
        print(
            f"eventhost: {discarded} older ones were discarded since the host started: there were more than "
            "journal.retention.deadLetters allows",
            file=sys.stderr,
        )


def _row(letter: Letter) -> tuple[str, ...]:
    error = str(letter["error"])
    return (
        str(letter["id"]),
        clock(letter["at_ms"]),
        letter["rule"],
        f"{letter['action']} ({letter['place']})",
        str(letter["attempts"]),
        f"{letter['seq']} {letter['event']}" + (f" and {letter['events'] - 1} more" if letter["events"] > 1 else ""),
        letter["type"],
        f"(is tried once more) {error}" if letter["retrying"] else error,
    )


@app.command()
def show(
    number: Annotated[int, typer.Argument(metavar="ID", min=1, help="Its number, as `list` shows it.")],
    as_json: JsonOption = False,
    env: EnvOption = None,
) -> None:
    """Show one dead letter, with the whole error and its events."""
    letter = _read(env, lambda host: host.get(f"/dead-letters/{number}"), lambda root: _one_from_file(root, number))
    if as_json:
        print_json(letter)
        return
    from json import dumps

    print_rows(
        ("", ""),
        [
            ("dead letter", letter["id"]),
            ("rule", letter["rule"]),
            ("action", f"{letter['action']} ({letter['place']} in do)"),
            ("attempts", letter["attempts"]),
            ("given up", clock(letter["at_ms"])),
            ("tried once more", "at this moment" if letter["retrying"] else "no"),
        ],
    )
    print(printable(letter["error"]))
    for entry in letter["entries"]:
        event = entry["event"]
        source = event["metadata"].get("source_name", "")
        where = f"{clock(event['timestamp'])} #{entry['seq']}"
        print(f"{styled(where, '2')} {printable(str(source))} {styled(printable(event['type']), '1')}")
        print(f"    id {printable(event['id'])}")
        for name in ("metadata", "payload"):
            print(f"    {name} {printable(dumps(event[name], ensure_ascii=False))}")


@app.command()
def retry(
    numbers: Ids = None,
    rule: RuleOption = None,
    everything: AllOption = False,
    as_json: JsonOption = False,
    env: EnvOption = None,
) -> None:
    """Have the running host do what failed once more, from its first action on.

    A dead letter is gone when that has succeeded, and replaced by a new one if it fails again.
    """
    _check(numbers, rule, everything)
    host = connect(env)
    _tell(_have(host, "retry", numbers, rule), "retrying", as_json)


@app.command()
def discard(
    numbers: Ids = None,
    rule: RuleOption = None,
    everything: AllOption = False,
    as_json: JsonOption = False,
    env: EnvOption = None,
) -> None:
    """Forget dead letters, for good; with or without a running host."""
    _check(numbers, rule, everything)

    def by_host(host: Host) -> None:
        _tell(_have(host, "discard", numbers, rule), "discarded", as_json)

    def in_file(root: Path) -> None:
        letters = {letter["id"]: letter for letter in _from_file(root, rule)}
        chosen = list(dict.fromkeys(numbers or letters))
        found = [letters[number] for number in chosen if number in letters]
        _bury(root, [letter["id"] for letter in found])
        _tell([(found, [_missing(number) for number in chosen if number not in letters])], "discarded", as_json)

    _read(env, by_host, in_file)


def _check(numbers: Sequence[int] | None, rule: str | None, everything: bool) -> None:
    if (bool(numbers), rule is not None, everything).count(True) != 1:
        raise typer.BadParameter("say which: some IDs, or --rule NAME, or --all")


def _have(host: Host, verb: str, numbers: Sequence[int] | None, rule: str | None) -> Iterator[_Batch]:
    """Have the host do it to these, or to all that there are now: some at once, so that each is told soon."""
    waiting = list(numbers or [letter["id"] for letter in _pages(host, rule)])
    while waiting:
        chosen, waiting = waiting[:_AT_ONCE], waiting[_AT_ONCE:]
        answer = host.post(f"/dead-letters/{verb}", {"ids": chosen})
        waiting = answer["left"] + waiting
        yield answer["dead_letters"], [refused["error"] for refused in answer["refused"]]


def _tell(batches: Iterable[_Batch], done: str, as_json: bool) -> None:
    """Tell of each to which it was done, and at the end of those to which it cannot be."""
    letters: list[Letter] = []
    refused: Counter[str] = Counter()
    try:
        for batch, errors in batches:
            letters += batch
            refused.update(errors)
            if as_json:
                continue
            for letter in batch:
                event = f"event {letter['seq']}, {letter['type']}"
                print(f"{done} {letter['id']}: {printable(letter['rule'])}, {printable(event)}", flush=True)
    finally:
        if as_json:
            print_json(letters)
    for message, count in refused.items():
        print(f"eventhost: {printable(message)}" + (f" ({count} times)" if count > 1 else ""), file=sys.stderr)
    if refused:
        raise typer.Exit(1)
    if not letters:
        print("eventhost: there are no dead letters", file=sys.stderr)


def _read(env: str | None, online: Callable[[Host], Any], offline: Callable[[Path], Any]) -> Any:
    """What the host says, or the file if no host is running."""
    host = connect(env)
    try:
        # Whether it is there, and nothing else, decides who is asked.
        host.get("/health")
    except ConnectionLost:
        if env is not None and is_url(env):
            raise
        root = folder(env)
    else:
        return online(host)
    return offline(root)


def _pages(host: Host, rule: str | None) -> Iterator[Letter]:
    after = 0
    while page := host.get("/dead-letters", rule=rule, after=after, limit=_PAGE)["dead_letters"]:
        yield from page
        after = page[-1]["id"]


def _from_file(root: Path, rule: str | None) -> list[Letter]:
    import anyio

    from eventhost.cli.offline import existing_journal
    from eventhost.journal.file import JournalFile
    from eventhost.rules.letters import in_short

    async def read() -> list[Letter]:
        found: list[Letter] = []
        with JournalFile(existing_journal(root)) as journal:
            while letters := await journal.dead_letters(rule, found[-1]["id"] if found else 0, _PAGE):
                found += map(in_short, letters)
        return found

    return anyio.run(read)


def _one_from_file(root: Path, number: int) -> Letter:
    import anyio

    from eventhost.cli.offline import existing_journal
    from eventhost.journal.file import JournalFile
    from eventhost.rules.letters import in_full, only

    with JournalFile(existing_journal(root)) as journal:
        return in_full(only(anyio.run(journal.dead_letters, None, number - 1, 1), number))


def _bury(root: Path, numbers: Sequence[int]) -> None:
    import anyio

    from eventhost.cli.offline import existing_journal, journal_to_write
    from eventhost.journal import Change

    async def write() -> None:
        async with journal_to_write(existing_journal(root)) as journal:
            await journal.save(Change(buried=numbers))

    anyio.run(write)


def _missing(number: int) -> str:
    return f"there is no dead letter {number}; `eventhost dead-letter list` shows what there is"
