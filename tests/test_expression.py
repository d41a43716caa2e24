"""Conditions and templates: what they give, what is refused at load, and that no event can misuse them."""

from __future__ import annotations

import gc
import hashlib
import json
import re
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from eventhost.durations import milliseconds, written
from eventhost.event import EnvEvent
from eventhost.expression import Condition, ExpressionError, Template, engine
from eventhost.expression.calls import CHECKS
from eventhost.expression.engine import ENGINE, Engine
from eventhost.expression.regex import MAX_PATTERN, _in_use
from eventhost.expression.source import TAKING_NULL, expression_tokens, guarded
from eventhost.expression.views import MAX_SEARCH

PAYLOAD: dict[str, Any] = {
    "temp": 41,
    "setpoint": 30.5,
    "whole": 3.0,
    "on": True,
    "off": False,
    "nothing": None,
    "room": "server-1",
    "quoted": "<b>it's</b>",
    "list": [1, {"name": "x"}, 3.0],
    "object": {"k": "v", "values": 7},
    "empty": {},
    "large": 2**70 + 1,
    "huge": 10**15,
    "sneaky": "{{ 7 * 7 }} ${env:HOME} %9999999999d",
}
NOW_MS = 1_700_000_090_500
EVENT = EnvEvent("7", "sensor.reading", 1700000000000, {"source_name": "cellar"}, PAYLOAD)


def event(**payload: Any) -> EnvEvent:
    return EnvEvent("1", "t", 0, {}, payload)


@pytest.mark.parametrize(
    "source",
    [
        "payload.temp - payload.setpoint > 5",
        "id == '7' and type == 'sensor.reading' and timestamp == 1700000000000",
        "metadata.source_name == 'cellar'",
        "payload.room.startswith('server-')",
        "payload.room is startingwith('server-')",
        "payload.whole == 3",
        "payload.on and not payload.off",
        "payload.nothing is none",
        "payload.missing is not defined",
        "payload.missing is defined and payload.missing.deep > 5 or true",
        "payload.list[1].name == 'x'",
        "payload.list|length == 3",
        "1 in payload.list",
        "'k' in payload.object",
        "'erve' in payload.room",
        "payload.room not in ['a', 'b']",
        "payload.list|select('in', [1, 2])|list|length == 1",
        "payload.object is mapping and payload.list is sequence and payload.list is not mapping",
        "payload.object.values == 7",
        "payload.object == payload.object",
        "not payload.empty",
        "payload.temp|string ~ '°' == '41°'",
        "(payload.missing|default(0)) < 1",
        "{'a': {'b': 1}}.a.b == 1",
        "'%}' == '%}'",
        "payload.large + 1 == 1180591620717411303426",
        "range(3)|sum == 3",
        "payload.list|map(attribute='name')|list|length == 3",
        "(payload.object|items)[0][0] == 'k'",
    ],
)
def test_a_condition_holds(source: str) -> None:
    assert Condition(source).holds(EVENT, at_ms=NOW_MS)


@pytest.mark.parametrize("source", ["payload.temp > 100", "payload.off", "payload.nothing", "payload.empty", "not id"])
def test_a_condition_does_not_hold(source: str) -> None:
    assert not Condition(source).holds(EVENT, at_ms=NOW_MS)


def test_a_lone_missing_field_is_an_error_and_not_false() -> None:
    with pytest.raises(ExpressionError, match=r"payload\.missing: the value is undefined"):
        Condition("payload.missing").holds(EVENT, at_ms=NOW_MS)
    with pytest.raises(ExpressionError, match="undefined"):
        Template("{{ payload.missing }}").render(EVENT, at_ms=NOW_MS)
    with pytest.raises(ExpressionError, match="undefined"):
        Template("so {{ payload.missing }}").render(EVENT, at_ms=NOW_MS)


