"""Tells which files of the configuration changed, once for each saving, however many writes that took.

Notifications only wake it; what changed is found by looking at the files, so that neither a lost notification nor one
that came between two looks is ever missed. Watched are the environment's folder, `eventsources/` and the folders in
it, none of them deeply.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import anyio
import structlog
from watchfiles import awatch
from watchfiles.main import FileChange

from eventhost.config.folders import CONFIG_FILE, LOCAL_CONFIG_FILE, SOURCES_FOLDER, is_source_folder
from eventhost.config.rulefiles import RULES_FOLDER, SUFFIX, list_rule_files
from eventhost.config.secrets import DOTENV

log = structlog.get_logger()

SETTLE_MS = 100
"""How long nothing may change before a saving counts as finished."""

CODE_SUFFIXES = frozenset(
    {".py", ".mjs", ".js", ".cjs", ".ts", ".mts", ".cts", ".jsx", ".tsx", ".sh", ".bash", ".zsh", ".ps1"}
    | {".rb", ".php", ".pl", ".lua", ".r", ".jl", ".ex", ".exs", ".clj", ".groovy"}
    | {".go", ".rs", ".java", ".kt", ".cs", ".swift", ".jar", ".wasm"}
)
"""What counts as code at the top of a source's folder, beside executable files without a suffix."""

_ROOT_FILES = (CONFIG_FILE, LOCAL_CONFIG_FILE, DOTENV)
_NEVER = frozenset({"node_modules", "__pycache__", "var"})
# What editors leave beside a file while they save it; the rest of their kind begins with a dot.
_EDITOR_FILE = re.compile(r".*~|#.*#|.*\.(swp|swx|tmp|bak|orig|rej)|\d+")

_MOST_ROUNDS = 50
_STEP_MS = 50
_TIMEOUT_MS = 500
_LOOK_EVERY = 10
_POLL_S = 1.0

Signature = tuple[int, ...]
"""Differs when a file was written or replaced."""


def watch(root: Path, *, settle_ms: int = SETTLE_MS) -> AsyncGenerator[frozenset[Path]]:
    """The changed paths, one set for each saving; of a source's folder that came, went or was renamed, the folder too.

    Whatever changes after this call is told, so call it before reading what it watches. Paths are absolute. It ends
    only when it is cancelled or closed.
    """
    root = Path(os.path.abspath(root))
    return _watch(root, look(root), settle_ms / 1000)


def look(root: Path) -> dict[Path, Signature]:
    """All paths under `root` that matter, each with a signature of its content."""
    found: dict[Path, Signature] = {}
    for name in _ROOT_FILES:
        if (status := _stat(root / name)) is not None:
            found[root / name] = _signature(status)
    for file in _rule_files(root):
        if (status := _stat(file)) is not None:
            found[file] = _signature(status)
    for folder in _source_folders(root):
        status = _stat(folder)
        if status is None:
            continue
        found[folder] = (status.st_ino,)
        try:
            with os.scandir(folder) as entries:
                names = [entry.name for entry in entries]
        except OSError:
            continue
        for name in names:
            if _may_matter(name):
                status = _stat(folder / name)
                if status is not None and _matters(name, status):
                    found[folder / name] = _signature(status)
    return found


async def _watch(root: Path, seen: dict[Path, Signature], settle_s: float) -> AsyncGenerator[frozenset[Path]]:
    while True:
        # The folders to watch are fixed for one round; it ends when there are others.
        folders = _watched(root)
        async with aclosing(_wakes(root, folders)) as wakes:
            async for _ in wakes:
                now = await anyio.to_thread.run_sync(look, root)
                if now != seen:
                    now = await _settled(root, now, settle_s)
                    changed = frozenset(path for path in now.keys() | seen.keys() if now.get(path) != seen.get(path))
                    seen = now
                    if changed:
                        yield changed
                if _watched(root) != folders:
                    break


