"""What becomes of a test that lacks something: it is skipped, and in CI, where nothing may go untested, it fails."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def untested(reason: str) -> NoReturn:
    """Skip the test; with `EVENTHOST_TEST_STRICT=1` fail it. `reason` says what to install."""
    if os.environ.get("EVENTHOST_TEST_STRICT") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
