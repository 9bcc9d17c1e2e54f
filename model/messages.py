"""A conversation as clients send it, made legal for the chat template.

Knows the roles and fields that the templates of this family accept; renders nothing. Every rule
keeps the messages before it untouched, so that a growing conversation keeps its prefix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_INSTRUCTING = ("system", "developer")
_ROLES = (*_INSTRUCTING, "user", "assistant", "tool")
_THINK_OPEN, _THINK_CLOSE = "<think>", "</think>"


class InvalidPrompt(ValueError):
    """Messages or tools that cannot become a prompt; `param` is the path of the field at fault."""

    def __init__(self, message: str, param: str = "messages") -> None:
        super().__init__(message)
        self.param = param


def legal_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """New messages with the text contents joined, only fields templates know, and instructions
    where a template allows them.

    The system and developer messages that open the conversation become one system message; later
    ones become user turns marked `[system]`, in place. Raises InvalidPrompt.
    """
    return [message for _, message in numbered_messages(messages)]


def numbered_messages(messages: Sequence[Mapping[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """`legal_messages`, each with the index of the message that it, or its beginning, came from."""
    if not messages:
        raise InvalidPrompt("The conversation has no messages.")
    shaped = [_shaped(message, f"messages[{i}]") for i, message in enumerate(messages)]
    opening = 0
    while opening < len(shaped) and shaped[opening]["role"] == "system":
        opening += 1
    head = "\n\n".join(text for m in shaped[:opening] if (text := m["content"].strip()))
    legal: list[tuple[int, dict[str, Any]]] = []
    if head:
        legal.append((0, {"role": "system", "content": head}))
    for index, message in enumerate(shaped[opening:], opening):
        if message["role"] != "system":
            legal.append((index, message))
        elif text := message["content"].strip():
            legal.append((index, {"role": "user", "content": f"[system] {text}"}))
    if legal and legal[0][1]["role"] == "tool":
        raise InvalidPrompt("A conversation cannot begin with a tool message.", "messages[0].role")
    if not any(message["role"] == "user" for _, message in legal):
        raise InvalidPrompt("The conversation needs at least one user message.")
    return legal


def checked_tools(tools: Sequence[Mapping[str, Any]] | None) -> list[Mapping[str, Any]]:
    """The tools as a list, empty for None. Raises InvalidPrompt when one is not an object."""
    for index, tool in enumerate(tools or ()):
        if not isinstance(tool, Mapping):
            raise InvalidPrompt("A tool must be an object.", f"tools[{index}]")
    return list(tools or ())


def _shaped(message: Mapping[str, Any], path: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise InvalidPrompt("A message must be an object.", path)
    role = message.get("role")
    if role not in _ROLES:
        raise InvalidPrompt(f"Unknown role {role!r}: one of {', '.join(_ROLES)}.", f"{path}.role")
    content = _text(message.get("content"), f"{path}.content")
    if role in _INSTRUCTING:
        return {"role": "system", "content": content}
    if role != "assistant":
        return {"role": role, "content": content}
    reasoning = message.get("reasoning_content")
    if reasoning is None:
        reasoning, content = _inline_reasoning(content)
    elif not isinstance(reasoning, str):
        raise InvalidPrompt("Reasoning must be a string.", f"{path}.reasoning_content")
    shaped: dict[str, Any] = {"role": role, "content": content, "reasoning_content": reasoning}
    calls = message.get("tool_calls")
    if calls:
        if not isinstance(calls, Sequence) or isinstance(calls, str):
            raise InvalidPrompt("Tool calls must be an array.", f"{path}.tool_calls")
        shaped["tool_calls"] = [
            _call(call, f"{path}.tool_calls[{i}]") for i, call in enumerate(calls)
        ]
    return shaped


def _text(content: object, path: str) -> str:
    """The text of a content: a string, nothing, or an array of text parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise InvalidPrompt("A content must be a string or an array of parts.", path)
    texts = []
    for index, part in enumerate(content):
        text = part.get("text") if isinstance(part, Mapping) else part
        if not isinstance(text, str):
            raise InvalidPrompt("Only text parts are supported.", f"{path}[{index}]")
        texts.append(text)
    return "".join(texts)


def _inline_reasoning(content: str) -> tuple[str, str]:
    """Reasoning and answer of a content that opens with a think block, as some clients store it."""
    opened = content.lstrip()
    if not opened.startswith(_THINK_OPEN) or _THINK_CLOSE not in opened:
        return "", content
    reasoning, _, answer = opened.removeprefix(_THINK_OPEN).partition(_THINK_CLOSE)
    return reasoning.strip(), answer.lstrip("\n")


def _call(call: object, path: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        raise InvalidPrompt("A tool call must be an object with a function.", path)
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or not name:
        raise InvalidPrompt("A tool call needs the function's name.", f"{path}.function.name")
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise InvalidPrompt("Tool arguments must be an object.", f"{path}.function.arguments")
    return {"type": "function", "function": {"name": name, "arguments": dict(arguments)}}