async def _settled(root: Path, now: dict[Path, Signature], settle_s: float) -> dict[Path, Signature]:
    """What there is once nothing has changed for a while; a file that is written without end is told in between."""
    for _ in range(_MOST_ROUNDS):
        await anyio.sleep(settle_s)
        later = await anyio.to_thread.run_sync(look, root)
        if later == now:
            break
        now = later
    return now


async def _wakes(root: Path, folders: list[Path]) -> AsyncGenerator[None]:
    """Yields when something may have changed: on notice, soon after the watching has begun, and now and then.

    Ends when it can watch these folders no more, because one of them is gone.
    """
    stop = anyio.Event()
    changes = awatch(
        *folders,
        watch_filter=lambda _, path: _is_notable(root, path),
        step=_STEP_MS,
        rust_timeout=_TIMEOUT_MS,
        yield_on_timeout=True,
        stop_event=stop,
        recursive=False,
        ignore_permission_denied=True,
    )
    try:
        async with aclosing(changes):
            silent = 0
            while (batch := await _next(changes, stop)) is not None:
                if batch or silent % _LOOK_EVERY == 0:
                    yield
                silent = 0 if batch else silent + 1
    except FileNotFoundError:
        await anyio.sleep(_STEP_MS / 1000)
        return
    except (OSError, RuntimeError, ExceptionGroup) as error:
        log.warning("watch_polls", reason=str(error), every_s=_POLL_S)
    while True:
        await anyio.sleep(_POLL_S)
        yield


async def _next(changes: AsyncGenerator[set[FileChange]], stop: anyio.Event) -> set[FileChange] | None:
    """The next batch, empty after a while of silence; `None` when it has stopped."""
    done = anyio.Event()

    async def stop_when_cancelled() -> None:
        # The thread that waits for notices does not hear of a cancellation.
        try:
            await done.wait()
        except anyio.get_cancelled_exc_class():
            stop.set()
            raise

    failure: Exception | None = None
    batch: set[FileChange] | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stop_when_cancelled)
        try:
            batch = await anext(changes, None)
        except Exception as error:
            # Raised outside, so that the task group makes no group of it.
            failure = error
        done.set()
    if failure is not None:
        raise failure
    return batch


def _watched(root: Path) -> list[Path]:
    folders = (root, root / RULES_FOLDER, root / SOURCES_FOLDER, *_source_folders(root))
    return [folder for folder in folders if folder.is_dir()]


def _rule_files(root: Path) -> list[Path]:
    try:
        return [root / RULES_FOLDER / name for name in list_rule_files(root / RULES_FOLDER)[0]]
    except OSError:
        return []


def _source_folders(root: Path) -> list[Path]:
    try:
        with os.scandir(root / SOURCES_FOLDER) as entries:
            return sorted(Path(entry.path) for entry in entries if is_source_folder(entry))
    except OSError:
        return []


def _is_notable(root: Path, path: str) -> bool:
    """Whether a notice is worth a look: the folder of the environment may hold files that are written all the time."""
    parent, name = os.path.split(path)
    # A mounted config map changes by the exchange of a link whose name begins so.
    if name in _ROOT_FILES or name in (SOURCES_FOLDER, RULES_FOLDER) or name.startswith("..data"):
        return True
    if parent == str(root):
        return False
    if parent == os.path.join(root, RULES_FOLDER):
        return name.endswith(SUFFIX)
    return _may_matter(name) or (os.path.basename(parent) == SOURCES_FOLDER and not name.startswith((".", "_")))


def _may_matter(name: str) -> bool:
    if name.startswith(".") or name in _NEVER or _EDITOR_FILE.fullmatch(name):
        return False
    return name in (CONFIG_FILE, LOCAL_CONFIG_FILE) or os.path.splitext(name)[1].lower() in {"", *CODE_SUFFIXES}


def _matters(name: str, status: os.stat_result) -> bool:
    if not stat.S_ISREG(status.st_mode):
        return False
    return "." in name or bool(status.st_mode & 0o111)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _signature(status: os.stat_result) -> Signature:
    return (status.st_mtime_ns, status.st_size, status.st_ino)
