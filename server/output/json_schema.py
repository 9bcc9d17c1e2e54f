"""JSON Schemas as the grammar engine enforces them, or a clear refusal.

Knows the keywords, which of them llguidance enforces, and how to say where another one stands. What
it cannot enforce is refused, never ignored; annotations are no demands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import llguidance

from .grammar_error import GrammarError
from .schema_facts import Schema, exclusive
from .text_formats import DATE

MAX_BYTES = 256 << 10
MAX_NESTING = 64
_PAIRS = 20_000  # of a oneOf's branches compared, in one schema
# Pretty-printed is as good as compact, but white space must end some time.
_WHITESPACE = r"[\x20\x0A\x0D\x09]{1,40}"
_OPTIONS: Any = {"lenient": False, "coerce_one_of": False}
_ESCAPES = 'nrbtf\\"'

_SCHEMAS = ("items", "additionalProperties", "not", "if", "then", "else", "contains")
_SCHEMAS += ("propertyNames", "unevaluatedItems", "unevaluatedProperties", "additionalItems")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_OLD = ("disallow", "extends", "divisibleBy")  # of a draft that the engine does not know
# Values with which a keyword demands nothing.
_IDLE: dict[str, tuple[Any, ...]] = {
    "uniqueItems": (False,),
    "propertyNames": (True, {}, {"type": "string"}),
    "unevaluatedProperties": (True, {}),
    "unevaluatedItems": (True, {}),
    "patternProperties": ({},),
    "dependencies": ({},),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
}
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_MOST = 2**63 - 1


def schema_grammar(schema: Schema, param: str) -> str:
    """llguidance's grammar for `schema`. Raises GrammarError."""
    ready = enforceable(schema, param)
    options: Any = _OPTIONS | {"whitespace_flexible": True, "whitespace_pattern": _WHITESPACE}
    return llguidance.LLMatcher.grammar_from_json_schema(
        json.dumps(ready), overrides=options | spelling(ready)
    )


def spelling(schema: Schema) -> dict[str, Any]:
    """The engine's option for `schema`, where a key that is not declared may be written: it must
    not be spelled with escapes, as it could then be a declared one that escaped its rules. (Unless
    the schema's own constants need them.)"""
    needed = "\\u" in json.dumps(schema, ensure_ascii=False)
    return (
        {"json_allowed_escapes": _ESCAPES} if any(map(_open, _all(schema))) and not needed else {}
    )


def _open(schema: Mapping[str, Any]) -> bool:
    closed = schema.get("additionalProperties") is False
    return not closed and bool(schema.get("properties") or schema.get("patternProperties"))


def idle(schema: Mapping[str, Any], keyword: str) -> bool:
    """Whether `schema` has `keyword` with a value that demands nothing."""
    return keyword in schema and schema[keyword] in _IDLE.get(keyword, ())


def enforceable(schema: Schema, param: str) -> Mapping[str, Any]:
    """`schema` with each `oneOf` whose branches exclude one another as an `anyOf`, and without
    options for the grammar engine. Raises GrammarError for what is too large or nested too deeply,
    for other `oneOf`s, and for keywords that are not enforced."""
    if schema is False:
        raise GrammarError("A schema of false allows no value.", param)
    whole = {} if schema is True else schema
    _check_size(whole, param)
    ready = _Preparation(whole, param).prepared(whole, "")
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(ready), overrides=_OPTIONS)
    failed, told = llguidance.LLMatcher.validate_grammar_with_warnings(grammar)
    if failed:
        raise _refusal(ready, told[0], param)
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


