"""A tool's schema as rules for its calls: no more is allowed than what validates, whatever forms
the schema has, and what cannot be enforced is refused where the tool is strict."""

from __future__ import annotations

import json
import logging
import random
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.output.constraint import OutputRules
from server.output.grammars import GrammarError
from tests.server.output.grammar_tools import (
    GRAMMARS,
    accepts,
    call_text,
    calls_in,
    tool,
)

DEFS = {
    "colour": {"type": "string", "enum": ["red", "green", "5"]},
    "small": {"type": "integer", "minimum": 0, "maximum": 9},
    "point": {
        "type": "object",
        "properties": {"x": {"type": "integer"}},
        "required": ["x"],
        "additionalProperties": False,
    },
}
CLOSED = {"type": "object", "additionalProperties": False}


def may_be_called(offered: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any] | None:
    """The arguments as they reach the client; None where the call cannot be written."""
    text = call_text("f", arguments)
    if not accepts(GRAMMARS.compile(OutputRules(False, True, tools=[offered])), text):
        return None
    ((_, told),) = calls_in(f"<tool_call>{text}</tool_call>", [offered])
    return json.loads(told)


leaves = st.sampled_from(
    [
        {"type": "string"},
        {"type": "integer"},
        {"type": "number"},
        {"type": "boolean"},
        {"type": "null"},
        {"type": ["string", "null"]},
        {"type": ["integer", "boolean"], "minimum": 3},
        {"enum": ["5", 10, None, "x"]},
        {"enum": [1, 2, 3], "minimum": 2},
        {"const": "true"},
        {"minLength": 2},
        {"maximum": 7},
        {"pattern": "^[a-z]+$"},
        {"type": "string", "maxLength": 2},
        {"type": "array", "items": {"type": "integer"}, "maxItems": 2},
        {"$ref": "#/$defs/colour"},
        {"$ref": "#/$defs/small"},
        {"$ref": "#/$defs/point"},
        {"$ref": "#/$defs/colour", "maxLength": 3},
        {"items": {"type": "string"}},
        {"properties": {"x": {"type": "integer"}}, "additionalProperties": False},
        True,
        {},
    ]
)
unions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(lambda parts: {"anyOf": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda parts: {"allOf": parts}, st.lists(inner, min_size=1, max_size=2)),
        st.builds(
            lambda base, parts: {**base, "anyOf": parts},
            st.sampled_from([{"type": "string"}, {"type": ["integer", "string"]}, {"minimum": 2}]),
            st.lists(inner, min_size=1, max_size=2),
        ),
    ),
    max_leaves=4,
)
values = st.one_of(
    st.sampled_from(["", "x", "red", "5", "true", "null", "ab", "abc", "10", "[1]", '{"x": 1}']),
    st.integers(-2, 12),
    st.booleans(),
    st.none(),
    st.sampled_from([[], [1, 2], [1, "a"], {"x": 1}, {"x": "y"}, {}, 2.5]),
)


@given(schema=unions, value=values)
@settings(deadline=None, max_examples=300)
def test_whatever_may_be_called_validates(schema: Any, value: Any) -> None:
    parameters = {**CLOSED, "properties": {"k": schema}, "required": ["k"], "$defs": DEFS}
    try:
        told = may_be_called(tool(parameters, strict=True), {"k": value})
    except GrammarError:
        return
    if told is not None:
        jsonschema.validate(told, parameters)


@given(schema=unions, seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=100)
def test_what_validates_may_be_called(schema: Any, seed: int) -> None:
    """In one spelling or another: an untyped "5" is the number."""
    parameters = {**CLOSED, "properties": {"k": schema}, "required": ["k"], "$defs": DEFS}
    value = random.Random(seed).choice(["x", "red", "5", "abc", 2, 5, True, None, [1], {"x": 1}])
    if "type" not in str(schema) or not jsonschema.Draft202012Validator(parameters).is_valid(
        {"k": value}
    ):
        return
    for strict in (True, False):
        try:
            told = may_be_called(tool(parameters, strict=strict), {"k": value})
        except GrammarError:
            continue
        if told is None:
            # Where a schema names no type, those are meant that its keywords are about.
            about = ("minLength", "maximum", "pattern", "minimum", "items", "properties")
            assert any(word in str(schema) for word in about)
        else:
            jsonschema.validate(told, parameters)


def test_pydantics_reference_in_an_all_of_is_bare_text() -> None:
    schema = {"allOf": [{"$ref": "#/$defs/colour"}], "default": "red", "description": "D"}
    offered = tool({"type": "object", "properties": {"k": schema}, "$defs": DEFS})
    assert may_be_called(offered, {"k": "green"}) == {"k": "green"}
    assert may_be_called(offered, {"k": "blue"}) is None


