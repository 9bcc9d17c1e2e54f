"""JSON Schemas as the grammar engine enforces them, or a clear refusal.

Knows the keywords, which of them llguidance enforces, and how to say where another one stands. What
it cannot enforce is refused, never ignored; annotations are no demands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import llguidance

from .grammar_error import GrammarError
from .schema_facts import Schema, exclude

MAX_BYTES = 256 << 10
MAX_NESTING = 64
# Pretty-printed is as good as compact, but white space must end some time.
_WHITESPACE = r"[\x20\x0A\x0D\x09]{1,40}"
_OPTIONS: Any = {"lenient": False, "coerce_one_of": False}

_SCHEMAS = ("items", "additionalProperties", "not", "if", "then", "else", "contains")
_SCHEMAS += ("propertyNames", "unevaluatedItems", "unevaluatedProperties", "additionalItems")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


def schema_grammar(schema: Schema, param: str, *, compact: bool = False) -> str:
    """llguidance's grammar for `schema`. compact: on one line, with ", " and ": ", instead of any
    white space. Raises GrammarError."""
    ready = enforceable(schema, param)
    options: Any = dict(_OPTIONS)
    if compact:
        options |= {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    else:
        options |= {"whitespace_flexible": True, "whitespace_pattern": _WHITESPACE}
    return llguidance.LLMatcher.grammar_from_json_schema(json.dumps(ready), overrides=options)


def enforceable(schema: Schema, param: str) -> Schema:
    """`schema` with each `oneOf` whose branches exclude one another as an `anyOf`, and without
    options for the grammar engine. Raises GrammarError for what is too large or nested too deeply,
    for other `oneOf`s, and for keywords that are not enforced."""
    _check_size(schema, param)
    ready = _prepared(schema, "", schema, param)
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(ready), overrides=_OPTIONS)
    failed, told = llguidance.LLMatcher.validate_grammar_with_warnings(grammar)
    if failed:
        raise GrammarError(_explained(ready, told[0]), param)
    return ready


def _check_size(schema: object, param: str) -> None:
    try:
        size = len(json.dumps(schema))
    except (RecursionError, ValueError) as error:
        raise GrammarError("The schema is nested too deeply.", param) from error
    if size > MAX_BYTES:
        raise GrammarError(f"The schema has {size} bytes; {MAX_BYTES} are allowed.", param)
    level: list[Any] = [schema]
    for _ in range(MAX_NESTING):
        level = [
            item
            for value in level
            if isinstance(value, (dict, list))
            for item in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return
    raise GrammarError(f"The schema is nested deeper than {MAX_NESTING} levels.", param)


def _prepared(schema: Any, path: str, root: Any, param: str) -> Any:
    if not isinstance(schema, Mapping):
        if not isinstance(schema, bool):
            raise GrammarError(f"The schema at {path or '/'} must be an object.", param)
        return schema
    ready = {key: value for key, value in schema.items() if key != "x-guidance"}
    for key in _SCHEMAS:
        if isinstance(ready.get(key), (Mapping, bool)):
            ready[key] = _prepared(ready[key], f"{path}/{key}", root, param)
    for key in _LISTS:
        if isinstance(ready.get(key), list):
            ready[key] = [
                _prepared(item, f"{path}/{key}/{i}", root, param)
                for i, item in enumerate(ready[key])
            ]
    for key in _MAPS:
        if isinstance(ready.get(key), Mapping):
            ready[key] = {
                name: _prepared(item, f"{path}/{key}/{_escaped(name)}", root, param)
                for name, item in ready[key].items()
            }
    if isinstance(ready.get("oneOf"), list):
        _take_one_of(ready, path, root, param)
    return ready


def _take_one_of(schema: dict[str, Any], path: str, root: Any, param: str) -> None:
    branches = schema["oneOf"]
    exclusive = all(exclude(a, b, root) for i, a in enumerate(branches) for b in branches[i + 1 :])
    if not exclusive or "anyOf" in schema:
        raise GrammarError(
            f"The keyword oneOf at {path or '/'} is not supported: nothing shows that only one of "
            "its schemas can match. Give them different types, or a required property with "
            "different constants, or use anyOf.",
            param,
        )
    schema["anyOf"] = schema.pop("oneOf")


def _explained(schema: Schema, told: str) -> str:
    """llguidance's words, with the place of the keyword that they name."""
    told = " ".join(told.split())[:300]
    if unknown := re.match(r"Unimplemented keys: (\[.*?\])", told):
        keyword = json.loads(unknown[1])[0]
        return f"The keyword {keyword} at {place_of(schema, keyword)} is not supported."
    if unknown := re.match(r"Unknown format: (.*)", told):
        place = place_of(schema, "format", unknown[1])
        return (
            f"The keyword format at {place} has the value {unknown[1]!r}, which is not supported."
        )
    if "regex" in told:
        return (
            f"A pattern in the schema is not supported (see {place_of(schema, 'pattern')}): {told}"
        )
    return f"The schema is not supported: {told}"


def place_of(schema: Any, keyword: str, value: Any = None) -> str:
    """The JSON pointer of the first schema that has `keyword`, with `value` where that is given."""
    for path, found in _walk(schema, ""):
        if keyword in found and value in (None, found[keyword]):
            return path or "/"
    return "/"


def _walk(schema: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not isinstance(schema, Mapping):
        return
    yield path, schema
    for key in _SCHEMAS:
        yield from _walk(schema.get(key), f"{path}/{key}")
    for key in _LISTS:
        items = schema.get(key)
        for index, item in enumerate(items if isinstance(items, list) else ()):
            yield from _walk(item, f"{path}/{key}/{index}")
    for key in _MAPS:
        items = schema.get(key)
        for name, item in items.items() if isinstance(items, Mapping) else ():
            yield from _walk(item, f"{path}/{key}/{_escaped(name)}")


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
