"""JSON Schemas of the parts of a request that are checked by hand, for the OpenAPI document.

Knows shapes only; messages, tools, tool_choice and response_format say what is wrong with a value.
"""

from __future__ import annotations

from typing import Any

from server.api.fields import MAX_INT32
from server.api.messages import ROLES, TEXT_PARTS

Json = dict[str, Any]

TEXT_PART: Json = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"enum": list(TEXT_PARTS)}, "text": {"type": "string"}},
}
CONTENT: Json = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": TEXT_PART}, {"type": "null"}]
}
CALL: Json = {
    "type": "object",
    "required": ["function"],
    "properties": {
        "id": {"type": "string"},
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": {"type": "string", "minLength": 1},
                "arguments": {"type": "string"},
            },
        },
    },
}
MESSAGE: Json = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {"enum": list(ROLES)},
        "content": CONTENT,
        "reasoning_content": {"type": ["string", "null"]},
        "tool_calls": {"anyOf": [{"type": "array", "items": CALL}, {"type": "null"}]},
        "tool_call_id": {"type": "string"},
        "name": {"type": "string"},
    },
}
NAME: Json = {"type": "string", "pattern": "^[A-Za-z0-9_.:/-]{1,128}$"}
FUNCTION: Json = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": NAME,
        "description": {"type": ["string", "null"]},
        "parameters": {"type": ["object", "null"]},
        "strict": {"type": ["boolean", "null"]},
    },
}
TOOL: Json = {
    "type": "object",
    "required": ["type", "function"],
    "properties": {"type": {"const": "function"}, "function": FUNCTION},
}
_NAMED: Json = {"type": "object", "required": ["name"], "properties": {"name": NAME}}
_NAMED_TOOL: Json = {
    "type": "object",
    "required": ["type", "function"],
    "properties": {"type": {"const": "function"}, "function": _NAMED},
}
_ALLOWED: Json = {
    "type": "object",
    "required": ["mode", "tools"],
    "properties": {
        "mode": {"enum": ["auto", "required"]},
        "tools": {"type": "array", "items": _NAMED_TOOL},
    },
}
TOOL_CHOICE: Json = {
    "anyOf": [
        {"enum": ["none", "auto", "required", None]},
        _NAMED_TOOL,
        {
            "type": "object",
            "required": ["type", "allowed_tools"],
            "properties": {"type": {"const": "allowed_tools"}, "allowed_tools": _ALLOWED},
        },
    ]
}
FUNCTION_CALL: Json = {"anyOf": [{"enum": ["none", "auto", None]}, _NAMED]}
_SCHEMA_FORMAT: Json = {
    "type": "object",
    "required": ["schema"],
    "properties": {
        "name": {"type": "string"},
        "schema": {"type": "object"},
        "strict": {"type": ["boolean", "null"]},
    },
}
RESPONSE_FORMAT: Json = {
    "anyOf": [
        {"type": "null"},
        {
            "type": "object",
            "required": ["type"],
            "properties": {"type": {"enum": ["text", "json_object"]}},
        },
        {
            "type": "object",
            "required": ["type", "json_schema"],
            "properties": {"type": {"const": "json_schema"}, "json_schema": _SCHEMA_FORMAT},
        },
    ]
}
TOKEN: Json = {"type": "integer", "minimum": 0, "maximum": MAX_INT32}
_TOKENS: Json = {"type": "array", "minItems": 1, "items": TOKEN}
PROMPT: Json = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        _TOKENS,
        {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
        {"type": "array", "minItems": 1, "items": _TOKENS},
    ]
}
EFFORT: Json = {"enum": ["none", "minimal", "low", "medium", "high", "xhigh", "max", None]}