@pytest.mark.parametrize(
    "source",
    [
        "payload.missing > 1",
        "not payload.missing",
        "payload.missing or true",
        "payload.missing.deep is defined",
        "payload.temp if false",
        "payload.missing in ['a']",
        "'a' in payload.missing",
        "payload.temp / 0 > 1",
    ],
)
def test_what_fails_at_run_time_is_an_expression_error(source: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        Condition(source).holds(EVENT, at_ms=NOW_MS)
    assert str(caught.value).startswith(f"{source}: ")


def test_a_missing_field_never_turns_into_a_method_of_pythons() -> None:
    for name in ("values", "items", "clear", "get", "_value", "_budget", "__class__", "__len__"):
        with pytest.raises(ExpressionError, match="undefined"):
            Condition(f"payload.{name} > 5").holds(event(), at_ms=NOW_MS)
        with pytest.raises(ExpressionError, match="undefined"):
            Condition(f"payload['{name}'] > 5").holds(event(), at_ms=NOW_MS)
        with pytest.raises(ExpressionError, match="undefined"):
            Condition(f"payload.list.{name} > 5").holds(event(list=[1]), at_ms=NOW_MS)
        assert Condition(f"payload.{name} > 5").holds(event(**{name: 6}), at_ms=NOW_MS)


def test_nothing_changes_the_event() -> None:
    subject = event(list=[1], object={"a": 1})
    for call in ("clear()", "update({'a': 1})", "pop('list')", "object.clear()", "list.append(2)", "list.clear()"):
        with pytest.raises(ExpressionError, match="unknown method"):
            Condition(f"payload.{call}")
    assert subject.payload == {"list": [1], "object": {"a": 1}}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "an expression is missing"),
        ("payload.temp >", "column 14: syntax error"),
        ("payload.temp; 1", "column 13: syntax error: unexpected character"),
        ("nosuch > 1", "column 1: unknown name nosuch; known here: id, type, timestamp, metadata, payload"),
        ("true or metdata.x", "column 9: unknown name metdata; did you mean metadata?"),
        ("false and clear()", "column 11: unknown name clear"),
        ("payload.a == 1 or payload.b|nosuch > 3", "column 29: unknown filter nosuch"),
        ("payload.a|__keep", "column 11: unknown filter __keep"),
        ("false and payload.a is nosuch", "column 24: unknown test nosuch"),
        ("false and payload.a is not nosuch", "column 28: unknown test nosuch"),
        ("false and payload.a.frob()", "column 21: unknown method frob"),
        ("payload.items() == 1", "column 9: unknown method items; an object's fields are read by name"),
        ("', '.join(payload.a) == ''", "column 6: the method join is refused; use the filter"),
        ("payload.a.format(1) == ''", "column 11: the method format is refused"),
        ("payload.a.replace('a', 'b') == ''", "column 11: the method replace is refused"),
        ("'a'|upper(1, 2, 3) == ''", "too many arguments"),
        ("namespace()", "unknown name namespace"),
        ("debug()", "unknown name debug"),
        ("1) or (1", "column 2: ) closes nothing"),
        ("1 %}{% if 1", "column 4: } closes nothing"),
        ("(1", ") is missing at the end"),
        ("'a", "column 1: this string is not closed"),
    ],
)
def test_what_can_never_work_is_refused_at_load(source: str, message: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        Condition(source)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("{{ payload.temp }}", 41),
        ("{{payload.temp}}", 41),
        ("{{- payload.temp -}}", 41),
        ("{{ payload.whole }}", 3.0),
        ("{{ payload.whole / 2 }}", 1.5),
        ("{{ payload.on }}", True),
        ("{{ payload.nothing }}", None),
        ("{{ payload.room }}", "server-1"),
        ("{{ payload.list }}", PAYLOAD["list"]),
        ("{{ payload.object }}", PAYLOAD["object"]),
        ("{{ payload }}", PAYLOAD),
        ("{{ payload.large }}", 2**70 + 1),
        ("{{ [payload.temp, {'of': payload.object}] }}", [41, {"of": PAYLOAD["object"]}]),
        ("{{ payload.list|map(attribute='name')|list }}", [None, "x", None]),
        ("{{ payload.missing|default('none') }}", "none"),
        ("{{ '}}' }}", "}}"),
        ("{{ payload.object|tojson }}", '{"k":"v","values":7}'),
        ("{{ payload.quoted|tojson }}", '"<b>it\'s</b>"'),
        ("{{ {'a': payload.list}|tojson }}", '{"a":[1,{"name":"x"},3.0]}'),
        ("{{ payload.object|tojson(indent=2) }}", '{\n  "k": "v",\n  "values": 7\n}'),
        ("{{ payload.object|items }}", [["k", "v"], ["values", 7]]),
        ("{{ payload.object|dictsort(reverse=true) }}", [["values", 7], ["k", "v"]]),
        ("{{ payload.quoted|safe }}", "<b>it's</b>"),
        ("Room {{ payload.room }}: {{ payload.temp }}", "Room server-1: 41"),
        ("{{ payload.temp }}{{ payload.temp }}", "4141"),
        (" {{ payload.temp }}", " 41"),
        ("{{ payload.whole }} {{ payload.on }} {{ payload.nothing }}", "3.0 True None"),
        ("all: {{ payload.list }}", 'all: [1,{"name":"x"},3.0]'),
        ("{{ payload.quoted }}.html", "<b>it's</b>.html"),
        ("{{ payload.quoted }}.json", "<b>it's</b>.json"),
        ("{% if payload.on %}yes{% else %}no{% endif %}", "yes"),
        ("{% for item in payload.list %}{{ loop.index }}={{ item }};{% endfor %}", '1=1;2={"name":"x"};3=3.0;'),
        ("{% set t = payload.temp %}{{ t }} °\n", "41 °\n"),
        ("{# why #}{{ payload.temp }}", "41"),
        ("{% raw %}{{ left }}{% endraw %}{{ payload.temp }}", "{{ left }}41"),
        ("{{ payload.list|join('-') }}", '1-{"name":"x"}-3.0'),
        ("{{ [{'n': 'a'}, {'n': 'b'}]|join(', ', attribute='n') }}", "a, b"),
        ("{{ payload.room|replace('server', 'rack') }}", "rack-1"),
        ("{{ '%s has %5.1f'|format(payload.room, payload.setpoint) }}", "server-1 has  30.5"),
        ("{{ 'a\nb'|indent(2) }}", "a\n  b"),
        ("{{ 'one two three'|truncate(9, leeway=0) }}", "one..."),
        ("plain } text { with {one brace}", "plain } text { with {one brace}"),
        (5, 5),
        (None, None),
        ({"a": ["{{ payload.temp }}", {"b": "x"}], "c": True}, {"a": [41, {"b": "x"}], "c": True}),
    ],
)
def test_a_template_gives_a_value(source: Any, value: Any) -> None:
    rendered = Template(source).render(EVENT, at_ms=NOW_MS)
    assert rendered == value
    assert type(rendered) is type(value)


