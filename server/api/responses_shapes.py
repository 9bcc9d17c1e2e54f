"""JSON Schemas of the parts of a Responses request that are checked by hand, and the shapes of its
answers, for the OpenAPI document."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from server.api.wire_shapes import NAME

Json = dict[str, Any]

_PART: Json = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {
        "type": {"enum": ["input_text", "output_text", "text"]},
        "text": {"type": "string"},
    },
}
_TEXT: Json = {"anyOf": [{"type": "string"}, {"type": "array", "items": _PART}]}
_MESSAGE: Json = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "type": {"const": "message"},
        "role": {"enum": ["user", "assistant", "system", "developer"]},
        "content": _TEXT,
    },
}
_REASONING: Json = {
    "type": "object",
    "required": ["type", "summary"],
    "properties": {
        "type": {"const": "reasoning"},
        "summary": {"type": "array", "items": {"type": "object"}},
        "encrypted_content": {"type": ["string", "null"]},
    },
}
_CALL: Json = {
    "type": "object",
    "required": ["type", "call_id", "name", "arguments"],
    "properties": {
        "type": {"const": "function_call"},
        "call_id": {"type": "string"},
        "name": NAME,
        "namespace": {"type": ["string", "null"]},
        "arguments": {"type": "string"},
    },
}
_OUTPUT: Json = {
    "type": "object",
    "required": ["type", "call_id", "output"],
    "properties": {
        "type": {"const": "function_call_output"},
        "call_id": {"type": "string"},
        "output": _TEXT,
    },
}
_REFERENCE: Json = {
    "type": "object",
    "required": ["type", "id"],
    "properties": {"type": {"const": "item_reference"}, "id": {"type": "string"}},
}
_ITEMS = [_MESSAGE, _REASONING, _CALL, _OUTPUT, _REFERENCE]
INPUT: Json = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"anyOf": _ITEMS}},
        {"type": "null"},
    ]
}
_FUNCTION: Json = {
    "type": "object",
    "required": ["type", "name"],
    "properties": {
        "type": {"const": "function"},
        "name": NAME,
        "description": {"type": ["string", "null"]},
        "parameters": {"type": ["object", "null"]},
        "strict": {"type": ["boolean", "null"]},
    },
}
_NAMESPACE: Json = {
    "type": "object",
    "required": ["type", "name", "tools"],
    "properties": {
        "type": {"const": "namespace"},
        "name": NAME,
        "tools": {"type": "array", "items": _FUNCTION},
    },
}
TOOLS: Json = {
    "anyOf": [
        {"type": "array", "items": {"anyOf": [_FUNCTION, _NAMESPACE]}},
        {"type": "null"},
    ]
}
_NAMED: Json = {
    "type": "object",
    "required": ["type", "name"],
    "properties": {"type": {"const": "function"}, "name": NAME},
}
CHOICE: Json = {
    "anyOf": [
        {"enum": ["none", "auto", "required", None]},
        _NAMED,
        {
            "type": "object",
            "required": ["type", "mode", "tools"],
            "properties": {
                "type": {"const": "allowed_tools"},
                "mode": {"enum": ["auto", "required"]},
                "tools": {"type": "array", "items": _NAMED},
            },
        },
    ]
}
FORMAT: Json = {
    "anyOf": [
        {"type": "null"},
        {
            "type": "object",
            "required": ["type"],
            "properties": {"type": {"enum": ["text", "json_object"]}},
        },
        {
            "type": "object",
            "required": ["type", "name", "schema"],
            "properties": {
                "type": {"const": "json_schema"},
                "name": {"type": "string"},
                "schema": {"type": "object"},
                "strict": {"type": ["boolean", "null"]},
            },
        },
    ]
}


class _Shape(BaseModel):
    model_config = ConfigDict(extra="allow")


class OutputItem(_Shape):
    id: str
    type: Literal["reasoning", "message", "function_call"]
    status: Literal["in_progress", "completed", "incomplete"]


class ResponseError(_Shape):
    code: str
    message: str


class InputTokensDetails(_Shape):
    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(_Shape):
    reasoning_tokens: int
    thinking_cut: bool


class ResponsesUsage(_Shape):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseAnswer(_Shape):
    """A response; as a stream it comes in named events."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["completed", "incomplete", "failed", "cancelled", "in_progress"]
    error: ResponseError | None
    incomplete_details: dict[str, Any] | None
    model: str
    output: list[OutputItem]
    usage: ResponsesUsage | None
    metadata: dict[str, str]


class ItemList(_Shape):
    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedResponse(_Shape):
    id: str
    object: Literal["response"]
    deleted: Literal[True]


class InputTokens(_Shape):
    object: Literal["response.input_tokens"]
    input_tokens: int
