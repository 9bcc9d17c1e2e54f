"""Every finished answer matches what was asked for: several schemas, written at random by the demo
model, whole and streamed, with a thought and without, in each dialect that takes a schema."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import pytest

from tests.conftest import ServerProcess

TALK = [{"role": "user", "content": "Tell me something."}]
WORD = {"type": "string", "maxLength": 6}
SCHEMAS: dict[str, dict[str, Any]] = {
    "nested": {
        "type": "object",
        "properties": {
            "who": {
                "type": "object",
                "properties": {"name": WORD, "age": {"type": "integer", "minimum": 0}},
                "required": ["name", "age"],
                "additionalProperties": False,
            },
            "größe": {"type": "number", "minimum": 0.5, "maximum": 2.5},
        },
        "required": ["who", "größe"],
        "additionalProperties": False,
    },
    "reference": {
        "type": "object",
        "properties": {"path": {"type": "array", "items": {"$ref": "#/$defs/p"}, "maxItems": 2}},
        "required": ["path"],
        "additionalProperties": False,
        "$defs": {
            "p": {
                "type": "object",
                "properties": {"x": {"enum": [0, 1]}, "y": {"const": "😀"}},
                "required": ["x", "y"],
                "additionalProperties": False,
            }
        },
    },
    "tags": {
        "type": "object",
        "properties": {
            "thought": {"const": "a <think>b</think>"},
            "other": {"enum": ["<tool_call>", "<|im_end|>x"]},
        },
        "required": ["thought", "other"],
        "additionalProperties": False,
    },
    "union": {
        "anyOf": [
            {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
            {"type": "null"},
            {"enum": ["red", "grün", 7]},
        ]
    },
    "told apart": {
        "oneOf": [
            {
                "type": "object",
                "properties": {"kind": {"const": kind}, "n": {"type": "integer", "maximum": 99}},
                "required": ["kind", "n"],
                "additionalProperties": False,
            }
            for kind in ("circle", "square")
        ]
    },
    "texts": {
        "type": "object",
        "properties": {
            "day": {"type": "string", "format": "date"},
            "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
            "id": {"type": "string", "format": "uuid"},
        },
        "required": ["day", "code", "id"],
        "additionalProperties": False,
    },
    "all of": {
        "allOf": [
            {"type": "object", "properties": {"a": WORD}, "required": ["a"]},
            {"properties": {"b": {"type": "integer", "multipleOf": 5, "maximum": 50}}},
        ],
        "required": ["b"],
        "additionalProperties": False,
        "properties": {"a": {}, "b": {}},
    },
    "tuple": {
        "type": "array",
        "prefixItems": [{"type": "integer"}, WORD],
        "items": False,
        "minItems": 2,
    },
    "optional": {
        "type": "object",
        "properties": {name: {"type": ["integer", "null"]} for name in "abc"},
        "patternProperties": {"^x[0-9]$": {"type": "boolean"}},
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def http(live_server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=live_server.url, timeout=120) as client:
        yield client


def answers(http: httpx.Client, path: str, body: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Of each choice the thought, the answer and why it ended."""
    response = http.post(path, json={"seed": 7, "temperature": 1.3, "max_tokens": 500, **body})
    assert response.status_code == 200, response.text
    if not body.get("stream"):
        return [
            (
                choice["message"].get("reasoning_content", ""),
                choice["message"]["content"],
                choice["finish_reason"],
            )
            for choice in response.json()["choices"]
        ]
    told = [["", "", ""] for _ in range(body["n"])]
    for frame in response.text.split("\n\n"):
        if frame.startswith("data: {"):
            for choice in json.loads(frame.removeprefix("data: "))["choices"]:
                one, delta = told[choice["index"]], choice["delta"]
                one[0] += delta.get("reasoning_content") or ""
                one[1] += delta.get("content") or ""
                one[2] = choice["finish_reason"] or one[2]
    return [(thought, text, reason) for thought, text, reason in told]


