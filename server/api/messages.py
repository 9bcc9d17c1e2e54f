"""Wire messages -> the chat template's messages.

Knows OpenAI's roles and content parts and the few shapes clients vary them with; not the
template, nor where it allows a system message: those keep their place here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from server.api.errors import ApiError
from server.api.noise import without_noise

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
TEXT_PARTS = ("text", "input_text", "output_text")

Message = dict[str, Any]


def template_messages(wire: list[Any]) -> list[Message]:
    """`wire` in the template's shape. Raises ApiError naming the message and field at fault."""
    messages = [_message(item, f"messages[{i}]") for i, item in enumerate(wire)]
    return with_a_question(in_the_order_of_calls(messages))


def _message(item: Any, where: str) -> Message:
    if not isinstance(item, Mapping):
        raise ApiError(f"{where} must be an object.", param=where)
    role = item.get("role")
    if role not in ROLES:
        legal = ", ".join(ROLES)
        raise ApiError(
            f"{where}.role must be one of {legal}; got {role!r:.80}.", param=f"{where}.role"
        )
    content = text_of(item.get("content"), f"{where}.content")
    if role in ("system", "developer"):
        return {"role": "system", "content": without_noise(content)}
    if role == "user":
        return {"role": "user", "content": content}
    if role == "assistant":
        return _assistant(item, content, where)
    message: Message = {"role": "tool", "content": content}
    call_id = item.get("tool_call_id")
    if isinstance(call_id, str):
        message["tool_call_id"] = call_id
    return message


def text_of(content: Any, where: str) -> str:
    """Text of a string, null, or list of parts. Raises ApiError for parts that are not text."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ApiError(f"{where} must be a string, a list of parts or null.", param=where)
    return "".join(_part(part, f"{where}[{i}]") for i, part in enumerate(content))


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    text = part.get("text") if kind in TEXT_PARTS else None
    if kind == "refusal":
        text = part.get("refusal")
    if isinstance(text, str):
        return text
    if kind in TEXT_PARTS or kind == "refusal":
        raise ApiError(f"{where} has no text.", param=where)
    raise ApiError(
        f"{where} is of type {kind!r:.80}; this model reads text only.",
        param=where,
        code="unsupported_content",
    )


def _assistant(item: Mapping[str, Any], content: str, where: str) -> Message:
    message: Message = {"role": "assistant", "content": content}
    for name in ("reasoning_content", "reasoning"):
        reasoning = item.get(name)
        if isinstance(reasoning, str) and reasoning:
            message["reasoning_content"] = reasoning
            break
    calls = item.get("tool_calls")
    if calls is not None and not isinstance(calls, list):
        raise ApiError(f"{where}.tool_calls must be a list.", param=f"{where}.tool_calls")
    legacy = item.get("function_call")
    if not calls and legacy is not None:
        calls = [{"function": legacy}]
    if calls:
        message["tool_calls"] = [
            _call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)
        ]
    return message


def _call(call: Any, where: str) -> Message:
    function = call.get("function") if isinstance(call, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str) or not name:
        raise ApiError(f"{where}.function.name must be a non-empty string.", param=where)
    told: Message = {
        "type": "function",
        "function": {"name": name, "arguments": arguments_of(function.get("arguments"))},
    }
    if isinstance(call.get("id"), str):
        told = {"id": call["id"], **told}
    return told


def arguments_of(arguments: Any) -> dict[str, Any]:
    """Arguments as a mapping. A history may hold a call that was cut off: its text is kept."""
    if isinstance(arguments, Mapping):
        return dict(arguments)
    if not isinstance(arguments, str) or not arguments.strip():
        return {}
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"arguments": arguments}


def in_the_order_of_calls(messages: list[Message]) -> list[Message]:
    """`messages` with results that follow each other in the order of the calls they answer, as
    templates pair them by their order only; those of no known call after them, as they came."""
    ordered: list[Message] = []
    results: list[Message] = []
    ranks: dict[str | None, int] = {}

    def rank(result: Message) -> int:
        return ranks.get(result.get("tool_call_id"), len(ranks))

    for message in messages:
        if message["role"] == "tool":
            results.append(message)
            continue
        ordered += [*sorted(results, key=rank), message]
        results = []
        ids = [call.get("id") for call in message.get("tool_calls", ())]
        ranks = {called: place for place, called in enumerate(ids) if called is not None}
    return [*ordered, *sorted(results, key=rank)]


def with_a_question(messages: list[Message]) -> list[Message]:
    """Instructions alone are the question: templates need a user's turn."""
    if messages and all(message["role"] == "system" for message in messages):
        return [*messages[:-1], {**messages[-1], "role": "user"}]
    return messages
