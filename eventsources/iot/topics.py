"""Topics and filters of MQTT: which topic a filter takes, what to subscribe to, and what an event is called."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

GAP: Final = "mqtt.gap"
"""The type of events that tell of a hole; no message can have it."""

_SHARED: Final = "$share"
_MOST_BYTES: Final = 65_535
_PLACEHOLDER: Final = re.compile(r"\{(topic|broker|[1-9][0-9]*)\}")


def problem_of(topic_filter: str) -> str:
    """Why this is no topic filter; empty if it is one."""
    if "\0" in topic_filter or len(topic_filter.encode(errors="replace")) > _MOST_BYTES:
        return f"at most {_MOST_BYTES} bytes, and no NUL"
    levels = topic_filter.split("/")
    if levels[0] == _SHARED:
        if len(levels) < 3 or not levels[1] or "+" in levels[1] or "#" in levels[1] or not "/".join(levels[2:]):
            return "a shared subscription is $share/GROUP/FILTER"
        levels = levels[2:]
    if "#" in levels[:-1]:
        return "# stands for the rest of a topic, so nothing may follow it"
    if any(len(level) > 1 and ("+" in level or "#" in level) for level in levels):
        return "+ and # stand for whole levels, between slashes"
    return ""


def wildcards(topic_filter: str) -> int:
    """How many `+` and `#` it has."""
    return sum(level in ("+", "#") for level in _levels(topic_filter))


def matched(topic_filter: str, topic: str) -> list[str] | None:
    """What each `+` and `#` of the filter stands for in this topic; None if the filter does not take it."""
    wanted, levels = _levels(topic_filter), topic.split("/")
    if topic.startswith("$") and wanted[0] in ("+", "#"):
        return None
    found: list[str] = []
    for at, level in enumerate(wanted):
        if level == "#":
            return [*found, "/".join(levels[at:])]
        if at == len(levels):
            return None
        if level == "+":
            found.append(levels[at])
        elif level != levels[at]:
            return None
    return found if len(wanted) == len(levels) else None


def covers(wide: str, narrow: str) -> bool:
    """Whether the filter `wide` takes every topic that `narrow` takes; never so for shared subscriptions."""
    if wide.startswith(f"{_SHARED}/") or narrow.startswith(f"{_SHARED}/"):
        return False
    if narrow.startswith("$") and wide[0] in "+#":
        return False
    wanted, levels = wide.split("/"), narrow.split("/")
    for at, level in enumerate(wanted):
        if level == "#":
            return True
        if at == len(levels) or levels[at] == "#" or level not in ("+", levels[at]):
            return False
    return len(wanted) == len(levels)


@dataclass(frozen=True, slots=True)
class Topic:
    """One of the topics that a user wants, and what becomes of its messages."""

    filter: str
    type: str
    """What its events are called, with placeholders; see `type_of`."""
    qos: int = 1
    retained: bool = True
    """Whether messages that were there before the subscription are told."""
    payload: str = "auto"
    """`auto`, `text` or `base64`."""
    id: tuple[str, ...] = ()
    """Where in an event its id stands; empty: nowhere."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """What the broker is asked for."""

    filter: str
    qos: int
    retained: bool


def subscriptions(topics: Sequence[Topic]) -> dict[Subscription, list[Topic]]:
    """The subscriptions that bring the messages of all topics, and the topics that each is for.

    Of overlapping ones some brokers send a message once, others once for each, so one that another covers is left out.
    It stays where it wants a higher quality of service: a wider one must not be kept for everything's sake.
    """
    carried: dict[Topic, list[Topic]] = {}
    for topic in topics:
        carried.setdefault(_bearer(topic, topics), []).append(topic)
    return {
        Subscription(bearer.filter, bearer.qos, any(topic.retained for topic in those)): those
        for bearer, those in carried.items()
    }


def _bearer(topic: Topic, topics: Sequence[Topic]) -> Topic:
    for other in topics:
        if other is not topic and other.qos >= topic.qos and covers(other.filter, topic.filter):
            return _bearer(other, topics)
    return topic


def wrong_in_type(template: str, topic_filter: str) -> str:
    """What is wrong with the template of an event type; empty if nothing is."""
    count = wildcards(topic_filter)
    numbers = [int(name) for name in _PLACEHOLDER.findall(template) if name.isdigit()]
    if re.search(r"[{}]", _PLACEHOLDER.sub("", template)):
        return "it may hold {topic}, {broker}, and {1}, {2} and so on for what + and # stand for"
    if any(number > count for number in numbers):
        return f"{{{max(numbers)}}} stands for nothing: {topic_filter} has {count or 'no'} wildcards"
    if template == GAP:
        return f"{GAP} tells of holes; choose another"
    return ""


def type_of(template: str, broker: str, topic: str, stands_for: Sequence[str]) -> str:
    """The event type; slashes become dots, and what no type should hold becomes `_`."""
    values = {"topic": topic, "broker": broker}
    values |= {str(number): value for number, value in enumerate(stands_for, 1)}
    name = _PLACEHOLDER.sub(lambda found: _dotted(values[found[1]].split("/")), template)
    return f"{name}_" if name == GAP else name


def _dotted(levels: Iterable[str]) -> str:
    return ".".join(re.sub(r"[^\w:-]", "_", level) for level in levels if level) or "_"


def _levels(topic_filter: str) -> list[str]:
    levels = topic_filter.split("/")
    return levels[2:] if levels[0] == _SHARED else levels
