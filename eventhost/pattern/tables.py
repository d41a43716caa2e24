"""Tables that find, for one leaf, the buckets of all rules whose operator matches it, without asking each rule.

Each is as exact as its first line says; what is found beyond that, the rules' own tests sort out. A key has one bucket.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right, insort
from collections.abc import Hashable, Iterable
from typing import Any, Final, Generic, TypeVar

from eventhost.pattern.leaf import Leaf
from eventhost.pattern.operators import Range, parse_address

MAX_AFFIX: Final = 64
"""Longer prefixes and suffixes are found by so many characters; every length in use costs a lookup."""

GRAMS: Final = (3, 6)
"""So many characters of an inner part of a wildcard are looked up, the greater number where it is long enough. Each in
use costs as many lookups as the text has characters."""

_SLICES: Final = {length: [slice(start, start + length) for start in range(MAX_AFFIX)] for length in GRAMS}
"""Of a short text, where its grams are."""

Key = TypeVar("Key", bound=Hashable)
Bucket = TypeVar("Bucket")


class Table(ABC, Generic[Key, Bucket]):
    """Buckets by what they are found by."""

    __slots__ = ("buckets",)

    def __init__(self) -> None:
        self.buckets: dict[Key, Bucket] = {}

    def open(self, key: Key, bucket: Bucket) -> None:
        """Let a bucket be found."""
        self.buckets[key] = bucket

    def close(self, key: Key) -> None:
        """Let it be found no more."""
        del self.buckets[key]

    @abstractmethod
    def find(self, value: Leaf, hits: list[Bucket]) -> None:
        """Append to `hits` the buckets whose operator matches `value`; one may be there more than once."""


class _ByLength(Table[str, Bucket]):
    """Remembers the lengths of its keys, the shortest first."""

    __slots__ = ("_lengths", "_uses")

    def __init__(self) -> None:
        super().__init__()
        self._lengths: list[int] = []
        self._uses: dict[int, int] = {}

    def open(self, key: str, bucket: Bucket) -> None:
        super().open(key, bucket)
        length = len(key)
        if length not in self._uses:
            insort(self._lengths, length)
        self._uses[length] = self._uses.get(length, 0) + 1

    def close(self, key: str) -> None:
        super().close(key)
        length = len(key)
        self._uses[length] -= 1
        if not self._uses[length]:
            del self._uses[length]
            self._lengths.remove(length)


class PrefixTable(_ByLength[Bucket]):
    """Strings that begin so; exact."""

    __slots__ = ()

    def find(self, value: Leaf, hits: list[Bucket]) -> None:
        if type(value) is not str:
            return
        buckets, size = self.buckets, len(value)
        for length in self._lengths:
            if length > size:
                break
            if (beginning := value[:length]) in buckets:
                hits.append(buckets[beginning])


class SuffixTable(PrefixTable[Bucket]):
    """Strings that end so; exact. The keys are backwards."""

    __slots__ = ()

    def find(self, value: Leaf, hits: list[Bucket]) -> None:
        if type(value) is str:
            super().find(value[: -MAX_AFFIX - 1 : -1], hits)


class FoldedPrefixTable(PrefixTable[Bucket]):
    """Strings whose upper case begins so."""

    __slots__ = ()

    def find(self, value: Leaf, hits: list[Bucket]) -> None:
        if type(value) is str:
            super().find(value[:MAX_AFFIX].upper(), hits)


class FoldedSuffixTable(SuffixTable[Bucket]):
    """Strings whose upper case ends so. The keys are backwards."""

    __slots__ = ()

    def find(self, value: Leaf, hits: list[Bucket]) -> None:
        if type(value) is str:
            super().find(value[-MAX_AFFIX:].upper(), hits)


class FoldedTable(Table[str, Bucket]):
    """Strings whose upper case is so."""

    __slots__ = ()

    def find(self, value: Leaf, hits: list[Bucket]) -> None:
        if type(value) is str and (bucket := self.buckets.get(value.upper())) is not None:
            hits.append(bucket)


class GramTable(_ByLength[Bucket]):
    """Strings that contain these few characters anywhere; exact."""

    __slots__ = ()

    def find(self, value: Leaf, hits: list[Bucket]) -> None:
        if type(value) is not str:
            return
        buckets, size = self.buckets, len(value)
        if size > 4 * len(buckets):
            hits += [bucket for gram, bucket in buckets.items() if gram in value]
            return
        for length in self._lengths:
            if size <= MAX_AFFIX:
                grams: Iterable[str] = map(value.__getitem__, _SLICES[length][: max(0, size - length + 1)])
            else:
                # A long text may repeat itself.
                grams = {value[start : start + length] for start in range(size - length + 1)}
            hits += filter(None, map(buckets.get, grams))


class CidrTable(Table[tuple[int, int, int], Bucket]):
    """Addresses of a network: width, bits, and the first bits themselves; exact."""

    __slots__ = ("_uses",)

    def __init__(self) -> None:
        super().__init__()
        self._uses: dict[tuple[int, int], int] = {}

    def open(self, key: tuple[int, int, int], bucket: Bucket) -> None:
        super().open(key, bucket)
        self._uses[key[:2]] = self._uses.get(key[:2], 0) + 1

    def close(self, key: tuple[int, int, int]) -> None:
        super().close(key)
        self._uses[key[:2]] -= 1
        if not self._uses[key[:2]]:
            del self._uses[key[:2]]

    def find(self, value: Leaf, hits: list[Bucket]) -> None:
        if type(value) is not str or (address := parse_address(value)) is None:
            return
        width, number = address
        for network_width, bits in self._uses:
            if network_width == width:
                bucket = self.buckets.get((width, bits, number >> (width - bits)))
                if bucket is not None:
                    hits.append(bucket)


class RangeTable(Table[Range, Bucket]):
    """Numbers in a range; exact.

    An interval tree over the order of all floats, whose nodes are implied: a range lies in the smallest aligned block
    of a power of two that holds it, and covers that block's middle. Of a block's ranges, those that hold a number
    below the middle are those whose bottom is low enough. So a number costs one lookup for each size of block in use.
    """

    __slots__ = ("_blocks",)

    def __init__(self) -> None:
        super().__init__()
        self._blocks: dict[int, dict[int, _Block[Bucket]]] = {}

    def open(self, key: Range, bucket: Bucket) -> None:
        super().open(key, bucket)
        size, place = _block_of(key)
        blocks = self._blocks.setdefault(size, {})
        block = blocks.get(place)
        if block is None:
            block = blocks[place] = _Block()
        block.bottoms.insert((key.bottom, key.open_bottom), bucket)
        block.tops.insert((key.top, not key.open_top), bucket)

    def close(self, key: Range) -> None:
        bucket = self.buckets[key]
        super().close(key)
        size, place = _block_of(key)
        block = self._blocks[size][place]
        block.bottoms.remove((key.bottom, key.open_bottom), bucket)
        block.tops.remove((key.top, not key.open_top), bucket)
        if not block.tops.bounds:
            del self._blocks[size][place]
            if not self._blocks[size]:
                del self._blocks[size]

    def find(self, value: Leaf, hits: list[Bucket]) -> None:
        if (type(value) is not float and type(value) is not int) or value != value:
            return
        order = _order(value)
        for size, blocks in self._blocks.items():
            block = blocks.get(order >> size)
            if block is None:
                continue
            if not size:
                # All bounds are the same float here; integers may still differ.
                low = block.bottoms.buckets[: bisect_right(block.bottoms.bounds, (value, False))]
                high = block.tops.buckets[bisect_left(block.tops.bounds, (value, True)) :]
                hits += [bucket for bucket in low if bucket in high]
            elif order >> (size - 1) & 1:
                hits += block.tops.buckets[bisect_left(block.tops.bounds, (value, True)) :]
            else:
                hits += block.bottoms.buckets[: bisect_right(block.bottoms.bounds, (value, False))]


class _Block(Generic[Bucket]):
    """The ranges around one middle, by their bottoms (closed ones first) and by their tops (open ones first)."""

    __slots__ = ("bottoms", "tops")

    def __init__(self) -> None:
        self.bottoms: _Bounds[Bucket] = _Bounds()
        self.tops: _Bounds[Bucket] = _Bounds()


class _Bounds(Generic[Bucket]):
    __slots__ = ("bounds", "buckets")

    def __init__(self) -> None:
        self.bounds: list[tuple[float | int, bool]] = []
        self.buckets: list[Bucket] = []

    def insert(self, bound: tuple[float | int, bool], bucket: Bucket) -> None:
        position = bisect_right(self.bounds, bound)
        self.bounds.insert(position, bound)
        self.buckets.insert(position, bucket)

    def remove(self, bound: tuple[float | int, bool], bucket: Bucket) -> None:
        position = bisect_left(self.bounds, bound)
        while self.buckets[position] is not bucket:
            position += 1
        del self.bounds[position], self.buckets[position]


def _block_of(key: Range) -> tuple[int, int]:
    """The size of the smallest block that holds a range, as a power of two, and the block's number among its equals."""
    bottom, top = _order(key.bottom), _order(key.top)
    size = (bottom ^ top).bit_length()
    return size, bottom >> size


_as_float: Any = struct.Struct(">d").pack
_as_integer: Any = struct.Struct(">q").unpack


def _order(number: float | int) -> int:
    """The place of the nearest float among all floats, from 0 on."""
    try:
        (bits,) = _as_integer(_as_float(number + 0.0))
    except OverflowError:
        (bits,) = _as_integer(_as_float(float("inf") if number > 0 else float("-inf")))
    return int(bits if bits >= 0 else bits ^ 0x7FFF_FFFF_FFFF_FFFF) + 0x8000_0000_0000_0000
