"""The five minutes of docs/writing-a-source.md, walked as a newcomer walks them, in each of the languages."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from test_cli import run

from eventhost.cli.new_source import Template, create_source

PAGE = (Path(__file__).parents[1] / "docs" / "writing-a-source.md").read_text("utf-8")
FIRST = PAGE[: PAGE.index("## In Python, with the kit")]


def blocks(language: str) -> list[str]:
    """What the five minutes have one copy, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", FIRST, re.DOTALL | re.MULTILINE)


def with_python(text: str) -> str:
    (whole,) = blocks("python")
    return whole


def with_node(text: str) -> str:
    (block,) = blocks("js")
    changed, count = re.subn(r"^function begin\(\) \{.*?^\}\n", lambda _: block, text, flags=re.DOTALL | re.MULTILINE)
    assert count == 1
    return changed


def with_shell(text: str) -> str:
    block = next(each for each in blocks("sh") if each.startswith("watch()"))
    changed, count = re.subn(r"^watch\(\) \{.*?^\}\n", lambda _: block, text, flags=re.DOTALL | re.MULTILINE)
    assert count == 1
    return changed


WAYS: dict[Template, tuple[str, Callable[[str], str]]] = {
    Template.PYTHON: ("server.py", with_python),
    Template.NODE: ("server.mjs", with_node),
    Template.SHELL: ("server.sh", with_shell),
}


@pytest.mark.parametrize("template", list(Template))
def test_a_newcomer_has_a_tested_source(template: Template, tmp_path: Path, needs: Callable[[str], str]) -> None:
    if template is Template.NODE:
        needs("node")
    (tmp_path / "config.jsonc").write_text("{}")
    folder = create_source(tmp_path, "disk", template)
    name, edit = WAYS[template]
    (folder / name).write_text(edit((folder / name).read_text()))
    (golden,) = blocks("json")
    (case,) = (folder / "golden").iterdir()
    assert f"eventsources/disk/golden/{case.name}" in FIRST
    case.write_text(golden)
    done = run("source", "test", "disk", "--json", "--env", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    checks = {check["name"]: check["outcome"] for check in json.loads(done.stdout)["checks"]}
    assert checks[f"golden {case.stem}"] == checks["handshake"] == checks["events"] == checks["slow reader"] == "ok"


def test_the_page_names_every_language_that_a_new_source_can_have() -> None:
    for template in Template:
        option = "" if template is Template.PYTHON else f" --template {template}"
        assert re.search(rf"^eventhost source new disk{option}\b", FIRST, re.MULTILINE)
