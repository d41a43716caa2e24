"""Where the control socket lies, and a name for it that the kernel accepts however deep the environment is.

Standard library only: the command line uses it too, and is quick.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

CONTROL_SOCKET: Final = Path("var", "control.sock")
"""Relative to the environment's root."""

_LONGEST = 100
"""`sun_path` holds 108 bytes on Linux and 104 on macOS, a closing zero among them."""


@contextmanager
def socket_name(path: Path) -> Iterator[str]:
    """A name by which the socket at `path` can be bound or connected to while the context lasts.

    A path that is too long for `sun_path` is reached through a symbolic link to its folder, in a temporary folder
    that only this user can enter. That works on Linux and macOS alike, and unlike `chdir` it does not touch what the
    rest of the process sees.
    """
    if len(os.fsencode(path)) <= _LONGEST:
        yield str(path)
        return
    with tempfile.TemporaryDirectory(prefix="eventhost-") as folder:
        link = Path(folder, "d")
        link.symlink_to(path.parent.absolute())
        yield str(link / path.name)
