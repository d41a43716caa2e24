"""`python -m benchmarks NAME [--json]`: run one benchmark, or `all` of them, and print what it found."""

from __future__ import annotations

import argparse
import logging
from importlib import import_module

import structlog

NAMES = ("ingest", "latency", "startup", "reload")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=(*NAMES, "all"))
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of a table")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    for name in NAMES if arguments.name == "all" else (arguments.name,):
        report = import_module(f"benchmarks.{name}").run()
        if arguments.json:
            print(report.as_json(), flush=True)
        else:
            report.show()


if __name__ == "__main__":
    main()