@pytest.mark.parametrize(
    "reference", ["#/properties/first", "#/$defs/colour", "#/%24defs/colour", "#/anyThing/0/it"]
)
def test_references_lead_where_they_led(reference: str) -> None:
    root = {
        "properties": {
            "first": {"enum": ["red"]},
            "k": {"type": "array", "items": {"$ref": reference}},
        },
        "$defs": DEFS,
        "anyThing": [{"it": {"enum": ["red"]}}],
    }
    assert may_be_called(tool(root, strict=True), {"k": ["red"]}) == {"k": ["red"]}
    assert may_be_called(tool(root, strict=True), {"k": ["blue"]}) is None


def test_a_tree_may_refer_to_the_whole_schema() -> None:
    root = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "children": {"type": "array", "items": {"$ref": "#"}},
        },
        "required": ["name"],
        "additionalProperties": False,
    }
    tree = {"name": "a", "children": [{"name": "b", "children": []}]}
    assert may_be_called(tool(root, strict=True), tree) == tree
    assert may_be_called(tool(root, strict=True), {"name": "a", "children": [[]]}) is None


def test_the_whole_schema_may_be_a_reference() -> None:
    root = {"$ref": "#/$defs/point", "$defs": DEFS}
    assert may_be_called(tool(root, strict=True), {"x": 1}) == {"x": 1}
    assert may_be_called(tool(root), {"x": "one"}) is None
    assert may_be_called(tool(root), {"y": 1}) is None
    assert may_be_called(tool(root), {}) is None
    parts = {"allOf": [root, {"properties": {"y": {"type": "null"}}, "required": ["y"]}]}
    assert may_be_called(tool({**parts, "$defs": DEFS}), {"x": 1, "y": None}) is not None
    assert may_be_called(tool({**parts, "$defs": DEFS}), {"x": 1}) is None


