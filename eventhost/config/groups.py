"""Which places speak of the same server: folder, client and entry meet by their names and by what they start."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eventhost.config.folders import Folder, relative_name
from eventhost.config.tree import Tree
from eventhost.errors import Problem


@dataclass(slots=True)
class Group:
    """All that is said of one server, wherever it is said; at least one of the three is there."""

    name: str
    folder: Folder | None = None
    client: Tree | None = None
    entry: Tree | None = None

    def place(self) -> str:
        """Where it is, for messages."""
        if self.folder is not None:
            return relative_name(self.folder.path)
        tree = self.client or self.entry
        return ".".join(map(str, tree.path)) if tree else self.name

    def problem_of_name(self, message: str, mend: str) -> Problem:
        """A problem at what gives the group its name."""
        if self.entry is not None and _own_name(self.entry):
            return self.entry.problem(message, mend=mend, at="name")
        tree = self.client or self.entry
        if tree is not None:
            return tree.problem(message, mend=mend, key=True)
        if self.folder is not None and _own_name(self.folder.tree):
            return self.folder.tree.problem(message, mend=mend, at="name")
        return Problem(self.place(), message, mend=mend)


def group(
    root: Path, folders: Sequence[Folder], clients: Mapping[str, Tree], entries: Mapping[str, Tree]
) -> tuple[list[Group], dict[str, Problem]]:
    """The groups, and what is wrong with entries that found no place in one.

    A client that bears a folder's name, or starts its server file, is that folder's; so is an entry that bears the
    name of the folder or of its client. An entry's `name` names the group, else the client's key, else the folder.
    """
    groups = [Group(folder.name, folder) for folder in folders]
    problems: dict[str, Problem] = {}

    def of_folder(name: str) -> Group | None:
        with_folder = [(group, group.folder) for group in groups if group.folder]
        called = [group for group, folder in with_folder if folder.name == name]
        return next(iter(called or [group for group, folder in with_folder if folder.path.name == name]), None)

    unnamed: dict[str, Tree] = {}
    for name, client in clients.items():
        found = of_folder(name)
        if found is None or found.client is not None:
            unnamed[name] = client
        else:
            found.client, found.name = client, name
    for name, client in unnamed.items():
        found = _started_by(client, root, groups)
        if found is None or found.client is not None:
            groups.append(Group(name, client=client))
        else:
            found.client, found.name = client, name
    for key, entry in entries.items():
        found = next((group for group in groups if group.client and group.name == key), None) or of_folder(key)
        if found is None:
            groups.append(Group(key, entry=entry))
        elif found.entry is not None:
            message = f'"{found.entry.path[-1]}" is an entry for the same source'
            problems[key] = entry.problem(message, mend="keep one of them", key=True)
        else:
            found.entry = entry
    for each in groups:
        if each.entry is not None and (name := _own_name(each.entry)):
            each.name = name
    return groups, problems


def _started_by(client: Tree, root: Path, groups: Sequence[Group]) -> Group | None:
    """The group of the folder whose server file a client's command starts."""
    for word in (*_words(client, "command"), *_words(client, "args")):
        path = Path(os.path.normpath(root / word))
        for each in groups:
            if each.folder is not None and path.parent == each.folder.path:
                own = {os.path.basename(word) for word in _words(each.folder.tree, "command")}
                if path.stem == "server" or path.name in own:
                    return each
    return None


def _own_name(tree: Tree) -> str:
    name = tree.at("name").value
    return name if isinstance(name, str) else ""


def _words(tree: Tree, key: str) -> list[str]:
    said = tree.at(key).value
    return [word for word in (said if isinstance(said, list) else [said]) if isinstance(word, str)]
