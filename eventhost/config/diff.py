"""What a new configuration changes, so that only that is restarted; what became invalid keeps its last good one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from eventhost.config.folders import CONFIG_FILE, LOCAL_CONFIG_FILE
from eventhost.config.model import EnvironmentConfig, ServerConfig, ServerKind, SourceConfig
from eventhost.config.tree import Tree

Names = frozenset[str]


@dataclass(frozen=True, slots=True)
class Changes:
    """Names that differ between two configurations.

    What is disabled is there, too: being enabled or disabled is a change. A name that turns from client to source is
    removed from the ones and added to the others. `kept` were there, cannot be used as they are now, and go on as they
    were; they are in no other set.
    """

    sources_added: Names = frozenset()
    sources_removed: Names = frozenset()
    sources_changed: Names = frozenset()
    clients_added: Names = frozenset()
    clients_removed: Names = frozenset()
    clients_changed: Names = frozenset()
    kept: Names = frozenset()
    rules_changed: bool = False
    http_changed: bool = False
    journal_changed: bool = False
    log_changed: bool = False

    def __bool__(self) -> bool:
        """Whether anything has to be done; what is `kept` needs nothing."""
        return any(getattr(self, each.name) for each in fields(self) if each.name != "kept")


def diff(old: EnvironmentConfig, new: EnvironmentConfig) -> Changes:
    """What must be done to go from `old`, which is running, to `new`."""
    kept = _kept(old, new)
    sources = _compare(old.sources, new.sources, kept)
    clients = _compare(old.clients, new.clients, kept)
    return Changes(
        *sources,
        *clients,
        kept=kept,
        rules_changed=not _same_rules(old, new),
        http_changed=old.http != new.http,
        journal_changed=old.journal != new.journal,
        log_changed=old.log != new.log,
    )


def with_last_good(old: EnvironmentConfig, new: EnvironmentConfig) -> EnvironmentConfig:
    """`new` with what `diff` calls kept taken over from `old`: what runs once the changes are made.

    Compare the next configuration with this one, or a source that is mended would seem to be new.
    """
    kept = _kept(old, new)
    if not kept:
        return new
    sources = {name: source for name, source in old.sources.items() if name in kept}
    clients = {name: client for name, client in old.clients.items() if name in kept}
    return replace(
        new,
        sources={name: source for name, source in new.sources.items() if name not in kept} | sources,
        clients={name: client for name, client in new.clients.items() if name not in kept} | clients,
    )


def touched_sources(paths: Iterable[Path], config: EnvironmentConfig) -> set[str]:
    """The sources whose own code is among the changed `paths`: children that run what lies in their folder."""
    folders = {path.parent for path in paths if path.name not in (CONFIG_FILE, LOCAL_CONFIG_FILE)}
    return {
        name
        for name, source in config.sources.items()
        if source.folder in folders and source.server.kind not in (ServerKind.REMOTE, ServerKind.SSE)
    }


def _kept(old: EnvironmentConfig, new: EnvironmentConfig) -> Names:
    """What was running and is broken now; a folder whose file cannot be read goes by the folder's name."""
    running = {name: None for name, client in old.clients.items() if client.enabled}
    folders = running | {name: source.folder for name, source in old.sources.items() if source.enabled}
    return frozenset(
        name
        for name, folder in folders.items()
        if name in new.broken or (folder and folder.name in new.broken and name not in new.sources)
    )


def _compare(
    old: Mapping[str, SourceConfig] | Mapping[str, ServerConfig],
    new: Mapping[str, SourceConfig] | Mapping[str, ServerConfig],
    kept: Names,
) -> tuple[Names, Names, Names]:
    added = frozenset(new.keys() - old.keys() - kept)
    removed = frozenset(old.keys() - new.keys() - kept)
    both = (old.keys() & new.keys()) - kept
    return added, removed, frozenset(name for name in both if not _same(old[name], new[name]))


def _same_rules(old: EnvironmentConfig, new: EnvironmentConfig) -> bool:
    # A file that cannot be read changes nothing: its last good rules stay.
    before = {file: tree for file, tree in old.rule_files.items() if file not in new.broken_rules}
    if before.keys() != new.rule_files.keys() or not _same_list(old.rules, new.rules):
        return False
    return all(_same_list(tree, new.rule_files[file]) for file, tree in before.items())


def _same_list(old: Tree, new: Tree) -> bool:
    # Nearly always the text is the same, and comparing a hundred thousand rules takes its time.
    texts = [[layer.outline and layer.outline.text for layer in tree.layers] for tree in (old, new)]
    return (texts[0] == texts[1] and None not in texts[0] and old.path == new.path) or old == new


def _same(old: Any, new: Any) -> bool:
    # To Python 1, 1.0 and true are equal; to the source that reads its settings they are not.
    return bool(old == new) and _exact(old) == _exact(new)


def _exact(value: Any) -> Any:
    if is_dataclass(value):
        return [_exact(getattr(value, each.name)) for each in fields(value)]
    return json.dumps(value, sort_keys=True) if isinstance(value, Mapping) else value
