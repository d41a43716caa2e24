"""`Node`: rules by what finds them. Each rule costs an event something only if one of its conditions holds.

A rule is found by one of its conditions: the one that the fewest others are found by when it is added, values before
operators. So an event costs a lookup for each of its fields, however many sets of fields the rules look at. What is
left of a rule's conditions is tested when it is found, or, where many are found by the same, is a node of its own.
Conditions that nothing can look up are asked once for all the rules that share them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, cast
from zlib import crc32

from eventhost.pattern.condition import Alternative, Condition, Path, condition
from eventhost.pattern.leaf import Leaf
from eventhost.pattern.operators import Cidr, IgnoringCase, Operator, Prefix, Range, Suffix, Wildcard
from eventhost.pattern.paths import EVENT_TYPE
from eventhost.pattern.tables import (
    GRAMS,
    MAX_AFFIX,
    CidrTable,
    FoldedPrefixTable,
    FoldedSuffixTable,
    FoldedTable,
    GramTable,
    PrefixTable,
    RangeTable,
    SuffixTable,
    Table,
)

MAX_BUCKET: Final = 16
"""More rules than that, found by the same, become a node."""

MAX_KEYS: Final = 64
"""A condition with more operators than that is not looked up."""

MAX_VALUES: Final = 1024
"""A condition with more values than that is not looked up by them."""

MAX_COMMON: Final = 16
"""A condition of so many values at most may be one object for all rules that have it."""

FEW_LEAVES: Final = 16
"""Of more leaves than that at one field, it is not asked for each rule whether any will do."""


class Check(NamedTuple):
    """A condition of one rule, with the number of its path."""

    number: int
    test: Callable[[Leaf], bool]
    condition: Condition
    searchable: bool = True
    """Whether a table may find the rule by it; not once one has, inexactly."""


Rest = tuple[Check, ...]


class Bucket:
    """The rules that are found by the same: one, a few with what is left of their conditions, or a node of them."""

    __slots__ = ("rests", "rules")

    def __init__(self, rule: int, rest: Rest) -> None:
        # Side by side, so that what an event finds lies in few places of memory.
        self.rules: int | tuple[int, ...] | Node = rule
        self.rests: Rest | tuple[Rest, ...] = rest
        """Of one rule what is left, of a few rules that of each, of a node nothing."""

    @property
    def size(self) -> int:
        """How many rules it has."""
        if isinstance(self.rules, int):
            return 1
        return self.rules.size if isinstance(self.rules, Node) else len(self.rules)

    def entries(self) -> Iterable[tuple[int, Rest]]:
        """Each rule with what is left of its conditions; not for a node."""
        if isinstance(self.rules, int):
            return ((self.rules, cast("Rest", self.rests)),)
        return zip(cast("tuple[int, ...]", self.rules), cast("tuple[Rest, ...]", self.rests), strict=True)

    def add(self, rule: int, rest: Rest) -> None:
        if isinstance(self.rules, Node):
            self.rules.add(rule, rest)
            return
        entries = [*self.entries(), (rule, rest)]
        if len(entries) <= MAX_BUCKET:
            self._keep(entries)
            return
        node = Node()
        for one, left in entries:
            node.add(one, left)
        self.rules, self.rests = node, ()

    def remove(self, rule: int, rest: Rest) -> bool:
        """Whether nothing is left."""
        if isinstance(self.rules, Node):
            self.rules.remove(rule, rest)
            return not self.rules.size
        self._keep([(one, left) for one, left in self.entries() if one != rule])
        return not self.rules

    def _keep(self, entries: list[tuple[int, Rest]]) -> None:
        self.rules = tuple([one for one, _ in entries])
        self.rests = tuple([left for _, left in entries])


class _Field:
    """What can be found by one field: by its value, and by the operators that match it."""

    __slots__ = ("tables", "values")

    def __init__(self) -> None:
        self.values: dict[Leaf, Bucket] = {}
        self.tables: list[Table[Any, Bucket]] = []

    def __bool__(self) -> bool:
        return bool(self.values or self.tables)

    def buckets(self, search: _Search) -> dict[Any, Bucket]:
        """Where what `search` tells is kept."""
        if search.table is None:
            return self.values
        return next((table.buckets for table in self.tables if type(table) is search.table), {})

    def add(self, search: _Search, rule: int, rest: Rest) -> None:
        bucket = self.buckets(search).get(search.key)
        if bucket is not None:
            bucket.add(rule, rest)
        elif search.table is None:
            self.values[search.key] = Bucket(rule, rest)
        else:
            table = next((table for table in self.tables if type(table) is search.table), None)
            if table is None:
                table = search.table()
                self.tables.append(table)
            table.open(search.key, Bucket(rule, rest))

    def remove(self, search: _Search, rule: int, rest: Rest) -> None:
        if not self.buckets(search)[search.key].remove(rule, rest):
            return
        if search.table is None:
            del self.values[search.key]
            return
        table = next(table for table in self.tables if type(table) is search.table)
        table.close(search.key)
        if not table.buckets:
            self.tables.remove(table)

    def find_possible(self, leaves: tuple[Leaf, ...], at_most: int) -> list[Bucket]:
        """What any of `leaves` finds; or all there is, if that takes more than `at_most` lookups or comes to more."""
        hits: list[Bucket] = []
        if len(leaves) <= at_most:
            for leaf in leaves:
                bucket = self.values.get(leaf)
                if bucket is not None:
                    hits.append(bucket)
                for table in self.tables:
                    table.find(leaf, hits)
                if len(hits) > at_most:
                    break
            else:
                return hits
        return [*self.values.values(), *(bucket for table in self.tables for bucket in table.buckets.values())]


class Node:
    """Some rules, by number, with the conditions that are left of them here. A rule is here once at most."""

    __slots__ = ("_always", "_chosen", "_fields", "_shared", "size")

    def __init__(self) -> None:
        self.size = 0
        """How many rules are here."""
        self._always: dict[int, None] = {}
        """Rules without further conditions."""
        self._fields: dict[int, _Field] = {}
        self._shared: dict[tuple[int, tuple[Alternative, ...]], tuple[Check, Bucket]] = {}
        self._chosen: dict[int, int] = {}
        """By which field a rule is found, if there was a choice: it depended on the rules that were here then."""

    def add(self, rule: int, rest: Rest) -> None:
        """Let a rule be found for which all of `rest` holds."""
        self.size += 1
        if not rest:
            self._always[rule] = None
            return
        candidates = _candidates(rest)
        if candidates:
            candidate = candidates[0]
            if len(candidates) > 1:
                candidate = min(candidates, key=self._cost)
                self._chosen[rule] = candidate.check.number
            field = self._fields.get(candidate.check.number)
            if field is None:
                field = self._fields[candidate.check.number] = _Field()
            left = candidate.left(rest)
            for search in candidate.searches:
                field.add(search, rule, left)
            return
        check, left = rest[0], rest[1:]
        key = check.number, check.condition.alternatives
        shared = self._shared.get(key)
        if shared is None:
            self._shared[key] = check, Bucket(rule, left)
        else:
            shared[1].add(rule, left)

    def remove(self, rule: int, rest: Rest) -> None:
        """Undo an `add` of the same."""
        self.size -= 1
        if not rest:
            del self._always[rule]
            return
        candidates = _candidates(rest)
        if candidates:
            chosen = self._chosen.pop(rule, candidates[0].check.number)
            candidate = next(candidate for candidate in candidates if candidate.check.number == chosen)
            field, left = self._fields[chosen], candidate.left(rest)
            for search in candidate.searches:
                field.remove(search, rule, left)
            if not field:
                del self._fields[chosen]
            return
        check, left = rest[0], rest[1:]
        key = check.number, check.condition.alternatives
        if self._shared[key][1].remove(rule, left):
            del self._shared[key]

    def _cost(self, candidate: _Candidate) -> tuple[int, int, int, int]:
        """Less where fewer rules are likely to be found for nothing.

        Among fields that would do, it is the one with the most values: so all rules come to be found by few fields.
        """
        field = self._fields.get(candidate.check.number)
        crowd = size = 0
        if field is not None:
            for search in candidate.searches:
                buckets = field.buckets(search)
                size = len(buckets)
                bucket = buckets.get(search.key)
                if bucket is not None and bucket.size > crowd:
                    crowd = bucket.size
        if candidate.merit >= _EXACT:
            rank = 0 if crowd <= MAX_BUCKET else 2
        else:
            rank = 1 if candidate.merit >= _SELECTIVE and crowd <= MAX_BUCKET else 3
        return rank, -candidate.merit, len(candidate.searches), -size

    def collect(self, leaves: list[Leaf] | dict[int, Leaf], present: Sequence[int], found: list[int]) -> None:
        """Append to `found` the rules that match these leaves; one may be there more than once."""
        if self._always:
            found.extend(self._always)
        hits: list[Bucket] = []
        fields = self._fields
        for number in fields if len(fields) <= len(present) else present:
            if number in fields:
                field = fields[number]
                leaf = leaves[number]
                bucket = field.values.get(leaf)
                if bucket is not None:
                    hits.append(bucket)
                for table in field.tables:
                    table.find(leaf, hits)
        for check, bucket in self._shared.values():
            if check.test(leaves[check.number]):
                hits.append(bucket)
        rules: Any
        rests: Any
        for bucket in hits:
            rules, rests = bucket.rules, bucket.rests
            if type(rules) is int:
                for number, test, _, _ in rests:
                    if not test(leaves[number]):
                        break
                else:
                    found.append(rules)
            elif type(rules) is tuple:
                for rule, rest in zip(rules, rests):  # noqa: B905 - to be strict takes time
                    for number, test, _, _ in rest:
                        if not test(leaves[number]):
                            break
                    else:
                        found.append(rule)
            else:
                rules.collect(leaves, present, found)

    def collect_possible(self, leaves: dict[int, tuple[Leaf, ...]], present: list[int], found: set[int]) -> None:
        """Add to `found` all rules that may match where each number has a choice of leaves; some of them may not.

        Where many leaves, each for itself, would find more than all the rules that are here, it is all of them.
        """
        found.update(self._always)
        hits: list[Bucket] = []
        for number in present:
            if number in self._fields:
                hits += self._fields[number].find_possible(leaves[number], self.size)
        for check, bucket in self._shared.values():
            if _may_hold(check, leaves):
                hits.append(bucket)
        for bucket in {id(bucket): bucket for bucket in hits}.values():
            if isinstance(bucket.rules, Node):
                bucket.rules.collect_possible(leaves, present, found)
                continue
            for rule, rest in bucket.entries():
                if rule not in found and all(_may_hold(check, leaves) for check in rest):
                    found.add(rule)


def _may_hold(check: Check, leaves: dict[int, tuple[Leaf, ...]]) -> bool:
    choice = leaves[check.number]
    return len(choice) > FEW_LEAVES or any(map(check.test, choice))


_EXACT: Final = 1_000
"""The merit of what finds few rules whatever the event."""

_SELECTIVE: Final = 4
"""The merit from which on an operator is worth more than a value that many rules share."""


class _Search(NamedTuple):
    """What finds the rules with one alternative."""

    table: type[Table[Any, Bucket]] | None
    """None: by value."""
    key: Any
    exact: bool
    """Whether it finds only leaves that match."""
    merit: int
    """Greater where fewer leaves are likely to match."""


class _Candidate(NamedTuple):
    """A condition that can find the rule that has it."""

    check: Check
    searches: list[_Search]
    merit: int

    def left(self, rest: Rest) -> Rest:
        """What is to be tested of a rule's conditions once it has been found by this one."""
        if all(search.exact for search in self.searches):
            return _same(tuple([_common(check) for check in rest if check is not self.check]))
        return tuple([check if check is not self.check else check._replace(searchable=False) for check in rest])


