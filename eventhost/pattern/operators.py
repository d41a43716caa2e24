"""The operators: each tells of one leaf whether it matches, exactly, in time linear in the leaf's length."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from ipaddress import AddressValueError, IPv6Address
from typing import Final

from eventhost.pattern.leaf import MISSING, Leaf

IPV4_BITS: Final = 32
IPV6_BITS: Final = 128
_MAPPED_IPV4: Final = 0xFFFF
"""The upper 96 bits of an IPv6 address that stands for an IPv4 one (RFC 4291, 2.5.5.2)."""


class Operator(ABC):
    """What may stand in an array instead of a value. Equal operators match the same."""

    __slots__ = ()

    @abstractmethod
    def matches(self, value: Leaf) -> bool:
        """Whether it matches a leaf, or `MISSING`."""


@dataclass(frozen=True, slots=True)
class Prefix(Operator):
    """Strings that begin so."""

    text: str

    def matches(self, value: Leaf) -> bool:
        return type(value) is str and value.startswith(self.text)


@dataclass(frozen=True, slots=True)
class Suffix(Operator):
    """Strings that end so."""

    text: str

    def matches(self, value: Leaf) -> bool:
        return type(value) is str and value.endswith(self.text)


@dataclass(frozen=True)
class IgnoringCase(Operator):
    """Strings that are, begin (`open_end`) or end (`open_start`) so, each character in lower or in upper case.

    As in event-ruler, the pattern's characters have two forms: `ß` is matched by `ß` and `SS`, but `ss` not by `ß`.
    """

    text: str
    open_start: bool = False
    open_end: bool = False

    @cached_property
    def _lowered(self) -> str | None:
        return self.text.lower() if self.text.isascii() else None

    @cached_property
    def _forms(self) -> tuple[tuple[str, ...], ...]:
        """The forms of each character; of one that has neither case (`ǅ`), itself besides."""
        forms = (dict.fromkeys((char, char.lower(), char.upper())) for char in self.text)
        return tuple(map(tuple, reversed(tuple(forms)) if self.open_start else forms))

    def matches(self, value: Leaf) -> bool:
        if type(value) is not str:
            return False
        lowered = self._lowered
        if lowered is not None and value.isascii():
            value = value.lower()
            if self.open_end:
                return value.startswith(lowered)
            return value.endswith(lowered) if self.open_start else value == lowered
        if self.open_start:
            return self._ends(value)
        position = 0
        for forms in self._forms:
            # No form begins like another one of the same character, so that the first that fits is the only one.
            form = next((form for form in forms if value.startswith(form, position)), None)
            if form is None:
                return False
            position += len(form)
        return self.open_end or position == len(value)

    def _ends(self, value: str) -> bool:
        ends = {len(value)}
        for forms in self._forms:
            ends = {end - len(form) for end in ends for form in forms if value.endswith(form, 0, end)}
            if not ends:
                return False
        return True

    @cached_property
    def folded(self) -> str | None:
        """What the upper case of every match is, begins or ends with; none where the characters allow no such text."""
        if all(char.lower().upper() == char.upper() == char.upper().upper() for char in self.text):
            return self.text.upper()
        return None


@dataclass(frozen=True, slots=True)
class Wildcard(Operator):
    """Strings that consist of these parts in their order, with any characters between them."""

    parts: tuple[str, ...]
    """At least two."""

    def matches(self, value: Leaf) -> bool:
        if type(value) is not str:
            return False
        head, tail = self.parts[0], self.parts[-1]
        position, end = len(head), len(value) - len(tail)
        if position > end or not value.startswith(head) or not value.endswith(tail):
            return False
        for part in self.parts[1:-1]:
            # Leftmost is best: what follows has the most room.
            position = value.find(part, position, end)
            if position < 0:
                return False
            position += len(part)
        return True


@dataclass(frozen=True, slots=True)
class Range(Operator):
    """Numbers between two bounds, compared exactly however large or precise they are."""

    bottom: float | int
    top: float | int
    open_bottom: bool = False
    open_top: bool = False

    def matches(self, value: Leaf) -> bool:
        if type(value) is not int and type(value) is not float:
            return False
        return (self.bottom < value or (value == self.bottom and not self.open_bottom)) and (
            value < self.top or (value == self.top and not self.open_top)
        )


@dataclass(frozen=True, slots=True)
class Cidr(Operator):
    """Strings that are an address of this network."""

    width: int
    """`IPV4_BITS` or `IPV6_BITS`."""
    bits: int
    network: int
    """The first `bits` of the addresses."""

    def matches(self, value: Leaf) -> bool:
        if type(value) is not str or (address := parse_address(value)) is None:
            return False
        width, number = address
        return width == self.width and number >> (width - self.bits) == self.network


@dataclass(frozen=True, slots=True)
class Exists(Operator):
    """A leaf that is there, or one that is not."""

    present: bool

    def matches(self, value: Leaf) -> bool:
        return (value is not MISSING) is self.present


@dataclass(frozen=True, slots=True)
class AnythingBut(Operator):
    """Leaves that are there and that none of these matches."""

    excluded: frozenset[Leaf]
    operators: tuple[Operator, ...] = ()

    def matches(self, value: Leaf) -> bool:
        return (
            value is not MISSING
            and value not in self.excluded
            and not any(operator.matches(value) for operator in self.operators)
        )


def parse_address(text: str) -> tuple[int, int] | None:
    """The width in bits and the number of an IP address; none if the text is none.

    As event-ruler reads them: the parts of an IPv4 address are decimal, whatever zeros they begin with; an IPv6
    address that stands for an IPv4 one is that one; an IPv6 address has no IPv4 part and no zone.
    """
    if ":" in text:
        if len(text) > 39 or "." in text or "%" in text:
            return None
        try:
            number = int(IPv6Address(text))
        except AddressValueError:
            return None
        if number >> 32 == _MAPPED_IPV4:
            return IPV4_BITS, number & 0xFFFFFFFF
        return IPV6_BITS, number
    if len(text) > 64 or text.count(".") != 3 or not text.isascii():
        return None
    number = 0
    for part in text.split("."):
        if not part.isdigit() or (value := int(part)) > 255:
            return None
        number = number << 8 | value
    return IPV4_BITS, number
