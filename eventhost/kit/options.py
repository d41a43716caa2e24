"""A source's settings, read key by key: what is wrong is told with its place and its mend, and misspelt keys are too.

options = Options(source.options)
url = options.text("url")                               # needed, for it has no default
interval_s = options.seconds("interval", 60, least=1)   # "5m", or a number of milliseconds
for topic in options.sections("topics"):
    ...
    topic.close()                                       # no other key has any meaning
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Final

from eventhost.durations import milliseconds, written
from eventhost.errors import ConfigError, Problem

CONFIG_FILE: Final = "config.jsonc"
"""The file that problems are told of; a host knows its folder, and the line."""


class Options:
    """A JSON object of the configuration; `field` is its dotted path, empty at the top.

    Each method returns the value of a key, or `default` where the key is missing or null; without a default the key is
    needed. A default is returned as it is.

    Raises:
        ConfigError: by each method, where the value cannot be used.
    """

    def __init__(self, values: Mapping[str, Any], field: str = "") -> None:
        self.field = field
        self._values = values
        self._asked: set[str] = set()

    def __contains__(self, key: str) -> bool:
        self._asked.add(key)
        return self._values.get(key) is not None

    def keys(self) -> list[str]:
        """The keys that are there."""
        return list(self._values)

    def value(self, key: str, default: Any = None) -> Any:
        """Whatever stands there."""
        return self._values[key] if key in self else default

    def text(self, key: str, default: str | None = None, *, example: str = "") -> str:
        """A text, not empty."""
        if key not in self and default is not None:
            return default
        value = self._needed(key, f'a text such as "{example}"' if example else "a text")
        if not isinstance(value, str) or not value:
            raise self._unexpected(key, f'a text such as "{example}"' if example else "a text", value)
        return value

    def one_of(self, key: str, choices: Sequence[str], default: str | None = None) -> str:
        """One of these texts."""
        if key not in self and default is not None:
            return default
        wanted = f"one of {', '.join(choices)}"
        value = self._needed(key, wanted)
        if value not in choices:
            raise self._unexpected(key, wanted, value)
        return str(value)

    def texts(self, key: str, default: Sequence[str] | None = None, *, example: str = "") -> list[str]:
        """A list of texts, none of them empty; a single text is a list of one."""
        if key not in self and default is not None:
            return list(default)
        wanted = f"a list of texts such as {example}" if example else "a list of texts"
        value = self._needed(key, wanted)
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not value or not all(isinstance(text, str) and text for text in value):
            raise self._unexpected(key, wanted, value)
        return value

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.value(key, default)
        if not isinstance(value, bool):
            raise self._unexpected(key, "true or false", value)
        return value

    def whole(self, key: str, default: int | None = None, *, least: int, most: int) -> int:
        """A whole number between two others, both included."""
        if key not in self and default is not None:
            return default
        wanted = f"a whole number from {least} to {most}"
        value = self._needed(key, wanted)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self._unexpected(key, wanted, value)
        return value

    def seconds(self, key: str, default: float | None = None, *, least: float = 0.001, most: float = 86_400) -> float:
        """A duration in seconds; written as a text with a unit, or as a number of milliseconds."""
        if key not in self and default is not None:
            return default
        bounds = f"from {written(round(least * 1000))} to {written(round(most * 1000))}"
        wanted = f'a duration such as "5s" or a number of milliseconds, {bounds}'
        value = self._needed(key, wanted)
        duration_ms = milliseconds(value) if isinstance(value, str) else value
        if isinstance(value, bool) or not isinstance(value, str | int | float) or duration_ms is None:
            raise self._unexpected(key, wanted, value)
        duration_s = float(duration_ms) / 1000
        if not (math.isfinite(duration_s) and least <= duration_s <= most):
            raise self._unexpected(key, wanted, value)
        return duration_s

    def section(self, key: str) -> Options:
        """An object inside this one; an empty one where there is none."""
        value = self.value(key, {})
        if not isinstance(value, dict):
            raise self._unexpected(key, "an object", value)
        return Options(value, self._path(key))

    def sections(self, key: str, short: str = "") -> list[Options]:
        """A list of objects; one object alone is a list of one.

        Where `short` is a key, a text `t` stands for `{short: t}`.
        """
        value = self.value(key, [])
        wanted = "a list of objects" + (f", or of texts, each its {short}" if short else "")
        path = self._path(key)
        places = {path: value} if isinstance(value, dict | str) else {}
        if isinstance(value, list):
            places = {f"{path}[{i}]": one for i, one in enumerate(value)}
        found = []
        for place, one in places.items():
            filled = {short: one} if short and isinstance(one, str) else one
            if not isinstance(filled, dict):
                raise self._unexpected(place.removeprefix(self._path("")), wanted, one)
            found.append(Options(filled, place))
        if not places and value != []:
            raise self._unexpected(key, wanted, value)
        return found

    def table(self, key: str) -> Iterator[tuple[str, Any]]:
        """The keys of an object and their values, where the keys are the user's own."""
        yield from self.section(key)._values.items()

    def wrong(self, key: str, message: str, mend: str = "") -> ConfigError:
        """The error to raise where a value cannot be used for a reason of the source's own."""
        return ConfigError([Problem(CONFIG_FILE, message, mend, self._path(key) if key else self.field)])

    def close(self) -> None:
        """Take note that every key with a meaning has been asked for.

        Raises:
            ConfigError: there is another one.
        """
        problems = []
        for key in self._values:
            if key in self._asked:
                continue
            near = get_close_matches(key, self._asked, 1)
            known = f"there are {', '.join(sorted(self._asked))}" if self._asked else "there are none"
            mend = f"did you mean {near[0]}?" if near else known
            problems.append(Problem(CONFIG_FILE, "no such option", mend, self._path(key)))
        if problems:
            raise ConfigError(problems)

    def _needed(self, key: str, wanted: str) -> Any:
        if key not in self:
            raise ConfigError([Problem(CONFIG_FILE, "missing", f"write {wanted}", self._path(key))])
        return self._values[key]

    def _unexpected(self, key: str, wanted: str, value: Any) -> ConfigError:
        # The value may be a secret, so only what it is is told.
        if value in ("", []):
            told = "an empty text" if value == "" else "an empty list"
        elif isinstance(value, int | float) and not isinstance(value, bool):
            told = repr(value)
        else:
            told = {bool: "true or false", str: "a text", list: "a list"}.get(type(value), "an object")
        return self.wrong(key, f"expected {wanted}, got {told}")

    def _path(self, key: str) -> str:
        return f"{self.field}.{key}" if self.field else key
