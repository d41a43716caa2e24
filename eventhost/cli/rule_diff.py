"""What `rule diff` compares: the rules in the files with what was recorded, or with those of another revision."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import typer

from eventhost.cli.offline import read_environment, readable_journal
from eventhost.cli.show import print_problems
from eventhost.errors import ConfigError, EventhostError, EventRejected, NotFound, Problem
from eventhost.rules import Rule, RuleSet
from eventhost.rules.again import Request, chosen
from eventhost.rules.diff import RuleDiff, compare, runs_made, runs_recorded
from eventhost.rules.replay import run_up_of

_GIT_S = 60


def compared(
    root: Path, since: str, upto: str, against: str | None, names: Sequence[str]
) -> tuple[dict[str, Any], list[RuleDiff]]:
    """What was compared, and what differs.

    Raises:
        ConfigError: the rules cannot be used as they are, or it is not known what was done.
        JournalUnusable: nothing was recorded.
    """
    config, rules = read_environment(root)
    if problems := [problem for each in rules.broken.values() for problem in each]:
        raise ConfigError(problems)
    if against is None and config.journal.trace != "all":
        message = f"journal.trace is {config.journal.trace}: what was done is not recorded"
        mend = "name the rules as they were: --against HEAD (a git revision) or --against DIR"
        raise ConfigError([Problem("config.jsonc", message, mend, "journal.trace")])
    old = None if against is None else _rules_of(root, against)
    known = {rule.name: rule for each in (old.rules if old is not None else (), rules.rules) for rule in each}
    try:
        wanted = {rule.name for rule in chosen(known.values(), names)} if names else None
    except NotFound:
        if old is not None:
            raise
        wanted = set(names)  # of what was recorded, a rule that is no more may be meant

    def picked(each: Sequence[Rule]) -> list[Rule]:
        return [rule for rule in each if wanted is None or rule.name in wanted]

    new = picked(rules.rules)

    async def work() -> tuple[dict[str, Any], list[RuleDiff]]:
        with readable_journal(config) as journal:
            try:
                span = await Request(since=since, upto=upto).span(journal)
            except EventRejected as error:
                raise typer.BadParameter(str(error)) from None
            before_rules = picked(old.rules) if old is not None else []
            run_up_ms = run_up_of([*before_rules, *new])
            after = await runs_made(journal, new, span, run_up_ms)
            if old is None:
                before = await runs_recorded(journal, span)
                before = {name: runs for name, runs in before.items() if wanted is None or name in wanted}
            else:
                before = await runs_made(journal, before_rules, span, run_up_ms)
            told = {"first": span.after + 1, "last": span.upto, "against": against or "what was recorded"}
            return told, await compare(journal, new, before, after)

    return anyio.run(work)


def _rules_of(root: Path, against: str) -> RuleSet:
    """The rules of a folder, or of a git revision of the environment."""
    if (folder := Path(against).expanduser()).is_dir():
        _, rules = read_environment(folder.absolute())
        print_problems([problem for each in rules.broken.values() for problem in each])
        return rules
    with tempfile.TemporaryDirectory(prefix="eventhost-") as place:
        _extract(root, against, Path(place))
        _, rules = read_environment(Path(place))
        print_problems([problem for each in rules.broken.values() for problem in each])
        return rules


def _extract(root: Path, revision: str, place: Path) -> None:
    """Write the environment as it was at a git revision to `place`."""
    if revision.startswith("-"):
        raise typer.BadParameter(f"{revision} is neither a folder nor a git revision", param_hint="--against")
    try:
        archive = subprocess.run(
            ["git", "-C", str(root), "archive", "--format=tar", f"{revision}:./"],
            capture_output=True,
            check=True,
            timeout=_GIT_S,
        ).stdout
    except FileNotFoundError:
        raise EventhostError("git is not installed; name a folder with the rules as they were") from None
    except subprocess.TimeoutExpired:
        raise EventhostError(f"git took more than {_GIT_S} s; name a folder with the rules as they were") from None
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip().splitlines()
        raise typer.BadParameter(
            f"{revision} is neither a folder nor a git revision of {root}: {reason[-1] if reason else 'git failed'}",
            param_hint="--against",
        ) from None
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(place, filter="data")
