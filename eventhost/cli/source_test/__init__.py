"""`source test`: whether a source does what its golden cases say, and what a host relies on in any source."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from eventhost.cli.source_test.check import Check
from eventhost.cli.source_test.golden import golden_checks
from eventhost.cli.source_test.subject import Found, Subject, find, guarded

__all__ = ["Check", "Found", "find", "play_golden"]


async def play_golden(found: Found, root: Path, tell: Callable[[Check], object]) -> None:
    """Play the golden cases of a source of the environment in `root`, and tell a check for each."""
    assert found.folder is not None
    with tempfile.TemporaryDirectory(prefix="eventhost-test-") as name:
        scratch = Path(name)
        async with guarded(scratch) as guardian:
            subject = Subject.of(found.source, root, guardian, scratch) if found.source else None
            await golden_checks(found.folder, subject, guardian, scratch / "golden", tell)