# What is left of many rules is the same. Where it is one object, it takes no memory, and is at hand when it is asked.


def _common(check: Check) -> Check:
    field = check.condition
    if field.exact and len(field.alternatives) <= MAX_COMMON:
        return _check_of_values(check.number, field.path, field.alternatives)
    return check


@lru_cache(4096)
def _check_of_values(number: int, path: Path, alternatives: tuple[Alternative, ...]) -> Check:
    values = condition(path, alternatives)
    return Check(number, values.test(), values)


@lru_cache(4096)
def _same(rest: Rest) -> Rest:
    return rest


def _candidates(rest: Rest) -> list[_Candidate]:
    found = []
    for check in rest:
        if check.searchable and (searches := _searches(check.condition)):
            merit = min([search.merit for search in searches])
            if check.number == EVENT_TYPE:
                # There are few types: what they find is many rules.
                merit = 3 if check.condition.exact else 1
            found.append(_Candidate(check, searches, merit))
    return found


def _searches(condition: Condition) -> list[_Search]:
    """What finds the rules with this condition; nothing, if one of its alternatives cannot be looked up."""
    alternatives = condition.alternatives
    if condition.exact:
        if len(alternatives) == 1:
            return [_Search(None, alternatives[0], True, _EXACT)]
        values = dict.fromkeys(alternatives) if len(alternatives) <= MAX_VALUES else ()
        return [_Search(None, value, True, _EXACT) for value in values]
    if len(alternatives) > MAX_KEYS:
        return []
    found: dict[tuple[Any, Any], _Search] = {}
    for alternative in alternatives:
        search = _search(alternative)
        if search is None:
            return []
        found[search.table, search.key] = search
    return list(found.values())


