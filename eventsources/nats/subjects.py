"""Which subjects are wanted, and what the events of each are called. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_NOT_OF_A_TYPE = re.compile(r"[^A-Za-z0-9_.:-]")

EVERYTHING = ">"

GAP = "nats.gap"
"""The type of events that tell of a hole; no message can have it."""


def problem_of(pattern: str) -> str:
    """What makes this no pattern of subjects; empty if it is one."""
    if re.search(r"\s", pattern) or not pattern.isprintable():
        return "a subject has no spaces in it"
    tokens = pattern.split(".")
    if "" in tokens:
        return "between two dots, and before and after them, stands a word"
    if any(len(token) > 1 and re.search(r"[*>]", token) for token in tokens):
        return "* and > stand for whole words between dots"
    if EVERYTHING in tokens[:-1]:
        return "> stands at the end"
    return ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A pattern of subjects, and the template of its events' type; `queue` is the group that shares its messages."""

    pattern: str
    type: str
    queue: str = ""

    @property
    def wildcards(self) -> int:
        """How many `*` and `>` it has."""
        return sum(token in ("*", EVERYTHING) for token in self.pattern.split("."))

    def unknown_placeholder(self, *, in_stream: bool) -> str:
        """The first placeholder in the type that means nothing; empty if all mean something."""
        for name in _PLACEHOLDER.findall(self.type):
            is_wildcard = re.fullmatch(r"[1-9]\d?", name) and int(name) <= self.wildcards
            if not (name == "subject" or (name == "stream" and in_stream) or is_wildcard):
                return f"{{{name}}}"
        bare = re.search(r"[{}]", _PLACEHOLDER.sub("", self.type))
        return bare[0] if bare else ""

    def match(self, subject: str) -> list[str] | None:
        """What its wildcards stand for in this subject; None if it does not fit."""
        words, tokens = subject.split("."), self.pattern.split(".")
        found: list[str] = []
        for at, token in enumerate(tokens):
            if at >= len(words):
                return None
            if token == EVERYTHING:
                return [*found, ".".join(words[at:])]
            if token == "*":
                found.append(words[at])
            elif token != words[at]:
                return None
        return found if len(words) == len(tokens) else None

    def type_of(self, subject: str, stream: str = "") -> str | None:
        """The type of this subject's events; what no type should hold becomes `_`. None if it does not fit."""
        found = self.match(subject)
        if found is None:
            return None
        values = {"subject": subject, "stream": stream, **{str(at): text for at, text in enumerate(found, 1)}}
        filled = _PLACEHOLDER.sub(lambda name: _NOT_OF_A_TYPE.sub("_", values[name[1]]), self.type)
        return f"{filled}_" if filled == GAP else filled


def type_of(wanted: Sequence[Wanted], subject: str, stream: str) -> str:
    """The type by the first pattern that fits; by the last one where a server's own filter knows better."""
    types = (one.type_of(subject, stream) for one in wanted)
    return next((found for found in types if found is not None), "") or "nats.message"


def doubled(texts: Iterable[str]) -> str:
    """The first text that is there twice; empty if none is."""
    seen: set[str] = set()
    for text in texts:
        if text in seen:
            return text
        seen.add(text)
    return ""