@pytest.mark.parametrize(
    ("source", "path", "message"),
    [
        ("{{ payload.temp", (), "syntax error"),
        ("{{ }}", (), "syntax error: unexpected end of variable block"),
        ({"a": ["ok", "{{ nosuch }}"]}, ("a", 1), "column 4: unknown name nosuch"),
        ({"a": ["ok", "two\nlines {{ nosuch }}"]}, ("a", 1), "line 2, column 10: unknown name nosuch"),
        ({"{{ type }}": 1}, ("{{ type }}",), "a key is no template"),
        ("{% include 'x' %}", (), "the statement include is not available here"),
        ("{% macro m() %}{% endmacro %}", (), "the statement macro is not available here"),
        ("{% if true %}{{ payload.a|nosuch }}{% endif %}", (), "unknown filter nosuch"),
        ("{{ '${env:TOKEN}'|upper }}", (), "a secret cannot be used inside of {{ }}"),
        ("x {{ '${env:TOKEN}'|upper }}", (), "a secret cannot be used inside of {{ }}"),
    ],
)
def test_a_template_is_refused_at_load_with_its_place(source: Any, path: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        Template(source)
    assert caught.value.path == path
    assert message in str(caught.value)


def test_nothing_that_arrives_in_an_event_is_a_template_or_names_a_secret() -> None:
    def resolve(reference: str) -> str:
        assert reference == "${env:TOKEN}"
        return "{{ 6 * 6 }}"

    sneaky = PAYLOAD["sneaky"]
    assert Template("{{ payload.sneaky }}").render(EVENT, resolve=resolve, at_ms=NOW_MS) == sneaky
    filled = Template({"a": ["${env:TOKEN} {{ payload.sneaky }}"], "b": "${env:TOKEN}"})
    assert filled.render(EVENT, resolve=resolve, at_ms=NOW_MS) == {
        "a": [f"{{{{ 6 * 6 }}}} {sneaky}"],
        "b": "{{ 6 * 6 }}",
    }


def test_a_reference_to_a_secret_stays_when_nobody_resolves_it() -> None:
    template = Template(["Bearer ${env:TOKEN}", "{{ payload.temp }} ${file:a b}"])
    assert template.has_secrets
    assert template.render(EVENT, at_ms=NOW_MS) == ["Bearer ${env:TOKEN}", "41 ${file:a b}"]
    assert not Template("{{ payload.temp }} ${other}").has_secrets


def test_a_constant_is_handed_out_as_a_copy() -> None:
    value = {"list": [1]}
    template = Template(value)
    assert template.is_constant
    template.render(EVENT, at_ms=NOW_MS)["list"].append(2)
    assert value == {"list": [1]}
    assert template.render(EVENT, at_ms=NOW_MS) == {"list": [1]}


def test_further_variables_are_known_by_name() -> None:
    with pytest.raises(ExpressionError, match="unknown name result"):
        Template("{{ result.id }}")
    assert Template("{{ result.id }}", names=["result"]).render(EVENT, {"result": {"id": 5}}, at_ms=NOW_MS) == 5
    assert Template("got {{ result }}", names=["result"]).render(EVENT, {"result": [1]}, at_ms=NOW_MS) == "got [1]"


LARGE = event(
    numbers=list(range(150_000)),
    others=list(range(150_000)),
    objects=[{"id": number} for number in range(50_000)],
    ones=["a"] * 100_000,
    text="a" * 500_000,
    long="(a|b|c)" * 140,
    array="[" + "1," * 300_000 + "1]",
    width="%9999999999d",
    n=10**15,
)


@pytest.mark.parametrize(
    "source",
    [
        "{{ payload.text * payload.n }}",
        "{{ payload.n * payload.text }}",
        "{{ [payload.text] * payload.n }}",
        "{{ (payload.text|upper) * (payload.n) }}",
        "{{ 2 * payload.text|length * payload.text }}",
        "{{ payload.width|format(1) }}",
        "{{ '%*d'|format(payload.n, 1) }}",
        "{{ payload.text|replace('a', payload.text) }}",
        "{{ payload.ones|map('replace', 'a', payload.text)|list }}",
        "{{ payload.ones|join(payload.text) }}",
        "{{ payload.ones|map('truncate', 0, false, payload.text, 0)|list }}",
        "{{ range(payload.n) }}",
        "{{ range(-payload.n, payload.n, 1) }}",
        "{{ (payload.text|replace('a', '\n'))|indent(payload.n) }}",
        "{% for x in payload.ones %}{{ payload.text }}{% endfor %}",
        "{% for x in payload.numbers %}{% if x in payload.others %}{% endif %}{% endfor %}",
        "{% set all = payload.numbers|list %}{% for x in payload.numbers %}{% if 'x' in all %}{% endif %}{% endfor %}",
        "{{ payload.numbers|select('in', payload.others)|list }}",
        "{{ payload.numbers|list|length + payload.others|list|length }}",
        "{{ payload.objects|selectattr('id', 'in', payload.objects|map(attribute='id')|list)|list }}",
        "{% for x in range(100000) %}{% for y in range(100000) %}x{% endfor %}{% endfor %}",
        "{% for x in payload.ones %}{{ range(100000)|sum }}{% endfor %}",
        "{{ payload.text is regex_search('(a|b)*a(a|b){200}') }}",
        "{{ payload.text|regex_findall('a') }}",
        "{{ payload.text|regex_findall('a(.*z)?') }}",
        "{{ payload.text|regex_replace('', payload.text) }}",
        "{{ (payload.text|truncate(2000))|regex_replace('a', payload.text) }}",
        "{{ payload.ones|select('regex_search', 'a')|list }}",
        "{{ payload.ones|map('regex_search', payload.text)|list }}",
        "{% for x in range(9000) %}{% if 'a' is regex_search(payload.long ~ x) %}{% endif %}{% endfor %}",
        "{% for x in payload.ones %}{{ payload.text|hash }}{% endfor %}",
        "{% for x in payload.ones %}{{ payload.numbers|hash }}{% endfor %}",
        "{% for x in payload.ones %}{{ payload.array|from_json }}{% endfor %}",
        "{% for x in payload.ones %}{{ payload|combine(payload) }}{% endfor %}",
        "{% for x in payload.ones %}{{ timestamp|format_time('%A', 'Asia/Tokyo') }}{% endfor %}",
        "{{ payload.text|map('b64encode')|list }}",
        "{{ payload.text|map('replace', 'a', 'b')|list }}",
        "{{ payload.text|select('in', 'a')|list }}",
    ],
)
def test_no_event_makes_an_expression_costly(source: str) -> None:
    with pytest.raises(ExpressionError):
        Template(source).render(LARGE, at_ms=NOW_MS)


def test_what_could_not_be_looked_at_is_not_taken_for_empty() -> None:
    large = event(object={str(number): number for number in range(90_000)})
    search = "'x' in payload.object"
    assert not Condition(f"{search} or {search}").holds(large, at_ms=NOW_MS)
    with pytest.raises(ExpressionError, match="too much work"):
        Condition(f"{search} or {search} or {search}").holds(large, at_ms=NOW_MS)


def test_a_large_event_can_still_be_looked_at() -> None:
    assert Condition("payload.numbers|sum == 11249925000 and payload.numbers|length == 150000").holds(
        LARGE, at_ms=NOW_MS
    )
    assert len(Template("{{ payload|tojson }}").render(LARGE, at_ms=NOW_MS)) > 2_000_000


NUMBERS = (
    st.integers(0, 9).map(str)
    | st.integers(-9, 9).map(str)
    | st.sampled_from(["a", "b", "a.c", "2.5", "l[1]", "l|length", "(a)", "-a"])
)
OPERATORS = st.sampled_from(
    ["+", "-", "*", "*", "/", "//", "%", "~", "<", ">=", "==", " in l and 1 *", "if 1 else 2 *"]
)


@settings(deadline=None)
@given(st.lists(st.tuples(OPERATORS, NUMBERS), max_size=5), NUMBERS)
def test_guards_change_no_value(parts: list[tuple[str, str]], last: str) -> None:
    source = " ".join(f"{number} {operator}" for operator, number in parts) + f" {last}"

    def outcome(text: str) -> Any:
        try:
            return ENGINE._jinja.eval_expr(text, a=3, b=0.5, l=[1, 4, 9])
        except Exception:
            return "an error"

    plainly = outcome(source)
    # What the guards refuse is the repeating of texts and lists, and their comparison with numbers.
    held = outcome(guarded(source, expression_tokens(source)))
    assert held == plainly or isinstance(plainly, str | list) or ("~" in source and held == "an error")


def test_an_evaluation_starts_with_a_full_budget() -> None:
    costly, cheap = Condition("payload.numbers|select('in', payload.others)|list"), Condition("payload.n > 1")
    for _ in range(3):
        with pytest.raises(ExpressionError, match="too much work"):
            costly.holds(LARGE, at_ms=NOW_MS)
        assert cheap.holds(LARGE, at_ms=NOW_MS)


def test_threads_take_turns() -> None:
    condition = Condition("payload.list|join(',')|length > 0")
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(300):
                assert condition.holds(EVENT, at_ms=NOW_MS)
                assert Template("{{ payload.temp }}").render(EVENT, at_ms=NOW_MS) == 41
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures
    assert not any(thread.is_alive() for thread in threads)


def test_equal_expressions_share_one_template_and_go_with_their_last_holder() -> None:
    gc.collect()
    first, second = Condition("payload.temp > 123454321"), Condition("payload.temp > 123454321")
    assert first._compiled is second._compiled
    name = first._compiled.name
    del first
    gc.collect()
    Condition("payload.temp > 1")
    assert name in ENGINE._loaded
    del second
    gc.collect()
    Condition("payload.temp > 2")
    assert name not in ENGINE._loaded


def test_after_a_panic_of_the_engine_all_expressions_work_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        pass

    class Broken:
        def render_template(self, *_: Any, **__: Any) -> str:
            raise PanicException("capacity overflow")

    fresh = Engine()
    monkeypatch.setattr("eventhost.expression.condition.ENGINE", fresh)
    condition = Condition("payload.temp > 1")
    monkeypatch.setattr(fresh, "_jinja", Broken())
    with pytest.raises(ExpressionError, match="gave up: capacity overflow"):
        condition.holds(EVENT, at_ms=NOW_MS)
    assert condition.holds(EVENT, at_ms=NOW_MS)


def test_the_documented_variables_are_those_of_an_event() -> None:
    assert set(engine.VARIABLES) == set(EnvEvent.__struct_fields__)


# Time


LOOK = EnvEvent(
    "9", "t", 1_700_000_000_000, {},
    {
        "due": "2023-11-14T23:13:20.5+01:00", "local": "2023-11-14 23:13:20", "delay": "1h30m", "five": "5",
        "zone": "Asia/Tokyo", "text": "ERROR 42: disk sda is full, ERROR 7: again", "pattern": "E(R+)OR",
        "json": '{"a": [1, {"b": 2.0}]}', "room": "server-1", "tags": ["hot", "new"], "limits": {"max": 35, "Min": 1},
        "temp": 41, "whole": 3.0, "on": True, "nothing": None, "large": 2**70, "length": "5",
    },
)  # fmt: skip


def value_of(expression: str, subject: EnvEvent = LOOK) -> Any:
    return Template(f"{{{{ {expression} }}}}").render(subject, at_ms=NOW_MS)


def error_of(expression: str) -> str:
    with pytest.raises(ExpressionError) as caught:
        value_of(expression)
    return str(caught.value)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("now()", NOW_MS),
        ("now() - timestamp", 90_500),
        ("now() - timestamp > duration('1m')", True),
        ("now() - timestamp > '2m'|duration", False),
        ("duration(payload.delay)", 5_400_000),
        ("duration('1.5s') + duration('0.4ms')", 1_500),
        ("(now() - timestamp)|format_duration", "1m30s"),
        ("(timestamp - now())|format_duration(1)", "-1m"),
        ("(now() - timestamp)|format_duration(units=5)", "1m30s500ms"),
        ("0|format_duration", "0s"),
        ("payload.due|timestamp", 1_700_000_000_500),
        ("payload.due|timestamp < now()", True),
        ("payload.local|timestamp", 1_700_003_600_000),
        ("payload.local|timestamp('Europe/Berlin')", 1_700_000_000_000),
        ("timestamp|timestamp", 1_700_000_000_000),
        ("1.5|timestamp", 1),
        ("'2024-02-29'|timestamp", 1_709_164_800_000),
        ("'20240229T120000Z'|timestamp", 1_709_208_000_000),
        ("timestamp|format_time", "2023-11-14T22:13:20.000Z"),
        ("timestamp|format_time(zone='Europe/Berlin')", "2023-11-14T23:13:20.000+01:00"),
        ("timestamp|format_time('%Y-%m-%d %H:%M', 'Europe/Berlin')", "2023-11-14 23:13"),
        ("timestamp|format_time('%-d.%-m. %A %% %Z', payload.zone)", "15.11. Wednesday % JST"),
        ("0|format_time('%-H:%-I:%-M %-j')", "0:12:0 1"),
        ("(timestamp|time_parts('Europe/Berlin')).hour", 23),
        ("(timestamp|time_parts('Asia/Tokyo')).weekday", 3),
        ("'22:00' <= (timestamp|time_parts).time", True),
        (
            "timestamp|time_parts",
            {"year": 2023, "month": 11, "day": 14, "hour": 22, "minute": 13, "second": 20, "weekday": 2}
            | {"date": "2023-11-14", "time": "22:13"},
        ),
    ],
)
def test_moments_and_durations_are_milliseconds(expression: str, value: Any) -> None:
    found = value_of(expression)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("payload.five|duration", "duration: '5' is none; write numbers with d, h, m, s or ms"),
        ("duration(5)", "duration: 5 is none"),
        ("payload.five|timestamp", "timestamp: '5' is neither ISO 8601"),
        ("payload.nothing|timestamp", "timestamp: nothing is neither"),
        ("payload.missing|timestamp", "timestamp: nothing is neither"),
        ("payload.on|timestamp", "timestamp: a boolean is neither"),
        ("payload.tags|timestamp", "timestamp: a list is neither"),
        ("payload.large|timestamp", "timestamp: a number of milliseconds, up to 2^53, is needed"),
        ("payload.due|format_time", "format_time: a number of milliseconds, up to 2^53, is needed, got '2023-11"),
        ("9007199254740992|format_time", "format_time: 9007199254740992 is not within the years 1 to 9999"),
        ("-62135596800000|format_time('%Y', 'America/New_York')", "is not within the years 1 to 9999"),
        ("timestamp|format_time('%Y', payload.room)", "there is no time zone 'server-1'"),
        ("timestamp|format_time('%Y', '../' ~ 'UTC')", "there is no time zone '../UTC'"),
        ("timestamp|format_time('%Y', 'Euro' ~ 'pe')", "there is no time zone 'Europe'"),
        ("timestamp|format_time('%' ~ 's')", "format_time: %s stands for nothing"),
        ("payload.five|format_duration", "format_duration: a number of milliseconds, up to 2^53, is needed"),
        ("5|format_duration(0)", "units is a whole number above 0"),
    ],
)
def test_what_is_no_moment_or_duration_is_an_error(expression: str, message: str) -> None:
    assert message in error_of(expression)