@pytest.mark.parametrize(
    "keyword",
    [
        {"anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
        {"oneOf": [{"required": ["a"]}]},
        {"not": {"required": ["a"]}},
        {"if": {"required": ["a"]}, "then": {"required": ["b"]}},
        {"minProperties": 1},
        {"maxProperties": 1},
        {"patternProperties": {"^a": {"type": "integer"}}},
        {"propertyNames": {"maxLength": 3}},
        {"dependentRequired": {"a": ["b"]}},
        {"type": "array"},
        {"required": ["c"], "additionalProperties": False},
        {"properties": {"a b\n": {}}},
        {"properties": {"a": {"format": "password"}}},
        {"properties": {"a": {"type": "string", "not": {"const": "x"}}}},
        {"properties": {"a": {"type": "string", "pattern": "(?=x)"}}},
        {"properties": {"a": {"oneOf": [{"type": "string"}, {"const": "x"}]}}},
        {"properties": {"a": {"$ref": "#/$defs/nothing"}}},
        {"properties": {"a": {"type": "array", "uniqueItems": True}}},
    ],
)
def test_strict_is_all_or_nothing(keyword: dict[str, Any], caplog: Any) -> None:
    root = {"type": "object", "properties": {"a": {"type": "integer"}}, **keyword}
    with pytest.raises(GrammarError, match=r"^f: ") as caught:
        GRAMMARS.compile(OutputRules(False, True, tools=[tool(root, strict=True)]))
    assert caught.value.param == "tools[0].function.parameters"
    with caplog.at_level(logging.WARNING):
        GRAMMARS.compile(OutputRules(False, True, tools=[tool(root)]))
    assert "not enforced" in caplog.text


def test_only_the_keyword_that_is_not_enforced_is_given_up() -> None:
    items = {"type": "array", "items": {"enum": ["x", "y"]}, "uniqueItems": True, "maxItems": 2}
    root = {
        "type": "object",
        "properties": {
            "list": items,
            "file": {"type": "string", "format": "uri-reference", "maxLength": 3},
            "one": {"oneOf": [{"const": "x"}, {"enum": ["x", "y"]}]},
        },
    }
    assert may_be_called(tool(root), {"list": ["x", "x"]}) is not None
    assert may_be_called(tool(root), {"list": ["x", "z"]}) is None
    assert may_be_called(tool(root), {"list": ["x", "x", "y"]}) is None
    assert may_be_called(tool(root), {"file": "a b"}) is not None
    assert may_be_called(tool(root), {"file": "abcd"}) is None
    assert may_be_called(tool(root), {"one": "x"}) is not None
    assert may_be_called(tool(root), {"one": "z"}) is None


def test_what_is_required_but_not_declared_has_to_be_given() -> None:
    root = {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["z"]}
    assert may_be_called(tool(root, strict=True), {"a": None}) is None
    assert may_be_called(tool(root, strict=True), {"z": "any"}) == {"z": "any"}
    typed = {**root, "additionalProperties": {"type": "integer"}}
    assert may_be_called(tool(typed, strict=True), {"z": "any"}) is None
    assert may_be_called(tool(typed, strict=True), {"z": 1, "y": 2}) == {"z": 1, "y": 2}


def test_what_must_not_be_given_cannot_be() -> None:
    root: dict[str, Any] = {"properties": {"a": False}, "additionalProperties": True}
    assert may_be_called(tool(root, strict=True), {"b": 1}) == {"b": 1}
    assert may_be_called(tool(root, strict=True), {"a": 1}) is None
    assert may_be_called(tool({"properties": {"a": False}}), {"a": 1}) is None


@pytest.mark.parametrize("text", ["😀", "größe", "a\x7fb", 'q"\\', "a\nb", "\x01", "</x>", " s "])
def test_any_text_may_be_a_constant(text: str) -> None:
    root = {"properties": {"k": {"enum": [text, "other"]}}}
    assert may_be_called(tool(root, strict=True), {"k": text}) == {"k": text}
    assert may_be_called(tool(root, strict=True), {"k": f"{text}x"}) is None


@pytest.mark.parametrize("key", ["😀", "größe", "a b", 'q"', "a-b.c/d"])
def test_names_of_parameters_may_be_any_text_on_a_line(key: str) -> None:
    root = {"properties": {key: {"type": "integer"}}}
    assert may_be_called(tool(root, strict=True), {key: 1}) == {key: 1}


def test_a_date_is_one_of_the_calendar() -> None:
    root = {"properties": {"k": {"type": "string", "format": "date"}}}
    for day in ("2024-02-29", "2000-02-29", "2023-04-30", "1999-12-31"):
        assert may_be_called(tool(root, strict=True), {"k": day}) == {"k": day}
    for day in ("2023-02-29", "1900-02-29", "2024-02-30", "2024-04-31", "2024-13-01", "2024-1-1"):
        assert may_be_called(tool(root, strict=True), {"k": day}) is None


@pytest.mark.parametrize(
    ("form", "right", "wrong"),
    [
        ("time", "23:59:00Z", "24:00:00Z"),
        ("date-time", "2024-02-29T12:00:00+01:00", "2023-02-29T12:00:00Z"),
        ("duration", "P1Y2M3DT4H5M6S", "P"),
        ("duration", "PT5M", "P5H"),
        ("duration", "P3W", "P3W1D"),
        ("uuid", "00000000-0000-4000-8000-0123456789ab", "00000000000040008000"),
        ("email", "a.b+c@example.org", "a@b@c"),
        ("hostname", "a-b.example", "-a.example"),
        ("ipv4", "255.0.10.1", "256.0.10.1"),
        ("ipv6", "::", ":"),
        ("ipv6", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7"),
        ("ipv6", "fe80::1:2", "fe80::1::2"),
        ("ipv6", "1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:8::"),
        ("uri", "http://a.example/b?c#d", "no uri"),
    ],
)
def test_formats_of_bare_text(form: str, right: str, wrong: str) -> None:
    root = {"properties": {"k": {"type": "string", "format": form}}}
    assert may_be_called(tool(root, strict=True), {"k": right}) == {"k": right}
    assert may_be_called(tool(root, strict=True), {"k": wrong}) is None


def test_many_tools_and_values_cost_one_terminal() -> None:
    root = {"properties": {"k": {"enum": [f"value {i}" for i in range(3000)]}}}
    many = [tool({"properties": {f"p{j}": {} for j in range(9)}}, name=f"f{i}") for i in range(511)]
    many.append(tool({"properties": {f"p{j}": root["properties"]["k"] for j in range(9)}}))
    constraint = GRAMMARS.compile(OutputRules(False, True, tools=many))
    assert accepts(constraint.copy(), call_text("f510", {"p8": "x"}))
    assert accepts(constraint, call_text("f", {"p7": "value 2999", "p0": "value 0"}))


def test_tools_have_a_size() -> None:
    root = {"properties": {"k": {"description": "x" * 1_000_000}}}
    with pytest.raises(GrammarError, match="bytes") as caught:
        GRAMMARS.compile(OutputRules(False, True, tools=[tool(root, name=n) for n in "abc"]))
    assert caught.value.param == "tools"


def test_schemas_that_multiply_are_given_up() -> None:
    branches = [{"anyOf": [{"const": f"{i} {j}"} for j in range(9)]} for i in range(9)]
    twice = {
        f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}, {"$ref": f"#/$defs/d{i + 1}"}]}
        for i in range(30)
    }
    definitions = {**twice, "d30": {"type": "string"}}
    for schema in ({"allOf": branches}, {"$ref": "#/$defs/d0"}):
        root = {"properties": {"k": schema}, "$defs": definitions}
        with pytest.raises(GrammarError, match="too many"):
            may_be_called(tool(root, strict=True), {"k": "x"})
        assert may_be_called(tool(root), {"k": "x"}) == {"k": "x"}
    whole = {"$ref": "#/$defs/d0", "$defs": {**twice, "d30": {"properties": {"k": {}}}}}
    with pytest.raises(GrammarError, match="too many"):
        may_be_called(tool(whole, strict=True), {"k": "x"})
