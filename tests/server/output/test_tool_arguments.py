"""Argument text becomes the type its schema names, or stays text."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.output.arguments import ToolSchemas, typed

INTEGER, NUMBER, STRING = {"type": "integer"}, {"type": "number"}, {"type": "string"}
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


def _schemas(schema):
    """The schemas of a function `f` whose argument `k` has `schema`."""
    return ToolSchemas([{"function": {"name": "f", "parameters": {"properties": {"k": schema}}}}])


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        ("007", STRING, "007"),
        ("true", STRING, "true"),
        ('{"a": 1}', STRING, '{"a": 1}'),
        ("7", INTEGER, 7),
        (" 7 ", INTEGER, 7),
        ("3.0", INTEGER, 3),
        ("3.5", INTEGER, "3.5"),
        ("007", INTEGER, "007"),
        ("seven", INTEGER, "seven"),
        ("2", NUMBER, 2),
        ("2.5e3", NUMBER, 2500.0),
        ("NaN", NUMBER, "NaN"),
        ("Infinity", NUMBER, "Infinity"),
        ("true", {"type": "boolean"}, True),
        ("False", {"type": "boolean"}, False),
        ("1", {"type": "boolean"}, "1"),
        ("null", {"type": "null"}, None),
        ("null", {"type": ["string", "null"]}, None),
        ("None", {"type": ["string", "null"]}, "None"),
        ("None", {"type": ["integer", "null"]}, None),
        ("5", {"anyOf": [STRING, INTEGER]}, 5),
        ("05", {"anyOf": [STRING, INTEGER]}, "05"),
        ("[1, [2]]", {"type": "array"}, [1, [2]]),
        ("[1, 2", {"type": "array"}, "[1, 2"),
        ('{"a": null}', {"type": "object"}, {"a": None}),
        ("[]", {"type": "object"}, "[]"),
        ("b", {"enum": ["a", "b"]}, "b"),
        ("2", {"enum": [1, 2]}, 2),
        ("2", {"const": "2"}, "2"),
        ("7", {"$ref": "#/$defs/n"}, 7),
        ("7", {"$ref": "#/$defs/loop"}, 7),
        ("7", {"oneOf": [{"properties": {}}, INTEGER]}, 7),
        ("5", None, 5),
        ("word", None, "word"),
        ("5", {}, 5),
        ("", INTEGER, ""),
    ],
)
def test_values_follow_their_schema(text, schema, value):
    root = {"$defs": {"n": INTEGER, "loop": {"$ref": "#/$defs/loop"}}}
    result = typed(text, schema, root)
    assert result == value
    assert type(result) is type(value)


@given(st.text())
def test_a_string_is_never_touched(text):
    assert typed(text, STRING, {}) == text


@given(json_values)
def test_untyped_values_come_back_as_the_template_wrote_them(value):
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    result = typed(text, {"type": ["string", "array", "object", "integer", "boolean", "null"]}, {})
    if isinstance(value, str):
        assert result == text or json.dumps(result, ensure_ascii=False) == text
    else:
        assert result == value


@given(st.text(st.characters()), st.sampled_from([None, STRING, {"type": "object"}]))
def test_a_value_is_always_json(text, schema):
    encoded = _schemas(schema).value_json("f", "k", text)
    assert json.loads(encoded) == typed(text, schema, {})
    encoded.encode()


def test_escaped_lone_surrogates_stay_escaped():
    encoded = _schemas(None).value_json("f", "k", '["é", "\\ud800"]')
    assert encoded == '["é", "\\ud800"]'
    encoded.encode()


@pytest.mark.parametrize("depth", [1, 100, 900, 950, 990, 1000, 2000])
def test_nesting_is_json_at_any_depth(depth):
    text = "[" * depth + "]" * depth
    assert _schemas({"type": "array"}).value_json("f", "k", text) in (text, json.dumps(text))


@pytest.mark.parametrize("text", ["1e400", "-1e999", "[1, 1e400]", '{"a": 1e400}'])
def test_numbers_too_large_for_json_stay_text(text):
    for schema in (NUMBER, INTEGER, None, {"type": "array"}, {"type": "object"}):
        assert _schemas(schema).value_json("f", "k", text) == json.dumps(text)


def test_references_that_lead_everywhere_cost_nothing():
    definitions = {
        f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{j}"} for j in range(20)]} for i in range(20)
    }
    definitions["d7"]["anyOf"].append(INTEGER)
    assert typed("7", {"$ref": "#/$defs/d0"}, {"$defs": definitions}) == 7


@pytest.mark.parametrize(
    ("schema", "only"),
    [
        (STRING, True),
        ({"type": ["string"]}, True),
        ({"enum": ["a", "b"]}, True),
        ({"$ref": "#/$defs/s"}, True),
        ({"anyOf": [STRING, {"const": "x"}]}, True),
        ({"type": ["string", "null"]}, False),
        ({"anyOf": [STRING, INTEGER]}, False),
        ({"enum": ["a", None]}, False),
        (INTEGER, False),
        ({}, False),
        (None, False),
        (True, False),
    ],
)
def test_only_text_is_told_from_what_may_be_more(schema, only):
    function = {"name": "f", "parameters": {"properties": {"k": schema}, "$defs": {"s": STRING}}}
    assert ToolSchemas([{"function": function}]).only_text("f", "k") is only


def test_nesting_beyond_reason_stays_text():
    deep = "[" * 100_000
    assert typed(deep, {"type": "array"}, {}) == deep


def test_tools_without_parameters_and_flat_ones_are_offered():
    assert ToolSchemas([{"type": "function", "function": {"name": "a"}}]).names == ("a",)
    assert ToolSchemas([{"name": "b", "parameters": None}, {"type": "x"}]).names == ("b",)
