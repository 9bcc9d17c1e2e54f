"""Whether a JSON Schema allows a value, as far as its plain keywords tell.

What a pattern, a format or a keyword that is not known here says is taken to hold; so is what is
left where a schema leads round and round. Enforces nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .schema_facts import Schema, canonical, resolved, types

# Schemas looked at for one value, and within one another, before the rest is taken to hold.
_STEPS = 4096
_NESTING = 32
_MEASURES: tuple[tuple[str, type | tuple[type, ...], Callable[[Any, Any], bool]], ...] = (
    ("minimum", (int, float), lambda value, bound: value >= bound),
    ("maximum", (int, float), lambda value, bound: value <= bound),
    ("exclusiveMinimum", (int, float), lambda value, bound: value > bound),
    ("exclusiveMaximum", (int, float), lambda value, bound: value < bound),
    ("minLength", str, lambda value, bound: len(value) >= bound),
    ("maxLength", str, lambda value, bound: len(value) <= bound),
    ("minItems", list, lambda value, bound: len(value) >= bound),
    ("maxItems", list, lambda value, bound: len(value) <= bound),
    ("minProperties", dict, lambda value, bound: len(value) >= bound),
    ("maxProperties", dict, lambda value, bound: len(value) <= bound),
)


def allows(schema: Schema | None, value: Any, root: Schema) -> bool:
    """Whether `schema` allows `value`, as JSON reads it. `root` holds what references lead to; None
    allows everything."""
    return _Check(root).allows(schema, value)


def kind_of(value: object) -> str:
    """The JSON type of `value`; a number without a fraction that is a float is a number."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case Mapping():
            return "object"
        case _:
            return "array"


class _Check:
    def __init__(self, root: Schema) -> None:
        self._root = root
        self._left = _STEPS
        self._depth = 0

    def allows(self, schema: Any, value: Any) -> bool:
        self._left -= 1
        if self._left < 0 or self._depth > _NESTING or not isinstance(schema, Mapping):
            return schema is not False
        self._depth += 1
        try:
            return self._allowed(schema, value)
        finally:
            self._depth -= 1

    def _allowed(self, schema: Mapping[str, Any], value: Any) -> bool:
        if "$ref" in schema and not self.allows(resolved(schema, self._root), value):
            return False
        return (
            _of_type(schema, value)
            and _among(schema, value)
            and all(self.allows(part, value) for part in _schemas(schema, "allOf"))
            and self._one_of(_schemas(schema, "anyOf"), value)
            and self._one_of(_schemas(schema, "oneOf"), value)
            and _measures(schema, value)
            and self._parts(schema, value)
        )

    def _one_of(self, schemas: list[Any], value: Any) -> bool:
        return not schemas or any(self.allows(schema, value) for schema in schemas)

    def _parts(self, schema: Mapping[str, Any], value: Any) -> bool:
        if isinstance(value, list):
            first = _schemas(schema, "prefixItems")
            pairs: Iterable[tuple[Any, Any]] = zip(first, value, strict=False)
            rest = schema.get("items")
            return all(self.allows(inner, item) for inner, item in pairs) and (
                isinstance(rest, list)
                or all(self.allows(rest, item) for item in value[len(first) :])
            )
        if not isinstance(value, dict):
            return True
        named = schema.get("properties")
        named = named if isinstance(named, Mapping) else {}
        required = schema.get("required")
        if isinstance(required, list) and any(r not in value for r in required):
            return False
        others = {} if "patternProperties" in schema else schema.get("additionalProperties")
        return all(self.allows(named.get(key, others), item) for key, item in value.items())


def _schemas(schema: Mapping[str, Any], keyword: str) -> list[Any]:
    found = schema.get(keyword)
    return found if isinstance(found, list) else []


def _of_type(schema: Mapping[str, Any], value: Any) -> bool:
    kinds, kind = types(schema), kind_of(value)
    whole = kind == "number" and value.is_integer()
    return not kinds or kind in kinds or (whole and "integer" in kinds)


def _among(schema: Mapping[str, Any], value: Any) -> bool:
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(values, list):
        return True
    told = canonical(value)
    return any(canonical(one) == told for one in values)


def _measures(schema: Mapping[str, Any], value: Any) -> bool:
    if isinstance(value, bool):
        return True
    return all(
        holds(value, schema[keyword])
        for keyword, kinds, holds in _MEASURES
        if isinstance(value, kinds) and type(schema.get(keyword)) in (int, float)
    )