def checker(schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    known = jsonschema.Draft202012Validator.FORMAT_CHECKER
    return jsonschema.Draft202012Validator(schema, format_checker=known)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("effort", ["none", "minimal"])
@pytest.mark.parametrize("name", SCHEMAS)
def test_chat(http: httpx.Client, name: str, effort: str, stream: bool) -> None:
    schema = SCHEMAS[name]
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    fields = {"response_format": form, "reasoning_effort": effort, "thinking_budget": 12}
    body = {"messages": TALK, "n": 4, "stream": stream, **fields}
    told = answers(http, "/v1/chat/completions", body)
    finished = [text for _, text, reason in told if reason == "stop"]
    assert len(finished) >= 2, told
    for text in finished:
        checker(schema).validate(json.loads(text))
    assert all(bool(thought) is (effort != "none") for thought, _, _ in told)


@pytest.mark.parametrize("stream", [False, True])
def test_any_object(http: httpx.Client, stream: bool) -> None:
    body = {"messages": TALK, "n": 4, "stream": stream, "reasoning_effort": "minimal"}
    fields = {"response_format": {"type": "json_object"}, "thinking_budget": 12, "temperature": 0.5}
    told = answers(http, "/v1/chat/completions", {**body, **fields})
    for _, text, reason in told:
        if reason == "stop":
            assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize("name", SCHEMAS)
def test_completions(http: httpx.Client, name: str) -> None:
    schema = SCHEMAS[name]
    body = {"prompt": "The answer: ", "max_tokens": 500, "temperature": 1.3, "seed": 3, "n": 3}
    response = http.post("/v1/completions", json={**body, "structured_outputs": {"json": schema}})
    assert response.status_code == 200, response.text
    finished = [c["text"] for c in response.json()["choices"] if c["finish_reason"] == "stop"]
    assert finished
    for text in finished:
        checker(schema).validate(json.loads(text))


@pytest.mark.parametrize("thinking", [None, {"type": "enabled", "budget_tokens": 12}])
@pytest.mark.parametrize("name", SCHEMAS)
def test_messages(http: httpx.Client, name: str, thinking: Any) -> None:
    schema = SCHEMAS[name]
    body = {
        "messages": TALK,
        "max_tokens": 500,
        "thinking": thinking,
        "temperature": 1.0,
        "seed": 5,
    }
    form = {"format": {"type": "json_schema", "schema": schema}}
    response = http.post("/v1/messages", json={**body, "output_config": form})
    assert response.status_code == 200, response.text
    message = response.json()
    texts = [block["text"] for block in message["content"] if block["type"] == "text"]
    if message["stop_reason"] == "end_turn":
        checker(schema).validate(json.loads("".join(texts)))


@pytest.mark.parametrize("name", SCHEMAS)
def test_responses(http: httpx.Client, name: str) -> None:
    schema = SCHEMAS[name]
    form = {"type": "json_schema", "name": "x", "schema": schema, "strict": True}
    body = {"input": "Tell me something.", "max_output_tokens": 500, "text": {"format": form}}
    response = http.post("/v1/responses", json={**body, "reasoning": {"effort": "none"}})
    assert response.status_code == 200, response.text
    told = response.json()
    if told["status"] == "completed":
        (item,) = [item for item in told["output"] if item["type"] == "message"]
        checker(schema).validate(json.loads(item["content"][0]["text"]))


AMBIGUOUS = 'start: a "z"\na: a a a | a a | "y"'  # the more is written, the more it can mean


def dead_end(http: httpx.Client, **fields: Any) -> httpx.Response:
    """An answer that writes y until its grammar has too many readings of it."""
    (letter,) = http.post("/tokenize", json={"prompt": "y"}).json()["tokens"]
    body = {
        "messages": TALK,
        "reasoning_effort": "none",
        "logit_bias": {str(letter): 100},
        "structured_outputs": {"grammar": AMBIGUOUS},
        **fields,
    }
    return http.post("/v1/chat/completions", json=body)


def test_a_dead_end_is_an_error_of_its_request(http: httpx.Client) -> None:
    response = dead_end(http)
    assert response.status_code == 500
    error = response.json()["error"]
    assert error["code"] == "grammar_dead_end"
    assert "items" in error["message"]
    assert "\n" not in error["message"]
    streamed = dead_end(http, stream=True)
    frames = [line[6:] for line in streamed.text.split("\n") if line.startswith("data: ")]
    assert json.loads(frames[-1])["error"]["code"] == "grammar_dead_end"
    assert "y" in json.loads(frames[5])["choices"][0]["delta"]["content"]


def test_a_dead_end_is_nobody_elses(live_server: ServerProcess, http: httpx.Client) -> None:
    alone = http.post("/v1/chat/completions", json={"messages": TALK, "temperature": 0}).json()
    said: list[Any] = []

    def beside() -> None:
        with httpx.Client(base_url=live_server.url, timeout=120) as other:
            body = {"messages": TALK, "temperature": 0}
            said.append(other.post("/v1/chat/completions", json=body).json())

    threads = [threading.Thread(target=beside) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert dead_end(http).status_code == 500
    for thread in threads:
        thread.join(60)
    assert [one["choices"] for one in said] == [alone["choices"]] * 3
    assert http.get("/health").json()["status"] == "ok"


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"guided_json": {"type": "array", "uniqueItems": True}}, "guided_json", "uniqueItems"),
        ({"guided_json": False}, "guided_json", "no value"),
        ({"guided_regex": "("}, "guided_regex", "unclosed"),
        ({"structured_outputs": {"grammar": "start: a\na: a"}}, "structured_outputs.grammar", ""),
        ({"grammar": "root ::= missing"}, "grammar", ""),
        ({"guided_choice": ["x" * 4096] * 65}, "guided_choice", "bytes"),
    ],
)
def test_what_cannot_be_enforced_is_a_400_that_names_it(
    http: httpx.Client, fields: dict[str, Any], param: str, words: str
) -> None:
    for path in ("/v1/chat/completions", "/v1/completions"):
        response = http.post(path, json={"messages": TALK, "prompt": "x", **fields})
        assert response.status_code == 400, response.text
        error = response.json()["error"]
        assert error["param"] == param
        assert words in error["message"]


