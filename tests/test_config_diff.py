"""What a new configuration changes, what goes on as it was, and what `enable` and `disable` leave behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eventhost.config import (
    Changes,
    EnvironmentConfig,
    State,
    diff,
    load_environment,
    load_state,
    save_state,
    set_enabled,
    touched_sources,
    with_last_good,
)


class Site:
    """An environment's folder under change."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("config.jsonc", {})

    def write(self, path: str, value: Any) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(value if isinstance(value, str) else json.dumps(value))

    def source(self, folder: str, config: Any = None) -> None:
        self.write(f"eventsources/{folder}/server.py", "")
        self.write(f"eventsources/{folder}/config.jsonc", {} if config is None else config)

    def load(self) -> EnvironmentConfig:
        return load_environment(self.root, {})


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_nothing_changed_is_nothing_to_do(site: Site) -> None:
    site.source("door", {"interval": 5})
    site.write("config.jsonc", {"rules": [{"name": "a"}], "mcp": {"clients": {"x": {"url": "http://h/mcp"}}}})
    old = site.load()
    site.write(
        "config.jsonc", '// the same\n{"mcp": {"clients": {x: {url: "http://h/mcp"}}}, "rules": [{"name": "a"}]}'
    )
    assert diff(old, site.load()) == Changes()
    assert not diff(old, site.load())


def test_sources_are_added_removed_and_changed_one_by_one(site: Site) -> None:
    for name in ("gone", "changed", "same"):
        site.source(name)
    old = site.load()
    site.source("added")
    site.source("changed", {"interval": 1})
    (site.root / "eventsources/gone/server.py").unlink()
    (site.root / "eventsources/gone/config.jsonc").unlink()
    assert diff(old, site.load()) == Changes(
        sources_added=frozenset({"added"}), sources_removed=frozenset({"gone"}), sources_changed=frozenset({"changed"})
    )


def test_a_renamed_folder_is_another_source(site: Site) -> None:
    site.source("old")
    before = site.load()
    (site.root / "eventsources/old").rename(site.root / "eventsources/new")
    changes = diff(before, site.load())
    assert (changes.sources_added, changes.sources_removed) == ({"new"}, {"old"})


def test_being_disabled_or_enabled_is_a_change(site: Site) -> None:
    site.source("door", {"enabled": True})
    on = site.load()
    site.source("door", {"enabled": False})
    off = site.load()
    assert not off.sources["door"].enabled
    assert diff(on, off) == Changes(sources_changed=frozenset({"door"}))
    assert diff(off, on) == Changes(sources_changed=frozenset({"door"}))


def test_values_that_python_takes_for_equal_are_told_apart(site: Site) -> None:
    site.source("door", {"flag": 1, "rate": 1})
    old = site.load()
    for config in ({"flag": True, "rate": 1}, {"flag": 1, "rate": 1.0}):
        site.source("door", config)
        assert diff(old, site.load()).sources_changed == {"door"}


def test_the_order_of_keys_matters_in_rules_only(site: Site) -> None:
    site.source("door", {"a": 1, "b": 2})
    site.write("config.jsonc", {"rules": [{"name": "r", "do": [{"log": "x", "emit": "y"}]}]})
    old = site.load()
    site.source("door", {"b": 2, "a": 1})
    assert not diff(old, site.load())
    site.write("config.jsonc", {"rules": [{"name": "r", "do": [{"emit": "y", "log": "x"}]}]})
    assert diff(old, site.load()) == Changes(rules_changed=True)


def test_the_hosts_own_parts_are_compared_one_by_one(site: Site) -> None:
    old = site.load()
    for key, value, field in (
        ("http", {"port": 9000}, "http_changed"),
        ("log", {"level": "debug"}, "log_changed"),
        ("journal", {"capacity": 10}, "journal_changed"),
        ("rules", [], "rules_changed"),
    ):
        site.write("config.jsonc", {key: value})
        assert diff(old, site.load()) == Changes(**{field: True})


def test_a_client_that_becomes_a_source_is_removed_and_added(site: Site) -> None:
    client = {"clients": {"x": {"url": "http://h/mcp"}}}
    site.write("config.jsonc", {"mcp": {**client, "eventSources": {"sources": {}}}})
    old = site.load()
    site.write("config.jsonc", {"mcp": client})
    assert diff(old, site.load()) == Changes(sources_added=frozenset({"x"}), clients_removed=frozenset({"x"}))


