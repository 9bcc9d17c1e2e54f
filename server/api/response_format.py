"""What an answer has to match, in every spelling -> one grammar.

Knows response_format and the names vLLM's and llama.cpp's users know; not what the grammar engine
supports, which says so itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field

from server.api.errors import ApiError
from server.api.fields import SWITCH, Fields, shown
from server.api.wire_shapes import RESPONSE_FORMAT
from server.engine.request import GrammarKind, GrammarSpec

FORMATS = ("text", "json_object", "json_schema")
MAX_TEXT = 262_144
MAX_CHOICES = 1024
MAX_CHOICE = 4096
_STRUCTURED = ("json", "json_object", "regex", "choice", "grammar")
_CHOICES = f"a list of 1 to {MAX_CHOICES} strings, each of 1 to {MAX_CHOICE} characters"
_TEXT = f"a string of 1 to {MAX_TEXT} characters"
_SCHEMA = "a JSON Schema (an object, or a string that holds one)"
# What would change the answer, and is not done here.
_REFUSED = ("structural_tag", "whitespace_pattern")
_REFUSED_SWITCHES = ("disable_any_whitespace", "disable_additional_properties")


class GrammarFields(Fields):
    """Every spelling; at most one of them."""

    response_format: Any = Field(None, json_schema_extra=RESPONSE_FORMAT)
    guided_json: Any = Field(None, description=_SCHEMA)
    guided_regex: Any = Field(None, description=_TEXT)
    guided_choice: Any = Field(None, description=_CHOICES)
    guided_grammar: Any = Field(None, description=_TEXT)
    guided_whitespace_pattern: Any = None
    structured_outputs: dict[str, Any] | None = Field(None, description="an object")
    structural_tag: Any = None
    json_schema: Any = Field(None, description=_SCHEMA)
    grammar: Any = Field(None, description=_TEXT)


def grammar_of(fields: GrammarFields) -> GrammarSpec | None:
    """The one grammar among `fields`, None where there is none. Raises ApiError for a wrong one,
    an unknown kind, and for more than one."""
    for name in ("guided_whitespace_pattern", "structural_tag"):
        if getattr(fields, name) is not None:
            raise _unsupported(name)
    found = [*_response_format(fields.response_format, "response_format"), *_guided(fields)]
    if len(found) > 1:
        given = " and ".join(spec.param for spec in found)
        raise ApiError(f"An answer can follow one grammar only; got {given}.", param=found[1].param)
    return found[0] if found else None


def _guided(fields: GrammarFields) -> Iterator[GrammarSpec]:
    for name in ("json", "regex", "choice", "grammar"):
        yield from _named(name, getattr(fields, f"guided_{name}"), f"guided_{name}")
    yield from _structured(fields.structured_outputs)
    yield from _named("json", fields.json_schema, "json_schema")
    yield from _named("grammar", fields.grammar, "grammar")


def _structured(options: Mapping[str, Any] | None) -> Iterator[GrammarSpec]:
    if options is None:
        return
    for name in _REFUSED:
        if options.get(name) is not None:
            raise _unsupported(f"structured_outputs.{name}")
    for name in _REFUSED_SWITCHES:
        if options.get(name):
            raise _unsupported(f"structured_outputs.{name}")
    for name in _STRUCTURED:
        yield from _named(name, options.get(name), f"structured_outputs.{name}")


def _named(name: str, value: Any, param: str) -> Iterator[GrammarSpec]:
    """The grammar of vLLM's kind `name`; nothing where `value` is null."""
    if value is None:
        return
    if name == "json":
        yield GrammarSpec("json_schema", schema_of(value, param), param)
    elif name == "json_object":
        if not isinstance(value, bool):
            raise ApiError(f"{param} must be {SWITCH}; got {shown(value)}.", param=param)
        if value:
            yield GrammarSpec("json_object", None, param)
    elif name == "choice":
        yield GrammarSpec("choice", _choices(value, param), param)
    else:
        text = _text(value, param)
        yield GrammarSpec("regex" if name == "regex" else grammar_kind(text), text, param)


def _response_format(form: Any, param: str) -> Iterator[GrammarSpec]:
    if form is None:
        return
    kind = form.get("type") if isinstance(form, Mapping) else None
    if kind not in FORMATS:
        legal = ", ".join(FORMATS)
        got = shown(form) if kind is None else shown(kind)
        raise ApiError(f"{param}.type must be one of {legal}; got {got}.", param=param)
    if kind == "json_object":
        if form.get("schema") is not None:  # as llama.cpp has it
            yield from _named("json", form["schema"], f"{param}.schema")
        else:
            yield GrammarSpec("json_object", None, param)
    elif kind == "json_schema":
        place = f"{param}.json_schema"
        inner = form.get("json_schema")
        if not isinstance(inner, Mapping):
            raise ApiError(f"{place} must be an object; got {shown(inner)}.", param=place)
        yield json_schema_format(inner, place)


def json_schema_format(form: Mapping[str, Any], param: str) -> GrammarSpec:
    """What a json_schema format asks for: `form` has name, schema and strict (Responses has them in
    `text.format` itself). Raises ApiError."""
    for key, kind, legal in (("name", str, "a string"), ("strict", bool, SWITCH)):
        value = form.get(key)
        if value is not None and not isinstance(value, kind):
            place = f"{param}.{key}"
            raise ApiError(f"{place} must be {legal}; got {shown(value)}.", param=place)
    place = f"{param}.schema"
    if form.get("schema") is None:
        raise ApiError(f"{place} is required.", param=place, code="missing_required_parameter")
    return GrammarSpec("json_schema", schema_of(form["schema"], place), place)


def schema_of(value: Any, param: str) -> dict[str, Any] | bool:
    """A JSON Schema given as itself or as text. Raises ApiError."""
    schema = value
    if isinstance(value, str):
        try:
            schema = json.loads(value)
        except (ValueError, RecursionError):
            schema = None
    if not isinstance(schema, (dict, bool)):
        raise ApiError(f"{param} must be {_SCHEMA}; got {shown(value)}.", param=param)
    return schema


def grammar_kind(text: str) -> GrammarKind:
    """GBNF defines its rules by `::=`, Lark by a colon."""
    return "gbnf" if "::=" in text else "lark"


def _choices(value: Any, param: str) -> list[str]:
    fits = isinstance(value, list) and 1 <= len(value) <= MAX_CHOICES
    if not fits or any(not isinstance(v, str) or not 1 <= len(v) <= MAX_CHOICE for v in value):
        raise ApiError(f"{param} must be {_CHOICES}; got {shown(value)}.", param=param)
    return list(value)


def _text(value: Any, param: str) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_TEXT:
        raise ApiError(f"{param} must be {_TEXT}; got {shown(value)}.", param=param)
    return value


def _unsupported(param: str) -> ApiError:
    text = f"{param} is not supported; use response_format or structured_outputs with one of "
    return ApiError(f"{text}{', '.join(_STRUCTURED)}.", param=param, code="unsupported_parameter")
