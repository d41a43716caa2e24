"""What all tests share."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings
from untested import untested

# How fast a machine is that does much else says nothing about the code; what CI sets by itself stays.
settings.register_profile(
    "eventhost", parent=settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("eventhost")


@pytest.fixture(autouse=True, scope="session")
def plain_log() -> None:
    """structlog's own choice draws tracebacks with all local variables, which takes longer than most tests."""
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.processors.add_log_level, plain])


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def heeds_interrupts() -> Iterator[None]:
    """Who starts tests in the background may have them ignore the signal, which programs inherit from them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def needs() -> Callable[[str], str]:
    """`needs("node")` is the program's path, and skips the test where it is not installed.

    With `EVENTHOST_TEST_STRICT=1` a missing program fails the test instead: nothing is left untested unnoticed.
    """

    def find(program: str) -> str:
        if path := shutil.which(program):
            return path
        return untested(f"{program} is not on the PATH: install it to have this tested")

    return find
