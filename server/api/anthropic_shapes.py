"""JSON Schemas of the parts of Anthropic's requests that are checked by hand, for the OpenAPI
document.

Knows shapes only; blocks, tools and tool_choice say what is wrong with a value.
"""

from __future__ import annotations

from typing import Any

from server.api.effort import EFFORTS
from server.api.wire_shapes import NAME

Json = dict[str, Any]


def _block(kind: str, required: Json, optional: Json | None = None) -> Json:
    return {
        "type": "object",
        "required": ["type", *required],
        "properties": {"type": {"const": kind}, **required, **(optional or {})},
    }


def _or_null(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


def _content(*blocks: Json) -> list[Json]:
    return [{"type": "string"}, {"type": "array", "items": {"anyOf": list(blocks)}}]


_STRING: Json = {"type": "string"}
TEXT = _block("text", {"text": _STRING})
_THINKING = _block("thinking", {"thinking": _STRING}, {"signature": _STRING})
_CALL = _block("tool_use", {"id": _STRING, "name": {"type": "string", "minLength": 1}},
               {"input": _or_null({"type": "object"})})  # fmt: skip
_RESULT = _block(
    "tool_result",
    {"tool_use_id": _STRING},
    {"content": {"anyOf": [*_content(TEXT), {"type": "null"}]}, "is_error": {"type": "boolean"}},
)


def _message(role: str, *blocks: Json) -> Json:
    return {
        "type": "object",
        "required": ["role", "content"],
        "properties": {"role": {"const": role}, "content": {"anyOf": _content(*blocks)}},
    }


MESSAGE: Json = {
    "anyOf": [
        _message("user", TEXT, _RESULT),
        _message("assistant", TEXT, _THINKING, _CALL),
        _message("system", TEXT),
    ]
}
SYSTEM: Json = {"anyOf": [*_content(TEXT), {"type": "null"}]}
TOOL: Json = {
    "type": "object",
    "required": ["name", "input_schema"],
    "properties": {
        "type": {"const": "custom"},
        "name": NAME,
        "description": {"type": ["string", "null"]},
        "input_schema": {"type": "object"},
        "strict": {"type": ["boolean", "null"]},
    },
}
TOOLS: Json = _or_null({"type": "array", "items": TOOL})
_ONE_CALL: Json = {"disable_parallel_tool_use": {"type": ["boolean", "null"]}}
TOOL_CHOICE: Json = {
    "anyOf": [
        {"type": "null"},
        *(_block(kind, {}, _ONE_CALL) for kind in ("auto", "any")),
        _block("none", {}),
        _block("tool", {"name": NAME}, _ONE_CALL),
    ]
}
EFFORT: Json = {"enum": [*EFFORTS, None]}
FORMAT: Json = _or_null(_block("json_schema", {"schema": {"type": "object"}}))
