"""`python -m benchmarks NAME [--json]`: run one benchmark, or `all` of them, and print what it found.

`match` takes how many rules, and of which kind: `--rules 100000 --workload equality`; all kinds in turn by default.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from importlib import import_module

import structlog

from benchmarks.report import Report

NAMES = ("ingest", "latency", "startup", "reload", "match", "journal", "pipeline", "recover", "fanout", "publish")
WORKLOADS = ("equality", "mixed", "noeq")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=(*NAMES, "all"))
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of a table")
    parser.add_argument("--rules", type=int, default=100_000, metavar="N", help="match: how many rules (100000)")
    parser.add_argument("--workload", choices=WORKLOADS, help="match: of which kind; each in turn by default")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    for name in NAMES if arguments.name == "all" else (arguments.name,):
        for report in reports(name, arguments):
            if arguments.json:
                print(report.as_json(), flush=True)
            else:
                report.show()


def reports(name: str, arguments: argparse.Namespace) -> Iterator[Report]:
    """What a benchmark finds, as it finds it."""
    # Only now: each needs other packages.
    run = import_module(f"benchmarks.{name}").run
    if name != "match":
        yield run()
        return
    for workload in [arguments.workload] if arguments.workload else WORKLOADS:
        yield run(arguments.rules, workload)


if __name__ == "__main__":
    main()
