"""The source that is tested: found as the host finds it, started as the host starts it, with a state of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eventhost.cli.source_test.process import RawProcess, raw_process
from eventhost.config import ServerKind, SourceConfig, load_environment, resolve_all, variables
from eventhost.config.folders import find_folders, relative_name
from eventhost.config.server import Chain, Said
from eventhost.config.shape import Server, Supervision
from eventhost.config.tree import merge
from eventhost.connections import Guardian, Surroundings
from eventhost.errors import ConfigError, NotFound, Problem


@dataclass(frozen=True, slots=True)
class Found:
    """What the environment's files say of a source."""

    name: str
    source: SourceConfig | None
    """None if what they say cannot be used."""
    folder: Path | None
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


def find(root: Path, name: str) -> Found:
    """Look for the source `name`; one that is disabled, or switched off with all others, is found too.

    Raises:
        ConfigError: the environment's own configuration cannot be used.
        NotFound: there is no such source.
    """
    config = load_environment(root)
    folders, _ = find_folders(root)
    folder = next((each for each in folders if each.name == name), None)
    path = folder.path if folder else None
    source = config.sources.get(name)
    problems = config.broken.get(name, ())
    place = f"{relative_name(path)}/" if path else f"mcp.clients.{name}"
    warnings = tuple(each for each in config.warnings if each.file.startswith(place) or each.field.startswith(place))
    if source is None and not problems:
        if folder is None:
            known = sorted({*config.sources, *config.broken, *(each.name for each in folders)})
            raise NotFound(f"no source is called {name!r}; there are: {', '.join(known) or 'none'}")
        try:
            said = Said.read(folder.tree, Server, folder.path)
            chain = Chain(name, [said], folder, root, variables(root))
            source = chain.source(chain.server(Supervision(), enabled=False))
        except ConfigError as error:
            # The host takes no offence at what is wrong with a source that is disabled.
            problems, warnings = error.problems, ()
    return Found(name, source, source.folder if source else path, tuple(problems), warnings)


@dataclass(frozen=True, slots=True)
class Subject:
    """A source, and all that it needs to be started; its state is kept under a temporary folder."""

    source: SourceConfig
    surroundings: Surroundings

    @classmethod
    def of(cls, source: SourceConfig, root: Path, guardian: Guardian, scratch: Path) -> Subject:
        """`source` of the environment in `root`; its state will be under `scratch`."""

        def resolve(value: Any) -> Any:
            return resolve_all(value, root, variables(root))

        return cls(source, Surroundings(guardian, scratch, resolve))

    def in_case(self, config: Mapping[str, Any], scratch: Path) -> Subject:
        """The same source with more of a configuration, and with another place for its state."""
        server = self.source.server
        more = config.get("environment", config.get("env"))
        server = replace(
            server,
            settings=merge(server.settings, config),
            environment={**server.environment, **(more if isinstance(more, Mapping) else {})},
        )
        types = config.get("eventTypes")
        globs = tuple(types) if isinstance(types, list) else self.source.event_types
        return Subject(replace(self.source, server=server, event_types=globs), replace(self.surroundings, root=scratch))

    @property
    def speaks_stdio(self) -> bool:
        """Whether it is a process that speaks on its stdin and stdout."""
        return self.source.server.kind is ServerKind.STDIO

    def started(
        self, on_stdout: Callable[[bytes], None], grace_s: float | None = None
    ) -> AbstractAsyncContextManager[RawProcess]:
        """Its process, until the block ends.

        Raises:
            SpawnError, ConfigError: it cannot be started as it is configured.
        """
        server = self.source.server
        return raw_process(
            self.surroundings.guardian,
            server.command,
            cwd=server.directory,
            env=self.surroundings.environment(server),
            on_stdout=on_stdout,
            grace_s=server.timings.stop_timeout_s if grace_s is None else grace_s,
        )


@asynccontextmanager
async def guarded(guardian: Guardian) -> AsyncIterator[None]:
    """Until the block ends, what is started under the guardian ends with this process, however that ends."""
    await guardian.start()
    try:
        yield
    finally:
        await guardian.aclose()
