"""An environment's files become one `EnvironmentConfig`; what is wrong in one folder or client stays with that one."""

from __future__ import annotations

import ipaddress
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from eventhost.config.folders import find_folders, read_tree
from eventhost.config.groups import Group, group
from eventhost.config.model import (
    EnvironmentConfig,
    HttpConfig,
    JournalConfig,
    LogConfig,
    RateLimit,
    ServerConfig,
    SourceConfig,
    TlsConfig,
)
from eventhost.config.overrides import override
from eventhost.config.rulefiles import RuleFiles, read_rule_files
from eventhost.config.secrets import check_dotenv, variables
from eventhost.config.server import Chain, Said
from eventhost.config.shape import (
    Client,
    Cors,
    Entry,
    EventSources,
    Http,
    Journal,
    Limits,
    Log,
    Mcp,
    Root,
    Server,
    Shape,
    Sse,
    Supervision,
    Tls,
)
from eventhost.config.state import State, load_state
from eventhost.config.tree import Tree
from eventhost.config.wording import did_you_mean, kind, nearest
from eventhost.errors import ConfigError, Problem

S = TypeVar("S", bound=Shape)

_NAME = re.compile(r"(?!host(?:\.|$))[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_BAD_NAME = (
    "this is not a name that a source or client can have",
    "write letters, digits, - _ and . only, at most 64, beginning with a letter or digit, and not host or host.…",
)
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+", re.IGNORECASE)
_SWITCHES = (("mcp", "eventSources"), ("mcp", "eventsources"), ("eventsources",), ("eventSources",))
_CLIENTS = (("mcp", "clients"), ("mcpServers",))


def load_environment(root: Path, environ: Mapping[str, str] | None = None) -> EnvironmentConfig:
    """Read and check everything that the files under `root` say. Blocking; nothing is started or resolved.

    `environ` stands for the process's environment, in which references to secrets are looked up (but not kept). A
    corrupt `var/state.json` is set aside.

    Raises:
        ConfigError: the root config cannot be used; with every problem of all files. What is wrong with one folder,
            client or rule file is in `broken` and `broken_rules`, and harms no other.
    """
    root = Path(os.path.abspath(root))
    return _Reading(root, environ).environment()


def check_environment(root: Path, environ: Mapping[str, str] | None = None) -> list[Problem]:
    """Every problem and warning of the files under `root`."""
    reading = _Reading(Path(os.path.abspath(root)), environ)
    try:
        reading.environment()
    except ConfigError as error:
        return [*error.problems, *dict.fromkeys(reading.warnings)]
    return [*reading.all_broken(), *dict.fromkeys(reading.warnings)]


def make_source(name: str, said: Mapping[str, Any], root: Path) -> SourceConfig:
    """The source that an entry of `mcp.clients` with this name and content would be, though it stands in no file.

    Raises:
        ConfigError: it cannot be used.
    """
    file = f"the source {name}"
    if not _NAME.fullmatch(name):
        raise ConfigError([Problem(file, *_BAD_NAME)])
    place = Said.read(Tree(dict(said), file), Client, root)
    chain = Chain(name, [place], None, root, variables(root))
    return chain.source(chain.server(Supervision(), enabled=True))


