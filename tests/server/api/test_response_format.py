"""Every spelling of what an answer has to match, and one grammar at most."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.engine.request import GrammarSpec

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {}}, "required": ["b"]}
GBNF = 'root ::= "yes" | "no"'
LARK = 'start: "yes" | "no"'


def json_schema(**form):
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, **form}}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize(
    ("fields", "spec"),
    [
        ({"response_format": {"type": "text"}}, None),
        (
            {"response_format": {"type": "json_object"}},
            GrammarSpec("json_object", None, "response_format"),
        ),
        (
            {"response_format": json_schema(strict=True)},
            GrammarSpec("json_schema", SCHEMA, "response_format.json_schema.schema"),
        ),
        (
            {"response_format": json_schema(name=None, strict=None)},
            GrammarSpec("json_schema", SCHEMA, "response_format.json_schema.schema"),
        ),
        (
            {"response_format": {"type": "json_object", "schema": SCHEMA}},
            GrammarSpec("json_schema", SCHEMA, "response_format.schema"),
        ),
        ({"guided_json": SCHEMA}, GrammarSpec("json_schema", SCHEMA, "guided_json")),
        ({"guided_json": json.dumps(SCHEMA)}, GrammarSpec("json_schema", SCHEMA, "guided_json")),
        ({"guided_regex": "[ab]+"}, GrammarSpec("regex", "[ab]+", "guided_regex")),
        ({"guided_choice": ["x", "y"]}, GrammarSpec("choice", ["x", "y"], "guided_choice")),
        ({"guided_grammar": GBNF}, GrammarSpec("gbnf", GBNF, "guided_grammar")),
        ({"guided_grammar": LARK}, GrammarSpec("lark", LARK, "guided_grammar")),
        (
            {"structured_outputs": {"json": SCHEMA}},
            GrammarSpec("json_schema", SCHEMA, "structured_outputs.json"),
        ),
        (
            {"structured_outputs": {"json_object": True, "regex": None}},
            GrammarSpec("json_object", None, "structured_outputs.json_object"),
        ),
        (
            {"structured_outputs": {"regex": "a", "disable_fallback": True}},
            GrammarSpec("regex", "a", "structured_outputs.regex"),
        ),
        (
            {"structured_outputs": {"choice": ["a"]}},
            GrammarSpec("choice", ["a"], "structured_outputs.choice"),
        ),
        (
            {"structured_outputs": {"grammar": LARK}},
            GrammarSpec("lark", LARK, "structured_outputs.grammar"),
        ),
        ({"structured_outputs": {"json_object": False}}, None),
        ({"structured_outputs": {}}, None),
        ({"json_schema": SCHEMA}, GrammarSpec("json_schema", SCHEMA, "json_schema")),
        ({"grammar": GBNF}, GrammarSpec("gbnf", GBNF, "grammar")),
        (
            {"response_format": {"type": "text"}, "grammar": GBNF},
            GrammarSpec("gbnf", GBNF, "grammar"),
        ),
    ],
)
def test_grammar(served, path, fields, spec):
    body = {"messages": [{"role": "user", "content": "x"}], "prompt": "x", **fields}
    response = served.http.post(path, json=body)
    assert response.status_code == 200, response.text
    assert served.engine.requests[-1].grammar == spec


def test_the_order_of_a_schema_stays(served):
    grammar = served.request(response_format=json_schema()).grammar
    assert grammar is not None
    assert list(grammar.value["properties"]) == ["b", "a"]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"response_format": "json"}, "response_format", "one of text, json_object, json_schema"),
        ({"response_format": {}}, "response_format", "one of"),
        ({"response_format": {"type": "xml"}}, "response_format", "got 'xml'"),
        ({"response_format": {"type": "structural_tag"}}, "response_format", "one of"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "an object"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
            "response_format.json_schema.schema",
            "is required",
        ),
        (
            {"response_format": json_schema(schema=[])},
            "response_format.json_schema.schema",
            "a JSON Schema",
        ),
        (
            {"response_format": json_schema(strict="yes")},
            "response_format.json_schema.strict",
            "true, false or null",
        ),
        ({"response_format": json_schema(name=5)}, "response_format.json_schema.name", "a string"),
        ({"guided_json": "{"}, "guided_json", "a JSON Schema"),
        ({"guided_json": 5}, "guided_json", "got 5"),
        ({"guided_regex": ""}, "guided_regex", "a string of 1 to"),
        ({"guided_regex": ["a"]}, "guided_regex", "a list of 1"),
        ({"guided_regex": "a" * 262_145}, "guided_regex", "262144"),
        ({"guided_choice": []}, "guided_choice", "1 to 1024 strings"),
        ({"guided_choice": ["a", ""]}, "guided_choice", "each of 1 to"),
        ({"guided_choice": ["a"] * 1025}, "guided_choice", "got a list of 1025"),
        ({"guided_choice": "ab"}, "guided_choice", "a list"),
        ({"guided_grammar": 1}, "guided_grammar", "got 1"),
        ({"structured_outputs": "x"}, "structured_outputs", "an object"),
        ({"structured_outputs": {"choice": [1]}}, "structured_outputs.choice", "strings"),
        ({"structured_outputs": {"json_object": 1}}, "structured_outputs.json_object", "true"),
        (
            {"structured_outputs": {"structural_tag": "x"}},
            "structured_outputs.structural_tag",
            "not supported",
        ),
        (
            {"structured_outputs": {"json": {}, "disable_any_whitespace": True}},
            "structured_outputs.disable_any_whitespace",
            "not supported",
        ),
        ({"guided_whitespace_pattern": " "}, "guided_whitespace_pattern", "not supported"),
        ({"guided_json": {}, "guided_regex": "a"}, "guided_regex", "guided_json and guided_regex"),
        (
            {"structured_outputs": {"regex": "a", "json": {}}},
            "structured_outputs.regex",
            "one grammar only",
        ),
        (
            {"response_format": {"type": "json_object"}, "grammar": GBNF},
            "grammar",
            "response_format and grammar",
        ),
    ],
)
def test_refused(served, fields, param, words):
    response = served.chat(**fields)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert words in error["message"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["type", "json_schema", "schema", "name", "strict", "regex", "choice"]),
            inner | st.sampled_from(["text", "json_object", "json_schema"]),
            max_size=3,
        )
    ),
    max_leaves=6,
)
NAMES = ["response_format", "guided_json", "guided_choice", "structured_outputs", "grammar"]


@settings(
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=2))
def test_anything_is_a_grammar_or_refused(served, fields):
    response = served.chat(**fields)
    if response.status_code != 200:
        assert response.status_code == 400, response.text
        assert response.json()["error"]["param"].split(".")[0] in fields
