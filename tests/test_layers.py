"""The house stands: a room imports only from floors below its own, and the kit knows nothing of the host."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import eventhost

PACKAGE = Path(eventhost.__file__).parent
FLOORS = {
    "errors": -1,  # what every room stands on
    "access": 0,
    "durations": 0,
    "measures": 0,
    "event": 0,
    "relay": 0,
    "wire": 0,
    "pattern": 1,
    "expression": 1,
    "config": 1,
    "exchange": 1,
    "message": 1,
    "kit": 1,  # knows nothing of the host; an in-process source of it is hosted by `connections`
    "gaps": 2,
    "journal": 2,
    "connections": 2,
    "bus": 3,
    "sources": 4,
    "tools": 4,
    "wanted": 4,
    "actions": 5,
    "announcer": 6,
    "rules": 6,
    "environment": 7,
    "schema": 7,
    "serve": 8,
    "web": 9,
    "cli": 10,  # starts the web, and is itself imported by nobody
    "__main__": 11,
}
"""The rooms, from the ground up; within one floor nobody knows the other."""

KIT_MAY_KNOW = {"durations", "errors", "wire"}
KIT_ON_THE_SDK = {"http"}
"""Files of the kit that may use more than the standard library, and that no other file of it loads unasked."""


def room_of(module: str) -> str | None:
    """The room of a dotted module of ours; `eventhost` alone, which is exempt, has none."""
    parts = module.split(".")
    return parts[1] if parts[0] == "eventhost" and len(parts) > 1 else None


def files(folder: Path = PACKAGE) -> list[Path]:
    skipped = {"templates", "__pycache__"}
    return [file for file in sorted(folder.rglob("*.py")) if not skipped & set(file.relative_to(PACKAGE).parts)]


def name_of(file: Path) -> str:
    """The dotted name of a module of ours."""
    parts = ("eventhost", *file.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, module: str, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Every module that is imported anywhere in `tree`, inside functions and `TYPE_CHECKING` too, with its line."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*start, *([node.module] if node.module else [])])
            # `from eventhost import wire` names a room only in what it imports.
            names = [name for alias in node.names if is_ours(name := f"{source}.{alias.name}")]
            yield from ((node.lineno, name) for name in ([source] if source != "eventhost" else names))


def is_ours(module: str) -> bool:
    """Whether a name is a module, and not what `eventhost/__init__.py` offers, such as `__version__`."""
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return module.startswith("eventhost.") and (path.is_dir() or path.with_suffix(".py").exists())


def breaches(file: Path, text: str) -> list[str]:
    """What `text`, were it in `file`, imports and may not."""
    module = name_of(file)
    room = room_of(module)
    found = []
    for line, imported in imports(ast.parse(text), module, file.name == "__init__.py"):
        target = room_of(imported)
        if target is None or target == room:
            continue
        below = room is not None and target in FLOORS and FLOORS[target] < FLOORS[room]
        if not below or (room == "kit" and target not in KIT_MAY_KNOW):
            found.append(f"{file.relative_to(PACKAGE.parent)}:{line}: {imported}")
    return found


def test_every_room_is_in_the_plan() -> None:
    rooms = {room_of(name_of(file)) for file in files()} - {None}
    assert rooms <= FLOORS.keys()


@pytest.mark.parametrize("file", files(), ids=name_of)
def test_a_room_imports_only_from_floors_below_its_own(file: Path) -> None:
    if file == PACKAGE / "__init__.py":
        return  # hands names on, and loads them only when they are asked for
    assert breaches(file, file.read_text()) == []


@pytest.mark.parametrize(
    ("file", "text", "number"),
    [
        ("bus.py", "from eventhost.sources import EventMcpClient", 1),
        ("bus.py", "def late():\n    import eventhost.rules.engine", 1),
        ("bus.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from eventhost import environment", 1),
        ("bus.py", "from . import tools", 1),
        ("bus.py", "from .tools import McpManager", 1),
        ("sources/client.py", "from ..tools import McpManager", 1),
        ("sources/client.py", "from .poll import poll\nfrom eventhost.sources.poll import poll", 0),
        ("sources/__init__.py", "from .client import EventMcpClient\nfrom ..bus import EnvEventBus", 0),
        ("sources/client.py", "from eventhost.unknown import x", 1),
        ("journal/memory.py", "from eventhost.connections import Link", 1),
        ("kit/source.py", "from eventhost.event import EnvEvent", 1),
        ("kit/source.py", "from eventhost.errors import ConnectionLost\nfrom eventhost import wire", 0),
        ("environment.py", "from eventhost.web.app import application", 1),
        ("environment.py", "from eventhost import __version__", 0),
        ("bus.py", "from eventhost.errors import BusClosed\nimport eventhost, os", 0),
    ],
)
def test_a_breach_would_be_found(file: str, text: str, number: int) -> None:
    assert len(breaches(PACKAGE / file, text)) == number


def test_nobody_imports_the_web_or_the_command_line() -> None:
    for file in files():
        module = name_of(file)
        targets = {room_of(imported) for _, imported in imports(ast.parse(file.read_text()), module)} - {
            room_of(module)
        }
        assert "cli" not in targets or module == "eventhost.__main__", module
        assert "web" not in targets or module.startswith("eventhost.cli."), module


@pytest.mark.parametrize("file", files(PACKAGE / "kit"), ids=name_of)
def test_the_kit_needs_nothing_but_the_standard_library(file: Path) -> None:
    if file.stem in KIT_ON_THE_SDK:
        return
    roots = {imported.split(".")[0] for _, imported in imports(ast.parse(file.read_text()), name_of(file))}
    assert roots <= {*sys.stdlib_module_names, "eventhost"}


@pytest.mark.parametrize("file", ["errors.py", "wire.py"])
def test_what_the_kit_stands_on_needs_nothing_but_the_standard_library(file: str) -> None:
    path = PACKAGE / file
    roots = {imported.split(".")[0] for _, imported in imports(ast.parse(path.read_text()), name_of(path))}
    assert roots <= sys.stdlib_module_names


def test_importing_the_kit_loads_nothing_heavy() -> None:
    code = "import sys, eventhost.kit; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    site = {name for name in loaded if name not in sys.stdlib_module_names and not name.startswith("_")}
    assert site & {"pydantic", "mcp", "mcp_types", "msgspec", "anyio", "starlette", "uvicorn", "httpx2"} == set()


def test_importing_the_package_loads_none_of_its_rooms() -> None:
    code = "import sys, eventhost; print(*[name for name in sys.modules if name.startswith('eventhost.')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []


@pytest.mark.parametrize("name", eventhost.__all__)
def test_the_public_names_can_be_imported_from_the_package(name: str) -> None:
    assert getattr(eventhost, name).__name__ == name


def test_a_name_that_the_package_does_not_have_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="module 'eventhost' has no attribute 'EventHost'"):
        _ = eventhost.EventHost
