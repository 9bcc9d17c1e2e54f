"""Whether a schema allows a value: as jsonschema says, where keywords are plain."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.output.schema_values import allows

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 12),
    st.sampled_from([1.0, 2.5]),
    st.sampled_from(["", "a", "1", "abc"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("ab1"), inner, max_size=3)
    ),
    max_leaves=6,
)
kinds = st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])
ROOT = {"$defs": {"small": {"type": "integer", "maximum": 3}, "text": {"type": "string"}}}


def _measured(name: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(lambda bound: {name: bound}, st.integers(0, 3))


plain = st.one_of(
    st.builds(lambda kind: {"type": kind}, st.one_of(kinds, st.lists(kinds, min_size=1))),
    st.builds(lambda found: {"enum": found}, st.lists(values, min_size=1, max_size=3)),
    st.builds(lambda value: {"const": value}, values),
    st.sampled_from([{"$ref": "#/$defs/small"}, {"$ref": "#/$defs/text"}, {}, {"pattern": ""}]),
    *map(_measured, ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")),
    *map(_measured, ("minLength", "maxLength", "minItems", "maxItems")),
    *map(_measured, ("minProperties", "maxProperties")),
)
schemas = st.recursive(
    plain,
    lambda inner: st.one_of(
        st.builds(lambda a, b: {**a, **b}, inner, inner),
        st.builds(lambda parts: {"anyOf": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda parts: {"allOf": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda item: {"items": item}, inner),
        st.builds(lambda first, rest: {"prefixItems": [first], "items": rest}, inner, inner),
        st.builds(
            lambda a, rest, needed: {
                "properties": {"a": a},
                "required": needed,
                "additionalProperties": rest,
            },
            inner,
            st.one_of(st.booleans(), inner),
            st.lists(st.sampled_from("ab")),
        ),
    ),
    max_leaves=6,
)


@given(schema=schemas, value=values)
@settings(deadline=None, max_examples=400)
def test_what_is_allowed_is_what_validates(schema: dict[str, Any], value: Any) -> None:
    root = {**ROOT, "properties": {"k": schema}}
    validator = jsonschema.Draft202012Validator({**schema, **ROOT})
    assert allows(schema, value, root) == validator.is_valid(value)


@pytest.mark.parametrize("value", [1, "x", None, [1]])
def test_what_is_not_known_is_taken_to_hold(value: Any) -> None:
    assert allows({"pattern": "^z$", "format": "date", "not": {}}, value, {})
    assert allows(None, value, {})
    assert allows(True, value, {})
    assert not allows(False, value, {})


def test_schemas_that_lead_everywhere_cost_little() -> None:
    definitions: dict[str, Any] = {
        f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{j}"} for j in range(20)]} for i in range(20)
    }
    assert allows({"$ref": "#/$defs/d0"}, "x", {"$defs": definitions})