class _Reading:
    """One reading of an environment, and what was found wrong on the way."""

    def __init__(self, root: Path, environ: Mapping[str, str] | None) -> None:
        self.root = root
        self.variables = variables(root, environ)
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self.broken: dict[str, list[Problem]] = {}
        self.rule_files = RuleFiles()
        self.clients: dict[str, ServerConfig] = {}
        self.sources: dict[str, SourceConfig] = {}
        self.names: set[str] = set()

    def environment(self) -> EnvironmentConfig:
        tree = read_tree(self.root, self.root, required=True)
        assert tree is not None
        state = load_state(self.root)
        self.warnings += [*check_dotenv(self.root), *state.warnings]

        said = self._part(tree.only(*(key for key in Root.known() if key != "rules")), Root)
        self._warn_unknown(tree, Root.known())
        journal = self._journal(tree.at("journal"))
        http, log, wrong = override(self._http(tree.at("http")), self._log(tree.at("log")), self.variables)
        self.problems += wrong
        supervision = self._host_part(tree.at("supervision"), Supervision)
        rules = tree.at("rules")
        if not isinstance(rules.value, list | None):
            message = f"expected a list, got {kind(rules.value)}"
            mend = 'write [{"name": "…", "on": "…", "do": […]}]'
            self.problems.append(rules.problem(message, mend=mend))

        self._servers(tree, state, supervision)
        self.rule_files = read_rule_files(self.root)
        self.warnings += self.rule_files.warnings
        if self.problems:
            raise ConfigError([*self.problems, *self.all_broken()])
        return EnvironmentConfig(
            root=self.root,
            rules=rules,
            rule_files=self.rule_files.lists,
            broken_rules=self.rule_files.broken,
            rules_enabled=state.rules,
            id=said.id or self.root.name,
            display_name=said.display_name or "",
            description=said.description or "",
            clients=self.clients,
            sources=self.sources,
            broken={name: tuple(problems) for name, problems in self.broken.items()},
            warnings=tuple(dict.fromkeys(self.warnings)),
            http=http,
            journal=journal,
            log=log,
            launch_limit=said.launch_limit or 0,
        )

    def all_broken(self) -> list[Problem]:
        broken = (*self.broken.values(), *self.rule_files.broken.values())
        return list(dict.fromkeys(problem for problems in broken for problem in problems))

    # The host's own parts.

    def _http(self, tree: Tree) -> HttpConfig:
        said = self._host_part(tree, Http)
        for name, inner in (("cors", Cors), ("rateLimit", Limits), ("rate_limit", Limits), ("tls", Tls)):
            if isinstance(tree.at(name).value, dict):
                self._warn_unknown(tree.at(name), inner.known())
        tls = TlsConfig(said.tls.cert, said.tls.key) if said.tls else None
        return HttpConfig(
            host=said.host,
            port=said.port,
            enabled=said.enabled,
            auth=said.auth,
            hosts=tuple(said.hosts),
            trusted_proxies=self._networks(tree, said.trusted_proxies),
            cors_origins=self._origins(tree, said.cors.origins),
            rate_limit=RateLimit(**said.rate_limit.model_dump()),
            tls=tls,
            max_body=said.max_body,
            access_log=said.access_log,
            sign_in_s=said.sign_in,
            heartbeat_s=said.heartbeat,
            max_connections=said.max_connections,
            connection_timeout_s=said.connection_timeout,
        )

    def _networks(self, tree: Tree, said: list[str]) -> tuple[str, ...]:
        key = "trustedProxies" if tree.at("trustedProxies").value else "trusted_proxies"
        for index, text in enumerate(said):
            try:
                ipaddress.ip_network(text)
            except ValueError:
                mend = "write an address, or a network such as 10.0.0.0/8"
                self.problems.append(tree.problem("this is no address", mend=mend, at=(key, index)))
        return tuple(said)

    def _origins(self, tree: Tree, said: list[str]) -> tuple[str, ...]:
        for index, text in enumerate(said):
            if text != "*" and not _ORIGIN.fullmatch(text):
                mend = 'write scheme, name and port only, such as "https://example.org", or "*"'
                self.problems.append(tree.problem("this is no origin", mend=mend, at=("cors", "origins", index)))
        return tuple(text.lower() for text in said)

    def _journal(self, tree: Tree) -> JournalConfig:
        said = self._host_part(tree, Journal)
        keep = said.retention
        return JournalConfig(
            said.type, said.path, said.durability, keep.age, keep.size, keep.cap, said.trace, said.capacity,
            keep.dead_letters, keep.dead_letters_size,
        )  # fmt: skip

    def _log(self, tree: Tree) -> LogConfig:
        said = self._host_part(tree, Log)
        return LogConfig(level=said.level, format=said.format)

    def _host_part(self, tree: Tree, shape: type[S]) -> S:
        if isinstance(tree.value, dict):
            self._warn_unknown(tree, shape.known())
        return self._part(tree, shape)

    def _part(self, tree: Tree, shape: type[S]) -> S:
        """A part of the root file; what is wrong with it makes the whole unusable."""
        if tree.value is None:
            return shape()
        if isinstance(tree.value, dict):
            tree = tree.only(*(key for key, value in tree.value.items() if value is not None))
        try:
            return tree.validate(shape)
        except ConfigError as error:
            self.problems += error.problems
            return shape()

    def _warn_unknown(self, tree: Tree, keys: Iterable[str], *, passed_on: bool = False) -> None:
        """Warn of keys that the host does not know; of those that are `passed_on`, only of near misses."""
        left = [key for key in keys if key not in tree.value]
        known = {*left, *keys, "$schema"}
        for key in tree.value:
            if key in known:
                continue
            message, mend = "unknown key, left out of account", did_you_mean(key, left) or "remove it"
            if passed_on:
                # A short word is near to many; only its spelling in another case is surely a mistake.
                meant = nearest(key, left, 0.85 if len(key) > 5 else 1.0)
                if not meant:
                    continue
                message, mend = "no key of the host's, only passed on to the server", f'did you mean "{meant}"?'
            self.warnings.append(tree.problem(message, mend=mend, at=key, fatal=False, key=True))

    # Sources and clients.

    def _servers(self, tree: Tree, state: State, supervision: Supervision) -> None:
        self._host_part(tree.at("mcp"), Mcp)
        switch, entries = self._event_sources(tree)
        folders, warnings = find_folders(self.root)
        self.warnings += warnings
        groups, misplaced = group(self.root, folders, self._client_trees(tree), entries or {})
        self.names = {each.name for each in groups if each.folder is not None or each.client is not None}
        for name, problem in misplaced.items():
            self.broken.setdefault(name, []).append(problem)
        self._refuse_bad_names(groups)
        on = next((value for value in (switch.enabled, switch.enable) if value is not None), True)
        for each in groups:
            if each.name in self.broken:
                continue
            if not on and each.client is None:
                continue
            try:
                self._settle(each, switch, on, entries is not None, state.enabled.get(each.name), supervision)
            except ConfigError as error:
                self.broken[each.name] = list(error.problems)

    def _event_sources(self, tree: Tree) -> tuple[EventSources, dict[str, Tree] | None]:
        """The switch, and the entries by key if there are any to choose the sources by."""
        given = [tree.at(*path) for path in _SWITCHES if isinstance(tree.at(*path).value, dict)]
        for other in given[1:]:
            mend = "keep one of them"
            self.problems.append(other.problem("event sources are configured in two places", mend=mend, key=True))
        if not given:
            return EventSources(), None
        found = given[0]
        said = self._part(found, EventSources)
        if said.enabled is not None and said.enable is not None:
            message = '"enabled" is given too'
            self.problems.append(found.problem(message, mend="keep one of them", at="enable", key=True))
        sources = found.at("sources")
        entries = (
            {key: sources.at(key) for key in sources.value if sources.value[key] is not None}
            if isinstance(sources.value, dict)
            else {}
        )
        direct = [key for key, value in found.value.items() if isinstance(value, dict) and key != "sources"]
        self._warn_unknown(found.only(*(found.value.keys() - set(direct))), EventSources.known())
        for key in direct:
            if key in entries:
                problem = found.problem("this source is also under sources", mend="keep one", at=key, key=True)
                self.broken.setdefault(key, []).append(problem)
            entries[key] = found.at(key)
        return said, entries if direct or isinstance(sources.value, dict) else None

    def _client_trees(self, tree: Tree) -> dict[str, Tree]:
        found: dict[str, Tree] = {}
        for path in _CLIENTS:
            clients = tree.at(*path)
            for name in clients.value if isinstance(clients.value, dict) else ():
                if name in found:
                    problem = clients.problem("this client is also in mcp.clients", mend="keep one", at=name, key=True)
                    self.broken.setdefault(name, []).append(problem)
                elif clients.value[name] is not None:
                    found[name] = clients.at(name)
        return found

    def _refuse_bad_names(self, groups: list[Group]) -> None:
        counted = Counter(each.name for each in groups)
        for each in groups:
            if not _NAME.fullmatch(each.name):
                message, mend = _BAD_NAME
            elif counted[each.name] > 1:
                places = [other.place() for other in groups if other.name == each.name]
                message, mend = f'"{each.name}" is the name of {" and of ".join(places)}', "rename one of them"
            else:
                continue
            self.broken.setdefault(each.name, []).append(each.problem_of_name(message, mend))

    def _settle(
        self,
        group: Group,
        switch: EventSources,
        on: bool,
        chosen: bool,
        override: bool | None,
        supervision: Supervision,
    ) -> None:
        """Make a group a source or a client.

        `on` is the switch of all sources; `chosen` says that there are entries to choose the sources by.

        Raises:
            ConfigError: it can be neither.
        """
        chain = self._chain(group, with_entry=on)
        enabled = chain.enabled if override is None else override
        by_itself = group.folder is not None or group.entry is not None or not chosen or chain.type == "sse"
        is_source = on and by_itself
        if is_source and override is None and not enabled and group.folder is None and chain.type != "sse":
            # An entry that is switched off ends the events of a client, not the use of its tools.
            client = [said for said in chain.said if said.tree is group.client]
            if client and client[0].enabled is not False:
                is_source, enabled = False, True
        auto_start = chain.auto_start() and not (is_source and switch.auto_start is False)
        try:
            if group.folder is None and group.client is None and chain.type is None:
                raise ConfigError([self._unknown_entry(group)])
            server = chain.server(supervision, enabled=enabled, auto_start=auto_start)
        except ConfigError as error:
            if enabled:
                raise
            self.warnings += [problem._replace(fatal=False) for problem in error.problems]
            return
        if enabled:
            self.warnings += chain.missing_secrets()
        if is_source:
            self.sources[group.name] = chain.source(server)
        elif chain.type != "sse":  # it has no tools
            self.clients[group.name] = server

    def _unknown_entry(self, group: Group) -> Problem:
        assert group.entry is not None
        mend = did_you_mean(group.name, self.names) or 'add "command", "url" or "module" here, a client, or a folder'
        return group.entry.problem("no folder and no client has this name", mend=mend, key=True)

    def _chain(self, group: Group, *, with_entry: bool) -> Chain:
        """What is said of a group, nearest first.

        Raises:
            ConfigError: with all that is wrong with it.
        """
        places: list[tuple[Tree, type[Server], Path]] = []
        if group.entry is not None and with_entry:
            places.append((group.entry, Entry, self.root))
            if group.entry.at("client").value is not None:
                places.append((group.entry.at("client"), Client, self.root))
        if group.client is not None:
            places.append((group.client, Client, self.root))
        problems: list[Problem] = []
        if group.folder is not None:
            places.append((group.folder.tree, Server, group.folder.path))
            problems += group.folder.problems
        said: list[Said] = []
        for tree, shape, directory in places:
            try:
                said.append(Said.read(tree, shape, directory))
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(problems)
        chain = Chain(group.name, said, group.folder, self.root, self.variables)
        stream = chain.type == "sse"
        more = ["type", *Sse.known()] if stream else []
        for tree, shape, _ in places:
            # Of a stream there is no server that keys could be passed on to.
            self._warn_unknown(tree, [*shape.known(), *more], passed_on=not stream)
        return chain
