"""Events a second that are matched against many rules, and what the rules cost to keep and to change.

All times are of the processor: nothing here waits, and so other work on the machine disturbs less. Beside it, in the
same run: decoding the same events with `orjson.loads`, and asking each rule's closures in turn.

Three workloads: `equality` (values on two or three fields), `noeq` (no values at all: prefixes, suffixes, ranges,
wildcards), `mixed` (both, and operators that no table can search). There are a quarter as many devices, owners and
files as rules, so that a device has some rules of each kind, and each value on its own is shared by several. Of
100,000 rules an event of about 270 bytes matches on average 2.5 (`equality`), 3.2 (`mixed`) and 6.6 (`noeq`).
"""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable
from random import Random
from typing import Any

import orjson

from benchmarks.report import Aim, Report
from eventhost.event import EnvEvent
from eventhost.pattern import Pattern, PatternIndex

FEW = 10
EVENTS = 2_000
ROUNDS = 5
ROUND_S = 0.4
SHARED = 4
"""So many rules there are for each device, owner and file."""
CHANGES = 200
MEBIBYTE = 1_048_576

Rule = tuple[list[str], dict[str, Any]]
Test = Callable[[dict[str, Any]], bool]

SITES = ("berlin", "lisbon", "osaka", "quito")
STATES = ("ok", "hot", "cold", "off")


