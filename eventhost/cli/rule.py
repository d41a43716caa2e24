"""Commands about rules: how they fare, what they would do about an event, and whether their tests pass."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from eventhost.cli.offline import read_environment
from eventhost.cli.show import JsonOption, clock, duration, print_json, print_problems, print_rows, printable, styled
from eventhost.cli.target import EnvOption, connect, folder, is_url
from eventhost.errors import ConfigError, ConnectionLost, EventRejected, NotFound, Problem

if TYPE_CHECKING:
    from eventhost.config import EnvironmentConfig
    from eventhost.event import SourceProfile
    from eventhost.journal import Entry
    from eventhost.rules import Rule, RuleSet
    from eventhost.rules.cases import Case, Difference
    from eventhost.rules.diff import RuleDiff
    from eventhost.rules.trial import Trial

app = typer.Typer(no_args_is_help=True, help="See rules, try them on an event, run their tests.")

RuleName = Annotated[str, typer.Argument(metavar="NAME", help="The rule's name.")]

FEW = 20
"""With no more rules than these, each is told about; with more, those that do not match are counted."""

_COLUMNS = ("name", "state", "on", "matched", "delivered", "failed", "suppressed", "waiting", "last error")
_FATES = {"runs": "32", "held": "33", "suppressed": "33", "error": "31"}


@app.command("list")
def list_rules(
    glob: Annotated[str, typer.Argument(metavar="[GLOB]", help="Only rules with such a name: 'door-*'.")] = "*",
    as_json: JsonOption = False,
    env: EnvOption = None,
) -> None:
    """List the rules and how they fare since the host started; without a running host, as the files have them."""
    try:
        host = connect(env)
        answer = host.get("/rules", name=glob)
        about = f"counted since the host started, {duration(host.get('/status')['uptime_s'])} ago"
    except ConnectionLost:
        if env is not None and is_url(env):
            raise
        answer = _from_files(folder(env), glob)
        about = "no host is running; this is what the files say"
    print(f"eventhost: {about}", file=sys.stderr)
    if as_json:
        print_json(answer)
    else:
        print_rows(_COLUMNS, [_row(rule) for rule in answer["rules"]])
    for file, problems in answer["broken"].items():
        texts = [str(Problem(**problem)) for problem in problems]
        more = f"; {len(texts) - 1} more, see `eventhost check`" if len(texts) > 1 else ""
        print(f"eventhost: {printable(file)} cannot be used as it is: {printable(texts[0])}{more}", file=sys.stderr)


def _row(rule: Mapping[str, Any]) -> tuple[str, ...]:
    counts = [rule.get(name) for name in ("matched", "delivered", "failed")]
    suppressed: Mapping[str, int] = rule.get("suppressed", {})
    waiting = rule["queued"] + rule["held"] + rule["running"] if "queued" in rule else None
    return (
        rule["name"],
        rule["state"],
        ", ".join(rule["on"]),
        *("" if count is None else str(count) for count in counts),
        ", ".join(f"{count} {verdict}" for verdict, count in suppressed.items()),
        "" if waiting is None else str(waiting),
        rule.get("last_error") or "",
    )


def _from_files(root: Path, glob: str) -> dict[str, Any]:
    from fnmatch import fnmatchcase

    _, rules = read_environment(root)
    return {
        "rules": [
            {"name": rule.name, "file": file, "on": rule.on, "state": "stopped" if rule.enabled else "disabled"}
            for file, group in rules.files.items()
            for rule in group
            if fnmatchcase(rule.name, glob)
        ],
        "broken": {file: [problem._asdict() for problem in problems] for file, problems in rules.broken.items()},
    }


@app.command()
def enable(name: RuleName, env: EnvOption = None) -> None:
    """Enable a rule for good, whatever its file says; it starts from now."""
    _switch(name, "enable", env)


@app.command()
def disable(name: RuleName, env: EnvOption = None) -> None:
    """Disable a rule for good, whatever its file says; what it still owes is forgotten."""
    _switch(name, "disable", env)


def _switch(name: str, verb: str, env: str | None) -> None:
    rule = connect(env).post(f"/rules/{quote(name, safe='')}/{verb}")
    print_rows(("name", "state"), [(rule["name"], rule["state"])])


@app.command("test")
def try_rules(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Only this rule, and why it would not run.")
    ] = None,
    event: Annotated[
        str | None,
        typer.Option("--event", metavar="FILE|-|JSON", help="The event; - reads it from stdin.", show_default="stdin"),
    ] = None,
    at: Annotated[
        str | None, typer.Option(metavar="TIME", help="When it is accepted (ISO 8601).", show_default="now")
    ] = None,
    run_all: Annotated[bool, typer.Option("--all", help="Run the tests in rules/tests/ instead.")] = False,
    verbose: Annotated[
        bool, typer.Option("--all-rules", "-v", help="Tell about every rule, however many do not match.")
    ] = False,
    as_json: JsonOption = False,
    env: EnvOption = None,
) -> None:
    """Tell what the rules would do about an event, or run their tests. Nothing is executed, no host is needed.

    Exit code 1 when the rule NAME would not run, or a test fails; 2 when the configuration must be mended.
    """
    root = folder(env)
    if run_all and (name is not None or event is not None):
        raise typer.BadParameter("--all runs all tests, and takes neither a rule nor an event")
    said = None if run_all else _said(event)
    config, rules = read_environment(root)
    problems = [problem for each in rules.broken.values() for problem in each]
    print_problems(problems)
    if run_all:
        failed = _run_tests(config, rules, as_json)
    else:
        entry = _entry(said, at, config)
        failed = _try(rules.rules, entry, name, verbose, as_json)
    if problems or failed:
        raise typer.Exit(2 if problems else 1)


# Trying an event.


def _said(event: str | None) -> tuple[Any, str]:
    """What is said of the event, and what messages call the place where that stands."""
    if event is None and sys.stdin.isatty():
        mend = """give one: --event FILE, or echo '{"type": "door.opened"}' | eventhost rule test"""
        raise typer.BadParameter(f"an event is missing; {mend}", param_hint="--event")
    from eventhost.config.jsonc import parse

    if event is None or event == "-":
        text, place = sys.stdin.read(), "stdin"
    elif event.lstrip().startswith("{"):
        text, place = event, "--event"
    else:
        place = event
        try:
            text = Path(event).read_bytes().decode()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise typer.BadParameter(f"{event} cannot be read: {reason}", param_hint="--event") from error
    return parse(text, place), place


def _entry(said: tuple[Any, str] | None, at: str | None, config: EnvironmentConfig) -> Entry:
    import time

    from eventhost.journal import Entry
    from eventhost.rules.cases import event_of, moment_ms

    assert said is not None
    value, place = said
    try:
        at_ms = int(time.time() * 1000) if at is None else moment_ms(int(at) if at.isdecimal() else at)
    except EventRejected as error:
        raise typer.BadParameter(str(error).removeprefix("timestamp: "), param_hint="--at") from error
    try:
        return Entry(1, at_ms, event_of(value, at_ms, profiles_of(config)))
    except EventRejected as error:
        raise ConfigError([Problem(place, str(error), 'write {"type": "door.opened", "payload": {}}')]) from error


def profiles_of(config: EnvironmentConfig) -> dict[str, SourceProfile]:
    """How the events of each configured source are made."""
    from eventhost.event import SourceProfile

    return {
        source.name: SourceProfile(source.name, source.event_types, source.metadata)
        for source in config.sources.values()
    }


def _try(rules: Sequence[Rule], entry: Entry, name: str | None, verbose: bool, as_json: bool) -> bool:
    """Print what the rules would do; return whether the rule `name` would not run."""
    from eventhost.pattern.match import as_json as event_json
    from eventhost.rules.trial import concerns, try_rule

    if name is not None:
        rules = [_named(rules, name)]
    every = verbose or name is not None or len(rules) <= FEW
    trials = [try_rule(rule, entry) for rule in rules if every or (rule.enabled and concerns(rule, entry))]
    if not every:
        # A condition that cannot be told is a mistake more often than not.
        trials = [trial for trial in trials if trial.fate.matches or trial.fate == "error"]
    others = len(rules) - len(trials)
    if as_json:
        event = {**event_json(entry.event), "at_ms": entry.at_ms}
        print_json({"event": event, "rules": [trial.to_json() for trial in trials], "others": others})
    else:
        for trial in trials:
            _print_trial(trial, entry)
        if others:
            print(f"{others} other rules do not match; name one to see why, or add --all-rules")
        elif not rules:
            print("there are no rules")
    return name is not None and not trials[0].fate.runs


def _named(rules: Sequence[Rule], name: str) -> Rule:
    found = next((rule for rule in rules if rule.name == name), None)
    if found is None:
        from eventhost.config.wording import did_you_mean

        mend = did_you_mean(name, [rule.name for rule in rules]) or "`eventhost rule list` shows all"
        raise NotFound(f'no rule is called "{name}"; {mend}')
    return found


def _print_trial(trial: Trial, entry: Entry) -> None:
    from eventhost.rules.cases import reason

    fate = trial.fate
    said = {"runs": "would run", "held": "would run later", "suppressed": "would not run", "error": "cannot be told"}
    print(f"{styled(printable(trial.rule), '1')}: {styled(said.get(fate, fate), _FATES.get(fate, '2'))}")
    if trial.stop is not None:
        print(f"    {printable(reason(trial))}")
    if not fate.matches:
        return
    if trial.shaping:
        print(f"    shaped by {', '.join(f'{key} {_compact(value)}' for key, value in trial.shaping.items())}")
    if trial.due_ms is not None:
        later = duration((trial.due_ms - entry.at_ms) / 1000)
        print(f"    held for {later}, until {clock(trial.due_ms)}, if nothing else comes")
    for action in trial.actions:
        print(f"    {printable(action_line(action.to_json()))}")


def action_line(action: Mapping[str, Any]) -> str:
    """What an action would do, in one line; of the JSON of an `ActionTrial`."""
    if "skipped_by" in action:
        return f"{action['kind']}: skipped, since {action['skipped_by']} does not hold"
    if "error" in action:
        missing = [seen_line(one) for one in action["seen"]]
        return "; ".join([f"{action['kind']}: would fail: {action['error']}", *missing])
    return _compact(action["does"]) + (f" if {action['depends_on']}" if "depends_on" in action else "")


def seen_line(one: Mapping[str, Any]) -> str:
    """What a clause saw, in one line; of the JSON of a `Seen`."""
    from eventhost.rules.seen import short

    if "value" in one:
        return f"{one['field']} is {short(one['value'])}"
    hint = f"; did you mean {one['did_you_mean']}?" if "did_you_mean" in one else ""
    return f"{one['field']} is not there{hint}"


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


# Running tests.


def run_tests(
    config: EnvironmentConfig, rules: RuleSet
) -> tuple[list[Case], list[tuple[Case, list[Difference]]], list[Problem]]:
    """All tests of an environment, those that fail, and what is wrong with their files."""
    from eventhost.rules.cases import event_of, read_cases, run_case

    profiles = profiles_of(config)
    rules = rules.switch({})  # what was switched by hand on this machine is no matter of the files'
    cases, problems = read_cases(config.root, rules.rules, lambda said, at_ms: event_of(said, at_ms, profiles))
    failed = [(case, found) for case in cases if (found := run_case(case, rules.rules))]
    return cases, failed, problems


def print_failed(failed: Sequence[tuple[Case, Sequence[Difference]]]) -> None:
    """Say of each test that fails what is not as it says."""
    for case, differences in failed:
        print(f"{styled('failed', '31')} {printable(case.place)} {printable(case.name)}".rstrip())
        for difference in differences:
            print(f"    {printable(str(difference))}")


def _run_tests(config: EnvironmentConfig, rules: RuleSet, as_json: bool) -> bool:
    cases, failed, problems = run_tests(config, rules)
    print_problems(problems)
    if as_json:
        found = [{"place": case.place, "name": case.name, "differences": list(map(str, each))} for case, each in failed]
        print_json({"tests": len(cases), "failed": found, "problems": [problem._asdict() for problem in problems]})
    else:
        print_failed(failed)
        print(f"{len(cases)} tests, {len(failed)} failed")
    if any(problem.fatal for problem in problems):
        raise typer.Exit(2)
    return bool(failed)


# What edited rules change.


@app.command("diff")
def diff(
    since: Annotated[
        str, typer.Option(metavar="SEQ|TIME|DURATION", help="From where on: 42, 2026-11-20T08:00, 7d ago.")
    ] = "7d",
    upto: Annotated[str, typer.Option("--to", metavar="SEQ|TIME|DURATION", help="Where to end.")] = "now",
    against: Annotated[
        str | None,
        typer.Option(
            metavar="REVISION|DIR",
            help="The rules of a git revision, or of another folder.",
            show_default="what was recorded",
        ),
    ] = None,
    rules: Annotated[
        list[str] | None,
        typer.Option("--rule", "-r", metavar="NAME", help="Only these rules, globs too; may be repeated."),
    ] = None,
    as_json: JsonOption = False,
    env: EnvOption = None,
) -> None:
    """Tell what the rules in the files would have done on recorded events, against what was done. Executes nothing.

    Exit code 1 when something differs.
    """
    from eventhost.cli.rule_diff import compared

    span, diffs = compared(folder(env), since, upto, against, rules or [])
    differing = [one for one in diffs if one.differs]
    if as_json:
        print_json({**span, "rules": [one.to_json() for one in differing], "same": len(diffs) - len(differing)})
    else:
        for one in differing:
            _print_diff(one)
        print(
            f"{len(differing)} rules differ on the events {span['first']} to {span['last']}, "
            f"{len(diffs) - len(differing)} do not; against {span['against']}"
        )
    if differing:
        raise typer.Exit(1)


def _print_diff(one: RuleDiff) -> None:
    from eventhost.rules.cases import reason

    added, missing = styled(f"+{len(one.added)}", "32"), styled(f"-{len(one.missing)}", "31")
    print(f"{styled(printable(one.rule), '1')}: {one.before} runs before, {one.after} now: {added} {missing}")
    for sign, examples in (("+", one.examples_added), ("-", one.examples_missing)):
        for example in examples:
            entry, trial = example.entry, example.trial
            why = f"; {reason(trial)}" if sign == "-" and trial is not None and trial.stop is not None else ""
            print(f"    {sign} {printable(f'#{entry.seq} {entry.event.type}, {clock(entry.at_ms)}{why}')}")
    for sign, count, shown in (
        ("+", len(one.added), len(one.examples_added)),
        ("-", len(one.missing), len(one.examples_missing)),
    ):
        if count > shown:
            print(f"    {sign} and {count - shown} more")
