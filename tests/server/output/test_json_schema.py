"""A schema is enforced as it stands or refused by the name of what is not."""

from __future__ import annotations

from typing import Any

import pytest

from server.engine.request import GrammarSpec
from server.output.constraint import Constraint, OutputRules
from server.output.grammars import GrammarError
from server.output.json_schema import enforceable, without
from tests.server.output.grammar_tools import GRAMMARS, answers

AB = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "additionalProperties": False,
}


def compiled(schema: Any) -> Constraint:
    spec = GrammarSpec("json_schema", schema, "response_format.json_schema.schema")
    return GRAMMARS.compile(OutputRules(False, True, grammar=spec))


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems at /"),
        ({**AB, "dependencies": {"a": ["b"]}}, "dependencies at /"),
        ({**AB, "dependentRequired": {"a": ["b"]}}, "dependentRequired at /"),
        ({**AB, "dependentSchemas": {"a": {"required": ["b"]}}}, "dependentSchemas at /"),
        ({"type": "object", "propertyNames": {"maxLength": 1}}, "propertyNames at /"),
        ({"properties": {"a": {"unevaluatedItems": False}}}, "unevaluatedItems at /properties/a"),
        ({"type": "object", "unevaluatedProperties": False}, "unevaluatedProperties at /"),
        ({"type": "array", "contains": {"const": 1}}, "contains at /"),
        ({"type": "array", "minContains": 2}, "minContains at /"),
        ({"items": {"if": {"minimum": 3}, "then": {"maximum": 5}}}, "if at /items"),
        ({"anyOf": [{"type": "null"}, {"not": {"const": 3}}]}, "not at /anyOf/1"),
        ({"$dynamicRef": "#x"}, r"\$dynamicRef at /"),
        ({"properties": {"a/b": {"$recursiveRef": "#"}}}, r"\$recursiveRef at /properties/a~1b"),
        ({"disallow": "string"}, "disallow at /"),
        ({"extends": {"type": "integer"}}, "extends at /"),
        ({"type": "integer", "divisibleBy": 2}, "divisibleBy at /"),
        ({"properties": {"a": {"required": True}}}, "required at /properties/a"),
        ({"type": "string", "format": "password"}, "format at / has the value 'password'"),
        ({"type": "integer", "maximum": 2**63}, "maximum at /"),
        ({"type": "integer", "minimum": -(10**30)}, "minimum at /"),
        ({"type": "number", "exclusiveMaximum": 1e19}, "exclusiveMaximum at /"),
        ({"type": "object", "minProperties": 2}, "minProperties at /"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf at /"),
        ({"type": "string", "pattern": "(?=a)b"}, "pattern in the schema"),
    ],
)
def test_what_is_not_enforced_is_named(schema: dict[str, Any], named: str) -> None:
    with pytest.raises(GrammarError, match=named) as caught:
        compiled(schema)
    assert caught.value.param == "response_format.json_schema.schema"


@pytest.mark.parametrize("schema", [False, {"enum": []}, {"$ref": "#"}, {"type": []}])
def test_a_schema_that_allows_nothing_is_refused(schema: Any) -> None:
    with pytest.raises(GrammarError):
        compiled(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "uniqueItems": False},
        {"propertyNames": {"type": "string"}, "unevaluatedItems": True},
        {"dependencies": {}, "dependentRequired": {}, "dependentSchemas": {}},
        {"patternProperties": {}, "unevaluatedProperties": {}},
        {"type": "array", "title": "T", "default": 1, "examples": [1], "x-mine": 2, "$id": "a:b"},
        True,
    ],
)
def test_what_demands_nothing_is_passed_over(schema: Any) -> None:
    assert answers(compiled(schema), "[1, 1]")


