"""`RuleSet`: the rules of all files; a file with a mistake keeps its last good ones, and harms no other."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import chain
from pathlib import PurePath

from eventhost.config import EnvironmentConfig, Tree
from eventhost.config.folders import CONFIG_FILE
from eventhost.config.wording import did_you_mean
from eventhost.errors import ConfigError, NotFound, Problem
from eventhost.rules.rule import Rule, parse_rules

MANY_OBJECTS = 100_000


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The rules that are in use, and what keeps others from being it."""

    files: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)
    """By file, those of the root config first, then in the order of the files' names."""
    broken: Mapping[str, tuple[Problem, ...]] = field(default_factory=dict)
    """The files whose rules cannot be used; those that they had before stay."""
    digests: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """Of the texts that were read, to know one that did not change."""
    switched: Mapping[str, bool] = field(default_factory=dict)
    """By name, those that were enabled or disabled by hand."""

    @property
    def rules(self) -> list[Rule]:
        """All of them, in order; no two have one name."""
        return list(chain.from_iterable(self.files.values()))

    def find(self, name: str) -> tuple[str, Rule]:
        """The rule called `name`, and its file.

        Raises:
            NotFound: there is none.
        """
        for file, rules in self.files.items():
            for rule in rules:
                if rule.name == name:
                    return file, rule
        mend = did_you_mean(name, [rule.name for rule in self.rules]) or "`eventhost rule list` shows all"
        raise NotFound(f'no rule is called "{name}"; {mend}')

    def switch(self, switched: Mapping[str, bool]) -> RuleSet:
        """The same rules, of which these are enabled or disabled whatever their files say, and no others."""
        changed = self.switched.keys() | switched.keys()
        if not changed:
            return self
        files = {
            file: tuple(_switched(rule, switched) if rule.name in changed else rule for rule in rules)
            for file, rules in self.files.items()
        }
        return replace(self, files=files, switched=switched)


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep the garbage collector from looking at what is read within, then and later.

    It would look at the millions of objects that a hundred thousand rules are made of again and again, and stop the
    whole host for seconds each time; hardly any of them is ever part of a cycle.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if gc.get_count()[0] > MANY_OBJECTS:
            gc.freeze()
        if enabled:
            gc.enable()


def read_rules(config: EnvironmentConfig, before: RuleSet | None = None) -> RuleSet:
    """The rules that the files of an environment describe. Blocking: 100,000 rules take some seconds.

    Of `before`, what is in use until now, a rule that is configured as it was is taken over, and of a file that cannot
    be used as it is, all rules are. Without it, such a file has none.

    Raises:
        ConfigError: the root config's rules cannot be used; with the problems of all files.
    """
    before = before or RuleSet()
    known = {rule.name: rule for rule in before.rules}
    trees = {CONFIG_FILE: config.rules, **config.rule_files}
    digests = {file: _digest(tree) for file, tree in config.rule_files.items()}
    read: dict[str, tuple[Rule, ...]] = {}
    broken = dict(config.broken_rules)
    for file, tree in trees.items():
        if file in before.digests and file not in before.broken and before.digests[file] == digests[file]:
            read[file] = before.files[file]
            continue
        named = "rule" if file == CONFIG_FILE else PurePath(file).stem
        try:
            read[file] = tuple(parse_rules(tree, config.root, named=named, known=known))
        except ConfigError as error:
            broken[file] = error.problems
    if CONFIG_FILE in broken:
        raise ConfigError(chain.from_iterable(broken.values()))
    used = _without_conflicts(trees, read, broken, before)
    order = (CONFIG_FILE, *sorted(used.keys() - {CONFIG_FILE}))
    files, problems = {file: used[file] for file in order}, {file: broken[file] for file in sorted(broken)}
    # What was taken over may have been switched by hand before.
    return RuleSet(files, problems, digests, before.switched).switch(config.rules_enabled)


def _switched(rule: Rule, switched: Mapping[str, bool]) -> Rule:
    enabled = switched.get(rule.name)
    if enabled is None:
        enabled = json.loads(rule.config).get("enabled", True)
    return rule if rule.enabled is enabled else replace(rule, enabled=enabled)


def _digest(tree: Tree) -> bytes:
    texts = [layer.outline.text for layer in tree.layers if layer.outline is not None]
    return blake2b("\0".join(texts).encode()).digest()


def _without_conflicts(
    trees: Mapping[str, Tree],
    read: Mapping[str, tuple[Rule, ...]],
    broken: dict[str, tuple[Problem, ...]],
    before: RuleSet,
) -> dict[str, tuple[Rule, ...]]:
    """The rules to use of each file, so that each name is there once; files that take another's name become broken."""
    used = {CONFIG_FILE: read[CONFIG_FILE]}
    taken = {rule.name: trees[CONFIG_FILE].at(index) for index, rule in enumerate(read[CONFIG_FILE])}
    # What was there has its names before what comes: a new file never ends the rules of an old one.
    unchanged = [file for file, rules in read.items() if rules == before.files.get(file)]
    for file in dict.fromkeys((*unchanged, *broken, *read)):
        if file in used:
            continue
        rules, parts = read.get(file, ()), [trees[file].at(index) for index in range(len(read.get(file, ())))]
        conflicts = [(rule, part) for rule, part in zip(rules, parts, strict=True) if rule.name in taken]
        if conflicts:
            broken[file] = tuple(_conflict(rule, part, taken[rule.name]) for rule, part in conflicts)
        if file in broken:
            rules = tuple(rule for rule in before.files.get(file, ()) if rule.name not in taken)
            parts = [Tree(None, f"{file}, as it was before,") for _ in rules]
        used[file] = rules
        taken.update((rule.name, part) for rule, part in zip(rules, parts, strict=True))
    return used


def _conflict(rule: Rule, part: Tree, other: Tree) -> Problem:
    there = other.problem("")
    place = f"{there.file}:{there.line}" if there.line else there.file
    at = "name" if "name" in part.value else ()
    return part.problem(f'the name "{rule.name}" is that of {place} too', mend="name each rule differently", at=at)
