"""A list is told by its differences: whoever applies them has the list, whenever the source was killed in between."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventhost.errors import ConfigError
from eventhost.kit import diff
from eventhost.kit.diff import Change, Table
from eventhost.kit.options import Options
from eventhost.kit.selection import Items, Misshapen, Selection, at, canonical, is_there, written
from eventhost.kit.upstream import Unavailable

pytestmark = pytest.mark.anyio

BY_ID = Selection(key=("id",))


class Killed(Exception):
    """The source was, while it told."""


class Host:
    """What the events make of the list, for one who knows doubles by their ids.

    It `misses` what is not told: what was there at first, and what was forgotten.
    """

    def __init__(self, *, misses: bool = False) -> None:
        self.misses = misses
        self.told: dict[str, Change] = {}
        self.items: dict[str, Any] = {}
        self.accepts = 10**9
        """How many more it accepts before the source is killed."""

    async def tell(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if not self.accepts:
                raise Killed
            self.accepts -= 1
            if change.id in self.told:
                assert self.told[change.id] == change, "an id is told again with what it was told with"
                continue
            self.told[change.id] = change
            key = canonical(change.key)
            assert self.misses or self.items.get(key) == change.old
            if change.kind == "deleted":
                del self.items[key]
            else:
                assert self.misses or (key in self.items) == (change.kind == "changed")
                self.items[key] = change.new

    def kinds(self) -> list[tuple[str, Any]]:
        return [(change.kind, change.key) for change in self.told.values()]


def found(*items: dict[str, Any]) -> Items:
    return BY_ID.read(list(items))


def numbers(*values: int, since: int = 0) -> Items:
    return found(*({"id": at, "n": value} for at, value in enumerate(values, since)))


lists = st.dictionaries(st.integers(0, 8), st.integers(0, 2), max_size=9)


@given(
    looks=st.lists(st.tuples(lists, st.none() | st.integers(0, 12), st.booleans()), max_size=8),
    last=lists,
)
@settings(deadline=None)
def test_the_changes_make_the_list_wherever_the_source_was_killed(
    looks: list[tuple[dict[int, int], int | None, bool]], last: dict[int, int]
) -> None:
    async def live(folder: Path) -> None:
        host = Host()
        for content, accepts, kept in [*looks, (last, None, False)]:
            items = found(*({"id": key, "n": value} for key, value in content.items()))
            table = Table(folder, "list", BY_ID)
            host.accepts = 10**9 if accepts is None else accepts
            try:
                if kept:
                    # Killed between two batches, all of which were kept.
                    await table.resume(host.tell)
                    for batch in table.look(items.items):
                        await host.tell(batch)
                        table.keep()
                        break
                else:
                    await table.tell(items, host.tell)
                    assert host.items == {canonical(key): item for key, item in items.items}
            except Killed:
                pass
            finally:
                table.close()
        assert {key: item["n"] for key, item in host.items.items()} == {str(key): n for key, n in last.items()}

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(diff, "BATCH", 3)
        anyio.run(live, Path(folder))


async def test_what_becomes_what_it_was_has_an_id_of_its_own(tmp_path: Path) -> None:
    host = Host()
    table = Table(tmp_path, "list", BY_ID)
    for value in (1, 2, 1, 2):
        await table.tell(numbers(value), host.tell)
    await table.tell(found(), host.tell)
    await table.tell(numbers(1), host.tell)
    assert [kind for kind, _ in host.kinds()] == ["created", "changed", "changed", "changed", "deleted", "created"]


async def test_what_was_being_told_is_told_again_as_it_was_before_anything_else(tmp_path: Path) -> None:
    host = Host()
    table = Table(tmp_path, "list", BY_ID)
    await table.tell(numbers(1, 1), host.tell)
    host.accepts = 1
    with pytest.raises(Killed):
        await table.tell(numbers(2, 2), host.tell)
    table.close()
    host.accepts = 10**9
    table = Table(tmp_path, "list", BY_ID)
    # Meanwhile it is as it was: the host has been told that it is not.
    await table.tell(numbers(1, 1), host.tell)
    assert host.kinds() == [("created", 0), ("created", 1), *[("changed", 0), ("changed", 1)] * 2]


async def test_a_silent_look_is_the_beginning_and_one_that_was_cut_off_is_none(tmp_path: Path) -> None:
    host = Host(misses=True)
    table = Table(tmp_path, "list", BY_ID)
    assert next(table.look(numbers(1, 2).items, silent=True)) == []
    table.close()
    table = Table(tmp_path, "list", BY_ID)
    assert table.is_new
    await table.tell(numbers(1, 2), host.tell, silent=True, note={"etag": "a"})
    assert (table.is_new, table.note, len(table), host.told) == (False, {"etag": "a"}, 2, {})
    await table.tell(numbers(1, 3), host.tell)
    assert [(change.key, change.old["n"], change.new["n"], change.changed) for change in host.told.values()] == [
        (1, 2, 3, ["n"])
    ]


async def test_what_is_remembered_is_not_created_again_and_the_oldest_is_forgotten(tmp_path: Path) -> None:
    host = Host(misses=True)
    table = Table(tmp_path, "list", BY_ID)
    for since in (0, 2, 4, 0):
        await table.tell(numbers(7, 7, since=since), host.tell, remember=4)
    # After the third look 0 and 1 were more than it was to remember.
    assert host.kinds() == [("created", at) for at in (0, 1, 2, 3, 4, 5)] + [("created", 0), ("created", 1)]
    await table.tell(numbers(*[7] * 10), host.tell, remember=4)
    assert len(table) == 10, "what is there is never forgotten"


async def test_whether_any_item_is_known_is_told_and_something_else_has_an_id_until_a_change_is_told(
    tmp_path: Path,
) -> None:
    host = Host()
    table = Table(tmp_path, "list", BY_ID)
    before = table.id_of("gap")
    assert before == table.id_of("gap")
    await table.tell(numbers(*range(1200)), host.tell)
    assert before != table.id_of("gap")
    assert not {before, table.id_of("gap")} & host.told.keys()
    assert table.knows_any(numbers(*range(1200), since=1199).items)
    assert not table.knows_any(numbers(*range(1200), since=1200).items)


async def test_another_selection_or_question_begins_anew_with_ids_of_its_own(tmp_path: Path) -> None:
    host = Host()
    for selection, question in ((BY_ID, None), (BY_ID._replace(ignore=("n",)), None), (BY_ID, None), (BY_ID, "open")):
        table = Table(tmp_path, "list", selection, question)
        assert table.is_new
        host.items.clear()
        await table.tell(numbers(1), host.tell)
        table.close()
    assert len(host.told) == 4


async def test_a_list_that_becomes_something_else_tells_nothing(tmp_path: Path) -> None:
    host = Host()
    whole = Selection()
    table = Table(tmp_path, "list", whole)
    await table.tell(whole.read([1, 2]), host.tell)
    with pytest.raises(Misshapen, match=r"was a list, and now is a document; .* remove .*list\.db"):
        await table.tell(whole.read({"error": "busy"}), host.tell)
    assert len(host.told) == len(table) == 2


async def test_batches_are_bounded_in_number_and_size(tmp_path: Path) -> None:
    table = Table(tmp_path, "list", BY_ID)
    batches = []

    async def tell(changes: Sequence[Change]) -> None:
        batches.append(len(changes))

    await table.tell(numbers(*range(1200)), tell)
    assert batches == [500, 500, 200]
    batches.clear()
    large = [{"id": at, "text": "x" * 1_500_000} for at in range(1200, 1205)]
    await table.tell(found(*large), tell, remember=10_000)
    assert batches == [2, 2, 1]


async def test_what_is_nested_too_deep_is_refused_before_it_is_written_down(tmp_path: Path) -> None:
    def nested(levels: int, leaf: int) -> Any:
        item: Any = leaf
        for _ in range(levels):
            item = {"a": item}
        return item

    host = Host()
    whole = Selection()
    table = Table(tmp_path, "document", whole)
    await table.tell(whole.read(nested(200, 1)), host.tell)
    await table.tell(whole.read(nested(200, 2)), host.tell)
    for levels in (201, 600, 5000):
        with pytest.raises(Misshapen, match=r"nested deeper than 200 levels|cannot be kept as JSON"):
            await table.tell(whole.read(nested(levels, 3)), host.tell)
    await table.tell(whole.read(nested(1, 1)), host.tell)
    assert [change.changed for change in host.told.values()] == [[], [".".join(["a"] * 200)], ["a"]]


def test_a_file_that_is_damaged_or_cannot_be_written_is_told_with_its_mend(tmp_path: Path) -> None:
    (tmp_path / "list.db").write_bytes(b"no database" * 100)
    with pytest.raises(ConfigError, match=r"list.db: damaged: .*; remove it, and the source begins with what is there"):
        Table(tmp_path, "list", BY_ID)
    with pytest.raises(Unavailable, match="unable to open"):
        Table(tmp_path / "nowhere", "list", BY_ID)
    table = Table(tmp_path, "other", BY_ID)
    table._database.execute("PRAGMA query_only = 1")
    with pytest.raises(Unavailable, match=r"other.db: attempt to write"):
        next(table.look(numbers(1).items))
    # What failed left nothing behind.
    table._database.execute("PRAGMA query_only = 0")
    assert [change.id[-2:] for change in next(table.look(numbers(1).items))] == ["-1"]


def test_names_that_are_no_file_names_have_files_of_their_own(tmp_path: Path) -> None:
    names = ["a", "A", "a/b", "a_b", "../a", "ä" * 300, "ä" * 301, ".a"]
    tables = [Table(tmp_path, name, BY_ID) for name in names]
    assert len({table.file.name.casefold() for table in tables}) == len(names)
    assert {table.file.parent for table in tables} == {tmp_path}
    assert all(table.file.exists() and not table.file.name.startswith(".") for table in tables)
    with sqlite3.connect(tmp_path / "a.db") as database:
        assert database.execute("SELECT count(*) FROM item").fetchone() == (0,)


# Selections

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0]) | st.sampled_from(["", "a", "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", "a.b", "/", "~1", "*", "0", ""]), inner, max_size=4)
    ),
    max_leaves=12,
)


def put(value: Any, steps: list[str], new: Any) -> Any:
    """What `value` is when only this place in its objects is as in `new`."""
    if not steps:
        return new
    step, *rest = steps
    without = {name: one for name, one in value.items() if name != step}
    return without if step not in new else {**without, step: put(value.get(step), rest, new[step])}


def steps_of(path: str) -> list[str]:
    """As RFC 6901 has it, or by dots."""
    if path.startswith("/"):
        return [step.replace("~1", "/").replace("~0", "~") for step in path[1:].split("/")]
    return path.split(".") if path else []


@given(old=json_values, new=json_values)
def test_the_changed_paths_are_all_that_differs(old: Any, new: Any) -> None:
    selection = Selection()
    changed = selection.changed(old, new)
    assert bool(changed) == (selection.digest(old) != selection.digest(new))
    made = old
    for path in changed:
        assert canonical(at_or_none(old, path)) != canonical(at_or_none(new, path))
        made = put(made, steps_of(path), new)
    assert canonical(made) == canonical(new)


def at_or_none(value: Any, path: str) -> Any:
    there = at(value, path)
    return [there] if is_there(there) else None


@given(st.lists(st.text(alphabet="ab./~*0", max_size=3), min_size=1, max_size=3))
def test_a_written_path_leads_where_it_came_from(place: list[str]) -> None:
    value: Any = "here"
    for step in reversed(place):
        value = {step: value}
    assert at(value, written(place)) == "here"


@pytest.mark.parametrize(
    ("selection", "old", "new", "changed"),
    [
        ({}, {"a": 1}, {"a": True}, ["a"]),
        ({}, {"a": {"b": 1, "c": 1}}, {"a": {"b": 2, "d": 1}}, ["a.b", "a.c", "a.d"]),
        ({}, {"a": [1, 2]}, {"a": [1, 3]}, ["a"]),
        ({}, 1, 2, [""]),
        ({"ignore": ("b",)}, {"a": 1, "b": 1}, {"a": 1, "b": 2}, []),
        ({"ignore": ("a.b",)}, {"a": {"b": 1, "c": 1}}, {"a": {"c": 2}}, ["a.c"]),
        ({"ignore": ("a.*.n",)}, {"a": [{"n": 1, "m": 1}]}, {"a": [{"n": 2, "m": 1}]}, []),
        ({"ignore": ("a.*.n",)}, {"a": [{"n": 1}]}, {"a": [{"n": 2}, {"n": 3}]}, ["a"]),
        ({"ignore": ("*.n",)}, {"x": {"n": 1}, "y": 2}, {"x": {"n": 2}, "y": 2}, []),
        ({"ignore": ("a.1",)}, {"a": [1, 2, 3]}, {"a": [1, 9, 3]}, []),
        ({"ignore": ("/a.b",)}, {"a.b": 1, "a": {"b": 1}}, {"a.b": 2, "a": {"b": 1}}, []),
        ({"ignore": ("a.b",)}, {"a": 1}, {"a": 2}, ["a"]),
        ({"only": ("a",)}, {"a": {"x": 1}, "b": 1}, {"a": {"x": 2}, "b": 2}, ["a.x"]),
        ({"only": ("a", "c")}, {"a": 1}, {"a": 1, "c": 2}, ["c"]),
        ({"only": ("l.*.n",)}, {"l": [{"n": 1, "m": 1}, {"n": 2}]}, {"l": [{"n": 1, "m": 2}, {"n": 3}]}, ["l.1.n"]),
    ],
)
def test_what_counts_as_a_change(selection: dict[str, Any], old: Any, new: Any, changed: list[str]) -> None:
    chosen = Selection(**selection)
    assert chosen.changed(old, new) == changed
    assert (chosen.digest(old) == chosen.digest(new)) == (not changed)


def test_items_are_read_by_a_path_and_known_by_their_keys() -> None:
    answer = {"data": {"list": [{"o": {"n": 1}, "k": "a"}, {"o": {"n": "1"}, "k": "a"}]}}
    assert Selection("data.list", ("o.n",)).read(answer).items == [
        (1, answer["data"]["list"][0]),
        ("1", answer["data"]["list"][1]),
    ]
    keys = [key for key, _ in Selection("data.list", ("k", "o.n")).read(answer).items]
    assert keys == [["a", 1], ["a", "1"]]
    assert Selection("data").read(answer) == Items("document", [(None, answer["data"])])
    without = Selection("l", ignore=("t",)).read({"l": [{"a": 1, "t": 1}, {"a": 1, "t": 2}, {"a": 2}]})
    assert [item for _, item in without.items] == [{"a": 1, "t": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("items", "key", "answer", "message"),
    [
        ("data", ["id"], {"error": "no"}, "there is nothing at data of the answer; set `items` .*; it is .*error"),
        ("", ["id"], {"error": "no"}, "there is no list as the whole of the answer"),
        ("a.b", ["id"], {"a": {"b": {}}}, "there is no list at a.b"),
        ("", ["id"], [{"id": 1}, {"no": 1}], "item 1 has no id, which is its `key`; it is .*no"),
        ("", ["id"], [{"id": None}], "item 0 has no id"),
        ("", ["id"], [7], "item 0 has no id"),
        ("", ["id"], [{"id": [1]}], "item 0 has no plain value as its id"),
        ("", ["id"], [{"id": 1, "n": 1}, {"id": 1, "n": 2}], "two items have the key 1; add to `key` what tells"),
        ("", [], [float("nan")], "cannot be kept as JSON"),
    ],
)
def test_an_answer_of_the_wrong_shape_is_told_with_what_came_and_the_mend(
    items: str, key: list[str], answer: Any, message: str
) -> None:
    with pytest.raises(Misshapen, match=message):
        Selection(items, tuple(key)).read(answer)


def test_an_error_shows_no_more_than_the_beginning_of_a_large_answer() -> None:
    with pytest.raises(Misshapen) as raised:
        Selection("data").read({"error": "x" * 10_000})
    assert len(str(raised.value)) < 400


def test_a_selection_is_read_from_the_options() -> None:
    options = Options({"items": "data.list", "key": ["a.b", "c"], "ignore": "t"})
    assert Selection.of(options) == Selection("data.list", ("a.b", "c"), ("t",))
    assert Selection.of(Options({"items": "", "key": "id", "only": ["n"]})) == Selection("", ("id",), (), ("n",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"items": "a..b"}, "items: a..b is no path"),
        ({"items": "*.a"}, "items: .* is no path"),
        ({"items": 5}, 'items: expected a text such as "data.items", got 5'),
        ({"key": "a.*"}, "key: .* is no path"),
        ({"key": 5}, "key: expected a list of texts"),
        ({"ignore": ["a", "b."]}, r"ignore: b\. is no path"),
        ({"ignore": "a", "only": "b"}, "only: stands beside `ignore`; write one of them"),
    ],
)
def test_a_selection_that_is_none_is_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Selection.of(Options(options))