def _search(alternative: Alternative) -> _Search | None:
    match alternative:
        case Prefix(text) if text:
            return _by_prefix(text, exact=True)
        case Suffix(text) if text:
            return _by_suffix(text, exact=True)
        case Wildcard(parts):
            return _by_parts(parts)
        case Range():
            return _Search(RangeTable, alternative, True, 2)
        case Cidr(width, bits, network):
            return _Search(CidrTable, (width, bits, network), True, 2 + bits // 8)
        case IgnoringCase() if alternative.text and (folded := alternative.folded) is not None:
            affix = len(folded) if len(folded) < MAX_AFFIX else MAX_AFFIX
            if alternative.open_end:
                return _Search(FoldedPrefixTable, folded[:affix], False, affix)
            if alternative.open_start:
                return _Search(FoldedSuffixTable, folded[: -affix - 1 : -1], False, affix)
            return _Search(FoldedTable, folded, False, _EXACT)
    return None if isinstance(alternative, Operator) else _Search(None, alternative, True, _EXACT)


def _by_prefix(text: str, exact: bool) -> _Search:
    return _Search(PrefixTable, text[:MAX_AFFIX], exact and len(text) <= MAX_AFFIX, min(len(text), MAX_AFFIX))


def _by_suffix(text: str, exact: bool) -> _Search:
    return _Search(
        SuffixTable, text[: -MAX_AFFIX - 1 : -1], exact and len(text) <= MAX_AFFIX, min(len(text), MAX_AFFIX)
    )


def _by_parts(parts: tuple[str, ...]) -> _Search | None:
    head, tail = parts[0], parts[-1]
    inner = max(parts, key=len)
    if len(inner) >= GRAMS[0] and max(len(head), len(tail)) < GRAMS[0]:
        length = max(length for length in GRAMS if length <= len(inner))
        # Any of its grams would do; one by chance spreads parts that begin or end alike.
        start = crc32(inner.encode(errors="surrogatepass")) % (len(inner) - length + 1)
        return _Search(GramTable, inner[start : start + length], False, length)
    if not head and not tail:
        return None
    exact = len(parts) == 2 and not (head and tail)
    return _by_prefix(head, exact) if len(head) >= len(tail) else _by_suffix(tail, exact)