def _spread(count: int) -> int:
    return max(1, count // SHARED)


def equality(random: Random, count: int) -> Rule:
    """Values on two or three fields; one of them has many."""
    device = f"device-{random.randrange(_spread(count))}"
    choices: list[Rule] = [
        (["sensor.reading"], {"payload": {"device": [device]}}),
        (["sensor.reading"], {"payload": {"device": [device], "state": random.sample(STATES, 2)}}),
        (["*"], {"payload": {"device": [device], "site": [random.choice(SITES)]}}),
        (["sensor.*"], {"payload": {"owner": {"id": [random.randrange(_spread(count))]}}}),
        (["*"], {"payload": {"owner": {"id": [random.randrange(_spread(count))], "vip": [True]}}}),
    ]
    return random.choice(choices)


def noeq(random: Random, count: int) -> Rule:
    """Operators that a table can search; the types as globs."""
    number = random.randrange(_spread(count))
    low = random.random() * 1_000
    choices: list[Rule] = [
        (["sensor.*"], {"payload": {"device": [{"prefix": f"device-{number}"}]}}),
        (["*"], {"payload": {"path": [{"suffix": f"/{number}.log"}]}}),
        (["*"], {"payload": {"temp": [{"numeric": [">", low, "<=", low + 1_000 / _spread(count)]}]}}),
        (["*.reading"], {"payload": {"path": [{"wildcard": f"*/{number}.*"}]}}),
        (["sensor.*"], {"payload": {"device": [{"equals-ignore-case": f"DEVICE-{number}"}]}}),
    ]
    return random.choice(choices)


def mixed(random: Random, count: int) -> Rule:
    """Half by values alone, the others by operators, by both, and with exclusions that most rules share."""
    chance = random.random()
    if chance < 0.5:
        return equality(random, count)
    if chance < 0.75:
        return noeq(random, count)
    on, match = equality(random, count)
    match["payload"]["temp"] = [{"numeric": [">", random.choice([0, 250, 500])]}]
    match["payload"]["path"] = [{"anything-but": {"prefix": "/tmp/"}}]
    return on, match


MAKERS: dict[str, Callable[[Random, int], Rule]] = {"equality": equality, "mixed": mixed, "noeq": noeq}


def make_events(random: Random, count: int) -> list[EnvEvent]:
    """Readings of about 270 bytes, of the devices, owners and files that `count` rules are about."""
    return [
        EnvEvent(
            f"01890a5d-ac96-774b-bcce-{number:012}",
            "sensor.reading",
            1_700_000_000_000 + number,
            {"source_name": "plant"},
            {
                "device": f"device-{random.randrange(_spread(count))}",
                "site": random.choice(SITES),
                "state": random.choice(STATES),
                "temp": round(random.random() * 1_000, 2),
                "owner": {"id": random.randrange(_spread(count)), "vip": random.random() < 0.5},
                "path": f"/var/log/{random.randrange(_spread(count))}.log",
            },
        )
        for number in range(EVENTS)
    ]


def naive(on: list[str], match: dict[str, Any]) -> Test:
    """A rule as closures over the event's fields, none of them slower than it must be."""
    tests = [_type_test(on[0])] if on != ["*"] else []
    tests += [
        _field_test(("payload", *path), alternatives)
        for key, inner in match["payload"].items()
        for path, alternatives in (
            [((key,), inner)] if isinstance(inner, list) else [((key, below), leaf) for below, leaf in inner.items()]
        )
    ]

    def matches(event: dict[str, Any]) -> bool:
        for test in tests:  # noqa: SIM110 - a generator would take longer
            if not test(event):
                return False
        return True

    return tests[0] if len(tests) == 1 else matches


def _type_test(glob: str) -> Test:
    if glob.endswith("*"):
        return lambda event: event["type"].startswith(glob[:-1])
    if glob.startswith("*"):
        return lambda event: event["type"].endswith(glob[1:])
    return lambda event: event["type"] == glob


def _field_test(path: tuple[str, ...], alternatives: list[Any]) -> Test:
    holds = _leaf_test(alternatives)
    if len(path) == 2:
        _, key = path
        return lambda event: holds(event["payload"].get(key))
    _, key, below = path
    return lambda event: holds(event["payload"].get(key, {}).get(below))


def _leaf_test(alternatives: list[Any]) -> Callable[[Any], bool]:
    alternative = alternatives[0]
    if not isinstance(alternative, dict):
        return frozenset(alternatives).__contains__ if len(alternatives) > 1 else lambda value: value == alternative
    ((name, operand),) = alternative.items()
    match name:
        case "prefix":
            return lambda value: value.startswith(operand)
        case "suffix":
            return lambda value: value.endswith(operand)
        case "equals-ignore-case":
            lowered = operand.lower()
            return lambda value: value.lower() == lowered
        case "wildcard":
            inner = operand.strip("*")
            return lambda value: inner in value
        case "anything-but":
            excluded = operand["prefix"]
            return lambda value: not value.startswith(excluded)
    low = operand[1]
    if len(operand) == 2:
        return lambda value: value > low
    high = operand[3]
    return lambda value: low < value <= high


def rate(take: Callable[[Any], object], items: list[Any], at_least_s: float = ROUND_S) -> float:
    """How many items a second are taken, for at least so long; of a slow one, not all of them."""
    taken, started = 0, time.process_time()
    while True:
        for item in items:
            take(item)
            taken += 1
            if not taken % 64 and time.process_time() - started >= at_least_s:
                return taken / (time.process_time() - started)


def slow_rate(tests: list[Test], items: list[dict[str, Any]]) -> float:
    """Events a second where each rule is asked in turn; one event may already take longer than a round."""
    taken, started = 0, time.process_time()
    for item in items:
        for test in tests:
            test(item)
        taken += 1
        if time.process_time() - started >= ROUND_S:
            break
    return taken / (time.process_time() - started)


def build(rules: list[Rule]) -> PatternIndex[int]:
    """Parse and add them."""
    index = PatternIndex[int]()
    for number, (on, match) in enumerate(rules):
        index.add(number, on, Pattern.parse(match))
    return index


def memory_mebibytes(rules: list[Rule]) -> float:
    """What an index keeps, patterns included, measured in a build of its own because measuring slows it down."""
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        index = build(rules)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        assert len(index) == len(rules)
        return (after - before) / MEBIBYTE
    finally:
        tracemalloc.stop()


def change_ms(index: PatternIndex[int], rules: list[Rule], random: Random) -> tuple[float, float, float]:
    """Removing one rule and adding it again: the median of each, and the longest of all, in milliseconds."""
    removing, adding = [], []
    for number in random.sample(range(len(rules)), min(CHANGES, len(rules))):
        on, match = rules[number]
        pattern = Pattern.parse(match)
        started = time.process_time()
        index.remove(number)
        removed = time.process_time()
        index.add(number, on, pattern)
        adding.append((time.process_time() - removed) * 1000)
        removing.append((removed - started) * 1000)
    return sorted(removing)[len(removing) // 2], sorted(adding)[len(adding) // 2], max(removing + adding)


def run(rules: int = 100_000, workload: str = "equality") -> Report:
    report = Report(f"match {workload} {rules:,}")
    random = Random(1)
    made = [MAKERS[workload](random, rules) for _ in range(rules)]
    events = make_events(random, rules)
    few = build([MAKERS[workload](random, FEW) for _ in range(FEW)])
    few_events = make_events(random, FEW)
    lines = [event.to_json() for event in events]
    decoded = [orjson.loads(line) for line in lines]

    memory = memory_mebibytes(made)
    started = time.process_time()
    index = build(made)
    build_s = time.process_time() - started
    tests = [naive(on, match) for on, match in made]
    for event, json in zip(events[:3], decoded, strict=False):
        assert index.match(event) == [number for number, test in enumerate(tests) if test(json)]

    rounds: dict[str, list[float]] = {name: [] for name in ("match", "decode", "few", "orjson", "naive")}
    for _ in range(ROUNDS):
        rounds["match"].append(rate(index.match, events))
        rounds["few"].append(rate(few.match, few_events))
        rounds["decode"].append(rate(lambda line: index.match(EnvEvent.from_json(line)), lines))
        rounds["orjson"].append(rate(orjson.loads, lines))
        rounds["naive"].append(slow_rate(tests, decoded))
    report.figures["rules"] = rules
    report.figures["event_bytes"] = sum(map(len, lines)) / len(lines)
    report.figures["matches_per_event"] = sum(len(index.match(event)) for event in events) / len(events)
    matched = report.add("match_events_per_s", rounds["match"])
    report.add("decode_and_match_events_per_s", rounds["decode"])
    with_few = report.add(f"match_{FEW}_rules_events_per_s", rounds["few"])
    decoding = report.add("orjson_loads_events_per_s", rounds["orjson"])
    asked = report.add("naive_events_per_s", rounds["naive"])
    report.figures["build_s"] = build_s
    report.figures["memory_mebibytes"] = memory
    remove_ms, add_ms, longest_ms = change_ms(index, made, random)
    report.figures["remove_ms"], report.figures["add_ms"] = remove_ms, add_ms
    report.figures["longest_change_ms"] = longest_ms
    if workload == "equality":
        report.aims += [
            Aim(f"of_{FEW}_rules_ratio", matched / with_few, 0.5),
            Aim("of_orjson_loads_ratio", matched / decoding, 1 / 3),
        ]
    if workload == "mixed":
        report.aims.append(Aim("of_naive_ratio", matched / asked, 5_000))
    report.aims += [
        Aim("build_s", build_s, 5, at_most=True),
        Aim("memory_mebibytes", memory, 120, at_most=True),
        Aim("remove_ms", remove_ms, 1, at_most=True),
        Aim("add_ms", add_ms, 1, at_most=True),
    ]
    return report
