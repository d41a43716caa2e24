"""JSON Schemas of all configuration files, made of the models that read them, so that editors complete and check.

What a schema refuses, the host refuses or warns of. The host refuses more: it compiles patterns, conditions, templates.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from eventhost.actions.keys import StepSpec
from eventhost.actions.parse import KINDS
from eventhost.config.server import TYPES
from eventhost.config.shape import (
    Client,
    Entry,
    EventSources,
    Http,
    Journal,
    Log,
    Mcp,
    Received,
    Root,
    Server,
    Sse,
    Supervision,
)
from eventhost.rules.cases import CaseSpec
from eventhost.rules.rule import RuleSpec
from eventhost.rules.shaping.spec import OfSpec, ShapingSpec
from eventhost.rules.trigger import TriggerSpec

FOLDER: Final = "schemas"
"""Where an environment keeps them, for its configs to refer to."""

_DIALECT: Final = "http://json-schema.org/draft-07/schema#"
"""The newest that all editors know in full."""

_NOTES: Final = frozenset(("description", "examples", "default"))
"""What is said for people."""

Schema = dict[str, Any]


def schema(kind: str) -> Schema:
    """The JSON Schema of one kind of file, by its name in `KINDS_OF_FILES`."""
    title, make = KINDS_OF_FILES[kind]
    definitions: dict[str, Schema] = {}
    body = make(_Definitions(definitions))
    # The last two are no part of JSON Schema; editors heed them.
    return {
        "$schema": _DIALECT,
        "title": title,
        **body,
        "definitions": dict(sorted(definitions.items())),
        "allowComments": True,
        "allowTrailingCommas": True,
    }


def schema_text(kind: str) -> str:
    """The schema as it stands in its file."""
    return json.dumps(schema(kind), ensure_ascii=False, indent=1) + "\n"


def file_name(kind: str) -> str:
    """What a schema's file is called."""
    return f"{kind}.schema.json"


def write_schemas(root: Path) -> list[Path]:
    """Write all schemas into an environment's `schemas/`; return those that were not there, or differed.

    Raises:
        OSError: one cannot be written.
    """
    folder, written = root / FOLDER, list[Path]()
    folder.mkdir(exist_ok=True)
    for kind in KINDS_OF_FILES:
        path, text = folder / file_name(kind), schema_text(kind)
        if not path.is_file() or path.read_text("utf-8") != text:
            _replace(path, text)
            written.append(path)
    return written


def _replace(path: Path, text: str) -> None:
    # An editor that looks meanwhile sees the old schema or the new one.
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}-", delete=False
    ) as draft:
        draft.write(text)
    os.chmod(draft.name, 0o644)
    os.replace(draft.name, path)


class _Definitions:
    """The parts of a schema that have a name; each is made when it is first referred to."""

    def __init__(self, made: dict[str, Schema]) -> None:
        self._made = made

    def made(self, model: type[BaseModel]) -> Schema:
        """The definition of a model that another one holds."""
        return self._made[model.__name__]

    def refer(self, name: str, make: Callable[[_Definitions], Schema]) -> Schema:
        if name not in self._made:
            self._made[name] = {}  # it may refer to itself
            self._made[name] = make(self)
        return {"$ref": f"#/definitions/{name}"}

    def model(self, model: type[BaseModel]) -> Schema:
        """What a pydantic model takes; the models in it become definitions."""
        made: Schema = _tidy(model.model_json_schema(by_alias=True, ref_template="#/definitions/{model}"))
        for name, inner in made.pop("$defs", {}).items():
            self._made[name] = inner
        return made


def _tidy(value: Any, *, names: bool = False) -> Any:
    """Without what says nothing: titles made of names, defaults that are seconds, or stand for what is not given."""
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    if not isinstance(value, dict):
        return value
    if names:
        return {name: _tidy(inner) for name, inner in value.items()}
    tidied = {
        key: _tidy(inner, names=key in ("properties", "$defs"))
        for key, inner in value.items()
        if key not in ("title", "ge", "gt") and not (key == "default" and not _is_telling(value))
    }
    for branch in tidied.get("anyOf", ()):
        # What is said of a type that may be left out, pydantic says of its branch alone.
        for key in [key for key in branch if key in _NOTES and key not in tidied]:
            tidied[key] = branch.pop(key)
    if {"ge", "gt"} & value.keys() and "pattern" in tidied:
        # Of a duration that may be left out, pydantic hands the bound on as it stands.
        tidied["pattern"] = tidied["pattern"].replace("(?=.*[0-9])", "(?=.*[1-9])")
        tidied["type"] = "string"
        tidied.pop("minimum", None)
        tidied.pop("maximum", None)
    return tidied


def _is_telling(schema: Mapping[str, Any]) -> bool:
    default = schema["default"]
    return default is not None and default != "" and "pattern" not in schema


# The root, and event sources.