def test_a_strict_tool_is_enforced_or_refused_in_every_dialect(http: httpx.Client) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    function = {"name": "f", "parameters": schema, "strict": True}
    nested = {"type": "function", "function": function}
    flat = {"type": "function", **function}
    own = {"name": "f", "input_schema": schema, "strict": True}
    other = {"type": "web_search_20250305", "name": "web_search"}
    space = {"type": "namespace", "name": "n", "tools": [flat]}
    asked: list[tuple[str, dict[str, Any], str]] = [
        ("/v1/chat/completions", {"tools": [other, nested]}, "tools[1].function.parameters"),
        ("/v1/chat/completions", {"functions": [function]}, "functions[0].parameters"),
        ("/v1/responses", {"tools": [other, flat]}, "tools[1].parameters"),
        ("/v1/responses", {"tools": [other, space]}, "tools[1].tools[0].parameters"),
        ("/v1/messages", {"tools": [other, own]}, "tools[1].input_schema"),
    ]
    for path, offered, place in asked:
        body: dict[str, Any] = {"messages": TALK, "max_tokens": 16}
        if path == "/v1/responses":
            body = {"input": TALK, "max_output_tokens": 16}
        response = http.post(path, json={**body, **offered})
        assert response.status_code == 400, response.text
        error = response.json()["error"]
        assert "uniqueItems" in error["message"]
        assert error.get("param", error["message"].partition(":")[0]) == place
        loose = json.loads(json.dumps(offered).replace('"strict": true', '"strict": false'))
        assert http.post(path, json={**body, **loose}).status_code == 200
