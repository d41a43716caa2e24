"""Which URIs a template stands for."""

from __future__ import annotations

import re
from functools import lru_cache

_PART = re.compile(r"\{([+#./;?&]?)[^}]*\}")


def fits(template: str, uri: str) -> bool:
    """Whether `uri` can be made of a URI template (RFC 6570)."""
    return _pattern(template).fullmatch(uri) is not None


@lru_cache(maxsize=1024)
def _pattern(template: str) -> re.Pattern[str]:
    pattern, end = "", 0
    for part in _PART.finditer(template):
        # `{id}` and `{.id}` stand for one segment; what has another operator may hold slashes.
        pattern += re.escape(template[end : part.start()]) + ("[^/]+" if part[1] in ("", ".") else ".*")
        end = part.end()
    return re.compile(pattern + re.escape(template[end:]))