@settings(deadline=None)
@given(st.integers(0, 2**53))
def test_a_duration_reads_as_what_was_written(duration_ms: int) -> None:
    text = written(duration_ms)
    assert milliseconds(text) == duration_ms
    short = milliseconds(written(duration_ms, 2))
    assert short is not None
    assert duration_ms * 0.5 <= short <= duration_ms


@pytest.mark.parametrize(
    "text", ["", "5", "s", "5m1h", "5s5s", "1h 5m", "-5s", "5 s", "5.s", "1e3s", "٥s", "1" * 50 + "s"]
)
def test_what_is_no_duration_has_no_milliseconds(text: str) -> None:
    assert milliseconds(text) is None


ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Apia", "Africa/Monrovia"])
MOMENTS = st.datetimes(datetime(1000, 1, 2), datetime(9999, 12, 30), timezones=ZONES.map(ZoneInfo))


@settings(deadline=None)
@given(MOMENTS, st.sampled_from(["auto", "seconds", "milliseconds", "microseconds"]))
def test_a_timestamp_is_that_of_the_moment(moment: datetime, timespec: str) -> None:
    assume(len(moment.strftime("%z")) == 5)  # ISO 8601 has no offsets with seconds
    text = moment.isoformat(timespec=timespec)
    expected = datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)
    subject = event(text=text, ms=expected // timedelta(milliseconds=1))
    assert value_of("payload.text|timestamp", subject) == subject.payload["ms"]
    # The text that is written without a layout leads back.
    zone = moment.tzinfo.key  # type: ignore[union-attr]
    assert value_of(f"payload.ms|format_time(zone='{zone}')|timestamp", subject) == subject.payload["ms"]


@settings(deadline=None)
@given(MOMENTS, st.lists(st.sampled_from("aAbBdfFGHIjmMpSTuVyYzZ%"), min_size=1, max_size=4))
def test_a_layout_is_filled_in_as_python_would(moment: datetime, directives: list[str]) -> None:
    moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    layout = "-".join(f"%{directive}" for directive in directives)
    at_ms = (moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    moment = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)).astimezone(moment.tzinfo)
    subject = event(ms=at_ms, layout=layout, zone=moment.tzinfo.key)  # type: ignore[union-attr]
    assert value_of("payload.ms|format_time(payload.layout, payload.zone)", subject) == moment.strftime(layout)
    parts = value_of("payload.ms|time_parts(payload.zone)", subject)
    names = ("year", "month", "day", "hour", "minute", "second")
    assert [parts[name] for name in names] == [getattr(moment, name) for name in names]
    assert (parts["weekday"], parts["date"]) == (moment.isoweekday(), moment.date().isoformat())
    assert parts["time"] == moment.strftime("%H:%M")


