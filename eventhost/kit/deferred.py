"""Keeps a source small: what `asyncio` imports and few sources use is loaded at its first use.

`ssl` alone costs 4.5 MB of resident memory and a third of the time that `import asyncio` takes; `inspect` another
1 MB, `subprocess` and `linecache` together half of one. A deferred module stands in `sys.modules` from the beginning
and becomes the real one, under the same identity, when an attribute of it is first asked for; so whoever uses TLS
notices nothing. It only helps when it runs before `asyncio` is imported.
"""

from __future__ import annotations

import sys
from _thread import RLock
from collections.abc import Iterable
from importlib import import_module
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any

_locks: dict[str, RLock] = {}
"""One for each deferred module: while it is loaded, another thread may wait for its import, and this one for theirs."""

_loading: set[str] = set()


class _DeferredModule(ModuleType):
    # The standard library's LazyLoader will not do: it loads as soon as a second `import` looks at `__spec__`.

    def __getattr__(self, name: str) -> Any:
        # The import system asks for `__path__` and the like of any module it meets.
        if name.startswith("__") and name != "__all__":
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        _load(self)
        return ModuleType.__getattribute__(self, name)

    def __setattr__(self, name: str, value: object) -> None:
        # Loading afterwards would undo it.
        _load(self)
        super().__setattr__(name, value)

    def __dir__(self) -> Iterable[str]:
        _load(self)
        return super().__dir__()


def _load(module: ModuleType) -> None:
    with _locks[module.__name__]:
        if type(module) is not _DeferredModule or module.__name__ in _loading:
            return
        assert module.__spec__ is not None
        assert module.__spec__.loader is not None
        _loading.add(module.__name__)
        try:
            module.__spec__.loader.exec_module(module)
        finally:
            _loading.discard(module.__name__)
        object.__setattr__(module, "__class__", ModuleType)


def defer(name: str, **known: object) -> None:
    """Put off loading module `name`; nothing happens where it is loaded already, or cannot be found.

    `known` are attributes that it is known to have, and that need not load it.
    """
    if name in sys.modules:
        return
    package, _, _ = name.rpartition(".")
    path = None
    if package:
        parent = PathFinder.find_spec(package)
        path = None if parent is None else parent.submodule_search_locations
    spec = PathFinder.find_spec(name, path)
    if spec is None or spec.loader is None:
        return
    _locks[name] = RLock()
    module = _DeferredModule(name)
    module.__dict__.update(known, __spec__=spec, __loader__=spec.loader, __file__=spec.origin, __package__=spec.parent)
    sys.modules[name] = module


def import_asyncio_lightly() -> None:
    """Import `asyncio` without TLS, subprocesses and introspection; those stay importable."""
    if "asyncio" in sys.modules:
        return
    # A Python that was built without TLS must say so when `ssl` is imported, not later.
    if PathFinder.find_spec("_ssl") is not None:
        defer("ssl")
        defer("asyncio.sslproto")
    # These constants are the defaults of asyncio's functions.
    defer("subprocess", PIPE=-1, STDOUT=-2, DEVNULL=-3)
    defer("inspect")
    defer("linecache")
    asyncio = import_module("asyncio")
    # The import system sets a submodule on its package only when it loads it itself.
    if "asyncio.sslproto" in sys.modules:
        asyncio.__dict__.setdefault("sslproto", sys.modules["asyncio.sslproto"])