def test_what_became_invalid_keeps_its_last_good_configuration(site: Site) -> None:
    site.write("config.jsonc", {"mcp": {"clients": {"x": {"url": "http://h/mcp"}}, "eventSources": {"sources": {}}}})
    site.source("door", {"interval": 1})
    site.source("other")
    good = site.load()
    site.source("door", '{"interval": 2, oops')
    site.write("config.jsonc", {"mcp": {"clients": {"x": {"url": 5}}, "eventSources": {"sources": {}}}})
    bad = site.load()
    assert bad.broken.keys() == {"door", "x"}
    assert diff(good, bad) == Changes(kept=frozenset({"door", "x"}))
    assert not diff(good, bad)

    running = with_last_good(good, bad)
    assert running.sources["door"] == good.sources["door"]
    assert running.clients["x"] == good.clients["x"]
    assert running.broken == bad.broken
    site.source("door", {"interval": 2})
    mended = site.load()
    assert diff(running, mended) == Changes(sources_changed=frozenset({"door"}), kept=frozenset({"x"}))


def test_an_unreadable_folder_keeps_running_under_the_name_it_gave_itself(site: Site) -> None:
    site.source("folder", {"name": "door"})
    good = site.load()
    site.source("folder", "{oops")
    bad = site.load()
    assert bad.broken.keys() == {"folder"}
    assert diff(good, bad) == Changes(kept=frozenset({"door"}))
    assert with_last_good(good, bad).sources.keys() == {"door"}


def test_a_copied_folder_does_not_stop_the_one_it_was_copied_from(site: Site) -> None:
    site.source("door", {"name": "door"})
    good = site.load()
    site.source("copy", {"name": "door"})
    assert diff(good, site.load()) == Changes(kept=frozenset({"door"}))


def test_what_was_not_running_is_not_kept(site: Site) -> None:
    site.source("door", {"enabled": False})
    off = site.load()
    site.source("door", "{oops")
    assert diff(off, site.load()) == Changes(sources_removed=frozenset({"door"}))


def test_changed_code_touches_its_own_source_only(site: Site) -> None:
    for name in ("door", "gate"):
        site.source(name)
    site.source("far", {"url": "http://h/mcp"})
    config = site.load()
    folder = site.root / "eventsources"
    assert touched_sources([folder / "door/server.py", folder / "far/server.py"], config) == {"door"}
    assert touched_sources([folder / "door/config.jsonc", folder / "gate", site.root / "config.jsonc"], config) == set()


def test_enabling_and_disabling_outlive_the_host_and_rewrite_no_file(site: Site) -> None:
    site.source("door", {"enabled": False})
    site.source("gate")
    files = {path: path.read_text() for path in site.root.rglob("*.jsonc")}
    set_enabled(site.root, "door", True)
    set_enabled(site.root, "gate", False)
    config = site.load()
    assert {name: source.enabled for name, source in config.sources.items()} == {"door": True, "gate": False}
    assert {name: source.server.enabled for name, source in config.sources.items()} == {"door": True, "gate": False}
    set_enabled(site.root, "gate", None)
    assert load_state(site.root) == State({"door": True})
    assert {path: path.read_text() for path in site.root.rglob("*.jsonc")} == files


def test_a_disabled_client_is_listed_as_a_source_that_is_off(site: Site) -> None:
    site.write("config.jsonc", {"mcp": {"clients": {"x": {"url": "http://h/mcp"}}}})
    set_enabled(site.root, "x", False)
    config = site.load()
    assert not config.sources["x"].enabled
    assert "x" not in config.clients


def test_saving_leaves_nothing_but_the_state(tmp_path: Path) -> None:
    save_state(tmp_path, State({"b": False, "a": True}))
    save_state(tmp_path, State({"a": True}))
    assert load_state(tmp_path) == State({"a": True})
    assert [path.name for path in (tmp_path / "var").iterdir()] == ["state.json"]


def test_a_failed_save_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_state(tmp_path, State({"a": True}))

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_state(tmp_path, State({"a": False}))
    assert load_state(tmp_path) == State({"a": True})
    assert [path.name for path in (tmp_path / "var").iterdir()] == ["state.json"]


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"enabled": {"a": 1}}', b"\xff", b""])
def test_a_corrupt_state_is_set_aside_with_a_warning(site: Site, content: bytes) -> None:
    site.source("door")
    (site.root / "var").mkdir()
    (site.root / "var/state.json").write_bytes(content)
    (warning,) = site.load().warnings
    assert not warning.fatal
    assert warning.file == "var/state.json"
    assert "is now state.json.corrupt" in warning.message
    assert (site.root / "var/state.json.corrupt").read_bytes() == content
    assert site.load().warnings == ()
