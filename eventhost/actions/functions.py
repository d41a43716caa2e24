"""Functions from the environment's folder: as they stand in their file now, and unseen by the rest of the process.

A module is imported with the folder on `sys.path`, and kept together with the modules of the folder that it imports,
apart from `sys.modules`: two environments do not meet, and when one of the files changes all of them are imported
anew. An `import` of a neighbour that runs later, inside a function, does not find it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

from eventhost.errors import ActionError

# What is done to `sys.modules` here is done by one at a time.
_IMPORTING = Lock()

_FileState = tuple[int, int]


class Functions:
    """The functions that the files of one folder, or installed packages, define."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._modules: dict[str, ModuleType] = {}
        self._files: dict[Path, _FileState | None] = {}

    def find(self, target: str) -> Callable[..., Any]:
        """The function that `module:function` names. Imports run in the caller's thread.

        Raises:
            ActionError: not to be retried: there is none, or its module cannot be imported.
        """
        module, _, name = target.partition(":")
        try:
            function: Any = self._module(module)
            for step in name.split("."):
                function = getattr(function, step)
        except ActionError:
            raise
        except AttributeError:
            raise ActionError(f"{target}: the module {module} has no {name}", retry=False) from None
        if not callable(function):
            raise ActionError(f"{target}: this is no function", retry=False)
        return function  # type: ignore[no-any-return]

    def exists(self, module: str) -> bool:
        """Whether there is such a module, in the folder or installed; nothing of it is run."""
        if self._file(module):
            return True
        try:
            return importlib.util.find_spec(module.partition(".")[0]) is not None
        except (ImportError, ValueError):
            return False

    def _module(self, name: str) -> ModuleType:
        try:
            if self._file(name) is None:
                return importlib.import_module(name)
            if any(_state(path) != state for path, state in self._files.items()):
                self._modules.clear()
                self._files.clear()
            if name not in self._modules:
                with _IMPORTING, self._swapped_in(name):
                    importlib.import_module(name)
            return self._modules[name]
        except ActionError:
            raise
        except Exception as error:
            self._modules.pop(name, None)
            raise ActionError(f"{name} cannot be imported: {type(error).__name__}: {error}", retry=False) from error

    def _file(self, module: str) -> Path | None:
        path = self._root.joinpath(*module.split("."))
        return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)

    @contextmanager
    def _swapped_in(self, name: str) -> Iterator[None]:
        """The folder on `sys.path`, its modules in `sys.modules`; afterwards both are as they were."""
        top = name.partition(".")[0]
        own = {*self._modules, top}
        hidden = {
            known: sys.modules.pop(known) for known in list(sys.modules) if known in own or known.startswith(f"{top}.")
        }
        before = set(sys.modules)
        tops = {known.partition(".")[0] for known in before}
        sys.modules.update(self._modules)
        sys.path.insert(0, str(self._root))
        # A compiled file that is younger than a second may be taken for that of the text before the last change.
        sys.dont_write_bytecode, wrote = True, sys.dont_write_bytecode
        importlib.invalidate_caches()
        try:
            yield
        finally:
            sys.dont_write_bytecode = wrote
            sys.path.remove(str(self._root))
            for known in set(sys.modules) - before:
                file = getattr(sys.modules[known], "__file__", None)
                if known in self._modules or (known.partition(".")[0] not in tops and self._is_own(file)):
                    self._modules[known] = module = sys.modules.pop(known)
                    if module.__file__:
                        self._files[Path(module.__file__)] = _state(Path(module.__file__))
            sys.modules.update(hidden)

    def _is_own(self, file: str | None) -> bool:
        """In the folder, and not in a library that lies inside of it, such as a virtual environment's."""
        if file is None or not Path(file).is_relative_to(self._root):
            return False
        return not any(
            Path(entry) != self._root and Path(entry).is_relative_to(self._root) and Path(file).is_relative_to(entry)
            for entry in sys.path
            if entry
        )


def _state(path: Path) -> _FileState | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
