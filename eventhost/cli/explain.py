"""`eventhost explain`: what became of one event, for a person to read; from a running host, or from its files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from eventhost.cli.offline import read_environment, readable_journal
from eventhost.cli.rule import seen_line
from eventhost.cli.show import JsonOption, clock, print_json, printable, styled
from eventhost.cli.target import EnvOption, connect, folder, is_url
from eventhost.errors import ConnectionLost

if TYPE_CHECKING:
    pass

app = typer.Typer()

_PANEL = "Events"
_SHOWN = 300
_COLORS = {"delivered": "32", "failed": "31", "nothing": "2", "suppressed": "33", "held": "33", "expired": "33"}
_SAID = {
    "nothing": "did not match",
    "held": "is held",
    "owed": "is being done, or waits for its turn",
    "unseen": "has not come to it yet",
    "unknown": "matches",
}


@app.command(rich_help_panel=_PANEL)
def explain(
    event: Annotated[str, typer.Argument(metavar="EVENT", help="A sequence number, an id, or SOURCE:ID.")],
    rule: Annotated[str | None, typer.Option(metavar="NAME", help="Only this rule.")] = None,
    every: Annotated[
        bool, typer.Option("--all-rules", "-v", help="Tell about every rule, however many do not match.")
    ] = False,
    as_json: JsonOption = False,
    env: EnvOption = None,
) -> None:
    """Tell what became of an event: which rules ran, what they did, which did not run and why, what it caused."""
    try:
        told = connect(env).get(f"/events/{quote(event, safe='')}/explain", rule=rule, all="true" if every else None)
    except ConnectionLost:
        if env is not None and is_url(env):
            raise
        told = _from_files(folder(env), event, rule, every)
    if as_json:
        print_json(told)
        return
    for line in _lines(told):
        print(line)


def _from_files(root: Path, event: str, rule: str | None, every: bool) -> Any:
    import anyio
    import msgspec

    from eventhost.rules.explain import Explanation, explain

    config, rules = read_environment(root)

    async def ask() -> Explanation:
        with readable_journal(config) as journal:
            return await explain(journal, event, rules, root=root, every=every, only=rule)

    return msgspec.to_builtins(anyio.run(ask).to_json())


def _lines(told: Mapping[str, Any]) -> Iterator[str]:
    event = told["event"]
    metadata: Mapping[str, Any] = event["metadata"]
    source = str(metadata.get("source_name", ""))
    yield printable(f"#{event['seq']} {event['type']}") + f" from {printable(source)}"
    yield f"    id {printable(event['id'])}, said for {clock(event['timestamp'])}, accepted {clock(event['at_ms'])}"
    yield f"    payload {_compact(event['payload'])}"
    others = {key: value for key, value in metadata.items() if key not in ("source", "source_name")}
    if others:
        yield f"    metadata {_compact(others)}"
    if raw := told["raw"]:
        yield f"    raw {_raw(raw)}"
    yield f"    normalized: {_normalized(told['normalized'])}"
    duplicate = told["duplicate"]
    again = f"its id was that of #{duplicate['before']} too, with other content" if "before" in duplicate else "no"
    yield f"    duplicate: {again}"
    for cause in told["caused_by"]:
        yield f"    caused by {_event(cause)}"
    yield styled("rules", "1")
    for rule in told["rules"]:
        yield from (f"    {line}" for line in _rule(rule))
    if told["others"]:
        yield f"    {told['others']} other rules do not match; name one with --rule to see why, or add --all-rules"
    elif not told["rules"]:
        yield "    there are no rules"
    if told["caused"]:
        yield styled("events that it caused", "1")
        yield from _tree(told["caused"], "    ")
    if told["caused_cut"]:
        yield f"    (looked for up to #{told['caused_searched_to']}; there may be more)"


def _normalized(told: Mapping[str, Any]) -> str:
    parts = [f"metadata.{key}" for key in told["metadata"]]
    parts += [key for key in ("id", "timestamp") if told[key] == "made"]
    return printable(f"{', '.join(parts)} by the host") if parts else "as it came"


def _raw(raw: Mapping[str, Any]) -> str:
    text = raw["message"] if raw["cut"] else json.dumps(raw["message"], ensure_ascii=False)
    around = f" in {_compact(raw['envelope'])}" if "envelope" in raw else ""
    from_where = "recorded" if raw["recorded"] else "computed"
    return f"({from_where}{', cut' if raw['cut'] else ''}) {printable(_cut(text))}{around}"


def _rule(rule: Mapping[str, Any]) -> Iterator[str]:
    became: str = rule["became"]
    said = styled(_SAID.get(became, became), _COLORS.get(became, "0"))
    if rule["fate"] in ("disabled", "gone"):
        said += " (the rule is disabled by now)" if rule["fate"] == "disabled" else " (there is no such rule any more)"
    if became == "nothing" and rule["fate"] == "error":
        said = styled("its condition could not be told", "31")
    yield f"{styled(printable(rule['rule']), '1')}: {said}"
    if "why" in rule:
        yield f"    {printable(rule['why'])}"
    if became == "nothing" and (stop := rule.get("stopped_by")):
        yield f"    {printable(stopped(stop))}"
    if rule.get("events"):
        yield f"    one of {rule['events']} events of run #{rule['run']}"
    for step in rule.get("steps", ()):
        yield from (f"    {line}" for line in steps(step))
    if letter := rule.get("dead_letter"):
        yield f"    dead letter {letter['id']} of {clock(letter['at_ms'])}: {printable(_cut(letter['error']))}"
    if not rule["recorded"] and became in ("owed", "unseen", "held"):
        yield from (f"    would do: {_compact(action.get('does', action))}" for action in rule.get("actions", ()))
    if rule.get("edited_since"):
        yield "    the rule as it is now would not match: it was edited since"
        if stop := rule.get("stopped_by"):
            yield f"        {printable(stopped(stop))}"
    elif rule.get("file_changed_since") and not rule["recorded"]:
        yield "    its file was changed since the event came; this is by the rule as it is now"


def steps(step: Mapping[str, Any]) -> Iterator[str]:
    """What came of one action, attempt by attempt."""
    name = f"do[{step['place']}] {step['kind']}" if str(step["place"]).isdigit() else f"{step['place']} {step['kind']}"
    failures: Sequence[Mapping[str, Any]] = step.get("failures") or ()
    for number, failure in enumerate(failures, 1):
        took_ms = failure["ended_ms"] - failure["started_ms"]
        yield printable(
            f"{name}: attempt {number} at {clock(failure['started_ms'])} failed after {took_ms} ms: "
            f"{_cut(failure['error'])}"
        )
    attempts = step.get("attempts", 0)
    if not attempts:
        yield printable(f"{name}: {step['error'] if step.get('error') else 'skipped by its if'}")
    elif attempts > len(failures):
        result = "" if step.get("result") is None else f": {_compact(step['result'])}"
        tries = f", attempt {attempts}" if attempts > 1 else ""
        yield f"{printable(name)}: done at {clock(step['ended_ms'])}{tries}{result}"


def stopped(stop: Mapping[str, Any]) -> str:
    """Why a rule did not run, in one line."""
    return "; ".join([f"{stop['clause']}: {stop['reason']}", *map(seen_line, stop["seen"])])


def _tree(caused: Sequence[Mapping[str, Any]], indent: str) -> Iterator[str]:
    for one in caused:
        yield f"{indent}{_event(one)}"
        yield from _tree(one["caused"], indent + "    ")


def _event(one: Mapping[str, Any]) -> str:
    rule = f" by rule {one['rule']}" if "rule" in one else f" from {one['source_name']}"
    replayed = " (replayed)" if "replayed" in one else ""
    return printable(f"#{one['seq']} {one['type']}{rule}{replayed}")


def _compact(value: Any) -> str:
    return printable(_cut(json.dumps(value, ensure_ascii=False)))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