def _config(definitions: _Definitions) -> Schema:
    refer = definitions.refer
    body = _host_part(Root)(definitions)
    sources = _or_null(refer("EventSources", _event_sources))
    parts = {
        "mcp": _or_null(refer("Mcp", _mcp)),
        "mcpServers": _table(refer("Client", _client)),
        "eventsources": sources,
        "eventSources": sources,
        "rules": _or_null({"type": "array", "items": refer("Rule", _rule)}),
        "journal": _or_null(refer("Journal", _host_part(Journal))),
        "http": _or_null(refer("Http", _host_part(Http))),
        "log": _or_null(refer("Log", _host_part(Log))),
        "supervision": _or_null(refer("Supervision", _host_part(Supervision))),
    }
    _fill(body, parts)
    return body


def _mcp(definitions: _Definitions) -> Schema:
    body = _host_part(Mcp)(definitions)
    sources = _or_null(definitions.refer("EventSources", _event_sources))
    clients = _table(definitions.refer("Client", _client))
    _fill(body, {"clients": clients, "eventSources": sources, "eventsources": sources})
    return body


def _event_sources(definitions: _Definitions) -> Schema:
    body, entry = _host_part(EventSources)(definitions), definitions.refer("Source", _entry)
    _fill(body, {"sources": _table(entry)})
    # A source may also stand beside these keys.
    body["additionalProperties"] = entry
    return body


def _entry(definitions: _Definitions) -> Schema:
    body = _server(Entry)(definitions)
    _fill(body, {"client": _or_null(definitions.refer("Client", _client)), "type": _TYPE})
    return body


def _client(definitions: _Definitions) -> Schema:
    body = _server(Client)(definitions)
    _fill(body, {"type": _TYPE})
    return body


_TYPE: Final[Schema] = {"enum": [*TYPES, None]}


def _source(definitions: _Definitions) -> Schema:
    body = _server(Server)(definitions)
    body["properties"] = {"$schema": {"type": "string", "description": "For editors."}, **body["properties"]}
    return body


def _server(model: type[Server]) -> Callable[[_Definitions], Schema]:
    """A server's keys; any other is its own."""

    def make(definitions: _Definitions) -> Schema:
        body, options = _host_part(model)(definitions), _host_part(Received)(definitions)
        body["additionalProperties"] = options["additionalProperties"] = True
        _fill(body, {"options": _or_null(options)})
        # To any other type these keys are its own.
        body["if"] = {"properties": {"type": {"const": "sse"}}, "required": ["type"]}
        body["then"] = definitions.refer("Sse", _stream)
        return body

    return make


def _stream(definitions: _Definitions) -> Schema:
    body = _host_part(Sse)(definitions)
    camel = body["properties"]
    body["properties"] = {
        key: camel[info.alias or name] for name, info in Sse.model_fields.items() for key in (name, info.alias or name)
    }
    body["additionalProperties"] = True
    return body


def _host_part(model: type[BaseModel]) -> Callable[[_Definitions], Schema]:
    """An object of the host's own keys, of which each may be null, which means that it is not given."""

    def make(definitions: _Definitions) -> Schema:
        body = definitions.model(model)
        body["properties"] = {name: _or_null(inner) for name, inner in body["properties"].items()}
        body["additionalProperties"] = False
        return body

    return make


def _table(item: Schema) -> Schema:
    return _or_null({"type": "object", "additionalProperties": _or_null(item)})


def _or_null(inner: Schema) -> Schema:
    if not inner.keys() - _NOTES:
        return inner  # anything will do
    if {"type": "null"} in inner.get("anyOf", ()):
        return inner
    notes: Schema = {key: inner[key] for key in inner if key in _NOTES}
    return {"anyOf": [{key: value for key, value in inner.items() if key not in notes}, {"type": "null"}], **notes}


def _fill(body: Schema, parts: Mapping[str, Schema]) -> None:
    """Say of some keys what their models leave open, but keep what they say for people."""
    for name, part in parts.items():
        said = body["properties"].get(name, {})
        body["properties"][name] = part | {key: said[key] for key in said if key in _NOTES}


# Rules.


def _rules(definitions: _Definitions) -> Schema:
    return _list_of(definitions.refer("Rule", _rule), "rules")


def _list_of(item: Schema, key: str) -> Schema:
    items = {"type": "array", "items": item}
    properties = {"$schema": {"type": "string", "description": "For editors."}, key: items}
    whole = {"type": "object", "properties": properties, "required": [key], "additionalProperties": False}
    return {"anyOf": [items, whole]}


def _rule(definitions: _Definitions) -> Schema:
    body = definitions.model(RuleSpec)
    body["description"] = "What happens on which events."
    for model in (TriggerSpec, ShapingSpec):
        body["properties"] |= definitions.model(model)["properties"]
    parts = {
        "match": definitions.refer("Pattern", _pattern),
        "do": definitions.refer("Actions", _actions),
    }
    _fill(body, parts)
    # What is absent is told by a pattern, too.
    _fill(definitions.made(OfSpec), {"match": parts["match"]})
    return body


def _actions(definitions: _Definitions) -> Schema:
    action = definitions.refer("Action", _action)
    return {"anyOf": [action, {"type": "array", "items": action, "minItems": 1}]}


