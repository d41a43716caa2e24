"""Ids that sort by the time they were made: UUID version 7 (RFC 9562), rising even within one millisecond."""

from __future__ import annotations

import os
import time

_last = 0


def uuid7() -> str:
    """A time-ordered UUID, greater than every one that this process made before."""
    global _last
    # RFC 9562, section 6.2, method 3: the 12 bits after the milliseconds are a fraction of one, in 1/4096 ms.
    _last = max(_last + 1, time.time_ns() * 4096 // 1_000_000)
    random = int.from_bytes(os.urandom(8), "big") >> 2
    value = (_last >> 12) << 80 | 0x7 << 76 | (_last & 0xFFF) << 64 | 0b10 << 62 | random
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