class _Preparation:
    """Of one schema, `root`."""

    def __init__(self, root: Mapping[str, Any], param: str) -> None:
        self._root = root
        self._param = param
        self._pairs = _PAIRS

    def prepared(self, schema: Any, path: str) -> Any:
        if not isinstance(schema, Mapping):
            if not isinstance(schema, bool):
                raise self._wrong("The schema", path, "must be an object")
            return schema
        ready = mapped(schema, lambda inner, place: self.prepared(inner, path + place))
        ready.pop("x-guidance", None)
        self._check(ready, path)
        if isinstance(ready.get("oneOf"), list):
            self._take_one_of(ready, path)
        return ready

    def _check(self, schema: dict[str, Any], path: str) -> None:
        """Refuses what the engine would pass over, or get wrong; takes out what demands nothing."""
        for key in _IDLE:
            if idle(schema, key):
                del schema[key]
        for key in _OLD:
            if key in schema:
                raise self._wrong(f"The keyword {key}", path, "is not supported", key)
        if not isinstance(schema.get("required", []), list):
            text = "must be a list of names"
            raise self._wrong("The keyword required", path, text, "required")
        for key in _BOUNDS:
            bound: Any = schema.get(key)
            if type(bound) in (int, float) and not -_MOST <= bound <= _MOST:
                text = "is beyond 2^63, and not supported"
                raise self._wrong(f"The keyword {key}", path, text, key)
        if schema.get("format") in ("date", "date-time"):
            # The engine takes 29 February for a day of any year, and 0 for a year.
            dated = {"pattern": f"^{DATE}"}
            schema["allOf"] = [*schema.get("allOf", ()), dated]
        least, closed = schema.get("minProperties"), schema.get("additionalProperties") is False
        if isinstance(least, (int, float)) and least > 1 and not closed:
            # An object could be filled with one key again and again.
            text = "above 1 is supported only with additionalProperties false"
            raise self._wrong("The keyword minProperties", path, text, "minProperties")

    def _take_one_of(self, schema: dict[str, Any], path: str) -> None:
        branches = schema["oneOf"]
        self._pairs -= len(branches) * (len(branches) - 1) // 2
        if not exclusive(branches, self._root, pairwise=self._pairs >= 0) or "anyOf" in schema:
            text = (
                "is not supported: nothing shows that only one of its schemas can match. Give them "
                "different types, or a required property with different constants, or use anyOf"
            )
            raise self._wrong("The keyword oneOf", path, text, "oneOf")
        schema["anyOf"] = schema.pop("oneOf")

    def _wrong(self, what: str, path: str, text: str, keyword: str | None = None) -> GrammarError:
        return GrammarError(f"{what} at {path or '/'} {text}.", self._param, keyword=keyword)


_FAILED_RANGE = re.compile(r"(?:integer|float) range: min=(None|Some\(.*?\)), max=(None|Some)")


def _refusal(schema: Schema, told: str, param: str) -> GrammarError:
    """llguidance's words, with the place of the keyword that they name."""
    told = " ".join(told.split())[:300]
    keyword, value = None, None
    text = f"The schema is not supported: {told}"
    if unknown := re.match(r"Unimplemented keys: (\[.*?\])", told):
        keyword = json.loads(unknown[1])[0]
        text = f"The keyword {keyword} at {place_of(schema, keyword)} is not supported."
    elif unknown := re.match(r"Unknown format: (.*)", told):
        keyword, value = "format", unknown[1]
        place = place_of(schema, keyword, value)
        text = f"The keyword format at {place} has the value {value!r}, which is not supported."
    elif bounds := _FAILED_RANGE.search(told):
        names = ("maximum", "exclusiveMaximum") if bounds[2] == "Some" else ()
        names += ("minimum", "exclusiveMinimum") if bounds[1] != "None" else ()
        keyword = next((k for k in names if any(k in s for s in _all(schema))), "minimum")
        place = place_of(schema, keyword)
        text = f"The keyword {keyword} at {place} has a value that is not supported."
    elif "min/maxProperties" in told:
        keyword = "minProperties" if any("minProperties" in s for s in _all(schema)) else ""
        keyword = keyword or "maxProperties"
        text = f"The keyword {keyword} at {place_of(schema, keyword)} is not supported: {told}"
    elif "regex" in told:
        keyword = "pattern"
        text = f"A pattern in the schema is not supported (see {place_of(schema, keyword)}): {told}"
    return GrammarError(text, param, keyword=keyword, value=value)


def without(schema: Any, keyword: str, value: object = None) -> Any:
    """`schema` without `keyword` (where it has `value`, if that is given) in all that it is made
    of; a `oneOf` is an `anyOf` then."""
    if not isinstance(schema, Mapping):
        return schema
    left = mapped(schema, lambda inner, _: without(inner, keyword, value))
    if keyword in left and value in (None, left[keyword]):
        taken = left.pop(keyword)
        if keyword == "oneOf":
            left.setdefault("anyOf", taken)
    return left


def mapped(schema: Mapping[str, Any], made: Callable[[Any, str], Any]) -> dict[str, Any]:
    """`schema` with `made(inner, "/its/place")` for each schema that it is made of."""
    ready = dict(schema)
    for key in _SCHEMAS:
        if isinstance(ready.get(key), (Mapping, bool)):
            ready[key] = made(ready[key], f"/{key}")
    for key in _LISTS:
        if isinstance(ready.get(key), list):
            ready[key] = [made(item, f"/{key}/{i}") for i, item in enumerate(ready[key])]
    for key in _MAPS:
        if isinstance(ready.get(key), Mapping):
            ready[key] = {
                name: made(item, f"/{key}/{_escaped(name)}") for name, item in ready[key].items()
            }
    return ready


def place_of(schema: Any, keyword: str, value: Any = None) -> str:
    """The JSON pointer of the first schema that has `keyword`, with `value` where that is given."""
    for path, found in _walk(schema, ""):
        if keyword in found and value in (None, found[keyword]):
            return path or "/"
    return "/"


def _all(schema: Any) -> Iterator[Mapping[str, Any]]:
    return (found for _, found in _walk(schema, ""))


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