def _action(definitions: _Definitions) -> Schema:
    specs = {kind: definitions.refer(known.spec.__name__, _step(known.spec)) for kind, known in KINDS.items()}
    return {
        "type": "object",
        "description": "One thing to do; its first key says which.",
        "properties": {kind: {"description": _about(known.spec)} for kind, known in KINDS.items()},
        "anyOf": [{"required": [kind]} for kind in KINDS],
        "allOf": [{"if": {"required": [kind]}, "then": spec} for kind, spec in specs.items()],
    }


def _about(spec: type[BaseModel]) -> str:
    return (spec.__doc__ or "").replace(", as it is written.", ".")


def _step(spec: type[BaseModel]) -> Callable[[_Definitions], Schema]:
    def make(definitions: _Definitions) -> Schema:
        body, common = definitions.model(spec), definitions.model(StepSpec)
        body["description"] = _about(spec)
        body["properties"] |= common["properties"]
        actions = definitions.refer("Actions", _actions)
        _fill(body, {"onError": {"anyOf": [{"enum": ["stop", "continue"]}, actions]}})
        return body

    return make


_SCALAR: Final[Schema] = {"type": ["string", "number", "boolean", "null"]}
_TEXT: Final[Schema] = {"type": "string"}


def _pattern(definitions: _Definitions) -> Schema:
    node = definitions.refer("PatternNode", _pattern_node)
    return {
        "type": "object",
        "description": "Values that the event must have, in the language of Amazon EventBridge.",
        "properties": dict.fromkeys(("payload", "metadata", "type", "id", "timestamp"), node)
        | {"$or": definitions.refer("PatternOr", _pattern_or)},
        "additionalProperties": node,
        "minProperties": 1,
    }


def _pattern_or(definitions: _Definitions) -> Schema:
    alternatives = {"type": "array", "minItems": 2, "items": definitions.refer("Pattern", _pattern)}
    return {"description": "Of these patterns one must match.", "anyOf": [alternatives, _values(definitions)]}


def _pattern_node(definitions: _Definitions) -> Schema:
    return {"anyOf": [definitions.refer("Pattern", _pattern), _values(definitions), _SCALAR]}


def _values(definitions: _Definitions) -> Schema:
    operator = definitions.refer("PatternOperator", _pattern_operator)
    return {"type": "array", "minItems": 1, "items": {"anyOf": [_SCALAR, operator]}}


def _pattern_operator(definitions: _Definitions) -> Schema:
    number = {"type": "number"}
    folded = _single({"equals-ignore-case": _TEXT})
    one = {"type": "array", "minItems": 2, "maxItems": 2, "items": [{"enum": ["=", "<", "<=", ">", ">="]}, number]}
    both = {"type": "array", "minItems": 4, "maxItems": 4}
    both["items"] = [{"enum": [">", ">="]}, number, {"enum": ["<", "<="]}, number]
    numeric = {"description": 'A comparison, such as [">", 0, "<=", 5].', "anyOf": [one, both]}
    texts = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}]}
    listed = ("prefix", "suffix", "equals-ignore-case", "wildcard")
    unlike = _single({**dict.fromkeys(listed, texts), "numeric": numeric})
    for name in ("prefix", "suffix"):
        item = {"anyOf": [_TEXT, folded]}
        unlike["properties"][name] = {"anyOf": [*item["anyOf"], {"type": "array", "items": item, "minItems": 1}]}
    values = [_TEXT, number] + [{"type": "array", "items": each, "minItems": 1} for each in (_TEXT, number)]
    return _single(
        {
            "prefix": {"description": "It begins so.", "anyOf": [_TEXT, folded]},
            "suffix": {"description": "It ends so.", "anyOf": [_TEXT, folded]},
            "equals-ignore-case": {"description": "It is this text, whatever the case.", **_TEXT},
            "wildcard": {"description": "* stands for any characters.", **_TEXT},
            "numeric": numeric,
            "anything-but": {"description": "It is none of these.", "anyOf": [*values, unlike]},
            "exists": {"description": "Whether the field is there.", "type": "boolean"},
            "cidr": {"description": "An IP address in this network.", **_TEXT},
            "exactly": {"description": "It is this text.", **_TEXT},
        }
    )


def _single(properties: dict[str, Schema]) -> Schema:
    limits = {"minProperties": 1, "maxProperties": 1, "additionalProperties": False}
    return {"type": "object", "properties": properties, **limits}


# The tests of rules.


def _tests(definitions: _Definitions) -> Schema:
    case = definitions.refer("Case", lambda each: each.model(CaseSpec))
    return {
        "if": {"type": "object", "not": {"required": ["tests"]}},
        "then": case,
        "else": _list_of(case, "tests"),
    }


KINDS_OF_FILES: Final[Mapping[str, tuple[str, Callable[[_Definitions], Schema]]]] = {
    "config": ("An environment of eventhost: config.jsonc", _config),
    "source": ("An event source of eventhost: eventsources/NAME/config.jsonc", _source),
    "rules": ("Rules of eventhost: rules/*.jsonc", _rules),
    "rule-tests": ("Tests of rules of eventhost: rules/tests/*.jsonc", _tests),
}
"""What each kind of file is called, and how its schema is made."""