def test_every_thread_has_the_time_of_its_own_event() -> None:
    condition, template = Condition("now() == timestamp"), Template(["{{ now() }}", "at {{ now() }}"])
    wrong: list[Any] = []

    def work(at_ms: int) -> None:
        for _ in range(300):
            if not condition.holds(EnvEvent("1", "t", at_ms, {}, {}), at_ms=at_ms):
                wrong.append(at_ms)
            if template.render(EVENT, at_ms=at_ms) != [at_ms, f"at {at_ms}"]:
                wrong.append(at_ms)

    threads = [threading.Thread(target=work, args=(at_ms,)) for at_ms in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong
    assert not any(thread.is_alive() for thread in threads)


def test_nothing_but_the_event_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    expression = "[now(), payload.local|timestamp, timestamp|format_time('%c' if false else '%A %Z'), payload|hash]"
    first = value_of(expression)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert value_of(expression) == first
    for name in ("random()", "lipsum()", "randrange(5)", "env()", "payload.tags|random", "payload.tags|shuffle"):
        assert "unknown" in error_of(name)


# Regular expressions


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("payload.text is regex_match('ERR')", True),
        ("payload.text is regex_match('disk')", False),
        ("payload.text is regex_search('disk')", True),
        ("payload.text is regex_search 'disk'", True),
        ("payload.text is not regex_search('tape')", True),
        ("payload.text|regex_match('ERROR \\d+:')", True),
        ("payload.text|regex_search('(?i)DISK sd[a-c]')", True),
        (r"payload.text|regex_search('\\bdisk\\b')", True),
        ("payload.text is regex_match('ERROR$')", False),
        ("payload.text is regex_search('again$')", True),
        ("payload.text is regex_search(payload.pattern)", True),
        ("payload.tags|select('regex_match', 'h')|list", ["hot"]),
        ("payload.tags|map('regex_replace', 'o', '0')|list", ["h0t", "new"]),
        ("payload.text|regex_findall('\\d+')", ["42", "7"]),
        ("payload.text|regex_findall('ERROR (\\d+)')", ["42", "7"]),
        ("(payload.text|regex_findall('(\\w+) (\\d+)|(full)'))[1]", ["", "", "full"]),
        ("payload.text|regex_findall('nothing')", []),
        ("payload.text|regex_replace('ERROR ')", "42: disk sda is full, 7: again"),
        (r"payload.text|regex_replace('ERROR (\\d+): (\\w+).*', '\\2=\\1')", "disk=42"),
        (r"payload.room|regex_replace('(?P<name>\\w+)-(?P<number>\\d)', '\\g<number>\\g<name>\\0')", "1serverserver-1"),
        (r"payload.room|regex_replace('-', '\\\\')", "server\\1"),
        ("'äöü'|regex_replace('', '.')", ".ä.ö.ü."),
        ("'äöü'|regex_findall('.')", ["ä", "ö", "ü"]),
        ("'ÄÖ' is regex_match('(?i)äö$')", True),
    ],
)
def test_regular_expressions(expression: str, value: Any) -> None:
    assert value_of(expression) == value


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("payload.temp is regex_search('4')", "regex_search: a string is needed, got a number; `|string` makes one"),
        ("payload.missing is regex_search('4')", "regex_search: a string is needed, got nothing"),
        ("payload.tags is regex_search('4')", "regex_search: a string is needed, got a list"),
        ("payload.text is regex_search(payload.temp)", "a pattern is a string, got a number"),
        ("payload.text is regex_search('(' ~ 'a')", "'(a' is no pattern: missing ): (a"),
        ("payload.text|regex_replace('x', payload.nothing)", "a replacement is a string, got nothing"),
        (r"payload.text|regex_replace('x', '\\2')", "the pattern has no group 2"),
        (r"payload.text|regex_replace('x', '\\g<y>')", "the pattern has no group y"),
        (r"payload.text|regex_replace('x', '\\q')", r"in a replacement \q stands for nothing"),
    ],
)
def test_a_regular_expression_that_cannot_be_applied_is_an_error(expression: str, message: str) -> None:
    assert message in error_of(expression)


