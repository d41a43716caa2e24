"""`source test`: whether a source does what its golden cases say, and what a host relies on in any source."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio

from eventhost.cli.show import print_json
from eventhost.cli.source_test.check import Check, Outcome, Printer, skipped, summary
from eventhost.cli.source_test.conformance import Conformance, config_check
from eventhost.cli.source_test.golden import golden_checks
from eventhost.cli.source_test.linked import LinkedConformance
from eventhost.cli.source_test.subject import Found, Subject, find, guarded
from eventhost.config import Protocol, ServerKind
from eventhost.connections import Guardian
from eventhost.errors import ConfigError

__all__ = ["find", "play_golden", "report", "try_source"]

Tell = Callable[[Check], object]


def report(root: Path, name: str, *, seconds: float, count: int, as_json: bool) -> bool:
    """Check the source `name` of the environment in `root`, and print each check as it is done; true if none failed.

    Raises:
        NotFound: there is no such source.
        ConfigError: the configuration must be mended first; what could be checked all the same has been printed.
    """
    found = find(root, name)
    checks: list[Check] = []
    printer = Printer(partial(print, flush=True))

    def tell(check: Check) -> None:
        checks.append(check)
        if not as_json:
            # What is wrong with the configuration is this command's error, and told as such at its end.
            printer.tell(replace(check, details=()) if check.name == "config" and found.problems else check)

    try:
        anyio.run(partial(try_source, found, root, tell, seconds=seconds, count=count))
    finally:
        printer.flush()
    passed = all(check.outcome is not Outcome.FAILED for check in checks)
    if as_json:
        counts = {outcome.lower(): sum(check.outcome is outcome for check in checks) for outcome in Outcome}
        enabled = found.source is not None and found.source.enabled
        said = {"name": name, "enabled": enabled, "passed": passed, **counts}
        print_json({**said, "checks": [check.to_json() for check in checks]})
    else:
        print(summary(checks))
    if found.problems:
        raise ConfigError(found.problems)
    return passed


async def try_source(found: Found, root: Path, tell: Tell, *, seconds: float, count: int) -> None:
    """Check a source of the environment in `root` in every way there is; tell each check as it is done.

    Events are waited for `seconds`, or until `count` have come if that is not 0. All that is started has ended, and
    all that was written is gone, when this returns, raises, or is cancelled.
    """
    tell(config_check(found))
    if found.folder is not None:
        await play_golden(found, root, tell)
    if found.source is None or found.problems:
        tell(skipped("conformance", "its configuration must be mended first"))
        return
    if found.source.server.kind is ServerKind.INPROCESS:
        tell(skipped("conformance", "it runs in the host's own process, where nothing can be tried but golden cases"))
        return
    with tempfile.TemporaryDirectory(prefix="eventhost-test-") as name:
        guardian = Guardian(Path(name, "guardian.lock"))
        subject = Subject.of(found.source, root, guardian, Path(name))
        modern = found.source.server.protocol is Protocol.MODERN
        if modern or not subject.speaks_stdio:
            why = "not applicable over HTTP" if not subject.speaks_stdio else 'not tried with "protocol": "modern"'
            await LinkedConformance(subject, tell, seconds=seconds, count=count, why=why).run()
            return
        async with guarded(guardian), Conformance(subject, tell, seconds=seconds, count=count) as conformance:
            await conformance.run()


async def play_golden(found: Found, root: Path, tell: Tell) -> None:
    """Play the golden cases of a source that has a folder, and tell a check for each."""
    assert found.folder is not None
    with tempfile.TemporaryDirectory(prefix="eventhost-test-") as name:
        scratch, guardian = Path(name), Guardian(Path(name, "guardian.lock"))
        async with guarded(guardian):
            usable = found.source if not found.problems else None
            subject = Subject.of(usable, root, guardian, scratch) if usable else None
            await golden_checks(found.folder, subject, guardian, scratch / "golden", tell)