@pytest.mark.parametrize(
    ("schema", "yes", "no"),
    [
        ({"enum": [1, 2, 3], "minimum": 2}, "2", "1"),
        ({"enum": [1, "a"], "type": "string"}, '"a"', "1"),
        ({"$ref": "#/$defs/c", "minLength": 3, "$defs": {"c": {"type": "string"}}}, '"xyz"', '"x"'),
        ({"$ref": "#x", "$defs": {"q": {"$anchor": "x", "type": "integer"}}}, "1", '"s"'),
        ({"type": "string", "pattern": "^2", "format": "date"}, '"2000-01-01"', '"1999-01-01"'),
        ({"type": "string", "format": "date"}, '"2024-02-29"', '"2023-02-29"'),
        ({"type": "string", "format": "date"}, '"0004-12-31"', '"0000-12-31"'),
        ({"format": "date-time"}, '"2024-02-29T00:00:00Z"', '"1900-02-29T00:00:00Z"'),
        ({"type": "integer", "minimum": -(2**53) + 1, "maximum": 2**53 - 1}, "-5", str(2**53)),
        ({"type": "string", "maxLength": 2}, '"éé"', '"éée"'),
        ({"oneOf": [{"type": "string"}, {"type": "null"}]}, "null", "1"),
        ({**AB, "minProperties": 2, "required": ["a", "b"]}, '{"a": 1, "b": 2}', '{"a": 1}'),
        # A declared key cannot be written twice, nor in another spelling, as an undeclared one.
        ({"properties": {"a": {"type": "integer"}}}, '{"a": 1, "c": "x"}', '{"a": 1, "a": "x"}'),
        ({"properties": {"a": {"type": "integer"}}}, '{"b": "x"}', r'{"\u0061": "x"}'),
        ({"patternProperties": {"^a": {"type": "integer"}}}, '{"ab": 1}', r'{"\u0061b": "x"}'),
    ],
)
def test_keywords_hold_beside_each_other(schema: dict[str, Any], yes: str, no: str) -> None:
    constraint = compiled(schema)
    assert answers(constraint.copy(), yes)
    assert not answers(constraint.copy(), no)


def test_escapes_may_be_written_where_they_hide_nothing() -> None:
    assert answers(compiled({**AB, "properties": {"a": {}}}), r'{"a": "\u001b[0m"}')
    assert answers(compiled({"const": "\x01"}), r'"\u0001"')
    assert answers(compiled({"properties": {"a": {"const": "\x01"}}}), r'{"a": "\u0001"}')


def test_branches_that_a_property_tells_apart_may_be_many() -> None:
    def branch(i: float) -> dict[str, Any]:
        return {"type": "object", "properties": {"t": {"const": i}}, "required": ["t"]}

    many = {"oneOf": [branch(i) for i in range(2000)]}
    assert "anyOf" in enforceable(many, "p")
    twice = {"oneOf": [branch(i) for i in (1, 2, 1.0)]}
    with pytest.raises(GrammarError, match="oneOf"):
        enforceable(twice, "p")


def test_branches_that_must_be_compared_may_not_be_many() -> None:
    def branches(count: int) -> dict[str, Any]:
        # Each pair differs in one of two properties, but no property tells all apart.
        return {
            "oneOf": [
                {
                    "type": "object",
                    "properties": {"x": {"const": i // 2}, "y": {"const": i % 2}},
                    "required": ["x", "y"],
                }
                for i in range(count)
            ]
        }

    assert "anyOf" in enforceable(branches(60), "p")
    with pytest.raises(GrammarError, match="oneOf at /"):
        enforceable(branches(400), "p")


def test_a_keyword_is_taken_out_everywhere_but_from_names() -> None:
    schema = {
        "properties": {"format": {"format": "x"}, "b": {"items": {"format": "y"}}},
        "oneOf": [{"format": "x"}],
    }
    left = without(schema, "format", "x")
    assert left["properties"] == {"format": {}, "b": {"items": {"format": "y"}}}
    assert without(left, "oneOf") == {"properties": left["properties"], "anyOf": [{}]}