SAFE = st.text("abAB01 -é", max_size=12)
PATTERNS = st.sampled_from(
    ["a", "a*", "(a)(b)?", "[ab]+", "a|b", "^a", "b$", "(?i)a", "\\d+", "(a|é)+", ".", "x?", "(A)|(b)"]
)


@settings(deadline=None)
@given(SAFE, PATTERNS)
def test_regular_expressions_agree_with_pythons(text: str, pattern: str) -> None:
    subject = event(text=text, pattern=pattern)
    assert value_of("payload.text is regex_match(payload.pattern)", subject) == bool(re.match(pattern, text))
    assert value_of("payload.text|regex_search(payload.pattern)", subject) == bool(re.search(pattern, text))
    assume(("*" not in pattern and "?" not in pattern) or "?i" in pattern)  # on empty matches the two differ
    expected = [list(found) if isinstance(found, tuple) else found for found in re.findall(pattern, text)]
    assert value_of("payload.text|regex_findall(payload.pattern)", subject) == expected
    replaced = re.sub(pattern, r"<\g<0>>", text)
    assert value_of(r"payload.text|regex_replace(payload.pattern, '<\\0>')", subject) == replaced


def test_a_pattern_of_the_configuration_stays_ready_as_long_as_it_is_used() -> None:
    gc.collect()
    condition = Condition("payload.text is regex_search('stays (ready|made)')")
    for number in range(600):  # more than are kept of those that nobody holds
        value_of("payload.text is regex_search('p' ~ timestamp)", EnvEvent("1", "t", number, {}, {"text": "x"}))
    assert "stays (ready|made)" in _in_use
    assert len(_in_use) < 600
    assert condition.holds(event(text="it stays ready"), at_ms=0)
    del condition
    gc.collect()
    assert "stays (ready|made)" not in _in_use


# Data


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("payload.json|from_json", {"a": [1, {"b": 2.0}]}),
        ("(payload.json|from_json).a[1].b", 2.0),
        ("'null'|from_json", None),
        ("payload|tojson|from_json == payload", True),
        ("payload.room|hash", hashlib.sha256(b"server-1").hexdigest()),
        ("payload.room|hash('md5')", hashlib.md5(b"server-1").hexdigest()),
        ("payload.room|hash('sha1')", hashlib.sha1(b"server-1").hexdigest()),
        ("payload.room|hash(algorithm='sha512')", hashlib.sha512(b"server-1").hexdigest()),
        ("payload.limits|hash", hashlib.sha256(b'{"Min":1,"max":35}').hexdigest()),
        ("{'max': 35.0, 'Min': 1}|hash == payload.limits|hash", True),
        ("payload.whole|hash == 3|hash", True),
        ("payload.nothing|hash", hashlib.sha256(b"null").hexdigest()),
        ("payload.large|hash", hashlib.sha256(b"1180591620717411303424").hexdigest()),
        ("payload.limits|combine({'max': 1, 'x': payload.tags})", {"max": 1, "Min": 1, "x": ["hot", "new"]}),
        ("{}|combine", {}),
        ("payload.limits", {"max": 35, "Min": 1}),
        ("payload.room|b64encode", "c2VydmVyLTE="),
        ("'w7w='|b64decode", "ü"),
        ("'a b/ü&'|urlencode", "a%20b/%C3%BC%26"),
        ("{'a': 'x y', 'b': payload.temp}|urlencode", "a=x%20y&b=41"),
    ],
)
def test_data_within_events(expression: str, value: Any) -> None:
    assert value_of(expression) == value


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("payload.room|from_json", "from_json: JSON is malformed"),
        ("payload.limits|from_json", "from_json: a string is needed, got an object"),
        ("payload.missing|from_json", "from_json: a string is needed, got nothing"),
        ("'NaN'|from_json", "from_json: JSON is malformed"),
        ("(payload.json|from_json).b", "the value is undefined"),
        ("(payload.json|from_json).keys > 1", "undefined"),
        ("payload.limits|combine(3)", "combine: objects are needed, got a number"),
        ("payload.room|b64decode", "b64decode: "),
        ("'gA=='|b64decode", "b64decode: 'utf-8' codec"),
    ],
)
def test_data_that_is_not_what_it_is_taken_for_is_an_error(expression: str, message: str) -> None:
    assert message in error_of(expression)


@pytest.mark.parametrize(("depth", "fits"), [(1, True), (256, True), (257, False), (900, False), (100_000, False)])
@pytest.mark.parametrize("within", ["", "1"])
def test_json_within_an_event_is_as_deep_as_an_event_may_be(depth: int, within: str, fits: bool) -> None:
    subject = event(text="[" * depth + within + "]" * depth)
    if fits:
        assert value_of("payload.text|from_json|tojson == payload.text", subject)
    else:
        with pytest.raises(ExpressionError, match="from_json: "):
            value_of("payload.text|from_json", subject)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=3), JSON, max_size=4))
