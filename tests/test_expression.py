"""Conditions and templates: what they give, what is refused at load, and that no event can misuse them."""

from __future__ import annotations

import gc
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventhost.event import EnvEvent
from eventhost.expression import Condition, ExpressionError, Template, engine
from eventhost.expression.engine import ENGINE, Engine
from eventhost.expression.source import expression_tokens, guarded

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
    assert Condition(source).holds(EVENT)


@pytest.mark.parametrize("source", ["payload.temp > 100", "payload.off", "payload.nothing", "payload.empty", "not id"])
def test_a_condition_does_not_hold(source: str) -> None:
    assert not Condition(source).holds(EVENT)


def test_a_lone_missing_field_is_an_error_and_not_false() -> None:
    with pytest.raises(ExpressionError, match=r"payload\.missing: the value is undefined"):
        Condition("payload.missing").holds(EVENT)
    with pytest.raises(ExpressionError, match="undefined"):
        Template("{{ payload.missing }}").render(EVENT)
    with pytest.raises(ExpressionError, match="undefined"):
        Template("so {{ payload.missing }}").render(EVENT)


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
        Condition(source).holds(EVENT)
    assert str(caught.value).startswith(f"{source}: ")


def test_a_missing_field_never_turns_into_a_method_of_pythons() -> None:
    for name in ("values", "items", "clear", "get", "_value", "_budget", "__class__", "__len__"):
        with pytest.raises(ExpressionError, match="undefined"):
            Condition(f"payload.{name} > 5").holds(event())
        with pytest.raises(ExpressionError, match="undefined"):
            Condition(f"payload['{name}'] > 5").holds(event())
        with pytest.raises(ExpressionError, match="undefined"):
            Condition(f"payload.list.{name} > 5").holds(event(list=[1]))
        assert Condition(f"payload.{name} > 5").holds(event(**{name: 6}))


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
    rendered = Template(source).render(EVENT)
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
    assert Template("{{ payload.sneaky }}").render(EVENT, resolve=resolve) == sneaky
    filled = Template({"a": ["${env:TOKEN} {{ payload.sneaky }}"], "b": "${env:TOKEN}"})
    assert filled.render(EVENT, resolve=resolve) == {"a": [f"{{{{ 6 * 6 }}}} {sneaky}"], "b": "{{ 6 * 6 }}"}


def test_a_reference_to_a_secret_stays_when_nobody_resolves_it() -> None:
    template = Template(["Bearer ${env:TOKEN}", "{{ payload.temp }} ${file:a b}"])
    assert template.has_secrets
    assert template.render(EVENT) == ["Bearer ${env:TOKEN}", "41 ${file:a b}"]
    assert not Template("{{ payload.temp }} ${other}").has_secrets


def test_a_constant_is_handed_out_as_a_copy() -> None:
    value = {"list": [1]}
    template = Template(value)
    assert template.is_constant
    template.render(EVENT)["list"].append(2)
    assert value == {"list": [1]}
    assert template.render(EVENT) == {"list": [1]}


def test_further_variables_are_known_by_name() -> None:
    with pytest.raises(ExpressionError, match="unknown name result"):
        Template("{{ result.id }}")
    assert Template("{{ result.id }}", names=["result"]).render(EVENT, {"result": {"id": 5}}) == 5
    assert Template("got {{ result }}", names=["result"]).render(EVENT, {"result": [1]}) == "got [1]"


LARGE = event(
    numbers=list(range(150_000)),
    others=list(range(150_000)),
    objects=[{"id": number} for number in range(50_000)],
    ones=["a"] * 100_000,
    text="a" * 500_000,
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
    ],
)
def test_no_event_makes_an_expression_costly(source: str) -> None:
    with pytest.raises(ExpressionError):
        Template(source).render(LARGE)


def test_what_could_not_be_looked_at_is_not_taken_for_empty() -> None:
    large = event(object={str(number): number for number in range(90_000)})
    search = "'x' in payload.object"
    assert not Condition(f"{search} or {search}").holds(large)
    with pytest.raises(ExpressionError, match="too much work"):
        Condition(f"{search} or {search} or {search}").holds(large)


def test_a_large_event_can_still_be_looked_at() -> None:
    assert Condition("payload.numbers|sum == 11249925000 and payload.numbers|length == 150000").holds(LARGE)
    assert len(Template("{{ payload|tojson }}").render(LARGE)) > 2_000_000


NUMBERS = st.integers(-9, 9).map(str) | st.sampled_from(["a", "b", "a.c", "2.5", "l[1]", "l|length", "(a)", "-a"])
OPERATORS = st.sampled_from(["+", "-", "*", "*", "/", "//", "%", "~", "<", "==", " in l and 1 *", "if 1 else 2 *"])


@given(st.lists(st.tuples(OPERATORS, NUMBERS), max_size=5), NUMBERS)
def test_guards_change_no_value(parts: list[tuple[str, str]], last: str) -> None:
    source = " ".join(f"{number} {operator}" for operator, number in parts) + f" {last}"

    def outcome(text: str) -> Any:
        try:
            return ENGINE._jinja.eval_expr(text, a=3, b=0.5, l=[1, 4, 9])
        except Exception:
            return "an error"

    plainly = outcome(source)
    # What the guards refuse is the repeating of texts and lists, and nothing else.
    assert outcome(guarded(source, expression_tokens(source))) == plainly or isinstance(plainly, str | list)


def test_an_evaluation_starts_with_a_full_budget() -> None:
    costly, cheap = Condition("payload.numbers|select('in', payload.others)|list"), Condition("payload.n > 1")
    for _ in range(3):
        with pytest.raises(ExpressionError, match="too much work"):
            costly.holds(LARGE)
        assert cheap.holds(LARGE)


def test_threads_take_turns() -> None:
    condition = Condition("payload.list|join(',')|length > 0")
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(300):
                assert condition.holds(EVENT)
                assert Template("{{ payload.temp }}").render(EVENT) == 41
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
        condition.holds(EVENT)
    assert condition.holds(EVENT)


def test_the_documented_variables_are_those_of_an_event() -> None:
    assert set(engine.VARIABLES) == set(EnvEvent.__struct_fields__)