def test_json_text_reads_as_what_it_was_and_its_hash_does_not_ask_for_the_order(value: dict[str, Any]) -> None:
    subject = event(value=value, turned=dict(reversed(value.items())), text=json.dumps(value))
    assert value_of("payload.text|from_json", subject) == value
    assert (
        value_of("[payload.value|hash, payload.turned|hash, payload.text|from_json|hash]|unique|list|length", subject)
        == 1
    )


# What the engine would guess


@settings(deadline=None)
@given(st.tuples(JSON, JSON), st.sampled_from(["<", "<=", ">", ">="]))
def test_only_numbers_with_numbers_and_texts_with_texts_have_an_order(values: tuple[Any, Any], operator: str) -> None:
    subject = event(a=values[0], b=values[1])
    numbers, texts = (all(isinstance(value, kind) for value in values) for kind in (int | float, str))
    compared = {"<": lambda a, b: a < b, "<=": lambda a, b: a <= b, ">": lambda a, b: a > b, ">=": lambda a, b: a >= b}
    sources = [f"payload.a {operator} payload.b"]
    if isinstance(values[1], int | str) and not isinstance(values[1], bool):
        sources.append(f"payload.a {operator} {json.dumps(values[1], ensure_ascii=False)}")
    if isinstance(values[0], int | str) and not isinstance(values[0], bool):
        sources.append(f"{json.dumps(values[0], ensure_ascii=False)} {operator} payload.b")
    for source in sources:
        assume("\\u" not in source)
        if numbers or texts:
            assert value_of(source, subject) is compared[operator](*values), source
        else:
            with pytest.raises(ExpressionError, match=r"cannot (compare|calculate)"):
                value_of(source, subject)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 < payload.temp < 50", True),
        ("30 < payload.temp ** 2", True),
        ("30 < payload.temp * 2 - 60", False),
        ("-payload.temp < -5 and 3 > 2", True),
        ("payload.temp - payload.limits.max > payload.limits.Min * 2", True),
        ("payload.tags|length > payload.limits.Min", True),
        ("payload.limits.Min < payload.tags|length", True),
        ("(payload.temp > payload.limits.max) == (payload.temp > 1 > payload.limits.Min or true)", True),
        ("payload.room > 'rack' and 'rack' < payload.room + 'x'", True),
        ("payload.tags|select('gt', 'i')|list", ["new"]),
        ("'high' if payload.temp > payload.limits.max else 'low'", "high"),
        ("payload.temp if 1 > 2 else payload.limits.max", 35),
        ("payload.on > 0", True),
        ("payload.five|int > 4", True),
    ],
)
def test_comparisons_go_on_giving_what_they_did(expression: str, value: Any) -> None:
    assert value_of(expression) == value


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("payload.five > 30", "cannot calculate with a string and a number, nor compare them; `|float`"),
        ("30 < payload.five", "cannot calculate with a number and a string, nor compare them"),
        ("payload.nothing < 30", "cannot calculate with nothing and a number"),
        ("payload.temp > payload.five", "cannot compare a number with a string; `|float` or `|string`"),
        ("payload.temp > payload.nothing", "cannot compare nothing"),
        ("payload.temp > payload.length", "cannot compare a number with a string"),
        ("payload.length > payload.temp", "cannot compare a string with a number"),
        ("payload.temp > payload.missing", "the value is undefined"),
        ("payload.missing > payload.temp", "the value is undefined"),
        ("payload.missing > 5", "`payload.missing` is undefined"),
        ("payload.tags > payload.tags", "cannot compare a list: only numbers and texts have an order"),
        ("'a' > payload.temp", "cannot calculate with a string and a number"),
    ],
)
def test_what_cannot_be_compared_is_an_error_and_no_guess(expression: str, message: str) -> None:
    assert message in error_of(expression)


@pytest.mark.parametrize("name", sorted(TAKING_NULL))
def test_a_missing_field_is_not_null_to_a_filter(name: str) -> None:
    assert "the value is undefined" in error_of(f"payload.missing|{name}" + "('a', 'b')" * (name == "replace"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("false and payload.text is regex_search('d(isk')", "column 40: 'd(isk' is no pattern: missing ): d(isk"),
        ("payload.text|regex_match('(?=x)')", "column 26: '(?=x)' is no pattern: invalid perl operator: (?="),
        (r"payload.text|regex_search('\bx')", r"column 27: in a string '\b' is a backspace; write '\\b'"),
        (r"payload.text|regex_replace('(x)', '\1')", r"column 35: in a string '\1' is a control character"),
        ("payload.text|regex_search(pattern='(')", "column 35: '(' is no pattern"),
        ("payload.text|regex_search('\\pL{900}')", "column 27: '\\\\pL{900}' is no pattern: "),
        (
            f"payload.text|regex_search('{'a' * (MAX_PATTERN + 1)}')",
            "column 27: a pattern of more than 1000 characters",
        ),
        ("payload.text is regex_search", "column 17: regex_search: missing a required argument: 'pattern'"),
        ("payload.text is regex_search '('", "column 30: '(' is no pattern"),
        ("payload.tags|select('regex_match', '(h')|list", "column 36: '(h' is no pattern"),
        ("payload.tags|selectattr('a', 'regex_match', '(h')|list", "column 45: '(h' is no pattern"),
        ("payload.tags|map('regex_replace', '(h')|list", "column 35: '(h' is no pattern"),
        ("payload.tags|map('nosuch')|list", "column 18: unknown filter nosuch"),
        ("payload.tags|map('__keep')|list", "column 18: unknown filter __keep"),
        ("payload.tags|reject('nosuch')|list", "column 21: unknown test nosuch"),
        ("payload.tags|rejectattr('a', 'nosuch', 1)|list", "column 30: unknown test nosuch"),
        ("true or now() > duration('5 min')", "column 26: duration: '5 min' is none"),
        ("true or now() > '5 min'|duration", "column 17: duration: '5 min' is none"),
        ("now(5)", "column 1: now: too many positional arguments"),
        ("timestamp|format_time('%Q')", "column 23: format_time: %Q stands for nothing; there are % a A b B"),
        ("timestamp|format_time('%H', 'Europe/Berln')", "column 29: there is no time zone 'Europe/Berln'"),
        ("timestamp|time_parts(zone='Mars')", "column 27: there is no time zone 'Mars'"),
        ("timestamp|format_time(zoen='UTC')", "column 11: format_time: got an unexpected keyword argument 'zoen'"),
        ("payload.a|hash('crc')", "column 16: hash: there are md5, sha1, sha256, sha512"),
        ("__missing", "unknown name __missing"),
        ("payload.a|__left(1)", "column 11: unknown filter __left"),
    ],
)
def test_a_literal_that_can_never_work_is_refused_at_load(source: str, message: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        Condition(source)
    assert message in str(caught.value)


def test_what_is_checked_by_a_parameters_name_has_such_a_parameter() -> None:
    assert set(CHECKS) <= {name for signature in ENGINE.signatures.values() for name in signature.parameters}
    assert {("filter", name) for name in TAKING_NULL} <= set(ENGINE.signatures)


def test_the_parts_of_a_template_are_looked_at_one_by_one() -> None:
    source = "{% for item in payload.tags %}{{ (item|upper) }}{% endfor %}"
    assert Template(source).render(LOOK, at_ms=NOW_MS) == "HOTNEW"


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("payload.temp == '41'", False),
        ("payload.limits == {'max': 35, 'Min': 1}", False),
        ("payload.nothing|default('x')", None),
        ("payload.nothing|default('x', true)", "x"),
        ("payload.missing|default('x')", "x"),
        ("0|default('x', true)", "x"),
        ("payload.room|int(0)", 0),
        ("payload.nothing|int", 0),
        ("'3.9'|int", 3),
        ("2.5|round|int", 2),
        ("3.5|round|int", 4),
        ("'false'|bool", True),
        ("''|bool", False),
        ("['10', 9]|sort", [9, "10"]),
        ("[]|max is defined", False),
        ("[]|first is defined", False),
        ("payload.nothing ~ payload.on ~ payload.whole", "NoneTrue3.0"),
        ("[payload.nothing, payload.on]|tojson", "[null,true]"),
    ],
)
def test_what_may_surprise_is_as_it_is_documented(expression: str, value: Any) -> None:
    assert value_of(expression) == value


@pytest.mark.parametrize(
    "expression",
    ["payload.room|int", "payload.room|float", "''|int", "payload.room|round", "payload.missing.b|default('x')"],
)
def test_what_may_surprise_as_an_error_is_as_it_is_documented(expression: str) -> None:
    assert error_of(expression)


# Secrets


SLY = EnvEvent(
    "${env:TOKEN}", "${env:TOKEN}", 0, {"source_name": "${file:/etc/passwd}"},
    {
        "reference": "${env:TOKEN}", "name": "TOKEN", "json": '{"${env:TOKEN}": "${env:TOKEN}"}',
        "half": "{env:TOKEN}", "encoded": "JHtlbnY6VE9LRU59", "mark": "\x000:\x00", "object": {"${env:TOKEN}": 1},
    },
)  # fmt: skip


@pytest.mark.parametrize(
    "expression",
    [
        "id ~ type ~ metadata.source_name",
        "payload",
        "payload.reference",
        "payload.json|from_json",
        "payload.json|from_json|tojson",
        "payload.reference|hash",
        "payload.encoded|b64decode",
        "payload.half|regex_replace('^', '$')",
        "payload.reference|regex_findall('.+')",
        "payload.name|regex_replace('.+', '$' ~ '{env:\\\\0}')",
        "'$' ~ '{env:TOKEN}'",
        "'$' ~ '{env:' ~ payload.name ~ '}'",
        "'%s{env:TOKEN}'|format('$')",
        "'-{env:TOKEN}'|replace('-', '$')",
        "{'x': 1}|combine(payload.object)",
        "payload.mark",
        "timestamp|format_time('$' ~ '{env:TOKEN}')",
    ],
)
def test_no_event_and_no_expression_makes_a_secret_appear(expression: str) -> None:
    def resolve(reference: str) -> str:
        asked.append(reference)
        return "the secret"

    asked: list[str] = []
    alone = Template(f"{{{{ {expression} }}}}").render(SLY, at_ms=0, resolve=resolve)
    assert "the secret" not in json.dumps(alone)
    assert not asked
    # Beside one that stands in the configuration, only that one is resolved, and no event says where.
    text = Template(f"${{env:OWN}} {{{{ {expression} }}}} $").render(SLY, at_ms=0, resolve=resolve)
    assert text.startswith("the secret ")
    assert text.count("the secret") == 1
    assert asked == ["${env:OWN}"]
    shown = Template(f"${{env:OWN}} {{{{ {expression} }}}} $").render(SLY, at_ms=0)
    assert shown == text.replace("the secret", "${env:OWN}", 1)


@pytest.mark.parametrize(
    "source",
    [
        "{{ '${env:TOKEN}'|hash }}",
        "x {{ '${env:TOKEN}'|regex_replace('.', 'x') }}",
        "{% set t = '${env:TOKEN}' %}{{ t|hash }}",
        "{% set t %}${env:TOKEN}{% endset %}{{ t|hash }}",
        "{% set t %}a {% if true %}${file:x}{% endif %}{% endset %}{{ t }}",
    ],
)
def test_a_secret_cannot_be_calculated_with(source: str) -> None:
    with pytest.raises(ExpressionError, match="a secret cannot"):
        Template(source)


def test_a_secret_may_stand_beside_a_value_that_was_set() -> None:
    template = Template("{% set t %}a{% endset %}{% if t == 'a' %}${env:TOKEN}{% endif %}")
    assert template.render(SLY, at_ms=0, resolve=lambda _: "the secret") == "the secret"
    assert template.render(SLY, at_ms=0) == "${env:TOKEN}"


def test_the_documentation_names_what_there_is_and_its_limits() -> None:
    document = (Path(__file__).parent.parent / "docs" / "rules.md").read_text()
    names = {name for _, name in ENGINE.signatures if not name.startswith("__")}
    words = {word for code in re.findall(r"`([^`\n]+)`", document) for word in re.findall(r"\w+", code)}
    assert sorted(names - words) == []
    assert f"{MAX_SEARCH:,}" in document
    listed = document.partition("Of Jinja's own filters there are")[2].partition("There is nothing random")[0]
    for part, form, error in zip(listed.split("of its tests"), ("1|{}", "1 is {}"), ("Filter", "Test"), strict=True):
        for name in re.findall(r"`(\w+)`", part):
            assert ENGINE.probe(form.format(name)) != f"Unknown{error}", name
